"What grows with the training set grows as tensors, not as Python objects."
import pytest
from fastnoisy.core.checkpoint import plain
from fastnoisy.core.learner import method_state
from helpers import LR, make, make_dls, methods_in
from settings import VARIANTS, battery

pytestmark = pytest.mark.filterwarnings('ignore')
N = 640

def longest(o):
    "Items of the longest list or dict within `o`"
    if isinstance(o, dict): parts = list(o.values())
    elif isinstance(o, (list, tuple)): parts = o
    else: return 0
    return max([len(parts), *map(longest, parts)])

@pytest.mark.parametrize('method', [*battery(), *VARIANTS])
def test_checkpoints_hold_no_long_lists(method):
    "A million of Python numbers takes a minute and a gigabyte to write and to read; a tensor takes neither"
    if method == 'groups': pytest.skip('its groups are those of 64 samples')
    learn = make(method, dls=make_dls(N, bs=64))
    learn.fit(2, LR)
    states = {cb.name: plain(method_state(cb)) for cb in methods_in(learn)}
    assert states or method not in ('also', 'lilaw')
    assert longest(states) < N//8

"What grows with the training set grows as tensors, not as Python objects."
import pytest, torch
from fastai.data.core import TfmdDL
from fastnoisy.core.checkpoint import plain
from fastnoisy.core.learner import method_state
from fastnoisy.core.sample_ids import with_sample_ids
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

class Far:
    "Ten million samples that are their own ids"
    def __len__(self): return 10_000_000
    def __getitem__(self, i): return torch.tensor(i),0

class Few(TfmdDL):
    "An epoch of eight samples, the last among them"
    ids = [9_999_999, 0, 8_388_609, 5, 9_999_998, 7_654_321, 1, 8_388_608]
    def get_idxs(self): return self.ids
    def __len__(self): return 2

@pytest.mark.parametrize('num_workers', [0, 2])
def test_ids_of_ten_million_samples(num_workers):
    "They are exact, and come with their samples through workers"
    dl = with_sample_ids(Few(Far(), bs=4, num_workers=num_workers, device='cpu'))
    seen = []
    for x,_ in dl:
        assert torch.equal(dl.sample_ids, x) and x.dtype == torch.int64
        seen += x.tolist()
    assert seen == Few.ids

"What grows with the training set grows as tensors, not as Python objects."
import pytest, torch
from fastai.callback.core import Callback
from fastai.data.core import TfmdDL
from torch.utils._python_dispatch import TorchDispatchMode
from fastnoisy.callback.also import ALSOCallback
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

ROWS = {'aten::index_put_', 'aten::_index_put_impl_', 'aten::index_add_', 'aten::index_copy_', 'aten::index_fill_',
        'aten::scatter_', 'aten::scatter_add_'} # of a large tensor they write some rows

class Written(TorchDispatchMode):
    "Numbers that operations write, views and the rows that are written into a table aside"
    numbers = 0
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        res = func(*args, **(kwargs or {}))
        if func._schema.name in ROWS: return res
        for said,o in zip(func._schema.returns, res if isinstance(res, (list, tuple)) else [res]):
            is_view = said.alias_info is not None and not said.alias_info.is_write
            if isinstance(o, torch.Tensor) and not is_view: self.numbers += o.numel()
        return res

class Steps(Callback):
    "Numbers written from one training batch to the next"
    order = -200
    def __init__(self, written): self.written,self.was,self.steps = written,None,[]
    def before_train(self): self.was = None
    def before_batch(self):
        if not self.training: return
        if self.was is not None: self.steps.append(self.written.numbers - self.was)
        self.was = self.written.numbers

def step_size(method, n):
    "Numbers that the smallest step of the second epoch writes: how many samples act is another in each"
    with Written() as written:
        learn = make(method, dls=make_dls(n, bs=64, drop_last=True), cbs=[steps := Steps(written)])
        for cb in methods_in(learn):
            if isinstance(cb, ALSOCallback): cb.horizon = 10 # as by default; with less, epochs as short as these add up after each step
        learn.fit(2, LR)
    return min(steps.steps[len(steps.steps)//2:])

@pytest.mark.slow
@pytest.mark.parametrize('method', [*battery(), *VARIANTS])
def test_a_step_does_not_grow_with_the_training_set(method):
    "What is done now and then, such as adding up ALSO's weights, is not in the smallest"
    if method == 'groups': pytest.skip('its groups are those of 64 samples')
    if method == 'strong': pytest.skip('of the smaller training set it takes no second views')
    small,large = (step_size(method, n) for n in (768, 1536))
    assert large - small < 384

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

"Half precision, channels last, compiled models, and no waiting for the device: every method of the registry."
import csv
from contextlib import contextmanager
from functools import partial
import numpy as np, pytest, torch
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode
from fastai.basics import CrossEntropyLossFlat, Callback, L, Learner
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.progress import ProgressCallback
from fastnoisy.all import *
from fastnoisy.analysis.neighbors import embed
from fastnoisy.core import loaders, sample_ids
from fastnoisy.core.ignored import least_label
from fastnoisy.core.method import SampleCallback
from functorch.compile import make_boxed_func
from helpers import LR, TESTS, linear, make, make_dls, weights_of
from settings import battery, setting

pytestmark = pytest.mark.filterwarnings('ignore:KNNCorrection', 'ignore:BMMFilter', 'ignore:TwoModelConfidence')

@pytest.fixture(params=battery())
def method(request): return request.param

class OnCPU(MixedPrecision):
    "fastai's mixed precision, which knows CUDA only, on the CPU"
    def __init__(self, dtype, scale=2.**10): self.dtype,self.scale,self.skips = dtype,scale,0
    def before_fit(self):
        self.autocast,self.scales = torch.autocast('cpu', dtype=self.dtype),L()
        scaled = self.dtype == torch.float16
        self.learn.scaler = torch.amp.GradScaler('cpu', init_scale=self.scale, growth_interval=1000, enabled=scaled)
    def after_cancel_step(self): self.skips += 1
    after_step = MixedPrecision.after_step

class SeesForward(nn.Identity):
    "Notes the type of what comes by"
    def __init__(self):
        super().__init__()
        self.types = set()
    def forward(self, x):
        self.types.add(x.dtype)
        return x

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision(method, dtype):
    model = linear()
    model[2] = sees = SeesForward()
    learn = make(method, model=model, cbs=[OnCPU(dtype)])
    learn.fit(2, LR)
    assert weights_of(learn.model).isfinite().all() and all(p.dtype == torch.float32 for p in learn.model.parameters())
    for cb in learn.cbs:
        if hasattr(cb, 'to_frame'): assert np.isfinite(cb.to_frame().select_dtypes('number').values).all()
    assert not torch.is_autocast_enabled('cpu') and dtype in sees.types

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_covers_the_meta_step(dtype):
    model = linear()
    model[2] = sees = SeesForward()
    make('lilaw', model=model, cbs=[OnCPU(dtype)]).fit(2, LR)
    assert sees.types == {dtype}

def test_a_skipped_step_is_no_step(method):
    "The first gradients overflow: neither the model nor what else is learnt by gradients moves"
    learn = make(method, cbs=[OnCPU(torch.float16, 2.**100)])
    class Steps(Callback):
        "What each step has moved"
        order = MixedPrecision.order + 50
        def moving(self):
            parts = [weights_of(self.model), *(v.flatten().float() for v in setting(method).moves(self.learn).values())]
            return torch.cat(parts).clone()
        def before_batch(self):
            self.was,self.skipped = self.moving(),False
        def after_cancel_step(self): self.skipped = True
        def after_batch(self):
            if self.training and self.skipped: assert torch.equal(self.was, self.moving())
    learn.fit(2, LR, cbs=Steps())
    assert learn.on_cpu.skips > 1
    assert weights_of(learn.model).isfinite().all()

def test_a_skipped_step_is_no_step_of_lilaw():
    learn = make('lilaw', cbs=[OnCPU(torch.float16, 2.**100)])
    learn.fit(2, LR)
    assert learn.on_cpu.skips > 1 and learn.lilaw.state.n == 8 - learn.on_cpu.skips

def test_autocast_is_closed_after_an_error(method):
    learn = make(method, cbs=[OnCPU(torch.bfloat16)])
    def fail(*args): raise RuntimeError('in the loss')
    loss_func,learn.loss_func = learn.loss_func,fail
    fail.reduction = 'mean'
    with pytest.raises(RuntimeError, match='in the loss'): learn.fit(1)
    assert not torch.is_autocast_enabled('cpu')
    assert torch.autocast_decrement_nesting() == torch.autocast_increment_nesting() - 1 == -1
    learn.loss_func = loss_func
    learn.fit(1)

def test_state_of_a_device_without_64_bit_numbers():
    from types import SimpleNamespace
    from fastnoisy.core.modules import state_device
    def on(device): return SimpleNamespace(parameters=lambda: iter([SimpleNamespace(device=torch.device(device))]))
    assert [state_device(on(o)).type for o in ('cpu', 'cuda', 'mps')] == ['cpu', 'cuda', 'cpu']

def image_learner(method, channels_last):
    dls = make_dls()
    g = torch.Generator().manual_seed(0)
    def images(o): return torch.rand(len(o), 3, 8, 8, generator=g) + o.y[:,None,None,None]/3
    for dl in dls.loaders: dl.dataset.x = images(dl.dataset)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    return make(method, dls, model, cbs=[ChannelsLast()] if channels_last else [])

def test_channels_last(method):
    plain,last = (image_learner(method, o) for o in (False, True))
    for learn in (plain, last): learn.fit(2, LR)
    torch.testing.assert_close(weights_of(last.model), weights_of(plain.model), rtol=1e-3, atol=1e-4)
    assert last.model[0].weight.is_contiguous(memory_format=torch.channels_last)

with open(TESTS/'reference/kernels.csv', newline='') as f:
    GRAPHS = {row['method']: row for row in csv.DictReader(f)}

BACKENDS = ['eager', pytest.param('aot_eager', marks=pytest.mark.slow)]

def assert_compiled_is_plain(make_learner, backend):
    torch._dynamo.reset()
    counters.clear()
    plain,compiled = make_learner(linear()),make_learner(torch.compile(linear(), backend=backend))
    for learn in (plain, compiled): learn.fit(2, LR)
    torch.testing.assert_close(weights_of(compiled.model), weights_of(plain.model), rtol=1e-3, atol=1e-4)
    for a,b in zip(plain.cbs, compiled.cbs):
        if not hasattr(a, 'to_frame'): continue
        expected,got = (o.to_frame().values.astype(float) for o in (a, b))
        np.testing.assert_allclose(got, expected, rtol=1e-2, atol=1e-3)

@pytest.mark.parametrize('backend', BACKENDS)
def test_compiled_model(method, backend):
    "It trains as without, in no more pieces and for no more kinds of passes than reference/kernels.csv says"
    assert_compiled_is_plain(lambda model: make(method, model=model), backend)
    breaks,graphs = counters['graph_break'],counters['stats']['unique_graphs']
    assert sum(breaks.values()) <= int(GRAPHS[method]['breaks']) and graphs <= int(GRAPHS[method]['graphs']), breaks

@pytest.mark.parametrize('backend', BACKENDS)
def test_scores_that_look_into_a_compiled_model(backend):
    def learner(model):
        learn = make('ce', model=model).remove_cb(DynamicsCallback)
        return learn.add_cb(DynamicsCallback(['grand', 'grand_full']))
    assert_compiled_is_plain(learner, backend)

class PretendGraphs:
    """A backend for `torch.compile` that treats memory as CUDA graphs do: what a pass gave is gone when the next step
    begins, with the first forward pass after a backward pass. It counts parameters that have `moved`"""
    def __init__(self):
        self.given,self.is_pending,self.moved = [],False,0
        forward,backward = partial(self.compiler, True),partial(self.compiler, None)
        inference = partial(self.compiler, False)
        self.backend = aot_autograd(fw_compiler=forward, bw_compiler=backward, inference_compiler=inference)

    def compiler(self, has_backward, graph, inputs):
        places = {}
        def run(*args):
            if has_backward is not None and not self.is_pending: self.forget()
            for i,o in enumerate(args):
                is_moved = isinstance(o, nn.Parameter) and places.setdefault(i, o.data_ptr()) != o.data_ptr()
                self.moved += is_moved
            out = graph(*args)
            if has_backward is None: self.is_pending = False
            else: out = self.give(out, has_backward)
            return out
        return make_boxed_func(run)

    def give(self, out, has_backward):
        out = [o.clone() if isinstance(o, torch.Tensor) else o for o in out]
        self.given += [o for o in out if isinstance(o, torch.Tensor) and o.is_floating_point()]
        self.is_pending |= has_backward
        return out

    def forget(self):
        for o in self.given: o.data.fill_(torch.nan)
        self.given.clear()

def in_pretend_graphs(method):
    torch._dynamo.reset()
    graphs = PretendGraphs()
    plain,graphed = make(method),make(method, model=torch.compile(linear(), backend=graphs.backend))
    for learn in (plain, graphed): learn.fit(2, LR)
    torch.testing.assert_close(weights_of(graphed.model), weights_of(plain.model), rtol=1e-3, atol=1e-4)
    return graphs

IN_GRAPHS = [o if o in ('also', 'lilaw', 'divide-mix') else pytest.param(o, marks=pytest.mark.slow) for o in battery()]

@pytest.mark.parametrize('method', IN_GRAPHS)
def test_memory_of_cuda_graphs(method):
    "No method looks at what a pass gave in a later step, and the parameters stay where they are"
    assert in_pretend_graphs(method).moved == 0

@pytest.mark.slow
def test_parameters_of_the_optimistic_mode_move():
    "Nothing goes wrong; but CUDA graphs would be recorded anew, and its page advises against them"
    assert in_pretend_graphs('optimistic').moved > 0

def compiled_in_place(model):
    model.compile(backend='eager')
    return model

@pytest.mark.parametrize('compile', [partial(torch.compile, backend='eager'), compiled_in_place])
def test_embedding_of_a_compiled_model(compile):
    torch._dynamo.reset()
    plain,learn = make('ce'),make('ce', model=compile(linear()))
    for o in (plain, learn): o.fit(1, LR)
    torch.testing.assert_close(embed(learn), embed(plain), rtol=1e-3, atol=1e-4)

def test_a_hook_that_is_not_called_is_said():
    torch._dynamo.reset()
    learn = make('ce', model=torch.compile(linear(), backend='eager'))
    learn.fit(1)
    learn.remove_cb(DynamicsCallback).add_cb(DynamicsCallback('grand'))
    with pytest.raises(TypeError, match='torch.compile had made'): learn.fit(1)
    torch._dynamo.reset()
    learn.fit(1)

class Waits(TorchDispatchMode):
    "Counts what makes the program wait for the device"
    names = '_local_scalar_dense', 'nonzero', 'is_nonzero', 'masked_select', 'unique', '_unique2', 'equal', 'bincount'
    def __init__(self):
        super().__init__()
        self.n,self.on = 0,False
    def __enter__(self):
        self.on = True
        return super().__enter__()
    def __exit__(self, *exc):
        self.on = False
        return super().__exit__(*exc)
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.n += func.overloadpacket.__name__ in self.names
        return func(*args, **(kwargs or {}))

@contextmanager
def waits(monkeypatch):
    count = Waits()
    with monkeypatch.context() as m:
        for name in ('cpu', 'numpy', 'tolist'):
            def counted(self, *args, own=getattr(torch.Tensor, name), **kwargs):
                count.n += count.on
                return own(self, *args, **kwargs)
            m.setattr(torch.Tensor, name, counted)
        m.setattr(torch.Tensor, 'is_cpu', False) # the losses look at the values of targets on a CPU only
        for module in loaders,sample_ids: m.setattr(module, 'least_label', before_sending(count, least_label))
        m.setattr(loaders, 'views_of', before_sending(count, loaders.views_of))
        m.setattr(SampleCallback, 'each_once', property(before_sending(count, SampleCallback.each_once.fget)))
        yield count

def before_sending(count, f):
    "`f` looks at a batch, or at its ids, that are not on the device yet; tests/device shows that they are not"
    def quiet(*args):
        n = count.n
        res = f(*args)
        count.n = n
        return res
    return quiet

class InSteps(Callback):
    "Counts within the training batches of the last epoch"
    order,run_valid = -1000,False
    def __init__(self, count): self.count = count
    def before_batch(self):
        self.on = self.epoch == self.n_epoch - 1
        if self.on: self.count.__enter__()
    def after_backward(self): self._leave() # fastai's optimizer reads its numbers one by one
    def _leave(self):
        if self.on: self.count.__exit__(None, None, None)
        self.on = False

def test_no_waiting_for_the_device(method, monkeypatch):
    with waits(monkeypatch) as count:
        learn = make(method)
        calls = []
        learn.fit(2, LR, cbs=InSteps(count))
    assert count.n == 0, f'{count.n} times in 4 steps'

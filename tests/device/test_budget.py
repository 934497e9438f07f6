"""What each method adds to a training step on a GPU, counted on the pretend device: kernels to start, and waits of the
host for the device. What a method may add is in reference/kernels.csv: kernels; no wait, but for the one by which
PyTorch's loss scaler finds out whether the step of a second network is to be skipped (fp16 alone)."""
import csv
from collections import Counter
from functools import partial
import pytest, torch
from torch import nn
from fastai.basics import Callback, CrossEntropyLossFlat, L, Learner, OptimWrapper
from fastai.callback.progress import ProgressCallback
from fastnoisy.all import *
from fastnoisy.callback.pes import PESCallback
from helpers import LR, TESTS, make_dls, methods_of
from on_device import DEVICE, KIND, Half, dls_on
from pretend import Meter
from settings import SETTINGS, confidence, early, knn, lilaw, m_correction, setting

pytestmark = [pytest.mark.filterwarnings('ignore'),
              pytest.mark.skipif(KIND != 'pretend', reason='kernels are counted on the pretend device')]

with open(TESTS/'reference/kernels.csv', newline='') as f:
    BUDGET = {row['method']: row for row in csv.DictReader(f)}

class Steps(Callback):
    "Kernels and waits from one batch to the next, for the steps in the middle of an epoch"
    order = -200
    def __init__(self, meter): self.meter,self.steps,self.was = meter,[],None
    def before_train(self): self.was = None
    def before_batch(self):
        if not self.training: return
        now = self.meter.kernels,self.meter.waits.copy(),self.meter.lines.copy()
        if self.was is not None: self.steps.append(tuple(a - b for a,b in zip(now, self.was)))
        self.was = now

def cnn():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8),
                         nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))

def images():
    dls = make_dls(768, 64) # more samples than those with which ALSO adds up all weights after each step
    for dl in dls.loaders: dl.dataset.x = dl.dataset.x.repeat(1, 16).view(-1, 1, 8, 8)
    return dls_on(DEVICE, dls)

OPTIONS = {
    'plain': lambda: {},
    'core': lambda: dict(cbs=MethodCallback()),
    # as it is by default, and not as in so short a training that all weights are added up after each step
    'also': lambda: dict(cbs=ALSOCallback()),
    'also+bmm': lambda: dict(cbs=[ALSOCallback(), early(BMMFilterCallback, 'also', 'drop')]),
    'also+knn': lambda: dict(cbs=[ALSOCallback(), knn()]),
    # the threshold is one that divides the losses of this network: the methods act
    'divide-mix': lambda: dict(cbs=DivideMixCallback(warmup=1, by=1.1)),
    'm-correction': lambda: dict(cbs=m_correction(by=1.1)),
    'pes': lambda: dict(cbs=early(PESCallback, stages=(), min_per_class=230)), # most samples are used: there are steps to look at
    'optimistic': lambda: dict(cbs=ALSOCallback(mode='optimistic')),
    'hypergradient:head': lambda: dict(cbs=lilaw(meta='hypergradient', meta_of='head')),
    'hypergradient:all': lambda: dict(cbs=lilaw(meta='hypergradient')),
    'shifts': lambda: dict(cbs=confidence(view=None)),
    'dynamics': lambda: dict(cbs=DynamicsCallback()),
    'gradients': lambda: dict(cbs=DynamicsCallback('grand')),
}
def made(method): return OPTIONS[method]() if method in OPTIONS else setting(method).make()

def steps_of(method, half=None, **kwargs):
    "Kernels of a step, its waits and the lines that started the kernels: the median of the last epoch's steps"
    options = {'loss_func': CrossEntropyLossFlat(), **made(method), **kwargs}
    cbs,meter = L(options.pop('cbs', None)),Meter()
    steps = Steps(meter)
    cbs += L(None if half is None else Half(half)) + L(steps)
    dls = images()
    if method == 'oracle': dls = setting(method).data(dls)
    learn = Learner(dls, cnn().to(DEVICE), cbs=cbs, **options)
    learn.remove_cbs(ProgressCallback)
    learn.logger = lambda *_: None
    learn.fit(1, LR)
    with meter: learn.fit(2, LR)
    each = sorted(steps.steps, key=lambda o: (sum(o[1].values()), o[0]))
    return each[len(each)//2]

def kinds(waits):
    "How often the host waits, and why"
    res = Counter()
    for k,n in waits.items(): res[k.split(':')[0]] += n
    return res

@pytest.fixture(scope='module')
def plain(): return {o: steps_of('plain', o) for o in (None, torch.float16)}

QUICK = 'core', 'also', 'lilaw'
REST = [o for o in {**SETTINGS, **OPTIONS} if o not in (*QUICK, 'plain')]

@pytest.mark.parametrize('method', [*QUICK, *(pytest.param(o, marks=pytest.mark.slow) for o in REST)])
def test_kernels_and_waits(method, plain):
    kernels,waits,lines = steps_of(method)
    assert not kinds(waits) - kinds(plain[None][1]), waits
    extra = kernels - plain[None][0]
    assert extra <= int(BUDGET[method]['kernels']), f'{extra} kernels: {lines.most_common(12)}'

@pytest.mark.parametrize('method', SETTINGS)
def test_waits_in_half_precision(method, plain):
    waits = steps_of(method, torch.float16)[1]
    extra = kinds(waits) - kinds(plain[torch.float16][1])
    assert extra == +Counter({'_local_scalar_dense': int(BUDGET[method]['waits_fp16'])}), waits

def test_a_fused_optimizer_of_a_peer_does_not_wait():
    "PyTorch's own tell the device to skip a step, so there is nothing to wait for"
    fused = partial(OptimWrapper, opt=partial(torch.optim.AdamW, fused=True))
    plain,two = (steps_of(o, torch.float16, opt_func=fused)[1] for o in ('plain', 'co-teaching'))
    assert not kinds(two) - kinds(plain), two

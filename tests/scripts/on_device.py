"""The device of the tests in tests/device, and Learners on it: CUDA where it is there. With the environment variable
FASTNOISY_DEVICE=pretend it is the pretend device, which is for a process of its own (see tests/test_device.py)."""
import os
import torch
from fastai.basics import L
from fastai.callback.fp16 import MixedPrecision
import pretend
from helpers import LR, linear, make, make_dls

KIND = os.environ.get('FASTNOISY_DEVICE') or ('cuda' if torch.cuda.is_available() else 'none')
DEVICE = pretend.device() if KIND == 'pretend' else None if KIND == 'none' else torch.device(KIND, 0)
IS_EXACT = KIND == 'pretend' # it computes as the CPU does

class Half(MixedPrecision):
    "fastai's mixed precision, which knows CUDA only, on any device"
    name = 'mixed_precision'
    def __init__(self, dtype, scale=2.**10): self.dtype,self.scale = dtype,scale
    def before_fit(self):
        kind,scaled = DEVICE.type,self.dtype == torch.float16
        self.autocast,self.scales = torch.autocast(kind, dtype=self.dtype),L()
        self.learn.scaler = torch.amp.GradScaler(kind, init_scale=self.scale, growth_interval=1000, enabled=scaled)

def dls_on(device, dls=None, **kwargs):
    "`make_dls`, whose batches go to `device`"
    dls = dls or make_dls(**kwargs)
    dls.device = torch.device(device)
    return dls

def make_on(device, method, path='.', dls=None, model=None, cbs=(), seed=1, **kwargs):
    "A Learner with a method, whose model is on `device`"
    torch.manual_seed(seed)
    learn = make(method, dls_on(device, dls, **kwargs), linear() if model is None else model, cbs=cbs, path=path)
    learn.model.to(device)
    return learn

def fitted_on(device, method, n=2, **kwargs):
    learn = make_on(device, method, **kwargs)
    learn.fit(n, LR)
    return learn

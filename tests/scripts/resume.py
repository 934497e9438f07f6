"""Run by test_resume.py: train every method in a process that is killed in the middle of its third epoch.
`python resume.py OUT` leaves OUT/METHOD/models/model_1.pth, the last whole checkpoint of each, and what was being written when the process died."""
import os, signal, sys
from pathlib import Path
import numpy as np, torch
from torch import nn
from fastai.basics import Callback, CrossEntropyLossFlat, L, Learner, set_seed
from fastai.callback.progress import ProgressCallback
from fastai.callback.tracker import SaveModelCallback
from fastnoisy.all import *
from fastnoisy.core.method import SampleCallback
from helpers import battery
from several import MORE, make_dls

STOP = 2

def make_learner(method, path, seed):
    set_seed(seed)
    dls = make_dls(bs=32)
    dls.train.rng.seed(seed)
    kwargs = {'loss_func': CrossEntropyLossFlat(), **(MORE[method] if method in MORE else METHODS[method].make)()}
    cbs = L(kwargs.pop('cbs', None)) + DynamicsCallback() + SampleCallback()
    for cb in cbs:
        if hasattr(cb, 'every'): cb.warmup = 2
        if hasattr(cb, 'agreement'): cb.k,cb.agreement,cb.threshold = 5,.5,0.
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(.3), nn.Linear(16, 10))
    learn = Learner(dls, model, cbs=cbs, path=path, **kwargs)
    learn.remove_cbs(ProgressCallback)
    learn.logger = lambda *_: None
    return learn

def fit(learn, cbs=None, start_epoch=0):
    learn.fit_one_cycle(4, 1e-2, cbs=[SaveModelCallback(every_epoch=True, with_opt=True), *L(cbs)], start_epoch=start_epoch)
    return learn

class At(Callback):
    "Call `f` in the middle of epoch `STOP`"
    def __init__(self, f): self.f = f
    def before_step(self):
        if self.epoch == STOP and self.iter == 2: self.f()

class DiesWriting(Callback):
    "The process is killed when it has written half of a checkpoint"
    order = 70 # after SaveModelCallback
    def after_epoch(self):
        if self.epoch == STOP - 1:
            save = torch.save
            def half(state, file, **kwargs):
                Path(file).write_bytes(b'half of it')
                os.kill(os.getpid(), signal.SIGKILL)
            torch.save = half
            self.learn.save(f'model_{self.epoch}')

def killed_child(f):
    pid = os.fork()
    if pid == 0:
        f()
        os._exit(1) # not reached
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL

if __name__ == '__main__':
    torch.set_num_threads(1)
    for method in [*battery(), *MORE]:
        path = Path(sys.argv[1])/method
        killed_child(lambda: fit(make_learner(method, path, 1), At(lambda: os.kill(os.getpid(), signal.SIGKILL))))
    killed_child(lambda: fit(make_learner('also', Path(sys.argv[1])/'writing', 1), DiesWriting()))

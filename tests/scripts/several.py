"""What each of the processes started by test_distributed.py runs: train every method, note what it knows.
`torchrun ... several.py OUT [METHOD ...]` writes OUT/RANK.pth."""
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path
import torch
from fastai.basics import Callback, CrossEntropyLossFlat, Learner, rank_distrib, num_distrib, set_seed
from fastai.callback.progress import ProgressCallback
from fastai.distributed import *
from fastnoisy.all import *
from fastnoisy.core import sample_ids as ids
from fastnoisy.core.method import MethodCallback
from helpers import LR, linear, make, make_dls, methods_in, states, weights_of
from settings import VARIANTS, battery, confidence, early, knn, setting

BS,EPOCHS = 8,2 # BS: of each process

def numbers(column):
    "A column of a frame; words by their place in the alphabet"
    return (column if column.dtype.kind in 'biuf' else column.rank(method='dense')).astype(float)

class Noted(Callback):
    """After each epoch, what the methods keep (`kept`) and what they say (`said`). What was fitted to numbers that
    do not determine it is not in `kept`: the numbers are"""
    order = 80
    def __init__(self, setting): self.setting = setting
    def before_fit(self): self.kept,self.said = [],[]
    def after_epoch(self):
        learn = self.learn
        kept = dict(states(learn), model=weights_of(learn.model).clone(), **self.setting.inputs(learn))
        if not self.setting.settled(learn): kept = {k: v for k,v in kept.items() if not k.startswith('bmm.')}
        self.kept.append({k: v for k,v in kept.items() if isinstance(v, torch.Tensor)})
        frames = {cb.name: cb.to_frame() for cb in methods_in(learn) if hasattr(cb, 'to_frame')}
        self.said.append({k: torch.tensor(v.apply(numbers).values) for k,v in frames.items()})

def learner_of(method, dls): return make(method, dls, linear(slope=.1), cbs=[Noted(setting(method))])

def train(method, world, dls=None, epochs=EPOCHS):
    "The Learner, with what `Noted` has seen; one process has batches as large as those of `world` processes together"
    dls = dls or make_dls(bs=BS*world)
    set_seed(5)
    dls.train.rng.seed(5) # an order with which the mixtures are clear
    learn = learner_of(method, dls)
    if num_distrib() > 1:
        with learn.distrib_ctx(sync_bn=False, cpu=True): learn.fit(epochs, LR)
    else: learn.fit(epochs, LR)
    return learn

@contextmanager
def as_divided(world):
    "One process gets its samples in the order of `world` processes: of each batch the first part, the second, ..."
    own = vars(ids._TaggedDL)['get_idxs']
    def get_idxs(self):
        order = list(own.f(self))
        parts = [order[i*len(order)//world:(i+1)*len(order)//world] for i in range(world)]
        return [o for start in range(0, len(order), BS) for part in parts for o in part[start:start+BS]]
    ids._TaggedDL.get_idxs = get_idxs
    try: yield
    finally: ids._TaggedDL.get_idxs = own

def odd():
    "61 samples cannot be shared out evenly"
    learn = train('also+knn', 1, make_dls(61, BS), 2)
    report = learn.noise_report().drop(columns='item')
    return dict(seen=torch.tensor(learn.dynamics.to_frame().seen), weights=learn.also.pi.all(), report=report.to_csv())

def with_norm():
    "BatchNorm's statistics are those of a part of the batch; what is made of them is the same all the same"
    cbs = [confidence(jsd=0), early(BMMFilterCallback, 'loss'), knn(action='filter'), Noted(setting('confidence'))]
    learn = Learner(make_dls(bs=BS), linear(norm=True), loss_func=CrossEntropyLossFlat(), cbs=cbs)
    learn.remove_cbs(ProgressCallback)
    with learn.distrib_ctx(sync_bn=False, cpu=True): learn.fit(2, LR)
    return learn.noted.kept, learn.noted.said

class Reports(Callback):
    "Asks for the report within the fit: in the middle of an epoch, between training and validation, after it"
    def __init__(self): self.said = []
    def ask(self): self.said.append(self.learn.noise_report().drop(columns='item').to_csv())
    def after_batch(self):
        if self.training and self.iter == 1: self.ask()
    def before_validate(self): self.ask()
    def after_epoch(self): self.ask()

def reports():
    "A report within a fit is that of all processes, and none waits for another"
    learn = make('also+bmm', make_dls(61, BS), cbs=[Reports()])
    with learn.distrib_ctx(sync_bn=False, cpu=True): learn.fit(3, LR)
    return learn.reports.said

def refused():
    "What the errors say"
    def message(f, *args):
        try: f(*args)
        except Exception as e: return str(e)
    def fit(n, in_distrib=True, with_lr_find=False):
        learn = learner_of('also', make_dls(n, BS))
        if not in_distrib: return learn.fit(1)
        with learn.distrib_ctx(sync_bn=False, cpu=True):
            if with_lr_find: learn.lr_find(show_plot=False)
            else: learn.fit(1)
    return [message(fit, 60 + rank_distrib()), message(fit, 60, False), message(fit, 60, True, True)]

class Dies(Callback):
    "Process 1 is killed in the second epoch"
    def before_train(self):
        if self.epoch == 1 and rank_distrib() == 1: os.kill(os.getpid(), signal.SIGKILL)

def main(out, methods):
    res = {}
    for m in methods:
        noted = train(m, 1).noted
        res[m] = noted.kept,noted.said
    if num_distrib() == 2: res.update(odd=odd(), norm=with_norm(), reports=reports(), refused=refused())
    torch.save(res, Path(out)/f'{rank_distrib()}.pth')
    if num_distrib() == 4:
        learn = learner_of('also', make_dls(bs=BS))
        with learn.distrib_ctx(sync_bn=False, cpu=True): learn.fit(1000, cbs=Dies())

if __name__ == '__main__':
    torch.set_num_threads(1)
    main(sys.argv[1], sys.argv[2:] or [o for o in (*battery(), *VARIANTS) if setting(o).processes])

"""What each of the processes started by test_distributed.py runs: train every method, and note what it knows after each epoch.
`torchrun ... several.py OUT [METHOD ...]` writes OUT/RANK.pth."""
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path
import numpy as np, torch
from torch import nn
from fastai.basics import Callback, CrossEntropyLossFlat, L, Learner, rank_distrib, num_distrib, set_seed
from fastai.callback.progress import ProgressCallback
from fastai.distributed import *
from helpers import battery
from fastnoisy.core import sample_ids as ids
from fastnoisy.all import *
from fastnoisy.data.digits import digits_splits
from fastnoisy.data.arrays import array_dls

N,BS,EPOCHS = 160,16,3 # BS: of each process

def make_dls(n=N, bs=BS):
    train,valid,_ = digits_splits()
    dls = array_dls((train[0][:n], train[1][:n]), (valid[0][:64], valid[1][:64]), noise=.3, bs=bs, rgb=False, device='cpu', num_workers=0)
    dls.train.drop_last = False
    dls.train.rng.seed(3)
    return dls

def make_model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))

def flipped(x): return x.flip(-1)
def two_groups(learn): return np.r_[np.linspace(.05, .2, 120), np.linspace(.8, .95, 40)] # 120 of 160 samples are kept

MORE = {'drop': lambda: dict(cbs=BMMFilterCallback(two_groups, 'drop', min_kept=0, recheck=0)),
        'weight': lambda: dict(cbs=BMMFilterCallback(two_groups, 'weight')),
        'loss': lambda: dict(cbs=BMMFilterCallback('loss')),
        'groups': lambda: dict(cbs=ALSOCallback(groups=np.arange(N) % 7)),
        'optimistic': lambda: dict(cbs=ALSOCallback(mode='optimistic')),
        'distillation': lambda: dict(cbs=TwoModelConfidenceCallback(penalty_kind='distillation', penalty=1., track=True)),
        'filter': lambda: dict(cbs=KNNCorrectionCallback(action='filter')),
        'lilaw+also': lambda: dict(cbs=[LiLAWCallback(warmup=0, meta_every=2), ALSOCallback()])}

def learner_of(method, dls):
    kwargs = {'loss_func': CrossEntropyLossFlat(), **(MORE[method] if method in MORE else METHODS[method].make)()}
    cbs = L(kwargs.pop('cbs', None)) + DynamicsCallback(['running_loss', 'forgetting', 'grand'])
    for cb in cbs: # something must happen within the few epochs
        if hasattr(cb, 'every'): cb.warmup = 1
        if cb.name == 'lilaw': cb.state.lr *= 100
        if hasattr(cb, 'agreement'): cb.k,cb.agreement,cb.threshold = 5,.5,0.
        if hasattr(cb, 'view'): cb.view = flipped # the default is random, with numbers of its own in each process
    learn = Learner(dls, make_model(), cbs=[*cbs, Noted()], **kwargs)
    learn.remove_cbs(ProgressCallback)
    learn.logger = lambda *_: None
    return learn

class Noted(Callback):
    "What the methods know after each epoch"
    order = 40
    def before_fit(self): self.seen = []
    def after_epoch(self):
        learn,row = self.learn,{'model': torch.cat([p.detach().flatten() for p in self.learn.model.parameters()])}
        for cb in learn.cbs:
            if hasattr(cb, 'to_frame') and not (cb.name == 'knn' and cb.labels is None):
                row[cb.name] = torch.tensor(cb.to_frame().astype(float).values)
        if hasattr(learn, 'lilaw'): row['numbers'] = learn.lilaw.state.params.clone()
        if hasattr(learn, 'bmm'): row['mixture'] = torch.tensor([learn.bmm.noise_rate, float(learn.bmm.separates), learn.bmm.history.n_kept.iloc[-1]])
        if hasattr(learn, 'confidence') and learn.confidence.twin is not None:
            row['twin'] = torch.cat([p.detach().flatten() for p in learn.confidence.robust_model.parameters()])
        self.seen.append(row)

def train(method, world, dls=None, epochs=EPOCHS):
    "The Learner and the rows of `Noted`; one process has batches as large as those of `world` processes together"
    dls = dls or make_dls(bs=BS*world)
    set_seed(5)
    learn = learner_of(method, dls)
    if num_distrib() > 1:
        with learn.distrib_ctx(sync_bn=False, cpu=True): learn.fit_one_cycle(epochs, 1e-2)
    else: learn.fit_one_cycle(epochs, 1e-2)
    return learn, learn.noted.seen

@contextmanager
def as_divided(world):
    "One process gets its samples in the order in which `world` processes would: of each batch the part of the first, then that of the second, ..."
    own = ids._TaggedDL.get_idxs
    def get_idxs(self):
        order = list(own(self))
        parts = [order[i*len(order)//world:(i+1)*len(order)//world] for i in range(world)]
        return [o for start in range(0, len(order), BS) for part in parts for o in part[start:start+BS]]
    ids._TaggedDL.get_idxs = get_idxs
    try: yield
    finally: ids._TaggedDL.get_idxs = own

def odd():
    "157 samples cannot be shared out evenly"
    learn,_ = train('also+bmm', 1, make_dls(157), 2)
    return dict(seen=torch.tensor(learn.dynamics.to_frame().seen), weights=learn.also.pi.all(), report=learn.noise_report().drop(columns='item').to_csv())

def with_norm():
    "BatchNorm's statistics are those of a part of the batch; what is made of them is the same all the same"
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
    cbs = [TwoModelConfidenceCallback(jsd=0), BMMFilterCallback('loss', warmup=1), KNNCorrectionCallback(k=5, warmup=1, action='filter'), Noted()]
    learn = Learner(make_dls(), model, loss_func=CrossEntropyLossFlat(), cbs=cbs)
    learn.remove_cbs(ProgressCallback)
    with learn.distrib_ctx(sync_bn=False, cpu=True): learn.fit(2, 1e-2)
    return [*learn.noted.seen, {'buffers': torch.cat([o.flatten().float() for o in learn.confidence.robust_model.buffers()])}]

def refused():
    "What the errors say"
    def message(f, *args):
        try: f(*args)
        except Exception as e: return str(e)
    def fit(n, in_distrib=True, with_lr_find=False):
        learn = learner_of('also', make_dls(n))
        if not in_distrib: return learn.fit(1)
        with learn.distrib_ctx(sync_bn=False, cpu=True): learn.lr_find(show_plot=False) if with_lr_find else learn.fit(1)
    return [message(fit, 60 + rank_distrib()), message(fit, 60, False), message(fit, 60, True, True)]

class Dies(Callback):
    "Process 1 is killed in the second epoch"
    def before_train(self):
        if self.epoch == 1 and rank_distrib() == 1: os.kill(os.getpid(), signal.SIGKILL)

def main(out, methods):
    res = {m: train(m, 1)[1] for m in methods}
    if num_distrib() == 2: res.update(odd=odd(), norm=with_norm(), refused=refused())
    torch.save(res, Path(out)/f'{rank_distrib()}.pth')
    if num_distrib() == 4:
        learn = learner_of('also', make_dls())
        with learn.distrib_ctx(sync_bn=False, cpu=True): learn.fit(1000, cbs=Dies())

if __name__ == '__main__':
    torch.set_num_threads(1)
    main(sys.argv[1], sys.argv[2:] or [*battery(), *MORE])

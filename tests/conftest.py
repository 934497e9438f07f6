"Small data and learners that the tests share. Everything is made here or ships with a dependency; nothing is downloaded."
from functools import partial
from operator import getitem
import matplotlib
matplotlib.use('Agg')
import pytest, torch
from torch import nn
from fastai.basics import Categorize, CrossEntropyLossFlat, Datasets, Learner, accuracy, set_seed
from fastai.callback.progress import ProgressCallback

@pytest.fixture(autouse=True)
def one_seed():
    "Every test starts from the same random streams"
    set_seed(0)

def blobs(n=96, k=3, d=4, seed=0):
    "Gaussian blobs: features (n, d) and class ids (n,)"
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % k
    x = torch.randn(n, d, generator=g) + 2*torch.eye(k, d)[y]
    return x, y

def blob_dls(n=96, bs=16, labels=None, num_workers=0, **kwargs):
    "96 blobs to train on and 48 for validation, as fastai `Datasets`; `labels` in place of those for training"
    x,y = (torch.cat(o) for o in zip(blobs(n), blobs(48, seed=1)))
    if labels is not None: y = torch.cat([labels, y[n:]])
    row = lambda v: partial(getitem, v)
    dsets = Datasets(range(n+48), [[row(x)], [row(y.tolist()), Categorize(vocab=[0, 1, 2])]], splits=[range(n), range(n, n+48)])
    return dsets.dataloaders(bs=bs, num_workers=num_workers, device='cpu', drop_last=False, **kwargs)

def small_model(d=4, k=3, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(d, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(.2), nn.Linear(8, k))

def blob_learner(cbs=None, dls=None, seed=0, **kwargs):
    kwargs = {'loss_func': CrossEntropyLossFlat(), 'metrics': accuracy, **kwargs}
    learn = Learner(dls or blob_dls(), small_model(seed=seed), cbs=cbs, **kwargs)
    learn.remove_cbs(ProgressCallback)
    return learn

def fitted_blobs(cbs=None, n=3, dls=None, lr=1e-2, **kwargs):
    "A learner of blobs after `n` epochs, the same batches and dropout each time"
    torch.manual_seed(7)
    dls = dls or blob_dls()
    dls.train.rng.seed(3)
    learn = blob_learner(cbs=cbs, dls=dls, **kwargs)
    learn.fit(n, lr)
    return learn

def weights_of(model): return torch.cat([p.detach().flatten() for p in model.state_dict().values()]).float()

@pytest.fixture
def learner(tmp_path):
    def make(*args, **kwargs):
        learn = blob_learner(*args, **kwargs)
        learn.path = tmp_path
        return learn
    return make

def run_in_parts(make_learner, stops):
    "Train for `stops[0]` epochs, save, load into a new Learner and go on for `stops[1]`, ...: the last Learner"
    torch.manual_seed(7)
    for k,n in enumerate(stops):
        torch.manual_seed(11)
        learn = make_learner()
        learn.dls.train.rng.seed(3)
        for _ in range(sum(stops[:k])): # the order of the epochs that are over
            learn.dls.train.randomize()
            learn.dls.train.get_idxs()
        learn.model[3].p = 0. # dropout draws from the global stream, which the file does not hold
        if k: learn.load('stop')
        learn.fit(n, 1e-2)
        learn.save('stop')
    return learn

def battery():
    "Names of the methods that every battery is run for: all with callbacks. Of the bare losses, which differ in a formula only, three stand for the others"
    from fastnoisy.all import METHODS
    return [o for o,m in METHODS.items() if not m.needs.startswith(('images', 'known noise')) and ('cbs' in m.make() or o in ('ce', 'gce', 'js'))]

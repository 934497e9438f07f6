"Small data and learners that the tests share. All is made here or ships with a dependency; nothing is downloaded."
import math, os, pickle
from copy import deepcopy
from functools import partial
from operator import getitem
from pathlib import Path
import numpy as np
import torch
from torch import nn
from fastai.basics import Callback, Categorize, CrossEntropyLossFlat, DataLoaders, Datasets, L, Learner, accuracy
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.progress import ProgressCallback
from fastai.torch_core import TensorImageBase
from fastai.vision.augment import RandTransform
from fastai.data.core import TfmdDL
from fastnoisy.callback.dynamics import DynamicsCallback
from fastnoisy.core.method import MethodCallback
from settings import Watch, battery, setting

TESTS = Path(__file__).resolve().parent
PYTHONPATH = os.pathsep.join(map(str, (TESTS.parent, TESTS, TESTS/'scripts'))) # of the processes that tests start

def blobs(n=96, k=3, d=4, seed=0, spread=2):
    "Gaussian blobs: features (n, d) and class ids (n,)"
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % k
    x = torch.randn(n, d, generator=g) + spread*torch.eye(k, d)[y]
    return x, y

def blob_dls(n=96, bs=16, labels=None, num_workers=0, **kwargs):
    "96 blobs to train on and 48 for validation, as fastai `Datasets`; `labels` in place of those for training"
    x,y = (torch.cat(o) for o in zip(blobs(n), blobs(48, seed=1)))
    if labels is not None: y = torch.cat([labels, y[n:]])
    row = lambda v: partial(getitem, v)
    pipelines = [row(x)],[row(y.tolist()), Categorize(vocab=[0, 1, 2])]
    dsets = Datasets(range(n+48), pipelines, splits=[range(n), range(n, n+48)])
    return dsets.dataloaders(bs=bs, num_workers=num_workers, device='cpu', drop_last=False, **kwargs)

def noisy_dls(n=96, n_valid=200, k=3, share=.4):
    "Blobs, some of the labels wrong in both parts"
    parts = []
    for seed,m in enumerate((n, n_valid)):
        x,y = blobs(m, k, seed=seed)
        wrong = torch.rand(m, generator=torch.Generator().manual_seed(seed)) < share
        parts.append(L(zip(x, torch.where(wrong, (y + 1 + torch.arange(m) % 2) % k, y))))
    return DataLoaders.from_dsets(*parts, bs=16, device='cpu', num_workers=0)

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

class Weigh(MethodCallback):
    "Weights that depend on the sample id only"
    name = 'weigh'
    def __init__(self, f): self.f = f
    def batch_weights(self): return self.f(self.sample_ids).float()

class Relabel(MethodCallback):
    name = 'relabel'
    def __init__(self, labels): self.labels_ = labels
    def batch_labels(self): return self.labels_[self.sample_ids]

class Spy(Callback):
    "Notes what is on the Learner after the loss"
    order,run_valid = 20,False
    def before_fit(self): self.seen = []
    def after_loss(self):
        o = self.learn
        names = 'sample_ids','sample_loss','sample_weight','loss','loss_grad'
        self.seen.append({k: getattr(o, k).detach().clone() for k in names}
                         | dict(y=o.yb[0].clone(), pred=o.pred.detach().clone()))

class AutocastCPU(Callback):
    "fastai's MixedPrecision knows CUDA only; this is the same for the CPU"
    order = MixedPrecision.order
    def before_batch(self):
        self.autocast = torch.autocast('cpu', dtype=torch.bfloat16)
        self.autocast.__enter__()
    def after_pred(self): self.learn.pred = self.pred.float()
    def after_loss(self): self.autocast.__exit__(None, None, None)

def image_learner(cbs=None, **kwargs):
    g = torch.Generator().manual_seed(0)
    x,y = torch.rand(48, 1, 8, 8, generator=g),torch.arange(48) % 2
    x[y == 1, :, :4] += 1
    dls = DataLoaders.from_dsets(L(zip(x[:32], y[:32])), L(zip(x[32:], y[32:])), bs=8, device='cpu', num_workers=0)
    dls.train.rng.seed(0)
    torch.manual_seed(1)
    body = nn.Conv2d(1, 4, 3),nn.BatchNorm2d(4),nn.ReLU(),nn.AdaptiveAvgPool2d(1)
    model = nn.Sequential(*body, nn.Flatten(), nn.Linear(4, 2))
    return Learner(dls, model, loss_func=CrossEntropyLossFlat(), cbs=cbs, metrics=accuracy, **kwargs)

class Stop(Callback):
    order = 30
    def __init__(self, event, exc): self.event,self.exc = event,exc
    def __call__(self, name):
        if name == self.event and (name in ('before_fit', 'before_validate') or self.train_iter == 2): raise self.exc

def snapshot(learn):
    return dict(loss_func=learn.loss_func, opt_func=learn.opt_func, dls=learn.dls, loaders=list(learn.dls.loaders),
                after_batch=learn.dls.train.after_batch, cbs=list(learn.cbs), model=learn.model,
                metrics=list(learn.metrics),
                reduction=learn.loss_func.reduction, attrs=set(vars(learn)))

RNG = np.random.default_rng(0)

def write_cifar(folder, python, n=4):
    "Six small files in the real format: their rows"
    folder.mkdir()
    parts = {}
    for name in [*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch']:
        labels,pixels = RNG.integers(0, 10, n),RNG.integers(0, 256, (n, 3072), dtype=np.uint8)
        parts[name] = labels,pixels
        rows = {b'batch_label': b'x', b'labels': labels.tolist(), b'data': pixels}
        if python: (folder/name).write_bytes(pickle.dumps(rows))
        else: np.concatenate([labels[:,None].astype(np.uint8), pixels], 1).tofile(folder/f'{name}.bin')
    (folder/('batches.meta' if python else 'batches.meta.txt')).write_bytes(b'')
    return parts

def write_human_labels(folder, parts):
    "CIFAR-10N's file in its real format, for the rows of `write_cifar`: given labels by column, one in three wrong"
    right = np.concatenate([y for name,(y,_) in parts.items() if name != 'test_batch'])
    columns = dict(clean_label=right)
    for i,name in enumerate(('aggre_label', 'random_label1', 'worse_label')):
        wrong = np.arange(len(right)) % 3 == i
        columns[name] = np.where(wrong, (right + 1) % 10, right)
    torch.save(columns, folder/'CIFAR-10_human.pt')
    return columns

def first_learnt(right):
    "The visit at which a sample is right for the second time running, one more than all if never"
    return next((i + 1 for i in range(1, len(right)) if right[i] and right[i-1]), len(right) + 1)

def by_hand(z, y, times=None, sigma2=1e-4):
    "All cheap scores of one sample from its list of logits, in plain Python"
    p,losses,margins,errors,right = [],[],[],[],[]
    for row in z.double().tolist():
        top = max(row)
        e = [math.exp(v-top) for v in row]
        probs = [v/sum(e) for v in e]
        p.append(probs[y])
        losses.append(-math.log(probs[y]))
        margins.append(row[y] - max(v for j,v in enumerate(row) if j != y))
        errors.append(math.sqrt(sum((v - (j == y))**2 for j,v in enumerate(probs))))
        right.append(row.index(max(row)) == y)
    n,mean = len(p),lambda v: sum(v)/len(v)
    times = times or n
    mu = mean(p)
    forgotten = sum(a and not b for a,b in zip(right, right[1:]))
    psi = mean([math.log(1 + v + v*v/2) for v in losses])
    return dict(loss=losses[-1], running_loss=mean(losses), confidence=mu,
                variability=math.sqrt(mean([(v-mu)**2 for v in p])), aleatoric=mean([v*(1-v) for v in p]),
                aum=mean(margins), el2n=mean(errors), forgetting=forgotten if any(right) else n,
                wrong_events=right.count(False), first_learnt=first_learnt(right),
                cnlcu=psi - sigma2*(times + sigma2*math.log(2*times)/times**2)/(n - sigma2))

class Brighten(RandTransform):
    "Adds a random number to the images, in place"
    split_idx,order = 0,20
    def encodes(self, x:TensorImageBase):
        x += torch.rand(1).item()
        return x

# for the batteries over all methods: see settings.py

N,K,LR = 64,3,3e-2 # LR: with it all of them act within two epochs

class Items:
    "Sample i of some blobs; `broken` raises"
    def __init__(self, x, y, true=None):
        self.x,self.y,self.true = x,y,true
        self.broken = None
    def __len__(self): return len(self.y)
    def __getitem__(self, i):
        if i == self.broken: raise OSError('the disk is gone')
        return self.x[i], self.y[i]
    def new_empty(self): return Items(self.x[:0], self.y[:0]) # for `Learner.export`

def make_dls(n=N, bs=16, k=K, shuffle=True, sort=False, drop_last=False, num_workers=0):
    "Blobs that can be told apart; a quarter of the training labels is wrong"
    (x,true),valid = blobs(n, k, spread=6),blobs(32, k, seed=1, spread=6)
    wrong = torch.rand(n, generator=torch.Generator().manual_seed(5)) < .25
    y = torch.where(wrong, (true + 1) % k, true)
    order = y.argsort(stable=True) if sort else torch.arange(n)
    options = dict(num_workers=num_workers, device='cpu')
    train = TfmdDL(Items(x[order], y[order], true[order]), bs=bs, shuffle=shuffle, drop_last=drop_last, **options)
    dls = DataLoaders(train, TfmdDL(Items(*valid), bs=16, **options), device='cpu')
    dls.train.rng.seed(1)
    return dls

def linear(k=K, norm=False, dropout=0., slope=0.):
    "With a slope no unit is dead, so that no two samples are equally near a third, and the last bits decide nothing"
    torch.manual_seed(0)
    body = nn.Linear(4, 8),nn.BatchNorm1d(8) if norm else nn.Identity(),nn.LeakyReLU(slope),nn.Dropout(dropout)
    return nn.Sequential(nn.Flatten(), *body, nn.Linear(8, k))

def methods_of(method):
    "Arguments for a Learner, and callbacks which act within two epochs"
    kwargs = {'loss_func': CrossEntropyLossFlat(), **setting(method).make()}
    return L(kwargs.pop('cbs', None)) + L(DynamicsCallback() if setting(method).dynamics else None), kwargs

def make(method, dls=None, model=None, cbs=(), path='.'):
    own,kwargs = methods_of(method)
    dls = dls or make_dls()
    if setting(method).data: dls = setting(method).data(dls)
    learn = Learner(dls, linear() if model is None else model, metrics=accuracy, cbs=[*own, *cbs], path=path, **kwargs)
    learn.remove_cbs(ProgressCallback)
    learn.logger = lambda *_: None
    return learn

def methods_in(learn): return [cb for cb in learn.cbs if isinstance(cb, MethodCallback) and not isinstance(cb, Watch)]

def states(learn):
    "All that the methods of a Learner keep, {name: tensor or value}"
    res = {}
    def put(key, v):
        if isinstance(v, dict): parts = v.items()
        elif isinstance(v, (list, tuple)): parts = enumerate(v)
        else: parts = None
        is_number = isinstance(v, (torch.Tensor, np.ndarray, int, float))
        if is_number: res[key] = torch.as_tensor(v).detach().double().cpu().clone()
        elif parts is None: res[key] = deepcopy(v)
        else:
            for k,o in parts: put(f'{key}.{k}', o)
    for cb in methods_in(learn): put(cb.name, cb.state_dict())
    return res

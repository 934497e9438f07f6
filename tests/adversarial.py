"""Tries to break the package, by area, with seeded random cases: `python tests/adversarial.py [AREA ...] --minutes 5`.
Prints for each area how many cases there were, how many held, how many were refused by name (an error that says what
is wrong), and one line to repeat each that broke: `--seed N --cases 1`. `test_adversarial.py` runs a few of each area;
what a long run finds becomes a test of its own."""
import argparse, contextlib, csv, inspect, io, json, math, os, pickle, random, re, resource, shutil, signal, socket
import tempfile, time, traceback, warnings
from functools import partial
from operator import getitem
from pathlib import Path
import numpy as np, pandas as pd, torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader as TorchDataLoader
from fastai.basics import Callback, Categorize, CrossEntropyLossFlat, DataLoaders, Datasets, Learner, TfmdDL
from fastai.callback.core import CancelBatchException, CancelEpochException, CancelFitException
from fastai.callback.core import CancelStepException, CancelTrainException
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.progress import ProgressCallback
from fastai.callback.tracker import SaveModelCallback
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.distributed import *
from fastai.text.core import BaseTokenizer, Tokenizer
from fastai.text.data import Numericalize, SortedDL, pad_input_chunk
from fastai.text.learner import TextLearner, get_text_classifier
from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_clas_config
import fastnoisy.losses as losses_module
from fastnoisy.analysis.label_issues import find_label_issues
from fastnoisy.analysis.mixture import BetaMixture, GaussianMixture
from fastnoisy.analysis.neighbors import knn_vote
from fastnoisy.analysis.report.decisions import DECISIONS
from fastnoisy.analysis.report.exports import from_label_studio, to_datalab, to_label_studio
from fastnoisy.analysis.report.page import _table
from fastnoisy.analysis.report.table import NoiseReport, noise_report
from fastnoisy.analysis.report.page import quoting_for
from fastnoisy.audit.sources import labelled_csv, labelled_folder, labelled_npz, labelled_series
from fastnoisy.benchmark.runner import Table
from fastnoisy.callback.also import ALSOCallback
from fastnoisy.callback.bmm import BMMFilterCallback
from fastnoisy.callback.cdr import CDRCallback
from fastnoisy.callback.co_teaching import CoTeachingCallback
from fastnoisy.callback.confidence import TwoModelConfidenceCallback
from fastnoisy.callback.cores2 import CORES2Callback
from fastnoisy.callback.disagreement import CoTeachingPlusCallback, DecouplingCallback, JoCoRCallback
from fastnoisy.callback.disc import DISCCallback
from fastnoisy.callback.divide_mix import DivideMixCallback
from fastnoisy.callback.fine import FINECallback
from fastnoisy.callback.dynamics import DynamicsCallback
from fastnoisy.callback.elr import ELRCallback
from fastnoisy.callback.elr_plus import ELRPlusCallback
from fastnoisy.callback.ido import IDOCallback
from fastnoisy.callback.knn import KNNCorrectionCallback
from fastnoisy.callback.lilaw import LiLAWCallback
from fastnoisy.callback.m_correction import MCorrectionCallback
from fastnoisy.callback.meta import L2RCallback, MetaWeightNetCallback
from fastnoisy.callback.pes import PESCallback, PESSemiCallback
from fastnoisy.callback.planted import PlantedErrorsCallback
from fastnoisy.callback.pro_mix import ProMixCallback
from fastnoisy.callback.self_adaptive import SATCallback, SELCCallback
from fastnoisy.callback.sop import SOPCallback, SOPPlusCallback
from fastnoisy.callback.transition import GLCCallback, TransitionCallback, VolMinNetCallback
from fastnoisy.callback.unicon import UNICONCallback
from fastnoisy.cli import main as command_line
from fastnoisy.core.method import MethodCallback
from fastnoisy.noise.human import HumanNoise, annotator_noise, read_labels
from helpers import K, LR, N, Items, blobs, linear, make, make_dls, methods_in, states, weights_of
from reports import small_report
from settings import VARIANTS, battery, setting

AREAS = {}
EVENTS = '''before_fit before_epoch before_train before_batch after_pred after_loss before_backward after_backward
before_step after_step after_batch after_train before_validate after_validate after_epoch'''.split()
CANCELS = CancelFitException,CancelEpochException,CancelTrainException,CancelBatchException,CancelStepException
STOPS = KeyboardInterrupt,RuntimeError,*CANCELS

class Refused(Exception): "The case was refused, as it should be: with an error that says what is wrong"

def area(f):
    AREAS[f.__name__] = f
    return f

class Stops(Callback):
    "Raise `exc` in an event, once"
    def __init__(self, event, exc, epoch, order): self.event,self.exc,self.at,self.order = event,exc,epoch,order
    def __call__(self, name):
        if name != self.event or self.at is None or getattr(self.learn, 'epoch', 0) < self.at: return
        self.at = None
        raise self.exc('on purpose')

def looks(learn):
    return dict(loss_func=learn.loss_func, model=learn.model, dls=learn.dls, loaders=list(learn.dls.loaders),
                cbs=list(learn.cbs), metrics=list(learn.metrics),
                autocast=torch.is_autocast_enabled('cpu'), grad=torch.is_grad_enabled())

@area
def stops(rng, folder):
    "Methods x events x kinds of stop: then the Learner is as before and can be used"
    method,event,exc = rng.choice(battery()),rng.choice(EVENTS),rng.choice(STOPS)
    epoch,order = rng.choice((0, 1, 2)),rng.choice((-20, -6, -4, 5, 30, 70))
    yield f'{method} {event} {exc.__name__} epoch {epoch} order {order}'
    learn = make(method, path=folder)
    before,names = looks(learn),{*vars(learn)}
    try: learn.fit(3, LR, cbs=Stops(event, exc, epoch, order))
    except exc: pass
    except AttributeError as e: # fastai's Recorder, which was not told that an epoch has begun
        if event != 'before_epoch' or "no attribute 'log'" not in str(e): raise
    assert looks(learn) == before, 'the Learner has changed'
    left = {'sample_ids', 'sample_loss', 'sample_weight', 'fit_exit', '_do_fit'} & ({*vars(learn)} - names)
    assert not left, f'left behind: {left}'
    learn.fit(2, LR)
    assert weights_of(learn.model).isfinite().all(), 'the weights are not finite'

@area
def checkpoints(rng, folder):
    "A file cut anywhere, of no bytes, or of another data set: refused, and model and methods are as before"
    method,kind = rng.choice(battery()),rng.choice(('cut', 'empty', 'other data'))
    share = rng.random()
    yield f'{method} {kind} {share:.3f}'
    learn = make(method, make_dls(60 if kind == 'other data' else 64), path=folder)
    learn.fit(2, LR)
    path = learn.save('x')
    whole = path.read_bytes()
    if kind != 'other data': path.write_bytes(whole[:int(share*len(whole))] if kind == 'cut' else b'')
    other = make(method, path=folder)
    other.fit(1, LR)
    before = weights_of(other.model).clone()
    try: other.load('x')
    except Exception as e:
        assert torch.equal(before, weights_of(other.model)), f'the model has changed although load failed: {e}'
        other.fit(1, LR)
        raise Refused(str(e)) from e
    assert kind != 'other data', 'a file of another data set was loaded'

# numbers out of range

CALLBACKS = (ALSOCallback, BMMFilterCallback, CDRCallback, CORES2Callback, CoTeachingCallback, CoTeachingPlusCallback,
             DecouplingCallback, DISCCallback, DivideMixCallback, DynamicsCallback, ELRCallback, ELRPlusCallback,
             FINECallback, GLCCallback, IDOCallback, JoCoRCallback, KNNCorrectionCallback, L2RCallback, LiLAWCallback,
             MCorrectionCallback, MetaWeightNetCallback, PESCallback, PESSemiCallback, PlantedErrorsCallback,
             ProMixCallback, SATCallback, SELCCallback, SOPCallback, SOPPlusCallback, TransitionCallback,
             TwoModelConfidenceCallback, UNICONCallback, VolMinNetCallback)
NEEDED = {BMMFilterCallback: dict(signal='loss'), DISCCallback: dict(view=lambda x, seed: x),
          IDOCallback: dict(view=lambda x, seed: x), SOPPlusCallback: dict(view=lambda x: x)} # on data that are no images
HOSTILE = (-1, 0, 1, 2, .5, 1e-30, 1e30, -1e30, math.nan, math.inf, -math.inf, 10**20, True, None, '', 'a', '5', [],
           [1, 2], (), {}, b'x', np.float32(.5), np.int64(3), torch.tensor(.5), torch.tensor([1., 2.]), object)
CLEAR = ValueError,TypeError,NotImplementedError

def refusal(e, *names):
    "`e` as a refusal if it says what is wrong, and names what was given"
    if not isinstance(e, CLEAR) or (names and not any(o in str(e) for o in names)): raise e
    raise Refused(str(e)) from e

def parameters_of(f):
    return {o: p for o,p in inspect.signature(f).parameters.items() if o != 'self' and p.kind is not p.VAR_KEYWORD}

def check_answers(learn):
    "What every method says is a number in [0, 1] or unknown, a class or none"
    n = len(learn.dls.train.dataset)
    for cb in methods_in(learn):
        for question in ('label_quality', 'noise_probability'):
            said = getattr(cb, question)()
            if said is None: continue
            said = np.asarray(said)
            assert said.shape == (n,) and (np.isnan(said) | (said >= 0) & (said <= 1)).all(), f'{cb.name}.{question}'
        said = cb.suggested_labels()
        if said is not None: assert (np.asarray(said) >= -1).all() and (np.asarray(said) < 100).all()

@area
def options(rng, folder):
    """An option of a method with a value that nobody expects: it trains to finite weights, or is refused before the
    second epoch; by name where its type is known"""
    kind = rng.choice(CALLBACKS)
    params = parameters_of(kind)
    name,value = rng.choice([*params]),rng.choice(HOSTILE)
    yield f'{kind.__name__}({name}={value!r})'
    given = {**NEEDED.get(kind, {}), name: value}
    known = [name, name.split('_')[0], *(['warmup'] if name == 'start' else [])] # its name since version 0.2
    is_typed = params[name].annotation in (float, int, bool, str)
    def refuse(e):
        if is_typed: refusal(e, *known)
        is_called = 'object() takes no arguments' in str(e) # a function of the user's that cannot be called
        if learn is not None and getattr(learn, 'epoch', 0) > 1 and not is_called: raise e # 1: where most begin to act
        raise Refused(str(e)) from e
    learn = None
    try: cb = kind(**given)
    except Exception as e: refuse(e)
    learn = make('ce', path=folder, cbs=[cb]) if kind is not DynamicsCallback else Learner(
        make_dls(), linear(), loss_func=CrossEntropyLossFlat(), cbs=[cb], path=folder)
    learn.remove_cbs(ProgressCallback)
    learn.logger = lambda *_: None
    try: learn.fit(3, LR)
    except (*CLEAR, AttributeError, OverflowError, RuntimeError) as e: refuse(e)
    assert weights_of(learn.model).isfinite().all(), 'the weights are not finite'
    check_answers(learn)

LOSSES = sorted(o for o in vars(losses_module) if o.endswith('Loss') and o not in ('RobustLoss', 'ActivePassiveLoss'))

@area
def losses(rng, folder):
    "Robust losses at logits from 0 to 1e36, hard and soft targets: finite, and so is the gradient"
    name,n,k = rng.choice(LOSSES),rng.choice((1, 2, 7)),rng.choice((2, 3, 10, 1000))
    scale,dtype = 10**rng.uniform(-30, 36),rng.choice((torch.float32, torch.float64, torch.bfloat16))
    soft,reduction = rng.random() < .3,rng.choice(('none', 'mean', 'sum'))
    yield f'{name} {n} x {k} scale {scale:.1g} {dtype} soft {soft} {reduction}'
    logits = (scale*torch.randn(n, k).double()).clamp(-3e38, 3e38).to(dtype).requires_grad_()
    y = torch.rand(n, k).softmax(1) if soft else torch.randint(k, (n,))
    if rng.random() < .2 and not soft: y[0] = -100
    if rng.random() < .2: logits.data[0] = 0
    loss = getattr(losses_module, name)(reduction=reduction)(logits, y)
    if not soft and (y == -100).all() and reduction == 'mean': return # the mean of nothing
    assert loss.isfinite().all(), f'loss {loss}'
    loss.sum().backward()
    assert logits.grad.isfinite().all(), 'gradient'

@area
def numbers(rng, folder):
    "Mixtures and votes on numbers out of range: probabilities, or an error that says why there are none"
    n = rng.choice((0, 1, 2, 3, 10, 200))
    values = np.array([rng.choice((rng.random(), 0., 1., 10**rng.uniform(-300, 300), -10**rng.uniform(-5, 5)))
                       for _ in range(n)])
    same,bad = rng.random() < .1,rng.random() < .1
    if same and n: values[:] = values[0]
    if bad and n: values[0] = rng.choice((math.nan, math.inf, -math.inf))
    what = rng.choice(('beta', 'moments', 'gaussian', 'vote'))
    yield f'{what} of {n} same {same} bad {bad}'
    if what == 'vote':
        x = torch.from_numpy(values).float()[:,None].repeat(1, 3) if n else torch.zeros(0, 3)
        x = x*torch.tensor([1., -1., 1e-3])
        labels,k = torch.arange(n) % 3,rng.choice((1, 2, 5))
        weights = rng.choice((None, torch.rand(n), torch.rand(n)*1e38, torch.zeros(n), torch.full((n,), math.inf)))
        try: shares = knn_vote(x, labels, k, 3, weights, metric=rng.choice(('cosine', 'l2')))
        except CLEAR as e: refusal(e)
        assert shares.shape == (n, 3) and torch.allclose(shares.sum(1), torch.ones(n), atol=1e-4)
        return
    kind = GaussianMixture if what == 'gaussian' else BetaMixture
    options = dict(method='moments', max_iter=10) if what == 'moments' else {}
    try: p = kind(normalise=True, **options).fit(values).p_noisy(values)
    except CLEAR as e: refusal(e)
    assert p.shape == (n,) and ((p >= 0) & (p <= 1)).all(), p

# labels and inputs

@area
def labels(rng, folder):
    "Labels of any type and value, inputs that are no numbers: trained, refused by name, or the loss's own error"
    method,what = rng.choice(battery()),rng.choice((
        'bool', 'int8', 'int32', 'uint8', 'float', 'column', 'minus', 'beyond', 'ignored', 'all ignored', 'one class',
        'rare class', 'one-hot', 'nan input', 'inf input', 'zero input', 'huge input'))
    yield f'{method} {what}'
    dls = make_dls()
    for dl in dls.loaders:
        d = dl.dataset
        where = torch.tensor([rng.random() < .2 for _ in range(len(d))])
        if what == 'bool': d.y = d.y > 0
        elif what in ('int8', 'int32', 'uint8'): d.y = d.y.to(getattr(torch, what))
        elif what == 'float': d.y = d.y.float()
        elif what == 'column': d.y = d.y[:,None]
        elif what == 'minus': d.y = torch.where(where, -1, d.y)
        elif what == 'beyond': d.y = torch.where(where, 3, d.y)
        elif what == 'ignored': d.y = torch.where(where, -100, d.y)
        elif what == 'all ignored': d.y = torch.full_like(d.y, -100)
        elif what == 'one class': d.y = torch.zeros_like(d.y)
        elif what == 'rare class': d.y = torch.where(torch.arange(len(d)) == 3, 2, d.y % 2)
        elif what == 'one-hot': d.y = nn.functional.one_hot(d.y, 3)
        elif 'input' in what:
            bad = dict(nan=math.nan, inf=math.inf, zero=0., huge=1e30)[what.split()[0]]
            d.x = torch.where(where[:,None], bad, d.x)
    learn = make(method, dls, path=folder)
    try: learn.fit(3, LR)
    except Exception as e: # PyTorch's own for a class that the model has not
        is_theirs = any(o in str(e) for o in ('out of bounds', 'Expected floating point type for target', 'nll_loss',
                                              'not implemented for', 'expected scalar type', 'expected target dtype'))
        if not is_theirs: refusal(e)
        raise Refused(str(e)) from e
    assert what not in ('minus', 'beyond', 'one-hot', 'float'), f'{what} labels were taken'
    if what not in ('nan input', 'inf input', 'huge input'):
        assert weights_of(learn.model).isfinite().all(), 'the weights are not finite'
        check_answers(learn)
    if what == 'ignored': assert len(noise_report(learn)) == N

# batches

class Moves(Callback):
    """Moves the samples of a batch: inputs and labels, each as new tensors or in place. `order`: not between those of
    the core and of `KnowsIds`, which would see it first"""
    run_valid,n_moved = False,0
    def __init__(self, rng, order): self.rng,self.order = rng,order
    def before_batch(self):
        n = len(self.yb[0])
        rows = torch.tensor(self.rng.sample(range(n), n))
        self.n_moved += not torch.equal(self.yb[0][rows], self.yb[0]) # labels that are equal may change places
        for name,o in (('xb', self.xb[0]), ('yb', self.yb[0])):
            if self.rng.random() < .5: o.copy_(o[rows])
            else: setattr(self.learn, name, (o[rows],))

class KnowsIds(MethodCallback):
    """The ids of a batch are those of its inputs. Where a callback moves samples (`moves`), those of equal labels may
    have changed places: nobody can know, see core/batch_order"""
    name,order = 'knows_ids',MethodCallback.order + 2
    def __init__(self, moves=False): self.moves = moves
    def begin_fit(self): self.n_seen = 0
    def before_batch(self):
        data,now = self.dls.train.dataset,torch.as_tensor(self.xb[0]).as_subclass(torch.Tensor)
        x = data.x.to(now)[self.sample_ids]
        are_alike = self.moves and torch.equal(x.sort(0).values, now.sort(0).values) and torch.equal(
            data.y[self.sample_ids].view(-1), torch.as_tensor(self.yb[0]).as_subclass(torch.Tensor).view(-1))
        assert are_alike or torch.equal(x, now), 'ids of other samples'
        self.n_seen += len(x)

@area
def batches(rng, folder):
    "Sizes, loaders, samplers, transforms of the batch, blends: ids and samples belong together, weights stay finite"
    method,n = rng.choice(battery()),rng.choice((2, 5, 17, 31, 64, 65))
    bs,drop_last,workers = rng.choice((1, 2, 3, 16, 64, 200)),rng.random() < .3,2*(rng.random() < .05)
    k = rng.choice((2, 3, 5))
    dls = make_dls(n, bs, k, drop_last=drop_last, num_workers=workers)
    data,options,kind = dls.train.dataset,{},rng.choice(('plain', 'torch', 'own', 'sorted', 'twice', 'dropped', 'norm'))
    def by_input(b): return sorted(b, key=lambda o: o[0][0].item())
    if kind == 'own':
        most = rng.choice((1, n, 3*n))
        options['get_idxs'] = lambda: np.random.randint(0, n, most)
    elif kind == 'sorted': options['before_batch'] = by_input
    elif kind == 'twice': options['before_batch'] = lambda b: [*b, *by_input(b)]
    elif kind == 'dropped': options['before_batch'] = lambda b: by_input(b)[:max(1, len(b) - 2)]
    shuffle = dict(shuffle=kind != 'own')
    if kind == 'torch': train = TorchDataLoader(data, bs, shuffle=True, drop_last=drop_last, num_workers=workers)
    else: train = TfmdDL(data, bs=bs, drop_last=drop_last, num_workers=workers, device='cpu', **shuffle, **options)
    extra = rng.choice((None, None, None, MixUp(.4), GradientAccumulation(5), GradientClip(),
                        Moves(rng, rng.choice((-20, 5, 30)))))
    said = f'{n} samples bs {bs} drop_last {drop_last} {workers} workers {k} classes'
    yield f'{method} {said} {kind} {type(extra).__name__}'
    cbs = [KnowsIds(isinstance(extra, Moves)), *([] if extra is None else [extra])]
    dls = DataLoaders(train, dls.valid)
    if kind == 'torch': dls._device = torch.device('cpu') # tsai, once imported, asks PyTorch's loaders for it too
    learn = make(method, dls, linear(k, norm=kind == 'norm'), cbs=cbs, path=folder)
    try: learn.fit(rng.choice((1, 3)), LR)
    except ValueError as e:
        is_norm = 'more than 1 value per channel' in str(e) # PyTorch's, of BatchNorm with one sample
        if is_norm: raise Refused(str(e)) from e
        refusal(e)
    except IndexError as e: # fastai's MixUp knows no batch of one
        if 'Dimension out of range' in str(e) and isinstance(extra, MixUp): raise Refused(str(e)) from e
        raise
    except CLEAR as e: refusal(e)
    assert not getattr(extra, 'n_moved', 0), 'samples that were moved were trained on'
    assert weights_of(learn.model).isfinite().all() and (learn.knows_ids.n_seen or drop_last)
    check_answers(learn)

# names and files

NASTY = ('=1+1', '+1', '-1+2', '@SUM(A1)', '\t=1', "'", '"', '"";=1', '<script>alert(1)</script>',
         '<img src=x onerror=x>', '&amp;', '$x', '{{x}}', '%s', '..', ' ', 'a b', 'ü', '日本', 'a\u202eb', '😀', '-',
         '--help', '~', '*', '?', '|x',
         'x\ny', 'x\ry', 'x\r\n=1', 'CON', 'nan', 'None', 'NaN', '1', '1e5', '0', 'True', 'a,b', 'a;b', 'a\\b',
         '\x07', '\udc80')

def nasty(rng): return ''.join(rng.choice(NASTY) for _ in range(rng.choice((1, 1, 1, 2, 3))))

def read_rows(file):
    with open(file, encoding='utf-8', newline='') as f: rows = list(csv.reader(f))
    assert len({len(o) for o in rows}) == 1, 'rows of several lengths'
    return rows

def write_rows(file, rows):
    with open(file, 'w', newline='', encoding='utf-8', errors='replace') as f: csv.writer(f).writerows(rows)

def check_cells(rows):
    "No cell is a formula; signs of numbers are none"
    for cell in (o for row in rows for o in row):
        if not cell.startswith(('=', '+', '-', '@', '\t', '\r', '\n')): continue
        assert re.fullmatch(r'[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?', cell.strip(), re.I), f'a formula: {cell!r}'

@area
def names(rng, folder):
    "File names, classes and labels that are formulas, tags or no text, in the table and the page of a report"
    n = rng.choice((1, 3, 8))
    vocab = sorted({nasty(rng) for _ in range(3)} | {'a', 'b'})
    items = [nasty(rng) for _ in range(n)]
    yield f'{items!r} {vocab!r}'
    given = [rng.choice(vocab) for _ in range(n)]
    table = pd.DataFrame(dict(sample_id=range(n), item=items, is_label_issue=[rng.random() < .5 for _ in range(n)],
                              label_quality=[rng.random() for _ in range(n)], given_label=given, predicted_label=given,
                              suggested_label=[rng.choice(vocab) for _ in range(n)], noise_probability=0.))
    report = NoiseReport(table)
    file = folder/'issues.csv'
    report.to_csv(file, quoting=quoting_for(report))
    rows = read_rows(file)
    assert len(rows) == n + 1, f'{len(rows)} rows of {n + 1}'
    check_cells(rows)
    page = _table(table)
    tags = set(re.findall(r'</?([a-zA-Z]+)', page))
    assert tags <= {'table', 'thead', 'tbody', 'tr', 'th', 'td', 'div'}, f'tags {tags}'

class Runs:
    "Unpickled, it leaves a folder"
    def __init__(self, file): self.file = file
    def __reduce__(self): return os.mkdir, (str(self.file),)

def damage(rng, data):
    "Bytes cut, changed, doubled"
    if not data: return data
    how,i = rng.choice(('cut', 'flip', 'zero', 'random', 'twice', 'none')),rng.randrange(len(data))
    if how == 'cut': return data[:i]
    if how == 'flip': return data[:i] + bytes([data[i] ^ (1 << rng.randrange(8))]) + data[i+1:]
    if how == 'zero': return data[:i] + bytes(min(50, len(data) - i)) + data[i+50:]
    if how == 'random': return rng.randbytes(i)
    return data*2 if how == 'twice' else data

def check_samples(samples):
    n = len(samples)
    assert n == len(samples.labels) == len(samples.rows) == len(samples.inputs) and len(samples.vocab) >= 2
    assert len(set(samples.rows)) == n and all(isinstance(o, str) and o for o in samples.labels)

@area
def files(rng, folder):
    "CSV, npz and images that are damaged, pickled or of another kind: read rightly or refused; nothing runs"
    kind,n = rng.choice(('npz', 'csv', 'series', 'folder')),rng.choice((0, 1, 4, 12))
    ran,file = folder/'ran',folder/'source'
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        if kind == 'npz':
            labels = rng.choice((np.arange(n) % 2, np.array([nasty(rng) for _ in range(n)], dtype='U20'),
                                 np.array([Runs(ran)]*n, dtype=object), np.arange(n)/2, np.arange(2*n).reshape(n, 2)))
            shape = rng.choice(((n, 8, 8), (n, 8, 8, 3), (n, 8, 8, 1), (n, 3, 8, 8), (n, 0, 8), (n,), (n + 1, 8, 8)))
            images = np.zeros(shape, rng.choice(('uint8', 'float32', 'bool', 'int64')))
            with open(file, 'wb') as f: np.savez(f, **{rng.choice(('images', 'x', 'foo')): images, 'labels': labels})
            if rng.random() < .1: file.write_bytes(pickle.dumps(Runs(ran)))
            file.write_bytes(damage(rng, file.read_bytes()))
        elif kind in ('csv', 'series'):
            head = [rng.choice(('a', 'b', 'label', '', nasty(rng))) for _ in range(rng.choice((1, 2, 4)))] + ['label']
            def cell(): return rng.choice((str(rng.random()), '', nasty(rng), 'x', 'y', '1e999', 'nan'))
            write_rows(file, [head, *([cell() for _ in head] for _ in range(n))])
            if rng.random() < .5: file.write_bytes(damage(rng, file.read_bytes()))
        else:
            for i in range(n):
                path = file/rng.choice(('a', 'b', 'c'))/f'{i}.{rng.choice(("png", "jpg", "bmp", "gif", "txt"))}'
                path.parent.mkdir(parents=True, exist_ok=True)
                mode,size = rng.choice(('L', 'RGB', 'RGBA', 'P', 'I;16', 'F', '1', 'LA', 'CMYK')),rng.choice((1, 2, 9))
                try: Image.new(mode, (size, rng.choice((1, 9)))).save(path)
                except (OSError, ValueError, KeyError): path.write_bytes(b'')
                if rng.random() < .3: path.write_bytes(damage(rng, path.read_bytes()))
                if rng.random() < .05: path.with_suffix('.pkl').write_bytes(pickle.dumps(Runs(ran)))
            file.mkdir(exist_ok=True)
            if rng.random() < .1: (file/'loop').symlink_to(file)
            if rng.random() < .1: os.mkfifo(file/'pipe.png')
        before = {o: o.read_bytes() for o in sorted(folder.rglob('*')) if o.is_file()}
        yield f'{kind} of {n}'
        read = dict(npz=labelled_npz, csv=labelled_csv, series=labelled_series, folder=labelled_folder)[kind]
        try: samples = read(file)
        except (*CLEAR, OSError) as e: samples,why = None,e
    assert not ran.exists(), 'a pickle was run'
    assert {o: o.read_bytes() for o in sorted(folder.rglob('*')) if o.is_file()} == before, 'the source has changed'
    if samples is None: raise Refused(str(why))
    check_samples(samples)

@area
def audits(rng, folder):
    "The whole command on small hostile folders and tables: whole results, or one sentence; the source is as before"
    source,out,n = folder/'source',folder/rng.choice(('out', 'o u t', '=out', 'ü', 'source/out')),rng.choice((4, 9))
    what = rng.choice(('folder', 'folder', 'csv'))
    if what == 'folder':
        for c in {'a', 'b', *(o for o in (nasty(rng) for _ in range(2)) if '/' not in o and o not in ('.', '..'))}:
            path = source/c.replace('\x00', '')
            path.mkdir(parents=True, exist_ok=True)
            for i in range(n):
                name = f'{i}{nasty(rng)}.png'.replace('/', '_')
                Image.new('L', (8, 8), rng.randrange(256)).save(path/name, 'PNG')
    else:
        source = folder/'table.csv'
        rows = [[rng.random(), nasty(rng) if rng.random() < .5 else 'u', rng.choice('xy')] for _ in range(4*n)]
        write_rows(source, [['u', nasty(rng) + 'v', 'label'], *rows])
    where = rng.choice((str(source), f'{source.parent}/x/../{source.name}'))
    (folder/'x').mkdir()
    args = ['audit', where, '--out', str(out), '--epochs', '1', '--device', 'cpu']
    if what == 'folder': args += ['--arch', 'small_cnn', '--no-pretrained']
    if rng.random() < .3: args += ['--apply', 'copy']
    place = (lambda: folder.glob('source/*/*')) if what == 'folder' else (lambda: [source])
    before = {o: o.read_bytes() for o in sorted(place()) if o.is_file() and 'out' != o.parent.name}
    yield f'{what} of {n}, {args[2:]}'
    try:
        with contextlib.redirect_stdout(io.StringIO()): command_line(args)
    except SystemExit as e:
        assert {o: o.read_bytes() for o in before} == before, 'the source has changed'
        assert str(e.code).startswith('fastnoisy: '), f'exit {e.code}'
        raise Refused(str(e.code)) from e
    assert {o: o.read_bytes() for o in before} == before, 'the source has changed'
    rows = read_rows(out/'issues.csv')
    check_cells(rows)
    page = (out/'report.html').read_text(encoding='utf-8')
    assert page.count('<script>') == 1 and '<img src=x' not in page, 'a tag of a name'
    assert (out/'learner.pkl').stat().st_size

@area
def arguments(rng, folder):
    "Command lines of words that may follow each other or not: an exit with one sentence, never a traceback"
    words = ['audit', 'bench', 'demo', 'compare', '--out', str(folder/'o'), '--epochs', '--csv', '--npz', '--x', '--y',
             '--series', '--size', '--arch', '--device', '--methods', '--noise', '--seeds', '--jobs', str(folder),
             '/dev/null', '/nowhere', '0', '-1', '1', '1e9', 'nan', '', 'symmetric:.2', 'symmetric:2', 'foo:.1', 'also',
             'ce', 'cuda:99', 'cpu', '--help', 'small_cnn', 'no_such_model', '--apply', 'copy', *NASTY[:12]]
    first = rng.choice(('audit', 'audit', 'bench', 'demo', rng.choice(words)))
    args = [first] + [rng.choice(words) for _ in range(rng.randrange(6))]
    if args[0] in ('demo', 'bench'): args += ['--epochs', rng.choice(('0', '-3', 'x'))] # refused before anything is trained
    yield repr(args)
    cwd = os.getcwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()): command_line(args)
    except SystemExit as e:
        if e.code in (0, 2) or str(e.code).startswith('fastnoisy: '): raise Refused(str(e.code)) from e
        raise
    finally: os.chdir(cwd)

# several processes

class Asks(Callback):
    "Asks for the report within a fit, in one event of one epoch and batch"
    order,asks = 60,True
    def __init__(self, event, epoch, batch): self.event,self.at,self.said = event,(epoch, batch),[]
    def __call__(self, name):
        learn = self.learn
        now = getattr(learn, 'epoch', 0),getattr(learn, 'iter', 0)
        if name != self.event or now != self.at or len(self.said) > 3: return
        try: self.said.append(learn.noise_report().drop(columns='item').to_csv())
        except ValueError as e: self.said.append(str(e)) # before anything is known

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def in_processes(world, f, folder, seconds):
    "What `f(rank)` gives in each of `world` processes, or the error; `Hangs` where one of them does not end"
    port,pids = free_port(),[]
    for rank in range(world):
        pids.append(os.fork())
        if pids[-1]: continue
        signal.alarm(0)
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR='127.0.0.1',
                          MASTER_PORT=str(port))
        try: res = f(rank)
        except Exception as e: res = RuntimeError(f'{type(e).__name__}: {e}')
        try: torch.save(res, folder/f'{rank}.pth')
        finally: os._exit(0)
    end,left = time.time() + seconds,set(pids)
    try:
        while left and time.time() < end:
            left -= {o for o in left if os.waitpid(o, os.WNOHANG)[0]}
            time.sleep(.02)
        if left: raise Hangs(f'{len(left)} of {world} processes wait for ever')
    finally:
        for o in left:
            os.kill(o, signal.SIGKILL)
            os.waitpid(o, 0)
    return [torch.load(folder/f'{rank}.pth', weights_only=False) for rank in range(world)]

@area
def processes(rng, folder):
    "Two processes, reports and stops within their fit: both have the same in the end, and none waits for the other"
    method = rng.choice([o for o in (*battery(), *VARIANTS) if setting(o).processes and setting(o).data is None])
    n,bs,differs = (64 if method == 'groups' else rng.choice((61, 64, 33))),rng.choice((4, 8)),rng.random() < .1
    event,epoch,batch = rng.choice(EVENTS),rng.choice((0, 1)),rng.choice((0, 1, 3))
    stop = rng.choice((None, None, (rng.choice(EVENTS[1:]), rng.choice(CANCELS), rng.choice((0, 1)))))
    if stop and stop[0] == 'before_epoch': stop = None # see `stops`
    said = stop and f'{stop[1].__name__} in {stop[0]} of epoch {stop[2]}'
    yield f'{method} {n} samples bs {bs} report in {event} of {epoch} {batch}, {said}, different data {differs}'
    def train(rank):
        torch.manual_seed(5)
        cbs = [Asks(event, epoch, batch), *([Stops(*stop, 30)] if stop else [])]
        learn = make(method, make_dls(n - differs*rank, bs), cbs=cbs, path=folder)
        try:
            with learn.distrib_ctx(sync_bn=False, cpu=True): learn.fit(2, LR)
        except CLEAR as e: return str(e)
        except Exception as e:
            if not stop or type(e) is not stop[1]: raise # one that fastai lets out of this event
        report = learn.noise_report().drop(columns='item')
        return dict(weights=weights_of(learn.model), states=states(learn), said=learn.asks.said, report=report.to_csv())
    one,other = in_processes(2, train, folder, 50)
    if isinstance(one, Exception): raise one
    if isinstance(one, str):
        assert one == other, f'one was refused: {one}; the other not: {other}'
        raise Refused(one)
    assert not differs, 'different data were taken'
    assert torch.equal(one['weights'], other['weights']), 'other weights'
    for o in one['states']:
        a,b = one['states'][o],other['states'][o]
        same = torch.equal(a.nan_to_num(-9), b.nan_to_num(-9)) if isinstance(a, torch.Tensor) else a == b
        assert same, f'another {o}'
    assert one['said'] == other['said'] and one['report'] == other['report'], 'other reports'

# texts

CONFIG = {**awd_lstm_clas_config, 'emb_sz': 8, 'n_hid': 8, 'n_layers': 1}

def text_dls(items, labels, bs):
    "fastai's loaders of texts: tokenised, padded, sorted by length"
    def texts(): return [partial(getitem, items), Tokenizer(BaseTokenizer()), Numericalize(min_freq=1)]
    tfms = [texts(), [partial(getitem, labels), Categorize(vocab=['a', 'b'])]]
    n = 2*len(items)//3
    dsets = Datasets(range(len(items)), tfms, splits=[range(n), range(n, len(items))], dl_type=SortedDL)
    return dsets.dataloaders(bs=bs, before_batch=pad_input_chunk, num_workers=0, device='cpu')

@area
def texts(rng, folder):
    "Texts of any length and signs through fastai's text learner: trained, saved, loaded, reported on"
    method = rng.choice([o for o in battery() if 'planted' not in o])
    n,bs = rng.choice((18, 36)),rng.choice((3, 8))
    words = [nasty(rng) for _ in range(6)] + ['good', 'bad', '']
    def text(): return rng.choice((' ', '  ', '\n')).join(rng.choices(words, k=rng.choice((0, 1, 3, 9, 30))))
    items = [text() for _ in range(n)]
    labels = [rng.choice('ab') for _ in range(n)]
    yield f'{method} {n} texts bs {bs}'
    dls = text_dls(items, labels, bs)
    def model():
        torch.manual_seed(0)
        return get_text_classifier(AWD_LSTM, len(dls.vocab[0]), 2, seq_len=6, config=CONFIG)
    def learner():
        kwargs = {'loss_func': CrossEntropyLossFlat(), **setting(method).make(**setting(method).text(model))}
        learn = TextLearner(dls, model(), path=folder, **kwargs)
        learn.remove_cbs(ProgressCallback)
        learn.logger = lambda *_: None
        return learn
    learn = learner()
    try: learn.fit(2, LR)
    except CLEAR as e: refusal(e)
    assert weights_of(learn.model).isfinite().all(), 'the weights are not finite'
    check_answers(learn)
    report = noise_report(learn)
    assert len(report) == len(dls.train.dataset)
    report.to_csv(folder/'issues.csv')
    rows = read_rows(folder/'issues.csv')
    assert len(rows) == len(report) + 1
    page = Path(report.to_html(folder/'report.html')).read_text(encoding='utf-8')
    assert page.count('<script>') == 1 and '<img src=x' not in page, 'a tag of a text'
    learn.save('x')
    other = learner().load('x')
    a,b = states(learn),states(other)
    same = [o for o in a if o in b and (torch.equal(a[o].nan_to_num(-9), b[o].nan_to_num(-9))
                                        if isinstance(a[o], torch.Tensor) else a[o] == b[o])]
    assert len(same) == len(a), f'not loaded: {sorted({*a} - {*same})}'

# disks

@contextlib.contextmanager
def at_most(n_bytes):
    "Files cannot grow beyond, as on a disk that is full"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, limits)

def files_in(folder): return {o.relative_to(folder): o.read_bytes() for o in sorted(folder.rglob('*')) if o.is_file()}

@area
def disks(rng, folder):
    "A file that cannot be written to its end: an OSError that says so, and what was there is as it was"
    what = rng.choice(('save', 'export', 'csv', 'html', 'tasks', 'table', 'audit', 'apply'))
    method,is_new = rng.choice(battery()),rng.random() < .3
    share = rng.choice((0, .01, rng.random(), .99, 1.2))
    yield f'{what} of {method}, {share:.3f} of the bytes, new {is_new}'
    made = folder/'made'
    made.mkdir()
    with contextlib.redirect_stdout(io.StringIO()): write = WRITERS[what](rng, folder, made, method)
    trial = folder/'trial'
    trial.mkdir()
    write(trial)
    whole = files_in(trial)
    if not is_new: write(made)
    before,size = files_in(made),max(map(len, whole.values()))
    try:
        with at_most(int(share*size)): write(made)
    except OSError as e: error = e
    except SystemExit as e:
        assert str(e.code).startswith('fastnoisy: '), f'exit {e.code}'
        error = e
    else: error = None
    after = files_in(made)
    if what == 'audit': # each of its files is whole or as before, and the record knows which
        assert all(len(o) > 0 for o in after.values()) and not [o for o in after if 'part' in o.name]
        for o in {*before} & {*after} - {Path('audit.json')}: assert after[o] == before[o] or len(after[o]) > 50
    elif what == 'table':
        assert all(o.endswith(b'x\n') or o == b'' or o.count(b'\n') == 1 for o in after.values()), 'a torn row'
    elif error is not None and what == 'apply': assert not after, 'half a copy'
    elif error is not None: assert after == before, f'changed: {[str(o) for o in after if after[o] != before.get(o)]}'
    else: assert {*after} >= {*whole} and all(len(after[o]) > .9*len(whole[o]) for o in whole)
    write(made) # when there is space again
    if error is not None: raise Refused(str(error))

def _fitted(folder, method):
    learn = make(method, path=folder)
    learn.fit(1, LR)
    return learn

def _saves(rng, folder, made, method):
    learn = _fitted(folder, method)
    return lambda place: learn.save(place/'x')

def _exports(rng, folder, made, method):
    learn = _fitted(folder, method)
    return lambda place: learn.export(place/'x.pkl')

def _reports(how):
    def writer(rng, folder, made, method):
        report = small_report()
        write = dict(csv=report.to_csv, html=report.to_html, tasks=partial(to_label_studio, report))[how]
        return lambda place: write(place/f'x.{how}')
    return writer

def _tables(rng, folder, made, method):
    def write(place):
        table = Table(place/'t.csv', ['row', 'text'])
        for i in range(20): table.append([dict(row=i, text='x'*rng.choice((1, 50)))])
        assert (table.read().text.str.replace('x', '') == '').all(), 'a torn row'
    return write

def small_source(rng, folder):
    source = folder/'table.csv'
    write_rows(source, [['u', 'v', 'label'], *([rng.random(), rng.random(), rng.choice('xy')] for _ in range(16))])
    return source

def quietly(*args):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        command_line([*map(str, args)])

def _audits(rng, folder, made, method):
    source = small_source(rng, folder)
    return lambda place: quietly('audit', source, '--out', place, '--epochs', 1, '--device', 'cpu')

def _applies(rng, folder, made, method):
    source = small_source(rng, folder)
    quietly('audit', source, '--out', folder/'audit', '--epochs', 1, '--device', 'cpu')
    issues = pd.read_csv(folder/'audit/issues.csv', dtype=str).head(3)
    other = [dict(x='y', y='x')[o] for o in issues.given_label]
    issues.assign(decision='other', new_label=other).to_csv(folder/'decisions.csv', index=False)
    def write(place):
        shutil.rmtree(place/'copy', ignore_errors=True) # nothing is overwritten
        quietly('apply', folder/'decisions.csv', '--audit', folder/'audit', '--out', place/'copy', '--write')
    return write

WRITERS = dict(save=_saves, export=_exports, csv=_reports('csv'), html=_reports('html'), tasks=_reports('tasks'),
               table=_tables, audit=_audits, apply=_applies)

# labels of people, decisions and exports

def hostile_array(rng, n):
    "Labels, probabilities or features of any kind"
    return rng.choice((
        lambda: np.arange(n) % 3, lambda: np.array([nasty(rng) for _ in range(n)]), lambda: np.full(n, np.nan),
        lambda: np.arange(n) % 3 - 1, lambda: np.arange(n)/2, lambda: np.array(3), lambda: np.zeros((n, 2)),
        lambda: np.array([None]*n), lambda: np.array([10**12]*n), lambda: np.arange(n) % 2 == 0, lambda: [],
        lambda: np.random.dirichlet([1]*3, n), lambda: np.random.randn(n, 3), lambda: np.full((n, 3), np.inf),
        lambda: np.random.randn(4, n, 3), lambda: torch.rand(n, 3).softmax(1), lambda: np.zeros((n, 0)),
        lambda: np.ones((n, 1)), lambda: list('ab'*n), lambda: np.array([Runs('ran')]*n, dtype=object)))()

def _read(rng, folder, ran, n):
    "Files of labels"
    kind = rng.choice(('npy', 'npz', 'csv', 'pt', 'txt'))
    file,array = folder/f'labels.{kind}',hostile_array(rng, n)
    if rng.random() < .1: array = np.array([Runs(ran)]*n, dtype=object)
    if kind == 'npy': np.save(file, array, allow_pickle=True)
    elif kind == 'npz':
        name = nasty(rng).replace('/', '_').encode('ascii', 'ignore').decode() or 'a'
        np.savez(file, **{name: array, 'b': array})
    elif kind == 'pt': torch.save(rng.choice((array, {'a': array, 'b': array}, Runs(ran), torch.arange(n))), file)
    else: write_rows(file, [[nasty(rng), 'b'], *([nasty(rng), rng.choice(('1', '2', '', 'x'))] for _ in range(n))])
    if rng.random() < .5: file.write_bytes(damage(rng, file.read_bytes()))
    column = rng.choice((None, 'a', 'b', 0, 1, 7))
    labels = read_labels(file, column)
    assert isinstance(labels, np.ndarray) and labels.dtype != object or kind == 'csv'
    noise = HumanNoise(file, column, rng.choice((None, ['a', 'b'], ['1', '2'])))
    check_noise(noise(torch.arange(n) % 3, 3), n)

def check_noise(noise, n):
    given = torch.as_tensor(noise.given)
    assert given.shape == (n,) and not given.is_floating_point() and given.min() >= 0

def _annotators(rng, folder, ran, n):
    "Two annotators"
    noise = annotator_noise(hostile_array(rng, n), hostile_array(rng, n), rng.choice((None, 2, 3, 10)))
    check_noise(noise(torch.arange(50) % 2, 3), 50)

def _issues(rng, folder, ran, n):
    "`find_label_issues` of what has no Learner"
    names = [o for o in ('pred_probs', 'features', 'logits_history') if rng.random() < .5]
    labels = rng.choice((np.arange(n) % 3, hostile_array(rng, n)))
    fitting = dict(pred_probs=np.random.dirichlet([1]*3, n), features=np.random.randn(n, 4),
                   logits_history=np.random.randn(3, n, 3))
    given = {o: fitting[o] if rng.random() < .6 else hostile_array(rng, n) for o in names}
    vocab = rng.choice((None, None, ['a', 'b', 'c'], [nasty(rng) for _ in range(3)], ['a']))
    report = find_label_issues(labels, vocab=vocab, by_class=rng.random() < .5, **given)
    assert len(report) == len(labels)
    for o in (report.label_quality, report.noise_probability): assert ((o >= 0) & (o <= 1) | o.isna()).all()
    report.to_csv(folder/'issues.csv')
    assert len(read_rows(folder/'issues.csv')) == n + 1
    assert len(to_datalab(report)) == n

def spoilt(rng, o, depth=0):
    "A nested value with a part replaced, left out or repeated"
    if rng.random() < .15: return rng.choice((None, [], {}, 'x', 3, -1, float('nan'), nasty(rng)))
    if isinstance(o, dict):
        return {k: spoilt(rng, v, depth + 1) for k,v in o.items() if rng.random() > .05}
    if isinstance(o, list): return [spoilt(rng, v, depth + 1) for v in o]*rng.choice((1, 1, 1, 2))
    return o

def _studio(rng, folder, ran, n):
    "Label Studio's export, whole or spoilt, and the decisions in it"
    report = small_report()
    tasks = to_label_studio(report, flagged=rng.random() < .5)
    for task in tasks[::rng.choice((1, 2))]:
        label = rng.choice((*report.vocab, nasty(rng)) if rng.random() < .3 else report.vocab)
        result = [dict(from_name='label', to_name='sample', type='choices', value=dict(choices=[label]))]
        task['annotations'] = [dict(result=result, was_cancelled=rng.random() < .2)]
    is_spoilt = rng.random() < .7
    if is_spoilt: tasks = [spoilt(rng, o) for o in tasks]
    (folder/'export.json').write_text(json.dumps(tasks, ensure_ascii=True))
    if rng.random() < .2: (folder/'export.json').write_bytes(damage(rng, (folder/'export.json').read_bytes()))
    decisions = from_label_studio(folder/'export.json')
    changes = report.apply(decisions)
    assert set(changes.new_label) <= set(report.vocab) and (changes.new_label != changes.given_label).all()

def _decisions(rng, folder, ran, n):
    "decisions.csv, whole or damaged"
    report = small_report()
    table = pd.DataFrame(report)[['sample_id', 'item', 'given_label', 'suggested_label']].head(rng.choice((0, 1, 8)))
    table = table.assign(decision=[rng.choice(DECISIONS) for _ in range(len(table))], new_label=table.suggested_label)
    for _ in range(rng.choice((0, 0, 1, 3))):
        if len(table): table = table.astype(object)
        if len(table): table.iat[rng.randrange(len(table)), rng.randrange(6)] = rng.choice((nasty(rng), '', -1, 10**9))
    table.to_csv(folder/'decisions.csv', index=False, sep=rng.choice(',;'), errors='replace')
    if rng.random() < .4: (folder/'decisions.csv').write_bytes(damage(rng, (folder/'decisions.csv').read_bytes()))
    changes = report.apply(folder/'decisions.csv')
    assert set(changes.new_label) <= set(report.vocab) and (changes.new_label != changes.given_label).all()
    before = pd.DataFrame(report).set_index('sample_id')
    assert (before.given_label[changes.sample_id].values == changes.given_label.values).all()

IMPORTS = _read,_annotators,_issues,_studio,_decisions

@area
def exchanged(rng, folder):
    "Labels of people, predictions of others, exports, decisions that come back: taken rightly or refused; nothing runs"
    part,n,ran = rng.choice(IMPORTS),rng.choice((1, 6, 24)),folder/'ran'
    yield f'{part.__name__[1:]} {n}'
    try: part(rng, folder, ran, n)
    except (*CLEAR, OSError) as e:
        assert not ran.exists(), 'a pickle was run'
        raise Refused(str(e)) from e
    assert not ran.exists(), 'a pickle was run'

# processes that are killed

@area
def kills(rng, folder):
    "A training that is killed at any time, loaded and gone on with is the training that was not, bit for bit"
    method,wait = rng.choice([*battery(), *(o for o in VARIANTS if VARIANTS[o].data is None)]),rng.random()
    yield f'{method} after {wait:.3f} of it'
    def learner():
        torch.manual_seed(1)
        learn = make(method, path=folder)
        torch.manual_seed(1)
        return learn
    def fit(learn, **kwargs):
        saves = SaveModelCallback(every_epoch=True, with_opt=True)
        learn.fit_one_cycle(5, LR, cbs=saves, **kwargs)
        return learn
    start = time.time()
    whole = fit(learner())
    took = time.time() - start
    shutil.rmtree(folder/'models')
    pid = os.fork()
    if pid == 0:
        try: fit(learner())
        finally: os._exit(0)
    time.sleep(wait*took)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    files = [o for o in folder.glob('models/model_*.pth') if '.part' not in o.name] # one may be half written
    saved = sorted(files, key=lambda o: int(o.stem.split('_')[1]))
    if not saved: return
    epoch = int(saved[-1].stem.split('_')[1]) + 1
    learn = learner().load(saved[-1].stem)
    if epoch < 5: fit(learn, start_epoch=epoch)
    assert torch.equal(weights_of(learn.model), weights_of(whole.model)), 'other weights'
    a,b = states(learn),states(whole)
    assert a.keys() == b.keys()
    for o in a:
        same = torch.equal(a[o].nan_to_num(-9), b[o].nan_to_num(-9)) if isinstance(a[o], torch.Tensor) else a[o] == b[o]
        assert same, f'another {o}'

@area
def tables(rng, folder):
    "Processes that append to one table and are killed at any time: every row that was written is there, and whole"
    n_writers,file = rng.choice((1, 2, 3)),folder/'t.csv'
    yield f'{n_writers} writers'
    pids = []
    for k in range(n_writers):
        pid = os.fork()
        if pid: pids.append(pid)
        else:
            with open(folder/f'done{k}', 'w', buffering=1) as done:
                for i in range(300):
                    if i % 20 == 0: table = Table(file, ['writer', 'row', 'text'])
                    table.append([dict(writer=k, row=i, text='x'*50)])
                    done.write(f'{i}\n')
            os._exit(0)
    time.sleep(rng.random()*.05)
    if rng.random() < .7: os.kill(rng.choice(pids), signal.SIGKILL)
    for pid in pids: os.waitpid(pid, 0)
    frame = Table(file, ['writer', 'row', 'text']).read()
    assert (frame.text == 'x'*50).all(), 'a torn row'
    for k in range(n_writers):
        noted = folder/f'done{k}'
        done = [int(o) for o in noted.read_text().split('\n')[:-1]] if noted.exists() else []
        rows = frame.row[frame.writer == k].tolist()
        assert rows[:len(done)] == done and len(rows) - len(done) <= 1, f'{len(done)} written, {len(rows)} there'

class Hangs(Exception): "A case that takes longer than any should"

def _hang(*_): raise Hangs('more than a minute')

def run_case(name, seed, seconds=60):
    "What became of it ('held', 'refused' or 'broken'), what it was, and the error"
    rng,folder,text = random.Random(seed),Path(tempfile.mkdtemp()),''
    torch.manual_seed(seed)
    np.random.seed(seed)
    was = signal.signal(signal.SIGALRM, _hang)
    signal.alarm(seconds)
    try:
        case = AREAS[name](rng, folder)
        text = next(case)
        next(case, None)
        return 'held',text,None
    except Refused: return 'refused',text,None
    except Exception as e: return 'broken',text,e
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, was)
        shutil.rmtree(folder, ignore_errors=True)

def run_area(name, seed=0, minutes=math.inf, cases=None):
    "Counts, and one line for each case that broke"
    end,counts,broken = time.time() + 60*minutes,dict(cases=0, held=0, refused=0, broken=0),[]
    while time.time() < end and counts['cases'] != cases:
        became,text,e = run_case(name, seed)
        counts['cases'] += 1
        counts[became] += 1
        if became == 'broken':
            last = traceback.format_exception_only(e)[-1].strip()[:300]
            broken.append(f'{name} --seed {seed} --cases 1: {text}: {last}')
            print(f'  broken: {broken[-1]}', flush=True)
        seed += 1
    return counts,broken

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('areas', nargs='*', help=f'of {", ".join(AREAS)}; default all')
    p.add_argument('--minutes', type=float, default=5., help='for each area')
    p.add_argument('--cases', type=int, help='for each area, at most')
    p.add_argument('--seed', type=int, default=0, help='of the first case; the next has the next')
    p.add_argument('--counts', type=Path, help='JSON file to add the counts to')
    args = p.parse_args()
    unknown = {*args.areas} - AREAS.keys()
    if unknown: p.error(f'{", ".join(sorted(unknown))}: choose from {", ".join(AREAS)}')
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    for name in args.areas or AREAS:
        counts,_ = run_area(name, args.seed, args.minutes, args.cases)
        print(name, *(f'{k} {v}' for k,v in counts.items()), flush=True)
        if args.counts: _add_counts(args.counts, name, counts)

def _add_counts(file, name, counts):
    known = json.loads(file.read_text()) if file.exists() else {}
    old = known.get(name, {})
    file.write_text(json.dumps({**known, name: {k: v + old.get(k, 0) for k,v in counts.items()}}, indent=1))

if __name__ == '__main__': main()

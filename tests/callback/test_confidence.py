"Label confidence: formulas against loops and Theorem 1; Algorithm 1 against a plain PyTorch loop; the peer against a Learner of its own."
import math, warnings
from functools import partial
import matplotlib.pyplot as plt
import numpy as np, pandas as pd, pytest, torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from scipy.spatial.distance import jensenshannon
from torch import nn
from fastai.basics import CrossEntropyLossFlat, Learner, MSELossFlat, OptimWrapper, SGD, Adam, L, DataLoaders, TfmdDL, load_learner, params
from fastai.callback.core import Callback, CancelFitException, CancelStepException
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.mixup import MixUp
from fastai.callback.progress import ProgressCallback
from fastai.callback.schedule import fit_one_cycle, lr_find, fine_tune
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.losses import FocalLossFlat
from fastai.vision.augment import RandTransform
from fastai.torch_core import TensorImage, TensorImageBase
from fasttransform import Pipeline
from fastnoisy.callback.also import ALSOCallback
from fastnoisy.callback.confidence import TwoModelConfidenceCallback
from fastnoisy.callback.dynamics import DynamicsCallback
from fastnoisy.callback.confidence import (confidence_weights, corrected_labels, js_divergence, label_confidence,
                                           moving_average, parameter_distance)
from fastnoisy.core.registry import METHODS
from fastnoisy.core.sample_loss import Labels, sample_losses
from fastnoisy.data.digits import digits_dls
from fastnoisy.models import small_cnn
from fastnoisy.losses.robust import GCELoss, GJSLoss, JSLoss, MAELoss, SCELoss, gce_loss
from fastnoisy.core.sample_loss import soft_losses
from fastnoisy.core.views import SecondView, is_random, shifted
from helpers import Brighten, blob_dls, blob_learner, blobs, run_in_parts, small_model, weights_of
from helpers import AutocastCPU, Spy, Stop, Weigh, snapshot

Confidence = TwoModelConfidenceCallback
TWO = dict(jsd=0., correct_from=1.) # two models without extras

# formulas

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_confidence_in_a_loop(dtype):
    losses = torch.rand(20, dtype=dtype)/.7
    for m,slope in ((0., .5), (-2., .5), (1., 5.)):
        expected = [1/(1 + math.exp(-slope*(-l + .6 + m))) for l in losses.tolist()]
        torch.testing.assert_close(label_confidence(losses, .6, m, slope), torch.tensor(expected, dtype=dtype))

@settings(max_examples=50, deadline=None)
@given(st.floats(0, 3), st.floats(-5, 5), st.floats(.1, 3), st.integers(0, 1000))
def test_first_condition_on_h(mu, m, slope, seed):
    "Section 3.1: falls with the loss, lies in (0, 1), one half where the loss is mu + m; more of it with a larger m"
    losses = (3*torch.rand(30, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).sort().values
    h = label_confidence(losses, mu, m, slope)
    assert (h.diff() <= 0).all() and h[0] > h[-1] and (h > 0).all() and (h < 1).all()
    assert label_confidence(torch.tensor(mu+m, dtype=torch.float64), mu, m, slope).item() == pytest.approx(.5)
    assert (label_confidence(losses, mu, m+1, slope) > h).all()

def test_second_condition_on_h_holds_for_a_large_slope_only():
    "Section 3.1: zero above a threshold"
    above = torch.linspace(.9, 1.4, 20)
    assert label_confidence(above, mu=.7, slope=100.).max() < 1e-8
    assert label_confidence(above, mu=.7, slope=.5).min() > .4

def test_moving_average():
    mu,values = torch.tensor(0.),torch.rand(6, 4)
    for v in values: mu = moving_average(mu, v)
    torch.testing.assert_close(mu, sum(.3*.7**(5-i)*v.mean() for i,v in enumerate(values)))

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_weights_are_equation_8(dtype):
    h,ce,alpha = torch.rand(16, dtype=dtype),torch.rand(16, dtype=dtype),.7
    n_ce = h.sum()
    risk = (h/n_ce*ce).sum() # eq. (2)
    torch.testing.assert_close((confidence_weights(h, alpha)*ce).mean(), alpha*n_ce/(16 - n_ce)*risk)
    assert confidence_weights(torch.ones(3)).isfinite().all()

def theorem_1(h, l, ce, alpha):
    "Right-hand side of eq. (3)"
    return (1 - h.mean())*l.mean() + alpha*(h*ce).mean()

@settings(max_examples=100, deadline=None)
@given(st.sampled_from([.3, .7, 1.]), st.floats(.05, .95), st.integers(1, 40), st.floats(.2, 4), st.integers(0, 10_000))
def test_theorem_1(q, alpha, n, power, seed):
    "For any h that falls and vanishes above g(tau), with alpha*CE <= g on [tau, 1]; here for GCE and (q=1) MAE"
    g = lambda p: (1 - p**q)/q
    grid = torch.linspace(1e-6, 1, 20_001, dtype=torch.float64)[:-1]
    below = (g(grid) + alpha*grid.log() < 0).nonzero()
    threshold = g(grid[below.max()+1]) if len(below) else g(grid[0])
    p = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).clamp(1e-6, 1-1e-9)
    h = (1 - g(p)/threshold).clamp(min=0)**power
    assert theorem_1(h, g(p), -p.log(), alpha) <= g(p).mean() + 1e-9

def test_theorem_1_needs_its_conditions():
    p = torch.tensor([.01, .05, .5, .99], dtype=torch.float64)
    l,ce = (1 - p**.7)/.7,-p.log()
    assert theorem_1(torch.full_like(p, .5), l, ce, .9) > l.mean() # h is not zero above the threshold
    assert theorem_1((p > .4).double(), l, ce, 3.) > l.mean() # alpha is too large

def test_corrected_labels():
    q,y = torch.rand(5, 3).softmax(1),torch.tensor([0, 2, 1, 1, 0])
    expected = torch.stack([.3*torch.eye(3)[k] + .7*row for k,row in zip(y, q)])
    torch.testing.assert_close(corrected_labels(y, q, .7), expected)
    torch.testing.assert_close(corrected_labels(torch.eye(3)[y], q, .7), expected)
    assert torch.equal(corrected_labels(y, q, 0.), F.one_hot(y, 3).float()) and torch.equal(corrected_labels(y, q, 1.), q)

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_js_divergence_is_scipys(dtype):
    a,b = 3*torch.randn(10, 4, dtype=dtype),3*torch.randn(10, 4, dtype=dtype)
    expected = [jensenshannon(x, y)**2 for x,y in zip(a.double().softmax(1).numpy(), b.double().softmax(1).numpy())]
    torch.testing.assert_close(js_divergence(a, b), torch.tensor(expected, dtype=dtype), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(js_divergence(a, a), torch.zeros(10, dtype=dtype), atol=1e-6, rtol=0)
    assert js_divergence(1000*a, -1000*a).max() <= math.log(2) + 1e-6 and js_divergence(a.bfloat16(), b.bfloat16()).dtype == torch.float32

def test_js_divergence_pulls_both():
    a,b = torch.randn(4, 3, dtype=torch.float64, requires_grad=True),torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(js_divergence, (a, b))

def test_parameter_distance():
    a,b = small_model(),small_model(seed=1)
    expected = sum((x-y).double().pow(2).sum().item() for x,y in zip(a.parameters(), b.parameters()))
    assert parameter_distance(a.parameters(), b.parameters()).item() == pytest.approx(expected, rel=1e-5)

@pytest.mark.parametrize('loss_func', [CrossEntropyLossFlat(), nn.CrossEntropyLoss(weight=torch.tensor([1., 2., .5]), label_smoothing=.2),
                                       CrossEntropyLossFlat(reduction='sum'), F.cross_entropy, FocalLossFlat(), GCELoss()])
def test_loss_of_soft_labels_is_the_average_over_hard_ones(loss_func):
    pred,q,y = torch.randn(6, 3),torch.rand(6, 3).softmax(1),torch.tensor([0, 1, 2, 0, 1, 2])
    expected = Labels((y,), soft=q).average(partial(sample_losses, loss_func, pred))
    torch.testing.assert_close(soft_losses(loss_func, pred, q, y), expected)
    mixed = torch.lerp(sample_losses(loss_func, pred, y), soft_losses(loss_func, pred, q, y), .5)
    torch.testing.assert_close(mixed, soft_losses(loss_func, pred, corrected_labels(y, q), y)) # linear in the label

# views

def test_shifted():
    x = torch.arange(16*16.).reshape(1, 1, 16, 16).repeat(40, 3, 1, 1)
    out,middle = shifted(x, 0),slice(2, 14)
    moves = {(i, j) for i in range(-2, 3) for j in range(-2, 3)}
    found = set()
    for o in out:
        assert torch.equal(o[0], o[2])
        at = [(i, j) for i,j in moves if torch.equal(o[0,middle,middle], x[0,0,2+i:14+i,2+j:14+j])]
        assert len(at) == 1
        found |= set(at)
    assert len(found) > 12 and torch.equal(shifted(x, 0), out) and not torch.equal(shifted(x, 1), out)
    assert shifted(torch.rand(2, 1, 3, 1), 0).shape == (2, 1, 3, 1)

class Raw(Callback):
    "Notes what the model sees"
    order,run_valid = 50,False
    def before_fit(self): self.seen,self.views,self.seeds = [],[],[]
    def after_loss(self):
        self.seen.append(self.x.clone())
        cb = getattr(self.learn, 'confidence', None)
        if cb is not None and cb._second is not None:
            self.views.append(cb._second.batch)
            self.seeds.append(cb._second.seed)

def digits_learner(cbs=None, tfms=None, seed=0, dls=None, **kwargs):
    torch.manual_seed(3)
    dls = dls or digits_dls(noise=.4, device='cpu', batch_tfms=tfms, bs=256)
    dls.train.rng.seed(0)
    learn = Learner(dls, small_cnn(3, 10), loss_func=CrossEntropyLossFlat(), cbs=cbs, **kwargs)
    learn.remove_cbs(ProgressCallback)
    torch.manual_seed(5)
    return learn

def fit(learn, n=1, **kwargs):
    with learn.no_logging(): learn.fit(n, 1e-3, **kwargs)
    return learn

def test_two_views_of_one_raw_batch():
    learn,fs = digits_learner([Confidence(), Raw()], Brighten()),None
    pipeline = learn.dls.train.after_batch
    fs,valid_fs = list(pipeline.fs),list(learn.dls.valid.after_batch.fs)
    fit(learn)
    assert list(pipeline.fs) == fs and list(learn.dls.valid.after_batch.fs) == valid_fs
    assert len(learn.raw.views) == 4
    plain = fit(digits_learner([Raw()], Brighten()))
    for (x,y),seen,other in zip(learn.raw.views, learn.raw.seen, plain.raw.seen):
        assert torch.equal(seen, other) # the training's own view is what it would be without the callback
        difference = x - seen
        assert difference.std() < 1e-5 < difference.mean().abs() < 1 # same picture, another number

def test_transforms_that_work_in_place_do_not_meet():
    x = TensorImage(torch.zeros(2, 1, 3, 3))
    pipeline = Pipeline(Brighten(), split_idx=0)
    with SecondView(pipeline) as second:
        second.seed = 5
        first, = pipeline((x,))
    assert first[0,0,0,0] == x[0,0,0,0] > 0 and second.batch[0][0,0,0,0] > 0 and first[0,0,0,0] != second.batch[0][0,0,0,0]

def test_validation_batches_have_no_second_view():
    pipeline = Pipeline(Brighten(), split_idx=1)
    with SecondView(pipeline) as second: pipeline((TensorImage(torch.zeros(2, 1, 3, 3)),))
    assert second.batch is None

def test_views_depend_on_the_step_alone():
    views = lambda cb: torch.stack([x.mean() for x,_ in fit(digits_learner([cb, Raw()], Brighten())).raw.views])
    assert torch.equal(views(Confidence()), views(Confidence())) and not torch.equal(views(Confidence()), views(Confidence(seed=1)))
    learn = fit(digits_learner([Confidence(seed=7), Raw()], Brighten()), 2)
    assert learn.raw.seeds == list(range(7, 15))

def test_is_random():
    assert is_random(digits_dls(device='cpu', batch_tfms=Brighten()).train.after_batch)
    assert not is_random(digits_dls(device='cpu').train.after_batch) and not is_random(lambda b: b)

def test_images_without_augmentation_are_shifted(monkeypatch):
    import fastnoisy.callback.confidence as module
    seen, real = [], module.second_inputs
    def watched(xb, seed, view):
        second = real(xb, seed, view)
        seen.append((seed, torch.equal(second[0], shifted(xb[0], seed))))
        return second
    monkeypatch.setattr(module, 'second_inputs', watched)
    fit(digits_learner([Confidence(seed=7)]))
    assert seen == [(7, True), (8, True), (9, True), (10, True)]

def test_no_second_view_for_tables_and_series():
    with pytest.warns(UserWarning, match='without a second view'): a = fitted(Confidence(correct_from=1.))
    torch.testing.assert_close(weights_of(a.model), weights_of(fitted(Confidence(**TWO)).model), rtol=0, atol=0)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        fitted(Confidence(view=lambda x: x + 1))

def test_view_is_called_with_random_numbers_of_its_own():
    seen = []
    def view(x):
        seen.append(torch.rand(1).item())
        return x
    a = fitted(Confidence(view=view, correct_from=1., jsd=1.), n=1)
    assert len(set(seen)) == 6
    b = fitted(Confidence(view=lambda x: x, correct_from=1., jsd=1.), n=1)
    assert torch.equal(weights_of(a.model), weights_of(b.model))

# Algorithm 1

def fitted(cb, n=3, dls=None, cbs=(), p=.2, train=None, **kwargs):
    torch.manual_seed(7)
    dls = dls or blob_dls()
    dls.train.rng.seed(3)
    learn = blob_learner(cbs=L(cb) + L(cbs), dls=dls, **kwargs)
    learn.model[3].p = p
    with learn.no_logging(): train(learn) if train else learn.fit(n, 1e-2)
    return learn

class Batches(Callback):
    "Keeps the training batches"
    order,run_valid = 1,False
    def before_fit(self): self.seen = []
    def before_batch(self): self.seen.append(tuple(o.clone().as_subclass(torch.Tensor) for o in (self.xb[0], self.yb[0])))

def turned(x): return -x.flip(1)

@pytest.mark.parametrize('options', [dict(), dict(m=1., slope=3., alpha=.5), TWO, dict(penalty=0.), dict(penalty_kind='distillation', penalty=2.),
                                     dict(correct_from=.5, correct_mix=.8), dict(jsd=10., penalty=.1), dict(robust_loss=JSLoss())])
def test_algorithm_1_line_by_line(options):
    "The same batches through a plain PyTorch loop with two models"
    o = dict(m=0., slope=.5, alpha=1., penalty=.01, penalty_kind='euclidean', jsd=1., correct_from=.25, correct_mix=.5, robust_loss=GCELoss()) | options
    batches = Batches()
    learn = fitted(Confidence(view=turned, **o), cbs=[batches], p=0., opt_func=SGD)
    free,robust,mu,n = small_model(),small_model(),0.,len(batches.seen)
    for model in (free, robust): model[3].p = 0.
    opt = torch.optim.SGD([*free.parameters(), *robust.parameters()], lr=1e-2)
    f = type(o['robust_loss'])(reduction='none')
    for i,(x,y) in enumerate(batches.seen):
        z,r = free(x),robust(x)
        with torch.no_grad():
            l = f(r, y)
            mu = .7*mu + .3*l.mean()
            h = torch.sigmoid(o['slope']*(-l + mu + o['m']))
            target = F.one_hot(y, 3).float()
            if i+1 > math.ceil(o['correct_from']*n): target = (1-o['correct_mix'])*target + o['correct_mix']*r.softmax(1)
        loss = f(r, y).mean() + o['alpha']*(h*F.cross_entropy(z, target, reduction='none')).sum()/(1-h).sum()
        if o['jsd']:
            p,q = z.softmax(1),free(turned(x)).softmax(1)
            middle = (p+q)/2
            loss = loss + o['jsd']*((p*(p/middle).log()).sum(1) + (q*(q/middle).log()).sum(1)).mean()/2
        p,q = z.softmax(1),r.softmax(1)
        if o['penalty_kind'] == 'euclidean': apart = sum(((a-b)**2).sum() for a,b in zip(free.parameters(), robust.parameters()))
        else: apart = ((p*(2*p/(p+q)).log()).sum(1) + (q*(2*q/(p+q)).log()).sum(1)).mean()/2
        opt.zero_grad()
        (loss + o['penalty']*apart).backward()
        opt.step()
    torch.testing.assert_close(weights_of(learn.model), weights_of(free), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weights_of(learn.confidence.robust_model), weights_of(robust), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(learn.confidence.mu, torch.as_tensor(mu), rtol=1e-4, atol=1e-5)

def test_single_model_is_equation_4():
    batches = Batches()
    learn = fitted(Confidence(models=1, slope=3.), cbs=[batches], p=0., opt_func=SGD)
    model,mu = small_model(),0.
    model[3].p = 0.
    opt = torch.optim.SGD(model.parameters(), lr=1e-2)
    for x,y in batches.seen:
        z = model(x)
        l = gce_loss(z, y)
        with torch.no_grad():
            mu = .7*mu + .3*l.mean()
            h = torch.sigmoid(3*(-l + mu))
        opt.zero_grad()
        (l.mean() + (h*F.cross_entropy(z, y, reduction='none')).sum()/(1-h).sum()).backward()
        opt.step()
    torch.testing.assert_close(weights_of(learn.model), weights_of(model), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match='no robust model'): learn.confidence.robust_model

def test_a_flat_confidence_is_plain_training():
    learn = fitted(Confidence(slope=1e-9, penalty=0., **TWO), p=0.)
    torch.testing.assert_close(weights_of(learn.model), weights_of(fitted(None, p=0.).model), rtol=1e-3, atol=1e-4)

# the peer follows the Learner

class ScaledCPU(MixedPrecision):
    "fastai's mixed precision with a loss scale, on the CPU"
    def __init__(self, scale): self.scale = scale
    def before_fit(self):
        self.autocast,self.scales = torch.autocast('cpu', dtype=torch.bfloat16),L()
        self.learn.scaler = torch.amp.GradScaler('cpu', init_scale=self.scale, growth_interval=1000)

class SkipOdd(Callback):
    order = MixedPrecision.order
    def before_step(self):
        if self.train_iter % 2: raise CancelStepException

def split(model): return L(model[0], model[1], model[4]).map(params)
def frozen(learn):
    learn.freeze()
    learn.fit(1, 1e-2)
    learn.unfreeze()
    learn.fit(1, slice(1e-4, 1e-2))

TRAININGS = dict(
    plain=dict(), one_cycle=dict(train=lambda learn: learn.fit_one_cycle(2, 1e-2)), sgd=dict(opt_func=partial(SGD, mom=.9), wd=.1),
    moms=dict(train=lambda learn: learn.fit_one_cycle(2, 1e-2, moms=(.8, .5, .9))), wd=dict(wd=.3), wd_bn_bias=dict(wd=.3, wd_bn_bias=True),
    groups=dict(splitter=split, train=lambda learn: learn.fit(2, slice(1e-4, 1e-1))), frozen=dict(splitter=split, train=frozen),
    frozen_without_bn=dict(splitter=split, train_bn=False, train=frozen), fine_tune=dict(splitter=split, train=lambda learn: learn.fine_tune(2)),
    torch_opt=dict(opt_func=partial(OptimWrapper, opt=torch.optim.AdamW), train=lambda learn: learn.fit_one_cycle(2, 1e-2)),
    clip=dict(cbs=lambda: [GradientClip(.05)], opt_func=SGD), accumulate=dict(cbs=lambda: [GradientAccumulation(48)]), skipped=dict(cbs=lambda: [SkipOdd()]),
    bf16=dict(cbs=lambda: [AutocastCPU()]), scaled=dict(cbs=lambda: [ScaledCPU(2.**10)]), overflow=dict(cbs=lambda: [ScaledCPU(2.**127)], n=8),
    scaled_clip=dict(cbs=lambda: [ScaledCPU(2.**10), GradientClip(.05)], opt_func=SGD), again=dict(train=lambda learn: (learn.fit(1), learn.fit(1))),
    reset=dict(train=lambda learn: (learn.fit(1), learn.fit(1, reset_opt=True))))

@pytest.mark.parametrize('name', list(TRAININGS))
def test_peer_is_a_learner_of_its_own_with_the_robust_loss(name):
    "Without penalty the peer learns as if it were alone: same optimizer, schedule, rates, frozen parts, decay, clipping, precision"
    o = {**TRAININGS[name]}
    cbs = o.pop('cbs', list)
    both = fitted(Confidence(penalty=0., **TWO), cbs=cbs(), p=0., **o)
    alone = fitted(None, cbs=cbs(), p=0., loss_func=GCELoss(), **o)
    torch.testing.assert_close(weights_of(both.confidence.robust_model), weights_of(alone.model), rtol=1e-4, atol=1e-5)
    assert (weights_of(alone.model) - weights_of(small_model())).abs().max() > 1e-3 # it did learn
    assert not torch.allclose(weights_of(both.model), weights_of(alone.model), atol=1e-4)

def test_an_overflow_of_the_peer_alone_skips_its_step_and_lowers_the_scale():
    class Huge(Callback):
        "Infinite gradients for the peer in the third batch"
        order = -4
        def before_step(self):
            if self.train_iter == 2: next(self.learn.confidence.robust_model.parameters()).grad[0] = math.inf
    scales = []
    class Look(Callback):
        order,run_valid = 60,False
        def after_batch(self): scales.append(self.learn.scaler.get_scale())
    learn = fitted(Confidence(**TWO), cbs=[ScaledCPU(2.**10), Huge(), Look()], n=1)
    assert scales == [1024, 1024, 512, 512, 512, 512] and weights_of(learn.confidence.robust_model).isfinite().all()

def test_same_modes():
    modes = []
    class Look(Callback):
        order = 50
        def after_loss(self):
            if self.training: modes.append([m.training for m in self.learn.confidence.robust_model.modules()] == [m.training for m in self.model.modules()])
    class Eval(Callback):
        def before_train(self): self.model[1].eval()
    learn = fitted(Confidence(**TWO), cbs=[Look(), Eval()])
    assert modes == [True]*18 and torch.equal(learn.confidence.robust_model[1].running_mean, torch.zeros(8))

def test_a_peer_of_ones_own():
    other = small_model(seed=5)
    start = weights_of(other)
    learn = fitted(Confidence(robust_model=other, **TWO))
    assert learn.confidence.robust_model is other and not torch.equal(weights_of(other), start)
    with pytest.raises(ValueError, match='not those of'): fitted(Confidence(robust_model=nn.Linear(4, 3)))
    learn = blob_learner()
    learn.add_cb(Confidence(robust_model=learn.model))
    with pytest.raises(ValueError, match="Learner's own model"): learn.fit(1)

def test_penalty_draws_the_models_together():
    apart = lambda p,kind='euclidean': parameter_distance(*(o.parameters() for o in (lambda l: (l.model, l.confidence.robust_model))(
        fitted(Confidence(penalty=p, penalty_kind=kind, **TWO), n=6, opt_func=SGD)))).item()
    assert apart(1.) < .5*apart(.01) < apart(0.)

# what comes out

def test_frame():
    learn = fitted(Confidence(**TWO), n=4, dls=blob_dls(labels=torch.where(torch.arange(96) % 4 == 0, (blobs()[1]+1) % 3, blobs()[1])))
    df = learn.confidence.to_frame()
    assert list(df.columns) == ['sample_id', 'label_quality', *(f'confidence_{i}' for i in range(4))]
    assert df.sample_id.tolist() == list(range(96)) and df.label_quality.between(0, 1).all()
    np.testing.assert_allclose(df.label_quality, df.iloc[:,2:].mean(axis=1))
    wrong = df.sample_id % 4 == 0
    assert df.label_quality[wrong].mean() < df.label_quality[~wrong].mean()
    with pytest.raises(ValueError, match='no confidences yet'): Confidence().to_frame()

def test_frame_is_what_the_batches_said():
    spy = Spy()
    learn = fitted(Confidence(alpha=2., **TWO), cbs=[spy], n=1)
    for o in spy.seen:
        h = torch.tensor(learn.confidence.to_frame().confidence_0.values)[o['sample_ids']]
        torch.testing.assert_close(o['sample_weight'], confidence_weights(h, 2.))

def test_frame_of_samples_that_were_not_seen():
    dls = digits_dls(noise=.4, device='cpu', bs=256)
    df = fit(digits_learner([Confidence(jsd=0.)], dls=dls)).confidence.to_frame()
    assert df.confidence_0.notna().sum() == 4*256 and df.label_quality.isna().sum() == len(df) - 4*256

def test_validate_robust():
    learn = fitted(Confidence(**TWO))
    model,own = learn.model,learn.validate()
    alone = blob_learner(dls=learn.dls)
    alone.model.load_state_dict(learn.confidence.robust_model.state_dict())
    assert learn.confidence.validate_robust() == alone.validate() and learn.model is model and learn.validate() == own
    assert list(learn.confidence.validate_robust(0)) == pytest.approx(list(alone.validate(0)), rel=1e-5)
    with pytest.raises(RuntimeError, match='boom'):
        with learn.added_cbs(Stop('before_validate', RuntimeError('boom'))): learn.confidence.validate_robust()
    assert learn.model is model

def test_tracking_changes_nothing_and_is_right():
    counts = []
    class Count(Callback):
        order,run_valid = 50,False
        def after_loss(self):
            if self.epoch < 1: return
            wrong = self.dls.noise.flipped[self.sample_ids]
            counts.append([((o.argmax(1) == self.y) & part).sum() for o in (self.pred, self.learn.confidence._robust_pred) for part in (~wrong, wrong)]
                          + [(~wrong).sum(), wrong.sum()])
    a,b = (fit(digits_learner([Confidence(track=o), Count()]), 2) for o in (True, False))
    assert torch.equal(weights_of(a.model), weights_of(b.model))
    history = a.confidence.history
    n = torch.tensor(counts[:4]).sum(0).double()
    expected = [n[0]/n[4], n[1]/n[5], n[2]/n[4], n[3]/n[5]]
    got = history[['model_clean_train', 'model_noisy_train', 'robust_clean_train', 'robust_noisy_train']].iloc[-1]
    assert got.values == pytest.approx([o.item() for o in expected], rel=1e-5)
    assert list(history.columns) == [f'{m}_{o}' for m in ('model', 'robust') for o in ('test', 'clean_train', 'noisy_train')] and len(history) == 2
    for name,model in (('model', a.model), ('robust', a.confidence.robust_model)):
        a.model = model
        preds,y = a.get_preds(dl=a.dls.test)
        assert history[f'{name}_test'].iloc[-1] == pytest.approx((preds.argmax(1) == y).float().mean().item())
    fig = a.confidence.plot()
    assert len(fig.axes) == 3 and all(len(ax.lines) == 2 for ax in fig.axes)
    assert np.allclose(fig.axes[0].lines[1].get_ydata(), history.robust_test)
    plt.close(fig)
    with pytest.raises(ValueError, match='track=True'): b.confidence.plot()

def test_tracking_without_known_noise_and_with_one_model():
    learn = fitted(Confidence(track=True, models=1), n=2)
    assert list(learn.confidence.history.columns) == ['model_test', 'model_train']
    plt.close(learn.confidence.plot())

# saving

def jittered(x): return x + torch.randn_like(x)

@pytest.mark.parametrize('options', [dict(view=turned, correct_from=0.), dict(view=jittered, correct_from=0.), dict(models=1), dict(track=True, **TWO)])
@pytest.mark.parametrize('opt_func', [Adam, partial(OptimWrapper, opt=torch.optim.Adam)])
def test_resumed_equals_uninterrupted(learner, options, opt_func):
    make = lambda: learner(Confidence(**options), opt_func=opt_func)
    a,b = run_in_parts(make, [4]),run_in_parts(make, [2, 2])
    assert torch.equal(weights_of(a.model), weights_of(b.model)) and torch.equal(a.confidence.mu, b.confidence.mu)
    pd.testing.assert_frame_equal(a.confidence.to_frame(), b.confidence.to_frame())
    if a.confidence.models == 2: assert torch.equal(weights_of(a.confidence.robust_model), weights_of(b.confidence.robust_model))

def test_resumed_in_the_middle_of_a_schedule(learner):
    "With `start_epoch` the correction starts at the same step as without the interruption"
    def run(stops):
        for k,(start,end) in enumerate(stops):
            learn = learner(Confidence(view=turned, correct_from=.4))
            learn.model[3].p = 0.
            learn.dls.train.rng.seed(3)
            for _ in range(start): (learn.dls.train.randomize(), learn.dls.train.get_idxs())
            if k: learn.load('stop')
            class End(Callback):
                def before_epoch(self):
                    if self.epoch == end: raise CancelFitException
            learn.fit_one_cycle(4, 1e-2, start_epoch=start, cbs=End())
            learn.save('stop')
        return learn
    a,b = run([(0, 4)]),run([(0, 1), (1, 4)])
    assert torch.equal(weights_of(a.model), weights_of(b.model)) and torch.equal(weights_of(a.confidence.robust_model), weights_of(b.confidence.robust_model))

def test_saved_file_is_readable_without_the_callback(learner):
    learn = learner(Confidence(**TWO))
    learn.fit(1)
    learn.save('m')
    plain = learner().load('m')
    assert torch.equal(weights_of(plain.model), weights_of(learn.model))
    plain.fit(1)

def test_export_leaves_the_peer_out(learner, tmp_path):
    learn = learner(Confidence(**TWO))
    learn.fit(1)
    learn.export('with.pkl')
    plain = learner()
    plain.model.load_state_dict(learn.model.state_dict())
    plain.export('without.pkl')
    assert (tmp_path/'with.pkl').stat().st_size < (tmp_path/'without.pkl').stat().st_size*1.5
    again = load_learner(tmp_path/'with.pkl')
    assert torch.equal(weights_of(again.model), weights_of(learn.model)) and not hasattr(again, 'confidence')
    assert learn.confidence.robust_model is not None

def test_lr_find_leaves_no_trace(learner):
    learn = learner(Confidence(view=turned))
    learn.lr_find(show_plot=False, num_it=10)
    assert learn.confidence.peer is None and learn.confidence.n_steps == 0 and learn.confidence.mu == 0
    learn.fit(2)
    state = lambda: (weights_of(learn.confidence.robust_model), learn.confidence.mu.clone(), learn.confidence.n_steps, learn.confidence.to_frame().values,
                     [v.clone() for s in learn.confidence.peer.opt.state_dict()['state'] for v in s.values() if torch.is_tensor(v)])
    before = state()
    learn.lr_find(show_plot=False, num_it=10)
    after = state()
    assert torch.equal(before[0], after[0]) and before[1] == after[1] and before[2] == after[2] and np.array_equal(before[3], after[3])
    assert len(before[4]) > 6 and all(torch.equal(a, b) for a,b in zip(before[4], after[4]))

@pytest.mark.parametrize('exc', [CancelFitException, KeyboardInterrupt, RuntimeError('boom')])
@pytest.mark.parametrize('event', ['before_fit', 'before_batch', 'after_loss', 'after_step', 'before_validate'])
def test_whatever_stops_a_fit_leaves_the_learner_whole(exc, event):
    learn = fit(digits_learner([Confidence()], Brighten()))
    state = lambda: {k: v for k,v in snapshot(learn).items() if k != 'attrs'} | dict(fs=list(learn.dls.train.after_batch.fs))
    before = state()
    try: fit(learn, cbs=Stop(event, exc))
    except BaseException as e: assert type(e) is type(exc) or isinstance(exc, type) and isinstance(e, exc)
    else: assert exc is CancelFitException
    assert state() == before
    fit(learn)
    assert weights_of(learn.confidence.robust_model).isfinite().all()

# company

@pytest.mark.parametrize('cbs', [lambda: [AutocastCPU()], lambda: [MixedPrecision('bf16')], lambda: [Weigh(lambda ids: 1 + ids % 2)],
                                 lambda: [ALSOCallback(mode='optimistic')], lambda: [DynamicsCallback(['aum', 'grand'])]])
def test_company(cbs):
    learn = fitted(Confidence(view=turned), cbs=cbs())
    assert np.isfinite(learn.recorder.values[-1]).all() and weights_of(learn.confidence.robust_model).isfinite().all()

def test_dynamics_looks_at_the_first_view_only():
    "GraNd is that of the training's own forward pass, and the peer has no hook"
    a,b = (fitted(Confidence(**o), cbs=[DynamicsCallback(['grand'])], n=1, p=0.) for o in (dict(view=turned, correct_from=1., jsd=1e-12), TWO))
    np.testing.assert_allclose(a.dynamics.scores().grand, b.dynamics.scores().grand, rtol=1e-4)
    assert not any(m._forward_hooks for m in a.confidence.robust_model.modules())

def test_weights_of_other_methods_multiply():
    alone,both = Spy(),Spy()
    fitted(Confidence(**TWO), cbs=[alone], n=1)
    fitted(Confidence(**TWO), cbs=[both, Weigh(lambda ids: 1 + ids % 2)], n=1)
    torch.testing.assert_close(both.seen[0]['sample_weight'], alone.seen[0]['sample_weight']*(1 + alone.seen[0]['sample_ids'] % 2))

def test_mixup():
    "The peer sees the blended samples and the blended loss"
    class Look(Callback):
        order,run_valid = 20,False
        def after_loss(self):
            cb,mix = self.learn.confidence,self.learn.mix_up
            f = lambda y: gce_loss(cb._robust_pred, y)
            torch.testing.assert_close(cb._robust_losses, mix.lam*f(self.yb[0]) + (1-mix.lam)*f(mix.yb1[0]))
    fitted(Confidence(jsd=0.), cbs=[MixUp(.4), Look()])
    with pytest.raises(ValueError, match='MixUp.*jsd=0'): fitted(Confidence(view=turned), cbs=[MixUp(.4)])

@pytest.mark.parametrize('loss_func', [FocalLossFlat(), CrossEntropyLossFlat(weight=torch.tensor([1., 2., .5])), F.cross_entropy,
                                       nn.CrossEntropyLoss(label_smoothing=.1)])
def test_any_loss_of_the_learner(loss_func):
    assert np.isfinite(fitted(Confidence(view=turned), loss_func=loss_func).recorder.values[-1]).all()

def test_a_sum_is_the_batch_size_times_a_mean():
    options = dict(view=turned, penalty=.1)
    a = fitted(Confidence(**options), p=0., opt_func=SGD, loss_func=CrossEntropyLossFlat(reduction='sum'), train=lambda learn: learn.fit(2, 1e-2/16))
    b = fitted(Confidence(**options), p=0., opt_func=SGD, train=lambda learn: learn.fit(2, 1e-2))
    torch.testing.assert_close(weights_of(a.model), weights_of(b.model), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weights_of(a.confidence.robust_model), weights_of(b.confidence.robust_model), rtol=1e-4, atol=1e-5)

@pytest.mark.parametrize('loss', [MAELoss, SCELoss, JSLoss, GJSLoss, CrossEntropyLossFlat])
def test_any_robust_loss(loss): assert 0 < fitted(Confidence(loss(), **TWO)).confidence.mu < 20

def test_a_batch_of_one():
    learn = Learner(blob_dls(n=12, bs=1), nn.Sequential(nn.Linear(4, 3)), loss_func=CrossEntropyLossFlat(), cbs=Confidence(view=turned, m=5., slope=10.))
    with learn.no_bar(), learn.no_logging(): learn.fit(2, 1e-2)
    assert weights_of(learn.model).isfinite().all() and weights_of(learn.confidence.robust_model).isfinite().all()

def test_tables():
    from fastai.tabular.all import Categorify, TabularDataLoaders, tabular_learner
    df = pd.DataFrame({'x': np.arange(60.), 'kind': list('abc')*20, 'y': ['no', 'yes']*30})
    dls = TabularDataLoaders.from_df(df, procs=[Categorify], cat_names=['kind'], cont_names=['x'], y_names='y', valid_idx=range(40, 60), bs=8)
    learn = tabular_learner(dls, cbs=Confidence(jsd=0., track=True))
    with learn.no_bar(), learn.no_logging(): learn.fit(2)
    assert len(learn.confidence.to_frame()) == 40 and len(learn.confidence.history) == 2

def test_wrong_labels_of_the_digits():
    "The full method, ten epochs: its label quality tells the wrong labels"
    from sklearn.metrics import roc_auc_score
    learn = digits_learner([Confidence()])
    with learn.no_logging(): learn.fit_one_cycle(10, 3e-3)
    df,wrong = learn.confidence.to_frame(),learn.dls.noise.flipped.numpy()
    seen = df.label_quality.notna()
    assert roc_auc_score(wrong[seen], -df.label_quality[seen]) > .9

@pytest.mark.parametrize('name, models', [('confidence', 2), ('confidence:two', 2), ('confidence:single', 1)])
def test_registered(name, models):
    cb = METHODS[name].make()['cbs']
    assert isinstance(cb, Confidence) and cb.models == models and (cb.jsd > 0) == (name == 'confidence')

# errors

@pytest.mark.parametrize('options, error', [
    (dict(m=math.nan), 'm=nan'), (dict(m='1'), "m='1'"), (dict(slope=0.), 'slope=0.0'), (dict(alpha=0.), 'alpha=0.0'), (dict(penalty=-1.), 'penalty=-1.0'),
    (dict(jsd=-1.), 'jsd=-1.0'), (dict(correct_from=1.1), 'correct_from=1.1'), (dict(correct_mix=-.1), 'correct_mix=-0.1'),
    (dict(penalty_kind='l1'), "penalty_kind='l1'"), (dict(models=3), 'models=3'), (dict(models=1, robust_model=nn.Linear(1, 1)), 'no peer network')])
def test_wrong_options(options, error):
    with pytest.raises(ValueError, match=error): Confidence(**options)

def test_robust_loss_without_reduction():
    with pytest.raises(TypeError, match='reduction'): Confidence(lambda pred, y: F.cross_entropy(pred, y))
    with pytest.raises(TypeError, match='reduction'): Confidence('gce')

def test_a_model_that_cannot_be_copied():
    class Odd(nn.Linear):
        def __deepcopy__(self, memo): raise RuntimeError('a handle to the outside')
    learn = Learner(blob_dls(), Odd(4, 3), loss_func=CrossEntropyLossFlat(), cbs=Confidence(**TWO))
    with pytest.raises(TypeError, match='Odd cannot be copied: a handle.*robust_model'), learn.no_bar(): learn.fit(1)
    learn.remove_cb(learn.confidence)
    learn.add_cb(Confidence(robust_model=Odd(4, 3), **TWO))
    with learn.no_bar(): learn.fit(1)

def test_an_optimizer_made_already():
    learn = blob_learner(Confidence(**TWO))
    learn.opt_func = OptimWrapper(opt=torch.optim.SGD(learn.model.parameters(), lr=.1))
    with pytest.raises(ValueError, match='opt_func is an optimizer'): learn.fit(1)

def test_another_training_set():
    cb = Confidence(**TWO)
    fitted(cb, n=1).remove_cb(cb)
    with pytest.raises(ValueError, match='96 training samples, and now there are 48'): blob_learner(cb, dls=blob_dls(48)).fit(1)

def test_regression_is_refused():
    x = torch.randn(32, 4)
    dls = DataLoaders(*[TfmdDL(L(zip(x, torch.randn(32, 1))), bs=8, num_workers=0)]*2)
    with pytest.raises(TypeError, match='regression targets are not supported by TwoModelConfidenceCallback'), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        learn = Learner(dls, nn.Linear(4, 1), loss_func=MSELossFlat(), cbs=Confidence(**TWO))
        with learn.no_bar(): learn.fit(1)

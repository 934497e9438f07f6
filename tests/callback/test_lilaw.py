"LiLAW: equations against loops, bounds and autograd; Algorithm 1 against a plain PyTorch loop; the callback in company."
import math
from types import SimpleNamespace
import matplotlib.pyplot as plt
import numpy as np, pytest, torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn
from fastai.basics import BCEWithLogitsLossFlat, CrossEntropyLossFlat, DataLoaders, L, Learner, MSELossFlat, SGD, TfmdDL
from fastai.callback.core import Callback, CancelStepException
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.progress import ProgressCallback
from fastai.callback.schedule import lr_find, fine_tune
from fastai.callback.training import GradientAccumulation
from fastai.losses import FocalLossFlat
from fastnoisy.callback.lilaw import (TERMS, LiLAWCallback, LiLAWState, difficulty, in_order, lilaw_gradient,
                                      lilaw_terms, plot_weights, terms_at)
from fastnoisy.core.registry import METHODS
from fastnoisy.core.sample_loss import Labels
from helpers import blob_dls, blob_learner, blobs, fitted_blobs, run_in_parts, weights_of
from helpers import AutocastCPU, Relabel, Stop, Weigh, image_learner

def batch(n=32, k=5, dtype=torch.float32, scale=2.):
    logits,y = scale*torch.randn(n, k, dtype=dtype),torch.randint(k, (n,))
    return logits.softmax(1), y, F.cross_entropy(logits, y, reduction='none')

# equations

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_terms_in_a_loop(dtype):
    probs,y,_ = batch(dtype=dtype)
    for got,p,label in zip(lilaw_terms(probs, y, 9., 3., 7.), probs, y):
        s,m = p[label].item(),p.max().item()
        expected = [1/(1+math.exp(-(9*s-m))), 1/(1+math.exp(3*s-m)), math.exp(-(7*s-m)**2/2)]
        torch.testing.assert_close(got, torch.tensor(expected, dtype=dtype))

def test_paper_table_5_right_half():
    probs = torch.tensor([[.95,.05], [.60,.40], [.40,.60], [.05,.95]])
    printed = torch.tensor([[.999,.130,.000,1.129], [.992,.231,.002,1.225], [.953,.354,.089,1.396], [.378,.690,.835,1.903]])
    terms = lilaw_terms(probs, torch.zeros(4).long(), 9, 3, 7)
    got = torch.cat([terms, terms.sum(1, keepdim=True)], 1)
    assert ((got - printed).abs() < 1.01e-3).all() # printed with three digits, some cut and some rounded
    losses = -probs[:,0].log()
    assert ((got[:,3]*losses - torch.tensor([.058, .626, 1.279, 5.700])).abs() < 2e-3).all()

def test_paper_table_5_left_half_is_not_the_equations():
    printed_beta = torch.tensor([.500, .500, .550, .812])
    probs = torch.tensor([[.95,.05], [.60,.40], [.40,.60], [.05,.95]])
    got = lilaw_terms(probs, torch.zeros(4).long(), 10, 2, 6)[:,1]
    assert (got - printed_beta).abs().max() > .1

@settings(max_examples=50, deadline=None)
@given(st.integers(2, 20), st.floats(1, 20), st.floats(0, 1), st.floats(0, 1), st.integers(0, 10_000))
def test_bounds(k, alpha, f, g, seed):
    "Bounds (9) and (12), and the range of (4)"
    beta = 1 + f*(alpha-1)
    delta = beta + g*(alpha-beta)
    gen = torch.Generator().manual_seed(seed)
    probs = (10*torch.randn(50, k, generator=gen, dtype=torch.float64)).softmax(1)
    a,b,d = lilaw_terms(probs, torch.randint(k, (50,), generator=gen), alpha, beta, delta).unbind(1)
    sigma,eps = lambda v: 1/(1+math.exp(-v)),1e-9
    assert sigma(-1) - eps <= a.min() and a.max() <= sigma(alpha-1) + eps
    assert sigma(1-beta) - eps <= b.min() and b.max() <= sigma(1) + eps
    assert 0 <= d.min() and d.max() <= 1

def test_contradicted_sample_keeps_a_weight_above_one():
    m = torch.linspace(.3, 1, 50)
    for abd in ((10, 2, 6), (10, 1, 1), (1, 1, 1)):
        w = terms_at(torch.zeros(50), m, *abd).sum(1)
        torch.testing.assert_close(w, 1 + torch.exp(-m**2/2))

@settings(max_examples=50, deadline=None)
@given(st.floats(1, 12), st.floats(0, 12), st.floats(0, 12), st.integers(0, 10_000))
def test_derivatives_and_their_signs(alpha, beta, delta, seed):
    torch.manual_seed(seed)
    probs,y,losses = batch(dtype=torch.float64)
    params = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (alpha, beta, delta)]
    (lilaw_terms(probs, y, *params).sum(1)*losses).mean().backward()
    grad = lilaw_gradient(*difficulty(probs, y), losses, alpha, beta, delta)
    torch.testing.assert_close(grad, torch.stack([p.grad for p in params]))
    assert grad[0] >= 0 and grad[1] <= 0

def test_derivatives_as_printed():
    "A.2 with the fourth line for delta"
    probs,y,losses = batch(dtype=torch.float64)
    (s,m),a,b,d = difficulty(probs, y),10.,2.,6.
    wa,wb,wd = lilaw_terms(probs, y, a, b, d).unbind(1)
    printed = torch.stack([losses*wa**2*s/torch.exp(a*s-m), -losses*wb**2*s/torch.exp(-(b*s-m)), -losses*wd*(d*s-m)*s]).mean(1)
    torch.testing.assert_close(lilaw_gradient(s, m, losses, a, b, d), printed)

@pytest.mark.parametrize('used', [TERMS, ('alpha',), ('beta', 'delta'), ('delta',)])
def test_weights_in_closed_form(used):
    "What training uses, against the definition and autograd, in 64 bits"
    probs,y,_ = batch(dtype=torch.float64)
    state = LiLAWState(7., 1.5, 3., terms=used)
    s = torch.stack(difficulty(probs, y)).requires_grad_()
    columns = [TERMS.index(o) for o in used]
    expected = terms_at(*s, 7., 1.5, 3.)[:,columns].sum(1)
    got = state.weights_at(s)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(state.weights(*s), expected)
    g = torch.randn(32, dtype=torch.float64)
    torch.testing.assert_close(*(torch.autograd.grad(o, s, g)[0] for o in (got, expected)))
    assert torch.autograd.gradcheck(state.weights_at, s)

def test_weights_are_not_differentiated_twice():
    "An error, and no gradient that leaves something out"
    s = torch.tensor([[.5], [.5]], requires_grad=True)
    first, = torch.autograd.grad((LiLAWState().weights_at(s)*s[0]).sum(), s, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'): first.sum().backward()

@pytest.mark.parametrize('kind', ['hard', 'mixed', 'soft'])
def test_gradient_of_the_logits(kind):
    "Through the probabilities of the label and of the favourite class, whatever labels are in force"
    z,(y,other) = torch.randn(32, 5, requires_grad=True),torch.randint(5, (2, 32))
    soft,lam = torch.rand(32, 5).softmax(1),torch.rand(32)
    mixer = SimpleNamespace(yb1=(other,), lam=lam)
    labels = Labels((y,), **dict(hard={}, mixed=dict(mixer=mixer), soft=dict(soft=soft))[kind])
    own,of_partner = (F.one_hot(o, 5).float() for o in (y, other))
    probs,q = z.softmax(1),dict(hard=own, soft=soft, mixed=torch.lerp(of_partner, own, lam[:,None]))[kind]
    expected = terms_at((q*probs).sum(1), probs.amax(1), 10., 2., 6.).sum(1)
    got = LiLAWCallback()._weights(z, labels)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(*(torch.autograd.grad(o.sum(), z)[0] for o in (got, expected)), rtol=1e-4, atol=1e-5)

def test_permuting_the_batch_permutes_the_terms():
    probs,y,_ = batch()
    i = torch.randperm(32)
    torch.testing.assert_close(lilaw_terms(probs[i], y[i]), lilaw_terms(probs, y)[i])

def test_one_hot_is_hard_and_soft_is_expected():
    probs,y,_ = batch()
    torch.testing.assert_close(lilaw_terms(probs, F.one_hot(y, 5).float()), lilaw_terms(probs, y))
    q = torch.rand(32, 5).softmax(1)
    torch.testing.assert_close(difficulty(probs, q)[0], (probs*q).sum(1))

@pytest.mark.parametrize('given, kept', [
    ((10., 2., 6.), (10., 2., 6.)), ((.5, .2, .4), (1., .2, .4)), ((5., 2., 6.), (5., 2., 5.)), ((5., 4., 3.), (5., 4., 4.)), ((3., 4., 2.), (3., 3., 3.))])
def test_order(given, kept): torch.testing.assert_close(in_order(torch.tensor(given)), torch.tensor(kept))

def test_state_step_and_path():
    probs,y,losses = batch()
    s = LiLAWState(lr=(.1, .2, .3), wd=(.01, 0., .02))
    g = lilaw_gradient(*difficulty(probs, y), losses, 10., 2., 6.)
    expected = torch.tensor([10 - .1*(g[0]+.1), 2 - .2*g[1], 6 - .3*(g[2]+.12)])
    s.step(*difficulty(probs, y), losses)
    torch.testing.assert_close(s.params, expected)
    for _ in range(2100): s.step(*difficulty(probs, y), losses)
    assert s.path.shape == (2101, 3) and np.allclose(s.path[0], expected) and np.allclose(s.path[-1], s.params)

def test_state_of_some_terms():
    probs,y,losses = batch()
    s = LiLAWState(terms=['alpha', 'delta'])
    torch.testing.assert_close(s.weights(*difficulty(probs, y)), lilaw_terms(probs, y)[:,[0, 2]].sum(1))
    s.step(*difficulty(probs, y), losses)
    assert s.params[1] == 2. and (s.params[[0, 2]] != torch.tensor([10., 6.])).all()

def test_what_is_saved_is_no_more_than_the_path():
    "The three numbers are a row of it, but not in the file"
    probs,y,losses = batch()
    s = LiLAWState()
    for _ in range(3): s.step(*difficulty(probs, y), losses)
    assert [o.untyped_storage().nbytes() for o in s.state_dict().values()] == [12, 36]
    kept = s.state_dict()
    s.step(*difficulty(probs, y), losses)
    assert kept['params'].tolist() == s.path[2].tolist() != s.path[3].tolist()
    other = LiLAWState()
    other.load_state_dict(kept)
    other.step(*difficulty(probs, y), losses)
    assert np.array_equal(other.path, s.path)

def test_not_finite_values_are_not_taken():
    s = LiLAWState()
    s.step(torch.tensor([.5]), torch.tensor([.5]), torch.tensor([float('nan')]))
    assert not s.finite and s.params.tolist() == [10., 2., 6.]

# Algorithm 1

class Batches(Callback):
    "Keeps the training batches"
    order,run_valid = 1,False
    def before_fit(self): self.seen = []
    def before_batch(self): self.seen.append((self.xb[0].clone(), self.yb[0].clone()))

class MetaBatches(LiLAWCallback):
    "Keeps the validation batches"
    def begin_fit(self):
        self.drawn = []
        super().begin_fit()
    def _draw(self):
        b = super()._draw()
        self.drawn.append(b)
        return b

@pytest.mark.parametrize('detach', [False, True])
@pytest.mark.parametrize('wd, lr', [(1e-4, 5e-3), (1e-2, .5)])
def test_algorithm_1_line_by_line(detach, wd, lr):
    "The same batches through a plain PyTorch loop with autograd for the three numbers"
    model = nn.Linear(4, 3)
    start = {k: v.clone() for k,v in model.state_dict().items()}
    batches,cb = Batches(),MetaBatches(warmup=0, detach=detach, wd=wd, lr=lr)
    learn = Learner(blob_dls(), model, loss_func=CrossEntropyLossFlat(), opt_func=SGD, cbs=[cb, batches])
    with learn.no_bar(), learn.no_logging(): learn.fit(2, .1)

    ref = nn.Linear(4, 3)
    ref.load_state_dict(start)
    opt = torch.optim.SGD(ref.parameters(), lr=.1)
    abd = [torch.tensor(v, requires_grad=True) for v in (10., 2., 6.)]
    def weighted(x, y, detach):
        logits = ref(x)
        w = lilaw_terms(logits.softmax(1), y, *abd).sum(1)
        return ((w.detach() if detach else w) * F.cross_entropy(logits, y, reduction='none')).mean()
    for (x,y),(vx,vy) in zip(batches.seen, cb.drawn):
        opt.zero_grad()
        weighted(x.as_subclass(torch.Tensor), y.as_subclass(torch.Tensor), detach).backward()
        opt.step()
        grads = torch.autograd.grad(weighted(vx[0].as_subclass(torch.Tensor), vy[0].as_subclass(torch.Tensor), False), abd)
        with torch.no_grad():
            for p,g in zip(abd, grads): p -= lr*(g + wd*p)
    torch.testing.assert_close(ref.weight, model.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.tensor([cb.alpha, cb.beta, cb.delta]), torch.stack(abd).detach(), rtol=1e-4, atol=1e-5)
    assert len(cb.state.path) == 12

def fitted(cb, n=3, dls=None, cbs=(), **kwargs): return fitted_blobs([cb, *cbs], n, dls, **kwargs)

def test_warmup_is_plain_training():
    plain = blob_dls()
    plain.train.rng.seed(3)
    torch.manual_seed(7)
    learn = blob_learner(dls=plain)
    learn.fit(2, 1e-2)
    assert torch.equal(weights_of(fitted(LiLAWCallback(warmup=2), n=2).model), weights_of(learn.model))
    assert not torch.equal(weights_of(fitted(LiLAWCallback(warmup=1), n=2).model), weights_of(learn.model))

def test_meta_step_does_not_disturb_training():
    "With weights whose sum is constant (lr 0), what the validation batches are makes no difference"
    a = fitted(LiLAWCallback(warmup=0, lr=0.))
    b = fitted(LiLAWCallback(warmup=0, lr=0., seed=99, meta_bs=5, meta_mode='train'))
    c = fitted(LiLAWCallback(warmup=0, lr=0., meta_every=10**6))
    assert torch.equal(weights_of(a.model), weights_of(b.model)) and torch.equal(weights_of(a.model), weights_of(c.model))
    for x,y in zip(a.opt.state_dict()['state'], c.opt.state_dict()['state']):
        assert torch.equal(x['grad_avg'], y['grad_avg'])

def test_meta_modes_differ():
    a,b = fitted(LiLAWCallback(lr=.5)),fitted(LiLAWCallback(lr=.5, meta_mode='train'))
    assert a.lilaw.alpha != b.lilaw.alpha

def test_parameters_move_the_way_the_signs_say():
    p = fitted(LiLAWCallback(warmup=0, lr=.05, wd=0.)).lilaw.state.path
    assert p.shape == (18, 3) and (np.diff(p[:,0]) <= 0).all() and (np.diff(p[:,1]) >= 0).all() and p[-1,0] < 10 and p[-1,1] > 2

def test_meta_every_and_recorder_columns():
    learn = fitted(LiLAWCallback(warmup=1, meta_every=4))
    assert len(learn.lilaw.state.path) == 3 # 12 steps after the warm-up
    assert learn.recorder.metric_names[-4:-1] == ['alpha', 'beta', 'delta']
    assert learn.recorder.values[0][-3:] == [10., 2., 6.]
    assert learn.recorder.values[-1][-3:] == [learn.lilaw.alpha, learn.lilaw.beta, learn.lilaw.delta]

def test_one_step_per_optimizer_step():
    learn = fitted(LiLAWCallback(warmup=0), n=2, cbs=[GradientAccumulation(48)])
    assert len(learn.lilaw.state.path) == 4

def test_a_skipped_step_is_no_lilaw_step():
    class SkipOdd(Callback):
        order = MixedPrecision.order
        def before_step(self):
            if self.train_iter % 2: raise CancelStepException
    assert len(fitted(LiLAWCallback(warmup=0), n=2, cbs=[SkipOdd()]).lilaw.state.path) == 6

@pytest.mark.parametrize('meta_bs, expected', [(None, 16), (5, 5), (100, 48)])
def test_meta_batch_size(meta_bs, expected):
    "By default that of the training loader, whatever the validation loader has; never more than the data"
    cb = MetaBatches(warmup=0, meta_bs=meta_bs)
    fitted(cb, n=1, dls=blob_dls(val_bs=32))
    assert {len(yb[0]) for _,yb in cb.drawn} == {expected}

def test_own_meta_dl():
    x,y = blobs(20, seed=5)
    meta_dl = TfmdDL(L(zip(x, y)), bs=10, num_workers=0)
    cb = MetaBatches(warmup=0, meta_dl=meta_dl)
    fitted(cb)
    rows = torch.cat([xb[0] for xb,_ in cb.drawn]).as_subclass(torch.Tensor)
    assert (torch.cdist(rows, x, compute_mode='donot_use_mm_for_euclid_dist').min(1).values < 1e-4).all()
    cb = LiLAWCallback(warmup=0, meta_dl=torch.utils.data.DataLoader(list(zip(x, y)), batch_size=10))
    assert len(fitted(cb).lilaw.state.path) == 18

def test_training_without_a_validation_set_but_with_meta_dl():
    dls = blob_dls()
    meta = dls.valid
    learn = blob_learner(LiLAWCallback(warmup=0, meta_dl=meta), dls=DataLoaders(dls.train, dls.valid.new(dls.valid.dataset.new_empty())))
    learn.fit(1)
    assert len(learn.lilaw.state.path) == 6

# company

def test_mixup_uses_the_blended_label():
    spy = {}
    class Look(Callback):
        order,run_valid = 20,False
        def after_loss(self):
            probs,mix = self.pred.softmax(1),self.learn.mix_up
            pick = lambda y: probs.gather(1, y[:,None])[:,0]
            s = mix.lam*pick(self.yb[0]) + (1-mix.lam)*pick(mix.yb1[0])
            torch.testing.assert_close(self.sample_weight, terms_at(s, probs.amax(1), *self.lilaw.state.params).sum(1), rtol=1e-4, atol=1e-4)
            spy['n'] = spy.get('n', 0) + 1
    fitted(LiLAWCallback(warmup=0, meta_every=100), n=1, cbs=[MixUp(.4), Look()])
    assert spy['n'] == 6

@pytest.mark.parametrize('cbs', [[MixUp(.4)], [AutocastCPU()], [MixedPrecision('bf16')], [Weigh(lambda ids: 1 + ids % 2)],
                                 [Relabel(torch.full((96, 3), 1/3))], [Relabel(torch.zeros(96).long())]])
def test_company(cbs):
    learn = fitted(LiLAWCallback(), cbs=cbs)
    assert np.isfinite(learn.recorder.values[-1]).all() and len(learn.lilaw.state.path) == 12

def test_autocast_covers_the_meta_step():
    kinds = []
    class Look(nn.Linear):
        def forward(self, x):
            out = super().forward(x)
            kinds.append((torch.is_grad_enabled(), out.dtype))
            return out
    learn = Learner(blob_dls(), nn.Sequential(Look(4, 3)), loss_func=CrossEntropyLossFlat(), cbs=[LiLAWCallback(warmup=0), AutocastCPU()])
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert kinds.count((True, torch.bfloat16)) == 6 and kinds.count((False, torch.bfloat16)) == 6 + 3 # steps, meta-steps, validation

def test_cutmix():
    learn = image_learner([LiLAWCallback(warmup=0), CutMix(1.)])
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-2)
    assert len(learn.lilaw.state.path) == 4

@pytest.mark.parametrize('loss_func', [FocalLossFlat(), CrossEntropyLossFlat(weight=torch.tensor([1., 2., .5])), F.cross_entropy,
                                       CrossEntropyLossFlat(reduction='sum'), nn.CrossEntropyLoss(label_smoothing=.1)])
def test_any_sample_loss(loss_func):
    learn = fitted(LiLAWCallback(), loss_func=loss_func)
    assert np.isfinite(learn.recorder.values[-1]).all() and learn.lilaw.alpha < 10

def test_in_a_learner_with_everything(learner):
    learn = learner(LiLAWCallback(warmup=1))
    learn.lr_find(show_plot=False, num_it=10)
    assert learn.lilaw.n_epochs == 0
    learn.fine_tune(2) # one frozen epoch, the warm-up, then two
    assert learn.lilaw.n_epochs == 3 and len(learn.lilaw.state.path) == 12
    before = learn.lilaw.state.path[-1].tolist()
    learn.lr_find(show_plot=False, num_it=10)
    assert learn.lilaw.state.path[-1].tolist() == before and len(learn.lilaw.state.path) == 12
    assert len(learn.validate()) == 2 and learn.get_preds()[0].shape == (48, 3)
    learn.export('l.pkl')

def test_lr_find_may_diverge(learner):
    "After the warm-up too: the search makes no LiLAW step that could meet a NaN"
    learn = learner(LiLAWCallback(warmup=0), opt_func=SGD)
    learn.lr_find(start_lr=1., end_lr=1e30, num_it=20, stop_div=False, show_plot=False, suggest_funcs=())
    assert len(learn.lilaw.state.path) == 0 and weights_of(learn.model).isfinite().all()

def test_fit_twice_goes_on():
    twice,once = LiLAWCallback(warmup=1),LiLAWCallback(warmup=1)
    learn = fitted(twice, n=2)
    learn.fit(1, 1e-2)
    assert twice.n_epochs == 3 and len(twice.state.path) == 12

def test_resumed_equals_uninterrupted(learner):
    "The three numbers and the validation batches go on where they stopped"
    make = lambda: learner(MetaBatches(warmup=1, lr=.5), opt_func=SGD)
    a,b = run_in_parts(make, [4]),run_in_parts(make, [2, 2])
    assert torch.equal(weights_of(a.model), weights_of(b.model))
    assert np.array_equal(a.lilaw.state.path, b.lilaw.state.path)

@pytest.mark.parametrize('exc', [KeyboardInterrupt, RuntimeError('boom')])
def test_interrupted(exc):
    learn = fitted(LiLAWCallback(warmup=0), n=1)
    with pytest.raises(BaseException, match='boom' if not isinstance(exc, type) else None): learn.fit(1, cbs=Stop('after_step', exc))
    assert learn.lilaw._batches.batches is None and [m.name for m in learn.metrics] == ['accuracy']
    learn.fit(1)

def test_num_workers():
    assert np.array_equal(fitted(LiLAWCallback(warmup=0), dls=blob_dls()).lilaw.state.path,
                          fitted(LiLAWCallback(warmup=0), dls=blob_dls(num_workers=2)).lilaw.state.path)

def test_plots():
    learn = fitted(LiLAWCallback())
    for fig,n in ((learn.lilaw.plot(), 1), (learn.lilaw.plot_weights(), 8), (plot_weights(), 8)):
        assert len(fig.axes) == n
        plt.close(fig)
    lines = learn.lilaw.plot().axes[0].lines
    assert [len(o.get_xdata()) for o in lines] == [12]*3 and np.allclose(lines[0].get_ydata(), learn.lilaw.state.path[:,0])
    with pytest.raises(ValueError, match='no step yet'): LiLAWCallback().plot()

def test_registered(): assert isinstance(METHODS['lilaw'].make()['cbs'], LiLAWCallback)

# errors

@pytest.mark.parametrize('kwargs, name', [
    (dict(alpha=.5), 'alpha'), (dict(alpha='high'), "alpha='high': give a finite number"), (dict(alpha=5.), 'alpha, beta, delta'), (dict(beta=7.), 'alpha, beta, delta'), (dict(terms=()), 'terms'),
    (dict(terms='gamma'), 'terms'), (dict(lr=-1.), 'lr'), (dict(wd=(1., 2.)), 'wd'), (dict(warmup=-1), 'warmup'), (dict(meta_every=0), 'meta_every'),
    (dict(meta_bs=0), 'meta_bs'), (dict(meta_mode='test'), 'meta_mode')])
def test_wrong_arguments(kwargs, name):
    with pytest.raises(ValueError, match=name): LiLAWCallback(**kwargs)

def dls_with(targets, valid_targets=None):
    x,n = blobs()[0],len(targets)
    items = lambda t: L((x[i], t[i]) for i in range(n))
    return DataLoaders(TfmdDL(items(targets), bs=8, num_workers=0), TfmdDL(items(targets if valid_targets is None else valid_targets), bs=8, num_workers=0),
                       device='cpu')

@pytest.mark.parametrize('targets, loss_func', [
    (F.one_hot(torch.arange(24) % 3).float(), BCEWithLogitsLossFlat()), (F.one_hot(torch.arange(24) % 3), BCEWithLogitsLossFlat()),
    (torch.randn(24), MSELossFlat())])
def test_targets_that_are_no_class_ids(targets, loss_func):
    learn = blob_learner(LiLAWCallback(warmup=0), dls=dls_with(targets), loss_func=loss_func, metrics=None)
    before = weights_of(learn.model)
    with pytest.raises(TypeError, match='class id'): learn.fit(1)
    assert torch.equal(weights_of(learn.model), before)

def test_no_validation_data():
    dls = blob_dls()
    empty = dls.valid.new(dls.valid.dataset.new_empty())
    for loaders in ([dls.train], [dls.train, empty]):
        learn = blob_learner(LiLAWCallback(), dls=DataLoaders(*loaders))
        with pytest.raises(ValueError, match='meta_dl'): learn.fit(1)

def test_validation_data_without_targets():
    learn = blob_learner(LiLAWCallback(meta_dl=TfmdDL(L((o,) for o in blobs()[0]), bs=4, num_workers=0)))
    with pytest.raises(ValueError, match='no targets'): learn.fit(1)

def test_one_class():
    learn = Learner(dls_with(torch.zeros(24).long()), nn.Linear(4, 1), loss_func=CrossEntropyLossFlat(), cbs=LiLAWCallback(warmup=0))
    learn.remove_cbs(ProgressCallback)
    with pytest.raises(TypeError, match='K >= 2'): learn.fit(1)

def test_nan_logits():
    class Breaks(nn.Linear):
        def forward(self, x): return super().forward(x) + (float('nan') if not torch.is_grad_enabled() else 0.)
    learn = Learner(blob_dls(), Breaks(4, 3), loss_func=CrossEntropyLossFlat(), cbs=LiLAWCallback(warmup=0))
    learn.remove_cbs(ProgressCallback)
    with pytest.raises(ValueError, match='NaN'): learn.fit(1)
    assert (learn.lilaw.alpha, learn.lilaw.beta, learn.lilaw.delta) == (10., 2., 6.)

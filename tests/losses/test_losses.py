"""fastnoisy.losses against the formulas written as Python loops, limit cases, the authors' gradients, and fastai"""
import copy
import math
import pickle
import weakref
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from fastai.callback.all import GradientAccumulation, MixUp, ProgressCallback
from fastai.data.core import Datasets
from fastai.interpret import Interpretation
from fastai.learner import Callback, Learner, load_learner
from fastai.losses import CrossEntropyLossFlat, FocalLossFlat, LabelSmoothingCrossEntropyFlat
from fastai.optimizer import SGD
from fastai.torch_core import TensorBase, TensorCategory
from hypothesis import given, settings, strategies as st
from torch import nn

import fastnoisy.losses as losses_module
import fastnoisy.losses.base as base
from fastnoisy.losses import *
from fastnoisy.losses.tempered import tempered_softmax

A = -math.log(1e-4)

# The formulas, one sample at a time: p and q are lists of probabilities (q the target), K their number

def ce(p, q): return -sum(qk*math.log(pk) for pk, qk in zip(p, q))
def focal(p, q, alpha=1., gamma=2.): return -alpha*sum(qk*(1-pk)**gamma*math.log(pk) for pk, qk in zip(p, q))
def mae(p, q): return sum(abs(pk-qk) for pk, qk in zip(p, q))/2
def rce(p, q): return -sum(pk*math.log(max(qk, 1e-4)) for pk, qk in zip(p, q))
def gce(p, q, power=.7): return sum(qk*(1-pk**power)/power for pk, qk in zip(p, q))
def kl(a, b): return sum(ak*math.log(ak/bk) for ak, bk in zip(a, b) if ak > 0)
def entropy(p): return -sum(pk*math.log(pk) for pk in p)
def one_hot(k, n): return [float(i == k) for i in range(n)]
def normalised(loss, p, q): return loss(p, q)/sum(loss(p, one_hot(k, len(p))) for k in range(len(p)))
def smoothed(p, q, s): return ce(p, [(1-s)*qk + s/len(p) for qk in q])
def bootstrapped(p, q, trust): return ce(p, [trust*qk + (1-trust)*pk for pk, qk in zip(p, q)])
def bootstrapped_hard(p, q, trust): return ce(p, [trust*qk + (1-trust)*bk for qk, bk in zip(q, one_hot(p.index(max(p)), len(p)))])
def gjs(ps, q, pi):
    m = [pi*qk + (1-pi)*sum(p[k] for p in ps)/len(ps) for k, qk in enumerate(q)]
    return (pi*kl(q, m) + sum((1-pi)/len(ps)*kl(p, m) for p in ps)) / (-(1-pi)*math.log(1-pi))

def taylor(p, q, order): return sum(qk*sum((1-pk)**j/j for j in range(1, order+1)) for pk, qk in zip(p, q))
def agce(p, q, a, power): return sum(qk*((a+1)**power - (a+pk)**power)/power for pk, qk in zip(p, q))
def aul(p, q, a, power): return sum(qk*((a-pk)**power - (a-1)**power)/power for pk, qk in zip(p, q))
def ael(p, q, a): return sum(qk*math.exp(-pk/a) for pk, qk in zip(p, q))
def negative(loss, p, q):
    most = loss([1e-7]*len(p), one_hot(0, len(p)))
    held = [most - loss([max(o, 1e-7) for o in p], one_hot(k, len(p))) for k in range(len(p))]
    return 1 - sum(qk*h for qk, h in zip(q, held))/sum(held)
def anl(p, q, loss=ce, alpha=5, beta=5): return alpha*normalised(loss, p, q) + beta*negative(loss, p, q)
def eps_softmax(p, q, alpha, beta, m):
    pushed = [max((pk + m*(pk == max(p)))/(1+m), 1e-8) for pk in p]
    return alpha*ce(pushed, q) + 2*beta*mae(p, q)
def peer(p, q, beta, prior=None):
    prior = prior or [1/len(p)]*len(p)
    return ce(p, q) - beta*ce([max(pk, 1e-8) for pk in p], prior)
def tempered_log(x, t): return math.log(x) if t == 1 else (x**(1-t) - 1)/(1-t)
def bi_tempered(p, q, t1, t2):
    "By bisection, from the softmax's probabilities, whose logarithms are logits"
    z = [math.log(pk) for pk in p]
    def probs(lam): return [max(1 + (1-t2)*(zk-lam), 0)**(1/(1-t2)) for zk in z]
    low, high = max(z), max(z) + (len(z)**(t2-1) - 1)/(t2-1) + 1e-9
    for _ in range(200):
        mid = (low + high)/2
        low, high = (mid, high) if sum(probs(mid)) > 1 else (low, mid)
    own = [qk*tempered_log(qk, t1) - qk**(2-t1)/(2-t1) if qk > 0 else 0 for qk in q]
    return sum(own) + sum(-qk*tempered_log(pk, t1) + pk**(2-t1)/(2-t1) for pk, qk in zip(probs(low), q))

# name: (loss, the same as a loop, None where it is not one of the probabilities).
# Weights by number of classes are those of 10 classes, see `naive_inputs`.
CASES = {
    'ce': (CELoss(), ce),
    'smoothed': (CELoss(smoothing=.2), partial(smoothed, s=.2)),
    'focal': (AlphaFocalLoss(alpha=.5, gamma=1.5), partial(focal, alpha=.5, gamma=1.5)),
    'bootstrapping': (BootstrappingLoss(), partial(bootstrapped, trust=.95)),
    'bootstrapping hard': (BootstrappingLoss(hard=True), partial(bootstrapped_hard, trust=.8)),
    'mae': (MAELoss(), mae),
    'rce': (RCELoss(), rce),
    'sce': (SCELoss(), lambda p, q: .1*ce(p, q) + rce(p, q)),
    'sce by hand': (SCELoss(2, .5), lambda p, q: 2*ce(p, q) + .5*rce(p, q)),
    'gce': (GCELoss(), gce),
    'nce': (NCELoss(), partial(normalised, ce)),
    'nfl': (NFLLoss(), partial(normalised, partial(focal, gamma=.5))),
    'nfl detached': (NFLLoss(gamma=3, detach=True), partial(normalised, partial(focal, gamma=3))),
    'ngce': (NGCELoss(), partial(normalised, gce)),
    'nmae': (NMAELoss(), lambda p, q: mae(p, q)/(len(p)-1)),
    'nce+mae': (NCEMAELoss(), lambda p, q: normalised(ce, p, q) + mae(p, q)),
    'nce+rce': (NCERCELoss(), lambda p, q: normalised(ce, p, q) + rce(p, q)),
    'nfl+mae': (NFLMAELoss(alpha=2), lambda p, q: 2*normalised(partial(focal, gamma=.5), p, q) + mae(p, q)),
    'nfl+rce': (NFLRCELoss(beta=3, gamma=2), lambda p, q: normalised(focal, p, q) + 3*rce(p, q)),
    'ngce+mae': (ActivePassiveLoss(ngce_loss, mae_loss, .5, q=.1),
                 lambda p, q: .5*normalised(partial(gce, power=.1), p, q) + mae(p, q)),
    'js': (JSLoss(), lambda p, q: gjs([p], q, .3)),
    'gjs of one': (GJSLoss(.6), lambda p, q: gjs([p], q, .6)),
    'exp ce': (ExpCELoss(temperature=2), lambda p, q: 1 - math.exp(-ce(p, q)/2)),
    'exp focal': (ExpFocalLoss(alpha=.7, gamma=1, temperature=3), lambda p, q: 1 - math.exp(-focal(p, q, .7, 1)/3)),
    'mean mae': (MeanMAELoss(), lambda p, q: sum(abs(pk-qk) for pk, qk in zip(p, q))/len(p)),
    'exp ce + mae': (ExpCEMAELoss(), lambda p, q: 1 - math.exp(-ce(p, q)) + 2*mae(p, q)/len(p)),
    'exp focal + mae': (ExpFocalMAELoss(gamma=1, beta=2),
                        lambda p, q: 1 - math.exp(-focal(p, q, 1, 1)) + 4*mae(p, q)/len(p)),
    'of losses': (ActivePassiveLoss(CELoss(smoothing=.1), MAELoss(), 2, 3),
                  lambda p, q: 2*smoothed(p, q, .1) + 3*mae(p, q)),
    'taylor': (TaylorLoss(), partial(taylor, order=2)),
    'taylor 6': (TaylorLoss(6), partial(taylor, order=6)),
    'bi-tempered': (BiTemperedLoss(), partial(bi_tempered, t1=.8, t2=1.2)),
    'bi-tempered 0, 2': (BiTemperedLoss(0, 2), partial(bi_tempered, t1=0, t2=2)),
    'bi-tempered 1, 4': (BiTemperedLoss(1, 4.), partial(bi_tempered, t1=1, t2=4)),
    'agce': (AGCELoss(), partial(agce, a=.6, power=.6)),
    'aul': (AULLoss(), partial(aul, a=5.5, power=3)),
    'ael': (AELLoss(), partial(ael, a=2.5)),
    'nce+agce': (NCEAGCELoss(), lambda p, q: normalised(ce, p, q) + 4*agce(p, q, 6, 1.5)),
    'nce+aul': (NCEAULLoss(beta=2), lambda p, q: normalised(ce, p, q) + 2*aul(p, q, 6.3, 1.5)),
    'nce+ael': (NCEAELLoss(2, a=1.), lambda p, q: 2*normalised(ce, p, q) + 4*ael(p, q, 1)),
    'anl-ce': (ANLCELoss(5, 5), anl),
    'anl-fl': (ANLFLLoss(5, 5), partial(anl, loss=partial(focal, gamma=.5))),
    'anl-fl 2': (ANLFLLoss(1, 3, gamma=2.), partial(anl, loss=focal, alpha=1, beta=3)),
    'eps-softmax': (EpsilonSoftmaxLoss(.01, 5., 1e5), partial(eps_softmax, alpha=.01, beta=5, m=1e5)),
    'eps-softmax 2': (EpsilonSoftmaxLoss(1., 0., 2.), partial(eps_softmax, alpha=1, beta=0, m=2)),
    'peer': (PeerLoss(prior='uniform'), partial(peer, beta=.5)),
    'nls': (NLSLoss(), lambda p, q: 1.2*peer(p, q, .2/1.2)),
    'clip': (LogitClipLoss(GCELoss(.4), tau=2.), None)}
LENGTHS = 'clip', # what the length of the logits changes
BELOW_ZERO = 'peer','nls'
all_cases = pytest.mark.parametrize('name', CASES)

def inputs(n_samples=6, n_classes=10, dtype=torch.float64, seed=0, scale=3.):
    "Logits, class ids and soft labels"
    gen = torch.Generator().manual_seed(seed)
    logits = scale*torch.randn(n_samples, n_classes, generator=gen, dtype=torch.float64)
    soft = torch.rand(n_samples, n_classes, generator=gen, dtype=torch.float64)**3
    return logits.to(dtype), torch.randint(0, n_classes, (n_samples,), generator=gen), (soft/soft.sum(1, keepdim=True)).to(dtype)

def per_sample(loss, logits, targets):
    "`loss` unreduced, on a copy"
    loss = copy.deepcopy(loss)
    loss.reduction = 'none'
    return loss(logits, targets)

def test_every_loss_has_a_case():
    exported = {getattr(losses_module, n) for n in losses_module.__all__}
    classes = {c for c in exported if isinstance(c, type) and issubclass(c, RobustLoss) and c is not RobustLoss}
    assert classes == {type(loss) for loss, _ in CASES.values()}

# Values

@all_cases
@pytest.mark.parametrize('n_classes', [2, 10])
def test_values_of_a_loop(name, n_classes):
    loss, naive = CASES[name]
    if naive is None: pytest.skip('it is no function of the probabilities')
    logits, hard, soft = inputs(n_classes=n_classes)
    p = logits.softmax(1).tolist()
    expected = torch.tensor([naive(pi, one_hot(k, n_classes)) for pi, k in zip(p, hard.tolist())], dtype=torch.float64)
    torch.testing.assert_close(per_sample(loss, logits, hard), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(per_sample(loss, logits.float(), hard), expected.float(), rtol=1e-4, atol=1e-6)
    expected = torch.tensor([naive(pi, qi) for pi, qi in zip(p, soft.tolist())], dtype=torch.float64)
    torch.testing.assert_close(per_sample(loss, logits, soft), expected, rtol=1e-9, atol=1e-12)

@pytest.mark.parametrize('name', [n for n in CASES if '+' not in n and 'sce' not in n and n not in LENGTHS])
def test_values_of_a_loop_with_1000_classes(name):
    loss, naive = CASES[name]
    logits, hard, _ = inputs(2, 1000, scale=2.)
    expected = torch.tensor([naive(p, one_hot(k, 1000)) for p, k in zip(logits.softmax(1).tolist(), hard.tolist())])
    torch.testing.assert_close(per_sample(loss, logits.float(), hard), expected, rtol=1e-4, atol=1e-7)

@pytest.mark.parametrize('loss, alpha, beta', [(NCEMAELoss(), 10, 1), (NCERCELoss(), 10, .1), (NFLRCELoss(), 10, .1), (SCELoss(), 6, .1)])
def test_weights_of_1000_classes(loss, alpha, beta):
    logits, hard, _ = inputs(3, 1000)
    by_hand = type(loss)(alpha=alpha, beta=beta)
    torch.testing.assert_close(loss(logits, hard), by_hand(logits, hard))
    assert not torch.isclose(loss(logits, hard), type(loss)(alpha=1, beta=1)(logits, hard))

def test_weights_by_number_of_classes():
    assert apl_weights(2) == apl_weights(10) == apl_weights(10, rce_loss) == (1, 1)
    assert apl_weights(100) == apl_weights(1000) == pytest.approx((10, 1))
    assert apl_weights(100, rce_loss) == pytest.approx((10, .1))
    assert apl_weights(50) == pytest.approx((5, 1))
    assert sce_weights(10) == pytest.approx((.1, 1)) and sce_weights(100) == pytest.approx((6, .1))

@all_cases
def test_one_hot_targets_equal_class_ids(name):
    logits, hard, _ = inputs()
    soft = F.one_hot(hard, 10).double()
    torch.testing.assert_close(per_sample(CASES[name][0], logits, soft), per_sample(CASES[name][0], logits, hard))

def test_gjs_of_several_predictions():
    logits, hard, soft = inputs()
    views = [logits, logits.flip(0), 2*logits]
    ps = [o.softmax(1).tolist() for o in views]
    for n in (2, 3):
        for pi in (.1, .5, .9):
            for given_views, targets, qs in ((tuple(views[:n]), hard, F.one_hot(hard, 10)), (views[:n], soft, soft)):
                expected = [gjs([p[i] for p in ps[:n]], q, pi) for i, q in enumerate(qs.tolist())]
                torch.testing.assert_close(gjs_loss(given_views, targets, pi), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(gjs_loss((logits,), hard), js_loss(logits, hard))
    torch.testing.assert_close(gjs_loss([logits]*3, hard), js_loss(logits, hard))

# Limits, identities, invariants

@pytest.mark.parametrize('loss, limit, tolerance', [
    (AlphaFocalLoss(gamma=0), ce_loss, 1e-9), (BootstrappingLoss(1), ce_loss, 1e-9), (BootstrappingLoss(1, hard=True), ce_loss, 1e-9),
    (GCELoss(1e-8), ce_loss, 1e-6), (GCELoss(1), mae_loss, 1e-12), (NFLLoss(0), nce_loss, 1e-9), (NGCELoss(1e-6), nce_loss, 1e-4),
    (NGCELoss(1), nmae_loss, 1e-9), (JSLoss(1e-9), ce_loss, 1e-4), (ExpCELoss(), mae_loss, 1e-12), (SCELoss(1, 0), ce_loss, 1e-12),
    (SCELoss(0, 1), rce_loss, 1e-12), (ExpFocalLoss(gamma=0), exp_ce_loss, 1e-9), (NCEMAELoss(alpha=0),
    mae_loss, 1e-12),
    (TaylorLoss(1), mae_loss, 1e-12), (TaylorLoss(3000), ce_loss, 1e-6), (BiTemperedLoss(1, 1), ce_loss, 1e-12),
    (BiTemperedLoss(1, 1+1e-9), ce_loss, 1e-5),
    (AGCELoss(1e-12, .7), gce_loss, 1e-6), (AGCELoss(3., 1), mae_loss, 1e-12), (AULLoss(3., 1), mae_loss, 1e-12),
    (ANLCELoss(1, 0), nce_loss, 1e-12),
    (ANLFLLoss(1, 0, gamma=0), nce_loss, 1e-9), (ANLFLLoss(gamma=0), anl_ce_loss, 1e-9),
    (EpsilonSoftmaxLoss(1, 0, 0), ce_loss, 1e-12),
    (EpsilonSoftmaxLoss(0, .5), mae_loss, 1e-12), (LogitClipLoss(tau=1e6), ce_loss, 1e-12), (LogitClipLoss(MAELoss(),
    tau=1e6), mae_loss, 1e-12),
    (PeerLoss(0), ce_loss, 1e-12), (NLSLoss(0), ce_loss, 1e-12), (NLSLoss(.2), partial(ce_loss, smoothing=.2), 1e-12)])
def test_limits(loss, limit, tolerance):
    logits, hard, _ = inputs(scale=1.5)
    torch.testing.assert_close(per_sample(loss, logits, hard), limit(logits, hard), rtol=tolerance, atol=tolerance)

def test_js_tends_to_mae():
    logits, hard, _ = inputs()
    distance = [(js_loss(logits, hard, 1-d) - mae_loss(logits, hard)).abs().max() for d in (1e-2, 1e-6, 1e-12)]
    assert distance[0] > distance[1] > distance[2] and distance[2] < .04

def test_exponential_family_is_mae_and_gce():
    logits, hard, _ = inputs()
    torch.testing.assert_close(exp_ce_loss(logits, hard, temperature=4), .25*gce_loss(logits, hard, q=.25))
    torch.testing.assert_close(per_sample(ExpCEMAELoss(), logits, hard), 1.2*mae_loss(logits, hard))
    torch.testing.assert_close(rce_loss(logits, hard), A*mae_loss(logits, hard))

@pytest.mark.parametrize('loss, total', [
    (NCELoss(), 1), (NFLLoss(), 1), (NFLLoss(gamma=2), 1), (NGCELoss(), 1), (NMAELoss(), 1), (MAELoss(), 6), (RCELoss(), 6*A),
    (MeanMAELoss(), 12/7), (ExpCELoss(), 6), (NCEMAELoss(), 7), (NCERCELoss(), 1 + 6*A), (NFLRCELoss(), 1 + 6*A), (GCELoss(1), 6),
    (ExpCEMAELoss(), 6 + 12/7), (TaylorLoss(1), 6), (AGCELoss(2., 1.), 6), (AULLoss(2., 1.), 6),
    (ANLCELoss(3, 2), 3 + 2*6), (ANLFLLoss(3, 2, gamma=1.), 3 + 2*6), (EpsilonSoftmaxLoss(0., .5), 6)])
def test_symmetric(loss, total):
    logits, *_ = inputs(50, 7)
    sums = sum(per_sample(loss, logits, torch.full((50,), k)) for k in range(7))
    torch.testing.assert_close(sums, torch.full_like(sums, total))

@pytest.mark.parametrize('loss', [CELoss(), AlphaFocalLoss(), GCELoss(), SCELoss(), JSLoss(), ExpFocalLoss(),
    ExpFocalMAELoss(), TaylorLoss(), BiTemperedLoss(), AGCELoss(), AULLoss(), AELLoss(),
    EpsilonSoftmaxLoss(), LogitClipLoss(), PeerLoss(prior='uniform')])
def test_not_symmetric(loss):
    logits, *_ = inputs(50, 7)
    assert sum(per_sample(loss, logits, torch.full((50,), k)) for k in range(7)).std() > .01

@pytest.mark.parametrize('loss, bound', [
    (MAELoss(), 1), (RCELoss(), A), (GCELoss(.7), 1/.7), (NCELoss(), 1), (NFLLoss(), 1), (NGCELoss(), 1), (NMAELoss(), 1/9), (ExpCELoss(), 1),
    (ExpFocalLoss(), 1), (MeanMAELoss(), .2), (JSLoss(.3), -(.3*math.log(.3) + .7*math.log(.7))/(-.7*math.log(.7)))])
def test_bounds_are_reached_and_kept(loss, bound):
    logits = torch.zeros(2, 10)
    logits[0, 3], logits[1, 4] = 200, 200
    values = per_sample(loss, logits, torch.tensor([3, 3]))
    assert abs(values[0]) < 1e-6
    tops = {NCELoss: .1, NFLLoss: .1, NGCELoss: 1/9}
    assert values[1] <= bound*(1+1e-6) and values[1] >= tops.get(type(loss), bound)*(1-1e-5)

@all_cases
def test_samples_are_independent(name):
    logits, hard, _ = inputs(8)
    perm = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    whole = per_sample(CASES[name][0], logits, hard)
    torch.testing.assert_close(per_sample(CASES[name][0], logits[perm], hard[perm]), whole[perm])
    torch.testing.assert_close(per_sample(CASES[name][0], logits[:1], hard[:1]), whole[:1])
    if name not in LENGTHS: torch.testing.assert_close(per_sample(CASES[name][0], logits + 50, hard), whole)

# Gradients

@pytest.mark.parametrize('name', [n for n in CASES if 'detached' not in n])
@pytest.mark.parametrize('soft_targets', [False, True])
def test_gradcheck(name, soft_targets):
    logits, hard, soft = inputs(3, 5)
    targets = soft if soft_targets else hard % 5
    assert torch.autograd.gradcheck(lambda z: per_sample(CASES[name][0], z, targets), logits.requires_grad_(), atol=1e-6)

def test_gradcheck_of_several_predictions():
    logits, hard, soft = inputs(3, 5)
    views = logits.requires_grad_(), (logits.detach().flip(1)*.5).requires_grad_()
    for targets in (hard % 5, soft): assert torch.autograd.gradcheck(lambda a, b: gjs_loss((a, b), targets), views, atol=1e-6)

@pytest.mark.parametrize('gamma', [.5, 2.])
def test_detached_nfl_has_the_authors_gradient(gamma):
    logits, hard, _ = inputs()
    logits.requires_grad_()
    log_p = logits.log_softmax(1)
    terms = (1 - log_p.detach().exp())**gamma * log_p
    expected, = torch.autograd.grad((terms.gather(1, hard[:, None])[:, 0]/terms.sum(1)).sum(), logits)
    got, = torch.autograd.grad(nfl_loss(logits, hard, gamma, detach=True).sum(), logits)
    torch.testing.assert_close(got, expected)
    full, = torch.autograd.grad(nfl_loss(logits, hard, gamma).sum(), logits)
    assert (full - expected).abs().max() > 1e-4

def test_second_derivatives_are_refused_not_wrong():
    logits, hard, _ = inputs()
    logits.requires_grad_()
    grad, = torch.autograd.grad(nfl_loss(logits, hard).sum(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'): grad.sum().backward()

SUMS = [nfl_loss, ngce_loss, bootstrapping_loss, partial(bootstrapping_loss, hard=True), js_loss, partial(nfl_loss, detach=True)]

@pytest.mark.parametrize('loss', SUMS[:-1] + [lambda z, y: gjs_loss((z, z.flip(1)), y), lambda z, y: active_passive_loss(z, y, nfl_loss, mae_loss)])
@pytest.mark.parametrize('soft_targets', [False, True])
def test_forward_mode(loss, soft_targets):
    logits, hard, soft = inputs(4, 5)
    targets, tangents = soft if soft_targets else hard % 5, logits.flip(0)
    values, got = torch.func.jvp(lambda z: loss(z, targets), (logits,), (tangents,))
    expected = (loss(logits + 1e-6*tangents, targets) - loss(logits - 1e-6*tangents, targets))/2e-6
    torch.testing.assert_close(values, loss(logits, targets))
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)

@pytest.mark.parametrize('loss', SUMS)
def test_forward_and_backward_mode_agree(loss):
    logits, hard, soft = inputs()
    for targets in (hard, soft):
        grad, = torch.autograd.grad(loss(logits.requires_grad_(), targets).sum(), logits)
        got = torch.func.jvp(lambda z: loss(z, targets).sum(), (logits.detach(),), (logits.detach().flip(0),))[1]
        torch.testing.assert_close(got, (grad*logits.detach().flip(0)).sum())

@pytest.mark.parametrize('loss', SUMS[:4] + [lambda z, y: gjs_loss((z, z.flip(1)), y)])
def test_second_derivatives_are_refused_beside_others(loss):
    logits, hard, _ = inputs()
    logits.requires_grad_()
    grad, = torch.autograd.grad(loss(logits, hard).sum() + logits.square().sum(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'): grad.sum().backward()

def test_equally_likely_classes_share_the_slope():
    logits = torch.tensor([[1., 1., 0.], [2., 0., 0.]], requires_grad=True)
    grad, = torch.autograd.grad(bootstrapping_loss(logits, torch.tensor([2, 0]), trust=0., hard=True).sum(), logits)
    torch.testing.assert_close(grad, logits.detach().softmax(1) - torch.tensor([[.5, .5, 0.], [1., 0., 0.]]))

@all_cases
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('n_classes', [2, 1000])
def test_extreme_logits(name, dtype, n_classes):
    loss = CASES[name][0]
    logits = torch.zeros(6, n_classes)
    logits[0], logits[1], logits[2, 0], logits[3, 0], logits[4, 1], logits[5] = 1e4, -1e4, 1e4, -1e4, 1e4, 1e-3
    logits = logits.to(dtype).requires_grad_()
    soft = torch.full((6, n_classes), 1/n_classes)
    soft[0], soft[0, 0] = 0, 1
    for targets in (torch.zeros(6, dtype=torch.long), soft):
        values = per_sample(loss, logits, targets)
        grad, = torch.autograd.grad(values.sum(), logits)
        assert values.dtype == torch.float32 and values.isfinite().all()
        assert name in BELOW_ZERO or (values > -1e-5).all()
        assert grad.dtype == dtype and grad.isfinite().all()

@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_extreme_logits_of_several_predictions(dtype):
    views = [torch.tensor([[1e4, -1e4, 0]]*2, dtype=dtype).requires_grad_(), torch.tensor([[-1e4, 1e4, 0]]*2, dtype=dtype).requires_grad_()]
    values = gjs_loss(views, torch.tensor([0, 2]))
    grads = torch.autograd.grad(values.sum(), views)
    assert values.isfinite().all() and all(g.isfinite().all() for g in grads)
    p = [0., 1., 0.], [1., 0., 0.]
    torch.testing.assert_close(values, torch.tensor([gjs(p, one_hot(0, 3), .3), gjs(p, one_hot(2, 3), .3)]))

rows_of_logits = st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=4, max_size=4), min_size=1, max_size=5)

@given(rows_of_logits, st.integers(2, 4), st.integers(0, 3), st.sampled_from(sorted(CASES)))
@settings(max_examples=400, deadline=None)
def test_never_nan(rows, n_classes, label, name):
    logits = torch.tensor(rows)[:, :n_classes].requires_grad_()
    values = per_sample(CASES[name][0], logits, torch.full((len(rows),), label % n_classes))
    grad, = torch.autograd.grad(values.sum(), logits)
    assert values.isfinite().all() and grad.isfinite().all()
    if name in LENGTHS: return
    assert (grad.sum(1).abs() < 1e-3*(1 + grad.abs().sum(1))).all() # a loss of the softmax does not see a shift of the logits

# The class

@all_cases
def test_reduction(name):
    loss = copy.deepcopy(CASES[name][0])
    logits, hard, soft = inputs()
    for targets in (hard, soft):
        values = per_sample(loss, logits, targets)
        assert values.shape == (6,)
        torch.testing.assert_close(loss(logits, targets), values.mean())
        loss.reduction = 'sum'
        torch.testing.assert_close(loss(logits, targets), values.sum())
        loss.reduction = 'mean'

def test_fastai_equivalents():
    logits, hard, _ = inputs(dtype=torch.float32)
    torch.testing.assert_close(CELoss()(logits, hard), CrossEntropyLossFlat()(logits, hard).as_subclass(torch.Tensor))
    torch.testing.assert_close(CELoss(.1)(logits, hard), LabelSmoothingCrossEntropyFlat(eps=.1)(logits, hard).as_subclass(torch.Tensor))
    torch.testing.assert_close(AlphaFocalLoss(gamma=3)(logits, hard), FocalLossFlat(gamma=3)(logits, hard).as_subclass(torch.Tensor))
    for attribute in ('activation', 'decodes'):
        expected = getattr(CrossEntropyLossFlat(), attribute)(logits)
        torch.testing.assert_close(getattr(GCELoss(), attribute)(logits), expected)

def test_class_weights():
    logits, hard, soft = inputs(n_classes=3)
    weight = torch.tensor([1., 2., 5.])
    for targets, expected in ((hard, weight[hard]), (soft, (soft*weight).sum(1))):
        values = per_sample(GCELoss(weight=weight), logits, targets)
        torch.testing.assert_close(values, per_sample(GCELoss(), logits, targets)*expected)
    torch.testing.assert_close(GCELoss(weight=[1, 2, 5])(logits, hard), (gce_loss(logits, hard)*weight[hard]).mean())
    views = GJSLoss(weight=weight, reduction='none')((logits, logits), hard)
    torch.testing.assert_close(views, js_loss(logits, hard)*weight[hard])
    expected = F.cross_entropy(logits, hard, weight=weight.double(), reduction='none')
    torch.testing.assert_close(per_sample(CELoss(weight=weight), logits, hard), expected)

def test_axis():
    logits, *_ = inputs(2*4*5, 3)
    pixels, targets = logits.view(2, 4, 5, 3), torch.arange(40).view(2, 4, 5) % 3
    loss = GCELoss(axis=1)
    values = per_sample(loss, pixels.permute(0, 3, 1, 2), targets)
    torch.testing.assert_close(values, gce_loss(logits, targets.flatten()))
    soft = F.one_hot(targets, 3).double().permute(0, 3, 1, 2)
    torch.testing.assert_close(per_sample(loss, pixels.permute(0, 3, 1, 2), soft), values)
    assert loss.decodes(pixels.permute(0, 3, 1, 2)).shape == (2, 4, 5)
    torch.testing.assert_close(loss.activation(pixels.permute(0, 3, 1, 2)).sum(1), torch.ones(2, 4, 5, dtype=torch.float64))

@pytest.mark.parametrize('dtype', [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_integer_types_and_fastai_tensors(dtype):
    logits, hard, _ = inputs(dtype=torch.float32)
    expected = gce_loss(logits, hard)
    torch.testing.assert_close(gce_loss(logits, hard.to(dtype)), expected)
    for kind in (TensorBase, TensorCategory):
        values = per_sample(GCELoss(), TensorBase(logits), kind(hard.to(dtype)))
        assert type(values) is torch.Tensor
        torch.testing.assert_close(values, expected)
    assert GCELoss()(logits, TensorCategory(hard[:, None])) == GCELoss()(logits, hard)

@all_cases
def test_autocast_computes_in_float32(name):
    logits, hard, _ = inputs(dtype=torch.bfloat16)
    expected = per_sample(CASES[name][0], logits.float(), hard)
    with torch.autocast('cpu', dtype=torch.bfloat16): values = per_sample(CASES[name][0], logits, hard)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, expected, rtol=1e-6, atol=1e-7)

def options(loss):
    "The options of a loss; of a loss within it, what it says of itself, as two modules are never equal"
    return {k: repr(v) if isinstance(v, RobustLoss) else v for k,v in loss.params.items()}

@all_cases
def test_pickle_and_copy(name):
    logits, hard, _ = inputs()
    loss = CASES[name][0]
    for other in (pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss)):
        assert repr(other) == repr(loss) and options(other) == options(loss)
        assert other(logits, hard) == loss(logits, hard)

@pytest.mark.parametrize('name', ['bootstrapping', 'sce', 'nfl+mae', 'ngce', 'js', 'exp focal + mae', 'taylor',
    'nce+agce', 'anl-ce', 'eps-softmax', 'peer', 'clip', 'of losses'])
def test_compiles_to_one_graph(name):
    logits, hard, _ = inputs(dtype=torch.float32)
    logits.requires_grad_()
    torch._dynamo.reset()
    compiled = torch.compile(CASES[name][0], backend='aot_eager', fullgraph=True)
    got, = torch.autograd.grad(compiled(logits, hard), logits)
    expected, = torch.autograd.grad(CASES[name][0](logits, hard), logits)
    torch.testing.assert_close(got, expected)

def test_the_softmax_is_shared_but_any_function_may_be_composed():
    logits, hard, _ = inputs()
    seen = []
    def foreign(logits, targets):
        seen.append(logits)
        return F.cross_entropy(logits, targets, reduction='none')
    values = active_passive_loss(logits, hard, foreign, mae_loss, 2, 3)
    torch.testing.assert_close(values, 2*ce_loss(logits, hard) + 3*mae_loss(logits, hard))
    assert log_probs(seen[0], hard)[0] is seen[0]
    torch.testing.assert_close(seen[0], logits.log_softmax(1))

# Losses of losses

def test_active_passive_of_losses():
    logits, hard, soft = inputs()
    for targets in (hard, soft):
        both = ActivePassiveLoss(NFLLoss(gamma=2), MAELoss())
        torch.testing.assert_close(both(logits, targets), NFLMAELoss(gamma=2)(logits, targets)) # weights by K as well
        foreign = ActivePassiveLoss(NCELoss(), nn.CrossEntropyLoss(), 1, 2)
        expected = nce_loss(logits, targets) + 2*ce_loss(logits, targets)
        torch.testing.assert_close(per_sample(foreign, logits, targets), expected)
    weighted = ActivePassiveLoss(nce_loss, CELoss(weight=[1., 2.] + [3.]*8), 1, 2)
    second = per_sample(CELoss(weight=[1., 2.] + [3.]*8), logits, hard)
    torch.testing.assert_close(per_sample(weighted, logits, hard), nce_loss(logits, hard) + 2*second)
    assert 'active=NCELoss(reduction=none), passive=mae_loss' in repr(ActivePassiveLoss(NCELoss(), mae_loss, 1, 2))

def test_a_loss_within_another_is_a_copy_on_its_device():
    own = CELoss(weight=[1., 2., 3.])
    outer = LogitClipLoss(own)
    assert own.reduction == 'mean' and outer.params['loss'] is not own and outer.loss.reduction == 'none'
    assert outer.double().loss.weight.dtype == torch.float64 and own.weight.dtype == torch.float32
    flat = LogitClipLoss(CrossEntropyLossFlat(weight=torch.tensor([1., 2., 3.])), tau=1e6)
    logits, hard, _ = inputs(n_classes=3, dtype=torch.float32)
    expected = F.cross_entropy(logits, hard, torch.tensor([1., 2., 3.]), reduction='none')
    values = per_sample(flat, logits, hard)
    torch.testing.assert_close(values, expected)
    assert type(values) is torch.Tensor and flat.loss is flat.params['loss'].func

def test_clipped_logits_are_no_longer_than_tau():
    logits, hard, _ = inputs()
    for tau in (.5, 1., 1e3):
        z = logit_clip(logits, tau)
        assert (z.norm(dim=1) <= tau*(1 + 1e-9)).all()
        torch.testing.assert_close(z, logits*(tau/logits.norm(dim=1)).clamp(max=1)[:, None])
    huge = torch.full((2, 4), 3e38)
    assert logit_clip(huge).isfinite().all() and (logit_clip(torch.zeros(1, 3)) == 0).all()
    within = ActivePassiveLoss(logit_clip_loss, mae_loss, 1, 1)
    with pytest.raises(ValueError, match='clip outside'): within(logits, hard)
    assert LogitClipLoss(NCERCELoss())(logits, hard) < NCERCELoss()(logits, hard) + 10

# Tempered

@pytest.mark.parametrize('t2', [1., 1.0001, 1.2, 2., 4.])
@pytest.mark.parametrize('scale', [1e-3, 1., 30., 1e4])
@pytest.mark.parametrize('n_classes', [2, 1000])
def test_tempered_softmax_sums_to_one(t2, scale, n_classes):
    logits = inputs(20, n_classes, scale=scale)[0]
    p = tempered_softmax(logits, t2)
    torch.testing.assert_close(p.sum(1), torch.ones(20, dtype=torch.float64), rtol=1e-8, atol=1e-8)
    assert (p.argmax(1) == logits.argmax(1)).all() and (p >= 0).all()
    if t2 == 1: torch.testing.assert_close(p, logits.softmax(1))
    torch.testing.assert_close(tempered_softmax(logits.float(), t2), p.float(), rtol=1e-3, atol=1e-6)

def test_tempered_predictions(tmp_path):
    logits, hard, _ = inputs()
    loss = BiTemperedLoss(.5, 3)
    torch.testing.assert_close(loss.activation(logits), tempered_softmax(logits, 3))
    pixels = logits.view(2, 3, 10).permute(0, 2, 1)
    p = BiTemperedLoss(.5, 3, axis=1).activation(pixels).permute(0, 2, 1).reshape(6, 10)
    torch.testing.assert_close(p, tempered_softmax(logits, 3))
    assert (loss.decodes(logits) == logits.argmax(1)).all()

def test_bi_tempered_gradient_is_equation_4():
    logits, hard, _ = inputs()
    t1, t2 = .6, 1.7
    p, q = tempered_softmax(logits, t2), F.one_hot(hard, 10).double()
    v, escort = (p - q)*p**(t2 - t1), p**t2/(p**t2).sum(1, keepdim=True)
    got, = torch.autograd.grad(bi_tempered_loss(logits.requires_grad_(), hard, t1, t2).sum(), logits)
    torch.testing.assert_close(got, v - escort*v.sum(1, keepdim=True))

# Peers and priors

def test_prior_of_the_batch():
    logits, hard, soft = inputs(8, 3)
    hard = torch.tensor([0, 0, 0, 0, 1, 1, 2, 0])
    for targets, prior in ((hard, [5/8, 2/8, 1/8]), (soft, soft.mean(0).tolist())):
        torch.testing.assert_close(peer_loss(logits, targets, .7), peer_loss(logits, targets, .7, prior))
    every = torch.stack([ce_loss(logits, hard[b].expand(8)) for b in range(8)]) # each sample with each label
    torch.testing.assert_close(peer_loss(logits, hard, 1.), ce_loss(logits, hard) - every.mean(0))
    one = torch.zeros(8, dtype=torch.long) # of one class: as when a method asks for the loss of every class in turn
    torch.testing.assert_close(peer_loss(logits, one, 1.), peer_loss(logits, one, 1., 'uniform'))
    with pytest.raises(ValueError, match='prior must hold one share per class, 3, got 2'):
        peer_loss(logits, hard, 1., [.5, .5])

def test_peer_family_is_one():
    logits, hard, _ = inputs()
    for r in (-8., -.8, .2, .9):
        scale = 1 - r
        torch.testing.assert_close(nls_loss(logits, hard, r), scale*peer_loss(logits, hard, -r/scale, 'uniform'))
    e = .3
    T = torch.full((10, 10), e/9, dtype=torch.float64).fill_diagonal_(1-e)
    backward = (-logits.log_softmax(1) @ T.inverse().T).gather(1, hard[:, None])[:, 0]
    beta = e*10/9
    torch.testing.assert_close(backward, peer_loss(logits, hard, beta, 'uniform')/(1-beta))

def test_peer_loss_is_bounded_below():
    logits = torch.zeros(1, 10)
    logits[0, 0] = 1e6
    assert peer_loss(logits, torch.tensor([0]), 1., 'uniform').item() == pytest.approx(.9*math.log(1e-8))

@pytest.mark.parametrize('make', [ANLCELoss, ANLFLLoss])
def test_entropy_regulariser_is_the_divergence_of_the_batch(make):
    logits, hard, soft = inputs(12, 4)
    logits.requires_grad_()
    for prior in ([.4, .3, .2, .1], None):
        shares = torch.tensor(prior or ((torch.bincount(hard, minlength=4) + 1)/16).tolist(), dtype=torch.float64)
        m = logits.softmax(1).mean(0)
        expected = 3*(m*(m/shares).log()).sum()
        got = make(0., 0., er=3., prior=prior)(logits, hard)
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(torch.autograd.grad(got, logits)[0], torch.autograd.grad(expected, logits)[0])
    uniform = make(0., 0., er=1., prior='uniform')(logits, hard)
    m = logits.softmax(1).mean(0)
    torch.testing.assert_close(uniform, math.log(4) + (m*m.log()).sum())

# Epsilon-softmax

def test_epsilon_softmax_is_cross_entropy_on_what_is_contradicted():
    logits, hard, _ = inputs(40)
    logits.requires_grad_()
    ce_grad, = torch.autograd.grad(ce_loss(logits, hard).sum(), logits)
    got, = torch.autograd.grad(epsilon_softmax_loss(logits, hard, 1., 0., 10.).sum(), logits)
    top = logits.argmax(1) == hard
    p = logits.softmax(1).gather(1, hard[:, None])[:, 0]
    kept = ~top & (p > 1e-8*11)
    assert top.any() and kept.any()
    torch.testing.assert_close(got[kept], ce_grad[kept])
    trimmed, = torch.autograd.grad(epsilon_softmax_loss(logits, hard, 1., 0., 1e5).sum(), logits) # the hidden trim
    out = ~top & (p < 1e-8*(1e5 + 1))
    assert out.any() and (trimmed[out] == 0).all() and (trimmed[~top & ~out] != 0).any()

def test_options_by_number_of_classes():
    from fastnoisy.losses.negative import anl_weights
    from fastnoisy.losses.asymmetric import asymmetric_weights
    from fastnoisy.losses.clipped import epsilon_weights
    assert anl_weights(2) == anl_weights(10) == (5, 5) and anl_weights(1000) == pytest.approx((10, 1))
    assert asymmetric_weights(10) == (1, 4, 6, 1.5)
    assert asymmetric_weights(100, 'aul') == pytest.approx((10, .015, 6, 3))
    assert asymmetric_weights(100, 'ael') == pytest.approx((10, .1, 1.5))
    assert epsilon_weights(5) == pytest.approx((.01, 5, 1e5))
    logits, hard, _ = inputs(4, 100)
    torch.testing.assert_close(ANLCELoss()(logits, hard), ANLCELoss(10, 1)(logits, hard))
    torch.testing.assert_close(EpsilonSoftmaxLoss()(logits, hard), EpsilonSoftmaxLoss(.05, 1, 1e4)(logits, hard))
    torch.testing.assert_close(NCEAGCELoss()(logits, hard), NCEAGCELoss(10, .1, 1.8, 3)(logits, hard))

@pytest.mark.parametrize('loss', [AGCELoss(1., .5), AULLoss(2., .5), AELLoss(2.)])
def test_asymmetric_losses_choose_the_majority(loss):
    "Of a population with labels at 70 % and 30 % the mean loss is least where all is on the majority"
    p = torch.linspace(.001, .999, 500, dtype=torch.float64)
    logits = torch.stack([p, 1-p], 1).log()
    zeros = torch.zeros(500, dtype=torch.long)
    risk = .7*per_sample(loss, logits, zeros) + .3*per_sample(loss, logits, zeros + 1)
    assert risk.argmin() == 499

def test_options_by_position_and_name():
    assert GCELoss(.5).params == GCELoss(q=.5).params == dict(q=.5) and GCELoss().params == dict(q=.7)
    assert repr(NFLRCELoss(gamma=2)) == 'NFLRCELoss(active=nfl_loss, passive=rce_loss, alpha=None, beta=None, gamma=2, reduction=mean)'
    class Mine(RobustLoss, func=gce_loss, q=.2): "A preset"
    logits, hard, _ = inputs()
    torch.testing.assert_close(Mine()(logits, hard), gce_loss(logits, hard, .2).mean())
    assert isinstance(NCEMAELoss(), ActivePassiveLoss)

# Wrong arguments

@pytest.mark.parametrize('make, message', [
    (lambda: GCELoss(0), r'q must be in \(0, 1\], got 0'), (lambda: NGCELoss(q=1.1), 'q must be'), (lambda: GCELoss(float('nan')), 'q must be'),
    (lambda: AlphaFocalLoss(gamma=-1), 'gamma must be >= 0, got -1'), (lambda: NFLLoss(-1), 'gamma must be'),
    (lambda: NFLMAELoss(gamma=-1), 'gamma must be'), (lambda: ExpCELoss(0), 'temperature must be > 0'), (lambda: CELoss(1.5), 'smoothing must be'),
    (lambda: BootstrappingLoss(-.1), 'trust must be'), (lambda: JSLoss(1), 'label_weight must be'), (lambda: GJSLoss(0), 'label_weight must be'),
    (lambda: SCELoss(-1), 'alpha must be'), (lambda: NCEMAELoss(beta=-1), 'beta must be'), (lambda: GCELoss(reduction='avg'), 'reduction must be'),
    (lambda: ActivePassiveLoss(NCELoss, mae_loss), 'active must be a function'),
    (lambda: ActivePassiveLoss(nce_loss, MAELoss), 'passive must be'),
    (lambda: TaylorLoss(0), 'order must be an integer >= 1, got 0'), (lambda: TaylorLoss(1.5), 'order must be'),
    (lambda: BiTemperedLoss(1.1), r't1 must be in \[0, 1\]'),
    (lambda: BiTemperedLoss(t2=.9), 't2 must be in'), (lambda: AGCELoss(0), 'a must be > 0'), (lambda: AGCELoss(q=0),
    'q must be > 0'), (lambda: AULLoss(1), 'a must be > 1'),
    (lambda: NCEAULLoss(a=1), 'a must be > 1'), (lambda: AELLoss(-1), 'a must be'), (lambda: ANLCELoss(-1),
    'alpha must be'), (lambda: ANLCELoss(er=-1), 'er must be >= 0'),
    (lambda: ANLFLLoss(gamma=-1), 'gamma must be'), (lambda: ANLCELoss(prior=[.5, .6]), 'prior must be K shares'),
    (lambda: PeerLoss(prior='even'), "or 'uniform', got even"),
    (lambda: PeerLoss(float('nan')), 'beta must be a finite'), (lambda: NLSLoss(1), 'smoothing must be below 1'),
    (lambda: EpsilonSoftmaxLoss(m=-1), 'm must be >= 0'),
    (lambda: LogitClipLoss(tau=0), 'tau must be > 0'), (lambda: LogitClipLoss(GCELoss), 'loss must be a function'),
    (lambda: LogitClipLoss(GCELoss(axis=1)), 'LogitClipLoss: loss has an axis'),
    (lambda: LogitClipLoss(GCELoss(ignore_index=2)), 'LogitClipLoss: loss has an axis or an ignore_index')])
def test_wrong_options(make, message):
    with pytest.raises(ValueError, match=message): make()

@pytest.mark.parametrize('make', [lambda: GCELoss(power=2), lambda: GCELoss(.7, .5), lambda: ActivePassiveLoss(nce_loss), lambda: MAELoss(.5)])
def test_unknown_or_missing_options(make):
    with pytest.raises(TypeError): make()

def test_wrong_inputs():
    logits, hard, soft = inputs(n_classes=3)
    loss = GCELoss()
    with pytest.raises(ValueError, match='reduction must be'): loss.reduction = 'average'
    with pytest.raises(ValueError, match=r'K >= 2 classes, got \(6, 1\)'): loss(logits[:, :1], hard)
    with pytest.raises(ValueError, match=r'got \(6, 3, 1\)'): gce_loss(logits[..., None], hard)
    with pytest.raises(ValueError, match='targets must be'): loss(logits, hard[:5])
    with pytest.raises(ValueError, match='targets must be'): loss(logits, hard.float())
    with pytest.raises(ValueError, match='targets must be'): loss(logits, soft[:, :2])
    with pytest.raises(TypeError, match='only GJSLoss takes several predictions'): loss((logits, logits), hard)
    with pytest.raises(ValueError, match='at least one prediction'): gjs_loss([], hard)
    with pytest.raises(ValueError, match='weight must hold one number per class, 3, got 2'): GCELoss(weight=[1., 2.])(logits, hard)
    with pytest.raises(ValueError, match='pass alpha and beta'): active_passive_loss(logits, hard, nce_loss, nmae_loss)
    assert active_passive_loss(logits, hard, nce_loss, nmae_loss, 1, 1).shape == (6,)
    with pytest.raises(ValueError, match=r'outside 0\.\.2'): loss(logits, hard + 3)

MANY = 'several labels for a sample .*BCEWithLogitsLossFlat'

@pytest.mark.parametrize('targets, error, message', [
    ([[1., 0, 1], [0, 1, 0]], ValueError, r'GCELoss: .*row 0 is \[1, 0, 1\] with the sum 2; ' + MANY), # multi-hot
    ([[0., 1, 0], [0, 0, 0]], ValueError, r'row 1 is \[0, 0, 0\] with the sum 0; ' + MANY), # no label
    ([[.3, .2, 4.1], [0, 1, 0]], ValueError, r'row 0 is .* with the sum 4.6; .*regression.*MSELossFlat'), # three numbers
    ([[2., -1, 0], [0, 1, 0]], ValueError, r'row 0 is \[2, -1, 0\]'),
    ([[float('nan'), 1, 0], [0, 1, 0]], ValueError, 'with the sum nan'),
    ([[1, 0, 1], [0, 1, 0]], ValueError, r'got torch.int64 \(2, 3\); one-hot labels become class ids with targets.argmax\(-1\); ' + MANY),
    ([.5, 1.5], ValueError, r'got torch.float32 \(2,\); numbers to be predicted \(regression\) need a loss such as MSELossFlat'),
    ([[.5], [1.5]], ValueError, r'got torch.float32 \(2, 1\); numbers'),
    ([[True, False, True], [True, False, False]], TypeError, r'GCELoss: targets are torch.bool.*targets.long\(\)'),
    ([True, False], TypeError, 'targets are torch.bool'),
    ([1j, 0], TypeError, 'targets are torch.complex64'),
    ([0, -1], ValueError, r'GCELoss: targets\[1\] is -1, outside 0\.\.2 \(1 such targets\): number the classes from 0, or .*ignore_index=-1'),
    ([3, 7], ValueError, r'targets\[0\] is 3, outside 0\.\.2 \(2 such'),
    ([-100, 3], ValueError, r'targets\[1\] is 3, .*\(1 such'),
    ([0, 1, 2], ValueError, r'got torch.int64 \(3,\)$')])
def test_targets_it_is_not_made_for(targets, error, message):
    "Each is refused, with the name of the loss, the value and what to do"
    z = torch.randn(2, 3)
    with pytest.raises(error, match=message): GCELoss()(z, torch.tensor(targets))

@pytest.mark.parametrize('loss', [loss for loss, _ in CASES.values()] + [SCELoss(weight=[1., 2., 3.])], ids=lambda o: type(o).__name__)
def test_every_loss_refuses_in_the_same_place(loss):
    z = torch.randn(2, 3)
    for targets in (torch.tensor([[1., 1, 0], [0, 1, 0]]), torch.tensor([0, 3]), torch.tensor([0, -1])):
        with pytest.raises(ValueError, match=f'^{type(loss).__name__}: '): loss(z, targets)

def test_fastais_multi_label_targets_are_refused_by_their_type():
    "A batch whose rows all have a single label looks like class probabilities"
    from fastai.torch_core import TensorMultiCategory
    one_hot = torch.eye(3)
    assert GCELoss()(torch.randn(3, 3), one_hot) > 0
    with pytest.raises(TypeError, match='GCELoss: targets are TensorMultiCategory.*CategoryBlock in place of MultiCategoryBlock'):
        GCELoss()(torch.randn(3, 3), TensorMultiCategory(one_hot))
    with pytest.raises(TypeError, match='must be one tensor, got list'): GCELoss()(torch.randn(3, 3), [0, 1, 2])

def test_soft_labels_may_be_rounded():
    gen = torch.Generator().manual_seed(0)
    soft = torch.rand(64, 1000, generator=gen).softmax(1)
    for dtype in (torch.float16, torch.bfloat16): GCELoss()(torch.randn(64, 1000, generator=gen), soft.to(dtype))

def test_no_value_is_read_on_another_device(monkeypatch):
    "A meta tensor has no values: what reads one fails there, as it would wait on a GPU"
    def never(*args): raise AssertionError('values are looked at')
    for o in ('_check_ids', '_check_probs'): monkeypatch.setattr(base, o, never)
    z,y = torch.randn(4, 3, device='meta'),torch.zeros(4, dtype=torch.long, device='meta')
    with pytest.raises(RuntimeError): y.max().item()
    for loss,_ in CASES.values():
        for reduction in ('mean', 'sum', 'none'):
            loss = copy.deepcopy(loss)
            loss.reduction = reduction
            for targets in (y, torch.zeros(4, 3, device='meta')): assert loss(z, targets).device.type == 'meta'

# Ignored samples

@all_cases
@pytest.mark.parametrize('ignore_index', [-100, -1, 255, 2])
def test_ignored_samples_have_no_loss_and_no_part_in_the_mean(name, ignore_index):
    "Against the loss of the other samples alone, value and gradient"
    loss = copy.deepcopy(CASES[name][0])
    loss.ignore_index = ignore_index
    logits, hard, _ = inputs(8)
    hard = torch.where(hard == ignore_index, 3, hard)
    mask = torch.arange(8) % 3 == 1
    targets = torch.where(mask, ignore_index, hard)
    logits.requires_grad_()
    values = per_sample(loss, logits, targets)
    assert (values[mask] == 0).all()
    torch.testing.assert_close(values[~mask], per_sample(loss, logits[~mask], hard[~mask]))
    expected = loss(logits[~mask], hard[~mask])
    torch.testing.assert_close(loss(logits, targets), expected)
    grad, = torch.autograd.grad(loss(logits, targets), logits)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, logits)[0])
    loss.reduction = 'sum'
    torch.testing.assert_close(loss(logits, targets), values.sum())

def test_ignored_as_in_pytorch():
    logits, hard, soft = inputs(6)
    hard[[1, 4]] = -100
    for reduction in ('mean', 'sum', 'none'):
        torch.testing.assert_close(CELoss(reduction=reduction)(logits, hard), F.cross_entropy(logits, hard, reduction=reduction))
        nothing = torch.full((6,), -100)
        expected = F.cross_entropy(logits, nothing, reduction=reduction)
        torch.testing.assert_close(CELoss(reduction=reduction)(logits, nothing), expected, equal_nan=True)
    assert CELoss()(logits, torch.full((6,), -100)).isnan()
    pixels,ids = torch.randn(2, 10, 3, 4, dtype=torch.float64),torch.randint(0, 10, (2, 3, 4))
    ids[0, :, 1] = 255
    expected = F.cross_entropy(pixels, ids, ignore_index=255)
    torch.testing.assert_close(CELoss(axis=1, ignore_index=255)(pixels, ids.to(torch.uint8)), expected)
    assert CELoss()(logits, soft) == CELoss(ignore_index=None)(logits, soft)
    with pytest.raises(ValueError, match='targets.1. is -100'): CELoss(ignore_index=None)(logits, hard)

def test_ignored_with_class_weights_and_several_predictions():
    logits, hard, _ = inputs(6, 3)
    masked = torch.where(torch.arange(6) < 2, -100, hard)
    for loss,z in ((GCELoss(weight=[1., 2., 5.]), logits), (GJSLoss(weight=[1., 2., 5.]), (logits, logits.flip(1)))):
        rest = z[2:] if isinstance(z, torch.Tensor) else tuple(o[2:] for o in z)
        torch.testing.assert_close(loss(z, masked), loss(rest, hard[2:]))

@pytest.mark.parametrize('name', ['ce', 'mae', 'ngce', 'nfl+mae', 'js', 'exp focal + mae'])
def test_ignored_in_forward_mode(name):
    loss = CASES[name][0]
    logits, hard, _ = inputs()
    masked = torch.where(torch.arange(6) == 2, -100, hard)
    tangent = torch.randn(6, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    got = torch.func.jvp(lambda z: loss(z, masked), (logits,), (tangent,))[1]
    logits.requires_grad_()
    grad, = torch.autograd.grad(loss(logits, masked), logits)
    torch.testing.assert_close(got, (grad*tangent).sum())
    assert (grad[2] == 0).all() and (grad[[0, 1, 3]] != 0).any()

@pytest.mark.parametrize('name', ['ce', 'sce', 'nfl+mae', 'js'])
def test_ignored_compiled_to_one_graph(name):
    loss = CASES[name][0]
    logits, hard, _ = inputs(dtype=torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(loss, backend='aot_eager', fullgraph=True)
    for targets in (hard, torch.where(torch.arange(6) == 2, -100, hard)): # one graph for both
        z = logits.clone().requires_grad_()
        got, = torch.autograd.grad(compiled(z, targets), z)
        torch.testing.assert_close(got, torch.autograd.grad(loss(z, targets), z)[0])

def test_samples_under_vmap():
    "Gradients of the samples one by one, where no value of the targets can be read"
    logits, hard, _ = inputs()
    got = torch.func.vmap(torch.func.grad(lambda z, y: GCELoss()(z[None], y[None])))(logits, hard)
    logits.requires_grad_()
    torch.testing.assert_close(got, torch.autograd.grad(gce_loss(logits, hard).sum(), logits)[0])

def test_losses_of_version_0_1_have_no_ignore_index_of_their_own():
    old = GCELoss()
    del old.__dict__['ignore_index']
    logits, hard, _ = inputs()
    assert old(logits, hard) == GCELoss()(logits, hard)
    assert repr(GCELoss(ignore_index=255)) == 'GCELoss(q=0.7, ignore_index=255, reduction=mean)' and repr(GCELoss()) == 'GCELoss(q=0.7, reduction=mean)'

# In fastai

def sample_x(i): return torch.randn(4, generator=torch.Generator().manual_seed(i))
def sample_y(i): return torch.tensor(i % 3)

def small_learner(loss_func, cbs=None, bs=8):
    "A linear model on 16 training and 8 validation samples, SGD, always in the same order and from the same weights"
    dsets = Datasets(list(range(24)), [[sample_x], [sample_y]], splits=[range(16), range(16, 24)])
    dls = dsets.dataloaders(bs=bs, num_workers=0, shuffle=False, device='cpu')
    model = nn.Linear(4, 3, bias=False)
    with torch.no_grad(): model.weight.copy_(torch.linspace(-1, 1, 12).view(3, 4))
    learn = Learner(dls, model, loss_func=loss_func, cbs=cbs, opt_func=SGD, lr=.1)
    learn.remove_cb(ProgressCallback)
    return learn

class CheckMixUp(Callback):
    "The loss of a mixed batch is the blend of two losses per sample"
    order = 5
    def before_fit(self): self.checked = 0
    def after_loss(self):
        if not self.training: return
        loss, mixer = self.mix_up.old_lf, self.learn.mix_up
        blend = mixer.lam*loss.func(self.pred, self.y, **loss.params) + (1-mixer.lam)*loss.func(self.pred, mixer.yb1[0], **loss.params)
        torch.testing.assert_close(self.learn.loss_grad, blend.mean())
        self.checked += 1

@pytest.mark.parametrize('loss', [GCELoss(), NFLRCELoss(), ExpFocalMAELoss()])
def test_mixup(loss):
    loss = copy.deepcopy(loss)
    check = CheckMixUp()
    learn = small_learner(loss, [MixUp(), check])
    with learn.no_logging(): learn.fit(2)
    assert check.checked == 4 and learn.loss_func is loss and loss.reduction == 'mean'

def test_gradient_accumulation_equals_the_large_batch():
    weights = []
    for bs, cbs in ((8, None), (4, GradientAccumulation(8))):
        learn = small_learner(NCERCELoss(), cbs, bs=bs)
        with learn.no_logging(): learn.fit(1)
        weights.append(learn.model.weight.detach().clone())
    torch.testing.assert_close(*weights)

@pytest.mark.parametrize('loss', [SCELoss(), GJSLoss(), NFLMAELoss(weight=[1., 2., 3.])])
def test_predictions_interpretation_and_export(loss, tmp_path):
    learn = small_learner(copy.deepcopy(loss))
    with learn.no_logging():
        learn.fit(1)
        probs, targets, decoded, values = learn.get_preds(with_loss=True, with_decoded=True)
    torch.testing.assert_close(probs.sum(1), torch.ones(8))
    torch.testing.assert_close(values, per_sample(loss, probs.log(), targets), rtol=1e-4, atol=1e-5)
    assert (decoded == probs.argmax(1)).all() and learn.loss_func.reduction == 'mean'
    with learn.no_logging(): tops = Interpretation.from_learner(learn).top_losses(3)
    torch.testing.assert_close(tops[0], values.topk(3).values)
    learn.export(tmp_path/'learner.pkl')
    loaded = load_learner(tmp_path/'learner.pkl')
    assert repr(loaded.loss_func) == repr(loss)
    logits, hard, _ = inputs(n_classes=3)
    torch.testing.assert_close(loaded.loss_func(logits, hard), loss(logits, hard))

def test_gjs_trains_on_two_views_and_validates_on_one():
    class TwoViews(nn.Module):
        def __init__(self): super().__init__(); self.model = nn.Linear(4, 3)
        def forward(self, x): return (self.model(x), self.model(x.flip(1))) if self.training else self.model(x)
    learn = small_learner(GJSLoss(.5))
    learn.model, learn.opt = TwoViews(), None
    with learn.no_logging(): learn.fit(2)
    with learn.no_logging(): logits, targets = learn.get_preds(act=lambda x: x)
    torch.testing.assert_close(learn.validate()[0], js_loss(logits, targets, .5).mean().item())
    views = torch.randn(5, 3), torch.randn(5, 3)
    torch.testing.assert_close(GJSLoss().activation(views), (views[0].softmax(1) + views[1].softmax(1))/2)

def test_names_do_not_shadow_fastai():
    import fastai.tabular.all, fastai.text.all, fastai.vision.all
    taken = set(dir(fastai.vision.all)) | set(dir(fastai.text.all)) | set(dir(fastai.tabular.all))
    assert not taken & set(losses_module.__all__)

# What the losses hand on

@pytest.mark.parametrize('loss', [nfl_loss, ngce_loss, bootstrapping_loss, nce_loss, sce_loss])
def test_nothing_is_kept_after_the_backward_pass(loss):
    log_p,y = log_probs(torch.randn(4, 5, requires_grad=True), torch.arange(4))
    kept = weakref.ref(log_p)
    at_target(log_p, y)
    loss(log_p, y).sum().backward()
    del log_p
    assert kept() is None

@pytest.mark.parametrize('loss', SUMS + [lambda z, y: gjs_loss((z, z.flip(1)), y)])
def test_logits_are_left_alone(loss):
    logits, hard, soft = inputs(dtype=torch.float32)
    logits.requires_grad_()
    before = logits.detach().clone()
    for targets in (hard, soft): loss(logits, targets).sum().backward()
    assert torch.equal(logits.detach(), before) and not vars(logits)
    log_p, targets = log_probs(logits, hard)
    before = log_p.detach().clone()
    loss(log_p, targets)
    assert torch.equal(log_p.detach(), before)

def test_log_probabilities_with_other_targets_have_another_label():
    log_p,y = log_probs(torch.randn(4, 5, requires_grad=True), torch.arange(4))
    other = y + 1
    nfl_loss(log_p, y)
    assert (at_target(log_p, y) == log_p[range(4), y]).all() and (at_target(log_p, other) == log_p[range(4), other]).all()
    assert (at_target(log_p, y) == log_p[range(4), y]).all()

def test_label_asked_for_without_gradient_has_one_later():
    log_p,y = log_probs(torch.randn(4, 5, requires_grad=True), torch.arange(4))
    with torch.no_grad(): at_target(log_p, y)
    assert at_target(log_p, y).requires_grad

def test_plot_of_losses():
    "The curves are those of the formulas, and a `RobustLoss` is drawn as its function"
    import matplotlib.pyplot as plt
    from fastnoisy.losses.base import plot_losses
    axs = plot_losses({'ce': ce_loss, 'mae': mae_loss, 'gce': GCELoss(reduction='none')}, n_classes=4)
    p = torch.as_tensor(axs[0].lines[0].get_xdata())
    formulas = [-p.log(), 1 - p, (1 - p**.7)/.7],[1 - p, p*(1 - p), p**.7*(1 - p)]
    for ax,curves in zip(axs, formulas):
        for line,y in zip(ax.lines, curves):
            drawn = torch.as_tensor(line.get_ydata())
            wanted = y/y.max() if ax is axs[1] else (y - y[-1])/(y[p == .5] - y[-1])
            assert torch.allclose(drawn, wanted, atol=1e-4)
    assert [o.get_label() for o in axs[0].lines] == ['ce', 'mae', 'gce']
    plt.close(axs[0].figure)

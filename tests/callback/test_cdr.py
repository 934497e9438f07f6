"""CDRCallback: which weights follow the gradient, against a loop; the neutral rate; what it leaves alone"""
import pytest, torch
from fastai.basics import Callback, CrossEntropyLossFlat, Learner, SGD
from fastai.callback.all import GradientClip
from torch import nn
from fastnoisy.callback.cdr import CDRCallback, critical_threshold, hold_back
from helpers import LR, linear, make, make_dls, weights_of

def params_of(*shapes, seed=0):
    gen = torch.Generator().manual_seed(seed)
    params = [torch.randn(*o, generator=gen).requires_grad_() for o in shapes]
    for p in params: p.grad = torch.randn(p.shape, generator=gen)
    return params

def naive(params, rate):
    "Gradients by a loop over all weights"
    scored = [(abs(w*g), i, j) for i,p in enumerate(params) if p.dim() > 1
              for j,(w,g) in enumerate(zip(p.flatten().tolist(), p.grad.flatten().tolist()))]
    kept = {o[1:] for o in sorted(scored, reverse=True)[:max(int((1-rate)*len(scored)), 1)]}
    def new(i, j, g): return g*(1-rate) if (i, j) in kept else 0.
    return [torch.tensor([new(i, j, g) for j,g in enumerate(p.grad.flatten().tolist())]).view_as(p) if p.dim() > 1
            else p.grad.clone() for i,p in enumerate(params)]

@pytest.mark.parametrize('rate', [.1, .25, .5, .9, .999])
def test_gradients_of_a_loop(rate):
    params = params_of((5, 7), (7,), (3, 2, 3, 3), (4, 2, 5))
    expected = naive(params, rate)
    hold_back(params, rate)
    for p,e in zip(params, expected): torch.testing.assert_close(p.grad, e)
    n = sum(o.numel() for o in params if o.dim() > 1)
    assert sum(int((o.grad != 0).sum()) for o in params if o.dim() > 1) == max(int((1-rate)*n), 1)

def test_a_rate_of_zero_is_plain_training():
    weights = []
    for cbs in ([], [CDRCallback(0)], [CDRCallback(.3)]):
        learn = make('ce', cbs=cbs)
        learn.fit(2, LR)
        weights.append(weights_of(learn.model))
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])

def test_biases_and_frozen_weights_are_left_alone():
    params = params_of((4, 4), (4,))
    frozen = torch.randn(50, 50) # no gradient, so it does not count
    before = params[1].grad.clone()
    hold_back([*params, frozen], .5)
    assert torch.equal(params[1].grad, before) and (params[0].grad == 0).sum() == 8

def test_nothing_to_hold_back():
    hold_back([], .5)
    hold_back([torch.randn(3, 3)], .5)
    bias = params_of((4,))
    hold_back(bias, .5)
    assert (bias[0].grad != 0).all()

def test_threshold_of_a_large_model_is_that_of_a_sample():
    gen = torch.Generator().manual_seed(0)
    scores = [torch.rand(400, 500, generator=gen), torch.rand(100, 300, generator=gen)]
    exact = critical_threshold(scores, .3, 10**9)
    for n in (2000, 50_000): assert abs(critical_threshold(scores, .3, n) - .3) < 2/n**.5
    kept = torch.cat([o.flatten() for o in scores]) >= exact
    assert abs(exact - .3) < .01 and kept.float().mean() == pytest.approx(.7, abs=1e-5)

def test_what_is_not_finite_is_not_hidden():
    "Mixed precision, and whoever looks at the gradients, still sees it"
    params = params_of((4, 4), (4, 4))
    with torch.no_grad():
        params[0].grad[0, 0],params[1].grad[1, 1] = float('nan'),float('inf')
    hold_back(params, .5)
    assert params[0].grad[0, 0].isnan() and params[1].grad[1, 1].isinf()

class Gradients(Callback):
    "The gradients of each step, as the optimizer gets them"
    order = 1000
    def before_fit(self): self.seen = []
    def before_step(self): self.seen.append([p.grad.clone() for p in self.model.parameters()])

def test_it_comes_before_clipping_and_after_accumulation():
    learn = make('ce', cbs=[CDRCallback(.5), GradientClip(1e-3), Gradients()])
    learn.fit(1, LR)
    for grads in learn.gradients.seen:
        total = torch.cat([o.flatten() for o in grads]).norm()
        assert total == pytest.approx(1e-3, rel=1e-3) # half of them were gone before
        of_weights = torch.cat([o.flatten() for o in grads if o.dim() > 1])
        assert abs((of_weights == 0).float().mean() - .5) < .1

def test_weight_decay_acts_on_all():
    "Weights without gradient shrink"
    model = nn.Sequential(nn.Linear(4, 3))
    learn = Learner(make_dls(), model, loss_func=CrossEntropyLossFlat(), cbs=[CDRCallback(.9), Gradients()],
                    opt_func=SGD, wd=.1)
    before = model[0].weight.detach().clone()
    with learn.no_bar(), learn.no_logging(): learn.fit(1, .1)
    still = torch.stack([o[0] == 0 for o in learn.gradients.seen]).all(0)
    n = len(learn.gradients.seen)
    assert still.any()
    torch.testing.assert_close(model[0].weight[still], before[still]*(1 - .1*.1)**n)

@pytest.mark.parametrize('rate', [-.1, 1, 1.5, float('nan'), 'half', True])
def test_wrong_rates(rate):
    with pytest.raises(ValueError, match='noise_rate'): CDRCallback(rate)

def test_it_says_nothing_of_the_samples():
    learn = make('cdr')
    learn.fit(1, LR)
    assert learn.cdr.label_quality() is None and learn.cdr.noise_probability() is None

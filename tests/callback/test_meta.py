"""L2RCallback and MetaWeightNetCallback: weights against gradients of single samples and finite differences of real
steps; neutral options are plain training; where the validation batches come from"""
import numpy as np, pytest, torch
import torch.nn.functional as F
from torch import nn
from fastai.basics import CrossEntropyLossFlat, DataLoaders, Learner, SGD
from fastnoisy.callback.meta import (L2RCallback, MetaWeightNetCallback, agreement, if_finite, l2r_weights,
                                     start_weight_net, weight_net)
from fastnoisy.core.checks import checked_ids
from fastnoisy.core.hypergradient import VIRTUAL_STEPS
from fastnoisy.core.method import MethodCallback
from helpers import LR, N, linear, make, make_dls, weights_of

def sgd_learner(*cbs, dls=None, lr=.1, epochs=1, wd=0.):
    learn = Learner(dls or make_dls(), linear(), loss_func=CrossEntropyLossFlat(), opt_func=SGD, cbs=cbs, wd=wd)
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, lr)
    return learn

class Weights(MethodCallback):
    "What each batch weighed, and of what it was"
    name,order = 'weights',45
    def begin_fit(self): self.seen = []
    def after_loss(self):
        start = {k: v.detach().clone() for k,v in self.model.state_dict().items()}
        self.seen.append((start, self.xb[0].clone(), self.yb[0].clone(), self.sample_ids, self.learn.sample_weight))

# the weights

def test_agreement_is_the_product_of_gradients():
    "One gradient after the other by autograd, and the relu and normalisation of the paper written anew"
    model = linear().double()
    gen = torch.Generator().manual_seed(0)
    x,y = torch.randn(9, 4, generator=gen).double(),torch.arange(9) % 3
    x_valid,y_valid = torch.randn(6, 4, generator=gen).double(),torch.arange(6) % 3
    def gradient(x, y):
        grads = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
        return torch.cat([g.flatten() for g in grads])
    g = gradient(x_valid, y_valid)
    expected = torch.stack([gradient(x[i:i+1], y[i:i+1]) @ g for i in range(9)])
    virtual = VIRTUAL_STEPS['all'](model)
    virtual.before_step((x,), model(x))
    said = virtual.tangents((x_valid,), lambda z: F.cross_entropy(z, y_valid))
    got = agreement(lambda z: F.cross_entropy(z, y, reduction='none'), *said)
    torch.testing.assert_close(got, expected)
    assert (got > 0).any() and (got < 0).any()
    w = [max(o, 0.) for o in expected.tolist()]
    torch.testing.assert_close(l2r_weights(got).tolist(), [9*o/sum(w) for o in w])

def test_weights_where_none_agrees_and_of_what_is_not_finite():
    assert l2r_weights(torch.tensor([-1., 0., -3.])).tolist() == [0, 0, 0]
    ones = torch.ones(2)
    assert if_finite(l2r_weights(torch.tensor([1., float('nan')])), ones).tolist() == [1, 1]
    assert if_finite(torch.tensor([1., 3.]), ones).tolist() == [1, 3]

def test_the_callback_weighs_by_the_validation_gradient():
    "Every batch of a training, against autograd; the validation batch is the whole set"
    dls = make_dls()
    learn = sgd_learner(L2RCallback(meta_bs=32), Weights(), dls=dls)
    valid = dls.valid.dataset
    for start,x,y,_,weights in learn.weights.seen:
        model = linear()
        model.load_state_dict(start)
        def gradient(x, y):
            grads = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
            return torch.cat([g.flatten() for g in grads])
        g = gradient(valid.x, valid.y)
        w = torch.stack([gradient(a[None], b[None]) @ g for a,b in zip(x, y)]).clamp(min=0)
        torch.testing.assert_close(weights, len(w)*w/w.sum(), rtol=1e-3, atol=1e-4)
        assert weights.mean() == pytest.approx(1) and (weights == 0).any()

def test_wrong_labels_agree_less():
    learn = sgd_learner(L2RCallback(), epochs=4)
    data,quality = learn.dls.train.dataset,learn.l2r.label_quality()
    wrong = (data.y != data.true).numpy()
    assert quality[wrong].mean() < .3 < .7 < quality[~wrong].mean()

# Meta-Weight-Net

def test_weight_net_is_that_of_layers():
    params,losses = start_weight_net(7, seed=3),torch.linspace(0, 5, 11)
    net = nn.Sequential(nn.Linear(1, 7), nn.ReLU(), nn.Linear(7, 1), nn.Sigmoid())
    with torch.no_grad():
        for p,o in zip(net.parameters(), (params[:7], params[7:14], params[14:21], params[21:])): p.copy_(o.view_as(p))
        torch.testing.assert_close(weight_net(params, losses), net(losses[:,None])[:,0])
    assert params[:14].abs().max() <= 1 and params[14:].abs().max() <= 7**-.5
    state = torch.get_rng_state()
    assert torch.equal(start_weight_net(7, seed=3), params) and torch.equal(torch.get_rng_state(), state)

class Gradients(MetaWeightNetCallback):
    "Keeps the gradients of the weighting network, and what they are of"
    name = 'meta_weight_net'
    def begin_fit(self):
        super().begin_fit()
        self.seen = []
    def before_step(self):
        super().before_step()
        self.batch = {k: v.detach().clone() for k,v in self.model.state_dict().items()},self.xb[0],self.yb[0]
    def _gradient(self):
        self.seen.append((*self.batch, self.w.detach().clone(), super()._gradient()))
        return self.seen[-1][-1]

@pytest.mark.parametrize('normalise', [True, False])
def test_its_gradient_is_that_of_a_real_step(normalise):
    "Finite differences of the validation loss after a step of SGD, along a random direction of the network"
    learn = sgd_learner(Gradients(meta_bs=32, hidden=5, normalise=normalise), lr=1e-3)
    valid = learn.dls.valid.dataset
    for i,(start,x,y,w,grad) in enumerate(learn.meta_weight_net.seen):
        d = torch.randn(len(w), generator=torch.Generator().manual_seed(i)).double()
        def loss_after(t, lr=1e-3):
            model = linear().double()
            model.load_state_dict(start)
            losses = F.cross_entropy(model(x.double()), y, reduction='none')
            weights = weight_net(w.double() + t*d, losses.detach())
            if normalise: weights = weights/weights.mean()
            grads = torch.autograd.grad((weights*losses).mean(), list(model.parameters()))
            with torch.no_grad():
                for p,g in zip(model.parameters(), grads): p -= lr*g
            return F.cross_entropy(model(valid.x.double()), valid.y).item()/lr
        slope = (loss_after(1e-3) - loss_after(-1e-3))/2e-3
        # at the parameters after the Learner's own step, which has the same learning rate
        assert slope == pytest.approx((grad.double() @ d).item(), rel=.02, abs=2e-5)
    assert len(learn.meta_weight_net.seen) == 4

def test_a_learning_rate_of_zero_and_a_constant_network():
    "All samples weigh a half, and with their mean at 1 it is plain training; else with half the learning rate"
    plain = weights_of(sgd_learner().model)
    for normalise,lr in ((True, .1), (False, .2)):
        cb = MetaWeightNetCallback(lr=0., wd=0., normalise=normalise)
        with torch.no_grad(): cb.w[200:] = 0.
        torch.testing.assert_close(weights_of(sgd_learner(cb, lr=lr).model), plain)
        assert (cb.w[200:] == 0).all() and np.allclose(cb.label_quality(), .5)

def test_it_learns_that_high_losses_are_wrong_labels():
    "of a model that knows the classes, when the validation labels are right"
    learn = sgd_learner(epochs=12, lr=.3)
    learn.add_cb(MetaWeightNetCallback(lr=.02))
    with learn.no_bar(), learn.no_logging(): learn.fit(6, .1)
    low,high = weight_net(learn.meta_weight_net.w.detach(), torch.tensor([.1, 4.]))
    assert low > 100*high
    assert learn.meta_weight_net.plot().lines

# what they are given

@pytest.mark.parametrize('warmup', [2, .99])
def test_a_warmup_as_long_as_the_fit_is_plain_training(warmup):
    learn = sgd_learner(L2RCallback(warmup=warmup), epochs=2)
    assert torch.equal(weights_of(learn.model), weights_of(sgd_learner(epochs=2).model))
    assert learn.l2r.label_quality() is None
    with pytest.raises(ValueError, match='weighed no sample'): learn.l2r.to_frame()

@pytest.mark.parametrize('cls', [L2RCallback, MetaWeightNetCallback])
def test_trusted_samples_take_the_place_of_the_validation_set(cls):
    "Ids or a mask; the validation set, which is useless here, is not looked at"
    data = make_dls().train.dataset
    right = (data.y == data.true).nonzero().flatten()[:12]
    weights = []
    for trusted in (right, np.isin(np.arange(N), right)):
        dls,cb = make_dls(),cls(trusted=trusted)
        dls.valid.dataset.x[:] = float('nan')
        weights.append(weights_of(sgd_learner(cb, dls=dls, epochs=2).model))
        assert cb.label_quality().shape == (N,)
    assert torch.equal(*weights) and weights[0].isfinite().all()

def test_what_it_cannot_learn_from():
    dls = DataLoaders(make_dls().train, device='cpu')
    with pytest.raises(ValueError, match='no validation data.*`trusted`'): sgd_learner(L2RCallback(), dls=dls)
    with pytest.raises(ValueError, match='trusted.*from 0 to'): sgd_learner(L2RCallback(trusted=[N]))
    with pytest.raises(ValueError, match='give one of them'): L2RCallback(trusted=[1], meta_dl=dls.train)
    dls = make_dls()
    dls.valid.dataset.x[:] = float('nan')
    for cb in (L2RCallback(), MetaWeightNetCallback()):
        with pytest.raises(ValueError, match='validation batch is NaN'): sgd_learner(cb, dls=dls)

@pytest.mark.parametrize('name, kwargs', [
    ('meta_bs', dict(meta_bs=0)), ('meta_of', dict(meta_of='half')), ('lr', dict(lr=-1.)), ('wd', dict(wd=-1.)),
    ('hidden', dict(hidden=0)), ('seed', dict(seed=-1))])
def test_wrong_options(name, kwargs):
    with pytest.raises(ValueError, match=name): MetaWeightNetCallback(**kwargs)
    if name in ('meta_bs', 'meta_of'):
        with pytest.raises(ValueError, match=name): L2RCallback(**kwargs)

def test_wrong_warmup():
    with pytest.raises(ValueError, match='warmup'): L2RCallback(warmup=1.5)

def test_a_saved_network_of_another_size():
    learn = make('meta-weight-net')
    learn.fit(1, LR)
    with pytest.raises(ValueError, match='hidden=5.*100 units'):
        MetaWeightNetCallback(hidden=5).load_state_dict(learn.meta_weight_net.state_dict())

@pytest.mark.parametrize('value', [[0, 0, 2], np.array([True, False, True])])
def test_checked_ids(value): assert checked_ids('trusted', value, 3).tolist() == [0, 2]

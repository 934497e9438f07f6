"ELR+ against its equations, by hand and in limit cases."
import math
import pytest, torch
import torch.nn.functional as F
from torch import nn
from fastai.basics import CrossEntropyLossFlat, Learner, SGD
from fastai.data.core import DataLoaders, TfmdDL
from fastnoisy.callback.elr import ELRCallback
from fastnoisy.callback.elr_plus import ELRPlusCallback, averaging_decay, blended
from fastnoisy.core.networks import average_weights
from helpers import blob_learner, fitted_blobs, run_in_parts, weights_of

def close(a, b): torch.testing.assert_close(weights_of(a), weights_of(b), rtol=1e-4, atol=1e-6)

class Table(nn.Module):
    "The logits of a sample are free parameters, so that every step has a closed form"
    def __init__(self, z):
        super().__init__()
        self.z = nn.Parameter(z.clone())
    def forward(self, x): return x @ self.z

Z,Y = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)),torch.tensor([0, 1, 2, 0, 1])

def free_logits(cb, epochs, lr=.1):
    "Full batches of SGD on free logits; inputs are one-hot, so that they can be blended"
    items = list(zip(torch.eye(5), Y))
    dls = DataLoaders(*(TfmdDL(items, bs=5, shuffle=False, num_workers=0) for _ in range(2)), device='cpu')
    learn = Learner(dls, Table(Z), loss_func=CrossEntropyLossFlat(), opt_func=SGD, cbs=cb, train_bn=False)
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, lr, wd=0.)
    return learn

def by_hand(epochs, lam, beta, lr, decay):
    "Two networks, each with the targets of the other's average, without MixUp"
    zs,ts = [Z.double(), .5*Z.double()],[torch.zeros(5, 3).double()]*2
    averages = [o.clone() for o in zs]
    for n in range(epochs):
        for a,b in ((0, 1), (1, 0)): ts[a] = beta*ts[a] + (1 - beta)*averages[b].softmax(1)
        for a in range(2):
            p = zs[a].softmax(1)
            inner = (ts[a]*p).sum(1, keepdim=True)
            zs[a] = zs[a] - lr/5*(p - F.one_hot(Y, 3) - lam*p*(ts[a] - inner)/(1 - inner))
        d = decay(n)
        averages = [d*o + (1 - d)*z for o,z in zip(averages, zs)]
    return zs,ts,averages

def test_two_networks_by_hand():
    "Five steps of equations (1) to (3); the decay grows to the middle of the fit"
    lam,beta,lr = 2.,.6,.3
    cb = ELRPlusCallback(lam, beta, alpha=0., average=4., model_maker=lambda: Table(.5*Z))
    learn = free_logits(cb, 5, lr)
    decay = lambda n: .75*math.exp(-5*(1 - min(n/5/.5, 1))**2)
    zs,ts,averages = by_hand(5, lam, beta, lr, decay)
    for got,expected in zip((learn.model, cb.peer.model, *cb.peer.averages), (*zs, *averages)):
        torch.testing.assert_close(got.z.detach().double(), expected, rtol=1e-4, atol=1e-5)
    for got,expected in zip((cb.targets, cb.peer_targets), ts):
        torch.testing.assert_close(got.all().double(), expected, rtol=1e-4, atol=1e-5)
    t = (ts[0] + ts[1])/2
    assert cb.label_quality() == pytest.approx((t[range(5),Y]/t.amax(1)).numpy(), rel=1e-4)
    assert cb.suggested_labels().tolist() == t.argmax(1).tolist()
    assert cb.to_frame().label_quality.values == pytest.approx(cb.label_quality())

def test_one_network_without_average_is_elr():
    "The average of nothing is the network itself"
    a,b = free_logits(ELRPlusCallback(alpha=0., networks=1, average=0.), 6),free_logits(ELRCallback(), 6)
    torch.testing.assert_close(a.model.z, b.model.z)
    torch.testing.assert_close(a.elr_plus.targets.all(), b.elr.targets.all())

def test_neutral_is_plain_training():
    "No penalty and no MixUp: bit for bit, with an average that looks on"
    a,b = (fitted_blobs(o) for o in (ELRPlusCallback(0., alpha=0., networks=1), None))
    assert torch.equal(weights_of(a.model), weights_of(b.model))
    assert not torch.equal(weights_of(a.elr_plus.peer.model), weights_of(a.model))

def test_networks_differ_and_are_apart():
    learn = fitted_blobs(ELRPlusCallback())
    each = [learn.model, learn.elr_plus.peer.model, *learn.elr_plus.peer.averages]
    weights = [weights_of(o) for o in each]
    assert all(o.isfinite().all() for o in weights)
    for i in range(4):
        for j in range(i): assert not torch.equal(weights[i], weights[j])
    learn.predict_model = 'mean'
    assert learn.validate()[1] > .8

def test_blends_have_blended_targets():
    t,lam,partners = torch.rand(4, 3),torch.tensor(.8),torch.tensor([2, 0, 1, 3])
    got = blended(t, lam, partners)
    for i in range(4): assert got[i].tolist() == pytest.approx((.8*t[i] + .2*t[partners[i]]).tolist())

def test_decay():
    assert averaging_decay(1, 391) == pytest.approx(.9974, abs=1e-4) # .997 in the paper's code
    assert averaging_decay(0, 391) == averaging_decay(5, 391, 0.) == 0

def test_average_of_weights_and_buffers():
    "Against a loop; what is no floating-point number is copied"
    a,b = (nn.BatchNorm1d(3) for _ in range(2))
    b.weight.data.fill_(3.), b.running_mean.fill_(2.), b.num_batches_tracked.fill_(7)
    average_weights(a, b, .75)
    assert a.weight.tolist() == pytest.approx([1.5]*3) and a.running_mean.tolist() == pytest.approx([.5]*3)
    assert a.num_batches_tracked == 7

def test_the_decay_has_grown_for_good():
    "A second fit does not begin to average anew"
    learn = fitted_blobs(ELRPlusCallback())
    assert learn.elr_plus.grown == 1
    decays = []
    learn.elr_plus.after_step = lambda: decays.append(learn.elr_plus.peer.decay)
    learn.fit(1, 1e-2)
    assert decays == [averaging_decay(1, 6)]*6

def test_resumed_is_uninterrupted(tmp_path):
    make_learner = lambda: blob_learner(ELRPlusCallback(), path=tmp_path)
    whole,parts = (run_in_parts(make_learner, o) for o in ([2, 2], [2, 2]))
    assert torch.equal(weights_of(whole.model), weights_of(parts.model))
    for a,b in zip(whole.elr_plus.peer.averages, parts.elr_plus.peer.averages): close(a, b)

def test_sum_is_as_many_times_the_mean():
    "A loss that is summed, with a rate as many times lower"
    def run(reduction, lr):
        items = list(zip(torch.eye(5), Y))
        dls = DataLoaders(*(TfmdDL(items, bs=5, shuffle=False, num_workers=0) for _ in range(2)), device='cpu')
        learn = Learner(dls, Table(Z), loss_func=CrossEntropyLossFlat(reduction=reduction), opt_func=SGD,
                        cbs=ELRPlusCallback(model_maker=lambda: Table(.5*Z)), train_bn=False)
        with learn.no_bar(), learn.no_logging(): learn.fit(4, lr, wd=0.)
        return learn.model.z.detach()
    torch.testing.assert_close(run('mean', .5), run('sum', .1))

@pytest.mark.parametrize('kwargs', [dict(networks=3), dict(alpha=-1.), dict(average=-1.), dict(lam=-1.)])
def test_errors(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))): ELRPlusCallback(**kwargs)

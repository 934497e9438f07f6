"Decoupling, JoCoR and Co-teaching+: what two networks learn from, against the formulas and against plain PyTorch."
import math
from functools import partial
import numpy as np, pytest, torch
import torch.nn.functional as F
from torch import nn
from fastai.basics import Callback, CrossEntropyLossFlat, DataLoaders, Learner, SGD
from fastnoisy.analysis.ranking import roc_auc
from fastnoisy.callback.co_teaching import CoTeachingCallback, batch_share, small_loss
from fastnoisy.callback.disagreement import CoTeachingPlusCallback, DecouplingCallback, JoCoRCallback
from fastnoisy.callback.disagreement import disagreement, symmetric_divergence
from helpers import Items, blob_learner, blobs, fitted_blobs, small_model, weights_of

GEN = torch.Generator().manual_seed(0)

# the formulas

def test_disagreement_is_of_classes_not_of_confidence():
    z = torch.randn(64, 5, generator=GEN)
    assert not disagreement(z, 9*z + 1).any()
    other = torch.randn(64, 5, generator=GEN)
    assert disagreement(z, other).tolist() == [int(a.argmax()) != int(b.argmax()) for a,b in zip(z, other)]

def test_divergence_is_both_kullback_leiblers():
    z,other = torch.randn(2, 16, 5, generator=GEN, dtype=torch.float64)*4
    def kl(a, b): return F.kl_div(b.log_softmax(1), a.log_softmax(1), reduction='none', log_target=True).sum(1)
    torch.testing.assert_close(symmetric_divergence(z, other), kl(z, other) + kl(other, z))
    assert (symmetric_divergence(z, z) == 0).all()

def test_gradient_of_the_divergence_goes_through_both_arguments():
    "d/dz1 = p(log p - log q - KL(p||q)) + p - q, and the same with p and q exchanged"
    z,other = (o.requires_grad_() for o in torch.randn(2, 16, 5, generator=GEN, dtype=torch.float64))
    symmetric_divergence(z, other).sum().backward()
    p,q = z.detach().softmax(1),other.detach().softmax(1)
    def gradient(p, q): return p*((p/q).log() - (p*(p/q).log()).sum(1, keepdim=True)) + p - q
    torch.testing.assert_close(z.grad, gradient(p, q))
    torch.testing.assert_close(other.grad, gradient(q, p))
    assert other.grad.abs().max() > .01

def test_small_loss_among_some():
    losses = torch.tensor([.1, .2, .3, .4, .5, .6])
    among = torch.tensor([False, True, True, False, True, True])
    assert small_loss(losses, 2, among=among).nonzero()[:,0].tolist() == [1, 2]
    assert small_loss(losses, torch.tensor(9), among=among).tolist() == among.tolist()
    y = torch.tensor([0, 0, 0, 1, 1, 1])
    assert small_loss(losses, 2, y, among).nonzero()[:,0].tolist() == [1, 4] # one of each class, of those two
    assert not small_loss(losses, 3, y, torch.zeros(6, dtype=torch.bool)).any()
    assert small_loss(losses, 3, y).equal(small_loss(losses, 3, y, torch.ones(6, dtype=torch.bool)))

def test_few_samples_count_less_than_a_mean():
    chosen = torch.arange(40) < 2
    assert batch_share(chosen).sum() == 40 and batch_share(chosen, .1).sum() == 20
    assert not batch_share(chosen & ~chosen, .1).any()

# the training

def no_dropout(seed=0):
    model = small_model(seed=seed)
    model[3].p = 0.
    return model

def fit(cb, n=3, seed=0, **kwargs):
    torch.manual_seed(7)
    learn = blob_learner(cb, **kwargs)
    learn.model = no_dropout(seed)
    learn.dls.train.rng.seed(3)
    with learn.no_logging(): learn.fit(n, 1e-2)
    return learn

NEUTRAL = {'jocor': lambda: JoCoRCallback(0., noise_rate=0),
           'co-teaching+': lambda: CoTeachingPlusCallback(3, noise_rate=0), 'decoupling': lambda: DecouplingCallback(3)}

@pytest.mark.parametrize('name', NEUTRAL)
def test_neutral_options_are_plain_training_bit_for_bit(name):
    "with dropout, which the peer has too"
    plain,taught = fitted_blobs(),fitted_blobs(NEUTRAL[name]())
    assert plain.model[3].p == .2 and torch.equal(weights_of(plain.model), weights_of(taught.model))
    assert [o[0] for o in plain.recorder.values] == [o[0] for o in taught.recorder.values]

@pytest.mark.parametrize('name', NEUTRAL)
def test_the_peer_is_another_plain_training(name):
    cb = NEUTRAL[name]()
    cb.model_maker = partial(no_dropout, 5)
    fit(cb)
    torch.testing.assert_close(weights_of(cb.peer.model), weights_of(fit(None, seed=5).model))

def test_co_teaching_plus_begins_as_co_teaching():
    plus,plain = fit(CoTeachingPlusCallback(3, noise_rate=.25)),fit(CoTeachingCallback(noise_rate=.25))
    assert torch.equal(weights_of(plus.model), weights_of(plain.model))
    assert not torch.equal(weights_of(fit(CoTeachingPlusCallback(2, noise_rate=.25)).model), weights_of(plain.model))

class Weights(Callback):
    "Notes how the weights of both networks move"
    order,run_valid = 60,False
    def after_step(self): self.learn.moved = getattr(self.learn, 'moved', []) + [self.both()]
    def both(self):
        peer = next(cb.peer for cb in self.learn.cbs if getattr(cb, 'peer', None) is not None)
        return torch.cat([p.detach().flatten() for m in (self.model, peer.model) for p in m.parameters()])

@pytest.mark.parametrize('cb', [DecouplingCallback, CoTeachingPlusCallback])
def test_networks_that_agree_learn_nothing(cb):
    "Equal weights: no disagreement, no step, no NaN"
    cb = cb(0, init='copy', **({} if cb is DecouplingCallback else dict(noise_rate=.2)))
    learn = fit([cb, Weights()], opt_func=partial(SGD, mom=0.), wd=0.)
    assert all(torch.equal(o, learn.moved[0]) for o in learn.moved) and learn.moved[0].isfinite().all()
    assert cb.disagreement == 0

def batches_of(cb, lr=.05, n=2):
    "A training with plain SGD, and the batches it had"
    batches = []
    class Note(Callback):
        run_valid = False
        def before_batch(self): batches.append((self.x, self.y))
    learn = blob_learner([cb, Note()], opt_func=partial(SGD, mom=0.), wd=0.)
    learn.model = no_dropout()
    with learn.no_logging(): learn.fit(n, lr)
    return learn, batches

def steps_by_hand(batches, losses_of, lr=.05):
    "Two networks in plain PyTorch: `losses_of` gives the loss of both from their logits and the labels"
    models = no_dropout(),no_dropout(5)
    opts = [torch.optim.SGD(m.parameters(), lr) for m in models]
    for x,y in batches:
        loss = losses_of(*(m(x) for m in models), y)
        for opt in opts: opt.zero_grad()
        if torch.is_tensor(loss): loss.backward()
        for opt in opts: opt.step()
    return models

def assert_same(learn, cb, models):
    for ours,theirs in zip((learn.model, cb.peer.model), models):
        torch.testing.assert_close(weights_of(ours), weights_of(theirs), rtol=1e-4, atol=1e-5)

def ce(z, y): return F.cross_entropy(z, y, reduction='none')

def test_decoupling_by_hand():
    def loss(a, b, y):
        rows = [i for i in range(len(y)) if a[i].argmax() != b[i].argmax()]
        return sum((ce(o[rows], y[rows]).sum() for o in (a, b)))/max(len(rows), .1*len(y)) if rows else 0
    cb = DecouplingCallback(0, model_maker=partial(no_dropout, 5))
    learn,batches = batches_of(cb)
    assert_same(learn, cb, steps_by_hand(batches, loss))

def test_co_teaching_plus_by_hand():
    def loss(a, b, y):
        rows = [i for i in range(len(y)) if a[i].argmax() != b[i].argmax()]
        if not rows: return 0
        n = max(1, int(.75*len(rows)))
        first,second = (torch.tensor(rows)[ce(o[rows], y[rows]).argsort()[:n]] for o in (a, b))
        return (ce(a[second], y[second]).sum() + ce(b[first], y[first]).sum())/max(n, .1*len(y))
    cb = CoTeachingPlusCallback(0, noise_rate=.25, ramp=0, model_maker=partial(no_dropout, 5))
    learn,batches = batches_of(cb)
    assert_same(learn, cb, steps_by_hand(batches, loss))

@pytest.mark.parametrize('lam', [0., .1, .9])
def test_jocor_by_hand(lam):
    "One optimizer over both networks, as in the paper: each parameter has the steps that it has here"
    def loss(a, b, y):
        p,q = a.softmax(1),b.softmax(1)
        apart = (p*(p/q).log()).sum(1) + (q*(q/p).log()).sum(1)
        joint = (1 - lam)*(ce(a, y) + ce(b, y)) + lam*apart
        return joint[joint.detach().argsort()[:int(.75*len(y))]].mean()
    cb = JoCoRCallback(lam, noise_rate=.25, ramp=0, model_maker=partial(no_dropout, 5))
    learn,batches = batches_of(cb)
    assert_same(learn, cb, steps_by_hand(batches, loss))

def test_equal_networks_have_no_divergence():
    "JoCoR with equal weights is a trimmed cross-entropy times 1 - lambda"
    learn,batches = batches_of(JoCoRCallback(.4, noise_rate=.25, ramp=0, init='copy'))
    def loss(a, b, y): return .6*sum(ce(o, y).sort().values[:int(.75*len(y))].mean() for o in (a, b))
    by_hand,_ = steps_by_hand(batches, loss)
    torch.testing.assert_close(weights_of(learn.model), weights_of(by_hand), rtol=1e-4, atol=1e-5)

def test_lambda_draws_the_networks_together():
    def apart(lam):
        learn,_ = batches_of(JoCoRCallback(lam, noise_rate=0, model_maker=partial(no_dropout, 5)), .1, 4)
        x = blobs()[0]
        with torch.no_grad(): a,b = (m.eval()(x) for m in (learn.model, learn.jocor.peer.model))
        return symmetric_divergence(a, b).mean().item()
    assert apart(.9) < apart(.5) < apart(0.)

# what they find

def noisy_dls(wrong_of, n=900):
    x,true = blobs(n, seed=0, spread=6)
    y = torch.where(wrong_of(x, true), (true + 1) % 3, true)
    dls = DataLoaders.from_dsets(Items(x, y, true), Items(*blobs(300, seed=1, spread=6)), bs=32, device='cpu')
    dls.train.rng.seed(3)
    torch.manual_seed(0)
    return dls, (y != true).numpy()

@pytest.mark.parametrize('cb', [CoTeachingPlusCallback, JoCoRCallback, DecouplingCallback])
def test_random_flips_are_found(cb):
    dls,wrong = noisy_dls(lambda x, true: torch.rand(len(true), generator=torch.Generator().manual_seed(1)) < .3)
    cb = DecouplingCallback() if cb is DecouplingCallback else cb(noise_rate=.3)
    learn = blob_learner(cb, dls=dls)
    with learn.no_logging(): learn.fit(6, 1e-2)
    quality = cb.label_quality()
    known = ~np.isnan(quality)
    assert known.mean() > .9 and roc_auc(quality[known], wrong[known]) > .9

def six_clusters(n=600):
    "Two clusters for each of three classes, and one cluster with the label of another class"
    cluster = torch.arange(n) % 6
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(0)) + 5*torch.eye(6)[cluster]
    given = torch.where(cluster == 0, 1, cluster//2)
    return DataLoaders.from_dsets(Items(x, given), Items(x, given), bs=32, device='cpu'), (cluster == 0).numpy()

@pytest.mark.parametrize('cb', [CoTeachingCallback, CoTeachingPlusCallback, JoCoRCallback, DecouplingCallback])
def test_subclass_noise_is_not_found(cb):
    "Wrong labels of a whole cluster are learnt as early as right ones: small losses and agreement say nothing of them"
    dls,wrong = six_clusters()
    cb = DecouplingCallback() if cb is DecouplingCallback else cb(noise_rate=1/6)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    learn = Learner(dls, net, loss_func=CrossEntropyLossFlat(), cbs=cb)
    with learn.no_bar(), learn.no_logging(): learn.fit(6, 1e-2)
    quality = np.nan_to_num(cb.label_quality(), nan=.5)
    assert roc_auc(quality, wrong) < .7

# what the user sees

def test_disagreement_is_shown_and_falls():
    learn = fit(DecouplingCallback(1))
    names = learn.recorder.metric_names
    assert 'disagreement' in names
    shown = [row[list(names).index('disagreement') - 1] for row in learn.recorder.values]
    assert all(0 <= o <= 1 for o in shown) and shown[-1] < shown[0]
    assert math.isnan(DecouplingCallback().disagreement)

@pytest.mark.parametrize('make, says', [
    (lambda: JoCoRCallback(1.), r'lam=1\.0: give a number in \[0, 1\)'), (lambda: JoCoRCallback(-.1), r'lam=-0\.1'),
    (lambda: CoTeachingPlusCallback(1.5), r'disagree_from=1\.5'), (lambda: DecouplingCallback(-1), 'warmup=-1'),
    (lambda: DecouplingCallback(init='ema'), "init='ema'"), (lambda: JoCoRCallback(noise_rate=1.), r'noise_rate=1\.0')])
def test_bad_arguments(make, says):
    with pytest.raises(ValueError, match=says): make()

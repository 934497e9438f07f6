"CORES2Callback: loss and sieve against plain PyTorch; neutral options are plain training; the prior of what passed"
import numpy as np, pytest, torch
import torch.nn.functional as F
from fastai.basics import CrossEntropyLossFlat, Learner, SGD
from fastnoisy.callback.cores2 import CORES2Callback, beta_at, peer_reward, sieve_margin, sieve_weights
from fastnoisy.core.method import MethodCallback
from fastnoisy.losses.peer import PeerLoss
from helpers import N, linear, make_dls, weights_of

def fitted(*cbs, epochs=3, lr=.1):
    learn = Learner(make_dls(), linear(), loss_func=CrossEntropyLossFlat(), opt_func=SGD, cbs=cbs)
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, lr)
    return learn

def batch(b=7, k=4):
    gen = torch.Generator().manual_seed(0)
    return 3*torch.randn(b, k, generator=gen),torch.arange(b) % k

def test_the_loss_is_that_of_its_family():
    "Value and gradient, times 1 + beta"
    z,y = batch()
    prior,beta = torch.tensor([.1, .2, .3, .4]),1.5
    own,other = z.clone().requires_grad_(),z.clone().requires_grad_()
    loss = F.cross_entropy(own, y) + beta*peer_reward(own, prior).mean()
    expected = PeerLoss(beta, prior=prior)(other, y)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(own.grad, other.grad)

def test_the_term_is_held():
    assert peer_reward(torch.tensor([[0., -100.]]), torch.tensor([.5, .5])).item() == pytest.approx(-9.21034)

def test_the_sieve_keeps_labels_above_the_mean_over_the_classes():
    z,y = batch()
    kept = [bool(z.softmax(1).log()[i,y[i]] >= z.softmax(1).log()[i].mean()) for i in range(len(y))]
    assert (sieve_margin(z, y) >= 0).tolist() == kept and 0 < sum(kept) < len(kept)
    losses = torch.arange(7.)
    passes = torch.tensor(kept)
    assert (sieve_weights(passes)*losses).mean() == pytest.approx(losses[passes].mean().item())
    assert sieve_weights(torch.zeros(3, dtype=torch.bool)).tolist() == [0, 0, 0]
    parts = passes[:2],passes[2:] # of two processes
    together = torch.cat([sieve_weights(o, passes.float().mean()) for o in parts])
    assert torch.equal(together, sieve_weights(passes))

def test_schedule():
    assert [beta_at(2., o, 0) for o in (-1, 0, 1)] == [0, 2, 2]
    learn = fitted(CORES2Callback(warmup=1, ramp=3), Look(), epochs=6)
    assert [o[0] for o in learn.look.seen] == [0, .5, 1, 1.5, 2, 2]
    assert [o[1] for o in learn.look.seen] == [False]*4 + [True]*2

class Look(MethodCallback):
    "Strength, sieve and prior of each epoch; the weights and margins of the last batch"
    name,order = 'look',45
    def before_fit(self): self.seen = []
    def after_loss(self):
        margin = sieve_margin(self.pred, self.yb[0])
        self.weights,self.passes = self.learn.sample_weight,margin >= 0
    def after_train(self):
        cb = self.learn.cores2
        self.seen.append((cb.strength, cb.is_open, None if cb._prior is None else cb._prior.clone()))

def test_beta_of_zero_without_sieve_is_plain_training():
    plain = weights_of(fitted().model)
    for cb in (CORES2Callback(beta=0, sieve=False), CORES2Callback(warmup=3)):
        learn = fitted(cb)
        assert torch.equal(weights_of(learn.model), plain) and learn.cores2.label_quality().shape == (N,)

def test_what_does_not_pass_is_left_out_and_the_prior_is_of_what_passed():
    learn = fitted(CORES2Callback(warmup=2, ramp=1), Look(), epochs=6)
    look,data = learn.look,learn.dls.train.dataset
    assert torch.equal(look.weights > 0, look.passes) and not look.passes.all()
    assert look.weights.mean() == pytest.approx(1)
    shares = torch.bincount(data.y)/N
    torch.testing.assert_close(look.seen[1][2], shares) # all labels, before the sieve opens
    assert not torch.allclose(look.seen[5][2], shares) and look.seen[5][2].sum() == pytest.approx(1)

def test_wrong_labels_fall_through():
    learn = fitted(CORES2Callback(warmup=2, ramp=2), epochs=8, lr=.3)
    wrong,quality = (learn.dls.train.dataset.y != learn.dls.train.dataset.true).numpy(),learn.cores2.label_quality()
    assert quality[wrong].mean() < .4 < .8 < quality[~wrong].mean()

WRONG = [('beta', dict(beta=-1.)), ('warmup', dict(warmup=-1)), ('ramp', dict(ramp=1.5))]
@pytest.mark.parametrize('name, kwargs', WRONG)
def test_wrong_options(name, kwargs):
    with pytest.raises(ValueError, match=name): CORES2Callback(**kwargs)

def test_nothing_to_say_before_training():
    assert CORES2Callback().label_quality() is None
    with pytest.raises(ValueError, match='seen no sample'): CORES2Callback().to_frame()

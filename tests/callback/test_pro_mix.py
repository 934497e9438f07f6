"ProMix: what is chosen and guessed, the rebalanced loss and the training; against plain loops and plain PyTorch."
import math
from functools import partial
import pytest, torch
import torch.nn.functional as F
from fastai.basics import Callback, SGD
from fastai.callback.mixup import MixUp
from fastnoisy.analysis.ranking import roc_auc
from fastnoisy.callback.co_teaching import CoTeachingCallback
from fastnoisy.callback.pro_mix import ProMixCallback, agreed, log_bias, matched, rebalanced, share_momentum
from fastnoisy.core.predict import predict
from helpers import blob_dls, blobs, fitted_blobs, noisy_dls, small_model, weights_of

def probs_of(n, k=4, seed=0, scale=4.):
    return (scale*torch.randn(n, k, generator=torch.Generator().manual_seed(seed))).softmax(1)

# the formulas

def test_matched_high_confidence():
    p,y = probs_of(50),torch.arange(50) % 4
    for tau in (0., .5, .9): assert matched(p, y, tau).tolist() == [p[i, y[i]].item() > tau for i in range(50)]
    assert not matched(torch.eye(4), torch.arange(4), 1.).any() # tau = 1: none

@pytest.mark.parametrize('share', [0., .3, .85, 1.])
def test_guesses_fill_the_batch_with_the_surest(share):
    p,q = probs_of(100),.5*probs_of(100) + .5*probs_of(100, seed=1)
    chosen = torch.arange(100) < 100*share
    found = agreed(p, q, chosen, .6)
    same = p.argmax(1) == q.argmax(1)
    can = [i for i in range(100) if not chosen[i] and same[i] and min(p[i].max(), q[i].max()) > .6]
    can = sorted(can, key=lambda i: -(p[i].max() + q[i].max()).item())
    assert set(found.nonzero()[:,0].tolist()) == set(can[:max(90 - int(chosen.sum()), 0)])
    assert not agreed(p, q, chosen, 1.).any()

def test_rebalanced_loss():
    z = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    y,shares = torch.arange(6) % 3,torch.tensor([.7, .2, .1], dtype=torch.float64)
    prior = torch.tensor([.5, .25, .25], dtype=torch.float64)
    w = (shares/prior)**.8
    losses = F.cross_entropy(rebalanced(z, log_bias(shares, prior), .8), y, reduction='none')
    by_hand = -torch.log(w[y]*z.exp()[range(6), y]/(w*z.exp()).sum(1))
    torch.testing.assert_close(losses, by_hand)
    slope, = torch.autograd.grad(losses.sum(), z)
    p = w*z.exp()/(w*z.exp()).sum(1, keepdim=True)
    torch.testing.assert_close(slope, (p - F.one_hot(y, 3)).detach())
    torch.testing.assert_close(rebalanced(z, log_bias(prior, prior)), z)
    assert torch.equal(rebalanced(z, log_bias(shares, prior), 0.), z)

def test_a_class_that_is_never_predicted_has_a_bias_all_the_same():
    bias = log_bias(torch.tensor([1., 0., 0.]), torch.tensor([.5, .5, 0.]))
    assert bias.isfinite().all() and bias[1] < -4 and bias[2] == 0

def test_shares_are_averaged_over_the_same_part_of_any_fit():
    for n in (100, 500, 5000): assert share_momentum(n)**(.085*n) == pytest.approx(math.exp(-1), rel=.1)
    assert share_momentum(10**6) == .9999 and share_momentum(0) == 0

# the training

class Batches(Callback):
    order,run_valid = 20,False
    def __init__(self): self.seen = []
    def before_batch(self): self.seen.append((self.x, self.y, self.learn.sample_ids))

sgd = dict(opt_func=partial(SGD, mom=0.), wd=0.)

def without_dropout():
    model = small_model(seed=0)
    model[3].p = 0.
    return model

class NoDropout(Callback):
    def before_fit(self): self.model[3].p = 0.

def test_warm_up_is_plain_training_bit_for_bit():
    assert torch.equal(weights_of(fitted_blobs(ProMixCallback(warmup=3)).model), weights_of(fitted_blobs().model))

def test_neutral_options_are_two_plain_trainings():
    cb = ProMixCallback(noise_rate=0., warmup=1, guess=0., strength=0.)
    learn,plain = fitted_blobs(cb),fitted_blobs()
    torch.testing.assert_close(weights_of(learn.model), weights_of(plain.model), rtol=1e-4, atol=1e-5)
    other = fitted_blobs(CoTeachingCallback(noise_rate=0.)).co_teaching.peer.model
    torch.testing.assert_close(weights_of(cb.peer.model), weights_of(other), rtol=1e-4, atol=1e-5)
    assert not torch.equal(weights_of(cb.peer.model), weights_of(learn.model)) # they start differently
    assert (cb.label_quality() == 1).all() and cb.used == 1

def test_the_choice_is_the_same_share_of_each_class():
    "Both networks, from their own losses on all samples, in a plain loop"
    noted = {}
    class Note(Callback):
        order = 40
        def before_train(self):
            cb = self.learn.pro_mix
            if cb.small is not None: noted.update(small=cb.small.clone(), said=[predict(self.learn, model=o) for o in
                                                                                (self.model, cb.peer.model)])
    fitted_blobs([ProMixCallback(noise_rate=.3, warmup=1), Note()], n=2)
    y = noted['said'][0].targets
    for small,said in zip(noted['small'], noted['said']):
        chosen = []
        for c in range(3):
            rows = sorted((i for i in range(96) if y[i] == c), key=lambda i: said.losses[i].item())
            chosen += rows[:math.ceil(.7*len(rows))]
        assert set(small.nonzero()[:,0].tolist()) == set(chosen)

def test_epoch_by_hand():
    "One epoch after the warm-up, guesses and all: weights of the model, shares and quality, in plain PyTorch"
    seen,start = Batches(),{}
    class Start(Callback):
        order = 40
        def before_train(self):
            cb = self.learn.pro_mix
            if cb.small is None: return
            start.update(models=[o.state_dict() for o in (self.model, cb.peer.model)], small=cb.small > 0)
            start['models'] = [{k: v.clone() for k,v in o.items()} for o in start['models']]
            start['shares'],start['prior'] = cb.shares.clone(),cb.prior
            del seen.seen[:]
    cb = ProMixCallback(noise_rate=.4, warmup=1, tau=.5, guess=1.)
    class PeerToo(Callback):
        def before_train(self): self.learn.pro_mix.peer.model[3].p = 0.
    learn = fitted_blobs([cb, NoDropout(), PeerToo(), Start(), seen], n=2, lr=.1, **sgd)
    models,shares = [],start['shares'].clone()
    for sd in start['models']:
        models.append(without_dropout())
        models[-1].load_state_dict(sd)
        models[-1].train()
    opts,quality,guesses = [torch.optim.SGD(o.parameters(), .1) for o in models],torch.zeros(96),0
    m = share_momentum(2*len(seen.seen))
    for x,y,ids in seen.seen:
        logits = [o(x) for o in models]
        p = [o.detach().softmax(1) for o in logits]
        moved = shares.clone()
        for k in range(2):
            chosen = start['small'][k][ids] | (p[k][range(len(y)), y] > .5)
            quality[ids] += chosen/2
            used = chosen | agreed(p[k], p[1-k], chosen, .5)
            bias = .8*(shares[k]/start['prior']).log()
            labels = torch.where(chosen, y, (logits[k].detach() - bias).argmax(1))
            guesses += int((used & ~chosen).sum())
            opts[k].zero_grad()
            F.cross_entropy((logits[k] + bias)[used], labels[used]).backward()
            opts[k].step()
            moved[k] = m*shares[k] + (1 - m)*p[k][used].mean(0)
        shares = moved
    assert guesses > 0
    torch.testing.assert_close(weights_of(learn.model), weights_of(models[0]), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(weights_of(cb.peer.model), weights_of(models[1]), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(cb.shares, shares, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.as_tensor(cb.label_quality()).float(), quality)

def wrong_labels(share=.3):
    x,y = blobs(300)
    wrong = torch.rand(300, generator=torch.Generator().manual_seed(0)) < share
    return torch.where(wrong, (y + 1) % 3, y), y.numpy(), wrong.numpy()

def test_wrong_labels_are_found_and_corrected():
    given,true,wrong = wrong_labels()
    learn = fitted_blobs(ProMixCallback(noise_rate=.3, warmup=2), n=8, dls=blob_dls(300, labels=given))
    assert roc_auc(learn.pro_mix.label_quality(), wrong) > .85
    assert (learn.pro_mix.suggested_labels() == true).mean() > (given.numpy() == true).mean() + .1

def test_the_rate_is_estimated():
    learn = fitted_blobs(ProMixCallback(), n=6, dls=noisy_dls())
    assert .2 < learn.pro_mix.noise_rate <= .5

def test_no_estimate_is_said_and_all_labels_are_used(monkeypatch):
    monkeypatch.setattr('fastnoisy.callback.pro_mix.guessed_rate', lambda learn, most: None)
    with pytest.warns(UserWarning, match='cannot tell how many labels are wrong'):
        learn = fitted_blobs(ProMixCallback(warmup=1), n=2)
    assert learn.pro_mix.noise_rate == 0 and (learn.pro_mix.small == 1).all()

def test_wrong_labels_of_a_corner_are_not_found():
    "They are learnt early, by both networks, and have small losses"
    x,y = blobs(300)
    corner = (y == 0) & (x[:,3] > 0)
    given = torch.where(corner, 1, y)
    learn = fitted_blobs(ProMixCallback(noise_rate=.3, warmup=2), n=8, dls=blob_dls(300, labels=given))
    easy,_,wrong = wrong_labels(.15)
    random = fitted_blobs(ProMixCallback(noise_rate=.3, warmup=2), n=8, dls=blob_dls(300, labels=easy))
    found = [roc_auc(o.pro_mix.label_quality(), w) for o,w in ((random, wrong), (learn, corner.numpy()))]
    assert found[0] > found[1] + .05

# what it is given

def test_mixup_is_refused():
    cbs = [ProMixCallback(noise_rate=.2, warmup=1), MixUp()]
    with pytest.raises(ValueError, match='leave MixUp'): fitted_blobs(cbs)

@pytest.mark.parametrize('options, says', [
    (dict(noise_rate=1.), r'noise_rate=1\.0'), (dict(warmup=0), 'warmup=0'), (dict(tau=2.), r'tau=2\.0'),
    (dict(guess=-1.), 'guess=-1'), (dict(strength=-1.), 'strength=-1'), (dict(max_rate=1.), 'max_rate=1')])
def test_bad_arguments(options, says):
    with pytest.raises(ValueError, match=says): ProMixCallback(**options)

def test_before_training():
    cb = ProMixCallback()
    assert cb.label_quality() is None and cb.suggested_labels() is None
    with pytest.raises(ValueError, match='train for an epoch first'): cb.to_frame()

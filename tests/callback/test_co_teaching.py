"Co-teaching: what each network learns from is what the other has chosen, and nothing else."
import math
from functools import partial
import numpy as np, pytest, torch
import torch.nn.functional as F
from torch import nn
from fastai.basics import Callback, CrossEntropyLossFlat, DataLoaders, SGD
from fastnoisy.all import *
from fastnoisy.analysis.ranking import roc_auc
from fastnoisy.benchmark.train import train_one
from fastnoisy.callback import co_teaching
from fastnoisy.callback.co_teaching import batch_share, forget_rate, guessed_rate, mixture_rate, n_kept, small_loss
from fastnoisy.core.method import MethodCallback
from helpers import Items, blob_dls, blob_learner, blobs, fitted_blobs, small_model, weights_of

# the formulas

@pytest.mark.parametrize('ramp', [1, 2, 10])
@pytest.mark.parametrize('c', [.5, 1, 2])
def test_forget_rate_is_that_of_the_original_code(ramp, c):
    tau,n_epoch = .4,20
    original = np.ones(n_epoch)*tau
    original[:ramp] = np.linspace(0, tau**c, ramp)
    np.testing.assert_allclose([forget_rate(e, tau, ramp, c) for e in range(n_epoch)], original)
    assert forget_rate(0, tau, 0) == tau

def test_n_kept():
    assert [n_kept(10, o) for o in (0, .1, .3, .45, .9, .99)] == [10, 9, 7, 5, 1, 1]
    assert all(n_kept(b, k/b) == b - k for b in range(1, 129) for k in range(b))

def test_small_loss_is_the_head_of_the_sorted_batch():
    losses = torch.rand(33, generator=torch.Generator().manual_seed(0))
    for n in (1, 7, 33):
        assert set(small_loss(losses, n).nonzero()[:,0].tolist()) == set(sorted(range(33), key=lambda i: losses[i])[:n])
    assert small_loss(torch.zeros(6), 4).tolist() == [True]*4 + [False]*2

def test_small_loss_takes_no_nan():
    losses = torch.tensor([math.nan, 1., math.inf, -math.inf, 3., 2.])
    assert small_loss(losses, 2).nonzero()[:,0].tolist() == [1, 5]
    assert small_loss(losses, 5).nonzero()[:,0].tolist() == [1, 4, 5]
    assert not small_loss(torch.full((3,), math.nan), 2).any()
    assert small_loss(losses, 2, torch.tensor([0, 0, 1, 1, 1, 1])).sum() == 2

def test_balanced_choice_keeps_the_share_of_each_class():
    gen = torch.Generator().manual_seed(0)
    y = torch.tensor([0]*40 + [1]*20 + [2]*4)
    losses = torch.rand(64, generator=gen) + 10.*(y == 2)
    assert not small_loss(losses, 32)[y == 2].any()
    chosen = small_loss(losses, 32, y)
    assert [chosen[y == k].sum().item() for k in range(3)] == [20, 10, 2]
    for k in range(3): assert losses[(y == k) & chosen].max() <= losses[(y == k) & ~chosen].min()

def test_share_is_divided_by_n_once():
    losses,chosen = torch.tensor([1., 5., 3., 9.]),torch.tensor([True, False, True, False])
    assert (batch_share(chosen)*losses).mean() == 2
    assert not batch_share(chosen & ~chosen).any()

# the training

def no_dropout(seed=0):
    model = small_model(seed=seed)
    model[3].p = 0.
    return model

class Trim(MethodCallback):
    "One network, trained on its own small-loss samples"
    name = 'trim'
    def batch_weights(self):
        n = int(.75*len(self.sample_loss))
        return (self.sample_loss <= self.sample_loss.kthvalue(n).values)/(n/len(self.sample_loss))

def fit(learn, n=3):
    torch.manual_seed(7)
    learn.dls.train.rng.seed(3)
    with learn.no_logging(): learn.fit(n, 1e-2)
    return learn

def learner_of(cbs=None, model=None, **kwargs):
    learn = blob_learner(cbs, **kwargs)
    learn.model = no_dropout() if model is None else model
    return learn

def test_without_noise_the_model_is_plain_training_bit_for_bit():
    "with dropout, which the peer has too"
    plain,taught = fitted_blobs(),fitted_blobs(CoTeachingCallback(noise_rate=0))
    assert plain.model[3].p == .2 and torch.equal(weights_of(plain.model), weights_of(taught.model))
    assert [o[0] for o in plain.recorder.values] == [o[0] for o in taught.recorder.values]

def test_without_noise_the_peer_is_another_plain_training():
    learn = fit(learner_of(CoTeachingCallback(noise_rate=0, model_maker=partial(no_dropout, 5))))
    plain = fit(learner_of(model=no_dropout(5)))
    torch.testing.assert_close(weights_of(learn.co_teaching.peer.model), weights_of(plain.model))
    assert not torch.allclose(weights_of(learn.model), weights_of(plain.model), atol=.05)

def test_equal_networks_stay_equal_and_are_trimmed_training():
    learn = fit(learner_of(CoTeachingCallback(noise_rate=.25, ramp=0, init='copy')))
    torch.testing.assert_close(weights_of(learn.model), weights_of(learn.co_teaching.peer.model), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights_of(learn.model), weights_of(fit(learner_of(Trim())).model))
    assert {*(learn.co_teaching.to_frame().label_quality*3).round(5)} <= {0., 1., 2., 3.} # both have chosen the same

def test_fresh_peers_differ():
    learn = fit(learner_of(CoTeachingCallback(noise_rate=.25)))
    a,b = (weights_of(o) for o in (learn.model, learn.co_teaching.peer.model))
    assert not torch.allclose(a, b, atol=.1)

def by_hand(models, batches, rate, lr):
    "Algorithm 1 in plain PyTorch"
    opts = [torch.optim.SGD(m.parameters(), lr) for m in models]
    for x,y in batches:
        losses = [F.cross_entropy(m(x), y, reduction='none') for m in models]
        first,second = (o.argsort()[:int((1 - rate)*len(y))] for o in losses)
        for opt in opts: opt.zero_grad()
        losses[0][second].mean().backward()
        losses[1][first].mean().backward()
        for opt in opts: opt.step()

@pytest.mark.parametrize('reduction', ['mean', 'sum'])
def test_each_learns_from_what_the_other_has_chosen(reduction):
    batches = []
    class Note(Callback):
        run_valid = False
        def before_batch(self): batches.append((self.x, self.y))
    cb = CoTeachingCallback(noise_rate=.25, ramp=0, model_maker=partial(no_dropout, 5))
    loss_func = CrossEntropyLossFlat(reduction=reduction)
    learn = learner_of([cb, Note()], opt_func=partial(SGD, mom=0), loss_func=loss_func, wd=0.)
    with learn.no_logging(): learn.fit(2, .05 if reduction == 'mean' else .05/16)
    models = no_dropout(),no_dropout(5)
    by_hand(models, batches, .25, .05)
    for ours,theirs in zip((learn.model, cb.peer.model), models):
        torch.testing.assert_close(weights_of(ours), weights_of(theirs), rtol=1e-4, atol=1e-5)

# schedule

def rates_of(cb, epochs=(10,)):
    rates = []
    class Note(Callback):
        order,run_valid = 50,False
        def after_train(self): rates.append(round(cb.forget_rate, 4))
    learn = learner_of([cb, Note()])
    with learn.no_logging():
        for n in epochs: learn.fit(n, 1e-2)
    return rates

def test_all_are_kept_in_the_first_epoch():
    assert rates_of(CoTeachingCallback(noise_rate=.4, ramp=.3)) == [0, .2, .4] + [.4]*7
    assert rates_of(CoTeachingCallback(noise_rate=.4, ramp=2), (1, 3)) == [0, .4, .4, .4]

def test_the_rate_is_estimated_after_the_warm_up_and_while_the_ramp_rises(monkeypatch):
    found = iter([.1, .2, .3, .4, .5])
    monkeypatch.setattr(co_teaching, 'guessed_rate', lambda *args: next(found))
    cb = CoTeachingCallback(warmup=2, ramp=2)
    assert rates_of(cb, (7,)) == [0, 0, 0, .2, .3, .3, .3] and cb.noise_rate == .3

def test_nothing_can_be_told(monkeypatch):
    monkeypatch.setattr(co_teaching, 'guessed_rate', lambda *args: None)
    cb = CoTeachingCallback()
    with pytest.warns(UserWarning, match='cannot tell how many labels are wrong') as seen:
        assert rates_of(cb, (4,)) == [0]*4
    assert len([o for o in seen if 'CoTeaching' in str(o.message)]) == 1
    assert cb.noise_rate == 0 and cb.label_quality() is None

def noisy_learner(rate, n_valid=300, cbs=None, n=900):
    "Blobs far apart, a share of both sets' labels wrong"
    gen = torch.Generator().manual_seed(1)
    def items(n, seed):
        x,true = blobs(n, seed=seed, spread=6)
        wrong = torch.rand(n, generator=gen) < rate
        return Items(x, torch.where(wrong, (true + 1 + (torch.rand(n, generator=gen) < .5)) % 3, true), true)
    dls = DataLoaders.from_dsets(items(n, 0), items(n_valid, 1), bs=32, device='cpu')
    dls.train.rng.seed(3)
    torch.manual_seed(0)
    learn = blob_learner(cbs, dls=dls)
    return learn

@pytest.mark.parametrize('rate', [0., .3])
@pytest.mark.parametrize('n_valid', [300, 60])
def test_guessed_rate(rate, n_valid):
    learn = noisy_learner(rate, n_valid)
    with learn.no_logging(): learn.fit(4, 1e-2)
    guess = guessed_rate(learn) or 0.
    assert abs(guess - rate) < (.06 if n_valid == 300 else .12)
    assert guessed_rate(learn, .1) is None or guessed_rate(learn, .1) <= .1

def test_guess_of_a_model_that_has_diverged():
    learn = noisy_learner(.3)
    for p in learn.model.parameters(): p.data.fill_(math.nan)
    assert guessed_rate(learn) is None
    assert mixture_rate(np.full(9, math.nan)) is None and mixture_rate(np.ones(9)) is None

def test_it_finds_the_wrong_labels():
    learn = noisy_learner(.3, cbs=CoTeachingCallback())
    with learn.no_logging(): learn.fit(6, 1e-2)
    y,true = learn.dls.train.dataset.y,learn.dls.train.dataset.true
    assert abs(learn.co_teaching.noise_rate - .3) < .06
    assert roc_auc(learn.co_teaching.label_quality(), (y != true).numpy()) > .95
    assert {'noise_rate', 'forget_rate'} <= {*learn.recorder.metric_names}

# the peer

def test_the_mean_of_both_networks_answers():
    learn = fit(learner_of(CoTeachingCallback(noise_rate=.25)))
    learn.predict_model = 'mean'
    preds,_ = learn.get_preds()
    both = [o.eval() for o in (learn.model, learn.co_teaching.peer.model)]
    with torch.no_grad(): means = [sum(m(xb) for m in both)/2 for xb,_ in learn.dls.valid]
    torch.testing.assert_close(preds, torch.cat(means).softmax(1))

@pytest.mark.parametrize('method', ['co-teaching', 'co-teaching:noise_rate=.2', 'gce+co-teaching:balanced'])
def test_the_benchmark_gives_it_a_network_of_its_own(method):
    "whatever the seed of the training"
    for seed in (0, 42):
        made = []
        def make_model():
            model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
            made.append((model, weights_of(model)))
            return model
        learn,_ = train_one(blob_dls(), make_model, method, 1, seed=seed)
        (model,start),(peer,other) = made
        assert learn.model is model and learn.co_teaching.peer.model is peer and not torch.equal(start, other)

# arguments

@pytest.mark.parametrize('options, says', [
    (dict(noise_rate=1.), r'noise_rate=1\.0: give a share in \[0, 1\)'), (dict(noise_rate='a'), "noise_rate='a'"),
    (dict(max_rate=1), 'max_rate=1'),
    (dict(exponent=0), 'exponent=0: give a number > 0'), (dict(warmup=1.5), r'warmup=1\.5'), (dict(ramp=-1), 'ramp=-1'),
    (dict(init='ema'), "init='ema': give 'fresh' or 'copy'")])
def test_bad_arguments(options, says):
    with pytest.raises(ValueError, match=says): CoTeachingCallback(**options)

def test_before_training():
    cb = CoTeachingCallback()
    assert cb.label_quality() is None
    with pytest.raises(ValueError, match='train for an epoch first'): cb.to_frame()

def test_two_views_are_refused():
    class Doubles(Callback):
        order,run_valid = -10,False
        def before_batch(self): self.learn.xb = (torch.cat([self.x, self.x]),)
        def after_pred(self): self.learn.pred = self.pred[:len(self.y)]
    learn = learner_of([CoTeachingCallback(), Doubles()])
    with pytest.raises(ValueError, match='32 predictions for 16 samples'): fit(learn)

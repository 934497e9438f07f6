"IDO: what wrong events say of labels, and the loss they make; against formulas and against plain PyTorch."
import math
from functools import partial
import numpy as np, pytest, torch
import torch.nn.functional as F
from torch import nn
from fastai.basics import Callback, CrossEntropyLossFlat, DataLoaders, L, Learner, SGD
from fastnoisy.analysis.ranking import roc_auc
from fastnoisy.callback.ido import IDOCallback, Trust, count_mixture, divided_counts, entropy_of_mean, rest_of_loss
from fastnoisy.callback.ido import trust_of
from fastnoisy.core.views import shifted
from helpers import blob_learner, image_learner, weights_of

RNG = np.random.default_rng(0)

# the formulas

def two_groups(n_clean=300, n_noisy=100, visits=20):
    return np.r_[RNG.binomial(visits, .1, n_clean), RNG.binomial(visits, .85, n_noisy)].astype(float)

def test_counts_are_divided():
    counts = two_groups()
    trust = divided_counts(counts, np.zeros(400, int))
    assert trust.clean[:300].mean() > .95 and trust.clean[300:].mean() < .05
    assert (trust.steady >= 0).all() and (trust.steady <= 2).all()
    order = counts.argsort()
    assert (np.diff(trust.clean[order]) <= 1e-12).all() # more wrong events, less trust

def test_trust_is_bayes_and_the_factor_that_of_the_paper():
    from scipy.stats import beta
    mixture,x = count_mixture(two_groups())
    clean,noisy = (w*beta(a, b).pdf(x) for w,a,b in zip(mixture.weights, mixture.alphas, mixture.betas))
    below = [beta(a, b).cdf(x) for a,b in zip(mixture.alphas, mixture.betas)]
    p_c = clean/(clean + noisy)
    trust = trust_of(mixture, x)
    rising = (x > mixture._rising()[0]) & (x < mixture._rising()[1])
    np.testing.assert_allclose(trust.clean[rising], p_c[rising], rtol=1e-5, atol=1e-8)
    p_n = 1 - trust.clean
    np.testing.assert_allclose(trust.steady, trust.clean*below[0] + (1 - p_n)*(1 - below[1]), rtol=1e-6)

@pytest.mark.parametrize('counts', [np.zeros(50), np.full(50, 7.), np.arange(5.), np.full(50, math.nan), np.zeros(0)])
def test_counts_that_cannot_be_divided(counts):
    assert divided_counts(counts, np.zeros(len(counts), int)) is None

def test_one_group_is_not_divided():
    assert divided_counts(RNG.binomial(20, .3, 400).astype(float), np.zeros(400, int)) is None

def test_a_class_of_its_own():
    "A hard class, whose counts are all high: for itself it is clean, beside the others it is not"
    easy,hard = two_groups(600),14 + RNG.binomial(3, .2, 200)*1.
    hard[:60] = 20 - RNG.binomial(2, .2, 60)
    counts,classes = np.r_[easy, hard],np.repeat([0, 1], [700, 200])
    own,together = (divided_counts(counts, classes, per_class=o) for o in (True, False))
    assert own.clean[760:].mean() > .8 > .3 > together.clean[760:].mean()
    assert own.clean[700:760].mean() < .2

def test_small_and_uniform_classes_are_trusted():
    rare,hard = [0., 20., math.nan],np.full(60, 20.)
    counts,classes = np.r_[two_groups(), rare, hard],np.repeat([0, 1, 2], [400, 3, 60])
    trust = divided_counts(counts, classes)
    assert (trust.clean[300:400] < .5).all() and (trust.clean[[400, 401]] == 1).all() and np.isnan(trust.clean[402])
    assert (trust.clean[403:] == 1).all() and (trust.steady[400:] == 1).all()

def test_loss_of_one_sample():
    z,other = torch.randn(2, 6, 4, dtype=torch.float64)
    y = torch.arange(6) % 4
    one = torch.ones(6, dtype=torch.float64)
    losses = F.cross_entropy(other, y, reduction='none')
    torch.testing.assert_close(rest_of_loss(z, other, losses, one, one), losses + ((z - other)**2).mean(1)) # p_c = 1
    p = (z.softmax(1) + other.softmax(1))/2
    torch.testing.assert_close(rest_of_loss(z, other, losses, 0*one, 0*one), -(p*p.log()).sum(1)) # p_c = 0
    assert entropy_of_mean(torch.tensor([[1e4, -1e4]]), torch.tensor([[1e4, -1e4]])) < .01

# the training

def fit(cb, n=3, lr=.05, **kwargs):
    learn = image_learner(cb, **kwargs)
    learn.remove_cb(learn.progress)
    torch.manual_seed(7)
    with learn.no_logging(): learn.fit(n, lr)
    return learn

def test_warm_up_is_plain_training_bit_for_bit():
    assert torch.equal(weights_of(fit(IDOCallback(3)).model), weights_of(fit(None).model))

def test_wrong_events_are_counted():
    said = torch.zeros(32)
    class Note(Callback):
        order,run_valid = 20,False
        def after_loss(self): said[self.learn.sample_ids] += (self.pred.argmax(1) != self.y).float()
    cb = IDOCallback(3)
    fit([cb, Note()])
    assert torch.equal(cb.counts.all(), said) and (cb.counts.visits == 3).all() and 0 < said.sum() < 96
    df = cb.to_frame()
    assert (df.wrong_events == said.numpy()).all() and df.label_quality.between(0, 1).all()

def test_second_stage_by_hand(monkeypatch):
    "One epoch with probabilities that are given, in plain PyTorch"
    clean,steady = torch.linspace(0, 1, 32),torch.linspace(2, 0, 32)
    monkeypatch.setattr(IDOCallback, '_divided', lambda self: Trust(clean.double().numpy(), steady.double().numpy()))
    batches = []
    class Note(Callback):
        order,run_valid = 20,False
        def before_batch(self): batches.append((self.x, self.y, self.learn.sample_ids))
    cb = IDOCallback(1, view=lambda x, seed: x.flip(-1))
    cb.n_epochs = 1 # the warm-up is over
    learn = fit([cb, Note()], 1, opt_func=partial(SGD, mom=0.), wd=0.)
    model = image_learner().model
    opt = torch.optim.SGD(model.parameters(), .05)
    for x,y,ids in batches:
        opt.zero_grad()
        z,other = model(x),model(x.flip(-1))
        ce = [F.cross_entropy(o, y, reduction='none') for o in (z, other)]
        p = (z.softmax(1) + other.softmax(1))/2
        c,s = clean[ids],steady[ids]
        (c*(ce[0] + ce[1]) + s*((z - other)**2).mean(1) - (1 - c)*(p*p.log()).sum(1)).mean().backward()
        opt.step()
    torch.testing.assert_close(weights_of(learn.model), weights_of(model), rtol=1e-3, atol=1e-4)

def test_both_views_are_counted_afterwards(monkeypatch):
    monkeypatch.setattr(IDOCallback, '_divided', lambda self: Trust(np.ones(32), np.ones(32)))
    cb = IDOCallback(1, view=lambda x, seed: x)
    fit(cb, 2, 1e-4)
    assert set((cb.counts.all() - fit(IDOCallback(1), 1, 1e-4).ido.counts.all()).tolist()) == {0., 2.}

def test_counts_without_groups_train_plainly_and_say_so(monkeypatch):
    monkeypatch.setattr(IDOCallback, '_divided', lambda self: None)
    with pytest.warns(UserWarning, match='form no two groups'): learn = fit(IDOCallback(1))
    assert torch.equal(weights_of(learn.model), weights_of(fit(None).model))
    assert learn.ido.noise_probability() is None and learn.ido.label_quality() is not None

def noisy_images(wrong_of, n=600):
    "Images of three classes, of two clusters each: a bright square in one of six places"
    gen = torch.Generator().manual_seed(0)
    cluster = torch.arange(n) % 6
    x = .3*torch.randn(n, 1, 8, 8, generator=gen)
    for k in range(6): x[cluster == k, :, k, :] += 1.5
    true = cluster//2
    y = torch.where(wrong_of(cluster, gen), (true + 1) % 3, true)
    dls = DataLoaders.from_dsets(L(zip(x, y)), L(zip(x[:60], y[:60])), bs=32, device='cpu', num_workers=0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3))
    learn = Learner(dls, model, loss_func=CrossEntropyLossFlat(), cbs=IDOCallback(.5, view=shifted))
    with learn.no_bar(), learn.no_logging(): learn.fit(8, 3e-3)
    return learn.ido, (y != true).numpy()

def test_random_flips_are_found():
    ido,wrong = noisy_images(lambda cluster, gen: torch.rand(len(cluster), generator=gen) < .25)
    assert roc_auc(ido.label_quality(), wrong) > .95
    assert ((ido.noise_probability() > .5) == wrong).mean() > .9 and abs(ido.noise_rate - .25) < .1

@pytest.mark.filterwarnings('ignore:IDOCallback')
def test_subclass_noise_is_not_found():
    "Wrong labels of a whole cluster are learnt as early as right ones: they have few wrong events"
    ido,wrong = noisy_images(lambda cluster, gen: cluster == 0)
    assert roc_auc(ido.label_quality(), wrong) < .75

# what it is given

def test_other_inputs_are_refused():
    with pytest.raises(TypeError, match='strong views of images.*give a function as `view`'):
        blob_learner(IDOCallback()).fit(1)
    learn = blob_learner(IDOCallback(1, view=lambda x, seed: x + .1))
    with learn.no_logging(): learn.fit(3, 1e-2)
    assert learn.ido.label_quality() is not None

@pytest.mark.parametrize('options, says', [(dict(warmup=0), 'warmup=0'), (dict(warmup=1.5), r'warmup=1\.5'),
                                           (dict(view=3), 'view=3: give a function')])
def test_bad_arguments(options, says):
    with pytest.raises(ValueError, match=says): IDOCallback(**options)

def test_before_training():
    cb = IDOCallback()
    assert cb.label_quality() is None and cb.noise_probability() is None
    with pytest.raises(ValueError, match='train for an epoch first'): cb.to_frame()

"Accuracy on right labels from noisy ones: simulated noise, closed forms, and what is told when it cannot be known"
import numpy as np, pytest, torch
from fastai.basics import Learner
from fastnoisy.analysis.noisy_accuracy import (accuracy_scores, centred_means, clean_accuracy_estimate,
                                               clean_accuracy_of, difference_error, estimated_accuracy,
                                               label_posterior, noise_kind, noisy_accuracy, paired_difference)
from helpers import blob_dls, blob_learner, fitted_blobs

def symmetric(k, e): return (1 - e)*np.eye(k) + e/(k-1)*(1 - np.eye(k))

def drawn(T, true, rng): return (np.asarray(T).cumsum(1)[true] < rng.random(len(true))[:,None]).sum(1)

def test_the_inversion_is_what_counting_says():
    "Labels by a loop over samples"
    rng,k,e = np.random.default_rng(1),5,.3
    true = rng.integers(k, size=40_000)
    predicted = np.where(rng.random(len(true)) < .8, true, (true + 1) % k)
    given = [rng.choice([c for c in range(k) if c != t]) if rng.random() < e else t for t in true]
    noisy = np.mean(predicted == np.array(given))
    assert noisy == pytest.approx(noisy_accuracy((predicted == true).mean(), e, k), abs=.01)
    assert clean_accuracy_of(noisy, e, k) == pytest.approx((predicted == true).mean(), abs=.015)

def test_limits():
    assert clean_accuracy_of(.8, 0, 3) == pytest.approx(.8) == noisy_accuracy(.8, 0, 3)
    assert clean_accuracy_of(.99, .4, 3) == 1 and clean_accuracy_of(0, .4, 3) == 0
    for rate in (-.1, .67, 1):
        with pytest.raises(ValueError, match='rate='): clean_accuracy_of(.5, rate, 3)

@pytest.mark.parametrize('T', [symmetric(4, .4), .7*np.eye(4) + .3*np.roll(np.eye(4), 1, 1), np.eye(4)])
def test_scores_are_unbiased(T):
    rng,hits = np.random.default_rng(2),[]
    true = rng.choice(4, 600, p=[.5, .3, .1, .1])
    predicted = np.where(rng.random(600) < .7, true, rng.integers(4, size=600))
    for _ in range(300):
        got = estimated_accuracy(predicted, drawn(T, true, rng), 4, T=T)
        hits.append((got.accuracy, got.interval[0] <= (predicted == true).mean() <= got.interval[1]))
    means = np.mean(hits, 0)
    assert means[0] == pytest.approx((predicted == true).mean(), abs=.01) and means[1] > .9

def test_the_right_classifier_is_the_best_by_noisy_labels():
    "Chen et al.: for any T with the largest entry of each row on the diagonal, over all deterministic confusions"
    rng = np.random.default_rng(3)
    for _ in range(20):
        T = rng.dirichlet(np.ones(3), 3) + .6*np.eye(3)
        T /= T.sum(1, keepdims=True)
        if (T.argmax(1) != range(3)).any(): continue
        share = rng.dirichlet(np.ones(3))
        values = {m: sum(share[i]*T[i, m[i]] for i in range(3)) for m in np.ndindex(3, 3, 3)}
        assert max(values, key=values.get) == (0, 1, 2)

def test_no_inverse():
    zeros = np.zeros(3, int)
    with pytest.raises(ValueError, match='no inverse'): accuracy_scores(zeros, zeros, np.full((2, 2), .5))

def test_paired_difference_is_that_of_resampling():
    rng = np.random.default_rng(4)
    a = rng.random(400) < .8
    b = np.where(rng.random(400) < .9, a, ~a)
    rows = rng.integers(400, size=(4000, 400))
    d,se = paired_difference(a, b)
    assert d == pytest.approx(a.mean() - b.mean())
    assert se == pytest.approx((a[rows].mean(1) - b[rows].mean(1)).std(), rel=.06)
    assert se < difference_error(.8, 400) # they agree in most samples

def test_centred_means():
    values = np.random.default_rng(5).random((7, 3))
    for w in (1, 3, 5):
        weights = [[max(0, w//2 + 1 - abs(i - j)) for j in range(7)] for i in range(7)]
        naive = [sum(a*v for a,v in zip(row, values))/sum(row) for row in weights]
        np.testing.assert_allclose(centred_means(values, w), naive)

def naive_posterior(probs, given, s, steps):
    "Equation (4) in loops"
    n,k = probs.shape
    T = [[.8 if i == j else .2/(k - 1) for j in range(k)] for i in range(k)]
    for _ in range(steps):
        q = [[probs[i, y]**s*(T[y][given[i]] if given[i] >= 0 else 1) for y in range(k)] for i in range(n)]
        q = [[v/sum(row) for v in row] for row in q]
        T = [[1/k + sum(q[i][j] for i in range(n) if given[i] == c) for c in range(k)] for j in range(k)]
        T = [[v/sum(row) for v in row] for row in T]
    return np.array(q),np.array(T)

@pytest.mark.parametrize('s', [1, 2])
def test_posterior_is_that_of_loops(s):
    rng = np.random.default_rng(7)
    probs,given = rng.dirichlet(np.ones(3), 30).clip(.01) ,rng.integers(-1, 3, size=30)
    for got,want in zip(label_posterior(probs, given, s, 5), naive_posterior(probs, given, s, 5)):
        np.testing.assert_allclose(got, want)

@pytest.mark.parametrize('T', [symmetric(4, .4), .7*np.eye(4) + .3*np.roll(np.eye(4), 1, 1), np.eye(4)])
def test_posterior_finds_noise_and_truth(T):
    "Probabilities that are calibrated: then its own certainty is, too, with an exponent of 1"
    rng = np.random.default_rng(8)
    true = rng.integers(4, size=4000)
    logits = 2*np.eye(4)[true] + rng.normal(size=(4000, 4))
    probs = np.exp(2*logits)/np.exp(2*logits).sum(1, keepdims=True) # Gaussians at distance 2: the true posterior
    q,found = label_posterior(probs, drawn(T, true, rng), 1)
    assert np.abs(found - T).max() < .06
    assert np.mean(q.argmax(1) == true) > np.mean(probs.argmax(1) == true)
    assert q.max(1).mean() == pytest.approx(np.mean(q.argmax(1) == true), abs=.01)
    np.testing.assert_allclose(q.sum(1), 1)

def test_posterior_without_labels_or_without_models():
    probs = np.random.default_rng(9).dirichlet(np.ones(3), 10).clip(.01)
    q,_ = label_posterior(probs, np.full(10, -1), 1)
    np.testing.assert_allclose(q, probs/probs.sum(1, keepdims=True))
    q,_ = label_posterior(np.full((300, 3), 1/3), np.arange(300) % 3)
    assert (q.argmax(1) == np.arange(300) % 3).all()

def test_kinds():
    rng = np.random.default_rng(6)
    for k in (4, 10, 100): assert noise_kind(symmetric(k, .4)) == 'symmetric'
    for k in (3, 10): assert noise_kind(.7*np.eye(k) + .3*np.roll(np.eye(k), 1, 1)) == 'class-dependent'
    assert noise_kind(symmetric(10, .01)) == 'none' and noise_kind(symmetric(3, .8)) == 'reversed'
    counts = np.stack([rng.multinomial(27, row) for row in symmetric(10, .4)])
    assert noise_kind(counts/27) == 'symmetric' # from 270 labels
    assert noise_kind([[.9, .1], [.5, .5]]) == 'class-dependent'

def test_unknown_labels_do_not_count():
    got = estimated_accuracy([0, 1, 1, 0], [0, 1, -1, -1], 2, rate=.1)
    assert (got.n, got.noisy, got.accuracy) == (2, 1., 1.)
    with pytest.raises(ValueError, match='give the share of wrong labels'): estimated_accuracy([0], [0], 2)

def test_of_a_learner():
    learn = fitted_blobs([], 4)
    got = clean_accuracy_estimate(learn, rate=.1)
    assert got.n == 48 and got.accuracy == pytest.approx(clean_accuracy_of(got.noisy, .1, 3))
    assert clean_accuracy_estimate(learn, T=np.eye(3)).accuracy == pytest.approx(got.noisy)
    with pytest.raises(ValueError, match='48 samples'): clean_accuracy_estimate(learn) # too few to estimate the rate
    learn.dls.loaders = learn.dls.loaders[:1]
    with pytest.raises(ValueError, match='no validation set'): clean_accuracy_estimate(learn, rate=.1)

"""Two-component mixtures: against a direct value-by-value EM, scipy, scikit-learn and closed forms; degenerate input."""
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from scipy import integrate, optimize, stats

from fastnoisy.analysis.mixture import (BetaMixture, GaussianMixture, _extrapolate, beta_e_step, beta_histogram,
                                        beta_log_density, beta_ml_step, beta_moments_step, fit_beta, fit_beta_mixture,
                                        loss_range, normalise_losses)

pytestmark = pytest.mark.filterwarnings('error::RuntimeWarning')
KNOWN = [(.4, (2, 6), (5, 2)), (.2, (2, 6), (5, 2)), (.5, (2, 8), (4, 3))]
J_SHAPED = (.4, (.5, 8), (3, 2))


def draw(share, clean, noisy, n=50_000, seed=0):
    rng = np.random.default_rng(seed)
    is_noisy = rng.random(n) < share
    return np.where(is_noisy, rng.beta(*noisy, n), rng.beta(*clean, n))


def raw_losses(n=30_000, seed=0):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(n) < .3, rng.gamma(12, .3, n), rng.gamma(1.2, .3, n))


def direct_em(x, iterations=10):
    "The published recurrence, value by value"
    x = np.clip(x, 1e-4, 1 - 1e-4)
    alphas, betas, weights = [1., 2.], [2., 1.], [.5, .5]
    for _ in range(iterations):
        joint = np.array([w * stats.beta.pdf(x, a, b) for w, a, b in zip(weights, alphas, betas)])
        joint[joint <= 1e-12] = 1e-12
        resp = joint / joint.sum(0)
        for k in range(2):
            mean = np.average(x, weights=resp[k])
            var = np.average((x - mean)**2, weights=resp[k])
            alphas[k] = mean * (mean * (1 - mean) / var - 1)
            betas[k] = alphas[k] * (1 - mean) / mean
        weights = resp.sum(1) / len(x)
    return np.array(alphas), np.array(betas), np.array(weights)


def exact_log_likelihood(x, params):
    alphas, betas, weights = params
    x = np.clip(x, 1e-4, 1 - 1e-4)
    return np.log(sum(w * stats.beta.pdf(x, a, b) for w, a, b in zip(weights, alphas, betas))).mean()


def never_falls(history):
    return len(history) < 2 or np.diff(history).min() > -1e-10


# --- normalisation ---------------------------------------------------------------------------------------------

def test_normalisation_follows_the_published_constants():
    losses = raw_losses()
    low, high = loss_range(losses)
    assert (low, high) == (np.percentile(losses, 5), np.percentile(losses, 95))
    shifted = low + 10e-6
    expected = [(l - shifted) / (high - shifted + 1e-6) for l in losses]
    expected = [1 - 10e-4 if v >= 1 else 10e-4 if v <= 0 else v for v in expected]
    np.testing.assert_allclose(normalise_losses(losses, low, high), expected, rtol=1e-9)


def test_normalisation_leaves_its_input_alone():
    losses = raw_losses(100)
    before = losses.copy()
    BetaMixture(normalise=True).fit(losses).posterior(losses)
    np.testing.assert_array_equal(losses, before)


def test_loss_range_refuses_losses_without_spread():
    with pytest.raises(ValueError, match='percentile'): loss_range(np.r_[np.zeros(98), 3, 4])


# --- histogram, density, E-step --------------------------------------------------------------------------------

@pytest.mark.parametrize('case', [*KNOWN, J_SHAPED])
def test_histogram_keeps_the_sums_over_the_values(case):
    x = draw(*case)
    hist = beta_histogram(x)
    clipped = np.clip(x, 1e-4, 1 - 1e-4)
    assert hist.counts.sum() == len(x) and hist.counts.min() > 0 and len(hist.counts) <= 2048
    np.testing.assert_allclose(hist.moments @ hist.counts / len(x), [x.mean(), (x**2).mean()], atol=2e-6)
    np.testing.assert_allclose(hist.logs @ hist.counts / len(x), [np.log(clipped).mean(), np.log1p(-clipped).mean()], atol=2e-4)


def test_histogram_takes_both_ends():
    hist = beta_histogram(np.array([0., 0., 1.]))
    assert hist.counts.tolist() == [2, 1]
    np.testing.assert_allclose(np.exp(hist.logs[0]), [1e-4, 1 - 1e-4])


def test_log_density_is_scipys():
    x = np.array([1e-4, .2, .7, 1 - 1e-4])
    alphas, betas = np.array([.3, 40.]), np.array([7., 2.])
    expected = [stats.beta.logpdf(x, a, b) for a, b in zip(alphas, betas)]
    np.testing.assert_allclose(beta_log_density(np.stack([np.log(x), np.log1p(-x)]), alphas, betas), expected)


@pytest.mark.parametrize('case', [*KNOWN, J_SHAPED])
def test_e_step_agrees_with_every_single_value(case):
    share, clean, noisy = case
    params = np.array([[clean[0], noisy[0]], [clean[1], noisy[1]], [1 - share, share]], dtype=float)
    x = draw(*case)
    hist = beta_histogram(x)
    resp, log_lik = beta_e_step(hist, params)
    assert abs(log_lik - exact_log_likelihood(x, params)) < 2e-5
    joint = np.array([w * stats.beta.pdf(np.clip(x, 1e-4, 1 - 1e-4), a, b) for a, b, w in params.T])
    assert abs(hist.counts @ resp[1] / len(x) - (joint[1] / joint.sum(0)).mean()) < 1e-5


def test_floor_of_the_original():
    hist = beta_histogram(np.array([.001, .5]))
    params = np.array([[500., 500.], [500., 500.], [.5, .5]])
    params[:2, 1] = 900.
    resp, _ = beta_e_step(hist, params, np.log(1e-12))
    np.testing.assert_allclose(resp[:, 0], [.5, .5])
    assert beta_e_step(hist, params)[0][0, 0] > .999


# --- M-steps ---------------------------------------------------------------------------------------------------

def test_moments_m_step_is_the_closed_form():
    x = np.array([.1, .25, .5, .9])
    weights = np.array([[.9, .7, .4, .05], [.1, .3, .6, .95]])
    params = beta_moments_step(beta_histogram(x), weights)
    for k in range(2):
        mean = np.average(x, weights=weights[k])
        var = np.average((x - mean)**2, weights=weights[k])
        alpha = mean * (mean * (1 - mean) / var - 1)
        np.testing.assert_allclose(params[:, k], [alpha, alpha * (1 - mean) / mean, weights[k].mean()], rtol=1e-3)


@pytest.mark.parametrize('alpha,beta', [(.1, .2), (.5, 30), (2, 6), (900, 40), (4000, 5000)])
@pytest.mark.parametrize('start', [(1, 1), (.01, 50), (3000, 5)])
def test_newton_solves_the_likelihood_equations(alpha, beta, start):
    from scipy.special import digamma
    mean_logs = digamma([alpha, beta]) - digamma(alpha + beta)
    np.testing.assert_allclose(fit_beta(mean_logs, np.array(start, dtype=float)), [alpha, beta], rtol=1e-4)


def test_newton_agrees_with_scipys_fit():
    x = np.random.default_rng(3).beta(1.5, 4, 500)
    expected = stats.beta.fit(x, floc=0, fscale=1)[:2]
    found = fit_beta(np.array([np.log(x).mean(), np.log1p(-x).mean()]), np.ones(2))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_newton_is_bounded_on_a_single_value():
    found = fit_beta(np.log([.3, .7]), np.ones(2))
    assert found.sum() == pytest.approx(1e4)
    assert found[0] / found.sum() == pytest.approx(.3, abs=.01)


@pytest.mark.parametrize('case', [*KNOWN, J_SHAPED])
def test_ml_step_raises_the_likelihood_it_is_given(case):
    hist = beta_histogram(draw(*case))
    params = np.array([[1, 2], [2, 1], [.5, .5]])
    for _ in range(5):
        resp, before = beta_e_step(hist, params)
        params = beta_ml_step(hist, resp, params)
        assert beta_e_step(hist, params)[1] > before


def test_ml_step_keeps_the_shape_of_a_component_without_mass():
    hist = beta_histogram(np.array([.2, .3, .4]))
    with np.errstate(all='raise'):
        params = beta_ml_step(hist, np.array([[1., 1, 1], [0, 0, 0]]), np.array([[2., 5], [6, 2], [.5, .5]]))
    assert params[0, 1] == 5 and params[1, 1] == 2 and 0 < params[2, 1] < 1e-11 and np.isfinite(params).all()


# --- EM --------------------------------------------------------------------------------------------------------

def far_apart():
    "Humps so far apart that the density between them falls below the floor of the original, where one value lies"
    rng = np.random.default_rng(0)
    return np.r_[rng.normal(.1, .01, 3500), rng.normal(.9, .01, 1500), .5]


@pytest.mark.parametrize('x', [*(draw(*case) for case in KNOWN), draw(*J_SHAPED), draw(.3, (20, 80), (60, 30)), far_apart(),
                               np.r_[np.random.default_rng(0).normal(.1, .004, 4900), .5, .5, .9, .9]])
def test_ten_iterations_of_moments_are_the_originals(x):
    alphas, betas, weights = direct_em(x)
    mixture = BetaMixture('moments', max_iter=10).fit(x)
    np.testing.assert_allclose(mixture.alphas, alphas, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(mixture.betas, betas, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(mixture.weights, weights, atol=1e-4)


@pytest.mark.parametrize('ties', [0, 4_000])
def test_moments_on_raw_losses_are_the_originals(ties):
    losses = raw_losses()
    losses[:ties] = 0
    low, high = np.percentile(losses, [5, 95])
    kept = losses[(losses >= low) & (losses <= high)]
    x = (kept - (low + 1e-5)) / (high - (low + 1e-5) + 1e-6)
    x[x >= 1], x[x <= 0] = 1 - 1e-3, 1e-3
    alphas, betas, weights = direct_em(x)
    mixture = BetaMixture('moments', max_iter=10, normalise=True).fit(losses)
    np.testing.assert_allclose([mixture.alphas, mixture.betas, mixture.weights], [alphas, betas, weights], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('case', KNOWN)
def test_known_share_is_found_where_the_original_misses_it(case):
    x = draw(*case, n=200_000)
    assert abs(BetaMixture().fit(x).noise_rate - case[0]) < .02
    assert abs(BetaMixture('moments', max_iter=10).fit(x).noise_rate - case[0]) > .055


def test_ml_reaches_the_maximum_of_the_exact_likelihood():
    x = draw(.4, (2, 6), (5, 2), n=4000)

    def loss(v):
        params = np.array([np.exp(v[:2]), np.exp(v[2:4]), [1 - v[4], v[4]]])
        return -exact_log_likelihood(x, params)

    best = optimize.minimize(loss, [*np.log([2, 5, 6, 2]), .4], method='Nelder-Mead', options=dict(maxiter=4000, maxfev=4000, xatol=1e-5, fatol=1e-10))
    mixture = BetaMixture().fit(x)
    assert mixture.log_likelihood == pytest.approx(-best.fun, abs=1e-5)
    assert mixture.weights[1] == pytest.approx(best.x[4], abs=2e-3)


@pytest.mark.parametrize('case', [*KNOWN, J_SHAPED, (.03, (1, 6), (3, 3)), (.2, (200, 30), (300, 30)), (0, (2, 8), (1, 1))])
def test_likelihood_never_falls(case):
    for n in (5, 300, 50_000):
        params, history, _ = fit_beta_mixture(beta_histogram(draw(*case, n=n)))
        assert never_falls(history) and np.isfinite(params).all()


@pytest.mark.parametrize('max_iter', [1, 2, 3, 4, 15])
def test_max_iter_and_history(max_iter):
    mixture = BetaMixture(max_iter=max_iter, tol=0).fit(draw(*KNOWN[2]))
    assert len(mixture.history) == max_iter + 1 and not mixture.converged
    assert mixture.log_likelihood == mixture.history[-1]
    assert mixture.log_likelihood == pytest.approx(exact_log_likelihood(draw(*KNOWN[2]), [mixture.alphas, mixture.betas, mixture.weights]), abs=2e-5)


def test_converged_is_a_fixed_point():
    hist = beta_histogram(draw(*KNOWN[0]))
    params, _, converged = fit_beta_mixture(hist, tol=1e-8)
    again = beta_ml_step(hist, beta_e_step(hist, params)[0], params)
    assert converged
    np.testing.assert_allclose(again, params, rtol=1e-7)


def test_extrapolation_along_a_straight_line_stays_finite():
    first = np.array([[1., 1], [1, 1], [.5, .5]])
    path = [first * [[1, 2.**k], [1, 2.**k], [1, 1]] for k in range(3)]
    hist = beta_histogram(draw(*KNOWN[0], n=500))
    far = _extrapolate(hist, *path, -np.inf)
    assert np.isfinite(far).all() and far[0, 1] > 100
    np.testing.assert_array_equal(_extrapolate(hist, *path, np.inf), path[2])


def test_components_on_single_values_are_bounded():
    mixture = BetaMixture().fit([.2, .2, .2, .8, .8])
    np.testing.assert_allclose(mixture.alphas + mixture.betas, 1e4)
    np.testing.assert_allclose(mixture.means, [.2, .8], atol=1e-3)
    np.testing.assert_allclose(mixture.posterior([.2, .8]), [0, 1], atol=1e-9)


def test_no_tolerance_ends_at_the_fixed_point():
    mixture = BetaMixture(tol=0).fit([.2, .21, .8, .81])
    assert mixture.converged and never_falls(mixture.history) and np.isfinite(mixture.history).all()


def test_narrow_humps_far_from_the_ends():
    x = draw(.3, (2000, 2400), (2200, 2200))
    mixture = BetaMixture().fit(x)
    np.testing.assert_allclose(mixture.means, [2000 / 4400, .5], atol=1e-3)
    assert abs(mixture.noise_rate - .3) < .01
    assert len(mixture.history) <= 7  # thanks to the start: 12 and more from the original's


# --- order and direction ---------------------------------------------------------------------------------------

@pytest.mark.parametrize('make', [BetaMixture, GaussianMixture, lambda **kw: BetaMixture('moments', **kw)])
def test_mirrored_values_give_the_mirrored_fit(make):
    x = draw(*KNOWN[0])
    low, high = make(noisy='low').fit(1 - x), make().fit(x)
    assert low.means[0] < low.means[1] and high.means[0] < high.means[1]
    np.testing.assert_allclose(low.means, 1 - high.means[::-1], atol=2e-3)
    np.testing.assert_allclose(low.p_noisy(1 - x), high.p_noisy(x), atol=5e-3)
    assert low.noise_rate == pytest.approx(high.noise_rate, abs=2e-3)
    np.testing.assert_allclose(low.p_noisy(1 - x), 1 - low.posterior(1 - x))


def test_components_end_in_order_where_the_recurrence_crosses_them():
    # the recurrence of the original ends with its "noisy" component below the "clean" one here
    rng = np.random.default_rng(5)
    found = False
    for _ in range(200):
        x = np.clip(np.r_[rng.normal(rng.uniform(.1, .9), .02, 50), rng.random(rng.integers(5, 100))], 0, 1)
        alphas, betas, _ = direct_em(x)
        means = alphas / (alphas + betas)
        if means[0] > means[1]:
            found = True
            mixture = BetaMixture('moments', max_iter=10).fit(x)
            np.testing.assert_allclose(mixture.means, means[::-1], atol=1e-3)
            break
    assert found


def test_order_of_the_values_does_not_matter():
    x = draw(*KNOWN[0], n=5000)
    shuffled = np.random.default_rng(1).permutation(x)
    assert BetaMixture().fit(x).state_dict() == BetaMixture().fit(shuffled).state_dict()


# --- posterior -------------------------------------------------------------------------------------------------

def test_plain_posterior_is_bayes_for_each_value():
    x = draw(*KNOWN[0], n=5000)
    mixture = BetaMixture().fit(x)
    joint = [w * stats.beta.pdf(np.clip(x, 1e-4, 1 - 1e-4), a, b) for w, a, b in zip(mixture.weights, mixture.alphas, mixture.betas)]
    np.testing.assert_allclose(mixture.posterior(x, monotone=False), joint[1] / (joint[0] + joint[1]), rtol=1e-9, atol=1e-12)


def test_posterior_is_held_beyond_the_ends_of_the_fit():
    mixture = BetaMixture().fit(draw(.4, (8, 30), (2, 2)))
    low, low_end, high, high_end = mixture.posterior([0, 1e-4, 1, 1 - 1e-4], monotone=False)
    assert low == low_end and high == high_end and 0 < low < 1


# wide noisy component under a narrow clean one; narrow noisy component over a wide clean one; a usual pair
@pytest.mark.parametrize('clean,noisy,left,right', [((8, 30), (2, 2), True, False), ((2, 2), (30, 8), False, True), ((2, 6), (5, 2), False, False)])
@pytest.mark.parametrize('make', [BetaMixture, GaussianMixture])
def test_posterior_rises_and_is_bayes_between_its_extremes(make, clean, noisy, left, right):
    mixture = make().fit(draw(.4, clean, noisy))
    grid = np.linspace(1e-3, 1 - 1e-3, 2001)
    plain, held = mixture.posterior(grid, monotone=False), mixture.posterior(grid)
    assert np.diff(held).min() >= -1e-12
    start, end = plain.argmin() if left else 0, plain.argmax() if right else len(grid) - 1
    np.testing.assert_allclose(held[start + 1:end], plain[start + 1:end])
    np.testing.assert_allclose(held[:start], plain[start], atol=1e-5)
    np.testing.assert_allclose(held[end + 1:], plain[end], atol=1e-5)
    if make is BetaMixture: assert (plain[0] > plain[start] + .01) == left and (plain[-1] < plain[end] - .01) == right


def test_p_noisy_sums_to_the_noise_rate():
    x = draw(*KNOWN[0])
    mixture = BetaMixture().fit(x)
    assert mixture.p_noisy(x).mean() == pytest.approx(mixture.noise_rate, abs=2e-3)
    losses = raw_losses()
    mixture = BetaMixture(normalise=True).fit(losses)
    assert mixture.p_noisy(losses).mean() == pytest.approx(mixture.noise_rate, abs=.01)
    assert mixture.noise_rate == pytest.approx(.3, abs=.05)


def test_posterior_of_losses_rises_across_the_ends_of_the_scale():
    losses = raw_losses()
    mixture = BetaMixture(normalise=True).fit(losses)
    grid = np.sort(np.r_[np.linspace(-1, 9, 500), mixture.low + np.linspace(0, .02, 500), mixture.high + np.linspace(-.02, .001, 500)])
    assert np.diff(mixture.posterior(grid)).min() >= 0
    assert np.diff(mixture.posterior(grid)).max() > 0


# --- ends, one mode, degenerate input --------------------------------------------------------------------------

@pytest.mark.parametrize('value', [0, 1])
def test_ties_at_an_end_are_counted_but_not_fitted(value):
    x = draw(*KNOWN[0])
    tied = np.random.default_rng(1).random(len(x)) < .3
    mixture = BetaMixture().fit(np.where(tied, value, x))
    alone = BetaMixture().fit(x[~tied])
    np.testing.assert_allclose(mixture.alphas, alone.alphas)
    expected = (~tied).mean() * alone.weights[1] + value * tied.mean()
    assert mixture.noise_rate == pytest.approx(expected, abs=1e-3)
    assert (mixture.below, mixture.above)[value] == pytest.approx(tied.mean())


def test_moments_keep_ties_at_the_ends_in_the_fit():
    x = draw(*KNOWN[0], n=5000)
    x[:1000] = 0
    mixture = BetaMixture('moments').fit(x)
    assert mixture.below == mixture.above == 0 and mixture.n_values == 5000
    assert mixture.noise_rate == mixture.weights[1]


def test_ties_at_an_end_count_by_their_posterior():
    x = draw(.4, (8, 30), (2, 2))
    tied = np.random.default_rng(1).random(len(x)) < .3
    mixture = BetaMixture().fit(np.where(tied, 0, x))
    at_end = mixture.posterior([0])[0]
    assert at_end > .05
    assert mixture.noise_rate == pytest.approx((~tied).mean() * mixture.weights[1] + tied.mean() * at_end)


def test_only_ends_and_nothing_between():
    mixture = BetaMixture().fit(np.r_[np.zeros(700), np.ones(300)])
    assert mixture.noise_rate == pytest.approx(.3, abs=1e-3)
    np.testing.assert_allclose(mixture.posterior([0, 1]), [0, 1], atol=1e-6)


# not a Gaussian mixture on (.5, 5) and (1, 1): half a bell against a wall is two Gaussians
@pytest.mark.parametrize('make,shape', [(make, shape) for shape in [(2, 8), (5, 5), (100, 100)] for make in (BetaMixture, GaussianMixture)]
                         + [(BetaMixture, (.5, 5)), (BetaMixture, (1, 1))])
@pytest.mark.parametrize('n', [100, 20_000])
def test_one_hump_is_called_so(make, shape, n):
    assert make().fit(np.random.default_rng(0).beta(*shape, n)).is_unimodal


@pytest.mark.parametrize('make', [BetaMixture, GaussianMixture])
@pytest.mark.parametrize('case', KNOWN)
def test_two_humps_are_called_so(make, case):
    mixture = make().fit(draw(*case))
    assert not mixture.is_unimodal
    assert mixture.separation == pytest.approx(np.sqrt(2) * abs(mixture.means[1] - mixture.means[0]) / np.hypot(*mixture.stds))


def test_means_and_stds_are_those_of_the_components():
    mixture = BetaMixture().fit(draw(*KNOWN[0]))
    np.testing.assert_allclose(mixture.means, stats.beta.mean(mixture.alphas, mixture.betas))
    np.testing.assert_allclose(mixture.stds, stats.beta.std(mixture.alphas, mixture.betas))


@pytest.mark.parametrize('make', [BetaMixture, GaussianMixture, lambda: BetaMixture('moments')])
@pytest.mark.parametrize('values,match', [
    ([.5], 'nearly'), ([.3] * 100, 'nearly'), ([0.] * 9, 'nearly'), ([1.] * 9, 'nearly'), ([2e-5, 3e-5], 'nearly'), ([], 'empty'),
    ([.1, np.nan, .3], '1 of 3 are NaN'), ([.1, np.inf, -np.inf], '2 of 3'), ([[.1, .2], [.3, .4]], 'shape'),
    ([-.1, .5], 'normalise=True'), ([.5, 1.1], 'normalise=True')])
def test_bad_values_raise(make, values, match):
    with pytest.raises(ValueError, match=match): make().fit(values)


def test_constant_losses_raise_with_normalise():
    for values in ([.7], [3.] * 50):
        with pytest.raises(ValueError, match='percentile'): BetaMixture(normalise=True).fit(values)


@pytest.mark.parametrize('make,match', [
    (lambda: BetaMixture('em'), 'method'), (lambda: BetaMixture(max_iter=0), 'max_iter'), (lambda: BetaMixture(tol=-1), 'tol'),
    (lambda: BetaMixture(tol=np.nan), 'tol'), (lambda: BetaMixture(noisy='up'), 'noisy'), (lambda: GaussianMixture(noisy=1), 'noisy')])
def test_bad_settings_raise(make, match):
    with pytest.raises(ValueError, match=match): make()


def test_use_before_fit_raises():
    for mixture in (BetaMixture(), GaussianMixture()):
        with pytest.raises(ValueError, match='fit'): mixture.posterior([.5])
        with pytest.raises(ValueError, match='fit'): mixture.noise_rate
        assert 'not fitted' in repr(mixture)


def test_posterior_checks_its_values():
    mixture = BetaMixture().fit(draw(*KNOWN[0], n=500))
    with pytest.raises(ValueError, match='NaN'): mixture.posterior([.5, np.nan])
    with pytest.raises(ValueError, match='outside'): mixture.posterior([1.5])
    assert mixture.posterior([]).shape == (0,)


def test_failed_fit_leaves_the_last_one():
    mixture = BetaMixture().fit(draw(*KNOWN[0], n=500))
    before = mixture.state_dict()
    with pytest.raises(ValueError): mixture.fit([.5])
    assert mixture.state_dict() == before


VALUES = arrays(np.float64, st.integers(1, 60), elements=st.one_of(st.sampled_from([0., 1., .5, 1e-4, 1e-12, .999999]), st.floats(0, 1)))


@settings(max_examples=60, deadline=None)
@given(VALUES, st.sampled_from(['ml', 'moments']), st.sampled_from(['high', 'low']))
def test_any_values_give_a_result_or_a_clear_error(values, method, noisy):
    mixture = BetaMixture(method, max_iter=60, noisy=noisy)
    try:
        mixture.fit(values)
    except ValueError as error:
        assert 'nearly' in str(error) and np.diff(np.quantile(values, [0, 1])) < 1e-3
        return
    numbers = np.r_[mixture.alphas, mixture.betas, mixture.weights, mixture.history, mixture.noise_rate, mixture.separation]
    assert np.isfinite(numbers).all() and min(mixture.alphas.min(), mixture.betas.min()) > 0
    assert mixture.weights.sum() == pytest.approx(1) and -1e-9 <= mixture.noise_rate <= 1 + 1e-9
    assert mixture.means[0] <= mixture.means[1]
    if method == 'ml': assert never_falls(mixture.history)
    posterior = mixture.posterior(np.sort(values))
    assert np.isfinite(posterior).all() and np.diff(posterior, prepend=0).min() >= -1e-9 and posterior.max() <= 1
    assert mixture.is_unimodal in (True, False)


@settings(max_examples=30, deadline=None)
@given(arrays(np.float64, st.integers(1, 60), elements=st.floats(-1e6, 1e6)))
def test_any_losses_give_a_result_or_a_clear_error(losses):
    mixture = BetaMixture(max_iter=60, normalise=True)
    try:
        mixture.fit(losses)
    except ValueError as error:
        assert 'percentile' in str(error) or 'nearly' in str(error)
        return
    posterior = mixture.posterior(np.sort(losses))
    assert np.isfinite(posterior).all() and np.diff(posterior).min(initial=0) >= -1e-9
    assert never_falls(mixture.history) and 0 <= mixture.noise_rate <= 1 + 1e-9


# --- input types, state, plot ----------------------------------------------------------------------------------

@pytest.mark.parametrize('convert,tolerance', [
    (list, 0), (torch.tensor, 0), (lambda x: torch.tensor(x, requires_grad=True), 0), (lambda x: x.astype(np.float32), 1e-5),
    (lambda x: torch.tensor(x, dtype=torch.float32), 1e-5), (lambda x: torch.tensor(x, dtype=torch.bfloat16), .02)])
def test_arrays_tensors_and_lists_agree(convert, tolerance):
    x = draw(*KNOWN[0], n=3000)
    expected = BetaMixture().fit(x)
    mixture = BetaMixture().fit(convert(x))
    posterior = mixture.posterior(convert(x))
    assert isinstance(posterior, np.ndarray) and posterior.dtype == np.float64 and posterior.shape == (3000,)
    assert mixture.noise_rate == pytest.approx(expected.noise_rate, abs=tolerance)
    np.testing.assert_allclose(posterior, expected.posterior(x), atol=5 * tolerance)


@pytest.mark.parametrize('make', [BetaMixture, GaussianMixture])
def test_state_goes_through_json(make):
    losses = raw_losses(2000)
    mixture = make(normalise=True, noisy='low').fit(losses)
    copy = make()
    copy.load_state_dict(json.loads(json.dumps(mixture.state_dict())))
    np.testing.assert_array_equal(copy.p_noisy(losses), mixture.p_noisy(losses))
    assert copy.state_dict() == mixture.state_dict() and repr(copy) == repr(mixture)
    assert copy.is_unimodal == mixture.is_unimodal


def test_state_of_another_class_raises():
    state = BetaMixture().fit(draw(*KNOWN[0], n=500)).state_dict()
    with pytest.raises(ValueError, match='reg_covar'): GaussianMixture().load_state_dict(state)


@pytest.mark.parametrize('noisy', ['high', 'low'])
def test_plot_shows_histogram_components_and_posterior(noisy):
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot as plt
    mixture = BetaMixture(noisy=noisy).fit(draw(*KNOWN[0]))
    ax = mixture.plot()
    lines = {line.get_label(): line for line in ax.lines}
    area = {name: integrate.trapezoid(line.get_ydata(), line.get_xdata()) for name, line in lines.items()}
    assert area['noisy'] == pytest.approx(mixture.noise_rate, abs=.01)
    density = np.histogram(draw(*KNOWN[0]), 50, (0, 1), density=True)[0]
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], density, atol=.05)
    dashed = ax.figure.axes[1].lines[0]
    np.testing.assert_allclose(dashed.get_ydata(), mixture.p_noisy(dashed.get_xdata()))
    assert mixture.plot(ax) is ax
    plt.close(ax.figure)


# --- GaussianMixture -------------------------------------------------------------------------------------------

def test_gaussian_is_scikit_learns():
    from sklearn.mixture import GaussianMixture as SklearnMixture
    x = draw(*KNOWN[0], n=5000)
    mixture = GaussianMixture(max_iter=10, tol=1e-2).fit(x)
    peer = SklearnMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=0).fit(x[:, None])
    noisy = peer.means_.ravel().argmax()
    np.testing.assert_allclose(mixture.posterior(x, monotone=False), peer.predict_proba(x[:, None])[:, noisy], atol=1e-9)
    assert mixture.noise_rate == pytest.approx(peer.weights_[noisy])
    assert mixture.log_likelihood == pytest.approx(peer.lower_bound_)


def test_gaussian_leaves_the_global_generator_alone():
    _, keys, position, *_ = np.random.get_state()
    GaussianMixture().fit(draw(*KNOWN[0], n=500))
    _, keys_after, position_after, *_ = np.random.get_state()
    assert position_after == position and (keys_after == keys).all()


def test_scikit_learn_and_torch_are_imported_only_when_used():
    code = ("import sys; from fastnoisy.mixture import BetaMixture; BetaMixture().fit([.1, .2, .8]);"
            "assert not {'sklearn', 'torch', 'matplotlib'} & set(sys.modules)")
    subprocess.run([sys.executable, '-c', code], check=True)

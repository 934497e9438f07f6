"The splitter against scikit-learn as DivideMix calls it, against loops over the classes, and in its limits."
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from sklearn.mixture import GaussianMixture as SklearnMixture
from fastnoisy.analysis.mixture import BetaMixture
from fastnoisy.analysis.splitter import has_two_modes, split_clean

def planted(n=2000, noise=.3, k=4, seed=0):
    "Losses, classes and which labels are wrong"
    rng = np.random.default_rng(seed)
    y,wrong = rng.integers(k, size=n),rng.random(n) < noise
    return rng.gamma(3, .1, n) + 1.5*wrong + .8*y, y, wrong

def dividemix(losses):
    "Its lines: min-max scaled losses, two components, the one with the smaller mean is clean"
    x = ((losses - losses.min())/(losses.max() - losses.min())).reshape(-1, 1)
    mixture = SklearnMixture(n_components=2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=0).fit(x)
    return mixture.predict_proba(x)[:, mixture.means_.argmin()]

@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('noise', [.2, .5, .8])
def test_gaussian_is_dividemix(noise, seed):
    x = planted(noise=noise, k=1, seed=seed)[0]
    got,expected = split_clean(x),dividemix(x)
    assert ((got >= .5) == (expected > .5)).all()
    inner = (x > np.quantile(x, .02)) & (x < np.quantile(x, .98)) # at the ends the posterior is made monotone
    np.testing.assert_allclose(got[inner], expected[inner], atol=1e-6)

def test_beta_is_the_mixture_of_raw_losses():
    x = planted(k=1)[0]
    np.testing.assert_allclose(split_clean(x, 'beta'), 1 - BetaMixture(normalise=True).fit(x).p_noisy(x))

@pytest.mark.parametrize('by', ['gaussian', 'beta'])
def test_per_class_in_a_loop(by):
    x,y,wrong = planted()
    got = split_clean(x, by, y, per_class=True)
    for c in range(4): np.testing.assert_array_equal(got[y == c], split_clean(x[y == c], by))
    assert ((got >= .5) == ~wrong).mean() > .97 > ((split_clean(x, by) >= .5) == ~wrong).mean() + .1

def test_share_in_a_loop():
    x,y,_ = planted(101)
    got = split_clean(x, classes=y, share=.4)
    for c in range(4):
        mine = sorted(x[y == c])
        n = -(-2*len(mine)//5)
        assert [bool(o) for o in got[y == c]] == [v <= mine[n - 1] for v in x[y == c]]
    assert split_clean(x, share=.4).sum() == 41 and (split_clean(x, share=1) == 1).all()

def test_minimum_per_class():
    x,y,_ = planted(400)
    x[y == 3] += 10 # by one mixture none of them is clean
    none,some = split_clean(x, classes=y),split_clean(x, classes=y, min_per_class=7)
    assert (none[y == 3] < .5).all() and (some[y == 3] >= .5).sum() == 7
    assert (x[y == 3][some[y == 3] >= .5].max() <= np.sort(x[y == 3])[6]) and (some >= none).all() and (some[y == 0] == none[y == 0]).all()
    assert (split_clean(x, -1., y, min_per_class=1000) == .5).all()

@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=1, max_size=30), st.sampled_from(['gaussian', 'beta', 0.]), st.booleans())
def test_any_values(values, by, per_class):
    "Always in [0, 1], NaN only where it was, never rising with the signal, and the order of the samples does not matter"
    x,y = np.array(values),np.arange(len(values)) % 2
    got = split_clean(x, by, y, per_class)
    known = ~np.isnan(x)
    assert np.isnan(got[~known]).all() and ((got[known] >= 0) & (got[known] <= 1)).all()
    for c in range(2) if per_class else ():
        mine = got[known & (y == c)][np.argsort(x[known & (y == c)])]
        assert (np.diff(mine) <= 1e-9).all() or by == 'gaussian'
    order = np.random.default_rng(0).permutation(len(x))
    if by != 'gaussian': np.testing.assert_allclose(split_clean(x[order], by, y[order], per_class), got[order], atol=1e-6)

def test_nothing_to_split():
    assert (split_clean(np.full(9, 2.)) == 1).all() and (split_clean([3.]) == 1).all() and len(split_clean([])) == 0
    assert np.isnan(split_clean([np.nan]*3)).all()
    np.testing.assert_array_equal(split_clean([1., 1., np.nan, np.inf], 'gaussian'), [1, 1, np.nan, 1])
    x,y,_ = planted(300, k=2)
    lone,given_ = np.append(x, [.3, 9.]),np.append(y, [2, 3]) # classes of one sample are judged by the mixture of all
    got = split_clean(lone, classes=given_, per_class=True)
    np.testing.assert_array_equal(got[-2:], split_clean(lone)[-2:])
    assert got[-2] > .5 > got[-1]

def test_infinite_losses_are_not_clean():
    x,_,_ = planted(500, k=1)
    x[:3] = np.inf,-np.inf,np.nan
    got = split_clean(x)
    assert got[0] == 0 and got[1] == 1 and np.isnan(got[2])
    np.testing.assert_array_equal(got[3:], split_clean(x[3:]))

def test_tensors_and_thresholds():
    assert split_clean(torch.tensor([0., 1., 2.], requires_grad=True), 1).tolist() == [1, 1, 0]
    assert split_clean(torch.tensor([0., 1.]), classes=torch.tensor([0, 0]), share=.5).tolist() == [1, 0]

@pytest.mark.parametrize('kwargs, match', [
    (dict(signal=np.zeros((2, 2))), r'signal: shape \(2, 2\)'), (dict(by='otsu'), "by='otsu'"), (dict(by=float('nan')), 'by=nan'), (dict(share=0), 'share=0'),
    (dict(share=1.1), 'share=1.1'), (dict(min_per_class=-1), 'min_per_class=-1'), (dict(per_class=True), 'classes=None'), (dict(min_per_class=2), 'classes=None'),
    (dict(classes=[1]), r'classes: shape \(1,\) for 3')])
def test_wrong_arguments(kwargs, match):
    with pytest.raises(ValueError, match=match): split_clean(**{'signal': np.arange(3.), **kwargs})

@pytest.mark.parametrize('by', ['gaussian', 'beta'])
def test_two_modes(by):
    rng = np.random.default_rng(0)
    low,high = rng.normal(.3, .05, 300).clip(0),rng.normal(2., .2, 100)
    assert has_two_modes(np.r_[low, high, np.nan, np.inf], by) and not has_two_modes(rng.normal(1, .2, 400), by)
    assert not has_two_modes(np.ones(50), by) and not has_two_modes([1.], by) and not has_two_modes([np.nan]*3, by)

def test_two_modes_of_a_threshold():
    assert has_two_modes([0., 1., 2.], 1.) and not has_two_modes([0., 1.], 1.) and not has_two_modes([2., 3.], 1.)

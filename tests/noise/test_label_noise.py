"The noise models against counts, a naive transition matrix and the promise to leave global randomness alone."
import random

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st

import fastnoisy.noise.label_noise as label_noise
from fastnoisy.noise.label_noise import (LabelNoise, NoiseModel, PairNoise, SymmetricNoise, as_generator, as_noise,
                                         check_labels, choose_samples, parse_noise, plot_matrix, register_noise)
from fastnoisy.noise.label_models import AdjacentNoise, AsymmetricNoise, DirichletNoise, InstanceNoise

LABELS = torch.arange(10).repeat(300)


def naive_matrix(record):
    counts = [[0.]*record.n_classes for _ in range(record.n_classes)]
    for true, given_label in zip(record.true.tolist(), record.given.tolist()): counts[true][given_label] += 1
    rows = [[c/sum(row) for c in row] if sum(row) else [float(i == j) for j in range(len(row))] for i, row in enumerate(counts)]
    return torch.tensor(rows, dtype=torch.double)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(2, 7), st.floats(0, 1), st.integers(0, 2**31), st.booleans(), st.booleans())
def test_record_is_consistent(n, k, rate, seed, include_self, exact):
    labels = np.random.default_rng(seed).integers(0, k, n)
    record = SymmetricNoise(rate, include_self, exact)(labels, k, generator=seed)
    assert record.given.dtype == torch.int64 and record.given.shape == (n,)
    assert 0 <= record.given.min() and record.given.max() < k
    assert record.true.tolist() == labels.tolist()
    assert record.flipped.tolist() == [a != b for a, b in zip(record.given.tolist(), labels.tolist())]
    assert record.actual_rate == pytest.approx(sum(record.flipped.tolist())/n)
    if exact and not include_self: assert record.flipped.sum() == round(rate*n)
    if exact and include_self: assert record.flipped.sum() <= round(rate*n)
    torch.testing.assert_close(record.matrix(), naive_matrix(record))
    torch.testing.assert_close(record.matrix().sum(1), torch.ones(k, dtype=torch.double))


def chi2(counts): return ((counts - counts.mean())**2 / counts.mean()).sum()


def test_new_class_is_uniform_over_the_others_and_positions_are_uniform():
    labels = torch.zeros(30_000, dtype=torch.long) + 2
    record = SymmetricNoise(.3)(labels, 6, generator=1)
    counts = np.bincount(record.given[record.flipped], minlength=6)
    assert counts[2] == 0
    assert chi2(counts[[0, 1, 3, 4, 5]]) < 18.5     # chi-square, 4 degrees of freedom, p = 0.001
    where = record.flipped.view(30, 1000).sum(1).numpy()
    assert chi2(where) < 58.3                       # at most 29 degrees of freedom, p = 0.001
    assert chi2(where) > 5


def test_include_self_draws_over_all_classes():
    labels = torch.zeros(30_000, dtype=torch.long) + 2
    record = SymmetricNoise(1, include_self=True)(labels, 6, generator=1)
    assert chi2(np.bincount(record.given, minlength=6)) < 20.5  # 5 degrees of freedom, p = 0.001
    record = SymmetricNoise(.6, include_self=True)(labels, 6, generator=1)
    assert record.actual_rate == pytest.approx(.6*5/6, abs=.012)
    assert record.asked_rate == .6


def test_not_exact_is_a_coin_for_each_sample():
    totals = [int(SymmetricNoise(.4, exact=False)(LABELS, generator=s).flipped.sum()) for s in range(40)]
    assert np.mean(totals) == pytest.approx(1200, abs=20)       # mean of 40 binomials, deviation 4.2
    assert 15 < np.std(totals) < 42                             # sqrt(3000 * .4 * .6) = 26.8


def test_limits():
    assert not SymmetricNoise(0)(LABELS).flipped.any()
    assert SymmetricNoise(1)(LABELS).flipped.all()
    assert SymmetricNoise(1, exact=False)(LABELS).flipped.all()
    assert SymmetricNoise(.5)([0, 1]).flipped.sum() == 1
    two = SymmetricNoise(1)([0, 1, 1])
    assert two.given.tolist() == [1, 0, 0]


def test_seed_and_generator():
    model = SymmetricNoise(.4)
    assert model(LABELS).given.equal(model(LABELS, generator=42).given)
    assert model(LABELS, generator=7).given.equal(model(LABELS, generator=torch.Generator().manual_seed(7)).given)
    assert not model(LABELS, generator=7).given.equal(model(LABELS, generator=8).given)
    g = as_generator(7)
    first, second = model(LABELS, generator=g), model(LABELS, generator=g)
    assert first.given.equal(model(LABELS, generator=7).given) and not first.given.equal(second.given)
    assert as_generator(np.int64(3)).initial_seed() == 3
    for wrong in (1.5, 'a', True):
        with pytest.raises(TypeError, match='seed 42'): as_generator(wrong)


def global_state(): return random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2], torch.get_rng_state().tolist()


@pytest.mark.parametrize('exact', [True, False])
@pytest.mark.parametrize('kind', [SymmetricNoise, PairNoise])
def test_global_randomness_is_neither_read_nor_moved(kind, exact):
    model = kind(.4, exact=exact)
    first = model(LABELS)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = global_state()
    assert model(LABELS).given.equal(first.given)
    assert global_state() == before


@pytest.mark.parametrize('kind', [list, np.array, torch.tensor, pd.Series, lambda o: np.array(o, np.uint8), lambda o: torch.tensor(o, dtype=torch.int32),
                                  lambda o: pd.Series(o, index=[5, 4, 3, 2, 1])])
def test_kinds_of_labels_and_no_alias(kind):
    labels = kind([0, 1, 2, 1, 0])
    record = SymmetricNoise(1)(labels)
    assert list(labels) == [0, 1, 2, 1, 0]
    assert record.true.tolist() == [0, 1, 2, 1, 0] and record.n_classes == 3
    record.true[:], record.given[:] = 9, 9
    assert list(labels) == [0, 1, 2, 1, 0]


def test_number_of_classes():
    assert SymmetricNoise(0)([0, 1]).n_classes == 2
    assert SymmetricNoise(0)([0, 1], n_classes=5).n_classes == 5
    assert SymmetricNoise(0)([0, 0], n_classes=2).matrix().tolist() == [[1, 0], [0, 1]]
    many = SymmetricNoise(1)([0]*500, n_classes=5, generator=0)
    assert set(many.given.tolist()) == {1, 2, 3, 4}


def test_frame_and_repr():
    record = LabelNoise(torch.tensor([1, 1, 0]), torch.tensor([0, 1, 0]), 2, .5, 'mine')
    expected = pd.DataFrame(dict(sample_id=[0, 1, 2], given_label=[1, 1, 0], true_label=[0, 1, 0], is_flipped=[True, False, False]))
    pd.testing.assert_frame_equal(record.to_frame(), expected)
    assert len(record) == 3
    assert repr(record) == 'mine: 1 of 3 labels flipped (33.3%, asked 50.0%), 2 classes'
    assert 'asked' not in repr(LabelNoise(torch.tensor([0]), torch.tensor([0]), 2))
    assert SymmetricNoise(.4)(LABELS).name == repr(SymmetricNoise(.4)) == str(SymmetricNoise(.4))


@pytest.mark.parametrize('labels, n_classes, error, words', [
    ([], None, ValueError, 'empty'),
    ([0., 1.], None, TypeError, 'float64'),
    (['a', 'b'], None, TypeError, 'np.unique'),
    ([True, False], None, TypeError, 'bool'),
    ([[0], [1]], None, ValueError, r'labels\[:, 0\]'),
    ([0, -1], None, ValueError, r'labels\[1\] is -1'),
    ([0, 1, 3, 4], 3, ValueError, r'labels\[2\] is 3, outside 0..2 \(2 such'),
    ([0, 0], None, ValueError, 'at least two'),
    ([0, 0], 1, ValueError, 'at least two'),
])
def test_wrong_labels(labels, n_classes, error, words):
    with pytest.raises(error, match=words): SymmetricNoise(.4)(labels, n_classes)
    with pytest.raises(error, match='^mine'): check_labels(labels, n_classes, 'mine')


@pytest.mark.parametrize('rate, error', [(-.1, ValueError), (1.01, ValueError), (40, ValueError), (float('nan'), ValueError), ('.4', TypeError), (True, TypeError),
                                         (None, TypeError)])
def test_wrong_rate(rate, error):
    with pytest.raises(error, match=r'\[0, 1\]'): SymmetricNoise(rate)


class ByBrightness(NoiseModel):
    "Instance-dependent: dark inputs get the next class"
    def draw(self, labels, n_classes, inputs, generator):
        labels += torch.as_tensor(inputs < 50).long()
        return (labels % n_classes).numpy()


def test_a_model_of_ones_own():
    labels = np.array([0, 1, 2, 2])
    record = ByBrightness()(labels, inputs=np.array([10, 200, 10, 200]))
    assert record.given.tolist() == [1, 1, 0, 2] and record.true.tolist() == labels.tolist() == [0, 1, 2, 2]
    assert record.asked_rate is None and record.name == 'ByBrightness()'


def test_models_that_do_not_keep_to_the_rules():
    class Short(NoiseModel):
        def draw(self, labels, n_classes, inputs, generator): return labels[1:]
    class Outside(NoiseModel):
        def draw(self, labels, n_classes, inputs, generator): return labels + 1
    with pytest.raises(ValueError, match='drew 2 labels for 3'): Short()([0, 1, 1])
    with pytest.raises(ValueError, match=r'drawn by Outside\(\)\[1\] is 2'): Outside()([0, 1, 1])
    with pytest.raises(NotImplementedError, match='must define draw'): NoiseModel()([0, 1])


def test_as_noise():
    model = SymmetricNoise(.2, include_self=True)
    assert as_noise(None) is None and as_noise(model) is model
    assert as_noise(.4) == SymmetricNoise(.4) and as_noise(np.float32(.5)) == SymmetricNoise(.5)
    assert as_noise(0) == SymmetricNoise(0) and as_noise(1) == SymmetricNoise(1)
    for wrong in (True, SymmetricNoise, [.4]):
        with pytest.raises(TypeError, match='a rate in'): as_noise(wrong)
    with pytest.raises(ValueError, match=r'\[0, 1\]'): as_noise(40)


def test_pair_takes_the_next_class():
    record = PairNoise(.3)(LABELS, generator=1)
    assert record.flipped.sum() == 900 and record.asked_rate == .3
    assert all(g == (t + 1) % 10 for g, t in zip(record.given[record.flipped].tolist(), record.true[record.flipped].tolist()))
    assert PairNoise(1)([0, 1, 2]).given.tolist() == [1, 2, 0] and PairNoise(1)([0, 1], n_classes=4).given.tolist() == [1, 2]
    totals = [int(PairNoise(.4, exact=False)(LABELS, generator=s).flipped.sum()) for s in range(40)]
    assert np.mean(totals) == pytest.approx(1200, abs=20) and 15 < np.std(totals) < 42
    with pytest.raises(ValueError, match=r'\[0, 1\]'): PairNoise(2)


def test_choose_samples():
    g = as_generator(0)
    exact = choose_samples(1000, .3, True, g)
    assert len(exact) == len(set(exact.tolist())) == 300 and not exact.equal(exact.sort().values)
    assert len(choose_samples(10, .25, True, g)) == 2 and len(choose_samples(10, .05, True, g)) == 0
    each = choose_samples(100_000, .3, False, g)
    assert abs(len(each) - 30_000) < 3*(100_000*.3*.7)**.5


def test_matrices():
    by_hand = [[.6 if i == j else .1 for j in range(5)] for i in range(5)]
    assert SymmetricNoise(.4).matrix(5).tolist() == [pytest.approx(o) for o in by_hand]
    by_hand = [[.7 + .06 if i == j else .06 for j in range(5)] for i in range(5)]
    assert SymmetricNoise(.3, include_self=True).matrix(5).tolist() == [pytest.approx(o) for o in by_hand]
    assert PairNoise(.3).matrix(3).tolist() == [pytest.approx(o) for o in ([.7, .3, 0], [0, .7, .3], [.3, 0, .7])]
    with pytest.raises(NotImplementedError, match=r'model\(labels\).matrix\(\)'): ByBrightness().matrix(2)


@pytest.mark.parametrize('n_classes, numbers', [(3, True), (20, True), (21, False)])
def test_plot(n_classes, numbers):
    T = torch.eye(n_classes, dtype=torch.double)*.75 + .25/n_classes
    T[1, 2], T[2, 1] = .3, .01
    ax = plot_matrix(T)
    assert np.allclose(ax.images[0].get_array(), T) and (ax.get_xlabel(), ax.get_ylabel()) == ('given label', 'true label')
    texts = {tuple(int(v) for v in o.get_position()): o.get_text() for o in ax.texts}
    assert len(texts) == (n_classes**2 if numbers else 0)
    if numbers: assert (texts[2, 1], texts[1, 2]) == ('.30', '.01') and texts[1, 1] == f'{T[1, 1]:.2f}'[1:]
    record = LabelNoise(torch.tensor([1, 1]), torch.tensor([0, 1]), 2)
    own = record.plot(['cat', 'dog'], ax)
    assert own is ax and [o.get_text() for o in ax.get_yticklabels()] == ['cat', 'dog']
    label_noise.plt.close('all')


@pytest.mark.parametrize('text, model', [
    ('symmetric:.4', SymmetricNoise(.4)), ('symmetric:0', SymmetricNoise(0)), ('symmetric-self:.4', SymmetricNoise(.4, True)), ('pair:2e-1', PairNoise(.2)),
    ('asymmetric:.4', AsymmetricNoise(.4)), ('asymmetric:.4:mnist', AsymmetricNoise(.4, 'mnist')), ('adjacent:.1', AdjacentNoise(.1)),
    ('dirichlet:.1', DirichletNoise(.1)), ('instance:.1', InstanceNoise(.1)),
])
def test_names(text, model): assert as_noise(text) == parse_noise(text) == model


@pytest.mark.parametrize('text, error, words', [
    ('symetric:.4', ValueError, "'symetric' is none of symmetric, symmetric-self, pair, asymmetric, adjacent, dirichlet, instance, human"),
    ('.4', ValueError, 'write for instance symmetric:.4'), ('', ValueError, 'none of'), ('pair', ValueError, 'write pair:rate'),
    ('asymmetric', ValueError, 'write asymmetric:rate:class_map'), ('pair:.1:2', ValueError, 'write pair:rate'),
    ('pair:0,.2', ValueError, 'number in'), ('pair:40', ValueError, r'\[0, 1\]'), ('asymmetric:.4:cat', ValueError, 'class_map=.cat.'),
])
def test_wrong_names(text, error, words):
    with pytest.raises(error, match=words): as_noise(text)


def test_a_name_of_ones_own(monkeypatch):
    monkeypatch.setattr(label_noise, "NOISES", dict(label_noise.NOISES))
    register_noise('mine', lambda rate, word='a': (rate, word))
    assert parse_noise('mine:.5:b') == (.5, 'b') and parse_noise('mine:1') == (1., 'a')
    register_noise('mine', PairNoise)
    assert parse_noise('mine:.5') == PairNoise(.5)
    with pytest.raises(ValueError, match='without a colon'): register_noise('a:b', PairNoise)

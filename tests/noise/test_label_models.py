"Draws of every model against its transition matrix, the published algorithm of instance-dependent noise as a loop, and files of human labels."
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy import stats

from fastnoisy.noise.label_noise import PairNoise, SymmetricNoise, as_generator, parse_noise
from fastnoisy.noise.human import HumanNoise, annotator_noise, read_labels
from fastnoisy.noise.label_models import (CLASS_MAPS, AdjacentNoise, AsymmetricNoise, DirichletNoise, InstanceNoise,
                                          TransitionNoise, class_map, truncated_normal, wrong_class_probs)

HAND = [[.8, .2, 0, 0], [0, 1, 0, 0], [.1, .2, .3, .4], [0, .05, 0, .95]]
WITH_T = [
    (SymmetricNoise(.4), 10), (SymmetricNoise(.4, exact=False), 10), (SymmetricNoise(.4, include_self=True), 3), (SymmetricNoise(.4, True, False), 10),
    (PairNoise(.3), 5), (PairNoise(.3, exact=False), 5), (AdjacentNoise(.3), 5), (AdjacentNoise(.3, exact=False), 5), (AdjacentNoise(.3), 2),
    (AsymmetricNoise(.4), 10), (AsymmetricNoise(.25, 'mnist', False), 10), (AsymmetricNoise(.4, {0: (1, 2), 2: 0}), 3), (AsymmetricNoise(.4, {0: (1, 2)}, False), 3),
    (TransitionNoise(HAND), 4), (TransitionNoise(HAND, exact=False), 4),
]


@pytest.mark.parametrize('model, k', WITH_T, ids=str)
def test_100000_draws_match_the_matrix(model, k):
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, k, 100_000))
    T, counts = model.matrix(k), torch.bincount(labels, minlength=k).double()
    T_hat = model(labels, k, generator=0).matrix()
    torch.testing.assert_close(T.sum(1), torch.ones(k, dtype=torch.double))
    sigma = (T*(1 - T)/counts[:, None]).sqrt()
    assert ((T_hat - T).abs() <= 3*sigma + 1e-12).double().mean() >= .98
    assert ((T_hat - T).abs() <= 4.5*sigma + 1e-12).all()
    assert (T_hat[T == 0] == 0).all()


def test_bernoulli_varies_and_exact_does_not():
    labels = torch.arange(4).repeat(500)
    counts = lambda model: np.array([model(labels, generator=s).matrix().numpy()*500 for s in range(30)])
    exact, each = counts(TransitionNoise(HAND)), counts(TransitionNoise(HAND, exact=False))
    assert np.abs(exact - np.array(HAND)*500).max() < 1
    sd = np.sqrt(500*np.array(HAND)*(1 - np.array(HAND)))
    assert np.allclose(each.std(0)[sd > 0], sd[sd > 0], rtol=.5) and (each.std(0)[sd == 0] == 0).all()


def test_exact_draws_are_unbiased_for_few_samples():
    draws = torch.stack([TransitionNoise([[.7, .3], [0, 1]])([0], 2, generator=s).given for s in range(2000)])
    assert abs(draws.double().mean() - .3) < 3*(.3*.7/2000)**.5
    where = torch.stack([TransitionNoise([[.7, .3], [0, 1]])([0]*10, 2, generator=s).given for s in range(1000)]).double().mean(0)
    assert ((where - .3).abs() < 4*(.3*.7/1000)**.5).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(2, 6), st.floats(0, 1), st.integers(0, 2**31), st.booleans(), st.data())
def test_interface(n, k, rate, seed, exact, data):
    labels = np.random.default_rng(seed).integers(0, k, n)
    inputs = np.random.default_rng(seed + 1).normal(size=(n, 3))
    matrix = np.random.default_rng(seed + 2).dirichlet(np.full(k, .3), k)
    model = data.draw(st.sampled_from([PairNoise(rate, exact), AdjacentNoise(rate, exact), DirichletNoise(rate, exact), InstanceNoise(rate, exact=exact),
                                       AsymmetricNoise(rate, {0: 1, 1: tuple(range(k))[1:] or 0}, exact), TransitionNoise(matrix, exact), HumanNoise(labels[::-1])]))
    before = labels.copy()
    record = model(labels, k, inputs, seed)
    assert (labels == before).all() and record.true.tolist() == labels.tolist()
    assert record.given.dtype == torch.int64 and record.given.shape == (n,) and 0 <= record.given.min() and record.given.max() < k
    assert record.given.equal(model(labels, k, inputs, seed).given) and record.name == str(model) and record.asked_rate == getattr(model, 'rate', None)
    if exact and isinstance(model, (PairNoise, AdjacentNoise, DirichletNoise, InstanceNoise)): assert record.flipped.sum() == round(rate*n)
    if exact and isinstance(model, AsymmetricNoise):
        for c in range(k):
            if c != 1: assert record.flipped[record.true == c].sum() == (round(rate*(labels == 0).sum()) if c == 0 else 0)
    assert pickle.loads(pickle.dumps(model))(labels, k, inputs, seed).given.equal(record.given)


@pytest.mark.parametrize('model', [AdjacentNoise(.4), AsymmetricNoise(.4), DirichletNoise(.4), InstanceNoise(.4), InstanceNoise(.4, exact=True), TransitionNoise(np.eye(10))], ids=str)
def test_global_randomness_is_neither_read_nor_moved(model):
    labels, inputs = torch.arange(10).repeat(20), torch.randn(200, 3)
    first = model(labels, 10, inputs).given
    np.random.seed(5), torch.manual_seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    assert model(labels, 10, inputs).given.equal(first)
    assert torch.get_rng_state().equal(before[0]) and np.random.get_state()[1].tolist() == before[1]
    if not isinstance(model, TransitionNoise): assert not model(labels, 10, inputs, 1).given.equal(first)


def test_asymmetric_counts_per_class():
    labels = torch.tensor([9]*101 + [2]*7 + [0]*50 + [3]*10 + [5]*20)
    record = AsymmetricNoise(.4)(labels, 10)
    pairs = pd.Series(list(zip(record.true.tolist(), record.given.tolist()))).value_counts().to_dict()
    assert pairs == {(9, 9): 61, (9, 1): 40, (2, 2): 4, (2, 0): 3, (0, 0): 50, (3, 3): 6, (3, 5): 4, (5, 5): 12, (5, 3): 8}
    wanted = {'cifar10': 'truck>automobile bird>airplane deer>horse cat>dog dog>cat', 'mnist': '7>1 2>7 5>6 6>5 3>8',
              'fashion_mnist': 'boot>sneaker sneaker>sandal pullover>shirt coat>dress dress>coat'}
    vocabs = {'cifar10': 'airplane automobile bird cat deer dog frog horse ship truck', 'mnist': '0 1 2 3 4 5 6 7 8 9',
              'fashion_mnist': 'tshirt trouser pullover dress coat sandal shirt sneaker bag boot'}
    for name, ids in CLASS_MAPS.items():
        names = dict(o.split('>') for o in wanted[name].split())
        assert class_map(names, vocabs[name].split()) == {k: (v,) for k, v in ids.items()}


def test_dirichlet_rows():
    records = [DirichletNoise(.5)(torch.zeros(400, dtype=torch.long), 3, generator=s) for s in range(1000)]
    first = np.array([(r.given == 1).sum()/200 for r in records])                  # share of one of two others: uniform on [0, 1]
    assert stats.kstest(first, 'uniform').pvalue > .01
    assert all(r.flipped.sum() == 200 for r in records)


def test_truncated_normal_is_scipys():
    for mean in (0, .1, .45, 1):
        draws = truncated_normal(20_000, mean, .1, as_generator(0)).numpy()
        assert stats.kstest(draws, stats.truncnorm((0 - mean)/.1, (1 - mean)/.1, loc=mean, scale=.1).cdf).pvalue > .01
        assert draws.min() >= 0 and draws.max() <= 1


def test_instance_probs_are_those_of_the_published_loop():
    g = torch.Generator().manual_seed(3)
    x, y, k = torch.randn(40, 5, generator=g), torch.arange(40) % 4, 4
    W = torch.stack([torch.randn(5, k, generator=gw) for gw in [torch.Generator().manual_seed(8)] for _ in range(k)])
    probs = wrong_class_probs(x, y, k, torch.Generator().manual_seed(8))
    for n in range(40):
        A = x[n].view(1, -1).mm(W[y[n]]).squeeze(0)
        A[y[n]] = -torch.inf
        torch.testing.assert_close(probs[n], torch.softmax(A, 0))


def test_instance_noise_rates_and_dependence():
    x = torch.randn(20_000, 4, generator=as_generator(0))
    y = torch.zeros(20_000, dtype=torch.long)
    for rate, mean in ((.1, .1288), (.2, .2055), (.4, .4)):
        assert abs(InstanceNoise(rate)(y, 5, x).actual_rate - mean) < 3*(mean*(1 - mean)/20_000)**.5
        assert InstanceNoise(rate, exact=True)(y, 5, x).flipped.sum() == round(rate*20_000)
    record = InstanceNoise(.5)(y, 5, x*1e4)                                        # hard softmax: the input decides the wrong class
    g = as_generator(42)
    truncated_normal(20_000, .5, .1, g)
    best = wrong_class_probs(x*1e4, y, 5, g).argmax(1)
    assert (record.given[record.flipped] == best[record.flipped]).double().mean() > .999 and len(set(best.tolist())) == 4
    assert not InstanceNoise(0)(y, 5, x).flipped.any()
    images = (torch.rand(30, 4, 4, 3, generator=g)*255).byte().numpy()
    assert InstanceNoise(.5)(torch.arange(30) % 3, 3, images).flipped.any()


@pytest.mark.parametrize('make, error, words', [
    (lambda: AsymmetricNoise(2), ValueError, r'\[0, 1\]'), (lambda: AdjacentNoise('a'), TypeError, 'number'), (lambda: DirichletNoise(-1), ValueError, r'\[0, 1\]'),
    (lambda: AsymmetricNoise(.4, 'cifar'), ValueError, 'one of cifar10, mnist, fashion_mnist'),
    (lambda: AsymmetricNoise(.4)([0, 2]), ValueError, 'there are 3'),
    (lambda: AsymmetricNoise(.4, {0: 5})([0, 2]), ValueError, r'ids in 0..2'), (lambda: AsymmetricNoise(.4, {'cat': 'dog'})([0, 2]), ValueError, 'class_map()'),
    (lambda: AsymmetricNoise(.4, {0: ()})([0, 2]), ValueError, 'one or more'),
    (lambda: class_map({'a': 'c'}, 'ab'), ValueError, r"\['c'\]"),
    (lambda: TransitionNoise([[1, 0, 0], [0, 1, 0]]), ValueError, r'\(2, 3\)'), (lambda: TransitionNoise([[1]]), ValueError, 'at least 2'),
    (lambda: TransitionNoise([[.5, .4], [0, 1]]), ValueError, 'sum to 1$'), (lambda: TransitionNoise([[1.5, -.5], [0, 1]]), ValueError, 'non-negative'),
    (lambda: TransitionNoise([[.9, .3], [.1, .7]]), ValueError, 'give matrix.T'), (lambda: TransitionNoise(np.eye(3))([0, 1]), ValueError, 'for 3 classes, but there are 2'),
    (lambda: DirichletNoise(.1).matrix(3), NotImplementedError, 'no fixed'), (lambda: InstanceNoise(.1).matrix(3), NotImplementedError, 'no fixed'),
    (lambda: InstanceNoise(.1, std=0), ValueError, 'above 0'), (lambda: InstanceNoise(.1)([0, 1]), ValueError, 'needs the inputs'),
    (lambda: InstanceNoise(.1)([0, 1], inputs=np.zeros((3, 2))), ValueError, '3 rows, but there are 2'),
    (lambda: HumanNoise(['a', 'b']), TypeError, "such as 'a'"), (lambda: HumanNoise(['a', 'b'], vocab=['b', 'c']), ValueError, "'a' is not among"),
    (lambda: HumanNoise([0, 1])([0, 1, 1]), ValueError, r'2 labels, but the data set has 3.*rows\(ids\)'), (lambda: HumanNoise([0, -1]), ValueError, 'human labels'),
    (lambda: HumanNoise([0., 1.]), TypeError, 'human labels'), (lambda: HumanNoise([0, 3])([0, 1]), ValueError, 'outside 0..1'),
    (lambda: annotator_noise([0, 1], [0, 1, 1]), ValueError, 'reference has 2 labels but annotator 3'),
])
def test_errors(make, error, words):
    with pytest.raises(error, match=words): make()


GIVEN = np.array([1, 0, 2, 2, 0])


def test_files(tmp_path):
    np.save(tmp_path/'a.npy', GIVEN)
    np.save(tmp_path/'two.npy', np.stack([GIVEN*0, GIVEN], 1))
    np.savez(tmp_path/'a.npz', clean=GIVEN*0, worse=GIVEN)
    pd.DataFrame(dict(clean=GIVEN*0, worse=GIVEN)).to_csv(tmp_path/'a.csv', index=False)
    torch.save(torch.from_numpy(GIVEN), tmp_path/'t.pt')
    torch.save(dict(clean=GIVEN*0, worse=GIVEN.astype(np.uint8)), tmp_path/'d.pt')
    for name, column in (('a.npy', None), ('two.npy', 1), ('a.npz', 'worse'), ('a.csv', 'worse'), ('t.pt', None), ('d.pt', 'worse')):
        record = HumanNoise(tmp_path/name, column)([0, 0, 1, 2, 0], generator=3)
        assert record.given.tolist() == GIVEN.tolist() and record.flipped.tolist() == [True, False, True, False, False] and record.asked_rate is None
    assert parse_noise(f'human:{tmp_path}/a.npz:worse').given.tolist() == GIVEN.tolist()
    assert str(HumanNoise(tmp_path/'a.npz', 'worse')) == 'HumanNoise(a.npz, worse)' and str(HumanNoise(GIVEN)) == 'HumanNoise(5 labels)'
    for name in ('a.npz', 'a.csv', 'd.pt', 'two.npy'):
        with pytest.raises(ValueError, match='state one with column=') as e: read_labels(tmp_path/name)
        assert ('clean' in str(e.value)) == (name != 'two.npy')
    with pytest.raises(ValueError, match='.npy, .npz, .csv and .pt'): read_labels(tmp_path/'a.txt')


def test_files_of_numpy_1_are_read(tmp_path):
    torch.save(dict(worse_label=GIVEN), tmp_path/'now.pt', _use_new_zipfile_serialization=False)
    old = (tmp_path/'now.pt').read_bytes().replace(b'numpy._core.multiarray', b'numpy.core.multiarray')
    (tmp_path/'CIFAR-10_human.pt').write_bytes(old)
    assert old != (tmp_path/'now.pt').read_bytes()
    assert read_labels(tmp_path/'CIFAR-10_human.pt').tolist() == GIVEN.tolist()


def test_files_cannot_run_code(tmp_path):
    class Bad:
        def __reduce__(self): return (tmp_path/'ran').mkdir, ()
    torch.save(dict(worse=Bad()), tmp_path/'bad.pt')
    np.save(tmp_path/'bad.npy', np.array([Bad()]), allow_pickle=True)
    with pytest.raises(ValueError, match='may run code'): read_labels(tmp_path/'bad.pt')
    with pytest.raises(ValueError, match='allow_pickle'): read_labels(tmp_path/'bad.npy')
    assert not (tmp_path/'ran').exists()


def test_human_rows_and_names():
    human = HumanNoise(list('bacca'), vocab='abc')
    assert human.given.tolist() == [1, 0, 2, 2, 0] and human.rows([4, 2]).given.tolist() == [0, 2] and len(human.given) == 5
    assert human.rows([1])([1], 3).given.tolist() == [0]


def test_annotator_confusion():
    g = np.random.default_rng(0)
    first, second = g.integers(0, 3, 500), g.integers(0, 4, 500)
    T = annotator_noise(first, second).matrix(4)
    for i in range(3):
        for j in range(4): assert T[i, j] == pytest.approx(((first == i) & (second == j)).sum()/(first == i).sum())
    assert T[3].tolist() == [0, 0, 0, 1] and annotator_noise(first, second, 5, exact=False).matrix(5)[4, 4] == 1
    assert not annotator_noise(first, second, exact=False).exact

@pytest.mark.parametrize('kind', ['npy', 'npz', 'csv', 'pt'])
def test_damaged_files_are_a_value_error(kind, tmp_path):
    "Cut anywhere, empty, or of another kind: what NumPy, zip, pandas and PyTorch say is a dozen of their own errors"
    file,labels = tmp_path/f'x.{kind}',np.arange(30)
    if kind == 'npy': np.save(file, labels)
    elif kind == 'npz': np.savez(file, a=labels)
    elif kind == 'csv': pd.DataFrame(dict(a=labels)).to_csv(file, index=False)
    else: torch.save(torch.arange(30), file)
    whole = file.read_bytes()
    heads = b'PK\x03\x04' + b'x'*50, b'\x80\x02x', b'\x93NUMPY\xff'
    for data in (b'', whole[:7], whole[:len(whole)//2], whole[:-9], *heads):
        file.write_bytes(data)
        if kind == 'csv' and data: continue # a table that ends earlier is a table
        with pytest.raises(ValueError, match='cannot be read as labels'): read_labels(file)
    with pytest.raises(FileNotFoundError): read_labels(tmp_path/f'no.{kind}')

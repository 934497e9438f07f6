"FINE against the singular vectors that define it, and where it must not act."
import numpy as np, pytest, torch
from fastai.basics import CrossEntropyLossFlat, Learner
from fastnoisy.analysis import splitter
from fastnoisy.analysis.neighbors import embed
from fastnoisy.callback.fine import FINECallback, class_alignment, divided_classes, first_direction
from helpers import LR, fitted_blobs, linear, make_dls, weights_of

def features(n=60, width=8, seed=0): return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)) + .5

@pytest.mark.parametrize('n', [3, 60])
def test_alignment_by_singular_vectors(n):
    x,y = features(2*n),torch.arange(2*n) % 2
    got = class_alignment(x, y).numpy()
    for c in range(2):
        rows = x[y == c].double().numpy()
        v = np.linalg.svd(rows)[2][0]
        for i,f in zip(torch.nonzero(y == c)[:,0], rows):
            assert got[i] == pytest.approx(abs(f @ v)/np.linalg.norm(f), rel=1e-6)

def test_orthogonal_classes():
    "A wrong label scores 0, whatever the length of its features"
    x = torch.eye(2)[[0]*9 + [1]*9 + [0]*2]*torch.rand(20, 1).add(.1)
    got = class_alignment(x, torch.tensor([0]*9 + [1]*11))
    assert got.tolist() == pytest.approx([1.]*18 + [0.]*2)

def test_scale_rotation_and_names_of_classes_do_not_matter():
    x,y = features(),torch.arange(60) % 3
    rotation = torch.linalg.qr(features(8))[0]
    expected = class_alignment(x, y)
    torch.testing.assert_close(class_alignment(3*x @ rotation, (y + 1) % 3), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(class_alignment(x.flip(0), y.flip(0)).flip(0), expected)

def test_unknown_and_lonely_samples():
    x = features(4)
    x[1] = float('nan')
    got = class_alignment(x, torch.tensor([0, 0, -1, 1]))
    assert got.isnan().tolist() == [False, True, True, False] and got[[0, 3]].tolist() == pytest.approx([1, 1])
    assert class_alignment(torch.zeros(3, 2), torch.zeros(3).long()).tolist() == [0.]*3
    assert first_direction(features(1)).norm() == pytest.approx(1)

def test_only_classes_with_two_groups_are_divided():
    rng = np.random.default_rng(0)
    two,one = np.r_[rng.normal(.1, .02, 80), rng.normal(.8, .02, 20)],rng.normal(.4, .02, 100)
    p = divided_classes(np.r_[two, one, np.nan], np.r_[np.zeros(100, int), np.ones(101, int)])
    assert (p[:80] > .5).all() and (p[80:100] < .5).all() and (p[100:200] == 1).all() and np.isnan(p[200])
    kept = divided_classes(np.r_[two, one], np.r_[np.zeros(100, int), np.ones(100, int)], min_per_class=85)
    assert (kept[:100] >= .5).sum() == 85

def test_each_class_is_looked_at_once(monkeypatch):
    "Its mixture is fitted to see whether there are two groups, and once more to divide it"
    fits,gaussian = [],splitter.SPLITTERS['gaussian']
    monkeypatch.setitem(splitter.SPLITTERS, 'gaussian', lambda x: fits.append(len(x)) or gaussian(x))
    rng,cb = np.random.default_rng(0),FINECallback()
    two,one = np.r_[rng.normal(.1, .02, 80), rng.normal(.8, .02, 20)],rng.normal(.4, .02, 101)
    values,given = torch.from_numpy(np.r_[two, one]),torch.tensor([0]*100 + [1]*101)
    assert cb.forms_groups(values, given)
    p = cb.split(values, given)
    assert fits == [100, 101, 100]
    assert np.array_equal(p, divided_classes(values.numpy(), given.numpy(), min_per_class=4))

def test_it_leaves_out_by_the_features_of_the_model():
    learn = Learner(make_dls(), linear(), loss_func=CrossEntropyLossFlat(), cbs=FINECallback(1, by=.08))
    torch.manual_seed(0)
    with learn.no_bar(), learn.no_logging(): learn.fit(2, LR)
    given,cb = learn.dls.train.dataset.y,learn.fine
    alignment = class_alignment(embed(learn), given)
    torch.testing.assert_close(cb.alignment.double(), alignment, rtol=1e-5, atol=1e-6)
    assert cb.label_quality() == pytest.approx(alignment.numpy(), abs=1e-6)
    clean = (1 - cb.alignment.double() <= .08).numpy()
    assert (cb.keep_samples() >= clean).all() and (cb.keep_samples() & ~clean).sum() <= 3*4
    assert (cb.to_frame().is_label_issue.values == ~cb.keep_samples()).all()

@pytest.mark.filterwarnings('ignore:FINECallback')
def test_one_group_is_plain_training():
    plain = fitted_blobs()
    assert torch.equal(weights_of(fitted_blobs(FINECallback(1, by=5.)).model), weights_of(plain.model))

def test_it_says_so_where_nothing_is_divided():
    with pytest.warns(UserWarning, match='alignments never formed two groups'): fitted_blobs(FINECallback(1, by=5.))

def test_errors():
    with pytest.raises(ValueError, match='min_per_class'): FINECallback(min_per_class=0)
    with pytest.raises(ValueError, match='warmup'): FINECallback(warmup=0)

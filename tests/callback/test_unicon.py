"UNICON: the divergence and the uniform selection against their definitions, and what of DivideMix it changes."
import math
import numpy as np, pytest, torch
from torch import nn
from fastai.basics import CrossEntropyLossFlat, Learner
from fastnoisy.callback.divide_mix import DivideMixCallback, Halves
from fastnoisy.callback.unicon import UNICONCallback, label_divergence, uniform_share
from helpers import LR, linear, make_dls, weights_of

def fitted(cb, n=2, dls=None):
    learn = Learner(dls or make_dls(), linear(), loss_func=CrossEntropyLossFlat(), cbs=cb)
    torch.manual_seed(0)
    with learn.no_bar(), learn.no_logging(): learn.fit(n, LR)
    return learn

# the formulas

def test_divergence_by_its_definition():
    p = torch.rand(40, 4, generator=torch.Generator().manual_seed(0)).softmax(1).double()
    y = torch.arange(40) % 4
    label = torch.eye(4).double()[y]
    m = (p + label)/2
    expected = .5*torch.xlogy(label, label/m).sum(1) + .5*torch.xlogy(p, p/m).sum(1)
    torch.testing.assert_close(label_divergence(p, y), expected)

def test_ends_and_order_of_the_divergence():
    p = torch.linspace(0, 1, 50)
    d = label_divergence(torch.stack([p, 1 - p], 1), torch.zeros(50).long())
    assert d[0] == pytest.approx(math.log(2)) and d[-1] == pytest.approx(0, abs=1e-7) and (d.diff() < 0).all()
    assert label_divergence(torch.ones(2, 3)/3, torch.tensor([-1, 0])).isnan().tolist() == [True, False]

@pytest.mark.parametrize('counts', [(50, 50), (90, 10)])
def test_the_same_share_of_each_class(counts):
    "Right and wrong labels as two groups, whose levels differ by class: not by class of the mean, but a share of each"
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], counts)
    d = rng.uniform(0, .3, 100) + .3*y
    got = uniform_share(d, y)
    share = (d < d.mean()).mean()
    for c,n in enumerate(counts):
        own = np.flatnonzero(y == c)
        k = math.ceil(share*n)
        assert set(own[got[own] == 1]) == set(own[np.argsort(d[own])[:k]])

def test_unknown_equal_and_rare():
    assert np.isnan(uniform_share(np.array([.1, np.nan, .5]), np.zeros(3, int))).tolist() == [False, True, False]
    assert uniform_share(np.full(4, .2), np.zeros(4, int)).tolist() == [1]*4
    got = uniform_share(np.r_[np.zeros(9), np.full(9, .6)], np.zeros(18, int), 12)
    assert (got == 1).sum() == 9 and (got >= .5).sum() == 12

# training

def test_it_keeps_what_the_formulas_say():
    learn = fitted(UNICONCallback(1))
    cb,dataset = learn.unicon,learn.dls.train.dataset
    networks = learn.model.eval(),cb.peer.model.eval()
    with torch.no_grad(): mean = sum(m(dataset.x).softmax(1) for m in networks)/2
    d = label_divergence(mean, dataset.y)
    torch.testing.assert_close(cb.divergence, d)
    assert cb.label_quality() == pytest.approx(1 - d.numpy()/math.log(2), abs=1e-5)
    expected = uniform_share(cb.divergence.numpy(), dataset.y.numpy(), 4)
    assert torch.equal(cb.p_clean, torch.from_numpy(expected).float().expand(2, -1)) # one division for both
    assert all((o == (expected >= .5)).all() for o in cb.labelled())
    assert (cb.to_frame().is_label_issue.values == (expected < .5)).all()

def test_trust_by_the_original():
    cb = UNICONCallback()
    cb.p_clean,cb.divergence = torch.ones(2, 4),torch.tensor([0., .49, .5, .6])
    assert cb.label_trust().tolist() == [pytest.approx([1, 1, .5, .4])]*2

def test_warmup_is_that_of_divide_mix():
    "Plain training of two networks"
    got,expected = fitted(UNICONCallback(9)),fitted(DivideMixCallback(9))
    for a,b in ((got.model, expected.model), (got.unicon.peer.model, expected.divide_mix.peer.model)):
        assert torch.equal(weights_of(a), weights_of(b))
    with pytest.raises(ValueError, match='warm-up'): got.unicon.to_frame()
    assert got.unicon.label_quality() is None and got.unicon.noise_probability() is None

def test_one_group_is_plain_training():
    "Divergences that a mixture does not divide"
    class One(UNICONCallback):
        def forms_groups(self, values, given): return False
    with pytest.warns(UserWarning, match='divergences never formed two groups'): learn = fitted(One(1), 3)
    assert torch.equal(weights_of(learn.model), weights_of(fitted(UNICONCallback(9), 3).model))

def test_both_networks_get_the_same_halves():
    learn = fitted(UNICONCallback(1))
    cb,sizes = learn.unicon,[]
    kept = int((cb.p_clean[0] >= .5).sum())
    class See(Halves):
        def __init__(self, method, labelled, unlabelled, seed):
            sizes.append((labelled.sum(), unlabelled.sum()))
            super().__init__(method, labelled, unlabelled, seed)
    with pytest.MonkeyPatch.context() as m:
        m.setattr('fastnoisy.callback.divide_mix.Halves', See)
        with learn.no_bar(), learn.no_logging(): learn.fit(1, LR)
    assert sizes == [(kept, 64 - kept)]*2

@pytest.mark.slow
def test_it_finds_wrong_labels_and_learns():
    learn = fitted(UNICONCallback(3, lambda_u=5.), 10, make_dls(512))
    dataset = learn.dls.train.dataset
    wrong = (dataset.y != dataset.true).numpy()
    assert (learn.unicon.to_frame().is_label_issue.values == wrong).mean() > .9
    with torch.no_grad(): right = learn.model.eval()(learn.dls.valid.dataset.x).argmax(1) == learn.dls.valid.dataset.y
    assert right.float().mean() > .9

@pytest.mark.parametrize('kwargs', [dict(lambda_u=-1.), dict(temperature=0.), dict(penalty=-1.), dict(min_per_class=0),
                                    dict(warmup=0)])
def test_errors(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))): UNICONCallback(**kwargs)

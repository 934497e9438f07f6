"Calibration: errors against loops, temperatures against closed forms and a search, and what it does to a Learner."
import math
import numpy as np, pytest, torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import nn
from fastai.basics import BCEWithLogitsLossFlat, CrossEntropyLossFlat, TfmdDL, load_learner
from fastnoisy.analysis.calibration import Calibration, calibrate, ece, fit_temperature, reliability
from fastnoisy.losses.robust import GCELoss
from fastnoisy.all import LiLAWCallback
from helpers import blob_dls, blob_learner, blobs, weights_of

def random_probs(n=200, k=5, scale=3., seed=0):
    g = torch.Generator().manual_seed(seed)
    return (scale*torch.randn(n, k, generator=g, dtype=torch.double)).softmax(1), torch.randint(k, (n,), generator=g)

@pytest.mark.parametrize('n_bins', [1, 2, 15, 100])
def test_ece_in_a_loop(n_bins):
    probs,y = random_probs()
    total = 0
    for m in range(1, n_bins+1):
        inside = [i for i in range(len(y)) if (m-1)/n_bins < probs[i].max().item() <= m/n_bins]
        if inside: total += len(inside)/len(y) * abs(np.mean([probs[i].argmax() == y[i] for i in inside]) - np.mean([probs[i].max() for i in inside]))
    assert ece(probs, y, n_bins) == pytest.approx(total)
    assert reliability(probs, y, n_bins).n.sum() == len(y)

def test_ece_closed_cases():
    sure = torch.eye(2).repeat(5, 1)
    assert ece(sure, torch.tensor([0, 1]*5)) == 0 and ece(sure, torch.tensor([1, 0]*5)) == 1
    assert ece(torch.full((4, 2), .5), torch.tensor([0, 0, 1, 1])) == 0
    assert ece([[.2, .8]], [1]) == pytest.approx(.2)

def test_a_confidence_on_the_edge_belongs_to_the_lower_bin():
    assert reliability([[.6, .4], [.6000001, .3999999]], [0, 0], 5).index.tolist() == [3, 4]
    with pytest.raises(ValueError, match='n_bins=0'): reliability([[.6, .4]], [0], 0)

@pytest.mark.parametrize('margin, right', [(3., .7), (1., .9), (8., .55), (.2, .8)])
def test_temperature_in_closed_form(margin, right):
    logits = torch.tensor([[margin, 0.]]).repeat(100, 1)
    targets = (torch.arange(100) >= round(100*right)).long()
    assert fit_temperature(logits, targets) == pytest.approx(margin/math.log(right/(1-right)), rel=1e-6)

def test_a_temperature_for_noisy_labels():
    gen = torch.Generator().manual_seed(0)
    logits = 3*torch.randn(2000, 3, generator=gen)
    true = torch.multinomial(logits.softmax(1), 1, generator=gen).flatten()
    given = torch.where(torch.rand(2000, generator=gen) < .3, (true + 1) % 3, true)
    def rows(y): return TfmdDL(list(zip(2*logits, y)), bs=256, device='cpu') # twice as sure as it should be
    learn = blob_learner()
    learn.model = nn.Linear(3, 3, bias=False)
    nn.init.eye_(learn.model.weight)
    right,plain,aware = (calibrate(learn, rows(y), rows(true), noisy=o) for y,o in ((true, False), (given, False), (given, True)))
    assert right.temperature == pytest.approx(2, rel=.1) and aware.temperature == pytest.approx(2, rel=.15) and plain.temperature > 3
    assert aware.ece_after < .03 < plain.ece_after

@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
def test_temperature_by_search(dtype):
    g = torch.Generator().manual_seed(1)
    logits = torch.randn(300, 4, generator=g, dtype=torch.double)
    y = torch.multinomial(logits.softmax(1), 1, generator=g)[:,0]
    logits = (2.5*logits).to(dtype)
    best = minimize_scalar(lambda t: F.cross_entropy(logits.double()/t, y).item(), bounds=(.1, 10), method='bounded', options=dict(xatol=1e-8)).x
    assert fit_temperature(logits, y) == pytest.approx(best, rel=1e-4) and 1.8 < best < 3.5

def test_temperature_of_perfect_and_of_useless_predictions():
    logits = 3*torch.eye(3).repeat(5, 1)
    right = torch.arange(3).repeat(5)
    assert .01 <= fit_temperature(logits, right) < .3
    assert 1 < fit_temperature(logits, (right + 1) % 3) <= 100
    with pytest.raises(ValueError, match='NaN or infinite'): fit_temperature(torch.full((2, 2), float('nan')), torch.tensor([0, 1]))

def test_also_without_gradients():
    with torch.no_grad(): assert fit_temperature(torch.tensor([[3., 0.]]*10), torch.tensor([0]*7 + [1]*3)) == pytest.approx(3/math.log(7/3))

def trained(loss_func=None, cbs=None):
    learn = blob_learner(cbs, loss_func=loss_func or CrossEntropyLossFlat())
    with learn.no_logging(): learn.fit(4, 2e-2)
    return learn

def probs_of(learn):
    with learn.no_bar(): return learn.get_preds()

@pytest.mark.parametrize('loss_func', [None, GCELoss()])
def test_learner(loss_func):
    learn = trained(loss_func)
    with learn.no_bar(): logits,y = learn.get_preds(act=lambda x: x)
    raw,weights,own,loss = probs_of(learn)[0],weights_of(learn.model),learn.loss_func,learn.validate()
    calibrated = calibrate(learn)
    expected = (logits/fit_temperature(logits, y)).softmax(1)
    torch.testing.assert_close(probs_of(learn)[0].as_subclass(torch.Tensor), expected.as_subclass(torch.Tensor))
    assert calibrated.temperature == pytest.approx(fit_temperature(logits, y)) and calibrated.where == 'validation'
    assert calibrated.ece_before == pytest.approx(ece(raw, y)) and calibrated.ece_after == pytest.approx(ece(expected, y))
    assert learn.validate() == loss and weights_of(learn.model).equal(weights)
    assert 'temperature' in repr(calibrated) and f'{calibrated.ece_after:.3f}' in repr(calibrated)
    calibrated.undo()
    assert learn.loss_func is own and probs_of(learn)[0].equal(raw)

def test_twice_is_once():
    learn = trained()
    first = calibrate(learn)
    once = probs_of(learn)[0]
    second = calibrate(learn)
    assert second.temperature == pytest.approx(first.temperature) and second.ece_before == pytest.approx(first.ece_before)
    torch.testing.assert_close(probs_of(learn)[0], once)

def test_report_on_the_test_set():
    learn = trained()
    x,y = blobs(60, seed=5)
    learn.dls.loaders.append(learn.dls.valid.new(learn.dls.valid.dataset))
    assert calibrate(learn).where == 'test'
    other = TfmdDL(list(zip(x, y)), bs=20, device='cpu')
    calibrated = calibrate(learn, fit_dl=other, test_dl=other)
    assert calibrated.before.n.sum() == 60 and calibrated.where == 'test'
    assert len(calibrated.plot().axes) == 2

def test_training_goes_on_and_export_keeps_it(tmp_path):
    learn = trained(cbs=LiLAWCallback())
    calibrate(learn)
    with learn.no_logging(): learn.fit(1, 1e-3)
    expected = probs_of(learn)[0]
    learn.path = tmp_path
    learn.export()
    again = load_learner(tmp_path/'export.pkl')
    with again.no_bar(): probs,_ = again.get_preds(dl=learn.dls.valid)
    torch.testing.assert_close(probs.as_subclass(torch.Tensor), expected.as_subclass(torch.Tensor))

def test_errors():
    learn = blob_learner(loss_func=nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match='no `activation`.*CrossEntropyLossFlat'): calibrate(learn)
    learn = blob_learner()
    with pytest.raises(ValueError, match='no targets'): calibrate(learn, fit_dl=TfmdDL([(o,) for o in torch.randn(6, 4)], bs=3, device='cpu', n_inp=1))
    learn,rows = blob_learner(loss_func=BCEWithLogitsLossFlat()),list(zip(torch.randn(6, 4), torch.zeros(6, 3)))
    with pytest.raises(ValueError, match=r'gave \(6, 3\) and the loader \(6, 3\): calibration is for one class per sample'):
        calibrate(learn, fit_dl=TfmdDL(rows, bs=3, device='cpu'))

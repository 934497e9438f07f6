"What a training is judged by, against other ways to count it; and what each method's record says of the labels"
import numpy as np, pytest, torch
from sklearn.metrics import average_precision_score, roc_auc_score, top_k_accuracy_score
from fastai.basics import Learner
from fastnoisy.analysis.calibration import fit_temperature
from fastnoisy.callback.also import ALSOCallback
from fastnoisy.callback.bmm import evaluation_losses
from fastnoisy.callback.confidence import TwoModelConfidenceCallback
from fastnoisy.callback.dynamics import DynamicsCallback
from fastnoisy.callback.lilaw import LiLAWCallback
from fastnoisy.data.digits import digits_dls, small_cnn
from fastnoisy.data.noisy_dls import noisy_inputs
from fastnoisy.analysis.metrics import (MEASURES, Detection, logits_of, model_scores, n_found, prediction_scores,
                                        signals, suspicion, wrong_samples)
from fastnoisy.noise.label_noise import LabelNoise
from fastnoisy.noise.input_noise import CropShift
from helpers import blob_learner, blobs, fitted_blobs

def noted(learn):
    "With ten wrong labels on record"
    _,y = blobs()
    given = y.clone()
    given[:10] = (y[:10] + 1) % 3
    learn.dls.noise = LabelNoise(given, y, 3)
    return learn

def test_scores_against_their_definitions():
    g = torch.Generator().manual_seed(0)
    logits,y = 2*torch.randn(300, 8, generator=g),torch.randint(0, 8, (300,), generator=g)
    logits[range(300), y] += 1.5
    got = prediction_scores(logits, y, temperature=2.)
    pred,probs = logits.argmax(1),logits.softmax(1).double()
    assert list(got) == MEASURES and got['accuracy'] == (pred == y).double().mean()
    assert got['top5'] == pytest.approx(top_k_accuracy_score(y, logits.numpy(), k=5))
    recalls = [(pred[y == k] == k).double().mean() for k in range(8)]
    assert got['balanced'] == pytest.approx(np.mean(recalls))
    def f1(k):
        hit = ((pred == k) & (y == k)).sum()
        return float(2*hit/((pred == k).sum() + (y == k).sum()))
    assert got['f1'] == pytest.approx(np.mean([f1(k) for k in range(8)]))
    assert got['auroc'] == pytest.approx(roc_auc_score(y, probs/probs.sum(1, keepdim=True), multi_class='ovr'), abs=1e-6)
    confidence,right = (logits/2).softmax(1).amax(1),pred == y
    bins = [(confidence > i/15) & (confidence <= (i+1)/15) for i in range(15)]
    assert got['ece_scaled'] == pytest.approx(sum(float(o.float().mean()*(right[o].float().mean() - confidence[o].mean()).abs()) for o in bins if o.any()), abs=1e-6)
    assert got['ece_scaled'] != got['ece'] == prediction_scores(logits, y)['ece_scaled'] and got['temperature'] == 2.

@pytest.mark.parametrize('n_classes', [2, 5])
def test_no_top5_where_it_says_nothing(n_classes): assert np.isnan(prediction_scores(torch.eye(n_classes), torch.arange(n_classes))['top5'])

def test_model_scores_are_of_the_test_set_with_the_temperature_of_the_validation_set():
    dls = digits_dls(noise=.3, device='cpu')
    learn = Learner(dls, small_cnn())
    learn.fit(2, 3e-3)
    learn.model.train()
    state = {k: v.clone() for k,v in learn.model.state_dict().items()}
    got = model_scores(learn)
    assert learn.model.training and all(torch.equal(v, state[k]) for k,v in learn.model.state_dict().items())
    logits,y = learn.get_preds(dl=dls.test, act=lambda o: o)
    assert got['accuracy'] == (logits.argmax(1) == y).double().mean() and (logits_of(learn.model, dls.test)[1] == y).all()
    assert got['temperature'] == pytest.approx(fit_temperature(*learn.get_preds(dl=dls.valid, act=lambda o: o)), rel=1e-4)

def test_suspicion_is_the_loss_or_the_weight():
    learn = blob_learner()
    learn.fit(1)
    assert (suspicion(learn) == evaluation_losses(learn)).all() and (signals(learn)['loss'] == evaluation_losses(learn)).all() and len(signals(learn)) == 1
    learn = fitted_blobs(ALSOCallback(), n=1)
    assert (suspicion(learn) == -learn.also.to_frame().weight).all() and (signals(learn)['also'] == suspicion(learn)).all()

def test_signals_of_dynamics_and_of_two_models():
    learn = fitted_blobs([DynamicsCallback(['aum', 'running_loss']), TwoModelConfidenceCallback(jsd=0.)], n=2)
    got = signals(learn)
    assert list(got) == ['aum', 'running_loss', 'confidence']
    df = learn.dynamics.to_frame()
    seen = df.seen > 0
    for o in ('aum', 'running_loss'): np.testing.assert_allclose(got[o][seen], -df[f'{o}_quality'][seen])
    quality = learn.confidence.to_frame().label_quality
    np.testing.assert_allclose(got['confidence'][quality.notna()], -quality.dropna())
    assert all(np.isfinite(o).all() and len(o) == 96 for o in got.values())

def test_signals_of_lilaw_are_its_weights_from_the_suspicious_side():
    learn = fitted_blobs(LiLAWCallback(lr=.5), n=2)
    got,model = signals(learn),learn.model.eval()
    x,y = blobs()
    given = torch.stack([learn.dls.train.dataset[i][1] for i in range(96)])
    with torch.no_grad(): probs = model(torch.stack([learn.dls.train.dataset[i][0] for i in range(96)])).softmax(1)
    alpha,beta,delta = learn.lilaw.alpha,learn.lilaw.beta,learn.lilaw.delta
    s_y,s_max = probs[range(96), given],probs.amax(1)
    expected = dict(W_alpha=-torch.sigmoid(alpha*s_y - s_max), W_beta=torch.sigmoid(-(beta*s_y - s_max)), W_delta=torch.exp(-(delta*s_y - s_max)**2/2)) # eq. (2) to (4)
    for k,v in expected.items(): np.testing.assert_allclose(got[k], v, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got['W'], -(-expected['W_alpha'] + expected['W_beta'] + expected['W_delta']), rtol=1e-4)

def test_wrong_samples():
    learn = blob_learner()
    assert wrong_samples(learn.dls) is None
    assert wrong_samples(noted(learn).dls).nonzero()[0].tolist() == list(range(10))
    dls = noisy_inputs(digits_dls(device='cpu'), CropShift(.25, pixels=3))
    assert (wrong_samples(dls) == dls.changed_inputs.numpy()).all() and wrong_samples(dls).mean() == pytest.approx(.25, abs=.001)
    assert wrong_samples(digits_dls(noise=1., device='cpu')) is None # with nothing right there is nothing to tell apart

def test_detection_at_the_epochs_asked_for():
    learn = noted(blob_learner([ALSOCallback(), Detection([1, 3])]))
    learn.fit(3, 1e-2)
    rows,wrong = learn.detection.rows,wrong_samples(learn.dls)
    assert [(o['epoch'], o['signal']) for o in rows] == [(1, 'also'), (3, 'also')]
    assert rows[1]['auc'] == roc_auc_score(wrong, suspicion(learn)) and rows[1]['average_precision'] == average_precision_score(wrong, suspicion(learn))
    learn.fit(1, 1e-2)
    assert [o['epoch'] for o in learn.detection.rows] == [1]

def test_detection_changes_nothing():
    a,b = (fitted_blobs([LiLAWCallback(), *more], n=3) for more in ([], [Detection([2])]))
    assert all(torch.equal(x, y) for x,y in zip(a.model.parameters(), b.model.parameters()))

def test_nothing_to_detect_without_a_record():
    learn = fitted_blobs(Detection([1]), n=1)
    assert learn.detection.rows == []

def test_n_found(monkeypatch):
    learn,values = noted(blob_learner()),np.zeros(96)
    values[[0, 1, 2, 50, 51, 52, 53, 54, 55, 56]] = 1
    monkeypatch.setattr('fastnoisy.analysis.metrics.suspicion', lambda learn: values)
    assert n_found(learn) == 3

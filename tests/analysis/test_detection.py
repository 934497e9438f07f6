"What each method's record says of the labels, also that of a method nobody has heard of, and how well a number finds the wrong ones."
import math
import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, settings, strategies as st
from sklearn import metrics as skm
from sklearn.metrics import average_precision_score, roc_auc_score
from fastnoisy.analysis.detection import Detection, n_found, signals, suspicion, wrong_samples
from fastnoisy.analysis.ranking import average_precision, detection_table, precision_recall_f1, roc_auc, to_quality
from fastnoisy.analysis.report.table import noise_report
from fastnoisy.callback.also import ALSOCallback
from fastnoisy.callback.bmm import evaluation_losses
from fastnoisy.callback.confidence import TwoModelConfidenceCallback
from fastnoisy.callback.dynamics import DynamicsCallback
from fastnoisy.callback.lilaw import LiLAWCallback
from fastnoisy.core.method import MethodCallback
from fastnoisy.data.digits import digits_dls
from fastnoisy.data.noisy_dls import noisy_inputs
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

def test_suspicion_is_the_loss_or_the_weight():
    learn = blob_learner()
    learn.fit(1)
    assert (suspicion(learn) == evaluation_losses(learn)).all() and (signals(learn)['loss'] == evaluation_losses(learn)).all() and len(signals(learn)) == 1
    learn = fitted_blobs(ALSOCallback(), n=1)
    assert (suspicion(learn) == 1 - learn.also.to_frame().label_quality).all() and (signals(learn)['also'] == suspicion(learn)).all()

def test_signals_of_dynamics_and_of_two_models():
    learn = fitted_blobs([DynamicsCallback(['aum', 'running_loss']), TwoModelConfidenceCallback(jsd=0.)], n=2)
    got = signals(learn)
    assert set(got) == {'aum', 'running_loss', 'confidence'}
    df = learn.dynamics.to_frame()
    seen = df.seen > 0
    for o in ('aum', 'running_loss'): np.testing.assert_allclose(got[o][seen], 1 - df[f'{o}_quality'][seen])
    quality = learn.confidence.to_frame().label_quality
    np.testing.assert_allclose(got['confidence'][quality.notna()], 1 - quality.dropna())
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
    monkeypatch.setattr('fastnoisy.analysis.detection.suspicion', lambda learn: values)
    assert n_found(learn) == 3

# a method that no module knows

class Guesses(MethodCallback):
    "Finds the label of the first ten samples bad and suggests the next class"
    name,priority = 'guesses',1000
    said = True
    def label_quality(self): return np.where(np.arange(96) < 10, np.linspace(0, .1, 96), np.linspace(.8, 1, 96)) if self.said else None
    def noise_probability(self): return (np.arange(96) < 10)*.9 if self.said else None
    def suggested_labels(self): return np.where(np.arange(96) < 5, (blobs()[1].numpy() + 2) % 3, -1) if self.said else None
    def to_frame(self): return pd.DataFrame(dict(sample_id=range(96), mood=[1.]*96))

def test_an_unknown_method_speaks_in_report_and_detection():
    learn = noted(blob_learner([ALSOCallback(), Guesses(), Detection([2])]))
    learn.fit(2, 1e-2)
    report = noise_report(learn)
    assert report.source == 'guesses' and (report.label_quality == learn.guesses.label_quality()).all() and (report.guesses_mood == 1.).all()
    assert (report.noise_probability == learn.guesses.noise_probability()).all()
    vocab,y = [str(o) for o in learn.dls.vocab],blobs()[1]
    assert report.suggested_label[:5].tolist() == [vocab[(k + 2) % 3] for k in y[:5]]
    assert report.is_label_issue[:5].all() and not report.is_label_issue[10:].any()
    rows = {o['signal']: o for o in learn.detection.rows}
    assert rows['guesses']['auc'] == 1. == rows['guesses']['average_precision'] and (suspicion(learn) == 1 - learn.guesses.label_quality()).all()
    table = detection_table(pd.DataFrame({f'{k}_quality': -v for k,v in signals(learn).items()}), wrong_samples(learn.dls))
    assert table.auc['guesses'] == 1. and table.recall['guesses'] == 1. # the sign of a signal is all that counts
    learn.guesses.said = False
    assert noise_report(learn).source != 'guesses' and 'guesses' not in signals(learn)

def test_signals_of_its_own():
    class Two(Guesses):
        def signals(self): return dict(a=np.arange(96), b=-np.arange(96))
    got = signals(fitted_blobs(Two(), n=1))
    assert list(got) == ['a', 'b'] and (got['b'] == -np.arange(96)).all()

def test_who_only_watches_is_asked_last():
    class Watches(Guesses):
        name,priority,only_ranks = 'watches',-1,True
        def label_quality(self): return np.full(96, .5)
        def noise_probability(self): return np.ones(96)
    class Acts(Guesses):
        priority = 0
        def noise_probability(self): return None
    learn = fitted_blobs([Watches(), Acts()], n=1)
    report = noise_report(learn)
    assert report.source == 'guesses' and (suspicion(learn) == 1 - learn.guesses.label_quality()).all() and (report.noise_probability < 1).any()
    learn = fitted_blobs(Watches(), n=1)
    report = noise_report(learn)
    assert report.source == 'watches' and (report.noise_probability == 1).all()

def test_unknown_qualities_are_neither_nor():
    class Some(Guesses):
        def label_quality(self): return np.where(np.arange(96) % 2, np.nan, .25)
    got = suspicion(fitted_blobs(Some(), n=1))
    assert (got[::2] == .75).all() and (got[1::2] == .5).all()

def test_a_method_of_another_data_set():
    class Other(Guesses):
        def label_quality(self): return np.zeros(95)
    learn = fitted_blobs(Other(), n=1)
    for f in (noise_report, suspicion, signals):
        with pytest.raises(ValueError, match=r'guesses.label_quality\(\) gave shape \(95,\), but there are 96'): f(learn)
    class Short(Guesses):
        def to_frame(self): return pd.DataFrame(dict(sample_id=range(3)))
    with pytest.raises(ValueError, match='table of guesses has 3 rows'): noise_report(fitted_blobs(Short(), n=1))

# quality

values = st.lists(st.one_of(st.integers(-3, 3).map(float), st.floats(-5, 5), st.just(math.nan), st.just(math.inf)), min_size=1, max_size=25)

@settings(max_examples=100, deadline=None)
@given(values, st.booleans())
def test_quality_is_the_share_of_others_that_are_more_suspicious(x, high):
    got = to_quality(x, high)
    for i,a in enumerate(x):
        others = [b for j,b in enumerate(x) if j != i and not math.isnan(b)]
        if math.isnan(a): assert math.isnan(got[i])
        elif not others: assert got[i] == .5
        else: assert got[i] == pytest.approx(sum((b > a if high else b < a) + (b == a)/2 for b in others)/len(others))

# detection

def auc_in_a_loop(q, t):
    "Of all pairs of a wrong and a right label, the share in which the wrong one has the lower quality; a tie is half"
    return np.mean([(a < b) + (a == b)/2 for a in q[t] for b in q[~t]])

def average_precision_in_a_loop(q, t):
    "Sum over the thresholds of the precision times what the recall has grown"
    total,recall = 0.,0.
    for threshold in sorted(set(q)):
        flagged = q <= threshold
        total,recall = total + t[flagged].mean()*(t[flagged].sum()/t.sum() - recall),t[flagged].sum()/t.sum()
    return total

truth_and_quality = st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=40).filter(lambda v: 0 < sum(t for t,_ in v) < len(v))

@settings(max_examples=100, deadline=None)
@given(truth_and_quality, st.floats(0, 1))
def test_detection_metrics(pairs, threshold):
    t,q = np.array([a for a,_ in pairs]),np.array([b/6 for _,b in pairs])
    with np.errstate(divide='ignore'): logits = np.log(q) - np.log(1 - q) # 0 and 1 become infinite
    for values in (q, logits):
        assert roc_auc(values, t) == pytest.approx(auc_in_a_loop(values, t))
        assert average_precision(values, t) == pytest.approx(average_precision_in_a_loop(values, t))
    flagged,hits = sum(q < threshold),sum((q < threshold) & t)
    expected = hits/flagged if flagged else 0., hits/sum(t), 2*hits/(flagged + sum(t))
    assert precision_recall_f1(q, t, threshold) == pytest.approx(expected)

def test_detection_of_many():
    rng = np.random.default_rng(0)
    t = rng.random(5000) < .3
    q = rng.normal(size=5000) - t
    assert roc_auc(q, t) == pytest.approx(skm.roc_auc_score(t, -q)) and average_precision(q, t) == pytest.approx(skm.average_precision_score(t, -q))
    assert type(roc_auc(q, t)) is float and type(average_precision(q, t)) is float

def test_unseen_samples_are_left_out():
    q,t = [.1, math.nan, .4, .3, math.nan],[True, True, False, True, False]
    assert roc_auc(q, t) == 1. and average_precision(torch.tensor(q), torch.tensor(t)) == 1. and precision_recall_f1(q, t, .35) == (1., 1., 1.)

def test_detection_table():
    frame = pd.DataFrame(dict(sample_id=range(4), bad_quality=[.9, .8, .1, .2], good_quality=[.1, .6, .2, .9], none_quality=[math.nan]*4))
    table = detection_table(frame, [True, False, True, False])
    assert table.index.tolist() == ['good', 'bad', 'none'] and table.index.name == 'score'
    assert table.loc['good'].tolist() == pytest.approx([1., 1., 1., 1., 1.]) # threshold: half of the labels are wrong
    assert table.loc['bad'].tolist()[2:] == pytest.approx([.5, .5, .5]) and table.loc['none'].isna().all()
    assert detection_table(frame, [True, False, True, False], threshold=.15).recall['good'] == .5

@pytest.mark.parametrize('call, match', [
    (lambda: roc_auc([.1, .2, .3], [True, True, True]), '3 wrong labels among the 3'),
    (lambda: average_precision([.1, .2], [False, False]), '0 wrong labels among the 2'),
    (lambda: precision_recall_f1([.1, np.nan], [False, True], .5), '0 wrong labels among the 1'),
    (lambda: roc_auc([.1, .2, .3], [True, False]), 'one value of each per sample')])
def test_mistakes(call, match):
    with pytest.raises(ValueError, match=match): call()

"The audit with planted errors, from files to files."
import numpy as np, pandas as pd, pytest
from fastai.learner import load_learner
from sklearn.datasets import load_breast_cancer
from fastnoisy.audit.planted import planted_share
from fastnoisy.audit.run import audit

@pytest.fixture(scope='module')
def source(tmp_path_factory):
    "A table of 240 rows, one label in eight wrong"
    x,y = load_breast_cancer(return_X_y=True)
    rng = np.random.default_rng(0)
    wrong = rng.random(240) < .125
    table = pd.DataFrame(x[:240,:6], columns=list('abcdef'))
    table['label'] = np.where(np.where(wrong, 1 - y[:240], y[:240]) == 1, 'benign', 'malignant')
    file = tmp_path_factory.mktemp('table')/'table.csv'
    table.to_csv(file, index=False)
    return file,table

def test_nothing_planted_reaches_a_file(source, tmp_path, capsys):
    file,table = source
    before = file.read_bytes()
    report = audit(csv=file, epochs=8, device='cpu', out=tmp_path/'out') # it is what an audit does
    said = capsys.readouterr().out
    assert 'Training 1 of 3' in said and 'labels broken on purpose the list finds' in said
    assert file.read_bytes() == before
    issues = pd.read_csv(tmp_path/'out/issues.csv').sort_values('row')
    assert issues.given_label.tolist() == table.label.tolist() == report.sort_values('row').given_label.tolist()
    assert report.source == 'planted' and 0 <= report.interval[0] <= report.noise_rate <= report.interval[1] <= 1
    assert report.is_label_issue.sum() == (report.suggested_label != report.given_label).sum()
    learn = load_learner(tmp_path/'out/learner.pkl')
    assert not hasattr(learn, 'planted') or learn.planted.share == 0

def test_too_little_training_is_said(source, tmp_path):
    report = audit(csv=source[0], epochs=1, device='cpu', out=tmp_path/'out', plant=.02)
    assert 'only 5 errors could be planted' in report.summary() and not report.is_label_issue.any()
    assert np.isnan(report.noise_rate)

def test_a_share_that_cannot_be(source, tmp_path):
    with pytest.raises(ValueError, match='plant=0.7'): audit(csv=source[0], out=tmp_path/'out', plant=.7, device='cpu')
    assert not (tmp_path/'out').exists()

def test_when_errors_are_planted(source, tmp_path, capsys):
    "With 200 training samples; or where it is asked for, but not with --fast"
    assert [planted_share(None, n) for n in (199, 200, 10**6)] == [0, .1, .1]
    assert [planted_share(o, n) for o in (0, .3) for n in (20, 10**6)] == [0, 0, .3, .3]
    report = audit(csv=source[0], epochs=1, device='cpu', out=tmp_path/'out', plant=0)
    assert 'of 3' not in capsys.readouterr().out and report.source != 'planted'
    assert '1 of the 3 epochs' in report.summary() and not report.is_label_issue.any()
    few = tmp_path/'few.csv'
    source[1].head(199).to_csv(few, index=False)
    report = audit(csv=few, epochs=1, device='cpu', out=tmp_path/'few')
    assert 'of 3' not in capsys.readouterr().out and 'fewer than 200 samples' in report.summary()

def test_one_training_has_calibrated_probabilities(source, tmp_path):
    report = audit(csv=source[0], epochs=8, device='cpu', out=tmp_path/'out', plant=0)
    assert report.source == 'training dynamics' and 'was not measured (--plant .1 does it)' in report.summary()
    assert report.noise_rate == pytest.approx(report.noise_probability.mean()) and abs(report.noise_rate - .125) < .1

def test_what_is_flagged_is_above_the_threshold(source, tmp_path):
    counts = []
    for t in (.5, .9):
        report = audit(csv=source[0], epochs=8, device='cpu', out=tmp_path/'out', threshold=t)
        assert report.source == 'planted' and (report.noise_probability[report.is_label_issue] > t).all()
        counts.append(int(report.is_label_issue.sum()))
    assert counts[0] > counts[1]

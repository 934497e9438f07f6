"What goes wrong in real trainings, for every method: the right result or one clear error, and the Learner as before."
from pathlib import Path
import numpy as np, pytest, torch
from torch import nn
from fastai.basics import CrossEntropyLossFlat, Callback, L, Learner, accuracy, load_learner
from fastai.callback.core import CancelFitException, CancelStepException, CancelTrainException
from fastai.callback.mixup import MixUp
from fastai.callback.progress import ProgressCallback
from fastai.callback.tracker import SaveModelCallback
from fastai.data.core import DataLoaders, TfmdDL
from fastnoisy.all import *
from fastnoisy.core.method import MethodCallback, SampleCallback
from fastnoisy.noise.label_noise import LabelNoise
from helpers import K, LR, N, linear, make, make_dls, methods_of, weights_of
from settings import battery, setting
WARNINGS = 'KNNCorrection','BMMFilter','TwoModelConfidence','Saved file'
pytestmark = [pytest.mark.filterwarnings(*(f'ignore:{o}' for o in WARNINGS))]

@pytest.fixture(params=battery())
def method(request): return request.param

def snapshot(learn):
    return dict(loss_func=learn.loss_func, model=learn.model, dls=learn.dls, loaders=list(learn.dls.loaders),
                metrics=list(learn.metrics), cbs=list(learn.cbs),
                names={o for o in vars(learn) if o not in ('opt', '_xb', 'resume_point')},
                reduction=getattr(learn.loss_func, 'reduction', None),
                autocast=torch.is_autocast_enabled('cpu'), grad=torch.is_grad_enabled())

def assert_usable(learn, before):
    now = snapshot(learn)
    assert {k: now[k] for k in now if k != 'names'} == {k: before[k] for k in before if k != 'names'}
    assert not {'sample_ids', 'fit_exit', 'sample_loss', 'sample_weight'} & now['names']
    learn.fit(2, LR)
    assert weights_of(learn.model).isfinite().all()
    for cb in learn.cbs:
        if hasattr(cb, 'to_frame'): assert len(cb.to_frame()) == len(learn.dls.train.dataset)

class Fails(Callback):
    "Raise `exc` in the second epoch"
    def __init__(self, exc, event, order=0):
        self.exc,self.order = exc,order
        setattr(self, event, self._raise)
    def _raise(self):
        if self.learn.epoch == 1: raise self.exc

EVENTS = 'before_batch after_loss after_backward after_step after_train after_validate'.split()

@pytest.mark.parametrize('event', EVENTS)
def test_a_callback_fails(method, event):
    learn = make(method)
    before = snapshot(learn)
    for exc,order in ((KeyboardInterrupt, -20), (RuntimeError('of the user'), 70)):
        with pytest.raises((KeyboardInterrupt, RuntimeError)): learn.fit(3, LR, cbs=Fails(exc, event, order))
        assert not any(p.grad is not None and p.grad.any() for p in learn.model.parameters())
    assert_usable(learn, before)

def test_the_loss_fails(method):
    learn = make(method)
    loss_func = learn.loss_func
    class Loss:
        reduction,n = 'mean',0
        def __call__(self, *args):
            self.n += 1
            if self.n == 7: raise RuntimeError('in the loss')
            loss_func.reduction = self.reduction
            try: return loss_func(*args)
            finally: loss_func.reduction = 'mean'
    learn.loss_func = Loss()
    before = snapshot(learn)
    with pytest.raises(RuntimeError, match='in the loss'): learn.fit(2, LR)
    assert_usable(learn, before)

def test_the_data_fail(method):
    learn = make(method)
    before = snapshot(learn)
    learn.fit(1, LR)
    learn.dls.train.dataset.broken = 7
    with pytest.raises(OSError, match='the disk is gone'): learn.fit(2, LR)
    learn.dls.train.dataset.broken = None
    assert_usable(learn, before)

class Spoils(Callback):
    "One sample of a batch in the second epoch is NaN or infinite; `skip`: the step is not taken, as by mixed precision"
    order = -20
    def __init__(self, value, skip): self.value,self.skip,self.now = value,skip,False
    def before_batch(self):
        self.now = self.training and self.epoch == 1 and self.iter == 1
        if self.now:
            x = self.x.clone()
            x[3] = self.value
            self.learn.xb = (x,)
    def before_step(self):
        if self.now and self.skip: raise CancelStepException

@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_a_step_with_nan_that_is_skipped_spoils_nothing(method, value):
    learn = make(method)
    learn.fit(3, LR, cbs=Spoils(value, True))
    assert weights_of(learn.model).isfinite().all()
    learnt = {**setting(method).moves(learn), **setting(method).keeps(learn)}
    for name,v in learnt.items(): assert v.isfinite().all(), name
    raw = learn.dynamics.scores().isna().any(axis=1)
    assert raw.sum() <= 1 # the sample itself

@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_a_step_with_nan_that_is_taken(method, value, tmp_path):
    "The model is lost, as without fastnoisy; what was saved before is not"
    learn = make(method, path=tmp_path)
    learn.fit(1, LR)
    learn.save('good')
    before = snapshot(learn)
    try: learn.fit(3, LR, cbs=Spoils(value, False))
    except ValueError as e: assert 'NaN' in str(e)
    learn.load('good')
    assert_usable(learn, before)
    for name,v in setting(method).keeps(learn).items(): assert v.isfinite().all(), name

def test_batches_of_one(method):
    learn = make(method, make_dls(bs=1))
    assert_usable(learn, snapshot(learn))

def test_last_batch_of_one_with_batchnorm(method):
    "An error of PyTorch, as without fastnoisy"
    learn = make(method, make_dls(65), linear(norm=True))
    before = snapshot(learn)
    with pytest.raises(ValueError, match='Expected more than 1 value per channel'): learn.fit(1, LR)
    learn.dls.train.drop_last = True
    assert_usable(learn, before)

def test_batches_of_one_class(method):
    learn = make(method, make_dls(shuffle=False, sort=True, bs=8))
    assert_usable(learn, snapshot(learn))

@pytest.mark.parametrize('all_wrong', [True, False])
def test_all_labels_wrong_or_none(method, all_wrong):
    dls = make_dls()
    y = dls.train.dataset.y
    dls.noise = LabelNoise(y, (y + 1) % K if all_wrong else y, K)
    if all_wrong: dls.train.dataset.y = (y + 1) % K
    learn = make(method, dls)
    assert_usable(learn, snapshot(learn))
    assert len(learn.noise_report()) == N

def test_fewer_samples_than_a_batch(method):
    learn = make(method, make_dls(12))
    before = snapshot(learn)
    assert_usable(learn, before)
    learn.dls.train.drop_last = True
    says = 'no batch.*12 samples.*16'
    if 'mask' in setting(method).acts: says += '|leave no full batch.*smaller batch'
    with pytest.raises(ValueError, match=says): learn.fit(1)
    learn.dls.train.drop_last = False
    assert_usable(learn, before)

def test_added_twice(method):
    learn = make(method)
    before = snapshot(learn)
    own,_ = methods_of(method)
    with pytest.raises(ValueError, match='added twice'): learn.fit(1, cbs=own)
    for cb in own: # fastai has taken the attribute away with the second one
        setattr(learn, cb.name, next(o for o in learn.cbs if o.name == cb.name))
    assert_usable(learn, before)

def test_callbacks_in_any_order(method):
    cbs,_ = methods_of(method)
    results = []
    n = len(cbs) + 1
    for order in (range(n), reversed(range(n)), np.random.default_rng(0).permutation(n)):
        learn = make(method)
        own = [cb for cb in learn.cbs if isinstance(cb, MethodCallback)]
        learn.remove_cbs(own)
        everybody = [*own, Callback() if setting(method).mixup else MixUp(.4)]
        for i in order: learn.add_cb(everybody[i])
        torch.manual_seed(3)
        learn.fit(2, LR)
        results.append(weights_of(learn.model))
    assert all(torch.equal(results[0], o) for o in results)

def test_other_data_between_fits(method):
    learn = make(method)
    learn.fit(1, LR)
    before = snapshot(learn)
    dls,learn.dls = learn.dls,make_dls(48)
    with pytest.raises(ValueError, match='64.*48.*use a new'): learn.fit(1)
    learn.dls = dls
    assert_usable(learn, before)

def test_other_classes_between_fits(method):
    "What knows the classes or the model says so; the rest learns the new ones"
    learn = make(method)
    learn.dls.vocab = list('abc')
    learn.fit(2, LR)
    model,dls = learn.model,learn.dls
    learn.dls,learn.model,learn.opt = make_dls(k=4),linear(4),None
    learn.dls.vocab = list('abcd')
    refusal = setting(method).other_classes
    if refusal:
        with pytest.raises(ValueError, match=refusal): learn.fit(1)
    else: learn.fit(1)
    learn.dls,learn.model,learn.opt = dls,model,None
    assert_usable(learn, snapshot(learn))

def test_other_labels_between_fits():
    learn = make('also+knn')
    learn.fit(2, LR)
    dls,learn.dls = learn.dls,make_dls()
    learn.dls.train.dataset.y = (learn.dls.train.dataset.y + 1) % K
    with pytest.raises(ValueError, match='not those of the last look: use a new'): learn.fit(1)
    learn.dls = dls
    assert_usable(learn, snapshot(learn))

def test_disk_full_while_a_checkpoint_is_written(method, tmp_path, monkeypatch):
    learn = make(method, path=tmp_path)
    learn.fit(1, LR, cbs=SaveModelCallback(every_epoch=True, with_opt=True))
    old = (tmp_path/'models/model_0.pth').read_bytes()
    before = snapshot(learn)
    def full(state, file, **kwargs):
        Path(file).write_bytes(b'half of it')
        raise OSError(28, 'No space left on device')
    with monkeypatch.context() as m, pytest.raises(OSError, match='No space left'):
        m.setattr(torch, 'save', full)
        learn.fit(1, LR, cbs=SaveModelCallback(every_epoch=True, with_opt=True))
    assert [o.name for o in (tmp_path/'models').iterdir()] == ['model_0.pth']
    assert (tmp_path/'models/model_0.pth').read_bytes() == old
    learn.load('model_0')
    assert_usable(learn, before)

def test_report_on_a_disk_that_cannot_be_written(method, tmp_path, monkeypatch):
    learn = make(method)
    learn.fit(2, LR)
    before,report = snapshot(learn),learn.noise_report()
    import builtins, io
    def read_only(*args, **kwargs): raise OSError(30, 'Read-only file system')
    for write in (report.to_csv, report.to_html):
        with monkeypatch.context() as m, pytest.raises(OSError, match='Read-only'):
            def page(self, path): Path(path).write_text('page') # it is made elsewhere
            if write == report.to_html: m.setattr(type(report), 'to_html', page)
            m.setattr(io, 'open', read_only)
            m.setattr(builtins, 'open', read_only)
            getattr(report, write.__name__)(tmp_path/'report')
    assert report.to_csv().count('\n') == N + 1
    assert_usable(learn, before)

def test_filtered_batches_of_one_are_left_out():
    "33 of 64 samples are kept: BatchNorm could not take the last of them alone"
    class Keeps(MethodCallback):
        name = 'keeps'
        def keep_samples(self): return np.arange(N) < 33
    for dls in (make_dls(), make_dls(shuffle=False)):
        learn = make('also', dls, linear(norm=True), cbs=[Keeps()])
        learn.fit(1, LR)
        assert learn.dynamics.to_frame().seen.sum() == 32

class Looks(Callback):
    "Calls `look` at the end of each epoch, when the Recorder has its row; a user's habit"
    order = 60
    def __init__(self, look): self.look,self.within = look,False
    def after_epoch(self):
        if self.within: return # it calls this event too
        self.within = True
        getattr(self.learn, self.look)()
        self.within = False

@pytest.mark.parametrize('look', ['validate', 'get_preds'])
def test_a_look_within_a_fit_changes_nothing(method, look):
    "Neither the training nor the columns of the Recorder, and no method begins anew"
    def trained(*cbs):
        learn = make(method)
        learn.add_cbs(cbs)
        torch.manual_seed(3)
        columns = []
        learn.logger = columns.append
        learn.fit(3, LR)
        return learn,[len(o) for o in columns]
    (plain,columns),(learn,others) = trained(),trained(Looks(look))
    assert torch.equal(weights_of(learn.model), weights_of(plain.model))
    assert {*others} <= {*columns}

class CancelsFit(Callback):
    "After the second batch"
    order,run_valid = 30,False
    def after_batch(self):
        if self.iter == 1: raise CancelFitException

def test_report_after_a_fit_that_ended_in_its_first_epoch(method):
    "What a method has seen of a part of the samples is told, or it has nothing to say yet; the report is made"
    learn = make(method, cbs=[CancelsFit()])
    learn.fit(2, LR)
    assert len(learn.noise_report()) == len(learn.dls.train.dataset)

class CancelsTrain(Callback):
    "Before any method has begun the epoch"
    order = -20
    def before_train(self):
        if self.epoch == 0: raise CancelTrainException

def test_an_epoch_that_is_cancelled_at_its_start(method):
    learn = make(method, cbs=[CancelsTrain()])
    learn.fit(3, LR)
    assert weights_of(learn.model).isfinite().all() and len(learn.noise_report()) == N

def test_export_after_ctrl_c(method, tmp_path):
    learn = make(method, path=tmp_path)
    before = snapshot(learn)
    with pytest.raises(KeyboardInterrupt): learn.fit(3, LR, cbs=Fails(KeyboardInterrupt, 'after_backward', 70))
    learn.logger = print # a lambda cannot be pickled
    learn.export('x.pkl')
    x = learn.dls.valid.dataset.x[:16]
    with torch.no_grad(): assert torch.equal(load_learner(tmp_path/'x.pkl').model.eval()(x), learn.model.eval()(x))
    learn.logger = lambda *_: None
    learn.model.train()
    assert_usable(learn, before)

def test_an_empty_validation_set(method):
    "Trained all the same, or a sentence that says what needs it"
    dls = make_dls()
    empty = dls.valid.new(dls.valid.dataset.new_empty())
    learn = make(method, DataLoaders(dls.train, empty))
    learn.metrics = []
    try: learn.fit(2, LR)
    except ValueError as e: assert 'valid' in str(e)
    else: assert weights_of(learn.model).isfinite().all()

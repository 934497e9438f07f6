"The core: what it computes, what it leaves alone, and what it can be combined with."
import copy, subprocess, sys
import numpy as np, pytest, torch
from torch import nn
import torch.nn.functional as F
from fastai.basics import (Callback, CancelFitException, CrossEntropyLossFlat, DataLoaders, L, Learner, MSELossFlat, BCEWithLogitsLossFlat,
                           LabelSmoothingCrossEntropy, LabelSmoothingCrossEntropyFlat, TfmdDL, accuracy, load_learner)
from fastai.callback.data import CollectDataCallback
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.schedule import fit_one_cycle, lr_find, fine_tune
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.interpret import ClassificationInterpretation
from fastai.losses import FocalLossFlat
from fastnoisy.core.registry import METHODS, register_method
from fastnoisy.core.sample_loss import Labels, can_unreduce, sample_losses, weighted_loss
from fastnoisy.core.method import MethodCallback, SampleCallback
from helpers import AutocastCPU, Relabel, Spy, Stop, Weigh, image_learner, snapshot
from helpers import blob_dls, blob_learner, blobs, fitted_blobs, small_model, weights_of

class Weigh2(Weigh): name = 'weigh2'

def fitted(cbs=None, n=2, seed=0, dls=None, **kwargs): return fitted_blobs(cbs, n, dls, seed=seed, **kwargs)

# the loss of each sample

@pytest.mark.parametrize('loss_func', [
    CrossEntropyLossFlat(), nn.CrossEntropyLoss(), F.cross_entropy, FocalLossFlat(gamma=1.), LabelSmoothingCrossEntropy(),
    LabelSmoothingCrossEntropyFlat(), lambda pred, y, reduction='mean': F.cross_entropy(pred, y, reduction=reduction),
    lambda pred, y, **kwargs: F.cross_entropy(pred, y, **kwargs)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_sample_losses_one_by_one(loss_func, dtype):
    pred,y = torch.randn(5, 3, dtype=dtype),torch.tensor([0, 1, 2, 2, 0])
    losses = sample_losses(loss_func, pred, y)
    one_by_one = torch.stack([torch.as_tensor(loss_func(pred[i:i+1], y[i:i+1])) for i in range(5)])
    torch.testing.assert_close(losses, one_by_one.as_subclass(torch.Tensor))
    assert losses.dtype == loss_func(pred, y).dtype and type(losses) is torch.Tensor
    assert getattr(loss_func, 'reduction', 'mean') == 'mean'

def test_sample_losses_of_pixels_and_multilabel():
    pred,mask = torch.randn(2, 3, 4, 5),torch.randint(3, (2, 4, 5))
    expected = F.cross_entropy(pred, mask, reduction='none').flatten(1).mean(1)
    torch.testing.assert_close(sample_losses(CrossEntropyLossFlat(axis=1), pred, mask), expected)
    pred,y = torch.randn(4, 3),torch.randint(2, (4, 3)).float()
    expected = F.binary_cross_entropy_with_logits(pred, y, reduction='none').mean(1)
    torch.testing.assert_close(sample_losses(BCEWithLogitsLossFlat(), pred, y), expected)
    torch.testing.assert_close(sample_losses(MSELossFlat(), torch.ones(3, 1), torch.zeros(3, 1)), torch.ones(3))

def test_sample_losses_of_a_loss_that_always_averages():
    class Mean(nn.Module):
        reduction = 'mean'
        def forward(self, pred, y): return F.cross_entropy(pred, y)
    with pytest.raises(TypeError, match="one loss per sample"): sample_losses(Mean(), torch.randn(4, 3), torch.zeros(4).long())

def test_can_unreduce():
    assert can_unreduce(CrossEntropyLossFlat()) and can_unreduce(F.cross_entropy) and can_unreduce(lambda p, y, **kw: 0)
    assert not can_unreduce(lambda p, y: 0)

def test_soft_labels_are_the_average_over_hard_ones():
    pred,q = torch.randn(6, 4),torch.rand(6, 4).softmax(1)
    soft = Labels((torch.zeros(6).long(),), soft=q).average(lambda y: sample_losses(CrossEntropyLossFlat(), pred, y))
    torch.testing.assert_close(soft, F.cross_entropy(pred, q, reduction='none'))

# the weighted loss

@pytest.mark.parametrize('kwargs', [dict(), dict(reduction='sum'), dict(weight=torch.tensor([1., 5., .2])), dict(ignore_index=2)])
def test_weighted_loss_keeps_the_learners_scale(kwargs):
    loss_func,pred,y = CrossEntropyLossFlat(**kwargs),torch.randn(7, 3, requires_grad=True),torch.tensor([0, 1, 2, 2, 0, 1, 1])
    own,losses = loss_func(pred, y),sample_losses(loss_func, pred, y)
    loss = weighted_loss(losses, torch.ones(7), own, reduction=loss_func.reduction)
    torch.testing.assert_close(loss, own.as_subclass(torch.Tensor))
    a,b = torch.autograd.grad(loss, pred, retain_graph=True)[0],torch.autograd.grad(own, pred)[0]
    torch.testing.assert_close(a, b.as_subclass(torch.Tensor))

def test_weighted_loss_is_the_weighted_mean():
    losses,w = torch.rand(8),torch.rand(8)
    torch.testing.assert_close(weighted_loss(losses, w, losses.mean()), (losses*w).sum()/8)

@pytest.mark.parametrize('reduction, scale', [('mean', 1.), ('sum', 4.)])
def test_weighted_loss_where_losses_vanish_or_cancel(reduction, scale):
    zero = torch.zeros(4)
    assert weighted_loss(zero, torch.ones(4), zero.mean(), reduction=reduction) == 0
    cancel = torch.tensor([1., -1., 2., -2.])
    w = torch.tensor([1., 0., 0., 0.])
    torch.testing.assert_close(weighted_loss(cancel, w, cancel.mean(), reduction=reduction), torch.tensor(scale/4))

# in a fit

def test_core_alone_is_plain_training_bit_for_bit():
    plain,with_core = fitted(),fitted(SampleCallback())
    assert torch.equal(weights_of(plain.model), weights_of(with_core.model))
    assert plain.recorder.values == with_core.recorder.values

def test_core_takes_nothing_from_the_global_streams():
    def after(cbs):
        fitted(cbs)
        return torch.rand(3).tolist()
    assert after(None) == after(SampleCallback())

def test_weights_of_one_are_plain_training():
    plain,ones = fitted(),fitted(Weigh(torch.ones_like))
    torch.testing.assert_close(weights_of(plain.model), weights_of(ones.model), rtol=1e-4, atol=1e-5)

def test_values_on_the_learner():
    spy,dls = Spy(),blob_dls()
    fitted([Weigh(lambda ids: 1 + ids % 2), spy], dls=dls)
    assert sorted(torch.cat([o['sample_ids'] for o in spy.seen]).tolist()) == sorted([*range(96)]*2)
    for o in spy.seen:
        losses = F.cross_entropy(o['pred'], o['y'], reduction='none')
        weight = 1. + o['sample_ids'] % 2
        assert o['y'].tolist() == [dls.train.dataset[i][1] for i in o['sample_ids'].tolist()]
        torch.testing.assert_close(o['sample_loss'], losses)
        torch.testing.assert_close(o['sample_weight'], weight)
        torch.testing.assert_close(o['loss_grad'].as_subclass(torch.Tensor), (weight*losses).mean())
        torch.testing.assert_close(o['loss'].as_subclass(torch.Tensor), losses.mean()) # what is shown stays the user's own

def test_two_methods_multiply():
    both = fitted([Weigh(lambda ids: 1 + ids % 2), Weigh2(lambda ids: 1 + ids % 3)])
    product = fitted(Weigh(lambda ids: (1 + ids % 2)*(1 + ids % 3)))
    torch.testing.assert_close(weights_of(both.model), weights_of(product.model))

def test_weight_zero_is_not_learnt():
    "Samples of weight 0 might as well have any label"
    _,y = blobs()
    wrong = torch.where(torch.arange(96) % 2 == 0, y, (y+1) % 3)
    run = lambda labels: weights_of(fitted(Weigh(lambda ids: ids % 2 == 0), dls=blob_dls(labels=labels)).model)
    torch.testing.assert_close(run(y), run(wrong))

def test_hard_labels_in_force():
    _,y = blobs()
    new = (y+1) % 3
    torch.testing.assert_close(weights_of(fitted(Relabel(new)).model), weights_of(fitted(dls=blob_dls(labels=new)).model))

def test_soft_labels_in_force():
    _,y = blobs()
    one_hot = F.one_hot(y).float()
    torch.testing.assert_close(weights_of(fitted(Relabel(one_hot)).model), weights_of(fitted().model), rtol=1e-4, atol=1e-5)
    uniform = fitted(Relabel(torch.full((96, 3), 1/3)), n=8)
    assert uniform.get_preds()[0].max() < fitted(n=8).get_preds()[0].max() - .2 # a model that was told nothing is unsure

def test_soft_labels_are_what_is_back_propagated():
    q,spy = (torch.rand(96, 3, generator=torch.Generator().manual_seed(1))*3).softmax(1),Spy()
    fitted([Relabel(q), spy])
    for o in spy.seen:
        torch.testing.assert_close(o['loss_grad'].as_subclass(torch.Tensor), F.cross_entropy(o['pred'], q[o['sample_ids']]))

def test_soft_labels_keep_class_weights():
    _,y = blobs()
    loss_func = lambda: CrossEntropyLossFlat(weight=torch.tensor([1., 5., .2]))
    a,b = fitted(Relabel(F.one_hot(y).float()), loss_func=loss_func()),fitted(loss_func=loss_func())
    torch.testing.assert_close(weights_of(a.model), weights_of(b.model), rtol=1e-4, atol=1e-5)

@pytest.mark.parametrize('method, error', [
    (Weigh(lambda ids: torch.ones(3)), 'not one weight per sample'),
    (Relabel(torch.zeros(96, 2, 2).long()), 'targets of shape')])
def test_methods_that_give_the_wrong_shape(method, error):
    with pytest.raises(ValueError, match=error): fitted(method)

# composition

def test_mixup_weights_of_one_are_mixup():
    a,b = fitted(MixUp(.4)),fitted([MixUp(.4), Weigh(torch.ones_like)])
    torch.testing.assert_close(weights_of(a.model), weights_of(b.model), rtol=1e-4, atol=1e-5)
    assert torch.equal(weights_of(a.model), weights_of(fitted([MixUp(.4), SampleCallback()]).model))

def test_mixup_blends_the_loss():
    spy,mix = Spy(),MixUp(.4)
    class Check(Callback):
        order = 21
        def after_loss(self):
            if not self.training: return
            o = spy.seen[-1]
            a,b = (F.cross_entropy(o['pred'], y, reduction='none') for y in (self.yb[0], mix.yb1[0]))
            torch.testing.assert_close(o['sample_loss'], mix.lam*a + (1-mix.lam)*b)
    fitted([mix, Weigh(lambda ids: 1 + ids % 2), spy, Check()])
    assert len(spy.seen) == 12

def test_cutmix_weights_of_one_are_cutmix():
    def run(cbs):
        learn = image_learner(cbs)
        with learn.no_bar(): learn.fit(2, 1e-2)
        return weights_of(learn.model)
    torch.testing.assert_close(run([CutMix(1.)]), run([CutMix(1.), Weigh(torch.ones_like)]), rtol=1e-4, atol=1e-5)

@pytest.mark.parametrize('cb', [lambda: GradientAccumulation(48), lambda: GradientClip(.1), AutocastCPU,
                                lambda: MixedPrecision('bf16')])
def test_weights_of_one_change_nothing(cb):
    torch.testing.assert_close(weights_of(fitted([cb(), Weigh(torch.ones_like)]).model), weights_of(fitted(cb()).model), rtol=1e-3, atol=1e-4)
    assert torch.equal(weights_of(fitted([cb(), SampleCallback()]).model), weights_of(fitted(cb()).model))

@pytest.mark.parametrize('loss_func', [LabelSmoothingCrossEntropyFlat, lambda: FocalLossFlat(gamma=2.), lambda: CrossEntropyLossFlat(reduction='sum')])
def test_other_losses(loss_func):
    a,b = fitted(loss_func=loss_func()),fitted(Weigh(torch.ones_like), loss_func=loss_func())
    torch.testing.assert_close(weights_of(a.model), weights_of(b.model), rtol=1e-3, atol=1e-4)

def test_gradient_accumulation_adds_weighted_micro_batches():
    "Two micro-batches of 16 are one batch of 32 with the same weights (without BatchNorm and dropout)"
    def run(bs, cbs):
        dls = blob_dls(bs=bs)
        dls.train.rng.seed(3)
        learn = Learner(dls, nn.Linear(4, 3), loss_func=CrossEntropyLossFlat(), cbs=[Weigh(lambda ids: ids % 3)] + cbs)
        nn.init.constant_(learn.model.weight, .1), nn.init.constant_(learn.model.bias, 0.)
        with learn.no_bar(): learn.fit(1, 1e-2)
        return weights_of(learn.model)
    torch.testing.assert_close(run(16, [GradientAccumulation(32)]), run(32, []), rtol=1e-4, atol=1e-5)

def test_a_penalty_of_another_callback_stays():
    "What a callback adds to loss_grad after us is back-propagated too"
    class Penalty(Callback):
        def after_loss(self): self.learn.loss_grad = self.learn.loss_grad + 10*sum((p**2).sum() for p in self.model.parameters())
    norm = lambda cbs: weights_of(fitted(cbs, n=6).model).norm()
    assert norm([Weigh(torch.ones_like), Penalty()]) < norm([Weigh(torch.ones_like)]) - .1

def test_fit_twice_lr_find_fine_tune_and_the_rest(learner, tmp_path):
    learn = learner(Weigh(lambda ids: 1 + ids % 2))
    learn.fit(1, 1e-2)
    learn.fit_one_cycle(1, 1e-2)
    before = weights_of(learn.model)
    assert learn.lr_find(show_plot=False, num_it=10).valley > 0
    assert torch.equal(before, weights_of(learn.model))
    learn.fine_tune(1)
    assert len(learn.validate()) == 2
    preds,targs = learn.get_preds()
    assert preds.shape == (48, 3) and torch.equal(targs, blobs(48, seed=1)[1])
    assert learn.get_preds(ds_idx=0, with_loss=True)[2].shape == (96,)
    interp = ClassificationInterpretation.from_learner(learn)
    assert interp.confusion_matrix().sum() == 48
    assert len(learn.cbs) == 4 and not hasattr(learn, 'sample')

def test_validation_is_the_users_own():
    learn = fitted(Weigh(lambda ids: 0*ids))
    train_loss,valid_loss,_ = learn.recorder.values[-1]
    preds,targs = learn.get_preds()
    assert valid_loss == pytest.approx(F.nll_loss(preds.log(), targs).item(), rel=1e-5)
    assert train_loss > .1 # the training loss that is shown is not weighted either

def test_export_opens_without_fastnoisy(learner, tmp_path):
    learn = learner(Weigh(lambda ids: 1 + ids % 2))
    learn.fit(1, 1e-2)
    learn.export('m.pkl')
    assert isinstance(learn.weigh, Weigh) and learn.weigh in learn.cbs
    x = blobs(4)[0]
    expected = learn.model.eval()(x)
    torch.save(x, tmp_path/'x.pt')
    code = f'''
import sys, warnings
warnings.simplefilter('ignore')
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == 'fastnoisy': raise ImportError('fastnoisy is not installed here')
sys.meta_path.insert(0, Refuse())
import torch
from fastai.learner import load_learner
learn = load_learner({str(tmp_path/'m.pkl')!r})
torch.save(learn.model.eval()(torch.load({str(tmp_path/'x.pt')!r})), {str(tmp_path/'out.pt')!r})
assert 'fastnoisy' not in sys.modules
'''
    subprocess.run([sys.executable, '-c', code], check=True, cwd=tmp_path)
    torch.testing.assert_close(torch.load(tmp_path/'out.pt'), expected)

# whatever stops a fit

@pytest.mark.parametrize('exc', [CancelFitException, KeyboardInterrupt, RuntimeError('boom')])
@pytest.mark.parametrize('event', ['before_fit', 'before_batch', 'after_loss', 'after_step', 'before_validate'])
@pytest.mark.parametrize('mix', [False, True])
def test_whatever_stops_a_fit_leaves_the_learner_whole(exc, event, mix):
    learn = blob_learner([Weigh(lambda ids: 1 + ids % 2)] + [MixUp(.4)]*mix)
    learn.fit(1, 1e-2) # so that fastai's own attributes are there
    before = snapshot(learn)
    stop = Stop(event, exc)
    try: learn.fit(2, 1e-2, cbs=stop)
    except BaseException as e: assert type(e) is type(exc) or isinstance(exc, type) and isinstance(e, exc)
    else: assert exc is CancelFitException
    after = snapshot(learn)
    assert {k: v for k,v in before.items() if k != 'attrs'} == {k: v for k,v in after.items() if k != 'attrs'}
    assert after['attrs'] - before['attrs'] <= {'smooth_loss'}
    learn.fit(1, 1e-2)

def test_an_error_in_the_users_loss_or_data():
    calls = []
    def bad(pred, y, reduction='mean'):
        calls.append(1)
        if len(calls) == 5: raise RuntimeError('my loss broke')
        return F.cross_entropy(pred, y, reduction=reduction)
    learn = blob_learner(Weigh(lambda ids: 1 + ids % 2), loss_func=bad)
    with pytest.raises(RuntimeError, match='my loss broke'): learn.fit(1)
    assert learn.loss_func is bad and len(learn.cbs) == 4
    learn.fit(1)

def test_exits_run_in_reverse_order_and_always():
    done = []
    class Exits(MethodCallback):
        name = 'exits'
        def begin_fit(self):
            self.on_fit_end(done.append, 'first')
            self.on_fit_end(done.append, 'second')
    with pytest.raises(KeyboardInterrupt): blob_learner(Exits()).fit(1, cbs=Stop('after_loss', KeyboardInterrupt))
    assert done == ['second', 'first']

# errors before the first batch

def test_errors_before_the_first_batch(learner):
    def no_reduction(pred, y): return F.cross_entropy(pred, y)
    learn = learner(Weigh(torch.ones_like), loss_func=no_reduction)
    with pytest.raises(TypeError, match='reduction'): learn.fit(1)
    learn = learner(Weigh(torch.ones_like))
    learn.dls.loaders[0] = TfmdDL(iter([(torch.zeros(4), 0)]*8), bs=4, num_workers=0)
    with pytest.raises(TypeError, match='iterable data set'): learn.fit(1)
    learn = learner(Weigh(torch.ones_like))
    with pytest.raises(ValueError, match='added twice'): learn.fit(1, cbs=Weigh(torch.ones_like))
    learn.fit(1)

def test_several_processes_that_train_alone_are_refused(learner, monkeypatch):
    learn = learner(Weigh(torch.ones_like))
    with monkeypatch.context() as m, pytest.raises(ValueError, match=r"2 processes have been started, but this one trains alone.*distrib_ctx"):
        m.setenv('WORLD_SIZE', '2')
        learn.fit(1)
    learn.fit(1)

def test_batch_that_does_not_match_its_items(learner):
    learn = learner(Weigh(torch.ones_like))
    learn.dls.loaders[0].after_batch = lambda b: tuple(o[:3] for o in b)
    with pytest.raises(ValueError, match='3 samples but was made of 16 items'): learn.fit(1)

def test_no_targets(learner):
    learn = learner(Weigh(torch.ones_like))
    learn.dls.loaders[0] = TfmdDL(L((o,) for o in blobs()[0]), bs=16, num_workers=0)
    with pytest.raises(ValueError, match='no targets'): learn.fit(1)

# adding, removing, saving

def test_methods_given_to_fit_leave_with_it():
    learn = blob_learner()
    names = [cb.name for cb in learn.cbs]
    learn.fit(1, cbs=Weigh(torch.ones_like))
    assert [cb.name for cb in learn.cbs] == names and not any(hasattr(learn, o) for o in ('weigh', 'sample', 'sample_ids', 'fit_exit'))

def test_callback_class_without_brackets():
    class Ones(MethodCallback):
        name = 'ones'
        def batch_weights(self): return torch.ones_like(self.sample_loss)
    blob_learner(Ones).fit(1)
    blob_learner().fit(1, cbs=Ones)

class Counts(MethodCallback):
    "Remembers something, and shows it"
    name,logged = 'counts',('n_seen',)
    n_seen = 0
    def after_batch(self): self.n_seen += len(self.sample_ids)
    def state_dict(self): return dict(n_seen=self.n_seen, ids=self.sample_ids.cpu() if hasattr(self.learn, 'sample_ids') else torch.zeros(1))
    def load_state_dict(self, sd): self.n_seen = sd['n_seen']

class Keep(MethodCallback):
    "Keeps other samples in every epoch"
    name = 'keep'
    def __init__(self, masks): self.masks = masks
    def keep_samples(self): return self.masks[self.epoch]

class Keep2(Keep): name = 'keep2'

def test_samples_left_out_of_an_epoch():
    masks,ids,lrs = [np.arange(96) % 2 > 0, None, np.arange(96) < 40],[],[]
    class Look(Callback):
        order = 50
        def before_train(self): ids.append([])
        def after_batch(self):
            if self.training: ids[-1] += self.sample_ids.tolist()
        def before_batch(self): lrs.append(self.opt.hypers[-1]['lr']) if self.training else None
    learn = blob_learner([Keep(masks), Look()])
    learn.fit_one_cycle(3, 1e-2)
    assert [sorted(o) for o in ids] == [list(range(1, 96, 2)), list(range(96)), list(range(40))]
    assert len(lrs) == 3 + 6 + 3 # and the schedule ran to its end in fewer steps
    assert lrs[-1] < max(lrs)/4 and lrs[-1] < lrs[-2]
    assert len(learn.dls.train) == 6

def test_several_methods_leave_out():
    learn = blob_learner([Keep([np.arange(96) % 2 > 0]), Keep2([np.arange(96) % 3 > 0])])
    class Look(Callback):
        def after_batch(self): assert not self.training or all(i%2 and i%3 for i in self.sample_ids.tolist())
    learn.fit(1, cbs=Look())
    with pytest.raises(ValueError, match='no full batch'): learn.fit(1, cbs=Keep3([np.arange(96) % 2 == 0]))
    assert not hasattr(learn, 'sample_ids')

class Keep3(Keep): name = 'keep3'

def test_recorder_columns():
    learn = blob_learner(Counts())
    learn.fit(2)
    assert list(learn.recorder.metric_names) == ['epoch', 'train_loss', 'valid_loss', 'accuracy', 'n_seen', 'time']
    assert [v[-1] for v in learn.recorder.values] == [96, 192]
    assert [m.name for m in learn.metrics] == ['accuracy'] and len(learn.validate()) == 2

def test_save_and_load_carry_state(learner, tmp_path):
    learn = learner(Counts())
    learn.fit(1)
    learn.save('m')
    learn.fit(1)
    assert learn.counts.n_seen == 192
    learn.load('m')
    assert learn.counts.n_seen == 96
    fresh = learner(Counts())
    fresh.load('m')
    assert fresh.counts.n_seen == 96
    learn.save('no_opt', with_opt=False)
    learn.fit(1)
    with pytest.warns(UserWarning, match="optimizer state"): learn.load('no_opt')
    assert learn.counts.n_seen == 192 # untouched: there was nothing to load

def test_saved_file_is_readable_without_methods(learner):
    learn = learner(Counts())
    learn.fit(1)
    learn.save('m')
    plain = learner()
    plain.load('m')
    assert torch.equal(weights_of(plain.model), weights_of(learn.model))
    assert len(plain.opt.state_dict()['state']) == len(learn.opt.state_dict()['state'])
    plain.fit(1)

def test_saved_file_with_a_torch_optimizer(learner):
    from fastai.optimizer import OptimWrapper
    from functools import partial
    learn = learner(Counts(), opt_func=partial(OptimWrapper, opt=torch.optim.AdamW))
    learn.fit(1)
    learn.save('m')
    learner(opt_func=partial(OptimWrapper, opt=torch.optim.AdamW)).load('m').fit(1)
    assert learner(Counts(), opt_func=partial(OptimWrapper, opt=torch.optim.AdamW)).load('m').counts.n_seen == 96

def test_lr_find_leaves_state_alone(learner):
    learn = learner(Counts())
    learn.fit(1)
    learn.lr_find(show_plot=False, num_it=8)
    assert learn.counts.n_seen == 96

def test_without_methods_nothing_is_different(learner):
    learn = learner()
    learn.fit(1)
    learn.save('m')
    assert set(torch.load(learn.path/'models/m.pth', weights_only=False)['opt']) == {'state', 'hypers'}

def test_registry():
    assert METHODS['ce'].make() == {}
    register_method('tmp', lambda: dict(cbs=Counts()), 'a test', 'nobody, 2026')
    m = METHODS.pop('tmp')
    assert isinstance(m.make()['cbs'], Counts) and (m.name, m.summary, m.paper) == ('tmp', 'a test', 'nobody, 2026')

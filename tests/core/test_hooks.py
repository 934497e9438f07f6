"The hooks of a method: each against what it is defined to be, by hand or by another route."
import copy
import cloudpickle
import numpy as np, pytest, torch
from torch import nn
import torch.nn.functional as F
from fastai.basics import Callback, CancelStepException, CrossEntropyLossFlat, DataLoaders, L, Learner, MSELossFlat, SGD, TfmdDL, load_learner
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.schedule import lr_find
from fastai.callback.training import GradientAccumulation, GradientClip
from fastnoisy.core.method import MethodCallback, SampleCallback
from fastnoisy.core.learner import MethodLearner
from fastnoisy.core.networks import PeerNetwork
from helpers import Relabel, Weigh, blob_dls, blob_learner, fitted_blobs, image_learner, small_model, weights_of

def same(a, b): assert torch.equal(weights_of(a.model), weights_of(b.model))
def close(a, b): torch.testing.assert_close(weights_of(a.model), weights_of(b.model), rtol=1e-4, atol=1e-5)

class Method(MethodCallback):
    "A method made of functions"
    name = 'made'
    def __init__(self, **hooks):
        for k,f in hooks.items(): setattr(self, f'_{k}', f)

def made(**hooks):
    "A method whose hooks are functions of itself and of the hook's arguments"
    def forwarded(f): return lambda self, *args: f(self, *args)
    return type('Made', (MethodCallback,), {'name': 'made', **{k: forwarded(f) for k,f in hooks.items()}})()

# batch_loss

def test_losses_in_place_of_others():
    "Squared losses are weights of the losses without gradient, but for the factor of the gradient"
    own = fitted_blobs(made(batch_loss=lambda m, losses: 3*losses))
    close(own, fitted_blobs(made(batch_weights=lambda m: torch.full_like(m.sample_loss, 3.))))

def test_losses_of_some_rows():
    rows = lambda m: m.sample_ids % 2 == 0
    some = fitted_blobs(made(batch_loss=lambda m, losses: (0*losses, rows(m))))
    close(some, fitted_blobs(made(batch_weights=lambda m: (~rows(m)).float())))

def test_losses_and_weights_compose():
    both = fitted_blobs([made(batch_loss=lambda m, losses: 2*losses), Weigh(lambda ids: 1 + ids % 3)])
    close(both, fitted_blobs(Weigh(lambda ids: 2*(1 + ids % 3))))

def test_no_losses_change_nothing():
    same(fitted_blobs(made(batch_loss=lambda m, losses: None)), fitted_blobs())

def test_losses_of_the_wrong_shape():
    with pytest.raises(ValueError, match='batch_loss gave shape.*not one loss per sample'): fitted_blobs(made(batch_loss=lambda m, losses: losses[:3]))

# batch_penalty

def penalty(m): return 1e-1*m.pred.float().square().mean()

class InLoss:
    "Cross-entropy with the penalty in it"
    def __init__(self, reduction='mean'): self.reduction = reduction
    def __call__(self, pred, y):
        losses = F.cross_entropy(pred, y, reduction='none')
        if self.reduction == 'none': return losses
        own = losses.mean() + 1e-1*pred.square().mean()
        return own if self.reduction == 'mean' else own*len(y)

@pytest.mark.parametrize('reduction', ['mean', 'sum'])
@pytest.mark.parametrize('cb', [None, lambda: GradientAccumulation(48), lambda: GradientClip(.1)])
def test_a_penalty_is_a_part_of_the_loss(reduction, cb):
    cbs = [cb()] if cb else []
    own = fitted_blobs([made(batch_penalty=penalty), *cbs], loss_func=CrossEntropyLossFlat(reduction=reduction))
    close(own, fitted_blobs(cbs, loss_func=InLoss(reduction)))

def test_a_penalty_leaves_weights_alone():
    own = fitted_blobs([made(batch_penalty=lambda m: 0*m.pred.sum()), Weigh(lambda ids: 1 + ids % 3)])
    close(own, fitted_blobs(Weigh(lambda ids: 1 + ids % 3)))

# soft labels and MixUp

def soft_of(ids): return F.one_hot(ids % 3, 3)*.7 + .1

@pytest.mark.parametrize('mixer', [MixUp])
def test_soft_labels_are_mixed_with_those_of_the_partner(mixer):
    "As if soft labels had been the targets: the loss is linear in the label"
    seen = []
    class Spy(Callback):
        order,run_valid = 20,False
        def after_loss(self):
            mix = self.learn.mix_up
            q = soft_of(self.sample_ids)
            seen.append((self.pred.detach(), q, self.learn.sample.labels.partners, mix.lam, self.learn.sample_loss.detach(), self.loss_grad.detach()))
    fitted_blobs([Relabel(soft_of(torch.arange(96))), mixer(.4), Spy()])
    for pred,q,partners,lam,losses,loss in seen:
        blended = lam[:,None]*q + (1 - lam)[:,None]*q[partners]
        torch.testing.assert_close(losses, -(blended*pred.log_softmax(1)).sum(1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(loss, losses.mean(), rtol=1e-4, atol=1e-5)
    assert len(seen) == 18 and any((o[2] != torch.arange(len(o[2]))).any() for o in seen)

def test_soft_labels_for_targets_in_a_column():
    "(B, 1), as fastai's tables give them: the same training as with (B,)"
    def model_of(y):
        torch.manual_seed(0)
        rows = L(zip(torch.randn(32, 4), y))
        dls = DataLoaders.from_dsets(rows, rows, bs=8, device='cpu', num_workers=0)
        dls.train.rng.seed(0)
        learn = Learner(dls, nn.Linear(4, 3), loss_func=CrossEntropyLossFlat(), cbs=Relabel(soft_of(torch.arange(32))))
        learn.logger = lambda *_: None
        learn.fit(2)
        return learn
    y = torch.arange(32) % 3
    same(model_of(y), model_of(y[:,None]))

def test_soft_labels_with_cutmix():
    y = torch.arange(32) % 2
    soft = F.one_hot(y, 2)*.8 + .1
    learn = image_learner([Relabel(soft), CutMix()])
    learn.fit(1)
    assert weights_of(learn.model).isfinite().all()

# keep_samples for several networks

def test_masks_of_two_networks():
    "What any network keeps is loaded; the model learns from its own part"
    masks = np.stack([np.arange(96) % 3 == 0, np.arange(96) % 2 == 0])
    seen = {}
    def note(m):
        for i,row in zip(m.sample_ids.tolist(), m.learn.sample.network_masks.T.tolist()): seen[i] = row
    own = made(keep_samples=lambda m: masks, batch_weights=note)
    fitted_blobs(own, n=1)
    assert seen == {i: masks[:,i].tolist() for i in np.flatnonzero(masks.any(0))}

def test_what_the_first_network_leaves_out_has_no_weight():
    keep = np.arange(96) % 3 == 0
    a = fitted_blobs(made(keep_samples=lambda m: np.stack([keep, np.ones(96, bool)])))
    b = fitted_blobs(Weigh(lambda ids: torch.as_tensor(keep)[ids]))
    close(a, b)

# training_step

def test_a_training_step_of_its_own():
    def step(m):
        pred = m.model(*m.xb)
        return F.cross_entropy(pred, m.yb[0]), pred
    own,plain = fitted_blobs(made(training_step=step)),fitted_blobs()
    same(own, plain)
    assert own.recorder.losses == plain.recorder.losses

def test_none_is_an_ordinary_step(): same(fitted_blobs(made(training_step=lambda m: None)), fitted_blobs())

@pytest.mark.parametrize('cb', [lambda: GradientAccumulation(48), lambda: GradientClip(.1)])
def test_a_training_step_composes(cb):
    def step(m):
        pred = m.model(*m.xb)
        return F.cross_entropy(pred, m.yb[0]), pred
    same(fitted_blobs([made(training_step=step), cb()]), fitted_blobs([SampleCallback(), cb()]))

def test_a_training_step_excludes_what_it_would_not_use():
    step = made(training_step=lambda m: None)
    with pytest.raises(ValueError, match='has a training step of its own, which Weigh cannot'): fitted_blobs([step, Weigh(torch.ones_like)])
    other = type('Other', (MethodCallback,), dict(name='other', training_step=lambda self: None))()
    with pytest.raises(ValueError, match='Made and Other have a training step'): fitted_blobs([made(training_step=lambda m: None), other])

# extra_optimizer

class Scales(MethodCallback):
    "One factor of the loss per sample, learnt by an optimizer of its own"
    name = 'scales'
    def __init__(self, lr=1.): self.lr,self.u = lr,torch.ones(96)
    def begin_fit(self): self.u.requires_grad_()
    def extra_optimizer(self): return torch.optim.SGD([self.u], lr=self.lr)
    def batch_weights(self): return self.u[self.sample_ids]
    def state_dict(self): return dict(u=self.u.detach().clone())
    def load_state_dict(self, sd): self.u = sd['u'].clone().requires_grad_()

def test_an_optimizer_of_its_own():
    "One step of SGD: u moves by -lr * loss/B of the first epoch's only visit"
    noted = {}
    class Note(Callback):
        order,run_valid = 20,False
        def after_loss(self): noted.update(zip(self.sample_ids.tolist(), (self.sample_loss.detach()/len(self.sample_ids)).tolist()))
    learn = fitted_blobs([Scales(), Note()], n=1)
    expected = torch.tensor([1 - noted[i] for i in range(96)])
    torch.testing.assert_close(learn.scales.u.detach(), expected)

def test_a_skipped_step_is_skipped_for_its_own_optimizer():
    class Skip(Callback):
        order = 20
        def before_step(self): raise CancelStepException
    learn = fitted_blobs([Scales(), Skip()])
    assert torch.equal(learn.scales.u.detach(), torch.ones(96)) and (learn.scales.u.grad is None or not learn.scales.u.grad.any())

def test_lr_find_leaves_its_own_tensors_alone(learner):
    learn = learner(Scales())
    learn.lr_find(num_it=8, show_plot=False)
    assert torch.equal(learn.scales.u.detach(), torch.ones(96))
    learn.fit(1)
    assert (learn.scales.u.detach() != 1).all()

def test_its_own_optimizer_is_saved(tmp_path):
    "With momentum: 2 + 2 epochs over a file are 4"
    class Momentum(Scales):
        def extra_optimizer(self): return torch.optim.SGD([self.u], lr=.1, momentum=.9)
    def make():
        dls = blob_dls(bs=96)
        learn = blob_learner(Momentum(), dls=dls, opt_func=SGD)
        learn.model[3].p,learn.path = 0.,tmp_path
        return learn
    whole = make()
    whole.fit(4, 1e-2)
    first = make()
    first.fit(2, 1e-2)
    first.save('half')
    second = make()
    second.load('half')
    second.fit(2, 1e-2)
    torch.testing.assert_close(second.scales.u, whole.scales.u, rtol=1e-4, atol=1e-5)

# edit_gradients

@pytest.mark.parametrize('cb', [None, lambda: GradientAccumulation(48), lambda: GradientClip(.1)])
def test_edited_gradients(cb):
    "Gradients times three before clipping are those of a loss times three"
    def edit(m):
        for p in m.model.parameters(): p.grad *= 3
    cbs = [cb()] if cb else []
    a = fitted_blobs([made(edit_gradients=edit), *cbs], opt_func=SGD, n=1)
    b = fitted_blobs([Weigh(lambda ids: 3*torch.ones_like(ids)), *cbs], opt_func=SGD, n=1)
    close(a, b)

class FakeScaler:
    "A loss scale without a GPU: what fastai's MixedPrecision does with `learn.scaler`"
    def __init__(self, scale): self.scale_,self.unscaled = scale,set()
    def scale(self, loss): return loss*self.scale_
    def unscale_(self, opt):
        if id(opt) in self.unscaled: return
        self.unscaled.add(id(opt))
        for g in opt.param_groups:
            for p in g['params']:
                if p.grad is not None: p.grad /= self.scale_
    def step(self, opt):
        self.unscale_(opt)
        opt.step()
    def update(self): self.unscaled.clear()
    def get_scale(self): return self.scale_

class ScaledPrecision(MixedPrecision):
    "fastai's mixed precision with a fixed scale, in 32 bits"
    def __init__(self): super().__init__('fp16')
    def before_fit(self): self.autocast,self.learn.scaler,self.scales = torch.autocast('cpu', enabled=False),FakeScaler(1024.),L()

def test_gradients_are_edited_without_the_loss_scale():
    seen = []
    def edit(m): seen.append(sum(p.grad.norm() for p in m.model.parameters()).item())
    for cbs in ([], [ScaledPrecision()]): fitted_blobs([made(edit_gradients=edit), *cbs], n=1)
    scaled,plain = seen[6:],seen[:6]
    np.testing.assert_allclose(scaled, plain, rtol=1e-4)

def test_its_own_optimizer_shares_the_loss_scale():
    a,b = (fitted_blobs([Scales(), *cbs], n=1) for cbs in ([], [ScaledPrecision()]))
    torch.testing.assert_close(a.scales.u, b.scales.u)
    close(a, b)

# peers

def peer_loss(m): return F.cross_entropy(m.peer(m.learn), m.yb[0])

class WithPeer(MethodCallback):
    "A second network that learns by cross-entropy too"
    name = 'with_peer'
    def __init__(self, **kwargs): self.kwargs = kwargs
    def begin_fit(self): self.make_peer(**self.kwargs)
    def batch_penalty(self): return F.cross_entropy(self.peer(self.learn), self.yb[0]) if self.kwargs.get('init') != 'ema' else None
    def state_dict(self): return None if self.peer is None else dict(peer=self.peer.state_dict())
    def load_state_dict(self, sd):
        if self.peer is None: self.peer = PeerNetwork(self.learn, **self.kwargs)
        self.peer.load_state_dict(sd['peer'], self.learn)

def no_dropout(**kwargs):
    model = small_model()
    model[3].p = 0.
    return model

def peer_learner(**kwargs):
    learn = blob_learner(WithPeer(**kwargs))
    learn.model[3].p = 0.
    learn.dls.train.rng.seed(3)
    return learn

def test_a_copy_stays_equal_and_fresh_ones_differ():
    for init,equal in (('copy', True), ('fresh', False)):
        learn = peer_learner(init=init)
        learn.fit(2, 1e-2)
        assert torch.equal(weights_of(learn.model), weights_of(learn.with_peer.peer.model)) == equal, init

def test_a_fresh_peer_leaves_the_model_alone():
    learn,plain = peer_learner(init='fresh'),blob_learner()
    plain.model[3].p = 0.
    plain.dls.train.rng.seed(3)
    for o in (learn, plain): o.fit(2, 1e-2)
    same(learn, plain)

def test_a_fresh_peer_of_a_split_model_keeps_the_body():
    learn = blob_learner(splitter=lambda m: [list(m[:2].parameters()), list(m[2:].parameters())])
    peer = PeerNetwork(learn, init='fresh')
    assert torch.equal(peer.model[0].weight, learn.model[0].weight) and not torch.equal(peer.model[4].weight, learn.model[4].weight)

def test_a_peer_that_is_made_is_not_the_model_that_was_made_with_seed_0():
    def make(): return torch.nn.Linear(4, 3)
    torch.manual_seed(0)
    learn = blob_learner()
    learn.model = make()
    assert not torch.equal(PeerNetwork(learn, make).model.weight, learn.model.weight)

def test_an_average_follows_the_model():
    "Weights after each step, averaged by hand"
    path = []
    class Note(Callback):
        order,run_valid = 40,False
        def after_step(self): path.append(self.model[0].weight.detach().clone())
    learn = peer_learner(init='ema', decay=.9)
    start = learn.model[0].weight.detach().clone()
    learn.fit(2, 1e-2, cbs=Note())
    for w in path: start = .9*start + .1*w
    torch.testing.assert_close(learn.with_peer.peer.model[0].weight, start, rtol=1e-4, atol=1e-6)

def test_a_maker_of_networks():
    learn = peer_learner(model=lambda: small_model(seed=5))
    learn.fit(1)
    assert not torch.equal(weights_of(learn.model), weights_of(learn.with_peer.peer.model))
    with pytest.raises(ValueError, match='init=.*give one of copy, fresh, ema'): peer_learner(init='other').fit(1)

def test_which_network_answers(tmp_path):
    learn = peer_learner(init='fresh')
    learn.path = tmp_path
    learn.fit(2, 1e-2)
    x = torch.stack([o[0] for o in learn.dls.valid.dataset])
    learn.model.eval()
    with torch.no_grad(): logits = [m.eval()(x) for m in (learn.model, learn.with_peer.peer.model)]
    expected = dict(model=logits[0], peer=logits[1], mean=sum(logits)/2)
    for which,z in expected.items():
        learn.predict_model = which
        preds,y = learn.get_preds(act=lambda o: o)
        torch.testing.assert_close(preds, z)
        loss,acc = learn.validate()
        assert acc == pytest.approx((z.argmax(1) == y).float().mean().item())
        learn.export('learn.pkl')
        loaded = load_learner(tmp_path/'learn.pkl')
        assert type(loaded) is Learner
        with torch.no_grad(): torch.testing.assert_close(loaded.model(x), z)
    learn.predict_model = 'both'
    with pytest.raises(ValueError, match="predict_model='both'"): learn.validate()
    plain = blob_learner(Weigh(torch.ones_like))
    plain.predict_model = 'peer'
    with pytest.raises(ValueError, match='no method of this Learner has trained a second network'): plain.validate()

def test_lr_find_forgets_a_peer_that_it_made(learner):
    learn = learner(WithPeer(init='fresh'))
    learn.lr_find(num_it=8, show_plot=False)
    assert learn.with_peer.peer is None
    learn.fit(1)
    before = weights_of(learn.with_peer.peer.model)
    learn.lr_find(num_it=8, show_plot=False)
    assert torch.equal(before, weights_of(learn.with_peer.peer.model))

# tasks

class Losses(MethodCallback):
    name = 'losses'
    def batch_weights(self): return torch.ones_like(self.sample_loss)

def target_learner(y, model=None, loss_func=None, cbs=None):
    x = torch.randn(len(y), 4)
    dls = DataLoaders.from_dsets(L(zip(x, y)), L(zip(x, y)), bs=4, device='cpu', num_workers=0)
    learn = Learner(dls, model or nn.Linear(4, 3), loss_func=loss_func or CrossEntropyLossFlat(), cbs=cbs)
    learn.logger = lambda *_: None
    return learn

@pytest.mark.parametrize('y, kind', [
    (torch.tensor([[0., 1, 1]]*8), 'multi-label'), (torch.rand(8), 'regression'), (torch.zeros(8, 4, 4).long(), 'segmentation'),
    (torch.zeros(8, 5).long(), 'sequence')])
def test_tasks_are_refused_by_name(y, kind):
    learn = target_learner(y, cbs=Losses())
    before = weights_of(learn.model)
    with pytest.raises(TypeError, match=f'{kind} targets are not supported by Losses; .*one class|{kind} targets.*integer class ids'): learn.fit(1)
    assert torch.equal(before, weights_of(learn.model))

def test_a_method_may_allow_more():
    class Any(Losses): tasks = None
    class Numbers(Losses): tasks = 'regression',
    for cb in (Any(), Numbers()): target_learner(torch.rand(8), nn.Linear(4, 1), MSELossFlat(), cb).fit(1)

# the class of the Learner

class Own(Learner):
    "A Learner with a `fit` and a `load` of its own"
    def fit(self, *args, **kwargs):
        self.n_fits = getattr(self, 'n_fits', 0) + 1
        return super().fit(*args, **kwargs)

def test_only_the_learner_with_a_method_changes():
    plain = blob_learner()
    kinds = type(plain),type(blob_learner(Weigh(torch.ones_like)))
    assert kinds[0] is Learner and issubclass(kinds[1], MethodLearner) and issubclass(kinds[1], Learner)
    plain.fit(1)
    assert type(plain) is Learner
    plain.fit(1, cbs=Weigh(torch.ones_like))
    assert isinstance(plain, MethodLearner)

def test_a_sub_class_keeps_what_it_does():
    learn = Own(blob_dls(), small_model(), loss_func=CrossEntropyLossFlat())
    learn.fit(1, cbs=[Weigh(torch.ones_like)])
    learn.fit(1, cbs=[Weigh(torch.ones_like)])
    assert learn.n_fits == 2 and isinstance(learn, Own) and type(learn).__name__ == 'Own'

def test_copies_and_pickles():
    learn = fitted_blobs([Weigh(torch.ones_like)], n=1)
    for again in (copy.deepcopy(learn), cloudpickle.loads(cloudpickle.dumps(learn))):
        assert isinstance(again, MethodLearner)
        same(again, learn)
        again.fit(1)

def test_one_callback_in_two_learners():
    cb = Weigh(torch.ones_like)
    learn = blob_learner(cb)
    with pytest.raises(ValueError, match='This Weigh is in use by another Learner'): blob_learner(cb)
    learn.remove_cb(cb)
    blob_learner(cb).fit(1)

@pytest.mark.parametrize('event', ['after_epoch', 'after_batch'])
def test_validate_within_a_fit_changes_nothing(event):
    "A habit of users: the columns of the Recorder are not doubled, the method is not begun again"
    class Validates(Callback):
        run_valid,order = False,60
        def __init__(self): self.within,_ = False,setattr(self, event, self._validate)
        def _validate(self):
            if self.within: return # validate calls these events too
            self.within = True
            dl = self.learn.dl
            self.learn.validate()
            self.learn.dl,self.within = dl,False
    class Counts(MethodCallback):
        name,logged = 'counts',('n',)
        n = 0
        def begin_fit(self): self.n = self.n + 1
    learn = blob_learner([Counts(), Validates()])
    learn.model[3].p = 0.
    metrics = list(learn.metrics)
    learn.fit(2, 1e-2)
    assert learn.counts.n == 1 and learn.metrics == metrics
    assert learn.recorder.metric_names.count('n') == 1

"ELR against its equations, by hand and in limit cases."
import numpy as np, pytest, torch
import torch.nn.functional as F
from torch import nn
from fastai.basics import Callback, CrossEntropyLossFlat, Learner, SGD
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.schedule import lr_find
from fastai.data.core import DataLoaders, TfmdDL
from fastai.callback.training import GradientAccumulation
from fastnoisy.callback.elr import ELRCallback, clamped, elr_penalty, target_quality
from helpers import Relabel, Weigh, fitted_blobs, image_learner, weights_of

def same(a, b): assert torch.equal(weights_of(a.model), weights_of(b.model))
def close(a, b): torch.testing.assert_close(weights_of(a.model), weights_of(b.model), rtol=1e-4, atol=1e-5)

# equations

def test_penalty_in_a_loop():
    g = torch.Generator().manual_seed(0)
    p,t = torch.rand(8, 4, generator=g).softmax(1),torch.rand(8, 4, generator=g).softmax(1)*.7
    for i in range(8): assert elr_penalty(p, t)[i].item() == pytest.approx(np.log(1 - float(p[i] @ t[i])), rel=1e-5)

def test_gradient_is_the_closed_form():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(8, 4, generator=g, dtype=torch.double).requires_grad_()
    t = torch.rand(8, 4, generator=g, dtype=torch.double).softmax(1)*.9
    p = z.softmax(1)
    got, = torch.autograd.grad(elr_penalty(clamped(p), t).sum(), z)
    inner = (t*p).sum(1, keepdim=True)
    torch.testing.assert_close(got, (-p*(t - inner)/(1 - inner)).detach())

def test_penalty_is_bounded_and_the_gradient_finite():
    for k in (2, 10, 1000):
        z = (1e4*torch.eye(k)[:2]).requires_grad_()
        p = clamped(z.softmax(1))
        loss = elr_penalty(p, p.detach()/p.detach().sum(1, keepdim=True))
        grad, = torch.autograd.grad(loss.sum(), z)
        assert loss.isfinite().all() and loss.min() >= np.log(1e-4) - .1 and grad.isfinite().all()

def test_floors_are_a_hundredth_at_most():
    for k in (3, 100, 10_000): assert clamped(torch.eye(1, k)).sum() < 1.0101
    assert clamped(torch.tensor([[1., 0., 0.]])).tolist()[0] == pytest.approx([.9999, 1e-4, 1e-4])

def test_quality_by_hand():
    t = torch.tensor([[.2, .5, .1], [.6, .1, .1], [0., 0., 0.]])
    got = target_quality(t, torch.tensor([0, 0, -1]))
    assert got[:2].tolist() == pytest.approx([.4, 1.]) and got[2].isnan()

# a model without features: the logits of a sample are free parameters, so that every step has a closed form

class Table(nn.Module):
    def __init__(self, z):
        super().__init__()
        self.z = nn.Parameter(z.clone())
    def forward(self, x): return self.z[x.long()[:,0]]

def free_logits(cb, z, y, epochs, lr=.1):
    "Full batches of SGD on free logits"
    items = list(zip(torch.arange(len(y)).float()[:,None], y))
    dls = DataLoaders(*(TfmdDL(items, bs=len(y), shuffle=False, num_workers=0) for _ in range(2)), device='cpu')
    learn = Learner(dls, Table(z), loss_func=CrossEntropyLossFlat(), opt_func=SGD, cbs=cb, train_bn=False)
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, lr, wd=0.)
    return learn

Z,Y = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)),torch.tensor([0, 1, 2, 0, 1])

@pytest.mark.parametrize('corrected', [False, True])
def test_training_by_hand(corrected):
    "Five steps of equations (1) to (3)"
    lam,beta,lr = 2.,.6,.3
    learn = free_logits(ELRCallback(lam, beta, corrected), Z, Y, 5, lr)
    z,t = Z.double(),torch.zeros(5, 3).double()
    for n in range(1, 6):
        p = z.softmax(1)
        t = beta*t + (1 - beta)*p
        target = t/(1 - beta**n) if corrected else t
        inner = (target*p).sum(1, keepdim=True)
        z = z - lr/5*(p - F.one_hot(Y, 3) - lam*p*(target - inner)/(1 - inner))
    torch.testing.assert_close(learn.model.z.detach().double(), z, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(learn.elr.targets.all().double(), target, rtol=1e-4, atol=1e-5)

@pytest.mark.parametrize('corrected', [False, True])
def test_targets_after_equal_visits(corrected):
    "The model stands still: n visits give 1 - beta^n of its prediction, or all of it"
    learn = free_logits(ELRCallback(corrected=corrected, momentum=.8), Z, Y, 4, lr=0.)
    share = 1. if corrected else 1 - .8**4
    torch.testing.assert_close(learn.elr.targets.all(), share*Z.softmax(1))

# neutral settings

@pytest.mark.parametrize('options', [dict(lam=0), dict(momentum=1.), dict(momentum=1, corrected=True)])
def test_neutral_settings_are_plain_training(options): same(fitted_blobs(ELRCallback(**options)), fitted_blobs())

def test_it_acts():
    assert not torch.equal(weights_of(fitted_blobs(ELRCallback()).model), weights_of(fitted_blobs().model))

def test_lambda_zero_looks_on():
    learn = fitted_blobs(ELRCallback(lam=0))
    assert (learn.elr.targets.visits == 3).all() and (learn.elr.label_quality() <= 1).all()

def test_labels_that_others_put_in_force_do_not_count_as_given():
    labels = torch.zeros(96).long()
    learn = fitted_blobs([ELRCallback(), Relabel(labels)])
    assert learn.elr.to_frame().given_label.tolist() == (torch.arange(96) % 3).tolist()

def test_penalty_is_not_weighed():
    "Weights of zero leave the penalty alone: the predictions of the first epoch are held"
    learn = fitted_blobs([ELRCallback(), Weigh(lambda ids: 0*ids)])
    assert not torch.equal(weights_of(learn.model), weights_of(fitted_blobs(Weigh(lambda ids: 0*ids)).model))

def test_classes_have_no_order():
    order = torch.tensor([2, 0, 1])
    a = free_logits(ELRCallback(), Z, Y, 4, .3)
    b = free_logits(ELRCallback(), Z[:,order.argsort()], order[Y], 4, .3)
    torch.testing.assert_close(a.elr.targets.all(), b.elr.targets.all()[:,order])
    assert (order[torch.as_tensor(a.elr.suggested_labels())].numpy() == b.elr.suggested_labels()).all()

# memory

def test_fewer_classes_and_bits():
    "With all classes kept the packed table trains the same; 16 bits nearly so"
    plain = fitted_blobs(ELRCallback())
    close(plain, fitted_blobs(ELRCallback(top=3)))
    half = fitted_blobs(ELRCallback(half=True))
    assert half.elr.targets.values.dtype == torch.float16
    torch.testing.assert_close(weights_of(half.model), weights_of(plain.model), rtol=.02, atol=2e-3)
    one = fitted_blobs(ELRCallback(top=1)).elr
    assert one.targets.values.shape == (96, 1) and set(one.suggested_labels()) <= {0, 1, 2}
    assert ((one.label_quality() == 1) == (one.suggested_labels() == one.given.all().numpy())).all()

# blends

class Unblended(Callback):
    "Notes the inputs before MixUp"
    order = MixUp.order - 1
    def before_batch(self): self.learn.unblended = self.x.clone()

class ByHand(ELRCallback):
    "Finds the partners in the inputs"
    def batch_penalty(self):
        said = super().batch_penalty()
        mixer,x = self.learn.loss_func.__self__,self.learn.unblended
        share,ids = mixer.lam[:,None],self.sample_ids
        every = share[:,:,None]*x[:,None] + (1 - share[:,:,None])*x[None]
        partner = (every - self.x[:,None]).abs().sum(2).argmin(1)
        t,p = self.targets.all(),self.pred.softmax(1)
        q = share*t[ids] + (1 - share)*t[ids[partner]]
        torch.testing.assert_close(said, self.lam*torch.log(1 - (q*p).sum(1)).mean(), rtol=1e-4, atol=1e-5)
        return said

def test_the_target_of_a_blend_is_the_blend_of_the_targets():
    learn = fitted_blobs([ByHand(), Unblended(), MixUp(.4)])
    assert (learn.elr.targets.visits == 3).all() # fastai's shares are at least a half

def test_a_mixer_that_does_not_say_whom_it_blends():
    class Own(MixUp):
        def before_batch(self):
            super().before_batch()
            self.yb1 = tuple(torch.tensor(o.tolist()) for o in self.yb1)
    with pytest.raises(ValueError, match='Own blends samples in a way of its own'):
        fitted_blobs([ELRCallback(), Own(.4)])

def test_cutmix():
    learn = image_learner([ELRCallback(), CutMix(1.)])
    learn.fit(2, 1e-2)
    visits = learn.elr.targets.visits
    assert weights_of(learn.model).isfinite().all() and (visits <= 2).all() and visits.sum() % 8 == 0

def test_what_has_less_than_half_of_a_blend_is_not_remembered():
    learn = fitted_blobs(ELRCallback())
    elr,visits = learn.elr,learn.elr.targets.visits.clone()
    p = torch.full((4, 3), 1/3)
    elr.learn.sample_ids,elr.y_given = torch.arange(4),torch.zeros(4).long()
    elr.gather_batch = lambda *values: (torch.arange(4), *values)
    elr._remember(p, torch.tensor([[.4], [.5], [.6], [.1]]))
    assert (elr.targets.visits - visits)[:5].tolist() == [0, 1, 1, 0, 0]

# around

def test_lr_find_before_training_remembers_nothing(tmp_path):
    learn = fitted_blobs(ELRCallback(), n=0, path=tmp_path)
    with learn.no_bar(): learn.lr_find(show_plot=False, num_it=5)
    assert learn.elr.targets is None and learn.elr.label_quality() is None and learn.elr.state_dict() is None
    with pytest.raises(ValueError, match='train first'): learn.elr.to_frame()

def test_accumulated_batches_weigh_the_penalty_once():
    "Two half batches of free logits are one whole batch, as every sample has a memory of its own"
    def fitted(bs, cbs):
        items = list(zip(torch.arange(4).float()[:,None], Y[:4]))
        dls = DataLoaders(*(TfmdDL(items, bs=bs, shuffle=False, num_workers=0) for _ in range(2)), device='cpu')
        learn = Learner(dls, Table(Z), loss_func=CrossEntropyLossFlat(), opt_func=SGD, cbs=[ELRCallback(), *cbs])
        with learn.no_bar(), learn.no_logging(): learn.fit(4, .3, wd=0.)
        return learn.model.z.detach()
    torch.testing.assert_close(fitted(2, [GradientAccumulation(4)]), fitted(4, []))

def test_summed_losses():
    class Summed(CrossEntropyLossFlat):
        def __init__(self): super().__init__(reduction='sum')
    summed = fitted_blobs(ELRCallback(), loss_func=Summed(), opt_func=SGD, lr=1e-3/16)
    close(summed, fitted_blobs(ELRCallback(), opt_func=SGD, lr=1e-3))

def test_other_number_of_classes():
    learn = fitted_blobs(ELRCallback())
    learn.model[-1],learn.opt,learn.dls.vocab = nn.Linear(8, 4),None,None
    learn.elr.names = None
    with pytest.raises(ValueError, match='3 classes, and now there are 4.*new ELRCallback'): learn.fit(1)

BAD = [('lam', -1), ('lam', 'x'), ('momentum', 1.5), ('momentum', None), ('top', 0), ('top', 1.5)]

@pytest.mark.parametrize('name, value', BAD)
def test_arguments(name, value):
    with pytest.raises(ValueError, match=f'{name}={value!r}'): ELRCallback(**{name: value})

def test_it_holds_against_wrong_labels():
    "Free logits: a sample that was predicted otherwise before keeps its prediction longer than in plain training"
    z = 4*F.one_hot((Y + 1) % 3, 3).float()
    fits = (free_logits(ELRCallback(lam), z, Y, 60, 1.) for lam in (3., 0.))
    held,plain = (o.model.z.softmax(1).argmax(1) for o in fits)
    assert (plain == Y).all() and (held == (Y + 1) % 3).all()

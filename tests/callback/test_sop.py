"SOP against its equations, by hand and in limit cases."
import math
import numpy as np, pytest, torch
import torch.nn.functional as F
from torch import nn
from fastai.basics import CrossEntropyLossFlat, Learner, SGD
from fastai.callback.mixup import MixUp
from fastai.callback.schedule import lr_find
from fastai.callback.training import GradientAccumulation
from fastai.data.core import DataLoaders, TfmdDL
from fastnoisy.core.views import changed_images
from fastnoisy.callback.sop import SOPCallback, SOPPlusCallback, explained, noise_gradients, paced_rate
from helpers import Relabel, Weigh, fitted_blobs, image_learner, weights_of

def same(a, b): return torch.equal(weights_of(a.model), weights_of(b.model))

# equations

def random(seed, b=8, k=4, scale=1.):
    g = torch.Generator().manual_seed(seed)
    p = torch.rand(b, k, generator=g, dtype=torch.double).mul(4).softmax(1)
    u,v = torch.rand(b, generator=g, dtype=torch.double),torch.rand(b, k, generator=g, dtype=torch.double)
    return p, torch.arange(b) % k, scale*u, scale*v

def test_explained_in_a_loop():
    p,y,u,v = random(0)
    got = explained(p, y, u, v)
    for i in range(len(p)):
        w = [p[i,k] + u[i]**2 if k == y[i] else p[i,k] - v[i,k]**2 for k in range(4)]
        w = [max(float(o), 1e-4) for o in w]
        assert got[i].tolist() == pytest.approx([max(o/sum(w), 1e-4) for o in w])

@pytest.mark.parametrize('scale', [1e-3, .5, 1.])
def test_gradients_are_those_of_the_loss(scale):
    p,y,u,v = random(1, scale=scale)
    u.requires_grad_(), v.requires_grad_()
    label,h = F.one_hot(y, 4),F.one_hot(p.argmax(1), 4)
    q = explained(p, y, u, v.detach())
    U,V = label*(u**2)[:,None],(1 - label)*v**2
    loss = -q.gather(1, y[:,None]).log().sum() + (h + U - V - label).square().sum()
    expected = torch.autograd.grad(loss, (u, v))
    for a,b in zip(noise_gradients(p, y, u.detach(), v.detach()), expected): torch.testing.assert_close(a, b)

def test_growth_of_small_numbers():
    "u by 1 + rate (4 [h != y] + 2/p_y - 2), v of the predicted class by 1 + 4 rate, nothing else grows"
    p,y = torch.tensor([[.6, .3, .1], [.6, .3, .1]]),torch.tensor([0, 1])
    small,rate = 1e-6,.1
    u,v = torch.full((2,), small),torch.full((2, 3), small)
    du,dv = noise_gradients(p, y, u, v)
    assert ((u - rate*du)/small).tolist() == pytest.approx([1 + .1*(2/.6 - 2), 1 + .1*(4 + 2/.3 - 2)], rel=1e-4)
    torch.testing.assert_close((v - rate*dv)/small, torch.tensor([[1, 1, 1], [1.4, 1, 1]]))

def test_rates_of_the_paper_and_of_short_fits():
    rate,start = paced_rate(68)
    assert 128*rate == pytest.approx(10, abs=.1) and start == pytest.approx(1e-8)
    for n in (4, 10, 27, 500):
        rate,start = paced_rate(n)
        assert 0 < rate <= .25 and start*(1 + 4*rate)**n == pytest.approx(1)
    assert paced_rate(.5) == paced_rate(4) # a fit of one epoch
    rate,start = paced_rate(10, .01) # a later fit begins where the numbers are
    assert start == .01 and .01*(1 + 4*rate)**10 == pytest.approx(1)

# a model without features: the logits of a sample are free parameters, so that every step has a closed form

class Table(nn.Module):
    def __init__(self, z):
        super().__init__()
        self.z = nn.Parameter(z.clone())
    def forward(self, x): return self.z[x.long()[:,0]]

def free_logits(cb, z, y, epochs, lr=.1, bs=None, cbs=()):
    "SGD on free logits"
    items = list(zip(torch.arange(len(y)).float()[:,None], y))
    dls = DataLoaders(*(TfmdDL(items, bs=bs or len(y), shuffle=False, num_workers=0) for _ in range(2)), device='cpu')
    cbs = [o for o in (cb, *cbs) if o is not None]
    learn = Learner(dls, Table(z), loss_func=CrossEntropyLossFlat(), opt_func=SGD, cbs=cbs, train_bn=False)
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, lr, wd=0.)
    return learn

Z,Y = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)),torch.tensor([0, 1, 2, 0, 1, 2])

def test_training_by_hand():
    "Five steps of equations (1) to (4), by autograd"
    share,ratio,lr = .9,.5,.3
    learn = free_logits(SOPCallback(share, ratio, balanced=False), Z, Y, 5, lr)
    rate,start = paced_rate(share*5)
    z,label = Z.double(),F.one_hot(Y, 3)
    u,v = torch.full((6,), start).double(),torch.full((6, 3), start).double()
    for _ in range(5):
        z,u,v = (o.detach().requires_grad_() for o in (z, u, v))
        p = z.softmax(1)
        U,V = label*(u**2)[:,None],(1 - label)*v**2
        w = (p + U - V.detach()).clamp(1e-4)
        q = (w/w.sum(1, keepdim=True)).clamp(1e-4, 1)
        loss = -q.gather(1, Y[:,None]).log().sum() + (F.one_hot(p.argmax(1), 3) + U - V - label).square().sum()
        dz,du,dv = torch.autograd.grad(loss, (z, u, v))
        z,u,v = z - lr/6*dz,(u - 2*ratio*rate/4*du).clamp(0, 1),(v - rate*dv).clamp(0, 1)
    torch.testing.assert_close(learn.model.z.detach().double(), z.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(learn.sop.u.all().double(), u.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(learn.sop.v.all().double(), v.detach(), rtol=1e-4, atol=1e-5)

def test_a_contradicted_label_is_explained_after_the_share():
    "The model stands still: u and v of the predicted class reach 1, and the suggestion is the prediction"
    z = 2*F.one_hot((Y + 1) % 3, 3).float()
    learn = free_logits(SOPCallback(.5, ratio=5., balanced=False), z, Y, 24, lr=0.)
    sop,rows = learn.sop,torch.arange(6)
    assert (sop.v.all()[rows,(Y + 1) % 3] > .95).all() and (sop.u.all() > .95).all()
    assert (sop.suggested_labels() == ((Y + 1) % 3).numpy()).all() and (sop.label_quality() < .05).all()

def test_a_confirmed_label_is_left():
    learn = free_logits(SOPCallback(.5, ratio=1.), 6*F.one_hot(Y, 3).float(), Y, 24, lr=0.)
    assert (learn.sop.u.all()**2 < .01).all() and (learn.sop.suggested_labels() == Y.numpy()).all()
    assert (learn.sop.label_quality() > .95).all()

def test_it_holds_against_wrong_labels():
    z = 4*F.one_hot((Y + 1) % 3, 3).float()
    held,plain = (free_logits(o, z, Y, 60, 1.) for o in (SOPCallback(.2, balanced=False), None))
    assert (plain.model.z.argmax(1) == Y).all() and (held.model.z.argmax(1) == (Y + 1) % 3).all()

def test_numbers_do_not_depend_on_the_batch():
    "Nor on accumulation: with a model that stands still, one batch of 6, three of 2, and three for a step"
    whole,parts,steps = (free_logits(SOPCallback(), Z, Y, 6, 0., *o).sop for o in
                         ((), (2,), (2, [GradientAccumulation(6)])))
    for o in (parts, steps):
        torch.testing.assert_close(o.u.all(), whole.u.all())
        torch.testing.assert_close(o.v.all(), whole.v.all())

def test_classes_have_no_order():
    order = torch.tensor([2, 0, 1])
    a,b = free_logits(SOPCallback(), Z, Y, 6, .3),free_logits(SOPCallback(), Z[:,order.argsort()], order[Y], 6, .3)
    torch.testing.assert_close(a.sop.v.all(), b.sop.v.all()[:,order])

# neutral settings

def test_rate_zero_is_plain_training():
    assert same(fitted_blobs(SOPCallback(rate=0.)), fitted_blobs())
    assert same(fitted_blobs(SOPCallback(rate=0)), fitted_blobs())

def test_it_acts(): assert not same(fitted_blobs(SOPCallback()), fitted_blobs())

def test_plus_without_its_terms_is_sop():
    def fitted(cb):
        learn = image_learner(cb)
        learn.fit(3, 1e-2)
        return learn
    assert same(fitted(SOPPlusCallback(consistency=0, balance=0)), fitted(SOPCallback()))
    assert not same(fitted(SOPPlusCallback(consistency=0)), fitted(SOPCallback()))
    assert not same(fitted(SOPPlusCallback(balance=0)), fitted(SOPCallback()))
    assert same(fitted(SOPPlusCallback(consistency=0, rate=0)), fitted(None))

def test_the_divergence_is_that_of_the_views():
    class Still(SOPPlusCallback):
        def batch_penalty(self):
            first = self.pred.detach().softmax(1)
            said,second = super().batch_penalty(),self.model(self.x + 1).softmax(1)
            expected = self.consistency*(first*(first/second).log()).sum(1).mean()
            torch.testing.assert_close(said, expected)
            return said
    learn = image_learner(Still(balance=0, view=lambda x: x + 1))
    for m in learn.model.modules():
        if isinstance(m, nn.BatchNorm2d): m.track_running_stats = False
    learn.fit(1, 1e-2)

def test_plus_is_for_images():
    with pytest.raises(TypeError, match='changes images.*give a `view`'): fitted_blobs(SOPPlusCallback())
    assert weights_of(fitted_blobs(SOPPlusCallback(view=lambda x: x + .1)).model).isfinite().all()

def test_views_are_drawn_for_each_image():
    x = torch.rand(1, 1, 12, 12).expand(6, 1, 12, 12).contiguous()
    changed,outside = changed_images(x, 0),torch.get_rng_state()
    assert torch.equal(changed_images(x, 0), changed) and torch.equal(torch.get_rng_state(), outside)
    assert len({tuple(o.flatten().tolist()) for o in changed}) == 6 and changed.shape == x.shape

# beside others

def test_blends_are_refused():
    with pytest.raises(ValueError, match='MixUp blends samples: leave one'): fitted_blobs([SOPCallback(), MixUp(.4)])

def test_weights_of_others_compose():
    def none(ids): return 0*ids
    assert same(fitted_blobs([SOPCallback(), Weigh(none)]), fitted_blobs(Weigh(none)))

def test_numbers_are_those_of_the_labels_in_force():
    learn = fitted_blobs([SOPCallback(), Relabel(torch.zeros(96).long())])
    assert (learn.sop.to_frame().given_label == 0).all()

def test_lr_find_remembers_nothing(tmp_path):
    learn = fitted_blobs(SOPCallback(), n=0, path=tmp_path)
    with learn.no_bar(): learn.lr_find(show_plot=False, num_it=5)
    assert learn.sop.u is None and learn.sop.start is None and learn.sop.label_quality() is None
    with pytest.raises(ValueError, match='train first'): learn.sop.to_frame()

def test_a_short_first_fit_leaves_room():
    "As in fine_tune: one epoch with a frozen body does not decide over the next ten"
    learn = fitted_blobs(SOPCallback(), n=1)
    assert learn.sop.u.all().max() < .5
    learn.fit(10, 1e-3)
    assert (learn.sop.u.visits == 11).all() and learn.sop.start == paced_rate(1)[1]

def test_other_number_of_classes():
    learn = fitted_blobs(SOPCallback())
    learn.model[-1],learn.opt,learn.dls.vocab = nn.Linear(8, 4),None,None
    learn.sop.names = None
    with pytest.raises(ValueError, match='3 classes, and now there are 4.*new SOPCallback'): learn.fit(1)

BAD = [('share', 0), ('share', 1.5), ('ratio', -1), ('rate', .3), ('rate', 'x'), ('consistency', -1), ('balance', 'x')]

@pytest.mark.parametrize('name, value', BAD)
def test_arguments(name, value):
    with pytest.raises(ValueError, match=f'{name}={value!r}'): SOPPlusCallback(**{name: value})

def test_labels_of_a_class_that_is_not_learnt_are_not_explained():
    "The model stands still and never predicts class 2; nor are any in the first epoch"
    z = torch.tensor([[4., 0, 0], [0, 4., 0], [4., 0, 0], [4., 0, 0], [0, 4., 0]])
    y = torch.tensor([0, 1, 2, 1, 1])
    first,learn = (free_logits(SOPCallback(), z, y, n, lr=0.).sop for n in (1, 30))
    assert (first.u.all() == first.start).all() and (first.v.all() == first.start).all()
    assert learn.u.all()[2] == learn.start and learn.u.all()[3] > .9
    assert learn.label_quality()[2] > .99 and learn.label_quality()[3] < .1

"SELC and SAT against their equations, by hand and in limit cases."
import numpy as np, pytest, torch
import torch.nn.functional as F
from torch import nn
from fastai.basics import CrossEntropyLossFlat, Learner, SGD
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.schedule import lr_find
from fastai.data.core import DataLoaders, TfmdDL
from fastnoisy.callback.self_adaptive import (SATCallback, SELCCallback, label_weights, learnt_classes, moved_labels,
                                              paced_momentum)
from helpers import Relabel, Weigh, fitted_blobs, image_learner, weights_of

BOTH = pytest.mark.parametrize('kind', [SELCCallback, SATCallback])

def same(a, b): return torch.equal(weights_of(a.model), weights_of(b.model))
def close(a, b): torch.testing.assert_close(weights_of(a.model), weights_of(b.model), rtol=1e-4, atol=1e-5)
def method(learn): return learn.sat if hasattr(learn, 'sat') else learn.selc

# equations

def test_moved_labels_in_a_loop():
    g = torch.Generator().manual_seed(0)
    y,visits = torch.tensor([0, 2, 1]),torch.rand(6, 3, 4, generator=g).softmax(2)
    s,a = F.one_hot(y, 4).float(),torch.zeros(3, 4)
    for p,m in zip(visits, (.9, .9, .5, .5, .99, 0.)): # any momentum, a new one at any time
        s,a = m*s + (1 - m)*p,m*a + (1 - m)*p
        torch.testing.assert_close(moved_labels(a, y), s)

def test_what_is_left_out_is_the_given_label():
    assert moved_labels(torch.tensor([[.2, 0., .3]]), torch.tensor([1]))[0].tolist() == pytest.approx([.2, .5, .3])

def test_weights_in_a_loop():
    s = torch.rand(5, 3, generator=torch.Generator().manual_seed(0)).softmax(1)
    top = [max(row) for row in s.tolist()]
    assert label_weights(s).tolist() == pytest.approx([o*5/sum(top) for o in top])
    torch.testing.assert_close(label_weights(s, s[:2]), label_weights(s)[:2])

def test_the_gradient_of_the_new_label_is_that_of_the_old_one_times_the_momentum():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(6, 4, generator=g, dtype=torch.double).requires_grad_()
    s,m = torch.rand(6, 4, generator=g, dtype=torch.double).softmax(1),.7
    p = z.softmax(1).detach()
    new, = torch.autograd.grad(F.cross_entropy(z, m*s + (1 - m)*p), z)
    torch.testing.assert_close(new, m*(p - s)/6)

def test_a_constant_prediction_is_reached_geometrically():
    "And a paced momentum leaves a twentieth of the given label after a third of the visits"
    for n in (1, 3, 10):
        m,a,p = paced_momentum(.9, 3*n),torch.zeros(1, 3),torch.tensor([[.1, .2, .7]])
        for _ in range(n): a = m*a + (1 - m)*p
        torch.testing.assert_close(moved_labels(a, torch.tensor([0])), p + .05*(torch.eye(3)[:1] - p))
    assert paced_momentum(.9, 200) == .9 and paced_momentum(1, 3) == 1 and 0 < paced_momentum(.9, 0) <= .05

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

@pytest.mark.parametrize('paced', [False, True])
@BOTH
def test_training_by_hand(kind, paced):
    "Six epochs, the first two of them plain"
    lr,m = .3,.05**(3/4) if paced else .8
    learn = free_logits(kind(2, .8, paced, balanced=False), Z, Y, 6, lr)
    z,s = Z.double(),F.one_hot(Y, 3).double()
    for n in range(6):
        p,old = z.softmax(1),s
        if n >= 2: s = m*s + (1 - m)*p
        w = s.amax(1)/s.amax(1).mean() if kind is SATCallback and n >= 2 else torch.ones(5).double()
        z = z - lr/5*w[:,None]*(p - old)
    torch.testing.assert_close(learn.model.z.detach().double(), z, rtol=1e-4, atol=1e-5)
    cb = method(learn)
    torch.testing.assert_close(moved_labels(cb.average.all(), Y).double(), s, rtol=1e-4, atol=1e-5)
    assert (cb.average.visits == 4).all()

def test_a_wrong_label_is_moved_to_what_was_predicted():
    "Free logits: a sample that was predicted otherwise before keeps its prediction"
    z = 4*F.one_hot((Y + 1) % 3, 3).float()
    held,plain = (free_logits(o, z, Y, 60, 1.) for o in (SELCCallback(2, paced=False, balanced=False), None))
    assert (plain.model.z.argmax(1) == Y).all() and (held.model.z.argmax(1) == (Y + 1) % 3).all()
    assert (held.selc.suggested_labels() == ((Y + 1) % 3).numpy()).all() and (held.selc.label_quality() < .6).all()

# neutral settings

@pytest.mark.parametrize('options', [dict(momentum=1.), dict(momentum=1), dict(warmup=3)])
@BOTH
def test_neutral_settings_are_plain_training(kind, options): assert same(fitted_blobs(kind(**options)), fitted_blobs())

@BOTH
def test_it_acts(kind): assert not same(fitted_blobs(kind()), fitted_blobs())

def test_selc_is_sat_without_weights(): assert not same(fitted_blobs(SELCCallback(1)), fitted_blobs(SATCallback(1)))

def test_nothing_to_say_before_the_turning_point():
    learn = fitted_blobs(SELCCallback(3))
    assert learn.selc.label_quality() is None and learn.selc.suggested_labels() is None
    with pytest.raises(ValueError, match='beyond the warm-up first, warmup=3'): learn.selc.to_frame()

def test_turning_point_in_the_second_fit():
    "A share is one of the running fit, and what earlier fits have trained counts"
    learn = fitted_blobs(SELCCallback(.5), n=4)
    assert (learn.selc.average.visits == 2).all()
    learn.fit(2, 1e-3)
    assert (learn.selc.average.visits == 4).all() and learn.selc._visits == 2

def test_pace_of_the_second_fit():
    learn = fitted_blobs(SELCCallback(1), n=1)
    learn.fit(5, 1e-3)
    assert learn.selc.average.momentum == pytest.approx(.05**(3/5))

# beside others

def test_labels_that_others_put_in_force_do_not_count_as_given():
    learn = fitted_blobs([SELCCallback(1), Relabel(torch.zeros(96).long())])
    assert learn.selc.to_frame().given_label.tolist() == (torch.arange(96) % 3).tolist()

def test_weights_of_others_compose():
    "Weights of zero leave nothing to learn"
    def none(ids): return 0*ids
    assert same(fitted_blobs([SATCallback(1), Weigh(none)]), fitted_blobs(Weigh(none)))

@BOTH
def test_mixup_and_cutmix(kind):
    learn = fitted_blobs([kind(1), MixUp(.4)])
    assert (method(learn).average.visits == 2).all() # fastai's shares are at least a half
    images = image_learner([kind(1), CutMix(1.)])
    images.fit(2, 1e-2)
    visits = method(images).average.visits
    assert weights_of(images.model).isfinite().all() and (visits <= 1).all() and visits.sum() % 8 == 0

def test_what_has_less_than_half_of_a_blend_is_not_remembered():
    learn = fitted_blobs(SELCCallback(1))
    selc,visits = learn.selc,learn.selc.average.visits.clone()
    class Mixer:
        lam,old_lf,yb1 = torch.tensor([.4, .5, .6, .1]),None,None
        def lf(self): pass
    selc.learn.loss_func,selc.learn.sample_ids = Mixer().lf,torch.arange(4)
    selc.y_given,selc.gather_batch = torch.zeros(4).long(),lambda *values: (torch.arange(4), *values)
    selc._remember(torch.full((4, 3), 1/3))
    assert (selc.average.visits - visits)[:5].tolist() == [0, 1, 1, 0, 0]

def test_lr_find_before_and_after_the_turning_point(tmp_path):
    learn = fitted_blobs(SATCallback(1), n=0, path=tmp_path)
    with learn.no_bar(): learn.lr_find(show_plot=False, num_it=20)
    assert learn.sat.average is None and learn.sat.n_epochs == 0
    learn.fit(2, 1e-2)
    before = learn.sat.average.all().clone()
    with learn.no_bar(): learn.lr_find(show_plot=False, num_it=20)
    assert torch.equal(learn.sat.average.all(), before) and learn.sat.n_epochs == 2

# memory

def test_fewer_classes_and_bits():
    "With all classes kept the packed table trains the same; 16 bits nearly so"
    plain = fitted_blobs(SELCCallback(1))
    close(plain, fitted_blobs(SELCCallback(1, top=3)))
    half = fitted_blobs(SELCCallback(1, half=True))
    assert half.selc.average.values.dtype == torch.float16
    torch.testing.assert_close(weights_of(half.model), weights_of(plain.model), rtol=.02, atol=2e-3)

def test_other_number_of_classes():
    learn = fitted_blobs(SELCCallback(1))
    learn.model[-1],learn.opt,learn.dls.vocab = nn.Linear(8, 4),None,None
    learn.selc.names = None
    with pytest.raises(ValueError, match='3 classes, and now there are 4.*new SELCCallback'): learn.fit(1)

BAD = [('warmup', -1), ('warmup', 1.5), ('momentum', 1.5), ('momentum', 'x'), ('top', 0), ('paced', 3)]

@pytest.mark.parametrize('name, value', BAD)
def test_arguments(name, value):
    with pytest.raises(ValueError, match=f'{name}={value!r}'): SATCallback(**{name: value})

# classes that are not learnt yet

def test_learnt_classes_in_a_loop():
    g = torch.Generator().manual_seed(0)
    given,agrees = torch.randint(-1, 4, (50,), generator=g),torch.rand(50, generator=g) < .5
    shares = {c: np.mean([float(a) for a,y in zip(agrees, given) if y == c]) for c in range(4)}
    mean = np.mean([*shares.values()])
    expected = [min(1, shares[c]/mean) for c in range(4)]
    assert learnt_classes(agrees, given, 4).tolist() == pytest.approx(expected)
    assert learnt_classes(agrees, given, 6)[4:].tolist() == [1, 1] # no samples
    assert learnt_classes(0*agrees.float(), given, 4).tolist() == [1]*4 # nothing is learnt

def test_labels_of_a_class_that_is_not_learnt_stay():
    "The model stands still and never predicts class 2"
    z = torch.tensor([[4., 0, 0], [0, 4., 0], [4., 0, 0], [4., 0, 0], [0, 4., 0]])
    learn = free_logits(SELCCallback(1), z, torch.tensor([0, 1, 2, 1, 1]), 8, lr=0.)
    quality = learn.selc.label_quality()
    labels = moved_labels(learn.selc.average.all(), torch.tensor([0, 1, 2, 1, 1]))
    assert labels[2].tolist() == [0, 0, 1] and labels[3,1] < .1 and quality[3] < .1

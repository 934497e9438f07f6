"M-correction: bootstrapped labels by hand, limit cases, and training with MixUp, tables and several fits."
import warnings
import numpy as np, pytest, torch
import torch.nn.functional as F
from fastai.basics import Callback
from fastai.callback.mixup import MixUp
from fastnoisy.callback.m_correction import MCorrectionCallback, bootstrapped
from fastnoisy.core.mixing import prior_divergence
from helpers import LR, N, make, make_dls, weights_of
from settings import m_correction

pytestmark = pytest.mark.filterwarnings('ignore:MCorrectionCallback')

PROBS = torch.tensor([[.2, .5, .3], [.1, .1, .8], [.6, .3, .1]])

@pytest.mark.parametrize('kind', ['hard', 'soft'])
def test_bootstrapped_labels_by_hand(kind):
    y,w = torch.tensor([0, 0, -1]),torch.tensor([.25, 1., float('nan')])
    said = F.one_hot(PROBS.argmax(1), 3).float() if kind == 'hard' else PROBS
    got = bootstrapped(y, PROBS, w, kind)
    torch.testing.assert_close(got[0], .75*torch.tensor([1., 0, 0]) + .25*said[0])
    torch.testing.assert_close(got[1], said[1])
    assert got[2].tolist() == [1, 0, 0]
    torch.testing.assert_close(got.sum(1), torch.ones(3))

def test_the_loss_is_that_of_the_paper():
    "Cross-entropy is linear in the label: (1 - w) CE(y) + w CE(h), and so is its gradient"
    z,w = torch.randn(3, 3, requires_grad=True),torch.rand(3)
    y,h = torch.tensor([0, 1, 2]),PROBS.argmax(1)
    own = F.cross_entropy(z, bootstrapped(y, PROBS, w, 'hard'))
    paper = ((1 - w)*F.cross_entropy(z, y, reduction='none') + w*F.cross_entropy(z, h, reduction='none')).mean()
    torch.testing.assert_close(own, paper)
    for a,b in zip(torch.autograd.grad(own, z), torch.autograd.grad(paper, z)): torch.testing.assert_close(a, b)

def fitted(cb=None, n=2, cbs=(), **kwargs):
    learn = make('ce', cbs=[*([cb] if cb else []), *cbs], **kwargs)
    torch.manual_seed(0)
    learn.fit(n, LR)
    return learn

def test_no_doubt_is_plain_training():
    "w = 0 everywhere, whether because nothing separates or because the probabilities say so"
    plain = weights_of(fitted(n=3).model)
    assert torch.equal(weights_of(fitted(MCorrectionCallback(warmup=1, by=1e9), n=3).model), plain)
    assert torch.equal(weights_of(fitted(MCorrectionCallback(warmup=3), n=3).model), plain)
    learn = fitted(m_correction(), n=1)
    learn.m_correction.p_clean.fill_(1.)
    learn.m_correction.by = 1e9
    learn.fit(2, LR)
    assert learn.m_correction.in_force is None

def test_what_is_put_in_force():
    seen = []
    class Spy(Callback):
        order,run_valid = 20,False
        def after_loss(self):
            soft = self.learn.sample.labels.soft
            seen.append((self.sample_ids, self.pred.detach(), soft, self.learn.loss_grad.item()))
    learn = fitted(m_correction(), n=1)
    cb = learn.m_correction
    labels,prior = cb.labels.clone(),cb.prior
    learn.fit(1, LR, cbs=Spy())
    for ids,pred,soft,loss in seen:
        assert torch.equal(soft, labels[ids])
        expected = F.cross_entropy(pred, labels[ids]) + prior_divergence(pred.softmax(1), prior)
        assert loss == pytest.approx(expected.item(), rel=1e-4)

def test_penalty_of_zero():
    a,b = (fitted(m_correction(penalty=o), n=3) for o in (0., 1.))
    assert not torch.equal(weights_of(a.model), weights_of(b.model))

def test_labels_move_to_the_truth():
    learn = fitted(MCorrectionCallback(warmup=4), n=8, dls=make_dls(256))
    cb,dataset = learn.m_correction,learn.dls.train.dataset
    wrong = (dataset.y != dataset.true).numpy()
    assert (cb.suggested_labels() == dataset.true.numpy()).mean() > .95
    assert cb.noise_probability()[wrong].mean() > .9 and cb.label_quality()[~wrong].mean() > .8
    assert (cb.to_frame().is_label_issue.values == wrong).mean() > .9

@pytest.mark.parametrize('kind', ['hard', 'soft'])
def test_with_mixup(kind):
    learn = fitted(m_correction(kind=kind), n=3, cbs=[MixUp(1.)])
    assert weights_of(learn.model).isfinite().all() and learn.m_correction.in_force is not None

def test_targets_in_a_column():
    "As fastai's tables give them: the same training"
    dls = make_dls()
    for dl in dls.loaders: dl.dataset.y = dl.dataset.y[:,None]
    column,flat = fitted(m_correction(), n=3, dls=dls),fitted(m_correction(), n=3)
    assert torch.equal(weights_of(column.model), weights_of(flat.model))

def test_constant_losses():
    "Everything right and everything equal: no mixture"
    class Constant:
        reduction = 'mean'
        def __call__(self, pred, y): return 0*pred.sum() + 1 if self.reduction == 'mean' else 0*pred.sum(1) + 1
    again = make('ce', cbs=[MCorrectionCallback(warmup=1)])
    again.loss_func = Constant()
    again.fit(2, LR)
    assert not again.m_correction.separates and (again.m_correction.p_clean == 1).all()

def test_one_warning():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        learn = fitted(MCorrectionCallback(warmup=1, by=1e9), n=4)
    assert len([o for o in seen if 'the losses never formed two groups' in str(o.message)]) == 1
    cb = learn.m_correction
    assert cb.noise_probability() is None and cb.label_quality() is None and cb.suggested_labels() is None

def test_an_earlier_correction_stays():
    learn = fitted(m_correction(), n=2)
    labels = learn.m_correction.labels.clone()
    learn.m_correction.by = 1e9
    learn.fit(2, LR)
    assert torch.equal(learn.m_correction.labels, labels) and learn.m_correction.in_force is not None

@pytest.mark.parametrize('name, value', [('warmup', 0), ('kind', 'other'), ('penalty', -1)])
def test_arguments(name, value):
    with pytest.raises(ValueError, match=f'{name}={value!r}'): MCorrectionCallback(**{name: value})

def test_another_training_set():
    learn = fitted(m_correction())
    learn.dls = make_dls(60)
    with pytest.raises(ValueError, match='of 64 training samples, and now there are 60'): learn.fit(1)

def test_before_training():
    with pytest.raises(ValueError, match='train beyond the warm-up first'): MCorrectionCallback().to_frame()

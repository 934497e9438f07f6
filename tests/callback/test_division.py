"What methods share that divide the training set by its losses"
import numpy as np, pytest, torch
import torch.nn.functional as F
from fastai.basics import CrossEntropyLossFlat, Learner
from fastnoisy.callback.division import DivisionCallback, class_shares, label_probs, refined_labels
from helpers import LR, N, linear, make_dls, weights_of

class LeaveOut(DivisionCallback):
    name = 'leave_out'
    def keep_samples(self): return self.p_clean.mean(0) >= .5 if self.acts else None

class OfTwo(DivisionCallback):
    name = 'of_two'
    def begin_fit(self):
        super().begin_fit()
        torch.manual_seed(1)
        self.other = linear()
    def networks(self): return [self.model, self.other]

def made(*cbs): return Learner(make_dls(), linear(), loss_func=CrossEntropyLossFlat(), cbs=cbs)

def fitted(*cbs, n=2):
    learn = made(*cbs)
    torch.manual_seed(0)
    learn.fit(n, LR)
    return learn

def test_labels_as_probabilities():
    given,probs = torch.tensor([2, 0]),torch.tensor([[.2, .5, .3], [.1, .1, .8]])
    assert torch.equal(label_probs(given, probs), F.one_hot(given, 3).float())
    assert torch.equal(refined_labels(given, torch.ones(2), probs), F.one_hot(given, 3).float())
    assert torch.equal(refined_labels(given, torch.zeros(2), probs), probs)
    assert refined_labels(given, torch.tensor([.3, .6]), probs).sum(1).tolist() == pytest.approx([1, 1])
    assert class_shares(torch.tensor([0, 0, -1, 2, 2, 2]), 4).tolist() == pytest.approx([.4, 0, .6, 0])

def test_the_division_is_that_of_the_losses():
    "A threshold: what is below it is kept, by hand"
    learn = fitted(LeaveOut(warmup=1, by=.8))
    cb,dataset = learn.leave_out,learn.dls.train.dataset
    with torch.no_grad(): losses = F.cross_entropy(learn.model(dataset.x), dataset.y, reduction='none')
    assert torch.equal(cb.p_clean[0], (losses <= .8).float()) and cb.separates
    assert torch.equal(cb.given, dataset.y)
    assert np.array_equal(cb.noise_probability(), (losses > .8).float().numpy())
    assert np.array_equal(cb.to_frame().is_label_issue.values, (losses > .8).numpy())
    with torch.no_grad(): said = learn.model(dataset.x).argmax(1)
    assert np.array_equal(cb.suggested_labels(), torch.where(losses > .8, said, dataset.y).numpy())

def test_it_acts_from_the_warm_up_on():
    plain = weights_of(fitted().model)
    assert torch.equal(weights_of(fitted(LeaveOut(warmup=2, by=.8)).model), plain)
    assert not torch.equal(weights_of(fitted(LeaveOut(warmup=1, by=.8)).model), plain)

def test_several_networks():
    "The mean of their probabilities; all have to show two groups"
    learn = fitted(OfTwo(warmup=1, by=.8))
    cb = learn.of_two
    assert cb.p_clean.shape == (2, N) and not torch.equal(cb.p_clean[0], cb.p_clean[1])
    assert cb.label_quality() == pytest.approx(cb.p_clean.mean(0).numpy())
    for o in cb.other[-1].parameters(): torch.nn.init.zeros_(o) # every loss is the same: one group
    cb.by,cb.separates = 1.2,False
    cb.divide()
    assert not cb.separates and cb.noise_probability() is None and not cb.to_frame().is_label_issue.any()

def test_checkpoint(tmp_path):
    learn = fitted(LeaveOut(warmup=1, by=.8))
    learn.save(tmp_path/'model')
    again = made(LeaveOut(warmup=1, by=.8))
    again.load(tmp_path/'model')
    assert again.leave_out.to_frame().equals(learn.leave_out.to_frame()) and again.leave_out.n_epochs == 2

def test_other_data():
    learn = fitted(LeaveOut(warmup=1))
    learn.dls = make_dls(60)
    with pytest.raises(ValueError, match='64 training samples, and now there are 60: use a new LeaveOut'): learn.fit(1)
    learn.dls = make_dls()
    learn.dls.vocab = ['x', 'y', 'z']
    with pytest.raises(ValueError, match=r"and now they are \['x', 'y', 'z'\]: use a new LeaveOut"): learn.fit(1)

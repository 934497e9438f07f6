"PES: which parts are drawn anew and trained when, which labels are used afterwards, and the step of PES(semi)."
import numpy as np, pytest, torch
import torch.nn.functional as F
from torch import nn
from fastai.basics import Callback, CrossEntropyLossFlat, Learner, SGD
from fastai.torch_core import trainable_params
from fastnoisy.callback.divide_mix import half_sizes
from fastnoisy.callback.pes import (MAX_BALANCE, PESCallback, PESSemiCallback, class_balance, label_share, last_parts,
                                    layer_parts)
from helpers import LR, blob_learner, fitted_blobs, linear, make_dls, run_in_parts, small_model, weights_of

WHOLE = {'0', '1', '4'} # layers of `small_model` with parameters

class Look(Callback):
    "The weights of each layer at the end of each epoch"
    run_valid = False
    def before_fit(self): self.seen = [self._now()]
    def after_train(self): self.seen.append(self._now())
    def _now(self): return {k: p.detach().clone() for k,p in self.model.named_parameters()}

def moved(look, epoch):
    "Layers that an epoch has changed"
    a,b = look.seen[epoch:epoch+2]
    return {k.split('.')[0] for k in a if not torch.equal(a[k], b[k])}

def fitted_linear(cb, n=3, model=None, **kwargs):
    learn = Learner(make_dls(), model or linear(), loss_func=CrossEntropyLossFlat(), cbs=cb, **kwargs)
    torch.manual_seed(0)
    with learn.no_bar(), learn.no_logging(): learn.fit(n, LR)
    return learn

# the formulas

def test_label_share_by_hand():
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.arange(50) % 4
    p,got = logits.softmax(1),label_share(logits, y)
    for i in range(50):
        others = [p[i,k] for k in range(4) if k != y[i]]
        assert got[i] == pytest.approx(float(p[i,y[i]]/(p[i,y[i]] + max(others))))
    assert torch.equal(got >= .5, logits.argmax(1) == y)
    assert label_share(torch.tensor([[900., -900]]), torch.tensor([1])) == 0
    assert label_share(logits, y - 1).isnan().tolist() == (y == 0).tolist()

def test_balance_by_hand():
    y = torch.tensor([0, 0, 1, 3, 0, -1])
    got = class_balance(np.array([1, 1, 1, 0, 1, 1], dtype=bool), y, 5)
    assert got.tolist() == pytest.approx([2/3, 2, 1, 1, 1])
    rare = class_balance(np.ones(30, bool), torch.tensor([0]*29 + [1]), 2)
    assert rare.tolist() == pytest.approx([15/29, MAX_BALANCE])

def test_sizes_of_the_halves():
    "Halves, or the share of the unlabelled, at most one half"
    assert half_sizes(64) == half_sizes(64, .9) == (32, 32) and half_sizes(65) == (32, 32) and half_sizes(1) == (1, 1)
    assert half_sizes(64, .25) == (48, 16) and half_sizes(64, .01) == (64, 0) and half_sizes(1, 0.) == (1, 0)

def test_parts_of_a_network():
    model = small_model()
    assert [len(o) for o in layer_parts(model)] == [3, 2] # BatchNorm goes with the layer before it
    two = last_parts(model, trainable_params, 1)
    assert len(two) == 1 and two[0][0] is model[4].weight
    by_group = lambda m: [list(m[0].parameters()), list(m[1].parameters()), list(m[4].parameters())]
    assert last_parts(model, by_group, 2)[0][0] is model[1].weight
    assert last_parts(model, trainable_params, 0) == []
    with pytest.raises(ValueError, match='stages: 2 of them'): last_parts(model, trainable_params, 2)

# the stages

@pytest.mark.parametrize('kwargs', [{}, dict(opt_func=SGD)])
@pytest.mark.parametrize('cls', [PESCallback, PESSemiCallback])
def test_only_the_head_is_trained_in_its_stage(cls, kwargs):
    "All, then the head from new weights, then all"
    learn = fitted_blobs([cls(2, stages=(2,)), Look()], n=5, **kwargs)
    look,cb = learn.look,getattr(learn, cls.name)
    assert [moved(look, i) for i in range(5)] == [WHOLE, WHOLE, {'4'}, {'4'}, WHOLE]
    before,after = look.seen[2]['4.weight'],look.seen[3]['4.weight']
    assert torch.corrcoef(torch.stack([before.flatten(), after.flatten()]))[0,1] < .9
    assert all(p.requires_grad for p in learn.model.parameters()) and cb.n_drawn == 1

def three_layers(): return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))

def test_stages_one_after_the_other():
    look = fitted_linear([PESCallback(1, stages=(1, 1)), Look()], 4, three_layers()).look
    assert [moved(look, i) for i in range(3)] == [{'0', '2', '4'}, {'2', '4'}, {'4'}]
    assert moved(look, 3) == {'0', '2', '4'}

def test_what_the_user_has_frozen_stays():
    "A part of the stages: it is not drawn anew either"
    model = three_layers()
    model[2].requires_grad_(False)
    look = fitted_linear([PESCallback(1, stages=(1, 1)), Look()], 4, model).look
    assert [moved(look, i) for i in range(4)] == [{'0', '4'}, {'4'}, {'4'}, {'0', '4'}]
    assert {n for n,p in model.named_parameters() if not p.requires_grad} == {'2.weight', '2.bias'}

def test_a_head_that_cannot_be_drawn():
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(8, 3))
        def forward(self, x): return x @ self.w
    with pytest.raises(ValueError, match='stages=.*weights anew'):
        fitted_linear(PESCallback(1, stages=(1,)), model=nn.Sequential(nn.Linear(4, 8), Head()))

@pytest.mark.parametrize('cls', [PESCallback, PESSemiCallback])
def test_before_the_stages_it_is_plain_training(cls):
    assert torch.equal(weights_of(fitted_blobs(cls(9)).model), weights_of(fitted_blobs().model))

def test_all_labels_predicted_is_plain_training():
    "No stage, no balance, and more labels kept in any case than there are"
    got = fitted_blobs(PESCallback(1, stages=(), balanced=False, min_per_class=99))
    assert torch.equal(weights_of(got.model), weights_of(fitted_blobs().model))

def test_an_exception_leaves_nothing_frozen():
    class Stop(Callback):
        order = 60
        def before_batch(self):
            if self.epoch == 1: raise RuntimeError('stop')
    learn = blob_learner([PESCallback(1, stages=(1,)), Stop()])
    with pytest.raises(RuntimeError): learn.fit(3, 1e-2)
    assert all(p.requires_grad for p in learn.model.parameters())

@pytest.mark.parametrize('cls', [PESCallback, PESSemiCallback])
@pytest.mark.parametrize('stops', [[1, 3], [2, 2], [3, 1]])
def test_stopped_in_a_stage_and_gone_on(cls, stops, tmp_path):
    "Phases in epochs, so that all parts have the same; in the fit that is not stopped lambda_u is ramped later"
    options = dict(lambda_u=0.) if cls is PESSemiCallback else {}
    make_learner = lambda: blob_learner(cls(1, stages=(2,), **options), path=tmp_path)
    whole,parts = (run_in_parts(make_learner, o) for o in ([4], stops))
    assert torch.equal(weights_of(whole.model), weights_of(parts.model)) and getattr(parts, cls.name).n_drawn == 1

# the division

@pytest.mark.parametrize('cls', [PESCallback, PESSemiCallback])
def test_what_is_predicted_as_labelled_is_used(cls):
    learn = fitted_linear(cls(1, stages=(), min_per_class=1), 2)
    dataset,cb = learn.dls.train.dataset,getattr(learn, cls.name)
    with torch.no_grad(): logits = learn.model.eval()(dataset.x)
    right = (logits.argmax(1) == dataset.y).numpy()
    assert 0 < right.mean() < 1 and (cb.used() >= right).all() and (cb.used() & ~right).sum() <= 3
    assert cb.label_quality() == pytest.approx(label_share(logits, dataset.y).numpy(), abs=1e-6)
    assert cb.noise_probability() == pytest.approx(1 - cb.label_quality(), abs=1e-6)
    assert (cb.to_frame().is_label_issue.values == ~right).all()
    assert np.array_equal(cb.suggested_labels()[right], dataset.y.numpy()[right])

def test_weights_of_the_classes():
    learn = fitted_linear(PESCallback(1, stages=(), min_per_class=12), 2)
    cb,given = learn.pes,learn.dls.train.dataset.y
    seen = []
    class See(Callback):
        def after_loss(self):
            if self.training: seen.append((self.learn.sample_weight, given[self.learn.sample_ids]))
    used = cb.used()
    learn.add_cb(See())
    with learn.no_bar(), learn.no_logging(): learn.fit(1, LR)
    counts = np.bincount(given.numpy()[used], minlength=3)
    expected = (counts.mean()/counts).clip(max=3)
    for weight,y in seen: assert weight.tolist() == pytest.approx(expected[y.numpy()].tolist())
    assert sum(len(y) for _,y in seen) == used.sum()

# PES(semi)

def test_the_step_by_hand():
    "Nothing is blended, and labels are taken as they are: weighted cross-entropy of two views, and squared differences"
    learn = fitted_linear(PESSemiCallback(1, stages=(), alpha=0., lambda_u=2.), 3)
    cb = learn.pes_semi
    y,weights = learn.dls.train.dataset.y,cb.class_weights()
    step,parts = cb._mixmatch,[]
    def watched(k):
        half,own = cb._halves[k],{}
        draw = half.draw
        def noted(part):
            own[part] = draw(part)
            return own[part]
        half.draw = noted
        with torch.no_grad():
            loss = step(k)
            (ids,x,labels),(_,u,_) = own[0],own[1]
            half.draw = draw
            assert torch.equal(labels, y[ids])
            ce = (weights[labels]*F.cross_entropy(learn.model(*x)[:len(ids)], labels, reduction='none')).mean()
            p = learn.model(*u).softmax(1)
            guess = p.square()/p.square().sum(1, keepdim=True)
            parts.append((loss, ce + 2*cb._ramp()*(p - guess).square().mean()))
        return step(k)
    cb._mixmatch = watched
    with learn.no_bar(), learn.no_logging(): learn.fit(1, LR)
    del cb._mixmatch
    assert len(parts) == 4
    for got,expected in parts: assert got == pytest.approx(float(expected), rel=1e-4)

def test_labelled_and_unlabelled_are_all():
    learn = fitted_linear(PESSemiCallback(1, stages=()), 2)
    cb = learn.pes_semi
    drawn = {}
    class See(Callback):
        order = 50
        def before_train(self):
            for part,o in enumerate(cb._halves[0].streams): drawn[part] = o.n,o.n_samples
    used = int(cb.used().sum())
    batch = half_sizes(16, 1 - used/64)
    assert sum(batch) == 16
    learn.add_cb(See())
    with learn.no_bar(), learn.no_logging(): learn.fit(1, LR)
    assert drawn == {0: (used, batch[0]), 1: (64 - used, batch[1])}

@pytest.mark.slow
@pytest.mark.parametrize('cls', [PESCallback, PESSemiCallback])
def test_it_finds_wrong_labels_and_learns(cls):
    dls = make_dls(512)
    learn = Learner(dls, linear(), loss_func=CrossEntropyLossFlat(), cbs=cls(3))
    torch.manual_seed(0)
    with learn.no_bar(), learn.no_logging(): learn.fit(10, LR)
    dataset = dls.train.dataset
    wrong = (dataset.y != dataset.true).numpy()
    cb = getattr(learn, cls.name)
    assert (cb.to_frame().is_label_issue.values == wrong).mean() > .9
    with torch.no_grad(): right = learn.model.eval()(dls.valid.dataset.x).argmax(1) == dls.valid.dataset.y
    assert right.float().mean() > .9

# errors

@pytest.mark.parametrize('cls', [PESCallback, PESSemiCallback])
@pytest.mark.parametrize('kwargs', [dict(stages=.1), dict(stages=(0,)), dict(min_per_class=0), dict(warmup=0)])
def test_errors(cls, kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))): cls(**kwargs)

@pytest.mark.parametrize('kwargs', [dict(lambda_u=-1.), dict(temperature=0.), dict(alpha=-1.)])
def test_errors_of_the_step(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))): PESSemiCallback(**kwargs)

def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr('fastnoisy.callback.pes.n_processes', lambda: 2)
    with pytest.raises(ValueError, match='stages=()'): fitted_linear(PESCallback())
    fitted_linear(PESCallback(stages=()), 1)

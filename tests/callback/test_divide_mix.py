"DivideMix: the formulas by hand, limit cases, two networks, and what happens where there is nothing to divide."
import warnings
from copy import deepcopy
import numpy as np, pytest, torch
import torch.nn.functional as F
from fastai.callback.schedule import fit_one_cycle
from fastai.callback.tracker import SaveModelCallback
from fastai.basics import Callback, CrossEntropyLossFlat, SGD
from fastai.callback.training import GradientAccumulation
from fastnoisy.callback.dynamics import DynamicsCallback
from fastnoisy.callback.divide_mix import (DivideMixCallback, Halves, VIEWS, can_blend, guess_mse, labelled_part,
                                           mean_probs)
from fastnoisy.callback.division import class_shares, label_probs, refined_labels
from fastnoisy.core.mixing import mixup
from helpers import LR, N, linear, make, make_dls, weights_of
from settings import divide_mix

pytestmark = pytest.mark.filterwarnings('ignore:DivideMixCallback')

# the formulas

def test_refined_labels_by_hand():
    probs = torch.tensor([[.2, .5, .3], [.1, .1, .8]])
    got = refined_labels(torch.tensor([0, 2]), torch.tensor([.75, 0.]), probs)
    torch.testing.assert_close(got, torch.tensor([[.75 + .05, .125, .075], [.1, .1, .8]]))
    assert torch.equal(refined_labels(torch.tensor([0, 1]), torch.ones(2), probs), torch.eye(3)[:2])
    assert torch.equal(label_probs(torch.tensor([2, 0]), probs), F.one_hot(torch.tensor([2, 0]), 3).float())

def test_guesses_are_the_mean_of_networks_and_views():
    logits = torch.randn(2, 6, 3) # two networks, two views of three samples
    each = [z.softmax(-1) for net in logits for z in (net[:3], net[3:])]
    torch.testing.assert_close(mean_probs(logits, 2), sum(each)/4)

def test_guess_mse():
    p = torch.rand(4, 3).softmax(1)
    assert guess_mse(p, p) == 0
    assert guess_mse(torch.eye(3)[[0]], torch.eye(3)[[1]]) == pytest.approx(2/3)

@pytest.mark.parametrize('threshold, n', [(0., 6), (.5, 3), (1., 1)])
def test_threshold_from_end_to_end(threshold, n):
    p,y = np.array([0., .4, .5, .6, 1., .2]),np.zeros(6, int)
    assert labelled_part(p, y, threshold).sum() == n

def test_a_minimum_of_each_class_keeps_its_label():
    p,y = np.array([.9, .8, .1, .2, .3, np.nan]),np.array([0, 0, 1, 1, 1, 2])
    assert labelled_part(p, y, .5, 1).tolist() == [True, True, False, False, True, False]
    assert labelled_part(p, y, .5, 9).tolist() == [True]*5 + [False]

def test_class_shares_and_inputs():
    assert class_shares(torch.tensor([0, 0, 2, -1, 0]), 4).tolist() == [.75, 0, .25, 0]
    assert can_blend((torch.rand(2), torch.rand(2))) and not can_blend((torch.rand(2), torch.arange(2)))

def test_words_are_not_blended():
    x = torch.arange(8).view(4, 2)
    assert torch.equal(mixup(x, torch.rand(4, 3), alpha=0.).x[0], x)

# training

def fitted(cb, n=2, **kwargs):
    torch.manual_seed(0)
    learn = make('ce', cbs=[cb], **kwargs)
    learn.fit(n, LR)
    return learn

def test_warmup_is_plain_training():
    learn,plain = fitted(DivideMixCallback(warmup=2), n=2),make('ce')
    torch.manual_seed(0)
    plain.fit(2, LR)
    assert torch.equal(weights_of(learn.model), weights_of(plain.model))
    assert learn.recorder.losses == plain.recorder.losses
    peer = learn.divide_mix.peer.model
    assert not torch.equal(weights_of(peer), weights_of(plain.model)) and weights_of(peer).isfinite().all()

def test_the_peer_is_trained_as_a_learner_would():
    "In the warm-up, and by a loss that is summed too"
    for reduction in ('mean', 'sum'):
        learn = make('ce', cbs=[DivideMixCallback(warmup=2, peer=lambda: linear())])
        learn.opt_func = SGD
        learn.loss_func = CrossEntropyLossFlat(reduction=reduction)
        learn.fit(1, 1e-3)
        torch.testing.assert_close(weights_of(learn.divide_mix.peer.model), weights_of(learn.model))

class Seen(Callback):
    "The loss of every step of one's own"
    order,run_valid = 20,False
    def before_fit(self): self.own,self.shown = [],[]
    def after_loss(self):
        if self.learn.divide_mix._own_loss is None: return
        self.own.append(self.learn.loss_grad.item())
        self.shown.append(self.learn.loss.item())

def test_a_step_is_cross_entropy_on_refined_labels():
    "All samples labelled, nothing blended, no prior: L_x of the two views, by hand"
    learn = fitted(divide_mix(p_threshold=0., alpha=0., penalty=0., temperature=1.), n=1)
    cb = learn.divide_mix
    assert (cb.p_clean.min() == 0) and cb.separates
    steps = []
    class ByHand(Callback):
        order,run_valid = -50,False
        def before_batch(self):
            if not steps: steps.append([deepcopy(m.state_dict()) for m in (self.model, cb.peer.model)])
    draws,own_draw = [],Halves.draw
    def noted(self, part):
        draws.append(own_draw(self, part))
        return draws[-1]
    seen = Seen()
    try:
        Halves.draw,p_clean = noted,cb.p_clean.clone()
        learn.fit(1, LR, cbs=[ByHand(), seen])
    finally: Halves.draw = own_draw
    total = 0.
    for k,(ids,xb,y) in enumerate(draws[:2]): # no unlabelled half
        model = linear()
        model.load_state_dict(steps[0][k])
        z = model.eval()(*xb)
        p = z.detach().softmax(1)
        w = p_clean[1-k][ids][:,None]
        q = w*torch.eye(3)[y] + (1 - w)*(p[:len(ids)] + p[len(ids):])/2
        loss = -(torch.cat([q, q])*z.log_softmax(1)).sum(1).mean()
        total += loss.item()
        if k == 0: assert seen.shown[0] == pytest.approx(loss.item(), rel=1e-4)
        assert len(xb[0]) == VIEWS*len(ids)
    assert seen.own[0] == pytest.approx(total, rel=1e-4)

def test_each_network_gets_the_division_of_the_other():
    learn = fitted(divide_mix(), n=1)
    cb = learn.divide_mix
    cb.p_clean = torch.stack([(torch.arange(N) % 2).float(), 1 - (torch.arange(N) % 2).float()])
    cb.min_per_class,drawn,own_draw = 1,{},Halves.draw
    def draw(self, part):
        res = own_draw(self, part)
        if part == 0: drawn.setdefault(cb._halves.index(self), set()).update(res[0].tolist())
        return res
    try:
        Halves.draw = draw
        learn.fit(1, LR)
    finally: Halves.draw = own_draw
    assert {i % 2 for i in drawn[0]} == {0} and {i % 2 for i in drawn[1]} == {1} # p_clean[1] and p_clean[0]

def test_networks_differ_and_both_learn():
    learn = fitted(DivideMixCallback(warmup=3, lambda_u=1.), n=8, dls=make_dls(256))
    x,y = learn.dls.valid.dataset.x,learn.dls.valid.dataset.y
    networks = learn.model.eval(),learn.divide_mix.peer.model.eval()
    with torch.no_grad(): accuracies = [(m(x).argmax(1) == y).float().mean() for m in networks]
    assert min(accuracies) > .9 and not torch.equal(*map(weights_of, networks))

ENDS = [('p_threshold', 1.), ('p_threshold', 0.), ('alpha', 0.), ('temperature', .01), ('lambda_u', 25.),
        ('min_per_class', 50)]

@pytest.mark.parametrize('name, value', ENDS)
def test_ends_of_the_knobs(name, value):
    assert weights_of(fitted(divide_mix(**{name: value}), n=3).model).isfinite().all()

def test_a_class_with_one_sample():
    dls = make_dls()
    dls.train.dataset.y = dls.train.dataset.y.clamp(max=1)
    dls.train.dataset.y[5] = 2
    learn = fitted(divide_mix(lambda_u=1.), n=3, dls=dls)
    assert weights_of(learn.model).isfinite().all() and learn.divide_mix.prior[2] == pytest.approx(1/N)

def test_where_nothing_separates_training_is_plain_and_one_warning_says_so():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        learn = fitted(DivideMixCallback(warmup=1, by=1e9), n=4) # no loss is above it
    assert len([o for o in seen if 'the losses never formed two groups' in str(o.message)]) == 1
    plain = make('ce')
    torch.manual_seed(0)
    plain.fit(4, LR)
    assert torch.equal(weights_of(learn.model), weights_of(plain.model))
    cb = learn.divide_mix
    assert cb.noise_probability() is None and cb.label_quality() is None and cb.suggested_labels() is None
    assert not cb.to_frame().is_label_issue.any()

def test_an_earlier_division_stays():
    learn = fitted(divide_mix(), n=2)
    before = learn.divide_mix.p_clean.clone()
    learn.divide_mix.by = 1e9
    learn.fit(2, LR)
    assert torch.equal(learn.divide_mix.p_clean, before) and learn.divide_mix.separates

def test_what_it_says_of_the_labels():
    learn = fitted(DivideMixCallback(warmup=3), n=8, dls=make_dls(256))
    cb,dataset = learn.divide_mix,learn.dls.train.dataset
    wrong = (dataset.y != dataset.true).numpy()
    assert cb.noise_probability()[wrong].mean() > .9 > .2 > cb.noise_probability()[~wrong].mean()
    np.testing.assert_allclose(cb.label_quality(), 1 - cb.noise_probability(), atol=1e-6)
    assert (cb.suggested_labels() == dataset.true.numpy()).mean() > .95
    assert (cb.to_frame().is_label_issue.values == wrong).mean() > .9

def test_accumulated_steps_of_both_networks():
    "One batch, or the same in two halves: the peer steps as often as the model"
    steps = []
    learn = make('ce', cbs=[divide_mix(), GradientAccumulation(32)])
    learn.fit(1, LR)
    step = learn.divide_mix.peer.step
    learn.divide_mix.peer.step = lambda learn: (steps.append(1), step(learn))
    learn.fit(2, LR)
    assert len(steps) == 4

def test_dropout_and_norm():
    assert weights_of(fitted(divide_mix(), n=3, model=linear(norm=True, dropout=.3)).model).isfinite().all()

def test_guessing_leaves_running_statistics_alone():
    "One training pass per network and step"
    learn = fitted(divide_mix(), n=2, model=linear(norm=True))
    def steps(): return np.array([m[2].num_batches_tracked.item() for m in (learn.model, learn.divide_mix.peer.model)])
    before = steps()
    learn.fit(1, LR)
    assert (steps() - before).tolist() == [4, 4]

# errors

@pytest.mark.parametrize('name, value', [
    ('warmup', 1.5), ('warmup', 0), ('lambda_u', -1), ('temperature', 0), ('alpha', -1), ('p_threshold', 2),
    ('penalty', -1), ('min_per_class', 0)])
def test_arguments(name, value):
    with pytest.raises(ValueError, match=f'{name}={value}'): DivideMixCallback(**{name: value})

def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr('fastnoisy.callback.divide_mix.n_processes', lambda: 2)
    with pytest.raises(ValueError, match='cannot be used in several processes'): fitted(divide_mix())

def test_another_training_set():
    learn = fitted(divide_mix())
    learn.remove_cb(DynamicsCallback)
    learn.dls = make_dls(60)
    with pytest.raises(ValueError, match='has divided 64 training samples, and now there are 60'): learn.fit(1)

@pytest.mark.parametrize('stop', [1, 2, 3])
def test_the_ramp_goes_on_where_it_was(stop, tmp_path):
    "The weight of the unlabelled half is that of an uninterrupted fit, at whatever epoch it was stopped"
    def learner():
        torch.manual_seed(1)
        learn = make('unlabelled', path=tmp_path)
        torch.manual_seed(1)
        return learn
    def fit(learn, **kwargs):
        learn.fit_one_cycle(5, LR, cbs=SaveModelCallback(every_epoch=True, with_opt=True), **kwargs)
        return learn
    whole = fit(learner())
    again = fit(learner().load(f'model_{stop - 1}'), start_epoch=stop)
    assert torch.equal(weights_of(again.model), weights_of(whole.model))

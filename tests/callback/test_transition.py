"Loss correction: identities of the three uses, estimates of a known matrix, and the callbacks in training."
import math, warnings
import numpy as np, pytest, torch
import torch.nn.functional as F
from fastai.basics import Callback, CrossEntropyLossFlat, DataLoaders, Learner
from fastai.callback.mixup import MixUp
from fastnoisy.analysis.transition import (TransitionMatrix, anchor_matrix, backward_labels, dual_matrix,
                                           estimate_transition, forward_logits, forward_weights, noise_posterior,
                                           trusted_matrix)
from fastnoisy.callback.transition import (GLCCallback, TransitionCallback, VolMinNetCallback, is_dominant,
                                           learnt_matrix, volume_start)
from fastnoisy.core.predict import predict
from helpers import LR, N, linear, make, make_dls, weights_of
from settings import transition

T = torch.tensor([[.8, .2, 0], [.1, .7, .2], [.1, .1, .8]])

def some_logits(n=7, k=3): return torch.randn(n, k, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

# the uses

def test_no_confusion_changes_nothing():
    z,y = some_logits().float(),torch.tensor([0, 1, 2, 0, 1, 2, 0])
    eye = torch.eye(3)
    torch.testing.assert_close(F.cross_entropy(forward_logits(z, eye), y), F.cross_entropy(z, y))
    torch.testing.assert_close(forward_weights(z, eye), torch.ones(7, 3))
    torch.testing.assert_close(backward_labels(y, eye), F.one_hot(y, 3).float())

def test_forward_is_the_log_of_the_product():
    z = some_logits()
    torch.testing.assert_close(forward_logits(z, T.double()), (z.softmax(1) @ T.double()).log())

def test_forward_has_a_gradient_where_a_probability_is_rounded_to_nothing():
    z = torch.tensor([[200., 0, 0]], requires_grad=True)
    F.cross_entropy(forward_logits(z, torch.eye(3)), torch.tensor([1])).backward()
    assert z.grad[0,1] == pytest.approx(-1) and z.grad[0,0] == pytest.approx(1)

def test_forward_learns_the_clean_posterior_from_noisy_labels():
    "Two classes: the minimiser on the population of noisy labels is the clean posterior, not the noisy one"
    clean,T2 = torch.tensor([.9, .1], dtype=torch.float64),torch.tensor([[.7, .3], [.2, .8]], dtype=torch.float64)
    noisy,z = clean @ T2,torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    opt = torch.optim.LBFGS([z], max_iter=200, tolerance_grad=1e-12, line_search_fn='strong_wolfe')
    def closure():
        opt.zero_grad()
        loss = F.cross_entropy(forward_logits(z, T2), noisy[None])
        loss.backward()
        return loss
    opt.step(closure)
    torch.testing.assert_close(z.softmax(1)[0].detach(), clean, atol=1e-4, rtol=0)

def test_backward_is_unbiased():
    "The mean over the labels that a true class is given is the loss of that class"
    losses = -some_logits(1)[0]
    corrected = backward_labels(torch.arange(3), T.double()) @ losses
    torch.testing.assert_close(T.double() @ corrected, losses)

def test_backward_of_symmetric_noise_has_a_closed_form():
    k,e = 4,.3
    T4 = torch.full((k, k), e/(k - 1), dtype=torch.float64).fill_diagonal_(1 - e)
    losses,y = torch.rand(k, dtype=torch.float64),2
    c,b = 1 - e*k/(k - 1),e*k/(k - 1)
    torch.testing.assert_close(backward_labels(torch.tensor([y]), T4)[0] @ losses, (losses[y] - b*losses.mean())/c)

def test_a_weight_is_how_much_likelier_a_label_is_true_than_given():
    z = some_logits()
    p = z.softmax(1)
    torch.testing.assert_close(forward_weights(z, T.double()), p/(p @ T.double()))
    assert not forward_weights(z.requires_grad_(), T.double()).requires_grad

def test_posterior_is_bayes():
    z,y = some_logits(),torch.tensor([0, 1, 2, 0, 1, 2, 0])
    p = z.softmax(1)
    for i,row in enumerate(noise_posterior(z, y, T.double())):
        joint = p[i]*T.double()[:,y[i]]
        torch.testing.assert_close(row, joint/joint.sum())

# the estimates

def drawn(n=6000, sharp=8.):
    "Logits of the true class by a model that is mostly sure, and labels drawn by `T`"
    g = torch.Generator().manual_seed(0)
    true = torch.arange(n) % 3
    z = sharp*F.one_hot(true, 3) + torch.randn(n, 3, generator=g)
    return z, true, torch.multinomial(T[true], 1, generator=g)[:,0]

@pytest.mark.parametrize('by', ['em', 'count', 'confident'])
def test_estimates_by_a_model_of_the_true_class(by):
    z,true,given = drawn()
    torch.testing.assert_close(estimate_transition(z, given, by).T, T, atol=.04, rtol=0)

@pytest.mark.parametrize('by', ['anchor', 'dual-t', 'trusted'])
def test_estimates_by_a_model_of_the_given_label(by):
    z,true,given = drawn()
    noisy = forward_logits(z, T)
    if by == 'dual-t': # its counts are of what is predicted: a model of the given label that predicts the true class
        noisy = (z.softmax(1) @ torch.eye(3)).log()
    known = torch.where(torch.arange(len(true)) % 10 == 0, true, -1)
    torch.testing.assert_close(estimate_transition(noisy, given, by, true=known).T, T, atol=.04, rtol=0)

def test_hoc_needs_features_and_no_model():
    z,true,given = drawn(1500)
    with pytest.raises(ValueError, match="by='hoc' needs features"): estimate_transition(z, given, 'hoc')
    features = F.one_hot(true, 3) + .1*torch.randn(1500, 3, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(estimate_transition(z*0, given, 'hoc', features=features).T, T, atol=.08, rtol=0)

def test_trusted_needs_true_labels():
    with pytest.raises(ValueError, match="by='trusted' needs true"): estimate_transition(*drawn(60)[::2], 'trusted')

def test_estimates_leave_their_input_alone():
    p = torch.rand(50, 3).softmax(1)
    was = p.clone()
    anchor_matrix(p), dual_matrix(p, torch.arange(50) % 3)
    assert torch.equal(p, was)

def test_classes_without_samples():
    p = torch.tensor([[.9, .1, 0], [.8, .2, 0]])
    assert torch.equal(trusted_matrix(p, torch.tensor([0, -1]))[1:], torch.eye(3)[1:])
    assert estimate_transition(p.log(), torch.tensor([0, 1]), 'count').T[2].tolist() == [0, 0, 1]

def test_unknown_labels_are_left_out():
    z,_,given = drawn(600)
    some = torch.where(torch.arange(600) < 100, -1, given)
    assert torch.equal(estimate_transition(z, some, 'count').T, estimate_transition(z[100:], given[100:], 'count').T)

# the object

def test_matrix_says_what_it_is():
    m = TransitionMatrix(T, list('abc'))
    assert m.noise_rate() == pytest.approx(1 - (.8 + .7 + .8)/3)
    assert m.noise_rate([1, 0, 0]) == pytest.approx(.2)
    assert m.to_frame().loc['a', 'b'] == pytest.approx(.2) and '3 classes' in repr(m)

@pytest.mark.parametrize('bad,message', [
    (T.T*2, 'transposed'), (T[:2], r'shape \(2, 3\)'), ([[1.2, -.2], [0, 1]], 'rows that sum'),
    ([[float('nan'), 1], [0, 1]], 'T has entries')])
def test_what_is_no_matrix(bad, message):
    with pytest.raises(ValueError, match=message): TransitionMatrix(bad)

def test_names_for_each_class():
    with pytest.raises(ValueError, match='names has 2 entries for 3'): TransitionMatrix(T, ['a', 'b'])

@pytest.mark.parametrize('kwargs,message', [
    (dict(use='sideways'), "use='sideways': give one of"), (dict(by='trusted'), 'estimate_transition'),
    (dict(warmup=1.5), 'warmup=1.5'), (dict(T=torch.full((2, 2), .5), use='backward'), 'unstable'),
    (dict(T=[[.8, .1], [.2, .9]]), r'sum to 0.9 to 1.1.*transposed')])
def test_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message): TransitionCallback(**kwargs)

@pytest.mark.parametrize('kwargs,message', [
    (dict(lam=-1), 'lam=-1'), (dict(lr=-1), 'lr=-1'), (dict(diagonal=1.), 'diagonal=1.0')])
def test_arguments_of_volmin(kwargs, message):
    with pytest.raises(ValueError, match=message): VolMinNetCallback(**kwargs)

@pytest.mark.parametrize('option', [dict(lam=1e30), dict(lr=1e30)])
def test_volmin_that_overflows_says_so(option):
    "It trained the model to NaN without a word"
    with pytest.raises(ValueError, match='has become NaN: lower its learning rate'): fitted(VolMinNetCallback(**option))

def test_volmin_refuses_a_diagonal_of_chance():
    with pytest.raises(ValueError, match=r'of 3 classes give more than 0\.333'): fitted(VolMinNetCallback(diagonal=.3))

@pytest.mark.parametrize('k', [3, 10, 100])
def test_matrix_of_volmin(k):
    w = torch.full((k, k), volume_start(k))
    torch.testing.assert_close(learnt_matrix(w).diagonal(), torch.full((k,), .48))
    torch.testing.assert_close(learnt_matrix(torch.randn(k, k)).sum(1), torch.ones(k))
    if k > 3: assert volume_start(k) == pytest.approx({10: -2, 100: -4.5}[k], abs=.1) # the paper's

def test_two_classes_begin_above_a_half():
    cb = VolMinNetCallback()
    cb._make(2, None)
    torch.testing.assert_close(cb.matrix.T.diagonal(), torch.tensor([.6, .6]))

def test_dominance():
    assert is_dominant(T) and not is_dominant(torch.tensor([[.6, .4], [0, 1.]]))

# in training

def fitted(cb=None, n=2, cbs=(), **kwargs):
    learn = make('ce', cbs=[*([cb] if cb else []), *cbs], **kwargs)
    torch.manual_seed(0)
    learn.fit(n, LR)
    return learn

def test_before_the_estimate_it_is_plain_training():
    assert torch.equal(weights_of(fitted(TransitionCallback(warmup=2)).model), weights_of(fitted().model))

def test_the_identity_is_plain_training():
    plain = weights_of(fitted().model)
    for use in ('forward', 'reweight', 'backward'):
        torch.testing.assert_close(weights_of(fitted(transition(T=torch.eye(3), use=use)).model), plain)

def test_volmin_without_confusion_is_plain_training():
    "A matrix that begins as the identity and does not move"
    learn = fitted(VolMinNetCallback(lam=0, lr=0, diagonal=1 - 1e-7))
    torch.testing.assert_close(weights_of(learn.model), weights_of(fitted().model), atol=1e-4, rtol=1e-4)

def test_backward_with_mixup_is_linear_in_the_label():
    learn = fitted(transition(use='backward'), cbs=[MixUp(.4)])
    assert weights_of(learn.model).isfinite().all()

@pytest.mark.parametrize('use', ['forward', 'reweight', 'backward'])
def test_it_finds_the_true_class(use):
    "Three classes, of which one is given as the next in 4 cases of 10"
    def data():
        dls = make_dls(512)
        dataset = dls.train.dataset
        g = torch.Generator().manual_seed(3)
        dataset.y = torch.where(torch.rand(len(dataset.y), generator=g) < .4, (dataset.true + 1) % 3, dataset.true)
        return dls
    T = torch.eye(3)*.6 + torch.eye(3).roll(1, 1)*.4
    learn = fitted(transition(T=T, use=use), n=6, dls=data())
    plain = fitted(n=6, dls=data())
    def sure(learn):
        "Mean probability of the true class"
        with torch.no_grad(): p = learn.model.eval()(learn.dls.train.dataset.x).softmax(1)
        return p.gather(1, learn.dls.train.dataset.true[:,None]).mean().item()
    assert sure(learn) > sure(plain) + .1

def test_the_estimate_says_nothing():
    "A model that has not learnt anything: the labels are left as they are, and a warning says so"
    cb = TransitionCallback(warmup=1, by='anchor')
    learn = make('ce', cbs=[cb])
    with pytest.warns(UserWarning, match='does not say enough'): learn.fit(2, 0.)
    assert cb.in_force is None

def test_lr_find_estimates_nothing():
    cb = TransitionCallback(warmup=1)
    learn = make('ce', cbs=[cb])
    learn.lr_find(num_it=8, show_plot=False)
    assert cb.matrix is None and cb.n_epochs == 0

def test_wrong_number_of_classes():
    with pytest.raises(ValueError, match='matrix of 2 classes, and the model predicts 3'):
        fitted(TransitionCallback(T=[[.9, .1], [.2, .8]]))

def test_volmin_learns_the_matrix():
    "From the start value towards what the labels show"
    def data():
        dls = make_dls(512)
        dataset = dls.train.dataset
        dataset.y = torch.where(torch.arange(512) % 5 < 2, (dataset.true + 1) % 3, dataset.true)
        return dls
    learn = fitted(VolMinNetCallback(lr=.5), n=12, dls=data())
    M = learn.vol_min.matrix.T
    assert is_dominant(M) or M.diagonal().min() > .5
    assert (M[torch.arange(3), (torch.arange(3) + 1) % 3] > M[torch.arange(3), (torch.arange(3) + 2) % 3]).all()

# gold loss correction

def glc_learner(trusted, epochs=3, dls=None, cbs=(), **kwargs):
    cbs = [GLCCallback(trusted, **kwargs), *cbs]
    learn = Learner(dls or make_dls(), linear(), loss_func=CrossEntropyLossFlat(), cbs=cbs)
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, 1e-2)
    return learn

class LossOfRows(Callback):
    "What the rows of the last batch cost in the training, and what they cost with the plain loss"
    order,run_valid = 45,False
    def before_fit(self): self.loaded = []
    def before_train(self): self.loaded.append([])
    def after_loss(self):
        self.loaded[-1].append(self.learn.sample_ids)
        self.plain,self.ids = self.learn.sample_loss.detach(),self.learn.sample_ids
        said = self.learn.glc.batch_loss(self.learn.sample_loss)
        self.said = None if said is None else torch.where(said[1], said[0], self.learn.sample_loss).detach()

def test_glc_takes_the_matrix_from_the_trusted_samples():
    "They are left out of the warm-up; then their loss is the plain one, and that of the others the corrected one"
    trusted = np.arange(0, N, 3)
    learn = glc_learner(trusted, 1, warmup=1, cbs=[LossOfRows()])
    seen = torch.cat(learn.loss_of_rows.loaded[0])
    found = predict(learn)
    expected = trusted_matrix(found.logits[trusted].softmax(1), found.targets[trusted])
    torch.testing.assert_close(learn.glc.matrix.T, expected)
    assert sorted(seen.tolist()) == [i for i in range(N) if i % 3]
    learn.glc.matrix = TransitionMatrix(.7*np.eye(3) + .1)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-2)
    rows,is_trusted = learn.loss_of_rows,torch.as_tensor(np.isin(learn.loss_of_rows.ids, trusted))
    assert len(torch.cat(rows.loaded[0])) == N and 0 < is_trusted.sum() < len(is_trusted)
    assert torch.equal(rows.said == rows.plain, is_trusted)

def test_glc_by_the_validation_set():
    learn = glc_learner(None, 2, warmup=1)
    assert learn.glc.matrix is not None and not learn.glc.is_trusted.any()

def test_glc_corrects_where_any_sample_of_a_blend_is_not_trusted():
    learn = glc_learner(np.arange(0, N, 2), 1, warmup=1)
    learn.glc.matrix = TransitionMatrix(.7*np.eye(3) + .1)
    rows = []
    class Rows(Callback):
        order,run_valid = 45,False
        def after_loss(self):
            partners = self.learn.loss_func.__self__.yb1[0].rows
            rows.append((self.learn.glc.batch_loss(self.learn.sample_loss)[1], self.learn.sample_ids, partners))
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-2, cbs=[MixUp(.4), Rows()])
    for said,ids,partners in rows: assert torch.equal(said, (ids % 2 == 1) | (ids[partners] % 2 == 1))

def test_glc_without_anything_to_learn_from_or_to_correct():
    with pytest.raises(ValueError, match='trusted: all 64'): glc_learner(range(N))
    with pytest.raises(ValueError, match='trusted.*from 0 to 63'): glc_learner([N])
    with pytest.raises(ValueError, match='as `trusted`, or a validation set'):
        glc_learner(None, dls=DataLoaders(make_dls().train, device='cpu'))

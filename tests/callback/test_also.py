"ALSO: the step against a loop and its fixed point, the lazy form against the dense one, the callback in company."
import math
import numpy as np, pytest, torch
from sklearn.metrics import roc_auc_score
from hypothesis import given, settings, strategies as st
from fastai.basics import SGD, TensorBase
from fastai.callback.mixup import MixUp
from fastai.callback.schedule import lr_find
from fastai.callback.training import GradientAccumulation
from fastnoisy.all import METHODS, LiLAWCallback, digits_dls, run_one, small_cnn
from fastnoisy.callback.also import ALSOCallback, ALSOWeights, also_update
from fastnoisy.core.registry import Method
from fastnoisy.callback.also_optimizer import ALSOAdam, also_adam
from helpers import blob_dls, blobs, fitted_blobs as fitted, run_in_parts, weights_of
from helpers import Spy, Stop

def batches(n, bs, steps, seed=0, replace=False):
    g = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        ids = torch.randint(n, (bs,), generator=g) if replace else torch.randperm(n, generator=g)[:bs]
        yield ids, 4*torch.rand(bs, generator=g)

# the step

@pytest.mark.parametrize('objective, sign', [('min', -1), ('max', 1)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_update_in_a_loop(objective, sign, dtype):
    pi = torch.rand(5, dtype=dtype).softmax(0)
    prior = torch.rand(5, dtype=dtype).softmax(0)
    ids,losses,lr,tau = torch.tensor([0, 3, 3]),torch.tensor([1., .5, 2.], dtype=dtype),.1,.7
    expected = []
    for i in range(5):
        f = sum(v for j,v in zip(ids.tolist(), losses.tolist()) if j == i)
        expected.append(math.exp((math.log(pi[i]) + tau*lr*math.log(prior[i]) + sign*lr*f)/(1 + tau*lr)))
    expected = torch.tensor(expected, dtype=dtype)
    got = also_update(pi, ids, losses, lr, tau, prior, objective)
    torch.testing.assert_close(got, expected/expected.sum())
    assert got.dtype == dtype and got.sum().item() == pytest.approx(1)

@settings(max_examples=25, deadline=None)
@given(st.sampled_from(['min', 'max']), st.floats(.1, 3), st.floats(.05, 1), st.integers(0, 1000))
def test_fixed_point_is_the_gibbs_distribution(objective, tau, lr, seed):
    g = torch.Generator().manual_seed(seed)
    f,prior = 3*torch.rand(6, generator=g, dtype=torch.float64),torch.rand(6, generator=g, dtype=torch.float64).softmax(0)
    gibbs = (prior.log() + (-1 if objective == 'min' else 1)*f/tau).softmax(0)
    torch.testing.assert_close(also_update(gibbs, torch.arange(6), f, lr, tau, prior, objective), gibbs)
    pi = torch.full((6,), 1/6, dtype=torch.float64)
    for _ in range(int(30/(tau*lr)) + 30): pi = also_update(pi, torch.arange(6), f, lr, tau, prior, objective)
    torch.testing.assert_close(pi, gibbs, rtol=1e-5, atol=1e-8)

def test_without_decay_losses_add_up():
    pi = torch.full((3,), 1/3)
    for _ in range(4): pi = also_update(pi, torch.tensor([0]), torch.tensor([.5]), 1., 0.)
    torch.testing.assert_close(pi, torch.tensor([-2., 0., 0.]).softmax(0))

# the lazy form

@pytest.mark.parametrize('sign, objective', [(-1., 'min'), (1., 'max')])
@pytest.mark.parametrize('replace', [False, True])
@pytest.mark.parametrize('with_prior', [False, True])
@pytest.mark.parametrize('lr, tau', [(.02, .25), (.2, .5), (1., 1.)])
def test_lazy_is_dense(sign, objective, replace, with_prior, lr, tau):
    n,bs = 300,20
    prior = torch.rand(n, generator=torch.Generator().manual_seed(3)).softmax(0) if with_prior else None
    lazy = ALSOWeights(n, sign, prior)
    pi = (torch.full((n,), 1/n) if prior is None else prior).double()
    for t,(ids,losses) in enumerate(batches(n, bs, 400, replace=replace)):
        expected = n*pi[ids]
        assert (lazy.weights(ids)/expected - 1).abs().max() < 1e-3, t
        lazy.step(ids, losses, lr, tau)
        pi = also_update(pi, ids, losses, lr, tau, None if prior is None else prior.double(), objective)
    torch.testing.assert_close(lazy.all().double(), n*pi, rtol=1e-4, atol=1e-6)

@pytest.mark.parametrize('replace', [False, True])
@pytest.mark.parametrize('lr, tau', [(.02, .25), (.5, .5)])
def test_looking_ahead_is_dense_and_changes_nothing(replace, lr, tau):
    n,ahead,plain = 60,ALSOWeights(60),ALSOWeights(60)
    pi,last = torch.full((n,), 1/n, dtype=torch.float64),None
    for ids,losses in batches(n, 20, 100, replace=replace):
        half = pi if last is None else also_update(pi, *last, lr, tau)
        torch.testing.assert_close(ahead.weights_ahead(ids, lr, tau).double(), n*half[ids], rtol=1e-3, atol=1e-6)
        pi,last = also_update(pi, ids, losses, lr, tau),(ids, losses)
        ahead.step(ids, losses, lr, tau), plain.step(ids, losses, lr, tau)
        assert all(torch.equal(getattr(ahead, o), getattr(plain, o)) for o in ('u', 'at', 'sums')) and (ahead.decay, ahead.since) == (plain.decay, plain.since)

def test_weights_average_one():
    w = ALSOWeights(1000)
    for ids,losses in batches(1000, 50, 200): w.step(ids, 20*losses, .01, .5)
    assert w.all().mean().item() == pytest.approx(1, rel=1e-5)

def test_looking_changes_nothing():
    a,b = ALSOWeights(100),ALSOWeights(100)
    for ids,losses in batches(100, 10, 53): # ends between two refreshes
        a.step(ids, 10*losses, .01, .5), b.step(ids, 10*losses, .01, .5)
        b.all()
    assert torch.equal(a.sums, b.sums) and torch.equal(a.u, b.u)

def test_a_long_run_stays_finite():
    w = ALSOWeights(20)
    for ids,losses in batches(20, 5, 3000): w.step(ids, 100*losses, 1., .5)
    assert w.all().isfinite().all() and w.all().mean().item() == pytest.approx(1, rel=1e-4)

def test_step_touches_the_batch_only():
    "A step between two refreshes writes no weight outside the batch"
    w = ALSOWeights(1000)
    w.step(torch.tensor([3, 5]), torch.ones(2), 1e-5, .5)
    assert set(w.u.nonzero()[:,0].tolist()) == {3, 5} and set(w.at.nonzero()[:,0].tolist()) == {3, 5}

def test_scale_does_not_depend_on_n_or_batch_size():
    "The same losses in every epoch come to the same relative weights, whatever the size of data and batch"
    def ratio(n, bs):
        w,s = ALSOWeights(n),n//bs
        lr = math.expm1(1/(3*s))/.5
        losses = torch.where(torch.arange(n) % 2 == 0, .2, 2.)
        for _ in range(6):
            for ids in torch.arange(n).split(bs): w.step(ids, losses[ids]*s, lr, .5)
        a = w.all()
        return (a[1::2].mean()/a[::2].mean()).log().item()
    values = [ratio(64, 8), ratio(64, 32), ratio(640, 8)]
    assert max(values) - min(values) < .35 and all(v == pytest.approx(-(1.8/.5)*(1 - math.exp(-2)), abs=.4) for v in values)

# the callback

def test_callback_is_the_dense_update_step_by_step():
    spy,cb = Spy(),ALSOCallback(temperature=.5, horizon=2.)
    fitted([cb, spy])
    pi,lr = torch.full((96,), 1/96, dtype=torch.float64),math.expm1(1/(2*6))/.5
    for o in spy.seen:
        torch.testing.assert_close(o['sample_weight'].double(), 96*pi[o['sample_ids']], rtol=1e-3, atol=1e-5)
        pi = also_update(pi, o['sample_ids'], o['sample_loss'].as_subclass(torch.Tensor)*6, lr, .5)
    torch.testing.assert_close(torch.tensor(cb.to_frame().weight.values).double(), 96*pi, rtol=1e-3, atol=1e-5)

def test_a_huge_temperature_is_plain_training():
    torch.testing.assert_close(weights_of(fitted(ALSOCallback(temperature=1e6)).model), weights_of(fitted(None).model), rtol=1e-3, atol=1e-4)

def test_objectives_are_opposite():
    losses = fitted(None, n=3).get_preds(ds_idx=0, with_loss=True)[2].numpy()
    for objective,sign in (('min', -1), ('max', 1)):
        df = fitted(ALSOCallback(objective)).also.to_frame()
        assert np.sign(np.corrcoef(df.weight, losses)[0, 1]) == sign
        assert np.corrcoef(df.label_quality, losses)[0, 1] < 0 and df.label_quality.between(0, 1).all()

def test_descent_ascent_is_the_weights_with_the_learners_adam():
    a,b = fitted(ALSOCallback(mode='weights')),fitted(ALSOCallback(mode='descent-ascent'))
    assert torch.equal(weights_of(a.model), weights_of(b.model)) and torch.equal(a.also.pi.u, b.also.pi.u)
    c = fitted(ALSOCallback(mode='descent-ascent'), opt_func=also_adam)
    assert torch.equal(weights_of(a.model), weights_of(c.model)) and type(c.opt) is ALSOAdam

@pytest.mark.parametrize('cbs', [[MixUp(.4)], [GradientAccumulation(48)], [LiLAWCallback()]])
def test_company_of_the_optimistic_mode(cbs):
    learn = fitted([ALSOCallback(mode='optimistic'), *cbs])
    assert learn.also.to_frame().weight.nunique() > 90 and np.isfinite(learn.recorder.values[-1]).all()

def test_the_last_batch_is_saved_as_plain_tensors():
    "Another type could not be loaded again"
    w,ids = ALSOWeights(5),torch.arange(3)
    w.step(ids, TensorBase(torch.ones(3)), .1, .5)
    fresh = ALSOWeights(5)
    fresh.load_state_dict(w.state_dict())
    assert [type(o) for o in w.state_dict()['last']] == [torch.Tensor, torch.Tensor]
    assert torch.equal(fresh.weights_ahead(ids, .1, .5), w.weights_ahead(ids, .1, .5)) and not torch.equal(fresh.weights_ahead(ids, .1, .5), w.weights(ids))

def test_optimistic_wrong_labels(monkeypatch):
    monkeypatch.setitem(METHODS, 'also-optimistic', Method('also-optimistic', lambda: dict(cbs=ALSOCallback(mode='optimistic')), ''))
    learn,row = run_one(digits_dls(noise=.4, device='cpu'), lambda: small_cnn(3, 10), 'also-optimistic', 10)
    assert row['last'] > .9 and roc_auc_score(learn.dls.noise.flipped.numpy(), -learn.also.to_frame().weight) > .98

def test_wrong_labels_are_found_and_not_learnt():
    plain = run_one(digits_dls(noise=.4, device='cpu'), lambda: small_cnn(3, 10), 'ce', 20)[1]
    learn,row = run_one(digits_dls(noise=.4, device='cpu'), lambda: small_cnn(3, 10), 'also', 20)
    df = learn.also.to_frame()
    assert roc_auc_score(learn.dls.noise.flipped.numpy(), -df.weight) > .98
    assert row['last'] > plain['last'] + .05 and list(df.columns) == ['sample_id', 'weight', 'label_quality']

def test_groups():
    _,y = blobs()
    learn = fitted(ALSOCallback('max', groups=y.numpy(), temperature=.5))
    df = learn.also.to_frame()
    assert learn.also.pi.n == 3 and len(df) == 96
    assert all(df.weight[y.numpy() == k].nunique() == 1 for k in range(3)) and df.weight.nunique() == 3

def test_prior():
    prior = np.where(np.arange(96) % 2, 1., 3.)
    spy = Spy()
    fitted([ALSOCallback(prior=prior, temperature=1e6), spy], n=1)
    for o in spy.seen: torch.testing.assert_close(o['sample_weight'], torch.where(o['sample_ids'] % 2 == 1, .5, 1.5), rtol=1e-3, atol=1e-3)

@pytest.mark.parametrize('cbs', [[MixUp(.4)], [GradientAccumulation(48)], [LiLAWCallback()]])
def test_company(cbs):
    learn = fitted([ALSOCallback(), *cbs])
    assert learn.also.to_frame().weight.nunique() > 90 and np.isfinite(learn.recorder.values[-1]).all()

def test_save_load_lr_find_fit_twice(learner):
    learn = learner(ALSOCallback())
    learn.fit(2, 1e-2)
    learn.save('m')
    before = learn.also.to_frame().weight.values
    learn.lr_find(show_plot=False, num_it=8)
    assert np.array_equal(learn.also.to_frame().weight.values, before)
    fresh = learner(ALSOCallback()).load('m')
    np.testing.assert_allclose(fresh.also.to_frame().weight.values, before, rtol=1e-5)
    fresh.fit(1, 1e-2)
    assert not np.allclose(fresh.also.to_frame().weight.values, before)
    with pytest.raises(KeyboardInterrupt): learn.fit(1, cbs=Stop('after_loss', KeyboardInterrupt))
    learn.fit(1)

def test_resumed_equals_uninterrupted(learner):
    make = lambda: learner(ALSOCallback(), opt_func=SGD)
    a,b = run_in_parts(make, [4]),run_in_parts(make, [2, 2])
    assert torch.equal(weights_of(a.model), weights_of(b.model))
    assert np.array_equal(a.also.to_frame().weight, b.also.to_frame().weight)

@pytest.mark.parametrize('kwargs, name', [(dict(objective='mean'), 'objective'), (dict(mode='adam'), 'mode'), (dict(temperature=0.), 'temperature'), (dict(temperature='hot'), 'temperature'), (dict(horizon=-1.), 'horizon')])
def test_wrong_arguments(kwargs, name):
    with pytest.raises(ValueError, match=name): ALSOCallback(**kwargs)

@pytest.mark.parametrize('kwargs, says', [(dict(prior=np.ones(5)), 'prior: shape'), (dict(prior=np.zeros(96)), 'weights > 0'), (dict(groups=np.zeros(5, int)), 'groups: shape')])
def test_arguments_that_do_not_fit_the_data(kwargs, says):
    with pytest.raises(ValueError, match=says): fitted(ALSOCallback(**kwargs))

def test_other_data_set(learner):
    learn = learner(ALSOCallback())
    with pytest.raises(ValueError, match='train first'): learn.also.to_frame()
    learn.fit(1)
    learn.save('m')
    learn.dls = blob_dls(n=48)
    with pytest.raises(ValueError, match='96 samples, but the training set now has 48'): learn.fit(1)
    other = learner(ALSOCallback(), dls=blob_dls(n=48))
    other.fit(1)
    with pytest.raises(ValueError, match='state of 96 training samples'): other.load('m')

def test_registered(): assert isinstance(METHODS['also'].make()['cbs'], ALSOCallback)

"ALSO: the step against a loop and its fixed point, the lazy form against the dense one, the callback in company."
import math
import numpy as np, pytest, torch
from sklearn.metrics import roc_auc_score
from hypothesis import given, settings, strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from fastai.basics import SGD, TensorBase
from fastai.callback.mixup import MixUp
from fastai.callback.schedule import lr_find
from fastai.callback.training import GradientAccumulation
from fastnoisy.all import METHODS, LiLAWCallback, digits_dls, run_one, small_cnn
from fastnoisy.callback.also import ALSOCallback, ALSOWeights, also_update, class_means, class_wise
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
@pytest.mark.parametrize('lr, tau', [(.002, .25), (.02, .25), (.2, .5), (1., 1.)])
@pytest.mark.parametrize('small', [0, 512])
def test_lazy_is_dense(sign, objective, replace, with_prior, lr, tau, small):
    n,bs = 300,20
    prior = torch.rand(n, generator=torch.Generator().manual_seed(3)).softmax(0) if with_prior else None
    lazy = ALSOWeights(n, sign, prior)
    lazy.small = small
    pi = (torch.full((n,), 1/n) if prior is None else prior).double()
    for t,(ids,losses) in enumerate(batches(n, bs, 400, replace=replace)):
        expected = n*pi[ids]
        assert (lazy.weights(ids)/expected - 1).abs().max() < 1e-3, t
        lazy.step(ids, losses, lr, tau)
        pi = also_update(pi, ids, losses, lr, tau, None if prior is None else prior.double(), objective)
    torch.testing.assert_close(lazy.all().double(), n*pi, rtol=1e-4, atol=1e-6)

@pytest.mark.parametrize('replace', [False, True])
@pytest.mark.parametrize('lr, tau', [(.02, .25), (.5, .5)])
@pytest.mark.parametrize('small', [0, 512])
def test_looking_ahead_is_dense_and_changes_nothing(replace, lr, tau, small):
    n,ahead,plain = 60,ALSOWeights(60),ALSOWeights(60)
    ahead.small = plain.small = small
    pi,last = torch.full((n,), 1/n, dtype=torch.float64),None
    for ids,losses in batches(n, 20, 100, replace=replace):
        half = pi if last is None else also_update(pi, *last, lr, tau)
        torch.testing.assert_close(ahead.weights_ahead(ids, lr, tau).double(), n*half[ids], rtol=1e-3, atol=1e-6)
        pi,last = also_update(pi, ids, losses, lr, tau),(ids, losses)
        ahead.step(ids, losses, lr, tau), plain.step(ids, losses, lr, tau)
        assert torch.equal(ahead.u, plain.u) and torch.equal(ahead.sums, plain.sums) and ahead.since == plain.since

def dense_and_lazy(n, bs, steps, lr, tau, objective, scale, with_prior, small, seed):
    "Weights after some steps: those of `also_update` in float64, and those of ALSOWeights"
    g = torch.Generator().manual_seed(seed)
    prior = torch.rand(n, generator=g).add(.1) if with_prior else torch.ones(n)
    prior = prior/prior.sum()
    lazy,pi = ALSOWeights(n, 1. if objective == 'max' else -1., prior if with_prior else None),prior.double()
    log_prior,u,spread = prior.double().log(),torch.zeros(n, dtype=torch.float64),0.
    lazy.small = small
    for _ in range(steps):
        ids,losses = torch.randint(n, (bs,), generator=g),scale*torch.rand(bs, generator=g)
        lazy.step(ids, losses, lr, tau)
        u = (u + (-1 if objective == 'min' else 1)*lr*torch.zeros_like(u).index_add_(0, ids, losses.double()))/(1 + tau*lr)
        pi = also_update(pi.clamp(min=1e-300), ids, losses.double(), lr, tau, prior.double(), objective)
        spread = max(spread, (u.max() - u.min()).item())
    return n*(log_prior + u).softmax(0), n*pi, lazy, spread

@settings(max_examples=150, deadline=None)
@given(n=st.integers(1, 40), bs=st.integers(1, 48), steps=st.integers(1, 60), lr=st.floats(-3, 1), tau=st.floats(-2, .5),
       objective=st.sampled_from(['min', 'max']), scale=st.floats(-1, 3), with_prior=st.booleans(), small=st.sampled_from([0, 512]), seed=st.integers(0, 10**6))
def test_steps_are_dense(n, bs, steps, lr, tau, objective, scale, with_prior, small, seed):
    "Tiny and larger sets, small and huge steps, ids that occur many times, added up each time or now and then"
    expected,updated,lazy,spread = dense_and_lazy(n, bs, steps, 10**lr, 10**tau, objective, 10**scale, with_prior, small, seed)
    for got in (lazy.all().double(), lazy.weights(torch.arange(n)).double()):
        assert got.isfinite().all() and got.sum().item() == pytest.approx(n, rel=1e-3)
        seen = expected > 1e-30
        assert ((got/expected)[seen].log().abs() < 1e-3 + 1e-6*spread).all() and (got[~seen] < 1e-29).all()
    if spread < 600: torch.testing.assert_close(expected, updated, rtol=1e-6, atol=1e-9)

def test_two_weights_and_large_batches():
    "The case that was 57 times too large"
    lazy,pi = ALSOWeights(2),torch.full((2,), .5, dtype=torch.float64)
    for ids,losses in batches(2, 16, 200, replace=True):
        lazy.step(ids, losses, .05, .25)
        pi = also_update(pi, ids, losses.double(), .05, .25)
        torch.testing.assert_close(lazy.weights(torch.arange(2)).double(), 2*pi, rtol=1e-4, atol=1e-9)

@pytest.mark.parametrize('small', [0, 512])
@pytest.mark.parametrize('sign', [-1., 1.])
@pytest.mark.parametrize('losses', [[2.3, 2.3, 2.3, 60.], [6.9, 6.95, 7., 7.05], [100., 101., 102., 120.], [1e-3, 1e6, 1., 1e5], [1e30, 1., 2., 3e38]])
def test_extreme_losses_give_weights(losses, sign, small):
    w,ids = ALSOWeights(4, sign),torch.arange(4)
    w.small = small
    for _ in range(40):
        w.step(ids, torch.tensor(losses), .1, .05)
        for o in (w.all(), w.weights(ids), w.weights_ahead(ids, .1, .05)):
            assert o.isfinite().all() and (o >= 0).all() and o.sum().item() == pytest.approx(4, rel=1e-3)

def test_what_had_all_the_weight_loses_it():
    "Between two sums most of the normaliser goes; what is left of it in float64 would be noise"
    n,w = 2000,ALSOWeights(2000)
    pi,losses = torch.full((n,), 1/n, dtype=torch.float64),torch.linspace(3e4, 3.01e4, n)
    for ids in torch.arange(n).split(50):
        w.step(ids, losses[ids], .004, .25)
        pi = also_update(pi, ids, losses[ids].double(), .004, .25).clamp(min=1e-300)
        pi = pi/pi.sum()
        assert w.weights(torch.arange(n)).sum().item() == pytest.approx(n, rel=1e-3) and w.weights(torch.arange(n)).max() <= n

def test_a_step_makes_nothing_larger_than_the_batch():
    class Largest(TorchDispatchMode):
        n = 0
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            res = func(*args, **(kwargs or {}))
            if isinstance(res, torch.Tensor): self.n = max(self.n, res.numel()*(res.data_ptr() not in own))
            return res
    w,ids = ALSOWeights(100_000),torch.randperm(100_000)[:5000]
    own = {getattr(w, o).data_ptr() for o in ('u', 'slot')} # writing into these gives them back
    with Largest() as seen:
        w.step(ids, torch.ones(5000), 1e-5, .25)
        w.weights_ahead(ids, 1e-5, .25)
    assert 5000 <= seen.n <= 40_000

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

def test_goes_on_from_a_saved_state_bit_for_bit():
    a,b = ALSOWeights(600),ALSOWeights(600)
    for ids,losses in batches(600, 30, 33): a.step(ids, 20*losses, .001, .5)
    b.load_state_dict(a.state_dict())
    for w in (a, b):
        for ids,losses in batches(600, 30, 60, seed=1): w.step(ids, 20*losses, .001, .5)
    assert torch.equal(a.u, b.u) and torch.equal(a.sums, b.sums) and torch.equal(a.weights(torch.arange(600)), b.weights(torch.arange(600)))

def test_a_state_of_version_0_1_is_taken():
    "It was not centred, knew fewer numbers, and for each sample how much all had decayed when it was touched last"
    w,ids = ALSOWeights(600),torch.arange(600)
    for o,losses in batches(600, 30, 33): w.step(o, losses, .001, .5)
    old = {k: v for k,v in w.state_dict().items() if k not in ('moved', 'top')}
    s0,s1,s2 = old['sums'].unbind()
    decay,at = 5.,5 - old['since']*torch.rand(600, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    now = old['u']*math.exp(-old['since']) - 300
    old.update(u=(now*(decay - at).exp()).float(), at=at, decay=decay, sums=math.exp(-300)*torch.stack([s0, s1 - 300*s0, s2 - 600*s1 + 9e4*s0]))
    fresh = ALSOWeights(600)
    fresh.load_state_dict(old)
    torch.testing.assert_close(fresh.weights(ids), w.weights(ids), rtol=1e-3, atol=1e-6)
    for o in (w, fresh): o.step(ids[:30], torch.ones(30), .001, .5)
    torch.testing.assert_close(fresh.weights(ids), w.weights(ids), rtol=1e-3, atol=1e-6)

def test_a_long_run_stays_finite():
    w = ALSOWeights(20)
    for ids,losses in batches(20, 5, 3000): w.step(ids, 100*losses, 1., .5)
    assert w.all().isfinite().all() and w.all().mean().item() == pytest.approx(1, rel=1e-4)

def test_step_touches_the_batch_only():
    "A step between two refreshes writes no weight outside the batch"
    w = ALSOWeights(1000)
    w.step(torch.tensor([3, 5]), torch.ones(2), 1e-5, .5)
    assert set(w.u.nonzero()[:,0].tolist()) == {3, 5}

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

def test_a_tiny_horizon_is_the_last_loss():
    "The step overflowed; beyond a twentieth of a step all that went before is forgotten to the last bit"
    short,none = (fitted(ALSOCallback(horizon=o)) for o in (1e-3, 1e-300))
    assert torch.equal(short.also.pi.all(), none.also.pi.all()) and weights_of(none.model).isfinite().all()
    assert none.also.pi.all().std() > 0

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

def test_groups_from_a_file_that_was_not_trained_on(learner):
    "The table is made of an array as of a tensor, wherever that lies"
    _,y = blobs()
    learn = learner(ALSOCallback('max', groups=y.numpy()))
    learn.fit(1)
    learn.save('m')
    fresh = learner(ALSOCallback('max', groups=y.numpy())).load('m')
    np.testing.assert_allclose(fresh.also.to_frame().weight, learn.also.to_frame().weight, rtol=1e-6)
    class Elsewhere(torch.Tensor):
        def __array__(self, *args, **kwargs): raise TypeError("can't convert cuda tensor to numpy")
        def numpy(self): raise TypeError("can't convert cuda tensor to numpy")
        def cpu(self): return self.as_subclass(torch.Tensor)
    fresh.also.groups = fresh.also.groups if isinstance(fresh.also.groups, torch.Tensor) else torch.as_tensor(fresh.also.groups)
    fresh.also.groups = fresh.also.groups.as_subclass(Elsewhere)
    np.testing.assert_allclose(fresh.also.to_frame().weight, learn.also.to_frame().weight, rtol=1e-6)

@pytest.mark.parametrize('objective', ['min', 'max'])
def test_says_what_its_frame_says(objective):
    cb = ALSOCallback(objective)
    assert cb.label_quality() is None and cb.trust() is None
    fitted(cb)
    df = cb.to_frame()
    assert np.array_equal(cb.label_quality(), df.label_quality) and cb.label_quality().max() == 1
    rated = df.weight if objective == 'min' else 1/df.weight
    assert np.array_equal(cb.trust(), rated.clip(upper=1)) and .2 < (cb.trust() < 1).mean() < .8

def test_weights_of_a_class_by_a_loop():
    g = torch.Generator().manual_seed(0)
    w,y = torch.rand(200, generator=g)*3,torch.randint(-1, 4, (200,), generator=g)
    means = class_means(w, y, 6) # of the classes 4 and 5 there are none
    got = class_wise(w, y, means)
    for i in range(200):
        own = [w[j].item() for j in range(200) if y[j] == y[i]]
        expected = w[i].item() if y[i] < 0 else w[i].item()/(sum(own)/len(own))
        assert got[i].item() == pytest.approx(expected, rel=1e-5)
    assert means[4:].tolist() == [1, 1]
    for k in range(4): assert got[y == k].mean().item() == pytest.approx(1, rel=1e-5)
    part = class_wise(w, y, means, .3)
    torch.testing.assert_close(part, .7*w + .3*got, rtol=1e-5, atol=1e-6)
    for k in range(4): assert part[y == k].mean().item() == pytest.approx(.3 + .7*w[y == k].mean().item(), rel=1e-5)
    assert class_wise(w, y, means, 0.).equal(w) and class_wise(w, y, means, 1.).equal(got)
    gone = torch.where(y == 2, 1e-20, 1.) # a class that has lost all its weight
    assert class_wise(gone, y, class_means(gone, y, 4), .3)[y == 2].mean().item() == pytest.approx(.3, rel=1e-5)

@pytest.mark.parametrize('by_class', [-.1, 1.1, 'yes', None])
def test_no_share_of_by_class(by_class):
    with pytest.raises(ValueError, match='by_class'): ALSOCallback(by_class=by_class)

def test_a_floor_of_nothing_is_no_floor_and_one_is_the_class_alone():
    def trained(by_class):
        learn = fitted(ALSOCallback(temperature=.5, horizon=3, by_class=by_class), n=3)
        return weights_of(learn.model)
    assert trained(0).equal(trained(False)) and trained(1.).equal(trained(True))
    assert not trained(.3).equal(trained(0)) and not trained(.3).equal(trained(1))

@pytest.mark.parametrize('share', [True, .3])
def test_by_class_the_weights_in_force_average_one_in_each_class(share):
    "By the means at the start of the epoch; of a share of 1, else that much of them"
    seen = {}
    class Look(Spy):
        def before_train(self): self.weight = torch.from_numpy(self.learn.also.to_frame().weight.values)
        def after_loss(self):
            if self.epoch == 3 and self.iter == 0: seen.update(
                ids=self.sample_ids, before=self.weight, now=self.learn.sample_weight, y=self.learn.yb[0])
    learn = fitted([ALSOCallback(temperature=.5, horizon=3, by_class=share), Look()], n=4)
    y = torch.as_tensor([int(learn.dls.train.dataset[i][1]) for i in range(96)])
    means = torch.stack([seen['before'][y == k].mean() for k in range(3)])
    expected = (share*seen['before']/means[y] + (1 - share)*seen['before'])[seen['ids']]
    assert y[seen['ids']].equal(seen['y'].long()) and expected.std() > .05
    torch.testing.assert_close(seen['now'], expected.to(seen['now']), rtol=1e-4, atol=1e-5)
    assert learn.also.classes.tolist() == y.tolist()
    weight = learn.also.to_frame().weight
    assert weight.mean() == pytest.approx(1, rel=1e-4) # those of all samples together, for the label quality
    sd = learn.also.state_dict()
    other = ALSOCallback(by_class=True)
    other.load_state_dict(sd)
    assert other.classes.tolist() == y.tolist()

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

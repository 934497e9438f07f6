"The hypergradient against finite differences of real steps, and LiLAW with it."
import copy
import pytest, torch
import torch.nn.functional as F
from functools import partial
from torch import nn
from torch.func import functional_call
from fastai.basics import DataLoaders, Learner, SGD, TfmdDL, CrossEntropyLossFlat
from fastai.callback.core import Callback
from fastai.callback.mixup import MixUp
from fastai.callback.progress import ProgressCallback
from fastai.callback.schedule import lr_find
from fastai.callback.training import GradientAccumulation
from fastnoisy.callback.lilaw import LiLAWCallback, difficulty, terms_at
from fastnoisy.models import StackedLSTM
from fastnoisy.losses.robust import BootstrappingLoss, GJSLoss, NFLLoss, NFLMAELoss, NGCELoss
from fastnoisy.core.hypergradient import VIRTUAL_STEPS, LastLayer, WholeModel, hypergradient, logit_tangents, trained
from helpers import blob_learner, blobs, small_model, weights_of

class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention,self.head = nn.MultiheadAttention(4, 2, batch_first=True),nn.Linear(4, 3)
    def forward(self, x): return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))

NETS = dict(mlp=lambda: (nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), (8, 4)),
            batchnorm=lambda: (nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)), (8, 4)),
            cnn=lambda: (nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.SiLU(inplace=True), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(27, 3)), (8, 1, 8, 8)),
            lstm=lambda: (StackedLSTM(2, 3, hidden_size=4), (8, 2, 5)),
            attention=lambda: (Attention(), (8, 5, 4)))

def net(name):
    model,shape = NETS[name]()
    return model.double(), torch.randn(shape, dtype=torch.double)

@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('name', NETS)
def test_tangents_are_differences(name, training):
    model,x = net(name)
    here = {n: p.detach().clone() for n,p in model.named_parameters()}
    direction = {n: torch.randn_like(p) for n,p in here.items()}
    before,mode,stream = weights_of(model),[m.training for m in model.modules()],torch.get_rng_state()
    logits,tangents = logit_tangents(model, here, direction, x, training=training)
    assert weights_of(model).equal(before) and [m.training for m in model.modules()] == mode and torch.get_rng_state().equal(stream)
    model.train(training)
    def at(t): return functional_call(model, {n: p + t*direction[n] for n,p in here.items()}, (x,))
    torch.testing.assert_close(logits, at(0.).detach())
    torch.testing.assert_close(tangents, ((at(1e-6) - at(-1e-6))/2e-6).detach(), rtol=1e-5, atol=1e-6)
    assert not tangents.requires_grad and all(p.grad is None for p in model.parameters())

def test_logits_that_do_not_depend_on_the_parameters():
    model = nn.Sequential(nn.Linear(2, 2))
    _,tangents = logit_tangents(model, {}, {}, torch.ones(3, 2))
    assert tangents.equal(torch.zeros(3, 2))

def weigh(flow, normalise, params, z, y, fixed):
    "LiLAW's weighted losses, written anew"
    probs = (z if flow else fixed).softmax(1)
    s,m = probs[range(len(y)), y],probs.max(1).values
    w = torch.sigmoid(params[0]*s - m) + torch.sigmoid(m - params[1]*s) + torch.exp(-(params[2]*s - m)**2/2)
    return (w/w.mean() if normalise else w) * -z.log_softmax(1)[range(len(y)), y]

def after_step(model, of, params, x, y, lr, flow, normalise):
    "A real step of SGD on a copy of the model"
    model = copy.deepcopy(model).train()
    z = model(x)
    moved = list(model.parameters()) if of == 'all' else list([m for m in model.modules() if isinstance(m, nn.Linear)][-1].parameters())
    grads = torch.autograd.grad(weigh(flow, normalise, params, z, y, z.detach()).mean(), moved)
    with torch.no_grad():
        for p,g in zip(moved, grads): p -= lr*g
    return model

def differences(model, of, params, x, y, x_valid, y_valid, lr, eps=1e-4, **kwargs):
    def loss(params): return F.cross_entropy(after_step(model, of, params, x, y, lr, **kwargs).eval()(x_valid), y_valid).item()
    return torch.tensor([(loss(params + e) - loss(params - e))/(2*eps) for e in eps*torch.eye(len(params), dtype=params.dtype)], dtype=params.dtype)

@pytest.mark.parametrize('of', VIRTUAL_STEPS)
@pytest.mark.parametrize('flow', [True, False])
@pytest.mark.parametrize('normalise', [True, False])
@pytest.mark.parametrize('name', NETS)
def test_against_real_steps(name, of, flow, normalise):
    (model,x),lr = net(name),.05
    x_valid,y,y_valid = torch.randn(12, *x.shape[1:], dtype=torch.double),torch.arange(8) % 3,torch.arange(12) % 3
    params = torch.tensor([4., 1., 2.], dtype=torch.double)
    expected = differences(model, of, params, x, y, x_valid, y_valid, lr, flow=flow, normalise=normalise)
    virtual = VIRTUAL_STEPS[of](model)
    logits = model.train()(x)
    virtual.before_step((x,), logits)
    stepped = after_step(model, of, params, x, y, lr, flow, normalise)
    if name in ('batchnorm', 'cnn'): stepped.load_state_dict({k: v for k,v in model.state_dict().items() if 'running' in k}, strict=False)
    model.load_state_dict(stepped.state_dict())
    fixed,tangents = virtual.tangents((x_valid,), lambda z: F.cross_entropy(z, y_valid))
    torch.testing.assert_close(fixed, logits.detach())
    got = lr*hypergradient(lambda params, z: weigh(flow, normalise, params, z, y, fixed), params, fixed, tangents)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-9)
    assert got.abs().max() > 1e-6

def test_per_sample_products_in_a_loop():
    "The formula itself: -(1/B) sum of dW_i/dphi <g, grad l_i>"
    model,x = net('mlp')
    y,params = torch.arange(8) % 3,torch.tensor([4., 1., 2.], dtype=torch.double)
    g = {n: torch.randn_like(p) for n,p in model.named_parameters()}
    losses = F.cross_entropy(model(x), y, reduction='none')
    inner = torch.stack([sum((a*b).sum() for a,b in zip(torch.autograd.grad(l, model.parameters(), retain_graph=True), g.values())) for l in losses])
    s_y,s_max = difficulty(model(x).softmax(1).detach(), y)
    dW = torch.stack([torch.autograd.functional.jacobian(lambda p: terms_at(s[None], m[None], *p).sum(), params) for s,m in zip(s_y, s_max)])
    logits,tangents = logit_tangents(model, {n: p.detach() for n,p in model.named_parameters()}, g, x)
    got = hypergradient(lambda p, z: terms_at(s_y, s_max, *p.unbind()).sum(1) * F.cross_entropy(z, y, reduction='none'), params, logits, tangents)
    torch.testing.assert_close(got, -(dW*inner[:,None]).mean(0))

def test_frozen_parameters_are_not_moved():
    model,_ = net('mlp')
    model[0].requires_grad_(False)
    assert set(trained(model)) == {'2.weight', '2.bias'}

def test_errors_of_the_last_layer():
    with pytest.raises(ValueError, match="meta_of='head'.*no linear layer"): LastLayer(nn.Conv2d(1, 1, 1))
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Unflatten(1, (2, 3)), nn.Flatten(2), nn.AvgPool1d(3), nn.Flatten())
    virtual = LastLayer(model)
    with pytest.raises(ValueError, match=r"gives \(5, 6\), the model \(5, 2\)"): virtual.before_step((), model(torch.ones(5, 4)))
    virtual.close()
    assert not model[0]._forward_hooks

def one_batch_learner(**kwargs):
    "A batch of 32 to train on, 24 to validate with, SGD without momentum"
    (x,y),(xv,yv) = blobs(32, seed=0),blobs(24, seed=1)
    y = torch.where(torch.arange(32) % 4 == 0, (y+1) % 3, y)
    dls = DataLoaders(TfmdDL(list(zip(x, y)), bs=32, device='cpu'), TfmdDL(list(zip(xv, yv)), bs=24, device='cpu'))
    model = small_model()
    model[3].p = 0.
    learn = Learner(dls, model, loss_func=CrossEntropyLossFlat(), opt_func=partial(SGD, mom=0.), wd=0., cbs=LiLAWCallback(warmup=0, wd=0., lr=.5, **kwargs))
    learn.remove_cb(ProgressCallback)
    return learn,(x, y, xv, yv)

@pytest.mark.parametrize('of', ['all', 'head'])
@pytest.mark.parametrize('detach', [True, False])
@pytest.mark.parametrize('normalise', [True, False])
def test_callback_against_real_steps(of, detach, normalise):
    learn,(x, y, xv, yv) = one_batch_learner(meta='hypergradient', meta_of=of, detach=detach, normalise=normalise, alpha=4., delta=2., beta=1.)
    params,model = torch.tensor([4., 1., 2.], dtype=torch.double),copy.deepcopy(learn.model).double()
    if of == 'head':
        for p in list(model.parameters())[:-2]: p.requires_grad_(False)
        for p in list(learn.model.parameters())[:-2]: p.requires_grad_(False)
    expected = differences(model, of, params, x.double(), y, xv.double(), yv, 1e-3, flow=not detach, normalise=normalise)/1e-3
    with learn.no_logging(): learn.fit(1, 1e-3)
    got = (params - torch.tensor(learn.lilaw.state.path[0]))/.5
    torch.testing.assert_close(got, expected, rtol=2e-3, atol=2e-5)

@pytest.mark.parametrize('loss', [NFLLoss(), NFLMAELoss(), NGCELoss(), BootstrappingLoss(), GJSLoss(), NFLLoss(detach=True)])
def test_callback_with_a_loss_of_known_slope(loss):
    learn,_ = one_batch_learner(meta='hypergradient')
    learn.loss_func = loss
    with learn.no_logging(): learn.fit(2, .1)
    path = torch.tensor(learn.lilaw.state.path)
    assert path.isfinite().all() and (path[0] != path[1]).any()

def test_of_all_where_only_the_head_is_trained_is_of_head():
    paths = []
    for of in VIRTUAL_STEPS:
        learn,_ = one_batch_learner(meta='hypergradient', meta_of=of)
        for p in list(learn.model.parameters())[:-2]: p.requires_grad_(False)
        with learn.no_logging(): learn.fit(3, .1)
        paths.append(torch.tensor(learn.lilaw.state.path))
    torch.testing.assert_close(*paths)

def test_both_directions_occur():
    "The direct gradient can only lower alpha and raise beta; this one follows the data"
    signs = set()
    for seed in range(12):
        learn = blob_learner(LiLAWCallback(warmup=0, wd=0., lr=10., meta='hypergradient', normalise=True), seed=seed)
        learn.fit(1, 1e-2)
        signs |= set(torch.tensor(learn.lilaw.state.path).diff(dim=0)[:,0].sign().tolist())
    assert {-1., 1.} <= signs

@pytest.mark.parametrize('of', VIRTUAL_STEPS)
@pytest.mark.parametrize('cbs', [[], [MixUp()], [GradientAccumulation(32)]], ids=['alone', 'mixup', 'accumulation'])
def test_in_company(of, cbs):
    learn = blob_learner([LiLAWCallback(warmup=0, meta='hypergradient', meta_of=of), *cbs])
    learn.fit(2, 1e-2)
    assert len(learn.lilaw.state.path) == (6 if cbs and isinstance(cbs[0], GradientAccumulation) else 12)
    assert not learn.model[-1]._forward_hooks and weights_of(learn.model).isfinite().all()

def test_training_does_not_notice_the_validation_batch():
    "With lr=0 the weights stay those of the start, and the model trains as with the direct gradient"
    models = []
    for kwargs in (dict(), dict(meta='hypergradient'), dict(meta='hypergradient', meta_mode='train'), dict(meta='hypergradient', meta_of='head', meta_mode='train')):
        torch.manual_seed(5)
        learn = blob_learner(LiLAWCallback(warmup=0, lr=0., **kwargs))
        learn.dls.train.rng.seed(3)
        learn.fit(2, 1e-2)
        models.append(weights_of(learn.model))
    assert all(models[0].equal(o) for o in models[1:])

def test_meta_every_and_lr_find(tmp_path):
    cb = LiLAWCallback(warmup=0, meta='hypergradient', meta_every=4)
    learn = blob_learner(cb, path=tmp_path)
    learn.fit(2, 1e-2)
    assert len(cb.state.path) == 3
    learn.lr_find(num_it=5, show_plot=False)
    assert len(cb.state.path) == 3

def test_hook_is_gone_after_an_error():
    class Fail(Callback):
        def after_batch(self): raise KeyboardInterrupt
    learn = blob_learner(LiLAWCallback(warmup=0, meta='hypergradient', meta_of='head'))
    with pytest.raises(KeyboardInterrupt): learn.fit(1, cbs=Fail())
    assert not learn.model[-1]._forward_hooks

def test_normalised_weights_have_mean_one():
    seen = []
    class See(Callback):
        run_valid = False
        def after_loss(self): seen.append(self.learn.sample_weight.mean().item())
    learn = blob_learner(LiLAWCallback(warmup=0, normalise=True))
    learn.fit(1, 1e-2, cbs=See())
    assert seen == pytest.approx([1.]*6)

@pytest.mark.parametrize('kwargs, words', [(dict(meta='bilevel'), "meta=.bilevel.*'direct' or 'hypergradient'"), (dict(meta_of='tail'), "meta_of=.tail.*'all' or 'head'")])
def test_errors(kwargs, words):
    with pytest.raises(ValueError, match=words): LiLAWCallback(**kwargs)

@pytest.mark.parametrize('meta_every', [1, 3])
def test_the_step_before_is_the_one_that_is_noted(meta_every):
    seen = []
    class Before(Callback):
        order = -20
        def before_step(self): self.params,self.batch = {n: p.detach().clone() for n,p in self.model.named_parameters()},self.xb[0]
    class Checked(LiLAWCallback):
        def meta_step(self):
            seen.append(all(p.equal(self.learn.before.params[n]) for n,p in self._virtual.params.items()) and self._virtual.xb[0] is self.learn.before.batch)
            super().meta_step()
    learn = blob_learner([Before(), Checked(warmup=0, meta='hypergradient', meta_every=meta_every)])
    learn.fit(1, 1e-2)
    assert seen == [True]*(6//meta_every)

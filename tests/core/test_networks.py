"The peer alone; that it learns as a Learner of its own would, in many kinds of training, is in test_confidence.py."
from copy import deepcopy
from functools import partial
import pytest, torch
from torch import nn
from fastai.basics import Adam, OptimWrapper
from fastai.callback.core import Callback
from fastnoisy.core.networks import PeerNetwork, copied, is_fresh
from helpers import blob_learner, small_model, weights_of

class Beside(Callback):
    "Trains a peer by the Learner's own loss"
    run_valid = False
    def before_fit(self):
        if not hasattr(self, 'peer'): self.peer = PeerNetwork(self.learn)
        self.peer.begin(self.learn)
    def after_loss(self): self.learn.loss_grad = self.loss_grad + self.loss_func(self.peer(self.learn), *self.yb)
    def after_step(self): self.peer.step(self.learn)

def fitted(n=1, **kwargs):
    learn = blob_learner(Beside(), **kwargs)
    learn.model[3].p = 0.
    with learn.no_logging(): learn.fit(n, 1e-2)
    return learn

def test_a_peer_with_the_same_loss_is_the_same_model():
    learn = fitted(2)
    torch.testing.assert_close(weights_of(learn.beside.peer.model), weights_of(learn.model))
    assert not torch.allclose(weights_of(learn.model), weights_of(small_model()), atol=1e-3)

def test_a_copy_shares_nothing():
    model = small_model()
    model[0].register_forward_hook(lambda *args: None)
    other = copied(model)
    assert torch.equal(weights_of(other), weights_of(model)) and not any(m._forward_hooks for m in other.modules()) and model[0]._forward_hooks
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in other.parameters()}

@pytest.mark.parametrize('opt_func', [Adam, partial(OptimWrapper, opt=torch.optim.Adam)])
def test_an_optimizer_is_fresh_until_it_steps(opt_func):
    learn = blob_learner(opt_func=opt_func)
    learn.create_opt()
    assert is_fresh(learn.opt)
    with learn.no_logging(): learn.fit(1)
    assert not is_fresh(learn.opt)
    learn.opt.clear_state()
    assert is_fresh(learn.opt)

def test_saved_and_loaded():
    learn = fitted()
    saved,other = learn.beside.peer.state_dict(),PeerNetwork(learn)
    other.load_state_dict(saved, learn)
    assert torch.equal(weights_of(other.model), weights_of(learn.beside.peer.model)) and other.model is not learn.beside.peer.model
    states = [o.opt.state_dict()['state'] for o in (other, learn.beside.peer)]
    assert len(states[0]) == len(states[1]) > 0 and all(torch.equal(a['grad_avg'], b['grad_avg']) for a,b in zip(*states))

def test_another_model_is_refused():
    learn = fitted()
    with pytest.raises(ValueError, match='peer: a Linear.*Sequential in name and shape'): PeerNetwork(learn, nn.Linear(4, 3))
    with pytest.raises(ValueError, match="Learner's own model"): PeerNetwork(learn, learn.model)
    learn.model = nn.Linear(4, 3)
    with pytest.raises(ValueError, match='that of another model'): learn.beside.peer.begin(learn)

ADAMS = [Adam, partial(OptimWrapper, opt=torch.optim.AdamW),
         partial(OptimWrapper, opt=partial(torch.optim.AdamW, fused=True))] # the last finds out on the device

@pytest.mark.parametrize('opt_func', ADAMS, ids=['fastai', 'torch', 'fused'])
@pytest.mark.parametrize('overflows', [True, False])
def test_a_scaled_step(opt_func, overflows):
    "Half precision: the step is that of the unscaled gradient, or none where that overflows"
    learn = fitted(opt_func=opt_func)
    peer,copy = learn.beside.peer,PeerNetwork(learn)
    copy.load_state_dict(deepcopy(peer.state_dict()), learn)
    learn.lr,scale = 1e-2,4.
    before = weights_of(peer.model)
    for o,factor in ((peer, scale), (copy, 1.)):
        for p in o.model.parameters(): p.grad = torch.full_like(p, factor)
    if overflows: peer.model[0].weight.grad[0] = torch.inf
    copy.step(learn)
    learn.scaler = torch.amp.GradScaler('cpu', init_scale=scale)
    learn.scaler.scale(torch.zeros(1))
    peer.step(learn)
    torch.testing.assert_close(weights_of(peer.model), before if overflows else weights_of(copy.model))
    assert overflows or not torch.equal(weights_of(peer.model), before)

"Callbacks, and Learners that carry them, can be copied and pickled after a fit, and go on as the original does."
import copy, pickle
import numpy as np, pytest, torch
from fastai.basics import set_seed
from fastnoisy.callback.also import ALSOCallback
from fastnoisy.callback.bmm import BMMFilterCallback
from fastnoisy.callback.confidence import TwoModelConfidenceCallback
from fastnoisy.callback.dynamics import DynamicsCallback
from fastnoisy.callback.knn import KNNCorrectionCallback
from fastnoisy.callback.lilaw import LiLAWCallback
from fastnoisy.core.method import MethodCallback
import fastnoisy.all
from helpers import blob_learner, make_dls, weights_of

def pickled(o): return pickle.loads(pickle.dumps(o))

MAKERS = dict(also=lambda: [ALSOCallback()], optimistic=lambda: [ALSOCallback(mode='optimistic')], bmm=lambda: [ALSOCallback(), BMMFilterCallback(warmup=1)],
              drop=lambda: [BMMFilterCallback('running_loss', 'drop', warmup=1)], weight=lambda: [BMMFilterCallback('loss', 'weight', warmup=1)],
              knn=lambda: [KNNCorrectionCallback(k=5, warmup=1, agreement=.5, threshold=0.)], filter=lambda: [KNNCorrectionCallback(k=5, warmup=1, action='filter')],
              lilaw=lambda: [LiLAWCallback(warmup=0)], hyper=lambda: [LiLAWCallback(warmup=0, meta='hypergradient')],
              confidence=lambda: [TwoModelConfidenceCallback(jsd=0)], tracked=lambda: [TwoModelConfidenceCallback(jsd=0, track=True, models=1)],
              views=lambda: [TwoModelConfidenceCallback(view=flipped)], dynamics=lambda: [DynamicsCallback()], grand=lambda: [DynamicsCallback(['grand', 'running_loss'])])

def flipped(x): return -x

def trained(name):
    learn = blob_learner(MAKERS[name](), dls=make_dls())
    learn.logger = print # a lambda cannot be pickled
    with learn.no_logging(): learn.fit(2, 1e-2)
    return learn

def go_on(learn):
    set_seed(3)
    learn.dls.train.rng.seed(3)
    with learn.no_logging(): learn.fit(2, 1e-2)
    return learn

def noted(learn):
    "What the methods have noted"
    frames = [cb.to_frame() for cb in learn.cbs if hasattr(cb, 'to_frame')]
    return [o.select_dtypes('number').to_numpy(float) for o in frames]

@pytest.mark.filterwarnings('ignore::UserWarning')
@pytest.mark.parametrize('copied', [copy.deepcopy, pickled])
@pytest.mark.parametrize('name', MAKERS)
def test_a_copy_goes_on_like_the_original(name, copied):
    learn = trained(name)
    other = copied(learn)
    assert all(np.array_equal(a, b, equal_nan=True) for a,b in zip(noted(learn), noted(other), strict=True))
    state = weights_of(learn.model).clone()
    go_on(other)
    assert torch.equal(weights_of(learn.model), state) # it has a model of its own
    go_on(learn)
    assert torch.equal(weights_of(learn.model), weights_of(other.model)) and not torch.equal(weights_of(learn.model), state)
    assert all(np.array_equal(a, b, equal_nan=True) for a,b in zip(noted(learn), noted(other), strict=True))

@pytest.mark.filterwarnings('ignore::UserWarning')
@pytest.mark.parametrize('copied', [copy.deepcopy, pickled])
@pytest.mark.parametrize('name', MAKERS)
def test_a_callback_alone(name, copied):
    learn = trained(name)
    for cb in [o for o in learn.cbs if isinstance(o, MethodCallback)]:
        learn.remove_cb(cb)
        new = copied(cb)
        assert type(new) is type(cb) and new.name == cb.name
        if hasattr(cb, 'to_frame'): assert new.to_frame().equals(cb.to_frame())

@pytest.mark.filterwarnings('ignore::UserWarning')
def test_the_report_of_a_copy():
    learn = trained('dynamics')
    for o in (copy.deepcopy(learn), pickled(learn)):
        assert o.noise_report().source == 'dynamics' and o.dynamics.signals().keys() == learn.dynamics.signals().keys()

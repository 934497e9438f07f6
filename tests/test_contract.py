"""What holds for every method of the registry. See settings.py for how each is made to act.
Half precision is in test_precision.py, what stops a fit in test_faults.py, resumed trainings in test_resume.py,
several processes in test_distributed.py."""
from collections import Counter
import pytest, torch
from fastai.basics import CrossEntropyLossFlat, L, Learner, load_learner
from fastai.callback.training import GradientAccumulation
from fastai.callback.mixup import MixUp
from fastnoisy.core.registry import METHODS
from helpers import LR, N, linear, make, make_dls, methods_in, states, weights_of
from settings import ACTS, SETTINGS, VARIANTS, Watch, acted, setting

pytestmark = pytest.mark.filterwarnings('ignore:KNNCorrection', 'ignore:BMMFilter', 'ignore:TwoModelConfidence')

@pytest.fixture(params=SETTINGS)
def method(request): return request.param

def fitted(method, n=2, seed=0, cbs=(), **kwargs):
    torch.manual_seed(seed)
    learn = make(method, cbs=[Watch(), *cbs], **kwargs)
    learn.fit(n, LR)
    return learn

@pytest.fixture(scope='module')
def trained():
    "Two epochs of each method, trained when they are first asked for. Look only"
    made = {}
    def get(method):
        if method not in made: made[method] = fitted(method)
        return made[method]
    return get

def assert_equal_states(a, b):
    assert a.keys() == b.keys()
    for k in a:
        if isinstance(a[k], torch.Tensor): assert torch.equal(a[k].nan_to_num(-9), b[k].nan_to_num(-9)), k
        else: assert a[k] == b[k], k

def assert_seen(learn, method, times):
    "Each sample has been trained on so many times, where none is left out"
    own = setting(method)
    if own.dynamics and 'mask' not in own.acts: assert (learn.dynamics.to_frame().seen == times).all()

# the table

def test_every_method_has_a_row():
    missing = [o for o,m in METHODS.items() if 'cbs' in m.make() and o not in SETTINGS]
    assert not missing, (
        f'No settings for {missing}. Add a row to SETTINGS in tests/settings.py, with the arguments with which the '
        f'method acts within two epochs on `helpers.make_dls()`, and what is to be seen of it:\n'
        f'    {missing[0]!r}: Setting(lambda: dict(cbs=...(warmup=1)), acts=(some of {ACTS})),')

def test_rows_are_those_of_the_registry(method):
    "What a row makes is what the registry makes, with other arguments"
    def kinds(made): return type(made.get('loss_func')), [type(o) for o in L(made.get('cbs'))]
    assert kinds(setting(method).make()) == kinds(METHODS[method].make())
    assert set(setting(method).acts) <= set(ACTS) and (setting(method).acts or method == 'ce')

# what it does

@pytest.mark.parametrize('method', [*SETTINGS, *VARIANTS])
def test_it_acts_as_it_says(method, trained):
    "What is claimed is seen, and nothing else but the loss, which changes with the weights and the labels"
    learn = trained(method)
    seen = acted(learn)
    assert seen - {'loss'} == set(setting(method).acts) - {'loss'} and seen >= set(setting(method).acts)
    assert torch.equal(weights_of(learn.model), weights_of(trained('ce').model)) == (not setting(method).acts)

def test_fit_twice(method):
    "The second fit goes on: what was learnt is there, and every sample has been seen in each epoch or left out"
    learn = fitted(method)
    moved = setting(method).moves(learn)
    learn.fit(2, LR)
    assert weights_of(learn.model).isfinite().all()
    for cb in methods_in(learn):
        if hasattr(cb, 'to_frame'): assert cb.to_frame().sample_id.tolist() == list(range(N))
    now = setting(method).moves(learn)
    assert now.keys() == moved.keys() and all(v.isfinite().all() for v in now.values())
    assert_seen(learn, method, 4)

def test_lr_find_leaves_no_trace(method, tmp_path, trained):
    "No more than it leaves without a method, and the same training afterwards"
    plain = Learner(make_dls(), linear(), loss_func=CrossEntropyLossFlat(), path=tmp_path)
    with plain.no_bar(): plain.lr_find(show_plot=False, num_it=6)
    for epochs in (0, 2):
        learn = make(method, path=tmp_path)
        if epochs: learn.fit(epochs, LR)
        weights,before,names = weights_of(learn.model).clone(),states(learn),{*vars(learn), *vars(plain)}
        learn.lr_find(show_plot=False, num_it=6)
        assert torch.equal(weights, weights_of(learn.model)) and {*vars(learn)} <= names
        if epochs: assert_equal_states(before, states(learn))
        learn.dls.train.rng.seed(1)
        learn.fit(2, LR)
        assert_seen(learn, method, epochs + 2)
        if not epochs: assert torch.equal(weights_of(learn.model), weights_of(trained(method).model))

def test_validation_and_predictions_are_those_of_the_model(method, trained):
    learn = trained(method)
    before = states(learn)
    plain = Learner(learn.dls, learn.model, loss_func=learn.loss_func, metrics=learn.metrics)
    with plain.no_bar():
        assert learn.validate() == plain.validate()
        for ds_idx in (0, 1):
            both = (o.get_preds(ds_idx=ds_idx, with_loss=True) for o in (learn, plain))
            assert all(torch.equal(a, b) for a,b in zip(*both))
    assert_equal_states(before, states(learn))

def test_export_is_a_plain_learner(method, tmp_path):
    learn = fitted(method, path=tmp_path)
    names = [cb.name for cb in learn.cbs]
    learn.export('x.pkl')
    assert [cb.name for cb in learn.cbs] == names
    loaded = load_learner(tmp_path/'x.pkl')
    assert type(loaded) is Learner and not methods_in(loaded)
    x = learn.dls.valid.dataset.x[:4]
    with torch.no_grad(): assert torch.equal(loaded.model.eval()(x), learn.model.eval()(x))

# what it is given

def test_same_seed_same_result(method, trained):
    again = fitted(method)
    assert torch.equal(weights_of(again.model), weights_of(trained(method).model))
    assert_equal_states(states(again), states(trained(method)))

@pytest.mark.slow
def test_workers_change_nothing(method, trained):
    again = fitted(method, dls=make_dls(num_workers=2))
    assert torch.equal(weights_of(again.model), weights_of(trained(method).model))
    assert_equal_states(states(again), states(trained(method)))

def test_mixup_composes_or_is_refused(method):
    refusal = setting(method).mixup
    if refusal:
        with pytest.raises(ValueError, match=refusal): fitted(method, cbs=[MixUp(.4)])
    else: assert weights_of(fitted(method, cbs=[MixUp(.4)]).model).isfinite().all()

def test_accumulated_gradients(method, trained):
    "Two batches of 8 for a step: half as many steps as batches, and every sample counts once in an epoch"
    steps = Counter()
    class Steps(GradientAccumulation):
        def after_step(self): steps[self.epoch] += 1
    learn = fitted(method, dls=make_dls(bs=8), cbs=[Steps(16)])
    if 'mask' not in setting(method).acts: assert steps[0] == N//16
    assert weights_of(learn.model).isfinite().all()
    assert set(setting(method).acts) <= acted(learn)
    assert_seen(learn, method, 2)

def test_classes_have_no_order(method, trained):
    "Classes with other ids, and outputs of the model to match: the same training"
    if setting(method).fresh: pytest.skip('the weights of its peer network are drawn for the ids as they are')
    order = torch.tensor([2, 0, 1]) # class c is now order[c]
    dls,model = make_dls(),linear()
    for dl in dls.loaders: dl.dataset.y = order[dl.dataset.y]
    dls.train.dataset.true = order[dls.train.dataset.true]
    with torch.no_grad():
        for p in (model[-1].weight, model[-1].bias): p[order] = p.clone()
    learn,plain = fitted(method, dls=dls, model=model),trained(method)
    x = dls.valid.dataset.x
    with torch.no_grad(): got,expected = learn.model.eval()(x),plain.model.eval()(x)
    torch.testing.assert_close(got[:,order], expected, rtol=1e-3, atol=1e-4)

"What holds for every method of the registry on a device: the contract of test_contract.py, and files that travel."
from functools import cache
import numpy as np, pytest, torch
from fastai.basics import Learner, load_learner
from fastai.callback.training import GradientAccumulation
from fastai.callback.tracker import SaveModelCallback
from helpers import LR, N, linear, make_dls, methods_in, states, weights_of
from on_device import DEVICE, IS_EXACT, Half, dls_on, fitted_on, make_on
from fastnoisy.core.method import SampleCallback
from settings import SETTINGS, VARIANTS, setting

pytestmark = pytest.mark.filterwarnings('ignore')
ALL = [*SETTINGS, *VARIANTS]

@pytest.fixture(params=ALL)
def method(request): return request.param

def on_device(o): return o is None or o.device.type == DEVICE.type

def assert_alike(a, b):
    "Two Learners know the same: to the last bits where the device computes as the CPU does"
    if not IS_EXACT: return
    torch.testing.assert_close(weights_of(a.model).cpu(), weights_of(b.model).cpu(), rtol=1e-4, atol=1e-5)
    own,other = states(a),states(b)
    assert own.keys() == other.keys()
    for k,v in own.items():
        close = dict(rtol=1e-3, atol=1e-4, equal_nan=True, msg=k)
        if isinstance(v, torch.Tensor): torch.testing.assert_close(v, other[k], **close)

@pytest.fixture(scope='module')
def trained():
    "Two epochs of each method on the device. Look only"
    made = {}
    def get(method):
        if method not in made: made[method] = fitted_on(DEVICE, method)
        return made[method]
    return get

def test_it_trains_as_on_the_cpu(method, trained):
    learn = trained(method)
    assert all(map(on_device, learn.model.parameters())) and weights_of(learn.model).isfinite().all()
    assert_alike(learn, fitted_on('cpu', method))

def test_it_says_what_it_knows(method, trained):
    learn = trained(method)
    for cb in methods_in(learn):
        if hasattr(cb, 'to_frame'): assert cb.to_frame().sample_id.tolist() == list(range(N))
        for question in ('label_quality', 'noise_probability', 'suggested_labels', 'trust', 'signals'):
            said = getattr(cb, question, lambda: None)()
            for o in said.values() if isinstance(said, dict) else [said]: assert o is None or len(np.asarray(o)) == N

def test_fit_twice(method):
    learn = fitted_on(DEVICE, method)
    learn.fit(1, LR)
    assert weights_of(learn.model).isfinite().all()

def test_lr_find_leaves_no_trace(method, tmp_path):
    learn = make_on(DEVICE, method, tmp_path)
    learn.fit(2, LR)
    weights,before = weights_of(learn.model).clone(),states(learn)
    learn.lr_find(show_plot=False, num_it=6)
    assert torch.equal(weights, weights_of(learn.model))
    after = states(learn)
    for k,v in before.items():
        if isinstance(v, torch.Tensor): assert torch.equal(v.nan_to_num(-9), after[k].nan_to_num(-9)), k
    learn.fit(1, LR)

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision(method, dtype):
    learn = fitted_on(DEVICE, method, cbs=[Half(dtype)])
    assert weights_of(learn.model).isfinite().all() and not torch.is_autocast_enabled(DEVICE.type)

def test_accumulated_gradients(method):
    learn = fitted_on(DEVICE, method, bs=8, cbs=[GradientAccumulation(16)])
    assert weights_of(learn.model).isfinite().all()

TRAVELS = dict(stays=(DEVICE, DEVICE), leaves=(DEVICE, 'cpu'), comes=('cpu', DEVICE))

@cache
def uninterrupted(method, device, folder):
    "Three epochs, with a file of each; the folder is that of the method"
    learn = make_on(device, method, folder, bs=8, cbs=[SampleCallback()])
    learn.fit_one_cycle(3, LR, cbs=SaveModelCallback(every_epoch=True, with_opt=True, fname=torch.device(device).type))
    return learn

@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    at = tmp_path_factory.mktemp('uninterrupted')
    yield {o: at/str(i) for i,o in enumerate(ALL)}
    uninterrupted.cache_clear()

@pytest.mark.parametrize('travel', TRAVELS)
def test_resumed_is_uninterrupted(method, travel, folders):
    "A training that goes on elsewhere, from the file of its second epoch, ends as one that never stopped"
    if method == 'gjs': pytest.skip('its views depend on the steps of the fit, which begin anew')
    (written,read),folder = TRAVELS[travel],folders[method]
    uninterrupted(method, written, folder)
    resumed = make_on(read, method, folder, bs=8, cbs=[SampleCallback()])
    resumed.load(f'{torch.device(written).type}_1')
    resumed.fit_one_cycle(3, LR, start_epoch=2)
    assert_alike(uninterrupted(method, read, folder), resumed)

def test_loaded_before_the_model_is_there(method, trained, tmp_path):
    "`load` into a Learner whose model is still on the CPU, which `fit` moves"
    learn = fitted_on(DEVICE, method, path=tmp_path)
    learn.save('x')
    again = make_on('cpu', method, tmp_path)
    again.dls.device = DEVICE
    again.load('x')
    for cb in methods_in(again):
        if hasattr(cb, 'to_frame'): assert len(cb.to_frame()) == N
    again.fit(1, LR)
    assert all(map(on_device, again.model.parameters()))

def test_export(method, tmp_path):
    learn = fitted_on(DEVICE, method, path=tmp_path)
    learn.export('x.pkl')
    loaded = load_learner(tmp_path/'x.pkl')
    assert type(loaded) is Learner and not methods_in(loaded)
    x = learn.dls.valid.dataset.x[:4]
    with torch.no_grad():
        torch.testing.assert_close(loaded.model.eval()(x), learn.model.eval()(x.to(DEVICE)).cpu(), rtol=1e-3, atol=1e-4)

def test_validation_and_predictions(method, trained):
    learn = trained(method)
    with learn.no_bar():
        assert np.isfinite(learn.validate()).all()
        assert len(learn.get_preds(ds_idx=0)[0]) == N

def test_report(method, trained):
    if not methods_in(trained(method)): pytest.skip("no method, no report")
    report = trained(method).noise_report()
    assert sorted(report.sample_id) == list(range(N))

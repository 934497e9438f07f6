"What is asked of a Learner after its training, random numbers, and models with dropout and batch norm, on a device."
import sys
from itertools import count
import numpy as np, pytest, torch
from fastai.basics import CrossEntropyLossFlat, DataLoaders, Learner, load_learner
from fastai.callback.progress import ProgressCallback
from fastnoisy.all import *
from fastnoisy.analysis.calibration import calibrate
from fastnoisy.audit.run import audit
from fastnoisy.benchmark.recommend import recommend, run_stage
from fastnoisy.analysis.neighbors import embed, knn_vote
from fastnoisy.analysis.noise_rate import estimate_noise
from fastnoisy.core.hypergradient import VIRTUAL_STEPS
from fastnoisy.core.modules import forward_aside
from fastnoisy.core.predict import predict
from fastnoisy.core.rng import isolated_rng, kept_rng
from helpers import Items, LR, blobs, linear, make_dls, weights_of
from on_device import DEVICE, IS_EXACT, dls_on, fitted_on

pytestmark = pytest.mark.filterwarnings('ignore')

@pytest.fixture(scope='module')
def learn(): return fitted_on(DEVICE, 'also', model=linear(norm=True), n=4)

def both(make):
    "What `make(device)` gives on the device and on the CPU"
    return make(DEVICE), make('cpu')

def assert_close(a, b):
    if IS_EXACT: np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-3, atol=1e-4)

def test_predict(learn):
    said = predict(learn, features=True)
    assert all(o.device.type == 'cpu' for o in (said.ids, said.logits, said.targets, said.losses, said.features))
    valid = predict(learn, learn.dls.valid)
    assert valid.logits.device.type == 'cpu' and torch.equal(valid.ids, torch.arange(32))

def test_embeddings_and_their_vote(learn):
    features,given,_ = embed(learn, with_loss=True)
    shares = [knn_vote(features, given, 5, 3, device=o) for o in (DEVICE, 'cpu')]
    assert_close(*(o.cpu() for o in shares))

def test_estimate(learn):
    valid = Items(*blobs(300, seed=1, spread=6))
    dls = make_dls()
    dls = DataLoaders(dls.train, dls.valid.new(valid), device=DEVICE)
    dls.device = DEVICE
    found = Learner(dls, learn.model, loss_func=CrossEntropyLossFlat())
    assert 0 <= estimate_noise(found).rate <= 1

def test_calibrated(learn):
    calibration = calibrate(learn, noisy=True)
    assert calibration.temperature > 0 and len(learn.get_preds()[0]) == 32
    calibration.undo()

@pytest.mark.parametrize('options', [dict(meta='hypergradient', meta_of=o) for o in VIRTUAL_STEPS] +
                         [dict(meta_mode='train'), dict(normalise=True, detach=True)], ids=str)
def test_options_of_lilaw(options):
    def run(device):
        torch.manual_seed(0)
        learn = Learner(dls_on(device), linear(), loss_func=CrossEntropyLossFlat(),
                        cbs=LiLAWCallback(warmup=0, lr=.5, **options))
        learn.remove_cbs(ProgressCallback)
        learn.logger = lambda *_: None
        learn.fit(2, LR)
        return learn.lilaw.state.path
    assert_close(*both(run))

@pytest.mark.parametrize('options', [dict(temperature=.5, mode='optimistic', objective='max'),
                                     dict(groups=np.arange(64) % 7), dict(prior=torch.arange(1., 65))], ids=str)
def test_options_of_also(options):
    def run(device):
        learn = fitted_on(device, 'also')
        learn.remove_cb(learn.also)
        learn.add_cb(ALSOCallback(**options))
        learn.fit(2, LR)
        return learn.also.to_frame().weight
    assert_close(*both(run))

# random numbers

def device_draw(): return torch.rand(3, device=DEVICE).cpu()

def test_isolated_streams_are_those_of_the_device_too():
    torch.manual_seed(1)
    expected = [device_draw() for _ in range(2)]
    torch.manual_seed(1)
    own = isolated_rng(5)
    a = device_draw()
    with own: x = device_draw()
    b = device_draw()
    with own: y = device_draw()
    assert torch.equal(torch.cat([a, b]), torch.cat(expected))
    torch.manual_seed(5)
    assert torch.equal(torch.cat([x, y]), torch.cat([device_draw(), device_draw()]))

def test_a_pass_aside_takes_no_numbers():
    model = linear(norm=True, dropout=.5).to(DEVICE)
    x = blobs(8)[0].to(DEVICE)
    torch.manual_seed(1)
    expected = device_draw()
    torch.manual_seed(1)
    a = forward_aside(model, x, training=True)
    assert torch.equal(device_draw(), expected)
    torch.manual_seed(1)
    assert torch.equal(forward_aside(model, x, training=True), a)
    torch.manual_seed(1)
    with kept_rng(model): device_draw()
    assert torch.equal(device_draw(), expected)

@pytest.mark.parametrize('method', ['co-teaching', 'divide-mix', 'fresh', 'confidence', 'lilaw'])
def test_same_seed_same_training_with_dropout(method):
    runs = [fitted_on(DEVICE, method, model=linear(norm=True, dropout=.3)) for _ in range(2)]
    torch.testing.assert_close(*(weights_of(o.model) for o in runs))

def test_a_fresh_peer_is_the_same_everywhere():
    peers = both(lambda device: fitted_on(device, 'fresh', n=1).co_teaching.peer)
    if IS_EXACT: torch.testing.assert_close(*(weights_of(o.model).cpu() for o in peers))

# the audit

@pytest.mark.slow
@pytest.mark.parametrize('arch', ['small_cnn', 'resnet18'])
def test_audit(arch, tmp_path):
    "The whole command, on the device; the files it leaves are for any machine"
    rng = np.random.default_rng(0)
    y = np.arange(96) % 3
    x = (rng.integers(60, size=(96, 32, 32, 3)) + 60*y[:,None,None,None]).astype(np.uint8)
    np.savez(tmp_path/'data.npz', images=x, labels=y)
    options = dict(npz=tmp_path/'data.npz', arch=arch, epochs=2, pretrained=False)
    report = audit(**options, device=str(DEVICE), out=tmp_path/'out')
    assert len(report) == 96 and (tmp_path/'out/report.html').exists()
    loaded = load_learner(tmp_path/'out/learner.pkl')
    assert next(loaded.model.parameters()).device.type == 'cpu'

# the recommender

@pytest.mark.slow
def test_recommend(tmp_path, monkeypatch):
    "A race, stopped and gone on with, on the device as on the CPU; costs by a clock that knows no machine"
    monkeypatch.setattr(sys.modules[run_stage.__module__], '_clock', count().__next__)
    def race(device):
        dls = dls_on(device, n=96)
        folder,rows = tmp_path/torch.device(device).type,[]
        options = dict(recipes=['sce', 'elr'], epochs=4, lr=LR, out=folder, tell=rows.append)
        recommend(dls, linear, 1, retrain=False, **options)
        found = recommend(dls, linear, 4, **options)
        assert next(found.learn.model.parameters()).device.type == torch.device(device).type
        return found,rows
    (found,rows),(expected,others) = both(race)
    assert 'error' not in ' '.join(map(str, rows)) and len(rows) == len(others)
    if IS_EXACT:
        assert found.recipe == expected.recipe
        assert_close(*(o.table.accuracy for o in (found, expected)))

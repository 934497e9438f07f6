"Loaders of every kind feed a device: workers that are forked or spawned, pinned memory, ids that nobody waits for."
import pytest, torch
import torch.multiprocessing as multiprocessing
from torch.utils.data import DataLoader as TorchDataLoader
from fastai.basics import DataLoaders, CrossEntropyLossFlat, Learner, set_seed
from fasttransform import Transform
from fastai.data.core import TfmdDL
from fastai.callback.progress import ProgressCallback
from fastnoisy.callback.also import ALSOCallback
from fastnoisy.callback.lilaw import LiLAWCallback
from fastnoisy.core.loaders import RandomBatches, SampleStream
from helpers import Items, LR, N, blobs, linear, make_dls, weights_of
from on_device import DEVICE, IS_EXACT

pytestmark = pytest.mark.filterwarnings('ignore')

def fastai_dls(device, num_workers, pin_memory):
    options = dict(num_workers=num_workers, pin_memory=pin_memory, device=device)
    dls = make_dls()
    train,valid = (TfmdDL(o.dataset, bs=16, shuffle=o is dls.train, **options) for o in dls.loaders)
    train.rng.seed(1)
    return DataLoaders(train, valid, device=device)

def torch_dls(device, num_workers, pin_memory):
    dls,g = make_dls(),torch.Generator().manual_seed(1)
    options = dict(batch_size=16, num_workers=num_workers, pin_memory=pin_memory)
    train = TorchDataLoader(dls.train.dataset, shuffle=True, generator=g, **options)
    return DataLoaders(train, TorchDataLoader(dls.valid.dataset, **options), device=device)

def methods(): return [ALSOCallback(temperature=.5, horizon=1), LiLAWCallback(warmup=0, lr=.5)]

def trained(device, kind, num_workers=0, pin_memory=False, epochs=2):
    set_seed(0)
    learn = Learner(kind(device, num_workers, pin_memory), linear(), loss_func=CrossEntropyLossFlat(), cbs=methods())
    learn.remove_cbs(ProgressCallback)
    learn.logger = lambda *_: None
    learn.fit(epochs, LR)
    return learn

def assert_same(learn, other):
    if not IS_EXACT: return
    for a,b in ((learn.also.pi.all(), other.also.pi.all()), (weights_of(learn.model), weights_of(other.model))):
        torch.testing.assert_close(a.cpu(), b.cpu(), rtol=1e-3, atol=1e-4)

@pytest.mark.parametrize('kind', [fastai_dls, torch_dls])
@pytest.mark.parametrize('num_workers,pin_memory', [(0, True), (2, True)])
def test_workers_and_pinned_memory(kind, num_workers, pin_memory):
    assert_same(trained(DEVICE, kind, num_workers, pin_memory), trained('cpu', kind))

# a spawned process does not know the pretend device; what it is sent does not depend on the device
THERE = 'cpu' if IS_EXACT else DEVICE

@pytest.fixture
def spawn():
    was = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method('spawn', force=True)
    yield
    multiprocessing.set_start_method(was, force=True)

@pytest.mark.slow
@pytest.mark.parametrize('kind', [fastai_dls, torch_dls])
def test_spawned_workers(kind, spawn):
    assert_same(trained(THERE, kind, 1, epochs=1), trained('cpu', kind, epochs=1))

@pytest.mark.slow
def test_spawned_workers_of_a_stream(spawn):
    "The unlabelled half of DivideMix"
    here,there = (SampleStream(fastai_dls(THERE, n, False).train, [1, 4, 7, 8], 2, 2) for n in (0, 1))
    for _ in range(4):
        (ids,b),(other,c) = next(here),next(there)
        assert torch.equal(ids, other) and torch.equal(b[0], c[0])
    there.close()

def test_random_batches_are_sent_after_the_transforms_know():
    "What is shared with the loader they come from is left alone, and batch transforms run on the device"
    dls = fastai_dls(DEVICE, 0, False)
    seen = []
    dls.valid.after_batch.add(Transform(lambda x: seen.append(x.device.type) or x))
    batches = RandomBatches(dls.valid, 4)
    assert next(batches)[0].device.type == DEVICE.type and set(seen) == {DEVICE.type}
    assert dls.valid.device.type == DEVICE.type and type(dls.valid.after_batch) is type(dls.train.after_batch)

def test_tsai():
    data = pytest.importorskip('tsai.data.core')
    (x,y),splits = blobs(N),(list(range(48)), list(range(48, N)))
    def dls(device):
        dsets = data.TSDatasets(x[:,None].numpy(), y.numpy(), tfms=[None, [data.TSClassification()]], splits=splits)
        res = data.TSDataLoaders.from_dsets(dsets.train, dsets.valid, bs=16, device=device, num_workers=0)
        res.train.rng.seed(1)
        return res
    assert_same(*(trained(o, lambda device, *_: dls(device)) for o in (DEVICE, 'cpu')))

@pytest.mark.parametrize('pin_memory', [False, True])
def test_ids_come_alone(pin_memory):
    "No transform of the batch sees them; they are pinned where the batch is"
    from fastnoisy.core.sample_ids import with_sample_ids
    dl = with_sample_ids(fastai_dls(DEVICE, 0, pin_memory).train)
    for x,y in dl:
        assert x.device.type == y.device.type == DEVICE.type and dl.sample_ids.device.type == 'cpu'
        assert dl.sample_ids.is_pinned() == pin_memory
        assert torch.equal(dl.dataset.x[dl.sample_ids], x.cpu())

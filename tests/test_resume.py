"A training that was stopped and goes on is the training that was not stopped, bit for bit. See resume.py."
import os, random, shutil, subprocess, sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path
import numpy as np, pytest, torch
from fastai.basics import Learner, L
from fastai.callback.tracker import SaveModelCallback
from torch.utils.data import DataLoader as TorchDataLoader, TensorDataset
import resume
from resume import At, STOP, fit, make_learner
from fastnoisy.all import *
from fastnoisy.core.method import SampleCallback
from fastnoisy.core.checkpoint import (FORMAT, check_head, file_head, random_state, saved_state, set_random_state,
                                       whole_file)
from fastnoisy.core.registry import METHODS
from fastnoisy.core.method import MethodCallback
from helpers import N, PYTHONPATH, blob_dls, blob_learner, make_dls, weights_of
from settings import VARIANTS, battery, knn

ALL = [*battery(), *VARIANTS]

def all_of(learn):
    "Weights, optimizer, and what the methods say"
    res = {'model': weights_of(learn.model), 'opt': [v for s in learn.opt.state_dict()['state'] for v in s.values()]}
    res['hypers'] = [dict(h) for h in learn.opt.hypers]
    for cb in learn.cbs:
        if isinstance(cb, MethodCallback): res[cb.name] = cb.state_dict()
        if not isinstance(cb, MethodCallback) or not hasattr(cb, 'to_frame'): continue
        res[f'{cb.name}_frame'] = cb.to_frame().values.astype(float)
    return res

def plain(v):
    v = torch.as_tensor(v)
    return torch.nan_to_num(v, nan=-9.) if v.is_floating_point() else v

def same(a, b):
    if isinstance(a, dict): return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)): return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (torch.Tensor, np.ndarray)): return torch.equal(plain(a), plain(b))
    return a == b or (a != a and b != b)

def assert_same(learn, whole):
    a,b = all_of(learn),all_of(whole)
    assert a.keys() == b.keys()
    for k in a: assert same(a[k], b[k]), k

@pytest.fixture(autouse=True, scope='module')
def one_thread():
    "Bit for bit is for one number of threads, and the processes that are killed have one"
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)

@pytest.fixture(scope='module')
def wholes(tmp_path_factory):
    "Uninterrupted trainings, made when they are first asked for"
    made = {}
    def get(method):
        if method not in made: made[method] = fit(make_learner(method, tmp_path_factory.mktemp('whole'), 1))
        return made[method]
    return get

@pytest.fixture(scope='module')
def killed(tmp_path_factory):
    out = tmp_path_factory.mktemp('killed')
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': PYTHONPATH}
    command = sys.executable,resume.__file__,str(out)
    res = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert res.returncode == 0, res.stderr[-4000:]
    return out

pytestmark = pytest.mark.filterwarnings('ignore:KNNCorrection', 'ignore:BMMFilter')

@pytest.mark.slow
@pytest.mark.parametrize('method', ALL)
def test_killed_process(method, killed, wholes):
    learn = make_learner(method, killed/method, 2) # another process: other random numbers
    learn.load(f'model_{STOP-1}')
    assert_same(fit(learn, start_epoch=STOP), wholes(method))

@pytest.mark.parametrize('method', ALL)
def test_ctrl_c(method, tmp_path, wholes):
    learn = make_learner(method, tmp_path, 1)
    def stop(): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): fit(learn, At(stop)) # before the gradients are zero again
    learn.load(f'model_{STOP-1}')
    assert_same(fit(learn, start_epoch=STOP), wholes(method))

def test_two_views(tmp_path, wholes):
    "The moves of the second view are those of the epoch; the random streams are kept where any method is there"
    learn = make_learner('gjs', tmp_path, 1)
    def stop(): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): fit(learn, At(stop))
    again = make_learner('gjs', tmp_path, 2)
    again.load(f'model_{STOP-1}')
    assert_same(fit(again, start_epoch=STOP), wholes('gjs'))

@pytest.mark.parametrize('method', ALL)
def test_our_part_of_the_file_needs_no_pickle(method, tmp_path, wholes):
    learn = wholes(method)
    path = learn.save('last')
    state = saved_state(path, 'fastnoisy')
    assert state['format'] == FORMAT and state['methods'].keys() >= {'dynamics'}
    torch.save(state, tmp_path/'ours.pth')
    assert same(torch.load(tmp_path/'ours.pth', weights_only=True), state)

@pytest.mark.slow
def test_killed_while_writing(killed, wholes):
    "The old file is whole; what was half written is not taken for a checkpoint"
    models = killed/'writing'/'models'
    assert (models/f'model_{STOP-1}.part.pth').read_bytes() == b'half of it'
    learn = make_learner('also', killed/'writing', 2)
    learn.load(f'model_{STOP-1}')
    assert_same(fit(learn, start_epoch=STOP), wholes('also'))
    assert not (models/f'model_{STOP-1}.part.pth').exists() or not (models/f'model_{STOP}.part.pth').exists()

def test_disk_full(tmp_path, monkeypatch):
    learn = make_learner('also', tmp_path, 1)
    learn.fit(1)
    before = learn.save('x').read_bytes()
    learn.fit(1)
    def full(state, file, **kwargs):
        Path(file).write_bytes(b'half of it')
        raise OSError(28, 'No space left on device')
    with monkeypatch.context() as m, pytest.raises(OSError, match='No space left'):
        m.setattr(torch, 'save', full)
        learn.save('x')
    assert (tmp_path/'models/x.pth').read_bytes() == before and len(list((tmp_path/'models').iterdir())) == 1
    learn.load('x').fit(1)

@contextmanager
def files_of_at_most(n_bytes):
    resource = pytest.importorskip('resource')
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, limits)

@pytest.mark.parametrize('share', [0, .1, .5, .99])
@pytest.mark.parametrize('write', ['save', 'export'])
def test_files_that_cannot_grow(write, share, tmp_path):
    "The system's own limit: PyTorch's writer fails with an error that does not say so"
    learn = make_learner('also', tmp_path, 1)
    learn.fit(1)
    name = dict(save='x', export='x.pkl')[write]
    path = dict(save=tmp_path/'models/x.pth', export=tmp_path/'x.pkl')[write]
    getattr(learn, write)(name)
    before = path.read_bytes()
    learn.fit(1)
    with files_of_at_most(int(share*len(before))), pytest.raises(OSError, match='disk is full.*as it was|too large'):
        getattr(learn, write)(name)
    assert path.read_bytes() == before and [o for o in path.parent.iterdir() if o.is_file()] == [path]
    getattr(learn, write)(name)
    assert path.read_bytes() != before

def test_skipped_epochs_leave_files_and_records_alone(tmp_path):
    learn = fit(make_learner('also', tmp_path, 1))
    first = (tmp_path/'models/model_0.pth').read_bytes()
    learn.load('model_1')
    fit(learn, SaveModelCallback(fname='best'), start_epoch=STOP)
    assert (tmp_path/'models/model_0.pth').read_bytes() == first and len(learn.recorder.values) == 2
    assert '_do_fit' not in vars(learn) and 'unloaded' not in vars(learn)

def test_methods_given_to_fit_are_resumed(tmp_path):
    def make(seed, cbs=None):
        learn = make_learner('ce', tmp_path, seed)
        learn.remove_cbs([DynamicsCallback, SampleCallback])
        return learn
    whole,also = make(1),ALSOCallback()
    fit(whole, also)
    again,other = make(2),ALSOCallback()
    again.load(f'model_{STOP-1}')
    fit(again, other, start_epoch=STOP)
    assert torch.equal(weights_of(again.model), weights_of(whole.model)) and torch.equal(also.pi.all(), other.pi.all())

def test_streams_are_put_back_only_on_request(tmp_path):
    learn = make_learner('also', tmp_path, 1)
    learn.fit(1)
    learn.save('x')
    torch.manual_seed(9)
    learn.load('x')
    learn.fit(1)
    state = torch.get_rng_state()
    learn.load('x')
    torch.manual_seed(9)
    learn.fit(1)
    assert torch.equal(torch.get_rng_state(), state) and not hasattr(learn, 'resume_point')

def test_lr_find_between_load_and_fit(tmp_path, wholes):
    learn = make_learner('also', tmp_path, 2)
    shutil.copytree(wholes('also').path/'models', tmp_path/'models')
    learn.load(f'model_{STOP-1}')
    learn.lr_find(show_plot=False, num_it=6)
    assert_same(fit(learn, start_epoch=STOP), wholes('also'))

# what does not belong

def saved(tmp_path, method='also'):
    learn = make_learner(method, tmp_path, 1)
    fit(learn)
    return learn

def test_other_data(tmp_path):
    learn = saved(tmp_path)
    learn.dls = make_dls(60)
    says = '64 training samples, and now there are 60.*with_opt=False'
    with pytest.raises(ValueError, match=says): learn.load('model_1')
    learn.load('model_1', with_opt=False)

def test_other_classes(tmp_path):
    learn = make_learner('also', tmp_path, 1)
    learn.dls.train.vocab = list('012')
    fit(learn)
    learn.dls.train.vocab = [f'digit {i}' for i in range(3)]
    says = r"on the classes \['0', '1', .*now they are \['digit 0'"
    with pytest.raises(ValueError, match=says): learn.load('model_1')

def test_other_format(tmp_path):
    learn = saved(tmp_path)
    file = tmp_path/'models/model_1.pth'
    state = torch.load(file, weights_only=False)
    state['opt']['hypers'][0]['fastnoisy']['format'] = FORMAT + 1
    torch.save(state, file)
    says = f'format {FORMAT+1}, and this version of fastnoisy reads format {FORMAT}'
    with pytest.raises(ValueError, match=says): learn.load('model_1')
    state['opt']['fastnoisy'] = dict(state['opt']['hypers'][0].pop('fastnoisy'), format=1) # as written by version 0.1
    torch.save(state, file)
    with pytest.raises(ValueError, match='format 1, and this'): learn.load('model_1')
    learn.load('model_1', with_opt=False)
    learn.fit(1)

RUNNING = partial(BMMFilterCallback, 'running_loss')

@pytest.mark.parametrize('was, now, message', [
    (ALSOCallback, lambda: ALSOCallback('max'), "objective='max': the saved weights were learnt with objective='min'"),
    (ALSOCallback, lambda: ALSOCallback(groups=np.arange(N) % 2), 'weights of 64 samples'),
    (lambda: TwoModelConfidenceCallback(models=1), TwoModelConfidenceCallback, 'models=2: the saved state has no peer network'),
    (lambda: DynamicsCallback('aum'), lambda: DynamicsCallback('el2n'), 'aum'),
    (RUNNING, lambda: BMMFilterCallback('aum'), "signal='aum': the saved state is that of signal='running_loss'"),
    (RUNNING, lambda: BMMFilterCallback('loss'), "signal='loss': the saved state is that of signal='running_loss'"),
    (knn, lambda: knn(soft=True), 'soft=True'),
    (lambda: knn(action='filter'), knn, "action='correct': the saved"),
])
def test_other_options(was, now, message, tmp_path):
    def make(cb):
        learn = make_learner('ce', tmp_path, 1)
        learn.remove_cbs(DynamicsCallback)
        return learn.add_cb(cb())
    learn = make(was)
    learn.fit(1)
    learn.save('x')
    with pytest.raises(ValueError) as e: make(now).load('x').fit(1)
    assert message in str(e.value)

# the parts

def test_random_state():
    def dls_of(): return blob_dls(shuffle=True)
    dls,other = blob_dls(),blob_dls()
    torch_dl = TorchDataLoader(TensorDataset(torch.arange(8)), shuffle=True, generator=torch.Generator().manual_seed(1))
    dls.loaders.append(torch_dl)
    def draw():
        numbers = random.random(),random.gauss(0, 1),np.random.randn(),torch.rand(1).item()
        return [*numbers, *dls.train.get_idxs(), *(x.item() for x, in torch_dl)]
    random.gauss(0, 1), np.random.randn() # each has kept a second number for the next call
    state = random_state(dls)
    first = draw()
    assert draw() != first
    set_random_state(dls, state)
    assert draw() == first

def test_whole_file_without_a_file(tmp_path):
    with pytest.raises(FileNotFoundError), whole_file(tmp_path/'x', tmp_path/'x.part'): pass

def test_save_to_an_open_file_carries_the_methods(learner):
    import io
    learn = learner(ALSOCallback)
    learn.fit(1)
    f = io.BytesIO()
    learn.save(f)
    f.seek(0)
    assert 'also' in torch.load(f, weights_only=False)['opt']['hypers'][0]['fastnoisy']['methods']

"Several processes are one: what each of them knows, and what one knows that has all their batches. See several.py."
import os, socket, subprocess, sys, time
from functools import cache
from pathlib import Path
import numpy as np, pytest, torch
import several
from fastnoisy.core.method import MethodCallback
from fastnoisy.core.distributed import (WholeBatch, average_gradients, copy_from_first, from_every, from_first,
                                        mean_across, n_processes, own_part, process_rank, put_together, sum_across)
from helpers import PYTHONPATH, blob_learner
from settings import VARIANTS, battery, setting

ALL = [o for o in (*battery(), *VARIANTS) if setting(o).processes]

def launched(n, out, *methods):
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': PYTHONPATH}
    torchrun = sys.executable,'-m','torch.distributed.run','--standalone','--nproc_per_node',str(n)
    command = [*torchrun, several.__file__, str(out), *methods]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)

@pytest.fixture(scope='module')
def two(tmp_path_factory):
    out = tmp_path_factory.mktemp('two')
    res = launched(2, out)
    assert res.returncode == 0, res.stderr[-4000:]
    return [torch.load(out/f'{i}.pth') for i in range(2)]

def known(t): return torch.nan_to_num(t.double(), nan=-9.)

def equal(a, b): return a.keys() == b.keys() and all(torch.equal(known(a[k]), known(b[k])) for k in a)

@cache
def alone(method, world):
    with several.as_divided(world): return several.train(method, world).noted.kept

# an estimate that says too little, and is not used, has a flat optimum: the last bits move it
FLAT = {('estimated', 'transition.T')}

def compare(parts, method, world):
    "The processes agree in every bit, and with one process that gets the same batches to 1e-4"
    (kept,said),*others = (o[method] for o in parts)
    for other_kept,other_said in others: assert all(map(equal, kept, other_kept)) and all(map(equal, said, other_said))
    assert len(kept) == len(alone(method, world)) == several.EPOCHS
    for epoch,(one,row) in enumerate(zip(kept, alone(method, world))):
        assert all(o.startswith('bmm.') for o in row.keys() ^ one.keys()) # a mixture may be clear by a hair
        for name in row.keys() & one.keys():
            if (method, name) in FLAT: continue
            value = row[name]
            apart = (known(one[name]) - known(value)).abs() - 1e-4*(1 + known(value).abs())
            assert (apart <= 0).all(), f'epoch {epoch}: {name} is not that of one process, {apart.max():.2g} too far'

@pytest.mark.slow
@pytest.mark.parametrize('method', ALL)
def test_two_processes_are_one(two, method): compare(two, method, 2)

@pytest.mark.slow
def test_what_is_not_compared_with_one_process_agrees(tmp_path):
    """FINE leaves out so much that the batches are others than in one process, DISC draws other views in each: the
    processes agree in every bit all the same, and both have acted"""
    res = launched(2, tmp_path, 'fine', 'disc')
    assert res.returncode == 0, res.stderr[-4000:]
    a,b = (torch.load(tmp_path/f'{i}.pth') for i in range(2))
    for method in ('fine', 'disc'):
        (kept,said),(other_kept,other_said) = a[method],b[method]
        assert len(kept) == several.EPOCHS and all(map(equal, kept, other_kept)) and all(map(equal, said, other_said))
    assert a['fine'][1][-1]['fine'][:,2].sum() > 0 # is_label_issue
    assert len(a['disc'][1][-1]['disc'][:,-1].unique()) > 1

@pytest.mark.slow
def test_the_methods_have_acted(two):
    "or the comparison says nothing: the mixtures are clear, and were used"
    def said(method, name): return two[0][method][1][-1][name]
    for method in ('also+bmm', 'drop', 'weight', 'loss'):
        both = (a.keys() & b.keys() for a,b in zip(two[0][method][0], alone(method, 2)))
        assert any('bmm.p_noisy' in o for o in both), method
    assert said('drop', 'bmm')[:,2].sum() == 16 # is_label_issue
    assert (said('also+bmm', 'bmm')[:,1] > .5).sum() > 8 # p_noisy; a model at chance flags nothing
    assert two[0]['lilaw'][0][-1]['lilaw.params'].tolist() != [10, 2, 6]
    assert said('also+knn', 'knn')[:,7].sum() > 0 # is_corrected

@pytest.mark.slow
def test_a_report_within_a_fit(two):
    assert two[0]['reports'] == two[1]['reports'] and len(two[0]['reports']) == 9

@pytest.mark.slow
def test_every_sample_counts_once(two):
    assert all((o['odd']['seen'] == 2).all() and len(o['odd']['seen']) == 61 for o in two)

@pytest.mark.slow
def test_with_batchnorm_the_processes_agree(two):
    (kept,said),(other_kept,other_said) = (o['norm'] for o in two)
    assert all(map(equal, kept, other_kept)) and all(map(equal, said, other_said))
    assert set(said[0]) == {'confidence', 'bmm', 'knn'} and (kept[-1]['confidence.peer.model.2.running_var'] != 1).all()

@pytest.mark.slow
def test_report_is_complete_in_every_process(two):
    one,other = (o['odd']['report'] for o in two)
    assert one == other and one.count('\n') == 62

@pytest.mark.slow
def test_errors_come_in_every_process(two):
    for part in two:
        sizes,alone,lr_find = part['refused']
        assert 'The processes do not train the same' in sizes
        assert "(60, ['also', 'dynamics']), (61, ['also', 'dynamics'])" in sizes
        assert '2 processes have been started, but this one trains alone' in alone
        assert '`lr_find` cannot be used in several processes' in lr_find

@pytest.mark.slow
def test_four_processes_and_one_that_is_killed(tmp_path):
    methods = 'lilaw', 'also+knn', 'confidence'
    start = time.time()
    res = launched(4, tmp_path, *methods)
    assert res.returncode != 0 and time.time() - start < 120
    assert 'SIGKILL' in res.stderr and 'several.py FAILED' in res.stderr
    parts = [torch.load(tmp_path/f'{i}.pth') for i in range(4)]
    for method in methods: compare(parts, method, 4)

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

@pytest.mark.slow
def test_two_machines(tmp_path):
    "Two launchers that meet at an address, one process each, as on two machines"
    where = '--nnodes','2','--rdzv_backend','c10d','--rdzv_endpoint',f'127.0.0.1:{free_port()}','--rdzv_id','two'
    torchrun = sys.executable,'-m','torch.distributed.run',*where,'--nproc_per_node','1'
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': PYTHONPATH}
    command = [*torchrun, several.__file__, str(tmp_path), 'also', 'elr']
    options = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    nodes = [subprocess.Popen(command, **options) for _ in range(2)]
    said = [o.communicate(timeout=300)[0] for o in nodes]
    assert [o.returncode for o in nodes] == [0, 0], said[0][-4000:]
    parts = [torch.load(tmp_path/f'{i}.pth') for i in range(2)]
    for method in ('also', 'elr'): compare(parts, method, 2)

# one process

def test_one_process_is_left_alone():
    t = torch.arange(4.)
    assert n_processes() == 1 and process_rank() == 0 and own_part(3) == range(3)
    assert all(f(t) is t for f in (sum_across, mean_across, from_first, put_together)) and from_every(t)[0] is t
    model = torch.nn.Linear(1, 1)
    copy_from_first(model.parameters())
    average_gradients(model.parameters())
    ids = torch.tensor([3, 1])
    batch = WholeBatch(ids)
    assert batch.ids is ids and torch.equal(batch.gather(t), t)

def test_whole_batch_of_one_process():
    class Sees(MethodCallback):
        name = 'sees'
        def batch_weights(self):
            ids,losses = self.gather_batch(self.sample_loss)
            assert ids is self.learn.sample_ids and torch.equal(losses, self.sample_loss) and not losses.requires_grad
    blob_learner(Sees()).fit(1)

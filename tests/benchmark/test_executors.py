"""Trainings wherever they run give the rows of one process; a killed worker loses nothing and repeats nothing. Dask,
Ray and submitit are tried where they are installed."""
import multiprocessing, os, signal, subprocess, sys, threading, time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
import pandas as pd, pytest
from fastnoisy.benchmark.executors import RayExecutor, Shared, as_executor, completed, read_shared, run_calls
from fastnoisy.benchmark.recommend import recommend
from fastnoisy.benchmark.runner import run_grid
from fastnoisy.benchmark.trial import TRIAL
from helpers import PYTHONPATH, noisy_dls, small_model

GRID = dict(noise=['symmetric:.4'], methods=['ce', 'gce'], seeds=2, epochs=1)
linux = pytest.mark.skipif(sys.platform == 'win32', reason='signals')

def noted(folder, name):
    "One line per call: who called"
    with open(Path(folder)/name, 'a') as f: f.write(f'{os.getpid()}\n')
    return name

def dies_once(folder, name):
    "The worker of the call 'b' is killed when it is there for the first time"
    noted(folder, name)
    if name == 'b' and not (Path(folder)/'died').exists():
        (Path(folder)/'died').touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return name

def always_dies(folder, name):
    if name == 'b': os.kill(os.getpid(), signal.SIGKILL)
    return name

def loses_node(folder, name):
    "The node of the call 'b', which is the worker and what watches it, is gone when it is there for the first time"
    noted(folder, name)
    if name == 'b' and not (Path(folder)/'died').exists():
        (Path(folder)/'died').touch()
        os.killpg(0, signal.SIGKILL)
    return name

def fails(folder, name): raise ZeroDivisionError(name)

def lines(file): return file.read_text().split()

# what is needed of an executor

class Later:
    "No future of Python's: `done` and `result` only"
    def __init__(self, f, args): self.f,self.args,self.n = f,args,0
    def done(self):
        self.n += 1
        return self.n > 2
    def result(self): return self.f(*self.args)

class Minimal:
    def submit(self, f, *args): return Later(f, args)

@pytest.mark.parametrize('executor', [Minimal, partial(ThreadPoolExecutor, 2)])
def test_anything_with_submit(executor, tmp_path):
    calls = [('a',), ('b',), ('c',)]
    got = list(run_calls(noted, calls, str(tmp_path), executor=executor(), folder=tmp_path))
    assert sorted(got) == [((o,), o) for o in 'abc'] and not list(tmp_path.glob('shared*'))
    with pytest.raises(ZeroDivisionError): list(run_calls(fails, calls, 1, executor=executor(), folder=tmp_path))

def test_what_is_shared_is_read_once(tmp_path, monkeypatch):
    shared,reads = Shared([1, 2], tmp_path),[]
    monkeypatch.setattr(Path, 'read_bytes', lambda self: reads.append(self) or open(self, 'rb').read())
    assert all(read_shared(shared.file, shared.key) == [1, 2] for _ in range(3)) and len(reads) == 1

def test_what_cannot_be_sent(tmp_path):
    with pytest.raises(TypeError, match='make.*models cannot be sent.*jobs=1|cannot be sent'):
        list(run_calls(noted, [('a',)], (o for o in 'ab'), jobs=2, folder=tmp_path))

@linux
def test_a_killed_process_loses_nothing(tmp_path):
    got = list(run_calls(dies_once, [(o,) for o in 'abcd'], str(tmp_path), 2, folder=tmp_path))
    assert sorted(o for _,o in got) == [*'abcd'] and len(lines(tmp_path/'b')) == 2

@linux
def test_a_process_that_always_dies(tmp_path):
    with pytest.raises(OSError, match='A process was killed.*fewer jobs'):
        list(run_calls(always_dies, [('b',)], str(tmp_path), 2, folder=tmp_path))

# the grid and the recommender

def same_grid(executor, out):
    there = run_grid(out/'there', executor=executor, **GRID)
    here = run_grid(out/'here', jobs=1, **GRID)
    def table(o): return o.drop(columns=['seconds', 'peak_mb']).sort_values(TRIAL).reset_index(drop=True)
    pd.testing.assert_frame_equal(table(there), table(here), check_dtype=False)
    again = run_grid(out/'there', executor=executor, **GRID)
    assert len(again) == len(there) == 4 and not list((out/'there').glob('shared*'))

RACE = dict(recipes=['elr'], epochs=2, lr=.1, retrain=False, tell=str)

def model(): return small_model(seed=0)

def test_words_for_executors(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="executor='condor'.*dask:ADDRESS"): as_executor('condor')
    for o in ('dask', 'ray', 'slurm'):
        with monkeypatch.context() as m, pytest.raises(ImportError, match=rf'pip install fastnoisy\[{o}\]'):
            for name in ('dask', 'dask.distributed', 'ray', 'submitit'): m.setitem(sys.modules, name, None)
            as_executor(o, tmp_path)

def same_race(out, **where):
    there,here = (recommend(noisy_dls(), model, 3, out=out/o, **RACE, **w) for o,w in (('a', where), ('b', {})))
    a,b = (pd.read_csv(out/o/'stages.csv').sort_values(['recipe', 'seed', 'epochs']) for o in 'ab')
    both = a.merge(b, on=['recipe', 'seed', 'epochs'])
    assert len(both) >= 4 and (both.accuracy_x == both.accuracy_y).all()
    assert {there.recipe, here.recipe} <= {'ce', 'elr'}

@pytest.mark.slow
def test_grid_in_threads(tmp_path):
    with ThreadPoolExecutor(1) as pool: same_grid(pool, tmp_path)

@pytest.mark.slow
def test_race_in_processes(tmp_path): same_race(tmp_path, jobs=2)

def stopped_and_continued(executor, out):
    "A race that is stopped after two trainings and goes on: no training twice, the same rows as in one go"
    said = []
    def tell(o):
        said.append(o)
        if len(said) == 2: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        recommend(noisy_dls(), model, 3, out=out/'x', executor=executor, **{**RACE, 'tell': tell})
    recommend(noisy_dls(), model, 3, out=out/'x', executor=executor, **RACE)
    recommend(noisy_dls(), model, 3, out=out/'y', **RACE)
    a,b = (pd.read_csv(out/o/'stages.csv') for o in 'xy')
    both = a.merge(b, on=['recipe', 'seed', 'epochs'])
    assert not a.duplicated(['recipe', 'seed', 'epochs']).any() and len(both) >= 4
    assert (both.accuracy_x == both.accuracy_y).all()

class Loud:
    "Data that note who unpacks them"
    def __init__(self, folder): self.folder = str(folder)
    def __setstate__(self, state):
        vars(self).update(state)
        noted(self.folder, 'unpacked')

def waits(data, i):
    time.sleep(.1)
    return i,os.getpid()

def data_travel_once(executor, out, workers=2):
    got = list(run_calls(waits, [(i,) for i in range(10)], Loud(out), executor=executor, folder=out))
    unpacked,called = lines(out/'unpacked'),{str(pid) for _,(_,pid) in got}
    assert len(got) == 10 and len(set(unpacked)) == len(unpacked) <= workers and called <= set(unpacked)

def test_data_travel_once(tmp_path):
    with ProcessPoolExecutor(2, multiprocessing.get_context('spawn')) as pool: data_travel_once(pool, tmp_path)

@pytest.mark.slow
def test_restart_in_processes(tmp_path):
    with ProcessPoolExecutor(2, multiprocessing.get_context('spawn')) as pool: stopped_and_continued(pool, tmp_path)

# clusters of this machine

@pytest.fixture(scope='module')
def dask_client():
    distributed = pytest.importorskip('distributed')
    os.environ['PYTHONPATH'] = PYTHONPATH
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        with distributed.Client(cluster) as client: yield client

@pytest.mark.slow
def test_dask(dask_client, tmp_path): same_grid(dask_client.get_executor(), tmp_path)

@pytest.mark.slow
def test_dask_race(dask_client, tmp_path): same_race(tmp_path, executor=dask_client.get_executor())

@pytest.mark.slow
def test_dask_killed_worker(dask_client, tmp_path):
    pool = dask_client.get_executor()
    got = list(run_calls(dies_once, [(o,) for o in 'abcd'], str(tmp_path), executor=pool, folder=tmp_path))
    assert sorted(o for _,o in got) == [*'abcd'] and len(lines(tmp_path/'b')) == 2

@pytest.fixture
def dask_nodes(tmp_path):
    "A scheduler and two nodes, each a group of processes as on a machine of its own"
    distributed = pytest.importorskip('distributed')
    program = [sys.executable, '-m', 'distributed.cli.dask_worker', '--nthreads=1', '--no-dashboard']
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([PYTHONPATH, *sys.path]), OMP_NUM_THREADS='1')
    with distributed.LocalCluster(n_workers=0, dashboard_address=None) as cluster:
        def node(i): return subprocess.Popen([*program, f'--local-directory={tmp_path}/{i}', cluster.scheduler_address],
                                             env=env, start_new_session=True, stderr=subprocess.DEVNULL)
        nodes = [node(o) for o in range(2)]
        try: yield cluster.scheduler_address
        finally:
            for o in nodes:
                if o.poll() is None: os.killpg(o.pid, signal.SIGKILL)
                o.wait()

@linux
@pytest.mark.slow
def test_dask_lost_node(dask_nodes, tmp_path):
    pool = as_executor(f'dask:{dask_nodes}')
    got = list(run_calls(loses_node, [(o,) for o in 'abcd'], str(tmp_path), executor=pool, folder=tmp_path))
    assert sorted(o for _,o in got) == [*'abcd'] and len(lines(tmp_path/'b')) == 2
    (tmp_path/'race').mkdir()
    same_race(tmp_path/'race', executor=pool) # on the node that is left
    pool._client.close()

@pytest.mark.slow
def test_dask_restart(dask_client, tmp_path): stopped_and_continued(dask_client.get_executor(), tmp_path)

@pytest.mark.slow
def test_dask_data_travel_once(dask_client, tmp_path): data_travel_once(dask_client.get_executor(), tmp_path)

HERE = os.pathsep.join([PYTHONPATH, str(Path(__file__).parent)])
RAY_ENV = dict(env_vars=dict(PYTHONPATH=HERE, OMP_NUM_THREADS='1'))

@pytest.fixture
def ray_cluster():
    ray = pytest.importorskip('ray')
    ray.init(address='local', num_cpus=2, include_dashboard=False, runtime_env=RAY_ENV)
    yield ray
    ray.shutdown()

@pytest.mark.slow
def test_ray(ray_cluster, tmp_path):
    for check in (same_grid, same_race, stopped_and_continued, data_travel_once):
        (out := tmp_path/check.__name__).mkdir()
        check(out=out, executor=as_executor('ray')) # of the cluster that is there
    got = list(run_calls(dies_once, [(o,) for o in 'abcd'], str(tmp_path), executor=RayExecutor(), folder=tmp_path))
    assert sorted(o for _,o in got) == [*'abcd'] and len(lines(tmp_path/'b')) == 2

def node_of(folder, name):
    "Who called, and on which node; the call 'b' waits, when it is there for the first time, for the end of its node"
    import ray
    noted(folder, name)
    node = ray.get_runtime_context().get_node_id()
    if name == 'b' and not (Path(folder)/'node').exists():
        (Path(folder)/'part').write_text(node)
        os.replace(Path(folder)/'part', Path(folder)/'node')
        time.sleep(300)
    return node

@pytest.fixture
def ray_nodes():
    "A head without room for work and two nodes, each with processes of its own"
    ray = pytest.importorskip('ray')
    from ray.cluster_utils import Cluster
    cluster = Cluster(initialize_head=True, head_node_args=dict(num_cpus=0, include_dashboard=False))
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, runtime_env=RAY_ENV)
    yield cluster,{o.node_id: o for o in nodes}
    ray.shutdown()
    cluster.shutdown()

@pytest.mark.slow
def test_ray_lost_node(ray_nodes, tmp_path):
    cluster,nodes = ray_nodes
    def lose():
        while not (tmp_path/'node').exists(): time.sleep(.05)
        cluster.remove_node(nodes[(tmp_path/'node').read_text()], allow_graceful=False)
    loser = threading.Thread(target=lose, daemon=True)
    loser.start()
    got = dict(run_calls(node_of, [(o,) for o in 'abcd'], str(tmp_path), executor=RayExecutor(), folder=tmp_path))
    lost = (tmp_path/'node').read_text()
    assert sorted(o for o, in got) == [*'abcd'] and got['b',] != lost and len(lines(tmp_path/'b')) == 2
    (tmp_path/'race').mkdir()
    same_race(tmp_path/'race', executor=RayExecutor()) # on the node that is left

@pytest.mark.slow
def test_submitit(tmp_path, monkeypatch):
    submitit = pytest.importorskip('submitit')
    monkeypatch.setenv('PYTHONPATH', PYTHONPATH) # its processes find this file's helpers
    executor = submitit.AutoExecutor(tmp_path/'logs', cluster='local')
    executor.update_parameters(timeout_min=5)
    same_grid(executor, tmp_path)
    same_race(tmp_path, executor=executor)

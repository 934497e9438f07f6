"What the scripts in benchmarks/ share: rows that survive, tasks that are not done twice, the parts of a file."
import importlib.util, warnings
from types import SimpleNamespace
import numpy as np, pandas as pd, pytest
from helpers import TESTS

@pytest.fixture(scope='module')
def common():
    spec = importlib.util.spec_from_file_location('benchmarks_common', TESTS.parent/'benchmarks/common.py')
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings(): spec.loader.exec_module(module) # it silences warnings
    return module

def test_rows_are_kept_and_found_again(common, tmp_path):
    rows = common.Rows(tmp_path/'a.csv', method='ce')
    rows.add(dict(method='ce', seed=0, accuracy=1/3), dict(method='ce', seed=1, accuracy=.5))
    again = common.Rows(tmp_path/'a.csv', resume=True, method='ce')
    assert dict(seed=0) in again and dict(seed=2) not in again and dict(epochs=3) not in again
    assert common.Rows(tmp_path/'a.csv', resume=False, method='ce').rows == []
    again.add(dict(method='ce', seed=2, accuracy=.25))
    assert pd.read_csv(tmp_path/'a.csv').accuracy.tolist() == [.33333, .5, .25]

def test_a_column_that_comes_later(common, tmp_path):
    rows = common.Rows(tmp_path/'a.csv')
    rows.add(dict(seed=1, loss=.5))
    rows.add(dict(seed=0, loss=.25, auc=.75))
    rows.sort('seed')
    table = pd.read_csv(tmp_path/'a.csv')
    assert table.seed.tolist() == [0, 1] and table.auc.tolist()[0] == .75 and table.auc.isna().tolist() == [False, True]
    assert [o.name for o in tmp_path.iterdir() if not o.name.startswith('.')] == ['a.csv'] # nothing is left beside it

def test_only_what_is_missing_is_made(common, tmp_path, capsys):
    made = []
    def experiment(args, seed, method):
        made.append((method, seed))
        return dict(method=method, seed=seed, value=seed + .5)
    todo = common.tasks(method=['a', 'b'], seed=range(2))
    assert todo == [dict(method=m, seed=s) for m in 'ab' for s in range(2)]
    for n in (2, 4):
        common.measure(experiment, SimpleNamespace(jobs=1), todo[:n], common.Rows(tmp_path/'a.csv', resume=True))
    assert made == [('a', 0), ('a', 1), ('b', 0), ('b', 1)] and len(pd.read_csv(tmp_path/'a.csv')) == 4
    assert '4 experiments, 2 of them in' in capsys.readouterr().out

def test_parts_of_a_file(common, tmp_path):
    "A tenth of the first images to validate on, the rest to train, and the test images as they are"
    x,y = np.arange(240, dtype=np.uint8).reshape(240, 1, 1).repeat(8, 1).repeat(8, 2),np.arange(240) % 2
    np.savez(tmp_path/'d.npz', train_images=x[:230], train_labels=y[:230], test_images=x[230:], test_labels=y[230:])
    args = common.arguments('x', seeds=3, npz=True).parse_args(['--npz', str(tmp_path/'d.npz'), '--n', '200'])
    assert args.seeds == 3 and not args.resume and common.data_name(args) == 'd'
    dls = common.images(args, None, 0)
    items = [o.items.images[:,0,0].tolist() for o in (dls.train_ds, dls.valid_ds)]
    assert items == [list(range(20, 200)), list(range(20))] and len(dls.test.dataset) == 10

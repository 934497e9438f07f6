"What every test starts from: one seed, no windows, and a Learner in a folder of its own."
from pathlib import Path
import os
import matplotlib
matplotlib.use('Agg')
import pytest, torch
from fastai.basics import set_seed
from helpers import blob_learner

TESTS = Path(__file__).parent
SLOW = set((TESTS/'reference/slow.txt').read_text().split()) # measured: together they take most of the time

LONGEST = 'test_package.py::test_notebooks_run', 'test_device.py::test_device_thoroughly' # minutes each

def place(item): return f"{item.path.relative_to(TESTS).as_posix()}::{item.name.split('[')[0]}"

def longest_first(items):
    "The longest tests at the start of equal parts, as `--dist worksteal` deals them out to its processes"
    long = [o for o in items if place(o) in LONGEST]
    rest = [o for o in items if o not in long]
    for i,o in reversed([*enumerate(long)]): rest.insert(i*len(rest)//len(long), o)
    return rest

@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    "Mark what reference/slow.txt names, by file and function, as slow; in several processes the longest come first"
    for item in items:
        if place(item) in SLOW: item.add_marker(pytest.mark.slow)
    if hasattr(config, 'workerinput'): items[:] = longest_first(items)

if 'OMP_NUM_THREADS' not in os.environ: torch.set_num_threads(1) # networks as small as these gain nothing from a second

@pytest.fixture(autouse=True)
def one_seed():
    "Every test starts from the same random streams"
    set_seed(0)

@pytest.fixture
def learner(tmp_path):
    def make(*args, **kwargs):
        learn = blob_learner(*args, **kwargs)
        learn.path = tmp_path
        return learn
    return make

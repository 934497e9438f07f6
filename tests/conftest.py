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

@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    "Mark what reference/slow.txt names, by file and function, as slow"
    for item in items:
        name = item.name.split('[')[0]
        if f'{item.path.relative_to(TESTS).as_posix()}::{name}' in SLOW: item.add_marker(pytest.mark.slow)

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

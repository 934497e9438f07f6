"What every test starts from: one seed, no windows, and a Learner in a folder of its own."
import matplotlib
matplotlib.use('Agg')
import pytest
from fastai.basics import set_seed
from helpers import blob_learner

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

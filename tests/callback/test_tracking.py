"fastai's callbacks for TensorBoard and Weights & Biases show the numbers of the methods, with no more code"
from types import SimpleNamespace
import pytest, torch
from fastnoisy.callback.bmm import BMMFilterCallback
from fastnoisy.callback.also import ALSOCallback
from fastnoisy.callback.lilaw import LiLAWCallback
from fastnoisy.callback.noisy_valid import NoisyValidCallback
from helpers import fitted_blobs, noisy_dls

METHODS = lambda: [LiLAWCallback(), ALSOCallback(), BMMFilterCallback(), NoisyValidCallback()]
NUMBERS = {'alpha', 'beta', 'delta', 'noise_rate', 'smoothed', 'error'}

@pytest.mark.filterwarnings('ignore:BMMFilter')
def test_tensorboard(tmp_path):
    pytest.importorskip('tensorboard')
    from fastai.callback.tensorboard import TensorBoardCallback
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    fitted_blobs([*METHODS(), TensorBoardCallback(tmp_path, trace_model=False, log_preds=False)], 3, noisy_dls())
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert NUMBERS <= set(events.Tags()['scalars'])
    assert [o.step for o in events.Scalars('alpha')]

@pytest.mark.filterwarnings('ignore:BMMFilter')
def test_weights_and_biases(monkeypatch):
    "With a stand-in for wandb, which logs nowhere"
    import sys
    logged = []
    wandb = SimpleNamespace(run=SimpleNamespace(step=0, summary={}), log=lambda o, **kwargs: logged.append(o))
    wandb.config = SimpleNamespace(update=lambda *args, **kwargs: None)
    monkeypatch.setitem(sys.modules, 'wandb', wandb)
    monkeypatch.setitem(sys.modules, 'wandb.wandb_config', SimpleNamespace(ConfigError=ValueError))
    from fastai.callback.wandb import WandbCallback
    monkeypatch.setattr('fastai.callback.wandb._format_config', str) # of the settings: it fails at data sets of tuples
    fitted_blobs([*METHODS(), WandbCallback(log=None, log_preds=False, log_model=False)], 2)
    assert NUMBERS <= {k for o in logged for k in o}

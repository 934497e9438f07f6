"fastai's callbacks for TensorBoard and Weights & Biases, and ours for MLflow, show the numbers of the methods"
import sys
from types import SimpleNamespace
import pytest, torch
from fastnoisy.callback.bmm import BMMFilterCallback
from fastnoisy.callback.also import ALSOCallback
from fastnoisy.callback.lilaw import LiLAWCallback
from fastnoisy.callback.noisy_valid import NoisyValidCallback
from fastnoisy.callback.planted import PlantedErrorsCallback
from fastnoisy.callback.tracking import MLflowCallback
from helpers import Stop, fitted_blobs, noisy_dls

METHODS = lambda: [LiLAWCallback(), ALSOCallback(), BMMFilterCallback(), NoisyValidCallback(), PlantedErrorsCallback()]
NUMBERS = {'alpha', 'beta', 'delta', 'noise_rate', 'smoothed', 'error', 'planted_recall'}

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
    logged = []
    wandb = SimpleNamespace(run=SimpleNamespace(step=0, summary={}), log=lambda o, **kwargs: logged.append(o))
    wandb.config = SimpleNamespace(update=lambda *args, **kwargs: None)
    monkeypatch.setitem(sys.modules, 'wandb', wandb)
    monkeypatch.setitem(sys.modules, 'wandb.wandb_config', SimpleNamespace(ConfigError=ValueError))
    from fastai.callback.wandb import WandbCallback
    monkeypatch.setattr('fastai.callback.wandb._format_config', str) # of the settings: it fails at data sets of tuples
    fitted_blobs([*METHODS(), WandbCallback(log=None, log_preds=False, log_model=False)], 2)
    assert NUMBERS <= {k for o in logged for k in o}

class StandIn:
    "What of MLflow is called, which logs into lists"
    def __init__(self): self.active,self.metrics,self.ends,self.tags,self.params,self.started = None,[],[],{},{},[]
    def active_run(self): return self.active
    def start_run(self, run_id=None):
        self.started.append(run_id)
        self.active = SimpleNamespace(info=SimpleNamespace(run_id=run_id or f'run{len(self.started)}'))
        return self.active
    def end_run(self, status): self.active = self.ends.append(status)
    def set_tags(self, tags): self.tags.update(tags)
    def log_params(self, params): self.params.update(params)
    def log_metrics(self, numbers, step): self.metrics.append((step, numbers))

@pytest.fixture
def mlflow(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mlflow', StandIn())
    return sys.modules['mlflow']

@pytest.mark.filterwarnings('ignore:BMMFilter')
def test_mlflow_run_of_its_own(mlflow):
    learn = fitted_blobs([*METHODS(), MLflowCallback(params=dict(a=1))], 2)
    assert [o for o,_ in mlflow.metrics] == [0, 1]
    assert NUMBERS | {'train_loss', 'valid_loss'} <= set(mlflow.metrics[0][1])
    assert mlflow.params == {'a': 1} and 'also' in mlflow.tags['methods'].split() and mlflow.ends == ['FINISHED']
    learn.validate(), learn.get_preds(), learn.lr_find(num_it=3, show_plot=False)
    assert len(mlflow.metrics) == 2 and mlflow.started == [None]
    learn.fit(1)
    assert mlflow.metrics[-1][0] == 2 and mlflow.started == [None, 'run1'] and mlflow.active is None

def test_mlflow_active_run(mlflow):
    run = mlflow.start_run()
    fitted_blobs([MLflowCallback()], 2)
    assert mlflow.active is run and not mlflow.ends and mlflow.tags['methods'] == 'none'

@pytest.mark.parametrize('error,status', [(KeyboardInterrupt, 'KILLED'), (ZeroDivisionError, 'FAILED')])
def test_mlflow_run_is_ended_however_the_fit_ends(mlflow, error, status):
    learn = fitted_blobs([MLflowCallback()], 1)
    with pytest.raises(error), learn.added_cbs(Stop('after_batch', error)): learn.fit(1)
    assert mlflow.ends == ['FINISHED', status] and mlflow.active is None
    learn.fit(1)
    assert [o for o,_ in mlflow.metrics] == [0, 1]

def test_mlflow_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mlflow', None)
    with pytest.raises(ImportError, match='pip install mlflow'): MLflowCallback()

def test_real_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip('mlflow')
    monkeypatch.setenv('MLFLOW_ALLOW_FILE_STORE', 'true') # a database needs more than mlflow-skinny
    mlflow.set_tracking_uri((tmp_path/'runs').as_uri())
    learn = fitted_blobs([ALSOCallback(), MLflowCallback(params=dict(arch='mlp'))], 2)
    run, = mlflow.MlflowClient().search_runs(['0'])
    assert run.info.status == 'FINISHED' and run.data.params == {'arch': 'mlp'} and 'train_loss' in run.data.metrics
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, 'valid_loss')
    assert [o.step for o in history] == [0, 1] and history[1].value == pytest.approx(learn.recorder.values[1][1])

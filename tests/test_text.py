"fastai's text models: they return more than the prediction, and `RNNCallback` takes it out in training."
import pytest, torch
from fastai.callback.rnn import rnn_cbs
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.text.learner import get_text_classifier
from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_clas_config
from fastnoisy.analysis.metrics import accuracy_of
from fastnoisy.all import *
from fastnoisy.analysis.neighbors import embed
from fastnoisy.analysis.metrics import logits_of
from settings import battery, lilaw, setting

CONFIG = {**awd_lstm_clas_config, 'emb_sz': 16, 'n_hid': 16, 'n_layers': 1}

def text_model():
    torch.manual_seed(0)
    return get_text_classifier(AWD_LSTM, 30, 2, seq_len=6, config=CONFIG)

def text_learner(**kwargs):
    "Texts of six words; those of the second class have the words from 20 on. A tenth of the labels is wrong"
    gen = torch.Generator().manual_seed(0)
    y = torch.arange(96) % 2
    x = torch.randint(2, 16, (96, 6), generator=gen) + 14*y[:,None]
    rows = list(zip(x, torch.where(torch.arange(96) % 10 < 1, 1-y, y)))
    dls = DataLoaders.from_dsets(rows[:64], rows[64:], bs=16, device='cpu')
    options = {'loss_func': CrossEntropyLossFlat(), **kwargs}
    learn = Learner(dls, text_model(), metrics=accuracy, **options)
    learn.add_cbs(rnn_cbs())
    learn.remove_cbs(learn.progress)
    return learn

def fitted(made, n=3):
    learn = text_learner(**made)
    with learn.no_logging(): learn.fit(n, 3e-2)
    return learn

def slow_but(*names): return [o if o in names else pytest.param(o, marks=pytest.mark.slow) for o in battery()]

@pytest.mark.filterwarnings('ignore:TwoModelConfidence', 'ignore:BMMFilter', 'ignore:KNNCorrection')
@pytest.mark.parametrize('method', slow_but('lilaw', 'also+knn', 'confidence'))
def test_methods_on_text(method):
    learn = fitted(setting(method).make(**setting(method).text(text_model)))
    first,*_,last = (o[0] for o in learn.recorder.values)
    assert last < min(first, .65) and len(noise_report(learn)) == 64

HYPER = dict(meta='hypergradient')

@pytest.mark.slow
@pytest.mark.parametrize('options', [dict(meta_mode='train'), HYPER, dict(HYPER, meta_of='head')])
def test_lilaw_on_text(options):
    learn = fitted(dict(cbs=[lilaw(**options), DynamicsCallback()]), 4)
    assert learn.recorder.values[-1][0] < .65 and len(noise_report(learn)) == 64

def test_predictions_on_text():
    learn = fitted({})
    preds,targs = learn.get_preds()
    assert accuracy_of(learn.model, learn.dls.valid) == pytest.approx((preds.argmax(1) == targs).float().mean().item())
    torch.testing.assert_close(logits_of(learn.model, learn.dls.valid)[0].softmax(1), preds)
    assert embed(learn).shape[0] == 64

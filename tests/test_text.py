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

CONFIG = {**awd_lstm_clas_config, 'emb_sz': 16, 'n_hid': 16, 'n_layers': 1}

def text_model():
    torch.manual_seed(0)
    return get_text_classifier(AWD_LSTM, 30, 2, seq_len=12, config=CONFIG)

def text_learner(*cbs):
    "Texts of twelve words; those of the second class have the words from 20 on"
    gen = torch.Generator().manual_seed(0)
    y = torch.arange(120) % 2
    x = torch.randint(2, 16, (120, 12), generator=gen) + 14*y[:,None]
    rows = list(zip(x, torch.where(torch.arange(120) % 10 < 1, 1-y, y)))
    dls = DataLoaders.from_dsets(rows[:96], rows[96:], bs=16, device='cpu')
    learn = Learner(dls, text_model(), CrossEntropyLossFlat(), metrics=accuracy, cbs=[*rnn_cbs(), *cbs])
    learn.remove_cbs(learn.progress)
    return learn

MAKERS = [ALSOCallback, lambda: BMMFilterCallback('running_loss'), DynamicsCallback, KNNCorrectionCallback, LiLAWCallback, lambda: LiLAWCallback(meta_mode='train'),
    lambda: LiLAWCallback(meta='hypergradient'), lambda: LiLAWCallback(meta='hypergradient', meta_of='head'), lambda: TwoModelConfidenceCallback(robust_model=text_model())]

@pytest.mark.parametrize('make', MAKERS)
def test_methods_on_text(make):
    learn = text_learner(make())
    with learn.no_logging(): learn.fit(3, 1e-2)
    report = learn.noise_report()
    assert learn.recorder.values[-1][0] < .65 and len(report) == 96

def test_measures_on_text():
    learn = text_learner()
    with learn.no_logging(): learn.fit(3, 1e-2)
    preds,targs = learn.get_preds()
    assert accuracy_of(learn.model, learn.dls.valid) == pytest.approx((preds.argmax(1) == targs).float().mean().item())
    torch.testing.assert_close(logits_of(learn.model, learn.dls.valid)[0].softmax(1), preds)
    assert embed(learn).shape[0] == 96

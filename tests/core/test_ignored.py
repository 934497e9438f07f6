"Samples whose label is the loss's `ignore_index`: against a training set in which they are not"
from functools import partial
import numpy as np, pytest, torch
import torch.nn.functional as F
from torch import nn
from fastai.basics import CrossEntropyLossFlat, DataLoaders, Learner, TfmdDL
from fastnoisy.core.ignored import ignore_index_of, ignored_rows, some_rows
from fastnoisy.core.method import MethodCallback
from fastnoisy.core.predict import predict
from fastnoisy.losses.robust import GCELoss
from helpers import LR, N, Items, blobs, linear, make, make_dls, weights_of

IGNORED = np.arange(N) % 5 == 0

def partly_labelled(index=-100, ignored=IGNORED, valid=False):
    dls = make_dls(shuffle=False)
    data = dls.train.dataset
    data.y = torch.where(torch.as_tensor(ignored), index, data.y)
    if valid: dls.valid.dataset.y = torch.where(torch.arange(32) % 3 == 0, index, dls.valid.dataset.y)
    return dls

class Note(MethodCallback):
    name = 'note'
    def begin_fit(self): self.ids,self.labels = [],[]
    def batch_weights(self):
        self.ids += self.sample_ids.tolist()
        self.labels += self.yb[0].tolist()

@pytest.mark.parametrize('loss_func, index', [
    (CrossEntropyLossFlat(), -100), (CrossEntropyLossFlat(ignore_index=2), 2), (nn.CrossEntropyLoss(), -100),
    (GCELoss(), -100), (F.cross_entropy, -100), (partial(F.cross_entropy, ignore_index=7), 7),
    (GCELoss(ignore_index=0), 0)])
def test_they_take_no_part(loss_func, index):
    "The weights are those of a plain fastai training, in which the loss ignores them itself"
    assert ignore_index_of(loss_func) == index
    dls = partly_labelled(index)
    ignored = dls.train.dataset.y == index
    made = (dls, [Note()]),(partly_labelled(index), [])
    learns = [Learner(o, linear(), loss_func=loss_func, cbs=cbs) for o,cbs in made]
    for o in learns:
        with o.no_bar(), o.no_logging(): o.fit(2, LR)
    note = learns[0].note
    assert sorted(note.ids) == sorted([*np.flatnonzero(~ignored)]*2) and index not in note.labels
    torch.testing.assert_close(*map(weights_of, [o.model for o in learns]))

def test_weights_are_of_the_labelled_samples():
    class Third(MethodCallback):
        name = 'third'
        def batch_weights(self): return (self.sample_ids % 3 == 0).float()
    learn = make('ce', partly_labelled(), cbs=[Third()])
    learn.fit(1, LR)
    assert learn.dynamics.to_frame().seen.tolist() == (~IGNORED).astype(int).tolist()

@pytest.mark.parametrize('n_left, n_batches', [(0, 3), (1, 3), (2, 4)])
def test_a_batch_without_labels_is_left_out(n_left, n_batches):
    "One label is as good as none: BatchNorm cannot be trained with it"
    ignored = np.arange(N) < 16 - n_left
    learn = make('also', partly_labelled(ignored=ignored), linear(norm=True))
    learn.fit(2, LR)
    assert len(learn.recorder.losses) == 2*n_batches and np.isfinite(learn.recorder.losses).all()
    assert learn.dynamics.to_frame().seen.sum() == 2*(N - 16 + (n_left if n_left > 1 else 0))
    assert learn.pct_train == pytest.approx(1)

def test_nothing_but_ignored_samples():
    learn = make('also', partly_labelled(ignored=np.full(N, True)))
    before = weights_of(learn.model).clone()
    learn.fit(1, LR)
    assert torch.equal(before, weights_of(learn.model)) and np.isnan(learn.also.label_quality()).all()

def test_predict_has_no_target_and_no_loss_for_them():
    learn = make('ce', partly_labelled(valid=True))
    p,v = predict(learn),predict(learn, learn.dls.valid)
    assert p.targets[IGNORED].eq(-1).all() and p.losses[IGNORED].isnan().all() and p.logits.isfinite().all()
    assert torch.equal(p.targets[~IGNORED], learn.dls.train.dataset.y[~IGNORED]) and p.losses[~IGNORED].isfinite().all()
    assert v.targets.eq(-1).sum() == 11

def test_lilaw_draws_labelled_validation_samples():
    learn = make('lilaw', partly_labelled(valid=True))
    learn.fit(2, LR)
    assert np.isfinite(learn.lilaw.state.path).all()
    dls = make_dls()
    dls.valid.dataset.y[:] = -100
    with pytest.raises(ValueError, match='no label that the loss does not ignore'): make('lilaw', dls).fit(1)

def test_inputs_of_several_parts():
    class Parts(Items):
        def __getitem__(self, i): return dict(a=self.x[i], b=[self.x[i]]), self.y[i]
    class Adds(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = linear()
        def forward(self, x): return self.body(x['a'] + x['b'][0])
    x,y = blobs(N)
    y[::4] = -100
    train = TfmdDL(Parts(x, y), bs=16, shuffle=True, num_workers=0, device='cpu')
    learn = make('also', DataLoaders(train, TfmdDL(Parts(*blobs(32)), bs=16, num_workers=0)), Adds())
    learn.fit(1, LR)
    assert (np.isnan(learn.also.label_quality()) == (np.arange(N) % 4 == 0)).all()

def test_what_cannot_be_divided_is_refused_by_name():
    with pytest.raises(TypeError, match='str is no tensor.*leave them out of the data set'):
        some_rows(['a', torch.arange(3)], torch.ones(3).bool())

def test_masks_and_numbers_are_left_to_the_loss():
    assert ignored_rows((torch.full((2, 4, 4), -100),), CrossEntropyLossFlat(axis=1)) is None
    assert ignored_rows((torch.tensor([-100., 1.]),), nn.MSELoss()) is None

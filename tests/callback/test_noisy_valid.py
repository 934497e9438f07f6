"The epoch that is kept: by the accuracy on noisy labels, or by changed predictions"
import warnings
import numpy as np, pytest, torch
from fastai.basics import Callback, CrossEntropyLossFlat, L, Learner, accuracy
from fastai.callback.mixup import MixUp
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastnoisy.analysis.noisy_accuracy import centred_means
from fastnoisy.callback.co_teaching import CoTeachingCallback
from fastnoisy.callback.noisy_valid import BestEpoch, LabelWaveCallback, NoisyValidCallback
from fastnoisy.core.predict import predict
from helpers import blob_dls, blob_learner, blobs, fitted_blobs, weights_of

class Snapshots(Callback):
    "Weights and validation accuracy of every epoch"
    order = 70
    def before_fit(self): self.weights,self.right = [],[]
    def after_epoch(self):
        self.weights.append(weights_of(self.model).clone())
        p = predict(self.learn, self.dls.valid)
        self.right.append((p.logits.argmax(1) == p.targets).numpy())

class At(Callback):
    "Call `f` after a step of epoch `epoch`"
    def __init__(self, epoch, f): self.at,self.f = epoch,f
    def after_step(self):
        if self.epoch == self.at: self.f()

def noisy(n=96):
    "Half of the training labels are wrong, so that accuracies go up and down"
    y = blobs(n)[1]
    return blob_dls(n, labels=torch.where(torch.arange(n) % 2 == 0, (y + 1) % 3, y))

def expected(right, window=3):
    means = centred_means([o.mean() for o in right], window)
    return int(np.argmax(means)),means.max()

EPOCHS = 14 # of which the best is not the last

def interrupted(): raise KeyboardInterrupt

@pytest.mark.parametrize('window', [1, 3, 5])
def test_the_best_smoothed_epoch_is_in_the_model(window):
    snaps = Snapshots()
    learn = fitted_blobs([NoisyValidCallback(window), snaps], EPOCHS, noisy(), lr=.1)
    best,accuracy_ = expected(snaps.right, window)
    assert learn.noisy_valid.best_epoch == best < EPOCHS - 1
    assert learn.noisy_valid.kept.best == pytest.approx(accuracy_)
    assert torch.equal(weights_of(learn.model), snaps.weights[best])

def test_it_changes_nothing_else():
    snaps,plain = Snapshots(),Snapshots()
    learn = fitted_blobs([NoisyValidCallback(restore=False), snaps], 4, noisy())
    assert torch.equal(weights_of(fitted_blobs([plain], 4, noisy()).model), weights_of(learn.model))
    learn.noisy_valid.restore_best()
    assert torch.equal(weights_of(learn.model), snaps.weights[learn.noisy_valid.best_epoch])

def test_columns_and_history():
    learn = fitted_blobs([NoisyValidCallback()], 4, noisy())
    assert list(learn.recorder.metric_names)[-3:-1] == ['smoothed', 'error']
    table = learn.noisy_valid.history()
    assert table.accuracy.tolist() == pytest.approx([o[2] for o in learn.recorder.values])
    assert table.is_best.sum() == 1 and np.isnan(table.error[0]) and (table.error[2:] >= 0).all()
    with pytest.raises(ValueError, match='train first'): NoisyValidCallback().history()

def test_fit_twice_chooses_anew():
    learn = fitted_blobs([NoisyValidCallback(), snaps := Snapshots()], 4, noisy())
    learn.fit(3, .1)
    assert len(learn.noisy_valid.history()) == 3 and learn.noisy_valid.best_epoch == expected(snaps.right)[0]
    assert torch.equal(weights_of(learn.model), snaps.weights[learn.noisy_valid.best_epoch])

@pytest.mark.parametrize('error', [KeyboardInterrupt, ZeroDivisionError])
def test_however_the_fit_ends(error):
    def stop(): raise error('x')
    snaps,learn = Snapshots(),blob_learner([NoisyValidCallback()], noisy())
    with pytest.raises(error): learn.fit(9, .1, cbs=[At(4, stop), snaps])
    best,_ = expected(snaps.right)
    assert len(snaps.right) == 4 and learn.noisy_valid.best_epoch == best
    assert torch.equal(weights_of(learn.model), snaps.weights[best])
    learn.validate() # and no more of it is noted
    assert len(learn.noisy_valid.history()) == 4

@pytest.mark.parametrize('make', [NoisyValidCallback, lambda: LabelWaveCallback(1)])
def test_resumed_is_not_interrupted(make, tmp_path):
    def learner(seed):
        torch.manual_seed(seed)
        dls = noisy()
        dls.train.rng.seed(seed)
        return blob_learner([make()], dls, path=tmp_path)
    def fit(learn, *cbs, **kwargs):
        torch.manual_seed(3)
        learn.fit_one_cycle(8, .1, cbs=[SaveModelCallback(every_epoch=True, with_opt=True), *cbs], **kwargs)
        return learn
    whole,cut,again = fit(learner(1)),learner(1),learner(2)
    with pytest.raises(KeyboardInterrupt): fit(cut, At(4, interrupted))
    fit(again.load('model_3'), start_epoch=4)
    assert torch.equal(weights_of(again.model), weights_of(whole.model))
    for o in ('noisy_valid', 'label_wave'):
        if not hasattr(whole, o): continue
        a,b = getattr(whole, o),getattr(again, o)
        if o == 'noisy_valid': assert a.history().equals(b.history())
        else: assert a.shares == b.shares and a.found == b.found

@pytest.mark.parametrize('make', [NoisyValidCallback, LabelWaveCallback])
def test_lr_find_leaves_no_trace(make, tmp_path):
    learn = blob_learner([make()], noisy(), path=tmp_path)
    before = weights_of(learn.model).clone()
    learn.lr_find(show_plot=False, num_it=6)
    assert torch.equal(before, weights_of(learn.model)) and learn.cbs[-1].state_dict() is None
    learn.export('x.pkl')

def test_the_peer_network_goes_along():
    learn = fitted_blobs([CoTeachingCallback(noise_rate=.2), NoisyValidCallback()], 5, noisy(), lr=.1)
    kept = learn.noisy_valid.kept.weights
    assert kept.keys() == {'model', 'co_teaching'}
    peer = learn.co_teaching.peer.model.state_dict()
    assert all(torch.equal(v, peer[k]) for k,v in kept['co_teaching'].items())

def test_no_validation_set():
    dls = noisy()
    dls.loaders = dls.loaders[:1]
    with pytest.raises(ValueError, match='no validation set.*LabelWaveCallback'):
        blob_learner([NoisyValidCallback()], dls).fit(1)

@pytest.mark.parametrize('window', [0, 2, -1, 1.5])
def test_windows(window):
    with pytest.raises(ValueError, match='window'): NoisyValidCallback(window)

def test_ties_and_short_fits():
    kept = BestEpoch(3)
    for i in range(2): kept.add(i, np.ones(4, dtype=bool), i)
    kept.end()
    assert (kept.epoch, kept.weights, kept.best) == (0, 0, 1.)

# changed predictions

class Predictions(Callback):
    "The class predicted for each training sample in each epoch, by a loop"
    def before_fit(self): self.epochs = []
    def before_train(self): self.epochs.append({})
    def after_loss(self):
        if not self.training: return
        for i,o in zip(self.learn.sample_ids.tolist(), self.pred.argmax(1).tolist()): self.epochs[-1][i] = o

def test_share_of_changed_predictions():
    seen,snaps = Predictions(),Snapshots()
    learn = fitted_blobs([LabelWaveCallback(window=1, stop=False), seen, snaps], 8, noisy(), lr=.1)
    shares = [np.mean([b[i] != a[i] for i in b]) for a,b in zip(seen.epochs, seen.epochs[1:])]
    assert learn.label_wave.shares == pytest.approx(shares)
    found = next(e for e in range(2, 8) if shares[e-1] > shares[e-2]) - 1 # shares[0] is of epoch 1
    assert learn.label_wave.found == found and len(snaps.weights) == 8
    assert torch.equal(weights_of(learn.model), snaps.weights[found])

def test_it_stops_there():
    learn = fitted_blobs([LabelWaveCallback(window=1), snaps := Snapshots()], 8, noisy(), lr=.1)
    assert len(learn.recorder.values) == learn.label_wave.found + 2 < 8
    assert torch.equal(weights_of(learn.model), snaps.weights[learn.label_wave.found])

def test_mixup_is_refused():
    with pytest.raises(ValueError, match='MixUp'): fitted_blobs([LabelWaveCallback(), MixUp(.4)], 1)

# the validation loss

def warned(cbs, epochs=1, method=True):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        learn = blob_learner([*cbs, *([NoisyValidCallback()] if method else [])])
        for _ in range(2): learn.fit(epochs)
    return [str(o.message) for o in seen if 'validation loss' in str(o.message)]

def test_validation_loss_is_warned_of_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said, = warned([SaveModelCallback()])
    assert 'NoisyValidCallback()' in said and "SaveModelCallback(monitor='accuracy')" in said
    assert len(warned([SaveModelCallback(), EarlyStoppingCallback(patience=5)])) == 2
    assert not warned([SaveModelCallback(every_epoch=True), EarlyStoppingCallback('accuracy', patience=5)])
    assert not warned([EarlyStoppingCallback(patience=5)], method=False)

"Correction by neighbours: the decision on data made by hand, the labels in the batches, guards, history, state and company."
import math, warnings
import numpy as np, pandas as pd, pytest, torch
import torch.nn.functional as F
from hypothesis import given as hyp, settings, strategies as st
from sklearn.neighbors import NearestNeighbors
from fastai.basics import BCEWithLogitsLossFlat, DataLoaders, L, Learner, SGD, SkipItemException, TfmdDL, load_learner
from fastai.callback.core import Callback
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.schedule import fine_tune, lr_find
from fastai.callback.training import GradientAccumulation
from fastnoisy.benchmark.train import run_one
from fastnoisy.callback.also import ALSOCallback
from fastnoisy.callback.bmm import BMMFilterCallback, evaluation_losses
from fastnoisy.callback.dynamics import DynamicsCallback
from fastnoisy.callback.knn import (KNNCorrectionCallback, corrections, kept_only, limited, plurality, suspicion_by,
                                    suspicion_of_losses)
from fastnoisy.callback.lilaw import LiLAWCallback
from fastnoisy.core.method import MethodCallback
from fastnoisy.core.registry import METHODS
from fastnoisy.data.digits import digits_dls
from fastnoisy.models import small_cnn
from fastnoisy.analysis.mixture import BetaMixture
from fastnoisy.analysis.neighbors import embed, knn_vote
from fastnoisy.noise.label_noise import LabelNoise
from helpers import blob_dls, blob_learner, blobs, fitted_blobs, run_in_parts, weights_of
from helpers import AutocastCPU, Stop

WRONG = torch.arange(0, 96, 4) # 24 of 96, 8 of each class

def noisy_dls(wrong=WRONG, **kwargs):
    "Every fourth label is the next class, and `dls.noise` knows it"
    true = blobs()[1]
    given = true.clone()
    given[wrong] = (given[wrong] + 1) % 3
    dls = blob_dls(labels=given, **kwargs)
    dls.noise = LabelNoise(given, true, 3)
    return dls

def known(ids=WRONG):
    "Suspicion that is right"
    return lambda learn: torch.isin(torch.arange(96), ids).float()

def oracle(k=10, warmup=1, **kwargs): return KNNCorrectionCallback(**{**dict(k=k, warmup=warmup, suspicion=known(), agreement=.6, max_share=1.), **kwargs})

def fitted(cbs=None, n=3, dls=None, **kwargs): return fitted_blobs(cbs, n, dls or noisy_dls(), **kwargs)

class Noted(Callback):
    "Labels and weights in force in each epoch, by id"
    order,run_valid = 50,False
    def before_fit(self): self.epochs = []
    def before_train(self): self.epochs.append((torch.full((96,), -9), torch.full((96,), math.nan)))
    def after_batch(self):
        y,w = self.epochs[-1]
        y[self.sample_ids],w[self.sample_ids] = self.yb[0].flatten().long(),self.sample_weight

def fixed(dls=None, **kwargs):
    "A Learner whose embedding is the input, so that neighbours are known and stay as they are"
    learn = blob_learner(dls=dls or noisy_dls(), **kwargs)
    learn.model = torch.nn.Sequential(torch.nn.Linear(4, 3))
    return learn

# the decision

def test_decision_in_a_loop():
    g = torch.Generator().manual_seed(0)
    n = 300
    given,labels,winner = (torch.randint(3, (n,), generator=g) for _ in range(3))
    share,suspicion = torch.rand(n, generator=g),torch.rand(n, generator=g)
    got = corrections(given, labels, winner, share, suspicion, .4, .7)
    for i in range(n):
        now,said,own = labels[i],winner[i],given[i]
        corrected = now != own
        if corrected and said == now: expected = now
        elif (corrected or suspicion[i] >= .4) and share[i] >= .7: expected = said
        else: expected = own
        assert got[i] == expected, i

@pytest.mark.parametrize('suspicion, share, corrected', [(.5, .8, True), (.4999, .8, False), (.5, .7999, False)])
def test_thresholds_belong_to_the_correction(suspicion, share, corrected):
    o = torch.tensor
    assert (corrections(o([0]), o([0]), o([1]), o([share]), o([suspicion])) == 1).item() is corrected

def test_ties_go_to_the_given_label():
    share,winner = plurality(torch.tensor([[.4, .4, .2], [.4, .4, .2], [.4, .4, .2]]), torch.tensor([0, 1, 2]))
    assert winner.tolist() == [0, 1, 0] and share.tolist() == pytest.approx([.4]*3)
    assert kept_only(torch.tensor([0, 1, 2]), winner).tolist() == [0, 1, -1]

@settings(max_examples=40, deadline=None)
@hyp(st.integers(0, 10**6), st.floats(.01, 1))
def test_never_more_than_a_share_of_a_class(seed, max_share):
    g = torch.Generator().manual_seed(seed)
    given,labels,wanted = (torch.randint(4, (60,), generator=g) for _ in range(3))
    share = torch.rand(60, generator=g)
    new = limited(given, labels, wanted, share, max_share)
    assert ((new == wanted) | (new == given)).all() and (new[wanted == given] == given[wanted == given]).all()
    for c in range(4):
        members = labels == c
        asked,left = members & (wanted != labels) & (wanted != given),members & (new != labels) & (new != given)
        assert left.sum() == min(asked.sum(), math.floor(max_share*members.sum()))
        if left.any() and (asked & ~left).any(): assert share[left].min() >= share[asked & ~left].max()

def test_a_class_of_one_never_moves():
    zero = torch.zeros(1).long()
    assert limited(zero, zero, zero + 1, torch.ones(1), .99).item() == 0 and limited(zero, zero, zero + 1, torch.ones(1), 1.).item() == 1

# who is suspicious

def test_suspicion_of_losses():
    losses = torch.cat([torch.rand(300)*.5, 2 + torch.rand(100), torch.tensor([math.nan])])
    p = suspicion_of_losses(losses)
    np.testing.assert_allclose(p[:-1], BetaMixture(normalise=True).fit(losses[:-1]).p_noisy(losses[:-1]), rtol=1e-5)
    assert p[-1] == 0 and p[300:400].min() > .9 > .1 > p[:300].max()
    one_hump = torch.randn(400).abs()
    assert BetaMixture(normalise=True).fit(one_hump).is_unimodal and (suspicion_of_losses(one_hump) == 0).all()
    assert (suspicion_of_losses(torch.ones(9)) == 0).all()

def of_also(learn):
    "What a sample lacks to the average weight"
    return 1 - torch.tensor(learn.also.to_frame().weight.values).float().clamp(max=1)

def of_bmm(learn):
    "Probability of a wrong label, where the mixture has told two groups apart"
    frame = learn.bmm.to_frame()
    return torch.tensor(frame.p_noisy.values).float().nan_to_num(0.) if frame.is_label_issue.any() else torch.zeros(len(frame))

def test_suspicion_of_also():
    learn = fitted(ALSOCallback())
    w = learn.also.to_frame().weight.values
    p = suspicion_by('also', learn, torch.zeros(96))
    assert torch.equal(p, of_also(learn))
    np.testing.assert_allclose(p, np.where(w < 1, 1 - w, 0), atol=1e-6)
    assert (w > 1).any() and (w < 1).any()

def test_suspicion_of_bmm():
    learn = fitted(BMMFilterCallback(lambda learn: np.where(np.arange(96) % 4 == 0, 5., 1.) + np.linspace(0, .5, 96), warmup=2), n=1)
    assert (suspicion_by('bmm', learn, torch.zeros(96)) == 0).all() # not yet
    learn.fit(1)
    np.testing.assert_allclose(suspicion_by('bmm', learn, torch.zeros(96)), learn.bmm.to_frame().p_noisy)
    assert (suspicion_by('bmm', learn, torch.zeros(96))[WRONG] > .5).all()
    learn.bmm.threshold = 1. # flags nobody, as where there are no two groups
    assert (suspicion_by('bmm', learn, torch.zeros(96)) == 0).all()

AUTO = [([], None), ([ALSOCallback], of_also), ([ALSOCallback, lambda: BMMFilterCallback(warmup=1)], of_bmm), ([DynamicsCallback, LiLAWCallback], None),
        ([DynamicsCallback, ALSOCallback], of_also), ([lambda: BMMFilterCallback('running_loss'), ALSOCallback], of_bmm),
        ([lambda: BMMFilterCallback('running_loss', warmup=9), ALSOCallback], lambda learn: torch.zeros(96))]

@pytest.mark.parametrize('cbs, source', AUTO)
def test_auto(cbs, source):
    learn = fitted([o() for o in cbs] + [KNNCorrectionCallback(k=5, warmup=9)], n=3)
    losses = torch.from_numpy(evaluation_losses(learn))
    p,trust = learn.knn._suspicion(losses)
    assert torch.equal(p, suspicion_of_losses(losses) if source is None else source(learn)) and torch.equal(trust, 1 - p)
    learn.knn.suspicion = None
    assert all((o == 1).all() for o in learn.knn._suspicion(losses))
    learn.knn.suspicion,learn.knn.action = 'auto','filter'
    assert all((o == 1).all() for o in learn.knn._suspicion(losses)) # Deep k-NN asks nobody

def test_the_named_source_is_asked():
    learn = fitted([ALSOCallback(), KNNCorrectionCallback(k=5, warmup=9, suspicion='loss')], n=3)
    losses = torch.from_numpy(evaluation_losses(learn))
    assert torch.equal(learn.knn._suspicion(losses)[0], suspicion_of_losses(losses))

class Oracle(MethodCallback):
    "A method that the package does not know: it has seen the truth"
    name,priority = 'oracle',1
    def label_quality(self):
        quality = np.where(np.isin(np.arange(96), WRONG), .1, .9)
        quality[0] = math.nan
        return quality

def test_a_method_of_ones_own_is_asked():
    "Its label quality is the trust in the votes, by name and as the best that there is; what it does not know is trusted"
    expected = torch.where(torch.isin(torch.arange(96), WRONG), .9, .1)
    expected[0] = 0.
    for suspicion in ('oracle', 'auto'):
        learn = fitted([Oracle(), DynamicsCallback(), KNNCorrectionCallback(k=5, warmup=1, suspicion=suspicion)], n=1)
        p,trust = learn.knn._suspicion(torch.zeros(96))
        torch.testing.assert_close(p, expected)
        assert torch.equal(trust, 1 - p) and (p >= .5).sum() == len(set(WRONG.tolist()) - {0})
        assert set(learn.knn.history.sample_id) <= set(WRONG.tolist())

def test_a_method_without_an_opinion():
    "Named, it makes nobody suspicious, and a warning says so once"
    learn = fitted([LiLAWCallback()])
    learn.add_cb(KNNCorrectionCallback(k=5, warmup=1, suspicion='lilaw'))
    with pytest.warns(UserWarning, match="'lilaw' has nothing to say about the labels yet") as seen: learn.fit(3)
    assert len([o for o in seen if 'nothing to say' in str(o.message)]) == 1 and learn.knn.changed == 0

def test_an_order_serves_by_name():
    learn = fitted([DynamicsCallback(), KNNCorrectionCallback(k=5, warmup=9, suspicion='dynamics')], n=2)
    np.testing.assert_allclose(learn.knn._suspicion(torch.zeros(96))[0], 1 - learn.dynamics.to_frame().running_loss_quality, rtol=1e-5)

def test_says_what_its_frame_says():
    cb = oracle()
    assert cb.label_quality() is None and cb.suggested_labels() is None
    frame = fitted(cb).knn.to_frame()
    assert np.array_equal(cb.label_quality(), frame.label_quality) and np.array_equal(cb.suggested_labels(), frame.suggested_label)

def test_warmup_as_a_share_of_the_fit():
    seen = []
    def ask(learn):
        seen.append(learn.knn.n_epochs)
        return torch.zeros(96)
    for warmup,n,expected in ((.5, 6, [3, 4, 5, 6]), (.01, 2, [1, 2]), (.9, 3, [3])):
        seen.clear()
        fitted(KNNCorrectionCallback(k=5, warmup=warmup, suspicion=ask), n=n)
        assert seen == expected

def test_the_old_name_of_warmup():
    with pytest.warns(FutureWarning, match='start is now warmup'): cb = KNNCorrectionCallback(start=3)
    assert cb.warmup == 3 and not hasattr(cb, 'start')
    with pytest.raises(ValueError, match='warmup=1.5'): KNNCorrectionCallback(warmup=1.5)

def test_it_looks_after_the_others():
    "Wherever it stands in `cbs`, the answers it gets are of the same epoch"
    seen = []
    def ask(learn):
        seen.append(learn.bmm.n_epochs - learn.knn.n_epochs)
        return torch.zeros(96)
    fitted([KNNCorrectionCallback(k=5, warmup=1, suspicion=ask), BMMFilterCallback('running_loss')], n=2)
    assert seen == [0, 0]

def test_scores_of_the_dynamics_as_a_function():
    cb = oracle(suspicion=lambda learn: 1 - learn.dynamics.to_frame().aum_quality.values, warmup=3)
    learn = fitted([DynamicsCallback('aum'), cb], n=3)
    np.testing.assert_allclose(cb._suspicion(torch.zeros(96))[0], 1 - learn.dynamics.to_frame().aum_quality, rtol=1e-6)

# what is in the batches

def test_corrections_by_hand():
    "Embedding = input: the votes of scikit-learn's neighbours decide"
    learn = fixed()
    seen = Noted()
    learn.add_cbs([oracle(k=7), seen])
    learn.fit(2, 0.)
    (x,true),given = blobs(),learn.dls.noise.given
    ids = NearestNeighbors(n_neighbors=7, metric='cosine', algorithm='brute').fit(x.numpy()).kneighbors(return_distance=False)
    expected = given.clone()
    for i in WRONG.tolist():
        votes = np.bincount([given[j] for j in ids[i] if j not in WRONG], minlength=3)
        if votes.max() >= .6*votes.sum() and votes.argmax() != given[i] and votes.sum(): expected[i] = int(votes.argmax())
    assert (expected != given).sum() > 15
    assert torch.equal(seen.epochs[0][0], given) and torch.equal(seen.epochs[1][0], expected)
    frame = learn.knn.to_frame()
    assert frame.label_in_force.tolist() == expected.tolist() and frame.is_corrected.tolist() == (expected != given).tolist()
    assert [learn.dls.train.dataset[i][1] for i in range(96)] == given.tolist() # the data set is as it was

def test_a_correction_has_no_say():
    "In the second look those corrected in the first do not vote, whatever the suspicion is then"
    asked = []
    class Look(KNNCorrectionCallback):
        def _decide(self, shares, suspicion):
            asked.append(shares)
            super()._decide(shares, suspicion)
    calls = iter([known()(None), torch.zeros(96)])
    learn = fixed()
    learn.add_cb(Look(k=7, warmup=1, agreement=.6, max_share=1., suspicion=lambda learn: next(calls)))
    learn.fit(1, 0.)
    corrected = learn.knn.labels != learn.knn.given
    learn.fit(1, 0.)
    x,given = blobs()[0],learn.dls.noise.given
    torch.testing.assert_close(asked[0], knn_vote(x, given, 7, 3, 1 - known()(None)))
    torch.testing.assert_close(asked[1], knn_vote(x, given, 7, 3, (~corrected).float()))
    assert corrected.sum() > 15

def test_soft_labels():
    class Soft(Callback):
        order,run_valid = 50,False
        def before_fit(self): self.losses = torch.zeros(2, 96)
        def after_loss(self):
            q = self.cb.soft_labels[self.sample_ids] if self.epoch else F.one_hot(self.yb[0], 3).float()
            torch.testing.assert_close(self.sample_loss.detach(), F.cross_entropy(self.pred.detach(), q, reduction='none'))
    soft = Soft()
    soft.cb = oracle(soft=True)
    learn = fixed()
    learn.add_cbs([soft.cb, soft])
    learn.fit(2, 1e-2)
    q,corrected = learn.knn.soft_labels,torch.tensor(learn.knn.to_frame().is_corrected)
    assert corrected.sum() > 15 and torch.equal(q[~corrected], F.one_hot(learn.knn.given, 3).float()[~corrected])
    x,given = blobs()[0],learn.knn.given
    torch.testing.assert_close(q[corrected], knn_vote(x, given, 10, 3, 1 - known()(learn))[corrected])

def test_filter():
    learn = fixed()
    seen = Noted()
    learn.add_cbs([KNNCorrectionCallback(k=15, warmup=1, action='filter', max_share=1.), seen])
    learn.fit(1, 0.)
    x,given = blobs()[0],learn.dls.noise.given
    shares = knn_vote(x, given, 15)
    kept = shares.gather(1, given[:,None])[:,0] >= shares.max(1).values
    assert (seen.epochs[0][1] == 1).all()
    frame = learn.knn.to_frame()
    assert frame.is_label_issue.tolist() == (~kept).tolist() and not frame.is_corrected.any() and (frame.label_in_force[~kept.numpy()] == -1).all()
    np.testing.assert_allclose(frame.label_quality, shares.gather(1, given[:,None])[:,0])
    np.testing.assert_allclose(frame.agreement, shares.max(1).values)
    wrong = given != blobs()[1]
    assert learn.knn.repaired == pytest.approx((~kept)[wrong].float().mean()) and learn.knn.broken == pytest.approx((~kept)[~wrong].float().mean())
    assert learn.knn.label_accuracy == pytest.approx((~wrong)[kept].float().mean()) and learn.knn.repaired > .8 > .2 > learn.knn.broken
    learn.fit(1, 0.)
    assert torch.equal(seen.epochs[0][0], given)
    torch.testing.assert_close(seen.epochs[0][1], kept/kept.float().mean())

class Fed(KNNCorrectionCallback):
    "Gets the neighbours' answers, one class each time with a share of .93, from outside"
    def __init__(self, says, **kwargs):
        super().__init__(**{**dict(k=10, warmup=1, max_share=1., suspicion=known(torch.tensor([5]))), **kwargs})
        self.says = iter(says)
    def _decide(self, shares, suspicion): super()._decide(.9*F.one_hot(torch.as_tensor(next(self.says)).expand(96), 3) + .03, suspicion)

def fed(says, n, **kwargs):
    "Sample 5 has label 2"
    learn = fixed(noisy_dls(wrong=torch.tensor([], dtype=torch.long)))
    learn.add_cb(Fed(says, **kwargs))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        learn.fit(n, 0.)
    return learn.knn

def test_what_is_left_out_has_no_vote():
    learn = fixed()
    learn.add_cb(KNNCorrectionCallback(k=15, warmup=1, action='filter', max_share=1.))
    learn.fit(1, 0.)
    voters = (learn.knn.labels >= 0).float()
    learn.fit(1, 0.)
    given = learn.dls.noise.given
    torch.testing.assert_close(learn.knn.own_share, knn_vote(blobs()[0], given, 15, 3, voters).gather(1, given[:,None])[:,0])
    assert voters.sum() < 80

def test_filtered_samples_come_back():
    knn = fed([1, 2], 2, action='filter')
    assert knn.history[knn.history.sample_id == 5].values.tolist() == [[5, 1, 2, -1], [5, 2, -1, 2]] and knn.to_frame().label_in_force[5] == 2

def test_corrections_are_taken_back_and_changed():
    "The neighbours change their mind: one class, a third one, and at last the given label"
    knn = fed([2, 0, 0, 1], 4)
    assert knn.history.values.tolist() == [[5, 2, 2, 0], [5, 4, 0, 1]] and knn.to_frame().loc[5, ['suggested_label', 'label_in_force', 'changed_at']].tolist() == [1, 1, 4]
    knn = fed([1, 1, 2], 3)
    assert knn.history.values.tolist() == [[5, 1, 2, 1], [5, 3, 1, 2]] and not knn.to_frame().is_corrected.any()

def test_when_it_looks():
    calls = []
    learn = fixed()
    learn.add_cb(oracle(warmup=2, every=3, suspicion=lambda learn: calls.append(learn.knn.n_epochs) or torch.zeros(96)))
    learn.fit(4)
    learn.fit(5)
    assert calls == [2, 5, 8] and learn.knn.n_epochs == 9

def test_until_a_label_is_changed_training_is_plain_training():
    a,b = fitted(),fitted(KNNCorrectionCallback(k=5, warmup=1, suspicion=lambda learn: torch.zeros(96)))
    assert torch.equal(weights_of(a.model), weights_of(b.model)) and a.recorder.values[-1][:3] == b.recorder.values[-1][:3]

# history, table, Recorder

def test_with_known_truth():
    learn = fixed()
    learn.add_cb(oracle(suspicion=None, agreement=0., k=3)) # breaks some too
    learn.fit(3, 0.)
    given,true,labels = learn.dls.noise.given,learn.dls.noise.true,torch.tensor(learn.knn.to_frame().label_in_force)
    wrong = given != true
    assert list(learn.recorder.metric_names)[-5:-1] == ['changed', 'repaired', 'broken', 'label_accuracy']
    expected = [(labels != given).float().mean(), (labels == true)[wrong].float().mean(), (labels != true)[~wrong].float().mean(), (labels == true).float().mean()]
    assert list(learn.recorder.values[-1])[-4:] == pytest.approx([o.item() for o in expected]) and all(o > 0 for o in expected)
    table = learn.knn.by_class()
    assert table.n_given.tolist() == given.bincount().tolist() and table.n_in_force.tolist() == labels.bincount(minlength=3).tolist()
    assert (table.n_given - table.n_out + table.n_in == table.n_in_force).all() and table.wrong.sum() == 24
    assert (table.wrong*table.repaired).sum()/24 == pytest.approx(learn.knn.repaired)
    assert (table.broken*(table.n_given - table.wrong)).sum()/72 == pytest.approx(learn.knn.broken)
    assert (table.n_in_force*table.accuracy_after).sum()/96 == pytest.approx(learn.knn.label_accuracy)
    assert (table.n_given*table.accuracy_before).sum()/96 == pytest.approx(.75)

def test_history_rebuilds_the_labels():
    learn = fitted([oracle(suspicion=None, k=4, agreement=.5)], n=6, lr=.1)
    labels,history = learn.dls.noise.given.clone(),learn.knn.history
    for row in history.itertuples():
        assert labels[row.sample_id] == row.from_label != row.to_label
        labels[row.sample_id] = row.to_label
    assert torch.equal(labels, learn.knn.labels) and history.epoch.nunique() > 2 and history.sample_id.duplicated().any()
    last = history.groupby('sample_id').epoch.max().reindex(range(96), fill_value=-1)
    assert learn.knn.to_frame().changed_at.tolist() == last.tolist()
    assert sum(o.numel() for o in learn.knn.changes) == 4*len(history)

def test_without_known_truth():
    learn = fitted(oracle(), dls=blob_dls())
    assert list(learn.recorder.metric_names)[-2:-1] == ['changed'] and math.isnan(learn.knn.repaired)
    assert list(learn.knn.by_class()) == ['n_given', 'n_in_force', 'n_out', 'n_in']
    assert list(learn.knn.to_frame()) == ['sample_id', 'is_label_issue', 'label_quality', 'given_label', 'suggested_label', 'agreement', 'label_in_force',
                                          'is_corrected', 'changed_at']

def test_nothing_before_the_first_look():
    learn = fitted(KNNCorrectionCallback(warmup=9), n=1)
    for f in (learn.knn.to_frame, learn.knn.by_class):
        with pytest.raises(ValueError, match='warmup=9'): f()
    assert len(learn.knn.history) == 0 and learn.recorder.values[0][-4] == 0 and math.isnan(learn.recorder.values[0][-3])

# guards

def test_max_share():
    learn = fixed()
    learn.add_cb(oracle(max_share=.1))
    learn.fit(1, 0.)
    moved = learn.knn.by_class().n_out
    assert moved.tolist() == [3, 3, 3]
    learn.fit(1, 0.)
    assert (learn.knn.by_class().n_out > 3).all() # the rest follows

def test_a_class_that_would_vanish():
    learn = fixed(noisy_dls(wrong=torch.tensor([], dtype=torch.long)))
    learn.add_cb(Fed([blobs()[1].clamp(min=1)]*3, suspicion=None, max_share=.5))
    with pytest.warns(UserWarning, match=r'classes \[0\] would have no samples') as caught: learn.fit(3, 0.)
    assert len([o for o in caught if 'would have no samples' in str(o.message)]) == 1 # said once
    assert learn.knn.labels.bincount().tolist() == [4, 60, 32] # halved each time

def test_small_classes():
    with pytest.warns(UserWarning, match=r'fewer than k=40 samples') as caught: fitted(oracle(k=40), n=2)
    assert len([o for o in caught if 'fewer than' in str(o.message)]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        fitted(oracle(k=32), n=1)

def test_k_larger_than_the_data():
    with pytest.raises(ValueError, match='k=96: each of the 96 training samples has 95 others'): fitted(oracle(k=96))
    fitted(oracle(k=95), n=1)

@pytest.mark.parametrize('kwargs, name', [
    (dict(k=0), 'k=0'), (dict(k=2.5), 'k=2.5'), (dict(warmup=0), 'warmup=0'), (dict(every=0), 'every=0'), (dict(action='drop'), "action='drop'"),
    (dict(suspicion=3), "suspicion=3"), (dict(threshold=1.5), 'threshold=1.5'), (dict(agreement=-.1), 'agreement=-0.1'),
    (dict(max_share=0), 'max_share=0'), (dict(soft=True, action='filter'), 'soft=True'), (dict(metric='l1'), "metric='l1'"), (dict(index='tree'), "index='tree'")])
def test_wrong_arguments(kwargs, name):
    with pytest.raises(ValueError, match=name): KNNCorrectionCallback(**kwargs)

@pytest.mark.parametrize('f', [lambda learn: torch.zeros(5), lambda learn: torch.full((96,), 2.), lambda learn: torch.full((96,), math.nan)])
def test_a_function_that_gives_something_else(f):
    with pytest.raises(ValueError, match='one number in .0, 1. for each of the 96'): fitted(oracle(suspicion=f))

@pytest.mark.parametrize('name', ['also', 'bmm', 'lilaw'])
def test_a_source_that_is_not_there(name):
    with pytest.raises(ValueError, match=f"suspicion='{name}': the Learner has no such callback"): fitted(KNNCorrectionCallback(suspicion=name))

def test_another_training_set():
    learn = fitted(oracle(), n=1)
    learn.dls = blob_dls(n=60)
    with pytest.raises(ValueError, match='96 training samples, and now there are 60'): learn.fit(1)

def test_targets_that_are_no_classes():
    data = L((blobs()[0][i], F.one_hot(blobs()[1][i], 3).float()) for i in range(96))
    dls = DataLoaders(*(TfmdDL(data, bs=16, num_workers=0) for _ in range(2)))
    with pytest.raises(TypeError, match='class id'): fitted(oracle(), dls=dls, loss_func=BCEWithLogitsLossFlat(), metrics=[])

# company

@pytest.mark.parametrize('others', [lambda: [MixUp(.4)], lambda: [AutocastCPU()], lambda: [GradientAccumulation(48)], lambda: [LiLAWCallback()],
                                    lambda: [ALSOCallback()], lambda: [DynamicsCallback()], lambda: [ALSOCallback(), BMMFilterCallback('also', 'drop')]])
@pytest.mark.parametrize('action', ['correct', 'filter'])
def test_company(others, action):
    learn = fitted([oracle(action=action), *others()], n=4)
    assert np.isfinite(learn.recorder.values[-1]).all() and learn.knn.to_frame().is_label_issue.sum() > 10

def test_mixup_blends_the_labels_in_force():
    class Look(Callback):
        order,run_valid = 20,False
        def after_loss(self):
            if not self.epoch: return
            m,labels = self.learn.mix_up,self.learn.knn.labels
            assert torch.equal(m.yb1[0].sort().values, self.yb[0].sort().values) and torch.equal(self.yb[0], labels[self.sample_ids])
            expected = m.lam*F.cross_entropy(self.pred, self.yb[0], reduction='none') + (1 - m.lam)*F.cross_entropy(self.pred, m.yb1[0], reduction='none')
            torch.testing.assert_close(self.learn.loss_grad, expected.mean())
            self.learn.looked = True
    assert fitted([oracle(), MixUp(.4), Look()], n=2).looked

def test_soft_labels_and_mixup():
    learn = fitted([oracle(soft=True), MixUp(.4)], n=2)
    assert weights_of(learn.model).isfinite().all() and learn.knn.changed > 0

def test_wrong_digits_are_repaired():
    learn,row = run_one(digits_dls(noise=.4, device='cpu'), lambda: small_cnn(3, 10), 'also+knn', 10)
    assert learn.knn.repaired > .85 and learn.knn.broken < .03 and learn.knn.label_accuracy > .9 and row['last'] > .9

def test_tabular():
    from fastai.tabular.all import Categorify, Normalize, TabularDataLoaders, tabular_learner
    x,y = blobs()
    true = y.clone()
    given = torch.where(torch.isin(torch.arange(96), WRONG), (y + 1) % 3, y)
    df = pd.DataFrame(x.numpy(), columns=list('abcd')).assign(y=[f'c{int(o)}' for o in given])
    dls = TabularDataLoaders.from_df(df, procs=[Categorify, Normalize], cont_names=list('abcd'), y_names='y', valid_idx=range(90, 96), bs=16)
    seen = Noted()
    learn = tabular_learner(dls, layers=[8], cbs=[oracle(suspicion=lambda learn: known()(learn)[:90]), seen])
    with learn.no_bar(), learn.no_logging():
        learn.fit(3, 1e-2)
        frame = learn.knn.to_frame()
        assert learn.dls.one_batch()[-1].shape[1:] == (1,)
        assert frame.is_corrected.sum() > 12 and frame.given_label.tolist() == given[:90].tolist()
        soft = tabular_learner(dls, layers=[8], cbs=oracle(suspicion=lambda learn: known()(learn)[:90], soft=True))
        soft.remove_cb(soft.progress)
        with pytest.raises(ValueError, match='use soft=False'): soft.fit(3, 1e-2)

def test_tsai():
    from tsai.tslearner import TSClassifier
    from tsai.models.FCN import FCN
    x,y = blobs()
    given = torch.where(torch.isin(torch.arange(96), WRONG), (y + 1) % 3, y)
    learn = TSClassifier(x[:,:,None].repeat(1, 1, 8).numpy(), given.numpy(), splits=(list(range(90)), list(range(90, 96))), arch=FCN, bs=16,
                         cbs=oracle(suspicion=lambda learn: known()(learn)[:90]))
    with learn.no_bar(), learn.no_logging(): learn.fit(2, 1e-2)
    assert learn.knn.to_frame().given_label.tolist() == given[:90].tolist() and learn.knn.to_frame().is_corrected.sum() > 10

def test_samples_that_cannot_be_read():
    class Broken:
        def __init__(self): self.x,self.y = blobs()[0],noisy_dls().noise.given
        def __len__(self): return 96
        def __getitem__(self, i):
            if i % 8 == 2: raise SkipItemException
            return self.x[i], self.y[i]
    for action in ('correct', 'filter'):
        learn = fitted(oracle(action=action), dls=DataLoaders(*(TfmdDL(Broken(), bs=16, num_workers=0) for _ in range(2))), n=2)
        frame = learn.knn.to_frame()
        broken = np.arange(96) % 8 == 2
        assert (frame.given_label == -1).tolist() == broken.tolist() and not frame.is_label_issue[broken].any() and frame.is_label_issue.sum() > 10
        assert (frame.label_quality[broken] == 0).all()

@pytest.mark.parametrize('kwargs', [dict(), dict(soft=True), dict(action='filter')])
def test_a_sample_that_cannot_be_read_in_the_look_only(kwargs):
    "It is in the next batches all the same, with its given label"
    class Flaky:
        looking = False
        def __init__(self): self.x,self.y = blobs()[0],noisy_dls().noise.given
        def __len__(self): return 96
        def __getitem__(self, i):
            if self.looking and i in (5, 8): raise SkipItemException # 5 has a right label, 8 a wrong one
            return self.x[i], self.y[i]
    data = Flaky()
    class Before(Callback):
        order = -4.5
        def after_train(self): data.looking = True
    class After(Callback):
        order = -3.5
        def after_train(self): data.looking = False
    seen = Noted()
    learn = fitted([oracle(**kwargs), Before(), After(), seen], dls=DataLoaders(*(TfmdDL(data, bs=16, num_workers=0) for _ in range(2))), n=2)
    labels,weights = seen.epochs[1]
    assert (labels[[5, 8]] == data.y[[5, 8]]).all() and (weights[[5, 8]] == weights.max()).all()
    assert (learn.knn.given[[5, 8]] == -1).all() and learn.knn.to_frame().is_label_issue.sum() > 10

# through fits, files and lr_find

def frames_equal(a, b): pd.testing.assert_frame_equal(a.knn.to_frame(), b.knn.to_frame()), pd.testing.assert_frame_equal(a.knn.history, b.knn.history)

@pytest.mark.parametrize('kwargs', [dict(), dict(soft=True), dict(action='filter')])
def test_resumed_equals_uninterrupted(learner, kwargs):
    make = lambda: learner([ALSOCallback(), KNNCorrectionCallback(k=8, warmup=1, agreement=.6, threshold=.1, **kwargs)], dls=noisy_dls(), opt_func=SGD)
    a,b = run_in_parts(make, [5]),run_in_parts(make, [2, 3])
    assert torch.equal(weights_of(a.model), weights_of(b.model)) and b.knn.n_epochs == 5 and len(a.knn.history) > 10
    frames_equal(a, b)
    assert a.recorder.values[-1][3:7] == b.recorder.values[-1][3:7]

def test_saved_before_the_first_look(learner):
    learn = learner(oracle(warmup=2), dls=noisy_dls())
    learn.fit(1)
    learn.save('m')
    learn.fit(2)
    assert learn.knn.in_force is not None
    learn.load('m')
    assert learn.knn.n_epochs == 1 and learn.knn.labels is None and len(learn.knn.history) == 0
    seen = Noted()
    learn.fit(1, cbs=seen)
    assert torch.equal(seen.epochs[0][0], learn.dls.noise.given) # the labels that came later are gone

def test_load_takes_back_what_came_later(learner):
    learn = learner(oracle(max_share=.1), dls=noisy_dls())
    learn.fit(1)
    learn.save('m')
    frame,history = learn.knn.to_frame(),learn.knn.history
    learn.fit(2)
    assert len(learn.knn.history) > len(history)
    learn.load('m')
    pd.testing.assert_frame_equal(learn.knn.to_frame(), frame)
    pd.testing.assert_frame_equal(learn.knn.history, history)
    soft = learner(oracle(soft=True), dls=noisy_dls())
    with pytest.raises(ValueError, match='the saved labels are hard'): soft.load('m')

def test_state_is_plain(learner, tmp_path):
    learn = learner(oracle(soft=True), dls=noisy_dls())
    learn.fit(2)
    learn.save('m')
    sd = torch.load(tmp_path/'models/m.pth', weights_only=False)['opt']['hypers'][0]['fastnoisy']['methods']['knn']
    assert set(sd) == {'n_epochs', 'action', 'changes', 'given', 'labels', 'suggested', 'share', 'own_share', 'names', 'soft_labels'}
    assert sd['action'] == 'correct' and sd['names'] == ['0', '1', '2']
    assert all(isinstance(v, (int, torch.Tensor)) for k,v in sd.items() if k not in ('action', 'names')) and sd['changes'].shape == (len(learn.knn.history), 4)

@pytest.mark.parametrize('epochs_before', [0, 2])
def test_lr_find_leaves_no_trace(learner, epochs_before):
    learn = learner(oracle(), dls=noisy_dls())
    if epochs_before: learn.fit(epochs_before)
    before = learn.knn.state_dict()
    saved = []
    class Look(Callback):
        def after_batch(self): saved.append(self.learn.knn.state_dict())
    with learn.added_cbs(Look()): learn.lr_find(show_plot=False, num_it=15) # more than two epochs
    assert len(saved) == 15 and all(o is None for o in saved)
    assert str(learn.knn.state_dict()) == str(before) and learn.knn.n_epochs == epochs_before

def test_fit_twice_fine_tune_validate_export(learner, tmp_path):
    learn = learner(oracle(warmup=2), dls=noisy_dls())
    learn.fine_tune(2)
    assert learn.knn.n_epochs == 3
    frame = learn.knn.to_frame()
    assert learn.get_preds(ds_idx=0)[1].tolist() == learn.dls.noise.given.tolist() and len(learn.validate()) == 2
    pd.testing.assert_frame_equal(learn.knn.to_frame(), frame)
    learn.export('knn.pkl')
    assert not hasattr(load_learner(tmp_path/'knn.pkl'), 'knn') and learn.knn in learn.cbs
    with pytest.raises(KeyboardInterrupt): learn.fit(1, cbs=Stop('after_loss', KeyboardInterrupt))
    learn.fit(1)
    assert learn.knn.n_epochs == 4

def test_registered():
    assert [type(o) for o in METHODS['also+knn'].make()['cbs']] == [ALSOCallback, KNNCorrectionCallback]

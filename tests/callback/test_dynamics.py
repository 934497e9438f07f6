"Training dynamics: the scores of a fit against loops over what a spy saw, and a training that does not notice them."
import copy, math
import matplotlib.pyplot as plt
import numpy as np, pandas as pd, pytest, torch
import torch.nn.functional as F
from torch import nn
from sklearn.metrics import roc_auc_score
from fastai.basics import BCEWithLogitsLossFlat, CrossEntropyLossFlat, DataLoaders, L, Learner, SGD, TfmdDL, set_seed
from fastai.callback.core import Callback
from fastai.callback.data import WeightedDL
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.progress import ProgressCallback
from fastai.callback.schedule import fine_tune, lr_find
from fastai.callback.training import GradientAccumulation
from fastai.losses import FocalLossFlat
from fastnoisy.callback.dynamics import DynamicsCallback
from fastnoisy.callback.lilaw import LiLAWCallback, lilaw_terms
from fastnoisy.noise.label_noise import LabelNoise
from fastnoisy.analysis.training_dynamics import SCORES, ScoreState
from helpers import blob_dls, blob_learner, blobs, fitted_blobs, run_in_parts, small_model, weights_of
from helpers import AutocastCPU, Relabel, Stop, Weigh, image_learner
from helpers import by_hand

EVERY = list(SCORES)

def noisy_dls(wrong=range(0, 96, 4), **kwargs):
    "Every fourth label is the next class, and `dls.noise` knows it"
    true = blobs()[1]
    given = true.clone()
    given[list(wrong)] = (given[list(wrong)] + 1) % 3
    dls = blob_dls(labels=given, **kwargs)
    dls.noise = LabelNoise(given, true, 3)
    return dls

def fitted(cbs=None, n=3, dls=None, **kwargs): return fitted_blobs(cbs, n, dls or noisy_dls(), **kwargs)

def raw(learn): return {k: v.values for k,v in learn.dynamics.scores().items()}
def same(a, b):
    assert list(a) == list(b)
    for k in a: np.testing.assert_array_equal(a[k], b[k], err_msg=k)

class Spy(Callback):
    "Keeps what the scores are made of, sample by sample: (logits, label, loss, norm of the last layer's gradient, norm of the whole gradient)"
    order,run_valid = 20,False
    def __init__(self, norms=False): self.seen,self.norms = {},norms
    def after_loss(self):
        o,last = self.learn,list(self.model.children())[-1]
        for i,ident in enumerate(o.sample_ids.tolist()):
            row = dict(z=o.pred[i].detach().clone(), y=o.yb[0][i].item(), loss=o.sample_loss[i].item())
            if self.norms:
                grads = torch.autograd.grad(o.sample_loss[i], list(last.parameters()), retain_graph=True)
                row.update(last_norm=torch.cat([g.flatten() for g in grads]).norm().item(),
                           full_norm=full_norm(self.model, self.xb[0][i:i+1], lambda pred: F.cross_entropy(pred, self.yb[0][i:i+1])))
            self.seen.setdefault(ident, []).append(row)

def full_norm(model, x, loss_of):
    "Length of one sample's gradient, in eval mode"
    model = copy.deepcopy(model).eval()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss_of(model(x)), list(model.parameters()))]).norm().item()

# the scores of a fit

def test_every_score_against_what_a_spy_saw():
    spy = Spy(norms=True)
    learn = fitted([DynamicsCallback(EVERY, grand_epochs=[1]), spy])
    got,frame = raw(learn),learn.dynamics.to_frame()
    assert list(got) == EVERY and sorted(spy.seen) == list(range(96)) and (frame.seen == 3).all()
    for i,rows in spy.seen.items():
        z = torch.stack([r['z'] for r in rows])
        expected = by_hand(z, rows[0]['y'])
        expected['grand'] = np.mean([r['last_norm'] for r in rows])
        expected['grand_full'] = rows[1]['full_norm']
        terms = lilaw_terms(z[-1:].softmax(1), torch.tensor([rows[0]['y']]))[0]
        expected.update(lilaw_alpha=terms[0].item(), lilaw_beta=terms[1].item(), lilaw_delta=terms[2].item(), lilaw=terms.sum().item())
        for name,v in expected.items(): assert got[name][i] == pytest.approx(v, rel=2e-4, abs=2e-5), name
        assert {*expected} == {*EVERY}

def test_frame_columns():
    learn = fitted(DynamicsCallback(['aum', 'el2n']), n=1)
    assert list(learn.dynamics.to_frame()) == ['sample_id', 'seen', 'aum', 'el2n', 'aum_quality', 'el2n_quality']
    assert list(learn.dynamics.scores()) == ['aum', 'el2n'] and learn.dynamics.scores().index.name == 'sample_id'
    assert list(fitted(DynamicsCallback('aum'), n=1).dynamics.scores()) == ['aum']

def test_default_is_every_cheap_score():
    assert DynamicsCallback().wanted == [o for o in EVERY if o not in ('grand', 'grand_full')] and len(DynamicsCallback().wanted) == 15

def test_scores_find_wrong_labels():
    table = fitted(DynamicsCallback(), n=12).dynamics.detection()
    assert (table.auc[['aum', 'running_loss', 'confidence', 'el2n', 'cnlcu', 'wrong_events', 'lilaw_alpha']] > .9).all()

def test_other_losses_count_as_the_learner_counts_them():
    spy = Spy()
    learn = fitted([DynamicsCallback(['loss', 'running_loss', 'grand']), spy], loss_func=FocalLossFlat(gamma=2.))
    for i,rows in spy.seen.items():
        assert learn.dynamics.scores().running_loss[i] == pytest.approx(np.mean([r['loss'] for r in rows]), rel=1e-5)
        assert learn.dynamics.scores().loss[i] == pytest.approx(rows[-1]['loss'], rel=1e-5)

# the training does not notice

@pytest.mark.parametrize('others', [list, lambda: [MixUp(.4)], lambda: [AutocastCPU()], lambda: [GradientAccumulation(48)],
                                    lambda: [Weigh(lambda ids: 1 + ids % 2)]])
def test_training_is_the_same_bit_for_bit(others):
    def run(more):
        learn = fitted(others() + more)
        return weights_of(learn.model), [v[:3] for v in learn.recorder.values], torch.rand(3), learn.opt.state_dict()['state']
    a,b = run([]),run([DynamicsCallback(EVERY, show='aum', grand_epochs=(0, 2))])
    assert torch.equal(a[0], b[0]) and a[1] == b[1] and torch.equal(a[2], b[2])
    assert all(torch.equal(x['grad_avg'], y['grad_avg']) for x,y in zip(a[3], b[3]))

def test_beside_lilaw():
    alone,both = fitted(LiLAWCallback(lr=.5)),fitted([DynamicsCallback(EVERY), LiLAWCallback(lr=.5)])
    assert torch.equal(weights_of(alone.model), weights_of(both.model)) and both.lilaw.alpha < 10
    assert both.dynamics.scores()[[o for o in EVERY]].notna().all(axis=None)

@pytest.mark.parametrize('exc', [KeyboardInterrupt, RuntimeError])
def test_hook_leaves_however_the_fit_ends(exc):
    learn = blob_learner(DynamicsCallback('grand'), dls=noisy_dls())
    hooks = lambda: sum(len(m._forward_hooks) for m in learn.model.modules())
    with pytest.raises(exc): learn.fit(1, cbs=Stop('after_loss', exc('stop')))
    assert hooks() == 0
    learn.fit(1)
    assert hooks() == 0 and learn.dynamics.scores().grand.notna().all()

# company

@pytest.mark.parametrize('mix', [MixUp, CutMix])
def test_blended_samples(mix):
    "Probability, margin and error averaged with the shares of both labels; right or wrong by the sample's own"
    rows = {}
    class Look(Callback):
        order,run_valid = 21,False
        def after_loss(self):
            m = self.learn.mix_up if mix is MixUp else self.learn.cut_mix
            lam = m.lam.expand(len(self.y)) if m.lam.dim() else m.lam.repeat(len(self.y))
            for i,ident in enumerate(self.sample_ids.tolist()):
                z = self.pred[i].detach().tolist()
                a,b = (by_hand(self.pred[i:i+1].detach(), y[i].item()) for y in (self.yb[0], m.yb1[0]))
                blend = {k: lam[i].item()*a[k] + (1-lam[i].item())*b[k] for k in a}
                losses_of = lambda pred: lam[i]*F.cross_entropy(pred, self.yb[0][i:i+1]) + (1-lam[i])*F.cross_entropy(pred, m.yb1[0][i:i+1])
                rows[ident] = dict(grand_full=full_norm(self.model, self.xb[0][i:i+1], losses_of), loss=blend['loss'], confidence=blend['confidence'], aum=blend['aum'], el2n=blend['el2n'],
                                   wrong_events=float(np.argmax(z) != self.yb[0][i].item()))
    learn = image_learner([mix(1.), DynamicsCallback([*EVERY]), Look()])
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-2)
    got = raw(learn)
    assert len(rows) == 32 and all(np.isfinite(v).all() for v in got.values())
    for i,row in rows.items():
        for k,v in row.items(): assert got[k][i] == pytest.approx(v, rel=1e-4, abs=1e-4), k

def test_soft_labels_in_force():
    q = torch.rand(96, 3).softmax(1)
    spy = Spy()
    learn = fitted([Relabel(q), DynamicsCallback(EVERY), spy], n=1)
    for i,(row,) in spy.seen.items():
        hands = [by_hand(row['z'][None], k) for k in range(3)]
        for name in ('confidence', 'aum', 'el2n', 'loss'):
            assert learn.dynamics.scores()[name][i] == pytest.approx(sum(q[i,k].item()*hands[k][name] for k in range(3)), rel=1e-4, abs=1e-5)
        assert row['y'] == q[i].argmax()

@pytest.mark.parametrize('cb', [AutocastCPU, lambda: MixedPrecision('bf16')])
def test_mixed_precision(cb):
    "16 bits in the model: the scores differ in the third digit, not more"
    a,b = fitted(DynamicsCallback(EVERY), n=1, lr=1e-4),fitted([cb(), DynamicsCallback(EVERY)], n=1, lr=1e-4)
    for name in ('loss', 'confidence', 'aum', 'el2n', 'grand', 'grand_full'):
        np.testing.assert_allclose(raw(a)[name], raw(b)[name], rtol=.1, atol=.05)

def test_gradient_accumulation_counts_every_micro_batch():
    learn = fitted([GradientAccumulation(48), DynamicsCallback('aum')], n=2)
    assert (learn.dynamics.to_frame().seen == 2).all()

def test_weighted_sampling_with_replacement():
    "Ids that occur several times in a batch, others that never come"
    x,y = blobs()
    data = L(zip(x, y))
    train = WeightedDL(data, bs=32, wgts=np.r_[np.full(8, 20.), np.full(80, 1.), np.zeros(8)], shuffle=True, num_workers=0)
    spy = Spy()
    learn = fitted([DynamicsCallback(), spy], dls=DataLoaders(train, TfmdDL(data, bs=32, num_workers=0)), n=4)
    frame = learn.dynamics.to_frame()
    assert frame.seen.tolist() == [len(spy.seen.get(i, [])) for i in range(96)] and frame.seen.max() > 12
    assert frame.aum.isna().sum() == (frame.seen == 0).sum() >= 8
    for i,rows in spy.seen.items():
        hand = by_hand(torch.stack([r['z'] for r in rows]), rows[0]['y'])
        for name in ('running_loss', 'confidence', 'variability', 'aleatoric', 'aum', 'el2n', 'wrong_events'):
            assert frame[name][i] == pytest.approx(hand[name], rel=1e-4, abs=1e-5), name

def test_incomplete_batch_that_is_dropped():
    dls = blob_dls()
    dls.loaders[0] = dls.train.new(bs=40, drop_last=True)
    frame = fitted(DynamicsCallback('aum'), dls=dls, n=1).dynamics.to_frame()
    assert frame.seen.sum() == 80 and frame.aum.isna().sum() == frame.aum_quality.isna().sum() == 16

def test_num_workers(): same(raw(fitted(DynamicsCallback(EVERY))), raw(fitted(DynamicsCallback(EVERY), dls=noisy_dls(num_workers=2))))

# through fits, files and lr_find

def test_fit_twice_goes_on():
    learn = fitted(DynamicsCallback(['aum', 'grand_full'], grand_epochs=[2]), n=2)
    assert learn.dynamics.scores().grand_full.isna().all()
    learn.fit(1, 1e-2)
    assert (learn.dynamics.to_frame().seen == 3).all() and learn.dynamics.n_epochs == 3
    assert learn.dynamics.scores().grand_full.notna().all()

def test_fine_tune_validate_and_get_preds(learner):
    learn = learner(DynamicsCallback(EVERY), dls=noisy_dls())
    learn.fine_tune(1)
    before = raw(learn)
    assert learn.get_preds(ds_idx=0)[0].shape == (96, 3) and len(learn.validate()) == 2
    same(raw(learn), before)
    learn.export('d.pkl')
    assert learn.dynamics in learn.cbs

def test_lr_find_leaves_no_trace(learner, tmp_path):
    learn = learner(DynamicsCallback(EVERY, show='aum'), dls=noisy_dls())
    learn.lr_find(show_plot=False, num_it=10)
    assert learn.dynamics.state.seen.sum() == 0 and learn.dynamics.n_epochs == 0
    learn.fit(1, 1e-2)
    before,auc = raw(learn),learn.dynamics.aum_auc
    saved = []
    class Look(Callback):
        def after_batch(self): saved.append(self.learn.dynamics.state_dict())
    with learn.added_cbs(Look()): learn.lr_find(show_plot=False, num_it=10)
    assert len(saved) == 10 and all(o is None for o in saved) # lr_find saves the model to a file: not the state, however large
    same(raw(learn), before)
    assert learn.dynamics.n_epochs == 1 and learn.dynamics.aum_auc == auc and not math.isnan(auc)

def test_resumed_equals_uninterrupted(learner):
    make = lambda: learner(DynamicsCallback(EVERY, grand_epochs=[2]), dls=noisy_dls(), opt_func=SGD)
    a,b = run_in_parts(make, [4]),run_in_parts(make, [2, 2])
    assert torch.equal(weights_of(a.model), weights_of(b.model)) and b.dynamics.n_epochs == 4
    assert np.isfinite(raw(a)['grand_full']).all()
    same(raw(a), raw(b))

def test_load_takes_back_what_came_later(learner):
    learn = learner(DynamicsCallback(), dls=noisy_dls())
    learn.fit(1)
    learn.save('m')
    before = raw(learn)
    learn.fit(1)
    learn.load('m')
    same(raw(learn), before)
    other = learner(DynamicsCallback('aum'), dls=noisy_dls())
    with pytest.raises(ValueError, match='both must be the same'): other.load('m')

# reports

def test_auc_in_the_recorder():
    learn = fitted(DynamicsCallback(show=['aum', 'loss']), n=2)
    assert list(learn.recorder.metric_names)[-3:-1] == ['aum_auc', 'loss_auc']
    expected = roc_auc_score(learn.dls.noise.flipped, -learn.dynamics.scores().aum)
    assert learn.recorder.values[-1][-2] == pytest.approx(expected) == learn.dynamics.aum_auc
    assert learn.recorder.values[0][-2] != learn.recorder.values[1][-2]

def test_detection_with_and_without_known_noise():
    learn = fitted(DynamicsCallback(['aum', 'loss']), dls=blob_dls(), n=1)
    with pytest.raises(ValueError, match='give `is_noisy`'): learn.dynamics.detection()
    is_noisy = torch.arange(96) % 5 == 0
    table = learn.dynamics.detection(is_noisy, threshold=.1)
    assert table.auc['aum'] == pytest.approx(roc_auc_score(is_noisy, -learn.dynamics.scores().aum))
    cb = DynamicsCallback('aum')
    learn = blob_learner(dls=noisy_dls())
    learn.fit(1, cbs=cb)
    assert cb.detection(learn.dls.noise.flipped).shape == (1, 5) # the callback has left the Learner and still knows

def test_plot():
    learn = fitted(DynamicsCallback(), n=1)
    assert [len(o.get_offsets()) for o in learn.dynamics.plot().axes[0].collections] == [72, 24]
    assert [len(o.get_offsets()) for o in learn.dynamics.plot(np.arange(96) < 10).axes[0].collections] == [86, 10]
    learn.dls.noise = None
    points = learn.dynamics.plot().axes[0].collections
    assert len(points) == 1
    np.testing.assert_allclose(points[0].get_offsets(), learn.dynamics.scores()[['variability', 'confidence']])
    plt.close('all')

# errors

@pytest.mark.parametrize('kwargs, match', [
    (dict(scores='area'), "unknown \\['area'\\]"), (dict(scores=[]), 'choose from'), (dict(scores='aum', show='loss'), "show=\\['loss'\\]"),
    (dict(chunk_size=0), 'chunk_size=0')])
def test_wrong_arguments(kwargs, match):
    with pytest.raises(ValueError, match=match): DynamicsCallback(**kwargs)

@pytest.mark.parametrize('noise', [None, LabelNoise(torch.zeros(96), torch.zeros(96), 3), LabelNoise(torch.zeros(9), torch.arange(9), 3)])
def test_show_needs_the_truth(noise):
    dls = blob_dls()
    dls.noise = noise
    with pytest.raises(ValueError, match='dls.noise.flipped'): blob_learner(DynamicsCallback(show='aum'), dls=dls).fit(1)

def test_nothing_noted_yet():
    for f in ('scores', 'to_frame', 'plot'):
        with pytest.raises(ValueError, match='train with this callback first'): getattr(DynamicsCallback(), f)()
    with pytest.raises(ValueError, match="add \\['variability'\\]"): fitted(DynamicsCallback('confidence'), n=1).dynamics.plot()

def test_another_training_set():
    learn = fitted(DynamicsCallback('aum'), n=1)
    learn.dls = blob_dls(n=60)
    with pytest.raises(ValueError, match='96 training samples, and now there are 60'): learn.fit(1)

def tiny(targets, model, loss_func, cb):
    data = L((blobs()[0][i], targets[i]) for i in range(24))
    learn = blob_learner(cb, dls=DataLoaders(*(TfmdDL(data, bs=8, num_workers=0) for _ in range(2))), loss_func=loss_func, metrics=None)
    learn.model = model
    return learn

@pytest.mark.parametrize('targets, model, match', [
    (F.one_hot(torch.arange(24) % 3).float(), nn.Linear(4, 3), 'class id'),
    (torch.zeros(24).long(), nn.Linear(4, 1), 'K >= 2')])
def test_targets_and_predictions_that_do_not_fit(targets, model, match):
    loss_func = BCEWithLogitsLossFlat() if targets.is_floating_point() else CrossEntropyLossFlat()
    with pytest.raises(TypeError, match=match): tiny(targets, model, loss_func, DynamicsCallback()).fit(1)

def test_labels_in_a_column():
    "fastai's tables have targets of shape (B, 1): the scores are those of flat ones"
    y = torch.arange(24) % 3
    def scores(y):
        set_seed(0)
        learn = tiny(y, nn.Linear(4, 3), CrossEntropyLossFlat(), DynamicsCallback())
        nn.init.ones_(learn.model.weight)
        learn.fit(2)
        return learn.dynamics.scores()
    pd.testing.assert_frame_equal(scores(y[:,None].to(torch.int8)), scores(y))

def test_a_table_of_fastai():
    from fastai.tabular.all import TabularDataLoaders, tabular_learner
    x,y = blobs()
    df = pd.DataFrame(x.numpy(), columns=list('abcd')).assign(label=[['red', 'green', 'blue'][i] for i in y])
    dls = TabularDataLoaders.from_df(df, procs=[], cont_names=list('abcd'), y_names='label', valid_idx=range(80, 96), bs=16)
    learn = tabular_learner(dls, layers=[8], cbs=DynamicsCallback())
    learn.remove_cbs(ProgressCallback)
    learn.fit(2)
    frame = learn.dynamics.to_frame()
    assert len(frame) == 80 and frame.seen.sum() == 160 # fastai draws the rows of a table with replacement
    assert (frame.confidence.notna() == (frame.seen > 0)).all()

def test_last_layer():
    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(2, 3)
        def forward(self, x): return self.lin(x.reshape(-1, 2, 2)).mean(1)
    with pytest.raises(ValueError, match="'grand': Conv1d has no linear layer.*`last_layer`"):
        tiny(torch.zeros(24).long(), nn.Conv1d(1, 1, 1), CrossEntropyLossFlat(), DynamicsCallback('grand')).fit(1)
    with pytest.raises(TypeError, match='one vector per sample'): tiny(torch.zeros(24).long(), Rows(), CrossEntropyLossFlat(), DynamicsCallback('grand')).fit(1)

def test_named_last_layer():
    "The first layer instead of the last: nothing in it depends on the label, but its gradient does"
    norms,ids = [],[]
    class Look(Callback):
        order,run_valid = 20,False
        def after_loss(self):
            ids.extend(self.sample_ids.tolist())
            norms.extend(torch.autograd.grad(o, self.model[0].weight, retain_graph=True)[0].norm().item() for o in self.sample_loss)
    learn = blob_learner(dls=noisy_dls())
    learn.model[1].eval().train = lambda mode=True: learn.model[1] # batch statistics would tie the samples together
    cb = DynamicsCallback('grand', last_layer=learn.model[0])
    learn.fit(1, cbs=[cb, Look()])
    np.testing.assert_allclose(cb.scores().grand[ids], norms, rtol=1e-4, atol=1e-6)

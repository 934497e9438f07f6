"DISC: the groups of the samples and the loss they make; against plain loops and plain PyTorch."
import math
from functools import partial
import numpy as np, pytest, torch
import torch.nn.functional as F
from torch import nn
from fastai.basics import Callback, CrossEntropyLossFlat, DataLoaders, L, Learner, SGD
from fastai.callback.mixup import MixUp
from fastnoisy.analysis.ranking import roc_auc
from fastnoisy.callback.disc import (CLEAN, CORRECTED, DISCCallback, HARD, UNUSED, disc_groups, disc_momentum,
                                     mean_over)
from fastnoisy.callback.disc import rest_of_disc_loss
from fastnoisy.core.mixing import mixup
from helpers import blob_learner, image_learner, weights_of

# the formulas

def group_of(own_w, own_s, best, c_w, c_s, sigma):
    "One sample, in plain Python"
    if own_w >= c_w and own_s >= c_s: return CLEAN
    if own_w >= c_w or own_s >= c_s: return HARD
    return CORRECTED if best > min((c_w + c_s)/2 + sigma, max(.9, sigma)) else UNUSED

@pytest.mark.parametrize('sigma', [0., .2, .5, 1.])
def test_groups_of_each_sample(sigma):
    gen = torch.Generator().manual_seed(0)
    own,confidence = torch.rand(2, 200, 2, generator=gen)
    best = torch.rand(200, generator=gen)
    rows = zip(*own.T.tolist(), best.tolist(), *confidence.T.tolist())
    groups = disc_groups(own, best, confidence, sigma)
    assert groups.tolist() == [group_of(*o, sigma) for o in rows]
    assert (groups == CORRECTED).any() == (sigma < 1) and set(groups.tolist()) >= {UNUSED, CLEAN, HARD}

def test_momentum_leaves_the_same_share_of_the_start_in_any_fit():
    for n in (1, 5, 30, 200): assert disc_momentum(n)**n == pytest.approx(.99**200)
    assert disc_momentum(600) == .99

def test_loss_of_each_group():
    z,y = torch.randn(8, 3, dtype=torch.float64, requires_grad=True),torch.arange(8) % 3
    ce,p = F.cross_entropy(z, y, reduction='none'),z.softmax(1)[range(8), y]
    for k,own in ((CLEAN, ce), (HARD, .5*(1 - p**.7)/.7), (CORRECTED, 0*ce), (UNUSED, 0*ce)):
        group = torch.full((8,), k)
        said,true = rest_of_disc_loss(z, ce, y, group, .5),own.mean()
        torch.testing.assert_close(said, true)
        torch.testing.assert_close(*(torch.autograd.grad(o, z, retain_graph=True)[0] for o in (said, true)))
    assert mean_over(ce, ce < 0) == 0

# the training

def flip(x, seed): return x.flip(-1)

def fit(cb, n=3, lr=.05, **kwargs):
    learn = image_learner(cb, **kwargs)
    learn.remove_cb(learn.progress)
    torch.manual_seed(7)
    with learn.no_logging(): learn.fit(n, lr)
    return learn

class Batches(Callback):
    "What was trained on, and what the model said"
    order,run_valid = 20,False
    def __init__(self): self.seen,self.said = [],[]
    def before_batch(self): self.seen.append((self.x, self.y, self.learn.sample_ids))
    def after_pred(self): self.said.append(self.pred.detach())

def by_hand(batches, step):
    "The model of `fit` after steps of plain SGD with the loss that `step` gives"
    model = image_learner().model
    opt = torch.optim.SGD(model.parameters(), .05)
    for x,y,ids in batches:
        opt.zero_grad()
        step(model, x, y, ids).backward()
        opt.step()
    return model

sgd = dict(opt_func=partial(SGD, mom=0.), wd=0.)

def test_warm_up_is_cross_entropy_of_two_views():
    seen = Batches()
    learn = fit([DISCCallback(2, view=flip), seen], 2, **sgd)
    model = by_hand(seen.seen, lambda model, x, y, ids: sum(F.cross_entropy(model(o), y) for o in (x, x.flip(-1))))
    torch.testing.assert_close(weights_of(learn.model), weights_of(model), rtol=1e-4, atol=1e-5)
    assert not torch.equal(weights_of(learn.model), weights_of(fit(None, 2, **sgd).model))

def test_step_by_hand(monkeypatch):
    "An epoch with groups and labels that are given, blends and all, in plain PyTorch"
    seen,drawn = Batches(),[]
    def noted(*args, **kwargs):
        drawn.append(mixup(*args, **kwargs))
        return drawn[-1]
    monkeypatch.setattr('fastnoisy.callback.disc.mixup', noted)
    group,labels = torch.arange(32) % 4,(torch.arange(32) + 1) % 2
    class Given(Callback):
        def before_train(self): self.learn.disc.group,self.learn.disc.labels = group,labels
    cb = DISCCallback(1, hard_weight=.5, view=flip)
    cb.n_epochs = 1 # the warm-up is over
    learn = fit([cb, seen, Given()], 1, **sgd)
    blends = iter(drawn)
    def step(model, x, y, ids):
        g = group[ids]
        loss = 0.
        logits = [model(o) for o in (x, x.flip(-1))]
        for z in logits:
            p = z.softmax(1)[range(len(y)), y]
            for i in range(len(y)):
                if g[i] == CLEAN: loss = loss - p[i].log()/len(y)
                if g[i] == HARD: loss = loss + .5*(1 - p[i]**.7)/.7/len(y)
        both = [next(blends) for _ in range(2)]
        z = model(torch.cat([o.x[0] for o in both])).log_softmax(1)
        q = F.one_hot(torch.where(g == CORRECTED, labels[ids], y), 2).float()
        used = [i for i in range(len(y)) if g[i] != UNUSED]
        for v,(mixed,own) in enumerate(zip(both, (x, x.flip(-1)))):
            for i in used:
                j = int(mixed.partners[i])
                assert j in used and mixed.lam >= .5
                torch.testing.assert_close(mixed.x[0][i], mixed.lam*own[i] + (1 - mixed.lam)*own[j])
                blend = mixed.lam*q[i] + (1 - mixed.lam)*q[j]
                loss = loss - (blend*z[v*len(y) + i]).sum()/len(used)
        return loss
    torch.testing.assert_close(weights_of(learn.model), weights_of(by_hand(seen.seen, step)), rtol=1e-4, atol=1e-5)

def test_table_after_two_epochs():
    "Groups, confidences and labels from what the model said at each visit, in a plain loop"
    seen,others = Batches(),[]
    class Strong(Callback):
        order,run_valid = 21,False
        def before_fit(self): self.hook = self.model.register_forward_hook(self._note)
        def _note(self, m, inputs, out):
            if self.training and not torch.equal(inputs[0], self.x): others.append(out.detach())
        def after_fit(self): self.hook.remove()
    cb = DISCCallback(2, view=flip, momentum=.6)
    fit([cb, seen, Strong()], 2)
    n,c = 32,torch.full((32, 2), 1/32)
    given = torch.cat([y for _,y,_ in seen.seen])
    for epoch in range(2):
        at = range(epoch*4, epoch*4 + 4)
        ids = torch.cat([seen.seen[i][2] for i in at])
        y = torch.empty(n, dtype=torch.long).scatter_(0, ids, torch.cat([seen.seen[i][1] for i in at]))
        def by_id(rows): return torch.empty(n, 2).index_copy_(0, ids, torch.cat([rows[i] for i in at]).softmax(1))
        p = [by_id(o) for o in (seen.said, others)]
        groups = []
        for i in range(n):
            mean = (p[0][i] + p[1][i])/2
            groups.append(group_of(*(float(o[i, y[i]]) for o in p), float(mean.max()), *c[i].tolist(), .5))
        c = .6*c + .4*torch.stack([o.amax(1) for o in p], 1)
    assert len(given) == 64 and cb.group.tolist() == groups
    torch.testing.assert_close(cb.confidence.all(), c)
    assert (cb.clean, cb.hard) == tuple(pytest.approx(groups.count(k)/n) for k in (CLEAN, HARD))

def test_a_sure_model_with_right_labels_calls_all_clean():
    "p one-hot and right: 1 >= c always, for c has come from below"
    cb = DISCCallback(3, view=lambda x, seed: x)
    learn = image_learner(cb)
    learn.remove_cb(learn.progress)
    class Right(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(1))
        def forward(self, x): return 1e3*self.w*F.one_hot((x[:,0,0,0] >= 1).long(), 2).float()
    for dl in learn.dls.loaders: dl.dataset[:] = [(x.clamp(.5, .6) + y, y) for x,y in dl.dataset]
    learn.model = Right()
    with learn.no_logging(): learn.fit(3, 1e-3)
    assert (cb.group == CLEAN).all() and cb.clean == 1 and (cb.label_quality() == 1).all()

def noisy_images(wrong_of, n=600):
    "Images of three classes, of two clusters each: a bright square in one of six places"
    gen = torch.Generator().manual_seed(0)
    cluster = torch.arange(n) % 6
    x = .3*torch.randn(n, 1, 8, 8, generator=gen)
    for k in range(6): x[cluster == k, :, k, :] += 1.5
    true = cluster//2
    y = torch.where(wrong_of(cluster, gen), (true + 1) % 3, true)
    dls = DataLoaders.from_dsets(L(zip(x, y)), L(zip(x[:60], y[:60])), bs=32, device='cpu', num_workers=0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3))
    learn = Learner(dls, model, loss_func=CrossEntropyLossFlat(), cbs=DISCCallback(view=lambda x, seed: x + .1))
    with learn.no_bar(), learn.no_logging(): learn.fit(12, 3e-3)
    return learn.disc, true.numpy(), (y != true).numpy()

def test_random_flips_are_found_and_corrected():
    disc,true,wrong = noisy_images(lambda cluster, gen: torch.rand(len(cluster), generator=gen) < .25)
    assert roc_auc(disc.label_quality(), wrong) > .95
    assert (disc.suggested_labels() == true).mean() > .9
    group = disc.to_frame().group.values
    assert (group[~wrong] != 'unused').mean() > .9 and (group[wrong] == 'clean').mean() < .1
    assert (group[wrong] == 'corrected').mean() > .3
    assert (disc.labels.numpy()[group == 'corrected'] == true[group == 'corrected']).mean() > .9

def test_subclass_noise_is_not_found():
    "Wrong labels of a whole cluster are learnt as early as right ones, and then they are what the model is sure of"
    disc,_,wrong = noisy_images(lambda cluster, gen: cluster == 0)
    assert roc_auc(disc.label_quality(), wrong) < .75

# what it is given

def test_blends_stay_within_a_part():
    x,q = torch.arange(40.).view(20, 2),torch.eye(20)
    for seed in range(5):
        among = torch.rand(20, generator=torch.Generator().manual_seed(seed)) < .4
        partners = mixup(x, q, generator=torch.Generator().manual_seed(seed), among=among).partners
        assert torch.equal(among[partners], among) and sorted(partners.tolist()) == list(range(20))
    everyone = [mixup(x, q, generator=torch.Generator().manual_seed(1), among=o) for o in (None, torch.ones(20) > 0)]
    assert torch.equal(everyone[0].partners, everyone[1].partners)

def test_other_inputs_are_refused():
    with pytest.raises(TypeError, match='strong views of images.*give a function as `view`'):
        blob_learner(DISCCallback()).fit(1)
    learn = blob_learner(DISCCallback(1, view=lambda x, seed: x + .1))
    with learn.no_logging(): learn.fit(3, 1e-2)
    assert learn.disc.label_quality() is not None

def test_mixup_is_refused():
    with pytest.raises(ValueError, match='leave MixUp'): fit([DISCCallback(1, view=flip), MixUp()])

@pytest.mark.parametrize('options, says', [
    (dict(warmup=0), 'warmup=0'), (dict(sigma=1.5), r'sigma=1\.5: give a number'), (dict(mix=-1.), 'mix=-1'),
    (dict(momentum=1.), r'momentum=1\.0'), (dict(start=2.), 'start=2'), (dict(hard_weight=-1.), 'hard_weight=-1'),
    (dict(view=3), 'view=3: give a function')])
def test_bad_arguments(options, says):
    with pytest.raises(ValueError, match=says): DISCCallback(**options)

def test_a_seed_of_numpy():
    same = [weights_of(fit(DISCCallback(1, seed=o), 2).model) for o in (3, np.int64(3))]
    assert torch.equal(*same)

def test_before_training():
    cb = DISCCallback()
    assert cb.label_quality() is None and cb.suggested_labels() is None and math.isnan(cb.clean)
    with pytest.raises(ValueError, match='train first'): cb.to_frame()

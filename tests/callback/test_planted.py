"Planted errors: the arithmetic against naive forms, and that nothing planted is left anywhere."
from types import SimpleNamespace
import numpy as np, pytest, torch
from sklearn.metrics import roc_auc_score
from fastnoisy.analysis.noise_rate import chance_problem, estimate_noise
from fastnoisy.analysis.planted import (FEATURES, TrainingRecord, best_training, calibration_features, combine,
                                        flag_precision, flag_recall, found_among_first, in_places_of, judge,
                                        judge_recorded, log_ratio, mean_margin, other_labels_near, plant_errors,
                                        planted_auc, rank_logit, rate_interval, recorded_features,
                                        recorded_probability, wrong_probability)
from fastnoisy.analysis.report.table import noise_report
from fastnoisy.analysis.training_dynamics import margin
from fastnoisy.audit.planted import recipe, sibling, train_with_planted_errors
from fastnoisy.callback.also import ALSOCallback
from fastnoisy.callback.bmm import BMMFilterCallback
from fastnoisy.callback.planted import PlantedErrorsCallback
from fastnoisy.core.predict import predict
from helpers import blob_dls, blob_learner, blobs, weights_of

def given_labels(n=300, k=3): return np.arange(n) % k

# planting

@pytest.mark.parametrize('share', [.05, .1, .5])
@pytest.mark.parametrize('with_features', [False, True])
def test_a_share_is_planted_and_all_of_it_is_wrong(share, with_features):
    given = given_labels()
    features = np.random.default_rng(0).normal(size=(300, 4)) if with_features else None
    p = plant_errors(given, 3, share, features)
    assert p.wrong.sum() == round(share*300)
    assert (p.labels[p.wrong] != given[p.wrong]).all() and (p.labels[~p.wrong] == given[~p.wrong]).all()
    assert ((p.labels >= 0) & (p.labels < 3)).all() and set(p.kind) == ({0, 1, 2} if with_features else {0, 1})
    assert abs((p.kind == 2).sum() - (share*150 if with_features else 0)) <= 1
    np.testing.assert_array_equal(p.labels, plant_errors(given, 3, share, features).labels)
    assert (p.labels != plant_errors(given, 3, share, features, seed=1).labels).any()

def test_unknown_labels_are_never_replaced():
    given = np.where(np.arange(300) < 200, -1, given_labels())
    p = plant_errors(given, 3, .5)
    assert (p.labels[:200] == -1).all() and p.wrong.sum() == 50

@pytest.mark.parametrize('share,k,says', [(0, 3, 'share=0'), (.6, 3, 'share=0.6'), (.1, 1, 'n_classes=1')])
def test_what_cannot_be_planted(share, k, says):
    with pytest.raises(ValueError, match=says): plant_errors(given_labels(), k, share)

def test_the_label_of_the_nearest_other_sample_by_a_naive_loop():
    x,y = np.random.default_rng(0).normal(size=(40, 3)),np.random.default_rng(1).integers(0, 3, 40)
    found = other_labels_near(x, y, np.arange(40))
    for i in range(40):
        near = sorted(range(40), key=lambda j: ((x[i] - x[j])**2).sum())
        assert found[i] == next(y[j] for j in near if y[j] != y[i])
    assert other_labels_near(x, np.zeros(40, int), np.arange(3)).tolist() == [-1]*3

# measures

def test_auc_is_that_of_sklearn():
    rng = np.random.default_rng(0)
    wrong,values = rng.random(200) < .2,np.round(rng.normal(size=200), 1)
    auc,error = planted_auc(values, wrong)
    assert auc == pytest.approx(roc_auc_score(wrong, values))
    draws = [planted_auc(rng.normal(size=200), wrong)[0] for _ in range(400)]
    assert error == pytest.approx(np.std(draws), rel=.25)

def test_found_among_the_first():
    suspicion,wrong = np.arange(10.),np.array([0, 1, 0, 0, 0, 0, 0, 0, 1, 1], bool)
    assert found_among_first(suspicion, wrong, .2)[:2] == (2, 3)
    low,high = found_among_first(suspicion, wrong, .2)[2]
    assert low < 2/3 < high

def test_scores_by_a_naive_loop():
    rng = np.random.default_rng(0)
    probs,y = rng.dirichlet(np.ones(4), 50),rng.integers(0, 4, 50)
    for i in range(50):
        other = max(probs[i, k] for k in range(4) if k != y[i])
        assert mean_margin(probs, y)[i] == pytest.approx(probs[i, y[i]] - other)
        assert log_ratio(probs, y)[i] == pytest.approx(np.log((probs[i, y[i]] + .01)/(other + .01)))

def test_rank_logit_keeps_the_order_and_is_symmetric():
    values = np.array([3., np.nan, 1., 2., 100.])
    res = rank_logit(values)
    assert np.isnan(res[1]) and np.argsort(res[[0, 2, 3, 4]]).tolist() == [1, 2, 0, 3]
    assert np.nansum(res) == pytest.approx(0)

def test_a_part_takes_the_places_of_the_others():
    values,part = np.r_[np.arange(100.), np.full(4, -9.)],np.arange(104) >= 100
    res = in_places_of(values, np.r_[np.zeros(100), 3, 1, 4, 2], part)
    assert (res[:100] == values[:100]).all() and np.argsort(res[100:]).tolist() == [1, 3, 0, 2]
    assert res[100:].min() >= 0 and res[100:].max() <= 99

def record_of(suspicion, planted, k=3, seed=0, name=''):
    "A training whose margins are -`suspicion`, and whose probabilities are made of them"
    n,rng = len(suspicion),np.random.default_rng(seed)
    logits = rng.normal(size=(n, k))*.1
    logits[np.arange(n), planted.labels] -= suspicion
    probs = np.exp(logits)/np.exp(logits).sum(1, keepdims=True)
    return TrainingRecord(-suspicion, -suspicion, probs, name)

def test_the_better_training_counts():
    rng,planted = np.random.default_rng(0),plant_errors(given_labels(600), 3)
    good = record_of(rng.normal(size=600) + 4*planted.wrong - 3, planted, name='good')
    bad = record_of(rng.normal(size=600) + .5*planted.wrong - 3, planted, name='bad')
    o = combine([bad, good], planted)
    assert sum(o.weights.values()) == pytest.approx(1) and best_training(o) == 'good'
    assert sum(w for (name,_),w in o.weights.items() if name == 'good') > .9
    assert o.auc > .98

def test_the_probability_is_a_logistic_function_of_the_features():
    planted = plant_errors(given_labels(600), 3)
    o = combine([record_of(np.random.default_rng(0).normal(size=600) + 3*planted.wrong - 3, planted)], planted)
    features = calibration_features(o, 3)
    assert features.shape == (600, len(FEATURES))
    p = wrong_probability(features)
    assert ((p >= 0) & (p <= 1)).all() and p[planted.wrong].mean() > p[~planted.wrong].mean()

def test_no_verdict_without_evidence():
    planted = plant_errors(given_labels(600), 3)
    rng = np.random.default_rng(0)
    chance = judge([record_of(rng.normal(size=600) - 3, planted)], planted)
    assert 'no better' not in chance.problem and 'by chance' in chance.problem and np.isnan(chance.probability).all()
    few = plant_errors(given_labels(30), 3)
    assert 'only 3 errors' in judge([record_of(3*few.wrong - 3., few)], few).problem
    against = record_of(rng.normal(size=600) + 3*planted.wrong + 2, planted)
    assert 'contradicts' in judge([against], planted).problem
    diverged = TrainingRecord(np.full(600, np.nan), np.full(600, np.nan), np.full((600, 3), np.nan))
    assert 'diverged' in judge([diverged], planted).problem

def test_rate_interval_holds_the_rate_and_widens():
    low,high = rate_interval(.2, .9, 1000)
    assert 0 <= low < .2 < high <= 1
    wide = rate_interval(.2, .6, 1000)
    assert wide[0] < low and wide[1] > high

def test_agreement_by_chance():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 1000)
    assert 'train it' in chance_problem(rng.integers(0, 4, 1000), y)
    assert 'train it' in chance_problem(np.zeros(1000, int), y) # the majority class alone
    assert chance_problem(np.where(rng.random(1000) < .3, y, 0), y) == ''
    assert 'no sample' in chance_problem(y, np.full(1000, -1))

def test_agreement_that_an_untrained_network_reaches():
    "Kappa .06: more than chance by the number of samples, and yet nothing"
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 20_000)
    predicted = np.where(rng.random(len(y)) < .06, y, rng.integers(0, 10, len(y)))
    assert (predicted == y).mean() - .1 > 20*np.sqrt(.09/len(y)) and 'train it' in chance_problem(predicted, y)

# where nothing was planted

def made_up(n=600, k=4, rate=.2, seed=0):
    rng = np.random.default_rng(seed)
    true = rng.integers(0, k, n)
    given = np.where(rng.random(n) < rate, (true + rng.integers(1, k, n)) % k, true)
    logits = rng.normal(size=(n, k)) + 3*np.eye(k)[true] + np.eye(k)[given]
    probs = np.exp(logits)/np.exp(logits).sum(1, keepdims=True)
    aum = logits[np.arange(n), given] - np.where(np.eye(k)[given] == 1, -np.inf, logits).max(1)
    return TrainingRecord(aum, aum + rng.normal(size=n)*.1, probs),given,true

def test_features_of_a_record_by_a_naive_loop():
    record,given,_ = made_up(60)
    found = recorded_features(record, given)
    ratio = [np.log((p[y] + .01)/(max(np.delete(p, y)) + .01)) for p,y in zip(record.probs, given)]
    def odds(values): return np.log(np.mean(values)/(1 - np.mean(values)))
    late = [2*a - e < 0 for a,e in zip(record.aum, record.early)] # the mean of two halves is their mean
    scores = [-record.aum, -record.early, -mean_margin(record.probs, given)]
    ranks = [[np.log((s < v).sum() + .5) - np.log(60 - (s < v).sum() - .5) for v in s] for s in scores]
    alike = odds([r < 0 for r in ratio]), record.probs.max(1).mean(), np.log(4), odds(late)
    expected = [(r, np.mean([o[i] for o in ranks]), alike[0], r < 0, *alike[1:], late[i]) for i,r in enumerate(ratio)]
    np.testing.assert_allclose(found, np.array(expected, float), atol=1e-9)

@pytest.mark.parametrize('is_plain', [True, False])
def test_a_record_alone_tells_rate_and_flags(is_plain):
    for rate in (.1, .3):
        record,given,true = made_up(3000, rate=rate)
        o = judge_recorded(record, given, is_plain)
        low,high = o.interval
        assert not o.problem and low <= rate <= high and low < o.rate < high and o.said() == ''
        assert roc_auc_score(given != true, o.probability) > .9 and o.source != 'planted'
        assert o.rate == pytest.approx(recorded_probability(recorded_features(record, given), is_plain).mean())

def test_no_verdict_of_a_record():
    record,given,_ = made_up(100)
    nan = TrainingRecord(*(np.full_like(o, np.nan) for o in (record.aum, record.early, record.probs)))
    against,few = (given + 1) % 4,np.where(np.arange(100) < 29, given, -1)
    for o,labels,says in ((nan, given, 'diverged'), (record, against, 'contradicts'), (record, few, 'only 29 labels')):
        found = judge_recorded(o, labels, True, 20)
        assert says in found.problem and np.isnan(found.probability).all() and np.isnan(found.rate)
    assert '2 of the 3 epochs' in judge_recorded(record, given, True, 2).problem
    assert not judge_recorded(record, given, True, 3).problem
    unknown = judge_recorded(record, np.where(np.arange(100) < 40, given, -1), True)
    assert np.isfinite(unknown.probability).tolist() == (np.arange(100) < 40).tolist()

# the callback

def planted_blobs(cbs=None, n=4, **kwargs):
    learn = blob_learner(cbs=[PlantedErrorsCallback(**kwargs), *(cbs or [])])
    learn.fit(n, 1e-2)
    return learn

def test_the_planted_labels_are_in_force_in_the_batches_only():
    seen = {}
    class Look(PlantedErrorsCallback):
        name = 'planted'
        def after_loss(self):
            seen.update(zip(self.sample_ids.tolist(), self.yb[0].tolist()))
            super().after_loss()
    learn = blob_learner(cbs=Look())
    before = predict(learn).targets
    learn.fit(2, 1e-2)
    planted = learn.planted.planted
    assert [seen[i] for i in range(96)] == planted.labels.tolist()
    assert planted.wrong.sum() == 10 and (planted.given == before.numpy()).all()
    assert predict(learn).targets.equal(before)
    assert learn.validate() and not set(learn.planted.to_frame()) & {'labels', 'planted', 'kind'}

def test_margins_and_probabilities_are_means_of_the_training_steps():
    rows = []
    class Look(PlantedErrorsCallback):
        name = 'planted'
        def after_loss(self):
            super().after_loss()
            logits,y = self.pred.detach(),self.yb[0]
            rows.append((self.sample_ids, margin(logits, torch.as_tensor(y)), logits.softmax(1), self.learn.epoch))
    learn = blob_learner(cbs=Look())
    learn.fit(4, 1e-2)
    ids,margins,probs = (torch.cat([o[i] for o in rows]) for i in range(3))
    record = learn.planted.record()
    for i in (0, 50, 95):
        np.testing.assert_allclose(record.aum[i], margins[ids == i].mean(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(record.probs[i], probs[ids == i].mean(0), rtol=1e-4, atol=1e-5)
        half = torch.cat([m[o == i] for o,m,_,e in rows if e < 2])
        np.testing.assert_allclose(record.early[i], half.mean(), rtol=1e-4, atol=1e-5)

@pytest.mark.parametrize('stop', [KeyboardInterrupt, RuntimeError])
def test_data_and_learner_are_as_before_however_it_ends(stop):
    class Stop(PlantedErrorsCallback):
        name = 'planted'
        def after_loss(self):
            super().after_loss()
            if self.learn.epoch == 1: raise stop('enough')
    learn = blob_learner(cbs=Stop())
    before = predict(learn).targets
    with pytest.raises(stop): learn.fit(3, 1e-2)
    assert predict(learn).targets.equal(before)

def test_without_a_share_the_training_is_the_plain_one():
    first = planted_blobs()
    def weights(cbs):
        torch.manual_seed(7)
        dls = blob_dls()
        dls.train.rng.seed(3)
        learn = blob_learner(cbs=cbs, dls=dls)
        learn.fit(2, 1e-2)
        return weights_of(learn.model)
    assert weights(PlantedErrorsCallback(0, beside=first.planted)).equal(weights(None))
    assert not weights(PlantedErrorsCallback(beside=first.planted)).equal(weights(None))

def test_beside_another_the_same_errors_are_planted_and_both_are_judged():
    first = planted_blobs()
    second = planted_blobs([ALSOCallback()], beside=first.planted)
    np.testing.assert_array_equal(first.planted.planted.labels, second.planted.planted.labels)
    assert {name for name,_ in second.planted.findings().combined.weights} == {'plain', 'also'}
    third = planted_blobs(share=0, beside=second.planted)
    assert third.planted.findings().combined.weights == second.planted.findings().combined.weights

def test_nothing_planted_is_the_plain_training_and_its_report_says_what_was_not_measured():
    def trained(*cbs):
        torch.manual_seed(7)
        dls = blob_dls(400, labels=noisy_blobs()[0])
        dls.train.rng.seed(3)
        learn = blob_learner(cbs=[*cbs], dls=dls)
        learn.fit(6, 1e-2)
        return learn
    learn,plain = trained(PlantedErrorsCallback(0)),trained()
    assert weights_of(learn.model).equal(weights_of(plain.model))
    report = noise_report(learn)
    assert report.source == 'training dynamics' and 'was not measured (PlantedErrorsCallback()' in report.summary()
    assert report.noise_rate == pytest.approx(report.noise_probability.mean())
    assert report.is_label_issue.equals(report.noise_probability > .5) and learn.planted.best == 'plain'
    assert 'was not measured (PlantedErrorsCallback()' in noise_report(plain).summary()
    assert 'not calibrated (PlantedErrorsCallback(0)' in noise_report(plain).summary()
    assert 'not calibrated' not in report.summary() and 0 < report.precision <= 1
    assert np.isnan(noise_report(plain).precision) and 'are wrong' not in noise_report(plain).summary()

def test_lr_find_leaves_no_trace():
    learn = blob_learner(cbs=PlantedErrorsCallback())
    learn.lr_find(show_plot=False, num_it=8)
    assert learn.planted.margins is None and learn.planted.label_quality() is None and learn.planted.verdict() is None

def test_saved_and_loaded(tmp_path):
    learn = planted_blobs()
    learn.path = tmp_path
    learn.save('stop')
    other = blob_learner(cbs=PlantedErrorsCallback(seed=5))
    other.path = tmp_path
    other.load('stop')
    other.fit(0)
    np.testing.assert_array_equal(other.planted.planted.labels, learn.planted.planted.labels)
    np.testing.assert_allclose(other.planted.label_quality(), learn.planted.label_quality())

def test_refused():
    for o in (.6, -1):
        with pytest.raises(ValueError, match=f'share={o}'): PlantedErrorsCallback(o)
    with pytest.raises(ValueError, match='beside'): PlantedErrorsCallback(beside=3)
    with pytest.raises(ValueError, match='train with it first'): PlantedErrorsCallback(beside=PlantedErrorsCallback())
    nothing = planted_blobs(share=0).planted
    with pytest.raises(ValueError, match='nothing was planted in it'): PlantedErrorsCallback(beside=nothing)
    first = planted_blobs()
    other = blob_learner(cbs=PlantedErrorsCallback(beside=first.planted), dls=blob_dls(n=60))
    with pytest.raises(ValueError, match='96 training samples'): other.fit(1)

# reports

def noisy_blobs(n=400, rate=.15):
    x,y = blobs(n, spread=5)
    wrong = torch.rand(n, generator=torch.Generator().manual_seed(1)) < rate
    return torch.where(wrong, (y + 1) % 3, y),wrong.numpy()

def test_the_report_says_how_good_it_is():
    labels,wrong = noisy_blobs()
    learn = blob_learner(cbs=recipe('also'), dls=blob_dls(400, labels=labels))
    learn.dls.train.dataset # the blobs are those of n=400
    def fit(learn): learn.fit(12, 1e-2)
    learn,_ = train_with_planted_errors(learn, fit)
    report = noise_report(learn)
    assert report.source == 'planted' and 'labels broken on purpose the list finds' in report.summary()
    assert report.given_label.tolist() == [str(int(o)) for o in labels]
    low,high = report.interval
    assert low <= report.noise_rate <= high
    assert report.noise_rate == report.verdict.rate
    flagged = report.is_label_issue.to_numpy()
    assert (report.precision,report.precision_interval) == report.verdict.precision(flagged)
    assert 'Of the flagged labels about' in report.summary() and 'of the wrong ones about' in report.summary()
    table = report.measures()
    assert table.loc['precision of the flags'].tolist() == [report.precision, *report.precision_interval]
    assert table.loc['recall of the flags', 'estimate'] == pytest.approx(report.recall) and table.notna().all().all()
    assert report.head(50).precision == report.precision # a part has that of the whole

def test_an_untrained_filter_and_estimate_say_that_nothing_can_be_told():
    with pytest.warns(UserWarning, match='by chance'):
        learn = blob_learner(cbs=BMMFilterCallback('loss', warmup=1), dls=blob_dls(400))
        learn.fit(1, 1e-9)
    learn.bmm.mixture,learn.bmm.noise_rate = SimpleNamespace(is_unimodal=False),.3 # of the losses of a model at chance
    learn.bmm.p_noisy[:40] = .9
    assert not learn.bmm.to_frame().is_label_issue.any() and learn.bmm.noise_probability() is None
    learn.bmm.at_chance = ''
    assert learn.bmm.to_frame().is_label_issue.sum() >= 40
    dls = blob_dls(400)
    dls.loaders[1] = dls.loaders[0].new(shuffle=False)
    with pytest.raises(ValueError, match='undetermined: the model predicts'): estimate_noise(blob_learner(dls=dls))

def test_siblings_begin_with_the_same_weights_and_share_none():
    learn = blob_learner(cbs=recipe('also'))
    other = sibling(learn, recipe('plain'))
    assert weights_of(other.model).equal(weights_of(learn.model)) and other.loss_func is learn.loss_func
    other.fit(1, 1e-2)
    assert not weights_of(other.model).equal(weights_of(learn.model))

def test_an_interrupted_training_is_the_last():
    learn,calls = blob_learner(cbs=recipe('also')),[]
    def fit(o):
        o.fit(3, 1e-2)
        calls.append(o)
        return True
    part,stopped = train_with_planted_errors(learn, fit)
    assert stopped and calls == [part] and part is not learn
    assert len(noise_report(part)) == 96

def test_recall_is_shown_after_each_epoch():
    learn = blob_learner(PlantedErrorsCallback(.2), blob_dls(300))
    with learn.no_bar(), learn.no_logging(): learn.fit(3, .1)
    column = list(learn.recorder.metric_names).index('planted_recall') - 1
    shown = [o[column] for o in learn.recorder.values]
    margins,wrong = learn.planted.record().aum,learn.planted.planted.wrong
    lowest = sorted(range(len(wrong)), key=lambda i: margins[i])[:sum(wrong)]
    assert shown[-1] == pytest.approx(sum(wrong[i] for i in lowest)/sum(wrong)) and .2 < shown[-1] <= 1
    clean = PlantedErrorsCallback(0, beside=learn.planted)
    other = blob_learner(clean, blob_dls(300))
    with other.no_bar(), other.no_logging(): other.fit(1, .1)
    assert 'planted_recall' not in other.recorder.metric_names

# precision and recall of the flags

def draws(error, n_draws=400, seed=0):
    "Probabilities, and labels drawn by them times a factor, so that the rate has the standard deviation `error`"
    rng,p = np.random.default_rng(seed),np.repeat([.02, .3, .6, .9], [500, 40, 40, 60])
    factor = 1 + rng.normal(size=n_draws)*error/p.mean()
    return p, [rng.random(len(p)) < np.clip(p*f, 0, 1) for f in factor]

@pytest.mark.parametrize('error', [1e-9, .02, .03])
def test_intervals_of_the_flags_hold_the_truth_four_times_of_five(error):
    p,truths = draws(error)
    flagged = p > .5
    (precision,(low, high)),(recall,(low_r, high_r)) = flag_precision(p, flagged, error),flag_recall(p, flagged, error)
    found = np.array([(o[flagged].mean(), flagged[o].mean()) for o in truths])
    assert precision == pytest.approx(p[flagged].mean()) and recall == pytest.approx(p[flagged].sum()/p.sum())
    np.testing.assert_allclose(found.mean(0), [precision, recall], atol=.04)
    assert .7 < ((low <= found[:,0]) & (found[:,0] <= high)).mean() < .97
    assert ((low_r <= found[:,1]) & (found[:,1] <= high_r)).mean() > .75

def test_a_rate_that_may_be_zero_leaves_the_precision_open():
    p = np.repeat([.005, .9], [990, 10])
    assert flag_precision(p, p > .5, .03)[1] == (0, 1) and flag_precision(p, p > .5, .001)[1][0] > .6

def test_no_flag_no_precision():
    p = np.full(50, .1)
    for f in (flag_precision, flag_recall):
        share,interval = f(p, p > .5, .05)
        assert np.isnan(share) and interval == (0, 1)
    unknown = np.r_[p, np.nan, .9]
    flagged = np.r_[np.zeros(50, bool), True, True] # what is not known does not count
    assert flag_precision(unknown, flagged, .001)[0] == pytest.approx(.9)
    assert flag_recall(unknown, flagged, .001)[0] == pytest.approx(.9/5.9)

def test_findings_tell_the_precision_of_made_up_flags():
    inside = []
    for seed in range(20):
        record,given,true = made_up(1500, rate=.2, seed=seed)
        o = judge_recorded(record, given, True)
        flagged = o.probability > .5
        share,(low, high) = o.precision(flagged)
        assert low <= share <= high and o.error > 0
        inside.append(low <= (given != true)[flagged].mean() <= high)
        share,(low, high) = o.recall(flagged)
        inside.append(low <= flagged[given != true].mean() <= high)
    assert np.mean(inside) >= .8

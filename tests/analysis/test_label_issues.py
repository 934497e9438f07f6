"Label issues of any model: votes and HOC against known truths, the table, and what is refused."
import numpy as np, pytest, torch
from fastnoisy.analysis.confident_learning import confident_issues, normalized_margin, self_confidence
from fastnoisy.analysis.feature_issues import (consensus_counts, expected_consensus, fold_probabilities, hoc,
                                               neighbour_shares, vote_quality, worst_of_each_class, wrong_by_class)
from fastnoisy.analysis.label_issues import find_label_issues
from fastnoisy.analysis.planted import TrainingRecord, judge_recorded
from fastnoisy.analysis.ranking import roc_auc
from fastnoisy.analysis.report.table import NoiseReport

def clusters(n=600, k=3, rate=.2, seed=0):
    "Features in separate clusters, true and given labels"
    rng = np.random.default_rng(seed)
    true = rng.integers(0, k, n)
    angle = 2*np.pi*true/k
    x = rng.normal(size=(n, 2))*.3 + 3*np.stack([np.cos(angle), np.sin(angle)], 1)
    return x, true, np.where(rng.random(n) < rate, (true + rng.integers(1, k, n)) % k, true)

def softmax(z): return np.exp(z)/np.exp(z).sum(-1, keepdims=True)

def model_logits(true, k, seed=0): return np.random.default_rng(seed).normal(size=(len(true), k)) + 4*np.eye(k)[true]

# features

def test_shares_and_votes_by_a_naive_loop():
    x,_,given = clusters(60)
    shares = neighbour_shares(x, given, 3, k=5)
    unit = x/np.linalg.norm(x, axis=1, keepdims=True)
    for i in range(60):
        near = sorted((j for j in range(60) if j != i), key=lambda j: -unit[i] @ unit[j])[:5]
        expected = np.bincount(given[near], minlength=3)/5
        np.testing.assert_allclose(shares[i], expected, atol=1e-6)
        other = max(expected[c] for c in range(3) if c != given[i])
        assert vote_quality(shares, given)[i] == pytest.approx((expected[given[i]] - other + 1)/2)

def test_consensus_counts_by_a_naive_loop():
    x,_,given = clusters(50)
    unit = x/np.linalg.norm(x, axis=1, keepdims=True)
    one,two,three = np.zeros(3),np.zeros((3, 3)),np.zeros((3, 3, 3))
    for i in range(50):
        a,b = sorted((j for j in range(50) if j != i), key=lambda j: -unit[i] @ unit[j])[:2]
        one[given[i]] += 1; two[given[i], given[a]] += 1; three[given[i], given[a], given[b]] += 1
    for found,expected in zip(consensus_counts(x, given, 3), (one, two, three)):
        np.testing.assert_allclose(found, expected/50, atol=1e-6)

def test_expected_consensus_sums_to_one_and_is_symmetric():
    prior,T = torch.rand(4).softmax(0),torch.rand(4, 4).softmax(1)
    one,two,three = expected_consensus(prior, T)
    assert torch.allclose(one, prior @ T) and torch.allclose(two, two.T)
    assert torch.allclose(three.sum(2), two) and torch.allclose(three.sum(), torch.tensor(1.))

def test_hoc_finds_the_matrix():
    x,true,_ = clusters(6000)
    T = np.array([[.7, .3, 0], [0, .9, .1], [.2, .2, .6]])
    given = np.array([np.random.default_rng(i).choice(3, p=T[t]) for i,t in enumerate(true)])
    found,prior = hoc(x, given)
    np.testing.assert_allclose(found, T, atol=.05)
    np.testing.assert_allclose(prior, [1/3]*3, atol=.05)
    wrong = [np.mean(true[given == j] != j) for j in range(3)]
    np.testing.assert_allclose(wrong_by_class(found, prior), wrong, atol=.06)

def test_hoc_refuses_what_it_cannot_do():
    x,_,given = clusters(60)
    with pytest.raises(ValueError, match='n_classes=101'): hoc(x, given, 101)
    with pytest.raises(ValueError, match='two neighbours'): hoc(x[:2], given[:2], 3)

def test_the_worst_of_each_class():
    quality,labels = np.array([.1, .2, .3, .4, .9, .8]),np.array([0, 0, 0, 0, 1, 1])
    assert worst_of_each_class(quality, labels, [.5, .5]).tolist() == [True, True, False, False, False, True]
    assert not worst_of_each_class(quality, labels, [0, 0]).any()

def test_folds_are_out_of_sample_and_spread_over_the_classes():
    x,_,given = clusters(90)
    random = np.random.default_rng(1).normal(size=(90, 200)) # can be learnt by heart, but tells nothing
    assert fold_probabilities(random, given, 3)[np.arange(90), given].mean() < .5
    probs = fold_probabilities(x, np.where(np.arange(90) == 7, 3, given), 5) # a class of one, and one of none
    assert probs[7, 3] == 0 and (probs[:,4] == 0).all()
    np.testing.assert_allclose(probs.sum(1), 1)

# the table

def test_of_probabilities_it_is_confident_learning():
    _,true,given = clusters(300, 4)
    probs = softmax(model_logits(true, 4))
    report = find_label_issues(given, probs)
    assert isinstance(report, NoiseReport)
    np.testing.assert_array_equal(report.is_label_issue, confident_issues(given, probs))
    np.testing.assert_allclose(report.label_quality, normalized_margin(given, probs))
    by_confidence = find_label_issues(given, probs, quality='self_confidence')
    np.testing.assert_allclose(by_confidence.label_quality, self_confidence(given, probs))
    assert report.predicted_label.tolist() == [str(o) for o in probs.argmax(1)]
    assert (report.suggested_label == report.given_label).equals(~report.is_label_issue)
    assert report.noise_rate == pytest.approx((true != given).mean(), abs=.05)

@pytest.mark.parametrize('what', ['pred_probs', 'features', 'logits_history', 'all'])
def test_every_source_finds_the_wrong_labels(what):
    x,true,given = clusters(400, 4)
    logits = model_logits(true, 4)
    given_all = dict(pred_probs=softmax(logits), features=x, logits_history=np.stack([logits*.2, logits*.5, logits]))
    report = find_label_issues(given, **(given_all if what == 'all' else {what: given_all[what]}))
    wrong = true != given
    assert roc_auc(report.label_quality, wrong) > .95
    assert wrong[report.is_label_issue].mean() > .8 and report.is_label_issue[wrong].mean() > .8
    assert report.source == ('pred_probs and features and logits_history' if what == 'all' else what)
    assert report.noise_probability.between(0, 1).all()

def test_history_counts_the_whole_training():
    _,true,given = clusters(300, 4)
    early = model_logits(true, 4)
    late = 8*np.eye(4)[given] # all labels memorised
    report = find_label_issues(given, logits_history=np.stack([early, early, late]))
    assert roc_auc(report.label_quality, true != given) > .9

def test_a_history_alone_is_judged_as_a_record():
    _,true,given = clusters(600, 4)
    history = np.stack([model_logits(true, 4)*o for o in (.3, .6, .8, 1)])
    report = find_label_issues(given, logits_history=history)
    probs = np.exp(history)/np.exp(history).sum(2, keepdims=True)
    aum = [m - max(np.delete(o, y)) for o,y,m in zip(history.mean(0), given, history.mean(0)[np.arange(600), given])]
    early = [m - max(np.delete(o, y)) for o,y,m in zip(history[:2].mean(0), given,
                                                       history[:2].mean(0)[np.arange(600), given])]
    record = TrainingRecord(np.array(aum), np.array(early), probs.mean(0)) # one shape in all epochs: the mean's margin
    found = judge_recorded(record, given, True, 4)
    np.testing.assert_allclose(report.noise_probability, found.probability, atol=1e-6)
    assert report.noise_rate == pytest.approx(found.rate) and report.interval == pytest.approx(found.interval)
    flagged = report.is_label_issue.to_numpy()
    assert (flagged == (found.probability > .5)).all()
    assert report.precision == pytest.approx(found.precision(flagged)[0])
    assert (report.suggested_label != report.given_label)[flagged].all() and 'are wrong' in report.summary()
    by_rule = find_label_issues(given, logits_history=history, rule='prune_by_noise_rate')
    assert by_rule.verdict is None and np.isnan(by_rule.precision)

def test_a_history_that_says_nothing():
    _,true,given = clusters(300, 4)
    short = find_label_issues(given, logits_history=np.stack([model_logits(true, 4)]*2))
    assert '2 of the 3 epochs' in short.summary() and not short.is_label_issue.any() and np.isnan(short.noise_rate)
    against = find_label_issues(given, logits_history=np.stack([-model_logits(true, 4)]*4))
    assert 'contradicts' in against.undetermined and against.noise_probability.isna().all()

def test_names_files_and_pictures(tmp_path):
    x,true,given = clusters(80)
    images = np.random.default_rng(0).integers(0, 255, (80, 20, 20), dtype=np.uint8)
    names,probs = ['cat', 'dog', 'hen'],softmax(model_logits(true, 3))
    report = find_label_issues(given, probs, vocab=names, samples=images, ranked=True)
    assert set(report.given_label) <= {'cat', 'dog', 'hen'}
    report.to_csv(tmp_path/'issues.csv')
    assert (tmp_path/'issues.csv').exists() and report.to_html(tmp_path/'report.html', n=4).exists()
    assert 'probably mislabelled' in report.summary()
    with pytest.raises(ValueError, match='`samples`'): find_label_issues(given, features=x).plot_top(4)

def test_tensors_lists_and_series_are_taken():
    _,true,given = clusters(60)
    probs = softmax(model_logits(true, 3))
    expected = find_label_issues(given, probs)
    for labels,p in ((given.tolist(), probs.tolist()), (torch.tensor(given), torch.tensor(probs))):
        np.testing.assert_allclose(find_label_issues(labels, p).label_quality, expected.label_quality)

@pytest.mark.parametrize('bad,message', [
    (dict(), 'at least one of'), (dict(pred_probs=np.ones((5, 3))/3), r'pred_probs: shape \(5, 3\)'),
    (dict(pred_probs=np.ones((60, 3))), 'softmax'), (dict(features=np.full((60, 2), np.nan)), 'features: some are NaN'),
    (dict(logits_history=np.zeros((60, 3))), 'logits_history: shape'),
    (dict(features=np.zeros((60, 2)), rule='best'), "rule='best'"),
    (dict(pred_probs=np.ones((60, 3))/3, vocab=['a', 'b']), '2 names'),
    (dict(pred_probs=np.ones((60, 2))/2), 'outside 0..1'),
    (dict(features=np.zeros((60, 2)), quality='high'), "quality='high'")])
def test_what_does_not_fit_is_refused(bad, message):
    _,_,given = clusters(60)
    with pytest.raises(ValueError, match=message): find_label_issues(given, **bad)

def test_an_id_that_is_no_number_of_classes():
    "Memory for 10^12 classes was asked for"
    x,_,given = clusters(60)
    given[3] = 10**12
    with pytest.raises(ValueError, match='the largest class id is 1000000000000 in 60 labels'):
        find_label_issues(given, features=x)

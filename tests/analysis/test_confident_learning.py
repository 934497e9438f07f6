"Confident learning: the numbers of cleanlab 2.9.0 (stored), and what must hold by itself."
import json
from pathlib import Path
import numpy as np, pytest
from fastnoisy.analysis.confident_learning import (RULES, class_thresholds, confident_classes, confident_issues,
                                                   confident_joint, normalized_margin, rounded_rows, self_confidence,
                                                   with_class_thresholds)

STORED = json.loads((Path(__file__).parents[1]/'reference'/'cleanlab.json').read_text())
CASES = dict(four=(0, 160, 4), unequal=(1, 120, 5), two=(2, 80, 2))

def case(name):
    "Given labels and probabilities, drawn as they were for cleanlab"
    seed,n,k = CASES[name]
    rng = np.random.default_rng(seed)
    true = rng.choice(k, n, p=np.arange(1, k + 1)/sum(range(1, k + 1)) if name == 'unequal' else None)
    given = np.where(rng.random(n) < .25, (true + rng.integers(1, k, n)) % k, true)
    z = rng.normal(size=(n, k))*1.2 + 2*np.eye(k)[true]
    return given, np.exp(z)/np.exp(z).sum(1, keepdims=True), true

@pytest.mark.parametrize('name', CASES)
def test_joint_and_thresholds_are_those_of_cleanlab(name):
    given,probs,_ = case(name)
    assert confident_joint(given, probs).tolist() == STORED[name]['joint']
    np.testing.assert_allclose(class_thresholds(given, probs), STORED[name]['thresholds'], atol=2e-6)

@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize('rule', RULES)
def test_rules_flag_what_cleanlab_flags(name, rule):
    given,probs,_ = case(name)
    assert np.flatnonzero(confident_issues(given, probs, rule)).tolist() == STORED[name][rule]

@pytest.mark.parametrize('name', CASES)
def test_qualities_are_those_of_cleanlab(name):
    given,probs,_ = case(name)
    adjusted = normalized_margin(given, with_class_thresholds(given, probs))
    found = dict(self_confidence=self_confidence(given, probs), normalized_margin=normalized_margin(given, probs))
    for key,values in dict(found, adjusted=adjusted).items():
        np.testing.assert_allclose(values[:8], STORED[name][f'q_{key}'], atol=2e-6)

def test_joint_of_a_perfect_model_is_the_confusion_matrix():
    given,_,true = case('four')
    expected = np.zeros((4, 4), int)
    np.add.at(expected, (given, true), 1)
    assert confident_joint(given, np.eye(4)[true]).tolist() == expected.tolist()

def test_classes_by_a_naive_loop():
    given,probs,_ = case('unequal')
    for i,row in enumerate(probs):
        sure = [k for k in range(5) if row[k] >= probs[given == k, k].mean() - 1e-6]
        expected = -1 if not sure else sure[0] if len(sure) == 1 else row.argmax()
        assert confident_classes(given, probs)[i] == expected

@pytest.mark.parametrize('rule', RULES)
def test_equal_probabilities_flag_nothing(rule):
    given,_,_ = case('four')
    if not rule.startswith('low_'): assert not confident_issues(given, np.full((len(given), 4), .25), rule).any()

@pytest.mark.parametrize('rule', ['prune_by_noise_rate', 'prune_by_class', 'both'])
def test_one_sample_of_each_class_stays(rule):
    given,_,_ = case('four')
    flags = confident_issues(given, np.eye(4)[(given + 1) % 4]*.9 + .025, rule) # contradicts every label
    assert all((~flags[given == k]).any() for k in range(4))

def test_a_class_without_samples():
    given,probs,_ = case('four')
    given = np.where(given == 2, 0, given)
    assert class_thresholds(given, probs)[2] == 2
    assert confident_joint(given, probs).sum(1).tolist() == np.bincount(given, minlength=4).tolist()
    assert np.isfinite(with_class_thresholds(given, probs)).all()
    confident_issues(given, probs)

def test_rows_keep_their_sums():
    table = np.random.default_rng(0).random((50, 7))*9
    assert (rounded_rows(table).sum(1) == np.round(table.sum(1))).all()
    assert (abs(rounded_rows(table) - table) <= 1.5).all()

def test_unknown_rule():
    given,probs,_ = case('two')
    with pytest.raises(ValueError, match="rule='x': choose from prune_by"): confident_issues(given, probs, 'x')

"Several annotators: the numbers of cleanlab 2.9.0 (stored), naive loops, and what must hold by itself."
import json
from pathlib import Path
import numpy as np, pytest
from fastnoisy.analysis.annotators import (agreement_with, annotator_agreement, check_votes, consensus_posterior,
                                           crowdlab, majority_vote)

STORED = json.loads((Path(__file__).parents[1]/'reference'/'crowdlab.json').read_text())
CASES = dict(five=(0, 120, 5, 4, .4), two=(1, 60, 2, 2, .1), many=(2, 90, 12, 3, .8), poor_model=(3, 80, 4, 3, .3))

def case(name):
    "Labels with gaps and probabilities, drawn as they were for cleanlab; the true labels"
    seed,n,j,k,missing = CASES[name]
    rng = np.random.default_rng(seed)
    true,right = rng.integers(0, k, n),rng.uniform(.3, .95, j)
    votes = np.where(rng.random((n, j)) < right, true[:,None], rng.integers(0, k, (n, j)))
    gone = rng.random((n, j)) < missing
    gone[np.arange(n), rng.integers(0, j, n)] = False
    z = rng.normal(size=(n, k))*1.2 + (0 if name == 'poor_model' else 2)*np.eye(k)[true]
    return np.where(gone, -1, votes), np.exp(z)/np.exp(z).sum(1, keepdims=True), true

@pytest.mark.parametrize('name', CASES)
def test_numbers_are_those_of_cleanlab(name):
    labels,probs,_ = case(name)
    found,stored = crowdlab(labels, probs),STORED[name]
    assert found.consensus.tolist() == stored['consensus'] and found.n_labels.tolist() == stored['n_labels']
    assert majority_vote(labels, probs.shape[1], probs).tolist() == stored['majority']
    for key in ('quality', 'agreement', 'weights', 'model_weight'):
        np.testing.assert_allclose(getattr(found, key), stored[key], atol=2e-6, err_msg=key)
    table = found.annotators.loc[stored['annotators']]
    np.testing.assert_allclose(table.quality, stored['annotator_quality'], atol=2e-6)
    np.testing.assert_allclose(table.agreement, stored['annotator_agreement'], atol=2e-6)
    assert table.worst_class.tolist() == stored['worst_class'] and list(found.annotators.index) == stored['annotators']
    expected = np.array(stored['label_quality'], dtype=float)
    np.testing.assert_allclose(found.label_quality[:8], expected, atol=2e-6)

def test_agreement_by_a_naive_loop():
    labels,_,_ = case('many')
    for j,found in enumerate(annotator_agreement(labels)):
        pairs = [(labels[i, j], o) for i in range(len(labels)) for m,o in enumerate(labels[i])
                 if m != j and o >= 0 and labels[i, j] >= 0]
        assert found == pytest.approx(np.mean([a == b for a,b in pairs]))

def test_posterior_by_a_naive_loop():
    labels,probs,_ = case('five')
    rng = np.random.default_rng(1)
    consensus,weights,model_weight = labels.max(1),rng.random(5),1.3
    several = (labels >= 0).sum(1) > 1
    agree = agreement_with(labels, consensus)[several].mean()
    found = consensus_posterior(labels, probs, consensus, weights, model_weight)
    for i,row in enumerate(labels):
        said = [(weights[j], o) for j,o in enumerate(row) if o >= 0]
        for k in range(4):
            parts = [w*(agree if o == k else (1 - agree)/3) for w,o in said] + [model_weight*probs[i, k]]
            assert found[i, k] == pytest.approx(sum(parts)/(model_weight + sum(w for w,_ in said)))

def test_votes():
    labels = np.array([[0, 0, 1], [2, -1, -1], [0, 1, -1], [1, 2, -1], [0, 1, 2]])
    assert majority_vote(labels, 3).tolist() == [0, 2, 0, 2, 2] # 4 x 0, 4 x 1, 3 x 2 in all
    probs = np.array([[.1, .8, .1]]*5)
    assert majority_vote(labels, 3, probs).tolist() == [0, 2, 1, 1, 1]

def test_one_annotator_who_counts_is_given_back():
    labels,probs,_ = case('five')
    own = labels[labels[:,0] >= 0]
    found = consensus_posterior(own[:,:2], probs[labels[:,0] >= 0], own[:,0], np.array([1., 0]), 0.)
    assert (found.argmax(1) == own[:,0]).all()

def test_the_order_of_samples_and_annotators_does_not_matter():
    labels,probs,_ = case('many')
    rng = np.random.default_rng(0)
    rows,columns = rng.permutation(len(labels)),rng.permutation(labels.shape[1])
    one,two = crowdlab(labels, probs),crowdlab(labels[rows][:,columns], probs[rows], names=columns)
    np.testing.assert_allclose(one.posterior[rows], two.posterior)
    np.testing.assert_allclose(one.annotators.quality.sort_index(), two.annotators.quality.sort_index())

def test_consensus_is_better_than_votes_and_model():
    rng = np.random.default_rng(0)
    n,k = 2000,4
    true,right = rng.integers(0, k, n),np.array([.9, .8, .7, .3, .2])
    labels = np.where(rng.random((n, 5)) < right, true[:,None], rng.integers(0, k, (n, 5)))
    labels[rng.random((n, 5)) < .4] = -1
    labels[(labels < 0).all(1), 0] = 0
    z = 3*np.eye(k)[true] + rng.normal(size=(n, k))*1.5
    probs = np.exp(z)/np.exp(z).sum(1, keepdims=True)
    found = crowdlab(labels, probs)
    others = majority_vote(labels, k),majority_vote(labels, k, probs),probs.argmax(1)
    assert (found.consensus == true).mean() > max((o == true).mean() for o in others) + .015
    assert list(found.annotators.index) == [4, 3, 2, 1, 0] # by their quality
    assert np.mean(found.quality[found.consensus == true]) > np.mean(found.quality[found.consensus != true]) + .1

def test_one_who_shares_no_sample():
    "His weight is the mean of the others, his quality what the posterior says"
    labels,probs,_ = case('five')
    labels[:] = np.where(np.arange(120)[:,None] < 20, -1, labels)
    labels[:20, 4],labels[20:, 4],labels[20:, 0] = 1,-1,0
    found = crowdlab(labels, probs, names=list('abcde'), vocab=['w', 'x', 'y', 'z'])
    assert annotator_agreement(labels)[4] == pytest.approx(annotator_agreement(labels)[:4].mean())
    assert found.annotators.quality['e'] == pytest.approx(found.posterior[:20, 1].mean())
    assert set(found.annotators.worst_class) <= {'w', 'x', 'y', 'z'} and np.isfinite(found.annotators.quality).all()

@pytest.mark.parametrize('labels, says', [
    ([0, 1], 'one column per annotator'), ([[.5, 1]], 'integers'), ([[0, 9]]*2, 'ids from 0 to 9; give -1 .none. to 1'),
    ([[0, -2]], 'ids from -2'), ([[0, 1], [-1, -1]], 'sample 1 has no label'),
    ([[0, -1], [1, -1]], 'b labelled nothing'), ([[0], [1]], 'one annotator only'),
    ([[0, -1], [-1, 1]], 'no sample has labels of two')])
def test_labels_that_cannot_be_used(labels, says):
    names = list('ab')[:np.shape(labels)[-1]]
    with pytest.raises(ValueError, match=says): crowdlab(labels, np.full((len(labels), 2), .5), names=names)

def test_other_bad_input():
    labels = [[0, 1], [1, 1]]
    for probs,says in ((np.full((3, 2), .5), r'give \(2, 2\)'), (np.full((2, 2), 3.), 'sum to 1'),
                       (np.full((2, 2), np.nan), 'sum to 1')):
        with pytest.raises(ValueError, match=says): crowdlab(labels, probs)
    with pytest.raises(ValueError, match='names: 3, but there are 2'):
        crowdlab(labels, np.full((2, 2), .5), names=list('abc'))
    with pytest.raises(ValueError, match='1 class, and two are needed'): check_votes([[0, 0]])

def test_cleanlab_itself():
    "Where it is installed, against the package and not the stored values"
    cleanlab = pytest.importorskip('cleanlab.multiannotator')
    labels,probs,_ = case('five')
    theirs = cleanlab.get_label_quality_multiannotator(np.where(labels < 0, np.nan, labels), probs, verbose=False)
    found = crowdlab(labels, probs)
    assert found.consensus.tolist() == theirs['label_quality'].consensus_label.tolist()
    np.testing.assert_allclose(found.annotators.quality, theirs['annotator_stats'].annotator_quality)

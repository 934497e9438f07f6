"Scores against loops over recorded predictions, gradient norms against one backward pass per sample."
import copy, math
import numpy as np, pandas as pd, pytest, torch
import torch.nn.functional as F
from torch import nn
from helpers import by_hand
from fastnoisy.core.sample_loss import Labels
from fastnoisy.models import small_cnn
from fastnoisy.analysis.ranking import to_quality
from fastnoisy.analysis.training_dynamics import (SCORES, Score, ScoreState, batch_signals, error_norm,
                                                  label_probability, last_layer_norms, loss_bound, margin,
                                                  model_norms, register_score, soft_truncated)

CHEAP = ['loss', 'running_loss', 'confidence', 'variability', 'aleatoric', 'aum', 'el2n', 'forgetting', 'wrong_events',
         'first_learnt', 'cnlcu']

def recording(n=30, epochs=7, k=4, dtype=torch.float64, seed=0):
    "Logits (epochs, n, k) that drift towards the label, and labels (n,)"
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(k, (n,), generator=g)
    drift = torch.linspace(0, 2, epochs)[:,None,None] * F.one_hot(y, k)
    return (2*torch.randn(epochs, n, k, generator=g) + drift).to(dtype), y

def play(logits, y, scores=CHEAP, bs=8, state=None):
    "Feed a recording to a state, in shuffled batches"
    state = state or ScoreState(len(y), scores)
    for epoch,z in enumerate(logits):
        for ids in torch.randperm(len(y), generator=torch.Generator().manual_seed(epoch)).split(bs):
            state.update(ids, **batch_signals(z[ids], F.cross_entropy(z[ids], y[ids], reduction='none'), y[ids]))
    return state

# scores

@pytest.mark.parametrize('dtype, tol', [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize('k', [2, 5])
def test_every_score_in_a_loop(dtype, tol, k):
    logits,y = recording(k=k, dtype=dtype)
    raw = play(logits, y).raw()
    assert list(raw) == CHEAP and all(SCORES[o].cheap for o in CHEAP)
    for i in range(len(y)):
        for name,expected in by_hand(logits[:,i], y[i].item()).items():
            eps = max(tol, 1e-6) if name == 'loss' else tol # a last value, 32 bits
            assert raw[name][i] == pytest.approx(expected, rel=eps, abs=eps), name
    assert len(set(raw['forgetting'])) > 2 # the recording has something to forget

def test_aum_as_the_aum_package_defines_it():
    "A dictionary of sums and counts, filled sample by sample; float32, unequal numbers of observations"
    logits,y = recording(n=200, epochs=40, k=10, dtype=torch.float32)
    logits = 5*logits
    sums,counts,state = {},{},ScoreState(200, 'aum')
    g = torch.Generator().manual_seed(1)
    for z in logits:
        ids = torch.randperm(200, generator=g)[:120]
        state.update(ids, **batch_signals(z[ids], F.cross_entropy(z[ids], y[ids], reduction='none'), y[ids]))
        for i in ids.tolist():
            row = z[i].tolist()
            sums[i] = sums.get(i, 0.) + row[y[i]] - max(row[:y[i]] + row[y[i]+1:])
            counts[i] = counts.get(i, 0) + 1
    aum = state.raw()['aum']
    assert len(set(counts.values())) > 3
    for i in sums: assert abs(aum[i] - sums[i]/counts[i]) < 1e-5

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_variability_of_probabilities_that_hardly_vary(dtype):
    "Mean square minus squared mean cancels nearly all digits here"
    p = (1 - 1e-6*torch.rand(200, 5, dtype=torch.float64)).to(dtype)
    state = ScoreState(5, ['variability'])
    for row in p: state.update(torch.arange(5), p=row)
    np.testing.assert_allclose(state.raw()['variability'], p.double().numpy().std(0), atol=2e-8)

def test_error_norm_of_confident_predictions():
    logits = torch.tensor([[9., 0., 0.], [12., 1., 0.]])
    expected = error_norm(logits.double().softmax(1), torch.zeros(2).long())
    torch.testing.assert_close(error_norm(logits.softmax(1), torch.zeros(2).long()).double(), expected, rtol=.05, atol=0)

def test_margin_ignores_the_label_itself_and_sees_ties():
    z = torch.tensor([[1., 3., 3.], [2., 2., 2.], [-5., -9., -7.]])
    assert margin(z, torch.tensor([1, 0, 1])).tolist() == [0., 0., -4.]

def test_soft_truncation():
    x = torch.tensor([0., 1e-8, 1., 1e4], dtype=torch.float64)
    torch.testing.assert_close(soft_truncated(x), torch.tensor([0., 1e-8, math.log(2.5), math.log(1 + 1e4 + 5e7)], dtype=torch.float64))

def test_loss_bound():
    mean,seen = torch.tensor([1., 1., 1.], dtype=torch.float64),torch.tensor([10., 5., 1.], dtype=torch.float64)
    expected = [1 - .01*(10 + .01*math.log(20)/100)/(n - .01) for n in (10, 5, 1)]
    np.testing.assert_allclose(loss_bound(mean, seen, 10, variance=.01), expected)
    assert loss_bound(mean, seen, 10, variance=0.).tolist() == [1.]*3

def test_cnlcu_compares_with_the_sample_seen_most_often():
    logits,y = recording(n=2, epochs=6)
    state = ScoreState(2, ['cnlcu'])
    for t,z in enumerate(logits):
        ids = torch.tensor([0, 1] if t < 2 else [0])
        state.update(ids, **batch_signals(z[ids], F.cross_entropy(z[ids], y[ids], reduction='none'), y[ids]))
    for i,n in enumerate((6, 2)): assert state.raw()['cnlcu'][i] == pytest.approx(by_hand(logits[:n,i], y[i].item(), times=6)['cnlcu'], abs=1e-7)

@pytest.mark.parametrize('labels', ['soft', 'blended'])
def test_signals_of_labels_that_are_averaged(labels):
    z,y = recording(n=6, epochs=1, k=3)
    z = z[0].float()
    probs,losses = z.softmax(1),torch.rand(6)
    if labels == 'soft':
        q = torch.rand(6, 3).softmax(1)
        average = Labels((y,), soft=q).average
        share = lambda i: [(k, q[i,k].item()) for k in range(3)]
    else:
        class Mixer: yb1,lam = ((y+1) % 3,),torch.rand(6)
        average = Labels((y,), mixer=Mixer).average
        share = lambda i: [(y[i].item(), Mixer.lam[i].item()), ((y[i].item()+1) % 3, 1-Mixer.lam[i].item())]
    got = batch_signals(z, losses, y, average)
    for i in range(6):
        one = lambda f, v: sum(w*f(v[i:i+1], torch.tensor([k])).item() for k,w in share(i))
        p = one(label_probability, probs)
        expected = dict(loss=losses[i], p=p, p_max=probs[i].max(), margin=one(margin, z), error_norm=one(error_norm, probs),
                        wrong=z[i].argmax() != y[i])
        for k,v in expected.items(): assert got[k][i].item() == pytest.approx(float(v), abs=1e-5), k

# the state

def test_an_id_twice_in_a_batch():
    "Both count in the sums, the last value is their mean, and right means right both times"
    state = ScoreState(3, ['loss', 'running_loss', 'forgetting', 'wrong_events'])
    def step(ids, loss, wrong): state.update(torch.tensor(ids), loss=torch.tensor(loss), wrong=torch.tensor(wrong))
    step([0, 1, 0], [1., 5., 3.], [0., 0., 0.]) # 0 right twice
    raw = state.raw()
    assert raw['loss'][:2].tolist() == [2., 5.] and raw['running_loss'][:2].tolist() == [2., 5.]
    step([0, 0, 1], [4., 8., 1.], [1., 0., 0.]) # 0 right once only: forgotten
    assert state.raw()['forgetting'][:2].tolist() == [1., 0.] and state.raw()['loss'][:2].tolist() == [6., 1.]
    step([0, 0], [1., 1.], [1., 1.])            # still wrong: not forgotten again
    raw = state.raw()
    assert raw['forgetting'][:2].tolist() == [1., 0.] and raw['wrong_events'][:2].tolist() == [3., 0.]
    assert raw['loss'][:2].tolist() == [1., 1.] and raw['running_loss'][:2].tolist() == [pytest.approx(18/6), 3.]
    assert state.seen.tolist() == [6., 2., 0.]

@pytest.mark.parametrize('right, expected', [('1100', 2), ('0110', 3), ('1010', 5), ('0000', 5), ('0111', 3), ('1001', 5)])
def test_first_learnt_is_the_second_time_running(right, expected):
    state = ScoreState(2, ['first_learnt'])
    for o in right: state.update(torch.tensor([1]), wrong=torch.tensor([1. - int(o)]))
    raw = state.raw()['first_learnt']
    assert raw[1] == expected and np.isnan(raw[0])

def test_a_state_of_before_first_learnt_is_read():
    old = {k: v for k,v in play(*recording()).state_dict().items() if k not in ('streak', 'learnt')}
    state = ScoreState(30, CHEAP)
    state.load_state_dict(old)
    assert (state.learnt == 0).all() and (state.seen == 7).all()

def test_order_within_a_batch_does_not_matter():
    logits,y = recording(n=20, epochs=6)
    a,b = ScoreState(20, CHEAP),ScoreState(20, CHEAP)
    g = torch.Generator().manual_seed(0)
    for z in logits:
        ids = torch.randint(20, (40,), generator=g) # with replacement
        noise = torch.randn(40, 4, generator=g)
        rows = z[ids] + noise
        signals = batch_signals(rows, F.cross_entropy(rows, y[ids], reduction='none'), y[ids])
        a.update(ids, **signals)
        i = torch.randperm(40, generator=g)
        b.update(ids[i], **{k: v[i] for k,v in signals.items()})
    for o in CHEAP: np.testing.assert_allclose(a.raw()[o], b.raw()[o], rtol=1e-6)

def test_permuting_the_samples_permutes_the_scores():
    logits,y = recording()
    i = torch.randperm(len(y))
    a,b = play(logits, y).to_frame(),play(logits[:,i], y[i]).to_frame()
    for o in a.columns[2:]: np.testing.assert_allclose(b[o], a[o].values[i], rtol=1e-6)

def test_samples_that_were_never_seen():
    logits,y = recording(n=10)
    state = ScoreState(12, CHEAP)
    assert state.to_frame().iloc[:,2:].isna().all(axis=None) # nothing at all yet
    play(logits, y, state=state)
    frame = state.to_frame()
    assert frame.seen.tolist() == [7]*10 + [0]*2
    assert frame.iloc[:10].notna().all(axis=None) and frame.iloc[10:,2:].isna().all(axis=None)

def test_frame():
    frame = play(*recording(), scores=['aum', 'loss']).to_frame()
    assert list(frame) == ['sample_id', 'seen', 'aum', 'loss', 'aum_quality', 'loss_quality']
    assert frame.sample_id.tolist() == list(range(30))
    assert frame.aum.idxmin() == frame.aum_quality.idxmin() and frame.loss.idxmax() == frame.loss_quality.idxmin()
    assert frame.aum_quality.min() == 0 and frame.aum_quality.max() == 1

def test_only_what_is_needed_is_kept_and_nothing_grows():
    size = lambda s: sum(o.numel()*o.element_size() for o in (s.sums, s.last, s.forgotten, s.streak, s.learnt))
    assert size(ScoreState(1000, 'aum')) == 1000*(2*8 + 4 + 4)
    state = ScoreState(30, CHEAP)
    before = size(state)
    play(*recording(epochs=9, k=7), state=state)
    assert size(state) == before < 30*100

def test_merge_of_disjoint_parts_is_the_whole():
    logits,y = recording()
    whole,a,b = play(logits, y),ScoreState(30, CHEAP),ScoreState(30, CHEAP)
    for z in logits:
        for state,ids in ((a, torch.arange(0, 12)), (b, torch.arange(12, 30))):
            state.update(ids, **batch_signals(z[ids], F.cross_entropy(z[ids], y[ids], reduction='none'), y[ids]))
    a.merge(b)
    for o in CHEAP: np.testing.assert_allclose(a.raw()[o], whole.raw()[o])

def test_merge_of_consecutive_parts():
    logits,y = recording()
    whole,a,b = play(logits, y),play(logits[:3], y),play(logits[3:], y)
    a.merge(b)
    for o in CHEAP:
        if o not in ('forgetting', 'first_learnt'): np.testing.assert_allclose(a.raw()[o], whole.raw()[o])
    assert (a.raw()['forgetting'] <= whole.raw()['forgetting']).all()
    late,expected = a.raw()['first_learnt'],whole.raw()['first_learnt'] # what happens between the parts is lost
    assert (late >= expected).all() and (late == expected)[expected <= 3].all()

def test_saved_state_goes_on_where_it_stopped():
    logits,y = recording()
    first = play(logits[:3], y)
    sd = first.state_dict()
    kept = copy.deepcopy(sd)
    play(logits[3:], y, state=first)
    assert all(torch.equal(sd[o], kept[o]) for o in ('sums', 'last', 'forgotten', 'streak', 'learnt')) # a copy, not a view
    again = ScoreState(30, CHEAP)
    again.load_state_dict(sd)
    play(logits[3:], y, state=again)
    for o in CHEAP: np.testing.assert_array_equal(again.raw()[o], first.raw()[o])

def test_an_accelerator_need_not_wait():
    "The meta device has shapes and no values: whatever would read one back is an error there"
    z,y = torch.empty(8, 5, device='meta'),torch.empty(8, dtype=torch.long, device='meta')
    state = ScoreState(100, CHEAP, device='meta')
    state.update(torch.empty(8, dtype=torch.long, device='meta'), **batch_signals(z, torch.empty(8, device='meta'), y))
    with pytest.raises((RuntimeError, NotImplementedError)): state.sums.sum().item()

def test_score_of_ones_own():
    register_score(Score('hesitation', lambda s: 1 - s.mean('p_max'), True, sums=('p_max',)))
    try:
        logits,y = recording()
        raw = play(logits, y, scores='hesitation').raw()['hesitation']
        np.testing.assert_allclose(raw, 1 - logits.softmax(2).amax(2).mean(0), rtol=1e-6)
    finally: del SCORES['hesitation']

@pytest.mark.parametrize('call, match', [
    (lambda: ScoreState(3, ['aum', 'area']), "unknown \\['area'\\]"),
    (lambda: ScoreState(3, []), 'choose from'),
    (lambda: ScoreState(3, ['aum', 'loss']).update(torch.tensor([0]), margin=torch.ones(1)), "signals \\['loss'\\]"),
    (lambda: ScoreState(3, 'aum').merge(ScoreState(4, 'aum')), 'both must be the same'),
    (lambda: ScoreState(3, 'aum').merge(ScoreState(3, 'loss')), 'both must be the same'),
    (lambda: ScoreState(3, 'aum').load_state_dict(ScoreState(3, 'loss').state_dict()), 'both must be the same')])
def test_mistakes(call, match):
    with pytest.raises(ValueError, match=match): call()

# gradients

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('bias', [True, False])
def test_last_layer_norms_one_by_one(dtype, bias):
    layer,h,y = nn.Linear(5, 3, bias=bias, dtype=dtype),torch.randn(6, 5, dtype=dtype),torch.randint(3, (6,))
    z = layer(h)
    losses = F.cross_entropy(z, y, reduction='none', label_smoothing=.1)
    delta = torch.autograd.grad(losses.sum(), z, retain_graph=True)[0]
    got = last_layer_norms(delta, h, bias)
    for i,loss in enumerate(losses):
        grads = torch.autograd.grad(loss, list(layer.parameters()), retain_graph=True)
        torch.testing.assert_close(got[i], torch.cat([o.flatten() for o in grads]).norm())

def norms_one_by_one(model, xb, losses_of):
    model = copy.deepcopy(model).eval()
    params = [p for p in model.parameters() if p.requires_grad]
    return torch.stack([torch.cat([g.flatten() for g in torch.autograd.grad(loss, params, retain_graph=True)]).norm() for loss in losses_of(model(*xb))])

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('chunk_size', [1, 4, 100])
def test_model_norms_one_by_one(dtype, chunk_size):
    "Convolutions, BatchNorm, inplace ReLU, dropout; soft labels"
    model = nn.Sequential(small_cnn(1, 4), nn.Dropout()).to(dtype)
    x,q = torch.rand(6, 1, 8, 8, dtype=dtype),torch.rand(6, 4, dtype=dtype).softmax(1)
    model(x) # running statistics that are not the first ones
    losses_of = lambda pred: F.cross_entropy(pred, q, reduction='none')
    torch.testing.assert_close(model_norms(model, (x,), losses_of, chunk_size), norms_one_by_one(model, (x,), losses_of), rtol=1e-4, atol=1e-6)

def test_model_norms_leave_no_trace():
    model,x,y = small_cnn(1, 4),torch.rand(6, 1, 8, 8),torch.randint(4, (6,))
    model[1].eval()
    before,random = copy.deepcopy(model.state_dict()),torch.get_rng_state()
    with torch.no_grad(): model_norms(model, (x,), lambda pred: F.cross_entropy(pred, y, reduction='none'))
    assert all(torch.equal(v, before[k]) for k,v in model.state_dict().items()) and torch.equal(torch.get_rng_state(), random)
    assert [m.training for m in model.children()] == [True, False] + [True]*4 and all(p.grad is None for p in model.parameters())

def test_model_norms_of_what_is_trained_only_and_several_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a,self.b = nn.Linear(3, 4),nn.Linear(2, 4)
        def forward(self, u, v): return self.a(u) * self.b(v)
    model,xb,y = Two(),(torch.randn(5, 3), torch.randn(5, 2)),torch.randint(4, (5,))
    losses_of = lambda pred: F.cross_entropy(pred, y, reduction='none')
    full = model_norms(model, xb, losses_of)
    model.a.requires_grad_(False)
    part = model_norms(model, xb, losses_of)
    torch.testing.assert_close(part, norms_one_by_one(model, xb, losses_of))
    assert (part < full).all()

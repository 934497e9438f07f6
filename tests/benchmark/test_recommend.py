"The race: who goes on, who wins, what a tie is, what is trained and what is not trained again"
from functools import partial
from types import SimpleNamespace
import numpy as np, pandas as pd, pytest, torch
from fastai.basics import Callback, L
from fastai.tabular.all import CategoryBlock, Categorify, Normalize, TabularDataLoaders
from fastnoisy.benchmark.recommend import (Race, Seen, Stage, TOLD, everything, n_kept, parse_budget, race_cost,
                                           recommend, run_stage, seeds_difference, stages_of, train_recipe)
from fastnoisy.benchmark.recommend import _run_race, _why_noise, _winner
from fastnoisy.core.registry import METHODS, register_method
from fastnoisy.data.digits import digits_dls
from helpers import blob_dls, blobs, noisy_dls, small_model, weights_of

QUICK = dict(recipes=['also', 'elr'], epochs=4, lr=.1, tell=str)

def model(k=3): return small_model(k=k, seed=torch.randint(10**6, (1,)).item())

# one training

@pytest.mark.parametrize('recipe', ['ce', 'elr', 'also', 'co-teaching', 'gce+also'])
def test_a_training_in_stages_is_one_training(recipe, tmp_path):
    def run(folder, *stops):
        for a,b in zip((0, *stops), stops):
            res = run_stage((noisy_dls(), model), Stage(recipe, 3, a, b, 4, .1, str(tmp_path/folder)))
            assert res['error'] is None
        return res,torch.load(tmp_path/folder/'models'/f'{Stage(recipe, 3, 0, 0, 0, 0., "").name}-best.pth')
    (one,weights),(two,others) = run('one', 4),run('two', 1, 2, 4)
    assert (one['classes'][-2:] == two['classes']).all() and one['best_epoch'] == two['best_epoch']
    assert len(one['classes']) == 4 and (one['probs'] == two['probs']).all() and (one['given'] == two['given']).all()
    assert all(torch.equal(v, others[k]) for k,v in weights.items())

def test_a_diverging_training_says_so(tmp_path):
    res = run_stage((noisy_dls(), model), Stage('ce', 0, 0, 2, 2, float('nan'), str(tmp_path)))
    assert res['error'] == 'it diverged' and res['classes'] is None

def test_same_arguments_same_model():
    dls = noisy_dls()
    a,b,c = (train_recipe(dls, model, 'elr', 3, .1, seed) for seed in (1, 1, 2))
    same = [torch.equal(weights_of(a.model), weights_of(o.model)) for o in (b, c)]
    assert same == [True, False]
    assert len(a.dls.train.dataset) == 296 and len(a.dls.valid.dataset) == 200
    stopped = train_recipe(dls, model, 'elr', 3, .1, 1, stop=2)
    assert len(stopped.recorder.values) == 2 and stopped.recorder.losses[:10] == a.recorder.losses[:10]

# everything

def seen(dls):
    "What the training loader gives in an epoch, sorted"
    return torch.cat([_sums(o) for o in dls.train.new(shuffle=False, drop_last=False)]).sort().values

def _sums(b): return (b[1] if len(b) == 3 else b[0]).flatten(1).float().sum(1) # of a table the numbers

def table_dls():
    x,y = blobs(120)
    df = pd.DataFrame(x.numpy(), columns=list('abcd')).assign(e=['x', 'y']*60, y=y.numpy())
    names = dict(cat_names=['e'], cont_names=list('abcd'), y_names='y', y_block=CategoryBlock())
    return TabularDataLoaders.from_df(df, procs=[Categorify, Normalize], **names, valid_idx=range(80, 120), bs=16,
                                      device='cpu')

@pytest.mark.parametrize('make', [noisy_dls, blob_dls, lambda: digits_dls(device='cpu'), table_dls])
def test_everything_is_both_parts(make):
    dls = make()
    both = everything(dls)
    n = [len(o.dataset) for o in dls.loaders[:2]]
    parts = [o.new(shuffle=False, drop_last=False) for o in dls.loaders[:2]]
    values = torch.cat([_sums(b) for o in parts for b in o])
    assert len(both.train.dataset) == sum(n) and len(dls.train.dataset) == n[0]
    torch.testing.assert_close(seen(both), values.sort().values)

# who goes on

class Fake:
    "A race whose trainings are drawn: of `n` samples a recipe gets a share right"
    def __init__(self, tmp_path, shares, budget=6., epochs=8, n=1000, fails=()):
        self.shares,self.n,self.fails = shares,n,fails
        self.done,self.rng = [],np.random.default_rng(0)
        tmp_path.mkdir(exist_ok=True)
        self.race = Race(None, None, list(shares), budget, epochs, .1, 0, tmp_path, self.run, str)
        self.noise = self.rng.random(n)

    def run(self, calls):
        for stage, in calls:
            self.done.append((stage.recipe, stage.seed, stage.start, stage.stop))
            right = (self.noise + .05*self.rng.standard_normal(self.n)) < self.shares[stage.recipe]
            error = 'x' if stage.recipe in self.fails else None
            res = dict(accuracy=right.mean(), best_epoch=stage.stop - 1, error=error, seconds=stage.stop - stage.start)
            classes = np.tile(np.where(right, 0, 1), (stage.stop - stage.start, 1))
            yield (stage,),dict(res, classes=classes, given=np.zeros(self.n, int), probs=self.probs(classes[0]))

    def probs(self, classes): return None # then noisy accuracy alone decides

    def result(self): return _winner(self.race, _run_race(self.race))

def test_the_best_wins(tmp_path):
    fake = Fake(tmp_path, dict(ce=.5, a=.55, b=.8, c=.6, d=.4))
    name,d,se = fake.result()
    assert name == 'b' and d == pytest.approx(.3, abs=.03) and se < .02
    assert fake.race.status['d'] == 'out after epoch 4' and fake.race.status['a'] == 'out after epoch 4'

def test_plain_wins_ties_and_is_never_out(tmp_path):
    name,d,se = Fake(tmp_path, dict(ce=.7, a=.7, b=.69)).result()
    assert name == 'ce' and abs(d) <= se
    fake = Fake(tmp_path/'x', dict(ce=.2, a=.9)) # hopeless, but plain
    assert fake.result()[0] == 'a' and ('ce', 0, 6, 8) in fake.done

def test_plain_wins_where_others_are_worse(tmp_path):
    fake = Fake(tmp_path, dict(ce=.8, a=.5, b=.4, c=.3))
    assert fake.result()[0] == 'ce'
    assert sum(o[0] != 'ce' for o in fake.done) == 3 # hopeless ones are out at once

class Close(Fake):
    "Plain training has half of the samples right; the other recipe 16 of them not, and some others: its share"
    def run(self, calls):
        for (stage,),res in super().run(calls):
            right = np.arange(self.n) < 500
            if stage.recipe != 'ce': right[:16],right[500:500 + int(self.shares[stage.recipe])] = False,True
            yield (stage,),dict(res, classes=np.tile(np.where(right, 0, 1), (stage.stop - stage.start, 1)))

@pytest.mark.parametrize('more,expected', [(20, 'ce'), (30, 'a')])
def test_what_is_hardly_ahead_is_not_told(tmp_path, more, expected):
    "4 samples are .7 standard errors, 14 are 2.1"
    name,d,se = Close(tmp_path, dict(ce=500, a=more), budget=2).result()
    assert name == expected and d == pytest.approx((more - 16)/1000)
    assert d > 0 and (d > TOLD*se) == (expected == 'a')

def test_no_stage_twice_and_seeds_for_the_last_two(tmp_path):
    fake = Fake(tmp_path, dict(ce=.5, a=.55, b=.6, c=.52, d=.51), budget=9)
    fake.result()
    assert len(set(fake.done)) == len(fake.done)
    assert {o[:2] for o in fake.done if o[1]} == {(r, s) for r in ('ce', 'b') for s in range(1, 3)}
    assert fake.race.spent <= 9.2

@pytest.mark.parametrize('budget', [1, 2, 3, 4, 6, 12])
def test_budget_is_kept(tmp_path, budget):
    fake = Fake(tmp_path, dict(ce=.5, a=.55, b=.6, c=.52, d=.51), budget)
    fake.result()
    assert fake.race.spent <= budget*1.05
    if budget == 1: assert {o[0] for o in fake.done} == {'ce'}

def test_those_who_fail_are_out(tmp_path):
    fake = Fake(tmp_path, dict(ce=.5, a=.9, b=.6), fails=['a'])
    assert fake.result()[0] == 'b' and fake.race.status['a'] == 'failed: x'
    with pytest.raises(ValueError, match='Plain training does not work: failed: x'):
        Fake(tmp_path/'x', dict(ce=.5, a=.9), fails=['ce']).result()

def test_error_of_the_difference():
    rng = np.random.default_rng(1)
    a,b = rng.random((2, 4, 300)) < .7
    d,se = seeds_difference(a, b)
    by_sample = (a.mean(0) - b.mean(0)).std()/300**.5
    by_seed = (a.mean(1) - b.mean(1)).std(ddof=1)/2
    assert d == pytest.approx(a.mean() - b.mean()) and se == pytest.approx((by_sample**2 + by_seed**2)**.5)

def test_stages_and_costs():
    assert [stages_of(o) for o in (1, 2, 3, 8)] == [[1], [1, 2], [2, 3], [4, 6, 8]]
    assert race_cost([1], 8) == 1 and race_cost([1, 1], 8) == 2 and race_cost([1, 3, 1, 1], 8) == 6/2 + 4/4 + 4/4
    assert [n_kept(o, 2) for o in (1, 4, 9)] == [1, 2, 4] and n_kept(9, 1) == n_kept(9, 0) == 1

# the judge

class Known(Fake):
    "Four classes, a share of the given labels wrong; a recipe's share is that of its predictions that are true"
    def __init__(self, tmp_path, shares, wrong=.4, **kwargs):
        super().__init__(tmp_path, shares, **kwargs)
        self.true = self.rng.integers(4, size=self.n)
        noise = np.where(self.rng.random(self.n) < wrong, self.rng.integers(1, 4, self.n), 0)
        self.given = (self.true + noise) % 4

    def run(self, calls):
        for stage, in calls:
            self.done.append((stage.recipe, stage.seed, stage.start, stage.stop))
            wrong = self.rng.random(self.n) > self.shares[stage.recipe]
            said = (self.true + np.where(wrong, self.rng.integers(1, 4, self.n), 0)) % 4
            res = dict(accuracy=np.mean(said == self.given), best_epoch=stage.stop - 1, error=None, seconds=1.)
            classes = np.tile(said, (stage.stop - stage.start, 1))
            probs = (.6*np.eye(4)[said] + .1).astype(np.float16)
            yield (stage,),dict(res, classes=classes, given=self.given, probs=probs)

def test_expected_accuracy_is_in_the_order_of_the_true_one(tmp_path):
    fake = Known(tmp_path, dict(ce=.75, a=.85, b=.8, c=.8), n=2000)
    assert fake.result()[0] == 'a'
    q = fake.race.posterior()
    assert np.mean(q.argmax(1) == fake.true) > .91 # more than any recipe, and than the labels
    expected = {o: fake.race.scores(o, q).mean() for o in fake.race.seen}
    assert expected['a'] > max(expected['b'], expected['c']) > expected['ce']
    for o,by_seed in fake.race.seen.items():
        noisy = np.mean([seen.classes[-1] == fake.given for seen in by_seed.values()])
        assert fake.race.scores(o).mean() == pytest.approx(noisy) and expected[o] > noisy

@pytest.mark.parametrize('better', ['ce', 'a'])
def test_it_sees_what_noisy_accuracy_does_not(tmp_path, better):
    "Over races with 200 labels, 40 % of them wrong: the better one is found, more errors apart than by noisy accuracy"
    found,apart = [],[]
    for i in range(12):
        fake = Known(tmp_path/str(i), dict(ce=.8, a=.8, b=.75) | {better: .88}, n=200)
        fake.rng = np.random.default_rng(i)
        found.append(fake.result()[0])
        seeds = sorted(set(fake.race.seen['ce']) & set(fake.race.seen['a']))
        if not seeds: continue
        def difference(q): return seeds_difference(*(fake.race.scores(o, q, seeds) for o in ('a', 'ce')))
        by = [difference(q) for q in (None, fake.race.posterior())]
        apart.append([d/se for d,se in by])
    noisy,expected = np.abs(np.mean(apart, 0))
    assert found.count(better) >= 10 and expected > 1.2*noisy

def test_plain_wins_ties_there_too(tmp_path):
    names = [Known(tmp_path/str(i), dict(ce=.8, a=.8), n=200, wrong=w).result()[0] for i,w in enumerate((0, .2, .4))]
    assert names.count('ce') >= 2

@pytest.mark.parametrize('n, wrong', [(2000, .1), (150, .3)])
def test_plain_wins_where_noisy_accuracy_denies_what_the_others_say(tmp_path, n, wrong):
    "Two of three recipes repeat an error that the labels deny, so that what all say together is wrong"
    fake = Known(tmp_path, dict(ce=.8, a=.8, b=.8), wrong=wrong, n=n)
    def run(calls):
        for stage, in calls:
            said = fake.true if stage.recipe == 'ce' else np.where(fake.true == 0, 1, fake.true)
            res = dict(accuracy=np.mean(said == fake.given), best_epoch=stage.stop - 1, error=None, seconds=1.)
            classes = np.tile(said, (stage.stop - stage.start, 1))
            yield (stage,),dict(res, classes=classes, given=fake.given, probs=np.eye(4, dtype=np.float16)[said])
    fake.race.run = run
    name,d,se = fake.result()
    q = fake.race.posterior()
    assert fake.race.scores('a', q).mean() > fake.race.scores('ce', q).mean() # they agree with each other
    noisy = np.mean(fake.race.scores('a')) - np.mean(fake.race.scores('ce'))
    assert name == 'ce' and d == pytest.approx(noisy) and d < -se

def test_scores_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    classes,given,q = rng.integers(3, size=(6, 20)),rng.integers(3, size=20),rng.dirichlet(np.ones(3), 20)
    for e,weights in ((0, {0: 2, 1: 1}), (3, {2: 1, 3: 2, 4: 1}), (5, {4: 1, 5: 2})):
        seen,total = Seen(classes, given, None, e),sum(weights.values())
        noisy = [sum(w*(classes[j, i] == given[i]) for j,w in weights.items())/total for i in range(20)]
        expected = [sum(w*q[i, classes[j, i]] for j,w in weights.items())/total for i in range(20)]
        np.testing.assert_allclose(seen.scores(), noisy)
        np.testing.assert_allclose(seen.scores(q), expected)

def test_too_many_probabilities_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr('fastnoisy.benchmark.recommend.MOST_PROBS', 10)
    found = recommend(noisy_dls(), model, 6, out=tmp_path, retrain=False, **QUICK)
    assert 'expected' not in found.table and 'probs' not in np.load(next(tmp_path.glob('ce-0-4.npz')))

# the whole

def test_the_answer(tmp_path):
    dls,said = noisy_dls(),[]
    rng = dls.train.rng.getstate()
    torch.manual_seed(5)
    drawn = torch.get_rng_state()
    found = recommend(dls, model, 6, out=tmp_path, **{**QUICK, 'tell': said.append})
    assert torch.equal(drawn, torch.get_rng_state()) and dls.train.rng.getstate() == rng # nothing else notices
    assert found.table.recipe.tolist() == ['ce', 'also', 'elr']
    assert found.table.status.tolist().count('recommended') == 1
    assert (found.recipe == 'ce') == (found.difference <= TOLD*found.error)
    assert found.can_tell or 'No difference can be told' in found.why
    assert found.noise.n >= 96 and 'labels seem to be wrong' in found.why and 'model can learn' in found.why
    assert found.code in repr(found) and found.why in repr(found)
    names = dict(train_recipe=train_recipe, dls=dls, make_model=model)
    exec(found.code, names)
    assert torch.equal(weights_of(names['learn'].model), weights_of(found.learn.model))
    again,n = recommend(dls, model, 6, out=tmp_path, **{**QUICK, 'tell': said.append}),len(said)
    assert len(said) == n and again.table.equals(found.table) # nothing is trained twice

def transition(kind, rate, k=4):
    "P(given | true) of 4 classes: spread over all, all to the next class, or more than half of one class to the next"
    if kind == 'spread': return np.eye(k)*(1 - rate - rate/(k - 1)) + rate/(k - 1)
    rates = np.full(k, rate)
    if kind == 'reversed': rates[0] = .6
    return np.eye(k)*(1 - rates) + np.roll(np.eye(k), 1, 1)*rates[:,None]

@pytest.mark.parametrize('kind,rate,warned', [('spread', .3, False), ('next', .3, True), ('next', .02, False),
                                              ('reversed', .03, True)])
def test_what_may_follow_from_the_inputs_is_said(kind, rate, warned):
    t = transition(kind, rate)
    noise = SimpleNamespace(rate=1 - t.diagonal().mean(), interval=(.01, .6), transition=t)
    said = _why_noise(noise, SimpleNamespace(n_valid=500))
    assert f'{noise.rate:.0%} of the labels seem to be wrong (1% to 60%)' in said
    assert ('CAUTION: such labels may follow from the inputs' in said) == warned
    assert '50 validation labels' in _why_noise(None, SimpleNamespace(n_valid=50))

def test_stopped_and_continued(tmp_path):
    def stop_at(n):
        said = []
        def tell(o):
            said.append(o)
            if len(said) == n: raise KeyboardInterrupt
        return said,tell
    whole,tell = stop_at(-1)
    first = recommend(noisy_dls(), model, 6, out=tmp_path/'whole', retrain=False, **{**QUICK, 'tell': tell})
    said = []
    for n in (1, 3):
        part,tell = stop_at(n)
        with pytest.raises(KeyboardInterrupt):
            recommend(noisy_dls(), model, 6, out=tmp_path/'parts', **{**QUICK, 'tell': tell})
        said += part
    rest,tell = stop_at(-1)
    second = recommend(noisy_dls(), model, 6, out=tmp_path/'parts', retrain=False, **{**QUICK, 'tell': tell})
    columns = ['recipe', 'seed', 'epochs', 'accuracy', 'best_epoch']
    a,b = (pd.read_csv(tmp_path/o/'stages.csv')[columns] for o in ('whole', 'parts'))
    both = a.merge(b, on=columns[:3]) # costs are measured, so one may have had time for a seed more
    assert (both.accuracy_x == both.accuracy_y).all() and len(both) >= 7 and not b.duplicated(columns[:3]).any()
    assert len(said) + len(rest) == len(b)

def test_rows_whose_file_is_gone_are_trained_again(tmp_path):
    recommend(noisy_dls(), model, 1, out=tmp_path, retrain=False, **QUICK)
    next(tmp_path.glob('ce-0-4.npz')).unlink()
    said = []
    recommend(noisy_dls(), model, 1, out=tmp_path, retrain=False, **{**QUICK, 'tell': said.append})
    assert len(said) == 1 and said[0].startswith('ce, seed 0, to epoch 4')

def test_another_race_in_the_folder(tmp_path):
    recommend(noisy_dls(), model, 1, out=tmp_path, retrain=False, **QUICK)
    for dls,options in ((noisy_dls(), dict(lr=.2)), (noisy_dls(share=.1), {})):
        with pytest.raises(ValueError, match='holds a race with other (lr|key)'):
            recommend(dls, model, 1, out=tmp_path, **{**QUICK, **options})

def test_a_recipe_that_fails(tmp_path):
    class Bang(Callback):
        def after_pred(self): raise MemoryError('all full')
    register_method('bang', lambda: dict(cbs=Bang()), '')
    try: found = recommend(noisy_dls(), model, 6, ['bang', 'elr'], 2, .1, out=tmp_path, retrain=False, tell=str)
    finally: METHODS.pop('bang')
    assert found.table.status[1].startswith('failed: MemoryError') and found.recipe in ('ce', 'elr')

# what is wrong is told before any training

def without(dls, c):
    "No validation sample of class `c`"
    dls.loaders[1] = dls.loaders[1].new(L(o for o in dls.loaders[1].dataset if o[1] != c))
    return dls

def alone(dls):
    dls.loaders = dls.loaders[:1]
    return dls

@pytest.mark.parametrize('dls, kwargs, says', [
    (noisy_dls, dict(recipes=['nope']), "'nope' is unknown"), (noisy_dls, dict(recipes=['gjs']), 'gjs needs images'),
    (noisy_dls, dict(recipes=['oracle']), 'needs known noise'),
    (noisy_dls, dict(recipes=['elr', 'glc']), r'glc needs trusted samples.*register_method'),
    (lambda: alone(noisy_dls()), {}, 'no validation set'),
    (lambda: without(noisy_dls(), 2), {}, r'no sample of 1 of the classes \(2\)'),
    (noisy_dls, dict(budget=.5), 'too small for one training'),
    (noisy_dls, dict(budget='0.0000001min'), 'too small for one'),
    (noisy_dls, dict(budget='much'), "give plain trainings.*'10min'"), (noisy_dls, dict(epochs=0), 'epochs=0'),
    (noisy_dls, dict(jobs=0), 'jobs=0')])
def test_errors(dls, kwargs, says, tmp_path):
    said = []
    with pytest.raises(ValueError, match=says):
        recommend(dls(), model, **{'out': tmp_path/'x', **QUICK, **kwargs, 'tell': said.append})
    assert not said and not list(tmp_path.glob('x/*.csv'))

def test_a_model_that_does_not_fit():
    with pytest.raises(RuntimeError): recommend(noisy_dls(), partial(small_model, d=7), **QUICK)

BUDGETS = [(6, (6, None)), ('2.5', (2.5, None)), ('10min', (None, 600)), ('.5 min', (None, 30))]

@pytest.mark.parametrize('text, expected', BUDGETS)
def test_budgets(text, expected): assert parse_budget(text) == expected

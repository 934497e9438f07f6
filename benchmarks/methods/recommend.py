"""The recommender against every recipe it could have named, and against plain training: what its choice costs.

python benchmarks/methods/recommend.py [--root DATA] [--river WHEEL] [--aeon WHEEL]     results/recommend.csv; what is
                                        not given, see recommend_data.py, is not there; DATA has a `realdata.py`
[--sets digits docstrings ...] [--seeds 3] [--epochs 12] [--resume] [--jobs 1] [--keep FOLDER]

Each cell is a data set, a kind of noise and a seed: 60 % of the samples to train on, 15 % to validate on, equally
noisy, and 25 % with true labels to test with. All recipes are trained to the end, twice; the race is then run on what
these trainings have predicted, with a budget of six plain trainings, and sees the noisy validation labels alone. A
recipe's result is its test accuracy, of the first of the two, at the epoch that the noisy validation chooses. Regret:
the best recipe's, by the test labels, less that of the recommended one; `noisy_regret` is that of a race that is judged
by noisy accuracy alone. `near` labels are those of a near neighbour of another class: noise that follows from the
inputs. With `--keep`, the trainings are kept, and not trained again.
"""
import sys, tempfile
from functools import partial
from pathlib import Path
from unittest import mock
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1]/'audit')]
import numpy as np, torch
from torch import nn
from fastai.basics import Callback, DataLoaders, L
from common import VERSIONS, Rows, arguments, measure, means, tasks
from battery_data import wrong_labels
from recommend_data import KINDS, bags, load, needs
from fastnoisy.analysis.metrics import accuracy_of
from fastnoisy.benchmark.recommend import RECIPES, Race, Stage, cost_of, lacks
from fastnoisy.benchmark.recommend import _learner, _run_race, _seeded, _winner
from fastnoisy.core.rng import isolated_rng
from fastnoisy.core.sample_loss import class_ids, class_logits
from fastnoisy.models import MeanOfWords, small_cnn, small_series_cnn
recommender = sys.modules['fastnoisy.benchmark.recommend']

NOISES = 'symmetric:.4', 'pair:.3', 'near:.3', 'none'
OF_TWO = 'symmetric:.2', 'near:.2', 'none' # classes
TWO = 'breast_cancer', 'ItalyPowerDemand', 'phishing'
LR = dict(docstrings=1e-2)

def mlp(n_in, n_out): return nn.Sequential(nn.Linear(n_in, 128), nn.ReLU(), nn.Dropout(.1), nn.Linear(128, n_out))

def data(name, noise, seed, root=None, river=None, aeon=None):
    "`DataLoaders`, of which the third tests, a function that makes a model, and the share of wrong labels"
    x,y,kind = load(name, root, river, aeon)
    rng,k = np.random.default_rng(seed),int(y.max()) + 1
    keep = np.isin(y, np.flatnonzero(np.bincount(y) >= 60)) # each class is in each part
    x,y = x[keep],np.unique(y[keep], return_inverse=True)[1]
    order,k = rng.permutation(len(y)),int(y.max()) + 1
    given = wrong_labels(bags(x) if kind == 'text' else x, y, noise, rng, k)
    cuts = np.split(order, [round(.6*len(y)), round(.75*len(y))])
    parts = [L(zip(torch.as_tensor(x[o]), torch.as_tensor(t[o]).long())) for o,t in zip(cuts, (given, given, y))]
    dls = DataLoaders.from_dsets(*parts, bs=64, device='cpu', num_workers=0)
    return dls, maker(kind, x, k), (given != y).mean()

def maker(kind, x, k):
    if kind == 'text': return partial(MeanOfWords, int(x.max()) + 1, k, pad=0)
    if kind == 'table': return partial(mlp, x.shape[-1], k)
    if kind == 'series': return partial(small_series_cnn, k, x.shape[1])
    return partial(small_cnn, x.shape[1], k, 1 if x.shape[2] < 16 else 2)

class Record(Callback):
    "Probabilities of the validation samples and test accuracy, epoch by epoch"
    order = 60
    def __init__(self, test): self.test,self.probs,self.accuracy = test,[],[]
    def before_validate(self): self.parts = []
    def after_loss(self):
        if not self.training: self.parts.append((class_logits(self.pred).softmax(1), class_ids(self.yb[0])))

    def after_validate(self):
        probs,self.given = (torch.cat(o).numpy() for o in zip(*self.parts))
        self.probs.append(probs.astype(np.float16))

    def after_epoch(self):
        self.model.eval()
        self.accuracy.append(accuracy_of(self.model, self.test))
        self.model.train()

def train(dls, make_model, stage):
    "Probabilities (E, n, K) and test accuracy (E,) of a training, and the given labels"
    seed = 1_000*stage.seed + 17
    with isolated_rng(seed):
        _seeded(dls, seed)
        learn = _learner(dls, make_model, stage, [record := Record(dls.loaders[2])])
        with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(stage.epochs, stage.lr)
    return np.stack(record.probs), np.array(record.accuracy), record.given

def save(file, arrays):
    part = file.with_name(f'part-{file.name}')
    np.savez_compressed(part, **arrays)
    part.replace(file)

OTHER = 100 # is added to the seed for the second training

class Recorded:
    "The trainings of a cell, from which races are run"
    def __init__(self, dls, make_model, names, epochs, lr, seed, file=None):
        self.names,self.epochs,self.lr,self.seed = names,epochs,lr,seed
        stages = [Stage(o, s, 0, epochs, epochs, lr, '.') for o in names for s in (seed, seed + OTHER)]
        known = dict(np.load(file)) if file and file.exists() else {}
        for o in stages:
            if f'{o.name} probs' in known: continue
            probs,accuracy,self.given = train(dls, make_model, o)
            known |= {f'{o.name} probs': probs, f'{o.name} accuracy': accuracy, 'given': self.given}
            if file: save(file, known)
        self.given,self.known = known['given'],known

    def name(self, recipe, seed):
        return Stage(recipe, self.seed + OTHER*(seed != self.seed), 0, 0, 0, 0., '').name

    def best_epoch(self, recipe, seed, stop=None):
        right = self.known[f'{self.name(recipe, seed)} probs'][:stop].argmax(2) == self.given
        values = right.mean(1)
        return int(np.argmax([recommender.centred_mean(values, i) for i in range(len(values))]))

    def run(self, calls):
        "As `run_stage` does it"
        for stage, in calls:
            probs,epochs = self.known[f'{self.name(stage.recipe, stage.seed)} probs'],slice(stage.start, stage.stop)
            last = probs[epochs][-max(1, self.epochs//4):]
            yield (stage,),dict(
                accuracy=0., best_epoch=self.best_epoch(stage.recipe, stage.seed, stage.stop), error=None,
                seconds=cost_of(stage.recipe)*(stage.stop - stage.start), classes=probs[epochs].argmax(2),
                given=self.given, probs=last.mean(0, dtype=np.float32).astype(np.float16))

    def race(self, race=Race):
        "Recommended recipe, difference to plain training, its error; share of wrong labels, as all see it together"
        with tempfile.TemporaryDirectory() as folder:
            race = race(None, None, self.names, 6, self.epochs, self.lr, self.seed, folder, self.run, str)
            with mock.patch.object(recommender, 'MAX_SEEDS', 2): found = _winner(race, _run_race(race))
        q = race.posterior()
        return *found, np.nan if q is None else 1 - q[np.arange(len(q)), self.given].mean()

class NoisyRace(Race):
    "Judged by noisy accuracy alone"
    def posterior(self): return None

def cell(args, data_set, noise, seed):
    dls,make_model,rate = data(data_set, noise, seed, args.root, args.river, args.aeon)
    names = [o for o in RECIPES if not lacks(o, dls)]
    file = args.keep and args.keep/f'{data_set}-{noise.replace(":", "")}-{seed}.npz'
    known = Recorded(dls, make_model, names, args.epochs, LR.get(data_set, 3e-3), seed, file)
    accuracy = {o: known.known[f'{known.name(o, seed)} accuracy'][known.best_epoch(o, seed)] for o in names}
    best,(recipe,d,se,wrong),(noisy,*_) = max(accuracy.values()),known.race(),known.race(NoisyRace)
    row = dict(data_set=data_set, noise=noise, seed=seed, recommended=recipe, by_noisy=noisy, accuracy=accuracy[recipe],
               plain=accuracy['ce'], best=best, regret=100*(best - accuracy[recipe]),
               noisy_regret=100*(best - accuracy[noisy]), over_plain=100*(accuracy[recipe] - accuracy['ce']),
               noisy_over_plain=100*(accuracy[noisy] - accuracy['ce']), difference=d, error=se, wrong=rate,
               estimated=wrong)
    return row | {f'test_{o}': accuracy.get(o) for o in RECIPES} | VERSIONS

def main():
    p = arguments(__doc__, seeds=3, epochs=12, jobs=1, out='recommend.csv')
    for name,said in dict(root='folder of realdata.py', river='its wheel', aeon='its wheel').items():
        p.add_argument(f'--{name}', help=said)
    p.add_argument('--keep', type=Path, help='folder for the trainings')
    p.add_argument('--sets', nargs='+', default=[o for names in KINDS.values() for o in names])
    args = p.parse_args()
    if args.keep: args.keep.mkdir(parents=True, exist_ok=True)
    sets = [o for o in args.sets if not needs(o) or getattr(args, needs(o))]
    todo = [o for seed in range(args.seeds) for name in sets
            for o in tasks(data_set=[name], noise=OF_TWO if name in TWO else NOISES, seed=[seed])]
    rows = Rows(args.out, args.resume)
    measure(cell, args, todo, rows)
    rows.sort('data_set', 'noise', 'seed')
    means(rows, ['data_set', 'noise'], ['accuracy', 'plain', 'best', 'regret', 'noisy_regret', 'over_plain'])

if __name__ == '__main__': main()

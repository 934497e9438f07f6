"""The recommender against every recipe it could have named, and against plain training: what its choice costs.

python benchmarks/methods/recommend.py [--root DATA] [--river WHEEL] [--aeon WHEEL]     results/recommend.csv; what is
                                        not given, see recommend_data.py, is not there; DATA has a `realdata.py`
[--sets digits docstrings ...] [--seeds 3] [--epochs 12] [--resume] [--jobs 1]

Each cell is a data set, a kind of noise and a seed: 60 % of the samples to train on, 15 % to validate on, equally
noisy, and 25 % with true labels to test with. All recipes are trained to the end; the recommender has a budget of six
plain trainings and sees the noisy validation labels alone. A recipe's result is its test accuracy at the epoch that
the noisy validation chooses. Regret: the best recipe's, by the test labels, less that of the recommended one;
`noisy_regret` is that of a race that is judged by noisy accuracy alone.
`near` labels are those of a near neighbour of another class: noise that follows from the inputs.
"""
import sys, tempfile
from functools import partial
from pathlib import Path
from unittest import mock
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1]/'audit')]
import numpy as np, torch
from torch import nn
from fastai.basics import CrossEntropyLossFlat, DataLoaders, L, Learner
from common import VERSIONS, Rows, arguments, measure, means, tasks
from battery_data import wrong_labels
from recommend_data import KINDS, bags, load, needs
from fastnoisy.analysis.metrics import accuracy_of
from fastnoisy.benchmark.recommend import RECIPES, Race, Stage, lacks, recommend, run_stage, stages_of
from fastnoisy.models import MeanOfWords, small_cnn, small_series_cnn

NOISES = 'symmetric:.4', 'pair:.3', 'near:.3', 'none'
OF_TWO = 'symmetric:.2', 'near:.2', 'none' # classes
TWO = 'breast_cancer', 'ItalyPowerDemand', 'phishing'
LR = dict(docstrings=1e-2)

def mlp(n_in, n_out): return nn.Sequential(nn.Linear(n_in, 128), nn.ReLU(), nn.Dropout(.1), nn.Linear(128, n_out))

def series_cnn(n_out, channels):
    net = small_series_cnn(n_out)
    if channels > 1: net[0] = nn.Conv1d(channels, 64, 7, padding=3, bias=False)
    return net

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
    if kind == 'series': return partial(series_cnn, k, x.shape[1])
    return partial(small_cnn, x.shape[1], k, 1 if x.shape[2] < 16 else 2)

def cell(args, data_set, noise, seed):
    dls,make_model,rate = data(data_set, noise, seed, args.root, args.river, args.aeon)
    names = [o for o in RECIPES if not lacks(o, dls)]
    with tempfile.TemporaryDirectory() as folder:
        def run(calls):
            for o in calls: yield o,run_stage((dls, make_model), *o)
        lr = LR.get(data_set, 3e-3)
        race,start = Race(dls, make_model, names, 99, args.epochs, lr, seed, folder, run, str),0
        for stop in stages_of(args.epochs):
            race.train(names, [seed], start, stop)
            start = stop
        options = dict(lr=lr, seed=seed, out=folder, retrain=False, tell=str)
        found = recommend(dls, make_model, 6, names, args.epochs, **options)
        with mock.patch.object(Race, 'posterior', lambda self: None):
            noisy = recommend(dls, make_model, 6, names, args.epochs, **options)
        tested = {o: test_accuracy(dls, make_model, o, seed, folder) for o in names}
    best = max(tested.values())
    row = dict(data_set=data_set, noise=noise, seed=seed, recommended=found.recipe, accuracy=tested[found.recipe],
               plain=tested['ce'], best=best, regret=100*(best - tested[found.recipe]),
               over_plain=100*(tested[found.recipe] - tested['ce']), difference=found.difference, error=found.error,
               wrong=rate, estimated=found.noise.rate if found.noise else np.nan)
    row.update(by_noisy=noisy.recipe, noisy_regret=100*(best - tested[noisy.recipe]),
               noisy_over_plain=100*(tested[noisy.recipe] - tested['ce']))
    return dict(row, cautious='CAUTION' in found.why, **{f'test_{o}': tested.get(o) for o in RECIPES}, **VERSIONS)

def test_accuracy(dls, make_model, recipe, seed, folder):
    stage = Stage(recipe, seed, 0, 0, 0, 0., folder)
    learn = Learner(dls, make_model(), loss_func=CrossEntropyLossFlat(), path=Path(folder))
    learn.load(f'{stage.name}-best', with_opt=False)
    return accuracy_of(learn.model, dls.loaders[2])

def main():
    p = arguments(__doc__, seeds=3, epochs=12, jobs=1, out='recommend.csv')
    for name,said in dict(root='folder of realdata.py', river='its wheel', aeon='its wheel').items():
        p.add_argument(f'--{name}', help=said)
    p.add_argument('--sets', nargs='+', default=[o for names in KINDS.values() for o in names])
    args = p.parse_args()
    sets = [o for o in args.sets if not needs(o) or getattr(args, needs(o))]
    todo = [o for seed in range(args.seeds) for name in sets
            for o in tasks(data_set=[name], noise=OF_TWO if name in TWO else NOISES, seed=[seed])]
    rows = Rows(args.out, args.resume)
    measure(cell, args, todo, rows)
    rows.sort('data_set', 'noise', 'seed')
    means(rows, ['data_set', 'noise'], ['accuracy', 'plain', 'best', 'regret', 'noisy_regret', 'over_plain'])

if __name__ == '__main__': main()

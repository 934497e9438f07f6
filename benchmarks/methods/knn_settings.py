"""Correction by neighbours on scikit-learn's digits: what it repairs and breaks, and what its options change.

python benchmarks/methods/knn_settings.py               the methods with 3 seeds, their options with 1
python benchmarks/methods/knn_settings.py --methods also+knn knn --seeds 3 [--noise .2 .4 .6] [--epochs 30]
[--jobs 1] [--out FILE.csv] [--resume]

The data, network and schedule of compare.py, which has plain training and ALSO. `last`: accuracy on the clean test
set after the last epoch. `label_accuracy`: share of right labels among those in force at the end (a filter: among those
that are left); `repaired`, `broken`: shares of the wrong and of the right labels whose class was changed to the true
one, and to another.
"""
import sys
from functools import partial
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parents[1]))
from common import RESULTS, VERSIONS, Rows, arguments, means, measure, tasks
import numpy as np
from fastnoisy.all import KNNCorrectionCallback, digits_dls, register_method, run_one, small_cnn

METHODS = ['also+knn', 'knn', 'knn:action=filter']
OPTIONS = ['warmup=3', 'warmup=8', 'warmup=12', 'agreement=.6', 'agreement=.9', 'k=10', 'k=50', 'metric=l2',
           'max_share=.2', 'threshold=.8', 'soft=True']

def of_labels(dls, learn):
    "Accuracy of the labels in force, and the shares of repaired and broken ones"
    true,given = dls.noise.true.numpy(),dls.noise.given.numpy()
    cb = getattr(learn, 'knn', None)
    if cb is None: return dict(label_accuracy=(given == true).mean(), repaired=0., broken=0.)
    now = cb.to_frame().label_in_force.to_numpy()
    kept,wrong = now >= 0,given != true # -1: left out
    return dict(label_accuracy=(now == true)[kept].mean(), repaired=(now == true)[wrong].mean(),
                broken=((now != true) & kept)[~wrong].mean())

def alone(**options): return dict(cbs=KNNCorrectionCallback(**options))

def experiment(args, noise, seed, method):
    register_method('knn', alone, '')
    dls = digits_dls(noise=noise, seed=seed, device='cpu')
    learn,row = run_one(dls, partial(small_cnn, dls.n_channels, dls.c), method, args.epochs, seed=seed)
    return dict(row, noise=noise, **of_labels(dls, learn), **VERSIONS)

def main():
    p = arguments(__doc__, seeds=3, epochs=30, jobs=1)
    p.add_argument('--methods', nargs='+', help='in place of all, with and without options')
    p.add_argument('--noise', type=float, nargs='+', default=[.2, .4, .6])
    args = p.parse_args()
    todo = tasks(noise=args.noise, seed=range(args.seeds), method=args.methods or METHODS)
    if args.methods is None:
        changed = [f'also+knn:{o}' for o in OPTIONS]
        todo += tasks(noise=[o for o in args.noise if o > .3], seed=[0], method=changed)
    rows = Rows(args.out or RESULTS/'knn_settings.csv', args.resume, epochs=args.epochs)
    measure(experiment, args, todo, rows)
    means(rows, ['noise', 'method'], ['last', 'label_accuracy', 'repaired', 'broken'])

if __name__ == '__main__': main()

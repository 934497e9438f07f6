"""LiLAW's own choices measured: gradient through the weights or not, mode of the validation forward pass.

python benchmarks/methods/lilaw_settings.py [--seeds 5] [--epochs 30] [--noise 0 .2 .4 .6] [--jobs 1] [--out FILE.csv]
[--resume]

scikit-learn's digits (1,078 to train on, 269 for validation, equally noisy), small CNN from scratch, Adam, one-cycle
schedule with 3e-3, symmetric noise; same weights at the start, same batches, same labels for all settings of one
seed, and for plain training. Accuracy on the clean test set (450).
"""
import sys
from functools import partial
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parents[1]))
from common import VERSIONS, Rows, arguments, means, measure, tasks
from fastnoisy.all import LiLAWCallback, digits_dls, register_method, run_one, small_cnn

SETTINGS = {
    'lilaw:detach':     dict(detach=True),
    'lilaw:train-mode': dict(meta_mode='train'),
    'lilaw:lr=.5':      dict(lr=.5),
    'lilaw:10,1,1':     dict(alpha=10., beta=1., delta=1.),
}
for name,kwargs in SETTINGS.items():
    register_method(name, lambda kwargs=kwargs: dict(cbs=LiLAWCallback(**kwargs)), 'a setting of LiLAW')

def experiment(args, noise, seed, method):
    dls = digits_dls(noise=noise, seed=seed, device='cpu')
    learn,row = run_one(dls, partial(small_cnn, dls.n_channels, dls.c), method, args.epochs, seed=seed)
    row.update(noise=noise, **VERSIONS)
    if hasattr(learn, 'lilaw'): row.update(alpha=learn.lilaw.alpha, beta=learn.lilaw.beta, delta=learn.lilaw.delta)
    return row

def main():
    p = arguments(__doc__, seeds=5, epochs=30, jobs=1, out='lilaw_settings.csv')
    p.add_argument('--noise', type=float, nargs='+', default=[0., .2, .4, .6])
    args = p.parse_args()
    rows = Rows(args.out, args.resume, epochs=args.epochs)
    methods = ['ce', 'lilaw', *SETTINGS]
    measure(experiment, args, tasks(noise=args.noise, seed=range(args.seeds), method=methods), rows)
    means(rows, ['noise', 'method'], ['last', 'best'])

if __name__ == '__main__': main()

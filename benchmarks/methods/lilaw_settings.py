"""LiLAW's own choices measured: gradient through the weights or not, mode of the validation forward pass, against plain training.

python benchmarks/methods/lilaw_settings.py [--seeds 5] [--epochs 30] [--noise 0 .2 .4 .6] [--out benchmarks/results/lilaw_settings.csv]

scikit-learn's digits (1,078 to train on, 269 for validation, equally noisy), small CNN from scratch, Adam, one-cycle schedule with 3e-3,
symmetric noise; same weights at the start, same batches, same labels for all settings of one seed. Accuracy on the clean test set (450).
"""
import argparse, warnings
from functools import partial
from pathlib import Path
warnings.filterwarnings('ignore')
import fastai, torch
import pandas as pd
import fastnoisy
from fastnoisy.all import LiLAWCallback, digits_dls, register_method, run_one, small_cnn

SETTINGS = {
    'lilaw:detach':     dict(detach=True),
    'lilaw:train-mode': dict(meta_mode='train'),
    'lilaw:lr=.5':      dict(lr=.5),
    'lilaw:10,1,1':     dict(alpha=10., beta=1., delta=1.),
}

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--seeds', type=int, default=5)
    p.add_argument('--epochs', type=int, default=30)
    p.add_argument('--noise', type=float, nargs='+', default=[0., .2, .4, .6])
    p.add_argument('--out', type=Path, default=Path(__file__).parents[1]/'results/lilaw_settings.csv')
    args = p.parse_args()
    for name,kwargs in SETTINGS.items(): register_method(name, lambda kwargs=kwargs: dict(cbs=LiLAWCallback(**kwargs)), 'a setting of LiLAW')
    rows = []
    for noise in args.noise:
        for seed in range(args.seeds):
            for method in ('ce', 'lilaw', *SETTINGS):
                dls = digits_dls(noise=noise, seed=seed, device='cpu')
                learn,row = run_one(dls, partial(small_cnn, dls.n_channels, dls.c), method, args.epochs, seed=seed)
                row.update(noise=noise, fastnoisy=fastnoisy.__version__, torch=torch.__version__, fastai=fastai.__version__)
                if hasattr(learn, 'lilaw'): row.update(alpha=learn.lilaw.alpha, beta=learn.lilaw.beta, delta=learn.lilaw.delta)
                rows.append(row)
                print({k: round(v, 4) if isinstance(v, float) else v for k,v in row.items()}, flush=True)
        df = pd.DataFrame(rows)
        df.round(5).to_csv(args.out, index=False)
    print(df.groupby(['noise', 'method'])[['last', 'best']].agg(['mean', 'std']).round(3).to_string())

if __name__ == '__main__': main()

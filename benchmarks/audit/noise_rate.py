"""How many labels are wrong? The estimate from the validation labels beside the mixture of BMMFilterCallback.

    python benchmarks/audit/noise_rate.py [--data digits] [--epochs 30] [--seeds 3] [--out FILE.csv]
    python benchmarks/audit/noise_rate.py --data fashion10k --root FILE.npz --epochs 12

Plain training and ALSO with the filter, each once per noise and seed. A row: the true rate; `rate`, that of `estimate_noise`, and the two it is the larger of, `rate_validation` and `rate_training`; `rate_right_valid`, the same where the validation labels are right;
`mixture`, what the filter says (NaN for plain training); `flagged`, `precision` and `recall` of the report's issues, and `filter_flagged`, `filter_precision` and `filter_recall` of the filter's own. Rows that are there already are not made again.
"""
import argparse, warnings
from pathlib import Path
warnings.filterwarnings('ignore')
import numpy as np, pandas as pd, torch
from fastnoisy.all import *
from fastnoisy.benchmark.train import train_one
from fastnoisy.models import ARCHS
from fastnoisy.benchmark.trial import VERSIONS, clean_dls
from fastnoisy.benchmark.datasets import DATASETS

NOISES = ['none', 'symmetric:.1', 'symmetric:.2', 'symmetric:.4', 'symmetric:.6', 'pair:.2', 'pair:.4']
TRAININGS = dict(plain=lambda: [], also=lambda: [ALSOCallback(), BMMFilterCallback()])

def flagged(issues, wrong, name=''):
    found = (issues & wrong).sum()
    return {f'{name}flagged': issues.mean(), f'{name}precision': found/max(issues.sum(), 1), f'{name}recall': found/max(wrong.sum(), 1)}

def measure(data, root, noise, training, epochs, seed):
    clean = clean_dls(data, options={} if root is None else dict(root=root))
    dls = clean if noise == 'none' else noisy(clean, noise, valid=True, generator=seed)
    wrong = np.zeros(len(dls.train.dataset), bool) if noise == 'none' else dls.noise.flipped.numpy()
    learn,seconds = train_one(dls, lambda: ARCHS[DATASETS[data].arch](dls), 'ce', epochs, seed=seed, cbs=TRAININGS[training]())
    report = learn.noise_report()
    row = dict(data=data, noise=noise, training=training, seed=seed, epochs=epochs, wrong=wrong.mean(), rate=report.noise_rate, **{f'rate_{k}': v for k,v in report.estimate.rates.items()}, temperature=report.estimate.temperature,
               **flagged(report.is_label_issue.values, wrong), mixture=np.nan)
    if training == 'also': row.update(mixture=learn.bmm.noise_rate, **flagged(learn.bmm.to_frame().is_label_issue.values, wrong, 'filter_'))
    dls.loaders[1] = clean.valid
    return row | dict(rate_right_valid=estimate_noise(learn).rate, seconds=seconds, **VERSIONS)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', default='digits', choices=DATASETS)
    p.add_argument('--root')
    p.add_argument('--epochs', type=int, default=30)
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--out')
    args = p.parse_args()
    out = Path(args.out or Path(__file__).parents[1]/f'results/noise_rate_{args.data}.csv')
    rows = pd.read_csv(out).to_dict('records') if out.is_file() else []
    done = {(o['noise'], o['training'], o['seed']) for o in rows}
    torch.set_num_threads(1)
    for seed in range(args.seeds):
        for noise in NOISES:
            for training in TRAININGS:
                if (noise, training, seed) in done: continue
                rows.append(measure(args.data, args.root, noise, training, args.epochs, seed))
                pd.DataFrame(rows).round(4).to_csv(out, index=False)
                print({k: round(v, 3) if isinstance(v, float) else v for k,v in rows[-1].items()}, flush=True)

if __name__ == '__main__': main()

"""How many labels are wrong? The estimate from the validation labels beside the mixture of BMMFilterCallback.

python benchmarks/audit/noise_rate.py [--data digits] [--epochs 30] [--seeds 3] [--jobs 1] [--out FILE.csv] [--resume]
python benchmarks/audit/noise_rate.py --data fashion10k --root FILE.npz --epochs 12

Plain training and ALSO with the filter, each once per noise and seed. A row: the true rate; `rate`, that of
`estimate_noise`, and the two it is the larger of, `rate_validation` and `rate_training`; `rate_right_valid`, the same
where the validation labels are right; `mixture`, what the filter says (NaN for plain training); `flagged`,
`precision` and `recall` of the report's issues, and `filter_flagged`, `filter_precision` and `filter_recall` of the
filter's own.
"""
import sys
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parents[1]))
from common import RESULTS, VERSIONS, Rows, arguments, means, measure, tasks
import numpy as np
from fastnoisy.all import ALSOCallback, BMMFilterCallback, estimate_noise, noisy
from fastnoisy.benchmark.train import train_one
from fastnoisy.models import ARCHS
from fastnoisy.benchmark.trial import clean_dls
from fastnoisy.benchmark.datasets import DATASETS

NOISES = ['none', 'symmetric:.1', 'symmetric:.2', 'symmetric:.4', 'symmetric:.6', 'pair:.2', 'pair:.4']
TRAININGS = dict(plain=lambda: [], also=lambda: [ALSOCallback(), BMMFilterCallback()])

def flagged(issues, wrong, name=''):
    found = (issues & wrong).sum()
    precision,recall = found/max(issues.sum(), 1),found/max(wrong.sum(), 1)
    return {f'{name}flagged': issues.mean(), f'{name}precision': precision, f'{name}recall': recall}

def experiment(args, noise, seed, training):
    clean = clean_dls(args.data, options={} if args.root is None else dict(root=args.root))
    dls = clean if noise == 'none' else noisy(clean, noise, valid=True, generator=seed)
    wrong = np.zeros(len(dls.train.dataset), bool) if noise == 'none' else dls.noise.flipped.numpy()
    make_model,cbs = ARCHS[DATASETS[args.data].arch],TRAININGS[training]()
    learn,seconds = train_one(dls, lambda: make_model(dls), 'ce', args.epochs, seed=seed, cbs=cbs)
    report = learn.noise_report()
    rates = {f'rate_{k}': v for k,v in report.estimate.rates.items()}
    row = dict(data=args.data, noise=noise, training=training, seed=seed, epochs=args.epochs, wrong=wrong.mean(),
               rate=report.noise_rate, **rates, temperature=report.estimate.temperature,
               **flagged(report.is_label_issue.values, wrong), mixture=np.nan)
    if training == 'also':
        issues = learn.bmm.to_frame().is_label_issue.values
        row.update(mixture=learn.bmm.noise_rate, **flagged(issues, wrong, 'filter_'))
    dls.loaders[1] = clean.valid
    return row | dict(rate_right_valid=estimate_noise(learn).rate, seconds=seconds, **VERSIONS)

def main():
    p = arguments(__doc__, seeds=3, epochs=30, jobs=1)
    p.add_argument('--data', default='digits', choices=DATASETS)
    p.add_argument('--root')
    p.add_argument('--noise', nargs='+', default=NOISES)
    args = p.parse_args()
    out = args.out or RESULTS/f'noise_rate_{args.data}.csv'
    rows = Rows(out, args.resume, digits=4, data=args.data, epochs=args.epochs)
    measure(experiment, args, tasks(seed=range(args.seeds), noise=args.noise, training=TRAININGS), rows)
    means(rows, ['noise', 'training'], ['wrong', 'rate', 'mixture', 'precision', 'recall'])

if __name__ == '__main__': main()

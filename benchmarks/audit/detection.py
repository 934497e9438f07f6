"""Which labels are wrong: how well each signal tells, early and late in the training, and how accurate the model is.

python benchmarks/audit/detection.py                                              scikit-learn's digits, 30 epochs
python benchmarks/audit/detection.py --npz fashion_mnist.npz --n 10000 --epochs 25   first 10,000 training images of a file with the arrays
                                                                          train_images, train_labels, test_images, test_labels
[--noise symmetric:.2 symmetric:.4 symmetric:.6 symmetric:.8 pair:.2 pair:.3 pair:.4] [--seeds 3] [--jobs 2] [--out FILE.csv]

The same small CNN from scratch, Adam, one-cycle schedule with 3e-3, batch 64 (128 for --npz), noise on training and validation labels; same weights at the start, same
labels and same order of the data in each of three trainings: plain (its evaluation loss, training loss, running loss, AUM and EL2N are all
taken from this one run), ALSO, and ALSO with what the mixture calls noisy left out. One row per signal: ROC-AUC and average precision after the first, middle, last and
best epoch, accuracy on the clean test set at the last and the best epoch; for the mixture its noise rate, precision and recall at .5 after the last epoch.
"""
import argparse, time, warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from itertools import product
from pathlib import Path
warnings.filterwarnings('ignore')
import fastai, numpy as np, pandas as pd, torch
from fastai.callback.core import Callback
from sklearn.metrics import average_precision_score, roc_auc_score
import fastnoisy
from fastnoisy.all import (ALSOCallback, BMMFilterCallback, DynamicsCallback, digits_dls, register_method, run_one,
                           small_cnn)
from fastnoisy.analysis.training_dynamics import SCORES
from fastnoisy.analysis.ranking import to_quality
from fastnoisy.noise.label_noise import as_noise
from fastnoisy.callback.bmm import evaluation_losses
from compare import from_npz

class Detection(Callback):
    "After each epoch the AUC and the average precision of each signal"
    def __init__(self, signals): self.signals,self.rows = signals,[]
    def after_train(self):
        wrong = self.dls.noise.flipped.numpy()
        for name,f in self.signals.items():
            quality = f(self.learn)
            known = ~np.isnan(quality)
            self.rows.append(dict(signal=name, epoch=self.epoch, auc=roc_auc_score(wrong[known], -quality[known]), ap=average_precision_score(wrong[known], -quality[known])))

DYNAMIC = ['loss', 'running_loss', 'aum', 'el2n']
def dynamic(name, learn): return to_quality(learn.dynamics.scores()[name], SCORES[name].high)
def weight(learn): return learn.also.to_frame().weight.values

PLAIN = {'evaluation_loss': lambda learn: -evaluation_losses(learn), **{o: partial(dynamic, o) for o in DYNAMIC}}
RUNS = dict(plain=lambda: [DynamicsCallback(DYNAMIC), Detection(PLAIN)],
            also=lambda: [ALSOCallback(), BMMFilterCallback('also'), Detection(dict(also=weight))],
            also_drop=lambda: [ALSOCallback(), BMMFilterCallback('also', 'drop'), Detection(dict(also_drop=weight))])
for name,cbs in RUNS.items(): register_method(name, lambda cbs=cbs: dict(cbs=cbs()), '')

def experiment(args, noise, seed, run):
    "One training: its rows"
    torch.set_num_threads(1)
    if args.npz: dls,stride = from_npz(args.npz, args.n, as_noise(noise), seed),2
    else: dls,stride = digits_dls(noise=as_noise(noise), seed=seed, device='cpu'),1
    learn,row = run_one(dls, partial(small_cnn, dls.n_channels, dls.c, stride), run, args.epochs, seed=seed)
    base = dict(data=args.npz.stem if args.npz else 'digits', noise=noise, actual_rate=dls.noise.actual_rate, seed=seed, training=run, epochs=args.epochs,
                accuracy_last=row['last'], accuracy_best=row['best'], seconds=row['seconds'])
    if hasattr(learn, 'bmm'): base.update(noise_rate=learn.bmm.noise_rate, precision=learn.bmm.bmm_precision, recall=learn.bmm.bmm_recall)
    rows = []
    for signal,o in pd.DataFrame(learn.detection.rows).groupby('signal', sort=False):
        at = dict(first=0, middle=len(o)//2, last=len(o)-1, best=int(o.auc.argmax()))
        rows.append({**base, 'signal': signal, **{f'{v}_{k}': o[v].iloc[i] for v in ('auc', 'ap') for k,i in at.items()},
                     'fastnoisy': fastnoisy.__version__, 'torch': torch.__version__, 'fastai': fastai.__version__})
    return rows

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--npz', type=Path)
    p.add_argument('--n', type=int, default=10_000)
    p.add_argument('--noise', nargs='+', default=[*(f'symmetric:.{i}' for i in (2, 4, 6, 8)), *(f'pair:.{i}' for i in (2, 3, 4))])
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--epochs', type=int, default=30)
    p.add_argument('--jobs', type=int, default=2)
    p.add_argument('--out', type=Path)
    args = p.parse_args()
    out = args.out or Path(__file__).parents[1]/f'results/detection_{args.npz.stem if args.npz else "digits"}.csv'
    rows,start = [],time.time()
    with ProcessPoolExecutor(args.jobs) as pool:
        jobs = [pool.submit(experiment, args, *o) for o in product(args.noise, range(args.seeds), RUNS)]
        for i,job in enumerate(as_completed(jobs)):
            rows += job.result()
            pd.DataFrame(rows).sort_values(['noise', 'seed', 'training', 'signal']).round(5).to_csv(out, index=False)
            print(f'{i+1} of {len(jobs)}, {time.time()-start:.0f} s', flush=True)
    columns = ['auc_first', 'auc_middle', 'auc_last', 'auc_best', 'ap_last', 'accuracy_last', 'accuracy_best', 'noise_rate', 'precision', 'recall']
    table = pd.DataFrame(rows).groupby(['noise', 'training', 'signal'])[columns].agg(['mean', 'std'])
    print(table.round(3).to_string())

if __name__ == '__main__': main()

"""Which labels are wrong: how well each signal tells, early and late in the training, and how accurate the model is.

python benchmarks/audit/detection.py                                              scikit-learn's digits, 30 epochs
python benchmarks/audit/detection.py --npz fashion_mnist.npz --epochs 25          10,000 training images of a file with
                                           train_images, train_labels, test_images, test_labels
[--noise symmetric:.2 symmetric:.4 symmetric:.6 symmetric:.8 pair:.2 pair:.3 pair:.4] [--seeds 3] [--jobs 2]
[--out FILE.csv] [--resume]

The same small CNN from scratch, Adam, one-cycle schedule with 3e-3, batch 64 (128 for --npz), noise on training and
validation labels; same weights at the start, same labels and same order of the data in each of three trainings: plain
(its evaluation loss, training loss, running loss, AUM and EL2N are all taken from this one run), ALSO, and ALSO with
what the mixture calls noisy left out. One row per signal: ROC-AUC and average precision after the first, middle, last
and best epoch, accuracy on the clean test set at the last and the best epoch; for the mixture its noise rate,
precision and recall at .5 after the last epoch.
"""
import sys
from functools import partial
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parents[1]))
from common import RESULTS, VERSIONS, Rows, arguments, data_name, images, means, measure, tasks
import numpy as np, pandas as pd
from fastai.callback.core import Callback
from sklearn.metrics import average_precision_score, roc_auc_score
from fastnoisy.all import ALSOCallback, BMMFilterCallback, DynamicsCallback, register_method, run_one, small_cnn
from fastnoisy.analysis.training_dynamics import SCORES
from fastnoisy.noise.label_noise import as_noise
from fastnoisy.callback.bmm import evaluation_losses
from fastnoisy.analysis.ranking import to_quality

class Detection(Callback):
    "After each epoch the AUC and the average precision of each signal"
    def __init__(self, signals): self.signals,self.rows = signals,[]
    def after_train(self):
        wrong = self.dls.noise.flipped.numpy()
        for name,f in self.signals.items():
            quality = f(self.learn)
            known = ~np.isnan(quality)
            scores = wrong[known],-quality[known]
            auc,ap = roc_auc_score(*scores),average_precision_score(*scores)
            self.rows.append(dict(signal=name, epoch=self.epoch, auc=auc, ap=ap))

DYNAMIC = ['loss', 'running_loss', 'aum', 'el2n']
def dynamic(name, learn): return to_quality(learn.dynamics.scores()[name], SCORES[name].high)
def weight(learn): return learn.also.to_frame().weight.values

PLAIN = {'evaluation_loss': lambda learn: -evaluation_losses(learn), **{o: partial(dynamic, o) for o in DYNAMIC}}
RUNS = dict(plain=lambda: [DynamicsCallback(DYNAMIC), Detection(PLAIN)],
            also=lambda: [ALSOCallback(), BMMFilterCallback('also'), Detection(dict(also=weight))],
            also_drop=lambda: [ALSOCallback(), BMMFilterCallback('also', 'drop'), Detection(dict(also_drop=weight))])
for name,cbs in RUNS.items(): register_method(name, lambda cbs=cbs: dict(cbs=cbs()), '')

def row_of(base, signal, o):
    at = dict(first=0, middle=len(o)//2, last=len(o)-1, best=int(o.auc.argmax()))
    scores = {f'{v}_{k}': o[v].iloc[i] for v in ('auc', 'ap') for k,i in at.items()}
    return {**base, 'signal': signal, **scores, **VERSIONS}

def experiment(args, noise, seed, training):
    "One training: its rows"
    dls = images(args, as_noise(noise), seed)
    model = partial(small_cnn, dls.n_channels, dls.c, 2 if args.npz else 1)
    learn,row = run_one(dls, model, training, args.epochs, seed=seed)
    base = dict(data=data_name(args), noise=noise, actual_rate=dls.noise.actual_rate, seed=seed, training=training,
                epochs=args.epochs, accuracy_last=row['last'], accuracy_best=row['best'], seconds=row['seconds'])
    if hasattr(learn, 'bmm'):
        bmm = learn.bmm
        base.update(noise_rate=bmm.noise_rate, precision=bmm.bmm_precision, recall=bmm.bmm_recall)
    groups = pd.DataFrame(learn.detection.rows).groupby('signal', sort=False)
    return [row_of(base, *o) for o in groups]

def main():
    p = arguments(__doc__, seeds=3, epochs=30, jobs=2, npz=True)
    noises = [*(f'symmetric:.{i}' for i in (2, 4, 6, 8)), *(f'pair:.{i}' for i in (2, 3, 4))]
    p.add_argument('--noise', nargs='+', default=noises)
    args = p.parse_args()
    name = data_name(args)
    rows = Rows(args.out or RESULTS/f'detection_{name}.csv', args.resume, data=name, epochs=args.epochs)
    measure(experiment, args, tasks(noise=args.noise, seed=range(args.seeds), training=RUNS), rows)
    rows.sort('noise', 'seed', 'training', 'signal')
    columns = [*(f'auc_{o}' for o in ('first', 'middle', 'last', 'best')), 'ap_last', 'accuracy_last', 'accuracy_best']
    means(rows, ['noise', 'training', 'signal'], [*columns, 'noise_rate', 'precision', 'recall'])

if __name__ == '__main__': main()

"""ALSO where classes are rare or hard: weights within classes, and a temperature that follows the data.

python benchmarks/methods/also_classes.py                                    scikit-learn's digits, 30 epochs
python benchmarks/methods/also_classes.py --series ecg5000.npz --epochs 20   series as in also_settings.py
python benchmarks/methods/also_classes.py --lstm DIR --epochs 300 --noise none   DIR has the folder ECG5000: 400 series,
                                           averaged to 35 points, none wrong; a stacked LSTM, one batch, Adam, 1e-3
[--noise symmetric:.2 pair:.4] [--settings ...] [--seeds 3] [--jobs 1] [--out FILE.csv] [--resume]

Settings: `plain`; `also` (the default); `by_class`, its weights average 1 in each class; `floor`, .3 at least;
`auto`, whose temperature in each epoch is the median loss of the one before, .25 at least, so that it is near plain
training while most samples have a high loss; `auto_by_class`, both. Networks, schedule and splits of
also_settings.py. Written are the accuracy on the clean test set, the recall of its worst class, and the average
precision of the label quality (of the loss, for plain training).
"""
import sys
from functools import partial
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parents[1]))
from common import RESULTS, VERSIONS, NoValidation, Rows, arguments, images, means, measure, tasks
import numpy as np, torch
from fastai.basics import CrossEntropyLossFlat, Learner, OptimWrapper, set_seed
from also_settings import from_series, name_of, series_cnn
from fastnoisy.all import ALSOCallback, register_method, run_one, small_cnn
from fastnoisy.analysis.detection import suspicion
from fastnoisy.analysis.ranking import average_precision
from fastnoisy.benchmark.datasets import ecg_dls
from fastnoisy.core.predict import predict
from fastnoisy.models import StackedLSTM

class AutoTemperature(ALSOCallback):
    "The temperature is the median loss of the last epoch, or the own one where that is higher"
    def begin_fit(self):
        super().begin_fit()
        self.lowest,self.losses = self.temperature,[]

    def before_train(self):
        if self.losses: self.temperature = max(self.lowest, torch.cat(self.losses).median().item())
        self.losses = []
        super().before_train()

    def batch_weights(self):
        self.losses.append(self.sample_loss.detach())
        return super().batch_weights()

    def after_fit(self): self.temperature = self.lowest

SETTINGS = dict(plain=None, also=ALSOCallback, by_class=partial(ALSOCallback, by_class=True),
                floor=partial(ALSOCallback, by_class=.3), auto=AutoTemperature,
                auto_by_class=partial(AutoTemperature, by_class=True))

def worst_recall(learn):
    p = predict(learn, learn.dls.test)
    right,y = p.logits.argmax(1) == p.targets,p.targets
    return min(right[y == k].float().mean().item() for k in y.unique())

class Shorter(StackedLSTM):
    def forward(self, x): return super().forward(x.reshape(*x.shape[:2], -1, 4).mean(3))

def lstm_experiment(args, noise, seed, method):
    "A network that learns the rare classes late, or never"
    set_seed(seed)
    dls = ecg_dls(root=args.lstm)
    cbs = [NoValidation()] if SETTINGS[method] is None else [NoValidation(), SETTINGS[method]()]
    adam = partial(OptimWrapper, opt=torch.optim.Adam)
    learn = Learner(dls, Shorter(dls.vars, dls.c), loss_func=CrossEntropyLossFlat(), opt_func=adam, cbs=cbs)
    with learn.no_bar(), learn.no_logging(): learn.fit(args.epochs, 1e-3, wd=0.)
    p = predict(learn, dls.test)
    accuracy = (p.logits.argmax(1) == p.targets).float().mean().item()
    return dict(method=method, seed=seed, epochs=args.epochs, last=accuracy,
                data='ecg5000-lstm', noise=noise, worst_recall=worst_recall(learn), **VERSIONS)

def experiment(args, noise, seed, method):
    if args.lstm: return lstm_experiment(args, noise, seed, method)
    if SETTINGS[method] is not None: register_method(f'{method}_here', lambda: dict(cbs=SETTINGS[method]()), '')
    dls = from_series(args.series, noise, seed) if args.series else images(args, noise, seed)
    if args.series: model = partial(series_cnn, dls.c)
    else: model = partial(small_cnn, dls.n_channels, dls.c, 1)
    learn,row = run_one(dls, model, 'ce' if method == 'plain' else f'{method}_here', args.epochs, seed=seed)
    ap = average_precision(-np.asarray(suspicion(learn)), np.asarray(dls.noise.flipped))
    return dict(row, method=method, data=name_of(args), noise=noise, ap=ap, worst_recall=worst_recall(learn),
                **VERSIONS)

def main():
    p = arguments(__doc__, seeds=3, epochs=30, jobs=1, npz=True)
    p.add_argument('--series', type=Path)
    p.add_argument('--lstm')
    p.add_argument('--noise', nargs='+', default=['symmetric:.2', 'pair:.4'])
    p.add_argument('--settings', nargs='+', default=list(SETTINGS), choices=SETTINGS)
    args = p.parse_args()
    name = 'ecg5000_lstm' if args.lstm else name_of(args)
    rows = Rows(args.out or RESULTS/f'also_classes_{name}.csv', args.resume, data=name, epochs=args.epochs)
    measure(experiment, args, tasks(noise=args.noise, seed=range(args.seeds), method=args.settings), rows)
    rows.sort('noise', 'method', 'seed')
    means(rows, ['noise', 'method'], ['last', 'worst_recall'] + ([] if args.lstm else ['best', 'ap']), ['mean'])

if __name__ == '__main__': main()

"""Is one setting of ALSO good everywhere? Detection and accuracy over temperature and horizon, for images and series.

python benchmarks/methods/also_settings.py                                        scikit-learn's digits, 30 epochs
python benchmarks/methods/also_settings.py --npz fashion_mnist.npz --epochs 25    the first 10,000 training images of a
                                           file with train_images, train_labels, test_images, test_labels
python benchmarks/methods/also_settings.py --series ecg5000.npz --epochs 30       series (n, length) and class ids: the
                                           arrays train_x, train_y, test_x, test_y, put together and split anew: 70 % to
                                           train, 10 % to validate, 20 % to test
[--noise .2 .4 .6] [--settings .25:10 .125:10 ...] [--seeds 1] [--jobs 1] [--out FILE.csv] [--resume]

A setting is temperature:horizon; the first is the default, and `plain` is training without ALSO. Small CNN from
scratch, Adam, one-cycle schedule with 3e-3, batch 64 (128 for --npz), symmetric noise on training and validation
labels. ROC-AUC of the weights (of the loss, for plain training) after the last epoch; accuracy on the clean test set.
"""
import sys
from functools import partial
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parents[1]))
from common import RESULTS, VERSIONS, Rows, arguments, data_name, images, means, measure, tasks
import numpy as np, torch
from fastai.basics import DataLoaders
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from fastnoisy.all import ALSOCallback, register_method, run_one, small_cnn
from fastnoisy.analysis.detection import suspicion
from fastnoisy.noise.label_noise import as_noise

def from_series(file, noise, seed):
    data = np.load(file)
    x,y = (np.concatenate([data[f'{o}_{v}'] for o in ('train', 'test')]) for v in 'xy')
    rest,test = train_test_split(np.arange(len(y)), test_size=.2, stratify=y, random_state=seed)
    train,valid = train_test_split(rest, test_size=.125, stratify=y[rest], random_state=seed)
    mean,std = x[train].mean(),x[train].std()
    x = torch.from_numpy((x - mean)/std).float()[:,None]
    noise = as_noise(noise)
    record,valid_record = (noise(y[o], generator=seed+i) for i,o in enumerate((train, valid)))
    def loader(ids, labels, **kwargs): return DataLoader(TensorDataset(x[ids], labels), 64, **kwargs)
    shuffled = dict(shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(seed))
    dls = DataLoaders(loader(train, record.given, **shuffled), loader(valid, valid_record.given))
    dls.noise,dls.c = record,record.n_classes
    dls.test = loader(test, torch.from_numpy(y[test]))
    return dls

def series_cnn(n_out):
    def block(a, b):
        convolution = nn.Conv1d(a, b, 7, stride=2, padding=3, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm1d(b), nn.ReLU(inplace=True))
    blocks = [block(1, 32), block(32, 64), block(64, 128)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(128, n_out))

def name_of(args): return args.series.stem if args.series else data_name(args)

def experiment(args, noise, seed, method):
    if method != 'plain':
        temperature,horizon = map(float, method.split(':'))
        register_method(method, lambda: dict(cbs=ALSOCallback(temperature=temperature, horizon=horizon)), '')
    dls = from_series(args.series, noise, seed) if args.series else images(args, noise, seed)
    if args.series: model = partial(series_cnn, dls.c)
    else: model = partial(small_cnn, dls.n_channels, dls.c, 2 if args.npz else 1)
    learn,row = run_one(dls, model, 'ce' if method == 'plain' else method, args.epochs, seed=seed)
    auc = roc_auc_score(dls.noise.flipped, suspicion(learn))
    return dict(row, method=method, data=name_of(args), noise=noise, auc=auc, **VERSIONS)

def main():
    p = arguments(__doc__, seeds=1, epochs=30, jobs=1, npz=True)
    p.add_argument('--series', type=Path)
    p.add_argument('--noise', type=float, nargs='+', default=[.2, .4, .6])
    p.add_argument('--settings', nargs='+', default=['plain', '.25:10', '.125:10', '.5:10', '1:10', '.25:3', '.25:30'])
    args = p.parse_args()
    name = name_of(args)
    rows = Rows(args.out or RESULTS/f'also_settings_{name}.csv', args.resume, data=name, epochs=args.epochs)
    measure(experiment, args, tasks(noise=args.noise, seed=range(args.seeds), method=args.settings), rows)
    rows.sort('noise', 'method', 'seed')
    means(rows, ['noise', 'method'], ['last', 'best', 'auc'], ['mean'])

if __name__ == '__main__': main()

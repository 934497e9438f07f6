"""Is one setting of ALSO good everywhere? Detection and accuracy over temperature and horizon, for images and series.

python benchmarks/methods/also_settings.py                                          scikit-learn's digits, 30 epochs
python benchmarks/methods/also_settings.py --npz fashion_mnist.npz --epochs 25      first 10,000 training images of a file with train_images, train_labels,
                                                                            test_images, test_labels
python benchmarks/methods/also_settings.py --series ecg5000.npz --epochs 30         series (n, length) and class ids: the arrays train_x, train_y, test_x, test_y, put
                                                                            together and split anew: 70 % to train, 10 % to validate, 20 % to test
[--noise .2 .4 .6] [--settings .25:10 .125:10 ...] [--seeds 1] [--jobs 1] [--out FILE.csv]

A setting is temperature:horizon; the first is the default, and `plain` is training without ALSO. Small CNN from scratch, Adam, one-cycle schedule with 3e-3, batch 64 (128 for
--npz), symmetric noise on training and validation labels. ROC-AUC of the weights (of the loss, for plain training) after the last epoch; accuracy on the clean test set.
"""
import argparse, warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from itertools import product
from pathlib import Path
warnings.filterwarnings('ignore')
import fastai, numpy as np, pandas as pd, torch
from fastai.basics import DataLoaders
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
import fastnoisy
from fastnoisy.all import ALSOCallback, SymmetricNoise, digits_dls, register_method, run_one, small_cnn
from fastnoisy.analysis.detection import suspicion
from compare import from_npz

def from_series(file, noise, seed):
    data = np.load(file)
    x,y = (np.concatenate([data[f'{o}_{v}'] for o in ('train', 'test')]) for v in 'xy')
    rest,test = train_test_split(np.arange(len(y)), test_size=.2, stratify=y, random_state=seed)
    train,valid = train_test_split(rest, test_size=.125, stratify=y[rest], random_state=seed)
    mean,std = x[train].mean(),x[train].std()
    x = torch.from_numpy((x - mean)/std).float()[:,None]
    record,valid_record = SymmetricNoise(noise)(y[train], generator=seed),SymmetricNoise(noise)(y[valid], generator=seed+1)
    def loader(ids, labels, **kwargs): return DataLoader(TensorDataset(x[ids], labels), 64, **kwargs)
    dls = DataLoaders(loader(train, record.given, shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(seed)), loader(valid, valid_record.given))
    dls.noise,dls.c = record,record.n_classes
    dls.test = loader(test, torch.from_numpy(y[test]))
    return dls

def series_cnn(n_out):
    def block(a, b): return nn.Sequential(nn.Conv1d(a, b, 7, stride=2, padding=3, bias=False), nn.BatchNorm1d(b), nn.ReLU(inplace=True))
    return nn.Sequential(block(1, 32), block(32, 64), block(64, 128), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(128, n_out))

def experiment(args, noise, seed, setting):
    torch.set_num_threads(1)
    if setting != 'plain':
        temperature,horizon = map(float, setting.split(':'))
        register_method(setting, lambda: dict(cbs=ALSOCallback(temperature=temperature, horizon=horizon)), '')
    if args.series: dls,name = from_series(args.series, noise, seed),args.series.stem
    elif args.npz: dls,name = from_npz(args.npz, 10_000, noise, seed),args.npz.stem
    else: dls,name = digits_dls(noise=noise, seed=seed, device='cpu'),'digits'
    model = partial(series_cnn, dls.c) if args.series else partial(small_cnn, dls.n_channels, dls.c, 2 if args.npz else 1)
    learn,row = run_one(dls, model, 'ce' if setting == 'plain' else setting, args.epochs, seed=seed)
    row.update(method=setting, data=name, noise=noise, auc=roc_auc_score(dls.noise.flipped, suspicion(learn)), fastnoisy=fastnoisy.__version__, torch=torch.__version__,
               fastai=fastai.__version__)
    return row

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--npz', type=Path)
    p.add_argument('--series', type=Path)
    p.add_argument('--noise', type=float, nargs='+', default=[.2, .4, .6])
    p.add_argument('--settings', nargs='+', default=['plain', '.25:10', '.125:10', '.5:10', '1:10', '.25:3', '.25:30'])
    p.add_argument('--seeds', type=int, default=1)
    p.add_argument('--epochs', type=int, default=30)
    p.add_argument('--jobs', type=int, default=1)
    p.add_argument('--out', type=Path)
    args = p.parse_args()
    out = args.out or Path(__file__).parents[1]/f'results/also_settings_{(args.series or args.npz or Path("digits")).stem}.csv'
    rows = []
    with ProcessPoolExecutor(args.jobs) as pool:
        for job in as_completed([pool.submit(experiment, args, *o) for o in product(args.noise, range(args.seeds), args.settings)]):
            rows.append(job.result())
            pd.DataFrame(rows).sort_values(['noise', 'method', 'seed']).round(5).to_csv(out, index=False)
            print({k: round(v, 3) if isinstance(v, float) else v for k,v in rows[-1].items()}, flush=True)
    print(pd.DataFrame(rows).groupby(['noise', 'method'])[['last', 'best', 'auc']].mean().round(3).to_string())

if __name__ == '__main__': main()

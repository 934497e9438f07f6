"""Methods compared: accuracy on the clean test set (last and best epoch), and how well each tells the wrong labels (ROC-AUC at the last epoch).

python benchmarks/methods/compare.py                                              scikit-learn's digits, 30 epochs
python benchmarks/methods/compare.py --npz fashion_mnist.npz --n 10000 --epochs 20   first 10,000 training images of a file with the arrays
                                                                          train_images, train_labels, test_images, test_labels
[--methods ce lilaw also gce sce nce+rce] [--noise .2 .4 .6] [--seeds 3] [--out FILE.csv]

The same small CNN from scratch, Adam, one-cycle schedule with 3e-3, batch 64 (128 for --npz), symmetric noise on training and validation labels; same weights
at the start, same order of the data, same labels for all methods of one seed. A wrong label is told by the weight of ALSO, else by the loss
of the training sample after the last epoch.
"""
import argparse, warnings
from functools import partial
from pathlib import Path
warnings.filterwarnings('ignore')
import fastai, numpy as np, pandas as pd, torch
from sklearn.metrics import average_precision_score, roc_auc_score
import fastnoisy
from fastnoisy.all import array_dls, digits_dls, run_one, small_cnn
from fastnoisy.analysis.detection import suspicion

def from_npz(file, n, noise, seed):
    data = np.load(file)
    x,y = data['train_images'][:n],data['train_labels'][:n].astype(np.int64)
    n_valid = n//10
    return array_dls((x[n_valid:], y[n_valid:]), (x[:n_valid], y[:n_valid]), (data['test_images'], data['test_labels'].astype(np.int64)),
                     noise=noise, seed=seed, bs=128, val_bs=512, rgb=False, device='cpu')

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--npz', type=Path)
    p.add_argument('--n', type=int, default=10_000)
    p.add_argument('--methods', nargs='+', default=['ce', 'lilaw', 'also', 'gce', 'sce', 'nce+rce'])
    p.add_argument('--noise', type=float, nargs='+', default=[.2, .4, .6])
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--epochs', type=int, default=30)
    p.add_argument('--out', type=Path)
    args = p.parse_args()
    name = args.npz.stem if args.npz else 'digits'
    out = args.out or Path(__file__).parents[1]/f'results/compare_{name}.csv'
    rows = []
    for noise in args.noise:
        for seed in range(args.seeds):
            for method in args.methods:
                dls = from_npz(args.npz, args.n, noise, seed) if args.npz else digits_dls(noise=noise, seed=seed, device='cpu')
                learn,row = run_one(dls, partial(small_cnn, dls.n_channels, dls.c), method, args.epochs, seed=seed)
                wrong,score = dls.noise.flipped.numpy(),suspicion(learn)
                row.update(data=name, noise=noise, auc=roc_auc_score(wrong, score), ap=average_precision_score(wrong, score), n=len(wrong),
                           fastnoisy=fastnoisy.__version__, torch=torch.__version__, fastai=fastai.__version__)
                rows.append(row)
                print({k: round(v, 4) if isinstance(v, float) else v for k,v in row.items()}, flush=True)
                pd.DataFrame(rows).round(5).to_csv(out, index=False)
    print(pd.DataFrame(rows).groupby(['noise', 'method'], sort=False)[['last', 'best', 'auc']].agg(['mean', 'std']).round(3).to_string())

if __name__ == '__main__': main()

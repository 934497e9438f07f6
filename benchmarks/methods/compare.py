"""Methods compared: accuracy on the clean test set (last and best epoch), and how well each tells the wrong labels.

python benchmarks/methods/compare.py                                              scikit-learn's digits, 30 epochs
python benchmarks/methods/compare.py --npz fashion_mnist.npz --epochs 20          the first 10,000 training images of a
                                     file with train_images, train_labels, test_images, test_labels
[--methods ce lilaw also gce sce nce+rce] [--noise .2 .4 .6] [--seeds 3] [--jobs 1] [--out FILE.csv] [--resume]

The same small CNN from scratch, Adam, one-cycle schedule with 3e-3, batch 64 (128 for --npz), symmetric noise on
training and validation labels; same weights at the start, same order of the data, same labels for all methods of one
seed. A wrong label is told by the weight of ALSO, else by the loss of the training sample after the last epoch:
ROC-AUC.
"""
import sys
from functools import partial
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parents[1]))
from common import RESULTS, VERSIONS, Rows, arguments, data_name, images, means, measure, tasks
from sklearn.metrics import average_precision_score, roc_auc_score
from fastnoisy.all import run_one, small_cnn
from fastnoisy.analysis.detection import suspicion

def experiment(args, noise, seed, method):
    dls = images(args, noise, seed)
    learn,row = run_one(dls, partial(small_cnn, dls.n_channels, dls.c), method, args.epochs, seed=seed)
    wrong,score = dls.noise.flipped.numpy(),suspicion(learn)
    auc,ap = roc_auc_score(wrong, score),average_precision_score(wrong, score)
    return dict(row, data=data_name(args), noise=noise, auc=auc, ap=ap, n=len(wrong), **VERSIONS)

def main():
    p = arguments(__doc__, seeds=3, epochs=30, jobs=1, npz=True)
    p.add_argument('--methods', nargs='+', default=['ce', 'lilaw', 'also', 'gce', 'sce', 'nce+rce'])
    p.add_argument('--noise', type=float, nargs='+', default=[.2, .4, .6])
    args = p.parse_args()
    name = data_name(args)
    rows = Rows(args.out or RESULTS/f'compare_{name}.csv', args.resume, data=name, epochs=args.epochs)
    measure(experiment, args, tasks(noise=args.noise, seed=range(args.seeds), method=args.methods), rows)
    means(rows, ['noise', 'method'], ['last', 'best', 'auc'])

if __name__ == '__main__': main()

"""One training with ALSO against cleanlab's five-fold cross-validation: how well each ranks the wrong labels, and how long it takes.

python benchmarks/audit/cleanlab_peer.py                                          scikit-learn's digits, 30 epochs
python benchmarks/audit/cleanlab_peer.py --npz fashion_mnist.npz --epochs 15      first 10,000 training images of a file with the arrays
                                                                          train_images, train_labels, test_images, test_labels
[--noise symmetric:.4 pair:.3 ...] [--seeds 3] [--jobs 1] [--out FILE.csv]      needs `pip install cleanlab`

The same small CNN from scratch, Adam, one-cycle schedule with 3e-3, batch 64 (128 for --npz) in every training. cleanlab: the model trained five times on four fifths of the
training set, the probabilities of the fifth that was left out, `get_label_quality_scores` for the ranking and `find_label_issues` for what is flagged. fastnoisy: one
training on all with ALSOCallback and BMMFilterCallback, `learn.noise_report()`. Seconds include everything.
"""
import argparse, time, warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from itertools import product
from pathlib import Path
warnings.filterwarnings('ignore')
import cleanlab, numpy as np, pandas as pd, torch
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from fastai.basics import CrossEntropyLossFlat, Learner, set_seed
from fastai.callback.progress import ProgressCallback
from fastai.callback.schedule import fit_one_cycle
from sklearn.metrics import average_precision_score, precision_score, recall_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold
import fastnoisy
from fastnoisy.all import ALSOCallback, BMMFilterCallback, array_dls, small_cnn
from fastnoisy.noise.label_noise import as_noise
from fastnoisy.data.digits import digits_splits

def data(args, noise, seed):
    "Images, given labels, record of the noise"
    if args.npz:
        file = np.load(args.npz)
        x,y = file['train_images'][:args.n],file['train_labels'][:args.n].astype(np.int64)
    else: x,y = digits_splits()[0]
    return x,as_noise(noise)(y, inputs=x, generator=seed)

def trained(args, x, y, seed, cbs):
    "A Learner trained on all of `x`; what it is validated on does not matter here"
    set_seed(seed)
    dls = array_dls((x, y), (x[:256], y[:256]), vocab=[str(i) for i in range(10)], bs=128 if args.npz else 64, rgb=False, device='cpu')
    learn = Learner(dls, small_cnn(1, 10, 2 if args.npz else 1), loss_func=CrossEntropyLossFlat(), cbs=cbs)
    learn.remove_cb(ProgressCallback)
    with learn.no_logging(): learn.fit_one_cycle(args.epochs, 3e-3)
    return learn

def ours(args, x, given, seed):
    report = trained(args, x, given, seed, [ALSOCallback(), BMMFilterCallback()]).noise_report()
    return report.label_quality.values,report.is_label_issue.values

def theirs(args, x, given, seed):
    probs = np.zeros((len(x), 10))
    for fit,out in StratifiedKFold(5, shuffle=True, random_state=seed).split(x, given):
        learn = trained(args, x[fit], given[fit], seed, [])
        dl = array_dls((x[fit], given[fit]), (x[out], given[out]), vocab=[str(i) for i in range(10)], rgb=False, device='cpu').valid
        with learn.no_bar(): probs[out] = learn.get_preds(dl=dl)[0]
    return get_label_quality_scores(given, probs),find_label_issues(given, probs)

def experiment(args, noise, seed, method):
    torch.set_num_threads(1)
    x,record = data(args, noise, seed)
    start = time.perf_counter()
    quality,issue = dict(fastnoisy=ours, cleanlab=theirs)[method](args, x, record.given.numpy(), seed)
    wrong = record.flipped.numpy()
    return dict(data=args.npz.stem if args.npz else 'digits', noise=noise, seed=seed, method=method, epochs=args.epochs, auc=roc_auc_score(wrong, -quality),
                ap=average_precision_score(wrong, -quality), precision=precision_score(wrong, issue), recall=recall_score(wrong, issue),
                seconds=time.perf_counter()-start, fastnoisy=fastnoisy.__version__, cleanlab=cleanlab.__version__)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--npz', type=Path)
    p.add_argument('--n', type=int, default=10_000)
    p.add_argument('--noise', nargs='+', default=['symmetric:.4', 'pair:.3', 'instance:.4'])
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--epochs', type=int, default=30)
    p.add_argument('--jobs', type=int, default=1)
    p.add_argument('--out', type=Path)
    args = p.parse_args()
    out = args.out or Path(__file__).parents[1]/f'results/cleanlab_peer_{args.npz.stem if args.npz else "digits"}.csv'
    rows = []
    with ProcessPoolExecutor(args.jobs) as pool:
        for job in as_completed([pool.submit(experiment, args, *o) for o in product(args.noise, range(args.seeds), ('fastnoisy', 'cleanlab'))]):
            rows.append(job.result())
            pd.DataFrame(rows).sort_values(['noise', 'method', 'seed']).round(5).to_csv(out, index=False)
            print({k: round(v, 3) if isinstance(v, float) else v for k,v in rows[-1].items()}, flush=True)
    print(pd.DataFrame(rows).groupby(['noise', 'method'])[['auc', 'ap', 'precision', 'recall', 'seconds']].agg(['mean', 'std']).round(3).to_string())

if __name__ == '__main__': main()

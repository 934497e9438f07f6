"""One training with ALSO against cleanlab's five-fold cross-validation: ranking of the wrong labels, and time.

python benchmarks/audit/cleanlab_peer.py                                          scikit-learn's digits, 30 epochs
python benchmarks/audit/cleanlab_peer.py --npz fashion_mnist.npz --epochs 15      10,000 training images of a file with
                                           train_images, train_labels, test_images, test_labels
[--noise symmetric:.4 pair:.3 ...] [--seeds 3] [--jobs 1] [--out FILE.csv] [--resume]      needs `pip install cleanlab`

The same small CNN from scratch, Adam, one-cycle schedule with 3e-3, batch 64 (128 for --npz) in every training.
cleanlab: the model trained five times on four fifths of the training set, the probabilities of the fifth that was
left out, `get_label_quality_scores` for the ranking and `find_label_issues` for what is flagged. fastnoisy: one
training on all with ALSOCallback and BMMFilterCallback, `learn.noise_report()`. Seconds include everything.
"""
import sys, time
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parents[1]))
from common import RESULTS, VERSIONS, Rows, arguments, data_name, means, measure, tasks
import cleanlab, numpy as np
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from fastai.basics import CrossEntropyLossFlat, Learner, set_seed
from fastai.callback.progress import ProgressCallback
from fastai.callback.schedule import fit_one_cycle
from sklearn.metrics import average_precision_score, precision_score, recall_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold
from fastnoisy.all import ALSOCallback, BMMFilterCallback, array_dls, small_cnn
from fastnoisy.noise.label_noise import as_noise
from fastnoisy.data.digits import digits_splits

VOCAB = [str(i) for i in range(10)]

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
    bs,stride = (128, 2) if args.npz else (64, 1)
    dls = array_dls((x, y), (x[:256], y[:256]), vocab=VOCAB, bs=bs, rgb=False, device='cpu')
    learn = Learner(dls, small_cnn(1, 10, stride), loss_func=CrossEntropyLossFlat(), cbs=cbs)
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
        dl = array_dls((x[fit], given[fit]), (x[out], given[out]), vocab=VOCAB, rgb=False, device='cpu').valid
        with learn.no_bar(): probs[out] = learn.get_preds(dl=dl)[0]
    return get_label_quality_scores(given, probs),find_label_issues(given, probs)

def experiment(args, noise, seed, method):
    x,record = data(args, noise, seed)
    start = time.perf_counter()
    quality,issue = dict(fastnoisy=ours, cleanlab=theirs)[method](args, x, record.given.numpy(), seed)
    seconds,wrong = time.perf_counter() - start,record.flipped.numpy()
    return dict(data=data_name(args), noise=noise, seed=seed, method=method, epochs=args.epochs,
                auc=roc_auc_score(wrong, -quality), ap=average_precision_score(wrong, -quality),
                precision=precision_score(wrong, issue), recall=recall_score(wrong, issue), seconds=seconds,
                cleanlab=cleanlab.__version__, **VERSIONS)

def main():
    p = arguments(__doc__, seeds=3, epochs=30, jobs=1, npz=True)
    p.add_argument('--noise', nargs='+', default=['symmetric:.4', 'pair:.3', 'instance:.4'])
    args = p.parse_args()
    name = data_name(args)
    rows = Rows(args.out or RESULTS/f'cleanlab_peer_{name}.csv', args.resume, data=name, epochs=args.epochs)
    measure(experiment, args, tasks(noise=args.noise, seed=range(args.seeds), method=['fastnoisy', 'cleanlab']), rows)
    rows.sort('noise', 'method', 'seed')
    means(rows, ['noise', 'method'], ['auc', 'ap', 'precision', 'recall', 'seconds'])

if __name__ == '__main__': main()

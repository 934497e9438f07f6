"""How many of the labels that people really got wrong does an audit put first? Beside plain training, and cleanlab.

python benchmarks/audit/audit_cifar.py FILE.npz [--epochs 30] [--folds 5] [--seeds 1] [--methods audit loss cleanlab]
[--arch small_cnn] [--as-folder] [--out FILE.csv] [--resume]

FILE.npz holds images, uint8 (n, 32, 32, 3), labels, the right class ids, and given, those of the annotators. With
CIFAR-10 and the `human_random1` labels of CIFAR-10N the training images 5,000 to 9,999 have 18 % wrong labels. The
audit's temperature was chosen with a look at the first 3,000, so these are none of them. --as-folder writes PNG files
into one folder per given label first and audits that folder, which is what a user does; else the audit reads an .npz.

The same network, epochs, schedule, augmentation and seeds for all. One row per method and seed: share of the wrong
labels among the first 10 % of the list, and how many of these are wrong; the same for as many as there are wrong
labels; ROC-AUC and average precision; seconds of all trainings that it needs. cleanlab, where it is installed, trains
`folds` times, for probabilities of samples that were not trained on.
"""
import sys, tempfile, time
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parents[1]))
from common import VERSIONS, Rows, arguments, means, measure, tasks
import numpy as np
from fastai.callback.progress import ProgressCallback
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold
from fastnoisy.core.rng import isolated_rng
from fastnoisy.audit.run import audit
from fastnoisy.audit.sources import labelled_npz
from fastnoisy.audit.learners import labelled_learner
from fastnoisy.core.predict import predict

METHODS = ['audit', 'loss', 'cleanlab']

def write_folder(folder, images, given):
    for i,(image,label) in enumerate(zip(images, given)):
        file = folder/f'class {label}/{i:05}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)

def by_audit(args, tmp, images, given, seed):
    if args.as_folder:
        write_folder(tmp/'images', images, given)
        source = dict(path=tmp/'images')
    else:
        np.savez(tmp/'data.npz', images=images, labels=given)
        source = dict(npz=tmp/'data.npz')
    report = audit(**source, arch=args.arch, epochs=args.epochs, pretrained=False, seed=seed, device=args.device,
                   out=tmp/'out', plant=0)
    rows = report.row.values
    if args.as_folder: rows = np.array([int(Path(o).stem) for o in report['item']])
    flagged,position = np.zeros(len(given), bool),np.empty(len(given))
    flagged[rows] = report.is_label_issue
    position[rows[report.ranked().index]] = np.arange(len(rows))
    suspicion = np.empty(len(given))
    suspicion[rows] = -report.label_quality
    return dict(audit=-position, also=suspicion),flagged

def plain(args, tmp, images, given, seed, held_out=None):
    "Probabilities and losses of plain training on `images`, the first for other images where they are given"
    np.savez(tmp/'plain.npz', images=images, labels=given)
    samples = labelled_npz(tmp/'plain.npz')
    with isolated_rng(seed):
        learn,*_ = labelled_learner(samples, args.arch, pretrained=False, device=args.device)
        learn.recorder.train_metrics,learn.recorder.valid_metrics = True,False
        learn.remove_cbs(ProgressCallback)
        with learn.no_logging(): learn.fit_one_cycle(args.epochs, 3e-3)
    if held_out is None:
        p = predict(learn)
        return p.targets.numpy(), p.logits.softmax(1).numpy(), p.losses.numpy()
    with learn.no_bar(): return learn.get_preds(dl=learn.dls.test_dl(list(held_out)))[0].numpy()

def by_cleanlab(args, tmp, images, given, seed):
    from cleanlab.rank import get_label_quality_scores
    probs = np.zeros((len(given), given.max() + 1))
    for train,test in StratifiedKFold(args.folds, shuffle=True, random_state=seed).split(images, given):
        probs[test] = plain(args, tmp, images[train], given[train], seed, images[test])
    return -get_label_quality_scores(given, probs)

def scores(method, suspicion, wrong, seconds, seed, args):
    order = np.argsort(-suspicion, kind='stable')
    tenth,n_wrong = wrong[order[:len(wrong)//10]],int(wrong.sum())
    return dict(method=method, seed=seed, epochs=args.epochs, arch=args.arch, n=len(wrong), n_wrong=n_wrong,
                found_in_first_tenth=tenth.sum()/n_wrong, precision_of_first_tenth=tenth.mean(),
                found_in_first_n_wrong=wrong[order[:n_wrong]].mean(), auc=roc_auc_score(wrong, suspicion),
                ap=average_precision_score(wrong, suspicion), seconds=seconds, **VERSIONS)

def experiment(args, seed, method):
    "Rows of one method: the audit ranks by its report, and by ALSO alone"
    data = np.load(args.npz, allow_pickle=False)
    images,given = data['images'],data['given'].astype(np.int64)
    wrong,start = given != data['labels'],time.perf_counter()
    with tempfile.TemporaryDirectory() as tmp:
        given_to = args, Path(tmp), images, given, seed
        if method == 'audit': ranked,flagged = by_audit(*given_to)
        elif method == 'loss': ranked = dict(loss=plain(*given_to)[2])
        else: ranked = dict(cleanlab=by_cleanlab(*given_to))
    seconds,more = time.perf_counter() - start,{}
    if method == 'audit': more = dict(n_flagged=int(flagged.sum()), n_flagged_wrong=int((flagged & wrong).sum()))
    if method == 'cleanlab': more = dict(folds=args.folds)
    return [dict(scores(name, suspicion, wrong, seconds, seed, args), **more) for name,suspicion in ranked.items()]


def main():
    p = arguments(__doc__, seeds=1, epochs=30, out='audit_cifar.csv')
    p.add_argument('npz', type=Path)
    p.add_argument('--folds', type=int, default=5)
    p.add_argument('--methods', nargs='+', choices=METHODS, default=METHODS)
    p.add_argument('--arch', default='small_cnn')
    p.add_argument('--device', default='cpu')
    p.add_argument('--as-folder', action='store_true')
    args = p.parse_args()
    rows = Rows(args.out, args.resume, digits=4, epochs=args.epochs, arch=args.arch)
    measure(experiment, args, tasks(seed=range(args.seeds), method=args.methods), rows)
    means(rows, ['method'], ['found_in_first_tenth', 'found_in_first_n_wrong', 'auc', 'ap', 'seconds'], ['mean'])

if __name__ == '__main__': main()

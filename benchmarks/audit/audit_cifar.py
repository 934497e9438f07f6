"""How many of the labels that people really got wrong does an audit put first? Beside the ranking by the loss of plain training and, where it is installed, cleanlab.

python benchmarks/audit/audit_cifar.py FILE.npz [--epochs 30] [--folds 5] [--seeds 0] [--methods audit loss cleanlab] [--arch small_cnn] [--as-folder] [--out FILE.csv]

FILE.npz holds images, uint8 (n, 32, 32, 3), labels, the right class ids, and given, those of the annotators. With CIFAR-10 and the `human_random1` labels of CIFAR-10N the
training images 5,000 to 9,999 have 18 % wrong labels. The audit's temperature was chosen with a look at the first 3,000, so these are none of them. --as-folder writes PNG files into one folder per given label first and audits that folder, which is what a user does; else the audit reads an .npz.

The same network, epochs, schedule, augmentation and seeds for all. One row per method and seed: share of the wrong labels among the first 10 % of the list, and how many of these are wrong; the same for as
many as there are wrong labels; ROC-AUC and average precision; seconds of all trainings that it needs. cleanlab trains `folds` times, for probabilities of samples that were not trained on.
"""
import argparse, tempfile, time, warnings
from pathlib import Path
warnings.filterwarnings('ignore')
import fastai, numpy as np, pandas as pd, torch
from fastai.callback.progress import ProgressCallback
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold
import fastnoisy
from fastnoisy.core.rng import isolated_rng
from fastnoisy.audit.run import audit
from fastnoisy.audit.sources import labelled_npz
from fastnoisy.audit.learners import labelled_learner
from fastnoisy.core.predict import predict

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
    report = audit(**source, arch=args.arch, epochs=args.epochs, pretrained=False, seed=seed, device=args.device, out=tmp/'out')
    rows = np.array([int(Path(o).stem) for o in report['item']]) if args.as_folder else report.row.values
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
    tenth,n_wrong = len(wrong)//10,int(wrong.sum())
    return dict(method=method, seed=seed, epochs=args.epochs, arch=args.arch, n=len(wrong), n_wrong=n_wrong, found_in_first_tenth=wrong[order[:tenth]].sum()/n_wrong,
                precision_of_first_tenth=wrong[order[:tenth]].mean(), found_in_first_n_wrong=wrong[order[:n_wrong]].mean(), auc=roc_auc_score(wrong, suspicion),
                ap=average_precision_score(wrong, suspicion), seconds=seconds, fastnoisy=fastnoisy.__version__, torch=torch.__version__, fastai=fastai.__version__)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('npz', type=Path)
    p.add_argument('--epochs', type=int, default=30)
    p.add_argument('--folds', type=int, default=5)
    p.add_argument('--seeds', type=int, nargs='+', default=[0])
    p.add_argument('--methods', nargs='+', choices=['audit', 'loss', 'cleanlab'], default=['audit', 'loss', 'cleanlab'])
    p.add_argument('--arch', default='small_cnn')
    p.add_argument('--device', default='cpu')
    p.add_argument('--as-folder', action='store_true')
    p.add_argument('--out', type=Path, default=Path(__file__).parents[1]/'results/audit_cifar.csv')
    args = p.parse_args()
    data = np.load(args.npz, allow_pickle=False)
    images,given,wrong = data['images'],data['given'].astype(np.int64),data['given'] != data['labels']
    rows = []
    def note(start, seed, method, suspicion, **more):
        rows.append(dict(scores(method, suspicion, wrong, time.perf_counter() - start, seed, args), **more))
        pd.DataFrame(rows).round(4).to_csv(args.out, index=False)
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as tmp:
            for name in args.methods:
                start = time.perf_counter()
                if name == 'audit':
                    ranked,flagged = by_audit(args, Path(tmp), images, given, seed)
                    for method,suspicion in ranked.items(): note(start, seed, method, suspicion, n_flagged=int(flagged.sum()), n_flagged_wrong=int((flagged & wrong).sum()))
                if name == 'loss': note(start, seed, 'loss', plain(args, Path(tmp), images, given, seed)[2])
                if name == 'cleanlab': note(start, seed, 'cleanlab', by_cleanlab(args, Path(tmp), images, given, seed), folds=args.folds)
    print(pd.DataFrame(rows).groupby('method', sort=False).mean(numeric_only=True).round(3).to_string())

if __name__ == '__main__': main()

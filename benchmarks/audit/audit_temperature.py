"""ALSO's temperature in an audit: how it ranks and flags the wrong labels of two of scikit-learn's tables.

python benchmarks/audit/audit_temperature.py [--temperatures .25 .5 1] [--rates .1 .27] [--seeds 1]
[--out FILE.csv] [--resume]

A share of the labels is moved to another class, the table audited as a CSV, 30 epochs. One row per table, rate,
temperature and seed: ROC-AUC of the ranking, how many labels are flagged, and how many of these are wrong.
"""
import contextlib, io, sys, tempfile
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parents[1]))
from common import VERSIONS, Rows, arguments, means, measure, tasks
import numpy as np
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.metrics import roc_auc_score
import fastnoisy.audit.run as audit_module

TABLES = dict(wine=load_wine, breast_cancer=load_breast_cancer)

def wrong_labels(y, rate, seed):
    rng = np.random.default_rng(seed)
    wrong,k = rng.random(len(y)) < rate,y.max() + 1
    return np.where(wrong, (y + rng.integers(1, k, len(y))) % k, y),wrong

def experiment(args, data, rate, seed, temperature):
    table,audit_module.TEMPERATURE = TABLES[data](as_frame=True),temperature
    given,wrong = wrong_labels(table.target.values, rate, seed)
    with tempfile.TemporaryDirectory() as tmp, contextlib.redirect_stdout(io.StringIO()):
        table.data.assign(label=given).to_csv(f'{tmp}/table.csv', index=False)
        where = dict(csv=f'{tmp}/table.csv', out=f'{tmp}/out')
        report = audit_module.audit(**where, epochs=args.epochs, seed=seed, device='cpu', plant=0)
    issue = report.is_label_issue
    return dict(data=data, n=len(wrong), n_wrong=int(wrong.sum()), temperature=temperature, seed=seed,
                auc=roc_auc_score(wrong, -report.label_quality), n_flagged=int(issue.sum()),
                n_flagged_wrong=int((issue & wrong).sum()), rate=rate, epochs=args.epochs, **VERSIONS)

def main():
    p = arguments(__doc__, seeds=1, epochs=30, out='audit_temperature.csv')
    p.add_argument('--temperatures', type=float, nargs='+', default=[.25, .5, 1.])
    p.add_argument('--rates', type=float, nargs='+', default=[.1, .27])
    args = p.parse_args()
    rows = Rows(args.out, args.resume, digits=4, epochs=args.epochs)
    todo = tasks(data=TABLES, rate=args.rates, seed=range(args.seeds), temperature=args.temperatures)
    measure(experiment, args, todo, rows)
    means(rows, ['data', 'rate', 'temperature'], ['auc', 'n_flagged', 'n_flagged_wrong'])

if __name__ == '__main__': main()

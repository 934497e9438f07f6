"""ALSO's temperature in an audit: how it ranks and flags the wrong labels of two of scikit-learn's tables.

python benchmarks/audit/audit_temperature.py [--temperatures .25 .5 1] [--rates .1 .27] [--seeds 0] [--out FILE.csv]

A share of the labels is moved to another class, the table audited as a CSV, 30 epochs. One row per table, rate, temperature and seed: ROC-AUC of the ranking, how many labels are flagged, and how many of these are wrong.
"""
import argparse, contextlib, io, tempfile
from pathlib import Path
import numpy as np, pandas as pd, torch
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.metrics import roc_auc_score
import fastnoisy
import fastnoisy.audit.run as audit_module

def wrong_labels(y, rate, seed):
    rng = np.random.default_rng(seed)
    wrong,k = rng.random(len(y)) < rate,y.max() + 1
    return np.where(wrong, (y + rng.integers(1, k, len(y))) % k, y),wrong

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--temperatures', type=float, nargs='+', default=[.25, .5, 1.])
    p.add_argument('--rates', type=float, nargs='+', default=[.1, .27])
    p.add_argument('--seeds', type=int, nargs='+', default=[0])
    p.add_argument('--out', type=Path, default=Path(__file__).parents[1]/'results/audit_temperature.csv')
    args = p.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name,load in dict(wine=load_wine, breast_cancer=load_breast_cancer).items():
        data = load(as_frame=True)
        for rate in args.rates:
            for seed in args.seeds:
                given,wrong = wrong_labels(data.target.values, rate, seed)
                for audit_module.TEMPERATURE in args.temperatures:
                    with tempfile.TemporaryDirectory() as tmp, contextlib.redirect_stdout(io.StringIO()):
                        data.data.assign(label=given).to_csv(f'{tmp}/table.csv', index=False)
                        report = audit_module.audit(csv=f'{tmp}/table.csv', seed=seed, device='cpu', out=f'{tmp}/out')
                    rows.append(dict(data=name, n=len(wrong), n_wrong=int(wrong.sum()), temperature=audit_module.TEMPERATURE, seed=seed, auc=roc_auc_score(wrong, -report.label_quality),
                                     n_flagged=int(report.is_label_issue.sum()), n_flagged_wrong=int((report.is_label_issue & wrong).sum()), fastnoisy=fastnoisy.__version__))
                    print(rows[-1], flush=True)
    pd.DataFrame(rows).round(4).to_csv(args.out, index=False)

if __name__ == '__main__': main()

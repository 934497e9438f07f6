"Reports as of a training, of samples and labels given as they are."
import numpy as np, pandas as pd, torch
from PIL import Image
from fastai.basics import CrossEntropyLossFlat, DataLoaders, Learner
from fastai.data.core import TfmdDL
from fastnoisy.analysis.report.decisions import data_id_of
from fastnoisy.analysis.report.table import NoiseReport

def made_report(values, given, suggested, p=None, vocab=None, items=None, embedding=None, flagged=None, **columns):
    "A report as of a training, of samples given as they are"
    n,vocab = len(given),list(vocab or sorted({*given, *suggested}))
    dls = DataLoaders(TfmdDL(values, bs=4, num_workers=0), TfmdDL(values, bs=4, num_workers=0))
    flagged = np.array(given) != np.array(suggested) if flagged is None else np.asarray(flagged)
    p = np.where(flagged, .9, .1) if p is None else p
    report = NoiseReport(dict(sample_id=np.arange(n), item=items or list(range(n)), is_label_issue=flagged,
                              label_quality=1 - np.asarray(p), given_label=given, predicted_label=suggested,
                              suggested_label=suggested, noise_probability=p, **columns))
    report.learn = Learner(dls, torch.nn.Linear(2, 2), loss_func=CrossEntropyLossFlat())
    report.vocab,report.source,report.separates,report.estimate = vocab,'made up',True,None
    report.noise_rate,report.interval = flagged.mean(),(0., 1.)
    rows = [dict(n=sum(o == c for o in given), n_issues=0, noise_rate=0.) for c in vocab]
    report.per_class = pd.DataFrame(rows, index=pd.Index(vocab, name='given_label'))
    report.transition = np.eye(len(vocab))
    report.whole = pd.DataFrame(report[['sample_id', 'item', 'is_label_issue', 'label_quality', 'given_label']])
    report.data_id,report.embedding = data_id_of(report),embedding
    return report

def pictures(n, size=12):
    "Random images whose red value is their number"
    res = np.random.default_rng(0).integers(0, 255, (n, size, size, 3), dtype=np.uint8)
    res[...,0] = np.arange(n)[:,None,None] % 256
    return [(Image.fromarray(o), 0) for o in res]

def small_report(n=24, **kwargs):
    "The first six cats of twelve are dogs, the first two dogs cats, one of them is a bird's"
    given = ['cat']*(n//2) + ['dog']*(n - n//2 - 2) + ['bird']*2
    suggested = ['dog']*6 + given[6:]
    suggested[n//2] = suggested[n//2 + 1] = 'cat'
    p = np.where(np.array(given) != suggested, np.linspace(.99, .6, n), .05)
    return made_report(pictures(n), given, suggested, p, items=[f'pics/{g}/{i:02}.png' for i,g in enumerate(given)],
                       embedding=torch.randn(n, 5, generator=torch.Generator().manual_seed(0)), **kwargs)

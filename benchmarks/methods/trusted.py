"""Ten trusted labels of each class: what plain training and the methods make of them.

python benchmarks/methods/trusted.py [--seeds 3] [--epochs 30] [--out CSV]

scikit-learn's digits, small_cnn, Adam, one-cycle schedule with 3e-3. Of the noisy training labels ten of each class
are set right; all methods are trained on them, and GLC and L2R are told which they are. Accuracy on the clean test set
after the last epoch. It can be stopped, and goes on from there.
"""
import argparse, sys
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parents[1]))
from common import RESULTS
import numpy as np, pandas as pd
from fastai.basics import CrossEntropyLossFlat, Learner, accuracy, set_seed
from fastai.callback import schedule
from fastnoisy.callback.meta import L2RCallback
from fastnoisy.callback.transition import GLCCallback, TransitionCallback
from fastnoisy.data.arrays import array_dls
from fastnoisy.data.digits import digits_dls, digits_splits
from fastnoisy.models import small_cnn

NOISE = 'symmetric:.4','pair:.45'
METHODS = dict(ce=lambda ids: [], forward=lambda ids: [TransitionCallback()],
               glc=lambda ids: [GLCCallback(ids)], l2r=lambda ids: [L2RCallback(ids)])

def data(noise, seed, per_class=10):
    "Loaders, and the ids of the trusted samples"
    train,valid,test = digits_splits(0)
    true = np.asarray(train[1])
    noisy = digits_dls(noise=noise, seed=seed, device='cpu')
    rng = np.random.default_rng(seed)
    ids = np.concatenate([rng.choice((true == k).nonzero()[0], per_class, replace=False) for k in np.unique(true)])
    labels = np.array(noisy.noise.given)
    labels[ids] = true[ids]
    return array_dls((train[0], labels), (valid[0], np.array(noisy.valid_noise.given)), test, device='cpu'),ids

def accuracy_of(method, noise, seed, epochs):
    dls,ids = data(noise, seed)
    set_seed(seed)
    learn = Learner(dls, small_cnn(dls.n_channels, dls.c), loss_func=CrossEntropyLossFlat(), cbs=METHODS[method](ids))
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(epochs, 3e-3)
        return accuracy(*learn.get_preds(dl=dls.test)).item()

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--epochs', type=int, default=30)
    p.add_argument('--out', type=Path, default=RESULTS/'trusted.csv')
    args = p.parse_args()
    rows = pd.read_csv(args.out).to_dict('records') if args.out.exists() else []
    done = {(o['noise'], o['seed'], o['method']) for o in rows}
    for seed in range(args.seeds):
        for noise in NOISE:
            for method in METHODS:
                if (noise, seed, method) in done: continue
                rows.append(dict(noise=noise, seed=seed, method=method))
                rows[-1]['accuracy_last'] = round(accuracy_of(method, noise, seed, args.epochs), 5)
                pd.DataFrame(rows).to_csv(args.out, index=False)
    frame = pd.DataFrame(rows)
    print(frame.groupby(['noise', 'method']).accuracy_last.agg(['mean', 'std', 'count']).round(3).to_string())

if __name__ == '__main__': main()

"""Which labels are wrong, early (epoch 3) and late (epoch 10)? LiLAW's weights against scores of training dynamics (Table 16 of the paper, at a scale for two CPU cores).

python benchmarks/lilaw_detection.py --npz fashion_mnist.npz      first 10,000 training images of a file with train_images, train_labels, test_images, test_labels
python benchmarks/lilaw_detection.py                              scikit-learn's digits
[--noise .5] [--seeds 3] [--out FILE.csv]

Small CNN from scratch, Adam, one-cycle schedule with 3e-3 over 10 epochs, symmetric noise; two trainings with the same labels, weights at the start and order of the data: plain, with the
scores of `DynamicsCallback`, and LiLAW. One pass over the training data after the epoch gives LiLAW's three weights and their sum (a low W_alpha and sum, a high W_beta and W_delta are
suspicious: the sides with the better result in the paper), and beside them the two numbers they are made of: the probability of the given label, and that minus the largest.
ROC-AUC and average precision of telling wrong labels.
"""
import argparse, warnings
from functools import partial
from pathlib import Path
warnings.filterwarnings('ignore')
import fastai, pandas as pd, torch
from fastai.callback.core import Callback
from sklearn.metrics import average_precision_score, roc_auc_score
import fastnoisy
from fastnoisy.all import SCORES, DynamicsCallback, LiLAWCallback, digits_dls, register_method, run_one, small_cnn, to_quality
from fastnoisy.aside import forward_aside, run_in_order
from fastnoisy.callback.lilaw import difficulty, terms_at
from compare import from_npz

class At(Callback):
    "Detection after the epochs 3 and 10"
    def __init__(self, signals): self.signals,self.rows = signals,[]
    def after_train(self):
        if self.epoch + 1 not in (3, 10): return
        wrong = self.dls.noise.flipped.numpy()
        for name,quality in self.signals(self.learn).items():
            self.rows.append(dict(signal=name, epoch=self.epoch + 1, auc=roc_auc_score(wrong, -quality), ap=average_precision_score(wrong, -quality)))

def known(quality): return pd.Series(quality).fillna(.5).values

def dynamics(learn):
    raw = learn.dynamics.scores()
    return {o: known(to_quality(raw[o], SCORES[o].high)) for o in raw}

def weights(learn):
    logits = []
    run_in_order(learn.dls.train, lambda ids, b: logits.append(forward_aside(learn.model, b[0])))
    s_y,s_max = difficulty(torch.cat(logits).float().softmax(1), learn.dls.noise.given)
    alpha,beta,delta = terms_at(s_y, s_max, *learn.lilaw.state.params).unbind(1)
    return {k: v.numpy() for k,v in dict(W_alpha=alpha, W_beta=-beta, W_delta=-delta, W=alpha+beta+delta, label_probability=s_y, probability_margin=s_y-s_max).items()}

register_method('plain', lambda: dict(cbs=[DynamicsCallback(), At(dynamics)]), '')
register_method('weights', lambda: dict(cbs=[LiLAWCallback(), At(weights)]), '')

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--npz', type=Path)
    p.add_argument('--noise', type=float, default=.5)
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--out', type=Path)
    args = p.parse_args()
    torch.set_num_threads(1)
    data = args.npz.stem if args.npz else 'digits'
    out = args.out or Path(__file__).parent/f'results/lilaw_table16_{data}.csv'
    rows = []
    for seed in range(args.seeds):
        for method in ('plain', 'weights'):
            if args.npz: dls,stride = from_npz(args.npz, 10_000, args.noise, seed),2
            else: dls,stride = digits_dls(noise=args.noise, seed=seed, device='cpu'),1
            learn,row = run_one(dls, partial(small_cnn, dls.n_channels, dls.c, stride), method, 10, seed=seed)
            rows += [dict(data=data, noise=args.noise, seed=seed, training=method, **o, fastnoisy=fastnoisy.__version__, torch=torch.__version__, fastai=fastai.__version__)
                     for o in learn.at.rows]
            pd.DataFrame(rows).round(5).to_csv(out, index=False)
    print(pd.DataFrame(rows).groupby(['training', 'signal', 'epoch'], sort=False)[['auc', 'ap']].mean().unstack().round(3).to_string())

if __name__ == '__main__': main()

"""How far estimates of the transition matrix are off, by estimator and by how long the model has been trained.

python benchmarks/methods/transition.py [--seeds 3] [--epochs 30]

scikit-learn's digits, small_cnn, Adam, one-cycle schedule of 30 epochs with 3e-3, stopped after 10, 20 and 33 % of it.
`error` is the sum of absolute errors of a row, in [0, 2], the mean over the classes. EM takes its temperature from the
validation labels, which are as noisy.
"""
import argparse, sys
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parents[1]))
from common import RESULTS
import pandas as pd
from fastai.basics import Callback, CancelFitException, CrossEntropyLossFlat, Learner, set_seed
from fastai.callback import schedule
from fastnoisy.analysis.transition import estimate_transition, fit_noise
from fastnoisy.core.predict import predict
from fastnoisy.data.digits import digits_dls
from fastnoisy.models import small_cnn

NOISE = 'symmetric:.05','symmetric:.2','symmetric:.4','pair:.3'
STOPS = 3,6,10

class EndAfter(Callback):
    "End the fit after some epochs of a longer schedule"
    def __init__(self, n): self.n = n
    def before_epoch(self):
        if self.epoch >= self.n: raise CancelFitException

def trained(noise, seed, stop, epochs):
    set_seed(seed)
    dls = digits_dls(noise=noise, seed=seed, device='cpu')
    learn = Learner(dls, small_cnn(dls.n_channels, dls.c), loss_func=CrossEntropyLossFlat())
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 3e-3, cbs=EndAfter(stop))
    return learn

def errors(learn):
    "Estimator -> mean error of a row"
    found,valid = predict(learn),predict(learn, learn.dls.valid)
    temperature = fit_noise(valid.logits, valid.targets)[0]
    true = learn.dls.noise.matrix().float()
    for by in ('em', 'count', 'anchor', 'dual-t'):
        T = estimate_transition(found.logits, found.targets, by, temperature).T
        yield by, (T - true).abs().sum(1).mean().item()

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--epochs', type=int, default=30)
    args = p.parse_args()
    rows = []
    for seed in range(args.seeds):
        for noise in NOISE:
            for stop in STOPS:
                found = errors(trained(noise, seed, stop, args.epochs))
                rows += [dict(noise=noise, seed=seed, epochs=stop, by=by, error=round(e, 4)) for by,e in found]
    frame = pd.DataFrame(rows)
    frame.to_csv(RESULTS/'transition.csv', index=False)
    print(frame.pivot_table('error', ['noise', 'epochs'], 'by').round(2).to_string())

if __name__ == '__main__': main()

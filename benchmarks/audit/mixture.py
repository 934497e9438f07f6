"""Time of BetaMixture on a million values against the direct ten-iteration fit of Arazo et al., in one process.

    OMP_NUM_THREADS=1 python benchmarks/audit/mixture.py [--values 1000000] [--runs 5]
"""
import argparse, time
import numpy as np
from scipy import stats
from fastnoisy.analysis.mixture import BetaMixture

def direct_fit(x, iterations=10):
    "Share of the second component after EM with weighted moments, value by value, as published"
    x = np.clip(x, 1e-4, 1 - 1e-4)
    alphas,betas,weights = np.array([1., 2.]),np.array([2., 1.]),np.array([.5, .5])
    for _ in range(iterations):
        resp = np.array([weights[k]*stats.beta.pdf(x, alphas[k], betas[k]) for k in range(2)])
        resp[resp <= 1e-12] = 1e-12
        resp /= resp.sum(0)
        for k in range(2):
            mean = (resp[k]*x).sum()/resp[k].sum()
            var = (resp[k]*(x - mean)**2).sum()/resp[k].sum()
            alphas[k] = mean*(mean*(1 - mean)/var - 1)
            betas[k] = alphas[k]*(1 - mean)/mean
        weights = resp.sum(1)/len(x)
    return weights[1]

def timed(function):
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result

def values(n):
    rng = np.random.default_rng(0)
    noisy = rng.random(n) < .4
    return np.where(noisy, rng.beta(5, 2, n), rng.beta(2, 6, n))

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--values', type=int, default=1_000_000)
    p.add_argument('--runs', type=int, default=5)
    args = p.parse_args()
    x,fast = values(args.values),{'ml': BetaMixture(), 'moments, 10 iterations': BetaMixture('moments', max_iter=10)}
    ratios = {name: [] for name in fast}
    for mixture in fast.values(): mixture.fit(x[:1000])
    for run in range(args.runs):
        seconds,share = timed(lambda: direct_fit(x))
        print(f'run {run}: direct {seconds:.3f} s, share {share:.3f}', end='')
        for name,mixture in fast.items():
            quick,_ = timed(lambda: mixture.fit(x))
            ratios[name].append(seconds/quick)
            print(f'; {name} {1000*quick:.1f} ms, share {mixture.noise_rate:.3f}', end='')
        print(f'; posterior {1000*timed(lambda: fast["ml"].posterior(x))[0]:.1f} ms')
    for name,r in ratios.items():
        print(f'{name}: median {np.median(r):.0f} times faster than direct ({min(r):.0f} to {max(r):.0f}), '
              f'{args.values:,} values')

if __name__ == '__main__': main()

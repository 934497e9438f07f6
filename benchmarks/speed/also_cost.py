"""Cost of ALSO: its modes against plain training, and its own part of a step as the number of samples grows.

python benchmarks/speed/also_cost.py [--n 50000] [--sizes 10000 100000 1000000 10000000]
[--arch resnet18] [--size 64] [--bs 64] [--steps 6] [--rounds 9] [--out FILE.csv]

Rows `mode ...`: a training step as in step.py with --n weights, against plain training in the same run (median,
smallest and largest ratio over the rounds). The images are few; each of them stands for one of the --n weights, and
the horizon is as long as 10 epochs of --n samples are.

Rows `weights of N`: what ALSO adds to a step, looking up the weights of a batch and moving them, for each N in
--sizes: the median in microseconds, alone and with its share of the sums over all N, which are added up anew every so
many steps. `ratio` is the whole step (plain step and this) against that at the first size.
"""
import math, sys, time
from pathlib import Path
from statistics import median
sys.path.insert(0, str(Path(__file__).parents[1]))
from speed.step import ratios, step_arguments
import pandas as pd, torch
from fastnoisy.all import ALSOCallback, register_method
from fastnoisy.callback.also import ALSOWeights, MODES

HORIZON,TEMPERATURE = 10,.25

def modes(args):
    "One row per mode, plain training first"
    n = args.bs*args.steps
    for mode in MODES:
        groups,horizon = torch.linspace(0, args.n-1, n).long(),HORIZON*args.n/n
        options = dict(groups=groups, horizon=horizon, mode=mode)
        register_method(f'mode {mode}', lambda o=options: dict(cbs=ALSOCallback(**o)), '')
    for row in ratios([f'mode {o}' for o in MODES], args): yield dict(row, n=args.n)

def microseconds(n, bs, steps=2000, seed=0):
    "Of a step of the weights of `n` samples: median over steps, alone and with its share of the sums over all n"
    gen = torch.Generator().manual_seed(seed)
    weights,lr = ALSOWeights(n),math.expm1(bs/(HORIZON*n))/TEMPERATURE
    batches = [(torch.randint(n, (bs,), generator=gen), 4*torch.rand(bs, generator=gen)) for _ in range(steps)]
    add_up,weights.refresh = [],math.inf # the sums are timed apart: at large n none falls into so few steps
    for _ in range(3):
        start = time.perf_counter()
        weights._add_up()
        add_up.append(time.perf_counter() - start)
    times = []
    for ids,losses in batches:
        start = time.perf_counter()
        weights.weights(ids)
        weights.step(ids, losses*(n/bs), lr, TEMPERATURE)
        times.append(time.perf_counter() - start)
    per_step = math.log1p(TEMPERATURE*lr)/ALSOWeights.refresh
    return 1e6*median(times), 1e6*(median(times) + median(add_up)*per_step)

def main():
    p = step_arguments(__doc__, 'also_cost.csv')
    p.add_argument('--n', type=int, default=50_000)
    p.add_argument('--sizes', type=int, nargs='+', default=[10**k for k in range(4, 8)])
    args = p.parse_args()
    rows = list(modes(args))
    plain,first = 1000*rows[0]['step_ms'],None
    for n in args.sizes:
        alone,all_in = microseconds(n, args.bs)
        first = first or plain + all_in
        ratio = round((plain + all_in)/first, 3)
        times = dict(also_us=round(alone, 1), with_sums_us=round(all_in, 1))
        rows.append(dict(method=f'weights of {n}', n=n, **times, ratio=ratio))
    df = pd.DataFrame(rows)
    df.to_csv(args.out, index=False)
    print(df.to_string(index=False))

if __name__ == '__main__': main()

"""Cost of a whole fit: the processor time of each method's training against that of plain training, in one run.

python benchmarks/speed/fit.py [--methods elr divide-mix] [--epochs 8] [--rounds 2] [--out FILE.csv] [--resume]

As in benchmarks/methods/peers.py: scikit-learn's digits with 40 % wrong labels, small_cnn, one-cycle schedule; with
fewer epochs, as all phases of a method are shares of the fit. Everything that a method does counts, passes between
the epochs too, but neither the data nor the first import. One thread; processor time, so that other work on the machine
matters little; each fit lies between two of plain training, whose mean it is compared with. Without --methods: all
those of results/peers_*.csv, but not what differs from them in options alone. With --resume, rows of the file are kept
and the other methods added.
"""
import sys, time
from pathlib import Path
from statistics import median
sys.path.insert(0, str(Path(__file__).parents[1]))
from common import RESULTS, Rows, arguments, show
import pandas as pd, torch
from fastnoisy.benchmark.train import train_one
from fastnoisy.data.digits import digits_dls
from fastnoisy.methods import METHODS
from fastnoisy.models import small_cnn

NOISE = 'symmetric:.4'

def known_methods():
    "Whose accuracies are in the results, with the options that they have by themselves"
    found = pd.concat([pd.read_csv(o) for o in sorted(RESULTS.glob('peers_*.csv'))])
    names = {*found.method[found.data == 'digits']} - {'ce'}
    return sorted(o for o in names if ':' not in o or o in METHODS)

def fit_time(method, epochs, seed):
    "Processor seconds of one fit"
    dls = digits_dls(noise=NOISE, seed=seed, device='cpu')
    start = time.process_time()
    train_one(dls, lambda: small_cnn(dls.n_channels, dls.c), method, epochs, 3e-3, seed)
    return time.process_time() - start

def one_method(method, args, plain):
    "Median ratio of the rounds, the smallest and the largest; `plain` holds the last time of plain training"
    ratios,seconds = [],[]
    for seed in range(args.rounds):
        before = plain[-1]
        seconds.append(fit_time(method, args.epochs, seed))
        plain.append(fit_time('ce', args.epochs, seed))
        ratios.append(2*seconds[-1]/(before + plain[-1]))
    return dict(method=method, ratio=median(ratios), smallest=min(ratios), largest=max(ratios), cpu_s=median(seconds))

def main():
    p = arguments(__doc__, epochs=8, out='fit.csv')
    p.add_argument('--methods', nargs='+', help='default: all with results on the digits')
    p.add_argument('--rounds', type=int, default=2)
    args = p.parse_args()
    torch.set_num_threads(1)
    plain = [fit_time('ce', args.epochs, 0) for _ in range(2)] # the first one warms up
    rows = Rows(args.out, args.resume, digits=3, epochs=args.epochs, rounds=args.rounds)
    for method in args.methods or known_methods():
        if dict(method=method) in rows: continue
        row = dict(one_method(method, args, plain), data='digits', noise=NOISE, arch='small_cnn', epochs=args.epochs,
                   rounds=args.rounds, device='cpu', threads=1, torch=torch.__version__)
        rows.add(row)
        show(row)
    rows.sort('method')

if __name__ == '__main__': main()

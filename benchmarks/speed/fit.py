"""Cost of a whole fit: the processor time of each method's training against that of plain training, in one run.

python benchmarks/speed/fit.py [--methods elr divide-mix] [--epochs 4] [--seeds 2] [--out FILE.csv] [--resume]

As in benchmarks/methods/peers.py: scikit-learn's digits with 40 % wrong labels, small_cnn, one-cycle schedule; with
fewer epochs, as all phases of a method are shares of the fit. Everything that a method does counts, passes between
the epochs too, but neither the data nor the first import. One thread; processor time, so that other work on the machine
matters little; each fit comes right after one of plain training, with which it is compared. Without --methods: all
those of results/peers_*.csv, but not what differs from them in options alone. With --resume, rows of the file are kept
and the others added.
"""
import sys, time
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parents[1]))
from common import RESULTS, Rows, arguments, means, measure, tasks
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

def one_fit(args, method, seed):
    "A fit after one of plain training"
    plain,seconds = (fit_time(o, args.epochs, seed) for o in ('ce', method))
    return dict(method=method, seed=seed, ratio=seconds/plain, cpu_s=seconds, noise=NOISE, arch='small_cnn',
                epochs=args.epochs, device='cpu', threads=1, torch=torch.__version__)

def main():
    p = arguments(__doc__, seeds=2, epochs=4, out='fit.csv')
    p.add_argument('--methods', nargs='+', help='default: all with results on the digits')
    args = p.parse_args()
    torch.set_num_threads(1)
    fit_time('ce', args.epochs, 0) # warm-up
    rows = Rows(args.out, args.resume, digits=3, epochs=args.epochs)
    measure(one_fit, args, tasks(seed=range(args.seeds), method=args.methods or known_methods()), rows)
    rows.sort('method', 'seed')
    means(rows, ['method'], ['ratio'], ('median', 'min', 'max'))

if __name__ == '__main__': main()

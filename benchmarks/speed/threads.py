"""One thread or several for little work, on a machine that is free or busy: why `train_one` chooses.

python benchmarks/speed/threads.py [--busy 0 2] [--epochs 1] [--rounds 3] [--threads N] [--out FILE.csv]

scikit-learn's digits and the small CNN of the demo, plain training: with one thread, with N (as many as there are
cores), and with N given to `train_one`, which chooses. Beside it run so many processes that never rest. Seconds of a
training, each in a process of its own, in turn: the median of the rounds, the least and the most. A row for each
pair.
"""
import os, subprocess, sys
from pathlib import Path
from statistics import median
sys.path.insert(0, str(Path(__file__).parents[1]))
from common import VERSIONS, Rows, arguments, show

TRAINING = """
import sys, torch
from functools import partial
from fastnoisy.benchmark import train
from fastnoisy.data.digits import digits_dls, small_cnn
how,n,epochs = sys.argv[1],int(sys.argv[2]),int(sys.argv[3])
torch.set_num_threads(1 if how == 'one' else n)
if how == 'all': train.SMALL_BATCH = 0
dls = digits_dls(noise=.4, device='cpu')
print(train.train_one(dls, partial(small_cnn, dls.n_channels, dls.c), 'ce', epochs)[1])
"""

BUSY = """
import os
parent = os.getppid()
while os.getppid() == parent: pass
"""

def seconds(how, args):
    command = [sys.executable, '-W', 'ignore', '-c', TRAINING, how, str(args.threads), str(args.epochs)]
    env = {k: v for k,v in os.environ.items() if k != 'OMP_NUM_THREADS'}
    return float(subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout.split()[-1])

def measured(busy, args):
    "Seconds of each way in each round, beside `busy` processes"
    others = [subprocess.Popen([sys.executable, '-c', BUSY]) for _ in range(busy)]
    def one_round(): return {how: seconds(how, args) for how in ('one', 'all', 'chosen')}
    try: return [one_round() for _ in range(args.rounds)]
    finally:
        for o in others: o.kill()

def main():
    p = arguments(__doc__, epochs=1, out='threads.csv', resume=False)
    p.add_argument('--busy', type=int, nargs='+', default=[0, 2], help='processes that run beside it')
    p.add_argument('--rounds', type=int, default=3)
    p.add_argument('--threads', type=int, default=os.cpu_count())
    args = p.parse_args()
    rows = Rows(args.out, digits=2)
    for busy in args.busy:
        rounds = measured(busy, args)
        for how in rounds[0]:
            times = [o[how] for o in rounds]
            ratio = median(times)/median(o['one'] for o in rounds)
            row = dict(threads=how, busy=busy, seconds=median(times), ratio=ratio, least=min(times), most=max(times))
            row['load'] = os.getloadavg()[1] # of five minutes: with what else runs on the machine
            rows.add(dict(row, epochs=args.epochs, rounds=args.rounds, cores=os.cpu_count(), **VERSIONS))
            show(rows.rows[-1])

if __name__ == '__main__': main()

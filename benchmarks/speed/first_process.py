"""What the first of several processes does alone, while the others wait for it, with 1.2 million training samples.

python benchmarks/speed/first_process.py [--n 1200000] [--out FILE.csv]

One process, one thread; seconds of the processor, the least of three. `sent` are the bytes that go to the others, or
to the disk. All other work at the end of an epoch (fits of mixtures, sums, votes) every process does for itself, at the
same time, or in parts.
"""
import random, sys, time
from io import BytesIO
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parents[1]))
from common import VERSIONS, Rows, arguments, show
import numpy as np, torch
from fastnoisy.callback.also import ALSOWeights
from fastnoisy.core.tables import SampleTable

def least(f, times=3):
    def once():
        start = time.process_time()
        f()
        return time.process_time() - start
    return min(once() for _ in range(times))

def saved(o):
    buffer = BytesIO()
    torch.save(o, buffer)
    return buffer.tell()

def order(n):
    "What fastai's distributed loader does: the order is drawn, sent as a tensor, and made a list again by everyone"
    ids = list(range(n))
    ids = random.sample(ids, n)
    return torch.tensor(ids, dtype=torch.long).tolist()

def mask(n): return torch.as_tensor(np.ascontiguousarray(np.ones((1, n), dtype=bool))).byte().bool()

def labels(n): return torch.as_tensor(np.zeros(n, dtype=np.int64)).long().numpy()

def main():
    p = arguments(__doc__, out='first_process.csv', resume=False)
    p.add_argument('--n', type=int, default=1_200_000)
    args = p.parse_args()
    torch.set_num_threads(1)
    n,rows = args.n,Rows(args.out, digits=4)
    weights,table = ALSOWeights(n),SampleTable(n, (10,))
    tasks = {'order of an epoch (fastai)': (order, n, 8*n), 'mask of the samples to load': (mask, n, n),
             'labels of planted errors': (labels, n, 16*n)}
    states = {'state of ALSO': weights, 'table of ten numbers a sample (ELR with top=10)': table}
    for what,(f,arg,sent) in tasks.items(): rows.add(dict(what=what, seconds=least(lambda: f(arg)), sent=sent))
    for what,o in states.items():
        seconds = least(lambda: saved(o.state_dict()))
        rows.add(dict(what=f'{what}, to a file', seconds=seconds, sent=saved(o.state_dict())))
    rows.rows = [{**row, 'n': n, **VERSIONS} for row in rows.rows]
    rows.sort('seconds')
    for row in rows.rows: show(row)

if __name__ == '__main__': main()

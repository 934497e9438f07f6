"""Exact neighbours and their vote against scikit-learn's NearestNeighbors: time, memory, agreement.

python benchmarks/speed/neighbors.py [--n 50000] [--features 512] [--k 50] [--metrics cosine l2]
[--rounds 1] [--memory 256] [--threads 2] [--faiss] [--queries Q] [--out FILE.csv]

The data are Gaussian clouds around 100 centres, float32. `knn_vote` finds the neighbours of every sample among all
others and adds up their labels; scikit-learn's time is that of `kneighbors` alone, with as many threads. Both run in
turn; the times are medians over the rounds. Memory is what the process grows by at its peak beside the data, measured
for each in a process of its own. `same`: share of neighbours that both found (in float32 nearly equal distances may
change places). `--faiss` adds the approximate index. `--queries Q`: only the neighbours of the first Q samples are
sought, among all, and `seconds_all` is what that makes for all of them: seconds * n/Q.
"""
import argparse, re, subprocess, sys, time
from pathlib import Path
from statistics import median
sys.path.insert(0, str(Path(__file__).parents[1]))
from common import VERSIONS, arguments, show
import pandas as pd, sklearn, torch
from sklearn.neighbors import NearestNeighbors
from fastnoisy.analysis.neighbors import knn_vote, nearest

SKLEARN = dict(cosine='cosine', l2='euclidean')

def clouds(n, d):
    g = torch.Generator().manual_seed(0)
    y = torch.randint(100, (n,), generator=g)
    return torch.randn(100, d, generator=g)[y] + torch.randn(n, d, generator=g), y

def sklearn_neighbors(x, k, metric, threads, queries=None):
    found = NearestNeighbors(n_neighbors=k, algorithm='brute', metric=SKLEARN[metric], n_jobs=threads)
    return found.fit(x.numpy()).kneighbors(None if queries is None else queries.numpy(), return_distance=False)

def runs(args, metric, x, y):
    "What is compared, by name"
    q = None if args.queries is None else x[:args.queries]
    res = {'scikit-learn': lambda: sklearn_neighbors(x, args.k, metric, args.threads, q),
           'knn_vote': lambda: knn_vote(x, y, args.k, metric=metric, memory=args.memory, queries=q)}
    if args.faiss: res['faiss'] = lambda: knn_vote(x, y, args.k, metric=metric, index='faiss', queries=q)
    return res

def seconds(f):
    start = time.perf_counter()
    f()
    return time.perf_counter() - start

def resident(which):
    "MB of this process: VmRSS now, VmHWM at its peak (Linux)"
    return int(re.search(rf'{which}:\s+(\d+)', Path('/proc/self/status').read_text())[1])/1024

def peak_memory(args, metric, name):
    "MB by which a new process grows"
    names = ['n', 'features', 'k', 'memory', 'threads'] + ['queries']*(args.queries is not None)
    options = [f'--{o}={getattr(args, o)}' for o in names] + ['--faiss']*args.faiss
    command = [sys.executable, __file__, '--only', metric, name, *options]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

def print_memory(args, x, y):
    "What the process grows by, for `peak_memory`"
    metric,name = args.only
    Path('/proc/self/clear_refs').write_text('5') # forget the peak so far
    before = resident('VmRSS')
    runs(args, metric, x, y)[name]()
    print(resident('VmHWM') - before)

def compare(args, metric, x, y, warm_up):
    "One row for each way to find the neighbours"
    for f in runs(args, metric, *warm_up).values(): f()
    todo = runs(args, metric, x, y)
    times = {name: [] for name in todo}
    for _ in range(args.rounds):
        for name,f in todo.items(): times[name].append(seconds(f))
    expected = torch.from_numpy(sklearn_neighbors(x[:5000], args.k, metric, args.threads)).sort(1).values
    setting = dict(n=args.n, features=args.features, k=args.k, metric=metric)
    for name in todo:
        taken = median(times[name])
        row = dict(setting, method=name, seconds=taken, ratio=taken/median(times['scikit-learn']),
                   peak_mb=peak_memory(args, metric, name), threads=args.threads, rounds=args.rounds,
                   seconds_all=taken*(args.n/args.queries if args.queries else 1))
        if name != 'scikit-learn':
            ids = nearest(x[:5000], args.k, metric=metric, index='faiss' if name == 'faiss' else 'exact')
            row['same'] = sum(torch.isin(a, b).sum().item() for a,b in zip(ids, expected))/expected.numel()
        yield dict(row, sklearn=sklearn.__version__, **VERSIONS)

def main():
    p = arguments(__doc__, out='neighbors.csv', resume=False)
    numbers = dict(n=50_000, features=512, k=50, rounds=1, threads=2, queries=None)
    for name,default in numbers.items(): p.add_argument(f'--{name}', type=int, default=default)
    p.add_argument('--metrics', nargs='+', default=list(SKLEARN))
    p.add_argument('--memory', type=float, default=256)
    p.add_argument('--faiss', action='store_true')
    p.add_argument('--only', nargs=2, help=argparse.SUPPRESS) # metric and name: print the memory of this one
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    x,y = clouds(args.n, args.features)
    if args.only: return print_memory(args, x, y)
    warm_up,rows = clouds(2000, args.features),[]
    for metric in args.metrics:
        for row in compare(args, metric, x, y, warm_up):
            rows.append(row)
            show(row)
    pd.DataFrame(rows).round(4).to_csv(args.out, index=False)

if __name__ == '__main__': main()

"""All methods at the cost of one plain training: those that cost more get fewer epochs, by results/passes.csv.

python benchmarks/methods/equal_cost.py     scikit-learn's digits, three seeds; about 15 minutes on one core
[--seeds 3] [--jobs 1] [--out DIR] [--collect]

Data, network, schedule and noise are those of `fastnoisy bench --preset peers`, where plain training has 30 epochs; a
method of r times its passes has 30/r, rounded, and plain training stands beside it with as many. Methods within a fifth
of plain training's cost are left out: their rows are those of peers.py. It can be stopped, and goes on from there. The
rows are collected into results/equal_cost.csv.
"""
import argparse, sys
from pathlib import Path
import pandas as pd
sys.path.insert(0, str(Path(__file__).parents[1]))
from common import RESULTS
from fastnoisy.benchmark.presets import PRESETS
from fastnoisy.benchmark.runner import run_grid
from fastnoisy.benchmark.tables import read_grid

PEERS = PRESETS['peers']
ORDER = ['noise', 'rate', 'method', 'seed']

def epochs_of():
    "Epochs of each method of the preset that costs more than 1.2 plain trainings"
    passes = pd.read_csv(RESULTS/'passes.csv').set_index('method').ratio
    costs = {o: passes[o] for o in PEERS['methods'] if o in passes and passes[o] > 1.2}
    return {method: round(PEERS['epochs']/ratio) for method,ratio in costs.items()}

def collect(out):
    parts = [read_grid(o)[0] for o in sorted(out.iterdir())]
    rows = pd.concat(parts).drop(columns='error').sort_values(ORDER).round(5)
    rows.to_csv(RESULTS/'equal_cost.csv', index=False)
    print(rows.groupby(['noise', 'method', 'epochs']).accuracy_last.agg(['mean', 'std', 'count']).round(3).to_string())

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--jobs', type=int, default=1)
    p.add_argument('--out', type=Path, default=Path('grid-equal-cost'), help='folder of the grids, one for each length')
    p.add_argument('--collect', action='store_true', help='train nothing: collect what has been trained')
    args = p.parse_args()
    epochs = epochs_of()
    for n in sorted({*epochs.values()}) if not args.collect else ():
        methods = ['ce', *(o for o in epochs if epochs[o] == n)]
        run_grid(args.out/f'{n}_epochs', args.jobs, **{**PEERS, 'methods': methods, 'epochs': n, 'seeds': args.seeds})
    collect(args.out)

if __name__ == '__main__': main()

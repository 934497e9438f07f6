"""Methods beside plain training: accuracy on the clean test set, at the last epoch and at the best by noisy validation.

python benchmarks/methods/peers.py --methods elr --root data     scikit-learn's digits (30 epochs) and FashionMNIST's
                                        first 10,000 images (12 epochs); `data` is the folder of fashion_mnist.npz, or
                                        of the IDX files
python benchmarks/methods/peers.py --methods all --data ecg5000 --root data/ECG5000     all methods, on data with a
                                        preset `peers...` of `fastnoisy bench`, as that has it
[--seeds 3] [--jobs 1] [--out DIR] [--collect]

Networks from scratch, Adam, one-cycle schedule with 3e-3, the same weights at the start, order of the data and labels
for all methods of a seed. It can be stopped, and goes on from there; of one DIR several can go on. What has been
trained is collected into results/peers_METHODS.csv (peers_DATA.csv for all), one row per trial.
"""
import argparse, sys
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parents[1]))
from common import RESULTS
from fastnoisy.benchmark.presets import PRESETS
from fastnoisy.benchmark.runner import run_grid
from fastnoisy.benchmark.tables import read_grid
from fastnoisy.methods import as_method

GRIDS = {o['data']: o for name,o in PRESETS.items() if name.startswith('peers')}
GRIDS['fashion10k'] = dict(GRIDS['fashion5k'], data='fashion10k', noise=['symmetric:.4', 'pair:.3'])
ORDER = ['data', 'noise', 'rate', 'method', 'seed']

def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--methods', nargs='+', required=True,
                   help="beside 'ce', as `fastnoisy bench` takes them; or all")
    p.add_argument('--data', nargs='+', choices=list(GRIDS), default=['digits', 'fashion10k'])
    p.add_argument('--root', help='file or folder of the data')
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--jobs', type=int, default=1)
    p.add_argument('--out', type=Path, default=Path('grid-peers'), help='folder of the grid (default: grid-peers)')
    p.add_argument('--collect', action='store_true', help='train nothing: collect what has been trained')
    args = p.parse_args()
    if args.methods == ['all'] and len(args.data) > 1: p.error('--methods all: give one of the data.')
    args.file = RESULTS/name_of(args.data if args.methods == ['all'] else args.methods)
    if args.methods == ['all']: args.methods = GRIDS[args.data[0]]['methods']
    return args

def name_of(methods):
    "File of the results, of the names without their options"
    return 'peers_' + '_'.join(dict.fromkeys(o.partition(':')[0] for o in methods)) + '.csv'

def collect(out, methods, file):
    results,_,failed = read_grid(out)
    results = results[results.method.isin(['ce', *(as_method(o).name for o in methods)])]
    results.drop(columns='error').sort_values(ORDER).round(5).to_csv(file, index=False)
    print(results.groupby(ORDER[:4])[['accuracy_last', 'accuracy']].agg(['mean', 'std', 'count']).round(3).to_string())
    if len(failed): print(f'{len(failed)} trials failed:', *failed.error.unique(), sep='\n')

def main():
    args = parse()
    methods = list(dict.fromkeys(['ce', *args.methods]))
    for seed in range(0 if args.collect else args.seeds): # all data of a seed before the next
        for data in args.data:
            files = dict(root=args.root) if args.root and data != 'digits' else {}
            run_grid(args.out, args.jobs, **{**GRIDS[data], **files, 'methods': methods, 'seeds': 1, 'seed': seed})
            collect(args.out, args.methods, args.file)
    if args.collect: collect(args.out, args.methods, args.file)

if __name__ == '__main__': main()

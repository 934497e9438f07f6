"""Which loss? Twelve methods on symmetric and asymmetric noise, three seeds: what nbs/results/losses.ipynb shows.

python benchmarks/methods/grid.py digits                               scikit-learn's digits, 30 epochs
python benchmarks/methods/grid.py fashion10k --root fashion_mnist.npz  10,000 images of FashionMNIST, 12 epochs; a file
                                           with train_images, train_labels, test_images, test_labels, or the IDX files
python benchmarks/methods/grid.py cifar10k --root DIR                  the paper's six losses on 10,000 images, one seed
                                           (--preset apl-paper --scale cpu); DIR has cifar-10-batches-py or -bin
[--jobs 1] [--out DIR] [--collect]

It can be stopped, and goes on from there. What has been trained is collected into results/grid_DATA.csv, one row per
trial, and results/grid_DATA_curves.csv, the validation curves of the two noises of the paper's Figures 3 and 4, mean
of the seeds. --collect: that alone.
"""
import sys
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parents[1]))
from common import RESULTS, grid_arguments
from fastnoisy.benchmark.runner import run_grid
from fastnoisy.benchmark.tables import read_grid

METHODS = ['ce', 'focal', 'exp-ce', 'exp-focal', 'apl-nce-mae', 'apl-nfl-mae', 'gce', 'sce', 'js', 'gjs',
           'nce+rce', 'also']
NOISE = [ # in the order of their importance
    ['symmetric:.5', 'asymmetric:.25'], ['symmetric:.2,.8', 'asymmetric:.4'], ['none', 'asymmetric:.1']]
EPOCHS = dict(digits=30, fashion10k=12)

def collect(out, data):
    results,curves,failed = read_grid(out)
    results = results.drop(columns='error').sort_values(['noise', 'rate', 'method', 'seed']).round(5)
    results.to_csv(RESULTS/f'grid_{data}.csv', index=False)
    symmetric = (curves.noise == 'symmetric') & (curves.rate == .5)
    curves = curves[symmetric | (curves.noise.str.startswith('asymmetric') & (curves.rate == .25))]
    groups = curves.groupby(['noise', 'rate', 'method', 'epoch'])
    means = groups[['valid_loss', 'valid_accuracy']].mean().round(4)
    means.reset_index().to_csv(RESULTS/f'grid_{data}_curves.csv', index=False)
    print(f'{len(results)} trials, {len(failed)} failed')

def train(out, data, jobs, files):
    if data == 'cifar10k': return run_grid(out, jobs, preset='apl-paper', scale='cpu', **files)
    for noise in NOISE: run_grid(out, jobs, data=data, noise=noise, methods=METHODS, epochs=EPOCHS[data], **files)

def main():
    args = grid_arguments(__doc__, data=[*EPOCHS, 'cifar10k']).parse_args()
    out = args.out or f'grid-{args.data}'
    if not args.collect: train(out, args.data, args.jobs, dict(root=args.root) if args.root else {})
    collect(out, args.data)

if __name__ == '__main__': main()

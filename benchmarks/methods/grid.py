"""Which loss? Twelve methods on symmetric and asymmetric noise, three seeds: the trainings behind nbs/results/losses.ipynb.

python benchmarks/methods/grid.py digits                                     scikit-learn's digits, 30 epochs
python benchmarks/methods/grid.py fashion10k --root fashion_mnist.npz        10,000 images of FashionMNIST, 12 epochs; a file with the arrays train_images,
                                                                     train_labels, test_images, test_labels, or a folder of the four IDX files
python benchmarks/methods/grid.py cifar10k --root DIR                        the paper's six losses on 10,000 images of CIFAR-10, one seed (--preset apl-paper --scale cpu); the folder of
                                                                     cifar-10-batches-py or -bin
[--jobs 2] [--out DIR] [--collect]

It can be stopped, and goes on from there. What has been trained is collected into results/grid_DATA.csv, one row per training, and results/grid_DATA_curves.csv, the
validation curves of the two noises of the paper's Figures 3 and 4, mean of the seeds. --collect: that alone.
"""
import argparse, warnings
from pathlib import Path
warnings.filterwarnings('ignore')
from fastnoisy.benchmark.runner import run_grid
from fastnoisy.benchmark.tables import read_grid

METHODS = ['ce', 'focal', 'exp-ce', 'exp-focal', 'apl-nce-mae', 'apl-nfl-mae', 'gce', 'sce', 'js', 'gjs', 'nce+rce', 'also']
NOISE = [['symmetric:.5', 'asymmetric:.25'], ['symmetric:.2,.8', 'asymmetric:.4'], ['none', 'asymmetric:.1']] # in the order of their importance
EPOCHS = dict(digits=30, fashion10k=12)

def collect(out, data):
    results,curves,failed = read_grid(out)
    results = results.drop(columns='error').sort_values(['noise', 'rate', 'method', 'seed']).round(5)
    results.to_csv(Path(__file__).parents[1]/f'results/grid_{data}.csv', index=False)
    curves = curves[((curves.noise == 'symmetric') & (curves.rate == .5)) | (curves.noise.str.startswith('asymmetric') & (curves.rate == .25))]
    curves = curves.groupby(['noise', 'rate', 'method', 'epoch'])[['valid_loss', 'valid_accuracy']].mean().round(4)
    curves.reset_index().to_csv(Path(__file__).parents[1]/f'results/grid_{data}_curves.csv', index=False)
    print(f'{len(results)} trainings, {len(failed)} failed')

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('data', choices=[*EPOCHS, 'cifar10k'])
    p.add_argument('--root')
    p.add_argument('--jobs', type=int, default=1)
    p.add_argument('--out')
    p.add_argument('--collect', action='store_true')
    args = p.parse_args()
    out = args.out or f'grid-{args.data}'
    files = dict(root=args.root) if args.root else {}
    if args.data == 'cifar10k' and not args.collect: run_grid(out, args.jobs, preset='apl-paper', scale='cpu', **files)
    for noise in NOISE if args.data in EPOCHS and not args.collect else []: run_grid(out, args.jobs, data=args.data, noise=noise, methods=METHODS, epochs=EPOCHS[args.data], **files)
    collect(out, args.data)

if __name__ == '__main__': main()

"""The experiments of the LiLAW paper for two CPU cores, and some of our own: what nbs/results/lilaw.ipynb shows.

python benchmarks/methods/lilaw.py PART [--root DIR] [--jobs 1] [--out DIR] [--collect]

digits        tables 1, 6 to 13 and 16 on scikit-learn's digits; the term of easy samples alone, GCE and ALSO
options       other gradients, rates and starts on the digits
ecg5000       Table 3; DIR has ECG5000/ECG5000_TRAIN and _TEST as the archive has them
breastmnist   Table 2, at 28 pixels with a small network from random weights; DIR has breastmnist.npz
resnet18      the same with the paper's ResNet-18, from random weights
fashion10k    tables 1, 6 to 13 and 16 on 10,000 images of FashionMNIST, 12 epochs; the term of easy samples alone;
              --root is fashion_mnist.npz
cifar10k      Table 14: 10,000 images of CIFAR-10, 20 epochs; DIR has cifar-10-batches-bin
cost          digits and FashionMNIST (--root as above) with 50 % wrong labels, every method trained for as long as
              LiLAW takes for its 30 (12) epochs

It can be stopped, and goes on from there. What has been trained is collected into results/lilaw_PART.csv, one row per
trial, and results/lilaw_PART_detection.csv. --collect: that alone. A single table is `fastnoisy bench --preset
lilaw-table7 --scale cpu`.
"""
import sys
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parents[1]))
from common import RESULTS, grid_arguments
from fastnoisy.benchmark.runner import run_grid
from fastnoisy.benchmark.tables import read_detection, read_grid
from fastnoisy.benchmark.presets import PRESETS

HALF,ALL = ['symmetric:0,.5'],['symmetric:0,.2,.4,.6,.8']
ALPHA = ['lilaw:terms=alpha', 'gce', 'also']
HYPER = 'lilaw:meta=hypergradient:lr=100.:wd=0.'
OPTIONS = [HYPER, f'{HYPER}:meta_of=head', f'{HYPER}:normalise', 'lilaw:normalise', 'lilaw:lr=.5',
           'lilaw:alpha=10.:beta=1.:delta=1.']
# epochs of each in the time of one of LiLAW, from results/size.csv and results/confidence_cost.csv
COST = dict(ce=1.31, lilaw=1., gce=1.31, also=1.31, confidence=.4)

def preset(table, out, **arguments): run_grid(out, preset=f'lilaw-table{table}', scale='cpu', **arguments)

def digits(out, root, jobs):
    preset(16, Path(out)/'detection', jobs=jobs) # in a folder of its own, as it measures more
    for table in (7, 8, 9, 1, 6, 11, 12, 13, 10): preset(table, out, jobs=jobs)
    preset(7, out, jobs=jobs, noise=ALL, methods=[*ALPHA, 'lilaw:terms=alpha:detach'])

def options(out, root, jobs): preset(7, out, jobs=jobs, noise=HALF, methods=['ce', 'lilaw', *OPTIONS])
def ecg5000(out, root, jobs): preset(3, out, root=root, jobs=jobs)
def resnet18(out, root, jobs): preset(2, out, root=root, jobs=jobs)
def breastmnist(out, root, jobs): preset(2, out, root=root, arch='small_cnn:2', jobs=jobs) # in a tenth of the time
def cifar10k(out, root, jobs): preset(14, out, data='cifar10k', root=root, epochs=20, jobs=jobs)

def fashion10k(out, root, jobs):
    options = dict(data='fashion10k', root=root, jobs=jobs)
    noise = PRESETS['lilaw-table1']['noise'] # without the settings that fit the digits
    preset(1, out, epochs=12, noise=noise, **options)
    for table in (8, 7, 6, 11, 9, 13, 12, 10): preset(table, out, epochs=12, **options)
    preset(16, Path(out)/'detection', **options)
    preset(7, out, epochs=12, noise=ALL, methods=ALPHA[:1], **options)

def cost(out, root, jobs):
    for data,epochs,options in (('digits', 30, {}), ('fashion10k', 12, dict(root=root))):
        for method,times in COST.items():
            preset(8, out, data=data, noise=['symmetric:.5'], methods=[method], epochs=round(epochs*times), jobs=jobs,
                   **options)

PARTS = {o.__name__: o for o in (digits, options, ecg5000, breastmnist, resnet18, fashion10k, cifar10k, cost)}

def collect(out, part):
    results,_,failed = read_grid(out)
    rows = results.drop(columns='error').sort_values(['variant', 'noise', 'rate', 'method', 'seed']).round(5)
    rows.to_csv(RESULTS/f'lilaw_{part}.csv', index=False)
    detection = Path(out)/'detection'
    if (detection/'results.csv').is_file():
        read_detection(detection).round(5).to_csv(RESULTS/f'lilaw_{part}_detection.csv', index=False)
    print(f'{len(results)} trials, {len(failed)} failed: lilaw_{part}.csv')

def main():
    args = grid_arguments(__doc__, part=PARTS).parse_args()
    out = args.out or f'lilaw-{args.part}'
    if not args.collect: PARTS[args.part](out, args.root, args.jobs)
    collect(out, args.part)

if __name__ == '__main__': main()

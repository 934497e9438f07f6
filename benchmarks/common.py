"""What the benchmarks share: arguments, the data of an .npz file, processes, rows in a CSV, versions.

A script in one of the folders begins with `sys.path.insert(0, str(Path(__file__).parents[1]))` and is run from
anywhere: `python benchmarks/methods/compare.py`.
"""
import argparse, math, os, time, warnings
from itertools import product
from pathlib import Path
warnings.filterwarnings('ignore')
import numpy as np, pandas as pd, torch
from fastai.callback.core import Callback, CancelValidException
from fastnoisy.benchmark.executors import run_calls
from fastnoisy.benchmark.runner import Table, read_table
from fastnoisy.benchmark.trial import VERSIONS
from fastnoisy.data.arrays import array_dls
from fastnoisy.data.digits import digits_dls

RESULTS = Path(__file__).parent/'results'

# Arguments

def arguments(doc, seeds=None, epochs=None, jobs=None, npz=False, out=None, resume=True):
    "A parser that explains itself with `doc` and has what is given here, with these defaults"
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if npz: p.add_argument('--npz', type=Path, help='train_images, train_labels, test_images, test_labels; else digits')
    if npz: p.add_argument('--n', type=int, default=10_000, help='how many of its training images (default: 10000)')
    for name,default in dict(seeds=seeds, epochs=epochs, jobs=jobs).items():
        if default is not None: p.add_argument(f'--{name}', type=int, default=default, help=f'default: {default}')
    if jobs is not None: p.add_argument('--executor', help='in place of --jobs: dask:ADDRESS, ray, slurm; its workers '
                                        'need this folder on their PYTHONPATH')
    p.add_argument('--out', type=Path, default=out and RESULTS/out, help='CSV in place of that in benchmarks/results')
    if resume: p.add_argument('--resume', action='store_true', help='keep the rows of the file, and make the others')
    return p

def grid_arguments(doc, **choices):
    "A parser for what is trained in a grid, whose folder is not the file of the results: one word of `choices`"
    p = arguments(doc, jobs=1, resume=False)
    for name,known in choices.items(): p.add_argument(name, choices=known)
    p.add_argument('--root', help='file or folder of the dataset')
    p.add_argument('--collect', action='store_true', help='train nothing: collect what has been trained')
    return p

def data_name(args): return args.npz.stem if args.npz else 'digits'

# Data

def from_npz(file, n, noise, seed):
    "`DataLoaders` of the first `n` training images of a file, a tenth of them to validate on, and its test images"
    data = np.load(file)
    x,y = data['train_images'][:n],data['train_labels'][:n].astype(np.int64)
    test,n_valid = (data['test_images'], data['test_labels'].astype(np.int64)),n//10
    return array_dls((x[n_valid:], y[n_valid:]), (x[:n_valid], y[:n_valid]), test, noise=noise, seed=seed, bs=128,
                     val_bs=512, rgb=False, device='cpu')

def images(args, noise, seed):
    "`DataLoaders` of the file, or else of scikit-learn's digits"
    if args.npz: return from_npz(args.npz, args.n, noise, seed)
    return digits_dls(noise=noise, seed=seed, device='cpu')

class NoValidation(Callback):
    "What is the same for all methods is left out"
    order = 1000
    def before_validate(self): raise CancelValidException

# Rows

def _same(a, b):
    try: return math.isclose(float(a), float(b))
    except (TypeError, ValueError): return str(a) == str(b)

class Rows:
    "A CSV to which rows are appended, each in one piece; where it grows a column it is written anew"
    def __init__(self, file, resume=False, digits=5, **fixed):
        self.file,self.digits = Path(file),digits
        self.fixed,self.table = fixed,None
        old = read_table(self.file) if resume and self.file.is_file() else pd.DataFrame()
        self.rows = old.to_dict('records')
        if len(old): self.table = Table(self.file, old.columns)

    def __contains__(self, task):
        wanted = {**self.fixed, **task}
        def is_it(row): return all(k in row and _same(row[k], v) for k,v in wanted.items())
        return any(map(is_it, self.rows))

    def frame(self): return pd.DataFrame(self.rows).round(self.digits)

    def add(self, *rows):
        self.rows += rows
        table = self.frame()
        if self.table is None or list(table) != self.table.columns: self._write(table)
        else: self.table.append(table.tail(len(rows)))

    def _write(self, table):
        new = self.file.with_name(self.file.name + '.new')
        table.to_csv(new, index=False, lineterminator='\n')
        os.replace(new, self.file)
        self.table = Table(self.file, table.columns)

    def sort(self, *by):
        "Rows in order, at the end"
        self.rows = self.frame().sort_values(list(by), kind='stable').to_dict('records')
        self._write(self.frame())

def show(row): print({k: round(v, 4) if isinstance(v, float) else v for k,v in row.items()}, flush=True)

def means(rows, by, columns, how=('mean', 'std')):
    "Print what came out"
    df = rows.frame()
    groups = df.groupby(list(by), sort=False)[[o for o in columns if o in df]]
    print(groups.agg(list(how)).round(3).to_string())

# Trainings, wherever they run

def tasks(**values): return [dict(zip(values, o)) for o in product(*values.values())]

def measure(function, args, todo, rows):
    "`function(args, **task)` -> a row, or several, for each task whose rows are not there yet"
    left,start = [o for o in todo if o not in rows],time.time()
    print(f'{len(todo)} experiments, {len(todo) - len(left)} of them in {rows.file}', flush=True)
    calls = [(function, args, o) for o in left]
    where = getattr(args, 'jobs', 1),getattr(args, 'executor', None)
    for i,(_,made) in enumerate(run_calls(_call, calls, None, *where), 1):
        made = made if isinstance(made, list) else [made]
        rows.add(*made)
        for o in made: show(o)
        print(f'{i} of {len(left)}, {time.time() - start:.0f} s', flush=True)

def _call(function, args, task): return function(args, **task)

"""How the methods grow with the training set: time of a step, bytes of state per sample, end of an epoch, loaders.

python benchmarks/speed/size.py                    all parts -> results/size.csv
[--parts step epoch_end loader profile] [--sizes 10000 100000 1000000 10000000] [--methods ce also ...] [--steps 100]
[--rounds 3] [--out FILE.csv]

step:       a step of every method for training sets of each size. The model is a linear layer on 8 numbers, so that
            nearly all of the time is the loop's and the method's. The dataset makes its rows when asked for one; the
            batches are drawn from all over it; times are processor times of one thread. `extra_us` is the median step
            less that of plain training at the same size, in the same round; `bytes` is what the method holds per sample
            after all epochs.
epoch_end:  seconds for what is done once per epoch or once per run with a number for every sample: the fit of the
            mixture, ALSO's sums, a report without its pass over the data.
loader:     images per second of `array_dls` with flipping, and of fastai's own loader of the same images as PNG files,
            one process each.
profile:    the shares of one step of LiLAW and of two-model confidence (timm's resnet18, 64 x 64 pixels, batch 64), by
            torch.profiler: the ten operations that take the most time.
"""
import sys, time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
sys.path.insert(0, str(Path(__file__).parents[1]))
from common import VERSIONS, Rows, arguments, show
from speed.step import CALLBACKS, learner
import numpy as np, pandas as pd, torch
from fastai.basics import CrossEntropyLossFlat, DataLoaders, L, Learner, TfmdDL
from fastai.callback.core import Callback
from torch import nn
from fastnoisy.all import METHODS
from fastnoisy.analysis.mixture import BetaMixture
from fastnoisy.core.method import SampleCallback
from fastnoisy.callback.also import ALSOWeights

class LazyRows:
    "A dataset of any length whose rows are made when they are asked for"
    def __init__(self, n, n_classes=10):
        self.n = n
        self.x,self.y = torch.randn(997, 8, generator=torch.Generator().manual_seed(0)),torch.arange(997) % n_classes
    def __len__(self): return self.n
    def __getitem__(self, i): return self.x[i % 997],self.y[i % 997]

class Drawn(TfmdDL):
    "A loader whose epoch is a few batches, drawn from the whole set"
    def get_idxs(self):
        return np.random.default_rng(0).integers(len(self.dataset), size=self.steps*self.bs).tolist()
    def __len__(self): return self.steps

class CpuClock(Callback):
    "Processor time at the end of each batch, and of the training part of the epoch"
    order,run_valid = 1000,False
    def before_train(self): self.ends = []
    def after_batch(self): self.ends.append(time.process_time())
    def after_train(self): self.end_of_epoch = time.process_time() - self.ends[-1]
    @property
    def step(self): return median(np.diff(self.ends))

def rows_learner(method, n, args):
    torch.manual_seed(0)
    train = Drawn(LazyRows(n), bs=64)
    train.steps = args.steps
    dls = DataLoaders(train, TfmdDL(LazyRows(64), bs=64), device='cpu')
    kwargs = {'loss_func': CrossEntropyLossFlat(), **METHODS[method].make()}
    learn = Learner(dls, nn.Linear(8, 10), cbs=[CpuClock(), *L(kwargs.pop('cbs', None))], **kwargs)
    learn.remove_cb(learn.progress)
    return learn

def bytes_of(o, n, seen):
    "Bytes of all tensors and arrays of length `n` within `o`"
    if id(o) in seen: return 0
    seen.add(id(o))
    if isinstance(o, (torch.Tensor, np.ndarray)): return o.nbytes if n in o.shape else 0
    if isinstance(o, dict): return sum(bytes_of(v, n, seen) for v in o.values())
    if isinstance(o, (list, tuple)): return sum(bytes_of(v, n, seen) for v in o)
    if not type(o).__module__.startswith('fastnoisy'): return 0
    return sum(bytes_of(v, n, seen) for k,v in vars(o).items() if k not in ('learn', 'dls'))

def step(args):
    for n in args.sizes:
        learners = {o: rows_learner(o, n, args) for o in dict.fromkeys(['ce', *args.methods])}
        def once(learn):
            with learn.no_logging(): learn.fit(1, 1e-3)
            return 1e6*learn.cpu_clock.step, learn.cpu_clock.end_of_epoch
        for learn in learners.values(): once(learn)
        rounds = [{o: once(learn) for o,learn in learners.items()} for _ in range(args.rounds)]
        for o,learn in learners.items():
            own = [cb for cb in learn.cbs if type(cb).__module__.startswith('fastnoisy')]
            seen = set() # a method may know another one, which counts once
            state = sum(bytes_of(cb, n, seen) for cb in own)
            extra = median(r[o][0] - r['ce'][0] for r in rounds)
            yield dict(part='step', what=o, n=n, step_us=median(r[o][0] for r in rounds), extra_us=extra,
                       epoch_end_s=median(r[o][1] for r in rounds), bytes=state/n, epochs=args.rounds+1)

def seconds(f, rounds):
    def once():
        start = time.perf_counter()
        f()
        return time.perf_counter() - start
    return median(once() for _ in range(rounds))

def epoch_end(args):
    import fastnoisy.analysis.report.table as report
    from fastnoisy.core.predict import Predictions
    rng = np.random.default_rng(0)
    for n in [o for o in args.sizes if o >= 1e6]:
        wrong = rng.random(n) < .2
        quality = np.where(wrong, rng.beta(2, 8, n), rng.beta(8, 2, n))
        fit = seconds(lambda: BetaMixture(noisy='low').fit(quality), args.rounds)
        yield dict(part='epoch_end', what='fit of the mixture', n=n, seconds=fit)
        weights = ALSOWeights(n)
        yield dict(part='epoch_end', what='sums of ALSO', n=n, seconds=seconds(weights._add_up, args.rounds))
        learn = rows_learner('also', n, args)
        with learn.no_logging(): learn.fit(1, 1e-3)
        given,logits,losses = rng.integers(10, size=n),rng.random((n, 10), dtype=np.float32),rng.random(n)
        said = Predictions(torch.arange(n), *map(torch.from_numpy, (logits, given, losses)))
        predict,report.predict_with_features = report.predict_with_features,lambda learn, **kwargs: said
        try: yield dict(part='epoch_end', what='report', n=n, seconds=seconds(learn.noise_report, 1))
        finally: report.predict_with_features = predict

def loader(args, n=4000, size=28):
    from fastai.vision.all import Flip, ImageDataLoaders, PILImageBW
    from PIL import Image
    from fastnoisy.all import array_dls
    rng = np.random.default_rng(0)
    x,y = rng.integers(256, size=(n, size, size), dtype=np.uint8),rng.integers(10, size=n)
    def per_second(dl):
        def run():
            for _ in dl: pass
        run()
        return len(dl)*dl.bs/seconds(run, args.rounds)
    with TemporaryDirectory() as folder:
        for i in range(n):
            (Path(folder)/str(y[i])).mkdir(exist_ok=True)
            Image.fromarray(x[i]).save(Path(folder)/str(y[i])/f'{i}.png')
        kwargs = dict(batch_tfms=Flip(), bs=128, num_workers=0, device='cpu')
        files = ImageDataLoaders.from_folder(folder, valid_pct=.02, img_cls=PILImageBW, **kwargs)
        yield dict(part='loader', what='PNG files, fastai', n=n, per_second=per_second(files.train))
    few = x[:100],y[:100]
    arrays = array_dls((x, y), few, few, rgb=False, **kwargs)
    yield dict(part='loader', what='array_dls', n=n, per_second=per_second(arrays.train))

def profile(args):
    from argparse import Namespace
    from torch.profiler import profile
    for method in ('lilaw', 'confidence'):
        learn = learner(method, Namespace(arch='resnet18', size=64, bs=64, steps=2, device='cpu'))
        def fit():
            with learn.no_logging(): learn.fit(1, 1e-4)
        fit()
        with profile() as p: fit()
        table = sorted(p.key_averages(), key=lambda o: -o.self_cpu_time_total)
        total = sum(o.self_cpu_time_total for o in table)
        for o in table[:10]:
            yield dict(part='profile', what=f'{method}: {o.key}', share=o.self_cpu_time_total/total)

PARTS = dict(step=step, epoch_end=epoch_end, loader=loader, profile=profile)

def main():
    p = arguments(__doc__, out='size.csv', resume=False)
    p.add_argument('--parts', nargs='+', choices=PARTS, default=list(PARTS))
    p.add_argument('--sizes', nargs='+', type=int, default=[10**k for k in range(4, 8)])
    p.add_argument('--methods', nargs='+', default=CALLBACKS)
    p.add_argument('--steps', type=int, default=100)
    p.add_argument('--rounds', type=int, default=3)
    args = p.parse_args()
    torch.set_num_threads(1)
    rows = Rows(args.out, digits=4)
    for part in args.parts:
        for row in PARTS[part](args):
            rows.add(dict(row, threads=torch.get_num_threads(), **VERSIONS))
            show(row)

if __name__ == '__main__': main()

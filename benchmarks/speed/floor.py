"""Time of a whole fit beside its floor: the passes through the network that a method cannot do without.

python benchmarks/speed/floor.py [--methods elr divide-mix] [--arch resnet18] [--size 48] [--rounds 3] [--out FILE.csv]
[--resume]

In each round a plain fit and one of the method follow one another, so that a drift of the machine meets both; passes
are counted in the same fits (see passes.py). ratio is the median of the rounds of the method's time to plain time,
floor its passes to those of plain training, and overhead is ratio/floor: 1.1 is a tenth of its time beside the network.
Five epochs of 128 images of ten classes, one thread, whose own seconds are counted, whatever else the machine does;
validation, which is the same, is left out.
"""
import sys, time
from pathlib import Path
from statistics import median
sys.path.insert(0, str(Path(__file__).parents[1]))
from common import Rows, arguments, measure, tasks
import numpy as np, timm, torch
from fastai.basics import CrossEntropyLossFlat, L, Learner
from fastai.callback.core import Callback, CancelValidException
from fastnoisy.benchmark.trial import VERSIONS
from fastnoisy.core.registry import METHODS
from fastnoisy.data.arrays import array_dls
from passes import Passes, known_methods

class NoValidation(Callback):
    order = 1000
    def before_validate(self): raise CancelValidException

def data(args):
    "Ten classes that differ in brightness, a fifth of the labels wrong"
    rng,n = np.random.default_rng(0),args.bs*args.steps
    y = np.arange(n) % 10
    x = (rng.integers(0, 60, (n, args.size, args.size, 3)) + 18*y[:,None,None,None]).astype(np.uint8)
    return array_dls((x, y), (x[:20], y[:20]), noise=.2, bs=args.bs, device='cpu')

def fit(args, method):
    "Processor seconds of a fit, and its passes, forwards 1 and backwards 2"
    torch.manual_seed(0)
    dls = data(args)
    def make(): return timm.create_model(args.arch, num_classes=dls.c)
    made = METHODS[method].make_for(make)
    cbs = [*L(made.pop('cbs', None)), NoValidation()]
    learn = Learner(dls, make(), cbs=cbs, **{'loss_func': CrossEntropyLossFlat(), **made})
    learn.remove_cb(learn.progress)
    with learn.no_logging(), Passes() as p:
        start = time.process_time()
        learn.fit_one_cycle(args.epochs, 1e-3)
    return time.process_time() - start,p.forward + 2*p.backward

def one_method(args, method):
    rounds = [(fit(args, 'ce'), fit(args, method)) for _ in range(args.rounds)]
    ratios = sorted(seconds/plain for (plain,_),(seconds,_) in rounds)
    (_,least),(_,passes) = rounds[0]
    ratio,floor = median(ratios),passes/least
    return dict(method=method, ratio=ratio, floor=floor, overhead=ratio/floor, smallest=ratios[0], largest=ratios[-1],
                seconds=median(o for _,(o,_) in rounds), **{o: getattr(args, o) for o in NUMBERS}, **VERSIONS)

NUMBERS = dict(size=48, bs=32, steps=4, epochs=5, rounds=3)

def main():
    p = arguments(__doc__, out='floor.csv')
    p.add_argument('--methods', nargs='+', help='default: all callbacks with results on the digits')
    p.add_argument('--arch', default='resnet18')
    for name,default in NUMBERS.items(): p.add_argument(f'--{name}', type=int, default=default)
    args = p.parse_args()
    torch.set_num_threads(1)
    fit(args, 'ce') # warm-up
    rows = Rows(args.out, args.resume, digits=3, arch=args.arch)
    measure(one_method, args, tasks(method=args.methods or known_methods()), rows)
    rows.sort('method')

if __name__ == '__main__': main()

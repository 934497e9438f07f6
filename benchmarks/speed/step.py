"""Cost of a training step: the core alone and each method against plain training, in one run.

python benchmarks/speed/step.py [--methods core lilaw] [--arch resnet18] [--size 64] [--bs 64] [--steps 6] [--rounds 9]
[--device cpu] [--out FILE.csv]

timm model, random images in memory, Adam. In each round every variant trains the same number of steps, in turn, so
that a drift of the machine meets all of them; a step is the time from the end of one batch to the end of the next,
loader included. Printed: the median over the rounds of the ratio to plain training, with the smallest and the largest
ratio.
"""
import sys, time
from pathlib import Path
from statistics import median
sys.path.insert(0, str(Path(__file__).parents[1]))
from common import arguments
import pandas as pd, timm, torch
from fastai.callback.core import Callback, CancelValidException
from fastai.basics import CrossEntropyLossFlat, DataLoaders, L, Learner, TfmdDL
from fastnoisy.all import METHODS, LiLAWCallback, register_method
from fastnoisy.core.method import SampleCallback

def hypergradient(of): return lambda: dict(cbs=LiLAWCallback(meta='hypergradient', meta_of=of))
for o in ('all', 'head'): register_method(f'lilaw:{o}', hypergradient(o), 'LiLAW with the hypergradient')

CALLBACKS = ['lilaw', 'also', 'also+bmm', 'also+knn', 'confidence', 'confidence:two', 'confidence:single']

class Clock(Callback):
    "Times between the ends of training batches"
    order,run_valid = 1000,False
    def before_train(self): self.ends = []
    def after_batch(self):
        if torch.cuda.is_available(): torch.cuda.synchronize()
        self.ends.append(time.perf_counter())
    def before_validate(self): raise CancelValidException
    @property
    def steps(self): return [b-a for a,b in zip(self.ends, self.ends[1:])]

def learner(method, args):
    torch.manual_seed(0)
    n = args.bs*args.steps
    data = [(x, y) for x,y in zip(torch.rand(n, 3, args.size, args.size), torch.randint(10, (n,)))]
    dls = DataLoaders(*(TfmdDL(data, bs=args.bs, shuffle=True, num_workers=0) for _ in range(2)), device=args.device)
    kwargs = dict(cbs=SampleCallback()) if method == 'core' else METHODS[method].make()
    cbs = [Clock(), *L(kwargs.pop('cbs', None))]
    kwargs = {'loss_func': CrossEntropyLossFlat(), **kwargs}
    learn = Learner(dls, timm.create_model(args.arch, num_classes=10), cbs=cbs, **kwargs)
    learn.remove_cb(learn.progress)
    return learn

def step_time(learn):
    "Median seconds of the steps of one epoch"
    with learn.no_logging(): learn.fit(1, 1e-4)
    return median(learn.clock.steps)

def add_step_arguments(p):
    "What every benchmark of steps needs"
    p.add_argument('--arch', default='resnet18')
    numbers = dict(size=64, bs=64, steps=6, rounds=9)
    for name,default in numbers.items(): p.add_argument(f'--{name}', type=int, default=default)
    p.add_argument('--device', default='cpu')

def step_arguments(doc, out):
    p = arguments(doc, out=out, resume=False)
    add_step_arguments(p)
    return p

def ratios(methods, args):
    "One row per method, plain training first"
    learners = {o: learner(o, args) for o in ['ce', *methods]}
    for learn in learners.values(): step_time(learn) # warm-up, of the machine and of the methods
    rounds = [{o: step_time(learn) for o,learn in learners.items()} for _ in range(args.rounds)]
    for o in learners:
        r = sorted(t[o]/t['ce'] for t in rounds)
        ms,ratio = round(1000*median(t[o] for t in rounds), 2),round(median(r), 3)
        yield dict(method=o, step_ms=ms, ratio=ratio, smallest=round(r[0], 3), largest=round(r[-1], 3), arch=args.arch,
                   size=args.size, bs=args.bs, rounds=args.rounds, device=args.device, threads=torch.get_num_threads(),
                   torch=torch.__version__)

def main():
    p = step_arguments(__doc__, 'step.csv')
    p.add_argument('--methods', nargs='+', default=['core', *CALLBACKS])
    args = p.parse_args()
    df = pd.DataFrame(ratios(args.methods, args))
    df.to_csv(args.out, index=False)
    print(df.to_string(index=False))

if __name__ == '__main__': main()

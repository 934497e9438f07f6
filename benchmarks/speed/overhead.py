"""What a method does beside the network: its time against the passes that it cannot do without.

python benchmarks/speed/overhead.py [--methods elr divide-mix] [--arch resnet18] [--size 48] [--rounds 3]
[--out FILE.csv] [--resume]

In one fit the seconds within any network, forwards and backwards, and all others are told apart, by the clock of one
thread: what slows the machine down slows both. Plain training has other seconds too, in loss, optimizer and loader;
overhead is what a fit takes for each second within a network, divided by what plain training takes: 1.1 is a tenth
beside the passes. passes is the time within networks beside plain training's, which is what the passes cost here.
Five epochs of 128 images of ten classes; validation, which is the same, is left out. Medians of the rounds, and the
smallest and the largest overhead of them.
"""
import sys, time
from pathlib import Path
from statistics import median
sys.path.insert(0, str(Path(__file__).parents[1]))
from common import NoValidation, Rows, arguments, measure, tasks
import numpy as np, timm, torch
from fastai.basics import CrossEntropyLossFlat, L, Learner
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from fastnoisy.benchmark.trial import VERSIONS
from fastnoisy.core.registry import METHODS
from fastnoisy.data.arrays import array_dls
from passes import known_methods

class NetworkTime:
    """Seconds of this thread within networks of one class; `with NetworkTime(cls) as t: ...`. A pass backwards counts
    from where the gradient comes to the predictions: before, it is in the loss"""
    def __init__(self, cls): self.cls,self.seconds,self.starts,self.arrived = cls,0.,[],None
    def __enter__(self):
        self.hooks = [register_module_forward_pre_hook(self.forward), register_module_forward_hook(self.done)]
        self.engine = torch.autograd._engine_run_backward
        torch.autograd._engine_run_backward = self.backward
        return self

    def __exit__(self, *exc):
        for o in self.hooks: o.remove()
        torch.autograd._engine_run_backward = self.engine

    def forward(self, module, inputs):
        if isinstance(module, self.cls): self.starts.append(time.thread_time())

    def done(self, module, inputs, output):
        if not isinstance(module, self.cls): return
        self.seconds += time.thread_time() - self.starts.pop()
        if output.requires_grad: output.register_hook(self.came)

    def came(self, grad):
        if self.arrived is None: self.arrived = time.thread_time()

    def backward(self, *args, **kwargs):
        self.arrived = None
        res = self.engine(*args, **kwargs)
        if self.arrived is not None: self.seconds += time.thread_time() - self.arrived
        return res

def data(args):
    "Ten classes that differ in brightness, a fifth of the labels wrong"
    rng,n = np.random.default_rng(0),args.bs*args.steps
    y = np.arange(n) % 10
    x = (rng.integers(0, 60, (n, args.size, args.size, 3)) + 18*y[:,None,None,None]).astype(np.uint8)
    return array_dls((x, y), (x[:20], y[:20]), noise=.2, bs=args.bs, device='cpu')

def fit(args, method):
    "Seconds of a fit, and those within networks"
    torch.manual_seed(0)
    dls = data(args)
    def make(): return timm.create_model(args.arch, num_classes=dls.c)
    made = METHODS[method].make_for(make)
    cbs = [*L(made.pop('cbs', None)), NoValidation()]
    learn = Learner(dls, make(), cbs=cbs, **{'loss_func': CrossEntropyLossFlat(), **made})
    learn.remove_cb(learn.progress)
    with learn.no_logging(), NetworkTime(type(learn.model)) as network:
        start = time.thread_time()
        learn.fit_one_cycle(args.epochs, 1e-3)
        seconds = time.thread_time() - start
    return seconds,network.seconds

def one_method(args, method):
    rounds = [(*fit(args, 'ce'), *fit(args, method)) for _ in range(args.rounds)]
    overheads = sorted(seconds/network/(plain/alone) for plain,alone,seconds,network in rounds)
    passes = median(network/alone for _,alone,_,network in rounds)
    return dict(method=method, arch=args.arch, passes=passes, overhead=median(overheads), smallest=overheads[0],
                largest=overheads[-1], beside=median(seconds - network for *_,seconds,network in rounds),
                network=median(o for *_,o in rounds), **{o: getattr(args, o) for o in NUMBERS}, **VERSIONS)

NUMBERS = dict(size=48, bs=32, steps=4, epochs=5, rounds=3)

def main():
    p = arguments(__doc__, out='overhead.csv')
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

"""Passes through the network: how much of the work that a large network makes does a method ask for?

python benchmarks/speed/passes.py [--methods elr divide-mix] [--epochs 30] [--out FILE.csv] [--resume]

Samples that go forwards (1 each, 2 in forward mode) and backwards (2 each) through any network of a whole fit are
counted, validation aside, and divided by those of plain training, in which a sample is 3. What a method does besides
(sorting, mixtures, augmentation) does not count; with a large network it hardly matters. A count does not depend on the
machine. scikit-learn's digits, 40 % wrong labels, small_cnn, as in methods/peers.py.
Without --methods: all callbacks of results/peers_*.csv, and the loss that takes two views; other losses count 1.
"""
import sys
from functools import lru_cache
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parents[1]))
from common import RESULTS, Rows, arguments, measure, tasks
import pandas as pd, torch
from torch.autograd import forward_ad
from torch.nn.modules.module import register_module_forward_hook
from fastnoisy.benchmark.train import train_one
from fastnoisy.benchmark.trial import VERSIONS
from fastnoisy.data.digits import digits_dls
from fastnoisy.core.registry import METHODS
from fastnoisy.models import small_cnn

def known_methods():
    """Whose accuracies are in the results, with the options that they have by themselves; not the losses that take the
    predictions as they are"""
    found = pd.concat([pd.read_csv(o) for o in sorted(RESULTS.glob('peers_*.csv'))])
    names = {*found.method[found.data == 'digits']} & {*METHODS}
    return sorted(o for o in names if METHODS[o].make().get('cbs') or METHODS[o].needs)

class Passes:
    "Counts samples at the first convolution of every network; `with Passes() as p: ...`"
    def __init__(self): self.forward,self.backward = 0,0
    def __enter__(self):
        self.hook = register_module_forward_hook(self.count)
        return self
    def __exit__(self, *exc): self.hook.remove()
    def count(self, module, inputs, output):
        if not (isinstance(module, torch.nn.Conv2d) and module.in_channels == 3): return
        n = len(inputs[0])
        self.forward += n*(2 if forward_ad.unpack_dual(output).tangent is not None else 1) # values and derivatives
        if output.requires_grad: output.register_hook(lambda grad: self.came_back(n))
    def came_back(self, n): self.backward += n

@lru_cache
def passes(method, epochs):
    "Samples that went forwards and backwards in a fit"
    dls = digits_dls(noise='symmetric:.4', seed=0, device='cpu')
    with Passes() as p: train_one(dls, lambda: small_cnn(dls.n_channels, dls.c), method, epochs, 3e-3, 0)
    looks = epochs*len(dls.valid_ds)
    return p.forward - looks,p.backward

def one_method(args, method):
    (forward, backward),(plain, back) = (passes(o, args.epochs) for o in (method, 'ce'))
    return dict(method=method, ratio=(forward + 2*backward)/(plain + 2*back), forward=forward/plain,
                backward=backward/back, epochs=args.epochs, **VERSIONS)

def main():
    p = arguments(__doc__, epochs=30, out='passes.csv')
    p.add_argument('--methods', nargs='+', help='default: all with results on the digits')
    args = p.parse_args()
    torch.set_num_threads(1)
    rows = Rows(args.out, args.resume, digits=3, epochs=args.epochs)
    measure(one_method, args, tasks(method=args.methods or known_methods()), rows)
    rows.sort('method')

if __name__ == '__main__': main()

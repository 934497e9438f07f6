"""Peak memory of training with every method, beside what it cannot do without.

python benchmarks/speed/memory.py [--methods also lilaw ...] [--device pretend] [--n 640] [--out FILE.csv]

A small CNN, images of 3 x 32 x 32 pixels, batch 64, Adam; one epoch in which the method acts, everything it does in it
included. `pretend` is the device of the tests (tests/scripts/pretend.py), whose allocations are those a GPU would
make for tensors, without the workspaces of its libraries and without fragments; with --device cuda it is PyTorch's own
count. In MiB:

peak:      the most that was held at once
floor:     what nobody can spare: the peak of plain training, the further networks (parameters, gradients, Adam's
           moments), and the numbers for each sample
networks:  the further networks alone
bytes:     the numbers for each sample, bytes a sample
over:      peak less floor: activations and copies of the method's own
"""
import gc, sys
from pathlib import Path
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2]/'tests/scripts')]
from common import VERSIONS, Rows, arguments, show
import torch
from torch import nn
from fastai.basics import CrossEntropyLossFlat, DataLoaders, L, Learner, TfmdDL
from fastnoisy.all import METHODS
from fastnoisy.core.method import SampleCallback

MIB = 2**20
ALL = ['ce', 'core', 'also', 'also+bmm', 'also+knn', 'elr', 'lilaw', 'm-correction', 'forward', 'selc', 'sop',
       'confidence:single', 'confidence:two', 'confidence', 'co-teaching', 'divide-mix']

def further_networks(learn):
    "Bytes of the networks that methods train beside the model: four numbers a parameter, of an average one"
    peers = [cb.peer for cb in learn.cbs if getattr(cb, 'peer', None) is not None]
    def of(peer): return sum(p.nbytes for p in peer.model.parameters())*(1 if peer.opt is None else 4)
    return sum(map(of, peers))

def numbers_of_samples(o, n, seen):
    "Bytes of all tensors of length `n` within `o` that are on the device"
    if id(o) in seen: return 0
    seen.add(id(o))
    if isinstance(o, torch.Tensor): return o.nbytes if n in o.shape and o.device.type != 'cpu' else 0
    if isinstance(o, dict): return sum(numbers_of_samples(v, n, seen) for v in o.values())
    if isinstance(o, (list, tuple)): return sum(numbers_of_samples(v, n, seen) for v in o)
    if not type(o).__module__.startswith('fastnoisy'): return 0
    return numbers_of_samples({k: v for k,v in vars(o).items() if k not in ('learn', 'dls')}, n, seen)

def parts_of(learn, n):
    "Bytes of the further networks, and of the numbers for each sample"
    own = [cb for cb in learn.cbs if type(cb).__module__.startswith('fastnoisy')]
    seen = set()
    return further_networks(learn), sum(numbers_of_samples(cb, n, seen) for cb in own)

def cnn():
    layers,before = [],3
    for width in (16, 16, 32, 32):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))

def learner(method, n, device):
    torch.manual_seed(0)
    data = list(zip(torch.rand(n, 3, 32, 32), torch.arange(n) % 10))
    dls = DataLoaders(TfmdDL(data, bs=64, shuffle=True), TfmdDL(data[:128], bs=64), device=device)
    options = dict(cbs=SampleCallback()) if method == 'core' else METHODS[method].make()
    for cb in L(options.get('cbs')):
        if hasattr(cb, 'warmup'): cb.warmup = 0 if method == 'lilaw' else 1 # they act from the second epoch on
    learn = Learner(dls, cnn().to(device), **{'loss_func': CrossEntropyLossFlat(), **options})
    learn.remove_cb(learn.progress)
    return learn

def measured(method, n, device, memory):
    "Bytes: peak, of further networks, of numbers for each sample"
    gc.collect()
    learn = learner(method, n, device)
    with learn.no_logging():
        learn.fit(2, 1e-4)
        memory.reset_peak_memory_stats()
        learn.fit(1, 1e-4)
    return memory.max_memory_allocated(), *parts_of(learn, n)

def main():
    p = arguments(__doc__, out='memory.csv', resume=False)
    p.add_argument('--methods', nargs='+', default=ALL)
    p.add_argument('--device', choices=['pretend', 'cuda'], default='pretend')
    p.add_argument('--n', type=int, default=640)
    args = p.parse_args()
    if args.device == 'pretend': import pretend
    device = pretend.device() if args.device == 'pretend' else torch.device('cuda', 0)
    memory,rows = getattr(torch, args.device),Rows(args.out, digits=2)
    plain = None
    for method in dict.fromkeys(['ce', *args.methods]):
        peak,networks,tables = measured(method, args.n, device, memory)
        plain = plain or peak
        floor = plain + networks + tables
        sizes = dict(peak=peak, floor=floor, networks=networks, over=peak - floor)
        row = dict(method=method, **{k: v/MIB for k,v in sizes.items()}, bytes=tables/args.n)
        rows.add(dict(row, device=args.device, n=args.n, **VERSIONS))
        show(row)

if __name__ == '__main__': main()

"""Cost of each loss, forward and backward, relative to fastai's cross-entropy.

    python benchmarks/losses/losses.py [--batch 256] [--classes 1000] [--repeats 300] [--threads N] [--compile]
    [--only NAME NAME] [--out FILE.csv]

A measurement is a pair: the loss and `CrossEntropyLossFlat` on the same logits, one after the other in alternating
order. The table gives the median time of each and the median of the ratios of the pairs. GJS takes two predictions,
and is compared with two cross-entropies and, in a row of its own, with one. With `--threads 1` processor time is
measured, which other processes disturb less; otherwise wall time.

On Linux the C library hands freed memory back to the system until a process has freed a larger block once, and asking
for it again costs more than the arithmetic. Any real model does that with its activations; here it is done on
purpose.
"""
import platform, statistics, sys, time
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parents[1]))
from common import arguments
import pandas as pd, torch
from fastai.losses import CrossEntropyLossFlat, FocalLossFlat, LabelSmoothingCrossEntropyFlat
from fastnoisy.losses import *

LOSSES = {
    'fastai FocalLossFlat': FocalLossFlat(),
    'fastai LabelSmoothing...Flat': LabelSmoothingCrossEntropyFlat(),
    'CELoss': CELoss(), 'CELoss(smoothing=.1)': CELoss(smoothing=.1), 'AlphaFocalLoss': AlphaFocalLoss(),
    'BootstrappingLoss': BootstrappingLoss(), 'BootstrappingLoss(hard=True)': BootstrappingLoss(hard=True),
    'MAELoss': MAELoss(), 'RCELoss': RCELoss(), 'SCELoss': SCELoss(), 'GCELoss': GCELoss(),
    'NCELoss': NCELoss(), 'NFLLoss': NFLLoss(), 'NFLLoss(gamma=2)': NFLLoss(gamma=2),
    'NFLLoss(detach=True)': NFLLoss(detach=True),
    'NGCELoss': NGCELoss(), 'NMAELoss': NMAELoss(),
    'NCEMAELoss': NCEMAELoss(), 'NCERCELoss': NCERCELoss(), 'NFLMAELoss': NFLMAELoss(), 'NFLRCELoss': NFLRCELoss(),
    'JSLoss': JSLoss(), 'GJSLoss (2 predictions)': GJSLoss(), 'GJSLoss (2), against one CE': GJSLoss(),
    'ExpCELoss': ExpCELoss(), 'ExpFocalLoss': ExpFocalLoss(), 'MeanMAELoss': MeanMAELoss(),
    'ExpCEMAELoss': ExpCEMAELoss(), 'ExpFocalMAELoss': ExpFocalMAELoss(),
    'TaylorLoss': TaylorLoss(), 'TaylorLoss(order=6)': TaylorLoss(6),
    'BiTemperedLoss': BiTemperedLoss(), 'BiTemperedLoss(t2=1)': BiTemperedLoss(t2=1), 'BiTemperedLoss(t2=2)':
    BiTemperedLoss(t2=2.), 'AGCELoss': AGCELoss(), 'AULLoss': AULLoss(), 'AELLoss': AELLoss(),
    'NCEAGCELoss': NCEAGCELoss(), 'NCEAULLoss': NCEAULLoss(), 'NCEAELLoss': NCEAELLoss(),
    'ANLCELoss': ANLCELoss(), 'ANLCELoss(er=1)': ANLCELoss(er=1.), 'ANLFLLoss': ANLFLLoss(),
    'EpsilonSoftmaxLoss': EpsilonSoftmaxLoss(), 'LogitClipLoss': LogitClipLoss(),
    'LogitClipLoss(GCELoss())': LogitClipLoss(GCELoss()), 'PeerLoss': PeerLoss(), 'NLSLoss': NLSLoss()}

def seconds(loss_func, logits, targets):
    "Time of one forward and backward pass"
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    for o in logits: o.grad = None
    start = clock()
    loss_func(logits[0] if len(logits) == 1 else logits, targets).backward()
    return clock() - start

def two_cross_entropies(logits, targets):
    "The reference of losses of two predictions"
    ce = CrossEntropyLossFlat()
    return ce(logits[0], targets) + ce(logits[1], targets)

def one_cross_entropy(logits, targets):
    "The same, of the first prediction alone"
    return CrossEntropyLossFlat()(logits[0], targets)

def measure(loss_func, reference, logits, targets, repeats):
    "Median milliseconds of the loss and of the reference, and median ratio"
    for _ in range(20):
        seconds(loss_func, logits, targets)
        seconds(reference, logits, targets)
    pairs = []
    for i in range(repeats):
        order = (loss_func, reference) if i % 2 else (reference, loss_func)
        times = [seconds(f, logits, targets) for f in order]
        pairs.append(times if i % 2 else times[::-1])
    ms,reference_ms = (1e3*statistics.median(o) for o in zip(*pairs))
    return ms,reference_ms,statistics.median(a/b for a,b in pairs)

def reference_of(name):
    if 'GJS' not in name: return CrossEntropyLossFlat()
    return one_cross_entropy if 'one CE' in name else two_cross_entropies

def row_of(name, loss_func, views, targets, args):
    logits,reference = views if 'GJS' in name else views[:1],reference_of(name)
    ms,ce_ms,ratio = measure(loss_func, reference, logits, targets, args.repeats)
    row = dict(loss=name, ms=round(ms, 3), ce_ms=round(ce_ms, 3), ratio=round(ratio, 2), compiled_ratio='',
               batch=args.batch, classes=args.classes, threads=torch.get_num_threads(), torch=torch.__version__)
    if args.compile and 'fastai' not in name:
        torch._dynamo.reset()
        row['compiled_ratio'] = round(measure(torch.compile(loss_func), reference, logits, targets, args.repeats)[2], 2)
    print(f"{name:30} {ms:8.3f} {ce_ms:8.3f} {ratio:6.2f} {row['compiled_ratio']:>9}", flush=True)
    return row

def main():
    p = arguments(__doc__, resume=False)
    defaults = dict(batch=256, classes=1000, repeats=300, threads=0)
    for name,default in defaults.items(): p.add_argument(f'--{name}', type=int, default=default)
    p.add_argument('--compile', action='store_true', help='measure torch.compile of each loss too (eager reference)')
    p.add_argument('--only', nargs='+', default=[''], help='losses whose name begins so')
    args = p.parse_args()
    if args.threads: torch.set_num_threads(args.threads)
    torch.ones(4_000_000) # 16 MB, freed: see above
    gen = torch.Generator().manual_seed(0)
    shape = args.batch,args.classes
    views = [(3*torch.randn(*shape, generator=gen)).requires_grad_() for _ in range(2)]
    targets = torch.randint(0, args.classes, (args.batch,), generator=gen)
    print(f'logits {shape}, torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}')
    print(f"{'loss':30} {'ms':>8} {'CE ms':>8} {'ratio':>6}" + (f" {'compiled':>9}" if args.compile else ''))
    rows = [row_of(name, loss_func, views, targets, args) for name,loss_func in LOSSES.items()
            if name.startswith(tuple(args.only))]
    if args.out: pd.DataFrame(rows).to_csv(args.out, index=False)

if __name__ == '__main__': main()

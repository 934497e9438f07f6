"""Everything that is to be measured on a GPU, in one command; half an hour on one H100, the most valuable part first.

python benchmarks/gpu.py                  all parts -> results/gpu_PART.csv
[--parts tests steps cifar audit paper processes] [--cifar FILE.npz] [--minutes 30] [--out FOLDER] [--device cuda]
[--smoke]: a few minutes on a CPU, everything as small as possible, to see that the command itself works

It needs nothing from the network, writes each row as soon as it is there, and goes on where it was stopped: rows that
are there are not measured again (delete those with an error to have them tried again). When the minutes are over no
other row is begun. --cifar: train_images (50000, 32, 32, 3), uint8, train_labels, the right class ids, given, those of
people (CIFAR-10N), test_images and test_labels; without it the parts `cifar` and `paper` are left out, and the audit is
one of random images.

tests:      the tests marked `cuda`: those of tests/device on this GPU, with passed, failed and skipped
steps:      a training step of every method beside plain training, in bfloat16: milliseconds, their ratio, peak memory
            and its floor (see speed/memory.py), and what plain training gets out of the card (its floating-point
            operations over the peak of the card)
cifar:      the labels of people, a ResNet-18 for 32 pixels, a tenth of the paper's epochs: accuracy and seconds
audit:      `fastnoisy audit` of 50,000 images: seconds and peak memory
paper:      the settings of the two-model paper, symmetric noise of 40 %, as many epochs as --paper-epochs says
processes:  one process with NCCL, SyncBN and the loss scaler of fp16: does it train, and as without them?
"""
import subprocess, sys, time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from xml.etree import ElementTree
sys.path.insert(0, str(Path(__file__).parents[0]))
from common import RESULTS, Rows, VERSIONS, arguments, show
from speed.memory import parts_of
import numpy as np, timm, torch
from fastai.basics import CrossEntropyLossFlat, DataLoaders, L, Learner, TfmdDL
from fastai.callback.core import Callback, CancelValidException
from fastai.callback.fp16 import MixedPrecision
from fastai.vision.augment import Flip
from torch.utils.flop_counter import FlopCounterMode
from fastnoisy.all import LiLAWCallback, METHODS, array_dls, register_method
from fastnoisy.benchmark.train import run_one
from fastnoisy.core.method import SampleCallback
from fastnoisy.models import resnet18_32, small_cnn

ROOT = Path(__file__).parents[1]
PEAKS = dict(H100=989e12, H200=989e12, A100=312e12, L40=181e12, L4=121e12, A10=125e12, T4=65e12) # dense, half precision
METHODS_OF_STEPS = ['core', 'also', 'also+bmm', 'also+knn', 'elr', 'm-correction', 'lilaw', 'lilaw:head', 'lilaw:all',
                    'co-teaching', 'confidence:single', 'confidence:two', 'confidence', 'divide-mix', 'dynamics']
SHAPES = [('resnet50', 224, 128), ('resnet18', 224, 256), ('vit_small_patch16_224', 224, 128), ('small_cnn', 32, 256),
          ('resnet50', 224, 64), ('resnet18', 224, 64), ('vit_small_patch16_224', 224, 64), ('small_cnn', 32, 64)]
PAPER_EPOCHS = {'ce': 300, 'elr': 120, 'also': 300, 'confidence': 300, 'divide-mix': 300}

def hypergradient(of): return lambda: dict(cbs=LiLAWCallback(meta='hypergradient', meta_of=of))
for o in ('all', 'head'): register_method(f'lilaw:{o}', hypergradient(o), 'LiLAW with the hypergradient')

class Half(MixedPrecision):
    "fastai's mixed precision, on any device"
    name = 'mixed_precision'
    def __init__(self, device, dtype=torch.bfloat16): self.device,self.dtype = torch.device(device).type,dtype
    def before_fit(self):
        scaled = self.dtype == torch.float16
        self.autocast,self.scales = torch.autocast(self.device, dtype=self.dtype),L()
        self.learn.scaler = torch.amp.GradScaler(self.device, enabled=scaled)

def device_name(args): return torch.cuda.get_device_name() if args.device.startswith('cuda') else args.device

def wait(args):
    if args.device.startswith('cuda'): torch.cuda.synchronize()

def peak_mb(args):
    "Peak memory since the last call, in MB; nothing on a CPU"
    if not args.device.startswith('cuda'): return None
    res = torch.cuda.max_memory_allocated()/2**20
    torch.cuda.reset_peak_memory_stats()
    return res

# Tests

def tests(args):
    if args.device != 'cuda': return [dict(part='tests', outcome='left out: no CUDA')]
    with TemporaryDirectory() as folder:
        file,start = Path(folder)/'tests.xml',time.perf_counter()
        command = [sys.executable, '-m', 'pytest', 'tests/device', '-m', 'cuda', f'--junitxml={file}', '--tb=short']
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
        (args.out/'gpu_tests.log').write_text(said.stdout[-200_000:])
        suite,seconds = ElementTree.parse(file).getroot().find('testsuite'),time.perf_counter() - start
    numbers = {o: int(suite.get(o)) for o in ('tests', 'failures', 'errors', 'skipped')}
    return [dict(part='tests', **numbers, seconds=seconds)]

# Steps

class Positions:
    "Images that are on the device; an item is its position, and its class for who looks at one"
    def __init__(self, n, size, device):
        self.x,self.y = torch.rand(n, 3, size, size, device=device),torch.randint(10, (n,), device=device)
    def __len__(self): return len(self.y)
    def __getitem__(self, i): return i,0

class OnDevice(TfmdDL):
    "Batches of images that are on the device already, so that a step is all that is measured"
    def do_batch(self, b):
        ids = torch.as_tensor([i for i,_ in b], device=self.dataset.x.device)
        return self.dataset.x[ids],self.dataset.y[ids]

def on_device(size, bs, args):
    def loader(n, **kwargs):
        return OnDevice(Positions(n, size, args.device), bs=bs, num_workers=0, device=args.device, **kwargs)
    return DataLoaders(loader(bs*args.steps, shuffle=True), loader(bs), device=args.device)

class Clock(Callback):
    "Seconds from the end of one training batch to the end of the next; the device has done its work"
    order,run_valid = 1000,False
    def __init__(self, args): self.args = args
    def before_train(self): self.ends = []
    def after_batch(self):
        wait(self.args)
        self.ends.append(time.perf_counter())
    def before_validate(self): raise CancelValidException
    @property
    def step(self): return float(median(np.diff(self.ends)))

def make_model(arch): return small_cnn(3, 10) if arch == 'small_cnn' else timm.create_model(arch, num_classes=10)

def options_of(method):
    if method == 'core': return dict(cbs=SampleCallback())
    if method == 'dynamics':
        from fastnoisy.callback.dynamics import DynamicsCallback
        return dict(cbs=DynamicsCallback())
    return METHODS[method].make()

def seconds_of_step(method, arch, size, bs, args):
    torch.manual_seed(0)
    options = {'loss_func': CrossEntropyLossFlat(), **options_of(method)}
    for cb in L(options.get('cbs')):
        if hasattr(cb, 'warmup'): cb.warmup = 0 if method.startswith('lilaw') else 1 # they act from the second epoch on
    cbs = [Clock(args), Half(args.device), *L(options.pop('cbs', None))]
    learn = Learner(on_device(size, bs, args), make_model(arch).to(args.device), cbs=cbs, **options)
    learn.remove_cb(learn.progress)
    with learn.no_logging():
        learn.fit(2, 1e-4)
        peak_mb(args)
        learn.fit(1, 1e-4)
    return learn.clock.step,peak_mb(args),sum(parts_of(learn, bs*args.steps))/2**20

def operations(arch, size, bs):
    "Floating-point operations of a plain training step"
    model,x = make_model(arch),torch.rand(1, 3, size, size)
    with FlopCounterMode(display=False) as counter: model.eval()(x).sum().backward()
    return counter.get_total_flops()*bs

PLAIN = {} # Shape -> what plain training takes

def steps(args, arch, size, bs, method):
    shape = arch,size,bs
    if shape not in PLAIN:
        seconds_of_step('ce', *shape, args) # warm-up
        PLAIN[shape] = seconds_of_step('ce', *shape, args)
    plain,plain_mb,_ = PLAIN[shape]
    row = dict(part='steps', arch=arch, size=size, bs=bs, method=method)
    seconds,memory,own_mb = seconds_of_step(method, *shape, args)
    peak = next((v for k,v in PEAKS.items() if k in device_name(args)), None)
    share = None if peak is None else operations(arch, size, bs)/plain/peak
    row.update(step_ms=1e3*seconds, plain_ms=1e3*plain, ratio=seconds/plain, peak_mb=memory, plain_mb=plain_mb,
               floor_mb=None if plain_mb is None else plain_mb + own_mb)
    return [dict(row, plain_share_of_peak=share)]

# Trainings

def cifar(args):
    "Images and labels of the file, in parts"
    if args.smoke and args.cifar is None: return fake_cifar(512)
    return dict(np.load(args.cifar))

def fake_cifar(n):
    rng = np.random.default_rng(0)
    y = rng.integers(10, size=n)
    x = (rng.integers(64, size=(n, 32, 32, 3)) + 18*y[:,None,None,None]).astype(np.uint8)
    given = np.where(rng.random(n) < .2, (y + 1) % 10, y)
    return dict(train_images=x, train_labels=y, given=given, test_images=x[:128], test_labels=y[:128])

def cifar_dls(args, labels, noise=None):
    data,n = cifar(args),128 if args.smoke else 5000 # to validate on
    x,y,test = data['train_images'],data[labels],(data['test_images'], data['test_labels'])
    bs = 64 if args.smoke else 128
    return array_dls((x[n:], y[n:]), (x[:n], y[:n]), test, noise=noise, bs=bs, val_bs=512, batch_tfms=Flip(),
                     device=args.device)

def trained(args, part, method, labels, noise, epochs):
    dls = cifar_dls(args, labels, noise)
    start = time.perf_counter()
    def make(): return (small_cnn(3, 10) if args.smoke else resnet18_32(dls)).to(args.device)
    peak_mb(args)
    _,row = run_one(dls, make, method, epochs, lr=.01, cbs=Half(args.device))
    row = {k: row[k] for k in ('last', 'best_valid')}
    return [dict(part=part, method=method, labels=labels, noise=noise, epochs=epochs, **row, peak_mb=peak_mb(args),
                 seconds=time.perf_counter() - start)]

def cifar_part(args, method):
    epochs = 1 if args.smoke else PAPER_EPOCHS[method]//10
    return trained(args, 'cifar', method, 'given', None, epochs)

def paper(args, method): return trained(args, 'paper', method, 'train_labels', 'symmetric:.4', args.paper_epochs)

def audit_part(args):
    from fastnoisy.audit.run import audit
    data = cifar(args) if args.cifar or args.smoke else fake_cifar(50_000)
    with TemporaryDirectory() as folder:
        file = Path(folder)/'data.npz'
        np.savez(file, images=data['train_images'], labels=data['given'])
        peak_mb(args)
        start = time.perf_counter()
        epochs,out = 1 if args.smoke else 10,Path(folder)/'out'
        report = audit(npz=file, arch='small_cnn', epochs=epochs, device=args.device, out=out, plant=0) # one training
        seconds = time.perf_counter() - start
        wrong = data['train_labels'] != data['given']
        found = wrong[report.row.values[report.is_label_issue.values]]
    right = float(found.mean()) if len(found) else None
    row = dict(part='audit', n=len(wrong), issues=len(found), precision=right)
    return [dict(row, seconds=seconds, peak_mb=peak_mb(args))]

# Processes

def processes(args, kind):
    "A training of its own process, which torchrun starts"
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=1', __file__,
               '--process', kind, '--device', args.device]
    start = time.perf_counter()
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    (args.out/f'gpu_processes_{kind}.log').write_text(said.stdout[-100_000:] + said.stderr[-100_000:])
    return [dict(part='processes', kind=kind, ok=said.returncode == 0, seconds=time.perf_counter() - start)]

KINDS = ['plain', 'sync_bn', 'fp16']

def one_process(args):
    import torch.distributed as dist
    from fastai.distributed import setup_distrib
    from fastnoisy.callback.also import ALSOCallback
    from fastnoisy.callback.co_teaching import CoTeachingCallback
    on_gpu = args.device.startswith('cuda')
    setup_distrib(0) if on_gpu else dist.init_process_group('gloo')
    data = fake_cifar(512)
    x,y,test = data['train_images'],data['given'],(data['test_images'], data['test_labels'])
    dls = array_dls((x, y), (x[:64], y[:64]), test, bs=64, device=args.device)
    for method in (ALSOCallback(), CoTeachingCallback(noise_rate=.2, ramp=0)):
        cbs = L(Half(args.device, torch.float16) if args.process == 'fp16' else None)
        learn = Learner(dls, small_cnn(3, 10), loss_func=CrossEntropyLossFlat(), cbs=[method, *cbs])
        options = dict(sync_bn=args.process == 'sync_bn' and on_gpu, cpu=not on_gpu)
        with learn.distrib_ctx(**options): learn.fit(1, 1e-3)
        assert all(p.isfinite().all() for p in learn.model.parameters())
    dist.destroy_process_group()

# All of it

def planned(args):
    "What is to be done, the most valuable first: part, function, its arguments"
    yield 'tests', tests, {}
    shapes = [('small_cnn', 16, 32)] if args.smoke else SHAPES
    for arch,size,bs in shapes:
        for method in METHODS_OF_STEPS: yield 'steps', steps, dict(arch=arch, size=size, bs=bs, method=method)
    has_images = args.cifar is not None or args.smoke
    for method in PAPER_EPOCHS if has_images else (): yield 'cifar', cifar_part, dict(method=method)
    yield 'audit', audit_part, {}
    for kind in KINDS: yield 'processes', processes, dict(kind=kind)
    for method in ('ce', 'confidence') if has_images else (): yield 'paper', paper, dict(method=method)

def main():
    p = arguments(__doc__, resume=False)
    p.add_argument('--parts', nargs='+', help='some of tests, steps, cifar, audit, processes, paper (default: all)')
    p.add_argument('--cifar', type=Path)
    p.add_argument('--minutes', type=float, default=30)
    p.add_argument('--steps', type=int, default=12, help='steps of an epoch in the part `steps`')
    p.add_argument('--paper-epochs', type=int, default=20)
    p.add_argument('--device', default='cuda')
    p.add_argument('--smoke', action='store_true')
    p.add_argument('--process', choices=KINDS, help='used by the command itself')
    args = p.parse_args()
    if args.smoke: args.device,args.steps,args.paper_epochs = 'cpu',4,1
    if args.process: return one_process(args)
    if args.device == 'cuda' and not torch.cuda.is_available(): sys.exit('No CUDA here: --smoke tries the command.')
    args.out = args.out or RESULTS
    args.out.mkdir(parents=True, exist_ok=True)
    run(args)

def run(args):
    end,tables = time.time() + 60*args.minutes,{}
    fixed = dict(device=device_name(args))
    for part,f,task in planned(args):
        if args.parts and part not in args.parts: continue
        if part not in tables: tables[part] = Rows(args.out/f'gpu_{part}.csv', resume=True, **fixed)
        rows = tables[part]
        if dict(part=part, **task) in rows: continue
        if time.time() > end: return print(f'{args.minutes} minutes are over; the same command goes on from here.')
        try: made = f(args, **task)
        except Exception as e:
            if 'out of memory' not in str(e): print(f'{part} {task}: {type(e).__name__}: {e}', file=sys.stderr)
            made = [dict(part=part, **task, error=f'{type(e).__name__}: {str(e)[:200]}')]
        made = [{**fixed, **row, **VERSIONS} for row in made]
        rows.add(*made)
        for row in made: show(row)

if __name__ == '__main__': main()

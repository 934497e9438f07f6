"""TwoModelConfidenceCallback: what it is worth, how sensitive it is, and what it costs.

python benchmarks/methods/confidence.py                                             scikit-learn's digits, 30 epochs
python benchmarks/methods/confidence.py --npz fashion_mnist.npz --n 10000 --epochs 25   first 10,000 training images of a file with the arrays
                                                                          train_images, train_labels, test_images, test_labels
[--preset methods|m|slope|sensitivity] [--noise symmetric:.4 symmetric:.8 pair:.4] [--methods ce full] [--seeds 3] [--jobs 2] [--out FILE.csv]

python benchmarks/methods/confidence.py --cost [--arch resnet18 --size 64 --bs 64 --steps 6 --rounds 9 --device cpu]

The same small CNN from scratch, Adam, one-cycle schedule with 3e-3, batch 64 (128 for --npz), noise on training and validation labels, and in every row the same
augmentation: images moved by up to an eighth of their size. Same weights at the start, same labels, same order and same augmentation of the data for all rows of a seed.
One row per training: accuracy on the clean test set at the last and the best epoch, with a twin its accuracy too, mean confidence of right and wrong labels in the last epoch, and
how well the label quality tells them apart (ROC-AUC).

Cost: the floor is one forward and backward pass of the twin and two of the model, with both optimizer steps, and nothing else. Each variant against its own floor and against
plain training: the median over the rounds of the ratio in each; and the peak memory of a process that makes some steps (on CUDA of the device).
"""
import argparse, copy, multiprocessing, time, warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
warnings.filterwarnings('ignore')
import fastai, numpy as np, pandas as pd, torch
import torch.nn.functional as F
from fastai.basics import Adam, Callback, TensorImageBase
from fastai.vision.augment import RandTransform
from sklearn.metrics import roc_auc_score
from torch import nn
import fastnoisy
from fastnoisy.all import GCELoss, GJSLoss, JSLoss, PairNoise, SymmetricNoise, digits_dls, register_method, run_one, small_cnn
from fastnoisy.analysis.metrics import accuracy_of
from fastnoisy.core.loaders import plain_tensors
from fastnoisy.callback.confidence import TwoModelConfidenceCallback
from fastnoisy.callback.confidence import js_divergence
from fastnoisy.losses import gce_loss
from fastnoisy.core.views import SecondView, shifted
from compare import from_npz

NOISE = dict(symmetric=SymmetricNoise, pair=PairNoise)
TWO = dict(jsd=0., correct_from=1.)

def confidence(**kwargs): return lambda: dict(cbs=TwoModelConfidenceCallback(**kwargs))
def loss(f): return lambda: dict(loss_func=f())

PRESETS = dict(
    methods=dict(ce=dict, gce=loss(GCELoss), js=loss(JSLoss), gjs=loss(GJSLoss), single=confidence(models=1), two=confidence(**TWO), full=confidence()),
    m={f'm={m}': confidence(m=float(m)) for m in (-5, -3, -1, 0, 1, 3, 5)},
    slope={f'slope={o}': confidence(slope=o) for o in (.5, 2., 5., 10.)} | {f'two, slope={o}': confidence(slope=o, **TWO) for o in (.5, 2., 5., 10.)},
    sensitivity={name: confidence(**o) for name,o in {
        'default': {}, 'alpha=.3': dict(alpha=.3), 'alpha=3': dict(alpha=3.), 'penalty=0': dict(penalty=0.), 'penalty=1e-3': dict(penalty=1e-3),
        'penalty=1e-2': dict(penalty=1e-2), 'distillation=.1': dict(penalty=.1, penalty_kind='distillation'), 'jsd=0': dict(jsd=0.), 'jsd=3': dict(jsd=3.), 'jsd=5': dict(jsd=5.), 'jsd=10': dict(jsd=10.),
        'jsd=30': dict(jsd=30.), 'correct_from=.1': dict(correct_from=.1), 'correct_from=.5': dict(correct_from=.5), 'no correction': dict(correct_from=1.),
        'correct_mix=.8': dict(correct_mix=.8)}.items()})

class Shift(RandTransform):
    "The augmentation of all rows"
    split_idx,order = 0,20
    def encodes(self, x:TensorImageBase): return shifted(x, int(torch.randint(2**31, (1,)))).as_subclass(type(x))

class TwoViews(nn.Module):
    "`model` on both views while it trains, for GJS"
    def __init__(self, model, second):
        super().__init__()
        self.model,self.second = model,second

    def forward(self, x):
        if not self.training: return self.model(x)
        self.second.seed += 1
        return self.model(x), self.model(plain_tensors(self.second.batch)[0])

def experiment(args, noise, seed, method):
    "One training: its row"
    torch.set_num_threads(1)
    kind,rate = noise.split(':')
    noise_model = NOISE[kind](float(rate))
    if args.npz: dls,stride = from_npz(args.npz, args.n, noise_model, seed),2
    else: dls,stride = digits_dls(noise=noise_model, seed=seed, device='cpu'),1
    dls.train.after_batch.add([Shift()])
    register_method('run', PRESETS[args.preset][method], '')
    make_model = partial(small_cnn, dls.n_channels, dls.c, stride)
    second = SecondView(dls.train.after_batch).__enter__() if method == 'gjs' else None
    learn,row = run_one(dls, make_model if second is None else lambda: TwoViews(make_model(), second), 'run', args.epochs, seed=seed)
    row.update(data=args.npz.stem if args.npz else 'digits', noise=noise, actual_rate=dls.noise.actual_rate, method=method, fastnoisy=fastnoisy.__version__,
               torch=torch.__version__, fastai=fastai.__version__)
    if not hasattr(learn, 'confidence'): return row
    df,wrong = learn.confidence.to_frame(),dls.noise.flipped.numpy()
    seen,last = df.label_quality.notna(),df.iloc[:,-1]
    row.update(auc=roc_auc_score(wrong[seen], -df.label_quality[seen]), confidence_right=last[~wrong].mean(), confidence_wrong=last[wrong].mean())
    if learn.confidence.models == 2: row.update(robust_last=accuracy_of(learn.confidence.robust_model, dls.test))
    return row

def evidence(args):
    "All trainings of a preset -> CSV"
    out = args.out or Path(__file__).parents[1]/f'results/confidence_{args.preset}_{args.npz.stem if args.npz else "digits"}.csv'
    rows,start = [],time.time()
    with ProcessPoolExecutor(args.jobs) as pool:
        jobs = [pool.submit(experiment, args, *o) for o in product(args.noise, range(args.seeds), args.methods or PRESETS[args.preset])]
        for i,job in enumerate(as_completed(jobs)):
            rows.append(job.result())
            pd.DataFrame(rows).sort_values(['noise', 'seed', 'method']).round(5).to_csv(out, index=False)
            print(f'{i+1} of {len(jobs)}, {time.time()-start:.0f} s', flush=True)
    columns = [o for o in ('last', 'best', 'robust_last', 'auc', 'confidence_right', 'confidence_wrong') if o in pd.DataFrame(rows)]
    print(pd.DataFrame(rows).groupby(['noise', 'method'], sort=False)[columns].agg(['mean', 'std']).round(3).to_string())

class Floor(Callback):
    "The passes and steps that cannot be avoided, and nothing else"
    order,run_valid = -4,False
    def __init__(self, views): self.views = views
    def before_fit(self):
        self.twin = copy.deepcopy(self.model)
        self.twin_opt = Adam(list(self.twin.parameters()), lr=1e-4)
    def after_loss(self):
        self.learn.loss_grad = self.loss_grad + gce_loss(self.twin(*self.xb), self.y).mean()
        if self.views == 2: self.learn.loss_grad = self.learn.loss_grad + js_divergence(self.pred, self.model(*self.xb)).mean()
    def after_step(self):
        self.twin_opt.step()
        self.twin_opt.zero_grad()

VARIANTS = {'ce': dict, 'floor of two': lambda: dict(cbs=Floor(1)), 'floor of full': lambda: dict(cbs=Floor(2)), 'single': confidence(models=1), 'two': confidence(**TWO),
            'full, second view for nothing': confidence(view=lambda x: x, correct_from=0.), 'full': confidence(correct_from=0.)}
FLOORS = {'single': 'ce', 'two': 'floor of two', 'full, second view for nothing': 'floor of full', 'full': 'floor of full'}

def variant(name, args):
    from step import learner
    register_method('run', VARIANTS[name], '')
    return learner('run', args)

def step_time(learn):
    with learn.no_logging(): learn.fit(1, 1e-4)
    return median(learn.clock.steps)

def peak_memory(name, args):
    "MiB, of a process of its own"
    learn = variant(name, args)
    step_time(learn)
    if torch.device(args.device).type == 'cuda': return torch.cuda.max_memory_allocated()/2**20
    return int(next(o for o in open('/proc/self/status') if o.startswith('VmHWM')).split()[1])/2**10 # ru_maxrss would begin with that of the parent

def cost(args):
    "Ratios to plain training and to the floor, and peak memory -> CSV"
    learners = {o: variant(o, args) for o in VARIANTS}
    for learn in learners.values(): step_time(learn) # warm-up
    rounds = [{o: step_time(learn) for o,learn in learners.items()} for _ in range(args.rounds)]
    def ratio(name, base): return median(t[name]/t[base] for t in rounds)
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn'), max_tasks_per_child=1) as pool:
        memory = {o: pool.submit(peak_memory, o, args).result() for o in VARIANTS}
    df = pd.DataFrame([dict(method=o, step_ms=1000*median(t[o] for t in rounds), to_plain=ratio(o, 'ce'), to_floor=ratio(o, FLOORS[o]) if o in FLOORS else np.nan,
                            peak_mib=memory[o], arch=args.arch, size=args.size, bs=args.bs, rounds=args.rounds, device=args.device, threads=torch.get_num_threads(),
                            torch=torch.__version__) for o in VARIANTS]).round(3)
    df.to_csv(args.out or Path(__file__).parents[1]/'results/confidence_cost.csv', index=False)
    print(df.iloc[:,:5].to_string(index=False))

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--preset', default='methods', choices=PRESETS)
    p.add_argument('--npz', type=Path)
    p.add_argument('--n', type=int, default=10_000)
    p.add_argument('--noise', nargs='+', default=['symmetric:.4', 'symmetric:.8', 'pair:.4'])
    p.add_argument('--methods', nargs='+', help='names within the preset')
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--epochs', type=int, default=30)
    p.add_argument('--jobs', type=int, default=2)
    p.add_argument('--out', type=Path)
    p.add_argument('--cost', action='store_true')
    p.add_argument('--arch', default='resnet18')
    for name,default in (('size', 64), ('bs', 64), ('steps', 6), ('rounds', 9)): p.add_argument(f'--{name}', type=int, default=default)
    p.add_argument('--device', default='cpu')
    args = p.parse_args()
    cost(args) if args.cost else evidence(args)

if __name__ == '__main__': main()

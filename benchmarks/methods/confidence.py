"""TwoModelConfidenceCallback: what it is worth, how sensitive it is, and what it costs.

python benchmarks/methods/confidence.py                                           scikit-learn's digits, 30 epochs
python benchmarks/methods/confidence.py --npz fashion_mnist.npz --epochs 25       10,000 training images of a file with
                                           train_images, train_labels, test_images, test_labels
[--preset methods|m|slope|sensitivity] [--noise symmetric:.4 symmetric:.8 pair:.4] [--methods ce full] [--seeds 3]
[--jobs 2] [--out FILE.csv] [--resume]

python benchmarks/methods/confidence.py --cost [--arch resnet18 --size 64 --bs 64 --steps 6 --rounds 9 --device cpu]

The same small CNN from scratch, Adam, one-cycle schedule with 3e-3, batch 64 (128 for --npz), noise on training and
validation labels, and in every row the same augmentation: images moved by up to an eighth of their size. Same weights
at the start, same labels, same order and same augmentation of the data for all rows of a seed. One row per training:
accuracy on the clean test set at the last and the best epoch, with a peer network its accuracy too, mean confidence
of right and wrong labels in the last epoch, and how well the label quality tells them apart (ROC-AUC).

Cost: the floor is one forward and backward pass of the peer network and two of the model, with both optimizer steps,
and nothing else. Each variant against its own floor and against plain training: the median over the rounds of the
ratio in each; and the peak memory of a process that makes some steps (on CUDA of the device).
"""
import copy, multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
sys.path.insert(0, str(Path(__file__).parents[1]))
from common import RESULTS, VERSIONS, Rows, arguments, data_name, images, means, measure, tasks
from speed.step import add_step_arguments, learner, step_time
import numpy as np, pandas as pd, torch
from fastai.basics import Adam, Callback, TensorImageBase
from fastai.vision.augment import RandTransform
from sklearn.metrics import roc_auc_score
from torch import nn
from fastnoisy.all import GCELoss, GJSLoss, JSLoss, PairNoise, SymmetricNoise, register_method, run_one, small_cnn
from fastnoisy.analysis.metrics import accuracy_of
from fastnoisy.core.loaders import plain_tensors
from fastnoisy.callback.confidence import TwoModelConfidenceCallback
from fastnoisy.callback.confidence import js_divergence
from fastnoisy.losses.robust import gce_loss
from fastnoisy.core.views import SecondView, shifted

NOISE = dict(symmetric=SymmetricNoise, pair=PairNoise)
TWO = dict(jsd=0., correct_from=1.)

def confidence(**kwargs): return lambda: dict(cbs=TwoModelConfidenceCallback(**kwargs))
def loss(f): return lambda: dict(loss_func=f())

SLOPES = (.5, 2., 5., 10.)
SENSITIVITY = {
    'default': {}, 'alpha=.3': dict(alpha=.3), 'alpha=3': dict(alpha=3.), 'penalty=0': dict(penalty=0.),
    'penalty=1e-3': dict(penalty=1e-3), 'penalty=1e-2': dict(penalty=1e-2),
    'distillation=.1': dict(penalty=.1, penalty_kind='distillation'), 'jsd=0': dict(jsd=0.), 'jsd=3': dict(jsd=3.),
    'jsd=5': dict(jsd=5.), 'jsd=10': dict(jsd=10.), 'jsd=30': dict(jsd=30.), 'correct_from=.1': dict(correct_from=.1),
    'correct_from=.5': dict(correct_from=.5), 'no correction': dict(correct_from=1.),
    'correct_mix=.8': dict(correct_mix=.8)}
PRESETS = dict(
    methods=dict(ce=dict, gce=loss(GCELoss), js=loss(JSLoss), gjs=loss(GJSLoss), single=confidence(models=1),
                 two=confidence(**TWO), full=confidence()),
    m={f'm={m}': confidence(m=float(m)) for m in (-5, -3, -1, 0, 1, 3, 5)},
    slope={f'slope={o}': confidence(slope=o) for o in SLOPES} |
          {f'two, slope={o}': confidence(slope=o, **TWO) for o in SLOPES},
    sensitivity={name: confidence(**o) for name,o in SENSITIVITY.items()})

class Shift(RandTransform):
    "The augmentation of all rows"
    split_idx,order = 0,20
    def encodes(self, x:TensorImageBase):
        return shifted(x, int(torch.randint(2**31, (1,)))).as_subclass(type(x))

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
    kind,rate = noise.split(':')
    dls = images(args, NOISE[kind](float(rate)), seed)
    dls.train.after_batch.add([Shift()])
    register_method('run', PRESETS[args.preset][method], '')
    make_model = partial(small_cnn, dls.n_channels, dls.c, 2 if args.npz else 1)
    second = SecondView(dls.train.after_batch).__enter__() if method == 'gjs' else None
    def two_views(): return TwoViews(make_model(), second)
    learn,row = run_one(dls, make_model if second is None else two_views, 'run', args.epochs, seed=seed)
    row.update(data=data_name(args), noise=noise, actual_rate=dls.noise.actual_rate, method=method, **VERSIONS)
    if hasattr(learn, 'confidence'): row.update(said(learn, dls))
    return row

def said(learn, dls):
    "What the confidences say about right and wrong labels"
    df,wrong = learn.confidence.to_frame(),dls.noise.flipped.numpy()
    seen,last = df.label_quality.notna(),df.iloc[:,-1]
    auc = roc_auc_score(wrong[seen], -df.label_quality[seen])
    res = dict(auc=auc, confidence_right=last[~wrong].mean(), confidence_wrong=last[wrong].mean())
    if learn.confidence.models == 2: res['robust_last'] = accuracy_of(learn.confidence.robust_model, dls.test)
    return res

def evidence(args):
    "All trainings of a preset -> CSV"
    name = data_name(args)
    file = args.out or RESULTS/f'confidence_{args.preset}_{name}.csv'
    rows = Rows(file, args.resume, data=name, epochs=args.epochs)
    methods = args.methods or PRESETS[args.preset]
    measure(experiment, args, tasks(noise=args.noise, seed=range(args.seeds), method=methods), rows)
    rows.sort('noise', 'method', 'seed')
    columns = ['last', 'best', 'robust_last', 'auc', 'confidence_right', 'confidence_wrong']
    means(rows, ['noise', 'method'], columns)

class Floor(Callback):
    "The passes and steps that cannot be avoided, and nothing else"
    order,run_valid = -4,False
    def __init__(self, views): self.views = views
    def before_fit(self):
        self.peer = copy.deepcopy(self.model)
        self.peer_optimizer = Adam(list(self.peer.parameters()), lr=1e-4)
    def after_loss(self):
        self.learn.loss_grad = self.loss_grad + gce_loss(self.peer(*self.xb), self.y).mean()
        if self.views == 1: return
        self.learn.loss_grad = self.learn.loss_grad + js_divergence(self.pred, self.model(*self.xb)).mean()
    def after_step(self):
        self.peer_optimizer.step()
        self.peer_optimizer.zero_grad()

def for_nothing(x): return x

VARIANTS = {
    'ce': dict, 'floor of two': lambda: dict(cbs=Floor(1)), 'floor of full': lambda: dict(cbs=Floor(2)),
    'single': confidence(models=1), 'two': confidence(**TWO),
    'full, second view for nothing': confidence(view=for_nothing, correct_from=0.), 'full': confidence(correct_from=0.)}
FLOORS = {'single': 'ce', 'two': 'floor of two', 'full, second view for nothing': 'floor of full',
          'full': 'floor of full'}

def variant(name, args):
    register_method('run', VARIANTS[name], '')
    return learner('run', args)

def peak_memory(name, args):
    "MiB, of a process of its own; ru_maxrss would begin with that of the parent"
    learn = variant(name, args)
    step_time(learn)
    if torch.device(args.device).type == 'cuda': return torch.cuda.max_memory_allocated()/2**20
    return int(next(o for o in open('/proc/self/status') if o.startswith('VmHWM')).split()[1])/2**10

def cost(args):
    "Ratios to plain training and to the floor, and peak memory -> CSV"
    learners = {o: variant(o, args) for o in VARIANTS}
    for learn in learners.values(): step_time(learn) # warm-up
    rounds = [{o: step_time(learn) for o,learn in learners.items()} for _ in range(args.rounds)]
    def ratio(name, base): return median(t[name]/t[base] for t in rounds)
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn'), max_tasks_per_child=1) as pool:
        memory = {o: pool.submit(peak_memory, o, args).result() for o in VARIANTS}
    setting = {o: getattr(args, o) for o in ('arch', 'size', 'bs', 'rounds', 'device')}
    setting.update(threads=torch.get_num_threads(), torch=torch.__version__)
    def row(o):
        floor = ratio(o, FLOORS[o]) if o in FLOORS else np.nan
        ms = 1000*median(t[o] for t in rounds)
        return dict(method=o, step_ms=ms, to_plain=ratio(o, 'ce'), to_floor=floor, peak_mib=memory[o], **setting)
    df = pd.DataFrame([row(o) for o in VARIANTS]).round(3)
    df.to_csv(args.out or RESULTS/'confidence_cost.csv', index=False)
    print(df.iloc[:,:5].to_string(index=False))

def main():
    p = arguments(__doc__, seeds=3, epochs=30, jobs=2, npz=True)
    p.add_argument('--preset', default='methods', choices=PRESETS)
    p.add_argument('--noise', nargs='+', default=['symmetric:.4', 'symmetric:.8', 'pair:.4'])
    p.add_argument('--methods', nargs='+', help='names within the preset')
    p.add_argument('--cost', action='store_true')
    add_step_arguments(p)
    args = p.parse_args()
    cost(args) if args.cost else evidence(args)

if __name__ == '__main__': main()

"""The experiments of the LiLAW paper as presets, with and without LiLAW on the same layers; at a scale that two CPU cores can do unless stated otherwise.

python benchmarks/lilaw_paper.py table3 --root DIR               ECG5000, stacked LSTM, at the paper's settings; DIR has ECG5000/ECG5000_TRAIN and _TEST as the archive has them
python benchmarks/lilaw_paper.py table2 --root DIR               BreastMNIST at 28 pixels; DIR has breastmnist.npz
python benchmarks/lilaw_paper.py PRESET                          one of those on scikit-learn's digits: alpha table6 table7 table9 table11 table12 options
[--data fashion --npz FILE]                                      such a preset on the first 10,000 training images of FashionMNIST
[--noise 0 .5] [--methods ce lilaw] [--seeds 3] [--epochs N] [--out FILE.csv]

table2   image sets and noise (also Table 15)    table9   validation labels clean or noisy, and training on the clean half alone
table3   ECG5000                                 table11  focal loss
table6   each of the three terms and each pair   table12  size of the validation set, in percent of the training set
table7   noise levels (also Figure 3)            options  what the paper does not have: hypergradient, weights of mean one, other rates and starts
alpha    the term of easy samples alone, beside GCE and ALSO

One row per training: accuracy, balanced accuracy, macro-F1 and macro-AUROC on the clean test set after the last epoch; accuracy at the best epoch (`best`: nobody can know
it) and at the one with the lowest loss on the noisy validation set (`early`, what early stopping without a limit of patience would keep); and the three numbers at the end.
Same split, labels, weights at the start and order of the data for all methods of one seed.
"""
import argparse, time, warnings
from functools import partial
from itertools import product
from pathlib import Path
warnings.filterwarnings('ignore')
import fastai, numpy as np, pandas as pd, torch
from fastai.basics import Adam, Callback, CrossEntropyLossFlat, L, Learner, set_seed
from fastai.callback.all import ParamScheduler, ProgressCallback
from fastai.losses import FocalLossFlat
from sklearn.metrics import balanced_accuracy_score, f1_score
import fastnoisy
from fastnoisy.all import METHODS, LiLAWCallback, array_dls, digits_dls, ecg5000_dls, medmnist_dls, register_method, small_cnn
from fastnoisy.aside import model_mode
from fastnoisy.data.digits import digits_splits
from fastnoisy.data.series import StackedLSTM, macro_auroc, stratified_split
from compare import from_npz

def lilaw(**kwargs): return lambda: dict(cbs=LiLAWCallback(**kwargs))
def focal(**kwargs): return lambda: dict(loss_func=FocalLossFlat(), **(dict(cbs=LiLAWCallback()) if kwargs.get('weigh') else {}))

TERMS = ['alpha,beta', 'alpha,delta', 'beta,delta', 'alpha', 'beta', 'delta']
for o in TERMS: register_method(f'lilaw:{o}', lilaw(terms=o.split(',')), 'a part of LiLAW')
register_method('lilaw:alpha, detached', lilaw(terms='alpha', detach=True), 'a part of LiLAW')
FAST = dict(meta='hypergradient', lr=100., wd=0.)
OPTIONS = {'hypergradient': FAST, 'hypergradient of the head': dict(**FAST, meta_of='head'), 'hypergradient, mean one': dict(**FAST, normalise=True), 'mean one': dict(normalise=True),
           'lr=.5': dict(lr=.5), '10,1,1': dict(alpha=10., beta=1., delta=1.)}
for o,kwargs in OPTIONS.items(): register_method(f'lilaw:{o}', lilaw(**kwargs), 'an option of LiLAW')
register_method('focal', focal(), 'focal loss')
register_method('lilaw+focal', focal(weigh=True), 'LiLAW with focal loss')

CPU = dict(epochs=30, lr=3e-3, schedule='one-cycle')
PRESETS = dict(
    table3=dict(data='ecg5000', noise=[0.], methods=['ce', 'lilaw', 'gce', 'also', 'confidence'], epochs=500, lr=1e-3, schedule='flat', every=25),
    table2=dict(data='breastmnist', noise=[0., .1, .2, .3, .4, .5], methods=['ce', 'lilaw'], epochs=100, lr=1e-4, schedule='steps'),
    table6=dict(data='digits', noise=[0., .5], methods=['ce', 'lilaw', *[f'lilaw:{o}' for o in TERMS]], **CPU),
    table7=dict(data='digits', noise=[i/10 for i in range(10)], methods=['ce', 'lilaw'], **CPU),
    alpha=dict(data='digits', noise=[0., .2, .4, .6, .8], methods=['ce', 'lilaw', 'lilaw:alpha', 'lilaw:alpha, detached', 'gce', 'also'], **CPU),
    table9=dict(data='digits', noise=[0., .5], methods=['ce', 'lilaw'], variants=['as it is', 'clean validation', 'clean part of training'], **CPU),
    table11=dict(data='digits', noise=[0., .5], methods=['ce', 'lilaw', 'focal', 'lilaw+focal'], **CPU),
    options=dict(data='digits', noise=[0., .5], methods=['ce', 'lilaw', *[f'lilaw:{o}' for o in OPTIONS]], **CPU),
    table12=dict(data='digits', noise=[.5], methods=['ce', 'lilaw'], variants=['5 %', '10 %', '15 %', '20 %', '25 %', '30 %'], **CPU),
)

def digits(args, noise, seed, variant):
    train,valid,test = digits_splits(seed)
    if variant.endswith('%'):
        share = float(variant[:-1])/100
        x,y = (np.concatenate(o) for o in zip(train, valid))
        a,b = stratified_split(y, share/(1 + share), seed)
        train,valid = (x[a], y[a]),(x[b], y[b])
    dls = array_dls(train, valid, test, noise=noise or None, seed=seed, rgb=False, device='cpu')
    if variant == 'clean validation': dls.loaders[1] = array_dls(train, valid, rgb=False, device='cpu').valid
    if variant == 'clean part of training' and noise:
        right = ~dls.noise.flipped.numpy()
        clean = array_dls((train[0][right], train[1][right]), valid, rgb=False, device='cpu')
        dls.loaders[0] = clean.train
    return dls,partial(small_cnn, dls.n_channels, dls.c)

def fashion(args, noise, seed, variant):
    dls = from_npz(args.npz, 10_000, noise or None, seed)
    return dls,partial(small_cnn, dls.n_channels, dls.c, 2)

def ecg5000(args, noise, seed, variant):
    dls = ecg5000_dls(noise=noise or None, seed=seed, split_seed=seed, bs=512, val_bs=4500, root=args.root, download=False, device='cpu')
    return dls,partial(StackedLSTM, 1, dls.c)

def breastmnist(args, noise, seed, variant):
    dls = medmnist_dls('breastmnist', noise=noise or None, seed=seed, bs=128, root=args.root, download=False, rgb=False, device='cpu')
    return dls,partial(small_cnn, dls.n_channels, dls.c, 2)

DATA = dict(digits=digits, fashion=fashion, ecg5000=ecg5000, breastmnist=breastmnist)

class TestScores(Callback):
    "Scores on `dls.test` after every `every`-th epoch and the last"
    order,name = 45,'test_scores'
    def __init__(self, every): self.every,self.rows = every,[]
    def after_validate(self):
        if (self.epoch+1) % self.every and self.epoch+1 < self.n_epoch: return
        with torch.no_grad(), model_mode(self.model, False): logits,y = map(torch.cat, zip(*[(self.model(xb), yb) for xb,yb in self.dls.test]))
        pred = logits.argmax(1)
        self.rows.append(dict(epoch=self.epoch, accuracy=(pred == y).float().mean().item(), balanced=balanced_accuracy_score(y, pred), f1=f1_score(y, pred, average='macro'),
                              auroc=macro_auroc(logits.softmax(1), y)))

def steps(pct): return 1. if pct < .5 else .1 if pct < .75 else .01

def train(dls, make_model, method, epochs, lr, schedule, seed, every=1):
    "One training: the Learner and its row"
    set_seed(seed)
    dls.train.rng.seed(seed)
    kwargs = {'loss_func': CrossEntropyLossFlat(), **METHODS[method].make()}
    test = TestScores(every)
    learn = Learner(dls, make_model(), cbs=[test, *L(kwargs.pop('cbs', None))], opt_func=partial(Adam, mom=.9, sqr_mom=.999, eps=1e-8), wd=0., **kwargs)
    learn.remove_cbs(ProgressCallback)
    start = time.perf_counter()
    with learn.no_logging():
        if schedule == 'one-cycle': learn.fit_one_cycle(epochs, lr)
        else: learn.fit(epochs, lr, cbs=[ParamScheduler({'lr': lambda pct: lr*steps(pct)})] if schedule == 'steps' else None)
    seconds,rows = time.perf_counter() - start,pd.DataFrame(test.rows)
    valid_loss = [learn.recorder.values[e][1] for e in rows.epoch]
    row = dict(method=method, seed=seed, epochs=epochs, last=rows.accuracy.iloc[-1], best=rows.accuracy.max(), early=rows.accuracy[np.argmin(valid_loss)],
               early_epoch=rows.epoch[np.argmin(valid_loss)]+1)
    row.update(rows.iloc[-1][['balanced', 'f1', 'auroc']], seconds=seconds)
    if hasattr(learn, 'lilaw'): row.update(alpha=learn.lilaw.alpha, beta=learn.lilaw.beta, delta=learn.lilaw.delta)
    return learn,row

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('preset', choices=PRESETS)
    p.add_argument('--data', choices=DATA)
    p.add_argument('--npz', type=Path)
    p.add_argument('--root', type=Path)
    p.add_argument('--noise', type=float, nargs='+')
    p.add_argument('--methods', nargs='+')
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--epochs', type=int)
    p.add_argument('--out', type=Path)
    args = p.parse_args()
    torch.set_num_threads(1)
    preset = dict(variants=['as it is']) | PRESETS[args.preset]
    preset |= {k: v for k,v in vars(args).items() if v is not None and k in preset}
    data,noises,methods,variants = (preset.pop(o) for o in ('data', 'noise', 'methods', 'variants'))
    out = args.out or Path(__file__).parent/f'results/lilaw_{args.preset}_{data}.csv'
    rows = []
    for noise,seed,variant,method in product(noises, range(args.seeds), variants, methods):
        dls,make_model = DATA[data](args, noise, seed, variant)
        _,row = train(dls, make_model, method, seed=seed, **preset)
        rows.append(dict(preset=args.preset, data=data, noise=noise, variant=variant, **row, fastnoisy=fastnoisy.__version__, torch=torch.__version__, fastai=fastai.__version__))
        print(noise, variant, {k: round(float(v), 4) if not isinstance(v, str) else v for k,v in row.items()}, flush=True)
        pd.DataFrame(rows).round(5).to_csv(out, index=False)
    print(pd.DataFrame(rows).groupby(['noise', 'variant', 'method'], sort=False)[['last', 'best', 'early', 'auroc']].agg(['mean', 'std']).round(3).to_string())

if __name__ == '__main__': main()

"""ELR's settings on scikit-learn's digits, in fits of 5, 12 and 30 epochs, beside plain training and ALSO.

python benchmarks/methods/elr_settings.py [--methods ce elr elr:lam=7] [--noise symmetric:.4 rare] [--epochs 5 12]
[--seeds 1] [--jobs 1] [--out FILE.csv] [--resume]
python benchmarks/methods/elr_settings.py --labels     SELC, SAT and SOP in fits of 12 and 30: label_settings.csv

A small CNN, Adam, one-cycle schedule with 3e-3. `last`, `best`: accuracy on the clean test set at the last epoch and
at the best by noisy validation. `ap`: average precision of the wrong labels by label quality. `suggested`: share of
suggested labels that are the true ones. Noise `rare`: right labels, but 12 training samples of classes 3 and 8 each (a
fifth of all for validation), where `last` is the accuracy on these two.
"""
import sys
from functools import partial
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parents[1]))
from common import RESULTS, VERSIONS, Rows, arguments, means, measure, tasks
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score
from fastnoisy.all import array_dls, small_cnn
from fastnoisy.benchmark.train import run_one, train_one
from fastnoisy.benchmark.trial import clean_dls
from fastnoisy.benchmark.variants import add_noise

METHODS = ['ce', 'elr', 'elr:corrected', 'elr:lam=7', 'elr:momentum=.9:corrected', 'also']
LABELS = ['ce', 'selc', 'selc:paced=False', 'selc:warmup=.1', 'selc:warmup=.3', 'selc:warmup=.1:balanced=False',
          'sat:warmup=.1', 'sop', 'sop:balanced=False', 'sop:ratio=0:balanced=False', 'sop:ratio=1',
          'sop:ratio=1:balanced=False', 'sop:share=.5:balanced=False']
RARE = 3,8

def rare_dls(seed):
    "Digits with few samples of two classes"
    digits,rng = load_digits(),np.random.default_rng(seed)
    x,y = (digits.images*255/16).astype(np.uint8),digits.target
    order = rng.permutation(len(y))
    test,rest = order[:500],order[500:]
    kept = rng.permutation([i for c in range(10) for i in rest[y[rest] == c][:12 if c in RARE else 200]])
    parts = kept[len(kept)//5:],kept[:len(kept)//5],test
    return array_dls(*((x[o], y[o]) for o in parts), bs=64, rgb=False, device='cpu')

def of_rare(epochs, seed, method):
    dls = rare_dls(seed)
    learn,_ = train_one(dls, partial(small_cnn, dls.n_channels, dls.c), method, epochs, seed=seed)
    logits,y = learn.get_preds(dl=dls.test)
    return dict(last=(logits.argmax(1) == y)[np.isin(y, RARE)].float().mean().item())

def of_noise(noise, epochs, seed, method):
    dls = add_noise(clean_dls('digits'), None if noise == 'none' else noise, seed)
    learn,row = run_one(dls, partial(small_cnn, dls.n_channels, dls.c), method, epochs, seed=seed)
    found = {k: row[o] for k,o in dict(last='last', best='best_valid').items()}
    cb = next((o for o in learn.cbs if getattr(o, 'is_method', False)), None)
    if cb is None or noise == 'none': return found
    found['ap'] = average_precision_score(dls.noise.flipped.numpy(), -cb.label_quality())
    said = cb.suggested_labels()
    return found if said is None else dict(found, suggested=(said == dls.noise.true.numpy()).mean())

def experiment(args, epochs, noise, seed, method):
    found = of_rare(epochs, seed, method) if noise == 'rare' else of_noise(noise, epochs, seed, method)
    found = {o: found.get(o, np.nan) for o in ('last', 'best', 'ap', 'suggested')}
    return dict(epochs=epochs, noise=noise, method=method, seed=seed, **found, **VERSIONS)

def main():
    p = arguments(__doc__, seeds=1, jobs=1)
    p.add_argument('--methods', nargs='+')
    p.add_argument('--labels', action='store_true', help='methods that replace labels')
    p.add_argument('--noise', nargs='+', default=['symmetric:.4', 'pair:.3', 'none', 'rare'])
    p.add_argument('--epochs', nargs='+', type=int)
    args = p.parse_args()
    name,methods,epochs = ('label', LABELS, [12, 30]) if args.labels else ('elr', METHODS, [5, 12, 30])
    rows = Rows(args.out or RESULTS/f'{name}_settings.csv', args.resume)
    todo = tasks(epochs=args.epochs or epochs, noise=args.noise, seed=range(args.seeds), method=args.methods or methods)
    measure(experiment, args, todo, rows)
    means(rows, ['epochs', 'noise', 'method'], ['last', 'best', 'ap', 'suggested'])

if __name__ == '__main__': main()

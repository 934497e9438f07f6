"""Methods where half of the classes are rare: scikit-learn's digits, of 5 to 9 only 15 % are left, 30 % wrong labels
by default.

python benchmarks/methods/co_teaching_rare.py [--seeds 3] [--epochs 30] [--methods ce co-teaching ..] [--noise .3]
                                              [--out FILE]

Accuracy on 450 clean test digits after the last epoch, all classes equally and the rare ones.
"""
import sys
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parents[1]))
from common import Rows, arguments, measure, tasks
import numpy as np
from sklearn.datasets import load_digits
from fastnoisy.all import array_dls, small_cnn
from fastnoisy.benchmark.train import train_one
from fastnoisy.core.predict import predict

METHODS = 'ce','co-teaching','co-teaching:balanced'

def digits(seed, noise=.3):
    data,gen = load_digits(),np.random.default_rng(seed)
    x,y = (data.images/16*255).astype(np.uint8),data.target
    test,rest = np.split(gen.permutation(len(y)), [450])
    kept = np.array([i for i in rest if y[i] < 5 or gen.random() < .15])
    valid,train = np.split(kept, [len(kept)//5])
    parts = ((x[o], y[o]) for o in (train, valid, test))
    return array_dls(*parts, noise=noise or None, seed=seed, bs=64, rgb=False, device='cpu')

def one(args, seed, method):
    dls = digits(seed, args.noise)
    learn,_ = train_one(dls, lambda: small_cnn(dls.n_channels, dls.c), method, args.epochs, seed=seed)
    p = predict(learn, dls.test)
    right = p.logits.argmax(1) == p.targets
    recall = [right[p.targets == k].float().mean().item() for k in range(10)]
    rate = learn.co_teaching.noise_rate if hasattr(learn, 'co_teaching') else float('nan')
    recalls = dict(mean_recall=sum(recall)/10, rare_recall=sum(recall[5:])/5)
    return dict(seed=seed, method=method, noise=args.noise, epochs=args.epochs, **recalls,
                estimated_rate=rate)

def main():
    parser = arguments(__doc__, seeds=3, epochs=30, out='co_teaching_rare.csv')
    parser.add_argument('--methods', nargs='+', default=METHODS)
    parser.add_argument('--noise', type=float, default=.3)
    args = parser.parse_args()
    rows = Rows(args.out, args.resume, digits=3)
    measure(one, args, tasks(seed=range(args.seeds), method=args.methods), rows)

if __name__ == '__main__': main()

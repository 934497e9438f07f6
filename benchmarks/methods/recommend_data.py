"""Data of the recommender's evidence: those of the battery, two tables more, and sentences.

Tables `segment` (outdoor images, 2,310 rows) and `phishing` (1,250 rows) lie in the wheel of river (`pip download
--no-deps river`), series in that of aeon, see ../audit/battery_data.py. `docstrings` are the first sentences of the
documentation of five packages; the class of a sentence is the package.
"""
import gzip, inspect, io, re, sys, zipfile
from collections import Counter
from importlib import import_module
from pathlib import Path
import numpy as np, pandas as pd
sys.path.insert(0, str(Path(__file__).parents[1]/'audit'))
import battery_data

KINDS = {'image': ['digits', 'fashion_mnist'], 'series': ['ecg5000', 'ItalyPowerDemand', 'JapaneseVowels'],
         'table': ['digits_table', 'breast_cancer', 'segment', 'phishing'], 'text': ['docstrings']}
RIVER = dict(segment=('segment.csv.zip', 'category'), phishing=('phishing.csv.gz', 'is_phishing'))
PLACES = dict(matplotlib='axes.Axes figure.Figure pyplot', pandas='DataFrame Series Index', sklearn='cluster ensemble '
              'linear_model metrics preprocessing model_selection', scipy='signal stats linalg optimize special',
              torch='Tensor nn functional optim')
MAX_WORDS = 24

def needs(name):
    "What of `root`, `river` and `aeon` it is read from; '' for what scikit-learn or the machine has"
    if name in RIVER: return 'river'
    if name in battery_data.SERIES and name != 'Coffee': return 'aeon'
    return 'root' if name in battery_data.IMAGES and name != 'digits' else ''

def _river(name, wheel):
    file,target = RIVER[name]
    with zipfile.ZipFile(wheel) as z: data = z.read(f'river/datasets/{file}')
    if file.endswith('.gz'): text = gzip.decompress(data)
    else:
        with zipfile.ZipFile(io.BytesIO(data)) as z: text = z.read(z.namelist()[0])
    table = pd.read_csv(io.BytesIO(text))
    x = table.drop(columns=target).to_numpy(dtype=np.float64)
    return ((x - x.mean(0))/(x.std(0) + 1e-6)).astype(np.float32), pd.factorize(table[target], sort=True)[0], 'table'

def _object(path):
    "`sklearn.cluster`, `matplotlib.figure.Figure`, ..."
    package,*names = path.split('.')
    found = import_module(package)
    for i,name in enumerate(names, 1):
        try: found = import_module('.'.join([package, *names[:i]]))
        except ImportError: found = getattr(found, name)
    return found

def _sentences(o):
    docs = [inspect.getdoc(getattr(o, name, None)) or '' for name in dir(o) if name[0] != '_']
    first = {re.sub(r'\s+', ' ', d.split('\n\n')[0]).strip() for d in docs}
    return {d for d in first if re.match('[A-Z][a-z]', d) and 5 <= len(d.split()) <= 40}

def _docstrings():
    "Ids of the words of each sentence, 0 where there is none; the words with two uses or more"
    found = [(s, i) for i,(k,v) in enumerate(PLACES.items()) for o in v.split()
             for s in sorted(_sentences(_object(f'{k}.{o}')))]
    found = list(dict.fromkeys(found))
    words = [re.findall(r'[a-z]+', s.lower())[:MAX_WORDS] for s,_ in found]
    uses = Counter(w for o in words for w in o)
    ids = {w: i for i,w in enumerate(sorted(w for w,n in uses.items() if n > 1), 2)}
    x = np.zeros((len(words), MAX_WORDS), dtype=np.int64)
    for row,o in zip(x, words): row[:len(o)] = [ids.get(w, 1) for w in o]
    return x, np.array([i for _,i in found]), 'text'

def bags(x):
    "Which words a sentence has, at length 1: (N, words)"
    has = np.zeros((len(x), x.max() + 1), dtype=np.float32)
    np.put_along_axis(has, x, 1, axis=1)
    has[:,:2] = 0
    return has/np.linalg.norm(has, axis=1, keepdims=True).clip(1)

def load(name, root=None, river=None, aeon=None, n=2000):
    "Inputs (N, ...), true class ids (N,), kind: 'table', 'series', 'image' or 'text'"
    if name in RIVER: return _river(name, river)
    return _docstrings() if name == 'docstrings' else battery_data.load(name, root, aeon, n)

"""What the detectors find in the cells of the battery: `collect` writes one row for each cell that has been trained."""
import numpy as np, pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score, recall_score
from sklearn.preprocessing import StandardScaler
import fastnoisy.analysis.planted as detector
from fastnoisy.analysis.mixture import BetaMixture
from fastnoisy.analysis.planted import Planted, TrainingRecord
from fastnoisy.benchmark.trial import VERSIONS

SINGLE = ['loss', 'running_loss', 'aum', 'also', 'also_aum'] # scores of one training without planted errors
ALIKE = {'digits_table': 'digits'} # the same data: left out together
KINDS = dict(plain=('plain', 'plain0', 'again'), changed=('also', 'also0', 'mild')) # of a record, by its recipe
GIVEN_COUNTS = 4 # a training on the labels as given, in the fit for records alone

# Cells

def read(args, name, noise, seed, recipe):
    file = args.cache/f'{name}-{noise.replace(":", "")}-{seed}-{recipe}.npz'
    return dict(np.load(file)) if file.exists() else None

def cells(args):
    found = (o.stem.rsplit('-', 3) for o in sorted(args.cache.glob('*-plain.npz')))
    return [(name, noise, int(seed)) for name,noise,seed,_ in found]

def losses(logits, y):
    "Cross-entropy of logits (..., N, K), (..., N)"
    z = logits - logits.max(-1, keepdims=True)
    y = np.broadcast_to(y, z.shape[:-1])[..., None]
    return np.log(np.exp(z).sum(-1)) - np.take_along_axis(z, y, -1)[..., 0]

def margins(logits, y):
    y = np.broadcast_to(y, logits.shape[:-1])[..., None]
    others = logits.copy()
    np.put_along_axis(others, y, -np.inf, -1)
    return np.take_along_axis(logits, y, -1)[..., 0] - others.max(-1)

def record(d, name):
    history = d['history'].astype(np.float32)
    e = np.exp(history - history.max(-1, keepdims=True))
    m = margins(history, d['labels'])
    return TrainingRecord(m.mean(0), m[:len(m)//2].mean(0), (e/e.sum(-1, keepdims=True)).mean(0), name)

class Cell:
    "A cell that has been trained with planted errors"
    def __init__(self, args, name, noise, seed):
        self.key,self.data = (name, noise, seed),{o: read(args, name, noise, seed, o) for o in
                                                 ('plain', 'also', 'plain0', 'also0', 'folds', 'class', 'class0')}
        d = self.data['plain']
        self.complete = self.data['also'] is not None
        self.given,self.wrong = d['given'],d['given'] != d['true']
        self.planted = Planted(d['given'], d['labels'], d['planted'])
        if not self.complete: return
        self.records = [record(self.data[o], o) for o in ('plain', 'also')]
        self.combined = detector.combine(self.records, self.planted)
        self.best = detector.best_training(self.combined)
        clean = self.data[self.best + '0']
        self.clean = None if clean is None else record(clean, self.best)

    def features(self, records):
        "Of the samples that were left as they are, for the fit; None where there is no evidence"
        left,combined = ~self.planted.wrong,detector.combine(records, self.planted)
        if combined.auc <= .6: return None
        x = detector.calibration_features(combined, records[0].probs.shape[1])
        return x[left], self.wrong[left]

# Coefficients

def fit(cells):
    "Coefficients and intercept for one training, and for several"
    one = [o.features([r]) for o in cells for r in o.records]
    return fitted(one), fitted([o.features(o.records) for o in cells])

def fitted(parts, counts=None):
    "Coefficients and intercept, each cell of the same weight, or of that in `counts`"
    parts = [o for o in parts if o is not None]
    x,y = (np.concatenate(o) for o in zip(*parts))
    weights = np.concatenate([np.full(len(o), 1000*c/len(o)) for (_,o),c in zip(parts, counts or [1]*len(parts))])
    scale = StandardScaler().fit(x)
    model = LogisticRegression(C=.3, max_iter=1000).fit(scale.transform(x), y, weights)
    coefficients = model.coef_[0]/scale.scale_
    return coefficients, float(model.intercept_[0] - coefficients @ scale.mean_)

def use(one, several): detector.ONE,detector.SEVERAL = one,several

# Records alone

class Training:
    "One training of the cache, judged by its record: the planted labels are wrong ones like others"
    def __init__(self, file):
        self.name,_,_,recipe = file.stem.rsplit('-', 3)
        self.kind,self.weight = next(k for k,v in KINDS.items() if recipe in v),GIVEN_COUNTS if recipe[-1] == '0' else 1
        d = dict(np.load(file))
        self.wrong = d['labels'] != d['true']
        self.x = detector.recorded_features(record(d, recipe), d['labels'])

def all_trainings(args):
    wanted = sum(KINDS.values(), ())
    return [Training(o) for o in sorted(args.cache.glob('*.npz')) if o.stem.rsplit('-', 1)[-1] in wanted]

def fit_records(trainings):
    "Coefficients and intercept of each kind"
    parts = {k: [o for o in trainings if o.kind == k] for k in KINDS}
    return {k: fitted([(o.x, o.wrong) for o in v], [o.weight for o in v]) for k,v in parts.items()}

def judged_record(cell, recipe, name):
    "What one training on the labels as given says by itself, its columns begun with `name`"
    d = cell.data[recipe]
    if d is None: return {}
    o = detector.judge_recorded(record(d, recipe), cell.given, recipe == 'plain0')
    flagged = np.nan_to_num(o.probability) > .5
    row = dict(ap=ap(cell.wrong, -o.quality), rate=o.rate, flagged=flagged.mean())
    row['low'],row['high'] = o.interval
    if not o.problem: row.update(of_flags(o, flagged), calibration_error=calibration_error(o.probability, cell.wrong),
                                 precision=precision_of(cell.wrong, flagged))
    if not o.problem and cell.wrong.any(): row.update(f1=f1_score(cell.wrong, flagged),
                                                      recall=recall_score(cell.wrong, flagged))
    return {f'{name}_{k}': v for k,v in row.items()}

# Judging

def calibration_error(p, wrong, bins=10):
    place = np.minimum((p*bins).astype(int), bins - 1)
    parts = [place == i for i in range(bins) if (place == i).any()]
    return sum(abs(p[o].mean() - wrong[o].mean())*o.mean() for o in parts)

def ap(wrong, suspicion): return average_precision_score(wrong, suspicion) if wrong.any() else np.nan

def single_scores(cell):
    plain,also = cell.data['plain0'],cell.data['also0']
    if plain is None or also is None: return {}
    y,h = cell.given,plain['history'].astype(np.float32)
    values = dict(loss=losses(plain['final'], y), running_loss=losses(h, y).mean(0), aum=-margins(h, y).mean(0),
                  also=-also['u'], also_aum=-margins(also['history'].astype(np.float32), y).mean(0))
    res = {f'ap_{k}': ap(cell.wrong, v) for k,v in values.items()}
    weights = np.exp(also['u'] - also['u'].max())
    try: mixture = BetaMixture(noisy='low').fit(weights)
    except ValueError: return res
    flagged = mixture.p_noisy(weights) > .5
    f1 = dict(mixture_f1=f1_score(cell.wrong, flagged)) if cell.wrong.any() else {}
    return dict(res, mixture_rate=mixture.noise_rate, mixture_flagged=flagged.mean(), **f1)

def by_class_instead(cell):
    "ALSO by class in the place of ALSO: its AUM, three trainings with it, and its record alone"
    if cell.data['class'] is None or cell.data['class0'] is None or cell.data['plain0'] is None: return {}
    alone = record(cell.data['class0'], 'class')
    records = [cell.records[0], record(cell.data['class'], 'class')]
    best = detector.best_training(detector.combine(records, cell.planted))
    clean = alone if best == 'class' else record(cell.data['plain0'], 'plain')
    res = dict(ap_class_aum=ap(cell.wrong, -alone.aum))
    found = dict(class_=detector.judge(records, cell.planted, clean),
                 record_class_=detector.judge_recorded(alone, cell.given, False))
    for start,o in found.items():
        flagged = np.nan_to_num(o.probability) > .5
        res |= {f'{start}ap': ap(cell.wrong, -o.quality), f'{start}rate': o.rate, f'{start}flagged': flagged.mean()}
        if cell.wrong.any() and not o.problem: res[f'{start}f1'] = f1_score(cell.wrong, flagged)
    return res

def cleanlab_scores(cell):
    d = cell.data['folds']
    if d is None: return {}
    return dict(ap_cleanlab=ap(cell.wrong, -d['probs'][np.arange(len(cell.given)), cell.given]),
                seconds_cleanlab=float(d['seconds']))

def judged(cell):
    findings = detector.judge(cell.records, cell.planted, cell.clean)
    found,of,_ = findings.found
    names = ['plain', 'also'] + ([cell.best + '0'] if cell.clean is not None else [])
    row = dict(trainings=len(names), best=cell.best, seconds=sum(float(cell.data[o]['seconds']) for o in names),
               ap=ap(cell.wrong, -findings.quality), planted_auc=findings.combined.auc, planted_found=found, planted=of,
               undetermined=findings.problem, rate=findings.rate)
    row['low'],row['high'] = findings.interval
    p = findings.probability
    flagged = np.nan_to_num(p) > .5
    row['flagged'] = flagged.mean()
    if findings.problem: return row
    some = dict(calibration_error=calibration_error(p, cell.wrong), precision=precision_of(cell.wrong, flagged))
    if cell.wrong.any(): some.update(recall=recall_score(cell.wrong, flagged), f1=f1_score(cell.wrong, flagged))
    return row | some | of_flags(findings, flagged)

def precision_of(wrong, flagged): return wrong[flagged].mean() if flagged.any() else np.nan

def of_flags(findings, flagged):
    "Estimated precision and recall of the flags, with their intervals"
    row = {}
    for name in ('precision', 'recall'):
        row[f'said_{name}'],(low, high) = getattr(findings, name)(flagged)
        row[f'{name}_low'],row[f'{name}_high'] = low, high
    return row

def collect(args):
    every = [Cell(args, *o) for o in cells(args)]
    every,rows = [o for o in every if o.complete],[]
    trainings = all_trainings(args)
    def alike(name): return ALIKE.get(name, name)
    def family(o): return alike(o.key[0])
    for out in sorted({family(o) for o in every}):
        use(*fit([o for o in every if family(o) != out]))
        detector.RECORDED = fit_records([o for o in trainings if alike(o.name) != out])
        for o in every:
            if family(o) != out: continue
            name,noise,seed = o.key
            start = dict(data=name, noise=noise, seed=seed, n=len(o.given), wrong=o.wrong.mean())
            alone = judged_record(o, 'also0', 'record') | judged_record(o, 'plain0', 'record_plain')
            beside = by_class_instead(o) | cleanlab_scores(o)
            rows.append(start | judged(o) | single_scores(o) | alone | beside | VERSIONS)
    table = pd.DataFrame(rows).sort_values(['seed', 'noise', 'data']).round(4)
    table.to_csv(args.out, index=False, lineterminator='\n')
    summarise(table)
    if args.fit:
        for name,(coefficients,intercept) in zip(('ONE', 'SEVERAL'), fit(every)):
            print(f'{name} = ({coefficients.round(3).tolist()}, {intercept:.3f})')
        for name,(coefficients,intercept) in fit_records(trainings).items():
            print(f'RECORDED {name} = ({coefficients.round(3).tolist()}, {intercept:.3f})')

def summarise(table):
    "The targets"
    three = table[(table.trainings == 3) & (table.wrong > 0)].dropna(subset=['ap_aum'])
    names = [f'ap_{o}' for o in SINGLE if f'ap_{o}' in three]
    best = three[names].max(axis=1)
    gap = three.ap - best
    print(f'{len(three)} cells with three trainings: mean AP {three.ap.mean():.3f}, best single score in hindsight '
          f'{best.mean():.3f}; within .02 of it {(gap >= -.02).mean():.0%}, more than .05 below '
          f'{(gap < -.05).mean():.0%}, worst {gap.min():.3f}')
    print(three[names].mean().round(3).to_dict())
    if 'ap_cleanlab' in three:
        some = three.dropna(subset=['ap_cleanlab'])
        print(f'cleanlab: {some.ap_cleanlab.mean():.3f} against {some.ap.mean():.3f} on {len(some)} cells, above on '
              f'{(some.ap >= some.ap_cleanlab).mean():.0%}, at {some.seconds.sum()/some.seconds_cleanlab.sum():.2f} '
              'of its time')
    told,clean = table[table.undetermined == ''],table[table.wrong == 0]
    error = (told.rate - told.wrong).abs()
    covered = (told.low <= told.wrong) & (told.wrong <= told.high)
    print(f'{len(told)} of {len(table)} cells with a verdict: rate off by {error.mean():.3f}, at most .05 on '
          f'{(error <= .05).mean():.0%}, interval covers {covered.mean():.0%}, calibration error '
          f'{told.calibration_error.mean():.3f}')
    for start in ('', 'record_', 'record_plain_'):
        for name in ('precision', 'recall'):
            some = table.dropna(subset=[f'{start}{name}', f'{start}said_{name}'])
            true,said,low,high = (some[f'{start}{o}'] for o in (name, f'said_{name}', f'{name}_low', f'{name}_high'))
            covered = (low <= true) & (true <= high)
            print(f'{start}{name} of the flags, {len(some)} cells: off by {(said - true).abs().mean():.3f}, interval '
                  f'covers {covered.mean():.0%}, {(high - low).mean():.2f} wide')
    print(f'{len(clean)} clean sets: {clean.flagged.mean():.1%} flagged, at most 2 % on '
          f'{(clean.flagged <= .02).mean():.0%}')
    if 'mixture_rate' in table:
        old = table.dropna(subset=['mixture_rate'])
        print(f"mixture of ALSO's weights: rate off by {(old.mixture_rate - old.wrong).abs().mean():.3f}")
    for name in ('record', 'record_plain'):
        some = table.dropna(subset=[f'{name}_rate']) if f'{name}_rate' in table else table[:0]
        error = (some[f'{name}_rate'] - some.wrong).abs()
        print(f'{name}: {len(some)} with a verdict, rate off by {error.mean():.3f}, at most .05 on '
              f'{(error <= .05).mean():.0%}')

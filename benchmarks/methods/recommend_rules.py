"""Other ways to choose an epoch and a recipe, on the trainings that recommend.py has kept.

python benchmarks/methods/recommend_rules.py KEPT [--resume]     results/recommend_rules.csv; KEPT is the folder of
                                                                 `recommend.py --keep`, no data are needed

Each rule differs in one thing from the recommender's: `judge noisy` has noisy accuracy alone, `sharpness` is the power
of what all recipes say together, `epochs` the weights of an epoch and its neighbours, `last` takes the last epoch,
`epoch by all` the best one by what all recipes say together, `sure` and `veto` are standard errors of noisy accuracy
beyond which it alone decides for another recipe and for plain training, `first` is the share of the epochs after which
the race is judged first, `kept` how many others go on to the second and third stage, `told` the standard errors by
which one of them has to be ahead; `before` is noisy accuracy with weights 1 1 1.
"""
import sys
from contextlib import ExitStack
from pathlib import Path
from unittest import mock
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
import numpy as np
from common import Rows, arguments, measure, means
from fastnoisy.analysis.noisy_accuracy import label_posterior
from fastnoisy.benchmark.recommend import RECIPES
from recommend import LR, NoisyRace, Race, Recorded
place = sys.modules['fastnoisy.benchmark.recommend']

def one_epoch(values, i, window=3): return np.asarray(values[i], dtype=float)
def alike(values, i, window=3): return np.mean(values[max(0, i - 1):i + 2], 0)

def three(n, left): return max(3, n//2) if left else 1
def three_then_two(n, left): return {0: 1, 1: 2}.get(left, max(3, n//2))

def sharp(s): return {'label_posterior': lambda *args: label_posterior(*args, sharpness=s)}

def stages(*shares): return {'stages_of': lambda epochs: [round(o*epochs) for o in shares]}

class ByPosterior(Recorded):
    "Also the epoch by what all recipes say together"
    def best_epoch(self, recipe, seed, stop=None):
        probs = [self.known[f'{self.name(o, seed)} probs'][:stop] for o in self.names]
        last = -max(1, self.epochs//4)
        q = label_posterior(np.mean([o[last:].mean(0, dtype=float) for o in probs], 0), self.given)[0]
        said = self.known[f'{self.name(recipe, seed)} probs'][:stop].argmax(2)
        scores = q[np.arange(len(q)), said].mean(1)
        return int(np.argmax([place.centred_mean(scores, i) for i in range(len(scores))]))

class Last(Recorded):
    def best_epoch(self, recipe, seed, stop=None): return (stop or self.epochs) - 1

RULES = {'as it is': {}, 'judge noisy': dict(race=NoisyRace), 'sharpness 1': sharp(1),
         'sharpness 3': sharp(3), 'epochs 1': dict(centred_mean=one_epoch), 'last epoch': dict(kind=Last),
         'epochs 1 1 1': dict(centred_mean=alike), 'epoch by all': dict(kind=ByPosterior),
         'sure never': dict(SURE=np.inf), 'veto never': dict(VETO=np.inf),
         'first 1/4': stages(.25, .5, 1), 'told 1.5': dict(TOLD=1.5), 'told 2': dict(TOLD=2.),
         'kept three': dict(n_kept=three), 'kept three, two': dict(n_kept=three_then_two),
         'kept three, two, told 1.5': dict(n_kept=three_then_two, TOLD=1.5),
         'before': dict(centred_mean=alike, race=NoisyRace)}

def cell(args, file):
    "A row for each rule"
    name,noise,seed = file.stem.rsplit('-', 2)
    with np.load(file) as f: names = [o for o in RECIPES if f'{o}-{seed} probs' in f]
    for rule,changes in RULES.items():
        changes = dict(changes)
        race,kind = changes.pop('race', Race),changes.pop('kind', Recorded)
        with ExitStack() as stack:
            for k,v in changes.items(): stack.enter_context(mock.patch.object(place, k, v))
            known = kind(None, None, names, args.epochs, LR.get(name, 3e-3), int(seed), file)
            tested = {o: known.known[f'{o}-{seed} accuracy'][known.best_epoch(o, int(seed))] for o in names}
            found = known.race(race)[0]
        best = max(tested.values())
        yield dict(file=file.stem, data_set=name, noise=noise, seed=int(seed), rule=rule, recommended=found,
                   accuracy=tested[found], regret=100*(best - tested[found]),
                   over_plain=100*(tested[found] - tested['ce']))

def rows_of(args, file): return list(cell(args, args.kept/f'{file}.npz'))

def main():
    p = arguments(__doc__, epochs=12, out='recommend_rules.csv')
    p.add_argument('kept', type=Path)
    args = p.parse_args()
    rows = Rows(args.out, args.resume)
    measure(rows_of, args, [dict(file=o.stem) for o in sorted(args.kept.glob('*.npz'))], rows)
    means(rows, ['rule'], ['regret', 'over_plain', 'accuracy'])

if __name__ == '__main__': main()

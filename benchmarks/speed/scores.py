"""Training-dynamics scores: time of AUM against a loop over samples, memory of the state, cost of a training step.

    OMP_NUM_THREADS=1 python benchmarks/speed/scores.py [aum] [memory] [step] [grand_full]

aum: recorded logits are fed to both sides batch by batch, in the same run, in turn, for three batch sizes; the logits
are made outside the clock. The loop does what the aum package does for each sample of a batch: sum and count in a
dictionary and a record of the six numbers of this observation. `lean` is the same loop without the record. memory:
bytes of the tables for a million samples, and of the file that `learn.save` would add. step: plain training against
DynamicsCallback with all cheap scores and with GraNd of the last layer, as in benchmarks/speed/step.py; `grand_full`
adds GraNd of all parameters, which is slow.
"""
import io, sys, time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parents[1]))
from speed import step
import numpy as np, pandas as pd, torch
from fastnoisy.callback.dynamics import DynamicsCallback
from fastnoisy.core.registry import register_method
from fastnoisy.analysis.training_dynamics import SCORES, ScoreState, margin

VARIANTS = {'dynamics': dict(), 'dynamics:grand': dict(scores=['grand']),
            'dynamics:grand_full': dict(scores=['grand_full'], grand_epochs=range(10**4))}

@dataclass
class Observation:
    sample_id:int
    count:int
    target:int
    target_logit:float
    other:int
    other_logit:float
    margin:float
    aum:float

class Loop:
    "AUM sample by sample"
    def __init__(self, records):
        self.sums,self.counts = defaultdict(float),defaultdict(int)
        self.records = records
    def update(self, ids, logits, y):
        of_label = logits.gather(1, y[:,None])[:,0]
        others,which = logits.scatter(1, y[:,None], float('-inf')).max(1)
        seen = {}
        for i,(ident,m) in enumerate(zip(ids.tolist(), (of_label - others).tolist())):
            self.sums[ident] += m
            self.counts[ident] += 1
            if self.records:
                seen[ident] = Observation(ident, self.counts[ident], y[i].item(), of_label[i].item(), which[i].item(),
                                          others[i].item(), m, self.sums[ident]/self.counts[ident])
        return seen
    def values(self, n): return np.array([self.sums[i]/self.counts[i] for i in range(n)])

class Table:
    "AUM in a ScoreState"
    def __init__(self, n): self.state = ScoreState(n, 'aum')
    def update(self, ids, logits, y): self.state.update(ids, margin=margin(logits, y))
    def values(self, n): return self.state.raw()['aum']

def aum(n, epochs, k, bs):
    g = torch.Generator().manual_seed(0)
    y = torch.randint(k, (n,), generator=g)
    sides = {'table': Table(n), 'loop': Loop(True), 'lean': Loop(False)}
    seconds = dict.fromkeys(sides, 0.)
    for epoch in range(epochs):
        logits = 3*torch.randn(n, k, generator=g)
        batches = [(ids, logits[ids], y[ids]) for ids in torch.randperm(n, generator=g).split(bs)]
        for name,side in sides.items():
            start = time.perf_counter()
            for b in batches: side.update(*b)
            seconds[name] += time.perf_counter() - start
    times = {f'{o}_s': round(seconds[o], 3) for o in sides}
    ratios = {f'{o}_ratio': round(seconds[o]/seconds['table'], 1) for o in ('loop', 'lean')}
    difference = np.abs(sides['table'].values(n) - sides['loop'].values(n)).max()
    setting = dict(samples=n, epochs=epochs, classes=k, bs=bs)
    return dict(what='aum', **setting, **times, **ratios, largest_difference=difference)

def memory(n):
    state = ScoreState(n, [o for o in SCORES if SCORES[o].cheap])
    size = sum(o.numel()*o.element_size() for o in (state.sums, state.last, state.forgotten))
    file = io.BytesIO()
    torch.save(state.state_dict(), file)
    sizes = dict(state_mb=size/1e6, file_mb=round(file.tell()/1e6, 1))
    return dict(what='memory', samples=n, scores=len(state.scores), **sizes)

def step_cost(args):
    for name,kwargs in VARIANTS.items():
        register_method(name, lambda kwargs=kwargs: dict(cbs=DynamicsCallback(**kwargs)), 'training dynamics')
    variants = [o for o in VARIANTS if 'full' not in o or 'grand_full' in args.parts]
    for row in step.ratios(variants, args): yield dict(what='step', **row)

def main():
    p = step.step_arguments(__doc__, 'scores.csv')
    p.add_argument('parts', nargs='*', default=['aum', 'memory', 'step', 'grand_full'])
    p.add_argument('--samples', type=int, default=50_000)
    p.add_argument('--epochs', type=int, default=20)
    args = p.parse_args()
    rows = []
    if 'aum' in args.parts: rows += [aum(args.samples, args.epochs, 10, bs) for bs in (64, 256, args.samples)]
    if 'memory' in args.parts: rows.append(memory(1_000_000))
    if {'step', 'grand_full'} & {*args.parts}: rows += step_cost(args)
    for row in rows: print(row)
    table = pd.DataFrame(rows).assign(threads=torch.get_num_threads(), torch=torch.__version__)
    table.to_csv(args.out, index=False)

if __name__ == '__main__': main()

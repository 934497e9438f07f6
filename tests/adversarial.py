"""Tries to break trainings, by area, with seeded random cases: `python tests/adversarial.py [AREA ...] --minutes 5`.
Prints for each area how many cases there were, how many held, how many were refused by name (an error that says what
is wrong), and one line to repeat each that broke. Not part of the tests: what it finds becomes one."""
import argparse, random, shutil, tempfile, time, traceback, warnings
from pathlib import Path
import torch
from fastai.basics import Callback
from fastai.callback.core import CancelBatchException, CancelEpochException, CancelFitException
from fastai.callback.core import CancelStepException, CancelTrainException
from helpers import LR, make, make_dls, weights_of
from settings import battery

AREAS = {}
EVENTS = '''before_fit before_epoch before_train before_batch after_pred after_loss before_backward after_backward
before_step after_step after_batch after_train before_validate after_validate after_epoch'''.split()
CANCELS = CancelFitException,CancelEpochException,CancelTrainException,CancelBatchException,CancelStepException
STOPS = KeyboardInterrupt,RuntimeError,*CANCELS

class Refused(Exception): "The case was refused, as it should be: with an error that says what is wrong"

def area(f):
    AREAS[f.__name__] = f
    return f

class Stops(Callback):
    "Raise `exc` in an event, once"
    def __init__(self, event, exc, epoch, order): self.event,self.exc,self.at,self.order = event,exc,epoch,order
    def __call__(self, name):
        if name != self.event or self.at is None or getattr(self.learn, 'epoch', 0) < self.at: return
        self.at = None
        raise self.exc('on purpose')

def looks(learn):
    return dict(loss_func=learn.loss_func, model=learn.model, dls=learn.dls, loaders=list(learn.dls.loaders),
                cbs=list(learn.cbs), metrics=list(learn.metrics),
                autocast=torch.is_autocast_enabled('cpu'), grad=torch.is_grad_enabled())

@area
def stops(rng, folder):
    "Methods x events x kinds of stop: then the Learner is as before and can be used"
    method,event,exc = rng.choice(battery()),rng.choice(EVENTS),rng.choice(STOPS)
    epoch,order = rng.choice((0, 1, 2)),rng.choice((-20, -6, -4, 5, 30, 70))
    yield f'{method} {event} {exc.__name__} epoch {epoch} order {order}'
    learn = make(method, path=folder)
    before,names = looks(learn),{*vars(learn)}
    try: learn.fit(3, LR, cbs=Stops(event, exc, epoch, order))
    except exc: pass
    assert looks(learn) == before, 'the Learner has changed'
    left = {'sample_ids', 'sample_loss', 'sample_weight', 'fit_exit', '_do_fit'} & ({*vars(learn)} - names)
    assert not left, f'left behind: {left}'
    learn.fit(2, LR)
    assert weights_of(learn.model).isfinite().all(), 'the weights are not finite'

@area
def checkpoints(rng, folder):
    "A file cut anywhere, of no bytes, or of another data set: refused, and model and methods are as before"
    method,kind = rng.choice(battery()),rng.choice(('cut', 'empty', 'other data'))
    share = rng.random()
    yield f'{method} {kind} {share:.3f}'
    learn = make(method, make_dls(60 if kind == 'other data' else 64), path=folder)
    learn.fit(2, LR)
    path = learn.save('x')
    whole = path.read_bytes()
    if kind != 'other data': path.write_bytes(whole[:int(share*len(whole))] if kind == 'cut' else b'')
    other = make(method, path=folder)
    other.fit(1, LR)
    before = weights_of(other.model).clone()
    try: other.load('x')
    except Exception as e:
        assert torch.equal(before, weights_of(other.model)), f'the model has changed although load failed: {e}'
        other.fit(1, LR)
        raise Refused(str(e)) from e
    assert kind != 'other data', 'a file of another data set was loaded'

def run_area(name, seed, minutes):
    end,counts = time.time() + 60*minutes,dict(cases=0, held=0, refused=0)
    while time.time() < end:
        rng,folder,text = random.Random(seed),Path(tempfile.mkdtemp()),''
        torch.manual_seed(seed)
        case = AREAS[name](rng, folder)
        try:
            text = next(case)
            next(case, None)
            counts['held'] += 1
        except Refused: counts['refused'] += 1
        except Exception as e:
            last = traceback.format_exception_only(e)[-1].strip()[:200]
            print(f'  broken: {name} --seed {seed}: {text}: {last}', flush=True)
        finally: shutil.rmtree(folder)
        counts['cases'] += 1
        seed += 1
    print(name, *(f'{k} {v}' for k,v in counts.items()), flush=True)

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('areas', nargs='*', help=f'of {", ".join(AREAS)}; default all')
    p.add_argument('--minutes', type=float, default=5., help='for each area')
    p.add_argument('--seed', type=int, default=0, help='of the first case; the next has the next')
    args = p.parse_args()
    unknown = {*args.areas} - AREAS.keys()
    if unknown: p.error(f'{", ".join(sorted(unknown))}: choose from {", ".join(AREAS)}')
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    for name in args.areas or AREAS: run_area(name, args.seed, args.minutes)

if __name__ == '__main__': main()

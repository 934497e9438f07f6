"Fits in threads of one process: one after the other, within one another, never at the same time"
import threading
from concurrent.futures import ThreadPoolExecutor
import pytest
from fastai.callback.core import Callback, CancelFitException
from fastnoisy.callback.elr import ELRCallback
from fastnoisy.core import learner
from helpers import blob_learner

class During(Callback):
    "Calls `f` once, in the midst of a fit"
    run_valid = False
    def __init__(self, f): self.f = f
    def after_batch(self):
        f,self.f = self.f,None
        if f is not None: f()

def fit(*cbs, methods=(ELRCallback,)):
    learn = blob_learner([o() for o in methods])
    learn.fit(1, 1e-2, cbs=list(cbs))
    return learn

def in_thread(f, *args):
    with ThreadPoolExecutor(1, thread_name_prefix='other') as pool: return pool.submit(f, *args).result()

def test_two_at_a_time_are_refused():
    said = []
    def second():
        with pytest.raises(RuntimeError, match='running in another thread.*MainThread.*several processes'): fit()
        said.append(True)
    learn = fit(During(lambda: in_thread(second)))
    assert said == [True] and len(learn.recorder.values) == 1 # the first one goes on
    fit()

def test_the_refused_one_says_which_is_running_and_its_learner_is_as_before():
    started,go_on = threading.Event(),threading.Event()
    def wait():
        started.set()
        assert go_on.wait(60)
    with ThreadPoolExecutor(1, thread_name_prefix='other') as pool:
        first = pool.submit(fit, During(wait))
        assert started.wait(60)
        learn = blob_learner([ELRCallback()])
        had = learn.cbs.attrgot('name')
        with pytest.raises(RuntimeError, match='other_0'): learn.fit(1, 1e-2)
        assert learn.cbs.attrgot('name') == had and 'fit_exit' not in vars(learn)
        go_on.set()
        first.result()
    learn.fit(1, 1e-2)
    assert not learner._training

def test_one_thread_after_the_other():
    fit()
    in_thread(fit)
    fit()

def test_a_fit_within_a_fit():
    "Of another Learner, in the same thread: an audit in a callback"
    fit(During(lambda: fit(During(fit))))
    in_thread(lambda: fit(During(fit)))
    assert not learner._training

@pytest.mark.parametrize('error', [KeyboardInterrupt, RuntimeError('boom'), CancelFitException])
def test_a_fit_that_dies_leaves_nothing(error):
    def die(): raise error
    def dies():
        try: fit(During(die))
        except BaseException: pass
    in_thread(dies)
    dies()
    assert not learner._training
    fit()

def test_a_thread_that_is_gone_is_none(monkeypatch):
    "As in a process that was forked from the midst of its fit"
    gone = threading.Thread(target=bool)
    gone.start()
    gone.join()
    monkeypatch.setitem(learner._training, gone, 1)
    fit()

def test_plain_training_is_nobodys_business():
    fit(During(lambda: in_thread(lambda: fit(methods=()))))
    fit(During(lambda: in_thread(fit)), methods=())

"run_one: fair conditions, repeatable rows."
from functools import partial
import numpy as np, pytest, torch
from fastnoisy.all import METHODS, digits_dls, run_one, small_cnn
from fastnoisy.benchmark import train
from fastnoisy.benchmark.train import (SCHEDULES, clean_accuracy, known_methods, multiply_adds, torch_threads,
                                       train_one)
from fastai.callback.core import Callback
from fastnoisy.core.registry import Method
from fastnoisy.analysis.detection import wrong_samples

def run(method='ce', seed=0, **kwargs): return run_one(digits_dls(noise=.4, device='cpu'), partial(small_cnn, 3, 10), method, 2, seed=seed, **kwargs)

def test_same_seed_same_row():
    a,b,c = run()[1],run()[1],run(seed=1)[1]
    drop = lambda row: {k: v for k,v in row.items() if k != 'seconds'}
    assert drop(a) == drop(b) and a['last'] != c['last'] and set(a) == {'method', 'seed', 'epochs', 'last', 'best_valid', 'best', 'seconds'}

@pytest.mark.parametrize('method', list(METHODS))
def test_every_method_trains(method):
    learn,row = run(method)
    assert row['method'] == method and row['last'] > .15 and row['best'] >= row['last']

def test_clean_test_is_the_accuracy_on_the_test_set():
    learn,row = run()
    preds,targs = learn.get_preds(dl=learn.dls.test)
    assert (preds.argmax(1) == targs).float().mean().item() == pytest.approx(row['last'])
    assert learn.recorder.values == learn.recorder.values and learn.clean_test.accuracies[-1] == row['last']

class Ruins(Callback):
    "What has been learnt is lost in the last epoch"
    run_valid = False
    def after_batch(self):
        if self.epoch == self.n_epoch - 1:
            for p in self.model.parameters(): p.data.zero_()

def test_best_valid_is_the_test_accuracy_of_the_best_validation_epoch(monkeypatch):
    monkeypatch.setitem(METHODS, 'ruins', Method('ruins', lambda: dict(cbs=Ruins()), ''))
    learn,row = run_one(digits_dls(noise=.4, device='cpu'), partial(small_cnn, 3, 10), 'ruins', epochs=5, lr=.05, schedule='cosine')
    valid = [o[2] for o in learn.recorder.values]
    best = int(np.argmax(valid)) # the first of equals
    assert best < 4 and row['best_valid'] == learn.clean_test.accuracies[best] and learn.best_valid.best_epoch == best
    assert clean_accuracy(learn) == row['last'] # the last weights are in the model again
    with pytest.raises(ZeroDivisionError), learn.best_valid.in_force(): 1/0
    assert clean_accuracy(learn) == row['last']

def test_trained_without_a_look_at_the_test_set():
    dls = digits_dls(noise=.4, device='cpu')
    learn,row = run()
    class Unread:
        def __iter__(self): raise AssertionError('read')
    test,dls.loaders[2] = dls.test,Unread()
    alone,seconds = train_one(dls, partial(small_cnn, 3, 10), 'ce', 2)
    dls.loaders[2] = test
    assert clean_accuracy(alone) == row['last'] and seconds > 0 and alone.best_valid.best_epoch == learn.best_valid.best_epoch
    assert list(alone.recorder.metric_names) == ['epoch', 'train_loss', 'valid_loss', 'accuracy', 'time']

def test_cosine_schedule():
    learn,_ = run(schedule='cosine', lr=.01)
    lrs = np.array(learn.recorder.lrs)
    assert lrs[0] == pytest.approx(.01) and (np.diff(lrs) < 0).all() and lrs[-1] < 1e-3
    assert lrs[len(lrs)//2] == pytest.approx(.005, abs=1e-4)

def test_looking_at_the_test_set_changes_nothing():
    learn,_ = run()
    def without():
        import random
        from fastai.basics import CrossEntropyLossFlat, Learner, accuracy, set_seed
        from fastai.callback.schedule import fit_one_cycle
        dls = digits_dls(noise=.4, device='cpu')
        set_seed(0)
        dls.train.rng = random.Random(0)
        plain = Learner(dls, small_cnn(3, 10), loss_func=CrossEntropyLossFlat(), metrics=accuracy)
        with plain.no_bar(), plain.no_logging(), torch_threads(1): plain.fit_one_cycle(2, 3e-3)
        return plain.model
    assert all(torch.equal(a, b) for a,b in zip(learn.model.state_dict().values(), without().state_dict().values()))

def test_unknown_method():
    with pytest.raises(ValueError, match="'nope' is unknown; choose from ce"): run('nope')
    with pytest.raises(ValueError, match='choose from'): known_methods([])
    assert known_methods(None) == list(METHODS)

class Rates(Callback):
    "Learning rate of each batch, and which samples were seen"
    def before_fit(self): self.rates,self.ids = [],set()
    def after_batch(self):
        if self.training: self.rates.append(self.opt.hypers[-1]['lr'])

@pytest.mark.parametrize('schedule, expected', [('flat', lambda pct: 1.), ('linear', lambda pct: 1 - pct), ('steps', lambda pct: 1. if pct < .5 else .1 if pct < .75 else .01)])
def test_schedules(schedule, expected):
    rates = Rates()
    run_one(digits_dls(device='cpu'), partial(small_cnn, 3, 10), 'ce', 4, lr=.01, schedule=schedule, cbs=rates)
    n = len(rates.rates)
    assert rates.rates == pytest.approx([.01*expected(i/n) for i in range(n)]) and schedule in SCHEDULES

def test_callbacks_beside_those_of_the_method():
    rates = Rates()
    learn,_ = run('also', cbs=rates)
    assert hasattr(learn, 'also') and rates.rates

def test_oracle_trains_on_the_right_samples_alone():
    class Seen(Callback):
        order,ids = 10,set()
        def before_batch(self):
            if self.training: self.ids.update(self.learn.sample_ids.tolist())
    seen = Seen()
    learn,_ = run('oracle', cbs=seen)
    assert seen.ids and not wrong_samples(learn.dls)[list(seen.ids)].any()
    clean,_ = run_one(digits_dls(device='cpu'), partial(small_cnn, 3, 10), 'oracle', 1) # where nothing is wrong it is plain training
    assert clean.right_samples.keep_samples() is None

# Threads

class Threads(Callback):
    "How many there are in each batch; `exc` ends the fit"
    run_valid = False
    def __init__(self, exc=None): self.exc = exc
    def before_fit(self): self.seen = []
    def after_batch(self):
        self.seen.append(torch.get_num_threads())
        if self.exc and self.train_iter == 2: raise self.exc

@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)

def hooks_of(model): return [o for m in model.modules() for o in m._forward_hooks.values()]

@pytest.mark.parametrize('small, expected', [(10**9, 1), (0, 2)])
def test_one_thread_for_little_work(small, expected, two_threads, monkeypatch):
    monkeypatch.setattr(train, 'SMALL_BATCH', small)
    threads = Threads()
    learn,_ = run('also', cbs=threads)
    assert set(threads.seen) == {expected} and torch.get_num_threads() == 2 and not hooks_of(learn.model)
    with learn.thread_choice.in_force(): assert torch.get_num_threads() == expected
    assert learn.thread_choice.work == 64*(8*8*32*27 + 4*4*64*32*9 + 2*2*128*64*9 + 128*10) # three convolutions and a linear layer

@pytest.mark.parametrize('exc', [ZeroDivisionError('x'), KeyboardInterrupt()])
def test_threads_are_as_before_whatever_stops_the_fit(exc, two_threads):
    with pytest.raises(type(exc)): run(cbs=Threads(exc))
    assert torch.get_num_threads() == 2

def test_threads_are_never_more_than_before():
    with torch_threads(1):
        threads = Threads()
        learn,_ = run(cbs=threads)
        assert set(threads.seen) == {1} and learn.thread_choice.work is None # nothing to choose
        with torch_threads(4): assert torch.get_num_threads() == 1

def test_multiply_adds_of_a_recurrent_layer():
    lstm = torch.nn.LSTM(3, 5, batch_first=True)
    assert multiply_adds(lstm, lstm(torch.zeros(2, 7, 3))) == 2*7*4*5*(3 + 5) # four gates
    embedding = torch.nn.Embedding(9, 4)
    assert multiply_adds(embedding, embedding(torch.zeros(2, dtype=int))) == multiply_adds(torch.nn.ReLU(), torch.zeros(3)) == 0

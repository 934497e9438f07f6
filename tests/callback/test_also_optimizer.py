"The optimistic Adam: against torch's Adam and a loop written out, in a Learner with what else a Learner may do, and undone however a fit ends."
import copy, math
import pytest, torch
import torch.nn.functional as F
from torch import nn
from fastai.basics import (Adam, Callback, CancelBackwardException, CancelBatchException, CancelEpochException, CancelFitException, CancelStepException,
                           CancelTrainException, OptimWrapper, RAdam, SGD, params)
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.schedule import fit_one_cycle, fine_tune, lr_find
from fastai.callback.tracker import SaveModelCallback
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.optimizer import Lookahead
from fastnoisy.callback.also import ALSOCallback, also_update
from fastnoisy.callback.also_optimizer import ALSOAdam, OptimisticSteps, adam_ahead, also_adam
from helpers import blob_dls, blob_learner, run_in_parts, weights_of

HYPERS = dict(lr=.05, mom=.8, sqr_mom=.9, eps=1e-4, wd=.3)

def adam(p, grad, m, v, k, h, decoupled=True, decay=True):
    "Step number `k` of Adam(W), written out: parameters and moments"
    wd = h['wd'] if decay else 0.
    if not decoupled: grad = grad + wd*p
    m,v = h['mom']*m + (1 - h['mom'])*grad, h['sqr_mom']*v + (1 - h['sqr_mom'])*grad**2
    m_hat,v_hat = m/(1 - h['mom']**k), v/(1 - h['sqr_mom']**k)
    if decoupled: p = p - h['lr']*wd*p
    return p - h['lr']*m_hat/(v_hat**.5 + h['eps']), m, v

# the half step

@pytest.mark.parametrize('dtype, tol', [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize('decouple_wd, other', [(True, torch.optim.AdamW), (False, torch.optim.Adam)])
@pytest.mark.parametrize('do_wd', [True, False])
def test_ahead_is_where_another_adam_goes(dtype, tol, decouple_wd, other, do_wd):
    p = nn.Parameter(torch.randn(4, 3, dtype=dtype))
    opt = other([p], lr=.05, betas=(.8, .9), eps=1e-4, weight_decay=.3*do_wd)
    for k in range(4):
        p.grad = torch.randn_like(p)
        opt.step()
        s = opt.state[p]
        moments = [p.grad],[s['exp_avg']],[s['exp_avg_sq']]
        got, = adam_ahead([p.data], *moments, int(s['step']), **HYPERS, do_wd=do_wd, decouple_wd=decouple_wd)
        again = copy.deepcopy(opt.state_dict())
        trial = nn.Parameter(p.detach().clone())
        trial_opt = other([trial], lr=.05, betas=(.8, .9), eps=1e-4, weight_decay=.3*do_wd)
        trial_opt.load_state_dict(again)
        trial.grad = p.grad.clone()
        trial_opt.step()
        torch.testing.assert_close(got, trial.data, rtol=tol, atol=tol)
        assert got.dtype == dtype

@pytest.mark.parametrize('decouple_wd', [True, False])
def test_ahead_changes_nothing_it_is_given(decouple_wd):
    tensors = [[torch.rand(5), torch.rand(2, 3)] for _ in range(4)]
    before = copy.deepcopy(tensors)
    adam_ahead(*tensors, 3, **HYPERS, decouple_wd=decouple_wd)
    assert all(torch.equal(a, b) for a,b in zip(sum(tensors, []), sum(before, [])))

# the optimizer

def two_groups(opt_func, **kwargs):
    torch.manual_seed(3)
    ps = [nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(2)), nn.Parameter(torch.randn(2))]
    return ps, opt_func([ps[:2], ps[2:]], **{**HYPERS, 'lr': .01, **kwargs})

@pytest.mark.parametrize('decouple_wd', [True, False])
def test_without_ahead_it_is_fastais_adam_bit_for_bit(decouple_wd):
    (a,opt_a),(b,opt_b) = (two_groups(o, decouple_wd=decouple_wd) for o in (Adam, also_adam))
    for o in (opt_a, opt_b):
        o.set_hyper('lr', slice(.01, .1))
        o.state[o.param_lists[0][1]]['do_wd'] = False
    for t in range(6):
        for p,q in zip(a, b):
            if t == 2 and p is a[2]: continue # no gradient this time
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        opt_a.step(), opt_b.step()
        opt_a.set_hyper('mom', .5 + t/20), opt_b.set_hyper('mom', .5 + t/20)
    for p,q in zip(a, b):
        assert torch.equal(p, q)
        assert all(torch.equal(opt_a.state[p][o], opt_b.state[q][o]) for o in ('grad_avg', 'sqr_avg')) and opt_a.state[p]['step'] == opt_b.state[q]['step']

def test_defaults_are_those_of_adam():
    p = [nn.Parameter(torch.ones(2))]
    assert also_adam(p, 1e-3).hypers == Adam(p, 1e-3).hypers

@pytest.mark.parametrize('decouple_wd', [True, False])
def test_optimistic_steps_in_a_loop(decouple_wd):
    "A curved function of one vector, with a learning rate and a momentum that change"
    gradient = lambda x, t: torch.cos(2*x + t) + x**3 - torch.roll(x, 1)
    x,m,v,last = torch.tensor([1., -.5, .2], dtype=torch.float64),0.,0.,None
    p = nn.Parameter(x.clone())
    opt = also_adam([p], **HYPERS, decouple_wd=decouple_wd)
    for t in range(1, 13):
        h = dict(HYPERS, lr=.1/(1 + t/5), mom=.6 + .02*t)
        opt.set_hypers(lr=h['lr'], mom=h['mom'])
        half = x if last is None else adam(x, last, m, v, t, h, decouple_wd)[0]
        last = gradient(half, t)
        x,m,v = adam(x, last, m, v, t, h, decouple_wd)
        opt.ahead()
        torch.testing.assert_close(p.data, half)
        p.grad = gradient(p.data, t)
        opt.step()
        torch.testing.assert_close(p.data, x)
        torch.testing.assert_close(opt.state[p]['prev_grad'], last)
        assert opt.state[p]['step'] == t
    assert (half - x).abs().max() > 1e-3

def moved():
    ps,opt = two_groups(also_adam)
    for p in ps: p.grad = torch.randn_like(p)
    opt.step()
    return ps, opt

def test_ahead_and_back():
    ps,opt = moved()
    before,pointers,state = [p.detach().clone() for p in ps],[p.data_ptr() for p in ps],copy.deepcopy(opt.state_dict())
    grads = [p.grad.clone() for p in ps]
    opt.ahead()
    half = [p.detach().clone() for p in ps]
    assert not any(torch.equal(p, o) for p,o in zip(ps, before))
    opt.ahead()
    assert all(torch.equal(p, o) for p,o in zip(ps, half))
    opt.back()
    opt.set_hyper('lr', .5)
    opt.ahead() # the same step, so the same place
    assert all(torch.equal(p, o) for p,o in zip(ps, half))
    opt.close(), opt.close()
    assert all(torch.equal(p, o) for p,o in zip(ps, before)) and [p.data_ptr() for p in ps] == pointers
    opt.ahead()
    assert not any(torch.equal(p, o) for p,o in zip(ps, half))
    opt.close()
    for a,b in zip(state['state'], opt.state_dict()['state']): assert all(torch.equal(torch.as_tensor(a[k]), torch.as_tensor(b[k])) for k in a)
    assert all(torch.equal(p.grad, g) for p,g in zip(ps, grads))

def test_interrupted_half_way_to_the_half_step():
    "Ctrl-C between two parameters"
    ps,opt = moved()
    before = [p.detach().clone() for p in ps]
    opt.ahead()
    next(iter(opt.own)).data = opt.own[ps[0]] # as far as an interrupted `back` came
    opt.close()
    assert all(torch.equal(p, o) for p,o in zip(ps, before))

def test_first_step_and_frozen_parameters_do_not_look_ahead():
    ps,opt = two_groups(also_adam)
    before = [p.detach().clone() for p in ps]
    opt.ahead()
    assert all(torch.equal(p, o) for p,o in zip(ps, before))
    ps,opt = moved()
    opt.freeze_to(1)
    before = [p.detach().clone() for p in ps]
    opt.ahead()
    assert [torch.equal(p, o) for p,o in zip(ps, before)] == [True, True, False]

# in a Learner

class Record(Callback):
    "What a training batch sees when everybody has prepared it, and the parameters in front of and behind it"
    order,run_valid = 200,False
    def before_fit(self): self.rows = []
    def before_batch(self): self.rows.append(dict(x=self.xb[0].clone(), y=self.yb[0].clone(), ids=getattr(self.learn, 'sample_ids', None),
                                                  hypers=[dict(h) for h in self.opt.hypers], half=params_of(self.model)))
    def after_loss(self): self.rows[-1]['weight'] = getattr(self.learn, 'sample_weight', None)
    def after_batch(self): self.rows[-1]['after'] = params_of(self.model)

def params_of(model): return torch.cat([p.detach().flatten().clone() for p in model.parameters()])
def splitter(model): return [params(model[:2]), params(model[2:])]

def make(cbs=None, dls=None, **kwargs):
    torch.manual_seed(7)
    dls = dls or blob_dls()
    dls.train.rng.seed(3)
    learn = blob_learner(cbs=cbs, dls=dls, **kwargs)
    learn.model[3].p = 0. # dropout
    return learn

def naive(model, rows, per_step=1, temperature=None, horizon=10.):
    "The same training written out: optimistic Adam, and with a `temperature` the weights of ALSO by the dense update; `rows` gain `my_*`"
    groups = [(p, k) for k,ps in enumerate(splitter(model) if len(rows[0]['hypers']) == 2 else [params(model)]) for p in ps]
    moments = {p: (None, 0., 0.) for p,_ in groups}
    n,last,lr = 96,None,math.expm1(1/(horizon*6))/temperature if temperature else None
    pi = torch.full((n,), 1/n, dtype=torch.float64)
    for t in range(len(rows)//per_step):
        window,theta = rows[per_step*t:per_step*(t+1)],{p: p.detach().clone() for p,_ in groups}
        for p,k in groups:
            grad,m,v = moments[p]
            if grad is not None: p.data = adam(theta[p], grad, m, v, t+1, window[0]['hypers'][k], decay=p.dim() > 1)[0]
            p.grad = None
        for row in window:
            row['my_half'] = params_of(model)
            losses = F.cross_entropy(model(row['x']), row['y'], reduction='none').as_subclass(torch.Tensor)
            row['my_weight'] = torch.ones(len(losses))
            if temperature:
                half = pi if last is None else also_update(pi, *last, lr, temperature)
                row['my_weight'] = (n*half[row['ids']]).float()
                last = row['ids'],losses.detach()*n/len(losses)
                pi = also_update(pi, *last, lr, temperature)
            ((row['my_weight']*losses).mean()/per_step).backward()
        for p,k in groups:
            new,m,v = adam(theta[p], p.grad, *moments[p][1:], t+1, window[-1]['hypers'][k], decay=p.dim() > 1)
            p.data,moments[p] = new.detach(),(p.grad.clone(), m, v)
        window[-1]['my_after'] = params_of(model)

def compare(rows):
    tol = dict(rtol=1e-3, atol=1e-4)
    for row in rows:
        torch.testing.assert_close(row['half'], row['my_half'], **tol)
        if 'my_weight' in row and row['weight'] is not None: torch.testing.assert_close(row['weight'], row['my_weight'], rtol=2e-3, atol=1e-4)
        if 'my_after' in row: torch.testing.assert_close(row['after'], row['my_after'], **tol)
    assert max((row['half'] - row['after']).abs().max() for row in rows) > 1e-2

@pytest.mark.parametrize('opt_func', [Adam, also_adam])
def test_one_cycle_and_learning_rates_per_group(opt_func):
    record = Record()
    learn = make([OptimisticSteps(), record], splitter=splitter, opt_func=opt_func)
    start = copy.deepcopy(learn.model)
    learn.fit_one_cycle(2, slice(1e-3, 5e-2))
    assert len(record.rows) == 12 and len({row['hypers'][0]['lr'] for row in record.rows}) == 12
    naive(start, record.rows)
    compare(record.rows)
    assert all(learn.opt.state[p]['step'] == 12 for p in learn.model.parameters())

@pytest.mark.parametrize('groups', [None, torch.arange(96) % 3])
def test_weights_look_ahead_too(groups):
    record = Record()
    learn = make([ALSOCallback(mode='optimistic', temperature=.5, horizon=1.), record])
    start = copy.deepcopy(learn.model)
    learn.fit(2, 2e-2)
    naive(start, record.rows, temperature=.5, horizon=1.)
    compare(record.rows)
    assert learn.also.to_frame().weight.std() > .1

def test_accumulation_looks_ahead_once_per_step():
    record = Record()
    learn = make([OptimisticSteps(), GradientAccumulation(32), record])
    start = copy.deepcopy(learn.model)
    learn.fit_one_cycle(2, 5e-2)
    naive(start, record.rows, per_step=2)
    compare(record.rows)
    for a,b,c in zip(record.rows[2::2], record.rows[3::2], record.rows[1::2]): # two batches, and the step before
        assert torch.equal(a['half'], b['half']) and torch.equal(a['after'], c['after']) and not torch.equal(a['half'], a['after'])
    assert all(learn.opt.state[p]['step'] == 6 for p in learn.model.parameters())

class Watch(Callback):
    "The events in which the parameters are not where they belong"
    order = 300
    def __init__(self): self.seen,self.home = set(),None
    def __call__(self, name):
        pointers = [p.data_ptr() for p in self.model.parameters()]
        if self.home is None: self.home = pointers
        if pointers != self.home: self.seen.add((name, self.training))

IN_A_STEP = {(o, True) for o in ('before_batch', 'after_pred', 'after_loss', 'before_backward', 'after_backward', 'before_step')}

@pytest.mark.parametrize('cbs', [[], [GradientAccumulation(32)], [GradientClip(.1)]])
def test_nobody_else_sees_the_half_step(cbs):
    watch = Watch()
    make([OptimisticSteps(), watch, *cbs]).fit(2, 1e-2)
    assert watch.seen == IN_A_STEP

def test_a_step_without_adams_callback_is_adams():
    "Descent-ascent"
    a,b = make(opt_func=Adam),make(opt_func=also_adam)
    for o in (a, b): torch.manual_seed(1), o.fit_one_cycle(2, 1e-2)
    assert torch.equal(weights_of(a.model), weights_of(b.model))

def test_gradient_clip():
    learn = make([OptimisticSteps(), GradientClip(.01)])
    learn.fit(1, 1e-2)
    norm = torch.cat([learn.opt.state[p]['prev_grad'].flatten() for p in learn.model.parameters()]).norm()
    assert .005 < norm <= .01 + 1e-6

class AutocastCPU(Callback):
    "fastai's MixedPrecision knows CUDA only; this is the same for the CPU"
    order = MixedPrecision.order
    def before_batch(self):
        self.autocast = torch.autocast('cpu', dtype=torch.bfloat16)
        self.autocast.__enter__()
    def after_pred(self):
        self.dtype = self.pred.dtype
        self.learn.pred = self.pred.float()
    def after_loss(self): self.autocast.__exit__(None, None, None)

def test_autocast_runs_the_parameters_of_the_half_step():
    class Again(Callback):
        order,run_valid,worst = 150,False,0.
        def after_pred(self):
            own = torch.func.functional_call(copy.deepcopy(self.model), {k: p.detach().clone() for k,p in self.model.named_parameters()}, self.xb)
            self.worst = max(self.worst, (own.float() - self.pred).abs().max().item())
    cast,again = AutocastCPU(),Again()
    learn = make([OptimisticSteps(), cast, again])
    learn.fit(2, 5e-2)
    assert cast.dtype == torch.bfloat16 and again.worst < .05
    plain = make(OptimisticSteps())
    plain.fit(2, 5e-2)
    assert (weights_of(learn.model) - weights_of(plain.model)).abs().mean() < .05
    assert all(p.dtype == learn.opt.state[p]['prev_grad'].dtype == torch.float32 for p in learn.model.parameters())

class ScaledCPU(MixedPrecision):
    "fastai's MixedPrecision with a scaler, on the CPU; the gradients of batches 0 and 3 overflow"
    def before_fit(self):
        super().before_fit()
        self.autocast = torch.autocast('cpu', dtype=torch.bfloat16)
        self.learn.scaler = torch.amp.GradScaler('cpu')
    def before_backward(self):
        super().before_backward()
        if self.train_iter in (0, 3): self.learn.loss_grad *= math.inf

def test_scaled_gradients_and_overflow():
    record = Record()
    learn = make([ALSOCallback(mode='optimistic'), ScaledCPU('bf16'), record])
    before = params_of(learn.model)
    learn.fit(2, 1e-2)
    places = [before] + [row['after'] for row in record.rows]
    assert [torch.equal(a, b) for a,b in zip(places, places[1:])] == [k in (0, 3) for k in range(12)]
    assert all(learn.opt.state[p]['step'] == 10 for p in learn.model.parameters())
    assert [torch.equal(row['half'], place) for row,place in zip(record.rows, places)] == [k < 2 for k in range(12)] # no last gradient yet
    assert torch.equal(record.rows[3]['half'], record.rows[4]['half'])
    assert torch.cat([learn.opt.state[p]['prev_grad'].flatten() for p in learn.model.parameters()]).norm() < 10 # unscaled

class SkipSteps(Callback):
    "As mixed precision with an overflow"
    order,run_valid = MixedPrecision.order,False
    def __init__(self, skipped): self.skipped = skipped
    def before_step(self):
        if self.train_iter in self.skipped: raise CancelStepException

def test_skipped_steps():
    "As if the skipped batches had not been there, but for the statistics of BatchNorm"
    record = Record()
    learn = make([OptimisticSteps(), SkipSteps((0, 3, 4)), record])
    learn.model[1].momentum = 0.
    start = copy.deepcopy(learn.model)
    learn.fit_one_cycle(2, 5e-2)
    rows = record.rows
    assert torch.equal(rows[2]['after'], rows[3]['after']) and torch.equal(rows[2]['after'], rows[4]['after'])
    assert not torch.equal(rows[3]['half'], rows[4]['half']) # the learning rate has changed
    rows = [row for k,row in enumerate(rows) if k not in (0, 3, 4)]
    naive(start, rows)
    compare(rows)
    assert all(learn.opt.state[p]['step'] == 9 for p in learn.model.parameters())

# undone

class Stop(Callback):
    "Raises in the third training batch"
    order = 30
    def __init__(self, where, exc): self.where,self.exc = where,exc
    def __call__(self, name):
        if name == self.where and self.training and self.train_iter == 2: raise self.exc

CUTS = [(e, x) for e in ('after_pred', 'after_loss', 'before_backward', 'after_backward', 'before_step')
        for x in (CancelBatchException, CancelTrainException, CancelEpochException, CancelFitException, KeyboardInterrupt, RuntimeError)]

@pytest.mark.parametrize('where, exc, opt_func', [(*o, Adam) for o in CUTS] + [
    ('after_loss', KeyboardInterrupt, also_adam), ('before_step', CancelStepException, Adam), ('before_backward', CancelBackwardException, Adam)])
def test_cut_short(where, exc, opt_func):
    before = {}
    class Note(Callback):
        order = -100
        def before_batch(self):
            if self.training and self.train_iter == 2: before.update(params=params_of(self.model), seen=len(self.opt.state))
    watch = Watch()
    learn = make([ALSOCallback(mode='optimistic'), Note(), watch], opt_func=opt_func)
    learn.create_opt()
    own,hypers = learn.opt,[dict(h) for h in learn.opt.hypers]
    hypers[0]['lr'] = 5e-2
    pointers = [p.data_ptr() for p in learn.model.parameters()]
    stop,record = Stop(where, exc),Record()
    if exc in (KeyboardInterrupt, RuntimeError):
        with pytest.raises(exc): learn.fit(1, 5e-2, cbs=[stop, record])
    else: learn.fit(1, 5e-2, cbs=[stop, record])
    cut = record.rows[2]
    assert not torch.equal(cut['half'], before['params'])
    if exc is CancelBackwardException: assert not torch.equal(cut['after'], before['params']) # the step is taken nevertheless
    elif 'after' in cut: assert torch.equal(cut['after'], before['params'])
    if len(record.rows) == 3: assert torch.equal(params_of(learn.model), before['params'])
    assert watch.seen <= IN_A_STEP | {('after_cancel_backward', True)} and [p.data_ptr() for p in learn.model.parameters()] == pointers
    assert learn.opt is own and [dict(h) for h in own.hypers] == hypers and not hasattr(learn, 'optimistic_steps')
    learn.fit(1, 5e-2)

def test_what_is_saved_at_the_end_of_a_cancelled_fit_is_the_model(tmp_path):
    learn = make(OptimisticSteps())
    learn.path = tmp_path
    learn.fit(1, 5e-2, cbs=[Stop('after_loss', CancelFitException), SaveModelCallback(at_end=True, fname='end')])
    saved = torch.load(tmp_path/'models'/'end.pth')
    assert all(torch.equal(v, saved[k]) for k,v in learn.model.state_dict().items())

@pytest.mark.parametrize('in_fit', [False, True])
def test_the_optimizer_is_back_and_warm(in_fit):
    steps = OptimisticSteps()
    learn = make(None if in_fit else steps, splitter=splitter, wd=.2)
    learn.create_opt()
    own = learn.opt
    own.set_hypers(lr=[1e-3, 2e-2], wd=.2)
    plain = make(splitter=splitter, wd=.2)
    plain.fit_one_cycle(1, slice(1e-3, 2e-2))
    kinds = []
    class Kind(Callback):
        def after_step(self): kinds.append(type(self.opt))
    learn.fit_one_cycle(1, slice(1e-3, 2e-2), cbs=[Kind(), *([steps] if in_fit else [])])
    assert set(kinds) == {ALSOAdam} and learn.opt is own and type(own).__name__ == 'Optimizer'
    assert [dict(h) for h in own.hypers] == [dict(h) for h in plain.opt.hypers] # as a fit without it leaves them
    assert [h['wd'] for h in own.hypers] == [.2, .2]
    assert all(own.state[p]['step'] == 6 for p in learn.model.parameters())
    learn.remove_cbs(OptimisticSteps)
    learn.fit(1, 1e-3)
    assert all(own.state[p]['step'] == 12 for p in learn.model.parameters())

def test_adams_moments_are_taken_over():
    a,b = make(),make(opt_func=also_adam)
    for o in (a, b):
        o.fit(1, 1e-2)
        for state in o.opt.state.values(): state.pop('prev_grad', None)
        o.fit(2, 1e-2, cbs=OptimisticSteps())
    assert torch.equal(weights_of(a.model), weights_of(b.model)) and all(state['step'] == 18 for state in a.opt.state.values())

def test_l2_is_taken_over():
    l2 = lambda f: lambda *args, **kwargs: f(*args, decouple_wd=False, **kwargs)
    learners = [make(OptimisticSteps(), opt_func=f, wd=.5) for f in (l2(Adam), l2(also_adam), Adam)]
    for o in learners: o.fit(2, 1e-2)
    a,b,c = (weights_of(o.model) for o in learners)
    assert torch.equal(a, b) and not torch.allclose(a, c)

def test_a_second_fit_goes_on():
    a,b = make(ALSOCallback(mode='optimistic')),make(ALSOCallback(mode='optimistic'))
    a.fit(3, 1e-2)
    b.fit(1, 1e-2), b.fit(2, 1e-2)
    assert torch.equal(weights_of(a.model), weights_of(b.model)) and torch.equal(a.also.pi.u, b.also.pi.u)

# freezing

def test_freeze_and_unfreeze():
    record = Record()
    learn = make([ALSOCallback(mode='optimistic'), record], splitter=splitter)
    learn.freeze()
    head = sum(p.numel() for p in splitter(learn.model)[1])
    body = params_of(learn.model)[:8*4] # the linear layer; BatchNorm trains on
    learn.fit(1, 2e-2)
    assert all(torch.equal(row[o][:32], body) for row in record.rows for o in ('half', 'after'))
    assert not torch.equal(record.rows[3]['half'][-head:], record.rows[3]['after'][-head:]) and learn.opt.frozen_idx == 1
    learn.unfreeze()
    assert not any('prev_grad' in o for o in learn.opt.state_dict()['state'])
    learn.fit(1, 2e-2)
    assert torch.equal(record.rows[0]['half'][:32], body) and not torch.equal(record.rows[-1]['after'][:32], body)
    assert not torch.equal(record.rows[2]['half'][:32], record.rows[2]['after'][:32])

def test_fine_tune_and_thawing_in_the_middle_of_a_fit():
    class Thaw(Callback):
        def before_epoch(self):
            if self.epoch == 1: self.learn.unfreeze()
    body = lambda learn: params_of(learn.model)[:32]
    learn = make(ALSOCallback(mode='optimistic'), splitter=splitter)
    before = body(learn)
    learn.fine_tune(2)
    assert learn.opt.frozen_idx == 0 and not torch.equal(body(learn), before)
    learn = make(ALSOCallback(mode='optimistic'), splitter=splitter)
    learn.freeze()
    learn.fit(2, 1e-2, cbs=Thaw())
    assert learn.opt.frozen_idx == 0 and not torch.equal(body(learn), before)

# saved and loaded

@pytest.mark.parametrize('opt_func', [Adam, also_adam])
def test_resumed_equals_uninterrupted_bit_for_bit(learner, opt_func):
    build = lambda: learner(ALSOCallback(mode='optimistic'), opt_func=opt_func)
    a,b,c = run_in_parts(build, [4]),run_in_parts(build, [2, 2]),run_in_parts(lambda: learner(ALSOCallback(), opt_func=opt_func), [4])
    assert torch.equal(weights_of(a.model), weights_of(b.model)) and torch.equal(a.also.pi.u, b.also.pi.u)
    assert not torch.equal(weights_of(a.model), weights_of(c.model))

def test_a_file_written_within_a_fit(learner, tmp_path):
    def build(*cbs):
        learn = make([ALSOCallback(mode='optimistic'), *cbs])
        learn.path = tmp_path
        return learn
    a = build(SaveModelCallback(every_epoch=True, with_opt=True))
    a.fit(2, 1e-2)
    b = build().load('model_0')
    b.dls.train.randomize(), b.dls.train.get_idxs()
    b.fit(1, 1e-2)
    assert torch.equal(weights_of(a.model), weights_of(b.model))
    assert all(b.opt.state[p]['step'] == 12 for p in b.model.parameters())

def test_lr_find_leaves_no_trace(learner):
    learn = learner(ALSOCallback(mode='optimistic'))
    learn.fit(2, 1e-2)
    own,before = learn.opt,copy.deepcopy((learn.model.state_dict(), learn.opt.state_dict()['state'], learn.also.state_dict()))
    learn.lr_find(show_plot=False, num_it=14)
    after = learn.model.state_dict(), learn.opt.state_dict()['state'], learn.also.state_dict()
    assert learn.opt is own
    assert all(torch.equal(before[0][k], after[0][k]) for k in before[0]) and all(torch.equal(before[2][k], after[2][k]) for k in ('u', 'sums'))
    assert len(before[1]) == len(after[1]) and all(set(a) == set(b) and all(torch.equal(torch.as_tensor(a[k]), torch.as_tensor(b[k])) for k in a)
                                                   for a,b in zip(before[1], after[1]))
    assert all(torch.equal(a, b) for a,b in zip(before[2]['last'], after[2]['last']))

# errors

@pytest.mark.parametrize('opt_func', [SGD, RAdam, lambda ps, lr: OptimWrapper(ps, torch.optim.AdamW, lr=lr), lambda ps, lr: Lookahead(Adam(ps, lr))])
@pytest.mark.parametrize('cb', [OptimisticSteps, lambda: ALSOCallback(mode='descent-ascent'), lambda: ALSOCallback(mode='optimistic')])
def test_other_optimizers_are_refused(opt_func, cb):
    learn = make(cb(), opt_func=opt_func)
    with pytest.raises(ValueError, match='takes the steps of Adam.*opt_func=also_adam'): learn.fit(1)
    make(ALSOCallback(), opt_func=opt_func).fit(1, 1e-3)

def test_no_closure():
    with pytest.raises(NotImplementedError): moved()[1].step(lambda: 0)

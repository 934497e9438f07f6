"Names of methods: every registered one, options, combinations, and what is told when they are wrong"
import os, subprocess, sys
import pytest, torch
from fastai.basics import Callback, Learner
from fastnoisy.all import METHODS, digits_dls, run_one, small_cnn
from fastnoisy.core.registry import Method
from fastnoisy.losses import *
from fastnoisy.methods import TwoViews, as_method, register_loss
from readme import root

@pytest.fixture
def mine():
    yield 'mine'
    METHODS.pop('mine', None)

def loss_of(text): return as_method(text).make()['loss_func']

Z,Y = torch.randn(6, 10, generator=torch.Generator().manual_seed(0)),torch.arange(6)

@pytest.mark.parametrize('name, loss', dict(
    focal=AlphaFocalLoss(), mae=MAELoss(), rce=RCELoss(), gce=GCELoss(), sce=SCELoss(), nce=NCELoss(), nfl=NFLLoss(), ngce=NGCELoss(), nmae=NMAELoss(), js=JSLoss(),
    gjs=GJSLoss(), taylor=TaylorLoss(), agce=AGCELoss(), aul=AULLoss(), ael=AELLoss(), peer=PeerLoss(),
    nls=NLSLoss()).items())
def test_losses_have_the_defaults_of_their_class(name, loss): assert loss_of(name)(Z, Y) == loss(Z, Y)

@pytest.mark.parametrize('name, cls', {'nce+mae': NCEMAELoss, 'nce+rce': NCERCELoss, 'nfl+mae': NFLMAELoss, 'nfl+rce': NFLRCELoss, 'exp-ce': ExpCELoss, 'exp-focal': ExpFocalLoss,
    'mean-mae': MeanMAELoss, 'apl-nce-mae': ExpCEMAELoss, 'apl-nfl-mae': ExpFocalMAELoss,
    'bi-tempered': BiTemperedLoss, 'nce+agce': NCEAGCELoss, 'nce+aul': NCEAULLoss, 'nce+ael': NCEAELLoss,
    'anl-ce': ANLCELoss, 'anl-fl': ANLFLLoss, 'eps-softmax': EpsilonSoftmaxLoss, 'logit-clip': LogitClipLoss}.items())
def test_the_two_families(name, cls):
    assert type(loss_of(name)) is cls
    other = dict(nce='exp-ce', nfl='exp-focal').get(name.split('+')[0], '')
    if name in ('nce', 'nfl'): assert other in METHODS[name].summary

def test_every_loss_class_is_registered():
    import fastnoisy.losses as module
    classes = {o for o in vars(module).values() if isinstance(o, type) and issubclass(o, RobustLoss) and o not in (RobustLoss, ActivePassiveLoss)}
    made = {type(m.make().get('loss_func')) for m in METHODS.values()}
    assert classes <= made

def test_presets_of_options():
    assert loss_of('label-smoothing').params['smoothing'] == .1 and loss_of('label-smoothing:smoothing=.3').params['smoothing'] == .3
    assert loss_of('bootstrap-hard').params['hard'] is True and loss_of('bootstrap-soft').params['hard'] is False

@pytest.mark.parametrize('text, expected', [('gce:q=.5', .5), ('gce:q=1', 1), ('gce:q=1e-2', .01)])
def test_options(text, expected): assert loss_of(text).params['q'] == expected

def test_options_of_a_callback():
    assert as_method('lilaw:detach').make()['cbs'].detach is True and as_method('lilaw:detach=False').make()['cbs'].detach is False
    assert as_method('also:mode=optimistic').make()['cbs'].mode == 'optimistic' # a word that is no Python literal is a text
    assert as_method('also:temperature=.5').name == 'also:temperature=.5' and 'temperature=.5' in as_method('also:temperature=.5').summary

@pytest.mark.parametrize('text, loss, cbs', [
    ('gce+also', GCELoss, ['also']), ('also+gce', GCELoss, ['also']), ('nce+rce+also', NCERCELoss, ['also']), ('nce+also', NCELoss, ['also']), ('also+bmm', None, ['also', 'bmm']),
    ('lilaw+also:temperature=.5', None, ['lilaw', 'also']), ('gce:q=.5+also+lilaw:detach', GCELoss, ['also', 'lilaw']), ('ce+also', None, ['also']),
    ('nce+rce:alpha=2+also', NCERCELoss, ['also']), ('confidence:two+gce', GCELoss, ['confidence'])])
def test_combinations(text, loss, cbs):
    made = as_method(text).make()
    assert type(made.get('loss_func')) is (loss or type(None)) and [o.name for o in made['cbs']] == cbs

def test_a_registered_combination_is_itself(): assert as_method('also+bmm') is METHODS['also+bmm']

def test_making_twice_makes_new_callbacks():
    method = as_method('gce+also')
    assert method.make()['cbs'][0] is not method.make()['cbs'][0]

def test_metadata_of_a_combination():
    m = as_method('gjs+also')
    assert m.needs == 'images' and m.paper == f"{METHODS['gjs'].paper}; {METHODS['also'].paper}" and METHODS['also'].summary in m.summary

@pytest.mark.parametrize('text, says', [
    ('nope', "'nope' is unknown; choose from ce"), ('gce+nope', "'nope' is unknown"), ('', 'is unknown'), ('gce+', "'' is unknown"), ('gce+sce', 'gce and sce: there is more than one loss_func'),
    ('gce:q=2', "'gce:q=2': q must be in"), ('gce:x=1', "unexpected keyword argument 'x'"), ('also+bmm:x=1', "unexpected keyword argument 'x'"), ('nope:x=1', 'is unknown')])
def test_wrong_names(text, says):
    with pytest.raises(ValueError, match=says): as_method(text)

def test_options_are_not_evaluated():
    with pytest.raises(ValueError): loss_of('gce:q=__import__("os").getpid()')

def test_a_loss_of_ones_own(mine):
    register_loss(mine, lambda q=.9: GCELoss(q), 'a summary', 'a paper')
    assert METHODS[mine].summary == 'a summary' and loss_of('mine:q=.2+also').params['q'] == .2
    assert isinstance(METHODS[mine], Method) and METHODS[mine].needs == ''

# Two views

def test_two_views_are_of_the_same_images():
    seen = []
    class Look(Callback):
        order = -1
        def before_batch(self): self.given = self.x
        def after_pred(self): seen.append((self.training, self.given, self.x))
        def after_loss(self): seen[-1] += (self.pred,)
    learn = Learner(digits_dls(device='cpu'), small_cnn(3, 10), **as_method('gjs').make())
    with learn.no_bar(), learn.no_logging(): learn.fit(1, cbs=Look())
    (_,given,x,pred),(_,other,_,_),*_,(training,valid_x,valid_seen,valid_pred) = seen
    first,second = x.chunk(2)
    assert torch.equal(first, given) and not torch.equal(second, given) and [o.shape for o in pred] == [(64, 10)]*2
    assert (first.mean((1, 2, 3)) - second.mean((1, 2, 3))).abs().mean() < .1 # the same images, moved
    assert not training and torch.equal(valid_seen, valid_x) and valid_pred.shape == (len(valid_x), 10)

def test_two_views_need_images():
    from helpers import blob_learner
    learn = blob_learner(cbs=TwoViews(), loss_func=GJSLoss())
    with pytest.raises(TypeError, match='use js'): learn.fit(1)

def test_gjs_trains_and_repeats():
    a,b = (run_one(digits_dls(noise=.4, device='cpu'), lambda: small_cnn(3, 10), 'gjs', 2)[1] for _ in range(2))
    assert a['last'] == b['last'] > .3

def test_the_table_is_whole_after_one_import():
    code = "from fastnoisy.methods import as_method; [as_method(o) for o in ('lilaw', 'also', 'also+bmm', 'also+knn', 'confidence', 'gjs', 'ce')]"
    subprocess.run([sys.executable, '-c', code], check=True, cwd=root, env={**os.environ, 'PYTHONPATH': str(root)})

"Options of the wrong type: refused by name, for every method that there is and will be"
import inspect, math
import numpy as np, pytest, torch
from fastnoisy.callback.also import ALSOCallback
from fastnoisy.callback.divide_mix import DivideMixCallback
from fastnoisy.core.checks import check_types
from fastnoisy.core.method import MethodCallback
from adversarial import CALLBACKS, NEEDED
from helpers import make, weights_of

class Method(MethodCallback):
    name = 'method'
    def __init__(self, rate:float=.1, every:int=1, top:int=None, soft:bool=False, kind:str='a', other=None,
                 seed:int=0):
        self.given = rate,every,top,soft,kind,other,seed

@pytest.mark.parametrize('name, value', [
    ('rate', 1), ('rate', np.float32(.5)), ('rate', True), ('every', np.int64(3)), ('top', None), ('top', 2),
    ('soft', True), ('soft', np.bool_(True)), ('soft', 1), ('kind', 'b'), ('other', [math.nan]), ('other', 'x')])
def test_what_fits(name, value): assert value in Method(**{name: value}).given

@pytest.mark.parametrize('name, value', [
    ('rate', '1'), ('rate', None), ('rate', math.nan), ('rate', -math.inf), ('rate', torch.tensor(.5)),
    ('rate', 10**20), ('every', .5), ('every', [1]), ('top', 'a'), ('soft', 'yes'), ('soft', 2),
    ('soft', torch.tensor([1, 2])), ('kind', 3), ('kind', b'a'), ('seed', -1), ('seed', True)])
def test_what_does_not(name, value):
    with pytest.raises(ValueError, match=f'{name}=.*: give'): Method(**{name: value})

def test_by_place_and_by_inheritance():
    class Sub(Method): pass
    class Own(Method):
        def __init__(self, rate:float=.2, **kwargs): super().__init__(rate, **kwargs)
    with pytest.raises(ValueError, match='every='): Method(.1, 'x')
    with pytest.raises(ValueError, match='every='): Sub(every='x')
    with pytest.raises(ValueError, match='soft='): Own(soft='x')
    with pytest.raises(TypeError, match='unexpected keyword'): Method(foo=1) # Python's own

def test_signatures_are_those_of_the_methods():
    assert [*inspect.signature(Method).parameters] == ['rate', 'every', 'top', 'soft', 'kind', 'other', 'seed']
    assert inspect.signature(ALSOCallback).parameters['temperature'].default == .25

def test_infinity_is_no_weight():
    "It trained the model to NaN"
    with pytest.raises(ValueError, match='temperature=inf'): ALSOCallback(temperature=math.inf)
    with pytest.raises(ValueError, match='lambda_u=inf'): DivideMixCallback(lambda_u=math.inf)

def test_a_function_without_annotations(): check_types(lambda a, b=1: None, object(), b=math.nan)

@pytest.mark.parametrize('kind', [o for o in CALLBACKS if 'seed' in inspect.signature(o).parameters])
def test_a_seed_of_numpy(kind):
    "PyTorch's generators refuse it"
    def trained(seed):
        torch.manual_seed(0)
        learn = make('ce', cbs=[kind(**NEEDED.get(kind, {}), seed=seed)])
        learn.fit(2, .1)
        return weights_of(learn.model)
    assert torch.equal(trained(np.int64(3)), trained(3))

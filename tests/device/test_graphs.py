"CUDA graphs, which only CUDA has. What they ask of memory is tried without them in tests/test_precision.py."
import pytest, torch
from helpers import LR, linear, weights_of
from on_device import DEVICE, KIND, make_on
from settings import battery

pytestmark = [pytest.mark.filterwarnings('ignore'),
              pytest.mark.skipif(KIND != 'cuda', reason='the pretend device has no CUDA graphs')]

def fitted(method, model):
    learn = make_on(DEVICE, method, model=model)
    learn.fit(2, LR)
    return weights_of(learn.model)

@pytest.mark.parametrize('method', battery())
def test_it_trains_as_without(method):
    torch._dynamo.reset()
    graphed = fitted(method, torch.compile(linear(), mode='reduce-overhead'))
    torch.testing.assert_close(graphed, fitted(method, linear()), rtol=1e-2, atol=1e-3)

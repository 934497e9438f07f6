"Where a second view comes from; the augmentation drawn twice and the shift itself are in test_confidence.py."
import pytest, torch
from fastai.basics import Learner
from fastai.callback.core import Callback
from fastai.losses import CrossEntropyLossFlat
from fastnoisy.data.digits import digits_dls
from fastnoisy.models import small_cnn
from fastnoisy.core.views import SecondView, second_inputs, shifted
from helpers import Brighten

def test_a_function_goes_before_the_shift():
    x = torch.rand(4, 1, 8, 8)
    assert torch.equal(second_inputs((x,), 3)[0], shifted(x, 3))
    assert torch.equal(second_inputs((x,), 3, lambda x: -x)[0], -x)

def test_a_function_may_have_several_inputs_and_outputs():
    a,b = torch.rand(4, 2),torch.rand(4, 3)
    swapped = second_inputs((a, b), 0, lambda a, b: (b, a))
    assert isinstance(swapped, tuple) and swapped[0] is b and swapped[1] is a
    assert second_inputs((a, b), 0, lambda a, b: [b, a])[0] is b

def test_random_numbers_are_those_of_the_seed():
    x,state = torch.zeros(4, 2),torch.get_rng_state()
    noise = lambda x: x + torch.randn_like(x)
    a,b,c = (second_inputs((x,), seed, noise)[0] for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c) and torch.equal(torch.get_rng_state(), state)

@pytest.mark.parametrize('xb', [(torch.rand(4, 3, 20),), (torch.rand(4, 5),), (torch.zeros(4, 3, 8, 8, dtype=torch.uint8),), (torch.rand(4, 3, 8, 8),)*2])
def test_nothing_is_assumed_of_what_are_no_images(xb): assert second_inputs(xb, 0) is None

def test_inputs_are_those_of_the_batch_without_targets():
    dls = digits_dls(device='cpu', batch_tfms=Brighten(), bs=64)
    learn,got = Learner(dls, small_cnn(3, 10), loss_func=CrossEntropyLossFlat()),[]
    with SecondView(dls.train.after_batch) as second:
        class Look(Callback):
            def before_batch(self): got.append((second.inputs(self.learn), second.batch[0], self.x)) if self.training else None
        with learn.no_bar(), learn.no_logging(): learn.fit(1, cbs=Look())
    for xb,batch,x in got:
        assert isinstance(xb, tuple) and len(xb) == 1 and type(xb[0]) is torch.Tensor
        assert torch.equal(xb[0], batch.as_subclass(torch.Tensor)) and xb[0].shape == x.shape and not torch.equal(xb[0], x)
    assert len(got) == len(dls.train)

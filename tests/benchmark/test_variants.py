"What the grid changes beside method and labels: images, validation set, layers; the rest stays as it is"
from itertools import product
import numpy as np, pytest, torch
from fastai.basics import Learner
from fastnoisy.data.digits import digits_dls
from fastnoisy.models import small_cnn
from fastnoisy.models import StackedLSTM
from fastnoisy.benchmark.variants import (INPUT_NOISES, VARIANTS, Resized, add_noise, check_variant, last_two,
                                          moved_training, moved_validation)
from fastai.torch_core import TensorImage, TensorImageBW

def images(dl): return np.asarray(dl.dataset.items.images)

@pytest.mark.parametrize('text', ['plain', 'clean-valid', 'moved-train', 'moved-valid', 'valid:.05', 'valid:0.5',
                                  'last-two'])
def test_variants(text): assert check_variant(text) == text

@pytest.mark.parametrize('text', ['nope', 'valid', 'valid:', 'valid:0', 'valid:1', 'valid:x', 'plain:.1', ''])
def test_no_variants(text):
    with pytest.raises(ValueError, match="choose from plain, clean-valid, moved-train, moved-valid, last-two, or 'valid:.05'"): check_variant(text)

@pytest.mark.parametrize('noise', ['far-ood:.3', 'far-ood:.3:photos', 'domain-shift:.3', 'covariate-shift:.3', 'zoom-shift:.3', 'crop-shift:.3:3'])
def test_noise_in_the_images(noise):
    dls = digits_dls(device='cpu')
    new,again,other = (add_noise(dls, noise, s) for s in (5, 5, 6))
    changed = new.changed_inputs.numpy()
    assert changed.mean() == pytest.approx(.3, abs=.001) and (images(new.train) == images(again.train)).all() and (images(new.train) != images(other.train)).any()
    assert (images(new.train)[~changed] == images(dls.train)[~changed]).all() and (images(new.train) != images(dls.train))[changed].any((1, 2)).mean() > .9
    assert (new.train.dataset.items.labels == dls.train.dataset.items.labels).all()
    assert all((images(a) == images(b)).all() for a,b in zip(new.loaders[1:], dls.loaders[1:]))

def test_far_images_are_what_they_are_said_to_be():
    with pytest.raises(ValueError, match='digits or photos'): INPUT_NOISES['far-ood'](.5, 'cats')
    photos,digits = (INPUT_NOISES['far-ood'](.5, o).others for o in ('photos', 'digits'))
    assert photos.shape == (1000, 32, 32, 3) and digits.shape == (1797, 8, 8) and photos.dtype == digits.dtype == np.uint8
    assert digits.max() == 255 and photos.std() > 20 and (photos == INPUT_NOISES['far-ood'](.5, 'photos').others).all()

def test_wrong_labels():
    dls = digits_dls(device='cpu')
    assert add_noise(dls, None, 0) is dls
    both,one = (add_noise(dls, 'asymmetric:.4:mnist', 1, valid=o) for o in (True, False))
    share = lambda new, i: (new.loaders[i].dataset.items.labels != dls.loaders[i].dataset.items.labels).mean()
    assert share(both, 0) == share(one, 0) > .1 and share(both, 1) > .1 and share(one, 1) == share(both, 2) == 0
    assert (both.noise.given == one.noise.given).all()

def test_moved_validation():
    dls = digits_dls(noise=.4, device='cpu')
    moved = moved_validation(dls)
    (x,y),(x0,y0) = moved.valid.one_batch(),dls.valid.one_batch()
    assert (y == y0).all() and ((x - x0).abs().flatten(1).amax(1) > .002).all() # every image, though validation has no augmentation as a rule
    again = moved.valid.one_batch()[0]
    assert (again != x).any() # anew each time
    assert moved.noise is dls.noise and moved.train is dls.train and moved.test is dls.test and moved.c == dls.c and moved.n_channels == dls.n_channels
    assert (dls.valid.one_batch()[0] == x0).all()
    Learner(moved, small_cnn()).fit(1)

def test_moved_training():
    "Only the training images move, each by whole pixels and perhaps mirrored"
    dls = digits_dls(noise=.4, device='cpu')
    moved = moved_training(dls)
    assert moved.noise is dls.noise and moved.valid is dls.valid and moved.test is dls.test
    new = moved.train.new(shuffle=False, drop_last=False)
    x,again = new.one_batch()[0],new.one_batch()[0]
    still = dls.train.new(shuffle=False, drop_last=False).one_batch()[0]
    assert (x != again).flatten(1).any(1).float().mean() > .8
    for a,b in zip(x, still):
        ways = [torch.roll(o, moves, (1, 2)) for o in (b, b.flip(2)) for moves in product((-1, 0, 1), repeat=2)]
        same = [torch.allclose(a[:,1:-1,1:-1], o[:,1:-1,1:-1], atol=1e-3) for o in ways] # mirrored by interpolation
        assert any(same)
    Learner(moved, small_cnn()).fit(1)

@pytest.mark.parametrize('kind', [TensorImage, TensorImageBW])
def test_resized(kind):
    x = kind(torch.rand(2, 1 if kind is TensorImageBW else 3, 8, 8))
    y = Resized(16)(x)
    assert type(y) is kind and y.shape[2:] == (16, 16) and float(y.mean()) == pytest.approx(float(x.mean()), abs=.01) and Resized(4)(x).shape[2:] == (4, 4)
    labels = torch.arange(2)
    assert Resized(16)(labels) is labels
    with pytest.raises(ValueError, match='size=0'): Resized(0)

@pytest.mark.parametrize('model, learns', [(lambda: small_cnn(), {'2.0.weight', '5.weight', '5.bias'}),
                                           (lambda: StackedLSTM(1, 3), {'lstm', 'head'})])
def test_last_two(model, learns):
    model = last_two(model())
    free = {n for n,p in model.named_parameters() if p.requires_grad}
    assert free == learns or {o.split('.')[0] for o in free} == learns

def test_the_rest_of_the_network_stays():
    dls,model = digits_dls(device='cpu'),last_two(small_cnn())
    before = {n: p.detach().clone() for n,p in model.named_parameters()}
    Learner(dls, model).fit(1, 1e-2)
    assert {n for n,p in model.named_parameters() if not torch.equal(p, before[n])} == {'2.0.weight', '5.weight', '5.bias'}

def test_each_variant_is_described(): assert all(VARIANTS.values())

"The handwritten digits: nothing lost, nothing twice, the same proportions, and a network that reads them."
import numpy as np
import pytest
import torch
from fastai.callback.progress import ProgressCallback
import fastai.callback.schedule  # adds fit_one_cycle
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.torch_core import set_seed
from sklearn.datasets import load_digits

from fastnoisy.data.digits import digits_dls, digits_splits
from fastnoisy.models import small_cnn
from fastnoisy.noise.label_noise import SymmetricNoise


def as_rows(images, labels): return sorted((int(label), image.tobytes()) for image, label in zip(images, labels))


def test_splits_are_the_digits_of_scikit_learn_each_once():
    digits, splits = load_digits(), digits_splits()
    images = np.concatenate([o for o, _ in splits])
    labels = np.concatenate([o for _, o in splits])
    assert images.dtype == np.uint8 and images.shape == (1797, 8, 8) and images.max() == 255 and labels.dtype == np.int64
    assert as_rows(images, labels) == as_rows((digits.images*255/16).round().astype(np.uint8), digits.target)


def test_splits_are_stratified():
    counts = np.array([np.bincount(labels, minlength=10) for _, labels in digits_splits()])
    shares = counts/counts.sum(0)
    assert np.abs(shares - np.array([[.6], [.15], [.25]])).max() < .006


def test_split_seed_and_noise_seed_are_independent():
    first, again, other = digits_splits(), digits_splits(0), digits_splits(1)
    assert all((a[0] == b[0]).all() and (a[1] == b[1]).all() for a, b in zip(first, again))
    assert first[2][0].shape == other[2][0].shape and (first[2][0] != other[2][0]).any()
    a, b, c = digits_dls(noise=.4, seed=1), digits_dls(noise=.4, seed=2), digits_dls(noise=.4, seed=1, split_seed=1)
    assert a.noise.true.equal(b.noise.true) and not a.noise.given.equal(b.noise.given)
    assert (a.test.dataset.items.images == first[2][0]).all() and (c.test.dataset.items.images == other[2][0]).all()


def test_splitting_leaves_the_global_stream_alone():
    before = torch.get_rng_state()
    digits_splits()
    assert before.equal(torch.get_rng_state())


def test_dls():
    dls = digits_dls(noise=SymmetricNoise(.4), size=12, bs=32, val_bs=100, rgb=False, device='cpu')
    assert dls.c == 10 and list(dls.vocab) == [str(i) for i in range(10)]
    assert dls.one_batch()[0].shape == (32, 1, 12, 12) and dls.test.one_batch()[0].shape == (100, 1, 12, 12)
    assert dls.noise.asked_rate == .4 and dls.noise.actual_rate == pytest.approx(.4, abs=1e-3)
    assert digits_dls().noise is None and digits_dls().one_batch()[0].shape == (64, 3, 8, 8)
    with pytest.raises(TypeError, match='nonsense'): digits_dls(nonsense=1)


@pytest.mark.parametrize('lr', [3e-3, 1e-2])
def test_the_network_reads_the_digits(lr):
    set_seed(0)
    dls = digits_dls(device='cpu')
    learn = Learner(dls, small_cnn(dls.n_channels, dls.c), loss_func=CrossEntropyLossFlat(), metrics=accuracy)
    learn.remove_cbs(ProgressCallback)
    learn.fit_one_cycle(8, lr)
    assert learn.validate(dl=dls.test)[1] > .95

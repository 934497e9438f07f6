"Input noise against numpy and scipy written out, and the promise that a sample's change depends on the seed and its id alone."
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from scipy import ndimage

from fastnoisy.noise.input_noise import (CovariateShift, CropShift, DomainShift, FarOOD, InputNoiseModel, ZoomShift,
                                         bilateral_mean, box_median, cartoon)

COLOR = np.random.default_rng(0).integers(0, 256, (30, 12, 14, 3), dtype=np.uint8)
GREY = COLOR[..., 0]
OTHERS = np.random.default_rng(1).integers(0, 256, (5, 7, 7), dtype=np.uint8)
MODELS = [FarOOD(.4, OTHERS), CovariateShift(.4), DomainShift(.4), ZoomShift(.4), CropShift(.4)]


@pytest.mark.parametrize('model', MODELS, ids=str)
@pytest.mark.parametrize('images', [COLOR, GREY, GREY[..., None], torch.from_numpy(COLOR), torch.from_numpy(GREY)], ids=lambda o: f'{type(o).__name__}{tuple(o.shape)}')
def test_record(model, images):
    before = images.copy() if isinstance(images, np.ndarray) else images.clone()
    record = model(images, generator=3)
    assert (images == before).all()
    assert type(record.images) is type(images) and record.images.shape == images.shape and record.images.dtype == images.dtype
    differ = (np.asarray(record.images) != np.asarray(images)).reshape(len(images), -1).any(1)
    assert differ.tolist() == record.changed.tolist() and record.changed.sum() == 12 == len(record)*.4
    assert record.actual_rate == .4 == record.asked_rate and record.name == str(model) and '12 of 30 images' in repr(record)
    assert record.to_frame().is_changed.tolist() == record.changed.tolist()
    again, other = model(images, generator=3), model(images, generator=4)
    assert (record.images == again.images).all() and not record.changed.equal(other.changed)
    one = [model.apply(np.asarray(images)[i:i + 1], seeds[i:i + 1])[0] for seeds in [model.plan(30, 3)[1]] for i in range(30)]
    assert all((np.asarray(record.images[i]) == one[i]).all() for i in range(30) if record.changed[i])


@pytest.mark.parametrize('model', MODELS, ids=str)
def test_no_global_randomness(model):
    first = model(GREY).images
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert (model(GREY).images == first).all()
    assert random.getstate() == before[0] and np.random.get_state()[1].tolist() == before[1] and torch.get_rng_state().equal(before[2])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 600), st.floats(0, 1), st.booleans(), st.integers(0, 2**31))
def test_share(n, rate, exact, seed):
    images = np.full((n, 5, 6), 90, dtype=np.uint8)
    record = CropShift(rate, 2, exact=exact)(images, seed)
    assert ((record.images[:, :, 0] == 0).all(1) == record.changed.numpy()).all()
    if exact: assert record.changed.sum() == round(rate*n)
    else: assert abs(int(record.changed.sum()) - rate*n) <= 6*(n*rate*(1 - rate))**.5 + 1e-9


def test_zoom_is_pils_resize():
    for images in (COLOR, GREY):
        zoomed = ZoomShift(1, 1.75)(images).images
        for image, z in zip(images, zoomed):
            middle = image[3:9, 3:11]                                               # int(12/1.75), int(14/1.75) = 6, 8
            expected = np.asarray(Image.fromarray(middle).resize((14, 12), Image.BILINEAR)).astype(int)
            assert np.abs(z.astype(int) - expected).max() <= 1
    assert (ZoomShift(1, 1)(COLOR).images == COLOR).all()
    assert ZoomShift(1, 100)(GREY).images[0].std() == 0


def test_crop_moves_right():
    for pixels in (0, 3, 14, 99):
        moved = np.zeros_like(COLOR)
        if pixels < 14: moved[:, :, pixels:] = COLOR[:, :, :14 - pixels]
        assert (CropShift(1, pixels)(COLOR).images == moved).all()


def test_covariate_noise_is_gaussian_of_the_images_maximum():
    images = np.stack([np.full((60, 60, 3), v, dtype=np.uint8) for v in (60, 120)])
    images[1, :30] = 100
    noise = CovariateShift(1, .2)(images).images.astype(float) - images
    assert noise[0].std() == pytest.approx(12, rel=.03) and noise[1].std() == pytest.approx(24, rel=.03)
    assert abs(noise.mean()) < .6 and np.corrcoef(noise[0, ..., 0].ravel(), noise[0, ..., 1].ravel())[0, 1] < .06
    assert np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1] < .06
    clipped = CovariateShift(1, 3.)(images).images
    assert clipped.min() == 0 and clipped.max() == 255
    assert (CovariateShift(1, 0)(COLOR).images == COLOR).all()


def test_far_ood_replaces_by_others_of_any_kind():
    constants = np.stack([np.full((9, 4, 3), v, dtype=np.uint8) * np.array([1, 1, 0], dtype=np.uint8) for v in (30, 90, 120)])
    color = FarOOD(1, constants)(COLOR).images
    assert {tuple(o[0, 0]) for o in color} == {(30, 30, 0), (90, 90, 0), (120, 120, 0)} and (color == color[:, :1, :1]).all()
    assert set(FarOOD(1, constants)(GREY).images[:, 0, 0]) == {20, 60, 80}           # the mean over channels
    grey = FarOOD(1, OTHERS)(COLOR[:, :7, :7]).images
    assert (grey == grey[..., :1]).all() and all((g[..., 0] == OTHERS).reshape(5, -1).all(1).any() for g in grey)
    assert len({g.tobytes() for g in grey}) == 5


def naive_cartoon(image):
    "One image (H,W) or (H,W,3), float in [0, 1]"
    grey = image if image.ndim == 2 else image @ [.299, .587, .114]
    median = ndimage.median_filter((grey*255).astype(np.float32).round(), size=5, mode='nearest')
    mean = ndimage.uniform_filter(median.astype(np.float64), size=9, mode='nearest').round()
    keep = median - mean > -9
    if image.ndim == 2: return median/255 * keep
    h, w, _ = image.shape
    padded, smooth = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode='reflect'), np.zeros_like(image)
    for y in range(h):
        for x in range(w):
            total = 0
            for dy in range(-4, 5):
                for dx in range(-4, 5):
                    if dy*dy + dx*dx > 16: continue
                    other = padded[y + 4 + dy, x + 4 + dx]
                    weight = np.exp(-(255*np.abs(other - image[y, x]).sum())**2/(2*250**2)) * np.exp(-(dy*dy + dx*dx)/(2*250**2))
                    smooth[y, x] += weight*other
                    total += weight
            smooth[y, x] /= total
    return smooth * keep[..., None]


@pytest.mark.parametrize('images', [COLOR[:3], GREY[:3]], ids=['color', 'grey'])
def test_cartoon_step_by_step(images):
    batch = torch.tensor(images.reshape(3, 12, 14, -1)/255).permute(0, 3, 1, 2)
    expected = np.stack([naive_cartoon(o/255) for o in images]).reshape(3, 12, 14, -1).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(cartoon(batch).numpy(), expected, atol=1e-6)
    assert 0 < (expected == 0).mean() < 1


def test_domain_shift_is_covariate_shift_and_cartoon():
    noisy = CovariateShift(1, .3)(COLOR, 5).images
    expected = cartoon(torch.tensor(noisy).permute(0, 3, 1, 2).float()/255).permute(0, 2, 3, 1).numpy()*255
    np.testing.assert_allclose(DomainShift(1, .3)(COLOR, 5).images, expected, atol=.51)


def test_more_images_than_are_changed_at_a_time():
    images = np.full((1100, 5, 5), 99, dtype=np.uint8)
    record, seeds = CovariateShift(1)(images), CovariateShift(1).plan(1100)[1]
    for i in (0, 511, 512, 1023, 1024, 1099): assert (record.images[i] == CovariateShift(1).apply(images[i:i + 1], seeds[i:i + 1])[0]).all()
    assert (images == 99).all() and len({o.tobytes() for o in record.images}) == 1100


def test_filters():
    x = torch.rand(2, 1, 9, 8, dtype=torch.double)
    np.testing.assert_array_equal(box_median(x, 1)[0, 0], ndimage.median_filter(x[0, 0].numpy(), size=3, mode='nearest'))
    constant = torch.full((1, 3, 9, 9), .3)
    torch.testing.assert_close(bilateral_mean(constant), constant)
    step = torch.cat([torch.zeros(1, 1, 9, 5), torch.ones(1, 1, 9, 5)], -1)
    torch.testing.assert_close(bilateral_mean(step, color_std=.01), step)           # an edge stays where colour counts


def test_plot():
    axs = CropShift(.2)(COLOR).plot(8)
    assert len(axs) == 8 and sum(len(ax.images) for ax in axs) == 6
    assert len(CropShift(.2)(GREY).plot(1)) == 1


@pytest.mark.parametrize('make, error, words', [
    (lambda: ZoomShift(40), ValueError, r'\[0, 1\]'), (lambda: CropShift('a'), TypeError, 'number'), (lambda: ZoomShift(.5, .9), ValueError, 'at least 1'),
    (lambda: CropShift(.5, -1), ValueError, 'at least 0'), (lambda: CovariateShift(.5, -1), ValueError, 'at least 0'), (lambda: FarOOD(.5), ValueError, 'another data set'),
    (lambda: FarOOD(.5, OTHERS/255), TypeError, 'must be uint8'), (lambda: ZoomShift(.5)(COLOR/255), TypeError, 'must be uint8'),
    (lambda: ZoomShift(.5)(COLOR.transpose(0, 3, 1, 2)), ValueError, 'channels last'), (lambda: ZoomShift(.5)(GREY[0]), ValueError, 'channels last'),
    (lambda: DomainShift(1)(GREY[:, :4]), ValueError, 'at least 5'), (lambda: InputNoiseModel(.5)(GREY), NotImplementedError, 'must define change'),
    (lambda: ZoomShift(.5)(GREY, 'a'), TypeError, 'seed 42'),
])
def test_errors(make, error, words):
    with pytest.raises(error, match=words): make()

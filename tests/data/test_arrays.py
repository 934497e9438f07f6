"Images in memory: every batch against fastai's own `ImageBlock` on the same arrays, and against images that encode their own position."
import io
import random

import fastai.callback.schedule  # adds fit_one_cycle
import numpy as np
import pytest
import torch
from PIL import Image
from fastai.callback.data import PartialDL, WeightedDL
from fastai.callback.progress import ProgressCallback
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.load import DataLoader, SkipItemException
from fastai.data.transforms import Normalize, RandomSplitter
from fastai.interpret import ClassificationInterpretation
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.torch_core import TensorCategory, TensorImage, TensorImageBW, to_np
from fastai.vision.core import PILImage, PILImageBW
from fastai.vision.data import ImageBlock
from fastai.vision.learner import vision_learner
from fasttransform import Transform
from torch import nn

from fastnoisy.data.arrays import (ArrayDataLoaders, ArrayDL, ArrayItem, ArrayItems, array_dls, check_images,
                                   resize_arrays)
from fastnoisy.core.sample_ids import with_sample_ids
from fastnoisy.noise.label_noise import NoiseModel, SymmetricNoise

GREY, RGB = (12, 10), (12, 10, 3)


def pictures(n, shape=GREY, seed=0, k=3):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, *shape), dtype=np.uint8), np.arange(n) % k


def numbered(n=50):
    "Image i holds the number i in every pixel"
    return np.repeat(np.arange(n, dtype=np.uint8), 16).reshape(n, 4, 4), np.arange(n) % 3


def small_dls(shape=GREY, n=40, bs=8, **kwargs):
    return array_dls(pictures(n, shape), pictures(20, shape, 1), pictures(10, shape, 2), bs=bs, device='cpu', **kwargs)


def linear_learner(dls, shape=GREY):
    channels = dls.n_channels
    model = nn.Sequential(nn.Flatten(), nn.Linear(channels*shape[0]*shape[1], dls.c))
    learn = Learner(dls, model, loss_func=CrossEntropyLossFlat(), metrics=accuracy)
    learn.remove_cbs(ProgressCallback)
    return learn


class Pass(Transform):
    "An item transform that does nothing, so the loader goes the ordinary way"


@pytest.mark.parametrize('shape, rgb', [(GREY, True), (GREY, False), (RGB, True), (RGB, False), ((12, 10, 1), True)])
@pytest.mark.parametrize('item_tfms', [None, Pass()])
def test_batches_equal_those_of_an_image_block(shape, rgb, item_tfms):
    images, labels = pictures(40, shape)
    dls = small_dls(shape, rgb=rgb, item_tfms=item_tfms)
    block_class = PILImage if rgb or shape == RGB else PILImageBW
    mode = 'L' if block_class is PILImageBW else 'RGB'
    get_x = lambda i: Image.fromarray(images[i].reshape(shape if shape == RGB else GREY)).convert(mode)
    block = DataBlock((ImageBlock(block_class), CategoryBlock(vocab=['0', '1', '2'])), get_x=get_x, get_y=lambda i: str(labels[i]),
                      splitter=RandomSplitter(seed=0))
    expected = block.dataloaders(range(40), num_workers=0, device='cpu').test_dl(range(40), with_labels=True, bs=8)
    got = dls.train.new(shuffle=False, drop_last=False)
    for (x, y), (ex, ey) in zip(got, expected, strict=True):
        assert type(x) is type(ex) and type(y) is type(ey) is TensorCategory
        assert x.dtype == torch.float32 and y.dtype == torch.int64 and x.is_contiguous()
        assert x.equal(ex) and y.equal(ey)
    assert got._whole_batches is (item_tfms is None)


@pytest.mark.parametrize('num_workers', [0, 2])
@pytest.mark.parametrize('shuffle, drop_last', [(True, True), (True, False), (False, False)])
def test_positions(num_workers, shuffle, drop_last):
    images, labels = numbered()
    dls = array_dls((images, labels), (images, labels), bs=16, num_workers=num_workers, device='cpu')
    dl = with_sample_ids(dls.train.new(shuffle=shuffle, drop_last=drop_last))
    for _ in range(2):
        seen = []
        for x, y in dl:
            ids = (x[:, 0, 0, 0]*255).round().long()
            assert dl.sample_ids.tolist() == ids.tolist()
            assert y.tolist() == labels[ids].tolist() and (x == x[:, :1, :1, :1]).all()
            seen += ids.tolist()
        assert (seen == list(range(50))) is (not shuffle)
        assert sorted(seen) == list(range(50)) if not drop_last else len(set(seen)) == 48


class WeightedArrayDL(WeightedDL, ArrayDL): pass


@pytest.mark.parametrize('cls, kwargs, whole', [(WeightedDL, dict(wgts=[0]*40 + [1]*10), None), (WeightedArrayDL, dict(wgts=[0]*40 + [1]*10), True),
                                                (PartialDL, dict(partial_n=20), None)])
def test_other_loaders_over_the_same_items(cls, kwargs, whole):
    dls = array_dls(numbered(), numbered(), bs=5, device='cpu')
    dl = with_sample_ids(dls.train.new(cls=cls, **kwargs))
    batches = [(x, y, dl.sample_ids) for x, y in dl]
    ids = torch.cat([i for *_, i in batches])
    assert ids.equal(torch.cat([(x[:, 0, 0, 0]*255).round().long() for x, *_ in batches]))
    assert len(ids) == (20 if cls is PartialDL else 50) and (cls is PartialDL or ids.min() >= 40)
    assert getattr(dl, '_whole_batches', None) is whole


def test_it_stays_a_fastai_loader():
    assert ArrayDL.create_batches is DataLoader.create_batches
    dl = small_dls().train
    assert dl.indexed and len(dl) == 5 and len(dl.dataset) == dl.n == 40
    assert isinstance(dl.do_item(3), tuple)         # outside a pass: an ordinary item
    x, y = dl.one_batch()
    assert dl.do_item(3) == 3
    x, y = dl.do_batch([3, 3, 0])
    assert x.dtype == torch.uint8 and y.tolist() == [0, 0, 0] and x[0].equal(x[1]) and not x[0].equal(x[2])
    assert ArrayDL([5, 6, 7], bs=3, num_workers=0).one_batch().tolist() == [5, 6, 7]
    with pytest.raises(StopIteration): next(iter(dl.new(n=0)))


def test_the_short_way_is_left_where_it_would_differ():
    class Invert(Transform):
        def encodes(self, x:PILImage): return PILImage.create(255 - np.asarray(x))
    plain = small_dls().valid.one_batch()[0]
    dls = small_dls()
    dls.valid.one_batch()
    dls.add_tfms([Invert()], 'after_item')
    assert torch.allclose(dls.valid.one_batch()[0], 1 - plain, atol=1e-6)
    replaced = small_dls().valid.new(create_batch=lambda b: (torch.zeros(len(b), 1), torch.zeros(len(b))))
    assert replaced.one_batch()[0].shape == (8, 1)
    item = small_dls().valid.new(create_item=lambda s: small_dls().valid_ds[0])
    assert item.one_batch()[0][7].equal(plain[0])
    assert [o[0].shape for o in small_dls().valid.new(bs=None)][0] == (3, *GREY)


def test_skipped_items():
    class NotThree(Transform):
        def encodes(self, x:TensorCategory):
            if x == 2: raise SkipItemException
            return x
    dls = array_dls(numbered(), numbered(), bs=8, item_tfms=NotThree(), device='cpu')
    dl = with_sample_ids(dls.train.new(drop_last=False))
    for x, y in dl: assert (y < 2).all() and dl.sample_ids.tolist() == (x[:, 0, 0, 0]*255).round().long().tolist()


def test_fastai_attributes():
    dls = small_dls(vocab=['c', 'a', 'b'])
    assert isinstance(dls, ArrayDataLoaders)
    assert list(dls.vocab) == ['c', 'a', 'b'] and dls.c == 3 and dls.n_channels == 3 and dls.n_inp == 1
    assert [len(o) for o in (dls.train_ds, dls.valid_ds, dls.test.dataset)] == [40, 20, 10]
    assert dls.train.shuffle and dls.train.drop_last and not dls.valid.shuffle and not dls.test.drop_last
    assert [o.bs for o in small_dls(val_bs=3).loaders] == [8, 3, 3]
    image, label = dls.train_ds[4]
    assert image.size == (10, 12) and label == 1 and dls.train_ds.decode((image, label))[1] == 'a'
    assert '40 images 12x10' in repr(dls.train_ds.items)
    assert list(small_dls().vocab) == ['0', '1', '2']


@pytest.mark.parametrize('num_workers', [0, 2])
def test_noise(num_workers):
    train, valid, test = pictures(40), pictures(20, seed=1), pictures(10, seed=2)
    copies = [o.copy() for pair in (train, valid, test) for o in pair]
    random.seed(num_workers), torch.manual_seed(num_workers)
    dls = array_dls(train, valid, test, noise=.4, seed=3, bs=8, num_workers=num_workers, device='cpu')
    generator = torch.Generator().manual_seed(3)
    first, second = (SymmetricNoise(.4)(labels, 3, generator=generator) for labels in (train[1], valid[1]))
    assert dls.noise.given.equal(first.given) and dls.valid_noise.given.equal(second.given)
    assert dls.noise.true.tolist() == train[1].tolist() and dls.valid_noise.flipped.sum() == 8
    got = [torch.cat([y for _, y in dl.new(shuffle=False, drop_last=False)]).tolist() for dl in dls.loaders]
    assert got == [first.given.tolist(), second.given.tolist(), test[1].tolist()]
    assert all((a == b).all() for a, b in zip(copies, [o for pair in (train, valid, test) for o in pair]))


def test_noise_is_optional_sees_the_images_and_has_its_own_seed():
    assert small_dls().noise is None and small_dls().valid_noise is None
    assert not small_dls(noise=.4, seed=1).noise.given.equal(small_dls(noise=.4, seed=2).noise.given)
    assert small_dls(noise=SymmetricNoise(.4)).noise.given.equal(small_dls(noise=.4, seed=42).noise.given)

    class OfDark(NoiseModel):
        def draw(self, labels, n_classes, inputs, generator): return np.where(inputs.mean((1, 2)) < 128, 0, labels)
    images, labels = pictures(40)
    assert small_dls(noise=OfDark()).noise.given.tolist() == np.where(images.mean((1, 2)) < 128, 0, labels).tolist()


def test_torch_and_numpy_streams_stay_where_they_are():
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), np.random.get_state()[2]
    small_dls(noise=.4, size=8)
    assert before[0].equal(torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all() and before[2] == np.random.get_state()[2]


@pytest.mark.parametrize('shape', [GREY, RGB])
@pytest.mark.parametrize('size', [(6, 5), 20, (12, 30)])
def test_resize_is_the_antialiased_bilinear_of_pil(shape, size):
    images, labels = pictures(5, shape)
    height, width = (size, size) if isinstance(size, int) else size
    resized = resize_arrays(images, size)
    expected = np.stack([np.asarray(Image.fromarray(o).resize((width, height), Image.Resampling.BILINEAR)) for o in images])
    assert resized.dtype == np.uint8 and resized.shape == expected.shape
    assert np.abs(resized.astype(int) - expected).max() <= 1
    dls = small_dls(shape, size=size)
    assert dls.one_batch()[0].shape == (8, 3, height, width) and dls.test.one_batch()[0].shape[2:] == (height, width)


def test_resize_keeps_the_array_where_the_size_is_right():
    images, _ = pictures(5)
    assert resize_arrays(images, GREY) is images
    assert small_dls(size=GREY).one_batch()[0].shape[2:] == GREY


@pytest.mark.parametrize('shape, rgb', [(GREY, True), (GREY, False), (RGB, True)])
def test_predict_any_picture(shape, rgb, tmp_path):
    dls = small_dls(shape, vocab=['x', 'y', 'z'], rgb=rgb)
    learn = linear_learner(dls)
    images, _ = pictures(10, shape, 2)
    probs, _ = learn.get_preds(dl=dls.test)
    picture = Image.fromarray(images[3])
    picture.save(tmp_path/'three.png')
    png = io.BytesIO()
    picture.save(png, 'png')
    as_tensor = torch.from_numpy(images[3].reshape(*GREY, -1)).permute(2, 0, 1)
    inputs = dict(pil=picture, array=images[3], tensor=torch.from_numpy(images[3]), path=tmp_path/'three.png', string=str(tmp_path/'three.png'),
                  bytes=png.getvalue(), fastai=(TensorImageBW if shape == GREY else TensorImage)(as_tensor), rgba=picture.convert('RGBA'),
                  column=images[3].reshape(*GREY, -1), item=ArrayItem(images[3], 0))
    for kind, picture in inputs.items():
        name, class_id, prob = learn.predict(picture)
        torch.testing.assert_close(prob, probs[3], msg=kind)
        assert name == dls.vocab[int(class_id)] and int(class_id) == int(probs[3].argmax())
    assert learn.predict(Image.fromarray(images[3]).resize((50, 60)))[2].shape == (3,)
    with pytest.raises(TypeError, match='image are float64, but must be uint8'): learn.predict(images[3]/255)


def test_test_dl():
    dls = small_dls()
    images, labels = pictures(10, GREY, 2)
    expected_x, expected_y = dls.test.new(bs=10).one_batch()
    x, = dls.test_dl(list(images), bs=10).one_batch()
    assert x.equal(expected_x)
    x, = dls.test_dl(images, bs=10).one_batch()
    assert x.equal(expected_x)
    rows = dls.test_dl(ArrayItems(images, labels), bs=10, with_labels=True)
    x, y = rows.one_batch()
    assert rows._whole_batches and x.equal(expected_x) and y.equal(expected_y)
    x, = dls.test_dl(ArrayItems(images, labels), bs=10).one_batch()
    assert x.equal(expected_x)
    x, y = dls.test_dl([ArrayItem(images[3], 2)], with_labels=True).one_batch()
    assert x[0].equal(expected_x[3]) and y.tolist() == [2]
    colour, _ = pictures(10, RGB)
    grey_dls = small_dls(rgb=False)
    x, = grey_dls.test_dl(ArrayItems(colour, labels), bs=10).one_batch()
    expected = np.stack([np.asarray(Image.fromarray(o).convert('L')) for o in colour])
    assert (x[:, 0]*255).round().numpy().astype(int).tolist() == expected.tolist()
    other_size = dls.test_dl(ArrayItems(*pictures(10, (24, 20))), bs=10)
    assert other_size.one_batch()[0].shape == (10, 3, *GREY) and not other_size._whole_batches


def test_array_items():
    images, labels = pictures(6)
    items = ArrayItems(images, labels)
    for rows in ([4, 1], np.array([4, 1]), torch.tensor([4, 1]), np.array([False, True, False, False, True, False])):
        some = items.iloc[rows]
        assert isinstance(some, ArrayItems) and sorted(some.labels.tolist()) == sorted(labels[[4, 1]].tolist())
    assert items[[4, 1]].labels.tolist() == labels[[4, 1]].tolist()
    assert ArrayItems(torch.from_numpy(images)[..., None], [0, 1, 2, 0, 1, 2])[4].image.shape == GREY
    with pytest.raises(TypeError, match='must be uint8'): ArrayItems(images/255, labels)
    assert len(items[1:3]) == 2 and (items[1:3].images == images[1:3]).all()
    for row in (4, np.int64(4), torch.tensor(4)): assert items[row].label == labels[4] and (items[row].image == images[4]).all()


def test_train_validate_and_interpret():
    rng = np.random.default_rng(0)
    def split(n):
        labels = rng.integers(0, 3, n)
        images = rng.integers(0, 80, (n, *GREY), dtype=np.uint8)
        images[np.arange(n), labels*3] += 150
        return images, labels
    train, valid, test = split(200), split(60), split(60)
    dls = array_dls(train, valid, test, noise=.3, bs=20, device='cpu')
    learn = linear_learner(dls)
    learn.fit_one_cycle(4, 1e-2)
    assert learn.validate(dl=dls.test)[1] > .95 > .8 > learn.validate()[1]
    probs, targets = learn.get_preds(ds_idx=0)
    assert targets.tolist() == dls.noise.given.tolist()
    with torch.no_grad():
        x = torch.from_numpy(train[0]).float().div(255)[:, None].repeat(1, 3, 1, 1)
        torch.testing.assert_close(probs, learn.model(x).softmax(1))
    interp = ClassificationInterpretation.from_learner(learn)
    probs, targets = learn.get_preds()
    naive = np.zeros((3, 3), int)
    for target, predicted in zip(targets.tolist(), probs.argmax(1).tolist()): naive[target, predicted] += 1
    assert (interp.confusion_matrix() == naive).all()
    losses, ids = interp.top_losses(5)
    expected = -probs[range(60), targets].log()
    torch.testing.assert_close(torch.as_tensor(losses), expected.topk(5).values)
    assert len(interp.top_losses(5, items=True)[2]) == 5
    inputs, _, targets_of_top, *_ = interp[ids]
    assert to_np(inputs*255).round().astype(int)[:, 0].tolist() == valid[0][ids].tolist() and targets_of_top.tolist() == targets[ids].tolist()
    interp.plot_confusion_matrix()
    interp.plot_top_losses(4)
    interp.print_classification_report()
    learn.show_results(max_n=2)
    dls.show_batch(max_n=3)
    dls.show_batch(max_n=3, unique=True)


@pytest.mark.parametrize('arch', ['test_resnet', 'function'])
@pytest.mark.parametrize('rgb', [True, False])
def test_vision_learner(arch, rgb):
    if arch == 'function':
        from torchvision.models import squeezenet1_1 as arch
    dls = small_dls((32, 32), n=16, rgb=rgb)
    learn = vision_learner(dls, arch, n_in=dls.n_channels, pretrained=False, metrics=accuracy)
    learn.remove_cbs(ProgressCallback)
    learn.fit(1)
    assert learn.get_preds()[0].shape == (20, 3)


def test_batch_transforms():
    class Plus(Transform):
        order = 20
        def encodes(self, x:TensorImage): return x + 1
    class PlusInTraining(Plus): split_idx = 0
    class PlusInValidation(Plus): split_idx = 1
    plain = small_dls()
    for tfm, added in ((Plus(), [1, 1, 1]), (PlusInTraining(), [1, 0, 0]), (PlusInValidation(), [0, 1, 1])):
        dls = small_dls(batch_tfms=tfm)
        for dl, plain_dl, plus in zip(dls.loaders, plain.loaders, added):
            got, expected = (o.new(shuffle=False).one_batch()[0] for o in (dl, plain_dl))
            torch.testing.assert_close(got, expected + plus)
    dls = small_dls(batch_tfms=Normalize.from_stats([.5]*3, [.25]*3, cuda=False))
    torch.testing.assert_close(dls.test.one_batch()[0], (plain.test.one_batch()[0] - .5)/.25)
    vision_learner(dls, 'test_resnet', pretrained=False)
    assert sum(isinstance(f, Normalize) for f in dls.test.after_batch.fs) == 1


def test_export_holds_no_images(tmp_path):
    train = pictures(3000)
    dls = array_dls(train, pictures(20), pictures(10), noise=.4, vocab=['x', 'y', 'z'], bs=8, path=tmp_path, device='cpu')
    learn = linear_learner(dls)
    learn.fit(1)
    learn.export('l.pkl')
    assert (tmp_path/'l.pkl').stat().st_size < 60_000 < train[0].nbytes
    assert learn.dls is dls
    loaded = load_learner(tmp_path/'l.pkl')
    assert loaded.dls.noise is None and list(loaded.dls.vocab) == ['x', 'y', 'z']
    for picture in (train[0][0], Image.fromarray(train[0][1])):
        expected, got = learn.predict(picture), loaded.predict(picture)
        assert expected[0] == got[0] and torch.allclose(expected[2], got[2])
    probs, _ = loaded.get_preds(dl=loaded.dls.test_dl(train[0][:10]))
    torch.testing.assert_close(probs, learn.get_preds(ds_idx=0)[0][:10])


def pair(**kwargs): return {**dict(train=pictures(20), valid=pictures(10), bs=8), **kwargs}


@pytest.mark.parametrize('kwargs, error, words', [
    (pair(train=(pictures(20)[0]/255, pictures(20)[1])), TypeError, r'train images are float64.*\*255'),
    (pair(valid=(pictures(10)[0].astype(np.int64), pictures(10)[1])), TypeError, 'valid images are int64'),
    (pair(test=(np.zeros((10, 3, 8, 8), np.uint8), np.arange(10) % 3)), ValueError, r'test images have the shape \(10, 3, 8, 8\).*channels last'),
    (pair(train=(np.zeros((20, 9), np.uint8), np.arange(20) % 3)), ValueError, 'train images have the shape'),
    (pair(train=(pictures(20)[0], np.arange(19) % 3)), ValueError, 'train has 20 images but 19 labels'),
    (pair(train=(pictures(20)[0], np.arange(20)/20)), TypeError, 'train labels must be integers'),
    (pair(train=(pictures(20)[0], np.arange(20)[:, None] % 3)), ValueError, r'train labels must have the shape \(N,\)'),
    (pair(valid=(pictures(10)[0], np.arange(10))), ValueError, r'valid labels\[3\] is 3, outside 0..2.*vocab='),
    (pair(vocab=['a', 'b']), ValueError, r'train labels\[2\] is 2, outside 0..1'),
    (pair(vocab=['a', 'b', 'a']), ValueError, 'occur twice'),
    (pair(train=pictures(20)[0]), TypeError, r'train must be a pair \(images, labels\), got ndarray'),
    (pair(valid=pictures(10, (9, 9))), ValueError, 'differ in shape.*size='),
    (pair(valid=pictures(10, RGB)), ValueError, 'differ in shape'),
    (pair(bs=21), ValueError, 'bs=21, but there are only 20'),
    (pair(noise='much'), ValueError, 'symmetric'),
    (pair(seed='x'), TypeError, 'generator='),
    (pair(train=(np.zeros((0, 8, 8), np.uint8), [])), ValueError, 'train labels are empty'),
])
def test_errors(kwargs, error, words):
    with pytest.raises(error, match=words): array_dls(device='cpu', **kwargs)


def test_no_test_set():
    dls = array_dls(pictures(20), pictures(10), bs=8, device='cpu')
    with pytest.raises(ValueError, match=r'pass test=\(inputs, labels\)'): dls.test


def test_images_are_not_copied():
    images, labels = pictures(20)
    assert small_dls().train_ds.items.images.base is None
    assert array_dls((images, labels), (images, labels), bs=8).train_ds.items.images is images
    assert check_images(torch.from_numpy(images)).base is not None
    locked = images.copy()
    locked.setflags(write=False)
    assert array_dls((locked, labels), (locked, labels), bs=8, size=6).one_batch()[0].shape == (8, 3, 6, 6)


def test_no_name_of_fastai_is_shadowed():
    import fastai.vision.all as fastai_all
    import fastnoisy.data.arrays, fastnoisy.data.digits, fastnoisy.data.medmnist, fastnoisy.noise.label_noise
    for module in (fastnoisy.noise.label_noise, fastnoisy.data.arrays, fastnoisy.data.digits, fastnoisy.data.medmnist):
        assert not [name for name in module.__all__ if hasattr(fastai_all, name)]

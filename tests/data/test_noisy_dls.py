"`noisy` and `noisy_inputs` on every kind of loader: sample i has label i of the record, whatever the order, the workers and the epoch."
import random
from functools import partial
from operator import getitem

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.data import WeightedDL
from fastai.data.all import Categorize, CategoryBlock, DataBlock, DataLoader, DataLoaders, Datasets, MultiCategoryBlock, RandomSplitter, RegressionBlock, TfmdDL
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.tabular.all import Categorify, Normalize, TabularDataLoaders
from fastai.vision.all import ImageBlock, ImageDataLoaders, PILImage, Resize, ToTensor, get_image_files, parent_label
from PIL import Image
from torch import nn

from helpers import blob_dls, blobs, small_model
from fastnoisy.data.arrays import array_dls
from fastnoisy.data.noisy_dls import ChangedInputs, GivenDataset, GivenTargets, noisy, noisy_inputs, targets_of
from fastnoisy.core.sample_ids import with_sample_ids
from fastnoisy.noise.label_noise import SymmetricNoise
from fastnoisy.noise.human import HumanNoise
from fastnoisy.noise.input_noise import CovariateShift, CropShift

K = 3


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path, rng = tmp_path_factory.mktemp('images'), np.random.default_rng(0)
    for k in 'abc':
        (path/k).mkdir()
        for i in range(10): Image.fromarray(rng.integers(1, 256, (9, 8, 3), dtype=np.uint8)).save(path/k/f'{i}.png')
    return path


def folders(folder, workers=0, **kwargs): return ImageDataLoaders.from_folder(folder, valid_pct=.4, seed=0, bs=4, num_workers=workers, device='cpu', **kwargs)

def table(folder=None, workers=0, **kwargs):
    rng = np.random.default_rng(0)
    df = pd.DataFrame(dict(a=rng.normal(size=30), b=list('xyz')*10, y=rng.choice(list('uvw'), 30), t=rng.normal(size=30), u=rng.normal(size=30)))
    kwargs = dict(y_names='y') | kwargs
    return TabularDataLoaders.from_df(df, procs=[Categorify, Normalize], cat_names=['b'], cont_names=['a'], valid_idx=range(20, 30), bs=4, num_workers=workers,
                                      device='cpu', **kwargs)

def pairs(dl_cls, workers=0, **kwargs):
    data = [torch.utils.data.TensorDataset(*blobs(n)) for n in (20, 12)]
    return DataLoaders(*[dl_cls(o, batch_size=4, shuffle=o is data[0], num_workers=workers, **kwargs) for o in data], device='cpu')

def weighted(folder=None, workers=0):
    x, y = blobs(32)
    dsets = Datasets(range(32), [[partial(getitem, x)], [partial(getitem, y.tolist()), Categorize([0, 1, 2])]], splits=[range(20), range(20, 32)])
    return DataLoaders(WeightedDL(dsets.train, bs=4, wgts=np.arange(20), shuffle=True, num_workers=workers), TfmdDL(dsets.valid, bs=4, num_workers=0), device='cpu')

def in_memory(folder=None, workers=0, **kwargs):
    x = np.random.default_rng(0).integers(1, 256, (32, 6, 6), dtype=np.uint8)
    y = np.arange(32) % K
    return array_dls((x[:20], y[:20]), (x[20:], y[20:]), (x, y), vocab='abc', bs=4, num_workers=workers, device='cpu', **kwargs)

def series(folder=None, workers=0, inplace=True):
    tsai = pytest.importorskip('tsai.basics')
    X, y = np.random.default_rng(0).normal(size=(32, 1, 5)).astype(np.float32), np.array(list('abc')*10 + list('ab'))
    return tsai.get_ts_dls(X, y, splits=(list(range(20)), list(range(20, 32))), tfms=[None, tsai.TSClassification()], bs=4, num_workers=workers, device='cpu', inplace=inplace)

def lists(folder=None, workers=0):
    data = list(zip(*blobs(20)))
    return DataLoaders(DataLoader(data, bs=4, shuffle=True, num_workers=workers), DataLoader([[x, int(y)] for x, y in data], bs=4), device='cpu')

KINDS = dict(folders=folders, table=table, fastai=lambda f, workers=0: pairs(DataLoader, workers), torch=lambda f, workers=0: pairs(torch.utils.data.DataLoader, workers),
             weighted=weighted, in_memory=in_memory, item_tfms=lambda f, workers=0: in_memory(f, workers, item_tfms=Resize(6)), series=series,
             series_lazy=lambda f, workers=0: series(f, workers, False), lists=lists, blobs=lambda f, workers=0: blob_dls(bs=4, num_workers=workers))


def by_id(dl):
    "Labels seen in one pass, by sample id"
    dl, seen = with_sample_ids(dl), {}
    for b in dl:
        for i, y in zip(dl.sample_ids.tolist(), b[-1].flatten().tolist()): assert seen.setdefault(i, y) == y
    return seen


@pytest.mark.parametrize('kind', KINDS)
def test_each_sample_has_its_label(kind, folder):
    clean = KINDS[kind](folder)
    before = [by_id(dl) for dl in clean.loaders]
    dls = noisy(clean, .5, generator=1)
    for record, dl, old in zip((dls.noise, dls.valid_noise), dls.loaders, clean.loaders):
        assert len(record) == len(dl.dataset) and record.n_classes == K and record.flipped.sum() == round(.5*len(record))
        for _ in range(2): assert all(record.given[i] == y for i, y in by_id(dl).items())
        assert all(record.true[i] == y for i, y in by_id(old).items())
        assert targets_of(dl).tolist() == record.given.tolist()
        new_batch, old_batch = next(iter(dl)), next(iter(old))
        assert [(type(o), o.dtype, o.shape) for o in new_batch] == [(type(o), o.dtype, o.shape) for o in old_batch]
    assert before[1] == by_id(clean.valid) and vars(clean).get('noise') is None and type(dls) is type(clean)
    assert dls.noise.true.equal(SymmetricNoise(.5)(targets_of(clean.train), K, generator=1).true)
    assert dls.noise.given.equal(SymmetricNoise(.5)(targets_of(clean.train), K, generator=1).given)


@pytest.mark.parametrize('kind', KINDS)
def test_workers_and_seeds(kind, folder):
    none, two, other = [noisy(KINDS[kind](folder, w), 'pair:.5', generator=s) for w, s in ((0, 3), (2, 3), (0, 4))]
    assert none.noise.given.equal(two.noise.given) and none.valid_noise.given.equal(two.valid_noise.given)
    assert not none.noise.given.equal(other.noise.given)
    assert all(two.noise.given[i] == y for i, y in by_id(two.train).items())
    if kind == 'folders': assert len(by_id(two.train)) == 16


def test_the_users_loaders_are_untouched(folder):
    clean = folders(folder)
    rng, fs = clean.train.rng.getstate(), list(clean.train.after_batch.fs)
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    dls = noisy(clean, .5)
    assert random.getstate() == state[0] and np.random.get_state()[1].tolist() == state[1] and torch.get_rng_state().equal(state[2])
    for _ in dls.train: pass
    dls.add_tfms([ToTensor()], 'after_batch')
    assert clean.train.rng.getstate() == rng and list(clean.train.after_batch.fs) == fs and len(dls.train.after_batch.fs) == len(fs) + 1
    a, b = noisy(clean, .5), noisy(clean, .5)
    assert a.train.get_idxs() == b.train.get_idxs()


def test_only_training_labels_or_another_model():
    clean = in_memory()
    off = noisy(clean, .5, valid=False)
    assert off.valid_noise is None and off.valid is clean.valid and off.test is clean.test
    human = noisy(clean, HumanNoise([0]*20), valid=HumanNoise([1]*12))
    assert human.noise.given.tolist() == [0]*20 and human.valid_noise.given.tolist() == [1]*12
    assert noisy(clean, .5, valid='pair:1').valid_noise.flipped.all() and noisy(clean, 1., valid=1.).valid_noise.flipped.all()
    same = array_dls((clean.train_ds.items.images, clean.noise.true if clean.noise else clean.train_ds.items.labels),
                     (clean.valid_ds.items.images, clean.valid_ds.items.labels), noise=.5, vocab='abc', bs=4, seed=7)
    mine = noisy(clean, .5, generator=7)
    assert mine.noise.given.equal(same.noise.given) and mine.valid_noise.given.equal(same.valid_noise.given)
    assert torch.equal(mine.test.one_batch()[1], clean.test.one_batch()[1])


def test_instance_noise_takes_inputs():
    clean = in_memory()
    assert noisy(clean, 'instance:.5').noise.flipped.any()
    x = [torch.randn(n, 2) for n in (20, 12)]
    plain = pairs(DataLoader)
    assert noisy(plain, 'instance:.5', inputs=x).noise.flipped.any()
    with pytest.raises(ValueError, match='needs the inputs'): noisy(plain, 'instance:.5')
    with pytest.raises(ValueError, match='12 rows, but there are 20'): noisy(plain, 'instance:.5', inputs=x[::-1])


def test_number_of_classes():
    assert noisy(pairs(DataLoader), .5, n_classes=7).noise.n_classes == 7
    assert noisy(lists(), .5).noise.n_classes == 3


def test_predict_test_dl_and_export(folder, tmp_path):
    dls = noisy(folders(folder), .5)
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(9*8*3, 3)), loss_func=CrossEntropyLossFlat())
    image = get_image_files(folder/'a')[0]
    assert learn.predict(image)[0] in 'abc'
    assert [int(y) for _, y in dls.test_dl([image]*2, with_labels=True).dataset] == [0, 0]
    assert isinstance(dls.train_ds[[0, 1]][0][0], PILImage) and [int(y) for _, y in dls.train_ds[[0, 1]]] == dls.noise.given[:2].tolist()
    with learn.no_bar(): learn.fit(1)
    preds, targets = learn.get_preds(ds_idx=0)
    assert targets.tolist() == dls.noise.given.tolist()
    learn.export(tmp_path/'l.pkl')
    loaded = load_learner(tmp_path/'l.pkl')
    assert loaded.predict(image)[0] == learn.predict(image)[0] and type(loaded.dls.train_ds.tls[1]) is GivenTargets and len(loaded.dls.train_ds) == 0


def test_wrapper_hands_on_the_rest():
    class Data(list): vocab = ['u', 'v']
    data = GivenDataset(Data([(1., 0), (2., 1)]), torch.tensor([1, 0]))
    assert data.vocab == ['u', 'v'] and data[1] == (2., 0) and type(data[1][1]) is int and len(data) == 2
    data = GivenDataset([[1., np.int8(0)]], torch.tensor([1]))
    assert data[0] == (1., 1) and type(data[0][1]) is np.int8


def block(y, **kwargs): return DataBlock((ImageBlock, y), get_items=get_image_files, splitter=RandomSplitter(seed=0), **kwargs)

def tensors(*ts): return DataLoaders(*[DataLoader(torch.utils.data.TensorDataset(*ts), bs=2) for _ in range(2)])

@pytest.mark.parametrize('make, error, words', [
    (lambda f: tensors(torch.randn(8, 3), torch.randn(8)), TypeError, 'training targets are float32.*neither regression'),
    (lambda f: tensors(torch.randn(8, 3), torch.zeros(8, 2).long()), TypeError, r'of the shape \(2,\)'),
    (lambda f: tensors(torch.randn(8)), ValueError, 'class id last'),
    (lambda f: DataLoaders(*[DataLoader([{'x': 1, 'y': 0}]*4, bs=2)]*2), ValueError, 'items are dict'),
    (lambda f: DataLoaders(*[DataLoader(iter(range(8)), bs=2)]*2), TypeError, 'iterable'),
    (lambda f: table(y_names='a'), TypeError, 'neither regression'),
    (lambda f: table(y_names=['t', 'u']), ValueError, '2 target columns'),
    (lambda f: block(RegressionBlock, get_y=lambda o: .5).dataloaders(f, bs=4, num_workers=0), TypeError, 'neither regression'),
    (lambda f: block(MultiCategoryBlock, get_y=lambda o: [parent_label(o)]).dataloaders(f, bs=4, num_workers=0), TypeError, 'several labels'),
    (lambda f: DataBlock((ImageBlock, CategoryBlock, CategoryBlock), n_inp=1, get_items=get_image_files, get_y=[parent_label]*2).dataloaders(f, bs=4, num_workers=0),
     ValueError, 'samples have 2 targets'),
    (lambda f: noisy(in_memory(), .5), ValueError, 'noisy already'), (lambda f: in_memory(noise=.5), ValueError, 'noisy already'),
])
def test_errors(make, error, words, folder):
    with pytest.raises(error, match=words): noisy(make(folder), .5)


def test_no_noise_is_an_error():
    with pytest.raises(ValueError, match='noise=None'): noisy(in_memory(), None)
    with pytest.raises(ValueError, match='none of symmetric'): noisy(in_memory(), 'sym:.4')


class Pictures:
    "An opened picture, an array or a tensor, and a class"
    def __init__(self, kind): self.images, self.kind = np.random.default_rng(0).integers(1, 256, (20, 6, 8, 3), dtype=np.uint8), kind
    def __len__(self): return 20
    def __getitem__(self, i): return self.kind(self.images[i]), i % 3


@pytest.mark.parametrize('kind', [np.asarray, torch.from_numpy, Image.fromarray, PILImage.create])
def test_inputs_of_a_plain_data_set(kind):
    data = Pictures(kind)
    dls = noisy_inputs(DataLoaders(DataLoader(data, bs=4), DataLoader(data, bs=4)), CovariateShift(.5), 3)
    expected = CovariateShift(.5)(data.images, 3)
    assert dls.changed_inputs.equal(expected.changed) and dls.valid_ds is data and len(dls.train_ds) == 20
    for _ in range(2):
        for i in (7, 3, *range(20)):
            x, y = dls.train_ds[i]
            assert type(x) is type(data[i][0]) and y == i % 3 and (np.asarray(x) == expected.images[i]).all()


@pytest.mark.parametrize('workers', [0, 2])
def test_inputs_of_folders(folder, workers):
    clean = folders(folder, workers, shuffle=False)
    dls = noisy_inputs(noisy(clean, .5), CropShift(.5, 2), 1)
    images = np.stack([np.asarray(x) for x, _ in clean.train_ds])
    expected = CropShift(.5, 2)(images, 1)
    assert 0 < expected.changed.sum() < len(images) and 'changed_inputs' not in vars(clean)
    dl = with_sample_ids(dls.train)
    for x, y in dl:
        assert (x.permute(0, 2, 3, 1)*255 - torch.from_numpy(expected.images[dl.sample_ids])).abs().max() < 1e-3
        assert y.tolist() == dls.noise.given[dl.sample_ids].tolist()
    assert [np.asarray(x).tolist() for x, _ in dls.train_ds[[1, 0]]] == expected.images[[1, 0]].tolist()
    assert (np.stack([np.asarray(x) for x, _ in clean.train_ds]) == images).all()
    assert len(dls.new_empty().train_ds) == 0 and isinstance(dls.train_ds.tls[0], ChangedInputs)


def test_inputs_of_arrays():
    clean = in_memory()
    before = clean.train_ds.items.images.copy()
    dls = noisy(noisy_inputs(clean, CropShift(.5, 2), 1), .5)
    assert (dls.train_ds.items.images == CropShift(.5, 2)(before, 1).images).all() and (clean.train_ds.items.images == before).all()
    assert dls.valid_ds.items.images is clean.valid_ds.items.images
    assert not noisy_inputs(clean, CropShift(0)).changed_inputs.any()


def test_inputs_that_are_no_images():
    with pytest.raises(TypeError, match='TabularPandas has no images'): noisy_inputs(table(), CropShift(.5))
    with pytest.raises(TypeError, match='has no images'): noisy_inputs(series(), CropShift(.5))
    with pytest.raises(TypeError, match='float32 of the shape'): noisy_inputs(pairs(DataLoader), CropShift(1)).train_ds[0]
    with pytest.raises(TypeError, match='iterable'): noisy_inputs(DataLoaders(*[DataLoader(iter(range(8)), bs=2)]*2), CropShift(1))

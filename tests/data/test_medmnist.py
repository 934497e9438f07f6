"MedMNIST from small files in the real format. The network is never asked: where a download is due, it fails here."
from pathlib import Path
from urllib.error import URLError

import fastai.callback.schedule  # adds fine_tune
import medmnist
import numpy as np
import pytest
import timm
import torch
import torchvision
from fastai.callback.progress import ProgressCallback
from fastai.callback.tracker import TerminateOnNaNCallback
from fastai.data.transforms import Normalize
from fastai.metrics import accuracy, error_rate
from fastai.vision.augment import Flip
from huggingface_hub.errors import LocalEntryNotFoundError

from fastnoisy.data.medmnist import medmnist_dls, medmnist_learner, medmnist_names, medmnist_splits
from fastnoisy.noise.label_noise import SymmetricNoise

SIZES = dict(train=40, val=20, test=12)


@pytest.fixture(autouse=True)
def no_download(monkeypatch):
    "Downloads are tried, noted and fail"
    asked = []
    def download_url(url, root, filename, md5):
        asked.append((url, str(root), filename))
        (Path(root)/filename).write_bytes(b'half a file')
        raise URLError('no network in tests')
    monkeypatch.setattr('torchvision.datasets.utils.download_url', download_url)
    return asked


def write(root, name='bloodmnist', size=28, file_size=None, **changes):
    "Writes a file as MedMNIST has them, with other arrays where `changes` says so; returns its arrays"
    info, suffix, rng = medmnist.INFO[name], '' if size == 28 else f'_{size}', np.random.default_rng(0)
    shape, arrays = (file_size or size,)*2 + ((3,) if info['n_channels'] == 3 else ()), {}
    for split, n in SIZES.items():
        arrays[f'{split}_images'] = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
        arrays[f'{split}_labels'] = (np.arange(n) % len(info['label'])).astype(np.uint8)[:, None]
    np.savez_compressed(root/f'{name}{suffix}.npz', **{k: v for k, v in (arrays | changes).items() if v is not None})
    return arrays


@pytest.mark.parametrize('name', medmnist_names())
def test_splits_are_those_of_the_file(name, tmp_path):
    arrays = write(tmp_path, name)
    *splits, names = medmnist_splits(name, root=tmp_path)
    for (images, labels), split in zip(splits, SIZES, strict=True):
        assert (images == arrays[f'{split}_images']).all() and labels.tolist() == arrays[f'{split}_labels'][:, 0].tolist()
        assert labels.shape == (SIZES[split],)
    dataset = getattr(medmnist, medmnist.INFO[name]['python_class'])('val', root=str(tmp_path))
    assert [names[i] for i in splits[1][1]] == [medmnist.INFO[name]['label'][str(dataset[i][1][0])] for i in range(20)]


def test_classes_beyond_nine_keep_their_order(tmp_path):
    write(tmp_path, 'organamnist')
    vocab = list(medmnist_dls('organamnist', root=tmp_path, bs=8).vocab)
    assert len(vocab) == 11 and vocab[2] == medmnist.INFO['organamnist']['label']['2'] and vocab[10] == medmnist.INFO['organamnist']['label']['10']


@pytest.mark.parametrize('size', [28, 64, 128, 224])
def test_sizes(size, tmp_path, no_download):
    write(tmp_path, 'breastmnist', size)
    dls = medmnist_dls('breastmnist', size=size, root=tmp_path, bs=4)
    assert dls.one_batch()[0].shape == (4, 3, size, size) and list(dls.vocab) == ['malignant', 'normal, benign']
    assert medmnist_dls('breastmnist', size=size, root=str(tmp_path), rgb=False, bs=4, val_bs=5).test.one_batch()[0].shape == (5, 1, size, size)
    assert not no_download


def test_noise_is_on_train_and_valid_only(tmp_path):
    arrays = write(tmp_path)
    dls = medmnist_dls('bloodmnist', noise=SymmetricNoise(.4), seed=5, root=tmp_path, bs=8, device='cpu')
    generator = torch.Generator().manual_seed(5)
    expected = [SymmetricNoise(.4)(arrays[f'{o}_labels'][:, 0], 8, generator=generator).given for o in ('train', 'val')]
    assert dls.noise.given.equal(expected[0]) and dls.valid_noise.given.equal(expected[1])
    assert torch.cat([y for _, y in dls.test]).tolist() == arrays['test_labels'][:, 0].tolist()
    assert dls.noise.n_classes == dls.c == 8
    assert medmnist_dls('bloodmnist', root=tmp_path, bs=8).noise is None


@pytest.mark.parametrize('name, words', [
    ('chestmnist', 'multi-label'),
    ('organmnist3d', 'volumes'),
    ('BloodMNIST', "did you mean 'bloodmnist'"),
    ('bloodmnst', "did you mean 'bloodmnist'"),
    ('zzz', "called 'zzz' Names: pathmnist, dermamnist"),
    (7, 'called 7'),
])
def test_names(name, words, tmp_path):
    for f in (medmnist_dls, medmnist_learner):
        with pytest.raises(ValueError, match=words) as e: f(name, root=tmp_path)
    assert 'chestmnist,' not in str(e.value) and 'breastmnist' in str(e.value)


def test_missing_file_without_network(tmp_path, no_download):
    root = tmp_path/'new'/'folder'
    with pytest.raises(FileNotFoundError, match='could not be downloaded') as e: medmnist_dls('bloodmnist', size=64, root=root)
    url = medmnist.INFO['bloodmnist']['url_64']
    assert all(o in str(e.value) for o in ('bloodmnist_64.npz', str(root), url))
    assert no_download == [(url, str(root), 'bloodmnist_64.npz')]
    assert root.exists() and not list(root.iterdir())       # nothing half done is left


def test_missing_file_and_no_download_wanted(tmp_path, no_download):
    root = tmp_path/'new'
    with pytest.raises(FileNotFoundError, match='allow it: download=True') as e: medmnist_dls('bloodmnist', root=root, download=False)
    assert all(o in str(e.value) for o in ('bloodmnist.npz', str(root), medmnist.INFO['bloodmnist']['url']))
    with pytest.raises(FileNotFoundError, match='allow it: download=True'): medmnist_learner('bloodmnist', root=root, download=False)
    assert not no_download and not root.exists()


def test_download_goes_through_medmnist(tmp_path, monkeypatch):
    def download_url(url, root, filename, md5):
        assert (url, filename, md5) == (medmnist.INFO['bloodmnist']['url'], 'bloodmnist.npz', medmnist.INFO['bloodmnist']['MD5'])
        write(tmp_path)
    monkeypatch.setattr('torchvision.datasets.utils.download_url', download_url)
    assert len(medmnist_dls('bloodmnist', root=tmp_path, bs=8).train_ds) == 40


def test_default_root(tmp_path, monkeypatch):
    monkeypatch.setattr(medmnist.info, 'DEFAULT_ROOT', str(tmp_path))
    write(tmp_path)
    assert len(medmnist_dls('bloodmnist', bs=8).train_ds) == 40
    monkeypatch.setattr(medmnist.info, 'DEFAULT_ROOT', None)
    monkeypatch.setenv('HOME', str(tmp_path/'home'))
    with pytest.raises(FileNotFoundError, match=r'home/\.medmnist'): medmnist_dls('bloodmnist', download=False)


def test_damaged_files(tmp_path):
    file = tmp_path/'bloodmnist.npz'
    write(tmp_path)
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[2000:2200] = bytes(200)                                     # a wrong check sum
    write(tmp_path, train_images=np.zeros((40, 28, 28, 3), np.uint8))   # compressed to a stream that then makes no sense
    deflated = bytearray(file.read_bytes())
    deflated[80:160] = b'\xff'*80
    for content in (whole[:3000], b'', b'<html>not found</html>', bytes(flipped), bytes(deflated)):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r'bloodmnist\.npz is damaged or no MedMNIST file.*delete it'): medmnist_dls('bloodmnist', root=tmp_path)
    with file.open('wb') as f: np.save(f, np.zeros(3))
    with pytest.raises(ValueError, match='damaged'): medmnist_dls('bloodmnist', root=tmp_path)
    write(tmp_path, val_labels=None)
    with pytest.raises(ValueError, match='damaged.*val_labels'): medmnist_dls('bloodmnist', root=tmp_path)


def test_files_of_something_else(tmp_path):
    write(tmp_path, size=64, file_size=28)
    with pytest.raises(ValueError, match='28x28 pixels, not 64x64'): medmnist_dls('bloodmnist', size=64, root=tmp_path)
    write(tmp_path, train_labels=np.full((40, 1), 8, np.uint8))
    with pytest.raises(ValueError, match='train labels.* is 8, outside 0..7'): medmnist_dls('bloodmnist', root=tmp_path)
    write(tmp_path, test_labels=np.zeros((12, 14), np.uint8))
    with pytest.raises(ValueError, match='test labels must have the shape'): medmnist_dls('bloodmnist', root=tmp_path)
    with pytest.raises(ValueError, match='size=32: MedMNIST has the sizes'): medmnist_dls('bloodmnist', size=32, root=tmp_path)
    write(tmp_path)
    with pytest.raises(TypeError, match='nonsense'): medmnist_dls('bloodmnist', root=tmp_path, nonsense=1)


def quiet(learn): return learn.remove_cbs(ProgressCallback)


@pytest.mark.parametrize('name, rgb, channels', [('breastmnist', True, 3), ('breastmnist', False, 1), ('bloodmnist', False, 3)])
@pytest.mark.parametrize('arch', ['test_resnet', torchvision.models.squeezenet1_1])
def test_learner(arch, name, rgb, channels, tmp_path):
    write(tmp_path, name, 64)
    learn = quiet(medmnist_learner(name, arch, noise=.4, size=64, bs=8, root=tmp_path, rgb=rgb, pretrained=False, path=tmp_path))
    assert next(m for m in learn.model.modules() if isinstance(m, torch.nn.Conv2d)).in_channels == channels == learn.dls.n_channels
    learn.fit(1)
    assert len(learn.recorder.values[0]) == 3 and learn.metrics[0].name == 'accuracy'
    assert learn.get_preds(dl=learn.dls.test)[0].shape == (12, learn.dls.c)


def test_learner_options(tmp_path):
    write(tmp_path, size=64)
    flip = Flip()
    learn = medmnist_learner('bloodmnist', 'test_resnet', noise=.4, size=64, bs=8, seed=3, root=tmp_path, download=False, batch_tfms=flip, pretrained=False,
                             metrics=error_rate, cbs=TerminateOnNaNCallback(), lr=.5, wd=.25, path=tmp_path)
    assert learn.lr == .5 and learn.wd == .25 and learn.path == tmp_path and learn.metrics[0].name == 'error_rate'
    assert any(isinstance(cb, TerminateOnNaNCallback) for cb in learn.cbs)
    assert flip in learn.dls.train.after_batch.fs and learn.dls.train.bs == 8
    assert learn.dls.noise.given.equal(medmnist_dls('bloodmnist', .4, 64, 8, 3, tmp_path).noise.given)
    with pytest.raises(TypeError, match='nonsense'): medmnist_learner('bloodmnist', 'test_resnet', size=64, bs=8, root=tmp_path, pretrained=False, nonsense=1)


def test_pretrained_weights_of_timm_from_a_file(tmp_path):
    write(tmp_path, size=64)
    weights = timm.create_model('test_resnet').state_dict()
    torch.save(weights, tmp_path/'weights.pth')
    learn = quiet(medmnist_learner('bloodmnist', 'test_resnet', size=64, bs=8, root=tmp_path, pretrained_cfg_overlay=dict(file=str(tmp_path/'weights.pth'))))
    assert learn.model[0].model.state_dict()['layer1.0.conv1.weight'].equal(weights['layer1.0.conv1.weight'])
    assert [sum(isinstance(f, Normalize) for f in dl.after_batch.fs) for dl in learn.dls.loaders] == [1, 1, 1]
    before = learn.model[0].model.layer1[0].conv1.weight.clone()
    learn.fine_tune(1)
    assert not learn.model[0].model.layer1[0].conv1.weight.equal(before)


def test_pretrained_weights_of_torchvision_in_the_folder_the_error_names(tmp_path, monkeypatch):
    write(tmp_path, size=64)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    def download_url_to_file(*args, **kwargs): raise URLError('no network in tests')
    monkeypatch.setattr('torch.hub.download_url_to_file', download_url_to_file)
    def make(): return medmnist_learner('bloodmnist', torchvision.models.squeezenet1_1, size=64, bs=8, root=tmp_path)
    with pytest.raises(OSError, match='weights of squeezenet1_1.*pretrained=False') as e: make()
    folder = tmp_path/'hub'/'checkpoints'
    assert str(folder) in str(e.value)
    weights = torchvision.models.squeezenet1_1().state_dict()
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(weights, folder/'squeezenet1_1-b8a52dc0.pth')
    assert make().model[0][0][0].weight.equal(weights['features.0.weight'])


def test_pretrained_weights_of_timm_without_network(tmp_path, monkeypatch):
    def hf_hub_download(*args, **kwargs): raise LocalEntryNotFoundError('no network in tests')
    monkeypatch.setattr('timm.models._hub.hf_hub_download', hf_hub_download)
    write(tmp_path, size=64)
    with pytest.raises(OSError, match=r'no network in tests.*pretrained=False.*Hugging Face cache.*pretrained_cfg_overlay'):
        medmnist_learner('bloodmnist', 'resnet18', size=64, bs=8, root=tmp_path)


def test_errors_that_are_not_about_weights_pass(tmp_path):
    def broken(pretrained=False): raise OSError('disk full')
    write(tmp_path)
    with pytest.raises(OSError, match='^disk full$'): medmnist_learner('bloodmnist', broken, bs=8, root=tmp_path, pretrained=False)
    with pytest.raises(ValueError, match="no model called 'resnet81'; near: .*resnet.*a timm model, or a torchvision constructor as function"): medmnist_learner('bloodmnist', 'resnet81', root=tmp_path)
    with pytest.raises(ValueError, match="no model called '@@@'. Give"): medmnist_learner('bloodmnist', '@@@', root=tmp_path)

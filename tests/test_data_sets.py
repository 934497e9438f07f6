"Data sets by name: the real file formats, what is told when a file is missing, and the table"
import gzip, pickle
import numpy as np, pytest, torch
from fastai.torch_core import TensorImage
from fastnoisy.data.sets import (CIFAR10_STATS, DATASETS, cifar10_arrays, cifar10_dls, fashion10k_dls, fashion_mnist_arrays, register_dataset, split_valid)

@pytest.fixture(autouse=True)
def no_memory():
    yield
    cifar10_arrays.cache_clear()
    fashion_mnist_arrays.cache_clear()

RNG = np.random.default_rng(0)

def write_idx(file, array, pack):
    data = bytes([0, 0, 8, array.ndim]) + b''.join(n.to_bytes(4, 'big') for n in array.shape) + array.tobytes()
    file.write_bytes(gzip.compress(data) if pack else data)

@pytest.fixture(scope='module')
def fashion(): return [RNG.integers(0, 256, (40, 28, 28), dtype=np.uint8), np.arange(40, dtype=np.uint8) % 10, RNG.integers(0, 256, (20, 28, 28), dtype=np.uint8), np.arange(20, dtype=np.uint8) % 10]

def same(a, b): return all((x == y).all() and x.shape == y.shape for x,y in zip(a, b, strict=True))

@pytest.mark.parametrize('folder', ['.', 'FashionMNIST/raw'])
@pytest.mark.parametrize('pack', [True, False])
def test_fashion_mnist_idx(tmp_path, fashion, folder, pack):
    (tmp_path/folder).mkdir(parents=True, exist_ok=True)
    for name,a in zip(('train-images-idx3', 'train-labels-idx1', 't10k-images-idx3', 't10k-labels-idx1'), fashion):
        write_idx(tmp_path/folder/f'{name}-ubyte{".gz" if pack else ""}', a, pack)
    assert same(fashion_mnist_arrays(str(tmp_path)), fashion)

@pytest.mark.parametrize('root', ['', 'fashion_mnist.npz'])
def test_fashion_mnist_npz(tmp_path, fashion, root):
    np.savez(tmp_path/'fashion_mnist.npz', **dict(zip(('train_images', 'train_labels', 'test_images', 'test_labels'), fashion)))
    assert same(fashion_mnist_arrays(str(tmp_path/root)), fashion)
    dls = fashion10k_dls(bs=8, root=tmp_path/root)
    assert [len(o.dataset) for o in dls.loaders] == [34, 6, 20] and dls.n_channels == 1 and next(iter(dls.test))[1].tolist() == fashion[3].tolist()

def write_cifar(folder, python, n=4):
    "Six small files in the real format: their rows"
    folder.mkdir()
    parts = {}
    for name in [*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch']:
        labels,pixels = RNG.integers(0, 10, n),RNG.integers(0, 256, (n, 3072), dtype=np.uint8)
        parts[name] = labels,pixels
        if python: (folder/name).write_bytes(pickle.dumps({b'batch_label': b'x', b'labels': labels.tolist(), b'data': pixels}))
        else: np.concatenate([labels[:,None].astype(np.uint8), pixels], 1).tofile(folder/f'{name}.bin')
    (folder/('batches.meta' if python else 'batches.meta.txt')).write_bytes(b'')
    return parts

@pytest.mark.parametrize('python', [True, False])
@pytest.mark.parametrize('inside', [True, False])
def test_cifar10(tmp_path, python, inside):
    folder = tmp_path/f'cifar-10-batches-{"py" if python else "bin"}'
    parts = write_cifar(folder, python)
    x,y,test_x,test_y = cifar10_arrays(str(folder if inside else tmp_path))
    assert x.shape == (20, 32, 32, 3) and test_x.shape == (4, 32, 32, 3)
    assert y.tolist() == [o for i in range(1, 6) for o in parts[f'data_batch_{i}'][0]] and test_y.tolist() == parts['test_batch'][0].tolist()
    pixels = parts['data_batch_2'][1][1]
    for row,column,channel in ((0, 0, 0), (3, 7, 1), (31, 30, 2)): assert x[5, row, column, channel] == pixels[channel*1024 + row*32 + column]

def test_cifar10_dls_is_normalised_and_split(tmp_path):
    write_cifar(tmp_path/'cifar-10-batches-bin', False, 8)
    dls = cifar10_dls(bs=4, root=tmp_path)
    assert [len(o.dataset) for o in dls.loaders] == [34, 6, 8] and dls.vocab[9] == 'truck'
    xb,_ = next(iter(dls.test))
    x = torch.from_numpy(cifar10_arrays(str(tmp_path))[2]).permute(0, 3, 1, 2).float()/255
    mean,std = (torch.tensor(o)[:,None,None] for o in CIFAR10_STATS)
    assert torch.allclose(xb.cpu().as_subclass(torch.Tensor), (x - mean)/std, atol=1e-5)
    assert len(cifar10_dls(bs=4, root=tmp_path, n=20).train.dataset) == 17

@pytest.mark.parametrize('f, says', [(fashion_mnist_arrays, 'Put there fashion_mnist.npz.*train-images-idx3-ubyte.gz.*--root.*--download'),
                                     (cifar10_arrays, 'Unpack there cifar-10-python.tar.gz.*cifar-10-batches-bin.*--root.*--download')])
def test_missing_files(f, says, tmp_path):
    with pytest.raises(FileNotFoundError, match=says): f(str(tmp_path))

@pytest.mark.parametrize('f, name', [(fashion_mnist_arrays, 'FashionMNIST'), (cifar10_arrays, 'CIFAR10')])
def test_download_is_torchvisions(f, name, tmp_path, monkeypatch, fashion):
    import torchvision.datasets
    def download(root, download):
        assert download
        if name == 'CIFAR10': return write_cifar(root/'cifar-10-batches-py', True)
        np.savez(root/'fashion_mnist.npz', **dict(zip(('train_images', 'train_labels', 'test_images', 'test_labels'), fashion)))
    monkeypatch.setattr(torchvision.datasets, name, download)
    assert len(f(str(tmp_path), True)) == 4

def test_split_valid():
    x,y = np.arange(200, dtype=np.uint8).reshape(50, 2, 2),np.arange(50)
    (a,ya),(b,yb) = split_valid(x, y)
    assert len(yb) == 8 and sorted([*ya, *yb]) == list(range(50)) and (a == x[ya]).all() and (b == x[yb]).all()
    assert (split_valid(x, y)[1][1] == yb).all() and set(split_valid(x, y, seed=1)[1][1]) != set(yb)
    n = len(split_valid(np.zeros((50_000, 1, 1), np.uint8), np.zeros(50_000))[0][1])
    assert n == 42_500

def test_the_table():
    assert {'digits', 'fashion10k', 'cifar10', 'cifar10k'} <= set(DATASETS) and DATASETS['cifar10'].class_map == 'cifar10'
    assert DATASETS['digits'].make(bs=16).train.bs == 16

def test_register_dataset():
    try:
        register_dataset('mine', lambda bs=1: bs, 'a summary', class_map={0: 1}, needs='time')
        o = DATASETS['mine']
        assert (o.make(), o.summary, o.arch, o.class_map, o.needs) == (1, 'a summary', 'small_cnn', {0: 1}, 'time')
    finally: DATASETS.pop('mine', None)

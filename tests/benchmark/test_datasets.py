"Data sets by name: the real file formats, what is told when a file is missing, and the table"
import gzip, pickle
import numpy as np, pytest, torch
from fastai.torch_core import TensorImage
from fastnoisy.data.medmnist import medmnist_names
from helpers import RNG, write_cifar, write_human_labels
from fastnoisy.benchmark.variants import add_noise
from fastnoisy.benchmark.datasets import (CIFAR10_STATS, DATASETS, cifar_arrays, cifar_dls, mnist_arrays, mnist_dls,
                                          register_dataset, split_valid)

@pytest.fixture(autouse=True)
def no_memory():
    yield
    cifar_arrays.cache_clear()
    mnist_arrays.cache_clear()



def write_idx(file, array, pack):
    data = bytes([0, 0, 8, array.ndim]) + b''.join(n.to_bytes(4, 'big') for n in array.shape) + array.tobytes()
    file.write_bytes(gzip.compress(data) if pack else data)

@pytest.fixture(scope='module')
def fashion(): return [RNG.integers(0, 256, (40, 28, 28), dtype=np.uint8), np.arange(40, dtype=np.uint8) % 10, RNG.integers(0, 256, (20, 28, 28), dtype=np.uint8), np.arange(20, dtype=np.uint8) % 10]

def same(a, b): return all((x == y).all() and x.shape == y.shape for x,y in zip(a, b, strict=True))

@pytest.mark.parametrize('name', ['MNIST', 'FashionMNIST'])
@pytest.mark.parametrize('folder', ['.', '{}/raw'])
@pytest.mark.parametrize('pack', [True, False])
def test_idx(tmp_path, fashion, name, folder, pack):
    folder = folder.format(name)
    (tmp_path/folder).mkdir(parents=True, exist_ok=True)
    for part,a in zip(('train-images-idx3', 'train-labels-idx1', 't10k-images-idx3', 't10k-labels-idx1'), fashion):
        write_idx(tmp_path/folder/f'{part}-ubyte{".gz" if pack else ""}', a, pack)
    assert same(mnist_arrays(name, str(tmp_path)), fashion)
    if folder != '.': # the other set is not taken for it
        with pytest.raises(FileNotFoundError): mnist_arrays({'MNIST': 'FashionMNIST', 'FashionMNIST': 'MNIST'}[name], str(tmp_path))

@pytest.mark.parametrize('root', ['', 'fashion_mnist.npz'])
def test_fashion_mnist_npz(tmp_path, fashion, root):
    np.savez(tmp_path/'fashion_mnist.npz', **dict(zip(('train_images', 'train_labels', 'test_images', 'test_labels'), fashion)))
    assert same(mnist_arrays('FashionMNIST', str(tmp_path/root)), fashion)
    dls = mnist_dls('FashionMNIST', bs=8, root=tmp_path/root)
    assert [len(o.dataset) for o in dls.loaders] == [34, 6, 20] and dls.n_channels == 1 and next(iter(dls.test))[1].tolist() == fashion[3].tolist()

@pytest.mark.parametrize('python', [True, False])
@pytest.mark.parametrize('inside', [True, False])
def test_cifar10(tmp_path, python, inside):
    folder = tmp_path/f'cifar-10-batches-{"py" if python else "bin"}'
    parts = write_cifar(folder, python)
    x,y,test_x,test_y = cifar_arrays(10, str(folder if inside else tmp_path))
    assert x.shape == (20, 32, 32, 3) and test_x.shape == (4, 32, 32, 3)
    assert y.tolist() == [o for i in range(1, 6) for o in parts[f'data_batch_{i}'][0]] and test_y.tolist() == parts['test_batch'][0].tolist()
    pixels = parts['data_batch_2'][1][1]
    for row,column,channel in ((0, 0, 0), (3, 7, 1), (31, 30, 2)): assert x[5, row, column, channel] == pixels[channel*1024 + row*32 + column]

def test_cifar10_dls_is_normalised_and_split(tmp_path):
    write_cifar(tmp_path/'cifar-10-batches-bin', False, 8)
    dls = cifar_dls(bs=4, root=tmp_path)
    assert [len(o.dataset) for o in dls.loaders] == [34, 6, 8] and dls.vocab[9] == 'truck'
    xb,_ = next(iter(dls.test))
    x = torch.from_numpy(cifar_arrays(10, str(tmp_path))[2]).permute(0, 3, 1, 2).float()/255
    mean,std = (torch.tensor(o)[:,None,None] for o in CIFAR10_STATS)
    assert torch.allclose(xb.cpu().as_subclass(torch.Tensor), (x - mean)/std, atol=1e-5)
    assert len(cifar_dls(bs=4, root=tmp_path, n=20).train.dataset) == 17

def test_cifar_with_the_labels_of_people(tmp_path):
    "Each sample has the label of its own row; the validation labels too, if they are asked for"
    parts = write_cifar(tmp_path/'cifar-10-batches-bin', False, 8)
    columns = write_human_labels(tmp_path, parts)
    dls = cifar_dls(bs=4, root=tmp_path)
    x = np.concatenate([x for name,(_,x) in parts.items() if name != 'test_batch'])
    def rows(dl): # of the archive, found by their pixels
        images = dl.dataset.items.images.transpose(0, 3, 1, 2).reshape(len(dl.dataset), -1)
        return [int((x == o).all(1).nonzero()[0][0]) for o in images]
    new,clean = (add_noise(dls, 'human:worse_label', seed=0, valid=o) for o in (True, False))
    for i in range(2):
        right,given = (columns[o][rows(dls.loaders[i])] for o in ('clean_label', 'worse_label'))
        assert (new.loaders[i].dataset.items.labels == given).all() and (right != given).any()
        assert (clean.loaders[i].dataset.items.labels == (right if i else given)).all()
    assert new.noise.actual_rate == (columns['worse_label'] != columns['clean_label'])[rows(dls.train)].mean()
    inside = cifar_dls(bs=4, root=tmp_path/'cifar-10-batches-bin') # the file lies beside the folder
    assert (add_noise(inside, 'human:worse_label', seed=1).noise.given == new.noise.given).all()

def test_labels_of_people_that_are_not_there(tmp_path):
    parts = write_cifar(tmp_path/'cifar-10-batches-bin', False, 8)
    with pytest.raises(FileNotFoundError, match='CIFAR-10_human.pt is not in .* Put it there'):
        add_noise(cifar_dls(bs=4, root=tmp_path), 'human:worse_label', seed=0)
    write_human_labels(tmp_path, parts)
    with pytest.raises(ValueError, match="columns .*aggre_label.*got 'best'"):
        add_noise(cifar_dls(bs=4, root=tmp_path), 'human:best', seed=0)
    with pytest.raises(ValueError, match='nobody labelled this data set anew'):
        add_noise(DATASETS['digits'].make(), 'human:worse_label', seed=0)
    write_human_labels(tmp_path, {k: (v[0][::-1], v[1]) for k,v in parts.items()})
    with pytest.raises(ValueError, match='order is that of the original archives'):
        add_noise(cifar_dls(bs=4, root=tmp_path), 'human:worse_label', seed=0)

@pytest.mark.parametrize('python', [True, False])
def test_cifar100_has_the_fine_classes(tmp_path, python):
    folder = tmp_path/f'cifar-100-{"python" if python else "binary"}'
    folder.mkdir()
    fine,pixels = np.arange(90, 100),RNG.integers(0, 256, (10, 3072), dtype=np.uint8)
    for name in ('train', 'test'):
        if python: (folder/name).write_bytes(pickle.dumps({b'coarse_labels': [3]*10, b'fine_labels': fine.tolist(), b'data': pixels}))
        else: np.concatenate([np.full((10, 1), 3, np.uint8), fine[:,None].astype(np.uint8), pixels], 1).tofile(folder/f'{name}.bin')
    (folder/('meta' if python else 'fine_label_names.txt')).write_bytes(b'')
    x,y,test_x,test_y = cifar_arrays(100, str(tmp_path))
    assert y.tolist() == test_y.tolist() == fine.tolist() and x[2,0,1,1] == test_x[2,0,1,1] == pixels[2, 1024 + 1]
    dls = DATASETS['cifar100'].make(bs=4, root=tmp_path)
    assert dls.c == 100 and [len(o.dataset) for o in dls.loaders] == [8, 2, 10]
    with pytest.raises(FileNotFoundError, match='CIFAR-10 is not in'): cifar_arrays(10, str(tmp_path))

FASHION,CIFAR10,CIFAR100 = ('FashionMNIST', mnist_arrays),(10, cifar_arrays),(100, cifar_arrays)

@pytest.mark.parametrize('f, says', [(FASHION, 'Put there fashion_mnist.npz.*train-images-idx3-ubyte.gz.*--root.*--download'),
                                     (CIFAR100, 'Unpack there cifar-100-python.tar.gz.*cifar-100-binary'),
                                     (CIFAR10, 'Unpack there cifar-10-python.tar.gz.*cifar-10-batches-bin.*--root.*--download')])
def test_missing_files(f, says, tmp_path):
    with pytest.raises(FileNotFoundError, match=says): f[1](f[0], str(tmp_path))

@pytest.mark.parametrize('f, name', [(FASHION, 'FashionMNIST'), (CIFAR10, 'CIFAR10')])
def test_download_is_torchvisions(f, name, tmp_path, monkeypatch, fashion):
    import torchvision.datasets
    def download(root, download):
        assert download
        if name == 'CIFAR10': return write_cifar(root/'cifar-10-batches-py', True)
        np.savez(root/'fashion_mnist.npz', **dict(zip(('train_images', 'train_labels', 'test_images', 'test_labels'), fashion)))
    monkeypatch.setattr(torchvision.datasets, name, download)
    assert len(f[1](f[0], str(tmp_path), True)) == 4

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
    assert set(medmnist_names()) - set(DATASETS) == {'retinamnist'} # its classes have an order

def test_share_of_the_digits_to_validate_on():
    dls = DATASETS['digits'].make(valid_share=.3)
    assert [len(o.dataset) for o in dls.loaders] == [943, 404, 450] and (dls.test.dataset.items.labels == DATASETS['digits'].make().test.dataset.items.labels).all()

def test_register_dataset():
    try:
        register_dataset('mine', lambda bs=1: bs, 'a summary', class_map={0: 1}, needs='time')
        o = DATASETS['mine']
        assert (o.make(), o.summary, o.arch, o.class_map, o.needs) == (1, 'a summary', 'small_cnn', {0: 1}, 'time')
    finally: DATASETS.pop('mine', None)

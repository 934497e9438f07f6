"Small networks, and networks by name: shapes and parameters by hand, near names for wrong ones, tsai or medmnist missing or broken."
import subprocess, sys
from types import SimpleNamespace
import pytest, torch
from torch import nn
from fastnoisy.cli import main
from fastnoisy.models import (ARCHS, StackedLSTM, check_arch, import_tsai, model_maker, series_arch, small_cnn,
                              small_series_cnn, weights_place)
from readme import root

@pytest.mark.parametrize('n_in, n_out, size', [(1, 10, 8), (3, 8, 28), (3, 2, 32)])
def test_small_cnn(n_in, n_out, size):
    model = small_cnn(n_in, n_out)
    assert isinstance(model[-1], nn.Linear) and model(torch.randn(4, n_in, size, size)).shape == (4, n_out)
    kinds = {type(m) for m in model.modules()} - {nn.Sequential}
    assert kinds == {nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear}

def test_small_cnn_stride():
    one,two = small_cnn(stride=1),small_cnn(stride=2)
    x = torch.zeros(1, 3, 32, 32)
    assert [m[:3](x).shape[-1] for m in (one, two)] == [8, 4]
    assert one(x).shape == two(x).shape == (1, 10)

def test_stacked_lstm_is_single_layers_on_top_of_one_another():
    torch.manual_seed(0)
    model,x = StackedLSTM(3, 5, hidden_size=6, n_layers=2),torch.randn(4, 3, 7)
    h = x.transpose(1, 2)
    for layer in range(2):
        one = nn.LSTM(h.shape[2], 6, batch_first=True)
        names = 'weight_ih', 'weight_hh', 'bias_ih', 'bias_hh'
        one.load_state_dict({f'{k}_l0': getattr(model.lstm, f'{k}_l{layer}') for k in names})
        h,_ = one(h)
    assert torch.allclose(model(x), model.head(h[:, -1]), atol=1e-6) and model(x).shape == (4, 5)

def test_small_series_cnn():
    "Three convolutions without bias, two numbers per channel for each batch norm, one linear layer; of any length, and blind to where a pattern stands"
    assert small_series_cnn(5, n_in=3)(torch.zeros(2, 3, 40)).shape == (2, 5)
    model = small_series_cnn(5).eval()
    expected = 64*7 + 64*128*5 + 128*64*3 + 2*(64+128+64) + 64*5 + 5
    assert sum(o.numel() for o in model.parameters()) == expected
    pulse = torch.zeros(2, 1, 100)
    pulse[0, 0, 30],pulse[1, 0, 60] = 1,1
    first,second = model(pulse)
    torch.testing.assert_close(first, second)
    assert model(torch.randn(3, 1, 31)).shape == (3, 5)

def test_archs_take_channels_and_classes_from_the_loaders():
    dls = SimpleNamespace(c=4, n_channels=1)
    for name in ('small_cnn', 'small_cnn:2', 'resnet18-32', 'resnet10t'):
        assert model_maker(name)(dls)(torch.zeros(2, 1, 32, 32)).shape == (2, 4)
    for name in ('stacked-lstm', 'series-cnn'):
        assert ARCHS[name](SimpleNamespace(c=4, vars=2))(torch.zeros(2, 2, 9)).shape == (2, 4)
        with pytest.raises(ValueError, match=f'{name} is for series'): model_maker(name)(dls)
    def mine(dls): return nn.Linear(1, dls.c)
    assert model_maker(mine) is mine

@pytest.mark.parametrize('arch', ['resnet18', 'resnet18.a1_in1k', 'hf-hub:someone/something', nn.Linear, None])
def test_check_arch_passes(arch): check_arch(arch, 'something else')

def test_check_arch_names_near_ones():
    with pytest.raises(ValueError, match="no model called 'resnt18'; near: .*resnet18.*or something else"): check_arch('resnt18', 'something else')
    with pytest.raises(ValueError, match="called '[(][)]'[.] Give"): check_arch('()', 'x')

def test_weights_place(monkeypatch):
    monkeypatch.setattr('torch.hub.get_dir', lambda: 'there')
    assert weights_place(nn.Linear) == 'put the file that torchvision names into there/checkpoints'
    assert 'Hugging Face cache' in weights_place('resnet18')

def test_series_arch():
    assert series_arch('StackedLSTM') is StackedLSTM and series_arch('xresnet1d18plus').__name__ == 'xresnet1d18plus'
    for name,near in (('InceptonTime', 'InceptionTime'), ('stackedLSTM', 'StackedLSTM')):
        with pytest.raises(ValueError, match=f"arch='{name}'.*{near}"): series_arch(name)
    for part in ('nn', 'ConvBlock', 'build_ts_model'):
        with pytest.raises(ValueError, match='no such model'): series_arch(part)

# tsai missing or broken

class Without:
    def __init__(self, package): self.package = package
    def find_spec(self, name, path=None, target=None):
        if name == self.package: raise ModuleNotFoundError(f"No module named '{name}'", name=name)

@pytest.fixture(params=['missing', 'broken'])
def without(request, monkeypatch, tmp_path):
    "`without(package)`: its import fails from now on; returns how the sentence goes on"
    def make(package):
        for o in [o for o in sys.modules if o.split('.')[0] == package]: monkeypatch.delitem(sys.modules, o)
        if request.param == 'missing':
            monkeypatch.setattr(sys, 'meta_path', [Without(package), *sys.meta_path])
            return 'is not installed'
        (tmp_path/package).mkdir()
        (tmp_path/package/'__init__.py').write_text("raise AttributeError('numpy has no float_')")
        monkeypatch.syspath_prepend(tmp_path)
        return r'cannot be imported \(AttributeError: numpy has no float_\)'
    return make

@pytest.fixture
def no_tsai(without, monkeypatch):
    monkeypatch.delitem(sys.modules, 'fastnoisy.data.tsai_loaders', raising=False)
    return without('tsai')

def test_one_sentence_where_tsai_cannot_be_imported(no_tsai):
    with pytest.raises(ImportError, match=f"^series need tsai, which {no_tsai}: pip install [^\n]*$") as e: series_arch('FCN')
    assert e.value.__suppress_context__ and e.value.name == 'tsai'
    assert series_arch('StackedLSTM') is StackedLSTM # needs none

def test_every_use_of_tsai_says_so(no_tsai, tmp_path):
    from fastnoisy.data.series import read_series, series_dls, series_learner, ucr_splits
    x = torch.zeros(20, 9).numpy(),[0, 1]*10
    (tmp_path/'a.ts').write_text('')
    for f in (lambda: series_dls(x, x), lambda: series_learner(None), lambda: ucr_splits('GunPoint', tmp_path), lambda: read_series(tmp_path/'a.ts')):
        with pytest.raises(ImportError, match=no_tsai): f()

def test_the_program_says_it_in_one_line(no_tsai, tmp_path):
    folder = tmp_path/'data/ECG5000'
    folder.mkdir(parents=True)
    for part in ('TRAIN', 'TEST'): (folder/f'ECG5000_{part}.tsv').write_text('\n'.join(f'{i % 2}\t{i}\t{-i}' for i in range(10)))
    with pytest.raises(SystemExit, match=f'fastnoisy: series need tsai, which {no_tsai}'):
        main(['bench', '--data', 'ecg5000', '--root', str(tmp_path/'data'), '--out', str(tmp_path/'out')])

def test_importing_models_imports_neither_timm_nor_tsai_nor_the_rest_of_the_package():
    code = 'import sys, fastnoisy.models; print([o for o in sys.modules if o.startswith(("timm", "tsai", "fastai", "fastnoisy."))])'
    said = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, check=True, cwd=root).stdout
    assert said.strip() == "['fastnoisy._moved', 'fastnoisy.models']"

def test_every_use_of_medmnist_says_so(without, tmp_path):
    from fastnoisy.data.medmnist import medmnist_dls, medmnist_names
    sentence = f'MedMNIST sets need medmnist, which {without("medmnist")}: pip install medmnist$'
    for f in (medmnist_names, lambda: medmnist_dls('bloodmnist')):
        with pytest.raises(ImportError, match=f'^{sentence}') as e: f()
        assert e.value.__suppress_context__ and e.value.name == 'medmnist'
    with pytest.raises(SystemExit, match=f'^fastnoisy: {sentence}'):
        main(['bench', '--data', 'breastmnist', '--jobs', '1', '--out', str(tmp_path/'out')])

def test_import_tsai_gives_the_module():
    import tsai.utils
    assert import_tsai('utils') is tsai.utils

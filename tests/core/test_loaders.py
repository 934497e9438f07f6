"Side passes and random batches: what they give, and that training does not notice."
import random
import numpy as np, pytest, torch
from torch import nn
from torch.utils.data import DataLoader as TorchDataLoader, TensorDataset
from torch import Tensor
from fasttransform import Transform
from fastai.data.core import Datasets, TfmdDL
from fastai.data.load import SkipItemException
from fastai.tabular.all import TabularDataLoaders
import pandas as pd
from fastnoisy.core.rng import isolated_rng
from fastnoisy.core.loaders import RandomBatches, shuffled
from fastnoisy.core.modules import forward_aside, last_linear, model_mode, same_autocast
from fastnoisy.core.predict import run_in_order
from fastnoisy.data.arrays import array_dls
from helpers import small_model

def draws(): return random.random(), np.random.rand(), torch.rand(1).item()

def test_own_random_is_apart_and_goes_on():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = [draws() for _ in range(2)]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    own = isolated_rng(5)
    a = draws()
    with own: x = draws()
    b = draws()
    with own: y = draws()
    assert [a, b] == expected
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    assert [x, y] == [draws(), draws()]

def test_own_random_is_put_back_after_an_error():
    state = random.getstate()
    with pytest.raises(RuntimeError), isolated_rng(0):
        draws()
        raise RuntimeError
    assert random.getstate() == state

def test_shuffled_passes_are_permutations_and_can_be_entered_anywhere():
    take = lambda g, n: [next(g) for _ in range(n)]
    all_of = take(shuffled(7, seed=3), 35)
    for p in range(5): assert sorted(all_of[7*p:7*p+7]) == list(range(7))
    assert len({tuple(all_of[7*p:7*p+7]) for p in range(5)}) == 5
    for start in (1, 7, 20): assert take(shuffled(7, seed=3, start=start), 10) == all_of[start:start+10]
    assert take(shuffled(7, seed=4), 7) != all_of[:7]

def fastai_dl(num_workers): return TfmdDL([(torch.tensor([i]), i) for i in range(11)], bs=4, num_workers=num_workers)
def torch_dl(num_workers): return TorchDataLoader(TensorDataset(torch.arange(11)[:,None], torch.arange(11)), batch_size=4, num_workers=num_workers)

@pytest.mark.parametrize('make', [fastai_dl, torch_dl])
@pytest.mark.parametrize('num_workers', [0, 2])
def test_random_batches(make, num_workers):
    dl = make(num_workers)
    state = random.getstate(), torch.get_rng_state()
    batches = RandomBatches(dl, seed=1)
    drawn = [next(batches) for _ in range(11)]
    batches.close()
    assert random.getstate() == state[0] and torch.equal(torch.get_rng_state(), state[1])
    assert all(len(x) == 4 and x[:,0].tolist() == y.tolist() for x,y in drawn)
    assert sorted(torch.cat([y for _,y in drawn]).tolist()) == sorted([*range(11)]*4) # 44 draws = 4 passes
    again = RandomBatches(make(0), seed=1, start=5)
    assert next(again)[1].tolist() == drawn[5][1].tolist()

def test_random_batches_from_tables_and_series():
    df = pd.DataFrame({'pos': np.arange(20.), 'y': ['a', 'b']*10})
    dls = TabularDataLoaders.from_df(df, procs=[], cont_names=['pos'], y_names='y', valid_idx=range(10, 20), bs=4)
    _,cont,y = next(RandomBatches(dls.valid, seed=0))
    assert cont.shape == (4, 1) and ((cont[:,0].long() % 2) == y[:,0]).all()
    from tsai.data.core import get_ts_dls
    x = np.arange(20, dtype=np.float32)[:,None,None].repeat(5, 2)
    dls = get_ts_dls(x, np.arange(20) % 2, splits=(list(range(10)), list(range(10, 20))), bs=4)
    drawn = [next(b) for b in [RandomBatches(dls.valid, seed=0)] for _ in range(5)]
    assert all((x[:,0,0].long() % 2 == y).all() for x,y in drawn)
    assert {int(v) for x,_ in drawn for v in x[:,0,0]} == set(range(10, 20))

def test_random_batches_sizes_and_errors():
    assert next(RandomBatches(fastai_dl(0), bs=100))[1].shape == (11,)
    assert next(RandomBatches(fastai_dl(0), bs=3))[1].shape == (3,)
    with pytest.raises(ValueError, match='empty'): RandomBatches(TfmdDL([], bs=4, num_workers=0))

def model(): return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(.5), nn.Linear(4, 2))

@pytest.mark.parametrize('training', [False, True])
def test_forward_aside_leaves_everything(training):
    m,x = model().train(),torch.randn(6, 3)
    m[1].eval() # frozen by the user
    m(x).sum().backward()
    state = {k: v.clone() for k,v in m.state_dict().items()}
    grads = [p.grad.clone() for p in m.parameters()]
    rng = torch.get_rng_state()
    out = forward_aside(m, x, training=training)
    assert not out.requires_grad and torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(v, state[k]) for k,v in m.state_dict().items())
    assert all(torch.equal(p.grad, g) for p,g in zip(m.parameters(), grads))
    assert [o.training for o in m] == [True, False, True, True]

def test_forward_aside_modes():
    m,x = model().train(),torch.randn(64, 3)*5 + 3
    evaluated = forward_aside(m, x)
    torch.testing.assert_close(evaluated, m.eval()(x))
    m.train()
    torch.manual_seed(0); aside = forward_aside(m, x, training=True)
    torch.manual_seed(0); torch.testing.assert_close(aside, m(x))
    assert (evaluated - aside).abs().max() > .1

def test_model_mode_after_an_error():
    m = model().train()
    with pytest.raises(RuntimeError), model_mode(m, False): raise RuntimeError
    assert m[1].training

def test_last_linear():
    model = small_model()
    assert last_linear(model, 'option', 'Remedy') is model[-1]
    with pytest.raises(ValueError, match='^option: Conv2d has no linear layer. Remedy.$'): last_linear(nn.Conv2d(1, 1, 1), 'option', 'Remedy')

def test_same_autocast():
    with torch.autocast('cpu', dtype=torch.bfloat16): inside = same_autocast('cpu')
    lin,x = nn.Linear(2, 2),torch.randn(1, 2)
    with inside: assert lin(x).dtype == torch.bfloat16
    with same_autocast('cpu'): assert lin(x).dtype == torch.float32
    with inside, same_autocast('cpu'): pass

class Noticed(Transform):
    "An augmentation: adds 100 in training"
    split_idx = 0
    def encodes(self, x:Tensor): return x + 100 if x.dim() > 1 else x

def in_order(dl):
    ids,xs = [],[]
    def note(i, b):
        ids.append(i)
        xs.append(b[0])
    before = draws_ahead()
    run_in_order(dl, note)
    assert draws_ahead() == before
    return torch.cat(ids), torch.cat(xs)

def draws_ahead():
    with isolated_rng(0): pass
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    return state

@pytest.mark.parametrize('num_workers', [0, 2])
def test_run_in_order(num_workers):
    class Skips(list):
        split_idx = 0
        def __getitem__(self, i):
            if i == 5: raise SkipItemException
            return super().__getitem__(i)
    rows = Skips((torch.tensor([float(i)]), torch.tensor(i % 2)) for i in range(21))
    dl = TfmdDL(rows, bs=4, shuffle=True, drop_last=True, num_workers=num_workers, after_batch=Noticed())
    ids,xs = in_order(dl)
    assert sorted(ids.tolist()) == [i for i in range(21) if i != 5] and xs[:,0].tolist() == ids.tolist()
    assert (dl.one_batch()[0] >= 100).all() # the loader itself still augments
    assert dl.shuffle and dl.drop_last

def test_run_in_order_leaves_item_transforms_of_training_out():
    dsets = Datasets(range(12), [[lambda i: torch.full((2, 2), float(i)), Noticed()], [lambda i: i % 2]], splits=[range(8), range(8, 12)])
    dls = dsets.dataloaders(bs=4, num_workers=0)
    ids,xs = in_order(dls.train)
    assert xs[:,0,0].tolist() == ids.tolist() == list(range(8))
    assert (dls.train.one_batch()[0] >= 100).all() and (dls.valid.one_batch()[0] < 100).all()

def test_run_in_order_after_an_error():
    dsets = Datasets(range(12), [[lambda i: torch.full((2, 2), float(i)), Noticed()]], splits=[range(8), range(8, 12)])
    dls = dsets.dataloaders(bs=4, num_workers=0)
    def stop(*_): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): run_in_order(dls.train, stop)
    assert dsets.train.tls[0].tfms.split_idx == 0 and (dls.train.one_batch()[0] >= 100).all()

@pytest.mark.parametrize('kwargs', [dict(batch_size=8, shuffle=True, drop_last=True), dict(batch_sampler=[[3, 1], [2, 0]])])
def test_run_in_order_of_a_torch_loader(kwargs):
    ids,xs = in_order(TorchDataLoader(TensorDataset(torch.arange(21.)[:,None], torch.zeros(21)), **kwargs))
    assert ids.tolist() == xs[:,0].tolist() == list(range(21))

def test_run_in_order_of_tables_series_and_arrays():
    df = pd.DataFrame({'a': np.arange(30.), 'y': np.arange(30) % 2})
    dls = TabularDataLoaders.from_df(df, procs=[], cont_names=['a'], y_names='y', valid_idx=range(20, 30), bs=8)
    cont = []
    run_in_order(dls.train, lambda i, b: cont.append(b[1]))
    assert torch.cat(cont)[:,0].tolist() == list(range(20))
    from tsai.data.core import get_ts_dls
    x = np.arange(30, dtype=np.float32)[:,None,None].repeat(5, 2)
    for more in (dict(), dict(partial_n=8), dict(sort=True)):
        dls = get_ts_dls(x, y=np.arange(30) % 2, splits=(list(range(20)), list(range(20, 30))), bs=8, **more)
        ids,xs = in_order(dls.train)
        assert xs[:,0,0].tolist() == ids.tolist() == list(range(20))
    images = np.arange(30, dtype=np.uint8)[:,None,None].repeat(4, 1).repeat(4, 2)
    dls = array_dls((images[:20], np.arange(20) % 2), (images[20:], np.arange(10) % 2), bs=8, batch_tfms=Noticed(), rgb=False, device='cpu')
    ids,xs = in_order(dls.train)
    assert ids.tolist() == list(range(20)) and xs.max() < 100
    assert (xs[:,0,0,0].argsort() == ids).all()

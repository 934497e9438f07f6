"Sample ids against data sets that know the truth: each item holds its own position."
import numpy as np, pandas as pd, pytest, torch
from torch.utils.data import DataLoader as TorchDataLoader, Dataset, IterableDataset
from fastai.callback.data import PartialDL, WeightedDL
from fastai.data.load import DataLoader, SkipItemException
from fastai.data.core import TfmdDL
from fastnoisy.core.sample_ids import check_indexed, with_sample_ids

class Numbered(Dataset):
    "Item i is (i, i % 3)"
    def __init__(self, n=50, skip=()): self.n,self.skip = n,skip
    def __len__(self): return self.n
    def __getitem__(self, i):
        if i in self.skip: raise SkipItemException
        return torch.tensor([i]), torch.tensor(i % 3)

def seen(dl):
    "Ids of two epochs, each batch compared with what is in it"
    t,all_ids = with_sample_ids(dl),[]
    for _ in range(2):
        for x,_ in t:
            assert t.sample_ids.dtype == torch.int64 and t.sample_ids.tolist() == x[:,0].tolist()
            all_ids.append(t.sample_ids.tolist())
    return all_ids

@pytest.mark.parametrize('num_workers', [0, 2])
@pytest.mark.parametrize('shuffle', [False, True])
@pytest.mark.parametrize('drop_last', [False, True])
@pytest.mark.parametrize('kind', [DataLoader, TfmdDL])
def test_fastai_loader(kind, num_workers, shuffle, drop_last):
    batches = seen(kind(Numbered(), bs=16, shuffle=shuffle, drop_last=drop_last, num_workers=num_workers))
    assert [len(b) for b in batches[:len(batches)//2]] == [16,16,16] + ([] if drop_last else [2])
    if not drop_last: assert sorted(sum(batches, [])) == sorted([*range(50)]*2)

@pytest.mark.parametrize('num_workers', [0, 2])
def test_skipped_items(num_workers):
    batches = seen(TfmdDL(Numbered(skip={0, 7, 8, 33}), bs=8, shuffle=True, num_workers=num_workers))
    assert sorted(sum(batches, [])) == sorted([i for i in range(50) if i not in {0, 7, 8, 33}]*2)

@pytest.mark.parametrize('num_workers', [0, 2])
def test_weighted_and_partial(num_workers):
    wgts = [0.]*40 + [1.]*10
    assert set(sum(seen(WeightedDL(Numbered(), bs=8, wgts=wgts, shuffle=True, num_workers=num_workers)), [])) <= set(range(40, 50))
    batches = seen(PartialDL(Numbered(), bs=8, partial_n=20, shuffle=True, num_workers=num_workers))
    assert sum(map(len, batches)) == 40

@pytest.mark.parametrize('num_workers', [0, 2])
@pytest.mark.parametrize('shuffle', [False, True])
def test_torch_loader(num_workers, shuffle):
    batches = seen(TorchDataLoader(Numbered(), batch_size=16, shuffle=shuffle, num_workers=num_workers))
    assert sorted(sum(batches, [])) == sorted([*range(50)]*2)

def test_torch_loader_persistent_workers():
    dl = TorchDataLoader(Numbered(), batch_size=16, shuffle=True, num_workers=1, persistent_workers=True)
    list(dl) # workers are running before the ids are asked for
    assert sorted(sum(seen(dl), [])) == sorted([*range(50)]*2)
    assert sum(len(x) for x,_ in dl) == 50 # and the loader goes on by itself afterwards

def test_torch_loader_left_early():
    t = with_sample_ids(TorchDataLoader(Numbered(), batch_size=8, shuffle=True, num_workers=2))
    next(iter(t))
    for x,_ in t: assert t.sample_ids.tolist() == x[:,0].tolist()

def test_torch_loader_after_an_error():
    class Breaks(Numbered):
        broken = True
        def __getitem__(self, i):
            if self.broken and i == 20: raise OSError
            return super().__getitem__(i)
    data = Breaks()
    t = with_sample_ids(TorchDataLoader(data, batch_size=8))
    with pytest.raises(OSError): list(t)
    data.broken = False
    for x,_ in t: assert t.sample_ids.tolist() == x[:,0].tolist()

def test_batch_transforms_of_the_other_split_are_left_out():
    from fasttransform import Transform
    class Split(Numbered):
        split_idx = 0
    add = lambda x: x + 1000
    dl = TfmdDL(Split(), bs=8, num_workers=0, after_batch=[Transform(add, split_idx=1)])
    for x,_ in with_sample_ids(dl): assert x.max() < 1000
    Split.split_idx = 1
    for x,_ in with_sample_ids(dl): assert x.min() >= 1000

@pytest.mark.parametrize('kind', [TfmdDL, TorchDataLoader])
def test_the_loader_is_left_alone(kind):
    dl = kind(Numbered(), **({'batch_size': 8} if kind is TorchDataLoader else {'bs': 8}), shuffle=True, num_workers=0)
    before,klass = dict(vars(dl)),type(dl)
    t = with_sample_ids(dl)
    list(t)
    assert type(dl) is klass and isinstance(t, klass) and len(t) == len(dl)
    assert {k for k in vars(dl)} - set(before) <= {'_DataLoader__idxs', '_IterableDataset_len_called'}
    assert all(vars(dl)[k] is v for k,v in before.items() if k in ('dataset', 'after_batch', 'fake_l', 'sampler', 'collate_fn'))
    x,y = next(iter(dl)) # its own batches have no ids in them
    assert x.shape == (8, 1) and y.shape == (8,)

def test_same_order_as_without():
    "The tagged loader takes the same numbers from the same streams"
    def order(tag):
        torch.manual_seed(0)
        dl = TfmdDL(Numbered(), bs=8, shuffle=True, num_workers=0)
        dl.rng.seed(1)
        return [x[:,0].tolist() for _ in range(3) for x,_ in (with_sample_ids(dl) if tag else dl)], torch.rand(1)
    assert order(True) == order(False)

def test_new_and_one_batch_belong_to_the_loader():
    dl = TfmdDL(Numbered(), bs=8, num_workers=0)
    t = with_sample_ids(dl)
    assert type(t.new(shuffle=False)) is TfmdDL and t.after_batch.fs == dl.after_batch.fs
    assert t.one_batch()[0].shape == (8, 1)

def test_batch_transform_sees_the_batch_only():
    dl = TfmdDL(Numbered(), bs=8, num_workers=0, after_batch=lambda b: b)
    seen_types = []
    dl.after_batch = lambda b: seen_types.append(tuple(type(o) for o in b)) or b
    list(with_sample_ids(dl))
    assert set(seen_types) == {(torch.Tensor, torch.Tensor)}

@pytest.mark.parametrize('rank', [0, 1])
def test_distributed_loader(rank, monkeypatch):
    "Each process sees the ids of its own share; two processes cover the data"
    from fastai.distributed import DistributedDL
    monkeypatch.setattr(DistributedDL, '_broadcast', lambda self, t, rank: list(t)) # one process plays both ranks
    dl = DistributedDL(TfmdDL(Numbered(51), bs=8, num_workers=0), rank=rank, world_size=2)
    t = with_sample_ids(dl)
    again = [i for _ in t for i,twice in zip(t.sample_ids.tolist(), t.again.tolist()) if twice]
    assert again == ([] if rank == 0 else [0])
    ids = sum(seen(dl), [])
    assert sorted(ids) == sorted(([*range(26)] if rank == 0 else [*range(26, 51), 0])*2) # 51 are padded to 52

def test_tabular():
    from fastai.tabular.all import CategoryBlock, TabularDataLoaders, FillMissing, Normalize
    df = pd.DataFrame({'pos': np.arange(60.), 'y': np.arange(60) % 2})
    dls = TabularDataLoaders.from_df(df, procs=[], cont_names=['pos'], y_names='y', y_block=CategoryBlock, valid_idx=range(40, 60), bs=16)
    t = with_sample_ids(dls.train)
    n = 0
    for _,cont,_ in t:
        assert t.sample_ids.tolist() == cont[:,0].long().tolist() # the first 40 rows train, in their order
        n += len(cont)
    assert n >= 32

@pytest.mark.parametrize('kwargs', [dict(), dict(partial_n=20), dict(shuffle_train=False, drop_last=False), dict(sort=True)])
def test_tsai(kwargs):
    from tsai.data.core import get_ts_dls
    x = np.arange(60, dtype=np.float32)[:,None,None].repeat(5, 2)
    splits = list(range(40)), list(range(40, 60))
    dls = get_ts_dls(x, y=np.arange(60) % 2, splits=splits, bs=16, **kwargs)
    t = with_sample_ids(dls.train)
    for x,_ in t: assert t.sample_ids.tolist() == x[:,0,0].long().tolist() and t.sample_ids.dtype == torch.int64

@pytest.mark.parametrize('num_workers', [0, 2])
def test_again_survives_workers_and_skipped_items(num_workers, monkeypatch):
    from fastai.distributed import DistributedDL
    monkeypatch.setattr(DistributedDL, '_broadcast', lambda self, t, rank: list(t))
    t = with_sample_ids(DistributedDL(TfmdDL(Numbered(51, skip=[30]), bs=8, num_workers=num_workers), rank=1, world_size=2))
    got = [(i, twice) for x,_ in t for i,twice,value in zip(t.sample_ids.tolist(), t.again.tolist(), x[:,0].tolist()) if i == value]
    assert sorted(got) == [(0, True)] + [(i, False) for i in range(26, 51) if i != 30]

@pytest.mark.parametrize('sort', [False, True])
def test_tsai_in_several_processes(sort, monkeypatch):
    from fastai.distributed import DistributedDL
    from tsai.data.core import get_ts_dls
    monkeypatch.setattr(DistributedDL, '_broadcast', lambda self, t, rank: [int(o) for o in t])
    x = np.arange(60, dtype=np.float32)[:,None,None].repeat(5, 2)
    dls = get_ts_dls(x, y=np.arange(60) % 2, splits=(list(range(41)), list(range(41, 60))), bs=7, sort=sort, drop_last=False)
    t = with_sample_ids(DistributedDL(dls.train, rank=1, world_size=2))
    n = 0
    for x,_ in t:
        assert t.sample_ids.tolist() == x[:,0,0].long().tolist()
        n += t.again.sum().item()
    assert n == 1
    sliced = get_ts_dls(x.numpy(), y=np.arange(len(x)) % 2, splits=(list(range(len(x)-2)), [len(x)-1]), bs=4, shuffle_train=False)
    with pytest.raises(TypeError, match='divided among processes: use shuffle=True'): with_sample_ids(DistributedDL(sliced.train, rank=1, world_size=2))

KEEP = np.arange(50) % 3 > 0 # 33 samples

@pytest.mark.parametrize('num_workers', [0, 2])
@pytest.mark.parametrize('drop_last', [False, True])
@pytest.mark.parametrize('shuffle', [False, True])
@pytest.mark.parametrize('kind', [DataLoader, TfmdDL, TorchDataLoader])
def test_samples_left_out(kind, shuffle, drop_last, num_workers):
    dl = kind(Numbered(), 9, shuffle=shuffle, drop_last=drop_last, num_workers=num_workers)
    t = with_sample_ids(dl, KEEP)
    batches = []
    for x,_ in t:
        assert t.sample_ids.tolist() == x[:,0].tolist()
        batches.append(x[:,0].tolist())
    assert [len(b) for b in batches] == [9]*3 + ([] if drop_last else [6]) and len(batches) == len(t)
    ids = sum(batches, [])
    assert len(set(ids)) == len(ids) and KEEP[ids].all()
    assert (ids == sorted(ids)) is not shuffle
    assert sum(len(x) for x,_ in dl) >= 45 and len(dl) == (5 if drop_last else 6) # the loader itself has them all

@pytest.mark.parametrize('kind', [DataLoader, TfmdDL])
def test_the_others_keep_their_order(kind):
    def two_epochs(keep):
        dl = kind(Numbered(), bs=5, shuffle=True)
        dl.rng.seed(1)
        return [x[:,0].tolist() for _ in range(2) for x,_ in with_sample_ids(dl, keep)]
    every = sum(two_epochs(None), [])
    assert sum(two_epochs(KEEP), []) == [i for i in every if KEEP[i]]

def test_left_out_samples_are_not_read():
    class Precious(Numbered):
        def __getitem__(self, i):
            assert KEEP[i]
            return super().__getitem__(i)
    for kind in (DataLoader, TorchDataLoader): assert sum(len(x) for x,_ in with_sample_ids(kind(Precious(), 9, shuffle=True), KEEP)) == 33

@pytest.mark.parametrize('kind', [DataLoader, TorchDataLoader])
def test_no_batch_of_one_is_made(kind):
    "33 samples: the one that would be alone stays out, unless all are alone"
    for bs,sizes in ((8, [8]*4), (9, [9, 9, 9, 6]), (1, [1]*33)):
        t = with_sample_ids(kind(Numbered(), bs, shuffle=True), KEEP)
        assert [len(x) for x,_ in t] == sizes and len(t) == len(sizes)
    assert [len(x) for x,_ in with_sample_ids(kind(Numbered(), 8), np.arange(50) == 7)] == [1]

def test_left_out_with_a_batch_sampler():
    dl = TorchDataLoader(Numbered(), batch_sampler=[[0, 3], [1, 2, 3], [4, 6, 8]])
    assert [x[:,0].tolist() for x,_ in with_sample_ids(dl, KEEP)] == [[1, 2], [4, 8]] and len(with_sample_ids(dl, KEEP)) == 2

def test_left_out_of_weighted_and_partial():
    t = with_sample_ids(WeightedDL(Numbered(), bs=8, wgts=[0.]*40 + [1.]*10, shuffle=True), KEEP)
    ids = torch.cat([t.sample_ids for _ in t])
    assert KEEP[ids].all() and set(ids.tolist()) <= set(range(40, 50)) and len(t) == -(-len(ids)//8)
    t = with_sample_ids(PartialDL(Numbered(), bs=8, partial_n=20, shuffle=True), KEEP)
    assert KEEP[torch.cat([t.sample_ids for _ in t])].all()

@pytest.mark.parametrize('kwargs', [dict(), dict(partial_n=30), dict(sort=True), dict(shuffle_train=False)])
def test_left_out_of_tsai(kwargs):
    from tsai.data.core import get_ts_dls
    x = np.arange(60, dtype=np.float32)[:,None,None].repeat(5, 2)
    dls = get_ts_dls(x, y=np.arange(60) % 2, splits=(list(range(40)), list(range(40, 60))), bs=8, **kwargs)
    if kwargs == dict(shuffle_train=False):
        with pytest.raises(TypeError, match='shuffle=True'): with_sample_ids(dls.train, KEEP[:40])
        return
    t,n = with_sample_ids(dls.train, KEEP[:40]),0
    for x,_ in t:
        assert t.sample_ids.tolist() == x[:,0,0].long().tolist() and KEEP[t.sample_ids].all()
        n += 1
    assert n == len(t) > 0

class Stream(IterableDataset):
    def __iter__(self): return iter(range(10))

@pytest.mark.parametrize('dl, why', [
    (DataLoader(Stream(), bs=2), 'iterable data set'),
    (DataLoader(iter(range(10)), bs=2), 'iterable data set'),
    (DataLoader(Numbered(), bs=None), 'bs=None'),
    (TorchDataLoader(Stream()), 'iterable data set'),
    (TorchDataLoader(Numbered(), batch_size=None), 'batch_size=None'),
    (TorchDataLoader(Numbered(), num_workers=1, in_order=False), 'in_order=False'),
    ([1, 2], 'no fastai or PyTorch'),
    (type('OwnDL', (DataLoader,), {'create_batches': lambda self, samps: iter(())})(Numbered(), bs=2), 'create_batches'),
])
def test_what_has_no_positions(dl, why):
    with pytest.raises(TypeError, match=why): check_indexed(dl)
    with pytest.raises(TypeError, match='DataBlock'): with_sample_ids(dl)

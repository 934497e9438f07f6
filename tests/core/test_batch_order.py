"Samples and ids belong together, whoever sorts, drops or mixes: against data sets whose items say who they are"
import numpy as np, pytest, torch
from torch.utils.data import DataLoader as TorchDataLoader, default_collate
from fastai.basics import Callback, DataLoaders
from fastai.callback.mixup import MixUp
from fastai.data.core import TfmdDL
from fastai.data.load import DataLoader
from fastnoisy.core.batch_order import check_collation, check_rows, followed, noted, views_of
from fastnoisy.core.loaders import SampleStream
from fastnoisy.core.method import MethodCallback
from fastnoisy.core.sample_ids import with_sample_ids
from helpers import LR, N, Items, blobs, make, make_dls

class Numbered:
    "Item i is (i, (7*i) % 50)"
    def __len__(self): return 50
    def __getitem__(self, i): return torch.tensor([i]), torch.tensor((7*i) % 50)

def by_target(items): return sorted(items, key=lambda o: o[1].item())
def padded(items): return [(torch.cat([x, torch.zeros(2).long()]), y) for x,y in by_target(items)]
def without_odd(items): return [o for o in items if o[1] % 2 == 0]
def twice(items): return [*items, *items]
def without_last(items): return by_target(items)[:max(1, len(items) - 1)]

@pytest.mark.parametrize('num_workers', [0, 2])
@pytest.mark.parametrize('transform', [by_target, padded, without_odd, twice])
@pytest.mark.parametrize('kind', [DataLoader, TfmdDL])
def test_before_batch_is_followed(kind, transform, num_workers):
    dl = kind(Numbered(), bs=9, shuffle=True, before_batch=transform, num_workers=num_workers)
    for keep in (None, np.arange(50) % 3 > 0):
        t,n = with_sample_ids(dl, keep),0
        for x,y in t:
            assert t.sample_ids.tolist() == x[:,0].tolist() and len(x) == len(y)
            if keep is not None: assert keep[t.sample_ids].all()
            n += len(x)
        n_loaded = (50 if keep is None else 33)*(2 if transform is twice else 1)
        if transform is without_odd: n_loaded = sum(i % 2 == 0 for i in range(50) if keep is None or keep[i])
        assert n == n_loaded
    assert sum(len(x) for x,_ in dl) # the loader itself goes on

def test_items_that_are_made_anew_are_taken_in_their_order():
    "There is nothing to follow; in a text loader the inputs are new and the order is the same"
    def anew(items): return [(x + 100, y + 0) for x,y in items]
    t = with_sample_ids(DataLoader(Numbered(), bs=8, shuffle=True, before_batch=anew))
    for x,_ in t: assert t.sample_ids.tolist() == (x[:,0] - 100).tolist()

def test_what_can_be_followed_in_part_only_is_refused():
    def mixed(items): return [items[1], (items[0][0] + 0, items[0][1] + 0), *items[2:]]
    with pytest.raises(ValueError, match='before_batch.*not known which'):
        list(with_sample_ids(DataLoader(Numbered(), bs=8, before_batch=mixed)))

def test_equal_objects_say_nothing():
    "Labels that several items share, numbers and strings"
    label = torch.tensor(1)
    items = [(torch.tensor(i), label, 7, 'a') for i in range(3)]
    assert followed(items, [items[2], items[0]]) == [2, 0]
    assert followed(items, [(x + 1, *rest) for x,*rest in items]) is None

def test_a_do_batch_of_ones_own():
    dl = DataLoader(Numbered(), bs=8, do_batch=default_collate)
    t = with_sample_ids(dl)
    for x,_ in t: assert t.sample_ids.tolist() == x[:,0].tolist()

@pytest.mark.parametrize('collate', [by_target, lambda items: sorted(items, key=lambda o: -o[0])])
def test_a_collate_fn_that_sorts_is_refused(collate):
    dl = TorchDataLoader(Numbered(), 8, shuffle=True, collate_fn=lambda items: default_collate(collate(items)))
    with pytest.raises(TypeError, match='collate_fn.*order of its own'): check_collation(dl)
    learn = make('also', DataLoaders(dl, make_dls().valid))
    with pytest.raises(TypeError, match='order of its own'): learn.fit(1)

def test_a_collate_fn_that_keeps_the_order_is_not():
    random = lambda items: default_collate([(x + torch.rand(1), y) for x,y in items])
    for collate in (None, random, lambda items: dict(x=default_collate(items))):
        check_collation(TorchDataLoader(Numbered(), 8, collate_fn=collate))
    class Broken(Numbered):
        def __getitem__(self, i): raise OSError
    check_collation(TorchDataLoader(Broken(), 8)) # the training will tell

class Moves(Callback):
    "Another callback that moves the samples of the batch"
    run_valid = False
    def __init__(self, order, rows): self.order,self.rows = order,rows
    def before_batch(self):
        rows = self.rows(len(self.yb[0]))
        self.learn.xb,self.learn.yb = (self.xb[0][rows],),(self.yb[0][rows],)

@pytest.mark.parametrize('order', [-20, -4, 5, 30])
@pytest.mark.parametrize('rows, error', [(lambda n: torch.arange(n).flip(0), 'changed the order|split, merge'),
                                         (lambda n: torch.arange(n - 3), 'made 13 samples of the 16|split, merge')])
def test_another_callback_that_moves_samples_is_refused(order, rows, error):
    with pytest.raises(ValueError, match=error): make('also', cbs=[Moves(order, rows)]).fit(1)

class MovesInPlace(Callback):
    "Another callback that writes to the batch: both parts, or one"
    run_valid = False
    def __init__(self, order, what='xy'): self.order,self.what = order,what
    def before_batch(self):
        rows = torch.randperm(len(self.yb[0]))
        if 'x' in self.what: self.xb[0].copy_(self.xb[0][rows])
        if 'X' in self.what: self.learn.xb = (self.xb[0][rows],)
        if 'y' in self.what: self.yb[0].copy_(self.yb[0][rows])
        if 'Y' in self.what: self.learn.yb = (self.yb[0][rows],)

@pytest.mark.parametrize('order', [-20, -4, 5, 30])
@pytest.mark.parametrize('what, error', [('xy', 'in place'), ('Xy', 'in place'), ('xY', 'changed the order')])
def test_samples_that_are_moved_in_place_are_refused(order, what, error):
    with pytest.raises(ValueError, match=error): make('also', cbs=[MovesInPlace(order, what)]).fit(1)

@pytest.mark.parametrize('what', ['x', 'y', 'Y', 'X'])
def test_another_callback_may_write_to_inputs_or_labels(what): make('also', cbs=[MovesInPlace(5, what)]).fit(2, LR)

def test_inputs_and_labels_in_one_table():
    "Their writes are counted together: what is done to the inputs says nothing about the labels"
    t = torch.randn(4, 3)
    x,y = t[:,:2],t[:,2]
    batch = noted((x,), (y,))
    x.add_(1)
    check_rows(batch, ((x,), (y,)))

class Changes(Callback):
    "Changes inputs or labels, and moves nothing"
    order,run_valid = 5,False
    def __init__(self, what): self.what = what
    def before_batch(self):
        if 'x' in self.what: self.learn.xb = (self.xb[0] + .01,)
        if 'y' in self.what: self.learn.yb = ((self.yb[0] + 1) % 3,)
        if 'swapped' in self.what: self.learn.yb = (self.yb[0].flip(0),)

@pytest.mark.parametrize('cb', [Changes('x'), Changes('y'), Changes('xy'), Changes('swapped'), MixUp(.4)])
def test_another_callback_may_change_inputs_and_labels(cb): make('also', cbs=[cb]).fit(2, LR)

class Keep(MethodCallback):
    name = 'keep'
    def keep_samples(self): return np.arange(N) < 32
    def before_fit(self): self.seen = []
    def batch_weights(self): self.seen += self.sample_ids.tolist()

@pytest.mark.parametrize('get_idxs', [
    lambda: np.random.permutation(N), lambda: np.random.permutation(N).tolist(), lambda: [*range(N), *range(N)],
    lambda: np.random.choice(N, 3*N), lambda: torch.randperm(N), lambda: (i for i in range(N))])
def test_samples_left_out_of_ones_own_get_idxs(get_idxs):
    "Arrays, oversampling, generators: what is left out is not trained on"
    keep,dls = Keep(),make_dls()
    train = TfmdDL(Items(*blobs(N)), bs=16, get_idxs=get_idxs, num_workers=0, device='cpu')
    make('ce', DataLoaders(train, dls.valid), cbs=[keep]).fit(1)
    assert keep.seen and max(keep.seen) < 32
    assert max(torch.cat([torch.as_tensor(list(get_idxs()))])) >= 32 # others were offered

def test_a_sampler_that_asks_nobody_is_refused():
    dl = DataLoader(Numbered(), bs=8, sample=lambda: iter(range(8)))
    for x,_ in (t := with_sample_ids(dl)): assert t.sample_ids.tolist() == x[:,0].tolist()
    with pytest.raises(TypeError, match='`sample` of its own'): with_sample_ids(dl, np.arange(50) < 9)

class Views(Numbered):
    "Every look at a sample is another number of tens"
    looks = 0
    def __getitem__(self, i):
        self.looks += 1
        return torch.tensor([i, self.looks]), torch.tensor((7*i) % 50)

def test_views_stay_together():
    assert views_of(torch.tensor([5, 6, 5, 6]), 2)[1] is None
    ids,rows = views_of(torch.tensor([6, 5, 5, 6, 7]), 2) # 7 has lost its other view
    assert ids.tolist() == [6, 5] and rows.tolist() == [0, 1, 3, 2]
    with pytest.raises(ValueError, match='Of no sample are 2 views'): views_of(torch.tensor([1, 2, 3]), 2)

@pytest.mark.parametrize('transform', [None, by_target, without_odd, without_last])
def test_streams_of_views_whose_loader_sorts_or_drops(transform):
    options = {} if transform is None else dict(before_batch=transform)
    stream = SampleStream(TfmdDL(Views(), bs=8, num_workers=0, **options), np.arange(50), views=2)
    for _ in range(20):
        ids,(x,y) = next(stream)
        assert torch.equal(x[:,0], ids.repeat(2)) and torch.equal(y, 7*ids.repeat(2) % 50)
        assert (x[:len(ids),1] != x[len(ids):,1]).all() # not the same look twice

def test_a_torch_loader_without_a_full_batch():
    "The sentence about it, whatever kind the loader is"
    train = TorchDataLoader(Items(*blobs(5)), 16, drop_last=True)
    with pytest.raises(ValueError, match='gives no batch: it has 5 samples, batches of 16'):
        make('also', DataLoaders(train, make_dls().valid)).fit(1)

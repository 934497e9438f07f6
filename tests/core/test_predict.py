"One way to run a model over a loader, against plain loops, and that nothing notices it."
import math, random
import numpy as np, pytest, torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader as TorchDataLoader, IterableDataset, TensorDataset
from fastai.basics import BCEWithLogitsLossFlat, CrossEntropyLossFlat, DataLoaders, Datasets, Learner, MSELossFlat, SkipItemException
from fastai.basics import TfmdDL, Transform
from fastai.callback.core import Callback
from fastai.callback.mixup import MixUp
from fastai.text.data import SortedDL
from fastnoisy.core.predict import Predictions, predict, predict_with_features
from helpers import blob_dls, blob_learner, blobs, small_model, weights_of

def in_a_loop(model, batches, loss=F.cross_entropy):
    "Logits, losses and what the last layer sees, batch by batch, as one would write it down"
    logits,losses,features,model = [],[],[],model.eval()
    hook = model[-1].register_forward_pre_hook(lambda m, x: features.append(x[0].clone()))
    with torch.no_grad():
        for x,y in batches:
            logits.append(model(x))
            losses.append(loss(logits[-1], y, reduction='none'))
    hook.remove()
    return tuple(torch.cat(o) for o in (logits, losses, features))

def batches(x, y, bs): return zip(x.split(bs), y.split(bs))

def same(p, expected, features=True):
    for got,value in zip((p.logits, p.losses, p.features), expected[:2 + features]): assert torch.equal(got, value)

# the numbers

@pytest.mark.parametrize('trained', [False, True])
def test_training_set_bit_by_bit(trained):
    "BatchNorm and dropout in eval mode, a last batch that is not full, a loader that shuffles and drops it"
    learn = blob_learner(dls=blob_dls(n=90, bs=20))
    if trained: learn.fit(2, 1e-2)
    learn.model.train()
    p,(x,y) = predict(learn, features=True),blobs(90)
    assert isinstance(p, Predictions) and p.ids.tolist() == list(range(90)) and p.targets.equal(y)
    same(p, in_a_loop(learn.model, batches(x, y, 20)))
    assert predict(learn).features is None and predict(learn).logits.equal(p.logits)
    assert all(not o.requires_grad and o.device.type == 'cpu' for o in vars(p).values())

def test_another_loader_bit_by_bit():
    learn,(x,y) = blob_learner(),blobs(48, seed=1)
    learn.fit(1)
    p = predict(learn, learn.dls.valid, features=True)
    same(p, in_a_loop(learn.model, batches(x, y, learn.dls.valid.bs)))
    assert p.ids.tolist() == list(range(48)) and p.targets.equal(y) and len(p) == 48

def test_a_model_in_place_of_the_learners():
    learn,other = blob_learner(),small_model(seed=5)
    x,y = blobs()
    same(predict(learn, model=other, features=True), in_a_loop(other, batches(x, y, 16)))
    same(predict(learn, learn.dls.valid, other), in_a_loop(other, batches(*blobs(48, seed=1), learn.dls.valid.bs)), features=False)

def test_without_a_learner():
    model,(x,y) = small_model(),blobs()
    p = predict(None, TorchDataLoader(TensorDataset(x, y), 16), model)
    assert p.logits.equal(in_a_loop(model, batches(x, y, 16))[0]) and p.targets.equal(y) and p.losses is None
    p = predict(None, list(batches(x, y, 16)), model) # no loader at all
    assert p.logits.equal(in_a_loop(model, batches(x, y, 16))[0]) and p.ids.tolist() == list(range(96))

def test_named_layers():
    learn,(x,_) = blob_learner(),blobs()
    learn.model.eval()
    with torch.no_grad(): expected = torch.cat([learn.model[:3](o) for o in x.split(16)])
    assert predict(learn, features='2').features.equal(expected) and predict(learn, features=learn.model[2]).features.equal(expected)
    with pytest.raises(ValueError, match="layer='9': the model has no such module"): predict(learn, features='9')

class Text(nn.Module):
    "A tuple, as fastai's text models give"
    def __init__(self):
        super().__init__()
        self.body,self.head = nn.Linear(4, 5),nn.Linear(5, 3)
    def forward(self, x):
        h = self.body(x)
        return self.head(h), h[:, None], h[:, None]

def test_text_models():
    learn,(x,_) = blob_learner(),blobs()
    learn.model = Text()
    p = predict(learn, features=True)
    assert p.logits.equal(torch.cat([learn.model(o)[0].detach() for o in x.split(16)])) and p.features.shape == (96, 5)

def test_several_inputs():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 3)
        def forward(self, a, b): return self.head(a + b)
    x,y = blobs()
    rows = list(zip(x, x.flip(0), y))
    dls = DataLoaders(*(TfmdDL(rows, bs=10, n_inp=2, device='cpu', shuffle=not i) for i in range(2)))
    learn = blob_learner(dls=dls)
    learn.model = Sum()
    for p in (predict(learn), predict(learn, dls.valid)): torch.testing.assert_close(p.logits, learn.model(x, x.flip(0)).detach())

@pytest.mark.parametrize('autocast', [False, True])
def test_precision_is_that_of_the_weights_or_of_an_open_autocast(autocast):
    learn,(x,y) = blob_learner(),blobs()
    learn.model = nn.Sequential(nn.Linear(4, 3)) if autocast else nn.Sequential(nn.Linear(4, 3)).bfloat16()
    learn.dls = DataLoaders.from_dsets(list(zip(x if autocast else x.bfloat16(), y)), bs=16, device='cpu')
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast): p = predict(learn)
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast), torch.no_grad():
        expected = torch.cat([learn.model(o if autocast else o.bfloat16()) for o in x.split(16)])
    assert expected.dtype == torch.bfloat16 and p.logits.equal(expected.float()) and p.logits.dtype == p.losses.dtype == torch.float32

def test_masks_are_not_kept_but_their_losses_are():
    x,y = torch.randn(10, 2, 6, 6),torch.randint(3, (10, 6, 6))
    learn = blob_learner(dls=DataLoaders.from_dsets(list(zip(x, y)), bs=4, device='cpu'), loss_func=CrossEntropyLossFlat(axis=1))
    learn.model = nn.Conv2d(2, 3, 1)
    p = predict(learn)
    assert p.logits is None and p.targets is None
    torch.testing.assert_close(p.losses, F.cross_entropy(learn.model(x), y, reduction='none').mean((1, 2)).detach())

@pytest.mark.parametrize('loss_func, y', [(MSELossFlat(), torch.randn(20, 3)), (BCEWithLogitsLossFlat(), torch.randint(2, (20, 3)).float())])
def test_targets_that_are_no_classes(loss_func, y):
    x = torch.randn(20, 4)
    learn = blob_learner(dls=DataLoaders.from_dsets(list(zip(x, y)), bs=8, device='cpu'), loss_func=loss_func)
    p = predict(learn)
    assert p.targets.equal(y) and p.losses.shape == (20,) and p.losses.isfinite().all()

def test_a_loss_that_can_only_be_averaged():
    learn = blob_learner(loss_func=lambda pred, y: F.cross_entropy(pred, y))
    assert predict(learn).losses is None and predict(learn).logits.shape == (96, 3)

def test_no_targets():
    learn = blob_learner()
    p = predict(learn, TfmdDL([(o,) for o in blobs()[0]], bs=16, n_inp=1, device='cpu'))
    assert p.targets is None and p.losses is None and p.logits.shape == (96, 3)

# order

class Broken:
    def __init__(self): self.x,self.y = blobs()
    def __len__(self): return 96
    def __getitem__(self, i):
        if i % 5 == 2: raise SkipItemException
        return self.x[i], self.y[i]

def test_what_cannot_be_read():
    learn = blob_learner(dls=DataLoaders(*(TfmdDL(Broken(), bs=16, shuffle=True, num_workers=0, device='cpu') for _ in range(2))))
    broken = torch.arange(96) % 5 == 2
    p,other = predict(learn, features=True),predict(learn, learn.dls.valid)
    assert len(p) == 96 and all(o[broken].isnan().all() and o[~broken].isfinite().all() for o in (p.logits, p.losses, p.features))
    assert (p.targets[broken] == -1).all() and p.targets[~broken].equal(blobs()[1][~broken])
    assert other.ids.equal((~broken).nonzero()[:,0]) and other.targets.equal(blobs()[1][~broken]) # as it is: only what the loader gives
    torch.testing.assert_close(other.logits, p.logits[~broken])

def test_nothing_to_read():
    empty = TorchDataLoader(TensorDataset(*(o[:0] for o in blobs())), 16)
    learn = blob_learner(dls=DataLoaders(empty, empty))
    for dl in (None, learn.dls.valid):
        p = predict(learn, dl)
        assert len(p) == 0 and p.logits is None and p.features is None and (dl is not None or p.losses.shape == p.targets.shape == (0,))

@pytest.mark.parametrize('kind', ['fastai', 'torch', 'sorted', 'workers'])
def test_other_loaders_come_back_in_the_order_of_the_data_set(kind):
    x,y = blobs()
    rows = list(zip(x, y))
    if kind == 'torch': dl = TorchDataLoader(TensorDataset(x, y), 20, shuffle=True, drop_last=True)
    elif kind == 'sorted': dl = SortedDL(rows, bs=20, sort_func=lambda o: o[0][0].item(), device='cpu')
    else: dl = TfmdDL(rows, bs=20, shuffle=True, drop_last=True, device='cpu', num_workers=2*(kind == 'workers'))
    learn = blob_learner()
    p = predict(learn, dl)
    assert len(p) == (96 if kind == 'sorted' else 80) and p.ids.tolist() == sorted(set(p.ids.tolist())) and p.targets.equal(y[p.ids])
    torch.testing.assert_close(p.logits, in_a_loop(learn.model, [(x, y)])[0][p.ids])

class Shift(Transform):
    "Augmentation"
    split_idx = 0
    def encodes(self, x:torch.Tensor): return x + 100 if x.is_floating_point() else x

def test_augmentation_is_left_out_of_the_training_set_alone():
    x,y = blobs()
    dsets = Datasets(range(96), [[x.__getitem__, Shift()], [y.__getitem__]], splits=[range(80), range(80, 96)])
    learn = blob_learner(dls=dsets.dataloaders(bs=16, num_workers=0, device='cpu'))
    torch.testing.assert_close(predict(learn).logits, in_a_loop(learn.model, [(x[:80], y[:80])])[0])
    assert predict(learn, learn.dls.train).logits.equal(predict(learn).logits)
    again = learn.dls.train.new() # another loader of the training set is as it is
    torch.testing.assert_close(predict(learn, again).logits, in_a_loop(learn.model, [(x[:80] + 100, y[:80])])[0][predict(learn, again).ids], rtol=1e-3, atol=1e-3)

def test_a_stream_without_positions():
    class Stream(IterableDataset):
        def __iter__(self): return iter(zip(*blobs()))
    learn,(x,y) = blob_learner(),blobs()
    p = predict(learn, TorchDataLoader(Stream(), 20))
    same(p, in_a_loop(learn.model, batches(x, y, 20)), features=False)

# nothing notices

def state(learn):
    "All that could have changed"
    layers = list(learn.model.modules())
    loaders = [learn.dls.train.rng.getstate(), learn.dls.valid.rng.getstate(), vars(learn.dls.train)['shuffle'], id(learn.dls.valid.rng)]
    return (weights_of(learn.model).tolist(), [m.training for m in layers], [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in layers],
            [None if o.grad is None else o.grad.tolist() for o in learn.model.parameters()], list(learn.cbs), learn.loss_func, loaders,
            torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate())

class FirstThree(nn.Module):
    "No linear layer"
    def forward(self, x): return x[:, :3]

def test_features_where_there_are_any():
    "As with features=True; without a linear layer, the same predictions of the same loader without them"
    learn = blob_learner()
    assert predict_with_features(learn).features.equal(predict(learn, features=True).features)
    learn.model = FirstThree()
    found = predict_with_features(learn, dl=learn.dls.valid)
    assert found.features is None and found.logits.equal(predict(learn, learn.dls.valid).logits)

@pytest.mark.parametrize('features', [False, True])
@pytest.mark.parametrize('dl', ['train', 'valid', 'shuffled', 'torch'])
def test_nothing_notices(dl, features):
    learn = blob_learner()
    learn.fit(1)
    if dl == 'shuffled': learn.dls.loaders[1] = learn.dls.valid.new(shuffle=True)
    learn.model.train()
    learn.model[1].eval() # a frozen part stays as it is
    gen = torch.Generator().manual_seed(3)
    loader = TorchDataLoader(TensorDataset(*blobs()), 16, shuffle=True, generator=gen) if dl == 'torch' else None if dl == 'train' else learn.dls.valid
    before,stream = state(learn),gen.get_state()
    predict(learn, loader, features=features)
    assert state(learn) == before and gen.get_state().equal(stream)

def test_nothing_notices_an_error():
    learn = blob_learner()
    learn.model.train()
    def stop(*args, **kwargs): raise RuntimeError('stop')
    learn.loss_func = stop
    before = state(learn)
    for dl in (None, learn.dls.valid):
        with pytest.raises(RuntimeError, match='stop'): predict(learn, dl, features=True)
        assert state(learn) == before

class Asks(Callback):
    "Predicts in the middle of an epoch"
    order = 70
    def __init__(self): self.found = []
    def after_batch(self):
        if self.training and self.iter == 2: self.found.append((predict(self.learn, features=True), predict(self.learn, self.dls.valid)))

def test_in_a_fit_with_mixup():
    "The loss is the user's own, not that of MixUp, and the training goes on as without the question"
    def run(*cbs):
        torch.manual_seed(0)
        learn = blob_learner(list(cbs))
        learn.dls.train.rng.seed(1)
        learn.fit(2, 1e-2, cbs=MixUp())
        return learn
    asked = run(Asks())
    assert torch.equal(weights_of(asked.model), weights_of(run().model)) and len(asked.asks.found) == 2
    for pair in asked.asks.found:
        for p in pair: torch.testing.assert_close(p.losses, F.cross_entropy(p.logits, p.targets, reduction='none'))

def test_each_sample_goes_through_the_model_once():
    learn,seen = blob_learner(dls=blob_dls(n=90, bs=20)),[]
    learn.model.register_forward_hook(lambda m, x, out: seen.append(len(out)))
    predict(learn)
    assert seen == [20, 20, 20, 20, 10]
    seen.clear()
    predict(learn, features='2')
    assert seen == [20, 20, 20, 20, 10]
    seen.clear()
    predict(learn, features=True)
    assert seen == [20, 20, 20, 20, 10] # the layer is found with the first batch

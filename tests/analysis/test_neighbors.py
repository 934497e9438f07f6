"Embeddings of every kind of model, and neighbours against scikit-learn, naive loops and limits."
import builtins, math, types
import numpy as np, pandas as pd, pytest, torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.utils.data import DataLoader as TorchDataLoader, TensorDataset
from sklearn.neighbors import NearestNeighbors
from fastai.basics import CrossEntropyLossFlat, DataLoaders, Datasets, L, Learner, SkipItemException, TfmdDL, Transform
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastnoisy.analysis.neighbors import _Exact, embed, knn_vote, nearest, neighbor_chunks, rows_at_once, vote_shares
from fastnoisy.core.predict import prediction_layer
from helpers import blob_dls, blob_learner, blobs, small_model, weights_of

def cloud(n=120, d=6, seed=0, dtype=torch.float32): return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)
SKLEARN = dict(cosine='cosine', l2='euclidean')

# the search

@pytest.mark.parametrize('metric', ['cosine', 'l2'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize('k', [1, 7, 119])
def test_neighbours_are_those_of_sklearn(metric, dtype, k):
    x = cloud(dtype=dtype) if dtype != torch.float16 else cloud().half()
    expected = NearestNeighbors(n_neighbors=k, algorithm='brute', metric=SKLEARN[metric]).fit(x.double().numpy()).kneighbors(return_distance=False)
    assert nearest(x, k, metric=metric).tolist() == expected.tolist()

@pytest.mark.parametrize('metric', ['cosine', 'l2'])
def test_queries(metric):
    x,q = cloud(),cloud(9, seed=1)
    expected = NearestNeighbors(n_neighbors=5, algorithm='brute', metric=SKLEARN[metric]).fit(x.numpy()).kneighbors(q.numpy(), return_distance=False)
    assert nearest(x, 5, metric=metric, queries=q).tolist() == expected.tolist()
    assert nearest(x, 1, metric=metric, queries=x)[:,0].tolist() == list(range(120)) # another data set: itself is a neighbour

def test_far_from_the_origin():
    "Distances are as precise as near the origin"
    x = cloud().double()
    expected = NearestNeighbors(n_neighbors=5, algorithm='brute').fit(x.numpy()).kneighbors(return_distance=False)
    assert nearest((x + 3000).float(), 5, metric='l2').tolist() == NearestNeighbors(n_neighbors=5, algorithm='brute').fit((x + 3000).float().double().numpy()).kneighbors(return_distance=False).tolist()
    assert (nearest((x + 3000).float(), 5, metric='l2') == torch.tensor(expected)).float().mean() > .98

def test_itself_is_left_out_by_id_and_duplicates_count():
    x = torch.tensor([[1., 0.], [1., 0.], [0., 1.], [0., 1.], [0., 1.]])
    for metric in ('cosine', 'l2'):
        ids = nearest(x, 1, metric=metric)[:,0].tolist()
        assert ids[:2] == [1, 0] and all(i != j and j >= 2 for i,j in zip((2, 3, 4), ids[2:]))
        assert (nearest(x, 5, metric=metric, exclude_self=False).sort(1).values == torch.arange(5)).all()

def test_a_vector_of_zeros_is_near_to_nobody():
    x = torch.cat([torch.zeros(1, 2), torch.tensor([[1., .1], [1., 0.]])])
    assert nearest(x, 1)[1:].flatten().tolist() == [2, 1]

@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(0, 1000), st.sampled_from(['cosine', 'l2']), st.floats(.0004, .01))
def test_chunks_do_not_matter(n, seed, metric, memory):
    x = cloud(n, 3, seed, torch.float64)
    k = max(1, n//2)
    chunks = list(neighbor_chunks(x, k, metric, memory=memory))
    assert torch.cat([i for i,_ in chunks]).tolist() == list(range(n))
    assert torch.equal(torch.cat([o for _,o in chunks]), nearest(x, k, metric=metric))
    assert max(len(i) for i,_ in chunks)*n*8 <= memory*2**20

def test_permuting_the_samples_permutes_the_neighbours():
    x,order = cloud(50),torch.randperm(50)
    assert torch.equal(order[nearest(x[order], 4)], nearest(x, 4)[order])

# memory

def test_rows_at_once():
    assert rows_at_once(50_000, 256) == 256*2**20//(4*50_000) and rows_at_once(2**18, 1) == 1 and rows_at_once(2**17, 1, 8) == 1
    with pytest.raises(ValueError, match='takes 1.0 MB'): rows_at_once(2**18, .99)

def in_64_bits(x, k, metric):
    "Ids of the k nearest by differences, one coordinate after the other"
    x = x.double()
    if metric == 'cosine': x = x/x.norm(dim=1, keepdim=True)
    distances = torch.cdist(x, x, compute_mode='donot_use_mm_for_euclid_dist')
    return distances.fill_diagonal_(math.inf).topk(k, largest=False).indices

def tight(name, n=600, d=16):
    g = torch.Generator().manual_seed(0)
    noise,y = torch.randn(n, d, generator=g),torch.randint(12, (n,), generator=g)
    centers = torch.randn(12, d, generator=g)
    return {'one cluster far from the origin': 100 + .01*noise, 'clusters far apart': 100*centers[y] + .01*noise,
            'directions': F.normalize(centers, dim=1)[y] + 1e-3*noise, 'very near directions': F.normalize(centers, dim=1)[y] + 1e-5*noise,
            'an outlier': torch.cat([torch.full((1, d), 1e6), noise[1:]]), 'a cloud': noise, 'after a ReLU': noise.relu() + 1e-3}[name]

@pytest.mark.parametrize('metric', ['cosine', 'l2'])
@pytest.mark.parametrize('memory', [256, .05])
@pytest.mark.parametrize('name', ['one cluster far from the origin', 'clusters far apart', 'directions', 'very near directions', 'an outlier', 'a cloud', 'after a ReLU'])
def test_exact_neighbors_are(name, metric, memory):
    x = tight(name)
    expected,got = in_64_bits(x, 10, metric),nearest(x, 10, metric=metric, memory=memory)
    assert (got.sort(1).values == expected.sort(1).values).float().mean() > .999
    assert (got == expected).float().mean() > .99

def test_doubtful_rows_only_are_searched_again(monkeypatch):
    "A cloud beside one tight cluster: the cloud is not searched in 64 bits"
    searched,own = [],_Exact._search_in_64_bits
    monkeypatch.setattr(_Exact, '_search_in_64_bits', lambda self, queries, *args: searched.append(len(queries)) or own(self, queries, *args))
    g = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(300, 8, generator=g), 50 + 1e-4*torch.randn(40, 8, generator=g)])
    nearest(x, 10, metric='l2')
    assert sum(searched) == 40
    nearest(x[:300], 10, metric='l2'), nearest(x[:300], 10)
    assert sum(searched) == 40

def test_a_vector_of_length_0_is_like_no_other():
    "By cosine it is as far from all as a right angle, as sklearn has it"
    x = torch.tensor([[1., .1], [1., 0.], [0., 1.], [-1., -.2], [0., 0.]])
    similarity = F.normalize(x, dim=1) @ F.normalize(x, dim=1).T
    for i,row in enumerate(nearest(x, 4)): assert (similarity[i, row].diff() < 1e-6).all()

@pytest.mark.parametrize('metric', ['cosine', 'l2'])
def test_the_largest_tensor_fits_in_memory(metric):
    "What is allocated while the neighbours are sought, as torch itself counts it"
    from torch.profiler import profile, ProfilerActivity
    x,mb = cloud(3000, 8),1.
    y = torch.zeros(3000, dtype=torch.long)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof: knn_vote(x, y, 10, 2, metric=metric, memory=mb)
    now = peak = 0
    for e in sorted((e for e in prof.profiler.kineto_results.events() if e.name() == '[memory]'), key=lambda e: e.start_ns()):
        now += e.nbytes()
        peak = max(peak, now)
    assert .9*mb*2**20 < peak < mb*2**20 + 8*x.numel()*4 # the table, copies of the features and what is small

# the vote

@pytest.mark.parametrize('metric', ['cosine', 'l2'])
@pytest.mark.parametrize('weighted', [False, True])
def test_vote_in_a_loop(metric, weighted):
    x,g = cloud(60),torch.Generator().manual_seed(1)
    y,w = torch.randint(4, (60,), generator=g),torch.rand(60, generator=g) if weighted else None
    ids = NearestNeighbors(n_neighbors=9, algorithm='brute', metric=SKLEARN[metric]).fit(x.numpy()).kneighbors(return_distance=False)
    expected = torch.zeros(60, 5)
    for i,around in enumerate(ids):
        for j in around: expected[i, y[j]] += 1. if w is None else w[j]
    got = knn_vote(x, y, 9, 5, w, metric=metric, memory=.01)
    torch.testing.assert_close(got, expected/expected.sum(1, keepdim=True))
    assert knn_vote(x, y, 9, weights=w, metric=metric).shape == (60, 4)
    torch.testing.assert_close(knn_vote(x, y, 9, 5, w if w is None else 7*w, metric=metric), got) # the scale of the trust does not matter

def test_nobody_to_trust_is_no_opinion():
    y,w = torch.tensor([0, 1, 1, 0]),torch.tensor([1., 0., 0., 0.])
    shares = knn_vote(torch.tensor([[0.], [1.], [2.], [10.]]), y, 1, 2, w, metric='l2')
    assert shares.tolist() == [[.5, .5], [1., 0.], [.5, .5], [.5, .5]]

def test_all_neighbours_are_the_frequencies_of_the_others():
    y = torch.tensor([0, 0, 1, 2, 2, 2])
    counts = y.bincount()
    torch.testing.assert_close(knn_vote(cloud(6), y, 5), torch.stack([(counts - F.one_hot(c, 3))/5 for c in y]))

def test_vote_shares():
    shares = vote_shares(torch.tensor([[0, 2, 2]]), torch.tensor([[1., 2., 1.]]), 3)
    assert shares.tolist() == [[.25, 0., .75]]

def test_labels_as_numpy_and_a_query():
    x,y = blobs()
    shares = knn_vote(x, y.numpy(), 10, queries=torch.eye(3, 4)*2)
    assert shares.argmax(1).tolist() == [0, 1, 2]

# faiss

class FakeFaiss(types.ModuleType):
    "An index that looks everywhere, in place of faiss"
    METRIC_L2,METRIC_INNER_PRODUCT = 'l2','ip'
    made = []
    def index_factory(self, d, name, kind):
        index = FakeIndex(kind)
        self.made.append((d, name, kind))
        return index

class FakeIndex:
    def __init__(self, kind): self.kind = kind
    def train(self, x): assert x.dtype == np.float32
    def add(self, x): self.x = x
    def search(self, q, k):
        near = q @ self.x.T if self.kind == 'ip' else 2*q @ self.x.T - (self.x**2).sum(1)
        ids = np.argsort(-near, 1, kind='stable')[:,:k]
        if ids.shape[1] < k or len(self.x) == 7: ids[:,-1] = -1 # as faiss does when the cells hold too few
        return near, ids

@pytest.mark.parametrize('metric', ['cosine', 'l2'])
def test_faiss_without_faiss(monkeypatch, metric):
    fake = FakeFaiss('faiss')
    fake.made = []
    monkeypatch.setitem(__import__('sys').modules, 'faiss', fake)
    x = cloud(2000, 8)
    assert torch.equal(nearest(x, 6, metric=metric, index='faiss'), nearest(x, 6, metric=metric))
    assert torch.equal(nearest(x, 6, metric=metric, index='faiss', queries=x[:5]), nearest(x, 6, metric=metric, queries=x[:5]))
    assert fake.made[0] == (8, 'IVF50,Flat', 'l2' if metric == 'l2' else 'ip')
    twins = cloud(20, 3).repeat(2, 1) # the other one may come before itself
    ids = nearest(twins, 3, metric=metric, index='faiss')
    assert (ids != torch.arange(40)[:,None]).all() and (ids == (torch.arange(40)[:,None] + 20) % 40).any(1).all()
    few = cloud(7, 3)
    ids = nearest(few, 2, metric=metric, index='faiss')
    y = torch.arange(7)
    expected = torch.stack([sum(F.one_hot(y[j], 7).float() for j in row if j >= 0)/(row >= 0).sum() for row in ids])
    assert (ids == -1).any() and torch.equal(knn_vote(few, y, 2, metric=metric, index='faiss'), expected)

@pytest.mark.parametrize('metric', ['cosine', 'l2'])
def test_faiss_itself(metric):
    pytest.importorskip('faiss')
    centres = cloud(50, 16, seed=1)
    x = centres.repeat(100, 1) + .3*cloud(5000, 16)
    exact,found = (nearest(x, 10, metric=metric, index=o) for o in ('exact', 'faiss'))
    assert (found != torch.arange(5000)[:,None]).all()
    assert np.mean([len(set(a) & set(b))/10 for a,b in zip(exact.tolist(), found.tolist())]) > .95

def test_faiss_is_missing(monkeypatch):
    own = builtins.__import__
    def none(name, *args, **kwargs):
        if name == 'faiss': raise ImportError
        return own(name, *args, **kwargs)
    monkeypatch.setattr(builtins, '__import__', none)
    with pytest.raises(ImportError, match=r'pip install fastnoisy\[faiss\]'): nearest(cloud(), 3, index='faiss')

# errors

@pytest.mark.parametrize('kwargs, match', [
    (dict(k=0), 'k=0'), (dict(k=120), 'there are 119 samples'), (dict(k=121, exclude_self=False), 'there are 120'), (dict(k=3, metric='l1'), "metric='l1'"),
    (dict(k=3, index='tree'), "index='tree'"), (dict(k=3, memory=1e-9), 'Give more'), (dict(k=3, queries=torch.full((2, 6), math.nan)), 'queries: some are NaN')])
def test_wrong_arguments(kwargs, match):
    with pytest.raises(ValueError, match=match): nearest(cloud(), **kwargs)

@pytest.mark.parametrize('x, y, kwargs, match', [
    (cloud()[0], torch.zeros(6).long(), {}, 'features: shape'), (cloud()/0, torch.zeros(120).long(), {}, 'NaN or infinite'),
    (cloud(), torch.zeros(9).long(), {}, 'labels: shape'), (cloud(), torch.zeros(120).long(), dict(weights=torch.ones(9)), 'weights: shape'),
    (cloud(), torch.zeros(120).long(), dict(weights=-torch.ones(120)), 'weights: give numbers'), (cloud(), torch.full((120,), 3), dict(n_classes=3), 'labels: from 3 to 3'),
    (cloud(), torch.full((120,), -1), {}, 'labels: from -1')])
def test_wrong_data(x, y, kwargs, match):
    with pytest.raises(ValueError, match=match): knn_vote(x, y, 3, **kwargs)

@pytest.mark.parametrize('weight', [math.inf, math.nan])
def test_trust_that_is_no_number(weight):
    weights = torch.ones(120)
    weights[7] = weight
    with pytest.raises(ValueError, match="weights: give numbers.*infinite"):
        knn_vote(cloud(), [0]*120, 3, weights=weights)

def test_no_samples():
    with pytest.raises(ValueError, match='labels: there are none'):
        knn_vote(torch.zeros(0, 3), torch.zeros(0).long(), 1)

def test_trust_beyond_32_bits():
    "Its scale does not matter, also where sums of it are no 32-bit numbers"
    y,w = torch.arange(120) % 3,torch.rand(120, generator=torch.Generator().manual_seed(0)).double()
    expected = knn_vote(cloud(), y, 9, weights=w)
    for scale in (1e37, 1e300):
        shares = knn_vote(cloud(), y, 9, weights=w*scale)
        torch.testing.assert_close(shares, expected)

@pytest.mark.parametrize('labels, match', [([0, None]*60, 'some are none'), ([0, 'a']*60, 'some are none'),
                                           ([.5]*120, 'integer class ids')])
def test_labels_that_are_no_class_ids(labels, match):
    with pytest.raises(TypeError, match=match): knn_vote(cloud(), labels, 3)

# the layer

def test_prediction_layer_is_found_by_its_output():
    class Aux(nn.Module):
        "The last linear layer that is listed and the last that is run are both others"
        def __init__(self):
            super().__init__()
            self.head,self.body,self.unused = nn.Linear(5, 3),nn.Linear(4, 5),nn.Linear(5, 3)
            self.side = nn.Linear(3, 3)
        def forward(self, x):
            pred = self.head(self.body(x).relu())
            self.side(pred)
            return pred
    model = Aux()
    assert prediction_layer(model, torch.randn(4, 4)) is model.head
    assert all(not m._forward_hooks for m in model.modules())
    bn = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3), nn.BatchNorm1d(3), nn.Softmax(1))
    assert prediction_layer(bn, torch.randn(4, 4)) is bn[1]

@pytest.mark.parametrize('model', [nn.Conv2d(3, 2, 3), nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Conv1d(3, 1, 1))])
def test_no_prediction_layer(model):
    with pytest.raises(ValueError, match='name the layer'): prediction_layer(model, torch.randn(1, 3, 3) if isinstance(model, nn.Sequential) else torch.randn(1, 3, 5, 5))

# the embedding

def by_hand(learn, x, part=slice(-1)):
    learn.model.eval()
    with torch.no_grad(): return learn.model[part](x)

def test_embedding_labels_and_losses():
    learn,(x,y) = blob_learner(),blobs()
    learn.fit(1, 1e-2)
    features,labels,losses = embed(learn, with_loss=True)
    torch.testing.assert_close(features, by_hand(learn, x))
    assert torch.equal(labels, y) and features.dtype == torch.float32 and not features.requires_grad
    torch.testing.assert_close(losses, F.cross_entropy(learn.model(x), y, reduction='none').detach())
    torch.testing.assert_close(embed(learn, layer='0'), by_hand(learn, x, slice(1)))
    torch.testing.assert_close(embed(learn, layer=learn.model[2]), by_hand(learn, x, slice(3)))
    torch.testing.assert_close(embed(learn, learn.dls.valid), by_hand(learn, blobs(48, seed=1)[0]))

def test_the_head_is_not_the_last_in_the_list():
    class Upside(nn.Module):
        def __init__(self):
            super().__init__()
            self.head,self.body = nn.Linear(5, 3),nn.Linear(4, 5)
        def forward(self, x): return self.head(self.body(x))
    learn = blob_learner()
    learn.model = Upside()
    torch.testing.assert_close(embed(learn), learn.model.body(blobs()[0]).detach())

def test_the_learner_does_not_notice():
    learn = blob_learner(dls=blob_dls(num_workers=0))
    learn.fit(1, 1e-2)
    learn.model.train()
    learn.model[1].eval() # a frozen part stays as it is
    def state(): return (weights_of(learn.model), [m.training for m in learn.model.modules()], list(learn.cbs), learn.dls.train.rng.getstate(), torch.get_rng_state().tolist(),
                         np.random.get_state()[1].tolist(), __import__('random').getstate(), [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in learn.model.modules()],
                         learn.loss_func, [p.grad is None for p in learn.model.parameters()], vars(learn.dls.train)['shuffle'])
    before = state()
    embed(learn, with_loss=True)
    after = state()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]

def test_hooks_leave_after_an_error():
    learn = blob_learner()
    def stop(*args, **kwargs): raise RuntimeError('stop')
    learn.loss_func = stop
    with pytest.raises(RuntimeError, match='stop'): embed(learn, with_loss=True)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in learn.model.modules())

def test_no_augmentation():
    class Noise(Transform):
        "Augmentation of items"
        split_idx = 0
        def encodes(self, x:torch.Tensor): return x + 100 if x.is_floating_point() else x
    class BatchNoise(Noise): pass
    x,y = blobs()
    dsets = Datasets(range(96), [[x.__getitem__, Noise()], [y.__getitem__]], splits=[range(80), range(80, 96)])
    dls = dsets.dataloaders(bs=16, num_workers=0, device='cpu', after_batch=BatchNoise())
    learn = blob_learner(dls=dls)
    assert dls.train.one_batch()[0].min() > 150
    torch.testing.assert_close(embed(learn), by_hand(learn, x[:80]))
    assert dls.train.one_batch()[0].min() > 150

def test_samples_that_cannot_be_read():
    class Broken:
        def __init__(self): self.x,self.y = blobs()
        def __len__(self): return 96
        def __getitem__(self, i):
            if i % 5 == 2: raise SkipItemException
            return self.x[i], self.y[i]
    learn = blob_learner(dls=DataLoaders(*(TfmdDL(Broken(), bs=16, shuffle=True, drop_last=True, num_workers=0) for _ in range(2))))
    features,labels,losses = embed(learn, with_loss=True)
    broken = torch.arange(96) % 5 == 2
    assert features[broken].isnan().all() and (labels[broken] == -1).all() and losses[broken].isnan().all()
    torch.testing.assert_close(features[~broken], by_hand(learn, blobs()[0])[~broken])
    assert torch.equal(labels[~broken], blobs()[1][~broken])

def test_torch_loader_and_workers():
    x,y = blobs()
    dls = DataLoaders(*(TorchDataLoader(TensorDataset(x, y), 20, shuffle=True, drop_last=True) for _ in range(2)))
    learn = blob_learner(dls=dls)
    torch.testing.assert_close(embed(learn), by_hand(learn, x))
    learn = blob_learner(dls=blob_dls(num_workers=2))
    torch.testing.assert_close(embed(learn), by_hand(learn, x))

def test_progress_bar(monkeypatch):
    import fastnoisy.core.predict as module
    seen = []
    monkeypatch.setattr(module, 'progress_bar', lambda dl, **kwargs: seen.append(kwargs) or dl)
    learn = blob_learner()
    embed(learn)
    assert seen == []
    learn.add_cb(ProgressCallback())
    embed(learn)
    with learn.no_bar(): embed(learn)
    assert seen == [dict(parent=None, leave=False)]

@pytest.mark.parametrize('layer, match', [('nope', "layer='nope': the model has no such module"), (nn.Linear(2, 2), 'NoneType for a batch'), ])
def test_wrong_layer(layer, match):
    with pytest.raises(ValueError, match=match): embed(blob_learner(), layer=layer)

def test_layer_without_one_vector_per_sample():
    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.body,self.fold,self.head = nn.Linear(4, 6),nn.Flatten(0),nn.Linear(6, 3)
        def forward(self, x):
            x = self.body(x)
            self.fold(x)
            return self.head(x)
    learn = blob_learner()
    learn.model = Rows()
    with pytest.raises(ValueError, match=r'The layer gave \(96,\) for a batch of 16'): embed(learn, layer='fold')
    assert embed(learn).shape == (96, 6)

def test_nothing_to_embed():
    learn = blob_learner()
    with pytest.raises(ValueError, match='nothing to embed'): embed(learn, TorchDataLoader(TensorDataset(blobs()[0][:0]), 4))

# the models people use

def check(learn, n, n_features):
    "The features times the last layer are the prediction, in the order of the data set"
    with learn.no_bar(), learn.no_logging():
        features,labels,_ = embed(learn, with_loss=True)
        assert features.shape == (n, n_features)
        last = [m for m in learn.model.modules() if isinstance(m, nn.Linear)][-1]
        preds,targets = learn.get_preds(ds_idx=0, act=lambda o: o)
    torch.testing.assert_close(last(features), preds, rtol=1e-4, atol=1e-4)
    assert torch.equal(labels, targets.flatten().long())

def pictures():
    from fastai.vision.all import TensorCategory, TensorImage
    x,y = torch.rand(6, 3, 32, 32),torch.arange(6) % 3
    data = L((TensorImage(a), TensorCategory(b)) for a,b in zip(x, y))
    dls = DataLoaders(*(TfmdDL(data, bs=4, num_workers=0, shuffle=not i) for i in range(2)))
    dls.c = 3
    return dls

@pytest.mark.parametrize('arch, n_features', [('resnet10t', 512), ('convnext_atto', 320), ('test_vit', 64)])
def test_timm(arch, n_features):
    import timm
    size = dict(img_size=32) if arch == 'test_vit' else {}
    check(Learner(pictures(), timm.create_model(arch, num_classes=3, **size), loss_func=CrossEntropyLossFlat()), 6, n_features)

@pytest.mark.parametrize('arch', ['resnet18', 'resnet10t'])
def test_vision_learner(arch):
    from fastai.vision.all import resnet18, vision_learner
    arch = resnet18 if arch == 'resnet18' else arch
    check(vision_learner(pictures(), arch, pretrained=False, n_out=3, loss_func=CrossEntropyLossFlat()), 6, 512)

@pytest.mark.parametrize('arch, n_features', [('InceptionTime', 128), ('LSTM', 100), ('FCN', 128), ('TST', 128*12)])
def test_tsai(arch, n_features):
    import importlib
    from tsai.tslearner import TSClassifier
    module = {'LSTM': 'RNN'}.get(arch, arch)
    cls = getattr(importlib.import_module(f'tsai.models.{module}'), arch)
    x = np.random.default_rng(0).random((40, 2, 12), dtype=np.float32)
    learn = TSClassifier(x, np.arange(40) % 3, splits=(list(range(28)), list(range(28, 40))), arch=cls, bs=8)
    check(learn, 28, n_features)

def test_tabular():
    from fastai.tabular.all import Categorify, Normalize, TabularDataLoaders, tabular_learner
    df = pd.DataFrame({'pos': np.arange(60.), 'kind': list('abc')*20, 'y': ['no', 'yes']*30})
    dls = TabularDataLoaders.from_df(df, procs=[Categorify, Normalize], cat_names=['kind'], cont_names=['pos'], y_names='y', valid_idx=range(40, 60), bs=8)
    check(tabular_learner(dls, layers=[20, 10]), 40, 10)

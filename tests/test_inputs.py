"What every method makes of models and labels out of the ordinary: ignored labels, several outputs, 64 bits"
import numpy as np, pytest, torch
import torch.nn.functional as F
from torch import nn
from fastai.basics import CrossEntropyLossFlat, DataLoaders, Learner
from torch.utils.data import DataLoader as TorchDataLoader
from fastai.callback.progress import ProgressCallback
from fastnoisy.analysis.report.table import noise_report
from fastnoisy.callback.dynamics import DynamicsCallback
from fastnoisy.losses.robust import GCELoss
from helpers import LR, N, linear, make, make_dls, methods_in, methods_of, weights_of
from settings import VARIANTS, battery, setting

pytestmark = pytest.mark.filterwarnings('ignore')
METHODS_AND_VARIANTS = [*battery(), *(o for o in VARIANTS if VARIANTS[o].data is None)]
QUESTIONS = 'label_quality','noise_probability','suggested_labels'

@pytest.fixture(params=METHODS_AND_VARIANTS)
def method(request): return request.param

def test_an_ignored_sample_has_no_verdict(method):
    ignored = np.arange(N) % 5 == 0
    dls = make_dls()
    dls.train.dataset.y = torch.where(torch.as_tensor(ignored), -100, dls.train.dataset.y)
    dls.valid.dataset.y = torch.where(torch.arange(32) % 3 == 0, -100, dls.valid.dataset.y)
    learn = make(method, dls)
    learn.fit(3, LR)
    assert weights_of(learn.model).isfinite().all()
    asked = method not in ('drop', 'weight') # these are told by a function, which knows all samples
    for cb in methods_in(learn) if asked and method != 'groups' else ():
        for said in (getattr(cb, o)() for o in QUESTIONS):
            if said is not None: assert (np.isnan(said) | (said == -1))[ignored].all(), cb.name
    report = noise_report(learn)
    assert report.given_label[ignored].isna().all() and report.label_quality[ignored].isna().all()
    assert not report.is_label_issue[ignored].any() and report.given_label[~ignored].notna().all()

class Outputs(nn.Module):
    "Logits and something else"
    def __init__(self, kind):
        super().__init__()
        self.body,self.kind = linear(),kind
    def forward(self, x):
        logits = self.body(x)
        others = dict(features=(logits, x.flatten(1)), twice=(logits, logits/2), list=[logits, None])
        return others[self.kind]

class OfFirst(nn.Module):
    "Cross-entropy of the first output, and of nothing else"
    def __init__(self):
        super().__init__()
        self.reduction,self.y_int = 'mean',True
    def forward(self, outputs, y):
        assert isinstance(outputs, (tuple, list)) or not self.strict
        logits = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
        return F.cross_entropy(logits, y, reduction=self.reduction)
    strict = False

def with_outputs(method, kind, strict=False):
    own,kwargs = methods_of(method)
    loss_func = OfFirst()
    loss_func.strict = strict
    learn = Learner(make_dls(), Outputs(kind), cbs=own, **{**kwargs, 'loss_func': loss_func})
    learn.remove_cbs(ProgressCallback)
    learn.logger = lambda *_: None
    return learn

@pytest.mark.parametrize('kind', ['features', 'twice', 'list'])
def test_the_first_of_several_outputs_counts(method, kind):
    own = setting(method)
    if type(methods_of(method)[1]['loss_func']) is not CrossEntropyLossFlat: pytest.skip('it is a loss')
    learn,plain = with_outputs(method, kind),make(method)
    for o in (learn, plain): o.fit(3, LR)
    assert len(noise_report(learn)) == N
    if 'unlabelled' in method or own.fresh: return # a loss of soft labels, one class after the other, rounds otherwise
    torch.testing.assert_close(weights_of(learn.model), weights_of(plain.model), rtol=1e-2, atol=1e-3)

@pytest.mark.parametrize('name', ['also', 'lilaw', 'elr', 'also+bmm', 'also+knn', 'm-correction', 'confidence:single',
                                  'co-teaching'])
def test_a_loss_that_wants_all_outputs_gets_them(name):
    "Also where a method asks for losses of its own: of the peer, of validation batches, of the training set"
    learn = with_outputs(name, 'features', strict=True)
    if name == 'm-correction': learn.m_correction.kind = 'hard'
    try: learn.fit(3, LR)
    except AssertionError: pytest.fail('the loss got the first output alone')
    assert len(noise_report(learn)) == N

def test_plain_pytorch_loaders(method):
    "Their batches are lists"
    dls = make_dls()
    loaders = [TorchDataLoader(o.dataset, 16, shuffle=True, drop_last=True) for o in dls.loaders]
    learn = make(method, DataLoaders(*loaders))
    learn.dls._device = torch.device('cpu') # tsai, once it has been imported, asks for it in every Learner
    learn.fit(3, LR)
    assert weights_of(learn.model).isfinite().all()
    if methods_in(learn): assert len(noise_report(learn)) == N

@pytest.mark.parametrize('loss_func', [CrossEntropyLossFlat, GCELoss])
def test_models_in_64_bits(method, loss_func):
    is_bare = 'cbs' not in setting(method).make()
    if is_bare and not (method == 'ce' and loss_func is CrossEntropyLossFlat):
        pytest.skip("see the next test")
    def trained(dtype):
        dls = make_dls()
        for dl in dls.loaders: dl.dataset.x = dl.dataset.x.to(dtype)
        learn = make(method, dls, linear(slope=.1).to(dtype))
        if type(learn.loss_func) is CrossEntropyLossFlat: learn.loss_func = loss_func()
        learn.fit(3, LR)
        assert len(noise_report(learn)) == N
        return weights_of(learn.model)
    wide,narrow = trained(torch.float64),trained(torch.float32)
    assert wide.isfinite().all()
    own = setting(method) # random weights are others, and the last bits decide between neighbours equally near
    is_exact = own.processes and not own.fresh and method not in ('fresh', 'balanced')
    if is_exact: torch.testing.assert_close(wide, narrow, rtol=1e-2, atol=1e-3)

@pytest.mark.parametrize('loss_func', [GCELoss, nn.CrossEntropyLoss])
def test_a_bare_loss_in_64_bits_needs_a_method(loss_func):
    "fastai's Recorder averages in 32 bits and refuses others, PyTorch's own loss too. Any method is the remedy"
    def learner(*cbs):
        dls = make_dls()
        for dl in dls.loaders: dl.dataset.x = dl.dataset.x.double()
        learn = Learner(dls, linear().double(), loss_func=loss_func(), cbs=[*cbs])
        learn.remove_cbs(ProgressCallback)
        learn.logger = lambda *_: None
        return learn
    with pytest.raises(RuntimeError, match='Recorder.*(?s:.*)double'): learner().fit(1, LR)
    learn = learner(DynamicsCallback())
    learn.fit(1, LR)
    assert len(learn.noise_report()) == N and next(learn.model.parameters()).dtype == torch.float64

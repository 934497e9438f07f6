"""One row per method: how to make it act within two epochs on the data of `helpers.make_dls`. The rows drive every
battery (contract, faults, precision, resume, several processes, texts, series); a new method needs one row here."""
from dataclasses import dataclass
import numpy as np, torch
from fastnoisy.all import METHODS
from fastnoisy.callback.also import ALSOCallback
from fastnoisy.callback.bmm import BMMFilterCallback, evaluation_losses
from fastnoisy.callback.cdr import CDRCallback
from fastnoisy.callback.co_teaching import CoTeachingCallback
from fastnoisy.callback.cores2 import CORES2Callback
from fastnoisy.callback.confidence import TwoModelConfidenceCallback
from fastnoisy.callback.disagreement import CoTeachingPlusCallback, DecouplingCallback, JoCoRCallback
from fastnoisy.callback.disc import DISCCallback
from fastnoisy.callback.elr import ELRCallback
from fastnoisy.callback.elr_plus import ELRPlusCallback
from fastnoisy.callback.divide_mix import DivideMixCallback
from fastnoisy.callback.fine import FINECallback
from fastnoisy.callback.ido import IDOCallback
from fastnoisy.callback.knn import KNNCorrectionCallback
from fastnoisy.callback.lilaw import LiLAWCallback
from fastnoisy.callback.m_correction import MCorrectionCallback
from fastnoisy.callback.meta import L2RCallback, MetaWeightNetCallback
from fastnoisy.callback.noisy_valid import LabelWaveCallback, NoisyValidCallback
from fastnoisy.callback.pes import PESCallback, PESSemiCallback
from fastnoisy.callback.planted import PlantedErrorsCallback
from fastnoisy.callback.pro_mix import ProMixCallback
from fastnoisy.callback.self_adaptive import SATCallback, SELCCallback
from fastnoisy.callback.sop import SOPCallback, SOPPlusCallback
from fastnoisy.callback.transition import GLCCallback, TransitionCallback, VolMinNetCallback
from fastnoisy.callback.unicon import UNICONCallback
from fastnoisy.core.method import MethodCallback
from fastnoisy.core.views import shifted
from fastnoisy.noise.label_noise import LabelNoise

ACTS = 'weights','labels','mask','loss','gradients'

@dataclass(frozen=True)
class Setting:
    "How a method is made to act within two epochs, and what is to be seen of it"
    make:callable # () -> arguments of `Learner`: `cbs`, `loss_func`
    acts:tuple=() # What `Watch` sees of it, of `ACTS`
    moves:callable=lambda learn: {} # Learner -> {name: tensor} of all that an optimizer step moves besides the model
    keeps:callable=lambda learn: {} # Learner -> {name: tensor} of what stays finite, whatever a step was that was skipped
    inputs:callable=lambda learn: {} # Learner -> {name: tensor} of what a fit within the method is made to
    settled:callable=lambda learn: True # Is what that fit gives determined by its inputs, far from where it would give something else?
    data:callable=None # Loaders of `make_dls` -> loaders with what it cannot do without; the batteries on plain data leave it out
    mixup:str='' # What its refusal of MixUp says; '' = they compose
    other_classes:str='' # What its refusal of other classes and another model between two fits says; '' = it goes on
    text:callable=lambda make_model: {} # Function that makes a model of texts, which cannot be copied -> options of `make` for it
    processes:bool=True # Do several processes give what one gives? Not with random numbers of their own
    fresh:bool=False # Has it a network whose weights are drawn, so that classes with other ids give another training?
    dynamics:bool=True # Can `DynamicsCallback` look at its predictions?

def early(cls, *args, **kwargs):
    "The callback, acting from the second epoch on"
    return cls(*args, warmup=1, **kwargs)

def also(**kwargs): return ALSOCallback(temperature=.5, horizon=1, **kwargs)
def lilaw(**kwargs): return LiLAWCallback(warmup=0, lr=.5, **kwargs)
def knn(**kwargs): return early(KNNCorrectionCallback, k=5, agreement=.5, **kwargs)
def confidence(**kwargs): return TwoModelConfidenceCallback(**{'view': flipped, **kwargs})
def co_teaching(**kwargs): return CoTeachingCallback(**{'noise_rate': .25, 'ramp': 0, 'init': 'copy', **kwargs})
def chosen(cls, **kwargs): return cls(**{'noise_rate': .25, 'ramp': 0, **kwargs})
def divide_mix(**kwargs): return DivideMixCallback(warmup=1, by=.8, **kwargs)
def m_correction(**kwargs): return MCorrectionCallback(warmup=1, **{'by': .8, **kwargs})
def selc(**kwargs): return SELCCallback(**{'warmup': 0, **kwargs})
def sat(**kwargs): return SATCallback(**{'warmup': 0, **kwargs})
def weight_net(**kwargs): return MetaWeightNetCallback(**{'lr': .01, **kwargs})
def unicon(**kwargs):
    "Its divergences form two groups for it, after one epoch too"
    cb = early(UNICONCallback, **kwargs)
    cb.by = .3
    return cb

def pro_mix(**kwargs): return early(ProMixCallback, **{'noise_rate': .25, 'tau': .9, **kwargs})
def transition(**kwargs): return TransitionCallback(**{'T': .7*np.eye(3) + .1, **kwargs})
def flipped(x): return x.flip(-1)

def loss_of_each(learn): return {'losses': torch.as_tensor(evaluation_losses(learn))}
def mixture_is_clear(learn): return learn.bmm.separates and learn.bmm.mixture.separation > 2.5

def two_groups(learn):
    "One number per sample, a quarter of them high: what a mixture makes of it is well determined"
    n = len(learn.dls.train.dataset)
    return np.r_[np.linspace(.05, .2, n - n//4), np.linspace(.8, .95, n//4)]

def with_images(dls):
    "The four features of a sample as an image of 2 x 2"
    for dl in dls.loaders: dl.dataset.x = dl.dataset.x.view(-1, 1, 2, 2)
    return dls

def as_they_are(dls):
    "Of a method that is told of samples by their ids: not for sets of other sizes"
    return dls

def with_truth(dls):
    dls.noise = LabelNoise(dls.train.dataset.true, dls.train.dataset.y, 3)
    return dls

def vol_min_moves(learn): return {'w': learn.vol_min.w.detach()}
def lilaw_moves(learn): return {'lilaw': learn.lilaw.state.params}
def confidence_moves(learn): return {f'robust.{k}': v for k,v in learn.confidence.robust_model.state_dict().items()}
def co_teaching_moves(learn): return {f'peer.{k}': v for k,v in learn.co_teaching.peer.model.state_dict().items()}
def co_teaching_keeps(learn): return {'kept': learn.co_teaching.kept.values}
def weight_net_moves(learn): return {'weight_net': learn.meta_weight_net.w.detach()}
def peer_moves(name):
    def of(learn): return {f'peer.{k}': v for k,v in getattr(learn, name).peer.model.state_dict().items()}
    return of

def peer_keeps(name): return lambda learn: {'kept': getattr(learn, name).kept.values}
def divide_mix_moves(learn): return {f'peer.{k}': v for k,v in learn.divide_mix.peer.model.state_dict().items()}
def also_keeps(learn): return {'also': learn.also.pi.all()}
def elr_keeps(learn): return {'targets': learn.elr.targets.all()}
def elr_plus_keeps(learn): return {'targets': learn.elr_plus.targets.all()}
def selc_keeps(learn): return {'average': learn.selc.average.all()}
def sop_keeps(learn): return {'u': learn.sop.u.all(), 'v': learn.sop.v.all()}
def sop_plus_keeps(learn): return {'u': learn.sop_plus.u.all(), 'v': learn.sop_plus.v.all()}
def sat_keeps(learn): return {'average': learn.sat.average.all()}
def disc_keeps(learn): return {'said': learn.disc.said.all(), 'confidence': learn.disc.confidence.all()}
def ido_keeps(learn): return {'counts': learn.ido.counts.all()}
def confidence_keeps(learn): return {'mu': learn.confidence.mu}
_classes = r"of the classes \['a', 'b', 'c'\], and now they are \['a', 'b', 'c', 'd'\]: use a new"
_model = 'that of another model.*Use a new'
_two = dict(acts=('weights', 'loss'), moves=confidence_moves, keeps=confidence_keeps, other_classes=_model,
            text=lambda make_model: dict(robust_model=make_model(), view=None))
_peers = dict(acts=('weights', 'loss'), moves=co_teaching_moves, keeps=co_teaching_keeps, other_classes=_model,
              text=lambda make_model: dict(model_maker=make_model, noise_rate=.1)) # the rate of those texts
def beside(name, **of_text):
    "What is alike for methods with a second network, drawn anew, and a choice among the samples of a batch"
    return dict(acts=('weights', 'loss'), moves=peer_moves(name), keeps=peer_keeps(name), other_classes=_model,
                fresh=True, text=lambda make_model: dict(of_text, model_maker=make_model))

SETTINGS = {
    'ce': Setting(dict),
    'gce': Setting(METHODS['gce'].make, ('loss',)),
    'js': Setting(METHODS['js'].make, ('loss',)),
    'gjs': Setting(METHODS['gjs'].make, ('loss',), data=with_images, dynamics=False),
    'oracle': Setting(METHODS['oracle'].make, ('mask',), data=with_truth),
    'lilaw': Setting(lambda: dict(cbs=lilaw()), ('weights',), moves=lilaw_moves),
    'also': Setting(lambda: dict(cbs=also()), ('weights',), keeps=also_keeps),
    'also+bmm': Setting(lambda: dict(cbs=[also(), early(BMMFilterCallback, 'also', 'drop')]), ('weights', 'mask'),
                        keeps=also_keeps, settled=mixture_is_clear),
    'also+knn': Setting(lambda: dict(cbs=[also(), knn()]), ('weights', 'labels'),
                        keeps=also_keeps, other_classes=_classes),
    'cdr': Setting(lambda: dict(cbs=CDRCallback(.3)), ('gradients',)),
    'elr': Setting(lambda: dict(cbs=ELRCallback()), ('loss',), keeps=elr_keeps, other_classes=_classes),
    'elr+': Setting(lambda **options: dict(cbs=ELRPlusCallback(**options)), ('loss',), moves=peer_moves('elr_plus'),
                    keeps=elr_plus_keeps, other_classes=_model, mixup='leave MixUp and', processes=False, fresh=True,
                    text=lambda make_model: dict(model_maker=make_model)),
    'selc': Setting(lambda **options: dict(cbs=selc(**options)), ('labels',), keeps=selc_keeps,
                    other_classes=_classes, text=lambda make_model: dict(warmup=1)), # when it knows something
    'sat': Setting(lambda **options: dict(cbs=sat(**options)), ('labels', 'weights'), keeps=sat_keeps,
                   other_classes=_classes, text=lambda make_model: dict(warmup=1)),
    'sop': Setting(lambda: dict(cbs=SOPCallback()), ('loss',), keeps=sop_keeps, mixup='leave one of them',
                   other_classes='numbers of the classes.*use a new'),
    'sop+': Setting(lambda: dict(cbs=SOPPlusCallback()), ('loss',), keeps=sop_plus_keeps, mixup='leave one of them',
                    data=with_images, processes=False),
    'divide-mix': Setting(lambda **options: dict(cbs=divide_mix(**options)), ('loss',), moves=divide_mix_moves,
                          other_classes=_model, mixup='leave MixUp and', processes=False, fresh=True,
                          text=lambda make_model: dict(peer=make_model())),
    'fine': Setting(lambda: dict(cbs=early(FINECallback, by=.48, min_per_class=1)), ('mask',), other_classes=_classes,
                    processes=False), # what it keeps does not fill their batches
    'pes': Setting(lambda: dict(cbs=early(PESCallback, stages=(), min_per_class=12)), ('mask', 'weights'),
                   other_classes=_classes, processes=False), # what it uses does not fill their batches
    'pes-semi': Setting(lambda: dict(cbs=early(PESSemiCallback, stages=())), ('loss',), other_classes=_classes,
                        mixup='leave MixUp and', processes=False),
    'unicon': Setting(lambda **options: dict(cbs=unicon(**options)), ('loss',),
                      moves=peer_moves('unicon'), other_classes=_model, mixup='leave MixUp and', processes=False,
                      fresh=True, text=lambda make_model: dict(peer=make_model())),
    'm-correction': Setting(lambda: dict(cbs=m_correction()), ('labels', 'loss'), other_classes=_classes),
    'forward': Setting(lambda **options: dict(cbs=transition(**options)), ('loss',),
                       text=lambda make_model: dict(T=.9*np.eye(2) + .05),
                       other_classes='matrix of 3 classes, and the model predicts 4'),
    'vol-min': Setting(lambda **options: dict(cbs=VolMinNetCallback(lr=.1, **options)), ('loss',), moves=vol_min_moves,
                       other_classes=_classes, text=lambda make_model: dict(diagonal=.95)),
    'confidence': Setting(lambda **options: dict(cbs=confidence(**options)), **_two, mixup='jsd=0'),
    'confidence:two': Setting(lambda **options: dict(cbs=confidence(jsd=0, correct_from=1, **options)), **_two),
    'confidence:single': Setting(lambda: dict(cbs=confidence(models=1)), ('weights', 'loss'), keeps=confidence_keeps),
    'decoupling': Setting(lambda **options: dict(cbs=DecouplingCallback(warmup=1, **options)), **beside('decoupling')),
    'co-teaching+': Setting(lambda **options: dict(cbs=chosen(CoTeachingPlusCallback, **options)),
                            **beside('co_teaching_plus', noise_rate=0)),
    'jocor': Setting(lambda **options: dict(cbs=chosen(JoCoRCallback, **options)),
                     **beside('jocor', noise_rate=0, lam=.1)),
    'ido': Setting(lambda: dict(cbs=early(IDOCallback, at_least=10, view=shifted)), ('weights', 'loss'),
                   data=with_images, keeps=ido_keeps, processes=False),
    'disc': Setting(lambda: dict(cbs=early(DISCCallback, start=.4, view=shifted)), ('weights', 'loss'),
                    data=with_images, keeps=disc_keeps, other_classes=_classes, mixup='leave MixUp and',
                    processes=False),
    'pro-mix': Setting(lambda **options: dict(cbs=pro_mix(**options)), mixup='leave MixUp and',
                       **beside('pro_mix', noise_rate=0)),
    'l2r': Setting(lambda **options: dict(cbs=L2RCallback(**options)), ('weights',), processes=False,
                   text=lambda make_model: dict(meta_of='head')),
    'meta-weight-net': Setting(lambda **options: dict(cbs=weight_net(**options)), ('weights',), processes=False,
                               moves=weight_net_moves, text=lambda make_model: dict(meta_of='head', lr=1e-3)),
    'glc': Setting(lambda **options: dict(cbs=early(GLCCallback, range(0, 32, 2))), ('mask',), data=as_they_are,
                   other_classes=_classes),
    'cores2': Setting(lambda **options: dict(cbs=CORES2Callback(warmup=0, ramp=1, **options)), ('weights', 'loss'),
                      other_classes='knows 3 classes, and the model predicts 4',
                      text=lambda make_model: dict(beta=0.)), # the sieve alone: the peer term is no loss that falls
    'co-teaching': Setting(lambda **options: dict(cbs=co_teaching(**options)), **_peers), # a copy: classes have no order
}

# more ways to use a method, for the batteries about state: resume and several processes

VARIANTS = {
    'drop': Setting(lambda: dict(cbs=early(BMMFilterCallback, two_groups, 'drop', min_kept=0, recheck=0)), ('mask',)),
    'weight': Setting(lambda: dict(cbs=early(BMMFilterCallback, two_groups, 'weight')), ('weights',)),
    'loss': Setting(lambda: dict(cbs=early(BMMFilterCallback, 'loss')), inputs=loss_of_each, settled=mixture_is_clear),
    'groups': Setting(lambda: dict(cbs=also(groups=np.arange(64) % 7)), ('weights',)),
    'optimistic': Setting(lambda: dict(cbs=also(mode='optimistic')), ('weights',)),
    'distillation': Setting(lambda: dict(cbs=confidence(penalty_kind='distillation', penalty=1., track=True)), **_two),
    'shifts': Setting(lambda: dict(cbs=confidence(view=None)), **_two, data=with_images, processes=False),
    'filter': Setting(lambda: dict(cbs=knn(action='filter')), ('weights',), processes=False), # as 'soft'
    # shares of tied neighbours are its labels: what the last bits decide is trained on
    'soft': Setting(lambda: dict(cbs=[also(), knn(soft=True)]), ('weights', 'labels'), processes=False),
    'fresh': Setting(lambda: dict(cbs=co_teaching(init='fresh')), **_peers),
    'balanced': Setting(lambda: dict(cbs=co_teaching(init='fresh', balanced=True)), **_peers),
    'trusted-valid': Setting(lambda: dict(cbs=early(GLCCallback)), other_classes=_classes), # and says too little
    'estimated': Setting(lambda: dict(cbs=early(TransitionCallback)), other_classes=_classes), # and says too little
    'reweight': Setting(lambda: dict(cbs=transition(use='reweight')), ('weights',)),
    'backward': Setting(lambda: dict(cbs=transition(use='backward')), ('labels',)),
    'unlabelled': Setting(lambda: dict(cbs=divide_mix(lambda_u=1.)), ('loss',), moves=divide_mix_moves,
                          processes=False),
    'strong': Setting(lambda: dict(cbs=early(IDOCallback, per_class=False)), ('weights', 'loss'), data=with_images,
                      processes=False),
    'averaged': Setting(lambda: dict(cbs=ELRPlusCallback(networks=1, alpha=0.)), ('loss',), keeps=elr_plus_keeps,
                        moves=peer_moves('elr_plus'), other_classes=_model),
    'planted': Setting(lambda: dict(cbs=PlantedErrorsCallback(.2)), ('labels',)),
    'noisy-valid': Setting(lambda: dict(cbs=NoisyValidCallback(restore=False))),
    'label-wave': Setting(lambda: dict(cbs=LabelWaveCallback(stop=False, restore=False))),
    'm-soft': Setting(lambda: dict(cbs=m_correction(kind='soft')), ('labels', 'loss')),
    'lilaw+also': Setting(lambda: dict(cbs=[lilaw(meta_every=2), also()]), ('weights',), moves=lilaw_moves),
}

def setting(name): return SETTINGS[name] if name in SETTINGS else VARIANTS[name]

def battery():
    "Methods that every battery is run for, on plain data. Bare losses differ in a formula only: three stand for all"
    return [o for o in METHODS if o in SETTINGS and SETTINGS[o].data is None]

class Watch(MethodCallback):
    "Sees what the methods of a Learner make of the training: `seen`, some of `ACTS`"
    name,order = 'watch',45
    def __init__(self): self.seen = set()
    def begin_fit(self):
        dataset = self.dls.train.dataset
        self.given = torch.stack([torch.as_tensor(dataset[i][1]) for i in range(len(dataset))])

    def before_train(self): self.loaded = []

    def after_loss(self):
        learn,ids = self.learn,self.learn.sample_ids
        self.loaded.append(ids)
        if (learn.sample_weight != 1).any(): self.seen.add('weights')
        if learn.sample.labels.soft is not None or (learn.yb[0] != self.given[ids]).any(): self.seen.add('labels')
        pred = learn.pred[0] if isinstance(learn.pred, tuple) else learn.pred
        plain = torch.nn.functional.cross_entropy(pred.detach().float(), self.given[ids])
        if not torch.isclose(learn.loss_grad.detach().float(), plain, rtol=1e-3): self.seen.add('loss')

    def after_backward(self): self.zeros = self._zeros()

    def after_step(self): # before the gradients are set to zero
        if self._zeros() > self.zeros: self.seen.add('gradients')

    def _zeros(self): return sum(int((p.grad == 0).sum()) for p in self.model.parameters() if p.grad is not None)

    def after_train(self):
        if len(torch.cat(self.loaded).unique()) < len(self.given): self.seen.add('mask')

def acted(learn)->set:
    "What the methods of a Learner with `Watch` have changed in its training"
    return learn.watch.seen

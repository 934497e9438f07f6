"Ids and weights in the learners people use: images from folders, tables, series. The truth is written into each item."
import pickle
import numpy as np, pandas as pd, pytest, torch
from PIL import Image
from fastai.vision.all import (CategoryBlock, DataBlock, ImageBlock, ImageDataLoaders, IntToFloatTensor, Learner, L, RandomSplitter,
                               ToTensor, accuracy, get_image_files, parent_label, vision_learner, CrossEntropyLossFlat)
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastnoisy.audit import learners
from fastnoisy.audit.images import OpenImageFile
from fastnoisy.audit.sources import Labelled
from fastnoisy.core.method import MethodCallback
from fastnoisy.data.noisy_dls import noisy

class Check(MethodCallback):
    "Compares the ids with what `position` reads from the batch, and gives even ids twice the weight"
    name = 'check'
    def __init__(self, position): self.position,self.n = position,0
    def batch_weights(self):
        assert self.position(self).tolist() == self.sample_ids.tolist()
        self.n += len(self.sample_ids)
        return 2. - self.sample_ids % 2

def fit(learn):
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    return learn.check.n

@pytest.fixture
def folder(tmp_path):
    "Thirty pictures in two folders; the grey level of picture n is 5n, the file is called n.png"
    for n in range(30):
        (tmp_path/f'pics/{n % 2}').mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), 5*n, np.uint8)).save(tmp_path/f'pics/{n % 2}/{n}.png')
    return tmp_path/'pics'

def picture_position(cb):
    "Position in the training set of the picture with this grey level"
    names = {int(o.stem): i for i,o in enumerate(cb.dls.train.items)}
    x = cb.x
    return torch.tensor([names[round(v.item()*255/5)] for v in x[:,0,0,0]])

@pytest.mark.parametrize('num_workers', [0, 2])
def test_vision_learner_from_folder(folder, num_workers):
    dls = ImageDataLoaders.from_folder(folder, valid_pct=.3, seed=0, bs=8, num_workers=num_workers, device='cpu')
    learn = vision_learner(dls, 'resnet18', pretrained=False, metrics=accuracy, cbs=Check(picture_position))
    assert fit(learn) == 16 # drop_last: two batches of 21 pictures

def test_vision_learner_from_a_data_block(folder):
    block = DataBlock((ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label, splitter=RandomSplitter(.3, seed=1))
    learn = vision_learner(block.dataloaders(folder, bs=8, num_workers=0, device='cpu'), 'resnet18', pretrained=False, cbs=Check(picture_position))
    assert fit(learn) == 16

def test_vision_learner_fine_tune(folder):
    dls = ImageDataLoaders.from_folder(folder, valid_pct=.3, seed=0, bs=8, num_workers=0, device='cpu')
    learn = vision_learner(dls, 'resnet18', pretrained=False, cbs=Check(picture_position))
    with learn.no_bar(), learn.no_logging(): learn.fine_tune(1)
    assert learn.check.n == 32

def test_tabular_learner():
    from fastai.tabular.all import Categorify, Normalize, TabularDataLoaders, tabular_learner
    df = pd.DataFrame({'pos': np.arange(60.), 'kind': list('abc')*20, 'y': ['no', 'yes']*30})
    dls = TabularDataLoaders.from_df(df, procs=[Categorify], cat_names=['kind'], cont_names=['pos'], y_names='y',
                                     valid_idx=range(40, 60), bs=8)
    learn = tabular_learner(dls, cbs=Check(lambda cb: cb.xb[1][:,0].long()))
    assert fit(learn) == 40

def test_tsai_classifier():
    from tsai.tslearner import TSClassifier
    from tsai.models.FCN import FCN
    x = np.arange(60, dtype=np.float32)[:,None,None].repeat(16, 2)
    learn = TSClassifier(x, np.arange(60) % 2, splits=(list(range(40)), list(range(40, 60))), arch=FCN, bs=8, cbs=Check(lambda cb: cb.x[:,0,0].long()))
    assert fit(learn) == 40

class CountsOpened(OpenImageFile):
    n = 0
    def encodes(self, o):
        CountsOpened.n += 1
        return super().encodes(o)

@pytest.fixture
def pictures(folder):
    "The thirty pictures as an audit reads them"
    paths = sorted(folder.rglob('*.png'), key=lambda o: int(o.stem))
    labels = np.array([o.parent.name for o in paths])
    left_out = pd.DataFrame(columns=['row', 'item', 'problem'])
    CountsOpened.n = 0
    return Labelled(folder, 'files', paths, labels, np.arange(30), left_out, side=32., open_image=CountsOpened())

def grey_and_label(dl): return sorted((round(x.mean().item()*255/5), int(y)) for xs,ys in dl for x,y in zip(xs, ys))

def test_each_image_is_opened_once(pictures):
    dl = learners._image_dl(pictures, 32, 8, 'cpu')
    dl.after_batch.fs = L(o for o in dl.after_batch.fs if isinstance(o, IntToFloatTensor))
    dl.one_batch()
    seen = [grey_and_label(dl) for _ in range(3)]
    assert seen == [[(n, n % 2) for n in range(30)]]*3
    assert CountsOpened.n <= 31 # the first batch has some of them, and a loader looks at its first sample
    again = dl.new(shuffle=False)
    assert grey_and_label(again) == seen[0] and CountsOpened.n <= 31
    assert len({tuple(y for _,ys in dl for y in ys.tolist()) for _ in range(5)}) > 1 # shuffled as ever
    rest = dl.new(dl.dataset.new_empty())
    assert len(rest) == 0 and rest.memory is dl.memory

def test_kept_images_have_the_labels_in_force(pictures):
    "Labels that are changed on purpose are not the ones that were there when an image was opened"
    dl = learners._image_dl(pictures, 32, 8, 'cpu')
    dl.after_batch.fs = L(o for o in dl.after_batch.fs if isinstance(o, IntToFloatTensor))
    right = dict(grey_and_label(dl))
    dls = noisy(learners.DataLoaders(dl, dl.new(shuffle=False)), .4, valid=False)
    given = dict(grey_and_label(dls.train))
    assert [given[n] for n in range(30)] == dls.noise.given.tolist() and given != right == dict(grey_and_label(dl))
    assert CountsOpened.n <= 32

def test_what_does_not_fit_is_opened_anew(pictures, monkeypatch):
    monkeypatch.setattr(learners, 'MEMORY', 30*3*32**2 - 1)
    assert type(learners._image_dl(pictures, 32, 8, 'cpu')) is learners.TfmdDL
    monkeypatch.setattr(learners, 'MEMORY', 30*3*32**2)
    assert type(learners._image_dl(pictures, 32, 8, 'cpu')) is learners.RememberingDL
    assert type(learners._image_dl(pictures, 32, 8, 'cpu', workers=2)) is learners.TfmdDL

def test_kept_images_are_not_sent_to_other_processes(pictures):
    dl = learners._image_dl(pictures, 32, 8, 'cpu')
    for _ in dl: pass
    assert len(dl.memory[1]) == 30 and pickle.loads(pickle.dumps(dl)).memory is None and len(dl.memory[1]) == 30

"What a training is judged by, against other ways to count it."
import math
import matplotlib.pyplot as plt
import numpy as np, pandas as pd, pytest, torch
from torch import nn
from sklearn.metrics import roc_auc_score, top_k_accuracy_score
from fastai.basics import Learner
from fastnoisy.analysis.calibration import fit_temperature
from fastnoisy.data.digits import digits_dls
from fastnoisy.models import small_cnn
from fastnoisy.analysis.metrics import (MEASURES, accuracy_of, logits_of, macro_auroc, model_scores, plot_accuracies,
                                        prediction_scores, training_accuracies)
from helpers import blob_dls, small_model

def test_scores_against_their_definitions():
    g = torch.Generator().manual_seed(0)
    logits,y = 2*torch.randn(300, 8, generator=g),torch.randint(0, 8, (300,), generator=g)
    logits[range(300), y] += 1.5
    got = prediction_scores(logits, y, temperature=2.)
    pred,probs = logits.argmax(1),logits.softmax(1).double()
    assert list(got) == MEASURES and got['accuracy'] == (pred == y).double().mean()
    assert got['top5'] == pytest.approx(top_k_accuracy_score(y, logits.numpy(), k=5))
    recalls = [(pred[y == k] == k).double().mean() for k in range(8)]
    assert got['balanced'] == pytest.approx(np.mean(recalls))
    def f1(k):
        hit = ((pred == k) & (y == k)).sum()
        return float(2*hit/((pred == k).sum() + (y == k).sum()))
    assert got['f1'] == pytest.approx(np.mean([f1(k) for k in range(8)]))
    assert got['auroc'] == pytest.approx(roc_auc_score(y, probs/probs.sum(1, keepdim=True), multi_class='ovr'), abs=1e-6)
    confidence,right = (logits/2).softmax(1).amax(1),pred == y
    bins = [(confidence > i/15) & (confidence <= (i+1)/15) for i in range(15)]
    assert got['ece_scaled'] == pytest.approx(sum(float(o.float().mean()*(right[o].float().mean() - confidence[o].mean()).abs()) for o in bins if o.any()), abs=1e-6)
    assert got['ece_scaled'] != got['ece'] == prediction_scores(logits, y)['ece_scaled'] and got['temperature'] == 2.

@pytest.mark.parametrize('n_classes', [2, 5])
def test_no_top5_where_it_says_nothing(n_classes): assert np.isnan(prediction_scores(torch.eye(n_classes), torch.arange(n_classes))['top5'])

def test_model_scores_are_of_the_test_set_with_the_temperature_of_the_validation_set():
    dls = digits_dls(noise=.3, device='cpu')
    learn = Learner(dls, small_cnn())
    learn.fit(2, 3e-3)
    learn.model.train()
    state = {k: v.clone() for k,v in learn.model.state_dict().items()}
    got = model_scores(learn)
    assert learn.model.training and all(torch.equal(v, state[k]) for k,v in learn.model.state_dict().items())
    logits,y = learn.get_preds(dl=dls.test, act=lambda o: o)
    assert got['accuracy'] == (logits.argmax(1) == y).double().mean() and (logits_of(learn.model, dls.test)[1] == y).all()
    assert got['temperature'] == pytest.approx(fit_temperature(*learn.get_preds(dl=dls.valid, act=lambda o: o)), rel=1e-4)

# learnt or memorised

def test_accuracy_in_a_loop():
    "Batches of unequal size, in eval mode; the modes of the modules are as before"
    dls,model = blob_dls(bs=20),small_model()
    model.train()
    model[1].eval()
    modes = [m.training for m in model.modules()]
    got = accuracy_of(model, dls.valid)
    assert [m.training for m in model.modules()] == modes
    model.eval()
    right = [model(x[None]).argmax().item() == y.item() for x,y in dls.valid_ds]
    assert got == pytest.approx(sum(right)/len(right)) and 0 < got < 1

def test_targets_that_are_no_class_ids():
    with pytest.raises(TypeError, match='class id'): accuracy_of(nn.Linear(2, 3), [(torch.rand(4, 2), torch.rand(4))])

@pytest.mark.parametrize('as_array', [False, True])
def test_training_accuracies_in_a_loop(as_array):
    g = torch.Generator().manual_seed(0)
    right = torch.randint(0, 2, (50,), generator=g).float()
    flipped = torch.rand(50, generator=g) < .3
    right[torch.rand(50, generator=g) < .2] = math.nan
    def share(which):
        seen = [r for r,w in zip(right.tolist(), which) if w and not math.isnan(r)]
        return sum(seen)/len(seen)
    got = training_accuracies(right, flipped.numpy() if as_array else flipped)
    assert got == pytest.approx(dict(clean_train=share(~flipped), noisy_train=share(flipped)))
    assert training_accuracies(right) == pytest.approx(dict(train=share([True]*50)))

def test_none_seen(): assert math.isnan(training_accuracies(torch.full((3,), math.nan))['train'])

def test_plot_has_a_line_for_each_model_that_there_is():
    fig = plot_accuracies(pd.DataFrame(dict(model_test=[.1, .2], robust_test=[.3, .4], model_train=[.5, .6])))
    assert [len(ax.lines) for ax in fig.axes] == [2, 1] and list(fig.axes[0].lines[1].get_ydata()) == [.3, .4]
    assert list(fig.axes[1].lines[0].get_xdata()) == [1, 2]
    plt.close(fig)

"Accuracies by naive loops."
import math
import matplotlib.pyplot as plt
import pandas as pd, pytest, torch
from torch import nn
from fastnoisy.analysis.accuracies import accuracy_of, plot_accuracies, training_accuracies
from helpers import blob_dls, small_model

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

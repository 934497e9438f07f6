"How much is wrong: the transition matrix by EM, its temperature, and the estimate of a Learner"
import numpy as np, pytest, torch
import torch.nn.functional as F
from fastai.basics import CrossEntropyLossFlat, DataLoaders, Learner
import fastnoisy.analysis.noise_rate as rate, fastnoisy.analysis.transition as transition
from fastnoisy.noise.label_noise import SymmetricNoise
from fastnoisy.analysis.noise_rate import NoiseEstimate, estimate_noise, share_interval
from fastnoisy.analysis.report.table import noise_report
from fastnoisy.analysis.transition import fit_noise, noise_em, wrong_share

def planted(n=4000, n_classes=4, noise=.3, seed=0):
    "Logits of a model that is right about how sure it may be, true labels drawn from them, and given ones"
    gen = torch.Generator().manual_seed(seed)
    logits = 3*torch.randn(n, n_classes, generator=gen)
    true = torch.multinomial(logits.softmax(1), 1, generator=gen).flatten()
    wrong = torch.rand(n, generator=gen) < noise
    return logits, true, torch.where(wrong, (true + 1) % n_classes, true)

def test_em_of_a_sure_model_counts():
    true,given = torch.tensor([0, 0, 0, 1, 1, 2]),torch.tensor([0, 0, 1, 1, 1, 0])
    T,posterior,_ = noise_em(F.one_hot(true, 3).double(), given)
    expected = np.array([[3, 1, 0], [0, 3, 0], [1, 0, 1]]) # one more right label of each class
    np.testing.assert_allclose(T, expected/expected.sum(1, keepdims=True), atol=1e-6)
    assert wrong_share(posterior, given) == pytest.approx(2/6)

def naive_em(p, y, n_iter):
    n,k = len(p),len(p[0])
    T = [[.8*(i == j) + .2/k for j in range(k)] for i in range(k)]
    for _ in range(n_iter):
        c = [[p[i][j]*T[j][y[i]] for j in range(k)] for i in range(n)]
        c = [[v/sum(row) for v in row] for row in c]
        T = [[((a == j) + sum(c[i][j] for i in range(n) if y[i] == a))/(1 + sum(c[i][j] for i in range(n))) for a in range(k)] for j in range(k)]
    return T

def test_em_is_equations_2_and_3_written_out():
    logits,_,given = planted(60)
    p = logits.double().softmax(1)
    np.testing.assert_allclose(noise_em(p, given, 8, 0.)[0], naive_em(p.tolist(), given.tolist(), 8), rtol=1e-9)

def test_likelihood_never_falls():
    logits,_,given = planted(300)
    found = [noise_em(logits.double().softmax(1), given, n, -1.)[2] for n in range(1, 20)]
    assert (np.diff(found) > -1e-9).all()

@pytest.mark.parametrize('noise', [0., .2, .45])
@pytest.mark.parametrize('too_sure', [.5, 1., 4.])
def test_rate_and_temperature_of_planted_noise(noise, too_sure):
    logits,true,given = planted(noise=noise)
    temperature,T,posterior,_ = fit_noise(too_sure*logits, given)
    assert temperature == pytest.approx(too_sure, rel=.15) and wrong_share(posterior, given) == pytest.approx((given != true).float().mean().item(), abs=.03)
    assert (T.sum(1) - 1).abs().max() < 1e-5 and (T.diagonal() - (1 - noise)).abs().max() < .08

def test_extreme_logits_and_an_absent_class():
    logits,_,given = planted(200)
    for o in (1e4*logits, torch.cat([logits, torch.full((200, 1), -1e4)], 1), torch.zeros(200, 4)):
        temperature,T,posterior,likelihood = fit_noise(o, given)
        assert T.isfinite().all() and posterior.isfinite().all() and np.isfinite(likelihood) and .2 <= temperature <= 12.2

def test_share_interval():
    assert share_interval(0., 10)[0] == 0 and share_interval(1., 10)[1] == 1 and np.diff(share_interval(.3, 1000)) < np.diff(share_interval(.3, 100))

def rows(n, seed, noise):
    gen = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    x = 2*torch.randn(n, 2, generator=gen) + 3*torch.stack([(2.1*y).cos(), (2.1*y).sin()], 1)
    return list(zip(x, SymmetricNoise(noise)(y, 3, generator=seed).given if noise else y))

def learner(n_valid=600, noise=.3, valid_noise=.3):
    dls = DataLoaders.from_dsets(rows(600, 0, noise), rows(n_valid, 1, valid_noise), bs=64, device='cpu')
    torch.manual_seed(0)
    learn = Learner(dls, torch.nn.Sequential(torch.nn.Linear(2, 32), torch.nn.ReLU(), torch.nn.Dropout(.1), torch.nn.Linear(32, 3)), CrossEntropyLossFlat())
    with learn.no_bar(), learn.no_logging(): learn.fit(5, 1e-2)
    return learn

@pytest.mark.parametrize('noise', [0., .3, .5])
def test_estimate_of_a_learner(noise):
    estimate = estimate_noise(learner(noise=noise, valid_noise=noise))
    assert isinstance(estimate, NoiseEstimate) and estimate.rate == pytest.approx(noise, abs=.08) and estimate.rate == max(estimate.rates.values())
    assert estimate.interval == share_interval(estimate.rate, 600) and estimate.transition.shape == (3, 3)
    assert f'noise rate {estimate.rate:.3f}' in repr(estimate) and f'600 {estimate.source} labels' in repr(estimate)

def test_right_validation_labels_do_not_hide_the_noise():
    estimate = estimate_noise(learner(noise=.4, valid_noise=0.))
    assert estimate.source == 'training' and estimate.rate == pytest.approx(.4, abs=.08) and estimate.rates['validation'] < .1

def test_nothing_is_changed():
    learn = learner()
    before,state = {k: v.clone() for k,v in learn.model.state_dict().items()},torch.get_rng_state()
    learn.model.train()
    estimate_noise(learn)
    assert all(torch.equal(v, before[k]) for k,v in learn.model.state_dict().items()) and torch.equal(state, torch.get_rng_state()) and learn.model.training

def test_too_few_validation_labels():
    with pytest.raises(ValueError, match='validation set has 99 samples, and 100 are needed .*valid_pct'): estimate_noise(learner(n_valid=99))
    learn = learner()
    learn.dls = DataLoaders(learn.dls.train)
    with pytest.raises(ValueError, match='validation set has 0 samples'): estimate_noise(learn)

def test_of_many_labels_a_part_is_enough(monkeypatch):
    learn = learner()
    whole = estimate_noise(learn)
    monkeypatch.setattr(rate, 'MAX_LABELS', 400)
    part = estimate_noise(learn)
    assert part.n == 400 and part.rate == pytest.approx(whole.rate, abs=.06) and part.rate != whole.rate and part.rate == estimate_noise(learn).rate

def test_a_model_that_has_diverged():
    learn = learner()
    learn.model[0].weight.data.fill_(float('nan'))
    with pytest.raises(ValueError, match='has the model diverged'): estimate_noise(learn)
    assert noise_report(learn).estimate is None

def test_the_report_says_it():
    learn = learner()
    report = noise_report(learn)
    assert report.noise_rate == report.estimate.rate == pytest.approx(estimate_noise(learn).rate, abs=1e-3) and report.interval == report.estimate.interval
    assert f'Estimated noise rate {report.noise_rate:.1%}' in report.summary() and f'by {report.estimate.n} {report.estimate.source} labels' in report.summary()
    assert (report.suggested_label != report.given_label)[report.is_label_issue].all()
    few = noise_report(learner(n_valid=99))
    assert few.estimate is None and few.noise_rate == few.is_label_issue.mean()

def test_a_part_is_enough_for_the_temperature(monkeypatch):
    logits,_,given = planted(4000)
    whole = fit_noise(2*logits, given)
    monkeypatch.setattr(transition, 'MAX_NUMBERS', 4*1000) # of four classes: 1,000 rows
    part = fit_noise(2*logits, given)
    assert part[0] != whole[0] == pytest.approx(2, rel=.1) and part[0] == pytest.approx(2, rel=.2)
    assert len(part[2]) == 4000 and wrong_share(part[2], given) == pytest.approx(.3, abs=.03)

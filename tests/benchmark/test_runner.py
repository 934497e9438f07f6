"The grid: what is trained, what is not trained again, what is written, and what is told when something is wrong"
import os, signal, subprocess, sys, time
from dataclasses import replace
import numpy as np, pandas as pd, pytest, torch
from fastai.learner import Learner
from fastnoisy.benchmark.train import run_one
from fastnoisy.core.registry import METHODS
from fastnoisy.data.digits import digits_dls
from fastnoisy.models import small_cnn
from fastnoisy.models import ARCHS, model_maker
from fastnoisy.benchmark.trial import (TRIAL, DETECTION, RESULTS, trial_dls, trial_options, clean_dls, grid_trials,
                                       noise_rates, run_trial)
from fastnoisy.benchmark.datasets import DATASETS, register_dataset
from fastnoisy.benchmark.runner import Table, default_jobs, finished, read_table, run_grid
from fastnoisy.benchmark.tables import read_grid
from readme import root

SHORT = dict(noise=['symmetric:.4'], methods=['ce', 'gce'], seeds=1, epochs=1)

def trial(**kwargs): return replace(grid_trials(**SHORT)[0], **kwargs)

def without_clock(results): return results.drop(columns=['seconds', 'peak_mb']).sort_values(TRIAL).reset_index(drop=True)

# What is trained

@pytest.mark.parametrize('text, class_map, expected', [
    ('symmetric:0,.2,.5', None, [('none', 0), ('symmetric', .2), ('symmetric', .5)]), ('none', None, [('none', 0)]), ('pair:.3', 'mnist', [('pair', .3)]),
    ('asymmetric:.1,.4', 'mnist', [('asymmetric:mnist', .1), ('asymmetric:mnist', .4)]), ('asymmetric:.4:cifar10', 'mnist', [('asymmetric:cifar10', .4)]),
    ('asymmetric:.4', None, [('asymmetric', .4)]), ('human:aggre_label', 'cifar10', [('human:aggre_label', 0)])])
def test_noise_rates(text, class_map, expected): assert noise_rates(text, class_map) == expected

@pytest.mark.parametrize('text', ['pair', 'pair:', 'pair:x', ''])
def test_noise_without_rates(text):
    with pytest.raises(ValueError, match='write the model and its rates'): noise_rates(text)

def test_noise_of_a_trial():
    assert trial(noise='none').noise_model is None
    assert trial(noise='asymmetric:mnist', rate=.4).noise_model == 'asymmetric:0.4:mnist'
    assert trial(noise='human:worse_label', rate=0.).noise_model == 'human:worse_label'

def test_every_trial_once_and_seed_after_seed():
    trials = grid_trials(noise=['symmetric:0,.2', 'asymmetric:0,.1', 'symmetric:.2'], methods=['ce', 'gce+also'], seeds=2, seed=5)
    assert len(trials) == len(set(trials)) == 3*2*2
    assert [o.seed for o in trials] == [5]*6 + [6]*6
    assert {(o.noise, o.rate) for o in trials} == {('none', 0), ('symmetric', .2), ('asymmetric:mnist', .1)}
    assert {(o.arch, o.bs, o.data) for o in trials} == {('small_cnn', 64, 'digits')}

@pytest.mark.parametrize('kwargs, says', [
    (dict(data='digit'), "data='digit': choose from digits"), (dict(data='digits:big'), 'size of the images in pixels'), (dict(variants=['noisy']), "variant='noisy': choose from plain"),
    (dict(detect=[0]), 'give epochs, counted from 1'), (dict(data=[]), 'nothing to do'), (dict(optimizer='lion'), 'choose from adam, torch-adam, sgd, adamw'), (dict(schedule='step'), 'choose from one-cycle'),
    (dict(seeds=0), 'seeds=0: give at least 1'), (dict(epochs=0), 'epochs=0'), (dict(arch='resnet1'), "arch='resnet1'"), (dict(methods=['nope']), "'nope' is unknown"),
    (dict(methods=['gce:q=3']), 'q must be in'), (dict(noise=['gauss:.3']), 'gauss'), (dict(noise=['symmetric:1.5']), '1.5'), (dict(methods=[]), 'nothing to do'),
    (dict(root='x'), "data='digits'"), (dict(noise=['asymmetric:.2:cifar']), 'one of cifar10')])
def test_what_is_wrong_is_told_before_training(kwargs, says, tmp_path):
    with pytest.raises(ValueError, match=says): run_grid(tmp_path/'out', **{**SHORT, **kwargs})
    assert not (tmp_path/'out').exists()

def test_a_missing_file_is_told_before_training(tmp_path):
    with pytest.raises(FileNotFoundError, match='Put there fashion_mnist.npz'): run_grid(tmp_path/'out', preset='fashion10k', root=str(tmp_path))

def test_archs():
    dls = digits_dls(size=32, device='cpu')
    for name in [*(o for o in ARCHS if o not in ('stacked-lstm', 'series-cnn')), 'resnet10t']:
        assert model_maker(name)(dls)(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert ARCHS['resnet18-32'](dls).forward_features(torch.zeros(1, 3, 32, 32)).shape == (1, 512, 4, 4)
    n = sum(p.numel() for p in ARCHS['resnet18-32'](dls).parameters())
    assert n == 11_173_962 # that of the ResNet-18 for CIFAR-10 in common use

def test_pretrained_weights(monkeypatch, tmp_path):
    dls,seen = digits_dls(device='cpu'),{}
    monkeypatch.setattr('timm.create_model', lambda name, pretrained, **kwargs: seen.update(name=name, pretrained=pretrained, **kwargs))
    model_maker('resnet18.a1_in1k:pretrained')(dls)
    assert seen == dict(name='resnet18.a1_in1k', pretrained=True, num_classes=10, in_chans=3)
    def offline(*args, **kwargs): raise OSError('no connection')
    monkeypatch.setattr('timm.create_model', offline)
    with pytest.raises(OSError, match='no connection.*leave out ":pretrained", or put the file'): model_maker('resnet18:pretrained')(dls)
    with pytest.raises(ValueError, match='name of a timm model'): model_maker('resnet18:trained')

def test_several_data_sets_and_sizes():
    trials = grid_trials(['digits', 'digits:16'], **SHORT)
    assert [o.data for o in trials] == ['digits']*2 + ['digits:16']*2
    assert clean_dls('digits:16').valid.one_batch()[0].shape[2:] == (16, 16) and clean_dls('digits').train.one_batch()[0].shape[2:] == (8, 8)

def test_share_of_validation_samples():
    dls = clean_dls('digits', options=trial_options(trial(variant='valid:.3'), {}))
    assert [len(o.dataset) for o in dls.loaders] == [943, 404, 450]
    assert trial_options(trial(), dict(root='x')) == dict(root='x')
    register_dataset('fixed', lambda bs=None: digits_dls(device='cpu'), 'with a split of its own')
    try:
        with pytest.raises(ValueError, match="data='fixed'.*valid_share"): grid_trials('fixed', **SHORT, variants=['plain', 'valid:.2'])
    finally: DATASETS.pop('fixed')

# Labels

def test_noisy_training_and_validation_labels_clean_test():
    clean,noisy,half = clean_dls('digits', None, {}),*(trial_dls(clean_dls('digits', None, {}), trial(variant=o)) for o in ('plain', 'clean-valid'))
    share = lambda dls, i: (dls.loaders[i].dataset.items.labels != clean.loaders[i].dataset.items.labels).mean()
    assert [round(share(noisy, i), 1) for i in range(3)] == [.4, .4, 0] and [round(share(half, i), 1) for i in range(3)] == [.4, 0, 0]
    assert trial_dls(clean, trial(noise='none')) is clean

def test_methods_of_a_seed_have_the_same_labels():
    given = [trial_dls(clean_dls('digits', None, {}), trial(seed=s, method=m)).noise.given for s,m in ((1, 'ce'), (1, 'gce'), (2, 'ce'))]
    assert (given[0] == given[1]).all() and (given[0] != given[2]).any()

# One trial

def test_accuracy_is_that_of_the_best_validation_epoch():
    c = trial(epochs=4, lr=.02)
    result,curves,found = run_trial(c)
    assert found == {}
    with torch.random.fork_rng(): # the same training, tested after every epoch
        learn,row = run_one(trial_dls(clean_dls('digits', 64, {}), c), lambda: small_cnn(3, 10), 'ce', 4, .02, c.seed, wd=c.wd)
    best = int(np.argmax(curves['valid_accuracy']))
    assert result['best_epoch'] == best + 1 and result['accuracy'] == pytest.approx(learn.clean_test.accuracies[best], abs=1e-5)
    assert result['accuracy_last'] == pytest.approx(learn.clean_test.accuracies[-1], abs=1e-5) and result['valid_accuracy'] == max(curves['valid_accuracy'])
    assert result['actual_rate'] == pytest.approx(.4, abs=1e-3)
    assert curves['valid_loss'] == [pytest.approx(o[1], abs=1e-5) for o in learn.recorder.values]

def test_learning_rate_optimizer_and_schedule_arrive(monkeypatch):
    seen = {}
    def spy(self, n_epoch, lr=None, *args, **kwargs):
        seen.update(lr=lr, wd=self.wd, bn=self.wd_bn_bias, opt=self.opt_func, cbs=kwargs.get('cbs'))
        raise ZeroDivisionError
    monkeypatch.setattr(Learner, 'fit', spy)
    with pytest.raises(ZeroDivisionError): run_trial(trial(lr=.01, wd=5e-4, optimizer='adamw', schedule='cosine'))
    assert (seen['lr'], seen['wd'], seen['bn'], seen['opt'].keywords['opt']) == (.01, 5e-4, True, torch.optim.AdamW)
    schedule = seen['cbs'].scheds['lr']
    assert (schedule(0.), schedule(.5), schedule(1.)) == (pytest.approx(.01), pytest.approx(.005), pytest.approx(0.))

# The grid

def failing_method(tmp_path):
    "File that registers a method which fails until there is a file `ok`"
    file = tmp_path/'mine.py'
    file.write_text("from fastnoisy.core import register_method\nfrom fastai.callback.core import Callback\nfrom pathlib import Path\n"
                    "class Bang(Callback):\n    def after_pred(self):\n        if not Path(__file__).with_name('ok').exists(): raise MemoryError('all\\nfull')\n"
                    "register_method('bang', lambda: dict(cbs=Bang()), '')\n")
    return file

@pytest.mark.slow
def test_same_seed_same_row_in_this_process_and_in_others(tmp_path):
    here = run_grid(tmp_path/'here', jobs=1, **SHORT)
    n = torch.get_num_threads()
    try: there = run_grid(tmp_path/'there', jobs=2, **{**SHORT, 'methods': ['bang', 'ce', 'gce']}, register=failing_method(tmp_path))
    finally: METHODS.pop('bang', None)
    assert there[there.error.notna()].method.tolist() == ['bang'] # it was known in the other process
    pd.testing.assert_frame_equal(without_clock(here), without_clock(there[there.error.isna()]), check_dtype=False)
    a,b = (read_table(tmp_path/o/'curves.csv').sort_values(TRIAL + ['epoch']).reset_index(drop=True) for o in ('here', 'there'))
    pd.testing.assert_frame_equal(a, b)
    assert torch.get_num_threads() == n and list(here) == TRIAL + RESULTS
    assert (here.peak_mb > 50).all() and (here.seconds > 0).all() and here.torch.unique().tolist() == [torch.__version__]

def test_finished_trials_are_not_trained_again(tmp_path, capsys):
    run_grid(tmp_path, jobs=1, **SHORT)
    before = (tmp_path/'results.csv').read_text()
    results = run_grid(tmp_path, jobs=1, **{**SHORT, 'methods': ['ce', 'gce', 'mae']})
    assert '3 trials, 2 of them trained before' in capsys.readouterr().out
    assert (tmp_path/'results.csv').read_text().startswith(before) and results.method.tolist() == ['ce', 'gce', 'mae']
    run_grid(tmp_path, jobs=1, **SHORT, variants=['clean-valid'])
    assert '0 of them trained before' in capsys.readouterr().out

def test_a_half_written_row_is_trained_again(tmp_path):
    results = run_grid(tmp_path, jobs=1, **SHORT)
    for o in ('results.csv', 'curves.csv'):
        text = (tmp_path/o).read_text()
        (tmp_path/o).write_text(text[:-20])
    assert len(read_table(tmp_path/'results.csv')) == 1
    pd.testing.assert_frame_equal(without_clock(run_grid(tmp_path, jobs=1, **SHORT)), without_clock(results))
    assert len(pd.read_csv(tmp_path/'curves.csv')) == 2

def test_table_of_another_version(tmp_path):
    (tmp_path/'t.csv').write_text('a,b\n1,2\n')
    with pytest.raises(ValueError, match='other columns'): Table(tmp_path/'t.csv', ['a', 'c'])

@pytest.mark.parametrize('left', ['', 'a', 'a,err'])
def test_a_table_whose_head_was_never_written(left, tmp_path):
    (tmp_path/'t.csv').write_text(left)
    assert read_table(tmp_path/'t.csv', ['a', 'error']).empty
    table = Table(tmp_path/'t.csv', ['a', 'error'])
    table.append([dict(a=1)])
    assert (tmp_path/'t.csv').read_text() == 'a,error\n1,\n'
    (tmp_path/'t.csv').unlink() # while the grid runs
    table.append([dict(a=2)])
    assert table.read().a.tolist() == [2]

@pytest.mark.parametrize('name', ['results', 'curves', 'detection'])
def test_a_grid_goes_on_beside_an_empty_file(name, tmp_path):
    run_grid(tmp_path, jobs=1, **SHORT)
    (tmp_path/f'{name}.csv').write_text('')
    if name == 'results':
        with pytest.raises(FileNotFoundError, match='has no results.csv with rows'): read_grid(tmp_path)
    else: assert len(read_grid(tmp_path)[0]) == 2
    results = run_grid(tmp_path, jobs=1, **{**SHORT, 'seeds': 2})
    assert len(results) == 4 and len(read_grid(tmp_path)[0]) == 4

@pytest.mark.skipif(not hasattr(os, 'fork'), reason='fork')
def test_two_grids_in_one_folder_lose_no_row(tmp_path):
    Table(tmp_path/'t.csv', ['a', 'b'])
    pid,n = os.fork(),300
    if not pid: # appends while another process starts again and again
        table = Table(tmp_path/'t.csv', ['a', 'b'])
        for i in range(n): table.append([dict(a=i, b='x'*20_000)])
        os._exit(0)
    starts = 0
    while not os.waitpid(pid, os.WNOHANG)[0]:
        Table(tmp_path/'t.csv', ['a', 'b'])
        starts += 1
    table = pd.read_csv(tmp_path/'t.csv')
    assert starts and table.a.tolist() == list(range(n)) and (table.b == 'x'*20_000).all()

@pytest.mark.skipif(sys.platform == 'win32', reason='limits of a process')
def test_a_full_disk_leaves_the_table_as_it_was(tmp_path):
    import resource
    table = Table(tmp_path/'t.csv', ['a', 'error'])
    table.append([dict(a=1)])
    before,limits = table.file.read_bytes(),resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5, limits[1]))
    try:
        with pytest.raises(OSError): table.append([dict(a=2, error='x'*100)])
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert table.file.read_bytes() == before
    table.append([dict(a=3)])
    assert table.read().a.tolist() == [1, 3]

def test_file_system_without_locks(tmp_path, monkeypatch):
    import errno
    def no_locks(f): raise OSError(errno.ENOLCK, 'no locks available')
    monkeypatch.setattr('fastnoisy.benchmark.runner._wait_for_lock', no_locks)
    with pytest.warns(UserWarning, match='only one grid may write'): Table(tmp_path/'t.csv', ['a'])

def test_table_keeps_commas_quotes_and_empty_cells(tmp_path):
    table = Table(tmp_path/'t.csv', ['a', 'error'])
    table.append([dict(a=1, error='x, "y"'), dict(a=2)])
    assert table.read().error.fillna('').tolist() == ['x, "y"', '']

def test_a_failed_trial_is_recorded_and_tried_again(tmp_path, capsys):
    options = dict(noise=['symmetric:.4'], methods=['bang', 'ce'], seeds=1, epochs=1, register=failing_method(tmp_path), jobs=1)
    try:
        results = run_grid(tmp_path/'out', **options).set_index('method')
        assert results.error['bang'].startswith('MemoryError: ') and results.error['bang'].endswith('all full')
        assert pd.isna(results.error['ce']) and results.accuracy['ce'] > 0 and 'FAILED, MemoryError' in capsys.readouterr().out
        (tmp_path/'ok').touch()
        again = run_grid(tmp_path/'out', **options)
        assert '2 trials, 1 of them trained before' in capsys.readouterr().out
        assert again.method.tolist().count('bang') == 2 and len(finished(again)) == 2
    finally: METHODS.pop('bang', None)

def test_combination_of_a_loss_and_a_callback(tmp_path):
    results = run_grid(tmp_path, jobs=1, noise=['symmetric:.4'], methods=['gce:q=.5+also:temperature=.5'], seeds=1, epochs=1)
    assert results.accuracy[0] > .15 and results.method[0] == 'gce:q=.5+also:temperature=.5'

def test_default_jobs(monkeypatch):
    assert default_jobs() >= 1
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    assert default_jobs() == 1

def test_detection_is_written(tmp_path):
    run_grid(tmp_path, jobs=1, noise=['symmetric:.4', 'zoom-shift:.5'], methods=['also', 'gce'], seeds=1, epochs=2, detect=[2])
    table = read_table(tmp_path/'detection.csv')
    assert list(table) == TRIAL + DETECTION and set(table.epoch) == {2} and table.auc.between(0, 1).all()
    assert set(table[table.method == 'also'].signal) == {'also'} and {'aum', 'grand'} <= set(table[table.method == 'gce'].signal)
    assert set(table.noise) == {'symmetric', 'zoom-shift'}

def test_what_a_method_shows_is_written(tmp_path):
    said = run_grid(tmp_path, jobs=1, **{**SHORT, 'methods': ['lilaw'], 'epochs': 3}).recorded[0]
    numbers = dict(o.split('=') for o in said.split())
    assert list(numbers) == ['alpha', 'beta', 'delta'] and 9.9 < float(numbers['alpha']) < 10 and 2 < float(numbers['beta']) < 2.1

def test_scores_of_both_ends_are_written(tmp_path):
    row = run_grid(tmp_path, jobs=1, **{**SHORT, 'epochs': 3}).iloc[0]
    assert pd.isna(row.recorded) and row.accuracy <= row.top5 <= 1 and row.accuracy_last <= row.top5_last and row.auroc > .5 and row.ece >= 0 and row.temperature_last > 0

# Interruption

def test_ctrl_c_in_this_process(tmp_path, monkeypatch, capsys):
    n,seen = torch.get_num_threads(),[]
    def interrupt(*args):
        seen.append(torch.get_num_threads())
        raise KeyboardInterrupt
    torch.set_num_threads(2)
    monkeypatch.setattr('fastnoisy.benchmark.runner._print_trial', interrupt)
    with pytest.raises(KeyboardInterrupt): run_grid(tmp_path, jobs=1, **SHORT)
    assert seen == [1] and torch.get_num_threads() == 2
    torch.set_num_threads(n)
    assert 'the same command goes on from there' in capsys.readouterr().out
    monkeypatch.undo()
    assert len(run_grid(tmp_path, jobs=1, **SHORT)) == 2 and '1 of them trained before' in capsys.readouterr().out

COMMAND = [sys.executable, '-m', 'fastnoisy', 'bench', '--methods', 'ce', 'gce', '--noise', 'symmetric:.2,.4', '--seeds', '3', '--epochs', '4', '--jobs', '2']

def rows(out): return len(read_table(out/'results.csv')) if (out/'results.csv').exists() and (out/'results.csv').stat().st_size else 0

def alive(session): return subprocess.run(['pgrep', '-s', str(session)], capture_output=True, text=True).stdout.split()

def started(out):
    return subprocess.Popen([*COMMAND, '--out', str(out)], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            start_new_session=True, env={**os.environ, 'PYTHONPATH': str(root)},
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))

def none_is_left(session, seconds=30):
    until = time.time() + seconds
    while alive(session) and time.time() < until: time.sleep(.1)
    return not alive(session)

@pytest.mark.skipif(sys.platform != 'linux', reason='sessions and signals of Linux')
@pytest.mark.slow
@pytest.mark.parametrize('how', [signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_of_a_grid_killed_while_its_processes_start(how, tmp_path):
    process = started(tmp_path)
    while len(alive(process.pid)) < 4 and process.poll() is None: time.sleep(.01) # itself, two more, and their resource tracker
    process.send_signal(how)
    process.communicate(timeout=60)
    assert process.returncode == -how and none_is_left(process.pid, 60)

@pytest.mark.skipif(sys.platform != 'linux', reason='sessions and signals of Linux')
@pytest.mark.slow
@pytest.mark.parametrize('how', [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_and_continued(how, tmp_path, capsys):
    process = started(tmp_path)
    while rows(tmp_path) < 2 and process.poll() is None: time.sleep(.05)
    process.send_signal(how)
    said = process.communicate(timeout=60)[0]
    n = rows(tmp_path)
    assert 2 <= n < 12 and process.returncode != 0
    if how == signal.SIGINT: assert 'the same command goes on from there' in said and 'Traceback' not in said
    assert none_is_left(process.pid)
    results = run_grid(tmp_path, jobs=1, methods=['ce', 'gce'], noise=['symmetric:.2,.4'], seeds=3, epochs=4)
    assert f'12 trials, {n} of them trained before' in capsys.readouterr().out
    assert len(results) == len(results.drop_duplicates(TRIAL)) == 12 and results.error.isna().all()

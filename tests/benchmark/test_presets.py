"The papers' experiments: their numbers, what they become at the small scale, and that every output says so"
from functools import lru_cache
import pandas as pd, pytest
from fastnoisy.benchmark.trial import grid_trials
from fastnoisy.data.digits import digits_dls
from fastnoisy.benchmark.datasets import DATASETS
from fastnoisy.benchmark.runner import run_grid
from fastnoisy.benchmark.tables import grid_report
from fastnoisy.core.registry import METHODS
from fastnoisy.benchmark.presets import CPU, PRESETS, described, preset_arguments
from helpers import write_cifar, write_human_labels

def settings(preset, scale=None):
    arguments = preset_arguments(preset, scale)
    arguments.pop('detect', None)
    return grid_trials(**arguments)

@pytest.fixture
def no_files(monkeypatch):
    "Every dataset is the digits, without noise"
    monkeypatch.setattr('fastnoisy.benchmark.trial.clean_dls', lambda data, bs, options: small_digits(min(bs or 64, 512)))
    monkeypatch.setattr('fastnoisy.benchmark.trial.trial_dls', lambda dls, trial: dls)

@lru_cache
def small_digits(bs): return digits_dls(bs=bs, device='cpu')

def values(trials, *names): return {tuple(getattr(o, n) for n in names) for o in trials}

def test_apl_paper(no_files):
    trials = settings('apl-paper')
    assert len(trials) == 7*6 and values(trials, 'seed') == {(42,)} # a rate of 0 is shared
    assert values(trials, 'data', 'arch', 'epochs', 'lr', 'wd', 'optimizer', 'schedule', 'bs') == {('cifar10', 'resnet18-32', 30, .01, 5e-4, 'adamw', 'cosine', 128)}
    assert values(trials, 'noise', 'rate') == {('none', 0), *(('symmetric', r) for r in (.2, .5, .8)), *(('asymmetric:cifar10', r) for r in (.1, .25, .4))}

VIT = 'cifar100:224', 'vit_base_patch16_224.augreg_in21k:pretrained', 10, 2e-4, 0., 'torch-adam', 'linear', 16 # Section 4.2 of the paper
HALF = {('none', 0.), ('symmetric', .5)}

@pytest.mark.parametrize('table', [1, 6, 7, 8, 9, 10, 11, 12, 13, 16])
def test_lilaws_general_images(no_files, table):
    trials = settings(f'lilaw-table{table}')
    assert values(trials, 'data', 'arch', 'epochs', 'lr', 'wd', 'optimizer', 'schedule', 'bs') == {VIT} and {'ce', 'lilaw'} <= {o.method for o in trials}
    assert len({o.seed for o in trials}) == (5 if table == 10 else 3)
    for variant in {o.variant for o in trials}: # the same trainings with and without LiLAW
        with_,without = (values([o for o in trials if o.method == m and o.variant == variant], 'noise', 'rate', 'seed') for m in ('lilaw', 'ce'))
        assert with_ == without

def test_what_each_of_lilaws_tables_varies(no_files):
    table = {i: settings(f'lilaw-table{i}') for i in (1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16)}
    assert len(values(table[1], 'noise')) == 9 and values(table[1], 'rate') == {(.5,)}
    assert len(values(table[2], 'data')) == 10 and values(table[2], 'rate') == {(i/10,) for i in range(6)}
    assert values(table[2], 'arch', 'epochs', 'lr', 'schedule', 'bs') == {('resnet18.a1_in1k:pretrained', 100, 1e-4, 'steps', 128)}
    assert values(table[3], 'data', 'arch', 'noise', 'epochs', 'lr', 'schedule', 'bs') == {('ecg5000', 'stacked-lstm', 'none', 500, 1e-3, 'flat', 512)}
    assert len(values(table[6], 'method')) == 2 + 6 and values(table[7], 'rate') == {(i/10,) for i in range(10)}
    for i in (6, 8, 9, 10, 11, 13, 14): assert values(table[i], 'noise', 'rate') == HALF
    for i in (1, 7, 8, 10, 14): assert values(table[i], 'variant') == {('plain',), ('last-two',)} # the paper's own comparison can be read, too
    assert values(table[9], 'method', 'variant') == {(m, v) for m in ('ce', 'lilaw', 'oracle') for v in ('plain', 'clean-valid')}
    assert {'focal', 'focal+lilaw'} <= {o.method for o in table[11]}
    assert values(table[12], 'variant') == {(f'valid:{i/100}',) for i in (5, 10, 15, 20, 25, 30)}
    assert values(table[13], 'variant') == {('plain',), ('moved-valid',)} and preset_arguments('lilaw-table16')['detect'] == (3, 10)
    assert values(table[14], 'data') == {(f'{o}:224',) for o in ('mnist', 'fashion', 'cifar10', 'cifar100')}

@pytest.mark.parametrize('name', CPU)
def test_scale_cpu(no_files, name):
    trials,paper = settings(name, 'cpu'),settings(name)
    assert len(trials) <= len(paper) and all(o.data.split(':')[0] in DATASETS and 'pretrained' not in o.arch for o in trials)
    if name not in ('lilaw-table1', 'lilaw-table14', 'apl-paper'): assert values(trials, 'noise', 'rate', 'method') == values(paper, 'noise', 'rate', 'method')
    assert described(name) == name and described(name, epochs=7) == f'{name}, with epochs 7 for {PRESETS[name]["epochs"]}'
    said = described(name, 'cpu')
    assert said.startswith(f'{name} at scale cpu') and all(k in said for k,v in CPU[name].items() if k in PRESETS[name] and PRESETS[name][k] != v)

def test_the_noises_of_table_1_exist():
    trials = [o for o in settings('lilaw-table1', 'cpu') if o.seed == 0 and o.method == 'ce'] # each of them was drawn
    assert len(trials) == 9

@pytest.mark.parametrize('kwargs, says', [(dict(name='nope'), 'choose from digits, fashion10k, apl-paper, lilaw-table1'), (dict(name='digits', scale='cpu'), 'as it is small'),
                                          (dict(name='lilaw-table7', scale='gpu'), "give 'cpu'")])
def test_what_there_is_not(kwargs, says):
    with pytest.raises(ValueError, match=says): preset_arguments(**kwargs)

def test_a_scale_is_that_of_a_preset(tmp_path):
    with pytest.raises(ValueError, match='give one as preset'): run_grid(tmp_path/'out', scale='cpu')
    assert not (tmp_path/'out').exists()

def test_the_papers_preset_on_a_few_images(tmp_path):
    write_cifar(tmp_path/'cifar-10-batches-py', True, 32)
    results = run_grid(tmp_path/'out', jobs=1, preset='apl-paper', root=str(tmp_path), noise=['asymmetric:.4'], methods=['apl-nfl-mae'], epochs=1)
    row = results.iloc[0]
    assert (row.data, row.noise, row.method, row.seed, row.arch, row.optimizer) == ('cifar10', 'asymmetric:cifar10', 'apl-nfl-mae', 42, 'resnet18-32', 'adamw')
    assert 0 <= row.accuracy <= 1 and pd.isna(row.error) and row.preset == 'apl-paper'

def test_every_output_says_the_scale(tmp_path, capsys):
    results = run_grid(tmp_path/'out', jobs=1, preset='lilaw-table16', scale='cpu', seeds=1, epochs=3)
    assert 'Preset lilaw-table16 at scale cpu, with data digits for cifar100:224; seeds 1 for 3; arch its own' in capsys.readouterr().out
    assert (results.preset == 'lilaw-table16 at scale cpu').all()
    text = grid_report(tmp_path/'out')
    assert "- Preset lilaw-table16 at scale cpu: data, network and schedule are not the paper's" in text
    assert '### Wrong samples found' in text and 'auc, epoch 3' in text and 'symmetric 0.5, ce, aum' in text and 'symmetric 0.5, ce, grand' in text and 'symmetric 0.5, lilaw, W_alpha' in text
    assert 'auc, epoch 10' not in text # there was none

PEERS = [o for o in PRESETS if o.startswith('peers') and o != 'peers-human']

@pytest.mark.parametrize('name', PEERS)
def test_peers(no_files, name):
    "The same trials for all methods, none that needs what a user does not have"
    trials = settings(name)
    wanted = values([o for o in trials if o.method == 'ce'], 'noise', 'rate', 'seed')
    assert len({o[2] for o in wanted}) == 3 and ('none', 0., 0) in wanted
    for method in {o.method for o in trials}:
        assert values([o for o in trials if o.method == method], 'noise', 'rate', 'seed') == wanted, method
        assert 'trusted samples' not in METHODS[method].needs.split(', or ')[0]
        assert name != 'peers-series' or METHODS[method].needs != 'images'

def test_every_method_is_among_the_peers():
    "Losses by one of each family; a method that is left out is named here, with the reason"
    out = {'glc', # trusted samples
           'oracle', # the truth
           'confidence:two', 'confidence:single'} # parts of 'confidence'
    callbacks = {o for o,m in METHODS.items() if m.make().get('cbs')}
    assert callbacks - {*PRESETS['peers']['methods']} == out

def test_peers_by_people(no_files):
    trials = settings('peers-human')
    assert values(trials, 'data', 'noise', 'seed', 'variant') == {
        ('cifar5k', f'human:{o}', seed, 'moved-train') for o in ('aggre_label', 'random_label1') for seed in (0, 1)}
    assert {o.method for o in trials} == {*PRESETS['peers']['methods']}

PAPERS = [o for o in PRESETS if o.startswith('cifar10n-')]

def test_the_papers_settings(no_files):
    trials = settings('cifar10n-elr')
    assert values(trials, 'arch', 'epochs', 'lr', 'wd', 'optimizer', 'schedule', 'bs', 'method') == {
        ('resnet34-32', 120, .02, 1e-3, 'sgd', 'cosine', 128, 'elr')}
    assert values(trials, 'noise', 'seed', 'variant') == {
        (f'human:{o}', seed, 'moved-train')
        for o in ('aggre_label', 'random_label1', 'worse_label') for seed in range(3)}
    assert values(settings('cifar10n-divide-mix'), 'arch', 'epochs', 'optimizer') == {('resnet18-32', 300, 'sgd')}

@pytest.mark.slow
@pytest.mark.parametrize('name', PAPERS)
def test_the_papers_settings_on_a_few_images(tmp_path, name):
    "All methods of the preset for an epoch, with a small network; plain training with the paper's own"
    write_human_labels(tmp_path, write_cifar(tmp_path/'cifar-10-batches-bin', False, 8))
    is_plain = name == 'cifar10n-ce'
    given = dict(methods=['ce'], noise=['human:worse_label']) if is_plain else dict(arch='small_cnn:2')
    results = run_grid(tmp_path/'out', jobs=1, preset=name, root=str(tmp_path), seeds=1, epochs=1, bs=16, **given)
    assert len(results) == (1 if is_plain else 3*len(PRESETS[name]['methods'])) and results.error.isna().all()
    assert results.noise.isin(PRESETS[name]['noise']).all() and results.actual_rate.gt(0).all()

def test_labels_of_people_have_their_names_in_tables(tmp_path, capsys):
    write_human_labels(tmp_path, write_cifar(tmp_path/'cifar-10-batches-bin', False, 8))
    given = dict(methods=['ce', 'elr'], seeds=1, epochs=1, bs=16)
    run_grid(tmp_path/'out', jobs=1, preset='peers-human', root=str(tmp_path), **given)
    text = grid_report(tmp_path/'out')
    assert '| method | human:aggre_label | human:random_label1 |' in text and 'no noise' not in text
    assert '| human:aggre_label, ce |' in text and 'human:aggre_label 0' not in text + capsys.readouterr().out
    assert not list((tmp_path/'out').glob('rates_*')) and len(list((tmp_path/'out').glob('curves_*.png'))) == 2

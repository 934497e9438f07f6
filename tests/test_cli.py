"The program: what it prints and writes, wrong arguments, interruption."
import re, subprocess, sys
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image
import fastnoisy
from fastnoisy.all import METHODS, as_method
from fastnoisy.noise.label_noise import as_noise
from fastnoisy.cli import DEMO, demo, main, parser
from readme import root

def test_demo(tmp_path, capsys):
    main(['demo', '--epochs', '2', '--noise', '.3', '--seed', '3', '--out', str(tmp_path/'a/b')])
    out = capsys.readouterr().out
    assert '30% of the training labels wrong' in out and 'seed 3' in out
    table = [o.split() for o in out.splitlines() if o.split() and o.split()[0] in METHODS and len(o.split()) == 5]
    assert [o[0] for o in table] == DEMO and all(0 < float(o[1]) <= float(o[2]) <= 1 and 97 < int(o[3]) <= 323 for o in table)
    assert 'of the 323 wrong labels' in out
    pictures = sorted(o.name for o in (tmp_path/'a/b').iterdir())
    assert pictures == ['accuracy.png', 'digits.png', 'lilaw.png']
    assert all(min(Image.open(tmp_path/'a/b'/o).size) > 100 for o in pictures)

def test_demo_one_method_one_epoch(tmp_path, capsys):
    rows = demo(methods=['lilaw'], epochs=1, out=tmp_path) # the warm-up only: nothing to plot
    assert [o['method'] for o in rows] == ['lilaw'] and not (tmp_path/'lilaw.png').exists()

def test_demo_of_the_filter(tmp_path, capsys):
    demo(methods=['also+bmm'], epochs=8, out=tmp_path)
    said = [int(o) for o in re.findall(r'estimates (\d+) and flags (\d+), (\d+) of them rightly', capsys.readouterr().out)[0]]
    assert 300 < said[2] <= said[1] < 560 and 300 < said[0] < 560 # 431 are wrong
    rows = demo(methods=['also+bmm'], epochs=1, out=tmp_path) # too early for a mixture
    assert 'estimates' not in capsys.readouterr().out and rows[0]['n_found'] > 172

def test_demo_without_noise(tmp_path):
    assert 'n_found' not in demo(noise=0., methods=['ce'], epochs=1, out=tmp_path)[0]

@pytest.mark.parametrize('args, says', [
    (['demo', '--noise', '1.2'], 'not a rate in'), (['demo', '--noise', 'x'], 'not a rate in'), (['demo', '--epochs', '0'], 'not a number >= 1'),
    (['demo', '--epochs', 'x'], "'x' is not a number >= 1"), (['demo', '--methods'], 'expected at least one'),
    (['nope'], "fastnoisy: there is no command 'nope'. There are demo, audit, apply, bench, recommend."), (['benhc'], 'Did you mean bench?'),
    (['--noise', '.2'], 'begin with a command, demo, audit, apply, bench'), (['demo', '--nosie', '.2'], "fastnoisy demo: there is no option '--nosie'. Did you mean --noise?"),
    (['bench', '--optimiser=adam'], "there is no option '--optimiser'. Did you mean --optimizer?"), (['demo', '--quiet'], "no option '--quiet'.\n`fastnoisy demo --help` says"),
    (['demo', 'more'], "'more' is one word too many"), (['bench', '--seed', 'x'], 'invalid int value')])
def test_wrong_arguments(args, says, capsys):
    with pytest.raises(SystemExit) as e: main(args)
    assert e.value.code == 2 and says in capsys.readouterr().err

WORDS = ['demo', 'bench', 'audit', 'apply', '--undo', '--noise', '--methods', '--epochs', '--seeds', '--out', '--csv', '--list', '.2', '1e999', 'nan', '-1', '3', 'gce:q=.5+also', 'symmetric:.2,.5']

@settings(deadline=None)
@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=8), max_size=7))
def test_any_words_are_a_command_or_wrong_usage(words):
    try: args = parser().parse_args(words)
    except SystemExit as e: assert e.code in (0, 2)
    else: assert callable(args.run)

PIECES = st.sampled_from(['gce', 'also', 'lilaw', 'symmetric', 'pair', ':', '+', '=', ',', 'q', 'detach', '.5', '1e999', 'nan', 'None', '()', '__import__("os")', "'a'", ' ']) | st.text(max_size=3)

@settings(deadline=None)
@given(st.lists(PIECES, max_size=6).map(''.join))
def test_any_text_is_a_name_or_a_value_error(text):
    for f in (as_method, as_noise):
        try: f(text)
        except ValueError as e: assert str(e)

def test_unknown_method(tmp_path):
    with pytest.raises(SystemExit, match='choose from ce'): main(['demo', '--methods', 'nope', '--out', str(tmp_path)])

def test_output_folder_that_cannot_be_made(tmp_path):
    (tmp_path/'file').write_text('')
    with pytest.raises(SystemExit, match='fastnoisy: '): main(['demo', '--methods', 'ce', '--epochs', '1', '--out', str(tmp_path/'file')])

def test_interrupted(tmp_path, monkeypatch):
    def stop(*args, **kwargs): raise KeyboardInterrupt
    monkeypatch.setattr('fastnoisy.benchmark.train.run_one', stop)
    with pytest.raises(SystemExit, match='interrupted'): main(['demo', '--out', str(tmp_path)])

def test_alone_it_prints_help(capsys):
    main([])
    said = capsys.readouterr().out
    names = 'demo', 'audit', 'apply', 'bench', 'recommend', '--version'
    assert said.startswith('usage: fastnoisy') and all(o in said for o in names)

def test_version(capsys):
    with pytest.raises(SystemExit) as e: main(['--version'])
    assert e.value.code == 0 and capsys.readouterr().out == f'fastnoisy {fastnoisy.__version__}\n'

@pytest.mark.parametrize('words', [[], ['--help'], ['--version'], ['bench', '--help'], ['bench', '--nope'], ['nope']])
def test_nothing_large_is_imported_for_it(words):
    code = 'import sys; from fastnoisy.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\nprint(*{"torch", "fastai", "pandas", "numpy"} & {*sys.modules})'
    out = subprocess.run([sys.executable, '-c', code, *words], capture_output=True, text=True, check=True, cwd=root).stdout
    assert out.splitlines()[-1] == ''

def test_help_and_module():
    out = subprocess.run([sys.executable, '-m', 'fastnoisy', 'demo', '--help'], capture_output=True, text=True, check=True, cwd=root).stdout
    assert 'fastnoisy demo --methods ce lilaw' in out and '--seed' in out
    assert parser().parse_args(['demo']).epochs == 15

@pytest.mark.parametrize('command', ['audit', 'recommend'])
def test_help_names_the_folders_that_are_read(command, capsys):
    with pytest.raises(SystemExit): main([command, '--help'])
    said = capsys.readouterr().out
    assert 'alone or in train and valid' in ' '.join(said.split())
    assert max(map(len, said.split('positional arguments')[0].splitlines())) < 80

# fastnoisy bench

def test_bench(tmp_path, capsys):
    out = tmp_path/'out'
    main(['bench', '--methods', 'ce,gce:q=.5', 'gce+also', '--noise', 'symmetric:0,.4', 'pair:.3', '--seeds', '1', '--epochs', '1', '--variants', 'clean-valid', '--jobs', '1', '--out', str(out)])
    said = capsys.readouterr().out
    assert '9 trials, 0 of them trained before' in said and '| gce+also |' in said and 'variant clean-valid' in said
    assert {'results.csv', 'curves.csv', 'report.md', 'rates_1_symmetric.png', 'curves_1_pair_0.3.png'} <= {o.name for o in out.iterdir()}
    main(['bench', '--report', str(out)])
    assert '| gce:q=.5 |' in capsys.readouterr().out

def test_bench_options_replace_those_of_the_preset(tmp_path, monkeypatch):
    seen = {}
    def keep(**kwargs): seen.update(kwargs)
    monkeypatch.setattr('fastnoisy.benchmark.runner.run_grid', keep)
    monkeypatch.setattr('fastnoisy.benchmark.tables.grid_report', lambda out: '')
    main(['bench', '--preset', 'apl-paper', '--epochs', '2', '--root', 'x', '--out', str(tmp_path)])
    assert seen == dict(preset='apl-paper', epochs=2, root='x', out=str(tmp_path))

def test_bench_list(capsys):
    main(['bench', '--list'])
    said = capsys.readouterr().out
    assert all(o in said for o in ('apl-nce-mae', 'fashion10k', 'apl-paper', 'needs images', 'lilaw-table7 (also with --scale cpu)', 'zoom-shift', 'moved-valid'))

@pytest.mark.parametrize('args, says', [(['--methods', 'nope'], 'choose from ce'), (['--data', 'nope'], 'choose from digits'), (['--preset', 'fashion10k', '--root', 'nowhere'], 'Put there'),
                                        (['--report', 'nowhere'], 'has no results.csv'), (['--scale', 'cpu'], 'give one as preset'), (['--preset', 'digits', '--scale', 'cpu'], 'as it is small'),
                                        (['--preset', 'lilaw-table3', '--root', 'nowhere'], 'ECG5000')])
def test_bench_wrong_arguments(args, says, tmp_path):
    with pytest.raises(SystemExit, match=says): main(['bench', '--out', str(tmp_path/'out'), *args])

"The package as people get it: metadata, wheel, imports, notebooks, README."
import ast, configparser, os, re, shutil, subprocess, sys, tarfile, venv, zipfile
from pathlib import Path
import pandas as pd
import pytest
import fastnoisy
from readme import readme, root

def run(*args, **kwargs):
    res = subprocess.run(args, capture_output=True, text=True, **kwargs)
    assert res.returncode == 0, res.stdout[-4000:] + res.stderr[-4000:]
    return res.stdout

def with_tools():
    "The environment in which the tools of this Python are found"
    return {**os.environ, 'PATH': f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'}

def settings():
    cfg = configparser.ConfigParser(delimiters=['='])
    cfg.read(root/'settings.ini')
    return cfg['DEFAULT']

def test_version_is_stated_once():
    "In `fastnoisy/__init__.py`; `setup.py` reads it there"
    assert 'version' not in settings()
    assert run(sys.executable, 'setup.py', '--version', cwd=root).split('\n')[-2] == fastnoisy.__version__

def test_version_of_citation_and_changelog():
    "They speak of the release that `__version__` names"
    import yaml
    cited = yaml.safe_load((root/'CITATION.cff').read_text(encoding='utf-8'))
    sections = re.findall(r'^## (.+)$', (root/'CHANGELOG.md').read_text(encoding='utf-8'), flags=re.M)
    assert cited['version'] == fastnoisy.__version__ and len(cited['references']) == 5
    assert sections[:2] == ['Unreleased', f'{fastnoisy.__version__} ({cited["date-released"]})']

def test_top_level():
    allowed = {*'setup.cfg setup.py settings.ini pyproject.toml README.md CHANGELOG.md LICENSE .ci .gitignore'.split(),
               'CITATION.cff', '.github', *'fastnoisy nbs tests benchmarks'.split()}
    if not (root/'.git').exists(): pytest.skip('not a checkout')
    tracked = run('git', 'ls-files', cwd=root).split('\n')
    assert {o.split('/')[0] for o in tracked if o} <= allowed

def build(kind, source, out):
    code = f'import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])'
    run(sys.executable, '-c', code, str(out), cwd=source)

@pytest.fixture(scope='module')
def release(tmp_path_factory):
    "Folder with the wheel and the source archive, made without a network"
    tmp = tmp_path_factory.mktemp('release')
    left_out = shutil.ignore_patterns('.git', 'build', 'dist', '*.egg-info', '__pycache__', '_docs')
    shutil.copytree(root, tmp/'src', ignore=left_out)
    build('sdist', tmp/'src', tmp/'dist')
    build('wheel', tmp/'src', tmp/'dist')
    return tmp/'dist'

@pytest.fixture(scope='module')
def wheel(release): return next(release.glob('fastnoisy-*.whl'))

@pytest.mark.slow
def test_wheel_holds_every_file(wheel):
    names = {o for o in zipfile.ZipFile(wheel).namelist() if o.startswith('fastnoisy/')}
    files = [o for ext in ('py', 'js', 'css', 'html') for o in (root/'fastnoisy').rglob(f'*.{ext}')]
    assert names == {o.relative_to(root).as_posix() for o in files} | {'fastnoisy/py.typed'}

@pytest.mark.slow
def test_wheel_and_source_archive_are_accepted(release):
    pytest.importorskip('twine')
    pytest.importorskip('check_wheel_contents')
    said = run(sys.executable, '-m', 'twine', 'check', '--strict', *map(str, release.iterdir()))
    assert said.count('PASSED') == 2
    run(sys.executable, '-m', 'check_wheel_contents', str(next(release.glob('*.whl'))))

@pytest.mark.slow
def test_source_archive_makes_the_same_wheel(release, wheel, tmp_path):
    with tarfile.open(next(release.glob('*.tar.gz'))) as f: f.extractall(tmp_path)
    build('wheel', next(tmp_path.iterdir()), tmp_path)
    def members(file): return {o.filename: o.CRC for o in zipfile.ZipFile(file).infolist()}
    assert members(tmp_path/wheel.name) == members(wheel)

@pytest.fixture(scope='module')
def elsewhere(wheel, tmp_path_factory):
    """A fresh environment with the wheel, far from the repository: `elsewhere(program, *words)`. The packages that
    fastnoisy needs are those of this Python, so that nothing is downloaded."""
    place = tmp_path_factory.mktemp('elsewhere')
    venv.create(place/'env')
    programs = place/'env'/('Scripts' if os.name == 'nt' else 'bin')
    pip = sys.executable,'-m','pip','--python',str(place/'env')
    run(*pip, 'install', '--no-deps', '--no-index', '-q', str(wheel))
    site = run(programs/'python', '-c', 'import site; print(site.getsitepackages()[0])', cwd=place).strip()
    others = [o for o in sys.path if Path(o).name in ('site-packages', 'dist-packages')]
    # their own .pth files, such as that of this checkout, are not read
    (Path(site)/'needed.pth').write_text('\n'.join(others))
    env = {k: v for k,v in os.environ.items() if not k.startswith('PYTHON')} | {'OMP_NUM_THREADS': '1'}
    (place/'work').mkdir()
    def call(program, *words): return run(str(programs/program), *words, cwd=place/'work', env=env)
    call.place = place
    return call

@pytest.mark.slow
def test_wheel_installed_elsewhere(elsewhere):
    out = elsewhere('python', '-c', 'import fastnoisy.callback.lilaw as m; print(m.__file__)')
    assert out.strip().startswith(str(elsewhere.place))
    assert elsewhere('fastnoisy', '--version') == f'fastnoisy {fastnoisy.__version__}\n'
    code = "import importlib.metadata as m; print(m.version('fastnoisy'))"
    assert elsewhere('python', '-c', code) == f'{fastnoisy.__version__}\n'

@pytest.mark.slow
def test_demo_elsewhere(elsewhere):
    said = elsewhere('fastnoisy', 'demo', '--methods', 'ce', 'also', '--epochs', '2')
    assert '40% of the training labels wrong' in said
    assert {'digits.png', 'accuracy.png'} == {o.name for o in (elsewhere.place/'work/fastnoisy-demo').iterdir()}

@pytest.mark.slow
def test_audit_elsewhere(elsewhere):
    from sklearn.datasets import load_breast_cancer
    table = load_breast_cancer(as_frame=True).frame.rename(columns={'target': 'kind'})
    table.to_csv(elsewhere.place/'work/cells.csv', index=False)
    elsewhere('fastnoisy', 'audit', '--csv', 'cells.csv', '--y', 'kind', '--epochs', '2', '--device', 'cpu')
    written = {o.name for o in (elsewhere.place/'work/fastnoisy-audit').iterdir()}
    assert {'report.html', 'issues.csv', 'learner.pkl'} <= written

@pytest.fixture(scope='module')
def imported():
    "What `from fastnoisy.all import *` changes after fastai has been imported"
    code = """
import sys
from fastai.vision.all import *
import fastai.callback.all, fastai.distributed
modules = set(sys.modules)
rooms = 'fastai','fastcore','torch.nn'
def classes_of(m): return [o for o in list(vars(m).values()) if isinstance(o, type) and o.__module__.startswith(rooms)]
loaded = [m for name,m in list(sys.modules.items()) if name.startswith('fastai')]
classes = {o: dict(vars(o)) for m in loaded for o in classes_of(m)}
names = dict(globals())
from fastnoisy.all import *
shadowed = [k for k,v in names.items() if k in globals() and globals()[k] is not v and k != '__annotations__']
def changes(now, was): return sorted(k for k in was.keys() | now.keys() if was.get(k) is not now.get(k))
changed = {o.__name__: changes(vars(o), was) for o,was in classes.items()}
packages = sorted({o.split('.')[0] for o in set(sys.modules) - modules})
print(dict(packages=packages, shadowed=shadowed, changed={k: v for k,v in changed.items() if v}, n=len(classes)))
"""
    return ast.literal_eval(run(sys.executable, '-c', code, cwd=root).strip().split('\n')[-1])

def test_heavy_packages_are_imported_when_used(imported):
    heavy = {'tsai', 'medmnist', 'skimage', 'sklearn', 'pyts'}
    assert 'fastnoisy' in imported['packages'] and not heavy & {*imported['packages']}

def test_star_import_shadows_nothing_of_fastai(imported): assert imported['shadowed'] == []

def test_no_class_of_fastai_is_changed(imported): assert imported['n'] > 200 and imported['changed'] == {}

def test_export_changes_nothing(tmp_path):
    for o in ('fastnoisy', 'nbs'): shutil.copytree(root/o, tmp_path/o, ignore=shutil.ignore_patterns('__pycache__'))
    for o in ('pyproject.toml', 'settings.ini', 'setup.py'): shutil.copy(root/o, tmp_path/o)
    run('nbdev-export', cwd=tmp_path, env=with_tools())
    for o in sorted((tmp_path/'fastnoisy').rglob('*.py')):
        same = o.read_text() == (root/o.relative_to(tmp_path)).read_text()
        assert same, f'{o.name} is not what its notebook exports: run nbdev-export'

def test_notebooks_are_clean_and_small(tmp_path):
    from nbdev.clean import clean_nb
    from fastcore.nbio import read_nb, nb2str
    for fn in sorted((root/'nbs').rglob('*.ipynb')):
        nb = read_nb(fn)
        before = nb2str(nb)
        clean_nb(nb)
        assert nb2str(nb) == before, f'{fn.name}: run nbdev-clean'
        assert fn.stat().st_size < 200_000, f'{fn.name} is too large'
        assert 'site-packages' not in fn.read_text(encoding='utf-8'), f'{fn.name} shows a path of the machine it ran on'

@pytest.mark.slow
def test_notebooks_run():
    run('nbdev-test', '--n-workers', '2', '--do-print', cwd=root, env={**with_tools(), 'OMP_NUM_THREADS': '1'})

def test_readme_is_made_from_the_index_notebook():
    assert (root/'README.md').read_text(encoding='utf-8') == readme(), 'run python tests/scripts/readme.py'

def test_readme_has_the_two_commands():
    text = (root/'README.md').read_text(encoding='utf-8')
    assert "\npip install -e . && fastnoisy demo\n" in text and "\npip install -e '.[dev]' && pytest\n" in text

def percent(column, digits=1): return f'{100*column.mean():.{digits}f} ± {100*column.std():.{digits}f} %'

def readme_rows(head):
    "Cells of the README's table whose heading begins so, without bold and code"
    lines = (root/'README.md').read_text(encoding='utf-8').split('\n')
    start = next(i for i,o in enumerate(lines) if o.startswith(head)) + 2
    end = next(i for i in range(start, len(lines)) if not lines[i].startswith('|'))
    return [[o.strip(' *`') for o in line.strip('|').split('|')] for line in lines[start:end]]

def results(name): return pd.read_csv(root/'benchmarks/results'/name)

def test_numbers_of_the_readme_digits():
    found = results('compare_digits.csv').query('noise == .4')
    rows = readme_rows('| | accuracy, last epoch | best epoch | finds')
    assert [o[0] for o in rows] == ['plain training', 'LiLAWCallback()', 'loss_func=NCERCELoss()', 'ALSOCallback()']
    for (_,last,best,auc),method in zip(rows, ('ce', 'lilaw', 'nce+rce', 'also')):
        mine = found[found.method == method]
        assert len(mine) == 3 and (last, best) == (percent(mine['last']), percent(mine.best))
        assert auc == f'{mine.auc.mean():.3f}'.removeprefix('0')

def test_numbers_of_the_readme_fashion():
    detection = results('detection_fashion_mnist.csv').query("noise == 'symmetric:.4'")
    detection = detection.drop_duplicates(['training', 'seed']).groupby('training')
    wanted = [(detection.get_group(o).accuracy_last, detection.get_group(o).accuracy_best) for o in ('also', 'plain')]
    longer = results('compare_fashion_mnist.csv').query("method == 'ce'")
    short = results('peers_elr.csv').query("data == 'fashion10k' and noise == 'symmetric' and method == 'ce'")
    wanted += [(longer['last'], longer.best), (short.accuracy_last, short.accuracy)]
    rows = readme_rows('| | accuracy, last epoch | best epoch | repeat')
    assert [row[1:3] for row in rows] == [[percent(last), percent(best)] for last,best in wanted]

def test_numbers_of_the_readme_cost():
    step,both = (results(o).set_index('method') for o in ('step.csv', 'confidence_cost.csv'))
    ratios = [step.ratio[[o]] for o in ('core', 'lilaw')]
    ratios.insert(1, step.ratio[['also', 'also+bmm', 'also+knn']])
    wanted = [[', '.join(f'{v:.2f}' for v in o), ''] for o in ratios]
    wanted += [[f'{both.to_plain[o]:.2f}', f'{both.to_floor[o]:.2f}'] for o in ('two', 'full')]
    assert [row[1:3] for row in readme_rows('| | to plain training')] == wanted

SOURCES = sorted([*(root/'fastnoisy').rglob('*.py'), *(root/'tests').rglob('*.py')])

@pytest.mark.parametrize('fn', [str(o.relative_to(root)) for o in SOURCES])
def test_syntax_of_python_3_10(fn): ast.parse((root/fn).read_text(encoding='utf-8'), feature_version=(3, 10))

"The package as people get it: metadata, wheel, imports, notebooks, README."
import ast, configparser, os, shutil, subprocess, sys, zipfile
from pathlib import Path
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

def test_version_is_stated_once(): assert fastnoisy.__version__ == settings()['version']

def test_top_level():
    allowed = {*'setup.cfg setup.py settings.ini pyproject.toml README.md CHANGELOG.md LICENSE .ci .gitignore'.split(),
               *'fastnoisy nbs tests benchmarks'.split()}
    if not (root/'.git').exists(): pytest.skip('not a checkout')
    tracked = run('git', 'ls-files', cwd=root).split('\n')
    assert {o.split('/')[0] for o in tracked if o} <= allowed

@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    tmp = tmp_path_factory.mktemp('wheel')
    src = tmp/'src'
    shutil.copytree(root, src, ignore=shutil.ignore_patterns('.git', 'build', '*.egg-info', '__pycache__'))
    run(sys.executable, '-m', 'pip', 'wheel', '--no-deps', '-q', '-w', str(tmp), str(src))
    return next(tmp.glob('fastnoisy-*.whl'))

@pytest.mark.slow
def test_wheel_holds_every_file(wheel):
    names = {o for o in zipfile.ZipFile(wheel).namelist() if o.startswith('fastnoisy/')}
    files = [o for ext in ('py', 'js', 'css', 'html') for o in (root/'fastnoisy').rglob(f'*.{ext}')]
    assert names == {str(o.relative_to(root)) for o in files}

@pytest.mark.slow
def test_wheel_installed_elsewhere(wheel, tmp_path):
    run(sys.executable, '-m', 'pip', 'install', '--no-deps', '-q', '--target', str(tmp_path/'site'), str(wheel))
    env = {**os.environ, 'PYTHONPATH': str(tmp_path/'site')}
    out = run(sys.executable, '-c', 'import fastnoisy.callback.lilaw as m; print(m.__file__)', cwd=tmp_path, env=env)
    assert out.strip().startswith(str(tmp_path/'site'))

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

SOURCES = sorted([*(root/'fastnoisy').rglob('*.py'), *(root/'tests').rglob('*.py')])

@pytest.mark.parametrize('fn', [str(o.relative_to(root)) for o in SOURCES])
def test_syntax_of_python_3_10(fn): ast.parse((root/fn).read_text(encoding='utf-8'), feature_version=(3, 10))

"Types: annotations of the public names resolve, and defaults are of the type that is said."
import dataclasses, importlib, inspect, os, subprocess, sys, typing
from pathlib import Path
import pytest
import fastnoisy

ROOT = Path(fastnoisy.__file__).parent
LEFT_OUT = '_moved','_modidx','__main__'
MODULES = sorted('.'.join(('fastnoisy', *o.relative_to(ROOT).with_suffix('').parts)).removesuffix('.__init__')
                 for o in ROOT.rglob('*.py') if o.stem not in LEFT_OUT)
SIMPLE = {float: (int, float), int: int, bool: bool, str: str, list: list, dict: dict, tuple: tuple}

def functions_of(module):
    "(name, function) of what a module defines, and of the public methods of its classes"
    for name,o in vars(module).items():
        if name.startswith('_') or getattr(o, '__module__', None) != module.__name__: continue
        if inspect.isfunction(o): yield name,o
        if not inspect.isclass(o): continue
        for key,f in vars(o).items():
            f = f.fget if isinstance(f, property) else getattr(f, '__func__', f)
            if inspect.isfunction(f) and (key == '__init__' or not key.startswith('_')): yield f'{name}.{key}',f

def misfits(f):
    "Arguments whose default is not of the type beside it; None stands for no value"
    hints,res = typing.get_type_hints(f),[]
    for o in inspect.signature(f).parameters.values():
        wanted = SIMPLE.get(hints.get(o.name))
        if wanted is None or o.default is o.empty or o.default is None: continue
        if dataclasses.is_dataclass(f) or type(o.default).__name__ == '_HAS_DEFAULT_FACTORY_CLASS': continue
        right = isinstance(o.default, wanted) and (wanted is bool or not isinstance(o.default, bool))
        if not right: res.append(f'{o.name}:{hints[o.name].__name__}={o.default!r}')
    return res

def imported(name):
    "The module; skipped where a package that few need is not there"
    try: return importlib.import_module(name)
    except ImportError as e: pytest.skip(str(e))

@pytest.mark.parametrize('name', MODULES)
def test_annotations_resolve_and_defaults_fit(name):
    wrong = {}
    for key,f in functions_of(imported(name)):
        try: found = misfits(f)
        except (NameError, TypeError, AttributeError) as e: found = [str(e)]
        if found: wrong[key] = found
    assert not wrong

def test_misfits_are_seen():
    def f(a:float=1, b:float='1', c:int=1., d:int=True, e:bool=None, g:str=2, h=3, i:list=()): pass
    assert misfits(f) == ["b:float='1'", 'c:int=1.0', 'd:int=True', 'g:str=2', 'i:list=()']
    def g(a:'Nothing'=1): pass # noqa: F821
    with pytest.raises(NameError): misfits(g)

def test_package_says_that_it_is_typed(): assert (ROOT/'py.typed').exists()

SCRIPT = '''from fastnoisy.analysis.label_issues import find_label_issues
from fastnoisy.analysis.report.table import NoiseReport
from fastnoisy.callback.also import ALSOCallback
from fastnoisy.losses.robust import GCELoss
from fastnoisy.methods import as_method

callback: ALSOCallback = ALSOCallback(temperature=.5)
loss: GCELoss = GCELoss(q=.7)
name: str = as_method('gce+also').name
report: NoiseReport = find_label_issues([0, 1], [[.9, .1], [.2, .8]])
'''
WRONG = '''wrong: int = as_method('gce').name
ALSOCallback(temperature='warm')
'''

@pytest.mark.slow
def test_a_type_checker_reads_the_package(tmp_path):
    "A user's script is right, and two mistakes in it are seen"
    pytest.importorskip('mypy')
    (tmp_path/'right.py').write_text(SCRIPT)
    (tmp_path/'wrong.py').write_text(SCRIPT + WRONG)
    options = '--ignore-missing-imports','--follow-imports=silent','--cache-dir',str(tmp_path/'cache')
    call = sys.executable,'-m','mypy',*options,'right.py','wrong.py'
    res = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path,
                         env={**os.environ, 'MYPYPATH': str(ROOT.parent)})
    found = [o for o in res.stdout.split('\n') if ': error:' in o]
    assert all(o.startswith('wrong.py') for o in found) and len(found) == 2, res.stdout + res.stderr
    assert '[assignment]' in found[0] and '[arg-type]' in found[1]

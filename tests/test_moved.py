"""Import paths and names of version 0.1 are still found, with a warning that says where they are now.
reference/names_0_1.json: module -> its public names."""
import importlib, json, sys, warnings
from pathlib import Path
import pytest
import fastnoisy

NAMES = {k: v.split() for k,v in json.loads((Path(__file__).parent/'reference/names_0_1.json').read_text()).items()}
REMOVED = {
    'fastnoisy.measures.SIGNALS': 'give the method a `signals()` of its own',
    'fastnoisy.report.evaluate': 'fastnoisy.core.predict.predict(learn)',
    'fastnoisy.callback.knn.SUSPICIONS': "the name of any method: KNNCorrectionCallback(suspicion='also')",
    'fastnoisy.callback.knn.suspicion_of_bmm': 'learn.bmm.noise_probability()',
    'fastnoisy.callback.knn.suspicion_of_also': '1 - learn.also.trust()',
} # 'module.name' of version 0.1 that is there no more -> what to use

def imported(module):
    "The module, and what was warned of"
    kept = sys.modules.pop(module, None) if is_gone(module) else None
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always')
            found = importlib.import_module(module)
        messages = [str(o.message) for o in said if o.category is FutureWarning]
        return found, [o for o in messages if o.startswith('fastnoisy')]
    finally:
        if kept is not None: sys.modules[module] = kept

def is_gone(module):
    "Is there no file of this name?"
    path = Path(fastnoisy.__file__).parent.parent/module.replace('.', '/')
    return not path.with_suffix('.py').exists() and not (path/'__init__.py').exists()

@pytest.mark.parametrize('module', NAMES)
def test_old_paths_and_names(module):
    found,said = imported(module)
    if is_gone(module): assert len(said) == 1 and said[0].startswith(f'{module} has become fastnoisy.'), said
    else: assert not said
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', FutureWarning)
        missing = [o for o in NAMES[module] if not hasattr(found, o) and f'{module}.{o}' not in REMOVED]
    if module == 'fastnoisy.all': missing = [o for o in missing if not is_constant_or_gone(o)]
    assert not missing, f'{module} has lost {missing}: enter them in nbs/moved.ipynb, or in REMOVED with what to use'

def is_constant_or_gone(name):
    "Tables in capitals are in their modules alone, and so is what other modules have lost"
    return name.isupper() or any(o.rpartition('.')[2] == name for o in REMOVED)

def test_a_name_that_never_was():
    module = next(o for o in NAMES if is_gone(o))
    with pytest.raises((AttributeError, ImportError), match='CHANGELOG'): getattr(imported(module)[0], 'no_such_name')

def test_removed_names_were_there():
    for path,remedy in REMOVED.items():
        module,_,name = path.rpartition('.')
        assert name in NAMES[module] and remedy

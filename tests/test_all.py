"`from fastnoisy.all import *`: few names, each of one thing, none that hides a name of another package or an everyday variable."
import ast, json, subprocess, sys
import numpy as np
import pytest, torch
import fastnoisy.all
from readme import root

NAMES = fastnoisy.all.__all__
EVERYDAY = '''signals evaluate margin embed nearest difficulty harmless Labels Method Score Mixture Detection
x y xb yb model models data df dls dl learn learner loss losses label labels target targets preds probs logits noise noises rate rates score scores
weight weights metric metrics method methods report result results train valid test path epochs seed batch table frame plot'''.split()

def test_few_names_in_a_list_of_their_own():
    tree = ast.parse((root/'fastnoisy/all.py').read_text(encoding='utf-8'))
    imported = [a.asname or a.name for o in tree.body if isinstance(o, (ast.Import, ast.ImportFrom)) for a in o.names]
    public = [o for o in imported if not o.startswith('_')]
    assert '*' not in imported and sorted(public) == sorted(set(public)) == sorted(NAMES)
    assert 40 <= len(NAMES) <= 60

def test_what_people_type_is_there():
    wanted = '''ALSOCallback LiLAWCallback BMMFilterCallback KNNCorrectionCallback TwoModelConfidenceCallback DynamicsCallback MethodCallback
    GCELoss SCELoss MAELoss NCELoss NCERCELoss NCEMAELoss NFLRCELoss NFLMAELoss ActivePassiveLoss JSLoss GJSLoss BootstrappingLoss CELoss AlphaFocalLoss
    noisy SymmetricNoise PairNoise AsymmetricNoise array_dls digits_dls medmnist_dls series_dls ucr_dls series_learner small_cnn
    estimate_noise calibrate knn_vote audit run_grid as_method METHODS register_method'''.split()
    assert set(wanted) <= set(NAMES)
    from fastai.learner import Learner
    from fastnoisy.core.learner import MethodLearner
    assert hasattr(MethodLearner, 'noise_report') and not hasattr(Learner, 'noise_report')

def test_names_come_from_where_they_are_defined():
    "A class or function is imported from its own module, so that no star of a module can replace it"
    tree = ast.parse((root/'fastnoisy/all.py').read_text(encoding='utf-8'))
    for o in tree.body:
        if not isinstance(o, ast.ImportFrom): continue
        for a in o.names:
            module = getattr(getattr(fastnoisy.all, a.name), '__module__', None)
            assert module in (None, f'fastnoisy.{o.module}'), f'{a.name} is defined in {module}'

def test_no_everyday_name(): assert not set(NAMES) & set(EVERYDAY)

@pytest.mark.parametrize('module', [np, torch, torch.nn, torch.nn.functional, torch.optim, torch.utils.data], ids=lambda o: o.__name__)
def test_no_name_of_numpy_or_torch(module): assert not set(NAMES) & set(dir(module))

def test_no_builtin(): assert not set(NAMES) & set(dir(__builtins__) if not isinstance(__builtins__, dict) else __builtins__)

def star_names(module):
    "What `from module import *` gives in a process of its own, or None and why it cannot be imported"
    code = f'import json\nnames = {{}}\nexec("from {module} import *", names)\nprint("\\n" + json.dumps([o for o in names if o[:2] != "__"]))'
    res = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, cwd=root)
    if res.returncode: return None,res.stderr.strip().splitlines()[-1]
    return set(json.loads(res.stdout.splitlines()[-1])),''

@pytest.mark.parametrize('module', ['fastai.vision.all', 'fastai.tabular.all', 'fastai.text.all', 'fastai.callback.all', 'tsai.basics'])
def test_no_name_of_the_packages_it_is_used_with(module):
    names,why = star_names(module)
    if names is None and module == 'tsai.basics': pytest.skip(f'tsai.basics cannot be imported here: {why}')
    assert names is not None, why
    assert len(names) > 20 and not set(NAMES) & names

def test_nothing_that_pytest_takes_for_a_test(): assert not [o for o in NAMES if o.lower().startswith('test')]

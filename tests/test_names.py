"No module knows another method's name: filters, votes and reports ask every method on the Learner."
import ast
from pathlib import Path
import pytest
import fastnoisy

root = Path(fastnoisy.__file__).parent
METHODS = {'also', 'also_optimizer', 'lilaw', 'bmm', 'knn', 'confidence', 'dynamics'}
OWN = {'also': {'also', 'also_optimizer'}, 'also_optimizer': {'also', 'also_optimizer'}} # one method in two modules
FILES = [o for room in ('core', 'losses', 'noise', 'data', 'analysis', 'callback') for o in sorted((root/room).rglob('*.py'))]

def is_learner(node):
    "Is it `learn`, or `something.learn`?"
    return isinstance(node, ast.Name) and node.id == 'learn' or isinstance(node, ast.Attribute) and node.attr == 'learn'

def imported(node):
    "Modules that an import may be of, the last two parts of each"
    if isinstance(node, ast.Import): return [tuple(o.name.split('.')[-2:]) for o in node.names]
    base = (node.module or '').split('.')
    return [tuple(base[-2:])] + [(base[-1], o.name) for o in node.names]

def names_of_methods(source, own=()):
    "Names of other methods in a module, each with its line"
    others,found = METHODS - set(own),[]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and is_learner(node.value): found.append((node.attr, node.lineno))
        if isinstance(node, ast.Call) and getattr(node.func, 'id', '') in ('hasattr', 'getattr') and is_learner(node.args[0]):
            if isinstance(node.args[1], ast.Constant): found.append((node.args[1].value, node.lineno))
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            relative = isinstance(node, ast.ImportFrom) and node.level == 1 # a neighbour
            found += [(o[-1], node.lineno) for o in imported(node) if o[0] == 'callback' or relative and own and len(o) == 1]
    return [o for o in found if o[0] in others]

@pytest.mark.parametrize('file', FILES, ids=lambda o: str(o.relative_to(root)))
def test_no_name_of_another_method(file):
    own = OWN.get(file.stem, {file.stem}) if file.parent.name == 'callback' else ()
    assert names_of_methods(file.read_text(encoding='utf-8'), own) == []

@pytest.mark.parametrize('source, n', [
    ('learn.also.to_frame()', 1), ("hasattr(self.learn, 'bmm')", 1), ("getattr(learn, 'knn', None)", 1), ('from fastnoisy.callback.lilaw import TERMS', 1),
    ('from .dynamics import note', 1), ('from ..callback import confidence', 1), ('import fastnoisy.callback.also', 1),
    ('from fastai.callback.core import Callback', 0), ('self.confidence = label_confidence(x)', 0), ("Score('lilaw', f)", 0), ('learn.bmm_auc', 0), ("'also'", 0)])
def test_the_test_sees_them(source, n): assert len(names_of_methods(source, {'own'})) == n

"""How the house is built, read from the sources: who imports whom, how lines and cells look, which words are used.
What is still to be repaired is counted in reference/lines.json, whose numbers only shrink:
`python tests/test_architecture.py` lowers them."""
import ast, json, re
from collections import Counter
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE,ALLOWED = ROOT/'fastnoisy',Path(__file__).parent/'reference/lines.json'
FLOORS = 'losses models noise core','analysis','callback data','methods audit','benchmark','all cli __main__'
ROOMS = {room: i for i,rooms in enumerate(FLOORS, 1) for room in rooms.split()}
MAX_FLOORS = 8
WORDS = 'learnt by heart','expensive','two humps','too sure','needed are','needed is'

def files(folder, ext='py'):
    found = sorted((ROOT/folder).rglob(f'*.{ext}'))
    return [o for o in found if o.name != '_modidx.py' and '.ipynb_checkpoints' not in o.parts]

def name_of(file): return str(file.relative_to(ROOT))

# imports

@cache
def modules():
    "{name: file} of the package; the name of a room is that of its face"
    res = {}
    for file in files('fastnoisy'):
        parts = file.relative_to(PACKAGE).with_suffix('').parts
        res['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = file
    return {k: v for k,v in res.items() if k not in ('', '_moved')}

def absolute(node, name):
    "What an import statement of a module imports from, as in `modules`; None = not the package"
    if not node.level:
        first,_,rest = node.module.partition('.')
        return rest if first == 'fastnoisy' else None
    up = node.level - (modules()[name].name == '__init__.py')
    parts = name.split('.')
    return '.'.join([*parts[:len(parts) - up], *([node.module] if node.module else [])])

@cache
def imports(name, top=False):
    "The modules that a module imports, `top`: when it is imported itself, not within a function"
    tree = ast.parse(modules()[name].read_text(encoding='utf-8'))
    res = set()
    for node in tree.body if top else ast.walk(tree):
        if not isinstance(node, ast.ImportFrom): continue
        base = absolute(node, name)
        if base is None: continue
        for o in node.names:
            full = f'{base}.{o.name}' if base else o.name
            res.add(full if full in modules() else base)
    return res & modules().keys() - {name}

def is_face(name): return modules()[name].name == '__init__.py'
def floor(name): return ROOMS[name.split('.')[0]]

def below(name): return sorted(o for o in imports(name, True) if not is_face(o))

@cache
def chain(name):
    "The longest chain of modules, faces aside, of which each imports the next"
    return [name, *max((chain(o) for o in below(name)), key=len, default=[])]

def test_every_room_has_a_floor():
    unknown = {o.split('.')[0] for o in modules()} - ROOMS.keys()
    assert not unknown, f'{unknown}: say in ROOMS on which floor they are'

def test_imports_go_down():
    "A module imports from its own floor or below"
    up = {f'{o} -> {other}' for o in modules() for other in imports(o) if floor(other) > floor(o)}
    assert not up, f'imports from a higher floor: {sorted(up)}'

def test_no_circle():
    try: TopologicalSorter({o: below(o) for o in modules() if not is_face(o)}).prepare()
    except CycleError as e: raise AssertionError(f'circle of imports: {" -> ".join(e.args[1])}') from e

def longest_chain(): return max((chain(o) for o in modules() if not is_face(o)), key=len)

def room(name): return name.split('.')[0]

def test_floors_of_rooms():
    "Seen from outside, where a room is one thing: no circle, and at most eight floors"
    above = {room(o): set() for o in modules()}
    for o in modules(): above[room(o)] |= {room(other) for other in imports(o, True)} - {room(o)}
    floors = {}
    for o in TopologicalSorter(above).static_order():
        floors[o] = 1 + max((floors[other] for other in above[o]), default=0)
    assert max(floors.values()) <= MAX_FLOORS, floors

# lines

def without_names(text):
    "A module whose `__all__`, which nbdev writes, is blank"
    return re.sub(r'^__all__ = \[[^]]*\]', lambda m: '\n'*m[0].count('\n'), text, count=1, flags=re.M)

def wide_lines(text):
    "120 columns, 140 with a comment after the code; nbdev's list of names aside"
    for i,line in enumerate(without_names(text).split('\n'), 1):
        if len(line) > (140 if re.search(r'\S.* # ', line) else 120) and not line.startswith('# %%'): yield i

def crowded_lines(tree):
    "Two simple statements in one line"
    first = Counter(o.lineno for o in ast.walk(tree) if isinstance(o, ast.stmt) and not hasattr(o, 'body'))
    yield from (i for i,n in first.items() if n > 1)

def long_tuples(tree):
    "More than three names assigned at once"
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else []
        yield from (o.lineno for o in targets if isinstance(o, ast.Tuple) and len(o.elts) > 3)

def nested_comprehensions(tree):
    "Two comprehensions in one line"
    kinds = ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp
    first = Counter(o.lineno for o in ast.walk(tree) if isinstance(o, kinds))
    yield from (i for i,n in first.items() if n > 1)

def long_cells(text):
    "Exported cells of 60 lines and more"
    start,n = 1,0
    for cell in re.split(r'^(?=# %%)', text, flags=re.M):
        if len(cell.strip().split('\n')) - 1 >= 60: yield start
        start += cell.count('\n')

def faults(file):
    "{rule: lines that break it}"
    text = file.read_text(encoding='utf-8')
    if file.is_relative_to(PACKAGE): tree = ast.parse(text)
    else: return {'wide': sorted(wide_lines(text))}
    res = dict(wide=wide_lines(text), crowded=crowded_lines(tree), tuples=long_tuples(tree), cells=long_cells(text),
               comprehensions=nested_comprehensions(tree))
    return {k: sorted(v) for k,v in res.items()}

def words(file):
    "The words of WORDS in a file"
    if file.suffix != '.ipynb': text = file.read_text(encoding='utf-8')
    else: text = '\n'.join(''.join(o['source']) for o in json.loads(file.read_text(encoding='utf-8'))['cells'])
    return {o: len(re.findall(rf'\b{o}\b', text, re.I)) for o in WORDS}

def line_counts():
    each = {name_of(o): faults(o) for folder in ('fastnoisy', 'tests', 'benchmarks') for o in files(folder)}
    return {file: {k: len(v) for k,v in rules.items() if v} for file,rules in each.items() if any(rules.values())}

def word_counts():
    each = {name_of(o): words(o) for o in [*files('fastnoisy'), *files('nbs', 'ipynb'), ROOT/'README.md']}
    return {file: {k: v for k,v in rules.items() if v} for file,rules in each.items() if any(rules.values())}

def allowed(): return json.loads(ALLOWED.read_text())

def too_many(now, was):
    "What is more than is allowed"
    each = [(file, rule, n, was.get(file, {}).get(rule, 0)) for file,rules in now.items() for rule,n in rules.items()]
    return {f'{file}: {rule}': f'{n}, allowed {limit}' for file,rule,n,limit in each if n > limit}

def where(file, rule): return faults(ROOT/file)[rule]

def test_lines():
    """`wide` over 120 columns, 140 with a comment; `crowded` with two statements; `tuples` of four names; two
    `comprehensions`; `cells` of 60 lines"""
    more = too_many(line_counts(), allowed()['lines'])
    assert not more, '\n'.join(f'{k}: {v}, in lines {where(*k.split(": "))}' for k,v in more.items())

def test_words():
    more = too_many(word_counts(), allowed()['words'])
    assert not more, f'Say it in the words of the field: {more}'

def test_what_is_measured():
    text = 'x = 1\n' + 'y = ' + '1'*120 + '\nz = 1 # ' + 'a'*120 + '\nz = 1 # ' + 'a'*140
    assert list(wide_lines(text)) == [2, 4]
    names = f"__all__ = ['{'a'*120}',\n           '{'b'*120}']\n"
    assert list(wide_lines(names + text)) == [4, 6] and list(wide_lines(names.replace('__all__', '_all_'))) == [1, 2]
    comprehensions = '[i for i in [j for j in k]]','[i for i in j',' if (k for k in l)]'
    lines = 'if 1: a = 1; b = 2','if 1: a = 1','a,b,c = d,e,f,g = 1',*comprehensions
    tree = ast.parse('\n'.join(lines))
    assert [*crowded_lines(tree)] == [1] and [*long_tuples(tree)] == [3] and [*nested_comprehensions(tree)] == [4]
    cell = '# %% x\n' + 'a = 1\n'*60
    assert [*long_cells('# %% a\nb\n' + cell)] == [3] and [*long_cells(cell.replace('a = 1\n', '', 1))] == []

def test_slow_tests_exist():
    "What reference/slow.txt names, by file and function"
    for name in (ALLOWED.parent/'slow.txt').read_text().split():
        file,_,function = name.partition('::')
        text = (ROOT/'tests'/file).read_text(encoding='utf-8')
        assert f'def {function}(' in text, f'{name}: there is no such test, take it out of slow.txt'

def lower():
    "Write what is measured into the table where it is less"
    was = allowed() if ALLOWED.exists() else None
    res = dict(lines=line_counts(), words=word_counts())
    for kind in res if was else ():
        for file,rules in res[kind].items():
            limits = was[kind].get(file, {})
            res[kind][file] = {k: min(v, limits[k]) for k,v in rules.items() if k in limits}
    def rows(table): return ',\n'.join(f'  {json.dumps(k)}: {json.dumps(v)}' for k,v in table.items() if v)
    parts = [f'"{kind}": {{\n{rows(table)}\n}}' for kind,table in res.items()]
    ALLOWED.write_text('{\n' + ',\n'.join(parts) + '\n}\n')

# pages

def test_links_between_pages():
    gone = {}
    for page in files('nbs', 'ipynb'):
        links = re.findall(r'\]\(([\w./]+\.(?:ipynb|png))', page.read_text(encoding='utf-8'))
        missing = [o for o in links if not (page.parent/o).exists()]
        if missing: gone[name_of(page)] = missing
    assert not gone

def test_every_page_is_in_the_sidebar():
    "In `nbs/sidebar.yml`, once"
    text = (ROOT/'nbs/sidebar.yml').read_text(encoding='utf-8')
    listed = re.findall(r'[\w./]+\.ipynb', text)
    pages = {str(o.relative_to(ROOT/'nbs')) for o in files('nbs', 'ipynb')}
    assert sorted(listed) == sorted(pages)

if __name__ == '__main__':
    lower()
    totals = Counter()
    for rules in allowed()['lines'].values(): totals.update(rules)
    print(*totals.items(), f'longest chain {" -> ".join(longest_chain())}', sep='\n')

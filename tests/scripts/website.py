"""Makes the website from the notebooks: `pip install -e '.[docs]' && python tests/scripts/website.py`.
Markdown of each page in `_docs/pages`, HTML in `_docs/site`, which works without a server and without a network.
Nothing is run: the outputs are those that the notebooks hold. The order is that of `nbs/sidebar.yml`. A warning of the
generator, a link that leads nowhere, or a file from the network is an error."""
import ast, base64, html, json, os, re, shutil, subprocess, sys
from html.parser import HTMLParser
from pathlib import Path

root = Path(__file__).resolve().parents[2]

# what is on a page

def text_of(o): return o if isinstance(o, str) else ''.join(o)

def cells_of(file): return json.loads(file.read_text(encoding='utf-8'))['cells']

def title_of(file):
    first = next(text_of(o['source']) for o in cells_of(file) if o['cell_type'] == 'markdown')
    return re.search('^# (.+)$', first, flags=re.M)[1].strip()

def directives(source): return set(re.findall(r'^#\|\s*(\S+?:?(?:\s*(?:false|true))?)\s*$', source, flags=re.M))

def without_directives(source): return re.sub(r'^#\|.*\n?', '', source, flags=re.M).strip('\n')

def sidebar():
    "[(section, pages)], the name of the first one is None"
    import yaml
    contents = yaml.safe_load((root/'nbs/sidebar.yml').read_text(encoding='utf-8'))['website']['sidebar']['contents']
    return [(None, [o]) if isinstance(o, str) else (o['section'], o['contents']) for o in contents]

def pages(): return [page for _,group in sidebar() for page in group]

# from source to text

def definitions(source):
    "Public classes and functions of a cell"
    try: tree = ast.parse(without_directives(source))
    except SyntaxError: return []
    kinds = ast.FunctionDef, ast.ClassDef
    return [o for o in tree.body if isinstance(o, kinds) and not o.name.startswith('_')]

def owner(node):
    "The class that `@patch` gives a function to"
    if not any(ast.unparse(o).partition('(')[0] == 'patch' for o in node.decorator_list): return ''
    return ast.unparse(node.args.args[0].annotation) + '.'

def symbols():
    "{name: page#name} of all that the package exports; a name of two pages is left out"
    res,twice = {},set()
    for page in pages():
        for cell in cells_of(root/'nbs'/page):
            source = text_of(cell['source'])
            if cell['cell_type'] != 'code' or 'export' not in directives(source): continue
            for o in definitions(source):
                if owner(o): continue
                if o.name in res and res[o.name] != f'{page}#{o.name}': twice.add(o.name)
                res[o.name] = f'{page}#{o.name}'
    return {k: v for k,v in res.items() if k not in twice}

def arguments(node, source):
    "Rows (name, type, default, meaning) of a function's arguments, and of what it returns"
    lines,a = source.split('\n'),node.args
    def comment(line):
        found = re.search(r'\s#\s(.*)$', lines[line - 1])
        return found[1] if found else ''
    def code(o): return ast.unparse(o) if o is not None else ''
    plain = [*a.posonlyargs, *a.args]
    defaults = [None]*(len(plain) - len(a.defaults)) + a.defaults
    every = [*zip(plain, defaults), *([(a.vararg, None)] if a.vararg else []), *zip(a.kwonlyargs, a.kw_defaults)]
    if a.kwarg: every.append((a.kwarg, None))
    stars = {id(a.vararg): '*', id(a.kwarg): '**'}
    # a comment belongs to the last argument of its line
    last = {o.lineno: o for o,_ in every}
    rows = []
    for arg,default in every:
        if arg.arg in ('self', 'cls'): continue
        meaning = comment(arg.end_lineno) if last[arg.lineno] is arg and arg.lineno != node.lineno else ''
        rows.append((stars.get(id(arg), '') + arg.arg, code(arg.annotation), code(default), meaning))
    below = range(max([node.lineno, *last]), node.body[0].lineno + 1)
    end = next((i for i in below if re.match(r'\s*\)', lines[i - 1])), None)
    returned = code(node.returns),comment(end) if end else ''
    return rows,returned

def cell_text(text): return text.replace('|', '&#124;').replace('\n', ' ')

def quoted(text): return f'`{cell_text(text)}`'.replace('&#124;', '\\|') if text else ''

def argument_table(node, source):
    rows,(kind,meaning) = arguments(node, source)
    if not any(o[3] for o in rows): return ''
    res = ['| | type | default | meaning |', '|---|---|---|---|']
    for name,anno,default,text in rows:
        res.append(f'| **{quoted(name)}** | {quoted(anno)} | {quoted(default)} | {cell_text(text)} |')
    if kind or meaning: res.append(f'| **returns** | {quoted(kind)} | | {cell_text(meaning)} |')
    return '\n'.join(res)

def signature(node):
    "`name(a, b, *, c)`"
    f = node if isinstance(node, ast.FunctionDef) else constructor(node)
    if f is None: return node.name
    a = f.args
    names = [o.arg for o in [*a.posonlyargs, *a.args] if o.arg not in ('self', 'cls')]
    if a.vararg: names.append(f'*{a.vararg.arg}')
    elif a.kwonlyargs: names.append('*')
    names += [o.arg for o in a.kwonlyargs] + ([f'**{a.kwarg.arg}'] if a.kwarg else [])
    return f'{node.name}({", ".join(names)})'

def constructor(node):
    return next((o for o in node.body if isinstance(o, ast.FunctionDef) and o.name == '__init__'), None)

def reference(node, source):
    "What is said of a class or a function: signature, docstring, its arguments as a table"
    f = node if isinstance(node, ast.FunctionDef) else constructor(node)
    said,name = ast.get_docstring(node) or '',owner(node) + node.name
    parts = [f'{"####" if owner(node) else "###"} {name} {{ #{name} }}', f'```python\n{signature(node)}\n```', said]
    if f: parts.append(argument_table(f, source))
    for o in node.body if isinstance(node, ast.ClassDef) else []:
        if not isinstance(o, ast.FunctionDef) or o.name.startswith('_') or not ast.get_docstring(o): continue
        parts += [f'**`.{signature(o)}`** {ast.get_docstring(o)}', argument_table(o, source)]
    return '\n\n'.join(o for o in parts if o)

# from Markdown to Markdown

CODE = re.compile(r'(^ {0,3}```.*?^ {0,3}```\s*?$|(?<!`)`[^`\n]+`)', flags=re.M | re.S)

def outside_code(text, change):
    "`change` all that is neither a block nor a span of code"
    return ''.join(o if i % 2 else change(o) for i,o in enumerate(CODE.split(text)))

# what latex2mathml leaves as it is
SIGNS = {'arg': r'\operatorname{arg}', 'langle': '⟨', 'rangle': '⟩'}

def mathml(tex, block):
    from latex2mathml.converter import convert
    tex = re.sub(r'\\(?:tag|label)\{([^}]*)\}', r'\\qquad (\1)', tex)
    for sign,instead in SIGNS.items(): tex = re.sub(rf'\\{sign}(?![a-zA-Z])', lambda m: instead, tex)
    res = convert(tex.strip(), display='block' if block else 'inline')
    def entities(m):
        sign = re.sub(r'\\([{}])', r'\1', html.unescape(m[1])) # a large brace keeps its backslash
        return ''.join(f'&#{ord(o)};' if o in '*_|\\`[]~^#&<>' else o for o in sign).join('><')
    res = re.sub('>([^<]+)<', entities, res)
    # a line that begins with <math> would be taken for a block
    return f'\n\n<div class="equation">{res}</div>\n\n' if block else f'<span>{res}</span>'

def with_mathml(text):
    "Formulas as MathML, which browsers show without a script; code is kept out of the way meanwhile"
    kept = []
    def keep(m):
        kept.append(m[0])
        return f'\x00{len(kept) - 1}\x00'
    text = CODE.sub(keep, text)
    text = re.sub(r'(?<!\\)\$\$(.+?)\$\$', lambda m: mathml(m[1], True), text, flags=re.S)
    text = re.sub(r'(?<![\\$])\$(?!\s)((?:(?!\n\n)[^$])+?)(?<!\s)\$(?![\d$])', lambda m: mathml(m[1], False), text)
    return re.sub('\x00(\\d+)\x00', lambda m: kept[int(m[1])], text)

def slug(text): return re.sub(r'[\s_-]+', '-', re.sub(r'[^\w\s-]', '', text.lower())).strip('-')

def with_links(text, page, names):
    "Links to notebooks lead to their pages, names in code font to where they are explained"
    def link(m):
        where,_,fragment = m[1].partition('#')
        if where.startswith('http') or not (where.endswith('.ipynb') or not where): return m[0]
        known = fragment in names
        if fragment: fragment = '#' + (fragment if known else slug(fragment))
        return f']({where.removesuffix(".ipynb") + ".md" if where else ""}{fragment})'
    text = outside_code(text, lambda o: re.sub(r'\]\(([^)\s]+)\)', link, o))
    def name(m):
        found = names.get(m[2])
        if not found or found.startswith(f'{page}#'): return m[0]
        file,_,anchor = found.partition('#')
        up = os.path.relpath(file.removesuffix('.ipynb') + '.md', Path(page).parent).replace(os.sep, '/')
        return f'[{m[1]}]({up}#{anchor})'
    linked,fence = [],False
    for line in text.split('\n'): # headings, code and what is a link already stay as they are
        if line.lstrip().startswith('```'): fence = not fence
        plain = fence or line.startswith(('#', '    ')) or '`](' in line
        linked.append(line if plain else re.sub(r'(?<![\[`])(`([A-Za-z]\w+)(?:\([^`\n]*\))?`)(?!\])', name, line))
    return '\n'.join(linked)

def with_blank_lines(text):
    "A list or a table may follow a paragraph at once in a notebook; the generator wants an empty line between them"
    res,fence,before = [],False,''
    for line in text.split('\n'):
        if line.lstrip().startswith('```'): fence = not fence
        begins = re.match(r'([-*+]|\d+\.) ', line) or line.startswith('|')
        goes_on = not before.strip() or before.startswith(('|', ' ')) or re.match(r'([-*+]|\d+\.) ', before)
        if begins and not goes_on and not fence: res.append('')
        # an inner list is indented by the width of the outer one's sign, but by four for the generator
        inner = re.match(r'( {2,3})([-*+]|\d+\.) ', line)
        if inner and not fence: line = ' '*(4 - len(inner[1])) + line
        res.append(line)
        before = line
    return '\n'.join(res)

def markdown(text, page, names): return with_mathml(with_blank_lines(with_links(text, page, names)))

# from cells to pages

def table_html(text):
    "A table of pandas without the style that it carries along"
    return re.sub(r'<style scoped>.*?</style>', '', text, flags=re.S).replace('border="1"', '')

def output_text(text):
    "Markdown that a cell shows; a table is marked as an output, as those of pandas are"
    return f'<div class="output" markdown>\n\n{text}\n\n</div>' if re.search(r'^\|', text, flags=re.M) else text

KINDS = 'image/png','image/jpeg','text/html','text/markdown','text/plain'

def on_a_screen(text):
    "Of each line what is seen in the end: a progress bar writes over itself, a carriage return at a time"
    lines = [o.rstrip('\r').rpartition('\r')[2].rstrip() for o in text.split('\n')]
    return '\n'.join(o for o in lines if o != '█').rstrip()

def outputs(cell, folder, page, n):
    "The outputs of a cell; images become files beside the page"
    for i,o in enumerate(cell.get('outputs', [])):
        data = o.get('data', {})
        kind = next((k for k in KINDS if k in data), None)
        if o['output_type'] == 'stream': yield f'```text\n{on_a_screen(text_of(o["text"]))}\n```'
        elif kind and kind.startswith('image'):
            name = f'{Path(page).stem}-{n}-{i}.{kind[6:]}'
            (folder/name).write_bytes(base64.b64decode(text_of(data[kind])))
            yield f'![What the code above draws]({name})'
        elif kind == 'text/html':
            table = re.sub(r'\n\s*\n', '\n', table_html(text_of(data[kind])))
            yield f'<div class="output">\n{table}\n</div>'
        elif kind == 'text/markdown': yield output_text(text_of(data[kind]))
        elif kind and not text_of(data[kind]).startswith('<'):
            yield f'```text\n{text_of(data[kind]).rstrip()}\n```'

def code_cell(cell, folder, page, n):
    source = text_of(cell['source'])
    said,code = directives(source),without_directives(source)
    if not code or said & {'hide', 'default_exp'} or re.search(r'^#\|\s*default_exp', source, flags=re.M): return
    if said & {'export', 'exports', 'exporti'}:
        if not re.sub(r'^(?:from|import) .*|^\s.*|^\)', '', code, flags=re.M).strip(): return # imports alone
        for o in definitions(source): yield reference(o, code)
        names = ', '.join(o.name for o in definitions(source)) or 'helpers'
        inner = '\n'.join(f'    {line}' if line else '' for line in code.split('\n'))
        yield f'??? abstract "Source: {names}"\n\n    ```python\n{inner}\n    ```'
    elif 'echo: false' not in said and 'echo:false' not in said: yield f'```python\n{code}\n```'
    yield from outputs(cell, folder, page, n)

def last_heading(text, level):
    "Level of the last heading of a text, `level` if it has none"
    found = re.findall('^(#+) ', CODE.sub('', text), flags=re.M)
    return len(found[-1]) if found else level

def below(text, level, has_class):
    "A reference with its heading one below that of its section, a patched method's two below where its class is shown"
    marks = re.match('#+', text)
    if marks is None: return text
    depth = level + 1 + (len(marks[0]) == 4 and has_class)
    return '#'*min(depth, 5) + text[len(marks[0]):]

def page_text(page, folder, names):
    parts,level,has_class = [],1,False
    for n,cell in enumerate(cells_of(root/'nbs'/page)):
        if cell['cell_type'] == 'markdown':
            text = text_of(cell['source'])
            after = last_heading(text, 0)
            if after: level,has_class = after,False
            parts.append(markdown(text, page, names))
        elif cell['cell_type'] == 'code':
            for o in code_cell(cell, folder, page, n):
                o = below(o, level, has_class)
                has_class |= o.startswith('#'*(level + 1) + ' ')
                made = o.startswith(('```', '<', '!', '???')) and not o.startswith('<div class="output" markdown>')
                parts.append(o if made else markdown(o, page, names))
    return '\n\n'.join(parts) + '\n'

FEATURES = ['navigation.tabs', 'navigation.top', 'navigation.footer', 'navigation.sections', 'toc.follow',
            'search.highlight', 'content.code.copy']

CSS = '''
.md-grid { max-width: 70rem; }
.equation { overflow: auto hidden; margin: 1em 0; padding: .2em 0 .5em; } math { font-size: 1.08em; }
.output { overflow-x: auto; margin: 1em 0; } .output table { font-size: .68rem; border-collapse: collapse; }
.output th, .output td { padding: .25em .8em; text-align: right; }
.output td { border-top: .05rem solid var(--md-typeset-table-color); }
.output td:not(.long) { white-space: nowrap; }
.output button.sort { all: unset; cursor: pointer; font-weight: 700; }
.output button.sort:focus-visible { outline: .1rem solid var(--md-accent-fg-color); outline-offset: .1rem; }
.output button.sort::after { content: "↕"; opacity: .35; padding-left: .3em; font-weight: 400; }
.output [aria-sort="ascending"] .sort::after { content: "↑"; opacity: 1; }
.output [aria-sort="descending"] .sort::after { content: "↓"; opacity: 1; }
.output tr[hidden] { display: none; }
.table-tools { display: flex; gap: .8em; align-items: baseline; font-size: .68rem; margin: 1em 0 -.6em; }
.table-tools input { font: inherit; color: inherit; background: none; padding: .2em .6em; border-radius: .2rem;
  border: .05rem solid var(--md-default-fg-color--lighter); max-width: 14em; }
.md-typeset img { max-width: 100%; }
.md-typeset td.long { min-width: 11rem; }
.md-typeset td code { word-break: normal; overflow-wrap: normal; }
.md-typeset td:nth-child(-n+2) code { white-space: nowrap; }
[data-md-color-scheme="slate"] .md-typeset img { background: #fff; border-radius: .3rem; }
.md-typeset details.abstract { font-size: .64rem; border: 0; box-shadow: none; background: none; }
.md-typeset details.abstract > summary { background: none; font-weight: normal; opacity: .75; }
.md-typeset details.abstract > summary::before { background-color: currentcolor; }
.md-typeset h1 + blockquote { font-size: .95rem; }
'''

def config(out):
    def row(page): return {title_of(root/'nbs'/page): page.removesuffix('ipynb') + 'md'}
    nav = [row(group[0]) if name is None else {name: [row(o) for o in group]} for name,group in sidebar()]
    def toml(o):
        if isinstance(o, dict): return '{ ' + ', '.join(f'{json.dumps(k)} = {toml(v)}' for k,v in o.items()) + ' }'
        return f'[{", ".join(map(toml, o))}]' if isinstance(o, list) else json.dumps(o, ensure_ascii=False)
    text = f'''[project]
site_name = "fastnoisy"
site_description = "fastai and timm training that copes with wrong labels, and finds them"
docs_dir = "pages"
site_dir = "site"
use_directory_urls = false
extra_css = ["extra.css"]
extra_javascript = ["tables.js"]
nav = {toml(nav)}
[project.theme]
font = false
features = {toml(FEATURES)}
[[project.theme.palette]]
media = "(prefers-color-scheme: light)"
scheme = "default"
toggle = {{ icon = "lucide/moon", name = "To the dark colours" }}
[[project.theme.palette]]
media = "(prefers-color-scheme: dark)"
scheme = "slate"
toggle = {{ icon = "lucide/sun", name = "To the light colours" }}
[project.plugins.search]
[project.plugins.offline]
[project.markdown_extensions.attr_list]
[project.markdown_extensions.tables]
[project.markdown_extensions.md_in_html]
[project.markdown_extensions.admonition]
[project.markdown_extensions.toc]
permalink = true
toc_depth = 3
[project.markdown_extensions.pymdownx.details]
[project.markdown_extensions.pymdownx.superfences]
[project.markdown_extensions.pymdownx.highlight]
'''
    (out/'zensical.toml').write_text(text, encoding='utf-8')

def write_pages(out):
    "The Markdown of all pages and the settings of the generator"
    names,folder = symbols(),out/'pages'
    for page in pages():
        file = folder/Path(page).with_suffix('.md')
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(page_text(page, file.parent, names), encoding='utf-8')
    shutil.copytree(root/'nbs/images', folder/'images', dirs_exist_ok=True)
    (folder/'extra.css').write_text(CSS, encoding='utf-8')
    shutil.copy(Path(__file__).with_name('tables.js'), folder)
    config(out)

SHIM = """// A page that is opened from a disk may start no worker: the search runs in a hidden frame instead.
if (location.protocol === 'file:') window.Worker = class {
  constructor(url) {
    this.frame = Object.assign(document.createElement('iframe'), {hidden: true});
    document.body.append(this.frame);
    const inside = this.frame.contentWindow, script = inside.document.createElement('script');
    inside.postMessage = data => {
      const copy = structuredClone(data);
      setTimeout(() => this.onmessage && this.onmessage({data: copy}));
    };
    this.ready = new Promise((ready, failed) => Object.assign(script, {src: url, onload: ready, onerror: failed}));
    this.ready.catch(event => this.onerror && this.onerror(event));
    inside.document.head.append(script);
  }
  postMessage(data) { // copies, as between threads
    const copy = structuredClone(data);
    this.ready.then(() => this.frame.contentWindow.onmessage({data: copy}));
  }
  terminate() { this.frame.remove(); }
};
"""

def without_network(site):
    "The one script that the generator takes from the network is replaced by ours"
    (site/'assets/javascripts/frame-worker.js').write_text(SHIM, encoding='utf-8')
    for file in site.rglob('*.html'):
        up = '../'*len(file.relative_to(site).parent.parts)
        text = file.read_text(encoding='utf-8')
        text = text.replace('https://unpkg.com/iframe-worker/shim', f'{up}assets/javascripts/frame-worker.js')
        file.write_text(text, encoding='utf-8')

# what is checked

class Links(HTMLParser):
    "The addresses in a page, those that are loaded with it, and its anchors"
    def __init__(self):
        super().__init__()
        self.hrefs,self.loaded,self.ids = set(),set(),set()
    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs[o] for o in ('id', 'name') if attrs.get(o)}
        if tag == 'a' and attrs.get('href'): self.hrefs.add(attrs['href'])
        if attrs.get('src') or tag == 'link' and attrs.get('rel') not in ('canonical', 'next', 'prev'):
            self.loaded.add(attrs.get('src') or attrs.get('href', ''))

def faults(site):
    "Links that lead nowhere, and files that come from the network"
    found = {}
    for file in sorted(site.rglob('*.html')):
        found[file] = Links()
        found[file].feed(file.read_text(encoding='utf-8'))
    res = []
    for file,o in found.items():
        if file.name == '404.html': continue
        here = file.relative_to(site).as_posix()
        res += [f'{here} loads {link}' for link in o.loaded if re.match('(https?:)?//', link)]
        for link in o.hrefs | o.loaded:
            where,_,anchor = link.partition('#')
            if re.match('[a-z]+:|//', where): continue
            target = (file.parent/where.partition('?')[0]).resolve() if where else file
            if target.is_dir(): target = target/'index.html'
            if not target.exists(): res.append(f'{here}: there is no {link}')
            elif anchor and target in found and anchor not in found[target].ids:
                res.append(f'{here}: nothing is called {link}')
    missing = {o.removesuffix('ipynb') + 'html' for o in pages()} - {o.relative_to(site).as_posix() for o in found}
    return res + [f'{o} is missing' for o in sorted(missing)]

def unknown_signs(site):
    "Commands of LaTeX that are left in formulas"
    for file in sorted(site.rglob('*.html')):
        for formula in re.findall('<math.*?</math>', file.read_text(encoding='utf-8'), flags=re.S):
            left = re.search(r'(?:\\|&#92;)[a-zA-Z]+', formula)
            if left: yield file.relative_to(site).as_posix(),left[0]

def build(out=root/'_docs'):
    "Make the site and check it; `SystemExit` names what is wrong"
    out = Path(out)
    shutil.rmtree(out, ignore_errors=True)
    write_pages(out)
    program = shutil.which('zensical', path=f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}')
    if program is None: sys.exit("The site needs zensical: pip install -e '.[docs]'")
    res = subprocess.run([program, 'build', '--strict', '--clean'], cwd=out, capture_output=True, text=True)
    if res.returncode or not (out/'site/index.html').exists(): sys.exit(f'zensical: {res.stdout}{res.stderr}')
    without_network(out/'site')
    wrong = faults(out/'site')
    wrong += [f'{o}: a formula with {sign}' for o,sign in unknown_signs(out/'site')]
    if wrong: sys.exit('\n'.join(wrong))
    return out/'site'

if __name__ == '__main__': print(build(*sys.argv[1:]))

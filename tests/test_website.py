"The site made from the notebooks: text, reference, links, and that nothing comes from the network."
import ast, re
from pathlib import Path
import pytest
from browser import CHROMIUM, Browser
from website import (CODE, argument_table, below, build, cells_of, definitions, directives, faults, last_heading,
                     markdown, on_a_screen, page_text, pages, reference, root, sidebar, slug, symbols, text_of,
                     title_of)

SOURCE = '''#| export
@patch
def score(self:Table,
    ids, # Of the batch, (B,)
    how:str='mean', # 'mean' or 'last' | never None
    *, strict=False # Raise?
)->list: # One number for each
    "The scores"
'''

def test_a_definition_is_explained():
    node, = definitions(SOURCE)
    text = reference(node, SOURCE.split('\n', 1)[1])
    assert text.startswith('#### Table.score { #Table.score }')
    assert 'score(ids, how, *, strict)' in text and 'The scores' in text
    rows = [[cell.strip() for cell in row.split(' |')] for row in text.split('\n') if row.startswith('| **')]
    assert rows[0][0] == '| **`ids`**' and 'Of the batch, (B,)' in rows[0]
    assert "`'mean'`" in rows[1] and "'mean' or 'last' &#124; never None" in rows[1] and '`str`' in rows[1]
    assert 'Raise?' in rows[2] and '`False`' in rows[2] and 'One number for each' in rows[3] and '`list`' in rows[3]

def test_without_comments_no_table():
    node = ast.parse('def f(a, b=1): "Adds"').body[0]
    assert argument_table(node, 'def f(a, b=1): "Adds"') == ''

def test_definitions_are_the_public_ones():
    assert [o.name for o in definitions('class A: pass\ndef _b(): pass\ndef c(): pass\nd = 1')] == ['A', 'c']

def test_links():
    names = {'ELRCallback': 'callback/elr.ipynb#ELRCallback', 'audit': 'audit/run.ipynb#audit'}
    def said(text, page='tutorials/a.ipynb'): return markdown(text, page, names)
    assert said('[x](../losses.ipynb#Which-one?)') == '[x](../losses.md#which-one)'
    assert said('`ELRCallback(3)` and `other`') == '[`ELRCallback(3)`](../callback/elr.md#ELRCallback) and `other`'
    assert said('`audit` here', 'audit/run.ipynb') == '`audit` here'
    for text in ('```\n`audit`\n[x](a.ipynb)\n```', '[`audit`](https://a.b/c.ipynb)', '# `audit`'):
        assert said(text) == text

def test_lists_and_tables_after_a_paragraph():
    text = markdown('These:\n- a\n- b\n  - c\n\n1. d\n   goes on', 'a.ipynb', {})
    assert text == 'These:\n\n- a\n- b\n    - c\n\n1. d\n   goes on'
    assert markdown('As here:\n| a | b |\n|---|---|', 'a.ipynb', {}) == 'As here:\n\n| a | b |\n|---|---|'

def test_formulas():
    pytest.importorskip('latex2mathml')
    text = markdown('For $\\pi_i|x$ it costs $5, `$a$` $', 'a.ipynb', {})
    assert text.startswith('For <span><math') and text.endswith('it costs $5, `$a$` $')
    assert '&#x' not in text and '|' not in text
    assert '&#960;' in text or 'π' in text
    text = markdown('$\\alpha\\,$CE$\\,+\\arg\\langle x\\rangle$RCE', 'a.ipynb', {})
    assert '$' not in text and '\\' not in text and text.count('<math') == 2 and '⟨' in text and '>arg<' in text
    block = markdown('$$\\Big\\{ a_1 \\Big\\} \\tag{2}$$', 'a.ipynb', {})
    assert '<div class="equation">' in block and '\\' not in block and '<mn>2</mn>' in block

def test_headings_of_a_reference_are_below_their_section():
    assert last_heading('# a\n\n## b\n```\n# c\n```\nd', 1) == 2 and last_heading('a # b', 3) == 3
    assert below('### f { #f }', 1, False) == '## f { #f }' and below('### f', 3, True) == '#### f'
    assert below('#### C.f', 2, False) == '### C.f' and below('#### C.f', 2, True) == '#### C.f'
    assert below('```python\nf()\n```', 2, True) == '```python\nf()\n```'

def test_no_page_leaves_out_a_level_of_headings(tmp_path):
    for page in pages():
        levels = [len(o) for o in re.findall('^(#+) ', CODE.sub('', page_text(page, tmp_path, {})), flags=re.M)]
        assert levels[0] == 1 and all(b <= a + 1 for a,b in zip(levels, levels[1:])), page

def test_anchors(): assert slug('Your own method, and `your` data?') == 'your-own-method-and-your-data'

def test_progress_bars_leave_no_trace():
    bars = '█\repoch  accuracy\n█\r\rEpoch 1/2 : |█---| 0 %\rEpoch 1/2 : |██--| 50 %\r1   0.9\n'
    assert on_a_screen(bars + 'plain\r\n\nmore\n') == 'epoch  accuracy\n1   0.9\nplain\n\nmore'

def test_every_page_has_a_title_and_says_what_it_is_about():
    for page in pages():
        first = next(text_of(o['source']) for o in cells_of(root/'nbs'/page) if o['cell_type'] == 'markdown')
        assert not title_of(root/'nbs'/page).startswith('#') and '\n> ' in first, page

def test_sections():
    "In the order in which people need them"
    names = [name for name,_ in sidebar()]
    assert names == [None, None, 'Tutorials', 'How to', 'Methods', 'Results', 'Reference', 'For developers']

def test_faults_are_found(tmp_path):
    links = ''.join(f'<a href="{o}">x</a>' for o in ('b.html', 'c.html', 'b.html#no'))
    (tmp_path/'index.html').write_text(f'<script src="https://a.b/c.js"></script>{links}')
    (tmp_path/'b.html').write_text('<p id="yes"><a href="index.html">home</a><a href="#yes">up</a><img src="d.png">')
    found = '\n'.join(faults(tmp_path))
    said = 'index.html loads https://a.b/c.js','no c.html','called b.html#no','b.html: there is no d.png'
    for o in (*said, 'losses/robust.html is missing'): assert o in found
    assert 'no b.html\n' not in found and '#yes' not in found

def test_names_lead_to_pages():
    names = symbols()
    assert names['ELRCallback'] == 'callback/elr.ipynb#ELRCallback' and not any(o.startswith('_') for o in names)

ROWS = [('ce', '72.0 ± 1.6 / 92.6', '1'), ('elr', '9.5 (one seed)', 'NaN'), ('also', '96.6 ± 0.5', '1,002'),
        ('gce', '', '-3'), ('<a href="#x">peer</a>', '−1.5', '.5')]

def result_table(head, rows):
    cells = '\n'.join('<tr>' + ''.join(f'<td>{o}</td>' for o in row) + '</tr>' for row in rows)
    return f'<div class="output"><table><thead>{head}</thead><tbody>{cells}</tbody></table></div>'

def shown(browser, column=0):
    "What the visible rows of the first table hold in a column"
    return browser.js(f"[...document.querySelector('table').tBodies[0].rows].filter(o => o.offsetParent)"
                      f".map(o => o.cells[{column}].textContent)")

def table_page(folder, *tables):
    "A page with tables, their script beside it"
    script = (Path(__file__).parent/'scripts/tables.js').read_text(encoding='utf-8')
    (folder/'a.html').write_text(f'<meta charset=utf-8><script>{script}</script>' + ''.join(tables), encoding='utf-8')
    return folder/'a.html'

@pytest.mark.skipif(CHROMIUM is None, reason='needs Chromium')
def test_tables_are_sorted_and_filtered(tmp_path):
    head = '<tr><th>method</th><th>last</th><th>n</th></tr>'
    short = result_table(head, ROWS[:4])
    names = ['ce', 'elr', 'also', 'gce', 'peer']
    with Browser(tmp_path, (800, 600)) as b:
        b.open(table_page(tmp_path, result_table(head, ROWS), short), 'true')
        assert b.js("document.querySelectorAll('.table-tools').length") == 1 # a short one stays as it is
        assert shown(b) == names
        b.click('th:nth-child(2) button')
        assert shown(b) == ['peer', 'elr', 'ce', 'also', 'gce'] # what is not known comes last
        assert b.js("document.querySelector('th:nth-child(2)').ariaSort") == 'ascending'
        b.click('th:nth-child(2) button')
        assert shown(b) == ['also', 'ce', 'elr', 'peer', 'gce']
        b.click('th:nth-child(2) button')
        assert shown(b) == names and b.js("document.querySelector('th:nth-child(2)').ariaSort") == 'none'
        b.js("document.querySelector('th:nth-child(3) button').focus()")
        b.key('Enter')
        assert shown(b, 2) == ['-3', '.5', '1', '1,002', 'NaN']
        b.click('th:nth-child(1) button')
        assert shown(b) == sorted(names) and b.js("document.querySelector('th:nth-child(3)').ariaSort") == 'none'
        b.click('input')
        b.key(*'E 5')
        assert shown(b) == ['elr', 'peer'] and b.js("document.querySelector('output').value") == '2 of 5 rows'
        b.js("document.querySelector('input').select()")
        b.key('Delete')
        assert len(shown(b)) == 5 and b.js("document.querySelector('output').value") == ''
        assert b.problems() == []

@pytest.mark.skipif(CHROMIUM is None, reason='needs Chromium')
def test_cells_over_several_rows_are_repeated(tmp_path):
    "As pandas writes an index of two levels, with two rows of headings"
    import pandas as pd
    index = pd.MultiIndex.from_product([['digits', 'fashion'], ['ce', 'also', 'elr']], names=['data', 'method'])
    frame = pd.DataFrame(dict(last=[3, 1, 2, 6, 4, 5]), index=index)
    page = table_page(tmp_path, f'<div class="output">{frame.to_html()}</div>')
    with Browser(tmp_path, (800, 600)) as b:
        b.open(page, 'true')
        assert b.js("[...document.querySelectorAll('button')].map(o => o.textContent)") == ['last', 'data', 'method']
        b.click('button')
        assert shown(b, 2) == list('123456')
        assert shown(b) == ['digits']*3 + ['fashion']*3 and shown(b, 1) == ['also', 'elr', 'ce']*2
        b.choose('input', 'fashion also')
        assert shown(b, 2) == ['4']

@pytest.mark.skipif(CHROMIUM is None, reason='needs Chromium')
def test_cells_with_sentences_are_known(tmp_path):
    cells = 'short','a sentence that is a good deal longer than a name'
    page = table_page(tmp_path, result_table('<tr><th>a</th><th>b</th></tr>', [cells]))
    with Browser(tmp_path, (390, 800)) as b:
        b.open(page, 'true')
        assert b.js("[...document.querySelectorAll('td')].map(o => o.classList.contains('long'))") == [False, True]

# the search is in a shadow root
INPUTS = """(function all(root) {
  const inside = o => o.shadowRoot ? all(o.shadowRoot) : o.tagName === 'INPUT' ? [o] : []
  return [...root.querySelectorAll('*')].flatMap(inside)
})(document)"""

@pytest.mark.slow
def test_the_site_is_made_without_a_warning(tmp_path):
    "`build` ends with what is wrong: warnings, links, files from the network, missing pages"
    for o in ('zensical', 'latex2mathml'): pytest.importorskip(o)
    site = build(tmp_path/'docs')
    page = (site/'callback/also.html').read_text(encoding='utf-8')
    assert '<p><span><math' in (site/'losses/robust.html').read_text(encoding='utf-8')
    assert 'id="ALSOCallback"' in page and '<details' in page and '<math' in page and 'frame-worker.js' in page
    assert (site/'search.js').stat().st_size > 100_000
    methods = (site/'callback/index.html').read_text(encoding='utf-8')
    assert 'src="../tables.js"' in methods and '<div class="output">\n<table>' in methods
    if CHROMIUM is None: return
    with Browser(tmp_path, (1280, 900)) as b:
        b.open(site/'callback/index.html', 'document.querySelector(".table-tools") !== null')
        before = shown(b)
        b.click('.output button.sort')
        assert shown(b) == sorted(before, key=str.lower) and b.problems() == []
        field = f"{INPUTS}.find(o => o.ariaLabel === 'Search')"
        b.js("[...document.querySelectorAll('button')].find(o => /Search/.test(o.innerText)).click()")
        b.wait(f'!!{field}')
        b.js(f'{field}.focus()')
        for letter in 'mixture':
            b.key(letter)
            b.js('new Promise(ready => setTimeout(ready, 200))') # the answer comes meanwhile, and must not empty the field
        assert b.js(f'{field}.value') == 'mixture'

def method_pages(): return [o for o in dict(sidebar())['Methods'] if not o.endswith(('index.ipynb', 'tracking.ipynb'))]

ORDER = ['Knobs'], ['Cost'], ['Does it help?', 'Do they help?'], ['When not to use it', 'When not to use them']

@pytest.mark.parametrize('page', method_pages())
def test_order_of_a_method_page(page):
    "Idea and one line of use, picture, knobs, cost, evidence that nobody typed, when not to use it; then the source"
    cells = cells_of(root/'nbs'/page)
    heads = [(i, o) for i,cell in enumerate(cells) if cell['cell_type'] == 'markdown'
             for o in re.findall('^## (.+)$', text_of(cell['source']), flags=re.M)]
    def place(wanted): return next((n for n,(_,o) in enumerate(heads) if o in wanted), None)
    places = [place(o) for o in ORDER]
    assert None not in places and places == sorted(places), f'{heads} beside {ORDER}'
    knobs,_,help_,last = (heads[o][0] for o in places)
    def kinds(cell): return [k for o in cell.get('outputs', []) for k in o.get('data', {})]
    def shown(cells): return [k for o in cells if 'hide' not in directives(text_of(o['source'])) for k in kinds(o)]
    opening = '\n'.join(text_of(o['source']) for o in cells[:2])
    assert '```python' in opening and 'image/png' in shown(cells[:knobs + 1]), 'one line of use, and a picture'
    assert {'text/html', 'text/markdown', 'image/png'} & {*shown(cells[help_:last + 1])}
    text = '\n'.join(text_of(o['source']) for o in cells[help_:last + 1] if o['cell_type'] == 'markdown')
    evidence = re.split('^## ', text, flags=re.M)
    evidence = [o for o in evidence if not o.startswith(tuple(ORDER[0] + ORDER[1] + ORDER[3]))]
    typed = re.search(r'^\|.*(± \d|\.\d\d)', '\n'.join(evidence), flags=re.M)
    assert not typed, f'read the numbers from their CSV: {typed[0]}'
    for cell in cells[:last + 1]:
        source = text_of(cell['source'])
        if 'export' in directives(source): assert not definitions(source), 'source comes last'

"The site made from the notebooks: text, reference, links, and that nothing comes from the network."
import ast
import pytest
from website import (argument_table, build, cells_of, definitions, faults, markdown, pages, reference, root, sidebar,
                     slug, symbols, text_of, title_of)

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

def test_anchors(): assert slug('Your own method, and `your` data?') == 'your-own-method-and-your-data'

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

@pytest.mark.slow
def test_the_site_is_made_without_a_warning(tmp_path):
    "`build` ends with what is wrong: warnings, links, files from the network, missing pages"
    for o in ('zensical', 'latex2mathml'): pytest.importorskip(o)
    site = build(tmp_path/'docs')
    page = (site/'callback/also.html').read_text(encoding='utf-8')
    assert '<p><span><math' in (site/'losses/robust.html').read_text(encoding='utf-8')
    assert 'id="ALSOCallback"' in page and '<details' in page and '<math' in page and 'frame-worker.js' in page
    assert (site/'search.js').stat().st_size > 100_000

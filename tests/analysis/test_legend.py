"The head of the review page tells what to do and how it was made; the legend explains all that the page shows."
import re, shlex
import numpy as np, pandas as pd, pytest
import fastnoisy
from fastnoisy.analysis.report.legend import legend_of, said_column
from fastnoisy.analysis.report.table import noise_report
from fastnoisy.audit.run import audit
from fastnoisy.cli import parser
from browser import CHROMIUM, Browser
from reports import small_report

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason='needs Chromium')
UNKNOWN = 'a number of the method or the person who added it to the report'

@pytest.fixture(scope='module')
def audited(tmp_path_factory):
    "A table with names, features and three annotators, one of whom is often wrong"
    folder = tmp_path_factory.mktemp('legend')
    g = np.random.default_rng(0)
    true = np.array(['cat', 'dog'])[(np.arange(120) % 2)]
    def person(q): return np.where(g.random(120) < q, true, g.choice(['cat', 'dog'], 120))
    table = pd.DataFrame(dict(patient=[f'p{i}' for i in range(120)], a=g.normal(size=120) + 3*(true == 'cat'),
                              n=g.normal(size=120), anna=person(.95), ben=person(.8), carla=person(.3)))
    table.to_csv(folder/'t.csv', index=False)
    report = audit(folder/'t.csv', y=['anna', 'ben', 'carla'], epochs=3, device='cpu', seed=5, threshold=.6, bs=16,
                   plant=.1, out=folder/'my out')
    return report,folder/'my out/report.html'

def texts(browser, selector):
    return browser.js(f'[...document.querySelectorAll({selector!r})].map(o => o.textContent.trim())')

@needs_browser
def test_the_legend_explains_every_column_and_every_filter(audited, tmp_path):
    "By what stands on the page itself: whoever adds a column or a filter adds its meaning"
    with Browser(tmp_path) as browser:
        browser.open(audited[1])
        words = dict(zip(texts(browser, '#legend dt'), texts(browser, '#legend dd')))
        said = ' '.join([*words, *words.values()])
        columns = {name for o in words for name in [o, *o.split(', ')]}
        shown = texts(browser, 'footer th')
        assert len(shown) > 25 and {'patient', 'anna', 'worst_class', 'planted_label_quality'} <= {*shown}
        assert {*shown} <= columns, {*shown} - columns
        assert UNKNOWN not in words.values() and all(len(o) > 10 for o in words.values())
        filters = browser.js('[...document.querySelectorAll("#filters label")].map('
                             'o => o.firstChild.textContent.trim())')
        assert len(filters) == 6 and {*filters} <= {*words}, {*filters} - {*words}
        for select in ('state', 'kind', 'order'):
            for option in texts(browser, f'#{select} option'):
                assert option == 'all' or option.partition(':')[0] in said, option
        for button in texts(browser, '#bar button'): assert button in said, button
        for key in texts(browser, '.keys kbd'): assert key # beside each stands what it does
        card = texts(browser, '.card')[0]
        assert ('like it in' in card or 'usual for' in card) and 'like it in ...' in words and 'usual for ...' in words
        assert browser.problems() == []

@needs_browser
def test_the_head_says_what_to_do_and_how_it_was_made(audited, tmp_path):
    report,page = audited
    with Browser(tmp_path) as browser:
        browser.open(page)
        head = browser.js('document.querySelector("header").innerText')
        steps = texts(browser, '.next li')
        made = dict(zip(texts(browser, '#made dt'), texts(browser, '#made dd')))
    assert 'What to do now' in head and report.summary()[:60] in head
    assert [bool(re.search(o, s)) for o,s in zip(('Accept.*Keep.*Other.*Unsure', 'similarity', 'Save', 'Export'), steps)
            ] == [True]*4 and 'fastnoisy apply decisions.csv' in steps[3]
    assert re.fullmatch(r'\d{4}-\d\d-\d\d \d\d:\d\d', made['date'])
    versions = f'fastnoisy {fastnoisy.__version__}', 'fastai 2.', 'torch 2.', 'Python 3.'
    assert all(o in made['versions'] for o in versions)
    assert '3 epochs, on cpu' in made['trained'] and made['data'].endswith('t.csv')
    for o in ('above a probability of 0.6', '16 samples in a batch', 'seed 5', 'errors planted in 10%'):
        assert o in made['settings'], o
    args = vars(parser().parse_args(shlex.split(made['command'])[1:])) # it is a command, and asks for the same
    same = dict(y=['anna', 'ben', 'carla'], epochs=3, seed=5, threshold=.6, bs=16, plant=.1, out=str(page.parent))
    assert {o: args[o] for o in same} == same and args['csv'].endswith('t.csv')

def test_the_command_to_apply_finds_the_audit(audited):
    "It stands in the page with the folder of the results, wherever the page is opened"
    text = audited[1].read_text()
    said = re.search(r'<code>(fastnoisy apply .*?)</code>', text)[1].replace('&#x27;', "'")
    args = vars(parser().parse_args(shlex.split(said)[1:]))
    assert args['decisions'] == 'decisions.csv' and args['audit'] == str(audited[1].parent)
    assert '<code>fastnoisy apply decisions.csv</code>' not in text
    assert "report.apply(&#x27;decisions.csv&#x27;)" in small_report().to_html() # it has no folder to be found in

def test_columns_of_methods():
    assert said_column('also_weight').endswith('(by also)') and 'alone' in said_column('also_label_quality')

def test_a_column_without_meaning_is_seen():
    "The test above can fail"
    report = small_report(new_number=.5)
    assert legend_of(report)['Columns of the tables']['new_number'] == UNKNOWN and said_column('new_number') == ''

def test_a_column_split_of_the_user(audited):
    report = small_report()
    report['split'] = [f's{i}' for i in range(24)]
    assert 'Flagged' not in report.summary()

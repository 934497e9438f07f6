"The review page: what its cards hold, by other means; and the work with it in a real Chromium, by clicks and keys."
import base64, csv, io, json, re, time
import numpy as np, pandas as pd, pytest, torch
from PIL import Image
from fastai.tabular.all import Categorify, FillMissing, Normalize, TabularDataLoaders
from fastnoisy.analysis.report.cards import (BUDGET, MAX_EXAMPLES, N_NEAR, Contents, around, card_rows, chain_of,
                                             curve, examples_of, nearest_examples, reason, review_data,
                                             similarity_order, step_for, thumbnail, unusual_values)
from fastnoisy.analysis.report.content import content_or_reason, sample_content, said_value, table_values
from fastnoisy.analysis.report.decisions import data_id_of
from fastnoisy.analysis.report.drawing import draw_sample
from fastnoisy.analysis.report.page import json_in_page
from fastnoisy.analysis.report.table import NoiseReport
from browser import CHROMIUM, Browser
from reports import made_report, pictures, small_report

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason='needs Chromium')
RNG = np.random.default_rng(0)
HOSTILE = ['</script><script>window.hacked=1</script>', '<img src=x onerror="window.hacked=1">', '"><b>x',
           "';alert(1)//",
           '<!--<script>', 'javascript:window.hacked=1', '=cmd|calc!A1',
           '\u2028\u2029\x00', '{{7*7}}${7*7}', '日本\U0001f600']

# what the cards hold

def test_examples_are_the_nearest_by_sorting():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(60, 7, generator=g)
    pool = dict(a=np.arange(5, 30), b=np.arange(30, 50))
    found = nearest_examples([1, 7, 55], ['a', 'a', 'b'], pool, x)
    for i,c,near in zip((1, 7, 55), 'aab', found):
        own = x[pool[c]]
        space = torch.nn.functional.normalize(own - own.mean(0)*0, dim=1)
        centred = lambda v: torch.nn.functional.normalize(v, dim=-1)
        order = (centred(own) @ centred(x[i])).argsort(descending=True)
        assert near == [int(pool[c][k]) for k in order if pool[c][k] != i][:N_NEAR]

def test_examples_are_the_surest_and_not_flagged():
    report = small_report()
    found = examples_of(report.whole, 3)
    quality = dict(zip(report.sample_id, report.label_quality))
    assert {*found} == {'cat', 'dog', 'bird'}
    assert not set(np.concatenate([*found.values()])) & set(report.sample_id[report.is_label_issue])
    for ids in found.values(): assert [quality[i] for i in ids] == sorted((quality[i] for i in ids), reverse=True)
    many = pd.DataFrame(dict(sample_id=range(9000), is_label_issue=False, label_quality=.5,
                             given_label=['a', 'b', 'c']*3000))
    assert sum(map(len, examples_of(many, 3).values())) == MAX_EXAMPLES

def test_labels_around_by_sorting():
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
    labels = [f'c{i}' for i in range(40)]
    unit = torch.nn.functional.normalize(x, dim=1)
    for i,found in zip((3, 17), around([3, 17], labels, x)):
        order = [int(k) for k in (unit @ unit[i]).argsort(descending=True) if k != i][:10]
        assert [*found] == [labels[k] for k in order]

def test_alike_errors_follow_each_other():
    "Groups by size; within a group a naive chain"
    g = np.random.default_rng(0)
    x = g.normal(size=(30, 4)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    centred = x - x.mean(0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    order,left = [0],set(range(1, 30))
    while left:
        order.append(max(left, key=lambda j: centred[order[-1]] @ centred[j]))
        left.remove(order[-1])
    assert chain_of(x) == order
    pairs = [('a', 'b')]*5 + [('b', 'a')]*20 + [('a', 'c')]*5
    ranks = similarity_order(range(30), pairs, torch.tensor(x))
    assert sorted(ranks) == list(range(30)) and set(ranks[5:25]) == set(range(20)) and ranks[5] == 0
    assert similarity_order([], [], None).tolist() == [] and chain_of(np.zeros((0, 3))) == []
    assert similarity_order([4, 5], [('a', None), ('a', None)], None).tolist() == [0, 1]

def test_thumbnails():
    image = Image.fromarray(np.add.outer(np.arange(300), np.arange(200)).astype(np.uint8)).convert('RGB')
    small = Image.open(io.BytesIO(base64.b64decode(thumbnail(image, 100, 70))))
    assert small.format == 'WEBP' and small.size == (67, 100)
    tiny = pictures(1)[0][0]
    same = Image.open(io.BytesIO(base64.b64decode(thumbnail(tiny, 100, 30)))).convert('RGB')
    assert np.array_equal(same, tiny) # without loss
    assert step_for([image], 10)[0] > step_for([pictures(1, 300)[0][0]], 10**5)[0]

def test_curve_keeps_the_extremes():
    x = RNG.normal(size=(2, 5000))
    x[0, 777],x[1, 4000] = 99,-99
    found = curve(x, 200)
    assert len(found) == 2 and all(len(o) <= 100 for o in found) and max(found[0]) == 99 and min(found[1]) == -99
    assert curve(np.full((1, 500), np.nan), 100)[0] == [None]*len(curve(np.full((1, 500), np.nan), 100)[0])
    assert curve(np.array([[1., 2.]]), 200) == [[1., 2.]]

def table_dls(n=80):
    g = np.random.default_rng(1)
    frame = pd.DataFrame(dict(length=g.normal(10, 1, n), count=g.integers(0, 9, n), colour=g.choice(['red', 'blue'], n),
                              label=['a', 'b']*(n//2)))
    frame.loc[3, 'length'],frame.loc[3, 'colour'],frame.loc[5, 'length'] = 99.,'green',np.nan
    dls = TabularDataLoaders.from_df(frame, procs=[Categorify, FillMissing, Normalize], cat_names=['colour'],
                                     cont_names=['length', 'count'], y_names='label', valid_idx=[0], bs=8)
    return dls,frame.iloc[1:].reset_index(drop=True)

def test_values_of_a_table_are_those_of_the_file():
    dls,frame = table_dls()
    before = dls.train_ds.items.copy()
    found = table_values(dls.train_ds)
    assert np.allclose(found.length.drop(4), frame.length.drop(4), atol=1e-4) and (found.colour == frame.colour).all()
    assert np.allclose(found['count'], frame['count'], atol=1e-4)
    assert list(found) == ['colour', 'length', 'count'] and np.isnan(found.length[4]) # and no column length_na
    row = sample_content(dls.train_ds, 4)[1]
    assert np.isnan(row.length) and 'length_na' not in row and row.colour == frame.colour[4]
    assert said_value(row.length) == said_value(None) == said_value('#na#') == 'missing'
    assert said_value(1.23456) == '1.235'
    pd.testing.assert_frame_equal(dls.train_ds.items, before)

def test_unusual_values_come_first():
    dls,frame = table_dls()
    texts,scores = unusual_values(frame[['length', 'count', 'colour']], [i for i in range(79) if i != 2], [2, 10])
    low,mid,high = frame.length.drop(2).quantile([.1, .5, .9])
    assert scores[0, 0] == pytest.approx((99 - mid)/((high - low)/2)) and scores[0].argmax() == 0
    share = (frame.colour.drop(2) == frame.colour[10]).mean()
    assert scores[1, 2] == pytest.approx(-np.log2(share)/2) and scores[0, 2] == pytest.approx(-np.log2(1/156)/2)
    assert texts[0].startswith(f'{mid:.4g} (') and 'red' in texts[2]
    assert unusual_values(pd.DataFrame(dict(a=[np.nan]*3)), [0, 1], [2])[1].tolist() == [[0.]]
    gaps = pd.DataFrame(dict(a=[1., 2., 3., np.nan, np.nan], b=['x', 'x', 'x', None, None])) # missing once in four
    assert unusual_values(gaps, range(4), [4])[1].tolist() == [[1., 1.]]

def test_contents_of_all_kinds():
    text = [('one\ntwo', 0)]
    assert sample_content(text, 0) == ('text', 'one\ntwo')
    assert content_or_reason([], 0)[1].startswith('This sample cannot be shown (IndexError)')
    kinds = dict(image=((1, 20, 20), (20, 20), (3, 20, 20), (4, 20, 20), (5, 20, 20)), series=((2, 9), (7,)),
                 text=((2, 2, 20, 20), ()))
    for kind,shape in ((k, o) for k,shapes in kinds.items() for o in shapes):
        assert sample_content([(np.zeros(shape), 0)], 0)[0] == kind
    packed = Contents([(np.zeros((20, 20)), 0), ('x'*9000, 0), (np.arange(5.), 0)])
    packed.add([2, 0, 1, 0])
    found = packed.packed()
    assert {k: [*v] for k,v in found.items()} == dict(series=[2], image=[0], text=[1]) and len(found['text'][1]) == 4000

def test_drawing_shortens_long_cells():
    import matplotlib.pyplot as plt
    dls,_ = table_dls()
    dls.train_ds.items['length'] = dls.train_ds.items['length'].astype(object)
    ax = plt.subplots()[1]
    draw_sample(ax, [('word '*5000, 0)], 0)
    assert max(map(len, ax.texts[0].get_text().split('\n'))) <= 32 and ax.texts[0].get_text().count('\n') == 7
    assert len(said_value('x'*10**6)) == 60
    plt.close('all')

def test_a_card_for_every_flagged_sample():
    report = small_report()
    data = review_data(report, n=2)
    flagged = report.ranked().head(8)
    assert [o['id'] for o in data['cards']] == flagged.sample_id.tolist() and all(o['flagged'] for o in data['cards'])
    assert [o['item'] for o in data['cards']] == flagged['item'].tolist() and data['data'] == report.data_id
    for o in data['cards']:
        assert len(o['near']) == N_NEAR and {report.given_label[i] for i in o['near']} == {o['suggested']}
        assert not report.is_label_issue[o['near']].any()
        red = np.asarray(Image.open(io.BytesIO(base64.b64decode(data['contents']['image'][o['id']]))))[...,0]
        assert (red == o['id']).all() # its own picture
    assert len(review_data(report, n=12)['cards']) == 12 and len(card_rows(report, 99)) == 24
    part = report[report.given_label == 'dog']
    assert [o['given'] for o in review_data(part, n=1)['cards']] == ['dog']*2 and part.data_id == report.data_id

def test_names_of_columns_that_are_none_of_pythons():
    names = ['patient id', 'class', '_x', 'count', '1st', '<b>', 'a,b']
    report = small_report(**{o: [f'{o} {i}' for i in range(24)] for o in names})
    report.id_columns = names
    card = review_data(report, 4)['cards'][0]
    assert card['more'] == {o: f'{o} {card["id"]}' for o in names}

def test_reason():
    row = next(small_report().itertuples(index=False))
    said = reason(row, .031, ['cat', 'dog', 'dog'], 'dog', 'also')
    assert said == ("Its label quality (by also) is among the lowest 3.1% of all, and the network predicts 'dog'; "
                    "of the 3 samples most like it 1 has the given label, 2 are labelled 'dog'.")

def test_data_id():
    "Of places, names and labels; the folder may move"
    table = pd.DataFrame(dict(sample_id=[0, 1], item=['a/b/1.png', 'a/b/2.png'], given_label=['x', 'y']))
    moved = table.assign(item=['c\\1.png', '2.png'])
    others = table.assign(given_label=['x', 'x']),table.assign(item=['1.png', '3.png']),table.iloc[::-1],table.iloc[:1]
    assert data_id_of(table) == data_id_of(moved) and len({data_id_of(o) for o in (table, *others)}) == 5

@pytest.mark.parametrize('o', HOSTILE + [float('nan')])
def test_json_in_page(o):
    if o != o:
        with pytest.raises(ValueError): json_in_page(o)
        return
    text = json_in_page([o])
    assert json.loads(text) == [o] and not set('<>&') & {*text} and text.isascii()

def test_ten_thousand_cards_fit(tmp_path):
    "Photographs of noise, which WebP can do least with, would take 1.2 GB"
    n = 10_000
    some = [(Image.fromarray(RNG.integers(0, 255, (200, 200, 3), dtype=np.uint8)), 0) for _ in range(4)]
    class Repeat(list):
        def __len__(self): return n
        def __getitem__(self, i): return some[i % 4]
    given,suggested = ['a', 'b']*(n//2),['b', 'c']*(n//2)
    report = made_report(Repeat(), given, suggested, np.linspace(.99, .51, n),
                         items=[f'pictures/of/many/things/{i:06}.jpg' for i in range(n)], embedding=torch.randn(n, 16))
    start = time.monotonic()
    file = report.to_html(tmp_path/'report.html')
    assert file.stat().st_size < 30e6 and time.monotonic() - start < 300
    if CHROMIUM is None: return
    with Browser(tmp_path, (1200, 900)) as browser:
        browser.open(file)
        assert browser.js('document.getElementById("count").textContent') == '0 of 10000 decided'
        longest = browser.js('''(async () => {let longest = 0, last = performance.now();
            const end = document.documentElement.scrollHeight, frame = () => new Promise(requestAnimationFrame);
            for (let i = 0; i <= 60; i++) {scrollTo(0, end*i/60); await frame(); await frame();
              const now = performance.now(); longest = Math.max(longest, now - last); last = now}
            return longest})()''')
        n_drawn = browser.js('document.querySelectorAll(".card").length')
        assert n_drawn < 60 and longest < 1000, (n_drawn, longest) # on a busy machine; alone it takes some 40 ms
        assert browser.js('[...document.querySelectorAll(".card")].some(o => o.querySelector("img").complete)')
        browser.click('#acceptall')
        assert browser.js('document.getElementById("count").textContent') == '10000 of 10000 decided'
        assert browser.problems() == []

# the work with it

@pytest.fixture
def page(tmp_path): return small_report().to_html(tmp_path/'report.html', n=10)

def texts(browser, selector):
    return browser.js(f'[...document.querySelectorAll({json.dumps(selector)})].map(o => o.textContent)')

def shown(browser):
    "Sample ids of the cards that are drawn, in their order"
    places = browser.js('[...document.querySelectorAll(".card")].map(o => [+o.getAttribute("aria-posinset"), '
                        '+o.dataset.id])')
    return [i for _,i in sorted(places)]

def count(browser): return browser.js('document.getElementById("count").textContent')
def said(browser): return browser.js('document.getElementById("said").textContent')
def button(i, what): return f'.card[data-id="{i}"] [data-do={what}]'
def read(file): return pd.read_csv(file, keep_default_na=False, dtype=str, encoding='utf-8-sig')

def pressed(browser, i):
    found = f'.card[data-id="{i}"] button[aria-pressed=true]'
    return browser.js(f'[...document.querySelectorAll({json.dumps(found)})].map(o => o.dataset.do)')

@needs_browser
def test_decide_by_mouse_and_export(page, tmp_path):
    report = small_report()
    order = card_rows(report, 10).sample_id.tolist()
    with Browser(tmp_path) as browser:
        browser.open(page)
        assert shown(browser) == order and count(browser) == '0 of 10 decided'
        for i,what in zip(order, ('accept', 'keep', 'unsure')): browser.click(button(i, what))
        assert count(browser) == '3 of 10 decided'
        assert [pressed(browser, i) for i in order[:4]] == [['accept'], ['keep'], ['unsure'], []]
        browser.click(button(order[3], 'other'))
        browser.choose('#chooseinput', 'bir')
        assert texts(browser, '#chooselist option') == ['bird']
        browser.click('#chooseok')
        browser.wait('document.getElementById("count").textContent.startsWith("4 ")') # closed a moment later
        assert said(browser) == 'Other label: bird. 4 of 10 decided'
        browser.click(button(order[2], 'unsure')) # again: taken back
        assert count(browser) == '3 of 10 decided' and said(browser).startswith('Taken back')
        browser.click('#export')
        table = read(browser.downloaded('decisions.csv'))
        assert browser.problems() == []
    picked = [order[0], order[1], order[3]]
    own = report.set_index('sample_id').loc[sorted(picked, key=order.index)]
    assert table.sample_id.astype(int).tolist() == picked and table['item'].tolist() == own['item'].tolist()
    assert table.decision.tolist() == ['accept', 'keep', 'other']
    assert table.given_label.tolist() == own.given_label.tolist()
    assert table.new_label.tolist() == [own.suggested_label.iloc[0], own.given_label.iloc[1], 'bird']
    assert set(table.data_id) == {report.data_id}
    assert all(re.fullmatch(r'\d{4}-\d\d-\d\dT[\d:]{8}Z', o) for o in table.decided_at)

@needs_browser
def test_decide_by_keys(page, tmp_path):
    order = card_rows(small_report(), 10).sample_id.tolist()
    with Browser(tmp_path) as browser:
        browser.open(page)
        browser.key('a', 'k', 'u') # moves on by itself
        assert [pressed(browser, i) for i in order[:4]] == [['accept'], ['keep'], ['unsure'], []]
        browser.key('z')
        assert pressed(browser, order[2]) == [] and said(browser) == 'Undone.'
        browser.key('ArrowRight', 'o')
        browser.js('1')
        for c in 'cat': browser.key(c)
        browser.key('Enter')
        browser.wait('document.getElementById("count").textContent.startsWith("3 ")')
        now = browser.js('+document.activeElement.dataset.id')
        assert count(browser) == '3 of 10 decided' and now == order[4]
        browser.key('ArrowLeft', 'Delete')
        assert count(browser) == '2 of 10 decided'
        browser.key('z', 'z', 'z', 'z', 'z')
        assert count(browser) == '0 of 10 decided' and said(browser) == 'There is nothing to undo.'
        browser.click('#find')
        browser.key('a', 'k')
        assert count(browser) == '0 of 10 decided' # letters in a field are letters
        assert browser.problems() == []

@needs_browser
def test_filters_and_orders(tmp_path):
    report = small_report()
    report['is_outlier'] = report.sample_id == 20 # one of the two that are shown without a flag
    page = report.to_html(tmp_path/'report.html', n=9)
    rows = card_rows(report, 9)
    assert len(rows) == 10
    with Browser(tmp_path) as browser:
        browser.open(page)
        assert texts(browser, '#pair option')[:3] == ['all', 'cat → dog (6)', 'dog → cat (2)']
        browser.choose('#pair', '["dog","cat"]')
        assert shown(browser) == rows.sample_id[(rows.given_label == 'dog') & (rows.suggested_label == 'cat')].tolist()
        browser.choose('#pair', '')
        browser.choose('#least', '90')
        assert shown(browser) == rows.sample_id[rows.noise_probability >= .9].tolist()
        assert browser.js('document.getElementById("leastsaid").textContent') == '90 %'
        browser.choose('#least', '0')
        browser.choose('#order', 'alike')
        alike = {o['id']: o['alike'] for o in review_data(report, 9)['cards']}
        assert shown(browser) == sorted(alike, key=alike.get)
        browser.choose('#order', 'row')
        assert shown(browser) == sorted(alike)
        browser.choose('#order', 'p')
        assert shown(browser) == rows.sort_values('noise_probability', ascending=False,
                                                  kind='stable').sample_id.tolist()
        browser.choose('#kind', 'other')
        assert len(shown(browser)) == 2 and browser.js('document.querySelector("[data-do=accept]").disabled')
        browser.choose('#kind', 'like no other sample')
        assert shown(browser) == [20]
        browser.choose('#kind', 'flagged')
        browser.choose('#pair', '["cat","dog"]')
        browser.click('#acceptall')
        assert count(browser) == '6 of 10 decided'
        browser.choose('#pair', '')
        browser.choose('#state', 'open')
        assert len(shown(browser)) == 2
        browser.choose('#state', 'accept')
        assert len(shown(browser)) == 6
        browser.click('#undo') # all six in one step
        assert count(browser) == '0 of 10 decided'
        browser.choose('#find', 'nothing like it')
        assert shown(browser) == []
        browser.choose('#state', '')
        assert not browser.js('document.getElementById("none").hidden') and browser.problems() == []

@needs_browser
def test_filter_by_split(tmp_path):
    "Training and validation samples, where both were judged"
    report = small_report()
    report.insert(1, 'split', np.where(report.sample_id % 3 > 0, 'train', 'valid'))
    rows = card_rows(report, 10)
    with Browser(tmp_path) as browser:
        browser.open(report.to_html(tmp_path/'report.html', n=10))
        browser.choose('#kind', 'split valid')
        assert shown(browser) == rows.sample_id[rows.split == 'valid'].tolist()
        assert browser.problems() == []

@needs_browser
def test_the_state_is_kept_saved_and_loaded(page, tmp_path):
    other = small_report()
    other.data_id = 'of other data'
    (tmp_path/'two').mkdir()
    other.to_html(tmp_path/'other.html', n=10)
    with Browser(tmp_path/'one') as browser:
        browser.open(page)
        browser.key('a', 'k', 'u')
        browser.click('#save')
        saved = browser.downloaded('review.json')
        time.sleep(.3)
        browser.open(page)
        assert count(browser) == '3 of 10 decided' and said(browser).startswith('Welcome back')
        browser.open(tmp_path/'other.html')
        assert count(browser) == '0 of 10 decided'
        browser.give_file('#file', saved)
        browser.wait('document.getElementById("said").classList.contains("warn")')
        assert said(browser) == 'This review was saved for other data.' and count(browser) == '0 of 10 decided'
    with Browser(tmp_path/'two') as browser:
        browser.open(page)
        assert count(browser) == '0 of 10 decided'
        browser.key('k')
        time.sleep(1.1)
        browser.give_file('#file', saved)
        browser.wait('document.getElementById("said").textContent.startsWith("Loaded")')
        order = shown(browser)
        assert count(browser) == '3 of 10 decided' and pressed(browser, order[0]) == ['keep'] # which is newer
        browser.key('z')
        assert count(browser) == '1 of 10 decided'
        for text in ('{', '[]', '{"format": "fastnoisy review 1"}', 'null',
                     json.dumps(dict(json.loads(saved.read_text()),
                                     decisions=[None, 3, dict(id=0, given='cat', decision='__proto__', label='dog'),
                                                dict(id=1, given='dog', decision='accept', label='dog')]))):
            (tmp_path/'bad.json').write_text(text)
            browser.give_file('#file', tmp_path/'bad.json')
            browser.wait('document.getElementById("file").value === ""')
            browser.js('new Promise(r => setTimeout(r, 50))')
            assert count(browser) == '1 of 10 decided'
        assert browser.problems() == []

@needs_browser
def test_after_another_training(page, tmp_path):
    "Another ranking of the same data: what was decided stays, in the words of the new cards, listed or not"
    report = small_report()
    order = card_rows(report, 10).sample_id.tolist()
    with Browser(tmp_path) as browser:
        browser.open(page)
        browser.key('a', 'a', 'k', 'u')
        time.sleep(.3)
        second = small_report()
        second['suggested_label'] = second['predicted_label'] = [
            'bird' if i == order[0] else g if i == order[1] else s
            for i,(g,s) in enumerate(zip(report.given_label, report.suggested_label))]
        second['is_label_issue'] = second.suggested_label != second.given_label
        assert second.data_id == report.data_id
        browser.open(second.to_html(tmp_path/'second.html', n=1))
        assert count(browser) == '3 of 7 decided (and 1 not listed here)'
        assert [pressed(browser, i) for i in order[2:4]] == [['keep'], ['unsure']]
        assert pressed(browser, order[0]) == ['other']
        browser.click('#export')
        table = read(browser.downloaded('decisions.csv'))
    assert table.sample_id.astype(int).tolist() == sorted(order[:4])
    table = table.set_index(table.sample_id.astype(int))
    for i in order[:2]: assert table.new_label[i] == report.suggested_label[i] and table['item'][i] == report['item'][i]

@needs_browser
@pytest.mark.parametrize('kind', ['text', 'series', 'image', 'table'])
def test_nothing_in_the_data_can_run(kind, tmp_path):
    n = len(HOSTILE)
    values = dict(text=[(o, 0) for o in HOSTILE], series=[(RNG.normal(size=(2, 30)), 0)]*n, image=pictures(n)).get(kind)
    given,suggested = HOSTILE,HOSTILE[1:] + HOSTILE[:1]
    report = made_report(values or pictures(n), given, suggested, vocab=HOSTILE, items=HOSTILE,
                         embedding=torch.randn(n, 4))
    if kind == 'table':
        frame = pd.DataFrame({HOSTILE[0]: HOSTILE, HOSTILE[1]: np.arange(n)*1., 'y': ['a', 'b']*(n//2)})
        dls = TabularDataLoaders.from_df(frame, procs=[Categorify], cat_names=[HOSTILE[0]], cont_names=[HOSTILE[1]],
                                         y_names='y', valid_idx=[], bs=4)
        report.learn.dls = dls
    report.made,report.id_columns = {HOSTILE[0]: HOSTILE[1]},['extra']
    report['extra'] = HOSTILE
    with Browser(tmp_path, (1400, 3000)) as browser:
        browser.open(report.to_html(tmp_path/'r.html'))
        for _ in range(n): browser.key('a')
        browser.click('#export')
        table = pd.read_csv(browser.downloaded('decisions.csv'), dtype=str, keep_default_na=False, encoding='utf-8-sig')
        browser.click('footer summary')
        assert browser.js('typeof window.hacked') == 'undefined'
        assert browser.js('document.querySelectorAll("script").length') == 2
        assert browser.js('document.querySelectorAll("#cards b b, #cards img[src=x]").length') == 0
        assert len(shown(browser)) == n
        assert browser.problems() == []
    with open(tmp_path/'downloads/decisions.csv', newline='', encoding='utf-8-sig') as f: rows = list(csv.reader(f))
    assert len(rows) == n + 1 and not any(o.startswith(('=', '@', '+')) for row in rows for o in row)
    assert {*table.given_label} == {"'" + o if o[0] == '=' else o for o in HOSTILE}

@needs_browser
def test_the_policy_stops_a_script_that_stands_in_the_page(page, tmp_path):
    "If some day a name should get there as HTML"
    text = page.read_text().replace('<main>',
                                    '<script>window.hacked = 1</script><img src="x" onerror="window.hacked = 1"><main>')
    page.write_text(text)
    with Browser(tmp_path) as browser:
        browser.open(page)
        assert browser.js('typeof window.hacked') == 'undefined' and count(browser) == '0 of 10 decided'
        with pytest.raises(RuntimeError): browser.js('document.body.innerHTML = "<b>x"')

@needs_browser
def test_a_name_for_everything_and_a_phone(page, tmp_path):
    with Browser(tmp_path, (380, 700)) as browser:
        browser.resize(380, 700, mobile=True)
        browser.open(page)
        assert browser.js('document.documentElement.scrollWidth') <= 380
        assert browser.js('[...document.querySelectorAll(".card")].every(o => o.getBoundingClientRect().right <= 380)')
        assert browser.js('[...document.querySelectorAll(".buttons button")].every(o => o.offsetHeight >= 44)')
        browser.page('Accessibility.enable')
        nodes = browser.page('Accessibility.getFullAXTree')['nodes']
        roles = 'button', 'combobox', 'slider', 'searchbox', 'article', 'image', 'progressbar', 'feed'
        found = [(o['role']['value'],
                  o.get('name', {}).get('value',
                                        '')) for o in nodes if not o.get('ignored') and o['role']['value'] in roles]
        assert all(name for _,name in found), [o for o in found if not o[1]]
        assert ('button', 'Accept dog') in found and {'feed', 'article', 'progressbar', 'image'} <= {o for o,_ in found}
        assert any(name.startswith('pics/cat/00.png, given label cat, suggested dog') for _,name in found)

@needs_browser
def test_dark_and_light(page, tmp_path):
    backs = []
    for scheme in ('dark', 'light'):
        with Browser(tmp_path/scheme, prefers_color_scheme=scheme) as browser:
            browser.open(page)
            backs.append(np.asarray(Image.open(browser.screenshot(tmp_path/'page.png')).convert('L'))[:,:8].mean())
    assert backs[0] < 60 and backs[1] > 200

# the report as an object

def test_views_and_summaries():
    report = small_report()
    said = report.summary()
    assert said == ('24 samples, 8 probably mislabelled (by made up). Estimated noise rate 33.3% (0.0% to 100.0%). '
                    'Worst class: bird, 0 of its 2.')
    part = report[report.given_label == 'cat']
    said_of_part = '12 samples of 24, 6 of them probably mislabelled, 8 in all (by made up). Of all: '
    assert part.summary().startswith(said_of_part)
    assert repr(report).startswith(said + '\n') and 'sample_id' in repr(report)
    report.separates = False
    assert 'No group of wrong labels stands out' in report.summary()
    report.source = '<b>'
    assert '&lt;b&gt;' in report._repr_html_() and '<table' in report._repr_html_()
    report.insert(0, 'also_weight', .5)
    assert list(report.view())[:3] == ['sample_id', 'item', 'is_label_issue']
    assert list(report.view())[-1] == 'also_weight'
    assert isinstance(report.head(3), NoiseReport) and report.head(3).data_id == report.data_id

def test_apply_on_a_plain_report():
    report = small_report()
    table = pd.DataFrame(report.head(3)[['sample_id', 'item', 'given_label', 'suggested_label']])
    decisions = table.assign(decision=['accept', 'keep', 'other'], new_label=['dog', 'cat', 'bird'],
                             data_id=report.data_id)
    assert report.apply(decisions).new_label.tolist() == ['dog', 'bird']
    assert report[report.given_label == 'dog'].apply(decisions).sample_id.tolist() == [0, 2] # checked with the whole
    with pytest.raises(ValueError, match='on other data'): report.apply(decisions.assign(data_id='x'))
    assert report.apply(lambda o: o.name).tolist() == list(report) # pandas' own still is there

@needs_browser
def test_long_names_keep_their_end_and_nothing_is_cut(tmp_path):
    "The end of a file's name tells it from the others; a wide row scrolls from its first column"
    report = small_report()
    long = [f'/a/long/way/to/{"x"*200}/a_scan_with_a_long_name_{i:04}.png' for i in range(24)]
    report['item'] = report.whole['item'] = long
    report.data_id = None
    first = card_rows(report, 10).iloc[0]
    with Browser(tmp_path, (1280, 1000)) as browser:
        browser.open(report.to_html(tmp_path/'r.html', n=10))
        title = browser.js('document.querySelector(".card h3").textContent')
        assert title.endswith(f'ng_name_{first.sample_id:04}.png') and len(title) < 30
        assert browser.js('document.querySelector(".card h3").title').endswith(first['item'])
        assert browser.js('[...document.querySelectorAll(".card h3")].every(o => o.scrollWidth <= o.clientWidth)')
        browser.key('a') # bold
        assert browser.js('[...document.querySelectorAll(".buttons button")].every('
                          'o => o.scrollWidth <= o.clientWidth)')
        browser.js('document.querySelectorAll("details").forEach(o => { o.open = true; })')
        assert browser.js('document.documentElement.scrollWidth') <= 1280
        heads = browser.js('[...document.querySelectorAll("footer th")].map(o => o.offsetHeight)')
        assert max(heads) < 40 # names of columns on one line
        assert browser.problems() == []

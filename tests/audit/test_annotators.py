"An audit of labels by several annotators, from the file to the corrected file; and of texts."
import json
import numpy as np, pandas as pd, pytest
from fastai.learner import load_learner
from sklearn.datasets import load_digits
import fastnoisy.audit.run as audit_module
from fastnoisy.audit.apply import apply_review
from fastnoisy.audit.learners import WordIds
from fastnoisy.audit.run import audit
from fastnoisy.audit.sources import annotation_ids, given_labels, labelled_csv, labelled_series, labelled_texts
from fastnoisy.cli import main
from browser import CHROMIUM, Browser

PEOPLE,RIGHT = ['anna', 'ben', 'carla', 'dan'],np.array([.95, .8, .6, .2])

def annotated(true, seed=0, missing=.3):
    "Labels of four annotators of falling quality, texts, '' = none"
    g = np.random.default_rng(seed)
    names = np.unique(true)
    votes = np.where(g.random((len(true), 4)) < RIGHT, true[:,None], g.choice(names, (len(true), 4)))
    gone = g.random(votes.shape) < missing
    gone[np.arange(len(true)), g.integers(0, 3, len(true))] = False
    return pd.DataFrame(np.where(gone, '', votes), columns=PEOPLE)

def digits_table(file, n=400):
    "The first digits as a table of 64 pixels, labelled by four people; the true labels"
    x,y = load_digits(return_X_y=True)
    true = np.array(['zero', 'one', 'two', 'three'])[y[y < 4]][:n]
    pixels = pd.DataFrame(x[y < 4][:n], columns=[f'p{i}' for i in range(64)])
    name = pd.Series([f'digit {i}' for i in range(n)], name='name')
    pd.concat([name, annotated(true), pixels], axis=1).to_csv(file, index=False)
    return true

def card_data(page):
    return json.loads(page.read_text().split('id="data">')[1].split('</script>')[0])

# what is read

def test_votes_are_the_labels(tmp_path):
    texts = pd.DataFrame(dict(a=['x', 'x ', '', 'nan', 'y'], b=['x', 'y', 'y', '', 'x'], c=['y', 'y', '', '', ' y'],
                              n=['1', '2', '3', '4', '5']))
    assert given_labels(texts, ['a', 'b', 'c']).tolist() == ['x', 'y', 'y', '', 'y']
    assert given_labels(texts, 'a').tolist() == given_labels(texts, ['a']).tolist() == ['x', 'x', '', 'nan', 'y']
    ids,vocab = annotation_ids(texts[['a', 'b']].iloc[:4].apply(lambda o: o.str.strip()))
    assert ids.tolist() == [[0, 0], [0, 1], [-1, 1], [-1, -1]] and vocab.tolist() == ['x', 'y']
    texts.to_csv(tmp_path/'t.csv', index=False)
    found = labelled_csv(tmp_path/'t.csv', ['a', 'b', 'c'])
    assert found.labels.tolist() == ['x', 'y', 'y', 'y'] and found.rows.tolist() == [0, 1, 2, 4]
    assert found.left_out.problem.tolist() == ["no label in the columns 'a', 'b', 'c'"] and list(found.inputs) == ['n']
    assert found.annotations.b.tolist() == ['x', 'y', 'y', 'x'] and len(found.annotations) == 4
    pd.DataFrame(dict(a=list('xyxy'), b=list('xyyx'), p=range(4), q=range(4))).to_csv(tmp_path/'s.csv', index=False)
    series = labelled_series(tmp_path/'s.csv', ['a', 'b'])
    assert series.inputs.shape == (4, 2) and series.annotations.shape == (4, 2)

def test_a_class_that_wins_no_vote(tmp_path):
    "It is a class all the same: an annotator has seen it"
    table = pd.DataFrame(dict(a=['x', 'y']*30, b=['x', 'y']*30, c=['x', 'y']*29 + ['rare', 'y'], p=np.arange(60.)))
    table.to_csv(tmp_path/'t.csv', index=False)
    report = audit(tmp_path/'t.csv', y=['a', 'b', 'c'], epochs=1, device='cpu', out=tmp_path/'out')
    assert list(report.vocab) == ['rare', 'x', 'y'] and report.per_class.n.tolist() == [0, 30, 30]
    assert "No vote goes to the class 'rare'" in report.summary() and report.annotators.worst_class['c'] == 'rare'

@pytest.mark.parametrize('args, says', [
    (['--y', 'a', 'a'], "name the columns of the labels, each once"), (['--y', 'a', 'nope'], "no column 'nope'"),
    (['--y', 'a', 'idle'], 'idle labelled nothing'), (['--y', 'a', 'c'], 'no sample has labels of two annotators'),
    (['--y', 'a', 'b', '--text', 'b'], 'is a column of labels too'), (['--text', 'none'], "no column 'none'"),
    (['--y', 'a', '--text', 'same'], 'are equal'), (['--text', 'b', '--series'], 'without --x and --series'),
    (['--y', 'a', '--text', 'b', '--arch', 'resnet18'], 'for texts give one of mean_of_words'),
    (['--y', 'a', '--text', 'b', '--pretrained'], 'no pretrained weights'),
    (['--y', 'a', '--text', 'b', '--size', '32'], 'size=32 is for images')])
def test_errors_before_training(args, says, tmp_path, monkeypatch):
    monkeypatch.setattr(audit_module, '_train', lambda *args: pytest.fail('it was trained'))
    monkeypatch.chdir(tmp_path)
    pd.DataFrame(dict(a=['x', 'y', '']*9, b=['x', 'y', 'z']*9, c=['', '', 'x']*9, idle='', same='s',
                      label=list('xyz')*9)).to_csv('t.csv', index=False)
    with pytest.raises(SystemExit, match=says): main(['audit', 't.csv', *args, '--device', 'cpu'])

@pytest.mark.parametrize('options, says', [(dict(y=['a', 'b']), 'several annotators, but there is no --csv'),
                                           (dict(text='a'), 'names a column, but there is no --csv'),
                                           (dict(y=[]), 'y=')])
def test_folders_have_no_columns(options, says, tmp_path):
    with pytest.raises(ValueError, match=says): audit(tmp_path, **options)

# from file to file

def test_from_several_columns_to_one(tmp_path, capsys):
    true = digits_table(tmp_path/'t.csv')
    before = (tmp_path/'t.csv').read_text()
    out = tmp_path/'out'
    main(['audit', str(tmp_path/'t.csv'), '--y', *PEOPLE, '--epochs', '10', '--device', 'cpu', '--out', str(out)])
    assert '4 annotators, whose votes are the given labels' in capsys.readouterr().out
    issues = pd.read_csv(out/'issues.csv', keep_default_na=False).sort_values('sample_id')
    assert {*PEOPLE, 'name', 'consensus_label', 'consensus_quality', 'annotator_agreement'} <= {*issues}
    votes = (issues.given_label == true).mean()
    assert (issues.consensus_label == true).mean() > votes + .07 and .7 < votes < .9
    said = (issues[PEOPLE] != '').sum(1)
    assert issues.n_annotations.tolist() == said.tolist()
    agree = (issues[PEOPLE].eq(issues.consensus_label, axis=0)).sum(1)/said
    np.testing.assert_allclose(issues.annotator_agreement, agree)
    page,data = (out/'report.html').read_text(),card_data(out/'report.html')
    assert '<h3>Annotators</h3>' in page and '--y anna ben carla dan' in page
    marked = [o for o in data['cards'] if 'the consensus of the annotators is another label' in o['marks']]
    differs = issues[issues.consensus_label != issues.given_label]
    assert {o['id'] for o in marked} == set(differs.sample_id) and len(marked) > 5
    assert all({*PEOPLE} <= {*o['more']} for o in marked)
    wanted = dict(zip(issues.sample_id, issues.consensus_label))
    new = [dict(sample_id=o['id'], item=o['item'], given_label=o['given'], suggested_label='', decision='other',
                new_label=wanted[o['id']], data_id=data['data']) for o in marked]
    done = apply_review(pd.DataFrame(new), out, tmp_path/'new', write=True)
    assert len(done.changes) == len(marked) and (tmp_path/'t.csv').read_text() == before
    old,table = pd.read_csv(tmp_path/'t.csv', dtype=str), pd.read_csv(tmp_path/'new/t.csv', dtype=str)
    pd.testing.assert_frame_equal(table[list(old)], old)
    assert list(table)[-1] == 'label' and (table.label == true).mean() > votes + .03
    again = audit(tmp_path/'new/t.csv', y='label', epochs=1, device='cpu', out=tmp_path/'second')
    assert len(again) == 400 and not {*PEOPLE} & {*again.samples.inputs} and {*PEOPLE} <= {*again.id_columns}
    assert "labels too, by the record of the copy: the column 'anna', 'ben', 'carla', 'dan'" in again.summary()
    votes = labelled_csv(tmp_path/'new/t.csv', PEOPLE)
    assert 'label' not in votes.inputs and 'label' in votes.others

def test_the_copy_of_an_audit_knows_its_annotators(tmp_path):
    digits_table(tmp_path/'t.csv', 60)
    audit(tmp_path/'t.csv', y=PEOPLE, epochs=1, device='cpu', out=tmp_path/'out', apply='copy')
    found = labelled_csv(tmp_path/'out/corrected.csv', 'label')
    assert not {*PEOPLE} & {*found.inputs} and {*PEOPLE} <= {*found.others}
    (tmp_path/'out/audit.json').write_text('[]')
    assert {*PEOPLE} <= {*labelled_csv(tmp_path/'out/corrected.csv', 'label').inputs}

def test_columns_that_look_like_labels_are_named(tmp_path):
    "Without any record: by their values, which are the names of the classes, and agree with the label"
    g = np.random.default_rng(0)
    label = g.choice(['x', 'y', 'z'], 200)
    table = pd.DataFrame(dict(label=label, second=np.where(g.random(200) < .8, label, 'x'), p=g.normal(size=200),
                              other=g.choice(['x', 'y', 'z'], 200), kind=g.choice(['u', 'v'], 200)))
    table.to_csv(tmp_path/'t.csv', index=False)
    found = labelled_csv(tmp_path/'t.csv')
    said, = [o for o in found.notes if 'Is it a label too' in o]
    assert said.startswith("The column 'second' has the names of the classes as values")
    assert list(found.inputs) == ['second', 'p', 'other', 'kind'] # it is for the user to say

def test_series_of_a_copy(tmp_path):
    g = np.random.default_rng(0)
    table = pd.DataFrame(g.normal(size=(40, 6)).round(3)).add_prefix('t')
    table.insert(0, 'a', [1, 2]*20)
    table.insert(0, 'b', [1, 2]*19 + [1, 1])
    table.to_csv(tmp_path/'s.csv', index=False)
    report = audit(tmp_path/'s.csv', y=['a', 'b'], series=True, epochs=1, device='cpu', out=tmp_path/'out')
    rows = [dict(sample_id=0, item=0, given_label='1', decision='other', new_label='2')]
    report.apply(pd.DataFrame(rows), out=tmp_path/'new', write=True)
    found = labelled_series(tmp_path/'new/s.csv')
    assert found.inputs.shape == (40, 6)
    assert any("the column 'b', 'a'" in o or "the column 'a', 'b'" in o for o in found.notes)

def test_annotators_of_a_parquet_file(tmp_path):
    pytest.importorskip('pyarrow')
    table = pd.DataFrame(dict(a=[1, 2]*20, b=[1, 2]*19 + [2, 2], label=np.arange(40.), q=np.arange(40.)))
    table.to_parquet(tmp_path/'t.parquet')
    report = audit(tmp_path/'t.parquet', y=['a', 'b'], epochs=1, device='cpu', out=tmp_path/'out', apply='copy')
    assert list(report.id_columns) == ['a', 'b'] and len(report.annotators) == 2
    rows = [dict(sample_id=0, item=0, given_label='1', decision='other', new_label='2')]
    report.apply(pd.DataFrame(rows), out=tmp_path/'new', write=True)
    new = pd.read_parquet(tmp_path/'new/t.parquet')
    assert list(new) == ['a', 'b', 'label', 'q', 'reviewed_label'] and new.reviewed_label[0] == '2'
    assert new.reviewed_label[1:].tolist() == report.given_label[1:].tolist()

@pytest.mark.skipif(CHROMIUM is None, reason='needs Chromium')
def test_consensus_in_the_browser(tmp_path):
    "The samples on which votes and consensus differ are a filter, and the consensus is what is suggested"
    true = digits_table(tmp_path/'t.csv', 200)
    report = audit(tmp_path/'t.csv', y=PEOPLE, epochs=8, device='cpu', out=tmp_path/'out', plant=0)
    differs = report[report.consensus_label != report.given_label]
    with Browser(tmp_path) as browser:
        browser.open(tmp_path/'out/report.html')
        browser.choose('#kind', 'the consensus of the annotators is another label')
        browser.click('#acceptall')
        browser.click('#export')
        table = pd.read_csv(browser.downloaded('decisions.csv'), encoding='utf-8-sig').set_index('sample_id')
        assert browser.problems() == []
    assert sorted(table.index) == differs.sample_id.tolist()
    own = differs.set_index('sample_id').loc[table.index]
    expected = np.where(own.suggested_label != own.given_label, own.suggested_label, own.consensus_label)
    assert table.new_label.tolist() == expected.tolist()
    assert (table.new_label == true[table.index]).mean() > .8

# texts

def sentences(n=240, seed=0):
    "Sentences about food or weather; one in ten has the other label"
    g = np.random.default_rng(seed)
    words = dict(food='bread soup salt taste plate cook spoon rice oven sweet'.split(),
                 weather='rain wind cloud storm sun cold snow warm fog sky'.split())
    both,true = 'the and of was very it is we had a'.split(),np.array(['food', 'weather']*(n//2))
    texts = [' '.join(g.permutation([*g.choice(words[o], 5), *g.choice(both, 5)])) for o in true]
    wrong = g.choice(n, n//10, replace=False)
    given = true.copy()
    given[wrong] = np.where(true[wrong] == 'food', 'weather', 'food')
    return pd.DataFrame(dict(id=[f't{i}' for i in range(n)], text=texts, kind=given)),set(wrong.tolist())

def test_texts(tmp_path, capsys):
    table,wrong = sentences()
    table.loc[7, 'text'],table.loc[8, 'kind'] = '',''
    table.to_csv(tmp_path/'t.csv', index=False)
    before = (tmp_path/'t.csv').read_text()
    main(['audit', str(tmp_path/'t.csv'), '--text', 'text', '--y', 'kind', '--device', 'cpu', '--out',
          str(tmp_path/'out')])
    said = capsys.readouterr().out
    assert 'mean_of_words on texts, 30 epochs' in said and '2 of 240 samples cannot be used' in said
    issues = pd.read_csv(tmp_path/'out/issues.csv')
    flagged,wrong = set(issues.row[issues.is_label_issue]),wrong - {7, 8}
    assert len(flagged & wrong) > .8*len(wrong) and len(flagged - wrong) < 5 and set(issues.id) <= set(table.id)
    data = card_data(tmp_path/'out/report.html')
    for o in data['cards']: assert data['contents']['text'][str(o['id'])] == table.text[o['row']] # as it was given
    assert len(data['cards'][0]['near']) == 3 and 'to the given label' not in data['cards'][0]['why']
    learn = load_learner(tmp_path/'out/learner.pkl')
    with learn.no_bar():
        assert [learn.predict(o)[0] for o in ('soup and bread', 'wind and rain')] == ['food', 'weather']
    content = (tmp_path/'out/learner.pkl').read_bytes()
    assert table.text[0].encode() not in content # the vocabulary, but no text
    assert pd.read_csv(tmp_path/'out/broken.csv').problem.tolist() == ["no text in the column 'text'",
                                                                      "no label in the column 'kind'"]
    row = data['cards'][0]
    decision = dict(sample_id=row['id'], item=row['item'], given_label=row['given'], decision='accept',
                    new_label=row['suggested'])
    apply_review(pd.DataFrame([decision]), tmp_path/'out', tmp_path/'new', write=True)
    new = pd.read_csv(tmp_path/'new/t.csv', keep_default_na=False)
    differs = (new != table).any(axis=1)
    assert differs[differs].index.tolist() == [row['row']] and (tmp_path/'t.csv').read_text() == before

def test_texts_of_several_annotators(tmp_path):
    table,_ = sentences(120)
    g = np.random.default_rng(1)
    true = np.array(['food', 'weather']*60)
    for name,right in (('a', .9), ('b', .7), ('c', .4)):
        table[name] = np.where(g.random(120) < right, true, g.choice(['food', 'weather'], 120))
    table.to_csv(tmp_path/'t.csv', index=False)
    report = audit(tmp_path/'t.csv', text='text', y=['a', 'b', 'c'], device='cpu', out=tmp_path/'out', plant=0)
    assert list(report.annotators.index) == ['c', 'b', 'a'] and (report.consensus_label == true).mean() > .97
    assert report.id_columns == ['a', 'b', 'c', 'id', 'kind']

def test_a_recurrent_network_from_random_weights(tmp_path):
    sentences(40)[0].to_csv(tmp_path/'t.csv', index=False)
    report = audit(tmp_path/'t.csv', text='text', y='kind', arch='awd_lstm', epochs=1, device='cpu', bs=40,
                   out=tmp_path/'out')
    assert len(report) == 40 and report.predicted_label.isin(['food', 'weather']).all()

def test_weights_of_texts_without_network(tmp_path, monkeypatch):
    monkeypatch.setattr('fastnoisy.audit.learners._answers', lambda url, seconds: False)
    monkeypatch.setattr('fastai.data.external.fastai_path', lambda folder: tmp_path/'none')
    sentences(40)[0].to_csv(tmp_path/'t.csv', index=False)
    with pytest.raises(OSError, match='Use --no-pretrained .* does not answer'):
        audit(tmp_path/'t.csv', text='text', y='kind', arch='awd_lstm', pretrained=True, device='cpu',
              out=tmp_path/'out')

def test_words_of_other_texts():
    words = WordIds(['a b b', 'a b c'])
    assert words('b zebra').tolist()[-1] == 0 and 'c' not in words.vocab and len(words.known) == 2
    import pickle
    again = pickle.loads(pickle.dumps(words))
    assert again.known == {} and again('a b').tolist() == words('a b').tolist()

def test_labelled_texts_of_other_columns(tmp_path):
    table,_ = sentences(20)
    table.to_csv(tmp_path/'t.csv', index=False)
    found = labelled_texts(tmp_path/'t.csv', 'text', 'kind')
    assert found.kind == 'text' and found.inputs.tolist() == table.text.tolist() and list(found.others) == ['id']
    assert found.inputs.index.tolist() == list(range(20))

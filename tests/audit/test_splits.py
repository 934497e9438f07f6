"Folders with train and valid: what is recognised, judged, reported and written."
import shutil
from pathlib import Path
import numpy as np, pandas as pd, pytest
from PIL import Image
from sklearn.datasets import load_digits
import fastnoisy.audit.run as run_module
from fastnoisy.audit.apply import origin_of, source_samples, state_of
from fastnoisy.audit.run import audit
from fastnoisy.audit.sources import folder_images, labelled_folder, split_folders
from fastnoisy.benchmark.recommend_files import labelled_dls
from fastnoisy.cli import main

DIGITS = load_digits()
IDS = np.flatnonzero(DIGITS.target < 3)

def write(folder, ids, wrong=()):
    "Digits in folders named by their label, of those in `wrong` the next"
    for i in ids:
        label = 'abc'[(DIGITS.target[i] + (i in wrong)) % 3]
        (folder/label).mkdir(parents=True, exist_ok=True)
        Image.fromarray((DIGITS.images[i]*255/16).astype(np.uint8)).save(folder/label/f'{i:04}.png')
    return folder

def tiny(folder, **parts):
    "Some parts, of one image for each class that is named"
    for part,classes in parts.items():
        for k,c in enumerate(classes):
            (folder/part/c).mkdir(parents=True)
            for i in range(3): Image.fromarray(np.full((9, 9), 60*k + i, np.uint8)).save(folder/part/c/f'{i}.png')
    return folder

def contents(folder):
    return {str(o.relative_to(folder)): o.read_bytes() for o in sorted(folder.rglob('*')) if o.is_file()}

def names(folder): return [str(o.relative_to(folder)) for o in folder_images(folder)]

# what is recognised

@pytest.mark.parametrize('other', ['valid', 'val', 'validation', 'test', 'Val'])
def test_parts_are_recognised(other, tmp_path):
    source = tiny(tmp_path/'d', **{'train': 'ab', other: 'ab'})
    (source/'models').mkdir()
    assert list(split_folders(source)) == ['train', other]
    found = labelled_folder(source)
    assert found.splits.tolist() == ['train']*6 + [other]*6 and found.n_train == 6
    assert found.labels.tolist() == [*'aaabbb']*2 and [*map(str, found.inputs)] == [*map(str, folder_images(source))]
    assert found.notes[0] == found.said_splits and found.said_splits.startswith(f'Trained on train (6 images); {other}')

def test_train_comes_first_whatever_its_place_in_the_alphabet(tmp_path):
    source = tiny(tmp_path/'d', test='ab', train='ab', valid='ab')
    assert list(split_folders(source)) == ['train', 'valid', 'test']
    assert [o.split('/')[0] for o in names(source)[::6]] == ['train', 'valid', 'test']

def test_classes_of_these_names_are_classes(tmp_path):
    "Vehicles and examinations: images lie directly in them"
    source = tiny(tmp_path, d=['train', 'test', 'bus'])/'d'
    assert split_folders(source) == {} and set(labelled_folder(source).labels) == {'train', 'test', 'bus'}
    tiny(tmp_path, e=['bus', 'car'])
    tiny(tmp_path/'e', train='ab')
    assert labelled_folder(tmp_path/'e').splits is None

def test_a_lone_train_and_images_without_class(tmp_path):
    source = tiny(tmp_path/'d', train='ab')
    shutil.copytree(source/'train/a', source/'test') # as competitions have it
    found = labelled_folder(source)
    assert len(found) == found.n_train == 6 and found.said_splits == 'The class folders in train (6 images) were read.'
    assert '3 images are in test, without class folders, and have no label.' in found.notes

def test_a_class_that_train_does_not_have(tmp_path):
    source = tiny(tmp_path/'d', train='ab', valid='abc')
    found = labelled_folder(source)
    assert len(found) == 12 and list(found.vocab) == ['a', 'b'] and found.left_out.row.tolist() == [12, 13, 14]
    assert set(found.left_out.problem) == {'its class has no images in train'}
    with pytest.raises(ValueError, match="all images are of one class, 'a'"):
        labelled_folder(tiny(tmp_path/'e', train='a', valid='ab'))

def test_broken_images_keep_the_rows(tmp_path):
    source = tiny(tmp_path/'d', train='ab', valid='ab')
    (source/'train/a/1.png').write_text('broken')
    (source/'valid/b/0.png').write_text('broken')
    found,now = labelled_folder(source),source_samples(origin_of(source, 'path'))
    assert found.rows.tolist() == [0, 2, 3, 4, 5, 6, 7, 8, 10, 11] and found.n_train == 5
    assert [now['item'][i] for i in found.rows] == list(map(str, found.inputs))

def test_a_folder_too_high(tmp_path):
    tiny(tmp_path/'top/inner', train='ab', valid='ab')
    with pytest.raises(ValueError, match='There are class folders in .*inner: give that folder'):
        labelled_folder(tmp_path/'top')
    with pytest.raises(ValueError, match='There are class folders in .*valid: give that folder'):
        labelled_folder(tiny(tmp_path/'lone', valid='ab'))
    tiny(tmp_path, e=['test1'])
    with pytest.raises(ValueError, match="only 'test1' has images directly in it.*class folders in .*train"):
        labelled_folder(tiny(tmp_path/'e', train='ab').parent/'e')

def test_the_state_knows_the_parts(tmp_path):
    source = tiny(tmp_path/'d', train='ab', valid='ab')
    before = state_of(source)
    shutil.move(source/'valid/a/0.png', source/'train/a/00.png')
    one = state_of(source)
    shutil.move(source/'train/a/00.png', source/'valid/a/00.png')
    assert len({before, one, state_of(source)}) == 3

@pytest.mark.parametrize('out', ['train', 'valid', 'valid/out', 'train/a', 'train/a/out'])
def test_no_results_among_the_images(out, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, '_train', lambda *args: pytest.fail('it was trained'))
    source = tiny(tmp_path/'d', train='ab', valid='ab')
    before = sorted(source.rglob('*'))
    with pytest.raises(ValueError, match='belongs to the source'): audit(source, out=source/out, device='cpu')
    assert sorted(source.rglob('*')) == before

# from folder to folder

def test_valid_is_judged_and_written_back(tmp_path, capsys):
    g = np.random.default_rng(0)
    train,valid,test = IDS[:240],IDS[240:400],IDS[400:440]
    wrong = {int(i) for o in (train, valid, test) for i in g.choice(o, len(o)//6, replace=False)}
    source = tmp_path/'digits'
    for name,ids in dict(train=train, valid=valid, test=test).items(): write(source/name, ids, wrong)
    before = contents(source)
    report = audit(source, epochs=12, device='cpu', out=tmp_path/'out', apply='copy', plant=0)
    said = capsys.readouterr().out
    assert 'Trained on train (240 images); valid (160 images) and test (40 images) took no part' in said
    assert len(report.learn.dls.train_ds) == 240 and 'by 200 validation labels' in report.summary()
    assert list(report)[:4] == ['sample_id', 'row', 'split', 'item']
    assert report.split.value_counts().to_dict() == dict(train=240, valid=160, test=40)
    assert all(Path(o).relative_to(source).parts[0] == s for o,s in zip(report['item'], report.split))
    is_wrong = np.array([int(Path(o).stem) in wrong for o in report['item']])
    for name in ('train', 'valid'):
        own = (report.split == name).to_numpy()
        flagged,bad = report.is_label_issue.to_numpy()[own],is_wrong[own]
        assert (flagged & bad).sum() > .7*bad.sum() and (flagged & bad).sum() > .75*flagged.sum(), name
    issues = pd.read_csv(tmp_path/'out/issues.csv')
    assert set(issues.split) == {'train', 'valid', 'test'} and contents(source) == before
    links = sorted((tmp_path/'out/corrected').glob('*/*/*'))
    assert len(links) == 440 and {o.parts[-3] for o in links} == {'train', 'valid', 'test'}
    assert all(o.resolve().relative_to(source).parts[0] == o.parts[-3] for o in links)
    shutil.rmtree(tmp_path/'out/corrected')
    part = report[report.is_label_issue]
    decisions = pd.DataFrame(dict(sample_id=part.sample_id, item=part['item'], given_label=part.given_label,
                                  suggested_label=part.suggested_label, decision='accept',
                                  new_label=part.suggested_label, data_id=report.data_id))
    decisions.to_csv(tmp_path/'decisions.csv', index=False)
    main(['apply', str(tmp_path/'decisions.csv'), '--audit', str(tmp_path/'out'), '--out', str(tmp_path/'new'),
          '--write', '--form', 'copies'])
    found = {Path(o).stem: o for o in names(tmp_path/'new')}
    for row in report.itertuples():
        split,label,name = found[Path(row.item).stem].split('/')
        assert split == row.split and label == row.suggested_label and name == Path(row.item).name
    again = audit(tmp_path/'new', epochs=12, device='cpu', out=tmp_path/'second', plant=0)
    assert again.is_label_issue.sum() < report.is_label_issue.sum()/2 and set(again.split) == set(report.split)

def test_one_epoch_and_few_held_out_images(tmp_path):
    "Too little to judge by is said, and ends nothing"
    source = tmp_path/'digits'
    write(source/'train', IDS[:60])
    write(source/'valid', IDS[60:90])
    report = audit(source, epochs=1, device='cpu', out=tmp_path/'out')
    assert len(report) == 90 and not report.is_label_issue[report.split == 'valid'].any()
    write(source/'valid', IDS[90:200])
    assert len(audit(source, epochs=1, device='cpu', out=tmp_path/'out')) == 200

def test_the_recommender_keeps_the_split(tmp_path):
    source = tmp_path/'digits'
    for name,ids in dict(train=IDS[:60], valid=IDS[60:90], test=IDS[90:100]).items(): write(source/name, ids)
    dls,*_ = labelled_dls(labelled_folder(source), device='cpu')
    assert len(dls.train_ds) == 60 and len(dls.valid_ds) == 30
    dls,*_ = labelled_dls(labelled_folder(source/'train'), device='cpu')
    assert len(dls.train_ds) + len(dls.valid_ds) == 60

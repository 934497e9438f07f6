"`fastnoisy recommend`: every source, what is written, what is told before any training, stopped and continued"
import numpy as np, pandas as pd, pytest
from fastai.basics import load_learner
from PIL import Image
from sklearn.datasets import load_digits
from fastnoisy.benchmark.recommend_files import labelled_dls, part_of, read_labelled, recommend_files, split_rows
from fastnoisy.cli import main

QUICK = dict(budget=2, recipes=['elr'], epochs=2, device='cpu')

def table(folder, n=90):
    k = np.arange(n) % 3
    values = np.random.default_rng(0).normal(size=(n, 5)) + k[:,None]
    csv = folder/'t.csv'
    pd.DataFrame(values, columns=list('abcde')).assign(label=k, t=['u', 'v']*(n//2)).to_csv(csv, index=False)
    return dict(path=csv)

def series(folder):
    k = np.arange(90) % 3
    values = np.random.default_rng(1).normal(size=(90, 20)) + k[:,None]
    pd.DataFrame(values).assign(label=k).to_csv(folder/'s.csv', index=False)
    return dict(csv=folder/'s.csv', series=True)

def pictures():
    x,y = load_digits(return_X_y=True)
    return (x.reshape(-1, 8, 8)*15).astype(np.uint8)[:200],y[:200] % 3

def arrays(folder):
    x,y = pictures()
    np.savez(folder/'a.npz', images=x, labels=y)
    return dict(npz=folder/'a.npz')

def images(folder):
    for i,(x,y) in enumerate(zip(*pictures())):
        (folder/'im'/str(y)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(x).save(folder/'im'/str(y)/f'{i}.png')
    return dict(path=folder/'im')

SOURCES = [table, series, arrays, images]

@pytest.mark.parametrize('source', SOURCES)
def test_parts(source, tmp_path):
    "Every sample once, each class in both parts, the validation samples treated as the others are"
    samples = read_labelled(**source(tmp_path))
    dls,make_model,(_,pretrained) = labelled_dls(samples, .2, 0, device='cpu')
    n_train,n_valid = (len(o.dataset) for o in dls.loaders)
    assert (n_train + n_valid, n_valid) == (len(samples), len(split_rows(samples.label_ids, .2)[1])) and not pretrained
    *xb,y = dls.valid.one_batch()
    assert make_model().eval()(*xb).shape == (len(y), 3)
    rows = split_rows(samples.label_ids, .2)[1]
    assert len(set(samples.label_ids[rows])) == 3
    given = np.concatenate([o[-1].flatten() for o in dls.valid])
    assert given.tolist() == samples.label_ids[rows].tolist() # in their order, with the same class ids

def test_split():
    labels = np.repeat([0, 1, 2], [10, 100, 3])
    train,valid = split_rows(labels, .1, 1)
    assert sorted([*train, *valid]) == list(range(113)) and np.bincount(labels[valid]).tolist() == [1, 10, 1]
    assert split_rows(labels, .1, 1)[1].tolist() == valid.tolist() != split_rows(labels, .1, 2)[1].tolist()
    for share in (0, .6, -1):
        with pytest.raises(ValueError, match='valid='): split_rows(labels, share)
    with pytest.raises(ValueError, match='one sample only'): split_rows(np.array([0, 0, 1]))

def test_a_part_is_a_part(tmp_path):
    samples = read_labelled(**table(tmp_path))
    part = part_of(samples, np.array([4, 2]))
    assert part.rows.tolist() == [4, 2] and part.inputs.a.tolist() == samples.inputs.a[[4, 2]].tolist()

@pytest.mark.slow
def test_what_is_written(tmp_path, capsys):
    csv,out = table(tmp_path)['path'],tmp_path/'out'
    before,words = csv.read_bytes(),['recommend', str(csv), '--budget', '2', '--recipes', 'elr', '--epochs', '2']
    words += ['--device', 'cpu', '--out', str(out)]
    main(words)
    said = capsys.readouterr().out
    assert '90 samples of 3 classes' in said and said.count('elr, seed') == 2 and csv.read_bytes() == before
    assert {'recommendation.md', 'recommendation.csv', 'learner.pkl', 'race'} <= {o.name for o in out.iterdir()}
    rows = pd.read_csv(out/'recommendation.csv')
    assert rows.recipe.tolist() == ['ce', 'elr'] and (rows.status == 'recommended').sum() == 1
    text = (out/'recommendation.md').read_text()
    assert f'fastnoisy recommend {csv} --budget 2 --recipes elr' in text and 'train_recipe(dls, make_model' in text
    assert len(load_learner(out/'learner.pkl').dls.vocab) == 3
    main(words)
    assert 'seed' not in capsys.readouterr().out.split('recipe')[0] # nothing is trained twice

@pytest.mark.parametrize('options, says', [
    (dict(budget='x'), 'budget='), (dict(recipes=['nope']), "'nope' is unknown"),
    (dict(recipes=['gjs']), 'needs images'),
    (dict(valid=.9), 'valid='), (dict(path=None), 'Give one of'), (dict(x='a'), 'are for a --csv'),
    (dict(executor='condor'), "executor='condor'.*dask:ADDRESS")])
def test_errors(options, says, tmp_path):
    source = table(tmp_path)
    if 'x' in options: source = arrays(tmp_path)
    with pytest.raises(ValueError, match=says):
        recommend_files(**{**QUICK, **source, 'out': tmp_path/'out', **options})
    assert not list(tmp_path.glob('out/race/*.csv'))

def test_the_source_is_never_the_folder_of_results(tmp_path):
    folder,csv = images(tmp_path)['path'],table(tmp_path)['path']
    for source,out in ((folder, folder), (folder, folder/'0'), (csv, tmp_path), (csv, folder/'..')):
        with pytest.raises(ValueError, match='never changed'): recommend_files(source, out=out, **QUICK)
    assert not list(tmp_path.rglob('recommendation*'))

def test_command_line_errors(tmp_path, capsys):
    for words,says in (([str(tmp_path/'x')], 'no such file'), (['--budgett', '3'], 'Did you mean --budget')):
        with pytest.raises(SystemExit) as e: main(['recommend', *words])
        assert says in str(e.value.code) + capsys.readouterr().err

"The report of a grid: what counts, what is bold, what is written"
import matplotlib.pyplot as plt
import numpy as np, pandas as pd, pytest
from fastnoisy.benchmark.trial import TRIAL, CURVES, RESULTS
from fastnoisy.benchmark.runner import Table
from fastnoisy.benchmark.tables import (SETTING, accuracy_table, as_markdown, best_by_far, gain_table, grid_report,
                                        paired_gains, plot_curves, plot_rates, read_grid)

BASE = dict(data='digits', arch='small_cnn', epochs=2, lr=.003, wd=.01, optimizer='adam', schedule='one-cycle', bs=64, variant='plain')
ACCURACY = {'ce': [.70, .72, .74], 'gce': [.90, .91, .92], 'also': [.80, .80, .80]}

def write(out, epochs=2, methods=ACCURACY, seeds=3, error=None):
    out.mkdir(exist_ok=True)
    results,curves = Table(out/'results.csv', TRIAL + RESULTS),Table(out/'curves.csv', TRIAL + CURVES)
    for noise,rate in (('none', 0.), ('symmetric', .5), ('asymmetric:mnist', .4)):
        for method in methods:
            for seed in range(seeds):
                trial = dict(BASE, epochs=epochs, noise=noise, rate=rate, method=method, seed=seed)
                a = ACCURACY[method][seed]
                results.append([dict(trial, accuracy=a, accuracy_last=a-.1, error=error)])
                curves.append(dict(trial, epoch=range(1, 1+epochs), valid_loss=1., valid_accuracy=a))
    return out

@pytest.fixture
def out(tmp_path): return write(tmp_path/'out')

def test_no_grid(tmp_path):
    with pytest.raises(FileNotFoundError, match='has no results.csv'): read_grid(tmp_path)

def test_last_row_of_a_trial_counts(out):
    write(out, methods=['ce'], seeds=1, error='ValueError: x')
    results,curves,failed = read_grid(out)
    assert len(results) == 24 and len(failed) == 3 and failed.error.unique() == ['ValueError: x']
    assert len(curves) == 24*2 # those of the failed trials are left out
    write(out, methods=['ce'], seeds=1)
    results,curves,failed = read_grid(out)
    assert len(results) == 27 and len(failed) == 0 and len(curves) == 27*2

def test_best_by_far_is_the_rule_written_out():
    rng = np.random.default_rng(0)
    for _ in range(200):
        mean,sd = pd.DataFrame(rng.random((3, 4)), columns=list('abcd')),pd.DataFrame(.3*rng.random((3, 4)), columns=list('abcd'))
        got = best_by_far(mean, sd)
        for i in range(3):
            order = sorted(range(4), key=lambda k: -mean.iloc[i, k])
            ahead = all(mean.iloc[i, order[0]] - mean.iloc[i, k] > (sd.iloc[i, order[0]]**2 + sd.iloc[i, k]**2)**.5 for k in order[1:])
            assert got.iloc[i].tolist() == [ahead and k == order[0] for k in range(4)]

def test_nothing_is_bold_with_one_seed_or_one_method(out):
    results,_,_ = read_grid(out)
    assert '**' not in as_markdown(accuracy_table(results[results.seed == 0])) and '**' not in as_markdown(accuracy_table(results[results.method == 'gce']))

def test_accuracy_table(out):
    table = accuracy_table(read_grid(out)[0])
    assert list(table) == ['no noise', 'symmetric 0.5', 'asymmetric:mnist 0.4'] and list(table.index) == ['ce', 'gce', 'also']
    assert table['symmetric 0.5'].tolist() == ['72.0 ± 2.0', '**91.0 ± 1.0**', '80.0 ± 0.0']
    assert accuracy_table(read_grid(out)[0], 'accuracy_last')['no noise']['ce'] == '62.0 ± 2.0'

def test_a_cell_that_is_not_there_yet_is_empty(out):
    results,_,_ = read_grid(out)
    table = accuracy_table(results[~((results.method == 'gce') & (results.noise == 'symmetric'))])
    assert table['symmetric 0.5'].tolist() == ['72.0 ± 2.0', '', '**80.0 ± 0.0**']

def test_paired_gains(out):
    results,_,_ = read_grid(out)
    gains = paired_gains(results)
    differences = np.subtract(ACCURACY['also'], ACCURACY['ce'])
    assert gains.loc[('symmetric', .5, 'also'), 'gain'] == pytest.approx(differences.mean())
    assert gains.loc[('symmetric', .5, 'also'), 'standard_error'] == pytest.approx(differences.std(ddof=1)/3**.5) and (gains.seeds == 3).all()
    assert 'ce' not in gains.index.unique('method')
    shuffled = paired_gains(results.sample(frac=1, random_state=0), 'ce') # the order of the rows does not matter
    pd.testing.assert_frame_equal(shuffled.loc[gains.index], gains)
    one_missing = results[~((results.method == 'also') & (results.seed == 1) & (results.noise == 'none'))]
    assert paired_gains(one_missing).loc[('none', 0., 'also')].tolist() == [pytest.approx((.10+.06)/2), pytest.approx(.02), 2]
    with pytest.raises(ValueError, match="base='x': choose from ce, gce, also"): paired_gains(results, 'x')

def test_gain_table(out):
    results,_,_ = read_grid(out)
    table = gain_table(results, 'gce', 'accuracy_last')
    assert list(table.index) == ['ce', 'also'] and table['symmetric 0.5'].tolist() == ['-19.0 ± 0.6', '-11.0 ± 0.6']
    assert gain_table(results[results.seed == 0])['no noise'].tolist() == ['+20.0', '+10.0'] # nothing to say of chance
    assert len(gain_table(results[results.method == 'ce'])) == 0
    assert gain_table(results[~((results.method == 'gce') & (results.noise == 'symmetric'))])['symmetric 0.5'].tolist() == ['', '+8.0 ± 1.2']

def test_markdown():
    assert as_markdown(pd.DataFrame({'x': ['1']}, index=pd.Index(['a'], name='m'))) == '| m | x |\n| --- | --- |\n| a | 1 |'

def test_plots_show_the_means(out):
    results,curves,_ = read_grid(out)
    ax = plot_rates(results, 'symmetric')
    line = ax.get_lines()[0]
    assert line.get_xdata().tolist() == [0, .5] and line.get_ydata() == pytest.approx([.72, .72]) # no noise is the rate 0 of each kind
    assert [o.get_text() for o in ax.get_legend().get_texts()] == ['ce', 'gce', 'also']
    axs = plot_curves(curves, 'symmetric', .5)
    assert axs[1].get_lines()[1].get_ydata() == pytest.approx([.91, .91]) and axs[0].get_lines()[1].get_xdata().tolist() == [1, 2]
    plt.close('all')

def test_report_has_a_section_for_each_setting(out):
    others = plt.get_fignums() # of tests before this one
    write(out, epochs=3, methods=['ce', 'gce'], seeds=1)
    write(out, epochs=3, methods=['also'], seeds=1, error='ValueError: x')
    text = grid_report(out)
    assert text == (out/'report.md').read_text(encoding='utf-8')
    assert '## digits, small_cnn, 2 epochs' in text and '## digits, small_cnn, 3 epochs' in text and '- symmetric 0.5, also, seed 0: ValueError: x' in text
    assert text.count('Minus ce, seed by seed') == 4 and '| also | +8.0 ± 1.2 |' in text
    figures = {o.name for o in out.glob('*.png')}
    assert figures == {f'{o}_{i}_{n}.png' for i in (1, 2) for o,n in (('rates', 'symmetric'), ('rates', 'asymmetric_mnist'), ('curves', 'none_0'), ('curves', 'symmetric_0.5'),
                                                                      ('curves', 'asymmetric_mnist_0.4'))}
    assert all(f'({o})' in text for o in figures) and plt.get_fignums() == others

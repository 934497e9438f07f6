"How far an audit is: in a pseudo terminal one line that changes, in a file one line for each epoch; and nothing else."
import os, re, sys, threading, warnings
import numpy as np, pandas as pd, pytest
from PIL import Image
from fastai.basics import Learner, accuracy
from fastnoisy.audit.progress import EpochProgress, Line, bar, is_terminal, quiet_packages, time_left
from fastnoisy.callback.also import ALSOCallback
from fastnoisy.callback.bmm import BMMFilterCallback
from fastnoisy.cli import main
from fastnoisy.data.digits import digits_dls
from fastnoisy.models import small_cnn

def write_table(file, n=120):
    "Numbers with gaps, and texts"
    g = np.random.default_rng(0)
    label = g.choice(['x', 'y'], n)
    table = pd.DataFrame(dict(a=g.normal(size=n) + 3*(label == 'x'), b=g.normal(size=n), c=g.choice(['u', 'v'], n),
                              label=label))
    table.loc[::7, 'b'] = np.nan
    table.to_csv(file, index=False)
    return file

def write_images(folder):
    "With train and valid; a palette with transparency and a wide grey range are among them"
    g = np.random.default_rng(0)
    for part,n in dict(train=12, valid=4).items():
        for k,c in enumerate('ab'):
            (folder/part/c).mkdir(parents=True)
            for i in range(n):
                image = Image.fromarray(g.integers(100*k, 100*k + 99, (10, 10), dtype=np.uint8))
                if i == 1: image = image.convert('RGB').convert('P', palette=Image.Palette.ADAPTIVE)
                image.save(folder/part/c/f'{i}.png', **(dict(transparency=b'\x00\xff') if i == 1 else {}))
    return folder

class PseudoTerminal:
    "What is written to a real terminal; `text` after the end"
    def __enter__(self):
        self.master,slave = os.openpty()
        self.parts,self.stream = [],os.fdopen(slave, 'w')
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()
        return self.stream

    def _read(self):
        try:
            while part := os.read(self.master, 2**16): self.parts.append(part)
        except OSError: pass # the other end is closed

    def __exit__(self, *exc):
        self.stream.close()
        self.thread.join(20)
        os.close(self.master)
        self.text = b''.join(self.parts).decode().replace('\r\n', '\n')

def run(stream, *args):
    "The program with its output there; the warnings that a user would see"
    was,sys.stdout = sys.stdout,stream
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        try: main(['audit', *map(str, args), '--device', 'cpu'])
        finally: sys.stdout = was
    return [str(o.message) for o in said]

def test_in_a_terminal_one_line_changes(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv('TERM', 'xterm')
    monkeypatch.setenv('COLUMNS', '100')
    terminal = PseudoTerminal()
    with terminal as stream:
        said = run(stream, write_table(tmp_path/'t.csv'), '--epochs', 4, '--out', tmp_path/'out')
    assert said == [] and capfd.readouterr() == ('', '')
    line, = [o for o in terminal.text.split('\n') if '\r' in o] # one line only, and no colours or other codes
    assert '\x1b' not in terminal.text
    states = [o.rstrip() for o in line.split('\r') if o]
    shape = r'epoch \d of 4 \[#*-*\] +\d+%  loss \d\.\d{3}(, \d+\.\d% predicted as labelled)?, \d\d:\d\d (left|in all)'
    assert all(re.fullmatch(shape, o) for o in states) and all(len(o) < 100 for o in line.split('\r'))
    epochs = [int(o.split()[1]) for o in states]
    assert epochs == sorted(epochs) and len({*epochs}) == 4
    assert '[####################] 100%' in states[-1] and states[-1].endswith('in all')

def test_in_a_file_one_line_for_each_epoch(tmp_path, capfd):
    with open(tmp_path/'log.txt', 'w') as stream:
        options = '--epochs', 3, '--arch', 'small_cnn', '--out', tmp_path/'out'
        said = run(stream, write_images(tmp_path/'images'), *options)
    assert said == [] and capfd.readouterr() == ('', '')
    text = (tmp_path/'log.txt').read_text()
    lines = [o for o in text.splitlines() if o.startswith('epoch')]
    shape = r'epoch (\d) of 3: loss \d\.\d{3}, \d+\.\d% predicted as labelled \(\d+\.\d% of those held out\), \d\d:\d\d'
    assert [re.fullmatch(shape, o)[1] for o in lines] == ['1', '2', '3'] and '\r' not in text and '\x1b' not in text
    first,*_ = text.splitlines()
    assert first.startswith('Looking at ') and len(text.splitlines()) == 1 + 1 + 3 + 2 + 4 # summary and files

def test_the_shares_are_those_of_the_labels(capsys):
    "However many values the methods show beside the accuracy"
    dls = digits_dls(noise=.2, device='cpu')
    learn = Learner(dls, small_cnn(dls.n_channels, dls.c), metrics=accuracy, cbs=[ALSOCallback(), BMMFilterCallback()])
    learn.recorder.train_metrics,learn.logger = True,lambda row: None
    with learn.no_bar():
        with learn.added_cbs(EpochProgress(2)): learn.fit(2, 3e-3)
        trained,found = learn.recorder.values[-1][1],learn.validate()[1]
    last = [o for o in capsys.readouterr().out.splitlines() if o.startswith('epoch 2')][0]
    assert f'({found:.1%} of those held out)' in last
    assert f'{trained:.1%} predicted as labelled' in last

def test_a_line_is_written_over(monkeypatch):
    monkeypatch.setenv('COLUMNS', '20')
    terminal = PseudoTerminal()
    with terminal as stream:
        line = Line(stream)
        line.write('a'*50)
        line.write('short')
        line.end()
        line.end() # nothing more
    assert terminal.text == '\r' + 'a'*19 + '\rshort' + ' '*14 + '\n'

def test_small_parts(monkeypatch):
    assert bar(0) == '[' + '-'*20 + ']' and bar(1.2, 3) == '[###]' and bar(-1, 2) == '[--]'
    assert time_left(30, .25) == '01:30 left' and time_left(3, 0) == ''
    with PseudoTerminal() as stream:
        monkeypatch.setenv('TERM', 'xterm')
        assert is_terminal(stream)
        monkeypatch.setenv('TERM', 'dumb')
        assert not is_terminal(stream)

def test_only_warnings_of_others_are_left_out():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        with quiet_packages():
            for module in ('torch.nn.modules', 'fastai', 'fastnoisy.audit.run', 'mine', 'torchlike'):
                warnings.warn_explicit(f'of {module}', UserWarning, 'file.py', 1, module)
        warnings.warn_explicit('of torch', UserWarning, 'file.py', 2, 'torch')
    assert [str(o.message) for o in said] == ['of fastnoisy.audit.run', 'of mine', 'of torchlike', 'of torch']

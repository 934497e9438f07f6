"""Two minutes of the processor on cases of `adversarial.py`, with fixed seeds. More: `python tests/adversarial.py
--minutes 5`; or FASTNOISY_ADVERSARIAL_MINUTES=1 gives each area a minute here."""
import json, os, subprocess, sys
import numpy as np, pytest, torch
import adversarial
from adversarial import AREAS, run_area, run_case
from helpers import PYTHONPATH

pytestmark = pytest.mark.filterwarnings('ignore')
CASES = dict(losses=1200, numbers=1000, names=500, files=600, arguments=1000, options=600, labels=120, batches=80,
             stops=160, checkpoints=110, kills=8, tables=12, audits=10, exchanged=500, disks=10, processes=8, texts=14)
MINUTES = os.environ.get('FASTNOISY_ADVERSARIAL_MINUTES')

@pytest.fixture(autouse=True)
def one_thread():
    n,streams = torch.get_num_threads(),(torch.get_rng_state(), np.random.get_state())
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)
    torch.set_rng_state(streams[0])
    np.random.set_state(streams[1])

def test_every_area_has_its_share(): assert {*CASES} == {*AREAS}

FORKS = 'processes','kills','tables' # they fork, which a process with threads, as this one may be, must not do

def as_script(*args):
    env = {**os.environ, 'PYTHONPATH': PYTHONPATH, 'OMP_NUM_THREADS': '1'}
    return subprocess.run([sys.executable, adversarial.__file__, *args], capture_output=True, text=True, env=env)

@pytest.mark.parametrize('area', FORKS)
def test_nothing_breaks_of_what_forks(area):
    res = as_script(area, *(('--minutes', MINUTES) if MINUTES else ('--cases', str(CASES[area]))))
    assert res.returncode == 0 and f'{area} cases' in res.stdout and 'broken 0' in res.stdout, res.stdout + res.stderr

@pytest.mark.parametrize('area', [o for o in CASES if o not in FORKS])
def test_nothing_breaks(area):
    counts,broken = run_area(area, **(dict(minutes=float(MINUTES)) if MINUTES else dict(cases=CASES[area])))
    assert not broken, '\n'.join(broken)
    assert counts['cases'] == counts['held'] + counts['refused'] > 0

def test_what_breaks_is_found(monkeypatch):
    "A case that fails, one that hangs, and one that is refused are told apart; the seed is the case"
    def fails(rng, folder):
        yield f'{rng.random():.4f}'
        assert False, 'on purpose'
    def hangs(rng, folder):
        yield 'for ever'
        while True: pass
    def refuses(rng, folder):
        yield 'no'
        raise adversarial.Refused
    monkeypatch.setattr(adversarial, 'AREAS', dict(fails=fails, hangs=hangs, refuses=refuses))
    counts,broken = run_area('fails', seed=7, cases=2)
    assert counts == dict(cases=2, held=0, refused=0, broken=2)
    assert '--seed 8' in broken[1] and 'on purpose' in broken[1]
    assert run_case('fails', 7)[1] == run_case('fails', 7)[1] != run_case('fails', 8)[1]
    assert run_case('hangs', 0, seconds=1)[0] == 'broken' and run_case('refuses', 0)[0] == 'refused'

def test_as_a_script(tmp_path):
    counts = tmp_path/'counts.json'
    command = sys.executable,adversarial.__file__,'numbers','--cases','3','--counts',str(counts)
    res = subprocess.run(command, capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': PYTHONPATH})
    assert res.returncode == 0 and 'numbers cases 3' in res.stdout, res.stderr
    assert json.loads(counts.read_text())['numbers']['cases'] == 3
    adversarial._add_counts(counts, 'numbers', dict(cases=4))
    assert json.loads(counts.read_text())['numbers']['cases'] == 7

"""tests/device on the pretend GPU (tests/scripts/pretend.py), in a process of its own: a process that has that device
keeps it. With CUDA those tests run there, too: `pytest -m cuda`."""
import os, subprocess, sys
import pytest
import pretend
from helpers import PYTHONPATH, TESTS

@pytest.fixture(scope='module')
def built():
    "The device is compiled: once, in half a minute"
    missing = pretend.missing()
    if missing: pytest.skip(f'no {missing} to make the pretend device with')
    return pretend.build()

def session(*args):
    "A session of pytest on the pretend device: what it says, where it fails"
    env = {**os.environ, 'FASTNOISY_DEVICE': 'pretend', 'PYTHONPATH': PYTHONPATH}
    command = [sys.executable, '-m', 'pytest', str(TESTS/'device'), '-p', 'no:cacheprovider', '--tb=short', *args]
    res = subprocess.run(command, env=env, cwd=TESTS.parent, capture_output=True, text=True)
    assert res.returncode == 0, res.stdout[-8000:] + res.stderr[-2000:]

def test_device(built): session('-m', 'not slow')

@pytest.mark.slow
def test_device_thoroughly(built): session('-m', 'slow')

"All tests of this folder are marked `cuda`: they need CUDA, or the pretend device that tests/test_device.py gives them"
from pathlib import Path
import pytest
from on_device import DEVICE

def pytest_collection_modifyitems(items):
    own = [o for o in items if o.path.is_relative_to(Path(__file__).parent)]
    for item in own:
        item.add_marker(pytest.mark.cuda)
        if DEVICE is None: item.add_marker(pytest.mark.skip(reason='no CUDA here; see test_device.py'))

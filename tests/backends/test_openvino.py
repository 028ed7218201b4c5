from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

pytestmark = pytest.mark.programs

PROGRAM = """
import os, sys
os.register_at_fork(before=lambda: print("forked"))
import torch
from lenet import backends
found = backends.load("openvino").probe(torch.device("cpu"))
import openvino
print(bool(found), [name for name in sys.modules if name.startswith("openvino_telemetry")], hasattr(openvino, "Core"))
"""


def test_nobody_is_told_that_openvino_was_imported() -> None:
    """Its own import forks a process that tells Google Analytics."""
    if find_spec("openvino") is None:
        pytest.skip('pip install -e ".[openvino]"')
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout == "True [] True\n"

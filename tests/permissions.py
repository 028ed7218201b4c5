"""Programs for which permissions hold, whoever runs the tests."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

_REFUSED = 77
_DROP = f"""
import ctypes, os, sys
drop_from_bounding_set, override_permissions = 24, 1
if os.geteuid() == 0 and ctypes.CDLL(None).prctl(drop_from_bounding_set, override_permissions, 0, 0, 0):
    sys.exit({_REFUSED})
os.execv(sys.argv[1], sys.argv[1:])
"""


def run_with_permissions(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program without root's right to write anywhere; skip the test if that right cannot be dropped."""
    whole = [sys.executable, "-c", _DROP, *command]
    done = subprocess.run(whole, capture_output=True, text=True, check=False, **options)
    if done.returncode == _REFUSED:
        pytest.skip("root may write anywhere, and may not drop that right here")
    return done

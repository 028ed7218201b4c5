"""Programs for which permissions hold, whoever runs the tests."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests import preloaded

_REFUSED = 77
_DROP_FROM_BOUNDING_SET = 24
_OVERRIDE_PERMISSIONS = 1
_CAPABILITIES_VERSION_3 = 0x20080522


def run_with_permissions(
    *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> CompletedProcess[str]:
    """Run a Python program without root's right to write anywhere; skip the test if that right cannot be dropped."""
    done = preloaded.run(*arguments, cwd=cwd or Path.cwd(), env=os.environ if env is None else env, prepare=_drop)
    if done.returncode == _REFUSED:
        pytest.skip("root may write anywhere, and may not drop that right here")
    return done


def _drop() -> None:
    """Of this process and, by the bounding set, of all that it starts."""
    if os.geteuid() != 0:
        return
    libc, header = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(_CAPABILITIES_VERSION_3, 0)
    effective = (ctypes.c_uint32 * 6)()  # then permitted and inheritable ones, and the upper halves
    if libc.prctl(_DROP_FROM_BOUNDING_SET, _OVERRIDE_PERMISSIONS, 0, 0, 0) or libc.capget(header, effective):
        sys.exit(_REFUSED)
    effective[0] &= ~(1 << _OVERRIDE_PERMISSIONS)
    if libc.capset(header, effective):
        sys.exit(_REFUSED)

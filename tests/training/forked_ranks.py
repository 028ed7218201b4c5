"""torchrun whose ranks are forked from it: each would take seconds to import PyTorch."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Mapping, Sequence
from subprocess import TimeoutExpired
from typing import Any

from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

from tests import preloaded


class _Rank:
    """As much of `subprocess.Popen` as torchrun uses."""

    def __init__(self, args: Sequence[str], env: Mapping[str, str], **_: Any) -> None:
        self.args = args
        self._process = multiprocessing.get_context("fork").Process(target=_run, args=(args, env))
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutExpired(self.args, timeout or 0)
        return self._process.exitcode


def _run(args: Sequence[str], env: Mapping[str, str]) -> None:
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)  # they are torchrun's
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(env)
    _, unbuffered, *program = args
    assert unbuffered == "-u"
    preloaded.execute(program)


def fork_ranks() -> None:
    """Make this process's torchrun fork its ranks."""
    subprocess_handler.Popen = _Rank

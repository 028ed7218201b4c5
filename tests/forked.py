"""Programs forked from the one that starts them, for commands that start Python: each would import PyTorch anew."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import PIPE, TimeoutExpired
from typing import Any

from tests import preloaded


class ForkedProgram:
    """As much of `subprocess.Popen` as torchrun and ``lenet coursework`` use."""

    def __init__(
        self,
        args: Sequence[str],
        *,
        stdout: int | None = None,
        env: Mapping[str, str] | None = None,
        start_new_session: bool,
        **_: Any,
    ) -> None:
        assert (args[0], start_new_session) == (sys.executable, True)
        self.args = args
        self._output: int | None = None
        writing: int | None = None
        if stdout == PIPE:
            self._output, writing = os.pipe()
        process = multiprocessing.get_context("fork").Process(target=_run, args=(args[1:], env, writing))
        process.start()
        if writing is not None:
            os.close(writing)
        assert process.pid is not None
        self.pid, self._process = process.pid, process

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutExpired(self.args, timeout or 0)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[bytes | None, None]:
        output = None
        if self._output is not None:
            with os.fdopen(self._output, "rb") as stream:
                output = stream.read()
            self._output = None
        self.wait(timeout)
        return output, None

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


def _run(arguments: Sequence[str], env: Mapping[str, str] | None, output: int | None) -> None:
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)  # they are the starting program's
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if output is not None:
        os.dup2(output, 1)
        os.close(output)
    if env is not None:
        os.environ.clear()
        os.environ.update(env)
    sys.path.insert(0, str(Path.cwd()))
    preloaded.execute(arguments[1:] if arguments[0] == "-u" else arguments)


def fork_ranks() -> None:
    """Make this process's torchrun fork its ranks."""
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    vars(subprocess_handler)["Popen"] = ForkedProgram

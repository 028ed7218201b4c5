"""The processes that measure: started afresh, or forked by a server that has imported the suite's modules."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

import psutil

from lenet import documents
from lenet.errors import GateError, how_it_ended

__all__ = [
    "ForkServer",
    "ForkedProcess",
    "FreshProcess",
    "WorkerError",
    "WorkerProcess",
    "log_tail",
    "processor_seconds",
    "share_of_others",
]

_PRELOADED: Final = (
    "torch",
    "pytest",
    "lenet.suite.plugin",
    "lenet.suite.fixtures",
    "lenet.suite.one_batch",
    "lenet.suite.facts",
    "lenet.suite.energy",
    "lenet.measurement.limits",
    "lenet.comparison",
)
_ONE_THREAD: Final = {"OPENBLAS_NUM_THREADS": "1"}
"""While it is imported, NumPy's BLAS starts a thread for each processor. PyTorch starts its own on first use."""

_LOG_LINES: Final = 20
_SHORTEST: Final = 1e-3
"""Seconds to wait at least: a socket that is told to wait for none does not block."""


class WorkerError(GateError):
    """A process was killed, hung, or could not measure."""


class WorkerProcess(Protocol):
    """A process in a session of its own."""

    def wait(self, seconds: float) -> int:
        """Its exit code, negative for a signal.

        Raises:
            TimeoutError: It has not ended in time.
        """

    def kill(self) -> None:
        """End it and all that it started, unless they have ended, and wait for it."""


class FreshProcess:
    """A new interpreter.

    Args:
        command: The program and its arguments.
        directory: Where it runs.
        environment: All its variables.
        descriptors: Where it hears and says.
        log: Takes its output.
    """

    def __init__(
        self,
        command: Sequence[str],
        directory: Path,
        environment: Mapping[str, str],
        descriptors: tuple[int, int],
        log: BinaryIO,
    ) -> None:
        hear, say = (f"{one:04d}" for one in descriptors)  # equally long on both sides, like the rest
        self._process = subprocess.Popen(  # noqa: S603
            command,
            cwd=directory,
            env={**environment, "LENET_GATE_HEAR": hear, "LENET_GATE_SAY": say},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=descriptors,
            start_new_session=True,
        )

    def wait(self, seconds: float) -> int:
        """Its exit code, negative for a signal."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError from None

    def kill(self) -> None:
        """End it and all that it started, unless they have ended, and wait for it."""
        _kill_group(self._process.pid)
        self._process.wait()


class ForkServer:
    """A process that forks workers of one side (`lenet.gate.fork_server`).

    Args:
        side: ``base`` or ``head``, for messages.
        python: The side's interpreter.
        script: The copy of the server's file that it runs.
        directory: Where it runs: the side's checkout.
        environment: All its variables.
        log: A file for its output.
    """

    def __init__(
        self, side: str, python: str, script: Path, directory: Path, environment: Mapping[str, str], log: Path
    ) -> None:
        self._side = side
        self._log = log
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with log.open("wb") as output, theirs:
            self._process = subprocess.Popen(  # noqa: S603
                [python, str(script), str(theirs.fileno()), *_PRELOADED],
                cwd=directory,
                env={**environment, **_ONE_THREAD},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )

    def cannot(self, seconds: float) -> str | None:
        """Why it cannot fork fresh processes; None if it can. It waits until the modules are imported."""
        reason = self.answer("cannot", seconds)
        return None if reason is None else str(reason)

    def start(
        self, arguments: Sequence[str], variables: Mapping[str, str], descriptors: tuple[int, int], log: BinaryIO
    ) -> ForkedProcess:
        """Fork a process that runs pytest.

        Args:
            arguments: Of pytest.
            variables: What to add to the environment.
            descriptors: Where it hears and says.
            log: Takes its output.
        """
        request = documents.to_json({"arguments": list(arguments), "variables": dict(variables)}).encode()
        try:
            socket.send_fds(self._socket, [request], [*descriptors, log.fileno()])
        except OSError:
            raise self._gone() from None
        return ForkedProcess(self, int(self.answer("pid", 60)))

    def answer(self, what: str, seconds: float) -> Any:
        """Wait for the server's next message, which has this key.

        Raises:
            GateError: The server is gone.
            TimeoutError: There is no message in time.
        """
        self._socket.settimeout(max(seconds, _SHORTEST))
        try:
            message = self._socket.recv(1 << 16)
        except ConnectionError:
            message = b""
        if not message:
            raise self._gone()
        return documents.parse(message.decode())[what]

    @property
    def processor_seconds(self) -> float:
        """Seconds that it and the processes that it forked have used. They count once they have ended."""
        try:
            return sum(psutil.Process(self._process.pid).cpu_times()[:4])
        except psutil.Error:
            return 0.0

    def close(self) -> None:
        """End the server."""
        self._socket.close()
        _kill_group(self._process.pid)
        self._process.wait()

    def _gone(self) -> WorkerError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        code = self._process.poll()
        return WorkerError(
            f"the server of {self._side}'s processes ended",
            found="it does not answer" if code is None else how_it_ended(code),
            wanted="a server until the gate ends",
            hint="try again, or with `--start=fresh`" + log_tail(self._log),
        )


class ForkedProcess:
    """A process that a server forked.

    Args:
        server: Its parent.
        process: Its id.
    """

    def __init__(self, server: ForkServer, process: int) -> None:
        self._server = server
        self._process = process
        self._code: int | None = None

    def wait(self, seconds: float) -> int:
        """Its exit code, negative for a signal."""
        if self._code is None:
            self._code = int(self._server.answer("code", seconds))
        return self._code

    def kill(self) -> None:
        """End it and all that it started, unless they have ended, and wait for it."""
        _kill_group(self._process)
        with suppress(GateError, TimeoutError):
            self.wait(60)


def log_tail(log: Path) -> str:
    """The last lines of a process's log, to end a hint with."""
    lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
    return "".join(f"\n  | {line}" for line in lines)


def processor_seconds(servers: Mapping[str, ForkServer] | None = None) -> tuple[float, float]:
    """Busy and stolen seconds of the processors that this process may use, and the seconds of it and its workers.

    Workers count once they have ended.

    Args:
        servers: The parents of workers that were forked.
    """
    usable = os.sched_getaffinity(0)
    each = [times for number, times in enumerate(psutil.cpu_times(percpu=True)) if number in usable]
    own = sum(os.times()[:4]) + sum(server.processor_seconds for server in (servers or {}).values())
    return sum(sum(times[:3]) + times.irq + times.softirq + times.steal for times in each), own


def share_of_others(before: tuple[float, float], after: tuple[float, float], seconds: float) -> float:
    """The share of the processors' time that others took between two readings of `processor_seconds`."""
    busy, own = (late - early for early, late in zip(before, after, strict=True))
    return min(max((busy - own) / seconds, 0.0), 1.0)


def _kill_group(process: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)

"""Run Python programs in processes forked from one that has imported PyTorch, which costs a new process seconds.

This is for tests of what a program does. A test of how a process starts or ends needs a process of its own: here the
variables that PyTorch's import reads, such as ``OMP_NUM_THREADS``, have no effect, nor have functions of `atexit`.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from multiprocessing.util import get_temp_dir
from pathlib import Path
from subprocess import CompletedProcess
from typing import TextIO

import lenet
from tests import programs

_CONTEXT = multiprocessing.get_context("forkserver")
# No plugin of pytest: pytest rewrites its assertions, and wants to import it for that. The last one freezes them.
_CONTEXT.set_forkserver_preload(
    [
        *("torch", "torch._dynamo", "scipy.special", "lenet.cli", "lenet.comparison", "lenet.measurement.limits"),
        *("lenet.report.curves", "lenet.report.tables", "lenet.suite.one_batch", "lenet.suite.facts", "pytest"),
        "tests.frozen",
    ]
)

get_temp_dir()  # is the server's from now on. A test may choose another, whose path is too long for a socket.


class Started:
    """A program that runs.

    Args:
        process: Its process.
        out: What it prints to standard output.
        err: What it prints to standard error.
    """

    def __init__(self, process: ForkServerProcess, out: TextIO, err: TextIO) -> None:
        assert process.pid is not None
        self.pid, self.out = process.pid, out
        self._process, self._err = process, err

    def is_running(self) -> bool:
        return self._process.exitcode is None

    def finish(self) -> CompletedProcess[str]:
        """Wait for its end, as ``communicate`` does."""
        with ThreadPoolExecutor(1) as beside:
            errors = beside.submit(self._err.read)
            output = self.out.read()
        return CompletedProcess((), self.wait(), output, errors.result())

    def wait(self) -> int:
        """Wait for its end alone: what it started may live on, and keep its streams open."""
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode


def run(
    *arguments: str, cwd: Path, env: Mapping[str, str], prepare: Callable[[], object] | None = None
) -> CompletedProcess[str]:
    """As ``subprocess.run([sys.executable, *arguments], capture_output=True, text=True)``, but see `start`."""
    with start(*arguments, cwd=cwd, env=env, prepare=prepare) as started:
        return started.finish()


@contextmanager
def start(
    *arguments: str, cwd: Path, env: Mapping[str, str], prepare: Callable[[], object] | None = None
) -> Iterator[Started]:
    """As ``subprocess.Popen``. At the end it is killed.

    Args:
        arguments: As for Python: ``-m`` and a module, ``-c`` and a program, or the path of one.
        cwd: Where it runs.
        env: Its environment.
        prepare: Called in its process before it begins.
    """
    programs.notice(f"Python: {' '.join(arguments[:2])}")
    out, child_out = _CONTEXT.Pipe(duplex=False)
    err, child_err = _CONTEXT.Pipe(duplex=False)
    with out, err, _text(out) as told, _text(err) as warned:
        with child_out, child_err:
            process = _CONTEXT.Process(target=_run, args=(arguments, cwd, dict(env), child_out, child_err, prepare))
            process.start()
        try:
            yield Started(process, told, warned)
        finally:
            process.kill()
            process.join()


def _text(stream: Connection) -> TextIO:
    return open(stream.fileno(), encoding="utf-8", closefd=False)


def _run(
    arguments: tuple[str, ...],
    cwd: Path,
    env: dict[str, str],
    out: Connection,
    err: Connection,
    prepare: Callable[[], object] | None,
) -> None:
    with out, err:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
    # The server's own objects know that its streams were files, say.
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1, errors="backslashreplace")  # noqa: SIM115
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr  # type: ignore[misc]
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:0] = [str(cwd), *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    if (cwd / "lenet").is_dir() and not (cwd / "lenet").samefile(Path(lenet.__file__).parent):
        for name in [name for name in sys.modules if name.partition(".")[0] in {"lenet", "tests"}]:
            del sys.modules[name]  # another checkout's are imported
    if prepare is not None:
        prepare()
    execute(arguments)


def execute(arguments: Sequence[str]) -> None:
    """Run the program in this process. As Python does, end by SIGINT where nothing catches its exception."""
    try:
        _execute(arguments)
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)


def _execute(arguments: Sequence[str]) -> None:
    first, *rest = arguments
    if first == "-m":
        module, *sys.argv[1:] = rest
        sys.argv[0] = module
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    elif first == "-c":
        program, *sys.argv[1:] = rest
        sys.argv[0] = first
        exec(program, {"__name__": "__main__"})  # noqa: S102 - the test's own
    else:
        sys.argv = [*arguments]
        sys.path.insert(0, str(Path(first).parent))
        runpy.run_path(first, run_name="__main__")

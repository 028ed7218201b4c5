"""Run Python programs in processes forked from one that has imported PyTorch, which costs a new process seconds.

This is for tests of what a program does. A test of how a process starts or ends needs a process of its own: here the
variables that PyTorch's import reads, such as ``OMP_NUM_THREADS``, have no effect, nor have functions of `atexit`.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from subprocess import CompletedProcess

_CONTEXT = multiprocessing.get_context("forkserver")
# No plugin of pytest: pytest rewrites its assertions, and wants to import it for that.
_CONTEXT.set_forkserver_preload(
    ["torch", "scipy.special", "lenet.comparison", "lenet.measurement.limits", "lenet.report.tables"]
)


def run(*arguments: str, cwd: Path, env: Mapping[str, str]) -> CompletedProcess[str]:
    """As ``subprocess.run([sys.executable, *arguments], capture_output=True, text=True)``, with ``-m`` or ``-c``."""
    out, child_out = _CONTEXT.Pipe(duplex=False)
    err, child_err = _CONTEXT.Pipe(duplex=False)
    with out, err, ThreadPoolExecutor(1) as beside:
        with child_out, child_err:
            process = _CONTEXT.Process(target=_run, args=(arguments, cwd, dict(env), child_out, child_err))
            process.start()
        errors = beside.submit(_text, err)
        try:
            output = _text(out)
            process.join()
        finally:
            process.kill()
        assert process.exitcode is not None
        return CompletedProcess(arguments, process.exitcode, output, errors.result())


def _text(stream: Connection) -> str:
    with open(stream.fileno(), encoding="utf-8", closefd=False) as file:
        return file.read()


def _run(arguments: tuple[str, ...], cwd: Path, env: dict[str, str], out: Connection, err: Connection) -> None:
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
    kind, program, *rest = arguments
    if kind == "-m":
        sys.argv = [program, *rest]
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [kind, *rest]
        exec(program, {"__name__": "__main__"})  # noqa: S102 - the test's own

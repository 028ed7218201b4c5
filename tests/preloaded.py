"""Run Python modules in processes forked from one that has imported PyTorch, which costs a new process seconds.

This is for tests of what a program does. A test of how a process starts or ends needs a process of its own. Variables
that are read when PyTorch is imported, such as ``OMP_NUM_THREADS``, have no effect here, nor have functions of `atexit`.
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


def run(module: str, *arguments: str, cwd: Path, env: Mapping[str, str]) -> CompletedProcess[str]:
    """As ``subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True)``."""
    out, child_out = _CONTEXT.Pipe(duplex=False)
    err, child_err = _CONTEXT.Pipe(duplex=False)
    with out, err, ThreadPoolExecutor(1) as beside:
        with child_out, child_err:
            process = _CONTEXT.Process(target=_run, args=(module, arguments, cwd, dict(env), child_out, child_err))
            process.start()
        errors = beside.submit(_text, err)
        output = _text(out)
        process.join()
        assert process.exitcode is not None
        return CompletedProcess([module, *arguments], process.exitcode, output, errors.result())


def _text(stream: Connection) -> str:
    with open(stream.fileno(), encoding="utf-8", closefd=False) as file:
        return file.read()


def _run(
    module: str, arguments: tuple[str, ...], cwd: Path, env: dict[str, str], out: Connection, err: Connection
) -> None:
    with out, err:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:0] = [str(cwd), *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)

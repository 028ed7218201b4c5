"""A fresh process in a checkout, which profiles rows there."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from lenet import documents
from lenet.files import read_regular
from lenet.gate.trees import Tree
from lenet.gate.why.comparison import on_gpu
from lenet.gate.why.records import Record, parse
from lenet.provenance import without_git_variables
from lenet.results import Case
from lenet.vocabulary import Mode

__all__ = ["Environment", "profile"]

Environment = Callable[[Tree, Path], dict[str, str]]
"""The variables by which a process in a checkout finds its source, and what lies in a folder of plugins."""

_PROBE: Final = Path(__file__).with_name("probe")
_PACKAGE: Final = "lenet_gate_why"
_LARGEST: Final = 64 << 20
_TAIL: Final = 200
_CUPTI: Final = re.compile(r"CUPTI_ERROR_[A-Z_]{1,60}")


def profile(
    tree: Tree, rows: Mapping[str, Case], folder: Path, environment: Environment, timeout: float
) -> dict[str, Record]:
    """Profile rows in a checkout. A row that cannot be profiled has a record that says why.

    Args:
        tree: The checkout.
        rows: The rows' cases by name.
        folder: An empty directory for the process's files.
        environment: Makes the process's variables.
        timeout: Seconds that the process may take. It is then killed, with all that it started.

    Raises:
        OSError: The folder cannot be written, or the process cannot be started.
    """
    shutil.copytree(_PROBE, folder / "plugins" / _PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    request, records, log = folder / "request.json", folder / "records.jsonl", folder / "log"
    request.write_text(documents.to_json([_request(name, case) for name, case in rows.items()]), encoding="utf-8")
    command = [tree.python, "-P", "-m", _PACKAGE, str(request), str(records)]
    variables = {**without_git_variables(), **environment(tree, folder / "plugins")}
    ended = _run(command, tree.path, variables, log, timeout)
    found = _read(records, rows)
    said = log.read_text(errors="replace")
    if cupti := sorted(set(_CUPTI.findall(said))):
        found = {name: _with_reason(record, ", ".join(cupti)) for name, record in found.items()}
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "")
    for name in rows:
        why = f"{ended} before it was done" + (f": {last[-_TAIL:]}" if last else "")
        found.setdefault(name, Record(name, why))
    return found


def _request(name: str, case: Case) -> dict[str, object]:
    return {
        "name": name,
        "backend": case.backend,
        # A throughput row is profiled one batch at a time.
        "mode": Mode.FORWARD if case.host_memory is None else Mode.END_TO_END,
        "asked": case.asked,
        "batch_size": case.batch_size,
        "device": "cuda" if on_gpu(case) else "cpu",
        "host_memory": case.host_memory,
        "input": case.input,
        "cold_cache": case.cold_cache,
        "threads": case.threads,
    }


def _run(command: list[str], cwd: Path, variables: Mapping[str, str], log: Path, timeout: float) -> str:
    """Run the process to its end; say in words how it ended."""
    with log.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603
            command,
            cwd=cwd,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        return f"the process was stopped after {timeout:.0f} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return f"the process was killed by {_signal(-code)}" if code < 0 else f"the process ended with exit code {code}"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _read(path: Path, rows: Mapping[str, Case]) -> dict[str, Record]:
    """The records that the process wrote whole."""
    if not path.exists():
        return {}
    found: dict[str, Record] = {}
    lines = read_regular(path, _LARGEST).decode(errors="replace").split("\n")[:-1]
    for name, line in zip(rows, lines, strict=False):
        try:
            found[name] = parse(line)
        except ValueError as error:
            found[name] = Record(name, f"its record cannot be read: {error}")
    return found


def _with_reason(record: Record, reason: str) -> Record:
    """A record that says what CUPTI, which PyTorch profiles a GPU by, wrote to the log."""
    hint = "the driver lets administrators alone profile: see https://developer.nvidia.com/ERR_NVGPUCTRPERM"
    told = f"CUPTI: {reason}" + (f"; {hint}" if "PRIVILEGES" in reason else "")
    return replace(record, missing=(*record.missing, told))

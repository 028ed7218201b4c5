"""What listing, showing and collecting import: no runtime, and nothing that takes a tenth of a second."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lenet.vocabulary import Mode
from tests.report import documents

pytestmark = pytest.mark.programs

ROOT = Path(__file__).parents[1]
HEAVY = (
    *("torch", "torchvision", "numpy", "scipy", "matplotlib", "pandas", "sympy", "PIL", "triton", "hypothesis"),
    *("jax", "jaxlib", "onnx", "onnxruntime", "openvino", "nvtripy", "tensorrt", "tensorrt_rtx"),
    "torch_tensorrt",
)
PROGRAM = f"""
import json, sys, time

def note(what):
    loaded = {{name.partition(".")[0] for name in sys.modules}}
    print(json.dumps([what, sorted(loaded.intersection({HEAVY!r}))]), file=sys.stderr)

import lenet
note("import lenet")
from lenet.cli import main
for command in json.loads(sys.argv[1]):
    main(command, standalone_mode=False)
    note(" ".join(command))
from lenet.measurement.identity import ThisMachine
ThisMachine().made({{}})
note("this machine")
import pytest
code = pytest.main(["benchmarks", "--collect-only", "-q", "-p", "no:cacheprovider"])
note(f"collecting the benchmarks: exit code {{int(code)}}")
"""


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """By what one process did in turn, the heavy packages that it had imported by then."""
    folder = tmp_path_factory.mktemp("imports")
    saved = str(documents.measurement(folder / "1.json", modes=(Mode.FORWARD, Mode.THROUGHPUT)))
    page = str(folder / "report.html")
    results = [["results", saved, *form] for form in ((), ("--details",), ("--markdown",), ("--csv",))]
    commands = [["--help"], ["backends"], ["gate", "--help"], *results, ["report", saved, "--out", page]]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(commands)],
        cwd=ROOT,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    found = dict(json.loads(line) for line in done.stderr.splitlines() if line.startswith("["))
    assert len(found) == len(commands) + 3, "something was not done"
    return found


def test_what_lists_shows_and_collects_imports_nothing_heavy(imported: dict[str, list[str]]) -> None:
    assert {what: heavy for what, heavy in imported.items() if heavy} == {}
    assert "collecting the benchmarks: exit code 0" in imported

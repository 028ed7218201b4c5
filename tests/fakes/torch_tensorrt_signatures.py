"""The parameters that Torch-TensorRT's own functions have, read from the Python code of its wheel without importing it.

To record a release::

    pip download --no-deps torch-tensorrt==2.14.0
    python -m tests.fakes.torch_tensorrt_signatures torch_tensorrt-2.14.0-*.whl
"""

from __future__ import annotations

import ast
import re
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Final

from lenet.documents import parse, to_json

__all__ = ["RECORDED", "signatures_in"]

_FILE: Final = Path(__file__).with_suffix(".json")

RECORDED: Final[dict[str, str]] = parse(_FILE.read_text())
"""What `signatures_in` says of a wheel; ``version`` is its release."""

_FUNCTIONS: Final = {
    "convert_exported_program_to_serialized_trt_engine": "dynamo/_compiler.py",
    "CompilationSettings": "dynamo/_settings.py",
    "TorchTensorRTModule": "dynamo/runtime/_TorchTensorRTModule.py",
    "TorchTensorRTModule.setup_engine": "dynamo/runtime/_TorchTensorRTModule.py",
    "TorchTensorRTModule.forward": "dynamo/runtime/_TorchTensorRTModule.py",
    "RuntimeSettings": "runtime/_runtime_config.py",
    "Input": "_Input.py",
    "Device": "_Device.py",
}
"""Functions and classes, each with its file. Of a dataclass, the fields are the parameters."""


def signatures_in(folder: Path) -> dict[str, str]:
    """The parameters of each function or class, as Python would write them; a default is ``...``.

    Args:
        folder: Has ``torch_tensorrt``.
    """
    package = folder / "torch_tensorrt"
    version = re.search(r'^__version__ = "(.+)"', (package / "_version.py").read_text(), re.MULTILINE)
    assert version is not None
    found = {"version": version[1]}
    for name, file in _FUNCTIONS.items():
        outer, _, inner = name.partition(".")
        (node,) = [one for one in ast.parse((package / file).read_text()).body if getattr(one, "name", "") == outer]
        found[name] = _parameters(node, inner or "__init__")
    return found


def _parameters(node: Any, method: str) -> str:
    if isinstance(node, ast.FunctionDef):
        return _written(node.args)
    for one in node.body:
        if isinstance(one, ast.FunctionDef) and one.name == method:
            del one.args.args[0]  # itself
            return _written(one.args)
    fields = [one for one in node.body if isinstance(one, ast.AnnAssign)]
    return ", ".join(f"{ast.unparse(one.target)}=..." for one in fields)


def _written(arguments: ast.arguments) -> str:
    for one in ast.walk(arguments):
        if isinstance(one, ast.arg):
            one.annotation = None
    arguments.defaults = [ast.Constant(...) for _ in arguments.defaults]
    arguments.kw_defaults = [one and ast.Constant(...) for one in arguments.kw_defaults]
    return ast.unparse(arguments)


def _record(wheel: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(wheel).extractall(folder)
        lines = (f" {to_json(name)}: {to_json(value)}" for name, value in signatures_in(Path(folder)).items())
        _FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    _record(sys.argv[1])

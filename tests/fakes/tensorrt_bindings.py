"""The names that TensorRT's own Python bindings have, read from NVIDIA's wheels of them.

The wheels ``tensorrt-cu13-bindings`` are on PyPI. TensorRT's libraries are not; here, empty ones stand in for them, so
that the bindings can be imported and asked for their names. They can do nothing else. To record a version::

    pip download --no-deps tensorrt-cu13-bindings==11.4.0.106
    python -m tests.fakes.tensorrt_bindings tensorrt_cu13_bindings-11.4.0.106-*.whl
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Final

from lenet.documents import parse, to_json

__all__ = ["RECORDED", "names_in"]

_FILE: Final = Path(__file__).with_suffix(".json")

RECORDED: Final[dict[str, Any]] = parse(_FILE.read_text())
"""By version, what `names_in` says of a wheel."""

_EXPORTS: Final = {
    "nvinfer": (
        "createInferBuilder_INTERNAL",
        "createInferRefitter_INTERNAL",
        "createInferRuntime_INTERNAL",
        "getBuilderPluginRegistry",
        "getPluginRegistry",
    ),
    "nvinfer_plugin": ("initLibNvInferPlugins",),
    "nvonnxparser": (
        "createNvOnnxParserRefitter_INTERNAL",
        "createNvOnnxParser_INTERNAL",
        "getNvOnnxParserVersion",
    ),
}
"""The libraries that the bindings load, and what they take from them."""

_ASK: Final = """
import json
import tensorrt_bindings as trt
classes = ("Builder", "IBuilderConfig", "ICudaEngine", "IExecutionContext", "ILogger", "IOptimizationProfile",
           "OnnxParser", "ParserError", "Runtime")
enums = ("BuilderFlag", "NetworkDefinitionCreationFlag", "ProfilingVerbosity")
found = {name: {key: int(value) for key, value in getattr(trt, name).__members__.items()} for name in enums}
found |= {name: [each for each in dir(getattr(trt, name)) if each[0] != "_"] for name in classes}
try:
    trt.Builder(trt.Logger())
except TypeError as error:
    found["error of a constructor"] = str(error)
print(json.dumps({trt.__version__: found}))
"""


def names_in(folder: Path) -> dict[str, Any]:
    """What bindings have, by their version: members of the classes that are used, and values of the enumerations.

    Args:
        folder: Has ``tensorrt_bindings``.
    """
    shared = next((folder / "tensorrt_bindings").glob("tensorrt*.so"))
    with tempfile.TemporaryDirectory() as libraries:
        for soname in set(re.findall(rb"lib(?:nv\w+)\.so\.\d+", shared.read_bytes())):
            name = soname.decode()
            functions = _EXPORTS[name[3:].partition(".")[0]]
            source = Path(libraries, f"{name}.c")
            source.write_text("".join(f"void *{function}(void) {{ return 0; }}\n" for function in functions))
            target = str(Path(libraries, name))
            subprocess.run(["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", target, str(source)], check=True)
        environment = os.environ | {"LD_LIBRARY_PATH": libraries, "PYTHONPATH": str(folder)}
        done = subprocess.run(
            [sys.executable, "-c", _ASK], env=environment, stdout=subprocess.PIPE, check=True, text=True
        )
    names: dict[str, Any] = parse(done.stdout)
    return names


def _record(wheels: list[str]) -> None:
    recorded = dict(RECORDED)
    for wheel in wheels:
        with tempfile.TemporaryDirectory() as folder:
            zipfile.ZipFile(wheel).extractall(folder)
            recorded |= names_in(Path(folder))
    lines = (
        f" {to_json(version)}: {{\n"
        + ",\n".join(f"  {to_json(name)}: {to_json(value)}" for name, value in sorted(names.items()))
        + "\n }"
        for version, names in sorted(recorded.items())
    )
    _FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    _record(sys.argv[1:])

"""The suite's command-line options, and which cases they ask for."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from lenet import backends, settings
from lenet.errors import LenetError, did_you_mean
from lenet.files import typed_path
from lenet.measurement.environment import usable_cpus
from lenet.measurement.protocol import DEFAULT_DEPTH, Adaptive, Coursework, Protocol
from lenet.vocabulary import ONE_BATCH_MODES, HostMemory, InputType, Mode, Precision

if TYPE_CHECKING:
    import torch

__all__ = [
    "CHOICES",
    "add_options",
    "check_depth",
    "check_device",
    "check_options",
    "chosen",
    "only_lists",
    "path_of",
    "protocol_of",
    "use_settings",
]

CHOICES: Final[Mapping[str, tuple[str, tuple[Any, ...]]]] = {
    "backend_name": ("--backend", backends.names()),
    "mode": ("--mode", ONE_BATCH_MODES),
    "batch_size": ("--batch-size", (1000,)),
    "precision": ("--precision", (Precision.FP32,)),
    "host_memory": ("--host-memory", (HostMemory.PINNED,)),
    "input_type": ("--input", (InputType.FLOAT32,)),
    "threads": ("--threads", ()),
}
"""By the fixture of a case: the option for its values, and its default values. Without values it is no parameter."""

_PATHS: Final = ("--benchmark-compare", "--benchmark-histogram", "--benchmark-storage")
"""pytest-benchmark's options for a path. It takes an empty one for none, or for the current directory."""

_ROUNDS: Final = 100
_TIME_LIMIT: Final = 10.0
"""Seconds."""


def add_options(parser: pytest.Parser) -> None:
    """Add the suite's options to pytest's."""
    group = parser.getgroup("lenet", "LeNet")

    def several(name: str, kind: Callable[[str], Any], text: str) -> None:
        group.addoption(name, action="append", type=kind, help=f"{text}; repeatable")

    text = "measure this backend, and no case without a backend unless its file is named (default: all of both)"
    several("--backend", _choice("backend", backends.names()), text)
    several("--mode", _choice("mode", Mode), "forward, end_to_end or throughput (default: the first two)")
    several("--batch-size", _positive, "images a batch (default: 1000)")
    several(
        "--precision", _choice("precision", Precision), "fp32, tf32, fp16, bf16, fp16x2, int8 or fp8 (default: fp32)"
    )
    several(
        "--host-memory",
        _choice("memory", HostMemory),
        "where the batch of end_to_end and throughput lies: pinned or pageable memory that is copied from, or "
        "zero-copy, which is pinned memory that the device reads itself (default: pinned)",
    )
    text = "float32 for normalised images, or uint8 for bytes (default: float32)"
    several("--input", _choice("input type", InputType), text)
    several("--threads", _threads, "CPU threads of a CPU's cases, at most its CPUs (default: PyTorch's own choice)")
    group.addoption("--energy", action="store_true", help="measure each row's energy after its rounds, in about 2 s")
    group.addoption(
        "--depth",
        type=_positive,
        help=f"batches in flight in throughput: slots of the ring on a GPU (default: {DEFAULT_DEPTH}), runners side by "
        "side on a CPU (default: the fastest number of several)",
    )
    group.addoption("--no-save", action="store_true", help="do not save the run below .benchmarks/local")
    group.addoption(
        "--weights",
        type=path_of("--weights"),
        metavar="FILE",
        help="safetensors of `lenet train` to measure (default: the shipped)",
    )
    group.addoption("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    group.addoption("--cold-cache", action="store_true", help="empty the GPU's L2 cache before each forward pass")
    group.addoption(
        "--protocol",
        type=_choice("protocol", ("coursework", "adaptive")),
        default="coursework",
        help="coursework: 5 warm-ups, 100 rounds; adaptive: until the median is known to 1 %% (default: coursework)",
    )
    group.addoption("--rounds", type=_positive, help=f"rounds of the coursework's protocol (default: {_ROUNDS})")
    group.addoption("--warmups", type=_whole, default=5, help="batches before the first round (default: 5)")
    group.addoption("--time-limit", type=_seconds, help=f"seconds a row may take, adaptive (default: {_TIME_LIMIT:g})")


def check_options(option: argparse.Namespace) -> None:
    """Refuse empty paths, and options that contradict each other.

    Raises:
        pytest.UsageError: There is such an option.
    """
    for name in _PATHS:
        if vars(option).get(name.removeprefix("--").replace("-", "_")) in ("", [""]):
            path_of(name)("")
    if option.benchmark_compare_fail and not option.benchmark_compare:
        raise pytest.UsageError("--benchmark-compare-fail wants --benchmark-compare: nothing is compared without it")
    adaptive = option.protocol == "adaptive"
    if option.rounds if adaptive else option.time_limit:
        own, other = ("--rounds", "coursework") if adaptive else ("--time-limit", "adaptive")
        raise pytest.UsageError(f"{own} is for --protocol={other}: --protocol={option.protocol} does not use it")


def only_lists(option: argparse.Namespace) -> bool:
    """Whether the run lists its cases, and no option needs the machine. It then imports no PyTorch."""
    saves = option.benchmark_save or option.benchmark_autosave or option.benchmark_json or option.benchmark_compare
    chooses = option.device != "auto" or option.threads or option.depth or option.weights
    return bool(option.collectonly and not saves and not chooses)


def check_device(option: argparse.Namespace, device: torch.device) -> None:
    """Refuse options that the device to measure does not use.

    Raises:
        pytest.UsageError: There is such an option.
    """
    if option.threads and device.type != "cpu":
        raise pytest.UsageError(
            f"--threads is for a CPU's rows: --device={option.device} measures a GPU, whose rows do not depend on it; "
            "add --device=cpu"
        )


def check_depth(config: pytest.Config, device: torch.device) -> None:
    """Refuse ``--depth`` if no row uses it, or if it is too deep for a row.

    Raises:
        pytest.UsageError: It is refused.
    """
    from lenet.backends.buffer_cache import MOST_BUFFERS

    depth = config.getoption("--depth")
    if depth is None:
        return
    if Mode.THROUGHPUT not in chosen(config, "mode"):
        raise pytest.UsageError(f"--depth={depth} is for throughput: add --mode=throughput")
    if device.type == "cpu":
        _check_depth_on_a_cpu(depth, chosen(config, "threads"))
    elif depth > MOST_BUFFERS:
        raise pytest.UsageError(
            f"--depth={depth} is too deep: a runner prepares itself for {MOST_BUFFERS} buffers at most, so choose "
            f"--depth={MOST_BUFFERS} or less"
        )


def _check_depth_on_a_cpu(depth: int, threads: list[int]) -> None:
    """Refuse more runners side by side than a row has threads, those of ``--threads`` or else PyTorch's own."""
    import torch

    cores = min(threads, default=torch.get_num_threads())
    if depth > cores:
        owner = f"--threads={cores} gives a row" if threads else "torch uses"
        raise pytest.UsageError(
            f"--depth={depth} is too deep: each runner wants a core, and {owner} {cores}: choose --depth={cores}"
            f"{' or less' if cores > 1 else ''}, or more threads by --threads"
        )


def use_settings(config: pytest.Config) -> None:
    """Take the values of options that were not typed from ``[tool.lenet]`` in pyproject.toml, as if they were typed.

    Raises:
        SettingsError: The table has an unknown key or value.
    """
    for option, values in settings.read(config.invocation_params.dir).suite_values().items():
        if config.getoption(option) is None:
            setattr(config.option, option.removeprefix("--").replace("-", "_"), values)


def chosen(config: pytest.Config, fixture: str) -> list[Any]:
    """The values of a fixture of `CHOICES` that the options ask for, in the order of the options."""
    option, usual = CHOICES[fixture]
    return list(dict.fromkeys(config.getoption(option) or usual))


def protocol_of(config: pytest.Config) -> Protocol:
    """The protocol that the options ask for."""
    option = config.getoption
    if option("--protocol") == "adaptive":
        return Adaptive(warmups=option("--warmups"), time_limit=option("--time-limit") or _TIME_LIMIT)
    return Coursework(warmups=option("--warmups"), rounds=option("--rounds") or _ROUNDS)


def path_of(option: str) -> Callable[[str], Path]:
    """A converter for an option that takes a path."""

    def convert(text: str) -> Path:
        try:
            return typed_path(text, option)
        except LenetError as error:
            raise pytest.UsageError(str(error)) from error

    return convert


def _choice(what: str, choices: Iterable[str]) -> Callable[[str], str]:
    """A converter for an option with a choice of words. For any other word it names the nearest."""
    by_name = {str(choice): choice for choice in choices}

    def convert(text: str) -> str:
        if text not in by_name:
            hint = " ".join(filter(None, [did_you_mean(text, by_name), f"there are {', '.join(by_name)}"]))
            raise pytest.UsageError(f"there is no {what} {text!r}: {hint}")
        return by_name[text]

    return convert


def _whole(text: str, least: int = 0) -> int:
    """A converter for an option that takes a whole number. argparse puts the option's name before the message."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least {least}")
    return int(text)


_positive = partial(_whole, least=1)


def _threads(text: str) -> int:
    """A converter for a number of threads. More threads than CPUs would wait for each other."""
    count, most = _positive(text), usable_cpus() or 1
    if count > most:
        raise argparse.ArgumentTypeError(f"{count} threads do not fit the {most} CPUs of this process")
    return count


def _seconds(text: str) -> float:
    """A converter for an option that takes a time."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number of seconds")
    return found

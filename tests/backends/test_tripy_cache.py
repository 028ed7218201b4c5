"""What TriPy's backend keeps of its compilations, on the CPU stand-in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lenet.architecture import INPUT_SHAPE
from lenet.backends import tripy as backend_module
from lenet.backends.base import BatchRange, BuildSpec
from lenet.backends.tripy import cached_executable, compile_executable
from lenet.engine_cache import Cached, EngineCache, EngineCacheWarning
from lenet.errors import OutputError
from lenet.vocabulary import InputType, Precision
from tests.backends.test_tripy import ANY_BATCH, CPU, SPEC, arrays
from tests.standins.mlir_tensorrt_cpu.runner import StandinRunner, build


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_a_saved_executable_gives_the_same_logits(tmp_path: Path, precision: Precision) -> None:
    import nvtripy as tp

    built = build(arrays(), precision, ANY_BATCH)
    built._executable.save(str(tmp_path / "engine"))
    loaded = StandinRunner(tp.Executable.load(str(tmp_path / "engine")), built.spec, stream=None)
    batch = torch.randn(5, *INPUT_SHAPE)
    assert torch.equal(built.forward(batch), loaded.forward(batch))
    assert built.facts() == loaded.facts()


def test_the_timing_cache_is_the_gpus_own(monkeypatch: pytest.MonkeyPatch, cache_directory: Path) -> None:
    import nvtripy as tp

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA GeForce RTX 4060 Ti")
    compile_executable(arrays(), Precision.FP32, ANY_BATCH)
    path = Path(tp.config.timing_cache_file_path)
    assert path.parent == cache_directory
    assert cache_directory.stat().st_mode & 0o777 == 0o700
    assert path.name.startswith("NVIDIA-GeForce-RTX-4060-Ti-tensorrt-")


@pytest.mark.parametrize(
    "build",
    [lambda: cached_executable(arrays(), SPEC), lambda: compile_executable(arrays(), Precision.FP32, ANY_BATCH)],
    ids=["engine cache", "timing cache"],
)
def test_a_cache_directory_that_cannot_be_written_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, build: Callable[[], object]
) -> None:
    occupied = tmp_path / "a file"
    occupied.touch()
    monkeypatch.setenv("LENET_CACHE", str(occupied))
    with pytest.raises(OutputError, match="the engine cache cannot be written") as caught:
        build()
    assert str(occupied) in caught.value.found
    assert caught.value.hint == "set LENET_CACHE to another directory"


pytestmark = [pytest.mark.nvtripy_on_cpu, pytest.mark.usefixtures("cache_directory")]


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[Precision]:
    """The precision of each compilation, as they come."""
    done: list[Precision] = []

    def compile_and_note(
        weights: Mapping[str, np.ndarray], precision: Precision, batches: BatchRange, input_type: InputType
    ) -> object:
        done.append(precision)
        return compile_executable(weights, precision, batches, input_type)

    monkeypatch.setattr(backend_module, "compile_executable", compile_and_note)
    return done


def logits(cached: Cached[Any], spec: BuildSpec = SPEC) -> torch.Tensor:
    images = torch.randn(5, *INPUT_SHAPE, generator=torch.Generator().manual_seed(5))
    return StandinRunner(cached.value, spec, stream=None).forward(images).clone()


def test_the_second_build_loads_what_the_first_compiled(compilations: list[Precision]) -> None:
    first = cached_executable(arrays(), SPEC)
    second = cached_executable(arrays(), SPEC)
    assert compilations == [Precision.FP32]
    assert (first.from_cache, second.from_cache) == (False, True)
    assert first.sha256 == second.sha256
    assert first.value.serialized_tensorrt_engine == second.value.serialized_tensorrt_engine
    assert torch.equal(logits(first), logits(second))


def truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip_a_bit(content: bytes) -> bytes:
    return content[:-50] + bytes([content[-50] ^ 1]) + content[-49:]


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, lambda _: b""], ids=["truncated", "bit", "empty"])
def test_a_damaged_entry_is_compiled_anew_with_one_warning(
    compilations: list[Precision], cache_directory: Path, damage: Callable[[bytes], bytes]
) -> None:
    first = cached_executable(arrays(), SPEC)
    (entry_path,) = cache_directory.glob("*.engine")
    entry_path.write_bytes(damage(entry_path.read_bytes()))
    with pytest.warns(EngineCacheWarning, match="it is damaged") as caught:
        again = cached_executable(arrays(), SPEC)
    assert len(caught) == 1
    assert not again.from_cache
    assert torch.equal(logits(first), logits(again))
    assert cached_executable(arrays(), SPEC).from_cache
    assert len(compilations) == 2


@pytest.mark.parametrize("content", [b"no JSON", b"{}", b'{"arg_names": []}'])
def test_an_entry_that_nvtripy_refuses_is_compiled_anew_with_one_warning(
    compilations: list[Precision], cache_directory: Path, content: bytes
) -> None:
    EngineCache(cache_directory).write(backend_module._key(arrays(), SPEC), content)
    with pytest.warns(EngineCacheWarning, match="the library refuses it") as caught:
        assert not cached_executable(arrays(), SPEC).from_cache
    assert len(caught) == 1
    assert len(compilations) == 1


@pytest.mark.parametrize(
    "spec",
    [
        BuildSpec(CPU, Precision.FP16, ANY_BATCH),
        BuildSpec(CPU, Precision.FP32, BatchRange(1, 8, 65)),
        BuildSpec(CPU, Precision.FP32, BatchRange.exactly(8)),
    ],
    ids=["precision", "range", "static"],
)
def test_another_precision_or_range_is_compiled(compilations: list[Precision], spec: BuildSpec) -> None:
    cached_executable(arrays(), SPEC)
    assert not cached_executable(arrays(), spec).from_cache
    assert compilations == [Precision.FP32, spec.precision]
    assert cached_executable(arrays(), spec).from_cache


def test_other_weights_are_compiled(compilations: list[Precision]) -> None:
    first = cached_executable(arrays(), SPEC)
    zeroed = arrays() | {"fc3.bias": np.zeros(10, dtype=np.float32)}
    second = cached_executable(zeroed, SPEC)
    assert len(compilations) == 2
    assert not torch.equal(logits(first), logits(second))

"""The persistent kernel without a GPU: its source in the emulator, and its host with a thread in the kernel's place."""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch

from lenet import parity, weights
from lenet.data.augmentation import normalize
from lenet.errors import BackendError, UnavailableError
from lenet.kernels import SPLIT, pack
from lenet.vocabulary import InputType, Precision
from tests.experiments.scripts import load
from tests.kernels.emulation import library
from tests.kernels.test_kernels import MOST_REGISTERS, SHARED, compiled, emulated, log_of, pixels

persistent, latency = load("persistent"), load("latency")

DEVICE_HALF = """
static void host_turn(unsigned* words);
namespace serving { static unsigned* mailbox; static unsigned long long clock; }
inline void store_release(unsigned* word, unsigned value) { *word = value; }
inline unsigned load_acquire(const unsigned* word) { host_turn(serving::mailbox); return *word; }
inline void store_release_here(unsigned*, unsigned) {}
inline unsigned load_acquire_here(const unsigned*) { return 0; }
inline unsigned long long nanoseconds() { return ++serving::clock; }
struct Mbarrier;
inline void end(Mbarrier* mbarrier) { emulator::bulk_copies.erase(mbarrier); }
"""
"""What persistent.cu leaves to a GPU, in front of the source: the host acts whenever the kernel looks at a word."""


class Emulated(persistent.Told):  # type: ignore[misc,name-defined]
    @property
    def source(self) -> str:
        return DEVICE_HALF + str(persistent.Told.source.fget(self))


def serve(images: np.ndarray, *, stops: bool, bulk: bool) -> tuple[np.ndarray, int]:
    """The answers to a request for each image, and the kernel's looks at its clock."""
    serving = Emulated("fp16", 1, bytes_in=False, shared_bytes=SHARED["sm_90"], serve=True)
    parameters = pack(weights.load().arrays, serving)
    behind = (Path(__file__).parent / "serving.inc").read_text(encoding="utf-8")
    logits = np.full((len(images), 10), np.nan, np.float32)
    call = library(serving, bulk=bulk, behind=behind).serve
    call.restype = ctypes.c_ulonglong
    looks = call(
        ctypes.c_void_p(images.ctypes.data),
        ctypes.c_size_t(images[0].nbytes),
        ctypes.c_uint(len(images)),
        ctypes.c_bool(stops),
        ctypes.c_void_p(parameters.ctypes.data),
        ctypes.c_size_t(parameters.nbytes),
        ctypes.c_void_p(logits.ctypes.data),
    )
    return logits, looks


@pytest.mark.programs
@emulated
@pytest.mark.parametrize("bulk", [False, True], ids=["copies", "bulk"])
def test_the_kernel_answers_each_request_until_it_is_stopped_or_forgotten(bulk: bool) -> None:
    arrays, images = weights.load().arrays, normalize(pixels(3))
    found, looks = serve(images.numpy(), stops=True, bulk=bulk)
    allowed = parity.tolerance(arrays, images, "fp16")
    compared = parity.compare(torch.from_numpy(found), parity.reference(arrays, images), allowed)
    assert compared.right, compared
    _, looks_in_vain = serve(images.numpy(), stops=False, bulk=bulk)
    assert looks < 50
    assert 1000 < looks_in_vain < 1050  # its patience is 1,000 looks


@pytest.mark.programs
@compiled
@pytest.mark.parametrize(("precision", "blocks", "architecture"), [("fp32", SPLIT, "sm_89"), ("fp16", 1, "sm_90")])
def test_it_compiles_into_few_registers_and_spills_none(precision: str, blocks: int, architecture: str) -> None:
    log = log_of(persistent.Told(precision, 1, True, SHARED[architecture], blocks, serve=True), architecture)  # noqa: FBT003
    assert re.findall(r"(\d+) bytes spill stores", log) == ["0"], log
    (registers,) = re.findall(r"Used (\d+) registers", log)
    assert int(registers) <= MOST_REGISTERS[precision]


class Kernel:
    """What persistent.cu does, by a thread.

    Args:
        memory: The mailbox.
        logits: Its answers, one after the other.
    """

    def __init__(self, memory: torch.Tensor, logits: np.ndarray) -> None:
        self._words, self._floats = memory.numpy().view(np.uint32), memory.numpy()
        self._logits = logits
        self._thread = Thread(target=self._run, daemon=True)

    def launch(self) -> None:
        self._thread.start()

    def ended(self) -> bool:
        return not self._thread.is_alive()

    def _run(self) -> None:
        answered = 0
        while self._words[persistent.REQUEST] != persistent.STOP:
            if answered < len(self._logits) and self._words[persistent.REQUEST] == answered + 1:
                self._floats[:10] = self._logits[answered]
                answered += 1
                self._words[persistent.RESPONSE] = answered
            time.sleep(0)


@pytest.fixture
def memory() -> torch.Tensor:
    return torch.zeros(persistent.WORDS)


def server(memory: torch.Tensor, kernel: Kernel, *, flag: bool = True) -> persistent.Server:  # type: ignore[name-defined]
    return persistent.Server(persistent.Mailbox(memory), kernel.launch, kernel.ended, patience=4, flag=flag)


@pytest.mark.parametrize("flag", [True, False])
def test_a_kernel_is_asked_and_ended(memory: torch.Tensor, flag: bool) -> None:
    logits = np.arange(30, dtype=np.float32).reshape(3, 10)
    kernel, found = Kernel(memory, logits), []
    with server(memory, kernel, flag=flag) as serving:
        for _ in logits:
            serving.ask()
            found.append(memory[:10].tolist())
        assert not kernel.ended()
    assert found == logits.tolist()
    assert kernel.ended()


def silent(memory: torch.Tensor, ended: Callable[[], bool], **flag: bool) -> persistent.Server:  # type: ignore[name-defined]
    return persistent.Server(persistent.Mailbox(memory), lambda: None, ended, patience=0.01, **flag)


@pytest.mark.parametrize("flag", [True, False])
def test_a_kernel_that_does_not_answer_is_told_and_ended(memory: torch.Tensor, flag: bool) -> None:
    request = memory.numpy().view(np.uint32)[persistent.REQUEST :]
    with (
        pytest.raises(BackendError, match=r"no answer in 0.01 s; the kernel runs"),
        silent(memory, lambda: bool(request[0] == persistent.STOP), flag=flag) as serving,
    ):
        serving.ask()


def test_a_kernel_that_has_ended_is_told(memory: torch.Tensor) -> None:
    with silent(memory, lambda: True) as serving, pytest.raises(BackendError, match="the kernel has ended"):
        serving.ask()


def test_a_kernel_that_does_not_end_is_told(memory: torch.Tensor) -> None:
    with (
        pytest.raises(BackendError, match=r"does not end\s+found:  it runs 0.02 s after"),
        silent(memory, lambda: False),
    ):
        pass


def test_memory_that_is_not_pinned_is_refused(memory: torch.Tensor) -> None:
    with pytest.raises(BackendError, match=r"float32 \(48,\) on cpu, not pinned"):
        persistent.pinned(memory)


def test_a_machine_that_cannot_run_the_kernel_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = OnACpu(0)
    with pytest.raises(UnavailableError, match="fused cannot run on cpu here"):
        latency.Bench.ways(bench)
    monkeypatch.setattr(latency, "shared_memory", lambda _: SHARED["sm_75"])
    with pytest.raises(BackendError, match=r"one image in fp32 does not fit this GPU\s+found:  65,536 bytes"):
        bench.kernel()


class OnACpu(latency.Bench):  # type: ignore[misc,name-defined]
    """A bench whose one way and floor are a fake kernel that gives these logits."""

    def __init__(self, wrong: float) -> None:
        self.precision, self.kind, self.device = Precision.FP32, InputType.FLOAT32, torch.device("cpu")
        self.arrays, self.stack = weights.load().arrays, ExitStack()
        self.images = normalize(pixels(latency.IMAGES)).numpy()
        self.image = np.empty_like(self.images[0])
        self.wanted = np.random.default_rng(0).normal(size=(latency.IMAGES, 10))
        self.allowed = np.full_like(self.wanted, 1e-3)
        self.given = (self.wanted + wrong).astype(np.float32)

    @contextmanager
    def way(self) -> Iterator[tuple[object, np.ndarray]]:
        memory = torch.zeros(persistent.WORDS)
        order = np.concatenate([self.given[:1], self.given[:10]])  # one round of warm-up
        with server(memory, Kernel(memory, order)) as serving:
            yield serving.ask, memory.numpy()[:10]

    def ways(self) -> dict[str, object]:
        return {"a way": self.way}


@pytest.mark.parametrize("wrong", [0.0, 0.01])
def test_logits_that_are_wrong_are_told(wrong: float, capsys: pytest.CaptureFixture[str]) -> None:
    assert latency.compare(OnACpu(wrong), rounds=10) is (wrong == 0)
    *_, line = capsys.readouterr().out.splitlines()
    name, *times, share = line.strip("| ").split(" | ")
    least, middle, most = sorted(map(float, times))
    assert (name, times) == ("a way", [f"{middle:.2f}", f"{most:.2f}", f"{least:.2f}"])
    assert share == ("10.00" if wrong else "0.00")


def test_a_way_that_fails_is_named_and_the_others_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def broken() -> Iterator[tuple[object, np.ndarray]]:
        with silent(torch.zeros(persistent.WORDS), lambda: True) as serving:
            yield serving.ask, np.zeros(10)

    bench, failures = OnACpu(0), load("common").failures
    monkeypatch.setattr(bench, "ways", lambda: {"broken": broken, "a way": bench.way})
    assert latency.compare(bench, rounds=10)
    assert failures.pop() == "broken"
    printed = capsys.readouterr().out
    assert "**broken failed:** BackendError: ['the kernel does not answer']" in printed
    assert [line.split(" | ")[0] for line in printed.splitlines() if line.startswith("| ")] == ["| way", "| a way"]

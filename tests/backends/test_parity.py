"""Every backend that this machine can run, against the float64 reference: one body of tests for all of them.

It runs once with normalised float32 images and once with bytes. A backend gets here by its line in the table. TriPy's
own front end also runs on a CPU stand-in for its compiled half, which says nothing of TensorRT.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lenet import backends, devices, parity, weights
from lenet.architecture import INPUT_SHAPE
from lenet.backends.base import BatchRange, BuildSpec, Runner
from lenet.comparison import compare_backends
from lenet.data.augmentation import normalize
from lenet.data.cifar10 import Split
from lenet.errors import BackendError, LenetError
from lenet.quantization import FORMATS
from lenet.vocabulary import InputType, Precision
from tests.programs import COMPILED

BATCHES = BatchRange(1, 16, 64)
STANDIN = "tripy on a CPU stand-in"
LATER = {("pytorch-aot", "cpu", InputType.UINT8)}
"""What takes too long to compile here, on a CPU; `nox -s evaluate` compares it on all 10,000 images."""
COMPILES_EACH_SIZE = {"lenet.backends.jax_xla"}
FEW_SIZES = (1, 2, 3, 16, 33, 64)
"""What is drawn for the backends that compile for each batch size."""
EXTREMES = [-1.0, 0.0, 1e-30, 1e-3, 1.0, 2.75, 100.0]

pytestmark = [
    pytest.mark.filterwarnings("ignore::Warning:torch", "ignore::DeprecationWarning"),
]


def subjects() -> list[object]:
    """Backend, device, precision and input type: all that the table and this machine allow.

    `tests/backends/test_quantized.py` has the quantised precisions.
    """
    here = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    found: list[object] = [
        pytest.param(
            (name, device, precision, input_type),
            id=f"{name}-{device}-{precision}-{input_type}",
            marks=[pytest.mark.programs] if name in COMPILED else [],
        )
        for name in backends.names()
        for device in here
        if device in backends.load(name).devices or here == ["cpu"]
        for precision in Precision
        if precision not in FORMATS and (device == "cuda" or precision is Precision.FP32)
        for input_type in InputType
        if (name, device, input_type) not in LATER
    ]
    marks = pytest.mark.nvtripy_on_cpu
    found += [
        pytest.param((STANDIN, "cpu", precision, input_type), id=f"tripy-standin-{precision}-{input_type}", marks=marks)
        for precision in (Precision.FP32, Precision.FP16)
        for input_type in InputType
    ]
    return found


@cache
def built(name: str, device: str, precision: Precision, input_type: InputType) -> tuple[Runner, str] | str:
    """The runner and the precision that it executes, or why there is none."""
    arrays = weights.load().arrays
    if name == STANDIN:
        from tests.standins.mlir_tensorrt_cpu.runner import build

        return build(arrays, precision, BATCHES, input_type), precision
    backend = backends.load(name)
    target = devices.resolve(device)
    availability = backend.probe(target)
    if not availability:
        return availability.reason or "unavailable"
    try:
        executed = backend.executed_precision(precision, target)
    except BackendError as error:
        return error.summary
    return backend.build(arrays, BuildSpec(target, precision, BATCHES, input_type)), executed


@pytest.fixture(params=subjects())
def subject(request: pytest.FixtureRequest) -> tuple[Runner, str]:
    found = built(*request.param)
    if isinstance(found, str):
        pytest.skip(found)
    return found


@pytest.fixture
def runner(subject: tuple[Runner, str]) -> Runner:
    return subject[0]


def draw(runner: Runner, seed: int, *sizes: int) -> torch.Tensor:
    """Images of noise, of the runner's input type: (*sizes, 3, 32, 32) on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    if runner.spec.input is InputType.UINT8:
        return torch.randint(0, 256, (*sizes, *INPUT_SHAPE), dtype=torch.uint8, generator=generator)
    return torch.randn(*sizes, *INPUT_SHAPE, generator=generator)


def fitted(runner: Runner, size: int) -> int:
    """A batch size that was drawn, or one of few that is near to it."""
    if type(runner).__module__ not in COMPILES_EACH_SIZE:
        return size
    return min(FEW_SIZES, key=lambda few: abs(few - size))


def forward(runner: Runner, images: torch.Tensor) -> torch.Tensor:
    """Logits on the CPU of images on the CPU."""
    with runner.on_stream():
        on_device = images.to(runner.spec.device)
    logits = runner.forward(on_device)
    runner.synchronize()
    return logits.cpu().clone()


def is_right(runner: Runner, executed: str, images: torch.Tensor) -> None:
    arrays = weights.load().arrays
    compared = parity.compare(
        forward(runner, images), parity.reference(arrays, images), parity.tolerance(arrays, images, executed)
    )
    assert compared.right, compared


any_images = settings(max_examples=12, suppress_health_check=list(HealthCheck))


@any_images
@given(
    size=st.integers(BATCHES.minimum, BATCHES.maximum),
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(["uint8", "flat", "extreme"]),
    level=st.sampled_from(EXTREMES),
)
def test_logits_are_the_reference_s(subject: tuple[Runner, str], size: int, seed: int, kind: str, level: float) -> None:
    """Over the whole profile, on images of noise, of one grey, and of values that no image has."""
    size = fitted(subject[0], size)
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (size, *INPUT_SHAPE), dtype=torch.uint8, generator=generator)
    if subject[0].spec.input is InputType.UINT8:
        if kind == "flat":
            pixels[:] = pixels[0, 0, 0, 0]
        elif kind == "extreme":
            pixels = pixels // 128 * 255
        is_right(*subject, pixels)
        return
    if kind == "uint8":
        images = normalize(pixels)
    elif kind == "flat":
        images = torch.full((size, *INPUT_SHAPE), level)
    else:
        images = torch.randn(size, *INPUT_SHAPE, generator=generator).sign() * level
    is_right(*subject, images)


@any_images
@given(size=st.integers(2, BATCHES.maximum), seed=st.integers(0, 2**32))
def test_a_batch_is_its_images_one_by_one(subject: tuple[Runner, str], size: int, seed: int) -> None:
    runner, executed = subject
    images = draw(runner, seed, fitted(runner, size))
    together = forward(runner, images)
    single = torch.cat([forward(runner, image[None]) for image in images[:4]])
    # Each is within the tolerance of the reference, so they are within twice that of one another.
    allowed = 2 * parity.tolerance(weights.load().arrays, images[:4], executed)
    assert ((together[:4] - single).abs() <= allowed).all()


@any_images
@given(size=st.integers(2, BATCHES.maximum), seed=st.integers(0, 2**32))
def test_permuting_images_permutes_logits(subject: tuple[Runner, str], size: int, seed: int) -> None:
    runner, executed = subject
    images = draw(runner, seed, fitted(runner, size))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    allowed = 2 * parity.tolerance(weights.load().arrays, images[order], executed)
    assert ((forward(runner, images[order]) - forward(runner, images)[order]).abs() <= allowed).all()


def test_a_buffer_that_is_refilled_gives_new_logits(subject: tuple[Runner, str]) -> None:
    """Graphs, bindings and views hold on to an address: what lies there must be read at each call."""
    runner, executed = subject
    first, second = draw(runner, 0, 2, 8)
    arrays = weights.load().arrays
    with runner.on_stream():
        buffer = first.to(runner.spec.device).clone()
    for images in (first, second, first):
        with runner.on_stream():
            buffer.copy_(images)
        logits = runner.forward(buffer)
        runner.synchronize()
        allowed = parity.tolerance(arrays, images, executed)
        assert parity.compare(logits, parity.reference(arrays, images), allowed).right


def test_the_bare_call_computes_what_forward_does(subject: tuple[Runner, str]) -> None:
    """Else a benchmark of what `forward` adds would compare it with some other work."""
    runner, executed = subject
    first, second = draw(runner, 2, 2, 8)
    with runner.on_stream():
        buffer = first.to(runner.spec.device).clone()
    bare = runner.bare(buffer)
    assert bare is not None
    kept = runner.forward(buffer)
    with torch.inference_mode(), runner.on_stream():
        buffer.copy_(second)
        result = bare()
    runner.synchronize()
    # It returns the logits, in the framework's own tensor, or else writes them where the last pass wrote them.
    if not isinstance(result, torch.Tensor):
        result = torch.from_dlpack(result.__dlpack__()) if hasattr(result, "__dlpack__") else kept  # type: ignore[attr-defined]
    arrays = weights.load().arrays
    allowed = parity.tolerance(arrays, second, executed)
    assert parity.compare(result, parity.reference(arrays, second), allowed).right


def test_the_bare_call_of_images_that_do_not_fit_is_refused(runner: Runner) -> None:
    with pytest.raises(BackendError, match="the images do not fit this runner"):
        runner.bare(torch.zeros(0, *INPUT_SHAPE, dtype=runner.spec.image_dtype, device=runner.spec.device))


def test_many_buffers_are_not_confused(subject: tuple[Runner, str]) -> None:
    """More buffers than any cache of graphs, bindings or views holds, each used twice."""
    runner, executed = subject
    images = draw(runner, 1, 20, 2)
    with runner.on_stream():
        buffers = [batch.to(runner.spec.device).clone() for batch in images]
    wanted = parity.reference(weights.load().arrays, images.flatten(0, 1)).view(20, 2, -1)
    allowed = parity.tolerance(weights.load().arrays, images.flatten(0, 1), executed).view(20, 2, -1)
    for _ in range(2):
        for number, buffer in enumerate(buffers):
            logits = runner.forward(buffer)
            runner.synchronize()
            assert parity.compare(logits, wanted[number], allowed[number]).right, number


@pytest.mark.parametrize("size", [0, BATCHES.maximum + 1])
def test_a_batch_outside_the_profile_is_refused(runner: Runner, size: int) -> None:
    dtype = runner.spec.image_dtype
    images = torch.zeros(size, *INPUT_SHAPE, dtype=dtype, device=runner.spec.device)
    with pytest.raises(BackendError, match=rf"(?s)found:  {dtype} \({size}, 3, 32, 32\).*\(1 to 64, 3, 32, 32\)"):
        runner.forward(images)


@pytest.mark.parametrize(
    "make",
    [
        lambda _: torch.zeros(4, *INPUT_SHAPE, dtype=torch.float64),
        lambda dtype: torch.zeros(4, *INPUT_SHAPE, dtype=torch.float32 if dtype is torch.uint8 else torch.uint8),
        lambda dtype: torch.zeros(*INPUT_SHAPE, dtype=dtype),
        lambda dtype: torch.zeros(4, 1, 32, 32, dtype=dtype),
        lambda dtype: torch.zeros(4, 32, 32, 3, dtype=dtype).permute(0, 3, 1, 2),
        lambda dtype: torch.zeros(8, *INPUT_SHAPE, dtype=dtype)[::2],
        lambda dtype: torch.zeros(4, *INPUT_SHAPE, dtype=dtype, device="meta"),
    ],
    ids=["float64", "the other type", "rank 3", "grey", "channels last", "strided", "other device"],
)
def test_images_that_do_not_fit_are_refused(runner: Runner, make: Callable[[torch.dtype], torch.Tensor]) -> None:
    images = make(runner.spec.image_dtype)
    where = runner.spec.device if images.device.type == "cpu" else images.device
    # `to` would make a strided tensor contiguous on its way.
    there = torch.empty_strided(images.shape, images.stride(), dtype=images.dtype, device=where)
    with pytest.raises(BackendError, match="the images do not fit this runner"):
        runner.forward(there)


@pytest.mark.usefixtures("subject")
def test_weights_that_do_not_fit_are_refused(request: pytest.FixtureRequest) -> None:
    name, device, precision, input_type = request.node.callspec.params["subject"]
    if name == STANDIN:
        pytest.skip("tests/models/test_tripy_lenet.py has this for the stand-in")
    arrays = dict(weights.load().arrays)
    spec = BuildSpec(devices.resolve(device), precision, BATCHES, input_type)
    arrays["fc1.weight"] = np.ascontiguousarray(arrays["fc1.weight"].T)
    with pytest.raises(LenetError, match=r"(?s)fc1\.weight.*\(400, 120\)"):
        backends.load(name).build(arrays, spec)


@pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=pytest.mark.programs)], ids=["in process", "compiled"]
)
@pytest.mark.parametrize("input_type", InputType)
def test_real_images(real_test: Split, input_type: InputType, *, compiled: bool) -> None:
    """fp32 against PyTorch: loss within 1e-4, accuracy within 5e-4, logits within 1e-4 where TF32 is off.

    On 2,000 of the test images. `nox -s evaluate` compares all 10,000, of both types.
    """
    device = devices.resolve("auto")
    names = [
        name
        for name in backends.names()
        if name == "pytorch" or (name in COMPILED) == compiled
        if backends.load(name).probe(device) and (name, device.type, InputType.UINT8) not in LATER
    ]
    done, missing = compare_backends(
        names,
        weights.load().arrays,
        real_test.head(2000),
        device=device,
        precision=Precision.FP32,
        batch_size=1000,
        input_type=input_type,
    )
    assert missing == []
    for agreement in done:
        assert agreement.right, agreement
        if agreement.delta_loss is not None and agreement.delta_accuracy is not None:
            assert agreement.delta_loss <= 1e-4
            assert agreement.delta_accuracy <= 5e-4
        if agreement.precision == "fp32":
            assert agreement.max_abs_delta <= 1e-4

"""Every backend against the float64 reference and against PyTorch, on the same images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from lenet import backends, parity
from lenet.backends.base import Backend, BatchRange, BuildSpec, InputType, Precision, Runner
from lenet.data.augmentation import normalize
from lenet.data.cifar10 import Split
from lenet.documents import finite
from lenet.errors import LenetError, UnavailableError
from lenet.evaluation import why_not_finite

__all__ = [
    "BASELINE",
    "Agreement",
    "Missing",
    "RowParity",
    "compare_backends",
    "layer_at_fault",
    "logits_of",
    "reference_of",
]

BASELINE = "pytorch"
_PROBED = 64
"""Images with which a wrong backend's layer is looked for."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """A backend's results on a set of images, as the coursework's table has them (sheet 4).

    Attributes:
        backend: Its name.
        version: Of its library.
        precision: What it really ran.
        device: Where.
        loss: Mean cross-entropy, in nats; not finite where a logit is not.
        accuracy: 0-1; an image without finite logits is wrong.
        delta_loss: |loss - PyTorch's loss| at the same precision; None for PyTorch itself or where it did not run.
        delta_accuracy: Likewise for the accuracy.
        max_abs_delta: Largest |logit - float64 reference|.
        share_of_tolerance: Largest |logit - reference| over its tolerance (`lenet.parity`); at most 1 if right.
        top1_agreement: Share of images classified as by the reference, 0-1.
        right: Whether every logit is within its tolerance.
        images: Number of images.
        diverging_layer: The layer at fault, where the backend is wrong and it could be told.
        facts: What the build says of itself, such as an engine's hash.
        reason: Why figures are not finite, where they are not.
    """

    backend: str
    version: str | None
    precision: str
    device: str
    loss: float
    accuracy: float
    delta_loss: float | None
    delta_accuracy: float | None
    max_abs_delta: float
    share_of_tolerance: float
    top1_agreement: float
    right: bool
    images: int
    diverging_layer: str | None = None
    facts: dict[str, str] = field(default_factory=dict)
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it: what is not finite is None."""
        found: dict[str, Any] = finite(asdict(self))
        return found


@dataclass(frozen=True, slots=True)
class Missing:
    """A backend that was asked for and did not run.

    Attributes:
        backend: Its name.
        reason: Why.
    """

    backend: str
    reason: str


def compare_backends(
    names: Iterable[str],
    arrays: Mapping[str, np.ndarray],
    split: Split,
    *,
    device: torch.device,
    precision: Precision,
    batch_size: int,
    input_type: InputType = InputType.FLOAT32,
    reference: parity.Reference | None = None,
) -> tuple[list[Agreement], list[Missing]]:
    """Run each backend over a split and compare it with the reference and with PyTorch.

    Args:
        names: Names in the table of backends. PyTorch is run for the deltas, whether it is named or not.
        arrays: Weights by parameter name.
        split: The images.
        device: Where to run.
        precision: What to ask of each backend; one that runs another is compared with that one's tolerance.
        batch_size: Images a batch; backends are built for it and for the remainder.
        input_type: What the images are handed over as.
        reference: Of `reference_of` for the same, where it is at hand: it takes seconds.

    Returns:
        The backends that ran, and those that did not. A backend that fails is among the latter: its error is the
        reason, be it one that its library was not expected to raise.
    """
    reference = reference or reference_of(arrays, split.images, input_type)
    done: list[Agreement] = []
    missing: list[Missing] = []
    baseline: Agreement | None = None
    wanted = tuple(names)
    for name in dict.fromkeys((BASELINE, *wanted)):
        try:
            found = _agreement(name, arrays, split, reference, baseline, device, precision, batch_size, input_type)
        except Exception as error:  # noqa: BLE001 - of a vendor's library; the other backends' results stand
            if name in wanted:
                missing.append(Missing(name, _reason(error)))
            continue
        if name == BASELINE:
            baseline = found
        if name in wanted:
            done.append(found)
    return done, missing


def reference_of(arrays: Mapping[str, np.ndarray], images: torch.Tensor, input_type: InputType) -> parity.Reference:
    """The float64 reference of uint8 images (N, 3, 32, 32), handed over as an input type."""
    return parity.Reference(arrays, images if input_type is InputType.UINT8 else normalize(images))


def logits_of(runner: Runner, images: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Run images through a runner, a batch at a time.

    All batches of a size go through one buffer, as graphs and bindings are made for a buffer, and nothing is waited for
    in between.

    Args:
        runner: What to run.
        images: (N, 3, 32, 32) of the runner's input type, on any device.
        batch_size: Images a batch; the last may be smaller.

    Returns:
        Logits (N, 10) on the CPU.
    """
    buffers: dict[int, torch.Tensor] = {}
    found = []
    with torch.inference_mode(), runner.on_stream():
        for batch in images.to(runner.spec.device).split(batch_size):
            buffer = buffers.setdefault(len(batch), torch.empty_like(batch))
            buffer.copy_(batch)
            found.append(runner.forward(buffer).clone())
    runner.synchronize()
    return torch.cat(found).cpu()


def _agreement(
    name: str,
    arrays: Mapping[str, np.ndarray],
    split: Split,
    reference: parity.Reference,
    baseline: Agreement | None,
    device: torch.device,
    precision: Precision,
    batch_size: int,
    input_type: InputType,
) -> Agreement:
    backend = backends.load(name)
    remainder = len(split) % batch_size
    batches = BatchRange(remainder or batch_size, batch_size, batch_size)
    spec = BuildSpec(device, precision, batches, input_type)
    runner = backend.build(arrays, spec)
    executed = backend.executed_precision(precision, device)
    logits = logits_of(runner, reference.images, batch_size)
    compared = reference.compare(logits, executed)
    loss = cross_entropy(logits.double(), split.labels).item()
    is_finite = logits.isfinite().all(1)
    accuracy = ((logits.argmax(1) == split.labels) & is_finite).double().mean().item()
    layer = None if compared.right else layer_at_fault(backend, arrays, spec, reference.images, executed)
    return Agreement(
        backend=name,
        version=backend.probe(device).version,
        precision=executed,
        device=device.type,
        loss=loss,
        accuracy=accuracy,
        delta_loss=abs(loss - baseline.loss) if baseline else None,
        delta_accuracy=abs(accuracy - baseline.accuracy) if baseline else None,
        max_abs_delta=compared.max_abs_delta,
        share_of_tolerance=compared.max_share,
        top1_agreement=compared.top1_agreement,
        right=compared.right,
        images=len(split),
        diverging_layer=layer,
        facts=runner.facts(),
        reason=why_not_finite(int((~is_finite).sum()), len(split)),
    )


def layer_at_fault(
    backend: Backend, arrays: Mapping[str, np.ndarray], spec: BuildSpec, images: torch.Tensor, executed: str
) -> str | None:
    """Name the layer at which a wrong backend diverges (`parity.diverging_layer`); builds it up to nine times.

    Args:
        backend: The suspect.
        arrays: Weights by parameter name.
        spec: What it was built for.
        images: (N, 3, 32, 32) for which it was found wrong, on any device; the first ones are used.
        executed: The precision that it runs.
    """
    few = images[:_PROBED].to(spec.device)

    def forward_with(changed: Mapping[str, np.ndarray]) -> Callable[[torch.Tensor], torch.Tensor]:
        probe = backend.build(changed, replace(spec, batches=BatchRange.exactly(len(few))))
        return lambda batch: logits_of(probe, batch, len(batch))

    return parity.diverging_layer(forward_with, arrays, few, executed)


class RowParity:
    """Whether the very call that a row times gives right logits: before its rounds, after them, and for other images.

    Args:
        call: What is timed; it returns the logits.
        place: Where the call takes its images from: (batch, 3, 32, 32), on the device, or in the host's memory.
        runner: Whose call it is.
        reference: Of whole batches. The first is the one that is timed.
        executed: The precision that the backend runs.
    """

    def __init__(
        self,
        call: Callable[[], torch.Tensor],
        place: torch.Tensor,
        runner: Runner,
        reference: parity.Reference,
        executed: str,
    ) -> None:
        self._call = call
        self._place = place
        self._runner = runner
        self._reference = reference
        self._executed = executed
        self._firsts = range(0, len(reference.images), len(place))

    def check_before(self) -> parity.Comparison:
        """Run every batch of the reference; the one that is to be timed comes last and stays in its place.

        Raises:
            ParityError: Logits are wrong.
        """
        logits = [self._logits_of(first) for first in reversed(self._firsts)]
        compared = self._reference.compare(torch.cat(logits[::-1]), self._executed)
        if not compared.right:
            raise self._wrong("the logits are wrong, so nothing is timed", compared)
        return compared

    def check_after(self) -> None:
        """Run the timed batch again as it lies there, then other images in its place.

        Raises:
            ParityError: Logits that were right before the rounds are wrong after them.
        """
        compared = self._reference.compare(self._run(), self._executed)
        if not compared.right:
            raise self._wrong("the logits were right before the rounds and are wrong after them", compared)
        if len(self._firsts) > 1:
            first = self._firsts[1]
            compared = self._reference.compare(self._logits_of(first), self._executed, first)
        else:
            compared = self._reference.compare(self._logits_of(0, backwards=True).flip(0), self._executed)
        if not compared.right:
            raise self._wrong("the logits are wrong once other images lie in the same memory", compared)

    def _logits_of(self, first: int, *, backwards: bool = False) -> torch.Tensor:
        batch = self._reference.images[first : first + len(self._place)]
        with torch.inference_mode(), self._runner.on_stream():
            self._place.copy_(batch.flip(0) if backwards else batch)
        return self._run()

    def _run(self) -> torch.Tensor:
        with torch.inference_mode(), self._runner.on_stream():
            logits = self._call()
        self._runner.synchronize()
        return logits.cpu().clone()

    def _wrong(self, summary: str, compared: parity.Comparison) -> parity.ParityError:
        return parity.ParityError(
            summary,
            found=str(compared),
            wanted=f"at most 1 of the tolerance, and of what {self._executed} allows",
            hint="`lenet evaluate --backend all` names the layer",
        )


def _reason(error: Exception) -> str:
    """A backend's own words where it said why it cannot run; else what went wrong and what was found."""
    if not isinstance(error, LenetError):
        return f"it failed unexpectedly: {type(error).__name__}: {error}"
    return error.found if isinstance(error, UnavailableError) else f"{error.summary}: {error.found}"

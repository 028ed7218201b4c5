"""Every backend against the float64 reference and against PyTorch, on the same images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from lenet import backends, parity
from lenet.backends.base import Availability, BatchRange, BuildSpec
from lenet.comparison.logits import layer_at_fault, logits_of, reference_of
from lenet.data.cifar10 import Split
from lenet.documents import finite
from lenet.errors import LenetError, UnavailableError, WeightsError
from lenet.quantization import Scales
from lenet.training.evaluation import why_not_finite
from lenet.vocabulary import BASELINE_BACKEND, InputType, Precision

__all__ = ["Agreement", "Missing", "compare_backends"]


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
        delta_loss: ``|loss - PyTorch's loss|`` at the same precision; None for PyTorch itself or where it did not run.
        delta_accuracy: Likewise for the accuracy.
        max_abs_delta: Largest ``|logit - float64 reference|``.
        share_of_tolerance: Largest ``|logit - reference|`` over its tolerance (`lenet.parity`); at most 1 if right.
        top1_agreement: Share of images classified as by the reference, 0-1.
        right: Whether every logit is within its tolerance.
        images: Number of images.
        diverging_layer: The layer at fault, where the backend is wrong and it could be told; where the weights are at
            fault, that whose output overflows.
        facts: What the build says of itself, such as an engine's hash.
        reason: Why figures are not finite or logits are wrong, where the weights or the numbers of images tell it.
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
    scales: Scales | None = None,
    reference: parity.Reference | None = None,
    on_begin: Callable[[str], object] = lambda _: None,
) -> tuple[list[Agreement], list[Missing]]:
    """Run each backend over a split and compare it with the reference and with PyTorch.

    Args:
        names: Names in the table of backends. PyTorch is run for the deltas too, unless none of them is available.
        arrays: Weights by parameter name.
        split: The images.
        device: Where to run.
        precision: What to ask of each backend; one that runs another is compared with that one's tolerance.
        batch_size: Images a batch; backends are built for it and for the remainder.
        input_type: What the images are handed over as.
        scales: Of the weights at a quantised precision. None for the shipped ones.
        reference: Of `reference_of` for the same, where it is at hand: it takes seconds.
        on_begin: Called with a backend's name before it runs.

    Returns:
        The backends that ran, and those that did not. A backend that fails is among the latter, with its error.
    """
    of_images = cache(lambda: reference or reference_of(arrays, split.images, input_type, lambda _: scales))
    done, missing = list[Agreement](), list[Missing]()
    baseline: Agreement | None = None
    wanted = tuple(names)
    probe = cache(lambda name: backends.load(name).probe(device))
    spec = BuildSpec(device, precision, _batches(len(split), batch_size), input_type, scales)
    first = [BASELINE_BACKEND] if any(_is_available(name, probe) for name in wanted) else []
    for name in dict.fromkeys((*first, *wanted)):
        on_begin(name)
        try:
            found = _agreement(name, probe(name).version, arrays, split, of_images, baseline, spec)
        except WeightsError:
            raise  # no backend is at fault
        except Exception as error:  # noqa: BLE001 - of a vendor's library; the other backends' results stand
            if name in wanted:
                missing.append(Missing(name, _reason(error)))
            continue
        baseline = found if name == BASELINE_BACKEND else baseline
        done += [found] if name in wanted else []
    return done, missing


def _batches(images: int, batch_size: int) -> BatchRange:
    """The batch sizes that so many images come in."""
    return BatchRange(images % batch_size or batch_size, batch_size, batch_size)


def _is_available(name: str, probe: Callable[[str], Availability]) -> bool:
    try:
        return bool(probe(name))
    except Exception:  # noqa: BLE001 - `_agreement` meets it again, and its reason is told
        return False


def _agreement(
    name: str,
    version: str | None,
    arrays: Mapping[str, np.ndarray],
    split: Split,
    of_images: Callable[[], parity.Reference],
    baseline: Agreement | None,
    spec: BuildSpec,
) -> Agreement:
    backend = backends.load(name)
    with backend.build(arrays, spec) as runner:
        executed = backend.executed_precision(spec.precision, spec.device)
        reference = of_images()
        logits, facts = logits_of(runner, reference.images, spec.batches.maximum), runner.facts()
    compared = reference.compare(logits, executed)
    loss = cross_entropy(logits.double(), split.labels).item()
    is_finite = logits.isfinite().all(1)
    accuracy = ((logits.argmax(1) == split.labels) & is_finite).double().mean().item()
    too_large = compared.overflow
    layer = too_large.layer if too_large else None
    if not compared.right and too_large is None:
        layer = layer_at_fault(backend, arrays, spec, reference.images, executed)
    return Agreement(
        backend=name,
        version=version,
        precision=executed,
        device=spec.device.type,
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
        facts=facts,
        reason=str(too_large) if too_large else why_not_finite(int((~is_finite).sum()), len(split)),
    )


def _reason(error: Exception) -> str:
    """A backend's own words where it said why it cannot run; else what went wrong and what was found."""
    if not isinstance(error, LenetError):
        return f"it failed unexpectedly: {type(error).__name__}: {error}"
    return error.found if isinstance(error, UnavailableError) else f"{error.summary}: {error.found}"

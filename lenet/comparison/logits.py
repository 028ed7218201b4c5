"""A runner's logits for many images, their reference, and the layer at fault where they are wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch

from lenet import parity
from lenet.backends.base import Backend, BatchRange, BuildSpec, Runner
from lenet.data.augmentation import normalize
from lenet.quantization import Scales
from lenet.vocabulary import InputType, Precision

__all__ = ["layer_at_fault", "logits_of", "reference_of"]


_PROBED = 64
"""Images with which a wrong backend's layer is looked for."""


def reference_of(
    arrays: Mapping[str, np.ndarray],
    images: torch.Tensor,
    input_type: InputType,
    scales: Callable[[Precision], Scales | None] = lambda _: None,
) -> parity.Reference:
    """The float64 reference of uint8 images (N, 3, 32, 32), handed over as an input type.

    Args:
        arrays: Weights by parameter name.
        images: The images.
        input_type: What they are handed over as.
        scales: Of a quantised precision's network. None for the shipped ones.
    """
    return parity.Reference(arrays, images if input_type is InputType.UINT8 else normalize(images), scales)


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
        def forward(batch: torch.Tensor) -> torch.Tensor:
            scales = parity.probing_scales(changed, batch, executed)
            with backend.build(changed, replace(spec, batches=BatchRange.exactly(len(few)), scales=scales)) as probe:
                return logits_of(probe, batch, len(batch))

        return forward

    return parity.diverging_layer(forward_with, arrays, few, executed)

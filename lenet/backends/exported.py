"""A network as an exported program of PyTorch, for the backends that compile one ahead of time."""

from __future__ import annotations

import hashlib

import torch
from torch.export import ExportedProgram

from lenet.architecture import INPUT_SHAPE
from lenet.backends.base import BuildSpec
from lenet.models.pytorch_lenet import Network

__all__ = ["digest_of", "export"]


def export(network: Network, spec: BuildSpec) -> ExportedProgram:
    """The network's graph, for every batch size of the spec, on the device that holds the network."""
    batches = spec.batches
    size, shapes = batches.optimum, None
    if not batches.static:
        size = max(size, 2)  # an example of one image would fix the batch size at one
        shapes = ({0: torch.export.Dim("batch", min=batches.minimum, max=batches.maximum)},)
    example = torch.zeros(size, *INPUT_SHAPE, dtype=spec.image_dtype, device=network.conv1.weight.device)
    with torch.no_grad():
        return torch.export.export(network, (example,), dynamic_shapes=shapes)


def digest_of(network: Network, program: ExportedProgram) -> str:
    """SHA-256 of a program's code and of its network's parameters, in hexadecimal."""
    found = hashlib.sha256(program.graph_module.code.encode())
    for name, parameter in sorted(network.state_dict().items()):
        found.update(f"{name} {parameter.dtype}".encode())
        found.update(parameter.cpu().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()

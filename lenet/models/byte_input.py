r"""LeNet for images as bytes: the first convolution's weights take over their normalisation.

The convolution has no padding. With a channel's mean :math:`m` and standard deviation :math:`s`

.. math:: \sum w \frac{x / 255 - m}{s} + b = \sum w' x + b', \qquad w' = \frac{w}{255 s}, \quad
          b' = b - \sum \frac{w m}{s}

for every output. A byte then only has to be widened, which is exact at every precision. Even bfloat16 holds all whole
numbers up to 256.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from lenet import weights
from lenet.architecture import LAYERS
from lenet.data.augmentation import MEAN, STD

__all__ = ["fold_normalization"]

_FIRST = LAYERS[0].name


def fold_normalization(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights of the same network for bytes, 0 to 255, instead of normalised images.

    Args:
        arrays: float32 weights by parameter name, for normalised images.

    Returns:
        float32 weights by parameter name. Only the first convolution's differ. They are computed in float64.

    Raises:
        WeightsError: A folded weight is beyond float32's range.
    """
    weight, bias = f"{_FIRST}.weight", f"{_FIRST}.bias"
    mean, std = (np.array(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))
    scaled = arrays[weight].astype(np.float64) / std
    shifted = arrays[bias] - (scaled * mean).sum(axis=(1, 2, 3))
    folded = weights.narrow({weight: scaled / 255, bias: shifted}, torch.float32)
    return {**arrays, **{name: tensor.numpy() for name, tensor in folded.items()}}

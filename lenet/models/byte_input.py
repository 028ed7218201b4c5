r"""LeNet for images as bytes: their normalisation folded into the first convolution.

The convolution has no padding, so with a channel's mean :math:`m` and standard deviation :math:`s`

.. math:: \sum w \frac{x / 255 - m}{s} + b = \sum w' x + b', \qquad w' = \frac{w}{255 s}, \quad
          b' = b - \sum \frac{w m}{s}

for every output. What is left to do for a byte is to widen it, in which no precision loses anything: bfloat16, the
narrowest, holds the whole numbers up to 256.
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
    """The weights of the network that takes bytes, 0 to 255, where the given one takes normalised images.

    Args:
        arrays: float32 weights by parameter name.

    Returns:
        The same, but for the first convolution's: computed in float64, rounded to float32.

    Raises:
        WeightsError: A folded weight is beyond float32's range.
    """
    weight, bias = f"{_FIRST}.weight", f"{_FIRST}.bias"
    mean, std = (np.array(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))
    scaled = arrays[weight].astype(np.float64) / std
    shifted = arrays[bias] - (scaled * mean).sum(axis=(1, 2, 3))
    folded = weights.narrow({weight: scaled / 255, bias: shifted}, torch.float32)
    return {**arrays, **{name: tensor.numpy() for name, tensor in folded.items()}}

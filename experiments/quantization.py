"""What 8 bits cost: accuracy and loss of the quantised networks by calibration method and seed; prints Markdown.

``LENET_DATA=... python experiments/quantization.py > docs/results/quantization.md``

The networks are evaluated exactly (`lenet.quantization.evaluate`), so no runtime takes part.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from common import TEST_IMAGES, add_image_options, head, row, test_images
from lenet import quantization, weights
from lenet.data import cifar10
from lenet.data.augmentation import normalize
from lenet.parity import reference
from lenet.provenance import source_commit
from lenet.quantization import DEFAULT_IMAGES, Method
from lenet.vocabulary import Precision

SEEDS = 5
CHUNK = 50
NETWORKS = ((Precision.INT8, False), (Precision.INT8, True), (Precision.FP8, False))
"""Precision, and whether weights have a reduced range."""


def figures(logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Accuracy in percent, and loss."""
    return 100 * (logits.argmax(1) == labels).double().mean().item(), cross_entropy(logits, labels).item()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=SEEDS, help="calibrations with each method (%(default)s)")
    add_image_options(parser, TEST_IMAGES)
    option = parser.parse_args(arguments)
    split, arrays = test_images(option), weights.load().arrays
    train = split if option.synthetic else cifar10.load("train", cifar10.default_directory(None))
    batches = normalize(split.images).split(CHUNK)
    exact, exact_loss = figures(torch.cat([reference(arrays, batch) for batch in batches]), split.labels)

    print("# What 8 bits cost\n")
    print(f"{len(split):,} test images, shipped weights, commit {source_commit()}.")
    print(f"In float64 the network's accuracy is {exact:.2f} % and its loss {exact_loss:.4f}.")
    print(f"Scales come from {DEFAULT_IMAGES} training images, another sample for each of {option.seeds} seeds.")
    print("Each quantised network is evaluated exactly. Made by `experiments/quantization.py`.")
    print("\nPoints are percentage points of accuracy, quantised minus float64.")
    names = ("points, mean", "points, lowest", "points, highest", "loss - fp32, mean", "loss - fp32, largest")
    head("precision", "weights", "method", "seeds", *names)
    for (precision, reduced), method in product(NETWORKS, Method):
        points, losses = [], []
        for seed in range(option.seeds):
            scales = quantization.calibrate(
                arrays, train.images, precision, method=method, seed=seed, reduce_range=reduced
            )
            network = quantization.quantize(arrays, scales)
            logits = torch.cat([quantization.evaluate(network, scales, batch) for batch in batches])
            accuracy, loss = figures(logits, split.labels)
            points.append(accuracy - exact)
            losses.append(loss - exact_loss)
        largest = quantization.REDUCED if reduced else quantization.FORMATS[precision].largest
        cells = (f"{np.mean(points):+.2f}", f"{min(points):+.2f}", f"{max(points):+.2f}")
        row(
            precision, f"±{largest:.0f}", method, option.seeds, *cells, f"{np.mean(losses):+.4f}", f"{max(losses):+.4f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Copies of the package with a change in them, as checkouts of base and of head."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import lenet
from lenet.gate.trees import Tree
from lenet.results import Case
from lenet.vocabulary import Mode

NETWORK = "lenet/models/pytorch_lenet.py"
EAGER = "lenet/backends/pytorch_eager.py"
FORWARD = "        x = max_pool2d(relu(self.conv1(images)), 2)\n"
RUNNER = "        allow_tf32(self._tf32)\n        if torch.is_inference_mode_enabled()"
SLOW_CONVOLUTION = """
class _Slow(nn.Conv2d):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        columns = nn.functional.unfold(images, self.kernel_size)
        kernels = [kernel.flatten()[None] @ columns for _ in range(8) for kernel in self.weight]
        side = images.shape[-1] - self.kernel_size[0] + 1
        return torch.stack(kernels[:len(self.weight)], 1).view(len(images), -1, side, side) + self.bias[:, None, None]


class LeNet(nn.Module):"""
SLOW_ALGORITHM = (
    (NETWORK, "\nclass LeNet(nn.Module):", SLOW_CONVOLUTION),
    (NETWORK, '        self.conv1 = _convolution("conv1")', "        self.conv1 = _Slow(3, 6, 5)"),
)


def delay(name: str, before: str, seconds: float) -> tuple[str, str, str]:
    """A change that keeps the host busy before a line of a function."""
    busy = f"        end = time.perf_counter() + {seconds}\n        while time.perf_counter() < end: pass\n"
    return name, before, f"        import time\n{busy}{before}"


def tree(folder: Path, side: str = "base", *changes: tuple[str, str, str]) -> Tree:
    """A copy of the package, in which texts of files are replaced."""
    path = folder / side
    source = Path(lenet.__file__).parent
    shutil.copytree(source, path / "lenet", ignore=shutil.ignore_patterns("__pycache__"))
    for name, old, new in changes:
        content = (path / name).read_text(encoding="utf-8")
        assert old in content
        (path / name).write_text(content.replace(old, new, 1), encoding="utf-8")
    caches = folder / f"{side}-caches"
    (caches / "lenet").mkdir(parents=True, mode=0o700)
    return Tree(side, path, 40 * "0", sys.executable, caches)


def case(
    backend: str = "pytorch", mode: Mode = Mode.FORWARD, device: str = "CPU, 1 thread", batch_size: int = 1
) -> Case:
    memory = "pinned" if mode is Mode.END_TO_END else None
    return Case(
        backend, mode, "fp32", "fp32", batch_size, device, "synthetic", memory, cold_cache=False, protocol="fixed"
    )

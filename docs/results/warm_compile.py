"""Fill TorchInductor's cache for every precision and batch size, several at a time, so that a campaign only loads.

``python docs/results/warm_compile.py 1 10 100 200 1000 10000``

Tuning is the compiler's work on the CPU for most of its time; each process tunes its own kernels on the GPU in between.
"""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from lenet.backends.precision import DTYPES

AT_ONCE = 8
_BUILD = """
import sys
from lenet import backends, devices, weights
from lenet.backends.base import BatchRange, BuildSpec, Precision
spec = BuildSpec(devices.resolve("cuda"), Precision(sys.argv[1]), BatchRange.exactly(int(sys.argv[2])))
backends.load("pytorch-compile").build(weights.load().arrays, spec)
"""


def build(case: tuple[str, str]) -> None:
    """Build one case in a process of its own."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", _BUILD, *case], capture_output=True, text=True, check=False)  # noqa: S603
    state = "built" if done.returncode == 0 else done.stderr[-300:]
    print(*case, f"{time.perf_counter() - began:.0f} s", state, flush=True)


if __name__ == "__main__":
    cases = [(str(precision), size) for precision in DTYPES for size in sys.argv[:0:-1]]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(build, cases))

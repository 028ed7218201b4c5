"""Fill TorchInductor's cache for every precision and batch size, several at a time, so that a campaign only loads.

``python docs/results/warm_compile.py 1 10 100 200 1000 10000``

Precisions and input types among the arguments narrow it to those; the input type is float32 unless one is named.

Tuning is the compiler's work on the CPU for most of its time; each process tunes its own kernels on the GPU in between.
"""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product

from lenet.backends.base import InputType
from lenet.backends.precision import DTYPES

AT_ONCE = 8
_BUILD = """
import sys
from lenet import backends, devices, weights
from lenet.backends.base import BatchRange, BuildSpec, InputType, Precision
precision, size, kind = Precision(sys.argv[1]), BatchRange.exactly(int(sys.argv[2])), InputType(sys.argv[3])
spec = BuildSpec(devices.resolve("cuda"), precision, size, kind)
backends.load("pytorch-compile").build(weights.load().arrays, spec)
"""


def build(case: tuple[str, ...]) -> None:
    """Build one case in a process of its own."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", _BUILD, *case], capture_output=True, text=True, check=False)  # noqa: S603
    state = "built" if done.returncode == 0 else done.stderr[-300:]
    print(*case, f"{time.perf_counter() - began:.0f} s", state, flush=True)


if __name__ == "__main__":
    asked = sys.argv[:0:-1]
    precisions = [precision for precision in DTYPES if precision in asked] or list(DTYPES)
    kinds = [kind for kind in InputType if kind in asked] or [InputType.FLOAT32]
    sizes = [word for word in asked if word.isdecimal()]
    cases = [tuple(map(str, case)) for case in product(precisions, sizes, kinds)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(build, cases))

"""Fill TorchInductor's caches for every precision and batch size, so that a campaign only loads.

``python experiments/warm_compile.py 1 10 100 200 1000 10000``

Backends, precisions and input types among the arguments select them; the default input type is float32. If a network
cannot be built the others still are, and the exit status is then 1.

Several processes compile at a time, as most of the tuning is work on the CPU. Only one of them times kernels on the GPU
at a moment. Otherwise they would disturb each other's times and choose by chance.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product

from lenet.backends.precision import DTYPES
from lenet.vocabulary import InputType

AT_ONCE = 8
BACKENDS = ("pytorch-compile", "pytorch-aot")
_BUILD = """
import fcntl, sys
from torch._inductor.runtime.benchmarking import benchmarker
from lenet import backends, devices, weights
from lenet.backends.base import BatchRange, BuildSpec
from lenet.vocabulary import InputType, Precision
precision, size, kind = Precision(sys.argv[2]), BatchRange.exactly(int(sys.argv[3])), InputType(sys.argv[4])
timed, lock = benchmarker.benchmark_gpu, open(sys.argv[5])
def alone(*args, **options):
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        return timed(*args, **options)
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)
benchmarker.benchmark_gpu = alone
spec = BuildSpec(devices.resolve("cuda"), precision, size, kind)
backends.load(sys.argv[1]).build(weights.load().arrays, spec).close()
"""


def build(case: tuple[str, ...], lock: str, variables: Mapping[str, str] | None = None) -> bool:
    """Build one case in a process that times kernels while it holds the lock; return whether it succeeded."""
    began, command = time.perf_counter(), [sys.executable, "-c", _BUILD, *case, lock]
    environment = {**os.environ, "PYTHONFAULTHANDLER": "1", **(variables or {})}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)  # noqa: S603
    state = "built" if done.returncode == 0 else done.stderr[-300:]
    print(*case, f"{time.perf_counter() - began:.0f} s", state, file=sys.stderr, flush=True)
    return done.returncode == 0


def cases(asked: list[str]) -> list[tuple[str, ...]]:
    """Backend, precision, batch size and input type of each network that the arguments ask for."""
    backends = [backend for backend in BACKENDS if backend in asked] or ["pytorch-compile"]
    precisions = [precision for precision in DTYPES if precision in asked] or list(DTYPES)
    kinds = [kind for kind in InputType if kind in asked] or [InputType.FLOAT32]
    sizes = [word for word in asked if word.isdecimal()]
    return [tuple(map(str, case)) for case in product(backends, precisions, sizes, kinds)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("words", nargs="+", help="batch sizes, backends, precisions and input types")
    words = parser.parse_args(arguments).words
    known = (*BACKENDS, *DTYPES, *InputType)
    if unknown := [word for word in words if not word.isdecimal() and word not in known]:
        parser.error(f"neither a batch size nor one of {', '.join(known)}: {', '.join(unknown)}")
    with tempfile.NamedTemporaryFile() as lock, ThreadPoolExecutor(AT_ONCE) as pool:
        built = list(pool.map(partial(build, lock=lock.name), cases(words[::-1])))
    return 0 if all(built) else 1


if __name__ == "__main__":
    sys.exit(main())

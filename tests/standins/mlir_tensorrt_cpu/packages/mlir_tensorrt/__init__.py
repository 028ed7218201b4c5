"""A stand-in for the compiled half of nvtripy 0.1.7 that interprets the traced graph on the CPU; no MLIR, no TensorRT.

`lenet.backends.tripy` refuses to count it as an installation by the marker below.
"""

from __future__ import annotations

__version__ = "0.1.43+cpu.standin"

IS_CPU_STANDIN = True

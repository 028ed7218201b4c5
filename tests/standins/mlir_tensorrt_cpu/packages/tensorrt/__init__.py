"""What importing nvtripy 0.1.7 reads of TensorRT: the names of its data types. There is no TensorRT behind them."""

from __future__ import annotations

from enum import Enum, auto

__version__ = "10.15.0+cpu.standin"

IS_CPU_STANDIN = True


class DataType(Enum):
    """The data types that nvtripy maps its own to."""

    float32 = auto()
    float16 = auto()
    bfloat16 = auto()
    fp8 = auto()
    int4 = auto()
    int8 = auto()
    int32 = auto()
    int64 = auto()
    bool = auto()


float32, float16, bfloat16, fp8 = DataType.float32, DataType.float16, DataType.bfloat16, DataType.fp8
int4, int8, int32, int64 = DataType.int4, DataType.int8, DataType.int32, DataType.int64
bool = DataType.bool

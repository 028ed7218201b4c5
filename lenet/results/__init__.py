"""Files of measurements: rows, reading, comparing, storing. No torch here."""

from __future__ import annotations

from lenet.results.case import FAILED, Case, Measurement, NotRun, Row, Throughput, short_name
from lenet.results.csv import to_csv
from lenet.results.file import LARGEST, SCHEMA, identity, load, row
from lenet.results.gates import Gate, GateRow, last_gates, load_gate
from lenet.results.matching import Matching, find_row, match, merge, not_run, pytorch_row, speedup
from lenet.results.storage import (
    example,
    find_file,
    is_local,
    last,
    local_storage,
    newest,
    of_this_machine,
    promote,
    storages,
    store,
    stored_files,
)

__all__ = [
    "FAILED",
    "LARGEST",
    "SCHEMA",
    "Case",
    "Gate",
    "GateRow",
    "Matching",
    "Measurement",
    "NotRun",
    "Row",
    "Throughput",
    "example",
    "find_file",
    "find_row",
    "identity",
    "is_local",
    "last",
    "last_gates",
    "load",
    "load_gate",
    "local_storage",
    "match",
    "merge",
    "newest",
    "not_run",
    "of_this_machine",
    "promote",
    "pytorch_row",
    "row",
    "short_name",
    "speedup",
    "storages",
    "store",
    "stored_files",
    "to_csv",
]

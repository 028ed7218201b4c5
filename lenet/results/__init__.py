"""Files of measurements: rows, reading, comparing, storing. No torch here."""

from __future__ import annotations

from lenet.results.case import FAILED, Case, Measurement, NotRun, Row, short_name
from lenet.results.csv import to_csv
from lenet.results.file import LARGEST, SCHEMA, identity, load, row
from lenet.results.matching import Matching, find_row, match, merge, not_run, pytorch_row, speedup
from lenet.results.storage import find_file, latest, newest, promote, store, stored_files

__all__ = [
    "FAILED",
    "LARGEST",
    "SCHEMA",
    "Case",
    "Matching",
    "Measurement",
    "NotRun",
    "Row",
    "find_file",
    "find_row",
    "identity",
    "latest",
    "load",
    "match",
    "merge",
    "newest",
    "not_run",
    "promote",
    "pytorch_row",
    "row",
    "short_name",
    "speedup",
    "store",
    "stored_files",
    "to_csv",
]

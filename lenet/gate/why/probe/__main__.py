"""Profile rows, and write a line of JSON for each: ``python -m FOLDER REQUEST RECORDS``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from .rows import profile_row


def _main(request: Path, records: Path) -> None:
    rows = json.loads(request.read_text(encoding="utf-8"))
    with records.open("w", encoding="utf-8") as file:
        for row in rows:
            # A line is written whole before the next row begins, which may end the process.
            file.write(f"{json.dumps(profile_row(row, records.parent))}\n")
            file.flush()


_main(Path(sys.argv[1]), Path(sys.argv[2]))

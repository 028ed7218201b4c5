"""Run the command line: ``python -m lenet``."""

import sys
import traceback

if __name__ == "__main__":
    try:
        from lenet.cli import main
    except BaseException:  # noqa: BLE001 - Python would exit with 1, which is a verdict
        traceback.print_exc()
        sys.exit(70)  # `lenet.cli.guard.UNFORESEEN`, which cannot be imported either
    main(prog_name="lenet")

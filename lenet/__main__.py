"""Run the command line: ``python -m lenet``."""

from lenet.cli import main

if __name__ == "__main__":
    main(prog_name="lenet")

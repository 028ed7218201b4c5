"""``lenet gate``: from the options to the exit code and the files."""

from __future__ import annotations

import secrets
import sys
import traceback
from pathlib import Path
from typing import Final

from lenet.errors import GateError, LenetError
from lenet.files import make_directory
from lenet.gate import report
from lenet.gate.checkouts import find_commits
from lenet.gate.decision import Rule, Verdict
from lenet.gate.display import GateDisplay
from lenet.gate.interrupts import interruptible
from lenet.gate.session import Outcome
from lenet.gate.session import run as measure
from lenet.report.tables import print_whole, to_rich
from lenet.terminal import tell

__all__ = ["EXIT_CODES", "run"]

EXIT_CODES: Final = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 3}
"""An error has no verdict; its exit code is 2."""
_LONGEST: Final = 1_000_000


def run(
    reference: str,
    suite: tuple[str, ...],
    *,
    out: Path,
    tolerance: float,
    harm: float,
    timeout: float,
    seed: int | None,
) -> int:
    """Compare HEAD of the checkout here with a reference, print the table, and write it to ``out``.

    Args:
        reference: A branch, tag or commit.
        suite: Options of the suite.
        out: Directory for gate.json and gate.md.
        tolerance: The largest slow-down that counts as none, as a share.
        harm: The largest slow-down of a row that passes, as a share.
        timeout: Seconds that a pair of processes may take.
        seed: Seeds the order in each pair; None draws one.

    Returns:
        The exit code.

    Raises:
        GateError: There is no verdict.
        OutputError: The report cannot be written.
    """
    _refuse_unusable(tolerance, harm, timeout)
    make_directory(out)
    with interruptible():
        try:
            outcome = _measure(reference, suite, Rule(tolerance=tolerance, harm=harm), timeout, seed)
        except LenetError as error:
            # In the place of an earlier run's verdict, and so that a job's summary says why there is none.
            report.write(out, report.error_json(error), report.error_page(error))
            raise
    report.write(out, report.to_json(outcome), report.to_page(outcome))
    print_whole(to_rich(report.sheet(outcome)))
    for line in report.reasons(outcome):
        tell(line)
    return EXIT_CODES[outcome.verdict]


def _refuse_unusable(tolerance: float, harm: float, timeout: float) -> None:
    """Refuse options that make no rule, and a system that the gate does not run on."""
    if not 0 <= tolerance < harm:
        raise GateError(
            "tolerance and harm do not fit",
            found=f"--tolerance {tolerance:g}, --harm {harm:g}",
            wanted="shares, 0 <= tolerance < harm",
            hint="a row that passes may be slower by more than what is tolerated, not by less",
        )
    if not 0 < timeout <= _LONGEST:  # also refuses NaN
        raise GateError(
            "--worker-timeout cannot be used",
            found=f"{timeout:g}",
            wanted=f"more than 0 seconds, at most {_LONGEST:,}",
            hint="the default, 900, is enough for most",
        )
    if sys.platform != "linux":
        raise GateError(
            "the gate runs on Linux alone",
            found=sys.platform,
            wanted="Linux, whose process groups and processor times it uses",
            hint="`pytest benchmarks --benchmark-compare` is the quick look that works anywhere",
        )


def _measure(reference: str, suite: tuple[str, ...], rule: Rule, timeout: float, seed: int | None) -> Outcome:
    try:
        commits = find_commits(Path.cwd(), reference)
        with GateDisplay() as display:
            if commits.own_environments:
                display.note("the dependencies differ: pip makes an environment for each side, which may take minutes")
            drawn = secrets.randbelow(2**32) if seed is None else seed
            return measure(commits, rule, suite, seed=drawn, timeout=timeout, tell=display.tell)
    except KeyboardInterrupt:
        raise GateError(
            "the gate was interrupted",
            found="a signal",
            wanted="a run to its end",
            hint="run it again; nothing is left behind",
        ) from None
    except LenetError:
        raise
    except Exception as error:
        tell(traceback.format_exc(), err=True)
        raise GateError(  # Python's own exit code would be 1, which means FAIL
            "the gate itself failed, or the system did",
            found=f"{type(error).__name__}: {error}",
            wanted="a run to its end",
            hint="if the error is the gate's, report it with the traceback",
        ) from error

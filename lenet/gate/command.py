"""``lenet gate``: from the options to the exit code and the files."""

from __future__ import annotations

import secrets
import sys
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from lenet.errors import GateError, LenetError, OutputError
from lenet.files import make_directory, only_writer, write_atomically
from lenet.gate import report
from lenet.gate.acceptance import find_acceptances
from lenet.gate.checkouts import Commits, find_commits
from lenet.gate.decision import Rule, Verdict
from lenet.gate.display import GateDisplay
from lenet.gate.interrupts import hear, interruptible, uninterrupted
from lenet.gate.journal import Journal, Plan
from lenet.gate.outcome import Outcome
from lenet.gate.pairs import TURNS
from lenet.gate.session import TimeLimits
from lenet.gate.session import run as measure
from lenet.provenance import git
from lenet.report.tables import print_whole, to_rich
from lenet.results.storage import GATES, local_storage
from lenet.terminal import tell

__all__ = ["EXIT_CODES", "OUT", "Options", "run"]

EXIT_CODES: Final = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 3}
"""An error has no verdict; its exit code is 2."""

OUT: Final = Path("gate")
"""The usual directory of the report."""

_HISTORY: Final = local_storage(Path(".benchmarks")) / GATES
"""Below the checkout: a copy of each gate's gate.json, for the report."""
_LONGEST: Final = 1_000_000
_UNFINISHED: Final = GateError(
    "the gate has not ended",
    found="a gate in progress, or one that was killed",
    wanted="a gate that ended",
    hint="wait for it, or go on from its pairs with --resume",
)


@dataclass(frozen=True, slots=True)
class Options:
    """The options of ``lenet gate``.

    Attributes:
        reference: A branch, tag or commit.
        suite: Options of the suite.
        out: Directory for gate.json, gate.md and the record of pairs.
        tolerance: The largest slow-down that counts as none, as a share.
        harm: The largest slow-down of a row that passes, as a share.
        timeout: Seconds that a pair of processes may take.
        budget: Seconds that the gate may take; None for as long as it needs.
        resume: Whether to go on from the pairs in ``out``.
        start: How processes start: ``forked`` or ``fresh``.
        seed: Seeds the order in each pair; None draws one.
    """

    reference: str
    suite: tuple[str, ...]
    out: Path
    tolerance: float
    harm: float
    timeout: float
    budget: float | None = None
    resume: bool = False
    start: str = "forked"
    seed: int | None = None


def run(options: Options) -> int:
    """Compare HEAD of the checkout here with a reference, print the table, and write it.

    Returns:
        The exit code.

    Raises:
        GateError: There is no verdict.
        OutputError: The report cannot be written.
    """
    _refuse_unusable(options)
    with interruptible():
        try:
            hear()
            return _judge(options)
        except KeyboardInterrupt:
            error = GateError(
                "the gate was interrupted",
                found="a signal before a pair was counted",
                wanted="a run to its end",
                hint="run it again; nothing is left behind",
            )
            _write_error(options.out, error)
            raise error from None


def _judge(options: Options) -> int:
    try:
        commits = find_commits(Path.cwd(), options.reference)  # before --out can make the worktree dirty
    except LenetError as error:
        _write_error(options.out, error)
        raise
    make_directory(options.out)
    with only_writer(options.out):
        return _run(commits, options)


def _write_error(out: Path, error: LenetError) -> None:
    make_directory(out)
    with only_writer(out):
        report.write(out, report.error_json(error), report.error_page(error))


def _run(commits: Commits, options: Options) -> int:
    out = options.out
    report.write(out, report.error_json(_UNFINISHED), report.error_page(_UNFINISHED))
    try:
        outcome = _measure(commits, options)
    except LenetError as error:
        # In the place of an earlier run's verdict, and so that a job's summary says why there is none.
        report.write(out, report.error_json(error), report.error_page(error))
        raise
    with suppress(KeyboardInterrupt), uninterrupted():  # the verdict stands, whatever came while it was shown
        _show(outcome, commits.repository, out)
    return EXIT_CODES[outcome.verdict]


def _show(outcome: Outcome, repository: Path, out: Path) -> None:
    """Print the outcome, and write it. A full disk takes no file, and a closed terminal no table."""
    try:
        print_whole(to_rich(report.sheet(outcome)))
        for text in report.reasons(outcome):
            tell(report.wrapped(text))
    finally:
        _write(outcome, repository, out)


def _write(outcome: Outcome, repository: Path, out: Path) -> None:
    document = report.to_json(outcome)
    try:
        report.write(out, document, report.to_page(outcome))
    except OutputError as error:
        if outcome.stopped is None:
            raise
        tell(str(error), err=True)  # such as the full disk that ended the gate
    history = repository / _HISTORY
    if git(repository, "check-ignore", "--quiet", str(history)).returncode != 0:
        return  # it would be a change of the user's files
    stamp = outcome.started.translate({ord(sign): None for sign in "-:Z"}).replace("T", "_")
    try:
        make_directory(history)
        write_atomically(history / f"{stamp}_{outcome.commits.head[:12]}.json", document.encode())
    except OutputError as error:
        tell(f"the report will not show this gate: {error}", err=True)


def _refuse_unusable(options: Options) -> None:
    """Refuse options that make no rule, and a system that the gate does not run on."""
    tolerance, harm = options.tolerance, options.harm
    if not 0 <= tolerance < harm:
        raise GateError(
            "tolerance and harm do not fit",
            found=f"--tolerance {tolerance:g}, --harm {harm:g}",
            wanted="shares, 0 <= tolerance < harm",
            hint="a row that passes may be slower by more than what is tolerated, not by less",
        )
    for name, seconds in (("--worker-timeout", options.timeout), ("--budget", options.budget)):
        if seconds is not None and not 0 < seconds <= _LONGEST:  # also refuses NaN
            raise GateError(
                f"{name} cannot be used",
                found=f"{seconds:g}",
                wanted=f"more than 0 seconds, at most {_LONGEST:,}",
                hint="leave it out: the default is enough for most",
            )
    if sys.platform != "linux":
        raise GateError(
            "the gate runs on Linux alone",
            found=sys.platform,
            wanted="Linux, whose process groups and processor times it uses",
            hint="`pytest benchmarks --benchmark-compare` is the quick look that works anywhere",
        )


def _measure(commits: Commits, options: Options) -> Outcome:
    rule = Rule(tolerance=options.tolerance, harm=options.harm)
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    plan = Plan(commits.base, commits.head, options.suite, asdict(rule), options.start, TURNS, seed)
    try:
        accepted = find_acceptances(commits.repository, commits.base, commits.head)
        journal = (Journal.go_on if options.resume else Journal.begin)(options.out, plan)
        with GateDisplay() as display:
            if commits.own_environments:
                display.note("the dependencies differ: pip makes an environment for each side, which may take minutes")
            limits = TimeLimits(options.timeout, options.budget)
            return measure(
                commits,
                rule,
                journal,
                accepted=accepted,
                limits=limits,
                tell=display.tell,
                note=display.note,
                options=_places(options),
            )
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


def _places(options: Options) -> tuple[str, ...]:
    """The options by which the same command finds the record of pairs, and starts processes alike."""
    out = () if options.out == OUT else (f"--out={options.out}",)
    return (*out, *(() if options.start == "forked" else (f"--start={options.start}",)))

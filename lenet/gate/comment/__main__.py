"""``python -m lenet.gate.comment``: write a run's comment and status. GitHub's variables and event say which run."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Final

from lenet import documents
from lenet.errors import GateError
from lenet.gate.comment.artefact import Gate, parse, unpack
from lenet.gate.comment.github import GitHub, GitHubError, Run, find_run
from lenet.gate.comment.markdown import STATES, headline, render

_VARIABLES: Final = ("API_URL", "EVENT_PATH", "REPOSITORY", "SERVER_URL", "TOKEN")


def main() -> int:
    """Write the status, then the comment.

    Returns:
        0, or 2 if GitHub or the event make it impossible. A run without a usable table gets a comment that says so.
    """
    try:
        told = _write()
    except GateError as error:
        sys.stderr.write(_harmless(str(error)) + "\n")
        return error.exit_code
    sys.stdout.write(_harmless(told) + "\n")
    return 0


def _write() -> str:
    environment = {name: os.environ.get(f"GITHUB_{name}", "") for name in _VARIABLES}
    if missing := [f"GITHUB_{name}" for name, value in environment.items() if not value]:
        raise GateError(
            "this is no workflow",
            found=f"no {', '.join(missing)}",
            wanted="the variables that GitHub's runner sets, and the token",
            hint="see .github/workflows/gate-comment.yml",
        )
    event = documents.parse(Path(environment["EVENT_PATH"]).read_text(encoding="utf-8"))
    run = find_run(event, environment["REPOSITORY"], environment["SERVER_URL"])
    github = GitHub(environment["API_URL"], environment["REPOSITORY"], environment["TOKEN"])
    gate = _read(github, run)
    description = headline(gate, run)
    github.put_status(run, "success" if run.advisory else STATES[gate.verdict], description)
    pull = github.pull_request(run)
    if pull is None:
        return f"{description}\nno open pull request has {run.head_sha} as its newest commit, so there is no comment"
    done = github.put_comment(pull.number, run.marker, render(gate, run, pull))
    return f"{description}\nthe comment of pull request {pull.number} is {done}"


def _read(github: GitHub, run: Run) -> Gate:
    """What the run found. Whatever is wrong with its artefact is an ERROR, which the comment tells."""
    try:
        gate = parse(unpack(github.artefact(run)))
        if gate.verdict == "PASS" and run.conclusion != "success":
            raise GateError(
                "the table says PASS, and the run did not succeed",
                found=f"it ended as {run.conclusion}",
                wanted="success",
                hint="read the run's log",
            )
    except GitHubError:
        raise
    except GateError as error:
        return Gate("ERROR", error.summary, error=(error.found, error.wanted, error.hint))
    return gate


def _harmless(text: str) -> str:
    """A text without the signs by which a runner takes a line of a log for a command."""
    return re.sub(r"[^\n -~]|::|##\[", "?", text)


if __name__ == "__main__":
    sys.exit(main())

"""What the workflows may do, and that their parts fit together. `nox -s lint` checks their form."""

import re
from pathlib import Path

import pytest

from lenet.gate.comment.github import _WORKFLOWS

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
COMMENT = ROOT / ".github" / "workflows" / "gate-comment.yml"


def lines(file: Path) -> list[str]:
    """The lines without comments."""
    return [re.sub(r"(^|\s)#.*", "", line) for line in file.read_text("utf-8").splitlines()]


def scripts(file: Path) -> list[str]:
    """The text of each ``run:``, with the lines that belong to it."""
    found = []
    for index, line in enumerate(lines(file)):
        if start := re.match(r"( *(?:- )?)run: ?(.*)", line):
            rest = lines(file)[index + 1 :]
            ends = (at for at, other in enumerate(rest) if other.strip() and _indent(other) <= len(start[1]))
            found.append("\n".join([start[2], *rest[: next(ends, len(rest))]]))
    return found


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def rights(file: Path) -> list[set[str]]:
    """The rights of each ``permissions:``, the workflow's own first. ``{}`` means none."""
    found = re.findall(r"^( *)permissions:(.*)\n((?:\1 +\S.*\n)*)", "\n".join(lines(file)), flags=re.MULTILINE)
    return [{line.strip() for line in (same, *block.splitlines())} - {"", "{}"} for _, same, block in found]


def test_the_scripts_are_found() -> None:
    assert scripts(COMMENT) == ["python3 -m lenet.gate.comment"]
    assert ".nox/torch/bin/lenet results" in scripts(ROOT / ".github" / "workflows" / "benchmark.yml")[-1]
    assert sum(len(scripts(file)) for file in FILES) >= 10


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_expression_is_put_into_a_script(file: Path) -> None:
    """GitHub writes an expression's value into the script before the shell reads it."""
    assert [text for text in scripts(file) if "${{" in text] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_each_job_has_only_the_rights_that_it_names(file: Path) -> None:
    assert rights(file)[0] == set()


def test_only_the_comment_and_the_pages_may_write() -> None:
    writing = {file.name: {one for job in rights(file) for one in job if "write" in one} for file in FILES}
    assert {name: found for name, found in writing.items() if found} == {
        "docs.yml": {"pages: write", "id-token: write"},
        "gate-comment.yml": {"pull-requests: write", "statuses: write"},
    }
    read = {"actions: read", "contents: read"}
    assert rights(COMMENT) == [set(), {*read, "pull-requests: write", "statuses: write"}]


def test_what_runs_with_the_bases_rights_takes_nothing_of_the_pull_request() -> None:
    text = "\n".join(lines(COMMENT))
    assert re.findall(r"\buses: (\S+?)@", text) == ["actions/checkout"]
    assert not re.search(r"\bref:|head_sha|head_branch|head_commit|display_title|secrets\.|pull_request_target", text)
    assert {*re.findall(r"\$\{\{ (.*?) \}\}", text)} == {"github.workflow", "github.token"}
    assert "persist-credentials: false" in text


def test_no_workflow_runs_a_pull_request_with_the_bases_rights() -> None:
    assert [file.name for file in FILES if "pull_request_target" in "\n".join(lines(file))] == []


def test_the_comment_waits_for_the_workflows_that_it_knows() -> None:
    waited = re.search(r"workflows: \[(.*)\]", COMMENT.read_text("utf-8"))
    assert waited is not None
    assert [f".github/workflows/{name}.yml" for name in waited[1].split(", ")] == [*_WORKFLOWS]
    for name in _WORKFLOWS:
        text = (ROOT / name).read_text("utf-8")
        assert re.search(rf"^name: {Path(name).stem}$", text, flags=re.MULTILINE)
        assert "name: gate-${{ github.run_attempt }}" in text
        assert "path: ${{ runner.temp }}/gate\n" in text


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_actions_are_pinned_by_commit(file: Path) -> None:
    used = re.findall(r"\buses: (\S+)", "\n".join(lines(file)))
    assert all(re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", one) for one in used)

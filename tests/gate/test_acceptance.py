"""Slow-downs that commits accept by a trailer, in real repositories."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lenet.errors import GateError
from lenet.gate.acceptance import Acceptance, _parse, find_acceptances, refuse_unknown

ROW = "pytorch forward fp32 1"
TRAILER = f"Accept-slowdown: {ROW} up to 8%: exact sums, see the pull request"
Git = Callable[..., str]


@pytest.fixture
def git(tmp_path: Path) -> Git:
    """Run git in a repository with one commit on ``main``."""

    def run(*arguments: str, message: str | None = None) -> str:
        who = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, input=message).stdout.strip()

    run("init", "--quiet", "--initial-branch=main")
    run("commit", "--quiet", "--allow-empty", "--file=-", message=f"Begin\n\n{TRAILER.replace('8%', '9%')}")
    return run


def commit(git: Git, message: str) -> str:
    git("commit", "--quiet", "--allow-empty", "--file=-", message=message)
    return git("rev-parse", "HEAD")


def accepted(git: Git, root: Path, base: str, head: str = "HEAD") -> dict[str, float]:
    found = find_acceptances(root, git("rev-parse", base), git("rev-parse", head))
    return {row: one.bound for row, one in found.items()}


def test_a_trailer_of_the_range_is_found_with_all_that_it_says(git: Git, tmp_path: Path) -> None:
    base = git("rev-parse", "HEAD")
    made = commit(git, f"Sum exactly\n\nWhy.\n\nReviewed-by: B <b@example.org>\n{TRAILER}\n")
    commit(git, "Later\n\nNo trailer.")
    expected = Acceptance(ROW, 0.08, "exact sums, see the pull request", made)
    assert find_acceptances(tmp_path, base, git("rev-parse", "HEAD")) == {ROW: expected}


def test_a_trailer_is_valid_for_its_range_alone(git: Git, tmp_path: Path) -> None:
    commit(git, f"Slower\n\n{TRAILER}")
    commit(git, "Next change")
    assert accepted(git, tmp_path, "HEAD~2") == {ROW: 0.08}
    assert accepted(git, tmp_path, "HEAD~1") == {}
    assert accepted(git, tmp_path, "HEAD") == {}


def test_what_the_base_accepted_is_no_part_of_a_merge_into_it(git: Git, tmp_path: Path) -> None:
    """The checkout of a pull request: a merge whose first parent is the base."""
    git("switch", "--quiet", "--create=change")
    commit(git, f"Change\n\n{TRAILER}")
    git("switch", "--quiet", "main")
    commit(git, "On main\n\nAccept-slowdown: onnxruntime forward fp32 1 up to 50%: on main")
    assert accepted(git, tmp_path, "main", "change") == {ROW: 0.08}
    git("merge", "--quiet", "--no-ff", "--message=Merge the change", "change")
    assert accepted(git, tmp_path, "HEAD^1") == {ROW: 0.08}


def test_a_merge_commit_itself_can_accept(git: Git, tmp_path: Path) -> None:
    git("switch", "--quiet", "--create=change")
    commit(git, "Change")
    git("switch", "--quiet", "main")
    git("merge", "--quiet", "--no-ff", "-m", "Merge", "-m", TRAILER, "change")
    assert accepted(git, tmp_path, "HEAD^1") == {ROW: 0.08}
    assert accepted(git, tmp_path, "HEAD^2") == {ROW: 0.08}


def test_a_rebase_takes_the_trailer_along(git: Git, tmp_path: Path) -> None:
    git("switch", "--quiet", "--create=change")
    before = commit(git, f"Change\n\n{TRAILER}")
    git("switch", "--quiet", "main")
    commit(git, "On main")
    git("rebase", "--quiet", "--keep-empty", "main", "change")
    found = find_acceptances(tmp_path, git("rev-parse", "main"), git("rev-parse", "change"))
    assert found[ROW].bound == 0.08
    assert found[ROW].commit == git("rev-parse", "change") != before


def test_the_same_acceptance_twice_counts_once_and_several_rows_count_each(git: Git, tmp_path: Path) -> None:
    base = git("rev-parse", "HEAD")
    commit(git, f"One\n\n{TRAILER}")
    newest = commit(git, f"Two\n\n{TRAILER}\nAccept-slowdown: fused end_to_end fp16 1000 up to 2.5 %: a copy")
    found = find_acceptances(tmp_path, base, newest)
    assert {row: (one.bound, one.commit) for row, one in found.items()} == {
        ROW: (0.08, newest),
        "fused end_to_end fp16 1000": (0.025, newest),
    }


def test_two_bounds_for_a_row_are_refused(git: Git, tmp_path: Path) -> None:
    base = git("rev-parse", "HEAD")
    first = commit(git, f"One\n\n{TRAILER}")
    second = commit(git, f"Two\n\n{TRAILER.replace('8%', '9%')}")
    with pytest.raises(GateError, match="two commits accept different") as caught:
        find_acceptances(tmp_path, base, second)
    assert f"{first[:12]}: up to 8%" in caught.value.found
    assert f"{second[:12]}: up to 9%" in caught.value.found


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (f"{ROW}: it is better", "no bound"),
        (f"{ROW} up to 8: it is better", "no bound"),
        ("", "no bound"),
        ("up to 8%: it is better", "no row"),
        (f"{ROW} up to 8%", "no reason"),
        (f"{ROW} up to 8%:", "no reason"),
        (f"{ROW} up to 8% it is better", "no reason"),
        (f"{ROW} up to 0%: nothing", "a bound that cannot be used"),
        (f"{ROW} up to -3%: faster", "a bound that cannot be used"),
        (f"{ROW} up to 1001%: much", "a bound that cannot be used"),
        (f"{ROW} up to nan%: much", "a bound that cannot be used"),
        (f"{ROW} up to 1e1%: much", "a bound that cannot be used"),
        (f"{ROW} up to eight%: much", "a bound that cannot be used"),
    ],
)
def test_an_unusable_trailer_is_refused_with_its_commit(git: Git, tmp_path: Path, value: str, problem: str) -> None:
    base = git("rev-parse", "HEAD")
    made = commit(git, f"Change\n\nReviewed-by: B <b@example.org>\nAccept-slowdown: {value}")
    with pytest.raises(GateError, match=f"commit {made[:12]} has an Accept-slowdown with {problem}") as caught:
        find_acceptances(tmp_path, base, made)
    assert caught.value.found == (value or "nothing")
    assert "Accept-slowdown: ROW up to 8%: REASON" in caught.value.wanted
    assert f"git rebase --interactive {made[:12]}^" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trailer.separators", "#"),
        ("i18n.logOutputEncoding", "UTF-16"),
        ("color.ui", "always"),
        ("format.pretty", "%s"),
    ],
)
def test_a_users_settings_of_git_change_nothing(git: Git, tmp_path: Path, name: str, value: str) -> None:
    base = git("rev-parse", "HEAD")
    commit(git, f"Change\n\n{TRAILER} ± 1")
    git("config", name, value)
    found = find_acceptances(tmp_path, base, git("rev-parse", "HEAD"))
    assert found[ROW].reason == "exact sums, see the pull request ± 1"


def test_a_signatures_check_is_not_read(git: Git, tmp_path: Path) -> None:
    base = git("rev-parse", "HEAD")
    signer = tmp_path / "gpg"
    signer.write_text(
        "#!/bin/sh\ncat > /dev/null; echo '[GNUPG:] SIG_CREATED ' >&2; echo signature; echo 'gpg: checked' >&2\n"
    )
    signer.chmod(0o755)
    git("config", "gpg.program", str(signer))
    git("config", "log.showSignature", "true")
    git("commit", "--quiet", "--allow-empty", "--gpg-sign", "--file=-", message=f"Change\n\n{TRAILER}")
    assert accepted(git, tmp_path, base) == {ROW: 0.08}


def test_a_folded_trailer_is_one_line(git: Git, tmp_path: Path) -> None:
    base = git("rev-parse", "HEAD")
    made = commit(git, f"Change\n\naccept-slowdown: {ROW}\n  up to 8%:\n  a long reason")
    assert find_acceptances(tmp_path, base, made) == {ROW: Acceptance(ROW, 0.08, "a long reason", made)}


def test_a_missing_commit_is_an_error_in_gits_words(git: Git, tmp_path: Path) -> None:
    with pytest.raises(GateError, match="messages cannot be read") as caught:
        find_acceptances(tmp_path, "0" * 40, git("rev-parse", "HEAD"))
    assert "0" * 40 in caught.value.found


def test_a_row_that_is_not_measured_is_refused_with_the_names_that_are_near() -> None:
    acceptances = {"pytorch forwards fp32 1": Acceptance("pytorch forwards fp32 1", 0.08, "why", "a" * 40)}
    with pytest.raises(GateError, match="commit aaaaaaaaaaaa accepts a slow-down of a row") as caught:
        refuse_unknown(acceptances, [ROW, "fused forward fp32 1"])
    assert caught.value.found == "pytorch forwards fp32 1"
    assert caught.value.hint.startswith(f"did you mean {ROW}")
    refuse_unknown({ROW: Acceptance(ROW, 0.08, "why", "a" * 40)}, [ROW])


@given(row=st.from_regex(r"[a-z_\[\]0-9]+( [a-z_0-9]+){1,4}", fullmatch=True), tenths=st.integers(1, 10_000))
def test_what_is_written_is_read(row: str, tenths: int) -> None:
    read = _parse(f"{row} up to {tenths / 10:g}%: a: reason 100% sure", "a" * 40)
    assert (read.row, read.reason) == (row, "a: reason 100% sure")
    assert read.bound == pytest.approx(tenths / 1000)

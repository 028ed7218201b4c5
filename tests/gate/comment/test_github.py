"""The whole command against a server that answers as GitHub does, as far as its documentation says."""

import io
import json
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from lenet.errors import GateError
from lenet.gate.comment.__main__ import main
from lenet.gate.comment.github import find_run
from tests.gate.comment.outcomes import HEAD, MERGE, RUN, document, encoded, row

ROOT = Path(__file__).parents[3]
TOKEN = "token-of-the-workflow"  # noqa: S105 - of no one
BOT = {"login": "github-actions[bot]", "type": "Bot"}


@dataclass
class Site:
    """What the server has, and what it was asked.

    Attributes:
        artefact: The archive's bytes; None for a run without one.
        pulls: The open pull requests.
        comments: The comments of pull request 7.
        statuses: The statuses that were written, with the commit.
        files: The files that pull request 7 changes.
        failing: A method and the beginning of a path that are answered with this code.
        asked: Method and path of each request.
    """

    url: str = ""
    artefact: bytes | None = None
    pulls: list[dict[str, Any]] = field(default_factory=list)
    comments: list[dict[str, Any]] = field(default_factory=list)
    statuses: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)
    failing: tuple[str, str, int] | None = None
    asked: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        if self.failing and method == self.failing[0] and path.startswith(self.failing[1]):
            return self.failing[2], {"message": "Resource not accessible by integration\n::error::no"}
        if path == "/actions/runs/123/artifacts":
            kept = [] if self.artefact is None else [self.listed()]
            return 200, {"artifacts": [one for one in kept if one["name"] == query["name"]]}
        if path == "/pulls":
            return 200, [one for one in self.pulls if query["head"] == f"{one['owner']}:{one['head']['ref']}"]
        if path == "/pulls/7/files":
            return 200, self.page(self.files, query)
        if path == "/issues/7/comments" and method == "GET":
            return 200, self.page(self.comments, query)
        if path == "/issues/7/comments":
            self.comments.append({"id": 1000 + len(self.comments), "user": BOT, "body": body["body"]})
            return 201, self.comments[-1]
        if method == "PATCH" and (found := re.fullmatch(r"/issues/comments/(\d+)", path)):
            one = next(one for one in self.comments if one["id"] == int(found[1]))
            one["body"] = body["body"]
            return 200, one
        if method == "POST" and path.startswith("/statuses/"):
            self.statuses.append((path.removeprefix("/statuses/"), body))
            return 201, body
        return 404, {"message": "Not Found"}

    def listed(self) -> dict[str, Any]:
        return {"id": 55, "name": "gate-1", "expired": False, "size_in_bytes": len(self.artefact or b"")}

    @staticmethod
    def page(found: list[Any], query: dict[str, str]) -> list[Any]:
        size, page = int(query["per_page"]), int(query["page"])
        return found[size * (page - 1) : size * page]


@pytest.fixture
def site() -> Iterator[Site]:
    """A site whose one pull request, 7, has the run's commit."""
    held = Site(artefact=archive(encoded(document())), pulls=[pull()])

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            held.asked.append(f"{self.command} {parts.path}")
            if parts.path == "/elsewhere.zip":
                assert "Authorization" not in self.headers
                return self.send(200, held.artefact or b"")
            if self.headers["Authorization"] != f"Bearer {TOKEN}":
                return self.send(401, b"{}")
            path = parts.path.removeprefix("/repos/o/r")
            if path == "/actions/artifacts/55/zip":
                return self.send(302, b"", location=f"{held.url}/elsewhere.zip")
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            code, answer = held.answer(self.command, path, query, body)
            return self.send(code, json.dumps(answer).encode())

        do_GET = do_POST = do_PATCH = handle_any  # noqa: N815 - as http.server calls them

        def send(self, code: int, content: bytes, location: str | None = None) -> None:
            self.send_response(code)
            if location:
                self.send_header("Location", location)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        held.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield held
        server.shutdown()
        thread.join()


def archive(content: bytes) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("gate.json", content)
    return written.getvalue()


def pull(number: int = 7, owner: str = "ana", branch: str = "faster", **head: Any) -> dict[str, Any]:
    found = {"sha": HEAD, "ref": branch, "repo": {"id": 99}} | head
    return {"number": number, "owner": owner, "head": found, "base": {"ref": "main"}, "merge_commit_sha": MERGE}


def event(**more: Any) -> dict[str, Any]:
    run = {
        "id": 123,
        "run_attempt": 1,
        "path": ".github/workflows/benchmark.yml",
        "event": "pull_request",
        "conclusion": "success",
        "head_sha": HEAD,
        "head_branch": "faster",
        "head_repository": {"id": 99, "owner": {"login": "ana"}},
        "pull_requests": [],
    }
    return {"action": "completed", "workflow_run": run | more}


Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def environment(site: Site, tmp_path: Path) -> dict[str, str]:
    """The variables that GitHub's runner sets, and the token."""
    return {
        "GITHUB_API_URL": site.url,
        "GITHUB_SERVER_URL": "https://github.example",
        "GITHUB_REPOSITORY": "o/r",
        "GITHUB_EVENT_PATH": str(tmp_path / "event.json"),
        "GITHUB_TOKEN": TOKEN,
    }


@pytest.fixture
def command(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run the command for an event."""

    def run(**more: Any) -> "subprocess.CompletedProcess[str]":
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        Path(environment["GITHUB_EVENT_PATH"]).write_text(json.dumps(event(**more)))
        code = main()
        return subprocess.CompletedProcess([], code, *capsys.readouterr())

    return run


@pytest.mark.programs
def test_nothing_needs_to_be_installed(site: Site, environment: dict[str, str]) -> None:
    Path(environment["GITHUB_EVENT_PATH"]).write_text(json.dumps(event()))
    program = [sys.executable, "-S", "-m", "lenet.gate.comment"]
    done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "PASS: none of 1 rows slower\nthe comment of pull request 7 is written\n"
    assert len(site.comments) == 1


def test_outside_of_a_workflow_it_says_so(environment: dict[str, str], command: Command) -> None:
    environment["GITHUB_TOKEN"] = environment["GITHUB_API_URL"] = ""
    done = command()
    assert done.returncode == 2
    assert "no GITHUB_API_URL, GITHUB_TOKEN" in done.stderr


def test_the_first_run_writes_one_comment_and_the_next_ones_update_it(site: Site, command: Command) -> None:
    assert command().stdout.endswith("the comment of pull request 7 is written\n")
    slow = [row("a", "FAIL", 1.083)]
    site.artefact = archive(encoded(document("FAIL", slow)))
    assert command(conclusion="failure").stdout.endswith("the comment of pull request 7 is updated\n")
    site.artefact = archive(encoded(document()))
    assert command().returncode == 0
    assert len(site.comments) == 1
    assert "### ✅ PASS: none of 1 rows slower" in site.comments[0]["body"]
    assert [(one["state"], one["description"]) for _, one in site.statuses] == [
        ("success", "PASS: none of 1 rows slower"),
        ("failure", "FAIL: 1 of 1 rows slower, the worst by 8.3%"),
        ("success", "PASS: none of 1 rows slower"),
    ]
    assert {sha for sha, _ in site.statuses} == {HEAD}
    assert {one["context"] for _, one in site.statuses} == {"gate: benchmark"}
    assert {one["target_url"] for _, one in site.statuses} == {RUN.url}


def test_comments_of_others_stay_even_with_the_marker(site: Site, command: Command) -> None:
    others: list[dict[str, Any]] = [
        {"id": 1, "user": {"login": "mallory", "type": "User"}, "body": f"{RUN.marker}\nmine"},
        {"id": 2, "user": {"login": "github-actions", "type": "User"}, "body": f"{RUN.marker}\nmine"},
        {"id": 3, "user": None, "body": f"{RUN.marker}\nof a deleted user"},
        {"id": 4, "user": BOT, "body": f"quoted: {RUN.marker}"},
        {"id": 5, "user": BOT, "body": RUN.marker.replace("benchmark", "gate-cpu")},
    ]
    site.comments = [dict(one) for one in others] + [{"id": 9, "user": BOT, "body": ""}] * 200
    assert [command().returncode for _ in range(2)] == [0, 0]
    assert site.comments[:5] == others
    assert len(site.comments) == 206
    assert site.comments[-1]["body"].startswith(RUN.marker)


@pytest.mark.parametrize(
    "other",
    [
        {"sha": "b" * 40},  # a newer push
        {"repo": {"id": 98}},  # another repository with a commit of this name
        {"repo": None},  # a deleted fork
    ],
)
def test_a_pull_request_of_another_commit_or_repository_gets_no_comment(
    site: Site, command: Command, other: dict[str, Any]
) -> None:
    site.pulls = [pull(**other)]
    done = command()
    assert (done.returncode, site.comments) == (0, [])
    assert "no open pull request" in done.stdout
    assert len(site.statuses) == 1


def test_the_right_one_is_found_among_pull_requests(site: Site, command: Command) -> None:
    site.pulls = [pull(5, sha="b" * 40), pull(6, repo={"id": 98}), pull(7), pull(8, owner="bob")]
    assert command().stdout.endswith("pull request 7 is written\n")


def test_two_pull_requests_of_one_commit_are_refused(site: Site, command: Command) -> None:
    site.pulls = [pull(7), pull(8)]
    done = command()
    assert (done.returncode, site.comments) == (2, [])
    assert "#7, #8" in done.stderr


def test_a_number_in_the_artefact_has_no_effect(site: Site, command: Command) -> None:
    site.artefact = archive(encoded(document(number=8, pull_request=8, head_sha="b" * 40, commits={"head": "b" * 40})))
    assert command().returncode == 0
    assert [sha for sha, _ in site.statuses] == [HEAD]
    assert "b" * 12 not in site.comments[0]["body"]


@pytest.mark.parametrize("content", [b"{", b'{"schema": 99}', b"[" * 100_000, b'{"schema": NaN}'])
def test_an_unusable_artefact_is_told_in_the_comment(site: Site, command: Command, content: bytes) -> None:
    site.artefact = archive(content)
    assert command().returncode == 0
    assert "### ⚠️ ERROR: no verdict" in site.comments[0]["body"]
    assert "cannot be used" in site.comments[0]["body"]
    assert site.statuses[0][1]["state"] == "error"


def test_a_run_without_a_table_is_told_in_the_comment(site: Site, command: Command) -> None:
    site.artefact = None
    assert command(conclusion="cancelled").returncode == 0
    assert "the run kept no table" in site.comments[0]["body"]
    assert "it ended as cancelled" in site.comments[0]["body"]


def test_a_large_artefact_is_not_fetched(site: Site, command: Command) -> None:
    site.artefact = b"\0" * (9 * 2**20)
    assert command().returncode == 0
    assert "9&#44;437&#44;184 bytes" in site.comments[0]["body"]
    assert not [one for one in site.asked if "zip" in one]


def test_a_pass_of_a_run_that_failed_is_no_pass(site: Site, command: Command) -> None:
    assert command(conclusion="failure").returncode == 0
    assert "ERROR: no verdict" in site.comments[0]["body"]
    assert site.statuses[0][1]["state"] == "error"


def test_an_advisory_fail_blocks_nothing(site: Site, command: Command) -> None:
    site.artefact = archive(encoded(document("FAIL", [row("a", "FAIL", 1.083)])))
    assert command(path=".github/workflows/gate-cpu.yml").returncode == 0
    status = site.statuses[0][1]
    assert (status["state"], status["context"]) == ("success", "gate: gate-cpu")
    assert status["description"] == "FAIL (advisory): 1 of 1 rows slower, the worst by 8.3%"


def test_files_that_decide_the_measurement_are_named(site: Site, command: Command) -> None:
    site.files = [{"filename": f"docs/{number}.md"} for number in range(150)]
    assert command().returncode == 0
    assert "changes what measures it" not in site.comments[0]["body"]
    moved = {"filename": "other.py", "previous_filename": "lenet/gate/decision.py"}
    site.files += [moved, {"filename": "tests/conftest.py"}, {"filename": ".github/workflows/benchmark.yml"}]
    assert command().returncode == 0
    line = next(line for line in site.comments[0]["body"].split("\n") if "changes what measures it" in line)
    assert line.count("<code>") == 3


@pytest.mark.parametrize(
    ("method", "path", "code", "advice"),
    [
        ("GET", "/actions/runs", 403, "compare the permissions"),
        ("GET", "/pulls", 500, "re-run this job"),
        ("POST", "/statuses", 403, "compare the permissions"),
        ("POST", "/issues", 403, "compare the permissions"),
        ("POST", "/issues", 502, "re-run this job"),
        ("PATCH", "/issues", 404, "compare the permissions"),
    ],
)
def test_a_refusal_of_github_is_told(
    site: Site, command: Command, method: str, path: str, code: int, advice: str
) -> None:
    site.failing = (method, path, code)
    if method == "PATCH":
        site.comments = [{"id": 9, "user": BOT, "body": RUN.marker}]
    done = command()
    assert done.returncode == 2
    assert f"GitHub refuses {method} {path}" in done.stderr
    assert f"found:  {code} " in done.stderr
    assert advice in done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert "::" not in done.stdout + done.stderr


def test_a_silent_github_is_told(environment: dict[str, str], command: Command) -> None:
    environment["GITHUB_API_URL"] = "http://127.0.0.1:9"
    done = command()
    assert done.returncode == 2
    assert "GitHub does not answer GET /actions/runs/123/artifacts" in done.stderr


@pytest.mark.parametrize(
    "more",
    [
        {"event": "push"},
        {"event": "pull_request_target"},
        {"path": ".github/workflows/other.yml"},
        {"head_sha": "HEAD\n::error::no"},
        {"head_repository": None},
        {"id": "x"},
    ],
)
def test_another_event_is_refused_before_anything_is_asked(site: Site, command: Command, more: dict[str, Any]) -> None:
    done = command(**more)
    assert done.returncode == 2
    assert "the event is not one to write a comment for" in done.stderr
    assert "::" not in done.stderr
    assert site.asked == []


@pytest.mark.parametrize("found", [None, [], {}, {"workflow_run": {}}, {"workflow_run": []}])
def test_what_is_no_event_is_refused(found: Any) -> None:
    with pytest.raises(GateError, match="the event is not one"):
        find_run(found, "o/r", "https://github.example")


def test_a_branchs_name_is_no_part_of_a_request(site: Site, command: Command) -> None:
    branch = "x&state=closed#$(touch made)/../ä\n"
    site.pulls = [pull(branch=branch)]
    assert command(head_branch=branch).stdout.endswith("pull request 7 is written\n")

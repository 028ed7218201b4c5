"""What the comment needs of GitHub: the run, its artefact, its pull request, one comment and a status."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

from lenet import documents
from lenet.errors import GateError
from lenet.gate.comment.artefact import LARGEST_ARCHIVE

__all__ = ["GitHub", "GitHubError", "PullRequest", "Run", "find_run"]

_AUTHOR: Final = "github-actions[bot]"
"""Who writes with a workflow's token. No user can have a name with brackets."""
_WORKFLOWS: Final = {".github/workflows/benchmark.yml": False, ".github/workflows/gate-cpu.yml": True}
"""The workflows that run the gate, and whether one is advisory."""
_MEASURING: Final = re.compile(
    r"(\.github|\.ci|lenet/(gate|suite|measurement|parity|comparison))/.*|benchmarks/.*\.py"
    r"|(.*/)?conftest\.py|noxfile\.py|pyproject\.toml"
)
"""The files that decide how rows are measured and judged."""
_LARGEST_ANSWER: Final = 32 * 2**20
_PAGE: Final = 100
_MOST_PAGES: Final = 100
_TIMEOUT: Final = 60
_REFUSALS: Final = (401, 403, 404)
_SHA: Final = re.compile(r"[0-9a-f]{40}")
_AGAIN: Final = "re-run this job"
_COMPARE: Final = "compare the permissions in .github/workflows/gate-comment.yml with docs/how-to/pull-request.md"


class GitHubError(GateError):
    """GitHub does not answer, or refuses."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run of a workflow with the gate, as GitHub's event tells it.

    Attributes:
        workflow: The workflow's file, one that is known.
        advisory: Whether its verdict is advice.
        id: The run's number.
        attempt: Counts its re-runs, from 1.
        conclusion: How GitHub says that it ended.
        head_sha: The pull request's commit.
        head_repository: The number of the repository that the commit is in.
        head_owner: The repository's owner.
        head_branch: The commit's branch. Its author chose the name.
        url: The run's page.
        help_url: The page that explains the comment.
    """

    workflow: str
    advisory: bool
    id: int
    attempt: int
    conclusion: str
    head_sha: str
    head_repository: int
    head_owner: str
    head_branch: str
    url: str
    help_url: str

    @property
    def name(self) -> str:
        """The workflow's file without its ending, which names the comment and the status."""
        return self.workflow.rpartition("/")[2].removesuffix(".yml")

    @property
    def marker(self) -> str:
        """The comment's first line, which nobody sees."""
        return f"<!-- lenet-bench gate: {self.name} -->"


@dataclass(frozen=True, slots=True)
class PullRequest:
    """A pull request.

    Attributes:
        number: Its number.
        base_ref: The branch that it goes into.
        merge_commit: What GitHub makes of both now; None if they conflict.
        own_measure: The files that it changes and that decide how it is measured.
    """

    number: int
    base_ref: str
    merge_commit: str | None
    own_measure: tuple[str, ...] = ()


def find_run(event: Any, repository: str, server: str) -> Run:
    """The run in the event ``workflow_run``.

    Args:
        event: The event, as GitHub hands it to a workflow.
        repository: The repository, ``OWNER/NAME``.
        server: GitHub's address.

    Raises:
        GateError: It is no finished run of a known workflow for a pull request.
    """
    try:
        run = event["workflow_run"]
        workflow = run["path"].partition("@")[0]
        owner = run["head_repository"]
        number, attempt = int(run["id"]), int(run["run_attempt"])
        found = Run(
            workflow=workflow,
            advisory=_WORKFLOWS.get(workflow, True),
            id=number,
            attempt=attempt,
            conclusion=str(run["conclusion"]),
            head_sha=str(run["head_sha"]),
            head_repository=int(owner["id"]),
            head_owner=str(owner["owner"]["login"]),
            head_branch=str(run["head_branch"]),
            url=f"{server}/{repository}/actions/runs/{number}/attempts/{attempt}",
            help_url=f"{server}/{repository}/blob/HEAD/docs/how-to/pull-request.md",
        )
        usable = run["event"] == "pull_request" and workflow in _WORKFLOWS and _SHA.fullmatch(found.head_sha)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _unlike(f"{type(error).__name__}: {error}") from error
    if not usable:
        raise _unlike(f"{run['event']} of {workflow} at {found.head_sha}")
    return found


class GitHub:
    """GitHub's REST interface for one repository.

    Args:
        api: Its address, such as ``https://api.github.com``.
        repository: ``OWNER/NAME``.
        token: The workflow's token.
    """

    def __init__(self, api: str, repository: str, token: str) -> None:
        self._root = f"{api}/repos/{quote(repository)}"
        self._token = token

    def artefact(self, run: Run) -> bytes:
        """The archive with what the run's gate wrote.

        Raises:
            GitHubError: GitHub does not give it.
            GateError: There is none, or it is too large.
        """
        name = f"gate-{run.attempt}"
        listed = self._get(f"/actions/runs/{run.id}/artifacts", name=name)["artifacts"]
        kept = [one for one in listed if one["name"] == name and not one["expired"]]
        if not kept:
            raise GateError(
                "the run kept no table",
                found=f"it ended as {run.conclusion}, without an artefact {name}",
                wanted="a gate that ends by itself, whatever its verdict",
                hint="read the run's log, then re-run it",
            )
        size = int(kept[0]["size_in_bytes"])
        if size > LARGEST_ARCHIVE:
            raise GateError(
                "the run's artefact cannot be used: it is too large",
                found=f"{size:,} bytes",
                wanted=f"at most {LARGEST_ARCHIVE:,} bytes",
                hint="read the table in the run's summary",
            )
        return self._ask("GET", f"/actions/artifacts/{int(kept[0]['id'])}/zip", largest=LARGEST_ARCHIVE + 1)

    def pull_request(self, run: Run) -> PullRequest | None:
        """The open pull request whose newest commit the run measured; None if there is none.

        The event does not name the pull request of a fork. So it is looked up by the fork's branch, and must be of that
        repository and have that commit.

        Raises:
            GitHubError: GitHub does not say.
            GateError: Several have it.
        """
        found = [
            one
            for one in self._pages("/pulls", state="open", head=f"{run.head_owner}:{run.head_branch}")
            if one["head"]["sha"] == run.head_sha
            and one["head"]["repo"] is not None
            and one["head"]["repo"]["id"] == run.head_repository
        ]
        if len(found) > 1:
            raise GateError(
                "several pull requests have the commit that was measured",
                found=", ".join(f"#{int(one['number'])}" for one in found),
                wanted="one, for the run does not say into which base it was merged",
                hint="read the table in the run's summary, or close the others",
            )
        if not found:
            return None
        number = int(found[0]["number"])
        changed = (name for file in self._pages(f"/pulls/{number}/files") for name in _names(file))
        own = tuple(sorted({name for name in changed if _MEASURING.fullmatch(name)}))
        return PullRequest(number, str(found[0]["base"]["ref"]), found[0].get("merge_commit_sha"), own)

    def put_comment(self, number: int, marker: str, body: str) -> str:
        """Write the comment, or bring it up to date if there is one.

        Only a comment of GitHub's own bot is changed, whoever else wrote the marker.

        Args:
            number: The pull request.
            marker: How the comment begins.
            body: The whole comment.

        Returns:
            ``written`` or ``updated``.

        Raises:
            GitHubError: GitHub refuses.
        """
        for one in self._pages(f"/issues/{number}/comments"):
            if one["user"] and one["user"]["login"] == _AUTHOR and str(one["body"]).startswith(marker):
                self._ask("PATCH", f"/issues/comments/{int(one['id'])}", {"body": body})
                return "updated"
        self._ask("POST", f"/issues/{number}/comments", {"body": body})
        return "written"

    def put_status(self, run: Run, state: str, description: str) -> None:
        """Write the status of the pull request's commit.

        Raises:
            GitHubError: GitHub refuses.
        """
        status = {"state": state, "description": description[:140], "target_url": run.url}
        self._ask("POST", f"/statuses/{run.head_sha}", status | {"context": f"gate: {run.name}"})

    def _pages(self, path: str, **query: str) -> Iterator[Any]:
        for page in range(1, _MOST_PAGES + 1):
            found = self._get(path, **query, per_page=str(_PAGE), page=str(page))
            yield from found
            if len(found) < _PAGE:
                return

    def _get(self, path: str, **query: str) -> Any:
        return documents.parse(self._ask("GET", f"{path}?{urlencode(query)}").decode())

    def _ask(
        self, method: str, path: str, body: Mapping[str, str] | None = None, largest: int = _LARGEST_ANSWER
    ) -> bytes:
        """An answer's content, at most so many bytes of it."""
        data = None if body is None else documents.to_json(body).encode()
        request = Request(f"{self._root}{path}", data, method=method)  # noqa: S310 - the address is the runner's
        request.add_header("Accept", "application/vnd.github+json")
        request.add_header("X-GitHub-Api-Version", "2022-11-28")
        # The artefact is at another host, which the token is not for.
        request.add_unredirected_header("Authorization", f"Bearer {self._token}")
        what = f"{method} {path.partition('?')[0]}"
        try:
            with urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310
                content: bytes = answer.read(largest)
        except HTTPError as error:
            with error:
                told = error.read(1000).decode(errors="replace")
            raise GitHubError(
                f"GitHub refuses {what}",
                found=f"{error.code} {told}",
                wanted="an answer of 200 or 201",
                hint=_COMPARE if error.code in _REFUSALS else _AGAIN,
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise GitHubError(
                f"GitHub does not answer {what}", found=f"{error}", wanted="an answer", hint=_AGAIN
            ) from error
        return content


def _names(file: Mapping[str, Any]) -> Iterator[str]:
    """A changed file's name, and the one that it had."""
    yield str(file["filename"])
    if "previous_filename" in file:
        yield str(file["previous_filename"])


def _unlike(found: str) -> GateError:
    return GateError(
        "the event is not one to write a comment for",
        found=found,
        wanted=f"workflow_run of a pull_request, of {' or '.join(_WORKFLOWS)}",
        hint="compare .github/workflows/gate-comment.yml with the workflows that it waits for",
    )

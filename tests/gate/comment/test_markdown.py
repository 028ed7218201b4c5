"""The comment as a browser shows it, whatever the artefact holds."""

import dataclasses
import re
import shlex
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from lenet.gate.acceptance import _parse
from lenet.gate.comment.artefact import Gate, parse
from lenet.gate.comment.markdown import LARGEST_COMMENT, code, headline, render
from tests.gate.comment.outcomes import HEAD, MERGE, PULL, RUN, document, encoded, row

TABLE = ("table", "thead", "tbody", "tr", "th", "td")
TAGS = {*("h3", "p", "strong", "code", "a", "ul", "li", "pre", "details", "summary"), *TABLE}
HOSTILE = [
    "<script>alert(1)</script>",
    "</code></td></tr></table></details><img src=x onerror=alert(1)>",
    "</pre></details> @everyone",
    "@everyone @octocat/team please look",
    "[click](https://evil.example) ![](https://evil.example/x.png) https://evil.example www.evil.example",
    "fixes #1, GH-1, other/repo#2, deadbeefdeadbeefdeadbeefdeadbeefdeadbeef",
    "a | b |\n\n# heading\n\n| x |\n|---|\n\n- [ ] task",
    "`code` ``` ~~~ $(touch made) `touch made` ; touch made",
    "${{ secrets.GITHUB_TOKEN }} {{7*7}}",
    "\x1b[31mred\x1b[0m \x07 \x00 \r\n::error::no ##[error]no",
    "safe \u202e txet \u2066 \u200b \ufeff \u0301\u0301\u0301",
    "&lt;b&gt; &#60;b&#62; \\<b> \\| <!-- lenet-bench gate: benchmark --> -->",
    "e@mail.example :smile: ~~x~~ **x** _x_ <https://evil.example> <b@evil.example>",
    "$x$ $$y$$ [^1] [x]: https://evil.example",
    "x" * 4000,
    "\U0001f600" * 4000,
    "<" * 4000,
    "",
    "   ",
    "> quote",
    "1. a",
    "    indented",
]


class Page(HTMLParser):
    """The comment's HTML: its tags, links, and the text outside of code."""

    def __init__(self, comment: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: set[str] = set()
        self.plain = ""
        self.coded = ""
        html = MarkdownIt("commonmark", {"html": True}).enable("table").enable("strikethrough").render(comment)
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        if tag == "a":
            self.links.add(str(dict(attrs)["href"]))
        else:
            assert [name for name, _ in attrs] in ([], ["style"]), attrs
            assert all(re.fullmatch(r"text-align:(right|left)", str(value)) for _, value in attrs)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_comment(self, data: str) -> None:
        assert data == " lenet-bench gate: benchmark "

    def handle_data(self, data: str) -> None:
        if {"code", "pre"} & {*self.open}:
            self.coded += data
        else:
            self.plain += data


def checked(comment: str) -> Page:
    """The page of a comment that is as each must be."""
    assert len(comment) <= LARGEST_COMMENT
    assert comment.startswith(RUN.marker + "\n")
    page = Page(comment)
    assert page.open == []
    assert page.links == {RUN.url, RUN.help_url}
    assert not re.search(r"@|https?:|www\.|#\d|\$\{|`|<|evil|\x1b|[\u200b-\u206f]", page.plain)
    assert not re.search(
        r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u0300-\u036f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]", page.coded
    )
    raw = re.sub(r"<code>([A-Za-z0-9 ]|&#\d+;)*</code>", "", comment)
    raw = re.sub(r"<pre>\n([A-Za-z0-9 \n]|&#\d+;)*\n</pre>", "", raw)
    assert not re.search(r"</?(code|pre)|[`@\[\]<>]evil|touch", raw)
    return page


def everywhere(text: str) -> Gate:
    """A gate with a text in each place that holds one."""
    why = {"line": text, "differences": []}
    accepted = {"bound": 0.08, "reason": text, "commit": MERGE}
    rows = [
        row(text, "FAIL", 1.08, reason=text, why=why),
        row(text, "FAIL", None, reason=text),
        row(text, "ACCEPTED", 1.06, reason=text, accepted=accepted),
        row(text, "INCONCLUSIVE", reason=text),
        row(text, reason=text),
    ]
    more: dict[str, Any] = {"machine": {"gpu": {"name": text}}, "stopped": text, "suite": [text], "reason": text}
    return parse(encoded(document("FAIL", rows, **more)))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_stays_a_text(text: str) -> None:
    page = checked(render(everywhere(text), RUN, dataclasses.replace(PULL, base_ref=text, own_measure=(text,) * 9)))
    shown = " ".join(text[:80].split())
    if shown.isascii() and shown.isprintable() and len(text) < 100:
        assert page.coded.count(shown) >= 9
    error = Gate("ERROR", text, error=(text, text, text))
    checked(render(error, RUN, PULL))
    gate = dataclasses.replace(everywhere(text), verdict="INCONCLUSIVE")
    checked(render(gate, RUN, PULL))
    assert re.fullmatch(r"[A-Z]+: [\w .,;%]+", headline(gate, RUN))


@settings(max_examples=60)
@given(
    text=st.text(alphabet=st.characters(exclude_categories=["Cs"]))
    | st.text(alphabet="<>/`|@#[](){}*_~$!\\&;:-=. \nax1")
)
def test_any_text_stays_a_text(text: str) -> None:
    checked(render(everywhere(text), RUN, PULL))


@pytest.mark.parametrize("name", ["\U000e0041" * 4000, "<" * 4000, "a"])
@pytest.mark.parametrize("verdict", ["FAIL", "ACCEPTED", "PASS"])
def test_the_largest_artefact_gives_a_comment_that_github_takes(name: str, verdict: str) -> None:
    accepted = {"bound": 0.08, "reason": name, "commit": MERGE}
    rows = [row(name, verdict, 1.05, reason=name, accepted=accepted)] * 5000
    found = document("PASS" if verdict == "ACCEPTED" else verdict, rows, suite=["--backend=fused"] * 200, stopped=name)
    comment = render(of_many(found), RUN, dataclasses.replace(PULL, base_ref=name, own_measure=(name,) * 3000))
    page = checked(comment)
    assert "more rows are in the run" in page.plain


def of_many(found: dict[str, Any]) -> Gate:
    """A gate of many equal rows, of which one is read."""
    rows = found["rows"]
    gate = parse(encoded(found | {"rows": rows[:1]}))
    return dataclasses.replace(gate, rows=gate.rows * len(rows))


def test_a_fail_shows_the_slow_rows_first_with_the_reason() -> None:
    why = {"line": "conv1: +18.2 us, 3 kernels where base has 2", "differences": []}
    rows = [row("fast"), row("slow", "FAIL", 1.031), row("worst", "FAIL", 1.083, why=why), row("gone", "FAIL", None)]
    gate = parse(encoded(document("FAIL", rows)))
    comment = render(gate, RUN, PULL)
    assert comment.split("\n")[2] == (
        "### ❌ FAIL: 2 of 4 rows slower, the worst by 8.3%; 1 of 4 rows no longer measured"
    )
    places = [checked(comment).coded.index(text) for text in ("gone", "worst", "conv1: +18.2 us", "slow", "fast")]
    assert places == sorted(places)
    assert comment.index("<details>") < comment.index(code("fast"))
    assert "| +8.3% | +7.9% to +8.8% | 1.00 ms | 1.08 ms |" in comment.replace("&nbsp;", " ")


def test_a_trailer_in_the_comment_can_be_pasted() -> None:
    gate = parse(encoded(document("FAIL", [row("pytorch forward fp32 1", "FAIL", 1.083)])))
    line = next(line for line in checked(render(gate, RUN, PULL)).coded.split("\n") if "Accept-slowdown" in line)
    read = _parse(line.removeprefix("Accept-slowdown: "), HEAD)
    assert (read.row, read.bound) == ("pytorch forward fp32 1", 0.09)


def test_an_accepted_row_is_shown_with_its_bound_and_reason() -> None:
    accepted = {"bound": 0.08, "reason": "exact sums", "commit": HEAD}
    gate = parse(encoded(document("PASS", [row("a"), row("b", "ACCEPTED", 1.06, accepted=accepted)])))
    comment = render(gate, RUN, PULL)
    assert "### ✅ PASS: 1 of 2 rows slower as accepted, none of the others" in comment
    assert f"accepted up to +8.0%: {code('exact sums')}" in comment.partition("<details>")[0]


def test_an_inconclusive_gate_says_why_and_what_to_do() -> None:
    found = document("INCONCLUSIVE", [row("a", "INCONCLUSIVE"), row("b")], stopped="the budget is used")
    comment = render(parse(encoded(found)), RUN, PULL)
    assert "### ❔ INCONCLUSIVE: 1 of 2 rows undecided" in comment
    assert f"{code('the budget is used')}. Re-run the job." in comment.partition("<details>")[0]


def test_an_advisory_run_says_so() -> None:
    run = dataclasses.replace(RUN, workflow=".github/workflows/gate-cpu.yml", advisory=True)
    comment = render(parse(encoded(document())), run, PULL)
    assert "### ✅ PASS (advisory): none of 1 rows slower" in comment
    assert "nothing is blocked" in comment
    assert run.marker != RUN.marker


def test_a_pull_request_that_changes_the_gate_is_marked() -> None:
    pull = dataclasses.replace(PULL, own_measure=tuple(f"lenet/gate/{number}.py" for number in range(10)))
    comment = render(parse(encoded(document())), RUN, pull)
    assert "changes what measures it" in comment.partition("<details>")[0]
    assert "and 2 more" in comment
    assert "changes what measures it" not in render(parse(encoded(document())), RUN, PULL)


def commands(gate: Gate) -> list[list[str]]:
    coded = checked(render(gate, RUN, PULL)).coded
    return [shlex.split(line, comments=True) for line in coded[coded.index("git fetch") :].strip().split("\n")]


def test_the_commands_measure_the_merge_that_github_made() -> None:
    gate = parse(encoded(document(suite=["--backend=pytorch", "--batch-size=1"])))
    assert commands(gate) == [
        ["git", "fetch", "origin", MERGE],
        ["git", "switch", "--detach", MERGE],
        ["nox", "-s", "gate", "--", "--base", "HEAD^1", "--backend=pytorch", "--batch-size=1"],
    ]


def test_a_commit_of_the_artefact_alone_is_not_to_be_run() -> None:
    gate = parse(encoded(document(commits={"head": "e" * 40})))
    assert commands(gate) == [
        ["git", "fetch", "origin", "main", HEAD],
        ["git", "switch", "--detach", HEAD],
        ["nox", "-s", "gate", "--", "--base", "origin/main"],
    ]
    assert "e" * 12 not in render(gate, RUN, PULL)


@pytest.mark.parametrize(
    "option", ["; touch made", "--basetemp=/", "-p", "--backend=$(touch made)", "--rounds=1\n-p x"]
)
def test_an_option_that_is_not_known_is_not_to_be_typed(option: str) -> None:
    gate = parse(encoded(document(suite=["--backend=pytorch", option])))
    assert commands(gate)[2] == ["nox", "-s", "gate", "--", "--base", "HEAD^1"]
    assert commands(gate)[3] == []


def test_a_branchs_name_is_no_command(tmp_path: Path) -> None:
    pull = dataclasses.replace(PULL, base_ref="$(touch${IFS}made);`touch${IFS}made`", merge_commit=None)
    coded = checked(render(parse(encoded(document())), RUN, pull)).coded
    script = f"git() {{ :; }}; nox() {{ :; }}\n{coded[coded.index('git fetch') :]}"
    subprocess.run(["bash", "-eu", "-c", script], cwd=tmp_path, check=True)
    assert not list(tmp_path.iterdir())

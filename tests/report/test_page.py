"""The command as a person runs it, and the page's text; `test_browser.py` looks at it in a browser."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from matplotlib.figure import Figure

from lenet.architecture import STAGES
from lenet.cli import main
from lenet.measurement.identity import ThisMachine
from lenet.report import sources
from lenet.report.language import ENGLISH
from lenet.report.page import render
from tests.report import documents


def report(*arguments: str | Path, out: Path) -> tuple[Result, str]:
    result = CliRunner().invoke(main, ["report", "--out", str(out), *map(str, arguments)])
    return result, out.read_text() if out.exists() else ""


def check_that_it_is_named(result: Result, page: str, bad: Path, found: str) -> None:
    """A bad file, and what is wrong with it, are named by the command and on the page, which has the rest."""
    assert result.exit_code == 1, result.exception
    text = Text(page).text
    for said in (result.stderr, text):
        assert str(bad) in said
        assert found in said
    assert "pytorch-compile, forward: 1.18 times as fast" in text


class Text(HTMLParser):
    """The page's tags, and its text without styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._within = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._within = tag
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self._within != "style":
            self.words.append(data.strip())

    @property
    def text(self) -> str:
        return re.sub(r"[ \n]+", " ", " ".join(self.words))


@pytest.fixture
def everything(tmp_path: Path) -> list[str | Path]:
    files = [
        documents.measurement(tmp_path / f"{number}.json", batches=(1, 1000), number=number) for number in range(2)
    ]
    return [
        *files,
        *("--run", documents.run_directory(tmp_path / "run")),
        *("--parity", documents.parity(tmp_path / "parity.json")),
        *("--gate", documents.gate(tmp_path / "gate.json")),
    ]


def test_all_that_was_given_is_on_the_page(everything: list[str | Path], tmp_path: Path) -> None:
    result, page = report(*everything, out=tmp_path / "report.html")
    assert result.exit_code == 0, result.output
    assert f"{tmp_path / 'report.html'}: {len(page.encode()):,} bytes\n" == result.stdout
    read = Text(page)
    text = read.text
    for stage in STAGES:
        assert stage.layer.name in text
    assert "62,006 parameters, 1,303,440 floating-point operations" in text
    assert "pytorch-compile, forward: 1.18 times as fast as pytorch, 15.0\N{NO-BREAK SPACE}% less time." in text
    assert "pytorch, end to end: 2.00 times its forward pass" in text
    assert "0.7997119 0.7223" in text
    assert "tensorrt is not installed" in text
    assert "FAIL" in text
    assert "+10.0\N{NO-BREAK SPACE}% [+8.0\N{NO-BREAK SPACE}%; +∞] conv1: +18.0 us" in text
    assert "Figure 1. Mean loss" in text
    assert "000000200000" in text
    assert "Not measured." not in text
    assert "Limits, measured: fp32 2.00, fp16 4.00 TFLOP/s; memory 200, from pinned memory 24.0" in text
    # 2 curves, the architecture, bars and splits of 2 conditions, boxes of 4, scaling of 2 modes, history of 4, a roof
    assert "✘ FAIL" in text
    assert "8 of 8" in text
    assert sum(tag == "svg" for tag, _ in read.tags) == 3 + 2 + 2 + 4 + 2 + 4 + 1


def test_a_precision_whose_rate_is_not_known_has_no_roof(tmp_path: Path) -> None:
    file = documents.measurement(tmp_path / "1.json", batches=(1, 1000))
    _, whole = report(file, out=tmp_path / "report.html")
    document = json.loads(file.read_text())
    del document["lenet"]["limits"]["arithmetic"]["fp32"]
    file.write_text(json.dumps(document))
    result, page = report(file, out=tmp_path / "report.html")
    assert result.exit_code == 0, result.output
    assert page.count("<svg") == whole.count("<svg") - 1


def test_what_was_not_given_is_named_and_not_drawn(tmp_path: Path) -> None:
    file = documents.measurement(tmp_path / "1.json", rounds=1)
    document = json.loads(file.read_text())
    document["lenet"]["not_run"] = [{"name": "tripy-forward", "reason": "tripy runs on cuda alone"}]
    document["benchmarks"] = [one for one in document["benchmarks"] if "end" not in one["extra_info"]["case"]["mode"]]
    del document["lenet"]["limits"]
    for one in document["benchmarks"]:
        del one["stats"]["data"]
        del one["extra_info"]["floor"]
    file.write_text(json.dumps(document))
    result, page = report(file, out=tmp_path / "report.html")
    assert result.exit_code == 0, result.output
    text = Text(page).text
    for reason in (
        "(--run)",
        "(--parity)",
        "--benchmark-save-data",
        "One batch size",
        "No two commits",
    ):
        assert reason in text
    assert "No end-to-end row" in text
    assert "The machine's limits were not measured" in text
    assert "tripy runs on cuda alone tripy-forward" in text
    assert page.count("<svg") == 2  # the architecture and the bars
    assert "no difference from pytorch can be claimed" in text  # one round has no interval


def test_the_same_files_give_the_same_page(everything: list[str | Path], tmp_path: Path) -> None:
    assert report(*everything, out=tmp_path / "a.html")[1] == report(*everything, out=tmp_path / "b.html")[1]


def test_russian(everything: list[str | Path], tmp_path: Path) -> None:
    _, page = report(*everything, "--lang", "ru", out=tmp_path / "report.html")
    text = Text(page).text
    assert '<html lang="ru">' in page
    assert "Лист 5 из 5 Быстродействие" in text
    assert "ускорение относительно pytorch — 1,18×, время меньше на 15,0\N{NO-BREAK SPACE}%" in text
    assert "1\N{NO-BREAK SPACE}303\N{NO-BREAK SPACE}440" in text
    english = re.findall(
        r"[a-z]{3,} [a-z]{3,} [a-z]{3,}", re.sub(r'<[^>]*lang="en".*?</\w+>', "", page[page.index("<body>") :])
    )
    allowed = (
        "lenet report",
        "lenet evaluate",
        "pytorch forward",
        "onnxruntime forward",
        "-compile forward",
        "pytorch",
    )
    assert [words for words in english if not words.startswith(allowed) and "style" not in words] == []


HOSTILE = "<script>document.title='taken'</script>\" onload=\"x $x^2$ &amp; {{ 7*7 }} ]]> #1b6ca8"


def test_text_of_a_file_stays_text(tmp_path: Path) -> None:
    file = documents.measurement(
        tmp_path / "1.json", backends=("pytorch", HOSTILE, "_hidden"), batches=(1, 10), name=HOSTILE
    )
    documents.change(file, ("lenet", "not_run"), [{"name": HOSTILE, "reason": HOSTILE}])
    gate = documents.gate(tmp_path / "gate.json")
    gate.write_text(gate.read_text().replace("pytorch forward fp32 1", json.dumps(HOSTILE)[1:-1]))
    result, page = report(file, "--gate", gate, out=tmp_path / "report.html")
    assert result.exit_code == 0, result.output
    read = Text(page)
    assert not [tag for tag, _ in read.tags if tag == "script"]
    assert not [name for _, attributes in read.tags for name in attributes if name.startswith("on")]
    assert HOSTILE.replace("&amp;", "&amp;") in read.text
    assert "$x^2$" in read.text
    assert "49 " not in read.text.partition("{{ 7*7 }}")[2][:10]
    assert "_hidden" in read.text


def test_machines_of_one_name_are_told_apart_by_their_newest_run(tmp_path: Path) -> None:
    files = [
        documents.measurement(tmp_path / f"{number}.json", fingerprint=f"f{number}", name=name, number=number)
        for number, name in enumerate(("A GPU", "A GPU", "Another"))
    ]
    _, page = report(*files, out=tmp_path / "report.html")
    heads = re.findall(r'<h2 id="machine-\d-title"[^>]*>(.*?)</h2>', page)
    assert heads == ["The coursework's condition", "A GPU, 2026-11-02 00:00", "A GPU, 2026-11-01 00:00"]
    assert "<h1>Another</h1>" in page
    assert "TriPy was not measured on A GPU, 2026-11-01 00:00." in Text(page).text


def test_machines_are_never_mixed(tmp_path: Path) -> None:
    one = documents.measurement(tmp_path / "1.json", fingerprint="f1", name="GPU one")
    other = documents.measurement(tmp_path / "2.json", fingerprint="f2", name="GPU two", number=1)
    _, page = report(one, other, out=tmp_path / "report.html")
    for svg in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
        assert not ("GPU one" in svg and "GPU two" in svg)
    for table in re.findall(r"<table.*?</table>", page, flags=re.DOTALL):
        assert not ("GPU one" in table and "GPU two" in table)
    assert Text(page).text.count("No two commits of this machine") == 2


def test_nothing_to_report(tmp_path: Path) -> None:
    result, page = report("--storage", tmp_path, out=tmp_path / "report.html")
    assert result.exit_code == 2
    assert "no runs of this machine yet: `nox -s bench`" in result.stderr
    assert page == ""


def test_without_files_this_machine_s_latest_run_and_its_baselines_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ThisMachine, "made", lambda _, facts: facts["gpu"]["name"] == "ours")
    monkeypatch.setattr(ThisMachine, "may_be", lambda _, kind: kind == "a-gpu")
    for place, number, name in (
        ("a-gpu/0001_baseline", 1, "ours"),
        ("a-gpu/0002_elsewhere", 5, "theirs"),
        ("local/a-gpu/0001_older", 2, "ours"),
        ("local/a-gpu/0002_latest", 3, "ours"),
        ("local/a-gpu/0003_copied", 4, "theirs"),
    ):
        path = tmp_path / f"{place}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        documents.measurement(path, number=number, name=name)
    result, page = report("--storage", tmp_path, out=tmp_path / "report.html")
    assert result.exit_code == 0, result.output
    assert "0001_baseline.json" in page
    assert "0002_latest.json" in page
    assert not re.search("older|elsewhere|copied", page)
    assert "An example" not in page


def test_the_example_is_labelled_in_each_language(tmp_path: Path) -> None:
    (tmp_path / "b-gpu").mkdir()
    documents.measurement(tmp_path / "b-gpu" / "0007_campaign.json")
    for language, label in (("en", "An example: the measurements"), ("ru", "Пример: измерения")):
        result, page = report("--storage", tmp_path, "--example", "--lang", language, out=tmp_path / "report.html")
        assert result.exit_code == 0, result.output
        assert label in page
        assert "0007_campaign.json" in page
    result, _ = report("--example", tmp_path / "b-gpu" / "0007_campaign.json", out=tmp_path / "report.html")
    assert result.exit_code == 2
    assert "--example takes the place of FILES" in result.stderr


def test_an_unwritable_path(tmp_path: Path) -> None:
    file = documents.measurement(tmp_path / "1.json")
    result, _ = report(file, out=tmp_path / "none" / "report.html")
    assert result.exit_code == 2
    assert f"cannot write {tmp_path / 'none' / 'report.html'}" in result.stderr


def plain_charts(count: int) -> float:
    """Processor time, in seconds, in which matplotlib draws so many charts of the same size and nothing but axes."""
    started = time.process_time()
    for _ in range(count):
        figure = Figure(figsize=(420 / 72, 300 / 72))
        figure.add_axes((0.1, 0.1, 0.8, 0.8)).plot([1, 2, 3], [1, 2, 3])
        figure.savefig(io.BytesIO(), format="svg")
    return time.process_time() - started


def test_ten_baselines_of_a_hundred_rows_build_fast_and_stay_small(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """In under 5 s where matplotlib draws a plain chart in 50 ms; on a slower or busier machine it may take more."""
    files = documents.ten_baselines(tmp_path)

    def build() -> tuple[str, float]:
        started = time.process_time()
        result, page = report(*files, out=tmp_path / "report.html")
        seconds = time.process_time() - started
        assert result.exit_code == 0, result.output
        record_property("report_seconds", seconds)
        return page, seconds / (5 * plain_charts(20))

    page, share = build()
    for _ in range(2):  # for what else the machine did meanwhile
        if share >= 1:
            share = build()[1]
    assert share < 1
    assert len(page.encode()) < 6_000_000
    assert page.count("<svg") == 1 + 10 + 10 + 20 + 4 + 20 + 2


@pytest.mark.parametrize(("verdict", "sign"), [("PASS", "✔"), ("FAIL", "✘"), ("INCONCLUSIVE", "?")])
def test_a_verdict_has_a_word_a_sign_and_a_colour(verdict: str, sign: str, tmp_path: Path) -> None:
    gate = documents.gate(tmp_path / "gate.json")
    gate.write_text(gate.read_text().replace("FAIL", verdict))
    _, page = report("--gate", gate, out=tmp_path / "report.html")
    shown = f'<strong class="verdict {verdict.lower()}" lang="en">{sign} {verdict}</strong>'
    assert page.count(shown) == (3 if verdict == "FAIL" else 2), "above the rows, at a slow row, and in each row"


def test_the_measured_weights_are_named_with_their_own_accuracy(tmp_path: Path) -> None:
    file = documents.measurement(tmp_path / "1.json")
    digest = documents.WEIGHTS[:12]
    by_file = Text(report(file, out=tmp_path / "report.html")[1]).text
    assert f"Accuracy of the measured weights 0.7223 weights {digest}, as their file says" in by_file
    assert by_file.count(f"weights {digest}") >= 4, "each table of measured rows names them"
    parity = documents.parity(tmp_path / "parity.json")
    document = json.loads(parity.read_text())
    document["backends"][0]["accuracy"] = 0.7111
    for weights, expected in ((documents.WEIGHTS, "0.7111 weights"), ("0" * 64, "0.7223 weights")):
        parity.write_text(json.dumps(document | {"weights": weights}))
        text = Text(report(file, "--parity", parity, out=tmp_path / "report.html")[1]).text
        assert f"Accuracy of the measured weights {expected} {digest}" in text


def test_weights_that_are_not_recorded_or_differ_have_no_accuracy(tmp_path: Path) -> None:
    file = documents.measurement(tmp_path / "1.json")
    documents.change(file, ("benchmarks", 0, "extra_info", "weights"), "0" * 64)
    assert "Accuracy of the measured weights several" in Text(report(file, out=tmp_path / "report.html")[1]).text
    document = json.loads(file.read_text())
    for one in document["benchmarks"]:
        del one["extra_info"]["weights"]
    file.write_text(json.dumps(document))
    assert "Accuracy of the measured weights unknown" in Text(report(file, out=tmp_path / "report.html")[1]).text


@pytest.mark.parametrize("reason", ["tripy runs on cuda alone", None])
def test_tripy_s_sheet_says_that_tripy_was_not_measured(reason: str | None, tmp_path: Path) -> None:
    file = documents.measurement(tmp_path / "1.json")
    documents.change(file, ("lenet", "not_run"), [{"name": "tripy-forward", "reason": reason}] if reason else [])
    text = Text(report(file, out=tmp_path / "report.html")[1]).text
    assert f"TriPy was not measured on A GPU. {reason or 'The run did not ask for it.'}" in text
    measured = documents.measurement(tmp_path / "2.json", backends=("pytorch", "tripy"))
    assert "TriPy was not measured" not in Text(report(measured, out=tmp_path / "report.html")[1]).text


def test_the_coursework_s_condition_comes_first_or_the_nearest_does(tmp_path: Path) -> None:
    file = documents.measurement(tmp_path / "1.json", batches=(1, 1000, 10_000), precisions=("fp16", "fp32"))
    text = Text(report(file, out=tmp_path / "report.html")[1]).text
    assert "Forward: pytorch-compile is the fastest, 1.73 ms a batch, 1.18 times as fast as pytorch." in text
    first = re.search(r"<figcaption>(.*)", report(file, out=tmp_path / "report.html")[1])
    assert first is not None
    assert first[1].startswith("LeNet, batch 1,000, fp32, ")
    assert "was not measured. This is the nearest" not in text
    file = documents.measurement(tmp_path / "1.json", batches=(1, 10), precisions=("fp16",))
    text = Text(report(file, out=tmp_path / "report.html")[1]).text
    assert "was not measured. This is the nearest" in text


def test_no_number_rests_on_an_unstable_row_without_its_mark(tmp_path: Path) -> None:
    file = documents.measurement(tmp_path / "1.json", batches=(1, 1000))
    document = json.loads(file.read_text())
    for one in document["benchmarks"]:
        one["extra_info"]["unstable"] = ["a long tail"]
    file.write_text(json.dumps(document))
    result, page = report(file, out=tmp_path / "report.html")
    assert result.exit_code == 0, result.output
    text = Text(page).text
    assert "0 of 8" in text
    assert not re.findall(r'<td class="best">', page)
    cells = re.findall(r'<td><a href="#machine-1-row-\d+">([^<]*)</a>', page)
    assert len(cells) == 12, "two modes by one precision, and by two batch sizes"
    assert all(cell.endswith(" !") for cell in cells)
    sentences = re.findall(r"<li>([^<]*(?:fastest|as fast as|its forward pass)[^<]*)</li>", page)
    measured = [one for one in sentences if "TensorRT" not in one]
    assert len(measured) >= 8
    assert all("Unstable: " in one for one in measured)
    for chart in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
        bars = re.findall(r'<text x="[\d.]+" y="[\d.]+">([\d.,]+[^<]*)</text>', chart) if "<rect" in chart else []
        assert all(label.endswith(" !") for label in bars if "style" not in label), bars
    assert text.count("a long tail") == 1, "a reason stands once, with its rows"


def test_two_runs_of_a_commit_are_one_point_of_its_history(tmp_path: Path) -> None:
    files = [documents.measurement(tmp_path / f"{number}.json", number=number) for number in range(2)]
    again = documents.measurement(tmp_path / "again.json", number=1)
    _, page = report(*files, again, out=tmp_path / "report.html")
    ticks = re.findall(r"<text[^>]*>(11-\d\d \w{7})</text>", page)
    assert sorted(set(ticks)) == ["11-01 0000001", "11-02 0000002"]
    assert len(ticks) == 2 * 2, "two charts of two commits"


CAMPAIGN = max((Path(__file__).parents[2] / ".benchmarks").glob("*/*_campaign.json"))


def test_the_campaign_s_report_is_small(tmp_path: Path) -> None:
    if not CAMPAIGN.exists():
        pytest.skip("the campaign is not in this copy of the project")
    out = tmp_path / "report.html"
    report(CAMPAIGN, out=out)
    assert out.stat().st_size < 1_000_000


def test_an_example_is_called_one(tmp_path: Path) -> None:
    found = sources.read([documents.measurement(tmp_path / "1.json")])
    label = "An example: the measurements that lenet-bench ships, not yours."
    assert label not in render(found, ENGLISH)
    assert label in render(replace(found, example=True), ENGLISH)

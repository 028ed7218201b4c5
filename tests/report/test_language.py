from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from lenet import backends
from lenet.backends.base import NO_GPU
from lenet.cli import main
from lenet.errors import PrecisionError
from lenet.measurement.energy import NoEnergyError, NvmlCounter, RaplCounter
from lenet.measurement.gpu_state import HARMFUL, throttling_problem
from lenet.measurement.host_state import slowed_problem
from lenet.measurement.protocol import Stop
from lenet.measurement.recorder import Samples, launch_problem
from lenet.measurement.statistics import instabilities, summarize
from lenet.report import language
from lenet.report.language import ENGLISH, LANGUAGES, find_language
from lenet.suite.facts import FINER, UNDERCUT
from lenet.training.evaluation import why_not_finite
from lenet.vocabulary import Precision

RUSSIAN = find_language("ru")
PACKAGE = Path(language.__file__).parent
METHODS = [("**.py", "python"), ("templates/*.html", "jinja2")]
OPTIONS = {"templates/*.html": {"newstyle_gettext": "true", "silent": "false"}}
KEYWORDS = {"text": None, "plural": (1, 2), "_": None, "gettext": None, "ngettext": (1, 2)}


def extracted() -> Catalog:
    catalog = Catalog()
    for _, _, message, _, _ in extract_from_dir(PACKAGE, METHODS, OPTIONS, KEYWORDS):
        catalog.add(message)
    return catalog


@pytest.mark.parametrize("code", [code for code in LANGUAGES if code != "en"])
def test_a_catalogue_has_every_message_of_the_code_and_no_other(code: str) -> None:
    with (PACKAGE / "locales" / f"{code}.po").open("rb") as file:
        translated = read_po(file, locale=code)
    wanted = {message.id for message in extracted() if message.id}
    assert {message.id for message in translated if message.id} == wanted
    for message in translated:
        strings = message.string if isinstance(message.string, tuple) else (message.string,)
        assert all(strings), message.id
        assert not message.fuzzy
        ids = message.id if isinstance(message.id, tuple) else (message.id,)
        if message.id:
            names = {tuple(sorted(re.findall(r"%\(\w+\)s|%%", text))) for text in (*ids, *strings)}
            assert len(names) == 1, message.id


@pytest.mark.parametrize(
    ("rounded", "english", "russian"),
    [
        ("1,234.50", "1,234.50", "1\N{NO-BREAK SPACE}234,50"),
        ("1.00", "1.00", "1,00"),
        ("1230", "1230", "1230"),
        ("-0.5", "-0.5", "-0,5"),
        ("9.5e-06", "9.5e-06", "9,5·10⁻⁶"),
        ("nan", "nan", "nan"),
    ],
)
def test_numbers_have_the_language_s_signs(rounded: str, english: str, russian: str) -> None:
    assert ENGLISH.number(rounded) == english
    assert RUSSIAN.number(rounded) == russian


@given(st.floats(-1e300, 1e300))
def test_no_digit_is_lost(value: float) -> None:
    assert [one for one in RUSSIAN.number(f"{value:,.3f}") if one.isdigit()] == [
        one for one in f"{value:,.3f}" if one.isdigit()
    ]


@pytest.mark.parametrize(("count", "word"), [(1, "поток"), (2, "потока"), (11, "потоков"), (21, "поток")])
def test_russian_has_three_plural_forms(count: int, word: str) -> None:
    one, many = "CPU, %(count)s thread", "CPU, %(count)s threads"
    assert RUSSIAN.plural(one, many, count) == f"процессор, {count} {word}"


def test_words_of_a_file_are_translated_where_they_are_the_project_s() -> None:
    assert RUSSIAN.known("CPU, 2 threads") == "процессор, 2 потока"
    assert RUSSIAN.known("CIFAR-10 test images") == "тестовые изображения CIFAR-10"
    assert RUSSIAN.known("%(x)s 100 %") == "%(x)s 100 %"


def test_a_per_cent_sign_stays_with_its_number() -> None:
    assert ENGLISH.text("%(a)s %%", a="5") == "5\N{NO-BREAK SPACE}%"


def test_why_energy_is_missing_is_translated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def forbidden(_: Path) -> str:
        raise PermissionError

    reasons = []
    for read in (lambda: RaplCounter(tmp_path), lambda: NvmlCounter(lambda: None)):
        with pytest.raises(NoEnergyError) as caught:
            read()
        reasons.append(str(caught.value))
    (tmp_path / "intel-rapl:0").mkdir()
    monkeypatch.setattr(Path, "read_text", forbidden)
    with pytest.raises(NoEnergyError) as caught:
        RaplCounter(tmp_path)
    for reason in (*reasons, str(caught.value)):
        assert ENGLISH.known(reason) == reason
        assert re.search(r"[\u0430-\u044f]{4}", RUSSIAN.known(reason)), reason


def made_reasons() -> Iterator[str]:
    """Reasons as the code makes them: why rows are unstable, and why backends and cases did not run."""
    steady = summarize([1.0, 1.01] * 20)
    worst = replace(steady, relative_half_width=0.1234, stddev=1.0, p99=5.0, autocorrelation=0.9)
    for adaptive in (False, True):
        unknown = replace(worst, relative_half_width=None)
        for summary in (worst, unknown, replace(unknown, rounds=5), replace(worst, minimum=0.0)):
            yield from instabilities(summary, adaptive=adaptive)
    yield from filter(None, (slowed_problem(9, 10), throttling_problem(9, 10, HARMFUL), launch_problem(launch_bound())))
    yield from (UNDERCUT, FINER.format("tf32"), why_not_finite(1, 10_000) or "")
    cpu = torch.device("cpu")
    for backend in map(backends.load, backends.names()):
        if "cpu" not in backend.devices:
            yield backend.probe(cpu).reason or ""
        for precision in Precision:
            try:
                backend.executed_precision(precision, cpu)
            except PrecisionError as error:
                yield error.found
        line = backends.entry(backend.name)
        yield backends.not_installed(replace(line, packages=(("no-such-package",),))) or ""
        yield backends.not_installed(replace(line, packages=(("pytest",),), build="no-such-package")) or ""
    yield NO_GPU


def launch_bound() -> Samples:
    rounds, every, none = np.ones(10), np.ones(10, dtype=bool), np.zeros(10, dtype=bool)
    return Samples(rounds, rounds, rounds, every, none, (), none, Stop.ROUNDS)


def test_the_reasons_that_the_code_makes_are_translated() -> None:
    reasons = list(made_reasons())
    assert len(reasons) > 50
    for reason in reasons:
        assert ENGLISH.known(reason) == reason
        told = RUSSIAN.known(reason)
        assert re.search(r"[\u0430-\u044f]{2}", told), reason
        assert not re.search(r"\b(the|is|of|not|measure|run)\b", re.sub(r"`[^`]*`", "", told)), told


def test_no_reason_on_the_russian_page_of_the_shipped_campaign_is_english(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = CliRunner().invoke(main, ["report", "--example", "--lang", "ru", "--out", str(page)])
    assert done.exit_code == 0, done.output
    reasons = re.findall(r'<span class="reason"([^>]*)>([^<]*)', page.read_text(encoding="utf-8"))
    assert len(reasons) > 5
    assert not [words for language, words in reasons if language or not re.search(r"[\u0430-\u044f]{2}", words)]


@pytest.mark.parametrize("words", ["", "no reason of ours", "failed " * 10_000, "%(x)s not installed"])
def test_other_words_of_a_file_stay_as_they_are(words: str) -> None:
    assert RUSSIAN.known(words) == words

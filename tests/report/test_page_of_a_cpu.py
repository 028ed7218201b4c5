"""What a page has of a CPU's rows: the sweep over threads, and the energy."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from lenet.measurement.energy import Energy
from lenet.results import Case, Throughput
from lenet.vocabulary import Mode
from tests.report import documents
from tests.report.test_page import Text, report


def row(backend: str, threads: int, *, asked: bool = True, joules: float | None = None) -> dict[str, Any]:
    """A forward row that is as many times faster as it has threads."""
    device = f"CPU, {threads} thread{'s' if threads > 1 else ''}"
    case = Case(
        *(backend, Mode.FORWARD, "fp32", "fp32", 1000, device, "images", None),
        cold_cache=False,
        protocol="coursework",
        threads=threads if asked else None,
    )
    found = documents.benchmark(case, 8e-3 / threads)
    if joules is not None:
        found["extra_info"]["energy"] = Energy("RAPL (package-0)", joules, 2.0, 4000, idle_watts=10.0).to_json()
    return found


def page(tmp_path: Path, rows: list[dict[str, Any]], *arguments: str) -> str:
    file = documents.measurement(tmp_path / "1.json", benchmarks=rows)
    result, found = report(file, *arguments, out=tmp_path / "report.html")
    assert result.exit_code == 0, result.output
    return found


def described(found: str, name: str) -> list[str]:
    """The descriptions of the charts in a part of the page."""
    part = re.search(rf'<div class="body" id="[^"]*-{name}">(.*?)</details>', found, re.DOTALL)
    return re.findall(r"<desc[^>]*>(.*?)</desc>", part[1], re.DOTALL) if part else []


def test_time_is_drawn_against_threads_asked_for_or_not(tmp_path: Path) -> None:
    rows = [row(backend, count, asked=count < 4) for count in (4, 1, 2) for backend in ("pytorch", "openvino")]
    found = page(tmp_path, rows)
    (text,) = described(found, "threads")
    assert text == "ms/batch. pytorch: 8.00, 4.00, 2.00; openvino: 8.00, 4.00, 2.00."
    assert found.partition("<figcaption>")[2].startswith("LeNet, batch 1,000, fp32, CPU, 4 threads")
    assert found.count("<figcaption>forward, fp32, batch 1,000, CPU, 1 thread") == 1  # the spread of its rounds
    (roof,) = described(found, "roofline")
    assert ", " not in roof  # a point each, of the most threads
    assert "Потоки процессора" in Text(page(tmp_path, rows, "--lang=ru")).text


def test_one_number_of_threads_is_no_sweep(tmp_path: Path) -> None:
    assert described(page(tmp_path, [row("pytorch", 2), row("openvino", 2)]), "threads") == []


def test_energy_is_drawn_in_its_parts(tmp_path: Path) -> None:
    rows = [row("pytorch", 2, joules=100.0), row("openvino", 2, joules=12.0), row("onnxruntime", 2)]
    found = page(tmp_path, rows)
    (text,) = described(found, "energy")
    assert text == "pytorch: idle power 5.00, above idle 20.0; openvino: idle power 3.00, above idle 0."
    assert "RAPL (package-0)" in Text(found).text
    assert "Дж на 1000 изображений" in page(tmp_path, rows, "--lang=ru")


@pytest.mark.parametrize("name", ["threads", "energy"])
def test_a_gpu_s_page_without_energy_has_neither(name: str, tmp_path: Path) -> None:
    _, found = report(documents.measurement(tmp_path / "1.json"), out=tmp_path / "report.html")
    assert f'-{name}"' not in found
    assert json.loads((tmp_path / "1.json").read_text())["benchmarks"]


@pytest.mark.parametrize("language", ["en", "ru"])
def test_the_page_speaks_of_nothing_that_a_cpu_lacks(tmp_path: Path, language: str) -> None:
    rows = [row(backend, 2) for backend in ("pytorch", "openvino")]
    for backend in "pytorch", "openvino":
        case = Case(
            *(backend, Mode.THROUGHPUT, "fp32", "fp32", 1000, "CPU, 2 threads", "images", None),
            cold_cache=False,
            protocol="coursework",
        )
        found = documents.benchmark(case, 4e-3)
        found["extra_info"]["throughput"] = asdict(Throughput(2, 8e-3, 9e-3, 9e-3, None, None))
        missing = "this machine has no RAPL: no package in /sys/class/powercap; virtual machines seldom have it"
        found["extra_info"] |= {"energy": None, "energy_missing": missing}
        rows.append(found)
    shown = page(tmp_path, rows, f"--lang={language}")
    text = " ".join(Text(shown).text.split())
    assert "coursework's gains shrink" not in text
    assert "copies alone" not in text
    assert "alone:" not in text
    told = {"en": "Nothing is copied.", "ru": "Ничего не копируется."}
    assert told[language] in text
    assert ("this machine has no RAPL" in text) == (language == "en")
    assert ("машины нет RAPL: в /sys/class/powercap" in text) == (language == "ru")
    assert len(described(shown, "throughput")) == 1

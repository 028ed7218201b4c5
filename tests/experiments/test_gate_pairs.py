"""The analyses of long series of pairs and of builds, on records with known answers."""

from __future__ import annotations

import json
import math
import random
import runpy
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lenet.gate.decision import Rule
from lenet.gate.pairs import TURNS
from tests.experiments.scripts import load
from tests.gate.fakes import plain


def record(percent: int, stage: int, pair: int, ratios: dict[str, float], **more: Any) -> dict[str, Any]:
    sides = {name: [[1e-3] * TURNS, [1e-3 * math.exp(ratio)] * TURNS] for name, ratio in ratios.items()}
    where = {"card": None, "percent": percent, "block": 0, "pair": pair, "stage": stage, "start": "forked"}
    return where | {"seconds": 2.0, "others": 0.0, "canary": [[1.0] * TURNS] * 2, "medians": sides} | more


def pairs(percent: int, stages: int, size: int, noise: Callable[[], float], **more: Any) -> list[dict[str, Any]]:
    slower = math.log1p(percent / 100)
    return [
        record(percent, stage, pair, {"slow": slower + noise(), "other": noise()}, slowed=["slow"], **more)
        for stage in range(stages)
        for pair in range(size)
    ]


def printed(records: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    file = tmp_path / "records.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in records))
    load("gate_pairs_analysis").main([str(file)])
    return capsys.readouterr().out


def cells(text: str, title: str, first: str) -> list[list[str]]:
    """The cells of a section's lines that begin like this."""
    section = text.split(f"## {title}")[1].split("\n## ", maxsplit=1)[0]
    return [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith(f"| {first} |")]


def test_every_gate_on_quiet_pairs_ends_as_it_must(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = random.Random(0)  # noqa: S311
    records = [one for percent in (0, 5) for one in pairs(percent, 2, 60, lambda: draw.gauss(0, 1e-3))]
    text = printed(records, tmp_path, capsys)
    together = "forked: whole gates of all 2 rows"
    # 7 pairs for a PASS of both: as many gates as begin with 30 pairs left in both stages.
    assert [line[2][:10] for line in cells(text, together, "slow")] == ["0 of 9: 0.", "5 of 5: 10"]
    assert [line[:2] for line in cells(text, together, "all rows")] == [["all rows", "0 %"], ["all rows", "5 %"]]
    (passing,), (failing,) = (cells(text, together, f"{percent} %") for percent in (0, 5))
    assert passing[1:] == ["PASS", "9 of 9: 100.0% [66.4%, 100.0%]", "7", "7", "14.0", "14.0"]
    assert failing[1:2] + failing[3:] == ["FAIL", "13", "13", "26.0", "26.0"]  # 7 pairs, and 6 to confirm
    assert cells(text, "forked: whole gates of one row", "other")[0][2].startswith("0 of ")
    spread = cells(text, "Spread of a pair's log ratio", "slow")[0]
    assert spread[:3] == ["slow", "forked", "240"]
    assert float(spread[3].strip("%")) == pytest.approx(0.135, abs=0.03)  # 1.35 standard deviations
    assert spread[4] == "-"


def test_short_stages_tell_what_a_number_of_pairs_decides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = random.Random(4)  # noqa: S311
    records = [*pairs(0, 1, 14, lambda: draw.gauss(0, 0.001)), *pairs(5, 2, 14, lambda: draw.gauss(0, 0.001))]
    text = printed(records, tmp_path, capsys)
    assert "No stage has pairs enough for forked: whole gates of one row." in text
    unchanged, slowed = (cells(text, "forked: one row, by", f"{percent} %") for percent in (0, 5))
    assert [line[1:3] for line in unchanged] == [["7", "8"], ["14", "4"]]  # `slow` at 0 %, and `other` in each stage
    assert [line[4].partition(":")[0] for line in unchanged] == ["8 of 8", "4 of 4"]
    assert [line[1:4:2] for line in slowed] == [
        ["7", "4 of 4: 100.0% [39.8%, 100.0%]"],
        ["14", "2 of 2: 100.0% [15.8%, 100.0%]"],
    ]
    assert [line[7].partition(":")[0] for line in slowed] == ["2 of 2", "1 of 1"]  # the last stage has no next one
    assert cells(text, "forked: median change by row", "slow")[0][2] == "+5.0%"


def test_gates_share_no_pair() -> None:
    script, draw = load("gate_pairs_analysis"), random.Random(1)  # noqa: S311
    records = pairs(2, 3, 90, lambda: draw.gauss(0, 0.02))
    (series,) = script.series_of(records).values()
    found = list(script.gates(series, ["slow", "other"], Rule()))
    assert len(found) > 3
    assert sum(gate.pairs for gate in found) <= len(records)
    assert sum(gate.seconds for gate in found) == 2.0 * sum(gate.pairs for gate in found)
    single = list(script.gates(series[:1], ["slow"], Rule()))
    assert sum(gate.pairs for gate in single) <= 90 - 2 * 30 + 60


def test_a_canary_that_moves_makes_a_gate_inconclusive() -> None:
    script = load("gate_pairs_analysis")
    moved = [[1.0] * TURNS, [1.1] * TURNS]
    (series,) = script.series_of(pairs(10, 2, 40, lambda: 0.0, canary=moved)).values()
    first = next(script.gates(series, ["slow", "other"], Rule()))
    assert (first.verdict, first.pairs, first.early) == ("INCONCLUSIVE", 6, frozenset())


def test_a_slow_down_that_the_next_stage_lacks_is_inconclusive() -> None:
    script = load("gate_pairs_analysis")
    records = [record(0, stage, pair, {"row": 0.1 * (stage == 0)}) for stage in (0, 1) for pair in range(40)]
    (series,) = script.series_of(records).values()
    first, second, *_ = script.gates(series, ["row"], Rule())
    assert (first.verdict, first.early, first.pairs) == ("INCONCLUSIVE", {"row"}, 6 + 7)
    assert (second.verdict, second.pairs) == ("PASS", 7)


def test_what_stages_share_and_how_signs_follow_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = random.Random(2)  # noqa: S311
    records = []
    for start, wide in (("forked", 0.01), ("fresh", 0.03)):
        for stage in range(20):
            offset, sign = draw.gauss(0, 0.02) * (start == "fresh"), 1
            for pair in range(30):
                sign = sign if draw.random() < 0.9 else -sign
                d = offset + sign * abs(draw.gauss(0, wide)) if start == "forked" else offset + draw.gauss(0, wide)
                records.append(record(0, stage, pair, {"row": d}, start=start))
    lines = {line[1]: line for line in cells(printed(records, tmp_path, capsys), "Spread of a pair's log ratio", "row")}
    fresh, forked = lines["fresh"], lines["forked"]
    assert float(fresh[4]) < 1e-6  # a threefold spread
    assert float(fresh[5].split("%")[0]) == pytest.approx(2, abs=1)
    assert float(fresh[6].strip("%")) == pytest.approx(3, abs=0.3)
    assert float(fresh[7]) < 1e-3
    assert float(forked[8]) > 0.25  # about the stage's own median
    assert float(forked[9]) < 1e-6


def test_other_rules_alarm_where_the_medians_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for NVIDIA's function, which says what the medians do."""
    script = load("gate_pairs_analysis")
    monkeypatch.setattr(script, "nvbench", lambda base, new: "SLOW" if min(new) > max(base) else "SAME")
    records = [one for percent in (0, 10) for one in pairs(percent, 1, 60, lambda: 0.0)]
    text = printed(records, tmp_path, capsys)
    unchanged, slowed = (cells(text, "forked: other rules", f"{percent} %")[0] for percent in (0, 10))
    assert [cell.partition(":")[0] for cell in unchanged[1:]] == ["0 of 180", "0 of 18", "0 of 18", "18 of 18"]
    assert [cell.partition(":")[0] for cell in slowed[1:]] == ["60 of 60", "6 of 6", "6 of 6", "0 of 6"]


def test_nvidia_s_rule_is_that_of_its_package() -> None:
    pytest.importorskip("cuda.bench", reason="pip install cuda-bench, to compare with NVIDIA's rule")
    script, draw = load("gate_pairs_analysis"), random.Random(3)  # noqa: S311
    base, again = ([1e-4 * math.exp(draw.gauss(0, 0.002)) for _ in range(50)] for _ in range(2))
    assert script.nvbench(base, again) == "SAME"
    assert script.nvbench(base, [1.05 * time for time in again]) == "SLOW"


def test_variance_components_of_a_textbook() -> None:
    """Groups of one size, by hand: mean squares 8 and 1, so (8 - 1) / 2 between and 1 within."""
    found = load("common").components([[1.0, 1 + math.sqrt(2)], [5.0, 5 + math.sqrt(2)], [3.0, 3 + math.sqrt(2)]])
    assert found.within == pytest.approx(1)
    assert found.between == pytest.approx(math.sqrt(3.5))
    assert found.low < found.between < found.high
    assert found.p == pytest.approx(0.0629, abs=1e-3)


def test_variance_intervals_hold_what_they_should() -> None:
    script, draw = load("common"), random.Random(4)  # noqa: S311
    covered = 0
    for _ in range(200):
        rounds = [draw.gauss(0, 5) for _ in range(4)]
        groups = []
        for _ in range(6):
            shared = draw.gauss(0, 2)
            groups.append([shared + one + draw.gauss(0, 1) for one in rounds])
        found = script.components(groups, rounds=True)
        covered += found.low <= 2 <= found.high
    assert covered >= 180  # of 190 that are expected


def test_builds_that_differ_are_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    script, draw = load("gate_builds"), random.Random(5)  # noqa: S311

    def measured(rows: Any, caches: list[Path]) -> list[list[float]]:
        assert rows.backend == "a-backend"
        assert all((folder / "lenet").is_dir() for folder in caches)
        return [
            [1e-3 * math.exp(offset * int(folder.name) + draw.gauss(0, 0.001)) for offset in (0.1, 0)]
            for folder in caches
        ]

    monkeypatch.setattr(script, "measured", measured)
    script.main(["a-backend", "--batch-size", "1", "7", "--builds", "4", "--processes", "3"])
    printed = capsys.readouterr().out
    (same,) = cells(f"## x\n{printed}", "x", "a-backend 7")
    assert float(same[2].split("%")[0]) < 0.5
    (line,) = cells(f"## x\n{printed}", "x", "a-backend 1")
    assert line[1] == "1.16"
    assert float(line[2].split("%")[0]) == pytest.approx(12.9, abs=0.5)
    assert float(line[3].strip("%")) == pytest.approx(0.1, abs=0.05)
    assert float(line[4]) < 1e-6


def test_networks_are_tuned_several_at_a_time_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, built = load("gate_builds"), set()

    def build(case: tuple[str, ...], lock: str, variables: dict[str, str]) -> bool:
        built.add((*case, variables["TORCHINDUCTOR_CACHE_DIR"]))
        return Path(lock).exists()

    monkeypatch.setattr(script.warm_compile, "build", build)
    caches = [tmp_path / "a", tmp_path / "b"]
    rows = script.Rows("pytorch-aot", "cuda", [1, 7], 3)
    script.fill(rows, caches)
    folders = [str(folder / "inductor") for folder in caches]
    assert built == set(product(["pytorch-aot"], ["fp32"], ["1", "7"], ["float32"], folders))
    monkeypatch.setattr(script.warm_compile, "build", lambda *_: False)
    with pytest.raises(RuntimeError, match="could not be built"):
        script.fill(rows, caches)


@pytest.mark.programs
def test_a_process_times_its_rows(tmp_path: Path) -> None:
    script = load("gate_builds")
    found = script.measured(script.Rows("pytorch", "cpu", [1, 9], 3), [tmp_path])
    assert np.shape(found) == (1, 2)
    assert np.all((np.array(found) > 1e-6) & (np.array(found) < 10))


def fake_python(monkeypatch: pytest.MonkeyPatch, folder: Path, program: str) -> None:
    """A program of the shell in the place of Python, which takes seconds to import PyTorch."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{program}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


@pytest.mark.programs
def test_each_set_of_caches_has_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All have started before the first is told to measure."""
    script = load("gate_builds")
    answer = 'echo ready; read go; echo ${#LENET_CACHE}; wc -l < "$0.started"'
    fake_python(monkeypatch, tmp_path, f'echo >> "$0.started"; {answer}')
    caches = [tmp_path / "long", tmp_path / "b"]
    found = script.measured(script.Rows("pytorch", "cpu", [1, 9], 3), caches)
    assert found == [[len(str(folder / "lenet")), 2] for folder in caches]


@pytest.mark.programs
def test_a_process_that_ends_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    script = load("gate_builds")
    fake_python(monkeypatch, tmp_path, 'echo "no $*" >&2; exit 1')
    with pytest.raises(subprocess.CalledProcessError):
        script.measured(script.Rows("a-backend", "cpu", [1], 1), [tmp_path])
    assert "a-backend" in capfd.readouterr().err


def test_the_pairs_heads_are_slower_in_the_rows_that_were_timed(tmp_path: Path) -> None:
    """Head's own cases, run without a device: each way of being slower, and a row that is not slowed down."""
    script = load("gate_pairs")
    repository = tmp_path / "repository"
    script.make_base(repository)
    plain = {"pytorch forward fp32 1": 1.0, "pytorch e2e pinned fp32 1": 2.0, "pytorch e2e pinned fp32 8": 1e-9}
    script.make_head(repository, 5.0, plain | {"fused forward fp32 1": 1e-5, "fused forward fp32 1000": 4e-5})
    kernel = (repository / script.KERNEL).read_text()
    assert "batch == 1 ? 950 : 3800;" in kernel
    cases = runpy.run_path(str(repository / script.CALL))
    assert cases["_SLOWED"] == {
        "pytorch forward 1": pytest.approx(0.05),
        "pytorch end_to_end 1": pytest.approx(0.1),
        "pytorch end_to_end 8": pytest.approx(5e-11),
    }
    images = torch.zeros(8, 4)
    done: list[str] = []

    def plain_call() -> str:
        done.append("call")
        return "logits"

    def call(mode: str, size: int) -> None:
        case = SimpleNamespace(backend="pytorch", mode=mode, batch_size=size)
        timed, source = cases["call_of"](SimpleNamespace(on_stream=nullcontext), images, case, None)
        assert (timed(), source) == ("logits", images)

    cases["call_of"].__globals__["_plain_call"] = lambda *_: (plain_call, images)
    cases["call_of"].__globals__["_time"] = SimpleNamespace(perf_counter=clock(done))
    for mode, size, looks in (("forward", 1, 2), ("end_to_end", 1, 2), ("end_to_end", 8, 0), ("forward", 2, 0)):
        done.clear()
        call(mode, size)
        assert done == ["look"] * looks + ["call"]
    script.make_head(repository, 0.0, plain)
    assert "clock64() - spin" not in (repository / script.KERNEL).read_text()
    assert "_SLOWED" not in (repository / script.CALL).read_text()


def clock(done: list[str]) -> Callable[[], float]:
    """A clock that moves on by a second with each look."""

    def look() -> float:
        done.append("look")
        return float(len(done))

    return look


def test_a_record_of_a_pair_has_what_the_analysis_reads() -> None:
    found = load("gate_pairs").record_of(plain({1: 1.1}), 3, "forked")
    assert found["medians"] == {"row 1": [[1.0] * TURNS, [1.1] * TURNS]}
    assert found["canary"] == [[1.0] * TURNS] * 2
    assert record(0, 0, 3, {}).keys() - {"percent", "stage"} <= found.keys()


@pytest.mark.programs
def test_servers_and_new_interpreters_are_recorded_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two whole sets of one server, two forks each, and then the time is up."""
    script, out, looks = load("gate_forks"), tmp_path / "servers.jsonl", iter([0.0] * 8 + [9.0])
    measured = tmp_path / "measured.py"
    measured.write_text(
        "import sys\nfor _ in sys.stdin if sys.argv[2] == 'server' else [0]:\n    print('{\"1\": 0.25}', flush=True)\n"
    )
    monkeypatch.setattr(script, "__file__", str(measured))
    monkeypatch.setattr(script, "SERVERS", 1)
    monkeypatch.setattr(script, "FORKS", 2)
    monkeypatch.setattr(script, "time", SimpleNamespace(monotonic=lambda: next(looks)))
    script.record(out, 1.0)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(one["fastest"] == {"1": 0.25} for one in found)
    assert [one["server"] for one in found if one["start"] == "forked"] == [0, 0, 1, 1]
    assert len(found) == 8

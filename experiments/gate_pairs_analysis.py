"""False alarms, power and cost of the gate's rule on long series of pairs, beside two other rules; prints Markdown.

``python experiments/gate_pairs_analysis.py RECORDS.jsonl > docs/results/gate-h200.md``

A record is a line of JSON for each pair: ``card`` (null for a CPU), ``percent`` (how much slower head really is in the
rows of ``slowed``, or in all rows without that key), ``block``, ``pair``, ``seconds``, ``others``, ``start``
(``forked`` or ``fresh``), ``stage`` (each has builds and servers of its own), ``medians`` (by row, base's turns and
head's) and ``canary`` (likewise).

The pairs are cut into disjoint gates. A gate takes pairs of one stage until the rule has decided every row. Then its
rows that FAIL are confirmed by pairs of the next stage. No pair serves two gates of a table. A gate begins only where
both stages have pairs for the last look, so that no outcome is left out for want of pairs: let a stage have 60 or more.
"""

from __future__ import annotations

import argparse
import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from pathlib import Path
from statistics import median, quantiles
from types import SimpleNamespace

import numpy as np
from gate_analysis import Record, interval, read
from scipy.stats import fligner, norm

from common import components, head, heading, row
from lenet.gate.decision import Decision, Rule, Verdict, decide, drifted

THRESHOLD = 0.05
SIZES = (7, 14)
"""Pairs of the runs by which a row's verdict is told: the fewest for a PASS, and twice as many."""
RUN = 10
"""Pairs of a run that the other rules judge: about what a gate takes."""

Series = Sequence[Sequence[Record]]
"""The pairs of each stage."""


@dataclass(frozen=True)
class Gate:
    """A gate that was cut from a series.

    Attributes:
        verdicts: By row.
        early: The rows that FAIL in the first stage.
        pairs: Number of pairs of both stages.
        seconds: What these took.
    """

    verdicts: Mapping[str, Verdict]
    early: frozenset[str]
    pairs: int
    seconds: float

    @property
    def verdict(self) -> Verdict:
        """Of the whole gate."""
        found = set(self.verdicts.values())
        return next(one for one in (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS) if one in found)


def ratio(turns: Sequence[Sequence[float]]) -> float:
    """The log ratio of a pair: the median over its turns."""
    return median(math.log(new / old) for old, new in zip(*turns, strict=True))


def shift(record: Record, name: str) -> int:
    """By how many percent head is really slower in a row."""
    return int(record["percent"]) if name in (record.get("slowed") or record["medians"]) else 0


def stage(
    pairs: Sequence[Record], rows: Sequence[str], rule: Rule, *, together: bool
) -> tuple[dict[str, Decision] | None, int]:
    """The decisions on the first of these pairs, and their number; None where the canary makes them void."""
    ratios = {name: [ratio(pair["medians"][name]) for pair in pairs[: rule.looks[-1]]] for name in rows}
    canary = [ratio(pair["canary"]) for pair in pairs[: rule.looks[-1]]]
    found = {name: Decision(Verdict.INCONCLUSIVE, 0, -math.inf, math.inf, 1.0) for name in rows}
    for look in rule.looks:
        if look > len(pairs):
            break
        if drifted(canary[:look], rule):
            return None, look
        now = {name: values[:look] for name, values in ratios.items()}
        for family in [now] if together else [{name: values} for name, values in now.items()]:
            found |= decide(family, rule, found)
        if all(one.verdict is not Verdict.INCONCLUSIVE for one in found.values()):
            return found, look
    return found, rule.looks[-1]


def gates(series: Series, rows: Sequence[str], rule: Rule) -> Iterator[Gate]:
    """Cut disjoint gates from the stages of a series, in turns, as long as there are pairs for the last look."""
    left, most = [list(pairs) for pairs in series], rule.looks[-1]

    def take(number: int, names: Sequence[str], *, together: bool) -> tuple[dict[str, Decision] | None, list[Record]]:
        found, count = stage(left[number], names, rule, together=together)
        taken, left[number] = left[number][:count], left[number][count:]
        return found, taken

    number = 0
    while True:
        following = (number + 1) % len(left)
        if min(len(left[number]), len(left[following])) < (most if len(left) > 1 else 2 * most):
            return
        found, taken = take(number, rows, together=True)
        verdicts = {name: found[name].verdict if found else Verdict.INCONCLUSIVE for name in rows}
        early = [name for name in rows if verdicts[name] is Verdict.FAIL]
        if early:
            again, more = take(following, early, together=False)
            taken += more
            for name in early:
                if again is None or again[name].verdict is not Verdict.FAIL:
                    verdicts[name] = Verdict.INCONCLUSIVE
        yield Gate(verdicts, frozenset(early), len(taken), sum(pair["seconds"] for pair in taken))
        number = following


def series_of(records: Sequence[Record]) -> dict[tuple[str, int], Series]:
    """The stages of pairs that were started alike and slowed alike, each in its order."""
    found: dict[tuple[str, int], list[list[Record]]] = {}
    ordered = sorted(records, key=lambda one: (one["start"], one["percent"], one["stage"], one["block"], one["pair"]))
    for key, pairs in groupby(ordered, key=lambda one: (one["start"], one["percent"], one["stage"])):
        found.setdefault(key[:2], []).append(list(pairs))
    return dict(found)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", type=Path, nargs="+")
    records = [record for file in parser.parse_args(arguments).files for record in read(file)]
    rows = list(records[0]["medians"])
    by_kind = series_of(records)
    cards = sorted({record["card"] or "a CPU" for record in records})
    print(f"# The gate's rule on {', '.join(cards)}\n")
    print("Generated by `experiments/gate_pairs_analysis.py` from pairs that were taken after the rule was fixed. Head")
    print(
        "is really slower by so many percent. A false alarm is a FAIL of a row that is slower by 0 %. In brackets: 95 %"
    )
    print("Clopper-Pearson intervals, of gates that share no pair.\n")
    for (start, percent), stages in by_kind.items():
        seconds = median(pair["seconds"] for pairs in stages for pair in pairs)
        number = sum(map(len, stages))
        print(f"- {start}, {percent:g} %: {number} pairs in {len(stages)} stages, {seconds:.2f} s a pair (median)")
    for start in sorted({start for start, _ in by_kind}):
        mine = {percent: stages for (one, percent), stages in by_kind.items() if one == start}
        print_gates(f"{start}: whole gates of all {len(rows)} rows", mine, [rows])
        if len(rows) > 1:
            print_gates(f"{start}: whole gates of one row", mine, [[name] for name in rows])
        print_runs(start, mine, rows)
        print_shifts(start, mine, rows)
        print_others(start, mine, rows)
    print_starts(by_kind, rows)


def print_gates(title: str, by_percent: Mapping[int, Series], families: Sequence[Sequence[str]]) -> None:
    """Verdicts by row, pooled by slow-down, and of whole gates."""
    whole: dict[int, list[Gate]] = {}
    cells: dict[tuple[str, int], list[tuple[Verdict, bool]]] = {}
    for percent, series in by_percent.items():
        for family in families:
            for gate in gates(series, family, Rule()):
                whole.setdefault(percent, []).append(gate)
                for name, verdict in gate.verdicts.items():
                    slower = shift(series[0][0], name)
                    for line in (name, "all rows"):
                        cells.setdefault((line, slower), []).append((verdict, name in gate.early))
    if not whole:
        print(f"\nNo stage has pairs enough for {title}.")
        return
    heading(title, "row", "slower by", "FAIL", "PASS", "INCONCLUSIVE", "FAIL before confirmation")
    for (line, slower), found in sorted(cells.items(), key=lambda item: (item[0][0] == "all rows", item[0])):
        shares = [interval(sum(one is verdict for one, _ in found), len(found)) for verdict in ORDER]
        row(line, f"{slower} %", *shares, sum(early for _, early in found))
    print_costs(whole)


def print_costs(whole: Mapping[int, Sequence[Gate]]) -> None:
    """Verdicts of whole gates by slow-down, and what they took."""
    head("whole gates", "verdict", "gates", "pairs, median", "most", "seconds, median", "most")
    for percent, those in whole.items():
        for verdict in ORDER:
            some = [gate for gate in those if gate.verdict is verdict]
            if some:
                pairs, seconds = [gate.pairs for gate in some], [gate.seconds for gate in some]
                costs = (f"{median(pairs):g}", max(pairs), f"{median(seconds):.1f}", f"{max(seconds):.1f}")
                row(f"{percent} %", verdict, interval(len(some), len(those)), *costs)


ORDER = (Verdict.FAIL, Verdict.PASS, Verdict.INCONCLUSIVE)


def print_runs(start: str, by_percent: Mapping[int, Series], rows: Sequence[str]) -> None:
    """What runs of one row say by a fixed number of pairs, which short stages have too.

    A run that is still undecided then would go on. It is counted, or the decided ones would be a selection.
    """
    columns = ("slower by", "pairs", "runs", "FAIL", "PASS", "undecided", "void", "confirmed by the next stage")
    heading(f"{start}: one row, by a number of pairs", *columns)
    found: dict[tuple[int, int], list[tuple[str, str | None]]] = {}
    for series, name, size in product(by_percent.values(), rows, SIZES):
        runs = found.setdefault((shift(series[0][0], name), size), [])
        for pairs, following in zip(series, [*series[1:], []], strict=True):
            for at in range(0, len(pairs) - size + 1, size):
                again = following[at : at + size]
                runs.append((said(pairs[at : at + size], name), said(again, name) if len(again) == size else None))
    for (slower, size), runs in sorted(item for item in found.items() if item[1]):
        firsts = [first for first, _ in runs]
        shares = [interval(firsts.count(one), len(firsts)) for one in ("FAIL", "PASS", "undecided")]
        again = [one for first, one in runs if first == "FAIL" and one]
        confirmed = interval(again.count("FAIL"), len(again)) if again else "-"
        row(f"{slower} %", size, len(firsts), *shares, firsts.count("void"), confirmed)


def said(pairs: Sequence[Record], name: str) -> str:
    """What the rule says of one row by the last of these pairs."""
    decisions, _ = stage(pairs, [name], Rule(), together=True)
    if decisions is None:
        return "void"
    verdict = decisions[name].verdict
    return "undecided" if verdict is Verdict.INCONCLUSIVE else str(verdict)


def print_shifts(start: str, by_percent: Mapping[int, Series], rows: Sequence[str]) -> None:
    """By how much head was really slower, since an injected slow-down need not take just its share."""
    percents = sorted(by_percent)
    heading(f"{start}: median change by row", "row", *(f"{percent:g} %" for percent in percents))
    for name in rows:
        ratios = ([ratio(pair["medians"][name]) for pairs in by_percent[one] for pair in pairs] for one in percents)
        row(name, *(f"{math.expm1(median(values)):+.1%}" for values in ratios))


def nvbench(base: Sequence[float], new: Sequence[float]) -> str:
    """What ``nvbench-compare-robust`` says of two samples of times, with equal clocks on both sides.

    It is the function of NVIDIA's package cuda-bench 0.3.0, which needs no GPU for it. It compares the ranges from the
    least to the third quartile: SLOW and FAST want a gap of 0.5 % between them, and SAME wants close medians.

    Raises:
        ModuleNotFoundError: The package is not installed.
    """
    module = importlib.import_module("cuda.bench.scripts.nvbench_compare_robust")
    module.load_nvbench_compare_tooling(load_color=False)
    sides = [
        module.GpuTimingData(
            *[None] * 10, sm_clock_rate_mean=1.0, sample_source=SimpleNamespace(values=np.array(times, np.float32))
        )
        for times in (base, new)
    ]
    return str(module.compare_gpu_timings(*sides).status.value)


def print_others(start: str, by_percent: Mapping[int, Series], rows: Sequence[str]) -> None:
    """The other rules on the same pairs: how often they say that a row is slower."""
    columns = ("slower by", "median:5%, pair by pair", f"median:5%, {RUN} pairs", f"nvbench, {RUN} pairs: SLOW", "SAME")
    heading(f"{start}: other rules on the same pairs", *columns)
    found: dict[int, tuple[list[bool], list[bool], list[str]]] = {}
    for series in by_percent.values():
        for pairs, name in ((pairs, name) for pairs in series for name in rows):
            single, pooled, said = found.setdefault(shift(pairs[0], name), ([], [], []))
            sides = [[pair["medians"][name][side] for pair in pairs] for side in (0, 1)]
            single += [median(new) > (1 + THRESHOLD) * median(old) for old, new in zip(*sides, strict=True)]
            for at in range(0, len(pairs) - RUN + 1, RUN):
                base, new = ([time for turns in side[at : at + RUN] for time in turns] for side in sides)
                pooled.append(median(new) > (1 + THRESHOLD) * median(base))
                try:
                    said.append(nvbench(base, new))
                except ModuleNotFoundError:
                    continue
    for slower, (single, pooled, said) in sorted(found.items()):
        shares = [interval(said.count(status), len(said)) for status in ("SLOW", "SAME")]
        row(f"{slower} %", interval(sum(single), len(single)), interval(sum(pooled), len(pooled)), *shares)
    print("\nEach pair's sides ran side by side, which is kinder to these rules than runs on two days. The samples are")
    print("the medians of the turns. nvbench's rule (cuda-bench 0.3.0) gets equal clocks: the records hold none.")


def print_starts(by_kind: Mapping[tuple[str, int], Series], rows: Sequence[str]) -> None:
    """Whether pairs of forked processes vary like those of fresh ones, what stages share, and how signs follow."""
    columns = ("row", "start", "pairs", "half of the pairs within", "p of the same spread")
    heading(
        "Spread of a pair's log ratio", *columns, "between stages, sd", "within", "p", "sign correlation, lag 1", "p"
    )
    starts = sorted({start for start, _ in by_kind})
    for name in rows:
        groups = {start: centred(by_kind, start, name) for start in starts}
        flat = [[one for group in groups[start] for one in group] for start in starts]
        same = f"{fligner(*flat).pvalue:.2g}" if len(flat) > 1 else "-"
        for start, values in zip(starts, flat, strict=True):
            low, _, high = quantiles(values, n=4)
            stages = str(components(groups[start])) if len(groups[start]) > 1 else "- | - | -"
            signs = [np.sign(np.array(group) - median(group)) for group in groups[start]]
            pairs = sum(len(group) - 1 for group in signs)
            follow = sum(float((group[1:] * group[:-1]).sum()) for group in signs) / pairs
            p = 2 * norm.sf(abs(follow) * math.sqrt(pairs))
            row(name, start, len(values), f"{high - low:.2%}", same, stages, f"{follow:+.2f}", f"{p:.2g}")
    print(
        "\nThe log ratios are less the median of their slow-down. Spread: the Fligner-Killeen test between the kinds of"
    )
    print("start. A stage has builds of its own. What stages share is no part of the rule's error.")


def centred(by_kind: Mapping[tuple[str, int], Series], start: str, name: str) -> list[list[float]]:
    """A row's log ratios by stage, less the median of their slow-down."""
    found: dict[int, list[float]] = {}
    for (one, _), series in by_kind.items():
        if one == start:
            ratios = [[ratio(pair["medians"][name]) for pair in pairs] for pairs in series]
            middle = median(value for values in ratios for value in values)
            for pairs, values in zip(series, ratios, strict=True):
                found.setdefault(pairs[0]["stage"], []).extend(value - middle for value in values)
    return list(found.values())


if __name__ == "__main__":
    main()

"""Candidates for the gate's rule on recorded and simulated noise; prints Markdown.

``python experiments/gate_rules.py docs/results/gate/*.jsonl > docs/results/gate-rules.md``

A candidate puts the outcomes of the sign test into an order, from the strongest evidence of a slow-down to the weakest.
An outcome is a number of pairs and how many of these pairs speak against the slow-down. The p of an outcome is the
probability that fair signs ever reach it or a stronger one. It is exact: a walk of fair signs is followed pair by pair.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gate_analysis import CANARY, LEFT_ALONE, ONE_TURN, SLOWED, Record, counted, read
from numpy.typing import NDArray
from scipy.special import bdtr, betainc, betaln

from common import head, heading, row

LAST = 30
BLOCK = 5
ALPHA, TOLERANCE, HARM = 0.05, math.log1p(0.01), math.log1p(0.05)
SLOW_DOWNS = (0, 1, 2, 5, 10)
ROWS = (1, 2, 12)

Array = NDArray[Any]
Order = Callable[[int, int], float]
Noise = Callable[[tuple[int, int]], Array]


@dataclass(frozen=True)
class Candidate:
    """A rule.

    Attributes:
        name: In the tables.
        p: By the number of pairs and of those against the slow-down.
        passing: The largest probability of a wrong PASS.
    """

    name: str
    p: Array
    passing: float


def reached(counts: Sequence[int]) -> float:
    """The probability that fair signs have at most ``counts[n]`` against the slow-down after some number n of pairs."""
    alive, total = np.eye(1, LAST + 1).ravel(), 0.0
    for count in counts[1:]:
        alive = (alive + np.roll(alive, 1)) / 2  # the last place stays empty until the last pair
        total += alive[: count + 1].sum()
        alive[: count + 1] = 0
    return float(total)


def ordered(order: Order, first: int) -> Array:
    """The exact p of every outcome, if evidence is ordered like this (the smallest value is the strongest).

    Looks before the first number of pairs that can decide would only make p larger.
    """
    p = np.ones((LAST + 1, LAST + 1))
    outcomes = sorted((order(n, k), n, k) for n in range(first, LAST + 1) for k in range(n))
    counts = [-1] * (LAST + 1)
    for _, n, k in outcomes:
        counts[n] = k
        p[n, k] = reached(counts)
        if p[n, k] > 2 * ALPHA:
            return p
    raise AssertionError("no order has so little in all its outcomes")


def three_looks() -> Array:
    """Looks after 10, 20 and 30 pairs, with alpha split by Bonferroni's inequality."""
    p = np.ones((LAST + 1, LAST + 1))
    for n, share in ((10, 0.22), (20, 0.42), (30, 0.36)):
        p[n, :n] = np.minimum(1, bdtr(np.arange(n), n, 0.5) / share)
    return p


def fixed(n: int, k: int) -> float:
    """The sign test's p after n pairs."""
    return float(bdtr(k, n, 0.5))


def mixture(n: int, k: int) -> float:
    """The likelihood of a fair sign over that of a sign with a uniformly distributed probability above one half."""
    favourable = 1 - betainc(n - k + 1, k + 1, 0.5)
    return -float(betaln(n - k + 1, k + 1) + math.log(favourable) + n * math.log(2))


def against(probability: float) -> Order:
    """Wald's likelihood ratio of a fair sign and a sign with this probability."""
    return lambda n, k: -((n - k) * math.log(2 * probability) + k * math.log(2 - 2 * probability))


def candidates() -> list[Candidate]:
    mixed = ordered(mixture, 6)
    return [
        Candidate("10, 20, 30 pairs", three_looks(), ALPHA),
        Candidate("p (Pocock)", ordered(fixed, 6), ALPHA / 2),
        Candidate("n p", ordered(lambda n, k: n * fixed(n, k), 5), ALPHA / 2),
        Candidate("Wald, 0.95", ordered(against(0.95), 5), ALPHA / 2),
        Candidate("mixture", mixed, ALPHA / 2),
        Candidate("mixture, PASS at 5 %", mixed, ALPHA),
    ]


def boundary(p: Array, level: float) -> list[int]:
    """The most pairs against the slow-down at which a level rejects, by the number of pairs; -1 for none."""
    return [int((p[n, :n] <= level).sum()) - 1 for n in range(LAST + 1)]


def gates(candidate: Candidate, d: Array) -> tuple[Array, Array, Array]:
    """Run many gates at once.

    Args:
        candidate: The rule.
        d: Log ratios, of shape (gates, rows, pairs).

    Returns:
        Which rows FAIL, which PASS, and each row's number of pairs.
    """
    count, rows, _ = d.shape
    against_fail, against_pass = np.cumsum(d <= TOLERANCE, 2), np.cumsum(d >= HARM, 2)
    most = boundary(candidate.p, candidate.passing)
    failed, passed = np.zeros((2, count, rows), bool)
    pairs = np.full((count, rows), LAST)
    levels = ALPHA / (rows - np.arange(rows))
    for n in range(1, LAST + 1):
        p = np.where(failed, 0, candidate.p[n, against_fail[:, :, n - 1]])
        places = np.argsort(p, 1, kind="stable")
        step_down = np.logical_and.accumulate(np.take_along_axis(p, places, 1) <= levels, 1)
        rejected = np.zeros_like(failed)
        np.put_along_axis(rejected, places, step_down, 1)
        now = rejected & ~failed & ~passed
        failed |= now
        below = (against_pass[:, :, n - 1] <= most[n]) & ~failed & ~passed
        passed |= below
        pairs[now | below] = n
    return failed, passed, pairs


def drifted(candidate: Candidate, d: Array) -> Array:
    """Which of many canaries became slower or faster, judged like a row that is alone."""
    most = np.array(boundary(candidate.p, ALPHA))[1:]
    slower, faster = (np.cumsum(sign * d <= TOLERANCE, 1) <= most for sign in (1, -1))
    return np.asarray((slower | faster).any(1))


def recorded(series: Sequence[Sequence[float]], draw: np.random.Generator) -> Noise:
    """Noise of blocks of consecutive recorded pairs."""
    blocks = np.array([one[at : at + BLOCK] for one in series for at in range(len(one) - BLOCK + 1)])
    return lambda shape: draw.choice(blocks, (*shape, LAST // BLOCK)).reshape(*shape, LAST)


def noises(records: Sequence[Record], draw: np.random.Generator) -> dict[str, Noise]:
    """The noise of unchanged rows, as recorded and as simulated."""
    stages = [(record["percent"], counted(stage)) for record in records for stage in record["stages"]]
    series = [
        [pair[name] for pair in pairs if name in pair]
        for percent, pairs in stages
        for name in (LEFT_ALONE, CANARY, SLOWED)
        if name != SLOWED or not percent
    ]
    once = [
        [math.log(pair["medians"][name][1] / pair["medians"][name][0]) for pair in stage["pairs"]]
        for record in read(ONE_TURN)
        for stage in record["stages"]
        for name in (LEFT_ALONE, CANARY)
        if name in stage["pairs"][0]["medians"]
    ]

    def autocorrelated(shape: tuple[int, int]) -> Array:
        turns = draw.choice([-1, 1], (*shape, LAST), p=[0.05, 0.95])  # a correlation of 0.9
        turns[..., 0] = draw.choice([-1, 1], shape)
        signs = np.cumprod(turns, 2)
        return signs * np.abs(draw.normal(0, 0.02, (*shape, LAST)))

    def bimodal(shape: tuple[int, int]) -> Array:
        return draw.choice([-0.055, 0.055], (*shape, LAST)) + draw.normal(0, 0.005, (*shape, LAST))

    return {
        "recorded, five turns": recorded(series, draw),
        "recorded, one turn, under load": recorded(once, draw),
        "Gaussian, 1 %": lambda shape: draw.normal(0, 0.01, (*shape, LAST)),
        "Gaussian, 3 %": lambda shape: draw.normal(0, 0.03, (*shape, LAST)),
        "2 %, signs correlated by 0.9": autocorrelated,
        "two modes 11 % apart": bimodal,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", type=Path, nargs="+", help="records of gate_study.py")
    parser.add_argument("--draws", type=int, default=4000, help="gates to draw for each cell (%(default)s)")
    option = parser.parse_args(arguments)
    draw = np.random.default_rng(0)
    rules = candidates()
    print("# Candidates for the gate's rule")
    print("\nGenerated by `experiments/gate_rules.py` from recorded pairs of unchanged code, and from simulated ones.")
    print("The orders: the sign test's p after n pairs; n times this p; Wald's likelihood ratio of a fair sign and one")
    print("with probability 0.95; the same ratio, mixed over all probabilities above one half with equal weight.")
    print(f"Tolerance 1 %, harm 5 %, alpha {ALPHA:.0%}. PASS at {ALPHA / 2:.1%} where nothing else is said.")
    print_boundaries(rules)
    records = [record for file in option.files for record in read(file) if "error" not in record]
    for name, noise in noises(records, draw).items():
        print_gates(name, noise, rules, option.draws)


def print_boundaries(rules: Sequence[Candidate]) -> None:
    heading("Exact errors", "order", "rows", "FAIL possible after", "error, exact", "pairs against it, at most")
    for rule in rules:
        for rows in ROWS:
            counts = boundary(rule.p, ALPHA / rows)
            steps = [f"{n}: {k}" for n, k in enumerate(counts) if k >= 0 and k > max(counts[:n])]
            row(rule.name, rows, steps[0].partition(":")[0], f"{reached(counts):.2%}", ", ".join(steps))


def print_gates(name: str, noise: Noise, rules: Sequence[Candidate], draws: int) -> None:
    """For one row of several that is slower: how often it FAILs and PASSes, and after how many pairs."""
    heading(f"Noise: {name}")
    print("Of the slowed row: FAIL after its confirmation / PASS / pairs of the first stage. In brackets the pairs")
    print("until all rows are decided. A row slowed by 0 or 1 % FAILs falsely.")
    canaries = noise((draws, 1))[:, 0]
    drifts = ", ".join(f"{rule.name} {drifted(rule, canaries).mean():.2%}" for rule in rules)
    print(f"\nStages of {LAST} pairs that a canary with this noise makes void: {drifts}.")
    head("rows", "slowed by", *(rule.name for rule in rules))
    for rows in ROWS:
        first, again = noise((draws, rows)), noise((draws, 1))
        for percent in SLOW_DOWNS:
            shift = np.zeros((rows, 1))
            shift[0] = math.log1p(percent / 100)
            cells = []
            for rule in rules:
                failed, passed, pairs = gates(rule, first + shift)
                confirmed = failed[:, 0] & gates(rule, again + shift[:1])[0][:, 0]
                shares = f"{confirmed.mean():.1%} / {passed[:, 0].mean():.1%}"
                cells.append(f"{shares} / {pairs[:, 0].mean():.1f} ({pairs.max(1).mean():.1f})")
            row(rows, f"{percent} %", *cells)


if __name__ == "__main__":
    main()

"""The project's own reasons that stand in files: why a row is unstable, was not run, or has no energy.

A file holds them in English. `find` tells which message a reason was made from, so that it can be translated. The
modules that make reasons are below the report, and know no language.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

__all__ = ["MESSAGES", "find"]

text: Final = str
"""Marks a message for the catalogues."""

_LONGEST: Final = 1000
"""Characters of the longest text that is looked at: a file may hold any."""

MESSAGES: Final = (
    # Unstable rows: lenet.measurement, lenet.suite.facts
    text("a round took no time by its clock: time several calls in a round, or a larger batch"),
    text("%(rounds)s rounds give no interval of the median, for each resembles the one before: %(advice)s"),
    text("%(rounds)s rounds give no interval of the median: %(advice)s"),
    text("the median is known to ±%(share)s%% only: %(advice)s"),
    text("measure at least %(rounds)s, and more where each resembles the one before"),
    text("measure at least %(rounds)s (--rounds)"),
    text("measure more rounds (--rounds), or until it is known to ±1 %% (--protocol=adaptive)"),
    text("measure more rounds, or until it is known to ±1 %% (the adaptive protocol)"),
    text("measure more rounds (--rounds)"),
    text("give the rows more time (--time-limit)"),
    text("the standard deviation is %(share)s%% of the mean: end other work on this machine, and lock its clocks"),
    text(
        "the 99th percentile is %(times)s times the median: look for what interrupts the rounds (other processes, "
        "power management)"
    ),
    text(
        "each round resembles the one before (lag-1 autocorrelation %(value)s), so the interval may be too narrow, "
        "although it was widened: warm up for longer, lock the clocks, and compare processes"
    ),
    text(
        "the host's CPU was slowed down by others in %(count)s of %(rounds)s rounds (another thread took it, or a loop "
        "of known work took over %(times)s times its best): end other work on this machine, or leave it a core"
    ),
    text(
        "in %(count)s of %(rounds)s rounds the device began before all was queued, so its time holds the host's: the "
        "call waits for the device by itself (look at the wall time), or the host is interrupted"
    ),
    text("%(count)s of %(rounds)s rounds were throttled (%(causes)s)"),
    text("%(limit)s: raise the power limit (`nvidia-smi -pl`), or lock the clocks lower (`nvidia-smi -lgc`)"),
    text("%(limit)s: check the power supply and the cooling, and let the GPU rest"),
    text("%(limit)s: take the GPU out of its sync boost group"),
    text("%(limit)s: cool the GPU, or lock the clocks lower (`nvidia-smi -lgc`)"),
    text("%(limit)s: check the power supply"),
    text("%(limit)s: lock the clocks lower (`nvidia-smi -lgc`)"),
    text(
        "it is faster than the machine's limits, which were measured while it was busy, so it has no floor: measure "
        "again"
    ),
    text(
        "its logits lack the rounding of %(precision)s: the library ran a finer arithmetic, which the label does not "
        "say"
    ),
    text("the logits of %(count)s of %(images)s images are not finite"),
    text("%(layer)s gives up to %(largest)s, beyond %(precision)s's largest number %(limit)s"),
    # Cases and backends that did not run: lenet.backends, lenet.suite, benchmarks
    text("failed: %(error)s"),
    text("it failed unexpectedly: %(error)s"),
    text("no %(precision)s on %(device)s: %(backends)s run it"),
    text("%(some)s on a CPU, and %(others)s on a GPU"),
    text("pytorch everywhere, and %(others)s on a GPU of compute capability %(capability)s"),
    text("no %(precision)s on %(device)s"),
    text("%(backend)s does not run %(precision)s on %(device)s"),
    text("%(backend)s runs on %(device)s alone"),
    text("PyTorch sees no CUDA device: check `nvidia-smi`"),
    text("not installed: %(command)s"),
    text("%(packages)s is not installed: %(command)s"),
    text("%(packages)s are not installed: %(command)s"),
    text("%(packages)s not installed: %(command)s"),
    text("%(found)s is installed, not %(wanted)s: %(command)s"),
    text("%(package)s %(version)s is too old: at least %(oldest)s"),
    text("%(package)s cannot be loaded: %(error)s"),
    text("%(package)s cannot be imported: %(error)s"),
    text("compute capability %(found)s, %(wanted)s or newer is wanted"),
    text("%(name)s needs a C++ compiler on a CPU: install g++"),
    text("%(name)s needs a C++ compiler: install g++"),
    text("%(setting)s keeps %(precision)s from being what runs: unset %(variable)s"),
    text("on a CPU nothing is copied: end-to-end would repeat forward"),
    text("on a CPU nothing is copied"),
    text("zero-copy copies nothing"),
    text("a cold cache is for forward passes on a GPU"),
    text("without a copy one host memory is enough"),
    text("%(backend)s does not read the host's memory: zero-copy is not for it"),
    text("%(backend)s names no library call apart from forward"),
    # Rows without energy: lenet.measurement.energy
    text("NVML tells no energy of this GPU: it needs a whole GPU of the Volta generation or newer"),
    text("this machine has no RAPL: no package in %(folder)s; virtual machines seldom have it"),
    text("%(file)s may not be read: %(command)s allows it until the next boot"),
    text("%(file)s cannot be read: %(error)s"),
    text("%(file)s holds %(text)s, which is no whole number"),
    text("NVML cannot be opened (%(error)s): check `nvidia-smi`"),
    text("NVML does not know %(device)s: check `nvidia-smi -L`"),
    text("NVML's counter ran backwards, from %(before)s to %(after)s mJ: the driver was reset; measure again"),
    text("RAPL's counter of %(name)s ran backwards, from %(before)s to %(after)s uJ: it was reset; measure again"),
    text("the counter %(name)s stood still for %(seconds)s s: its machine does not feed it"),
    text("a cold cache is emptied between passes, which takes energy too: leave out --cold-cache"),
)
"""What reasons are made from. A value may be a reason itself, or several with a semicolon between them."""


def find(words: str) -> tuple[str, dict[str, str]] | None:
    """The message that a reason was made from, and its values; None if it is none of the project's."""
    if len(words) > _LONGEST:
        return None
    for message, pattern in _patterns():
        if found := pattern.fullmatch(words):
            return message, found.groupdict()
    return None


@cache
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    return [
        (one, re.compile(re.sub(r"%\\\((\w+)\\\)s", r"(?P<\1>.+?)", re.escape(one).replace("%%", "%"))))
        for one in MESSAGES
    ]

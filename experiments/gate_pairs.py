"""Pairs of the gate's processes, one after the other, with a slow-down that is really injected: data for the rule.

``python experiments/gate_pairs.py --out FILE --pairs 20 --stages 3 --percent 0 --percent 5 --start forked -- SUITE``

It appends a line of JSON for each pair to FILE. Each stage has checkouts, builds and servers of its own, and its first
pair, which compiles, is not recorded. It needs no network and no git history: it makes a repository of its own tree.

Head is slower in every row. In a forward row of `fused` each block of the kernel spins for a share of the row's time.
In the other forward rows of a GPU a kernel that spins follows the pass. End to end, at batch 1 the host waits before
the launch; for larger batches a part of the batch is copied once more. On a CPU a wait goes before the pass. The canary
is unchanged. What a row gained is measured, and need not be just the percentage: a kernel of its own takes over 1 us.

``--start=whole`` forks processes whose turns are not divided: the sides do not alternate within one.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any, Final

from gate_study import git, make_base

from lenet.gate.checkouts import checked_out, find_commits
from lenet.gate.decision import Rule
from lenet.gate.pairs import CANARY, TURNS, Pair
from lenet.gate.processes import ForkServer
from lenet.gate.stages import Stage
from lenet.gate.trees import plugins_of
from lenet.gate.workers import fork_servers, measure_pair

STARTS: Final = ("forked", "fresh", "whole")
CALL: Final = "lenet/suite/one_batch.py"
KERNEL: Final = "lenet/kernels/fp32.cu"
COPY_RATE: Final = 50e9
"""Bytes a second that the added copy is assumed to take; what it really took is measured."""
SM_CLOCK: Final = 1.9e9
"""Hz, likewise."""
HAND_OVER: Final = '_wait(within=True, alone=self._mode == "throughput")'
"""What divides a turn, in `lenet.gate.turns`."""

SLOWED: Final = """

import time as _time

_SLOWED = {slowed!r}
_plain_call = call_of


def call_of(runner, images, case, batches):
    call, source = _plain_call(runner, images, case, batches)
    seconds = _SLOWED.get(f"{{case.backend}} {{case.mode}} {{case.batch_size}}")
    if not seconds:
        return call, source
    if case.mode == "forward" and images.device.type == "cuda":
        cycles = int(seconds * {clock})

        def longer():
            logits = call()
            with runner.on_stream():
                torch.cuda._sleep(cycles)
            return logits
    elif case.mode == "end_to_end" and case.batch_size > 1:
        count = min(int(seconds * {rate}) // source.element_size(), source.numel())
        flat, target = source.flatten()[:count], images.flatten()[:count]

        def longer():
            with runner.on_stream():
                target.copy_(flat, non_blocking=True)
            return call()
    else:
        def longer():
            until = _time.perf_counter() + seconds
            while _time.perf_counter() < until:
                pass
            return call()
    return longer, source

"""
"""Appended to `CALL`. It changes the call that is timed, and no other."""

SPIN: Final = """    {{
        long long spin = clock64(), cycles = batch == 1 ? {one} : {many};
        while (clock64() - spin < cycles) {{}}
    }}
    SHARED_MEMORY(memory);
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the file of records")
    parser.add_argument("--pairs", type=int, default=20, help="recorded pairs of a stage")
    parser.add_argument("--stages", type=int, default=1, help="of each percentage")
    parser.add_argument("--percent", type=float, action="append", help="slow-down of head; several for several heads")
    parser.add_argument("--start", choices=STARTS, action="append", help="how processes start; several in turns")
    parser.add_argument("--turns", type=int, default=TURNS, help="of each process and row")
    parser.add_argument("--minutes", type=float, default=60.0, help="no pair begins after so many")
    parser.add_argument("suite", nargs="*", help="options of the suite, after --")
    option = parser.parse_args(arguments)
    option.start = option.start or ["forked"]
    deadline = time.monotonic() + 60 * option.minutes
    with tempfile.TemporaryDirectory(prefix="gate-pairs-") as folder:
        repository = Path(folder) / "repository"
        make_base(repository)
        plain = calibrate(repository, option, deadline)
        for number in range(option.stages):
            for percent in option.percent or [0.0]:
                make_head(repository, percent, plain)
                with option.out.open("a") as out:
                    for record in measure(repository, option, deadline, f"{percent:g}-{number}"):
                        line = {"percent": percent, "stage": number, **record}
                        out.write(json.dumps(line, separators=(",", ":")) + "\n")
                        out.flush()
    return 0


def calibrate(repository: Path, option: argparse.Namespace, deadline: float) -> dict[str, float]:
    """The rows' times without a slow-down, in seconds; empty if none is to be injected."""
    if not any(option.percent or []):
        return {}
    make_head(repository, 0.0, {})
    one = argparse.Namespace(**{**vars(option), "pairs": 1})
    (record,) = measure(repository, one, deadline, "calibration")
    return {row: median(base) for row, (base, _) in record["medians"].items()}


def measure(repository: Path, option: argparse.Namespace, deadline: float, name: str) -> Iterator[dict[str, Any]]:
    """Measure pairs in fresh checkouts, and give a record of each but the first."""
    with tempfile.TemporaryDirectory(prefix="gate-pairs-") as folder, ExitStack() as stack:
        scratch = Path(folder)
        trees = stack.enter_context(checked_out(find_commits(repository, "base"), scratch / "stage"))
        servers: list[dict[str, ForkServer]] = []
        if option.start != ["fresh"]:
            servers = stack.enter_context(fork_servers(trees, scratch / "pairs"))
        plugin = plugins_of(scratch / "pairs") / "lenet_gate_turns.py"
        divided = plugin.read_text()
        assert HAND_OVER in divided
        stage, in_turns = Stage(name, Rule()), cycle(servers)
        for number in range(option.pairs + 1):
            if time.monotonic() > deadline:
                return
            for server in (one for pair in servers for one in pair.values()) if number == 1 else ():
                if reason := server.cannot(600):
                    raise SystemExit(f"the server cannot fork: {reason}")
            start = option.start[number % len(option.start)]
            fork = number > 0 and start != "fresh"
            plugin.write_text(divided.replace(HAND_OVER, "pass") if start == "whole" else divided)
            pair = measure_pair(
                trees,
                option.suite,
                scratch / "pairs" / str(number),
                random.Random(f"{name} {number}"),  # noqa: S311
                rounds=stage.rounds,
                turns=option.turns,
                servers=next(in_turns) if fork else None,
                timeout=600,
                compiles=number == 0,
            )
            stage.add(pair)
            print(f"{name}: pair {number}, {pair.seconds:.1f} s", file=sys.stderr, flush=True)
            if number:
                yield record_of(pair, number, start)


def record_of(pair: Pair, number: int, start: str) -> dict[str, Any]:
    """What the analysis needs of a pair, with times to six digits."""
    gpu = pair.head.machine["gpu"]
    return {
        "card": gpu["name"] if gpu else None,
        "cpu": pair.head.machine["cpu"]["model"],
        "pair": number,
        "start": start,
        "seconds": round(pair.seconds, 2),
        "others": round(pair.others, 2),
        "throttled": round(pair.throttled, 3),
        "block": 0,
        "medians": {name: rounded(pair, name) for name in pair.base.rows},
        "canary": rounded(pair, CANARY),
    }


def rounded(pair: Pair, name: str) -> list[list[float]]:
    """Base's and head's turns of a row, in seconds."""
    return [[float(f"{seconds:.6g}") for seconds in side] for side in pair.medians(name)]


def make_head(repository: Path, percent: float, plain: Mapping[str, float]) -> None:
    """Check out a commit whose rows take so many percent longer.

    Args:
        repository: With the branch ``base``.
        percent: The slow-down.
        plain: The rows' times without it, in seconds.
    """
    git(repository, "checkout", "--quiet", "-B", "head", "base")
    share = percent / 100
    slowed: dict[str, float] = {}
    spins = {1: 0.0, 2: 0.0}
    for row, seconds in plain.items() if percent else ():
        backend, *_, batch = row.split()
        mode = "forward" if "forward" in row else "end_to_end"
        if backend == "fused" and mode == "forward":
            spins[1 if batch == "1" else 2] = share * seconds * SM_CLOCK
        else:
            slowed[f"{backend} {mode} {batch}"] = share * seconds
    if percent:
        with (repository / CALL).open("a") as file:
            file.write(SLOWED.format(slowed=slowed, clock=SM_CLOCK, rate=COPY_RATE))
        kernel = repository / KERNEL
        spin = SPIN.format(one=int(spins[1]), many=int(spins[2]))
        kernel.write_text(kernel.read_text().replace("    SHARED_MEMORY(memory);\n", spin))
    else:  # another commit, the same code
        (repository / "README.md").write_text("Nothing changed.\n")
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", f"--message={percent:g} % slower")


if __name__ == "__main__":
    sys.exit(main())

"""A pytest plugin for the gate's workers: each case waits until its turn.

Both processes of a pair start together, and run their cases in turns, each case several times. So the two times of a
row lie a moment apart, and one process waits while the other measures. The workers load a copy of this file, also those
of a base that lacks it. It therefore imports nothing of lenet.

A worker writes lines of JSON to one pipe, and continues for each line that it reads from another.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress

import pytest

_say = int(os.environ["LENET_GATE_SAY"])
_hear = os.fdopen(int(os.environ["LENET_GATE_HEAR"]), encoding="utf-8")


def _wait(**message: object) -> None:
    with suppress(BrokenPipeError):
        os.write(_say, f"{json.dumps(message)}\n".encode())
    if not _hear.readline():
        pytest.exit("the gate is gone")


@pytest.fixture
def _lenet_gate_turn(request: pytest.FixtureRequest) -> int:
    """The number of a case's turn."""
    return int(request.param)


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeat each case for its turns, one right after the other. The names end in the turn's number."""
    metafunc.fixturenames.append("_lenet_gate_turn")
    turns = range(int(os.environ["LENET_GATE_TURNS"]))
    metafunc.parametrize("_lenet_gate_turn", turns, indirect=True, ids=[f"turn{number}" for number in turns])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the wanted cases of the suite, and the canary."""
    only = json.loads(os.environ.get("LENET_GATE_ONLY", "null"))
    if only is not None:
        wanted = re.compile("|".join(["turn", *only]))  # the canary's names hold only the turn
        kept = [item for item in items if wanted.match(item.name.partition("[")[2])]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    """Send the cases, and wait for the other process before the results are written, which takes a processor too."""
    _wait(cases=[item.nodeid for item in session.items])
    try:
        return (yield)
    finally:
        _wait(at=None)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Wait for the case's turn."""
    _wait(at=item.nodeid)
    return (yield)

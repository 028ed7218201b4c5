"""A process that imports the suite's modules once, and forks a fresh process for each pair.

Importing PyTorch and the suite takes most of a worker's start. The forks share what the server imported, the layout of
its memory, and its hash seed; each has a CUDA context of its own. The server runs a copy of this file, also for a base
that lacks it. So the file imports nothing of lenet but what the gate asks it to preload.

Usage: ``python fork_server.py DESCRIPTOR MODULE...``. The descriptor is a socket. The server says there whether it can
fork. Then each request is a message of JSON with the arguments of pytest and variables, and comes with three
descriptors: where to hear, where to say, and the log. It answers with the new process's id, and later with its exit
code.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import sys
from pathlib import Path


def main() -> int:
    """Serve until the gate has gone."""
    server = socket.socket(fileno=int(sys.argv[1]))
    sys.path[0] = str(Path.cwd())  # as `python -m pytest` has it, in the place of this file's directory
    for module in sys.argv[2:]:
        try:
            importlib.import_module(module)
        except ImportError:  # a base may lack it; its suite says what it misses
            continue
    _say(server, cannot=_why_not())
    while request := _next_request(server):
        arguments, variables, descriptors = request
        process = os.fork()
        if process == 0:
            server.close()
            return _work(arguments, variables, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        _say(server, pid=process)
        _, status = os.waitpid(process, 0)
        _say(server, code=os.waitstatus_to_exitcode(status))
    return 0


def _why_not() -> str | None:
    """Why a fork would not be a fresh process; None if it would: with a device open, or beside other threads."""
    opened = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:  # the descriptor of the listing itself
            continue
        if target.startswith("/dev/nvidia"):
            opened.append(target)
    if opened:
        return f"its imports opened {opened[0]}"
    threads = len(list(Path("/proc/self/task").iterdir()))
    return f"its imports left {threads} threads" if threads > 1 else None


def _next_request(server: socket.socket) -> tuple[list[str], dict[str, str], list[int]] | None:
    """The next request; None once the gate has gone or wants no more."""
    message, descriptors, _, _ = socket.recv_fds(server, 1 << 20, 3)
    if not message:
        return None
    document = json.loads(message)  # noqa: TID251 - the file imports nothing of lenet
    return document["arguments"], document["variables"], descriptors


def _work(arguments: list[str], variables: dict[str, str], descriptors: list[int]) -> int:
    """Run pytest in the forked process, in a session and with a log of its own."""
    os.setsid()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as Python sets it
    hear, say, log = descriptors
    for standard in (1, 2):
        os.dup2(log, standard)
    os.close(log)
    os.environ.update(variables, LENET_GATE_HEAR=str(hear), LENET_GATE_SAY=str(say))
    import pytest

    return int(pytest.main(arguments))


def _say(server: socket.socket, **message: object) -> None:
    server.send(json.dumps(message).encode())  # noqa: TID251 - as above


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end without a word once the gate is gone
    gc.disable()  # a collection would write to memory that the forks share
    sys.exit(main())

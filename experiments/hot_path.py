"""What `Runner.forward` does at each call beside the library call that it wraps, of every backend that runs here.

``python experiments/hot_path.py > docs/results/hot-path.md``
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from types import FrameType

import torch

from lenet import backends, devices, weights
from lenet.backends.base import BatchRange, BuildSpec
from lenet.errors import LenetError
from lenet.provenance import source_commit
from lenet.vocabulary import InputType, Precision


def functions(call: Callable[[], object]) -> Counter[str]:
    """The functions that a call enters, Python's by their qualified names and C's by theirs, with how often."""
    found: Counter[str] = Counter()

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            found[frame.f_code.co_qualname] += 1
        elif event == "c_call":
            found[getattr(argument, "__qualname__", str(argument))] += 1

    sys.setprofile(note)
    call()
    sys.setprofile(None)
    del found["setprofile"]
    return found


def main() -> None:
    device = devices.resolve("auto")
    print(f"# What a forward pass enters on {devices.describe(device)}\n")
    print(f"torch {torch.__version__}, commit {source_commit()}; made by `experiments/hot_path.py`;")
    print("functions, Python's and C's, that the library call alone and `forward` enter, batch 1, fp32.\n")
    print("| backend | images | library | forward | what forward adds |\n|---|---|---:|---:|---|")
    for name in backends.names():
        for input_type in InputType:
            spec = BuildSpec(device, Precision.FP32, BatchRange.exactly(1), input_type)
            try:
                runner = backends.load(name).build(weights.load().arrays, spec)
            except LenetError as error:
                print(f"| {name} | {input_type} | | | not run: {error.found} |")
                continue
            with runner, torch.inference_mode(), runner.on_stream():
                images = torch.zeros(1, 3, 32, 32, dtype=getattr(torch, input_type), device=device)
                bare = runner.bare(images)
                assert bare is not None
                for call in (bare, partial(runner.forward, images)) * 3:  # what a library does at first is not counted
                    call()
                library, forward = functions(bare), functions(partial(runner.forward, images))
                runner.synchronize()
            added = ", ".join(f"{name} {times}" if times > 1 else name for name, times in (forward - library).items())
            print(f"| {name} | {input_type} | {library.total()} | {forward.total()} | {added} |", flush=True)


if __name__ == "__main__":
    main()

"""What `Runner.forward` adds to the library call that it wraps, for every backend that runs here; prints Markdown.

``python experiments/hot_path.py > docs/results/hot-path.md``
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType

import torch

from lenet import backends, devices, weights
from lenet.backends.base import BatchRange, BuildSpec
from lenet.errors import LenetError
from lenet.provenance import source_commit
from lenet.vocabulary import InputType, Precision


def functions(call: Callable[[], object]) -> Counter[str]:
    """The qualified names of the functions that a call enters, Python's and C's, and how often."""
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


def cells(name: str, spec: BuildSpec) -> str:
    """A backend's numbers of functions and what `forward` adds, or why it does not run."""
    try:
        runner = backends.load(name).build(weights.load().arrays, spec)
    except LenetError as error:
        return f"| | not run: {error.found}"
    with runner, torch.inference_mode(), runner.on_stream():
        images = torch.zeros(1, 3, 32, 32, dtype=spec.image_dtype, device=spec.device)
        bare = runner.bare(images)
        assert bare is not None
        for call in (bare, partial(runner.forward, images)) * 3:  # a library's first calls are not counted
            call()
        library, forward = functions(bare), functions(partial(runner.forward, images))
        runner.synchronize()
    added = ", ".join(f"{name} {times}" if times > 1 else name for name, times in (forward - library).items())
    return f"{library.total()} | {forward.total()} | {added}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    names = backends.names()
    parser.add_argument("--backend", action="append", choices=names, help="again for more; all without one")
    parser.add_argument("--device", default="auto")
    option = parser.parse_args(arguments)
    device = devices.resolve(option.device)
    print(f"# What a forward pass enters on {devices.describe(device)}\n")
    print(f"torch {torch.__version__}, commit {source_commit()}; made by `experiments/hot_path.py`;")
    print("functions, Python's and C's, that the library call alone and `forward` enter, batch 1, fp32.\n")
    print("| backend | images | library | forward | what forward adds |\n|---|---|---:|---:|---|")
    for name in option.backend or names:
        for input_type in InputType:
            spec = BuildSpec(device, Precision.FP32, BatchRange.exactly(1), input_type)
            print(f"| {name} | {input_type} | {cells(name, spec)} |", flush=True)


if __name__ == "__main__":
    main()

"""What the two backends of TorchInductor share: its caches, its messages, and the C++ compiler that it calls."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from torch._inductor import codecache
from torch._inductor import config as inductor
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from lenet.engine_cache import private_directory

__all__ = ["advice", "cpp_compiler", "keep_caches_private", "keep_quiet", "shortened"]

_INDUCTOR: Final = "TORCHINDUCTOR_CACHE_DIR"
_TRITON: Final = "TRITON_CACHE_DIR"

_HEADERS: Final = {
    "_HEADER_DIR": ("precompiled_headers",),
    "_HEADER_LOCK_DIR": ("precompiled_headers", "locks"),
}
"""PyTorch's own names, in ``torch._inductor.codecache``, for where it keeps precompiled headers and their locks."""

_SHOWN: Final = (300, 1500)
"""Characters of TorchInductor's message that are shown: its beginning, and its end, where a compiler's words stand."""


def keep_quiet() -> None:
    """Keep autotuning's tables, and candidates that do not compile, out of the terminal, unless ``TORCH_LOGS`` asks."""
    if os.environ.get("TORCH_LOGS"):
        return
    inductor.autotune_num_choices_displayed = 0
    inductor.max_autotune_report_choices_stats = False
    logging.getLogger("torch._inductor").setLevel(logging.CRITICAL)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns where there is no GPU


def keep_caches_private() -> None:
    """Have TorchInductor and Triton keep what they compile in the engine cache's directory, unless the user chose one.

    PyTorch's own default is a directory of a known name in the temporary directory, which another user can make first:
    what lies there is loaded and run.
    """
    # PyTorch puts its default into the environment when it first asks for it: that is nobody's choice.
    if os.environ.get(_INDUCTOR, default_cache_dir()) == default_cache_dir():
        os.environ[_INDUCTOR] = str(private_directory("inductor"))
        if Path(os.environ.get(_TRITON, default_cache_dir())).is_relative_to(default_cache_dir()):
            os.environ[_TRITON] = str(private_directory("triton"))
    # PyTorch keeps precompiled headers in its default directory, whatever the variable says.
    for name, folder in _HEADERS.items():
        setattr(codecache, name, str(Path(os.environ[_INDUCTOR], *folder)))


def shortened(message: str) -> str:
    """A message on one line, with its middle left out where it is long."""
    text = " ".join(message.split())
    first, last = _SHOWN
    return text if len(text) <= first + last else f"{text[:first]} [...] {text[-last:]}"


def advice() -> str:
    """What to do where TorchInductor fails: it hands paths to the C++ compiler as they are."""
    variables = {"TMPDIR": tempfile.gettempdir(), _INDUCTOR: os.environ.get(_INDUCTOR, "")}
    for name, path in variables.items():
        if any(character.isspace() for character in path):
            return f"set {name} to a directory without a space in its name: now it is {path!r}"
    return "run with TORCH_LOGS=+inductor for its log; the other PyTorch backends do not need it"


def cpp_compiler() -> str | None:
    """The compiler that TorchInductor would find: ``$CXX``, else the usual names."""
    return next(filter(None, map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))), None)

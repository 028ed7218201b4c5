"""The checkouts of base and of head, as processes run in them."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lenet.provenance import without_git_variables

__all__ = ["CANARY_FILE", "Tree", "environment", "plugins_of"]

CANARY_FILE: Final = Path(__file__).parents[2] / "benchmarks" / "test_canary.py"


@dataclass(frozen=True, slots=True)
class Tree:
    """A checkout that a process runs in.

    Attributes:
        side: ``base`` or ``head``.
        path: Root of the checkout.
        commit: The commit that is checked out.
        python: Interpreter of its environment.
        caches: Directory of its own caches.
    """

    side: str
    path: Path
    commit: str
    python: str
    caches: Path

    @property
    def compilers(self) -> Path:
        """Directory of the caches of TorchInductor and Triton, which both sides of a stage share.

        They choose kernels by timing them, so another compilation of one graph may be 10 % slower. The caches are keyed
        by the graph, the settings and the versions: what is alike on both sides is compiled once.
        """
        return self.caches.parent / "compilers"


def environment(tree: Tree, plugins: Path) -> dict[str, str]:
    """The variables of a process in a tree, by which it finds its source, its caches, the plugins and the images."""
    named, data = os.environ.get("LENET_DATA"), Path("data")
    found = Path(named) if named else data if any(data.glob("cifar-10-batches-*")) else None
    variables = {
        **without_git_variables(),
        "PYTHONPATH": os.pathsep.join([str(tree.path), str(plugins), *_inherited_path(tree)]),
        "LENET_CACHE": str(tree.caches / "lenet"),
        "TORCHINDUCTOR_CACHE_DIR": str(tree.compilers / "inductor"),
        "TRITON_CACHE_DIR": str(tree.compilers / "triton"),
        "TMPDIR": str(tree.caches),  # a process that is killed removes no temporary file
        # The trees hold no data. An empty LENET_DATA counts as unset, as a directory that is named must hold data.
        "LENET_DATA": str(found.resolve()) if found else "",
    }
    variables.pop("LENET_COMMIT", None)
    variables.pop("PYTEST_ADDOPTS", None)
    return variables


def _inherited_path(tree: Tree) -> list[str]:
    """The user's PYTHONPATH, which may hold torch. An environment of the tree's own needs none of it."""
    inherited = os.environ.get("PYTHONPATH", "") if tree.python == sys.executable else ""
    return [os.path.abspath(entry) for entry in inherited.split(os.pathsep) if entry]  # noqa: PTH100 - not resolved


def plugins_of(folder: Path) -> Path:
    """The directory of the files that both sides' processes load, also those of a base that lacks them."""
    plugins = folder / "plugins"
    if not plugins.exists():
        plugins.mkdir(parents=True)
        here = Path(__file__)
        shutil.copy(here.with_name("turns.py"), plugins / "lenet_gate_turns.py")
        shutil.copy(here.with_name("fork_server.py"), plugins)
        shutil.copy(CANARY_FILE, plugins)
    return plugins

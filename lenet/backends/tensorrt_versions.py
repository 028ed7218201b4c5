"""Which TensorRT is installed, by its distributions. Nothing is imported.

``tensorrt-cu12`` and ``tensorrt-cu13`` are one package for two CUDA versions, and ``tensorrt`` installs one of them.
Each comes in three distributions: its own, ``-bindings`` and ``-libs``. Their files have the same names, and two
versions in one environment overwrite each other in part.
"""

from __future__ import annotations

import re

from lenet.backends import Entry, entry
from lenet.errors import BackendError
from lenet.provenance import package_version, program

__all__ = ["cuda_major", "installed", "refuse_another", "refuse_two", "release"]


def installed(line: Entry) -> dict[str, str]:
    """The distributions of a backend's library, of its bindings and of its libraries, each with its version."""
    names = [f"{name}{part}" for name in line.packages[0] for part in ("", "-bindings", "-libs")]
    return {name: version for name in names if (version := package_version(name)) is not None}


def refuse_two(line: Entry) -> None:
    """Refuse an environment whose distributions are of two versions, or built for two versions of CUDA.

    Raises:
        BackendError: They are; all are named, with the command that leaves one version.
    """
    found = installed(line)
    if len(set(map(release, found.values()))) > 1 or len(_builds(found)) > 1:
        # TriPy wants an older TensorRT than is current, and an environment that has TriPy was made for it.
        wanted = entry("tripy") if line.name == "tensorrt" and package_version("nvtripy") else line
        raise _two_versions(
            line, _told(found), f"{program('pip')} uninstall --yes {' '.join(found)} && {wanted.install}"
        )


def refuse_another(line: Entry, module: str, version: str) -> None:
    """Refuse a module that does not come from the installed distributions: rows would be labelled with their version.

    Raises:
        BackendError: The versions differ. Either may leave out the last digits.
    """
    found = installed(line)
    pairs = (zip(release(version), release(text), strict=False) for text in found.values())
    if any(one != other for pair in pairs for one, other in pair):
        show = f"{program('python')} -c 'import {module} as it; print(it.__file__)'"
        raise _two_versions(
            line,
            f"{version} is imported, {_told(found)} installed",
            f"`{show}` names the one that is imported: take it out of PYTHONPATH, or uninstall the other",
        )


def cuda_major(line: Entry) -> str | None:
    """The CUDA version that the installed library is built for, such as ``13``; None where no name tells it."""
    return next(iter(_builds(installed(line))), None)


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version. What follows is left out: ``10.14.1.48.post1`` has the library of ``10.14.1.48``."""
    numbers = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, numbers[0].split("."))) if numbers else ()


def _builds(found: dict[str, str]) -> set[str]:
    return {build[1] for name in found if (build := re.search(r"-cu(\d+)", name))}


def _told(found: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _two_versions(line: Entry, found: str, hint: str) -> BackendError:
    return BackendError(
        f"{line.name} cannot be used here",
        found=f"two versions of {line.packages[0][0]}: {found}",
        wanted="one version, built for one CUDA",
        hint=hint,
    )

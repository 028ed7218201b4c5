"""Why a row became slower: both sides are profiled once more, and the profiles compared.

`explain` is for rows that have failed. Nothing that a side does changes their verdict: what cannot be profiled is told
in the explanation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lenet.gate.trees import Tree
from lenet.gate.trees import environment as variables_of
from lenet.gate.why.comparison import Difference, Explanation, compare, on_gpu, unexplained
from lenet.gate.why.page import plain, to_markdown
from lenet.gate.why.processes import Environment, profile
from lenet.gate.why.records import Record, least
from lenet.results import Case

__all__ = ["Difference", "Explanation", "explain", "plain", "to_markdown"]


def explain(
    trees: Sequence[Tree],
    rows: Mapping[str, Case],
    folder: Path,
    *,
    timeout: float,
    slowdowns: Mapping[str, tuple[float, float]],
    environment: Environment = variables_of,
) -> dict[str, Explanation]:
    """Profile rows in both checkouts, one after the other, and explain their slow-downs.

    On a CPU each side is profiled twice, in the order base, head, head, base, because other work disturbs its times.

    Args:
        trees: The checkouts of base and of head.
        rows: The rows' cases by name.
        folder: A directory for files of the processes; it is made here.
        timeout: Seconds that each process may take for all rows.
        slowdowns: Base's and head's measured seconds a pass by the row's name, where they are known.
        environment: Makes the variables of a process.

    Returns:
        An explanation for each row.
    """
    try:
        order = list(trees) if all(map(on_gpu, rows.values())) else [*trees, *reversed(trees)]
        found: dict[str, list[dict[str, Record]]] = {tree.side: [] for tree in trees}
        for number, tree in enumerate(order):
            place = folder / f"{number}-{tree.side}"
            place.mkdir(parents=True)
            found[tree.side].append(profile(tree, rows, place, environment, timeout))
        base, head = ({name: least([one[name] for one in found[tree.side]]) for name in rows} for tree in trees)
        return {name: compare(base[name], head[name], case, slowdowns.get(name)) for name, case in rows.items()}
    except Exception as error:  # noqa: BLE001 - the verdict stands, whatever keeps it from being explained
        return dict.fromkeys(rows, unexplained(f"not explained: {type(error).__name__}: {error}"))

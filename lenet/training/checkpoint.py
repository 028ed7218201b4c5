"""Checkpoints: files that hold a run between two epochs, and from which it resumes exactly."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import torch

from lenet import weights
from lenet.documents import parse, to_json
from lenet.errors import CheckpointError, WeightsError
from lenet.models.pytorch_lenet import to_arrays
from lenet.training.recipe import Recipe
from lenet.training.run import EpochRecord, Run

__all__ = ["CHECKPOINT"]

CHECKPOINT: Final = "checkpoint.safetensors"


_CHECKPOINT_SCHEMA: Final = 2
"""Schema 2 added the digest of the test images, and the sessions."""


_MOMENTUM: Final = "momentum."


def to_checkpoint(run: Run) -> bytes:
    """The run as a safetensors file: parameters and momentum as tensors, the rest as metadata."""
    tensors = to_arrays(run.model)
    for name, parameter in run.model.named_parameters():
        buffer = run.optimizer.state[parameter].get("momentum_buffer")
        if buffer is not None:
            tensors[_MOMENTUM + name] = buffer.detach().cpu().contiguous().numpy()
    metadata = {
        "schema": _CHECKPOINT_SCHEMA,
        "recipe": dataclasses.asdict(run.recipe),
        "data_sha256": run.data_sha256,
        "started": run.started,
        "history": [dataclasses.asdict(record) for record in run.history],
        "sessions": run.sessions,
    }
    return weights.to_safetensors(tensors, {"checkpoint": to_json(metadata)})


def begin_or_resume(run: Run, checkpoint: Path, *, resume: bool) -> Run:
    """Restore a run from its checkpoint, or return it as it is where there is none.

    Raises:
        CheckpointError: There is a checkpoint and ``resume`` is false, or the run cannot resume from it.
    """
    if not checkpoint.exists():
        return run
    if not resume:
        raise CheckpointError(
            f"{checkpoint.parent} already holds a run",
            found=str(checkpoint),
            wanted="an empty run directory, or --resume",
            hint="go on with --resume, or choose another directory with --out",
        )
    _restore(run, checkpoint)
    return run


def _restore(run: Run, path: Path) -> None:
    """Load a checkpoint into a run, after checking that both have the same recipe and data."""
    try:
        arrays, texts = weights.read_safetensors(path)
        found = parse(texts["checkpoint"])
        _refuse_another_schema(found["schema"], path)
        history = _history(found["history"], run.recipe)
        sessions = [_session(session) for session in found["sessions"]]
        if not sessions:
            raise ValueError("no session")
        momentum = {k.removeprefix(_MOMENTUM): v for k, v in arrays.items() if k.startswith(_MOMENTUM)}
        parameters = {name: array for name, array in arrays.items() if not name.startswith(_MOMENTUM)}
        weights.check(parameters, path)
        if momentum:
            weights.check(momentum, path)
        _refuse_another_run(run, found, path)
        started = datetime.fromisoformat(found["started"]).isoformat()
    except (WeightsError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be used",
            found=error.found if isinstance(error, WeightsError) else str(error),
            wanted="a whole checkpoint of this version of `lenet train`",
            hint="delete it to begin again",
        ) from error
    with torch.no_grad():
        for name, parameter in run.model.named_parameters():
            parameter.copy_(torch.from_numpy(parameters[name]))
            if momentum:
                # `empty_like` keeps the parameter's memory layout, and with it the order of the optimizer's sums.
                buffer = torch.empty_like(parameter).copy_(torch.from_numpy(momentum[name]))
                run.optimizer.state[parameter]["momentum_buffer"] = buffer
    run.started = started
    run.history = history
    run.sessions = sessions


def _refuse_another_schema(found: object, path: Path) -> None:
    if found != _CHECKPOINT_SCHEMA:
        raise CheckpointError(
            f"{path} is of another version of `lenet train`",
            found=f"checkpoint schema {found}, which does not say which test images its history is of"
            if found == 1
            else f"checkpoint schema {found}",
            wanted=f"checkpoint schema {_CHECKPOINT_SCHEMA}",
            hint="go on with the version that began it, or begin again with another --out",
        )


def _history(records: list[dict[str, Any]], recipe: Recipe) -> list[EpochRecord]:
    """The finished epochs in a checkpoint.

    Raises:
        KeyError, TypeError, ValueError: No training run writes such epochs.
    """
    found = [
        EpochRecord(
            epoch=_whole(record["epoch"]),
            **{f.name: _number(record[f.name]) for f in dataclasses.fields(EpochRecord) if f.name != "epoch"},
        )
        for record in records
    ]
    if [record.epoch for record in found] != list(range(1, len(found) + 1)) or len(found) > recipe.epochs:
        raise ValueError(f"the history's epochs are not 1 to at most {recipe.epochs}")
    return found


def _session(found: dict[str, Any]) -> dict[str, Any]:
    _whole(found["first_epoch"])
    return {name: found[name] for name in ("first_epoch", "versions", "device", "commit")}


def _whole(value: object) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} in the place of a whole number")
    return value


def _number(value: object) -> float:
    if type(value) not in {int, float}:
        raise TypeError(f"{value!r} in the place of a number")
    return float(value)  # type: ignore[arg-type]  # checked above


def _refuse_another_run(run: Run, found: dict[str, Any], path: Path) -> None:
    wanted = parse(to_json(dataclasses.asdict(run.recipe)))
    differing = sorted(k for k in wanted.keys() | found["recipe"].keys() if wanted.get(k) != found["recipe"].get(k))
    if differing:
        raise CheckpointError(
            f"{path} is of another recipe",
            found=", ".join(f"{key} {found['recipe'].get(key)}" for key in differing),
            wanted=", ".join(f"{key} {wanted.get(key)}" for key in differing),
            hint="resume with the recipe it was begun with, or choose another --out",
        )
    for name, kind in (("train", "training"), ("test", "test")):
        if found["data_sha256"][name] != run.data_sha256[name]:
            raise CheckpointError(
                f"{path} is of other {kind} images",
                found=f"SHA-256 {found['data_sha256'][name]}",
                wanted=f"SHA-256 {run.data_sha256[name]}, the data given now",
                hint="resume with the data it was begun with, or choose another --out",
            )

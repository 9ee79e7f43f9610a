"""What a killed run leaves, and how it goes on: checkpoints that are whole or not there, and the record of a finished run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from ..checkpoints import RECORD, file_hashes, file_sha256
from ..disk import explained, fsync_folder
from ..errors import StudyError


FORMAT = 1  # of a checkpoint's state
STATE, MANIFEST = "state.pt", "manifest.json"  # of a checkpoint
LOG, RESUME, PROFILES = "log.jsonl", "resume", "profiles"  # of a run, beside RECORD


def write_checkpoint(folder: Path, state: dict[str, Any], keep: int) -> None:
    """Write ``folder/step_N``, so that a kill at any instant leaves a complete one: beside, fsync, rename, then rotate.

    Raises:
        StudyError: the disk is full; the checkpoints that were there stay.
    """
    target = folder / f"step_{state['step']:09d}"
    fresh = folder / f".{target.name}.new"
    for leftover in folder.glob(".step_*.new"):
        shutil.rmtree(leftover)
    try:
        with explained(target):
            _write_files(fresh, state)
    except StudyError:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    _delete(target)  # a damaged one of the same step
    os.replace(fresh, target)
    fsync_folder(folder)
    found = sorted(folder.glob("step_*"))
    newer = [path for path in found if path.name > target.name]  # damaged ones, which were passed over
    for old in newer + found[: len(found) - len(newer)][:-keep]:
        _delete(old)


def _delete(path: Path) -> None:
    """A checkpoint, or a file that has the name of one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write_files(fresh: Path, state: dict[str, Any]) -> None:
    fresh.mkdir(parents=True)
    with open(fresh / STATE, "wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch says of its archive that it cannot be finished, and not why
            raise _cause(error) or error from None
        _to_disk(file)
    about = {"format": FORMAT, "file": STATE, "size": (fresh / STATE).stat().st_size}
    with open(fresh / MANIFEST, "w", encoding="utf-8") as file:
        json.dump(about | {"sha256": file_sha256(fresh / STATE)}, file)
        _to_disk(file)
    fsync_folder(fresh)


def _cause(error: BaseException) -> OSError | None:
    """The error of the disk that another error came from."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, OSError):
        seen = seen.__cause__ or seen.__context__
    return seen


def newest_checkpoint(folder: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """State of the newest complete checkpoint, None where there is none; damaged ones are skipped with a warning."""
    for path in sorted(folder.glob("step_*"), reverse=True):
        damage = _find_damage(path)
        if damage is None:
            try:
                return torch.load(path / STATE, map_location="cpu", weights_only=True)
            except (RuntimeError, UnpicklingError, EOFError):  # written by somebody else, with a manifest
                damage = "holds more than tensors and numbers"
        say(f"warning: {path} {damage}; going back to the checkpoint before it")
    return None


def what_stays(folder: Path) -> str:
    """What a run in `folder` has not lost when it ends now, in words."""
    steps = [int(path.parent.name[5:]) for path in (folder / RESUME).glob(f"step_{'[0-9]' * 9}/{MANIFEST}")]
    if not steps:
        return "There is no checkpoint yet, so the same command starts afresh; checkpoint_every writes one"
    return f"The checkpoint of step {max(steps)} stays, and the same command goes on from there"


def _find_damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, None where its files are those that were written."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if manifest.get("format") != FORMAT:
            return (
                f"is of another version of this package (format {manifest.get('format')!r}, this one reads {FORMAT})"
            )
        if file_sha256(path / STATE) != manifest["sha256"]:
            return f"is damaged ({STATE} is not the file that was written)"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"is incomplete ({type(error).__name__})"
    return None


def changes(before: dict[str, Any] | None, run: dict[str, Any]) -> list[str]:
    """How the run that wrote `before` (a checkpoint or a record) differs from this one; a run never goes on with another's."""
    if before is None:
        return []
    found = _differences({key: before.get(key) for key in run}, run)
    return [f"{key} was {old!r}, is {new!r}" for key, old, new in found]


def _differences(before: Any, now: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    if where.endswith(".pixels_sha256") and None in (before, now):
        return  # not kept in memory by one of the two, see `Pictures.describe`
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            yield from _differences(before.get(key), now.get(key), f"{where}.{key}" if where else key)
    elif before != now:
        yield where, before, now


def read_record(folder: Path) -> dict[str, Any] | None:
    """``training.json`` of a finished run; None where there is none of ours, or not its weights as they were saved."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        ours = isinstance(record["config"]["model"], dict) and isinstance(
            record["metrics"]["test"]["accuracy"], int | float
        )
        whole = all(file_sha256(folder / name) == digest for name, digest in record["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return record if ours and whole else None


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """The last file of a run, which so says that it is complete; with the hashes of the weights."""
    record = record | {"files": file_hashes(folder)}
    fresh = folder / f".{RECORD}.new"
    fresh.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(fresh, folder / RECORD)


def refuse_overwriting(folder: Path, record: dict[str, Any] | None, checkpoint: Any, replace: bool) -> None:
    """Keep a training from the weights of somebody else, which it would delete at its end.

    A run that was killed while it saved its network has left no `record`, but a log or checkpoints.

    Raises:
        StudyError: `folder` is the checkpoint that the training starts from, or holds one that no training of ours left there.
    """
    if isinstance(checkpoint, str) and Path(checkpoint).is_dir() and folder.is_dir() and folder.samefile(checkpoint):
        raise StudyError(
            f"output {folder} is the folder of model.checkpoint, whose weights would be deleted; choose another output"
        )
    ours = record is not None or any((folder / RESUME).glob("step_*")) or any(read_log(folder / LOG))
    found = [*sorted(path.name for path in folder.glob("*.safetensors")), "config.json"]
    held = [name for name in found if (folder / name).exists()]
    if held and not ours and not replace:
        raise StudyError(
            f"output {folder} holds {held[0]}, which no training of this recipe wrote; choose another output, or "
            "replace=true to delete it at the end"
        )


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log up to the first that is damaged; a kill may have cut the last one."""
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(values, dict) or type(values.get("step")) not in (int, float):
            return
        yield values


def delete_run(folder: Path) -> None:
    """Make room for a run with other settings; the network itself is replaced at the end."""
    for name in (RESUME, PROFILES):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (RECORD, LOG):
        (folder / name).unlink(missing_ok=True)


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())

"""What was kept of finished batches, on disk, so that an interrupted measurement goes on where it stopped.

A folder beside the profile, one file per batch. A file is written beside and renamed, and carries its own sha256 in its name:
whatever a kill leaves is either a whole file or none, and one that a power cut has damaged is measured again. So nothing waits
for the disk, which would take longer than a GPU takes for a batch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .disk import LOCK, explained, only_process
from .errors import StudyError


Part = dict[str, np.ndarray]
IDENTITY = "identity.json"
NAME = re.compile(r"(\d{8})-([0-9a-f]{64})\.safetensors")


@dataclass(frozen=True)
class Kept:
    """What is kept of one batch.

    Attributes:
        parts: by analysis.
        digests: of its images.
        absent: analyses that had turned out to mean nothing by then, and why.
        seconds: that it took, the wait for its images included.
    """

    parts: dict[str, Part]
    digests: list[int]
    absent: dict[str, str]
    seconds: float = 0.0


class Journal:
    """Batches of one measurement.

    Args:
        profile: where the profile will be; the journal is the hidden folder beside it.
        identity: plain JSON of all that decides the numbers.
    """

    def __init__(self, profile: Path, identity: dict[str, Any]) -> None:
        self.folder = profile.with_name(f".{profile.name}.partial")
        self.identity = json.loads(json.dumps(identity))
        self._earlier: dict[int, list[Path]] | None = None  # see `_files`, before the first batch was written

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Keep other measurements for the same profile out, until the block is left.

        Raises:
            StudyError: one is under way, or nothing can be written there.
        """
        return only_process(self.folder, "measuring into")

    def begin(self, resume: bool) -> None:
        """Take up what is there. Not to be resumed, batches of the same measurement stay, in case it is stopped to go on with
        them; those of another one are deleted. Either is said by a warning.

        Raises:
            StudyError: to be resumed, but it is of another measurement.
        """
        path = self.folder / IDENTITY
        known = path.is_file()  # batches without an identity may be of any measurement
        difference = self._difference(path) if known else None
        if resume and difference:
            raise StudyError(
                f"{self.folder} is of another measurement: {difference}; resume with the same options, or start afresh "
                "without --resume"
            )
        if known and not resume:
            self._warn(difference)
        if not known or difference:
            with explained(self.folder):
                self._clear()
                self.folder.mkdir(parents=True, exist_ok=True)
                _write(path, json.dumps(self.identity, indent=1).encode())

    def _difference(self, path: Path) -> str | None:
        """The first thing that makes it another measurement, in words."""
        try:
            before = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            before = None
        if not isinstance(before, dict):
            before = {}
        for name, was, now in _differences(before, self.identity):
            return f"{name} was {json.dumps(was)[:200]}, is {json.dumps(now)[:200]}"
        return None

    def _warn(self, difference: str | None) -> None:
        count = len(self._files())
        if count and difference:
            warnings.warn(
                f"{count} finished batches of an interrupted measurement that was another ({difference}) are deleted",
                stacklevel=4,
            )
        elif count:
            warnings.warn(
                f"{count} finished batches of this measurement, which was interrupted, are there and are measured again; to go "
                "on with them instead, stop and add --resume",
                stacklevel=4,
            )

    def _clear(self) -> None:
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.name != LOCK:
                path.unlink()

    def write(self, index: int, kept: Kept) -> None:
        """Keep one batch, in place of what an earlier run kept of it."""
        from safetensors.numpy import save

        arrays = {
            (analysis, name): np.asarray(value)
            for analysis, part in kept.parts.items()
            for name, value in part.items()
        }
        about = {
            "analyses": list(kept.parts),
            "arrays": [[analysis, name, list(array.shape)] for (analysis, name), array in arrays.items()],
            "absent": kept.absent,
            "seconds": kept.seconds,
        }
        tensors = {str(place): np.ascontiguousarray(array) for place, array in enumerate(arrays.values())}
        tensors["digests"] = np.array(kept.digests, dtype=np.uint64)
        content = save(tensors, {"about": json.dumps(about)})
        with explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._earlier is None:
                self._earlier = self._files()
            written = self.folder / _name(index, content)
            _write(written, content)
            for path in self._earlier.pop(index, []):
                if path != written:
                    path.unlink(missing_ok=True)

    def _files(self) -> dict[int, list[Path]]:
        """Those of batches, by the batch's number; several of one where a run was killed between writing and deleting."""
        found: dict[int, list[Path]] = {}
        for path in sorted(self.folder.iterdir()):
            if (match := NAME.fullmatch(path.name)) and path.is_file():
                found.setdefault(int(match[1]), []).append(path)
        return found

    def batches(self) -> dict[int, Kept]:
        """All whole batches by their number; a damaged one is deleted with a warning."""
        found = {}
        for index, paths in self._files().items():
            for path in paths:
                content = path.read_bytes()
                kept = _read(content) if path.name == _name(index, content) else None
                if kept is not None:
                    found[index] = kept
                else:
                    warnings.warn(f"{path} is damaged; its batch is measured again", stacklevel=2)
                    path.unlink()
        return found

    def remove(self) -> None:
        """Delete the journal: the profile is there."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _differences(before: Any, now: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(place, before, now) of all that differs in two pieces of JSON, as deep inside as can be said."""
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        before, now = dict(enumerate(before)), dict(enumerate(now))
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*now, *before]):
            yield from _differences(before.get(key), now.get(key), f"{where}.{key}" if where else str(key))
    elif before != now:
        yield where, before, now


def _name(index: int, content: bytes) -> str:
    """Of a batch's file, as `NAME` has it."""
    return f"{index:08d}-{hashlib.sha256(content).hexdigest()}.safetensors"


def _read(content: bytes) -> Kept | None:
    """What was kept; None where it is of another form."""
    from safetensors import SafetensorError

    try:
        return _parsed(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _parsed(content: bytes) -> Kept:
    from safetensors.numpy import load

    tensors = load(content)
    length = int.from_bytes(content[:8], "little")  # the header's, as the format begins
    about = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["about"])
    parts: dict[str, Part] = {analysis: {} for analysis in about["analyses"]}
    for place, (analysis, name, shape) in enumerate(about["arrays"]):
        parts[analysis][name] = tensors[str(place)].reshape(shape)
    digests = [int(value) for value in tensors["digests"]]
    return Kept(parts, digests, about["absent"], about.get("seconds", 0.0))


def _write(path: Path, content: bytes) -> None:
    """All of it or nothing, whenever the process is killed."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        fresh.write_bytes(content)
        fresh.rename(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise

"""Where a served page gets its data: one file that holds all of it, or stored profiles from which each part is made on request.

The file is JSON, name of a part -> its content, packed with xz: of 27 checkpoints and their 378 pairs it makes 0.85 MB in one
piece, where each part packed for itself (zip) makes 1.36 MB. Its parts are those of `export_site`.
"""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from .. import hub
from ..errors import StudyError
from .data import FORMAT, Source, pair_data, study_data
from .export import OF_ONE, compact, parts_of
from .likeness import measures_data


STUDY = "study.json"
PART = re.compile(r"([a-z]{1,20})((?:-\d{1,5})*)\.json")
OF_TWO: dict[str, Callable[[Source, int, int], dict[str, Any]]] = {"pair": pair_data, "measures": measures_data}
WITH_ITSELF = {"measures"}


class Pages(Protocol):
    """The data of a page."""

    def read(self, name: str) -> bytes:
        """JSON of one part, such as ``study.json`` or ``pair-0-3.json``; KeyError where there is none."""
        ...


class Packed:
    """Parts from a file that `pack` wrote.

    Raises:
        StudyError: there is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._parts: dict[str, Any] = json.loads(lzma.decompress(path.read_bytes()))
        except (OSError, lzma.LZMAError, ValueError) as error:
            raise StudyError(f"{path} holds no data of a page ({error}); write it again") from error

    def read(self, name: str) -> bytes:
        return compact(self._parts[name]).encode()


class Bundle(Packed):
    """The data of a page from the file that `write_bundle` wrote.

    Raises:
        StudyError: there is none, or of another format.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            known = json.loads(self.read(STUDY))["format"]
        except (KeyError, ValueError, TypeError) as error:
            raise StudyError(f"{path} holds no {STUDY} that can be read ({error}); write it again") from error
        if known != FORMAT:
            raise StudyError(f"{path} has format {known}, this version reads {FORMAT}; write it again")


class Measured:
    """The data of a page from a stored study and its profiles, each part made when it is first asked for."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.read = lru_cache(maxsize=4096)(self._read)

    def _read(self, name: str) -> bytes:
        found = PART.fullmatch(name)
        if not found:
            raise KeyError(name)
        kind, numbers = found[1], [int(number) for number in found[2].split("-")[1:]]
        return compact(self._made(kind, numbers, name)).encode()

    def _made(self, kind: str, numbers: list[int], name: str) -> dict[str, Any]:
        if name == STUDY:
            return study_data(self.source)
        if kind in OF_ONE and len(numbers) == 1 and numbers[0] < len(self.source.result["checkpoints"]):
            return OF_ONE[kind](self.source, *numbers)
        if kind in OF_TWO and len(numbers) == 2 and self._comparable(numbers, itself=kind in WITH_ITSELF):
            return OF_TWO[kind](self.source, *numbers)
        raise KeyError(name)

    def _comparable(self, numbers: list[int], itself: bool) -> bool:
        """Whether two checkpoints, the lower number first, were measured on the same images."""
        a, b = numbers
        groups = json.loads(self.read(STUDY))["comparable"]
        return (a < b or (itself and a == b)) and any({a, b} <= {*group} for group in groups)


def write_bundle(source: Source, out: Path) -> Path:
    """Write all data of a page to one file; returns it."""
    study = study_data(source)
    return pack({STUDY: study, **dict(parts_of(source, study))}, out)


def pack(parts: Mapping[str, Any], out: Path) -> Path:
    """Write parts, which are plain JSON, to one file; returns it. The file appears when it is complete."""
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(f".{out.name}.new")
    fresh.write_bytes(lzma.compress(compact(dict(parts)).encode(), preset=9 | lzma.PRESET_EXTREME))
    return fresh.replace(out)


def open_pages(study: str | Path, profiles: str | Path | None = None) -> tuple[Pages, str | None]:
    """The data of a study's page, and where on the Hub the study came from, as ``org/name@commit``, if it did.

    Args:
        study: file of `write_bundle`; ``results.json`` or the folder it lies in; or ``org/name[@revision]`` on the Hub.
        profiles: see `Source`.

    Raises:
        StudyError: nothing of the kind here or there.
    """
    here = Path(study)
    if here.suffix == ".xz":
        return Bundle(here), None
    if here.exists() or not hub.is_address(study):
        return Measured(Source(here, profiles)), None
    folder, origin = fetched(study)
    return Measured(Source(folder, profiles)), origin


def fetched(address: str | Path) -> tuple[Path, str]:
    """The folder of a study on the Hub, and its ``org/name@commit``: the cache keeps every commit in a folder of its name."""
    folder = hub.fetch(address)
    commit = next(place.name for place in (folder, *folder.parents) if place.parent.name == "snapshots")
    return folder, f"{hub.parse_address(address).repo}@{commit}"

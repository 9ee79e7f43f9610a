"""Profiles in brief, so that many can be searched and grouped while few are in memory.

CKA is the cosine of two U-centred Gram vectors (Kornblith et al. 2019; debiased as in `comparison`). A count sketch (Charikar,
Chen & Farach-Colton 2002) adds the entries of such a vector with random signs into a few thousand bins and keeps cosines: with
16,384 bins the error of a CKA was 0.007 rms for 2,048 images. Signs and bins are the same for all vectors of one length, so
sketches of different checkpoints compare. Vectors that are no longer than the bins are kept whole, and CKA is exact.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from .comparison import Comparison, compare
from .errors import StudyError
from .profile import MANIFEST, Profile, load_profile


BINS = 16_384
DEPTHS = np.linspace(0.1, 1, 10)  # relative depths at which two checkpoints are compared
TILE = 64  # checkpoints held at once on each side of a matrix of distances
FORMAT = 1


def in_brief(profile: Profile, view: str = "flatten", bins: int = BINS) -> Profile:
    """The profile without its measurements but for what grouping and choosing need; a few hundred kilobytes.

    Returns:
        A profile with the same provenance, the coordinates of its blocks and images, ``sketch`` (block, bin) float16, each
        block scaled to a largest entry of 1 and 0 where the block is the same for every image, and ``sizes`` (batch,), the
        images in each Gram block. Without Gram blocks of this view the two are missing. ``summary`` in the provenance
        counts images with a known label and those classified right.
    """
    kept = [name for name, array in profile.data.coords.items() if array.dims in (("block",), ("image",))]
    variables: dict[str, Any] = {}
    if f"gram_{view}" in profile.data:
        variables = {
            "sketch": (("block", "bin"), _sketch(profile, view, bins)),
            "sizes": ("batch", profile.batch_sizes(view)),
        }
    provenance = {**profile.provenance, "summary": _summary(profile)}
    return Profile(xr.Dataset(variables, {name: profile.data.coords[name].variable for name in kept}), provenance)


def _summary(profile: Profile) -> dict[str, int]:
    if "top5" not in profile.data or "label" not in profile.data:
        return {}
    label = profile.data["label"].values
    known = label >= 0
    return {"labelled": int(known.sum()), "correct": int((profile.data["top5"].values[:, 0] == label)[known].sum())}


def _sketch(profile: Profile, view: str, bins: int) -> np.ndarray:
    packed = profile[f"gram_{view}"].values
    scale = profile.data[f"scale_{view}"].values.astype(np.float32)
    length = packed.shape[1] * packed.shape[2]
    found = np.zeros((len(packed), min(length, bins)), np.float32)
    for place, (values, factors) in enumerate(zip(packed, scale, strict=True)):  # one block at a time: it is a copy
        vector = (values.astype(np.float32) * factors[:, None]).ravel()
        if length > bins:
            where, sign = _hash(length, bins)
            vector = np.bincount(where, vector * sign, minlength=bins)
        found[place] = vector
    largest = np.abs(found).max(1, keepdims=True)
    return np.divide(found, largest, out=np.zeros_like(found), where=largest > 0).astype(np.float16)


@lru_cache(maxsize=4)
def _hash(length: int, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Bin and sign of every entry of a vector of this length."""
    rng = np.random.default_rng(FORMAT)
    return rng.integers(0, bins, length, np.int32), rng.choice(np.array([-1, 1], np.int8), length)


def unit_rows(brief: Profile) -> np.ndarray:
    """Sketches (block, bin) float32 of length 1, zero where undefined: their inner products are CKA."""
    values = brief["sketch"].values.astype(np.float32)
    norm = np.linalg.norm(values, axis=1, keepdims=True)
    return np.divide(values, norm, out=np.zeros_like(values), where=norm > 0)


# --------------------------------------------------------------------------------------------------------- on disk


@dataclass(frozen=True)
class Shelf:
    """Profiles in brief on disk, under the hash of the profile's manifest: each profile is read once.

    Attributes:
        folder: where they lie; a folder that begins with a dot, so that it is not taken for profiles of a study.
        view, bins: see `in_brief`.
    """

    folder: Path
    view: str = "flatten"
    bins: int = BINS

    def key(self, profile: Path) -> str:
        """Of the manifest, which holds the hash of all else, and of how it was sketched."""
        words = f"{FORMAT} {self.view} {self.bins} ".encode() + (profile / MANIFEST).read_bytes()
        return hashlib.sha256(words).hexdigest()[:32]

    def place(self, key: str) -> Path:
        return self.folder / key

    def put(self, profile: Path) -> str:
        """Make the brief of the profile in this folder unless it is there; returns its key."""
        key = self.key(profile)
        if not self.has(key):
            in_brief(load_profile(profile), self.view, self.bins).save(self.place(key))
        return key

    def has(self, key: str) -> bool:
        """Whether it is there and whole; a damaged one is made again."""
        try:
            load_profile(self.place(key))
        except StudyError:
            return False
        return True

    def get(self, key: str) -> Profile:
        return load_profile(self.place(key))


# -------------------------------------------------------------------------------------------------------- distances


def at_depths(brief: Profile) -> np.ndarray:
    """Unit sketches of the places nearest to `DEPTHS`, (depth, bin)."""
    depth = brief.data["depth"].values
    return unit_rows(brief)[np.abs(depth[None] - DEPTHS[:, None]).argmin(1)]


def distances(read: Sequence[Callable[[], Profile]], tile: int = TILE) -> np.ndarray:
    """1 - mean CKA at matched relative depths of every two checkpoints, (checkpoint, checkpoint) float64.

    Depths at which a block is undefined are left out; where none is left the distance is 1. In tiles, so that at most
    2 `tile` checkpoints are in memory.
    """
    found = np.zeros((len(read), len(read)))
    for start in range(0, len(read), tile):
        rows = _stacked(read[start : start + tile])
        for other in range(start, len(read), tile):
            columns = rows if other == start else _stacked(read[other : other + tile])
            part = 1 - _mean_cka(rows, columns)
            found[start : start + len(rows), other : other + len(columns)] = part
            found[other : other + len(columns), start : start + len(rows)] = part.T
    np.fill_diagonal(found, 0)
    return np.maximum(found, 0)  # rounding: a cosine is at most 1


def _stacked(read: Sequence[Callable[[], Profile]]) -> np.ndarray:
    return np.stack([at_depths(each()) for each in read])


def _mean_cka(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Of stacks (checkpoint, depth, bin): the mean over depths that both define, 0 where there is none."""
    product = rows.reshape(len(rows), -1) @ columns.reshape(len(columns), -1).T
    defined = [stack.any(2).astype(np.float64) for stack in (rows, columns)]
    return product.astype(np.float64) / np.maximum(np.matmul(defined[0], defined[1].T), 1)


def average_linkage(distance: np.ndarray) -> np.ndarray:
    """Merges of average linkage (Sokal & Michener 1958) in scipy's form: (checkpoint - 1, 4)."""
    from scipy.cluster.hierarchy import linkage  # half a second to import
    from scipy.spatial.distance import squareform

    if len(distance) < 2:
        return np.zeros((0, 4))
    return linkage(squareform(distance, checks=False), "average", optimal_ordering=len(distance) <= 200)


# ---------------------------------------------------------------------------------------------------------- nearest


@dataclass(frozen=True)
class Hit:
    """A block like the one asked for: `cka` with its jackknife interval from the profiles, `sketched` from sketches."""

    checkpoint: int
    block: str
    cka: float
    low: float
    high: float
    sketched: float


def nearest_blocks(
    wanted: int,
    block: str,
    read: Sequence[Callable[[], Profile]],
    load: Callable[[int], Profile],
    *,
    most: int = 10,
    view: str = "flatten",
) -> list[Hit]:
    """The blocks of any other checkpoint most like one block: found by sketches, CKA computed exactly for those.

    Args:
        wanted: which of `read` holds the block.
        block: its name.
        read: each checkpoint's brief, read when called.
        load: the profile itself.
        most: how many.
        view: of the Gram blocks, that of the briefs.

    Raises:
        StudyError: no such block, or it is the same for every image.
    """
    brief = read[wanted]()
    names = [str(name) for name in brief.data["block"].values]
    if block not in names:
        raise StudyError(f"{brief.name} has no block {block!r}; it has: {', '.join(names)}")
    row = unit_rows(brief)[names.index(block)]
    if not row.any():
        raise StudyError(
            f"{block} of {brief.name} is the same for every image, so nothing is like it; choose another block"
        )
    found = sorted(_likeness(wanted, row, read, most), reverse=True)[:most]
    return sorted(
        (_exact(compare(load(wanted), load(hit[1]), draws=1), block, hit, view) for hit in found),
        key=lambda hit: -hit.cka,
    )


def _likeness(
    wanted: int, row: np.ndarray, read: Sequence[Callable[[], Profile]], most: int
) -> Iterator[tuple[float, int, str]]:
    """(CKA by sketch, checkpoint, block) of the best blocks of every other checkpoint; a few of each are held."""
    for number, each in enumerate(read):
        if number == wanted:
            continue
        brief = each()
        likeness = unit_rows(brief) @ row
        for place in np.argsort(-likeness)[:most]:
            yield float(likeness[place]), number, str(brief.data["block"].values[place])


def _exact(comparison: Comparison, block: str, hit: tuple[float, int, str], view: str) -> Hit:
    sketched, number, name = hit
    cells = comparison.cka("ab", view).sel(row=block, column=name)
    return Hit(number, name, float(cells["cka"]), float(cells["low"]), float(cells["high"]), sketched)

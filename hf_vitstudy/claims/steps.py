"""How a measurement changes along depth: across sublayers of one kind, and as a slope."""

from __future__ import annotations

import numpy as np

from ..comparison import Comparison


def steps(comparison: Comparison, kind: str, values: np.ndarray) -> np.ndarray:
    """Mean change across the sublayers of one kind, per image (image,); never across a change of the map's size."""
    data = comparison.a.data
    stage, kinds = data["stage"].values, data["kind"].values
    chosen = [i for i in range(1, len(kinds)) if kinds[i] == kind and stage[i] == stage[i - 1]]
    if not chosen:
        return np.full(len(values), np.nan)
    return mean_of_known(values[:, chosen] - values[:, [i - 1 for i in chosen]])


def slope(values: np.ndarray, depth: np.ndarray, group: np.ndarray | None = None) -> np.ndarray:
    """Least-squares slope of each row of `values` (row, place) along `depth` (place,): (row,), per the whole depth.

    With `group` (place,) every group of places has a level of its own, so that jumps from one to the next do not count. NaN
    values are left out; NaN where no group has two places left.
    """
    known = np.isfinite(values)
    values = np.where(known, values, 0.0)
    along, square = np.zeros(len(values)), np.zeros(len(values))
    for name in [None] if group is None else np.unique(group):
        here = known if group is None else known & (group == name)
        count = np.maximum(here.sum(1, keepdims=True), 1)
        centred = np.where(here, depth - (here * depth).sum(1, keepdims=True) / count, 0.0)
        along += (centred * values).sum(1)
        square += (centred**2).sum(1)
    return np.divide(along, square, out=np.full(len(values), np.nan), where=square > 0)


def mean_of_known(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean over an axis without its NaN; NaN where there is nothing else."""
    known = np.isfinite(values)
    count = known.sum(axis)
    total = np.where(known, values, 0).sum(axis)
    return np.divide(total, count, out=np.full(np.shape(count), np.nan), where=count > 0)

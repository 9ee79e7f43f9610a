"""Changes of a measurement across sublayers of one kind."""

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
    steps = values[:, chosen] - values[:, [i - 1 for i in chosen]]
    known = np.isfinite(steps)
    with np.errstate(invalid="ignore"):
        return np.where(known, steps, 0).sum(1) / known.sum(1)

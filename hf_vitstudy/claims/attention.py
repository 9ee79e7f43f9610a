"""How far heads look: local and global ones, and where."""

from __future__ import annotations

import numpy as np

from ..comparison import Comparison
from .contract import Claim
from .sources import RAGHU


def _head_distances(comparison: Comparison) -> tuple[np.ndarray, np.ndarray]:
    """Mean distances of the heads of the two lowest and the two highest layers, (1 + draws, heads) each.

    In units of the mean distance of uniform attention, so that 1 means "looks everywhere alike".
    """
    array = comparison.a["attention_distance"].transpose("image", "layer", "head")
    rows = comparison.resampling.mean(array.values) / float(array.attrs["uniform"])
    return rows[:, :2].reshape(len(rows), -1), rows[:, -2:].reshape(len(rows), -1)


def local_heads_low(comparison: Comparison) -> np.ndarray:
    """Distance of the most local head of the two highest layers minus that of the two lowest."""
    low, high = _head_distances(comparison)
    return np.fmin.reduce(high, axis=1) - np.fmin.reduce(low, axis=1)


def mixed_heads_low(comparison: Comparison) -> np.ndarray:
    """Spread (largest minus smallest) of head distances in the two lowest layers minus that in the two highest."""
    low, high = _head_distances(comparison)
    spread = [np.fmax.reduce(heads, axis=1) - np.fmin.reduce(heads, axis=1) for heads in (low, high)]
    return spread[0] - spread[1]


_HEAD_CONDITIONS = (
    "Distances renormalised without the class token. Local heads in low layers need much pre-training data in large "
    "models (Raghu Fig 4); small ViTs have few heads, so a narrow spread is no surprise."
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="R-4-local",
        text="The most local heads are in the low layers; high layers have none as local",
        source=f"{RAGHU}, Fig 3",
        statistic="smallest head distance in the two highest layers minus that in the two lowest, over uniform attention's",
        formula="min over heads of d(top two layers) - min over heads of d(bottom two), d in units of uniform attention's",
        falsified_by="a head of the highest layers is as local as the most local of the lowest",
        contrast=local_heads_low,
        margin=0.05,
        unit="of uniform attention's distance",
        roles=("vit",),
        conditions=_HEAD_CONDITIONS,
        needs=("attention_distance",),
    ),
    Claim(
        id="R-4-mixed",
        text="Low layers mix local and global heads; in high layers all heads are alike",
        source=f"{RAGHU}, Fig 3",
        statistic="spread of head distances in the two lowest layers minus that in the two highest, over uniform attention's",
        formula="(max - min) over heads of d(bottom two layers) - the same of the top two",
        falsified_by="heads spread as widely in the highest layers as in the lowest",
        contrast=mixed_heads_low,
        margin=0.05,
        unit="of uniform attention's distance",
        roles=("vit",),
        conditions=_HEAD_CONDITIONS,
        needs=("attention_distance",),
    ),
)

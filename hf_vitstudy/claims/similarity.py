"""CKA of all layers: uniform ViTs, ResNets in stages, and where one network reaches the other."""

from __future__ import annotations

import numpy as np

from ..comparison import Comparison
from .contract import Claim
from .sources import RAGHU


def _low_high_similarity(comparison: Comparison, side: str) -> np.ndarray:
    """Mean CKA of the lowest with the highest third of the blocks, (1 + draws,)."""
    depth = (comparison.a if side == "a" else comparison.b).data["depth"].values
    draws = comparison.cka_draws(side * 2)
    cells = draws[:, depth <= 1 / 3][:, :, depth > 2 / 3]
    known = np.isfinite(cells)
    with np.errstate(invalid="ignore"):
        return np.where(known, cells, 0).sum((1, 2)) / known.sum((1, 2))


def uniformity(comparison: Comparison) -> np.ndarray:
    """Low-high similarity of the ViT minus that of the ResNet."""
    return _low_high_similarity(comparison, "a") - _low_high_similarity(comparison, "b")


def resnet_reach(comparison: Comparison) -> np.ndarray:
    """Share of the ResNet's depth whose most similar ViT block lies in the ViT's lower quarter, minus a quarter.

    Between two blocks of the ResNet the lead of the lower quarter is interpolated linearly, so that the share moves
    with the similarities and not in steps of whole blocks; above the input it is the first block's.
    """
    vit, resnet = (profile.data["depth"].values for profile in (comparison.a, comparison.b))
    similarity = comparison.cka_draws("ab")  # (1 + draws, vit block, resnet block)
    defined = np.isfinite(similarity[0])
    rows, columns = defined.any(1), defined.any(0)
    low, high = rows & (vit <= 0.25), rows & (vit > 0.25)
    if not (low.any() and high.any()):
        return np.full(len(similarity), np.nan)
    similarity, resnet = similarity[:, :, columns], resnet[columns]
    lead = similarity[:, low].max(1) - similarity[:, high].max(1)
    return _share_positive(np.concatenate([lead[:, :1], lead], axis=1), np.concatenate([[0.0], resnet])) - 0.25


def _share_positive(values: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Length of the part of (0, 1] where the piecewise linear curves `values` (draw, place) at `depth` are positive."""
    left, right = values[:, :-1], values[:, 1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = left / (left - right)  # share of the segment before the sign changes
    share = np.where(left > 0, np.where(right > 0, 1.0, crossing), np.where(right > 0, 1 - crossing, 0.0))
    return share @ np.diff(depth)


_CKA_CONDITIONS = (
    "The paper used ViTs pre-trained on JFT-300M. CKA is one number per pair: few directions of high variance or similar "
    "inputs can make any two blocks alike (Davari et al. 2022, Cui et al. 2022)."
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="R-1",
        text="Low and high blocks are more alike in the ViT than in the ResNet",
        source=f"{RAGHU}, Fig 1",
        statistic="mean CKA of the lowest with the highest third of the blocks, ViT minus ResNet",
        formula="mean CKA(low third, high third) of V - the same of R",
        falsified_by="the ResNet's map is as bright as the ViT's between its first and its last third",
        contrast=uniformity,
        margin=0.05,
        unit="CKA",
        roles=("vit", "resnet"),
        conditions=_CKA_CONDITIONS,
        needs=("gram_flatten",),
        of_cka=True,
        sums_activations=True,
    ),
    Claim(
        id="R-2",
        text="The ResNet needs more of its depth to reach the representation of the ViT's lower quarter",
        source=f"{RAGHU}, Fig 2",
        statistic="share of the ResNet's depth whose most similar ViT block lies in the ViT's lower quarter, minus 0.25",
        formula="|{d_R : argmax over V of CKA at d_R lies at depth <= 1/4}| - 1/4",
        falsified_by="the best matches of the ResNet's blocks leave the ViT's lower quarter within the ResNet's own",
        contrast=resnet_reach,
        margin=0.05,
        unit="share of depth",
        roles=("vit", "resnet"),
        conditions=_CKA_CONDITIONS
        + " Depends on the granularity: here blocks and sublayers, in the paper every operation.",
        needs=("gram_flatten",),
        of_cka=True,
        sums_activations=True,
    ),
)

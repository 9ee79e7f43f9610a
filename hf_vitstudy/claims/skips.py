"""Skip ratios: how much of a token is carried on unchanged, by depth, kind of token and kind of network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..comparison import Comparison
from ..profile import Profile
from .contract import Claim
from .sources import RAGHU
from .steps import mean_of_known


def _log_ratio(profile: Profile, name: str) -> np.ndarray:
    """(image, branch), NaN where the skip is a projection, which carries nothing on unchanged, or has no norm."""
    ratio = profile[name].transpose("image", "branch").values.astype(np.float64)
    kept = (ratio > 0) & ~(profile["branch_projected"].values > 0)
    return np.log(ratio, out=np.full(ratio.shape, np.nan), where=kept)


def _earlier_half_leads(name: str, sign: int) -> Callable[[Comparison], np.ndarray]:
    def contrast(comparison: Comparison) -> np.ndarray:
        ratio, depth = _log_ratio(comparison.a, name), comparison.a["branch_depth"].values
        lead = mean_of_known(ratio[:, depth <= 0.5]) - mean_of_known(ratio[:, depth > 0.5])
        return sign * comparison.resampling.mean(lead)

    contrast.__doc__ = f"Mean log `{name}` of the first half of the branches minus that of the second, times {sign}."
    return contrast


def first_carries_more(comparison: Comparison) -> np.ndarray:
    """Mean log skip ratio of spatial tokens over all branches, first network minus second, paired by image."""
    first, second = (mean_of_known(_log_ratio(profile, "skip_ratio")) for profile in (comparison.a, comparison.b))
    return comparison.resampling.mean(first - second)


MARGIN = 0.1  # a tenth in the ratio of norms; the paper's curves change several-fold
_SKIP_CONDITIONS = (
    "Logarithms, since ratios are several-fold; attention and MLP branches together, spatial tokens by the mean of their "
    "ratios. The paper had a ViT-B/16 trained on ImageNet and a ResNet-50; a ratio depends on where a network normalises, so "
    "one with LayerScale or post-normalisation may differ for that alone."
)
_NEEDS = ("branch_depth", "branch_projected")

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="R-8-class",
        text="In a ViT's first half the class token is carried on by the skips, in its second half it is changed",
        source=f"{RAGHU}, Fig 7",
        statistic="mean log skip ratio of the class token over branches, first half of the network minus second",
        formula="mean over d <= 1/2 of log(|z| / |f(z)|) - the same over d > 1/2, z the class token",
        falsified_by="the class token's ratio is no higher in the first half than in the second",
        contrast=_earlier_half_leads("class_skip_ratio", 1),
        margin=MARGIN,
        unit="log ratio",
        roles=("plain vit",),
        conditions=_SKIP_CONDITIONS
        + " Networks that classify by the mean of all tokens have no class token to tell of.",
        needs=("class_skip_ratio", *_NEEDS),
    ),
    Claim(
        id="R-8-spatial",
        text="In a ViT's first half spatial tokens are changed, in its second half the skips carry them on",
        source=f"{RAGHU}, Fig 7",
        statistic="mean log skip ratio of spatial tokens over branches, second half of the network minus first",
        formula="mean over d > 1/2 of log(|z| / |f(z)|) - the same over d <= 1/2, z a spatial token",
        falsified_by="the spatial tokens' ratio is no lower in the first half than in the second",
        contrast=_earlier_half_leads("skip_ratio", -1),
        margin=MARGIN,
        unit="log ratio",
        roles=("plain vit",),
        conditions=_SKIP_CONDITIONS,
        needs=("skip_ratio", *_NEEDS),
    ),
    Claim(
        id="R-8-level",
        text="A ViT's skips carry on more than a ResNet's",
        source=f"{RAGHU}, Fig 7",
        statistic="mean log skip ratio of spatial tokens over all branches, ViT minus ResNet",
        formula="mean over branches of log(|z| / |f(z)|), V - R",
        falsified_by="the ResNet's ratios lie as high as the ViT's",
        contrast=first_carries_more,
        margin=MARGIN,
        unit="log ratio",
        roles=("vit", "resnet"),
        conditions=_SKIP_CONDITIONS + " Skips that pass a projection, as where a ResNet's stages begin, are left out.",
        needs=("skip_ratio", *_NEEDS),
    ),
)

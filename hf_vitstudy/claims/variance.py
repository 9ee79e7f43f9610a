"""Variance of feature maps over the image: what attention averages away and what MLPs and convolutions add."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..comparison import Comparison
from ..errors import StudyError
from .contract import Claim
from .sources import PARK
from .steps import mean_of_known, steps


def _log_variance(comparison: Comparison) -> np.ndarray:
    """(image, block), NaN where an activation is the same at every place."""
    variance = comparison.a["variance"].transpose("image", "block").values
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance > 0, np.log(variance), np.nan)


def _variance_step(kind: str, sign: int) -> Callable[[Comparison], np.ndarray]:
    def contrast(comparison: Comparison) -> np.ndarray:
        return sign * comparison.resampling.mean(steps(comparison, kind, _log_variance(comparison)))

    contrast.__doc__ = f"Mean change of the logarithm of the spatial variance across {kind} sublayers, times {sign}."
    return contrast


def peak_at_the_end(comparison: Comparison) -> np.ndarray:
    """Log variance of a stage's last block minus the highest of its other blocks, mean over stages of several blocks.

    Means over images come first, so that the noise of single images does not choose the highest.
    """
    data = comparison.a.data
    stage, convolutional = data["stage"].values, data["kind"].values == "conv"
    rows = comparison.resampling.mean(_log_variance(comparison))
    blocks = [np.flatnonzero(convolutional & (stage == name)) for name in np.unique(stage)]
    leads = [rows[:, of[-1]] - np.fmax.reduce(rows[:, of[:-1]], axis=1) for of in blocks if len(of) > 1]
    if not leads:
        raise StudyError(f"{comparison.a.name} has no stage of two or more convolutional blocks, so no stage can peak")
    return mean_of_known(np.stack(leads, axis=1))


_VARIANCE_CONDITIONS = (
    "Unbiased spatial variance per channel, as in the official code; changes taken of its logarithm."
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="P-V1-msa",
        text="Self-attention lowers the variance of feature maps",
        source=f"{PARK}, Fig 9",
        statistic="minus the mean change of log spatial variance across attention sublayers",
        formula="-mean over attention of (log var_after - log var_before)",
        falsified_by="variance rises across attention",
        contrast=_variance_step("attention", -1),
        margin=0.02,
        unit="log variance",
        roles=("attention",),
        conditions=_VARIANCE_CONDITIONS,
        needs=("variance",),
        sums_activations=True,
    ),
    Claim(
        id="P-V1-mlp",
        text="MLPs raise the variance of feature maps",
        source=f"{PARK}, Fig 9",
        statistic="mean change of log spatial variance across MLP sublayers",
        formula="mean over MLPs of (log var_after - log var_before)",
        falsified_by="variance falls across MLPs",
        contrast=_variance_step("mlp", 1),
        margin=0.02,
        unit="log variance",
        roles=("vit",),
        conditions=_VARIANCE_CONDITIONS,
        needs=("variance",),
        sums_activations=True,
    ),
    Claim(
        id="P-V1-conv",
        text="Convolutional blocks raise the variance of feature maps",
        source=f"{PARK}, Fig 9",
        statistic="mean change of log spatial variance across blocks within a stage",
        formula="mean over blocks of (log var_after - log var_before)",
        falsified_by="variance falls within stages",
        contrast=_variance_step("conv", 1),
        margin=0.02,
        unit="log variance",
        roles=("resnet",),
        conditions=_VARIANCE_CONDITIONS,
        needs=("variance",),
        sums_activations=True,
    ),
    Claim(
        id="P-V2",
        text="The variance of feature maps peaks at the ends of a ResNet's stages",
        source=f"{PARK}, Fig 9",
        statistic="log spatial variance of a stage's last block minus the highest of its others, mean over stages",
        formula="mean over stages of (log var_last - max over the others of log var)",
        falsified_by="the highest variance of most stages lies before their last block",
        contrast=peak_at_the_end,
        margin=0.02,
        unit="log variance",
        roles=("resnet",),
        conditions=_VARIANCE_CONDITIONS
        + " Stages of one block and the stem are left out. Of two blocks it says only that the second raises variance.",
        needs=("variance",),
        sums_activations=True,
    ),
)

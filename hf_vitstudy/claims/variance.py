"""Variance of feature maps over the image: what attention averages away and what MLPs and convolutions add."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..comparison import Comparison
from .contract import Claim
from .sources import PARK
from .steps import steps


def _variance_step(kind: str, sign: int) -> Callable[[Comparison], np.ndarray]:
    def contrast(comparison: Comparison) -> np.ndarray:
        variance = comparison.a["variance"].transpose("image", "block").values
        with np.errstate(divide="ignore", invalid="ignore"):
            logarithm = np.where(variance > 0, np.log(variance), np.nan)
        return sign * comparison.resampling.mean(steps(comparison, kind, logarithm))

    contrast.__doc__ = f"Mean change of the logarithm of the spatial variance across {kind} sublayers, times {sign}."
    return contrast


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
)

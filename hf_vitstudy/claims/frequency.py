"""Fourier spectra: which blocks let high frequencies through."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..comparison import Comparison
from .contract import Claim
from .sources import PARK
from .steps import steps


def _frequency_step(kind: str, sign: int) -> Callable[[Comparison], np.ndarray]:
    def contrast(comparison: Comparison) -> np.ndarray:
        top = comparison.a["fourier"].isel(frequency=-1).transpose("image", "block").values
        return sign * comparison.resampling.mean(steps(comparison, kind, top))

    contrast.__doc__ = f"Mean change of the highest frequencies' log amplitude across {kind} sublayers, times {sign}."
    return contrast


_FREQUENCY_CONDITIONS = (
    "Mean over sublayers. The paper exempts the first blocks, where attention acts like a convolution. "
    "Compared only within a stage: across stages the change of the grid dominates."
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="P-F1",
        text="Self-attention lowers high frequencies",
        source=f"{PARK}, Fig 8",
        statistic="minus the mean change of Δ log amplitude in the highest band (0.8π to π) across attention sublayers",
        formula="-mean over attention of (A_after - A_before), A = log|F(0.8π..π)| - log|F(0)|",
        falsified_by="the curve of high frequencies rises across attention",
        contrast=_frequency_step("attention", -1),
        margin=0.02,
        unit="log amplitude",
        roles=("attention",),
        conditions=_FREQUENCY_CONDITIONS,
        needs=("fourier",),
    ),
    Claim(
        id="P-F2-mlp",
        text="MLPs raise high frequencies",
        source=f"{PARK}, Fig 8",
        statistic="mean change of Δ log amplitude in the highest band (0.8π to π) across MLP sublayers",
        formula="mean over MLPs of (A_after - A_before)",
        falsified_by="the curve of high frequencies falls across MLPs",
        contrast=_frequency_step("mlp", 1),
        margin=0.02,
        unit="log amplitude",
        roles=("vit",),
        conditions=_FREQUENCY_CONDITIONS,
        needs=("fourier",),
    ),
    Claim(
        id="P-F2-conv",
        text="Convolutional blocks raise high frequencies",
        source=f"{PARK}, Fig 8",
        statistic="mean change of Δ log amplitude in the highest band (0.8π to π) across blocks within a stage",
        formula="mean over blocks of (A_after - A_before)",
        falsified_by="the curve of high frequencies falls within stages",
        contrast=_frequency_step("conv", 1),
        margin=0.02,
        unit="log amplitude",
        roles=("resnet",),
        conditions=_FREQUENCY_CONDITIONS + " Depthwise convolutions at the end of a stage act as low-pass filters.",
        against="Depthwise convolutions of ConvNeXt at the end of stages act as low-pass filters (how-do-vits-work, issue 7).",
        needs=("fourier",),
    ),
)

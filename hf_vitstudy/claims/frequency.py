"""Fourier spectra: which blocks let high frequencies through."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..comparison import Comparison
from .contract import Claim
from .sources import PARK
from .steps import slope, steps


def _frequency_step(kind: str, sign: int) -> Callable[[Comparison], np.ndarray]:
    def contrast(comparison: Comparison) -> np.ndarray:
        top = comparison.a["fourier"].isel(frequency=-1).transpose("image", "block").values
        return sign * comparison.resampling.mean(steps(comparison, kind, top))

    contrast.__doc__ = f"Mean change of the highest frequencies' log amplitude across {kind} sublayers, times {sign}."
    return contrast


def _frequency_slope(sign: int, *, within: bool) -> Callable[[Comparison], np.ndarray]:
    def contrast(comparison: Comparison) -> np.ndarray:
        data = comparison.a.data
        top = comparison.a["fourier"].isel(frequency=-1).transpose("image", "block").values
        stages = data["stage"].values if within else None
        return sign * comparison.resampling.mean(slope(top, data["depth"].values, stages))

    where = "within stages" if within else "over all places"
    contrast.__doc__ = f"Slope of the highest frequencies' log amplitude with relative depth, {where}, times {sign}."
    return contrast


_FREQUENCY_CONDITIONS = (
    "Mean over sublayers. The paper exempts the first blocks, where attention acts like a convolution. "
    "Compared only within a stage: across stages the change of the grid dominates."
)

_SLOPE_CONDITIONS = (
    "One straight line per image; the paper shows one image, every place read at its own highest frequency. Slopes are per "
    "whole depth of the network."
)
SLOPE_MARGIN = 0.2  # a fifth in amplitude from input to output; the paper's curves move by 0.5 (ViT) to 5 (ResNet)

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
    Claim(
        id="P-F3-resnet",
        text="High frequencies rise with depth within the stages of a ResNet",
        source=f"{PARK}, Fig 8",
        statistic="least-squares slope of Δ log amplitude in the highest band (0.8π to π) with relative depth within stages",
        formula="Σ (d - mean d of the stage) A / Σ (d - mean d of the stage)^2, A = log|F(0.8π..π)| - log|F(0)|",
        falsified_by="the curve of high frequencies falls from the first to the last block of most stages",
        contrast=_frequency_slope(1, within=True),
        margin=SLOPE_MARGIN,
        unit="log amplitude per depth",
        roles=("resnet",),
        conditions=_SLOPE_CONDITIONS
        + " Here every stage has a level of its own, so that the change of the grid does not count.",
        needs=("fourier",),
        against="Depthwise convolutions of ConvNeXt at the end of stages act as low-pass filters (how-do-vits-work, issue 7).",
    ),
    Claim(
        id="P-F3-resnet-across",
        text="High frequencies rise with depth in a ResNet, from its first stage to its last",
        source=f"{PARK}, Fig 8",
        statistic="least-squares slope of Δ log amplitude in the highest band (0.8π to π) with relative depth, all places",
        formula="Σ (d - mean d) A / Σ (d - mean d)^2 over all places",
        falsified_by="the curve of high frequencies is no higher in the last stage than in the first",
        contrast=_frequency_slope(1, within=False),
        margin=SLOPE_MARGIN,
        unit="log amplitude per depth",
        roles=("resnet",),
        conditions=_SLOPE_CONDITIONS
        + " As published: a coarser grid has its highest frequency at longer waves, where images have more amplitude, so that "
        "subsampling alone makes this positive. P-F3-resnet is without it.",
        needs=("fourier",),
        against="In the paper's own figure curves rise by 0.1 to 0.4 within stages and by 1 to 2 between them.",
    ),
    Claim(
        id="P-F3-vit",
        text="High frequencies fall with depth in a ViT",
        source=f"{PARK}, Fig 8",
        statistic="minus the slope of Δ log amplitude in the highest band (0.8π to π) with relative depth, all places",
        formula="-Σ (d - mean d) A / Σ (d - mean d)^2 over all places",
        falsified_by="the curve of high frequencies is no lower at the end than after the embedding",
        contrast=_frequency_slope(-1, within=False),
        margin=SLOPE_MARGIN,
        unit="log amplitude per depth",
        roles=("plain vit",),
        conditions=_SLOPE_CONDITIONS + " ViTs of one resolution only, so that no change of the grid takes part.",
        needs=("fourier",),
    ),
)

"""What noise, corruptions and lesions cost: accuracies paired by image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..comparison import Comparison
from ..errors import StudyError
from ..robustness import Crossing, answers, crossing, require_alike
from ..stats import Estimate, Resampling
from .contract import Claim
from .intervals import negated, steady
from .sources import PARK


def _resampling(comparison: Comparison, n: int) -> Resampling:
    """The comparison's draws, of the n images that a measurement looked at."""
    return Resampling(n, comparison.resampling.draws, comparison.resampling.seed)


# --------------------------------------------------------------------------------------------------------------- noise

# Where the curves cross, in units of π, and what is about there: one and a half steps of the measurement.
PUBLISHED, NEAR = 0.6, 0.15


def _crossing(comparison: Comparison) -> Crossing:
    draws, seed = comparison.resampling.draws, comparison.resampling.seed
    return crossing(comparison.a, comparison.b, draws=draws, seed=seed)


def loses_more_low(comparison: Comparison) -> Estimate:
    """Accuracy that the ViT loses minus what the ResNet loses, mean over noise of 0.1π to 0.5π."""
    return _crossing(comparison).below


def loses_less_high(comparison: Comparison) -> Estimate:
    """Accuracy that the ResNet loses minus what the ViT loses, mean over noise of 0.6π to 0.9π."""
    return negated(_crossing(comparison).above)


def crosses_near(comparison: Comparison) -> Estimate:
    """How much nearer than NEAR the crossing is to the PUBLISHED one, in π; curves that do not cross do so at an end."""
    curves = _crossing(comparison)
    shift = PUBLISHED if np.isfinite(curves.above.value) else np.nan  # curves of unknown labels cross nowhere
    found = curves.frequency
    return steady(replace(found, value=found.value - shift, low=found.low - shift, high=found.high - shift), NEAR)


_NOISE = (
    "Every band has the same energy, in pixels, and noisy images are clipped. The paper's noise is stronger the higher its "
    "frequency, in units of each network's own normalisation, on ImageNet."
)

NOISE: tuple[Claim, ...] = (
    Claim(
        id="P-N1-high",
        text="Noise of high frequency costs the ResNet more accuracy than the ViT",
        source=f"{PARK}, Fig 2b",
        statistic="accuracy that the ResNet loses minus what the ViT loses, mean over noise of 0.6π to 0.9π, paired by image",
        formula="mean over f ≥ 0.6π of (drop of R - drop of V)",
        falsified_by="beyond 0.6π the ViT's curve lies above the ResNet's",
        contrast=loses_less_high,
        margin=0.02,  # two points; the published curves are six apart on average
        unit="accuracy",
        roles=("vit", "resnet"),
        conditions=_NOISE,
        needs=("noise_correct", "noise_clean_correct"),
    ),
    Claim(
        id="P-N1-low",
        text="Noise of low frequency costs the ViT more accuracy than the ResNet",
        source=f"{PARK}, Fig 2b",
        statistic="accuracy that the ViT loses minus what the ResNet loses, mean over noise of 0.1π to 0.5π, paired by image",
        formula="mean over f ≤ 0.5π of (drop of V - drop of R)",
        falsified_by="below 0.6π the ResNet's curve lies above the ViT's",
        contrast=loses_more_low,
        margin=0.01,  # one point; the published curves are only two apart on average
        unit="accuracy",
        roles=("vit", "resnet"),
        conditions=_NOISE,
        needs=("noise_correct", "noise_clean_correct"),
    ),
    Claim(
        id="P-N1-crossing",
        text="Up to about 0.6π noise costs the ViT more, above it the ResNet",
        source=f"{PARK}, Fig 2b",
        statistic="0.15π minus the distance of the frequency that divides the two best from 0.6π",
        formula="0.15 - |f_cross / π - 0.6|",
        falsified_by="the curves cross more than 0.2π away from 0.6π, the other way round, or not at all",
        contrast=crosses_near,
        margin=0.05,  # half a step of the measurement
        unit="π",
        roles=("vit", "resnet"),
        conditions=f"{_NOISE} Supported where the curves cross within 0.1π of 0.6π, contradicted beyond 0.2π.",
        needs=("noise_correct", "noise_clean_correct"),
    ),
)


# --------------------------------------------------------------------------------------------------------- corruptions


def _corrupted(comparison: Comparison) -> tuple[np.ndarray, Resampling]:
    """Accuracy under corruption of both, mean over kinds and severities, and clean accuracy of both, (1 + draws, 4)."""
    require_alike(comparison.a, comparison.b, "corruption")
    profiles = comparison.a, comparison.b
    under = [answers(profile, "corruption_correct").mean((1, 2)) for profile in profiles]
    clean = [answers(profile, "corruption_clean_correct") for profile in profiles]
    values = np.stack([*under, *clean], axis=1)
    values[np.isnan(values).any(1)] = np.nan  # whose label one of them does not know
    resampling = _resampling(comparison, len(values))
    return resampling.mean(values), resampling


def more_robust(comparison: Comparison) -> Estimate:
    """Mean accuracy on corrupted images, first minus second."""
    rows, resampling = _corrupted(comparison)
    return resampling.estimate(rows[:, 0] - rows[:, 1])


def keeps_more(comparison: Comparison) -> Estimate:
    """Share of its clean accuracy that a network keeps on corrupted images, first minus second."""
    rows, resampling = _corrupted(comparison)
    clean = np.where(rows[:, 2:] > 0, rows[:, 2:], np.nan)  # of nothing there is no share
    kept = rows[:, :2] / clean
    return resampling.estimate(kept[:, 0] - kept[:, 1])


def _corruption_claims(suffix: str, first: str, role: str, against: str = "") -> tuple[Claim, Claim]:
    """The claim on accuracy and the one relative to the clean accuracy, for a role against the ResNet."""
    conditions = (
        "Corruptions made at the network's input size, not the published files. A network that is better on clean images is "
        "usually better on corrupted ones: read both claims."
    )
    needs = ("corruption_correct", "corruption_clean_correct")
    absolute = Claim(
        id=f"P-R1-{suffix}",
        text=f"On corrupted images {first} is more accurate than the ResNet",
        source=f"{PARK}, Fig 12",
        statistic=f"mean accuracy over kinds and severities of corruption, {role} minus ResNet, paired by image",
        formula=f"mean accuracy under corruption of {role} - the same of R",
        falsified_by=f"the ResNet's mean over the corruptions lies above that of {first}",
        contrast=more_robust,
        margin=0.02,  # two points, as for noise
        unit="accuracy",
        roles=(role, "resnet"),
        conditions=conditions,
        against=against,
        needs=needs,
    )
    relative = replace(
        absolute,
        id=f"P-R1-{suffix}-relative",
        text=f"On corrupted images {first} keeps more of its clean accuracy than the ResNet",
        statistic=f"mean accuracy under corruption over clean accuracy, {role} minus ResNet, paired by image",
        formula=f"(accuracy under corruption / clean accuracy) of {role} - the same of R",
        falsified_by=f"the ResNet loses a smaller share of its accuracy to the corruptions than {first}",
        contrast=keeps_more,
        unit="of clean accuracy",
        conditions=f"{conditions} Not a number of the paper.",
    )
    return absolute, relative


CORRUPTIONS = (
    *_corruption_claims("vit", "the ViT", "vit"),
    *_corruption_claims("hybrid", "the hybrid of convolutions and attention", "hybrid"),
)


# ------------------------------------------------------------------------------------------------------------- lesions


def lesion_slope(comparison: Comparison, kind: str) -> Estimate:
    """Change, from the start of a stage to its end, of the accuracy lost with one part of a kind; a line by least squares.

    The line has one slope and a level for every stage. Positions count blocks: 1 for the last of a stage.
    """
    profile = comparison.a
    chosen = profile["lesion_kind"].values == kind
    weights = _slope_weights(profile["lesion_position"].values[chosen], profile["lesion_stage"].values[chosen])
    if not np.any(weights):
        raise StudyError(
            f"{profile.name} has no stage with lesions of kind {kind!r} at two places, so nothing can change"
        )
    intact = answers(profile, "lesion_intact_correct")
    lost = intact[:, None] - answers(profile, "lesion_correct")[:, chosen]
    resampling = _resampling(comparison, len(lost))
    return resampling.estimate(resampling.mean(lost @ weights))


def _slope_weights(position: np.ndarray, stage: np.ndarray) -> np.ndarray:
    """w with w · y = the common slope of y over position within stages (ordinary least squares); all 0 if undefined."""
    position = position.astype(np.float64)
    centred = np.zeros(len(position))
    for of in np.unique(stage):
        here = stage == of
        centred[here] = position[here] - position[here].mean()
    square = float(centred @ centred)
    return centred / square if square > 1e-12 else np.zeros(len(position))


def _slope(kind: str, sign: int) -> Callable[[Comparison], Estimate]:
    def contrast(comparison: Comparison) -> Estimate:
        found = lesion_slope(comparison, kind)
        return found if sign > 0 else negated(found)

    contrast.__doc__ = f"Rise of the accuracy lost with one {kind} from the start of a stage to its end, times {sign}."
    return contrast


_LESION_NEEDS = ("lesion_correct", "lesion_intact_correct", "lesion_position", "lesion_stage", "lesion_kind")
_LESION = (
    "A branch is replaced by zero, a 3 x 3 convolution by the identity; where it changes the number of channels there is none. "
    "A ViT of one resolution counts as one stage."
)

LESIONS: tuple[Claim, ...] = (
    Claim(
        id="P-L1-msa",
        text="The later in its stage, the more accuracy an attention layer is worth",
        source=f"{PARK}, Fig 10b",
        statistic="rise, from the start of a stage to its end, of the accuracy lost without one attention layer, by a line",
        formula="slope within stages of [accuracy - accuracy without attention i] over position i",
        falsified_by="without the first attention layers of a stage as much accuracy is lost as without the last",
        contrast=_slope("attention", 1),
        margin=0.05,  # five points over a stage; single layers of the paper cost up to tens of points
        unit="accuracy per stage",
        roles=("attention",),
        conditions=_LESION,
        against="In deep ViTs the attention layers in the middle matter most, so that a line finds little; the author says the "
        "claim holds for shallow ViTs and Swin (how-do-vits-work, issue 41).",
        needs=_LESION_NEEDS,
    ),
    Claim(
        id="P-L1-conv",
        text="The earlier in its stage, the more accuracy a convolution is worth",
        source=f"{PARK}, Fig 10b",
        statistic="fall, from the start of a stage to its end, of the accuracy lost without one convolution, by a line",
        formula="-slope within stages of [accuracy - accuracy without convolution i] over position i",
        falsified_by="without the last convolutions of a stage as much accuracy is lost as without the first",
        contrast=_slope("convolution", -1),
        margin=0.05,
        unit="accuracy per stage",
        roles=("resnet",),
        conditions=f"{_LESION} The first convolution of a stage halves the map, so that its identity is a mean over cells.",
        needs=_LESION_NEEDS,
    ),
    Claim(
        id="P-L1-mlp",
        text="The earlier in its stage, the more accuracy an MLP is worth",
        source=f"{PARK}, Fig 10b",
        statistic="fall, from the start of a stage to its end, of the accuracy lost without one MLP, by a line",
        formula="-slope within stages of [accuracy - accuracy without MLP i] over position i",
        falsified_by="without the last MLPs of a stage as much accuracy is lost as without the first",
        contrast=_slope("mlp", -1),
        margin=0.05,
        unit="accuracy per stage",
        roles=("vit",),
        conditions=_LESION,
        needs=_LESION_NEEDS,
    ),
)
CLAIMS: tuple[Claim, ...] = (*NOISE, *CORRUPTIONS, *LESIONS)

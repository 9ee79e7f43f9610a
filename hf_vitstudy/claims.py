"""Published statements as contrasts that data can refute.

A claim is a number that is positive where the statement holds (its *contrast*), with a margin fixed before looking: the
smallest effect that would matter. Its 95 % interval over images decides:

    supported      the whole interval lies above +margin
    contradicted   the whole interval lies below -margin
    negligible     the whole interval lies within ±margin: the effect is there or not, but too small to matter
    undecided      anything else: more images are needed

An interval over images speaks about *these checkpoints on images like these*, not about architectures: for that, many pairs
of checkpoints are needed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from .comparison import Comparison, compare
from .errors import StudyError
from .profile import Profile
from .stats import Estimate


class Verdict(StrEnum):
    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    NEGLIGIBLE = "negligible"
    UNDECIDED = "undecided"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True)
class Claim:
    """A published statement and the contrast that tests it.

    Attributes:
        id: short name, R for Raghu et al. 2021, P for Park & Kim 2022.
        text: the statement, in words.
        source: paper and figure.
        statistic: what the contrast is, in words.
        contrast: the number, for the images as they are and every bootstrap draw, (1 + draws,); positive where it holds.
        margin: smallest effect that matters, in `unit`.
        roles: which checkpoints it speaks about: ``("vit",)``, ``("resnet",)`` or ``("vit", "resnet")``.
        conditions: when the papers say it should hold, and what is known against it.
        needs: measurements it reads, so that a missing one can be named.
        sums_activations: whether the statistic weighs channels by their size, so that one large channel can decide it.
    """

    id: str
    text: str
    source: str
    statistic: str
    contrast: Callable[[Comparison], np.ndarray]
    margin: float
    unit: str
    roles: tuple[str, ...]
    conditions: str
    needs: tuple[str, ...]
    sums_activations: bool = False


@dataclass(frozen=True)
class Judgement:
    """What the data say about one claim for one choice of checkpoints.

    Attributes:
        checkpoints: names, in the order of the claim's roles; empty where no profile has the role.
        estimate: the contrast with its interval, None where the claim does not apply.
        note: why it does not apply, or at which granularity it was judged.
        warnings: what in these checkpoints makes the statistic say less than it seems to.
    """

    claim: Claim
    checkpoints: tuple[str, ...]
    verdict: Verdict
    estimate: Estimate | None = None
    note: str = ""
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        claim = {key: value for key, value in asdict(self.claim).items() if key != "contrast"}
        estimate = None
        if self.estimate:  # JSON has no NaN
            estimate = {
                k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in asdict(self.estimate).items()
            }
        return {
            **claim,
            "checkpoints": self.checkpoints,
            "verdict": str(self.verdict),
            "estimate": estimate,
            "note": self.note,
            "warnings": self.warnings,
        }


def verdict(estimate: Estimate, margin: float) -> Verdict:
    """The verdict of an interval against a margin, as the module's head defines it."""
    if not (np.isfinite(estimate.low) and np.isfinite(estimate.high)):
        return Verdict.UNDECIDED
    if estimate.low > margin:
        return Verdict.SUPPORTED
    if estimate.high < -margin:
        return Verdict.CONTRADICTED
    if -margin <= estimate.low and estimate.high <= margin:
        return Verdict.NEGLIGIBLE
    return Verdict.UNDECIDED


def judge(
    *profiles: Profile, claims: Sequence[Claim] | None = None, draws: int = 1000, seed: int = 0
) -> list[Judgement]:
    """Judge every claim on every choice of profiles that has its roles.

    A checkpoint with attention takes the role ``vit``; one with convolutional blocks and no attention the role ``resnet``.

    Args:
        profiles: one or more, of the same images.
        claims: which to judge; all of `CLAIMS` by default.
        draws, seed: of the bootstrap over images.

    Returns:
        One judgement per claim and choice of checkpoints; a claim that no choice fits appears once, as not applicable.
    """
    if not profiles:
        raise StudyError("judge needs at least one profile, got none")
    comparisons: dict[tuple[int, int], Comparison] = {}

    def compared(first: int, last: int) -> Comparison:
        if (first, last) not in comparisons:
            comparisons[first, last] = compare(profiles[first], profiles[last], draws=draws, seed=seed)
        return comparisons[first, last]

    return [
        judgement
        for claim in (CLAIMS if claims is None else claims)
        for judgement in _judge_claim(claim, profiles, compared)
    ]


def _judge_claim(
    claim: Claim, profiles: Sequence[Profile], compared: Callable[[int, int], Comparison]
) -> list[Judgement]:
    indices = [[i for i, profile in enumerate(profiles) if _plays(profile, role)] for role in claim.roles]
    choices = list(itertools.product(*indices))
    if not choices:
        missing = [role for role, found in zip(claim.roles, indices, strict=True) if not found]
        return [Judgement(claim, (), Verdict.NOT_APPLICABLE, note=f"needs a {_ROLES[missing[0]]}")]
    return [_judge_choice(claim, compared(choice[0], choice[-1]), len(choice)) for choice in choices]


def _judge_choice(claim: Claim, comparison: Comparison, count: int) -> Judgement:
    chosen = (comparison.a, comparison.b)[:count]
    names = tuple(profile.name for profile in chosen)
    try:
        for profile, name in itertools.product(chosen, claim.needs):
            profile[name]
    except StudyError as error:
        return Judgement(claim, names, Verdict.NOT_APPLICABLE, note=str(error))
    estimate = comparison.resampling.estimate(claim.contrast(comparison))
    warnings = tuple(text for profile in chosen for text in dominated(profile)) if claim.sums_activations else ()
    return Judgement(claim, names, verdict(estimate, claim.margin), estimate, granularity(chosen), warnings)


def choose_claims(ids: Sequence[str] | None) -> list[Claim]:
    """The claims with these ids, all for None.

    Raises:
        StudyError: an unknown id.
    """
    known = {claim.id: claim for claim in CLAIMS}
    for name in ids or ():
        if name not in known:
            raise StudyError(f"no claim is called {name!r}; there are: {', '.join(known)}")
    return list(CLAIMS) if ids is None else [known[name] for name in ids]


DOMINANT = 0.5  # share of the squared activations in one channel; trained networks have a few per cent


def dominated(profile: Profile) -> list[str]:
    """A sentence where one channel holds most of the squared activations of some blocks; empty where none does."""
    if "top_channel_share" not in profile.data:
        return []
    share = profile["top_channel_share"].mean("image").values
    blocks = np.flatnonzero(share > DOMINANT)
    if not len(blocks):
        return []
    names = profile.data["block"].values
    most = f"{100 * np.nanmax(share):.0f} %"
    where = f"{len(blocks)} of {len(names)} places, the first {names[blocks[0]]}"
    return [
        f"{profile.name}: one channel holds up to {most} of the squared activations ({where}). Statistics of whole activations "
        "say little but what this channel does there (massive activations, Sun et al. 2024)."
    ]


def granularity(profiles: Sequence[Profile]) -> str:
    """How finely each checkpoint was read, such as ``25 places in 12 blocks``: CKA claims depend on it."""
    return "; ".join(f"{profile.name}: {_places(profile)}" for profile in profiles)


def _places(profile: Profile) -> str:
    names = [str(name) for name in profile.data["block"].values]
    blocks = {name.split(".")[0] for name in names if name.startswith("block")}
    return f"{len(names)} places in {len(blocks)} blocks"


_ROLES = {"vit": "checkpoint with attention", "resnet": "checkpoint with convolutional blocks and no attention"}


def _plays(profile: Profile, role: str) -> bool:
    return profile.has("attention") if role == "vit" else profile.has("conv") and not profile.has("attention")


# --------------------------------------------------------------------------------------------------------- contrasts
# `a` is the ViT and `b` the ResNet where a claim has both roles; a claim with one role finds its checkpoint as `a`.


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


def _steps(comparison: Comparison, kind: str, values: np.ndarray) -> np.ndarray:
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


def _frequency_step(kind: str, sign: int) -> Callable[[Comparison], np.ndarray]:
    def contrast(comparison: Comparison) -> np.ndarray:
        top = comparison.a["fourier"].isel(frequency=-1).transpose("image", "block").values
        return sign * comparison.resampling.mean(_steps(comparison, kind, top))

    contrast.__doc__ = f"Mean change of the highest frequencies' log amplitude across {kind} sublayers, times {sign}."
    return contrast


def _variance_step(kind: str, sign: int) -> Callable[[Comparison], np.ndarray]:
    def contrast(comparison: Comparison) -> np.ndarray:
        variance = comparison.a["variance"].transpose("image", "block").values
        with np.errstate(divide="ignore", invalid="ignore"):
            logarithm = np.where(variance > 0, np.log(variance), np.nan)
        return sign * comparison.resampling.mean(_steps(comparison, kind, logarithm))

    contrast.__doc__ = f"Mean change of the logarithm of the spatial variance across {kind} sublayers, times {sign}."
    return contrast


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


# ------------------------------------------------------------------------------------------------------------ claims

_RAGHU = "Raghu et al. 2021"
_PARK = "Park & Kim 2022"
_CKA_CONDITIONS = (
    "The paper used ViTs pre-trained on JFT-300M. CKA is one number per pair: few directions of high variance or similar "
    "inputs can make any two blocks alike (Davari et al. 2022, Cui et al. 2022)."
)
_FREQUENCY_CONDITIONS = (
    "Mean over sublayers. The paper exempts the first blocks, where attention acts like a convolution. "
    "Compared only within a stage: across stages the change of the grid dominates."
)
_VARIANCE_CONDITIONS = (
    "Unbiased spatial variance per channel, as in the official code; changes taken of its logarithm."
)
_HEAD_CONDITIONS = (
    "Distances renormalised without the class token. Local heads in low layers need much pre-training data in large "
    "models (Raghu Fig 4); small ViTs have few heads, so a narrow spread is no surprise."
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="R-1",
        text="Low and high blocks are more alike in the ViT than in the ResNet",
        source=f"{_RAGHU}, Fig 1",
        statistic="mean CKA of the lowest with the highest third of the blocks, ViT minus ResNet",
        contrast=uniformity,
        margin=0.05,
        unit="CKA",
        roles=("vit", "resnet"),
        conditions=_CKA_CONDITIONS,
        needs=("gram_flatten",),
        sums_activations=True,
    ),
    Claim(
        id="R-2",
        text="The ResNet needs more of its depth to reach the representation of the ViT's lower quarter",
        source=f"{_RAGHU}, Fig 2",
        statistic="share of the ResNet's depth whose most similar ViT block lies in the ViT's lower quarter, minus 0.25",
        contrast=resnet_reach,
        margin=0.05,
        unit="share of depth",
        roles=("vit", "resnet"),
        conditions=_CKA_CONDITIONS
        + " Depends on the granularity: here blocks and sublayers, in the paper every operation.",
        needs=("gram_flatten",),
        sums_activations=True,
    ),
    Claim(
        id="P-F1",
        text="Self-attention lowers high frequencies",
        source=f"{_PARK}, Fig 8",
        statistic="minus the mean change of Δ log amplitude in the highest band (0.8π to π) across attention sublayers",
        contrast=_frequency_step("attention", -1),
        margin=0.02,
        unit="log amplitude",
        roles=("vit",),
        conditions=_FREQUENCY_CONDITIONS,
        needs=("fourier",),
    ),
    Claim(
        id="P-F2-mlp",
        text="MLPs raise high frequencies",
        source=f"{_PARK}, Fig 8",
        statistic="mean change of Δ log amplitude in the highest band (0.8π to π) across MLP sublayers",
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
        source=f"{_PARK}, Fig 8",
        statistic="mean change of Δ log amplitude in the highest band (0.8π to π) across blocks within a stage",
        contrast=_frequency_step("conv", 1),
        margin=0.02,
        unit="log amplitude",
        roles=("resnet",),
        conditions=_FREQUENCY_CONDITIONS + " Depthwise convolutions at the end of a stage act as low-pass filters.",
        needs=("fourier",),
    ),
    Claim(
        id="P-V1-msa",
        text="Self-attention lowers the variance of feature maps",
        source=f"{_PARK}, Fig 9",
        statistic="minus the mean change of log spatial variance across attention sublayers",
        contrast=_variance_step("attention", -1),
        margin=0.02,
        unit="log variance",
        roles=("vit",),
        conditions=_VARIANCE_CONDITIONS,
        needs=("variance",),
        sums_activations=True,
    ),
    Claim(
        id="P-V1-mlp",
        text="MLPs raise the variance of feature maps",
        source=f"{_PARK}, Fig 9",
        statistic="mean change of log spatial variance across MLP sublayers",
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
        source=f"{_PARK}, Fig 9",
        statistic="mean change of log spatial variance across blocks within a stage",
        contrast=_variance_step("conv", 1),
        margin=0.02,
        unit="log variance",
        roles=("resnet",),
        conditions=_VARIANCE_CONDITIONS,
        needs=("variance",),
        sums_activations=True,
    ),
    Claim(
        id="R-4-local",
        text="The most local heads are in the low layers; high layers have none as local",
        source=f"{_RAGHU}, Fig 3",
        statistic="smallest head distance in the two highest layers minus that in the two lowest, over uniform attention's",
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
        source=f"{_RAGHU}, Fig 3",
        statistic="spread of head distances in the two lowest layers minus that in the two highest, over uniform attention's",
        contrast=mixed_heads_low,
        margin=0.05,
        unit="of uniform attention's distance",
        roles=("vit",),
        conditions=_HEAD_CONDITIONS,
        needs=("attention_distance",),
    ),
)

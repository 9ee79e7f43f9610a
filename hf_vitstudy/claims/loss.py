"""How sharp and how convex the loss is: the Hessian's eigenvalues, and the loss around the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..comparison import Comparison
from ..errors import StudyError
from ..loss_geometry import least_share_error, over_batches, without_each_batch
from ..profile import Profile
from ..stats import Estimate, Resampling, mean_of
from .contract import Claim
from .facts import SAME_TRAINING, facts, from_to, less
from .intervals import steady
from .sources import PARK


# ----------------------------------------------------------------------------------------------------------- curvature

NEP, APE, ASYMMETRY = "negative_proportion", "positive_mean", "asymmetry"  # as `hessian_statistics` calls them
Values = dict[str, np.ndarray]


def _require_equal(comparison: Comparison, what: str, settings: Sequence[dict[str, Any]], remedy: str) -> None:
    """Raise StudyError where a setting of a measurement differs between the two profiles."""
    for key in settings[0]:
        if settings[0][key] != settings[1][key]:
            raise StudyError(
                f"the {what} of {comparison.a.name} and {comparison.b.name} were measured differently: {key} is "
                f"{settings[0][key]} and {settings[1][key]}; {remedy}"
            )


def _require_same_batches(comparison: Comparison) -> None:
    settings = []
    for profile in (comparison.a, comparison.b):
        top = profile["hessian_top"]
        about = {key: top.attrs.get(key) for key in ("mini_batch", "mixup", "weight_decay", "batch_norm")}
        settings.append(about | {"eigenvalues of mini-batches": top.shape[::-1]})
    remedy = "measure both with the same options and images of their classes"
    _require_equal(comparison, "curvatures", settings, remedy)


def _paired(comparison: Comparison) -> tuple[Values, Values]:
    """Statistics of both on all mini-batches and without each; leaving out the same one of both makes them paired."""
    _require_same_batches(comparison)
    return without_each_batch(comparison.a), without_each_batch(comparison.b)


def _difference(comparison: Comparison, statistic: str, sign: int) -> Estimate:
    """`sign` times (a - b) of a statistic."""
    a, b = _paired(comparison)
    parts = [least_share_error(profile) ** 2 for profile in (comparison.a, comparison.b)] if statistic == NEP else []
    return over_batches(sign * (a[statistic] - b[statistic]), extra=sum(parts))


def _log_ratio(comparison: Comparison, statistic: str, sign: int) -> Estimate:
    """`sign` times log(a / b) of a statistic, undefined where one is not positive."""
    a, b = _paired(comparison)
    with np.errstate(divide="ignore", invalid="ignore"):
        rows = sign * (np.log(a[statistic]) - np.log(b[statistic]))
    return over_batches(np.where(np.isfinite(rows), rows, np.nan))


def sharper_resnet(comparison: Comparison) -> Estimate:
    """Mean over mini-batches of log(largest eigenvalue of the ResNet / that of the ViT on the same mini-batch)."""
    _require_same_batches(comparison)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = [np.log(profile["hessian_top"].values[:, 0]) for profile in (comparison.b, comparison.a)]
    ratio = logs[0] - logs[1]
    ratio = np.where(np.isfinite(ratio), ratio, np.nan)
    without = (ratio.sum() - ratio) / max(len(ratio) - 1, 1)
    return over_batches(np.append(ratio.mean(), without))


def more_negative(sign: int) -> Callable[[Comparison], Estimate]:
    """Contrast: NEP of the first minus that of the second, times `sign`."""
    return _described(
        partial(_difference, statistic=NEP, sign=sign), "Difference of the share of negative eigenvalues."
    )


def more_asymmetric(comparison: Comparison) -> Estimate:
    """-smallest / largest eigenvalue, first minus second."""
    return _difference(comparison, ASYMMETRY, 1)


def sharper(sign: int) -> Callable[[Comparison], Estimate]:
    """Contrast: log of APE of the first over that of the second, times `sign`."""
    return _described(partial(_log_ratio, statistic=APE, sign=sign), "Log ratio of the mean positive eigenvalue.")


def steady_share(comparison: Comparison) -> Estimate:
    """How much less than TOLERANCE the share of negative eigenvalues differs."""
    return steady(_difference(comparison, NEP, 1), TOLERANCE)


def _wider_heads(contrast: Callable[[Comparison], Estimate]) -> Callable[[Comparison], Estimate]:
    """The contrast, where both have as many heads: the width that the paper varies is that of a head."""

    def checked(comparison: Comparison) -> Estimate:
        heads = [facts(profile).axes.get("heads") for profile in (comparison.a, comparison.b)]
        if heads[0] != heads[1]:
            raise StudyError(
                f"the claim is about wider heads, but {comparison.a.name} has {heads[0]} and {comparison.b.name} {heads[1]}; "
                "train two with as many"
            )
        return contrast(comparison)

    return _described(checked, "The same for networks of as many heads.")


def windowed(profile: Profile) -> bool:
    """Whether its attention sees a window only, as Swin's: by its configuration."""
    about = profile.provenance["checkpoint"]
    config = about.get("config") or {}
    names = [about.get("architecture"), about.get("model_type"), config.get("architecture"), config.get("model_type")]
    return "window_size" in config or any("swin" in str(name).lower() for name in names)


def _among(contrast: Callable[[Comparison], Estimate], in_windows: bool) -> Callable[[Comparison], Estimate]:
    """The contrast, where the second attends in windows, or where it does not."""

    def checked(comparison: Comparison) -> Estimate:
        if windowed(comparison.b) != in_windows:
            meant = "windowed attention, such as Swin" if in_windows else "attention to the whole map, such as PiT"
            raise StudyError(
                f"the claim is about networks of several stages with {meant}; {comparison.b.name} is none"
            )
        return contrast(comparison)

    return _described(checked, "The same for multi-stage networks with or without windows.")


def _described(contrast: Callable[[Comparison], Estimate], words: str) -> Callable[[Comparison], Estimate]:
    contrast.__doc__ = words
    return contrast


# ----------------------------------------------------------------------------------------------------------- landscape

# Of the weights' own length: at 1 a network may already guess, and its loss no longer tells how it got there.
RADIUS = 0.5
DECAY = 0.05  # weight decay of the published recipe


def _rises(profile: Profile, name: str) -> list[np.ndarray]:
    """For every direction the mean of a landscape's surface at RADIUS both ways, less its value in the middle: (...) each.

    Linear between points of the grid; axes before the last two stay.
    """
    surface = profile[f"landscape_{name}"]
    x, y = (profile.data[f"landscape_{axis}"].values for axis in ("x", "y"))
    if x[-1] < RADIUS:
        raise StudyError(
            f"{profile.name}'s landscape reaches to {x[-1]:g}, needs {RADIUS}; measure with a larger radius"
        )
    values = surface.transpose(..., "landscape_y", "landscape_x").values.astype(np.float64)
    lines = [(values[..., int(np.abs(y).argmin()), :], x), (values[..., int(np.abs(x).argmin())], y)]
    return [
        (_at(line, places, -RADIUS) + _at(line, places, RADIUS)) / 2 - _at(line, places, 0.0)
        for line, places in lines
        if len(places) > 1  # a slice has one direction
    ]


def _at(line: np.ndarray, places: np.ndarray, where: float) -> np.ndarray:
    """Values of lines (..., place) at a place between theirs."""
    right = int(np.clip(np.searchsorted(places, where), 1, len(places) - 1))
    share = (where - places[right - 1]) / (places[right] - places[right - 1])
    return (1 - share) * line[..., right - 1] + share * line[..., right]


def _require_same_landscape(comparison: Comparison) -> None:
    settings = []
    for profile in (comparison.a, comparison.b):
        surface = profile["landscape_nll"]
        grid = {axis: surface[axis].values.tolist() for axis in ("landscape_x", "landscape_y")}
        settings.append({"images": surface.sizes["landscape_image"], "mixup": surface.attrs.get("mixup")} | grid)
    _require_equal(comparison, "landscapes", settings, "measure both with the same options")


def steeper_resnet(comparison: Comparison) -> Estimate:
    """Rise of the loss at RADIUS, ResNet minus ViT, paired by image."""
    _require_same_landscape(comparison)
    rises = [np.mean(_rises(profile, "nll"), axis=0) for profile in (comparison.b, comparison.a)]
    difference = rises[0] - rises[1]
    resampling = Resampling(len(difference), comparison.resampling.draws, comparison.resampling.seed)
    return resampling.estimate(resampling.mean(difference))


def heavier_resnet(comparison: Comparison) -> Estimate:
    """Rise of DECAY · ½ Σ w² at RADIUS, ResNet minus ViT, mean over directions.

    It knows no images, and hardly the direction d: both ways along it the linear term cancels and ½ r² ‖d‖² is left, which is
    the same for all, since its filters are as long as the network's.
    """
    _require_same_landscape(comparison)
    rises = [np.array(_rises(profile, "l2")) for profile in (comparison.b, comparison.a)]
    return mean_of(DECAY * (rises[0] - rises[1]), unit="direction")


# -------------------------------------------------------------------------------------------------------------- claims

_RECIPE = (
    "The paper's networks were trained with strong augmentation (DeiT's recipe) on CIFAR-100 or ImageNet and looked at on "
    "augmented training images; here the images are as they were measured. Intervals are over mini-batches."
)
_SAM = (
    "Without strong augmentation the largest eigenvalue of a ViT is orders of magnitude above a ResNet's (Chen, Hsieh & Gong "
    "2022, arXiv 2106.01548); the author answers that the training differs (how-do-vits-work, issue 27)."
)
_DOMINANCE = (
    "NEP says which sign dominates among the largest by magnitude: it rises as well when positive curvature shrinks."
)
_APE_WORDS = "log ratio of the mean of the positive ones among the largest by magnitude (APE)"
_HESSIAN = ("hessian_top", "hessian_bottom")
_NEP_WORDS = "share of negative ones among the largest eigenvalues by magnitude (NEP)"

# Margins. APE and largest eigenvalue: the mode of batch normalisation alone changes the latter fivefold, so less than half as
# much again (0.4 in logarithms) says nothing of an architecture. NEP: of five eigenvalues a mini-batch, one more in four
# mini-batches is 0.05. Ratio of the ends: a tenth of the largest eigenvalue.
_LOG, _SHARE, _RATIO = 0.4, 0.05, 0.1
TOLERANCE = 2 * _SHARE  # of "stays as it is": what is below 1 margin supports it, what is above 3 contradicts it

_nep = partial(Claim, margin=_SHARE, unit="share of eigenvalues", needs=_HESSIAN)
_ape = partial(Claim, margin=_LOG, unit="log ratio", needs=_HESSIAN)
_asymmetry = partial(Claim, contrast=more_asymmetric, margin=_RATIO, unit="of the largest eigenvalue", needs=_HESSIAN)

VIT_AGAINST_RESNET: tuple[Claim, ...] = (
    _ape(
        id="P-H1",
        text="The loss is flatter around the ViT than around the ResNet",
        source=f"{PARK}, Fig 1c",
        statistic="mean over mini-batches of the log ratio of the largest eigenvalue, ResNet over ViT",
        formula="mean over mini-batches of log(λ_max of R / λ_max of V)",
        falsified_by="the rightmost eigenvalues of the ViT lie as far out as the ResNet's",
        contrast=sharper_resnet,
        roles=("vit", "resnet"),
        conditions=_RECIPE,
        against=_SAM,
    ),
    _ape(
        id="P-H1-ape",
        text="The positive ones among the ViT's largest eigenvalues are smaller than the ResNet's",
        source=f"{PARK}, Fig 1c",
        statistic=f"{_APE_WORDS}, ResNet over ViT",
        formula="log(APE of R / APE of V)",
        falsified_by="the table's mean of the positive eigenvalues is as large for the ViT as for the ResNet",
        contrast=sharper(-1),
        roles=("vit", "resnet"),
        conditions=_RECIPE,
        against=_SAM,
    ),
    _nep(
        id="P-H2",
        text="More of the ViT's largest eigenvalues are negative than of the ResNet's",
        source=f"{PARK}, Fig 1c",
        statistic=f"{_NEP_WORDS}, ViT minus ResNet",
        formula="NEP of V - NEP of R",
        falsified_by="the ResNet has as large a share of negative eigenvalues as the ViT",
        contrast=more_negative(1),
        roles=("vit", "resnet"),
        conditions=f"{_RECIPE} The paper finds it early in training; see P-H2-early.",
        against=_DOMINANCE,
    ),
    _asymmetry(
        id="P-H2-asymmetry",
        text="Against its largest eigenvalue, the ViT's smallest is further below zero than the ResNet's",
        source=f"{PARK}, Fig 1c",
        statistic="minus the mean smallest over the mean largest eigenvalue, ViT minus ResNet",
        formula="(-λ_min / λ_max) of V - the same of R",
        falsified_by="the ResNet's spectrum reaches as far left, against its right end, as the ViT's",
        roles=("vit", "resnet"),
        conditions=f"{_RECIPE} Not a number of the paper: it says how far from convex a loss is, whichever sign dominates.",
    ),
    _nep(
        id="P-H2-early",
        text="Early in training more of the ViT's largest eigenvalues are negative than of the ResNet's",
        source=f"{PARK}, Fig 1c",
        statistic=f"{_NEP_WORDS}, ViT minus ResNet, both in the first tenth of their training",
        formula="NEP of V - NEP of R, at the same share of training",
        falsified_by="early in training the ResNet has as large a share of negative eigenvalues as the ViT",
        contrast=more_negative(1),
        roles=("early vit", "early resnet"),
        conditions=f"{_RECIPE} In the paper at the end of the warm-up.",
        against=_DOMINANCE,
        test="trained",
        relation=SAME_TRAINING,
    ),
    _asymmetry(
        id="P-H2-asymmetry-early",
        text="Early in training the ViT's smallest eigenvalue is further below zero, against its largest, than the ResNet's",
        source=f"{PARK}, Fig 1c",
        statistic="minus the mean smallest over the mean largest eigenvalue, ViT minus ResNet, in the first tenth of training",
        formula="(-λ_min / λ_max) of V - the same of R, at the same share of training",
        falsified_by="early in training the ResNet's spectrum reaches as far left, against its right end, as the ViT's",
        roles=("early vit", "early resnet"),
        conditions=f"{_RECIPE} In the paper at the end of the warm-up.",
        test="trained",
        relation=SAME_TRAINING,
    ),
)

_SWEEP = f"{_RECIPE} Two trained networks are two runs: another seed may move them as much."
_trained_nep = partial(_nep, roles=("vit", "vit"), test="trained", against=_DOMINANCE)
_trained_ape = partial(_ape, roles=("vit", "vit"), test="trained")

SWEEPS: tuple[Claim, ...] = (
    _trained_nep(
        id="P-H3-vit",
        text="With more data fewer of a ViT's largest eigenvalues are negative",
        source=f"{PARK}, Fig 4",
        statistic=f"{_NEP_WORDS}, on less data minus on more",
        formula="NEP of V on less data - NEP of V on more",
        falsified_by="the share of negative eigenvalues does not fall from the smaller to the larger training set",
        contrast=more_negative(1),
        conditions=f"{_SWEEP} The paper shows 6 % against all of the data, early in training.",
        relation=less("data_fraction"),
    ),
    _nep(
        id="P-H3-resnet",
        text="With more data the share of negative ones among a ResNet's largest eigenvalues stays as it is",
        source=f"{PARK}, Fig 4",
        statistic=f"0.1 minus the size of the difference of the {_NEP_WORDS} between less and more data",
        formula="0.1 - |NEP of R on less data - NEP of R on more|",
        falsified_by="the ResNet's share of negative eigenvalues differs by more than 0.15 between the training sets",
        contrast=steady_share,
        roles=("resnet", "resnet"),
        conditions=f"{_SWEEP} Supported below a difference of 0.05, which takes twenty mini-batches, contradicted above 0.15.",
        test="trained",
        relation=less("data_fraction"),
    ),
    _trained_nep(
        id="P-H4",
        text="Fewer of the largest eigenvalues are negative where the mean of all tokens is classified, not a class token",
        source=f"{PARK}, Fig 6",
        statistic=f"{_NEP_WORDS}, class token minus mean",
        formula="NEP with a class token - NEP with the mean",
        falsified_by="the share of negative eigenvalues is as large with the mean of all tokens as with a class token",
        contrast=more_negative(-1),
        conditions=_SWEEP,
        against="In accuracy both are equal once the learning rate is tuned for each (Dosovitskiy et al. 2020, App. D.3). "
        + _DOMINANCE,
        relation=from_to("pooling", "mean", "class"),
    ),
    _trained_nep(
        id="P-H5-heads",
        text="With more heads fewer of the largest eigenvalues are negative",
        source=f"{PARK}, Fig C.5",
        statistic=f"{_NEP_WORDS}, fewer heads minus more",
        formula="NEP with fewer heads - NEP with more",
        falsified_by="the share of negative eigenvalues does not fall with the number of heads",
        contrast=more_negative(1),
        conditions=f"{_SWEEP} The width of the network stays, so that heads become narrower as they become more.",
        relation=less("heads"),
    ),
    _trained_ape(
        id="P-H5-heads-ape",
        text="With more heads the positive ones among the largest eigenvalues are smaller",
        source=f"{PARK}, Fig C.5",
        statistic=f"{_APE_WORDS}, fewer heads over more",
        formula="log(APE with fewer heads / APE with more)",
        falsified_by="the mean of the positive eigenvalues does not fall with the number of heads",
        contrast=sharper(1),
        conditions=f"{_SWEEP} The width of the network stays, so that heads become narrower as they become more.",
        relation=less("heads"),
    ),
    _trained_nep(
        id="P-H5-width",
        text="With wider heads fewer of the largest eigenvalues are negative",
        source=f"{PARK}, Fig C.6",
        statistic=f"{_NEP_WORDS}, narrower heads minus wider",
        formula="NEP with narrower heads - NEP with wider",
        falsified_by="the share of negative eigenvalues does not fall with the width of the heads",
        contrast=_wider_heads(more_negative(1)),
        conditions=f"{_SWEEP} As many heads in both, so that the whole network becomes wider.",
        relation=less("width"),
    ),
    _trained_ape(
        id="P-H5-width-ape",
        text="With wider heads the positive ones among the largest eigenvalues are smaller",
        source=f"{PARK}, Fig C.6",
        statistic=f"{_APE_WORDS}, narrower heads over wider",
        formula="log(APE with narrower heads / APE with wider)",
        falsified_by="the mean of the positive eigenvalues does not fall with the width of the heads",
        contrast=_wider_heads(sharper(1)),
        conditions=f"{_SWEEP} As many heads in both, so that the whole network becomes wider.",
        against="The larger the network, the sharper, by the paper's own Fig C.7 on depth and size.",
        relation=less("width"),
    ),
    _trained_nep(
        id="P-H5-patch",
        text="With smaller patches more of the largest eigenvalues are negative",
        source=f"{PARK}, Fig C.2",
        statistic=f"{_NEP_WORDS}, smaller patches minus larger",
        formula="NEP with smaller patches - NEP with larger",
        falsified_by="the share of negative eigenvalues does not rise from large to small patches",
        contrast=more_negative(1),
        conditions=f"{_SWEEP} One side of the paper's U; see P-H5-patch-ape.",
        relation=less("patch_size"),
    ),
    _trained_ape(
        id="P-H5-patch-ape",
        text="With larger patches the positive ones among the largest eigenvalues are larger",
        source=f"{PARK}, Fig C.2",
        statistic=f"{_APE_WORDS}, larger patches over smaller",
        formula="log(APE with larger patches / APE with smaller)",
        falsified_by="the mean of the positive eigenvalues does not rise from small to large patches",
        contrast=sharper(-1),
        conditions=f"{_SWEEP} The other side of the paper's U; see P-H5-patch.",
        relation=less("patch_size"),
    ),
    _trained_nep(
        id="P-H5-kernel-3",
        text="Attention to 5 x 5 patches has fewer negative ones among the largest eigenvalues than to 3 x 3",
        source=f"{PARK}, Fig 7",
        statistic=f"{_NEP_WORDS}, 3 x 3 minus 5 x 5",
        formula="NEP of 3 x 3 - NEP of 5 x 5",
        falsified_by="the share of negative eigenvalues is as large for 5 x 5 as for 3 x 3",
        contrast=more_negative(-1),
        conditions=f"{_SWEEP} Attention in a square of patches around each; the paper's sizes are 3, 5 and 8.",
        relation=from_to("kernel_size", 5, 3),
    ),
    _trained_nep(
        id="P-H5-kernel-8",
        text="Attention to 5 x 5 patches has fewer negative ones among the largest eigenvalues than to all 8 x 8",
        source=f"{PARK}, Fig 7",
        statistic=f"{_NEP_WORDS}, 8 x 8 minus 5 x 5",
        formula="NEP of 8 x 8 - NEP of 5 x 5",
        falsified_by="the share of negative eigenvalues is as large for 5 x 5 as for 8 x 8",
        contrast=more_negative(-1),
        conditions=f"{_SWEEP} Attention in a square of patches around each; the paper's sizes are 3, 5 and 8.",
        relation=from_to("kernel_size", 5, 8),
    ),
    _nep(
        id="P-H6",
        text="A ViT of several stages has fewer negative ones among its largest eigenvalues than a plain one",
        source=f"{PARK}, Fig C.4",
        statistic=f"{_NEP_WORDS}, plain minus multi-stage",
        formula="NEP of the plain ViT - NEP of the multi-stage ViT",
        falsified_by="the multi-stage ViT has as large a share of negative eigenvalues as the plain one",
        contrast=_among(more_negative(1), in_windows=False),
        roles=("plain vit", "multi-stage vit"),
        conditions=f"{_RECIPE} PiT in the paper, early in training; trained checkpoints are a weak test.",
        against=_DOMINANCE,
    ),
    _ape(
        id="P-H6-swin",
        text="Attention in windows makes the positive ones among the largest eigenvalues smaller than a plain ViT's",
        source=f"{PARK}, Fig C.4",
        statistic=f"{_APE_WORDS}, plain over windowed",
        formula="log(APE of the plain ViT / APE of the windowed ViT)",
        falsified_by="the mean of the positive eigenvalues is as large for the windowed ViT as for the plain one",
        contrast=_among(sharper(1), in_windows=True),
        roles=("plain vit", "multi-stage vit"),
        conditions=f"{_RECIPE} Swin in the paper, early in training; trained checkpoints are a weak test.",
    ),
)

_DIRECTIONS = (
    "At half the weights' length, filter by filter; mean over both ways along every measured direction. The paper adds an L2 "
    "term, mixes images anew at each point and scales directions otherwise. Other random directions would give other numbers."
)
LANDSCAPE: tuple[Claim, ...] = (
    Claim(
        id="P-LL",
        text="Away from the trained weights the loss rises less for the ViT than for the ResNet",
        source=f"{PARK}, Fig 1a",
        statistic="rise of the negative log likelihood at half the weights' length, ResNet minus ViT, paired by image",
        formula="mean of [NLL(w ± ½ d) - NLL(w)] of R - the same of V",
        falsified_by="the ViT's curve of the loss along a direction rises as steeply as the ResNet's",
        contrast=steeper_resnet,
        margin=0.1,  # a twentieth of what lies between knowing one of ten classes and guessing, 2.3 nat
        unit="nat",
        roles=("vit", "resnet"),
        conditions=f"{_DIRECTIONS} The interval is over images.",
        against=_SAM,
        needs=("landscape_nll",),
    ),
    Claim(
        id="P-LL-norm",
        text="The weights' norm, which the published surface adds to the loss, rises less for the ViT than for the ResNet",
        source=f"{PARK}, Fig 1a",
        statistic="rise of 0.05 times half the squared norm of the weights at half their length, ResNet minus ViT",
        formula="0.05 · mean of [½ Σ (w ± ½ d)² - ½ Σ w²] of R - the same of V",
        falsified_by="the ViT's curve of the norm along a direction rises as steeply as the ResNet's",
        contrast=heavier_resnet,
        margin=0.1,  # as above
        unit="nat",
        roles=("vit", "resnet"),
        conditions=f"{_DIRECTIONS} This part knows no data; it says how large the filters are. Directions hardly differ in it.",
        against="Most of the published difference at the rim is this term, there with norms that are not squared "
        "(how-do-vits-work, issue 10).",
        needs=("landscape_l2", "landscape_nll"),
    ),
)
CLAIMS: tuple[Claim, ...] = (*VIT_AGAINST_RESNET, *SWEEPS, *LANDSCAPE)

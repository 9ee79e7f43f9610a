"""Linear probes: where a network holds the classes, in which tokens and how early."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..comparison import Comparison
from ..errors import StudyError
from ..profile import Profile
from ..stats import Estimate, Resampling
from .contract import Claim
from .facts import facts, from_to, less
from .sources import RAGHU
from .steps import mean_of_known


CLASS = "prefix 0"  # the first token before the spatial ones


def class_token_right(profile: Profile) -> np.ndarray:
    """Whether the probe of the class token at the top is right, (test image,).

    Raises:
        StudyError: the network has no such token, or does not classify by it.
    """
    names = _token_names(profile)
    if CLASS not in names or facts(profile).axes.get("pooling") == "mean":
        raise StudyError(
            f"{profile.name} does not classify by a class token, so its tokens are not left without a class"
        )
    return _known(profile["token_correct"].transpose("probe_image", "probe_token").values[:, names.index(CLASS)])


def spatial_tokens_right(profile: Profile) -> np.ndarray:
    """Share of spatial tokens at the top whose own probe is right, (test image,)."""
    spatial = [not name.startswith("prefix") for name in _token_names(profile)]
    right = profile["token_correct"].transpose("probe_image", "probe_token").values[:, spatial]
    return mean_of_known(_known(right))


def _known(right: np.ndarray) -> np.ndarray:
    """Right or wrong as 1 or 0, NaN where it is unknown (-1)."""
    return np.where(right >= 0, right, np.nan)


def _token_names(profile: Profile) -> list[str]:
    profile["token_correct"]  # says why it is missing
    return [str(name) for name in profile.data["probe_token"].values]


def class_token_beats_spatial(comparison: Comparison) -> Estimate:
    """Accuracy of the class token's probe minus the mean accuracy of single spatial tokens' probes, at the top."""
    return _over_test_images(comparison, class_token_right(comparison.a) - spatial_tokens_right(comparison.a))


def spatial_beat_class_vits(comparison: Comparison) -> Estimate:
    """Mean accuracy of single spatial tokens' probes at the top, first network minus a ViT that has a class token."""
    class_token_right(comparison.b)
    _same_test_images(comparison)
    first, second = map(spatial_tokens_right, (comparison.a, comparison.b))
    return _over_test_images(comparison, first - second)


def middle_right(profile: Profile) -> np.ndarray:
    """Share of the probes on mean tokens in the middle third of the network that are right, (test image,).

    Raises:
        StudyError: no block that is probed lies there.
    """
    axes = ("probe_image", "probe_block", "probe_feature")
    feature = [str(name) for name in profile.data["probe_feature"].values].index("mean")
    depth_of = dict(zip(profile.data["block"].values.tolist(), profile.data["depth"].values.tolist(), strict=True))
    depth = np.array([depth_of[name] for name in profile.data["probe_block"].values.tolist()])
    middle = (depth > 1 / 3) & (depth <= 2 / 3)
    if not middle.any():
        raise StudyError(f"{profile.name} has no probed block in the middle third of its depth; it has too few blocks")
    return mean_of_known(_known(profile["probe_correct"].transpose(*axes).values[:, middle, feature]))


def second_knows_more_midway(comparison: Comparison) -> Estimate:
    """Accuracy of probes in the middle third, second network minus first."""
    _same_test_images(comparison)
    first, second = map(middle_right, (comparison.a, comparison.b))
    return _over_test_images(comparison, second - first)


def _same_test_images(comparison: Comparison) -> None:
    first, second = (profile.data["probe_image"].values for profile in (comparison.a, comparison.b))
    if not np.array_equal(first, second):
        raise StudyError(
            f"the probes of {comparison.a.name} and {comparison.b.name} were tested on different images ({len(first)} and "
            f"{len(second)}); measure both with the same probes:shots and probes:seed"
        )


def _over_test_images(comparison: Comparison, values: np.ndarray) -> Estimate:
    drawn = Resampling(len(values), comparison.resampling.draws, comparison.resampling.seed)
    return replace(drawn.estimate(drawn.mean(values)), unit_resampled="test image of the probes")


_PROBE_CONDITIONS = (
    "Few-shot ridge probes in closed form; the interval is over test images and holds the few training images as they are. "
    "Classes are those of the reference images, in the paper ImageNet's, with ten training images each."
)
_TOKEN_CONDITIONS = _PROBE_CONDITIONS + " Tokens of the last block, each with a probe of its own."
_LARGE = "Up to 30 points for L/16 and H/14 in the paper, less for smaller networks."
MARGIN = 0.05  # five points: about what another draw of the few training images changes
TOKEN_NEEDS = ("token_correct",)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="R-11-class",
        text="At the top of a ViT with a class token, spatial tokens say less of the class than the class token",
        source=f"{RAGHU}, Fig 11",
        statistic="accuracy of a probe on the class token minus the mean accuracy of probes on single spatial tokens",
        formula="acc(class token) - mean over spatial tokens t of acc(t), last block",
        falsified_by="single spatial tokens of the last block are classified as well as the class token",
        contrast=class_token_beats_spatial,
        margin=MARGIN,
        unit="accuracy",
        roles=("vit",),
        conditions=_TOKEN_CONDITIONS,
        needs=TOKEN_NEEDS,
    ),
    Claim(
        id="R-11-pooling",
        text="At the top, spatial tokens say more of the class in a ViT that averages them than in one with a class token",
        source=f"{RAGHU}, Fig 11",
        statistic="mean accuracy of probes on single spatial tokens of the last block, mean minus class token",
        formula="mean over spatial tokens t of acc(t), mean - class",
        falsified_by="single spatial tokens are classified as well in the network with a class token",
        contrast=spatial_beat_class_vits,
        margin=MARGIN,
        unit="accuracy",
        roles=("vit", "vit"),
        relation=from_to("pooling", "mean", "class"),
        conditions=_TOKEN_CONDITIONS + " The two differ in nothing but what their classifier reads.",
        needs=TOKEN_NEEDS,
        test="trained",
    ),
    Claim(
        id="R-11-resnet",
        text="At the top, single places of a ResNet say more of the class than a ViT's spatial tokens beside a class token",
        source=f"{RAGHU}, Fig 11",
        statistic="mean accuracy of probes on single places of the last block, ResNet minus ViT with a class token",
        formula="mean over places t of acc(t), R - V",
        falsified_by="single spatial tokens of the ViT are classified as well as single places of the ResNet",
        contrast=spatial_beat_class_vits,
        margin=MARGIN,
        unit="accuracy",
        roles=("resnet", "vit"),
        conditions=_TOKEN_CONDITIONS
        + " A ResNet's last map is often coarser, so that one place sees more of the image.",
        needs=TOKEN_NEEDS,
    ),
    Claim(
        id="R-12-pretraining",
        text="With more pre-training data the middle layers of a ViT say more of the class",
        source=f"{RAGHU}, Fig 13",
        statistic="accuracy of probes on mean tokens in the middle third of the blocks, more pre-training data minus less",
        formula="mean over 1/3 < d <= 2/3 of acc(d), more pre-training images - fewer",
        falsified_by="the probes' curves of both networks meet between a third and two thirds of the depth",
        contrast=second_knows_more_midway,
        margin=MARGIN,
        unit="accuracy",
        roles=("vit", "vit"),
        relation=less("pretraining_images"),
        conditions=f"{_PROBE_CONDITIONS} {_LARGE} Weights trained on JFT-300M were never released; public checkpoints of one "
        "recipe on fewer and on more images stand in.",
        needs=("probe_correct",),
        test="proxy",
    ),
    Claim(
        id="R-12-fraction",
        text="Trained on more of the data, the middle layers of a ViT say more of the class",
        source=f"{RAGHU}, Fig 13",
        statistic="accuracy of probes on mean tokens in the middle third of the blocks, trained on more data minus on less",
        formula="mean over 1/3 < d <= 2/3 of acc(d), larger share of the training images - smaller",
        falsified_by="the probes' curves of both networks meet between a third and two thirds of the depth",
        contrast=second_knows_more_midway,
        margin=MARGIN,
        unit="accuracy",
        roles=("vit", "vit"),
        relation=less("data_fraction"),
        conditions=f"{_PROBE_CONDITIONS} {_LARGE} Shares of one training set stand in for ImageNet and JFT-300M.",
        needs=("probe_correct",),
        test="trained",
    ),
)

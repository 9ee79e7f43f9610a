"""What a place of a state stands for: how far it sees, and whether a token of the last blocks still is its own patch."""

from __future__ import annotations

import math

import numpy as np

from ..comparison import Comparison
from ..errors import StudyError
from ..profile import Profile
from ..stats import Estimate, mean_of, student
from .contract import Claim
from .facts import facts, from_to
from .sources import RAGHU
from .steps import slope


# --------------------------------------------------------------------------------------------------- receptive fields

EARLY = np.array(
    [0.1, 0.2, 0.3]
)  # relative depths at which two networks are compared, between blocks by a straight line
SIZE = 0.95  # of the gradient: Luo et al. 2016 call what lies within two standard deviations the effective field


def relative_radius(profile: Profile) -> np.ndarray:
    """Radius that holds 95 % of the gradient over that of a uniform gradient, (receptive image, block)."""
    radius = profile["receptive_radius"].transpose("receptive_image", "block", "fraction").values
    uniform = profile["uniform_radius"].transpose("block", "fraction").values
    which = int(np.abs(profile.data["fraction"].values - SIZE).argmin())
    return radius[..., which] / uniform[:, which]


def sees_farther_early(comparison: Comparison) -> Estimate:
    """Relative radius at early depths, first network minus second, paired by image; Student's interval, there are few."""
    early = []
    for profile in (comparison.a, comparison.b):
        radius, depth = relative_radius(profile), profile.data["depth"].values
        early.append(np.array([np.interp(EARLY, depth, row).mean() for row in radius]))
    shared = min(map(len, early))  # both took the first images
    return _over_receptive_images(early[0][:shared] - early[1][:shared])


def radius_grows(comparison: Comparison) -> Estimate:
    """Slope of the relative radius with relative depth."""
    return _over_receptive_images(slope(relative_radius(comparison.a), comparison.a.data["depth"].values))


def _over_receptive_images(values: np.ndarray) -> Estimate:
    return mean_of(values[np.isfinite(values)], unit="image of the receptive fields")


# ------------------------------------------------------------------------------------------------------- localisation


def interior_shares(profile: Profile) -> tuple[float, np.ndarray, float]:
    """Share of interior tokens that are most like their own patch, mean over the last blocks measured.

    Returns:
        The share; the same with random batches left out, (draw,); and the factor from the draws' standard deviation to the
        standard error (Shao & Wu 1989, see the analysis ``localisation``).
    """
    about = {"localisation_region": list(profile.data["localisation_region"].values).index("interior")}
    share = profile["localisation_share"].isel(about).mean("localisation_block", skipna=False)
    without = profile["localisation_share_without"]
    draws = without.isel(about).mean("localisation_block", skipna=False)
    return float(share), draws.values, float(without.attrs["error_factor"])


def _one_token(profile: Profile) -> float:
    """What one interior token of one block changes in the share; NaN where there is none."""
    rows, columns = profile["localisation_cka"].attrs["grid"]
    tokens = max(rows - 2, 0) * max(columns - 2, 0) * profile.data.sizes["localisation_block"]
    return 1 / tokens if tokens else math.nan


def _must_not_average(profile: Profile) -> None:
    if facts(profile).axes.get("pooling") == "mean":
        raise StudyError(
            f"{profile.name} averages its tokens; the statement is on ViTs that classify by a class token (see R-10-pooling)"
        )


def _batches(profile: Profile) -> int:
    return math.ceil(profile.n_images / profile.provenance["measurement"]["batch_size"])


def _over_batches(value: float, error: float, batches: int) -> Estimate:
    return student(value, error, batches - 1, batches, unit="batch of images")


def most_tokens_stay(comparison: Comparison) -> Estimate:
    """Share of interior tokens that are most like their own patch, minus a half.

    Raises:
        StudyError: the network averages its tokens.
    """
    _must_not_average(comparison.a)
    share, draws, factor = interior_shares(comparison.a)
    # where no draw moves a token, that is no proof that none would move: one token is the least that can be told
    error = math.hypot(factor * float(draws.std()), _one_token(comparison.a))
    return _over_batches(share - 0.5, error, _batches(comparison.a))


def first_stays_more(comparison: Comparison) -> Estimate:
    """Share of interior tokens that are most like their own patch, first network minus second, paired by batch.

    Raises:
        StudyError: measured in batches of different sizes, so that their draws are not of the same images; or the first
            averages its tokens.
    """
    _must_not_average(comparison.a)
    pair = comparison.a, comparison.b
    sizes = [profile.provenance["measurement"]["batch_size"] for profile in pair]
    if sizes[0] != sizes[1]:
        raise StudyError(
            f"{pair[0].name} and {pair[1].name} were measured in batches of {sizes[0]} and {sizes[1]} images, so their "
            "localisation cannot be paired; measure both with the same --batch-size"
        )
    (first, of_first, factor), (second, of_second, _) = map(interior_shares, pair)
    error = math.hypot(factor * float((of_first - of_second).std()), *map(_one_token, pair))
    return _over_batches(first - second, error, _batches(comparison.a))


# ------------------------------------------------------------------------------------------------------------- claims

_RADIUS_CONDITIONS = (
    "Radius of 95 % of the gradient of the central place, over that of a gradient that is the same everywhere: 1 is the whole "
    "image. The radius of half the gradient is often the own patch in a ViT, whose skips carry it. The paper shows maps for 32 "
    "images and no number; here channels are weighted at random, there they are averaged."
)
RADIUS_MARGIN = 0.05  # of the uniform radius: some 6 pixels in an image of 224, less than half a patch of 16
RADIUS_NEEDS = ("receptive_radius", "uniform_radius")

_LOCAL_CONDITIONS = (
    "The mean over the last blocks that were measured, two by default; tokens at the edge resemble other edge patches too and "
    "are left out. Noise in CKA lowers the share, so it grows with the number of images. What is resampled are batches, a "
    "third of them left out at a time, with Student's interval; at least the error of one token is assumed."
)
_LAST_BLOCK = (
    "The last layer of ViTs was found to discard spatial information (Ghiasi et al. 2022), against localisation in the final "
    "block."
)
SHARE_MARGIN = 0.1  # a tenth of the tokens; the paper's maps are all or nothing
SHARE_NEEDS = ("localisation_share", "localisation_share_without", "localisation_cka")

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="R-7-early",
        text="In early layers a ViT's receptive fields are larger than a ResNet's",
        source=f"{RAGHU}, Fig 6",
        statistic="relative radius of the receptive field at depths 0.1, 0.2 and 0.3, ViT minus ResNet",
        formula="mean over d in {0.1, 0.2, 0.3} of r95(d) / r95 of a uniform gradient, V - R",
        falsified_by="the radius of 95 % in the first third of the ResNet is as large as the ViT's",
        contrast=sees_farther_early,
        margin=RADIUS_MARGIN,
        unit="of the uniform radius",
        roles=("vit", "resnet"),
        conditions=_RADIUS_CONDITIONS + " Student's interval over the few images whose gradients were taken.",
        needs=RADIUS_NEEDS,
    ),
    Claim(
        id="R-7-growth",
        text="A ResNet's receptive fields grow with depth",
        source=f"{RAGHU}, Fig 6",
        statistic="least-squares slope of the relative radius of the receptive field with relative depth",
        formula="slope on d of r95(d) / r95 of a uniform gradient",
        falsified_by="the radius of 95 % is no larger at the ResNet's end than at its start",
        contrast=radius_grows,
        margin=0.1,  # of the uniform radius over the whole depth, twice what matters between two networks
        unit="of the uniform radius per depth",
        roles=("resnet",),
        conditions=_RADIUS_CONDITIONS + " Student's interval over the few images whose gradients were taken.",
        needs=RADIUS_NEEDS,
    ),
    Claim(
        id="R-10-vit",
        text="Most tokens of a ViT's last blocks are most like their own patch of the image",
        source=f"{RAGHU}, Fig 9",
        statistic="share of interior tokens whose CKA is highest with the patch at their own place, minus one half",
        formula="|{interior tokens t : argmax over patches p of CKA(t, p) = t}| / |interior tokens| - 1/2",
        falsified_by="the brightest patch of most maps lies outside the marked square",
        contrast=most_tokens_stay,
        margin=SHARE_MARGIN,
        unit="share of tokens",
        roles=("plain vit",),
        conditions=_LOCAL_CONDITIONS + " The paper had ViTs with a class token, pre-trained on JFT-300M.",
        needs=SHARE_NEEDS,
        against=_LAST_BLOCK,
    ),
    Claim(
        id="R-10-resnet",
        text="Tokens of a ViT's last blocks keep their place better than a ResNet's",
        source=f"{RAGHU}, Fig 9",
        statistic="share of interior tokens whose CKA is highest with the patch at their own place, ViT minus ResNet",
        formula="|{t : argmax over p of CKA(t, p) = t}| / |interior tokens|, V - R",
        falsified_by="the ResNet's maps have their brightest patch in the marked square as often as the ViT's",
        contrast=first_stays_more,
        margin=SHARE_MARGIN,
        unit="share of tokens",
        roles=("plain vit", "resnet"),
        conditions=_LOCAL_CONDITIONS
        + " Patches are the cells of the last map: a finer map has more of them to choose from, "
        "which counts against the ViT where its grid is the finer one.",
        needs=SHARE_NEEDS,
        against=_LAST_BLOCK,
    ),
    Claim(
        id="R-10-pooling",
        text="A ViT that classifies by its class token keeps the place of tokens better than one that averages them",
        source=f"{RAGHU}, Fig 10",
        statistic="share of interior tokens whose CKA is highest with the patch at their own place, class token minus mean",
        formula="|{t : argmax over p of CKA(t, p) = t}| / |interior tokens|, class - mean",
        falsified_by="the maps of the network that averages have their brightest patch in the marked square as often",
        contrast=first_stays_more,
        margin=SHARE_MARGIN,
        unit="share of tokens",
        roles=("plain vit", "plain vit"),
        relation=from_to("pooling", "class", "mean"),
        conditions=_LOCAL_CONDITIONS + " The two differ in nothing but what their classifier reads, as in the paper.",
        needs=SHARE_NEEDS,
        test="trained",
    ),
)

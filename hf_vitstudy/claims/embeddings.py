"""What a ViT learns of the image's plane and colours before its first block: position embeddings and filters.

Both are weights, not measurements of images. Nothing is drawn at random in them, so an interval says how much the number
hangs on single places or components of this one network, not what another training would give.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..comparison import Comparison
from ..errors import StudyError
from ..profile import Profile
from ..stats import Estimate, Resampling, jackknifed
from .contract import Claim
from .sources import DOSOVITSKIY
from .steps import mean_of_known


# --------------------------------------------------------------------------------------------------------- positions


def similarity_falls(comparison: Comparison) -> Estimate:
    """Minus the rank correlation of similarity with distance, mean over places."""
    return _over_places(comparison, -comparison.a["position_distance_correlation"].values)


def rows_and_columns_stand_out(comparison: Comparison) -> Estimate:
    """`row_column_lead`, mean over places."""
    array = comparison.a["position_similarity"]
    return _over_places(comparison, row_column_lead(array.values.astype(np.float64), tuple(array.attrs["grid"])))


def row_column_lead(similarity: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """How much more alike a place is to those of its row or column than to others as far away: (place,).

    Others' similarity at the same distance is interpolated between the distances that occur, from the nearest diagonal
    neighbour on; NaN where a place has none.

    Args:
        similarity: (place, place), row by row.
        grid: (rows, columns).
    """
    rows, columns = (axis.ravel() for axis in np.indices(grid))
    down, across = np.abs(rows[:, None] - rows), np.abs(columns[:, None] - columns)
    distance, known = np.hypot(down, across), np.isfinite(similarity)
    aside = down * across > 0  # of the others the place itself is nearer than any of these, so it is not compared
    return np.array(
        [
            _lead(distance[place], similarity[place], (known & ~aside)[place], (known & aside)[place])
            for place in range(len(similarity))
        ]
    )


def _lead(distance: np.ndarray, similarity: np.ndarray, aligned: np.ndarray, other: np.ndarray) -> float:
    """Mean similarity of `aligned` places minus that of `other` ones at the same distances."""
    if not other.any():
        return np.nan
    reach, which = np.unique(distance[other], return_inverse=True)
    level = np.bincount(which, similarity[other]) / np.bincount(which)
    compared = aligned & (distance >= reach[0]) & (distance <= reach[-1])
    return float(mean_of_known(similarity[compared] - np.interp(distance[compared], reach, level)))


def _over_places(comparison: Comparison, values: np.ndarray) -> Estimate:
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return Estimate(np.nan, np.nan, np.nan, len(values), unit_resampled="place of the grid")
    drawn = Resampling(len(values), comparison.resampling.draws, comparison.resampling.seed)
    return replace(drawn.estimate(drawn.mean(values)), unit_resampled="place of the grid")


# ------------------------------------------------------------------------------------------------------------ filters


def filters_are_smooth(comparison: Comparison) -> Estimate:
    """Correlation of neighbouring pixels of the filters' components, mean weighted by the variance each holds."""
    _patch_filters(comparison.a)
    weight, smooth = (comparison.a[f"filter_{name}"].values for name in ("variance", "smoothness"))
    known = np.isfinite(weight) & np.isfinite(smooth)
    if known.sum() < 2:
        return Estimate(np.nan, np.nan, np.nan, int(known.sum()), unit_resampled="component")
    weight, part = weight[known], weight[known] * smooth[known]
    without = (part.sum() - part) / (weight.sum() - weight)
    return jackknifed(float(part.sum() / weight.sum()), without, unit="component")


def few_components_suffice(comparison: Comparison) -> Estimate:
    """Share of the variance in the components that are kept, minus the middle between an even spread and all of it.

    Raises:
        StudyError: the filters have no further components, so that these hold everything.
    """
    shape = _patch_filters(comparison.a).shape
    numbers = int(np.prod(shape[1:]))
    share = float(comparison.a["filter_variance"].values.sum())
    if share > 1 - 1e-9:
        raise StudyError(
            f"the {shape[0]} components of {comparison.a.name} are all there are, so they hold everything"
        )
    value = share - (1 + shape[0] / numbers) / 2
    return Estimate(value, value, value, shape[0], unit_resampled="nothing", error=0.0)


def _patch_filters(profile: Profile) -> np.ndarray:
    """Components (rank, colour, row, column).

    Raises:
        StudyError: they are of a convolutional stem.
    """
    array = profile["filter_component"]
    if array.attrs.get("layer") != "patch embedding":
        raise StudyError(
            f"the first convolution of {profile.name} is a {array.attrs.get('layer')}, no patch embedding"
        )
    return array.values


# ------------------------------------------------------------------------------------------------------------- claims

_POSITION_CONDITIONS = (
    "Learnt embeddings only; fixed sinusoids (as in MAE) have the topology by construction. Weights are no sample: the "
    "interval is over places and says how much the mean hangs on single ones, not what another training would give. Cosines; "
    "the paper's text does not say which similarity."
)
_FILTER_CONDITIONS = (
    "At most 28 components, as in the paper's figure, which shows them and gives no number. Weights are no sample of anything: "
    "nothing here tells of another training."
)
FILTER_NEEDS = ("filter_component",)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="V-2-distance",
        text="Position embeddings of nearer patches are more alike",
        source=f"{DOSOVITSKIY}, Fig 7",
        statistic="minus Spearman's correlation of a place's similarity to all others with their distance, mean over places",
        formula="-mean over places p of rho(cos(e_p, e_q), |p - q|)",
        falsified_by="the bright spot of a place's map lies elsewhere, or the map has none",
        contrast=similarity_falls,
        margin=0.3,  # a rank correlation that explains about a tenth of the variance of ranks
        unit="rank correlation",
        roles=("vit",),
        conditions=_POSITION_CONDITIONS,
        needs=("position_distance_correlation",),
    ),
    Claim(
        id="V-2-rows",
        text="Position embeddings of patches in one row or column are more alike than others as far apart",
        source=f"{DOSOVITSKIY}, Fig 7",
        statistic="cosine with places of the same row or column minus that with others at equal distance, mean over places",
        formula="mean over p of mean over q in row or column of p of cos(e_p, e_q) - cos at |p - q| off row and column",
        falsified_by="the maps show round spots without stripes along the place's row and column",
        contrast=rows_and_columns_stand_out,
        margin=0.05,  # stripes of the published maps stand out by a tenth and more of a scale from -1 to 1
        unit="cosine",
        roles=("vit",),
        conditions=_POSITION_CONDITIONS
        + " Distances below that of diagonal neighbours have nothing to be compared with.",
        needs=("position_similarity",),
    ),
    Claim(
        id="V-3-smooth",
        text="The filters that embed patches are made of waves longer than a few pixels",
        source=f"{DOSOVITSKIY}, Fig 7",
        statistic="correlation of neighbouring pixels of the leading components, weighted by the variance that each holds",
        formula="sum over components of share · mean of neighbours' products / mean square, over the sum of shares",
        falsified_by="the components with the most variance look like noise or like chessboards",
        contrast=filters_are_smooth,
        margin=0.2,  # 0 is a wave of 4 pixels, or noise; 0.2 one of 4.6 pixels
        unit="correlation of neighbours",
        roles=("vit",),
        conditions=_FILTER_CONDITIONS
        + " The interval is a jackknife over components: how much it hangs on single ones.",
        needs=("filter_smoothness", "filter_variance", *FILTER_NEEDS),
    ),
    Claim(
        id="V-3-variance",
        text="A few components make up the filters that embed patches",
        source=f"{DOSOVITSKIY}, Fig 7",
        statistic="share of the filters' variance in at most 28 components, minus the middle of an even spread and all of it",
        formula="sum of shares - (1 + components / numbers in a filter) / 2",
        falsified_by="the components' shares of variance fall slowly and end far from zero",
        contrast=few_components_suffice,
        margin=0.05,  # a twentieth of the variance: about what one or two of the leading components hold
        unit="share of variance",
        roles=("vit",),
        conditions=_FILTER_CONDITIONS + " The number is exact for these weights, so its interval has no width.",
        needs=("filter_variance", *FILTER_NEEDS),
    ),
)

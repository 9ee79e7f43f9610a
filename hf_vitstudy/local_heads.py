"""Do the local heads of a transformer see what a convolutional network sees?

Raghu et al., "Do Vision Transformers See Like Convolutional Neural Networks?", NeurIPS 2021, Fig 5: heads of the first layer,
ordered by their mean attention distance; CKA of subsets of them with early blocks of a ResNet falls from local to global ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from .comparison import CrossKernels, Kernels, compare
from .errors import StudyError
from .profile import Profile, square_side
from .stats import Estimate, Resampling, jackknife


@dataclass(frozen=True)
class LocalHeads:
    """Subsets of the heads of one layer of A against early blocks of B.

    Attributes:
        sliding: subsets of equally many heads, from the most local to the most global.
        cumulative: the most local head, the two most local, and so on to all of them.
        trend: Spearman's correlation, over the sliding subsets, of their attention distance with their CKA (mean over early
            blocks); -1 where each more global subset is less like B. Percentile interval over images.
        lead: CKA (mean over early blocks) of the most local sliding subset less that of the most global one.

    Both datasets hold (subset, column) arrays ``cka``, ``low`` and ``high`` (jackknife over images), and (subset,) ``distance``
    in pixels and ``heads``, such as ``2 0 1``. NaN marks a block that is the same for every image.
    """

    sliding: xr.Dataset
    cumulative: xr.Dataset
    trend: Estimate
    lead: Estimate


def local_heads(
    a: Profile,
    b: Profile,
    *,
    size: int = 0,
    stages: int = 2,
    view: str = "flatten",
    level: float = 0.95,
    resampling: Resampling | None = None,
) -> LocalHeads:
    """CKA of local and of global heads of A with early blocks of B.

    Where we differ: Raghu et al. give single values; here with intervals. With few heads there are few subsets, and a trend
    over three of them says little whatever its interval.

    Args:
        a: a profile with ``heads`` and ``attention_distance``.
        b: a profile of the same images with ``cka``, such as a ResNet's.
        size: heads in a sliding subset; 0 means a quarter of the heads, at least one.
        stages: how many of B's map sizes count as early; Raghu et al. go as far as the second unit of the second one.
        view: of B's Gram blocks.
        level: of the intervals.
        resampling: draws to share with other statistics; None makes 1,000.

    Raises:
        StudyError: different images or batches, measurements that are missing, or fewer than three subsets.
    """
    resampling = resampling or compare(a, b).resampling
    grams, distances = head_grams(a), head_distances(a)
    order = np.argsort(distances.mean(0))
    size = size or max(1, len(order) // 4)
    if len(order) - size + 1 < 3:
        raise StudyError(
            f"{len(order)} heads give {max(0, len(order) - size + 1)} subsets of {size}, a trend needs at least 3; "
            "choose a smaller size or a network with more heads"
        )
    sliding = [order[start : start + size] for start in range(len(order) - size + 1)]
    cumulative = [order[: count + 1] for count in range(len(order))]
    early, blocks = _early(a, b, view, stages)
    cross, of_more = (
        CrossKernels(np.stack([grams[heads].sum(0) for heads in subsets]), early, a["head_size"].values)
        for subsets in (sliding, cumulative)
    )
    reach = resampling.mean(distances)
    distance = np.stack([reach[:, heads].mean(1) for heads in sliding], axis=1)
    alike = _mean_over_blocks(cross.draws(resampling))
    return LocalHeads(
        _table(cross, sliding, distances.mean(0), blocks, level),
        _table(of_more, cumulative, distances.mean(0), blocks, level),
        resampling.estimate(spearman(distance, alike), level),
        resampling.estimate(alike[:, 0] - alike[:, -1], level),
    )


def head_grams(profile: Profile) -> np.ndarray:
    """U-centred Gram blocks of every head, (head, batch, image, image) float32; the largest entry of all is one.

    One scale for all heads, so that sums of them are Gram matrices of several heads.
    """
    packed, scale = profile["head_gram"].values, profile["head_scale"].values
    n = square_side(packed.shape[-1])
    rows, columns = np.triu_indices(n, k=1)
    blocks = np.zeros((*packed.shape[:2], n, n), dtype=np.float32)
    blocks[..., rows, columns] = packed.astype(np.float32) * (scale / max(scale.max(), np.float32(1e-38)))[..., None]
    return blocks + blocks.swapaxes(-1, -2)


def head_distances(profile: Profile) -> np.ndarray:
    """Attention distance in pixels of the heads that have Gram blocks, (image, head)."""
    layer = profile["head_gram"].attrs["layer"]
    names = [name for name in ("attention_distance", "window_attention_distance") if name in profile.data]
    array = profile[names[0] if names else "attention_distance"]
    values = array.values[:, list(array["layer"].values).index(layer)]
    return values[:, : profile["head_gram"].shape[0]].astype(np.float64)


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Rank correlation along the last axis of (..., n), (...,); NaN where either is constant. Ties share their mean rank."""
    x, y = (rank - rank.mean(-1, keepdims=True) for rank in (_ranks(x), _ranks(y)))
    norm = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    return np.divide((x * y).sum(-1), norm, out=np.full(norm.shape, np.nan), where=norm > 0)


def _ranks(values: np.ndarray) -> np.ndarray:
    below = (values[..., None, :] < values[..., :, None]).sum(-1)
    equal = (values[..., None, :] == values[..., :, None]).sum(-1)
    return below + (equal + 1) / 2


def _mean_over_blocks(cka: np.ndarray) -> np.ndarray:
    """(draw, subset, block) -> (draw, subset), undefined blocks left out; NaN where all are."""
    known = np.isfinite(cka)
    count = known.sum(2)
    return np.divide(np.where(known, cka, 0).sum(2), count, out=np.full(count.shape, np.nan), where=count > 0)


def _early(a: Profile, b: Profile, view: str, stages: int) -> tuple[np.ndarray, np.ndarray]:
    """Gram blocks of B's early blocks, (block, batch, image, image), and their names."""
    kernels = Kernels(b, b, view)
    if not np.array_equal(kernels.sizes, a["head_size"].values):
        raise StudyError(
            f"{a.name} and {b.name} hold Gram blocks of different batches ({a['head_size'].values.max()} against "
            f"{kernels.sizes.max()} images); measure both with the same --batch-size"
        )
    data = b.data
    chosen = (data["stage"].values <= stages) & ~np.isin(data["kind"].values, ("stem", "embedding"))
    return kernels.grams["a"][chosen], data["block"].values[chosen]


def _table(
    cross: CrossKernels, subsets: list[np.ndarray], distances: np.ndarray, blocks: np.ndarray, level: float
) -> xr.Dataset:
    cka = cross.cka()
    low, high = jackknife(cka, cross.without_each_image(), level)
    axes = ("subset", "column")
    variables = {
        "cka": (axes, cka),
        "low": (axes, low),
        "high": (axes, high),
        "distance": ("subset", [float(distances[heads].mean()) for heads in subsets]),
    }
    names = [" ".join(map(str, heads)) for heads in subsets]
    return xr.Dataset(variables, {"heads": ("subset", names), "column": blocks}, {"n": int(cross.sizes.sum())})

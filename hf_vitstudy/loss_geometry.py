"""How sharp and how convex a loss is, read from profiles: Hessian statistics with intervals, slices of the landscape.

The analysis ``hessian`` stores eigenvalues at both ends for every mini-batch; the unit that is resampled is the mini-batch.
The analysis ``landscape`` stores the loss of every image at every point; there the unit is the image.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from .profile import Profile
from .stats import Estimate, Resampling, percentile


def largest_by_magnitude(profile: Profile) -> np.ndarray:
    """The k eigenvalues of largest magnitude of every mini-batch, with their signs, (batch, k).

    What power iteration with deflation is meant to find; Park & Kim 2022 pool these. The k largest by magnitude are always
    among the k at either end.
    """
    top, bottom = profile["hessian_top"].values, profile["hessian_bottom"].values
    both = np.concatenate([top, bottom], axis=1)
    order = np.argsort(-np.abs(np.where(np.isnan(both), 0, both)), axis=1)[:, : top.shape[1]]
    return np.take_along_axis(both, order, axis=1)


def hessian_statistics(
    profile: Profile, *, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, Estimate]:
    """What the eigenvalues say, each with an interval over mini-batches.

    Returns:
        ``largest`` and ``smallest``: mean over mini-batches of the largest and of the smallest eigenvalue.
        ``asymmetry``: minus the smallest / the largest; 0 for a convex loss, 1 where both ends are alike.
        ``negative_proportion``: NEP of Park & Kim 2022, the share of negative ones among the k largest by magnitude. It says
        which sign dominates: it rises as well when positive curvature shrinks.
        ``positive_mean``: APE, the mean of the positive ones among these; NaN where there is none.

    Raises:
        StudyError: not measured, or fewer than two mini-batches.
    """
    top, bottom = profile["hessian_top"].values[:, 0], profile["hessian_bottom"].values[:, 0]
    resampling = Resampling(len(top), draws, seed)
    pooled = largest_by_magnitude(profile)
    known = np.isfinite(pooled)  # a run of few products leaves some unknown
    positive = pooled > 0
    largest, smallest = resampling.mean(top), resampling.mean(bottom)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = resampling.mean(positive.mean(1)) / resampling.mean(known.mean(1))
        positive_mean = resampling.mean(np.where(positive, pooled, 0).mean(1)) / resampling.mean(positive.mean(1))
        asymmetry = -smallest / largest
    rows = {
        "largest": largest,
        "smallest": smallest,
        "asymmetry": asymmetry,
        "negative_proportion": 1 - share,
        "positive_mean": positive_mean,
    }
    return {name: _estimate(values, len(top), level) for name, values in rows.items()}


def _estimate(rows: np.ndarray, n: int, level: float) -> Estimate:
    tail = (1 - level) / 2
    known = rows[1:][np.isfinite(rows[1:])]
    low, high = np.quantile(known, [tail, 1 - tail]) if len(known) else (np.nan, np.nan)
    return Estimate(float(rows[0]), float(low), float(high), n, level, "mini-batch")


def density(profile: Profile, at: np.ndarray, width: float) -> np.ndarray:
    """Spectral density of the Hessian, mean over mini-batches, (len(at),): quadrature nodes as normal curves.

    Args:
        at: eigenvalues to evaluate it at.
        width: standard deviation of a curve; what is finer than this is not resolved.
    """
    nodes, weights = profile["hessian_node"].values, profile["hessian_weight"].values
    nodes = np.where(np.isnan(nodes), 0, nodes)  # of weight zero
    curves = np.exp(-((at[:, None, None] - nodes) ** 2) / (2 * width**2)) / (width * np.sqrt(2 * np.pi))
    return (curves * weights).sum(-1).mean(-1)


def rise(profile: Profile, name: str = "nll", *, draws: int = 1000, seed: int = 0, level: float = 0.95) -> xr.Dataset:
    """Loss above that of the trained weights at every point of the landscape, mean over images.

    Args:
        name: ``nll``, or ``paper_nll`` for the published directions.

    Returns:
        ``rise``, ``low``, ``high`` on (landscape_y, landscape_x), and the attribute ``n``.
    """
    surface = profile[f"landscape_{name}"]
    values = surface.transpose("landscape_image", "landscape_y", "landscape_x").values.astype(np.float64)
    middle = tuple(int(np.abs(profile.data[axis].values).argmin()) for axis in ("landscape_y", "landscape_x"))
    rows = Resampling(len(values), draws, seed).mean(values - values[:, middle[0], middle[1]][:, None, None])
    low, high = percentile(rows, level)
    axes = ("landscape_y", "landscape_x")
    coordinates = {axis: profile.data[axis].values for axis in axes}
    found = {"rise": (axes, rows[0]), "low": (axes, low), "high": (axes, high)}
    return xr.Dataset(found, coordinates, {"n": len(values), "level": level})

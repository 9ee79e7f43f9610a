"""Intervals: what the images could have told us by chance.

One resampling of the images is shared by every statistic of a study (`Resampling.weights`), so that two checkpoints are
always compared on the same draws: that is what makes a difference *paired*. Statistics are computed for the images as they
are (first row) and for each draw (further rows) at once; a contrast is any function of such arrays, and its interval is read
off the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .errors import StudyError


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: the statistic on the images as they are.
        low, high: ends of the interval at `level`; NaN where it is undefined.
        n: how many units were resampled.
        unit_resampled: what was resampled, such as ``image``.
    """

    value: float
    low: float
    high: float
    n: int
    level: float = 0.95
    unit_resampled: str = "image"

    def __str__(self) -> str:
        value, low, high = (f"{number:#.3g}".removesuffix(".") for number in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"


@dataclass(frozen=True)
class Resampling:
    """Bootstrap draws of `n` images (Efron 1979), the same for everything computed with one instance.

    Attributes:
        n: number of images.
        draws: number of bootstrap samples.
        seed: of the draws.
    """

    n: int
    draws: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n < 2:
            raise StudyError(f"an interval needs at least 2 images, got {self.n}; measure more images")

    def weights(self) -> np.ndarray:
        """How often each image is drawn, (1 + draws, n) float32; the first row is the data as it is, all ones."""
        rng = np.random.default_rng(self.seed)
        counts = rng.multinomial(self.n, np.full(self.n, 1 / self.n), size=self.draws)
        return np.concatenate([np.ones((1, self.n)), counts]).astype(np.float32)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Means over the first axis of `values` (n, ...), for the data and every draw: (1 + draws, ...) float64.

        NaN marks an undefined observation and is left out; where all are NaN, so is the mean.
        """
        if len(values) != self.n:
            raise StudyError(f"expected values of {self.n} images, got {len(values)}; use profiles of the same images")
        flat = values.reshape(self.n, -1).astype(np.float64)
        known = np.isfinite(flat)
        weights = self.weights().astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = (weights @ np.where(known, flat, 0)) / (weights @ known.astype(np.float64))
        return means.reshape(len(weights), *values.shape[1:])

    def estimate(self, rows: np.ndarray, level: float = 0.95) -> Estimate:
        """The percentile interval of one statistic given as (1 + draws,) rows."""
        low, high = percentile(rows, level)
        return Estimate(float(rows[0]), float(low), float(high), self.n, level)


def percentile(rows: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval over the draws, rows (1 + draws, ...) whose first row is the estimate."""
    tail = (1 - level) / 2
    low, high = np.quantile(rows[1:], [tail, 1 - tail], axis=0)
    return low, high


def jackknife(estimate: np.ndarray, without: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Interval from delete-one estimates (Tukey 1958): estimate ± quantile · standard error.

    Args:
        estimate: (...), on all n units.
        without: (n, ...), with each unit left out.
    """
    from scipy.special import stdtrit  # quantiles of Student's t; scipy.stats takes a second to import

    n = len(without)
    error = np.sqrt((n - 1) / n * ((without - without.mean(0)) ** 2).sum(0))
    half = stdtrit(n - 1, (1 + level) / 2) * error
    return estimate - half, estimate + half


def wilson(successes: int, n: int, level: float = 0.95) -> Estimate:
    """A share of images, such as an accuracy, with the score interval of Wilson (JASA 1927).

    It needs only the count, and holds its level near 0 and 1, where bootstrap draws are all alike.
    """
    from scipy.special import ndtri

    if not 0 <= successes <= n or n < 1:
        raise StudyError(f"expected 0 to n successes of at least one image, got {successes} of {n}")
    share, spread = successes / n, float(ndtri((1 + level) / 2)) ** 2 / n
    middle = (share + spread / 2) / (1 + spread)
    half = np.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    low, high = (
        min(share, float(middle - half)),
        max(share, float(middle + half)),
    )  # at 0 and 1 they meet, up to rounding
    return Estimate(share, max(0.0, low), min(1.0, high), n, level)


def coverage(
    sample: Callable[[np.random.Generator], tuple[float, float]], truth: float, repeats: int, seed: int = 0
) -> float:
    """Share of `repeats` simulated studies whose interval (low, high) contains `truth`."""
    rng = np.random.default_rng(seed)
    hits = 0
    for _ in range(repeats):
        low, high = sample(rng)
        hits += low <= truth <= high
    return hits / repeats

"""Intervals: what the images could have told us by chance.

One resampling of the images is shared by every statistic of a study (`Resampling.weights`), so that two checkpoints are
always compared on the same draws: that is what makes a difference *paired*. Statistics are computed for the images as they
are (first row) and for each draw (further rows) at once; a contrast is any function of such arrays, and its interval is read
off the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

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
        error: standard error, that of the draws or of the jackknife; NaN where it is unknown.
        freedom: degrees of freedom of that error, for p; infinite where it is known well.
    """

    value: float
    low: float
    high: float
    n: int
    level: float = 0.95
    unit_resampled: str = "image"
    error: float = math.nan
    freedom: float = math.inf

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
        return _weights(self.n, self.draws, self.seed)

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
        error = float(rows[1:].std(ddof=1)) if len(rows) > 2 else math.nan
        return Estimate(float(rows[0]), float(low), float(high), self.n, level, error=error, freedom=self.n - 1)


@lru_cache(maxsize=4)  # a study of many profiles asks for the same draws for every statistic
def _weights(n: int, draws: int, seed: int) -> np.ndarray:
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)
    found = np.concatenate([np.ones((1, n)), counts]).astype(np.float32)
    found.flags.writeable = False
    return found


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


def jackknifed(
    estimate: float, without: np.ndarray, level: float = 0.95, *, unit: str = "image", extra: float = 0.0
) -> Estimate:
    """`jackknife` of one number as an `Estimate`. For few units, where percentiles of a bootstrap are too narrow.

    Args:
        estimate: on all n units.
        without: (n,), with each unit left out.
        unit: what was left out.
        extra: variance to add that leaving units out does not show.
    """
    n = len(without)
    if n < 2:
        raise StudyError(f"an interval needs more than one {unit}, got {n}; measure more")
    error = math.sqrt((n - 1) / n * float(((without - without.mean()) ** 2).sum()) + extra)
    return student(estimate, error, n - 1, n, level, unit)


def mean_of(values: np.ndarray, level: float = 0.95, *, unit: str = "seed") -> Estimate:
    """The mean of a few independent numbers, (n,), with Student's interval (1908)."""
    n = len(values)
    if n < 2:
        return Estimate(float(np.mean(values)) if n else math.nan, math.nan, math.nan, n, level, unit)
    return student(float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(n), n - 1, n, level, unit)


def crossed_mean(values: np.ndarray, level: float = 0.95, *, unit: str = "checkpoint") -> Estimate:
    """The mean over all pairs of m rows and n columns, values (m, n), as a statement on the populations of both.

    Pairs that share a row or a column are not independent. The variance is that of the row means over m plus that of the
    column means over n, with Welch's degrees of freedom (1947): exact where an entry is a row's number minus a column's,
    conservative where rows and columns interact, since a part of the interaction is then counted twice.

    Undefined, with NaN as its ends, unless both have at least two.
    """
    m, n = values.shape
    value = float(values.mean())
    if min(m, n) < 2:
        return Estimate(value, math.nan, math.nan, min(m, n), level, unit)
    parts = [values.mean(1).var(ddof=1) / m, values.mean(0).var(ddof=1) / n]
    error = math.sqrt(sum(parts))
    spread = sum(part**2 / (count - 1) for part, count in zip(parts, (m, n), strict=True))
    freedom = sum(parts) ** 2 / spread if spread else math.inf
    return student(value, error, freedom, min(m, n), level, unit)


def student(value: float, error: float, freedom: float, n: int, level: float = 0.95, unit: str = "image") -> Estimate:
    """A number whose standard error and degrees of freedom are known, with Student's interval."""
    from scipy.special import stdtrit

    half = float(stdtrit(min(freedom, 1e9), (1 + level) / 2)) * error
    return Estimate(value, value - half, value + half, n, level, unit, error, freedom)


def beyond(estimate: Estimate, bound: float) -> float:
    """One-sided p of "the true value is at most `bound`", by Student's distribution; NaN where the error is unknown."""
    from scipy.special import stdtr

    if not (math.isfinite(estimate.value) and math.isfinite(estimate.error)):
        return math.nan
    if estimate.error == 0:
        return 0.0 if estimate.value > bound else 1.0
    return float(stdtr(min(estimate.freedom, 1e9), (bound - estimate.value) / estimate.error))


def holm(p: Sequence[float], among: int | None = None) -> list[float]:
    """p adjusted for being several (Holm 1979): rejecting where it is below α is wrong anywhere with probability ≤ α.

    Args:
        p: of the tests; NaN marks one that was not done and stays NaN.
        among: how many tests were looked at, by default those that are not NaN.
    """
    values = np.asarray(p, dtype=float)
    done = np.flatnonzero(np.isfinite(values))
    count = len(done) if among is None else among
    if count < len(done):
        raise StudyError(f"{len(done)} tests cannot be among {count}")
    order = done[np.argsort(values[done], kind="stable")]
    adjusted = np.full(len(values), math.nan)
    raised = values[order] * (count - np.arange(len(order)))
    adjusted[order] = np.minimum(np.maximum.accumulate(raised), 1) if len(order) else raised
    return [float(value) for value in adjusted]


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

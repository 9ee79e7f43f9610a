"""Estimates made of estimates, so that a statement of any form becomes a contrast that is positive where it holds."""

from __future__ import annotations

import math
from dataclasses import replace

from ..errors import StudyError
from ..stats import Estimate


def negated(estimate: Estimate) -> Estimate:
    """Of the opposite effect."""
    return replace(estimate, value=-estimate.value, low=-estimate.high, high=-estimate.low)


def steady(estimate: Estimate, tolerance: float) -> Estimate:
    """`tolerance` minus the size of an effect, with the interval of that: positive where the effect is smaller."""
    ends = abs(estimate.low), abs(estimate.high)
    least = 0.0 if estimate.low <= 0 <= estimate.high else min(ends)
    return replace(estimate, value=tolerance - abs(estimate.value), low=tolerance - max(ends), high=tolerance - least)


def difference_of_shares(right: tuple[int, int], n: tuple[int, int], level: float = 0.95) -> Estimate:
    """Share right[0] / n[0] minus right[1] / n[1] of independent images, by the interval of Agresti & Caffo (2000).

    One success and one failure are added to each, so that the error is not zero where all or none are right. Where both
    networks saw the same images this is too wide, as it does not know which of them both have right.
    """
    from scipy.special import ndtri

    for k, total in zip(right, n, strict=True):
        if not 0 <= k <= total or total < 1:
            raise StudyError(f"expected 0 to n right of at least one image, got {k} of {total}")
    shares = [(k + 1) / (total + 2) for k, total in zip(right, n, strict=True)]
    error = math.sqrt(sum(share * (1 - share) / (total + 2) for share, total in zip(shares, n, strict=True)))
    middle, half = shares[0] - shares[1], float(ndtri((1 + level) / 2)) * error
    value = right[0] / n[0] - right[1] / n[1]
    return Estimate(value, max(middle - half, -1.0), min(middle + half, 1.0), min(n), level, "test image", error)


def difference_of_means(
    means: tuple[float, float], errors: tuple[float, float], n: tuple[int, int], level: float = 0.95
) -> Estimate:
    """means[0] - means[1] of independent images, by normal approximation; NaN as ends where an error is NaN."""
    from scipy.special import ndtri

    value, error = means[0] - means[1], math.hypot(*errors)
    half = float(ndtri((1 + level) / 2)) * error
    return Estimate(value, value - half, value + half, min(n), level, error=error)

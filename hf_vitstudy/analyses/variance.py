"""Feature-map variance: how much an activation varies over the image.

Park & Kim, "How Do Vision Transformers Work?", ICLR 2022, Fig 9: the unbiased variance over places, per image and channel,
averaged over channels, as their published code computes it. Ours is kept per image; the mean over images equals theirs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..states import State
from .contract import PerBlock


def spatial_variance(state: State) -> dict[str, Tensor]:
    """Variance over places, mean over channels, (batch,); raw, and as a share of the mean square.

    The raw value has the unit of a squared activation, so it depends on the scale of the network's weights; the relative
    value, variance / mean square with both averaged over channels, does not and lies in [0, n/(n-1)] for n places.
    NaN for a map of one place.
    """
    tokens = state.tokens.float()
    n = tokens.shape[1]
    if n < 2:
        nothing = tokens.new_full((len(tokens),), float("nan"))
        return {"variance": nothing, "relative_variance": nothing}
    variance, mean = torch.var_mean(tokens, dim=1)
    mean_square = variance * ((n - 1) / n) + mean.square()
    raw, square = variance.mean(1), mean_square.mean(1)
    return {"variance": raw, "relative_variance": torch.where(square > 0, raw / square, float("nan"))}


def variance() -> PerBlock:
    """Feature-map variance at every block."""
    return PerBlock("variance", spatial_variance, unit="activation²", source="Park & Kim 2022, Fig 9")

"""Feature-map variance: how much an activation varies over the image.

Park & Kim, "How Do Vision Transformers Work?", ICLR 2022, Fig 9: the unbiased variance over places, per image and channel,
averaged over channels, as their published code computes it. Ours is kept per image; the mean over images equals theirs.

A by-product of the same sums says when to distrust statistics of whole activations, linear CKA first of all: the share of
the squared activation that the strongest channel holds. Trained vision transformers often have one channel that is hundreds
of times larger than the rest in a few patches (Sun et al., "Massive Activations in Large Language Models", 2024, section 5).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..states import State, pieces
from .contract import PerBlock


def spatial_variance(state: State) -> dict[str, Tensor]:
    """Variance over places, mean over channels, raw and relative, and the strongest channel's share: each (batch,).

    The raw value has the unit of a squared activation, so it depends on the scale of the network's weights; the relative
    value, variance / mean square with both averaged over channels, does not and lies in [0, n/(n-1)] for n places.
    Variances are NaN for a map of one place, ratios where all activations are zero.
    """
    sums = [_mean_and_squares(piece.flatten(1, 2)) for piece in pieces(state)]
    mean, squares = (torch.cat(parts) for parts in zip(*sums, strict=True))
    n = state.grid[0] * state.grid[1]
    variance = squares / (n - 1) if n > 1 else torch.full_like(squares, float("nan"))
    mean_square = squares / n + mean.square()
    raw, square = variance.mean(1), mean_square.mean(1)
    strongest = mean_square.amax(1) / mean_square.shape[1]
    return {
        "variance": raw,
        "relative_variance": torch.where(square > 0, raw / square, float("nan")),
        "top_channel_share": torch.where(square > 0, strongest / square, float("nan")),
    }


def _mean_and_squares(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over places and sum of squared deviations from it, (image, channel) each, without cancellation.

    Two passes on a CPU, where `torch.var_mean` takes ten times as long; one on a GPU.
    """
    if tokens.device.type != "cpu":
        return mean_and_squares_at_once(tokens)
    mean = tokens.mean(1)
    return mean, (tokens - mean.unsqueeze(1)).square_().sum(1)


def mean_and_squares_at_once(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The same by Welford's sums, in one kernel."""
    variance, mean = torch.var_mean(tokens, dim=1, correction=0)
    return mean, variance * tokens.shape[1]


def variance() -> PerBlock:
    """Feature-map variance at every block."""
    units = {"variance": "activation²", "relative_variance": "1", "top_channel_share": "1"}
    return PerBlock("variance", spatial_variance, unit=units, source="Park & Kim 2022, Fig 9")

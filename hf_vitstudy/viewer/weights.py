"""What the page shows of weights alone: position embeddings and the filters that read the image.

``weights`` is a kind of file that is fetched when these views are looked at; it holds ``positions`` and ``filters``, each where
it was measured. Both are pictures in base64, a byte for a number.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..figures.attention import filter_colours
from ..profile import Profile
from .data import FORMAT, Source, packed, three, threes
from .networks import PERCENT


SHADES = 63  # steps of a filter's colour: more would be noise to the eye, and a third more bytes
HUNDREDTHS = 100  # of a cosine, from 0 for -1 to 200 for 1


def weights_data(source: Source, number: int) -> dict[str, Any]:
    """Everything of a network that needs no image."""
    profile = source.profile(number)
    found: dict[str, Any] = {"format": FORMAT, "checkpoint": number}
    if {"position_similarity", "position_distance_correlation", "position_share"} <= {*profile.data}:
        found["positions"] = _positions(profile)
    if {"filter_component", "filter_variance", "filter_smoothness"} <= {*profile.data}:
        found["filters"] = _filters(profile)
    return found


def _positions(profile: Profile) -> dict[str, Any]:
    """Cosine of every place's embedding with every other's in hundredths, `HUNDREDTHS` added; 255 where there is none.

    ``correlation``: of the similarity with the distance, mean over places; ``share`` of the embeddings' variance in percent.
    """
    array = profile["position_similarity"]
    cosines = HUNDREDTHS * array.values.astype(float).clip(-1, 1) + HUNDREDTHS
    parts = profile.data["position_part"].values.astype(str).tolist()
    correlations = profile["position_distance_correlation"].values.astype(float)
    return {
        "grid": [int(side) for side in array.attrs["grid"]],
        "cosine": packed(np.where(np.isfinite(cosines), cosines.round(), 255)),
        "correlation": three(np.nanmean(correlations)) if np.isfinite(correlations).any() else None,
        "share": dict(zip(parts, threes(PERCENT * profile["position_share"].values), strict=True)),
    }


def _filters(profile: Profile) -> dict[str, Any]:
    """Principal components as colours, each over its own largest value; ``share`` of the filters' variance in percent,
    ``smooth``: correlation of neighbouring pixels."""
    shades = filter_colours(profile)
    count, rows, columns, _ = shades.shape
    return {
        "layer": str(profile["filter_component"].attrs.get("layer", "first convolution")),
        "count": count,
        "rows": rows,
        "columns": columns,
        "colours": packed((255 / SHADES * (SHADES * shades).round()).round()),
        "share": threes(PERCENT * profile["filter_variance"].values),
        "smooth": threes(profile["filter_smoothness"].values),
    }

"""What the page shows of a whole network: what it loses to interventions, and its loss around the weights.

Two kinds of files that are fetched when these views are looked at. ``network`` holds numbers: ``lesions``, ``skip_removal``,
``noise``, ``corruptions``, ``attacks``, ``localisation``, ``tokens``, ``hessian``, ``landscape``, each where it was measured.
``fields`` holds pictures: ``receptive``, maps of 256 colours in base64, and ``localisation``, CKA in thousandths.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..claims.probes import spatial_tokens_right
from ..figures.interventions import ATTACKS, corruption_kinds
from ..loss_geometry import hessian_statistics, rise
from ..profile import Profile
from ..robustness import accuracy_drop, answers, mean_corruption_accuracy
from ..stats import Estimate, percentile
from .data import FORMAT, Source, packed, place_numbers, thousandths, three, threes


DECADES = 3  # of the receptive fields' colour scale
BIN = 0.25  # width of the density's bins, in asinh of the eigenvalue
NORMAL = 1.96  # the localisation's errors are normal, see its analysis
PERCENT = 100


def network_data(source: Source, number: int) -> dict[str, Any]:
    """Everything of a whole network that fits into a few kilobytes."""
    profile = source.profile(number)
    parts = {
        name: read(source, profile) for name, (needs, read) in PARTS.items() if {*needs} <= {*profile.data.variables}
    }
    return {"format": FORMAT, "checkpoint": number} | {name: part for name, part in parts.items() if part is not None}


def fields_data(source: Source, number: int) -> dict[str, Any]:
    """Maps over the image of what places depend on and stand for."""
    profile = source.profile(number)
    found: dict[str, Any] = {"format": FORMAT, "checkpoint": number}
    if "receptive_map" in profile.data:
        found["receptive"] = _receptive(profile)
    if "localisation_cka" in profile.data:
        found["localisation"] = _tokens(profile)
    return found


# -------------------------------------------------------------------------------------------------- interventions


def _removal(source: Source, profile: Profile, name: str) -> dict[str, Any]:
    """Accuracy lost without each part, in points, with its interval over images; ``whole`` is what the network has."""
    whole, without = answers(profile, f"{name}_intact_correct"), answers(profile, f"{name}_correct")
    lost, low, high = _points(source, whole[:, None] - without)
    parts = profile.data[name].values.astype(str).tolist()
    return {
        "name": parts,
        "place": place_numbers(profile, [part.split(".conv")[0] for part in parts]),
        "kind": profile.data[f"{name}_kind"].values.astype(str).tolist(),
        "depth": np.round(profile.data[f"{name}_depth"].values.astype(float), 4).tolist(),
        "value": lost,
        "low": low,
        "high": high,
        "whole": [end[0] for end in _points(source, whole[:, None])],
        "n": len(whole),
    }


def _points(source: Source, values: np.ndarray) -> list[list[float | None]]:
    """Means over images in percent with the ends of their intervals, of (image, part)."""
    rows = PERCENT * source.resampling(len(values)).mean(values)
    return [threes(rows[0]), *(threes(end) for end in percentile(rows))]


def _noise(source: Source, profile: Profile) -> dict[str, Any]:
    settings = source.result["settings"]
    found = accuracy_drop(profile, "noise", draws=settings["draws"], seed=settings["seed"])
    curve = {name: threes(PERCENT * found[key].values) for name, key in DROPS.items()}
    return curve | {
        "x": profile.data["noise_frequency"].values.tolist(),
        "whole": three(PERCENT * found.attrs["clean"]),
        "n": found.attrs["n"],
        "strength": str(profile["noise_correct"].attrs.get("strength", "")),
    }


DROPS = {"value": "drop", "low": "low", "high": "high"}


def _corruptions(source: Source, profile: Profile) -> dict[str, Any] | None:
    """Accuracy in percent by kind, mean over severities; ``mean`` over all kinds."""
    settings = source.result["settings"]
    kinds = corruption_kinds(profile)  # without those that take something away, as in the report
    if not kinds:
        return None
    found = mean_corruption_accuracy(profile, kinds, draws=settings["draws"], seed=settings["seed"])
    numbers = {kind: _estimate(estimate, PERCENT) for kind, estimate in found.items()}
    clean = answers(profile, "corruption_clean_correct")
    return {
        "mean": numbers.pop("mean"),
        "kinds": numbers,
        "whole": [end[0] for end in _points(source, clean[:, None])],
        "severities": profile.data["severity"].values.tolist(),
        "n": len(clean),
    }


def _estimate(estimate: Estimate, factor: float = 1.0) -> list[float | None]:
    return [three(factor * number) for number in (estimate.value, estimate.low, estimate.high)]


def _attacks(source: Source, profile: Profile) -> dict[str, Any]:
    """Accuracy in percent by the largest change of a pixel, in 255ths from 0 on: right as it is and under the attack."""
    clean = answers(profile, "attack_clean_correct")
    found: dict[str, Any] = {}
    for name in ATTACKS:
        if f"{name}_correct" in profile.data:
            value, low, high = _points(source, np.column_stack([clean, answers(profile, f"{name}_correct")]))
            found[name] = {"value": value, "low": low, "high": high}
    return {"x": [0, *threes(255 * profile.data["epsilon"].values)], "by": found, "n": len(clean)}


# ------------------------------------------------------------------------------------------------- loss geometry


def _hessian(source: Source, profile: Profile) -> dict[str, Any]:
    """Eigenvalues by mini-batch, their statistics, and the density of all."""
    found = {name: _estimate(estimate) for name, estimate in hessian_statistics(profile).items()}
    ends = {end: [threes(row) for row in profile[f"hessian_{end}"].values] for end in ("top", "bottom")}
    density = _density(profile) if "hessian_node" in profile.data else None
    return {**ends, **found, "n": len(ends["top"]), "density": density}


def _density(profile: Profile) -> dict[str, Any] | None:
    """Share of directions by curvature, mean over mini-batches: bin k holds asinh λ within `BIN` · (k ± ½)."""
    nodes, weights = profile["hessian_node"].values, profile["hessian_weight"].values
    known = np.isfinite(nodes)
    if not known.any():
        return None
    bins = np.round(np.arcsinh(nodes[known]) / BIN).astype(int)
    shares = np.bincount(bins - bins.min(), weights=weights[known]) / len(nodes)
    return {"width": BIN, "first": int(bins.min()), "share": threes(shares)}


def _landscape(source: Source, profile: Profile) -> dict[str, Any]:
    """Mean loss on the grid, row by row from the lowest; the rise of the middle row with its interval; the weights' norm."""
    settings = source.result["settings"]
    found = rise(profile, draws=settings["draws"], seed=settings["seed"])
    x, y = (profile.data[f"landscape_{axis}"].values for axis in "xy")
    middle = int(np.abs(y).argmin())
    surface = np.nanmean(profile["landscape_nll"].transpose("landscape_image", ...).values, axis=0, dtype=float)
    norm = profile["landscape_l2"].values[middle] if "landscape_l2" in profile.data else None
    return {
        "x": threes(x),
        "y": threes(y),
        "loss": threes(surface.ravel()),
        "rise": {name: threes(found[key].values[middle]) for name, key in RISES.items()},
        "norm": None if norm is None else threes(norm - norm[int(np.abs(x).argmin())]),
        "n": found.attrs["n"],
    }


RISES = {"value": "rise", "low": "low", "high": "high"}

# -------------------------------------------------------------------------------------------------------- places


def _localisation(source: Source, profile: Profile) -> dict[str, Any]:
    """Share of tokens at their own patch in percent, [value, low, high] by block and region, and by chance."""
    array = profile["localisation_share"]
    value, error = PERCENT * array.values, PERCENT * profile["localisation_share_error"].values
    ends = np.stack([value, value - NORMAL * error, value + NORMAL * error], axis=-1).clip(0, PERCENT)
    blocks = profile.data["localisation_block"].values.astype(str).tolist()
    return {
        "name": blocks,
        "place": place_numbers(profile, blocks),
        "region": profile.data["localisation_region"].values.astype(str).tolist(),
        "share": [[threes(region) for region in block] for block in ends],
        "chance": threes(PERCENT * np.asarray(array.attrs["chance"], float)),
        "n": profile.n_images,
    }


def _token_probes(source: Source, profile: Profile) -> dict[str, Any]:
    """Accuracy in percent of a probe of every single token at the top: ``spatial`` by row and column, ``prefix`` before them,
    ``mean``: of the spatial ones; each [values, lows, highs]."""
    right, chance = answers(profile, "token_correct"), profile["token_correct"].attrs.get("chance")
    names = profile.data["probe_token"].values.astype(str).tolist()
    before = sum(name.startswith("prefix") for name in names)
    rows, columns = (1 + int(end) for end in names[-1].split(","))
    return {
        "grid": [rows, columns],
        "spatial": _points(source, right[:, before:]),
        "prefix": _points(source, right[:, :before]),
        "mean": [end[0] for end in _points(source, spatial_tokens_right(profile)[:, None])],
        "chance": None if chance is None else three(PERCENT * chance),
        "n": len(right),
    }


def _receptive(profile: Profile) -> dict[str, Any]:
    """One picture per place: colours of matplotlib's ``LogNorm`` over `DECADES` below the peak, row by row from the top."""
    maps = profile["receptive_map"].transpose("block", "receptive_row", "receptive_column").values.astype(float)
    peaks = maps.reshape(len(maps), -1).max(1)
    pictures = [_picture(cells / peak) if peak > 0 else None for cells, peak in zip(maps, peaks, strict=True)]
    return {"rows": maps.shape[1], "columns": maps.shape[2], "decades": DECADES, "picture": pictures}


def _picture(shares: np.ndarray) -> str:
    scaled = np.log10(np.maximum(shares, 10.0**-DECADES)) / DECADES + 1
    return packed(np.clip(256 * scaled, 0, 255))


def _tokens(profile: Profile) -> dict[str, Any]:
    """CKA of a corner, an edge and an interior token with every patch, in thousandths: block, token, patch."""
    array = profile["localisation_cka"]
    rows, columns = (int(side) for side in array.attrs["grid"])
    token = {"corner": 0, "edge": columns // 2, "interior": (rows // 2) * columns + columns // 2}
    cells = array.values[:, list(token.values())].astype(float)
    return {"grid": [rows, columns], "token": token, "cka": [[thousandths(one) for one in block] for block in cells]}


Read = Callable[[Source, Profile], dict[str, Any] | None]
PARTS: dict[str, tuple[tuple[str, ...], Read]] = {
    "lesions": (("lesion_correct", "lesion_intact_correct"), lambda s, p: _removal(s, p, "lesion")),
    "skip_removal": (
        ("skip_removal_correct", "skip_removal_intact_correct"),
        lambda s, p: _removal(s, p, "skip_removal"),
    ),
    "noise": (("noise_correct", "noise_clean_correct"), _noise),
    "corruptions": (("corruption_correct", "corruption_clean_correct"), _corruptions),
    "attacks": (("attack_clean_correct", "epsilon"), _attacks),
    "localisation": (("localisation_share", "localisation_share_error"), _localisation),
    "tokens": (("token_correct",), _token_probes),
    "hessian": (("hessian_top", "hessian_bottom"), _hessian),
    "landscape": (("landscape_nll",), _landscape),
}

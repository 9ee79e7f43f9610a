"""What noise, corruptions and attacks cost, read from profiles: accuracies and drops with intervals, paired by image.

The analyses ``noise``, ``corruptions`` and ``attacks`` store per image whether an answer was right (1, 0, or -1 where no label
is known). Everything here is a mean of those over images, and every interval resamples images, the same ones for the answers
with and without the intervention and for both checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from .errors import StudyError
from .profile import Profile
from .stats import Estimate, Resampling, percentile


CLEAN = {"noise": "noise_clean_correct", "corruption": "corruption_clean_correct"} | dict.fromkeys(
    ("fgsm", "pgd"), "attack_clean_correct"
)


def answers(profile: Profile, name: str) -> np.ndarray:
    """Right (1) or wrong (0) as floats, NaN where the label is unknown; first axis: image."""
    stored = profile[name].values
    return np.where(stored < 0, np.nan, stored.astype(float))


def drops(profile: Profile, name: str = "noise") -> np.ndarray:
    """Per image, right without the intervention minus right under it: 1, 0 or -1, (image, ...).

    Args:
        name: ``noise``, ``noise_paper``, ``corruption``, ``fgsm`` or ``pgd``.
    """
    under = answers(profile, f"{name}_correct")
    clean = answers(profile, _clean_name(name))
    return clean.reshape(-1, *[1] * (under.ndim - 1)) - under


def _clean_name(name: str) -> str:
    first = name.split("_")[0]
    if first not in CLEAN:
        raise StudyError(f"no intervention is called {name!r}; there are: {', '.join(CLEAN)}")
    return CLEAN[first]


def accuracy_drop(
    profile: Profile, name: str = "noise", *, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> xr.Dataset:
    """Accuracy lost to an intervention, in shares (0.1 is ten points), with its interval over images.

    Returns:
        ``drop``, ``low``, ``high`` and ``accuracy`` (what is left), on the axes after the image: ``noise_frequency``, or
        ``corruption`` and ``severity``, or ``epsilon``. The attributes hold ``clean``, the accuracy without, and ``n``.

    Raises:
        StudyError: not measured, or fewer than two images.
    """
    values = drops(profile, name)
    resampling = Resampling(len(values), draws, seed)
    rows = resampling.mean(values)
    low, high = percentile(rows, level)
    under = profile[f"{name}_correct"]
    found = {
        "drop": rows[0],
        "low": low,
        "high": high,
        "accuracy": np.nanmean(answers(profile, f"{name}_correct"), axis=0),
    }
    axes = under.dims[1:]
    coordinates = {axis: under.coords[axis] for axis in axes}
    about = {"clean": float(np.nanmean(answers(profile, _clean_name(name)))), "n": len(values), "level": level}
    return xr.Dataset({key: (axes, value) for key, value in found.items()}, coordinates, about)


def drop_difference(
    a: Profile, b: Profile, name: str = "noise", *, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> xr.Dataset:
    """Accuracy that `a` loses minus what `b` loses, paired by image: ``difference``, ``low``, ``high`` in shares.

    Raises:
        StudyError: not measured, or measured on different images or settings.
    """
    rows, axes, coordinates = _difference(a, b, name, draws, seed)
    low, high = percentile(rows, level)
    found = {"difference": rows[0], "low": low, "high": high}
    return xr.Dataset({key: (axes, value) for key, value in found.items()}, coordinates)


def _difference(a: Profile, b: Profile, name: str, draws: int, seed: int) -> tuple[np.ndarray, tuple, dict]:
    """Rows (1 + draws, ...) of drop(a) - drop(b) on common draws, the axes and their coordinates."""
    require_alike(a, b, name)
    values = drops(a, name) - drops(b, name)
    variable = a[f"{name}_correct"]
    axes = variable.dims[1:]
    return Resampling(len(values), draws, seed).mean(values), axes, {axis: variable.coords[axis] for axis in axes}


def require_alike(a: Profile, b: Profile, name: str) -> None:
    """Raise StudyError unless both were asked under the same intervention, on the same images and with the same options."""
    if a.images_sha256 != b.images_sha256:
        raise StudyError(f"{a.name} and {b.name} were measured on different images; measure both with the same ones")
    variables = [profile[f"{name}_correct"] for profile in (a, b)]
    for key in ("strength", "strengths"):
        settings = [variable.attrs.get(key) for variable in variables]
        if settings[0] != settings[1]:
            raise StudyError(
                f"{a.name} and {b.name} were measured with different {name} ({settings[0]}; {settings[1]}); "
                "measure both with the same options"
            )
    if variables[0].shape != variables[1].shape:
        shapes = " and ".join(str(variable.shape) for variable in variables)
        raise StudyError(f"{name} of {a.name} and {b.name} has shapes {shapes}; measure both with the same options")
    for axis in variables[0].dims[1:]:
        places = [variable.coords[axis].values.tolist() for variable in variables]
        if places[0] != places[1]:
            raise StudyError(
                f"{a.name} and {b.name} were measured with different {axis} ({places[0]}; {places[1]}); measure both alike"
            )


@dataclass(frozen=True)
class Crossing:
    """Where two curves of accuracy lost cross.

    Attributes:
        frequency: in units of π, with its interval; an end of the measured range where the curves do not cross.
        inside: share of bootstrap draws in which they cross inside the range, from `a` losing more to `b` losing more.
        below, above: accuracy that a loses minus what b loses, mean over the frequencies below and above 0.55π, in shares.
    """

    frequency: Estimate
    inside: float
    below: Estimate
    above: Estimate


def crossing(a: Profile, b: Profile, name: str = "noise", *, draws: int = 1000, seed: int = 0) -> Crossing:
    """The noise frequency up to which `a` loses more accuracy than `b`, and above which `b` loses more.

    Park & Kim 2022, Fig 2b, read for a = ViT and b = ResNet: about 0.6π. Curves of a few hundred images cross by chance, so the
    crossing is defined as the one place that divides the range best: it maximises the area of drop(a) - drop(b) below it
    minus that above it. Where the difference changes sign once, that is the place.
    """
    rows, axes, coordinates = _difference(a, b, name, draws, seed)
    frequencies = coordinates[axes[0]].values
    found = np.array([best_division(frequencies, row) for row in rows])
    resampling = Resampling(a[f"{name}_correct"].shape[0], draws, seed)
    inside = (found[1:] > frequencies[0]) & (found[1:] < frequencies[-1])
    low = frequencies < 0.55
    return Crossing(
        resampling.estimate(found),
        float(inside.mean()),
        resampling.estimate(rows[:, low].mean(1)),
        resampling.estimate(rows[:, ~low].mean(1)),
    )


def best_division(places: np.ndarray, values: np.ndarray) -> float:
    """The place c that maximises ∫ values below c minus ∫ values above c, `values` joined by straight lines.

    It is a zero where values turn from positive to negative, or an end of the range.
    """
    gaps = np.diff(places)
    areas = np.concatenate([[0.0], np.cumsum((values[1:] + values[:-1]) / 2 * gaps)])
    candidates, scores = [places[0], places[-1]], [-areas[-1], areas[-1]]
    for left in np.flatnonzero((values[:-1] > 0) & (values[1:] <= 0)):
        width = gaps[left] * values[left] / (values[left] - values[left + 1])
        candidates.append(places[left] + width)
        scores.append(2 * (areas[left] + values[left] * width / 2) - areas[-1])
    return float(candidates[int(np.argmax(scores))])


def mean_corruption_accuracy(
    profile: Profile, kinds: Sequence[str] | None = None, *, draws: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """Accuracy on corrupted images, mean over severities: one estimate per kind, and ``mean`` over `kinds`.

    Args:
        kinds: those to read, by default all that were measured.

    Hendrycks & Dietterich 2019 report 1 - this as "mean corruption error" before they divide by AlexNet's, which needs
    AlexNet's errors on the same images and is left out.

    Raises:
        StudyError: not measured.
    """
    measured = [str(name) for name in profile["corruption_correct"].coords["corruption"].values]
    names = measured if kinds is None else list(kinds)
    if not names or not set(names) <= set(measured):
        raise StudyError(
            f"{profile.name} has the corruptions {', '.join(measured)}, got kinds={names}; measure them first"
        )
    places = [measured.index(name) for name in names]
    values = answers(profile, "corruption_correct")[:, places].mean(2)
    resampling = Resampling(len(values), draws, seed)
    rows = resampling.mean(values)
    return {name: resampling.estimate(rows[:, place]) for place, name in enumerate(names)} | {
        "mean": resampling.estimate(rows.mean(1))
    }

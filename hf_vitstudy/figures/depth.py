"""Measurements along depth: high frequencies, variance, spectra, and any other number per block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..comparison import Comparison
from ..errors import StudyError
from ..profile import Profile
from ..stats import Resampling, percentile
from .look import (
    INK,
    KIND_MARKS,
    PAGE,
    depth_colours,
    draw_names,
    fitting,
    grid_lines,
    interval_text,
    new_figure,
    series,
    series_mark,
    tell,
)
from .panels import Chart, Panel, Study, Table, on_axes, sheet


def depth_rows(profile: Profile, name: str, resampling: Resampling, select: dict | None = None) -> np.ndarray:
    """Means of a per-block measurement, for the images as they are and for every draw: (1 + draws, block)."""
    return resampling.mean(profile[name].isel(select or {}).transpose("image", "block").values)


def draw_along_depth(
    ax: Axes,
    profiles: Sequence[Profile],
    name: str,
    *,
    resampling: Resampling | None = None,
    select: dict | None = None,
    log: bool = False,
) -> None:
    """Mean of a per-block measurement against relative depth, with its 95 % interval over images.

    The marker tells what came last before the place: attention, an MLP, a convolutional block.

    Args:
        name: of a measurement (image, block, ...).
        resampling: draws behind the interval; the usual 1,000 by default.
        select: positions along its further axes.
        log: logarithmic scale.
    """
    for number, profile in enumerate(profiles):
        if name not in profile.data:
            continue
        rows = depth_rows(profile, name, resampling or Resampling(profile.n_images), select)
        draw_curve(ax, profile, number, curve_of(rows))
    depth_axis(ax)
    if log:
        log_axis(ax)


Curve = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Estimates and the ends of their intervals."""


def curve_of(rows: np.ndarray) -> Curve:
    """From statistics (1 + draws, ...) of the images as they are and of every draw."""
    return rows[0], *percentile(rows)


def draw_curve(
    ax: Axes, profile: Profile, number: int, curve: Curve, *, axis: str = "block", marks: bool = True, name: str = ""
) -> None:
    """Estimates with their interval along depth; no band where the ends are NaN.

    Args:
        axis: of the profile, whose places these are, such as ``block``, ``probe_block`` or ``branch``.
        marks: whether markers tell sublayers, or the checkpoint.
        name: what the curve is, for the text on its points.
    """
    names, depth, kinds = places_of(profile, axis)
    value, low, high = curve
    look = series(number)
    ax.plot(depth, value, **look, linewidth=0.9)
    ax.fill_between(depth, low, high, color=look["color"], alpha=0.18, linewidth=0)
    for kind in dict.fromkeys(kinds):
        here = kinds == kind
        filled = "none" if kind == "attention" and marks else look["color"]
        marker = KIND_MARKS.get(kind, "o") if marks else series_mark(number)
        ax.plot(depth[here], value[here], marker, color=look["color"], markerfacecolor=filled)
    what = f"{profile.name}{f', {name}' if name else ''}"
    numbers = zip(names, value, low, high, strict=True)
    tell(ax, depth, value, [f"{what}, {place}: {interval_text(*rest)}" for place, *rest in numbers])


def places_of(profile: Profile, axis: str = "block") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Names, relative depths and kinds along an axis of the profile.

    An axis of its own comes with the variables ``<axis>_depth`` and ``<axis>_kind``, or names blocks that were read; places of
    which neither is known follow one another evenly.
    """
    data = profile.data
    count = data.sizes[axis]
    names = data[axis].values if axis in data else np.arange(1, count + 1)
    known = list(data["block"].values)
    if f"{axis}_depth" not in data and all(name in known for name in names):
        places = [known.index(name) for name in names]
        return names, data["depth"].values[places], data["kind"].values[places].astype(object)
    depth = data[f"{axis}_depth"].values if f"{axis}_depth" in data else np.arange(1, count + 1) / count
    kinds = data[f"{axis}_kind"].values if f"{axis}_kind" in data else np.full(count, "block")
    return names, depth, kinds.astype(object)


def draw_difference(ax: Axes, comparison: Comparison, name: str, *, select: dict | None = None) -> None:
    """A minus B at equal relative depths, paired by image, with its 95 % interval."""
    found = comparison.difference(name).isel(select or {})
    depth = found["depth"].values
    ax.axhline(0, color=INK, linewidth=0.6)
    error = np.abs(np.stack([found["low"].values, found["high"].values]) - found["difference"].values)
    ax.errorbar(depth, found["difference"].values, error, color=INK, marker="o", linewidth=0.9, capsize=2)
    numbers = zip(depth, found["difference"].values, found["low"].values, found["high"].values, strict=True)
    tell(ax, depth, found["difference"].values, [f"depth {d:.1f}: {interval_text(*rest)}" for d, *rest in numbers])
    depth_axis(ax)


def depth_axis(ax: Axes) -> None:
    ax.set(xlabel="relative depth", xlim=(0, 1.02))
    grid_lines(ax)


def log_axis(ax: Axes) -> None:
    """A logarithmic y axis with plain numbers."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    subs = (1,) if high / low > 3e3 else (1, 2, 5) if high / low > 12 else (1, 1.5, 2, 3, 4, 5, 7)
    ax.yaxis.set_major_locator(mpl.ticker.LogLocator(subs=subs))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    ax.yaxis.set_minor_locator(mpl.ticker.NullLocator())


def depth_figure(profiles: Sequence[Profile]) -> Figure:
    """High frequencies and feature-map variance along depth: Park & Kim 2022, Fig 8 and 9."""
    panels = [panel for panel in DEPTH_PANELS if any(panel.name in profile.data for profile in profiles)]
    if not panels:
        raise StudyError("no profile has spectra or variances; measure with --analyses fourier,variance")
    figure = new_figure(PAGE, 2.6)
    axes = figure.subplot_mosaic([["names"] * len(panels), [panel.name for panel in panels]], height_ratios=[0.22, 1])
    draw_names(axes["names"], profiles)
    for panel, text in zip(panels, "abc", strict=False):
        panel.draw(axes[panel.name], profiles)
        axes[panel.name].set_title(text, loc="left", fontweight="bold")
    return figure


class DepthPanel:
    """One measurement along depth: which, with what label and scale."""

    def __init__(self, name: str, label: str, *, select: dict | None = None, log: bool = False) -> None:
        self.name, self.label, self.select, self.log = name, label, select, log

    def draw(self, ax: Axes, profiles: Sequence[Profile], resampling: Resampling | None = None) -> None:
        draw_along_depth(ax, profiles, self.name, resampling=resampling, select=self.select, log=self.log)
        ax.set_ylabel(self.label)

    def draw_difference(self, ax: Axes, comparison: Comparison) -> None:
        draw_difference(ax, comparison, self.name, select=self.select)
        ax.set_ylabel(f"difference of\n{self.label}")
        ax.set_title(f"{fitting(comparison.a.name, 2.4)}\n− {fitting(comparison.b.name, 2.4)}", loc="center")


DEPTH_PANELS = (
    DepthPanel("fourier", "Δ log amplitude, 0.8π to π", select={"frequency": -1}),
    DepthPanel("variance", "variance over the image", log=True),
    DepthPanel("relative_variance", "variance / mean square"),
)


def draw_spectra(ax: Axes, profile: Profile) -> None:
    """Δ log amplitude against frequency, one line per block, coloured from first (violet) to last (yellow)."""
    spectra = profile["fourier"].mean("image").transpose("block", "frequency")
    colours = depth_colours(len(spectra))
    frequencies = spectra["frequency"].values
    for curve, colour in zip(spectra.values, colours, strict=True):
        known = np.isfinite(curve)  # a small map has no frequency in the lowest bands
        ax.plot([0, *frequencies[known]], [0, *curve[known]], color=colour, linewidth=0.8)
    ax.set(xlabel="frequency (π = the map's highest)", ylabel="Δ log amplitude", xlim=(0, 1))
    ax.set_title(fitting(profile.name, 2.6), loc="center")
    ax.set_xticks([0, 0.5, 1], ["0", "0.5π", "π"])


def spectra_figure(profiles: Sequence[Profile]) -> Figure:
    """Fourier spectra of every block, one panel per checkpoint."""
    profiles = [profile for profile in profiles if "fourier" in profile.data]
    if not profiles:
        raise StudyError("no profile has spectra; measure with --analyses fourier")
    figure = new_figure(min(PAGE, 3.1 * len(profiles) + 0.8), 2.4)
    axes = figure.subplots(1, len(profiles), squeeze=False, sharey=True)[0]
    for ax, profile in zip(axes, profiles, strict=True):
        draw_spectra(ax, profile)
        ax.set_title(fitting(profile.name, figure.get_figwidth() / len(axes) - 0.6), loc="center")
        ax.label_outer()
    depth_bar(figure, list(axes))
    return figure


def depth_bar(figure: Figure, axes: Any) -> None:
    """A colour bar of relative depth."""
    depths = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, 1), mpl.colors.ListedColormap(depth_colours(256)))
    figure.colorbar(depths, ax=axes, label="relative depth", aspect=25, pad=0.01)


# ------------------------------------------------------------------------------------------------------------ charts


def depth_panels(study: Study, names: Sequence[str]) -> list[Panel]:
    """Curves of these measurements and, for those on a linear scale, their paired differences."""
    found, resampling = [], study.resampling(study.profiles[0].n_images)
    for panel in DEPTH_PANELS:
        if panel.name not in names or not study.having(panel.name):
            continue
        about = f"{panel.label} along depth"
        found.append(Panel(on_axes(panel.draw, study.profiles, resampling), about))
        for comparison in [] if panel.log else study.pairs_having(panel.name):
            about = f"{panel.label}: {comparison.a.name} minus {comparison.b.name} at equal depths"
            found.append(Panel(on_axes(panel.draw_difference, comparison), about))
    return found


def depth_table(study: Study, name: str) -> Table:
    """Mean and interval at every place of every checkpoint."""
    panel = next(panel for panel in DEPTH_PANELS if panel.name == name)
    resampling, body = study.resampling(study.profiles[0].n_images), []
    for _, profile in study.having(name):
        rows = depth_rows(profile, name, resampling, panel.select)
        body += place_rows(profile, rows, resampling)
    return {"title": "Values", "head": ["checkpoint", "place", "depth", f"{panel.label} [95 %]"], "body": body}


def place_rows(profile: Profile, rows: np.ndarray, resampling: Resampling, axis: str = "block") -> list[list[str]]:
    """Lines of a table: checkpoint, place, depth, estimate with interval."""
    names, depths, _ = places_of(profile, axis)
    return [
        [profile.name, str(name), f"{depth:.2f}", str(resampling.estimate(rows[:, place]))]
        for place, (name, depth) in enumerate(zip(names, depths, strict=True))
    ]


def _frequencies(study: Study) -> list[Panel]:
    spectra = [
        Panel(on_axes(draw_spectra, profile), f"Spectra of all places of {profile.name}")
        for _, profile in study.having("fourier")
    ]
    published = [
        Panel(on_axes(draw_published, study), "Published definition: last entry of the diagonal, along depth")
    ]
    return depth_panels(study, ["fourier"]) + spectra + (published if study.having("fourier_paper") else [])


def draw_published(ax: Axes, study: Study) -> None:
    """Last entry of the spectrum's diagonal, as Park & Kim 2022, Fig 8 have it: its frequency depends on the map's size."""
    for number, profile in study.having("fourier_paper"):
        values = profile["fourier_paper"].transpose("image", "block", "diagonal").values
        last = np.isfinite(values).any(0).shape[1] - 1 - np.isfinite(values).any(0)[:, ::-1].argmax(1)
        rows = study.resampling(len(values)).mean(np.take_along_axis(values, last[None, :, None], 2)[:, :, 0])
        draw_curve(ax, profile, number, curve_of(rows))
    depth_axis(ax)
    ax.set_ylabel("Δ log amplitude, end of the diagonal")
    ax.set_title("published definition")


def _paper(study: Study) -> list[tuple[str, Figure]]:
    """Frequencies and variance share one figure on paper, spectra have their own."""
    found = [("depth", depth_figure(study.profiles)), ("spectra", spectra_figure(study.profiles))]
    if study.having("fourier_paper"):
        panel = Panel(on_axes(draw_published, study), "")
        found.append(("depth-published", sheet([panel], study.profiles, "kinds")))
    return found


def _paper_variance(study: Study) -> list[tuple[str, Figure]]:
    """Where there are spectra, the figure of both shows the variance already."""
    return [] if study.having("fourier") else [("depth", depth_figure(study.profiles))]


FREQUENCIES = Chart(
    "depth",
    "Frequencies and variance",
    "Frequencies",
    ("fourier",),
    "Δ log amplitude: how much weaker the highest frequencies (0.8π to π) are than the map's mean. Attention that smooths "
    "lowers it. Within a stage only: across stages the change of the grid dominates.",
    "Park & Kim 2022, Fig 2a and 8",
    _frequencies,
    lambda study: depth_table(study, "fourier"),
    covers=("fourier_paper",),
    names="kinds",
    figures=_paper,
)
VARIANCE = Chart(
    "variance",
    "Frequencies and variance",
    "Variance of feature maps",
    ("variance",),
    "How much an activation varies over the image, averaged over channels; left as it is, then as a share of the mean "
    "square, which does not depend on the scale of the weights.",
    "Park & Kim 2022, Fig 9",
    lambda study: depth_panels(study, ["variance", "relative_variance"]),
    lambda study: depth_table(study, "variance"),
    covers=("relative_variance",),
    names="kinds",
    figures=_paper_variance,
)
CHARTS = (FREQUENCIES, VARIANCE)

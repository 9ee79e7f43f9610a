"""Figures of paper quality from stored profiles: no network, no torch.

Each ``draw_*`` function fills one matplotlib axes; each ``*_figure`` function lays them out at the width of a page. Colour,
marker and dash name a checkpoint together, so that figures survive a black-and-white print. CKA is drawn from 0 to 1 in every
map, with cells of equal size, so that maps can be compared by eye.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .claims import Judgement, Verdict, judge
from .comparison import Comparison, best_matches, compare
from .errors import StudyError
from .profile import Profile
from .stats import Resampling, percentile


PAGE = 7.0  # inches, the text width of the usual two-column paper
INK, FAINT = "#1a1a1b", "#c9c9cc"
SERIES = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#e69f00",
)  # Okabe & Ito 2008: safe for colour-blind eyes
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", "-", "--")
VERDICT_LOOK = {
    Verdict.SUPPORTED: ("#1a7f4b", "^"),
    Verdict.CONTRADICTED: ("#b3261f", "v"),
    Verdict.NEGLIGIBLE: ("#5f6368", "s"),
    Verdict.UNDECIDED: ("#8a5a00", "D"),
}
KIND_MARKS = {"attention": "v", "mlp": "^", "conv": "s", "block": "o", "stem": "x", "embedding": "x"}
KIND_WORDS = {
    "attention": "after attention",
    "mlp": "after MLP",
    "conv": "after convolutional block",
    "block": "after block",
    "stem": "stem or embedding",
    "embedding": "stem or embedding",
}
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "axes.axisbelow": True,
    "text.parse_math": False,  # a checkpoint's name is text, whatever signs it holds
    "figure.dpi": 100,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "vitstudy",  # the same figure is the same file
}


@contextmanager
def style() -> Iterator[None]:
    """The look of all figures, for drawing into axes of one's own."""
    with mpl.rc_context(STYLE):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in inches, outside pyplot: nothing to close."""
    return Figure(figsize=(width, height), layout="constrained")


# --------------------------------------------------------------------------------------------------------- CKA maps


def draw_cka(ax: Axes, maps: xr.Dataset, rows: Profile, columns: Profile, *, gid: str | None = None):
    """One CKA map, first block at the lower left; white lines where the size of the map changes, grey where undefined.

    Args:
        maps: from `Comparison.cka`, of the blocks of `rows` (upwards) with those of `columns` (to the right).
        gid: name of the cells' group in an SVG file.
    """
    cells = np.ma.masked_invalid(maps["cka"].values)
    colours = mpl.colormaps["magma"].with_extremes(bad=FAINT)
    edges = [np.arange(count + 1) - 0.5 for count in cells.shape]
    mesh = ax.pcolormesh(edges[1], edges[0], cells, cmap=colours, vmin=0, vmax=1, gid=gid)
    for along, profile, line in (("x", columns, ax.axvline), ("y", rows, ax.axhline)):
        for edge in stage_edges(profile):
            line(edge, color="white", linewidth=0.8)
        count = len(profile.data["block"])
        ticks = np.arange(0, count, 4 * (1 + count // 40))
        ax.set(**{f"{along}ticks": ticks, f"{along}ticklabels": [str(tick) for tick in ticks]})
    ax.set(xlabel=f"block of {columns.name}", ylabel=f"block of {rows.name}", aspect="equal")
    ax.spines[:].set_visible(False)
    return mesh


def draw_best_match(ax: Axes, maps: xr.Dataset) -> None:
    """For every column the row most like it, as a line over a CKA map."""
    best = best_matches(maps["cka"].values)
    columns = np.flatnonzero(best >= 0)
    ax.plot(columns, best[columns], color="#7fe0c4", marker=".", markersize=3)


def stage_edges(profile: Profile) -> list[float]:
    """Where a CKA map's axis crosses from one stage into the next, between two blocks."""
    return [float(edge) + 0.5 for edge in np.flatnonzero(np.diff(profile.data["stage"].values))]


def cka_figure(comparison: Comparison, view: str = "flatten") -> Figure:
    """A with A, B with A, B with B, in cells of equal size; the line joins each block of B to the most similar of A."""
    a, b = comparison.a, comparison.b
    sides = [("aa", a, a)] if a is b else [("aa", a, a), ("ab", a, b), ("bb", b, b)]
    counts = [(len(rows.data["block"]), len(columns.data["block"])) for _, rows, columns in sides]
    figure, axes, bar = _equal_cells(counts, PAGE if len(sides) == 3 else 3.6)
    for ax, (key, rows, columns), letter in zip(axes, sides, "abc", strict=False):
        maps = comparison.cka(key, view)
        mesh = draw_cka(ax, maps, rows, columns)
        ax.set(xlabel=f"block of {key[1].upper()}", ylabel=f"block of {key[0].upper()}")
        ax.set_title(letter, loc="left", fontweight="bold")
        if key == "ab":
            draw_best_match(ax, maps)
    names = f"A = {a.name}" + ("" if a is b else f",   B = {b.name}")
    figure.text(0.01, 1 - 0.06 / figure.get_figheight(), names, va="top")
    figure.colorbar(mesh, cax=bar, label="linear CKA (unbiased)")
    return figure


def _equal_cells(counts: Sequence[tuple[int, int]], width: float) -> tuple[Figure, list[Axes], Axes]:
    """Axes for maps of (rows, columns) cells of one size, bottoms aligned, and one for a colour bar; sizes in inches."""
    left, gap, bottom, top, right = 0.42, 0.5, 0.42, 0.42, 0.72
    cell = (width - left - gap * (len(counts) - 1) - right) / sum(columns for _, columns in counts)
    cell = min(cell, 0.35)
    inner = cell * max(rows for rows, _ in counts)
    height = bottom + inner + top
    width = left + gap * (len(counts) - 1) + right + cell * sum(columns for _, columns in counts)
    figure = Figure(figsize=(width, height))

    def place(x: float, across: float, up: float) -> Axes:
        return figure.add_axes((x / width, bottom / height, across / width, up / height))

    axes = []
    for rows, columns in counts:
        axes.append(place(left, cell * columns, cell * rows))
        left += cell * columns + gap
    return figure, axes, place(left - gap + 0.12, 0.1, inner)


# ------------------------------------------------------------------------------------------------------ along depth


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
        low, high = percentile(rows)
        depth, kinds = profile.data["depth"].values, profile.data["kind"].values
        colour = SERIES[number % len(SERIES)]
        ax.plot(depth, rows[0], color=colour, linestyle=DASHES[number % len(DASHES)], linewidth=0.9)
        ax.fill_between(depth, low, high, color=colour, alpha=0.18, linewidth=0)
        for kind in dict.fromkeys(kinds):
            here = kinds == kind
            filled = "none" if kind == "attention" else colour
            ax.plot(depth[here], rows[0][here], KIND_MARKS[kind], color=colour, markerfacecolor=filled)
    _depth_axis(ax)
    if log:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(mpl.ticker.NullFormatter())


def draw_difference(ax: Axes, comparison: Comparison, name: str, *, select: dict | None = None) -> None:
    """A minus B at equal relative depths, paired by image, with its 95 % interval."""
    found = comparison.difference(name).isel(select or {})
    depth = found["depth"].values
    ax.axhline(0, color=INK, linewidth=0.6)
    error = np.abs(np.stack([found["low"].values, found["high"].values]) - found["difference"].values)
    ax.errorbar(depth, found["difference"].values, error, color=INK, marker="o", linewidth=0.9, capsize=2)
    _depth_axis(ax)


def _depth_axis(ax: Axes) -> None:
    ax.set(xlabel="relative depth", xlim=(0, 1.02))
    ax.grid(axis="y", color=FAINT, linewidth=0.5, alpha=0.6)


def draw_names(ax: Axes, profiles: Sequence[Profile]) -> None:
    """A legend of checkpoints and of the marks of sublayers, above the axes."""
    handles = [
        Line2D([], [], color=SERIES[i % len(SERIES)], linestyle=DASHES[i % len(DASHES)], label=profile.name)
        for i, profile in enumerate(profiles)
    ]
    present = [str(kind) for profile in profiles for kind in profile.data["kind"].values]
    marks = {KIND_WORDS[kind]: kind for kind in KIND_MARKS if kind in present}
    for words, kind in marks.items():
        filled = "none" if kind == "attention" else INK
        handles.append(
            Line2D([], [], color=INK, marker=KIND_MARKS[kind], linestyle="", markerfacecolor=filled, label=words)
        )
    ax.axis("off")
    ax.legend(handles=handles, loc="center", ncols=min(4, len(handles)), columnspacing=1.4)


def depth_figure(profiles: Sequence[Profile]) -> Figure:
    """High frequencies and feature-map variance along depth: Park & Kim 2022, Fig 8 and 9."""
    panels = [panel for panel in DEPTH_PANELS if any(panel.name in profile.data for profile in profiles)]
    if not panels:
        raise StudyError("no profile has spectra or variances; measure with --analyses fourier,variance")
    figure = new_figure(PAGE, 2.6)
    axes = figure.subplot_mosaic([["names"] * len(panels), [panel.name for panel in panels]], height_ratios=[0.22, 1])
    draw_names(axes["names"], profiles)
    for panel, letter in zip(panels, "abc", strict=False):
        panel.draw(axes[panel.name], profiles)
        axes[panel.name].set_title(letter, loc="left", fontweight="bold")
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
        ax.set_title(f"{comparison.a.name}\n− {comparison.b.name}")


DEPTH_PANELS = (
    DepthPanel("fourier", "Δ log amplitude, 0.8π to π", select={"frequency": -1}),
    DepthPanel("variance", "variance over the image", log=True),
    DepthPanel("relative_variance", "variance / mean square"),
)


def draw_spectra(ax: Axes, profile: Profile):
    """Δ log amplitude against frequency, one line per block, coloured from first (violet) to last (yellow)."""
    spectra = profile["fourier"].mean("image").transpose("block", "frequency")
    colours = _depth_colours(len(spectra))
    frequencies = spectra["frequency"].values
    for curve, colour in zip(spectra.values, colours, strict=True):
        known = np.isfinite(curve)  # a small map has no frequency in the lowest bands
        ax.plot([0, *frequencies[known]], [0, *curve[known]], color=colour, linewidth=0.8)
    ax.set(xlabel="frequency (π = the map's highest)", ylabel="Δ log amplitude", title=profile.name, xlim=(0, 1))
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
        ax.label_outer()
    depths = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, 1), mpl.colors.ListedColormap(_depth_colours(256)))
    figure.colorbar(depths, ax=list(axes), label="relative depth", aspect=25, pad=0.01)
    return figure


def _depth_colours(count: int) -> np.ndarray:
    """From violet to yellow-orange: neither end vanishes on a white or on a black page."""
    return mpl.colormaps["plasma"](np.linspace(0.2, 0.85, count))


# ----------------------------------------------------------------------------------------------------- attention heads


def draw_heads(ax: Axes, profile: Profile, number: int = 0) -> None:
    """Mean attention distance of every head by layer; the line is the layers' mean, dotted is uniform attention."""
    array = profile["attention_distance"]
    distances = array.mean("image").transpose("layer", "head").values
    layers = np.arange(1, len(distances) + 1)
    colour = SERIES[number % len(SERIES)]
    ax.plot(np.repeat(layers, distances.shape[1]), distances.ravel(), "o", color=colour, alpha=0.75, markersize=3)
    ax.plot(layers, np.nanmean(distances, axis=1), color=colour, linestyle=DASHES[number % len(DASHES)])
    uniform = float(array.attrs["uniform"])
    ax.axhline(uniform, color=INK, linestyle=":", linewidth=0.8)
    ax.annotate(
        "uniform attention", (1, uniform), xytext=(0, 2), textcoords="offset points", fontsize=6.5, va="bottom"
    )
    top = 1.12 * max(uniform, np.nanmax(distances))
    ax.set(xlabel="attention layer", ylabel="mean attention distance (px)", title=profile.name, ylim=(0, top))
    ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))


def heads_figure(profiles: Sequence[Profile]) -> Figure:
    """Attention distances, one panel per checkpoint that has them: Dosovitskiy et al. 2020, Fig 7."""
    chosen = [(i, profile) for i, profile in enumerate(profiles) if "attention_distance" in profile.data]
    if not chosen:
        raise StudyError("no profile has attention distances; none of the checkpoints returns attention weights")
    figure = new_figure(min(PAGE, 3.4 * len(chosen)), 2.4)
    axes = figure.subplots(1, len(chosen), squeeze=False)[0]
    for ax, (number, profile) in zip(axes, chosen, strict=True):
        draw_heads(ax, profile, number)
    return figure


# ------------------------------------------------------------------------------------------------------------- claims


def draw_claims(ax: Axes, judgements: Sequence[Judgement]) -> None:
    """Effects in units of their margins with 95 % intervals; the shaded band is too small to matter.

    Effects beyond 10 margins are drawn at the edge, on a scale that is linear within one margin and logarithmic outside.
    """
    shown = [judgement for judgement in judgements if judgement.estimate is not None]
    ax.axvspan(-1, 1, color=FAINT, alpha=0.45, linewidth=0)
    ax.axvline(0, color=INK, linewidth=0.6)
    for place, judgement in enumerate(reversed(shown)):
        estimate, margin = judgement.estimate, judgement.claim.margin
        assert estimate is not None
        colour, marker = VERDICT_LOOK[judgement.verdict]
        ax.plot([estimate.low / margin, estimate.high / margin], [place, place], color=colour, linewidth=1.6)
        ax.plot(estimate.value / margin, place, marker, color=colour, markersize=5)
    ax.set_xscale("symlog", linthresh=1, linscale=0.8)
    ticks = [-100, -10, -1, 0, 1, 10, 100]
    ax.set_xticks(ticks, [str(tick).replace("-", "−") for tick in ticks])
    reach = max([2.0, *(abs(end / j.claim.margin) * 1.4 for j in shown for end in _ends(j))])
    ax.set(xlim=(-reach, reach), ylim=(-0.7, len(shown) - 0.3), xlabel="effect in units of the margin (log scale)")
    ax.minorticks_off()
    ax.set_yticks(range(len(shown)), [_claim_label(judgement) for judgement in reversed(shown)])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def _ends(judgement: Judgement) -> list[float]:
    assert judgement.estimate is not None
    return [end for end in (judgement.estimate.low, judgement.estimate.high) if np.isfinite(end)]


def _claim_label(judgement: Judgement) -> str:
    return f"{textwrap.fill(judgement.claim.text, 48)}  ({judgement.claim.id})"


def claims_figure(judgements: Sequence[Judgement]) -> Figure:
    """A forest plot of all claims that could be judged."""
    shown = [judgement for judgement in judgements if judgement.estimate is not None]
    if not shown:
        raise StudyError("no claim could be judged on these profiles; see `vitstudy judge` for the reasons")
    figure = new_figure(PAGE, 0.32 * len(shown) + 0.9)
    ax = figure.subplots()
    draw_claims(ax, judgements)
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", label=str(verdict))
        for verdict, (colour, marker) in VERDICT_LOOK.items()
    ]
    ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, columnspacing=1.2, handletextpad=0.3)
    return figure


# ------------------------------------------------------------------------------------------------------------- saving


def save_figures(
    folder: str | os.PathLike,
    *profiles: Profile,
    draws: int = 1000,
    seed: int = 0,
    formats: Sequence[str] = ("png", "svg"),
) -> list[Path]:
    """Write every figure that these profiles allow.

    Args:
        folder: made where it does not exist.
        profiles: one or more, of the same images. CKA maps are drawn for every pair.
        draws, seed: of the bootstrap behind the claims.
        formats: file formats of matplotlib, such as ``pdf``.

    Returns:
        The files, in order.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with style():
        for name, figure in _all_figures(profiles, draws, seed):
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # laid out once: the same in every format
            for form in formats:
                path = folder / f"{name}.{form}"
                figure.savefig(path, metadata={"Date": None} if form == "svg" else None)
                paths.append(path)
    return paths


def _all_figures(profiles: Sequence[Profile], draws: int, seed: int) -> Iterator[tuple[str, Figure]]:
    for first, last in pairs(profiles):
        comparison = compare(first, last, draws=draws, seed=seed)
        if all("gram_flatten" in profile.data for profile in (first, last)):
            name = "cka" if len(profiles) <= 2 else f"cka-{first.name}-{last.name}"
            yield name, cka_figure(comparison)
    for name, draw in (("depth", depth_figure), ("spectra", spectra_figure), ("heads", heads_figure)):
        try:
            yield name, draw(profiles)
        except StudyError:
            continue  # the measurement is in none of the profiles
    judgements = judge(*profiles, draws=draws, seed=seed)
    if any(judgement.estimate for judgement in judgements):
        yield "claims", claims_figure(judgements)


def pairs(profiles: Sequence[Profile]) -> list[tuple[Profile, Profile]]:
    """All pairs of different profiles; a single profile is paired with itself."""
    if len(profiles) == 1:
        return [(profiles[0], profiles[0])]
    return [(first, last) for i, first in enumerate(profiles) for last in profiles[i + 1 :]]

"""Which places are alike: maps of CKA and of other measures, and heads against early convolutional blocks."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec

from ..comparison import Comparison, best_matches
from ..errors import StudyError
from ..local_heads import LocalHeads, local_heads
from ..profile import Profile
from .look import FAINT, PAGE, depth_colours, fitting, grid_lines, interval_text, tell
from .panels import Chart, Panel, Study, Table


MOST_TITLES = 4_000  # cells; beyond, values on hover would make the file several megabytes


def draw_cka(ax: Axes, maps: xr.Dataset, rows: Profile, columns: Profile, *, gid: str | None = None, key: str = "cka"):
    """One map, first block at the lower left; white lines where the size of the map changes, grey where undefined.

    Args:
        maps: from `Comparison.cka`, of the blocks of `rows` (upwards) with those of `columns` (to the right).
        gid: name of the cells' group in an SVG file.
        key: which of the arrays.
    """
    cells = np.ma.masked_invalid(maps[key].values)
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


# ------------------------------------------------------------------------------------------------------- CKA charts


def cka_panels(comparison: Comparison) -> list[Panel]:
    """A with B first, then each with itself, in cells of one size."""
    a, b = comparison.a, comparison.b
    sides = [("aa", a, a)] if a is b else [("ab", a, b), ("aa", a, a), ("bb", b, b)]
    cell = min(0.28, 3.4 / max(len(profile.data["block"]) for profile in (a, b)))
    return [
        _cka_panel(comparison, key, (rows, columns), cell, bar=key == sides[-1][0]) for key, rows, columns in sides
    ]


def _cka_panel(comparison: Comparison, key: str, sides: tuple[Profile, Profile], cell: float, bar: bool) -> Panel:
    """One map in cells of `cell` inches, the same in all maps of a chart."""
    rows, columns = sides
    maps = comparison.cka(key)
    cells = maps["cka"].values
    mean = f"mean {np.nanmean(cells):.2f}" if np.isfinite(cells).any() else "all undefined"
    about = f"CKA of every place of {rows.name} (rows) with every place of {columns.name} (columns); {mean}."
    across, up = (cell * max(len(profile.data["block"]), 4) for profile in (columns, rows))
    width, height = across + (1.25 if bar else 0.7), up + 0.75

    def fill(figure: Figure, place: SubplotSpec) -> None:
        figure.set_layout_engine("none")
        ax = figure.add_axes((0.55 / width, 0.5 / height, across / width, up / height))
        mesh = draw_cka(ax, maps, rows, columns, gid="cells")
        ax.set_xlabel(fitting(columns.name, across))
        ax.set_ylabel(fitting(rows.name, up))
        if key == "ab":
            draw_best_match(ax, maps)
        if bar:
            side = figure.add_axes((1 - 0.6 / width, 0.5 / height, 0.08 / width, up / height))
            figure.colorbar(mesh, cax=side, label="CKA")

    return Panel(fill, about, width, height, cell_titles(maps), "map")


def cell_text(maps: xr.Dataset, row: int, column: int, key: str = "cka") -> str:
    """``0.42 [0.40, 0.44]`` of one cell."""
    value, *ends = (float(maps[name].values[row, column]) for name in (key, "low", "high") if name in maps)
    if np.isnan(value):
        return "undefined"
    return f"{value:.2f} [{ends[0]:.2f}, {ends[1]:.2f}]" if ends else f"{value:.2f}"


def cell_titles(maps: xr.Dataset, key: str = "cka") -> list[str] | None:
    rows, columns = maps["row"].values, maps["column"].values
    if len(rows) * len(columns) > MOST_TITLES:
        return None
    return [
        f"{row} × {column}: {cell_text(maps, i, j, key)}"
        for i, row in enumerate(rows)
        for j, column in enumerate(columns)
    ]


def best_match_table(comparison: Comparison) -> Table:
    """For every place of B the place of A most like it."""
    a, b = comparison.a, comparison.b
    maps = comparison.cka("aa" if a is b else "ab", permutations=0 if a is b else 100)
    body = []
    for j, i in enumerate(best_matches(maps["cka"].values)):
        name = str(maps["column"].values[j])
        if i < 0:
            body.append([name, "undefined: the same for every image", "", ""])
            continue
        p = f"{float(maps['p'].values[i, j]):.3f}" if "p" in maps else ""
        body.append([name, str(maps["row"].values[i]), cell_text(maps, i, j), p])
    head = [f"place of {b.name}", f"most similar of {a.name}", "CKA [95 %]", "p (permutation)"]
    return {"title": "Most similar places", "head": head, "body": body}


def cka_charts(study: Study) -> list[Chart]:
    """One chart per pair of profiles that hold Gram blocks."""
    return [
        _cka_chart(comparison, several=len(study.profiles) > 2)
        for comparison in study.comparisons
        if all("gram_flatten" in profile.data for profile in (comparison.a, comparison.b))
    ]


def _cka_chart(comparison: Comparison, several: bool) -> Chart:
    a, b = comparison.a, comparison.b
    name = f"cka-{a.name}-{b.name}" if several else "cka"
    return Chart(
        name,
        "Similarity",
        "Similarity of representations" + ("" if a is b else f": {a.name} and {b.name}"),
        ("gram_flatten",),
        "Centred kernel alignment, 1 = the same up to rotation and scale. Every place with every other; first place at the "
        "lower left, lines where the map's size changes, the path joins each column to its most similar row. Point at a cell "
        "for its value and 95 % interval.",
        "Raghu et al. 2021, Fig 1 and 2",
        lambda study: cka_panels(comparison),
        lambda study: best_match_table(comparison),
        names="none",
        figures=lambda study: [(name, cka_figure(comparison))],
    )


# -------------------------------------------------------------------------------------------------------- local heads


def draw_local_heads(ax: Axes, subsets: xr.Dataset, title: str) -> None:
    """CKA of subsets of heads with each early block of B, against the subset's mean attention distance."""
    colours = depth_colours(len(subsets["column"]))
    distance = subsets["distance"].values
    for j, (block, colour) in enumerate(zip(subsets["column"].values, colours, strict=True)):
        value, low, high = (subsets[name].values[:, j] for name in ("cka", "low", "high"))
        ax.errorbar(
            distance,
            value,
            [value - low, high - value],
            color=colour,
            marker="o",
            linewidth=0.9,
            capsize=1.5,
            label=block,
        )
        tell(
            ax,
            distance,
            value,
            [
                f"heads {heads}, {block}: CKA {interval_text(*numbers)}"
                for heads, *numbers in zip(subsets["heads"].values, value, low, high, strict=True)
            ],
        )
    ax.set(xlabel="mean attention distance of the heads (px)", ylabel="CKA")
    ax.set_title(title, fontsize=7)
    grid_lines(ax)


def _heads_of_pairs(study: Study) -> list[tuple[Profile, Profile, LocalHeads]]:
    """Every profile with heads against every one without that shares its batches."""
    return study.once("local heads", lambda: _compared_heads(study))


def _compared_heads(study: Study) -> list[tuple[Profile, Profile, LocalHeads]]:
    found = []
    for _, a in study.having("head_gram"):
        for _, b in study.having("gram_flatten"):
            if a is b or "head_gram" in b.data:
                continue
            try:
                found.append((a, b, local_heads(a, b, resampling=study.resampling(a.n_images))))
            except StudyError:
                continue  # other batches, or too few heads for a trend
    return found


def _local_heads(study: Study) -> list[Panel]:
    panels = []
    for a, b, heads in _heads_of_pairs(study):
        layer = str(a["head_gram"].attrs.get("layer", ""))
        trend = interval_text(heads.trend.value, heads.trend.low, heads.trend.high, 2)
        for subsets, words in ((heads.sliding, "from local to global"), (heads.cumulative, "the most local and on")):
            title = f"{fitting(a.name, 1.5)} {layer}, {words}"
            about = (
                f"CKA of heads of {a.name} ({words}) with early blocks of {b.name} against attention distance; "
                f"rank correlation {trend}"
            )
            if subsets is heads.sliding:
                title += f"\nrank correlation {trend}"
            panels.append(Panel(_with_legend(subsets, title, b.name), about, height=2.8))
    return panels


def _with_legend(subsets: xr.Dataset, title: str, other: str):
    def fill(figure: Figure, place: SubplotSpec) -> None:
        ax = figure.add_subplot(place)
        draw_local_heads(ax, subsets, title)
        ax.legend(
            title=fitting(other, 1.2), fontsize=6.5, title_fontsize=6.5, loc="center left", bbox_to_anchor=(1, 0.5)
        )

    return fill


def _local_heads_table(study: Study) -> Table:
    body = []
    for a, b, heads in _heads_of_pairs(study):
        words = interval_text(heads.trend.value, heads.trend.low, heads.trend.high, 2)
        body.append([a.name, b.name, "; ".join(map(str, heads.sliding["heads"].values)), words])
    head = ["heads of", "blocks of", "subsets, local to global", "rank correlation of distance and CKA [95 %]"]
    return {"title": "Trend", "head": head, "body": body}


LOCAL_HEADS = Chart(
    "local-heads",
    "Similarity",
    "Do local heads see what a convolutional network sees?",
    ("head_gram",),
    "Each point is a subset of the heads of one layer: left local, right global. Where local heads see what early "
    "convolutional blocks see, points fall from left to right. Bars are 95 % intervals over images.",
    "Raghu et al. 2021, Fig 5",
    _local_heads,
    _local_heads_table,
    covers=("head_scale", "head_size"),
    names="none",
)

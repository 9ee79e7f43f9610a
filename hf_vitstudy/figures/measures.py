"""Beside the CKA map: the same question asked of other measures, and what CKA of a block rests on."""

from __future__ import annotations

from functools import partial

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec

from ..comparison import Comparison, caveats
from ..errors import StudyError
from ..profile import Profile
from .depth import depth_axis, draw_curve, log_axis
from .look import fitting, spaced
from .panels import Chart, Panel, Study, Table, on_axes
from .similarity import cell_text, cell_titles, draw_cka


DECONFOUNDED = "deconfounded_cka"
MEASURES = {
    DECONFOUNDED: "CKA less the pixels'",
    "rsa": "RSA: ranks of distances",
    "knn": "shared neighbours",
    "cknna": "CKA of neighbours",
    "procrustes": "best rotation",
}
CAVEATS = {  # title, label
    "participation_ratio": ("how many directions", "participation ratio"),
    "top1_energy": ("share of the first direction", "variance (%)"),
    "influence": ("what one image changes", "largest change of CKA"),
}


def similarity_maps(comparison: Comparison) -> dict[str, xr.Dataset]:
    """The maps of A with B by every measure that both profiles allow."""
    found = {}
    of = "aa" if comparison.a is comparison.b else "ab"
    for measure in MEASURES:
        try:
            if measure == DECONFOUNDED:
                found[measure] = comparison.cka(of, deconfounded=True).rename(cka=DECONFOUNDED)
            else:
                found[measure] = comparison.similarity(of, measure)
        except StudyError:
            continue  # what it needs was not measured
    return found


def _maps(comparison: Comparison, study: Study) -> dict[str, xr.Dataset]:
    return study.once(f"maps {comparison.a.name} {comparison.b.name}", lambda: similarity_maps(comparison))


def draw_similarity(ax: Axes, maps: xr.Dataset, measure: str, rows: Profile, columns: Profile):
    """One map by one measure, from 0 to 1, with the level that unrelated blocks would reach."""
    mesh = draw_cka(ax, maps, rows, columns, gid="cells", key=measure)
    chance = f"\nchance {float(np.nanmean(maps['chance'].values)):.2f}" if "chance" in maps else "\n"
    ax.set_title(MEASURES[measure] + chance, fontsize=7)
    return mesh


def _measure_panels(comparison: Comparison, study: Study) -> list[Panel]:
    """Maps in cells of one size, as large as four beside each other allow."""
    a, b = comparison.a, comparison.b
    counts = [len(profile.data["block"]) for profile in (a, b)]
    cell = min(0.12, 1.9 / counts[0], 1.2 / counts[1])
    found = _maps(comparison, study)
    panels = []
    for measure, maps in found.items():
        bar = measure == list(found)[-1]
        size = max(1.72, cell * counts[1] + 0.6), cell * counts[0] + 0.95

        def fill(
            figure: Figure, place: SubplotSpec, maps: xr.Dataset = maps, measure: str = measure, bar: bool = bar
        ) -> None:
            ax = figure.add_subplot(place)
            mesh = draw_similarity(ax, maps, measure, a, b)
            ax.set_xlabel(fitting(b.name, 1.3))
            ax.set_ylabel(fitting(a.name, cell * counts[0]))
            if bar:
                figure.colorbar(mesh, ax=ax, aspect=25, label="similarity")

        cells = maps[measure].values
        mean = f"mean {np.nanmean(cells):.2f}" if np.isfinite(cells).any() else "all undefined"
        about = f"{MEASURES[measure]}: every place of {a.name} with every place of {b.name}; {mean}"
        panels.append(Panel(fill, about, *size, cell_titles(maps, measure), "map"))
    return panels


def _measures_table(comparison: Comparison, study: Study) -> Table:
    """By every measure the pair of places that is most alike, and chance."""
    body = []
    for measure, maps in _maps(comparison, study).items():
        cells = maps[measure].values
        if np.isnan(cells).all():
            continue
        i, j = (int(place) for place in np.unravel_index(np.nanargmax(cells), cells.shape))
        chance = f"{float(np.nanmean(maps['chance'].values)):.2f}" if "chance" in maps else "—"
        places = f"{maps['row'].values[i]} × {maps['column'].values[j]}"
        body.append([MEASURES[measure], places, cell_text(maps, i, j, measure), f"{np.nanmean(cells):.2f}", chance])
    head = ["measure", "most alike", "similarity [95 %]", "mean of all cells", "chance"]
    return {"title": "Values", "head": head, "body": body}


def measure_charts(study: Study) -> list[Chart]:
    """One chart per pair of profiles that hold Gram blocks or projections."""
    several = len(study.profiles) > 2
    found = []
    for comparison in study.comparisons:
        a, b = comparison.a, comparison.b
        if not all("gram_flatten" in profile.data for profile in (a, b)):
            continue
        found.append(
            Chart(
                f"similarity-measures-{a.name}-{b.name}" if several else "similarity-measures",
                "Similarity",
                "Do other measures agree?" + (f" {a.name} and {b.name}" if several else ""),
                ("gram_flatten",),
                "The same map by measures that fail differently: CKA of what the pixels do not explain, ranks of distances, "
                "shared neighbours, CKA restricted to neighbours, and rotation. All from 0 to 1, chance as stated: what two "
                "blocks that share nothing would reach. What only CKA shows may be due to few directions or few images.",
                "Cui et al. 2022; Kriegeskorte et al. 2008; Huh et al. 2024; Ding et al. 2021; Williams et al. 2021",
                partial(_measure_panels, comparison),
                partial(_measures_table, comparison),
                names="none",
            )
        )
    return found


# ------------------------------------------------------------------------------------------------------------ caveats


def known_caveats(study: Study) -> list[tuple[int, Profile, xr.Dataset]]:
    """What to read beside each profile's map, for those that hold enough."""
    return study.once("caveats", lambda: _known_caveats(study))


def _known_caveats(study: Study) -> list[tuple[int, Profile, xr.Dataset]]:
    found = []
    for number, profile in study.having("gram_flatten"):
        try:
            found.append((number, profile, caveats(profile)))
        except StudyError:
            continue  # measured before diagonals were stored
    return found


def draw_caveat(ax: Axes, found: list[tuple[int, Profile, xr.Dataset]], name: str) -> None:
    """One number per block along depth, with its interval where it has one."""
    for number, profile, values in found:
        factor = 100 if name.endswith("energy") else 1
        value = factor * values[name].values
        low, high = [
            factor * values[f"{name}_{end}"].values if f"{name}_{end}" in values else np.nan * value
            for end in ("low", "high")
        ]
        if name == "influence":
            value = np.abs(value)
        draw_curve(ax, profile, number, (value, low, high), name=spaced(name))
    depth_axis(ax)
    if name == "participation_ratio":
        log_axis(ax)
    else:
        ax.set_ylim(bottom=0)
    ax.set_title(CAVEATS[name][0])
    ax.set_ylabel(CAVEATS[name][1])


def _caveats(study: Study) -> list[Panel]:
    found = known_caveats(study)
    if not found:
        return []
    return [
        Panel(on_axes(draw_caveat, found, name), f"{words}, {label}, of every block along depth", 2.33, 2.1)
        for name, (words, label) in CAVEATS.items()
    ]


def _caveats_table(study: Study) -> Table:
    body = []
    for _, profile, values in known_caveats(study):
        for place, block in enumerate(profile.data["block"].values):
            numbers = [
                f"{float(values['participation_ratio'].values[place]):.1f}",
                f"{100 * float(values['top1_energy'].values[place]):.0f} %",
                f"{float(values['influence'].values[place]):+.3f}".replace("-", "−"),
            ]
            image, other = int(values["influence_image"].values[place]), str(values["influence_block"].values[place])
            who = f"image {image}, with {other}" if image >= 0 else ""
            body.append([profile.name, str(block), *numbers, who])
    head = [
        "checkpoint",
        "place",
        "participation ratio",
        "first direction",
        "largest change of CKA by one image",
        "which",
    ]
    return {"title": "Values", "head": head, "body": body}


CAVEAT_STRIP = Chart(
    "caveats",
    "Similarity",
    "What the CKA of a block rests on",
    ("gram_flatten",),
    "Read it beside the map: where few directions hold the variance (participation ratio near 1), CKA is the likeness of "
    "those few; where one image moves a cell far, it says little of the others. Bands: 95 % jackknife over batches.",
    "Davari et al. 2023; Song et al. 2012",
    _caveats,
    _caveats_table,
    names="kinds",
)

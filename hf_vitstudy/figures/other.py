"""Measurements that no figure of its own knows: whoever adds an analysis gets a panel, an interval and a table for nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from ..profile import Profile
from ..stats import percentile
from .attention import draw_dots
from .depth import curve_of, depth_axis, draw_curve, place_rows
from .look import fitting, grid_lines, series, spaced
from .panels import Chart, Panel, Study, Table, on_axes


QUIET = ("gram_", "scale_", "size_", "square_", "projection")  # material for other numbers
PLAIN = {"top5", "top5_probability", "label", "nll"}
MOST_PANELS = 4  # values of a third axis, one panel each


@dataclass(frozen=True)
class Shape:
    """How a variable is laid out: one observation per `unit`, along `along`, and perhaps by head or another short axis."""

    unit: str | None
    along: str
    across: str | None = None


def shape_of(profile: Profile, array: xr.DataArray) -> Shape | None:
    """None where the variable is not a number per place of the network."""
    dims = [str(name) for name in array.dims]
    if array.dtype.kind not in "fiu" or not dims:
        return None
    unit = dims[0] if dims[0] == "image" or dims[0].endswith(("_image", "_batch")) else None
    if unit:
        if array.sizes[unit] < 2:
            return None
        dims = dims[1:]
    if not dims or not _is_depth(profile, dims[0]):
        return None
    if len(dims) == 1:
        return Shape(unit, dims[0])
    if len(dims) == 2 and unit and (_is_head(dims[1]) or array.sizes[dims[1]] <= MOST_PANELS):
        return Shape(unit, dims[0], dims[1])
    return None


def _is_depth(profile: Profile, axis: str) -> bool:
    if axis in ("block", "layer", "branch") or axis.endswith(("_layer", "_branch")) or f"{axis}_depth" in profile.data:
        return True
    known = set(profile.data["block"].values)
    return axis in profile.data and set(profile.data[axis].values) <= known


def _is_head(axis: str) -> bool:
    return axis == "head" or axis.endswith("_head")


def unknown(study: Study, charts: Iterable[Chart]) -> dict[str, Shape]:
    """Variables with a number per place that none of the charts shows."""
    known = {name for chart in charts for name in (*chart.needs, *chart.covers)} | PLAIN
    found: dict[str, Shape] = {}
    for profile in study.profiles:
        for name, array in profile.data.data_vars.items():
            shape = None if name in known or str(name).startswith(QUIET) else shape_of(profile, array)
            if shape:
                found.setdefault(str(name), shape)
    return found


def rows_by_place(profile: Profile, name: str, shape: Shape, study: Study) -> np.ndarray:
    """(1 + draws, place) of a variable; a single row where it has no unit of observation."""
    array = profile[name]
    if shape.unit is None:
        return array.values[None].astype(float)
    values = array.transpose(shape.unit, shape.along).values
    return study.resampling(len(values)).mean(values)


def _label(profile: Profile, name: str) -> str:
    unit = str(profile[name].attrs.get("unit", ""))
    return spaced(name) + (f" ({unit})" if unit not in ("", "1") else "")


def draw_unknown(ax: Axes, study: Study, name: str, shape: Shape, place: int | None = None) -> None:
    """A variable along depth with its 95 % interval, one curve per checkpoint; at one place of its third axis if it has one."""
    title = ""
    for number, profile in study.having(name):
        chosen, value = _at(profile, name, shape, place)
        rows = rows_by_place(chosen, name, Shape(shape.unit, shape.along), study)
        curve = (
            curve_of(rows)
            if len(rows) > 1
            else (rows[0], np.full_like(rows[0], np.nan), np.full_like(rows[0], np.nan))
        )
        draw_curve(ax, profile, number, curve, axis=shape.along, name=spaced(name))
        ax.set_ylabel(_label(profile, name))
        title = f"{spaced(shape.across)} {value}" if shape.across else ""
    depth_axis(ax)
    ax.set_title(title)


def _at(profile: Profile, name: str, shape: Shape, place: int | None) -> tuple[Profile, str]:
    """The profile with the variable at one place of its third axis, and the name of that place."""
    if place is None or shape.across is None:
        return profile, ""
    array = profile[name]
    value = str(array.coords[shape.across].values[place]) if shape.across in array.coords else str(place + 1)
    return Profile(profile.data.assign({name: array.isel({shape.across: place})}), profile.provenance), value


def draw_unknown_heads(ax: Axes, study: Study, profile: Profile, number: int, name: str, shape: Shape) -> None:
    """A dot per head and the mean of every layer with its 95 % interval."""
    array = profile[name].transpose(shape.unit, shape.along, shape.across)
    unit = str(array.attrs.get("unit", "")).replace("1", "")
    draw_dots(ax, array.mean(shape.unit).values, number, profile, unit)
    low, high = percentile(_head_rows(profile, name, shape, study))
    places = np.arange(1, array.shape[1] + 1)
    ax.fill_between(places, low, high, color=series(number)["color"], alpha=0.25, linewidth=0)
    ax.set(xlabel="attention layer", ylabel=_label(profile, name))
    ax.set_title(fitting(profile.name, 2.6), loc="center")
    grid_lines(ax)


def _head_rows(profile: Profile, name: str, shape: Shape, study: Study) -> np.ndarray:
    """Means over heads of every layer, (1 + draws, layer)."""
    values = profile[name].transpose(shape.unit, shape.along, shape.across).mean(shape.across).values
    return study.resampling(len(values)).mean(values)


def other_chart(study: Study, name: str, shape: Shape) -> Chart:
    """The chart of a variable that no figure knows; title, unit and source are the variable's own."""
    first = study.having(name)[0][1][name]
    heads = shape.across is not None and _is_head(shape.across)
    what = "one dot per head, the line is the layer's mean; the" if heads else "the"
    over = f" over {spaced(shape.unit).removesuffix(' image')}s" if shape.unit else ""
    interval = f" {what} band is the 95 % interval{over}." if shape.unit else ""
    words = str(first.attrs.get("long_name") or spaced(name))
    return Chart(
        f"more-{name}",
        "Other measurements",
        words[:1].upper() + words[1:],
        (name,),
        f"{words[:1].upper() + words[1:]} along depth, in the unit {first.attrs.get('unit') or '1'};{interval}",
        str(first.attrs.get("source", "")),
        lambda study: _panels(study, name, shape),
        lambda study: _table(study, name, shape),
        names="none" if heads else "kinds",
    )


def _panels(study: Study, name: str, shape: Shape) -> list[Panel]:
    if shape.across is not None and _is_head(shape.across):
        return [
            Panel(
                on_axes(draw_unknown_heads, study, profile, number, name, shape),
                f"{spaced(name)} of every head of {profile.name}",
            )
            for number, profile in study.having(name)
        ]
    count = study.having(name)[0][1][name].sizes[shape.across] if shape.across else 1
    about = f"{spaced(name)} along depth"
    return [
        Panel(on_axes(draw_unknown, study, name, shape, place if shape.across else None), about)
        for place in range(count)
    ]


def _table(study: Study, name: str, shape: Shape) -> Table:
    body = []
    for _, profile in study.having(name):
        if shape.unit is None:
            body += [
                [profile.name, str(place + 1), "", f"{value:.3g}"] for place, value in enumerate(profile[name].values)
            ]
            continue
        resampling = study.resampling(profile[name].sizes[shape.unit])
        if shape.across is not None:
            rows = _head_rows(profile, name, shape, study)
        else:
            rows = rows_by_place(profile, name, shape, study)
        body += place_rows(profile, rows, resampling, shape.along)
    mean = f", mean over {spaced(shape.across)}s" if shape.across else ""
    label = _label(study.having(name)[0][1], name)
    return {"title": "Values", "head": ["checkpoint", "place", "depth", f"{label}{mean} [95 %]"], "body": body}

"""Attention: how far and how widely heads look, where the output comes from, what is learnt before the first block."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec

from ..errors import StudyError
from ..profile import Profile
from ..stats import percentile
from .look import INK, PAGE, fitting, grid_lines, new_figure, series, tell
from .panels import Chart, Panel, Study, Table, on_axes


DISTANCES = ("attention_distance", "window_attention_distance")


def draw_heads(ax: Axes, profile: Profile, number: int = 0, name: str = "attention_distance") -> None:
    """Mean attention distance of every head by layer; the line is the layers' mean, dotted is uniform attention."""
    array = profile[name]
    distances = array.mean("image").transpose("layer", "head").values
    draw_dots(ax, distances, number, profile, "px")
    layers = np.arange(1, len(distances) + 1)
    uniform = np.broadcast_to(np.asarray(array.attrs["uniform"], float), len(distances))
    if np.ptp(uniform) == 0:
        ax.axhline(uniform[0], color=INK, linestyle=":", linewidth=0.8)
    else:
        ax.step(layers, uniform, where="mid", color=INK, linestyle=":", linewidth=0.8)
    ax.annotate(
        "uniform attention", (1, uniform[0]), xytext=(0, 2), textcoords="offset points", fontsize=6.5, va="bottom"
    )
    top = 1.12 * max(uniform.max(), np.nanmax(distances))
    ax.set(xlabel="attention layer", ylabel="mean attention distance (px)", ylim=(0, top))
    ax.set_title(fitting(profile.name, 2.6), loc="center")


def draw_dots(ax: Axes, values: np.ndarray, number: int, profile: Profile, unit: str) -> None:
    """A dot for every head of (layer, head) `values` and a line through the layers' means."""
    layers = np.arange(1, len(values) + 1)
    look = series(number)
    places = np.repeat(layers, values.shape[1])
    ax.plot(places, values.ravel(), "o", color=look["color"], alpha=0.75, markersize=3)
    ax.plot(layers, np.nanmean(values, axis=1), **look)
    ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    words = [
        f"{profile.name}, layer {layer} head {head}: {value:.3g} {unit}".strip()
        for layer, row in zip(layers, values, strict=True)
        for head, value in enumerate(row)
    ]
    tell(ax, places, values.ravel(), words)


def heads_figure(profiles: Sequence[Profile]) -> Figure:
    """Attention distances, one panel per checkpoint that has them: Dosovitskiy et al. 2020, Fig 7."""
    chosen = [(i, profile, name) for i, profile in enumerate(profiles) for name in DISTANCES if name in profile.data]
    if not chosen:
        raise StudyError("no profile has attention distances; none of the checkpoints returns attention weights")
    figure = new_figure(min(PAGE, 3.4 * len(chosen)), 2.4)
    axes = figure.subplots(1, len(chosen), squeeze=False)[0]
    for ax, (number, profile, name) in zip(axes, chosen, strict=True):
        draw_heads(ax, profile, number, name)
        ax.set_title(fitting(profile.name, figure.get_figwidth() / len(axes) - 0.7), loc="center")
    return figure


def _heads(study: Study, name: str) -> list[Panel]:
    return [
        Panel(on_axes(draw_heads, profile, number, name), f"Mean attention distance of every head of {profile.name}")
        for number, profile in study.having(name)
    ]


def _heads_table(study: Study, which: str) -> Table:
    body = []
    for _, profile in study.having(which):
        means = profile[which].mean("image").transpose("layer", "head").values
        prefix = profile["prefix_attention"].mean("image").transpose("layer", "head").values
        for layer, name in enumerate(profile.data["layer"].values):
            distances = ", ".join(f"{value:.0f}" for value in sorted(means[layer][np.isfinite(means[layer])]))
            body.append([profile.name, str(name), distances, f"{100 * np.nanmean(prefix[layer]):.0f} %"])
    head = ["checkpoint", "layer", "mean distance of its heads (px)", "attention to class and register tokens"]
    return {"title": "Values", "head": head, "body": body}


def _heads_chart(name: str, variable: str, title: str, more: str) -> Chart:
    return Chart(
        name,
        "Attention",
        title,
        (variable,),
        "Distance from query to key, weighted by attention; one dot per head, the line is the layer's mean. Weights are "
        f"renormalised without the class token.{more}",
        "Dosovitskiy et al. 2020, Fig 7; Raghu et al. 2021, Fig 3",
        lambda study: _heads(study, variable),
        lambda study: _heads_table(study, variable),
        covers=("prefix_attention",),
        names="none",
    )


HEADS = _heads_chart("heads", DISTANCES[0], "Attention heads", "")
WINDOWS = _heads_chart(
    "heads-windows", DISTANCES[1], "Attention heads within windows", " Distances end at the window."
)

# ----------------------------------------------------------------------------------------------------------- entropy


def draw_entropy(ax: Axes, profile: Profile, number: int, name: str, study: Study) -> None:
    """Entropy of every head by layer, the line is the layers' mean with its 95 % interval over images."""
    array = profile[name].transpose("image", "layer", "head")
    draw_dots(ax, array.mean("image").values, number, profile, array.attrs.get("unit", "").replace("1", ""))
    rows = study.resampling(len(array)).mean(array.mean("head").values)
    low, high = percentile(rows)
    ax.fill_between(np.arange(1, rows.shape[1] + 1), low, high, color=series(number)["color"], alpha=0.25, linewidth=0)
    relative = name.startswith("relative")
    ax.set(xlabel="attention layer", ylabel="entropy / entropy if uniform" if relative else "entropy (nat)")
    ax.set_ylim(0, 1.05 if relative else None)
    ax.set_title(f"{fitting(profile.name, 1.9)}, {'patches' if relative else 'class token'}")
    if relative:
        ax.axhline(1, color=INK, linestyle=":", linewidth=0.8)
    grid_lines(ax)


def _entropy(study: Study) -> list[Panel]:
    panels = []
    for number, profile in study.having("relative_attention_entropy"):
        for name, words in (("relative_attention_entropy", "patches"), ("class_attention_entropy", "the class token")):
            if name in profile.data:
                about = f"How widely attention of {words} spreads, by layer and head of {profile.name}"
                panels.append(Panel(on_axes(draw_entropy, profile, number, name, study), about))
    return panels


def _entropy_table(study: Study) -> Table:
    body = []
    for _, profile in study.having("relative_attention_entropy"):
        array = profile["relative_attention_entropy"].transpose("image", "layer", "head")
        resampling = study.resampling(len(array))
        rows = resampling.mean(array.mean("head").values)
        keys = np.exp(profile["attention_entropy"].mean(("image", "head")).values)
        for layer, name in enumerate(profile.data["layer"].values):
            body.append([profile.name, str(name), str(resampling.estimate(rows[:, layer])), f"{keys[layer]:.0f}"])
    head = ["checkpoint", "layer", "entropy / entropy if uniform [95 %]", "about as many keys, exp(entropy)"]
    return {"title": "Values", "head": head, "body": body}


ENTROPY = Chart(
    "entropy",
    "Attention",
    "How widely attention spreads",
    ("relative_attention_entropy",),
    "0 is attention to a single token, 1 (dotted) the same attention to all; one dot per head, the line is the layer's mean "
    "with its 95 % interval over images. Entropies of the class token are in nat.",
    "Zhai et al. 2023",
    _entropy,
    _entropy_table,
    covers=("attention_entropy", "class_attention_entropy"),
    names="none",
)

# ----------------------------------------------------------------------------------------------------------- rollout

EXAMPLES = 6


def rollout_top(study: Study) -> float:
    """The largest mean share of a place over that of uniform attention: the end of the colour scale of all maps."""
    return max(
        float((p["rollout"].mean("rollout_image") * p["rollout"][0].size).max()) for _, p in study.having("rollout")
    )


def draw_rollout(figure: Figure, place: SubplotSpec, profile: Profile, top: float) -> None:
    """The mean rollout map and those of the first images, where uniform attention is 1."""
    maps = profile["rollout"].values * profile["rollout"][0].size
    grid = place.subgridspec(2, 5, width_ratios=[2, 1, 1, 1, 0.12])
    axes = [figure.add_subplot(grid[:, 0])] + [figure.add_subplot(grid[i // 3, 1 + i % 3]) for i in range(EXAMPLES)]
    shown = [maps.mean(0), *maps[:EXAMPLES]]
    for ax, values in zip(axes, shown, strict=False):
        mesh = draw_map(ax, values, 0, top)
    for ax in axes[len(shown) :]:
        ax.axis("off")
    axes[0].set_title(f"{fitting(profile.name, 1.6)}\nmean of {len(maps)} images")
    axes[1].set_title(f"first {min(EXAMPLES, len(maps))} images")
    bar = figure.colorbar(mesh, cax=figure.add_subplot(grid[:, 4]), extend="max")
    bar.set_label("share / uniform share", fontsize=7)


def draw_map(ax: Axes, values: np.ndarray, low: float, high: float, colours: str = "viridis"):
    """A small map of the image's plane, pixel by pixel, without ticks."""
    mesh = ax.imshow(values, cmap=colours, vmin=low, vmax=high, interpolation="none")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return mesh


def _rollout(study: Study) -> list[Panel]:
    top, panels = rollout_top(study), []
    for _, profile in study.having("rollout"):
        mean = profile["rollout"].mean("rollout_image").values
        row, column = (int(place) for place in np.unravel_index(mean.argmax(), mean.shape))
        about = (
            f"Attention rollout of {profile.name}: mean map of {mean.shape[0]} by {mean.shape[1]} places, strongest at row "
            f"{row + 1}, column {column + 1} with {mean.max() * mean.size:.1f} times the uniform share"
        )

        def fill(figure: Figure, place: SubplotSpec, profile: Profile = profile) -> None:
            draw_rollout(figure, place, profile, top)

        panels.append(Panel(fill, about, 5.4, 1.9, form="page"))
    return panels


ROLLOUT = Chart(
    "rollout",
    "Attention",
    "Where the output comes from: attention rollout",
    ("rollout",),
    "Heads averaged, skip connections added, all layers multiplied; bright places send more to the output than if attention "
    "were uniform (1). One colour scale for all maps, up to the largest value of a mean map.",
    "Abnar & Zuidema 2020; Dosovitskiy et al. 2020, Fig 6",
    _rollout,
    names="none",
)

# -------------------------------------------------------------------------------------------------------- embeddings


def tiled(tiles: np.ndarray, shape: tuple[int, int], gap: int = 1) -> np.ndarray:
    """Tiles (n, height, width, ...) in a raster of `shape` (rows, columns), NaN between them and where there is none."""
    rows, columns = shape
    height, width = tiles.shape[1:3]
    found = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, *tiles.shape[3:]), np.nan)
    for place, tile in enumerate(tiles[: rows * columns]):
        top, left = place // columns * (height + gap), place % columns * (width + gap)
        found[top : top + height, left : left + width] = tile
    return found


def draw_positions(ax: Axes, profile: Profile):
    """For every place a small map: how alike its position embedding is to those of all places."""
    array = profile["position_similarity"]
    grid = int(array.attrs["grid"][0]), int(array.attrs["grid"][1])
    image = tiled(array.values.astype(float).reshape(-1, *grid), grid)
    mesh = draw_map(ax, np.ma.masked_invalid(image), -1, 1, "RdYlBu_r")
    ax.set(xlabel=f"column of the place (1 to {grid[1]})", ylabel=f"row of the place (1 to {grid[0]})")
    correlation = float(np.nanmean(profile["position_distance_correlation"].values))
    number = f"{correlation:.2f}".replace("-", "−")
    ax.set_title(f"{fitting(profile.name, 2.2)}\ncorrelation with distance {number}")
    return mesh


def _positions(study: Study) -> list[Panel]:
    panels = []
    for _, profile in study.having("position_similarity"):

        def fill(figure: Figure, place: SubplotSpec, profile: Profile = profile) -> None:
            ax = figure.add_subplot(place)
            figure.colorbar(draw_positions(ax, profile), ax=ax, label="cosine", shrink=0.8, aspect=25)

        correlation = float(np.nanmean(profile["position_distance_correlation"].values))
        about = f"Similarity of position embeddings of {profile.name}; mean rank correlation with distance {correlation:.2f}"
        panels.append(Panel(fill, about, 3.5, 3.3))
    return panels


def _positions_table(study: Study) -> Table:
    body = []
    for _, profile in study.having("position_similarity"):
        shares = [f"{100 * share:.0f} %" for share in profile["position_share"].values]
        correlation = float(np.nanmean(profile["position_distance_correlation"].values))
        body.append([profile.name, f"{correlation:.2f}".replace("-", "−"), *shares])
    head = ["checkpoint", "mean rank correlation of similarity with distance", "by row", "by column", "rest"]
    return {"title": "Values", "head": head, "body": body}


POSITIONS = Chart(
    "position-embedding",
    "Attention",
    "Position embeddings",
    ("position_similarity",),
    "One small map per place of the image: how alike its learnt position embedding is to that of every place. A bright spot "
    "that wanders with the place, row and column stripes: the network has learnt the image's plane. Weights alone.",
    "Dosovitskiy et al. 2020, Fig 7 centre and Fig 10",
    _positions,
    _positions_table,
    covers=("position_distance_correlation", "position_share"),
    names="none",
)


def filter_colours(profile: Profile) -> np.ndarray:
    """Principal components of the first convolution's filters, (rank, row, column, colour) in [0, 1]; ½ is zero.

    Each is brought to its own largest value.
    """
    components = profile["filter_component"].values.astype(float)
    peak = np.abs(components).max((1, 2, 3), keepdims=True)
    return np.moveaxis(0.5 + np.divide(components, peak, out=np.zeros_like(components), where=peak > 0) / 2, 1, -1)


def draw_filters(ax: Axes, profile: Profile) -> None:
    """Principal components of the first convolution's filters as colours."""
    tiles = filter_colours(profile)
    columns = 7
    image = tiled(tiles, (-(-len(tiles) // columns), columns), gap=max(1, tiles.shape[1] // 8))
    alpha = np.isfinite(image[..., :1]).astype(float)
    draw_map(ax, np.concatenate([np.nan_to_num(image), alpha], axis=-1), 0, 1)
    kind = profile["filter_component"].attrs.get("layer", "first convolution")
    ax.set_title(f"{fitting(profile.name, 1.9)}, {kind}")


def draw_filter_variance(ax: Axes, study: Study) -> None:
    """Share of the filters' variance that the first components explain together."""
    for number, profile in study.having("filter_variance"):
        shares = 100 * np.cumsum(profile["filter_variance"].values)
        ranks = np.arange(1, len(shares) + 1)
        ax.plot(ranks, shares, **series(number), marker=".")
        tell(ax, ranks, shares, [f"{profile.name}, first {r}: {s:.0f} %" for r, s in zip(ranks, shares, strict=True)])
    ax.set(xlabel="number of components", ylabel="variance explained (%)", ylim=(0, 103))
    grid_lines(ax)


def _filters(study: Study) -> list[Panel]:
    panels = []
    for _, profile in study.having("filter_component"):
        first = 100 * float(profile["filter_variance"].values.sum())
        count = profile["filter_variance"].size
        about = f"First {count} principal components of the filters of {profile.name}; they explain {first:.0f} %"
        panels.append(Panel(on_axes(draw_filters, profile), about, 3.5, 2.3))
    about = "Share of the filters' variance explained by the first components"
    return [*panels, Panel(on_axes(draw_filter_variance, study), about, 3.5, 2.3)]


def _filters_table(study: Study) -> Table:
    body = []
    for _, profile in study.having("filter_component", "filter_smoothness"):
        shares, smooth = profile["filter_variance"].values, profile["filter_smoothness"].values
        for rank in range(min(5, len(shares))):
            body.append([profile.name, str(rank + 1), f"{100 * shares[rank]:.1f} %", f"{smooth[rank]:.2f}"])
    head = ["checkpoint", "component", "share of variance", "correlation of neighbouring pixels"]
    return {"title": "First five", "head": head, "body": body}


FILTERS = Chart(
    "patch-filters",
    "Attention",
    "Filters of the first layer",
    ("filter_component",),
    "Principal components of the filters that read the image, strongest first, row by row; grey is zero, every tile is "
    "brought to its own largest value. Smooth ones form a basis for low frequencies, noise means an untrained filter.",
    "Dosovitskiy et al. 2020, Fig 7 left",
    _filters,
    _filters_table,
    covers=("filter_variance", "filter_smoothness"),
)
CHARTS = (HEADS, WINDOWS, ENTROPY, ROLLOUT, POSITIONS, FILTERS)

"""What a place of a state stands for: its receptive field, its own patch, and the classes that can be read off it."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.patches import Rectangle

from ..profile import Profile
from .attention import draw_map
from .depth import curve_of, depth_axis, draw_curve, place_rows, places_of
from .look import INK, PAGE, fitting, grid_lines, interval_text, series, series_mark, tell
from .panels import Chart, Panel, Study, Table, on_axes


# --------------------------------------------------------------------------------------------------- receptive fields

SHOWN = 5  # depths whose maps are drawn


def chosen_blocks(profile: Profile, count: int = SHOWN) -> list[int]:
    """Blocks at about equal relative depths, the first and the last among them."""
    depth = profile.data["depth"].values
    found = [int(np.abs(depth - target).argmin()) for target in np.linspace(depth[0], depth[-1], count)]
    return list(dict.fromkeys(found))


def draw_receptive_maps(figure: Figure, place: SubplotSpec, profile: Profile) -> None:
    """Mean maps at some depths, each divided by its own largest value, on a logarithmic scale over three decades."""
    blocks = chosen_blocks(profile)
    maps = profile["receptive_map"].values
    grid = place.subgridspec(1, SHOWN + 1, width_ratios=[*[1] * SHOWN, 0.08])
    colours = mpl.colors.LogNorm(1e-3, 1)
    for column, block in enumerate(blocks):
        ax = figure.add_subplot(grid[column])
        shown = np.maximum(maps[block] / max(float(maps[block].max()), 1e-38), 1e-3)
        mesh = ax.imshow(shown, cmap="magma", norm=colours, interpolation="none")
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        ax.set_title(f"depth {profile.data['depth'].values[block]:.2f}", loc="center", fontsize=7)
        if column == 0:
            ax.set_ylabel(fitting(profile.name, 1.2), fontsize=7)
    bar = figure.colorbar(mesh, cax=figure.add_subplot(grid[SHOWN]), label="share of the peak")
    bar.set_ticks([1, 0.1, 0.01, 0.001], labels=["1", "0.1", "0.01", "0.001"])
    bar.ax.minorticks_off()


def draw_radius(ax: Axes, study: Study, fraction: int, name: str = "receptive_radius") -> None:
    """Radius that holds a share of the gradient, along depth; dotted what a gradient that is the same everywhere would have."""
    for number, profile in study.having(name):
        array = profile[name]
        rows = study.resampling(len(array)).mean(array.values[:, :, fraction])
        axis = str(array.dims[1])
        draw_curve(ax, profile, number, curve_of(rows), axis=axis)
        uniform = name.replace("receptive", "uniform")
        if uniform in profile.data:
            _, depth, _ = places_of(profile, axis)
            values = profile[uniform].values[:, fraction]
            ax.plot(depth, values, color=series(number)["color"], linestyle=(0, (1, 2)), linewidth=0.8)
    depth_axis(ax)
    share = float(study.having(name)[0][1].data["fraction"].values[fraction])
    before = "branch alone: " if name.startswith("branch") else ""
    ax.set(ylabel=f"radius of {100 * share:.0f} % (px)")
    ax.set_ylim(bottom=0)
    ax.set_title(f"{before}{100 * share:.0f} % of the gradient; dotted: uniform")


def draw_own_share(ax: Axes, study: Study) -> None:
    """Share of the gradient within the place's own cell."""
    for number, profile in study.having("receptive_own_share"):
        array = profile["receptive_own_share"]
        draw_curve(ax, profile, number, curve_of(100 * study.resampling(len(array)).mean(array.values)))
    depth_axis(ax)
    ax.set(ylabel="gradient in the own cell (%)", ylim=(0, 103))
    ax.set_title("the place's own cell or patch")


def _receptive(study: Study) -> list[Panel]:
    panels = []
    for _, profile in study.having("receptive_map"):

        def fill(figure: Figure, place: SubplotSpec, profile: Profile = profile) -> None:
            draw_receptive_maps(figure, place, profile)

        radii = profile["receptive_radius"].mean("receptive_image").values[:, 0]
        about = (
            f"Effective receptive field of the central place of {profile.name} at {len(chosen_blocks(profile))} depths; the "
            f"radius of half the gradient goes from {radii[0]:.0f} to {radii[-1]:.0f} pixels"
        )
        panels.append(Panel(fill, about, PAGE, 1.7, form="page"))
    fractions = study.having("receptive_radius")[0][1].data["fraction"].values
    for fraction, share in enumerate(fractions):
        about = f"Radius that holds {100 * share:.0f} % of the gradient, along depth"
        panels.append(Panel(on_axes(draw_radius, study, fraction), about))
    panels.append(
        Panel(on_axes(draw_own_share, study), "Share of the gradient within the place's own cell, along depth")
    )
    if study.having("branch_receptive_radius"):
        about = "Radius that holds half of the gradient of branches before they are added, along depth"
        panels.append(Panel(on_axes(draw_radius, study, 0, "branch_receptive_radius"), about))
    return panels


def _receptive_table(study: Study) -> Table:
    body = []
    for _, profile in study.having("receptive_radius"):
        array = profile["receptive_radius"]
        resampling = study.resampling(len(array))
        rows = [resampling.mean(array.values[:, :, fraction]) for fraction in range(array.shape[2])]
        lines = [place_rows(profile, row, resampling) for row in rows]
        body += [[*first, *(line[3] for line in others)] for first, *others in zip(*lines, strict=True)]
    shares = study.having("receptive_radius")[0][1].data["fraction"].values
    head = ["checkpoint", "place", "depth", *(f"radius of {100 * share:.0f} %, px [95 %]" for share in shares)]
    return {"title": "Values", "head": head, "body": body}


RECEPTIVE = Chart(
    "receptive-fields",
    "Receptive fields",
    "Effective receptive fields",
    ("receptive_radius", "receptive_map"),
    "How strongly the central place of a state depends on each pixel of the image. Every map is divided by its own peak, all "
    "on one logarithmic scale. Below: the radius around the place that holds half and 95 % of the gradient, with 95 % "
    "intervals over images; dotted is what a gradient that is the same everywhere would have.",
    "Raghu et al. 2021, Fig 6; Luo et al. 2016",
    _receptive,
    _receptive_table,
    covers=(
        *("receptive_own_share", "uniform_radius", "branch_receptive_radius", "branch_receptive_own_share"),
        *("branch_receptive_map", "branch_uniform_radius"),
    ),
    names="kinds",
)

# -------------------------------------------------------------------------------------------------------- localisation


def example_tokens(grid: tuple[int, int]) -> dict[str, int]:
    """A corner, an edge and an interior token of a grid, by their place."""
    rows, columns = grid
    return {
        "corner": 0,
        "edge": columns // 2,
        "interior": (rows // 2) * columns + columns // 2,
    }


def localisation_top(study: Study) -> float:
    """The largest CKA among the maps that are drawn: the end of the colour scale of all."""
    shown = [profile["localisation_cka"].values[-1, token] for _, profile, token in _examples(study)]
    return max(float(np.nanmax(values)) if np.isfinite(values).any() else 0.0 for values in shown)


def _examples(study: Study) -> list[tuple[int, Profile, int]]:
    return [
        (number, profile, token)
        for number, profile in study.having("localisation_cka")
        for token in example_tokens(_grid(profile)).values()
    ]


def _grid(profile: Profile) -> tuple[int, int]:
    rows, columns = profile["localisation_cka"].attrs["grid"]
    return int(rows), int(columns)


def draw_token_map(ax: Axes, profile: Profile, token: int, top: float):
    """CKA of one token of the last block with every patch; the square marks the token's own place."""
    rows, columns = _grid(profile)
    values = profile["localisation_cka"].values[-1, token].astype(float).reshape(rows, columns)
    mesh = draw_map(ax, np.ma.masked_invalid(values), 0, top, "magma")
    corner = (token % columns - 0.5, token // columns - 0.5)
    ax.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="#7fe0c4", linewidth=1.4, clip_on=False))
    return mesh


def draw_tokens(figure: Figure, place: SubplotSpec, profile: Profile, top: float) -> None:
    """Maps of a corner, an edge and an interior token beside each other."""
    tokens = example_tokens(_grid(profile))
    grid = place.subgridspec(1, len(tokens) + 1, width_ratios=[*[1] * len(tokens), 0.07])
    for column, (name, token) in enumerate(tokens.items()):
        ax = figure.add_subplot(grid[column])
        mesh = draw_token_map(ax, profile, token, top)
        ax.set_title(name, loc="center", fontsize=7)
        if column == 0:
            block = str(profile.data["localisation_block"].values[-1])
            ax.set_ylabel(f"{fitting(profile.name, 1.0)}\n{block}", fontsize=6.5)
    figure.colorbar(mesh, cax=figure.add_subplot(grid[len(tokens)]), label="CKA")


def share_estimates(profile: Profile, key: str = "share") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(value, low, high) of a localisation summary, each (block, region): estimate ± 1.96 · standard error."""
    value, error = profile[f"localisation_{key}"].values, profile[f"localisation_{key}_error"].values
    return value, value - 1.96 * error, value + 1.96 * error


def draw_shares(ax: Axes, study: Study) -> None:
    """Share of tokens whose most similar patch is their own, by region and block, with its 95 % interval."""
    rows = [
        (n, p, block) for n, p in study.having("localisation_share") for block in range(len(p["localisation_share"]))
    ]
    regions = [str(region) for region in rows[0][1].data["localisation_region"].values]
    for place, (number, profile, block) in enumerate(rows):
        value, low, high = (100 * part[block] for part in share_estimates(profile))
        x = np.arange(len(regions)) + 0.6 * ((place + 0.5) / len(rows) - 0.5)
        colour = series(number)["color"]
        last = block == len(profile["localisation_share"]) - 1
        ax.vlines(x, np.clip(low, 0, 100), np.clip(high, 0, 100), color=colour, linewidth=1.2)
        ax.plot(
            x, value, series_mark(number), color=colour, markersize=4.5, markerfacecolor=colour if last else "none"
        )
        chance = 100 * np.asarray(profile["localisation_share"].attrs["chance"], float)
        ax.hlines(chance, np.arange(len(regions)) - 0.4, np.arange(len(regions)) + 0.4, color=INK, linewidth=0.7)
        name = str(profile.data["localisation_block"].values[block])
        numbers = zip(regions, value, low, high, strict=True)
        tell(ax, x, value, [f"{profile.name}, {name}, {r}: {interval_text(*rest)} %" for r, *rest in numbers])
    ax.set_xticks(range(len(regions)), [f"{region} tokens" for region in regions])
    ax.set(ylabel="tokens at their own patch (%)", xlim=(-0.5, len(regions) - 0.5))
    ax.set_ylim(bottom=0)
    ax.set_title("filled: last block; open: before it; —: chance")
    grid_lines(ax)


def _localisation(study: Study) -> list[Panel]:
    top, panels = localisation_top(study), []
    for _, profile in study.having("localisation_cka"):

        def fill(figure: Figure, place: SubplotSpec, profile: Profile = profile) -> None:
            draw_tokens(figure, place, profile, top)

        value, low, high = (100 * part[-1, 0] for part in share_estimates(profile))
        about = (
            f"CKA of a corner, an edge and an interior token of {profile.name} with every patch of the image; "
            f"{interval_text(value, low, high)} % of all tokens are most like their own patch"
        )
        panels.append(Panel(fill, about, 3.5, 1.5))
    about = "Share of tokens whose most similar patch is their own, by region"
    return [*panels, Panel(on_axes(draw_shares, study), about, 5.0, 2.4)]


def _localisation_table(study: Study) -> Table:
    body = []
    for _, profile in study.having("localisation_share"):
        for b, block in enumerate(profile.data["localisation_block"].values):
            for r, region in enumerate(profile.data["localisation_region"].values):
                words = []
                for key, factor in (("share", 100), ("distance", 1), ("margin", 1)):
                    value, low, high = (factor * float(part[b, r]) for part in share_estimates(profile, key))
                    words.append(interval_text(value, low, high))
                body.append([profile.name, str(block), str(region), *words])
    head = ["checkpoint", "block", "tokens", "at their own patch, %", "distance, px", "CKA margin"]
    return {"title": "Values, each with its 95 % interval", "head": head, "body": body}


LOCALISATION = Chart(
    "localisation",
    "Receptive fields",
    "Does a token still stand for its own patch?",
    ("localisation_cka",),
    "CKA over images of one token of the last block with the pixels of every patch; the square marks the token's own place. "
    "A bright spot in the square: the token has kept its place. One colour scale for all, from 0 to the largest value.",
    "Raghu et al. 2021, Fig 9",
    _localisation,
    _localisation_table,
    covers=tuple(
        f"localisation_{key}{end}" for key in ("share", "distance", "margin") for end in ("", "_error", "_without")
    ),
)

# -------------------------------------------------------------------------------------------------------------- probes


def probe_rows(profile: Profile, feature: str, study: Study, kind: str = "probe") -> np.ndarray:
    """Accuracies in percent of the probes on one feature by block, (1 + draws, block)."""
    place = [str(name) for name in profile.data["probe_feature"].values].index(feature)
    right = profile[f"{kind}_correct"].values[:, :, place].astype(float)
    return 100 * study.resampling(len(right)).mean(right)


def draw_probes(ax: Axes, study: Study, feature: str, kind: str = "probe") -> None:
    """Accuracy of linear probes by depth with its 95 % interval over test images; dotted is chance."""
    for number, profile in study.having(f"{kind}_correct"):
        if feature in profile.data["probe_feature"].values:
            curve = curve_of(probe_rows(profile, feature, study, kind))
            draw_curve(ax, profile, number, curve, axis="probe_block", marks=False, name=feature)
    about = study.having(f"{kind}_correct")[0][1][f"{kind}_correct"].attrs
    ax.axhline(100 * float(about["chance"]), color=INK, linestyle=":", linewidth=0.8)
    depth_axis(ax)
    ax.set(ylabel="accuracy of the probe (%)")
    ax.set_ylim(bottom=0)
    which = "logistic probe of the " if kind == "logistic" else ""
    ax.set_title(
        f"{which}{'mean of all patches' if feature == 'mean' else feature}, {about['shots']} images per class"
    )


def draw_token_probes(figure: Figure, place: SubplotSpec, study: Study) -> None:
    """Accuracy of probes on single tokens of the last block, as a map of the image's plane per checkpoint."""
    chosen = study.having("token_correct")
    maps = [token_map(profile) for _, profile in chosen]
    grid = place.subgridspec(1, len(maps) + 1, width_ratios=[*[1] * len(maps), 0.07])
    top = max(float(values.max()) for values in maps)
    for column, ((_, profile), values) in enumerate(zip(chosen, maps, strict=True)):
        ax = figure.add_subplot(grid[column])
        mesh = draw_map(ax, values, 0, top)
        ax.set_title(fitting(profile.name, 1.6), loc="center", fontsize=7)
    figure.colorbar(mesh, cax=figure.add_subplot(grid[len(maps)]), label="accuracy (%)")


def token_map(profile: Profile) -> np.ndarray:
    """Accuracy in percent of the probe on each spatial token, (row, column)."""
    names = [str(name) for name in profile.data["probe_token"].values]
    accuracy = 100 * profile["token_correct"].values.mean(0)
    places = {
        tuple(map(int, name.split(", "))): value for name, value in zip(names, accuracy, strict=True) if "," in name
    }
    found = np.zeros([1 + max(place[axis] for place in places) for axis in (0, 1)])
    for place, value in places.items():
        found[place] = value
    return found


def _probes(study: Study) -> list[Panel]:
    panels = []
    for kind in ("probe", "logistic"):
        features = dict.fromkeys(
            str(name)
            for _, profile in study.having(f"{kind}_correct")
            for name in profile.data["probe_feature"].values
        )
        for feature in features:
            about = f"Accuracy of linear probes of the {feature} by depth"
            panels.append(Panel(on_axes(draw_probes, study, feature, kind), about))
    if study.having("token_correct"):
        about = "Accuracy of probes on single tokens of the last block, by their place"
        width = 1.2 + 1.9 * len(study.having("token_correct"))
        panels.append(
            Panel(lambda figure, place: draw_token_probes(figure, place, study), about, min(PAGE, width), 2.2)
        )
    return panels


def _probes_table(study: Study) -> Table:
    body = []
    for _, profile in study.having("probe_correct"):
        resampling = study.resampling(len(profile["probe_correct"]))
        for feature in profile.data["probe_feature"].values:
            lines = place_rows(profile, probe_rows(profile, str(feature), study), resampling, "probe_block")
            body += [[line[0], str(feature), *line[1:]] for line in lines]
    head = ["checkpoint", "feature", "place", "depth", "accuracy, % [95 %]"]
    return {"title": "Values", "head": head, "body": body}


PROBES = Chart(
    "probes",
    "Probes",
    "What a linear probe can read off each block",
    ("probe_correct",),
    "Accuracy of a ridge regression from few labelled images per class, at the end of every block: where it rises, classes "
    "become linearly separable. Dotted is chance; bands are 95 % intervals over test images.",
    "Raghu et al. 2021, Fig 11 to 13; Dosovitskiy et al. 2020, section 4.1",
    _probes,
    _probes_table,
    covers=("probe_strength", "logistic_correct", "logistic_strength", "token_correct"),
)
CHARTS = (RECEPTIVE, LOCALISATION, PROBES)

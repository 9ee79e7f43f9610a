"""Loss geometry: the ends and the density of the Hessian's spectrum, and the loss along random directions."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec

from ..loss_geometry import hessian_statistics, rise
from ..profile import Profile
from .depth import Curve
from .interventions import draw_band
from .look import INK, fitting, grid_lines, interval_text, series, series_mark, tell
from .panels import Chart, Panel, Study, Table, on_axes


BINS = 36  # of the density
ENDS = {"top": "largest", "bottom": "smallest"}
STATISTICS = {
    "largest": "largest",
    "smallest": "smallest",
    "asymmetry": "−smallest / largest",
    "negative_proportion": "negative among the largest by magnitude (NEP)",
    "positive_mean": "mean of the positive ones (APE)",
}


def draw_eigenvalues(ax: Axes, study: Study) -> None:
    """The eigenvalues at both ends of every mini-batch, one row per checkpoint; the bar is the mean outermost one.

    Mini-batches lie above each other in their order. The scale is linear within ±1 and logarithmic outside.
    """
    chosen = study.having("hessian_top", "hessian_bottom")
    for row, (number, profile) in enumerate(reversed(chosen)):
        colour = series(number)["color"]
        for end, words in ENDS.items():
            values, residuals = profile[f"hessian_{end}"].values, profile[f"hessian_{end}_residual"].values
            heights = row + np.linspace(-0.15, 0.3, len(values))
            for rank in reversed(range(values.shape[1])):
                alpha = 0.9 if rank == 0 else 0.3
                ax.hlines(
                    heights,
                    values[:, rank] - residuals[:, rank],
                    values[:, rank] + residuals[:, rank],
                    color=colour,
                    alpha=0.3,
                )
                ax.plot(values[:, rank], heights, series_mark(number), color=colour, alpha=alpha, markersize=3)
                numbers = zip(values[:, rank], residuals[:, rank], strict=True)
                ordinal = words if rank == 0 else f"{words}, {rank + 1}."
                tell(
                    ax,
                    values[:, rank],
                    heights,
                    [
                        f"{profile.name}, mini-batch {b + 1}, {ordinal}: {v:.3g} ± {r:.1g}"
                        for b, (v, r) in enumerate(numbers)
                    ],
                )
            mean = hessian_statistics(profile)[words]
            ax.plot([mean.low, mean.high], [row - 0.3, row - 0.3], color=INK, linewidth=1.6, solid_capstyle="butt")
            ax.plot(mean.value, row - 0.3, "|", color=INK, markersize=7, markeredgewidth=1.4)
            tell(ax, [mean.value], [row - 0.3], [f"{profile.name}, mean {words}: {mean}"])
    ax.axvline(0, color=INK, linewidth=0.6)
    _signed_scale(ax)
    ax.set_yticks(range(len(chosen)), [fitting(profile.name, 1.3) for _, profile in reversed(chosen)])
    ax.tick_params(axis="y", length=0)
    ax.set(xlabel="eigenvalue (log scale beyond ±1)", ylim=(-0.55, len(chosen) - 0.45))
    ax.set_title("both ends, mini-batch by mini-batch; black: mean")
    grid_lines(ax, "x")


def _signed_scale(ax: Axes) -> None:
    """Linear within ±1, logarithmic outside, with plain numbers."""
    ax.margins(x=0.06)
    ax.set_xscale("symlog", linthresh=1, linscale=0.6)
    low, high = ax.get_xlim()
    powers = 10.0 ** np.arange(0, 9)
    step = 2 if max(-low, high) > 3e3 else 1
    ticks = np.array([*-powers[::-step], 0, *powers[::step]])
    ticks = ticks[(ticks >= low) & (ticks <= high)]
    ax.set_xticks(ticks, [f"{tick:g}".replace("-", "−") for tick in ticks])
    ax.minorticks_off()


def draw_density(ax: Axes, study: Study) -> None:
    """Share of all directions by their curvature, mean over mini-batches, in bins of equal width on the signed log scale."""
    chosen = study.having("hessian_node", "hessian_weight")
    edges = density_edges([profile for _, profile in chosen])
    for number, profile in chosen:
        shares = density(profile, edges)
        look = series(number)
        ax.stairs(shares, edges, fill=True, color=look["color"], alpha=0.15)
        ax.stairs(shares, edges, **look, linewidth=1.1)
        middle = (edges[1:] + edges[:-1]) / 2
        seen = shares > 0
        words = [f"{profile.name}, around {x:.3g}: {y:.2g}" for x, y in zip(middle[seen], shares[seen], strict=True)]
        tell(ax, middle[seen], shares[seen], words)
    ax.axvline(0, color=INK, linewidth=0.6)
    ax.set_yscale("log")
    ax.set_ylim(1e-7, 2)
    ax.yaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1,), numticks=9))
    ax.yaxis.set_major_formatter(power_text)
    ax.yaxis.set_minor_locator(mpl.ticker.NullLocator())
    _signed_scale(ax)
    ax.set(xlabel="eigenvalue (log scale beyond ±1)", ylabel="share of directions")
    ax.set_title("density of the whole spectrum")
    grid_lines(ax)


def power_text(value: float, place: float = 0) -> str:
    """``1``, ``0.1``, ``0.01``, and ``10⁻³`` on."""
    power = round(float(np.log10(value)))
    return (
        f"{value:g}" if -2 <= power <= 3 else "10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    )


def density_edges(profiles: Sequence[Profile]) -> np.ndarray:
    """Edges of bins of equal width in asinh of the eigenvalue, over all that was found."""
    nodes = np.concatenate([profile["hessian_node"].values.ravel() for profile in profiles])
    ends = np.arcsinh([np.nanmin(nodes), np.nanmax(nodes)])
    return np.sinh(np.linspace(ends[0] - 0.05, ends[1] + 0.05, BINS + 1))


def density(profile: Profile, edges: np.ndarray) -> np.ndarray:
    """Quadrature weights by bin, mean over mini-batches; they sum to one."""
    nodes, weights = profile["hessian_node"].values, profile["hessian_weight"].values
    known = np.isfinite(nodes)
    found, _ = np.histogram(nodes[known], edges, weights=weights[known])
    return found / len(nodes)


def _hessian(study: Study) -> list[Panel]:
    chosen = study.having("hessian_top", "hessian_bottom")
    found = [(profile.name, hessian_statistics(profile)) for _, profile in chosen]
    about = "; ".join(f"{name}: mean largest {e['largest']}, mean smallest {e['smallest']}" for name, e in found)
    height = 1.1 + 0.55 * len(chosen)
    panels = [Panel(on_axes(draw_eigenvalues, study), f"Eigenvalues of the Hessian. {about}", 4.0, max(height, 2.4))]
    if study.having("hessian_node"):
        panels.append(Panel(on_axes(draw_density, study), "Density of the Hessian's spectrum", 3.0, max(height, 2.4)))
    return panels


def _hessian_table(study: Study) -> Table:
    body = []
    for _, profile in study.having("hessian_top", "hessian_bottom"):
        found = hessian_statistics(profile)
        estimates = [str(found[name]) for name in STATISTICS]
        loss = f"{float(profile['hessian_loss'].mean()):.3g}" if "hessian_loss" in profile.data else ""
        body.append([profile.name, *estimates, str(found["largest"].n), loss])
    head = ["checkpoint", *(f"{words} [95 %]" for words in STATISTICS.values()), "mini-batches", "mean loss, nat"]
    return {"title": "Means over mini-batches", "head": head, "body": body}


HESSIAN = Chart(
    "hessian",
    "Loss geometry",
    "Curvature of the loss",
    ("hessian_top", "hessian_bottom"),
    "Eigenvalues of the Hessian at both ends, for every mini-batch: far to the right is sharp, left of zero is not convex. "
    "Strong marks are the outermost of each end, pale ones the next; the black bar is the mean with its 95 % interval over "
    "mini-batches.",
    "Park & Kim 2022, Fig 1c and 4; Ghorbani et al. 2019",
    _hessian,
    _hessian_table,
    covers=tuple(f"hessian_{key}" for key in ("top_residual", "bottom_residual", "node", "weight", "loss")),
)

# ---------------------------------------------------------------------------------------------------------- landscape

LEVELS = (0.25, 0.5, 1, 2, 4, 8, 16)  # nat, of the contours


def surface_range(study: Study) -> tuple[float, float]:
    """Smallest and largest mean loss on any of the surfaces: the colour scale of all."""
    means = [np.nanmean(profile["landscape_nll"].values, axis=0) for _, profile in study.having("landscape_nll")]
    return float(min(mean.min() for mean in means)), float(max(mean.max() for mean in means))


def draw_surface(ax: Axes, profile: Profile, ends: tuple[float, float]):
    """Mean loss on the grid of two directions, with contours at 1, 2, 4 ... nat; the cross is where training ended."""
    array = profile["landscape_nll"]
    x, y = array["landscape_x"].values, array["landscape_y"].values
    mean = np.nanmean(array.values, axis=0)
    half = (x[1] - x[0]) / 2
    extent = (x[0] - half, x[-1] + half, y[0] - half, y[-1] + half)
    norm = mpl.colors.LogNorm(max(ends[0], 1e-3), ends[1])
    mesh = ax.imshow(mean, cmap="viridis", norm=norm, extent=extent, origin="lower", interpolation="none")
    levels = [level for level in LEVELS if mean.min() < level < mean.max()]
    if levels:
        lines = ax.contour(x, y, mean, levels=levels, colors="white", linewidths=0.7)
        ax.clabel(lines, fmt="{:g}".format, fontsize=6)
    ax.plot(0, 0, "+", color="white", markersize=6, markeredgewidth=1.2)
    ax.set(xlabel="first direction", ylabel="second direction")
    ax.set_title(fitting(profile.name, 2.0))
    return mesh


def slice_of(profile: Profile, study: Study, name: str = "nll") -> Curve:
    """Loss above that of the trained weights along the first direction, with its interval over images."""
    found = rise(profile, name, draws=study.draws, seed=study.seed)
    middle = int(np.abs(found["landscape_y"].values).argmin())
    return found["rise"].values[middle], found["low"].values[middle], found["high"].values[middle]


def draw_slice(ax: Axes, study: Study, name: str = "nll") -> None:
    """Mean loss above that of the trained weights along the first direction with its 95 % interval over images."""
    for number, profile in study.having(f"landscape_{name}"):
        x = profile.data["landscape_x"].values
        draw_band(ax, x, slice_of(profile, study, name), number, [f"{profile.name} at {step:g}" for step in x])
    ax.axhline(0, color=INK, linewidth=0.6)
    ax.set(xlabel="step along the first direction", ylabel="loss above the trained (nat)")
    ax.set_title("published directions" if "paper" in name else "rise along the first direction")
    grid_lines(ax)


def draw_norm(ax: Axes, study: Study) -> None:
    """½ Σ w² along the first direction less its value at the trained weights: what weight decay alone would draw."""
    for number, profile in study.having("landscape_l2"):
        array = profile["landscape_l2"]
        x = array["landscape_x"].values
        line = array.values[int(np.abs(array["landscape_y"].values).argmin())]
        change = line - line[int(np.abs(x).argmin())]
        ax.plot(x, change, **series(number), marker=series_mark(number))
        tell(
            ax, x, change, [f"{profile.name} at {step:g}: {value:.3g}" for step, value in zip(x, change, strict=True)]
        )
    ax.set(xlabel="step along the first direction", ylabel="change of ½ Σ w²")
    ax.set_title("apart from it: the weights' norm")
    grid_lines(ax)


def _landscape(study: Study) -> list[Panel]:
    ends, panels = surface_range(study), []
    for _, profile in study.having("landscape_nll"):
        array = profile["landscape_nll"]
        if array.sizes["landscape_y"] < 2:
            continue

        def fill(figure: Figure, place: SubplotSpec, profile: Profile = profile) -> None:
            ax = figure.add_subplot(place)
            bar = figure.colorbar(draw_surface(ax, profile, ends), ax=ax, label="loss (nat)", aspect=25)
            bar.ax.yaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
            bar.ax.yaxis.set_major_formatter("{x:g}")
            bar.ax.yaxis.set_minor_locator(mpl.ticker.NullLocator())

        mean = np.nanmean(array.values, axis=0)
        centre = mean[mean.shape[0] // 2, mean.shape[1] // 2]
        about = (
            f"Loss of {profile.name} around its weights: {centre:.2g} nat there, up to {mean.max():.3g} on the grid"
        )
        panels.append(Panel(fill, about, 3.5, 2.9))
    panels.append(Panel(on_axes(draw_slice, study), "Loss along the first direction", 3.5, 2.5))
    if study.having("landscape_l2"):
        panels.append(Panel(on_axes(draw_norm, study), "Norm of the weights along the first direction", 3.5, 2.5))
    if study.having("landscape_paper_nll"):
        panels.append(
            Panel(
                on_axes(draw_slice, study, "paper_nll"),
                "Loss along the first of the published directions",
                3.5,
                2.5,
            )
        )
    return panels


def _landscape_table(study: Study) -> Table:
    body = []
    for _, profile in study.having("landscape_nll"):
        for step, *numbers in zip(profile.data["landscape_x"].values, *slice_of(profile, study), strict=True):
            body.append([profile.name, f"{step:g}".replace("-", "−"), interval_text(*numbers)])
    head = ["checkpoint", "step along the first direction", "loss above the trained, nat [95 %]"]
    return {"title": "Values", "head": head, "body": body}


LANDSCAPE = Chart(
    "landscape",
    "Loss geometry",
    "The loss around the trained weights",
    ("landscape_nll",),
    "Loss along two random directions, scaled filter by filter so that a step of 1 is as long as the weights; one colour "
    "scale for all surfaces, contours in nat, the cross is where training ended. The norm of the weights stands apart: it "
    "has nothing to do with data. Bands are 95 % intervals over images; other directions would give other surfaces.",
    "Li et al. 2018; Park & Kim 2022, Fig 1a",
    _landscape,
    _landscape_table,
    covers=("landscape_l2", "landscape_paper_nll", "landscape_paper_l2"),
)
CHARTS = (HESSIAN, LANDSCAPE)

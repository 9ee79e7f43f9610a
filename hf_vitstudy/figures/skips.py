"""Skip connections and single parts: what the skip carries on, and what accuracy a network has without one part."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes

from ..profile import Profile
from ..robustness import answers
from ..stats import percentile
from .depth import curve_of, depth_axis, draw_curve, log_axis, place_rows, places_of
from .look import FAINT, INK, KIND_MARKS, fitting, interval_text, series, spaced, tell
from .panels import Chart, Panel, Study, Table, on_axes


RATIOS = {"class_skip_ratio": "class token", "skip_ratio": "spatial tokens"}


def ratio_rows(profile: Profile, name: str, study: Study) -> np.ndarray:
    """Means over images, (1 + draws, branch)."""
    values = profile[name].transpose("image", "branch").values
    return study.resampling(len(values)).mean(values)


def draw_skip_ratio(ax: Axes, study: Study, name: str) -> None:
    """‖skip‖ / ‖branch‖ along depth on a logarithmic scale; above 1 a token is mostly carried on, below mostly replaced."""
    for number, profile in study.having(name):
        rows = ratio_rows(profile, name, study)
        draw_curve(ax, profile, number, curve_of(rows), axis="branch", name=RATIOS.get(name, spaced(name)))
        if "branch_projected" in profile.data:
            projected = profile.data["branch_projected"].values > 0
            _, depth, _ = places_of(profile, "branch")
            ax.plot(depth[projected], rows[0][projected], "o", color=INK, markerfacecolor="none", markersize=7)
    depth_axis(ax)
    if name.endswith("ratio"):
        ax.axhline(1, color=INK, linewidth=0.6)
        log_axis(ax)
        means = [ratio_rows(p, key, study)[0] for key in RATIOS for _, p in study.having(key)]
        known = np.concatenate([*means, [1]])
        ax.set(ylabel="‖skip‖ / ‖branch‖ (log scale)", ylim=(0.85 * np.nanmin(known), 1.15 * np.nanmax(known)))
    else:
        ax.axhline(0, color=INK, linewidth=0.6)
        ax.set(ylabel="cosine of skip and branch")
    ax.set_title("class token" if name.startswith("class") else "spatial tokens")


def _skip_ratio(study: Study) -> list[Panel]:
    names = ["class_skip_ratio", "skip_ratio", "class_skip_cosine", "skip_cosine"]
    panels = []
    for name in names:
        if study.having(name):
            about = f"{spaced(name)} of every branch along depth"
            panels.append(Panel(on_axes(draw_skip_ratio, study, name), about))
    return panels


def _skip_table(study: Study) -> Table:
    body = []
    for name, words in RATIOS.items():
        for _, profile in study.having(name):
            rows = ratio_rows(profile, name, study)
            lines = place_rows(profile, rows, study.resampling(len(profile[name])), "branch")
            body += [[line[0], words, *line[1:]] for line in lines]
    head = ["checkpoint", "tokens", "branch", "depth", "‖skip‖ / ‖branch‖ [95 %]"]
    return {"title": "Values", "head": head, "body": body}


SKIP_RATIO = Chart(
    "skip-ratio",
    "Skip connections",
    "What the skip carries on and what the branch adds",
    ("skip_ratio",),
    "Norm of what the skip connection carries over the norm of what the branch adds: above 1 a token is mostly carried on, "
    "below mostly replaced. A ring marks skips with a projection, which carry nothing on unchanged.",
    "Raghu et al. 2021, Fig 7",
    _skip_ratio,
    _skip_table,
    covers=(
        "class_skip_ratio",
        "skip_cosine",
        "class_skip_cosine",
        "branch_depth",
        "branch_stage",
        "branch_projected",
    ),
    names="kinds",
)

# ------------------------------------------------------------------------------------------------------------- lesions

LESION_MARKS = KIND_MARKS | {"convolution": "D", "pool": "P"}
LESION_WORDS = {
    "attention": "attention",
    "mlp": "MLP",
    "conv": "convolutional branch",
    "block": "whole block",
    "convolution": "single convolution",
    "pool": "pooling",
}


def lesion_rows(profile: Profile, name: str, study: Study) -> tuple[np.ndarray, np.ndarray]:
    """Accuracies in percent without each part (1 + draws, part), and of the whole network (1 + draws,)."""
    without, whole = answers(profile, f"{name}_correct"), answers(profile, f"{name}_intact_correct")
    resampling = study.resampling(len(without))
    return 100 * resampling.mean(without), 100 * resampling.mean(whole)


def draw_lesions(ax: Axes, profile: Profile, number: int, name: str, study: Study) -> None:
    """Accuracy without each part against its depth; the dashed line is the whole network, thin lines part the stages."""
    rows, whole = lesion_rows(profile, name, study)
    low, high = percentile(rows)
    parts, depth, kinds = places_of(profile, name)
    colour = series(number)["color"]
    ax.axhline(whole[0], color=INK, linestyle="--", linewidth=0.9)
    bottom, top = (float(end) for end in percentile(whole))
    ax.axhspan(bottom, top, color=FAINT, alpha=0.45, linewidth=0)
    present = [kind for kind in LESION_MARKS if kind in kinds]
    for place, kind in enumerate(present):
        here = np.flatnonzero(kinds == kind)
        x = depth[here] + 0.008 * (place - (len(present) - 1) / 2)
        filled = "none" if kind in ("attention", "convolution") else colour
        ax.plot(x, rows[0][here], color=colour, linewidth=0.5, alpha=0.6)
        ax.vlines(x, low[here], high[here], color=colour, linewidth=0.9)
        label = LESION_WORDS.get(kind, kind)
        ax.plot(x, rows[0][here], LESION_MARKS[kind], color=colour, markerfacecolor=filled, linestyle="", label=label)
        numbers = zip(parts[here], rows[0][here], low[here], high[here], strict=True)
        tell(ax, x, rows[0][here], [f"{profile.name} without {part}: {interval_text(*n)} %" for part, *n in numbers])
    for edge in stage_lines(profile, name, depth):
        ax.axvline(edge, color=INK, linewidth=0.5, linestyle=(0, (1, 3)))
    depth_axis(ax)
    ax.set(ylabel="accuracy without the part (%)")
    ax.set_ylim(bottom=0)
    ax.set_title(fitting(profile.name, 2.8), pad=15)
    ax.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 0.98), ncols=3, fontsize=6.5, handletextpad=0.1, columnspacing=1
    )


def stage_lines(profile: Profile, name: str, depth: np.ndarray) -> list[float]:
    """Depths half-way between the last part of a stage and the first of the next."""
    if f"{name}_stage" not in profile.data:
        return []
    stages = profile.data[f"{name}_stage"].values
    order = np.unique(stages)
    return [
        float(depth[stages == before].max() + depth[stages == after].min()) / 2 for before, after in pairwise(order)
    ]


def _lesions(study: Study, name: str) -> list[Panel]:
    panels = []
    for number, profile in study.having(f"{name}_correct"):
        rows, whole = lesion_rows(profile, name, study)
        worst = int(rows[0].argmin())
        about = (
            f"Accuracy of {profile.name} without each part; {whole[0]:.1f} % as a whole, least without "
            f"{profile.data[name].values[worst]}: {rows[0][worst]:.1f} %"
        )
        panels.append(Panel(on_axes(draw_lesions, profile, number, name, study), about, 3.5, 2.7))
    return panels


def _lesion_table(study: Study, name: str) -> Table:
    body = []
    for _, profile in study.having(f"{name}_correct"):
        rows, _ = lesion_rows(profile, name, study)
        body += place_rows(profile, rows, study.resampling(len(profile[f"{name}_correct"])), name)
    return {"title": "Values", "head": ["checkpoint", "without", "depth", "accuracy, % [95 %]"], "body": body}


def _lesion_chart(file: str, name: str, title: str, read: str, source: str) -> Chart:
    more = ("nll", "intact_correct", "intact_nll", "depth", "stage", "position", "projected", "kind")
    return Chart(
        file,
        "Interventions",
        title,
        (f"{name}_correct", f"{name}_intact_correct"),
        read
        + " Dashed: the whole network on the same images, with its interval as a band; thin vertical lines part the stages; "
        "bars are 95 % intervals over images.",
        source,
        lambda study: _lesions(study, name),
        lambda study: _lesion_table(study, name),
        covers=tuple(f"{name}_{key}" for key in more),
        names="none",
    )


LESIONS = _lesion_chart(
    "lesions",
    "lesion",
    "Lesions: the network without one part",
    "Accuracy when one branch is replaced by zero, or one convolution by the identity: the lower, the more the network "
    "relies on that part.",
    "Park & Kim 2022, Fig 10b",
)
SKIP_REMOVAL = _lesion_chart(
    "skip-removal",
    "skip_removal",
    "The network without one skip connection",
    "Accuracy when one skip is taken out of the trained network. A weaker test than the published one, which trains again.",
    "after Raghu et al. 2021, Fig 8, without retraining",
)
CHARTS = (SKIP_RATIO, LESIONS, SKIP_REMOVAL)

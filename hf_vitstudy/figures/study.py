"""Many checkpoints in one picture, from the result of a study alone: verdicts, effects, and which checkpoints are alike."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ..claims import Verdict
from ..disk import explained
from ..errors import StudyError
from .look import FAINT, INK, PAGE, SERIES, VERDICT_LOOK, fitting, new_figure, style


MOST_COLUMNS = 36  # beyond, choices are counted instead of shown
MOST_LEAVES = 80  # beyond, the nearest checkpoints are drawn as one leaf
ROW = 0.185  # inches
HATCHES = {
    Verdict.SUPPORTED: "",
    Verdict.CONTRADICTED: "/////",
    Verdict.NEGLIGIBLE: ".....",
    Verdict.UNDECIDED: "",
}
NETWORKS = {"vit": (SERIES[0], "o"), "resnet": (SERIES[1], "s"), "hybrid": (SERIES[2], "^"), "other": (INK, "D")}
NETWORK_WORDS = {"vit": "ViT", "resnet": "ResNet", "hybrid": "both kinds of blocks", "other": "other"}

ALONE: dict[str, Any] = {"marker": "_", "color": INK, "linestyle": ""}  # one of a kind: no interval over checkpoints
DOT: dict[str, Any] = {"marker": ".", "color": "#9a9a9f", "linestyle": ""}

Result = dict[str, Any]


def overview_figure(result: Result) -> Figure:
    """Verdict of every claim on every choice of checkpoints, and over all of them.

    Claims on one checkpoint stand above those on several. More choices than a page is wide are counted: the length of a bar
    is the share of choices with that verdict.
    """
    parts = [part for part in (_part(result, several=False), _part(result, several=True)) if part[0]]
    if not parts:
        raise StudyError("no claim could be judged in this study; its result says why under 'claims'")
    heights = [ROW * len(claims) + _head(result, columns) for claims, columns in parts]
    figure = new_figure(PAGE, sum(heights) + 0.35)
    axes = figure.subplots(len(parts), 1, squeeze=False, height_ratios=[len(claims) for claims, _ in parts])[:, 0]
    for ax, (claims, columns) in zip(axes, parts, strict=True):
        draw_verdicts(ax, result, claims, columns)
    _draw_legend(figure, *_verdict_handles(bars=any(len(columns) > MOST_COLUMNS for _, columns in parts)))
    return figure


def _part(result: Result, several: bool) -> tuple[list[dict[str, Any]], list[tuple[int, ...]]]:
    """Claims on one or on several checkpoints that have an agreement, and the choices they are judged on."""
    claims = [claim for claim in result["claims"] if "agreement" in claim and (len(claim["roles"]) > 1) == several]
    wanted = {claim["id"] for claim in claims}
    columns = {
        tuple(each["checkpoints"]) for each in result["judgements"] if each["claim"] in wanted and each["estimate"]
    }
    order = list(NETWORKS)
    known = result["checkpoints"]
    return claims, sorted(columns, key=lambda c: [(order.index(known[i]["network"]), known[i]["name"]) for i in c])


def _head(result: Result, columns: Sequence[tuple[int, ...]]) -> float:
    """Inches above a grid for the names of its columns."""
    if len(columns) > MOST_COLUMNS:
        return 0.45
    return 0.3 + 0.055 * max(len(_column_name(result, choice)) for choice in columns)


def _column_name(result: Result, choice: tuple[int, ...]) -> str:
    return " × ".join(
        fitting(result["checkpoints"][number]["name"], 1.15 if len(choice) > 1 else 1.6) for number in choice
    )


def draw_verdicts(
    ax: Axes, result: Result, claims: Sequence[dict[str, Any]], columns: Sequence[tuple[int, ...]]
) -> None:
    """One row per claim: a mark per choice of checkpoints, or bars where there are too many, and the verdict over all."""
    rows = {claim["id"]: len(claims) - 1 - place for place, claim in enumerate(claims)}
    counted = len(columns) > MOST_COLUMNS
    width = 12.0 if counted else float(max(len(columns), 6))
    if counted:
        for claim in claims:
            _draw_bar(ax, rows[claim["id"]], claim["agreement"]["counts"], width)
    else:
        _draw_marks(ax, result, rows, columns)
    for claim in claims:
        _draw_over_all(ax, width + 0.8, rows[claim["id"]], claim["agreement"])
    labels = [f"{textwrap.shorten(claim['text'], 66, placeholder=' …')}  {claim['id']}" for claim in claims]
    ax.set_yticks(list(rows.values()), labels, fontsize=6.5)
    ticks = [] if counted else list(range(len(columns)))
    names = [] if counted else [_column_name(result, choice) for choice in columns]
    ax.set_xticks([*ticks, width + 0.8], [*names, "all"], rotation=90, fontsize=6.5)
    ax.xaxis.tick_top()
    if counted:
        ax.set_xlabel("share of a claim's choices of checkpoints", loc="left")
    ax.axvline(width, color=INK, linewidth=0.6)
    ax.set(xlim=(-0.6, width + 1.6), ylim=(-0.6, len(claims) - 0.4))
    ax.tick_params(length=0)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    for row in range(0, len(claims), 2):
        ax.axhspan(row - 0.5, row + 0.5, color=FAINT, alpha=0.25, linewidth=0, zorder=0)


def _draw_marks(ax: Axes, result: Result, rows: dict[str, int], columns: Sequence[tuple[int, ...]]) -> None:
    place = {choice: number for number, choice in enumerate(columns)}
    for each in result["judgements"]:
        choice = tuple(each["checkpoints"])
        if each["claim"] in rows and choice in place and each["estimate"]:
            _draw_mark(ax, place[choice], rows[each["claim"]], each["verdict"])


def _draw_mark(ax: Axes, x: float, y: float, verdict: str, size: float = 4.2) -> None:
    colour, marker = VERDICT_LOOK[Verdict(verdict)]
    ax.plot(x, y, **_mark(Verdict(verdict), colour, marker), markersize=size)


def _draw_over_all(ax: Axes, x: float, y: float, agreement: dict[str, Any]) -> None:
    if agreement["estimate"]["low"] is None:
        ax.plot(x, y, **ALONE, markersize=5)
    else:
        _draw_mark(ax, x, y, agreement["verdict"], size=6.5)


def _mark(verdict: Verdict, colour: str, marker: str) -> dict[str, Any]:
    """Undecided is hollow: in print it must not weigh as much as a verdict."""
    face = "none" if verdict is Verdict.UNDECIDED else colour
    return {"marker": marker, "color": colour, "markerfacecolor": face, "markeredgewidth": 0.8, "linestyle": ""}


def _draw_bar(ax: Axes, row: int, counts: dict[str, int], width: float) -> None:
    total, left = sum(counts.values()), -0.5
    for verdict, (colour, _) in VERDICT_LOOK.items():
        share = counts[str(verdict)] / total * width
        ax.barh(row, share, 0.62, left, **_filling(verdict, colour))
        left += share


def _filling(verdict: Verdict, colour: str) -> dict[str, Any]:
    face = "none" if verdict is Verdict.UNDECIDED else colour
    edge = "white" if HATCHES[verdict] else colour
    return {"facecolor": face, "edgecolor": edge, "linewidth": 0.6, "hatch": HATCHES[verdict]}


def _verdict_handles(bars: bool = False) -> tuple[list[Any], list[str]]:
    """Handles and labels; with `bars` each shows the filling of its bar too."""
    marks = [
        Line2D([], [], **_mark(verdict, colour, marker), markersize=5)
        for verdict, (colour, marker) in VERDICT_LOOK.items()
    ]
    fillings = [Patch(**_filling(verdict, colour)) for verdict, (colour, _) in VERDICT_LOOK.items()]
    handles: list[Any] = list(zip(marks, fillings, strict=True)) if bars else marks
    handles.append(Line2D([], [], **ALONE, markersize=5))
    return handles, [*map(str, VERDICT_LOOK), "no interval over checkpoints"]


def _draw_legend(figure: Figure, handles: list[Any], labels: list[str]) -> None:
    beside = {tuple: HandlerTuple(ndivide=None, pad=0.6)}
    figure.legend(
        handles, labels, handler_map=beside, loc="outside lower left", ncols=6, handletextpad=0.4, columnspacing=1.2
    )


# ---------------------------------------------------------------------------------------------------------- effects


def effects_figure(result: Result) -> Figure:
    """Effects in margins: a dot per choice of checkpoints, and the mean with its interval over checkpoints, if there is one."""
    claims = [claim for claim in result["claims"] if "agreement" in claim]
    if not claims:
        raise StudyError("no claim could be judged in this study; its result says why under 'claims'")
    figure = new_figure(PAGE, 0.27 * len(claims) + 0.9)
    draw_effects(figure.subplots(), result, claims)
    handles, labels = _verdict_handles()
    handles[-1] = Line2D([], [], **ALONE | {"marker": "|"}, markersize=7)
    _draw_legend(figure, [*handles, Line2D([], [], **DOT)], [*labels, "one choice"])
    return figure


def draw_effects(ax: Axes, result: Result, claims: Sequence[dict[str, Any]]) -> None:
    """A forest plot; the shaded band is too small to matter. The scale is linear within one margin, logarithmic outside."""
    effects: dict[str, list[float]] = {}
    for each in result["judgements"]:
        if each["estimate"] and each["estimate"]["value"] is not None:
            effects.setdefault(each["claim"], []).append(each["estimate"]["value"])
    ax.axvspan(-1, 1, color=FAINT, alpha=0.35, linewidth=0)
    ax.axvline(0, color=INK, linewidth=0.6)
    reach = 2.0
    for place, claim in enumerate(reversed(claims)):
        values = np.array(effects[claim["id"]]) / claim["margin"]
        ends = _draw_effect(ax, place, claim, values)
        reach = max(reach, 1.4 * float(np.abs([*values, *ends]).max()))
    labels = [f"{textwrap.fill(claim['text'], 60)} ({claim['id']})" for claim in reversed(claims)]
    ax.set_yticks(range(len(claims)), labels, fontsize=6.5)
    ax.set_xscale("symlog", linthresh=1, linscale=0.8)
    ticks = [-100, -10, -1, 0, 1, 10, 100]
    ax.set_xticks(ticks, [str(tick).replace("-", "−") for tick in ticks])
    ax.minorticks_off()
    ax.set(xlim=(-reach, reach), ylim=(-0.7, len(claims) - 0.3), xlabel="effect in units of the margin (log scale)")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def _draw_effect(ax: Axes, place: int, claim: dict[str, Any], values: np.ndarray) -> list[float]:
    """One row; returns the ends of its interval."""
    agreement, margin = claim["agreement"], claim["margin"]
    estimate, verdict = agreement["estimate"], Verdict(agreement["verdict"])
    spread = np.linspace(-0.24, 0.24, len(values)) if len(values) > 1 else np.zeros(1)
    ax.plot(values, place + spread, **DOT, markersize=2.5, zorder=1)
    colour, marker = VERDICT_LOOK[verdict]
    ends = [end / margin for end in (estimate["low"], estimate["high"]) if end is not None]
    ax.plot(ends, [place] * len(ends), color=colour, linewidth=1.6)
    mark = _mark(verdict, colour, marker) if ends else ALONE | {"marker": "|"}
    ax.plot(estimate["value"] / margin, place, **mark, markersize=5 if ends else 9)
    ax.annotate(
        agreement["over"], (1.01, place), xycoords=("axes fraction", "data"), fontsize=6, va="center", color=INK
    )
    return ends


# ------------------------------------------------------------------------------------------------------- dendrogram


def dendrogram_figure(result: Result, group: int = 0) -> Figure:
    """Which checkpoints are alike: average linkage of 1 - mean CKA at equal relative depths.

    Args:
        result: of a study.
        group: which of its image sets.
    """
    if group >= len(result["groups"]):
        raise StudyError(
            "no two checkpoints of this study have Gram blocks of the same images, so none can be grouped"
        )
    leaves = min(len(result["groups"][group]["checkpoints"]), MOST_LEAVES)
    figure = new_figure(PAGE, 0.16 * leaves + 0.8)
    ax = figure.subplots()
    draw_dendrogram(ax, result, group)
    return figure


def draw_dendrogram(ax: Axes, result: Result, group: int = 0) -> None:
    """The tree from right to left, its leaves marked by kind of network, hollow where it is not trained."""
    from scipy.cluster.hierarchy import dendrogram  # half a second to import

    found = result["groups"][group]
    tree = dendrogram(np.array(found["linkage"]), p=MOST_LEAVES, truncate_mode="lastp", no_plot=True)
    for depth, where in zip(tree["dcoord"], tree["icoord"], strict=True):
        ax.plot(depth, (np.array(where) - 5) / 10, color=INK, linewidth=0.9, solid_joinstyle="miter")
    names = []
    for place, leaf in enumerate(tree["leaves"]):
        inside = _below(found, leaf)
        first = result["checkpoints"][inside[0]]
        names.append(fitting(first["name"], 2.6) + (f" and {len(inside) - 1} more" if len(inside) > 1 else ""))
        colour, marker = NETWORKS[first["network"]]
        face = colour if first["state"] == "trained" else "white"
        ax.plot(0, place, marker, color=colour, markerfacecolor=face, markersize=4.5, clip_on=False, zorder=3)
    ax.set_yticks(range(len(names)), names, fontsize=6.5)
    ax.yaxis.tick_right()
    ax.set(xlabel="1 − mean CKA at equal relative depths", ylim=(-0.7, len(names) - 0.3))
    ax.set_xlim(max(float(np.max(found["linkage"], axis=0)[2]) * 1.04, 1e-3), 0)
    ax.tick_params(axis="y", length=0, pad=7)
    for side in ("left", "right"):
        ax.spines[side].set_visible(False)
    present = dict.fromkeys(result["checkpoints"][number]["network"] for number in found["checkpoints"])
    handles = [
        Line2D([], [], color=NETWORKS[kind][0], marker=NETWORKS[kind][1], linestyle="", label=NETWORK_WORDS[kind])
        for kind in NETWORKS
        if kind in present
    ]
    if any(result["checkpoints"][number]["state"] != "trained" for number in found["checkpoints"]):
        handles.append(
            Line2D([], [], color=INK, marker="o", markerfacecolor="white", linestyle="", label="not (fully) trained")
        )
    ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=5, handletextpad=0.3, columnspacing=1.2)


def _below(group: dict[str, Any], leaf: int) -> list[int]:
    """Checkpoints below a node of scipy's numbering."""
    count = len(group["checkpoints"])
    if leaf < count:
        return [group["checkpoints"][leaf]]
    first, second = (int(node) for node in group["linkage"][leaf - count][:2])
    return _below(group, first) + _below(group, second)


# ----------------------------------------------------------------------------------------------------------- saving


def save_study_figures(
    folder: str | os.PathLike, result: Result, formats: Sequence[str] = ("png", "svg")
) -> list[Path]:
    """Write every figure of a study that its result allows: ``verdicts``, ``effects``, ``likeness`` per image set."""
    folder = Path(folder)
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    made = {}
    with style():
        if any("agreement" in claim for claim in result["claims"]):
            made = {"verdicts": overview_figure(result), "effects": effects_figure(result)}
        for group in range(len(result["groups"])):
            made["likeness" + (f"-{group + 1}" if group else "")] = dendrogram_figure(result, group)
        paths = [(figure, folder / f"{name}.{kind}") for name, figure in made.items() for kind in formats]
        for figure, path in paths:
            figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return [path for _, path in paths]

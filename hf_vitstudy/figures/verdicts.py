"""What the published claims come to on these checkpoints, at a glance."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..claims import Judgement
from ..errors import StudyError
from .look import FAINT, INK, PAGE, VERDICT_LOOK, fitting, new_figure


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
    count = Counter(judgement.claim.id for judgement in shown)
    labels = [_claim_label(judgement, count[judgement.claim.id] > 1) for judgement in reversed(shown)]
    ax.set_yticks(range(len(shown)), labels)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def _ends(judgement: Judgement) -> list[float]:
    assert judgement.estimate is not None
    return [end for end in (judgement.estimate.low, judgement.estimate.high) if np.isfinite(end)]


def _claim_label(judgement: Judgement, several: bool) -> str:
    """The claim, and the checkpoints it is judged on where there are several choices."""
    if several:
        names = fitting(" and ".join(judgement.checkpoints), 3.2)
        return f"{textwrap.shorten(judgement.claim.text, 50, placeholder=' …')} ({judgement.claim.id})\n{names}"
    return f"{textwrap.fill(judgement.claim.text, 48)} ({judgement.claim.id})"


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

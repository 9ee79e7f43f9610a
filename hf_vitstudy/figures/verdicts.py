"""What the published claims come to on these checkpoints, at a glance."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..claims import Claim, Judgement
from ..errors import StudyError
from .look import FAINT, INK, PAGE, VERDICT_LOOK, new_figure


ROW = 0.3  # inches, for two lines of a claim
LABEL = 58  # characters in a line of a claim's text


def draw_claims(ax: Axes, judgements: Sequence[Judgement]) -> None:
    """Effects in units of their margins with 95 % intervals, one row per claim; the shaded band is too small to matter.

    A claim judged on several choices of checkpoints has a mark for each in its row, in the order of the judgements; which is
    which stands in tables. Effects beyond 10 margins are drawn closer, on a scale that is linear within one margin and
    logarithmic outside. An effect without an interval is a mark alone.
    """
    rows = _rows(judgements)
    ax.axvspan(-1, 1, color=FAINT, alpha=0.45, linewidth=0)
    ax.axvline(0, color=INK, linewidth=0.6)
    for place, of_claim in enumerate(reversed(rows)):
        spread = 0.35 * np.linspace(1, -1, len(of_claim)) if len(of_claim) > 1 else [0.0]
        for shift, judgement in zip(spread, of_claim, strict=True):
            _draw_effect(ax, place + shift, judgement, small=len(of_claim) > 2)
    shown = [judgement for of_claim in rows for judgement in of_claim]
    ax.set_xscale("symlog", linthresh=1, linscale=0.8)
    reach = max([2.0, *(abs(end / j.claim.margin) * 1.4 for j in shown for end in _ends(j))])
    powers = [power for power in range(9) if 10**power <= reach]
    ticks = [*(-(10**power) for power in reversed(powers)), 0, *(10**power for power in powers)]
    ax.set_xticks(ticks, [*(f"−{_power(power)}" for power in reversed(powers)), "0", *map(_power, powers)])
    ax.grid(axis="y", color=FAINT, linewidth=0.4, alpha=0.7)
    ax.set_axisbelow(True)
    ax.set(xlim=(-reach, reach), ylim=(-0.7, len(rows) - 0.3), xlabel="effect in units of the margin (log scale)")
    ax.minorticks_off()
    ax.set_yticks(range(len(rows)), [_claim_label(of_claim[0].claim) for of_claim in reversed(rows)])
    ax.tick_params(axis="y", length=0, labelsize=6.5)
    ax.spines["left"].set_visible(False)


def _power(power: int) -> str:
    """10 to a power, short."""
    return f"{10**power}" if power < 3 else f"$10^{{{power}}}$"


def _rows(judgements: Sequence[Judgement]) -> list[list[Judgement]]:
    """Judgements with an effect, those of one claim together."""
    found: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        if judgement.estimate is not None and np.isfinite(judgement.estimate.value):
            found.setdefault(judgement.claim.id, []).append(judgement)
    return list(found.values())


def _draw_effect(ax: Axes, place: float, judgement: Judgement, *, small: bool) -> None:
    estimate, margin = judgement.estimate, judgement.claim.margin
    assert estimate is not None
    colour, marker = VERDICT_LOOK[judgement.verdict]
    width, size = (0.8, 3.0) if small else (1.6, 5.0)
    ax.plot([estimate.low / margin, estimate.high / margin], [place, place], color=colour, linewidth=width)
    ax.plot(estimate.value / margin, place, marker, color=colour, markersize=size)


def _ends(judgement: Judgement) -> list[float]:
    assert judgement.estimate is not None
    ends = (judgement.estimate.value, judgement.estimate.low, judgement.estimate.high)
    return [end for end in ends if np.isfinite(end)]


def _claim_label(claim: Claim) -> str:
    """The claim in two lines at most."""
    text = textwrap.shorten(claim.text, 2 * LABEL - len(claim.id) - 6, placeholder=" …")
    return textwrap.fill(f"{text} ({claim.id})", LABEL)


def claims_height(judgements: Sequence[Judgement]) -> float:
    """Inches that `draw_claims` needs."""
    return ROW * len(_rows(judgements)) + 0.6


def claims_figure(judgements: Sequence[Judgement]) -> Figure:
    """A forest plot of all claims that could be judged."""
    if not _rows(judgements):
        raise StudyError("no claim could be judged on these profiles; see `vitstudy judge` for the reasons")
    figure = new_figure(PAGE, claims_height(judgements) + 0.3)
    ax = figure.subplots()
    draw_claims(ax, judgements)
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", label=str(verdict))
        for verdict, (colour, marker) in VERDICT_LOOK.items()
    ]
    ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, columnspacing=1.2, handletextpad=0.3)
    return figure

"""Every figure there is, in the order of the report: `save_figures` and the report draw the same list."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from ..disk import explained
from ..profile import Profile
from . import attention, depth, interventions, loss, skips, tokens
from .look import style
from .measures import CAVEAT_STRIP, measure_charts
from .other import other_chart, unknown
from .panels import Chart, Study
from .similarity import LOCAL_HEADS, cka_charts
from .verdicts import claims_figure


CHARTS: tuple[Chart, ...] = (
    CAVEAT_STRIP,
    LOCAL_HEADS,
    *depth.CHARTS,
    *attention.CHARTS,
    *tokens.CHARTS,
    *skips.CHARTS,
    *interventions.CHARTS,
    *loss.CHARTS,
)
SECTIONS = (
    "Similarity",
    "Frequencies and variance",
    "Attention",
    "Receptive fields",
    "Skip connections",
    "Probes",
    "Interventions",
    "Loss geometry",
    "Other measurements",
)


def all_charts(study: Study) -> list[Chart]:
    """The charts these profiles allow, section by section; what no chart knows comes last."""
    by_pair = cka_charts(study) + measure_charts(study)
    charts = by_pair + [chart for chart in CHARTS if chart.applies(study)]
    others = [other_chart(study, name, shape) for name, shape in unknown(study, (*CHARTS, *by_pair)).items()]
    return sorted(charts + others, key=lambda chart: SECTIONS.index(chart.section))


def save_figures(
    folder: str | os.PathLike,
    *profiles: Profile,
    draws: int = 1000,
    seed: int = 0,
    formats: Sequence[str] = ("png", "svg"),
) -> list[Path]:
    """Write every figure that these profiles allow.

    Args:
        folder: made where it does not exist.
        profiles: one or more, of the same images. CKA maps are drawn for every pair.
        draws, seed: of the bootstrap behind the intervals.
        formats: file formats of matplotlib, such as ``pdf``.

    Returns:
        The files, in order.
    """
    folder = Path(folder)
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with style():
        for name, figure in all_figures(Study(profiles, draws, seed)):
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # laid out once: the same in every format
            for form in formats:
                path = folder / f"{name}.{form}"
                figure.savefig(path, metadata={"Date": None} if form == "svg" else None)
                paths.append(path)
    return paths


def all_figures(study: Study) -> Iterator[tuple[str, Figure]]:
    """(file name, figure) of all charts and of the claims."""
    for chart in all_charts(study):
        yield from chart.drawn(study)
    if any(judgement.estimate for judgement in study.judgements):
        yield "claims", claims_figure(study.judgements)

"""What a figure is made of: panels, and a chart that says what they need, show and come from.

Figures on paper and charts of the report are the same panels: laid out on a page by `sheet`, or one by one in HTML.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D

from ..claims import Judgement, judge_choices
from ..comparison import Comparison, compare
from ..errors import StudyError
from ..profile import Profile
from ..stats import Resampling
from .look import PAGE, kind_handles, name_handles, new_figure


Table = dict[str, Any]
"""``title``, ``head`` (names of columns) and ``body`` (rows of texts)."""


@dataclass(frozen=True)
class Study:
    """Profiles of the same images and the draws that all their intervals share."""

    profiles: tuple[Profile, ...]
    draws: int = 1000
    seed: int = 0
    _kept: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` gives, made at the first call: panels, tables and sentences share the dear ones."""
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """One per pair; a single profile is compared with itself."""
        return [compare(*pair, draws=self.draws, seed=self.seed) for pair in pairs(self.profiles)]

    @cached_property
    def judged(self) -> list[tuple[tuple[int, ...], Judgement]]:
        """Every judgement with the numbers of the profiles that it is about."""
        return judge_choices(*self.profiles, draws=self.draws, seed=self.seed)

    @property
    def judgements(self) -> list[Judgement]:
        return [judgement for _, judgement in self.judged]

    def resampling(self, n: int) -> Resampling:
        return Resampling(n, self.draws, self.seed)

    def having(self, *names: str) -> list[tuple[int, Profile]]:
        """The profiles that hold all these variables, with their number, which gives them their colour."""
        return [
            (number, profile)
            for number, profile in enumerate(self.profiles)
            if all(name in profile.data for name in names)
        ]

    def pairs_having(self, *names: str) -> list[Comparison]:
        """Comparisons of two different profiles that both hold all these variables."""
        return [
            comparison
            for comparison in self.comparisons
            if comparison.a is not comparison.b
            and all(name in profile.data for profile in (comparison.a, comparison.b) for name in names)
        ]


def pairs(profiles: Sequence[Profile]) -> list[tuple[Profile, Profile]]:
    """All pairs of different profiles; a single profile is paired with itself."""
    if len(profiles) == 1:
        return [(profiles[0], profiles[0])]
    return [(first, last) for i, first in enumerate(profiles) for last in profiles[i + 1 :]]


@dataclass(frozen=True)
class Panel:
    """One picture.

    Attributes:
        draw: fills a place of a figure.
        about: what it shows with its main numbers, for those who cannot see it.
        width, height: inches; in a row of the page they set the proportions.
        titles: text of the cells of the group ``cells``, row by row, shown when the pointer rests on them.
        form: ``panel`` grows with the page, ``map`` keeps its size, ``page`` has a row of its own.
    """

    draw: Callable[[Figure, SubplotSpec], Any]
    about: str
    width: float = 3.5
    height: float = 2.5
    titles: list[str] | None = None
    form: str = "panel"

    def figure(self) -> Figure:
        """The panel alone."""
        figure = new_figure(self.width, self.height)
        self.draw(figure, figure.add_gridspec(1, 1)[0])
        return figure


def on_axes(draw: Callable[..., Any], *args: Any, **options: Any) -> Callable[[Figure, SubplotSpec], Any]:
    """A function that fills axes, as one that fills a place of a figure."""

    def fill(figure: Figure, place: SubplotSpec) -> None:
        draw(figure.add_subplot(place), *args, **options)

    return fill


@dataclass(frozen=True)
class Chart:
    """A figure of the paper and a chart of the report.

    Attributes:
        name: of the file.
        section, title: where it stands in the report.
        needs: variables; at least one profile must hold all of them.
        read: how to read it, in a sentence or two.
        source: which figure of which paper it follows.
        panels: a study to its panels; an empty list where nothing can be drawn after all.
        table: the numbers behind it.
        covers: further variables it shows, which `other` charts then leave alone.
        names: what the legend lists: ``none``, ``series`` (checkpoints with their markers), or ``kinds`` (checkpoints, and the
            markers of sublayers).
        figures: (file name, figure) on paper, where it is not the panels on a `sheet`.
    """

    name: str
    section: str
    title: str
    needs: tuple[str, ...]
    read: str
    source: str
    panels: Callable[[Study], list[Panel]]
    table: Callable[[Study], Table | None] | None = None
    covers: tuple[str, ...] = ()
    names: str = "series"
    figures: Callable[[Study], list[tuple[str, Figure]]] | None = field(default=None, compare=False)

    def applies(self, study: Study) -> bool:
        return bool(study.having(*self.needs))

    def drawn(self, study: Study) -> list[tuple[str, Figure]]:
        """(file name, figure) on paper; empty where the profiles lack what it needs."""
        if not self.applies(study):
            return []
        if self.figures is not None:
            return self.figures(study)
        panels = self.panels(study)
        return [(self.name, sheet(panels, study.profiles, self.names))] if panels else []

    def figure(self, study: Study) -> Figure:
        """The figure on paper.

        Raises:
            StudyError: no profile holds what it needs.
        """
        drawn = self.drawn(study)
        if not drawn:
            absent = [str(p.provenance.get("absent", {}).get(n)) for p in study.profiles for n in self.needs]
            why = "; ".join(dict.fromkeys(text for text in absent if text != "None"))
            raise StudyError(
                f"{self.name} needs {', '.join(self.needs)}, which no profile holds{f' ({why})' if why else ''}; "
                "measure again with that analysis"
            )
        return drawn[0][1]


def rows_of(panels: Sequence[Panel], width: float = PAGE) -> list[list[Panel]]:
    """Panels in rows no wider than the page; a row is closed when the next panel would not fit."""
    rows: list[list[Panel]] = []
    for panel in panels:
        if rows and sum(p.width for p in rows[-1]) + panel.width <= width + 0.3:
            rows[-1].append(panel)
        else:
            rows.append([panel])
    return rows


def sheet(panels: Sequence[Panel], profiles: Sequence[Profile], names: str = "series") -> Figure:
    """Panels on a page, in rows, lettered, under a legend of the checkpoints."""
    rows = rows_of(panels)
    handles = legend_handles(profiles, names)
    heights = [max(panel.height for panel in row) for row in rows]
    width = min(PAGE, max(sum(panel.width for panel in row) for row in rows))
    columns = 3 if width > 5 else 2
    lines = -(-len(handles) // columns)
    figure = new_figure(width, sum(heights) + 0.17 * lines)
    if handles:
        figure.legend(handles=handles, loc="outside upper center", ncols=columns, columnspacing=1.4)
    alike = len({panel.width for panel in panels}) == 1
    outer = figure.add_gridspec(len(heights), len(rows[0]) if alike else 1, height_ratios=heights)
    letters = iter("abcdefghijklmnopqrstuvwxyz" if len(panels) > 1 else "")
    for number, row in enumerate(rows):
        ratios = [panel.width for panel in row]
        spare = width - sum(ratios)
        ratios += [spare] if spare > 0.5 else []
        inner = None if alike else outer[number].subgridspec(1, len(ratios), width_ratios=ratios)
        for column, panel in enumerate(row):
            before = len(figure.axes)
            panel.draw(figure, outer[number, column] if inner is None else inner[column])
            letter(figure.axes[before], next(letters, ""))
    return figure


def legend_handles(profiles: Sequence[Profile], names: str) -> list[Line2D]:
    """What the legend lists; a single checkpoint is named only where its marks are."""
    if names == "none" or (names == "series" and len(profiles) == 1):
        return []
    return name_handles(profiles, marks=names == "series") + (kind_handles(profiles) if names == "kinds" else [])


def letter(ax: Axes, text: str) -> None:
    """A bold letter at the upper left corner, outside of title and tick labels."""
    if text:
        ax.annotate(
            text,
            (0, 1),
            xytext=(-5, 6),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="right",
            va="baseline",
            fontweight="bold",
        )

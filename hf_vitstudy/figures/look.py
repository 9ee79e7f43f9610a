"""The look that all figures share: colours, marks, sizes, and text that shows when the pointer rests on a point."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..claims import Verdict
from ..profile import Profile


PAGE = 7.0  # inches, the text width of the usual two-column paper
INK, FAINT = "#1a1a1b", "#c9c9cc"
SERIES = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#e69f00",
)  # Okabe & Ito 2008: safe for colour-blind eyes
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", "-", "--")
SERIES_MARKS = ("o", "s", "^", "D", "v", "P")
VERDICT_LOOK = {
    Verdict.SUPPORTED: ("#1a7f4b", "^"),
    Verdict.CONTRADICTED: ("#b3261f", "v"),
    Verdict.NEGLIGIBLE: ("#5f6368", "s"),
    Verdict.UNDECIDED: ("#8a5a00", "D"),
}
KIND_MARKS = {"attention": "v", "mlp": "^", "conv": "s", "block": "o", "stem": "x", "embedding": "x"}
KIND_WORDS = {
    "attention": "after attention",
    "mlp": "after MLP",
    "conv": "after convolutional block",
    "block": "after block",
    "stem": "stem or embedding",
    "embedding": "stem or embedding",
}
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "text.parse_math": False,  # a checkpoint's name is text, whatever signs it holds
    "figure.dpi": 100,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "vitstudy",  # the same figure is the same file
}


@contextmanager
def style() -> Iterator[None]:
    """The look of all figures, for drawing into axes of one's own."""
    with mpl.rc_context(STYLE):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in inches, outside pyplot: nothing to close."""
    return Figure(figsize=(width, height), layout="constrained")


def series(number: int) -> dict[str, Any]:
    """Colour and dash of the profile with this number."""
    return {"color": SERIES[number % len(SERIES)], "linestyle": DASHES[number % len(DASHES)]}


def series_mark(number: int) -> str:
    """Marker of the profile with this number, where markers do not tell sublayers apart."""
    return SERIES_MARKS[number % len(SERIES_MARKS)]


def depth_colours(count: int) -> np.ndarray:
    """From violet to yellow-orange: neither end vanishes on a white or on a black page."""
    return mpl.colormaps["plasma"](np.linspace(0.2, 0.85, count))


def grid_lines(ax: Axes, axis: Any = "y") -> None:
    ax.grid(axis=axis, color=FAINT, linewidth=0.5, alpha=0.6)


def fitting(name: str, inches: float) -> str:
    """The name, shortened in the middle where it is longer than the axis it names."""
    most = max(12, int(inches / 0.062))
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-(most // 2 - 1) :]}"


def spaced(name: str) -> str:
    """A variable's or a corruption's name as words."""
    return name.replace("_", " ")


def interval_text(value: float, low: float, high: float, digits: int = 3) -> str:
    """``0.42 [0.40, 0.44]``."""
    words = [f"{number:#.{digits}g}".removesuffix(".").replace("-", "−") for number in (value, low, high)]
    return words[0] if np.isnan(low) and np.isnan(high) else f"{words[0]} [{words[1]}, {words[2]}]"


# -------------------------------------------------------------------------------------------------- text on points


class Told(Artist):
    """Points whose text shows in the report when the pointer rests on them; in print they are nothing.

    Attributes:
        points: (n, 2) in the axes' data.
        texts: one per point.
    """

    def __init__(self, points: np.ndarray, texts: Sequence[str]) -> None:
        super().__init__()
        self.points, self.texts = points, list(texts)
        self.set_in_layout(False)

    def draw(self, renderer: Any) -> None:
        """Nothing is drawn."""

    def places(self) -> np.ndarray:
        """Where the points are in the figure, in pixels from the lower left."""
        axes = self.axes
        assert isinstance(axes, Axes)
        return axes.transData.transform(self.points)


def tell(ax: Axes, x: Iterable[float], y: Iterable[float], texts: Sequence[str]) -> None:
    """Attach a text to every point that has a place on the axes."""
    points = np.column_stack([np.asarray(list(x), float), np.asarray(list(y), float)])
    seen = np.isfinite(points).all(1)
    ax.add_artist(Told(points[seen], [text for text, kept in zip(texts, seen, strict=True) if kept]))


# ----------------------------------------------------------------------------------------------------------- legends


def name_handles(profiles: Sequence[Profile], marks: bool = False) -> list[Line2D]:
    """One line per checkpoint, with its marker where `marks`."""
    return [
        Line2D([], [], **series(i), marker=series_mark(i) if marks else "", label=profile.name)
        for i, profile in enumerate(profiles)
    ]


def kind_handles(profiles: Sequence[Profile]) -> list[Line2D]:
    """The marks of sublayers that these checkpoints have."""
    present = [str(kind) for profile in profiles for kind in profile.data["kind"].values]
    words = {KIND_WORDS[kind]: kind for kind in KIND_MARKS if kind in present}
    return [
        Line2D(
            [],
            [],
            color=INK,
            marker=KIND_MARKS[kind],
            linestyle="",
            markerfacecolor="none" if kind == "attention" else INK,
            label=text,
        )
        for text, kind in words.items()
    ]


def draw_names(ax: Axes, profiles: Sequence[Profile], kinds: bool = True) -> None:
    """A legend of checkpoints and, where `kinds`, of the marks of sublayers, alone on its axes."""
    handles = name_handles(profiles, marks=not kinds) + (kind_handles(profiles) if kinds else [])
    ax.axis("off")
    ax.legend(handles=handles, loc="center", ncols=min(4, len(handles)), columnspacing=1.4)

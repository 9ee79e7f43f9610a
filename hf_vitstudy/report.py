"""One HTML file that answers how checkpoints differ inside: the interactive comparison, and all of it as a still page.

The still page stands in the file, verdicts first, then figures, methods and provenance last, and shows where no script runs.
Where one does, `viewer`'s renderer takes its place with the data of every pair of the checkpoints. It keeps figures and
provenance as parts of its own, and folds away figures of what it shows itself.

The file asks for nothing from outside, follows the reader's light or dark mode and fits a phone. In a notebook the object
returned by `make_report` shows itself, in a frame of its own.
"""

from __future__ import annotations

import html
import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from . import figures, viewer
from .claims import DOMINANT, Control, Judgement, Verdict, dominated
from .comparison import Comparison
from .disk import explained, require_name
from .errors import StudyError
from .figures.interventions import corruption_kinds, crossings
from .figures.similarity import cell_text
from .profile import Profile
from .robustness import mean_corruption_accuracy
from .stats import Resampling
from .study import Settings, study_of


VERDICT_ICONS = {
    Verdict.SUPPORTED: "▲",
    Verdict.CONTRADICTED: "▼",
    Verdict.NEGLIGIBLE: "■",
    Verdict.UNDECIDED: "◆",
    Verdict.NOT_APPLICABLE: "○",
}
MARK_SIGNS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚"}
DOUBLED = ("variance", "heads", "heads-windows")
KIND_SIGNS = {"attention": "▽", "mlp": "▲", "conv": "■", "block": "●", "stem": "×", "embedding": "×"}


@dataclass(frozen=True)
class Report:
    """A finished report.

    Attributes:
        title: its heading.
        html: the whole page.
        still: the part of it that needs no script, without its style.
        judgements: what it says about the claims.
        findings: what it says in plain words.
    """

    title: str
    html: str
    still: str
    judgements: list[Judgement]
    findings: list[str]

    @property
    def fragment(self) -> str:
        """What can stand inside another page, any number of times: the whole page in a frame, so that no name, style or script
        of either reaches the other. The frame has no origin. The words beside it are for places that show no frames."""
        return _template("frame.html").render(title=self.title, findings=self.findings, page=_in_attribute(self.html))

    def save(self, path: str | os.PathLike) -> Path:
        """Write the page, replacing an older one only when the new one is complete.

        Raises:
            StudyError: no file can be written there, or what is there is no regular file.
        """
        path = Path(path)
        require_name(path, "an HTML file", replaced=True)
        fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                fresh.write_text(self.html, encoding="utf-8")
                fresh.replace(path)
            finally:
                fresh.unlink(missing_ok=True)
        return path

    def _repr_html_(self) -> str:
        return self.fragment


def make_report(*profiles: Profile, draws: int = 1000, seed: int = 0) -> Report:
    """Compare and judge profiles of the same images and put all into one page.

    Args:
        profiles: one or more; with several, every pair gets its CKA maps.
        draws, seed: of the bootstrap behind the intervals.

    Raises:
        StudyError: no profile, or profiles of different images.
    """
    if not profiles:
        raise StudyError("a report needs at least one profile, got none")
    study = figures.Study(profiles, draws, seed)
    judgements = study.judgements
    findings = [str(sentence) for sentence in _findings(study)]
    title = _title(profiles)
    with figures.style():
        still = _still(study, title, findings)
    return Report(title, _page(study, title, findings, still), still, judgements, findings)


def write_report(*profiles: Profile, out: str | os.PathLike, draws: int = 1000, seed: int = 0) -> Path:
    """`make_report`, saved as one HTML file; returns its path."""
    require_name(Path(out), "an HTML file", replaced=True)
    return make_report(*profiles, draws=draws, seed=seed).save(out)


def _page(study: figures.Study, title: str, findings: Sequence[str], still: str) -> str:
    """The renderer with the data of all checkpoints and pairs around the still page."""
    settings = Settings(draws=study.draws, seed=study.seed)
    source = viewer.Source.in_memory(study_of(study.profiles, study.judged, title, settings), study.profiles)
    data = viewer.study_data(source) | {"words": list(findings[1:]), "warnings": _warnings(study)}
    return viewer.page(data, dict(viewer.parts_of(source, data)), still=still, css=_template("report.css").render())


def _in_attribute(text: str) -> str:
    """HTML as the value of an attribute in single quotes, of which a page with JSON has few."""
    return text.replace("&", "&amp;").replace("'", "&#39;")


def _still(study: figures.Study, title: str, findings: Sequence[str]) -> str:
    """The page without a script."""
    profiles, judgements = study.profiles, study.judgements
    svg = Drawer()
    charts = [_drawn(svg, chart, study) for chart in figures.all_charts(study)]
    return _template("report.html").render(
        title=title,
        profiles=profiles,
        looks=[_look(number) for number in range(len(profiles))],
        findings=findings,
        warnings=_warnings(study),
        judgements=[_row(judgement) for judgement in judgements],
        glance=_claims_panel(svg, judgements) if any(j.estimate for j in judgements) else "",
        sections=_sections([chart for chart in charts if chart.panels]),
        methods=_methods(profiles, study.draws, study.seed),
        provenance=[_provenance(profile) for profile in profiles],
        absent=_absent(profiles),
        commands=[_command(profile) for profile in profiles],
    )


def _warnings(study: figures.Study) -> list[str]:
    return [text for profile in study.profiles for text in dominated(profile)]


def _template(name: str):
    import jinja2

    loader = jinja2.PackageLoader("hf_vitstudy", "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(name)


def _title(profiles: Sequence[Profile]) -> str:
    if len(profiles) == 1:
        return f"Inside {profiles[0].name}"
    if len(profiles) == 2:
        return f"How do {profiles[0].name} and {profiles[1].name} differ inside?"
    return f"How do {len(profiles)} checkpoints differ inside?"


# ------------------------------------------------------------------------------------------------ findings in words


def _findings(study: figures.Study) -> Iterator[str]:
    yield _verdict_counts(study.judgements)
    for comparison in study.comparisons:
        if comparison.a is not comparison.b:
            yield from _similarity_sentences(comparison)
            yield from _frequency_sentences(comparison)
    yield from _noise_sentences(study)
    for profile in study.profiles:
        yield from _head_sentences(profile)
        yield from _accuracy_sentences(profile, study.comparisons[0].resampling)
        yield from _corruption_sentences(profile, study)


def _verdict_counts(judgements: Sequence[Judgement]) -> str:
    judged = [judgement for judgement in judgements if judgement.estimate is not None]
    counts = {verdict: sum(j.verdict == verdict for j in judged) for verdict in Verdict}
    parts = [f"{count} {verdict}" for verdict, count in counts.items() if count]
    if not judged:
        return "None of the published claims applies to these profiles."
    return f"{len(judged)} published {_plural('claim', len(judged))} judged on these checkpoints: {', '.join(parts)}."


def _plural(word: str, count: int) -> str:
    return word if count == 1 else word + "s"


def _similarity_sentences(comparison: Comparison) -> Iterator[str]:
    a, b = comparison.a, comparison.b
    if not all("gram_flatten" in profile.data for profile in (a, b)):
        return
    maps = comparison.cka("ab")
    cells = maps["cka"].values
    if np.isnan(cells).all():
        return
    row, column = divmod(int(np.nanargmax(cells)), cells.shape[1])
    yield (
        f"Most alike are {maps['row'].values[row]} of {a.name} and {maps['column'].values[column]} of {b.name}: "
        f"CKA {cell_text(maps, row, column)}; their last places: {cell_text(maps, -1, -1)}."
    )


def _frequency_sentences(comparison: Comparison) -> Iterator[str]:
    a, b = comparison.a, comparison.b
    if not all("fourier" in profile.data for profile in (a, b)):
        return
    end = comparison.difference("fourier", np.array([1.0])).isel(depth=0, frequency=-1)
    value, low, high = (float(end[name]) for name in ("difference", "low", "high"))
    if np.isnan(value):
        return
    word = "more" if value > 0 else "less"
    if low <= 0 <= high:
        word = "neither more nor less"
    yield (
        f"In their last maps {a.name} holds {word} high frequencies than {b.name}: difference of Δ log amplitude "
        f"{value:.2f} [{low:.2f}, {high:.2f}]."
    )


def _head_sentences(profile: Profile) -> Iterator[str]:
    if "attention_distance" not in profile.data:
        return
    distances = profile["attention_distance"].mean("image").transpose("layer", "head").values
    low, high = distances[:2], distances[-2:]
    yield (
        f"Heads of {profile.name} look {np.nanmin(low):.0f} to {np.nanmax(low):.0f} px far in the two lowest layers and "
        f"{np.nanmin(high):.0f} to {np.nanmax(high):.0f} px in the two highest (uniform attention: "
        f"{float(profile['attention_distance'].attrs['uniform']):.0f} px)."
    )


def _accuracy_sentences(profile: Profile, study: Resampling) -> Iterator[str]:
    if "label" not in profile.data:
        return
    labels = profile["label"].values
    known = labels >= 0
    if known.sum() < 2:
        return
    right = (profile["top5"].values[known, 0] == labels[known]).astype(float)
    resampling = Resampling(len(right), study.draws, study.seed)  # images without a label are not drawn
    percent = resampling.estimate(100 * resampling.mean(right))
    yield (
        f"{profile.name} classifies {percent.value:.1f} % [{percent.low:.1f} %, {percent.high:.1f} %] of {len(right):,} "
        "labelled images correctly."
    )


def _noise_sentences(study: figures.Study) -> Iterator[str]:
    for a, b, where in crossings(study):
        at = where.frequency
        yield (
            f"Noise of one frequency costs {a.name} more accuracy below {at.value:.2f}π [{at.low:.2f}π, {at.high:.2f}π] and "
            f"{b.name} more above."
        )


def _corruption_sentences(profile: Profile, study: figures.Study) -> Iterator[str]:
    if "corruption_correct" not in profile.data or not corruption_kinds(profile):
        return
    kinds = corruption_kinds(profile)
    mean = mean_corruption_accuracy(profile, kinds, draws=study.draws, seed=study.seed)["mean"]
    value, low, high = (100 * number for number in (mean.value, mean.low, mean.high))
    yield (
        f"{profile.name} classifies {value:.1f} % [{low:.1f} %, {high:.1f} %] of corrupted images correctly, mean over "
        f"{len(kinds)} {_plural('kind', len(kinds))}."
    )


# ------------------------------------------------------------------------------------------------------------- claims


def _row(judgement: Judgement) -> dict[str, Any]:
    claim, estimate = judgement.claim, judgement.estimate
    return {
        "claim": claim,
        "verdict": str(judgement.verdict),
        "icon": VERDICT_ICONS[judgement.verdict],
        "css": str(judgement.verdict).replace(" ", "-"),
        "effect": _signed(estimate.value) if estimate else "—",
        "interval": f"[{_signed(estimate.low)}, {_signed(estimate.high)}]" if estimate else "",
        "n": f"{estimate.n:,}" if estimate else "",
        "alone": str(judgement.alone) if estimate and judgement.alone != judgement.verdict else "",
        "p": ""
        if np.isnan(judgement.p_holm)
        else "< 0.001"
        if judgement.p_holm < 0.001
        else f"= {judgement.p_holm:.3f}",
        "controls": [_control(control) for control in judgement.controls],
        "checkpoints": " and ".join(judgement.checkpoints),
        "note": judgement.note,
        "warnings": judgement.warnings,
    }


def _control(control: Control) -> dict[str, str]:
    ends = "" if np.isnan(control.low) else f" [{_signed(control.low)}, {_signed(control.high)}]"
    return {"name": control.name, "shown": _signed(control.value) + ends, "text": control.text}


def _signed(value: float) -> str:
    return "undefined" if np.isnan(value) else f"{value:+#.3g}".removesuffix(".").replace("-", "−")


# ------------------------------------------------------------------------------------------------------------- charts


@dataclass(frozen=True)
class Drawn:
    """A chart as the page shows it: panels stand side by side where there is room, one under the other on a phone."""

    chart: figures.Chart
    panels: list[str]
    table: dict[str, Any] | None
    marks: str

    @property
    def doubled(self) -> bool:
        """Whether the interactive part shows as much."""
        return self.chart.name.startswith("cka") or self.chart.name in DOUBLED


def _drawn(svg: Drawer, chart: figures.Chart, study: figures.Study) -> Drawn:
    panels = [
        svg.inline(panel.figure(), panel.about, form=panel.form, titles=panel.titles) for panel in chart.panels(study)
    ]
    table = chart.table(study) if chart.table and panels else None
    return Drawn(
        chart, panels, table if table and table["body"] else None, _marks(study) if chart.names == "kinds" else ""
    )


def _marks(study: figures.Study) -> str:
    """What the markers of the sublayers these networks have mean."""
    present = [str(kind) for profile in study.profiles for kind in profile.data["kind"].values]
    words = {f"{KIND_SIGNS[kind]} {figures.KIND_WORDS[kind]}": None for kind in KIND_SIGNS if kind in present}
    return "Marks: " + ", ".join(words) + "."


def _sections(charts: Sequence[Drawn]) -> list[dict[str, Any]]:
    """Charts by section, with the names that the page's links go to."""
    found = []
    for title in dict.fromkeys(drawn.chart.section for drawn in charts):
        own = [drawn for drawn in charts if drawn.chart.section == title]
        found.append({"title": title, "id": "vitstudy-" + re.sub(r"\W+", "-", title.lower()), "charts": own})
    return found


def _look(number: int) -> dict[str, Any]:
    """How a checkpoint's lines look, for the legends of the page."""
    dash = ["solid", "dashed", "dotted"][number % 3]
    mark = figures.series_mark(number)
    return {"colour": f"var(--series{number % len(figures.SERIES)})", "dash": dash, "mark": MARK_SIGNS[mark]}


def _claims_panel(svg: Drawer, judgements: Sequence[Judgement]) -> str:
    figure = figures.new_figure(6.0, figures.claims_height(judgements))
    figures.draw_claims(figure.subplots(), judgements)
    about = f"Forest plot of effects in units of their margins. {_verdict_counts(judgements)}"
    return svg.inline(figure, about, form="wide")


# ------------------------------------------------------------------------------------------------------ SVG into HTML


class Drawer:
    """Turns figures into inline SVG whose colours follow the page's light or dark mode."""

    def __init__(self) -> None:
        self._count = 0

    def inline(self, figure: Figure, about: str, *, form: str = "panel", titles: list[str] | None = None) -> str:
        """One ``<svg>`` element.

        Args:
            about: what a screen reader says.
            form: ``panel`` grows with the page, ``map`` keeps its size so that cells stay equal, ``page`` has a row of its own,
                ``wide`` is scrolled on a phone rather than made small.
            titles: text shown when the pointer rests on the cells of the group ``cells``, row by row.
        """
        self._count += 1
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        text = buffer.getvalue()
        text = text[text.index("<svg") :]
        text = _slim(text)
        width = float(re.search(r'viewBox="0 0 ([\d.]+)', text)[1])  # type: ignore[index]
        label = html.escape(about, quote=True)
        opening = f'<svg class="{form}" role="img" aria-label="{label}" style="--w:{width * 4 / 3:.0f}px" viewBox'
        text = re.sub(r"<svg.*?viewBox", lambda _: opening, text, count=1, flags=re.DOTALL)
        text = _cells_as_rectangles(text, titles)
        text = text.replace("</svg>", _told(figure) + "</svg>")
        return _themed(_own_ids(text, f"f{self._count}-"))


def _slim(text: str) -> str:
    """Half the size: no metadata, comments, fonts (the page has its own), nor digits past a hundredth of a pixel."""
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r' font-family: [^;"]+;| transform="rotate\(-0 [^)]*\)"', "", text)
    text = re.sub(r'<g id="(?!cells")[^"]*">', "<g>", text)
    places = r' (?:d|x|y|points)="[^"]*"'
    text = re.sub(places, lambda match: re.sub(r"(\.\d\d)\d+", r"\1", match[0]), text)
    return re.sub(r"\n\s*", "\n", text)


def _told(figure: Figure) -> str:
    """Invisible circles over the points that have a text, in the units of the SVG, which are points of 1/72 inch."""
    circles = []
    scale, top = 72 / figure.dpi, 72 * figure.get_figheight()
    for told in figure.findobj(figures.Told):
        for (x, y), text in zip(scale * told.places(), told.texts, strict=True):
            circles.append(
                f'<circle cx="{x:.1f}" cy="{top - y:.1f}" r="5"><title>{html.escape(text)}</title></circle>'
            )
    return f'<g fill="transparent">{"".join(circles)}</g>' if circles else ""


def _cells_as_rectangles(text: str, titles: list[str] | None) -> str:
    """The group ``cells`` as rectangles, a third the size of matplotlib's paths, each with its title."""
    group = re.search(r'<g id="cells">(.*?)</g>', text, flags=re.DOTALL)
    if group is None:
        return text
    cells = re.findall(
        r'<path d="M ([\d.]+) ([\d.]+) \nL ([\d.]+) [\d.]+ \nL [\d.]+ ([\d.]+) .*?fill: (#\w+)', group[1], re.DOTALL
    )
    parts = []
    for place, (left, bottom, right, top, fill) in enumerate(cells):
        title = f"<title>{html.escape(titles[place])}</title>" if titles else ""
        size = f'width="{float(right) - float(left):.2f}" height="{float(bottom) - float(top):.2f}"'
        parts.append(f'<rect x="{float(left):.2f}" y="{float(top):.2f}" {size} fill="{fill}">{title}</rect>')
    return f'{text[: group.start()]}<g shape-rendering="crispEdges">{"".join(parts)}</g>{text[group.end() :]}'


def _own_ids(text: str, prefix: str) -> str:
    """Names that stay unique when several figures share a page."""
    return re.sub(r'(\bid="|href="#|url\(#)', lambda match: match[1] + prefix, text)


def _themed(text: str) -> str:
    """Ink and the checkpoints' colours as CSS variables, with the printed colour as fallback."""
    names = {figures.INK: "ink", figures.FAINT: "faint"} | {c: f"series{i}" for i, c in enumerate(figures.SERIES)}
    names |= {colour: str(verdict) for verdict, (colour, _) in figures.VERDICT_LOOK.items()}
    for colour, name in names.items():
        text = re.sub(f"(fill|stroke): {colour}", rf"\1: var(--{name}, {colour})", text)
    return text


# ---------------------------------------------------------------------------------------------- methods and provenance


def _methods(profiles: Sequence[Profile], draws: int, seed: int) -> dict[str, Any]:
    """What the methods section speaks of: what was measured, with which numbers, and what was not and why."""
    measured = {str(name) for profile in profiles for name in profile.data.data_vars}
    blocks = profiles[0].batch_sizes() if "gram_flatten" in profiles[0].data else np.zeros(0, int)
    return {
        "measured": measured,
        "n": profiles[0].n_images,
        "draws": draws,
        "seed": seed,
        "batches": len(blocks),
        "batch_size": int(blocks.max(initial=0)),
        "dominant": f"{100 * DOMINANT:.0f} %",
        "settings": _settings(profiles),
    }


PLAIN = ("unit", "source", "long_name")
LONGEST_SETTING = 80  # characters


def _settings(profiles: Sequence[Profile]) -> list[tuple[str, str]]:
    """What a measurement says of how it was made, such as the strength of a noise: (measurements, setting)."""
    found: dict[str, list[str]] = {}
    for profile in profiles:
        for name, array in profile.data.data_vars.items():
            words = [
                f"{str(key).replace('_', ' ')} {value}"
                for key, value in array.attrs.items()
                if key not in PLAIN and isinstance(value, str | int | bool) and len(str(value)) <= LONGEST_SETTING
            ]
            if words:
                found.setdefault("; ".join(words), []).append(str(name).replace("_", " "))
    return [(", ".join(dict.fromkeys(names)), setting) for setting, names in found.items()]


def _absent(profiles: Sequence[Profile]) -> list[tuple[str, str, str]]:
    """(checkpoint, measurement, why) of what was asked for and could not be measured."""
    return [
        (profile.name, str(name).replace("_", " "), str(why))
        for profile in profiles
        for name, why in profile.provenance.get("absent", {}).items()
    ]


def _provenance(profile: Profile) -> dict[str, str]:
    about, images, versions = (profile.provenance.get(key, {}) for key in ("checkpoint", "images", "versions"))
    size = about.get("image_size") or ["?", "?"]
    return {
        "checkpoint": profile.name,
        "architecture": str(about.get("architecture", "")),
        "revision": str(about.get("revision") or "local folder"),
        "sha256 of the weights": str(about.get("weights_sha256", "")),
        "parameters": f"{about.get('parameters', 0):,}",
        "read at": f"{profile.data.sizes['block']} places",
        "images": f"{images.get('name')}, split {images.get('split') or 'all'}",
        "number and seed": f"{profile.n_images:,}, {images.get('seed')}",
        "data revision": str(images.get("revision") or "local files"),
        "sha256 of the images": profile.images_sha256,
        "shown at": f"{size[0]} × {size[1]} px, {about.get('dtype', '?')}, attention {about.get('attention') or '—'}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "measured": _measured(profile),
    }


def _measured(profile: Profile) -> str:
    """When, on what, and how long it took."""
    about = profile.provenance.get("measurement", {})
    parts = [str(profile.provenance.get("created", ""))]
    if "device" in about:
        parts.append(f"on {about['device']}, batches of {about.get('batch_size', '?')}")
    if "seconds" in about:
        parts.append(f"all measurements in {about['seconds']:,} s")
    return ", ".join(filter(None, parts))


def _command(profile: Profile) -> str:
    """How to measure the profile again; local folders and files are named by their last part."""
    about, images = profile.provenance["checkpoint"], profile.provenance["images"]
    revision = f"@{about['revision']}" if about.get("revision") else ""
    words = ["vitstudy measure", profile.name + revision, "--images", str(images.get("name"))]
    for option in ("split", "revision", "n", "seed"):
        if images.get(option) is not None:
            words += [f"--{option}", str(images[option])]
    return " ".join(words)

"""One HTML file that answers how checkpoints differ inside: verdicts first, then figures, methods and provenance last.

The file asks for nothing from outside, follows the reader's light or dark mode and fits a phone. In a notebook the object
returned by `make_report` shows itself.
"""

from __future__ import annotations

import html
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from . import figures
from .claims import DOMINANT, Judgement, Verdict, dominated, judge
from .comparison import Comparison, best_matches, compare
from .errors import StudyError
from .profile import Profile
from .stats import Resampling


VERDICT_ICONS = {
    Verdict.SUPPORTED: "▲",
    Verdict.CONTRADICTED: "▼",
    Verdict.NEGLIGIBLE: "■",
    Verdict.UNDECIDED: "◆",
    Verdict.NOT_APPLICABLE: "○",
}
MOST_TITLES = 4_000  # cells; beyond, values on hover would make the file several megabytes


@dataclass(frozen=True)
class Report:
    """A finished report.

    Attributes:
        title: its heading.
        fragment: HTML and CSS that can stand inside another page.
        judgements: what it says about the claims.
        findings: what it says in plain words.
    """

    title: str
    fragment: str
    judgements: list[Judgement]
    findings: list[str]

    @property
    def html(self) -> str:
        """The whole page."""
        return _template("page.html").render(title=self.title, fragment=self.fragment)

    def save(self, path: str | os.PathLike) -> Path:
        """Write the page, replacing an older one only when the new one is complete."""
        path = Path(path)
        if path.is_dir():
            raise StudyError(f"{path} is a folder, expected the name of an HTML file, such as {path / 'report.html'}")
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
        fresh.write_text(self.html, encoding="utf-8")
        fresh.replace(path)
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
    comparisons = [compare(*pair, draws=draws, seed=seed) for pair in figures.pairs(profiles)]
    judgements = judge(*profiles, draws=draws, seed=seed)
    findings = [str(sentence) for sentence in _findings(profiles, comparisons, judgements)]
    title = _title(profiles)
    with figures.style():
        fragment = _template("report.html").render(
            title=title,
            profiles=profiles,
            findings=findings,
            warnings=[text for profile in profiles for text in dominated(profile)],
            judgements=[_row(judgement) for judgement in judgements],
            charts=list(_charts(profiles, comparisons, judgements)),
            methods=_methods(profiles, draws, seed),
            provenance=[_provenance(profile) for profile in profiles],
            commands=[_command(profile) for profile in profiles],
            colours=figures.SERIES,
        )
    return Report(title, fragment, judgements, findings)


def write_report(*profiles: Profile, out: str | os.PathLike, draws: int = 1000, seed: int = 0) -> Path:
    """`make_report`, saved as one HTML file; returns its path."""
    return make_report(*profiles, draws=draws, seed=seed).save(out)


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


def _findings(
    profiles: Sequence[Profile], comparisons: Sequence[Comparison], judgements: Sequence[Judgement]
) -> Iterator[str]:
    yield _verdict_counts(judgements)
    for comparison in comparisons:
        if comparison.a is not comparison.b:
            yield from _similarity_sentences(comparison)
            yield from _frequency_sentences(comparison)
    for profile in profiles:
        yield from _head_sentences(profile)
        yield from _accuracy_sentences(profile, comparisons[0].resampling)


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
        f"CKA {_cell(maps, row, column)}; their last places: {_cell(maps, -1, -1)}."
    )


def _cell(maps: xr.Dataset, row: int, column: int) -> str:
    value, low, high = (float(maps[name].values[row, column]) for name in ("cka", "low", "high"))
    return "undefined" if np.isnan(value) else f"{value:.2f} [{low:.2f}, {high:.2f}]"


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
        "checkpoints": " and ".join(judgement.checkpoints),
        "note": judgement.note,
        "warnings": judgement.warnings,
    }


def _signed(value: float) -> str:
    return "undefined" if np.isnan(value) else f"{value:+#.3g}".removesuffix(".").replace("-", "−")


# ------------------------------------------------------------------------------------------------------------- charts


@dataclass(frozen=True)
class Chart:
    """One section with figures: panels that stand side by side where there is room, one under the other on a phone."""

    title: str
    caption: str
    panels: list[str]
    table: dict[str, Any] | None = None


def _charts(
    profiles: Sequence[Profile], comparisons: Sequence[Comparison], judgements: Sequence[Judgement]
) -> Iterator[Chart]:
    svg = Drawer()
    if any(judgement.estimate for judgement in judgements):
        yield Chart("All claims at a glance", _CAPTIONS["claims"], [_claims_panel(svg, judgements)])
    for comparison in comparisons:
        if all("gram_flatten" in profile.data for profile in (comparison.a, comparison.b)):
            yield _cka_chart(svg, comparison)
    if any("fourier" in profile.data for profile in profiles):
        yield _depth_chart(svg, "Frequencies", "fourier", profiles, comparisons)
    if any("variance" in profile.data for profile in profiles):
        yield _depth_chart(svg, "Variance of feature maps", "variance", profiles, comparisons)
    if any("attention_distance" in profile.data for profile in profiles):
        yield _heads_chart(svg, profiles)


def _claims_panel(svg: Drawer, judgements: Sequence[Judgement]) -> str:
    shown = [judgement for judgement in judgements if judgement.estimate is not None]
    figure = figures.new_figure(6.0, 0.32 * len(shown) + 0.6)
    figures.draw_claims(figure.subplots(), judgements)
    about = f"Forest plot of effects in units of their margins. {_verdict_counts(judgements)}"
    return svg.inline(figure, about, form="page")


def _cka_chart(svg: Drawer, comparison: Comparison) -> Chart:
    a, b = comparison.a, comparison.b
    sides = [("aa", a, a)] if a is b else [("ab", a, b), ("aa", a, a), ("bb", b, b)]
    cell = min(0.28, 3.4 / max(len(profile.data["block"]) for profile in (a, b)))
    panels, table = [], None
    for key, rows, columns in sides:
        maps = comparison.cka(key, permutations=100 if key == "ab" else 0)
        panels.append(_cka_panel(svg, maps, (rows, columns), cell, key, bar=key == sides[-1][0]))
        if key == sides[0][0]:
            table = _best_matches(maps, rows, columns)
    title = "Similarity of representations" + ("" if a is b else f": {a.name} and {b.name}")
    return Chart(title, _CAPTIONS["cka"], panels, table)


def _cka_panel(svg: Drawer, maps: xr.Dataset, sides: tuple[Profile, Profile], cell: float, key: str, bar: bool) -> str:
    """One map in cells of `cell` inches, the same in all maps of a chart."""
    rows, columns = sides
    across, up = (cell * max(len(profile.data["block"]), 4) for profile in (columns, rows))
    width, height = across + (1.25 if bar else 0.7), up + 0.75
    figure = Figure(figsize=(width, height))
    ax = figure.add_axes((0.55 / width, 0.5 / height, across / width, up / height))
    mesh = figures.draw_cka(ax, maps, rows, columns, gid="cells")
    ax.set_xlabel(_fitting(columns.name, across))
    ax.set_ylabel(_fitting(rows.name, up))
    if key == "ab":
        figures.draw_best_match(ax, maps)
    if bar:
        side = figure.add_axes((1 - 0.6 / width, 0.5 / height, 0.08 / width, up / height))
        figure.colorbar(mesh, cax=side, label="CKA")
    cells = maps["cka"].values
    mean = f"mean {np.nanmean(cells):.2f}" if np.isfinite(cells).any() else "all undefined"
    about = f"CKA of every place of {rows.name} (rows) with every place of {columns.name} (columns); {mean}."
    return svg.inline(figure, about, form="map", titles=_cell_titles(maps))


def _fitting(name: str, inches: float) -> str:
    """The name, shortened in the middle where it is longer than the axis it names."""
    most = max(12, int(inches / 0.062))
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-(most // 2 - 1) :]}"


def _cell_titles(maps: xr.Dataset) -> list[str] | None:
    rows, columns = maps["row"].values, maps["column"].values
    if len(rows) * len(columns) > MOST_TITLES:
        return None
    return [f"{row} × {column}: {_cell(maps, i, j)}" for i, row in enumerate(rows) for j, column in enumerate(columns)]


def _best_matches(maps: xr.Dataset, rows: Profile, columns: Profile) -> dict[str, Any]:
    """For every place of `columns` the place of `rows` most like it."""
    body = []
    for j, i in enumerate(best_matches(maps["cka"].values)):
        name = maps["column"].values[j]
        if i < 0:
            body.append([str(name), "undefined: the same for every image", "", ""])
            continue
        p = f"{float(maps['p'].values[i, j]):.3f}" if "p" in maps else ""
        body.append([str(name), str(maps["row"].values[i]), _cell(maps, i, j), p])
    head = [f"place of {columns.name}", f"most similar of {rows.name}", "CKA [95 %]", "p (permutation)"]
    return {"title": "Most similar places", "head": head, "body": body}


def _depth_chart(
    svg: Drawer, title: str, which: str, profiles: Sequence[Profile], comparisons: Sequence[Comparison]
) -> Chart:
    panels, resampling = [], comparisons[0].resampling
    for panel in figures.DEPTH_PANELS:
        if not panel.name.endswith(which):
            continue
        about = f"{panel.label} along depth"
        panels.append(_panel(svg, lambda ax, p=panel: p.draw(ax, profiles, resampling), about))
        for comparison in comparisons:
            both = all(panel.name in profile.data for profile in (comparison.a, comparison.b))
            if both and comparison.a is not comparison.b and not panel.log:
                about = f"{panel.label}: {comparison.a.name} minus {comparison.b.name} at equal depths"
                panels.append(_panel(svg, lambda ax, p=panel, c=comparison: p.draw_difference(ax, c), about))
    if which == "fourier":
        panels += [
            _panel(svg, lambda ax, p=profile: figures.draw_spectra(ax, p), f"Spectra of all places of {profile.name}")
            for profile in profiles
            if "fourier" in profile.data
        ]
    return Chart(title, _CAPTIONS[which], panels, _depth_table(which, profiles, resampling))


def _panel(svg: Drawer, draw: Callable, about: str) -> str:
    figure = figures.new_figure(3.5, 2.5)
    draw(figure.subplots())
    return svg.inline(figure, about)


def _depth_table(which: str, profiles: Sequence[Profile], resampling: Resampling) -> dict[str, Any]:
    """Mean and interval at every place of every checkpoint."""
    panel = next(panel for panel in figures.DEPTH_PANELS if panel.name == which)
    body = []
    for profile in profiles:
        if panel.name not in profile.data:
            continue
        rows = figures.depth_rows(profile, panel.name, resampling, panel.select)
        for place, name in enumerate(profile.data["block"].values):
            depth = float(profile.data["depth"].values[place])
            body.append([profile.name, str(name), f"{depth:.2f}", str(resampling.estimate(rows[:, place]))])
    return {"title": "Values", "head": ["checkpoint", "place", "depth", f"{panel.label} [95 %]"], "body": body}


def _heads_chart(svg: Drawer, profiles: Sequence[Profile]) -> Chart:
    panels, body = [], []
    for number, profile in enumerate(profiles):
        if "attention_distance" not in profile.data:
            continue
        panels.append(
            _panel(
                svg,
                lambda ax, p=profile, i=number: figures.draw_heads(ax, p, i),
                f"Mean attention distance of every head of {profile.name}",
            )
        )
        means = profile["attention_distance"].mean("image").transpose("layer", "head").values
        prefix = profile["prefix_attention"].mean("image").transpose("layer", "head").values
        for layer, name in enumerate(profile.data["layer"].values):
            distances = ", ".join(f"{value:.0f}" for value in sorted(means[layer][np.isfinite(means[layer])]))
            body.append([profile.name, str(name), distances, f"{100 * np.nanmean(prefix[layer]):.0f} %"])
    head = ["checkpoint", "layer", "mean distance of its heads (px)", "attention to class and register tokens"]
    return Chart("Attention heads", _CAPTIONS["heads"], panels, {"title": "Values", "head": head, "body": body})


_MARKS = "Marks: ▽ after attention, ▲ after an MLP, ■ after a convolutional block, ● after a whole block, × stem or embedding."
_CAPTIONS = {
    "claims": "Positive is what the paper claims. The shaded band is ±1 margin: effects too small to matter. Lines are 95 % "
    "intervals over images.",
    "cka": "Centred kernel alignment, 1 = the same up to rotation and scale. Every place with every other; first place at "
    "the lower left, lines where the map's size changes, the path joins each column to its most similar row. Point "
    "at a cell for its value and 95 % interval. Raghu et al. 2021, Fig 1 and 2.",
    "fourier": "Δ log amplitude: how much weaker the highest frequencies (0.8π to π) are than the map's mean. Attention that "
    "smooths lowers it. Within a stage only: across stages the change of the grid dominates. Park & Kim 2022, "
    "Fig 2a and 8. " + _MARKS,
    "variance": "How much an activation varies over the image, averaged over channels; left as it is, then as a share of the "
    "mean square, which does not depend on the scale of the weights. Park & Kim 2022, Fig 9. " + _MARKS,
    "heads": "Distance from query to key, weighted by attention; one dot per head, the line is the layer's mean. Weights are "
    "renormalised without the class token. Dosovitskiy et al. 2020, Fig 7; Raghu et al. 2021, Fig 3.",
}


# ------------------------------------------------------------------------------------------------------ SVG into HTML


class Drawer:
    """Turns figures into inline SVG whose colours follow the page's light or dark mode."""

    def __init__(self) -> None:
        self._count = 0

    def inline(self, figure: Figure, about: str, *, form: str = "panel", titles: list[str] | None = None) -> str:
        """One ``<svg>`` element.

        Args:
            about: what a screen reader says.
            form: ``panel`` grows with the page, ``map`` keeps its size so that cells stay equal, ``page`` is wide.
            titles: text shown when the pointer rests on the cells of the group ``cells``, row by row.
        """
        self._count += 1
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        text = buffer.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        width = float(re.search(r'viewBox="0 0 ([\d.]+)', text)[1])  # type: ignore[index]
        label = html.escape(about, quote=True)
        opening = f'<svg class="{form}" role="img" aria-label="{label}" style="width:{width * 4 / 3:.0f}px" viewBox'
        text = re.sub(r"<svg.*?viewBox", lambda _: opening, text, count=1, flags=re.DOTALL)
        text = _cells_as_rectangles(text, titles)
        return _themed(_own_ids(text, f"f{self._count}-"))


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
        "absent": [(p.name, name, why) for p in profiles for name, why in p.provenance.get("absent", {}).items()],
    }


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
        "measured": str(profile.provenance.get("created", "")),
    }


def _command(profile: Profile) -> str:
    """How to measure the profile again; local folders and files are named by their last part."""
    about, images = profile.provenance["checkpoint"], profile.provenance["images"]
    revision = f"@{about['revision']}" if about.get("revision") else ""
    words = ["vitstudy measure", profile.name + revision, "--images", str(images.get("name"))]
    for option in ("split", "revision", "n", "seed"):
        if images.get(option) is not None:
            words += [f"--{option}", str(images[option])]
    return " ".join(words)

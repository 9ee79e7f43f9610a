"""What accuracy is lost to: noise of one frequency, corruptions, parts taken away, attacks, units left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ..comparison import Comparison
from ..errors import StudyError
from ..profile import Profile
from ..robustness import Crossing, accuracy_drop, answers, crossing, drop_difference, mean_corruption_accuracy
from ..stats import Estimate, percentile
from .depth import Curve
from .look import INK, fitting, grid_lines, interval_text, series, series_mark, spaced, tell
from .panels import Chart, Panel, Study, Table, on_axes


REMOVAL = {  # name, what its strength is, and the five of them, as in `corruptions.STRENGTHS`
    "low_pass": ("low-pass filter", "frequencies kept up to", ("0.5π", "0.25π", "0.125π", "0.063π", "0.031π")),
    "high_pass": ("high-pass filter", "frequencies kept from", ("0.031π", "0.063π", "0.125π", "0.25π", "0.5π")),
    "patch_shuffle": ("patches in random order", "grid of patches", ("2×2", "4×4", "7×7", "8×8", "14×14")),
    "occlusion": ("random patches black", "share of patches", ("10 %", "30 %", "50 %", "70 %", "90 %")),
}


def draw_band(ax: Axes, x: np.ndarray, curve: Curve, number: int, words: Sequence[str]) -> None:
    """(value, low, high) against x with the look of a profile; `words` say what each point is."""
    value, low, high = curve
    look = series(number)
    ax.fill_between(x, low, high, color=look["color"], alpha=0.18, linewidth=0)
    ax.plot(x, value, **look, marker=series_mark(number))
    numbers = zip(words, value, low, high, strict=True)
    tell(ax, x, value, [f"{word}: {interval_text(*rest)}" for word, *rest in numbers])


def percent(value: Any, low: Any, high: Any) -> Curve:
    """Shares as percentages."""
    return 100 * np.asarray(value), 100 * np.asarray(low), 100 * np.asarray(high)


def accuracy_rows(profile: Profile, name: str, study: Study) -> np.ndarray:
    """Accuracies for the images as they are and every draw, (1 + draws, ...), of a stored ``..._correct``."""
    right = answers(profile, name)
    return study.resampling(len(right)).mean(right)


# ------------------------------------------------------------------------------------------------------------- noise


def draw_noise(ax: Axes, study: Study, name: str = "noise") -> None:
    """Accuracy lost, in points, against the frequency of the noise; the crossing of two curves with its interval."""
    for number, profile in study.having(f"{name}_correct"):
        found = accuracy_drop(profile, name, draws=study.draws, seed=study.seed)
        frequencies = found["noise_frequency"].values
        words = [f"{profile.name}, {frequency:g}π" for frequency in frequencies]
        draw_band(ax, frequencies, percent(found["drop"], found["low"], found["high"]), number, words)
    ax.axhline(0, color=INK, linewidth=0.6)
    ax.set(xlabel="frequency of the noise", ylabel="accuracy lost (points)", xlim=(0, 1))
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25π", "0.5π", "0.75π", "π"])
    ax.set_title("published noise" if name.endswith("paper") else "noise of equal energy in every band")
    grid_lines(ax)
    for _, _, where in crossings(study, name):
        _draw_crossing(ax, where.frequency)


def _draw_crossing(ax: Axes, where: Estimate) -> None:
    top = ax.get_ylim()[1]
    ax.set_ylim(ax.get_ylim()[0], top + 0.16 * (top - ax.get_ylim()[0]))
    height = top + 0.04 * (top - ax.get_ylim()[0])
    ax.plot([where.low, where.high], [height, height], color=INK, linewidth=1.4, solid_capstyle="butt")
    ax.plot(where.value, height, "|", color=INK, markersize=8, markeredgewidth=1.2)
    ax.axvline(where.value, color=INK, linewidth=0.6, linestyle=":")
    left = where.value > 0.5
    ax.annotate(
        f"cross at {where.value:.2f}π [{where.low:.2f}π, {where.high:.2f}π]",
        (where.value, height),
        xytext=(-4 if left else 4, 4),
        textcoords="offset points",
        ha="right" if left else "left",
        va="bottom",
        fontsize=6.5,
    )


def crossings(study: Study, name: str = "noise") -> list[tuple[Profile, Profile, Crossing]]:
    """Where the curve of a network with attention crosses that of one without, for a study of one such pair."""
    found = []
    for comparison in study.pairs_having(f"{name}_correct"):
        a, b = sorted((comparison.a, comparison.b), key=lambda profile: not _attends(profile))
        if not _attends(a) or _attends(b):
            continue
        try:
            where = crossing(a, b, name, draws=study.draws, seed=study.seed)
        except StudyError:
            continue  # measured with different settings
        if 0.1 < where.frequency.value < 0.9:
            found.append((a, b, where))
    return found if len(found) == 1 else []


def _attends(profile: Profile) -> bool:
    return profile.has("attention")


def draw_drop_difference(ax: Axes, study: Study, comparison: Comparison, name: str = "noise") -> None:
    """What A loses minus what B loses, paired by image."""
    found = drop_difference(comparison.a, comparison.b, name, draws=study.draws, seed=study.seed)
    x = found["noise_frequency"].values
    value, low, high = percent(found["difference"], found["low"], found["high"])
    ax.axhline(0, color=INK, linewidth=0.6)
    ax.errorbar(x, value, [value - low, high - value], color=INK, marker="o", linewidth=0.9, capsize=2)
    tell(ax, x, value, [f"{f:g}π: {interval_text(*rest)}" for f, *rest in zip(x, value, low, high, strict=True)])
    ax.set(xlabel="frequency of the noise", ylabel="difference of loss (points)", xlim=(0, 1))
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25π", "0.5π", "0.75π", "π"])
    ax.set_title(f"{fitting(comparison.a.name, 2.4)}\n− {fitting(comparison.b.name, 2.4)}", loc="center")
    grid_lines(ax)


def _noise(study: Study) -> list[Panel]:
    about = "Accuracy lost to noise of one frequency. " + " ".join(
        f"{a.name} and {b.name} cross at {where.frequency}π." for a, b, where in crossings(study)
    )
    panels = [Panel(on_axes(draw_noise, study), about)]
    for comparison in study.pairs_having("noise_correct"):
        if _comparable(study, comparison, "noise"):
            about = (
                f"Accuracy {comparison.a.name} loses minus what {comparison.b.name} loses, by frequency of the noise"
            )
            panels.append(Panel(on_axes(draw_drop_difference, study, comparison), about))
    if study.having("noise_paper_correct"):
        about = "Accuracy lost to the published noise, whose energy grows with its frequency."
        panels.append(Panel(on_axes(draw_noise, study, "noise_paper"), about))
    return panels


def _comparable(study: Study, comparison: Comparison, name: str) -> bool:
    try:
        drop_difference(comparison.a, comparison.b, name, draws=2, seed=study.seed)
    except StudyError:
        return False
    return True


def _noise_table(study: Study) -> Table:
    body = []
    for name in ("noise", "noise_paper"):
        for _, profile in study.having(f"{name}_correct"):
            found = accuracy_drop(profile, name, draws=study.draws, seed=study.seed)
            which = "published noise" if name.endswith("paper") else "equal energy"
            for place, frequency in enumerate(found["noise_frequency"].values):
                value, low, high = (float(100 * found[key].values[place]) for key in ("drop", "low", "high"))
                accuracy = f"{100 * float(found['accuracy'].values[place]):.1f} %"
                body.append([profile.name, which, f"{frequency:g}π", interval_text(value, low, high), accuracy])
    head = ["checkpoint", "noise", "frequency", "accuracy lost, points [95 %]", "accuracy left"]
    return {"title": "Values", "head": head, "body": body}


NOISE = Chart(
    "noise",
    "Interventions",
    "Noise of one frequency",
    ("noise_correct",),
    "How much accuracy noise of one frequency costs: high on the left means that the network needs its low frequencies "
    "undisturbed, high on the right its high ones. Bands and bars are 95 % intervals over images; the horizontal bar at the "
    "top is the interval of the frequency at which the two curves cross.",
    "Park & Kim 2022, Fig 2b",
    _noise,
    _noise_table,
    covers=(
        "noise_paper_correct",
        "noise_nll",
        "noise_rms",
        "noise_clean_correct",
        "noise_clean_nll",
        "noise_paper_nll",
    ),
)

# ------------------------------------------------------------------------------------------------------- corruptions


def corruption_kinds(profile: Profile, removal: bool = False) -> list[str]:
    """The kinds that were measured, those that take something away apart."""
    kinds = [str(kind) for kind in profile["corruption_correct"].coords["corruption"].values]
    return [kind for kind in kinds if (kind in REMOVAL) == removal]


def by_kind(study: Study) -> dict[int, dict[str, Estimate]]:
    """Accuracy by kind and their ``mean``, for every profile by its number."""
    return study.once("corruptions", lambda: _by_kind(study))


def _by_kind(study: Study) -> dict[int, dict[str, Estimate]]:
    return {
        number: mean_corruption_accuracy(profile, corruption_kinds(profile), draws=study.draws, seed=study.seed)
        for number, profile in study.having("corruption_correct")
        if corruption_kinds(profile)
    }


def draw_corruptions(ax: Axes, study: Study) -> None:
    """Mean accuracy over severities per kind, worst at the bottom; the dotted lines are the accuracies without corruption."""
    found = by_kind(study)
    kinds = {kind for estimates in found.values() for kind in estimates if kind != "mean"}
    means = {kind: np.mean([e[kind].value for e in found.values() if kind in e]) for kind in kinds}
    order = [*sorted(kinds, key=lambda kind: (means[kind], kind)), "mean"]
    heights = {kind: place + (0.6 if kind == "mean" else 0) for place, kind in enumerate(order)}
    for row, (number, estimates) in enumerate(found.items()):
        profile = study.profiles[number]
        offset = 0.5 * ((row + 0.5) / len(found) - 0.5)
        _draw_dots(ax, profile, number, {heights[kind] - offset: (kind, e) for kind, e in estimates.items()})
        clean = accuracy_drop(profile, "corruption", draws=2).attrs["clean"]
        ax.axvline(100 * clean, color=series(number)["color"], linestyle=":", linewidth=0.9)
    ax.axhline(heights["mean"] - 0.8, color=INK, linewidth=0.6)
    ax.set_yticks(list(heights.values()), [spaced(kind) if kind != "mean" else "mean of all" for kind in order])
    ax.tick_params(axis="y", length=0)
    ax.set(xlabel="accuracy (%), mean over severities", ylim=(-0.6, heights["mean"] + 0.6))
    ax.set_title("by kind; dotted: without corruption")
    grid_lines(ax, "both")


def _draw_dots(ax: Axes, profile: Profile, number: int, found: dict[float, tuple[str, Estimate]]) -> None:
    colour = series(number)["color"]
    heights = np.array(list(found))
    value, low, high = percent(*np.array([(e.value, e.low, e.high) for _, e in found.values()]).T)
    ax.hlines(heights, low, high, color=colour, linewidth=1.2)
    ax.plot(value, heights, series_mark(number), color=colour, markersize=4)
    words = [
        f"{profile.name}, {spaced(kind)}: {interval_text(*rest)} %"
        for (kind, _), *rest in zip(found.values(), value, low, high, strict=True)
    ]
    tell(ax, value, heights, words)


def draw_severity(ax: Axes, study: Study, kind: str = "") -> None:
    """Accuracy against severity, of one kind or as the mean over all kinds that take nothing away; 0 is without corruption."""
    for number, profile in study.having("corruption_correct"):
        kinds = [kind] if kind else corruption_kinds(profile)
        measured = list(profile["corruption_correct"].coords["corruption"].values)
        if not set(kinds) <= set(measured) or not kinds:
            continue
        rows = accuracy_rows(profile, "corruption_correct", study)[:, [measured.index(k) for k in kinds]].mean(1)
        clean = accuracy_rows(profile, "corruption_clean_correct", study)
        rows = np.concatenate([clean[:, None], rows], axis=1)
        severities = [0, *profile["corruption_correct"].coords["severity"].values]
        words = [f"{profile.name}, {'clean' if s == 0 else f'severity {s}'}" for s in severities]
        draw_band(ax, np.array(severities), percent(rows[0], *percentile(rows)), number, words)
    ax.set(xlabel="severity", ylabel="accuracy (%)")
    ax.set_title("by severity, mean over kinds")
    grid_lines(ax)
    if kind:
        title, what, strengths = REMOVAL[kind]
        ax.set_title(title)
        ax.set(xlabel=what)
        ax.set_xticks(range(6), ["all" if kind.endswith("pass") else "none", *strengths])
    else:
        ax.set_xticks(range(6), ["clean", *map(str, range(1, 6))])
    ax.set_xlim(-0.2, 5.2)
    ax.set_ylim(bottom=0)


def _corruptions(study: Study) -> list[Panel]:
    found = by_kind(study)
    if not found:
        return []
    about = "; ".join(f"{study.profiles[number].name}: mean accuracy {e['mean']}" for number, e in found.items())
    count = max(len(estimates) for estimates in found.values())
    height = 0.9 + count * (0.12 + 0.04 * len(found))
    return [
        Panel(on_axes(draw_corruptions, study), f"Accuracy on corrupted images by kind. {about}.", 3.9, height),
        Panel(on_axes(draw_severity, study), "Accuracy on corrupted images by severity, mean over kinds.", 3.1, 2.6),
    ]


def _corruptions_table(study: Study) -> Table:
    body = [
        [study.profiles[number].name, spaced(kind), str(estimate)]
        for number, estimates in by_kind(study).items()
        for kind, estimate in estimates.items()
    ]
    return {"title": "Values", "head": ["checkpoint", "kind", "accuracy, mean over severities [95 %]"], "body": body}


CORRUPTIONS = Chart(
    "corruptions",
    "Interventions",
    "Common corruptions",
    ("corruption_correct",),
    "Accuracy on images corrupted in fifteen ways, the hardest at the bottom, and how it falls with severity. Bars and bands "
    "are 95 % intervals over images.",
    "Hendrycks & Dietterich 2019; Park & Kim 2022, Fig 12",
    _corruptions,
    _corruptions_table,
    covers=("corruption_nll", "corruption_clean_correct", "corruption_clean_nll"),
)


def _removal(study: Study) -> list[Panel]:
    kinds = dict.fromkeys(
        kind for _, profile in study.having("corruption_correct") for kind in corruption_kinds(profile, removal=True)
    )
    return [
        Panel(on_axes(draw_severity, study, kind), f"Accuracy by strength: {REMOVAL[kind][0]}, {REMOVAL[kind][1]}")
        for kind in kinds
    ]


def _removal_table(study: Study) -> Table:
    body = []
    for _, profile in study.having("corruption_correct"):
        measured = list(profile["corruption_correct"].coords["corruption"].values)
        rows = accuracy_rows(profile, "corruption_correct", study)
        resampling = study.resampling(profile["corruption_correct"].shape[0])
        for kind in corruption_kinds(profile, removal=True):
            for place, severity in enumerate(profile["corruption_correct"].coords["severity"].values):
                strength = REMOVAL[kind][2][int(severity) - 1]
                estimate = resampling.estimate(rows[:, measured.index(kind), place])
                body.append([profile.name, spaced(kind), strength, str(estimate)])
    return {"title": "Values", "head": ["checkpoint", "what", "strength", "accuracy [95 %]"], "body": body}


REMOVED = Chart(
    "removal",
    "Interventions",
    "Frequencies, order and parts taken away",
    ("corruption_correct",),
    "How much accuracy is left when only low or only high frequencies remain, when patches change places, when patches are "
    "black. A network that reads texture survives shuffling, one that reads shape survives low-pass filtering.",
    "compare Geirhos et al. 2018; Yin et al. 2019; Naseer et al. 2021",
    _removal,
    _removal_table,
)

# ----------------------------------------------------------------------------------------------------------- attacks

ATTACKS = {"fgsm": "one step (FGSM)", "pgd": "many steps (PGD)"}


def draw_attack(ax: Axes, study: Study, name: str) -> None:
    """Accuracy left under an attack of growing size; 0 is without attack."""
    for number, profile in study.having(f"{name}_correct"):
        epsilons = 255 * profile[f"{name}_correct"].coords["epsilon"].values
        rows = accuracy_rows(profile, f"{name}_correct", study)
        clean = accuracy_rows(profile, "attack_clean_correct", study)
        rows = np.concatenate([clean[:, None], rows], axis=1)
        sizes = np.array([0, *epsilons])
        words = [f"{profile.name}, ε = {size:g}/255" for size in sizes]
        draw_band(ax, sizes, percent(rows[0], *percentile(rows)), number, words)
    ax.set(xlabel="largest change of a pixel, ε (255ths)", ylabel="accuracy (%)")
    ax.set_title(ATTACKS[name])
    ax.set_ylim(bottom=-2)
    grid_lines(ax)


def _attacks(study: Study) -> list[Panel]:
    return [
        Panel(on_axes(draw_attack, study, name), f"Accuracy under adversarial attack, {words}, by size of the attack.")
        for name, words in ATTACKS.items()
        if study.having(f"{name}_correct")
    ]


def _attack_rows(study: Study) -> Iterator[list[str]]:
    for name, words in ATTACKS.items():
        for _, profile in study.having(f"{name}_correct"):
            rows = accuracy_rows(profile, f"{name}_correct", study)
            resampling = study.resampling(profile[f"{name}_correct"].shape[0])
            for place, epsilon in enumerate(profile[f"{name}_correct"].coords["epsilon"].values):
                yield [profile.name, words, f"{255 * epsilon:g}/255", str(resampling.estimate(rows[:, place]))]
        for _, profile in study.having(f"{name}_paper_correct"):
            rows = accuracy_rows(profile, f"{name}_paper_correct", study)
            estimate = study.resampling(profile[f"{name}_paper_correct"].shape[0]).estimate(rows)
            yield [profile.name, f"{words}, as published", "", str(estimate)]


ADVERSARIAL = Chart(
    "attacks",
    "Interventions",
    "Adversarial attacks",
    ("pgd_correct", "fgsm_correct"),
    "Share of images that are classified rightly both as they are and after an attack that knows the network. Bands are 95 % "
    "intervals over images.",
    "Goodfellow et al. 2015; Madry et al. 2018",
    _attacks,
    lambda study: {
        "title": "Values",
        "head": ["checkpoint", "attack", "ε", "accuracy [95 %]"],
        "body": list(_attack_rows(study)),
    },
    covers=(
        *("attack_clean_correct", "attack_clean_nll", "fgsm_nll", "pgd_nll"),
        *(f"{name}_paper_{key}" for name in ATTACKS for key in ("correct", "nll")),
    ),
)
CHARTS = (NOISE, CORRUPTIONS, REMOVED, ADVERSARIAL)

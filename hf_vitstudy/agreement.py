"""What many checkpoints say about one claim together.

An interval over images is about two networks; a statement on architectures needs several of each, and their number is what
counts: images of several checkpoints are never pooled. Effects are averaged over the image sets of one checkpoint, over the
seeds of one recipe, then over recipes, and the interval is over what is independent: recipes where there are two or more, else
the seeds of the one recipe. With one of a kind there is a mean and no interval.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .claims import ALPHA, Claim, Control, Judgement, Verdict, verdict
from .claims.contract import p_value
from .claims.facts import FINE_TUNED
from .stats import Estimate, crossed_mean, holm, mean_of, student


VERDICTS = tuple(str(verdict) for verdict in Verdict if verdict is not Verdict.NOT_APPLICABLE)
End = tuple[str, str]
"""Recipe and weights of one checkpoint."""


@dataclass(frozen=True)
class Case:
    """A judgement that gave a number, and the checkpoints it is about, in the order of the claim's roles."""

    judgement: Judgement
    ends: tuple[End, ...]

    @property
    def value(self) -> float:
        assert self.judgement.estimate is not None
        return self.judgement.estimate.value


@dataclass(frozen=True)
class Agreement:
    """Attributes:

    estimate: the mean effect with its interval over checkpoints, NaN ends where there is none.
    over: of how many and of what, in words, such as ``3 recipes × 2 recipes (24 pairs)`` or ``1 pair``.
    verdict, alone, p, p_holm: as in `Judgement`, corrected for the claims of the study.
    counts, counts_alone: verdict -> choices of checkpoints, after and before the correction for all of them.
    lowest, highest: effects of single choices.
    controls: of CKA claims, with the mean over choices and the outermost ends.
    note: why there is no interval, or what it does not speak about.
    """

    claim: Claim
    estimate: Estimate
    over: str
    counts: dict[str, int]
    counts_alone: dict[str, int]
    lowest: float
    highest: float
    controls: tuple[Control, ...] = ()
    note: str = ""
    verdict: Verdict = Verdict.UNDECIDED
    alone: Verdict = Verdict.UNDECIDED
    p: float = math.nan
    p_holm: float = math.nan


def agree(claim: Claim, cases: Sequence[Case]) -> Agreement:
    """The mean effect over checkpoints and how often single choices support it; `corrected_together` gives the verdict."""
    averaged = (
        _related(claim, cases) if claim.relation else _crossed(cases) if len(claim.roles) > 1 else _single(cases)
    )
    estimate, over, note = averaged
    estimate = at_least_as_wide(estimate, cases)
    values = [case.value for case in cases]
    known = math.isfinite(estimate.error)
    return Agreement(
        claim,
        estimate,
        over,
        _counts(case.judgement.verdict for case in cases),
        _counts(case.judgement.alone for case in cases),
        min(values),
        max(values),
        tuple(_controls(cases)),
        note or ("" if known else f"{over}: an interval over checkpoints needs at least two of each role."),
        alone=verdict(estimate, claim.margin),
        p=p_value(estimate, claim.margin) if known else math.nan,
    )


def at_least_as_wide(estimate: Estimate, cases: Sequence[Case]) -> Estimate:
    """The estimate with the error of single choices, where checkpoints differ by less.

    Two seeds may agree to the last digit, as counts of few eigenvalues do, and still be known badly. Their spread holds both
    kinds of error in the mean; with few of them it can miss either.
    """
    own = [case.judgement.estimate.error for case in cases if case.judgement.estimate]
    known = [error for error in own if math.isfinite(error)]
    if not known or not math.isfinite(estimate.error):
        return estimate
    least = math.sqrt(float(np.mean(np.square(known))) / estimate.n)
    if estimate.error >= least:
        return estimate
    return student(estimate.value, least, estimate.freedom, estimate.n, estimate.level, estimate.unit_resampled)


def corrected_together(agreements: Sequence[Agreement]) -> list[Agreement]:
    """The same with verdicts that survive Holm's correction for all claims of the study that have an interval."""
    adjusted = holm([agreement.p for agreement in agreements])
    return [
        replace(each, p_holm=p, verdict=each.alone if p <= ALPHA else Verdict.UNDECIDED)
        for each, p in zip(agreements, adjusted, strict=True)
    ]


def _counts(verdicts: Iterable[Verdict]) -> dict[str, int]:
    found = Counter(str(verdict) for verdict in verdicts)
    return {verdict: found[verdict] for verdict in VERDICTS}


def _controls(cases: Sequence[Case]) -> Iterator[Control]:
    every = [control for case in cases for control in case.judgement.controls]
    for name in dict.fromkeys(control.name for control in every):
        same = [control for control in every if control.name == name and math.isfinite(control.value)]
        if not same:
            continue
        lows, highs = ([end for end in ends if math.isfinite(end)] for ends in _ends(same))
        text = same[0].text if len(cases) == 1 else f"Mean of {len(same)}, with the outermost ends."
        value = float(np.mean([control.value for control in same]))
        yield Control(name, value, min(lows, default=math.nan), max(highs, default=math.nan), text)


def _ends(controls: Sequence[Control]) -> tuple[list[float], list[float]]:
    return [control.low for control in controls], [control.high for control in controls]


def counted(count: int, noun: str) -> str:
    """``1 pair``, ``1,024 images``, ``5 mini-batches``."""
    several = f"{noun}es" if noun.endswith("ch") else noun if noun.endswith("s") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else several}"


def digits(value: float | None) -> str:
    """Three digits, with a minus sign; a dash where it is undefined."""
    return "–" if value is None else f"{value:#.3g}".removesuffix(".").replace("-", "−")


def effect_text(estimate: Mapping[str, Any]) -> str:
    """``0.42 (0.40 to 0.44)`` of an estimate as it is stored, the value alone without an interval, a dash without either."""
    if estimate["value"] is None or estimate["low"] is None:
        return digits(estimate["value"])
    return f"{digits(estimate['value'])} ({digits(estimate['low'])} to {digits(estimate['high'])})"


def verdict_counts(counts: Mapping[str, int]) -> str:
    """``3 supported, 1 undecided``, without those that nothing is."""
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts.get(verdict)) or "none"


# ------------------------------------------------------------------------------------------------------------- means

Averaged = tuple[Estimate, str, str]
"""The estimate, what it is over in words, and a note."""


def _means(values: Iterable[tuple[Any, float]]) -> dict[Any, float]:
    """key -> mean of its values, in order of appearance."""
    kept: dict[Any, list[float]] = {}
    for key, value in values:
        kept.setdefault(key, []).append(value)
    return {key: float(np.mean(found)) for key, found in kept.items()}


def _level(ends: Iterable[End]) -> tuple[str, bool]:
    """What is independent among these checkpoints, and whether it is their recipe."""
    distinct = set(ends)
    recipes = {recipe for recipe, _ in distinct}
    if len(recipes) > 1:
        return ("recipe" if len(distinct) > len(recipes) else "checkpoint"), True
    return ("seed" if len(distinct) > 1 else "checkpoint"), False


def _single(cases: Sequence[Case], side: int = 0) -> Averaged:
    by_checkpoint = _means((case.ends[side], case.value) for case in cases)
    unit, of_recipes = _level(by_checkpoint)
    values = by_checkpoint
    if of_recipes:
        values = _means((recipe, value) for (recipe, _), value in by_checkpoint.items())
    over = counted(len(values), unit)
    if unit == "recipe":
        over += f" ({counted(len(by_checkpoint), 'checkpoint')})"
    if unit == "seed":
        over += " of one recipe"
    return mean_of(np.array(list(values.values())), unit=unit), over, ""


def _crossed(cases: Sequence[Case]) -> Averaged:
    """Two roles that may meet in any pair: rows and columns are both samples."""
    by_pair = _means(((case.ends[0], case.ends[-1]), case.value) for case in cases)
    sides = [[pair[side] for pair in by_pair] for side in (0, 1)]
    (first, first_recipes), (second, second_recipes) = map(_level, sides)
    cells = _means(
        ((a[0] if first_recipes else a, b[0] if second_recipes else b), value) for (a, b), value in by_pair.items()
    )
    matrix = _table(cells)
    over = f"{counted(matrix.shape[0], first)} × {counted(matrix.shape[1], second)} ({counted(len(by_pair), 'pair')})"
    if len(by_pair) == 1:
        over = "1 pair"
    kept = _complete(matrix)
    unit = first if first == second else f"{first} × {second}"
    note = ""
    if kept.shape != matrix.shape:
        note = f"The interval leaves out what has not met all others: it is of {kept.shape[0]} × {kept.shape[1]}."
    if min(kept.shape) < 2:
        return _no_interval(list(cells.values()), min(matrix.shape), unit), over, ""
    return crossed_mean(kept, unit=unit), over, note


def _table(cells: dict[tuple[Hashable, Hashable], float]) -> np.ndarray:
    rows, columns = (
        {key: place for place, key in enumerate(dict.fromkeys(keys))} for keys in zip(*cells, strict=True)
    )
    matrix = np.full((len(rows), len(columns)), math.nan)
    for (row, column), value in cells.items():
        matrix[rows[row], columns[column]] = value
    return matrix


def _complete(matrix: np.ndarray) -> np.ndarray:
    """Without the rows and columns that leave holes, the emptiest first."""
    while np.isnan(matrix).any():
        holes = [np.isnan(matrix).mean(axis) for axis in (1, 0)]
        axis = int(holes[1].max() > holes[0].max())
        matrix = np.delete(matrix, int(holes[axis].argmax()), axis)
    return matrix


def _related(claim: Claim, cases: Sequence[Case]) -> Averaged:
    """Roles that hang together, as two stages of one run: what shares a checkpoint is one observation."""
    by_pair = _means((case.ends, case.value) for case in cases)
    group, family = _components(by_pair), _components([tuple((recipe, "") for recipe, _ in ends) for ends in by_pair])
    groups = _means((group[ends[0]], value) for ends, value in by_pair.items())
    family_of = {group[ends[0]]: family[ends[0][0], ""] for ends in by_pair}
    families = _means((family_of[key], value) for key, value in groups.items())
    pairs = counted(len(by_pair), "pair")
    if len(families) > 1:
        unit = "recipe" if len(groups) > len(families) else "checkpoint"
        return (
            mean_of(np.array(list(families.values())), unit=unit),
            f"{counted(len(families), 'recipe')} ({pairs})",
            "",
        )
    if len(groups) > 1:
        return (
            mean_of(np.array(list(groups.values())), unit="seed"),
            f"{counted(len(groups), 'seed')} of one recipe ({pairs})",
            "",
        )
    if claim.relation is FINE_TUNED and len(by_pair) > 1:
        estimate, over, _ = _single(cases, side=-1)
        return (
            estimate,
            f"{over}, fine-tuned from one",
            "All share the checkpoint they start from; of others it says nothing.",
        )
    return _no_interval(list(by_pair.values()), 1, "pair"), pairs if len(by_pair) == 1 else f"1 run ({pairs})", ""


def _no_interval(values: Sequence[float], n: int, unit: str) -> Estimate:
    return Estimate(float(np.mean(values)), math.nan, math.nan, n, unit_resampled=unit)


def _components(links: Iterable[tuple[End, ...]]) -> dict[End, int]:
    """end -> number of the group of ends that hang together through links."""
    group: dict[End, int] = {}
    for number, ends in enumerate(links):
        joined = {group[end] for end in ends if end in group}
        group |= dict.fromkeys(ends, number)
        group = {end: number if found in joined else found for end, found in group.items()}
    return group

"""A walk through what a study found: up to five steps, each a state of the page and a sentence or two.

The steps are data, chosen from what is stored: a step whose fact is not there is left out. Every number in a sentence is one
that the page shows in that state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..agreement import counted, digits
from ..comparison import compare


if TYPE_CHECKING:
    from .data import Source

Step = dict[str, Any]
SAID = {"s": "supported", "c": "contradicted"}


def tour(source: Source, study: dict[str, Any]) -> list[Step]:
    """The steps.

    Args:
        source: the stored study.
        study: what `data.study_data` holds of it.

    Returns:
        Each with ``title``, ``text`` and ``state``: ``a``, ``b``, ``view``, and either ``sel`` (``of`` and ``i``, ``j`` or the
        relative ``depths`` of a row and a column) or ``claim``.
    """
    found = [_opening(study), _alike(source, study)]
    shown = {"cka"} if found[1] else set()  # views, and ids of claims
    for letter, title in (("s", "What holds most clearly"), ("c", "What does not hold")):
        found.append(_clearest(study, letter, title, shown))
    found.append(_divided(study, shown) or _clearest(study, "s", "And another that holds", shown))
    return [step for step in found if step]


def _opening(study: dict[str, Any]) -> Step | None:
    """How the claims came out."""
    counts = [
        (heading, sum(claim.get("said") == said for claim in study["claims"])) for said, heading in study["sections"]
    ]
    told = [f"{heading[0].lower()}{heading[1:]}: {count}" for heading, count in counts if count]
    if not told:
        return None
    judged, all_of_them = sum(count for _, count in counts), len(study["claims"])
    text = (
        f"{judged} of {all_of_them} published claims could be judged, each against a margin fixed before looking. "
        f"{'; '.join(told)[0].upper()}{'; '.join(told)[1:]}."
    )
    a, b = study["start"]
    return {"title": "Published claims, as tests", "text": text, "state": {"a": a, "b": b, "view": "findings"}}


def _alike(source: Source, study: dict[str, Any]) -> Step | None:
    """The two places most alike of the pair that the page opens with."""
    a, b = study["start"]
    if a == b or not any({a, b} <= {*group} for group in study["comparable"]):
        return None
    maps = compare(source.profile(a), source.profile(b)).cka("ab")
    cells = maps["cka"].values
    if np.isnan(cells).all():
        return None
    i, j = divmod(int(np.nanargmax(cells)), cells.shape[1])
    value, low, high = (_cka(float(maps[name].values[i, j])) for name in ("cka", "low", "high"))
    row, column = (str(maps[name].values[k]) for name, k in (("row", i), ("column", j)))
    names = [study["checkpoints"][number]["id"] for number in (a, b)]
    text = (
        f"Every square compares a place of one network with a place of the other. Of {names[0]} and {names[1]} {row} and "
        f"{column} are most alike: CKA {value} [{low}, {high}]."
    )
    state = {"a": a, "b": b, "view": "cka", "sel": {"of": "ab", "i": i, "j": j}}
    return {"title": "Where two networks are alike", "text": text, "state": state}


def _cka(value: float) -> str:
    """As the page writes it: thousandths, none of them minus zero."""
    return "undefined" if math.isnan(value) else f"{value:.3f}".replace("-0.000", "0.000").replace("-", "−")


# ------------------------------------------------------------------------------------------------------------ claims


def _clearest(study: dict[str, Any], letter: str, title: str, shown: set[str]) -> Step | None:
    """The claim furthest beyond its margin, over checkpoints before single choices, in a view not shown yet if possible."""
    found = [
        claim
        for claim in study["claims"]
        if claim.get("said") in (SAID[letter], f"all {SAID[letter]}") and claim["id"] not in shown
    ]
    if not found:
        return None
    claim = max(
        found,
        key=lambda claim: (_view(claim) not in (None, *shown), not claim["said"].startswith("all"), _beyond(claim)),
    )
    row = _typical(study, claim, letter)
    return _step(study, claim, row, title, shown) if row else None


def _beyond(claim: dict[str, Any]) -> float:
    """How many margins the near end of the interval lies from zero; of one without an interval the mean."""
    value, low, high = claim["agreement"]["estimate"]
    ends = [value] if low is None or high is None else [low, high]
    return min(abs(end) for end in ends) / claim["margin"] if value * ends[0] > 0 else 0.0


def _divided(study: dict[str, Any], shown: set[str]) -> Step | None:
    """The claim on which checkpoints disagree most evenly, on a choice that says what most say."""
    found = [claim for claim in study["claims"] if claim.get("said") == "divided" and claim["id"] not in shown]
    if not found:
        return None
    sides = [[claim["agreement"]["counts"][SAID[letter]] for letter in "sc"] for claim in found]
    claim, (held, fell) = max(
        zip(found, sides, strict=True), key=lambda pair: (_view(pair[0]) not in (None, *shown), min(pair[1]))
    )
    row = _typical(study, claim, "s" if held >= fell else "c")
    return _step(study, claim, row, "Where checkpoints disagree", shown) if row else None


def _view(claim: dict[str, Any]) -> str | None:
    return claim["see"][0] if claim["see"] else None


def _typical(study: dict[str, Any], claim: dict[str, Any], letter: str) -> list[Any] | None:
    """Of the choices with this verdict the pair that the page opens with, else the one nearest the mean."""
    rows = [row for row in study["judgements"].get(claim["id"], []) if row[1] == letter and row[2] is not None]
    start = study["start"]
    here = [row for row in rows if row[0] == start or (len(row[0]) == 1 and row[0][0] in start)]
    middle = claim["agreement"]["estimate"][0]
    return min(here or rows, key=lambda row: abs(row[2] - middle), default=None)


def _step(study: dict[str, Any], claim: dict[str, Any], row: Sequence[Any], title: str, shown: set[str]) -> Step:
    shown |= {claim["id"]} | ({_view(claim)} if _view(claim) else set())  # type: ignore[arg-type]
    choice, unit = row[0], claim["unit"]
    names = " and ".join(study["checkpoints"][number]["id"] for number in choice)
    counts = claim["agreement"]["counts"]
    parts = [f"{claim['text']} ({claim['source']})."]
    if sum(counts.values()) > 1:
        parts.append(f"{_told(counts)} of {counted(sum(counts.values()), 'choice')} of checkpoints.")
    parts.append(f"{names}: {_effect(row[2:5])} {unit}, against a margin of {claim['margin']:g}.")
    return {"title": title, "text": " ".join(parts), "state": _state(study, claim, choice)}


def _told(counts: dict[str, int]) -> str:
    words = [f"{word} on {counts[word]}" for word in SAID.values() if counts[word]]
    return " and ".join(words).capitalize()


def _effect(numbers: Sequence[float | None]) -> str:
    value, low, high = map(digits, numbers)
    return value if numbers[1] is None else f"{value} [{low}, {high}]"


def _state(study: dict[str, Any], claim: dict[str, Any], choice: Sequence[int]) -> dict[str, Any]:
    """The view that is the claim's evidence, with its selection; where the page has none, the claim itself."""
    a, b = choice[0], choice[-1] if len(choice) > 1 else _partner(study, choice[0])
    if claim["see"] is None:
        return {"a": a, "b": b, "view": "findings", "claim": claim["id"]}
    view, of, row, column = claim["see"]
    if of == "ab" and len(choice) == 1 and [b, a] == study["start"]:
        a, b = b, a  # a network keeps its colour where it can
    return {"a": a, "b": b, "view": view, "sel": {"of": of, "depths": [row, column]}}


def _partner(study: dict[str, Any], number: int) -> int:
    """Of the pair that the page opens with one that is another checkpoint on the same images, if there is one."""
    for other in reversed(study["start"]):
        if other != number and any({number, other} <= {*group} for group in study["comparable"]):
            return other
    return number

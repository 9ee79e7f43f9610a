"""What a claim is, and what data can say about it.

A claim is a number that is positive where the statement holds (its *contrast*), with a margin fixed before looking: the
smallest effect that would matter. Its 95 % interval decides:

    supported      the whole interval lies above +margin
    contradicted   the whole interval lies below -margin
    negligible     the whole interval lies within ±margin: the effect is there or not, but too small to matter
    undecided      anything else: more images are needed
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

import numpy as np

from ..comparison import Comparison
from ..stats import Estimate, beyond
from .facts import Relation


class Verdict(StrEnum):
    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    NEGLIGIBLE = "negligible"
    UNDECIDED = "undecided"
    NOT_APPLICABLE = "not applicable"


Contrast = Callable[[Comparison], np.ndarray | Estimate]


@dataclass(frozen=True)
class Claim:
    """A published statement and the contrast that tests it.

    Attributes:
        id: short name: R for Raghu et al. 2021, P for Park & Kim 2022, V for Dosovitskiy et al. 2020.
        text: the statement, in words.
        source: paper and figure, table or section.
        statistic: what the contrast is, in words.
        formula: the same in symbols, for one line of text.
        falsified_by: what would contradict the statement, in words that a reader can look for in a figure.
        contrast: of the comparison whose `a` has the first role and `b` the last (and whose `beside` is of the first with the
            one between, where there are three): rows (1 + draws,), for the images as they are and every bootstrap draw; or an
            `Estimate`, where images are not what is resampled. Positive where it holds, NaN where the statistic is undefined
            for these networks. May raise StudyError to say why it does not apply.
        margin: smallest effect that matters, in `unit`.
        roles: which checkpoints it speaks about, keys of `facts.ROLES`: one to three.
        conditions: when the papers say it should hold, and what was done differently here.
        needs: variables that it reads in every profile, so that a missing one can be named.
        needs_first: those that it reads in the first profile alone.
        against: published results that contradict or limit it, with their source; empty where none is known.
        test: ``any`` checkpoints can be judged; ``trained``: it speaks about what our recipes train; ``proxy``: the published
            data or weights are not public and another axis stands in.
        relation: how the two checkpoints must hang together, None for any two.
        of_cka: whether the contrast reads `Comparison.cka_draws`, so that a null, a control and outliers are shown beside it.
        sums_activations: whether the statistic weighs channels by their size, so that one large channel can decide it.
    """

    id: str
    text: str
    source: str
    statistic: str
    formula: str
    falsified_by: str
    contrast: Contrast
    margin: float
    unit: str
    roles: tuple[str, ...]
    conditions: str
    needs: tuple[str, ...]
    against: str = ""
    test: str = "any"
    relation: Relation | None = None
    needs_first: tuple[str, ...] = ()
    of_cka: bool = False
    sums_activations: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, without the function."""
        found = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "contrast"}
        return found | {"relation": self.relation.words if self.relation else None}


@dataclass(frozen=True)
class Control:
    """The same contrast where the answer is known, or computed in another way.

    Attributes:
        name: ``shuffled images``, ``untrained networks``, ``without one image`` or ``plain CKA``.
        value: the contrast there; of the null its median.
        low, high: of an interval, or of the null's central 95 %, or the range over left out images; NaN where there is none.
        text: what it says, in one sentence.
    """

    name: str
    value: float
    low: float
    high: float
    text: str


@dataclass(frozen=True)
class Judgement:
    """What the data say about one claim for one choice of checkpoints.

    Attributes:
        checkpoints: names, in the order of the claim's roles; empty where no profile has the role.
        estimate: the contrast with its interval, None where the claim does not apply.
        verdict: after correction for the number of claims judged together.
        alone: the verdict of the interval by itself.
        p: two-sided, of the verdict's own test: that the effect is not beyond (or not within) the margin.
        p_holm: the same, corrected (Holm 1979).
        note: why it does not apply, or at which granularity it was judged.
        warnings: what in these checkpoints makes the statistic say less than it seems to.
        controls: see `Control`; of CKA statistics only.
    """

    claim: Claim
    checkpoints: tuple[str, ...]
    verdict: Verdict
    estimate: Estimate | None = None
    alone: Verdict = Verdict.NOT_APPLICABLE
    p: float = math.nan
    p_holm: float = math.nan
    note: str = ""
    warnings: tuple[str, ...] = ()
    controls: tuple[Control, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; what is undefined is null."""
        found = {
            "checkpoints": list(self.checkpoints),
            "verdict": str(self.verdict),
            "alone": str(self.alone),
            "estimate": asdict(self.estimate) if self.estimate else None,
            "p": self.p,
            "p_holm": self.p_holm,
            "note": self.note,
            "warnings": list(self.warnings),
            "controls": [asdict(control) for control in self.controls],
        }
        return self.claim.to_dict() | finite(found)


def finite(value: Any) -> Any:
    """The same with None for every number that is not finite: JSON has no NaN and no infinity."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def verdict(estimate: Estimate, margin: float) -> Verdict:
    """The verdict of an interval against a margin, as the module's head defines it."""
    if not (np.isfinite(estimate.low) and np.isfinite(estimate.high)):
        return Verdict.UNDECIDED
    if estimate.low > margin:
        return Verdict.SUPPORTED
    if estimate.high < -margin:
        return Verdict.CONTRADICTED
    if -margin <= estimate.low and estimate.high <= margin:
        return Verdict.NEGLIGIBLE
    return Verdict.UNDECIDED


def p_value(estimate: Estimate, margin: float) -> float:
    """p of the decision that is nearest: beyond +margin, beyond -margin, or within; twice the one-sided.

    Below 0.05 about where a 95 % interval decides. By the estimate's standard error, since a thousand draws cannot show a p
    that survives the correction for forty claims. NaN where that error is unknown.
    """
    if not (math.isfinite(estimate.value) and math.isfinite(estimate.error)):
        return math.nan
    mirrored = Estimate(-estimate.value, 0, 0, estimate.n, error=estimate.error, freedom=estimate.freedom)
    above, below = beyond(estimate, margin), beyond(mirrored, margin)
    within = max(beyond(estimate, -margin), beyond(mirrored, -margin))  # two one-sided tests (Schuirmann 1987)
    return min(1.0, 2 * min(above, below, within))

"""Judge claims on profiles: choose checkpoints by role, take the contrast, show what chance gives, correct for several."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from ..comparison import Comparison, compare
from ..errors import StudyError
from ..profile import Profile
from ..stats import Estimate, holm
from .contract import Claim, Control, Judgement, Verdict, p_value, verdict
from .facts import ROLES, facts


ALPHA = 0.05
KEPT = 8  # comparisons in memory: Gram blocks of two networks, tens of megabytes each
DOMINANT = 0.5  # share of the squared activations in one channel; trained networks have a few per cent


class Bench:
    """Profiles with their facts, and the comparisons of them made last.

    Args:
        profiles: to choose from.
        draws, seed: of the bootstrap over images.
        permutations: shuffles of the null behind every statistic of CKA; 0 leaves it out.
    """

    def __init__(self, profiles: Sequence[Profile], draws: int = 1000, seed: int = 0, permutations: int = 200) -> None:
        self.profiles, self.draws, self.seed, self.permutations = profiles, draws, seed, permutations
        self.facts = [facts(profile) for profile in profiles]
        self._made: dict[tuple[int, int], Comparison] = {}

    def comparison(self, choice: tuple[int, ...]) -> Comparison:
        """Of the first chosen with the last, and beside it with the one between where there are three."""
        last = self._pair(choice[0], choice[-1])
        return replace(last, beside=self._pair(choice[0], choice[1])) if len(choice) > 2 else last

    def _pair(self, first: int, last: int) -> Comparison:
        made = self._made.pop((first, last), None)
        if made is None:
            made = compare(self.profiles[first], self.profiles[last], draws=self.draws, seed=self.seed)
        self._made[first, last] = made  # the latest comes last
        for pair in list(self._made)[:-KEPT]:
            del self._made[pair]
        return made

    def untrained_twin(self, index: int) -> int | None:
        """A profile of the same network with initial weights, on the same images."""
        others = (i for i, of in enumerate(self.facts) if of.state == "untrained")
        return next((i for i in others if _twins(self.profiles[index], self.profiles[i])), None)

    def choices(self, claim: Claim) -> Iterator[tuple[int, ...]]:
        """Every choice of checkpoints that has the claim's roles and relation, on the same images."""
        playing = [[i for i, of in enumerate(self.facts) if ROLES[role].plays(of)] for role in claim.roles]
        for choice in itertools.product(*playing):
            if len(set(choice)) < len(choice) or len({self.profiles[i].images_sha256 for i in choice}) > 1:
                continue
            if claim.relation is None or claim.relation.holds(self.facts[choice[0]], self.facts[choice[-1]]):
                yield choice

    def missing(self, claim: Claim) -> str:
        """What would have to be there for the claim to be judged."""
        for role in claim.roles:
            if not any(ROLES[role].plays(of) for of in self.facts):
                return f"needs a {ROLES[role].words}"
        return f"needs two checkpoints {claim.relation.words}" if claim.relation else "measured on different images"


def _twins(one: Profile, other: Profile) -> bool:
    """Whether two profiles are of one network, whatever its weights, on the same images.

    By its configuration where both have one: a checkpoint stored without its classifier is another class with fewer parameters.
    """
    about = [profile.provenance["checkpoint"] for profile in (one, other)]
    keys = ("config", "image_size") if any(of.get("config") for of in about) else ("architecture", "parameters")
    known = [{key: of.get(key) for key in keys} for of in about]
    same_blocks = np.array_equal(one.data["block"].values, other.data["block"].values)
    return known[0] == known[1] and one.images_sha256 == other.images_sha256 and same_blocks


def judge(
    *profiles: Profile,
    claims: Sequence[Claim] | None = None,
    draws: int = 1000,
    seed: int = 0,
    permutations: int = 200,
    mixed: bool = False,
) -> list[Judgement]:
    """Judge every claim on every choice of profiles that has its roles.

    All tests of one call are corrected together (Holm 1979): a verdict stands only where p_holm is at most 0.05, and what an
    interval alone would say is kept beside it.

    Args:
        profiles: one or more, of the same images.
        claims: which to judge; all of `CLAIMS` by default.
        draws, seed: of the bootstrap over images.
        permutations: of the null beside statistics of CKA.
        mixed: profiles may be of different images, and only choices of the same are judged.

    Returns:
        One judgement per claim and choice of checkpoints; a claim that no choice fits appears once, as not applicable.

    Raises:
        StudyError: no profile, or profiles of different images.
    """
    found = judge_choices(*profiles, claims=claims, draws=draws, seed=seed, permutations=permutations, mixed=mixed)
    return [judgement for _, judgement in found]


def judge_choices(
    *profiles: Profile,
    claims: Sequence[Claim] | None = None,
    draws: int = 1000,
    seed: int = 0,
    permutations: int = 200,
    mixed: bool = False,
) -> list[tuple[tuple[int, ...], Judgement]]:
    """`judge`, each judgement with the numbers of the profiles that it is about: names need not be unique."""
    if not profiles:
        raise StudyError("judge needs at least one profile, got none")
    if not mixed:
        for profile in profiles[1:]:
            compare(profiles[0], profile)
    if claims is None:
        # the list is made of contrasts, which this file must not know
        claims = tuple(importlib.import_module(str(__package__)).CLAIMS)
    bench = Bench(profiles, draws, seed, permutations)
    tasks = [(claim, choice) for claim in claims for choice in list(bench.choices(claim)) or [()]]
    done: dict[int, Judgement] = {}
    for place in sorted(range(len(tasks)), key=lambda place: tasks[place][1]):  # all of one pair, then its maps may go
        done[place] = judge_choice(*tasks[place], bench)
    fixed = corrected([done[place] for place in range(len(tasks))])
    return [(choice, judgement) for (_, choice), judgement in zip(tasks, fixed, strict=True)]


def corrected(judgements: Sequence[Judgement]) -> list[Judgement]:
    """The same judgements, as one family of tests: verdicts that do not survive Holm's correction become undecided."""
    adjusted = holm([judgement.p for judgement in judgements])
    return [_corrected(judgement, p) for judgement, p in zip(judgements, adjusted, strict=True)]


def _corrected(judgement: Judgement, p: float) -> Judgement:
    said = judgement.alone
    if said in (Verdict.SUPPORTED, Verdict.CONTRADICTED, Verdict.NEGLIGIBLE) and not p <= ALPHA:
        said = Verdict.UNDECIDED
    return replace(judgement, verdict=said, p_holm=p)


def judge_choice(claim: Claim, choice: tuple[int, ...], bench: Bench) -> Judgement:
    if not choice:
        return Judgement(claim, (), Verdict.NOT_APPLICABLE, note=bench.missing(claim))
    chosen = [bench.profiles[i] for i in choice]
    names = tuple(profile.name for profile in chosen)
    comparison = bench.comparison(choice)
    try:
        for profile, name in [
            *itertools.product(chosen, claim.needs),
            *((chosen[0], name) for name in claim.needs_first),
        ]:
            profile[name]
        estimate = _estimate(claim.contrast(comparison), comparison)
    except StudyError as error:
        return Judgement(claim, names, Verdict.NOT_APPLICABLE, note=str(error))
    warnings = tuple(text for profile in chosen for text in dominated(profile)) if claim.sums_activations else ()
    return Judgement(
        claim,
        names,
        Verdict.UNDECIDED,
        estimate,
        verdict(estimate, claim.margin),
        p_value(estimate, claim.margin),
        note=granularity(chosen),
        warnings=warnings,
        controls=tuple(_controls(claim, choice, bench)) if claim.of_cka else (),
    )


def _estimate(found: np.ndarray | Estimate, comparison: Comparison) -> Estimate:
    return found if isinstance(found, Estimate) else comparison.resampling.estimate(found)


# ---------------------------------------------------------------------------------------------------------- controls


def _controls(claim: Claim, choice: tuple[int, ...], bench: Bench) -> Iterator[Control]:
    """What a statistic of CKA is by chance, without training, without one image, and without removing its bias."""
    comparison = bench.comparison(choice)
    if bench.permutations:
        yield _shuffled(claim, comparison.with_rows("shuffled", bench.permutations))
    twins = [bench.untrained_twin(i) for i in choice]
    if None not in twins:
        yield _untrained(claim, bench.comparison(tuple(twins)))  # type: ignore[arg-type]
    yield _without(claim, comparison.with_rows("without"))
    if all("square_flatten" in bench.profiles[i].data for i in choice):
        value = float(_rows(claim, comparison.with_rows("plain"))[0])
        text = "CKA without removing its bias, which is larger the fewer images and the more features (Murphy et al. 2024)."
        yield Control("plain CKA", value, np.nan, np.nan, text)


def _rows(claim: Claim, comparison: Comparison) -> np.ndarray:
    found = claim.contrast(comparison)
    assert isinstance(found, np.ndarray), "a claim of CKA gives rows"
    return found


def _shuffled(claim: Claim, comparison: Comparison) -> Control:
    observed, *null = _rows(claim, comparison)
    known = np.array(null)[np.isfinite(null)]
    if not len(known):
        return Control("shuffled images", np.nan, np.nan, np.nan, "Undefined for shuffled images.")
    low, middle, high = np.quantile(known, [0.025, 0.5, 0.975])
    p = (1 + int((np.abs(known) >= abs(observed)).sum())) / (len(known) + 1)
    text = f"With the images of one network shuffled; {len(known)} shuffles, as far from 0 as here with p = {p:.3f}."
    return Control("shuffled images", float(middle), float(low), float(high), text)


def _untrained(claim: Claim, comparison: Comparison) -> Control:
    estimate = comparison.resampling.estimate(_rows(claim, comparison))
    text = "The same networks with initial weights: what architecture and images alone give (Cui et al. 2022)."
    return Control("untrained networks", estimate.value, estimate.low, estimate.high, text)


def _without(claim: Claim, comparison: Comparison) -> Control:
    rows = _rows(claim, comparison)
    change = np.abs(rows[1:] - rows[0])
    if not np.isfinite(change).any():
        return Control("without one image", np.nan, np.nan, np.nan, "Undefined without one image.")
    image = int(np.nanargmax(change))
    text = (
        f"Range when one image is left out; image {image} moves it most, by {change[image]:.2g} (Davari et al. 2023)."
    )
    return Control(
        "without one image", float(rows[1 + image]), float(np.nanmin(rows[1:])), float(np.nanmax(rows[1:])), text
    )


# ---------------------------------------------------------------------------------------------------------- warnings


def dominated(profile: Profile) -> list[str]:
    """A sentence where one channel holds most of the squared activations of some blocks; empty where none does."""
    if "top_channel_share" not in profile.data:
        return []
    share = profile["top_channel_share"].mean("image").values
    blocks = np.flatnonzero(share > DOMINANT)
    if not len(blocks):
        return []
    names = profile.data["block"].values
    most = f"{100 * np.nanmax(share):.0f} %"
    where = f"{len(blocks)} of {len(names)} places, the first {names[blocks[0]]}"
    return [
        f"{profile.name}: one channel holds up to {most} of the squared activations ({where}). Statistics of whole activations "
        "say little but what this channel does there (massive activations, Sun et al. 2024)."
    ]


def granularity(profiles: Sequence[Profile]) -> str:
    """How finely each checkpoint was read, such as ``25 places in 12 blocks``: CKA claims depend on it."""
    return "; ".join(f"{profile.name}: {_places(profile)}" for profile in profiles)


def _places(profile: Profile) -> str:
    names = [str(name) for name in profile.data["block"].values]
    blocks = {name.split(".")[0] for name in names if name.startswith("block")}
    return f"{len(names)} places in {len(blocks)} blocks"

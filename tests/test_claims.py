"""Every claim says what a reader must know, is supported where it holds and contradicted where not.

The cases stand in the files ``test_claims_*.py``, one per topic: profiles in the order of the claim's roles, or a function
that makes them.
"""

import importlib
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from hf_vitstudy.claims import CLAIMS, ROLES, UNTESTED, Claim, Judgement, Verdict, choose_claims, judge, sources
from hf_vitstudy.errors import StudyError
from hf_vitstudy.profile import Profile


DRAWS = 120
BY_ID = {claim.id: claim for claim in CLAIMS}
DECIDED = (Verdict.SUPPORTED, Verdict.CONTRADICTED)


def collected() -> dict[tuple[str, Verdict], tuple[Profile, ...] | Callable[[], tuple[Profile, ...]]]:
    found: dict = {}
    for path in sorted(Path(__file__).parent.glob("test_claims_*.py")):
        cases = importlib.import_module(path.stem).CASES
        assert not found.keys() & cases.keys(), f"{path.name} repeats a case"
        found |= cases
    return found


CASES = collected()


@lru_cache
def case(name: str, expected: Verdict) -> tuple[Profile, ...]:
    made = CASES[name, expected]
    return tuple(made() if callable(made) else made)


def judged(name: str, *profiles: Profile) -> Judgement:
    (judgement,) = judge(*profiles, claims=[BY_ID[name]], draws=DRAWS, permutations=0)
    return judgement


# --------------------------------------------------------------------------------------------------- for and against


def test_every_claim_has_a_case_for_and_a_case_against():
    assert set(CASES) == {(claim.id, said) for claim in CLAIMS for said in DECIDED}
    assert len(BY_ID) == len(CLAIMS) >= 21


@pytest.mark.parametrize(("name", "expected"), CASES)
def test_a_claim_is_supported_where_it_holds_and_contradicted_where_not(name, expected):
    profiles = case(name, expected)
    judgement = judged(name, *profiles)
    assert judgement.verdict == expected, f"{judgement.estimate} {judgement.note}"
    assert judgement.checkpoints == tuple(profile.name for profile in profiles)
    assert len(profiles) == len(BY_ID[name].roles)
    estimate = judgement.estimate
    assert estimate.low <= estimate.value <= estimate.high
    assert estimate.n >= 2


@pytest.mark.parametrize("name", BY_ID)
def test_profiles_are_chosen_in_any_order(name):
    profiles = case(name, Verdict.SUPPORTED)
    again = judged(name, *reversed(profiles))
    assert again.checkpoints == tuple(profile.name for profile in profiles)
    assert again.estimate == judged(name, *profiles).estimate, "the draws have a seed"


# ---------------------------------------------------------------------------------------------------- what they say

SOURCES = [value for name, value in vars(sources).items() if name.isupper()]
PLACE = r"(Figs?|App\.?|Table|Sec\.?|Section) ?[\w.]+"


@pytest.mark.parametrize("claim", CLAIMS, ids=BY_ID)
def test_every_claim_says_all_that_a_reader_must_know(claim: Claim):
    author = next(source for source in SOURCES if claim.source.startswith(source))
    assert re.match(rf", {PLACE}", claim.source.removeprefix(author)), claim.source
    assert claim.id.startswith({"Raghu": "R-", "Park": "P-", "Dosovitskiy": "V-"}[author.split()[0]])
    assert claim.margin > 0
    assert claim.unit
    assert len(claim.statistic) > 40
    assert len(claim.formula) > 10
    assert "\n" not in claim.formula
    assert len(claim.falsified_by) > 20
    assert claim.text[0].isupper()
    assert not claim.text.endswith(".")
    assert claim.conditions.endswith(".")
    assert claim.against == "" or claim.against.endswith(".")
    assert claim.needs or "training's record" in claim.statistic
    assert 1 <= len(claim.roles) <= 3
    assert set(claim.roles) <= set(ROLES)
    assert claim.test in ("any", "trained", "proxy")
    assert claim.relation is None or len(claim.roles) > 1
    assert claim.contrast.__doc__


def test_a_claim_by_proxy_says_what_stands_in():
    proxies = [claim for claim in CLAIMS if claim.test == "proxy"]
    assert "R-13-proxy" in [claim.id for claim in proxies]
    for claim in proxies:
        assert re.search(r"never released|not public|stands? in", claim.conditions), claim.id


def test_whatever_reads_whole_activations_warns_of_single_channels():
    assert [claim.id for claim in CLAIMS if claim.of_cka and not claim.sums_activations] == []


def test_every_line_fits_a_table():
    for claim in CLAIMS:
        assert max(map(len, (claim.text, claim.formula, claim.falsified_by))) <= 128, claim.id


def test_what_cannot_be_tested_says_why():
    assert not set(UNTESTED) & set(BY_ID)
    for name, reason in UNTESTED.items():
        assert re.fullmatch(r"[RPV]-[\w-]+", name)
        assert len(reason) > 30, name


# ------------------------------------------------------------------------------------------- missing and undefined


MEASURED = [claim for claim in CLAIMS if claim.needs]  # the others read the record of the training


@pytest.mark.parametrize("claim", MEASURED, ids=lambda claim: claim.id)
def test_a_missing_measurement_is_a_reason_not_an_error(claim: Claim):
    """Missing in any of the profiles; the reason is the one that the profile gives."""
    profiles, missing = case(claim.id, Verdict.SUPPORTED), claim.needs[0]
    for place, profile in enumerate(profiles):
        reason = {"absent": profile.provenance.get("absent", {}) | {missing: "no room"}}
        without = {
            f"has no {missing!r}: no room": Profile(profile.data.drop_vars(missing), profile.provenance | reason),
            f"has no measurement {missing!r}": Profile(profile.data.drop_vars(missing), profile.provenance),
        }
        for note, changed in without.items():
            found = judged(claim.id, *profiles[:place], changed, *profiles[place + 1 :])
            assert found.verdict == Verdict.NOT_APPLICABLE
            assert found.estimate is None
            assert note in found.note
            assert found.checkpoints == tuple(profile.name for profile in profiles)


def undefined(profile: Profile, name: str) -> Profile:
    """The same with a measurement undefined for every image: the same Gram matrix for all, NaN, or an unknown answer."""
    array = profile.data[name]
    nothing = 0 if "gram" in name else np.nan if array.dtype.kind == "f" else -1
    return Profile(
        profile.data.assign({name: array.copy(data=np.full_like(array.values, nothing))}), profile.provenance
    )


@pytest.mark.parametrize("claim", MEASURED, ids=lambda claim: claim.id)
def test_an_undefined_measurement_decides_nothing(claim: Claim):
    profiles = [undefined(profile, claim.needs[0]) for profile in case(claim.id, Verdict.SUPPORTED)]
    found = judged(claim.id, *profiles)
    assert found.verdict in (Verdict.UNDECIDED, Verdict.NOT_APPLICABLE)
    assert found.estimate is None or np.isnan(found.estimate.value)


def test_claims_are_chosen_by_id():
    assert choose_claims(None) == list(CLAIMS)
    assert [claim.id for claim in choose_claims(["R-2", "P-F1"])] == ["R-2", "P-F1"]
    assert choose_claims([]) == []
    with pytest.raises(StudyError, match=r"no claim is called 'R-99'; did you mean R-"):
        choose_claims(["R-1", "R-99"])

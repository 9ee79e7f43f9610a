"""Every claim can be supported and contradicted, and its number is what its sentence says, computed another way."""

import json
import re
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pytest
from oracles import minibatch_cka
from synthetic import gram_variables, places, synthetic_profile

from hf_vitstudy.claims import (
    CLAIMS,
    Claim,
    Judgement,
    Verdict,
    choose_claims,
    dominated,
    granularity,
    judge,
    verdict,
)
from hf_vitstudy.comparison import compare
from hf_vitstudy.errors import StudyError
from hf_vitstudy.profile import Profile
from hf_vitstudy.stats import Estimate


N, BATCH, DRAWS = 96, 16, 120
BY_ID = {claim.id: claim for claim in CLAIMS}


class Made(NamedTuple):
    """A profile and the features behind its Gram blocks."""

    profile: Profile
    features: tuple[np.ndarray, ...]


def turned(angles: tuple[float, ...], seed: int) -> tuple[np.ndarray, ...]:
    """Features whose similarity falls with the difference of their angles (in quarter turns)."""
    rng = np.random.default_rng(0)
    U, V = rng.normal(size=(2, N, 12))
    own = np.random.default_rng(seed + 1)
    radians = np.pi / 2 * np.array(angles)
    return tuple(np.cos(t) * U + np.sin(t) * V + 0.1 * own.normal(size=(N, 12)) for t in radians)


def steps(kind: str, step: dict[str, float], jump: float) -> np.ndarray:
    """A curve along depth that changes by `step` at each kind of sublayer, and by `jump` where a stage begins."""
    where = places(kind)
    stage = np.array(where["stage"])
    begins = np.append(False, np.diff(stage) > 0)
    each = np.array([step.get(name, 0.0) for name in where["kind"]])
    return np.where(begins, jump, each).cumsum()


@lru_cache
def made(
    kind: str,
    angles: tuple[float, float] = (0.0, 1.0),
    curve: float = 1.0,
    step: tuple[tuple[str, float], ...] = (),
    heads: tuple[str, str] | None = None,
    seed: int = 0,
) -> Made:
    """A ViT (17 places) or ResNet (9) whose blocks turn from the first to the second angle along depth ** `curve`.

    Its highest band and its log variance change by `step` at the sublayers of a kind; across stages, where nothing is
    to be compared, and in the lower bands they do the opposite, tenfold. `heads` are the heads of the first and last layers.
    """
    rng = np.random.default_rng(seed)
    where, changes = places(kind), dict(step)
    count = len(where["block"])
    features = turned(tuple(angles[0] + (angles[1] - angles[0]) * np.array(where["depth"]) ** curve), seed + count)
    against = -10 * sum(changes.values())
    level = steps(kind, changes, against)
    fourier = rng.normal(0, 0.05, (N, count, 5)) + level[:, None] * np.array([-10, -10, -10, -10, 1])
    variance = np.exp(rng.normal(0, 0.05, (N, count)) + level)
    base = synthetic_profile(kind, n=N, block=BATCH, name=f"{kind}-{seed}")
    data = base.data.assign(gram_variables(list(features), BATCH, dtype=np.float32))
    data["fourier"] = base.data["fourier"].copy(data=fourier)
    data["variance"] = base.data["variance"].copy(data=variance)
    if kind == "vit":
        first, last = (HEADS[name] for name in heads or ("mixed", "global"))
        share = np.repeat([0.0, 0.5, 1.0], [2, 4, 2])[:, None]
        distance = first * (1 - share) + last * share + rng.normal(0, 0.1, (N, 8, 4))
        data["attention_distance"] = base.data["attention_distance"].copy(data=distance)
    return Made(Profile(data, base.provenance), features)


HEADS = {"mixed": np.array([4.0, 9.0, 14.0, 17.0]), "global": np.array([15.0, 16.0, 16.5, 17.0])}


def vit(**options) -> Made:
    return made("vit", **options)


def resnet(**options) -> Made:
    return made("resnet", **options)


LOWERS, RAISES = -0.1, 0.1
CASES: dict[tuple[str, Verdict], tuple[Made, ...]] = {
    ("R-1", Verdict.SUPPORTED): (vit(angles=(0.0, 0.2)), resnet()),
    ("R-1", Verdict.CONTRADICTED): (vit(), resnet(angles=(0.0, 0.2))),
    ("R-2", Verdict.SUPPORTED): (vit(), resnet(curve=3.0)),
    ("R-2", Verdict.CONTRADICTED): (vit(), resnet(angles=(0.5, 1.0))),
    ("P-F1", Verdict.SUPPORTED): (vit(step=(("attention", LOWERS),)),),
    ("P-F1", Verdict.CONTRADICTED): (vit(step=(("attention", RAISES),)),),
    ("P-F2-mlp", Verdict.SUPPORTED): (vit(step=(("mlp", RAISES),)),),
    ("P-F2-mlp", Verdict.CONTRADICTED): (vit(step=(("mlp", LOWERS),)),),
    ("P-F2-conv", Verdict.SUPPORTED): (resnet(step=(("conv", RAISES),)),),
    ("P-F2-conv", Verdict.CONTRADICTED): (resnet(step=(("conv", LOWERS),)),),
    ("P-V1-msa", Verdict.SUPPORTED): (vit(step=(("attention", LOWERS),)),),
    ("P-V1-msa", Verdict.CONTRADICTED): (vit(step=(("attention", RAISES),)),),
    ("P-V1-mlp", Verdict.SUPPORTED): (vit(step=(("mlp", RAISES),)),),
    ("P-V1-mlp", Verdict.CONTRADICTED): (vit(step=(("mlp", LOWERS),)),),
    ("P-V1-conv", Verdict.SUPPORTED): (resnet(step=(("conv", RAISES),)),),
    ("P-V1-conv", Verdict.CONTRADICTED): (resnet(step=(("conv", LOWERS),)),),
    ("R-4-local", Verdict.SUPPORTED): (vit(heads=("mixed", "global")),),
    ("R-4-local", Verdict.CONTRADICTED): (vit(heads=("global", "mixed")),),
    ("R-4-mixed", Verdict.SUPPORTED): (vit(heads=("mixed", "global")),),
    ("R-4-mixed", Verdict.CONTRADICTED): (vit(heads=("global", "mixed")),),
}


def judged(name: str, *profiles: Profile, draws: int = DRAWS) -> Judgement:
    (judgement,) = judge(*profiles, claims=[BY_ID[name]], draws=draws)
    return judgement


# ------------------------------------------------------------------------------------------------- every claim, tested


def test_every_claim_has_a_case_for_and_a_case_against():
    assert set(CASES) == {(claim.id, said) for claim in CLAIMS for said in (Verdict.SUPPORTED, Verdict.CONTRADICTED)}
    assert set(ORACLES) == set(BY_ID)
    assert len(BY_ID) == len(CLAIMS) >= 5


@pytest.mark.parametrize(("name", "expected"), CASES)
def test_a_claim_is_supported_where_it_holds_and_contradicted_where_not(name, expected):
    judgement = judged(name, *(case.profile for case in CASES[name, expected]))
    assert judgement.verdict == expected, str(judgement.estimate)
    assert judgement.checkpoints == tuple(case.profile.name for case in CASES[name, expected])
    assert judgement.estimate.n == N
    assert judgement.estimate.low <= judgement.estimate.value <= judgement.estimate.high


@pytest.mark.parametrize("claim", CLAIMS, ids=BY_ID)
def test_every_claim_says_all_that_a_reader_must_know(claim: Claim):
    assert re.fullmatch(r"(Raghu et al\. 2021|Park & Kim 2022), Fig \d+", claim.source)
    assert claim.id.startswith(claim.source[0] + "-")
    assert claim.margin > 0
    assert claim.unit
    assert len(claim.statistic) > 40
    assert claim.text.strip()
    assert claim.conditions.endswith(".")
    assert claim.needs
    assert claim.roles in (("vit",), ("resnet",), ("vit", "resnet"))
    assert claim.contrast.__doc__


# ---------------------------------------------------------------------------------------------- the numbers themselves


def low_high_similarity(case: Made) -> float:
    """Mean CKA of the lowest with the highest third of the blocks."""
    depth = case.profile.data["depth"].values
    cells = [
        minibatch_cka(case.features[i], case.features[j], BATCH)
        for i in np.flatnonzero(depth <= 1 / 3)
        for j in np.flatnonzero(depth > 2 / 3)
    ]
    return float(np.mean(cells))


def reach(vit: Made, resnet: Made, cells: int = 400_000) -> float:
    """Share of the ResNet's depth whose most similar ViT block lies in the ViT's lower quarter, minus 0.25.

    The lead of the lower quarter on a dense grid over the ResNet's depth, constant below its first block.
    """
    lead = []
    for y in resnet.features:
        similarity = np.array([minibatch_cka(x, y, BATCH) for x in vit.features])
        low = vit.profile.data["depth"].values <= 0.25
        lead.append(similarity[low].max() - similarity[~low].max())
    grid = (np.arange(cells) + 0.5) / cells
    return float(np.mean(np.interp(grid, resnet.profile.data["depth"].values, lead) > 0)) - 0.25


def mean_step(values: np.ndarray, profile: Profile, kind: str) -> float:
    """Mean over images and sublayers of `kind` of the change across the sublayer, within a stage; values (n, block)."""
    kinds, stage = profile.data["kind"].values, profile.data["stage"].values
    changes = []
    for image in values:
        for i in range(1, len(kinds)):
            if kinds[i] == kind and stage[i] == stage[i - 1]:
                changes.append(image[i] - image[i - 1])
    return float(np.mean(changes))


def highest_band(case: Made) -> np.ndarray:
    frequency = case.profile.data["frequency"].values
    assert 0.8 < frequency[-1] < 1
    return case.profile["fourier"].values[:, :, -1].astype(np.float64)


def log_variance(case: Made) -> np.ndarray:
    return np.log(case.profile["variance"].values.astype(np.float64))


def heads(case: Made, layers: slice) -> np.ndarray:
    """Mean distance of the heads of some layers, relative to uniform attention."""
    array = case.profile["attention_distance"]
    return array.values.astype(np.float64).mean(0)[layers] / array.attrs["uniform"]


LOW, HIGH = slice(0, 2), slice(-2, None)
ORACLES = {
    "R-1": lambda vit, resnet: low_high_similarity(vit) - low_high_similarity(resnet),
    "R-2": reach,
    "P-F1": lambda vit: -mean_step(highest_band(vit), vit.profile, "attention"),
    "P-F2-mlp": lambda vit: mean_step(highest_band(vit), vit.profile, "mlp"),
    "P-F2-conv": lambda resnet: mean_step(highest_band(resnet), resnet.profile, "conv"),
    "P-V1-msa": lambda vit: -mean_step(log_variance(vit), vit.profile, "attention"),
    "P-V1-mlp": lambda vit: mean_step(log_variance(vit), vit.profile, "mlp"),
    "P-V1-conv": lambda resnet: mean_step(log_variance(resnet), resnet.profile, "conv"),
    "R-4-local": lambda vit: heads(vit, HIGH).min() - heads(vit, LOW).min(),
    "R-4-mixed": lambda vit: np.ptp(heads(vit, LOW)) - np.ptp(heads(vit, HIGH)),
}


@pytest.mark.parametrize(("name", "expected"), CASES)
def test_the_contrast_is_what_the_sentence_says(name, expected):
    case = CASES[name, expected]
    found = BY_ID[name].contrast(compare(case[0].profile, case[-1].profile, draws=5))
    assert found.shape == (6,)
    assert found[0] == pytest.approx(ORACLES[name](*case), abs=1e-5)


@pytest.mark.parametrize("name", [claim.id for claim in CLAIMS if "gram_flatten" not in claim.needs])
def test_each_draw_is_the_contrast_of_the_images_drawn(name):
    case = CASES[name, Verdict.SUPPORTED][0]
    comparison = compare(case.profile, case.profile, draws=4)
    found = BY_ID[name].contrast(comparison)
    for row, counts in zip(found, comparison.resampling.weights().astype(int), strict=True):
        drawn = case.profile.data.isel(image=np.repeat(np.arange(N), counts))
        assert row == pytest.approx(ORACLES[name](Made(Profile(drawn), case.features)), abs=1e-5)


@pytest.mark.parametrize("name", ["R-1", "R-2"])
def test_draws_of_similarities_lie_around_the_contrast(name):
    rows = BY_ID[name].contrast(compare(*(case.profile for case in CASES[name, Verdict.SUPPORTED]), draws=200))
    assert np.isfinite(rows).all()
    assert 0 < rows[1:].std() < 0.1
    assert abs(rows[1:].mean() - rows[0]) < 2 * rows[1:].std()


@pytest.mark.parametrize("angles", [(0.0, 1.0), (1.0, 0.0)], ids=["away from low blocks", "towards low blocks"])
@pytest.mark.parametrize("curve", [0.7, 1.0, 1.7, 5.0])
def test_the_reach_moves_with_the_similarities_not_in_steps(curve, angles):
    """The crossing lies between two blocks; whole blocks would give multiples of 1/9."""
    case = vit(), resnet(curve=curve, angles=angles)
    found = BY_ID["R-2"].contrast(compare(case[0].profile, case[1].profile, draws=2))[0]
    assert -0.25 < found < 0.75
    assert found == pytest.approx(reach(*case), abs=1e-5)
    blocks = 9 * (found + 0.25)
    assert abs(blocks - round(blocks)) > 1e-3


def test_the_reach_goes_from_nothing_to_all_of_the_depth():
    ends = [
        BY_ID["R-2"].contrast(compare(vit().profile, resnet(angles=(angle, angle)).profile, draws=2))[0]
        for angle in (0.0, 1.0)
    ]
    np.testing.assert_allclose(ends, [0.75, -0.25], atol=1e-12)


def test_a_change_of_stage_is_no_step():
    """The synthetic ResNet jumps tenfold the other way at every stage; only blocks within a stage count."""
    case = resnet(step=(("conv", RAISES),))
    found = BY_ID["P-V1-conv"].contrast(compare(case.profile, case.profile, draws=2))[0]
    assert found == pytest.approx(RAISES, abs=0.02)


# ------------------------------------------------------------------------------------------------------------ verdicts

VERDICTS = [
    (0.11, 0.2, Verdict.SUPPORTED),
    (0.1, 0.2, Verdict.UNDECIDED),
    (0.05, 0.2, Verdict.UNDECIDED),
    (-0.2, -0.11, Verdict.CONTRADICTED),
    (-0.2, -0.1, Verdict.UNDECIDED),
    (-0.2, 0.2, Verdict.UNDECIDED),
    (-0.2, 0.05, Verdict.UNDECIDED),
    (-0.1, 0.1, Verdict.NEGLIGIBLE),
    (0.0, 0.0, Verdict.NEGLIGIBLE),
    (0.05, 0.09, Verdict.NEGLIGIBLE),
    (-0.09, -0.05, Verdict.NEGLIGIBLE),
    (-0.1, 0.11, Verdict.UNDECIDED),
    (-0.11, 0.1, Verdict.UNDECIDED),
    (np.nan, np.nan, Verdict.UNDECIDED),
    (0.2, np.nan, Verdict.UNDECIDED),
    (np.nan, -0.2, Verdict.UNDECIDED),
    (0.2, np.inf, Verdict.UNDECIDED),
    (-np.inf, -0.2, Verdict.UNDECIDED),
]


@pytest.mark.parametrize(("low", "high", "expected"), VERDICTS)
def test_the_interval_decides(low, high, expected):
    assert verdict(Estimate((low + high) / 2, low, high, 100), margin=0.1) == expected
    mirrored = {Verdict.SUPPORTED: Verdict.CONTRADICTED, Verdict.CONTRADICTED: Verdict.SUPPORTED}
    assert verdict(Estimate(-(low + high) / 2, -high, -low, 100), 0.1) == mirrored.get(expected, expected)


def test_the_value_does_not_decide():
    """An estimate far above the margin with an interval that reaches below it is undecided."""
    assert verdict(Estimate(5.0, 0.09, 9.0, 10), margin=0.1) == Verdict.UNDECIDED


def test_an_effect_without_a_size_is_negligible_and_a_noisy_one_undecided():
    none = vit(step=(("attention", 0.0),))
    assert judged("P-F1", none.profile).verdict == Verdict.NEGLIGIBLE
    noisy = none.profile.data["variance"] * np.exp(np.random.default_rng(0).normal(0, 2, (N, 17)))
    few = Profile(none.profile.data.assign(variance=noisy), none.profile.provenance)
    assert judged("P-V1-msa", few).verdict == Verdict.UNDECIDED


# --------------------------------------------------------------------------------------------------- who is judged on what


def test_one_profile_is_judged_on_what_it_can_say():
    found = {j.claim.id: j for j in judge(vit().profile, draws=20)}
    assert list(found) == [claim.id for claim in CLAIMS]
    for name, judgement in found.items():
        applies = BY_ID[name].roles == ("vit",)
        assert (judgement.verdict != Verdict.NOT_APPLICABLE) == applies
        assert (judgement.estimate is not None) == applies
        if not applies:
            assert judgement.note == "needs a checkpoint with convolutional blocks and no attention"
            assert judgement.checkpoints == ()

    alone = {j.claim.id: j for j in judge(resnet().profile, draws=20)}
    assert alone["R-1"].note == alone["P-F1"].note == "needs a checkpoint with attention"
    assert alone["P-V1-conv"].checkpoints == ("resnet-0",)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_profiles_take_their_roles_in_any_order(order):
    pair = [case.profile for case in CASES["R-1", Verdict.SUPPORTED]]
    found = judge(*(pair[i] for i in order), draws=40)
    assert len(found) == len(CLAIMS)
    assert all(j.verdict != Verdict.NOT_APPLICABLE for j in found)
    for judgement in found:
        roles = {"vit": "vit-0", "resnet": "resnet-0"}
        assert judgement.checkpoints == tuple(roles[role] for role in judgement.claim.roles)
    assert found == judge(*(pair[i] for i in order), draws=40), "the draws have a seed"
    straight = judge(*pair, draws=40)
    assert [j.verdict for j in found] == [j.verdict for j in straight]
    np.testing.assert_allclose(
        [j.estimate.value for j in found], [j.estimate.value for j in straight], atol=1e-6, err_msg=str(order)
    )


def test_three_profiles_give_every_choice():
    first, second, conv = vit().profile, vit(seed=1).profile, resnet().profile
    found = [(j.claim.id, j.checkpoints) for j in judge(first, conv, second, draws=10)]
    for claim in CLAIMS:
        of_claim = [names for name, names in found if name == claim.id]
        expected = {
            ("vit",): [("vit-0",), ("vit-1",)],
            ("resnet",): [("resnet-0",)],
            ("vit", "resnet"): [("vit-0", "resnet-0"), ("vit-1", "resnet-0")],
        }[claim.roles]
        assert of_claim == expected, claim.id


def test_a_network_with_attention_and_convolutions_is_no_resnet():
    hybrid = vit().profile
    kinds = hybrid.data["kind"].copy(data=["conv" if kind == "mlp" else kind for kind in hybrid.data["kind"].values])
    found = {j.claim.id: j for j in judge(Profile(hybrid.data.assign_coords(kind=kinds), hybrid.provenance), draws=10)}
    assert found["P-F2-conv"].verdict == Verdict.NOT_APPLICABLE
    assert found["P-F1"].verdict != Verdict.NOT_APPLICABLE


@pytest.mark.parametrize("claim", CLAIMS, ids=BY_ID)
def test_a_missing_measurement_is_a_reason_not_an_error(claim: Claim):
    """Missing in either profile; the reason is the one that the profile gives."""
    pair = {"vit": vit().profile, "resnet": resnet().profile}
    for role in claim.roles:
        profile = pair[role]
        without = {
            "said": Profile(
                profile.data.drop_vars(claim.needs), profile.provenance | {"absent": {claim.needs[0]: "no room"}}
            ),
            "silent": Profile(profile.data.drop_vars(claim.needs), profile.provenance),
        }
        notes = {
            "said": f"{role}-0 has no '{claim.needs[0]}': no room",
            "silent": f"has no measurement '{claim.needs[0]}'",
        }
        for case, changed in without.items():
            found = judged(claim.id, *(pair | {role: changed}).values())
            assert found.verdict == Verdict.NOT_APPLICABLE
            assert found.estimate is None
            assert notes[case] in found.note
            assert found.checkpoints == tuple(f"{role}-0" for role in claim.roles)


def test_nothing_to_judge_and_unlike_images_are_errors():
    with pytest.raises(StudyError, match="judge needs at least one profile, got none"):
        judge()
    other = synthetic_profile("resnet", n=64, block=BATCH)
    with pytest.raises(StudyError, match="were measured on different images: 96 against 64 images"):
        judge(vit().profile, other, draws=5)


def test_claims_are_chosen_by_id():
    assert choose_claims(None) == list(CLAIMS)
    assert [claim.id for claim in choose_claims(["R-2", "P-F1"])] == ["R-2", "P-F1"]
    assert choose_claims([]) == []
    with pytest.raises(StudyError, match=r"no claim is called 'R-9'; there are: R-1, R-2, .*R-4-mixed"):
        choose_claims(["R-1", "R-9"])
    assert judge(vit().profile, claims=[], draws=5) == []


def test_claims_are_judged_on_the_same_draws():
    """P-F1 and its opposite, on one resampling: intervals mirror each other exactly."""
    case = vit(step=(("attention", LOWERS), ("mlp", RAISES))).profile
    once, again = (judged("P-F1", case, draws=60).estimate for _ in range(2))
    assert once == again
    other = judge(case, claims=[BY_ID["P-F1"]], draws=60, seed=1)[0].estimate
    assert other.value == once.value
    assert other.low != once.low


# ------------------------------------------------------------------------------------------- granularity and warnings


def test_the_granularity_is_stated_with_every_judgement():
    profiles = [vit().profile, resnet().profile]
    assert granularity(profiles) == "vit-0: 17 places in 8 blocks; resnet-0: 9 places in 8 blocks"
    assert judged("R-2", *profiles).note == granularity(profiles)
    assert judged("P-F1", *profiles).note == granularity(profiles[:1])


def with_share(profile: Profile, share: np.ndarray) -> Profile:
    """One channel holds this share of the squared activations, (block,), give or take by image."""
    values = share * (1 + 0.01 * np.linspace(-1, 1, N)[:, None])
    return Profile(profile.data.assign(top_channel_share=(("image", "block"), values)), profile.provenance)


def test_one_channel_that_outweighs_the_rest_is_warned_of_where_it_matters():
    share = np.full(17, 0.1)
    share[[3, 5]] = 0.7, 0.92
    heavy = with_share(vit().profile, share)
    (warning,) = dominated(heavy)
    assert (
        "vit-0: one channel holds up to 92 % of the squared activations (2 of 17 places, the first block01" in warning
    )
    for judgement in judge(heavy, resnet().profile, draws=10):
        concerned = judgement.claim.sums_activations and "vit" in judgement.claim.roles
        assert judgement.warnings == ((warning,) if concerned else ()), judgement.claim.id
    assert {claim.id for claim in CLAIMS if claim.sums_activations} == {
        "R-1",
        "R-2",
        "P-V1-msa",
        "P-V1-mlp",
        "P-V1-conv",
    }


def test_no_channel_outweighs_the_rest_no_warning():
    assert dominated(vit().profile) == []
    assert dominated(with_share(vit().profile, np.full(17, 0.49))) == []
    share = np.full(17, np.nan)
    assert dominated(with_share(vit().profile, share)) == []


def test_a_block_without_activations_does_not_hide_the_warning():
    share = np.full(17, 0.1)
    share[4], share[6] = 0.8, np.nan
    (warning,) = dominated(with_share(vit().profile, share))
    assert "up to 80 % of the squared activations (1 of 17 places" in warning


# -------------------------------------------------------------------------------------------------- undefined and JSON


def undefined(claim: Claim) -> tuple[Profile, ...]:
    """The profiles of a claim with everything it reads undefined for every image."""
    pair = []
    for role in claim.roles:
        profile = {"vit": vit, "resnet": resnet}[role]().profile
        name = claim.needs[0]
        values = np.zeros_like if name.startswith("gram") else lambda a: np.full_like(a, np.nan)
        data = profile.data.assign({name: profile.data[name].copy(data=values(profile.data[name].values))})
        pair.append(Profile(data, profile.provenance))
    return tuple(pair)


@pytest.mark.parametrize("claim", CLAIMS, ids=BY_ID)
def test_an_undefined_measurement_is_undecided(claim: Claim):
    found = judged(claim.id, *undefined(claim), draws=10)
    assert found.verdict == Verdict.UNDECIDED
    assert np.isnan(found.estimate.value)


@pytest.mark.parametrize("place", [0, 4, 8])
def test_the_reach_leaves_a_block_out_that_is_the_same_for_all_images(place):
    """A cell without a CKA says nothing about the depth around it; the others are interpolated over it."""
    profile, full = resnet(curve=3.0).profile, resnet(curve=3.0)
    stored = profile.data["gram_flatten"].values.copy()
    stored[place] = 0
    constant = Profile(
        profile.data.assign(gram_flatten=profile.data["gram_flatten"].copy(data=stored)), profile.provenance
    )
    found = judged("R-2", vit().profile, constant)
    kept = [i for i in range(9) if i != place]
    rest = Made(Profile(profile.data.isel(block=kept), profile.provenance), tuple(full.features[i] for i in kept))
    assert found.estimate.value == pytest.approx(reach(vit(), rest), abs=1e-5)


def test_an_undefined_block_of_the_vit_is_never_the_most_similar():
    profile, full = vit().profile, vit()
    stored = profile.data["gram_flatten"].values.copy()
    stored[0] = 0
    constant = Profile(
        profile.data.assign(gram_flatten=profile.data["gram_flatten"].copy(data=stored)), profile.provenance
    )
    rest = Made(Profile(profile.data.isel(block=slice(1, None))), full.features[1:])
    found = judged("R-2", constant, resnet(curve=3.0).profile)
    assert found.estimate.value == pytest.approx(reach(rest, resnet(curve=3.0)), abs=1e-5)


def plain(judgement: Judgement) -> dict:
    """Through strict JSON, as a browser reads it."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(json.dumps(judgement.to_dict(), allow_nan=False), parse_constant=refuse)


def test_judgements_are_plain_json():
    for judgement in judge(vit().profile, resnet().profile, draws=10) + judge(vit().profile, draws=10):
        found = plain(judgement)
        assert found["id"] == judgement.claim.id
        assert found["verdict"] == judgement.verdict.value
        assert found["checkpoints"] == list(judgement.checkpoints)
        assert found["margin"] == judgement.claim.margin
        assert "contrast" not in found
        assert {"text", "source", "statistic", "unit", "conditions", "note", "warnings"} <= set(found)
        if judgement.estimate is None:
            assert found["estimate"] is None
        else:
            assert found["estimate"]["low"] == judgement.estimate.low
            assert found["estimate"]["n"] == N


@pytest.mark.parametrize(
    "estimate",
    [
        Estimate(np.nan, np.nan, np.nan, 10),
        Estimate(0.5, np.nan, np.nan, 10),
        Estimate(0.1, -np.inf, np.inf, 10),
    ],
    ids=["all undefined", "no interval", "no bounds"],
)
def test_an_undefined_estimate_is_null_in_json(estimate):
    found = plain(Judgement(CLAIMS[0], ("a", "b"), verdict(estimate, 0.05), estimate))
    for key in ("value", "low", "high"):
        number = float(getattr(estimate, key))
        assert found["estimate"][key] == (pytest.approx(number) if np.isfinite(number) else None)


@pytest.mark.parametrize("side", ["vit", "resnet"])
def test_networks_of_one_place_are_undecided_not_a_crash(side):
    found = {kind: synthetic_profile(kind, n=32) for kind in ("vit", "resnet")}
    short = found[side].data.isel(block=[-2])  # after the last attention, or after the last block but one
    found[side] = Profile(short, found[side].provenance)
    judgements = {judgement.claim.id: judgement for judgement in judge(*found.values(), draws=100)}
    assert judgements["R-1"].verdict == "undecided"
    assert judgements["P-F2-conv"].verdict == ("supported" if side == "vit" else "undecided")
    difference = compare(*found.values(), draws=100).difference("relative_variance")
    assert np.isfinite(difference["difference"].values).all()

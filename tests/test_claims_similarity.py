"""CKA of all layers: each contrast against features, Gram matrix by Gram matrix."""

from functools import lru_cache

import numpy as np
import pytest
import xarray as xr
from oracles import minibatch_cka
from planted import BATCH, Made, N, in_stages, made, profiles, renamed_kinds, resnet, told, turned, vit
from synthetic import gram_variables, places

from hf_vitstudy.claims import Verdict, choose_claims, judge
from hf_vitstudy.comparison import Comparison, compare
from hf_vitstudy.errors import StudyError
from hf_vitstudy.profile import Profile
from hf_vitstudy.stats import Estimate


STAGES = [1] * 5 + [2] * 4 + [3] * 4 + [4] * 4  # of 17 places


def in_blocks(kind: str, seed: int = 0) -> Made:
    """A network whose blocks are alike within a stage and turn only where the next one begins."""
    stage = np.array(STAGES if kind == "vit" else places(kind)["stage"])
    base = made(kind, seed=seed)
    return in_stages(with_turn(base, (stage - 1) / 3, f"{kind}-in-blocks", seed), stage.tolist())


def across(kind: str, seed: int = 0) -> Made:
    """The reverse: blocks of one stage differ, and the same places of all stages are alike."""
    stage = np.array(STAGES if kind == "vit" else places(kind)["stage"])
    turn = np.concatenate([np.linspace(0, 1, (stage == s).sum()) for s in np.unique(stage)])
    return in_stages(with_turn(made(kind, seed=seed), turn, f"{kind}-across", seed), stage.tolist())


def with_turn(base: Made, turn: np.ndarray, name: str, seed: int = 0) -> Made:
    features = turned(tuple(turn), seed + 50)
    data = base.profile.data.assign(gram_variables(list(features), BATCH, dtype=np.float32))
    about = base.profile.provenance["checkpoint"] | {"name": name, "weights_sha256": name}
    return Made(Profile(data, base.profile.provenance | {"checkpoint": about}), features)


def as_mixer(case: Made) -> Made:
    about = case.profile.provenance["checkpoint"] | {"config": {"architecture": "mixer_b16_224"}, "name": "mixer"}
    changed = renamed_kinds(case, lambda kind: "mlp" if kind == "attention" else kind)
    return Made(Profile(changed.profile.data, case.profile.provenance | {"checkpoint": about}), case.features)


def pair_of(first: Made, second: Made, axis: str, values: tuple[float, float]) -> tuple[Made, Made]:
    """Two checkpoints alike but for one axis."""
    return tuple(
        told(case, name, family="one recipe", **{axis: value})
        for case, name, value in zip((first, second), ("less", "more"), values, strict=True)
    )


def tuned(first: Made, second: Made) -> tuple[Made, Made]:
    return told(first, "before", weights="0123"), told(second, "after", parent="0123")


def with_skips(right: float, middle: float) -> Made:
    """A ViT that answers so many images rightly, and without one of its middle skips so many; two labels are unknown."""
    rng, count = np.random.default_rng(0), 12
    depth = (np.arange(count) + 1) / count
    shares = np.where((depth > 1 / 3) & (depth <= 2 / 3), middle, 0.5)
    intact = (rng.uniform(size=64) < right).astype(np.int8)
    without = (rng.uniform(size=(64, count)) < shares).astype(np.int8)
    intact[:2] = without[:2] = -1
    variables = {
        "skip_removal_intact_correct": (("skip_removal_image",), intact),
        "skip_removal_correct": (("skip_removal_image", "skip_removal"), without),
        "skip_removal_depth": (("skip_removal",), depth.astype(np.float32)),
    }
    return Made(Profile(vit().profile.data.assign(variables), vit().profile.provenance), ())


@lru_cache
def with_heads(like_local: bool) -> tuple[Made, Made, np.ndarray]:
    """A ViT of 8 heads, its ResNet, and the heads' features: the more local (or the more global) the more like the ResNet."""
    rng = np.random.default_rng(3)
    shared, conv = resnet(angles=(0.0, 0.1)).features[1], resnet(angles=(0.0, 0.1))
    order = rng.permutation(8)
    far = 4 + 2.0 * order
    noise = (0.2 + 0.4 * order) if like_local else (0.2 + 0.4 * (7 - order))
    heads = np.stack([shared + amount * rng.normal(size=shared.shape) for amount in noise])
    stored = gram_variables(list(heads), BATCH, dtype=np.float32)
    about = {"layer": "block00", "uniform": 17.0, "unit": "1", "source": "", "long_name": ""}
    data = vit().profile.data.drop_vars(["attention_distance", "prefix_attention", "head"])
    distance = np.tile(far, (N, 8, 1)) + rng.normal(0, 0.1, (N, 8, 8))
    data = data.assign(
        attention_distance=xr.Variable(("image", "layer", "head"), distance, about),
        head_gram=xr.Variable(("layer_head", "head_batch", "head_pair"), stored["gram_flatten"][1], about),
        head_scale=(("layer_head", "head_batch"), stored["scale_flatten"][1]),
        head_size=(("head_batch",), stored["size_flatten"][1]),
    )
    return Made(Profile(data, vit().profile.provenance), tuple(heads)), conv, far


FLAT = (0.0, 0.1)
BENT_HIGH, BENT_LOW = (0.0, 0.0, 1.0), (1.0, 0.0, 0.0)  # unlike a flat one in the high, or in the low blocks
MADE: dict[tuple[str, Verdict], tuple[Made, ...]] = {
    ("R-1", Verdict.SUPPORTED): (vit(angles=(0.0, 0.2)), resnet()),
    ("R-1", Verdict.CONTRADICTED): (vit(), resnet(angles=(0.0, 0.2))),
    ("R-2", Verdict.SUPPORTED): (vit(), resnet(curve=3.0)),
    ("R-2", Verdict.CONTRADICTED): (vit(), resnet(angles=(0.5, 1.0))),
    ("R-3", Verdict.SUPPORTED): (vit(angles=BENT_HIGH), resnet(angles=FLAT)),
    ("R-3", Verdict.CONTRADICTED): (vit(angles=BENT_LOW), resnet(angles=FLAT)),
    ("P-S1-resnet", Verdict.SUPPORTED): (in_blocks("resnet"),),
    ("P-S1-resnet", Verdict.CONTRADICTED): (across("resnet"),),
    ("P-S1-swin", Verdict.SUPPORTED): (in_blocks("vit"),),
    ("P-S1-swin", Verdict.CONTRADICTED): (across("vit"),),
    ("P-S1-vit", Verdict.SUPPORTED): (in_blocks("resnet"), vit()),
    ("P-S1-vit", Verdict.CONTRADICTED): (across("resnet"), vit()),
    ("R-6", Verdict.SUPPORTED): with_heads(True)[:2],
    ("R-6", Verdict.CONTRADICTED): with_heads(False)[:2],
    ("R-9-posthoc", Verdict.SUPPORTED): (with_skips(0.9, 0.3),),
    ("R-9-posthoc", Verdict.CONTRADICTED): (with_skips(0.3, 0.9),),
    ("R-13", Verdict.SUPPORTED): pair_of(vit(angles=FLAT), vit(angles=BENT_HIGH, seed=1), "data_fraction", (0.1, 1.0)),
    ("R-13", Verdict.CONTRADICTED): pair_of(
        vit(angles=FLAT), vit(angles=BENT_LOW, seed=1), "data_fraction", (0.1, 1.0)
    ),
    ("R-13-proxy", Verdict.SUPPORTED): pair_of(
        vit(angles=FLAT), vit(angles=BENT_HIGH, seed=1), "pretraining_images", (1e6, 1e7)
    ),
    ("R-13-proxy", Verdict.CONTRADICTED): pair_of(
        vit(angles=FLAT), vit(angles=BENT_LOW, seed=1), "pretraining_images", (1e6, 1e7)
    ),
    ("R-14", Verdict.SUPPORTED): tuned(vit(angles=FLAT), vit(angles=BENT_HIGH, seed=1)),
    ("R-14", Verdict.CONTRADICTED): tuned(vit(angles=FLAT), vit(angles=BENT_LOW, seed=1)),
    ("R-14-early", Verdict.SUPPORTED): tuned(vit(angles=FLAT), vit(angles=BENT_HIGH, seed=1)),
    ("R-14-early", Verdict.CONTRADICTED): tuned(vit(angles=FLAT), vit(angles=BENT_LOW, seed=1)),
    ("R-15", Verdict.SUPPORTED): (as_mixer(vit(angles=FLAT, seed=2)), vit(angles=FLAT), resnet(angles=(1.0, 0.9))),
    ("R-15", Verdict.CONTRADICTED): (as_mixer(vit(angles=FLAT, seed=2)), vit(angles=(1.0, 0.9)), resnet(angles=FLAT)),
}
CASES = {key: profiles(*cases) for key, cases in MADE.items()}


# ---------------------------------------------------------------------------------------------- the numbers themselves


def depths(case: Made) -> np.ndarray:
    return case.profile.data["depth"].values


def low_high_similarity(case: Made) -> float:
    """Mean CKA of the lowest with the highest third of the blocks."""
    depth = depths(case)
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
        low = depths(vit) <= 0.25
        lead.append(similarity[low].max() - similarity[~low].max())
    grid = (np.arange(cells) + 0.5) / cells
    return float(np.mean(np.interp(grid, depths(resnet), lead) > 0)) - 0.25


def best(case: Made, other: Made) -> list[float]:
    """For each block the CKA with the most similar block of the other network."""
    return [max(minibatch_cka(x, y, BATCH) for y in other.features) for x in case.features]


def unlike_at_the_top(vit: Made, resnet: Made) -> float:
    lower = [value for value, depth in zip(best(vit, resnet), depths(vit), strict=True) if depth <= 2 / 3]
    upper = [value for value, depth in zip(best(vit, resnet), depths(vit), strict=True) if depth > 2 / 3]
    return sum(lower) / len(lower) - sum(upper) / len(upper)


def apart(case: Made, stage: list[int]) -> float:
    """Within less across at each distance, by least squares with one level per distance."""
    rows, values = [], []
    count = len(stage)
    for i in range(count):
        for j in range(i + 1, count):
            rows.append([float(j - i == k) for k in range(1, count)] + [float(stage[i] == stage[j])])
            values.append(minibatch_cka(case.features[i], case.features[j], BATCH))
    return float(np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0][-1])


def own_stages(case: Made) -> list[int]:
    return case.profile.data["stage"].values.tolist()


def parts(case: Made, count: int) -> list[int]:
    return [min(int(depth * count), count - 1) for depth in depths(case)]


def with_itself(first: Made, second: Made) -> tuple[np.ndarray, np.ndarray]:
    cka = [minibatch_cka(x, y, BATCH) for x, y in zip(first.features, second.features, strict=True)]
    return depths(first), np.array(cka)


def low_less_high(first: Made, second: Made) -> float:
    depth, cka = with_itself(first, second)
    return float(cka[depth <= 1 / 3].mean() - cka[depth > 2 / 3].mean())


def heads_lead(vit: Made, resnet: Made) -> float:
    """Features of two heads side by side, the two most local against the two most global, with stages 1 and 2."""
    far = vit.profile["attention_distance"].values[:, 0].mean(0)
    order = np.argsort(far)
    early = [i for i, stage in enumerate(own_stages(resnet)) if stage <= 2 and i > 0]
    local, wide = (np.concatenate([vit.features[head] for head in heads], axis=1) for heads in (order[:2], order[-2:]))
    return float(
        np.mean(
            [
                minibatch_cka(local, resnet.features[i], BATCH) - minibatch_cka(wide, resnet.features[i], BATCH)
                for i in early
            ]
        )
    )


def lost(case: Made) -> float:
    """Counted image by image and skip by skip."""
    profile, differences = case.profile, []
    for image, whole in enumerate(profile["skip_removal_intact_correct"].values):
        for skip, depth in enumerate(profile["skip_removal_depth"].values):
            if whole >= 0 and 1 / 3 < depth <= 2 / 3:
                differences.append(int(whole) - int(profile["skip_removal_correct"].values[image, skip]))
    return float(np.mean(differences))


ORACLES = {
    "R-1": lambda vit, resnet: low_high_similarity(vit) - low_high_similarity(resnet),
    "R-2": reach,
    "R-3": unlike_at_the_top,
    "P-S1-resnet": lambda resnet: apart(resnet, own_stages(resnet)),
    "P-S1-swin": lambda vit: apart(vit, own_stages(vit)),
    "P-S1-vit": lambda resnet, vit: apart(resnet, own_stages(resnet)) - apart(vit, parts(vit, 4)),
    "R-6": heads_lead,
    "R-9-posthoc": lost,
    "R-13": low_less_high,
    "R-13-proxy": low_less_high,
    "R-14": low_less_high,
    "R-14-early": lambda a, b: float(with_itself(a, b)[1][with_itself(a, b)[0] <= 1 / 3].mean()) - 0.95,
    "R-15": lambda mixer, vit, resnet: float(np.mean(best(mixer, vit)) - np.mean(best(mixer, resnet))),
}


def comparison_of(cases: tuple[Made, ...], draws: int = 5) -> Comparison:
    first, *between, last = [case.profile for case in cases] if len(cases) > 1 else [cases[0].profile] * 2
    found = compare(first, last, draws=draws)
    if not between:
        return found
    return Comparison(found.a, found.b, found.resampling, beside=compare(first, between[0], draws=draws))


def contrast(name: str, cases: tuple[Made, ...], draws: int = 5) -> np.ndarray | Estimate:
    (claim,) = choose_claims([name])
    return claim.contrast(comparison_of(cases, draws))


def test_every_claim_here_has_an_oracle():
    from hf_vitstudy.claims.similarity import CLAIMS

    assert [claim.id for claim in CLAIMS] == list(dict.fromkeys(name for name, _ in CASES))
    assert set(ORACLES) == {name for name, _ in CASES}


@pytest.mark.parametrize(("name", "expected"), CASES)
def test_the_contrast_is_what_the_sentence_says(name, expected):
    found = contrast(name, MADE[name, expected])
    value = found.value if isinstance(found, Estimate) else found[0]
    assert isinstance(found, Estimate) or found.shape == (6,)
    assert value == pytest.approx(ORACLES[name](*MADE[name, expected]), abs=1e-5)


OF_CKA = [claim.id for claim in choose_claims(list(ORACLES)) if claim.of_cka]


@pytest.mark.parametrize("name", OF_CKA)
def test_draws_of_similarities_lie_around_the_contrast(name):
    rows = contrast(name, MADE[name, Verdict.SUPPORTED], draws=200)
    assert np.isfinite(rows).all()
    assert 0 < rows[1:].std() < 0.1
    assert abs(rows[1:].mean() - rows[0]) < 2 * rows[1:].std()


@pytest.mark.parametrize("name", OF_CKA)
def test_an_unlike_network_changes_the_number(name):
    """Every profile of a claim matters: the number moves when any one of them is another's."""
    cases = MADE[name, Verdict.SUPPORTED]
    value = contrast(name, cases)[0]
    for place, case in enumerate(cases):
        turn = np.linspace(1.0, 0.0, len(case.features)) ** 3
        other = with_turn(case, turn, "other", seed=9)
        changed = contrast(name, (*cases[:place], other, *cases[place + 1 :]))[0]
        assert abs(changed - value) > 1e-3, f"profile {place}"


# -------------------------------------------------------------------------------------------------------- R-2 in detail


@pytest.mark.parametrize("angles", [(0.0, 1.0), (1.0, 0.0)], ids=["away from low blocks", "towards low blocks"])
@pytest.mark.parametrize("curve", [0.7, 1.0, 1.7, 5.0])
def test_the_reach_moves_with_the_similarities_not_in_steps(curve, angles):
    """The crossing lies between two blocks; whole blocks would give multiples of 1/9."""
    case = vit(), resnet(curve=curve, angles=angles)
    found = contrast("R-2", case)[0]
    assert -0.25 < found < 0.75
    assert found == pytest.approx(reach(*case), abs=1e-5)
    blocks = 9 * (found + 0.25)
    assert abs(blocks - round(blocks)) > 1e-3


def test_the_reach_goes_from_nothing_to_all_of_the_depth():
    ends = [contrast("R-2", (vit(), resnet(angles=(angle, angle))))[0] for angle in (0.0, 1.0)]
    np.testing.assert_allclose(ends, [0.75, -0.25], atol=1e-12)


def without_images(case: Made, place: int) -> Made:
    """One block answers the same for every image, so that no CKA with it is defined."""
    stored = case.profile.data["gram_flatten"].values.copy()
    stored[place] = 0
    grams = case.profile.data["gram_flatten"].copy(data=stored)
    return Made(Profile(case.profile.data.assign(gram_flatten=grams), case.profile.provenance), case.features)


def only(case: Made, kept: list[int]) -> Made:
    return Made(
        Profile(case.profile.data.isel(block=kept), case.profile.provenance), tuple(case.features[i] for i in kept)
    )


@pytest.mark.parametrize("place", [0, 4, 8])
def test_the_reach_leaves_a_block_out_that_is_the_same_for_all_images(place):
    """A cell without a CKA says nothing about the depth around it; the others are interpolated over it."""
    full = resnet(curve=3.0)
    rest = only(full, [i for i in range(9) if i != place])
    assert contrast("R-2", (vit(), without_images(full, place)))[0] == pytest.approx(reach(vit(), rest), abs=1e-5)


UNDEFINED = {
    "R-2": (vit(), resnet(curve=3.0)),
    "R-3": (vit(angles=BENT_HIGH), resnet(angles=FLAT)),
    "R-1": (vit(angles=(0.0, 0.2)), resnet()),
}


@pytest.mark.parametrize("name", UNDEFINED)
def test_an_undefined_block_of_the_vit_is_left_out(name):
    first, second = UNDEFINED[name]
    rest = only(first, list(range(1, 17)))
    found = contrast(name, (without_images(first, 0), second))[0]
    assert found == pytest.approx(ORACLES[name](rest, second), abs=1e-5)


def test_an_undefined_block_is_left_out_of_pairs_before_and_after():
    before, after = MADE["R-14", Verdict.SUPPORTED]
    found = contrast("R-14", (without_images(before, 0), after))[0]
    assert found == pytest.approx(
        low_less_high(only(before, list(range(1, 17))), only(after, list(range(1, 17)))), abs=1e-5
    )


# ------------------------------------------------------------------------------------------------------ what does not apply


def note(name: str, *profiles: Profile) -> str:
    (judgement,) = judge(*profiles, claims=choose_claims([name]), draws=10, permutations=0)
    assert judgement.verdict == Verdict.NOT_APPLICABLE
    return judgement.note


def test_networks_of_other_blocks_are_not_compared_block_by_block():
    short = only(vit(seed=1), list(range(1, 17)))
    before, after = tuned(vit(), short)
    assert "before and after have different blocks, so none is another's" in note(
        "R-14", before.profile, after.profile
    )
    with pytest.raises(
        StudyError, match=r"different blocks, so none is another's; measure both with the same version"
    ):
        contrast("R-14-early", (before, after))


def test_a_resnet_of_one_stage_has_no_stages_apart():
    assert "no pairs of blocks within and across stages" in note("P-S1-resnet", in_stages(resnet(), [1] * 9).profile)


def test_no_skip_in_the_middle_is_said():
    case = with_skips(0.9, 0.3)
    depth = case.profile.data["skip_removal_depth"]
    ends = Profile(case.profile.data.assign(skip_removal_depth=depth * 0 + 1), case.profile.provenance)
    assert "vit-0 has no skip connection in the middle third of its depth" in note("R-9-posthoc", ends)
    with pytest.raises(StudyError, match="no skip connection in the middle third"):
        contrast("R-9-posthoc", (Made(ends, ()),))


def test_a_network_of_two_heads_has_no_local_and_global_ones():
    case, conv, _ = with_heads(True)
    few = Profile(case.profile.data.isel(layer_head=slice(0, 2), head=slice(0, 2)), case.profile.provenance)
    assert "2 heads give 2 subsets of 1, a trend needs at least 3" in note("R-6", few, conv.profile)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("R-13", "needs two checkpoints alike but for their data fraction, 1.0 in the second"),
        ("R-13-proxy", "needs two checkpoints alike but for their pretraining images"),
        ("R-14", "needs two checkpoints of which the second was fine-tuned from the first"),
        ("R-15", "needs a network of MLPs alone, such as MLP-Mixer"),
        ("P-S1-swin", "needs a ViT of several stages, such as Swin or PiT"),
    ],
)
def test_what_a_claim_needs_is_said(name, missing):
    assert note(name, vit().profile, vit(seed=1).profile) == missing


def test_part_of_the_data_is_compared_with_all_of_it_only():
    parts_of = [told(vit(), f"part {share}", family="one", data_fraction=share) for share in (0.1, 0.3, 1.0)]
    found = judge(*profiles(*parts_of), claims=choose_claims(["R-13"]), draws=5, permutations=0)
    assert [judgement.checkpoints for judgement in found] == [("part 0.1", "part 1.0"), ("part 0.3", "part 1.0")]

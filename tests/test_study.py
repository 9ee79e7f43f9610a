"""Many profiles: what is read, judged and kept in memory; agreement over checkpoints; sketches, groups, neighbours."""

import copy
import itertools
import json
import math
import re
import shutil
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.patches import Rectangle
from scipy import stats as scipy_stats
from synthetic import synthetic_profile

from hf_vitstudy import study
from hf_vitstudy.agreement import Case, agree, at_least_as_wide, corrected_together, counted
from hf_vitstudy.claims import Control, Judgement, Verdict, choose_claims, judge
from hf_vitstudy.claims.facts import FINE_TUNED, less
from hf_vitstudy.comparison import compare
from hf_vitstudy.errors import StudyError, nearest_name
from hf_vitstudy.figures import (
    VERDICT_LOOK,
    dendrogram_figure,
    effects_figure,
    overview_figure,
    save_study_figures,
)
from hf_vitstudy.figures import study as figures_study
from hf_vitstudy.profile import Profile, load_profile
from hf_vitstudy.sketches import (
    DEPTHS,
    Shelf,
    average_linkage,
    distances,
    in_brief,
    nearest_blocks,
    unit_rows,
)
from hf_vitstudy.stats import Estimate, crossed_mean, mean_of
from hf_vitstudy.study import Settings, find_profiles, load_study, make_study


CLAIMS = tuple(choose_claims(["R-1", "P-F1", "P-V1-conv"]))
QUICK = Settings(CLAIMS, draws=100, permutations=5)


def checkpoint(kind: str, recipe: int = 0, seed: int = 0, n: int = 32, block: int = 16, **about) -> Profile:
    """A synthetic profile whose training is known: recipes differ in their epochs."""
    made = synthetic_profile(kind, n=n, block=block, seed=100 * recipe + seed, name=f"{kind}-{recipe}-{seed}")
    training = {"config": {"seed": seed, "epochs": 10 + recipe}}
    found = {"config": {"model_type": kind}, "training": training, "weights_sha256": made.name}
    return Profile(made.data, made.provenance | {"checkpoint": made.provenance["checkpoint"] | found | about})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two recipes of each kind with two seeds each, nested, and two untrained networks."""
    place = tmp_path_factory.mktemp("study") / "profiles"
    for kind, recipe, seed in itertools.product(("vit", "resnet"), (0, 1), (0, 1)):
        checkpoint(kind, recipe, seed).save(place / kind / f"recipe-{recipe}" / f"seed-{seed}")
    for kind in ("vit", "resnet"):
        checkpoint(kind, 5, untrained_seed=1).save(place / "untrained" / kind)
    return place


@pytest.fixture(scope="module")
def result(folder, tmp_path_factory) -> dict:
    return make_study(folder, tmp_path_factory.mktemp("out"), QUICK)


def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "profiles"))


# ---------------------------------------------------------------------------------------------------------- sketches


@pytest.mark.parametrize("bins", [16_384, 1024])
def test_products_of_sketches_are_cka(bins):
    a, b = checkpoint("vit", n=128, block=32), checkpoint("resnet", n=128, block=32)
    found = unit_rows(in_brief(a, bins=bins)) @ unit_rows(in_brief(b, bins=bins)).T
    error = found - compare(a, b).cka()["cka"].values
    whole = bins >= 4 * 496
    assert np.abs(error).max() < (0.002 if whole else 5 / math.sqrt(bins))
    assert whole or np.sqrt((error**2).mean()) < 1.5 / math.sqrt(bins)


def test_signs_keep_what_has_nothing_in_common_apart():
    """Entries of one sign in different places: without random signs their sketches would be alike."""
    whole = checkpoint("resnet", n=128, block=32)
    data = whole.data.copy(deep=True)
    data["scale_flatten"][:] = 1
    data["gram_flatten"][:] = 0
    data["gram_flatten"][0, :2] = 1
    data["gram_flatten"][1, 2:] = 1
    rows = unit_rows(in_brief(Profile(data, whole.provenance), bins=256))
    assert abs(rows[0] @ rows[1]) < 5 / math.sqrt(256)
    assert rows[0] @ rows[0] == pytest.approx(1)


def test_a_brief_keeps_facts_and_counts_but_no_measurement():
    whole = checkpoint("vit")
    data = whole.data.copy(deep=True)
    data["label"][:4] = -1
    brief = in_brief(Profile(data, whole.provenance))
    assert set(brief.data.data_vars) == {"sketch", "sizes"}
    assert brief.provenance["checkpoint"] == whole.provenance["checkpoint"]
    right = (data["top5"].values[4:, 0] == data["label"].values[4:]).sum()
    assert brief.provenance["summary"] == {"labelled": 28, "correct": right}
    assert brief.data["depth"].equals(whole.data["depth"])


def test_a_block_that_is_always_the_same_is_near_nothing():
    whole = checkpoint("vit")
    data = whole.data.copy(deep=True)
    data["gram_flatten"][3] = 0
    rows = unit_rows(in_brief(Profile(data, whole.provenance)))
    assert not rows[3].any()
    np.testing.assert_allclose(np.linalg.norm(np.delete(rows, 3, 0), axis=1), 1, rtol=1e-6)


def test_briefs_are_made_once_and_again_when_the_profile_changes_or_the_brief_is_damaged(tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr("hf_vitstudy.sketches.in_brief", lambda *a: loaded.append(a) or in_brief(*a))
    place, shelf = checkpoint("vit").save(tmp_path / "vit"), Shelf(tmp_path / ".shelf")
    key = shelf.put(place)
    assert shelf.put(place) == key
    assert len(loaded) == 1
    checkpoint("vit", seed=1).save(place)
    other = shelf.put(place)
    assert other != key
    assert len(loaded) == 2
    (shelf.place(other) / "arrays.safetensors").write_bytes(b"damaged")
    assert shelf.put(place) == other
    assert len(loaded) == 3
    assert shelf.get(other).name == "vit-0-1"


def slow_distance(a: Profile, b: Profile) -> float:
    cells = compare(a, b).cka()["cka"].values
    places = [[int(np.argmin(abs(p.data["depth"].values - depth))) for depth in DEPTHS] for p in (a, b)]
    return 1 - float(np.nanmean([cells[i, j] for i, j in zip(*places, strict=True)]))


@pytest.mark.parametrize("tile", [2, 32])
def test_distances_are_one_minus_mean_cka_at_equal_depths(tile):
    profiles = [checkpoint(kind, seed=seed) for kind in ("vit", "resnet") for seed in (0, 1)] + [checkpoint("vit", 3)]
    data = profiles[4].data.copy(deep=True)
    data["gram_flatten"][:5] = 0  # a class token before it has seen anything
    profiles[4] = Profile(data, profiles[4].provenance)
    found = distances([lambda p=p: in_brief(p) for p in profiles], tile)
    for i, j in itertools.product(range(5), repeat=2):
        expected = 0 if i == j else slow_distance(profiles[i], profiles[j])
        assert found[i, j] == pytest.approx(expected, abs=2e-3)


def test_what_shares_no_defined_depth_is_at_distance_one():
    whole = checkpoint("vit")
    data = whole.data.copy(deep=True)
    data["gram_flatten"][:] = 0
    nothing = Profile(data, whole.provenance)
    assert distances([lambda: in_brief(whole), lambda: in_brief(nothing)])[0, 1] == 1


def test_average_linkage_against_merging_by_hand():
    rng = np.random.default_rng(0)
    distance = rng.uniform(size=(6, 6))
    distance = (distance + distance.T) * (1 - np.eye(6))
    groups, heights = [[i] for i in range(6)], []
    while len(groups) > 1:
        pairs = itertools.combinations(range(len(groups)), 2)
        height, first, second = min((distance[np.ix_(groups[i], groups[j])].mean(), i, j) for i, j in pairs)
        heights.append(height)
        groups = [g for k, g in enumerate(groups) if k not in (first, second)] + [groups[first] + groups[second]]
    np.testing.assert_allclose(average_linkage(distance)[:, 2], heights)
    assert average_linkage(np.zeros((1, 1))).shape == (0, 4)


def test_the_nearest_block_is_found_with_its_exact_cka():
    profiles = [checkpoint("vit"), checkpoint("resnet"), checkpoint("vit", 1)]
    data = profiles[2].data.copy(deep=True)
    for name in ("gram_flatten", "scale_flatten"):
        data[name][7] = profiles[0].data[name][3]
    profiles[2] = Profile(data, profiles[2].provenance)
    hits = nearest_blocks(
        0, "block01.attention", [lambda p=p: in_brief(p) for p in profiles], profiles.__getitem__, most=4
    )
    assert (hits[0].checkpoint, hits[0].block) == (2, "block03.attention")
    assert hits[0].cka == pytest.approx(1, abs=1e-6)
    for hit in hits:
        cells = compare(profiles[0], profiles[hit.checkpoint]).cka().sel(row="block01.attention", column=hit.block)
        assert (hit.cka, hit.low, hit.high) == pytest.approx([float(cells[name]) for name in ("cka", "low", "high")])
        assert hit.sketched == pytest.approx(hit.cka, abs=2e-3)
    everywhere = [max(compare(profiles[0], p).cka()["cka"].sel(row="block01.attention").values) for p in profiles[1:]]
    assert hits[0].cka == pytest.approx(max(everywhere))


def test_the_nearest_of_nothing_is_refused():
    whole = checkpoint("vit")
    data = whole.data.copy(deep=True)
    data["gram_flatten"][0] = 0
    read = [lambda: in_brief(Profile(data, whole.provenance))] * 2
    with pytest.raises(StudyError, match=r"vit-0-0 has no block 'block99'; it has: embedding, block00.attention"):
        nearest_blocks(0, "block99", read, [whole].__getitem__)
    with pytest.raises(StudyError, match="embedding of vit-0-0 is the same for every image"):
        nearest_blocks(0, "embedding", read, [whole].__getitem__)


# --------------------------------------------------------------------------------------------------------- agreement

PAIR = choose_claims(["R-1"])[0]
ONE = choose_claims(["P-F1"])[0]
TUNED = replace(PAIR, relation=FINE_TUNED)
GROWN = replace(PAIR, relation=less("data_fraction"))


def case(value: float, *ends: tuple[str, str], claim=PAIR, error=0.005, **more) -> Case:
    """A judgement on ten thousand images: their number must not matter."""
    estimate = Estimate(value, value - 0.01, value + 0.01, 10_000, error=error)
    said = Verdict.SUPPORTED if value > claim.margin else Verdict.UNDECIDED
    return Case(
        Judgement(claim, tuple(weights for _, weights in ends), said, estimate, said, 0.001, 0.001, **more), ends
    )


def student(values: list[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval, by scipy."""
    low, high = scipy_stats.t.interval(0.95, len(values) - 1, np.mean(values), scipy_stats.sem(values))
    return float(np.mean(values)), low, high


def ends(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.value, estimate.low, estimate.high


def test_of_one_role_seeds_are_averaged_before_recipes():
    values = {("A", "a1"): 1.0, ("A", "a2"): 2.0, ("B", "b1"): 4.0, ("C", "c1"): 3.0, ("C", "c2"): 3.4}
    found = agree(ONE, [case(value, end, claim=ONE) for end, value in values.items()])
    assert ends(found.estimate) == pytest.approx(student([1.5, 4.0, 3.2]))
    assert (found.estimate.n, found.estimate.unit_resampled) == (3, "recipe")
    assert found.over == "3 recipes (5 checkpoints)"
    assert (found.lowest, found.highest) == (1.0, 4.0)


def test_seeds_of_one_recipe_speak_about_seeds():
    found = agree(ONE, [case(value, ("A", f"a{value}"), claim=ONE) for value in (1.0, 2.0, 4.0)])
    assert ends(found.estimate) == pytest.approx(student([1.0, 2.0, 4.0]))
    assert found.estimate.unit_resampled == "seed"
    assert found.over == "3 seeds of one recipe"


def test_several_image_sets_of_one_checkpoint_are_one_checkpoint():
    cases = [case(value, ("A", "a"), claim=ONE) for value in (1.0, 3.0)] + [case(4.0, ("B", "b"), claim=ONE)]
    found = agree(ONE, cases)
    assert ends(found.estimate) == pytest.approx(student([2.0, 4.0]))
    assert found.over == "2 checkpoints"
    assert sum(found.counts.values()) == 3


def test_seeds_that_agree_by_chance_are_no_surer_than_each_of_them():
    """Two seeds with the same effect, each known to within 0.1: their mean is known to within 0.1 / sqrt(2), not exactly."""
    found = at_least_as_wide(mean_of(np.array([0.3, 0.3])), [case(0.3, error=0.1), case(0.3, error=0.1)])
    assert found.value == 0.3
    assert found.error == pytest.approx(0.1 / np.sqrt(2))
    assert found.high - found.value == pytest.approx(12.706 * 0.1 / np.sqrt(2), rel=1e-4)
    wide = mean_of(np.array([0.0, 1.0]))
    assert at_least_as_wide(wide, [case(0.0, error=0.1), case(1.0, error=0.1)]) == wide
    assert at_least_as_wide(wide, [case(0.0, error=np.nan)]) == wide, "where no error is known there is none to add"


@pytest.mark.parametrize("claim", [ONE, PAIR, TUNED, GROWN])
def test_one_of_a_kind_has_a_mean_and_no_interval(claim):
    pair = (("A", "a"), ("B", "b"))[: len(claim.roles)]
    found = agree(claim, [case(0.3, *pair, claim=claim)])
    assert found.estimate.value == 0.3
    assert np.isnan([found.estimate.low, found.estimate.high, found.p]).all()
    assert found.over == ("1 checkpoint" if claim is ONE else "1 pair")
    assert found.note == f"{found.over}: an interval over checkpoints needs at least two of each role."
    assert corrected_together([found])[0].verdict is Verdict.UNDECIDED


def grid(rows: list[str], columns: list[str]) -> dict:
    rng = np.random.default_rng(1)
    return {pair: float(rng.normal()) for pair in itertools.product(rows, columns)}


def test_free_pairs_are_crossed_recipes():
    rows = [("A", "a1"), ("A", "a2"), ("B", "b1"), ("C", "c1")]
    columns = [("X", "x1"), ("X", "x2"), ("Y", "y1")]
    cells = grid(rows, columns)
    found = agree(PAIR, [case(value, *pair) for pair, value in cells.items()])
    matrix = np.array(
        [
            [np.mean([v for (a, b), v in cells.items() if (a[0], b[0]) == (row, column)]) for column in "XY"]
            for row in "ABC"
        ]
    )
    assert found.estimate == crossed_mean(matrix, unit="recipe")
    assert found.over == "3 recipes × 2 recipes (12 pairs)"


@pytest.mark.parametrize(
    ("rows", "columns", "over", "unit"),
    [
        ([("A", "a1"), ("A", "a2")], [("X", "x1"), ("X", "x2")], "2 seeds × 2 seeds (4 pairs)", "seed"),
        (
            [("A", "a"), ("B", "b")],
            [("X", "x1"), ("X", "x2")],
            "2 checkpoints × 2 seeds (4 pairs)",
            "checkpoint × seed",
        ),
        ([("A", "a"), ("B", "b")], [("X", "x")], "2 checkpoints × 1 checkpoint (2 pairs)", "checkpoint"),
    ],
)
def test_what_a_crossed_mean_is_over_is_said(rows, columns, over, unit):
    cells = grid(rows, columns)
    found = agree(PAIR, [case(value, *pair) for pair, value in cells.items()])
    assert (found.over, found.estimate.unit_resampled) == (over, unit)
    assert found.estimate.value == pytest.approx(np.mean(list(cells.values())))
    assert np.isnan(found.estimate.low) == (len(columns) == 1)


def test_pairs_that_never_met_leave_their_row_out_of_the_interval():
    cells = grid([("A", "a"), ("B", "b"), ("C", "c")], [("X", "x"), ("Y", "y")])
    del cells[("C", "c"), ("Y", "y")]
    found = agree(PAIR, [case(value, *pair) for pair, value in cells.items()])
    matrix = np.array([[cells[(a, a.lower()), (b, b.lower())] for b in "XY"] for a in "AB"])
    assert found.estimate == crossed_mean(matrix, unit="checkpoint")
    assert found.note == "The interval leaves out what has not met all others: it is of 2 × 2."


def test_related_pairs_that_share_a_checkpoint_are_one_observation():
    """Three seeds, each trained on 10, 30 and 100 % of the data: pairs within a seed hang together."""
    values = {1: (0.1, 0.3), 2: (0.2, 0.5), 3: (0.4, 0.4)}
    cases = [
        case(value, (part, f"{part}-{seed}"), ("full", f"full-{seed}"), claim=GROWN)
        for seed, pair in values.items()
        for part, value in zip(("10", "30"), pair, strict=True)
    ]
    found = agree(GROWN, cases)
    assert ends(found.estimate) == pytest.approx(student([0.2, 0.35, 0.4]))
    assert (found.estimate.unit_resampled, found.over) == ("seed", "3 seeds of one recipe (6 pairs)")
    single = agree(GROWN, cases[:2])
    assert single.over == "1 run (2 pairs)"
    assert math.isnan(single.estimate.low)


def test_related_pairs_of_several_recipes_are_averaged_over_seeds_first():
    values = {("A", 1): 0.1, ("A", 2): 0.3, ("B", 1): 0.6}
    cases = [case(v, (f"{r}10", f"{r}10-{s}"), (r, f"{r}-{s}"), claim=GROWN) for (r, s), v in values.items()]
    found = agree(GROWN, cases)
    assert ends(found.estimate) == pytest.approx(student([0.2, 0.6]))
    assert (found.estimate.unit_resampled, found.over) == ("recipe", "2 recipes (3 pairs)")


def test_fine_tunings_of_one_checkpoint_say_what_they_share():
    cases = [case(value, ("P", "p"), ("T", f"t{value}"), claim=TUNED) for value in (0.1, 0.2, 0.4)]
    found = agree(TUNED, cases)
    assert ends(found.estimate) == pytest.approx(student([0.1, 0.2, 0.4]))
    assert found.over == "3 seeds of one recipe, fine-tuned from one"
    assert found.note == "All share the checkpoint they start from; of others it says nothing."


def test_verdicts_over_checkpoints_are_corrected_for_all_claims():
    strong = agree(ONE, [case(v, ("A", f"{v}"), claim=ONE) for v in (0.500, 0.501, 0.502)])
    weak = agree(ONE, [case(v, ("A", f"{v}"), claim=ONE) for v in (0.06, 0.11, 0.16, 0.08)])
    assert 0.02 < weak.p < 0.05
    assert weak.alone is Verdict.SUPPORTED
    alone = corrected_together([weak])[0]
    first, second, third = corrected_together([weak, weak, strong])
    assert (alone.verdict, alone.p_holm) == (Verdict.SUPPORTED, pytest.approx(weak.p))
    assert first.verdict is second.verdict is Verdict.UNDECIDED
    assert third.verdict is Verdict.SUPPORTED
    assert first.p_holm == pytest.approx(2 * weak.p)


def test_verdicts_and_controls_of_single_choices_are_counted():
    control = [
        (Control("plain CKA", v, math.nan, math.nan, "text"), Control("shuffled images", v, v - 1, v + 1, ""))
        for v in (1.0, 3.0)
    ]
    cases = [case(v, ("A", f"{v}"), ("X", "x"), controls=c) for v, c in zip((0.3, 0.01), control, strict=True)]
    found = agree(PAIR, cases)
    assert found.counts == {"supported": 1, "contradicted": 0, "negligible": 0, "undecided": 1}
    plain, shuffled = found.controls
    assert (plain.value, shuffled.value, shuffled.low, shuffled.high) == (2.0, 2.0, 0.0, 4.0)
    assert math.isnan(plain.low)
    assert shuffled.text == "Mean of 2, with the outermost ends."


@pytest.mark.parametrize(
    ("count", "noun", "words"),
    [(1, "pair", "1 pair"), (1024, "image", "1,024 images"), (5, "mini-batch", "5 mini-batches")],
)
def test_counts_in_words(count, noun, words):
    assert counted(count, noun) == words


# ------------------------------------------------------------------------------------------------------------- study


def test_every_choice_is_judged_as_when_all_profiles_are_in_memory(folder, result):
    members = [load_profile(folder / each["key"]) for each in result["checkpoints"]]
    expected = judge(*members, claims=CLAIMS, draws=100, permutations=5, mixed=True)
    expected = {(j.claim.id, j.checkpoints): j.to_dict() for j in expected if j.estimate}
    found = {
        (each["claim"], tuple(result["checkpoints"][i]["name"] for i in each["checkpoints"])): each
        for each in result["judgements"]
    }
    assert found.keys() == expected.keys()
    assert len(found) == 16 + 4 + 4
    for key, each in found.items():
        for name in ("verdict", "alone", "estimate", "p", "p_holm", "note", "warnings", "controls"):
            assert each[name] == expected[key][name], (key, name)


def test_untrained_networks_play_no_trained_role_but_are_controls(result):
    untrained = {i for i, each in enumerate(result["checkpoints"]) if each["state"] == "untrained"}
    assert len(untrained) == 2
    assert not any(untrained & set(each["checkpoints"]) for each in result["judgements"])
    controls = {control["name"] for each in result["judgements"] for control in each["controls"]}
    assert controls == {"shuffled images", "untrained networks", "without one image", "plain CKA"}


def test_the_result_says_what_held_over_recipes(result):
    claims = {claim["id"]: claim["agreement"] for claim in result["claims"]}
    assert claims["R-1"]["over"] == "2 recipes × 2 recipes (16 pairs)"
    assert claims["P-F1"]["over"] == "2 recipes (4 checkpoints)"
    values = {i: [] for i in range(8)}
    for each in result["judgements"]:
        if each["claim"] == "P-F1":
            values[each["checkpoints"][0]] = each["estimate"]["value"]
    by_recipe = [
        [v for i, v in values.items() if v and result["checkpoints"][i]["name"].startswith(f"vit-{r}")] for r in (0, 1)
    ]
    assert [len(each) for each in by_recipe] == [2, 2]
    expected = student([np.mean(each) for each in by_recipe])
    estimate = claims["P-F1"]["estimate"]
    single = np.mean([each["estimate"]["error"] ** 2 for each in result["judgements"] if each["claim"] == "P-F1"])
    spread, least = scipy_stats.sem([np.mean(each) for each in by_recipe]), np.sqrt(single / 2)
    half = (expected[2] - expected[0]) * max(1, least / spread)  # never surer than a single choice
    assert (estimate["value"], estimate["low"], estimate["high"]) == pytest.approx(
        (expected[0], expected[0] - half, expected[0] + half)
    )
    assert estimate["n"] == 2


def test_checkpoints_groups_and_settings_are_in_the_result(result):
    assert [each["key"] for each in result["checkpoints"]][:2] == ["resnet/recipe-0/seed-0", "resnet/recipe-0/seed-1"]
    first = result["checkpoints"][0]
    assert first["accuracy"]["n"] == 32
    assert (first["network"], first["axes"]["seed"]) == ("resnet", 0)
    (group,) = result["groups"]
    assert group["checkpoints"] == list(range(10))
    assert np.array(group["linkage"]).shape == (9, 4)
    assert result["settings"]["draws"] == 100
    assert "V-4" in result["untested"]
    json.dumps(result, allow_nan=False)


def test_the_stored_result_is_the_same_again_and_sketches_are_not_made_again(folder, tmp_path, monkeypatch):
    first = make_study(folder, tmp_path, QUICK)
    text = (tmp_path / "results.json").read_bytes()
    monkeypatch.setattr("hf_vitstudy.sketches.in_brief", lambda *_: pytest.fail("sketched again"))
    assert make_study(folder, tmp_path, QUICK) == first
    assert (tmp_path / "results.json").read_bytes() == text
    assert load_study(tmp_path) == load_study(tmp_path / "results.json") == first


def test_few_profiles_are_in_memory_at_a_time(folder, tmp_path, monkeypatch):
    alive, most = [], []
    load = study.Member.load

    def counting(member):
        profile = load(member)
        alive.append(weakref.ref(profile.data))
        most.append(sum(each() is not None for each in alive))
        return profile

    monkeypatch.setattr(study.Member, "load", counting)
    monkeypatch.setattr(study, "IN_MEMORY", 3)
    make_study(folder, tmp_path, replace(QUICK, permutations=0))
    assert len(most) > 10
    assert max(most) <= 3 + 4, "those kept, and the checkpoints and twins at work"


def test_profiles_of_one_checkpoint_are_put_together(folder, tmp_path):
    place = copied(folder, tmp_path)
    whole = load_profile(place / "vit/recipe-0/seed-0")
    parts = [
        ["fourier"],
        ["gram_flatten", "scale_flatten", "square_flatten", "size_flatten", "variance", "top5", "label"],
    ]
    for number, names in enumerate(parts):
        Profile(whole.data[names], whole.provenance).save(place / f"vit/recipe-0/part-{number}")
    shutil.rmtree(place / "vit/recipe-0/seed-0")
    found = make_study(place, tmp_path / "out", QUICK)
    assert len(found["checkpoints"]) == 10
    assert sum(each["claim"] == "P-F1" for each in found["judgements"]) == 4
    assert len(found["groups"][0]["checkpoints"]) == 10
    assert next(each for each in found["checkpoints"] if each["name"] == "vit-0-0")["accuracy"] is not None


def test_only_profiles_of_the_same_images_are_compared(folder, tmp_path):
    place = copied(folder, tmp_path)
    checkpoint("vit", 3, n=48).save(place / "elsewhere")
    found = make_study(place, tmp_path / "out", replace(QUICK, claims=tuple(choose_claims(["R-1", "P-F1"]))))
    (odd,) = [i for i, each in enumerate(found["checkpoints"]) if each["key"] == "elsewhere"]
    judged = [each["claim"] for each in found["judgements"] if odd in each["checkpoints"]]
    assert judged == ["P-F1"]
    assert all(odd not in group["checkpoints"] for group in found["groups"])


def test_more_pairs_than_allowed_are_refused_and_one_seed_leaves_out_by_name(folder, tmp_path):
    with pytest.raises(
        StudyError, match=r"16 pairs of checkpoints to judge, more than --pairs 15; raise it, or .*--one-seed"
    ):
        make_study(folder, tmp_path, replace(QUICK, pairs=15))
    found = make_study(folder, tmp_path, replace(QUICK, pairs=4, one_seed=True))
    assert [each["key"] for each in found["left_out"]] == [
        f"{kind}/recipe-{recipe}/seed-1" for kind in ("resnet", "vit") for recipe in (0, 1)
    ]
    assert found["claims"][0]["agreement"]["over"] == "2 checkpoints × 2 checkpoints (4 pairs)"
    assert len(found["groups"][0]["checkpoints"]) == 10, "grouping is of all"


def test_facts_are_told_by_name_or_path(folder, tmp_path):
    place = copied(folder, tmp_path)
    told = {"vit/recipe-0/seed-0": {"state": "early"}, "resnet-0-0": {"network": "other"}}
    (place / "study.json").write_text(json.dumps({"title": "Told", "profiles": told}))
    found = make_study(place, tmp_path / "out", QUICK)
    by_name = {each["name"]: each for each in found["checkpoints"]}
    assert found["title"] == "Told"
    assert by_name["vit-0-0"]["state"] == "early"
    assert by_name["resnet-0-0"]["network"] == "other"
    assert by_name["vit-0-0"]["told"] == {"state": "early"}
    assert sum(each["claim"] == "P-F1" for each in found["judgements"]) == 3
    assert sum(each["claim"] == "R-1" for each in found["judgements"]) == 9


def test_a_claim_that_nothing_fits_says_what_is_needed(folder, tmp_path):
    claims = tuple(choose_claims(["P-S1-swin", "R-9-posthoc", "P-F1"]))
    found = make_study(folder, tmp_path, replace(QUICK, claims=claims))
    reasons = [claim.get("reason") for claim in found["claims"]]
    assert reasons[0] == "needs a ViT of several stages, such as Swin or PiT"
    assert reasons[1].startswith("vit-0-0 has no measurement 'skip_removal_correct': vitstudy measure CHECKPOINT")
    assert reasons[1].endswith("--analyses skip_removal")
    assert reasons[2] is None


def test_hidden_folders_and_checkpoints_of_a_training_are_no_profiles(tmp_path):
    for name in (".sketches/a", "b/.c.123.new", "d/e"):
        checkpoint("vit").save(tmp_path / name)
    (tmp_path / "checkpoint").mkdir()
    for name in ("manifest.json", "state.pt"):
        (tmp_path / "checkpoint" / name).write_text("{}")
    assert find_profiles(tmp_path) == [tmp_path / "d/e"]
    (tmp_path / "d/e/profile.json").unlink()
    assert find_profiles(tmp_path) == [tmp_path / "d/e"], "so that the damage is said"


BAD = {
    "no folder": (lambda place: shutil.rmtree(place), "no folder at"),
    "no profile": (lambda place: [shutil.rmtree(p) for p in place.iterdir()], "no profile below"),
    "not JSON": (lambda place: (place / "study.json").write_text("{"), "is not JSON"),
    "a list": (lambda place: (place / "study.json").write_text("[]"), "must hold"),
    "odd profiles": (lambda place: (place / "study.json").write_text('{"profiles": {"vit": 3}}'), "must hold"),
    "odd entry": (
        lambda place: (place / "study.json").write_text('{"titel": ""}'),
        "unknown entry 'titel'; did you mean title?",
    ),
    "odd fact": (
        lambda place: (place / "study.json").write_text('{"profiles": {"vit-0-0": {"patchsize": 16}}}'),
        "unknown fact 'patchsize' of vit-0-0; did you mean patch_size?",
    ),
    "nobody": (
        lambda place: (place / "study.json").write_text('{"profiles": {"vit-0-O": {}}}'),
        "names 'vit-0-O', but no profile is called so; did you mean vit-0-",
    ),
    "damaged": (
        lambda place: (place / "vit/recipe-0/seed-0/arrays.safetensors").write_bytes(b"x"),
        "is damaged",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case_", BAD)
def test_bad_folders_are_refused(case_, folder, tmp_path):
    place = copied(folder, tmp_path)
    spoil, message = BAD[case_]
    spoil(place)
    with pytest.raises(StudyError) as error:
        make_study(place, tmp_path / "out", QUICK)
    assert message in str(error.value)


def test_a_stored_study_that_is_none_is_refused(tmp_path):
    with pytest.raises(StudyError, match="no study at"):
        load_study(tmp_path)
    (tmp_path / "results.json").write_text('{"format": 0}')
    with pytest.raises(StudyError, match="is no result of a study in format 1"):
        load_study(tmp_path)


SPOILT = {  # place in the result, what stands there -> what is said
    "claims": (["claims"], 5, "claims must be a list, got 5"),
    "no groups": (["groups"], None, "groups must be a list, got null"),
    "title": (["title"], "\ud800", r'title must be a text, got "\ud800"'),
    "images": (["checkpoints", 0, "images"], None, "checkpoints[0].images must be an object, got null"),
    "accuracy": (["checkpoints", 1, "accuracy"], "x", 'checkpoints[1].accuracy must be an object or null, got "x"'),
    "margin": (["claims", 0, "margin"], "x", 'claims[0].margin must be a number, got "x"'),
    "text": (["claims", 1, "text"], None, "claims[1].text must be a text, got null"),
    "verdict": (["judgements", 0, "verdict"], "true", "judgements[0].verdict must be one of contradicted, "),
    "choice": (["judgements", 0, "checkpoints"], [99], "judgements[0].checkpoints names 99, but there are 10"),
    "backwards": (["judgements", 1, "checkpoints"], [-1], "judgements[1].checkpoints names -1, but there are 10"),
    "group": (["groups", 0, "checkpoints"], [0, 10], "groups[0].checkpoints names 10, but there are 10"),
    "claim": (["judgements", 0, "claim"], "X-1", "judgements[0].claim is 'X-1', which is not among the claims"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_stored_study_that_its_readers_could_not_read_is_refused(case, result, tmp_path):
    (*parents, last), value, message = SPOILT[case]
    spoilt = copy.deepcopy(result)
    place = spoilt
    for parent in parents:
        place = place[parent]
    place[last] = value
    (tmp_path / "results.json").write_text(json.dumps(spoilt))
    with pytest.raises(StudyError) as error:
        load_study(tmp_path)
    assert f"{tmp_path / 'results.json'}: {message}" in str(error.value)
    assert str(error.value).endswith("; run `vitstudy study FOLDER` again")


def test_what_a_stored_study_may_lack_or_have_more(result, tmp_path):
    """Names that later versions added, or an older one left out, are no reason to refuse it."""
    other = copy.deepcopy(result) | {"later": 1}
    for each in other["checkpoints"]:
        for name in ("stages", "versions", "told", "places"):
            del each[name]
    for each in other["claims"]:
        for name in ("sums_activations", "needs_first", "relation"):
            del each[name]
    (tmp_path / "results.json").write_text(json.dumps(other))
    assert load_study(tmp_path) == other


def test_nearest_by_name_or_path(folder, tmp_path):
    by_name = study.nearest(folder, tmp_path, "vit-0-0", "block00.mlp", most=3)
    assert by_name == study.nearest(folder, tmp_path, "vit/recipe-0/seed-0", "block00.mlp", most=3)
    assert len(by_name) == 3
    assert "vit/recipe-0/seed-0" not in [key for key, _ in by_name]
    values = [hit.cka for _, hit in by_name]
    assert values == sorted(values, reverse=True)
    with pytest.raises(StudyError, match=r"no checkpoint 'vit-0-9'; did you mean"):
        study.nearest(folder, tmp_path, "vit-0-9", "block00.mlp")
    with pytest.raises(StudyError, match="no other checkpoint has 'cls' Gram blocks of the images of vit-0-0"):
        study.nearest(folder, tmp_path / "cls", "vit-0-0", "block00.mlp", view="cls")


def test_a_name_of_several_profiles_needs_a_path(folder, tmp_path):
    place = copied(folder, tmp_path)
    checkpoint("vit", n=48).save(place / "again")
    with pytest.raises(StudyError, match="2 profiles are of 'vit-0-0', give a path"):
        study.nearest(place, tmp_path / "out", "vit-0-0", "block00.mlp")


def test_hints_for_names():
    assert nearest_name("P-F2", ["P-F2-mlp", "P-F2-conv", "R-1"], most=2) == "did you mean P-F2-mlp or P-F2-conv?"
    assert nearest_name("zzz", ["b", "a"]) == "there are: a, b"


# ------------------------------------------------------------------------------------------------------------ figures


def marks(ax, verdict: str) -> list:
    """Marks of one verdict on an axes, as (x, y)."""
    colour, marker = VERDICT_LOOK[Verdict(verdict)]
    return [
        (line.get_xdata()[0], line.get_ydata()[0])
        for line in ax.lines
        if line.get_marker() == marker and line.get_color() == colour
    ]


def test_the_overview_has_a_mark_for_every_judgement(result):
    figure = overview_figure(result)
    single, several = figure.axes
    for verdict in VERDICT_LOOK:
        judged = [each for each in result["judgements"] if each["verdict"] == verdict and each["claim"] != "R-1"]
        over = [c for c in result["claims"] if len(c["roles"]) == 1 and c["agreement"]["verdict"] == verdict]
        assert len(marks(single, verdict)) == len(judged) + len(over)
    pairs = sum(len(marks(several, str(verdict))) for verdict in VERDICT_LOOK)
    assert pairs == 16 + 1
    names = [label.get_text() for label in single.get_xticklabels()]
    assert names == [
        "vit-0-0",
        "vit-0-1",
        "vit-1-0",
        "vit-1-1",
        "resnet-0-0",
        "resnet-0-1",
        "resnet-1-0",
        "resnet-1-1",
        "all",
    ]
    assert "vit-0-0 × resnet-0-0" in [label.get_text() for label in several.get_xticklabels()]


def test_too_many_choices_are_bars_whose_lengths_are_shares(result, monkeypatch):
    monkeypatch.setattr(figures_study, "MOST_COLUMNS", 5)
    result = copy.deepcopy(result)
    claim = next(claim for claim in result["claims"] if claim["id"] == "R-1")
    claim["agreement"]["counts"] = {"supported": 4, "contradicted": 2, "negligible": 2, "undecided": 8}
    _, several = overview_figure(result).axes
    widths = [bar.get_width() for bar in several.patches if isinstance(bar, Rectangle) and bar.get_height() == 0.62]
    np.testing.assert_allclose(np.array(widths) / sum(widths), [0.25, 0.125, 0.125, 0.5])
    looks = {(bar.get_hatch(), bar.get_facecolor()) for bar in several.patches if bar.get_height() == 0.62}
    assert len(looks) == 4


def test_effects_show_every_choice_and_the_interval_over_checkpoints(result):
    (ax,) = effects_figure(result).axes
    claim = next(claim for claim in result["claims"] if claim["id"] == "P-F1")
    row = len(result["claims"]) - 1 - result["claims"].index(claim)
    interval = [claim["agreement"]["estimate"][end] / claim["margin"] for end in ("low", "high")]
    assert any(
        np.allclose(line.get_xdata(), interval)
        for line in ax.lines
        if len(line.get_xdata()) == 2 and set(line.get_ydata()) == {row}
    )
    dots = next(
        line for line in ax.lines if len(line.get_xdata()) == 4 and abs(np.mean(line.get_ydata()) - row) < 0.01
    )
    values = [each["estimate"]["value"] for each in result["judgements"] if each["claim"] == "P-F1"]
    np.testing.assert_allclose(dots.get_xdata(), np.array(values) / claim["margin"])
    assert "2 recipes (4 checkpoints)" in [text.get_text() for text in ax.texts]


def test_a_mean_without_an_interval_looks_like_none(result):
    result = copy.deepcopy(result)
    for claim in result["claims"]:
        claim["agreement"]["estimate"] |= {"low": None, "high": None, "error": None}
        claim["agreement"]["verdict"] = "undecided"
    (ax,) = effects_figure(result).axes
    assert not marks(ax, "undecided")
    assert sum(line.get_marker() == "|" for line in ax.lines) == len(result["claims"])


def test_the_tree_has_a_leaf_for_every_checkpoint_and_merges_at_its_distances(result):
    (ax,) = dendrogram_figure(result).axes
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert sorted(names) == sorted(each["name"] for each in result["checkpoints"])
    heights = sorted(line.get_xdata()[1] for line in ax.lines if len(line.get_xdata()) == 4)
    np.testing.assert_allclose(heights, np.array(result["groups"][0]["linkage"])[:, 2])
    hollow = [line for line in ax.lines if line.get_markerfacecolor() == "white"]
    assert len(hollow) == 2, "the untrained ones"


def test_a_large_tree_is_cut_and_says_how_many_it_leaves_out(result, monkeypatch):
    monkeypatch.setattr(figures_study, "MOST_LEAVES", 4)
    (ax,) = dendrogram_figure(result).axes
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert len(names) == 4
    more = sum(int(match[1]) for name in names if (match := re.search(r" and (\d+) more$", name)))
    assert more == 10 - 4


def test_figures_of_a_study_without_anything_to_draw_are_refused(result):
    nothing = result | {"claims": [], "groups": []}
    for draw in (overview_figure, effects_figure):
        with pytest.raises(StudyError, match="no claim could be judged in this study"):
            draw(nothing)
    with pytest.raises(StudyError, match="no two checkpoints of this study"):
        dendrogram_figure(nothing)


def test_saved_figures(result, tmp_path):
    paths = save_study_figures(tmp_path, result, formats=("svg",))
    assert [path.name for path in paths] == ["verdicts.svg", "effects.svg", "likeness.svg"]
    assert all(path.stat().st_size > 1000 for path in paths)
    assert save_study_figures(tmp_path, result | {"claims": [], "groups": []}) == []

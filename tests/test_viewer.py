"""The page's data equal the stored results; the page is small, asks for nothing from outside, and no name breaks it."""

import base64
import copy
import hashlib
import json
import re
import shutil
import sys
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest
import scipy.stats
from viewer_site import CLAIMS, HOSTILE, N, shown, trained, write_profiles, write_study

from hf_vitstudy import cli, viewer
from hf_vitstudy.analyses import ANALYSES as ANALYSIS_NAMES
from hf_vitstudy.analyses import make_analysis
from hf_vitstudy.claims import CLAIMS as ALL_CLAIMS
from hf_vitstudy.comparison import compare
from hf_vitstudy.errors import StudyError
from hf_vitstudy.figures import CHARTS, Study
from hf_vitstudy.profile import Profile, load_profile
from hf_vitstudy.study import load_study, make_study
from hf_vitstudy.viewer import Source, checkpoint_data, export_site, pair_data, study_data
from hf_vitstudy.viewer.data import VERDICTS, shown_p, thousandths, three
from hf_vitstudy.viewer.export import SCRIPTS, page
from hf_vitstudy.viewer.likeness import measures_data
from hf_vitstudy.viewer.methods import ANALYSES, CURVES, EVIDENCE, MEASURES, METHODS, VIEWS, WHERE
from hf_vitstudy.viewer.networks import fields_data, network_data
from hf_vitstudy.viewer.weights import weights_data


LETTERS = {letter: verdict for verdict, letter in VERDICTS.items()}
PLACES = {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4}  # folder -> number of the checkpoint


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    return write_study(tmp_path_factory.mktemp("viewer") / "study")


@pytest.fixture(scope="module")
def source(study) -> Source:
    return Source(study)


@pytest.fixture(scope="module")
def data(source) -> dict:
    return study_data(source)


@pytest.fixture(scope="module")
def site(study, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("viewer") / "site"
    assert export_site(study, out) == out / "index.html"
    return out


def profile(study: Path, folder: str) -> Profile:
    return load_profile(study / "profiles" / folder)


# ------------------------------------------------------------------------------------------------------------ claims


def test_claims_and_judgements_are_those_of_the_stored_result(study, data):
    result = load_study(study)
    assert [claim["id"] for claim in data["claims"]] == [claim.id for claim in CLAIMS]
    judged = 0
    for claim, stored in zip(data["claims"], result["claims"], strict=True):
        assert {"agreement", "reason"} & set(claim) == {"agreement", "reason"} & set(stored)
        assert claim["margin"] == stored["margin"]
        if "agreement" in stored:
            estimate, expected = claim["agreement"]["estimate"], stored["agreement"]["estimate"]
            numbers = [expected[name] for name in ("value", "low", "high")]
            assert estimate == [None if number is None else shown(number) for number in numbers]
            assert claim["agreement"]["counts"] == stored["agreement"]["counts"]
            judged += 1
    assert judged >= 6
    rows = [(name, row) for name, rows in data["judgements"].items() for row in rows]
    assert len(rows) == len(result["judgements"])
    for stored in result["judgements"]:
        (row,) = [row for name, row in rows if name == stored["claim"] and row[0] == stored["checkpoints"]]
        assert LETTERS[row[1]] == stored["verdict"]
        if stored["estimate"]:
            assert row[2:5] == [shown(stored["estimate"][name]) for name in ("value", "low", "high")]
            assert row[5] == stored["estimate"]["n"]
        else:
            assert row[2:6] == [None] * 4
            assert data["notes"][row[7]] == stored["note"]


def test_what_was_not_judged_says_why(data):
    (claim,) = [claim for claim in data["claims"] if claim["id"] == "R-13"]
    assert "data fra" in claim["reason"]
    assert "agreement" not in claim


@pytest.mark.parametrize(
    ("p", "expected"), [(None, None), (0.00096, 0), (1e-20, 0), (0.001, 0.001), (0.04567, 0.046), (1.0, 1.0)]
)
def test_p_is_rounded_but_never_up_to_a_thousandth(p, expected):
    assert shown_p(p) == expected


@pytest.mark.parametrize("view", sorted(EVIDENCE))
def test_every_view_has_a_method_and_evidence(view):
    assert view in VIEWS
    (method,) = [method for method in METHODS if method["view"] == view]
    assert all(method[name] for name in ("title", "text", "formula", "source", "care"))


def test_evidence_points_into_the_maps():
    assert set(WHERE) <= {claim.id for claim in ALL_CLAIMS}
    for of, row, column in WHERE.values():
        assert of in ("aa", "ab", "bb")
        assert 0 <= row <= 1
        assert 0 <= column <= 1


def test_evidence_of_a_claim_is_the_view_of_what_it_needs(data):
    seen = {claim["id"]: claim["see"] for claim in data["claims"]}
    assert seen["R-1"] == ["cka", "aa", 0.17, 0.83]
    assert seen["P-F1"] == ["fourier", "ab", 0.5, 0.5]
    assert (seen["R-4-local"][0], seen["R-8-level"][0], seen["P-V1-conv"][0]) == ("heads", "skip", "variance")
    assert seen["P-H1"] == ["hessian", "ab", 0.5, 0.5]


# ------------------------------------------------------------------------------------------------------- checkpoints


def test_checkpoints_are_named_once_and_told_as_stored(study, data):
    result = load_study(study)
    assert [each["id"] for each in data["checkpoints"]] == ["resnet-0", "resnet-1", "vit-elsewhere", "vit-0", HOSTILE]
    for each, stored in zip(data["checkpoints"], result["checkpoints"], strict=True):
        accuracy = [shown(stored["accuracy"][name]) for name in ("value", "low", "high")]
        assert each["accuracy"] == accuracy
        assert each["weights_sha256"] == stored["weights_sha256"]


def test_checkpoints_of_one_name_are_told_apart_by_their_paths(tmp_path):
    for folder in ("one", "two"):
        trained("vit", int(folder == "two"), "twin").save(tmp_path / folder)
    make_study(tmp_path, tmp_path)
    assert [each["id"] for each in study_data(Source(tmp_path))["checkpoints"]] == ["one", "two"]


def test_the_page_opens_with_two_kinds_of_networks_on_the_same_images(data):
    kinds = [data["checkpoints"][number]["network"] for number in data["start"]]
    assert sorted(kinds) == ["resnet", "vit"]
    assert data["comparable"] == [[0, 1, 3, 4], [2]]


def written(curve: dict) -> list[str]:
    numbers = zip(curve["value"], curve["low"], curve["high"], strict=True)
    return [
        f"{v:#.3g} [{low:#.3g}, {high:#.3g}]".replace(". ", " ").replace(".,", ",").replace(".]", "]")
        for v, low, high in numbers
    ]


TABLES = {"fourier": "depth", "variance": "variance", "skip": "skip-ratio", "probes": "probes"}


@pytest.mark.parametrize("key", TABLES)
@pytest.mark.parametrize("folder", ["a", "d"])
def test_curves_are_the_numbers_of_the_reports_tables(study, source, folder, key):
    result = load_study(study)["settings"]
    of = profile(study, folder)
    table = next(chart.table for chart in CHARTS if chart.name == TABLES[key])(
        Study([of], result["draws"], result["seed"])
    )
    rows = [row for row in table["body"] if key != "skip" or "spatial tokens" in row]
    rows = [row for row in rows if key != "probes" or "mean" in row]
    found = checkpoint_data(source, PLACES[folder])["curves"][key]
    assert written(found) == [row[-1] for row in rows]
    assert len(rows) >= 5
    names = of.data["block"].values.tolist()
    assert [names[place] for place in found["place"]] == found["name"]
    assert found["n"] == (N if key != "probes" else N // 2)


def test_a_checkpoint_without_a_measurement_has_no_curve_and_no_heads(source):
    resnet = checkpoint_data(source, 0)
    assert resnet["heads"] is None
    assert set(resnet["curves"]) == {curve.key for curve in CURVES} - {"class_skip"}
    plain = source.profile(0)
    lacking = Profile(plain.data.drop_vars(["fourier", "probe_correct"]), plain.provenance)
    assert [curve.key for curve in CURVES if curve.measured(lacking)] == ["variance", "skip", "receptive"]


def test_heads_are_means_over_images(study, source):
    of = profile(study, "d")
    heads = checkpoint_data(source, 3)["heads"]
    expected = of["attention_distance"].transpose("layer", "head", "image").values.astype(float).mean(-1)
    assert np.array(heads["px"]) == pytest.approx(expected, rel=5e-3)
    assert heads["px"] == [
        [pytest.approx(shown(float(np.float32(value))), rel=0.011) for value in row] for row in expected
    ]
    assert heads["uniform"] == [17.0] * 8
    assert [of.data["block"].values[place] for place in heads["place"]] == [
        f"block{i:02d}.attention" for i in range(8)
    ]


def test_places_are_those_of_the_profile(study, source):
    of, found = profile(study, "a").data, checkpoint_data(source, 0)["places"]
    for name in ("kind", "stage"):
        assert found[name] == of[name].values.tolist()
    assert found["name"] == of["block"].values.tolist()
    assert found["depth"] == pytest.approx(of["depth"].values, abs=5e-5)


# -------------------------------------------------------------------------------------------------------------- maps


def unpacked(stored: dict) -> list[list[str | None]]:
    """Value and ends of every cell as they are shown."""
    cells = zip(stored["cka"], stored["below"], stored["above"], strict=True)
    return [
        [None] * 3 if v is None else [f"{x / 1000:.3f}" for x in (v, v - below, v + above)]
        for v, below, above in cells
    ]


def expected_cells(maps) -> list[list[str | None]]:
    cells = zip(*(maps[name].values.ravel() for name in ("cka", "low", "high")), strict=True)
    return [[None if np.isnan(x) else f"{x:.3f}".replace("-0.000", "0.000") for x in cell] for cell in cells]


@pytest.mark.parametrize(("a", "b"), [("a", "b"), ("a", "d"), ("d", "e"), ("d", "d"), ("a", "a")])
def test_maps_equal_the_comparison_at_three_decimals(study, source, a, b):
    first, second = profile(study, a), profile(study, b)
    same = a == b
    stored = (checkpoint_data(source, PLACES[a]) if same else pair_data(source, PLACES[a], PLACES[b]))["map"]
    maps = compare(first, first if same else second).cka("aa" if same else "ab")
    assert unpacked(stored) == expected_cells(maps)
    assert stored["n"] == N
    undefined = sum(value is None for value in stored["cka"])
    rows, columns = maps["cka"].shape
    assert undefined == {("a", "d"): rows, ("d", "e"): columns, ("d", "d"): 2 * rows - 1}.get((a, b), 0)


@pytest.mark.parametrize(
    ("value", "expected"), [(0.12349, 123), (-0.0004, 0), (-0.0123, -12), (1.0, 1000), (np.nan, None), (-1.5, -1500)]
)
def test_thousandths(value, expected):
    assert thousandths(np.array([[value]])) == [expected]


@pytest.mark.parametrize("value", [0.0, 1.0, -0.0012345, 123456.0, 9.996, 99.96, 1e-9, -3.14159])
def test_three_digits(value):
    assert three(value) == pytest.approx(shown(value), rel=1e-12)


def test_undefined_numbers_are_null():
    assert [three(value) for value in (None, np.nan, np.inf)] == [None] * 3


# --------------------------------------------------------------------------------------------- views of whole networks


def drawn(values: np.ndarray) -> np.ndarray:
    """Means over images, as they are and for the study's draws, written independently: (value, low, high) by column."""
    n = len(values)
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=200)
    return np.stack([values.mean(0), *np.quantile(counts @ values / n, [0.025, 0.975], axis=0)])


def close(found: list, expected: np.ndarray) -> bool:
    """Equal up to the three digits that are stored."""
    return np.asarray(found, float) == pytest.approx(np.asarray(expected, float), rel=5.1e-3, abs=1e-9)


@pytest.fixture(scope="module", params=["a", "d"])
def network(request, study, source) -> tuple[Profile, dict]:
    """A profile and what the page has of it."""
    return profile(study, request.param), network_data(source, PLACES[request.param])


def test_lesions_are_what_is_lost_without_each_part(network):
    of, found = network
    right = of["lesion_correct"].values.astype(float)
    lost = 100 * drawn(of["lesion_intact_correct"].values[:, None] - right)
    stored = found["lesions"]
    assert all(close(stored[name], row) for name, row in zip(("value", "low", "high"), lost, strict=True))
    assert close(stored["whole"][0], 100 * of["lesion_intact_correct"].values.mean())
    blocks = of.data["block"].values.tolist()
    assert [blocks[place] for place in stored["place"]] == of.data["lesion"].values.tolist()
    assert stored["kind"] == of.data["lesion_kind"].values.tolist()
    assert "skip_removal" not in found  # not in these profiles


def test_lesions_of_convolutions_belong_to_their_block(source):
    of = source.profile(0)
    names = [*of.data["lesion"].values[:-1], "block03.conv2"]
    renamed = Profile(of.data.assign_coords(lesion=names), of.provenance)
    other = SimpleNamespace(profile=lambda number: renamed, result=source.result, resampling=source.resampling)
    place = network_data(other, 0)["lesions"]["place"][-1]
    assert of.data["block"].values[place] == "block03"


def test_noise_and_corruptions_are_means_with_their_intervals(network):
    of, found = network
    lost = 100 * drawn(of["noise_clean_correct"].values[:, None] - of["noise_correct"].values.astype(float))
    stored = found["noise"]
    assert all(close(stored[name], row) for name, row in zip(("value", "low", "high"), lost, strict=True))
    assert stored["x"] == of.data["noise_frequency"].values.tolist()
    assert close(stored["whole"], 100 * of["noise_clean_correct"].values.mean())
    kinds = of.data["corruption"].values.tolist()[:3]  # the other four take something away
    right = of["corruption_correct"].values.astype(float)[:, :3]
    assert list(found["corruptions"]["kinds"]) == kinds == ["gaussian_noise", "fog", "contrast"]
    assert close(list(found["corruptions"]["kinds"].values()), 100 * drawn(right.mean(2)).T)
    assert close(found["corruptions"]["mean"], 100 * drawn(right.mean((1, 2))[:, None])[:, 0])
    assert close(found["corruptions"]["whole"][0], 100 * of["corruption_clean_correct"].values.mean())


def test_curvature_has_student_s_interval_and_a_density_that_sums_to_one(network):
    of, found = network
    stored, n = found["hessian"], 6
    for name, end in (("largest", "top"), ("smallest", "bottom")):
        values = of[f"hessian_{end}"].values
        half = scipy.stats.t.ppf(0.975, n - 1) * values[:, 0].std(ddof=1) / np.sqrt(n)
        assert close(stored[name], values[:, 0].mean() + np.array([0, -half, half]))
        assert close(stored[end], values)
    density = stored["density"]
    assert sum(density["share"]) == pytest.approx(1, abs=0.01)
    edges = np.sinh(0.25 * (density["first"] - 0.5 + np.arange(len(density["share"]) + 1)))
    nodes, weights = of["hessian_node"].values.ravel(), of["hessian_weight"].values.ravel()
    assert close(density["share"], np.histogram(nodes, edges, weights=weights / n)[0])


def test_the_surface_is_the_mean_and_its_middle_row_has_an_interval(network):
    of, found = network
    stored, loss = found["landscape"], of["landscape_nll"].values.astype(float)
    assert close(stored["loss"], loss.mean(0).ravel())
    rise = drawn(loss[:, 2] - loss[:, 2, 2][:, None])
    assert all(close(stored["rise"][name], row) for name, row in zip(("value", "low", "high"), rise, strict=True))
    norm = of["landscape_l2"].values[2]
    assert np.array(stored["norm"]) == pytest.approx(norm - norm[2], rel=5.1e-3)
    assert stored["x"] == [-1, -0.5, 0, 0.5, 1]


def test_attacks_begin_with_the_accuracy_that_there_is_without(network):
    of, found = network
    stored = found["attacks"]
    assert stored["x"] == [0, 1, 2, 4]
    for name in ("fgsm", "pgd"):
        right = np.column_stack([of["attack_clean_correct"].values, of[f"{name}_correct"].values]).astype(float)
        expected = 100 * drawn(right)
        ends = stored["by"][name]
        assert all(close(ends[key], row) for key, row in zip(("value", "low", "high"), expected, strict=True))
    assert stored["n"] == len(right) == 32


def test_probes_of_single_tokens_tell_places_from_what_is_before_them(source, network):
    of, found = network
    right = of["token_correct"].values.astype(float)
    stored = found["tokens"]
    assert (stored["grid"], stored["prefix"], stored["n"]) == ([4, 4], [[], [], []], 32)
    assert all(close(ends, row) for ends, row in zip(stored["spatial"], 100 * drawn(right), strict=True))
    assert close(stored["mean"], 100 * drawn(right.mean(1, keepdims=True))[:, 0])
    assert stored["chance"] == 10

    fewer = of.data.drop_dims("probe_token").assign(
        token_correct=(("probe_image", "probe_token"), right[:, :7].astype(np.int8))
    )
    fewer = fewer.assign_coords(probe_token=["prefix 0", *(f"{k // 3}, {k % 3}" for k in range(6))])
    other = SimpleNamespace(
        profile=lambda number: Profile(fewer, of.provenance), result=source.result, resampling=source.resampling
    )
    stored = network_data(other, 0)["tokens"]
    assert (stored["grid"], stored["chance"]) == ([2, 3], None)
    assert close(stored["prefix"], 100 * drawn(right[:, :1]))
    assert close(stored["spatial"], 100 * drawn(right[:, 1:7]))


def test_position_embeddings_are_hundredths_of_a_cosine(study, source):
    of, found = profile(study, "d"), weights_data(source, 3)["positions"]
    cosines = np.frombuffer(base64.b64decode(found["cosine"]), np.uint8).reshape(16, 16).astype(int) / 100 - 1
    assert np.abs(cosines - of["position_similarity"].values.astype(float)).max() <= 5.1e-3
    assert found["grid"] == [4, 4]
    assert (found["correlation"], found["share"]) == (-0.9, {"row": 40, "column": 40, "rest": 20})
    assert "positions" not in weights_data(source, 0), "a ResNet has none"


def test_filters_are_colours_over_their_own_largest_value(study, source):
    of, found = profile(study, "d"), weights_data(source, 3)["filters"]
    shown = np.frombuffer(base64.b64decode(found["colours"]), np.uint8).reshape(9, 4, 4, 3) / 255
    values = of["filter_component"].values.astype(float).transpose(0, 2, 3, 1)
    expected = 0.5 + values / np.abs(values).max((1, 2, 3), keepdims=True) / 2
    assert np.abs(shown - expected).max() <= 0.5 / 63 + 0.5 / 255
    assert (found["layer"], found["count"], found["rows"], found["columns"]) == ("patch embedding", 9, 4, 4)
    assert close(found["share"], 100 * of["filter_variance"].values)
    assert close(found["smooth"], of["filter_smoothness"].values)


def test_an_embedding_and_a_filter_of_zeros_have_no_direction(study, source):
    of = source.profile(3)
    data = of.data.copy(deep=True)
    data["position_similarity"][2] = np.nan
    data["filter_component"][1] = 0
    other = SimpleNamespace(profile=lambda number: Profile(data, of.provenance))
    found = weights_data(other, 0)
    cosines = np.frombuffer(base64.b64decode(found["positions"]["cosine"]), np.uint8).reshape(16, 16)
    assert (cosines[2] == 255).all()
    assert (np.delete(cosines, 2, 0) <= 200).all()
    shown = np.frombuffer(base64.b64decode(found["filters"]["colours"]), np.uint8).reshape(9, -1)
    assert set(shown[1].tolist()) <= {127, 128, 129, 130}


def test_localisation_is_within_two_errors_and_between_none_and_all(network):
    of, found = network
    stored = found["localisation"]
    share, error = of["localisation_share"].values, of["localisation_share_error"].values
    assert close([[region[0] for region in block] for block in stored["share"]], 100 * share)
    assert close([[region[1] for region in block] for block in stored["share"]], 100 * (share - 1.96 * error))
    assert close(stored["chance"], 100 * np.array([1 / 16] * 3))
    blocks = of.data["block"].values
    assert [blocks[place] for place in stored["place"]] == of.data["localisation_block"].values.tolist()


def test_receptive_fields_are_colours_of_matplotlib_s_logarithmic_scale(study, source):
    of, found = profile(study, "d"), fields_data(source, 3)["receptive"]
    assert len(found["picture"]) == len(of.data["block"]) > 10
    for maps, text in zip(of["receptive_map"].values.astype(float), found["picture"], strict=True):
        scale = mpl.colors.LogNorm(1e-3, 1)
        expected = np.clip(256 * scale(np.maximum(maps / maps.max(), 1e-3)), 0, 255).astype(int)
        numbers = np.frombuffer(base64.b64decode(text), np.uint8).reshape(32, 32)
        assert np.abs(numbers.astype(int) - expected).max() <= 1  # where rounding meets the edge of a colour
        assert (numbers == expected).mean() > 0.999


def test_a_map_of_zeros_has_no_picture(source):
    of = source.profile(3)
    data = of.data.copy(deep=True)
    data["receptive_map"][2] = 0
    other = SimpleNamespace(profile=lambda number: Profile(data, of.provenance))
    pictures = fields_data(other, 0)["receptive"]["picture"]
    assert [k for k, text in enumerate(pictures) if text is None] == [2]


def test_tokens_are_a_corner_an_edge_and_an_interior_one(study, source):
    of, found = profile(study, "d"), fields_data(source, 3)["localisation"]
    assert found["token"] == {"corner": 0, "edge": 2, "interior": 10}
    expected = of["localisation_cka"].values[:, [0, 2, 10]].astype(float)
    assert np.array(found["cka"]) / 1000 == pytest.approx(expected, abs=5.1e-4)


def test_a_network_has_only_what_was_measured_and_says_why_not(source):
    of = source.profile(0)
    kept = Profile(
        of.data.drop_vars("noise_correct"), of.provenance | {"absent": {"lesions": "no labels", "odd": "x"}}
    )
    other = SimpleNamespace(profile=lambda number: kept, result=source.result, resampling=source.resampling)
    assert {"noise", "lesions"} & set(network_data(other, 0)) == {"lesions"}
    assert checkpoint_data(other, 0)["absent"] == {"lesions": "no labels"}


def test_the_receptive_radius_is_drawn_over_an_even_gradient(study, source):
    of, found = profile(study, "a"), checkpoint_data(source, 0)["curves"]["receptive"]
    radius = drawn(of["receptive_radius"].values[:, :, 0].astype(float))
    assert all(close(found[name], row) for name, row in zip(("value", "low", "high"), radius, strict=True))
    assert found["uniform"] == of["uniform_radius"].values[:, 0].tolist()
    assert found["n"] == 8


def test_curves_of_loss_to_noise_cross_where_the_difference_divides_best(study, source):
    first, second = profile(study, "d"), profile(study, "a")
    lost = [of["noise_clean_correct"].values.mean() - of["noise_correct"].values.mean(0) for of in (first, second)]
    x, fine = first.data["noise_frequency"].values, np.linspace(0.1, 0.9, 8001)
    areas = np.cumsum(np.interp(fine, x, lost[0] - lost[1]))
    value, low, high = pair_data(source, 0, 3)["crossing"]
    assert value == pytest.approx(fine[(2 * areas - areas[-1]).argmax()], rel=5.1e-3)
    assert low <= value <= high
    assert pair_data(source, 0, 1)["crossing"] is None


# --------------------------------------------------------------------------------------------------- other measures


def test_other_measures_are_those_of_the_comparison(study, source, data):
    assert data["measures"][0]["key"] == "cka"
    found = measures_data(source, 0, 3)["measures"]
    comparison = compare(profile(study, "a"), profile(study, "d"))
    assert set(found) == {each["key"] for each in data["measures"]} - {"cka"} >= {"rsa", "knn", "procrustes"}
    for key in ("rsa", "knn", "procrustes"):
        cells = comparison.similarity("ab", key)
        renamed = cells.rename({key: "cka"})
        assert unpacked(found[key]) == expected_cells(renamed)
        assert found[key]["n"] == N
    chance = comparison.similarity("ab", "knn")["chance"].values
    assert found["knn"]["chance"] == round(float(np.nanmean(chance)), 3) == pytest.approx(5 / 31, abs=1e-3)
    assert "chance" not in found["rsa"]


def test_projections_of_other_sizes_are_not_compared(source):
    other = source.profile(3).data.copy(deep=True)
    other["projection"].attrs["dim"] = 4
    profiles = {0: source.profile(0), 3: Profile(other, source.profile(3).provenance)}
    found = measures_data(SimpleNamespace(profile=profiles.get, vectors=source.vectors), 0, 3)
    assert set(found["measures"]) == {"rsa", "knn"}


def test_without_a_corruption_or_a_node_there_is_nothing_to_draw(source):
    data = source.profile(0).data.copy(deep=True)
    data["hessian_node"][:] = np.nan
    kept = Profile(data.sel(corruption=["low_pass", "occlusion"]), source.profile(0).provenance)
    other = SimpleNamespace(profile=lambda number: kept, result=source.result, resampling=source.resampling)
    found = network_data(other, 0)
    assert "corruptions" not in found
    assert found["hessian"]["density"] is None


def test_views_that_only_some_have_are_compared_where_both_do(source):
    measure = next(each for each in MEASURES if each.key == "pixels")
    assert measure.stored(Profile(source.profile(0).data.assign(gram_input=("x", [0.0])), {})) is True
    assert measure.stored(Profile(source.profile(0).data.drop_vars("gram_flatten"), {})) is False


def test_maps_are_subtracted_only_where_places_are_the_same(data):
    assert data["layouts"] == [0, 0, 1, 1, 1]


def test_the_interval_of_a_difference_is_no_narrower_than_the_paired_one(study):
    """What the page shows, half-widths added up, against the jackknife of the difference itself."""
    a, b, c = (profile(study, folder) for folder in ("a", "b", "d"))
    maps = [compare(x, c).with_rows("without").cka_draws("ab") for x in (a, b)]
    difference = maps[0] - maps[1]
    n = len(difference) - 1
    spread = np.sqrt((n - 1) / n * ((difference[1:] - difference[1:].mean(0)) ** 2).sum(0))
    half = scipy.stats.t.ppf(0.975, n - 1) * spread
    added = sum((compare(x, c).cka("ab")["high"] - compare(x, c).cka("ab")["cka"]).values for x in (a, b))
    defined = np.isfinite(half)
    assert defined.sum() > 100
    assert (added[defined] >= half[defined] - 1e-6).all()


def test_every_missing_measurement_has_an_analysis_that_makes_it():
    assert set(ANALYSES) == set(VIEWS)
    assert {analysis.partition(":")[0] for analysis in ANALYSES.values()} <= set(ANALYSIS_NAMES)
    for analysis in ANALYSES.values():
        make_analysis(analysis)


def test_names_in_the_scripts_are_given_once():
    """They share one scope, where a second function of a name would silently replace the first."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((Path(viewer.__file__).parent / "js").glob("*.js"))]
    given = [
        name for text in texts for name in re.findall(r"^(?:async )?(?:function|class|const|let) (\w+)", text, re.M)
    ]
    assert len(given) > 60
    assert len(given) == len(set(given))
    assert len(texts) == len(SCRIPTS)


# ---------------------------------------------------------------------------------------------------------- the page


def test_every_checkpoint_and_every_pair_of_the_same_images_has_a_file(site, data):
    pairs = {f"pair-{a}-{b}.json" for group in data["comparable"] for a, b in combinations(group, 2)}
    numbered = {
        f"{kind}-{number}.json" for kind in ("checkpoint", "network", "fields", "weights") for number in range(5)
    }
    expected = {"study.json"} | numbered | pairs
    expected |= {name.replace("pair", "measures") for name in pairs} | {f"measures-{n}-{n}.json" for n in range(5)}
    assert {path.name for path in (site / "data").iterdir()} == expected
    assert len(pairs) == 6
    for path in (site / "data").iterdir():
        assert json.loads(path.read_text(encoding="utf-8"))["format"] == 1
        assert "NaN" not in path.read_text(encoding="utf-8")


def inside(site: Path) -> dict:
    """What the page itself holds."""
    text = (site / "index.html").read_text(encoding="utf-8")
    return json.loads(re.search(r'id="vitstudy-data">(.*?)</script>', text, re.DOTALL)[1])


def test_the_page_holds_the_study_and_its_first_pair(site, data):
    held = inside(site)
    assert (
        held["study"]
        == json.loads((site / "data" / "study.json").read_text(encoding="utf-8"))
        == json.loads(json.dumps(data))
    )
    first = sorted(data["start"])
    names = {f"{kind}-{n}.json" for n in first for kind in ("checkpoint", "network")}
    assert set(held["files"]) == names | {"pair-{}-{}.json".format(*first)}
    for name, content in held["files"].items():
        assert content == json.loads((site / "data" / name).read_text(encoding="utf-8"))


def test_the_page_asks_for_nothing_from_outside(site):
    text = (site / "index.html").read_text(encoding="utf-8")
    code = text[: text.index('<script type="application/json"')] + text[text.index("// Draws the comparison") :]
    named = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"'`)]*", code))
    assert named == {
        "http://www.w3.org/2000/svg",
        "https://huggingface.co",
    }  # a namespace, and whom a frame tells its query
    assert not re.search(r"(?:src|href|action|poster)\s*=\s*[\"']?(?!data:)[a-z]+:", code)
    assert not re.search(
        r"@import|url\(|innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", code
    )
    assert "default-src 'none'" in code


def test_the_policy_allows_this_script_alone(site):
    text = (site / "index.html").read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "connect-src 'self'" in policy


def test_text_of_the_study_cannot_leave_its_element(site):
    text = (site / "index.html").read_text(encoding="utf-8")
    assert text.count("</script>") == 2
    assert "<img" not in text
    assert "<b>study</b>" not in text
    assert "<title>A &lt;b&gt;study&lt;/b&gt; &amp; more</title>" in text
    assert HOSTILE in {each["id"] for each in inside(site)["study"]["checkpoints"]}


def test_sizes(site, data):
    empty = data | {"claims": [], "checkpoints": [], "judgements": {}}
    assert len(page(empty, {}).encode()) < 185_000
    assert (site / "index.html").stat().st_size < 400_000
    largest = max(path.stat().st_size for path in (site / "data").glob("pair-*"))
    assert largest < 17 * 17 * 12 + 200


def test_the_card_is_that_of_a_static_space(site):
    import yaml

    _, head, _ = (site / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    card = yaml.safe_load(head)
    assert (card["sdk"], card["app_file"], card["title"]) == ("static", "index.html", "A <b>study</b> & more")


@pytest.mark.parametrize(("name", "of"), [("magma", "magma"), ("viridis", "viridis"), ("diverging", "RdBu_r")])
def test_colours_are_those_of_matplotlib(data, name, of):
    colours = bytes.fromhex(data[name])
    expected = mpl.colormaps[of](np.arange(256), bytes=True)[:, :3]
    assert np.frombuffer(colours, np.uint8).reshape(256, 3).tolist() == expected.tolist()


# ------------------------------------------------------------------------------------------------------ what goes wrong


def test_a_page_is_replaced_and_nothing_else_is(site, study, tmp_path):
    again = shutil.copytree(site, tmp_path / "site")
    (again / "data" / "pair-7-8.json").write_text("{}")
    export_site(study, again)
    assert not (again / "data" / "pair-7-8.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site"]


def test_a_page_that_cannot_be_made_leaves_the_old_one(site, study, tmp_path, monkeypatch):
    again = shutil.copytree(site, tmp_path / "site")
    monkeypatch.setattr("hf_vitstudy.viewer.export.page", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_site(study, again)
    assert (again / "index.html").read_bytes() == (site / "index.html").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site"]


def test_where_the_last_step_fails_the_old_page_returns(site, study, tmp_path, monkeypatch):
    again = shutil.copytree(site, tmp_path / "site")
    monkeypatch.setattr(
        "hf_vitstudy.viewer.export._write", lambda source, folder, origin: folder.rmdir()
    )  # so that there is nothing to put in its place
    with pytest.raises(StudyError, match=r"cannot write .*site"):
        export_site(study, again)
    assert (again / "index.html").read_bytes() == (site / "index.html").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site"]


def test_a_file_put_beside_a_page_is_not_thrown_away(site, study, tmp_path):
    again = shutil.copytree(site, tmp_path / "site")
    (again / "notes.txt").write_text("mine")
    with pytest.raises(StudyError, match=r"holds 'notes\.txt', which is no part of a page; choose another folder"):
        export_site(study, again)
    assert (again / "notes.txt").read_text() == "mine"


def wrong_profiles(folder: Path) -> tuple[Path, Path]:
    shutil.rmtree(folder / "profiles" / "e")
    return folder, folder.parent / "out"


def foreign_folder(folder: Path) -> tuple[Path, Path]:
    return folder, folder


def a_file(folder: Path) -> tuple[Path, Path]:
    return folder, folder / "results.json"


def no_page(folder: Path) -> tuple[Path, Path]:
    (folder.parent / "out" / "data").mkdir(parents=True)
    return folder, folder.parent / "out"


def no_study(folder: Path) -> tuple[Path, Path]:
    return folder / "profiles", folder.parent / "out"


def unreadable(folder: Path) -> tuple[Path, Path]:
    (folder / "profiles" / "a" / "profile.json").write_text("[]")
    return folder, folder.parent / "out"


WRONG = {
    wrong_profiles: "with the weights and images of results.json; name the folder .* with --profiles",
    foreign_folder: "holds 'profiles', which is no part of a page; choose another folder",
    no_page: "holds 'data', which is no part of a page",
    a_file: "is a file, expected a folder for the page",
    no_study: "no study at .*; make one with `vitstudy study FOLDER`",
    unreadable: "is not a readable profile .*; measure it again",
}


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case.__name__)
def test_bad_input_is_said(study, tmp_path, case):
    folder = shutil.copytree(study, tmp_path / "study")
    with pytest.raises(StudyError, match=WRONG[case]):
        export_site(*case(folder))


def test_profiles_may_lie_elsewhere_and_a_checkpoint_in_several(study, data, tmp_path):
    elsewhere = write_profiles(tmp_path / "elsewhere")
    whole = load_profile(elsewhere / "profiles" / "d")
    Profile(whole.data[["skip_ratio", "variance"]], whole.provenance).save(elsewhere / "more")
    Profile(whole.data.drop_vars("skip_ratio"), whole.provenance).save(elsewhere / "profiles" / "d")
    source = Source(study / "results.json", elsewhere)
    found = study_data(source)
    once = data["checkpoints"][3]["seconds"]
    assert found["checkpoints"][3]["seconds"] == 2 * once, "of both profiles"
    found["checkpoints"][3]["seconds"] = once
    assert found == data
    assert checkpoint_data(source, 3) == checkpoint_data(Source(study), 3)


def run(monkeypatch, capsys, *words: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["vitstudy", "space", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    captured = capsys.readouterr()
    return end.value.code or 0, captured.out, captured.err


def test_the_command_writes_the_page(study, tmp_path, monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, study, "--static", tmp_path / "site")
    assert code == 0
    assert f"{tmp_path / 'site' / 'index.html'}" in out
    assert "python -m http.server" in out


def test_the_command_without_a_folder_serves_the_study(study, monkeypatch, capsys):
    served = []
    app = type("App", (), {"launch": lambda self, host, port: served.append((host, port))})()
    monkeypatch.setattr("hf_vitstudy.space.make_app", lambda *given: served.append(given) or app)
    code, out, _ = run(monkeypatch, capsys, study)
    assert (code, served) == (0, [(str(study), None, None), ("127.0.0.1", None)])
    assert "serving; end it with Ctrl+C" in out


def test_a_number_changed_in_the_result_changes_the_page(study, data, tmp_path):
    folder = shutil.copytree(study, tmp_path / "study")
    result = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    changed = copy.deepcopy(result)
    where = next(i for i, claim in enumerate(result["claims"]) if "agreement" in claim)
    changed["claims"][where]["agreement"]["estimate"]["value"] += 1
    (folder / "results.json").write_text(json.dumps(changed), encoding="utf-8")
    assert study_data(Source(folder))["claims"][where] != data["claims"][where]

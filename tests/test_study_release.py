"""The folder of a published study or profile: bytes of profiles, tables that `datasets` reads, figures, and a card."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from synthetic import synthetic_profile
from synthetic_measurements import measured_profile, with_variable
from test_study import QUICK, checkpoint

from hf_vitstudy import study_tables
from hf_vitstudy.claims import choose_claims
from hf_vitstudy.errors import StudyError
from hf_vitstudy.figures import depth_rows
from hf_vitstudy.profile import Profile, load_profile
from hf_vitstudy.stats import Resampling
from hf_vitstudy.study import find_profiles, load_study, make_study
from hf_vitstudy.study_release import add_to_model, release_folder, release_profile
from hf_vitstudy.study_tables import MEASUREMENTS, VERDICTS, measurement_rows, verdict_rows, write_table


CLAIMS = tuple(choose_claims(["R-1", "P-F1", "P-F2-mlp", "P-F2-conv", "V-1-hybrid"]))
PROMISED = {"model", "measurement", "axis", "label", "estimate", "low", "high", "n", "unit", "resampled", "source"}


@pytest.fixture(scope="module")
def profiles(tmp_path_factory) -> Path:
    """Two ViTs and a ResNet, nested, one ViT in two profiles, and a fact that only the study tells."""
    place = tmp_path_factory.mktemp("release") / "a study"
    for kind, recipe in (("vit", 0), ("vit", 1), ("resnet", 0)):
        checkpoint(kind, recipe).save(place / kind / f"recipe {recipe}")
    more = checkpoint("vit", 0)
    added = more.data[["variance"]].rename(variance="more")
    Profile(added, more.provenance).save(place / "vit" / "more")
    told = {"title": "A study", "profiles": {"vit/recipe 1": {"family": "a family"}}}
    (place / "study.json").write_text(json.dumps(told), encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def results(profiles, tmp_path_factory) -> dict:
    return make_study(profiles, tmp_path_factory.mktemp("out"), replace(QUICK, claims=CLAIMS))


@pytest.fixture(scope="module")
def released(results, profiles, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("released") / "repo"
    assert release_folder(results, find_profiles(profiles), out, name="org/study") == out
    return out


@pytest.fixture(scope="module")
def tables(released, tmp_path_factory) -> dict:
    """Both configurations of the folder, as `datasets` reads them from its card."""
    from datasets import load_dataset

    cache = str(tmp_path_factory.mktemp("cache"))
    return {
        name: load_dataset(str(released), name, split="train", cache_dir=cache)
        for name in ("measurements", "verdicts")
    }


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ----------------------------------------------------------------------------------------------------------- folder


def test_profiles_are_there_byte_for_byte_under_the_keys_of_their_checkpoints(released, profiles):
    """A second profile of one checkpoint is numbered."""
    before = {name: content for name, content in files(profiles).items() if name != "study.json"}
    assert len(before) == 12
    assert files(released / "profiles") == {
        name.replace("vit/recipe 0", "vit/more-2"): content for name, content in before.items()
    }
    assert load_profile(released / "profiles" / "vit" / "recipe 1").name == "vit-1-0"


def test_the_rest_is_there_too(released, results):
    found = {name for name in files(released) if not name.startswith("profiles/")}
    pictures = {f"figures/{name}.png" for name in ("verdicts", "effects", "likeness", "cka", "depth")}
    parts = {"README.md", "FINDINGS.md", "results.json", "study.json", *pictures}
    assert found == parts | {"tables/measurements.parquet", "tables/verdicts.parquet"}
    assert load_study(released) == results
    findings = (released / "FINDINGS.md").read_text(encoding="utf-8")
    assert "](figures/verdicts.png)" in findings


def test_the_published_folder_is_judged_as_the_first_one_was(released, results, tmp_path):
    again = make_study(released, tmp_path, replace(QUICK, claims=CLAIMS))
    assert again["title"] == "A study"
    assert again["judgements"] == results["judgements"]
    assert again["claims"] == results["claims"]
    for one, other in zip(results["checkpoints"], again["checkpoints"], strict=True):
        assert other == one | {"key": f"profiles/{one['key']}"}
    assert [each["told"] for each in again["checkpoints"]].count({"family": "a family"}) == 1


def test_equal_input_gives_an_equal_folder_and_an_empty_one_may_be_there(released, results, profiles, tmp_path):
    (tmp_path / "repo").mkdir()
    again = release_folder(
        json.loads(json.dumps(results)), find_profiles(profiles)[::-1], tmp_path / "repo", name="org/study"
    )
    assert files(again) == files(released)


def test_a_part_of_a_study_keeps_its_paths(profiles, tmp_path):
    """All profiles lie below vit/, which is a part of their keys all the same."""
    part = Path(shutil.copytree(profiles, tmp_path / "part", ignore=shutil.ignore_patterns("resnet", "more")))
    found = make_study(part, tmp_path / "out", replace(QUICK, claims=CLAIMS))
    out = release_folder(found, find_profiles(part), tmp_path / "repo")
    assert {path.relative_to(out).as_posix() for path in find_profiles(out)} == {
        "profiles/vit/recipe 0",
        "profiles/vit/recipe 1",
    }


def test_profiles_that_were_moved_are_judged_again_as_before(results, profiles, tmp_path):
    """Renamed, in another order, and with a study that tells a fact about one of them."""
    for number, place in enumerate(reversed(find_profiles(profiles))):
        shutil.copytree(place, tmp_path / "moved" / f"{number}")
    out = release_folder(results, find_profiles(tmp_path / "moved"), tmp_path / "repo")
    again = make_study(out, tmp_path / "again", replace(QUICK, claims=CLAIMS))
    assert [each["key"] for each in again["checkpoints"]] == [
        f"profiles/{each['key']}" for each in results["checkpoints"]
    ]
    assert [each["told"] for each in again["checkpoints"]] == [each["told"] for each in results["checkpoints"]]
    assert again["judgements"] == results["judgements"]


def test_many_profiles_of_one_checkpoint_keep_their_order_and_take_no_other_s_name(tmp_path):
    """Of two with the same measurement the last counts."""
    whole = checkpoint("vit", 0)
    for number in range(11):
        data = whole.data[["variance"]] + number
        Profile(data, whole.provenance).save(tmp_path / "in" / ("a" if number == 0 else f"b{number:02d}"))
    checkpoint("resnet", 0).save(tmp_path / "in" / "a-05")
    found = make_study(tmp_path / "in", tmp_path / "out", replace(QUICK, claims=()))
    out = release_folder(found, find_profiles(tmp_path / "in"), tmp_path / "repo")
    names = [path.name for path in find_profiles(out)]
    assert names == ["a", "a-02", "a-03", "a-04", "a-05", *(f"a-{number:02d}" for number in range(6, 13))]
    assert load_profile(out / "profiles" / "a-05").name.startswith("resnet")
    sent = [load_profile(out / "profiles" / name).data["variance"].values[0, 0] for name in names if name != "a-05"]
    assert np.allclose(np.diff(sent), 1)


def test_a_profile_that_is_the_study_s_folder_itself_is_called_as_that(tmp_path):
    place = checkpoint("vit", 0).save(tmp_path / "alone")
    found = make_study(place, tmp_path / "out", replace(QUICK, claims=()))
    assert [each["key"] for each in found["checkpoints"]] == ["."]
    out = release_folder(found, find_profiles(place), tmp_path / "repo")
    assert find_profiles(out) == [out / "profiles" / "alone"]


@pytest.mark.parametrize(
    "key",
    ["../../x", "/tmp/x", "a/../../../x", "", "..", "a\\b", ".hidden/x", "a\nb", "x/", None, [], "a/profile.json/b"],
)
def test_a_key_that_leads_out_of_the_folder_is_refused(key, results, profiles, tmp_path):
    first, *others = results["checkpoints"]
    hostile = results | {"checkpoints": [first | {"key": key}, *others]}
    with pytest.raises(StudyError, match=r"refused a (file|profile) called "):
        release_folder(hostile, find_profiles(profiles), tmp_path / "in" / "out")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_two_checkpoints_of_one_key_are_refused(results, profiles, tmp_path):
    first, second, *others = results["checkpoints"]
    hostile = results | {"checkpoints": [first, second | {"key": first["key"]}, *others]}
    with pytest.raises(StudyError, match="the study has two checkpoints called 'resnet/recipe 0'; judge it again"):
        release_folder(hostile, find_profiles(profiles), tmp_path / "out")


def test_one_profile_is_a_repository_too(tmp_path):
    from datasets import load_dataset

    place = measured_profile().save(tmp_path / "vit")
    out = release_profile(place, tmp_path / "repo")
    kept = files(out)
    for name, content in files(place).items():
        assert kept.pop(name) == content
    assert set(kept) == {"README.md", "tables/measurements.parquet", "figures/cka.png", "figures/depth.png"}
    assert load_profile(out).n_images == 64
    table = load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert set(table["model"]) == {"synthetic-vit"}
    assert len(table) == len(measurement_rows(load_profile(place))[0])


def test_what_was_not_measured_is_not_drawn(tmp_path):
    whole = synthetic_profile(n=32)
    bare_data = whole.data[["variance"]]
    bare = Profile(bare_data, whole.provenance).save(tmp_path / "bare")
    assert [path.name for path in (release_profile(bare, tmp_path / "a") / "figures").iterdir()] == ["depth.png"]
    bare = Profile(bare_data.drop_vars("variance"), whole.provenance).save(tmp_path / "none")
    assert not list((release_profile(bare, tmp_path / "b") / "figures").iterdir())


# ----------------------------------------------------------------------------------------------------------- tables


def test_the_viewer_gets_two_tables_with_the_promised_columns(tables):
    assert {name: feature.dtype for name, feature in tables["measurements"].features.items()} == MEASUREMENTS
    assert {name: feature.dtype for name, feature in tables["verdicts"].features.items()} == VERDICTS
    assert set(MEASUREMENTS) >= PROMISED


def test_one_row_per_model_measurement_and_label(tables, results):
    keys = [tuple(row[name] for name in ("model", "measurement", "label")) for row in tables["measurements"]]
    assert len(set(keys)) == len(keys) > 400
    assert {key[0] for key in keys} == {each["key"] for each in results["checkpoints"]}
    assert {key[1] for key in keys if key[0] == results["checkpoints"][1]["key"]} >= {
        "fourier",
        "variance",
        "accuracy",
        "nll",
    }
    assert sum(key[1] == "more" for key in keys) == 17, "a second profile of one checkpoint is in its model's rows"


def test_accuracy_in_the_table_is_that_of_the_result(tables, results):
    rows = {row["model"]: row for row in tables["measurements"] if row["measurement"] == "accuracy"}
    assert len(rows) == 3
    for each in results["checkpoints"]:
        row, stored = rows[each["key"]], each["accuracy"]
        assert [row[name] for name in ("estimate", "low", "high", "n")] == [
            stored[name] for name in ("value", "low", "high", "n")
        ]


def test_verdicts_in_the_table_are_those_of_the_result(tables, results):
    rows = list(tables["verdicts"])
    judged = [claim for claim in results["claims"] if "agreement" in claim]
    assert [row["claim"] for row in rows[: len(judged)]] == [claim["id"] for claim in judged]
    assert len(rows) == len(judged) + len(results["judgements"])
    for row, claim in zip(rows, judged, strict=False):
        assert (row["scope"], row["verdict"]) == ("study", claim["agreement"]["verdict"])
        assert (row["estimate"], row["low"]) == tuple(claim["agreement"]["estimate"][end] for end in ("value", "low"))
        assert (row["checkpoints"], row["margin"]) == (claim["agreement"]["over"], claim["margin"])
    names = [each["key"] for each in results["checkpoints"]]
    for row, each in zip(rows[len(judged) :], results["judgements"], strict=True):
        assert (row["scope"], row["claim"], row["verdict"]) == ("choice", each["claim"], each["verdict"])
        assert row["checkpoints"] == " × ".join(names[number] for number in each["checkpoints"])
        assert (row["high"], row["n"], row["p_holm"]) == (
            each["estimate"]["high"],
            each["estimate"]["n"],
            each["p_holm"],
        )


def rows_of(profile: Profile, name: str) -> list[dict]:
    return [row for row in measurement_rows(profile, draws=100, seed=3)[0] if row["measurement"] == name]


def test_means_over_images_are_those_of_the_figures():
    profile = measured_profile()
    rows = depth_rows(profile, "variance", Resampling(64, 100, 3))
    found = rows_of(profile, "variance")
    assert [row["label"] for row in found] == profile.data["block"].values.tolist()
    assert [row["kind"] for row in found] == profile.data["kind"].values.tolist()
    np.testing.assert_allclose([row["depth"] for row in found], profile.data["depth"].values)
    np.testing.assert_allclose([row["estimate"] for row in found], profile.data["variance"].mean("image"), rtol=1e-6)
    for end, share in (("low", 0.025), ("high", 0.975)):
        np.testing.assert_allclose([row[end] for row in found], np.quantile(rows[1:], share, axis=0), rtol=1e-9)
    about = {"n": 64, "unit": "activation²", "resampled": "image", "source": "Park & Kim 2022, Fig 9", "axis": "block"}
    assert all(row[name] == value for row in found for name, value in about.items())


def test_several_axes_are_told_in_the_order_of_their_values():
    profile = measured_profile()
    found = rows_of(profile, "fourier")
    assert len(found) == 17 * 5
    values = profile.data["fourier"].mean("image")
    for row in found:
        block, frequency = row["label"].split(" × ")
        cell = values.sel(block=block, frequency=float(frequency))
        assert row["estimate"] == pytest.approx(float(cell), rel=1e-5)
        assert row["axis"] == "block × frequency"
        assert row["kind"] == str(profile.data["kind"].sel(block=block).values)


def test_shares_have_the_interval_of_wilson_over_images_with_a_label():
    profile = measured_profile()
    right = profile.data["lesion_correct"].values.copy()
    right[:5, 0] = -1
    profile = with_variable(profile, "lesion_correct", ("lesion_image", "lesion"), right)
    found = rows_of(profile, "lesion_correct")
    assert len(found) == 16
    for row, column in zip(found, right.T, strict=True):
        known = column[column >= 0]
        assert row["n"] == len(known)
        expected = scipy.stats.binomtest(int(known.sum()), len(known)).proportion_ci(method="wilson")
        assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))
        assert (row["estimate"], row["interval"]) == (pytest.approx(known.mean()), "Wilson")
    assert found[0]["kind"] == "attention"
    assert found[0]["depth"] == pytest.approx(0.25)


def test_means_over_mini_batches_have_student_s_interval():
    profile = measured_profile()
    values = profile.data["hessian_top"].values
    for row, column in zip(rows_of(profile, "hessian_top"), values.T, strict=True):
        expected = scipy.stats.t.interval(0.95, 5, column.mean(), scipy.stats.sem(column))
        assert (row["low"], row["high"]) == pytest.approx(expected)
        assert (row["n"], row["resampled"]) == (6, "batch")


def test_stored_errors_make_an_interval_and_numbers_without_one_have_none():
    profile = measured_profile()
    error = profile.data["localisation_share_error"].values.ravel()
    found = rows_of(profile, "localisation_share")
    np.testing.assert_allclose([row["high"] - row["estimate"] for row in found], 1.96 * error)
    assert [row["n"] for row in found] == [64] * 6
    for row in rows_of(profile, "position_share"):
        assert row["low"] is row["high"] is row["n"] is None
        assert row["resampled"] == row["interval"] == ""
    assert [row["label"] for row in rows_of(profile, "position_share")] == ["row", "column", "rest"]


def test_what_is_undefined_is_empty():
    values = np.ones((64, 2), np.float32)
    values[:, 0], values[3:, 1] = np.nan, np.nan
    first, second = rows_of(with_variable(measured_profile(), "own", ("image", "own_axis"), values), "own")
    assert (first["estimate"], first["low"], first["n"], first["label"]) == (None, None, None, "0")
    assert (second["estimate"], second["low"], second["n"]) == (1, 1, 3)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_only_measurements_are_rows_and_maps_are_named(kind):
    profile = measured_profile(kind)
    rows, left_out = measurement_rows(profile)
    names = {row["measurement"] for row in rows}
    material = {
        "gram_flatten",
        "scale_flatten",
        "label",
        "top5",
        "projection",
        "hessian_node",
        "branch_depth",
        "lesion_kind",
    }
    assert material <= set(profile.data.data_vars)
    assert not material & names
    assert {"accuracy", "top5_accuracy", "nll", "noise_correct", "hessian_top", "skip_ratio"} <= names
    assert left_out["receptive_map"] == f"{profile.data['receptive_map'].size:,} cells, which are in the profile"
    assert ("attention_distance" in names) == (kind == "vit")
    assert left_out.get("attention_distance") == (None if kind == "vit" else "no attention in this network")


def test_top_five_of_five_classes_is_no_number_and_no_label_no_accuracy():
    profile = synthetic_profile(n=32)
    profile.provenance["checkpoint"]["classes"] = list("abcde")
    assert [row["measurement"] for row in measurement_rows(profile)[0]].count("top5_accuracy") == 0
    profile.data["label"][:] = -1
    assert rows_of(profile, "accuracy") == []


def test_equal_rows_give_equal_bytes(tmp_path):
    rows, _ = measurement_rows(synthetic_profile(n=32), "a name")
    one, other = (write_table(rows, MEASUREMENTS, tmp_path / name / "t.parquet") for name in "ab")
    assert one.read_bytes() == other.read_bytes()
    assert {row["model"] for row in rows} == {"a name"}


# ------------------------------------------------------------------------------------------------------------ model


def trained(folder: Path, profile: Profile, **changes) -> Path:
    """A network's folder as training leaves it, as far as publishing reads it."""
    from test_cards import fine_tuned

    folder.mkdir()
    files_ = {"model.safetensors": profile.provenance["checkpoint"].get("files", {}).get("model.safetensors")}
    known = {"files": files_, "parameters": profile.provenance["checkpoint"]["parameters"]}
    (folder / "training.json").write_text(json.dumps(fine_tuned() | known | changes), encoding="utf-8")
    return folder


def test_a_model_s_repository_holds_its_profile_figures_and_leaderboard_entry(results, profiles, tmp_path):
    place = profiles / "vit" / "recipe 1"
    folder = trained(tmp_path / "model", load_profile(place))
    (folder / "vitstudy" / "old").mkdir(parents=True)
    written = add_to_model(folder, place, results, name="org/model", license="mit")
    assert [path.relative_to(folder).as_posix() for path in written] == [
        "vitstudy",
        "README.md",
        ".eval_results/cifar100.yaml",
    ]
    assert files(folder / "vitstudy" / "recipe 1") == files(place)
    assert sorted(path.name for path in (folder / "vitstudy").iterdir()) == ["figures", "recipe 1"]
    card = (folder / "README.md").read_text(encoding="utf-8")
    for name in ("cka", "depth"):
        assert f"](vitstudy/figures/{name}.png)" in card
        assert (folder / "vitstudy" / "figures" / f"{name}.png").is_file()
    assert "| P-F1 | Self-attention lowers high frequencies | " in card
    assert not (profiles / "vit" / "recipe 1" / "figures").exists()


def test_a_model_without_a_profile_has_its_card(tmp_path):
    folder = trained(tmp_path / "model", synthetic_profile(n=32), data={})
    assert [path.name for path in add_to_model(folder)] == ["README.md"]
    assert "What is inside it" not in (folder / "README.md").read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------------- bad input


def test_a_profile_that_is_missing_or_strange_is_said(results, profiles, tmp_path):
    found = find_profiles(profiles)
    with pytest.raises(StudyError, match="no profile of resnet/recipe 0 was given, but the study is of it"):
        release_folder(results, found[1:], tmp_path / "out")
    stranger = checkpoint("vit", 7).save(tmp_path / "stranger")
    with pytest.raises(
        StudyError, match=r"stranger is of vit-7-0, which is not in the study; the study is of resnet-0-0, vit"
    ):
        release_folder(results, [*found, stranger], tmp_path / "out")
    with pytest.raises(StudyError, match="recipe 0 was given twice; give every profile once"):
        release_folder(results, [*found, found[0]], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["stranger"], "nothing is left behind"


def test_a_damaged_profile_is_not_published(results, profiles, tmp_path):
    copied = Path(shutil.copytree(profiles, tmp_path / "study"))
    path = copied / "vit" / "recipe 1" / "arrays.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(StudyError, match="is damaged"):
        release_folder(results, find_profiles(copied), tmp_path / "out")


def test_a_folder_with_files_is_left_alone(results, profiles, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("out", "file"):
        with pytest.raises(StudyError, match=f"{name} is there already; give a folder that is not, or an empty one"):
            release_folder(results, find_profiles(profiles), tmp_path / name)
    assert files(tmp_path) == {"out/mine": b"mine", "file": b"mine"}


def test_a_model_needs_the_record_of_its_training(tmp_path):
    with pytest.raises(StudyError, match=r"no record of a training at .*expected training\.json"):
        add_to_model(tmp_path)


WITHOUT_PYARROW = """
import sys
sys.modules["pyarrow"] = None
from hf_vitstudy import study_release, study_tables
from hf_vitstudy.errors import StudyError
from pathlib import Path
try:
    study_release.release_profile(Path(sys.argv[1]), Path(sys.argv[2]))
except StudyError as error:
    print(error)
print(sorted({"torch", "datasets", "transformers"} & set(sys.modules)), Path(sys.argv[2]).exists())
"""


def test_without_pyarrow_everything_is_imported_and_writing_says_what_to_install(profiles, tmp_path):
    command = [sys.executable, "-c", WITHOUT_PYARROW, str(profiles / "resnet" / "recipe 0"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    message, heavy = done.stdout.splitlines()
    assert message.startswith("tables are written by pyarrow, which is not installed; install it with: pip install")
    assert heavy == "[] False"


def test_verdicts_without_a_number_are_rows_too(results):
    changed = json.loads(json.dumps(results))
    changed["judgements"][0]["estimate"] = None
    row = verdict_rows(changed)[sum("agreement" in claim for claim in results["claims"])]
    assert (row["estimate"], row["n"]) == (None, None)
    assert study_tables.JOIN == " × "

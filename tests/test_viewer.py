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

import matplotlib as mpl
import numpy as np
import pytest
from viewer_site import CLAIMS, HOSTILE, N, shown, trained, write_profiles, write_study

from hf_vitstudy import cli
from hf_vitstudy.claims import CLAIMS as ALL_CLAIMS
from hf_vitstudy.comparison import compare
from hf_vitstudy.errors import StudyError
from hf_vitstudy.figures import CHARTS, Study
from hf_vitstudy.profile import Profile, load_profile
from hf_vitstudy.study import load_study, make_study
from hf_vitstudy.viewer import Source, checkpoint_data, export_site, pair_data, study_data
from hf_vitstudy.viewer.data import VERDICTS, shown_p, thousandths, three
from hf_vitstudy.viewer.export import page
from hf_vitstudy.viewer.methods import CURVES, EVIDENCE, METHODS, VIEWS, WHERE


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
    assert seen["P-H1"] is None


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
    assert set(resnet["curves"]) == {curve.key for curve in CURVES}
    plain = source.profile(0)
    lacking = Profile(plain.data.drop_vars(["fourier", "probe_correct"]), plain.provenance)
    assert [curve.key for curve in CURVES if curve.measured(lacking)] == ["variance", "skip"]


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


# ---------------------------------------------------------------------------------------------------------- the page


def test_every_checkpoint_and_every_pair_of_the_same_images_has_a_file(site, data):
    pairs = {f"pair-{a}-{b}.json" for group in data["comparable"] for a, b in combinations(group, 2)}
    expected = {"study.json"} | {f"checkpoint-{number}.json" for number in range(5)} | pairs
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
    assert set(held["files"]) == {f"checkpoint-{n}.json" for n in first} | {"pair-{}-{}.json".format(*first)}
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
    assert len(page(empty, {}).encode()) < 100_000
    assert (site / "index.html").stat().st_size < 400_000
    largest = max(path.stat().st_size for path in (site / "data").glob("pair-*"))
    assert largest < 17 * 17 * 12 + 200


def test_the_card_is_that_of_a_static_space(site):
    import yaml

    _, head, _ = (site / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    card = yaml.safe_load(head)
    assert (card["sdk"], card["app_file"], card["title"]) == ("static", "index.html", "A <b>study</b> & more")


def test_magma_is_that_of_matplotlib(data):
    colours = bytes.fromhex(data["magma"])
    expected = mpl.colormaps["magma"](np.arange(256), bytes=True)[:, :3]
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
        "hf_vitstudy.viewer.export._write", lambda source, folder: folder.rmdir()
    )  # so that there is nothing to put in its place
    with pytest.raises(FileNotFoundError):
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
    assert study_data(source) == data
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


def test_the_command_without_a_folder_says_what_there_is(study, monkeypatch, capsys):
    code, _, err = run(monkeypatch, capsys, study)
    assert code == 2
    assert "--static" in err


def test_a_number_changed_in_the_result_changes_the_page(study, data, tmp_path):
    folder = shutil.copytree(study, tmp_path / "study")
    result = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    changed = copy.deepcopy(result)
    where = next(i for i, claim in enumerate(result["claims"]) if "agreement" in claim)
    changed["claims"][where]["agreement"]["estimate"]["value"] += 1
    (folder / "results.json").write_text(json.dumps(changed), encoding="utf-8")
    assert study_data(Source(folder))["claims"][where] != data["claims"][where]

"""The command line: what a user types and sees. Bad input ends in one line that says what to do, exit code 2, no traceback."""

import csv
import itertools
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from synthetic import synthetic_profile
from typer.testing import CliRunner

from hf_vitstudy import cli, compare, load_profile
from hf_vitstudy.claims import CLAIMS, choose_claims


COMMANDS = ("blocks", "measure", "compare", "judge", "study", "report", "demo")


class Run:
    """One run of the command line in this process, through `cli.main`, where errors are caught."""

    def __init__(self, capsys, monkeypatch, *words: object) -> None:
        monkeypatch.setattr(sys, "argv", ["vitstudy", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as end:
            cli.main()
        self.code = end.value.code or 0
        captured = capsys.readouterr()
        self.out, self.err = captured.out, captured.err


@pytest.fixture
def run(capsys, monkeypatch):
    return lambda *words: Run(capsys, monkeypatch, *words)


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("profiles")
    return tuple(synthetic_profile(kind, n=64).save(folder / kind) for kind in ("vit", "resnet"))


def test_help_names_every_command_and_every_option_has_a_text(run):
    text = run("--help").out
    for command in COMMANDS:
        assert f" {command} " in text
    for command in COMMANDS:
        found = run(command, "--help")
        assert found.code == 0
        assert f"{command} [OPTIONS]" in found.out
    typed = CliRunner().invoke(cli.app, ["measure", "-h"], env={"COLUMNS": "200"})
    options = (
        "images",
        "split",
        "revision",
        "n",
        "batch-size",
        "device",
        "dtype",
        "attn",
        "analyses",
        "paper-mode",
        "out",
    )
    for option in options:
        assert f"--{option}" in typed.output


def test_both_commands_are_installed():
    scripts = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"vitstudy": "hf_vitstudy.cli:main", "hf-vitstudy": "hf_vitstudy.cli:main"}
    for name in scripts:
        found = subprocess.run(
            [Path(sys.executable).with_name(name), "--version"], capture_output=True, text=True, check=True
        )
        assert found.stdout.strip() == "0.1.0"


def test_the_reading_commands_load_no_torch(stored):
    code = (
        "import sys; from hf_vitstudy import cli\n"
        f"sys.argv = ['vitstudy', 'judge', {str(stored[0])!r}, {str(stored[1])!r}, '--draws', '100']\n"
        "try: cli.main()\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_from_a_folder_of_weights_to_a_report(run, vit_folder, resnet_folder, image_folder, tmp_path):
    table = run("blocks", vit_folder)
    assert table.code == 0
    assert "block02.attention" in table.out
    assert "24 x 8 x 8" in table.out
    paths = run("blocks", vit_folder, "--all").out.split()
    assert "classifier" in paths

    profiles = [tmp_path / name for name in ("vit", "resnet")]
    for checkpoint, out in zip((vit_folder, resnet_folder), profiles, strict=True):
        words = ("--images", image_folder, "--n", 24, "--batch-size", 8, "--workers", 0, "--out", out)
        found = run("measure", checkpoint, *words)
        assert found.code == 0, found.err
        assert "24 images, 7 places" in found.out
        assert "measuring small-" in found.err, "there is a progress bar"
    assert "without attention_distance: no attention in this network" in found.out

    found = run("compare", *profiles, "--permutations", 20, "--out", tmp_path / "maps.csv")
    assert "most similar block of small-resnet for each block of small-vit" in " ".join(found.out.split())
    rows = list(csv.DictReader((tmp_path / "maps.csv").read_text().splitlines()))
    assert len(rows) == 3 * 49
    expected = compare(*map(load_profile, profiles)).cka("ab")
    first = next(row for row in rows if row["map"] == "ab")
    assert float(first["cka"]) == pytest.approx(float(expected["cka"][0, 0]))
    assert float(first["low"]) == pytest.approx(float(expected["low"][0, 0]))

    report = tmp_path / "report.html"
    found = run("report", *profiles, "--out", report, "--figures", tmp_path / "figures", "--draws", 100)
    assert found.code == 0, found.err
    assert report.is_file()
    assert (tmp_path / "figures" / "cka.png").is_file()


def test_judge_prints_every_claim_and_writes_json(run, stored, tmp_path):
    found = run("judge", *stored, "--draws", 100, "--json", tmp_path / "claims.json")
    claims = json.loads((tmp_path / "claims.json").read_text())
    ids = [claim.id for claim in CLAIMS]
    assert list(dict.fromkeys(claim["id"] for claim in claims)) == ids
    judged = {claim["id"]: claim for claim in claims if claim["estimate"]}
    assert {"R-1", "R-2", "P-F1", "P-F2-mlp", "P-F2-conv", "P-V1-msa", "R-4-local"} <= judged.keys()
    for claim in claims:
        assert re.search(rf"^{claim['id']} ", found.out, re.MULTILINE)
        assert claim["estimate"] is None or claim["verdict"] in found.out
    assert judged["P-F1"]["estimate"]["n"] == 64
    only = run("judge", *stored, "--claims", "R-1,P-F1", "--draws", 100)
    assert "P-F1" in only.out
    assert "P-V1" not in only.out


def table_row(text: str, name: str) -> str:
    """The lines of one row of a table, from its name to the next row's, without folds."""
    rows = text[text.index(name) :].split("\n")
    return " ".join(" ".join([rows[0], *itertools.takewhile(lambda line: line[:1] in ("", " "), rows[1:])]).split())


def test_judge_shows_what_a_verdict_rests_on(run, stored, tmp_path):
    found = run("judge", *stored, "--claims", "R-1,R-2,P-F1", "--draws", 100, "--json", tmp_path / "claims.json")
    claims, controls = re.split(r"\ncontrols *\n", found.out)
    for each in json.loads((tmp_path / "claims.json").read_text()):
        row = table_row(claims, f"{each['id']} ")
        assert "64 images" in row
        assert ("<0.001" if each["p_holm"] < 0.001 else f"{each['p_holm']:.3f}") in row
        assert (f"(alone: {each['alone']})" in row) == (each["alone"] != each["verdict"])
        names = {control["name"] for control in each["controls"]}
        assert names == ({"shuffled images", "without one image", "plain CKA"} if each["id"][0] == "R" else set())
    assert controls.count("shuffled images") == 2
    assert "P-F1" not in controls


def test_a_claim_is_explained_without_profiles(run):
    found = run("judge", "--explain", "P-F2-conv,R-1")
    text = " ".join(found.out.split())
    for claim in choose_claims(["P-F2-conv", "R-1"]):
        for words in (claim.text, claim.source, claim.statistic, claim.formula, claim.falsified_by, claim.conditions):
            assert words in text
        assert f"{claim.margin:g} {claim.unit}" in text
    assert "against Depthwise convolutions of ConvNeXt" in text
    assert "checkpoints a checkpoint with attention and no convolutional blocks and a checkpoint with" in text
    assert "--analyses fourier" in text
    assert "--analyses cka" in text
    assert text.count("controls shuffled images") == 1


def test_with_profiles_the_explained_claims_are_judged(run, stored):
    found = run("judge", *stored, "--explain", "P-F1", "--draws", 100)
    assert "falsified by" in found.out
    assert "64 images" in table_row(found.out[found.out.index("\nid ") :], "P-F1 ")
    assert "P-V1-msa" not in found.out


def test_a_study_is_printed_written_and_written_up(run, stored, tmp_path):
    place = tmp_path / "profiles"
    for folder in stored:
        shutil.copytree(folder, place / folder.name)
    words = ("--claims", "R-1,P-F1,V-1-hybrid", "--draws", 100, "--permutations", 5)
    found = run("study", place, "--out", tmp_path / "out", *words, "--findings", tmp_path / "FINDINGS.md")
    assert found.code == 0, found.err
    assert "1 pair no interval" in table_row(found.out, "R-1: ")
    assert "1 checkpoint no interval" in table_row(found.out, "P-F1: ")
    assert "needs a ViT on a convolutional network's maps" in table_row(found.out, "V-1-hybrid")
    assert f"2 checkpoints, 2 judgements -> {tmp_path / 'out'}" in found.out.replace("\n", "")
    made = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert made == {f"{name}.{kind}" for name in ("verdicts", "effects", "likeness") for kind in ("png", "svg")}
    first = (tmp_path / "FINDINGS.md").read_text()
    assert "](out/figures/verdicts.png)" in first
    shutil.rmtree(place)
    again = run("study", tmp_path / "out" / "results.json", "--findings", tmp_path / "FINDINGS.md")
    assert again.code == 0, again.err
    assert (tmp_path / "FINDINGS.md").read_text() == first


def test_the_nearest_blocks_are_listed(run, stored, tmp_path):
    place = tmp_path / "profiles"
    for folder in stored:
        shutil.copytree(folder, place / folder.name)
    found = run("study", place, "--out", tmp_path / "out", "--nearest", "vit:block00.mlp")
    assert found.code == 0, found.err
    expected = compare(*map(load_profile, stored)).cka()["cka"].sel(row="block00.mlp").values
    assert f"{expected.max():.3f}" in found.out
    assert not (tmp_path / "out" / "results.json").exists()


def test_maps_are_written_as_json_with_null_where_undefined(run, stored, tmp_path):
    profile = load_profile(stored[0])
    data = profile.data.copy(deep=True)
    data["gram_flatten"][0] = 0
    constant = type(profile)(data, profile.provenance).save(tmp_path / "constant")
    found = run("compare", constant, stored[1], "--permutations", 0, "--out", tmp_path / "maps.json")
    assert "undefined: the same for every image" in found.out
    cells = json.loads((tmp_path / "maps.json").read_text())["cells"]
    blank = [cell for cell in cells if cell["cka"] is None]
    assert {cell["map"] for cell in blank} == {"aa", "ab"}
    assert len(blank) == 17 + 16 + 9


def damaged(stored, tmp_path) -> Path:
    folder = Path(shutil.copytree(stored[0], tmp_path / "damaged"))
    content = bytearray((folder / "arrays.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "arrays.safetensors").write_bytes(content)
    return folder


BAD = {
    "no such checkpoint": (lambda s, t: ["measure", "./nowhere", "--images", t], "no checkpoint at './nowhere'"),
    "no images": (
        lambda s, t: ["measure", s["vit"], "--images", "./nowhere.parquet"],
        "no images at ./nowhere.parquet",
    ),
    "few images a batch": (
        lambda s, t: ["measure", s["vit"], "--images", s["images"], "--batch-size", 2],
        "at least 4 images for unbiased CKA, got batch_size=2",
    ),
    "unknown analysis": (
        lambda s, t: ["measure", s["vit"], "--images", s["images"], "--analyses", "cca"],
        "no analysis is called 'cca'; there are: cka, fourier",
    ),
    "bad dtype": (
        lambda s, t: ["measure", s["vit"], "--images", s["images"], "--dtype", "int8"],
        "dtype must be one of float32",
    ),
    "no blocks": (lambda s, t: ["blocks", s["vit"], "--blocks", "nothing"], "matches no module"),
    "no profile": (lambda s, t: ["judge", t / "none"], "make one with `vitstudy measure`"),
    "flipped bit": (lambda s, t: ["compare", damaged(s["stored"], t), s["stored"][1]], "is damaged"),
    "different images": (
        lambda s, t: ["compare", s["stored"][0], synthetic_profile("resnet", n=32).save(t / "fewer")],
        "64 against 32 images",
    ),
    "view not measured": (lambda s, t: ["compare", *s["stored"], "--view", "cls"], "has no measurement"),
    "unknown claim": (lambda s, t: ["judge", *s["stored"], "--claims", "R-99"], "no claim is called 'R-99'"),
    "near claim": (lambda s, t: ["judge", "--explain", "PF2-mlp"], "did you mean P-F2-mlp"),
    "untested claim": (lambda s, t: ["judge", "--explain", "V-4"], "V-4 cannot be judged on stored profiles: "),
    "nothing to judge": (lambda s, t: ["judge"], "judge needs at least one profile, got none; or --explain ID"),
    "no study": (lambda s, t: ["study", t / "none"], "no folder at"),
    "too many pairs": (
        lambda s, t: ["study", s["stored"][0].parent, "--pairs", 0, "--out", t / "o"],
        "more than --pairs 0",
    ),
    "commentary alone": (lambda s, t: ["study", t, "--commentary", t / "c.md"], "--commentary goes into the findings"),
    "near what": (
        lambda s, t: ["study", s["stored"][0].parent, "--nearest", "vit", "--out", t / "o"],
        "CHECKPOINT:BLOCK",
    ),
    "odd file name": (lambda s, t: ["compare", *s["stored"], "--out", t / "maps.xls"], "must end in .json or .csv"),
    "report into a folder": (lambda s, t: ["report", *s["stored"], "--draws", 100, "--out", t], "is a folder"),
}


def a_file(folder: Path) -> Path:
    (folder / "file").write_text("kept")
    return folder / "file"


PLACES = {  # command -> words that name a place for its result, and what is said of it
    "judge: no folder": (lambda s, t: ["judge", *s, "--json", t / "none" / "x.json"], "there is no folder"),
    "judge: a folder": (lambda s, t: ["judge", *s, "--json", t], "is a folder, expected the name of a JSON file"),
    "compare: no folder": (lambda s, t: ["compare", *s, "--out", t / "none" / "x.csv"], "there is no folder"),
    "compare: an ending": (lambda s, t: ["compare", *s, "--out", t / "x.txt"], "must end in .json or .csv"),
    "report: a folder": (lambda s, t: ["report", *s, "--out", t], "is a folder"),
    "report: below a file": (lambda s, t: ["report", *s, "--out", a_file(t) / "r.html"], "file is no folder"),
    "report: figures in a file": (
        lambda s, t: ["report", *s, "--out", t / "r.html", "--figures", a_file(t)],
        "file is no folder",
    ),
    "study: a file": (lambda s, t: ["study", s[0].parent, "--out", a_file(t)], "file is no folder"),
    "demo: a file": (lambda s, t: ["demo", "--out", a_file(t)], "file is no folder"),
}


@pytest.mark.parametrize("case", PLACES)
def test_the_place_of_a_result_is_looked_at_before_the_work(case, run, stored, tmp_path, monkeypatch):
    for place in ("hf_vitstudy.profile.load_profile", "hf_vitstudy.study.make_study", "hf_vitstudy.demo.write_digits"):
        monkeypatch.setattr(place, lambda *arguments: pytest.fail("the work comes later"))
    words, message = PLACES[case]
    found = run(*words(stored, tmp_path))
    assert found.code == 2
    (line,) = [line for line in found.err.splitlines() if line]
    assert line.startswith("error: ")
    assert message in line
    if (tmp_path / "file").exists():
        assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(case, run, stored, vit_folder, image_folder, tmp_path):
    words, message = BAD[case]
    found = run(*words({"vit": vit_folder, "images": image_folder, "stored": stored}, tmp_path))
    assert found.code == 2
    lines = [line for line in found.err.splitlines() if line]
    assert len(lines) == 1, found.err
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert "Traceback" not in found.out + found.err


def test_an_unreadable_image_stops_with_its_row(run, vit_folder, image_folder, tmp_path):
    folder = Path(shutil.copytree(image_folder, tmp_path / "images"))
    broken = sorted(folder.rglob("*.png"))[7]
    broken.write_bytes(broken.read_bytes()[:100])
    found = run("measure", vit_folder, "--images", folder, "--batch-size", 8, "--workers", 0, "--out", tmp_path / "p")
    assert found.code == 2
    assert f"image 7 of images ({broken.parent.name}/{broken.name}): " in found.err.splitlines()[-1]
    assert "replace or remove the file" in found.err.splitlines()[-1]
    assert not (tmp_path / "p").exists()


def test_wrong_words_are_typer_s_own_errors(run):
    assert run("meassure").code == 2
    assert run("judge").code == 2
    assert run("report", "x", "--draws", "1").code == 2


def test_without_torch_measuring_says_how_to_install_it(run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "hf_vitstudy.measuring", None)

    class NoTorch:
        def find_spec(self, name, *_):
            if name == "hf_vitstudy.checkpoints":
                raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.delitem(sys.modules, "hf_vitstudy.checkpoints", raising=False)
    monkeypatch.setattr(sys, "meta_path", [NoTorch(), *sys.meta_path])
    found = run("measure", "org/name", "--images", "x")
    assert found.code == 2
    assert found.err.strip() == "error: measuring needs torch; install it with: pip install 'hf_vitstudy[study]'"


def test_numbers_without_value_become_null():
    assert cli._number(np.float64("nan")) is None
    assert cli._number(np.float64(0.25)) == 0.25

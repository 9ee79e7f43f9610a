"""FINDINGS.md says what the stored result says: all of its numbers come from there, and nothing else does."""

import copy
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from test_study import QUICK, checkpoint

from hf_vitstudy.claims import UNTESTED, choose_claims
from hf_vitstudy.errors import StudyError
from hf_vitstudy.findings import findings, read_commentary, write_findings
from hf_vitstudy.study import load_study, make_study


CLAIMS = tuple(choose_claims(["R-1", "P-F1", "P-F2-mlp", "P-F2-conv", "V-1-hybrid"]))
WORDS = ("text", "source", "statistic", "formula", "falsified_by", "conditions", "against", "unit", "reason")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Two ViTs and one ResNet: one claim with an interval over checkpoints, one without, one not judged."""
    place = tmp_path_factory.mktemp("findings")
    for kind, recipe in (("vit", 0), ("vit", 1), ("resnet", 0)):
        checkpoint(kind, recipe).save(place / "profiles" / f"{kind}-{recipe}")
    make_study(place / "profiles", place / "out", replace(QUICK, claims=CLAIMS))
    shutil.rmtree(place / "profiles")
    return place / "out"


@pytest.fixture
def result(stored):
    return load_study(stored)


def section(text: str, head: str) -> str:
    return re.split(r"^##+ ", text.split(f"### {head}", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def claim_of(result, name):
    return next(claim for claim in result["claims"] if claim["id"] == name)


def test_what_held_and_what_did_not_stand_under_their_headings(result):
    agreement = claim_of(result, "P-F1")["agreement"]
    none = dict.fromkeys(("supported", "contradicted", "negligible", "undecided"), 0)
    for verdict, counts, head in (
        ("supported", {}, "Held over checkpoints"),
        ("contradicted", {}, "Did not hold over checkpoints"),
        ("negligible", {}, "Too small to matter over checkpoints"),
        ("undecided", {"supported": 3}, "Held on every choice of checkpoints"),
        ("undecided", {"contradicted": 2}, "Did not hold on any choice of checkpoints"),
        ("undecided", {"supported": 2, "contradicted": 1}, "Held on some checkpoints and did not on others"),
        ("undecided", {"supported": 2, "negligible": 1}, "Undecided"),
        ("undecided", {"negligible": 2}, "Undecided"),
    ):
        agreement |= {"verdict": verdict, "counts": none | counts}
        text = findings(result)
        part = text[text.index(f"\n## {head}") :].split("\n## ")[1]
        assert "### P-F1: Self-attention lowers high frequencies" in part
        assert "\n| P-F1 | Self-attention lowers high frequencies | " in part
        assert re.search(rf"^\| {head} \| [1-9] \|$", text, re.MULTILINE)


def test_an_effect_stands_with_its_interval_what_it_is_over_and_the_single_choices(result):
    estimate = {"value": 0.12345, "low": -0.0456, "high": 0.2, "unit_resampled": "recipe", "n": 2}
    more = {
        "estimate": estimate,
        "over": "2 recipes (5 checkpoints)",
        "p_holm": 0.04567,
        "verdict": "undecided",
        "alone": "supported",
    }
    counts = {"supported": 3, "contradicted": 0, "negligible": 1, "undecided": 1}
    alone = {"supported": 5, "contradicted": 0, "negligible": 0, "undecided": 0}
    more |= {"counts": counts, "counts_alone": alone, "lowest": -0.5, "highest": 1234.5, "note": "A note."}
    claim_of(result, "P-F1")["agreement"] |= more
    text = section(findings(result), "P-F1")
    assert (
        "**0.123 (−0.0456 to 0.200)** log amplitude over 2 recipes (5 checkpoints), p = 0.046 after Holm; "
        "by its interval alone: supported, against a margin of 0.02." in text
    )
    assert "Of 5 choices of checkpoints, each with its own interval: 3 supported, 1 negligible, 1 undecided" in text
    assert "(before the correction for all of them: 5 supported)" in text
    assert "effects from −0.500 to 1.23e+03." in text
    assert "\nA note.\n" in text


def test_where_choices_differ_each_recipe_has_a_row(result):
    """Three choices of R-1: two seeds of one recipe, and another; the effects are those of the judgements."""
    for place, (name, recipe) in enumerate([("vit-a-0", "A"), ("vit-a-1", "A"), ("net", "B"), ("vit-b", "C")]):
        result["checkpoints"][place : place + 1] = [
            copy.deepcopy(result["checkpoints"][0]) | {"name": name, "recipe": recipe}
        ]
    judged = next(each for each in result["judgements"] if each["claim"] == "R-1")
    result["judgements"] = [
        copy.deepcopy(judged)
        | {"checkpoints": [vit, 2], "verdict": verdict, "estimate": judged["estimate"] | {"value": value}}
        for vit, verdict, value in ((0, "supported", 0.2), (1, "undecided", 0.1), (3, "contradicted", -0.3))
    ]
    counts = {"supported": 1, "contradicted": 1, "negligible": 0, "undecided": 1}
    claim_of(result, "R-1")["agreement"] |= {"counts": counts, "counts_alone": counts}
    result["claims"] = [claim_of(result, "R-1")]
    text = section(findings(result), "R-1")
    assert "| vit-a-… and net | 1 supported, 1 undecided | 0.100 to 0.200 |\n" in text
    assert "| vit-b and net | 1 contradicted | −0.300 |\n" in text


def test_one_pair_says_so_and_shows_its_own_interval_over_images(result):
    claim = claim_of(result, "P-F2-conv")
    text = section(findings(result), "P-F2-conv")
    assert "1 checkpoint: an interval over checkpoints needs at least two of each role. Mean effect **" in text
    (judged,) = [each for each in result["judgements"] if each["claim"] == "P-F2-conv"]
    low, high = (f"{judged['estimate'][end]:#.3g}" for end in ("low", "high"))
    assert (
        f"On resnet-0-0: {claim['agreement']['estimate']['value']:#.3g} ({low} to {high}), the interval over 32 images: "
        in text
    )
    assert "2 checkpoints × 1 checkpoint (2 pairs): an interval over checkpoints needs" in section(
        findings(result), "R-1"
    )


def test_controls_contradictions_and_granularity_are_there(result):
    text = section(findings(result), "R-1")
    for control in claim_of(result, "R-1")["agreement"]["controls"]:
        assert f"- control, {control['name']}: {control['value']:#.3g}".replace("-0.", "−0.") in text
    assert "- read at 17 places in 8 blocks; 9 places in 8 blocks\n" in text
    assert "- published against it: Depthwise convolutions of ConvNeXt" in section(findings(result), "P-F2-conv")
    assert "published against" not in section(findings(result), "P-F1")


def test_what_was_not_judged_says_why(result):
    text = findings(result)
    assert "- V-1-hybrid, Early attention is less local" in text
    assert "needs a ViT on a convolutional network's maps" in text
    for name in UNTESTED:
        assert f"- {name}: " in text


def test_checkpoints_stand_with_accuracy_and_axes(result):
    accuracy = result["checkpoints"][1]["accuracy"]
    shown = f"{accuracy['value']:#.3g} ({accuracy['low']:#.3g} to {accuracy['high']:#.3g})"
    row = next(line for line in findings(result).splitlines() if line.startswith("| vit-0-0 | vit"))
    assert row == f"| vit-0-0 | vit | trained | 1,000,000 | 32 × 32 | {shown} | 0 |"
    assert "| checkpoint | network | state | parameters | image size | accuracy (95 %) | seed |" in findings(result)
    result["checkpoints"][1] |= {"accuracy": None, "parameters": None, "image_size": None, "axes": {"patch_size": 16}}
    row = next(line for line in findings(result).splitlines() if line.startswith("| vit-0-0 | vit"))
    assert row == "| vit-0-0 | vit | trained | – | – | – | – | 16 |"


def test_no_number_is_written_by_hand(result):
    """With every fraction of the result set to one number, the document holds no other."""

    def levelled(value):
        if isinstance(value, dict):
            return {key: "words" if key in WORDS else levelled(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [levelled(inner) for inner in value]
        return 0.777 if isinstance(value, float) else value

    result = levelled(result) | {"version": "1", "untested": {}}
    for each in [*result["judgements"], *(c["agreement"] for c in result["claims"] if "agreement" in c)]:
        each["controls"] = [control | {"text": "words"} for control in each["controls"]]
    found = set(re.findall(r"\d+\.\d+", findings(result)))
    assert found == {"0.777", "0.223"}, "the likeness is one minus the distance"


def test_names_from_strangers_stay_names(result):
    result["title"] = "a <b>title</b> | `x`"
    result["checkpoints"][1]["name"] = "[click](http://x) | *bold*"
    text = findings(result)
    assert "<b>" not in text
    assert "](http" not in text
    row = next(line for line in text.splitlines() if line.startswith("| &#91;click"))
    assert row.count("|") == 8


def test_figures_are_linked_from_where_the_file_is(stored, tmp_path, result):
    pictures = [stored / "figures" / name for name in ("verdicts.png", "verdicts.svg", "likeness.png")]
    out = write_findings(result, tmp_path / "docs" / "FINDINGS.md", figures=pictures)
    found = re.findall(r"!\[[^]]+\]\(([^)]+)\)", out.read_text())
    assert [(out.parent / address).resolve() for address in found] == [pictures[0].resolve(), pictures[2].resolve()]
    assert "![" not in findings(result)


def test_the_same_result_gives_the_same_document(result, tmp_path):
    copied = json.loads(json.dumps(copy.deepcopy(result)))
    assert findings(copied) == findings(result)
    assert "\n\n\n" not in findings(result)


def test_a_commentary_stands_below_its_claim(result, tmp_path):
    path = tmp_path / "words.md"
    path.write_text(
        "Not read.\n\n## P-F1\n\nAs in *Fig 8*, and ResNet-50 is like it.\n\nA second one.\n\n## R-1\nShort.\n"
    )
    assert read_commentary(path, ["P-F1", "R-1"]) == {
        "P-F1": "As in *Fig 8*, and ResNet-50 is like it.\n\nA second one.",
        "R-1": "Short.",
    }
    out = write_findings(result, tmp_path / "F.md", commentary=path)
    assert "As in *Fig 8*, and ResNet-50 is like it.\n\nA second one.\n" in section(out.read_text(), "P-F1")
    assert "Not read." not in out.read_text()


BAD = {
    "a number": ("## P-F1\nIt falls by 0.31.", "the text on P-F1 holds the number '0.31'; say it in words"),
    "a share": ("## P-F1\nMore than 30 % of it.", "holds the number '30 %'"),
    "p": ("## P-F1\nWith p < 0.001.", "holds the number"),
    "nobody": ("## P-F9\nWords.", "no claim is called 'P-F9'; did you mean"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_commentary_with_numbers_or_of_nothing_is_refused(case, tmp_path):
    text, message = BAD[case]
    (tmp_path / "words.md").write_text(text)
    with pytest.raises(StudyError) as error:
        read_commentary(tmp_path / "words.md", ["P-F1", "R-1"])
    assert message in str(error.value)


def test_files_that_are_not_there_are_said(result, tmp_path):
    with pytest.raises(StudyError, match="no commentary at"):
        read_commentary(tmp_path / "none.md", [])
    with pytest.raises(StudyError, match=r"is a folder, expected a file such as .*FINDINGS.md"):
        write_findings(result, tmp_path)


def test_the_findings_in_the_repository_are_those_of_the_stored_result():
    """Rendered again from docs/findings/results.json and the commentary beside it; no number was copied by hand."""
    root = Path(__file__).parents[1]
    stored = root / "docs" / "findings"
    result = load_study(stored)
    words = read_commentary(stored / "commentary.md", [claim["id"] for claim in result["claims"]])
    figures = {path.stem: f"docs/findings/figures/{path.name}" for path in (stored / "figures").glob("*.png")}
    assert findings(result, figures=figures, commentary=words) == (root / "FINDINGS.md").read_text(encoding="utf-8")
    assert len(result["checkpoints"]) > 20
    assert all((root / address).is_file() for address in figures.values())

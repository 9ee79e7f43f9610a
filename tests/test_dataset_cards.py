"""Dataset cards: the stored numbers and no others, and nothing that a stranger wrote acts as markup."""

import copy
import re
import shlex
from dataclasses import replace

import pytest
from huggingface_hub import DatasetCard
from synthetic import synthetic_profile
from test_cards import COMMIT, HOSTILE, PATHS, blocks, structure
from test_study import QUICK, checkpoint

from hf_vitstudy.claims import choose_claims
from hf_vitstudy.dataset_cards import CAPTIONS, TABLES, Contents, accuracy, as_result, profile_card, study_card
from hf_vitstudy.profile import Profile
from hf_vitstudy.stats import Estimate
from hf_vitstudy.study import make_study


CLAIMS = tuple(choose_claims(["R-1", "P-F1", "P-F2-mlp", "P-F2-conv", "V-1-hybrid"]))


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> dict:
    place = tmp_path_factory.mktemp("cards")
    for kind, recipe in (("vit", 0), ("vit", 1), ("resnet", 0)):
        checkpoint(kind, recipe).save(place / "profiles" / f"{kind}-{recipe}")
    return make_study(place / "profiles", place / "out", replace(QUICK, claims=CLAIMS))


@pytest.fixture
def results(stored) -> dict:
    return copy.deepcopy(stored)


def on_hub(results: dict) -> dict:
    """The same on images of a data set of the Hub, of checkpoints of the Hub."""
    for each in results["checkpoints"]:
        each["images"] |= {"name": "org/images", "revision": COMMIT}
        each["revision"] = COMMIT[::-1]
    return results


def body(card: str) -> str:
    return DatasetCard(card, ignore_metadata_errors=False).text


def table(card: str, first: str) -> list[dict[str, str]]:
    """Rows of the table whose first column has this name."""
    lines = body(card).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first} |"))
    head, _, *rest = (line.strip("|").split("|") for line in lines[start:] if line.startswith("|") or not line)
    rows = []
    for cells in rest:
        if cells == [""]:
            break
        rows.append({name.strip(): cell.strip() for name, cell in zip(head, cells, strict=True)})
    return rows


def number(text: str) -> float:
    return float(text.replace("−", "-").replace(",", ""))


# ---------------------------------------------------------------------------------------------------------- metadata


def test_the_viewer_is_told_which_tables_there_are(results):
    data = DatasetCard(study_card(results, Contents(1234), license="cc-by-4.0")).data.to_dict()
    configs = data.pop("configs")
    assert configs == [
        {
            "config_name": "measurements",
            "data_files": [{"split": "train", "path": "tables/measurements.parquet"}],
            "default": True,
        },
        {"config_name": "verdicts", "data_files": [{"split": "train", "path": "tables/verdicts.parquet"}]},
    ]
    assert data == {
        "license": "cc-by-4.0",
        "pretty_name": results["title"],
        "task_categories": ["image-classification"],
        "size_categories": ["1K<n<10K"],
        "tags": ["hf_vitstudy", "interpretability", "cka", "study"],
    }


@pytest.mark.parametrize(
    ("rows", "words"), [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**5, "100K<n<1M"), (10**6, "n>1M")]
)
def test_the_size_is_in_the_hub_s_words(results, rows, words):
    assert DatasetCard(study_card(results, Contents(rows))).data.size_categories == [words]


def test_a_profile_s_card_has_one_table_and_no_claims():
    card = profile_card(synthetic_profile(n=32, name="a-vit"), Contents(7, {"a_map": "5,000 cells"}, ["cka"]))
    data = DatasetCard(card).data.to_dict()
    assert [config["config_name"] for config in data["configs"]] == ["measurements"]
    assert "license" not in data
    assert "## Claims" not in card
    assert "verdicts" not in card
    assert "- a&#95;map: 5,000 cells\n" in card or "- a_map: 5,000 cells\n" in card
    assert f"![{CAPTIONS['cka']}](figures/cka.png)\n" in card
    assert "A profile of a-vit by hf_vitstudy" in card
    assert "\n\n\n" not in card


# ----------------------------------------------------------------------------------------------------------- numbers


def test_every_claim_stands_with_what_the_result_says_of_it(results):
    rows = {row["claim"]: row for row in table(study_card(results), "claim")}
    judged = [claim for claim in results["claims"] if "agreement" in claim]
    assert list(rows) == [claim["id"] for claim in judged]
    assert len(rows) == 4
    for claim in judged:
        row, agreement = rows[claim["id"]], claim["agreement"]
        estimate, counts = agreement["estimate"], agreement["counts"]
        assert number(row["effect (95 %)"].split(" ")[0]) == pytest.approx(estimate["value"], rel=5e-3)
        assert int(row["n"]) == estimate["n"]
        assert number(row["margin"]) == claim["margin"]
        assert row["unit"] == claim["unit"]
        assert row["on each choice"] == ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
        if estimate["low"] is None:
            assert row["over checkpoints"] == "no interval: too few"
            assert "(" not in row["effect (95 %)"]
        else:
            assert row["over checkpoints"] == agreement["verdict"]
            low, high = re.search(r"\((\S+) to (\S+)\)", row["effect (95 %)"]).groups()
            assert (number(low), number(high)) == pytest.approx((estimate["low"], estimate["high"]), rel=5e-3)
    assert "Not judged, for want of checkpoints or measurements: V-1-hybrid." in study_card(results)


def test_a_verdict_over_checkpoints_is_shown_where_there_is_one(results):
    claim = next(claim for claim in results["claims"] if claim["id"] == "R-1")
    claim["agreement"]["estimate"] |= {"value": -0.5, "low": -0.75, "high": 1234.5, "n": 12345}
    claim["agreement"] |= {"verdict": "contradicted"}
    row = table(study_card(results), "claim")[0]
    assert row["effect (95 %)"] == "−0.500 (−0.750 to 1.23e+03)"
    assert (row["over checkpoints"], row["n"]) == ("contradicted", "12,345")


def test_checkpoints_stand_with_accuracy_interval_and_n(results):
    card = study_card(on_hub(results))
    rows = table(card, "checkpoint")
    assert [row["profile"] for row in rows] == ["resnet-0", "vit-0", "vit-1"]
    for row, each in zip(rows, results["checkpoints"], strict=True):
        share = Estimate(**{key: each["accuracy"][key] for key in ("value", "low", "high", "n")})
        assert row["accuracy (95 %)"] == str(share).replace("[", "(").replace(", ", " to ").replace("]", ")")
        assert (row["n"], row["parameters"], row["commit"]) == ("32", "1,000,000", COMMIT[::-1])
    results["checkpoints"][0] |= {"accuracy": None, "parameters": None, "revision": None}
    row = table(study_card(results), "checkpoint")[0]
    assert [row[name] for name in ("accuracy (95 %)", "n", "parameters", "commit")] == ["–"] * 4


def test_images_stand_with_commit_and_hash(results):
    card = study_card(on_hub(results))
    (row,) = table(card, "images")
    assert row["images"] == "[org/images](https://huggingface.co/datasets/org/images)"
    assert (row["split"], row["commit"], row["n"], row["checkpoints"]) == ("test", COMMIT, "32", "3")
    assert row["sha256"] == results["checkpoints"][0]["images"]["sha256"]
    assert "no address on the Hub" not in card
    results["checkpoints"][1]["images"] |= {"name": "mine", "sha256": "other", "revision": None}
    card = study_card(results)
    assert [row["checkpoints"] for row in table(card, "images")] == ["2", "1"]
    assert "no address on the Hub" in card
    assert "The images are 32 of org/images, 32 of mine:" in card


def test_the_accuracy_of_a_profile_is_that_of_a_study(stored):
    each = stored["checkpoints"][1]
    found = accuracy(checkpoint("vit", 0))
    assert found == {key: each["accuracy"][key] for key in found}
    unlabelled = checkpoint("vit", 0)
    unlabelled.data["label"][:] = -1
    assert accuracy(unlabelled) is None
    assert accuracy(Profile(unlabelled.data.drop_vars("label"), unlabelled.provenance)) is None
    assert as_result(unlabelled)["checkpoints"][0]["accuracy"] is None
    assert table(profile_card(unlabelled), "checkpoint")[0]["accuracy (95 %)"] == "–"


def test_an_untrained_network_is_called_so():
    profile = checkpoint("vit", 0, untrained_seed=1)
    assert table(profile_card(profile), "checkpoint")[0]["state"] == "untrained"
    assert table(profile_card(checkpoint("vit", 0)), "checkpoint")[0]["state"] == "trained"


# -------------------------------------------------------------------------------------------------------------- text


def test_what_a_reader_needs_is_there(results):
    card = study_card(results, Contents(10, {}, ["verdicts", "likeness-2"]), name="org/study")
    for paper in ("2202.06709", "2108.08810", "2010.11929"):
        assert f"https://arxiv.org/abs/{paper}" in card
    assert "![Average linkage of checkpoints by their CKA](figures/likeness-2.png)" in card
    assert "Measured with hf_vitstudy 0.1.0, torch 2.15.0, transformers 5.23.0." in card
    assert "- No licence is given." in card
    assert "- No licence is given." not in study_card(results, license="mit")
    assert "3 checkpoints were studied" in card
    for path in TABLES.values():
        assert f"- `{path}`: " in card
    results["checkpoints"][0]["versions"] = {"torch": "2.16.0"}
    assert "torch 2.16.0 and 2.15.0" in study_card(results)


@pytest.mark.parametrize(("name", "where"), [("org/study", "org/study"), (None, ".")])
def test_the_commands_name_what_is_there(results, name, where):
    lines = blocks(study_card(results, name=name))["bash"].splitlines()
    assert shlex.split(lines[0]) == ["vitstudy", "report", f"{where}/profiles/resnet-0", f"{where}/profiles/vit-0"]
    assert shlex.split(lines[1], comments=True) == ["vitstudy", "study", where, "--out", "again"]
    (line,) = blocks(profile_card(synthetic_profile(n=32), name=name))["bash"].splitlines()
    assert shlex.split(line) == ["vitstudy", "report", where]


@pytest.mark.parametrize("name", [None, "org/study"])
def test_the_way_to_load_it_works(results, tmp_path, monkeypatch, capsys, name):
    import datasets

    from hf_vitstudy.study_tables import MEASUREMENTS, VERDICTS, measurement_rows, verdict_rows, write_table

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows, _ = measurement_rows(synthetic_profile(n=32))
    write_table(rows, MEASUREMENTS, tmp_path / TABLES["measurements"])
    write_table(verdict_rows(results), VERDICTS, tmp_path / TABLES["verdicts"])
    card = study_card(results, Contents(len(rows)), name=name)
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    found: dict = {}
    exec(blocks(card)["python"].replace("org/study", str(tmp_path)), found)
    assert len(found["measurements"]) == len(rows)
    assert len(found["verdicts"]) == len(verdict_rows(results))
    assert "synthetic-vit" in capsys.readouterr().out


def test_equal_results_give_equal_cards_and_are_left_as_they_were(results, stored):
    assert study_card(results) == study_card(stored)
    assert results == stored
    assert "None" not in study_card(results)


# ----------------------------------------------------------------------------------------------------- hostile text


def hostile(results: dict, text: str) -> str:
    results = copy.deepcopy(results)
    results["title"] = text
    for each in results["checkpoints"]:
        each |= {"name": text, "key": text, "network": text, "state": text, "revision": text}
        each["images"] |= {"name": text, "split": text, "revision": text}
        each["versions"] = {"torch": text}
    for claim in results["claims"]:
        claim |= {"text": text, "unit": text}
    return study_card(results, Contents(1, {text: text}, ["cka"]), name=text, license=text)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_stay_names(stored, text):
    card = hostile(stored, text)
    card.encode("utf-8")
    data = DatasetCard(card).data.to_dict()
    assert set(data) == {"license", "pretty_name", "task_categories", "size_categories", "tags", "configs"}
    assert data["configs"] == DatasetCard(hostile(stored, "harmless")).data.to_dict()["configs"]
    assert "\n" not in data["license"] + data["pretty_name"]
    prose = re.sub(r"^(`{3,})(\w+)\n.*?\n\1$", "", body(card), flags=re.M | re.S)
    assert not re.search(r"<|\{\{|\{%|\$x|```", prose)
    assert re.findall(r"!\[[^]]*\]\(([^)]*)\)", prose) == ["figures/cka.png"]
    assert {link.split("/")[2] for link in re.findall(r"(?<!\!)\]\((http[^)]*)\)", prose)} == {"arxiv.org"}
    assert structure(card) == structure(hostile(stored, "harmless"))
    assert list(blocks(card)) == ["python", "bash"]
    compile(blocks(card)["python"], "card", "exec")
    first, second = blocks(card)["bash"].splitlines()
    assert len(shlex.split(first)) == 4
    assert len(shlex.split(second, comments=True)) == 5


@pytest.mark.parametrize("path", PATHS)
def test_of_absolute_paths_the_last_part_is_kept(stored, path):
    card = hostile(stored, path)
    assert card == hostile(stored, "digits")
    assert "/home" not in card


def test_a_token_is_not_repeated(stored):
    token = "hf_" + "CANARY" * 6
    assert "CANARY" not in hostile(stored, f"x {token}")
    profile = synthetic_profile(n=32, name=token)
    assert "CANARY" not in profile_card(profile, Contents(1, {"x": token}), name=token, license=token)

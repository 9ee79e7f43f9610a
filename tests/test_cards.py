"""Model cards: the record's numbers and no others, and nothing that a stranger wrote acts as markup."""

import copy
import hashlib
import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import yaml
from huggingface_hub import ModelCard
from synthetic import synthetic_profile

from hf_vitstudy.cards import LISTED_CLASSES, OWN, Measured, eval_results_file, is_generated, model_card, without_mark
from hf_vitstudy.errors import StudyError


RECIPE = Path(__file__).parents[1] / "recipes" / "configs" / "vit_digits.yaml"
DIGITS = [str(digit) for digit in range(10)]
COMMIT = "0123456789abcdef0123456789abcdef01234567"

SCRATCH = {
    "config": {
        "model": {"type": "vit", "hidden_size": 48, "num_hidden_layers": 6, "patch_size": 8},
        "data": {"train": "digits", "test": None, "train_split": "train", "image_size": 64, "mean": [0.5, 0.5, 0.5]},
        "optimizer": {"name": "adamw", "lr": 0.003, "weight_decay": 0.05},
        "batch_size": 32,
        "epochs": 20,
        "seed": 3,
    },
    "data": {
        "train": {"name": "digits", "split": "train", "revision": None, "n": 1437, "sha256": "ab" * 32},
        "test": {"name": "digits", "split": "test", "revision": None, "n": 360, "sha256": "cd" * 32},
    },
    "config_sha256": "ef" * 32,
    "metrics": {
        "test": {"accuracy": 358 / 360, "top5_accuracy": 359 / 360, "nll": 0.0712345, "ece": 0.0123456, "n": 360}
    },
    "selected_step": 880,
    "parameters": 151546,
    "steps": 880,
    "processes": 1,
    "device": "cpu",
    "versions": {"hf_vitstudy": "0.1.0", "torch": "2.15.0", "transformers": "5.23.0", "python": "3.11.7"},
    "files": {"model.safetensors": "00" * 32},
}


def changed(**changes) -> dict:
    """The record with values replaced by dotted name (``__`` for dots)."""
    record = copy.deepcopy(SCRATCH)
    for name, value in changes.items():
        *parents, last = name.split("__")
        place = record
        for parent in parents:
            place = place[parent]
        place[last] = value
    return record


def fine_tuned(**changes) -> dict:
    hub = {"name": "uoft-cs/cifar100", "revision": COMMIT, "sha256": "12" * 32}
    parts = {
        "train": {**hub, "split": "train", "n": 49000},
        "holdout": {**hub, "split": "train", "n": 1000},
        "test": {**hub, "split": "test", "n": 10000},
    }
    metrics = {
        "holdout": {"accuracy": 0.934, "top5_accuracy": 0.99, "nll": 0.22, "ece": 0.02, "n": 1000},
        "test": {"accuracy": 0.9213, "top5_accuracy": 0.9921, "nll": 0.2711, "ece": 0.0312, "n": 10000},
    }
    model = {"checkpoint": f"google/vit-base-patch16-224-in21k@{COMMIT}"}
    return changed(
        config__model=model, config__select="best", data=parts, metrics=metrics, selected_step=700, **changes
    )


def body(card: str) -> str:
    """What a reader sees, without metadata and the mark of a model's card."""
    return without_mark(ModelCard(card, ignore_metadata_errors=False).text)


def row(card: str, part: str, metric: str) -> list[str]:
    (found,) = [line for line in body(card).splitlines() if line.startswith(f"| {part} | {metric}")]
    return [cell.strip() for cell in found.strip("|").split("|")][2:]


def blocks(card: str) -> dict[str, str]:
    """The code blocks by language; the last of each."""
    return {language: code for _, language, code in re.findall(r"^(`{3,})(\w+)\n(.*?)\n\1$", body(card), re.M | re.S)}


# ---------------------------------------------------------------------------------------------------------- metadata


def test_the_metadata_are_what_the_hub_reads():
    data = ModelCard(model_card(SCRATCH, name="someone/vit-digits", license="apache-2.0")).data.to_dict()
    (index,) = data.pop("model-index")
    assert data == {
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "hf_vitstudy", "vision-transformer"],
    }
    assert index["name"] == "vit-digits"
    (result,) = index["results"]
    assert result["task"]["type"] == "image-classification"
    assert result["dataset"] == {"name": "digits", "type": "digits", "split": "test"}
    found = {metric["type"]: metric["value"] for metric in result["metrics"]}
    recorded = SCRATCH["metrics"]["test"]
    keys = {"accuracy": "accuracy", "top_5_accuracy": "top5_accuracy", "nll": "nll", "ece": "ece"}
    assert found == {there: recorded[here] for there, here in keys.items()}


def test_a_fine_tuned_network_names_its_origin_and_hides_what_chose_it_from_leaderboards():
    card = model_card(fine_tuned())
    data = ModelCard(card).data.to_dict()
    assert data["base_model"] == "google/vit-base-patch16-224-in21k"
    assert data["datasets"] == ["uoft-cs/cifar100"]
    assert "license" not in data
    (result,) = data["model-index"][0]["results"]
    assert result["dataset"] == {
        "name": "uoft-cs/cifar100",
        "type": "uoft-cs/cifar100",
        "split": "test",
        "revision": COMMIT,
    }
    assert [metric["value"] for metric in result["metrics"]] == [0.9213, 0.9921, 0.2711, 0.0312]
    assert f"in21k](https://huggingface.co/google/vit-base-patch16-224-in21k) at `{COMMIT}`" in card
    assert "chosen by them, so the accuracy there is too high" in " ".join(card.split())
    assert "- weights: of step 700\n" in card


@pytest.mark.parametrize(
    ("kind", "tag"), [("vit", "vision-transformer"), ("resnet", "resnet"), ("alternet", "alternet")]
)
def test_the_family_is_a_tag(kind, tag):
    recipe = model_card(changed(config__model={"type": kind}))
    record = model_card(changed(config__model={"checkpoint": "local"}) | {"model_type": kind})
    for card in (recipe, record):
        assert ModelCard(card).data.tags == ["image-classification", "hf_vitstudy", tag]


def test_numpy_s_numbers_become_plain_yaml():
    metrics = {"accuracy": np.float64(0.5), "nll": np.float64(1.5), "n": np.int64(10)}
    card = model_card(changed(metrics={"test": metrics}))
    assert "!!python" not in card
    assert ModelCard(card).data.to_dict()["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.5


# -------------------------------------------------------------------------------------------------------------- text


@pytest.mark.parametrize("part", ["holdout", "test"])
def test_the_table_holds_the_record_s_numbers_with_intervals(part):
    record = fine_tuned()
    values, card = record["metrics"][part], model_card(record)
    n = values["n"]
    for key, name in (("accuracy", "accuracy"), ("top5_accuracy", "top-5 accuracy")):
        interval = scipy.stats.binomtest(round(values[key] * n), n).proportion_ci(method="wilson")
        shown = f"{100 * interval.low:.2f} to {100 * interval.high:.2f} %"
        assert row(card, part, name) == [f"{100 * values[key]:.2f} %", shown, f"{n:,}"]
    assert row(card, part, "negative log likelihood") == [f"{values['nll']:.4f}", "–", f"{n:,}"]
    assert row(card, part, "expected calibration error") == [f"{values['ece']:.4f}", "–", f"{n:,}"]


def test_the_first_paragraph_says_it_all():
    text = " ".join(body(model_card(SCRATCH)).split())
    assert (
        "A network of type vit with 151,546 parameters that sorts images into classes, trained from scratch on 1,437 images "
        "of digits by the training recipe of hf_vitstudy. It gets 99.44 % of 360 test images right "
        "(95 % interval 98.00 to 99.85 %)."
    ) in text
    assert "images into 10 classes" in " ".join(model_card(SCRATCH, classes=DIGITS).split())
    assert "this is one run, of seed 3." in text
    assert "One test image is 0.28 percentage points" in text


@pytest.mark.parametrize("give", ["argument", "record"])
def test_the_first_twenty_classes_are_listed(give):
    names = [f"class {index}" for index in range(1000)]
    card = model_card(SCRATCH, classes=names) if give == "argument" else model_card(SCRATCH | {"classes": names})
    assert " · ".join(names[:LISTED_CLASSES]) + " and 980 more, in `config.json`\n" in card
    assert "class 20 " not in card
    assert "1,000 classes" in card
    assert "0 · 1 · 2 · 3 · 4 · 5 · 6 · 7 · 8 · 9\n" in model_card(SCRATCH, classes=DIGITS)
    assert "more, in `config.json`" not in model_card(SCRATCH, classes=DIGITS)


def test_top_five_of_five_classes_is_no_result():
    assert "top-5" in model_card(SCRATCH, classes=DIGITS[:6])
    assert "top-5" not in model_card(SCRATCH, classes=DIGITS[:5])


def test_data_hash_and_environment_are_there():
    card = model_card(fine_tuned())
    link = "[uoft-cs/cifar100](https://huggingface.co/datasets/uoft-cs/cifar100)"
    hashed = f"sha256 of the labels `{'12' * 32}`"
    assert f"- test: {link}, split test, 10,000 images, commit `{COMMIT}`, {hashed}\n" in card
    assert "no address on the Hub" not in card
    assert "no address on the Hub" in model_card(SCRATCH)
    assert f"- sha256 of the settings: `{'ef' * 32}`\n" in card
    assert "- software: python 3.11.7, hf_vitstudy 0.1.0, torch 2.15.0, transformers 5.23.0\n" in card
    for paper in ("2202.06709", "2108.08810", "2010.11929"):
        assert f"https://arxiv.org/abs/{paper}" in card


COMMANDS = {
    ("cpu", 1): "accelerate launch --cpu recipes",
    ("cpu", 2): "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 recipes",
    ("cuda", 1): "accelerate launch --num_processes 1 recipes",
    ("cuda", 8): "accelerate launch --num_processes 8 recipes",
}


@pytest.mark.parametrize(("device", "processes"), COMMANDS)
def test_the_command_starts_what_was_started(device, processes):
    card = model_card(changed(device=device, processes=processes))
    assert blocks(card)["bash"].startswith(COMMANDS[device, processes])
    assert (f"- hardware: {device}, {processes} processes\n" in card) == (processes > 1)


def test_the_settings_are_a_recipe():
    assert yaml.safe_load(blocks(model_card(SCRATCH))["yaml"]) == SCRATCH["config"]


def test_the_training_reads_them_back_as_the_same_run(tmp_path):
    from hf_vitstudy.training import settings

    config = settings.read_config(RECIPE)
    record = changed(config=json.loads(json.dumps(settings.identity(config))))
    (tmp_path / "recipe.yaml").write_text(blocks(model_card(record))["yaml"], encoding="utf-8")
    again = settings.read_config(tmp_path / "recipe.yaml", ["output=runs/again"])
    assert settings.config_sha256(again) == settings.config_sha256(config)


@pytest.mark.parametrize("name", [None, "vit_folder"])
def test_the_way_to_load_it_works(name, vit_folder, tmp_path, monkeypatch, capsys):
    from PIL import Image

    code = blocks(model_card(SCRATCH, name=name))["python"].replace("vit_folder", str(vit_folder))
    folder = vit_folder if name is None else tmp_path
    monkeypatch.chdir(folder)
    picture = folder / "image.png"
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(picture)
    try:
        exec(code, {})
    finally:
        picture.unlink()
    assert capsys.readouterr().out.startswith("LABEL_")


def test_networks_of_our_own_are_registered_first():
    from hf_vitstudy import models

    assert set(OWN) == set(models.FAMILIES)
    for kind in OWN:
        code = blocks(model_card(changed(config__model={"type": kind})))["python"]
        assert code.index("register()") < code.index("from_pretrained")
        compile(code, "card", "exec")


def test_measuring_names_what_was_tested_on():
    card = model_card(fine_tuned(), name="me/vit")
    line = next(line for line in card.splitlines() if line.startswith("vitstudy measure"))
    assert shlex.split(line)[2:] == ["me/vit", "--images", "uoft-cs/cifar100", "--split", "test", "--revision", COMMIT]


def test_limits_say_what_was_not_done():
    assert "No licence is given." in model_card(SCRATCH)
    assert "No licence is given." not in model_card(SCRATCH, license="mit")
    assert "(calibration) was not measured" not in model_card(SCRATCH)
    old = model_card(changed(metrics={"accuracy": 0.5, "loss": 0.7, "n": 10}))
    assert "(calibration) was not measured" in old
    assert row(old, "test", "accuracy")[0] == "50.00 %"
    assert row(old, "test", "cross-entropy")[0] == "0.7000"


@pytest.mark.parametrize("missing", [*SCRATCH, "everything"])
def test_a_record_may_lack_anything(missing):
    record = {} if missing == "everything" else {key: value for key, value in SCRATCH.items() if key != missing}
    card = model_card(record)
    assert "None" not in card
    assert ModelCard(card).data.library_name == "transformers"
    assert "\n\n\n" not in card
    if missing in ("everything", "metrics"):
        assert "No metrics were recorded." in card
        assert "- Not tested." in card
        assert "model-index" not in card
        assert "model_name" not in card


def test_a_card_is_known_by_its_mark():
    """The last line is a comment with the sha256 of all before it."""
    card = model_card(fine_tuned(), name="org/name")
    before, mark = card.rstrip("\n").rsplit("\n", 1)
    assert mark == f"<!-- vitstudy card sha256:{hashlib.sha256(before.encode()).hexdigest()} -->"
    assert before.endswith("\n")
    assert is_generated(card)
    for other in (
        "",
        mark,
        before,
        card + "more",
        card.replace("fine-tuned", "made"),
        f"{before}\n{mark[:-10]} -->\n",
    ):
        assert not is_generated(other)


def test_equal_records_give_equal_cards():
    assert model_card(fine_tuned()) == model_card(json.loads(json.dumps(fine_tuned())))
    record = fine_tuned()
    model_card(record, classes=DIGITS)
    assert record == fine_tuned(), "the record is left as it was"


BAD = {
    "no n": ({"accuracy": 0.5}, "metrics of the test images lack n"),
    "n of zero": ({"accuracy": 0.5, "n": 0}, "metrics of the test images lack n"),
    "text": ({"accuracy": "0.5", "n": 2}, "metric accuracy of the test images must be a finite number, got '0.5'"),
    "NaN": ({"nll": float("nan"), "n": 2}, "metric nll of the test images must be a finite number, got nan"),
    "bool": ({"accuracy": True, "n": 2}, "must be a finite number, got True"),
    "percent": ({"accuracy": 50.0, "n": 2}, "expected 0 to n successes of at least one image, got 100 of 2"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_number_that_is_none_is_not_published(case):
    metrics, message = BAD[case]
    with pytest.raises(StudyError, match=message):
        model_card(changed(metrics={"test": metrics}))


# -------------------------------------------------------------------------------------------------- hostile text

HOSTILE = [
    "---\nlicense: x",
    "<script>alert(1)</script>",
    "a | b | c",
    "`code` and ``more``",
    "```\n<img src=x onerror=alert(1)>\n```",
    "x\n```\n<b>y",
    "# title",
    "\n\n# title\n\n- [x](javascript:alert(1))",
    "![x](https://evil.example/x.png)",
    "*bold* _em_ ~~gone~~ $x$",
    "{{ 7 * 7 }} {% raw %}",
    "&lt;script&gt; &#60;b&#62;",
    "\u202egnp.exe",
    "null",
    "!!python/object:os.system {}",
    '\'"; rm -rf ~; echo "$(id)" #',
    "\\",
    "a" * 5000,
    "\ud800",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_classes_stay_text(text):
    plain, card = (without_mark(model_card(SCRATCH, classes=["cat", second])) for second in ("dog", text))
    before, after = plain.splitlines(), card.splitlines()
    assert len(before) == len(after)
    (line,) = [new for old, new in zip(before, after, strict=True) if old != new]
    assert line.startswith("cat · ")
    inside = re.sub(r"&#\d+;", "", line)
    assert not set('<>|`*[]{}#$\\~&\u202e"') & set(inside)
    assert len(line) < 1500
    card.encode("utf-8")
    assert ModelCard(card).data.to_dict() == ModelCard(plain).data.to_dict()


def hostile_card(text: str) -> str:
    record = changed(
        config__data__train=text, data__test__name=text, data__test__split=text, data__train__name=text, device=text
    )
    record["config"]["model"] = {"type": text, "checkpoint": text}
    record["versions"]["torch"] = text
    record["config"]["remark"] = text  # shallow, where YAML indents least
    return model_card(record, name=text, license=text, classes=["cat", text])


def structure(card: str) -> list[str]:
    """What a Markdown parser makes of a card: every heading, cell, link, piece of HTML ... in order, without the text."""
    markdown_it = pytest.importorskip("markdown_it")  # typer brings it
    tokens = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(body(card))
    return [inner.type for token in tokens for inner in (token, *(token.children or ()))]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_stay_names(text):
    """Everywhere else: the metadata parse to the same fields, no markup is left outside code, code blocks stay closed."""
    card = hostile_card(text)
    card.encode("utf-8")
    data = ModelCard(card).data.to_dict()
    assert set(data) == {"license", "library_name", "pipeline_tag", "tags", "model-index"}
    assert len(data["tags"]) == 3
    assert "\n" not in data["license"]
    prose = re.sub(r"^(`{3,})(\w+)\n.*?\n\1$", "", body(card), flags=re.M | re.S)
    assert not re.search(r"<|!\[|\{\{|\{%|\$x|```", prose)
    assert {link.split("/")[2] for link in re.findall(r"\]\(([^)]*)\)", prose)} == {"arxiv.org"}
    assert structure(card) == structure(hostile_card("harmless"))
    assert [line for line in prose.splitlines() if line.startswith("# ")] == prose.strip().splitlines()[:1]
    assert list(blocks(card)) == ["python", "bash", "yaml"]
    assert yaml.safe_load(blocks(card)["yaml"])["batch_size"] == 32
    compile(blocks(card)["python"], "card", "exec")
    line = next(line for line in card.splitlines() if line.startswith("vitstudy measure"))
    assert shlex.split(line)[:2] == ["vitstudy", "measure"]
    assert len(shlex.split(line)) == 7
    rows = [line for line in prose.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {6}


def test_a_dash_line_in_a_setting_ends_no_metadata():
    card = model_card(changed(config__data__train="x\n---\nlicense: y\n---\n"))
    assert "license" not in ModelCard(card).data.to_dict()


# ----------------------------------------------------------------------------------------- paths, hosts and tokens

PATHS = [
    "/home/me/data/digits",
    "/home/me/data/digits/",
    "~/data/digits",
    "C:\\Users\\me\\digits",
    "\\\\host\\share\\digits",
]


@pytest.mark.parametrize("path", [*PATHS, "file:///home/me/digits"])
def test_of_absolute_paths_the_last_part_is_kept(path):
    record = changed(config__data__train=path, config__data__test=path, data__train__name=path, data__test__name=path)
    record["config"]["model"] = {"checkpoint": path}
    card = model_card(record, name=path)
    assert card == model_card(
        changed(
            config__data__train="digits",
            config__data__test="digits",
            data__train__name="digits",
            data__test__name="digits",
            config__model={"checkpoint": "digits"},
        ),
        name="digits",
    )
    for secret in ("/home", "Users", "me/", "host\\", "~/"):
        assert secret not in card


def test_a_class_that_is_a_slash_stays():
    assert "+ · / · -\n" in model_card(SCRATCH, classes=["+", "/", "-"])


def test_a_card_knows_nothing_of_the_machine(tmp_path):
    """Made in a process with a token and a home of its own; a token that slipped into a setting is not repeated."""
    token = "hf_" + "CANARY" * 6
    record = changed(config__data__train=f"https://user:{token}@host/x", data__train__name=token)
    (tmp_path / "training.json").write_text(json.dumps(record), encoding="utf-8")
    script = (
        "import json, sys; from hf_vitstudy.cards import model_card;"
        "print(model_card(json.load(open('training.json')), classes=['a', 'b']), file=open('README.md', 'w'));"
        "print(sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    environment = os.environ | {"HF_TOKEN": token, "HUGGING_FACE_HUB_TOKEN": token, "USER": "canary-user"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert done.stdout == "[]\n", "no torch is needed"
    assert "CANARY" in json.dumps(record)
    for secret in ("CANARY", str(tmp_path), os.path.expanduser("~"), socket.gethostname(), "canary-user"):
        assert secret not in card, secret


# ------------------------------------------------------------------------------------------- what else the Hub reads


def test_the_leaderboard_s_file_is_what_the_hub_s_client_reads():
    from huggingface_hub import parse_eval_result_entries

    path, text = eval_results_file(fine_tuned(), task="test")
    assert path == ".eval_results/cifar100.yaml"
    (entry,) = parse_eval_result_entries(yaml.safe_load(text))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("uoft-cs/cifar100", "test", 0.9213)
    assert entry.dataset_revision == COMMIT
    interval = scipy.stats.binomtest(9213, 10000).proportion_ci(method="wilson")
    assert entry.notes == f"split test, n 10000, 95 % interval {interval.low:.4f} to {interval.high:.4f}"


NO_ENTRY = {
    "local images": SCRATCH,
    "no metrics": {key: value for key, value in fine_tuned().items() if key != "metrics"},
    "no accuracy": fine_tuned() | {"metrics": {"test": {"nll": 0.5, "n": 10}}},
    "no id": fine_tuned() | {"data": {"test": {"name": "a/b/../c", "revision": COMMIT, "n": 10}}},
}


@pytest.mark.parametrize("case", NO_ENTRY)
def test_no_leaderboard_for_what_was_not_measured_on_the_hub_s_images(case):
    assert eval_results_file(NO_ENTRY[case]) is None


# ---------------------------------------------------------------------------------------------- what is inside of it


def profile_of(name: str = "a-vit", **images):
    """A profile whose network is that of the record."""
    made = synthetic_profile(n=32, name=name)
    made.provenance["checkpoint"]["files"] = dict(SCRATCH["files"])
    made.provenance["images"] |= images
    return made


def study_of(profile, *, judged: dict[str, list[tuple[list[int], str, float]]]) -> dict:
    """A stored study of the profile and another network: claim -> (checkpoints, verdict, effect)."""
    about, images = profile.provenance["checkpoint"], profile.provenance["images"]
    share = {"value": 0.75, "low": 0.578125, "high": 0.8671875, "n": 32}
    mine = {"name": profile.name, "weights_sha256": about["weights_sha256"], "images": images, "accuracy": share}
    other = mine | {"name": "other", "weights_sha256": "other", "accuracy": None}
    claims = [{"id": name, "text": f"text of {name}", "unit": "CKA", "margin": 0.05} for name in judged]
    judgements = [
        {
            "claim": claim,
            "checkpoints": numbers,
            "verdict": verdict,
            "estimate": {"value": value, "low": value - 0.25, "high": value + 0.25, "n": 1032},
        }
        for claim, each in judged.items()
        for numbers, verdict, value in each
    ]
    judgements.append(judgements[0] | {"estimate": None})
    judgements.append(judgements[0] | {"estimate": dict.fromkeys(("value", "low", "high", "n"))})
    return {"title": "A study", "checkpoints": [other, mine], "claims": claims, "judgements": judgements}


JUDGED = {
    "P-F1": [([1], "supported", 0.5), ([0], "contradicted", -4.0)],
    "R-1": [([1, 0], "supported", 0.5), ([1, 0], "undecided", -0.125)],
    "R-9": [([0], "supported", 1.0)],
}


def test_what_was_measured_stands_with_images_accuracy_and_claims():
    profile = profile_of(name="a-vit", revision=COMMIT, sha256="34" * 32)
    study = study_of(profile, judged=JUDGED)
    card = model_card(SCRATCH, measured=Measured(profile, study, {"CKA of all": "vitstudy/figures/cka.png"}))
    text = " ".join(body(card).split())
    assert (
        f"Measured on 32 images of synthetic, split test, commit `{COMMIT}`; of the 32 with a label it gets 75.00 % right "
        f"(95 % interval 57.81 to 86.72 %). sha256 of the images: `{'34' * 32}`."
    ) in text
    assert "![CKA of all](vitstudy/figures/cka.png)" in card
    rows = [line for line in card.splitlines() if re.match(r"\| [PR]-", line)]
    assert rows == [
        "| P-F1 | text of P-F1 | 1 supported | 0.500 (0.250 to 0.750) | CKA | 1,032 | 0.05 |",
        "| R-1 | text of R-1 | 1 supported, 1 undecided | −0.125 to 0.500 | CKA | 1,032 | 0.05 |",
    ]
    assert "beside others of a study (A study)." in text


def test_a_profile_alone_shows_no_claims():
    card = model_card(SCRATCH, measured=Measured(profile_of()))
    assert "## What is inside it" in card
    assert "it gets 75" not in card
    assert "| claim |" not in card
    assert "\n\n\n" not in card
    assert "## What is inside it" not in model_card(SCRATCH)


def test_what_was_measured_of_other_weights_or_for_another_study_is_refused():
    profile = profile_of()
    study = study_of(profile, judged=JUDGED)
    with pytest.raises(
        StudyError, match=r"profile of a-vit is of other weights: model.safetensors has another sha256 than"
    ):
        model_card(changed(files={"model.safetensors": "11" * 32}), measured=Measured(profile))
    with pytest.raises(StudyError, match=r"b\.safetensors has another sha256 than .*, or none"):
        model_card(changed(files=SCRATCH["files"] | {"b.safetensors": "11" * 32}), measured=Measured(profile))
    study["checkpoints"][1]["weights_sha256"] = "else"
    with pytest.raises(StudyError, match="no checkpoint with the weights and images of a-vit; it has other, a-vit"):
        model_card(SCRATCH, measured=Measured(profile, study))


KNOWN = {"model_type": "vit", "parameters": 1_000_000, "config_sha256": "ef" * 32, "selected_step": 880}


@pytest.mark.parametrize(
    ("about", "told"),
    [
        ({"model_type": "resnet"}, "model_type is 'resnet', and 'vit' in the record of the training"),
        ({"parameters": 5}, "parameters is 5, and 1000000 in"),
        ({"training": {"config_sha256": "other"}}, "config_sha256 is 'other'"),
        ({"training": {"config_sha256": "ef" * 32, "selected_step": 440}}, "selected_step is 440"),
        ({"untrained_seed": 0}, "its weights are initial ones"),
    ],
)
def test_without_files_what_else_is_known_tells_weights_apart(about, told):
    """As of a checkpoint that was measured on the Hub."""
    profile = profile_of()
    profile.provenance["checkpoint"]["files"] = {}
    record = changed(**KNOWN)
    for same in ({}, {"training": None}, {"training": {"config_sha256": "ef" * 32, "selected_step": 880}}):
        profile.provenance["checkpoint"] |= same
        assert "What is inside it" in model_card(record, measured=Measured(profile))
    profile.provenance["checkpoint"] |= about
    with pytest.raises(StudyError, match=f"the profile of a-vit is of other weights: {told}"):
        model_card(record, measured=Measured(profile))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_in_a_profile_or_study_stay_names(text):
    def card(text: str) -> str:
        profile = profile_of(name=text, split=text, revision=text, sha256=text)
        profile.provenance["images"]["name"] = text
        study = study_of(profile, judged=JUDGED) | {"title": text}
        study["claims"][0] |= {"text": text, "unit": text}
        return model_card(SCRATCH, measured=Measured(profile, study, {"CKA": "vitstudy/figures/cka.png"}))

    found = card(text)
    found.encode("utf-8")
    assert structure(found) == structure(card("harmless"))
    prose = re.sub(r"^(`{3,})(\w+)\n.*?\n\1$", "", body(found), flags=re.M | re.S)
    assert not re.search(r"<|\{\{|\{%|\$x|```", prose)

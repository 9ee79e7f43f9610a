"""The demo: its data are the digits, its parts fit together, its failures are said in one line."""

import importlib.util
import json
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from hf_vitstudy import StudyError, demo, load_profile
from hf_vitstudy.claims import CLAIMS, Judgement, Verdict
from hf_vitstudy.images import load_images
from hf_vitstudy.stats import Estimate


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    return demo.write_digits(tmp_path_factory.mktemp("demo") / "digits")


def test_data_are_the_digits(digits):
    from sklearn.datasets import load_digits

    found = load_digits()
    known = sorted(
        (pixels.tobytes(), int(label))
        for pixels, label in zip(np.rint(found.images * 255 / 16).astype(np.uint8), found.target, strict=True)
    )
    parts = {split: load_images(digits, split=split, n=None) for split in ("train", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 1437, "test": 360}
    rows = [part[index] for part in parts.values() for index in range(len(part))]
    assert all((image == image[..., :1]).all() for image, _ in rows), "gray, in three equal channels"
    assert sorted((image[..., 0].tobytes(), label) for image, label in rows) == known, "each once, with its label"


def test_split_is_even_named_and_always_the_same(digits, tmp_path):
    for split in ("train", "test"):
        rows = datasets.Dataset.from_parquet(str(digits / f"{split}.parquet"))
        assert rows.features["label"].names == list("0123456789")
        shares = np.bincount(rows["label"], minlength=10) / len(rows)
        np.testing.assert_allclose(shares, 0.1, atol=0.005)
        again = demo.write_digits(tmp_path / "again") / f"{split}.parquet"
        assert again.read_bytes() == (digits / f"{split}.parquet").read_bytes()


def test_data_already_there_stay(digits):
    before = (digits / "train.parquet").stat().st_mtime_ns
    demo.write_digits(digits)
    assert (digits / "train.parquet").stat().st_mtime_ns == before


def test_recipes_that_are_not_installed(monkeypatch, tmp_path):
    assert (demo.recipes_folder() / "configs" / "vit_digits.yaml").is_file()
    monkeypatch.setattr(demo, "__file__", str(tmp_path / "package" / "demo.py"))
    with pytest.raises(StudyError, match=r"recipes/finetune.py is not installed"):
        demo.recipes_folder()


def test_failing_training_is_said_in_one_line(digits, tmp_path):
    """Through the real ``accelerate launch``."""
    with pytest.raises(StudyError, match=r"^training vit-digits failed: epochs must be int, got 'many'"):
        demo.train("vit_digits", digits, tmp_path, 0, ["epochs=many"])


def test_crash_is_said_by_its_last_lines(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "run_visibly", lambda command: (1, ["a", "b", "c", "Killed"]))
    with pytest.raises(StudyError, match=r"training vit-digits failed: b \| c \| Killed"):
        demo.train("vit_digits", digits, tmp_path, 0)


def test_progress_is_passed_through(capsys):
    script = "import sys; sys.stderr.write('1 %\\r2 %\\r\\nerror: é'); sys.exit(3)"
    code, lines = demo.run_visibly([sys.executable, "-c", script])
    assert (code, lines) == (3, ["1 %", "2 %", "error: é"])
    assert capsys.readouterr().err == "1 %\r2 %\r\nerror: é"
    assert demo.run_visibly([sys.executable, "-c", ""]) == (0, ["it said nothing"])


def test_claims_in_words():
    estimate = Estimate(0.125, 0.105, 0.145, n=360)
    line = demo.claim_line(Judgement(CLAIMS[0], ("a", "b"), Verdict.SUPPORTED, estimate))
    assert line == f"{CLAIMS[0].id} {CLAIMS[0].text}: SUPPORTED, {estimate} {CLAIMS[0].unit}."
    line = demo.claim_line(Judgement(CLAIMS[0], (), Verdict.NOT_APPLICABLE, note="needs a ResNet"))
    assert line.endswith("NOT APPLICABLE, needs a ResNet.")


@pytest.fixture
def train_here(monkeypatch):
    """Trainings in this process, which has the libraries loaded already; records the settings of each."""
    from accelerate.state import AcceleratorState
    from transformers.utils import logging

    spec = importlib.util.spec_from_file_location("finetune_of_demo", demo.recipes_folder() / "finetune.py")
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "finetune_of_demo", script)
    spec.loader.exec_module(script)
    verbosity, threads, seen = logging.get_verbosity(), torch.get_num_threads(), []
    torch.set_num_threads(1)

    def run(command: list[str]) -> tuple[int, list[str]]:
        place = next(index for index, part in enumerate(command) if part.endswith("finetune.py"))
        seen.append(command[place + 1 :])
        script.main(command[place + 1 :])
        AcceleratorState._reset_state(True)
        return 0, ["done"]

    monkeypatch.setattr(demo, "run_visibly", run)
    yield seen
    torch.set_num_threads(threads)
    logging.set_verbosity(verbosity)


def test_demo_end_to_end(tmp_path, train_here):
    """One epoch on smaller pictures: the same path, other numbers. The second run repeats no training."""
    narrow = ["epochs=1", "optimizer.warmup_epochs=0", "data.image_size=32"]
    lines = list(demo.run_demo(tmp_path, overrides=narrow))
    assert [settings[0].rsplit("/", 1)[1] for settings in train_here] == ["vit_digits.yaml", "resnet_digits.yaml"]
    assert lines[0].startswith("vit-digits: ")
    assert lines[1].startswith("resnet-digits: ")
    assert "% of 360 test images right." in lines[1]
    assert {line.split()[0] for line in lines[2:-2]} == {claim.id for claim in CLAIMS}
    assert lines[-1] == f"Report: {tmp_path / 'report.html'}"
    assert "vit-digits" in (tmp_path / "report.html").read_text()
    assert list((tmp_path / "figures").glob("*.png"))
    for name in ("vit-digits", "resnet-digits"):
        profile = load_profile(tmp_path / "profiles" / name)
        record = json.loads((tmp_path / "checkpoints" / name / "training.json").read_text())
        assert profile.n_images == record["metrics"]["test"]["n"] == 360
        right = (profile["top5"].values[:, 0] == profile["label"].values).mean()
        assert right == pytest.approx(record["metrics"]["test"]["accuracy"])
    weights = tmp_path / "checkpoints" / "vit-digits" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    demo.train("vit_digits", tmp_path / "digits", tmp_path / "checkpoints", 0, narrow)
    assert weights.stat().st_mtime_ns == before
    assert all("replace=true" in settings for settings in train_here), "another seed may follow in the same folder"

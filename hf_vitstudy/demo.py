"""The whole study on data and networks made here: no Hub, no GPU, a few minutes on two cores.

A small ViT and a small ResNet learn scikit-learn's digits (1,797 scans of 8 x 8 pixels, UCI ML repository) from scratch by the
project's recipes; both are measured on the test images, compared and judged.
"""

from __future__ import annotations

import codecs
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .disk import require_name, require_place
from .errors import StudyError


if TYPE_CHECKING:
    from .claims import Judgement

RECIPES = ("vit_digits", "resnet_digits")
THREADS = 2  # of a training: sums depend on it in the last bits, so it does not follow the machine
TEST_SHARE = 0.2


def run_demo(out: Path, seed: int = 0, overrides: Sequence[str] = ()) -> Iterator[str]:
    """Train, measure, compare, judge and report into the folder `out`; yields what was found, in plain words.

    A second run goes on where the first one was stopped; finished trainings of the same settings are not repeated.

    Args:
        out: gets ``digits``, ``checkpoints``, ``profiles``, ``figures`` and ``report.html``.
        seed: of both trainings; the split of the digits is always the same.
        overrides: ``key=value`` settings for both recipes.

    Raises:
        StudyError: a training failed; its last lines are in the message.
    """
    from .figures import save_figures
    from .measuring import measure
    from .report import make_report

    out = Path(out)
    require_place(out)
    require_name(out / "report.html", "an HTML file", replaced=True)
    digits = write_digits(out / "digits")
    checkpoints = [train(recipe, digits, out / "checkpoints", seed, overrides) for recipe in RECIPES]
    profiles = [
        measure(checkpoint, digits, split="test", n=None, device="cpu", out=out / "profiles" / checkpoint.name)
        for checkpoint in checkpoints
    ]
    report = make_report(*profiles)
    path = report.save(out / "report.html")
    save_figures(out / "figures", *profiles)
    yield from (accuracy_line(checkpoint) for checkpoint in checkpoints)
    yield from (claim_line(judgement) for judgement in report.judgements)
    yield f"Figures: {out / 'figures'}"
    yield f"Report: {path}"


def write_digits(folder: Path) -> Path:
    """The digits as ``train.parquet`` and ``test.parquet`` with class names, split by class; files already there stay."""
    import datasets
    from sklearn.datasets import load_digits

    splits = {split: folder / f"{split}.parquet" for split in ("train", "test")}
    if all(path.is_file() for path in splits.values()):
        return folder
    found = load_digits()
    pixels = np.rint(found.images * (255 / 16)).astype(np.uint8)  # scans have 17 levels, 0 to 16
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=[str(digit) for digit in range(10)])}
    )
    rows = datasets.Dataset.from_dict({"image": list(pixels), "label": found.target.tolist()}, features=features)
    parts = rows.train_test_split(test_size=TEST_SHARE, seed=0, stratify_by_column="label")
    folder.mkdir(parents=True, exist_ok=True)
    for split, path in splits.items():
        fresh = path.with_name(f".{split}.new")
        parts[split].to_parquet(fresh)
        os.replace(fresh, path)
    return folder


# ----------------------------------------------------------------------------------------------------------- training


def recipes_folder() -> Path:
    """``recipes``: inside an installed package, beside it in a clone."""
    places = (Path(__file__).parent / "recipes", Path(__file__).parents[1] / "recipes")
    for place in places:
        if (place / "finetune.py").is_file():
            return place
    raise StudyError("recipes/finetune.py is not installed; reinstall hf_vitstudy or run from a clone")


def train(recipe: str, data: Path, folder: Path, seed: int, overrides: Sequence[str] = ()) -> Path:
    """Run one recipe through ``accelerate launch``; returns the checkpoint's folder.

    Raises:
        StudyError: the training failed.
    """
    checkpoint = folder / recipe.replace("_", "-")
    recipes = recipes_folder()
    settings = {"data.train": str(data), "output": str(checkpoint), "seed": seed, "replace": True}
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--quiet"),
        # with every choice made here, a configuration of the user's own has no say
        *("--cpu", "--num_processes=1", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"),
        f"--num_cpu_threads_per_process={THREADS}",
        *(str(recipes / "finetune.py"), str(recipes / "configs" / f"{recipe}.yaml")),
        *(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()),
        *overrides,
    ]
    code, lines = run_visibly(command)
    if code:
        last = " | ".join(lines[-3:]) if "error: " not in lines[-1] else lines[-1].split("error: ", 1)[1]
        raise StudyError(f"training {checkpoint.name} failed: {last}")
    return checkpoint


def run_visibly(command: list[str]) -> tuple[int, list[str]]:
    """Run a command with its progress bars on our standard error; returns its exit code and its last lines."""
    screen, seen = sys.stderr, ""
    width = {"TQDM_NCOLS": str(shutil.get_terminal_size().columns - 1)}
    bars = width if screen.isatty() else {"TQDM_MININTERVAL": "10"}  # a log file needs no hundred lines of a bar
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ | bars) as process:
        assert process.stderr is not None, "asked for with PIPE"
        while chunk := process.stderr.read1(4096):  # type: ignore[attr-defined]
            text = decoder.decode(chunk)
            screen.write(text)
            screen.flush()
            seen = (seen + text)[-4000:]
    lines = [line.strip() for line in seen.replace("\r", "\n").split("\n")]
    return process.returncode, [line for line in lines if line] or ["it said nothing"]


# ---------------------------------------------------------------------------------------------------------- in words


def accuracy_line(checkpoint: Path) -> str:
    """Such as ``vit-digits: 98.6 % of 360 test images right.``"""
    metrics = json.loads((checkpoint / "training.json").read_text(encoding="utf-8"))["metrics"]["test"]
    return f"{checkpoint.name}: {100 * metrics['accuracy']:.1f} % of {metrics['n']} test images right."


def claim_line(judgement: Judgement) -> str:
    """The claim, its verdict, and the effect with its interval or why it was not judged."""
    claim, estimate = judgement.claim, judgement.estimate
    effect = f"{estimate} {claim.unit}" if estimate else judgement.note
    return f"{claim.id} {claim.text}: {str(judgement.verdict).upper()}, {effect}."

"""Whether a training that is killed again and again ends with the bits of one that never was.

    OMP_NUM_THREADS=1 python benchmarks/kills.py [kills] [seed]

A small ViT with everything that draws numbers or has a state of its own (crops, RandAugment, erasing, mixing, dropout, averaged
weights, the best ones kept, bfloat16) is trained once without interruption, then once more with SIGKILL after a random time of
every start, until it has been killed as often as asked for; then it is left alone. A kill may fall anywhere: while images are
read, within a step, inside the write of a checkpoint. Weights, metrics and every line of the log must be the same.

A start is a process forked from this one, which has imported everything and done nothing, so that it costs no imports.
"""

import hashlib
import importlib.util
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
import torch
import transformers.models.vit.modeling_vit  # noqa: F401
import yaml


ROWS, TEST_ROWS, PIXELS, CLASSES, EPOCHS, BATCH = 256, 32, 32, 4, 12, 8
RECIPE = {
    "model": {
        **{
            "type": "vit",
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
        },
        **{"patch_size": 8, "hidden_dropout_prob": 0.1},
    },
    "augment": {
        **{"crop": "resized", "flip": True, "randaugment": {"std": 1.0}, "erase": 0.25},
        **{"mixup": 0.8, "cutmix": 1.0, "mix_probability": 0.7},
    },
    "optimizer": {
        "name": "adamw",
        "lr": 0.003,
        "weight_decay": 0.05,
        "warmup_epochs": 1,
        "layer_decay": 0.8,
        "clip": 1.0,
    },
    **{"epochs": EPOCHS, "batch_size": BATCH, "accumulation": 2, "label_smoothing": 0.1, "ema": 0.99},
    **{"precision": "bf16", "select": "best", "log_every": 5, "checkpoint_every": 3, "keep": 2},
}


def load_loop():
    path = Path(__file__).parents[1] / "recipes" / "finetune.py"
    spec = importlib.util.spec_from_file_location("finetune", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["finetune"] = module
    spec.loader.exec_module(module)
    return module


def write_images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=CLASSES)})
    for split, n in (("train", ROWS), ("test", TEST_ROWS)):
        pixels = list(rng.integers(0, 256, (n, PIXELS, PIXELS, 3), dtype=np.uint8))
        rows = {"image": pixels, "label": [index % CLASSES for index in range(n)]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")


def start(loop, folder: Path) -> int:
    """A training in a process of its own; returns its number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        output = os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        torch.set_num_threads(1)
        loop.main([str(folder / "recipe.yaml")])
        code = 0
    finally:
        os._exit(code)


def ended_within(child: int, seconds: float) -> bool:
    """Whether a process ended by itself; else it is killed."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        number, status = os.waitpid(child, os.WNOHANG)
        if number:
            assert os.waitstatus_to_exitcode(status) == 0, "the training failed; see the file `said` of its folder"
            return True
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def newest_step(folder: Path) -> int:
    return max((int(path.name[5:]) for path in (folder / "run" / "resume").glob("step_*")), default=0)


def result(folder: Path) -> dict[str, str]:
    """sha256 of the weights, of the metrics and of the log without its clock."""
    record = json.loads((folder / "run" / "training.json").read_text())
    lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    log = [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]
    parts = {"weights": record["files"], "metrics": record["metrics"], "log": log}
    return {name: hashlib.sha256(json.dumps(part).encode()).hexdigest() for name, part in parts.items()}


def prepare(folder: Path, name: str, images: Path) -> Path:
    (folder / name).mkdir()
    recipe = RECIPE | {"data": {"train": str(images), "image_size": PIXELS, "holdout": 0.25}}
    recipe |= {"output": str(folder / name / "run"), "seed": 1}
    (folder / name / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / name


def kill_often(loop, folder: Path, wanted: int, longest: float) -> int:
    """Start and kill until it was killed `wanted` times, then let it end; returns how often it was killed."""
    halves: set[str] = set()
    for count in range(wanted):
        seconds = random.uniform(0, longest)
        if ended_within(start(loop, folder), seconds):
            return count
        before, halves = halves, {path.name for path in (folder / "run" / "resume").glob(".step_*")}
        half = sorted(halves - before)
        inside = f", inside the write of {half[0][1:-4]}" if half else ""
        print(
            f"kill {count + 1:2} after {seconds:5.2f} s: newest checkpoint is of step {newest_step(folder)}{inside}",
            flush=True,
        )
    assert ended_within(start(loop, folder), 3600)
    return wanted


def main(wanted: int, seed: int) -> None:
    random.seed(seed)
    loop = load_loop()
    datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0.05
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "images").mkdir()
        write_images(place / "images")
        whole, killed = (prepare(place, name, place / "images") for name in ("whole", "killed"))
        began = time.monotonic()
        assert ended_within(start(loop, whole), 3600)
        seconds = time.monotonic() - began
        print(f"uninterrupted: {seconds:.1f} s for {EPOCHS * (ROWS * 3 // 4 // BATCH)} steps", flush=True)
        count = kill_often(loop, killed, wanted, longest=1.5 * seconds / wanted + 1)
        print(f"killed {count} times")
        expected, found = result(whole), result(killed)
        for part in expected:
            print(f"{part}: {'the same bits' if found[part] == expected[part] else 'DIFFERENT'} ({found[part][:16]})")
        sys.exit(0 if found == expected and count == wanted else 1)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20, int(sys.argv[2]) if len(sys.argv) > 2 else 0)

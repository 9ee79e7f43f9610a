"""What the training loop costs, as a multiple of a bare PyTorch loop.

    OMP_NUM_THREADS=1 python benchmarks/training.py [steps]

Random weights in the shapes of ViT-Ti/16 and ResNet-50, random images of 224 px, batches of 32. Before each of its steps the
loop of ``recipes/finetune.py`` lets the bare loop take one: forward, loss, backward, AdamW, on a copy of the network and on
batches that lie ready as normalised floats. So both take turns in one process, and a slow moment of the machine hits both.
A figure is the median over steps of (CPU seconds of a step of the loop / CPU seconds of the bare step before it). Everything
the loop does is in it: taking bytes, cropping, mirroring, normalising, mixing, clipping, averaging weights, watching for
what is not finite, logging; evaluations and checkpoints are not, they are as rare as the recipe says.
"""

import importlib.util
import statistics
import sys
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
import torch
import yaml

from hf_vitstudy.measuring import keep_memory


BATCH, PIXELS, CLASSES, ROWS = 32, 224, 10, 128
MODELS = {
    "ViT-Ti/16": {"type": "vit", "hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768},
    "ResNet-50": {"type": "resnet"},
}
PLAIN: dict = {"log_every": 1_000_000}
EVERYTHING = {
    "augment": {"crop": "padded", "padding": 16, "flip": True, "mixup": 0.8, "cutmix": 1.0},
    "label_smoothing": 0.1,
    "ema": 0.999,
    "log_every": 10,
    "log_with": ["tensorboard"],
}
FEATURES = {"the loop, nothing switched on": PLAIN, "the loop, everything switched on": EVERYTHING}


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
    for split, n in (("train", ROWS), ("test", 8)):
        pixels = list(rng.integers(0, 256, (n, PIXELS, PIXELS, 3), dtype=np.uint8))
        rows = {"image": pixels, "label": [index % CLASSES for index in range(n)]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")


class Bare:
    """The least that trains a network, and the clock of both loops."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.network = network.train()
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.05)
        self.pixels = torch.randn(BATCH, 3, PIXELS, PIXELS)
        self.labels = torch.arange(BATCH) % CLASSES
        self.bare: list[float] = []
        self.loop: list[float] = []
        self.since: float | None = None

    def step(self) -> None:
        logits = self.network(pixel_values=self.pixels).logits
        torch.nn.functional.cross_entropy(logits, self.labels).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def turn(self) -> None:
        """Called when a step of the loop begins."""
        now = time.process_time()
        if self.since is not None:
            self.loop.append(now - self.since)
        start = time.process_time()
        self.step()
        self.bare.append(time.process_time() - start)
        self.since = time.process_time()


def recipe(folder: Path, model: dict, steps: int, features: dict, name: str) -> Path:
    path = folder / f"{name}.yaml"
    settings = {
        "model": model,
        "data": {"train": str(folder), "image_size": PIXELS},
        "optimizer": {
            "name": "adamw",
            "lr": 1e-4,
            "weight_decay": 0.05,
            "clip": 1.0 if features is EVERYTHING else None,
        },
        "steps": steps,
        "batch_size": BATCH,
        "eval_every": 1_000_000,
        "checkpoint_every": 1_000_000,
        "output": str(folder / name),
    }
    path.write_text(yaml.safe_dump(settings | features))
    return path


def measure(finetune, model: dict, steps: int, features: dict) -> Bare:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder)
        path = recipe(folder, model, steps, features, "run")
        config = finetune.read_config(path)
        bare = Bare(finetune.build_model(config, [str(index) for index in range(CLASSES)]))
        original = finetune.learning_rate

        def learning_rate(*arguments):
            bare.turn()
            return original(*arguments)

        finetune.learning_rate = learning_rate
        try:
            finetune.main([str(path)])
        finally:
            finetune.learning_rate = original
            from accelerate.state import AcceleratorState, GradientState

            AcceleratorState._reset_state(True)
            GradientState._reset_state()
    return bare


def row(what: str, above: list[float], below: list[float], goal: str = "") -> str:
    ratios = [one / other for one, other in zip(above, below, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    whole = sum(above) / sum(below)
    return f"| {what} | **{middle:.3f}** | {low:.3f} to {high:.3f} | {whole:.3f} | {goal} |"


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    torch.set_num_threads(1)
    keep_memory()
    finetune = load_loop()
    for name, model in MODELS.items():
        print(f"| {name} | median ratio | quartiles | ratio of sums | goal |\n|---|---|---|---|---|")
        for place, (what, features) in enumerate(FEATURES.items()):
            found = measure(finetune, model, steps, features)
            warm = slice(3, len(found.loop))  # the first steps make the optimizer's state
            if place == 0:
                print(row("the bare loop, one step after another", found.bare[4:], found.bare[3:-1], "1"))
            print(row(what, found.loop[warm], found.bare[warm], "1.03"), flush=True)
        base = statistics.median(found.bare)
        print(f"\nBaseline: {base:.2f} CPU seconds for a step of {BATCH} images, {steps} steps.\n", flush=True)


if __name__ == "__main__":
    main()

"""Trainings small enough for tests: images, recipes, and the loop of ``recipes/finetune.py`` as a module."""

import importlib.util
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import yaml
from conftest import smooth_images


RECIPES = Path(__file__).parents[1] / "recipes"
CLASSES = ["circle", "cross", "square"]


def _load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their annotations up there
    spec.loader.exec_module(module)
    return module


finetune = _load(RECIPES / "finetune.py")


def coloured(n: int, seed: int) -> list[np.ndarray]:
    """Images of 20 px whose class, index modulo 3, shows as their colour, so that it can be learned."""
    images = smooth_images(n, 20, seed)
    return [image // 2 + 127 * (np.arange(3) == index % 3).astype(np.uint8) for index, image in enumerate(images)]


def table(images, labels, names=CLASSES) -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)


def write_shapes(folder: Path) -> Path:
    """43 training and 17 test images of 3 classes, as parquet files."""
    folder.mkdir()
    for split, n, seed in (("train", 43, 0), ("test", 17, 1)):
        table(coloured(n, seed), [index % 3 for index in range(n)]).to_parquet(folder / f"{split}.parquet")
    return folder


MODELS = {
    "vit": {
        "type": "vit",
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 12,
        "patch_size": 8,
        "hidden_dropout_prob": 0.2,
    },
    "resnet": {"type": "resnet", "layer_type": "basic", "embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1]},
    "alternet": {
        "type": "alternet",
        "stem": "small",
        "layer_type": "basic",
        "embedding_size": 4,
        "hidden_sizes": [4, 8],
        "depths": [1, 2],
        "num_attention_blocks": [0, 1],
        "num_attention_heads": [1, 2],
        "attention_head_dim": 4,
        "window_size": 4,
        "drop_path_rate": 0.1,
    },
    "local_vit": {
        "type": "local_vit",
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 12,
        "patch_size": 4,
        "kernel_size": 3,
        "pooling": "mean",
    },
}


def settings(shapes: Path, output: Path, model: str = "vit") -> dict:
    """20 steps: 4 epochs of 5, a checkpoint after every third."""
    return {
        "model": MODELS[model],
        "data": {"train": str(shapes), "image_size": 16},
        "augment": {"crop": "padded", "padding": 2, "flip": True},
        "optimizer": {"name": "adamw", "lr": 0.01, "weight_decay": 0.05, "warmup_epochs": 1, "clip": 1.0},
        "epochs": 4,
        "batch_size": 8,
        "accumulation": 2,
        "label_smoothing": 0.1,
        "log_every": 4,
        "checkpoint_every": 3,
        "output": str(output),
    }


def write_recipe(folder: Path, recipe: dict) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def run(recipe: Path, *overrides: str) -> dict:
    """Train in this process; returns the record."""
    finetune.main([str(recipe), *overrides])
    return json.loads((Path(finetune.read_config(recipe, overrides).output) / "training.json").read_text())


def log_lines(folder: Path) -> list[dict]:
    """The log without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


def forget() -> None:
    """Accelerate keeps its state for the whole process."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(True)
    GradientState._reset_state()


@pytest.fixture(autouse=True)
def one_process():
    """A fresh state of accelerate, one thread, and the libraries' own verbosity afterwards; for modules that import it."""
    from transformers.utils import logging

    threads, verbosity = torch.get_num_threads(), logging.get_verbosity()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    logging.set_verbosity(verbosity)
    torch.use_deterministic_algorithms(False)
    forget()


PLACES = {"learning_rate": finetune, "replace": os, "rmtree": shutil, "save": torch}


def train_and_die(recipe: str, name: str, when: int) -> None:
    """Train in a process of its own, and be killed in step `when`, or in the `when`-th call of another function."""
    original, calls = getattr(PLACES[name], name), []

    def patched(*args, **options):
        calls.append(args)
        if name == "save" and len(calls) == when:
            args[1].write(b"half a checkpoint")
            args[1].flush()
        counted = {"learning_rate": lambda: args[1], "save": lambda: len(calls)}
        if counted.get(name, lambda: sum("resume" in str(call[0]) for call in calls))() == when:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **options)

    setattr(PLACES[name], name, patched)
    finetune.main([recipe])


def one_process_metrics(folder: Path, recipe: Path) -> dict:
    """What this process alone says of a checkpoint, to the last bit."""
    from accelerate import Accelerator
    from transformers import AutoModelForImageClassification

    config = finetune.read_config(recipe)
    processor = finetune.make_processor(config)
    data = finetune.load_data(config, processor)
    network = AutoModelForImageClassification.from_pretrained(folder)
    normalise = finetune.Normaliser(processor, torch.device("cpu"))
    return finetune.evaluate(Accelerator(cpu=True), network, data.test, normalise, config)

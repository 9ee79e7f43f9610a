"""Trainings small enough for tests: images, recipes, and the loop of ``recipes/finetune.py`` as a module."""

import importlib.util
import json
import sys
from pathlib import Path

import datasets
import numpy as np
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

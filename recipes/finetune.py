# /// script
# requires-python = ">=3.11"
# dependencies = ["hf_vitstudy[study]"]
# ///
"""Train or fine-tune an image classifier; the one training loop of the project.

    accelerate launch recipes/finetune.py recipes/configs/NAME.yaml [key=value ...]

A recipe is a YAML file with the fields of `Config`; nested fields are overridden with dots (``optimizer.lr=1e-3``). The output
is a folder as `save_pretrained` writes it, with ``training.json`` (settings, metrics, versions) and ``log.jsonl``; every other
command of the project reads it as a checkpoint.

A killed run, started again by the same command, ends with the same weights to the bit (same machine, same number of
processes), because nothing random has a state that could be lost: the order of the images is a function of (seed, epoch),
an augmentation of (seed, epoch, image), dropout of (seed, step, process), the learning rate of the step.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import hashlib
import json
import math
import os
import platform
import re
import shutil
import sys
import time
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from tqdm.auto import tqdm

from hf_vitstudy.checkpoints import normalisation, prepare
from hf_vitstudy.errors import StudyError
from hf_vitstudy.images import ImageSet, load_images
from hf_vitstudy.profile import fsync_folder


# ----------------------------------------------------------------------------------------------------------- settings


@dataclass(frozen=True)
class DataConfig:
    """Which images, and in what size the network sees them."""

    train: str  # id of a data set on the Hub, .parquet file, image folder or folder of parquet files
    test: str | None = None  # the same as `train` by default
    train_split: str = "train"
    test_split: str | None = None  # by default validation or test
    revision: str | None = None
    image_size: int | None = None  # pixels; by default the checkpoint's own
    mean: list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])  # from scratch only, of images in [0, 1]
    std: list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])
    workers: int = 0  # processes that decode and augment
    memory_gib: float = 4.0  # a set that fits is decoded once and kept as uint8


@dataclass(frozen=True)
class AugmentConfig:
    """What happens to a training image; test images are only resized."""

    crop: Literal["none", "padded", "resized"] = "none"
    padding: int = 4  # pixels, of a padded crop
    scale: list[float] = field(default_factory=lambda: [0.08, 1.0])  # share of the area, of a resized crop
    flip: bool = False  # left to right; wrong for digits and letters


@dataclass(frozen=True)
class OptimizerConfig:
    name: Literal["adamw", "sgd"]
    lr: float  # at the end of the warm-up
    weight_decay: float = 0.0  # of the weights of linear and convolutional layers only
    momentum: float = 0.9  # sgd
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])  # adamw
    warmup_epochs: float = 0.0
    clip: float | None = None  # largest norm of the gradient


@dataclass(frozen=True)
class Config:
    model: dict[str, Any]  # type and settings of a transformers config (from scratch), or checkpoint (fine-tune)
    data: DataConfig
    optimizer: OptimizerConfig
    output: str
    epochs: int
    batch_size: int  # images per step, over all processes and accumulated micro-batches
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    accumulation: int = 1
    label_smoothing: float = 0.0
    precision: Literal["no", "bf16", "fp16"] = "no"
    seed: int = 0
    eval_every: int = 1  # epochs
    log_every: int = 10  # steps
    checkpoint_every: int = 500  # steps
    keep: int = 2  # checkpoints on disk
    replace: bool = False  # delete what a run with other settings left in `output`, instead of refusing

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulation", "eval_every", "log_every", "checkpoint_every", "keep"):
            if getattr(self, name) < 1:
                raise StudyError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.optimizer.lr <= 0:
            raise StudyError(f"optimizer.lr must be positive, got {self.optimizer.lr:g}")
        if not 0 <= self.label_smoothing < 1:
            raise StudyError(f"label_smoothing must be in [0, 1), got {self.label_smoothing:g}")


# What may change without changing the weights a run ends with.
FREE_FIELDS = (
    "output",
    "eval_every",
    "log_every",
    "checkpoint_every",
    "keep",
    "replace",
    "data.workers",
    "data.memory_gib",
)


def read_config(path: str | os.PathLike, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """The recipe in a YAML file, changed by ``key=value`` texts.

    Raises:
        StudyError: no such file, not YAML, unknown or missing keys, wrong types, values out of range.
    """
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise StudyError(f"no recipe at {path} ({error.strerror}); see recipes/configs") from error
    except yaml.YAMLError as error:
        raise StudyError(f"{path} is not plain YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise StudyError(f"{path} must hold keys and values, got {type(raw).__name__}")
    for override in overrides:
        _override(raw, override)
    return _typed(raw, Config, "")


def _override(raw: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    *parents, last = key.split(".")
    if not equals or not last:
        raise StudyError(f"expected key=value, got {text!r}")
    for parent in parents:
        raw = raw.setdefault(parent, {})
        if not isinstance(raw, dict):
            raise StudyError(f"{parent} in {key!r} is not a group of settings")
    try:
        raw[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise StudyError(f"the value of {text!r} is not YAML; put it in quotes") from error


def _typed(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type `hint`; `where` is the dotted key, for messages."""
    if dataclasses.is_dataclass(hint):
        return _group(value, hint, where)
    if isinstance(hint, types.UnionType):
        if value is None and type(None) in typing.get_args(hint):
            return None
        return _typed(value, typing.get_args(hint)[0], where)
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            raise StudyError(f"{where} must be one of {', '.join(typing.get_args(hint))}, got {value!r}")
        return value
    if typing.get_origin(hint) is list and isinstance(value, list):
        return [_typed(item, typing.get_args(hint)[0], f"{where}[{place}]") for place, item in enumerate(value)]
    plain = typing.get_origin(hint) or hint
    if plain is float and _is_number(value):
        return float(value)
    if not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
        raise StudyError(f"{where} must be {plain.__name__}, got {value!r} ({type(value).__name__})")
    return value


def _is_number(value: Any) -> bool:
    """YAML 1.1 reads 1e-3 as text (it wants 1.0e-3); nobody means text."""
    if isinstance(value, str):
        return re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value) is not None
    return isinstance(value, int | float) and not isinstance(value, bool)


def _group(value: Any, hint: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise StudyError(f"{where} must be a group of settings, got {value!r}")
    fields = {item.name: item for item in dataclasses.fields(hint)}
    prefix = f"{where}." if where else ""
    for key in value:
        if key not in fields:
            raise StudyError(f"unknown setting {prefix}{key}; {_nearest(str(key), fields)}")
    required = [
        name
        for name, item in fields.items()
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    ]
    for name in required:
        if name not in value:
            raise StudyError(f"setting {prefix}{name} is missing")
    hints = typing.get_type_hints(hint)
    return hint(**{key: _typed(inner, hints[key], prefix + key) for key, inner in value.items()})


def _nearest(name: str, known: typing.Iterable[str]) -> str:
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"


def identity(config: Config) -> dict[str, Any]:
    """The settings that decide the weights, as plain JSON; of local paths the last part, so that no machine's is kept."""
    settings = dataclasses.asdict(config)
    for name in FREE_FIELDS:
        group, _, last = name.rpartition(".")
        (settings[group] if group else settings).pop(last)
    for group, name in (("data", "train"), ("data", "test"), ("model", "checkpoint")):
        source = settings[group].get(name)
        if isinstance(source, str) and (Path(source).exists() or Path(source).is_absolute()):
            settings[group][name] = Path(source).resolve().name
    return settings


def config_sha256(config: Config) -> str:
    """Equal for runs that must end with the same weights, given the same images."""
    return hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()


# ------------------------------------------------------------------------------------------------------------- chance


def seed_of(*parts: Any) -> int:
    """63 bits that depend on all parts."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def epoch_order(seed: int, epoch: int, n: int) -> Tensor:
    """The order of `n` images in an epoch, (n,)."""
    generator = torch.Generator().manual_seed(seed_of(seed, "order", epoch))
    return torch.randperm(n, generator=generator)


@dataclass(frozen=True)
class Schedule:
    """Which images make up which step. The images that do not fill a last batch are left out, others in every epoch."""

    n: int
    batch_size: int
    epochs: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return self.n // self.batch_size

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def keys(self, first: int) -> Iterator[list[tuple[int, int]]]:
        """(epoch, image) of each batch, from step `first` to the end."""
        known = -1
        for step in range(first, self.steps):
            epoch, place = divmod(step, self.steps_per_epoch)
            if epoch != known:
                known, order = epoch, epoch_order(self.seed, epoch, self.n).tolist()
            start = place * self.batch_size
            yield [(epoch, index) for index in order[start : start + self.batch_size]]


class MicroBatches:
    """What one process reads: its share of every batch, cut into micro-batches; a batch sampler for `DataLoader`."""

    def __init__(self, schedule: Schedule, first: int, accumulation: int, rank: int = 0, world: int = 1) -> None:
        self.schedule, self.first, self.accumulation, self.rank, self.world = (
            schedule,
            first,
            accumulation,
            rank,
            world,
        )
        if schedule.batch_size % (accumulation * world):
            raise StudyError(
                f"batch_size {schedule.batch_size} must be a multiple of accumulation x processes "
                f"({accumulation} x {world}); change one of them"
            )

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        size = self.schedule.batch_size // (self.accumulation * self.world)
        for batch in self.schedule.keys(self.first):
            for micro in range(self.accumulation):
                start = (micro * self.world + self.rank) * size
                yield batch[start : start + size]

    def __len__(self) -> int:
        return (self.schedule.steps - self.first) * self.accumulation


# --------------------------------------------------------------------------------------------------------------- data


class Pictures(Dataset):
    """uint8 images (3, height, width) with labels; kept decoded where they fit into memory.

    Args:
        images: the rows.
        labels: (n,).
        geometry: from a decoded image (height, width, 3) to (3, height, width), without chance.
        limit: bytes to keep at most.
    """

    def __init__(
        self, images: ImageSet, labels: Tensor, geometry: Callable[[np.ndarray], np.ndarray], limit: float
    ) -> None:
        self.images, self.labels, self.geometry = images, labels, geometry
        self.pixels = self._decode_all(limit)

    def _decode_all(self, limit: float) -> Tensor | None:
        first = self._decode(0)
        if first.nbytes * len(self) > limit:
            return None
        kept = torch.empty((len(self), *first.shape), dtype=torch.uint8)
        for index in tqdm(range(len(self)), desc="decoding", unit="image", leave=False, disable=not _is_main()):
            pixels = self._decode(index)
            if pixels.shape != first.shape:  # only possible before a random resized crop
                return None
            kept[index] = pixels
        return kept

    def _decode(self, index: int) -> Tensor:
        image, _ = self.images[index]
        return torch.from_numpy(np.ascontiguousarray(self.geometry(image)))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pixels = self._decode(index) if self.pixels is None else self.pixels[index]
        return pixels, self.labels[index]

    def describe(self) -> dict[str, Any]:
        """Name, split, commit, number and sha256 (of the labels, and of the pixels where they are kept)."""
        total = hashlib.sha256(self.labels.numpy().tobytes())
        if self.pixels is not None:
            total.update(self.pixels.numpy().tobytes())
        origin = {key: self.images.provenance[key] for key in ("name", "split", "revision", "n")}
        return origin | {"sha256": total.hexdigest()}


class Augmented(Dataset):
    """Training images by (epoch, image): the same key always gives the same pixels, in any process."""

    def __init__(self, pictures: Pictures, augment: Callable[[Tensor], Tensor], seed: int) -> None:
        self.pictures, self.augment, self.seed = pictures, augment, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor] | StudyError:
        epoch, index = key
        try:
            pixels, label = self.pictures[index]
        except StudyError as error:  # travels as a value: a worker would bury it in a traceback
            return error
        # torchvision draws from the global generator; the loop seeds it again before every forward pass
        torch.manual_seed(seed_of(self.seed, "augment", epoch, index))
        return self.augment(pixels), label


def collate(items: list[Any]) -> tuple[Tensor, Tensor] | StudyError:
    """(pixels (batch, 3, height, width), labels (batch,)), or the first error."""
    for item in items:
        if isinstance(item, StudyError):
            return item
    pixels, labels = zip(*items, strict=True)
    return torch.stack(pixels), torch.stack(labels)


def make_augment(config: AugmentConfig, size: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """The random part of the preparation, uint8 in and out."""
    steps: list[nn.Module] = []
    if config.crop == "padded":
        steps.append(v2.RandomCrop(size, padding=config.padding))
    if config.crop == "resized":
        steps.append(v2.RandomResizedCrop(size, scale=tuple(config.scale), antialias=True))
    if config.flip:
        steps.append(v2.RandomHorizontalFlip())
    return v2.Compose(steps) if steps else v2.Identity()


def open_split(source: str, split: str | None, revision: str | None) -> ImageSet:
    """All images of a split in the order of the file, so that messages name its rows."""
    images = load_images(source, split=split, revision=revision, n=None, seed=0)
    if images.label_column is None or not images.classes:
        found = ", ".join(images.rows.column_names)
        name = images.provenance["name"]
        raise StudyError(f"{name} has no class labels (columns: {found}); cast a column to datasets.ClassLabel")
    # `load_images` draws the rows by its seed; undo that
    drawn = np.random.default_rng(0).permutation(len(images))
    return dataclasses.replace(images, rows=images.rows.select(np.argsort(drawn)))


def open_data(config: DataConfig) -> tuple[ImageSet, ImageSet]:
    """Training and test images; two splits, or two sources."""
    train = open_split(config.train, config.train_split, config.revision)
    test = open_split(config.test or config.train, config.test_split, config.revision)
    if config.test is None and train.provenance["split"] == test.provenance["split"]:
        raise StudyError(f"{config.train} has no split to test on; name one with data.test or data.test_split")
    if {name.lower() for name in train.classes or ()} <= {"train", "training", "test", "val", "validation"}:
        raise StudyError(
            f"the classes of {config.train} are {train.classes}: these are splits; give one folder per split"
        )
    return train, test


def labels_of(images: ImageSet, classes: list[str]) -> Tensor:
    """Labels in the order of `classes`, (n,); classes are matched by name.

    Raises:
        StudyError: a label is missing or out of range, or a class is not in `classes`.
    """
    name, own = images.provenance["name"], images.classes or []
    strange = sorted(set(own) - set(classes))
    if strange:
        raise StudyError(f"{name} has the class {strange[0]!r}, which the training images lack")
    places = [classes.index(label) for label in own]
    labels = []
    for row, label in enumerate(images.rows[images.label_column]):
        if label is None or label == -1:
            raise StudyError(f"row {row} of {name} has no label; remove it or label it")
        if not 0 <= label < len(places):
            raise StudyError(f"row {row} of {name} has the label {label}, there are {len(places)} classes")
        labels.append(places[label])
    return torch.tensor(labels)


# -------------------------------------------------------------------------------------------------------------- model


def build_model(config: Config, classes: list[str]) -> nn.Module:
    """The network: fresh weights by the seed, or a checkpoint with a fresh classifier."""
    settings = dict(config.model)
    labels = {"id2label": dict(enumerate(classes)), "label2id": {name: index for index, name in enumerate(classes)}}
    checkpoint = settings.pop("checkpoint", None)
    torch.manual_seed(seed_of(config.seed, "weights"))
    try:
        if checkpoint is None:
            return from_scratch(settings, config.data.image_size, labels)
        return from_checkpoint(checkpoint, settings, labels)
    except StudyError:
        raise
    except Exception as error:  # transformers raises many types; its first line says what is wrong with the settings
        raise StudyError(f"cannot build {checkpoint or config.model}: {_one_line(error)}") from error


def from_scratch(settings: dict[str, Any], image_size: int | None, labels: dict[str, Any]) -> nn.Module:
    from transformers import CONFIG_MAPPING, AutoModelForImageClassification
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

    kind = settings.pop("type", None)
    if kind not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        nearest = _nearest(str(kind), MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES)
        raise StudyError(f"model.type {kind!r} is no image classifier of transformers; {nearest}")
    config_class: Any = CONFIG_MAPPING[kind]
    known = config_class().to_dict()
    check_settings(settings, known)
    if image_size is None:
        raise StudyError("data.image_size is missing; a network from scratch has no size of its own")
    size = {"image_size": image_size} if "image_size" in known else {}
    return AutoModelForImageClassification.from_config(config_class(**settings, **size, **labels))


def check_settings(settings: dict[str, Any], known: dict[str, Any]) -> None:
    """Every setting is one that this architecture has, and none that follows from the data."""
    for key in settings:
        if key in ("image_size", "num_labels", "id2label", "label2id"):
            raise StudyError(f"model.{key} follows from the data; set data.image_size, or name the classes there")
        if key not in known:
            raise StudyError(f"unknown setting model.{key}; {_nearest(str(key), known)}")


def from_checkpoint(checkpoint: str, settings: dict[str, Any], labels: dict[str, Any]) -> nn.Module:
    """Every weight from the checkpoint but those of the classifier, which start afresh."""
    from transformers import AutoConfig, AutoModelForImageClassification

    name, _, revision = (checkpoint, "", "") if Path(checkpoint).is_dir() else checkpoint.partition("@")
    known = AutoConfig.from_pretrained(name, revision=revision or None, trust_remote_code=False).to_dict()
    check_settings(settings, known)
    model, info = AutoModelForImageClassification.from_pretrained(
        name,
        revision=revision or None,
        trust_remote_code=False,
        use_safetensors=True,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,  # of the classifier; any other is refused below
        output_loading_info=True,
        **settings,
        **labels,
    )
    head = {key for key in model.state_dict() if not key.startswith(model.base_model_prefix + ".")}
    strange = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])} - head | set(
        info["unexpected_keys"]
    )
    if strange:
        some = ", ".join(sorted(strange)[:3])
        raise StudyError(f"the weights of {name} do not fit ({some}); is it the same architecture and image size?")
    fresh = AutoModelForImageClassification.from_config(model.config).state_dict()
    model.load_state_dict({key: fresh[key] for key in head}, strict=False)
    return model


def make_processor(config: Config) -> Any:
    """The image processor that is saved with the network: what the study will use, and so what the training uses."""
    from transformers import AutoImageProcessor, ViTImageProcessorPil

    size: Any = config.data.image_size
    mean, std = config.data.mean, config.data.std
    checkpoint = config.model.get("checkpoint")
    if checkpoint is not None:
        name, _, revision = (checkpoint, "", "") if Path(checkpoint).is_dir() else checkpoint.partition("@")
        try:
            own = AutoImageProcessor.from_pretrained(name, revision=revision or None, backend="pil")
        except Exception as error:
            raise StudyError(f"cannot load the image processor of {checkpoint}: {_one_line(error)}") from error
        if size is None:
            return own
        mean, std = own.image_mean, own.image_std
    return ViTImageProcessorPil(size={"height": size, "width": size}, image_mean=list(mean), image_std=list(std))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


# ------------------------------------------------------------------------------------------------------- optimisation


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights of linear and convolutional layers decay; norms, biases, tokens, position embeddings and scales do not.

    By type and shape, not by name: HF ViT calls its norms ``layernorm_before``, HF ResNet ``normalization``, and its class
    token has three axes.
    """
    decayed = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
        for parameter in module.parameters(recurse=False)
        if parameter.ndim > 1
    }
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [
        {
            "params": [parameter for _, parameter in trained if (id(parameter) in decayed) == chosen],
            "names": [name for name, parameter in trained if (id(parameter) in decayed) == chosen],
            "weight_decay": weight_decay if chosen else 0.0,
        }
        for chosen in (True, False)
    ]


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    groups = parameter_groups(model, config.weight_decay)
    for group in groups:
        del group["names"]
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.betas[0], config.betas[1]))


def learning_rate(config: OptimizerConfig, step: int, schedule: Schedule) -> float:
    """Linear warm-up, then half a cosine to zero (Loshchilov & Hutter, ICLR 2017, eq. 5); a function of the step alone."""
    warmup = round(config.warmup_epochs * schedule.steps_per_epoch)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, schedule.steps - warmup)))


def refuse_non_finite(values: dict[str, Tensor], step: int, schedule: Schedule) -> None:
    """Stop before a checkpoint of ruined weights is written.

    Raises:
        StudyError: with the step, the epoch and the images of the batch.
    """
    for what, value in values.items():
        if not bool(torch.isfinite(value)):
            batch = next(schedule.keys(step))
            rows = ", ".join(str(index) for _, index in batch[:64]) + (", ..." if len(batch) > 64 else "")
            raise StudyError(
                f"the {what} is {value.item()} at step {step} (epoch {batch[0][0]}, images {rows}); "
                "lower optimizer.lr, set optimizer.clip, or look at these images; the last checkpoint is kept"
            )


# -------------------------------------------------------------------------------------------------------- checkpoints

STATE, MANIFEST = "state.pt", "manifest.json"  # of a checkpoint
RECORD, LOG = "training.json", "log.jsonl"  # of a run


def write_checkpoint(folder: Path, state: dict[str, Any], keep: int) -> None:
    """Write ``folder/step_N``, so that a kill at any instant leaves a complete one: beside, fsync, rename, then rotate."""
    target = folder / f"step_{state['step']:09d}"
    fresh = folder / f".{target.name}.new"
    for leftover in folder.glob(".step_*.new"):
        shutil.rmtree(leftover)
    fresh.mkdir(parents=True)
    with open(fresh / STATE, "wb") as file:
        torch.save(state, file)
        _to_disk(file)
    with open(fresh / MANIFEST, "w", encoding="utf-8") as file:
        json.dump({"file": STATE, "size": (fresh / STATE).stat().st_size, "sha256": _sha256(fresh / STATE)}, file)
        _to_disk(file)
    fsync_folder(fresh)
    shutil.rmtree(target, ignore_errors=True)  # a damaged one of the same step
    os.replace(fresh, target)
    fsync_folder(folder)
    for old in sorted(folder.glob("step_*"))[:-keep]:
        shutil.rmtree(old)


def newest_checkpoint(folder: Path) -> dict[str, Any] | None:
    """State of the newest complete checkpoint, None where there is none; damaged ones are skipped with a warning."""
    for path in sorted(folder.glob("step_*"), reverse=True):
        damage = find_damage(path)
        if damage is None:
            return torch.load(path / STATE, map_location="cpu", weights_only=True)
        _say(f"warning: {path} {damage}; going back to the checkpoint before it")
    return None


def find_damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, None where its files are those that were written."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if _sha256(path / STATE) != manifest["sha256"]:
            return f"is damaged ({STATE} is not the file that was written)"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"is incomplete ({type(error).__name__})"
    return None


def changes(before: dict[str, Any] | None, run: dict[str, Any]) -> list[str]:
    """How the run that wrote `before` (a checkpoint or a record) differs from this one; a run never goes on with another's."""
    if before is None:
        return []
    found = _differences({key: before.get(key) for key in run}, run)
    return [f"{key} was {old!r}, is {new!r}" for key, old, new in found]


def _differences(before: Any, now: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            yield from _differences(before.get(key), now.get(key), f"{where}.{key}" if where else key)
    elif before != now:
        yield where, before, now


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


# ------------------------------------------------------------------------------------------------------------ logging


class Log:
    """``log.jsonl``: one JSON object a line. After a resume the lines behind the checkpoint are dropped and written again."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept = [line for line in _lines(path) if line["step"] <= step]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def __call__(self, **values: Any) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The complete lines; a kill may have cut the last one."""
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            yield json.loads(text)
        except ValueError:
            return


def quieten_libraries() -> None:
    """What they report about loading is checked here, and their bars would hide ours."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def _is_main() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def _say(text: str) -> None:
    if _is_main():
        tqdm.write(text, file=sys.stderr)


# --------------------------------------------------------------------------------------------------------- evaluation


class Normaliser:
    """``pixel_values`` of uint8 images, on the device they are moved to."""

    def __init__(self, processor: Any, device: torch.device) -> None:
        scale, mean, std = normalisation(processor)
        self.scale = scale / 255
        self.mean, self.std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (mean, std))

    def __call__(self, pixels: Tensor) -> Tensor:
        return (pixels.to(self.mean.device, non_blocking=True).float() * self.scale - self.mean) / self.std


@torch.no_grad()
def evaluate(
    accelerator: Accelerator, model: nn.Module, pictures: Pictures, normalise: Normaliser, config: Config
) -> dict[str, float]:
    """Accuracy and cross-entropy (nat), each image counted once whatever the number of processes.

    `model` is the unwrapped one: processes may have different numbers of batches, and DDP would wait for the missing one.
    """
    n, rank, world = len(pictures), accelerator.process_index, accelerator.num_processes
    found = torch.zeros(
        3, n, device=accelerator.device
    )  # correct, loss, counted: by image, so that the sum has one order
    broadcast(list(model.buffers()))  # each process has running statistics of its own
    model.eval()
    loader = DataLoader(
        pictures, config.batch_size, sampler=range(rank, n, world), num_workers=config.data.workers, collate_fn=collate
    )
    for place, (pixels, labels) in enumerate(loader):
        logits, labels = model(pixel_values=normalise(pixels)).logits.float(), labels.to(accelerator.device)
        rows = torch.arange(rank, n, world)[place * config.batch_size :][: len(labels)]
        found[0, rows] = (logits.argmax(1) == labels).float()
        found[1, rows] = cross_entropy(logits, labels, reduction="none")
        found[2, rows] = 1
    model.train()
    correct, loss, counted = accelerator.reduce(found, "sum").double().cpu()
    assert bool((counted == 1).all()), "every test image is counted exactly once"
    return {"accuracy": correct.mean().item(), "loss": loss.mean().item(), "n": n}


# ------------------------------------------------------------------------------------------------------------- output


def versions() -> dict[str, str]:
    names = ("hf_vitstudy", "torch", "torchvision", "transformers", "accelerate", "datasets")
    return {name: metadata.version(name) for name in names} | {"python": platform.python_version()}


def read_record(folder: Path) -> dict[str, Any] | None:
    """``training.json`` of a finished run; None where there is none, or where its weights are not there as they were saved."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        whole = all(_sha256(folder / name) == digest for name, digest in record["files"].items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if whole else None


def delete_run(folder: Path) -> None:
    """Make room for a run with other settings; the network itself is replaced at the end."""
    shutil.rmtree(folder / "resume", ignore_errors=True)
    for name in (RECORD, LOG):
        (folder / name).unlink(missing_ok=True)


def save_output(folder: Path, model: Any, processor: Any, record: dict[str, Any]) -> None:
    """The folder other tools read; ``training.json`` comes last and so says that it is complete."""
    (folder / RECORD).unlink(missing_ok=True)
    for old in folder.glob("*.safetensors"):
        old.unlink()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    record = record | {"files": {path.name: _sha256(path) for path in sorted(folder.glob("*.safetensors"))}}
    fresh = folder / f".{RECORD}.new"
    fresh.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(fresh, folder / RECORD)


# --------------------------------------------------------------------------------------------------------------- main


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="recipe, a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    options = parser.parse_args(arguments)
    config = read_config(options.config, options.overrides)
    quieten_libraries()
    accelerator = Accelerator(mixed_precision=config.precision, gradient_accumulation_steps=config.accumulation)
    rank, world, device = accelerator.process_index, accelerator.num_processes, accelerator.device

    # Data: decoded by the study's decoder, resized by the processor that the study will use.
    train_images, test_images = open_data(config.data)
    classes = list(train_images.classes or [])
    processor = make_processor(config)
    limit = config.data.memory_gib * 2**30

    def resize(image: np.ndarray) -> np.ndarray:
        return prepare(processor, image)

    def keep_size(image: np.ndarray) -> np.ndarray:
        return image.transpose(2, 0, 1)

    test = Pictures(test_images, labels_of(test_images, classes), resize, limit)
    geometry = keep_size if config.augment.crop == "resized" else resize
    train = Pictures(train_images, labels_of(train_images, classes), geometry, limit)
    height, width = test[0][0].shape[1:]
    schedule = Schedule(len(train), config.batch_size, config.epochs, config.seed)
    if not schedule.steps:
        raise StudyError(
            f"{len(train)} training images do not fill one batch of {config.batch_size}; lower batch_size"
        )
    run = {"config": identity(config), "data": {"train": train.describe(), "test": test.describe()}}

    # What an earlier start left: a finished run, a checkpoint to go on from, or another run.
    folder = Path(config.output)
    record, state = read_record(folder), newest_checkpoint(folder / "resume")
    changed = changes(record, run) or changes(state, run)
    accelerator.wait_for_everyone()
    if changed and not config.replace:
        raise StudyError(
            f"{folder} holds another run ({'; '.join(changed[:3])}); choose another output, or replace=true to delete it"
        )
    if changed and accelerator.is_main_process:
        delete_run(folder)
    if record is not None and not changed:
        return _say(f"{folder}: finished before, {100 * record['metrics']['accuracy']:.1f} % right; nothing to do")

    # Model and optimizer. The learning rate is set by hand: a prepared scheduler steps once per process.
    model = build_model(config, classes)
    optimizer = make_optimizer(model, config.optimizer)
    model, optimizer = accelerator.prepare(model, optimizer)
    plain = accelerator.unwrap_model(model)
    normalise = Normaliser(processor, device)

    # Where an earlier start was killed, go on from its newest complete checkpoint.
    first, window = 0, torch.zeros(3, device=device)  # sums of loss, correct, images since the last line of the log
    folder.mkdir(parents=True, exist_ok=True)
    if state is not None and not changed:
        first = state["step"]
        plain.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(state["scaler"])
        if accelerator.is_main_process:
            window += state["window"].to(device)
    log = Log(folder / LOG, first) if accelerator.is_main_process else lambda **values: None

    batches = MicroBatches(schedule, first, config.accumulation, rank, world)
    loader = iter(
        DataLoader(
            Augmented(train, make_augment(config.augment, (height, width)), config.seed),
            batch_sampler=batches,
            num_workers=config.data.workers,
            collate_fn=collate,
            pin_memory=device.type == "cuda",
        )
    )
    bar = tqdm(
        total=schedule.steps * config.batch_size,
        initial=first * config.batch_size,
        desc=f"training {folder.name}",
        unit="image",
        disable=not accelerator.is_main_process,
    )
    metrics: dict[str, float] = {}
    seconds, since = 0.0, first  # of training alone, and the step of the last line of the log
    model.train()
    for step in range(first, schedule.steps):
        start = time.perf_counter()
        rate = learning_rate(config.optimizer, step, schedule)
        for group in optimizer.param_groups:
            group["lr"] = rate

        for micro in range(config.accumulation):
            batch = next(loader)
            if isinstance(batch, StudyError):
                raise batch
            pixels, labels = normalise(batch[0]), batch[1].to(device, non_blocking=True)
            torch.manual_seed(seed_of(config.seed, "step", step, micro, rank))
            with accelerator.accumulate(model):
                # the loss stays outside the model: HF ViT turns soft labels into a multi-label problem and saves that
                logits = model(pixel_values=pixels).logits.float()
                loss = cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
                refuse_non_finite({"loss": loss}, step, schedule)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(model.parameters(), config.optimizer.clip or math.inf)
                    if config.precision != "fp16":  # there, the scaler skips a step whose gradients overflow
                        refuse_non_finite({"norm of the gradient": norm}, step, schedule)
                optimizer.step()
                optimizer.zero_grad()
            correct = (logits.detach().argmax(1) == labels).sum()
            window += torch.stack([loss.detach() * len(labels), correct, torch.tensor(len(labels), device=device)])

        done = step + 1
        seconds += time.perf_counter() - start
        bar.update(config.batch_size)
        if done % config.log_every == 0 or done == schedule.steps:
            loss_sum, correct_sum, count = accelerator.reduce(window, "sum").tolist()
            values = {"loss": loss_sum / count, "accuracy": correct_sum / count}
            speed = round((done - since) * config.batch_size / seconds, 1)
            log(step=done, epoch=done / schedule.steps_per_epoch, **values, lr=rate, images_per_second=speed)
            shown = values | ({"test": metrics["accuracy"]} if metrics else {})
            bar.set_postfix({name: f"{value:.3f}" for name, value in shown.items()}, refresh=False)
            window.zero_()
            seconds, since = 0.0, done
        if done % (config.eval_every * schedule.steps_per_epoch) == 0 or done == schedule.steps:
            metrics = evaluate(accelerator, plain, test, normalise, config)
            log(step=done, epoch=done / schedule.steps_per_epoch, test=metrics)
        if done % config.checkpoint_every == 0 and done < schedule.steps:
            total = accelerator.reduce(window.clone(), "sum")
            if accelerator.is_main_process:
                state = run | {
                    "step": done,
                    "model": plain.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
                    "window": total.cpu(),
                }
                write_checkpoint(folder / "resume", state, config.keep)
            accelerator.wait_for_everyone()
    bar.close()

    if accelerator.is_main_process:
        record = run | {
            "config_sha256": config_sha256(config),
            "metrics": metrics,  # of the last epoch, on the test split; no epoch was chosen by it
            "parameters": sum(parameter.numel() for parameter in plain.parameters()),
            "steps": schedule.steps,
            "processes": world,
            "device": device.type,
            "versions": versions(),
        }
        save_output(folder, plain, processor, record)
        shutil.rmtree(folder / "resume", ignore_errors=True)
        accuracy, n = metrics["accuracy"], metrics["n"]
        _say(f"{folder}: {100 * accuracy:.1f} % of {n} test images right after {config.epochs} epochs")
    accelerator.end_training()


if __name__ == "__main__":
    try:
        main()
    except StudyError as error:
        tqdm.write(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        tqdm.write("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)

"""What a recipe may say: dataclasses, read strictly from YAML. A misspelt setting is an error, never ignored."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import reprlib
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from ..errors import StudyError, nearest_name


@dataclass(frozen=True)
class DataConfig:
    """Which images, and in what size the network sees them."""

    train: str  # id of a data set on the Hub, .parquet file, image folder or folder of parquet files
    test: str | None = None  # the same as `train` by default
    train_split: str = "train"
    test_split: str | None = None  # by default validation or test
    revision: str | None = None
    image_column: str | None = None  # by default found by type; CIFAR-100 has two columns of labels
    label_column: str | None = None
    image_size: int | None = None  # pixels; by default the checkpoint's own
    mean: list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])  # from scratch only, of images in [0, 1]
    std: list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])
    fraction: float = 1.0  # of the training images, of every class alike, drawn by the seed
    holdout: float = 0.0  # share of the training images set aside to choose by, of every class alike
    streaming: bool = False  # read the training images as they come, for what does not fit on the disk
    count: int | None = None  # images of a stream whose data set does not say how many there are
    shuffle_buffer: int = 10_000  # images of a stream that are shuffled at a time
    workers: int = 0  # processes that decode and augment
    memory_gib: float = 4.0  # a set that fits is decoded once and kept as uint8
    device_gib: float = 4.0  # a set that fits, cropped and mirrored at most, is kept on the GPU


@dataclass(frozen=True)
class RandAugmentConfig:
    """Cubuk et al., NeurIPS 2020 workshop; strength on timm's scale (torchvision counts to 30)."""

    ops: int = 2
    magnitude: float = 9.0  # 0 to 10
    std: float = 0.0  # of the magnitude, from operation to operation
    probability: float = 1.0  # of each operation to take place at all; timm has 0.5


@dataclass(frozen=True)
class AugmentConfig:
    """What happens to a training image, in this order; test images are only resized."""

    crop: Literal["none", "padded", "resized"] = "none"
    padding: int = 4  # pixels, of a padded crop
    scale: list[float] = field(default_factory=lambda: [0.08, 1.0])  # share of the area, of a resized crop
    flip: bool = False  # left to right; wrong for digits and letters
    randaugment: RandAugmentConfig | None = None
    erase: float = 0.0  # probability that a rectangle takes the mean colour (Zhong et al., AAAI 2020)
    mixup: float = 0.0  # alpha (Zhang et al., ICLR 2018)
    cutmix: float = 0.0  # alpha (Yun et al., ICCV 2019); with both, either is as likely
    mix_probability: float = 1.0  # of a batch to be mixed at all


@dataclass(frozen=True)
class OptimizerConfig:
    name: Literal["adamw", "sgd"]
    lr: float  # at the end of the warm-up
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_epochs: float = 0.0
    warmup_steps: int | None = None  # instead of epochs
    weight_decay: float = 0.0
    decay_all: bool = False  # also norms, biases, tokens and positions, as Park & Kim's code does
    layer_decay: float | None = None  # factor of the learning rate from one block to the block below it
    momentum: float = 0.9  # sgd
    nesterov: bool = True  # sgd
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])  # adamw
    clip: float | None = None  # largest norm of the gradient


@dataclass(frozen=True)
class ProfileConfig:
    """Profiles of the network while it learns, as `vitstudy measure` makes them, in ``profiles`` of the output."""

    images: str
    split: str | None = None
    n: int = 512
    every: int = 1  # epochs; the untrained network and the last epoch are always measured
    at: list[float] | None = None  # instead: epochs at which to measure, such as [0, 5]; 0 is the untrained network
    analyses: list[str] | None = None  # by default all


@dataclass(frozen=True)
class Config:
    model: dict[str, Any]  # type and settings of a transformers config (from scratch), or checkpoint (fine-tune)
    data: DataConfig
    optimizer: OptimizerConfig
    output: str
    batch_size: int  # images per step, over all processes and accumulated micro-batches
    epochs: int | None = None
    steps: int | None = None  # instead of epochs
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    accumulation: int = 1
    label_smoothing: float = 0.0
    ema: float | None = None  # decay of an average of the weights, which is what is then tested and saved
    precision: Literal["no", "bf16", "fp16"] = "no"
    compile: bool = False  # by torch.compile
    channels_last: bool = False
    deterministic: bool = False  # on a GPU: the same bits again, at some cost in speed; a CPU gives them anyway
    seed: int = 0
    eval_every: int = 1  # epochs
    eval_train: bool = False  # also test the training images at the end, as they are: the loss that was learned
    select: Literal["last", "best"] = "last"  # which weights are saved; best on the held out images
    patience: int | None = None  # evaluations without improvement on the held out images before the run ends
    log_every: int = 10  # steps
    log_with: list[str] = field(default_factory=list)  # trackers of Accelerate, such as trackio or tensorboard
    checkpoint_every: int = 500  # steps
    keep: int = 2  # checkpoints on disk
    profile: ProfileConfig | None = None
    replace: bool = False  # delete what a run with other settings left in `output`, instead of refusing

    def __post_init__(self) -> None:
        _check_numbers(self)
        _check_choices(self)


POSITIVE = (
    *("batch_size", "epochs", "steps", "accumulation", "eval_every", "log_every", "checkpoint_every", "keep"),
    *("patience", "data.image_size", "data.count", "data.shuffle_buffer", "optimizer.lr", "optimizer.clip"),
    *("augment.randaugment.ops", "profile.n", "profile.every"),
)
CAN_BE_NONE = ("optimizer.clip",)  # where nobody means 0 by no limit
NOT_NEGATIVE = (
    *("data.workers", "data.memory_gib", "data.device_gib", "augment.padding", "augment.mixup", "augment.cutmix"),
    *("augment.randaugment.std", "optimizer.warmup_epochs", "optimizer.warmup_steps", "optimizer.weight_decay"),
)
RANGES = {  # setting: lowest, highest, whether the highest is allowed
    "label_smoothing": (0, 1, False),
    "ema": (0, 1, False),
    "data.holdout": (0, 1, False),
    "augment.erase": (0, 1, True),
    "augment.mix_probability": (0, 1, True),
    "augment.randaugment.magnitude": (0, 10, True),
    "augment.randaugment.probability": (0, 1, True),
    "optimizer.momentum": (0, 1, False),
}
ABOVE_ZERO = ("data.fraction", "optimizer.layer_decay")  # up to one


def _check_numbers(config: Config) -> None:
    def values(names: Iterable[str]) -> Iterable[tuple[str, Any]]:
        for name in names:
            value: Any = config
            for part in name.split("."):
                value = getattr(value, part, None)
            if value is not None:
                yield name, value

    for name, value in values(POSITIVE):
        if value <= 0:
            what = "positive, or null for none" if name in CAN_BE_NONE else "positive"
            raise StudyError(f"{name} must be {'at least 1' if type(value) is int else what}, got {value:g}")
    for name, value in values(NOT_NEGATIVE):
        if value < 0:
            raise StudyError(f"{name} must not be negative, got {value:g}")
    for name, value in values(RANGES):
        low, high, closed = RANGES[name]
        if not (low <= value < high or (closed and value == high)):
            raise StudyError(f"{name} must be in [{low}, {high}{']' if closed else ')'}, got {value:g}")
    for name, value in values(ABOVE_ZERO):
        if not 0 < value <= 1:
            raise StudyError(f"{name} must be in (0, 1], got {value:g}")


def _check_choices(config: Config) -> None:
    data, optimizer = config.data, config.optimizer
    if (config.epochs is None) == (config.steps is None):
        raise StudyError("give either epochs or steps")
    if optimizer.warmup_steps is not None and optimizer.warmup_epochs:
        raise StudyError("give either optimizer.warmup_epochs or optimizer.warmup_steps, not both")
    if (config.select == "best" or config.patience) and not data.holdout:
        what = "select: best" if config.select == "best" else "patience"
        raise StudyError(f"{what} needs images to choose by that are not the test images; set data.holdout to 0.02")
    if data.streaming and config.eval_train:
        raise StudyError("eval_train reads the training images twice; not with data.streaming")
    if data.streaming and (data.holdout or data.fraction < 1):
        raise StudyError("data.holdout and data.fraction need to know all labels beforehand; not with data.streaming")
    for name, count in (("mean", 3), ("std", 3)):
        if len(getattr(data, name)) != count:
            raise StudyError(f"data.{name} must have {count} numbers, got {len(getattr(data, name))}")
    for name, pair in (("augment.scale", config.augment.scale), ("optimizer.betas", optimizer.betas)):
        if len(pair) != 2:
            raise StudyError(f"{name} must have 2 numbers, got {len(pair)}")
    _check_elements(config)


def _check_elements(config: Config) -> None:
    """Numbers in lists, and the one setting of `model` that is ours."""
    checkpoint = config.model.get("checkpoint")
    if not isinstance(checkpoint, str | None):
        raise StudyError(f"model.checkpoint must be str, got {_SHOWN.repr(checkpoint)} ({type(checkpoint).__name__})")
    if min(config.data.std) <= 0:
        raise StudyError(f"data.std must be positive, got {config.data.std}")
    for beta in config.optimizer.betas:
        if not 0 <= beta < 1:
            raise StudyError(f"optimizer.betas must be in [0, 1), got {beta:g}")
    low, high = config.augment.scale
    if not (0 <= low <= high <= 1 and high > 0):
        raise StudyError(
            f"augment.scale must be two shares of the area, lowest first, up to 1, got [{low:g}, {high:g}]"
        )


# What may change without changing the weights a run ends with.
FREE_FIELDS = (
    *("output", "eval_train", "log_every", "log_with", "checkpoint_every", "keep", "replace", "profile"),
    *("data.workers", "data.memory_gib", "data.device_gib"),
)


def identity(config: Config) -> dict[str, Any]:
    """The settings that decide the weights, as plain JSON; of local paths the last part, so that no machine's is kept."""
    settings = dataclasses.asdict(config)
    choosing = config.select == "best" or config.patience is not None
    for name in FREE_FIELDS if choosing else (*FREE_FIELDS, "eval_every"):
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


# ------------------------------------------------------------------------------------------------------------ reading


class _Plain(yaml.SafeLoader):
    """No tags that make objects, and no aliases, by which a short file can stand for more than the memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, "aliases are not read; write it out", event.start_mark)
        return super().compose_node(parent, index)


def read_config(
    path: str | os.PathLike, overrides: list[str] | tuple[str, ...] = (), folder: Path | None = None
) -> Config:
    """The recipe in a YAML file, changed by ``key=value`` texts.

    Args:
        path: of the file, or the name of one in `folder`.
        overrides: such as ``optimizer.lr=1e-3``.
        folder: where the recipes lie that go by their names.

    Raises:
        StudyError: no such file, not YAML, unknown or missing keys, wrong types, values out of range.
    """
    path = _find(Path(path), folder)
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Plain)
    except OSError as error:
        raise StudyError(f"no recipe at {path} ({error.strerror}); see recipes/configs") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # of dates such as 2024-99-99, and of bytes
        raise StudyError(f"{path} is not plain YAML: {' '.join(str(error).split())[:500]}") from error
    if not isinstance(raw, dict):
        raise StudyError(f"{path} must hold keys and values, got {type(raw).__name__}")
    for override in overrides:
        _override(raw, override)
    return _typed(raw, Config, "")


def _find(path: Path, folder: Path | None) -> Path:
    """`path`, or the shipped recipe of this name; a script on a machine of the Hub has no files beside it."""
    if folder is None or path.exists() or len(path.parts) > 1:
        return path
    shipped = folder / f"{path.name.removesuffix('.yaml')}.yaml"
    if not shipped.exists():
        nearest = nearest_name(path.stem, [found.stem for found in folder.glob("*.yaml")])
        raise StudyError(f"no recipe at {path}, and none of this name among the shipped ones; {nearest}")
    return shipped


def _override(raw: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    *parents, last = key.split(".")
    if not equals or not last:
        raise StudyError(f"expected key=value, got {text!r}")
    for parent in parents:
        if raw.get(parent) is None:
            raw[parent] = {}
        raw = raw[parent]
        if not isinstance(raw, dict):
            raise StudyError(f"{parent} in {key!r} is not a group of settings")
    try:
        raw[last] = yaml.load(value, _Plain)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise StudyError(f"the value of {text!r} is not YAML; put it in quotes") from error


_SHOWN = reprlib.Repr()  # of what somebody wrote, however long it is
_SHOWN.maxstring = _SHOWN.maxother = 80


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
            raise StudyError(f"{where} must be one of {', '.join(typing.get_args(hint))}, got {_SHOWN.repr(value)}")
        return value
    if typing.get_origin(hint) is list and isinstance(value, list):
        return [_typed(item, typing.get_args(hint)[0], f"{where}[{place}]") for place, item in enumerate(value)]
    plain = typing.get_origin(hint) or hint
    if plain is float and _is_number(value):
        if not math.isfinite(float(value)):
            raise StudyError(f"{where} must be a finite number, got {value}")
        return float(value)
    if not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
        raise StudyError(f"{where} must be {plain.__name__}, got {_SHOWN.repr(value)} ({type(value).__name__})")
    return value


def _is_number(value: Any) -> bool:
    """YAML 1.1 reads 1e-3 as text (it wants 1.0e-3); nobody means text."""
    if isinstance(value, str):
        return re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value) is not None
    return isinstance(value, int | float) and not isinstance(value, bool)


def _group(value: Any, hint: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise StudyError(f"{where} must be a group of settings, got {_SHOWN.repr(value)}")
    fields = {item.name: item for item in dataclasses.fields(hint)}
    prefix = f"{where}." if where else ""
    for key in value:
        if key not in fields:
            raise StudyError(f"unknown setting {prefix}{key}; {nearest_name(str(key), fields)}")
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

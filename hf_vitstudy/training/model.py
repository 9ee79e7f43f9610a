"""The network of a recipe: fresh weights by the seed, or a checkpoint with a fresh classifier."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..checkpoints import bounded, file_hashes, without_place
from ..errors import StudyError
from ..models import FAMILIES, register
from .order import seed_of
from .settings import Config, nearest_name


def build_model(config: Config, classes: list[str]) -> nn.Module:
    """The network with as many classes as the data.

    Raises:
        StudyError: unknown settings, a size that does not fit, weights that do not fit.
    """
    register()
    settings = dict(config.model)
    labels = {"id2label": dict(enumerate(classes)), "label2id": {name: index for index, name in enumerate(classes)}}
    checkpoint = settings.pop("checkpoint", None)
    torch.manual_seed(seed_of(config.seed, "weights"))
    try:
        if checkpoint is None:
            return _from_scratch(settings, config.data.image_size, labels)
        return _from_checkpoint(checkpoint, settings, config.data.image_size, labels)
    except StudyError:
        raise
    except Exception as error:  # transformers raises many types; its first line says what is wrong with the settings
        raise StudyError(f"cannot build {checkpoint or config.model}: {_one_line(error)}") from error


def _from_scratch(settings: dict[str, Any], image_size: int | None, labels: dict[str, Any]) -> nn.Module:
    from transformers import CONFIG_MAPPING, AutoModelForImageClassification
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

    kind = settings.pop("type", None)
    names = {*MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, *FAMILIES}
    if kind not in names:
        raise StudyError(
            f"model.type {kind!r} is no image classifier of transformers; {nearest_name(str(kind), names)}"
        )
    config_class: Any = CONFIG_MAPPING[kind]
    known = config_class().to_dict()
    _check_settings(settings, known)
    if image_size is None:
        raise StudyError("data.image_size is missing; a network from scratch has no size of its own")
    size = {"image_size": image_size} if "image_size" in known else {}
    return AutoModelForImageClassification.from_config(config_class(**settings, **size, **labels))


def _check_settings(settings: dict[str, Any], known: dict[str, Any]) -> None:
    """Every setting is one that this architecture has, and none that follows from the data."""
    for key in settings:
        if key in ("image_size", "num_labels", "id2label", "label2id"):
            raise StudyError(f"model.{key} follows from the data; set data.image_size, or name the classes there")
        if key not in known:
            raise StudyError(f"unknown setting model.{key}; {nearest_name(str(key), known)}")


def _from_checkpoint(
    checkpoint: str, settings: dict[str, Any], image_size: int | None, labels: dict[str, Any]
) -> nn.Module:
    """Every weight from the checkpoint but those of the classifier, which start afresh."""
    from transformers import AutoConfig, AutoModelForImageClassification

    name, revision = split_revision(checkpoint)
    known = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False).to_dict()
    _check_settings(settings, known)
    resized = image_size is not None and known.get("image_size") not in (None, image_size)
    options: Any = {"revision": revision, "trust_remote_code": False, "use_safetensors": True, "dtype": torch.float32}
    options |= {"ignore_mismatched_sizes": True}  # of the classifier and positions; any other is refused below
    sized = {"image_size": image_size} if resized else {}
    with bounded(name, on_meta=True):
        model, info = AutoModelForImageClassification.from_pretrained(
            name, output_loading_info=True, **options, **settings, **sized, **labels
        )
    head, missing = _classifier(model), set(info["missing_keys"])
    fresh_parts = head | {key for key in missing if not _in_body(model, key)}
    mismatched = {key for key, *_ in info["mismatched_keys"]} - head
    if resized and mismatched:
        original = AutoModelForImageClassification.from_pretrained(name, **options, **settings, **labels).state_dict()
        mismatched -= _resample_positions(model, original, mismatched)
    strange = (missing - fresh_parts) | mismatched | set(without_place(model, _of_this_tower(model, info)))
    if strange:
        some = ", ".join(sorted(strange)[:3])
        raise StudyError(f"the weights of {name} do not fit ({some}); is it the same architecture and image size?")
    fresh = AutoModelForImageClassification.from_config(model.config).state_dict()
    model.load_state_dict({key: fresh[key] for key in fresh_parts}, strict=False)
    return model


def _classifier(model: Any) -> set[str]:
    """Names of the weights that depend on the number of classes, found by a network with one class more.

    Not by their place: HGNet and CLIP's classifier have no base model beside the classifier, and the final norm of CvT or
    PoolFormer, which lies outside of theirs, has been pretrained.
    """
    from transformers import AutoModelForImageClassification

    config = copy.deepcopy(model.config)
    config.num_labels += 1
    with torch.device("meta"):
        other = AutoModelForImageClassification.from_config(config).state_dict()
    found = {key for key, tensor in model.state_dict().items() if tensor.shape != other[key].shape}
    if not found:
        raise StudyError(f"cannot tell the classifier of {type(model).__name__}; choose another checkpoint")
    return found


def _in_body(model: Any, key: str) -> bool:
    """Whether a weight is of the base model, or there is none; a checkpoint must have it, if it is not the classifier's."""
    return not _has_body(model) or key.startswith(model.base_model_prefix + ".")


def _of_this_tower(model: Any, info: dict[str, Any]) -> list[str]:
    """Keys of the file without a place, but for CLIP's and SigLIP's text, which stands beside the network of the images."""
    unexpected, children = info["unexpected_keys"], dict(model.named_children())
    return [key for key in unexpected if _has_body(model) or key.split(".")[0] in children]


def _has_body(model: Any) -> bool:
    return hasattr(model, model.base_model_prefix)


def freeze_unused(model: nn.Module, pixel_values: Tensor) -> None:
    """Take out of the training what no image reaches, such as DINOv2's mask token: with several processes DDP would wait for
    its gradient and stop.

    Raises:
        StudyError: the network cannot look at these images at all.
    """
    training = model.training
    try:
        model.eval()(pixel_values=pixel_values).logits.sum().backward()
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # of many types: kernels larger than the image, other numbers of channels or patches
        _, channels, height, width = pixel_values.shape
        raise StudyError(
            f"the network cannot look at images of {channels} channels, {height} x {width} pixels: {_one_line(error)}; "
            "set data.image_size or the model's settings to fit"
        ) from error
    finally:
        model.train(training)
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.requires_grad and parameter.grad is not None)
        parameter.grad = None


def pin(config: Config, before: str | None = None) -> Config:
    """The same recipe with the commit of a checkpoint on the Hub, so that a resumed run cannot start from another; not offline.

    Args:
        before: the checkpoint of the run that is in the output, which keeps its commit where the recipe asks for no other.

    Raises:
        StudyError: no such checkpoint.
    """
    from huggingface_hub import HfApi, constants

    checkpoint = config.model.get("checkpoint")
    if checkpoint is None or Path(checkpoint).is_dir():
        return config
    name, revision = split_revision(checkpoint)
    if revision is None and before is not None and split_revision(before)[0] == name:
        return dataclasses.replace(config, model=config.model | {"checkpoint": before})
    if constants.HF_HUB_OFFLINE:
        return config
    try:
        commit = HfApi().model_info(name, revision=revision).sha
    except Exception as error:  # the hub's errors are of many types, and httpx's come through
        raise StudyError(f"cannot find the checkpoint {checkpoint}: {_one_line(error)}") from error
    return dataclasses.replace(config, model=config.model | {"checkpoint": f"{name}@{commit}"})


def hash_checkpoint(config: Config) -> dict[str, str] | None:
    """sha256 of each file of weights of a checkpoint in a folder, whose name says little; None of any other."""
    folder = Path(config.model.get("checkpoint") or "")
    if "checkpoint" not in config.model or not folder.is_dir():
        return None
    return file_hashes(folder)


def split_revision(checkpoint: str) -> tuple[str, str | None]:
    """(name or folder, revision) of ``org/name@revision``."""
    if Path(checkpoint).is_dir():
        return checkpoint, None
    name, _, revision = checkpoint.partition("@")
    return name, revision or None


def _resample_positions(model: nn.Module, original: dict[str, Tensor], names: set[str]) -> set[str]:
    """Fit position embeddings of a square grid to the new size; returns which were."""
    state, done = model.state_dict(), set()
    for name in names:
        old, new = original.get(name), state[name]
        if old is not None and "position" in name and old.ndim == new.ndim == 3 and old.shape[::2] == new.shape[::2]:
            found = resample_positions(old, new.shape[1])
            if found is not None:
                new.copy_(found)
                done.add(name)
    return done


def resample_positions(old: Tensor, length: int) -> Tensor | None:
    """Position embeddings (1, prefix + grid², channel) interpolated to another grid, (1, length, channel).

    The class token and its like are kept, the rest is a map and resampled as one (Dosovitskiy et al., ICLR 2021, section 3.2);
    bicubic as in transformers, and smoothed where it shrinks. None where no prefix of up to 8 tokens leaves two squares.
    """
    for prefix in range(9):
        before, after = (round(max(0, n - prefix) ** 0.5) for n in (old.shape[1], length))
        if before and after and (before**2 + prefix, after**2 + prefix) == (old.shape[1], length):
            grid = old[:, prefix:].unflatten(1, (before, before)).permute(0, 3, 1, 2)
            smoothed = after < before
            grid = interpolate(grid, size=(after, after), mode="bicubic", antialias=smoothed, align_corners=False)
            return torch.cat([old[:, :prefix], grid.flatten(2).transpose(1, 2)], 1)
    return None


def make_processor(config: Config) -> Any:
    """The image processor that is saved with the network: what the study will use, and so what the training uses.

    Raises:
        StudyError: the checkpoint has none.
    """
    from transformers import AutoImageProcessor, ViTImageProcessorPil

    size: Any = config.data.image_size
    mean, std = config.data.mean, config.data.std
    checkpoint = config.model.get("checkpoint")
    if checkpoint is not None:
        name, revision = split_revision(checkpoint)
        try:
            own = AutoImageProcessor.from_pretrained(name, revision=revision, backend="pil", trust_remote_code=False)
        except Exception as error:
            raise StudyError(f"cannot load the image processor of {checkpoint}: {_one_line(error)}") from error
        if size is None:
            return own
        mean, std = own.image_mean, own.image_std
    return ViTImageProcessorPil(size={"height": size, "width": size}, image_mean=list(mean), image_std=list(std))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__

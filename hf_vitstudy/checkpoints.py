"""A checkpoint ready to study: images in [0, 1] in, logits and states out.

Normalisation lives inside, so that every network sees the same images and noise has the same unit. Nothing but safetensors
is loaded, and no code from a repository runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .blocks import AttentionLayer, Block, attention_weights, find_blocks, hooked
from .branches import Branch, branches_hooked, find_branches
from .errors import StudyError, in_words
from .states import State


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
PRETRAINING_PARTS = {"pooler", "decoder", "mask_token", "lm_head", "cls_classifier", "distillation_classifier"}
OTHER_TOWER = {
    "text_model",
    "visual_projection",
    "text_projection",
    "logit_scale",
    "logit_bias",
}  # beside images, in CLIP
TO_NUMBERS = {"ToTensor", "MaybeToTensor", "Normalize"}  # steps of torchvision and timm after the geometry
MOST_MODULES, MOST_PARAMETERS = 20_000, 10_000_000_000  # the largest vision transformers of the Hub have 7 000 million
MOST_SIDE = 8192  # pixels a side that a processor may make
CHANNELS_LAST_FROM = 128  # pixels a side; below, the conversion costs more than it gains (benchmarks/)


@dataclass
class Checkpoint:
    """A network with its own image geometry and normalisation, and the places to read it.

    Attributes:
        network: in evaluation mode; takes ``pixel_values``.
        processor: the checkpoint's image processor of transformers.
        blocks, layers: places to read and attention layers, from `find_blocks`.
        name: as the user gave it, without a machine's path.
        provenance: revision, hash of the weights and settings, plain JSON.
    """

    network: nn.Module
    processor: Any
    blocks: list[Block]
    layers: list[AttentionLayer]
    name: str
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of what the network is shown."""
        height, width = self.provenance["image_size"]
        return height, width

    @cached_property
    def branches(self) -> list[Branch]:
        """Both arms of every skip connection, found on random images when first asked for; empty without any."""
        return find_branches(self.network, self.normalise(_random_images(self.image_size)), self.blocks)

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """One decoded image resized and cropped as the checkpoint's processor does it: uint8 (3, height, width)."""
        return prepare(self.processor, image)

    def normalise(self, images: Tensor) -> Tensor:
        """``pixel_values`` of images in [0, 1], (batch, 3, height, width), in the network's type and memory format."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise StudyError(
                f"images must be (batch, 3, height, width) in [0, 1], got {tuple(images.shape)}; convert to RGB"
            )
        scale, mean, std = normalisation(self.processor)
        shape = (1, 3, 1, 1)
        pixels = images.to(self.device, torch.float32)
        mean_, std_ = (torch.tensor(values, device=self.device).view(shape) for values in (mean, std))
        pixels = (pixels * scale).sub_(mean_).div_(std_)
        form = (
            torch.channels_last if self.provenance.get("memory_format") == "channels_last" else torch.contiguous_format
        )
        return pixels.to(self.dtype).contiguous(memory_format=form)

    def read(
        self,
        images: Tensor,
        visit: Callable[[Block, State], None] | None = None,
        visit_attention: Callable[[AttentionLayer, Tensor], None] | None = None,
        visit_branch: Callable[[Branch, State, State], None] | None = None,
    ) -> tuple[Tensor | None, dict[str, State]]:
        """One forward pass.

        Args:
            images: (batch, 3, height, width) in [0, 1].
            visit: called with every block's state while it is there; without it, copies of all states are returned.
            visit_attention: called with every layer's attention weights (batch, head, query, key).
            visit_branch: called with both addends of every skip connection.

        Returns:
            Logits (batch, class), None for a checkpoint without a classifier; and the states by block name, empty with
            `visit`.
        """
        kept: dict[str, State] = {}

        def on_state(index: int, raw: Tensor) -> None:
            block = self.blocks[index]
            if visit is None:
                kept[block.name] = State(raw.detach().clone(), block.grid, block.prefix_count)
            else:
                visit(block, State(raw, block.grid, block.prefix_count))

        def on_branch(branch: Branch, skip: Tensor, long: Tensor) -> None:
            assert visit_branch is not None, "hooks are set only where there is a visitor"
            visit_branch(branch, *(State(raw, branch.grid, branch.prefix_count) for raw in (skip, long)))

        layers = self.layers if visit_attention else []
        with (
            torch.inference_mode(),
            hooked(self.network, self.blocks, on_state),
            _attention_hooked(self.network, layers, visit_attention),
            branches_hooked(self.network, self.branches if visit_branch else [], on_branch),
        ):
            output = self.network(self.normalise(images))
        logits = getattr(output, "logits", None)
        return logits, kept


@contextlib.contextmanager
def _attention_hooked(
    network: nn.Module, layers: list[AttentionLayer], visit: Callable[[AttentionLayer, Tensor], None] | None
) -> Iterator[None]:
    def hook_for(layer: AttentionLayer):
        def hook(module, args, output):
            weights = attention_weights(output)
            assert weights is not None, "the layer was chosen because it returns weights"
            assert visit is not None, "hooks are set only where there is a visitor"
            visit(layer, weights)

        return hook

    handles = [network.get_submodule(layer.path).register_forward_hook(hook_for(layer)) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# ----------------------------------------------------------------------------------------------------- preprocessing


def prepare(processor: Any, image: np.ndarray) -> np.ndarray:
    """Geometry only: the processor's resizing and cropping of an RGB image, uint8 (3, height, width)."""
    if hasattr(processor, "val_transforms"):  # of timm
        picture = Image.fromarray(image)
        for step in processor.val_transforms.transforms:
            if type(step).__name__ not in TO_NUMBERS:
                picture = step(picture)
        return np.array(picture).transpose(2, 0, 1)
    pixels = processor(
        image, do_normalize=False, do_rescale=False, input_data_format="channels_last", return_tensors="np"
    )
    array = np.asarray(pixels["pixel_values"][0])
    return array if array.dtype == np.uint8 else np.clip(np.rint(array), 0, 255).astype(np.uint8)


def normalisation(processor: Any) -> tuple[float, list[float], list[float]]:
    """(scale, mean, std): pixel_values = (image in [0, 1] · scale - mean) / std."""
    if hasattr(processor, "data_config"):  # of timm
        mean, std = ([float(v) for v in processor.data_config[name]] for name in ("mean", "std"))
        return 1.0, mean, std
    scale = 255 * float(processor.rescale_factor) if getattr(processor, "do_rescale", True) else 255.0
    if not getattr(processor, "do_normalize", True):
        return scale, [0.0] * 3, [1.0] * 3
    return scale, [float(v) for v in processor.image_mean], [float(v) for v in processor.image_std]


# ----------------------------------------------------------------------------------------------------------- loading


def load_checkpoint(
    source: str | os.PathLike,
    *,
    device: str = "auto",
    dtype: str = "float32",
    attn: str = "auto",
    blocks: str | None = None,
    channels_last: bool | None = None,
    need_attention: bool = True,
    untrained: int | None = None,
) -> Checkpoint:
    """A checkpoint from the Hub or a local folder, with its blocks found and checked.

    Args:
        source: Hub id, optionally ``org/name@revision``, or a local folder as `save_pretrained` writes it.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``auto``: a GPU where there is one.
        dtype: of the weights and activations: float32, bfloat16, float16 or float64.
        attn: attention implementation; ``auto`` is ``eager`` where attention maps are needed, else transformers' own choice.
        blocks: regular expression on module paths to read instead of the blocks found by structure.
        channels_last: memory format of convolutional networks; None decides by image size.
        need_attention: whether attention weights will be read.
        untrained: seed of initial weights to use instead of the trained ones, which then need not be there.

    Raises:
        StudyError: nothing there, not safetensors, custom code, weights that do not fit, no blocks found.
    """
    if dtype not in DTYPES:
        raise StudyError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    name, revision = _split_revision(str(source))
    folder = Path(name).is_dir()
    _refuse_unsafe(name, folder, weights=untrained is None)
    network, config = _load_network(name, revision, attn, need_attention, untrained)
    processor = _load_processor(name, revision)
    weights = weights_sha256(network)
    network = network.to(_device(device), DTYPES[dtype]).eval()
    image_size = _made_size(processor, name)
    provenance = {
        "revision": getattr(config, "_commit_hash", None),
        "weights_sha256": weights,
        "architecture": type(network).__name__,
        "model_type": config.model_type,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "dtype": dtype,
        "attention": getattr(config, "_attn_implementation", None),
        "image_size": image_size,
        "processor": {key: value for key, value in processor.to_dict().items() if _is_plain(value)},
        "memory_format": "contiguous",
        "classes": _classes(network, config),
        "config": _settings(config),
        "files": file_hashes(Path(name)) if folder and untrained is None else {},
        "training": _training(name, revision) if untrained is None else None,
    }
    shown = Path(name).resolve().name if folder else name
    if untrained is not None:
        provenance["untrained_seed"] = untrained
        shown += "-untrained"
    checkpoint = Checkpoint(network, processor, [], [], shown, provenance)
    return _find_places(checkpoint, blocks, channels_last)


def _made_size(processor: Any, name: str) -> list[int]:
    """[height, width] that a processor makes of an image; its settings come from a file that may say anything."""
    told = processor.to_dict()
    settings = [told.get(key) for key in ("size", "crop_size")]
    sides = [
        side
        for each in settings
        if isinstance(each, Mapping)
        for side in each.values()
        if isinstance(side, int | float)
    ]
    hint = "put its preprocessor_config.json right"
    if sides and not 0 < min(sides) <= max(sides) <= MOST_SIDE:
        raise StudyError(f"the processor of {name} makes images of {max(sides)} px, expected 1 to {MOST_SIDE}; {hint}")
    deviations = told.get("image_std")
    if isinstance(deviations, Sequence) and not all(isinstance(each, int | float) and each > 0 for each in deviations):
        raise StudyError(
            f"the processor of {name} divides by image_std {list(deviations)}, expected positive numbers; {hint}"
        )
    try:
        return list(prepare(processor, np.zeros((64, 64, 3), np.uint8)).shape[1:])
    except Exception as error:  # of any kind, as processors raise them
        raise StudyError(f"the processor of {name} takes no image ({in_words(error)}); {hint}") from error


def _find_places(checkpoint: Checkpoint, pattern: str | None, channels_last: bool | None) -> Checkpoint:
    """Finds blocks on random images, then chooses the memory format by what kind of network it is."""
    height, width = checkpoint.image_size
    images = _random_images(checkpoint.image_size)
    try:
        checkpoint.blocks, checkpoint.layers = find_blocks(checkpoint.network, checkpoint.normalise(images), pattern)
        if _keeps_attention_to_itself(checkpoint):
            cast(Any, checkpoint.network).config.output_attentions = True
            checkpoint.blocks, checkpoint.layers = find_blocks(
                checkpoint.network, checkpoint.normalise(images), pattern
            )
    except StudyError as error:
        raise StudyError(f"{checkpoint.name}: {error}") from error
    except (TypeError, ValueError, RuntimeError) as error:
        what = f"its processor makes {height} x {width} images and the network refuses them ({error})"
        raise StudyError(f"{checkpoint.name}: {what}; put a matching preprocessor_config.json beside it") from error
    convolutional = not checkpoint.layers and any(block.kind == "conv" for block in checkpoint.blocks)
    if channels_last is None:
        channels_last = convolutional and min(height, width) >= CHANNELS_LAST_FROM
    if channels_last:
        checkpoint.network = checkpoint.network.to(memory_format=torch.channels_last)
        checkpoint.provenance["memory_format"] = "channels_last"
    return checkpoint


def _keeps_attention_to_itself(checkpoint: Checkpoint) -> bool:
    """Whether a network computes attention weights and returns none, as PVT, Swin v2 and data2vec do unless asked.

    Others are not asked: they return each layer's weights anyway, and would then hold those of all layers at once.
    """
    about = checkpoint.provenance
    can = about["attention"] == "eager" and about["model_type"] != "timm_wrapper"  # which refuses to be asked
    return bool(can and not checkpoint.layers and any(block.kind == "attention" for block in checkpoint.blocks))


def _random_images(size: tuple[int, int]) -> Tensor:
    return torch.rand(3, 3, *size, generator=torch.Generator().manual_seed(0))


def module_paths(source: str | os.PathLike) -> list[str]:
    """Paths of all modules of a checkpoint, to choose from with ``blocks=REGEX``. Works where no blocks are found."""
    name, revision = _split_revision(str(source))
    _refuse_unsafe(name, Path(name).is_dir())
    network, _ = _load_network(name, revision, "auto", need_attention=False)
    return [path for path, _ in network.named_modules() if path]


def short_name(source: str | os.PathLike) -> str:
    """The last part of a Hub id or folder, for naming what is made from it."""
    name, _ = _split_revision(str(source))
    return Path(name).resolve().name if Path(name).is_dir() else name.split("/")[-1]


def _split_revision(source: str) -> tuple[str, str | None]:
    if Path(source).is_dir():
        return source, None
    name, _, revision = source.partition("@")
    return name, revision or None


def _refuse_unsafe(name: str, folder: bool, weights: bool = True) -> None:
    if folder:
        files = sorted(path.name for path in Path(name).iterdir())
        if "config.json" not in files:
            raise StudyError(f"{name} has no config.json; expected a folder as save_pretrained writes it")
        if weights and not any(file.endswith(".safetensors") for file in files):
            raise StudyError(
                f"{name} has no .safetensors file ({', '.join(files[:5])}); pickled weights can run code and are not loaded. "
                "Load them where you trust them and save again with save_pretrained"
            )
    elif not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise StudyError(
            f"no checkpoint at {name!r}: no such folder, and not a Hub id (org/name or org/name@revision)"
        )


def _load_network(
    name: str, revision: str | None, attn: str, need_attention: bool, untrained: int | None = None
) -> tuple[nn.Module, Any]:
    from transformers import AutoConfig, AutoModel, AutoModelForImageClassification
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

    from .models import register

    register()
    with _friendly(name), _quiet():
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
        classifier = type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
        auto = AutoModelForImageClassification if classifier else AutoModel
        options: dict[str, Any] = {"revision": revision, "trust_remote_code": False, "use_safetensors": True}
        wanted = "eager" if attn == "auto" and need_attention else attn
        if wanted != "auto":
            options["attn_implementation"] = wanted
        if untrained is not None:
            return _untrained(auto, config, untrained, None if wanted == "auto" else wanted)
        with bounded(name, on_meta=True):
            network, info = auto.from_pretrained(name, dtype=torch.float32, output_loading_info=True, **options)
    commit = getattr(config, "_commit_hash", None)
    network = _without_new_head(network, info, name)
    network.config._commit_hash = commit
    return network, network.config


def _untrained(auto: Any, config: Any, seed: int, attn: str | None) -> tuple[nn.Module, Any]:
    """The network with transformers' own initial weights, drawn on the CPU: the same on every device."""
    options = {} if attn is None else {"attn_implementation": attn}
    commit = getattr(config, "_commit_hash", None)
    with torch.random.fork_rng(devices=[]), bounded(config.model_type):
        torch.manual_seed(seed)
        network = auto.from_config(config, dtype=torch.float32, trust_remote_code=False, **options)
    network.config._commit_hash = commit
    return network, network.config


@contextlib.contextmanager
def bounded(name: str, on_meta: bool = False) -> Iterator[None]:
    """Stops building a network larger than any that exists, as a hostile ``config.json`` may ask for, before memory is full.

    Args:
        name: for the message.
        on_meta: count parameters without memory only, as transformers makes them before it reads a file; those of the file
            would be counted twice.

    Raises:
        StudyError: too many modules or parameters.
    """
    seen = {"modules": 0, "parameters": 0}

    def count(what: str, more: int, most: int) -> None:
        seen[what] += more
        if seen[what] > most:
            raise StudyError(
                f"{name} asks for more than {most:,} {what}; is its config.json whole, and from whom is it?"
            )

    def see_module(module: nn.Module, key: str, child: nn.Module | None) -> None:
        count("modules", 1, MOST_MODULES)

    def see_parameter(module: nn.Module, key: str, parameter: Tensor | None) -> None:
        if parameter is not None and (parameter.is_meta or not on_meta):
            count("parameters", parameter.numel(), MOST_PARAMETERS)

    hooks = torch.nn.modules.module
    handles = [
        hooks.register_module_module_registration_hook(see_module),
        hooks.register_module_parameter_registration_hook(see_parameter),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _without_new_head(network: Any, info: dict[str, Any], name: str) -> Any:
    """The network if every weight was in the file; its base if only the classifier is missing."""
    missing = sorted(info["missing_keys"])
    lacking = [key for key in missing if not _is_head(network, key)]
    if lacking or info.get("mismatched_keys"):
        raise StudyError(
            f"{name} lacks weights, such as {lacking[0] if lacking else info['mismatched_keys']!r}; save it again"
        )
    towers = hasattr(network.config, "vision_config") or network.config.model_type.endswith("vision_model")
    known = OTHER_TOWER if towers else set()
    strange = [key for key in without_place(network, info["unexpected_keys"]) if key.split(".")[0] not in known]
    if strange:
        some = ", ".join(strange[:3])
        raise StudyError(f"{name} holds weights this architecture has no place for ({some}); is config.json its own?")
    return _body(network) if missing else network


def _body(network: Any) -> Any:
    """What is left of a classifier without its head: a tower of images in a network that also has one of texts."""
    return network.base_model if network.base_model is not network else getattr(network, "vision_model", network)


def _is_head(network: Any, key: str) -> bool:
    """Whether a weight belongs to the classifier on top, which may be new."""
    if network.base_model is not network:
        return not key.startswith(network.base_model_prefix + ".")
    return key.startswith("classifier.")


def without_place(network: Any, unexpected: Iterable[str]) -> list[str]:
    """Keys of a file that say that it is of another architecture, among those that a network has no place for.

    Parts that only the pretraining needed are not among them (`PRETRAINING_PARTS`); a twelfth block of eleven is.
    """
    return [key for key in sorted(unexpected) if not PRETRAINING_PARTS & set(key.split("."))]


def _load_processor(name: str, revision: str | None) -> Any:
    from transformers import AutoImageProcessor

    try:
        with _quiet():
            # PIL's resizing is the same on every machine; torchvision's differs by one level
            return AutoImageProcessor.from_pretrained(name, revision=revision, backend="pil", trust_remote_code=False)
    except Exception as error:
        raise StudyError(
            f"{name} has no readable preprocessor_config.json ({_first_line(error)}); "
            "save its image processor beside the weights"
        ) from error


@contextlib.contextmanager
def _friendly(name: str) -> Iterator[None]:
    """Loading errors of transformers in one line that says what to do."""
    try:
        yield
    except StudyError:
        raise
    except Exception as error:
        text = _first_line(error)
        if "trust_remote_code" in str(error):
            text = (
                "it needs code from its repository, which is never run; convert it to an architecture of transformers"
            )
        elif "safetensors" in str(error):
            text = f"{text} Pickled weights can run code and are not loaded; save the model again with save_pretrained"
        raise StudyError(f"cannot load {name}: {text}") from error


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """transformers reports and bars about loading say nothing that is not checked here."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def _device(device: str) -> torch.device:
    if device != "auto":
        try:
            return torch.zeros(0, device=device).device
        except (RuntimeError, AssertionError) as error:
            raise StudyError(f"device {device!r} is not there ({_first_line(error)}); use cpu or auto") from error
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")


def weights_sha256(network: nn.Module) -> str:
    """sha256 of all parameters and buffers by name: the same for a folder, a Hub repository and a converted file."""
    total = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        total.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
        total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _classes(network: nn.Module, config: Any) -> list[str] | None:
    """Class names in the order of the logits; None without a classifier."""
    if "ForImageClassification" not in type(network).__name__:
        return None  # not told by `base_model`: some networks without a head keep their blocks in a part of that name
    names = config.id2label or {}
    return [str(names.get(index, f"LABEL_{index}")) for index in range(config.num_labels)]


SAID_ELSEWHERE = ("id2label", "label2id", "transformers_version", "architectures", "dtype", "problem_type", "auto_map")
MADE_BY_US = (
    "config",
    "data",
    "steps",
    "total_steps",
    "selected_step",
    "checkpoint_sha256",
    "metrics",
    "config_sha256",
)
RECORD = "training.json"


def _settings(config: Any) -> dict[str, Any]:
    """What shapes the network, as its configuration says it; by these settings two checkpoints are told apart."""
    found = {key: value for key, value in config.to_dict().items() if key not in SAID_ELSEWHERE and key[0] != "_"}
    return {key: value for key, value in sorted(found.items()) if _is_plain(value) and value is not None}


def file_hashes(folder: Path) -> dict[str, str]:
    """sha256 of each file of weights in a folder: how a network fine-tuned from it names its origin."""
    return {path.name: file_sha256(path) for path in sorted(folder.glob("*.safetensors"))}


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _training(name: str, revision: str | None) -> dict[str, Any] | None:
    """What the recipe that trained a checkpoint wrote beside it; None where there is none of ours."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    path = Path(name) / RECORD
    try:
        if not Path(name).is_dir():
            path = Path(hf_hub_download(name, RECORD, revision=revision))
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError):
        return None  # somebody else's training, or a Hub that cannot be asked
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        return None
    return {key: record[key] for key in MADE_BY_US if key in record and _is_plain(record[key])}


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(inner) for inner in value.values())
    return isinstance(value, str | int | float | bool | list | tuple | type(None))

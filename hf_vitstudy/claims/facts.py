"""What is known of a checkpoint besides its measurements: what kind of network it is, how it was trained, from what.

Claims choose profiles by these facts: a role says which checkpoints a claim speaks about, a relation how two must hang together
("the same training on less data"). Facts come from the provenance that `measure` writes; a study may add or correct some
(``facts`` in the provenance), where a checkpoint from the Hub does not say them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..profile import Profile


# Settings that change along an axis: where two checkpoints differ in nothing else, they are two places on it.
AXES: dict[str, tuple[str, ...]] = {
    "data_fraction": ("training.data.fraction", "training.images"),
    "heads": ("config.num_attention_heads",),
    "width": ("config.hidden_size", "config.intermediate_size", "config.num_attention_heads"),
    "patch_size": ("config.patch_size",),
    "kernel_size": ("config.kernel_size",),
    "pooling": ("config.pooling",),
    "attention_blocks": ("config.num_attention_blocks", "config.num_attention_heads"),
    "pretraining_images": (),
    "progress": (),
    "seed": ("training.seed",),
}
# Of the same network and training, whatever these say.
ASIDE = (
    *("training.seed", "training.precision", "training.compile", "training.channels_last", "training.deterministic"),
    *("config.transformers_version", "config.dtype", "config.architectures", "config.problem_type"),
)

# Public checkpoints that differ in their pre-training images alone, by timm's names: family, different images.
PRETRAINED: tuple[tuple[str, str, float], ...] = (
    (r"(vit_\w+)\.augreg2?_in1k$", "augreg", 1.28e6),
    (r"(vit_\w+)\.augreg2?_in21k_ft_in1k$", "augreg", 14.2e6),
    (r"(deit3_\w+)\.fb_in1k$", "deit3", 1.28e6),
    (r"(deit3_\w+)\.fb_in22k_ft_in1k$", "deit3", 14.2e6),
    (r"(vit_\w+_clip_\d+)\.laion400m_e32$", "laion", 4.0e8),
    (r"(vit_\w+_clip_\d+)\.laion2b$", "laion", 2.3e9),
    (r"(vit_\w+_clip_\d+)\.metaclip_400m$", "metaclip", 4.0e8),
    (r"(vit_\w+_clip_\d+)\.metaclip_2pt5b$", "metaclip", 2.5e9),
)


@dataclass(frozen=True)
class Facts:
    """Attributes:

    network: ``vit`` (attention and no convolutional block), ``resnet`` (the reverse), ``hybrid`` (both) or ``other``.
    stages: of different resolution.
    hybrid_stem: a ViT that reads the feature maps of a convolutional network.
    state: ``untrained``, ``early`` (in training, at most a tenth of its steps done), ``training`` or ``trained``.
    weights: sha256 of the weights.
    origins: names that a network fine-tuned from this one may call it by: hashes of its files, ``name@commit``.
    parent: what it was fine-tuned from, by such a name; None where unknown or from scratch.
    axes: values along `AXES`, where known.
    settings: everything that makes the network and its training, flat; equal settings are one recipe.
    """

    network: str
    stages: int
    hybrid_stem: bool
    state: str
    weights: str
    origins: frozenset[str]
    parent: str | None
    axes: dict[str, Any]
    settings: dict[str, Any]

    @property
    def recipe(self) -> str:
        """Equal for checkpoints that differ in nothing but the seed."""
        kept = {key: value for key, value in self.settings.items() if key not in ASIDE}
        axes = {axis: value for axis, value in self.axes.items() if axis != "seed"}
        return json.dumps([kept, axes, self.state], sort_keys=True, default=str)


def facts(profile: Profile) -> Facts:
    """The facts of the checkpoint that `profile` was measured on."""
    about = profile.provenance["checkpoint"]
    told = profile.provenance.get("facts", {})
    config, training = about.get("config") or {}, about.get("training") or {}
    settings = _flat("config", config) | _flat("training", _described(training))
    if not training:
        settings["weights"] = about[
            "weights_sha256"
        ]  # how it was trained is unknown, so no other checkpoint is like it
    axes = _axes(profile.name, config, training)
    axes |= {axis: told[axis] for axis in AXES if axis in told}
    family = told.get("family") or _family(profile.name)
    if family:
        settings = {"family": family}
    return Facts(
        network=told.get("network") or _network(profile, config),
        stages=len(set(profile.data["stage"].values.tolist())),
        hybrid_stem=bool(told.get("hybrid_stem", re.search(r"_r\d+_s\d+_", str(config.get("architecture", ""))))),
        state=told.get("state") or _state(about, axes),
        weights=about["weights_sha256"],
        origins=frozenset(
            {about["weights_sha256"], *(about.get("files") or {}).values(), f"{profile.name}@{about['revision']}"}
        ),
        parent=told.get("parent") or _parent(training),
        axes=axes,
        settings=settings,
    )


def _network(profile: Profile, config: dict[str, Any]) -> str:
    if "num_attention_blocks" in config:  # an AlterNet without attention is a ResNet
        return "hybrid" if sum(config["num_attention_blocks"]) else "resnet"
    attention, convolution = profile.has("attention"), profile.has("conv")
    if attention and convolution:
        return "hybrid"
    return "vit" if attention else "resnet" if convolution else "other"


def _state(about: dict[str, Any], axes: dict[str, Any]) -> str:
    if about.get("untrained_seed") is not None or axes.get("progress") == 0:
        return "untrained"
    progress = axes.get("progress", 1.0)
    return "trained" if progress >= 1 else "early" if progress <= 0.1 else "training"


def _described(training: dict[str, Any]) -> dict[str, Any]:
    """Settings of a recipe without those of the network, which its own configuration says."""
    settings = {key: value for key, value in (training.get("config") or {}).items() if key != "model"}
    images = ((training.get("data") or {}).get("train") or {}).get("n")
    found = {"images": images, "parent": _parent(training)}
    return settings | {key: value for key, value in found.items() if value is not None}


def _axes(name: str, config: dict[str, Any], training: dict[str, Any]) -> dict[str, Any]:
    settings, steps = training.get("config") or {}, training.get("total_steps")
    found = {
        "data_fraction": (settings.get("data") or {}).get("fraction"),
        "heads": config.get("num_attention_heads"),
        "width": config.get("hidden_size"),
        "patch_size": config.get("patch_size"),
        "kernel_size": config.get("kernel_size"),
        "pooling": config.get("pooling"),
        "attention_blocks": sum(config["num_attention_blocks"]) if "num_attention_blocks" in config else None,
        "pretraining_images": next((images for text, _, images in PRETRAINED if re.search(text, name)), None),
        "progress": training["steps"] / steps if steps and "steps" in training else None,
        "seed": settings.get("seed"),
    }
    return {axis: value for axis, value in found.items() if value is not None}


def _family(name: str) -> str | None:
    for text, family, _ in PRETRAINED:
        if match := re.search(text, name):
            return f"{family} {match[1]}"
    return None


def _parent(training: dict[str, Any]) -> str | None:
    """Of a folder the hash of its first file of weights, of a Hub repository ``name@commit``."""
    hashes = training.get("checkpoint_sha256") or {}
    return next(iter(hashes.values()), ((training.get("config") or {}).get("model") or {}).get("checkpoint"))


def _flat(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(f"{prefix}.{key}", value) if isinstance(value, dict) else {f"{prefix}.{key}": value}
    return found


# ------------------------------------------------------------------------------------------------------------- roles


@dataclass(frozen=True)
class Role:
    """Which checkpoints a claim speaks about; `words` complete "needs a"."""

    words: str
    plays: Callable[[Facts], bool]


def _trained(*networks: str, state: str = "trained") -> Callable[[Facts], bool]:
    return lambda of: of.network in networks and of.state == state


ROLES: dict[str, Role] = {
    "vit": Role("checkpoint with attention and no convolutional blocks", _trained("vit")),
    "attention": Role("checkpoint with attention", _trained("vit", "hybrid")),
    "resnet": Role("checkpoint with convolutional blocks and no attention", _trained("resnet")),
    "hybrid": Role("checkpoint with convolutional and attention blocks", _trained("hybrid")),
    "plain vit": Role(
        "ViT of one resolution, without a convolutional stem",
        lambda of: _trained("vit")(of) and of.stages == 1 and not of.hybrid_stem,
    ),
    "multi-stage vit": Role(
        "ViT of several stages, such as Swin or PiT", lambda of: _trained("vit")(of) and of.stages > 1
    ),
    "hybrid-stem vit": Role(
        "ViT on a convolutional network's maps", lambda of: _trained("vit")(of) and of.hybrid_stem
    ),
    "early vit": Role("ViT at most a tenth through its training", _trained("vit", state="early")),
    "early resnet": Role("ResNet at most a tenth through its training", _trained("resnet", state="early")),
    "mixer": Role(
        "network of MLPs alone, such as MLP-Mixer",
        lambda of: _trained("other")(of) and "mixer" in str(of.settings.get("config.architecture")),
    ),
    "multi-stage": Role("network of several resolutions", lambda of: of.state == "trained" and of.stages > 1),
    "any": Role("trained checkpoint", lambda of: of.state == "trained"),
}


# --------------------------------------------------------------------------------------------------------- relations


@dataclass(frozen=True)
class Relation:
    """How the first checkpoint of a claim and its second must hang together; `words` complete "needs two checkpoints"."""

    words: str
    holds: Callable[[Facts, Facts], bool]


def less(axis: str, of_second: Any = None) -> Relation:
    """Alike in everything, the seed included, but the first has the smaller value on `axis`.

    With `of_second` the second must have this one: all the data, say.
    """

    def holds(first: Facts, second: Facts) -> bool:
        if not alike(first, second, AXES[axis]) or not _smaller(first.axes.get(axis), second.axes.get(axis)):
            return False
        if of_second is not None and second.axes[axis] != of_second:
            return False
        return axis == "progress" or first.axes.get("progress", 1.0) == second.axes.get("progress", 1.0)

    goal = "" if of_second is None else f", {of_second} in the second"
    return Relation(f"alike but for their {axis.replace('_', ' ')}{goal}", holds)


def _smaller(first: Any, second: Any) -> bool:
    """Whether both are known and comparable and the first is smaller; heads may be one number or one per stage."""
    try:
        return bool(first < second)
    except TypeError:
        return False


def from_to(axis: str, first: Any, second: Any) -> Relation:
    """Alike in everything but that the first has the one value on `axis` and the second the other."""

    def holds(one: Facts, other: Facts) -> bool:
        return (
            (one.axes.get(axis), other.axes.get(axis)) == (first, second)
            and one.axes.get("progress", 1.0) == other.axes.get("progress", 1.0)
            and alike(one, other, AXES[axis])
        )

    return Relation(f"alike but that the first has {axis.replace('_', ' ')} {first} and the second {second}", holds)


FINE_TUNED = Relation(
    "of which the second was fine-tuned from the first",
    lambda first, second: second.parent is not None and second.parent in first.origins,
)
SAME_TRAINING = Relation(
    "trained alike, equally far and with the same seed",
    lambda first, second: (
        bool(_training(first))
        and _training(first) == _training(second)
        and first.axes.get("progress", 1.0) == second.axes.get("progress", 1.0)
        and first.axes.get("seed") == second.axes.get("seed")
    ),
)


def alike(first: Facts, second: Facts, but: tuple[str, ...] = ()) -> bool:
    """Whether all settings but these are known and equal, the seed included."""
    keys = (first.settings.keys() | second.settings.keys()) - set(but) - (set(ASIDE) - {"training.seed"})
    return "weights" not in keys and all(first.settings.get(key) == second.settings.get(key) for key in keys)


def _training(of: Facts) -> dict[str, Any]:
    return {key: value for key, value in of.settings.items() if key.startswith("training.") and key not in ASIDE}

"""Measurements, one per file, all fed by one forward pass.

To add one, write a function of one `State` that gives a number (or an array) per image, decorate it with `per_block`, and
name it in `ANALYSES`::

    @per_block("energy", unit="activation²", source="your paper, eq. 1")
    def energy(state: State) -> Tensor:
        \"\"\"Mean square of the spatial activations, (batch,).\"\"\"
        return state.tokens.float().square().mean((1, 2))

Batching, saving, intervals, comparison, figures and the report come with it. What is not a function of one state is a
subclass of `Analysis`, as in `cka.py`: it says what to keep of one batch, and what to make of all that was kept.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import math
import runpy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import StudyError
from .contract import NO_LABELS, Analysis, Batch, NotApplicableError, Part, PerBlock, joined, per_block


__all__ = [
    "ANALYSES",
    "DEFAULT",
    "NO_LABELS",
    "Analysis",
    "Batch",
    "NotApplicableError",
    "Part",
    "PerBlock",
    "choose_analyses",
    "factory_of",
    "joined",
    "make_analysis",
    "per_block",
]

ANALYSES = {
    "cka": "cka:CKA",
    "fourier": "fourier:fourier",
    "variance": "variance:variance",
    "attention_distance": "attention_distance:AttentionDistance",
    "predictions": "predictions:Predictions",
    "projection": "projection:Projection",
    "noise": "noise:Noise",
    "corruptions": "robustness:Corruptions",
    "attacks": "attacks:Attacks",
    "probes": "probes:Probes",
    "localisation": "localisation:Localisation",
    "heads": "heads:Heads",
    "rollout": "attention_maps:Rollout",
    "attention_entropy": "attention_maps:AttentionEntropy",
    "position_embedding": "embeddings:PositionEmbedding",
    "patch_filters": "embeddings:PatchFilters",
    "skip_ratio": "skip_ratio:SkipRatio",
    "lesions": "lesions:Lesions",
    "skip_removal": "lesions:SkipRemoval",
    "receptive_field": "receptive_field:ReceptiveField",
    "hessian": "hessian:HessianSpectrum",
    "landscape": "landscape:Landscape",
}
DEFAULT = ("cka", "fourier", "variance", "attention_distance", "predictions")


def choose_analyses(texts: Sequence[str]) -> list[str]:
    """Names with ``default`` and ``all`` written out, each once, in order.

    ``all`` is every analysis of the package; those that mean nothing for a checkpoint are absent from its profile, with reason.
    """
    sets = {"default": DEFAULT, "all": tuple(ANALYSES)}
    return list(dict.fromkeys(name for text in texts for name in sets.get(text, (text,))))


def make_analysis(text: str, *, paper_mode: bool = False) -> Analysis:
    """An analysis from its name and options, such as ``cka:pool=mean:kernel=rbf`` or ``my_file.py:energy``.

    Args:
        text: name, then ``:option=value`` as often as needed. A name may also be a file and what it defines there, which runs
            that file.
        paper_mode: also measure by the published code's definition, where the analysis has one.

    Raises:
        StudyError: unknown name, file, option or value.
    """
    name, *options = text.split(":")
    outside = name if name.endswith(".py") else None
    if outside:
        if not options:
            raise StudyError(f"{name} names a file alone; write {name}:NAME, with the name of the analysis in it")
        name, factory, options = options[0], _outside(name, options[0]), options[1:]
    elif name in ANALYSES:
        factory = factory_of(name)
    else:
        raise StudyError(f"no analysis is called {name!r}; there are: {', '.join(ANALYSES)}")
    chosen = dict(_option(option, factory, name) for option in options)
    if paper_mode and "paper_mode" in inspect.signature(factory).parameters:
        chosen["paper_mode"] = True
    made = factory(**chosen)
    if not isinstance(made, Analysis):
        raise StudyError(
            f"{name} makes a {type(made).__name__}, expected an analysis: a function under @per_block, or an Analysis"
        )
    if outside:  # as an option, so that a measurement is not resumed with an edited file
        vars(made)["file_sha256"] = hashlib.sha256(Path(outside).read_bytes()).hexdigest()
    return made


def factory_of(name: str) -> Callable[..., Analysis]:
    """What makes an analysis of the package."""
    module, _, attribute = ANALYSES[name].partition(":")
    return getattr(importlib.import_module(f".{module}", __name__), attribute)


def _outside(path: str, name: str) -> Callable[..., Analysis]:
    """An analysis from a file of one's own."""
    if name in ANALYSES:
        raise StudyError(f"{path}:{name} has the name of an analysis of the package; call it something else")
    if not Path(path).is_file():
        raise StudyError(f"no file at {path}; expected a Python file that defines {name}")
    namespace = runpy.run_path(path)
    factory = namespace.get(name)
    if factory is None:
        known = [key for key, value in namespace.items() if not key.startswith("_") and callable(value)]
        raise StudyError(f"{path} defines no {name}; it defines: {', '.join(known) or 'nothing'}")
    if not callable(factory):
        raise StudyError(f"{path}:{name} is a {type(factory).__name__}, expected an analysis")
    return factory


def _option(text: str, factory: Any, name: str) -> tuple[str, Any]:
    key, _, value = text.partition("=")
    parameters = inspect.signature(factory).parameters
    if key not in parameters:
        known = ", ".join(parameters) or "none"
        raise StudyError(f"{name} has no option {key!r}; it has: {known}")
    types = _types(parameters[key])
    if "None" in types and value.lower() == "none":
        return key, None
    for kind, (read, expected) in READERS.items():
        if kind in types:
            try:
                return key, read(value)
            except ValueError:
                or_none = " or none" if "None" in types else ""
                raise StudyError(f"{name}:{key} must be {expected}{or_none}, got {value!r}") from None
    return key, value


def _types(parameter: inspect.Parameter) -> set[str]:
    """Names of the types that an option takes, by its annotation and its default."""
    annotation, default = parameter.annotation, parameter.default
    written = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    found = set() if annotation is parameter.empty else set(written.replace(" ", "").split("|"))
    if default is not parameter.empty:
        found.add("None" if default is None else type(default).__name__)
    return found


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError
    return text.lower() == "true"


def _whole(text: str) -> int:
    if not text.isdecimal():  # int() also reads 1_000 and signs
        raise ValueError
    return int(text)


def _number(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError
    return float(text)


READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "bool": (_truth, "true or false"),
    "int": (_whole, "a whole number"),
    "float": (_number, "a number"),
}

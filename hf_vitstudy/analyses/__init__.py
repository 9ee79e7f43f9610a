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

import importlib
import inspect
from typing import Any

from ..errors import StudyError
from .contract import Analysis, Batch, NotApplicableError, Part, PerBlock, joined, per_block


__all__ = [
    "ANALYSES",
    "DEFAULT",
    "Analysis",
    "Batch",
    "NotApplicableError",
    "Part",
    "PerBlock",
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


def make_analysis(text: str, *, paper_mode: bool = False) -> Analysis:
    """An analysis from its name and options, such as ``cka:pool=mean:kernel=rbf``.

    Args:
        text: name, then ``:option=value`` as often as needed.
        paper_mode: also measure by the published code's definition, where the analysis has one.

    Raises:
        StudyError: unknown name, option or value.
    """
    name, *options = text.split(":")
    if name not in ANALYSES:
        raise StudyError(f"no analysis is called {name!r}; there are: {', '.join(ANALYSES)}")
    module, _, attribute = ANALYSES[name].partition(":")
    factory = getattr(importlib.import_module(f".{module}", __name__), attribute)
    chosen = dict(_option(option, factory, name) for option in options)
    if paper_mode and "paper_mode" in inspect.signature(factory).parameters:
        chosen["paper_mode"] = True
    return factory(**chosen)


def _option(text: str, factory: Any, name: str) -> tuple[str, Any]:
    key, _, value = text.partition("=")
    parameters = inspect.signature(factory).parameters
    if key not in parameters:
        known = ", ".join(parameters) or "none"
        raise StudyError(f"{name} has no option {key!r}; it has: {known}")
    default = parameters[key].default
    if isinstance(default, bool):
        if value.lower() not in ("true", "false"):
            raise StudyError(f"{name}:{key} must be true or false, got {value!r}")
        return key, value.lower() == "true"
    if isinstance(default, int):
        if not value.isdigit():
            raise StudyError(f"{name}:{key} must be a whole number, got {value!r}")
        return key, int(value)
    if isinstance(default, float):
        try:
            return key, float(value)
        except ValueError:
            raise StudyError(f"{name}:{key} must be a number, got {value!r}") from None
    return key, value

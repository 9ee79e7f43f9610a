"""Networks of the papers that transformers does not have, made known to its Auto classes."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel

from .configuration_alternet import AlterNetConfig
from .configuration_local_vit import LocalViTConfig
from .modeling_alternet import AlterNetForImageClassification, AlterNetModel
from .modeling_local_vit import LocalViTForImageClassification, LocalViTModel


FAMILIES: dict[str, tuple[type[PreTrainedConfig], type[PreTrainedModel], type[PreTrainedModel]]] = {
    "alternet": (AlterNetConfig, AlterNetModel, AlterNetForImageClassification),
    "local_vit": (LocalViTConfig, LocalViTModel, LocalViTForImageClassification),
}
"""Configuration, network and classifier by `model_type`."""


def register() -> None:
    """`AutoConfig`, `AutoModel` and `AutoModelForImageClassification` know `FAMILIES` from here on; a second call does nothing.

    Saved checkpoints carry the code of their network, for those who have transformers but not this package and choose to trust
    it. Here a known ``model_type`` always means our own class, whatever code lies beside the weights.
    """
    for model_type, (config, network, classifier) in FAMILIES.items():
        AutoConfig.register(model_type, config, exist_ok=True)
        AutoModel.register(config, network, exist_ok=True)
        AutoModelForImageClassification.register(config, classifier, exist_ok=True)
        config.register_for_auto_class()
        network.register_for_auto_class("AutoModel")
        classifier.register_for_auto_class("AutoModelForImageClassification")

"""Families of transformers that need no configuration: saved, loaded as a checkpoint, and read at the right places."""

import pytest
import torch
import transformers
from conftest import save_checkpoint

from hf_vitstudy.blocks import hooked
from hf_vitstudy.checkpoints import load_checkpoint


PLAIN = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 64,
    "patch_size": 8,
}
PYRAMID = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2]}
SUBLAYERS = ["attention", "mlp"]
# model class, configuration class, its arguments, kinds after the first place, prefix tokens
FAMILIES = {
    "deit": ("DeiTForImageClassification", "DeiTConfig", PLAIN, SUBLAYERS * 2, {2}),
    "data2vec": ("Data2VecVisionForImageClassification", "Data2VecVisionConfig", PLAIN, SUBLAYERS * 2, {1}),
    "i-jepa": ("IJepaForImageClassification", "IJepaConfig", PLAIN, SUBLAYERS * 2, {0}),
    "segformer": ("SegformerForImageClassification", "SegformerConfig", PYRAMID, SUBLAYERS * 4, {0}),
    "pvt v2": ("PvtV2ForImageClassification", "PvtV2Config", {"image_size": 64, **PYRAMID}, SUBLAYERS * 4, {0}),
    "convnext v2": (
        "ConvNextV2ForImageClassification",
        "ConvNextV2Config",
        {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 2, 1, 1]},
        ["conv"] * 5,
        {0},
    ),
    "bit": (
        "BitForImageClassification",
        "BitConfig",
        {"embedding_size": 8, "hidden_sizes": [32, 64], "depths": [2, 2], "num_groups": 4},
        ["conv"] * 4,
        {0},
    ),
    "mobilenet v2": (
        "MobileNetV2ForImageClassification",
        "MobileNetV2Config",
        {"depth_multiplier": 0.35, "image_size": 64},
        ["conv"] * 16,
        {0},
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_checkpoint_is_read_without_configuration(family, tmp_path):
    model, config, arguments, kinds, prefix_counts = FAMILIES[family]
    torch.manual_seed(0)
    network = getattr(transformers, model)(getattr(transformers, config)(**arguments, num_labels=4)).eval()
    checkpoint = load_checkpoint(str(save_checkpoint(network, tmp_path, size=64)), device="cpu")
    assert [block.kind for block in checkpoint.blocks[1:]] == kinds
    assert {block.prefix_count for block in checkpoint.blocks} == prefix_counts
    assert checkpoint.provenance["classes"] == [f"LABEL_{index}" for index in range(4)]


@pytest.mark.parametrize("family", ["deit", "data2vec", "i-jepa"])
def test_states_after_the_mlps_are_the_hidden_states_of_transformers(family, tmp_path):
    model, config, arguments, _, _ = FAMILIES[family]
    torch.manual_seed(0)
    network = getattr(transformers, model)(getattr(transformers, config)(**arguments)).eval()
    checkpoint = load_checkpoint(str(save_checkpoint(network, tmp_path, size=64)), device="cpu")
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    kept = []
    ends = [block for block in checkpoint.blocks if block.kind != "attention"]
    with hooked(checkpoint.network, ends, lambda _, raw: kept.append(raw.clone())), torch.no_grad():
        hidden = checkpoint.network(pixels, output_hidden_states=True).hidden_states
    assert len(kept) == len(hidden) == 3
    for state, expected in zip(kept, hidden, strict=True):
        torch.testing.assert_close(state, expected)

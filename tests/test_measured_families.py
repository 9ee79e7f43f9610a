"""Every family named in the README is measured without configuration, from a folder as users have it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import save_checkpoint, small_vit
from test_alternet import small_alternet

from hf_vitstudy import load_checkpoint, measure


PLAIN = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 64,
    "patch_size": 8,
}
FOUR = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 2, 1, 1]}
PYRAMID = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2]}
WINDOWS = {"image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
TEXT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 99}
SUBLAYERS = ["attention", "mlp"]


def of(name: str, **arguments) -> Callable[[Path], Path]:
    """Saves a classifier of transformers, or its base where there is none."""

    def save(folder: Path) -> Path:
        config = getattr(transformers, f"{name}Config")(**arguments, num_labels=10)
        known = transformers.models.auto.modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
        auto = transformers.AutoModelForImageClassification if type(config) in known else transformers.AutoModel
        if name == "DeiT":  # has two classifiers, of which this one is told by name
            config.architectures = ["DeiTForImageClassification"]
        return save_checkpoint(auto.from_config(config).eval(), folder, size=64)

    return save


def towers(name: str, model: str) -> Callable[[Path], Path]:
    """Saves a model of images and texts."""

    def save(folder: Path) -> Path:
        config = getattr(transformers, f"{name}Config")(vision_config=PLAIN, text_config=TEXT)
        return save_checkpoint(getattr(transformers, model)(config).eval(), folder, size=64)

    return save


def tower(name: str, model: str) -> Callable[[Path], Path]:
    """Saves the image half of such a model."""

    def save(folder: Path) -> Path:
        config = getattr(transformers, f"{name}Config")(**PLAIN)
        return save_checkpoint(getattr(transformers, model)(config).eval(), folder, size=64)

    return save


def timm(architecture: str, **arguments) -> Callable[[Path], Path]:
    """Saves an untrained network of timm in the wrapper of transformers, whose processor lies in its config."""

    def save(folder: Path) -> Path:
        about = {"input_size": [3, 64, 64], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "num_classes": 10}
        about |= {"interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center"}
        config = transformers.TimmWrapperConfig(
            architecture=architecture, num_labels=10, model_args=arguments, pretrained_cfg=about
        )
        transformers.TimmWrapperForImageClassification(config).eval().save_pretrained(folder)
        return folder

    return save


SMALL = {"img_size": 64, "depth": 2, "embed_dim": 48, "num_heads": 3}
# how to save it; kinds after the first place; prefix tokens; whether it returns attention weights
FAMILIES: dict[str, tuple[Callable[[Path], Path], list[str], set[int], bool]] = {
    "vit": (lambda folder: save_checkpoint(small_vit(), folder), SUBLAYERS * 3, {1}, True),
    "deit": (of("DeiT", **PLAIN), SUBLAYERS * 2, {2}, True),
    "beit": (of("Beit", **PLAIN), SUBLAYERS * 2, {1}, True),
    "dinov2": (of("Dinov2", **PLAIN), SUBLAYERS * 2, {1}, True),
    "dinov2 with registers": (of("Dinov2WithRegisters", **PLAIN), SUBLAYERS * 2, {5}, True),
    "dinov3": (of("DINOv3ViT", **PLAIN, num_register_tokens=4), SUBLAYERS * 2, {5}, True),
    "dinov3 convnext": (of("DINOv3ConvNext", **FOUR), ["conv"] * 5, {0}, False),
    "clip": (towers("CLIP", "CLIPModel"), SUBLAYERS * 2, {1}, True),
    "clip classifier": (towers("CLIP", "CLIPForImageClassification"), SUBLAYERS * 2, {1}, True),
    "clip with its projection": (tower("CLIPVision", "CLIPVisionModelWithProjection"), SUBLAYERS * 2, {1}, True),
    "siglip": (towers("Siglip", "SiglipModel"), SUBLAYERS * 2, {0}, True),
    "siglip classifier": (towers("Siglip", "SiglipForImageClassification"), SUBLAYERS * 2, {0}, True),
    "data2vec": (of("Data2VecVision", **PLAIN), SUBLAYERS * 2, {1}, True),
    "i-jepa": (of("IJepa", **PLAIN), SUBLAYERS * 2, {0}, True),
    "swin": (of("Swin", **WINDOWS), SUBLAYERS * 4, {0}, False),
    "swin v2": (of("Swinv2", **WINDOWS), SUBLAYERS * 4, {0}, False),
    "pvt": (of("Pvt", image_size=64, **PYRAMID), SUBLAYERS * 4, {0, 1}, False),
    "pvt v2": (of("PvtV2", image_size=64, **PYRAMID), SUBLAYERS * 4, {0}, False),
    "segformer": (of("Segformer", **PYRAMID), SUBLAYERS * 4, {0}, False),
    "convnext": (of("ConvNext", **FOUR), ["conv"] * 5, {0}, False),
    "convnext v2": (of("ConvNextV2", **FOUR), ["conv"] * 5, {0}, False),
    "resnet": (of("ResNet", embedding_size=8, hidden_sizes=[32, 64], depths=[2, 3]), ["conv"] * 5, {0}, False),
    "regnet": (
        of("RegNet", embedding_size=8, hidden_sizes=[16, 32], depths=[2, 2], groups_width=8),
        ["conv"] * 4,
        {0},
        False,
    ),
    "bit": (of("Bit", embedding_size=8, hidden_sizes=[32, 64], depths=[2, 2], num_groups=4), ["conv"] * 4, {0}, False),
    "efficientnet": (
        of("EfficientNet", image_size=64, width_coefficient=0.25, depth_coefficient=1.0, hidden_dim=320),
        ["conv"] * 16,
        {0},
        False,
    ),
    "mobilenet v1": (of("MobileNetV1", depth_multiplier=0.25, image_size=64), ["conv"] * 26, {0}, False),
    "mobilenet v2": (of("MobileNetV2", depth_multiplier=0.35, image_size=64), ["conv"] * 16, {0}, False),
    "poolformer": (of("PoolFormer", **FOUR), ["conv"] * 5, {0}, False),
    "focalnet": (of("FocalNet", image_size=64, embed_dim=16, depths=[1, 1, 2, 1]), ["conv"] * 5, {0}, False),
    "alternet": (lambda folder: save_checkpoint(small_alternet(), folder), [], {0}, True),
    "timm vit": (timm("vit_tiny_patch16_224", **SMALL), SUBLAYERS * 2, {1}, False),
    "timm deit iii, layer scale": (timm("deit3_small_patch16_224", **SMALL), SUBLAYERS * 2, {1}, False),
    "timm resnet": (timm("resnet18"), ["conv"] * 8, {0}, False),
    "timm mlp-mixer": (timm("mixer_s32_224", img_size=64), ["block"] * 8, {0}, False),
    "timm pit": (
        timm("pit_ti_224", img_size=64, base_dims=(16, 16, 16), depth=(1, 2, 1), heads=(1, 2, 2)),
        SUBLAYERS * 4,
        {1},
        False,
    ),
    "timm maxvit": (timm("maxvit_rmlp_pico_rw_256", img_size=64), ["block"] * 11, {0}, False),
    "timm hybrid of resnet and vit": (timm("vit_tiny_r_s16_p8_224", img_size=64, depth=2), SUBLAYERS * 2, {1}, False),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_measured_without_configuration(family, image_folder, tmp_path):
    save, kinds, prefix_counts, attends = FAMILIES[family]
    torch.manual_seed(0)
    folder = save(tmp_path)
    profile = measure(folder, image_folder, n=8, batch_size=8, workers=0, progress=False)
    assert kinds in ([], profile.data["kind"].values[1:].tolist())
    assert set(profile.data["prefix"].values.tolist()) == prefix_counts
    assert np.all(np.diff(profile.data["depth"]) > 0)
    absent = profile.provenance["absent"]
    measured = {"cka": "gram_flatten", "fourier": "fourier", "variance": "variance", "predictions": "top5"}
    for analysis, name in measured.items():
        if analysis in absent:
            assert (analysis, absent[analysis]) == ("predictions", "this checkpoint has no classifier")
        else:
            assert np.isfinite(profile[name].values.astype(float)).any(), name
    attention = [name for name in profile.data if "attention_distance" in str(name)]
    assert bool(attention) == attends
    assert attends or absent["attention_distance"]


def test_the_wrapper_of_timm_is_prepared_and_normalised_as_timm_does(tmp_path):
    """Our bytes, normalised inside the checkpoint, are the pixel values of the wrapper's own processor."""
    folder = timm("vit_tiny_patch16_224", **SMALL)(tmp_path)
    checkpoint = load_checkpoint(folder)
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    ours = checkpoint.normalise(torch.from_numpy(checkpoint.prepare(image)).float()[None] / 255)
    theirs = transformers.AutoImageProcessor.from_pretrained(folder)(image)["pixel_values"]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_layouts_that_would_be_misread_are_refused(tmp_path):
    from hf_vitstudy import StudyError

    arguments = {"img_size": 64, "depths": (1, 1, 1, 1), "embed_dim": 24, "window_size": 2}
    folder = timm("swin_tiny_patch4_window7_224", **arguments)(tmp_path)
    with pytest.raises(StudyError, match="channels last"):
        load_checkpoint(folder)

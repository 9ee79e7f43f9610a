"""Checkpoints load with their own geometry and normalisation, from safetensors only."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import save_checkpoint, small_resnet, small_vit, smooth_images

from hf_vitstudy import StudyError, load_checkpoint
from hf_vitstudy.checkpoints import module_paths, normalisation, prepare, short_name, weights_sha256


def test_logits_equal_transformers_own_path(vit_folder):
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    pictures = smooth_images(4)
    processor = AutoImageProcessor.from_pretrained(vit_folder, backend="pil")
    network = AutoModelForImageClassification.from_pretrained(vit_folder).eval()
    with torch.no_grad():
        expected = network(**processor(pictures, return_tensors="pt")).logits
    checkpoint = load_checkpoint(vit_folder)
    images = torch.stack([torch.from_numpy(checkpoint.prepare(picture)) for picture in pictures]).float() / 255
    logits, states = checkpoint.read(images)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert list(states) == [block.name for block in checkpoint.blocks]


PROCESSORS = {
    "vit": (
        "ViTImageProcessor",
        {"size": {"height": 24, "width": 24}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]},
    ),
    "convnext, as resnets have": ("ConvNextImageProcessor", {"size": {"shortest_edge": 24}, "crop_pct": 0.875}),
    "without normalisation": ("ViTImageProcessor", {"size": {"height": 24, "width": 24}, "do_normalize": False}),
    "with another scale": ("ViTImageProcessor", {"size": {"height": 24, "width": 24}, "rescale_factor": 1 / 127.5}),
}


@pytest.mark.parametrize("case", PROCESSORS)
def test_geometry_then_normalisation_is_the_whole_processor(case, tmp_path):
    import transformers

    name, arguments = PROCESSORS[case]
    getattr(transformers, name)(**arguments).save_pretrained(tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    picture = smooth_images(1, size=50)[0]
    expected = np.asarray(processor(picture, return_tensors="np")["pixel_values"][0])
    scale, mean, std = normalisation(processor)
    pixels = prepare(processor, picture)
    assert pixels.dtype == np.uint8
    ours = (pixels / 255 * scale - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]
    np.testing.assert_allclose(ours, expected, atol=2e-6)


def test_images_must_be_rgb_batches(vit_folder):
    checkpoint = load_checkpoint(vit_folder)
    with pytest.raises(
        StudyError, match=r"images must be \(batch, 3, height, width\) in \[0, 1\], got \(2, 1, 32, 32\)"
    ):
        checkpoint.read(torch.zeros(2, 1, 32, 32))


def test_states_are_shown_while_they_are_there(resnet_folder):
    checkpoint = load_checkpoint(resnet_folder)
    images = torch.rand(4, 3, 32, 32)
    seen = {}
    logits, kept = checkpoint.read(images, lambda block, state: seen.__setitem__(block.name, float(state.raw.sum())))
    assert kept == {}
    copies = checkpoint.read(images)[1]
    assert seen == {name: float(state.raw.sum()) for name, state in copies.items()}
    assert logits.shape == (4, 10)


def test_attention_weights_are_those_of_transformers(vit_folder):
    checkpoint = load_checkpoint(vit_folder)
    images = torch.rand(2, 3, 32, 32)
    seen = []
    checkpoint.read(images, lambda block, state: None, lambda layer, weights: seen.append(weights.clone()))
    with torch.no_grad():
        expected = checkpoint.network(checkpoint.normalise(images), output_attentions=True).attentions
    assert len(seen) == 3
    for ours, theirs in zip(seen, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_provenance_names_no_folder_and_knows_its_weights(vit_folder, resnet_folder):
    first, other = load_checkpoint(vit_folder), load_checkpoint(resnet_folder)
    text = json.dumps(first.provenance)
    assert first.name == "small-vit"
    assert str(vit_folder.parent) not in text
    assert first.provenance["weights_sha256"] != other.provenance["weights_sha256"]
    assert first.provenance["attention"] == "eager"
    assert load_checkpoint(vit_folder, need_attention=False).provenance["attention"] == "sdpa"
    assert first.provenance["parameters"] == sum(p.numel() for p in small_vit().parameters())


def test_the_hash_of_the_weights_sees_one_bit():
    network = small_vit()
    before = weights_sha256(network)
    with torch.no_grad():
        network.classifier.bias[3] += 1e-7
    assert weights_sha256(network) != before
    assert weights_sha256(small_vit()) == before


def test_a_checkpoint_without_classifier_has_no_logits(tmp_path):
    save_checkpoint(small_resnet().resnet, tmp_path / "headless")
    checkpoint = load_checkpoint(tmp_path / "headless")
    assert checkpoint.provenance["classes"] is None
    assert checkpoint.read(torch.rand(2, 3, 32, 32))[0] is None
    assert len(checkpoint.blocks) == 7


@pytest.mark.parametrize(("size", "expected"), [(32, "contiguous"), (224, "channels_last")])
def test_convolutional_networks_use_channels_last_where_it_helps(size, expected, tmp_path):
    checkpoint = load_checkpoint(save_checkpoint(small_resnet(), tmp_path / "r", size=size))
    assert checkpoint.provenance["memory_format"] == expected
    forced = load_checkpoint(tmp_path / "r", channels_last=False)
    images = torch.rand(2, 3, size, size)
    torch.testing.assert_close(checkpoint.read(images)[0], forced.read(images)[0], atol=1e-4, rtol=1e-4)


def test_half_precision_stays_near_full(vit_folder):
    images = torch.rand(4, 3, 32, 32)
    full, half = (load_checkpoint(vit_folder, dtype=dtype).read(images)[0] for dtype in ("float32", "bfloat16"))
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), full, atol=0.05, rtol=0.05)


def copied(folder, tmp_path):
    target = tmp_path / "copy"
    shutil.copytree(folder, target)
    return target


def test_a_folder_without_weights_config_or_processor_says_what_is_missing(vit_folder, tmp_path):
    folder = copied(vit_folder, tmp_path)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(StudyError, match=r"no readable preprocessor_config.json"):
        load_checkpoint(folder)
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(StudyError, match=r"no .safetensors file .* pickled weights can run code"):
        load_checkpoint(folder)
    (folder / "config.json").unlink()
    with pytest.raises(StudyError, match=r"has no config.json"):
        load_checkpoint(folder)


def test_weights_that_do_not_fit_are_refused(vit_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = copied(vit_folder, tmp_path)
    weights = load_file(folder / "model.safetensors")
    key = next(key for key in weights if "layer.0" in key)
    save_file({k: v for k, v in weights.items() if k != key}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(StudyError, match="lacks weights, such as"):
        load_checkpoint(folder)
    save_file(weights | {"surprise": torch.zeros(2)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(StudyError, match=r"no place for \(surprise\)"):
        load_checkpoint(folder)


def test_a_cut_off_weights_file_is_one_line(vit_folder, tmp_path):
    folder = copied(vit_folder, tmp_path)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])
    with pytest.raises(StudyError, match=r"cannot load .*copy") as error:
        load_checkpoint(folder)
    assert "\n" not in str(error.value)


def test_custom_code_is_never_run(vit_folder, tmp_path):
    folder = copied(vit_folder, tmp_path)
    marker = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "evil.Config", "AutoModelForImageClassification": "evil.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(StudyError, match="needs code from its repository, which is never run"):
        load_checkpoint(folder)
    assert not marker.exists()


def test_a_processor_of_the_wrong_size_is_named(tmp_path):
    folder = save_checkpoint(small_vit(), tmp_path / "v", size=48)
    with pytest.raises(StudyError, match="its processor makes 48 x 48 images and the network refuses them"):
        load_checkpoint(folder)


BAD = {
    "no such folder": ({"source": "./nowhere/at/all"}, "no checkpoint at"),
    "no such id": ({"source": "nobody/nothing"}, "cannot load nobody/nothing"),
    "dtype": ({"dtype": "int8"}, "dtype must be one of float32"),
    "device": ({"device": "cuda:99"}, "device 'cuda:99' is not there"),
    "attention": ({"attn": "magic"}, "cannot load"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_one_line(case, vit_folder):
    arguments, message = BAD[case]
    with pytest.raises(StudyError, match=message) as error:
        load_checkpoint(**({"source": vit_folder} | arguments))
    assert "\n" not in str(error.value)


def test_module_paths_and_names(vit_folder):
    paths = module_paths(vit_folder)
    assert "vit.layers.0" in paths
    assert short_name("org/name@v1") == "name"
    assert short_name(vit_folder) == "small-vit"

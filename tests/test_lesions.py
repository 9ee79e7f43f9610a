"""Answers without one part: by surgery on copies, with everything put back to the bit."""

import copy

import numpy as np
import pytest
import torch
from conftest import save_checkpoint, small_resnet
from torch import nn

from hf_vitstudy import load_checkpoint, load_images, load_profile, measure
from hf_vitstudy.analyses import Batch, NotApplicableError, make_analysis


QUICK = {"workers": 0, "progress": False, "batch_size": 8}


def pixels_and_labels(checkpoint, folder, n: int):
    found = load_images(folder, n=n)
    pixels = torch.stack([torch.from_numpy(checkpoint.prepare(found[i][0])) for i in range(n)]).float() / 255
    return pixels, torch.tensor([found[i][1] for i in range(n)])


def answers(network, checkpoint, pixels, labels):
    """(correct, nll) of each image in float64, from the definition."""
    with torch.no_grad():
        logits = network(checkpoint.normalise(pixels)).logits.double().numpy()
    shifted = logits - logits.max(1, keepdims=True)
    log_probability = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    chosen = labels.numpy()
    return logits.argmax(1) == chosen, -log_probability[np.arange(len(chosen)), chosen]


def zeroed(network, path: str):
    other = copy.deepcopy(network)
    for parameter in other.get_submodule(path).parameters():
        parameter.data.zero_()
    return other


def without_module(network, path: str, instead: nn.Module):
    other = copy.deepcopy(network)
    parent, _, name = path.rpartition(".")
    setattr(other.get_submodule(parent), name, instead)
    return other


@pytest.fixture(scope="module")
def wide_resnet_folder(tmp_path_factory):
    """Convolutions that keep their channels, at stride 1 and 2."""
    return save_checkpoint(small_resnet(hidden_sizes=[8, 8, 16]), tmp_path_factory.mktemp("lesions") / "wide")


def test_lesions_of_a_vit_are_those_of_zeroed_weights(vit_folder, image_folder):
    checkpoint = load_checkpoint(vit_folder, device="cpu")
    data = measure(checkpoint, image_folder, n=12, analyses=["lesions"], **QUICK).data
    assert data.lesion_correct.dims == ("lesion_image", "lesion")
    assert list(data.lesion.values) == [f"block{i:02d}.{k}" for i in range(3) for k in ("attention", "mlp")]
    pixels, labels = pixels_and_labels(checkpoint, image_folder, 12)
    correct, nll = answers(checkpoint.network, checkpoint, pixels, labels)
    np.testing.assert_array_equal(data.lesion_intact_correct.values, correct)
    np.testing.assert_allclose(data.lesion_intact_nll.values, nll, rtol=1e-5)
    for index in range(3):
        for kind, path in (("attention", "attention.o_proj"), ("mlp", "mlp.fc2")):
            other = zeroed(checkpoint.network, f"vit.layers.{index}.{path}")
            correct, nll = answers(other, checkpoint, pixels, labels)
            column = data.sel(lesion=f"block{index:02d}.{kind}")
            np.testing.assert_array_equal(column.lesion_correct.values, correct)
            np.testing.assert_allclose(column.lesion_nll.values, nll, rtol=1e-5)


def test_lesions_of_a_resnet_are_blocks_and_single_convolutions(wide_resnet_folder, image_folder):
    checkpoint = load_checkpoint(wide_resnet_folder, device="cpu")
    data = measure(checkpoint, image_folder, n=8, analyses=["lesions"], **QUICK).data
    pixels, labels = pixels_and_labels(checkpoint, image_folder, 8)
    stages = "resnet.encoder.stages"
    expected = {
        "block00": zeroed(checkpoint.network, f"{stages}.0.layers.0.layer.1.normalization"),
        "block02": zeroed(checkpoint.network, f"{stages}.1.layers.0.layer.1.normalization"),
        "block00.conv2": without_module(checkpoint.network, f"{stages}.0.layers.0.layer.1.convolution", nn.Identity()),
        "block02.conv1": without_module(
            checkpoint.network, f"{stages}.1.layers.0.layer.0.convolution", nn.AvgPool2d(2)
        ),
    }
    for name, other in expected.items():
        correct, nll = answers(other, checkpoint, pixels, labels)
        np.testing.assert_array_equal(data.lesion_correct.sel(lesion=name).values, correct)
        np.testing.assert_allclose(data.lesion_nll.sel(lesion=name).values, nll, rtol=1e-4)
    assert data.lesion_nll.attrs["not_applicable"] == ["block04.conv1 (8 to 16 channels)"]
    assert data.sizes["lesion"] == 6 + 11
    kinds = dict(zip(data.lesion.values, data.lesion_kind.values, strict=True))
    assert kinds["block02"] == "conv"
    assert kinds["block02.conv1"] == "convolution"
    one = data.sel(lesion="block03.conv2")
    assert [float(one[f"lesion_{name}"]) for name in ("stage", "position", "projected")] == [2, 1, 0]
    assert float(data.lesion_projected.sel(lesion="block02")) == 1


def test_a_removed_skip_leaves_the_branch(resnet_folder, image_folder):
    class Nothing(nn.Module):
        def forward(self, tensor):
            return torch.zeros(())

    checkpoint = load_checkpoint(resnet_folder, device="cpu")
    data = measure(checkpoint, image_folder, n=8, analyses=["skip_removal"], **QUICK).data
    pixels, labels = pixels_and_labels(checkpoint, image_folder, 8)
    for name, path in {"block01": "0.layers.1", "block02": "1.layers.0"}.items():
        other = without_module(checkpoint.network, f"resnet.encoder.stages.{path}.shortcut", Nothing())
        _, nll = answers(other, checkpoint, pixels, labels)
        np.testing.assert_allclose(data.skip_removal_nll.sel(skip_removal=name).values, nll, rtol=1e-4)
    assert "without retraining: a weaker test" in data.skip_removal_nll.attrs["source"]


@pytest.mark.parametrize("name", ["lesions", "skip_removal", "skip_ratio"])
def test_the_network_is_put_back_to_the_bit(name, wide_resnet_folder, image_folder):
    checkpoint = load_checkpoint(wide_resnet_folder, device="cpu")
    network = checkpoint.network
    before = {key: value.clone() for key, value in network.state_dict().items()}
    flags = {key: parameter.requires_grad for key, parameter in network.named_parameters()}
    measure(checkpoint, image_folder, n=8, analyses=[name], **QUICK)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert before.keys() == network.state_dict().keys()
    assert flags == {key: parameter.requires_grad for key, parameter in network.named_parameters()}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize("name", ["lesions", "skip_removal"])
def test_batches_and_limits_do_not_change_an_image_s_answer(name, resnet_folder, image_folder, tmp_path):
    options = {"workers": 0, "progress": False, "n": 12}
    prefix = "lesion" if name == "lesions" else name
    few = measure(
        resnet_folder, image_folder, analyses=[f"{name}:images=6"], batch_size=4, **options, out=tmp_path / "p"
    )
    everything = measure(resnet_folder, image_folder, analyses=[f"{name}:images=0"], batch_size=12, **options)
    assert few.data[f"{prefix}_nll"].dims == (f"{prefix}_image", prefix)
    assert few.data.sizes[f"{prefix}_image"] == 6
    assert everything.data[f"{prefix}_nll"].dims == ("image", prefix)
    np.testing.assert_allclose(few.data[f"{prefix}_nll"], everything.data[f"{prefix}_nll"][:6], rtol=1e-4)
    again = load_profile(tmp_path / "p").data
    assert list(again[prefix].values) == list(few.data[prefix].values)
    assert list(again[f"{prefix}_kind"].values) == list(few.data[f"{prefix}_kind"].values)


def fake(classes, branches):
    return type("Fake", (), {"provenance": {"classes": classes}, "branches": branches, "network": None})()


@pytest.mark.parametrize(("classes", "message"), [(None, "no classifier"), (["a"], "no skip connections, so no part")])
def test_networks_without_classes_or_skips_are_told(classes, message):
    with pytest.raises(NotApplicableError, match=message):
        make_analysis("lesions").start(fake(classes, []), 4, 4)


def test_images_without_labels_are_told(resnet_folder):
    checkpoint = load_checkpoint(resnet_folder, device="cpu")
    analysis = make_analysis("lesions")
    analysis.start(checkpoint, 4, 4)
    unknown = torch.full((4,), -1)
    batch = Batch(torch.rand(4, 3, 32, 32), torch.rand(4, 10), unknown, unknown)
    part = analysis.update(batch)
    with pytest.raises(NotApplicableError, match="no image has a label"):
        analysis.result([part])
    assert make_analysis("lesions:images=2").update(Batch(batch.images, None, unknown, unknown, first=2)) == {}

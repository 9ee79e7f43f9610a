"""Both arms of every skip connection: found in many families, read at the right point, taken away and put back."""

import copy

import numpy as np
import pytest
import torch
from conftest import small_resnet, small_vit
from test_blocks import FAMILIES, images
from torch import nn

from hf_vitstudy import StudyError, load_checkpoint, load_images, measure
from hf_vitstudy.analyses import NotApplicableError, make_analysis
from hf_vitstudy.analyses.skip_ratio import cosine, norm_ratio
from hf_vitstudy.blocks import find_blocks, first_tensor
from hf_vitstudy.branches import (
    branches_hooked,
    find_branches,
    spatial_convolutions,
    without_branch,
    without_convolution,
    without_skip,
)


class Mixer(nn.Module):
    """A block of MLP-Mixer: one MLP over places, one over channels."""

    def __init__(self, places: int = 16, channels: int = 12):
        super().__init__()
        self.first, self.second = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.over_places = nn.Sequential(nn.Linear(places, 20), nn.GELU(), nn.Linear(20, places))
        self.over_channels = nn.Sequential(nn.Linear(channels, 20), nn.GELU(), nn.Linear(20, channels))
        self.drop = nn.Identity()

    def forward(self, tokens):
        tokens = tokens + self.drop(self.over_places(self.first(tokens).transpose(1, 2)).transpose(1, 2))
        return tokens + self.over_channels(self.second(tokens))


class SideBySide(nn.Module):
    """Two branches added at once, so that no module holds what is added."""

    def __init__(self, channels: int = 12):
        super().__init__()
        self.one, self.two = nn.Linear(channels, channels), nn.Linear(channels, channels)

    def forward(self, tokens):
        return tokens + self.one(tokens) + self.two(tokens).tanh()


class Plain(nn.Module):
    """No skip connection, although the shape stays the same."""

    def __init__(self, channels: int = 12):
        super().__init__()
        self.one = nn.Linear(channels, channels)

    def forward(self, tokens):
        return self.one(tokens).tanh()


class Rectified(nn.Module):
    """A ResNet's block that rectifies by a function, so that no module ever sees the sum."""

    def __init__(self, channels: int = 12):
        super().__init__()
        self.one = nn.Linear(channels, channels)

    def forward(self, tokens):
        return (tokens + self.one(tokens)).relu()


class Patches(nn.Module):
    def __init__(self, *blocks: nn.Module):
        super().__init__()
        self.patches, self.blocks = nn.Conv2d(3, 12, 8, 8), nn.Sequential(*blocks)

    def forward(self, pixel_values):
        return self.blocks(self.patches(pixel_values).flatten(2).transpose(1, 2))


def alternet():
    from test_alternet import SMALL

    from hf_vitstudy.modeling_alternet import AlterNetConfig, AlterNetForImageClassification

    return AlterNetForImageClassification(AlterNetConfig(**SMALL))


def network_of(family: str):
    """(network, image side) with random weights that a normalisation at its start does not silence."""
    import transformers

    torch.manual_seed(0)
    own = {
        "vit": small_vit,
        "resnet": small_resnet,
        "alternet": alternet,
        "mixer": lambda: Patches(Mixer(), Mixer(), Mixer()),
        "side by side": lambda: Patches(SideBySide(), SideBySide()),
        "rectified": lambda: Patches(Rectified(), Rectified()),
    }
    if family in own:
        return own[family]().eval(), 32
    name, arguments, _, _ = FAMILIES[family]
    config = getattr(transformers, name)(**arguments)
    return transformers.AutoModelForImageClassification.from_config(config).eval(), 64


def branches_of(network, size: int):
    pixels = images(size)
    blocks, _ = find_blocks(network, pixels)
    return find_branches(network, pixels, blocks), pixels


SUBLAYERS = ["attention", "mlp"]
KINDS = {  # kinds of all branches in order, and how many skips pass a projection
    "vit": (SUBLAYERS * 3, 0),
    "resnet": (["conv"] * 6, 2),
    "alternet": (["conv", "conv", "conv", "attention", "conv", "attention", "conv", "attention"], 3),
    "mixer": (["mlp"] * 6, 0),
    "side by side": (["block"] * 2, 0),
    "beit": (SUBLAYERS * 2, 0),
    "dinov2": (SUBLAYERS * 2, 0),
    "dinov2 with registers": (SUBLAYERS * 2, 0),
    "swin": (SUBLAYERS * 4, 0),
    "swin v2, normalised after the branch": (SUBLAYERS * 4, 0),
    "convnext": (["conv"] * 5, 0),
    "regnet": (["conv"] * 4, 2),
    "resnet with bottlenecks": (["conv"] * 5, 2),
    "poolformer": (["pool", "mlp"] * 5, 0),
}


@pytest.mark.parametrize("family", KINDS)
def test_branches_of_many_families(family):
    """Kinds, names, and the layout of what is added, in the order of the forward pass."""
    network, size = network_of(family)
    branches, _ = branches_of(network, size)
    kinds, projected = KINDS[family]
    assert [branch.kind for branch in branches] == kinds
    assert sum(branch.projected for branch in branches) == projected
    assert {branch.whole for branch in branches} == {family == "side by side"}
    assert len({branch.name for branch in branches}) == len(branches)
    assert branches[-1].depth == branches[-1].position == 1
    assert [b.depth for b in branches] == sorted(b.depth for b in branches)


@pytest.mark.parametrize("family", KINDS)
def test_skip_and_branch_add_up_to_what_leaves_the_block(family):
    """Seen from outside: the last branch of every block, or its ReLU, is the block's output, on images never seen before."""
    network, size = network_of(family)
    branches, pixels = branches_of(network, size)
    sums, ends = {}, {}

    def visit(branch, skip, long):
        sums[branch.unit] = (skip + long).clone()  # the last one of the block stays

    units = dict.fromkeys(branch.unit for branch in branches)
    handles = [
        network.get_submodule(unit).register_forward_hook(
            lambda module, args, output, unit=unit: ends.__setitem__(unit, first_tensor(output).clone())
        )
        for unit in units
    ]
    with torch.no_grad(), branches_hooked(network, branches, visit):
        network(1 - pixels[:2])
    for handle in handles:
        handle.remove()
    assert sums.keys() == ends.keys() == units.keys()
    for unit, end in ends.items():
        exact = torch.equal(sums[unit], end) or torch.equal(sums[unit].relu(), end)
        assert exact or torch.allclose(sums[unit], end, atol=1e-6), unit


@pytest.mark.parametrize("family", KINDS)
def test_without_its_branches_a_block_returns_its_input(family):
    network, size = network_of(family)
    branches, pixels = branches_of(network, size)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        intact = first_tensor(network(pixels)).clone()
    for unit in {branch.unit for branch in branches if not branch.projected}:
        seen = {}
        module = network.get_submodule(unit)
        entry = module.register_forward_pre_hook(
            lambda module, args, kwargs, seen=seen: seen.update(start=first_tensor((*args, *kwargs.values())).clone()),
            with_kwargs=True,
        )
        removed = [without_branch(network, branch) for branch in branches if branch.unit == unit]
        for one in removed:
            one.__enter__()
        end = module.register_forward_hook(lambda m, args, out, seen=seen: seen.update(end=first_tensor(out).clone()))
        with torch.no_grad():
            network(pixels)
        for one in reversed(removed):
            one.__exit__(None, None, None)
        entry.remove()
        end.remove()
        assert seen["start"].shape == seen["end"].shape
        assert torch.equal(seen["start"], seen["end"]), unit
    with torch.no_grad():
        assert torch.equal(first_tensor(network(pixels)), intact)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_branches_are_found_in_other_number_types(dtype):
    network = small_vit().to(dtype)
    blocks, _ = find_blocks(small_vit(), images())
    assert [b.kind for b in find_branches(network, images().to(dtype), blocks)] == SUBLAYERS * 3


def test_a_sum_that_only_its_relu_leaves():
    network, size = network_of("rectified")
    pixels = images(size)
    blocks, _ = find_blocks(network, pixels, r"blocks\.\d+")
    branches = find_branches(network, pixels, blocks)
    assert [branch.long.path for branch in branches] == ["blocks.0.one", "blocks.1.one"]
    assert [branch.name for branch in branches] == ["blocks.0", "blocks.1"]


def test_a_network_without_skip_connections_has_no_branches():
    torch.manual_seed(0)
    network = Patches(Plain(), Plain(), Plain()).eval()
    blocks, _ = find_blocks(network, images(), r"blocks\.\d+")
    assert find_branches(network, images(), blocks) == []


def test_names_and_positions_follow_the_blocks():
    branches, _ = branches_of(*network_of("resnet"))
    assert [b.name for b in branches] == [f"block{i:02d}" for i in range(6)]
    assert [(b.stage, b.position) for b in branches] == [(1, 0.5), (1, 1), (2, 0.5), (2, 1), (3, 0.5), (3, 1)]
    names = [branch.name for branch in branches_of(*network_of("mixer"))[0]]
    assert names[:3] == ["block00.mlp", "block00.mlp#2", "block01.mlp"]
    assert branches_of(*network_of("vit"))[0][0].prefix_count == 1


# --------------------------------------------------------------------------------------------------------- taking away


def with_zero(network, *paths):
    """A copy in which a branch's last linear layers are zero: a lesion made by hand."""
    other = copy.deepcopy(network)
    for path in paths:
        for parameter in other.get_submodule(path).parameters():
            parameter.data.zero_()
    return other


@pytest.mark.parametrize(("index", "path"), [(2, "vit.layers.1.attention.o_proj"), (3, "vit.layers.1.mlp.fc2")])
def test_a_vit_without_a_branch_is_a_vit_whose_last_weights_are_zero(index, path):
    network = small_vit()
    branches, pixels = branches_of(network, 32)
    with torch.no_grad():
        expected = with_zero(network, path)(pixels).logits
        with without_branch(network, branches[index]):
            found = network(pixels).logits
        assert torch.equal(found, expected)
        assert not torch.allclose(found, network(pixels).logits)


def test_a_resnet_without_a_branch():
    network = small_resnet()
    branches, pixels = branches_of(network, 32)
    for branch in branches:
        other = with_zero(network, f"{branch.unit}.layer.1.normalization")
        with torch.no_grad(), without_branch(network, branch):
            assert torch.equal(network(pixels).logits, other(pixels).logits)


class Silent(nn.Module):
    def forward(self, tensor):
        return torch.zeros(())


def test_a_resnet_without_a_skip():
    """Identity skips and projections alike: a copy whose shortcut gives zero."""
    network = small_resnet()
    branches, pixels = branches_of(network, 32)
    assert {branch.projected for branch in branches} == {True, False}
    for branch in branches:
        other = copy.deepcopy(network)
        other.get_submodule(branch.unit).shortcut = Silent()
        with torch.no_grad(), without_skip(network, branch):
            torch.testing.assert_close(network(pixels).logits, other(pixels).logits, rtol=1e-4, atol=1e-6)


def test_a_block_side_by_side_without_its_skip():
    network, size = network_of("side by side")
    branches, pixels = branches_of(network, size)
    with torch.no_grad():
        start = network.patches(pixels).flatten(2).transpose(1, 2)
        block = network.blocks[0]
        expected = network.blocks[1](block.one(start) + block.two(start).tanh())
        with without_skip(network, branches[0]):
            torch.testing.assert_close(network(pixels), expected)


@pytest.mark.parametrize("family", ["vit", "beit"])
def test_every_pass_within_a_context_is_alike(family):
    """Calls of a module that serves twice are counted anew in each pass."""
    network, size = network_of(family)
    branches, pixels = branches_of(network, size)
    passes = []
    with torch.no_grad(), branches_hooked(network, branches, lambda branch, skip, long: passes.append(branch.name)):
        network(pixels)
        network(pixels)
    assert passes == [branch.name for branch in branches] * 2
    with torch.no_grad(), without_branch(network, branches[1]):
        assert torch.equal(network(pixels).logits, network(pixels).logits)


def test_hooks_are_gone_after_an_error():
    network = small_vit()
    branches, _ = branches_of(network, 32)
    for context in (without_branch, without_skip):
        with pytest.raises(RuntimeError, match="stop"), context(network, branches[0]):
            raise RuntimeError("stop")
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


# -------------------------------------------------------------------------------------------------------- convolutions


def test_convolutions_wider_than_a_cell():
    network = small_resnet(layer_type="bottleneck", hidden_sizes=[16, 32, 64])
    branches, _ = branches_of(network, 32)
    paths = [spatial_convolutions(network, branch) for branch in branches]
    assert [len(found) for found in paths] == [1] * 6
    assert paths[0] == ["resnet.encoder.stages.0.layers.0.layer.1.convolution"]
    vit = small_vit()
    assert spatial_convolutions(vit, branches_of(vit, 32)[0][0]) == []


@pytest.mark.parametrize("stride", [1, 2])
def test_without_a_convolution_the_identity_takes_its_place(stride):
    network = small_resnet(layer_type="bottleneck", hidden_sizes=[16, 16, 16])
    unit = f"resnet.encoder.stages.{stride - 1}.layers.0"
    path = f"{unit}.layer.1.convolution"
    other = copy.deepcopy(network)
    assert other.get_submodule(path).stride == (stride, stride)
    other.get_submodule(f"{unit}.layer.1").convolution = nn.AvgPool2d(2) if stride == 2 else nn.Identity()
    with torch.no_grad(), without_convolution(network, path):
        torch.testing.assert_close(network(images()).logits, other(images()).logits)
    assert not network.get_submodule(path)._forward_hooks


def test_a_convolution_that_changes_channels_has_no_identity():
    network = small_resnet()
    path = "resnet.encoder.stages.1.layers.0.layer.0.convolution"
    with pytest.raises(StudyError, match="turns 8 channels into 16"), without_convolution(network, path):
        pass


# ---------------------------------------------------------------------------------------------------------- skip ratio


def test_ratio_and_cosine_by_hand():
    skip = torch.tensor([[[3.0, 4.0], [0.0, 1.0], [0.0, 0.0], [1.0, 1.0]]])
    long = torch.tensor([[[1.0, 0.0], [0.0, -2.0], [1.0, 0.0], [0.0, 0.0]]])
    assert float(norm_ratio(skip, long)) == pytest.approx((5 + 0.5 + 0) / 3)  # the zero branch is left out
    assert float(cosine(skip, long)) == pytest.approx((0.6 - 1) / 2)
    assert torch.isnan(norm_ratio(skip[:, 3:], long[:, 3:])).all()


def test_skip_ratio_of_a_vit_by_its_own_modules(vit_folder, image_folder):
    """By the hooks of another hand: modules by name, tokens in a loop."""
    checkpoint = load_checkpoint(vit_folder, device="cpu")
    found = measure(checkpoint, image_folder, n=6, batch_size=4, analyses=["skip_ratio"], workers=0, progress=False)
    images_ = load_images(image_folder, n=6)
    pixels = torch.stack([torch.from_numpy(checkpoint.prepare(images_[i][0])) for i in range(6)]).float() / 255
    layer = checkpoint.network.vit.layers[1]
    kept = {}
    handles = [
        layer.layernorm_after.register_forward_pre_hook(lambda m, args: kept.update(z=args[0].clone())),
        layer.mlp.register_forward_hook(lambda m, args, output: kept.update(f=output.clone())),
    ]
    with torch.no_grad():
        checkpoint.network(checkpoint.normalise(pixels))
    for handle in handles:
        handle.remove()
    z, f = (kept[key].double().numpy() for key in "zf")
    place = list(found.data.branch.values).index("block01.mlp")
    for image in range(6):
        ratios = [np.linalg.norm(z[image, t]) / np.linalg.norm(f[image, t]) for t in range(65)]
        angles = [
            z[image, t] @ f[image, t] / np.linalg.norm(z[image, t]) / np.linalg.norm(f[image, t]) for t in range(65)
        ]
        assert found.data.skip_ratio.values[image, place] == pytest.approx(np.mean(ratios[1:]), rel=1e-4)
        assert found.data.class_skip_ratio.values[image, place] == pytest.approx(ratios[0], rel=1e-4)
        assert found.data.skip_cosine.values[image, place] == pytest.approx(np.mean(angles[1:]), abs=1e-5)
        assert found.data.class_skip_cosine.values[image, place] == pytest.approx(angles[0], abs=1e-5)


def test_skip_ratio_of_a_resnet_has_no_class_token(resnet_folder, image_folder, tmp_path):
    found = measure(
        resnet_folder,
        image_folder,
        n=5,
        batch_size=4,
        analyses=["skip_ratio"],
        workers=0,
        progress=False,
        out=tmp_path / "p",
    )
    assert found.data.skip_ratio.dims == ("image", "branch")
    assert found.data.skip_ratio.shape == (5, 6)
    assert "class_skip_ratio" not in found.data
    assert list(found.data.branch_projected.values) == [0, 0, 1, 0, 1, 0]
    assert set(found.data.branch_kind.values) == {"conv"}
    for name in found.data.data_vars:
        assert {"unit", "source"} <= found.data[name].attrs.keys()


def test_a_checkpoint_without_branches_is_told():
    class Fake:
        branches = ()

    with pytest.raises(NotApplicableError, match="no skip connections"):
        make_analysis("skip_ratio").start(Fake(), 4, 4)

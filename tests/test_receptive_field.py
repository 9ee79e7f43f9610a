"""Effective receptive fields: stacks of convolutions with known kernels, finite differences, closed forms of radii."""

import numpy as np
import pytest
import torch
from conftest import small_vit
from torch import nn

from hf_vitstudy import StudyError, load_checkpoint, measure
from hf_vitstudy.analyses import Batch, make_analysis
from hf_vitstudy.analyses.receptive_field import centre_of, own_share, pooled_mass, radii
from hf_vitstudy.blocks import Block, find_blocks, first_tensor
from hf_vitstudy.checkpoints import Checkpoint


class Processor:
    rescale_factor, do_rescale, do_normalize = 1 / 255, True, True
    image_mean, image_std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


class Boxes(nn.Module):
    """Convolutions of 3 x 3 equal weights, each colour for itself: the field of layer k is a box convolved k times."""

    def __init__(self, layers: int = 4):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=False) for _ in range(layers))
        for layer in self.layers:
            nn.init.constant_(layer.weight, 1 / 9)

    def forward(self, maps):
        for layer in self.layers:
            maps = layer(maps)
        return maps


class Averages(nn.Module):
    """Attention with the same weight everywhere, one layer: every place depends on every pixel alike."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 4, 4)
        nn.init.ones_(self.patches.weight)
        self.layers = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])

    def forward(self, pixel_values):
        tokens = self.patches(pixel_values).flatten(2).transpose(1, 2)
        first = self.layers[0](tokens)
        return self.layers[1](first.mean(1, keepdim=True).expand_as(first))


def checkpoint_of(network, pattern: str | None, size: int) -> Checkpoint:
    pixels = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(2)).to(next(network.parameters()))
    blocks, layers = find_blocks(network, pixels, pattern)
    return Checkpoint(network, Processor(), blocks, layers, "toy", {"classes": None, "image_size": [size, size]})


def batch_of(n: int, size: int, first: int = 0) -> Batch:
    images = torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))
    unknown = torch.full((n,), -1)
    return Batch(images, None, unknown, unknown, first)


def measured(checkpoint, batch, text: str = "receptive_field", **options):
    analysis = make_analysis(text, **options)
    analysis.start(checkpoint, len(batch), len(batch))
    with torch.no_grad():
        return analysis.result([analysis.update(batch)])


# --------------------------------------------------------------------------------------------------------------- radii


def test_radius_of_a_point_and_of_a_ring():
    point = torch.zeros(1, 9, 9)
    point[0, 4, 4] = 3
    assert radii(point, (9, 9)).tolist() == [[0, 0]]
    ring = torch.zeros(1, 9, 9)
    ring[0, 4, [1, 7]] = 1
    ring[0, [1, 7], 4] = 1
    assert radii(ring, (9, 9)).tolist() == [[3, 3]]
    assert torch.isnan(radii(torch.zeros(1, 9, 9), (9, 9))).all()


def test_radius_by_sorting_pixels_one_by_one():
    maps = torch.rand(3, 12, 20, generator=torch.Generator().manual_seed(0))
    row, column = centre_of((3, 5), (12, 20))
    assert (row, column) == (6, 10)
    for index, found in enumerate(radii(maps, (3, 5)).tolist()):
        pixels = sorted(
            (float(np.hypot(y + 0.5 - row, x + 0.5 - column)), float(maps[index, y, x]))
            for y in range(12)
            for x in range(20)
        )
        for fraction, radius in zip((0.5, 0.95), found, strict=True):
            total, expected = 0.0, None
            for distance, mass in pixels:
                total += mass
                if total >= fraction * float(maps[index].double().sum()):
                    expected = distance
                    break
            assert radius == pytest.approx(expected, abs=1e-5)


def test_radius_of_a_gaussian_and_of_a_uniform_map():
    """Half of a normal density lies within sigma·sqrt(2 ln 2), 95 % within sigma·sqrt(2 ln 20); a disk's area is pi r²."""
    place = np.arange(201) - 100
    bell = np.exp(-(place[:, None] ** 2 + place[None] ** 2) / (2 * 15**2))
    half, most = radii(torch.from_numpy(bell)[None], (201, 201))[0].tolist()
    assert half == pytest.approx(15 * np.sqrt(2 * np.log(2)), abs=0.3)
    assert most == pytest.approx(15 * np.sqrt(2 * np.log(20)), abs=0.3)
    half, _ = radii(torch.ones(1, 201, 201), (201, 201))[0].tolist()
    assert half == pytest.approx(201 / np.sqrt(2 * np.pi), abs=0.5)


def test_share_of_the_own_cell():
    maps = torch.ones(1, 8, 12)
    assert float(own_share(maps, (2, 3))) == pytest.approx(1 / 6)
    assert float(own_share(maps, (4, 4))) == pytest.approx(1 / 16)
    maps[0, 4:, 4:8] = 3
    assert float(own_share(maps, (2, 3))) == pytest.approx(3 / 8)
    assert float(own_share(maps, (1, 1))) == 1


@pytest.mark.parametrize("shape", [(16, 16), (64, 64), (50, 70)])
def test_pooled_maps_keep_their_mass(shape):
    pooled = pooled_mass(torch.rand(2, *shape))
    assert pooled.shape == (2, min(shape[0], 32), min(shape[1], 32))
    torch.testing.assert_close(pooled.sum((1, 2)), torch.ones(2))


# ------------------------------------------------------------------------------------------------------ known networks


@pytest.mark.parametrize("options", [{}, {"paper_mode": True}])
def test_a_stack_of_equal_kernels(options):
    """The map is the box convolved with itself, its support 2k + 1, whatever the weights of channels."""
    size = 25
    found = measured(
        checkpoint_of(Boxes(), r"layers\.\d", size), batch_of(3, size), "receptive_field:branches=false", **options
    )
    line = np.ones(1)
    for layer in range(4):
        line = np.convolve(line, np.ones(3) / 3)
        expected = np.zeros((size, size))
        reach = layer + 1
        expected[12 - reach : 13 + reach, 12 - reach : 13 + reach] = np.outer(line, line)
        np.testing.assert_allclose(found["receptive_map"].values[layer], expected, atol=1e-6)
        radius = radii(torch.from_numpy(expected)[None], (size, size))[0].numpy()
        np.testing.assert_allclose(found["receptive_radius"].values[:, layer], np.tile(radius, (3, 1)), atol=1e-5)
        share = expected[12, 12]
        np.testing.assert_allclose(found["receptive_own_share"].values[:, layer], share, rtol=1e-4)
    support = [int((found["receptive_map"].values[layer] > 0).sum()) for layer in range(4)]
    assert support == [9, 25, 49, 81]


def test_uniform_attention_sees_everything():
    # made by hand, since a state that is the same everywhere cannot show that its places kept their order
    blocks = [Block(f"layers.{i}", "block", f"layers.{i}", "output", grid=(8, 8)) for i in range(2)]
    about = {"classes": None, "image_size": [32, 32]}
    found = measured(Checkpoint(Averages().eval(), Processor(), blocks, [], "toy", about), batch_of(2, 32))
    radius, uniform = found["receptive_radius"].values, found["uniform_radius"].values
    np.testing.assert_allclose(radius[:, 1], np.tile(uniform[1], (2, 1)))
    np.testing.assert_allclose(found["receptive_own_share"].values, [[1, 1 / 64]] * 2, rtol=1e-4)
    np.testing.assert_allclose(found["receptive_map"].values[1], 1 / 1024, rtol=1e-3)
    assert (radius[:, 0] < uniform[0] / 2).all()


def test_the_gradient_is_that_of_finite_differences():
    """Each pixel by itself, up and down, on a whole ViT: states from a copy of the hook, centre and weights by hand."""
    checkpoint = checkpoint_of(small_vit().double(), None, 32)
    batch = batch_of(1, 32, first=5)
    analysis = make_analysis("receptive_field")
    analysis.start(checkpoint, 1, 1)
    maps = analysis._gradients(batch.images, 5)
    token = 1 + 4 * 8 + 4  # class token, then row 4, column 4 of 8 x 8
    modules = {("", 4): "vit.layers.1", ("branch_", 3): "vit.layers.1.mlp"}
    for (prefix, index), path in modules.items():
        place = index if not prefix else len(checkpoint.blocks) + index
        weights = np.random.default_rng((0, 5, place)).standard_normal(24)

        def answer(images, path=path, weights=weights):
            seen = {}
            hook = lambda m, a, output: seen.update(out=first_tensor(output))  # noqa: E731
            handle = checkpoint.network.get_submodule(path).register_forward_hook(hook)
            with torch.no_grad():
                checkpoint.network(checkpoint.normalise(images))
            handle.remove()
            return float(seen["out"][0, token].numpy() @ weights)

        for row, column in [(0, 0), (17, 18), (16, 19), (31, 5)]:
            slope = 0.0
            for colour in range(3):
                up, down = batch.images.clone(), batch.images.clone()
                up[0, colour, row, column] += 1 / 128
                down[0, colour, row, column] -= 1 / 128
                slope += abs(answer(up) - answer(down)) * 64
            assert float(maps[prefix][index][0, row, column]) == pytest.approx(slope, rel=5e-3, abs=1e-7)


def test_random_projections_expect_the_norm_over_channels():
    """E|v·J| = sqrt(2/pi)·||J||, summed over colours, where the mean over channels is zero by construction."""
    network = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(8, 8, 1, bias=False)).double()
    kernel = network[0].weight.data
    kernel -= kernel.mean(0, keepdim=True)
    checkpoint = checkpoint_of(network, "0", 8)
    norm = (kernel[:, :, 0, 0] * 4).norm(dim=0).sum()  # 4 = 1 / std
    draws = []
    for seed in range(400):
        analysis = make_analysis(f"receptive_field:seed={seed}:branches=false")
        analysis.start(checkpoint, 1, 1)
        draws.append(float(analysis._gradients(batch_of(1, 8).images, 0)[""][0][0, 4, 4]))
    assert np.mean(draws) == pytest.approx(float(norm) * np.sqrt(2 / np.pi), rel=0.08)
    analysis = make_analysis("receptive_field:branches=false", paper_mode=True)
    analysis.start(checkpoint, 1, 1)
    assert float(analysis._gradients(batch_of(1, 8).images, 0)[""][0].max()) < 1e-12


# ------------------------------------------------------------------------------------------------------ what comes out


def test_variables_of_a_vit(vit_folder, image_folder, tmp_path):
    checkpoint = load_checkpoint(vit_folder, device="cpu")
    before = {key: value.clone() for key, value in checkpoint.network.state_dict().items()}
    flags = {key: parameter.requires_grad for key, parameter in checkpoint.network.named_parameters()}
    options = {"workers": 0, "progress": False, "n": 12, "batch_size": 4}
    analyses = ["receptive_field:images=6", "skip_ratio"]
    data = measure(checkpoint, image_folder, analyses=analyses, out=tmp_path / "p", **options).data
    assert data.receptive_radius.dims == ("receptive_image", "block", "fraction")
    assert data.receptive_radius.shape == (6, 7, 2)
    assert data.branch_receptive_radius.shape == (6, 6, 2)
    assert data.receptive_map.shape == (7, 32, 32)
    np.testing.assert_allclose(data.receptive_map.sum(("receptive_row", "receptive_column")), 1, rtol=1e-5)
    np.testing.assert_allclose(data.receptive_own_share[:, 0], 1, rtol=1e-5)  # a patch knows itself alone
    assert (data.branch_receptive_own_share[:, 0] < 0.9).all()  # attention looks elsewhere
    assert {"unit", "source", "long_name"} <= data.branch_receptive_map.attrs.keys()
    assert all(torch.equal(value, before[key]) for key, value in checkpoint.network.state_dict().items())
    assert flags == {key: parameter.requires_grad for key, parameter in checkpoint.network.named_parameters()}
    assert all(parameter.grad is None for parameter in checkpoint.network.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in checkpoint.network.modules())


def test_batches_do_not_change_an_image(resnet_folder, image_folder):
    options = {"workers": 0, "progress": False, "n": 10}
    one = measure(resnet_folder, image_folder, analyses=["receptive_field:images=6"], batch_size=4, **options).data
    other = measure(
        resnet_folder, image_folder, analyses=["receptive_field:images=6:at_once=1"], batch_size=10, **options
    ).data
    for name in ("receptive_own_share", "branch_receptive_own_share", "receptive_map"):
        np.testing.assert_allclose(one[name], other[name], rtol=1e-3, atol=1e-6)
    assert "branch_receptive_radius" in one
    without = measure(
        resnet_folder, image_folder, analyses=["receptive_field:branches=false"], batch_size=10, **options
    ).data
    assert "branch_receptive_radius" not in without
    assert without.sizes["receptive_image"] == 10


@pytest.mark.parametrize("text", ["images=0", "at_once=0"])
def test_no_images_are_refused(text):
    with pytest.raises(StudyError, match="needs images and at_once of 1 or more, got"):
        make_analysis(f"receptive_field:{text}")


def test_images_beyond_the_limit_are_left_out():
    assert make_analysis("receptive_field:images=4").update(batch_of(2, 8, first=4)) == {}

"""CKA of tokens with patches against slow numpy, on states that are made to be local or not."""

import numpy as np
import pytest
import torch
from conftest import save_checkpoint, small_resnet, smooth_images
from oracles import minibatch_cka, u_centre

from hf_vitstudy import StudyError, load_checkpoint, load_images, measure
from hf_vitstudy.analyses import Batch, NotApplicableError, localisation
from hf_vitstudy.blocks import Block
from hf_vitstudy.checkpoints import Checkpoint
from hf_vitstudy.kernels import CONSTANT, centred_grams, packed
from hf_vitstudy.states import State


QUICK = {"workers": 0, "progress": False, "batch_size": 8}


def images_of(n: int, size: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def fake_checkpoint(grids: list[tuple[int, int]], channels: int = 5, size: int = 16) -> Checkpoint:
    blocks = [Block("embedding", "embedding", "e", "input", 0.1, 1, channels, grids[0])]
    blocks += [
        Block(f"block{i:02d}", "mlp", f"b{i}", "output", 0.5, 1, channels, grid) for i, grid in enumerate(grids)
    ]
    return Checkpoint(torch.nn.Identity(), None, blocks, [], "fake", {"image_size": [size, size]})


def run(images: torch.Tensor, states: list[torch.Tensor], grid: tuple[int, int], batch: int = 8, **options) -> dict:
    """The analysis over maps (image, channel, row, column), one per block."""
    checkpoint = fake_checkpoint([grid] * len(states), states[0].shape[1], images.shape[2])
    analysis = localisation.Localisation(**options)
    analysis.start(checkpoint, len(images), batch)
    parts = []
    for start in range(0, len(images), batch):
        here = slice(start, start + batch)
        analysis.visit(checkpoint.blocks[0], State(states[0][here], grid))
        for block, maps in zip(checkpoint.blocks[1:], states, strict=True):
            analysis.visit(block, State(maps[here], grid))
        count = len(images[here])
        unknown = torch.full((count,), -1)
        parts.append(analysis.update(Batch(images[here], None, unknown, unknown, start)))
    return analysis.result(parts)


def downsampled(images: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Maps whose place holds a random linear reading of its own patch: local by construction."""
    side = images.shape[2] // grid[0]
    reading = torch.randn(40, 3, side, side, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.conv2d(images, reading, stride=side)


@pytest.mark.parametrize("n", [24, 29, 30])
def test_every_cell_is_the_minibatch_estimate_of_its_token_and_patch(n):
    images = images_of(n)
    maps = torch.randn(n, 5, 4, 4, generator=torch.Generator().manual_seed(2)) + 3
    found = run(images, [maps, maps], (4, 4))["localisation_cka"].values
    assert found.shape == (2, 16, 16)
    for token, patch in ((0, 0), (5, 9), (15, 2)):
        x = maps.flatten(2)[:, :, token].numpy()
        row, column = divmod(patch, 4)
        y = images[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].flatten(1).numpy()
        expected = minibatch_cka(x - x.mean(0), y - y.mean(0), 8)
        assert found[1, token, patch] == pytest.approx(expected, abs=1e-3)


def test_a_network_that_reads_its_own_patches_is_localised():
    images = images_of(64)
    found = run(images, [downsampled(images, (4, 4))] * 2, (4, 4), 16)
    assert (found["localisation_share"].values == 1).all()
    assert (found["localisation_distance"].values == 0).all()
    assert found["localisation_margin"].values.min() > 0.5
    assert found["localisation_share_without"].shape == (localisation.DRAWS, 2, 3)
    assert found["localisation_region"].values.tolist() == ["all", "interior", "edge"]
    assert found["localisation_share"].attrs["chance"] == pytest.approx([1 / 16] * 3)


def test_shifted_places_are_as_far_off_as_the_shift():
    """Every token reads the patch two columns to the right, around the border."""
    images = images_of(64, 24)
    maps = downsampled(images, (6, 6)).roll(-2, 3)
    found = run(images, [maps], (6, 6), 16)
    assert (found["localisation_share"].values == 0).all()
    columns = np.arange(6)
    expected = 4 * np.abs((columns + 2) % 6 - columns)  # patches of 4 pixels
    assert found["localisation_distance"].values[0, 0] == pytest.approx(expected.mean())
    assert found["localisation_distance"].values[0, 1] == pytest.approx(expected[1:5].mean())


def test_noise_is_at_chance():
    images, maps = images_of(96, 24), torch.randn(96, 8, 6, 6, generator=torch.Generator().manual_seed(4))
    found = run(images, [maps], (6, 6), 32)
    assert found["localisation_share"].values[0, 0] < 0.2
    assert abs(found["localisation_margin"].values[0, 0]) < 0.02
    chance = found["localisation_distance"].attrs["chance"]
    assert found["localisation_distance"].values[0, 0] == pytest.approx(chance[0], rel=0.25)


def test_replicates_are_estimates_without_their_batches():
    images = images_of(40)
    maps = downsampled(images, (4, 4)) + 40 * torch.randn(40, 40, 4, 4, generator=torch.Generator().manual_seed(5))
    whole = run(images, [maps], (4, 4))
    places = localisation.draws_without(5)
    assert places.shape == (localisation.DRAWS, 2)
    for draw in (0, 7):
        keep = [i for i in range(40) if i // 8 not in places[draw]]
        rest = run(images[keep], [maps[keep]], (4, 4))
        for name in ("share", "distance", "margin"):
            expected = rest[f"localisation_{name}"].values
            np.testing.assert_allclose(whole[f"localisation_{name}_without"].values[draw], expected, atol=1e-6)


def test_errors_are_those_of_a_mean_where_the_statistic_is_one():
    """For a mean of batches the delete-d error is the known standard error of a mean."""
    values = np.random.default_rng(0).normal(size=30)
    places = localisation.draws_without(30)
    means = [np.delete(values, left_out).mean() for left_out in places]
    found = np.sqrt((1 - 1 / 3) / (1 / 3)) * np.std(means)
    assert found == pytest.approx(values.std(ddof=1) / np.sqrt(30), rel=0.2)


@pytest.mark.parametrize("name", ["share", "distance", "margin"])
def test_intervals_cover_what_other_images_of_the_same_number_give(name):
    """Of many small studies of weakly local tokens, nineteen in twenty intervals should hold the mean of all."""
    estimates, errors = [], []
    for seed in range(60):
        images = images_of(96, 16, seed)
        noise = 15 * torch.randn(96, 40, 4, 4, generator=torch.Generator().manual_seed(1000 + seed))
        found = run(images, [downsampled(images, (4, 4)) + noise], (4, 4))
        estimates.append(found[f"localisation_{name}"].values[0, 0])
        errors.append(found[f"localisation_{name}_error"].values[0, 0])
        factor = found[f"localisation_{name}_without"].attrs["error_factor"]
        assert errors[-1] == pytest.approx(factor * found[f"localisation_{name}_without"].values[:, 0, 0].std())
    hits = np.abs(np.array(estimates) - np.mean(estimates)) <= 1.96 * np.array(errors)
    assert 53 <= hits.sum() <= 60
    assert np.mean(errors) < 2 * np.std(estimates), "not by being far too wide"


def test_a_token_or_patch_that_never_changes_is_undefined():
    images = images_of(24)
    images[:, :, :4, :4] = 0.25
    maps = torch.randn(24, 5, 4, 4, generator=torch.Generator().manual_seed(2))
    maps[:, :, 3, 3] = 7
    found = run(images, [maps], (4, 4))
    cka = found["localisation_cka"].values[0]
    assert np.isnan(cka[:, 0]).all()
    assert np.isnan(cka[15]).all()
    assert np.isfinite(cka[:15, 1:]).all()
    assert np.isfinite(found["localisation_share"].values).all()


def test_the_edge_is_the_outermost_ring():
    """Tokens at their own patch where the ring is, all others at the first patch of all."""
    ring = np.array([[1, 1, 1, 1], [1, 0, 0, 1], [1, 1, 1, 1]], dtype=bool).ravel()
    cka = np.zeros((1, 12, 12))
    cka[0, np.arange(12), np.where(ring, np.arange(12), 0)] = 1
    found = localisation.summaries(cka, (3, 4), (30, 80))
    assert found["share"].tolist() == [[pytest.approx(10 / 12), 0, 1]]
    assert found["distance"][0, 2] == 0
    assert found["distance"][0, 1] == pytest.approx((np.hypot(10, 20) + np.hypot(10, 40)) / 2)
    np.testing.assert_allclose(found["margin"], [[10 / 12 - 2 / 12 / 11, -1 / 11, 1]])


def test_a_map_of_two_by_two_has_no_interior():
    images = images_of(16)
    found = run(images, [downsampled(images, (2, 2))], (2, 2))
    assert np.isnan(found["localisation_share"].values[0, 1])
    assert found["localisation_share"].values[0, 2] == 1


def test_cells_tile_images_that_the_grid_does_not_divide():
    images = images_of(6, 10)
    cells = localisation.patch_pixels(images, (3, 4))
    assert sum(cell.shape[1] for cell in cells) == 3 * 10 * 10
    assert {cell.shape[1] // 3 for cell in cells} == {4 * 3, 4 * 2, 3 * 3, 3 * 2}
    grams = localisation.patch_grams(images, (3, 4))
    values = cells[5].double()
    np.testing.assert_allclose(grams[5], u_centre((values @ values.T).numpy()), atol=1e-5)


def test_the_last_blocks_are_whole_and_of_one_map_size():
    blocks = fake_checkpoint([(8, 8), (4, 4), (4, 4)]).blocks
    assert [b.name for b in localisation.last_blocks(blocks, 2)] == ["block01", "block02"]
    assert [b.name for b in localisation.last_blocks(blocks, 3)] == ["block01", "block02"]
    inside = Block("block02.attention", "attention", "x", "input", grid=(4, 4))
    assert [b.name for b in localisation.last_blocks([*blocks[:-1], inside, blocks[-1]], 1)] == ["block02"]


# --------------------------------------------------------------------------------------------------- Gram matrices


@pytest.mark.parametrize("shift", [0, 100])
def test_gram_matrices_are_u_centred_one_by_one(shift):
    features = torch.randn(3, 9, 20, generator=torch.Generator().manual_seed(0))
    exact = features.double().numpy()
    expected = np.stack([u_centre(x @ x.T) for x in exact])
    np.testing.assert_allclose(centred_grams(features + shift), expected, atol=1e-3 if shift else 1e-5)


def test_features_that_never_change_have_no_gram_matrix():
    features = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    features[0] = 100 + 3e-5 * features[0].sign()  # four units of the last place
    assert len(features[0].unique()) > 1
    found = centred_grams(features)
    assert (found[0] == 0).all()
    assert found[1].abs().max() > 1e3 * CONSTANT


def test_packed_triangles_unpack_to_the_matrix():
    grams = centred_grams(torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))).numpy()
    pairs, scale = packed(grams, 6, "float32")
    assert pairs.shape == (2, 15)
    rows, columns = np.triu_indices(6, k=1)
    for row, column, value in zip(rows, columns, (pairs * scale[:, None]).T, strict=True):
        expected = grams[:, row, column] if column < 5 else np.zeros(2)
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-7)


# --------------------------------------------------------------------------------------------------------- networks


def test_both_kinds_of_network_are_measured(vit_folder, resnet_folder, image_folder):
    for folder, names in ((vit_folder, ["block01.mlp", "block02.mlp"]), (resnet_folder, ["block04", "block05"])):
        profile = measure(folder, image_folder, n=30, analyses=["localisation"], **QUICK)
        assert profile.data["localisation_block"].values.tolist() == names
        checkpoint = load_checkpoint(folder)
        images = load_images(image_folder, n=30)
        pixels = torch.stack([torch.from_numpy(checkpoint.prepare(images[i][0])) for i in range(30)]).float() / 255
        state = checkpoint.read(pixels)[1][names[1]]
        x = state.tokens[:, 1].numpy()
        side = 32 // state.grid[1]
        y = pixels[:, :, :side, side : 2 * side].flatten(1).numpy()
        cell = profile["localisation_cka"].values[1, 1, 1]
        assert cell == pytest.approx(minibatch_cka(x - x.mean(0), y - y.mean(0), 8), abs=2e-3)


BAD = {
    "one batch": ({"n": 11}, {}, StudyError, "needs at least two batches of at least 4 images"),
    "small blocks": ({"n": 30}, {"block": 3}, StudyError, "3 to a Gram matrix"),
    "too much": ({"n": 10**9}, {}, StudyError, r"keeps .* GiB for 125000000 batches, at most 2 GiB"),
    "one place": ({"n": 30, "grid": (1, 1)}, {}, NotApplicableError, "a single place"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_measured_says_why(case):
    given, options, error, message = BAD[case]
    checkpoint = fake_checkpoint([given.get("grid", (4, 4))] * 2)
    with pytest.raises(error, match=message):
        localisation.Localisation(**options).start(checkpoint, given["n"], 8)


def test_at_least_one_block():
    with pytest.raises(StudyError, match="localisation:last must be at least 1, got 0"):
        localisation.Localisation(last=0)


def test_a_grid_that_does_not_divide_the_image(tmp_path):
    from PIL import Image

    folder = save_checkpoint(small_resnet(), tmp_path / "net", size=44)
    (tmp_path / "images" / "a").mkdir(parents=True)
    for index, pixels in enumerate(smooth_images(16, 44)):
        Image.fromarray(pixels).save(tmp_path / "images" / "a" / f"{index:02d}.png")
    profile = measure(folder, tmp_path / "images", n=16, analyses=["localisation"], **QUICK)
    grid = profile["localisation_cka"].attrs["grid"]
    assert 44 % grid[0]
    assert profile["localisation_cka"].shape[1:] == (grid[0] * grid[1],) * 2

"""Position embeddings and filters whose structure is known, in every family that has them."""

import numpy as np
import pytest
import torch
from conftest import save_checkpoint, small_resnet, small_vit
from torch import nn

from hf_vitstudy import load_profile, measure
from hf_vitstudy.analyses import NotApplicableError, embeddings
from hf_vitstudy.blocks import Block, find_blocks


QUICK = {"workers": 0, "progress": False, "batch_size": 8}
SIZES = {
    "image_size": 32, "patch_size": 4, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48,
}  # fmt: skip


# --------------------------------------------------------------------------------------------------------- positions


def deit():
    from transformers import DeiTConfig, DeiTForImageClassification

    return DeiTForImageClassification(DeiTConfig(**SIZES))


def clip():
    from transformers import CLIPVisionConfig, CLIPVisionModel

    return CLIPVisionModel(CLIPVisionConfig(**SIZES))


def dinov2(**changes):
    from transformers import Dinov2Config, Dinov2ForImageClassification

    return Dinov2ForImageClassification(Dinov2Config(**(SIZES | changes)))


def dinov2_registers():
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersForImageClassification

    return Dinov2WithRegistersForImageClassification(Dinov2WithRegistersConfig(**SIZES, num_register_tokens=4))


def swin():
    from transformers import SwinConfig, SwinForImageClassification

    return SwinForImageClassification(
        SwinConfig(image_size=32, patch_size=4, embed_dim=24, depths=[2, 2], num_heads=[4, 4], window_size=4)
    )


def fixed():
    """As in MAE, whose positions are sinusoids."""
    network = small_vit()
    network.vit.embeddings.position_embeddings.requires_grad_(False)
    return network


FOUND = {  # family: (network, end of the parameter's name, tokens)
    "vit": (small_vit, "position_embeddings", 65),
    "deit": (deit, "position_embeddings", 66),
    "clip": (clip, "position_embedding.weight", 65),
    "dinov2": (dinov2, "position_embeddings", 65),
    "registers": (dinov2_registers, "position_embeddings", 65),
    "stretched": (lambda: dinov2(image_size=48), "position_embeddings", 145),
}


@pytest.mark.parametrize("family", FOUND)
def test_the_position_embedding_is_found_by_its_shape(family):
    make, ending, tokens = FOUND[family]
    torch.manual_seed(0)
    network = make().eval()
    blocks, _ = find_blocks(network, torch.randn(3, 3, 32, 32))
    name, values = embeddings.position_parameter(network, blocks[0], 1.0)
    assert name.endswith(ending)
    assert values.shape == (tokens, 24)


ABSENT = {
    "resnet": (small_resnet, "no learnt position embedding: no parameter holds 8 numbers for each of the 64 places"),
    "swin": (swin, "positions may be relative, rotary, a fixed sinusoid, or given by convolutions alone"),
    "fixed": (fixed, "position_embeddings is fixed, not learnt"),
}


@pytest.mark.parametrize("family", ABSENT)
def test_networks_without_learnt_positions_say_so(family):
    make, message = ABSENT[family]
    torch.manual_seed(0)
    network = make().eval()
    blocks, _ = find_blocks(network, torch.randn(3, 3, 32, 32))
    with pytest.raises(NotApplicableError, match=message):
        embeddings.position_parameter(network, blocks[0], 1.0)


def test_register_tokens_and_square_weights_are_no_positions():
    """Four registers form a 2 x 2 grid, and a linear layer may have as many outputs as there are places."""

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.registers = nn.Parameter(torch.zeros(1, 4, 16))
            self.linear = nn.Linear(16, 16)

    first = Block("embedding", "embedding", "", "input", channels=16, grid=(4, 4))
    with pytest.raises(NotApplicableError, match="no learnt position embedding"):
        embeddings.position_parameter(Network(), first, 1.0)


def separable(rows: int, columns: int, width: int = 12, seed: int = 0) -> np.ndarray:
    """Embeddings that are the sum of a smooth one of the row and a smooth one of the column."""
    rng = np.random.default_rng(seed)

    def smooth(count: int) -> np.ndarray:
        phases = np.pi * np.arange(count)[:, None] / count
        return np.cos(phases) @ rng.normal(size=(1, width)) + np.sin(phases) @ rng.normal(size=(1, width))

    return (smooth(rows)[:, None] + smooth(columns)[None]).reshape(rows * columns, width)


def test_shares_of_rows_and_columns_are_the_analysis_of_variance():
    vectors = np.random.default_rng(0).normal(size=(4 * 5, 6))
    maps = vectors.reshape(4, 5, 6)
    total = rows = columns = 0.0
    for channel in range(6):
        mean = maps[..., channel].mean()
        total += sum((maps[i, j, channel] - mean) ** 2 for i in range(4) for j in range(5))
        rows += sum(5 * (maps[i, :, channel].mean() - mean) ** 2 for i in range(4))
        columns += sum(4 * (maps[:, j, channel].mean() - mean) ** 2 for j in range(5))
    found = embeddings.row_column_shares(vectors, (4, 5))
    np.testing.assert_allclose(found, [rows / total, columns / total, 1 - (rows + columns) / total])


def test_separable_positions_leave_no_rest():
    assert embeddings.row_column_shares(separable(6, 7), (6, 7))[2] == pytest.approx(0, abs=1e-12)
    only_rows = np.repeat(np.random.default_rng(0).normal(size=(6, 3)), 7, axis=0)
    np.testing.assert_allclose(embeddings.row_column_shares(only_rows, (6, 7)), [1, 0, 0], atol=1e-12)
    assert np.isnan(embeddings.row_column_shares(np.ones((6, 3)), (2, 3))).all()


def test_similarity_that_falls_with_distance_correlates_at_minus_one():
    rows, columns = (axis.ravel() for axis in np.indices((5, 4)))
    distance = np.hypot(rows[:, None] - rows, columns[:, None] - columns)
    np.testing.assert_allclose(embeddings.distance_correlation(-distance, (5, 4)), -1)
    shuffled = np.random.default_rng(0).normal(size=(200, 64))
    random = embeddings.distance_correlation(embeddings.cosine_similarity(shuffled[:100]), (10, 10))
    assert abs(random.mean()) < 0.05
    assert np.isnan(embeddings.distance_correlation(np.ones((4, 4)), (2, 2))).all()


def test_cosines_are_those_of_scipy():
    from scipy.spatial.distance import cdist

    vectors = np.random.default_rng(0).normal(size=(7, 5))
    np.testing.assert_allclose(embeddings.cosine_similarity(vectors), 1 - cdist(vectors, vectors, "cosine"))
    vectors[2] = 0
    assert np.isnan(embeddings.cosine_similarity(vectors)[2]).all()


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A ViT whose places have separable embeddings and whose class token has one that would spoil them."""
    network = small_vit()
    with torch.no_grad():
        positions = network.vit.embeddings.position_embeddings
        positions[0, 1:] = torch.from_numpy(separable(8, 8, 24)).float()
        positions[0, 0] = 50
    return save_checkpoint(network, tmp_path_factory.mktemp("net") / "planted")


def test_a_profile_holds_the_plane_of_places_without_the_class_token(planted, image_folder, tmp_path):
    names = ["position_embedding", "patch_filters"]
    measure(planted, image_folder, n=8, analyses=names, out=tmp_path / "p", **QUICK)
    profile = load_profile(tmp_path / "p")
    expected = embeddings.cosine_similarity(separable(8, 8, 24))
    assert profile["position_similarity"].dims == ("position_place", "position_other")
    assert profile["position_similarity"].values.dtype == np.float16
    np.testing.assert_allclose(profile["position_similarity"].values, expected, atol=1e-3)
    assert profile["position_share"].values[2] == pytest.approx(0, abs=1e-6)
    assert profile["position_share"].values.sum() == pytest.approx(1)
    assert profile["position_distance_correlation"].values.mean() < -0.5
    assert profile["position_similarity"].attrs["grid"] == [8, 8]
    assert profile["filter_component"].shape == (24, 3, 4, 4)
    assert profile["filter_component"].attrs["layer"] == "patch embedding"


# ----------------------------------------------------------------------------------------------------------- filters


def test_components_are_scikit_learn_s():
    from sklearn.decomposition import PCA

    filters = np.random.default_rng(0).normal(size=(40, 3, 4, 4)) * np.linspace(1, 3, 16).reshape(4, 4)
    components, shares = embeddings.principal_components(filters)
    pca = PCA(svd_solver="full").fit(filters.reshape(40, -1))
    np.testing.assert_allclose(shares, pca.explained_variance_ratio_, atol=1e-10)
    flat = components.reshape(40, -1)
    np.testing.assert_allclose(np.abs((flat * pca.components_).sum(1))[:39], 1, atol=1e-8)
    assert (flat[np.arange(40), np.abs(flat).argmax(1)] > 0).all()
    np.testing.assert_allclose(embeddings.principal_components(-filters)[0][:39], components[:39], atol=1e-8)


def test_equal_filters_have_no_variance_to_share():
    assert np.isnan(embeddings.principal_components(np.ones((5, 3, 2, 2)))[1]).all()


SMOOTH = {
    "flat": (np.ones((8, 8)), 1.0),
    "chessboard": (np.indices((8, 8)).sum(0) % 2 * 2.0 - 1, -1.0),
    "stripes": (np.indices((8, 8))[0] % 2 * 2.0 - 1, 0.0),
    "zeros": (np.zeros((8, 8)), np.nan),
}


@pytest.mark.parametrize("case", SMOOTH)
def test_smoothness_of_known_filters(case):
    image, expected = SMOOTH[case]
    found = embeddings.smoothness(np.broadcast_to(image, (2, 3, 8, 8)))
    np.testing.assert_allclose(found, expected)


def test_noise_is_not_smooth():
    noise = np.random.default_rng(0).normal(size=(50, 3, 16, 16))
    assert np.abs(embeddings.smoothness(noise)).max() < 0.15


def test_the_stem_of_a_resnet_is_decomposed(resnet_folder, image_folder):
    profile = measure(resnet_folder, image_folder, n=8, analyses=["patch_filters", "position_embedding"], **QUICK)
    assert profile["filter_component"].shape == (8, 3, 7, 7)
    assert profile["filter_component"].attrs["layer"] == "stem"
    assert profile["filter_variance"].values.sum() == pytest.approx(1)
    assert "no learnt position embedding" in profile.provenance["absent"]["position_embedding"]


def test_a_network_without_colour_filters_has_none():
    with pytest.raises(NotApplicableError, match="no convolution of the image's three colours"):
        embeddings.first_convolution(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3)))


def test_the_weights_are_only_read():
    network = small_vit()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    blocks, _ = find_blocks(network, torch.randn(3, 3, 32, 32))
    embeddings.position_parameter(network, blocks[0], 1.0)[1][:] = 0
    embeddings.first_convolution(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())

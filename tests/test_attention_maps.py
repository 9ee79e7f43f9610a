"""Rollout and entropy against numpy loops, closed forms, and transformers' own attentions."""

import numpy as np
import pytest
import torch
from conftest import save_checkpoint, small_vit

from hf_vitstudy import StudyError, load_checkpoint, load_images, measure
from hf_vitstudy.analyses import Batch, NotApplicableError, attention_maps, make_analysis
from hf_vitstudy.blocks import AttentionLayer, Block
from hf_vitstudy.checkpoints import Checkpoint


QUICK = {"workers": 0, "progress": False, "batch_size": 8}


def random_attention(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).mul(2).softmax(-1)


def slow_rollout(layers: list[np.ndarray], prefix_count: int, fusion: str) -> np.ndarray:
    """Abnar & Zuidema's recursion image by image, one row of the product: (image, patch)."""
    maps = []
    for image in range(len(layers[0])):
        rolled = np.eye(layers[0].shape[-1])
        for weights in layers:
            head = weights[image].astype(np.float64)
            A = (head.mean(0) if fusion == "mean" else head.max(0)) + np.eye(head.shape[-1])
            A = A / A.sum(1)[:, None]
            rolled = A @ rolled
        row = rolled[0] if prefix_count else rolled.mean(0)
        maps.append(row[prefix_count:] / row[prefix_count:].sum())
    return np.stack(maps)


def attentions(folder, image_folder, n: int) -> list[np.ndarray]:
    """What transformers itself returns, (image, head, query, key) per layer."""
    checkpoint, images = load_checkpoint(folder), load_images(image_folder, n=n)
    pixels = torch.stack([torch.from_numpy(checkpoint.prepare(images[i][0])) for i in range(n)]).float() / 255
    with torch.no_grad():
        output = checkpoint.network(checkpoint.normalise(pixels), output_attentions=True)
    return [weights.numpy() for weights in output.attentions]


@pytest.fixture(scope="module")
def local_vit_folder(tmp_path_factory):
    """A network without a class token."""
    from hf_vitstudy.configuration_local_vit import LocalViTConfig
    from hf_vitstudy.modeling_local_vit import LocalViTForImageClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config = LocalViTConfig(image_size=32, patch_size=4, num_labels=10, pooling="mean", kernel_size=3, **sizes)
    return save_checkpoint(LocalViTForImageClassification(config).eval(), tmp_path_factory.mktemp("net") / "local")


# ----------------------------------------------------------------------------------------------------------- rollout


@pytest.mark.parametrize("fusion", attention_maps.FUSIONS)
@pytest.mark.parametrize("folder", ["vit_folder", "local_vit_folder"])
def test_rollout_is_the_recursion_on_transformers_own_attentions(folder, fusion, request, image_folder):
    folder = request.getfixturevalue(folder)
    profile = measure(folder, image_folder, n=16, analyses=[f"rollout:images=11:head_fusion={fusion}"], **QUICK)
    prefix = int(profile.data["prefix"][0])
    expected = slow_rollout(attentions(folder, image_folder, 11), prefix, fusion).reshape(11, 8, 8)
    assert profile["rollout"].dims == ("rollout_image", "rollout_row", "rollout_column")
    np.testing.assert_allclose(profile["rollout"].values, expected, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(profile["rollout"].values.sum((1, 2)), 1, rtol=1e-5)


def test_attention_to_one_place_shows_there():
    weights = torch.zeros(2, 3, 5, 5)
    weights[..., 3] = 1  # all look at the third patch
    found = attention_maps.rollout_map(attention_maps.with_skip(weights), (2, 2), 1)
    assert torch.equal(found[0], torch.tensor([[0.0, 0.0], [1.0, 0.0]]))


def test_attention_to_oneself_moves_nothing():
    identity = torch.eye(5).expand(2, 3, 5, 5)
    assert torch.equal(attention_maps.with_skip(identity), torch.eye(5).expand(2, 5, 5))
    assert torch.equal(attention_maps.with_skip(identity, "max"), torch.eye(5).expand(2, 5, 5))


@pytest.mark.parametrize("fusion", attention_maps.FUSIONS)
def test_rows_sum_to_one(fusion):
    mixed = attention_maps.with_skip(random_attention(2, 3, 6, 6), fusion)
    torch.testing.assert_close(mixed.sum(-1), torch.ones(2, 6))


def test_the_heads_do_not_differ_in_a_network_of_one():
    weights = random_attention(2, 1, 6, 6)
    torch.testing.assert_close(attention_maps.with_skip(weights), attention_maps.with_skip(weights, "max"))


def layered(grids: list[tuple[int, int]], windows: list[tuple[int, int] | None]) -> Checkpoint:
    blocks = [Block(f"b{i}", "mlp", f"b{i}", "output", grid=grid, prefix_count=1) for i, grid in enumerate(grids)]
    layers = [AttentionLayer(f"b{i}", f"b{i}.attention", window) for i, window in enumerate(windows)]
    return Checkpoint(torch.nn.Identity(), None, blocks, layers, "fake")


ABSENT = {
    "no attention": (lambda: layered([(4, 4)], []), "no layer returns attention weights"),
    "windows": (lambda: layered([(4, 4)] * 2, [None, (2, 2)]), "attend within windows or to different tokens"),
    "stages": (lambda: layered([(4, 4), (2, 2)], [None, None]), "attend within windows or to different tokens"),
}


@pytest.mark.parametrize("case", ABSENT)
def test_where_layers_do_not_follow_each_other_there_is_no_rollout(case):
    make, message = ABSENT[case]
    with pytest.raises(NotApplicableError, match=message):
        attention_maps.Rollout().start(make(), 10, 8)


def test_a_window_as_large_as_the_map_is_none():
    attention_maps.Rollout().start(layered([(4, 4)] * 2, [(4, 4), None]), 10, 8)


def test_reduced_keys_have_no_rollout(vit_folder):
    checkpoint = load_checkpoint(vit_folder)
    analysis = attention_maps.Rollout()
    analysis.start(checkpoint, 8, 8)
    analysis.grid = (4, 4)
    with pytest.raises(
        NotApplicableError, match="attends 65 queries to 65 keys in 2 rows for 2 images, not 17 tokens"
    ):
        analysis.update(batch_of(2))


def batch_of(n: int, first: int = 0) -> Batch:
    unknown = torch.full((n,), -1)
    return Batch(torch.rand(n, 3, 32, 32), None, unknown, unknown, first)


def test_images_beyond_the_first_are_not_looked_at(vit_folder):
    analysis = attention_maps.Rollout(images=10)
    analysis.start(load_checkpoint(vit_folder), 24, 8)
    sizes = [len(analysis.update(batch_of(8, first)).get("rollout", [])) for first in (0, 8, 16)]
    assert sizes == [8, 2, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rollout:head_fusion=min", "rollout:head_fusion must be one of mean, max, got 'min'"),
        ("rollout:images=0", "rollout:images must be at least 1, got 0"),
    ],
)
def test_options_are_checked(text, message):
    with pytest.raises(StudyError, match=message):
        make_analysis(text)


# ----------------------------------------------------------------------------------------------------------- entropy


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_statistics_are_scipy_s_entropy(prefix):
    from scipy.stats import entropy

    weights = random_attention(2, 3, 9 + prefix, 9 + prefix)
    weights[0, 0, :, 2] = 0
    weights = weights / weights.sum(-1, keepdim=True)
    found = attention_maps.attention_statistics(weights, prefix)
    spread = entropy(weights.double().numpy(), axis=-1)
    expected = {
        "attention_entropy": spread[..., prefix:].mean(-1),
        "relative_attention_entropy": spread[..., prefix:].mean(-1) / np.log(9 + prefix),
    }
    if prefix:
        expected["class_attention_entropy"] = spread[..., 0]
        expected["class_self_attention"] = weights[..., 0, 0].numpy()
    if prefix > 1:
        expected["class_token_attention"] = weights[..., prefix:, 0].mean(-1).numpy()
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, err_msg=name)


def test_uniform_attention_has_all_the_entropy_and_pointed_attention_none():
    uniform = attention_maps.attention_statistics(torch.full((1, 1, 8, 8), 1 / 8), 1)
    assert uniform["attention_entropy"].item() == pytest.approx(np.log(8))
    assert uniform["relative_attention_entropy"].item() == pytest.approx(1)
    pointed = attention_maps.attention_statistics(torch.eye(8)[None, None], 1)
    assert pointed["attention_entropy"].item() == 0
    assert pointed["class_self_attention"].item() == 1


def test_a_profile_holds_the_entropy_of_transformers_own_attentions(vit_folder, image_folder):
    from scipy.stats import entropy

    profile = measure(vit_folder, image_folder, n=19, analyses=["attention_entropy", "attention_distance"], **QUICK)
    expected = np.stack(
        [entropy(w.astype(np.float64), axis=-1)[..., 1:].mean(-1) for w in attentions(vit_folder, image_folder, 19)],
        axis=1,
    )
    assert profile["attention_entropy"].dims == ("image", "layer", "head")
    np.testing.assert_allclose(profile["attention_entropy"].values, expected, rtol=1e-4)
    assert profile["class_self_attention"].shape == (19, 3, 2)
    assert profile["prefix_attention"].shape == (19, 3, 2), "both measurements share the axes"
    assert profile["attention_entropy"].attrs["unit"] == "nat"
    assert profile["relative_attention_entropy"].attrs["unit"] == "1"


def test_windows_are_averaged_and_layers_may_differ_in_heads():
    checkpoint = layered([(4, 4), (4, 4)], [(2, 2), None])
    analysis = attention_maps.AttentionEntropy()
    analysis.start(checkpoint, 3, 3)
    windowed, whole = random_attention(3 * 4, 1, 4, 4), random_attention(3, 2, 17, 17, seed=1)
    for layer, weights in zip(checkpoint.layers, (windowed, whole), strict=True):
        analysis.visit_attention(layer, weights)
    found = analysis.result([analysis.update(batch_of(3))])
    assert set(found) == {"attention_entropy", "relative_attention_entropy", "layer", "head"}, (
        "windows have no class token"
    )
    values = found["attention_entropy"].values
    expected = attention_maps.entropy(windowed).mean(-1).reshape(3, 4).mean(1)
    np.testing.assert_allclose(values[:, 0, 0], expected, rtol=1e-5)
    assert np.isnan(values[:, 0, 1]).all()
    np.testing.assert_allclose(values[:, 1], attention_maps.entropy(whole)[..., 1:].mean(-1), rtol=1e-5)


@pytest.mark.parametrize("name", ["rollout", "attention_entropy"])
def test_a_network_without_attention_says_why(name, resnet_folder, image_folder):
    profile = measure(resnet_folder, image_folder, n=8, analyses=["variance", name], **QUICK)
    assert "no layer returns attention weights" in profile.provenance["absent"][name]


def test_sdpa_says_why(vit_folder, image_folder):
    profile = measure(vit_folder, image_folder, n=8, analyses=["variance", "rollout"], attn="sdpa", **QUICK)
    assert "attention implementation 'sdpa'" in profile.provenance["absent"]["rollout"]


def test_the_network_is_left_as_it_was(vit_folder):
    checkpoint = load_checkpoint(vit_folder)
    before = {name: value.clone() for name, value in checkpoint.network.state_dict().items()}
    analysis = attention_maps.Rollout()
    analysis.start(checkpoint, 8, 8)
    analysis.update(batch_of(8))
    assert all(torch.equal(value, before[name]) for name, value in checkpoint.network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in small_vit().modules())
    hooks = [hook for module in checkpoint.network.modules() for hook in module._forward_pre_hooks.values()]
    assert hooks == []

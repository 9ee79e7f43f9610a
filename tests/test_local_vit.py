"""A local ViT is transformers' own ViT but for who sees whom and what the classifier reads."""

import numpy as np
import pytest
import torch
from conftest import save_checkpoint, small_vit
from torch.nn import functional as F  # noqa: N812
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForImageClassification

from hf_vitstudy import load_checkpoint
from hf_vitstudy.configuration_local_vit import LocalViTConfig
from hf_vitstudy.modeling_local_vit import LocalViTForImageClassification, masked_backends, near, neighbourhood
from hf_vitstudy.models import register


SMALL = {
    "image_size": 32,
    "patch_size": 4,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "num_labels": 10,
}


def small_local_vit(attention: str = "eager", **changes) -> LocalViTForImageClassification:
    """3 blocks on 32 px images, 8 x 8 patches; random weights large enough for places to differ, evaluation mode."""
    torch.manual_seed(0)
    config = LocalViTConfig(**(SMALL | {"initializer_range": 0.2} | changes), attn_implementation=attention)
    return LocalViTForImageClassification(config).eval()


def images(n: int = 2) -> torch.Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(1))


# -------------------------------------------------------------------------------------------------------- the ViT itself


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_without_a_kernel_it_is_transformers_vit_to_the_bit(attention):
    network, vit = small_local_vit(attention), small_vit(attn_implementation=attention)
    assert network.load_state_dict(vit.state_dict()).missing_keys == []
    with torch.no_grad():
        ours, theirs = (model(images(), output_hidden_states=True) for model in (network, vit))
    assert torch.equal(ours.logits, theirs.logits)
    assert all(torch.equal(a, b) for a, b in zip(ours.hidden_states, theirs.hidden_states, strict=True))


def test_the_mean_is_that_of_all_patches_after_the_final_norm():
    network = small_local_vit(pooling="mean")
    assert not any("cls" in name for name in network.state_dict())
    assert network.vit.embeddings.position_embeddings.shape == (1, 64, 24)
    with torch.no_grad():
        out = network(images(), output_hidden_states=True)
        assert [tuple(h.shape) for h in out.hidden_states] == [(2, 64, 24)] * 4
        patches = network.vit.layernorm(out.hidden_states[-1])
        torch.testing.assert_close(out.logits, network.classifier(patches.sum(1) / 64))
        flat = F.unfold(images(), 4, stride=4).transpose(1, 2)  # the embedding by hand
        projection = network.vit.embeddings.patch_embeddings.projection
        embedded = flat @ projection.weight.flatten(1).T + projection.bias + network.vit.embeddings.position_embeddings
        torch.testing.assert_close(out.hidden_states[0], embedded, atol=1e-5, rtol=1e-5)


def test_positions_start_as_in_vit():
    positions = [small_local_vit(pooling=pooling).vit.embeddings.position_embeddings for pooling in ("class", "mean")]
    for position in positions:
        assert float(position.detach().std()) == pytest.approx(0.2, rel=0.1)


# ---------------------------------------------------------------------------------------------------- who sees whom


def slow_neighbours(grid: tuple[int, int], kernel: int, prefix: int) -> np.ndarray:
    """Patch by patch: push the square around each back into the grid."""
    rows, columns = grid
    seen = np.zeros((prefix + rows * columns,) * 2, dtype=bool)
    seen[:prefix] = seen[:, :prefix] = True
    for row, column in np.ndindex(rows, columns):
        top, left = row - kernel // 2, column - kernel // 2
        while top < 0:
            top += 1
        while left < 0:
            left += 1
        while top + kernel > rows:
            top -= 1
        while left + kernel > columns:
            left -= 1
        for other_row, other_column in np.ndindex(kernel, kernel):
            key = (top + other_row) * columns + left + other_column
            seen[prefix + row * columns + column, prefix + key] = True
    return seen


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("grid", [(8, 8), (5, 7)])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
def test_a_patch_sees_the_square_around_it(grid, kernel, prefix):
    found = neighbourhood(grid, kernel, prefix).numpy()
    np.testing.assert_array_equal(found, slow_neighbours(grid, kernel, prefix))
    assert (found[prefix:, prefix:].sum(1) == kernel**2).all()


def test_a_square_as_large_as_the_grid_sees_everything():
    assert neighbourhood((8, 8), 8, 1).all()
    assert near(4, 9).all()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_a_kernel_of_the_grid_is_global_attention(attention, pooling):
    outputs = []
    for kernel in (8, None, 7):
        network = small_local_vit(attention, kernel_size=kernel, pooling=pooling)
        with torch.no_grad():
            outputs.append(network(images()).logits)
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=1e-5)
    assert (outputs[0] - outputs[2]).abs().max() > 1e-3


def test_attention_stays_in_the_neighbourhood_and_eager_agrees_with_sdpa():
    for pooling in ("class", "mean"):
        found = []
        for attention in ("eager", "sdpa"):
            network = small_local_vit(attention, kernel_size=3, pooling=pooling)
            loss = network(images(), labels=torch.tensor([1, 2])).loss
            found.append([loss, *torch.autograd.grad(loss, list(network.parameters()))])
        torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)
        network.set_attn_implementation("eager")
        with torch.no_grad():
            weights = network(images(), output_attentions=True).attentions
        assert len(weights) == 3
        outside = ~torch.from_numpy(slow_neighbours((8, 8), 3, int(pooling == "class")))
        for layer in weights:
            assert float(layer[..., outside].max()) == 0
            assert float(layer[..., ~outside].min()) > 0


def test_a_change_travels_one_neighbourhood_a_block():
    """Without a class token, what a patch says is heard after n blocks where n steps of neighbours lead."""
    network = small_local_vit(kernel_size=3, pooling="mean")
    changed = images()
    changed[:, :, 16:20, 16:20] += 1  # patch (4, 4)
    with torch.no_grad():
        before, after = (network(x, output_hidden_states=True).hidden_states for x in (images(), changed))
    reached, listens = np.arange(64) == 4 * 8 + 4, slow_neighbours((8, 8), 3, 0)
    for first, second in zip(before, after, strict=True):
        np.testing.assert_array_equal((first - second).abs().amax((0, 2)) > 0, reached)
        reached = listens @ reached
    assert 9 < reached.sum() <= 64
    token = small_local_vit(kernel_size=3)  # the class token is a path from everywhere to everywhere
    with torch.no_grad():
        first, second = (token(x, output_hidden_states=True).hidden_states[2] for x in (images(), changed))
    assert ((first - second).abs().amax((0, 2)) > 0).all()


# -------------------------------------------------------------------------------------------------- training, saving


@pytest.mark.parametrize("pooling", ["class", "mean"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_gradients_reach_every_parameter(pooling, attention):
    network = small_local_vit(attention, kernel_size=3, pooling=pooling, qkv_bias=False).train()
    network(images(4), labels=torch.arange(4)).loss.backward()
    parameters = dict(network.named_parameters())
    assert len(parameters) > 40
    assert [name for name, p in parameters.items() if p.grad is None or not p.grad.abs().max() > 0] == []


@pytest.mark.parametrize(("kernel", "allowed"), [(None, True), (3, False)])
def test_a_mask_never_meets_cudnn_s_attention(kernel, allowed, monkeypatch):
    """Its gradient is NaN there, on some GPUs and for some numbers of tokens."""
    found = []
    attend = F.scaled_dot_product_attention

    def watched(*args, **kwargs):
        found.append(torch.backends.cuda.cudnn_sdp_enabled())
        return attend(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    small_local_vit("sdpa", kernel_size=kernel)(images())
    assert found == [allowed] * SMALL["num_hidden_layers"]
    assert torch.backends.cuda.cudnn_sdp_enabled() == before


def test_what_a_caller_forbids_stays_forbidden():
    """Hessians need the one kernel that can be differentiated twice."""
    with sdpa_kernel(SDPBackend.MATH):
        assert masked_backends() == [SDPBackend.MATH]


def test_half_precision_and_its_masks():
    full = small_local_vit(kernel_size=3, pooling="mean")
    with torch.no_grad():
        expected = full(images()).logits
        for attention in ("eager", "sdpa"):
            half = small_local_vit(attention, kernel_size=3, pooling="mean").to(torch.bfloat16)(images()).logits
            torch.testing.assert_close(half.float(), expected, atol=0.1, rtol=0.1)
            with torch.autocast("cpu", torch.bfloat16):
                mixed = small_local_vit(attention, kernel_size=3, pooling="mean")(images()).logits
            torch.testing.assert_close(mixed.float(), expected, atol=0.1, rtol=0.1)


def test_mixed_labels_are_probabilities():
    network, labels = small_local_vit(), torch.tensor([3, 7])
    soft = F.one_hot(labels, 10).float()
    torch.testing.assert_close(network(images(), labels=soft).loss, network(images(), labels=labels).loss)
    torch.testing.assert_close(
        network(images(), labels=labels).loss, F.cross_entropy(network(images()).logits, labels)
    )


@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_saved_loaded_and_read_like_a_vit(pooling, tmp_path):
    register()
    network = small_local_vit(kernel_size=3, pooling=pooling)
    folder = save_checkpoint(network, tmp_path / "local")
    loaded, info = AutoModelForImageClassification.from_pretrained(
        folder, attn_implementation="eager", output_loading_info=True
    )
    assert type(loaded) is LocalViTForImageClassification
    assert (loaded.config.kernel_size, loaded.config.pooling) == (3, pooling)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    before, after = network.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    with torch.no_grad():
        assert torch.equal(network(images()).logits, loaded.eval()(images()).logits)
    checkpoint = load_checkpoint(folder)
    assert [block.kind for block in checkpoint.blocks] == ["embedding", *["attention", "mlp"] * 3]
    assert {(block.grid, block.prefix_count) for block in checkpoint.blocks} == {((8, 8), int(pooling == "class"))}
    assert [layer.name for layer in checkpoint.layers] == ["block00", "block01", "block02"]
    assert checkpoint.provenance["model_type"] == "local_vit"


# ------------------------------------------------------------------------------------------------------------- errors


BAD = {
    "pooling": ({"pooling": "max"}, "pooling must be class or mean, got 'max'"),
    "kernel": ({"kernel_size": 9}, "kernel_size must be from 1 to 8 for 8 x 8 patches, got 9; use None"),
    "no kernel": ({"kernel_size": 0}, "kernel_size must be from 1 to 8 for 8 x 8 patches, got 0"),
    "oblong": (
        {"kernel_size": 5, "image_size": [16, 32]},
        "kernel_size must be from 1 to 4 for 4 x 8 patches, got 5",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_settings_that_make_no_network_are_refused(case):
    changes, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        LocalViTConfig(**SMALL | changes)


def test_images_and_masks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"pixel_values must be 32 x 32, got 40 x 40; .* resize the images"):
        small_local_vit(pooling="mean")(torch.zeros(1, 3, 40, 40))
    with pytest.raises(ValueError, match="attention_mask must be None where kernel_size makes the mask"):
        small_local_vit(kernel_size=3)(images(), attention_mask=torch.ones(2, 65))


def test_larger_images_have_larger_grids_where_positions_are_interpolated():
    network = small_local_vit(kernel_size=3)
    larger = torch.randn(1, 3, 40, 40)
    with torch.no_grad():
        weights = network(larger, interpolate_pos_encoding=True, output_attentions=True).attentions[0]
    outside = ~torch.from_numpy(slow_neighbours((10, 10), 3, 1))
    assert float(weights[..., outside].max()) == 0

"""Gram matrices of heads: the right layer in every family, sums that are subsets, and the trend over them."""

import numpy as np
import pytest
import torch
from conftest import save_checkpoint, small_vit
from oracles import minibatch_cka, u_centre
from torch import nn

from hf_vitstudy import StudyError, load_checkpoint, load_images, measure
from hf_vitstudy.analyses import Batch, NotApplicableError, heads
from hf_vitstudy.blocks import AttentionLayer, find_blocks
from hf_vitstudy.checkpoints import Checkpoint
from hf_vitstudy.comparison import compare
from hf_vitstudy.kernels import packed
from hf_vitstudy.local_heads import head_distances, head_grams, local_heads, spearman
from hf_vitstudy.profile import load_profile


QUICK = {"workers": 0, "progress": False, "batch_size": 8}


def vit():
    return small_vit(num_attention_heads=4, attn_implementation="eager")


def deit():
    from transformers import DeiTConfig, DeiTForImageClassification

    return DeiTForImageClassification(DeiTConfig(**SIZES, attn_implementation="eager"))


def beit():
    from transformers import BeitConfig, BeitForImageClassification

    return BeitForImageClassification(
        BeitConfig(**SIZES, use_relative_position_bias=True, attn_implementation="eager", layer_scale_init_value=0.1)
    )


def dinov2():
    from transformers import Dinov2Config, Dinov2ForImageClassification

    return Dinov2ForImageClassification(Dinov2Config(**SIZES, attn_implementation="eager"))


def clip():
    from transformers import CLIPVisionConfig, CLIPVisionModel

    return CLIPVisionModel(CLIPVisionConfig(**SIZES, attn_implementation="eager"))


def swin():
    from transformers import SwinConfig, SwinForImageClassification

    return SwinForImageClassification(
        SwinConfig(
            image_size=32,
            patch_size=4,
            embed_dim=24,
            depths=[2, 2],
            num_heads=[4, 4],
            window_size=4,
            attn_implementation="eager",
        )
    )


def alternet():
    from hf_vitstudy.configuration_alternet import AlterNetConfig
    from hf_vitstudy.modeling_alternet import AlterNetForImageClassification

    return AlterNetForImageClassification(
        AlterNetConfig(
            image_size=32, stem="small", embedding_size=8, hidden_sizes=[8, 16], depths=[2, 2], layer_type="basic",
            num_attention_blocks=[0, 1], num_attention_heads=[2, 4], attention_head_dim=6, window_size=4,
            attn_implementation="eager",
        )
    )  # fmt: skip


SIZES = {
    "image_size": 32, "patch_size": 4, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48,
}  # fmt: skip
FAMILIES = {"vit": vit, "deit": deit, "beit": beit, "dinov2": dinov2, "clip": clip, "swin": swin, "alternet": alternet}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    torch.manual_seed(0)
    network = FAMILIES[request.param]().eval()
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return network, find_blocks(network, pixels)[1][0], pixels


def mixed_values(network: nn.Module, layer: AttentionLayer, pixels: torch.Tensor) -> list[torch.Tensor]:
    """The attention-weighted values that torch.matmul gives within the layer: (row, head, query, channel) of each product."""
    from torch.overrides import TorchFunctionMode

    products, weights, inside = [], [], [False]

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            found = func(*args, **(kwargs or {}))
            if inside[0] and func.__name__ in ("matmul", "__matmul__"):
                products.append((args[0].clone(), found.clone()))
            return found

    module = network.get_submodule(layer.path)
    handles = [
        module.register_forward_pre_hook(lambda *_: inside.__setitem__(0, True)),
        module.register_forward_hook(lambda m, a, out: (inside.__setitem__(0, False), weights.append(out[1]))[0]),
    ]
    with torch.no_grad(), Watch():
        network(pixels)
    for handle in handles:
        handle.remove()
    return [mixed for left, mixed in products if left.shape == weights[0].shape and torch.allclose(left, weights[0])]


def test_a_head_is_what_its_attention_mixes(family):
    """Against the product of weights and values itself, whatever the family calls its modules."""
    network, layer, pixels = family
    path, count = heads.output_projection(network, layer, pixels)
    assert count == 4
    (mixed,) = mixed_values(network, layer, pixels)
    found = heads.by_head(heads.entering_input(network, path, pixels), count, len(pixels))
    expected = mixed.unflatten(0, (len(pixels), -1)).permute(2, 0, 1, 3, 4).flatten(2)
    torch.testing.assert_close(found, expected)
    assert found.abs().max() > 0


def test_the_network_is_left_as_it_was(family):
    network, layer, pixels = family
    before = {name: value.clone() for name, value in network.state_dict().items()}
    hooks = sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in network.modules())
    with torch.no_grad():
        first = network(pixels)[0]
    heads.entering_input(network, heads.output_projection(network, layer, pixels)[0], pixels)
    with torch.no_grad():
        assert torch.equal(network(pixels)[0], first)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in network.modules()) == hooks
    assert not network.training


class Outside(nn.Module):
    """Attention whose output projection lies in the module around it, as in transformers before 5."""

    def __init__(self, projected: bool = True):
        super().__init__()
        self.attention, self.dense = _Inner(), nn.Linear(8, 8) if projected else nn.Identity()

    def forward(self, x):
        return self.dense(self.attention(x)[0])


class _Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x):
        q, k, v = (layer(x).unflatten(-1, (2, 4)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        weights = (q @ k.mT).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2), weights


def test_a_projection_around_the_attention_is_found():
    layer = AttentionLayer("block00", "attention")
    network = Outside().eval()
    assert heads.output_projection(network, layer, torch.randn(2, 5, 8)) == ("dense", 2)
    with pytest.raises(NotApplicableError, match="no linear layer of attention mixes its 2 heads"):
        heads.output_projection(Outside(projected=False).eval(), layer, torch.randn(2, 5, 8))


# ---------------------------------------------------------------------------------------------------------- profiles


@pytest.fixture(scope="module")
def four_heads(tmp_path_factory):
    return save_checkpoint(vit(), tmp_path_factory.mktemp("net") / "four-heads")


@pytest.fixture(scope="module")
def profiles(four_heads, resnet_folder, image_folder):
    a = measure(four_heads, image_folder, n=30, analyses=["heads", "attention_distance"], **QUICK)
    return a, measure(resnet_folder, image_folder, n=30, analyses=["cka"], **QUICK)


def test_heads_together_are_the_sum_of_their_gram_matrices(profiles, four_heads, resnet_folder, image_folder):
    images = load_images(image_folder, n=30)
    read = {}
    for folder in (four_heads, resnet_folder):
        checkpoint = load_checkpoint(folder)
        read[folder] = (
            torch.stack([torch.from_numpy(checkpoint.prepare(images[i][0])) for i in range(30)]).float() / 255
        )
    a, b = profiles
    checkpoint = load_checkpoint(four_heads)
    path, _ = heads.output_projection(checkpoint.network, checkpoint.layers[0], torch.randn(2, 3, 32, 32))
    assert a["head_gram"].attrs["module"] == path
    features = heads.by_head(
        heads.entering_input(checkpoint.network, path, checkpoint.normalise(read[four_heads])), 4, 30
    ).numpy()
    convolutions = load_checkpoint(resnet_folder).read(read[resnet_folder])[1]
    found = local_heads(a, b)
    assert found.cumulative.sizes == {"subset": 4, "column": 4}
    for kind in (found.sliding, found.cumulative):
        for subset in range(4):
            chosen = [int(head) for head in kind["heads"].values[subset].split()]
            x = np.concatenate([features[head] for head in chosen], axis=1)
            for column in ("block00", "block03"):
                y = convolutions[column].flat.numpy()
                expected = minibatch_cka(x - x.mean(0), y - y.mean(0), 8)
                assert float(kind["cka"].isel(subset=subset).sel(column=column)) == pytest.approx(expected, abs=5e-4)


def test_subsets_go_from_local_to_global(profiles):
    found = local_heads(*profiles)
    distances = head_distances(profiles[0]).mean(0)
    assert found.sliding["heads"].values.tolist() == [str(head) for head in np.argsort(distances)]
    assert (np.diff(found.sliding["distance"]) >= 0).all()
    assert found.cumulative["distance"].values[-1] == pytest.approx(distances.mean())
    assert (found.sliding["low"] < found.sliding["cka"]).all()
    assert (found.sliding["cka"] < found.sliding["high"]).all()
    expected = spearman(found.sliding["distance"].values, found.sliding["cka"].values.mean(1))
    assert found.trend.value == pytest.approx(float(expected))
    assert found.trend.low <= found.trend.value <= found.trend.high


def test_a_profile_survives_the_disk(profiles, tmp_path):
    a, b = profiles
    again = load_profile(a.save(tmp_path / "a"))
    assert np.array_equal(head_grams(again), head_grams(a))
    assert local_heads(again, b).trend == local_heads(a, b).trend
    assert local_heads(again, b, resampling=compare(a, b).resampling).trend == local_heads(a, b).trend


def planted(profile, order: list[int], closeness: list[float], target: np.ndarray, seed: int = 0):
    """The profile with Gram blocks of heads that are as close to `target` as told, `order` from local to global."""
    rng = np.random.default_rng(seed)
    batches, n = target.shape[:2]
    grams = np.empty((len(order), batches, n, n))
    for head, close in zip(order, closeness, strict=True):
        noise = rng.normal(size=target.shape)
        noise = noise + noise.swapaxes(1, 2)
        for index, size in enumerate(profile["head_size"].values):
            grams[head, index] = 0
            grams[head, index, :size, :size] = u_centre(noise[index, :size, :size])
        grams[head] *= np.sqrt((target**2).sum() / (grams[head] ** 2).sum())
        grams[head] = close * target + (1 - close) * grams[head]
    pairs, scale = packed(grams.reshape(-1, n, n), n, "float32")
    data = profile.data.copy()
    data["head_gram"] = (data["head_gram"].dims, pairs.reshape(len(order), batches, -1), data["head_gram"].attrs)
    data["head_scale"] = (data["head_scale"].dims, scale.reshape(len(order), batches))
    return type(profile)(data, profile.provenance)


@pytest.mark.parametrize(("closeness", "trend"), [([0.9, 0.7, 0.4, 0.1], -1.0), ([0.1, 0.4, 0.7, 0.9], 1.0)])
def test_a_planted_trend_is_found(profiles, closeness, trend):
    a, b = profiles
    order = list(np.argsort(head_distances(a).mean(0)))
    target = b.gram()[1].astype(np.float64)
    found = local_heads(planted(a, order, closeness, target), b, stages=1)
    assert found.trend.value == pytest.approx(trend)
    cka = found.sliding["cka"].sel(column="block00").values
    assert (np.diff(cka) * trend > 0).all()


def test_heads_of_windows_go_by_their_own_distance(profiles):
    a, b = profiles
    data = a.data.rename({"attention_distance": "window_attention_distance"})
    renamed = type(a)(data, a.provenance)
    assert local_heads(renamed, b).trend == local_heads(a, b).trend


@pytest.mark.parametrize("seed", range(3))
def test_spearman_is_scipy_s(seed):
    from scipy.stats import spearmanr

    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 4, (2, 5, 8)).astype(float)
    expected = [spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(spearman(x, y), expected)
    assert np.isnan(spearman(np.ones(4), np.arange(4.0)))


def test_what_is_missing_or_does_not_fit_says_so(profiles, four_heads, vit_folder, resnet_folder, image_folder):
    a, b = profiles
    with pytest.raises(StudyError, match=r"4 heads give 2 subsets of 3, a trend needs at least 3"):
        local_heads(a, b, size=3)
    with pytest.raises(StudyError, match="no measurement 'head_gram'"):
        local_heads(b, a)
    other = measure(resnet_folder, image_folder, n=30, analyses=["cka:block=4"], **QUICK)
    with pytest.raises(StudyError, match=r"different batches \(8 against 4 images\)"):
        local_heads(a, other)
    fewer = type(a)(a.data.drop_vars("attention_distance"), a.provenance)
    with pytest.raises(StudyError, match="no measurement 'attention_distance'"):
        local_heads(fewer, b)


BAD = {
    "layer": ({"layer": 3}, 8, StudyError, "heads:layer must be below 3, the number of attention layers, got 3"),
    "blocks": ({"block": 3}, 8, StudyError, "Gram blocks of 3 images do not fit batches of 8"),
    "tiles": ({"block": 16}, 24, StudyError, "Gram blocks of 16 images do not fit batches of 24"),
}


@pytest.mark.parametrize("case", BAD)
def test_options_are_checked(case, four_heads):
    options, batch, error, message = BAD[case]
    with pytest.raises(error, match=message):
        heads.Heads(**options).start(load_checkpoint(four_heads), 100, batch)


def test_storage_is_checked():
    with pytest.raises(StudyError, match="heads:storage must be one of float16, float32, got 'int8'"):
        heads.Heads(storage="int8")


def test_a_network_without_attention_has_no_heads(resnet_folder):
    with pytest.raises(NotApplicableError, match="no attention layer that returns its weights"):
        heads.Heads().start(load_checkpoint(resnet_folder), 100, 8)


def test_nan_activations_are_an_error(four_heads):
    checkpoint = load_checkpoint(four_heads)
    analysis = heads.Heads()
    analysis.start(checkpoint, 8, 8)
    with torch.no_grad():
        next(p for name, p in checkpoint.network.named_parameters() if "v_proj" in name)[0, 0] = float("nan")
    unknown = torch.full((8,), -1)
    with pytest.raises(StudyError, match="give NaN or infinite activations near image 16; measure in float32"):
        analysis.update(Batch(torch.rand(8, 3, 32, 32), None, unknown, unknown, 16))


def test_parts_do_not_depend_on_the_forward_batch(four_heads, image_folder):
    one, two = (
        measure(four_heads, image_folder, n=32, analyses=["heads:block=4"], **(QUICK | {"batch_size": size}))
        for size in (4, 16)
    )
    np.testing.assert_allclose(head_grams(one), head_grams(two), atol=2e-3)
    assert one["head_size"].values.tolist() == [4] * 8


def test_a_fake_checkpoint_without_layers():
    with pytest.raises(NotApplicableError, match="no attention layer"):
        heads.Heads().start(Checkpoint(nn.Identity(), None, [], [], "fake"), 10, 8)

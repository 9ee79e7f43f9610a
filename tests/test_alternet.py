"""AlterNet computes what Park & Kim's Fig 11 draws, survives saving, and is read as convolution and attention."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from conftest import save_checkpoint, small_vit
from torch import nn
from torch.nn import functional as F  # noqa: N812
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
)

from hf_vitstudy import StudyError, load_checkpoint, load_images, measure
from hf_vitstudy.blocks import find_blocks
from hf_vitstudy.configuration_alternet import BUILD_UP, AlterNetConfig, attention_positions
from hf_vitstudy.modeling_alternet import (
    AlterNetAttention,
    AlterNetDropPath,
    AlterNetForImageClassification,
    AlterNetModel,
    from_windows,
    relative_position_index,
    to_windows,
)
from hf_vitstudy.models import FAMILIES, register


SMALL = {
    "image_size": 32,
    "stem": "small",
    "embedding_size": 8,
    "hidden_sizes": [16, 24, 32],
    "depths": [2, 4, 2],
    "num_attention_blocks": [0, 2, 1],
    "num_attention_heads": [1, 2, 3],
    "attention_head_dim": 4,
    "window_size": 4,
    "num_labels": 10,
}


def small_alternet(attention: str = "eager", **changes) -> AlterNetForImageClassification:
    """Three stages on 32 px images, whose weights and statistics are all random; evaluation mode."""
    torch.manual_seed(0)
    network = AlterNetForImageClassification(AlterNetConfig(**(SMALL | changes), attn_implementation=attention))
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if "norm" in name and value.is_floating_point():
                value.uniform_(0.5, 1.5)
            elif "table" in name:
                value.normal_()
    return network.eval()


def images(n: int = 2, size: int = 32) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


# ----------------------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("depth", "number", "expected"),
    [(3, 0, []), (3, 1, [2]), (2, 1, [1]), (4, 2, [1, 3]), (6, 1, [5]), (6, 3, [1, 3, 5]), (7, 3, [2, 4, 6])],
)
def test_attention_alternates_from_the_end_of_a_stage(depth, number, expected):
    assert attention_positions(depth, number) == expected


@pytest.mark.parametrize(("depth", "number"), [(3, 2), (1, 1), (4, -1)])
def test_a_stage_too_short_is_refused(depth, number):
    with pytest.raises(ValueError, match=rf"{number} attention blocks alternate .* got a stage of {depth}; raise"):
        attention_positions(depth, number)


def test_the_defaults_are_fig_11_and_the_build_up_adds_one_block_at_a_time():
    config = AlterNetConfig()
    assert config.depths == [3, 4, 6, 4]
    assert tuple(config.num_attention_blocks) == max(BUILD_UP, key=lambda step: step[1])[0]
    assert config.map_sizes == [(56, 56), (28, 28), (14, 14), (7, 7)]
    small = AlterNetConfig(image_size=32, stem="small", window_size=4)
    assert small.map_sizes == [(32, 32), (16, 16), (8, 8), (4, 4)]
    for number, (blocks, accuracy) in enumerate(BUILD_UP):
        assert sum(blocks) == number
        assert 82 < accuracy < 85
        AlterNetConfig(num_attention_blocks=blocks)


def test_maps_of_odd_sizes_round_up_as_strides_do():
    config = AlterNetConfig(**SMALL | {"image_size": [25, 30], "window_size": None})
    network = AlterNetModel(config).eval()
    shapes = [tuple(h.shape[2:]) for h in network(torch.randn(1, 3, 25, 30), output_hidden_states=True).hidden_states]
    assert list(dict.fromkeys(shapes)) == config.map_sizes == [(25, 30), (13, 15), (7, 8)]


BAD = {
    "stem": ({"stem": "large"}, "stem must be one of imagenet, small, got 'large'"),
    "layer type": ({"layer_type": "wide"}, "layer_type must be one of bottleneck, basic, got 'wide'"),
    "drop path": ({"drop_path_rate": 1.0}, r"drop_path_rate must be in \[0, 1\), got 1.0; 0.1 is usual"),
    "image size": ({"image_size": [32, 32, 3]}, r"image_size must be a number or \(height, width\), got \[32, 32, 3\]"),
    "lengths": ({"depths": [2, 4]}, "one entry per stage, got hidden_sizes 3, depths 2, .*; give all the same length"),
    "no stage": (
        {key: [] for key in ("hidden_sizes", "depths", "num_attention_heads", "num_attention_blocks")},
        "one entry per stage, got hidden_sizes 0",
    ),
    "depth": ({"depths": [2, 0, 2]}, r"depths must be at least 1, got \[2, 0, 2\]"),
    "channels": ({"num_channels": 0}, "num_channels must be at least 1, got 0"),
    "window": ({"window_size": 0}, "window_size must be at least 1, got 0"),
    "attention blocks": ({"num_attention_blocks": [0, -1, 0]}, r"num_attention_blocks must be at least 0, got \[0, -1, 0\]"),
    "range": ({"initializer_range": 0.0}, "initializer_range must be positive, got 0.0; 0.02 is usual"),
    "width": ({"hidden_sizes": [16, 18, 32]}, "hidden_sizes must be multiples of 4 for bottleneck blocks, got 18"),
    "short stage": ({"num_attention_blocks": [0, 3, 1]}, "stage 2: 3 attention blocks alternate .* got a stage of 4"),
    "window and map": (
        {"window_size": 7},
        "window_size must divide the maps that attention works on, got 7 for stage 2, whose map is 16 x 16",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_settings_that_make_no_network_are_refused(case):
    changes, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        AlterNetConfig(**SMALL | changes)


def test_a_window_need_not_fit_where_there_is_no_attention():
    assert AlterNetConfig(**SMALL | {"window_size": 7, "num_attention_blocks": [0, 0, 0]}).window_size == 7


# ----------------------------------------------------------------------------------------------------------- windows


@pytest.mark.parametrize("window", [(1, 1), (2, 2), (2, 3), (4, 6)])
def test_windows_hold_their_part_of_the_map_and_go_back_to_it(window):
    maps = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    found = to_windows(maps, window)
    expected = [
        [maps[b, :, top + row, left + column].tolist() for row in range(window[0]) for column in range(window[1])]
        for b in range(2)
        for top in range(0, 4, window[0])
        for left in range(0, 6, window[1])
    ]
    assert found.tolist() == expected
    assert torch.equal(from_windows(found, window, (4, 6)), maps)


@pytest.mark.parametrize("window", [(1, 1), (3, 3), (2, 4)])
def test_a_bias_belongs_to_an_offset(window):
    height, width = window
    index = relative_position_index(window)
    cells = [(row, column) for row in range(height) for column in range(width)]
    for query, (row, column) in enumerate(cells):
        for key, (other_row, other_column) in enumerate(cells):
            down, across = row - other_row + height - 1, column - other_column + width - 1
            assert index[query, key] == down * (2 * width - 1) + across
    assert set(index.flatten().tolist()) == set(range((2 * height - 1) * (2 * width - 1)))


def slow_attention(module: AlterNetAttention, maps: np.ndarray) -> np.ndarray:
    """Window by window, head by head, query by query."""
    qkv, table = (
        module.qkv.weight.detach().double().numpy(),
        module.relative_position_bias_table.detach().double().numpy(),
    )
    out, bias = module.projection.weight.detach().double().numpy(), module.projection.bias.detach().double().numpy()
    heads, dim = module.num_heads, module.head_dim
    height, width = module.attention_window
    mixed = np.zeros((len(maps), len(out), *maps.shape[2:]))
    for image, top in np.ndindex(len(maps), maps.shape[2] // height):
        for left in range(maps.shape[3] // width):
            cells = [(top * height + i, left * width + j) for i in range(height) for j in range(width)]
            inside = np.stack([maps[image, :, row, column] for row, column in cells])
            query, key, value = (inside @ part.T for part in np.split(qkv, 3))
            for q, (row, column) in enumerate(cells):
                joined = []
                for head in range(heads):
                    part = slice(head * dim, (head + 1) * dim)
                    scores = [
                        query[q, part] @ key[k, part] / math.sqrt(dim)
                        + table[(row - r + height - 1) * (2 * width - 1) + column - c + width - 1, head]
                        for k, (r, c) in enumerate(cells)
                    ]
                    share = np.exp(scores) / np.exp(scores).sum()
                    joined.append(share @ value[:, part])
                mixed[image, :, row, column] = out @ np.concatenate(joined) + bias
    return mixed


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("window", [2, 4, None])
def test_windowed_attention_is_the_definition(window, attention):
    config = AlterNetConfig(**SMALL | {"image_size": 16, "window_size": window}, attn_implementation=attention)
    module = AlterNetAttention(config, 2, in_channels=5, channels=6)
    nn.init.normal_(module.relative_position_bias_table)
    maps = torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    mixed, weights = module(maps)
    np.testing.assert_allclose(mixed.detach().numpy(), slow_attention(module, maps.double().numpy()), atol=2e-5)
    if attention == "sdpa":
        assert weights is None
    else:
        cells = 16 if window is None else window**2
        assert weights.shape == (2 * 16 // cells, 3, cells, cells)
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:3]))


# ------------------------------------------------------------------------------------------------------------ network


def plain_resnet(weights: dict[str, torch.Tensor], x: torch.Tensor, depths: list[int], convs: int) -> torch.Tensor:
    """Logits of a pre-activation ResNet with a 3 x 3 stem, written out (He et al. 2016, Fig 4e)."""

    def normed(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, var, scale, shift = (
            weights[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return F.relu(F.batch_norm(x, mean, var, scale, shift))

    x = F.conv2d(x, weights["alternet.stem.convolution.weight"], padding=1)
    for stage, depth in enumerate(depths):
        for index in range(depth):
            name = f"alternet.stages.{stage}.layers.{index}"
            stride = 2 if stage and not index else 1
            activated = normed(x, f"{name}.norm")
            shortcut = x if index else F.conv2d(activated, weights[f"{name}.shortcut.weight"], stride=stride)
            strides, paddings = ([1, stride, 1], [0, 1, 0]) if convs == 3 else ([stride, 1], [1, 1])
            for number in range(convs):
                if number:
                    activated = normed(activated, f"{name}.branch.norm{number}")
                kernel = weights[f"{name}.branch.conv{number + 1}.weight"]
                activated = F.conv2d(activated, kernel, stride=strides[number], padding=paddings[number])
            x = shortcut + activated
    return normed(x, "alternet.norm").mean((2, 3)) @ weights["classifier.weight"].T + weights["classifier.bias"]


@pytest.mark.parametrize(("kind", "convs"), [("bottleneck", 3), ("basic", 2)])
def test_without_attention_it_is_a_pre_activation_resnet(kind, convs):
    network = small_alternet(layer_type=kind, num_attention_blocks=[0, 0, 0])
    with torch.no_grad():
        expected = plain_resnet(network.state_dict(), images(), [2, 4, 2], convs)
        torch.testing.assert_close(network(images()).logits, expected, atol=1e-4, rtol=1e-4)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameters_of_resnet_50_and_alter_resnet_50():
    """From transformers' ResNet-50: the same convolutions; norms stand before them, and before the classifier."""
    with torch.device("meta"):
        post = ResNetForImageClassification(ResNetConfig(num_labels=1000))
        plain = AlterNetForImageClassification(
            AlterNetConfig(depths=[3, 4, 6, 3], num_attention_blocks=[0] * 4, num_labels=1000)
        )
        deep = AlterNetForImageClassification(AlterNetConfig(num_attention_blocks=[0] * 4, num_labels=1000))
        alter = AlterNetForImageClassification(AlterNetConfig(num_labels=1000))
    kernels = sum(parameter.numel() for parameter in post.parameters() if parameter.ndim > 1) + 1000
    entering = 64 + 2 * 256 + 256 + 3 * 512 + 512 + 5 * 1024 + 1024 + 2 * 2048
    widths = 2 * (3 * 64 + 4 * 128 + 6 * 256 + 3 * 512)
    assert count(plain) == kernels + 2 * (entering + widths + 2048) == 25_549_352
    more = 0
    for channels, heads, number in ((512, 6, 1), (1024, 12, 1), (2048, 24, 2)):
        width, inner = channels // 4, 64 * heads
        gone = 9 * width**2 + width * channels + 2 * width
        more += number * (3 * width * inner + inner * channels + channels + 13**2 * heads - gone)
    assert count(alter) == count(deep) + more


def test_outputs_have_the_shapes_and_types_of_transformers():
    network = small_alternet()
    out = network(images(), output_hidden_states=True, output_attentions=True, labels=torch.tensor([1, 2]))
    assert out.logits.shape == (2, 10)
    assert out.loss == F.cross_entropy(out.logits, torch.tensor([1, 2]))
    assert [tuple(h.shape[1:]) for h in out.hidden_states] == (
        [(8, 32, 32)] + [(16, 32, 32)] * 2 + [(24, 16, 16)] * 4 + [(32, 8, 8)] * 2
    )
    assert [tuple(a.shape) for a in out.attentions] == [(2 * 16, 2, 16, 16)] * 2 + [(2 * 4, 3, 16, 16)]
    base = network.alternet(images())
    assert base.last_hidden_state.shape == (2, 32, 8, 8)
    assert base.pooler_output.shape == (2, 32)
    assert torch.equal(network.classifier(base.pooler_output), out.logits)
    assert isinstance(network(images(), return_dict=False), tuple)
    assert network(images()).hidden_states is None


def test_mixed_labels_are_probabilities():
    network, labels = small_alternet(), torch.tensor([3, 7])
    soft = F.one_hot(labels, 10).float()
    torch.testing.assert_close(network(images(), labels=soft).loss, network(images(), labels=labels).loss)
    mixed = network(images(), labels=0.25 * soft + 0.75 * soft.flip(0)).loss
    expected = 0.25 * network(images(), labels=labels).loss + 0.75 * network(images(), labels=labels.flip(0)).loss
    torch.testing.assert_close(mixed, expected)


def test_the_imagenet_stem_divides_by_four():
    network = small_alternet(stem="imagenet", image_size=64)
    out = network(images(size=64), output_hidden_states=True)
    assert [h.shape[2] for h in out.hidden_states] == [16] * 3 + [8] * 4 + [4] * 2


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_gradients_reach_every_parameter(activation, attention):
    network = small_alternet(attention, hidden_act=activation).train()
    network(images(4), labels=torch.arange(4)).loss.backward()
    parameters = dict(network.named_parameters())
    assert len(parameters) > 60
    assert [name for name, p in parameters.items() if p.grad is None or not p.grad.abs().max() > 0] == []


def test_eager_and_sdpa_agree_in_values_and_gradients():
    found = []
    for attention in ("eager", "sdpa"):
        network = small_alternet(attention)
        loss = network(images(), labels=torch.tensor([1, 2])).loss
        found.append([loss, *torch.autograd.grad(loss, list(network.parameters()))])
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)
    network.set_attn_implementation("eager")
    assert network.alternet.stages[1].layers[3].branch.attention(torch.zeros(1, 6, 4, 4))[1] is not None


def test_eager_attention_has_second_derivatives():
    """A Hessian-vector product by double backward against differences of gradients, in float64."""
    network = small_alternet(hidden_act="gelu").double()
    weights = [p for name, p in network.named_parameters() if "attention" in name]
    assert len(weights) == 12
    torch.manual_seed(0)
    direction = [torch.randn_like(p) for p in weights]

    def gradient(step: float, **options) -> list[torch.Tensor]:
        moved = [(p + step * d).detach().requires_grad_() for p, d in zip(weights, direction, strict=True)]
        named = {name: p for name, p in network.named_parameters() if "attention" in name}
        state = dict(zip(named, moved, strict=True))
        loss = torch.func.functional_call(network, state, (images().double(), torch.tensor([1, 2]))).loss
        first = torch.autograd.grad(loss, moved, **options)
        if not options:
            return list(first)
        return list(torch.autograd.grad(sum((g * d).sum() for g, d in zip(first, direction, strict=True)), moved))

    expected = [(a - b) / 2e-5 for a, b in zip(gradient(1e-5), gradient(-1e-5), strict=True)]
    torch.testing.assert_close(gradient(0.0, create_graph=True), expected, atol=1e-6, rtol=1e-5)


def test_the_evaluated_network_is_deterministic_and_independent_of_the_batch():
    network = small_alternet(drop_path_rate=0.5)
    with torch.no_grad():
        assert torch.equal(network(images()).logits, network(images()).logits)
        torch.testing.assert_close(network(images())[0][:1], network(images()[:1])[0], atol=1e-5, rtol=1e-5)
        last = network.to(memory_format=torch.channels_last)(images().contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(last.logits, small_alternet()(images()).logits, atol=1e-5, rtol=1e-5)


def test_stochastic_depth_rises_linearly_and_keeps_the_mean():
    network = small_alternet(drop_path_rate=0.7)
    rates = [module.rate for module in network.modules() if isinstance(module, AlterNetDropPath)]
    assert rates == pytest.approx([0.1 * index for index in range(8)])
    torch.manual_seed(0)
    dropped = AlterNetDropPath(0.4).train()(torch.ones(4000, 2, 1, 1))
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.6])
    assert torch.equal(dropped[:, 0], dropped[:, 1])
    assert float(dropped.mean()) == pytest.approx(1, abs=0.05)  # standard error 0.013
    network.train()
    assert not torch.equal(network(images()).logits, network(images()).logits)


@torch.no_grad()
def test_fresh_weights_are_those_of_the_literature():
    torch.manual_seed(0)
    network = AlterNetForImageClassification(AlterNetConfig(**SMALL | {"hidden_sizes": [64, 128, 256]}))
    kernel = network.alternet.stages[2].layers[0].branch.conv1.weight  # 128 to 64 channels
    assert float(kernel.std()) == pytest.approx(math.sqrt(2 / 64), rel=0.03)  # He et al. 2015, fan out
    attention = network.alternet.stages[2].layers[1].branch.attention
    for weight in (attention.qkv.weight, attention.projection.weight, attention.relative_position_bias_table):
        assert float(weight.std()) == pytest.approx(0.02, rel=0.15)
    assert float(attention.projection.bias.abs().max()) == 0
    assert float(network.alternet.norm.weight.min()) == float(network.alternet.norm.running_var.max()) == 1


def test_images_that_do_not_fit_are_refused():
    network = small_alternet()
    assert network(images(size=64)).logits.shape == (2, 10)  # windows tile these maps too
    with pytest.raises(
        ValueError, match=r"windows of 4 x 4 do not fit a map of 10 x 10; expected images of image_size=32"
    ):
        network(images(size=20))
    with pytest.raises(
        ValueError, match=r"windows of 16 x 16 do not fit a map of 32 x 32; expected images of image_size=32"
    ):
        small_alternet(window_size=None)(images(size=64))
    with pytest.raises(ValueError, match=r"must be \(batch, 3, height, width\), got \(2, 1, 32, 32\); convert images"):
        network(images()[:, :1])


def test_weights_are_not_asked_of_sdpa():
    with pytest.raises(
        ValueError, match="'sdpa' returns no attention weights; load the network with attn_implementation='eager'"
    ):
        small_alternet("sdpa")(images(), output_attentions=True)


# ----------------------------------------------------------------------------------------------------- saving, loading


@pytest.fixture(scope="module")
def alternet_folder(tmp_path_factory):
    register()
    return save_checkpoint(small_alternet(), tmp_path_factory.mktemp("checkpoints") / "small-alternet")


def test_saved_and_loaded_to_the_bit(alternet_folder):
    network = small_alternet()
    loaded, info = AutoModelForImageClassification.from_pretrained(
        alternet_folder, attn_implementation="eager", output_loading_info=True
    )
    assert type(loaded) is AlterNetForImageClassification
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    before, after = network.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    with torch.no_grad():
        assert torch.equal(network(images()).logits, loaded.eval()(images()).logits)
        base = AutoModel.from_pretrained(alternet_folder, attn_implementation="eager").eval()
        assert torch.equal(base(images()).pooler_output, network.alternet(images()).pooler_output)
    saved, own = AutoConfig.from_pretrained(alternet_folder).to_dict(), network.config.to_dict()
    assert all(saved[key] == own[key] for key in SMALL if key != "num_labels")


@pytest.mark.parametrize("model_type", ["alternet", "local_vit"])
def test_auto_classes_know_both_families(model_type):
    register()
    register()
    config_class, network, classifier = FAMILIES[model_type]
    assert type(AutoConfig.for_model(model_type)) is config_class
    config = AutoConfig.for_model(model_type, **(SMALL if model_type == "alternet" else {"hidden_size": 24}))
    with torch.device("meta"):
        assert type(AutoModel.from_config(config)) is network
        assert type(AutoModelForImageClassification.from_config(config)) is classifier


def test_loading_a_checkpoint_registers_both_families(alternet_folder, monkeypatch):
    for model_type in FAMILIES:
        monkeypatch.delitem(CONFIG_MAPPING._extra_content, model_type)
    with pytest.raises(ValueError, match="contains custom code"):
        AutoConfig.from_pretrained(alternet_folder, trust_remote_code=False)
    assert type(load_checkpoint(alternet_folder).network) is AlterNetForImageClassification
    assert set(FAMILIES) <= set(CONFIG_MAPPING)


def test_code_beside_the_weights_is_not_run_here(alternet_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("nobody is asked"))
    config = json.loads((alternet_folder / "config.json").read_text())
    assert set(config["auto_map"]) == {"AutoConfig", "AutoModelForImageClassification"}
    assert (alternet_folder / "modeling_alternet.py").is_file()
    marker = tmp_path / "ran"
    folder = save_checkpoint(small_alternet(), tmp_path / "alternet")
    for name in ("configuration_alternet", "modeling_alternet"):
        (folder / f"{name}.py").write_text(f"open({str(marker)!r}, 'w')\n")
    checkpoint = load_checkpoint(folder)
    assert type(checkpoint.network) is AlterNetForImageClassification
    assert not marker.exists()


def test_the_code_beside_the_weights_works_without_this_package(alternet_folder, tmp_path, monkeypatch):
    """What others get who choose to trust the repository: the copies know each other and nothing else of ours."""
    from test_local_vit import small_local_vit
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    local = small_local_vit(kernel_size=3, pooling="mean")
    cases = [(alternet_folder, small_alternet()), (save_checkpoint(local, tmp_path / "local"), local)]
    for folder, network in cases:
        reference = json.loads((folder / "config.json").read_text())["auto_map"]["AutoModelForImageClassification"]
        stranger = dynamic_module_utils.get_class_from_dynamic_module(reference, folder)
        assert stranger.__module__.startswith("transformers_modules")
        assert stranger.config_class.__module__.startswith("transformers_modules")
        assert "hf_vitstudy" not in "".join(path.read_text() for path in folder.glob("*.py"))
        with torch.no_grad():
            loaded = stranger.from_pretrained(folder, attn_implementation="eager").eval()
            assert torch.equal(loaded(images()).logits, network(images()).logits)


# ------------------------------------------------------------------------------------------------------------ studying


def test_blocks_are_convolution_and_attention(alternet_folder):
    checkpoint = load_checkpoint(alternet_folder)
    kinds = ["stem", "conv", "conv", "conv", "attention", "conv", "attention", "conv", "attention"]
    assert [block.kind for block in checkpoint.blocks] == kinds
    assert [block.name for block in checkpoint.blocks][3:5] == ["block02", "block03.attention"]
    assert [block.stage for block in checkpoint.blocks] == [1, 1, 1, 2, 2, 2, 2, 3, 3]
    assert [block.depth for block in checkpoint.blocks] == pytest.approx([(index + 1) / 9 for index in range(9)])
    assert [layer.name for layer in checkpoint.layers] == ["block03", "block05", "block07"]
    assert {layer.window for layer in checkpoint.layers} == {(4, 4)}
    pixels = torch.rand(2, 3, 32, 32)
    _, states = checkpoint.read(pixels)
    with torch.no_grad():
        hidden = checkpoint.network(checkpoint.normalise(pixels), output_hidden_states=True).hidden_states
    for state, expected in zip(states.values(), hidden, strict=True):
        assert torch.equal(state.raw, expected)


@pytest.mark.parametrize("kind", ["bottleneck", "basic"])
def test_blocks_are_found_where_only_attention_keeps_the_shape(kind, tmp_path):
    network = small_alternet(layer_type=kind, depths=[2, 2, 2], num_attention_blocks=[1, 1, 1])
    checkpoint = load_checkpoint(save_checkpoint(network, tmp_path / "a"))
    assert [block.kind for block in checkpoint.blocks] == ["stem", *["conv", "attention"] * 3]


def test_a_plain_resnet_has_no_attention(tmp_path):
    folder = save_checkpoint(small_alternet(num_attention_blocks=[0, 0, 0]), tmp_path / "r")
    checkpoint = load_checkpoint(folder)
    assert [block.kind for block in checkpoint.blocks] == ["stem", *["conv"] * 8]
    assert checkpoint.layers == []


def slow_window_distance(weights: np.ndarray, window: int, cell: float) -> np.ndarray:
    """(windows, head): mean over queries of the pixels that attention crosses."""
    found = np.zeros((*weights.shape[:2], window**2))
    for place, head, query, key in np.ndindex(*weights.shape):
        down, across = query // window - key // window, query % window - key % window
        found[place, head, query] += weights[place, head, query, key] * cell * math.hypot(down, across)
    return found.mean(-1)


def test_distances_within_windows_are_the_definition(alternet_folder, image_folder):
    found = {}
    checkpoint = load_checkpoint(alternet_folder)
    profile = measure(
        checkpoint, image_folder, n=4, batch_size=4, analyses=["attention_distance"], workers=0, progress=False
    )
    chosen = [checkpoint.prepare(image) for image, _ in load_images(image_folder, n=4)]
    pixels = torch.from_numpy(np.stack(chosen))
    checkpoint.read(pixels.float() / 255, lambda *_: None, lambda layer, w: found.__setitem__(layer.name, w.numpy()))
    distances = profile["window_attention_distance"]
    assert distances.dims == ("image", "layer", "head")
    for index, (name, heads, cell) in enumerate([("block03", 2, 2.0), ("block05", 2, 2.0), ("block07", 3, 4.0)]):
        expected = slow_window_distance(found[name], 4, cell).reshape(4, -1, heads).mean(1)
        np.testing.assert_allclose(distances.values[:, index, :heads], expected, rtol=1e-4)
    assert np.isnan(distances.values[:, :2, 2]).all()
    even = [slow_window_distance(np.full((1, 1, 16, 16), 1 / 16), 4, cell)[0, 0] for cell in (2, 2, 4)]
    assert distances.attrs["uniform"] == pytest.approx(even)
    with pytest.raises(StudyError, match="no measurement 'attention_distance'; it has window_attention_distance"):
        profile["attention_distance"]


def test_attention_over_the_whole_map_has_ordinary_distances(tmp_path, image_folder):
    folder = save_checkpoint(small_alternet(window_size=None), tmp_path / "whole")
    profile = measure(
        folder, image_folder, n=4, batch_size=4, analyses=["attention_distance"], workers=0, progress=False
    )
    assert profile["attention_distance"].shape == (4, 3, 3)
    assert "window_attention_distance" not in profile.data


def test_a_vit_is_read_as_before():
    blocks, layers = find_blocks(small_vit(attn_implementation="eager"), images(3))
    assert [block.kind for block in blocks] == ["embedding", *["attention", "mlp"] * 3]
    assert {layer.window for layer in layers} == {None}

"""Blocks are found by structure, in many families, and read at the right points."""

import pytest
import torch
from conftest import small_resnet, small_vit
from torch import nn

from hf_vitstudy import StudyError
from hf_vitstudy.blocks import attention_weights, find_blocks, hooked
from hf_vitstudy.states import as_state, token_grid


def images(size: int = 32, n: int = 3) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def read(network, pixels) -> dict[str, torch.Tensor]:
    blocks, _ = find_blocks(network, pixels)
    kept = {}
    with (
        hooked(network, blocks, lambda i, raw: kept.__setitem__(blocks[i].name, raw.detach().clone())),
        torch.no_grad(),
    ):
        network(pixels)
    return kept


def test_vit_is_read_after_every_attention_and_every_mlp():
    network, pixels = small_vit(), images()
    kept = read(network, pixels)
    assert list(kept) == ["embedding", *(f"block{i:02d}.{part}" for i in range(3) for part in ("attention", "mlp"))]
    with torch.no_grad():
        hidden = network(pixels, output_hidden_states=True).hidden_states  # transformers' own record of block outputs
        for index, expected in enumerate(hidden):
            name = "embedding" if index == 0 else f"block{index - 1:02d}.mlp"
            assert torch.equal(kept[name], expected)
        for index, layer in enumerate(network.vit.layers):  # the residual stream between the sublayers, by hand
            between = hidden[index] + layer.attention(layer.layernorm_before(hidden[index]))[0]
            torch.testing.assert_close(kept[f"block{index:02d}.attention"], between)


def test_resnet_is_read_at_the_stem_and_after_every_residual_block():
    network, pixels = small_resnet(), images()
    kept = read(network, pixels)
    assert list(kept) == ["stem", *(f"block{i:02d}" for i in range(6))]
    with torch.no_grad():
        state = network.resnet.embedder(pixels)
        assert torch.equal(kept["stem"], state)
        index = 0
        for stage in network.resnet.encoder.stages:
            for layer in stage.layers:
                state = layer(state)
                assert torch.equal(kept[f"block{index:02d}"], state)
                index += 1
    assert index == 6


def test_depth_stage_and_layout_describe_the_states():
    blocks, layers = find_blocks(small_resnet(), images())
    assert [b.stage for b in blocks] == [1, 1, 1, 2, 2, 3, 3]
    assert [b.grid for b in blocks] == [(8, 8)] * 3 + [(4, 4)] * 2 + [(2, 2)] * 2
    assert [b.channels for b in blocks] == [8, 8, 8, 16, 16, 24, 24]
    assert blocks[0].depth == pytest.approx(1 / 7)
    assert blocks[-1].depth == 1
    assert layers == []
    blocks, layers = find_blocks(small_vit(attn_implementation="eager"), images())
    assert {(b.grid, b.prefix_count, b.channels, b.stage) for b in blocks} == {((8, 8), 1, 24, 1)}
    assert [layer.name for layer in layers] == ["block00", "block01", "block02"]


def test_finding_blocks_leaves_every_weight_and_buffer_as_it_was():
    for network in (small_vit(), small_resnet()):
        before = {name: value.clone() for name, value in network.state_dict().items()}
        find_blocks(network, images())
        assert before.keys() == network.state_dict().keys()
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


TRANSFORMER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 64,
    "patch_size": 8,
}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 2, 1, 1]}
SUBLAYERS = ["attention", "mlp"]
# configuration class, its arguments, kinds expected after the first place, prefix tokens
FAMILIES = {
    "beit": ("BeitConfig", {**TRANSFORMER, "layer_scale_init_value": 0.1}, SUBLAYERS * 2, 1),
    "dinov2": ("Dinov2Config", {**TRANSFORMER}, SUBLAYERS * 2, 1),
    "dinov2 with registers": ("Dinov2WithRegistersConfig", {**TRANSFORMER}, SUBLAYERS * 2, 5),
    "swin": (
        "SwinConfig",
        {"image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
        SUBLAYERS * 4,
        0,
    ),
    "swin v2, normalised after the branch": (
        "Swinv2Config",
        {"image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
        SUBLAYERS * 4,
        0,
    ),
    "convnext": ("ConvNextConfig", STAGES, ["conv"] * 5, 0),
    "regnet": (
        "RegNetConfig",
        {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [2, 2], "groups_width": 8},
        ["conv"] * 4,
        0,
    ),
    "resnet with bottlenecks": (
        "ResNetConfig",
        {"embedding_size": 8, "hidden_sizes": [32, 64], "depths": [2, 3]},
        ["conv"] * 5,
        0,
    ),
    "poolformer": ("PoolFormerConfig", {"depths": [1, 1, 2, 1], "hidden_sizes": [8, 16, 24, 32]}, ["conv"] * 5, 0),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_families_need_no_configuration(family):
    import transformers

    name, arguments, kinds, prefix_count = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, name)(**arguments)
    network = transformers.AutoModelForImageClassification.from_config(config, attn_implementation="eager").eval()
    blocks, _ = find_blocks(network, images(64))
    assert [block.kind for block in blocks[1:]] == kinds
    assert {block.prefix_count for block in blocks} == {prefix_count}
    assert len({block.name for block in blocks}) == len(blocks)


REFUSED = {
    "hiera reorders tokens": ("HieraConfig", {"image_size": [64, 64], "embed_dim": 16}, "reorders places"),
    "mobilevit regroups images": ("MobileViTConfig", {"image_size": 64}, r"regroups images \(12 rows for 3 images\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_networks_that_move_places_or_images_are_refused_with_the_reason(case):
    import transformers

    name, arguments, message = REFUSED[case]
    torch.manual_seed(0)
    config = getattr(transformers, name)(**arguments)
    network = transformers.AutoModelForImageClassification.from_config(config).eval()
    with pytest.raises(StudyError, match=message):
        find_blocks(network, images(64))


class Turned(nn.Module):
    """A residual network whose maps are transposed on entry: shapes alone cannot show it."""

    def __init__(self, turn: bool) -> None:
        super().__init__()
        self.turn = turn
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.layers = nn.ModuleList([Residual(), Residual()])

    def forward(self, pixel_values):
        x = self.stem(pixel_values)
        x = x.transpose(2, 3) if self.turn else x
        for layer in self.layers:
            x = layer(x)
        return x


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x):
        return x + self.convolution(x)


def test_a_transposed_map_is_noticed():
    torch.manual_seed(0)
    assert len(find_blocks(Turned(turn=False).eval(), images())[0]) == 3
    with pytest.raises(StudyError, match="reorders places"):
        find_blocks(Turned(turn=True).eval(), images())


class ChannelsLast(Residual):
    """Turns what enters to (image, row, column, channel), and stays there."""

    def __init__(self, turn: bool) -> None:
        super().__init__()
        self.turn = turn

    def forward(self, x):
        x = x.permute(0, 2, 3, 1) if self.turn else x
        return x + self.convolution(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def test_maps_with_channels_last_are_noticed_however_late_they_come():
    """Read as channels first, they would give spectra and maps of channels; light is looked for in the first places only."""
    torch.manual_seed(0)
    stem = nn.Conv2d(3, 6, 3, padding=1)
    network = nn.Sequential(stem, *[Residual() for _ in range(4)], *[ChannelsLast(i == 0) for i in range(2)]).eval()
    assert len(find_blocks(network[:5], images())[0]) == 5
    with pytest.raises(StudyError, match=r"5 has a map of 32 x 6 .* keeps channels last"):
        find_blocks(network, images())


def test_finding_blocks_costs_about_three_passes():
    from torch.utils.flop_counter import FlopCounterMode

    network, pixels = small_vit(num_hidden_layers=6, attn_implementation="eager"), images()
    with FlopCounterMode(display=False) as once, torch.no_grad():
        network(pixels)
    with FlopCounterMode(display=False) as search:
        find_blocks(network, pixels)
    assert search.get_total_flops() < 3.6 * once.get_total_flops()


class Plain(nn.Module):
    """No skip connections: three equal blocks in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[Chain(3 if i == 0 else 6) for i in range(3)])

    def forward(self, pixel_values):
        return self.layers(pixel_values)


class Chain(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, 6, 3, padding=1)

    def forward(self, x):
        return self.convolution(x).relu()


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Residual(), Residual()])
        self.stem = nn.Conv2d(3, 6, 1)

    def forward(self, pixel_values):
        x = self.stem(pixel_values)
        for _ in range(2):
            for layer in self.layers:
                x = layer(x)
        return x


def test_without_skip_connections_the_commonest_class_is_taken():
    blocks, _ = find_blocks(Plain().eval(), images())
    assert [block.path for block in blocks] == ["layers.0", "layers.0", "layers.1", "layers.2"]


def test_no_blocks_or_shared_blocks_are_errors():
    with pytest.raises(StudyError, match="no repeated blocks found"):
        find_blocks(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), images())
    with pytest.raises(StudyError, match="runs more than once"):
        find_blocks(Shared().eval(), images())


def test_a_pattern_reads_what_it_matches():
    blocks, _ = find_blocks(small_resnet(), images(), r".*stages\.\d\.layers\.0")
    assert [block.grid for block in blocks] == [(8, 8), (4, 4), (2, 2)]
    with pytest.raises(StudyError, match="matches no module"):
        find_blocks(small_resnet(), images(), "nothing")
    with pytest.raises(StudyError, match="no regular expression"):
        find_blocks(small_resnet(), images(), "(")


def test_attention_weights_are_told_from_other_outputs():
    weights = torch.rand(2, 3, 5, 5).softmax(-1)
    assert attention_weights((torch.rand(2, 5, 8), weights)) is weights
    assert attention_weights((torch.rand(2, 5, 8), None)) is None
    assert attention_weights((torch.rand(2, 5, 8), torch.rand(2, 3, 5, 5))) is None
    assert attention_weights(weights) is None


GRIDS = [
    (197, 1.0, (1, (14, 14))),
    (196, 1.0, (0, (14, 14))),
    (198, 1.0, (2, (14, 14))),
    (201, 1.0, (5, (14, 14))),
    (33, 2.0, (1, (4, 8))),
]


@pytest.mark.parametrize(("tokens", "aspect", "expected"), GRIDS)
def test_prefix_tokens_are_what_leaves_a_grid(tokens, aspect, expected):
    assert token_grid(tokens, aspect) == expected


def test_states_of_other_shapes_are_refused():
    with pytest.raises(StudyError, match="37 tokens form no grid of aspect 3"):
        token_grid(37, 3.0, most=2)
    with pytest.raises(StudyError, match=r"a state must be .* got \(2, 5\)"):
        as_state(torch.zeros(2, 5), 1.0)


def test_views_of_a_state_hold_the_same_numbers_in_every_layout():
    maps = torch.rand(2, 6, 4, 4)
    prefix = torch.rand(2, 1, 6)
    layouts = {
        "contiguous": as_state(maps, 1.0),
        "channels_last": as_state(maps.contiguous(memory_format=torch.channels_last), 1.0),
        "tokens": as_state(torch.cat([prefix, maps.flatten(2).transpose(1, 2)], 1), 1.0),
    }
    for name, state in layouts.items():
        assert torch.equal(state.map, maps), name
        assert torch.equal(state.tokens, maps.flatten(2).transpose(1, 2)), name
        assert state.flat.shape == (2, 6 * 16 + (6 if name == "tokens" else 0))
        assert state.flat.data_ptr() == state.raw.data_ptr(), "a view, not a copy"
        assert torch.equal(state.flat.sort(1).values, state.raw.flatten(1).sort(1).values)
    assert torch.equal(layouts["tokens"].prefix, prefix)
    assert layouts["contiguous"].prefix.shape == (2, 0, 6)

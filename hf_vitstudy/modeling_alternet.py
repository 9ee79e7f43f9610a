"""AlterNet: a pre-activation ResNet in which blocks at the ends of stages are self-attention.

Park & Kim, "How Do Vision Transformers Work?", ICLR 2022 (arXiv 2202.06709), Fig 11. Residual blocks are those of He et al.,
"Identity Mappings in Deep Residual Networks", ECCV 2016, Fig 4e; windows and relative position biases are those of Liu et
al., "Swin Transformer", ICCV 2021, Section 3.2, without the shift.

Self-contained, so that a repository on the Hub can carry it.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .configuration_alternet import EXPANSIONS, AlterNetConfig, attention_positions


# ---------------------------------------------------------------------------------------------------------- windows


def to_windows(maps: Tensor, window: tuple[int, int]) -> Tensor:
    """Cells by window: (batch, channel, height, width) to (batch·windows, height·width of a window, channel).

    Windows of one image follow each other row by row, and so do the cells of one window.
    """
    height, width = window
    cells = maps.unflatten(3, (-1, width)).unflatten(2, (-1, height))  # (batch, channel, row, height, column, width)
    return cells.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(0, 2)


def from_windows(cells: Tensor, window: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """The inverse of `to_windows` for maps of size `grid`."""
    rows, columns = grid[0] // window[0], grid[1] // window[1]
    maps = cells.unflatten(1, window).unflatten(0, (-1, rows, columns))
    return maps.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def relative_position_index(window: tuple[int, int]) -> Tensor:
    """Row of the bias table for every pair of cells of a window, (cell, cell) int64; one row per offset of key and query."""
    height, width = window
    rows, columns = (
        axis.flatten() for axis in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    )
    down = rows[:, None] - rows[None, :] + height - 1
    across = columns[:, None] - columns[None, :] + width - 1
    return down * (2 * width - 1) + across


def eager_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, *, scaling: float
) -> tuple[Tensor, Tensor]:
    """Mixed values (batch, query, head, channel) and weights (batch, head, query, key), in the type of the scores."""
    weights = (query @ key.transpose(-2, -1) * scaling + attention_mask).softmax(-1)
    return (weights.to(value.dtype) @ value).transpose(1, 2), weights


class AlterNetAttention(nn.Module):
    """Multi-head self-attention within windows of a map, with a learned bias for every offset, shared by all windows.

    Attributes:
        attention_window: (height, width) of a window in cells; says how the returned weights lie on the map.
    """

    position_index: Tensor

    def __init__(self, config: AlterNetConfig, stage: int, in_channels: int, channels: int):
        super().__init__()
        self.config, self.is_causal = config, False
        size = config.window_size
        self.attention_window = config.map_sizes[stage] if size is None else (size, size)
        self.num_heads, self.head_dim = config.num_attention_heads[stage], config.attention_head_dim
        inner = self.num_heads * self.head_dim
        self.qkv = nn.Linear(in_channels, 3 * inner, bias=config.qkv_bias)
        self.projection = nn.Linear(inner, channels)
        height, width = self.attention_window
        offsets = (2 * height - 1) * (2 * width - 1)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(offsets, self.num_heads))
        self.register_buffer("position_index", relative_position_index(self.attention_window), persistent=False)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mixed maps, (batch, channel, height, width), and the weights, (batch·windows, head, query, key); None with sdpa.

        Raises:
            ValueError: windows do not tile the map.
        """
        grid = self._checked_grid(maps)
        cells = self.qkv(to_windows(maps, self.attention_window))
        query, key, value = cells.unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.relative_position_bias_table[self.position_index].permute(2, 0, 1).to(query.dtype)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        mixed, weights = attend(self, query, key, value, bias[None], scaling=self.head_dim**-0.5)
        return from_windows(self.projection(mixed.flatten(2)), self.attention_window, grid), weights

    def _checked_grid(self, maps: Tensor) -> tuple[int, int]:
        height, width = maps.shape[2:]
        rows, columns = self.attention_window
        whole = self.config.window_size is None and (height, width) != (rows, columns)
        if whole or height % rows or width % columns:
            raise ValueError(
                f"attention windows of {rows} x {columns} do not fit a map of {height} x {width}; expected images of "
                f"image_size={self.config.image_size}, for which this network was made"
            )
        return height, width


# ----------------------------------------------------------------------------------------------------------- blocks


class AlterNetDropPath(nn.Module):
    """Drops a residual branch per image in training and scales the rest up (Huang et al., ECCV 2016)."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return branch
        kept = branch.new_empty(len(branch), 1, 1, 1).bernoulli_(1 - self.rate)
        return branch * kept / (1 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


class AlterNetBasicBranch(nn.Module):
    """Two 3 x 3 convolutions; the first has the stride."""

    def __init__(self, config: AlterNetConfig, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.activation = ACT2FN[config.hidden_act]
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, activated: Tensor) -> Tensor:
        return self.conv2(self.activation(self.norm1(self.conv1(activated))))


class AlterNetBottleneckBranch(nn.Module):
    """Convolutions of 1 x 1 to a quarter of the channels, 3 x 3 with the stride, and 1 x 1 back."""

    def __init__(self, config: AlterNetConfig, in_channels: int, channels: int, stride: int):
        super().__init__()
        width = channels // EXPANSIONS["bottleneck"]
        self.activation = ACT2FN[config.hidden_act]
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)

    def forward(self, activated: Tensor) -> Tensor:
        narrow = self.activation(self.norm1(self.conv1(activated)))
        return self.conv3(self.activation(self.norm2(self.conv2(narrow))))


class AlterNetAttentionBranch(nn.Module):
    """A 1 x 1 convolution to the width of the stage's other blocks, a norm, and attention back to all channels."""

    def __init__(self, config: AlterNetConfig, stage: int):
        super().__init__()
        channels = config.hidden_sizes[stage]
        width = channels // EXPANSIONS[config.layer_type]
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.attention = AlterNetAttention(config, stage, width, channels)

    def forward(self, activated: Tensor) -> Tensor:
        mixed, _ = self.attention(self.norm1(self.conv1(activated)))
        return mixed


class AlterNetBlock(nn.Module):
    """A residual block in pre-activation form: shortcut + branch(act(norm(x))).

    The shortcut is the untouched input, or where the shape changes a 1 x 1 convolution of the activated input. The first
    block of a stage changes its shape and is never attention.
    """

    def __init__(self, config: AlterNetConfig, stage: int, index: int, drop_path: float):
        super().__init__()
        channels = config.hidden_sizes[stage]
        in_channels = channels if index else [config.embedding_size, *config.hidden_sizes][stage]
        stride = 2 if stage > 0 and index == 0 else 1
        self.norm = nn.BatchNorm2d(in_channels)
        self.activation = ACT2FN[config.hidden_act]
        changes = stride != 1 or in_channels != channels
        self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False) if changes else None
        self.branch: nn.Module
        if index in attention_positions(config.depths[stage], config.num_attention_blocks[stage]):
            self.branch = AlterNetAttentionBranch(config, stage)
        elif config.layer_type == "basic":
            self.branch = AlterNetBasicBranch(config, in_channels, channels, stride)
        else:
            self.branch = AlterNetBottleneckBranch(config, in_channels, channels, stride)
        self.drop_path = AlterNetDropPath(drop_path)

    def forward(self, hidden_state: Tensor) -> Tensor:
        activated = self.activation(self.norm(hidden_state))
        shortcut = hidden_state if self.shortcut is None else self.shortcut(activated)
        return shortcut + self.drop_path(self.branch(activated))


# ----------------------------------------------------------------------------------------------------------- network


class AlterNetStem(nn.Module):
    """The image as a map of `embedding_size` channels; the first block brings the norm and the activation."""

    def __init__(self, config: AlterNetConfig):
        super().__init__()
        size, stride = (7, 2) if config.stem == "imagenet" else (3, 1)
        self.num_channels = config.num_channels
        self.convolution = nn.Conv2d(
            config.num_channels, config.embedding_size, size, stride, padding=size // 2, bias=False
        )
        self.pooling = nn.MaxPool2d(3, stride=2, padding=1) if config.stem == "imagenet" else nn.Identity()

    def forward(self, pixel_values: Tensor) -> Tensor:
        if pixel_values.ndim != 4 or pixel_values.shape[1] != self.num_channels:
            raise ValueError(
                f"pixel_values must be (batch, {self.num_channels}, height, width), got {tuple(pixel_values.shape)}; "
                "convert images to the channels in the configuration"
            )
        return self.pooling(self.convolution(pixel_values.to(self.convolution.weight.dtype)))


class AlterNetStage(nn.Module):
    """Blocks that share a map size."""

    def __init__(self, config: AlterNetConfig, stage: int):
        super().__init__()
        before, total = sum(config.depths[:stage]), sum(config.depths)
        rates = [config.drop_path_rate * (before + index) / max(total - 1, 1) for index in range(config.depths[stage])]
        self.layers = nn.ModuleList(AlterNetBlock(config, stage, index, rate) for index, rate in enumerate(rates))

    def forward(self, hidden_state: Tensor) -> Tensor:
        for layer in self.layers:
            hidden_state = layer(hidden_state)
        return hidden_state


class AlterNetPreTrainedModel(PreTrainedModel):
    config: AlterNetConfig
    config_class = AlterNetConfig
    base_model_prefix = "alternet"
    main_input_name = "pixel_values"
    input_modalities = ["image"]  # noqa: RUF012
    _no_split_modules = ["AlterNetStem", "AlterNetBlock"]  # noqa: RUF012
    _supports_sdpa = True
    _can_record_outputs = {"hidden_states": AlterNetBlock, "attentions": AlterNetAttention}  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """He et al., ICCV 2015, for convolutions; truncated normal for linear weights and position biases, as in Swin."""
        std = self.config.initializer_range
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, AlterNetAttention):
            init.trunc_normal_(module.relative_position_bias_table, std=std)
            init.copy_(module.position_index, relative_position_index(module.attention_window))  # no file has it
        else:
            super()._init_weights(module)


class AlterNetModel(AlterNetPreTrainedModel):
    """The network up to global average pooling."""

    def __init__(self, config: AlterNetConfig):
        super().__init__(config)
        self.stem = AlterNetStem(config)
        self.stages = nn.ModuleList(AlterNetStage(config, stage) for stage in range(len(config.depths)))
        self.norm = nn.BatchNorm2d(config.hidden_sizes[-1])
        self.activation = ACT2FN[config.hidden_act]
        self.post_init()

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, pixel_values: Tensor, output_attentions: bool | None = None, **kwargs
    ) -> BaseModelOutputWithPooling:
        """The last map after the final norm and activation, and its mean over places.

        Args:
            pixel_values: (batch, channel, height, width), normalised.
            output_attentions: also return the weights of every attention block, (batch·windows, head, query, key).
            kwargs: ``output_hidden_states=True`` also returns the stem's map and every block's, in order.

        Raises:
            ValueError: weights are asked of an implementation that never has them.
        """
        if output_attentions and self.config._attn_implementation != "eager":
            raise ValueError(
                f"attn_implementation={self.config._attn_implementation!r} returns no attention weights; "
                "load the network with attn_implementation='eager'"
            )
        hidden_state = self.stem(pixel_values)
        for stage in self.stages:
            hidden_state = stage(hidden_state)
        hidden_state = self.activation(self.norm(hidden_state))
        return BaseModelOutputWithPooling(last_hidden_state=hidden_state, pooler_output=hidden_state.mean((2, 3)))


class AlterNetForImageClassification(AlterNetPreTrainedModel):
    """`AlterNetModel` and a linear classifier."""

    def __init__(self, config: AlterNetConfig):
        super().__init__(config)
        self.alternet = AlterNetModel(config)
        self.classifier = nn.Linear(config.hidden_sizes[-1], int(config.num_labels or 0))
        self.post_init()

    @can_return_tuple
    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs) -> ImageClassifierOutput:
        """Logits (batch, class), and with labels the mean cross-entropy.

        Args:
            pixel_values: (batch, channel, height, width), normalised.
            labels: class numbers (batch,), or probabilities (batch, class) as mixing images gives them.
            kwargs: ``output_hidden_states``, ``output_attentions``: see `AlterNetModel`.
        """
        outputs = self.alternet(pixel_values, **kwargs)
        logits = self.classifier(outputs.pooler_output)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


__all__ = ["AlterNetForImageClassification", "AlterNetModel", "AlterNetPreTrainedModel"]

"""A ViT whose patches look at their neighbours only, with a class token or the mean of its patches.

Park & Kim, "How Do Vision Transformers Work?", ICLR 2022 (arXiv 2202.06709), Fig 6 and 7, compare such networks to tell what
long-range attention is good for. Where we differ: their local network attends by unfolding, which pads the border; here the
neighbourhood is shifted inwards (Hassani et al., CVPR 2023), so that every patch has equally many neighbours and only the
mask of an ordinary ViT changes.

Self-contained, so that a repository on the Hub can carry it.
"""

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.models.vit.modeling_vit import ViTModel, ViTPatchEmbeddings, ViTPreTrainedModel
from transformers.utils.generic import can_return_tuple

from .configuration_local_vit import LocalViTConfig


def near(count: int, kernel_size: int) -> Tensor:
    """Whether place `key` of `count` in a row is among the `kernel_size` nearest of place `query`, (query, key) bool."""
    places = torch.arange(count)
    first = (places - kernel_size // 2).clamp(0, max(count - kernel_size, 0))[:, None]
    return (places >= first) & (places < first + kernel_size)


def neighbourhood(grid: tuple[int, int], kernel_size: int, prefix_count: int) -> Tensor:
    """Which token sees which, (token, token) bool: a patch its square of patches; prefix tokens all, and all see them."""
    down, across = near(grid[0], kernel_size), near(grid[1], kernel_size)
    patches = (down[:, None, :, None] & across[None, :, None, :]).flatten(2).flatten(0, 1)
    return nn.functional.pad(patches, (prefix_count, 0, prefix_count, 0), value=True)


@torch.compiler.assume_constant_result
def masked_backends() -> list[SDPBackend]:
    """The attention kernels that may be used now, without cuDNN's.

    Its backward pass gives NaN on an H100 or H200 where there is a mask and the number of tokens leaves 64 when divided by 128,
    as 8 x 8 patches do (pytorch issue 196678, torch 2.11 and later).
    """
    cuda = torch.backends.cuda
    allowed = {
        SDPBackend.FLASH_ATTENTION: cuda.flash_sdp_enabled(),
        SDPBackend.EFFICIENT_ATTENTION: cuda.mem_efficient_sdp_enabled(),
        SDPBackend.MATH: cuda.math_sdp_enabled(),
    }
    return [backend for backend, yes in allowed.items() if yes]


class LocalViTPatchTokens(nn.Module):
    """Embedded patches with positions, without a class token: (batch, patch, channel)."""

    def __init__(self, config: LocalViTConfig):
        super().__init__()
        self.patch_embeddings = ViTPatchEmbeddings(config)
        self.position_embeddings = nn.Parameter(torch.zeros(1, self.patch_embeddings.num_patches, config.hidden_size))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, pixel_values: Tensor, bool_masked_pos=None, interpolate_pos_encoding=False) -> Tensor:
        size, expected = tuple(pixel_values.shape[2:]), tuple(self.patch_embeddings.image_size)
        if bool_masked_pos is not None or interpolate_pos_encoding or size != expected:
            raise ValueError(
                f"pixel_values must be {expected[0]} x {expected[1]}, got {size[0]} x {size[1]}; pooling='mean' knows neither "
                "masked patches nor other sizes, resize the images"
            )
        return self.dropout(self.patch_embeddings(pixel_values) + self.position_embeddings)


class LocalViTPreTrainedModel(ViTPreTrainedModel):
    config: LocalViTConfig
    config_class = LocalViTConfig
    _supports_flash_attn = False  # neighbourhoods are masks
    _supports_flex_attn = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LocalViTPatchTokens):
            init.trunc_normal_(module.position_embeddings, std=self.config.initializer_range)


class LocalViTModel(LocalViTPreTrainedModel, ViTModel):
    """`ViTModel` with a neighbourhood for every patch; no pooler."""

    def __init__(self, config: LocalViTConfig, add_pooling_layer: bool = False):
        super().__init__(config, add_pooling_layer=add_pooling_layer)
        if config.pooling == "mean":
            self.embeddings = LocalViTPatchTokens(config)  # type: ignore[assignment]
            self.post_init()

    def forward(
        self, pixel_values: Tensor, attention_mask: Tensor | None = None, **kwargs
    ) -> BaseModelOutputWithPooling:
        """As `ViTModel`: ``last_hidden_state`` (batch, token, channel) after the final norm.

        Raises:
            ValueError: a mask is given although the kernel makes one.
        """
        if self.config.kernel_size is not None:
            if attention_mask is not None:
                raise ValueError("attention_mask must be None where kernel_size makes the mask; use kernel_size=None")
            attention_mask = self._mask(pixel_values, self.config.kernel_size)
        with nullcontext() if attention_mask is None else sdpa_kernel(masked_backends()):
            return super().forward(pixel_values, attention_mask=attention_mask, **kwargs)

    def _mask(self, pixel_values: Tensor, kernel_size: int) -> Tensor:
        """(1, 1, token, token): added to the scores by eager attention, bool for the others. From the images' own size."""
        down, across = self.embeddings.patch_embeddings.patch_size
        grid = (pixel_values.shape[2] // down, pixel_values.shape[3] // across)
        seen = neighbourhood(grid, kernel_size, int(self.config.pooling == "class"))
        seen = seen.to(pixel_values.device)[None, None]
        if self.config._attn_implementation != "eager":
            return seen
        return torch.zeros(seen.shape, dtype=self.dtype, device=seen.device).masked_fill_(~seen, float("-inf"))


class LocalViTForImageClassification(LocalViTPreTrainedModel):
    """`LocalViTModel` and a linear classifier of the class token or of the mean patch."""

    def __init__(self, config: LocalViTConfig):
        super().__init__(config)
        self.vit = LocalViTModel(config)
        self.classifier = nn.Linear(config.hidden_size, int(config.num_labels or 0))
        self.post_init()

    @can_return_tuple
    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs) -> ImageClassifierOutput:
        """Logits (batch, class), and with labels the mean cross-entropy.

        Args:
            pixel_values: (batch, channel, height, width), normalised.
            labels: class numbers (batch,), or probabilities (batch, class) as mixing images gives them.
            kwargs: of `LocalViTModel`.
        """
        outputs = self.vit(pixel_values, **kwargs)
        tokens = outputs.last_hidden_state
        logits = self.classifier(tokens[:, 0] if self.config.pooling == "class" else tokens.mean(1))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


__all__ = ["LocalViTForImageClassification", "LocalViTModel", "LocalViTPreTrainedModel"]

"""What is there: the activations of a block in one layout, whatever the network's own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from .errors import StudyError


@dataclass(frozen=True)
class State:
    """The activations of one block for a batch of images. Nothing is copied: all fields are views of `raw`.

    A state is valid only while it is being visited: networks overwrite their activations in place.

    Attributes:
        raw: as the network holds it, (batch, channel, height, width) or (batch, token, channel).
        grid: (height, width) of the map.
        prefix_count: class, distillation and register tokens before the spatial ones.
    """

    raw: Tensor
    grid: tuple[int, int]
    prefix_count: int = 0

    @property
    def is_map(self) -> bool:
        """Whether the network itself keeps (batch, channel, height, width)."""
        return self.raw.ndim == 4

    @property
    def map(self) -> Tensor:
        """Spatial activations, (batch, channel, height, width)."""
        if self.is_map:
            return self.raw
        return self.tokens.transpose(1, 2).unflatten(2, self.grid)

    @property
    def tokens(self) -> Tensor:
        """Spatial activations, (batch, height·width, channel)."""
        if self.is_map:
            return self.raw.flatten(2).transpose(1, 2)
        return self.raw[:, self.prefix_count :]

    @property
    def prefix(self) -> Tensor:
        """Class, distillation and register tokens, (batch, prefix, channel); empty for a convolutional network."""
        if self.is_map:
            return self.raw.new_empty(len(self.raw), 0, self.raw.shape[1])
        return self.raw[:, : self.prefix_count]

    @property
    def flat(self) -> Tensor:
        """All activations, prefix included, (batch, feature). The order of features follows memory, to avoid a copy."""
        if self.is_map and not self.raw.is_contiguous():
            return self.raw.permute(0, 2, 3, 1).flatten(1)  # channels_last
        return self.raw.flatten(1)


CACHED = 1_000_000  # numbers; about as many stay in a core's cache while several steps work on them


def pieces(state: State) -> Iterator[Tensor]:
    """Spatial activations a few images at a time, (image, height, width, channel) float32.

    On a CPU several passes over a piece that fits the cache cost a fraction of the same passes over a whole layer, and no
    second copy of a layer is made. An accelerator gets the whole layer.
    """
    maps = state.tokens.unflatten(1, state.grid)
    each = CACHED * len(maps) // maps.numel() if maps.device.type == "cpu" else len(maps)
    for piece in maps.split(max(1, each)):
        yield piece.float()


def as_state(raw: Tensor, aspect: float) -> State:
    """The layout of a raw activation, from its shape alone.

    Args:
        raw: (batch, channel, height, width) or (batch, token, channel).
        aspect: width / height of the network's input, which a grid of tokens has too.

    Raises:
        StudyError: the tokens form no grid.
    """
    if raw.ndim == 4:
        return State(raw, (int(raw.shape[2]), int(raw.shape[3])))
    if raw.ndim != 3:
        raise StudyError(
            f"a state must be (batch, channel, height, width) or (batch, token, channel), got {tuple(raw.shape)}"
        )
    prefix_count, grid = token_grid(int(raw.shape[1]), aspect)
    return State(raw, grid, prefix_count)


def token_grid(tokens: int, aspect: float, most: int = 16) -> tuple[int, tuple[int, int]]:
    """The smallest number of prefix tokens that leaves a grid of the input's aspect, and that grid.

    Raises:
        StudyError: no number of up to `most` prefix tokens does.
    """
    for prefix_count in range(min(most, tokens - 1) + 1):
        spatial = tokens - prefix_count
        height = round(math.sqrt(spatial / aspect))
        if height and spatial % height == 0 and abs(spatial / height / height - aspect) < 0.01 * aspect:
            return prefix_count, (height, spatial // height)
    raise StudyError(
        f"{tokens} tokens form no grid of aspect {aspect:.3g}, with up to {most} class and register tokens"
    )

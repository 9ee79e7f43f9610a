"""Mean attention distance: how far a head looks.

Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, Fig 7 right; Raghu et al. 2021, Fig 3: the distance between the
query's and the key's patch in pixels, weighted by attention, averaged over queries.

Where we differ: published snippets weight by attention to patches only, which does not sum to one once the class token is
cut off, so their distance is scaled by one minus the attention to the class token. Here weights are renormalised over
patches, and the share of attention that went to class and register tokens is a measurement of its own. ``paper_mode`` adds
the distance without renormalisation.

A head that is confined to windows can look no further than its window. Where any layer is, distances are named
``window_attention_distance``, so that nothing compares them with those of heads that are free to look everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..blocks import AttentionLayer, Block, block_of
from ..checkpoints import Checkpoint
from .contract import Analysis, Batch, NotApplicableError, Part, joined


SOURCE = "Dosovitskiy et al. 2020, Fig 7; Raghu et al. 2021, Fig 3"


def patch_distances(grid: tuple[int, int], image_size: tuple[float, float]) -> Tensor:
    """Euclidean distances between patch centres in pixels of the network's input, (patch, patch) float32.

    Args:
        grid: (rows, columns) of patches in a map or a window.
        image_size: (height, width) in pixels that they cover.
    """
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    places = torch.stack(
        [rows.flatten() * image_size[0] / grid[0], columns.flatten() * image_size[1] / grid[1]], dim=1
    )
    return torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist")


def head_distances(weights: Tensor, distances: Tensor, prefix_count: int) -> dict[str, Tensor]:
    """Per image and head, each (batch, head): renormalised distance, distance as published, attention to prefix tokens.

    Args:
        weights: attention (batch, head, query, key), rows summing to one.
        distances: (patch, patch).
        prefix_count: class, distillation and register tokens before the patches.
    """
    spatial = weights[:, :, prefix_count:].float()
    reach = torch.nn.functional.pad(distances, (prefix_count, 0))  # prefix keys at distance 0 add nothing
    travelled = (spatial * reach).sum(-1)
    to_prefix = spatial[..., :prefix_count].sum(-1)
    to_patches = spatial.sum(-1) - to_prefix
    return {
        "attention_distance": (travelled / to_patches).mean(-1),
        "attention_distance_paper": travelled.mean(-1),
        "prefix_attention": to_prefix.mean(-1),
    }


class AttentionDistance(Analysis):
    """Mean attention distance of every head: variables (image, layer, head)."""

    name = "attention_distance"
    needs_attention = True

    def __init__(self, paper_mode: bool = False) -> None:
        self.paper_mode = paper_mode

    def start(self, checkpoint: Checkpoint, n_images: int, batch_size: int) -> None:
        if not any(block.kind in ("attention", "block", "mlp") for block in checkpoint.blocks):
            raise NotApplicableError("no attention in this network")
        if not checkpoint.layers:
            implementation = checkpoint.provenance.get("attention")
            raise NotApplicableError(
                f"attention weights are not returned (attention implementation {implementation!r})"
            )
        self.layers = checkpoint.layers
        self.image_size = checkpoint.image_size
        self.grids = {layer.name: _grid_of(layer, checkpoint.blocks) for layer in self.layers}
        self.windowed = any(self._span(layer)[0] != self.grids[layer.name][0] for layer in self.layers)
        self._distances: dict[str, Tensor] = {}
        self._batch: list[dict[str, Tensor]] = []

    def visit_attention(self, layer: AttentionLayer, weights: Tensor) -> None:
        grid, prefix_count = self.grids[layer.name]
        span, pixels = self._span(layer)
        tokens = span[0] * span[1] + prefix_count
        if tuple(weights.shape[2:]) != (tokens, tokens):
            raise NotApplicableError(
                f"{layer.name} attends {weights.shape[2]} queries to {weights.shape[3]} keys, not the {tokens} tokens of its "
                "grid to each other; distances of windowed or reduced attention are not defined here"
            )
        if layer.name not in self._distances:
            self._distances[layer.name] = patch_distances(span, pixels).to(weights.device)
        found = head_distances(weights, self._distances[layer.name], prefix_count)
        windows = grid[0] * grid[1] // (span[0] * span[1])
        self._batch.append({name: rows.unflatten(0, (-1, windows)).mean(1) for name, rows in found.items()})

    def _span(self, layer: AttentionLayer) -> tuple[tuple[int, int], tuple[float, float]]:
        """(rows, columns) of the map or window that a layer's attention covers, and its (height, width) in pixels."""
        grid, _ = self.grids[layer.name]
        span = layer.window or grid
        return span, (self.image_size[0] * span[0] / grid[0], self.image_size[1] * span[1] / grid[1])

    def update(self, batch: Batch) -> Part:
        seen, self._batch = self._batch, []
        heads = max(next(iter(found.values())).shape[1] for found in seen)

        def filled(rows: Tensor) -> Tensor:
            return torch.nn.functional.pad(rows, (0, heads - rows.shape[1]), value=float("nan"))

        return {name: torch.stack([filled(found[name]) for found in seen], dim=1).cpu().numpy() for name in seen[0]}

    def result(self, parts: list[Part]) -> dict[str, xr.Variable]:
        """By layer and head. ``uniform`` is the distance of attention that is the same everywhere, per layer in windows."""
        uniform = [float(patch_distances(*self._span(layer)).mean()) for layer in self.layers]
        found = {}
        for name in parts[0]:
            values = joined(parts, name)
            if name == "attention_distance_paper" and not self.paper_mode:
                continue
            about: dict[str, Any] = {"unit": "1", "source": SOURCE}
            if name != "prefix_attention":
                about |= {"unit": "px", "uniform": uniform if self.windowed else uniform[0]}
                name = f"window_{name}" if self.windowed else name
            about["long_name"] = name.replace("_", " ")
            found[name] = xr.Variable(("image", "layer", "head"), values, about)
        found["layer"] = xr.Variable(("layer",), [layer.name for layer in self.layers])
        found["head"] = xr.Variable(("head",), np.arange(found["prefix_attention"].shape[2]))
        return found


def _grid_of(layer: AttentionLayer, blocks: list[Block]) -> tuple[tuple[int, int], int]:
    """Grid and prefix tokens of the state at the end of the block a layer belongs to."""
    block = block_of(layer.path, blocks)
    if block is not None:
        return block.grid, block.prefix_count
    raise NotApplicableError(f"{layer.path} belongs to no block that is read, so its grid is unknown")

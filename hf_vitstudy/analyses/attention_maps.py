"""What attention weights say of a whole network and of its class token: rollout, entropy, attention of the class token.

Rollout: Abnar & Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020; Dosovitskiy et al. 2020, Fig 6, 14,
D.8: heads are averaged, the identity is added for the skip connection, rows are brought to sum one, and the matrices of all
layers are multiplied. What the class token's row gives to the patches is the map.

Entropy says how many keys a head spreads its attention over: exp(entropy) of them. It needs no grid, so it is there for
windowed attention too. How much patches attend to the class and register tokens is measured by `attention_distance`
(``prefix_attention``); here is what that one does not tell: the class token's own row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..blocks import AttentionLayer, block_of
from ..checkpoints import Checkpoint
from ..errors import StudyError
from .contract import Analysis, Batch, NotApplicableError, Part, joined


FUSIONS = ("mean", "max")
ROLLOUT_SOURCE = "Abnar & Zuidema 2020; Dosovitskiy et al. 2020, Fig 6"


def _checked_layers(checkpoint: Checkpoint) -> list[AttentionLayer]:
    if not checkpoint.layers:
        implementation = checkpoint.provenance.get("attention")
        raise NotApplicableError(f"no layer returns attention weights (attention implementation {implementation!r})")
    return checkpoint.layers


# ----------------------------------------------------------------------------------------------------------- rollout


def with_skip(weights: Tensor, head_fusion: str = "mean") -> Tensor:
    """One layer's mixing of tokens, skip connection included: (batch, query, key), rows summing to one.

    Args:
        weights: attention (batch, head, query, key).
        head_fusion: ``mean`` or ``max`` over heads.
    """
    fused = weights.float().mean(1) if head_fusion == "mean" else weights.float().amax(1)
    fused = fused + torch.eye(fused.shape[-1], device=fused.device)
    return fused / fused.sum(-1, keepdim=True)


def rollout_map(mixed: Tensor, grid: tuple[int, int], prefix_count: int) -> Tensor:
    """Where in the image the output comes from, (batch, row, column), summing to one over places.

    The class token's row of the rolled-out matrix (batch, token, token) where there is one, else the mean row of all patches.
    What stays with prefix tokens is left out.
    """
    row = mixed[:, 0] if prefix_count else mixed.mean(1)
    patches = row[:, prefix_count:]
    return (patches / patches.sum(1, keepdim=True)).unflatten(1, grid)


class Rollout(Analysis):
    """Attention rollout of the first images: ``rollout`` (rollout_image, rollout_row, rollout_column), summing to one.

    The pass is this analysis' own, so that the matrices of all tokens are multiplied for few images only.

    Args:
        head_fusion: ``mean``, as published, or ``max``.
        images: how many images to look at.
    """

    name = "rollout"
    own_passes = True
    needs_attention = True

    def __init__(self, head_fusion: str = "mean", images: int = 32) -> None:
        if head_fusion not in FUSIONS:
            raise StudyError(f"rollout:head_fusion must be one of {', '.join(FUSIONS)}, got {head_fusion!r}")
        if images < 1:
            raise StudyError(f"rollout:images must be at least 1, got {images}; 32 is usual")
        self.head_fusion, self.images = head_fusion, images

    def start(self, checkpoint: Checkpoint, n_images: int, batch_size: int) -> None:
        layers = _checked_layers(checkpoint)
        owners = [block_of(layer.path, checkpoint.blocks) for layer in layers]
        tokens = {(owner.grid, owner.prefix_count) for owner in owners if owner is not None}
        if len(tokens) != 1 or any(
            layer.window not in (None, owner and owner.grid) for layer, owner in zip(layers, owners, strict=True)
        ):
            raise NotApplicableError(
                "layers attend within windows or to different tokens, so their matrices cannot be multiplied"
            )
        ((self.grid, self.prefix_count),) = tokens
        self.checkpoint = checkpoint

    def update(self, batch: Batch) -> Part:
        few = batch.up_to(self.images)
        if few is None:
            return {}
        mixed: list[Tensor] = []

        def mix(layer: AttentionLayer, weights: Tensor) -> None:
            tokens = self.grid[0] * self.grid[1] + self.prefix_count
            if tuple(weights.shape[2:]) != (tokens, tokens) or len(weights) != len(few):
                raise NotApplicableError(
                    f"{layer.name} attends {weights.shape[2]} queries to {weights.shape[3]} keys in {len(weights)} rows for "
                    f"{len(few)} images, not {tokens} tokens to each other"
                )
            here = with_skip(weights, self.head_fusion)
            mixed[:] = [here @ mixed[0] if mixed else here]

        self.checkpoint.read(few.images, _ignored, mix)
        return {"rollout": rollout_map(mixed[0], self.grid, self.prefix_count).cpu().numpy()}

    def result(self, parts: list[Part]) -> dict[str, xr.Variable]:
        values = joined(parts, "rollout")
        about: dict[str, Any] = {"unit": "1", "source": ROLLOUT_SOURCE, "long_name": "attention rollout"}
        about["head_fusion"] = self.head_fusion
        axes = ("rollout_image", "rollout_row", "rollout_column")
        return {
            "rollout": xr.Variable(axes, values, about),
            "rollout_image": xr.Variable(axes[:1], np.arange(len(values))),
        }


def _ignored(*_: Any) -> None:
    """A visitor that looks at nothing."""


# ----------------------------------------------------------------------------------------------------------- entropy


def entropy(weights: Tensor) -> Tensor:
    """-Σ p log p over keys in nats, (batch, head, query), of attention (batch, head, query, key); 0 log 0 = 0."""
    return torch.special.entr(weights.float()).sum(-1)


def attention_statistics(weights: Tensor, prefix_count: int) -> dict[str, Tensor]:
    """Per row of a batch and head, each (batch, head): entropy, and entropy over that of attention that is equal everywhere.

    Means over the spatial queries. With prefix tokens also the class token's own entropy, its attention to itself, and, where
    it has company, the mean attention of spatial queries to it alone.

    Args:
        weights: attention (batch, head, query, key), rows summing to one.
        prefix_count: class, distillation and register tokens before the patches.
    """
    spread = entropy(weights)
    mean = spread[..., prefix_count:].mean(-1)
    uniform = float(np.log(weights.shape[-1]))
    found = {
        "attention_entropy": mean,
        "relative_attention_entropy": mean / uniform if uniform else mean * float("nan"),
    }
    if prefix_count:
        found["class_attention_entropy"] = spread[..., 0]
        found["class_self_attention"] = weights[..., 0, 0].float()
    if prefix_count > 1:
        found["class_token_attention"] = weights[..., prefix_count:, 0].float().mean(-1)
    return found


UNITS: dict[str, str] = {"attention_entropy": "nat", "class_attention_entropy": "nat"}


class AttentionEntropy(Analysis):
    """How widely every head spreads its attention: variables (image, layer, head); NaN where a layer has fewer heads.

    ``attention_entropy`` in nats and ``relative_attention_entropy`` in [0, 1] (Zhai et al., "Stabilizing Transformer Training
    by Preventing Attention Entropy Collapse", ICML 2023); with a class token ``class_attention_entropy``,
    ``class_self_attention`` and, beside other prefix tokens, ``class_token_attention``. Means over windows where there are any.
    """

    name = "attention_entropy"
    needs_attention = True

    def start(self, checkpoint: Checkpoint, n_images: int, batch_size: int) -> None:
        self.layers = _checked_layers(checkpoint)
        self.owners = {layer.path: block_of(layer.path, checkpoint.blocks) for layer in self.layers}
        self._batch: list[dict[str, Tensor]] = []

    def visit_attention(self, layer: AttentionLayer, weights: Tensor) -> None:
        owner = self.owners[layer.path]
        whole = owner is not None and weights.shape[2] == owner.grid[0] * owner.grid[1] + owner.prefix_count
        self._batch.append(attention_statistics(weights, owner.prefix_count if owner is not None and whole else 0))

    def update(self, batch: Batch) -> Part:
        seen, self._batch = self._batch, []
        common = [name for name in seen[0] if all(name in found for found in seen)]
        by_image = [
            {name: found[name].unflatten(0, (len(batch), -1)).mean(1) for name in common} for found in seen
        ]  # rows are windows, image by image
        return {name: _side_by_side([found[name] for found in by_image]).cpu().numpy() for name in common}

    def result(self, parts: list[Part]) -> dict[str, xr.Variable]:
        found = {}
        for name in parts[0]:
            about = {
                "unit": UNITS.get(name, "1"),
                "source": "Zhai et al. 2023",
                "long_name": name.replace("_", " "),
            }
            found[name] = xr.Variable(("image", "layer", "head"), joined(parts, name), about)
        found["layer"] = xr.Variable(("layer",), [layer.name for layer in self.layers])
        found["head"] = xr.Variable(("head",), np.arange(found["attention_entropy"].shape[2]))
        return found


def _side_by_side(layers: list[Tensor]) -> Tensor:
    """(image, layer, head) of one (image, head) per layer, filled up with NaN."""
    heads = max(rows.shape[1] for rows in layers)
    fill: Callable[[Tensor], Tensor] = lambda rows: torch.nn.functional.pad(  # noqa: E731
        rows, (0, heads - rows.shape[1]), value=float("nan")
    )
    return torch.stack([fill(rows) for rows in layers], dim=1)

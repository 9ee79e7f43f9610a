"""Gram matrices of single attention heads: do local heads see what a convolutional network sees?

Raghu et al., "Do Vision Transformers See Like Convolutional Neural Networks?", NeurIPS 2021, Fig 5: heads of the first layer,
taken from the most local to the most global, compared with early blocks of a ResNet by CKA. What several heads say together is
their values side by side, and the Gram matrix of features side by side is the sum of theirs; so one matrix per head is all that
a profile needs for any subset (`local_heads`).

A head's features are its part of what enters the output projection of attention, all tokens, before heads are mixed. Raghu et
al. do not say at which point they read a subset; after the projection, biases aside, it would be the same features turned by
a matrix that mixes heads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from ..blocks import AttentionLayer, attention_weights, first_tensor
from ..checkpoints import Checkpoint
from ..errors import StudyError
from ..kernels import centred_grams, packed
from .contract import Analysis, Batch, NotApplicableError, Part, joined


SOURCE = "Raghu et al. 2021, Fig 5"


class Heads(Analysis):
    """U-centred Gram blocks of every head of one layer: variables ``head_gram``, ``head_scale``, ``head_size``.

    Args:
        layer: which attention layer, from 0.
        block: images per Gram matrix; 0 means the batch size, at most 32.
        storage: ``float16`` or ``float32``.
    """

    name = "heads"
    own_passes = True
    needs_attention = (
        True  # the weights themselves are not read, but they tell layers from other modules and count heads
    )

    def __init__(self, layer: int = 0, block: int = 0, storage: str = "float16") -> None:
        if storage not in ("float16", "float32"):
            raise StudyError(f"heads:storage must be one of float16, float32, got {storage!r}")
        self.layer, self.block, self.storage = layer, block, storage

    def start(self, checkpoint: Checkpoint, n_images: int, batch_size: int) -> None:
        layers = checkpoint.layers
        if not layers:
            raise NotApplicableError("no attention layer that returns its weights, so heads cannot be told apart")
        if self.layer >= len(layers):
            raise StudyError(
                f"heads:layer must be below {len(layers)}, the number of attention layers, got {self.layer}"
            )
        self.size = self.block or min(batch_size, 32)
        if self.size < 4 or (batch_size % self.size and batch_size < n_images):
            raise StudyError(
                f"Gram blocks of {self.size} images do not fit batches of {batch_size}: blocks need at least 4 images and "
                "the batch size must be a multiple; choose --batch-size 32"
            )
        self.checkpoint = checkpoint
        pixels = torch.rand(2, 3, *checkpoint.image_size, generator=torch.Generator().manual_seed(0))
        self.projection, self.heads = output_projection(
            checkpoint.network, layers[self.layer], checkpoint.normalise(pixels)
        )

    def update(self, batch: Batch) -> Part:
        entering = entering_input(self.checkpoint.network, self.projection, self.checkpoint.normalise(batch.images))
        features = by_head(entering, self.heads, len(batch))
        found: list[Part] = []
        for part in features.split(self.size, dim=1):
            if part.shape[1] >= 4:
                pairs, scale = packed(self._finite(centred_grams(part), batch.first), self.size, self.storage)
                found.append({"gram": pairs, "scale": scale, "size": np.asarray(part.shape[1], dtype=np.int32)})
        return {name: np.stack([part[name] for part in found]) for name in found[0]} if found else {}

    def _finite(self, grams: Tensor, first: int) -> np.ndarray:
        array = grams.cpu().numpy()
        if not np.isfinite(array).all():
            raise StudyError(
                f"heads of {self.projection} give NaN or infinite activations near image {first}; measure in float32"
            )
        return array

    def result(self, parts: list[Part]) -> dict[str, xr.Variable]:
        about: dict[str, Any] = {
            "unit": "1",
            "source": SOURCE,
            "long_name": "U-centred Gram matrices of heads",
            "layer": self.checkpoint.layers[self.layer].name,
            "module": self.projection,
        }
        gram, scale = joined(parts, "gram"), joined(parts, "scale")
        rest = {"unit": "activation²", "source": SOURCE, "long_name": "largest entry of a Gram matrix of a head"}
        images = {"unit": "image", "source": SOURCE, "long_name": "images in a Gram matrix of a head"}
        return {
            "head_gram": xr.Variable(("layer_head", "head_batch", "head_pair"), gram.swapaxes(0, 1), about),
            "head_scale": xr.Variable(("layer_head", "head_batch"), scale.swapaxes(0, 1), rest),
            "head_size": xr.Variable(("head_batch",), joined(parts, "size"), images),
        }


def by_head(entering: Tensor, heads: int, images: int) -> Tensor:
    """Features of every head, (head, image, token·channel), of (rows, ..., head·channel) with equally many rows per image."""
    values = entering.unflatten(0, (images, -1)).unflatten(-1, (heads, -1))
    return values.movedim(-2, 0).flatten(2)


def output_projection(network: nn.Module, layer: AttentionLayer, pixel_values: Tensor) -> tuple[str, int]:
    """Path of the linear layer that mixes the heads of an attention layer, and the number of heads.

    Found by what runs when: the last linear layer called within attention; or, where the module that returns the weights
    leaves the projection to the module around it, the linear layer that is given its output as it is.

    Raises:
        NotApplicableError: there is no such layer, as where torch's fused attention runs.
    """
    given, after, output = _linear_inputs(network, layer, pixel_values)
    weights = attention_weights(output)
    assert weights is not None, "the layer was chosen because it returns weights"
    heads, mixed = weights.shape[1], first_tensor(output)
    if after is not None and mixed is not None and torch.equal(after[1], mixed):
        return after[0], heads
    entering = given[-1] if given else None
    if entering is None or torch.equal(entering[1], given[0][1]) or entering[1].shape[-1] % heads:
        raise NotApplicableError(
            f"no linear layer of {layer.path} mixes its {heads} heads, so they cannot be read one by one"
        )
    return entering[0], heads


Named = tuple[str, Tensor]


def _linear_inputs(
    network: nn.Module, layer: AttentionLayer, pixel_values: Tensor
) -> tuple[list[Named], Named | None, Any]:
    """(path, input) of the linear layers called within an attention layer, of the first one called after it; its output."""
    inside: list[Named] = []
    after: list[Named] = []
    output: list[Any] = []
    module = network.get_submodule(layer.path)

    def hook_for(path: str, within: bool):
        def before(_, args):
            if output and not after:
                after.append((path, args[0].clone()))
            elif within and not output:
                inside.append((path, args[0].clone()))

        return before

    handles = [module.register_forward_hook(lambda _, args, returned: output.append(returned))]
    for path, child in network.named_modules():
        if isinstance(child, nn.Linear):
            handles.append(child.register_forward_pre_hook(hook_for(path, path.startswith(layer.path + "."))))
    try:
        with torch.no_grad():
            network(pixel_values)
    finally:
        for handle in handles:
            handle.remove()
    return inside, after[0] if after else None, output[0]


class _Reached(Exception):  # noqa: N818
    """Ends a forward pass where nothing of the rest is needed."""


def entering_input(network: nn.Module, path: str, pixel_values: Tensor) -> Tensor:
    """What enters the module at `path`; the network runs no further than that."""
    kept: list[Tensor] = []

    def before(module, args):
        kept.append(args[0].clone())
        raise _Reached

    handle = network.get_submodule(path).register_forward_pre_hook(before)
    try:
        with torch.no_grad():
            network(pixel_values)
    except _Reached:
        return kept[0]
    finally:
        handle.remove()
    raise AssertionError("the module was chosen because the network runs it")

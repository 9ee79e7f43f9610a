"""Loss landscape: the loss along random directions through the trained weights.

Li et al., "Visualizing the Loss Landscape of Neural Nets", NeurIPS 2018; Park & Kim 2022, Fig 1a. Directions are normal random
numbers, scaled filter by filter to the length of the network's own filters, so that networks of different scale can be
compared; biases, normalisations, tokens and positions stay where they are.

Where we differ from the code published with Fig 1a, and why:

* A filter is what makes one output, as Li et al. define it: norms are over all axes but the first. The published code takes the
  norm over the first axis, after which filters of one layer move by between 0.7 and 4.9 times their length.
* Every point of the grid sees the same images, mixed in the same way. There, each point draws augmentations and mixtures
  anew, so the minimum lies off centre.
* The negative log likelihood is stored alone and the squared norm of the weights beside it. The published surface is the sum
  with an L2 term of *unsquared* norms, which has nothing to do with data: 85 % of the published difference between ViT and
  ResNet at the rim is this term.
* Losses are kept per image, so that intervals are possible.

``paper_mode`` adds the surface by the published definition. Batch normalisation uses running statistics in both.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from ..checkpoints import Checkpoint
from ..errors import StudyError
from ..grading import graded, mixing
from .contract import Analysis, Batch, NotApplicableError, Part, joined, require_classifier


MOST_RADIUS = 1e6
SOURCE = "Li et al. 2018; Park & Kim 2022, Fig 1a"
FILTERED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention)  # no nn.Embedding: it holds positions


class Landscape(Analysis):
    """Loss of every image on a grid of two random directions: ``landscape_nll`` (landscape_image, y, x).

    Args:
        images: the first of all to look at; each costs a forward pass for every point of the grid.
        grid: points along a direction, an odd number, so that the trained weights are one of them.
        radius: reach of the grid; 1 is as far as the weights are long, filter by filter.
        dims: 2, or 1 for a slice along the first direction.
        mixup: parameter of the Beta distribution by which images and labels of a batch are mixed; 0 leaves them alone.
        seed: of the directions and of the mixing.
        paper_mode: also by the published code's directions, with its weight term.
    """

    name = "landscape"
    needs_labels = True
    own_passes = True

    def __init__(
        self,
        images: int = 64,
        grid: int = 11,
        radius: float = 1.0,
        dims: int = 2,
        mixup: float = 0.0,
        seed: int = 0,
        paper_mode: bool = False,
    ) -> None:
        if grid < 3 or grid % 2 == 0:
            raise StudyError(f"landscape:grid must be odd and at least 3, got {grid}; 11 and 21 are usual")
        if dims not in (1, 2):
            raise StudyError(f"landscape:dims must be 1 or 2, got {dims}")
        if not 0 < radius <= MOST_RADIUS:
            raise StudyError(f"landscape:radius must be above 0 and at most {MOST_RADIUS:g}, got {radius}")
        if images < 1:
            raise StudyError(f"landscape:images must be at least 1, got {images}; 64 is usual")
        self.images, self.grid, self.radius, self.dims = images, grid, radius, dims
        self.mixup, self.seed, self.paper_mode = mixup, seed, paper_mode

    def start(self, checkpoint: Checkpoint, n_images: int, batch_size: int) -> None:
        require_classifier(checkpoint)
        self.checkpoint = checkpoint
        self.steps = np.linspace(-self.radius, self.radius, self.grid)
        self.rows = self.steps if self.dims == 2 else np.zeros(1)
        network = checkpoint.network
        self.directions = {"": [filter_direction(network, self.seed, axis) for axis in range(2)]}
        if self.paper_mode:
            self.directions["paper_"] = [published_direction(network, self.seed, axis) for axis in range(2)]

    def update(self, batch: Batch) -> Part:
        seen = batch.up_to(self.images)
        if seen is None:
            return {}
        network, found = self.checkpoint.network, {}
        for name, (across, up) in self.directions.items():
            surface = np.zeros((len(seen), len(self.rows), self.grid), np.float32)
            with moved(network) as move:
                for i, y in enumerate(self.rows):
                    for j, x in enumerate(self.steps):
                        move((float(x), across), (float(y), up))
                        surface[:, i, j] = self._losses(seen)
            found[f"{name}nll"] = surface
        return found

    def _losses(self, batch: Batch) -> np.ndarray:
        """NLL of every image, NaN without a label, (batch,)."""
        share, order = mixing(len(batch), self.mixup, (self.seed, batch.first))
        images, labels = batch.images, batch.labels
        if share < 1:
            images = share * images + (1 - share) * images[order]
        logits = self.checkpoint.network(self.checkpoint.normalise(images)).logits
        loss = graded(logits, labels)["nll"]
        return loss if share == 1 else share * loss + (1 - share) * graded(logits, labels[order])["nll"]

    def result(self, parts: list[Part]) -> dict[str, xr.Variable]:
        if np.isnan(joined(parts, "nll")).all():
            raise NotApplicableError("no image has a label among the checkpoint's classes; use images of its classes")
        about = {"source": SOURCE, "mixup": self.mixup, "batch_norm": "eval", "seed": self.seed}
        grid = ("landscape_y", "landscape_x")
        found: dict[str, xr.Variable] = {
            "landscape_x": xr.Variable(("landscape_x",), self.steps),
            "landscape_y": xr.Variable(("landscape_y",), self.rows),
        }
        for name in self.directions:
            words = "loss along filter-normalised directions" if not name else "loss along the published directions"
            about_loss = {**about, "unit": "nat", "long_name": words}
            found[f"landscape_{name}nll"] = xr.Variable(
                ("landscape_image", *grid), joined(parts, f"{name}nll"), about_loss
            )
            term = "squared norm of all weights / 2" if not name else "sum of the norms of all weights, not squared"
            about_norm = {**about, "unit": "parameter²" if not name else "parameter", "long_name": term}
            found[f"landscape_{name}l2"] = xr.Variable(grid, self._norms(name), about_norm)
        return found

    def _norms(self, name: str) -> np.ndarray:
        """Size of the weights at every point: ½ Σ ‖w‖², or Σ ‖w‖ as published; (y, x) float64."""
        across, up = self.directions[name]
        parameters = dict(self.checkpoint.network.named_parameters())
        surface = np.zeros((len(self.rows), self.grid))
        for key, parameter in parameters.items():
            products = _products([parameter, across.get(key), up.get(key)])
            steps = np.stack(np.broadcast_arrays(1.0, self.steps[None, :], self.rows[:, None]), axis=-1)
            square = np.einsum("yxi,ij,yxj->yx", steps, products, steps).clip(0)
            surface += np.sqrt(square) if name else square / 2
        return surface


def _products(vectors: list[Tensor | None]) -> np.ndarray:
    """Inner products of vectors, float64; zero for a direction that does not move this parameter."""
    found = np.zeros((len(vectors), len(vectors)))
    for i, first in enumerate(vectors):
        for j, second in enumerate(vectors):
            if first is not None and second is not None:
                found[i, j] = float(first.detach().flatten().double() @ second.detach().flatten().double())
    return found


# ------------------------------------------------------------------------------------------------------- directions


def _normal(name: str, like: Tensor, seed: int, axis: int) -> Tensor:
    """Standard normal numbers, the same for the same parameter on every device."""
    rng = np.random.default_rng((seed, axis, zlib.crc32(name.encode())))
    return torch.from_numpy(rng.standard_normal(tuple(like.shape), dtype=np.float32)).to(like.device, like.dtype)


def filter_direction(network: nn.Module, seed: int, axis: int) -> dict[str, Tensor]:
    """A random direction whose filters are as long as the network's (Li et al. 2018, section 4), by parameter.

    Weights of linear and convolutional layers and of torch's packed attention only: a filter is one row, ‖d_i‖ = ‖w_i‖.
    """
    found = {}
    for name, weight in _filtered(network):
        direction = _normal(name, weight, seed, axis)
        lengths = (part.flatten(1).norm(dim=1).clamp_min(1e-12) for part in (weight, direction))
        ratio = next(lengths) / next(lengths)
        found[name] = direction * ratio.view(-1, *[1] * (weight.ndim - 1))
    return found


def _filtered(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and values of the parameters whose rows are filters."""
    for path, module in network.named_modules():
        if isinstance(module, FILTERED):
            for name, parameter in module.named_parameters(path, recurse=False):
                if name.endswith("weight"):  # neither biases nor the rows that attention adds to keys
                    yield name, parameter.detach()


def published_direction(network: nn.Module, seed: int, axis: int) -> dict[str, Tensor]:
    """A random direction as the code published with Park & Kim 2022 scales it, by parameter.

    Norms are over the first axis; parameters of fewer than two axes and positions do not move; class tokens do.
    """
    found = {}
    for name, parameter in network.named_parameters():
        if parameter.ndim < 2 or any(
            word in name for word in ("position_embedding", "pos_embed", "relative_position")
        ):
            continue
        weight, direction = parameter.detach(), _normal(name, parameter, seed, axis)
        found[name] = direction * weight.norm(dim=0, keepdim=True) / (direction.norm(dim=0, keepdim=True) + 1e-7)
    return found


@contextmanager
def moved(network: nn.Module) -> Iterator:
    """Yields a function that sets the weights to w + Σ step · direction; afterwards they are w, to the bit."""
    parameters = dict(network.named_parameters())
    kept = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    def move(*steps: tuple[float, dict[str, Tensor]]) -> None:
        for name, parameter in parameters.items():
            parameter.copy_(kept[name])
            for step, direction in steps:
                if step and name in direction:
                    parameter.add_(direction[name], alpha=step)

    try:
        yield move
    finally:
        for name, parameter in parameters.items():
            parameter.copy_(kept[name])

"""Each block's features in a few fixed random directions: coordinates of all images, for orthogonal Procrustes.

Gram blocks hold only what images of one batch have in common; a measure over all images needs coordinates. A Gaussian
projection keeps inner products on average (Johnson & Lindenstrauss 1984) and needs no pass over the images first. It is too
coarse for CKA, which it biases low; `Comparison.cka` reads Gram blocks.
"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..blocks import Block
from ..checkpoints import Checkpoint
from ..errors import StudyError
from ..states import State
from .contract import Analysis, Batch, NotApplicableError, Part, joined


POOLS = ("mean", "cls", "flatten")
MOST_DIRECTIONS = 16_384
CHUNK = 8_192  # features projected at once; their directions are drawn from a seed of their own
CONSTANT = 1e-9  # variance / |mean|² below which a block is the same for every image
KEPT = 16_000_000  # numbers; directions of a wider block are drawn anew for every batch
SOURCE = "Ding, Denain & Steinhardt 2021; Williams et al. 2021; projection: Johnson & Lindenstrauss 1984"


def directions(features: int, dim: int, seed: int, chunk: int) -> Tensor:
    """Gaussian directions of one chunk of features, (feature of the chunk, dim) float32; a function of its arguments only."""
    width = min(CHUNK, features - chunk * CHUNK)
    state = int(np.random.SeedSequence([seed, features, chunk]).generate_state(1, np.uint64)[0] >> 1)
    return torch.randn(width, dim, generator=torch.Generator().manual_seed(state)) / dim**0.5


class Projection(Analysis):
    """Coordinates of every image: ``projection`` (image, block, projection) float16 and ``projection_scale`` (block).

    The mean over all images is subtracted and each block divided by its largest coordinate, ``projection_scale``, so that
    halves neither overflow nor lose digits to a mean that all images share.

    Args:
        dim: directions.
        pool: ``mean`` over places, ``cls`` token, or ``flatten``: all activations.
        seed: of the directions, which depend on it and the number of features alone.
    """

    name = "projection"

    def __init__(self, dim: int = 64, pool: str = "mean", seed: int = 0) -> None:
        if pool not in POOLS:
            raise StudyError(f"projection:pool must be one of {', '.join(POOLS)}, got {pool!r}")
        if not 1 <= dim <= MOST_DIRECTIONS:
            raise StudyError(f"projection:dim must be 1 to {MOST_DIRECTIONS}, got {dim}; 64 is usual")
        self.dim, self.pool, self.seed = dim, pool, seed

    def start(self, checkpoint: Checkpoint, n_images: int, batch_size: int) -> None:
        if self.pool == "cls" and not all(block.prefix_count for block in checkpoint.blocks):
            raise NotApplicableError("no class token in this network")
        self._names = [block.name for block in checkpoint.blocks]
        self._batch: list[Tensor] = []
        self._kept: dict[tuple[int, int, torch.device], Tensor] = {}

    def visit(self, block: Block, state: State) -> None:
        features = {
            "mean": lambda: state.tokens.mean(1),
            "cls": lambda: state.prefix[:, 0],
            "flatten": lambda: torch.cat([state.prefix.flatten(1), state.tokens.flatten(1)], 1),
        }[self.pool]()
        chunks = features.split(CHUNK, dim=1)
        self._batch.append(
            torch.stack([part.float() @ self._directions(features, i) for i, part in enumerate(chunks)]).sum(0)
        )

    def _directions(self, features: Tensor, chunk: int) -> Tensor:
        width = features.shape[1]
        key = (width, chunk, features.device)
        if key in self._kept:
            return self._kept[key]
        drawn = directions(width, self.dim, self.seed, chunk).to(features.device)
        if width * self.dim <= KEPT:
            self._kept[key] = drawn
        return drawn

    def update(self, batch: Batch) -> Part:
        seen, self._batch = self._batch, []
        found = torch.stack(seen, 1).cpu().numpy()
        if not np.isfinite(found).all():
            image, block = np.argwhere(~np.isfinite(found).all(2))[0]
            raise StudyError(
                f"{self._names[block]} gives NaN or infinite activations for image {batch.first + image}; measure in float32"
            )
        return {"projection": found}

    def result(self, parts: list[Part]) -> dict[str, xr.Variable]:
        values = joined(parts, "projection").astype(np.float64)
        mean = values.mean(0)
        values -= mean
        constant = (values**2).mean(0).sum(-1) <= CONSTANT * (mean**2).sum(-1)
        values[:, constant] = 0  # what rounding leaves of a block that is the same for every image is no signal
        scale = np.abs(values).max((0, 2))
        values /= np.where(scale > 0, scale, 1)[:, None]
        about = {"unit": "largest coordinate", "source": SOURCE, "long_name": "random projection of the features"}
        settings = {"pool": self.pool, "dim": self.dim, "seed": self.seed}
        unit = {"unit": "activation", "source": SOURCE, "long_name": "largest coordinate of the random projection"}
        return {
            "projection": xr.Variable(
                ("image", "block", "projection_axis"), values.astype(np.float16), about | settings
            ),
            "projection_scale": xr.Variable(("block",), scale.astype(np.float32), unit),
        }

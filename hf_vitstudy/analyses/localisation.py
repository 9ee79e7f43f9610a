"""Localisation: does a token of the last blocks still stand for its own patch of the image?

Raghu et al., "Do Vision Transformers See Like Convolutional Neural Networks?", NeurIPS 2021, Fig 9, D.1-D.3: CKA over images
of one token with the pixels of one patch, for every token and every patch. In a convolutional network the token is all
channels at one place. Patches are the cells of the final map, cut from the pixels that the network is shown.

Linear CKA with unbiased HSIC, summed over batches before the one division, as in `cka.py`. Summaries per block, for all
tokens and apart for those inside and those at the edge of the map, since edge tokens resemble other edge patches as well:

* ``localisation_share``: of tokens whose most similar patch is their own; chance is one in as many as there are patches. Noise
  in CKA lowers it, so it grows with the number of images: compare networks on the same images only.
* ``localisation_distance``: in pixels, from a token to the patch most similar to it.
* ``localisation_margin``: CKA with the own patch minus mean CKA with all others; needs no argmax, so it has less noise.

Each comes with ``_without``, its values on random two thirds of the batches, and ``_error``, the standard error that follows:
estimate ± 1.96 · error is a 95 % interval. For a statistic that is not smooth, as an argmax, a large part of the data must be
left out (Shao & Wu, Annals of Statistics 1989). In simulations such intervals held the truth 93 to 100 times in a hundred;
leaving out a twentieth at a time made them twice as wide, and the bootstrap was too narrow. Which batches are left out depends
on their number alone, so the draws of two networks are paired: the error of a difference is the standard deviation of the
difference of their draws, times the attribute ``error_factor``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..blocks import Block
from ..checkpoints import Checkpoint
from ..errors import StudyError
from ..kernels import centred_grams
from ..states import State
from .contract import Analysis, Batch, NotApplicableError, Part


SOURCE = "Raghu et al. 2021, Fig 9"
REGIONS = ("all", "interior", "edge")
UNITS = {"share": "1", "distance": "px", "margin": "CKA"}
DRAWS = 60
MOST_BYTES = 2 * 2**30  # of sums that are kept until the end


def patch_pixels(images: Tensor, grid: tuple[int, int]) -> list[Tensor]:
    """The pixels of every cell of a grid laid over images, row by row: (batch, channel·height·width) each.

    Cells differ by a pixel in size where the grid does not divide the image.
    """
    rows = [row for part in images.tensor_split(grid[0], 2) for row in part.tensor_split(grid[1], 3)]
    return [cell.flatten(1) for cell in rows]


def patch_grams(images: Tensor, grid: tuple[int, int]) -> Tensor:
    """U-centred Gram matrices of the pixels of every cell, (cell, image, image)."""
    cells = patch_pixels(images, grid)
    if len({cell.shape[1] for cell in cells}) == 1:
        return centred_grams(torch.stack(cells))
    return torch.cat([centred_grams(cell[None]) for cell in cells])


class Localisation(Analysis):
    """CKA of every token of the last blocks with every patch of the image.

    Args:
        last: how many blocks, counted from the end; those of another map size than the last are left out.
        block: images per Gram matrix; 0 means the batch size, at most 32.
    """

    name = "localisation"

    def __init__(self, last: int = 2, block: int = 0) -> None:
        if last < 1:
            raise StudyError(f"localisation:last must be at least 1, got {last}; 2 is usual")
        self.last, self.block = last, block

    def start(self, checkpoint: Checkpoint, n_images: int, batch_size: int) -> None:
        self.size = self.block or min(batch_size, 32)
        self.blocks = last_blocks(checkpoint.blocks, self.last)
        self.grid, self.image_size = self.blocks[-1].grid, checkpoint.image_size
        places = self.grid[0] * self.grid[1]
        if places < 2:
            raise NotApplicableError("the last map has a single place, so no token stands for a patch")
        parts = -(-n_images // batch_size)
        if self.size < 4 or n_images < batch_size + 4:
            raise StudyError(
                f"localisation needs at least two batches of at least 4 images for its interval, got {n_images} images in "
                f"batches of {batch_size}, {self.size} to a Gram matrix; measure more images or choose a smaller --batch-size"
            )
        needed = 4 * parts * len(self.blocks) * places**2
        if needed > MOST_BYTES:
            raise StudyError(
                f"localisation of {places} tokens in {len(self.blocks)} blocks keeps {needed / 2**30:.1f} GiB for {parts} "
                f"batches, at most {MOST_BYTES / 2**30:.0f} GiB are allowed; "
                "use localisation:last=1, fewer images or larger batches"
            )
        self._batch: list[list[Tensor]] = []

    def visit(self, block: Block, state: State) -> None:
        if block in self.blocks:
            parts = [part for part in state.tokens.split(self.size) if len(part) >= 4]
            self._batch.append([centred_grams(part.transpose(0, 1)) for part in parts])

    def update(self, batch: Batch) -> Part:
        seen, self._batch = self._batch, []
        images = [part for part in batch.images.split(self.size) if len(part) >= 4]
        if not images:
            return {}
        patches = [patch_grams(part, self.grid).flatten(1) for part in images]
        tokens = [[gram.flatten(1) for gram in grams] for grams in seen]
        cross = [_total(a @ b.T for a, b in zip(grams, patches, strict=True)) for grams in tokens]
        return {
            "cross": torch.stack(cross).float().cpu().numpy()[None],
            "tokens": torch.stack([_squares(grams) for grams in tokens]).cpu().numpy()[None],
            "patches": _squares(patches).cpu().numpy()[None],
        }

    def result(self, parts: list[Part]) -> dict[str, xr.Variable]:
        kept = [part for part in parts if part]
        left_out = draws_without(len(kept))
        total = _summed(kept)
        cka = token_cka(total)
        without = [_without(kept, total, places) for places in left_out]
        found = self._summaries(cka, without, left_out.shape[1] / len(kept))
        about = {"unit": "1", "source": SOURCE, "long_name": "CKA of tokens with patches", "grid": list(self.grid)}
        axes = ("localisation_block", "localisation_token", "localisation_patch")
        found["localisation_cka"] = xr.Variable(axes, cka.astype(np.float16), about)
        found["localisation_block"] = xr.Variable(axes[:1], [block.name for block in self.blocks])
        found["localisation_region"] = xr.Variable(("localisation_region",), list(REGIONS))
        return found

    def _summaries(self, cka: np.ndarray, without: list[np.ndarray], left_out: float) -> dict[str, xr.Variable]:
        estimate = summaries(cka, self.grid, self.image_size)
        replicates = [summaries(cells, self.grid, self.image_size) for cells in without]
        chance = summaries(None, self.grid, self.image_size)
        factor = float(np.sqrt((1 - left_out) / left_out))
        found = {}
        for key, unit in UNITS.items():
            rows = np.stack([replicate[key] for replicate in replicates])
            about: dict[str, Any] = {"unit": unit, "source": SOURCE, "chance": [float(v) for v in chance[key][0]]}
            name, text, axes = (
                f"localisation_{key}",
                f"localisation {key}",
                ("localisation_block", "localisation_region"),
            )
            found[name] = xr.Variable(axes, estimate[key], about | {"long_name": text})
            found[f"{name}_error"] = xr.Variable(
                axes, factor * rows.std(0), about | {"long_name": f"standard error of {text}"}
            )
            about |= {"long_name": f"{text} of some of the batches", "error_factor": factor}
            found[f"{name}_without"] = xr.Variable(("localisation_draw", *axes), rows, about)
        return found


def draws_without(batches: int) -> np.ndarray:
    """Places of the batches that each draw leaves out, a third of all, (draw, batch); the same for every network."""
    rng = np.random.default_rng(0)
    count = max(1, round(batches / 3))
    return np.stack([rng.permutation(batches)[:count] for _ in range(DRAWS)])


def _summed(parts: list[Part]) -> dict[str, np.ndarray]:
    return {name: np.stack([part[name][0] for part in parts]).sum(0, dtype=np.float64) for name in parts[0]}


def _without(parts: list[Part], total: dict[str, np.ndarray], places: np.ndarray) -> np.ndarray:
    left_out = _summed([parts[place] for place in places])
    return token_cka({name: total[name] - left_out[name] for name in total})


def last_blocks(blocks: list[Block], count: int) -> list[Block]:
    """The last `count` whole blocks, of the last one's map size: points inside a block are left out."""
    ends = [block for block in blocks if block.side == "output"][-count:]
    return [block for block in ends if block.grid == ends[-1].grid]


def _total(terms: Any) -> Tensor:
    return torch.stack(list(terms)).sum(0)


def _squares(grams: list[Tensor]) -> Tensor:
    return _total(gram.square().sum(1) for gram in grams)


def token_cka(sums: dict[str, np.ndarray]) -> np.ndarray:
    """(block, token, patch) from sums over batches; NaN for a token or patch that is the same in every image.

    Args:
        sums: inner products of Gram matrices: ``cross`` (block, token, patch), ``tokens`` (block, token), ``patches`` (patch,).
    """
    norms = sums["tokens"][:, :, None] * sums["patches"]
    defined = norms > 0
    return np.divide(
        sums["cross"], np.sqrt(np.where(defined, norms, 1)), out=np.full(norms.shape, np.nan), where=defined
    )


def summaries(cka: np.ndarray | None, grid: tuple[int, int], image_size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Share of tokens at their own patch, distance to the most similar patch, and margin, each (block, region).

    Args:
        cka: (block, token, patch), token i at patch i; None gives the expectations if all patches were equally likely.
        grid: (rows, columns) of patches.
        image_size: (height, width) in pixels.
    """
    distances = _patch_distances(grid, image_size)
    places = len(distances)
    if cka is None:
        tokens = {
            "share": np.full((1, places), 1 / places),
            "distance": distances.mean(1)[None],
            "margin": np.zeros((1, places)),
        }
    else:
        undefined = np.isnan(cka).all(2)
        best = np.where(np.isnan(cka), -np.inf, cka).argmax(2)
        own = np.diagonal(cka, axis1=1, axis2=2)
        others = (np.nansum(cka, 2) - np.nan_to_num(own)) / np.maximum((~np.isnan(cka)).sum(2) - ~np.isnan(own), 1)
        tokens = {
            "share": np.where(undefined, np.nan, best == np.arange(places)),
            "distance": np.where(undefined, np.nan, distances[np.arange(places), best]),
            "margin": own - others,
        }
    regions = np.stack(list(_regions(grid)))
    return {name: _means(values, regions) for name, values in tokens.items()}


def _means(values: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Means of token values (block, token) over regions (region, token), NaN left out; NaN for a region without tokens."""
    known = np.isfinite(values).astype(float)
    count = known @ regions.T
    return np.divide(np.nan_to_num(values) @ regions.T, count, out=np.full(count.shape, np.nan), where=count > 0)


def _regions(grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    inside = np.zeros(grid)
    inside[1:-1, 1:-1] = 1
    return np.ones(inside.size), inside.ravel(), 1 - inside.ravel()


def _patch_distances(grid: tuple[int, int], image_size: tuple[int, int]) -> np.ndarray:
    """Distances between patch centres in pixels, (patch, patch)."""
    rows, columns = (axis.ravel() for axis in np.indices(grid))
    down = (rows[:, None] - rows) * image_size[0] / grid[0]
    across = (columns[:, None] - columns) * image_size[1] / grid[1]
    return np.hypot(down, across)

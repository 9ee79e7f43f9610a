"""What is learnt of the image's plane and colours before the first block: position embeddings and the filters of the stem.

Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, Fig 7 left: principal components of the filters that embed patches;
Fig 7 centre, Fig 10: similarity of each place's position embedding to all others. Both are properties of the weights alone.

Where we differ: a popular snippet of the second drops the last place instead of the class token's; here the class token's
embedding is found by the grid of the first block. The paper's text does not say which similarity; here it is the
cosine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from torch import nn

from ..blocks import Block
from ..checkpoints import Checkpoint
from ..errors import StudyError
from ..states import token_grid
from .contract import Analysis, NotApplicableError, Part


PARTS = ("row", "column", "rest")
TOP = 28  # components in the figure


class PositionEmbedding(Analysis):
    """How alike the learnt embeddings of places are.

    Variables ``position_similarity`` (position_place, position_other): cosines; ``position_distance_correlation``
    (position_place): Spearman's correlation of a place's similarity to all others with their distance on the grid, -1 where it
    falls strictly with distance; ``position_share`` (position_part): of the variance of embeddings over places, what the row
    explains, what the column explains, and the rest (two-way analysis of variance; sums to one).
    """

    name = "position_embedding"

    def start(self, checkpoint: Checkpoint, n_images: int, batch_size: int) -> None:
        aspect = checkpoint.image_size[1] / checkpoint.image_size[0]
        self.parameter, embedding = position_parameter(checkpoint.network, checkpoint.blocks[0], aspect)
        prefix_count, self.grid = token_grid(len(embedding), aspect)
        self.embedding = embedding[prefix_count:]

    def result(self, parts: list[Part]) -> dict[str, xr.Variable]:
        source = "Dosovitskiy et al. 2020, Fig 7, Fig 10"
        cosines = cosine_similarity(self.embedding)
        about: dict[str, Any] = {"unit": "1", "source": source}
        here = about | {"grid": list(self.grid), "parameter": self.parameter}
        axes = ("position_place", "position_other")
        return {
            "position_similarity": xr.Variable(
                axes, cosines.astype(np.float16), here | {"long_name": "cosine of position embeddings"}
            ),
            "position_distance_correlation": xr.Variable(
                axes[:1],
                distance_correlation(cosines, self.grid),
                about | {"long_name": "rank correlation of similarity with distance"},
            ),
            "position_share": xr.Variable(
                ("position_part",),
                row_column_shares(self.embedding, self.grid),
                about | {"long_name": "share of the variance of position embeddings"},
            ),
            "position_part": xr.Variable(("position_part",), list(PARTS)),
        }


def position_parameter(network: nn.Module, first: Block, aspect: float) -> tuple[str, np.ndarray]:
    """Name and values (token, channel) float64 of the learnt position embedding, one vector per token that enters a block.

    Found by shape: (1, token, channel), or (token, channel) of an embedding table, with the tokens and channels of what enters
    the first block. Where positions are stretched to another image size, no shape fits; then what is named a position and forms
    a grid.

    Raises:
        NotApplicableError: there is none, or it is fixed.
    """
    tables = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding)}
    candidates = {}
    for name, parameter in network.named_parameters():
        values = parameter[0] if parameter.ndim == 3 and len(parameter) == 1 else parameter
        if values.ndim == 2 and (parameter.ndim == 3 or id(parameter) in tables) and values.shape[1] == first.channels:
            candidates[name] = values
    places = first.grid[0] * first.grid[1]
    exact = [name for name, values in candidates.items() if places <= len(values) <= places + first.prefix_count]
    stretched = [
        name for name, values in candidates.items() if "pos" in name.lower() and _forms_grid(len(values), aspect)
    ]
    if not exact + stretched:
        raise NotApplicableError(
            f"no learnt position embedding: no parameter holds {first.channels} numbers for each of the {places} places of the "
            "first block; positions may be relative, rotary, a fixed sinusoid, or given by convolutions alone"
        )
    name = (exact + stretched)[0]
    if not network.get_parameter(name).requires_grad:
        raise NotApplicableError(f"{name} is fixed, not learnt: its similarities are those of its formula")
    return name, candidates[name].detach().cpu().double().numpy()


def _forms_grid(tokens: int, aspect: float) -> bool:
    if tokens < 4:
        return False
    try:
        token_grid(tokens, aspect)
    except StudyError:
        return False
    return True


def cosine_similarity(vectors: np.ndarray) -> np.ndarray:
    """Cosines of all pairs of vectors (place, channel), (place, place); NaN for a zero vector."""
    norms = np.linalg.norm(vectors, axis=1)
    products = norms[:, None] * norms
    return np.divide(vectors @ vectors.T, products, out=np.full(products.shape, np.nan), where=products > 0)


def distance_correlation(similarity: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Spearman's correlation of similarity (place, place) with distance on the grid, over the other places: (place,)."""
    from scipy.stats import spearmanr

    rows, columns = (axis.ravel() for axis in np.indices(grid))
    distance = np.hypot(rows[:, None] - rows, columns[:, None] - columns)
    found = np.full(len(similarity), np.nan)
    for place, row in enumerate(similarity):
        others = np.arange(len(row)) != place
        if np.ptp(row[others]) > 0 and np.ptp(distance[place, others]) > 0:  # undefined where either is constant
            found[place] = spearmanr(row[others], distance[place, others]).statistic
    return found


def row_column_shares(vectors: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Shares of the variance over places that rows, columns and the rest explain, (3,); NaN where all vectors are equal.

    Args:
        vectors: (place, channel), places row by row.
        grid: (rows, columns).
    """
    maps = vectors.reshape(*grid, -1)
    maps = maps - maps.mean((0, 1))
    total = (maps**2).mean((0, 1)).sum()
    row, column = ((maps.mean(axis) ** 2).mean(0).sum() for axis in (1, 0))
    return np.array([row, column, total - row - column]) / total if total > 0 else np.full(3, np.nan)


# ------------------------------------------------------------------------------------------------------------ filters


class PatchFilters(Analysis):
    """Principal components of the filters of the first convolution, strongest first, at most 28.

    Variables ``filter_component`` (filter_rank, filter_colour, filter_row, filter_column): unit length, the largest entry
    positive, in terms of the normalised pixels the network is shown; ``filter_variance`` (filter_rank): share of the filters'
    variance; ``filter_smoothness`` (filter_rank): correlation of neighbouring pixels, see `smoothness`.
    """

    name = "patch_filters"

    def start(self, checkpoint: Checkpoint, n_images: int, batch_size: int) -> None:
        self.path, convolution = first_convolution(checkpoint.network)
        self.kind = "patch embedding" if convolution.kernel_size == convolution.stride else "stem"
        self.filters = convolution.weight.detach().cpu().double().numpy()

    def result(self, parts: list[Part]) -> dict[str, xr.Variable]:
        components, shares = principal_components(self.filters)
        components, shares = components[:TOP], shares[:TOP]
        about: dict[str, Any] = {
            "unit": "1",
            "source": "Dosovitskiy et al. 2020, Fig 7 left",
            "module": self.path,
            "layer": self.kind,
        }
        axes = ("filter_rank", "filter_colour", "filter_row", "filter_column")
        return {
            "filter_component": xr.Variable(
                axes, components.astype(np.float32), about | {"long_name": "principal component of the filters"}
            ),
            "filter_variance": xr.Variable(axes[:1], shares, about | {"long_name": "share of the filters' variance"}),
            "filter_smoothness": xr.Variable(
                axes[:1], smoothness(components), about | {"long_name": "correlation of neighbouring pixels"}
            ),
            "filter_colour": xr.Variable(("filter_colour",), ["red", "green", "blue"]),
        }


def first_convolution(network: nn.Module) -> tuple[str, nn.Conv2d]:
    """Path and module of the first convolution of the three colours whose kernel has more than one pixel.

    Raises:
        NotApplicableError: there is none.
    """
    for path, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3 and max(module.kernel_size) > 1:
            return path, module
    raise NotApplicableError("no convolution of the image's three colours, so there are no filters to decompose")


def principal_components(filters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Components of filters (filter, colour, row, column), of the same shape, and their shares of the variance over filters.

    The mean filter is subtracted. The sign of a component means nothing; here its largest entry is positive.
    """
    flat = filters.reshape(len(filters), -1)
    _, values, rows = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    largest = rows[np.arange(len(rows)), np.abs(rows).argmax(1)]
    rows = rows * np.where(largest < 0, -1, 1)[:, None]
    total = (values**2).sum()
    shares = values**2 / total if total > 0 else np.full(len(values), np.nan)
    return rows.reshape(len(rows), *filters.shape[1:]), shares


def smoothness(filters: np.ndarray) -> np.ndarray:
    """Mean product of horizontally and vertically neighbouring pixels over the mean square, (filter,).

    1 for a filter of one value, about 0 for white noise, -1 for a chessboard; NaN for a filter of zeros.

    Args:
        filters: (filter, colour, row, column), at least two pixels.
    """
    down = filters[:, :, 1:] * filters[:, :, :-1]
    across = filters[:, :, :, 1:] * filters[:, :, :, :-1]
    pairs = down[0].size + across[0].size
    neighbours = (down.sum((1, 2, 3)) + across.sum((1, 2, 3))) / pairs
    square = (filters**2).mean((1, 2, 3))
    return np.divide(neighbours, square, out=np.full(len(filters), np.nan), where=square > 0)

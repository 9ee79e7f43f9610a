"""Effective receptive field: which pixels a place in the middle of a state depends on.

Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks", NeurIPS 2016; Raghu et al.
2021, Fig 6 and App. C: the size of the gradient of a state's central place with respect to the input, for 32 images; after the
residual addition, and before it (App. C.4), where what the skip carries on does not hide what the branch looks at.

Where we differ: the published figure takes the gradient of the *mean over channels*, in which channels of opposite sign cancel,
and which is exactly zero behind a layer normalisation without weights. Here channels are weighted by independent normal
numbers, drawn anew for every image and place read: with J the Jacobian of the central place, E|v·J| = sqrt(2/pi)·||J||, so that
each pixel's expectation is its norm over channels. ``paper_mode`` takes the mean over channels.

A map of even size has no central cell: (height // 2, width // 2) is taken, and distances are measured from that cell's centre.
Colours are added up. Every image's map sums to one before the mean over images, so that no image outweighs another.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..blocks import Block, hooked
from ..branches import branches_hooked
from ..checkpoints import Checkpoint
from ..errors import StudyError
from ..states import State
from .contract import Analysis, Batch, Part, joined


SOURCE = "Raghu et al. 2021, Fig 6 and App. C; Luo et al. 2016"
FRACTIONS = (0.5, 0.95)
MAP_SIDE = 32  # cells a side, at most, of the map that is kept for figures


def centre_of(
    grid: tuple[int, int], size: tuple[int, int], cell: tuple[int, int] | None = None
) -> tuple[float, float]:
    """(row, column) in pixels of the centre of a cell, by default of the central one; pixel (0, 0) covers 0 to 1."""
    row, column = cell or (grid[0] // 2, grid[1] // 2)
    return (row + 0.5) * size[0] / grid[0], (column + 0.5) * size[1] / grid[1]


def _offsets(
    grid: tuple[int, int], size: tuple[int, int], cell: tuple[int, int] | None = None
) -> tuple[Tensor, Tensor]:
    """Distance of every pixel's centre from a cell's, down and across, (height, 1) and (1, width) float64."""
    row, column = centre_of(grid, size, cell)
    rows = torch.arange(size[0], dtype=torch.float64) + 0.5 - row
    columns = torch.arange(size[1], dtype=torch.float64) + 0.5 - column
    return rows.abs()[:, None], columns.abs()[None]


def radii(maps: Tensor, grid: tuple[int, int], cell: tuple[int, int] | None = None) -> Tensor:
    """Radius in pixels around a cell's centre, by default the central one's, with half and 95 % of a map's mass, (batch, 2).

    Args:
        maps: (batch, height, width), not negative. NaN for a map of zeros.
        grid: (rows, columns) of cells over the map.
    """
    down, across = _offsets(grid, (maps.shape[1], maps.shape[2]), cell)
    # rounded, so that pixels at the same distance are one step whatever the order of their sum
    distances = (down.square() + across.square()).sqrt().mul(1e6).round().div(1e6).flatten()
    rings, ring = distances.unique(return_inverse=True)
    flat = maps.cpu().double().flatten(1)
    mass = torch.zeros(len(flat), len(rings), dtype=torch.float64).index_add_(1, ring, flat).cumsum(1)
    total = mass[:, -1:]
    # a rounding error below, an exact half must count as reached
    reached = [(mass >= total * fraction * (1 - 1e-9)).double().argmax(1) for fraction in FRACTIONS]
    return torch.where(total > 0, torch.stack([rings[index] for index in reached], dim=1), float("nan"))


def own_share(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Share of a map's mass within the central cell, (batch,). NaN for a map of zeros."""
    height, width = maps.shape[1:]
    down, across = _offsets(grid, (height, width))
    inside = (down < height / grid[0] / 2) & (across < width / grid[1] / 2)
    flat = maps.cpu().double()
    return (flat * inside).sum((1, 2)) / flat.sum((1, 2))


class ReceptiveField(Analysis):
    """The effective receptive field of every block's state, and of every branch before it is added.

    Variables: ``receptive_radius`` (receptive_image, block, fraction) in pixels, holding 50 % and 95 % of the gradient's mass;
    ``receptive_own_share`` (receptive_image, block), the share within the place's own cell (its patch, in a ViT);
    ``receptive_map`` (block, receptive_row, receptive_column), the mean map, pooled to at most 32 x 32 cells. The same with
    ``branch_`` before the name and the axis ``branch`` for branches. ``uniform_radius`` (block, fraction) is what a gradient
    that is the same everywhere would have.

    Cost: one backward pass per state and per branch, each from its own depth down to the input.
    Memory: the activations of a whole forward pass for `at_once` images, as in training.

    Args:
        images: how many images to use.
        branches: whether to measure branches too, at twice the cost.
        at_once: images per graph.
        seed: of the weights of channels.
        paper_mode: take the gradient of the mean over channels.

    Raises:
        StudyError: no image, or none at once.
    """

    name = "receptive_field"
    own_passes = True
    cell: tuple[int, int] | None = None  # the place that is read, where it is not the central one

    def __init__(
        self, images: int = 32, branches: bool = True, at_once: int = 8, seed: int = 0, paper_mode: bool = False
    ) -> None:
        if images < 1 or at_once < 1:
            raise StudyError(f"receptive_field needs images and at_once of 1 or more, got {images} and {at_once}")
        self.images, self.with_branches, self.at_once = images, branches, at_once
        self.seed, self.paper_mode = seed, paper_mode

    def start(self, checkpoint: Checkpoint, n_images: int, batch_size: int) -> None:
        self.checkpoint = checkpoint
        self.branches = checkpoint.branches if self.with_branches else []
        self.grids = {"": [block.grid for block in checkpoint.blocks]}
        if self.branches:
            self.grids["branch_"] = [branch.grid for branch in self.branches]

    def update(self, batch: Batch) -> Part:
        few = batch.up_to(self.images)
        if few is None:
            return {}
        chunks = [self._measured(few, start) for start in range(0, len(few), self.at_once)]
        return {name: _together(name, [chunk[name] for chunk in chunks]) for name in chunks[0]}

    def _measured(self, batch: Batch, start: int) -> Part:
        images = batch.images[start : start + self.at_once]
        found: dict[str, list[np.ndarray]] = {}
        for prefix, maps in self._gradients(images, batch.first + start).items():
            for grid, gradient in zip(self.grids[prefix], maps, strict=True):
                total = gradient.sum((1, 2), keepdim=True)
                normed = torch.where(total > 0, gradient / total, 0)
                pooled = pooled_mass(normed)
                row = {"radius": radii(gradient, grid), "own_share": own_share(gradient, grid), "map": pooled.sum(0)}
                for name, value in row.items():
                    found.setdefault(f"{prefix}receptive_{name}", []).append(value.cpu().numpy())
        return {name: np.stack(rows, axis=0 if name.endswith("map") else 1) for name, rows in found.items()}

    def _gradients(self, images: Tensor, first: int) -> dict[str, list[Tensor]]:
        """|gradient| of the central place of every state and branch, summed over colours: lists of (batch, height, width)."""
        network, answers = self.checkpoint.network, {}
        with torch.enable_grad():
            images = images.detach().clone().requires_grad_()

            def visit(index: int, raw: Tensor) -> None:
                block = self.checkpoint.blocks[index]
                answers["", index] = self._answer(State(raw, block.grid, block.prefix_count), first, index)

            def visit_branch(branch, skip: Tensor, long: Tensor) -> None:
                index = self.branches.index(branch)
                state = State(long, branch.grid, branch.prefix_count)
                answers["branch_", index] = self._answer(state, first, len(self.checkpoint.blocks) + index)

            with hooked(network, self.checkpoint.blocks, visit), branches_hooked(network, self.branches, visit_branch):
                network(self.checkpoint.normalise(images))
            order = sorted(answers)
            found: dict[str, list[Tensor]] = {prefix: [] for prefix in self.grids}
            for place in order:
                (gradient,) = torch.autograd.grad(answers[place], images, retain_graph=place is not order[-1])
                found[place[0]].append(gradient.abs().sum(1))
        return found

    def _answer(self, state: State, first: int, place: int) -> Tensor:
        """One number for all images, whose gradient by an image is that of its own central place."""
        row, column = self.cell or (state.grid[0] // 2, state.grid[1] // 2)
        centre = state.map[:, :, row, column]
        if self.paper_mode:
            return centre.mean(1).sum()
        weights = [self._weights(first + index, place, centre.shape[1]) for index in range(len(centre))]
        return (centre * torch.from_numpy(np.stack(weights)).to(centre)).sum()

    def _weights(self, image: int, place: int, channels: int) -> np.ndarray:
        return np.random.default_rng((self.seed, image, place)).standard_normal(channels)

    def result(self, parts: list[Part]) -> dict[str, xr.Variable]:
        found: dict[str, xr.Variable] = {}
        n = len(joined(parts, "receptive_own_share"))
        mode = "mean over channels" if self.paper_mode else "random projection over channels"
        for prefix, grids in self.grids.items():
            place = "branch" if prefix else "block"

            def add(name: str, axes: tuple[str, ...], values: np.ndarray, unit: str) -> None:
                about = {"unit": unit, "source": SOURCE, "long_name": name.replace("_", " "), "gradient": mode}
                found[name] = xr.Variable(axes, values.astype(np.float32), about)

            radius, share, heat = (f"{prefix}receptive_{name}" for name in ("radius", "own_share", "map"))
            add(radius, ("receptive_image", place, "fraction"), joined(parts, radius), "px")
            add(share, ("receptive_image", place), joined(parts, share), "1")
            total = _together(heat, [part[heat] for part in parts if heat in part])
            add(heat, (place, "receptive_row", "receptive_column"), total / n, "1")
            flat = torch.ones(1, *self.checkpoint.image_size)
            uniform = np.stack([radii(flat, grid)[0].numpy() for grid in grids])
            add(f"{prefix}uniform_radius", (place, "fraction"), uniform, "px")
        found["fraction"] = xr.Variable(("fraction",), list(FRACTIONS))
        if self.branches:
            found["branch"] = xr.Variable(("branch",), [branch.name for branch in self.branches])
        return found


def field_at(checkpoint: Checkpoint, block: Block, image: Tensor, cell: tuple[int, int], *, draws: int = 4) -> Tensor:
    """|gradient| of one place of one block's state by an image, summed over colours, (height, width), of sum one.

    Args:
        image: (3, height, width) in [0, 1].
        cell: (row, column) of the place in the block's grid.
        draws: of the weights of channels, whose maps are averaged.
    """
    field = ReceptiveField(images=draws, branches=False)
    field.cell = cell
    field.start(replace(checkpoint, blocks=[block]), draws, draws)
    maps = field._gradients(image.expand(draws, -1, -1, -1), 0)[""][0]
    mean = (maps / maps.sum((1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)).mean(0)
    return mean.detach()


def _together(name: str, arrays: list[np.ndarray]) -> np.ndarray:
    """What was measured in pieces: maps are sums over images, the rest has a row for each."""
    return np.sum(arrays, axis=0) if name.endswith("map") else np.concatenate(arrays)


def pooled_mass(maps: Tensor) -> Tensor:
    """Maps (batch, height, width) with the mass of every cell, at most 32 x 32 cells."""
    height, width = (min(side, MAP_SIDE) for side in maps.shape[1:])
    cells = torch.nn.functional.adaptive_avg_pool2d(maps[:, None], (height, width))[:, 0]
    return cells / cells.sum((1, 2), keepdim=True).clamp_min(torch.finfo(cells.dtype).tiny)

"""What an analysis is, and the ready-made kind for functions of one state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..blocks import AttentionLayer, Block
from ..checkpoints import Checkpoint
from ..states import State


class NotApplicableError(Exception):
    """This measurement means nothing for this checkpoint; the message says why and ends up in the profile."""


@runtime_checkable
class Analysis(Protocol):
    """A measurement fed by the shared forward pass.

    The order of calls is `start`, then for every batch: `visit` once per block (and `visit_attention` once per attention
    layer, if `needs_attention`) in forward order, then `update`; at the end `result`.
    """

    name: str
    needs_attention: bool

    def start(self, checkpoint: Checkpoint, n_images: int, batch_size: int) -> None:
        """Prepare for a run. Raises `NotApplicableError` where the measurement means nothing."""

    def visit(self, block: Block, state: State) -> None:
        """See one block's state. It is valid only during the call: reduce it at once and keep no view of it."""

    def visit_attention(self, layer: AttentionLayer, weights: Tensor) -> None:
        """See one layer's attention weights, (batch, head, query, key); valid only during the call."""

    def update(self, logits: Tensor | None, labels: Tensor) -> None:
        """End a batch: logits (batch, class) or None, labels (batch,) with -1 for unknown."""

    def result(self) -> dict[str, xr.Variable]:
        """Variables for the profile; the first axis is ``image`` or a batch axis."""


class PerBlock:
    """A pure function of one state, measured at every block: variables (image, block, *axes).

    Args:
        name: of the variable, or of several where `function` returns a dict.
        function: State -> (batch, *axes) tensor, or dict of them. Shorter last axes are filled up with NaN.
        unit, source: stored with the variables; a dict of units where they differ.
        axes: names of the axes after ``image`` and ``block``.
        coordinates: values along those axes.
    """

    needs_attention = False

    def __init__(
        self,
        name: str,
        function: Callable[[State], Tensor | dict[str, Tensor]],
        *,
        unit: Mapping[str, str] | str,
        source: str,
        axes: Mapping[str, tuple[str, ...]] | tuple[str, ...] = (),
        coordinates: dict[str, list[float]] | None = None,
    ) -> None:
        self.name, self.function, self.unit, self.source = name, function, unit, source
        self.axes, self.coordinates = axes, coordinates or {}
        self._batch: dict[str, list[Tensor]] = {}
        self._batches: dict[str, list[np.ndarray]] = {}

    def start(self, checkpoint: Checkpoint, n_images: int, batch_size: int) -> None:
        self._batch, self._batches = {}, {}

    def visit(self, block: Block, state: State) -> None:
        values = self.function(state)
        for name, value in (values if isinstance(values, dict) else {self.name: values}).items():
            self._batch.setdefault(name, []).append(value)

    def visit_attention(self, layer: AttentionLayer, weights: Tensor) -> None:
        raise AssertionError("not asked for")

    def update(self, logits: Tensor | None, labels: Tensor) -> None:
        for name, values in self._batch.items():
            together = torch.stack(_filled_up(values), dim=1)  # one transfer from the device for all blocks
            self._batches.setdefault(name, []).append(together.cpu().numpy().astype(np.float32))
        self._batch = {}

    def result(self) -> dict[str, xr.Variable]:
        found = {}
        for name, batches in self._batches.items():
            axes = self.axes.get(name, ()) if isinstance(self.axes, Mapping) else self.axes
            unit = self.unit if isinstance(self.unit, str) else self.unit[name]
            about = {"unit": unit, "source": self.source, "long_name": name.replace("_", " ")}
            found[name] = xr.Variable(("image", "block", *axes), np.concatenate(batches), about)
        for axis, values in self.coordinates.items():
            found[axis] = xr.Variable((axis,), values)
        return found


def _filled_up(values: list[Tensor]) -> list[Tensor]:
    if values[0].ndim < 2:
        return values
    longest = max(value.shape[-1] for value in values)
    return [torch.nn.functional.pad(value, (0, longest - value.shape[-1]), value=float("nan")) for value in values]


def per_block(
    name: str,
    *,
    unit: str,
    source: str,
    axes: tuple[str, ...] = (),
    coordinates: dict[str, list[float]] | None = None,
) -> Callable[[Callable[[State], Tensor]], Callable[[], PerBlock]]:
    """Make an analysis of a function of one state; see `PerBlock`."""

    def decorate(function: Callable[[State], Tensor]) -> Callable[[], PerBlock]:
        def factory() -> PerBlock:
            return PerBlock(name, function, unit=unit, source=source, axes=axes, coordinates=coordinates)

        factory.__doc__, factory.__name__ = function.__doc__, name
        factory.function = function  # type: ignore[attr-defined]
        return factory

    return decorate

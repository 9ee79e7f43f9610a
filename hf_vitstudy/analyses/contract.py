"""What an analysis is, and the ready-made kind for functions of one state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..blocks import AttentionLayer, Block
from ..branches import Branch
from ..checkpoints import Checkpoint
from ..states import State


class NotApplicableError(Exception):
    """This measurement means nothing for this checkpoint; the message says why and ends up in the profile."""


@dataclass(frozen=True)
class Batch:
    """What is known of a batch once the shared forward pass is over.

    Attributes:
        images: (batch, 3, height, width) in [0, 1], on the network's device.
        logits: (batch, class), None for a checkpoint without a classifier.
        labels: (batch,) as the checkpoint counts its classes, on the CPU; -1 where unknown.
        targets: (batch,) as the data set counts its own classes, on the CPU; -1 where unknown.
        first: place of the first image among all.
    """

    images: Tensor
    logits: Tensor | None
    labels: Tensor
    targets: Tensor
    first: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def up_to(self, limit: int) -> Batch | None:
        """The images among the first `limit` of all, None where there is none: for measurements that look at few."""
        here = min(len(self), limit - self.first)
        if here <= 0:
            return None
        logits = None if self.logits is None else self.logits[:here]
        return Batch(self.images[:here], logits, self.labels[:here], self.targets[:here], self.first)


Part = dict[str, np.ndarray]
"""What an analysis keeps of one batch."""


class Analysis:
    """A measurement fed by the shared forward pass. Subclasses write what they need; the rest does nothing.

    The order of calls is `start`, then for every batch: `visit` once per block in forward order (and among them
    `visit_attention` once per attention layer, if `needs_attention`, and `visit_branch` once per skip connection, if
    `needs_branches`), then `update`; at the end `result`. What is kept of a batch must depend on that batch alone: batches are
    spread over processes, and an interrupted measurement goes on where it stopped.

    Attributes:
        name: as the profile lists it.
        needs_attention: whether to call `visit_attention`, which needs attention weights and so a slower implementation.
        needs_branches: whether to call `visit_branch`.
        needs_labels: whether it means nothing for images whose classes are not the checkpoint's; then it is not begun.
        own_passes: whether `update` sends images through the network again, which is what costs time.
        in_one_process: whether it keeps more than it returns, so that its images cannot be spread over processes.
    """

    name: str
    needs_attention: bool = False
    needs_branches: bool = False
    needs_labels: bool = False
    own_passes: bool = False
    in_one_process: bool = False

    def start(self, checkpoint: Checkpoint, n_images: int, batch_size: int) -> None:
        """Prepare for a run. Raises `NotApplicableError` where the measurement means nothing."""

    def visit(self, block: Block, state: State) -> None:
        """See one block's state. It is valid only during the call: reduce it at once and keep no view of it."""

    def visit_attention(self, layer: AttentionLayer, weights: Tensor) -> None:
        """See one layer's attention weights, (batch, head, query, key); valid only during the call."""

    def visit_branch(self, branch: Branch, skip: State, long: State) -> None:
        """See what one skip connection carries on and what its branch adds; valid only during the call."""

    def update(self, batch: Batch) -> Part:
        """End a batch and return what to keep of it. Passes of one's own through the network belong here.

        Gradients are off (``torch.no_grad``); where they are needed, ``torch.enable_grad`` switches them on.
        """
        return {}

    def result(self, parts: list[Part]) -> dict[str, xr.Variable]:
        """Variables for the profile from what was kept of all batches, in order.

        The first axis is ``image``, or one of the analysis' own. Coordinates are variables named as their one axis.
        """
        raise NotImplementedError


def joined(parts: list[Part], name: str) -> np.ndarray:
    """One array of all parts that have it, along the first axis."""
    return np.concatenate([part[name] for part in parts if name in part])


class PerBlock(Analysis):
    """A pure function of one state, measured at every block: variables (image, block, *axes).

    Args:
        name: of the variable, or of several where `function` returns a dict.
        function: State -> (batch, *axes) tensor, or dict of them. Shorter last axes are filled up with NaN.
        unit, source: stored with the variables; a dict of units where they differ.
        axes: names of the axes after ``image`` and ``block``.
        coordinates: values along those axes.
    """

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

    def start(self, checkpoint: Checkpoint, n_images: int, batch_size: int) -> None:
        self._batch = {}

    def visit(self, block: Block, state: State) -> None:
        values = self.function(state)
        for name, value in (values if isinstance(values, dict) else {self.name: values}).items():
            self._batch.setdefault(name, []).append(value)

    def update(self, batch: Batch) -> Part:
        seen, self._batch = self._batch, {}
        # one transfer from the device for all blocks
        together = {name: torch.stack(_filled_up(values), dim=1) for name, values in seen.items()}
        return {name: values.cpu().numpy().astype(np.float32) for name, values in together.items()}

    def result(self, parts: list[Part]) -> dict[str, xr.Variable]:
        found = {}
        for name in parts[0]:
            axes = self.axes.get(name, ()) if isinstance(self.axes, Mapping) else self.axes
            unit = self.unit if isinstance(self.unit, str) else self.unit[name]
            about = {"unit": unit, "source": self.source, "long_name": name.replace("_", " ")}
            found[name] = xr.Variable(("image", "block", *axes), joined(parts, name), about)
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


def require_classifier(checkpoint: Checkpoint) -> None:
    """Raises `NotApplicableError` for a checkpoint without classes."""
    if checkpoint.provenance.get("classes") is None:
        raise NotApplicableError("this checkpoint has no classifier")


NO_LABELS = "no image has a label among the checkpoint's classes, so no answer is right; use images of its classes"


def require_labels(correct: np.ndarray) -> None:
    """Raises `NotApplicableError` where no answer of all images could be graded: all are -1.

    For `result`, since a single batch without labels says nothing of the others.
    """
    if not bool((correct >= 0).any()):
        raise NotApplicableError(NO_LABELS)

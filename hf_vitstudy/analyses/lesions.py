"""Lesions: the answers of a network that lacks one part.

Park & Kim, "How Do Vision Transformers Work?", ICLR 2022, Fig 10b and App. D.4: accuracy after one unit was removed: one MSA
or one MLP of a Transformer, one 3 x 3 convolution of a ResNet's bottleneck. They publish no code. Here a branch is replaced by
zero, so that only its skip is left, and a convolution wider than one cell by the identity, at a stride by the mean over each
new cell. For a residual block of convolutions both are done: the whole branch, and each of its convolutions alone.

Where a convolution changes the number of channels there is no identity; those are listed in the attribute ``not_applicable``.
A branch beside a projected skip leaves the projection, so that block is simplified and not skipped: ``lesion_projected``.

Removing a *skip* after training is another question: see `SkipRemoval`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import xarray as xr
from torch import nn

from ..branches import Branch, spatial_convolutions, without_branch, without_convolution, without_skip
from ..checkpoints import Checkpoint
from ..grading import graded
from .contract import (
    Analysis,
    Batch,
    NotApplicableError,
    Part,
    joined,
    require_classifier,
    require_labels,
)


@dataclass(frozen=True)
class Lesion:
    """One part to do without: how to take it away for a while, and where it is."""

    name: str
    kind: str
    branch: Branch
    taken_away: Callable[[nn.Module], AbstractContextManager[None]]


def branch_lesions(branches: list[Branch]) -> list[Lesion]:
    """Every branch replaced by zero."""
    return [Lesion(b.name, b.kind, b, partial(without_branch, branch=b)) for b in branches]


def convolution_lesions(network: nn.Module, branches: list[Branch]) -> tuple[list[Lesion], list[str]]:
    """Every convolution wider than one cell replaced by the identity, and those for which there is none, with the reason."""
    lesions, refused = [], []
    for branch in branches:
        for index, path in enumerate(spatial_convolutions(network, branch)):
            module = network.get_submodule(path)
            assert isinstance(module, nn.Conv2d)
            name = f"{branch.name}.conv{index + 1}"
            if module.in_channels != module.out_channels:
                refused.append(f"{name} ({module.in_channels} to {module.out_channels} channels)")
                continue
            lesions.append(Lesion(name, "convolution", branch, partial(without_convolution, path=path)))
    return lesions, refused


class _Removal(Analysis):
    """Grades of every image without each part in turn; subclasses say which parts."""

    needs_labels = True
    own_passes = True
    prefix: str
    source: str

    def __init__(self, images: int = 256) -> None:
        self.images = images

    def lesions(self, checkpoint: Checkpoint) -> tuple[list[Lesion], list[str]]:
        """The parts to remove, and those that cannot be."""
        raise NotImplementedError

    def start(self, checkpoint: Checkpoint, n_images: int, batch_size: int) -> None:
        require_classifier(checkpoint)
        if not checkpoint.branches:
            raise NotApplicableError("this network has no skip connections, so no part can be left out")
        self.checkpoint = checkpoint
        self.parts, self.refused = self.lesions(checkpoint)

    def update(self, batch: Batch) -> Part:
        few = batch.up_to(self.images) if self.images else batch
        if few is None:
            return {}
        assert few.logits is not None, "start has checked for a classifier"
        pixel_values = self.checkpoint.normalise(few.images)
        rows = []
        for lesion in self.parts:
            with lesion.taken_away(self.checkpoint.network), torch.inference_mode():
                rows.append(graded(self.checkpoint.network(pixel_values).logits, few.labels))
        intact = {f"{self.prefix}_intact_{key}": value for key, value in graded(few.logits, few.labels).items()}
        return intact | {f"{self.prefix}_{key}": np.stack([row[key] for row in rows], axis=1) for key in rows[0]}

    def result(self, parts: list[Part]) -> dict[str, xr.Variable]:
        require_labels(joined(parts, f"{self.prefix}_intact_correct"))
        axes = (f"{self.prefix}_image" if self.images else "image", self.prefix)
        found = {}
        for name in parts[0]:
            values = joined(parts, name)
            unit = "nat" if name.endswith("nll") else "1"
            about = {"unit": unit, "source": self.source, "long_name": name.replace("_", " ")}
            found[name] = xr.Variable(axes[: values.ndim], values, {**about, "not_applicable": self.refused})
        return found | self._coordinates()

    def _coordinates(self) -> dict[str, xr.Variable]:
        of = [lesion.branch for lesion in self.parts]
        rows: dict[str, list] = {"depth": [b.depth for b in of], "stage": [b.stage for b in of]}
        rows |= {"position": [b.position for b in of], "projected": [float(b.projected) for b in of]}
        about = {"unit": "1", "source": self.source}
        found = {}
        for name, values in rows.items():
            long_name = f"{name} of the branch"
            array = np.array(values, dtype=np.float32)
            found[f"{self.prefix}_{name}"] = xr.Variable((self.prefix,), array, {**about, "long_name": long_name})
        found[f"{self.prefix}_kind"] = xr.Variable((self.prefix,), [lesion.kind for lesion in self.parts], about)
        found[self.prefix] = xr.Variable((self.prefix,), [lesion.name for lesion in self.parts])
        return found


class Lesions(_Removal):
    """Answers without one part: ``lesion_correct`` and ``lesion_nll`` (lesion_image, lesion).

    ``lesion_intact_correct`` and ``lesion_intact_nll`` (lesion_image,) are the whole network's on the same images. ``correct``
    is 1, 0, or -1 where the label is unknown. ``lesion_kind``, ``lesion_stage``, ``lesion_position`` (in the stage, 1 for the
    last block), ``lesion_depth`` and ``lesion_projected`` (lesion,) say what was removed.

    Cost: one forward pass per part and image, 24 parts for a ViT-B, 24 for a ResNet-18.

    Args:
        images: how many images to use; 0 takes all, and the first axis is then ``image``.
    """

    name = "lesions"
    prefix = "lesion"
    source = "Park & Kim 2022, Fig 10b and App. D.4"

    def lesions(self, checkpoint: Checkpoint) -> tuple[list[Lesion], list[str]]:
        convolutions, refused = convolution_lesions(checkpoint.network, checkpoint.branches)
        return branch_lesions(checkpoint.branches) + convolutions, refused


class SkipRemoval(_Removal):
    """Answers after one skip was taken out of the trained network: ``skip_removal_correct``, ``skip_removal_nll``.

    A weaker test than the published one (Raghu et al. 2021, Fig 8), and the attributes say so: they *retrain* without the skip
    and lose 4 % of accuracy, so they ask what a network can do without it. Here the rest was trained with it, and most of what
    is lost is lost because the following layers meet states that they have never seen.

    Axes are ``skip_removal_image`` and ``skip_removal``, the rest as in `Lesions`.

    Args:
        images: how many images to use; 0 takes all, and the first axis is then ``image``.
    """

    name = "skip_removal"
    prefix = "skip_removal"
    source = "after Raghu et al. 2021, Fig 8, but without retraining: a weaker test"

    def lesions(self, checkpoint: Checkpoint) -> tuple[list[Lesion], list[str]]:
        branches = checkpoint.branches
        return [Lesion(b.name, b.kind, b, partial(without_skip, branch=b)) for b in branches], []

"""Skip ratio: how much a sublayer's skip carries on, against what its branch adds.

Raghu et al., "Do Vision Transformers See Like Convolutional Neural Networks?", NeurIPS 2021, Fig 7 and App. E: with z what
enters a skip connection and f(z) what its branch adds, the ratio of norms ||z|| / ||f(z)|| and the cosine of z and f(z), per
token. A ratio above one: the token is mostly carried on; below: mostly replaced. No code was published. Ours is kept per image;
spatial tokens are the mean over places of the ratio of each, as the definition reads, not the ratio of mean norms.

Places where a ratio does not exist are left out of the mean: a branch of exact zeros for the ratio, either addend for the
cosine. For a ResNet a token is all channels of one place, and where the skip passes a projection, z is what it returns: those
branches are marked in ``branch_projected``, and they say nothing on what is carried on unchanged.
"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..branches import Branch
from ..checkpoints import Checkpoint
from ..states import State
from .contract import Analysis, Batch, NotApplicableError, Part, joined


SOURCE = "Raghu et al. 2021, Fig 7 and App. E"


def norm_ratio(skip: Tensor, long: Tensor) -> Tensor:
    """||z|| / ||f(z)|| per token, mean over tokens whose branch is not zero: (batch, token, channel) -> (batch,)."""
    below = long.float().norm(dim=-1)
    ratio = skip.float().norm(dim=-1) / below
    return torch.where(below > 0, ratio, float("nan")).nanmean(1)


def cosine(skip: Tensor, long: Tensor) -> Tensor:
    """Cosine of z and f(z) per token, mean over tokens that are not zero: (batch, token, channel) -> (batch,)."""
    skip, long = skip.float(), long.float()
    norms = skip.norm(dim=-1) * long.norm(dim=-1)
    return torch.where(norms > 0, (skip * long).sum(-1) / norms, float("nan")).nanmean(1)


class SkipRatio(Analysis):
    """``skip_ratio`` and ``skip_cosine`` of spatial tokens, each (image, branch).

    ``class_skip_ratio`` and ``class_skip_cosine`` are the same of the first token before the spatial ones, where every branch
    has one. A value is NaN where no token has one.
    """

    name = "skip_ratio"
    needs_branches = True

    def start(self, checkpoint: Checkpoint, n_images: int, batch_size: int) -> None:
        self.branches = checkpoint.branches
        if not self.branches:
            raise NotApplicableError("this network has no skip connections")
        self.with_class = all(branch.prefix_count for branch in self.branches)
        self._batch: list[dict[str, Tensor]] = []

    def visit_branch(self, branch: Branch, skip: State, long: State) -> None:
        found = {"skip_ratio": norm_ratio(skip.tokens, long.tokens), "skip_cosine": cosine(skip.tokens, long.tokens)}
        if self.with_class:
            first = skip.prefix[:, :1], long.prefix[:, :1]
            found |= {"class_skip_ratio": norm_ratio(*first), "class_skip_cosine": cosine(*first)}
        self._batch.append(found)

    def update(self, batch: Batch) -> Part:
        seen, self._batch = self._batch, []
        return {name: torch.stack([found[name] for found in seen], dim=1).cpu().numpy() for name in seen[0]}

    def result(self, parts: list[Part]) -> dict[str, xr.Variable]:
        found = {}
        for name in parts[0]:
            about = {"unit": "1", "source": SOURCE, "long_name": name.replace("_", " ")}
            found[name] = xr.Variable(("image", "branch"), joined(parts, name), about)
        about = {"unit": "1", "source": SOURCE}
        rows = {"depth": [b.depth for b in self.branches], "stage": [b.stage for b in self.branches]}
        rows["projected"] = [float(b.projected) for b in self.branches]
        for name, values in rows.items():
            found[f"branch_{name}"] = xr.Variable(
                ("branch",), np.array(values, dtype=np.float32), {**about, "long_name": f"{name} of the branch"}
            )
        found["branch_kind"] = xr.Variable(("branch",), [b.kind for b in self.branches], about)
        found["branch"] = xr.Variable(("branch",), [b.name for b in self.branches])
        return found

"""Hessian spectrum: how sharp the loss is, and whether it is convex.

Park & Kim, "How Do Vision Transformers Work?", ICLR 2022, Fig 1c and 4: the Hessian's largest eigenvalues on mini-batches of
16 images, pooled over batches. From them they read the proportion of negative ones (NEP) and the mean of the positive ones
(APE). No code for it was published.

What must be known to read it:

* Their top five are the five largest *by magnitude*, as power iteration finds them. NEP then says which sign dominates:
  shrinking the positive curvature raises it though nothing became less convex. So both ends are stored apart, largest
  and smallest eigenvalue and their ratio are reported first, and NEP and APE are computed from the two ends.
* Power iteration with deflation needs many products and finds the ends badly where they are close in magnitude: on one batch of
  a ViT 157 products gave five negative values and missed a positive one among the five largest. Lanczos keeps the residual of
  every value: a true eigenvalue lies within it.
* Batch normalisation by running statistics or by those of the batch changes the largest eigenvalue several times; the mode
  is stored.
* An L2 penalty of weight decay w adds w to every eigenvalue and nothing else (option `weight_decay`).
* They differentiate the loss on augmented images (mixup). On plain images of a trained network gradients and curvature
  nearly vanish, so compare only what was measured alike.

Transformers' eager attention computes its softmax in float32 whatever the network's type: for digits beyond the sixth load with
``attn="sdpa"``, of which only the kernel that can be differentiated twice is used.

The spectral density by stochastic Lanczos quadrature (Ghorbani, Krishnan & Xiao 2019) is a by-product of the same products.
"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..checkpoints import Checkpoint
from ..curvature import Hessian, Spectrum, batch_norm, lanczos, random_direction, twice_differentiable
from ..errors import StudyError
from ..grading import mixing
from .contract import Analysis, Batch, NotApplicableError, Part, joined, require_classifier


SOURCE = "Park & Kim 2022, Fig 1c and 4"


class HessianSpectrum(Analysis):
    """Eigenvalues at both ends, with residuals, and the density's quadrature, for every mini-batch.

    Args:
        images: the first of all to look at.
        batch: images in a mini-batch, 16 in the paper.
        k: eigenvalues kept at either end.
        iterations: products for a mini-batch, at least twice k, so that the two ends share no eigenvalue; memory for as many
            copies of the weights is needed.
        mixup: parameter of the Beta distribution by which pairs of images and labels are mixed; 0 leaves them alone.
        weight_decay: added to every eigenvalue.
        batch_norm: ``eval``, running statistics, or ``train``, those of the mini-batch.
        seed: of the random starts and of the mixing.
    """

    name = "hessian"
    own_passes = True

    def __init__(
        self,
        images: int = 128,
        batch: int = 16,
        k: int = 5,
        iterations: int = 30,
        mixup: float = 0.0,
        weight_decay: float = 0.0,
        batch_norm: str = "eval",
        seed: int = 0,
    ) -> None:
        if batch_norm not in ("eval", "train"):
            raise StudyError(f"hessian:batch_norm must be eval or train, got {batch_norm!r}")
        for what, value, least in (
            ("batch", batch, 2),
            ("k", k, 1),
            ("iterations", iterations, 2 * k),
            ("images", images, 2),
        ):
            if value < least:
                raise StudyError(f"hessian:{what} must be at least {least}, got {value}")
        self.images, self.batch, self.k, self.iterations = images, batch, k, iterations
        self.mixup, self.weight_decay, self.batch_norm, self.seed = mixup, weight_decay, batch_norm, seed

    def start(self, checkpoint: Checkpoint, n_images: int, batch_size: int) -> None:
        require_classifier(checkpoint)
        if checkpoint.dtype not in (torch.float32, torch.float64):
            raise NotApplicableError(
                f"second derivatives in {checkpoint.dtype} are off by up to a fifth; measure with --dtype float32"
            )
        if batch_size % self.batch and batch_size < n_images:
            raise StudyError(
                f"mini-batches of {self.batch} do not fit batches of {batch_size}; choose hessian:batch to divide --batch-size"
            )
        self.checkpoint = checkpoint
        self.parameters = [p for p in checkpoint.network.parameters() if p.requires_grad]

    def update(self, batch: Batch) -> Part:
        seen = batch.up_to(self.images)
        if seen is None:
            return {}
        found = []
        for place in range(0, len(seen) - self.batch + 1, self.batch):
            here = slice(place, place + self.batch)
            if bool((seen.labels[here] >= 0).all()):
                found.append(self._measured(seen.images[here], seen.labels[here], seen.first + place))
        return {name: np.stack([part[name] for part in found]) for name in found[0]} if found else {}

    def _measured(self, images: Tensor, labels: Tensor, first: int) -> Part:
        network = self.checkpoint.network
        with torch.enable_grad(), batch_norm(network, self.batch_norm), twice_differentiable():
            loss = mixed_loss(self.checkpoint, images, labels, self.mixup, (self.seed, first))
            hessian = Hessian(loss, self.parameters)
            found = lanczos(hessian.__matmul__, random_direction(self.parameters, self.seed, first), self.iterations)
        return self._kept(found, loss.item())

    def _kept(self, found: Spectrum, loss: float) -> Part:
        top, top_residual = found.top(self.k)
        bottom, bottom_residual = found.bottom(self.k)
        nodes, weights = np.full(self.iterations, np.nan), np.zeros(self.iterations)
        nodes[: len(found.values)], weights[: len(found.values)] = found.values, found.weights
        return {
            "top": top + self.weight_decay,
            "top_residual": top_residual,
            "bottom": bottom + self.weight_decay,
            "bottom_residual": bottom_residual,
            "node": nodes + self.weight_decay,
            "weight": weights,
            "loss": np.array(loss),
        }

    def result(self, parts: list[Part]) -> dict[str, xr.Variable]:
        if not any(parts):
            raise NotApplicableError(
                f"no {self.batch} images in a row have a label among the checkpoint's classes; use images of its classes"
            )
        about = {
            "source": SOURCE,
            "batch_norm": self.batch_norm,
            "mini_batch": self.batch,
            "mixup": self.mixup,
            "weight_decay": self.weight_decay,
            "parameters": sum(parameter.numel() for parameter in self.parameters),
        }
        words = {
            "top": "largest eigenvalues of the Hessian",
            "top_residual": "distance within which an eigenvalue lies",
            "bottom": "smallest eigenvalues of the Hessian",
            "bottom_residual": "distance within which an eigenvalue lies",
            "node": "where the spectral density is, by stochastic Lanczos quadrature",
            "weight": "how much of the spectral density is there",
            "loss": "mean loss of the mini-batch",
        }
        found = {}
        for name, long_name in words.items():
            axes = {"loss": (), "node": ("hessian_iteration",), "weight": ("hessian_iteration",)}.get(
                name, ("hessian_rank",)
            )
            unit = {"loss": "nat", "weight": "1"}.get(name, "nat / parameter²")
            attributes = {**about, "unit": unit, "long_name": long_name}
            found[f"hessian_{name}"] = xr.Variable(("hessian_batch", *axes), joined(parts, name), attributes)
        found["hessian_rank"] = xr.Variable(("hessian_rank",), np.arange(1, self.k + 1))
        return found


def mixed_loss(checkpoint: Checkpoint, images: Tensor, labels: Tensor, mixup: float, seed: tuple[int, ...]) -> Tensor:
    """Mean cross entropy of a batch, of mixed images and labels where `mixup` > 0 (Zhang et al. 2018), a scalar."""
    labels = labels.to(images.device)
    share, order = mixing(len(images), mixup, seed)
    if share < 1:
        images = share * images + (1 - share) * images[order]
    logits = checkpoint.network(checkpoint.normalise(images)).logits
    logits = logits if logits.dtype == torch.float64 else logits.float()
    loss = torch.nn.functional.cross_entropy(logits, labels)
    if share < 1:
        loss = share * loss + (1 - share) * torch.nn.functional.cross_entropy(logits, labels[order])
    return loss

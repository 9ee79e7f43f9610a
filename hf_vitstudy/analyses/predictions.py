"""Predictions: the five likeliest classes, their probabilities, and the loss where the label is known."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from ..checkpoints import Checkpoint
from .contract import Analysis, Batch, NotApplicableError, Part, joined


class Predictions(Analysis):
    """Variables ``top5`` and ``top5_probability`` (image, rank), ``label`` and ``nll`` (image,).

    ``nll`` is the negative log likelihood of the label, in nats; NaN where the label is unknown (-1).
    """

    name = "predictions"

    def start(self, checkpoint: Checkpoint, n_images: int, batch_size: int) -> None:
        if checkpoint.provenance.get("classes") is None:
            raise NotApplicableError("this checkpoint has no classifier")

    def update(self, batch: Batch) -> Part:
        logits = batch.logits
        assert logits is not None, "start has checked for a classifier"
        probabilities = logits.float().softmax(1)
        top = probabilities.topk(min(5, logits.shape[1]), dim=1)
        labels = batch.labels.to(logits.device)
        loss = torch.nn.functional.cross_entropy(logits.float(), labels.clamp_min(0), reduction="none")
        loss = torch.where(labels >= 0, loss, float("nan"))
        found = {"top5": top.indices.int(), "top5_probability": top.values, "label": labels.int(), "nll": loss}
        return {name: value.cpu().numpy() for name, value in found.items()}

    def result(self, parts: list[Part]) -> dict[str, xr.Variable]:
        axes = {
            "top5": ("image", "rank"),
            "top5_probability": ("image", "rank"),
            "label": ("image",),
            "nll": ("image",),
        }
        units = {"top5": "class", "top5_probability": "1", "label": "class", "nll": "nat"}
        found = {}
        for name, dims in axes.items():
            about = {"unit": units[name], "source": "", "long_name": name.replace("_", " ")}
            found[name] = xr.Variable(dims, joined(parts, name), about)
        found["rank"] = xr.Variable(("rank",), np.arange(1, found["top5"].shape[1] + 1))
        return found

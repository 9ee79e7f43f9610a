"""Right or wrong, and how far from right: the answers of a network to images whose class is known."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


UNKNOWN = -1  # in place of right (1) or wrong (0) where an image has no label


def graded(logits: Tensor, labels: Tensor) -> dict[str, np.ndarray]:
    """``correct``, int8 (batch,): 1, 0, or -1 without a label; ``nll``, float32 (batch,): in nats, NaN without one.

    Args:
        logits: (batch, class).
        labels: (batch,) as the logits are ordered, -1 where unknown; on any device.
    """
    labels = labels.to(logits.device)
    known = labels >= 0
    loss = torch.nn.functional.cross_entropy(logits.float(), labels.clamp_min(0), reduction="none")
    correct = torch.where(known, (logits.argmax(1) == labels).to(torch.int8), UNKNOWN)
    return {
        "correct": correct.to(torch.int8).cpu().numpy(),
        "nll": torch.where(known, loss, float("nan")).cpu().numpy(),
    }


def mixing(n: int, mixup: float, seed: tuple[int, ...]) -> tuple[float, Tensor]:
    """Mixup (Zhang et al. 2018): share of the first image of every pair, and the places of the second, (n,).

    Args:
        n: images in a batch.
        mixup: both parameters of the Beta distribution; 0 mixes nothing, share 1.
        seed: the same seed mixes alike.
    """
    if mixup <= 0:
        return 1.0, torch.arange(n)
    rng = np.random.default_rng(seed)
    return float(rng.beta(mixup, mixup)), torch.from_numpy(rng.permutation(n))

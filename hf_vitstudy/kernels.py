"""U-centred Gram matrices of many small sets of features at once: tokens, patches, heads.

They are what unbiased HSIC is made of (Song et al. 2012; Székely & Rizzo 2014): the HSIC of two sets of features is the inner
product of their matrices, and that of several sets put together, the inner product of the sum of theirs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


CONSTANT = 1e-9  # variance / |mean|² below which features are the same for every image, and what is left is rounding


def centred_grams(features: Tensor) -> Tensor:
    """U-centred inner products of all images, (set, image, image) float64: zero diagonals, rows summing to zero.

    Features are centred over images before the float32 product, so that a mean they share costs no digits. All zero where
    the features of a set are the same for every image.

    Args:
        features: (set, image, feature), at least four images.
    """
    values = features.float()
    mean = values.mean(1, keepdim=True)
    values = values - mean
    grams = values @ values.mT
    grams = (grams.cpu() if grams.device.type == "mps" else grams).double()
    squares = mean.to(grams.device).double().square().sum((1, 2))
    constant = grams.diagonal(dim1=1, dim2=2).mean(1) <= CONSTANT * squares
    return u_centred(grams).masked_fill_(constant[:, None, None], 0)


def u_centred(grams: Tensor) -> Tensor:
    """U-centring (Székely & Rizzo 2014, eq. 2.6) of Gram matrices (..., image, image)."""
    n = grams.shape[-1]
    others = 1 - torch.eye(n, dtype=grams.dtype, device=grams.device)
    grams = grams * others
    row = grams.sum(-1, keepdim=True)
    total = row.sum(-2, keepdim=True)
    return (grams - (row + row.mT) / (n - 2) + total / ((n - 1) * (n - 2))) * others


def packed(grams: np.ndarray, size: int, storage: str) -> tuple[np.ndarray, np.ndarray]:
    """Upper triangles of symmetric matrices (set, n, n), each divided by its largest entry, and those entries.

    Args:
        grams: with zero diagonals.
        size: images a full matrix has; a smaller one is filled up with zeros, as cka stores its Gram blocks.
        storage: type of the triangles.

    Returns:
        (set, size·(size-1)/2) of type `storage`, and scales (set,) float32.
    """
    n = grams.shape[-1]
    rows, columns = np.triu_indices(size, k=1)
    inside = columns < n
    pairs = np.zeros((len(grams), len(rows)))
    pairs[:, inside] = grams[:, rows[inside], columns[inside]]
    scale = np.abs(pairs).max(1)
    pairs = np.divide(pairs, scale[:, None], out=np.zeros_like(pairs), where=scale[:, None] > 0)
    return pairs.astype(storage), scale.astype(np.float32)

"""Slow, obviously right numpy versions of what the package computes, written from the definitions."""

import itertools

import numpy as np


def u_centre(K: np.ndarray) -> np.ndarray:
    """U-centring entry by entry (Székely & Rizzo 2014, eq. 2.6): zero diagonal, rows that sum to zero."""
    n = len(K)
    K = np.array(K, dtype=np.float64)
    np.fill_diagonal(K, 0)
    row, total = K.sum(1), K.sum()
    out = np.zeros_like(K)
    for i, j in itertools.product(range(n), repeat=2):
        if i != j:
            out[i, j] = K[i, j] - row[i] / (n - 2) - row[j] / (n - 2) + total / ((n - 1) * (n - 2))
    return out


def hsic(K: np.ndarray, L: np.ndarray) -> float:
    """Unbiased HSIC by its three terms (Song et al. 2012, eq. 5), in float64."""
    n = len(K)
    K, L = (np.array(M, dtype=np.float64) for M in (K, L))
    np.fill_diagonal(K, 0)
    np.fill_diagonal(L, 0)
    one = np.ones(n)
    terms = (
        np.trace(K @ L) + (one @ K @ one) * (one @ L @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ K @ L @ one)
    )
    return float(terms / (n * (n - 3)))


def hsic_four_tuples(K: np.ndarray, L: np.ndarray) -> float:
    """The same U-statistic by brute force over ordered 4-tuples of different images."""
    total, count = 0.0, 0
    for i, j, q, r in itertools.permutations(range(len(K)), 4):
        total += K[i, j] * (L[i, j] + L[q, r] - 2 * L[i, q])
        count += 1
    return total / count


def minibatch_cka(X: np.ndarray, Y: np.ndarray, batch: int) -> float:
    """Linear CKA of features (n, d) by Nguyen et al. 2021, eq. 3, batches weighted n(n-3), batches under 4 left out."""
    sums = np.zeros(3)
    for start in range(0, len(X), batch):
        x, y = (v[start : start + batch].astype(np.float64) for v in (X, Y))
        if len(x) < 4:
            continue
        K, L, weight = x @ x.T, y @ y.T, len(x) * (len(x) - 3)
        sums += weight * np.array([hsic(K, L), hsic(K, K), hsic(L, L)])
    return float(sums[0] / np.sqrt(sums[1] * sums[2]))


def minibatch_cka_without(X: np.ndarray, Y: np.ndarray, batch: int, image: int) -> float:
    """The same with one image taken out of its batch and every Gram matrix formed anew."""
    sums = np.zeros(3)
    for start in range(0, len(X), batch):
        keep = [i for i in range(start, min(start + batch, len(X))) if i != image]
        x, y = (v[keep].astype(np.float64) for v in (X, Y))
        if len(x) < 4:
            continue
        K, L, weight = x @ x.T, y @ y.T, len(x) * (len(x) - 3)
        sums += weight * np.array([hsic(K, L), hsic(K, K), hsic(L, L)])
    return float(sums[0] / np.sqrt(sums[1] * sums[2]))

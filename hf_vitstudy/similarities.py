"""How alike two blocks are by other measures than CKA, and what CKA of a block rests on.

All but Procrustes are read off the stored Gram blocks, so they compare images with those of their own batch, and all have
one form: a block becomes a vector per batch, and the similarity of two blocks is the cosine of their vectors, products
summed over batches before the one division.

* ``rsa``: the vector holds the ranks of the distances between images.
* ``knn``: the vector marks each image's nearest neighbours.
* ``cknna``: the vector is the U-centred Gram matrix where it links nearest neighbours, zero elsewhere.

Orthogonal Procrustes compares coordinates of all images, those of the stored random projection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr

from .errors import StudyError
from .profile import Profile
from .stats import jackknife


GRAM_MEASURES = ("rsa", "rsa_gram", "knn", "cknna")
MEASURES = ("cka", *GRAM_MEASURES, "procrustes")
SOURCES = {
    "cka": "Kornblith et al. 2019; Nguyen, Raghu & Kornblith 2021, eq. 3",
    "rsa": "Kriegeskorte, Mur & Bandettini 2008",
    "rsa_gram": "Kriegeskorte, Mur & Bandettini 2008, on inner products",
    "knn": "Huh, Cheung, Wang & Isola 2024, mutual k-nearest neighbours",
    "cknna": "Huh, Cheung, Wang & Isola 2024, CKNNA",
    "procrustes": "Ding, Denain & Steinhardt 2021; Williams, Kunz, Kornblith & Linderman 2021",
}

Found = dict[str, np.ndarray]
"""(row, column) arrays: the similarity under its measure's name, ``low`` and ``high``, and ``chance`` where it has one."""


# ------------------------------------------------------------------------------------------------- from Gram blocks


def from_grams(a: Profile, b: Profile, measure: str, view: str, *, k: int = 5, level: float = 0.95) -> Found:
    """Similarity of every block of `a` with every block of `b` by one of `GRAM_MEASURES`, (row, column).

    Intervals are delete-one-batch jackknife intervals (Tukey 1958): ranks and neighbours within a batch depend on all of its
    images. NaN where there is a single batch, and where a block is the same for every image. A short last batch of no more
    than k images has no neighbours to choose and is left out.

    Raises:
        StudyError: no such measure or view, no such neighbours.
    """
    if measure not in GRAM_MEASURES:
        raise StudyError(f"no measure {measure!r} reads Gram blocks; there are: {', '.join(GRAM_MEASURES)}")
    sizes = a.batch_sizes(view)
    if not np.array_equal(sizes, b.batch_sizes(view)):
        raise StudyError(
            f"{a.name} and {b.name} hold Gram blocks of different batches; measure both with one --batch-size"
        )
    if not 1 <= k < sizes.max():
        raise StudyError(f"k must be 1 to {sizes.max() - 1}, one less than a batch has images, got k={k}")
    first = vectors(a, measure, view, k)
    second = first if b is a else vectors(b, measure, view, k)
    return from_vectors(first, second, measure, sizes, k=k, level=level)


def from_vectors(
    first: np.ndarray, second: np.ndarray, measure: str, sizes: np.ndarray, *, k: int = 5, level: float = 0.95
) -> Found:
    """The same of two sides' `vectors`, for many pairs of the same profiles; `sizes` are the images of every batch."""
    used = sizes > k if measure in ("knn", "cknna") else sizes > 0
    first, second = first[:, used], second[:, used]
    products, sizes = Products.of(first, second), sizes[used]
    low, high = products.interval(level)
    found = {measure: products.similarity(), "low": low, "high": high}
    if measure in ("knn", "cknna"):
        found["chance"] = _chance(first, second, sizes, products)
    return found


def _chance(first: np.ndarray, second: np.ndarray, sizes: np.ndarray, products: Products) -> np.ndarray:
    """The mean over all orders of one side's images, (row, column): matrices with zero diagonals keep only their sums.

    Huh et al. read CKNNA against zero, but entries that link neighbours are positive in any network, so chance is above it.
    For ``knn`` this is k / (n-1). Ranks and U-centred matrices sum to zero, so the other measures have chance 0.
    """
    n = sizes.astype(np.float64)
    sums = [side.sum(-1, dtype=np.float64) / np.sqrt(n * (n - 1)) for side in (first, second)]
    return cosine(sums[0] @ sums[1].T, products.first.sum(0), products.second.sum(0))


def vectors(profile: Profile, measure: str, view: str, k: int) -> np.ndarray:
    """One vector per block and batch, (block, batch, ...) float32; zero where the block is the same for every image."""
    grams = profile.centred_gram(view)
    products = _unit(profile.gram(view)) if measure == "cknna" else grams
    function: Callable[[np.ndarray, np.ndarray], np.ndarray] = {
        "rsa": lambda K, U: rank_vectors(_pairs(squared_distances(K))),
        "rsa_gram": lambda K, U: rank_vectors(_pairs(K)),
        "knn": lambda K, U: neighbours(K, k).reshape(*K.shape[:2], -1).astype(np.float32),
        "cknna": lambda K, U: (U * neighbours(K, k)).reshape(*K.shape[:2], -1),
    }[measure]
    sizes = profile.batch_sizes(view)
    parts = {n: function(grams[:, sizes == n, :n, :n], products[:, sizes == n, :n, :n]) for n in np.unique(sizes)}
    found = np.zeros((*grams.shape[:2], max(part.shape[-1] for part in parts.values())), np.float32)
    for n, part in parts.items():
        found[:, sizes == n, : part.shape[-1]] = part
    found[~grams.any((2, 3))] = 0
    return found


def _pairs(matrices: np.ndarray) -> np.ndarray:
    """Entries above the diagonal, (..., n, n) -> (..., n(n-1)/2)."""
    rows, columns = np.triu_indices(matrices.shape[-1], k=1)
    return matrices[..., rows, columns]


def _unit(grams: np.ndarray) -> np.ndarray:
    """Each block divided by its largest entry, which no cosine sees and float32 squares need."""
    largest = np.abs(grams).max(axis=(1, 2, 3), keepdims=True)
    return np.divide(grams, largest, out=np.zeros_like(grams), where=largest > 0)


def squared_distances(grams: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances of images from their inner products, both (..., n, n)."""
    square = np.diagonal(grams, axis1=-2, axis2=-1)
    return np.maximum(square[..., :, None] + square[..., None, :] - 2 * grams, 0)


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks along the last axis, from 0; equal values share their mean rank."""
    flat = values.reshape(-1, values.shape[-1])
    order = flat.argsort(axis=1)
    ordered = np.take_along_axis(flat, order, 1)
    opens = np.ones(flat.shape, bool)
    opens[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    group = opens.cumsum().reshape(flat.shape) - 1
    places = np.broadcast_to(np.arange(flat.shape[1]), flat.shape)
    mean = np.bincount(group.ravel(), places.ravel()) / np.bincount(group.ravel())
    found = np.empty(flat.shape)
    np.put_along_axis(found, order, mean[group], 1)
    return found.reshape(values.shape)


def rank_vectors(values: np.ndarray) -> np.ndarray:
    """Ranks along the last axis less their mean, divided by their standard deviation; zero where all are equal.

    The inner product of two such vectors is Spearman's correlation times the number of pairs of images, so a short batch
    weighs as many pairs as it has. Ranks of distances and of squared distances are the same.
    """
    found = ranks(values)
    found -= found.mean(-1, keepdims=True)
    spread = found.std(-1, keepdims=True)
    return np.divide(found, spread, out=np.zeros_like(found), where=spread > 0).astype(np.float32)


def neighbours(grams: np.ndarray, k: int) -> np.ndarray:
    """Whether j is among the k nearest images of i in Euclidean distance, itself left out: (..., n, n) bool.

    Huh et al. rank inner products of features scaled to unit length, which moves with the origin; distances do not. Of images
    equally far the first are taken.
    """
    distance = squared_distances(grams)
    places = np.arange(grams.shape[-1])
    distance[..., places, places] = np.inf
    nearest = distance.argsort(axis=-1, kind="stable")[..., : min(k, grams.shape[-1] - 1)]
    found = np.zeros(grams.shape, bool)
    np.put_along_axis(found, nearest, True, -1)
    return found


@dataclass(frozen=True)
class Products:
    """Inner products of two sides' vectors, batch by batch.

    Attributes:
        cross: (batch, row, column).
        first, second: of each side with itself, (batch, row) and (batch, column).
    """

    cross: np.ndarray
    first: np.ndarray
    second: np.ndarray

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray) -> Products:
        """Of vectors (block, batch, entry)."""
        a, b = first.swapaxes(0, 1), second.swapaxes(0, 1)
        squares = [np.einsum("bli,bli->bl", x, x, dtype=np.float64) for x in (a, b)]
        return cls((a @ b.swapaxes(1, 2)).astype(np.float64), *squares)

    def similarity(self) -> np.ndarray:
        """Cosine of the sums over batches, (row, column); NaN where a side is zero."""
        return cosine(self.cross.sum(0), self.first.sum(0), self.second.sum(0))

    def without_each_batch(self) -> np.ndarray:
        """(batch, row, column)."""
        return cosine(*(part.sum(0) - part for part in (self.cross, self.first, self.second)))

    def interval(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        estimate = self.similarity()
        if len(self.cross) < 2:
            return np.full_like(estimate, np.nan), np.full_like(estimate, np.nan)
        return jackknife(estimate, self.without_each_batch(), level)


def cosine(cross: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """cross / sqrt(first second), (..., row, column); NaN where a self term is not positive."""
    norms = first[..., :, None] * second[..., None, :]
    defined = (first > 0)[..., :, None] & (second > 0)[..., None, :]
    return np.divide(cross, np.sqrt(np.where(defined, norms, 1)), out=np.full(norms.shape, np.nan), where=defined)


# ------------------------------------------------------------------------------------------------------- Procrustes


def procrustes(a: Profile, b: Profile, *, permutations: int = 3, level: float = 0.95, seed: int = 0) -> Found:
    """Similarity of blocks after the best rotation of one onto the other, in [0, 1], (row, column).

    ‖XᵀY‖_* / (‖X‖_F ‖Y‖_F) for centred coordinates X, Y (image, projection): the cosine of Williams et al. 2021 (their angle
    is its arccos); Ding et al. 2021 report 2 - 2 of it. Coordinates are a Gaussian projection of the features, measured with
    ``projection``; scale and rotation do not matter.

    Args:
        permutations: shuffles of the images of `b` whose mean is ``chance``; it is well above zero for few images.
        level: of the interval, an infinitesimal jackknife over images (Jaeckel 1972): the nuclear norm changes by
            Σ_k (XU)_ik (YV)_ik when image i gains weight, XᵀY = U S Vᵀ.

    Raises:
        StudyError: no projection stored, or two that differ.
    """
    _same_projection(a, b)
    X, Y = (_coordinates(profile) for profile in (a, b))
    own = [np.einsum("lnd,lnd->ln", values, values) for values in (X, Y)]
    found, influence = _nuclear(X, Y)
    scale = cosine(np.ones_like(found), *(squares.sum(1) for squares in own))
    similarity = found * scale
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = [squares / squares.sum(1, keepdims=True) for squares in own]
        change = influence / found[..., None] - (relative[0][:, None] + relative[1][None]) / 2
    n = X.shape[1]
    low, high = _around(similarity, np.sqrt(n / (n - 1) * ((similarity[..., None] * change) ** 2).sum(-1)), n, level)
    result = {"procrustes": similarity, "low": low, "high": high}
    if permutations:
        rng = np.random.default_rng(seed)
        shuffled = [_nuclear_norms(X, Y[:, rng.permutation(n)]) for _ in range(permutations)]
        result["chance"] = np.mean(shuffled, axis=0) * scale
    return result


def _around(estimate: np.ndarray, error: np.ndarray, n: int, level: float) -> tuple[np.ndarray, np.ndarray]:
    from scipy.special import stdtrit

    half = stdtrit(n - 1, (1 + level) / 2) * error
    return estimate - half, estimate + half


def _same_projection(a: Profile, b: Profile) -> None:
    settings = [{key: p["projection"].attrs.get(key) for key in ("pool", "dim", "seed")} for p in (a, b)]
    if settings[0]["dim"] != settings[1]["dim"]:
        raise StudyError(
            f"{a.name} and {b.name} hold projections to {settings[0]['dim']} and {settings[1]['dim']} numbers; "
            "measure both with the same projection:dim"
        )


def _coordinates(profile: Profile) -> np.ndarray:
    """Centred coordinates, (block, image, projection) float64, each block with a largest entry of about one."""
    values = profile["projection"].values.astype(np.float64).swapaxes(0, 1)
    return values - values.mean(1, keepdims=True)


def _nuclear(X: np.ndarray, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nuclear norms of XᵀY for all pairs of blocks, and each image's share of them (row, column, image)."""
    norms = np.empty((len(X), len(Y)))
    shares = np.empty((len(X), len(Y), X.shape[1]), np.float32)
    for row, x in enumerate(X):
        U, S, V = np.linalg.svd(x.T @ Y, full_matrices=False)
        norms[row] = S.sum(-1)
        shares[row] = np.einsum("nd,cnd->cn", x, Y @ (U @ V).swapaxes(1, 2))
    return norms, shares


def _nuclear_norms(X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    return np.stack([np.linalg.svd(x.T @ Y, compute_uv=False).sum(-1) for x in X])


# --------------------------------------------------------------------------------------------------------- spectrum


def spectrum(profile: Profile, view: str = "flatten", level: float = 0.95) -> xr.Dataset:
    """How many directions a block's CKA rests on, per block: what to show beside every CKA map.

    A block with a participation ratio near one has one channel or direction that outweighs all others; its CKA is then the
    CKA of that direction (Davari et al. 2023 move it at will by moving one).

    Returns:
        (block,) arrays, each with ``_low`` and ``_high`` (delete-one-batch jackknife; NaN for one batch):

        ``participation_ratio``: tr(Σ)² / tr(Σ²) of the features' covariance Σ, both from unbiased estimators pooled over
        batches: tr(Σ)² from products of different batches, tr(Σ²) from U-centred matrices (Song et al. 2012). It may exceed
        what one batch could show.

        ``top1_energy``, ``top5_energy``: share of a batch's variance in its largest, and its five largest, eigenvalues. They
        are of the images of one batch each, 32 as a rule, so they are higher than the population's.

    Raises:
        StudyError: the profile was measured before diagonals were stored.
    """
    sums = _Spectral.of(profile, view)
    found: dict[str, tuple[str, np.ndarray]] = {}
    for name in ("participation_ratio", "top1_energy", "top5_energy"):
        estimate = getattr(sums, name)()
        low = high = np.full_like(estimate, np.nan)
        if len(sums.n) > 1:
            without = np.stack([getattr(sums.without(batch), name)() for batch in range(len(sums.n))])
            low, high = jackknife(estimate, without, level)
        found |= {name: ("block", estimate), f"{name}_low": ("block", low), f"{name}_high": ("block", high)}
    data = xr.Dataset(found, {"block": profile.data["block"].values, "depth": ("block", profile.data["depth"].values)})
    data.attrs = {"view": view, "batches": len(sums.n), "images_per_batch": int(sums.n.max()), "resampled": "batch"}
    return data


@dataclass(frozen=True)
class _Spectral:
    """Sums of every batch: images n (batch,); trace, squared off-diagonal entries, largest eigenvalues (block, batch)."""

    n: np.ndarray
    trace: np.ndarray
    squares: np.ndarray
    top1: np.ndarray
    top5: np.ndarray

    @classmethod
    def of(cls, profile: Profile, view: str) -> _Spectral:
        grams = profile.centred_gram(view)
        largest = np.abs(grams).max((1, 2, 3), keepdims=True)
        grams /= np.where(largest > 0, largest, 1)
        values = np.linalg.eigvalsh(grams)[..., ::-1]
        squares = (profile.gram(view) / np.where(largest > 0, largest, 1)) ** 2
        trace = np.trace(grams, axis1=-2, axis2=-1)
        n = profile.batch_sizes(view).astype(np.float64)
        return cls(n, trace, squares.sum((2, 3)), values[..., 0], values[..., :5].sum(-1))

    def without(self, batch: int) -> _Spectral:
        return _Spectral(*(np.delete(part, batch, -1) for part in (self.n, *self._by_block)))

    @property
    def _by_block(self) -> tuple[np.ndarray, ...]:
        return self.trace, self.squares, self.top1, self.top5

    def participation_ratio(self) -> np.ndarray:
        freedom = self.n - 1
        total = self.trace.sum(-1) ** 2
        pairs = freedom.sum() ** 2
        if len(freedom) > 1:  # a batch's own square would count the variance of its trace
            total, pairs = total - (self.trace**2).sum(-1), pairs - (freedom**2).sum()
        return _share(total / pairs, self.squares.sum(-1) / (self.n * (self.n - 3)).sum())

    def top1_energy(self) -> np.ndarray:
        return _share(self.top1.sum(-1), self.trace.sum(-1))

    def top5_energy(self) -> np.ndarray:
        return _share(self.top5.sum(-1), self.trace.sum(-1))


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


# -------------------------------------------------------------------------------------- deconfounding, matching blocks


def residuals(grams: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """What is left of U-centred Gram blocks (block, batch, n, n) after regression on those of the pixels (1, batch, n, n).

    Cui et al. 2022: one slope per block over all pairs of images. They are linear in U-centred matrices, so every row
    still sums to zero, and whatever holds for Gram blocks holds for them.
    """
    x = shown[0].astype(np.float64)
    slope = np.einsum("lbij,bij->l", grams, x) / max(float((x * x).sum()), np.finfo(np.float64).tiny)
    return (grams - slope[:, None, None, None] * x).astype(np.float32)


def monotone_matches(cells: np.ndarray) -> np.ndarray:
    """For every column its row on the path that never goes back and has the largest sum of cells.

    Dynamic programming over columns: rows may be skipped or shared, so that deeper columns match rows as deep or deeper.

    Args:
        cells: (..., row, column); NaN cells are avoided.

    Returns:
        (..., column); -1 for a column of NaN alone.
    """
    empty = np.isnan(cells).all(-2)
    value = np.where(np.isnan(cells), -np.inf, cells)
    value = np.where(empty[..., None, :], 0, value)
    best = [value[..., 0]]
    for column in range(1, value.shape[-1]):
        best.append(np.maximum.accumulate(best[-1], axis=-1) + value[..., column])
    rows = np.arange(value.shape[-2])
    limit = np.full(value.shape[:-2], value.shape[-2] - 1)
    found = np.empty((*value.shape[:-2], value.shape[-1]), int)
    for column in range(value.shape[-1] - 1, -1, -1):
        allowed = np.where(rows <= limit[..., None], best[column], -np.inf)
        limit = allowed.argmax(-1)
        found[..., column] = limit
    return np.where(empty, -1, found)

"""Gram matrices for centred kernel alignment.

Linear CKA, Kornblith et al. 2019; minibatch estimator, Nguyen, Raghu & Kornblith 2021, eq. 3. Of every block and batch only
the U-centred Gram matrix is kept; `Comparison` multiplies them later, for any two checkpoints. The diagonal that U-centring
takes out is kept beside it, so that `Profile.centred_gram` gives the mean-centred matrix back, and with it distances and
eigenvalues. So is the Gram matrix of the pixels the network was shown: what two blocks share only because images that look
alike are alike in any network can then be taken out (Cui et al. 2022).

What goes wrong elsewhere, and how it is prevented here:

* A kept reference is overwritten by in-place additions: the Gram matrix is formed while the state is visited.
* The three terms of unbiased HSIC cancel in float32 when features share a large mean, down to NaN: matrices are U-centred
  in float64, and where |mean|² exceeds the variance a hundredfold the features are centred before the product.
* A block that is equal for all images (the class token before block 0) is stored as exact zeros: undefined, not 0/0.
* A last batch of fewer than four images has no unbiased estimate and is left out.
"""

from __future__ import annotations

import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..blocks import Block
from ..checkpoints import Checkpoint
from ..errors import StudyError
from ..kernels import CONSTANT, packed
from ..states import State
from .contract import Analysis, Batch, NotApplicableError, Part, joined


POOLS = ("flatten", "mean", "cls", "tokens")
INPUT = "input"  # the view that holds the pixels' Gram blocks
KERNELS = ("linear", "rbf")
MEAN_DOMINATES = 100.0  # |mean|² / variance beyond which a float32 product loses digits that U-centring needs
WIDE, CHUNK = 16_384, 8_192  # features; a skinny product runs twice as fast as a batch of chunks
NARROW, BROAD = 64, 1_024  # features of one of many products on a GPU: fewer are all launch, more run half as fast
Grams = Tensor | list[Tensor]  # of one block, set of images by set of images
SOURCE = "Kornblith et al. 2019; Nguyen, Raghu & Kornblith 2021, eq. 3"
INPUT_SOURCE = "Cui, Kumar, Marttinen & Kaski 2022, Deconfounded Representation Similarity"


def pooled(state: State, pool: str) -> Tensor:
    """The features CKA compares, (batch, feature).

    Args:
        pool: ``flatten``: all activations, class token included, as Raghu et al. 2021 do; ``tokens``: all but the class and
            register tokens; ``mean``: mean over places; ``cls``: the class token.
    """
    if pool == "flatten":
        return state.flat
    if pool == "tokens":
        return state.flat if state.prefix_count == 0 else state.tokens.flatten(1)
    if pool == "mean":
        return state.tokens.mean(1)
    return state.prefix[:, 0]


def gram(features: Tensor) -> Tensor:
    """Inner products of all images, (batch, batch) float64.

    Products are float32 over chunks of features and added up in float64; no second copy of a wide block is made.

    Args:
        features: (batch, feature).
    """
    n, width = features.shape
    if features.dtype != torch.float32:
        total = torch.zeros(n, n, dtype=torch.float64, device=_float64_device(features))
        for chunk in features.split(CHUNK, dim=1):
            chunk = chunk.float()
            total += (chunk @ chunk.T).to(total.device, torch.float64)
        return total
    if width < WIDE:
        return (features @ features.T).double()
    whole = width // CHUNK * CHUNK
    stack = features[:, :whole].unflatten(1, (-1, CHUNK)).transpose(0, 1)
    total = torch.bmm(stack, stack.transpose(1, 2)).double().sum(0)
    if whole < width:
        rest = features[:, whole:]
        total += (rest @ rest.T).double()
    return total


def centred_gram(features: Tensor) -> Tensor:
    """Inner products after the mean over images is subtracted, (batch, batch) float64, a chunk of features at a time.

    All zero where the features are the same for every image: what rounding leaves of them is no signal.
    """
    n = len(features)
    total = torch.zeros(n, n, dtype=torch.float64, device=_float64_device(features))
    mean_square = torch.zeros((), dtype=torch.float64, device=total.device)
    for chunk in features.split(CHUNK, dim=1):
        chunk = chunk.float()
        mean = chunk.mean(0)
        chunk = chunk - mean
        total += (chunk @ chunk.T).to(total.device, torch.float64)
        mean_square += (mean @ mean).to(total.device, torch.float64)
    constant = total.diagonal().mean() <= CONSTANT * mean_square
    return torch.where(constant, torch.zeros_like(total), total)


def centred_grams_at_once(features: Tensor) -> Tensor:
    """`centred_gram` of several sets of images, with a centred float32 copy of all features.

    A dozen kernels however many sets and features there are, as a GPU wants it: launching one takes longer than a small one
    runs. The copy is laid out chunk by chunk, so that one batch of small products fills the GPU.

    Args:
        features: (set, image, feature).

    Returns:
        (set, image, image) float64.
    """
    sets, n, width = features.shape
    chunk = _chunk(width)
    mean = features.mean(1, dtype=torch.float32)
    values = torch.empty(sets, width // chunk, n, chunk, dtype=torch.float32, device=features.device)
    torch.sub(features.unflatten(2, (-1, chunk)).transpose(1, 2), mean.view(sets, -1, 1, chunk), out=values)
    values = values.flatten(0, 1)
    total = torch.bmm(values, values.mT).view(sets, -1, n, n).sum(1, dtype=torch.float64)
    constant = total.diagonal(dim1=1, dim2=2).mean(1) <= CONSTANT * mean.double().square().sum(1)
    return total.masked_fill_(constant[:, None, None], 0)


@lru_cache(maxsize=256)
def _chunk(width: int) -> int:
    """The largest divisor of a number of features up to `BROAD`; all of them where it has none worth a product."""
    best = next(chunk for chunk in range(min(width, BROAD), 0, -1) if width % chunk == 0)
    return best if best >= NARROW else width


def _grams(features: Tensor, size: int) -> Grams:
    """Gram matrices (image, image) of every `size` images, by the product that keeps the digits; too few are left out.

    On a GPU always centred first, since looking at it would stop the queue. Decided for every set by itself: what is kept of
    it must not depend on those before it.
    """
    device = features.device.type
    if device not in ("cpu", "mps") and len(features) % size == 0:
        return centred_grams_at_once(features.unflatten(0, (-1, size)))
    parts = [part for part in features.split(size) if len(part) >= 4]
    if device == "mps":  # has no float64 to add up in
        return [centred_gram(part) for part in parts]
    return [_gram(part) if device == "cpu" else centred_grams_at_once(part[None])[0] for part in parts]


def _gram(features: Tensor) -> Tensor:
    K = gram(features)
    return K if mean_over_variance(K) <= MEAN_DOMINATES else centred_gram(features)


def _float64_device(features: Tensor) -> torch.device:
    return torch.device("cpu") if features.device.type == "mps" else features.device


def mean_over_variance(K: Tensor) -> float:
    """|mean|² / variance of the features behind a Gram matrix, both summed over features; NaN where these are NaN."""
    mean_square = float(K.mean())
    variance = float(K.diagonal().mean()) - mean_square
    return float("inf") if variance <= 0 else mean_square / variance


def rbf(K: np.ndarray) -> np.ndarray:
    """Gaussian kernel from linear Gram matrices (..., n, n), bandwidth the median distance between different images.

    Kornblith et al. 2019, section 3; the median is taken within each matrix.
    """
    diagonal = np.diagonal(K, axis1=-2, axis2=-1)
    squared = np.maximum(diagonal[..., :, None] + diagonal[..., None, :] - 2 * K, 0)
    n = K.shape[-1]
    median = np.median(squared[..., ~np.eye(n, dtype=bool)], axis=-1)[..., None, None]
    return np.exp(-squared / (2 * np.where(median > 0, median, 1)))


def u_centred(K: np.ndarray) -> np.ndarray:
    """U-centring (Székely & Rizzo 2014, eq. 2.6) of Gram matrices (..., n, n), float64: zero diagonal, rows summing to zero."""
    n = K.shape[-1]
    K = K * (1 - np.eye(n))
    row = K.sum(-1, keepdims=True)
    total = row.sum(-2, keepdims=True)
    centred = K - (row + row.swapaxes(-1, -2)) / (n - 2) + total / ((n - 1) * (n - 2))
    return centred * (1 - np.eye(n))


def centred_diagonal(K: np.ndarray) -> np.ndarray:
    """Diagonals of mean-centred Gram matrices, (..., n): each image's squared distance from the mean of the images.

    Args:
        K: Gram matrices (..., n, n), centred or not.
    """
    row = K.mean(-1)
    return np.maximum(np.diagonal(K, axis1=-2, axis2=-1) - 2 * row + row.mean(-1, keepdims=True), 0)


class CKA(Analysis):
    """U-centred Gram blocks of every block: ``gram_<view>``, ``scale_<view>``, ``square_<view>``, ``size_<view>``.

    ``square_<view>`` (block, batch, place in the batch) float32 is each image's squared distance from the mean of the images
    of its Gram block, zero behind a short last one; with the kernel ``rbf`` that of the kernel's own feature space. The same
    four of the view ``input``, whose only block is the pixels, serve `Comparison.cka` with ``deconfounded=True``.

    Args:
        pool: which features, see `pooled`.
        kernel: ``linear`` or ``rbf``.
        exact: one Gram matrix of all images instead of one per batch; the features go through a temporary file.
        block: images per Gram matrix; 0 means the batch size, at most 32.
        storage: ``float16`` changes no CKA by more than 1e-4; ``float32`` doubles the size.
        input: also keep the linear Gram matrix of the pixels in [0, 1] that the network was shown; 0.2 % of a ViT-B's pass
            at 224 px. Not with `exact`.
    """

    def __init__(
        self,
        pool: str = "flatten",
        kernel: str = "linear",
        exact: bool = False,
        block: int = 0,
        storage: str = "float16",
        input: bool = True,
    ) -> None:
        for what, value, known in (
            ("pool", pool, POOLS),
            ("kernel", kernel, KERNELS),
            ("storage", storage, ("float16", "float32")),
        ):
            if value not in known:
                raise StudyError(f"cka:{what} must be one of {', '.join(known)}, got {value!r}")
        self.pool, self.kernel, self.exact, self.block, self.storage = pool, kernel, exact, block, storage
        self.view = pool + ("_rbf" if kernel == "rbf" else "") + ("_exact" if exact else "")
        self.input = input and not exact
        self.in_one_process = exact
        self.name = "cka" if self.view == "flatten" else f"cka_{self.view}"

    def start(self, checkpoint: Checkpoint, n_images: int, batch_size: int) -> None:
        if self.pool == "cls" and not all(block.prefix_count for block in checkpoint.blocks):
            raise NotApplicableError("no class token in this network")
        self.size = self.block or min(batch_size, 32)
        if self.size < 4 or (batch_size % self.size and batch_size < n_images):
            raise StudyError(
                f"Gram blocks of {self.size} images do not fit batches of {batch_size}: blocks need at least 4 images and "
                "the batch size must be a multiple; choose --batch-size 32"
            )
        self.names = [block.name for block in checkpoint.blocks]
        self._batch: list[Grams] = []
        self._seen = 0
        self._spool = Spool(checkpoint, self.pool, n_images) if self.exact else None

    def visit(self, block: Block, state: State) -> None:
        features = pooled(state, self.pool)
        if self._spool is not None:
            self._spool.add(block.name, features, self._seen)
            return
        self._batch.append(_grams(features, self.size))

    def update(self, batch: Batch) -> Part:
        self._seen += len(batch)
        if self._spool is not None:
            return {}
        seen, self._batch = self._batch, []
        sizes = [len(part) for part in batch.labels.split(self.size) if len(part) >= 4]
        shown = _by_set([_grams(batch.images.flatten(1), self.size)]) if self.input else []
        found = []
        for place, (grams, size) in enumerate(zip(_by_set(seen), sizes, strict=True)):
            part = self._packed(grams, size, batch.first + place * self.size)
            if self.input:
                part |= {f"input_{name}": value for name, value in self._stored(shown[place], size).items()}
            found.append(part)
        return {name: np.stack([part[name] for part in found]) for name in found[0]} if found else {}

    def _packed(self, grams: np.ndarray, size: int, first: int) -> Part:
        """The Gram matrices of all blocks for `size` images, (block, n, n), as they are stored."""
        if not np.isfinite(grams).all():
            name = self.names[int((~np.isfinite(grams).all((1, 2))).argmax())]
            raise StudyError(f"{name} gives NaN or infinite activations near image {first}; measure in float32")
        constant = ~grams.any((1, 2))
        if self.kernel == "rbf":
            grams = rbf(grams)
            grams[constant] = 0
        return self._stored(grams, size)

    def _stored(self, grams: np.ndarray, size: int) -> Part:
        """U-centre Gram matrices (block, n, n) and pack their upper triangles; their centred diagonals beside them."""
        centred = u_centred(grams)
        pairs, scale = packed(centred, self.size, self.storage)
        square = np.zeros((len(centred), self.size))
        square[:, :size] = centred_diagonal(grams)
        return {
            "gram": pairs,
            "scale": scale,
            "square": square.astype(np.float32),
            "size": np.array(size, np.int32),
        }

    def result(self, parts: list[Part]) -> dict[str, xr.Variable]:
        if self._spool is not None:
            self.size = self._seen
            whole = self._packed(self._spool.grams(self.names), self._seen, 0)
            parts = [{name: np.asarray(value)[None] for name, value in whole.items()}]
            self._spool.close()
        found = _variables(parts, "", self.view, "block", {"source": SOURCE, "kernel": self.kernel})
        if self.input:
            about = {"source": INPUT_SOURCE, "kernel": "linear"}
            found |= _variables(parts, "input_", INPUT, "input", about)
        return found


def _variables(parts: list[Part], prefix: str, view: str, axis: str, about: dict[str, str]) -> dict[str, xr.Variable]:
    """The variables of one view; the pixels have an axis of their own, since they are no block of the network."""
    batch = f"{view}_batch"

    def variable(name: str, unit: str, what: str, *axes: str) -> xr.Variable:
        values = joined(parts, f"{prefix}{name}").swapaxes(0, 1)
        return xr.Variable((axis, batch, *axes), values, {"unit": unit, "long_name": f"{what}, {view}", **about})

    return {
        f"gram_{view}": variable("gram", "1", "U-centred Gram matrices", f"{view}_pair"),
        f"scale_{view}": variable("scale", "activation²", "largest entry of each Gram matrix"),
        f"square_{view}": variable("square", "activation²", "squared distance from the mean image", f"{view}_place"),
        f"size_{view}": xr.Variable((batch,), joined(parts, f"{prefix}size"), {"unit": "image", **about}),
    }


def _by_set(seen: list[Grams]) -> list[np.ndarray]:
    """The Gram matrices of all blocks for each set of images, (block, image, image), fetched from the device."""
    stacked = [grams for grams in seen if isinstance(grams, Tensor)]
    if len(stacked) == len(seen):  # one transfer
        return list(torch.stack(stacked, dim=1).cpu().numpy())
    return [torch.stack(list(grams)).cpu().numpy() for grams in zip(*seen, strict=True)]


class Spool:
    """Features of all images on disk, one file per block: what the exact estimator needs and memory cannot hold."""

    def __init__(self, checkpoint: Checkpoint, pool: str, n_images: int) -> None:
        self.n = n_images
        widths = {block.name: _width(block, pool) for block in checkpoint.blocks}
        needed = 4 * n_images * sum(widths.values())
        self._folder = tempfile.TemporaryDirectory(prefix="vitstudy-")
        free = shutil.disk_usage(self._folder.name).free
        if needed > free:
            self.close()
            raise StudyError(
                f"exact CKA of {n_images} images needs {needed / 1e9:.1f} GB of temporary disk, {free / 1e9:.1f} GB are free; "
                "use fewer images, cka:exact=true:pool=mean, or the minibatch estimator"
            )
        self._files = {
            name: np.memmap(Path(self._folder.name) / f"{i}.f32", np.float32, "w+", shape=(n_images, width))
            for i, (name, width) in enumerate(widths.items())
        }

    def add(self, name: str, features: Tensor, start: int) -> None:
        self._files[name][start : start + len(features)] = features.float().cpu().numpy()

    def grams(self, names: list[str]) -> np.ndarray:
        """Gram matrices of the centred features, (block, n, n) float64."""
        return np.stack([centred_gram(torch.from_numpy(self._files[name])).numpy() for name in names])

    def close(self) -> None:
        self._files = {}
        self._folder.cleanup()


def _width(block: Block, pool: str) -> int:
    places = block.grid[0] * block.grid[1]
    return block.channels * {"flatten": places + block.prefix_count, "tokens": places, "mean": 1, "cls": 1}[pool]

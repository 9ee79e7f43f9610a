"""Linear probes: what of the data set's classes can be read off each block, with a few images per class.

Raghu et al., "Do Vision Transformers See Like Convolutional Neural Networks?", NeurIPS 2021, Fig 11-13; Dosovitskiy et al.
2020, section 4.1: ridge regression in closed form from features to {-1, 1} per class, the largest score wins. Features are the
class token, and the mean of the spatial tokens; with ``tokens=true`` also every token of the last block by itself (Fig 11).

Where we differ: the papers tune the strength of the ridge on a held-out part of the training set; here it minimises the squared
leave-one-out error of the training images, which has a closed form and spends no image. Test images choose nothing. Features
are brought to mean zero and variance one over the training images, as in the published code of ViT's few-shot evaluation
(google-research/big_vision, fewshot_lsr.py), so that a channel of large activations does not decide alone. Raghu et al. cut the
maps of a ResNet's early stages into patches before pooling so that all blocks have as many features; we take the plain mean,
which they found to differ little.

Every feature of every image is kept until the end, in float32: images · blocks · channels · 4 bytes, twice with a class token;
for 10,000 images and a ViT-B/16 0.8 GB. Nothing is solved before all images are there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from ..blocks import Block
from ..checkpoints import Checkpoint
from ..errors import StudyError
from ..states import State
from .contract import Analysis, Batch, NotApplicableError, Part, joined


SOURCE = "Raghu et al. 2021, Fig 11-13; Dosovitskiy et al. 2020, section 4.1"
STRENGTHS = 2.0 ** np.arange(-10, 21)  # as in the published few-shot evaluation of ViT
INVERSE_STRENGTHS = 10.0 ** np.arange(-5, 2)
MOST_BYTES = 8 * 2**30


class Probes(Analysis):
    """Linear probes of the end of every block, and of what enters the first.

    Variables ``probe_correct`` (probe_image, probe_block, probe_feature): whether a test image is classified correctly;
    ``probe_strength`` (probe_block, probe_feature): the ridge that was chosen; with `logistic`, ``logistic_correct`` and
    ``logistic_strength``; with `tokens`, ``token_correct`` (probe_image, probe_token).

    Args:
        shots: training images per class; all others of the class are test images.
        seed: of the draw of training images.
        tokens: also probe every token of the last block by itself.
        logistic: also multinomial logistic regression, whose strength is chosen on a fifth of the training images. It takes
            about thirty times as long as the ridge: ten seconds per block and feature for 200 classes of 5 images.
    """

    name = "probes"

    def __init__(self, shots: int = 10, seed: int = 0, tokens: bool = False, logistic: bool = False) -> None:
        if shots < 2:
            raise StudyError(
                f"probes:shots must be at least 2, got {shots}; the strength of the ridge is chosen among them"
            )
        self.shots, self.seed, self.tokens, self.logistic = shots, seed, tokens, logistic

    def start(self, checkpoint: Checkpoint, n_images: int, batch_size: int) -> None:
        blocks = checkpoint.blocks
        self.blocks = [block for block in blocks if block.side == "output" or block is blocks[0]]
        self.prefix = min(block.prefix_count for block in self.blocks)
        self.features = ["class token", "mean"] if self.prefix else ["mean"]
        numbers = len(self.features) * sum(block.channels for block in self.blocks)
        if self.tokens:
            last = self.blocks[-1]
            numbers += last.channels * (last.grid[0] * last.grid[1] + last.prefix_count)
        needed = 4 * n_images * numbers
        if needed > MOST_BYTES:
            raise StudyError(
                f"probes of {n_images} images keep {needed / 2**30:.1f} GiB of features, at most {MOST_BYTES / 2**30:.0f} GiB "
                f"are allowed; use fewer images{', or leave out tokens=true' if self.tokens else ''}"
            )
        self._batch: dict[str, np.ndarray] = {}

    def visit(self, block: Block, state: State) -> None:
        if block not in self.blocks:
            return
        place = self.blocks.index(block)
        if self.prefix:
            self._batch[f"{place} class token"] = _kept(state.prefix[:, 0])
        self._batch[f"{place} mean"] = _kept(state.tokens.mean(1))
        if self.tokens and place == len(self.blocks) - 1:
            self._batch["prefix"], self._batch["tokens"] = _kept(state.prefix), _kept(state.tokens)

    def update(self, batch: Batch) -> Part:
        seen, self._batch = self._batch, {}
        return {**seen, "targets": batch.targets.numpy().astype(np.int64)}

    def result(self, parts: list[Part]) -> dict[str, xr.Variable]:
        targets = joined(parts, "targets")
        train, test = few_shot_split(targets, self.shots, self.seed)
        self._labels = targets[train], targets[test]
        found: dict[str, xr.Variable] = {}
        for kind, probe in {"probe": ridge_probe, "logistic": self._logistic}.items():
            if kind == "probe" or self.logistic:
                found |= self._by_block(kind, probe, parts, (train, test))
        if self.tokens:
            found |= self._by_token(parts, (train, test))
        found["probe_image"] = xr.Variable(("probe_image",), test)
        found["probe_block"] = xr.Variable(("probe_block",), [block.name for block in self.blocks])
        found["probe_feature"] = xr.Variable(("probe_feature",), self.features)
        return found

    def _logistic(self, train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, float]:
        return logistic_probe(train, labels, test, self.seed)

    def _by_block(
        self, kind: str, probe: Any, parts: list[Part], split: tuple[np.ndarray, np.ndarray]
    ) -> dict[str, xr.Variable]:
        correct, strength = [], []
        for place in range(len(self.blocks)):
            for feature in self.features:
                values = joined(parts, f"{place} {feature}")
                predicted, chosen = probe(values[split[0]], self._labels[0], values[split[1]])
                correct.append(predicted == self._labels[1])
                strength.append(chosen)
        shape = (len(self.blocks), len(self.features))
        axes = ("probe_block", "probe_feature")
        hits = np.stack(correct, axis=1).reshape(-1, *shape).astype(np.uint8)
        name = "inverse strength of the logistic probe" if kind == "logistic" else "strength of the ridge"
        return {
            f"{kind}_correct": xr.Variable(("probe_image", *axes), hits, self._about(f"{kind} correct")),
            f"{kind}_strength": xr.Variable(axes, np.reshape(strength, shape), self._about(name)),
        }

    def _by_token(self, parts: list[Part], split: tuple[np.ndarray, np.ndarray]) -> dict[str, xr.Variable]:
        values = np.concatenate([joined(parts, "prefix"), joined(parts, "tokens")], axis=1)
        hits = [
            ridge_probe(values[split[0], token], self._labels[0], values[split[1], token])[0] == self._labels[1]
            for token in range(values.shape[1])
        ]
        rows, columns = (axis.ravel() for axis in np.indices(self.blocks[-1].grid))
        names = [f"prefix {index}" for index in range(values.shape[1] - len(rows))]
        names += [f"{row}, {column}" for row, column in zip(rows, columns, strict=True)]
        correct = np.stack(hits, axis=1).astype(np.uint8)
        return {
            "token_correct": xr.Variable(("probe_image", "probe_token"), correct, self._about("token probe correct")),
            "probe_token": xr.Variable(("probe_token",), names),
        }

    def _about(self, name: str) -> dict[str, Any]:
        classes = len(np.unique(self._labels[0]))
        about = {"unit": "1", "source": SOURCE, "long_name": name, "shots": self.shots, "seed": self.seed}
        return about | {"classes": classes, "chance": 1 / classes}


def _kept(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy().copy()


def few_shot_split(targets: np.ndarray, shots: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Places of the training images, `shots` of every class, and of the test images, all others; both in order.

    The draw depends on the labels, the number of shots and the seed alone. Images without a label (-1) are in neither.

    Raises:
        NotApplicableError: no labels, a single class, or a class of `shots` images or fewer.
    """
    classes, counts = np.unique(targets[targets >= 0], return_counts=True)
    if len(classes) < 2:
        raise NotApplicableError(
            f"probes need labelled images of at least 2 classes, got {len(classes)}; choose other images"
        )
    if counts.min() <= shots:
        few = int((counts <= shots).sum())
        raise NotApplicableError(
            f"probes with {shots} training images per class need {shots + 1} or more of each class, {few} of {len(classes)} "
            f"classes have fewer (class {classes[counts.argmin()]} has {counts.min()}); use more images or fewer shots"
        )
    rng = np.random.default_rng(seed)
    chosen = [rng.choice(np.flatnonzero(targets == label), shots, replace=False) for label in classes]
    train = np.sort(np.concatenate(chosen))
    return train, np.setdiff1d(np.flatnonzero(targets >= 0), train)


# ------------------------------------------------------------------------------------------------------------- ridge


def standardised(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features with mean zero and variance one over the training images, float64; features that do not vary are zero."""
    train, test = train.astype(np.float64), test.astype(np.float64)
    mean, scale = train.mean(0), train.std(0)
    flat = scale <= 1e-6 * np.abs(mean)  # what rounding leaves of a constant is no signal
    factor = np.divide(1, scale, out=np.zeros_like(scale), where=~flat & (scale > 0))
    return (train - mean) * factor, (test - mean) * factor


def ridge_probe(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, strengths: np.ndarray = STRENGTHS
) -> tuple[np.ndarray, float]:
    """Predicted labels of the test images, (image,), and the strength chosen by leave-one-out on the training images.

    Args:
        train, test: features (image, feature).
        labels: of the training images.
        strengths: of the ridge, α in Σ|y - xW - b|² + α|W|²; the bias b is free.
    """
    classes, places = np.unique(labels, return_inverse=True)
    signs = np.where(places[:, None] == np.arange(len(classes)), 1.0, -1.0)
    scores, strength = ridge_scores(*standardised(train, test), signs, strengths)
    return classes[scores.argmax(1)], strength


def ridge_scores(
    train: np.ndarray, test: np.ndarray, y: np.ndarray, strengths: np.ndarray
) -> tuple[np.ndarray, float]:
    """Ridge regression of y (image, output) on centred features, at the strength with the least leave-one-out error.

    With U, s of the thin decomposition train = U s Vᵀ, fitted values are mean(y) + U s²/(s²+α) Uᵀy. The error of image i when
    it is left out is its residual over 1 - h_ii, with h_ii = 1/n + Σ_k U_ik² s_k²/(s_k²+α) (Allen, Technometrics 1974): exact,
    bias included. The eigenvectors come from the smaller of the two product matrices.

    Returns:
        Scores of the test images, (image, output) float64, and the strength.
    """
    n = len(train)
    U, squares = _left_vectors(train)
    mean = y.mean(0)
    turned, influence = U.T @ (y - mean), U**2
    errors = []
    for strength in strengths:
        shrink = squares / (squares + strength)
        residual = y - mean - U @ (shrink[:, None] * turned)
        kept = 1 - 1 / n - influence @ shrink
        errors.append(float(((residual / np.maximum(kept, 1e-12)[:, None]) ** 2).mean()))
    best = float(strengths[int(np.argmin(errors))])
    dual = U @ (turned / (squares + best)[:, None])  # W = trainᵀ dual
    return mean + (test @ train.T) @ dual if n < train.shape[1] else mean + test @ (train.T @ dual), best


def _left_vectors(train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Left singular vectors with a singular value above rounding, (image, rank), and the squares of these values."""
    n, width = train.shape
    products = train @ train.T if n < width else train.T @ train
    squares, vectors = np.linalg.eigh(products)
    real = squares > max(n, width) * np.finfo(np.float64).eps * max(squares.max(), 1e-300)
    squares, vectors = squares[real], vectors[:, real]
    return (vectors if n < width else train @ vectors / np.sqrt(squares)), squares


# ---------------------------------------------------------------------------------------------------------- logistic


def logistic_probe(train: np.ndarray, labels: np.ndarray, test: np.ndarray, seed: int = 0) -> tuple[np.ndarray, float]:
    """Predicted labels of the test images, (image,), and scikit-learn's inverse strength C.

    C is the one with the most correct among a fifth of each class's training images (at least one) that is held out, the
    smallest of equals; then all training images are used.
    """
    rng = np.random.default_rng(seed)
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        held[rng.choice(own, max(1, len(own) // 5), replace=False)] = True
    correct = [
        int((_logistic(train[~held], labels[~held], train[held], C) == labels[held]).sum()) for C in INVERSE_STRENGTHS
    ]
    best = float(INVERSE_STRENGTHS[int(np.argmax(correct))])
    return _logistic(train, labels, test, best), best


def _logistic(train: np.ndarray, labels: np.ndarray, test: np.ndarray, strength: float) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    train, test = standardised(train, test)
    return LogisticRegression(C=strength, max_iter=2000).fit(train, labels).predict(test)

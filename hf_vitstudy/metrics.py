"""How good predictions are: scores of every image, and what they amount to over all images.

A score depends on its image alone, in float64, and sums over images are exact (`math.fsum`). A result is therefore the same
to the bit however the images were split over batches and processes, and in whatever order they came.

Logits and labels may be arrays, lists or tensors on any device; torch is not needed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .errors import StudyError
from .stats import Estimate, jackknife, wilson


BINS = 15  # of the calibration error, as Guo et al. 2017; the code of Park & Kim 2022 has 10


# ------------------------------------------------------------------------------------------------------- per image


def image_scores(logits: Any, labels: Any) -> dict[str, np.ndarray]:
    """What each image contributes, as `summarise` takes it: arrays (image,).

    ``correct``
        the label has the largest logit; bool.
    ``top5``
        the label is among the five largest; always true with fewer than five classes; bool.
    ``nll``
        negative log likelihood of the label under the softmax, nat, float64.
    ``confidence``
        largest softmax probability, float64.

    Of equal logits the one of the smaller class index counts as larger, as `numpy.argmax` has it.

    Args:
        logits: (image, class), finite.
        labels: (image,), integers from 0 on.

    Raises:
        StudyError: wrong shapes, no image, a logit that is not finite, a label out of range.
    """
    logits, labels = check(logits, labels)
    ranks = _ranks(logits, labels)
    rows, best = np.arange(len(logits)), logits.argmax(1)
    shifted = logits - logits[rows, best][:, None]
    others = np.exp(shifted)
    others[rows, best] = 0
    rest = others.sum(1)  # odds against the likeliest class; alone, so that a loss of 1e-20 is not rounded to 0
    nll = np.log1p(rest) - shifted[rows, labels]
    return {"correct": ranks < 1, "top5": ranks < 5, "nll": nll, "confidence": 1 / (1 + rest)}


def top_k(logits: Any, labels: Any, k: int) -> np.ndarray:
    """Whether the label is among the `k` largest logits, (image,) bool; ties as in `image_scores`."""
    _require_whole(k, "k")
    return _ranks(*check(logits, labels)) < k


def brier(logits: Any, labels: Any) -> np.ndarray:
    """Σ_c (p_c - y_c)², from 0 to 2, (image,): the score of Brier (Monthly Weather Review 1950) over all classes."""
    logits, labels = check(logits, labels)
    weights = np.exp(logits - logits.max(1, keepdims=True))
    errors = weights / weights.sum(1, keepdims=True)
    errors[np.arange(len(labels)), labels] -= 1
    return (errors**2).sum(1)


def _require_whole(value: Any, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise StudyError(f"{what} must be a whole number, at least 1, got {value!r}")


def _ranks(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes come before the label, (image,)."""
    own = logits[np.arange(len(labels)), labels][:, None]
    before = np.arange(logits.shape[1]) < labels[:, None]
    return ((logits > own) | ((logits == own) & before)).sum(1)


def check(logits: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Logits (image, class) float64 and labels (image,) int64, fit for every function here.

    Raises:
        StudyError: wrong shapes, no image, a logit that is not finite, a label out of range.
    """
    logits, labels = check_logits(logits), classes_of(labels, "labels")
    if len(labels) != len(logits):
        raise StudyError(f"there must be one label per image, got {len(labels)} labels for {len(logits)} images")
    n = logits.shape[1]
    wrong = (labels < 0) | (labels >= n)
    if wrong.any():
        row = int(wrong.argmax())
        raise StudyError(
            f"the label of image {row} is {labels[row]}, but logits are of classes 0 to {n - 1}; leave out unlabelled images"
        )
    return logits, labels


def check_logits(logits: Any) -> np.ndarray:
    """(image, class) float64, rows contiguous so that numpy sums each in the same order whatever the batch."""
    found = np.ascontiguousarray(to_numpy(logits, "logits"), dtype=np.float64)
    if found.ndim != 2 or not found.size:
        raise StudyError(f"logits must be (image, class) with at least one image and class, got shape {found.shape}")
    if not np.isfinite(found).all():
        row = int((~np.isfinite(found)).any(1).argmax())
        raise StudyError(f"the logits of image {row} are not finite; look at this image, or at the network's weights")
    return found


def classes_of(values: Any, what: str) -> np.ndarray:
    """Class indices, (image,) int64; `what` names them in messages."""
    found = to_numpy(values, what)
    if found.ndim != 1 or not found.size:
        raise StudyError(f"{what} must be (image,) with at least one image, got shape {found.shape}")
    if not np.issubdtype(found.dtype, np.integer):
        raise StudyError(f"{what} must be class indices (integers), got {found.dtype}; of scores take the argmax")
    return found.astype(np.int64)


def to_numpy(values: Any, what: str) -> np.ndarray:
    """An array of numbers of an array, a list or a tensor on any device and of any precision."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.double() if values.is_floating_point() else values  # numpy has no bfloat16
    try:
        found = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise StudyError(f"{what} must have rows of one length, got rows of several; pass an array") from error
    if not (np.issubdtype(found.dtype, np.number) or found.dtype == bool):
        raise StudyError(f"{what} must be numbers, got {found.dtype}")
    return found


# ------------------------------------------------------------------------------------------------- over all images


def summarise(correct: Any, top5: Any, nll: Any, confidence: Any) -> dict[str, float]:
    """``accuracy``, ``top5_accuracy``, ``nll`` (nat), ``ece`` and ``n`` of scores (image,) as `image_scores` gives them.

    Gather the scores of all processes in float64 and drop repeated images before.

    Raises:
        StudyError: no image, different lengths, a value that is not finite.
    """
    scores = {"correct": correct, "top5": top5, "nll": nll, "confidence": confidence}
    scores = {name: _score(values, name) for name, values in scores.items()}
    n = _common_length(scores)
    return {
        "accuracy": mean(scores["correct"]),
        "top5_accuracy": mean(scores["top5"]),
        "nll": mean(scores["nll"]),
        "ece": calibration_error(scores["correct"], scores["confidence"]),
        "n": n,
    }


def mean(scores: Any) -> float:
    """Mean over images of scores (image,); bool counts as 0 and 1."""
    values = _score(scores, "scores")
    return math.fsum(values.tolist()) / len(values)


def calibration_error(correct: Any, confidence: Any, *, bins: int = BINS) -> float:
    """Expected calibration error, Σ_m |B_m| / n · |accuracy(B_m) - confidence(B_m)|, from 0 to 1.

    B_m holds the images whose confidence lies in ((m - 1)/M, m/M], M = `bins` (Guo, Pleiss, Sun & Weinberger, ICML 2017,
    eq. 3; bins of Naeini, Cooper & Hauskrecht, AAAI 2015). The value is biased upward, the more so the fewer images a bin
    holds, and depends on `bins`: compare only values of the same n and bins.

    Args:
        correct: (image,), bool or 0 and 1.
        confidence: (image,), largest probability.

    Raises:
        StudyError: no image, different lengths, a confidence outside [0, 1], no bin.
    """
    _require_whole(bins, "bins")
    scores = {"correct": _score(correct, "correct"), "confidence": _score(confidence, "confidence")}
    n = _common_length(scores)
    if scores["confidence"].min() < 0 or scores["confidence"].max() > 1:
        raise StudyError("confidence must be in [0, 1]; of logits take the softmax, or call image_scores")
    place = np.searchsorted(np.arange(1, bins) / bins, scores["confidence"])  # left: an edge belongs to the bin below
    gaps = [
        math.fsum([*scores["correct"][place == m].tolist(), *(-scores["confidence"][place == m]).tolist()])
        for m in range(bins)
    ]
    return math.fsum(abs(gap) for gap in gaps) / n


def _score(values: Any, what: str) -> np.ndarray:
    found = to_numpy(values, what).astype(np.float64)
    if found.ndim != 1 or not found.size:
        raise StudyError(f"{what} must be (image,) with at least one image, got shape {found.shape}")
    if not np.isfinite(found).all():
        raise StudyError(f"{what} of image {int((~np.isfinite(found)).argmax())} is not finite; leave the image out")
    if what == "correct" and not np.isin(found, (0, 1)).all():
        raise StudyError("correct must be true or false for every image; compare predicted classes with labels")
    return found


def _common_length(arrays: dict[str, np.ndarray]) -> int:
    lengths = {name: len(values) for name, values in arrays.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{n} {name}" for name, n in lengths.items())
        raise StudyError(f"expected values of the same images, got {found}")
    return next(iter(lengths.values()))


# ------------------------------------------------------------------------------------------------- two classifiers


def mcnemar(correct1: Any, correct2: Any) -> dict[str, float]:
    """Do two classifiers differ in accuracy on the same images? The exact test of McNemar (Psychometrika 1947).

    Only images that one gets right and the other wrong tell; under the null hypothesis each classifier wins half of them.

    Args:
        correct1, correct2: (image,), bool or 0 and 1.

    Returns:
        ``statistic`` (the smaller number of wins), ``p_value`` (binomial, two-sided; 1 where no image tells),
        ``n_discordant``, ``accuracy1``, ``accuracy2``, ``n``.

    Raises:
        StudyError: no image, different lengths.
    """
    from scipy.stats import binomtest  # takes a second to import

    first, second = (_score(correct, "correct") for correct in (correct1, correct2))
    n = _common_length({"correct1": first, "correct2": second})
    wins, losses = int((first > second).sum()), int((first < second).sum())
    p = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    return {
        "statistic": min(wins, losses),
        "p_value": float(p),
        "n_discordant": wins + losses,
        "accuracy1": mean(first),
        "accuracy2": mean(second),
        "n": n,
    }


def agreement(predictions1: Any, predictions2: Any, *, level: float = 0.95) -> dict[str, Estimate]:
    """How often two classifiers predict the same class for the same image, and how far beyond chance.

    ``agreement``
        share of images with equal predictions, with Wilson's interval.
    ``kappa``
        (share - chance) / (1 - chance), chance being the agreement of independent classifiers that predict each class as
        often as these two (Cohen, Educational and Psychological Measurement 1960), with a jackknife interval over images.
        NaN where both always predict one and the same class; its interval is NaN with fewer than 3 images.

    Args:
        predictions1, predictions2: (image,), class indices.

    Raises:
        StudyError: no image, different lengths, predictions that are no class indices.
    """
    first, second = classes_of(predictions1, "predictions1"), classes_of(predictions2, "predictions2")
    n = _common_length({"predictions1": first, "predictions2": second})
    classes, both = np.unique(np.concatenate([first, second]), return_inverse=True)
    first, second, same = both[:n], both[n:], first == second
    counts1, counts2 = (np.bincount(side, minlength=len(classes)) for side in (first, second))
    products = counts1 @ counts2  # of how often each class is predicted
    kappa = _kappa(same.sum(), products, n)
    low = high = np.array(np.nan)
    if n > 2:
        # an image less is one less in one count of each side: (a - 1)(b - 1) = ab - a - b + 1 where both are of one class
        left = products - counts2[first] - counts1[second] + same
        low, high = jackknife(kappa, _kappa(same.sum() - same, left, n - 1), level)
    return {
        "agreement": wilson(int(same.sum()), n, level),
        "kappa": Estimate(float(kappa), float(low), float(high), n, level),
    }


def _kappa(same: np.ndarray, products: np.ndarray, n: int) -> np.ndarray:
    """Cohen's kappa of `same` equal predictions of `n`, `products` being Σ_class count1 · count2."""
    observed, chance = np.asarray(same / n), np.asarray(products / n**2)
    room = 1 - chance
    return np.divide(observed - chance, room, where=room > 0, out=np.full(room.shape, np.nan))

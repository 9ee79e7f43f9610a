"""Answers to adversarial images: the fast gradient sign method and projected gradient descent.

FGSM: Goodfellow et al., "Explaining and Harnessing Adversarial Examples", ICLR 2015. PGD: Madry et al., "Towards Deep Learning
Models Resistant to Adversarial Attacks", ICLR 2018; a random start in the ball, steps of 2.5 · epsilon / steps. Both maximise
the loss of the true class within epsilon of every pixel value (L∞), on images in [0, 1], to which they are projected; the
gradient passes through the checkpoint's normalisation, so epsilon means the same for every checkpoint.

Where we differ from the code of Park & Kim (ICLR 2022): theirs perturbs normalised pixel values, so its epsilon depends on the
checkpoint; it clamps the random start to [0, 1], which in normalised units is another image, up to 5.6 away, and never projects
to valid images afterwards. ``paper_mode`` adds theirs at its defaults (FGSM: epsilon 0.007; PGD: epsilon 0.3, 40 steps of
2/255). The clamped start costs the attack nothing: its first projection brings it back into the ball.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..checkpoints import Checkpoint
from ..errors import StudyError
from ..grading import UNKNOWN, graded
from .contract import Analysis, Batch, Part, joined, require_classifier, require_labels


PAPER_FGSM, PAPER_PGD, PAPER_STEP, PAPER_STEPS = 0.007, 0.3, 2 / 255, 40
SOURCES = {"fgsm": "Goodfellow et al. 2015", "pgd": "Madry et al. 2018"}

Answer = Callable[[Tensor], Tensor]
"""From images, or from pixel values, to logits."""


def ascent(answer: Answer, inputs: Tensor, labels: Tensor) -> Tensor:
    """Sign of the gradient of each image's own loss with respect to `inputs`: -1, 0 or 1, like `inputs`.

    Images without a label (-1) get the gradient of class 0's loss. No gradient reaches the network's parameters.
    """
    with torch.enable_grad():
        inputs = inputs.detach().clone().requires_grad_(True)
        logits = answer(inputs).float()
        loss = torch.nn.functional.cross_entropy(logits, labels.to(logits.device).clamp_min(0), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, inputs)
    return gradient.sign()


def ball_noise(shape: torch.Size, *, seed: int, first: int) -> Tensor:
    """Uniform noise in [-1, 1] that depends on the seed and the image's index, (batch, 3, height, width) float32."""
    rows = [
        np.random.default_rng([seed, index]).random(shape[1:], np.float32) for index in range(first, first + shape[0])
    ]
    return torch.from_numpy(np.stack(rows)) * 2 - 1


def projected(inputs: Tensor, images: Tensor, epsilon: float) -> Tensor:
    """The nearest valid images, in [0, 1] and within epsilon of `images`."""
    return (images + (inputs - images).clamp(-epsilon, epsilon)).clamp(0, 1)


def pgd(answer: Answer, images: Tensor, labels: Tensor, start: Tensor, *, epsilon: float, steps: int) -> Tensor:
    """Adversarial images in [0, 1] by `steps` of 2.5 · epsilon / steps from images + epsilon · start."""
    found = projected(images + epsilon * start, images, epsilon)
    for _ in range(steps):
        found = found + 2.5 * epsilon / steps * ascent(answer, found, labels)
        found = projected(found, images, epsilon)
    return found


def paper_pgd(answer: Answer, pixel_values: Tensor, labels: Tensor, start: Tensor) -> Tensor:
    """The published attack on normalised pixel values, its clamped start and its missing bounds included."""
    found = (pixel_values + PAPER_PGD * start).clamp(0, 1)
    for _ in range(PAPER_STEPS):
        change = found + PAPER_STEP * ascent(answer, found, labels) - pixel_values
        found = pixel_values + change.clamp(-PAPER_PGD, PAPER_PGD)
    return found


class Attacks(Analysis):
    """Answers to adversarial images: ``fgsm_correct``, ``pgd_correct`` (attack_image, epsilon), and the losses ``..._nll``.

    An image counts as correct where it is answered rightly both as it is and attacked: 1, 0, or -1 where the label is unknown.
    ``attack_clean_correct`` and ``attack_clean_nll`` (attack_image,) are the answers without attack. `paper_mode` adds
    ``fgsm_paper_...`` and ``pgd_paper_...`` (attack_image,).

    Cost: with k epsilons and s steps, 1 + k·s forward and backward passes and 2·k forward passes per image, about 130 forward
    passes by default; `paper_mode` adds about 125. Hence the first 128 images only.

    Args:
        epsilons: largest change of a pixel value, in 255ths, joined by ``+``.
        steps: of PGD.
        images: how many images to use.
        seed: of the random starts.
        paper_mode: also attack as the published code does.

    Raises:
        StudyError: no or negative epsilons, no steps, no images.
    """

    name = "attacks"
    needs_labels = True
    own_passes = True

    def __init__(
        self,
        epsilons: str = "0.5+1+2+4",
        steps: int = 10,
        images: int = 128,
        seed: int = 0,
        paper_mode: bool = False,
    ) -> None:
        self.epsilons = _epsilons(epsilons)
        if steps < 1 or images < 1:
            raise StudyError(f"attacks:steps and attacks:images must be at least 1, got {steps} and {images}")
        self.steps, self.images, self.seed, self.paper_mode = steps, images, seed, paper_mode

    def start(self, checkpoint: Checkpoint, n_images: int, batch_size: int) -> None:
        require_classifier(checkpoint)
        self.checkpoint = checkpoint

    def update(self, batch: Batch) -> Part:
        few = batch.up_to(self.images)
        if few is None:
            return {}
        assert few.logits is not None, "start has checked for a classifier"
        clean = graded(few.logits, few.labels)
        found = {f"attack_clean_{key}": value for key, value in clean.items()}
        for name, rows in self._attacked(few).items():
            survived = [_survived(row, clean) for row in rows]
            found |= {f"{name}_{key}": np.stack([row[key] for row in survived], axis=1) for key in clean}
        if self.paper_mode:
            for name, row in self._attacked_as_published(few).items():
                found |= {f"{name}_{key}": value for key, value in _survived(row, clean).items()}
        return found

    def _attacked(self, batch: Batch) -> dict[str, list[Part]]:
        """Grades after each attack, one per epsilon."""
        images, labels = batch.images, batch.labels
        start = ball_noise(images.shape, seed=self.seed, first=batch.first).to(images.device)
        uphill = ascent(self._answer, images, labels)
        found: dict[str, list[Part]] = {"fgsm": [], "pgd": []}
        for epsilon in self.epsilons:
            adversarial = {
                "fgsm": projected(images + epsilon * uphill, images, epsilon),
                "pgd": pgd(self._answer, images, labels, start, epsilon=epsilon, steps=self.steps),
            }
            for name, attacked in adversarial.items():
                found[name].append(graded(self._answer(attacked), labels))
        return found

    def _attacked_as_published(self, batch: Batch) -> dict[str, Part]:
        pixel_values = self.checkpoint.normalise(batch.images)
        start = ball_noise(batch.images.shape, seed=self.seed, first=batch.first).to(pixel_values)
        adversarial = {
            "fgsm_paper": pixel_values + PAPER_FGSM * ascent(self._logits, pixel_values, batch.labels),
            "pgd_paper": paper_pgd(self._logits, pixel_values, batch.labels, start),
        }
        return {name: graded(self._logits(attacked), batch.labels) for name, attacked in adversarial.items()}

    def _answer(self, images: Tensor) -> Tensor:
        return self._logits(self.checkpoint.normalise(images))

    def _logits(self, pixel_values: Tensor) -> Tensor:
        return self.checkpoint.network(pixel_values).logits

    def result(self, parts: list[Part]) -> dict[str, xr.Variable]:
        require_labels(joined(parts, "attack_clean_correct"))
        found = {}
        for name in parts[0]:
            values = joined(parts, name)
            source = SOURCES.get(name.split("_")[0], "")
            about = {
                "unit": "nat" if name.endswith("nll") else "1",
                "source": source,
                "long_name": name.replace("_", " "),
            }
            found[name] = xr.Variable(("attack_image", "epsilon")[: values.ndim], values, about)
        found["epsilon"] = xr.Variable(("epsilon",), np.array(self.epsilons), {"unit": "pixel in [0, 1]"})
        return found


def _survived(attacked: Part, clean: Part) -> Part:
    """The attacked grade, where an image that was answered wrongly before the attack stays wrong."""
    right = np.where(attacked["correct"] == UNKNOWN, UNKNOWN, attacked["correct"] * clean["correct"])
    return {"correct": right.astype(np.int8), "nll": attacked["nll"]}


def _epsilons(text: str) -> list[float]:
    """Positive numbers of 255ths, joined by ``+``, as shares of the pixel range in rising order."""
    try:
        found = sorted({float(part) for part in text.split("+")})
    except ValueError:
        found = [0.0]
    if not 0 < found[0] <= found[-1] <= 255:
        raise StudyError(f"attacks:epsilons must be numbers over 0 up to 255, joined by +, in 255ths, got {text!r}")
    return [value / 255 for value in found]

"""Noise of one frequency: which frequencies does a network need undisturbed?

Park & Kim, "How Do Vision Transformers Work?", ICLR 2022, Fig 2b: accuracy under noise of one frequency at a time. There the
ResNet loses more than the ViT above about 0.6π and less below.

Where we differ from the published ``FreqAttack``, and why:

* Every band holds the same energy. The published one cuts square rings out of white noise, and outer rings are larger: at 224
  pixels its root mean square grows from 0.11 at 0.1π to 0.32 at 0.9π, so its curve mixes frequency with strength.
* Bands are radial and symmetric, so the noise is real. The published ring is one row and column off centre, and the imaginary
  part that this leaves is dropped. Ours do not overlap: 0.1π wide, where the published ones are 0.127π.
* Strength is in pixels from 0 to 1, the same for every checkpoint. The published one is in normalised units: a checkpoint with
  standard deviation 0.5 gets more than twice the noise of one with ImageNet's 0.225, which alone can make curves cross.
* The noisy image is clipped to [0, 1], as any image is. ``noise_rms`` tells what is left of the noise per image.
* Gaussian noise in place of signs; any size and shape of image.

``paper_mode`` adds the published one, 0.7 in normalised units and not clipped, as the author's own example has it (issue 44 of
the published code). The published one draws its noise anew for each batch; ours depends on the image's index.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..checkpoints import Checkpoint
from ..errors import StudyError
from ..grading import graded
from .contract import Analysis, Batch, NotApplicableError, Part, joined, require_classifier, require_labels


FREQUENCIES = tuple(round(0.1 * step, 1) for step in range(1, 10))  # units of π
HALF_WIDTH = 0.05
PAPER_HALF_WIDTH, PAPER_STRENGTH = 0.2, 0.7  # radians; normalised units
SOURCE = "Park & Kim 2022, Fig 2b"


def white_noise(shape: tuple[int, int], *, seed: int, first: int, n: int) -> Tensor:
    """Standard normal noise of images first ... first + n - 1, (n, 3, height, width) float32, on the CPU.

    It depends on the seed, the image's index and the shape alone: every checkpoint sees the same.
    """
    rows = [
        np.random.default_rng([seed, index]).standard_normal((3, *shape), np.float32)
        for index in range(first, first + n)
    ]
    return torch.from_numpy(np.stack(rows))


@lru_cache(maxsize=64)
def band(height: int, width: int, centre: float) -> Tensor:
    """Which entries of ``rfft2`` are within 0.05π of `centre` (units of π), (height, width // 2 + 1) bool."""
    radius = torch.hypot(torch.fft.fftfreq(height)[:, None] * 2, torch.fft.rfftfreq(width)[None] * 2)
    # the small shift puts exact edges into the band below, whatever the rounding
    return (radius > centre - HALF_WIDTH + 1e-6) & (radius <= centre + HALF_WIDTH + 1e-6)


def band_noise(white: Tensor, centre: float, strength: float) -> Tensor:
    """One band of white noise (image, 3, height, width), scaled so that each image has root mean square `strength`."""
    height, width = white.shape[2:]
    kept = torch.fft.rfft2(white) * band(height, width, centre).to(white.device)
    noise = torch.fft.irfft2(kept, s=(height, width))
    return noise * (strength / noise.square().mean((1, 2, 3), keepdim=True).sqrt())


def paper_ring(side: int, centre: float) -> tuple[int, int]:
    """(inner, outer) sides of the published square ring around `centre` (units of π) in a spectrum of `side` entries."""
    radians = centre * torch.pi
    inner, outer = (int((radians + sign * PAPER_HALF_WIDTH) * side / (2 * torch.pi)) * 2 for sign in (-1, 1))
    return max(0, inner), min(side, outer)


def paper_noise(white: Tensor, centre: float) -> Tensor:
    """The published noise: signs of white noise times 0.7, cut to a square ring; to be added to pixel values."""
    spectrum = torch.fft.fftshift(torch.fft.fft2(white.sign() * PAPER_STRENGTH), dim=(2, 3))
    squares = []
    for which in (0, 1):
        inside = [_middle(n, paper_ring(n, centre)[which]) for n in white.shape[2:]]
        squares.append(inside[0][:, None] & inside[1][None])
    ring = (squares[1] & ~squares[0]).to(white.device)
    return torch.fft.ifft2(torch.fft.ifftshift(spectrum * ring, dim=(2, 3))).real


def _middle(n: int, length: int) -> Tensor:
    """The `length` middle ones of n places, one more on the left than on the right of the centre n // 2 where even."""
    return (torch.arange(n) >= n // 2 - length // 2) & (torch.arange(n) < n // 2 - length // 2 + length)


class Noise(Analysis):
    """Answers under noise of one frequency: ``noise_correct`` and ``noise_nll`` (image, noise_frequency), and more.

    ``noise_rms`` (image, noise_frequency) is the noise's root mean square after clipping; ``noise_clean_correct`` and
    ``noise_clean_nll`` (image,) are the answers without noise. ``correct`` is 1, 0, or -1 where the label is unknown.
    `paper_mode` adds ``noise_paper_correct`` and ``noise_paper_nll``.

    Cost: 9 forward passes per image, 18 in `paper_mode`.

    Args:
        strength: root mean square of the noise before clipping, in pixels from 0 to 1. The published noise has 0.025 (0.1π) to
            0.073 (0.9π) at a standard deviation of 0.225 and 224 pixels.
        images: how many images to use; 0 takes all. With a limit the first axis is ``noise_image``.
        clip: whether to clip noisy images to [0, 1].
        seed: of the noise.
        paper_mode: also add the published noise.

    Raises:
        StudyError: a strength that is not positive.
    """

    name = "noise"
    needs_labels = True
    own_passes = True

    def __init__(
        self,
        strength: float = 0.05,
        images: int = 0,
        clip: bool = True,
        seed: int = 0,
        paper_mode: bool = False,
    ) -> None:
        if strength <= 0:
            raise StudyError(
                f"noise:strength must be positive, a root mean square in pixels from 0 to 1, got {strength}"
            )
        self.strength, self.images, self.clip, self.seed, self.paper_mode = strength, images, clip, seed, paper_mode

    def start(self, checkpoint: Checkpoint, n_images: int, batch_size: int) -> None:
        require_classifier(checkpoint)
        height, width = checkpoint.image_size
        empty = [frequency for frequency in FREQUENCIES if not band(height, width, frequency).any()]
        if empty:
            raise NotApplicableError(
                f"images of {height} x {width} pixels hold no frequency within 0.05π of {empty[0]}π"
            )
        self.checkpoint = checkpoint

    def update(self, batch: Batch) -> Part:
        few = batch.up_to(self.images) if self.images else batch
        if few is None:
            return {}
        assert few.logits is not None, "start has checked for a classifier"
        height, width = few.images.shape[2:]
        white = white_noise((height, width), seed=self.seed, first=few.first, n=len(few)).to(few.images.device)
        found = {f"noise_clean_{key}": value for key, value in graded(few.logits, few.labels).items()}
        found |= self._answers("noise", few, lambda frequency: self._noisy(few, white, frequency))
        if self.paper_mode:
            pixel_values = self.checkpoint.normalise(few.images)
            found |= self._answers(
                "noise_paper", few, lambda f: (pixel_values + paper_noise(white, f).to(pixel_values), {})
            )
        return found

    def _noisy(self, batch: Batch, white: Tensor, frequency: float) -> tuple[Tensor, dict[str, np.ndarray]]:
        noisy = batch.images + band_noise(white, frequency, self.strength)
        if self.clip:
            noisy = noisy.clamp(0, 1)
        rms = (noisy - batch.images).square().mean((1, 2, 3)).sqrt()
        return self.checkpoint.normalise(noisy), {"rms": rms.cpu().numpy()}

    def _answers(self, name: str, batch: Batch, noisy) -> Part:
        """Grades at every frequency, stacked along the last axis."""
        rows = []
        for frequency in FREQUENCIES:
            pixel_values, more = noisy(frequency)
            logits = self.checkpoint.network(pixel_values).logits
            rows.append(graded(logits, batch.labels) | more)
        return {f"{name}_{key}": np.stack([row[key] for row in rows], axis=1) for key in rows[0]}

    def result(self, parts: list[Part]) -> dict[str, xr.Variable]:
        require_labels(joined(parts, "noise_clean_correct"))
        image = "noise_image" if self.images else "image"
        found = {}
        for name in next(part for part in parts if part):
            unit = {"correct": "1", "nll": "nat", "rms": "pixel in [0, 1]"}[name.rsplit("_", 1)[1]]
            values = joined(parts, name)
            about = {
                "unit": unit,
                "source": SOURCE,
                "long_name": name.replace("_", " "),
                "strength": self._strength(name),
            }
            found[name] = xr.Variable((image, "noise_frequency")[: values.ndim], values, about)
        found["noise_frequency"] = xr.Variable(("noise_frequency",), np.array(FREQUENCIES), {"unit": "π"})
        return found

    def _strength(self, name: str) -> str:
        if name.startswith("noise_clean"):
            return "0"
        if name.startswith("noise_paper"):
            return f"{PAPER_STRENGTH} in normalised units"
        return f"{self.strength} in pixels, {'clipped' if self.clip else 'not clipped'}, seed {self.seed}"

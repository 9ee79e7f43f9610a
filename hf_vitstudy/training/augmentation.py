"""What happens to an image on its way to the network, and to a batch of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, pad
from torchvision.transforms import InterpolationMode, v2

from .order import seed_of, uniform
from .settings import AugmentConfig, RandAugmentConfig


BINS = 30  # of the strength of torchvision's RandAugment: 30 is as strong as timm's 10


class Augment:
    """The random part of the preparation of training images, uint8 in and out.

    Every image is changed by numbers that depend on (seed, epoch, image) alone: alone or in a batch, here or on a GPU.

    Args:
        config: which changes.
        size: (height, width) that the network sees.
        mean: the colour, in [0, 1], that is zero to the network; what rotated and erased places are filled with.
        seed: of the run.
    """

    def __init__(self, config: AugmentConfig, size: tuple[int, int], mean: list[float], seed: int) -> None:
        fill = [round(255 * value) for value in mean]
        self.padding = config.padding if config.crop == "padded" else 0
        self.flip, self.seed = config.flip, seed
        self.resize = None
        if config.crop == "resized":
            self.resize = v2.RandomResizedCrop(size, scale=tuple(config.scale), antialias=True)
        self.others: list[nn.Module] = []
        if config.randaugment is not None:
            self.others.append(RandAugment(config.randaugment, fill))
        if config.erase:
            self.others.append(v2.RandomErasing(config.erase, value=fill))

    @property
    def only_places(self) -> bool:
        """Whether pixels are moved but never changed, which whole batches can undergo at once."""
        return self.resize is None and not self.others

    def __call__(self, pixels: Tensor, epoch: int, index: int) -> Tensor:
        """One image, (3, height, width)."""
        # torchvision draws from the global generator; the loop seeds it again before every forward pass
        if not self.only_places:
            torch.manual_seed(seed_of(self.seed, "augment", epoch, index))
        if self.resize is not None:
            pixels = self.resize(pixels)
        pixels = self.place(pixels[None], epoch, np.array([index]))[0]
        for change in self.others:
            pixels = change(pixels)
        return pixels

    def place(self, pixels: Tensor, epoch: int, index: np.ndarray) -> Tensor:
        """A batch cropped out of its black margin and mirrored, (batch, 3, height, width)."""
        if not self.padding and not self.flip:
            return pixels
        drawn = uniform(seed_of(self.seed, "place", epoch), index, 3)
        top, left = (drawn[:, :2] * (2 * self.padding + 1)).astype(np.int64).T
        mirrored = (drawn[:, 2] < 0.5) & self.flip
        shift = shift_by_index if pixels.is_cuda else shift_by_slices
        return shift(pixels, top, left, mirrored, self.padding)


def shift_by_slices(pixels: Tensor, top: np.ndarray, left: np.ndarray, mirrored: np.ndarray, padding: int) -> Tensor:
    """Windows of the padded images, one copy each: the fastest way on a CPU."""
    height, width = pixels.shape[-2:]
    moved = torch.empty_like(pixels)
    padded = pad(pixels, [padding] * 4) if padding else pixels
    for place, (up, aside, mirror) in enumerate(zip(top.tolist(), left.tolist(), mirrored.tolist(), strict=True)):
        window = padded[place, :, up : up + height, aside : aside + width]
        moved[place] = window.flip(-1) if mirror else window
    return moved


def shift_by_index(pixels: Tensor, top: np.ndarray, left: np.ndarray, mirrored: np.ndarray, padding: int) -> Tensor:
    """The same in three kernels whatever the batch: the fastest way on a GPU."""
    batch, channels, height, width = pixels.shape
    rows = top[:, None] + np.arange(height)
    columns = np.where(mirrored[:, None], left[:, None] + np.arange(width)[::-1], left[:, None] + np.arange(width))
    rows_, columns_ = (torch.from_numpy(places).to(pixels.device) for places in (rows, columns))
    padded = pad(pixels, [padding] * 4)
    which = torch.arange(batch, device=pixels.device)[:, None, None, None]
    channel = torch.arange(channels, device=pixels.device)[None, :, None, None]
    return padded[which, channel, rows_[:, None, :, None], columns_[:, None, None, :]]


class RandAugment(nn.Module):
    """torchvision's operations with timm's scale of strength, its spread, and its chance of an operation to be left out.

    timm's string ``rand-m9-n2-mstd1.0`` is ``ops 2, magnitude 9, std 1, probability 0.5``; torchvision's own way is
    ``std 0, probability 1``. The operations are torchvision's: with Identity, without timm's Invert and SolarizeAdd.
    """

    def __init__(self, config: RandAugmentConfig, fill: list[int]) -> None:
        super().__init__()
        self.config = config
        self.by_strength = nn.ModuleList(
            v2.RandAugment(1, strength, BINS + 1, InterpolationMode.BILINEAR, fill) for strength in range(BINS + 1)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        for chance in torch.rand(self.config.ops).tolist():
            if chance < self.config.probability:
                magnitude = torch.normal(self.config.magnitude, self.config.std, ()).clamp(0, 10).item()
                pixels = self.by_strength[round(magnitude * BINS / 10)](pixels)
        return pixels


class Mix:
    """Mixup and CutMix of a batch with itself, moved on by one image (torchvision v2).

    Takes normalised pixels (batch, 3, height, width) and labels (batch,); returns pixels and, where anything can be mixed,
    the shares of the classes (batch, class). Draws from torch's global generator.
    """

    def __init__(self, config: AugmentConfig, classes: int) -> None:
        self.probability, self.classes = config.mix_probability, classes
        self.ways: list[nn.Module] = []
        if config.mixup:
            self.ways.append(v2.MixUp(alpha=config.mixup, num_classes=classes))
        if config.cutmix:
            self.ways.append(v2.CutMix(alpha=config.cutmix, num_classes=classes))

    def __call__(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if not self.ways:
            return pixels, labels
        chance, which = torch.rand(2).tolist()
        if chance < self.probability:
            return self.ways[int(which * len(self.ways))](pixels, labels)
        return pixels, one_hot(labels, self.classes).to(pixels.dtype)

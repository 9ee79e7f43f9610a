"""Images made harder to recognise: common corruptions, and frequencies, order and parts taken away.

Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019: fifteen
kinds in five severities. Their strengths (`STRENGTHS`) are those of the published generators for images of 224 (ImageNet-C),
64 (Tiny-ImageNet-C) and 32 pixels (CIFAR-10-C), github.com/hendrycks/robustness; the code here is our own. Lengths are in
pixels, so strengths fit the size they were chosen for: those of 224 pixels leave nothing of an image of 32. `nominal_size`
takes the nearest of the three. Images are corrupted at the network's input size; CIFAR images that a processor enlarged to 96
pixels get the strengths of 64.

Numbers are close to, not equal to, those on the published files:

* Frost: the published one lays photographs of ice over the image. No photograph comes with this package; `ice` draws a
  texture with about their mean colour, contrast and spectral slope.
* Elastic transform samples once for the affine and the local displacement together; the published one interpolates twice.
* Zoom blur magnifies about the image's centre; the published one about the centre of a crop of whole pixels.
* Nothing is rounded to 8 bits and nothing is saved as JPEG of quality 85 afterwards, as all published files were.

Four kinds of our own choice take something away: `low_pass`, `high_pass` (compare Geirhos et al., NeurIPS 2018, and Yin et al.,
NeurIPS 2019), `patch_shuffle` and `occlusion` (Naseer et al., "Intriguing Properties of Vision Transformers", NeurIPS 2021).

Glass blur is as published: its loop means to swap neighbouring pixels, but the right side of the exchange holds views of the
array, so that a pixel is overwritten by its neighbour. True swaps carry pixels far, since most are swapped again, and would be
a stronger corruption than the one everybody measured.

Every function takes an image (height, width, 3) in [0, 1], a strength and a random generator, and returns a new image, which
`corrupt` clips to [0, 1].
"""

from __future__ import annotations

import io
import math
import zlib
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from PIL import Image, ImageDraw
from scipy import fft, ndimage
from torch import Tensor

from .errors import StudyError


SIZES = (224, 64, 32)
SEVERITIES = (1, 2, 3, 4, 5)

STRENGTHS: dict[str, dict[int, tuple[Any, ...]]] = {
    # standard deviation
    "gaussian_noise": {
        224: (0.08, 0.12, 0.18, 0.26, 0.38),
        64: (0.04, 0.08, 0.12, 0.15, 0.18),
        32: (0.04, 0.06, 0.08, 0.09, 0.1),
    },
    # photons at full brightness
    "shot_noise": {224: (60, 25, 12, 5, 3), 64: (250, 100, 50, 30, 15), 32: (500, 250, 100, 75, 50)},
    # share of values that become 0 or 1
    "impulse_noise": {
        224: (0.03, 0.06, 0.09, 0.17, 0.27),
        64: (0.01, 0.02, 0.05, 0.08, 0.14),
        32: (0.01, 0.02, 0.03, 0.05, 0.07),
    },
    # radius of the disk, standard deviation of its soft edge
    "defocus_blur": {
        224: ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        64: ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
        32: ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    },
    # standard deviation of the blur before and after, largest offset, rounds
    "glass_blur": {
        224: ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        64: ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
        32: ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    },
    # half the length, standard deviation
    "motion_blur": {
        224: ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        64: ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
        32: ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    },
    # number of magnifications, step from one to the next
    "zoom_blur": {
        224: ((11, 0.01), (16, 0.01), (11, 0.02), (13, 0.02), (11, 0.03)),
        64: ((6, 0.01), (11, 0.01), (16, 0.01), (21, 0.01), (26, 0.01)),
        32: ((6, 0.01), (11, 0.01), (16, 0.01), (21, 0.01), (26, 0.01)),
    },
    # mean and deviation of the flakes' noise, magnification, threshold, motion (half length, deviation), share of the image
    "snow": {
        224: (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        64: (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
        ),
        32: (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    },
    # weight of the image, weight of the ice
    "frost": {
        224: ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
        64: ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
        32: ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    },
    # thickness, decay of the plasma from one scale to the next
    "fog": {
        224: ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
        64: ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
        32: ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    },
    # added to the value of HSV
    "brightness": {
        224: (0.1, 0.2, 0.3, 0.4, 0.5),
        64: (0.1, 0.2, 0.3, 0.4, 0.5),
        32: (0.05, 0.1, 0.15, 0.2, 0.3),
    },
    # factor on the deviation from the mean colour
    "contrast": {
        224: (0.4, 0.3, 0.2, 0.1, 0.05),
        64: (0.4, 0.3, 0.2, 0.1, 0.05),
        32: (0.75, 0.5, 0.4, 0.3, 0.15),
    },
    # factor on the smoothed displacement, deviation of the smoothing, largest shift of the affine map's corners: pixels. The
    # published code for 224 pixels multiplies by 244; these are its products.
    "elastic_transform": {
        224: ((488, 170.8, 24.4), (488, 19.52, 48.8), (12.2, 2.44, 4.88), (17.08, 2.44, 4.88), (29.28, 2.44, 4.88)),
        64: ((0, 0, 5.12), (3.2, 19.2, 3.84), (6.4, 5.12, 3.84), (6.4, 1.92, 1.92), (10.24, 1.92, 1.28)),
        32: ((0, 0, 2.56), (1.6, 6.4, 2.24), (2.56, 1.92, 1.92), (3.2, 1.28, 1.6), (3.2, 0.96, 0.96)),
    },
    # side of the small image as a share
    "pixelate": {
        224: (0.6, 0.5, 0.4, 0.3, 0.25),
        64: (0.9, 0.8, 0.7, 0.6, 0.5),
        32: (0.95, 0.9, 0.85, 0.75, 0.65),
    },
    # quality
    "jpeg_compression": {224: (25, 18, 15, 10, 7), 64: (65, 58, 50, 40, 25), 32: (80, 65, 58, 50, 40)},
}
CORRUPTIONS = tuple(STRENGTHS)

# ours, the same at every size: frequencies in units of π, patches along a side, share of patches
STRENGTHS |= {
    "low_pass": dict.fromkeys(SIZES, (0.5, 0.25, 0.125, 0.0625, 0.03125)),
    "high_pass": dict.fromkeys(SIZES, (0.03125, 0.0625, 0.125, 0.25, 0.5)),
    "patch_shuffle": dict.fromkeys(SIZES, (2, 4, 7, 8, 14)),
    "occlusion": dict.fromkeys(SIZES, (0.1, 0.3, 0.5, 0.7, 0.9)),
}
GROUPS = {
    "all": CORRUPTIONS,
    "noise": CORRUPTIONS[:3],
    "blur": CORRUPTIONS[3:7],
    "weather": CORRUPTIONS[7:11],
    "digital": CORRUPTIONS[11:],
    "removal": tuple(STRENGTHS)[15:],
}
OCCLUSION_GRID = 14


def corrupt(
    images: Tensor, kind: str, severity: int, *, seed: int = 0, first: int = 0, size: int | None = None
) -> Tensor:
    """Corrupted images in [0, 1], like `images`.

    Random numbers depend on (seed, index of the image, kind, severity) alone, so that every checkpoint of the same input size
    sees the same corrupted image.

    Args:
        images: (batch, 3, height, width) in [0, 1].
        kind, severity: a key of `STRENGTHS` and 1 ... 5.
        first: index of the first image.
        size: whose strengths to take, 224, 64 or 32; None takes the nearest.

    Raises:
        StudyError: unknown kind, severity or size.
    """
    strength = strength_of(kind, severity, size or nominal_size(images.shape[2:]))
    found = []
    for index, image in enumerate(images.permute(0, 2, 3, 1).cpu().float().numpy(), start=first):
        rng = np.random.default_rng([seed, index, zlib.crc32(kind.encode()), severity])
        found.append(np.clip(_FUNCTIONS[kind](image, strength, rng), 0, 1).astype(np.float32))
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).to(images)


def strength_of(kind: str, severity: int, size: int) -> Any:
    """The published strength; a number or a tuple, as the comments in `STRENGTHS` say."""
    if kind not in STRENGTHS:
        raise StudyError(f"no corruption is called {kind!r}; there are: {', '.join(STRENGTHS)}")
    if severity not in SEVERITIES or size not in SIZES:
        raise StudyError(f"severity must be 1 to 5 and size one of {SIZES}, got severity {severity} and size {size}")
    return STRENGTHS[kind][size][severity - 1]


def nominal_size(shape: tuple[int, ...]) -> int:
    """The size whose strengths fit images (height, width) best: nearest in ratio to the shorter side."""
    return min(SIZES, key=lambda size: abs(math.log(min(shape) / size)))


# ------------------------------------------------------------------------------------------------------------- noise


def gaussian_noise(image: np.ndarray, scale: float, rng: Generator) -> np.ndarray:
    """Normal noise of standard deviation `scale`, as of a sensor in the dark."""
    return image + rng.normal(0, scale, image.shape)


def shot_noise(image: np.ndarray, photons: float, rng: Generator) -> np.ndarray:
    """Poisson noise of a sensor that counts `photons` at full brightness."""
    return rng.poisson(image * photons) / photons


def impulse_noise(image: np.ndarray, share: float, rng: Generator) -> np.ndarray:
    """A `share` of all values (not pixels) replaced by 0 or 1 with equal chances."""
    hit, salt = rng.random(image.shape) < share, rng.random(image.shape) < 0.5
    return np.where(hit, salt, image)


# -------------------------------------------------------------------------------------------------------------- blur


def defocus_blur(image: np.ndarray, strength: tuple[float, float], rng: Generator) -> np.ndarray:
    """Each point spread over a disk (radius, softness of its edge), as by a lens out of focus."""
    kernel = disk(*strength)
    reach = len(kernel) // 2
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    spectrum = fft.rfft2(padded, axes=(0, 1)) * fft.rfft2(kernel, padded.shape[:2])[..., None]
    return fft.irfft2(spectrum, padded.shape[:2], axes=(0, 1))[2 * reach :, 2 * reach :]


def disk(radius: float, softness: float) -> np.ndarray:
    """A disk that sums to one, smoothed by a Gaussian of 3 pixels' width (5 for radii over 8), as published."""
    reach = math.ceil(radius) + 2
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    inside = (y**2 + x**2 <= radius**2).astype(float)
    truncate = (1 if radius <= 8 else 2) / softness
    return ndimage.gaussian_filter(inside / inside.sum(), softness, truncate=truncate, mode="constant")


def glass_blur(image: np.ndarray, strength: tuple[float, int, int], rng: Generator) -> np.ndarray:
    """A blurred image whose pixels are overwritten by neighbours, blurred again: (deviation, offset, rounds)."""
    deviation, offset, rounds = strength
    smooth = (deviation, deviation, 0)
    blurred = ndimage.gaussian_filter(image, smooth, mode="nearest")
    order = scattered(image.shape[:2], offset, rounds, rng)
    return ndimage.gaussian_filter(blurred.reshape(-1, 3)[order].reshape(image.shape), smooth, mode="nearest")


def scattered(shape: tuple[int, ...], offset: int, rounds: int, rng: Generator) -> np.ndarray:
    """Which pixel (flat index) stands at each place after glass blur's loop, (height · width,).

    From the last row up, each pixel away from the border takes the colour of one -offset ... offset - 1 rows and columns away.
    """
    height, width = shape
    rows, columns = np.arange(height - offset, offset, -1), np.arange(width - offset, offset, -1)
    places = (rows[:, None] * width + columns).ravel().tolist()
    order = list(range(height * width))
    for _ in range(rounds):
        down, right = rng.integers(-offset, offset, (2, len(places)))
        for place, step in zip(places, (down * width + right).tolist(), strict=True):
            order[place] = order[place + step]
    return np.array(order)


def motion_blur(image: np.ndarray, strength: tuple[int, float], rng: Generator) -> np.ndarray:
    """Half a Gaussian smeared along a direction within 45 degrees of the horizontal: (half length, deviation)."""
    return smeared(image, *strength, rng.uniform(-45, 45))


def smeared(layer: np.ndarray, radius: int, deviation: float, degrees: float) -> np.ndarray:
    """Σ_i w_i layer[y + i sin, x + i cos] over i = 0 ... 2·radius, offsets rounded, as ImageMagick's motion blur."""
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * deviation**2))
    weights /= weights.sum()
    angle = math.radians(degrees)
    reach = 2 * radius
    padded = np.pad(layer, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    down, right = (reach + np.rint(steps * f(angle)).astype(int) for f in (math.sin, math.cos))
    height, width = layer.shape[:2]
    views = (padded[y : y + height, x : x + width] for y, x in zip(down, right, strict=True))
    return sum(weight * view for weight, view in zip(weights, views, strict=True))


def zoom_blur(image: np.ndarray, strength: tuple[int, float], rng: Generator) -> np.ndarray:
    """The mean of the image and its magnifications 1, 1 + step, ...: (how many, step)."""
    count, step = strength
    zooms = sum(magnified(image, 1 + step * index) for index in range(count))
    return (image + zooms) / (count + 1)


def magnified(layer: np.ndarray, factor: float) -> np.ndarray:
    """The layer (height, width, channel) enlarged about its centre, at its old size; linear interpolation."""
    rows, columns = (_magnification(n, factor) for n in layer.shape[:2])
    wide = np.matmul(columns, layer)
    return np.matmul(rows, wide.reshape(len(rows), -1)).reshape(layer.shape)


def _magnification(n: int, factor: float) -> np.ndarray:
    """The matrix that magnifies a line of n places: entry (i, j) is the weight of place j at place i."""
    middle = (n - 1) / 2
    places = (np.arange(n) - middle) / factor + middle
    return np.clip(1 - np.abs(places[:, None] - np.arange(n)), 0, None).astype(np.float32)


# ----------------------------------------------------------------------------------------------------------- weather


def snow(image: np.ndarray, strength: tuple[float, ...], rng: Generator) -> np.ndarray:
    """A paler image under two layers of falling flakes, one the other turned by half a circle."""
    mean, deviation, zoom, threshold, radius, smear, share = strength
    flakes = magnified(rng.normal(mean, deviation, (*image.shape[:2], 1)).astype(np.float32), zoom)
    flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1)
    flakes = smeared(flakes, int(radius), smear, rng.uniform(-135, -45))
    pale = np.maximum(image, luma(image) * 1.5 + 0.5)
    return share * image + (1 - share) * pale + flakes + flakes[::-1, ::-1]


def luma(image: np.ndarray) -> np.ndarray:
    """Gray values (height, width, 1) by ITU-R BT.601."""
    return image @ np.array([[0.299], [0.587], [0.114]], dtype=image.dtype)


def frost(image: np.ndarray, strength: tuple[float, float], rng: Generator) -> np.ndarray:
    """The image under a drawn sheet of ice: (weight of the image, weight of the ice)."""
    of_image, of_ice = strength
    return of_image * image + of_ice * ice(image.shape[:2], rng)


def ice(shape: tuple[int, ...], rng: Generator) -> np.ndarray:
    """A drawn texture of ice, (height, width, 3) in [0, 1]: bluish clouds under bright feathers of crystals.

    The photographs of ImageNet-C have mean colours near (0.55, 0.62, 0.68), standard deviations of gray from 0.07 to 0.17 and
    spectra whose power falls two to seven times per octave. This has about the same, without their variety.
    """
    clouds, feathers = _cloud(shape, 1.5, rng), _feathers(shape, rng)
    gray = clouds + 1.5 * (feathers - feathers.mean()) / feathers.std() * (1 + 0.5 * np.tanh(_cloud(shape, 2, rng)))
    gray = 0.62 + 0.14 * (gray - gray.mean()) / gray.std()
    return np.clip(gray[..., None] + np.array([-0.07, 0.0, 0.06]), 0, 1)


def _feathers(shape: tuple[int, ...], rng: Generator, count: int = 40, scale: int = 4) -> np.ndarray:
    """Stems with side branches at 60 degrees, (height, width) from 0 to 1; drawn `scale` times larger for smooth lines."""
    height, width = shape
    canvas = Image.new("L", (width * scale, height * scale))
    pen = ImageDraw.Draw(canvas)
    for _ in range(count):
        root = rng.uniform(0, 1, 2) * canvas.size
        length, angle = rng.uniform(0.15, 0.6) * min(canvas.size), rng.uniform(0, 2 * math.pi)
        light = int(rng.integers(110, 256))
        stroke = max(1, min(canvas.size) // 150)
        pen.line((*root, *(root + length * _towards(angle))), fill=light, width=stroke)
        for part in rng.uniform(0.05, 1, 16):
            joint, reach = root + part * length * _towards(angle), 0.35 * length * (1 - part) * rng.uniform(0.5, 1)
            for turn in (math.pi / 3, -math.pi / 3):
                pen.line((*joint, *(joint + reach * _towards(angle + turn))), fill=light, width=max(1, stroke // 2))
    return np.asarray(canvas.resize((width, height), Image.Resampling.BOX), dtype=float) / 255


def _towards(angle: float) -> np.ndarray:
    return np.array([math.cos(angle), math.sin(angle)])


def _cloud(shape: tuple[int, ...], slope: float, rng: Generator) -> np.ndarray:
    """Random smooth noise of mean 0 and deviation 1 whose amplitudes fall as frequency^-slope, not periodic."""
    height, width = (2 * n for n in shape)
    radius = np.hypot(fft.fftfreq(height)[:, None], fft.rfftfreq(width))
    radius[0, 0] = np.inf
    field = fft.irfft2(fft.rfft2(rng.standard_normal((height, width))) / radius**slope, (height, width))
    field = field[: shape[0], : shape[1]]
    return (field - field.mean()) / field.std()


def fog(image: np.ndarray, strength: tuple[float, float], rng: Generator) -> np.ndarray:
    """Plasma added and the sum darkened to the old maximum: (thickness, decay of the plasma)."""
    thickness, decay = strength
    height, width = image.shape[:2]
    sheet = plasma(1 << (max(height, width) - 1).bit_length(), decay, rng)[:height, :width, None]
    brightest = image.max()
    return (image + thickness * sheet) * brightest / (brightest + thickness)


def plasma(side: int, decay: float, rng: Generator) -> np.ndarray:
    """A fractal of midpoint displacement (diamond, square) on a torus, (side, side) from 0 to 1; `side` a power of two.

    Displacements shrink by decay² from one scale to the next: the published code multiplies its amplitude with itself.
    """
    field = np.zeros((side, side))
    step, amplitude = side, 1.0
    while step > 1:
        half = step // 2
        corners = field[::step, ::step]
        pairs = corners + np.roll(corners, -1, 0)
        middles = (pairs + np.roll(pairs, -1, 1)) / 4 + amplitude * rng.uniform(-1, 1, corners.shape)
        field[half::step, half::step] = middles
        for axis, place in ((1, np.s_[::step, half::step]), (0, np.s_[half::step, ::step])):
            around = corners + np.roll(corners, -1, axis) + middles + np.roll(middles, 1, 1 - axis)
            field[place] = around / 4 + amplitude * rng.uniform(-1, 1, corners.shape)
        step, amplitude = half, amplitude / decay**2
    low, high = field.min(), field.max()
    return (field - low) / (high - low) if high > low else field


def brightness(image: np.ndarray, more: float, rng: Generator) -> np.ndarray:
    """`more` added to the value of HSV: hue and saturation stay."""
    value = image.max(2, keepdims=True)
    brighter = np.clip(value + more, 0, 1)
    return np.where(value > 0, image * (brighter / np.where(value > 0, value, 1)), brighter)


# ----------------------------------------------------------------------------------------------------------- digital


def contrast(image: np.ndarray, factor: float, rng: Generator) -> np.ndarray:
    """Deviations from the mean colour times `factor`."""
    mean = image.mean((0, 1), keepdims=True)
    return (image - mean) * factor + mean


def elastic_transform(image: np.ndarray, strength: tuple[float, float, float], rng: Generator) -> np.ndarray:
    """A random affine map and a smooth random displacement: (factor, deviation of the smoothing, shift of corners)."""
    factor, deviation, shift = strength
    height, width = image.shape[:2]
    matrix, offset = random_affine((height, width), shift, rng)
    places = np.array(np.mgrid[:height, :width], dtype=float)
    for axis in range(2):
        local = rng.uniform(-1, 1, (height, width))
        places[axis] += factor * ndimage.gaussian_filter(local, deviation, mode="reflect", truncate=3)
    source = np.tensordot(matrix, places, 1) + offset[:, None, None]
    found = np.empty_like(image)
    for channel in range(3):
        ndimage.map_coordinates(image[..., channel], source, found[..., channel], order=1, mode="mirror")
    return found


def random_affine(shape: tuple[int, int], shift: float, rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    """(matrix, offset) that lead from a place in the warped image to its source.

    Three corners of a square a third of the image from its centre move by up to `shift` pixels along each axis.
    """
    centre, third = np.array(shape) // 2, min(shape) // 3
    corners = centre + third * np.array([[1, 1], [-1, 1], [-1, -1]])
    moved = corners + rng.uniform(-shift, shift, (3, 2))
    solution = np.linalg.solve(np.column_stack([moved, np.ones(3)]), corners)
    return solution[:2].T, solution[2]


def pixelate(image: np.ndarray, share: float, rng: Generator) -> np.ndarray:
    """Shrunk to a `share` of its sides and enlarged again, both by areas."""
    height, width = image.shape[:2]
    small = _picture(image).resize((max(1, int(width * share)), max(1, int(height * share))), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BOX), dtype=np.float32) / 255


def jpeg_compression(image: np.ndarray, quality: int, rng: Generator) -> np.ndarray:
    """Saved as JPEG and read again."""
    file = io.BytesIO()
    _picture(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file), dtype=np.float32) / 255


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(image * 255).astype(np.uint8))


# ----------------------------------------------------------------------------------------------------------- removal


def low_pass(image: np.ndarray, cutoff: float, rng: Generator) -> np.ndarray:
    """Frequencies above about `cutoff` (in units of π, the highest along an axis) taken away.

    The amplitude of frequency f is multiplied by 2^-(f/cutoff)²: half at the cut-off, a Gaussian, so that edges do not ring.
    The image is mirrored at its borders (a cosine transform), so that opposite ones do not mix.
    """
    spectrum = fft.dctn(image, axes=(0, 1), norm="ortho")
    rows, columns = (np.arange(n) / n for n in image.shape[:2])
    squared = (rows[:, None] ** 2 + columns**2) / cutoff**2
    return fft.idctn(spectrum * np.exp2(-squared)[..., None], axes=(0, 1), norm="ortho")


def high_pass(image: np.ndarray, cutoff: float, rng: Generator) -> np.ndarray:
    """What `low_pass` takes away, on the image's mean colour."""
    return image - low_pass(image, cutoff, rng) + image.mean((0, 1), keepdims=True)


def patch_shuffle(image: np.ndarray, grid: int, rng: Generator) -> np.ndarray:
    """A grid of grid x grid equal patches in random order.

    Pixels that are left over at the right and bottom, where the sides are no multiples of `grid`, take the mean colour: left as
    they are, they would show a part of the object whole.
    """
    height, width = (n // grid for n in image.shape[:2])
    covered = image[: height * grid, : width * grid]
    patches = covered.reshape(grid, height, grid, width, 3).swapaxes(1, 2).reshape(-1, height, width, 3)
    mixed = patches[rng.permutation(grid * grid)].reshape(grid, grid, height, width, 3).swapaxes(1, 2)
    found = np.empty_like(image)
    found[:] = image.mean((0, 1))
    found[: height * grid, : width * grid] = mixed.reshape(covered.shape)
    return found


def occlusion(image: np.ndarray, share: float, rng: Generator) -> np.ndarray:
    """A random `share` of 14 x 14 patches black, as in Naseer et al. 2021, Fig 2 ("random PatchDrop").

    Borders between patches are rounded to pixels where the sides are no multiples of 14.
    """
    grid = OCCLUSION_GRID
    dropped = np.zeros(grid * grid, dtype=bool)
    dropped[rng.permutation(grid * grid)[: round(share * grid * grid)]] = True
    rows, columns = (np.arange(n) * grid // n for n in image.shape[:2])
    return np.where(dropped.reshape(grid, grid)[rows[:, None], columns][..., None], 0, image)


_FUNCTIONS = {name: globals()[name] for name in STRENGTHS}

"""Fourier spectra of feature maps: do blocks raise or lower high frequencies?

Park & Kim, "How Do Vision Transformers Work?", ICLR 2022, Fig 2a and 8: the log amplitude of the feature map's 2-D Fourier
transform, minus that of the mean (frequency zero), called Δ log amplitude.

Where we differ from the published notebook, and why:

* Frequencies are radial bands at true frequencies. The notebook reads the main diagonal only and labels its last sample 1.0π
  though it is 0.96π on a 56 x 56 map and 0.86π on a 7 x 7 one, so layers are compared at different frequencies.
* The network is in evaluation mode: in training mode batch normalisation changes the mean, the reference of every curve.
* Channels that are zero everywhere for an image (common after ReLU) are left out instead of counting as a flat spectrum.
* One value per image, so that intervals are possible.

``paper_mode`` adds the notebook's statistic, per image; its mean over images is theirs.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..states import State, pieces
from .contract import PerBlock


BANDS = 5  # of 0.2π: the finest that leave a 7 x 7 map (multiples of 2π/7) without a sample in the first band only
FLOOR = 1e-6  # as in the published code


def band_centres() -> list[float]:
    """Middles of the bands in units of π, the map's highest frequency along an axis (Nyquist)."""
    return [(2 * band + 1) / (2 * BANDS) for band in range(BANDS)]


@lru_cache(maxsize=64)
def waves(n: int, device: torch.device | str = "cpu") -> Tensor:
    """Cosines, then sines, of the frequencies 0 ... n//2 at n places: (2, n//2 + 1, n) float32. Copied to a GPU once."""
    angle = 2 * torch.pi / n * torch.outer(torch.arange(n // 2 + 1), torch.arange(n)).double()
    return torch.stack([angle.cos(), angle.sin()]).float().to(device)


@lru_cache(maxsize=64)
def _both_signs(n: int, device: torch.device | str = "cpu") -> Tensor:
    """What turns cosine and sine sums along the width into the 2-D transform, (4 · (n//2 + 1), 2n) float32.

    Rows: real and imaginary parts at (u, v), then at (-u, v), each for u = 0 ... n//2. Columns: (place, cosine or sine sum).
    """
    cos, sin = waves(n, device)
    pairs = (cos, -sin), (sin, cos), (cos, sin), (sin, -cos)
    return torch.stack([torch.stack(pair, dim=2).flatten(1) for pair in pairs]).flatten(0, 1)


def power_spectrum(maps: Tensor) -> Tensor:
    """Squared amplitudes of the 2-D Fourier transform, (image, 2, height//2 + 1, width//2 + 1, channel).

    Entry (0, u, v) is the frequency (u, v), entry (1, u, v) is (-u, v); the transform of real maps has no others. Two matrix
    products with cosines and sines take a fifth of the time of ``torch.fft`` where channels are innermost, as in
    transformers and in channels_last maps (14 x 14; half of it at 56 x 56).

    Args:
        maps: (image, height, width, channel) float32.
    """
    height, width = maps.shape[1:3]
    along_width = torch.matmul(waves(width, maps.device).flatten(0, 1), maps)
    along_width = along_width.unflatten(2, (2, -1)).flatten(1, 2).flatten(2)
    both = torch.matmul(_both_signs(height, maps.device), along_width)
    real, imaginary = both.view(len(maps), 2, 2, height // 2 + 1, width // 2 + 1, -1).unbind(2)
    return torch.addcmul(real.square_(), imaginary, imaginary)


@lru_cache(maxsize=64)
def band_weights(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Weights of the entries of `power_spectrum` in each band, (2 · (height//2 + 1) · (width//2 + 1), BANDS) float32.

    Columns sum to one; columns of bands without a frequency are NaN. A frequency's radius is its distance from zero in units
    of π; frequency zero and the corners beyond π are in no band.
    """
    sides = [torch.arange(n // 2 + 1, dtype=torch.float64) * 2 / n for n in (height, width)]
    radius = (sides[0][:, None].square() + sides[1][None].square()).sqrt()
    # zero and the highest frequency of an even side are their own mirror image
    single = [torch.arange(n // 2 + 1).mul(2).remainder(n) == 0 for n in (height, width)]
    stands_for = torch.where(single[0], 1.0, 2.0)[:, None] * torch.where(single[1], 1.0, 2.0)[None]
    # the small shift puts exact edges such as 0.4π into the band below, whatever the rounding
    band = ((radius * BANDS) - 1e-9).floor().long()
    columns = [torch.where((band == index) & (radius > 0), stands_for, 0.0).flatten() for index in range(BANDS)]
    weights = torch.stack(columns, dim=1).repeat(2, 1)
    return (weights / weights.sum(0)).float().to(device)


def mean_log_amplitude(maps: Tensor) -> Tensor:
    """Log amplitude, mean over the channels that are not zero at every place, (image, entry of `power_spectrum`)."""
    power = power_spectrum(maps).flatten(1, 3)
    alive = power.sum(1) > 0
    weight = alive / alive.sum(1, keepdim=True)
    return torch.matmul(power.add_(FLOOR**2).log_(), weight.unsqueeze(2)).squeeze(2) / 2


def delta_log_amplitude(state: State) -> Tensor:
    """Δ log amplitude in radial bands, (batch, BANDS); natural logarithm. NaN where a band holds no frequency."""
    spectrum = torch.cat([mean_log_amplitude(piece) for piece in pieces(state)])
    weights = band_weights(*state.grid, spectrum.device)
    return spectrum @ weights.nan_to_num() + weights.sum(0).mul(0) - spectrum[:, :1]


def paper_delta_log_amplitude(state: State) -> Tensor:
    """The published notebook's statistic: main diagonal from zero up, minus its first entry, (batch, ceil(side / 2))."""
    maps = state.tokens.float().unflatten(1, state.grid)
    diagonal = torch.arange(min(state.grid[0] - state.grid[0] // 2, state.grid[1] - state.grid[1] // 2))
    spectrum = torch.fft.rfft2(maps, dim=(1, 2))[:, diagonal, diagonal]
    logarithm = (spectrum.abs() + FLOOR).log().mean(2)
    return logarithm - logarithm[:, :1]


def fourier(paper_mode: bool = False) -> PerBlock:
    """Fourier spectra at every block."""

    def function(state: State) -> dict[str, Tensor]:
        found = {"fourier": delta_log_amplitude(state)}
        if paper_mode:
            found["fourier_paper"] = paper_delta_log_amplitude(state)
        return found

    axes: dict[str, tuple[str, ...]] = {"fourier": ("frequency",), "fourier_paper": ("diagonal",)}
    coordinates = {"frequency": band_centres()}
    source = "Park & Kim 2022, Fig 2a and 8"
    return PerBlock("fourier", function, unit="log amplitude", source=source, axes=axes, coordinates=coordinates)

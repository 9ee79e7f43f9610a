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

from ..states import State
from .contract import PerBlock


BANDS = 5  # of 0.2π: the finest that leave a 7 x 7 map (multiples of 2π/7) without a sample in the first band only
FLOOR = 1e-6  # as in the published code


def band_centres() -> list[float]:
    """Middles of the bands in units of π, the map's highest frequency along an axis (Nyquist)."""
    return [(2 * band + 1) / (2 * BANDS) for band in range(BANDS)]


@lru_cache(maxsize=64)
def band_weights(height: int, width: int) -> Tensor:
    """Weights of the half-plane frequencies in each band, (height · (width//2 + 1), BANDS), columns summing to one.

    A frequency's radius is its distance from zero in units of π; frequency zero and the corners beyond π are in no band.
    Columns of bands without a frequency are NaN.
    """
    vertical = torch.fft.fftfreq(height, dtype=torch.float64) * 2
    horizontal = torch.fft.rfftfreq(width, dtype=torch.float64) * 2
    radius = (vertical[:, None].square() + horizontal[None].square()).sqrt()
    twice = torch.full(
        (width // 2 + 1,), 2.0, dtype=torch.float64
    )  # the other half-plane mirrors all columns but these
    twice[0] = 1
    if width % 2 == 0:
        twice[-1] = 1
    # the small shift puts exact edges such as 0.4π into the band below, whatever the rounding
    band = ((radius * BANDS) - 1e-9).floor().long()
    columns = [torch.where((band == index) & (radius > 0), twice, 0.0).flatten() for index in range(BANDS)]
    weights = torch.stack(columns, dim=1)
    return (weights / weights.sum(0)).float()


def log_amplitudes(state: State) -> tuple[Tensor, Tensor]:
    """Log amplitude of the half-plane Fourier transform, (batch, height, width//2 + 1, channel), and which channels live.

    The second output, (batch, channel), is False where a channel is zero at every place of an image.
    """
    maps = state.tokens.float().unflatten(1, state.grid)
    spectrum = torch.view_as_real(torch.fft.rfft2(maps, dim=(1, 2)))
    power = spectrum[..., 0].square().add_(spectrum[..., 1].square())
    alive = maps.flatten(1, 2).abs().amax(1) > 0
    return power.add_(FLOOR**2).log_().mul_(0.5), alive


def delta_log_amplitude(state: State) -> Tensor:
    """Δ log amplitude in radial bands, (batch, BANDS); natural logarithm. NaN where a band holds no frequency."""
    logarithm, alive = log_amplitudes(state)
    weight = alive / alive.sum(1, keepdim=True)
    spectrum = torch.einsum("bhwc,bc->bhw", logarithm, weight.float()).flatten(1)
    weights = band_weights(*state.grid).to(spectrum.device)
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

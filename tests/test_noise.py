"""Noise of one frequency: its energy by Fourier transform, its independence of batches, and the published rings."""

import numpy as np
import pytest
import torch
from conftest import small_resnet, small_vit

from hf_vitstudy import StudyError, load_checkpoint, load_images, load_profile, measure
from hf_vitstudy.analyses import Batch, NotApplicableError, make_analysis
from hf_vitstudy.analyses import noise as noise_
from hf_vitstudy.analyses.noise import FREQUENCIES


SHAPES = [(32, 32), (96, 96), (33, 47), (224, 64), (20, 31)]
QUICK = {"workers": 0, "progress": False, "batch_size": 8}


def radii(height: int, width: int) -> np.ndarray:
    """Distance from zero of every frequency of a full FFT, in units of π."""
    return np.hypot(2 * np.fft.fftfreq(height)[:, None], 2 * np.fft.fftfreq(width))


@pytest.mark.parametrize("shape", SHAPES)
def test_every_band_has_the_same_energy_and_keeps_to_its_frequencies(shape):
    white = noise_.white_noise(shape, seed=0, first=0, n=2)
    for frequency in FREQUENCIES:
        noise = noise_.band_noise(white, frequency, 0.05).double().numpy()
        np.testing.assert_allclose(np.sqrt((noise**2).mean((1, 2, 3))), 0.05, rtol=1e-5)
        power = np.abs(np.fft.fft2(noise)) ** 2
        inside = np.abs(radii(*shape) - frequency) < 0.05 + 1e-5
        assert power[..., ~inside].sum() < 1e-9 * power.sum()
        assert power[..., inside].sum() > 0


def test_bands_follow_each_other_without_gap_or_overlap():
    bands = torch.stack([noise_.band(224, 192, frequency) for frequency in FREQUENCIES]).sum(0)
    radius = radii(224, 192)[:, :97]
    assert (bands[torch.from_numpy((radius > 0.0501) & (radius < 0.9499))] == 1).all()
    assert (bands[torch.from_numpy((radius < 0.0499) | (radius > 0.9501))] == 0).all()


def test_within_a_band_noise_is_white_and_gaussian():
    """Colours are independent, all directions alike, values normal."""
    from scipy.stats import kurtosis

    noise = noise_.band_noise(noise_.white_noise((128, 128), seed=1, first=0, n=4), 0.5, 1.0).double()
    assert abs(np.corrcoef(noise[0].flatten(1))[0, 1]) < 0.05
    assert abs(kurtosis(noise.flatten().numpy())) < 0.05
    power = (np.abs(np.fft.fft2(noise.numpy())) ** 2).mean((0, 1))
    angle = np.arctan2(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128)) % np.pi
    inside = np.abs(radii(128, 128) - 0.5) < 0.05
    quarters = [power[inside & (angle >= low) & (angle < low + np.pi / 4)].mean() for low in np.arange(4) * np.pi / 4]
    assert max(quarters) / min(quarters) < 1.2


def test_an_image_s_noise_depends_on_its_index_alone():
    together = noise_.white_noise((24, 40), seed=3, first=5, n=4)
    alone = noise_.white_noise((24, 40), seed=3, first=7, n=1)
    assert torch.equal(together[2:3], alone)
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(alone, noise_.white_noise((24, 40), seed=4, first=7, n=1))


# ------------------------------------------------------------------------------------------------------ as published


def published(x: torch.Tensor, f: float, s: float = 0.2) -> torch.Tensor:
    """The ring of the published code for a square image of even side, by loops: amplitudes and angles kept inside."""
    side = x.shape[-1]
    spectrum = torch.roll(torch.fft.fft2(x.double()), (side // 2, side // 2), dims=(2, 3))
    outer, inner = (int(((f + sign * s) * side) / (2 * np.pi)) * 2 for sign in (1, -1))
    mask = torch.zeros(side, side, dtype=torch.float64)
    for length, value in ((min(outer, side), 1.0), (max(inner, 0), 0.0)):
        start = (side - length) // 2
        for row in range(start, start + length):
            mask[row, start : start + length] = value
    return torch.fft.ifft2(torch.roll(spectrum * mask, (side // 2, side // 2), dims=(2, 3))).real


@pytest.mark.parametrize("side", [32, 64, 224])
def test_the_published_ring_is_repeated(side):
    white = noise_.white_noise((side, side), seed=0, first=0, n=1)
    for frequency in FREQUENCIES:
        expected = published(0.7 * white.sign(), frequency * np.pi)
        torch.testing.assert_close(noise_.paper_noise(white, frequency).double(), expected, atol=1e-5, rtol=1e-4)


def test_the_published_noise_grows_with_frequency():
    """Root mean squares measured on the published code at 224 pixels: 0.109, 0.250 and 0.324."""
    white = noise_.white_noise((224, 224), seed=0, first=0, n=2)
    found = [float(noise_.paper_noise(white, frequency).square().mean().sqrt()) for frequency in (0.1, 0.5, 0.9)]
    np.testing.assert_allclose(found, [0.109, 0.250, 0.324], rtol=0.015)


@pytest.mark.parametrize("shape", [(33, 33), (31, 48)])
def test_the_published_noise_works_where_the_published_code_crashes(shape):
    white = noise_.white_noise(shape, seed=0, first=0, n=1)
    found = noise_.paper_noise(white, 0.5)
    assert found.shape == white.shape
    assert 0.1 < float(found.square().mean().sqrt()) < 0.4


# -------------------------------------------------------------------------------------------------------- the analysis


@pytest.fixture(scope="module")
def profile(vit_folder, image_folder):
    return measure(vit_folder, image_folder, n=20, analyses=["noise:strength=0.2"], paper_mode=True, **QUICK)


def test_answers_are_the_network_s_to_the_noisy_images(profile, vit_folder, image_folder):
    vit, images = load_checkpoint(vit_folder), load_images(image_folder, n=20)
    pixels = torch.stack([torch.from_numpy(vit.prepare(images[i][0])) for i in range(20)]).float() / 255
    labels = torch.tensor([images[i][1] for i in range(20)])
    white = noise_.white_noise((32, 32), seed=0, first=0, n=20)
    assert profile["noise_correct"].dims == ("image", "noise_frequency")
    assert profile["noise_correct"].shape == (20, 9)
    assert profile["noise_correct"].dtype == np.int8
    for place, frequency in enumerate(FREQUENCIES):
        noisy = (pixels + noise_.band_noise(white, frequency, 0.2)).clamp(0, 1)
        plain = vit.normalise(pixels) + noise_.paper_noise(white, frequency)
        rms = (noisy - pixels).square().mean((1, 2, 3)).sqrt()
        np.testing.assert_allclose(profile["noise_rms"].values[:, place], rms, rtol=1e-5)
        with torch.no_grad():
            for name, logits in (("noise", vit.read(noisy)[0]), ("noise_paper", vit.network(plain).logits)):
                loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
                np.testing.assert_allclose(profile[f"{name}_nll"].values[:, place], loss, rtol=1e-4, atol=1e-5)
                right = (logits.argmax(1) == labels).numpy()
                assert np.array_equal(profile[f"{name}_correct"].values[:, place], right)
    clean = torch.nn.functional.cross_entropy(vit.read(pixels)[0], labels, reduction="none")
    np.testing.assert_allclose(profile["noise_clean_nll"].values, clean, rtol=1e-4, atol=1e-5)


def test_clipping_leaves_valid_images_and_can_be_left_out(profile, vit_folder, image_folder):
    free = measure(vit_folder, image_folder, n=20, analyses=["noise:strength=0.2:clip=false"], **QUICK)
    np.testing.assert_allclose(free["noise_rms"].values, 0.2, rtol=1e-5)
    clipped = profile["noise_rms"].values
    assert (clipped <= 0.2 + 1e-6).all()
    assert clipped.min() < 0.199
    assert np.ptp(clipped.mean(0)) < 0.02 * 0.2, "what clipping takes is the same in every band"


def test_batches_do_not_matter_and_a_limit_has_its_own_axis(profile, vit_folder, image_folder):
    few = measure(
        vit_folder, image_folder, n=20, analyses=["noise:strength=0.2:images=11"], **(QUICK | {"batch_size": 5})
    )
    assert few["noise_nll"].dims == ("noise_image", "noise_frequency")
    np.testing.assert_allclose(few["noise_nll"].values, profile["noise_nll"].values[:11], rtol=1e-4, atol=1e-5)
    assert "noise_paper_nll" not in few.data


def test_a_profile_with_noise_is_stored_whole(profile, tmp_path):
    again = load_profile(profile.save(tmp_path / "profile"))
    for name in ("noise_correct", "noise_nll", "noise_rms", "noise_clean_correct", "noise_paper_correct"):
        assert np.array_equal(again[name].values, profile[name].values)
        assert {"unit", "source", "long_name", "strength"} <= set(again[name].attrs)
    assert again["noise_correct"].coords["noise_frequency"].values.tolist() == list(FREQUENCIES)


@pytest.mark.parametrize("make", [small_vit, small_resnet])
@pytest.mark.parametrize("text", ["noise", "attacks:steps=2", "corruptions:kinds=noise"])
def test_networks_are_left_as_they_were(make, text, tmp_path):
    """Parameters, buffers, gradients, hooks and modes, bit for bit."""
    from conftest import save_checkpoint

    checkpoint = load_checkpoint(save_checkpoint(make(), tmp_path / "network"))
    network = checkpoint.network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    needed = [parameter.requires_grad for parameter in network.parameters()]
    analysis = make_analysis(text, paper_mode=True)
    analysis.start(checkpoint, 4, 4)
    images, labels = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    kept = images.clone()
    with torch.no_grad():
        logits, _ = checkpoint.read(images)
        part = analysis.update(Batch(images, logits, labels, labels))
        again = analysis.update(Batch(images, logits, labels, labels))
    assert all(np.array_equal(part[name], again[name], equal_nan=True) for name in part)
    assert torch.equal(images, kept)
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [parameter.requires_grad for parameter in network.parameters()] == needed
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not network.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_too_small_images_and_bad_strengths_are_refused(vit_folder):
    import dataclasses

    vit = load_checkpoint(vit_folder)
    tiny = dataclasses.replace(vit, provenance={**vit.provenance, "image_size": [8, 8]})
    with pytest.raises(NotApplicableError, match=r"images of 8 x 8 pixels hold no frequency within 0\.05π of 0\.1π"):
        make_analysis("noise").start(tiny, 8, 8)
    for text, message in {
        "noise:strength=0.0": "noise:strength must be positive",
        "noise:strength=loud": "noise:strength must be a number, got 'loud'",
    }.items():
        with pytest.raises(StudyError, match=message):
            make_analysis(text)

"""Corruptions against their definitions: loops, closed forms, matplotlib's colours, PIL, and counts of what was drawn."""

import inspect

import numpy as np
import pytest
import torch
from conftest import smooth_images

from hf_vitstudy import StudyError, load_checkpoint, measure
from hf_vitstudy import corruptions as corruptions_
from hf_vitstudy.analyses import Batch, NotApplicableError, make_analysis
from hf_vitstudy.corruptions import (
    CORRUPTIONS,
    GROUPS,
    SEVERITIES,
    SIZES,
    STRENGTHS,
    corrupt,
    nominal_size,
    strength_of,
)
from hf_vitstudy.grading import graded


def picture(height: int = 40, width: int = 52, seed: int = 0) -> np.ndarray:
    """A smooth colour image (height, width, 3) float32 in [0, 1]."""
    size = max(height, width)
    return (smooth_images(1, size, seed)[0][:height, :width] / 255).astype(np.float32)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def as_batch(image: np.ndarray, n: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].repeat(n, 1, 1, 1)


# -------------------------------------------------------------------------------------------------- of every corruption


def test_the_fifteen_kinds_and_their_groups_are_complete():
    assert len(CORRUPTIONS) == 15
    assert len(STRENGTHS) == 19
    families = [GROUPS[name] for name in ("noise", "blur", "weather", "digital", "removal")]
    assert [len(family) for family in families] == [3, 4, 4, 4, 4]
    assert sum(families, ()) == tuple(STRENGTHS)
    for kind, table in STRENGTHS.items():
        assert set(table) == set(SIZES), kind
        assert all(len(strengths) == 5 for strengths in table.values()), kind


@pytest.mark.parametrize("size", [None, *SIZES])
@pytest.mark.parametrize("kind", STRENGTHS)
def test_every_corruption_gives_valid_images_of_any_shape(kind, size):
    images = as_batch(picture(33, 50))
    for severity in SEVERITIES:
        found = corrupt(images, kind, severity, size=size)
        assert found.shape == images.shape
        assert found.dtype == images.dtype
        assert torch.isfinite(found).all()
        assert 0 <= found.min() <= found.max() <= 1
    assert not torch.equal(found, images)


@pytest.mark.parametrize("kind", STRENGTHS)
def test_an_image_is_corrupted_alike_in_any_batch(kind):
    images = torch.cat([as_batch(picture(32, 32, seed)) for seed in range(3)])
    together = corrupt(images, kind, 3, seed=7, first=4)
    alone = corrupt(images[2:], kind, 3, seed=7, first=6)
    assert torch.equal(together[2:], alone)
    assert torch.equal(images, torch.cat([as_batch(picture(32, 32, seed)) for seed in range(3)])), "the input stays"


DRAWN = {kind for kind in STRENGTHS if "rng." in inspect.getsource(corruptions_._FUNCTIONS[kind])} | {
    "glass_blur",
    "frost",
    "fog",
}
UNDRAWN = {
    "defocus_blur",
    "zoom_blur",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
    "low_pass",
    "high_pass",
}


def test_seed_and_index_decide_what_is_drawn():
    assert set(STRENGTHS) == DRAWN | UNDRAWN
    images = as_batch(picture(32, 32))
    for kind in STRENGTHS:
        found = [corrupt(images, kind, 4, seed=seed, first=first) for seed, first in ((0, 0), (1, 0), (0, 1))]
        alike = [torch.equal(found[0], other) for other in found[1:]]
        assert alike == ([False, False] if kind in DRAWN else [True, True]), kind


RISING = set(STRENGTHS) - {"glass_blur", "motion_blur", "snow", "frost", "fog", "elastic_transform", "patch_shuffle"}


@pytest.mark.parametrize("kind", sorted(RISING))
@pytest.mark.parametrize("size", SIZES)
def test_severity_moves_images_further(kind, size):
    images = torch.cat([as_batch(picture(64, 64, seed)) for seed in range(4)]) * 0.6 + 0.1
    if kind in ("defocus_blur", "zoom_blur", "pixelate", "jpeg_compression", "low_pass"):
        images = (images + 0.2 * torch.rand(images.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    moved = [float((corrupt(images, kind, severity, size=size) - images).square().mean()) for severity in SEVERITIES]
    assert moved == sorted(moved)
    assert moved[4] > moved[0]


BAD = {
    "kind": (("rain", 1, 224), "no corruption is called 'rain'; there are: gaussian_noise, shot_noise"),
    "severity": (("fog", 6, 224), "severity must be 1 to 5 and size one of .*, got severity 6 and size 224"),
    "size": (("fog", 1, 100), "got severity 1 and size 100"),
}


@pytest.mark.parametrize("case", BAD)
def test_unknown_corruptions_are_refused(case):
    (kind, severity, size), message = BAD[case]
    with pytest.raises(StudyError, match=message):
        corrupt(as_batch(picture()), kind, severity, size=size)


SHAPES = {
    (224, 224): 224,
    (384, 300): 224,
    (128, 128): 224,
    (96, 96): 64,
    (64, 80): 64,
    (48, 64): 64,
    (40, 90): 32,
    (8, 8): 32,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_strengths_are_those_of_the_nearest_size(shape):
    assert nominal_size(shape) == SHAPES[shape]
    assert torch.equal(
        corrupt(as_batch(picture(40, 40)), "contrast", 2), corrupt(as_batch(picture(40, 40)), "contrast", 2, size=32)
    )


# ---------------------------------------------------------------------------------------------------------------- noise


def test_gaussian_noise_has_its_standard_deviation():
    gray = np.full((200, 200, 3), 0.5, np.float32)
    noise = corruptions_.gaussian_noise(gray, 0.12, generator()) - gray
    assert noise.std() == pytest.approx(0.12, rel=0.01)
    assert abs(noise.mean()) < 0.002


def test_shot_noise_is_poisson():
    """Mean x and variance x / photons, in whole photons."""
    gray = np.full((300, 300, 3), 0.4, np.float32)
    found = corruptions_.shot_noise(gray, 12, generator())
    assert found.mean() == pytest.approx(0.4, rel=0.01)
    assert found.var() == pytest.approx(0.4 / 12, rel=0.02)
    np.testing.assert_allclose(found * 12, np.rint(found * 12), atol=1e-9)


def test_impulse_noise_hits_its_share_with_black_and_white_alike():
    gray = np.full((300, 300, 3), 0.5, np.float32)
    found = corruptions_.impulse_noise(gray, 0.17, generator())
    assert (found == 0).mean() == pytest.approx(0.085, rel=0.03)
    assert (found == 1).mean() == pytest.approx(0.085, rel=0.03)
    assert (found == 0.5).mean() == pytest.approx(0.83, rel=0.01)


# ----------------------------------------------------------------------------------------------------------------- blur


@pytest.mark.parametrize(("radius", "softness"), [(3, 0.1), (2.5, 0.5), (10, 0.5), (0.3, 0.4)])
def test_defocus_is_the_mean_over_a_disk(radius, softness):
    image = picture(41, 37)
    kernel = corruptions_.disk(radius, softness)
    assert kernel.sum() == pytest.approx(1)
    np.testing.assert_allclose(kernel, kernel.T, atol=1e-15)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-15)
    reach = len(kernel) // 2
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    found = corruptions_.defocus_blur(image, (radius, softness), generator())
    for y, x in ((0, 0), (20, 18), (40, 36), (3, 30)):
        window = padded[y : y + len(kernel), x : x + len(kernel)]
        np.testing.assert_allclose(found[y, x], (kernel[..., None] * window).sum((0, 1)), atol=1e-6)


def test_a_hard_disk_holds_the_points_within_its_radius():
    kernel = corruptions_.disk(3, 0.1)
    assert (kernel > 1e-6).sum() == 29  # integer points with x² + y² <= 9
    assert kernel.max() == pytest.approx(1 / 29)


class Drawn:
    """A stand-in for a random generator that replays offsets."""

    def __init__(self, offsets: np.ndarray) -> None:
        self.offsets = offsets

    def integers(self, low, high, shape):
        assert self.offsets.min() >= low
        assert self.offsets.max() < high
        return self.offsets.reshape(shape)


@pytest.mark.parametrize("offset", [1, 2, 4])
def test_glass_scatters_pixels_as_the_published_loop(offset):
    """The loop as published, exchange of views included: a pixel is overwritten, not swapped."""
    image = (picture(21, 17) * 255).astype(np.uint8)
    height, width = image.shape[:2]
    rows, columns = range(height - offset, offset, -1), range(width - offset, offset, -1)
    offsets = generator(3).integers(-offset, offset, (2, len(rows) * len(columns)))
    x, turn = image.copy(), 0
    for h in rows:
        for w in columns:
            dy, dx = offsets[:, turn]
            x[h, w], x[h + dy, w + dx] = x[h + dy, w + dx], x[h, w]
            turn += 1
    order = corruptions_.scattered((height, width), offset, 1, Drawn(offsets))
    assert turn > 100
    assert np.array_equal(image.reshape(-1, 3)[order].reshape(image.shape), x)
    assert not np.array_equal(x, image)


def test_two_rounds_of_glass_are_one_after_the_other():
    assert len(np.unique(corruptions_.scattered((30, 30), 2, 2, generator()))) < 900
    once, again = corruptions_.scattered((9, 9), 1, 1, generator()), corruptions_.scattered((9, 9), 1, 2, generator())
    assert not np.array_equal(once, again)


def test_motion_is_a_weighted_sum_along_a_line():
    image, radius, deviation, degrees = picture(30, 34), 5, 3.0, 30.0
    found = corruptions_.smeared(image, radius, deviation, degrees)
    weights = [np.exp(-(i**2) / (2 * deviation**2)) for i in range(2 * radius + 1)]
    for y, x in ((0, 0), (15, 10), (29, 33)):
        expected = np.zeros(3)
        for i, weight in enumerate(weights):
            down, right = round(i * np.sin(np.pi / 6)), round(i * np.cos(np.pi / 6))
            expected += weight / sum(weights) * image[min(y + down, 29), min(x + right, 33)]
        np.testing.assert_allclose(found[y, x], expected, atol=1e-6)


def test_motion_leaves_lines_along_it_and_blurs_those_across():
    stripes = np.repeat((np.arange(64) % 8 < 4).astype(np.float32)[:, None, None], 64, axis=1).repeat(3, axis=2)
    np.testing.assert_allclose(corruptions_.smeared(stripes, 10, 8, 0), stripes, atol=1e-6)
    assert corruptions_.smeared(stripes, 10, 8, 90)[20:40].std() < 0.2 * stripes.std()


def test_magnification_about_the_centre_reads_between_pixels():
    """A linear ramp magnified z times is the ramp with slope 1/z through the same centre."""
    y, x = np.mgrid[:20, :31].astype(np.float32)
    ramp = np.stack([y, x, x + y], axis=2)
    found = corruptions_.magnified(ramp, 1.25)
    middle = np.array([9.5, 15, 24.5])
    np.testing.assert_allclose(found, (ramp - middle) / 1.25 + middle, atol=1e-4)
    np.testing.assert_allclose(corruptions_.magnified(ramp, 1), ramp, atol=1e-5)


def test_zoom_blur_is_the_mean_of_magnifications():
    image = picture(24, 30)
    zooms = [corruptions_.magnified(image, factor) for factor in (1, 1.02, 1.04)]
    expected = np.mean([image, *zooms], axis=0)
    np.testing.assert_allclose(corruptions_.zoom_blur(image, (3, 0.02), generator()), expected, atol=1e-6)


# -------------------------------------------------------------------------------------------------------------- weather


def test_snow_is_a_pale_image_with_flakes_that_turn_by_half_a_circle(monkeypatch):
    flakes = np.zeros((30, 40, 1), np.float32)
    flakes[3, 5] = 0.5
    monkeypatch.setattr(corruptions_, "smeared", lambda layer, *rest: flakes)
    image = picture(30, 40)
    gray = 0.299 * image[..., 0] + 0.587 * image[..., 1] + 0.114 * image[..., 2]
    expected = 0.7 * image + 0.3 * np.maximum(image, 1.5 * gray[..., None] + 0.5)
    expected[3, 5] += 0.5
    expected[26, 34] += 0.5
    found = corruptions_.snow(image, (0.1, 0.3, 3, 0.5, 10, 4, 0.7), generator())
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_more_snow_is_brighter():
    images = as_batch(picture(64, 64))
    means = [float(corrupt(images, "snow", severity).mean()) for severity in (1, 3, 5)]
    assert float(images.mean()) < means[0] < means[1] < means[2]


def test_frost_lays_ice_over_the_image():
    image = picture(50, 60)
    expected = 0.8 * image + 0.6 * corruptions_.ice((50, 60), generator(4))
    np.testing.assert_allclose(corruptions_.frost(image, (0.8, 0.6), generator(4)), expected)


@pytest.mark.parametrize("shape", [(224, 224), (64, 96), (32, 32)])
def test_ice_has_the_colour_and_contrast_of_the_photographs(shape):
    texture = corruptions_.ice(shape, generator())
    assert texture.shape == (*shape, 3)
    np.testing.assert_allclose(texture.mean((0, 1)), [0.55, 0.62, 0.68], atol=0.02)
    assert 0.1 < texture.mean(2).std() < 0.17


def test_ice_has_a_falling_spectrum():
    gray = corruptions_.ice((256, 256), generator()).mean(2)
    power = np.abs(np.fft.fft2(gray - gray.mean())) ** 2
    radius = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)) * 2
    octaves = [power[(radius > low) & (radius <= 2 * low)].mean() for low in (0.02, 0.04, 0.08, 0.16, 0.32)]
    falls = np.log2(np.array(octaves[:-1]) / octaves[1:])
    assert 1 < falls.mean() < 3
    assert falls.min() > 0.3


def slow_plasma(side: int, decay: float, rng: np.random.Generator) -> np.ndarray:
    """Midpoint displacement point by point, with the same draws."""
    field = np.zeros((side, side))
    step, amplitude = side, 1.0
    while step > 1:
        half, n = step // 2, side // step
        centres, across, down = (amplitude * rng.uniform(-1, 1, (n, n)) for _ in range(3))
        at = lambda y, x: field[y % side, x % side]  # noqa: E731
        for i in range(n):
            for j in range(n):
                y, x = i * step, j * step
                field[y + half, x + half] = centres[i, j] + np.mean(
                    [at(y, x), at(y + step, x), at(y, x + step), at(y + step, x + step)]
                )
        for i in range(n):
            for j in range(n):
                y, x = i * step, j * step
                field[y, x + half] = across[i, j] + np.mean(
                    [at(y, x), at(y, x + step), at(y - half, x + half), at(y + half, x + half)]
                )
                field[y + half, x] = down[i, j] + np.mean(
                    [at(y, x), at(y + step, x), at(y + half, x - half), at(y + half, x + half)]
                )
        step, amplitude = half, amplitude / decay**2
    return (field - field.min()) / (field.max() - field.min())


@pytest.mark.parametrize("decay", [1.4, 2, 3])
def test_plasma_is_midpoint_displacement(decay):
    found = corruptions_.plasma(32, decay, generator(1))
    np.testing.assert_allclose(found, slow_plasma(32, decay, generator(1)), atol=1e-12)
    assert (found.min(), found.max()) == (0, 1)


def test_fog_keeps_the_maximum_and_lowers_contrast():
    image = picture(40, 52)
    sheet = corruptions_.plasma(64, 2, generator(5))[:40, :52, None]
    top = image.max()
    expected = (image + 1.5 * sheet) * top / (top + 1.5)
    np.testing.assert_allclose(corruptions_.fog(image, (1.5, 2), generator(5)), expected, atol=1e-6)
    assert corruptions_.fog(np.zeros((8, 8, 3), np.float32), (1.5, 2), generator()).max() == 0


def test_brightness_raises_the_value_of_hsv():
    from matplotlib.colors import hsv_to_rgb, rgb_to_hsv

    image = picture()
    image[0, 0] = 0  # black has no hue
    hsv = rgb_to_hsv(image)
    hsv[..., 2] = np.clip(hsv[..., 2] + 0.3, 0, 1)
    np.testing.assert_allclose(corruptions_.brightness(image, 0.3, generator()), hsv_to_rgb(hsv), atol=1e-5)


# -------------------------------------------------------------------------------------------------------------- digital


def test_contrast_keeps_the_mean_and_scales_deviations():
    image = picture()
    found = corruptions_.contrast(image, 0.3, generator())
    np.testing.assert_allclose(found.mean((0, 1)), image.mean((0, 1)), atol=1e-5)
    np.testing.assert_allclose(found.std((0, 1)), 0.3 * image.std((0, 1)), rtol=1e-4)


def test_the_affine_map_takes_moved_corners_back():
    """Against the same draws: the three corners of the square, moved, are led back to where they were."""
    shape, shift = (60, 90), 5.0
    matrix, offset = corruptions_.random_affine(shape, shift, generator(2))
    corners = np.array([30, 45]) + 20 * np.array([[1, 1], [-1, 1], [-1, -1]])
    moved = corners + generator(2).uniform(-shift, shift, (3, 2))
    np.testing.assert_allclose(moved @ matrix.T + offset, corners, atol=1e-9)
    matrix, offset = corruptions_.random_affine(shape, 0, generator(2))
    np.testing.assert_allclose(matrix, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(offset, 0, atol=1e-9)


def test_without_displacement_and_shift_nothing_is_elastic():
    image = picture()
    np.testing.assert_allclose(corruptions_.elastic_transform(image, (0, 0, 0), generator()), image, atol=1e-6)


def test_elastic_moves_by_the_smoothed_field():
    """On a ramp, the change is the displacement itself, away from the mirrored border."""
    from scipy.ndimage import gaussian_filter

    y, x = np.mgrid[:60, :70].astype(float)
    ramp = np.stack([y, x, np.zeros_like(x)], axis=2)
    rng = generator(9)
    rng.uniform(-1, 1, (3, 2))
    fields = [6 * gaussian_filter(rng.uniform(-1, 1, (60, 70)), 2, mode="reflect", truncate=3) for _ in range(2)]
    found = corruptions_.elastic_transform(ramp, (6, 2, 0), generator(9)) - ramp
    inner = np.s_[10:-10, 10:-10]
    assert np.abs(fields[0]).max() > 1
    np.testing.assert_allclose(found[inner][..., 0], fields[0][inner], atol=1e-9)
    np.testing.assert_allclose(found[inner][..., 1], fields[1][inner], atol=1e-9)


def test_pixelate_makes_blocks_of_means():
    image = picture(40, 40)
    found = corruptions_.pixelate(image, 0.25, generator())
    blocks = np.rint(image * 255).reshape(10, 4, 10, 4, 3).mean((1, 3)) / 255
    np.testing.assert_allclose(found, blocks.repeat(4, 0).repeat(4, 1), atol=1.01 / 255)


def test_jpeg_has_the_quality_asked_for(monkeypatch):
    from PIL import Image

    asked = []
    save = Image.Image.save
    monkeypatch.setattr(Image.Image, "save", lambda self, *a, **k: asked.append(k) or save(self, *a, **k))
    corrupt(as_batch(picture(40, 40)), "jpeg_compression", 4, size=224)
    assert asked == [{"quality": 10}]


# -------------------------------------------------------------------------------------------------------------- removal


def test_filters_keep_single_waves_by_their_frequency():
    """A cosine of frequency f keeps the share 2^-(f/cutoff)² under low_pass and the rest under high_pass."""
    n, k = 64, 16
    wave = np.cos(np.pi * k * (np.arange(n) + 0.5) / n)
    image = (0.5 + 0.3 * wave[:, None, None] * np.ones((1, 48, 3))).astype(np.float64)
    for cutoff in (0.125, 0.25, 0.5):
        share = 2 ** -((k / n / cutoff) ** 2)
        np.testing.assert_allclose(
            corruptions_.low_pass(image, cutoff, generator()), 0.5 + (image - 0.5) * share, atol=1e-9
        )
        np.testing.assert_allclose(
            corruptions_.high_pass(image, cutoff, generator()), 0.5 + (image - 0.5) * (1 - share), atol=1e-9
        )


def test_low_and_high_pass_add_up_to_the_image():
    image = picture().astype(np.float64)
    both = sum(f(image, 0.2, generator()) for f in (corruptions_.low_pass, corruptions_.high_pass))
    np.testing.assert_allclose(both, image + image.mean((0, 1)), atol=1e-9)


@pytest.mark.parametrize("grid", STRENGTHS["patch_shuffle"][224])
def test_shuffling_moves_whole_patches(grid):
    image = picture(45, 58)
    found = corruptions_.patch_shuffle(image, grid, generator())
    height, width = 45 // grid, 58 // grid
    places = [(y * height, x * width) for y in range(grid) for x in range(grid)]
    before, after = (sorted(of[y : y + height, x : x + width].tobytes() for y, x in places) for of in (image, found))
    assert before == after
    assert not np.array_equal(found, image)
    for rest in (found[grid * height :], found[:, grid * width :]):
        np.testing.assert_allclose(rest, np.broadcast_to(image.mean((0, 1)), rest.shape), rtol=1e-5)


@pytest.mark.parametrize("share", STRENGTHS["occlusion"][224])
@pytest.mark.parametrize("shape", [(56, 56), (30, 41)])
def test_occlusion_blackens_its_share_of_patches(share, shape):
    found = corruptions_.occlusion(np.full((*shape, 3), 0.7, np.float32), share, generator())
    dark = (found == 0).all(2)
    assert np.array_equal(dark, (found == 0).any(2))
    assert set(np.unique(found)) == {np.float32(0), np.float32(0.7)}
    if shape == (56, 56):
        patches = dark.reshape(14, 4, 14, 4)
        assert np.array_equal(patches.any((1, 3)), patches.all((1, 3)))
        assert patches.any((1, 3)).sum() == round(share * 196)
    assert dark.mean() == pytest.approx(share, abs=0.06)


# --------------------------------------------------------------------------------------------------------- the analysis


def test_grades_are_right_wrong_or_unknown():
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    found = graded(logits, torch.tensor([0, 1, -1]))
    assert found["correct"].tolist() == [1, 0, -1]
    assert found["correct"].dtype == np.int8
    np.testing.assert_allclose(found["nll"][:2], [np.log1p(np.exp(-2)), 2 + np.log1p(np.exp(-2))], rtol=1e-6)
    assert np.isnan(found["nll"][2])


@pytest.fixture(scope="module")
def vit(vit_folder):
    return load_checkpoint(vit_folder)


def test_answers_to_corrupted_images_are_the_network_s(vit, vit_folder, image_folder):
    """The whole way through `measure`, in batches of 8, against corrupting and asking by hand."""
    from hf_vitstudy import load_images

    text = "corruptions:kinds=fog+removal:severities=2+5:images=11:seed=3"
    profile = measure(vit_folder, image_folder, n=20, analyses=[text], workers=0, progress=False, batch_size=8)
    found = profile["corruption_correct"]
    assert found.dims == ("corruption_image", "corruption", "severity")
    assert found.shape == profile["corruption_nll"].shape == (11, 5, 2)
    assert profile["corruption_clean_correct"].shape == (11,)
    assert found.coords["corruption"].values.tolist() == ["fog", "low_pass", "high_pass", "patch_shuffle", "occlusion"]
    assert found.coords["severity"].values.tolist() == [2, 5]
    images = load_images(image_folder, n=20)
    pixels = torch.stack([torch.from_numpy(vit.prepare(images[i][0])) for i in range(11)]).float() / 255
    labels = torch.tensor([images[i][1] for i in range(11)])
    for kind in ("fog", "occlusion"):
        corrupted = corrupt(pixels, kind, 5, seed=3, size=32)
        logits = vit.read(corrupted)[0]
        expected = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        nll = profile["corruption_nll"].sel(corruption=kind, severity=5).values
        np.testing.assert_allclose(nll, expected.numpy(), rtol=1e-4, atol=1e-5)
        right = found.sel(corruption=kind, severity=5).values
        assert np.array_equal(right, (logits.argmax(1) == labels).numpy())


def test_every_variable_says_what_it_is(vit_folder, image_folder):
    profile = measure(
        vit_folder,
        image_folder,
        n=8,
        analyses=["corruptions:kinds=noise:severities=1"],
        workers=0,
        progress=False,
        batch_size=8,
    )
    names = [name for name in profile.data.data_vars if str(name).startswith("corruption")]
    assert len(names) == 4
    for name in names:
        assert {"unit", "source", "long_name"} <= set(profile[name].attrs)
        assert profile[name].attrs["strengths"] == "published for 32 px, seed 0"


BAD_OPTIONS = {
    "corruptions:kinds=rain": "corruptions:kinds has no 'rain'; groups: all, noise, blur, weather, digital, removal",
    "corruptions:severities=1+6": "corruptions:severities must be 1 to 5 joined by",
    "corruptions:images=0": "corruptions:images must be at least 1, got 0",
    "corruptions:size=100": "size one of",
}


@pytest.mark.parametrize("text", BAD_OPTIONS)
def test_bad_options_are_refused(text):
    with pytest.raises(StudyError, match=BAD_OPTIONS[text]):
        make_analysis(text)


@pytest.mark.parametrize("name", ["corruptions", "noise", "attacks"])
def test_without_a_classifier_or_labels_there_is_no_answer(name, vit):
    import dataclasses

    analysis = make_analysis(name)
    headless = dataclasses.replace(vit, provenance={**vit.provenance, "classes": None})
    with pytest.raises(NotApplicableError, match="no classifier"):
        analysis.start(headless, 8, 8)
    analysis.start(vit, 8, 8)
    unknown = torch.full((2,), -1)
    with torch.no_grad():
        part = analysis.update(Batch(torch.rand(2, 3, 32, 32), torch.zeros(2, 10), unknown, unknown))
    with pytest.raises(NotApplicableError, match="no image has a label among the checkpoint's classes"):
        analysis.result([part])
    if name != "noise":
        assert analysis.update(Batch(torch.rand(2, 3, 32, 32), None, unknown, unknown, first=1000)) == {}


def test_strength_of_is_the_table():
    assert strength_of("elastic_transform", 3, 64) == (6.4, 5.12, 3.84)
    assert strength_of("fog", 1, 224) == (1.5, 2)

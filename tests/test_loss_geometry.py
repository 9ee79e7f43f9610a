"""Statistics of stored spectra and surfaces against their definitions."""

import numpy as np
import pytest
import xarray as xr
from scipy.stats import sem
from scipy.stats import t as student
from synthetic import synthetic_profile

from hf_vitstudy import StudyError
from hf_vitstudy.loss_geometry import density, hessian_statistics, largest_by_magnitude, rise, without_each_batch
from hf_vitstudy.profile import Profile


def profile_of(**variables) -> Profile:
    base = synthetic_profile("vit", n=32, block=16)
    return Profile(base.data.assign(variables), base.provenance)


def spectra(top: np.ndarray, bottom: np.ndarray) -> Profile:
    return profile_of(
        hessian_top=(("hessian_batch", "hessian_rank"), np.array(top, float)),
        hessian_bottom=(("hessian_batch", "hessian_rank"), np.array(bottom, float)),
    )


ON_ONE_BATCH = spectra([[125.2, 115.2, 111.1, 107.6]] * 3, [[-147.5, -126.3, -124.9, -120.9]] * 3)


def test_the_largest_by_magnitude_are_taken_from_both_ends():
    assert largest_by_magnitude(ON_ONE_BATCH)[0].tolist() == [-147.5, -126.3, 125.2, -124.9]


def test_statistics_follow_their_definitions():
    found = hessian_statistics(ON_ONE_BATCH)
    assert found["largest"].value == pytest.approx(125.2)
    assert found["smallest"].value == pytest.approx(-147.5)
    assert found["asymmetry"].value == pytest.approx(147.5 / 125.2)
    assert found["negative_proportion"].value == pytest.approx(0.75)
    assert found["positive_mean"].value == pytest.approx(125.2)
    assert (found["largest"].low, found["largest"].high) == pytest.approx((125.2, 125.2))
    assert (found["largest"].n, found["largest"].unit_resampled) == (3, "mini-batch")


def test_batches_are_pooled_before_the_mean_is_taken():
    found = hessian_statistics(spectra([[10, 4], [2, 1]], [[-1, 0], [-8, -3]]))
    assert found["negative_proportion"].value == pytest.approx(2 / 4)
    assert found["positive_mean"].value == pytest.approx((10 + 4) / 2)
    assert np.isnan(found["positive_mean"].low), "all positive ones are in one mini-batch"
    found = hessian_statistics(spectra([[10, 4], [2, 1], [6, 5]], [[-1, 0], [-8, -3], [-1, 0]]))["positive_mean"]
    assert found.value == pytest.approx((10 + 4 + 6 + 5) / 4)
    assert found.low < found.value < found.high


def test_unknown_eigenvalues_are_of_neither_sign():
    found = hessian_statistics(spectra([[9, np.nan, np.nan]] * 2, [[-4, np.nan, np.nan]] * 2))
    assert found["negative_proportion"].value == pytest.approx(0.5)
    assert found["positive_mean"].value == pytest.approx(9)


def test_nothing_positive_has_no_mean():
    found = hessian_statistics(spectra([[0.1, 0.0]] * 2, [[-9, -7]] * 2))
    assert found["negative_proportion"].value == 1
    assert np.isnan(found["positive_mean"].value)
    assert np.isnan(found["positive_mean"].low)


POPULATIONS = {
    "normal": lambda rng, n: rng.normal(100, 20, n),
    "skewed": lambda rng, n: 100 * rng.gamma(8, 1 / 8, n),
}


def spectra_of(population: str, rng: np.random.Generator, n: int, k: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of n mini-batches whose eigenvalues scatter about a level of their own, (n, k) each."""
    sizes = [POPULATIONS[population](rng, n)[:, None] * rng.gamma(20, 1 / 20, (n, k)) for _ in range(2)]
    return np.sort(sizes[0])[:, ::-1], -0.7 * np.sort(sizes[1])[:, ::-1]


LEAST_COVERAGE = {
    "largest": 0.92,
    "smallest": 0.92,
    "asymmetry": 0.9,
    "negative_proportion": 0.88,
    "positive_mean": 0.9,
}


@pytest.mark.parametrize("population", POPULATIONS)
def test_intervals_over_eight_mini_batches_cover_the_population_s_value(population):
    """Of 1000 studies, so that a share of 0.95 is known to 0.007; percentiles of a bootstrap cover 0.87."""
    rng, hits, studies = np.random.default_rng(0), dict.fromkeys(LEAST_COVERAGE, 0), 1000
    truth = hessian_statistics(spectra(*spectra_of(population, rng, 50_000)))
    for _ in range(studies):
        found = hessian_statistics(Stored(*spectra_of(population, rng, 8)))
        for name, estimate in found.items():
            hits[name] += estimate.low <= truth[name].value <= estimate.high
    for name, least in LEAST_COVERAGE.items():
        assert least <= hits[name] / studies <= 0.99, name
    assert 0.93 <= hits["largest"] / studies <= 0.97


class Stored(dict):
    """As much of a profile as is read; making a thousand whole ones takes long."""

    def __init__(self, top: np.ndarray, bottom: np.ndarray) -> None:
        axes = ("hessian_batch", "hessian_rank")
        super().__init__(hessian_top=xr.DataArray(top, dims=axes), hessian_bottom=xr.DataArray(bottom, dims=axes))


def test_the_interval_is_student_s_and_leaves_out_one_mini_batch_at_a_time():
    top, bottom = spectra_of("skewed", np.random.default_rng(1), 6)
    found = hessian_statistics(spectra(top, bottom))
    low, high = student.interval(0.95, 5, top[:, 0].mean(), sem(top[:, 0]))
    assert (found["largest"].low, found["largest"].high) == pytest.approx((low, high))
    whole = [-bottom[:, 0].mean() / top[:, 0].mean()]
    for left_out in range(6):
        kept = np.arange(6) != left_out
        whole.append(-bottom[kept, 0].mean() / top[kept, 0].mean())
        rows = without_each_batch(spectra(top, bottom))
        alone = hessian_statistics(spectra(top[kept], bottom[kept]))
        assert {name: values[1 + left_out] for name, values in rows.items()} == pytest.approx(
            {name: estimate.value for name, estimate in alone.items()}
        )
    error = np.sqrt(5 / 6 * np.sum((np.array(whole[1:]) - np.mean(whole[1:])) ** 2))
    assert found["asymmetry"].error == pytest.approx(error)
    assert found["asymmetry"].high - found["asymmetry"].value == pytest.approx(student.ppf(0.975, 5) * error)


@pytest.mark.parametrize("sign", [1, -1])
def test_eigenvalues_of_one_sign_leave_room_for_the_other(sign):
    """Eight mini-batches of three: the error is that of one eigenvalue in 24, and not zero."""
    ends = np.full((8, 3), 9.0), np.full((8, 3), -1.0)
    found = hessian_statistics(spectra(*(ends if sign > 0 else (-ends[1], -ends[0]))))["negative_proportion"]
    assert found.value == (0 if sign > 0 else 1)
    assert found.error == pytest.approx(1 / 24)
    assert found.high - found.low == pytest.approx(2 * student.ppf(0.975, 7) / 24)


def test_the_density_integrates_to_one_and_peaks_at_its_nodes():
    nodes = np.array([[0.0, 5.0, np.nan], [1.0, 20.0, -3.0]])
    weights = np.array([[0.9, 0.1, 0.0], [0.7, 0.1, 0.2]])
    axes = ("hessian_batch", "hessian_iteration")
    profile = profile_of(hessian_node=(axes, nodes), hessian_weight=(axes, weights))
    at = np.linspace(-10, 30, 4001)
    found = density(profile, at, 0.2)
    assert np.trapezoid(found, at) == pytest.approx(1, abs=1e-6)
    peak = 1 / (0.2 * np.sqrt(2 * np.pi))
    assert found[np.abs(at - 20).argmin()] == pytest.approx(0.05 * peak, rel=1e-3)


def test_the_rise_is_paired_with_the_middle():
    rng = np.random.default_rng(0)
    steps = np.array([-1.0, 0, 1])
    own = rng.normal(5, 3, size=40)  # images differ far more than points do
    surface = own[:, None, None] + np.array([[4, 1, 4], [2, 0, 2], [4, 1, 4]])
    profile = profile_of(
        landscape_nll=(("landscape_image", "landscape_y", "landscape_x"), surface.astype(np.float32)),
        landscape_x=("landscape_x", steps),
        landscape_y=("landscape_y", steps),
    )
    found = rise(profile, draws=200)
    np.testing.assert_allclose(found["rise"], surface[0] - own[0], atol=1e-5)
    np.testing.assert_allclose(found["high"] - found["low"], 0, atol=1e-5)
    assert found.attrs["n"] == 40
    assert isinstance(found, xr.Dataset)


def test_what_was_not_measured_is_an_error():
    plain = synthetic_profile("vit", n=32, block=16)
    for read in (hessian_statistics, rise):
        with pytest.raises(StudyError, match="Measure again with it included"):
            read(plain)
    with pytest.raises(StudyError, match="an interval needs more than one mini-batch, got 1"):
        hessian_statistics(spectra([[1.0]], [[-1.0]]))

"""Statistics of stored spectra and surfaces against their definitions."""

import numpy as np
import pytest
import xarray as xr
from synthetic import synthetic_profile

from hf_vitstudy import StudyError
from hf_vitstudy.loss_geometry import density, hessian_statistics, largest_by_magnitude, rise
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
    assert found["largest"].low == found["largest"].high == pytest.approx(125.2)
    assert (found["largest"].n, found["largest"].unit_resampled) == (3, "mini-batch")


def test_batches_are_pooled_before_the_mean_is_taken():
    found = hessian_statistics(spectra([[10, 4], [2, 1]], [[-1, 0], [-8, -3]]))
    assert found["negative_proportion"].value == pytest.approx(2 / 4)
    assert found["positive_mean"].value == pytest.approx((10 + 4) / 2)
    assert found["positive_mean"].low <= found["positive_mean"].value <= found["positive_mean"].high


def test_unknown_eigenvalues_are_of_neither_sign():
    found = hessian_statistics(spectra([[9, np.nan, np.nan]] * 2, [[-4, np.nan, np.nan]] * 2))
    assert found["negative_proportion"].value == pytest.approx(0.5)
    assert found["positive_mean"].value == pytest.approx(9)


def test_nothing_positive_has_no_mean():
    found = hessian_statistics(spectra([[0.1, 0.0]] * 2, [[-9, -7]] * 2))
    assert found["negative_proportion"].value == 1
    assert np.isnan(found["positive_mean"].value)
    assert np.isnan(found["positive_mean"].low)


def test_intervals_cover_the_population_s_value():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        values = rng.normal(100, 10, size=(24, 1))
        estimate = hessian_statistics(spectra(values, values * 0 - 1), draws=200)["largest"]
        hits += estimate.low <= 100 <= estimate.high
    assert 0.88 <= hits / 200 <= 0.98


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
    with pytest.raises(StudyError, match="at least 2"):
        hessian_statistics(spectra([[1.0]], [[-1.0]]))

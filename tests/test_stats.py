"""Intervals: against scipy and brute force, and by counting how often they hold the truth."""

import numpy as np
import pytest
import scipy.stats
from oracles import minibatch_cka, minibatch_cka_without, u_centre

from hf_vitstudy.comparison import CrossKernels
from hf_vitstudy.errors import StudyError
from hf_vitstudy.stats import Estimate, Resampling, coverage, jackknife, percentile, wilson


# --------------------------------------------------------------------------------------------------------- bootstrap


def test_the_percentile_interval_of_a_mean_is_scipy_s():
    values = np.random.default_rng(0).exponential(size=120)
    resampling = Resampling(120, draws=20_000)
    found = resampling.estimate(resampling.mean(values))
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", vectorized=True, rng=np.random.default_rng(1)
    )
    assert found.value == pytest.approx(values.mean(), rel=1e-12)
    error = expected.standard_error
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=0.05 * error)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=0.05 * error)
    assert (found.n, found.level, found.unit_resampled) == (120, 0.95, "image")


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_the_level_is_the_share_of_draws_inside(level):
    resampling = Resampling(50, draws=4000)
    rows = resampling.mean(np.random.default_rng(0).normal(size=50))
    found = resampling.estimate(rows, level)
    assert np.mean((rows[1:] >= found.low) & (rows[1:] <= found.high)) == pytest.approx(level, abs=1e-3)
    assert np.mean(rows[1:] < found.low) == pytest.approx((1 - level) / 2, abs=1e-3)
    assert found.level == level


def test_the_data_as_they_are_lead_and_are_no_draw():
    """The first row is the estimate; an estimate far outside the draws must not move the interval."""
    resampling = Resampling(30, draws=500)
    rows = resampling.mean(np.random.default_rng(0).normal(size=30))
    moved = np.concatenate([[1e6], rows[1:]])
    assert np.array_equal(percentile(moved), percentile(rows))
    assert resampling.estimate(moved).value == 1e6


def test_every_draw_takes_n_images_and_the_first_row_each_once():
    weights = Resampling(40, draws=300).weights()
    assert weights.shape == (301, 40)
    assert (weights[0] == 1).all()
    assert (weights.sum(1) == 40).all()
    assert len(np.unique(weights, axis=0)) == 301
    np.testing.assert_allclose(weights[1:].mean(), 1)
    assert weights[1:].var() == pytest.approx(1 - 1 / 40, rel=0.05), "a multinomial count's variance"


def test_draws_are_shared_so_that_differences_are_paired():
    """Means of a and b on the same draws: the difference's rows are the rows of the differences."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 80, 3))
    resampling = Resampling(80, draws=200)
    again = Resampling(80, draws=200)
    np.testing.assert_allclose(resampling.mean(a) - again.mean(b), resampling.mean(a - b), atol=1e-12)
    other = Resampling(80, draws=200, seed=1)
    assert np.abs(resampling.mean(a) - other.mean(a))[1:].max() > 0.1
    assert np.array_equal(resampling.mean(a)[0], other.mean(a)[0])


def test_each_row_is_the_mean_of_the_images_drawn():
    values = np.random.default_rng(0).normal(size=(12, 2, 3))
    resampling = Resampling(12, draws=20)
    rows = resampling.mean(values)
    assert rows.shape == (21, 2, 3)
    for row, counts in zip(rows, resampling.weights().astype(int), strict=True):
        np.testing.assert_allclose(row, np.repeat(values, counts, axis=0).mean(0), atol=1e-12)


def test_undefined_observations_are_left_out_and_never_zeros():
    rng = np.random.default_rng(0)
    values = 5 + rng.normal(size=(60, 4))
    values[rng.random((60, 4)) < 0.3] = np.nan
    values[:, 3] = np.nan
    resampling = Resampling(60, draws=50)
    rows = resampling.mean(values)
    np.testing.assert_allclose(rows[0, :3], np.nanmean(values[:, :3], axis=0))
    for row, counts in zip(rows, resampling.weights().astype(int), strict=True):
        np.testing.assert_allclose(row[:3], np.nanmean(np.repeat(values[:, :3], counts, axis=0), axis=0))
    assert np.isnan(rows[:, 3]).all()
    low, high = percentile(rows)
    assert np.isfinite([low[:3], high[:3]]).all()
    assert np.isnan([low[3], high[3]]).all()


def test_integers_and_float32_are_added_up_in_float64():
    large = np.full(1000, 2**24 + 1, np.float64)
    assert (Resampling(1000, draws=10).mean(large) == 2**24 + 1).all()
    small = np.full(4096, np.float32(0.1))
    np.testing.assert_allclose(Resampling(4096, draws=5).mean(small), float(np.float32(0.1)), rtol=1e-14)
    assert Resampling(4, draws=5).mean(np.array([1, 0, 1, 0]))[0] == 0.5


def test_bad_input_says_what_to_do():
    with pytest.raises(StudyError, match="an interval needs at least 2 images, got 1; measure more images"):
        Resampling(1)
    with pytest.raises(StudyError, match="expected values of 5 images, got 4; use profiles of the same images"):
        Resampling(5).mean(np.zeros(4))


def test_an_estimate_reads_like_a_number_with_its_interval():
    assert str(Estimate(0.12345, -0.5, 0.75, 100)) == "0.123 [-0.500, 0.750]"


# --------------------------------------------------------------------------------------------------------- jackknife


def test_the_jackknife_is_tukey_s_formula_by_brute_force():
    """Of the logarithm of a variance, each time computed anew; pseudo-values as Tukey defines them."""
    x = np.random.default_rng(0).exponential(size=40)
    estimate = np.log(x.var(ddof=1))
    without = np.array([np.log(np.delete(x, i).var(ddof=1)) for i in range(40)])
    pseudo = 40 * estimate - 39 * without
    half = scipy.stats.t.ppf(0.95, 39) * pseudo.std(ddof=1) / np.sqrt(40)
    low, high = jackknife(estimate, without, level=0.9)
    assert low == pytest.approx(estimate - half)
    assert high == pytest.approx(estimate + half)


def test_the_jackknife_of_a_mean_is_the_t_interval():
    x = np.random.default_rng(0).normal(size=(25, 3, 2))
    low, high = jackknife(x.mean(0), (x.sum(0) - x) / 24)
    expected = scipy.stats.t.interval(0.95, 24, loc=x.mean(0), scale=scipy.stats.sem(x, axis=0))
    np.testing.assert_allclose([low, high], expected)


def test_the_jackknife_of_an_undefined_estimate_is_undefined_and_the_others_are_not():
    x = np.random.default_rng(0).normal(size=(25, 2))
    without = (x.sum(0) - x) / 24
    without[7, 0] = np.nan
    low, high = jackknife(x.mean(0), without)
    assert np.isnan([low[0], high[0]]).all()
    assert np.isfinite([low[1], high[1]]).all()


# ---------------------------------------------------------------------------------------------------------- coverage


def often(intervals: np.ndarray, truth: float) -> float:
    """Coverage of intervals (repeat, 2) that were computed many at a time."""
    each = iter(intervals)
    return coverage(lambda rng: tuple(next(each)), truth, len(intervals))


def test_coverage_counts_and_can_fail():
    """A right interval covers as often as it says; one without the square root of n, or half as wide, does not."""
    x = np.random.default_rng(0).normal(3, 2, size=(2000, 50))
    mean, error = x.mean(1), x.std(1, ddof=1) / np.sqrt(50)

    def share(width: float) -> float:
        half = width * scipy.stats.t.ppf(0.975, 49) * error
        return often(np.stack([mean - half, mean + half], axis=1), 3.0)

    assert 0.94 < share(1) < 0.96
    assert 0.6 < share(0.5) < 0.75
    assert share(1 / np.sqrt(50)) < 0.3
    assert share(np.sqrt(50)) == 1
    assert often(np.stack([mean - 0.5, mean - 0.1], axis=1), 3.0) < 0.5


def test_coverage_gives_each_repeat_fresh_randomness():
    seen = []
    coverage(lambda rng: seen.append(rng.normal()) or (0.0, 1.0), 0.5, 10, seed=3)
    again = []
    coverage(lambda rng: again.append(rng.normal()) or (0.0, 1.0), 0.5, 10, seed=3)
    assert len(set(seen)) == 10
    assert seen == again
    ends = [(0.0, 1.0), (0.5, 2.0), (0.6, 1.0), (0.0, 0.4)]
    assert often(np.array(ends), 0.5) == 0.5


def test_an_undefined_interval_covers_nothing():
    assert coverage(lambda rng: (np.nan, np.nan), 0.0, 5) == 0


def test_the_percentile_interval_of_a_mean_covers():
    """Skewed observations, n = 200; one resampling serves 100 data sets, 20 times."""
    rng = np.random.default_rng(0)
    found = []
    for seed in range(20):
        values = rng.exponential(size=(200, 100))
        found.append(np.stack(percentile(Resampling(200, draws=600, seed=seed).mean(values)), axis=1))
    assert 0.92 < often(np.concatenate(found), 1.0) < 0.98


BATCH, DIM = 32, 6
MIXING = np.random.default_rng(5).normal(size=(2, 3, DIM))
NOISE = 0.7


def population_cka() -> float:
    """Linear CKA of x = z A + noise, y = z B + noise for Gaussian z: |Σxy|² / (|Σxx| |Σyy|)."""
    A, B = MIXING
    own = [M.T @ M + NOISE**2 * np.eye(DIM) for M in (A, B)]
    return float(np.sum((A.T @ B) ** 2) / np.sqrt(np.sum(own[0] ** 2) * np.sum(own[1] ** 2)))


def studies(repeats: int, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Features of that model, (repeat, n, DIM) each."""
    z = rng.normal(size=(repeats, n, 3))
    return tuple(z @ M + NOISE * rng.normal(size=(repeats, n, DIM)) for M in MIXING)


def centred_grams(features: np.ndarray) -> np.ndarray:
    """U-centred Gram blocks (repeat, batch, BATCH, BATCH) float32 of features (repeat, n, d)."""
    x = features.reshape(len(features), -1, BATCH, features.shape[-1])
    K = x @ x.swapaxes(-1, -2)
    places = np.arange(BATCH)
    K[..., places, places] = 0
    row = K.sum(-1, keepdims=True)
    total = row.sum(-2, keepdims=True)
    K += total / ((BATCH - 1) * (BATCH - 2)) - (row + row.swapaxes(-1, -2)) / (BATCH - 2)
    K[..., places, places] = 0
    return K.astype(np.float32)


def test_the_model_of_the_coverage_tests_is_what_it_says():
    """The fast Gram blocks are the definition's, and the estimate goes to the population's value."""
    X, Y = studies(1, 64, np.random.default_rng(0))
    expected = np.stack([u_centre(X[0, start : start + BATCH] @ X[0, start : start + BATCH].T) for start in (0, 32)])
    np.testing.assert_allclose(centred_grams(X)[0], expected, atol=1e-4)
    cross = CrossKernels(centred_grams(X), centred_grams(Y), np.array([BATCH] * 2))
    assert cross.cka()[0, 0] == pytest.approx(minibatch_cka(X[0], Y[0], BATCH), abs=1e-6)
    brute = [minibatch_cka_without(X[0], Y[0], BATCH, image) for image in range(64)]
    np.testing.assert_allclose(cross.without_each_image()[:, 0, 0], brute, atol=1e-5)

    X, Y = studies(1, 64_000, np.random.default_rng(1))
    large = CrossKernels(centred_grams(X), centred_grams(Y), np.array([BATCH] * 2000)).cka()[0, 0]
    assert large == pytest.approx(population_cka(), abs=0.01)
    assert 0.2 < population_cka() < 0.8


@pytest.fixture(scope="module")
def cka_intervals() -> dict[str, np.ndarray]:
    """Both intervals of CKA in 1,000 simulated studies of 256 images; one CrossKernels holds 25 studies, on its diagonal."""
    rng = np.random.default_rng(0)
    found: dict[str, list] = {"jackknife": [], "influence": []}
    for seed in range(40):
        X, Y = studies(25, 256, rng)
        cross = CrossKernels(centred_grams(X), centred_grams(Y), np.array([BATCH] * 8))
        ends = {
            "jackknife": jackknife(cross.cka(), cross.without_each_image()),
            "influence": percentile(cross.draws(Resampling(256, draws=400, seed=seed))),
        }
        for name, (low, high) in ends.items():
            found[name].append(np.stack([np.diag(low), np.diag(high)], axis=1))
    return {name: np.concatenate(values) for name, values in found.items()}


@pytest.mark.parametrize("method", ["jackknife", "influence"])
def test_intervals_of_cka_cover_the_population_s_value(method, cka_intervals):
    intervals = cka_intervals[method]
    assert intervals.shape == (1000, 2)
    assert 0.92 < often(intervals, population_cka()) < 0.98
    middle, half = intervals.mean(1), np.diff(intervals, axis=1)[:, 0] / 2
    assert often(np.stack([middle - half / 2, middle + half / 2], axis=1), population_cka()) < 0.8


def test_both_intervals_of_cka_agree(cka_intervals):
    widths = {name: np.diff(values, axis=1).mean() for name, values in cka_intervals.items()}
    assert widths["influence"] == pytest.approx(widths["jackknife"], rel=0.1)


def test_influence_draws_are_the_linear_rule():
    """H(draw) = Σ_i (2 w_i - 1) c_i with c_i = Σ_j Ã_ij B̃_ij, image by image."""
    X, Y = studies(2, 64, np.random.default_rng(0))
    A, B = centred_grams(X).astype(np.float64), centred_grams(Y).astype(np.float64)
    resampling = Resampling(64, draws=30)
    found = CrossKernels(centred_grams(X), centred_grams(Y), np.array([BATCH] * 2)).draws(resampling)
    assert found.shape == (31, 2, 2)

    def drawn(K: np.ndarray, L: np.ndarray, weights: np.ndarray) -> float:
        shares = (K * L).sum(-1).ravel()
        return sum((2 * weight - 1) * share for weight, share in zip(weights, shares, strict=True))

    for row, weights in zip(found, resampling.weights().astype(float), strict=True):
        for i, j in np.ndindex(2, 2):
            own = drawn(A[i], A[i], weights) * drawn(B[j], B[j], weights)
            assert row[i, j] == pytest.approx(drawn(A[i], B[j], weights) / np.sqrt(own), abs=1e-5)


# ------------------------------------------------------------------------------------------------------------ shares


@pytest.mark.parametrize("n", [1, 7, 360, 50_000])
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99, 1])
@pytest.mark.parametrize("level", [0.5, 0.95])
def test_the_interval_of_a_share_is_scipy_s(n, share, level):
    successes = round(share * n)
    expected = scipy.stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    found = wilson(successes, n, level)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-14)
    assert (found.value, found.n, found.level) == (successes / n, n, level)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_the_interval_of_a_share_holds_the_truth_as_often_as_it_says():
    """Also near one, where bootstrap draws of a perfect sample are all perfect."""
    for truth in (0.5, 0.9, 0.99):

        def study(rng, truth=truth):
            found = wilson(int(rng.binomial(100, truth)), 100)
            return found.low, found.high

        assert 0.9 < coverage(study, truth, 2000) < 0.99


@pytest.mark.parametrize(("successes", "n"), [(3, 2), (-1, 5), (0, 0)])
def test_a_share_of_nothing_or_more_than_all_is_refused(successes, n):
    with pytest.raises(StudyError, match=f"0 to n successes of at least one image, got {successes} of {n}"):
        wilson(successes, n)

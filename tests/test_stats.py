"""Intervals: against scipy and brute force, and by counting how often they hold the truth."""

import numpy as np
import pytest
import scipy.stats
from oracles import minibatch_cka, minibatch_cka_without, u_centre

from hf_vitstudy.comparison import CrossKernels
from hf_vitstudy.errors import StudyError
from hf_vitstudy.stats import (
    Estimate,
    Resampling,
    beyond,
    coverage,
    crossed_mean,
    holm,
    jackknife,
    jackknifed,
    mean_of,
    percentile,
    student,
    wilson,
)


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


def test_an_estimate_says_its_standard_error():
    """Of a mean the spread of the draws, close to s / sqrt(n); nothing can be said of two rows or of an undefined one."""
    values = np.random.default_rng(0).normal(size=400)
    resampling = Resampling(400, draws=4000)
    rows = resampling.mean(values)
    found = resampling.estimate(rows)
    assert found.error == pytest.approx(rows[1:].std(ddof=1))
    assert found.error == pytest.approx(values.std() / 20, rel=0.05)
    assert found.freedom == 399
    assert np.isnan(resampling.estimate(rows[:2]).error)
    assert np.isnan(resampling.estimate(rows * np.nan).error)
    assert np.isnan(Estimate(0.1, 0.0, 0.2, 10).error)


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


# ------------------------------------------------------------------------------------------------- few units, Student


def test_an_estimate_of_a_jackknife_is_the_interval_of_the_jackknife():
    x = np.random.default_rng(0).exponential(size=12)
    without = np.array([np.log(np.delete(x, i).var(ddof=1)) for i in range(12)])
    for level in (0.95, 0.5):
        found = jackknifed(float(np.log(x.var(ddof=1))), without, level, unit="batch")
        low, high = jackknife(np.log(x.var(ddof=1)), without, level)
        assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
        assert (found.n, found.unit_resampled, found.freedom, found.level) == (12, "batch", 11, level)
        assert found.high - found.value == pytest.approx(scipy.stats.t.ppf((1 + level) / 2, 11) * found.error)


def test_variance_that_leaving_out_does_not_show_is_added():
    x = np.random.default_rng(0).normal(size=9)
    without = (x.sum() - x) / 8
    plain, more = jackknifed(x.mean(), without), jackknifed(x.mean(), without, extra=0.3)
    assert more.error == pytest.approx(np.sqrt(plain.error**2 + 0.3))
    assert more.value == plain.value


def test_a_jackknife_of_one_unit_is_refused():
    with pytest.raises(StudyError, match="an interval needs more than one batch, got 1; measure more"):
        jackknifed(1.0, np.ones(1), unit="batch")


def test_a_mean_of_a_few_numbers_has_student_s_interval():
    x = np.random.default_rng(0).normal(3, 2, size=5)
    for level in (0.95, 0.8):
        found = mean_of(x, level, unit="seed")
        expected = scipy.stats.t.interval(level, 4, loc=x.mean(), scale=scipy.stats.sem(x))
        assert (found.low, found.high) == pytest.approx(expected)
        assert found.error == pytest.approx(scipy.stats.sem(x))
        assert (found.n, found.freedom, found.unit_resampled) == (5, 4, "seed")


@pytest.mark.parametrize("n", [0, 1])
def test_a_mean_of_one_number_has_no_interval(n):
    found = mean_of(np.full(n, 2.5))
    assert np.isnan([found.low, found.high, found.error]).all()
    assert found.value == 2.5 if n else np.isnan(found.value)
    assert found.n == n


def test_the_interval_of_a_crossed_mean_is_welch_s():
    """Rows less columns: the mean is a difference of two means, and its interval scipy's of two samples."""
    rng = np.random.default_rng(0)
    rows, columns = rng.normal(1, 2, size=4), rng.normal(0, 0.5, size=7)
    found = crossed_mean(rows[:, None] - columns, unit="network")
    test = scipy.stats.ttest_ind(rows, columns, equal_var=False)
    expected = test.confidence_interval(0.95)
    assert found.value == pytest.approx(rows.mean() - columns.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.freedom == pytest.approx(test.df)
    assert (found.n, found.unit_resampled) == (4, "network")
    turned = crossed_mean((rows[:, None] - columns).T)
    assert (turned.low, turned.high) == pytest.approx((found.low, found.high))


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1)])
def test_a_crossed_mean_needs_two_of_each(shape):
    found = crossed_mean(np.full(shape, 0.5))
    assert found.value == 0.5
    assert np.isnan([found.low, found.high, found.error]).all()


def test_equal_entries_have_an_interval_of_no_width():
    found = crossed_mean(np.full((3, 4), 0.25))
    assert (found.value, found.low, found.high, found.error) == (0.25, 0.25, 0.25, 0)
    assert beyond(found, 0.2) == 0
    assert beyond(found, 0.25) == 1


# -------------------------------------------------------------------------------------------------------- p and Holm


def test_p_beyond_a_bound_is_the_one_sided_t_test():
    x = np.random.default_rng(0).normal(0.3, 1, size=15)
    for bound in (-0.5, 0.0, 0.3, 1.0):
        expected = scipy.stats.ttest_1samp(x, bound, alternative="greater").pvalue
        assert beyond(mean_of(x), bound) == pytest.approx(expected)
    wide = student(0.3, 0.1, np.inf, 1000)
    assert beyond(wide, 0.1) == pytest.approx(scipy.stats.norm.sf(2), rel=1e-6)


@pytest.mark.parametrize("estimate", [Estimate(0.5, 0.4, 0.6, 9), Estimate(np.nan, 0.4, 0.6, 9, error=0.1)])
def test_p_of_an_unknown_error_or_value_is_unknown(estimate):
    assert np.isnan(beyond(estimate, 0.0))


def holm_step_by_step(p: list[float], alpha: float) -> set[int]:
    """As Holm writes it: the smallest against α/m, the next against α/(m-1), until one is too large."""
    rejected: set[int] = set()
    for rank, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if p[index] > alpha / (len(p) - rank):
            break
        rejected.add(index)
    return rejected


def test_holm_rejects_what_its_steps_reject():
    rng = np.random.default_rng(0)
    rejected = 0
    for _ in range(300):
        p = (rng.uniform(size=rng.integers(1, 12)) ** 3).tolist()
        adjusted = holm(p)
        for alpha in (0.01, 0.05, 0.3):
            found = {i for i, value in enumerate(adjusted) if value <= alpha}
            assert found == holm_step_by_step(p, alpha), p
            rejected += len(found)
        assert all(value >= raw for value, raw in zip(adjusted, p, strict=True))
        assert max(adjusted) <= 1
    assert rejected > 300


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, np.nan, 0.04]) == pytest.approx([0.02, np.nan, 0.04], nan_ok=True)
    assert holm([0.01, np.nan, 0.04], among=10) == pytest.approx([0.1, np.nan, 0.36], nan_ok=True)
    assert holm([]) == []
    assert np.isnan(holm([np.nan])).all()
    with pytest.raises(StudyError, match="2 tests cannot be among 1"):
        holm([0.1, 0.2], among=1)


def test_holm_is_wrong_anywhere_as_seldom_as_it_says():
    """20 tests without any effect, and 5 with one beside 15 without: some false rejection in at most 5 of 100 families."""
    rng = np.random.default_rng(0)
    for effects in (0, 5):
        z = rng.normal(size=(4000, 20))
        z[:, :effects] += 3
        p = 2 * scipy.stats.norm.sf(np.abs(z))
        wrong = np.mean([min(holm(list(family))[effects:]) <= 0.05 for family in p])
        alone = np.mean(p[:, effects:].min(1) <= 0.05)
        assert 0.03 < wrong < 0.06
        assert alone > 0.5, "without the correction most families are wrong somewhere"


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
    """Skewed observations, n = 200; one resampling serves 200 data sets, 25 times. The error of 5,000 is 0.3 %."""
    rng = np.random.default_rng(0)
    found = []
    for seed in range(25):
        values = rng.exponential(size=(200, 200))
        found.append(np.stack(percentile(Resampling(200, draws=600, seed=seed).mean(values)), axis=1))
    assert 0.93 < often(np.concatenate(found), 1.0) < 0.97


def share_covered(estimates: list[Estimate], truth: float) -> float:
    return often(np.array([[found.low, found.high] for found in estimates]), truth)


@pytest.mark.parametrize("n", [3, 5, 20])
def test_student_s_interval_of_a_mean_covers(n):
    x = np.random.default_rng(0).normal(1, 2, size=(5000, n))
    assert 0.94 < share_covered([mean_of(values) for values in x], 1.0) < 0.96
    middle, half = x.mean(1), 1.96 * x.std(1, ddof=1) / np.sqrt(n)
    normal = often(np.stack([middle - half, middle + half], axis=1), 1.0)
    assert n == 20 or normal < 0.9, "few units need Student's quantiles"


def test_the_jackknife_of_a_ratio_of_few_batches_covers():
    """Mean of y over mean of x, 12 batches, left out one at a time."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(5000):
        x = rng.normal(4, 1, size=12)
        y = 0.5 * x + rng.normal(1, 0.5, size=12)
        without = (y.sum() - y) / (x.sum() - x)
        found.append(jackknifed(float(y.mean() / x.mean()), without, unit="batch"))
    assert 0.93 < share_covered(found, 0.75) < 0.97


def crossed(rng: np.random.Generator, m: int, n: int, interaction: float) -> np.ndarray:
    """Entry i, j: a row's number less a column's and, times `interaction`, one of its own; the mean of all such is 0.5."""
    own = interaction * rng.normal(size=(m, n))
    return 0.5 + rng.normal(0, 1, size=(m, 1)) - rng.normal(0, 0.6, size=(1, n)) + own


@pytest.mark.parametrize("shape", [(3, 3), (5, 4), (12, 3)])
def test_the_crossed_mean_covers(shape):
    rng = np.random.default_rng(0)
    found = [crossed_mean(crossed(rng, *shape, 0.0)) for _ in range(5000)]
    assert 0.93 < share_covered(found, 0.5) < 0.97


@pytest.mark.parametrize("shape", [(3, 3), (5, 4)])
def test_the_crossed_mean_is_conservative_where_rows_and_columns_interact(shape):
    """And as if all pairs were independent it would be far too narrow."""
    rng = np.random.default_rng(0)
    tables = [crossed(rng, *shape, 2.0) for _ in range(5000)]
    assert 0.95 < share_covered([crossed_mean(table) for table in tables], 0.5) < 1
    plain = [crossed(rng, *shape, 0.0) for _ in range(2000)]
    assert share_covered([mean_of(table.ravel()) for table in plain], 0.5) < 0.75


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
    """Both intervals of CKA in 2,500 simulated studies of 256 images; one CrossKernels holds 50 studies, on its diagonal."""
    rng = np.random.default_rng(0)
    found: dict[str, list] = {"jackknife": [], "influence": []}
    for seed in range(50):
        X, Y = studies(50, 256, rng)
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
    """Somewhat more often than 95 %: 97.1 % (jackknife) and 96.5 % (influence) of 20,000 such studies.

    Both count what a pair of images adds beyond the sum of the two once for each of them (Efron & Stein, Annals of Statistics
    1981), which is little where batches are large.
    """
    intervals = cka_intervals[method]
    assert intervals.shape == (2500, 2)
    assert 0.95 < often(intervals, population_cka()) < 0.98
    middle, half = intervals.mean(1), np.diff(intervals, axis=1)[:, 0] / 2
    assert often(np.stack([middle - half / 2, middle + half / 2], axis=1), population_cka()) < 0.8


def test_both_intervals_of_cka_agree(cka_intervals):
    widths = {name: np.diff(values, axis=1).mean() for name, values in cka_intervals.items()}
    assert widths["influence"] == pytest.approx(widths["jackknife"], rel=0.1)


def test_the_interval_of_a_difference_of_two_ckas_covers():
    """CKA(x, y) less CKA(x, w) on the same images and draws, w noisier than y, against the population's difference."""
    rng = np.random.default_rng(0)
    noisier = 2.0
    A, B = MIXING
    own = [M.T @ M + noise**2 * np.eye(DIM) for M, noise in ((A, NOISE), (B, NOISE), (B, noisier))]
    truth = [np.sum((A.T @ B) ** 2) / np.sqrt(np.sum(own[0] ** 2) * np.sum(own[i] ** 2)) for i in (1, 2)]
    assert truth[0] - truth[1] > 0.1
    found = []
    for seed in range(50):
        z = rng.normal(size=(50, 256, 3))
        first, *others = (
            centred_grams(z @ M + noise * rng.normal(size=(50, 256, DIM)))
            for M, noise in ((A, NOISE), (B, NOISE), (B, noisier))
        )
        resampling = Resampling(256, draws=400, seed=seed)
        draws = [CrossKernels(first, other, np.array([BATCH] * 8)).draws(resampling) for other in others]
        low, high = percentile(draws[0] - draws[1])
        found.append(np.stack([np.diag(low), np.diag(high)], axis=1))
    assert 0.93 < often(np.concatenate(found), truth[0] - truth[1]) < 0.97


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
        covered = exact_coverage(100, truth)

        def study(rng, truth=truth):
            found = wilson(int(rng.binomial(100, truth)), 100)
            return found.low, found.high

        assert coverage(study, truth, 4000) == pytest.approx(covered, abs=0.015)
        assert 0.92 < covered < 0.98


def exact_coverage(n: int, truth: float) -> float:
    """Summed over all counts, without chance."""
    ends = [(k, wilson(k, n)) for k in range(n + 1)]
    return sum(scipy.stats.binom.pmf(k, n, truth) for k, found in ends if found.low <= truth <= found.high)


def test_the_interval_of_a_share_covers_on_average_over_shares():
    """At a single share it jumps with the counts that are possible; over shares it is 95 %."""
    covered = [exact_coverage(100, truth) for truth in np.linspace(0.02, 0.98, 97)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.005)


@pytest.mark.parametrize(("successes", "n"), [(3, 2), (-1, 5), (0, 0)])
def test_a_share_of_nothing_or_more_than_all_is_refused(successes, n):
    with pytest.raises(StudyError, match=f"0 to n successes of at least one image, got {successes} of {n}"):
        wilson(successes, n)

"""Two profiles side by side: CKA of every block with every block, its intervals and null, and paired differences."""

import numpy as np
import pytest
import xarray as xr
from oracles import minibatch_cka, minibatch_cka_without
from scipy.stats import ortho_group
from synthetic import gram_variables, synthetic_profile

from hf_vitstudy.comparison import Comparison, Kernels, best_matches, compare
from hf_vitstudy.errors import StudyError
from hf_vitstudy.profile import Profile


def related(count: int, n: int, d: int = 12, seed: int = 0) -> list[np.ndarray]:
    """Features (n, d) of `count` blocks that share less and less with the first."""
    rng = np.random.default_rng(seed)
    shared = np.random.default_rng(99).normal(size=(n, d))
    return [shared + drift * rng.normal(size=(n, d)) for drift in np.linspace(0.3, 2, count)]


def profile_of(features: list[np.ndarray], name: str = "x", block: int = 16, dtype=np.float32, **others) -> Profile:
    """A profile that holds the Gram blocks of these features; `others` are measurements (n, block)."""
    n, count = len(features[0]), len(features)
    coordinates = {
        "block": [f"block{i:02d}" for i in range(count)],
        "kind": ("block", ["conv"] * count),
        "stage": ("block", np.ones(count, np.int32)),
        "depth": ("block", (np.arange(count) + 1) / count),
        "image_digest": ("image", np.arange(n, dtype=np.uint64)),
    }
    variables = gram_variables(features, block, dtype=dtype)
    variables |= {key: (("image", "block"), value) for key, value in others.items()}
    provenance = {"checkpoint": {"name": name, "classes": list("0123456789")}, "images": {"sha256": f"{n} images"}}
    return Profile(xr.Dataset(variables, coordinates), provenance)


def changed(profile: Profile, sha256: str | None = None, **variables) -> Profile:
    provenance = profile.provenance | ({"images": {"sha256": sha256}} if sha256 else {})
    return Profile(profile.data.assign(variables), provenance)


def pair_of(n: int, block: int = 16, dtype=np.float32) -> tuple[Comparison, list[np.ndarray], list[np.ndarray]]:
    """A comparison of 4 blocks with 3 and the features behind it."""
    X, Y = related(4, n), [x @ MIXING for x in related(3, n, seed=1)]
    return compare(profile_of(X, "x", block, dtype), profile_of(Y, "y", block, dtype), draws=50), X, Y


MIXING = np.random.default_rng(3).normal(size=(12, 20))


def oracle_map(X: list[np.ndarray], Y: list[np.ndarray], block: int) -> np.ndarray:
    return np.array([[minibatch_cka(x, y, block) for y in Y] for x in X])


# --------------------------------------------------------------------------------------------------------- the map


@pytest.mark.parametrize("n", [64, 70, 66], ids=["whole batches", "a short last batch", "a last batch too short"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float16, 1e-4)])
def test_the_map_is_the_oracle_s(n, dtype, tolerance):
    """66 images in batches of 16 leave 2, which no Gram block can hold; 70 leave 6, which weigh 6 · 3."""
    comparison, X, Y = pair_of(n, dtype=dtype)
    for of, rows, columns in (("ab", X, Y), ("aa", X, X), ("bb", Y, Y), ("ba", Y, X)):
        found = comparison.cka(of)["cka"].values
        np.testing.assert_allclose(found, oracle_map(rows, columns, 16), atol=tolerance, err_msg=of)


def test_storing_halves_changes_no_cell_by_more_than_a_ten_thousandth():
    wide = [np.random.default_rng(i).normal(size=(256, 300)) * np.geomspace(1, 100, 300) for i in range(2)]
    features = [*wide, *(x + y for x, y in zip(wide, related(2, 256, d=300), strict=True))]
    halves, singles = (
        compare(p, p).cka("aa")["cka"].values
        for p in (profile_of(features, block=32, dtype=dtype) for dtype in (np.float16, np.float32))
    )
    assert 0 < np.abs(halves - singles).max() < 1e-4


def test_a_map_with_itself_is_symmetric_with_a_diagonal_of_ones():
    profile = profile_of(related(5, 70), dtype=np.float16)
    found = compare(profile, profile).cka("ab")
    np.testing.assert_allclose(np.diag(found["cka"]), 1, atol=1e-6)
    for name in ("cka", "low", "high"):
        np.testing.assert_allclose(found[name], found[name].T.values, atol=1e-6)
    np.testing.assert_allclose(np.diag(found["low"]), 1, atol=1e-5)
    np.testing.assert_allclose(np.diag(found["high"]), 1, atol=1e-5)
    assert found.identical(compare(profile, profile).cka("aa"))


def test_exchanging_the_profiles_transposes_the_map():
    comparison, _, _ = pair_of(70)
    swapped = compare(comparison.b, comparison.a, draws=50)
    for name in ("cka", "low", "high"):
        ab = comparison.cka("ab")[name].values
        np.testing.assert_allclose(ab, swapped.cka("ab")[name].values.T, atol=1e-6)
        np.testing.assert_allclose(ab, comparison.cka("ba")[name].values.T, atol=1e-6)
    np.testing.assert_allclose(
        comparison.cka_draws("ab"), comparison.cka_draws("ba").swapaxes(1, 2), atol=1e-6, rtol=1e-5
    )


def rotated(x: np.ndarray) -> np.ndarray:
    return x @ ortho_group.rvs(x.shape[1], random_state=0)


SAME = {
    "orthogonal map": rotated,
    "isotropic scale": lambda x: 1e4 * x,
    "tiny scale": lambda x: 1e-6 * x,
    "shift": lambda x: x + 3,
    "zero channels": lambda x: np.pad(x, ((0, 0), (0, 5))),
    "repeated channels": lambda x: np.concatenate([x, x], axis=1),
}


@pytest.mark.parametrize("case", SAME)
def test_cka_does_not_see(case):
    X, Y = related(3, 64), related(3, 64, seed=1)
    plain = compare(profile_of(X), profile_of(Y)).cka()["cka"].values
    mapped = compare(profile_of([SAME[case](x) for x in X]), profile_of(Y)).cka()["cka"].values
    np.testing.assert_allclose(mapped, plain, atol=2e-6)


def test_cka_does_see_an_anisotropic_scale():
    X, Y = related(1, 64), related(1, 64, seed=1)
    stretched = [x * np.geomspace(1, 30, 12) for x in X]
    plain, other = (compare(profile_of(f), profile_of(Y)).cka()["cka"].item() for f in (X, stretched))
    assert abs(plain - other) > 0.05


def test_the_map_names_its_rows_and_columns():
    comparison, X, Y = pair_of(66)
    found = comparison.cka("ab", permutations=3)
    assert found["cka"].dims == ("row", "column")
    assert found["cka"].shape == (len(X), len(Y))
    assert found["row"].values.tolist() == comparison.a.data["block"].values.tolist()
    assert found["column_depth"].values.tolist() == comparison.b.data["depth"].values.tolist()
    assert found.attrs == {"rows": "x", "columns": "y", "n": 64}
    assert set(found.data_vars) == {"cka", "low", "high", "p", "p_max"}
    assert set(comparison.cka("ba").data_vars) == {"cka", "low", "high"}
    assert comparison.cka("ba").attrs["rows"] == "y"


def test_a_negative_value_is_kept():
    """Debiased CKA of independent features lies on both sides of zero; nothing is clipped."""
    X, Y = ([np.random.default_rng(seed).normal(size=(64, 8)) for seed in seeds] for seeds in (range(8), range(8, 16)))
    found = compare(profile_of(X), profile_of(Y)).cka()["cka"].values
    np.testing.assert_allclose(found, oracle_map(X, Y, 16), atol=1e-5)
    assert found.min() < -0.02
    assert found.max() > 0.02
    assert abs(found.mean()) < 0.02


# ------------------------------------------------------------------------------------------------------ undefined


def with_constant(features: list[np.ndarray], place: int) -> list[np.ndarray]:
    """The block at `place` answers the same for every image, as a class token does before the first attention."""
    return [np.zeros_like(x) if i == place else x for i, x in enumerate(features)]


def test_an_undefined_block_is_nan_everywhere_and_leaves_the_others_alone():
    X, Y = related(4, 64), related(3, 64, seed=1)
    plain = compare(profile_of(X), profile_of(Y), draws=40)
    undefined = compare(profile_of(with_constant(X, 1)), profile_of(with_constant(Y, 2)), draws=40)
    found, expected = (c.cka(permutations=20) for c in (undefined, plain))
    bad = np.zeros((4, 3), bool)
    bad[1], bad[:, 2] = True, True
    for name in ("cka", "low", "high", "p"):
        assert np.isnan(found[name].values[bad]).all(), name
        np.testing.assert_allclose(found[name].values[~bad], expected[name].values[~bad], atol=1e-6, err_msg=name)
    assert np.isfinite(found["p_max"])
    draws = undefined.cka_draws()
    assert np.isnan(draws[:, bad]).all()
    np.testing.assert_allclose(draws[:, ~bad], plain.cka_draws()[:, ~bad], atol=1e-6)
    self_map = undefined.cka("aa")["cka"].values
    assert np.isnan(self_map[1]).all()
    assert np.isnan(self_map[:, 1]).all()


def test_a_map_without_a_defined_cell_has_no_p():
    profile = profile_of([np.zeros((32, 4))] * 2)
    found = compare(profile, profile).cka(permutations=5)
    for name in ("cka", "low", "high", "p", "p_max"):
        assert np.isnan(found[name].values).all(), name


# ------------------------------------------------------------------------------------------------------- jackknife


@pytest.mark.parametrize("n", [32, 38, 34], ids=["whole batches", "a short last batch", "a last batch too short"])
def test_without_each_image_is_the_oracle_with_every_matrix_formed_anew(n):
    comparison, X, Y = pair_of(n, block=16)
    without = Kernels(comparison.a, comparison.b, "flatten").cross("a", "b").without_each_image()
    in_a_batch = [32, 38][n == 38]
    assert without.shape == (in_a_batch, len(X), len(Y))
    for image in range(in_a_batch):
        brute = [[minibatch_cka_without(x, y, 16, image) for y in Y[:2]] for x in X[:2]]
        np.testing.assert_allclose(without[image, :2, :2], brute, atol=2e-5, err_msg=f"image {image}")


def test_the_interval_is_the_jackknife_of_brute_force_estimates():
    from scipy.stats import t

    comparison, X, Y = pair_of(32)
    without = np.array([minibatch_cka_without(X[0], Y[0], 16, image) for image in range(32)])
    error = np.sqrt(31 / 32 * ((without - without.mean()) ** 2).sum())
    for level in (0.95, 0.5):
        found = comparison.cka(level=level).isel(row=0, column=0)
        half = t.ppf((1 + level) / 2, 31) * error
        assert found["high"].item() - found["cka"].item() == pytest.approx(half, rel=1e-3)
        assert found["cka"].item() - found["low"].item() == pytest.approx(half, rel=1e-3)


def test_a_batch_of_four_can_lose_an_image():
    """Three images have no unbiased estimate; the batch then counts nothing, not infinity."""
    comparison, X, Y = pair_of(20)
    without = Kernels(comparison.a, comparison.b, "flatten").cross("a", "b").without_each_image()
    assert np.isfinite(without).all()
    for image in (3, 17):
        assert without[image, 0, 0] == pytest.approx(minibatch_cka_without(X[0], Y[0], 16, image), abs=2e-5)


def test_draws_share_their_first_row_with_the_map_and_their_centre_with_the_interval():
    comparison, _, _ = pair_of(64)
    comparison = compare(comparison.a, comparison.b, draws=2000)
    draws = comparison.cka_draws()
    assert draws.shape == (2001, 4, 3)
    found = comparison.cka()
    np.testing.assert_allclose(draws[0], found["cka"], atol=1e-6)
    widths = np.quantile(draws[1:], 0.975, axis=0) - np.quantile(draws[1:], 0.025, axis=0)
    np.testing.assert_allclose(widths, (found["high"] - found["low"]).values, rtol=0.35)


# ------------------------------------------------------------------------------------------------- permutation null


@pytest.mark.parametrize(("n", "block"), [(64, 16), (10, 32)], ids=["whole batches", "one short batch"])
def test_p_of_independent_features_is_uniform(n, block):
    """24 blocks against 24, all independent: p has mean 1/2 and variance 1/12, and 1 in 20 lies below 0.05.

    A null that moved images into the empty rest of a short batch would be too narrow: p then is 0 or 1.
    """
    X, Y = ([np.random.default_rng(s).normal(size=(n, 6)) for s in range(start, start + 24)] for start in (0, 24))
    found = compare(profile_of(X, block=block), profile_of(Y, block=block)).cka(permutations=99)
    p = found["p"].values
    assert p.mean() == pytest.approx(0.5, abs=0.06)
    assert p.var() == pytest.approx(1 / 12, abs=0.02)
    assert np.mean(p <= 0.05) == pytest.approx(0.05, abs=0.03)
    assert p.min() >= 0.01
    assert p.max() <= 1
    assert p.flat[found["cka"].values.argmin()] > 0.9, "one-sided: the most negative cell is no sign of a relation"
    np.testing.assert_allclose(p * 100, np.round(p * 100), atol=1e-9)
    assert 0.05 < found["p_max"].item() <= 1, "the largest of 576 independent cells is large, but not for a largest"


def test_p_of_dependent_features_is_the_smallest_possible():
    comparison, _, _ = pair_of(70)
    found = comparison.cka(permutations=49)
    assert (found["p"].values[:2, :2] == 1 / 50).all()
    assert found["p_max"].item() == 1 / 50
    assert found["p_max"].dims == ()
    assert found.identical(comparison.cka(permutations=49)), "the draws have a seed"


def test_p_max_is_uniform_under_the_null():
    """40 studies without any relation: the p of their largest cells has mean 1/2."""
    found = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        X, Y = ([rng.normal(size=(32, 6)) for _ in range(3)] for _ in range(2))
        found.append(compare(profile_of(X), profile_of(Y)).cka(permutations=39)["p_max"].item())
    assert np.mean(found) == pytest.approx(0.5, abs=0.15)
    assert np.mean(np.array(found) <= 0.1) <= 0.25


# -------------------------------------------------------------------------------------------------- what is refused


def other_digests(n: int, shift: int = 0) -> tuple:
    digests = np.arange(n, dtype=np.uint64)
    digests[:shift] += np.uint64(1000)
    return "image", digests


REFUSED = {
    "three other images": (
        lambda p: changed(p, "other", image_digest=other_digests(64, 3)),
        "3 of 64 images differ, the",
    ),
    "another order": (lambda p: changed(p, "other", image_digest=p.data["image_digest"][::-1]), "in another order"),
    "another number": (lambda p: profile_of(related(2, 48)), "64 against 48 images"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_profiles_of_different_images_are_not_compared(case):
    change, message = REFUSED[case]
    profile = profile_of(related(2, 64), "mine")
    with pytest.raises(
        StudyError, match=f"mine and .* were measured on different images: .*{message}.*; measure both wit"
    ):
        compare(profile, change(profile))


def test_the_first_image_that_differs_is_named():
    profile = profile_of(related(1, 16))
    digests = np.arange(16, dtype=np.uint64)
    digests[11] = 99
    with pytest.raises(StudyError, match="1 of 16 images differ, the first at row 11"):
        compare(profile, changed(profile, "other", image_digest=("image", digests)))


def test_gram_blocks_of_other_batches_are_not_multiplied():
    X = related(2, 64)
    comparison = compare(profile_of(X, "mine", block=16), profile_of(X, "yours", block=32))
    with pytest.raises(
        StudyError, match=r"different batches \(16 against 32 images\); measure both with the same --batch"
    ):
        comparison.cka()


def with_view(profile: Profile, features: list[np.ndarray], view: str) -> Profile:
    return Profile(profile.data.assign(gram_variables(features, 16, view, np.float32)), profile.provenance)


@pytest.mark.parametrize("missing", ["a", "b", "both"])
def test_a_view_that_was_not_measured_is_named(missing):
    X = related(2, 32)
    a, b = profile_of(X, "mine"), profile_of(X, "yours")
    if missing == "a":
        b = with_view(b, X, "mean")
    elif missing == "b":
        a = with_view(a, X, "mean")
    with pytest.raises(StudyError, match=r"(mine|yours) has no measurement '(gram|size)_mean'"):
        compare(a, b).cka(view="mean")


def test_each_view_has_its_own_map():
    X, Y = related(2, 32), [x[:, :3] for x in related(2, 32)]
    profile = with_view(profile_of(X), Y, "mean")
    comparison = compare(profile, profile)
    np.testing.assert_allclose(comparison.cka(view="mean")["cka"], oracle_map(Y, Y, 16), atol=1e-5)
    np.testing.assert_allclose(comparison.cka()["cka"], oracle_map(X, X, 16), atol=1e-5)
    assert comparison.cka_draws("aa", "mean").shape == (1001, 2, 2)


@pytest.mark.parametrize("call", ["cka", "cka_draws"])
def test_sides_are_a_and_b(call):
    profile = profile_of(related(1, 16))
    with pytest.raises(StudyError, match="of must be 'aa', 'ab', 'ba' or 'bb', got 'ac'"):
        getattr(compare(profile, profile), call)("ac")


# -------------------------------------------------------------------------------------------------------- other rows


def shuffled_features(Y: list[np.ndarray], block: int, draws: int, seed: int = 0) -> list[list[np.ndarray]]:
    """Y with the images of every batch in another order, the same for all blocks of a draw."""
    rng = np.random.default_rng(seed)
    n, found = len(Y[0]), []
    for _ in range(draws):
        order = np.arange(n)
        for start in range(0, n, block):
            here = order[start : start + block].copy()
            if len(here) >= 4:
                order[start : start + block] = here[rng.permutation(len(here))]
        found.append([y[order] for y in Y])
    return found


@pytest.mark.parametrize("n", [32, 38, 34], ids=["whole batches", "a short last batch", "a last batch too short"])
def test_rows_of_shuffled_images_are_the_oracle_of_shuffled_features(n):
    comparison, X, Y = pair_of(n)
    found = comparison.with_rows("shuffled", 6).cka_draws("ab")
    assert found.shape == (7, 4, 3)
    np.testing.assert_allclose(found[0], oracle_map(X, Y, 16), atol=1e-5)
    for row, shuffled in zip(found[1:], shuffled_features(Y, 16, 6), strict=True):
        np.testing.assert_allclose(row, oracle_map(X, shuffled, 16), atol=2e-5)


@pytest.mark.parametrize("of", ["aa", "bb", "ba"])
def test_any_side_can_be_shuffled(of):
    comparison, X, Y = pair_of(32)
    first, second = ({"a": X, "b": Y}[side] for side in of)
    found = comparison.with_rows("shuffled", 3).cka_draws(of)
    for row, shuffled in zip(found[1:], shuffled_features(second, 16, 3), strict=True):
        np.testing.assert_allclose(row, oracle_map(first, shuffled, 16), atol=2e-5)


def test_shuffles_are_kept_and_cannot_be_spoilt():
    comparison, _, _ = pair_of(32)
    null = comparison.with_rows("shuffled", 4)
    first = null.cka_draws()
    kept = first.copy()
    first[:] = 7
    assert np.array_equal(comparison.with_rows("shuffled", 4).cka_draws(), kept)
    assert len(comparison.with_rows("shuffled", 9).cka_draws()) == 10
    np.testing.assert_allclose(null.cka_draws("bb")[0], comparison.cka_draws("bb")[0], atol=1e-6)
    other = compare(comparison.a, comparison.b, draws=50, seed=1).with_rows("shuffled", 4).cka_draws()
    assert not np.allclose(other[1:], kept[1:])


def test_rows_without_each_image_are_the_oracle_s():
    comparison, X, Y = pair_of(34)
    found = comparison.with_rows("without").cka_draws("ab")
    assert found.shape == (33, 4, 3), "two images of 34 are in no batch"
    np.testing.assert_allclose(found[0], oracle_map(X, Y, 16), atol=1e-5)
    for image in (0, 17, 31):
        brute = [[minibatch_cka_without(x, y, 16, image) for y in Y] for x in X]
        np.testing.assert_allclose(found[1 + image], brute, atol=2e-5)


def biased_hsic(X: np.ndarray, Y: np.ndarray, block: int) -> float:
    """tr(K H L H) of Gretton et al. 2005, with H written out, summed over batches of at least four."""
    total = 0.0
    for start in range(0, len(X), block):
        x, y = (v[start : start + block].astype(np.float64) for v in (X, Y))
        n = len(x)
        if n >= 4:
            H = np.eye(n) - 1 / n
            total += np.trace(x @ x.T @ H @ y @ y.T @ H)
    return total


@pytest.mark.parametrize("n", [64, 70, 66], ids=["whole batches", "a short last batch", "a last batch too short"])
def test_the_plain_row_is_the_biased_formula_of_the_features(n):
    comparison, X, Y = pair_of(n)
    for of, rows, columns in (("ab", X, Y), ("aa", X, X), ("ba", Y, X)):
        found = comparison.with_rows("plain").cka_draws(of)
        assert found.shape == (1, len(rows), len(columns))
        expected = [
            [biased_hsic(x, y, 16) / np.sqrt(biased_hsic(x, x, 16) * biased_hsic(y, y, 16)) for y in columns]
            for x in rows
        ]
        np.testing.assert_allclose(found[0], expected, atol=1e-5, err_msg=of)
        assert (found[0] > comparison.cka_draws(of)[0] - 1e-6).all(), "the bias goes up"


def test_rows_of_a_bootstrap_are_the_plain_draws():
    comparison, _, _ = pair_of(32)
    for draws in (None, 7):
        found = comparison.with_rows("bootstrap", draws).cka_draws()
        expected = compare(comparison.a, comparison.b, draws=draws or 50).cka_draws()
        assert np.array_equal(found, expected)
    assert np.array_equal(comparison.with_rows("shuffled").with_rows("bootstrap").cka_draws(), comparison.cka_draws())


def test_other_rows_share_what_was_computed_and_take_the_third_profile_along():
    comparison, _, _ = pair_of(32)
    beside = compare(comparison.a, profile_of(related(2, 32, seed=5), "z"), draws=50)
    three = Comparison(comparison.a, comparison.b, comparison.resampling, beside=beside)
    three.cka_draws()
    for rows, count in (("shuffled", 4), ("without", 33), ("plain", 1), ("bootstrap", 4)):
        changed = three.with_rows(rows, 3)
        assert changed._cache is three._cache
        assert changed.beside.rows == rows
        assert [len(c.cka_draws()) for c in (changed, changed.beside)] == [count] * 2
    assert comparison.with_rows("plain").beside is None


def test_unknown_rows_are_refused():
    comparison, _, _ = pair_of(16)
    with pytest.raises(
        StudyError, match="rows must be 'bootstrap', 'without', 'shuffled' or 'plain', got 'jackknife'"
    ):
        comparison.with_rows("jackknife")


def test_block_structure_has_rows_of_every_kind():
    comparison, _, _ = pair_of(32)
    found = comparison.block_structure_draws("aa", parts=2)
    assert found.shape == (51,)
    estimate = comparison.block_structure("aa", parts=2)
    assert estimate == comparison.resampling.estimate(found)
    without = comparison.with_rows("without")
    cells = without.cka_draws("aa")
    stage = np.minimum((comparison.a.data["depth"].values * 2).astype(int), 1)
    assert stage.tolist() == [0, 1, 1, 1], "a depth of one half belongs to the upper part"
    within = [cells[:, i, j] for i, j in ((1, 2), (1, 3), (2, 3))]
    outside = [cells[:, 0, j] for j in (1, 2, 3)]
    expected = np.mean(within, axis=0) - np.mean(outside, axis=0)
    np.testing.assert_allclose(without.block_structure_draws("aa", parts=2), expected, atol=1e-6)


# --------------------------------------------------------------------------------------------------------- agreement


def test_agreement_is_the_share_of_equal_predictions():
    a, b = synthetic_profile("vit", n=64), synthetic_profile("resnet", n=64)
    found = compare(a, b, draws=4000).agreement()
    share = float(np.mean([int(x[0]) == int(y[0]) for x, y in zip(a["top5"].values, b["top5"].values, strict=True)]))
    assert 0.3 < share < 0.95
    assert found.value == pytest.approx(share)
    error = np.sqrt(share * (1 - share) / 64)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert found.n == 64
    itself = compare(a, a).agreement()
    assert (itself.value, itself.low, itself.high) == (1, 1, 1)


def test_predictions_of_other_classes_cannot_agree():
    a, b = synthetic_profile("vit", n=64), synthetic_profile("resnet", n=64)
    b.provenance["checkpoint"]["classes"] = ["cat", "dog"]
    with pytest.raises(
        StudyError, match="synthetic-vit and synthetic-resnet have different classes, so predictions can"
    ):
        compare(a, b).agreement()
    without = Profile(a.data.drop_vars("top5"), a.provenance)
    with pytest.raises(StudyError, match="synthetic-vit has no measurement 'top5'"):
        compare(without, a).agreement()


# -------------------------------------------------------------------------------------------------------- difference


def curves(n: int, count: int, level: float, seed: int) -> np.ndarray:
    """A measurement (n, count) whose largest part is the image's own, the same in every network."""
    own = np.random.default_rng(5).normal(0, 3, (n, 1))
    return level + np.linspace(0, 1, count) + own + np.random.default_rng(seed).normal(0, 0.1, (n, count))


@pytest.fixture(scope="module")
def measured() -> tuple[Profile, Profile]:
    return tuple(
        profile_of(related(count, 64), name, height=curves(64, count, level, count))
        for name, count, level in (("x", 7, 1.0), ("y", 4, 0.5))
    )


def test_a_difference_is_interpolated_as_numpy_does(measured):
    a, b = measured
    depths = np.array([0.01, 0.1, 0.25, 0.3, 0.5, 0.77, 1.0])
    found = compare(a, b).difference("height", depths)
    means = {}
    for side, profile in (("a", a), ("b", b)):
        depth, values = profile.data["depth"].values, profile["height"].values
        means[side] = np.mean([np.interp(depths, depth, row) for row in values], axis=0)
        np.testing.assert_allclose(found[side], means[side], rtol=1e-9)
    np.testing.assert_allclose(found["difference"], means["a"] - means["b"], rtol=1e-9)
    assert found["depth"].values.tolist() == depths.tolist()
    default = compare(a, b).difference("height")
    np.testing.assert_allclose(default["depth"], np.arange(1, 11) / 10)


def test_a_difference_is_paired_by_image(measured):
    """What an image adds to both networks cancels: 3 / sqrt(64) of noise each, 0.1 / sqrt(64) of it unshared."""
    a, b = measured
    found = compare(a, b, draws=1000).difference("height", np.array([0.5, 1.0]))
    paired = (found["high"] - found["low"]).values
    np.testing.assert_allclose(paired[-1], 2 * 1.96 * 0.1 * np.sqrt(2 / 64), rtol=0.25)
    shuffled = changed(b, height=(("image", "block"), np.random.default_rng(0).permutation(b["height"].values)))
    broken = compare(a, shuffled, draws=1000).difference("height", np.array([0.5, 1.0]))
    unpaired = (broken["high"] - broken["low"]).values
    assert (unpaired > 15 * paired).all()
    assert (found["low"] < found["difference"]).all()
    assert (found["difference"] < found["high"]).all()


def test_a_difference_with_itself_is_zero_and_exchanging_changes_its_sign(measured):
    a, b = measured
    itself = compare(a, a).difference("height")
    assert not itself[["difference", "low", "high"]].to_array().any()
    there, back = compare(a, b).difference("height"), compare(b, a).difference("height")
    np.testing.assert_allclose(there["difference"], -back["difference"])
    np.testing.assert_allclose(there["low"], -back["high"])


def test_a_difference_keeps_further_axes():
    a, b = synthetic_profile("vit", n=32), synthetic_profile("resnet", n=32)
    found = compare(a, b, draws=20).difference("fourier", np.array([0.2, 0.9]))
    assert found["difference"].dims == ("depth", "frequency")
    row = [np.interp(0.9, p.data["depth"], p["fourier"].values[..., 3].mean(0)) for p in (a, b)]
    assert found["difference"].values[1, 3] == pytest.approx(row[0] - row[1], rel=1e-5)


@pytest.mark.parametrize("name", ["attention_distance", "nll", "gram_flatten"])
def test_only_measurements_of_images_along_blocks_have_a_difference(name):
    profile = synthetic_profile("vit", n=32)
    with pytest.raises(StudyError, match=f"'{name}' has axes .*, expected"):
        compare(profile, profile, draws=5).difference(name)


def test_a_missing_measurement_has_no_difference(measured):
    with pytest.raises(StudyError, match="x has no measurement 'beauty'"):
        compare(*measured).difference("beauty")


def test_best_matches_leave_undefined_columns_out():
    cells = np.array([[0.2, np.nan, -0.3, np.nan], [0.1, np.nan, -0.1, 0.4], [np.nan, np.nan, -0.2, 0.3]])
    assert best_matches(cells).tolist() == [0, -1, 1, 1]

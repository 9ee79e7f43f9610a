"""Other similarities than CKA, what CKA rests on, and networks that never learned: each against its definition."""

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import save_checkpoint, small_processor, small_resnet, small_vit
from oracles import hsic, minibatch_cka, u_centre
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.distance import pdist
from scipy.stats import ortho_group, rankdata, spearmanr
from sklearn.neighbors import NearestNeighbors
from synthetic import gram_variables
from test_comparison import profile_of, related

from hf_vitstudy.analyses import Batch, NotApplicableError
from hf_vitstudy.analyses.cka import CKA
from hf_vitstudy.analyses.projection import CHUNK, Projection, directions
from hf_vitstudy.blocks import Block
from hf_vitstudy.checkpoints import Checkpoint, load_checkpoint
from hf_vitstudy.cli import app
from hf_vitstudy.comparison import Kernels, caveats, compare, excess_over_untrained
from hf_vitstudy.errors import StudyError
from hf_vitstudy.measuring import measure
from hf_vitstudy.profile import Profile, merge
from hf_vitstudy.similarities import GRAM_MEASURES, monotone_matches, neighbours, ranks, spectrum
from hf_vitstudy.states import State


BATCH = 16


def batches(n: int, block: int = BATCH) -> list[slice]:
    return [slice(start, min(start + block, n)) for start in range(0, n, block) if n - start >= 4]


def with_projection(profile: Profile, features: list[np.ndarray], **attrs) -> Profile:
    stored = np.stack(features, 1).astype(np.float32)
    settings = {"pool": "mean", "dim": stored.shape[-1], "seed": 0} | attrs
    return Profile(
        profile.data.assign(projection=(("image", "block", "projection_axis"), stored, settings)), profile.provenance
    )


def pair(n: int = 70, name: str = "y"):
    """A comparison of 3 blocks with 2, which hold projections too, and the features behind it."""
    X, Y = related(3, n), related(2, n, seed=1)
    a, b = (with_projection(profile_of(f, name, BATCH), f) for f, name in ((X, "x"), (Y, name)))
    return compare(a, b, draws=200), X, Y


# ------------------------------------------------------------------------------------------------ the diagonal stored


def run_cka(features: dict[str, np.ndarray], images: np.ndarray, batch: int = 32, **options) -> Profile:
    """The CKA analysis over features (n, d) as if they were states of `images` (n, 3, height, width)."""
    n = len(images)
    blocks = [Block(name, "mlp", name, "output", 1.0, 1, x.shape[1], (1, 1), 0) for name, x in features.items()]
    analysis = CKA(**options)
    analysis.start(Checkpoint(torch.nn.Identity(), None, blocks, [], "fake"), n, batch)
    parts = []
    for start in range(0, n, batch):
        for block in blocks:
            values = torch.from_numpy(features[block.name][start : start + batch]).float()
            analysis.visit(block, State(values[:, None, :], (1, 1), 0))
        shown = torch.from_numpy(images[start : start + batch]).float()
        unknown = torch.full((len(shown),), -1)
        parts.append(analysis.update(Batch(shown, None, unknown, unknown, start)))
    coordinates = {
        "block": list(features),
        "depth": ("block", np.linspace(0.1, 1, len(features))),
        "image_digest": ("image", np.arange(n)),
    }
    provenance = {"checkpoint": {"name": "fake"}, "images": {"sha256": "same"}}
    return Profile(xr.Dataset(analysis.result(parts), coordinates), provenance)


def some_images(n: int, size: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=(n, 3, size, size))


@pytest.mark.parametrize("mean", [0, 5, 1000], ids=["no mean", "a mean", "a mean that dominates"])
@pytest.mark.parametrize(("storage", "bound"), [("float16", 2**-11), ("float32", 2**-22)])
def test_the_mean_centred_gram_matrix_comes_back(mean, storage, bound):
    """To half a unit in the last stored place of the largest entry, and the float32 of the features."""
    x = np.random.default_rng(0).normal(size=(70, 40)).astype(np.float32) + np.float32(mean)
    profile = run_cka({"x": x}, some_images(70), storage=storage)
    found = profile.centred_gram("flatten")
    assert found.shape == (1, 3, 32, 32)
    for place, part in enumerate(batches(70, 32)):
        values = x[part].astype(np.float64)
        values -= values.mean(0)
        n = len(values)
        expected = values @ values.T
        scale = profile["scale_flatten"].values[0, place]
        precision = 3e-4 if mean == 1000 else 3e-5  # of float32 features with that mean
        np.testing.assert_allclose(found[0, place, :n, :n], expected, atol=bound * scale + precision * scale)
        assert not found[0, place, n:].any()
        assert not found[0, place, :, n:].any()


def test_the_diagonal_of_a_kernel_is_the_kernel_s_own():
    x = np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32)
    found = run_cka({"x": x}, some_images(32), kernel="rbf", storage="float32").centred_gram("flatten_rbf")[0, 0]
    squared = pdist(x.astype(np.float64), "sqeuclidean")
    kernel = np.eye(32)
    kernel[np.triu_indices(32, 1)] = np.exp(-squared / (2 * np.median(squared)))
    kernel = np.maximum(kernel, kernel.T)
    centre = np.eye(32) - 1 / 32
    np.testing.assert_allclose(found, centre @ kernel @ centre, atol=1e-5)


def test_a_constant_block_keeps_a_diagonal_of_zeros():
    constant = np.tile(np.random.default_rng(0).normal(size=(1, 20)), (32, 1))
    for kernel in ("linear", "rbf"):
        profile = run_cka({"same": constant}, some_images(32), kernel=kernel)
        assert not profile.centred_gram(profile.views[0]).any()


def test_what_is_kept_of_a_batch_depends_on_it_alone():
    x = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)
    images = some_images(64)
    both, second = run_cka({"x": x}, images), run_cka({"x": x[32:]}, images[32:])
    for name in ("gram_flatten", "square_flatten", "gram_input", "square_input"):
        assert np.array_equal(both[name].values[:, 1:], second[name].values)


def test_an_older_profile_says_that_it_has_no_diagonal():
    profile = profile_of(related(2, 32), "old")
    old = Profile(profile.data.drop_vars("square_flatten"), profile.provenance)
    for call in (lambda: old.centred_gram(), lambda: caveats(old), lambda: compare(old, old).similarity()):
        with pytest.raises(StudyError, match=r"old has no measurement 'square_flatten'; .* Measure again"):
            call()
    assert np.isfinite(compare(old, old).cka()["cka"]).all(), "CKA needs none"


def test_a_diagonal_does_not_outlive_its_matrix():
    provenance = {"checkpoint": {"name": "x", "weights_sha256": "same"}, "images": {"sha256": "same"}}
    first, second = (Profile(profile_of(related(2, 32, seed=s), "x").data, provenance) for s in (0, 1))
    old = Profile(second.data.drop_vars("square_flatten"), provenance)
    assert "square_flatten" not in merge([first, old]).data
    np.testing.assert_array_equal(merge([first, second]).centred_gram(), second.centred_gram())


# ------------------------------------------------------------------------------------------------------ deconfounded


def test_the_pixels_gram_matrix_is_stored_and_is_no_view_of_the_network():
    images = some_images(70)
    profile = run_cka({"x": np.random.default_rng(0).normal(size=(70, 5))}, images, storage="float32")
    assert profile.views == ["flatten"]
    assert profile["gram_input"].dims == ("input", "input_batch", "input_pair")
    assert profile.gram("input").shape == (1, 3, 32, 32)
    values = images[:32].reshape(32, -1)
    np.testing.assert_allclose(profile.gram("input")[0, 0], u_centre(values @ values.T), atol=1e-5)
    for options in ({"input": False}, {"exact": True}):
        assert "gram_input" not in run_cka({"x": np.ones((8, 5))}, some_images(8), **options).data


def deconfounded_oracle(X, Y, shown_x, shown_y) -> float:
    """Cui et al. 2022 by vectorised matrices and numpy's own least squares, U-centred, for whole batches."""

    def triangles(values):
        parts = [values[s].reshape(len(values[s]), -1).astype(np.float64) for s in batches(len(values), 32)]
        return np.concatenate([u_centre(v @ v.T)[~np.eye(len(v), dtype=bool)] for v in parts])

    left = []
    for values, shown in ((X, shown_x), (Y, shown_y)):
        target, pixels = triangles(values), triangles(shown)
        slope = np.linalg.lstsq(pixels[:, None], target, rcond=None)[0]
        left.append(target - pixels * slope)
    return float(left[0] @ left[1] / np.sqrt((left[0] @ left[0]) * (left[1] @ left[1])))


@pytest.mark.parametrize("sizes", [(4, 4), (4, 6)], ids=["the same pixels", "pixels of two sizes"])
def test_deconfounded_cka_is_that_of_the_residuals(sizes):
    rng = np.random.default_rng(1)
    brightness = rng.uniform(size=(64, 1, 1, 1))
    images = [some_images(64, size) + brightness for size in sizes]
    X, Y = (
        (shown.reshape(64, -1) @ rng.normal(size=(shown[0].size, 9)) + rng.normal(size=(64, 9))).astype(np.float32)
        for shown in images
    )
    a, b = (run_cka({"x": v}, shown, storage="float32") for v, shown in zip((X, Y), images, strict=True))
    found = compare(a, b).cka(deconfounded=True)
    assert found["cka"].item() == pytest.approx(deconfounded_oracle(X, Y, *images), abs=1e-5)
    assert found["low"].item() < found["cka"].item() < found["high"].item()
    assert abs(found["cka"].item() - compare(a, b).cka()["cka"].item()) > 0.01


def test_two_networks_that_share_only_the_pixels_are_alike_until_these_are_taken_out():
    """A linear map of the pixels has nothing left; what is added to it has."""
    images = some_images(512, 4)
    rng = np.random.default_rng(1)
    pixels = images.reshape(512, -1) - 0.5
    features = {}
    for name in ("x", "y"):
        features[name] = np.concatenate([pixels, 0.6 * rng.normal(size=(512, 20))], 1).astype(np.float32)
    profile = run_cka(features, images, storage="float32")
    comparison = compare(profile, profile, draws=100)
    assert comparison.cka("aa")["cka"].values[0, 1] > 0.1
    found = comparison.cka("aa", deconfounded=True, permutations=20)
    assert abs(found["cka"].values[0, 1]) < 0.02
    np.testing.assert_allclose(np.diag(found["cka"]), 1, atol=1e-5)
    assert comparison.cka_draws("aa", deconfounded=True).shape == (101, 2, 2)
    assert set(found.data_vars) == {"cka", "low", "high", "p", "p_max"}


def test_deconfounding_needs_the_pixels_of_the_same_batches():
    profile = profile_of(related(2, 64), "mine")
    with pytest.raises(StudyError, match=r"mine has no measurement '(gram|size)_input'"):
        compare(profile, profile).cka(deconfounded=True)
    found = run_cka({"x": np.random.default_rng(0).normal(size=(64, 5))}, some_images(64))
    other = gram_variables([some_images(64).reshape(64, -1)], 16, "other")
    mixed = Profile(found.data.assign(other), found.provenance)
    with pytest.raises(StudyError, match="of the pixels and of 'other' of different batches; measure both in one run"):
        compare(mixed, mixed).cka(view="other", deconfounded=True)


# --------------------------------------------------------------------------------------------------- from Gram blocks


def rsa_oracle(X, Y):
    found = [spearmanr(pdist(X[s]), pdist(Y[s])).statistic for s in batches(len(X))]
    pairs = [len(pdist(X[s])) for s in batches(len(X))]
    return np.average(found, weights=pairs)


def rsa_gram_oracle(X, Y):
    def products(x):
        x = x - x.mean(0)
        return (x @ x.T)[np.triu_indices(len(x), 1)]

    found = [spearmanr(products(X[s]), products(Y[s])).statistic for s in batches(len(X))]
    return np.average(found, weights=[len(products(X[s])) for s in batches(len(X))])


def nearest(x, k):
    """Without the image itself."""
    return NearestNeighbors(n_neighbors=k).fit(x).kneighbors(return_distance=False)


def knn_oracle(X, Y, k=5):
    shares = [
        len(set(i) & set(j)) / k
        for s in batches(len(X))
        if len(X[s]) > k
        for i, j in zip(nearest(X[s], k), nearest(Y[s], k), strict=True)
    ]
    return np.mean(shares)


def cknna_oracle(X, Y, k=5):
    """Align(K, L) = Σ_ij α(i, j) K_ij L_ij image by image, α = both rank j among the k nearest of i; U-centred."""
    total = np.zeros(3)
    for s in batches(len(X)):
        if len(X[s]) <= k:
            continue
        sides = [(u_centre(v[s] @ v[s].T), nearest(v[s], k)) for v in (X, Y)]
        for place, (first, second) in enumerate(((0, 1), (0, 0), (1, 1))):
            (K, near), (L, other) = sides[first], sides[second]
            for i in range(len(K)):
                for j in set(near[i]) & set(other[i]):
                    total[place] += K[i, j] * L[i, j]
    return total[0] / np.sqrt(total[1] * total[2])


def procrustes_oracle(X, Y):
    X, Y = (v - v.mean(0) for v in (X, Y))
    X, Y = (v / np.linalg.norm(v) for v in (X, Y))
    rotation, _ = orthogonal_procrustes(X, Y)
    return 1 - np.linalg.norm(X @ rotation - Y) ** 2 / 2


ORACLES = {
    "rsa": rsa_oracle,
    "rsa_gram": rsa_gram_oracle,
    "knn": knn_oracle,
    "cknna": cknna_oracle,
    "procrustes": procrustes_oracle,
    "cka": lambda X, Y: minibatch_cka(X, Y, BATCH),
}


@pytest.mark.parametrize("n", [64, 70, 68, 66], ids=["whole", "6 in the last", "4 in the last", "2 in the last"])
@pytest.mark.parametrize("measure_", ORACLES)
def test_every_similarity_is_its_oracle_s(measure_, n):
    comparison, X, Y = pair(n)
    for of, rows, columns in (("ab", X, Y), ("ba", Y, X), ("aa", X, X)):
        found = comparison.similarity(of, measure_)
        expected = [[ORACLES[measure_](x, y) for y in columns] for x in rows]
        np.testing.assert_allclose(found[measure_], expected, atol=2e-5, err_msg=of)
        assert found[measure_].dims == ("row", "column")
        assert {"low", "high"} <= set(found.data_vars)
        assert found.attrs["rows"] == {"a": "x", "b": "y"}[of[0]]


INVARIANT = {
    "a rotation": lambda x: x @ ortho_group.rvs(x.shape[1], random_state=0),
    "a scale": lambda x: 1e3 * x,
    "a shift": lambda x: x + 3,
}


@pytest.mark.parametrize("case", INVARIANT)
@pytest.mark.parametrize("measure_", ORACLES)
def test_similarities_do_not_see(measure_, case):
    X, Y = related(2, 64), related(2, 64, seed=1)
    plain, mapped = (
        compare(*(with_projection(profile_of(f), f) for f in (features, Y))).similarity("ab", measure_)[measure_]
        for features in (X, [INVARIANT[case](x) for x in X])
    )
    np.testing.assert_allclose(mapped, plain, atol=1e-4)


def test_a_block_is_wholly_like_itself_and_unlike_one_of_other_images():
    rng = np.random.default_rng(0)
    X, Y = ([rng.normal(size=(320, 8)) for _ in range(4)] for _ in range(2))
    comparison = compare(*(with_projection(profile_of(f), f) for f in (X, Y)))
    for name in ORACLES:
        itself = comparison.similarity("aa", name)[name].values
        np.testing.assert_allclose(np.diag(itself), 1, atol=1e-5)
        found = comparison.similarity("ab", name)
        chance = found["chance"].values if "chance" in found else 0
        assert abs(float((found[name].values - chance).mean())) < 0.02, name
    assert comparison.similarity("ab", "knn", k=3)["chance"].values == pytest.approx(3 / 15)
    chance = comparison.similarity("ab", "cknna")["chance"].values
    assert (chance > 0.1).all(), "what links neighbours is positive in any network"
    chance = comparison.similarity("ab", "procrustes")["chance"].values
    assert (chance > 0.05).all(), "the best rotation finds something in noise"


def test_cknna_of_all_neighbours_is_cka():
    comparison, _, _ = pair(64)
    found = comparison.similarity("ab", "cknna", k=15)
    np.testing.assert_allclose(found["cknna"], comparison.cka("ab")["cka"], atol=1e-6)
    np.testing.assert_allclose(found["chance"], 0, atol=1e-6)


@pytest.mark.parametrize("measure_", ["knn", "cknna"])
def test_chance_is_the_mean_over_shuffled_images(measure_):
    rng = np.random.default_rng(0)
    X, Y = related(1, 22)[0], related(1, 22, seed=1)[0]
    found = compare(profile_of([X]), profile_of([Y])).similarity("ab", measure_)["chance"].item()
    shuffled = []
    for _ in range(300):
        order = np.concatenate([rng.permutation(16), 16 + rng.permutation(6)])
        shuffled.append(ORACLES[measure_](X, Y[order]))
    assert found == pytest.approx(np.mean(shuffled), abs=4 * np.std(shuffled) / np.sqrt(300))


@pytest.mark.parametrize("measure_", GRAM_MEASURES)
def test_intervals_leave_out_a_batch_at_a_time(measure_):
    comparison, X, Y = pair(80)
    found = comparison.similarity("ab", measure_, level=0.9)
    without = []
    for s in batches(80):
        keep = np.delete(np.arange(80), np.arange(80)[s])
        without.append(ORACLES[measure_](X[0][keep], Y[0][keep]))
    from scipy.stats import t

    error = np.sqrt(4 / 5 * ((np.array(without) - np.mean(without)) ** 2).sum())
    half = t.ppf(0.95, 4) * error
    assert found["high"].values[0, 0] - found[measure_].values[0, 0] == pytest.approx(half, rel=1e-3)
    assert found.attrs["resampled"] == "batch"
    single = compare(profile_of(related(2, 16)), profile_of(related(2, 16))).similarity("ab", measure_)
    assert np.isnan(single["low"]).all()


def test_procrustes_intervals_are_those_of_leaving_images_out():
    comparison, X, Y = pair(200)
    found = comparison.similarity("ab", "procrustes").isel(row=1, column=0)
    without = np.array([procrustes_oracle(np.delete(X[1], i, 0), np.delete(Y[0], i, 0)) for i in range(200)])
    error = np.sqrt(199 / 200 * ((without - without.mean()) ** 2).sum())
    half = (found["high"] - found["low"]).item() / 2
    assert half == pytest.approx(1.972 * error, rel=0.05)
    assert found.attrs["resampled"] == "image"


def test_an_undefined_block_is_like_nothing():
    X = related(3, 64)
    X[1] = np.zeros_like(X[1])
    profile = with_projection(profile_of(X), X)
    for name in ORACLES:
        found = compare(profile, profile).similarity("aa", name)
        assert np.isnan(found[name].values[1]).all(), name
        assert np.isnan(found["low"].values[:, 1]).all(), name
        assert np.isfinite(found[name].values[0, 2]), name


def test_ranks_are_scipy_s_with_ties():
    values = np.random.default_rng(0).integers(0, 6, (3, 4, 20)).astype(float)
    np.testing.assert_array_equal(ranks(values), rankdata(values, axis=-1) - 1)


def test_an_image_is_no_neighbour_of_its_own():
    x = np.repeat(np.random.default_rng(0).normal(size=(4, 3)), 2, axis=0)
    found = neighbours(x @ x.T, 1)
    assert not np.diag(found).any()
    assert (found.sum(1) == 1).all()
    assert found[0, 1]


WRONG = {
    "measure": (lambda c: c.similarity("ab", "beauty"), "measure must be one of cka, rsa, .*procrustes, got 'beauty'"),
    "side": (lambda c: c.similarity("ac", "rsa"), "of must be 'aa', 'ab', 'ba' or 'bb', got 'ac'"),
    "too many neighbours": (lambda c: c.similarity("ab", "knn", k=16), "k must be 1 to 15, .* got k=16"),
    "no neighbours": (lambda c: c.similarity("ab", "cknna", k=0), "k must be 1 to 15, .* got k=0"),
    "view": (lambda c: c.similarity("ab", "rsa", "mean"), "x has no measurement 'size_mean'"),
    "method": (lambda c: c.matched_depth(method="eye"), "method must be 'path' or 'best', got 'eye'"),
    "structure of two": (lambda c: c.block_structure("ab"), "of must be 'aa' or 'bb', got 'ab'"),
    "one stage": (
        lambda c: c.block_structure("aa"),
        "x has no pairs of blocks within and across stages; give parts=4",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_compared_says_why(case):
    call, message = WRONG[case]
    with pytest.raises(StudyError, match=message):
        call(pair(64)[0])


def test_other_batches_and_projections_are_not_compared():
    X = related(2, 64)
    sizes = compare(profile_of(X, block=16), profile_of(X, block=32))
    with pytest.raises(StudyError, match="hold Gram blocks of different batches"):
        sizes.similarity("ab", "rsa")
    dims = compare(with_projection(profile_of(X), X), with_projection(profile_of(X), [x[:, :5] for x in X]))
    with pytest.raises(
        StudyError, match="hold projections to 12 and 5 numbers; measure both with the same projection:dim"
    ):
        dims.similarity("ab", "procrustes")
    from hf_vitstudy.similarities import from_grams

    with pytest.raises(StudyError, match="no measure 'cka' reads Gram blocks; there are: rsa"):
        from_grams(profile_of(X), profile_of(X), "cka", "flatten")


# ---------------------------------------------------------------------------------------------------------- caveats


def test_the_participation_ratio_is_unbiased_where_the_plug_in_is_not():
    """Variances 3, 1, 1 ...: tr(Σ)² / tr(Σ²) is known; 32 images of 200 channels would show at most 31."""
    variances = np.r_[3.0, np.ones(199)]
    truth = variances.sum() ** 2 / (variances**2).sum()
    x = np.random.default_rng(0).normal(size=(2048, 200)) * np.sqrt(variances)
    found = spectrum(profile_of([x, x[:, :1]], block=32))
    assert truth > 190
    assert found["participation_ratio"].values[0] == pytest.approx(truth, rel=0.03)
    assert found["participation_ratio_low"].values[0] < truth < found["participation_ratio_high"].values[0]
    assert found["participation_ratio"].values[1] == pytest.approx(1, abs=0.1)
    assert found["top1_energy"].values[1] == pytest.approx(1, abs=1e-3)


def test_the_participation_ratio_multiplies_traces_of_different_batches():
    """Two batches leave one product of traces, and Song's estimator gives tr(Σ²): no batch is multiplied with itself."""
    x = np.random.default_rng(0).normal(size=(64, 6)) * np.geomspace(1, 4, 6)
    halves = [x[s] - x[s].mean(0) for s in batches(64, 32)]
    traces = [np.trace(np.cov(half.T)) for half in halves]
    squares = np.mean([hsic(half @ half.T, half @ half.T) for half in halves])
    found = spectrum(profile_of([x], block=32))["participation_ratio"].item()
    assert found == pytest.approx(traces[0] * traces[1] / squares, rel=1e-4)


def test_intervals_of_the_participation_ratio_cover():
    variances = np.array([4.0, 2, 1, 1, 1, 1])
    truth = variances.sum() ** 2 / (variances**2).sum()
    hits = 0
    for seed in range(100):
        x = np.random.default_rng(seed).normal(size=(320, 6)) * np.sqrt(variances)
        found = spectrum(profile_of([x], block=32))
        hits += found["participation_ratio_low"].item() < truth < found["participation_ratio_high"].item()
    assert 88 <= hits <= 100


def test_energies_are_those_of_each_batch():
    x = np.random.default_rng(0).normal(size=(70, 9)) * np.geomspace(1, 9, 9)
    found = spectrum(profile_of([x], block=32))
    values = [np.linalg.svd(x[s] - x[s].mean(0), compute_uv=False) ** 2 for s in batches(70, 32)]
    whole = sum(v.sum() for v in values)
    assert found["top1_energy"].item() == pytest.approx(sum(v[0] for v in values) / whole, abs=1e-4)
    assert found["top5_energy"].item() == pytest.approx(sum(v[:5].sum() for v in values) / whole, abs=1e-4)
    assert found.attrs["images_per_batch"] == 32
    assert np.isnan(spectrum(profile_of([x[:32]], block=32))["top1_energy_low"]).all()


def test_the_image_that_decides_a_cell_is_found():
    X = related(3, 64)
    X[0], X[2] = X[0].copy(), X[2].copy()
    X[0][41] += 60
    X[2][41] += 60
    profile = profile_of(X)
    comparison = compare(profile, profile)
    found = comparison.influence("aa")
    assert found["image"].values[0, 2] == 41
    assert found["influence"].values[0, 2] < -0.05
    without = Kernels(profile, profile, "flatten").cross("a", "a").without_each_image()
    change = without - comparison.cka("aa")["cka"].values
    np.testing.assert_allclose(np.abs(found["influence"]), np.abs(change).max(0), atol=1e-6)
    beside = caveats(profile)
    assert beside["influence_image"].values[0] == 41
    assert beside["influence_block"].values[0] in ("block01", "block02")


def test_caveats_of_an_undefined_block_are_nan():
    found = caveats(profile_of([*related(2, 32), np.zeros((32, 4))]))
    for name in ("participation_ratio", "top1_energy", "influence"):
        assert np.isnan(found[name].values[2]), name
        assert np.isfinite(found[name].values[:2]).all(), name
    assert found["influence_image"].values[2] == -1
    assert found["influence_block"].values[2] == ""


# ---------------------------------------------------------------------------------------------------- block structure


def staged(drift: list[float], stages: list[int], n: int = 256, name: str = "x") -> Profile:
    """Blocks of the same stage share features; `drift` adds what each has of its own."""
    rng = np.random.default_rng(0)
    own = {stage: rng.normal(size=(n, 12)) for stage in stages}
    features = [own[s] + d * rng.normal(size=(n, 12)) for s, d in zip(stages, drift, strict=True)]
    profile = profile_of(features, name)
    return Profile(profile.data.assign_coords(stage=("block", np.array(stages, np.int32))), profile.provenance)


def test_block_structure_is_within_less_across():
    profile = staged([0.2] * 6, [1, 1, 1, 2, 2, 2])
    comparison = compare(profile, profile, draws=300)
    cells = comparison.cka("aa")["cka"].values
    within = [cells[i, j] for i, j in ((0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5))]
    across = cells[:3, 3:].ravel()
    found = comparison.block_structure("aa")
    assert found.value == pytest.approx(np.mean(within) - np.mean(across), abs=1e-6)
    assert found.value > 0.7
    assert found.low < found.value < found.high
    alike = comparison.block_structure("aa", same_distance=True)
    table = [(j - i, i // 3 == j // 3, cells[i, j]) for i in range(6) for j in range(i + 1, 6) if j - i < 3]
    design = np.array([[inside, apart == 1, apart == 2] for apart, inside, _ in table], float)
    expected = np.linalg.lstsq(design, np.array([value for *_, value in table]), rcond=None)[0][0]
    assert alike.value == pytest.approx(expected, abs=1e-6)
    uniform = staged([0.2] * 6, [1] * 6)
    halves = compare(uniform, uniform, draws=300).block_structure("aa", parts=2)
    assert abs(halves.value) < 0.03


def test_a_drift_with_depth_is_no_block_structure_at_the_same_distance():
    steps = [np.random.default_rng(0).normal(size=(256, 12))]
    for seed in range(1, 8):
        steps.append(0.8 * steps[-1] + 0.6 * np.random.default_rng(seed).normal(size=(256, 12)))
    profile = profile_of(steps)
    comparison = compare(profile, profile, draws=200)
    assert comparison.block_structure("aa", parts=2).low > 0.1
    found = comparison.block_structure("aa", parts=2, same_distance=True)
    assert found.low < 0 < found.high


def naive_path(cells: np.ndarray) -> float:
    """The largest sum over all monotone choices of a row per column, by trying every one."""
    import itertools

    rows, columns = cells.shape
    choices = itertools.combinations_with_replacement(range(rows), columns)
    return max(sum(cells[r, c] for c, r in enumerate(choice)) for choice in choices)


def test_the_path_is_the_best_of_all_monotone_ones():
    cells = np.random.default_rng(0).normal(size=(20, 5, 4))
    found = monotone_matches(cells)
    assert found.shape == (20, 4)
    assert (np.diff(found, axis=1) >= 0).all()
    for matrix, rows in zip(cells, found, strict=True):
        assert matrix[rows, np.arange(4)].sum() == pytest.approx(naive_path(matrix))
    assert (found != cells.argmax(1)).any(), "the best of each column goes back somewhere"


def test_undefined_cells_are_on_no_path():
    cells = np.array([[0.9, np.nan, 0.1], [np.nan, np.nan, np.nan], [0.2, np.nan, 0.8]])
    assert monotone_matches(cells).tolist() == [0, -1, 2]


def test_the_depth_matched_is_where_the_features_are_shared():
    """b's blocks are a's first half, spread out: half of b is a quarter of a."""
    rng = np.random.default_rng(0)
    steps = [rng.normal(size=(256, 12))]
    for _ in range(7):
        steps.append(steps[-1] + 0.5 * rng.normal(size=(256, 12)))
    a, b = profile_of(steps, "a"), profile_of(steps[:4], "b")
    comparison = compare(a, b, draws=200)
    found = comparison.matches("ab")
    assert found["path"].values.tolist() == ["block00", "block01", "block02", "block03"]
    assert found["best"].values.tolist() == found["path"].values.tolist()
    np.testing.assert_allclose(found["path_depth"], (np.arange(4) + 1) / 8)
    for method in ("path", "best"):
        half = comparison.matched_depth(0.5, method=method)
        assert half.value == pytest.approx(0.25)
        assert half.low <= 0.25 <= half.high
    assert comparison.matched_depth(0.625).value == pytest.approx(0.3125), "between blocks"
    constant = profile_of([np.zeros((256, 3)), *steps[1:3]], "b")
    assert compare(a, constant, draws=20).matches("ab")["column"].values.tolist() == ["block01", "block02"]
    nothing = profile_of([np.zeros((256, 3))], "b")
    with pytest.raises(StudyError, match="no block has a defined CKA"):
        compare(a, nothing, draws=20).matches("ab")


# --------------------------------------------------------------------------------------------------- random projection


def visit_all(analysis: Projection, features: np.ndarray, batch: int = 16, first: int = 0) -> dict[str, xr.Variable]:
    block = Block("x", "mlp", "x", "output", 1.0, 1, features.shape[-1], (2, 2), 1)
    analysis.start(Checkpoint(torch.nn.Identity(), None, [block], [], "fake"), len(features), batch)
    parts = []
    for start in range(0, len(features), batch):
        values = torch.from_numpy(features[start : start + batch]).float()
        analysis.visit(block, State(values, (2, 2), 1))
        unknown = torch.full((len(values),), -1)
        parts.append(analysis.update(Batch(torch.zeros(len(values), 3, 1, 1), None, unknown, unknown, first + start)))
    return analysis.result(parts)


POOLED = {
    "mean": lambda x: x[:, 1:].mean(1),
    "cls": lambda x: x[:, 0],
    "flatten": lambda x: x.reshape(len(x), -1),
}


@pytest.mark.parametrize("pool", POOLED)
@pytest.mark.parametrize("width", [6, 3000], ids=["one chunk", "two chunks when flattened"])
def test_a_projection_is_a_product_with_the_directions(pool, width):
    x = np.random.default_rng(0).normal(size=(40, 5, width)) + 2
    found = visit_all(Projection(dim=8, pool=pool), x)
    features = POOLED[pool](x)
    count = -(-features.shape[1] // CHUNK)
    assert count == (2 if pool == "flatten" and width == 3000 else 1)
    matrix = torch.cat([directions(features.shape[1], 8, 0, chunk) for chunk in range(count)]).numpy()
    expected = (features - features.mean(0)) @ matrix
    scale = found["projection_scale"].values[0]
    assert scale == pytest.approx(np.abs(expected).max(), rel=1e-3)
    np.testing.assert_allclose(found["projection"].values[:, 0] * scale, expected, atol=1e-3 * scale)
    assert found["projection"].dims == ("image", "block", "projection_axis")
    assert found["projection"].dtype == np.float16


def test_directions_are_gaussian_and_depend_on_seed_and_width_alone():
    found = directions(5000, 64, 0, 0)
    assert torch.equal(found, directions(5000, 64, 0, 0))
    assert float((found**2).sum(1).mean()) == pytest.approx(1, abs=0.02)
    for other in (directions(5000, 64, 1, 0), directions(5001, 64, 0, 0)[:5000]):
        assert abs(float((found * other).sum()) / 5000) < 0.02
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    directions(10, 4, 0, 0)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_constant_block_has_no_coordinates_and_nan_is_named():
    constant = np.tile(np.random.default_rng(0).normal(size=(1, 5, 6)) * 100, (40, 1, 1))
    assert not visit_all(Projection(), constant)["projection"].values.any()
    x = np.random.default_rng(0).normal(size=(40, 5, 6))
    x[21, 2, 3] = np.nan
    with pytest.raises(StudyError, match="x gives NaN or infinite activations for image 21; measure in float32"):
        visit_all(Projection(), x)


@pytest.mark.parametrize(
    ("options", "message"), [({"pool": "max"}, "pool must be one of"), ({"dim": 0}, "dim must be")]
)
def test_a_projection_refuses(options, message):
    with pytest.raises(StudyError, match=message):
        Projection(**options)


def test_the_class_token_s_projection_needs_one():
    block = Block("x", "conv", "x", "output", 1.0, 1, 4, (2, 2), 0)
    with pytest.raises(NotApplicableError, match="no class token"):
        Projection(pool="cls").start(Checkpoint(torch.nn.Identity(), None, [block], [], "fake"), 10, 4)


# ----------------------------------------------------------------------------------------------------- untrained twin


@pytest.mark.parametrize("make", [small_vit, small_resnet])
def test_a_twin_has_the_network_s_own_initial_weights(make, tmp_path):
    trained = make()
    folder = save_checkpoint(trained, tmp_path / "mine")
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    twin = load_checkpoint(folder, device="cpu", untrained=7)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(7)
    expected = type(trained)(trained.config).state_dict()
    for name, tensor in twin.network.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert twin.name == "mine-untrained"
    assert twin.provenance["untrained_seed"] == 7
    assert "untrained_seed" not in load_checkpoint(folder, device="cpu").provenance
    other = load_checkpoint(folder, device="cpu", untrained=8)
    assert other.provenance["weights_sha256"] != twin.provenance["weights_sha256"]
    assert not twin.network.training


def test_a_twin_needs_no_weights(tmp_path):
    small_vit().config.save_pretrained(tmp_path)
    small_processor().save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace("{", '{"architectures": ["ViTForImageClassification"],', 1))
    assert len(load_checkpoint(tmp_path, device="cpu", untrained=0).blocks) == 7
    with pytest.raises(StudyError, match=r"has no \.safetensors file"):
        load_checkpoint(tmp_path, device="cpu")


def test_the_excess_over_untrained_is_paired_by_image():
    X, Y, U, V = (related(2, 64, seed=seed) for seed in range(4))
    trained = compare(profile_of(X), profile_of(Y))
    twins = compare(profile_of(U), profile_of(V))
    found = excess_over_untrained(trained, twins)
    np.testing.assert_allclose(found["excess"], found["cka"] - found["untrained"])
    np.testing.assert_allclose(found["untrained"], twins.cka()["cka"])
    assert (found["low"] < found["excess"]).all()
    assert (found["excess"] < found["high"]).all()
    itself = excess_over_untrained(trained, trained)
    assert not itself[["excess", "low", "high"]].to_array().any()


def test_no_twins():
    trained = compare(profile_of(related(2, 64)), profile_of(related(2, 64)))
    cases = {
        "different images": profile_of(related(2, 48)),
        "other batches": profile_of(related(2, 64), block=32),
        "has other blocks than x": profile_of(related(3, 64)),
    }
    for message, twin in cases.items():
        with pytest.raises(StudyError, match=message):
            excess_over_untrained(trained, compare(twin, twin))


# ------------------------------------------------------------------------------------------------------- command line


@pytest.fixture(scope="module")
def measured(vit_folder, resnet_folder, image_folder, tmp_path_factory):
    """Both small networks and the ViT's twin, measured with projections."""
    folder = tmp_path_factory.mktemp("profiles")
    options = {"n": 32, "batch_size": 8, "analyses": ["cka", "projection"], "workers": 0, "progress": False}
    for name, checkpoint, untrained in (
        ("vit", vit_folder, None),
        ("resnet", resnet_folder, None),
        ("twin", vit_folder, 3),
    ):
        measure(checkpoint, image_folder, out=folder / name, device="cpu", untrained=untrained, **options)
    return folder


def test_a_loaded_checkpoint_has_no_twin_left(vit_folder, image_folder):
    with pytest.raises(StudyError, match="untrained is of a checkpoint still to be loaded"):
        measure(load_checkpoint(vit_folder, device="cpu"), image_folder, untrained=0)


@pytest.mark.parametrize(
    "words",
    [("--measure", name) for name in ORACLES] + [("--deconfounded",)],
    ids=[*ORACLES, "deconfounded"],
)
def test_every_similarity_is_a_command(words, measured, tmp_path):
    from typer.testing import CliRunner

    out = tmp_path / "cells.csv"
    typed = CliRunner().invoke(
        app,
        ["compare", str(measured / "vit"), str(measured / "resnet"), *words, "--permutations", "9", "--out", str(out)],
    )
    assert typed.exit_code == 0, typed.output
    assert "most similar block of small-resnet for each block of small-vit" in " ".join(typed.output.split())
    name = words[1] if len(words) == 2 else "cka"
    assert name in out.read_text().splitlines()[0].split(",")
    assert len(out.read_text().splitlines()) == 1 + 3 * 49


def test_the_command_refuses_to_deconfound_ranks(measured):
    from typer.testing import CliRunner

    folder = str(measured / "vit")
    typed = CliRunner().invoke(app, ["compare", folder, folder, "--measure", "rsa", "--deconfounded"])
    assert isinstance(typed.exception, StudyError)
    assert "--deconfounded is of CKA, got --measure rsa" in str(typed.exception)


def test_the_twin_s_profile_says_what_it_is(measured, vit_folder, image_folder, tmp_path):
    from typer.testing import CliRunner

    from hf_vitstudy.profile import load_profile

    twin = load_profile(measured / "twin")
    assert twin.name == "small-vit-untrained"
    assert twin.provenance["checkpoint"]["untrained_seed"] == 3
    words = ["measure", vit_folder, "--images", image_folder, "--n", 32, "--batch-size", 8, "--workers", 0]
    words += ["--analyses", "cka,projection", "--device", "cpu", "--untrained", 3, "--out", tmp_path / "twin"]
    typed = CliRunner().invoke(app, [str(word) for word in words])
    assert typed.exit_code == 0, typed.output
    assert load_profile(tmp_path / "twin").data.identical(twin.data)

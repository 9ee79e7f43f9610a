"""Every measurement against an independent oracle: closed forms, slow numpy, or transformers itself."""

import numpy as np
import pytest
import torch
from conftest import small_resnet, small_vit, smooth_images
from oracles import minibatch_cka, u_centre
from torch.utils._python_dispatch import TorchDispatchMode

from hf_vitstudy import StudyError, compare
from hf_vitstudy.analyses import ANALYSES, Analysis, Batch, NotApplicableError, make_analysis, per_block
from hf_vitstudy.analyses import attention_distance as distance
from hf_vitstudy.analyses import cka as cka_
from hf_vitstudy.analyses import fourier as fourier_
from hf_vitstudy.analyses.variance import mean_and_squares_at_once, spatial_variance
from hf_vitstudy.blocks import Block
from hf_vitstudy.checkpoints import Checkpoint
from hf_vitstudy.profile import Profile
from hf_vitstudy.states import State, as_state, pieces


def layouts(maps: torch.Tensor) -> dict[str, State]:
    """The same spatial activations (batch, channel, height, width) in the three layouts networks use."""
    tokens = maps.flatten(2).transpose(1, 2)
    with_class = torch.cat([torch.full((len(maps), 1, maps.shape[1]), 9.0), tokens], dim=1)
    return {
        "contiguous": as_state(maps.contiguous(), 1.0),
        "channels_last": as_state(maps.contiguous(memory_format=torch.channels_last), 1.0),
        "tokens": State(with_class, tuple(maps.shape[2:]), 1),
    }


# -------------------------------------------------------------------------------------------------------------- CKA


def fake_checkpoint(names: list[str], width: int = 1) -> Checkpoint:
    blocks = [Block(name, "mlp", name, "output", 1.0, 1, width, (1, 1), 0) for name in names]
    return Checkpoint(torch.nn.Identity(), None, blocks, [], "fake")


def batch_of(n: int, first: int = 0) -> Batch:
    """A batch of which only the number of images is known."""
    unknown = torch.full((n,), -1)
    return Batch(torch.zeros(n, 3, 1, 1), None, unknown, unknown, first)


def measured(features: dict[str, np.ndarray], batch: int = 32, **options) -> Profile:
    """Runs the CKA analysis over features (n, d) as if they were states; a profile with its arrays."""
    import xarray as xr

    analysis = cka_.CKA(**options)
    checkpoint = fake_checkpoint(list(features), next(iter(features.values())).shape[1])
    n = len(next(iter(features.values())))
    analysis.start(checkpoint, n, batch)
    parts = []
    for start in range(0, n, batch):
        for block in checkpoint.blocks:
            values = torch.from_numpy(features[block.name][start : start + batch]).float()
            analysis.visit(block, State(values[:, None, :], (1, 1), 0))
        parts.append(analysis.update(batch_of(len(values), start)))
    coordinates = {
        "block": list(features),
        "depth": ("block", np.linspace(0.1, 1, len(features))),
        "image_digest": ("image", np.arange(n)),
    }
    provenance = {"checkpoint": {"name": "fake"}, "images": {"sha256": "same"}}
    return Profile(xr.Dataset(analysis.result(parts), coordinates), provenance)


def correlated(n: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n, 6))
    return tuple(shared @ rng.normal(size=(6, d)) + 2 * rng.normal(size=(n, d)) for _ in range(2))


def cell(profile: Profile, view: str = "flatten") -> float:
    """CKA of the profile's first block with its second."""
    return float(compare(profile, profile).cka("aa", view)["cka"].values[0, 1])


@pytest.mark.parametrize(("n", "d"), [(96, 40), (100, 40), (99, 40), (64, 20_000)])
def test_minibatch_cka_is_the_estimator_of_nguyen(n, d):
    X, Y = (v.astype(np.float32) for v in correlated(n, d))
    expected = minibatch_cka(X, Y, 32)
    assert cell(measured({"x": X, "y": Y}, storage="float32")) == pytest.approx(expected, abs=1e-5)
    assert cell(measured({"x": X, "y": Y})) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("deviations", [3, 30, 100, 1000])
def test_a_common_mean_costs_no_digits(deviations):
    """Where every streaming tool returns NaN, 0 or 1: features whose mean is many standard deviations from zero."""
    X, Y = correlated(64, 768)
    X, Y = ((v + deviations * v.std()).astype(np.float32) for v in (X, Y))
    assert X.mean() / X.std() == pytest.approx(deviations, rel=0.05)
    exact = (
        v.astype(np.float64) - v.mean(0, dtype=np.float64) for v in (X, Y)
    )  # CKA ignores the mean, the oracle cannot
    assert cell(measured({"x": X, "y": Y})) == pytest.approx(minibatch_cka(*exact, 32), abs=1e-4)


@pytest.mark.parametrize("pool", ["flatten", "mean"])
def test_exact_cka_is_one_debiased_estimate_of_all_images(pool):
    X, Y = (v.astype(np.float32) for v in correlated(70, 50))
    profile = measured({"x": X, "y": Y}, exact=True, storage="float32", pool=pool)
    assert profile.batch_sizes(f"{pool}_exact").tolist() == [70]
    assert cell(profile, f"{pool}_exact") == pytest.approx(minibatch_cka(X, Y, 70), abs=1e-6)


def test_gram_blocks_do_not_depend_on_the_forward_batch():
    X, Y = (v.astype(np.float32) for v in correlated(112, 30))
    one, two = (measured({"x": X, "y": Y}, batch=batch, block=16) for batch in (16, 48))
    assert np.array_equal(one["gram_flatten"].values, two["gram_flatten"].values)
    assert one.batch_sizes().tolist() == [16] * 7


def test_the_rbf_kernel_is_kornblith_s():
    from scipy.spatial.distance import pdist, squareform

    X, Y = (v.astype(np.float32) for v in correlated(32, 10))
    K, L = (
        np.exp(-squareform(d) / (2 * np.median(d))) for d in (pdist(v.astype(float), "sqeuclidean") for v in (X, Y))
    )
    K, L = u_centre(K), u_centre(L)
    expected = (K * L).sum() / np.sqrt((K * K).sum() * (L * L).sum())
    assert cell(measured({"x": X, "y": Y}, kernel="rbf"), "flatten_rbf") == pytest.approx(expected, abs=1e-4)


def test_a_block_equal_for_all_images_is_undefined_not_a_number():
    X, _ = correlated(64, 20)
    constant = np.tile(np.random.default_rng(0).normal(size=(1, 20)), (64, 1))
    profile = measured({"x": X, "same": constant})
    found = compare(profile, profile).cka("aa")["cka"].values
    assert found[0, 0] == pytest.approx(1)
    assert np.isnan(found[1]).all()
    assert np.isnan(found[:, 1]).all()


def test_nan_activations_name_the_block():
    X, Y = correlated(64, 20)
    Y[40, 3] = np.nan
    with pytest.raises(StudyError, match="y gives NaN or infinite activations near image 32"):
        measured({"x": X, "y": Y})


def test_a_state_overwritten_afterwards_changes_nothing():
    X, _ = correlated(32, 20)
    analysis = cka_.CKA()
    analysis.start(fake_checkpoint(["x"]), 32, 32)
    values = torch.from_numpy(X).float()
    analysis.visit(fake_checkpoint(["x"]).blocks[0], State(values[:, None, :], (1, 1), 0))
    values.zero_()  # as an in-place addition in the network would
    parts = [analysis.update(batch_of(32))]
    assert np.abs(analysis.result(parts)["gram_flatten"].values).max() == 1


@pytest.mark.parametrize("pool", cka_.POOLS)
def test_pools_take_what_they_say(pool):
    maps = torch.rand(3, 5, 4, 4)
    state = layouts(maps)["tokens"]
    tokens = maps.flatten(2).transpose(1, 2)
    expected = {
        "flatten": torch.cat([torch.full((3, 5), 9.0), tokens.flatten(1)], 1),
        "tokens": tokens.flatten(1),
        "mean": maps.mean((2, 3)),
        "cls": torch.full((3, 5), 9.0),
    }
    torch.testing.assert_close(cka_.pooled(state, pool), expected[pool])


def test_the_layout_in_memory_does_not_change_a_gram_matrix():
    found = [cka_.gram(cka_.pooled(state, "tokens")) for state in layouts(torch.rand(6, 5, 4, 4)).values()]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [7, 20_000])
def test_gram_matrices_are_inner_products(width, dtype):
    features = torch.randn(8, width, generator=torch.Generator().manual_seed(0)).to(dtype)
    exact = features.double()
    torch.testing.assert_close(cka_.gram(features), exact @ exact.T, atol=1e-5 * width, rtol=1e-5)
    centred = exact - exact.mean(0)
    torch.testing.assert_close(cka_.centred_gram(features), centred @ centred.T, atol=1e-5 * width, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [5, 64, 20_000, 20_011, 197 * 768])
def test_a_gpu_s_way_to_centre_gives_the_same_gram_matrices(width, dtype):
    """20,011 is a prime: no chunks."""
    features = (torch.randn(3, 8, width, generator=torch.Generator().manual_seed(0)) + 30).to(dtype)
    features[1] = features[1, :1]
    centred = features.double() - features.double().mean(1, keepdim=True)
    found = cka_.centred_grams_at_once(features)
    torch.testing.assert_close(found[[0, 2]], (centred @ centred.mT)[[0, 2]], atol=1e-5 * width, rtol=1e-5)
    assert not found[1].any(), "the same for every image"


class Kernels(TorchDispatchMode):
    """Counts the operations that a GPU would launch a kernel for, and those that only look at a tensor in another way."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **kwargs or {})


def test_a_gpu_gets_few_kernels_however_wide_a_block_is():
    """Launching one takes longer than a small one runs."""
    counts = []
    for width in (20_000, 80_000):
        with Kernels() as kernels:
            cka_.centred_grams_at_once(torch.zeros(8, 4, width, dtype=torch.bfloat16))
        counts.append(kernels.count)
    assert max(counts) <= 25, counts


def test_u_centring_is_the_definition_entry_by_entry():
    K = np.random.default_rng(0).normal(size=(2, 9, 9))
    K = K + K.swapaxes(1, 2)
    np.testing.assert_allclose(cka_.u_centred(K), np.stack([u_centre(matrix) for matrix in K]), atol=1e-12)


BAD_OPTIONS = {
    "cka:pool=max": "cka:pool must be one of flatten, mean, cls, tokens, got 'max'",
    "cka:kernel=poly": "cka:kernel must be one of linear, rbf",
    "cka:storage=int8": "cka:storage must be one of float16, float32",
    "cka:colour=red": "cka has no option 'colour'; it has: pool, kernel, exact, block, storage",
    "cka:exact=perhaps": "cka:exact must be true or false",
    "cka:block=many": "cka:block must be a whole number",
    "variance:pool=mean": "variance has no option 'pool'; it has: none",
    "beauty": "no analysis is called 'beauty'; there are: cka, fourier",
}


@pytest.mark.parametrize("text", BAD_OPTIONS)
def test_unknown_analyses_and_options_list_the_known_ones(text):
    with pytest.raises(StudyError, match=BAD_OPTIONS[text]):
        make_analysis(text)


def test_gram_blocks_must_fit_the_batches():
    for block, batch in ((3, 32), (32, 48)):
        with pytest.raises(StudyError, match="do not fit batches of"):
            cka_.CKA(block=block).start(fake_checkpoint(["x"]), 100, batch)


def test_the_class_token_view_needs_class_tokens():
    with pytest.raises(NotApplicableError, match="no class token"):
        cka_.CKA(pool="cls").start(fake_checkpoint(["x"]), 100, 32)


def test_exact_cka_refuses_more_disk_than_there_is(monkeypatch):
    monkeypatch.setattr(cka_.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 100}))
    with pytest.raises(StudyError, match=r"needs 0.0 GB of temporary disk"):
        cka_.CKA(exact=True).start(fake_checkpoint(["x"], width=50), 100, 32)


def test_every_analysis_keeps_the_protocol():
    assert len(ANALYSES) >= 5
    for name in ANALYSES:
        analysis = make_analysis(name)
        assert isinstance(analysis, Analysis)
        assert analysis.name == name


# ---------------------------------------------------------------------------------------------------------- Fourier


def slow_bands(maps: np.ndarray) -> np.ndarray:
    """Δ log amplitude in radial bands straight from the definition: full FFT, loops over all frequencies."""
    n, channels, height, width = maps.shape
    found = np.full((n, fourier_.BANDS), np.nan)
    for image in range(n):
        alive = [c for c in range(channels) if np.abs(maps[image, c]).max() > 0]
        logs = np.mean([np.log(np.abs(np.fft.fft2(maps[image, c].astype(np.float64))) + 1e-6) for c in alive], axis=0)
        bands: dict[int, list[float]] = {}
        for u in range(height):
            for v in range(width):
                fy, fx = 2 * min(u, height - u) / height, 2 * min(v, width - v) / width
                radius = round(np.hypot(fy, fx), 9)
                if 0 < radius <= 1:
                    bands.setdefault(int(np.ceil(round(radius * fourier_.BANDS, 9))) - 1, []).append(
                        logs[u, v] - logs[0, 0]
                    )
        for band, values in bands.items():
            found[image, band] = np.mean(values)
    return found


@pytest.mark.parametrize("size", [(14, 14), (7, 7), (8, 8), (4, 4), (2, 2), (6, 10)])
def test_bands_are_the_definition(size):
    maps = torch.randn(2, 5, *size, generator=torch.Generator().manual_seed(0)) + 0.5
    maps[1, 2] = 0  # a dead channel of one image
    expected = slow_bands(maps.numpy())
    for name, state in layouts(maps).items():
        found = fourier_.delta_log_amplitude(state).numpy()
        np.testing.assert_allclose(found, expected, atol=2e-5, err_msg=name)
    assert np.isfinite(expected).any()


@pytest.mark.parametrize("size", [(14, 14), (7, 7), (8, 6), (5, 8), (2, 2), (1, 3), (56, 56)])
def test_the_power_spectrum_is_that_of_the_fft(size):
    height, width = size
    maps = torch.randn(3, height, width, 5, generator=torch.Generator().manual_seed(0))
    expected = np.abs(np.fft.fft2(maps.numpy().astype(np.float64), axes=(1, 2))) ** 2
    found = fourier_.power_spectrum(maps).numpy()
    assert found.shape == (3, 2, height // 2 + 1, width // 2 + 1, 5)
    for u in range(height // 2 + 1):
        for sign in (0, 1):
            row = expected[:, (u, -u)[sign], : width // 2 + 1]
            np.testing.assert_allclose(found[:, sign, u], row, rtol=1e-4, atol=1e-6 * expected.max())


def test_a_piece_at_a_time_changes_nothing(monkeypatch):
    maps = torch.randn(7, 6, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.5
    whole = {name: (fourier_.delta_log_amplitude(s), spatial_variance(s)) for name, s in layouts(maps).items()}
    monkeypatch.setattr("hf_vitstudy.states.CACHED", 1000)
    for name, state in layouts(maps).items():
        assert len(list(pieces(state))) == 4
        torch.testing.assert_close(fourier_.delta_log_amplitude(state), whole[name][0], equal_nan=True)
        torch.testing.assert_close(spatial_variance(state), whole[name][1])


def test_a_single_wave_stands_in_its_band():
    x = torch.arange(20) * 2 * np.pi * 3 / 20  # 3 periods in 20 samples: 0.3π
    noise = 1e-3 * torch.randn(1, 1, 20, 20, generator=torch.Generator().manual_seed(0))  # above float32's rounding
    maps = 1 + torch.cos(x) + noise
    found = fourier_.delta_log_amplitude(as_state(maps, 1.0))[0]
    assert int(found.argmax()) == 1
    assert fourier_.band_centres()[1] == pytest.approx(0.3)


def test_paper_mode_is_the_published_notebook():
    """The notebook's steps: log|fft2|, shift, mean over images and channels, diagonal from the centre, minus its first."""
    for side in (14, 7, 8):
        maps = torch.randn(6, 5, side, side, generator=torch.Generator().manual_seed(0)) + 0.5
        logarithm = np.log(np.abs(np.fft.fft2(maps.numpy().astype(np.float64))) + 1e-6)
        shifted = np.roll(logarithm, (side // 2, side // 2), axis=(2, 3)).mean((0, 1))
        expected = np.diagonal(shifted)[side // 2 :]
        for state in layouts(maps).values():
            found = fourier_.paper_delta_log_amplitude(state).mean(0).numpy()
            np.testing.assert_allclose(found, expected - expected[0], atol=1e-5)


def test_white_noise_is_flat_and_smoothing_lowers_high_frequencies():
    noise = torch.randn(64, 8, 14, 14, generator=torch.Generator().manual_seed(0))
    flat = fourier_.delta_log_amplitude(as_state(noise, 1.0)).mean(0)
    assert float(flat.max() - flat.min()) < 0.1
    smooth = torch.nn.functional.avg_pool2d(noise, 3, 1, 1)
    lower = fourier_.delta_log_amplitude(as_state(smooth, 1.0)).mean(0)
    assert (lower[1:].diff() < 0).all()
    assert float(lower[-1]) < -1


# --------------------------------------------------------------------------------------------------------- variance


def test_variance_is_numpy_s():
    maps = torch.randn(3, 5, 6, 6, generator=torch.Generator().manual_seed(0)) * 2 + 1
    values = maps.numpy().astype(np.float64)
    raw = values.var(axis=(2, 3), ddof=1).mean(1)
    for state in layouts(maps).values():
        found = spatial_variance(state)
        np.testing.assert_allclose(found["variance"], raw, rtol=1e-5)
        square = (values**2).mean((2, 3))
        np.testing.assert_allclose(found["relative_variance"], raw / square.mean(1), rtol=1e-5)
        np.testing.assert_allclose(found["top_channel_share"], square.max(1) / square.sum(1), rtol=1e-5)


def test_a_gpu_s_way_to_variance_gives_the_same():
    tokens = torch.randn(3, 36, 5, generator=torch.Generator().manual_seed(0)) + 100
    mean, squares = mean_and_squares_at_once(tokens)
    values = tokens.double()
    torch.testing.assert_close(mean.double(), values.mean(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(
        squares.double(), (values - values.mean(1, keepdim=True)).square().sum(1), rtol=1e-4, atol=0
    )


def test_relative_variance_ignores_scale_and_raw_variance_does_not():
    maps = torch.rand(2, 3, 4, 4)
    once, twice = (spatial_variance(as_state(scale * maps, 1.0)) for scale in (1, 2))
    torch.testing.assert_close(once["relative_variance"], twice["relative_variance"])
    torch.testing.assert_close(4 * once["variance"], twice["variance"])


def test_variance_of_one_place_or_of_nothing_is_undefined():
    point = spatial_variance(as_state(torch.tensor([1.0, 2.0, 1.0]).view(1, 3, 1, 1), 1.0))
    assert point["variance"].isnan().all()
    assert point["relative_variance"].isnan().all()
    assert point["top_channel_share"].item() == pytest.approx(4 / 6)
    dark = spatial_variance(as_state(torch.zeros(2, 3, 4, 4), 1.0))
    assert (dark["variance"] == 0).all()
    assert dark["relative_variance"].isnan().all()
    assert dark["top_channel_share"].isnan().all()


# ----------------------------------------------------------------------------------------------- attention distance


def slow_distance(
    weights: np.ndarray, grid: tuple[int, int], pixels: float, prefix: int, renormalise: bool
) -> np.ndarray:
    """Weighted distance by loops over every query and key."""
    images, heads, tokens, _ = weights.shape
    found = np.zeros((images, heads))
    for b in range(images):
        for h in range(heads):
            per_query = []
            for q in range(prefix, tokens):
                total = mass = 0.0
                for k in range(prefix, tokens):
                    (qy, qx), (ky, kx) = (divmod(token - prefix, grid[1]) for token in (q, k))
                    total += weights[b, h, q, k] * pixels * np.hypot(qy - ky, qx - kx)
                    mass += weights[b, h, q, k]
                per_query.append(total / mass if renormalise else total)
            found[b, h] = np.mean(per_query)
    return found


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_attention_distance_is_the_definition(prefix):
    grid = (3, 4)
    tokens = 12 + prefix
    weights = torch.rand(2, 3, tokens, tokens, generator=torch.Generator().manual_seed(0)).pow(3)
    weights /= weights.sum(-1, keepdim=True)
    found = distance.head_distances(weights, distance.patch_distances(grid, (48, 64)), prefix)
    for name, renormalise in (("attention_distance", True), ("attention_distance_paper", False)):
        expected = slow_distance(weights.numpy(), grid, 16.0, prefix, renormalise)
        np.testing.assert_allclose(found[name], expected, rtol=1e-5)
    np.testing.assert_allclose(found["prefix_attention"], weights[:, :, prefix:, :prefix].sum(-1).mean(-1), atol=1e-6)


def test_attention_to_oneself_has_no_distance_and_uniform_attention_the_mean():
    lengths = distance.patch_distances((4, 4), (32, 32))
    nowhere = distance.head_distances(torch.eye(16)[None, None], lengths, 0)
    everywhere = distance.head_distances(torch.full((1, 1, 16, 16), 1 / 16), lengths, 0)
    assert float(nowhere["attention_distance"]) == 0
    assert float(everywhere["attention_distance"]) == pytest.approx(float(lengths.mean()))
    assert float(lengths.max()) == pytest.approx(np.hypot(24, 24))


def test_attention_distance_needs_attention_that_is_returned(tmp_path):
    from conftest import save_checkpoint

    from hf_vitstudy import load_checkpoint

    resnet = load_checkpoint(save_checkpoint(small_resnet(), tmp_path / "r"))
    with pytest.raises(NotApplicableError, match="no attention in this network"):
        distance.AttentionDistance().start(resnet, 8, 8)
    vit = load_checkpoint(save_checkpoint(small_vit(), tmp_path / "v"), attn="sdpa")
    with pytest.raises(
        NotApplicableError, match=r"attention weights are not returned \(attention implementation 'sdpa'\)"
    ):
        distance.AttentionDistance().start(vit, 8, 8)


# ------------------------------------------------------------------------------------------------ an outsider's own


def test_a_new_measurement_is_one_decorated_function(vit_folder, image_folder):
    from hf_vitstudy import measure

    @per_block("energy", unit="activation²", source="test")
    def energy(state: State) -> torch.Tensor:
        """Mean square of the spatial activations."""
        return state.tokens.square().mean((1, 2))

    profile = measure(vit_folder, image_folder, n=12, batch_size=4, analyses=[energy()], workers=0, progress=False)
    assert profile["energy"].dims == ("image", "block")
    assert profile["energy"].shape == (12, 7)
    assert profile["energy"].attrs["unit"] == "activation²"
    assert float(profile["energy"].min()) > 0
    assert len(smooth_images(1)) == 1

"""Hessian products and spectra against dense matrices, and the analysis that uses them."""

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import save_checkpoint, small_resnet, small_vit
from scipy.sparse.linalg import LinearOperator, eigsh
from test_alternet import small_alternet

from hf_vitstudy import StudyError, load_checkpoint, measure
from hf_vitstudy.analyses import NotApplicableError, make_analysis
from hf_vitstudy.curvature import Hessian, batch_norm, lanczos, random_direction, twice_differentiable


TINY_VIT = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY_RESNET = {"embedding_size": 4, "hidden_sizes": [4, 4], "depths": [1, 1]}
NETWORKS = {
    "vit": lambda: small_vit(**TINY_VIT, attn_implementation="eager"),
    "vit, fused attention": lambda: small_vit(**TINY_VIT, attn_implementation="sdpa"),
    "resnet": lambda: small_resnet(**TINY_RESNET),
    "alternet": lambda: small_alternet(),
}
every_network = pytest.mark.parametrize("kind", NETWORKS)


def loss_of(network, dtype=torch.float64):
    network.to(dtype)
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(6, 3, 32, 32, generator=generator, dtype=torch.float64).to(dtype)
    labels = torch.arange(6) % network.config.num_labels
    with twice_differentiable():
        return torch.nn.functional.cross_entropy(network(pixels).logits, labels)


def by_differences(network, parameters, vector: torch.Tensor, step: float = 1e-6) -> torch.Tensor:
    """H v as a central difference of first derivatives in float64: no second derivative of torch is in it."""
    flat = torch.nn.utils.parameters_to_vector(parameters).detach().clone()

    def gradient(at: torch.Tensor) -> torch.Tensor:
        torch.nn.utils.vector_to_parameters(at, parameters)
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss_of(network), parameters)])

    found = (gradient(flat + step * vector) - gradient(flat - step * vector)) / (2 * step)
    torch.nn.utils.vector_to_parameters(flat, parameters)
    return found


# --------------------------------------------------------------------------------------------------------- products


EXACT = {"vit": "vit, fused attention"}  # transformers' eager softmax is float32 whatever the network's type


@every_network
def test_products_are_differences_of_gradients(kind):
    """Along random directions through all parameters, and along single ones of every kind of layer."""
    network, exact = NETWORKS[kind]().double(), NETWORKS[EXACT.get(kind, kind)]().double()
    parameters = list(network.parameters())
    hessian = Hessian(loss_of(network), parameters)
    alone = torch.zeros(hessian.size, dtype=torch.float64)
    places = np.cumsum([0, *hessian.sizes[:-1]])
    directions = [random_direction(parameters, seed) for seed in range(2)]
    directions += [alone.index_fill(0, torch.tensor([int(place)]), 1.0) for place in places[::3]]
    largest = max(float((hessian @ vector).norm() / vector.norm()) for vector in directions)
    for vector in directions:
        expected = by_differences(exact, list(exact.parameters()), vector / vector.norm())
        found = hessian @ (vector / vector.norm())
        assert (found - expected).norm() <= 1e-6 * largest


@pytest.mark.parametrize("kind", ["resnet", "alternet"])
def test_products_through_the_statistics_of_the_batch(kind):
    network = NETWORKS[kind]().double()
    parameters = list(network.parameters())
    vector = random_direction(parameters, 0)
    vector /= vector.norm()
    with batch_norm(network, "train"):
        found = Hessian(loss_of(network), parameters) @ vector
        expected = by_differences(network, parameters, vector)
    assert (found - expected).norm() <= 1e-6 * found.norm()
    frozen = Hessian(loss_of(network), parameters) @ vector
    assert (found - frozen).norm() > 0.1 * found.norm()


ENDS = [("vit, fused attention", "eval"), ("resnet", "eval"), ("resnet", "train")]


@pytest.mark.parametrize(("kind", "mode"), ENDS)
def test_both_ends_are_scipy_s_on_differences_of_gradients(kind, mode):
    """Another solver on another product: ARPACK, and first derivatives alone."""
    network = NETWORKS[kind]().double()
    parameters = list(network.parameters())

    def product(vector: np.ndarray) -> np.ndarray:
        length = np.linalg.norm(vector)
        direction = torch.from_numpy(vector.reshape(-1) / length)
        return length * by_differences(network, parameters, direction).numpy()

    with batch_norm(network, mode):
        hessian = Hessian(loss_of(network), parameters)
        found = lanczos(hessian.__matmul__, random_direction(parameters, 0), 60)
        operator = LinearOperator((hessian.size,) * 2, matvec=product, dtype=np.float64)
        ends = eigsh(operator, k=2, which="BE", return_eigenvectors=False, tol=1e-4, v0=np.ones(hessian.size))
    np.testing.assert_allclose([found.bottom(1)[0][0], found.top(1)[0][0]], np.sort(ends), rtol=1e-3)


@every_network
def test_the_hessian_is_symmetric(kind):
    network = NETWORKS[kind]().double()
    hessian = Hessian(loss_of(network), list(network.parameters()))
    u, v = (random_direction(hessian.parameters, seed) for seed in range(2))
    assert float(u @ (hessian @ v)) == pytest.approx(float(v @ (hessian @ u)), rel=1e-6)


@every_network
def test_single_precision_keeps_six_digits(kind):
    network = NETWORKS[kind]().double()
    exact = Hessian(loss_of(network), list(network.parameters()))
    vector = random_direction(exact.parameters, 0)
    expected = exact @ vector
    network.float()
    found = Hessian(loss_of(network, torch.float32), list(network.parameters())) @ vector.float()
    assert (found.double() - expected).norm() <= 2e-6 * expected.norm()


def test_a_quadratic_form_gives_its_matrix_and_parameters_without_curvature_zeros():
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    x, y, z = (torch.randn(n, generator=generator, dtype=torch.float64).requires_grad_() for n in (5, 2, 3))
    hessian = Hessian(x @ A @ x / 2 + y.sum(), [x, y, z])
    vector = torch.randn(10, generator=generator, dtype=torch.float64)
    expected = torch.cat([(A + A.T) @ vector[:5] / 2, torch.zeros(5, dtype=torch.float64)])
    torch.testing.assert_close(hessian @ vector, expected)
    torch.testing.assert_close(hessian.gradient[5:], torch.tensor([1.0, 1, 0, 0, 0], dtype=torch.float64))
    flat = Hessian(y.sum(), [y])
    assert torch.equal(flat @ vector[:2], torch.zeros(2, dtype=torch.float64))


def test_products_leave_no_gradient_behind():
    network = small_vit(**TINY_VIT)
    hessian = Hessian(loss_of(network), list(network.parameters()))
    hessian @ random_direction(hessian.parameters, 0)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_fused_attention_without_second_derivative_says_what_to_do():
    network = small_vit(**TINY_VIT, attn_implementation="sdpa")
    loss = torch.nn.functional.cross_entropy(
        network(torch.rand(2, 3, 32, 32)).logits, torch.zeros(2, dtype=torch.long)
    )
    hessian = Hessian(loss, list(network.parameters()))
    with pytest.raises(StudyError, match=r"no second derivative .* load it with attn='eager'"):
        hessian @ random_direction(hessian.parameters, 0)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_batch_norm_is_as_asked_and_restored_to_the_bit(mode):
    network = small_resnet(**TINY_RESNET).double()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    pixels = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        plain = network(pixels).logits
        with batch_norm(network, mode):
            found = network(pixels).logits
    assert torch.equal(found, plain) == (mode == "eval")
    assert not any(module.training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


# ---------------------------------------------------------------------------------------------------------- Lanczos


def symmetric(values: np.ndarray, seed: int = 0) -> torch.Tensor:
    Q = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))[0]
    return torch.from_numpy(Q * values @ Q.T)


SPECTRA = {
    "clustered, far ends": np.concatenate([np.linspace(-1, 1, 90), [-7, -6.9, -5, 8, 12, 12.5, 13, 20, -9, 15]]),
    "both ends close in size": np.concatenate([np.linspace(-1, 1, 92), [-147, -126, -125, -121, 125, 115, 111, 108]]),
    "none negative": np.linspace(0, 1, 60) ** 4 * 30,
}


@pytest.mark.parametrize("case", SPECTRA)
def test_both_ends_are_numpy_s_within_their_residuals(case):
    values = SPECTRA[case]
    A = symmetric(values)
    expected = np.linalg.eigvalsh(A.numpy())
    found = lanczos(lambda v: A @ v, torch.from_numpy(np.random.default_rng(1).normal(size=len(A))), 40)
    assert found.products == 40
    for ends, true in ((found.top(4), expected[::-1]), (found.bottom(4), expected)):
        distance = np.abs(ends[0][:, None] - true[None]).min(1)
        assert (distance <= ends[1] + 1e-9).all()
    assert found.top(1)[0] == pytest.approx(expected[-1], rel=1e-2)
    assert found.weights.sum() == pytest.approx(1)


@pytest.mark.parametrize("kind", ["vit, fused attention", "resnet"])
def test_residuals_hold_in_single_precision(kind):
    """Once converged, rounding of the products is all that is left, and a residual must not claim more."""
    network = NETWORKS[kind]().double()
    found = []
    for dtype in (torch.float64, torch.float32):
        hessian = Hessian(loss_of(network, dtype), list(network.parameters()))
        found.append(lanczos(hessian.__matmul__, random_direction(hessian.parameters, 0), 60))
    exact, single = found
    for end in ("top", "bottom"):
        (true, known), (values, residuals) = getattr(exact, end)(2), getattr(single, end)(2)
        assert (known < residuals).all()
        assert (np.abs(values - true) <= residuals).all()
        assert (residuals <= 1e-4 * np.abs(single.values).max()).all()


def test_all_eigenvalues_are_found_once_the_space_is_complete():
    values = np.array([-3.0, 1, 1, 4, 9])  # one of the twins stays unseen: a start has one direction in their plane
    A = symmetric(values)
    found = lanczos(lambda v: A @ v, torch.from_numpy(np.random.default_rng(1).normal(size=5)), 50)
    assert found.products == 4
    np.testing.assert_allclose(found.values, [-3, 1, 4, 9], atol=1e-8)
    top, residual = found.top(6)
    assert np.isnan(top[4:]).all()
    assert np.nanmax(residual) < 1e-7


def test_the_density_has_the_matrix_moments():
    """Gauss quadrature of m nodes is exact for moments up to 2 m - 1: those of the start's own density."""
    A = symmetric(SPECTRA["clustered, far ends"])
    start = torch.from_numpy(np.random.default_rng(2).normal(size=len(A)))
    found = lanczos(lambda v: A @ v, start, 10)
    unit = start / start.norm()
    power = unit.clone()
    for moment in range(1, 8):
        power = A @ power
        assert (found.weights * found.values**moment).sum() == pytest.approx(float(unit @ power), rel=1e-8)


def test_random_starts_depend_on_the_seed_alone():
    like = [torch.zeros(3, 2), torch.zeros(4)]
    one, again, other = (random_direction(like, 0, place) for place in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert random_direction([torch.zeros(10, dtype=torch.float64)], 0).dtype == torch.float64


# --------------------------------------------------------------------------------------------------------- analysis


@pytest.fixture(scope="module")
def resnet(tmp_path_factory, image_folder):
    from hf_vitstudy import load_images

    classes = load_images(image_folder).classes
    network = small_resnet(
        **TINY_RESNET, id2label=dict(enumerate(classes)), label2id={n: i for i, n in enumerate(classes)}
    )
    return save_checkpoint(network, tmp_path_factory.mktemp("hessian") / "resnet")


QUICK = {"workers": 0, "progress": False, "batch_size": 8}


def hessian_of(folder, images, options: str = "", n: int = 16) -> xr.Dataset:
    return measure(folder, images, n=n, analyses=[f"hessian:batch=8:iterations=12{options}"], **QUICK).data


def test_the_analysis_gives_the_network_s_own_eigenvalues(resnet, image_folder):
    from hf_vitstudy import load_images

    checkpoint, images = load_checkpoint(resnet, dtype="float64"), load_images(image_folder, n=16)
    pixels = torch.stack([torch.from_numpy(checkpoint.prepare(images[i][0])) for i in range(8)]).float() / 255
    labels = torch.tensor([images[i][1] for i in range(8)])
    loss = torch.nn.functional.cross_entropy(checkpoint.network(checkpoint.normalise(pixels)).logits, labels)
    hessian = Hessian(loss, list(checkpoint.network.parameters()))
    operator = LinearOperator(
        (hessian.size,) * 2, matvec=lambda v: (hessian @ torch.from_numpy(v)).numpy(), dtype=float
    )
    options = {"return_eigenvectors": False, "tol": 1e-6, "v0": np.ones(hessian.size)}
    largest, smallest = (np.sort(eigsh(operator, k=2, which=end, **options)) for end in ("LA", "SA"))
    found = hessian_of(resnet, image_folder, ":iterations=40")
    assert found["hessian_top"].shape == (2, 5)
    np.testing.assert_allclose(found["hessian_top"][0, :2], largest[::-1], rtol=1e-3)
    np.testing.assert_allclose(found["hessian_bottom"][0, 0], smallest[0], rtol=1e-2)
    assert float(found["hessian_loss"][0]) == pytest.approx(loss.item(), rel=1e-5)
    np.testing.assert_allclose(found["hessian_weight"].sum("hessian_iteration"), 1, rtol=1e-6)


def test_weight_decay_moves_every_eigenvalue_and_mixing_changes_them(resnet, image_folder):
    plain, decayed, mixed, again = (
        hessian_of(resnet, image_folder, options) for options in ("", ":weight_decay=0.5", ":mixup=1.0", "")
    )
    np.testing.assert_allclose(decayed["hessian_top"], plain["hessian_top"] + 0.5, rtol=1e-6)
    np.testing.assert_allclose(decayed["hessian_bottom"], plain["hessian_bottom"] + 0.5, rtol=1e-6)
    assert not np.allclose(mixed["hessian_top"], plain["hessian_top"], rtol=1e-3)
    assert np.array_equal(again["hessian_top"], plain["hessian_top"])
    assert mixed["hessian_top"].attrs["mixup"] == 1.0


def test_the_mode_of_batch_norm_is_recorded_and_matters(resnet, image_folder):
    plain, train = (hessian_of(resnet, image_folder, f":batch_norm={mode}") for mode in ("eval", "train"))
    assert train["hessian_top"].attrs["batch_norm"] == "train"
    assert not np.allclose(train["hessian_top"], plain["hessian_top"], rtol=1e-2)


def test_measuring_leaves_the_network_as_it_was(resnet, image_folder):
    checkpoint = load_checkpoint(resnet)
    before = {name: value.clone() for name, value in checkpoint.network.state_dict().items()}
    measure(checkpoint, image_folder, n=16, analyses=["hessian:batch=8:iterations=3:k=1:batch_norm=train"], **QUICK)
    assert all(torch.equal(value, before[name]) for name, value in checkpoint.network.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in checkpoint.network.parameters())


def test_where_the_spectrum_means_nothing(resnet, vit_folder, image_folder):
    half = measure(resnet, image_folder, n=8, dtype="bfloat16", analyses=["hessian:batch=8"], **QUICK)
    assert "measure with --dtype float32" in half.provenance["absent"]["hessian"]
    few = measure(resnet, image_folder, n=16, analyses=["hessian:batch=8:images=4"], **QUICK)
    assert "no 8 images in a row have a label" in few.provenance["absent"]["hessian"]
    headless = load_checkpoint(resnet)
    headless.provenance["classes"] = None
    with pytest.raises(NotApplicableError, match="no classifier"):
        make_analysis("hessian").start(headless, 16, 16)


BAD = {
    "hessian:batch_norm=frozen": "batch_norm must be eval or train, got 'frozen'",
    "hessian:batch=1": "batch must be at least 2, got 1",
    "hessian:iterations=9": "iterations must be at least 10, got 9",
    "hessian:k=1:iterations=1": "iterations must be at least 2, got 1",
    "hessian:k=0": "k must be at least 1",
    "hessian:images=0": "images must be at least 2",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_options_are_refused(text):
    with pytest.raises(StudyError, match=BAD[text]):
        make_analysis(text)


def test_mini_batches_must_fit_the_batches(resnet):
    with pytest.raises(StudyError, match="mini-batches of 12 do not fit batches of 32"):
        make_analysis("hessian:batch=12").start(load_checkpoint(resnet), 100, 32)

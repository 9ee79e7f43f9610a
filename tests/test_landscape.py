"""Loss surfaces against closed forms, and directions filter by filter."""

import types

import numpy as np
import pytest
import torch
from conftest import small_resnet, small_vit
from torch import nn

from hf_vitstudy import StudyError, measure
from hf_vitstudy.analyses import Batch, NotApplicableError, make_analysis
from hf_vitstudy.analyses.landscape import Landscape, filter_direction, moved, published_direction
from hf_vitstudy.grading import mixing


QUICK = {"workers": 0, "progress": False, "batch_size": 8}


class Linear(nn.Module):
    """Logits are one weight matrix times the mean colour."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.head = nn.Linear(3, 4)
        with torch.no_grad():
            self.head.bias.copy_(torch.randn(4, generator=generator))
            self.head.weight.copy_(torch.randn(4, 3, generator=generator) * torch.tensor([1.0, 2, 4, 8])[:, None])

    def forward(self, pixel_values):
        return types.SimpleNamespace(logits=self.head(pixel_values.mean((2, 3))))


class Bare:
    """What the analysis needs of a checkpoint."""

    def __init__(self, network: nn.Module, classes: list[str] | None = None) -> None:
        self.network, self.provenance = network, {"classes": classes}

    def normalise(self, images):
        return images


def surface(network: nn.Module, labels: list[int], **options) -> dict:
    """(variables, images) of a landscape over a few random images."""
    images = torch.rand(len(labels), 3, 2, 2, generator=torch.Generator().manual_seed(1))
    analysis = Landscape(**options)
    analysis.start(Bare(network, list("abcd")), len(labels), len(labels))
    known = torch.tensor(labels)
    with torch.no_grad():
        part = analysis.update(Batch(images, None, known, known))
    return analysis.result([part]), images, analysis


# ------------------------------------------------------------------------------------------------------- directions


@pytest.mark.parametrize("make", [small_vit, small_resnet])
def test_every_filter_moves_by_its_own_length(make):
    network = make()
    direction = filter_direction(network, 0, 0)
    weights = dict(network.named_parameters())
    assert len(direction) > 8
    for name, moves in direction.items():
        for filter_, step in zip(weights[name].detach(), moves, strict=True):
            assert float(step.norm()) == pytest.approx(float(filter_.norm()), rel=1e-5)
    still = set(weights) - set(direction)
    assert {name for name in weights if weights[name].ndim < 2} <= still
    assert all(
        "bias" in n or "norm" in n or "token" in n or "position" in n for n in still if "normalization" not in n
    )


def test_positions_stay_and_packed_attention_moves():
    network = nn.ModuleDict({"position_embedding": nn.Embedding(5, 4), "pool": nn.MultiheadAttention(4, 2)})
    direction = filter_direction(network, 0, 0)
    assert set(direction) == {"pool.in_proj_weight", "pool.out_proj.weight"}
    lengths = network["pool"].in_proj_weight.detach().norm(dim=1)
    torch.testing.assert_close(direction["pool.in_proj_weight"].norm(dim=1), lengths)
    assert set(filter_direction(nn.Linear(2, 3), 0, 0)) == {"weight"}


def test_directions_are_random_but_the_same_again():
    network = small_vit()
    first, again, other = (filter_direction(network, 0, axis) for axis in (0, 0, 1))
    name = max(first, key=lambda key: first[key].numel())
    assert torch.equal(first[name], again[name])
    cosine = torch.nn.functional.cosine_similarity(first[name].flatten(), other[name].flatten(), dim=0)
    assert abs(float(cosine)) < 5 / first[name].numel() ** 0.5


def test_the_published_direction_is_scaled_over_the_first_axis():
    network = small_vit()
    direction = published_direction(network, 0, 0)
    weights = dict(network.named_parameters())
    assert not any("position" in name for name in direction)
    assert any("cls_token" in name for name in direction)
    assert all(weights[name].ndim >= 2 for name in direction)
    for name, moves in direction.items():
        lengths = weights[name].detach().square().sum(0).sqrt()
        torch.testing.assert_close(moves.square().sum(0).sqrt(), lengths, rtol=1e-3, atol=1e-5)
    filters = filter_direction(network, 0, 0)
    shared = next(name for name in filters if "weight" in name and weights[name].shape[0] > 4)
    assert not torch.allclose(filters[shared], direction[shared], rtol=1e-2)


def test_weights_come_back_to_the_bit_even_after_an_error():
    network = small_resnet()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    direction = filter_direction(network, 0, 0)

    def fail() -> None:
        with moved(network) as move, torch.no_grad():
            move((0.3, direction))
            raise KeyError

    with torch.no_grad(), pytest.raises(KeyError):
        fail()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())


# --------------------------------------------------------------------------------------------------------- surfaces


def test_the_surface_is_the_loss_of_moved_weights():
    network = Linear()
    labels = [0, 1, 2, 3, 1]
    found, images, analysis = surface(network, labels, grid=5, radius=0.8)
    across, up = (direction["head.weight"].double().numpy() for direction in analysis.directions[""])
    weight, bias = (value.detach().double().numpy() for value in (network.head.weight, network.head.bias))
    colours = images.double().mean((2, 3)).numpy()
    steps = np.linspace(-0.8, 0.8, 5)
    assert found["landscape_nll"].shape == (5, 5, 5)
    for i, y in enumerate(steps):
        for j, x in enumerate(steps):
            logits = colours @ (weight + x * across + y * up).T + bias
            expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(5), labels]
            np.testing.assert_allclose(found["landscape_nll"].values[:, i, j], expected, rtol=1e-5, atol=1e-6)
            norm = ((weight + x * across + y * up) ** 2).sum() / 2 + (bias**2).sum() / 2
            assert found["landscape_l2"].values[i, j] == pytest.approx(norm, rel=1e-6)


def test_the_published_weight_term_is_the_sum_of_norms():
    network = Linear()
    found, _, analysis = surface(network, [0, 1], grid=3, paper_mode=True)
    across, up = (direction["head.weight"] for direction in analysis.directions["paper_"])
    moved_weight = network.head.weight.detach() - across + up  # x = -1, y = +1
    expected = float(moved_weight.norm() + network.head.bias.detach().norm())
    assert found["landscape_paper_l2"].values[2, 0] == pytest.approx(expected, rel=1e-5)
    assert found["landscape_paper_nll"].shape == found["landscape_nll"].shape


def test_the_middle_is_the_trained_network(vit_folder, image_folder):
    found = measure(vit_folder, image_folder, n=12, analyses=["predictions", "landscape:grid=3:images=12"], **QUICK)
    np.testing.assert_allclose(found["landscape_nll"][:, 1, 1], found["nll"], rtol=1e-5)


def test_mixing_is_the_same_at_every_point():
    network = Linear()
    found, images, _ = surface(network, [0, 1, 2, 3], grid=3, mixup=1.0)
    share, order = mixing(4, 1.0, (0, 0))
    assert 0 < share < 1
    mixed = share * images + (1 - share) * images[order]
    logits = network(mixed).logits.detach()
    labels = torch.arange(4)
    one, other = (
        torch.nn.functional.cross_entropy(logits, target, reduction="none") for target in (labels, labels[order])
    )
    expected = share * one + (1 - share) * other
    np.testing.assert_allclose(found["landscape_nll"].values[:, 1, 1], expected, rtol=1e-5)


def test_a_slice_is_the_middle_row():
    whole, _, _ = surface(Linear(), [0, 1, 2], grid=5)
    row, _, _ = surface(Linear(), [0, 1, 2], grid=5, dims=1)
    assert row["landscape_nll"].shape == (3, 1, 5)
    np.testing.assert_allclose(row["landscape_nll"].values[:, 0], whole["landscape_nll"].values[:, 2], rtol=1e-6)


def test_images_beyond_the_limit_and_without_a_label():
    found, _, _ = surface(Linear(), [0, -1, 2, 3], grid=3, images=3)
    values = found["landscape_nll"].values
    assert values.shape == (3, 3, 3)
    assert np.isnan(values[1]).all()
    assert np.isfinite(values[[0, 2]]).all()
    with pytest.raises(NotApplicableError, match="no image has a label"):
        surface(Linear(), [-1, -1], grid=3)
    with pytest.raises(NotApplicableError, match="no classifier"):
        Landscape().start(Bare(Linear()), 4, 4)


BAD = {
    "landscape:grid=10": "grid must be odd and at least 3, got 10",
    "landscape:grid=1": "grid must be odd",
    "landscape:dims=3": "dims must be 1 or 2, got 3",
    "landscape:radius=0": "radius must be above 0",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_options_are_refused(text):
    with pytest.raises(StudyError, match=BAD[text]):
        make_analysis(text)

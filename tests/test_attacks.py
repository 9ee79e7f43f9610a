"""Attacks: bounds, a linear network whose worst case is known, the published variants step by step."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from hf_vitstudy import StudyError, measure
from hf_vitstudy.analyses import Batch, make_analysis
from hf_vitstudy.analyses import attacks as attacks_
from hf_vitstudy.checkpoints import Checkpoint


class Linear(nn.Module):
    """Two classes whose logits are ± w·x: within epsilon, the worst case is x - epsilon · sign(w) for class 1."""

    def __init__(self, size: int = 8) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3 * size * size, generator=torch.Generator().manual_seed(0)))

    def forward(self, pixel_values):
        score = pixel_values.flatten(1) @ self.weight
        return type("Output", (), {"logits": torch.stack([-score, score], dim=1)})


class Processor:
    """What `normalisation` reads, with a different scale for each colour."""

    rescale_factor, do_rescale, do_normalize = 1 / 255, True, True
    image_mean, image_std = (0.5, 0.4, 0.3), (0.25, 0.5, 0.125)


def linear_checkpoint(size: int = 8) -> Checkpoint:
    return Checkpoint(Linear(size), Processor(), [], [], "linear", {"classes": ["a", "b"], "image_size": [size, size]})


def images_of(n: int, size: int = 8) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def attacked(checkpoint: Checkpoint, images: torch.Tensor, labels: torch.Tensor, text: str, **options) -> dict:
    analysis = make_analysis(text, **options)
    analysis.start(checkpoint, len(images), len(images))
    with torch.no_grad():
        logits = checkpoint.network(checkpoint.normalise(images)).logits
        part = analysis.update(Batch(images, logits, labels, labels))
    return analysis.result([part])


def test_the_gradient_passes_through_the_normalisation():
    """Of a linear network: the sign of the weights, whatever the colour's scale; up for the wrong class."""
    checkpoint = linear_checkpoint()
    found = attacks_.ascent(
        lambda images: checkpoint.network(checkpoint.normalise(images)).logits, images_of(2), torch.tensor([0, 1])
    )
    sign = checkpoint.network.weight.detach().sign().view(3, 8, 8)
    assert torch.equal(found[0], sign)
    assert torch.equal(found[1], -sign)


@pytest.mark.parametrize("epsilon", [0.5, 4, 16])
def test_both_attacks_find_the_worst_case_of_a_linear_network(epsilon):
    """Losses equal those at the corner of the ball cut with [0, 1]: the closed form."""
    checkpoint, images = linear_checkpoint(), images_of(6)
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    found = attacked(checkpoint, images, labels, f"attacks:epsilons={epsilon}:steps=10")
    sign = checkpoint.network.weight.detach().sign().view(1, 3, 8, 8)
    worst = (images + epsilon / 255 * torch.where(labels == 0, 1, -1).view(-1, 1, 1, 1) * sign).clamp(0, 1)
    with torch.no_grad():
        logits = checkpoint.network(checkpoint.normalise(worst)).logits
        clean = checkpoint.network(checkpoint.normalise(images)).logits.argmax(1) == labels
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none").numpy()
    right = ((logits.argmax(1) == labels) & clean).numpy()
    for name in ("fgsm", "pgd"):
        np.testing.assert_allclose(found[f"{name}_nll"].values[:, 0], loss, rtol=1e-3, atol=1e-4)
        assert np.array_equal(found[f"{name}_correct"].values[:, 0], right)


class Curved(nn.Module):
    """A small network with curvature, whose gradient changes along the way."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 36, 4))

    def forward(self, pixel_values):
        return type("Output", (), {"logits": 3 * self.layers(pixel_values)})


def curved_checkpoint() -> Checkpoint:
    return dataclasses.replace(
        linear_checkpoint(), network=Curved(), provenance={"classes": list("abcd"), "image_size": [8, 8]}
    )


@pytest.mark.parametrize("epsilon", [1 / 255, 16 / 255, 0.5])
def test_adversarial_images_are_valid_and_in_the_ball(epsilon):
    checkpoint, images, labels = curved_checkpoint(), images_of(5), torch.arange(5) % 4
    images[0], images[1] = 0.0, 1.0  # where one bound cuts the other
    start = attacks_.ball_noise(images.shape, seed=0, first=0)
    steps = []
    for count in (1, 2, 10):
        found = attacks_.pgd(
            lambda x: checkpoint.network(checkpoint.normalise(x)).logits,
            images,
            labels,
            start,
            epsilon=epsilon,
            steps=count,
        )
        assert found.min() >= 0
        assert found.max() <= 1
        assert (found - images).abs().max() <= epsilon + 1e-6
        steps.append(found)
    assert not torch.equal(steps[0], steps[2])


def test_pgd_is_written_out_step_by_step():
    """Against a plain loop: gradient by autograd on one image at a time, step 2.5 · epsilon / steps, two projections."""
    checkpoint, images, labels, epsilon, steps = curved_checkpoint(), images_of(3), torch.tensor([2, 0, 3]), 0.05, 4
    answer = lambda x: checkpoint.network(checkpoint.normalise(x)).logits  # noqa: E731
    start = attacks_.ball_noise(images.shape, seed=5, first=2)
    found = attacks_.pgd(answer, images, labels, start, epsilon=epsilon, steps=steps)
    for index in range(3):
        x = images[index : index + 1]
        adversarial = torch.minimum(torch.maximum(x + epsilon * start[index], x - epsilon), x + epsilon).clamp(0, 1)
        for _ in range(steps):
            adversarial = adversarial.detach().requires_grad_(True)
            loss = -answer(adversarial).log_softmax(1)[0, labels[index]]
            loss.backward()
            moved = adversarial.detach() + 2.5 * epsilon / steps * adversarial.grad.sign()
            adversarial = torch.minimum(torch.maximum(moved, x - epsilon), x + epsilon).clamp(0, 1)
        torch.testing.assert_close(found[index : index + 1], adversarial, atol=1e-6, rtol=0)


def test_pgd_raises_the_loss_at_least_as_much_as_one_step_on_average():
    checkpoint, images, labels = curved_checkpoint(), images_of(40), torch.arange(40) % 4
    found = attacked(checkpoint, images, labels, "attacks:epsilons=4+16+32:steps=10")
    fgsm, pgd = (found[f"{name}_nll"].values.mean(0) for name in ("fgsm", "pgd"))
    clean = found["attack_clean_nll"].values.mean()
    assert (pgd >= fgsm - 1e-4).all()
    assert clean < fgsm[0] < fgsm[1]
    assert pgd[0] < pgd[1] < pgd[2]
    accuracies = [found["attack_clean_correct"].values.mean(), *found["pgd_correct"].values.mean(0)]
    assert accuracies == sorted(accuracies, reverse=True)


def test_an_image_that_was_wrong_stays_wrong_and_an_unknown_one_unknown():
    checkpoint, images = linear_checkpoint(), images_of(4)
    with torch.no_grad():
        answers = checkpoint.network(checkpoint.normalise(images)).logits.argmax(1)
    labels = torch.tensor([1 - answers[0], answers[1], -1, answers[3]])
    found = attacked(checkpoint, images, labels, "attacks:epsilons=0.001:steps=1", paper_mode=True)
    assert found["attack_clean_correct"].values.tolist() == [0, 1, -1, 1]
    assert found["fgsm_correct"].values[:, 0].tolist() == [0, 1, -1, 1]
    assert found["pgd_correct"].values[0, 0] == 0
    assert found["pgd_paper_correct"].values[2] == -1
    assert np.isnan(found["pgd_nll"].values[2]).all()


def test_an_attack_never_makes_an_answer_right():
    """The image itself lies in the ball, so one that was wrong counts as wrong even where the attacked one is right."""
    clean = {"correct": np.array([0, 0, 1, 1, -1], np.int8)}
    attacked_ = {"correct": np.array([1, 0, 1, 0, -1], np.int8), "nll": np.arange(5.0)}
    found = attacks_._survived(attacked_, clean)
    assert found["correct"].tolist() == [0, 0, 1, 0, -1]
    assert found["nll"].tolist() == [0, 1, 2, 3, 4]


def test_the_start_depends_on_the_image_alone():
    shape = torch.Size((4, 3, 6, 5))
    together = attacks_.ball_noise(shape, seed=1, first=3)
    assert torch.equal(together[2:], attacks_.ball_noise(torch.Size((2, 3, 6, 5)), seed=1, first=5))
    assert -1 <= together.min() < -0.9
    assert 0.9 < together.max() <= 1
    assert not torch.equal(together, attacks_.ball_noise(shape, seed=2, first=3))


def test_the_published_attack_with_its_faults():
    """Start clamped to [0, 1] in normalised units, then steps of 2/255 with no bound but the ball of 0.3."""
    checkpoint, images, labels = curved_checkpoint(), images_of(3), torch.tensor([2, 0, 3])
    pixel_values = checkpoint.normalise(images)
    logits = lambda x: checkpoint.network(x).logits  # noqa: E731
    start = attacks_.ball_noise(images.shape, seed=0, first=0)
    found = attacks_.paper_pgd(logits, pixel_values, labels, start)
    x = (pixel_values + 0.3 * start).clamp(0, 1)
    assert (x - pixel_values).abs().max() > 1, "the clamped start leaves the ball"
    for _ in range(40):
        x = x.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits(x), labels), x)
        x = pixel_values + (x.detach() + 2 / 255 * gradient.sign() - pixel_values).clamp(-0.3, 0.3)
    torch.testing.assert_close(found, x, atol=1e-5, rtol=0)
    assert (found - pixel_values).abs().max() <= 0.3 + 1e-5
    scale = torch.tensor(Processor.image_std).view(1, 3, 1, 1)
    back = found * scale + torch.tensor(Processor.image_mean).view(1, 3, 1, 1)
    assert back.max() > 1, "it is no valid image"
    one = attacked(checkpoint, images, labels, "attacks:epsilons=1:steps=1", paper_mode=True)
    loss = torch.nn.functional.cross_entropy(logits(found), labels, reduction="none").detach()
    np.testing.assert_allclose(one["pgd_paper_nll"].values, loss, rtol=1e-4)
    uphill = attacks_.ascent(logits, pixel_values, labels)
    loss = torch.nn.functional.cross_entropy(logits(pixel_values + 0.007 * uphill), labels, reduction="none").detach()
    np.testing.assert_allclose(one["fgsm_paper_nll"].values, loss, rtol=1e-4)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_attacks_in_a_profile_do_not_depend_on_batches(kind, vit_folder, resnet_folder, image_folder):
    folder = vit_folder if kind == "vit" else resnet_folder
    text = "attacks:epsilons=2+8:steps=3:images=10"
    options = {"n": 16, "analyses": [text], "workers": 0, "progress": False, "paper_mode": kind == "vit"}
    profile, other = (measure(folder, image_folder, batch_size=size, **options) for size in (4, 8))
    assert profile["fgsm_correct"].dims == profile["pgd_nll"].dims == ("attack_image", "epsilon")
    assert profile["pgd_correct"].shape == (10, 2)
    np.testing.assert_allclose(profile["pgd_correct"].coords["epsilon"].values, [2 / 255, 8 / 255])
    # one flipped sign of a gradient near zero changes a pixel by epsilon; the loss hardly
    np.testing.assert_allclose(profile["pgd_nll"].values, other["pgd_nll"].values, rtol=0.02)
    clean = profile["attack_clean_nll"].values[:, None]
    assert (profile["fgsm_nll"].values > clean).mean() > 0.9
    assert (profile["pgd_nll"].values > clean).all()
    assert ("pgd_paper_nll" in profile.data) == (kind == "vit")
    for name, variable in profile.data.data_vars.items():
        if variable.dims[0] == "attack_image":
            assert {"unit", "source", "long_name"} <= set(variable.attrs), name


BAD = {
    "attacks:epsilons=": "attacks:epsilons must be numbers over 0 up to 255",
    "attacks:epsilons=1+-2": "attacks:epsilons must be numbers over 0 up to 255, joined by .*got '1.-2'",
    "attacks:epsilons=300": "in 255ths, got '300'",
    "attacks:steps=0": "must be at least 1, got 0 and 128",
    "attacks:images=0": "must be at least 1, got 10 and 0",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_options_are_refused(text):
    with pytest.raises(StudyError, match=BAD[text]):
        make_analysis(text)


def test_a_float64_image_attacks_a_float32_network():
    """Images of any precision: the gradient comes back in theirs."""
    checkpoint = linear_checkpoint()
    images = images_of(2).double()
    found = attacks_.ascent(lambda x: checkpoint.network(checkpoint.normalise(x)).logits, images, torch.tensor([0, 1]))
    assert found.dtype == torch.float64

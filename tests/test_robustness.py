"""Accuracy lost, read from profiles made by hand: paired intervals, crossings with a known place, refusals."""

import dataclasses

import numpy as np
import pytest
import xarray as xr

from hf_vitstudy import StudyError
from hf_vitstudy.profile import Profile
from hf_vitstudy.robustness import (
    accuracy_drop,
    answers,
    best_division,
    crossing,
    drop_difference,
    drops,
    mean_corruption_accuracy,
)


FREQUENCIES = np.round(np.arange(1, 10) * 0.1, 1)


def profile_of(variables: dict, coordinates: dict, name: str = "made", sha256: str = "same") -> Profile:
    provenance = {"checkpoint": {"name": name}, "images": {"sha256": sha256}}
    return Profile(xr.Dataset(variables, coordinates), provenance)


def noisy(clean: np.ndarray, under: np.ndarray, strength: str = "0.05", **about) -> Profile:
    variables = {
        "noise_clean_correct": (("image",), clean.astype(np.int8)),
        "noise_correct": (("image", "noise_frequency"), under.astype(np.int8), {"strength": strength}),
    }
    return profile_of(variables, {"noise_frequency": FREQUENCIES[: under.shape[1]]}, **about)


def drawn(n: int, accuracies, clean: float = 0.9, seed: int = 0, **about) -> Profile:
    """Answers that are right with the given chances, those under noise only where right without it."""
    rng = np.random.default_rng(seed)
    right = rng.random(n) < clean
    under = (rng.random((n, len(accuracies))) < np.asarray(accuracies) / clean) & right[:, None]
    return noisy(right, under, **about)


def test_the_drop_is_clean_minus_noisy_accuracy():
    profile = drawn(400, np.linspace(0.2, 0.8, 9))
    found = accuracy_drop(profile, draws=200)
    clean, under = (profile[f"noise_{name}"].values.astype(float) for name in ("clean_correct", "correct"))
    np.testing.assert_allclose(found["drop"], clean.mean() - under.mean(0))
    np.testing.assert_allclose(found["accuracy"], under.mean(0))
    assert found.attrs == {"clean": clean.mean(), "n": 400, "level": 0.95}
    assert found["drop"].dims == ("noise_frequency",)
    assert (found["low"] < found["drop"]).all()
    assert (found["drop"] < found["high"]).all()


def test_intervals_are_those_of_paired_images():
    """Half width 1.96 standard errors of the per-image differences, smaller than of unpaired accuracies."""
    profile = drawn(1000, np.full(9, 0.8))
    values = drops(profile)
    found = accuracy_drop(profile, draws=2000)
    half = (found["high"] - found["low"]).values / 2
    np.testing.assert_allclose(half, 1.96 * values.std(0) / np.sqrt(1000), rtol=0.1)
    assert half.max() < 1.96 * np.sqrt(2 * 0.8 * 0.2 / 1000)


def test_intervals_cover_the_truth():
    from hf_vitstudy.stats import coverage

    def study(rng):
        found = accuracy_drop(drawn(200, [0.6], seed=int(rng.integers(1 << 30))), draws=200)
        return float(found["low"][0]), float(found["high"][0])

    assert 0.9 <= coverage(study, truth=0.3, repeats=200) <= 0.99


def test_images_without_a_label_are_left_out():
    clean, under = np.array([1, 1, -1, 0]), np.array([[1], [0], [-1], [0]])
    profile = noisy(clean, under)
    assert np.isnan(answers(profile, "noise_correct")[2]).all()
    found = accuracy_drop(profile, draws=50)
    assert float(found["drop"][0]) == pytest.approx(1 / 3)
    assert found.attrs["clean"] == pytest.approx(2 / 3)


DIVISIONS = {
    "once": ([2.0, 1, -1, -2], 0.25),
    "between places": ([3.0, -1, -1, -1], 0.175),
    "never, above": ([1.0, 2, 1, 1], 0.4),
    "never, below": ([-1.0, -2, -1, -1], 0.1),
    "the wrong way": ([-1.0, -1, 1, 1], 0.4),
    "through a zero": ([1.0, 0, -1, -1], 0.2),
    "twice, by chance": ([2.0, 2, -0.1, 0.1, 2, -2, -2], 0.55),
}


@pytest.mark.parametrize("case", DIVISIONS)
def test_the_best_division_is_where_the_sign_turns(case):
    values, expected = DIVISIONS[case]
    places = np.round(0.1 * np.arange(1, len(values) + 1), 1)
    assert best_division(places, np.array(values)) == pytest.approx(expected)


def test_the_best_division_is_found_by_trying_every_place():
    rng = np.random.default_rng(0)
    fine = np.linspace(0.1, 0.9, 8001)
    for _ in range(30):
        values = rng.normal(size=9)
        line = np.interp(fine, FREQUENCIES, values)
        area = np.concatenate([[0], np.cumsum((line[1:] + line[:-1]) / 2 * np.diff(fine))])
        score = 2 * area - area[-1]
        found = best_division(FREQUENCIES, values)
        assert np.interp(found, fine, score) == pytest.approx(score.max(), abs=1e-4)


def test_crossing_curves_cross_where_they_were_made_to():
    """The ViT's accuracy rises, the ResNet's falls with frequency; they are equal at 0.6π."""
    a = drawn(3000, 0.5 + 0.5 * (FREQUENCIES - 0.6), seed=1, name="vit")
    b = drawn(3000, 0.5 - 0.5 * (FREQUENCIES - 0.6), seed=2, name="resnet")
    found = crossing(a, b, draws=300)
    assert found.frequency.low < 0.6 < found.frequency.high
    assert found.frequency.value == pytest.approx(0.6, abs=0.04)
    assert found.frequency.high - found.frequency.low < 0.12
    assert found.inside == 1
    assert found.below.low > 0
    assert found.above.high < 0
    other = crossing(b, a, draws=100)
    assert other.inside < 0.05
    assert other.frequency.value in (0.1, 0.9)


def test_curves_that_do_not_cross_say_so():
    a, b = drawn(1000, np.full(9, 0.8), seed=1), drawn(1000, np.full(9, 0.4), seed=2)
    found = crossing(a, b, draws=100)
    assert found.frequency.value == 0.1
    assert found.inside == 0
    assert found.below.high < 0
    assert found.above.high < 0


def test_differences_are_paired_by_image():
    """The same answers in both profiles leave nothing to chance."""
    a = drawn(300, np.full(9, 0.5), seed=3)
    found = drop_difference(a, a, draws=50)
    assert float(np.abs(found["difference"]).max()) == 0
    assert float((found["high"] - found["low"]).max()) == 0
    b = drawn(300, np.full(9, 0.7), seed=4)
    difference = drop_difference(a, b, draws=50)["difference"].values
    np.testing.assert_allclose(
        difference, accuracy_drop(a, draws=2)["drop"].values - accuracy_drop(b, draws=2)["drop"].values
    )


def test_corruptions_are_averaged_over_severities_and_kinds():
    rng = np.random.default_rng(0)
    right = rng.random((200, 3, 5)) < np.array([0.9, 0.6, 0.3])[:, None]
    variables = {
        "corruption_correct": (("corruption_image", "corruption", "severity"), right.astype(np.int8)),
        "corruption_clean_correct": (("corruption_image",), np.ones(200, np.int8)),
    }
    coordinates = {"corruption": ["fog", "snow", "frost"], "severity": [1, 2, 3, 4, 5]}
    profile = profile_of(variables, coordinates)
    found = mean_corruption_accuracy(profile, draws=300)
    assert list(found) == ["fog", "snow", "frost", "mean"]
    assert found["snow"].value == pytest.approx(right[:, 1].mean())
    assert found["mean"].value == pytest.approx(right.mean())
    half = (found["mean"].high - found["mean"].low) / 2
    assert half == pytest.approx(1.96 * right.mean((1, 2)).std() / np.sqrt(200), rel=0.2)
    some = mean_corruption_accuracy(profile, ["frost", "fog"], draws=20)
    assert list(some) == ["frost", "fog", "mean"]
    assert some["mean"].value == pytest.approx(right[:, [2, 0]].mean())
    assert some["fog"].value == found["fog"].value
    for kinds in (["rain"], []):
        with pytest.raises(StudyError, match="made has the corruptions fog, snow, frost, got kinds="):
            mean_corruption_accuracy(profile, kinds)
    drop = accuracy_drop(profile, "corruption", draws=20)
    assert drop["drop"].dims == ("corruption", "severity")
    np.testing.assert_allclose(drop["drop"], 1 - right.mean(0))


def test_attacks_are_read_the_same_way():
    variables = {
        "pgd_correct": (("attack_image", "epsilon"), np.array([[1, 0], [1, 1], [0, 0], [-1, -1]], np.int8)),
        "pgd_paper_correct": (("attack_image",), np.array([0, 1, 0, -1], np.int8)),
        "attack_clean_correct": (("attack_image",), np.array([1, 1, 0, -1], np.int8)),
    }
    profile = profile_of(variables, {"epsilon": [0.01, 0.02]})
    np.testing.assert_allclose(accuracy_drop(profile, "pgd", draws=10)["drop"], [0, 1 / 3])
    assert float(accuracy_drop(profile, "pgd_paper", draws=10)["drop"]) == pytest.approx(1 / 3)


def test_profiles_that_cannot_be_compared_are_refused():
    a = drawn(50, np.full(9, 0.5), name="vit")
    for other, message in {
        "images": "vit and other were measured on different images",
        "strength": r"vit and other were measured with different noise \(0.05; 0.1\)",
        "shape": r"noise of vit and other has shapes \(50, 9\) and \(40, 9\)",
    }.items():
        changes = {"sha256": "else"} if other == "images" else {"strength": "0.1"} if other == "strength" else {}
        b = drawn(40 if other == "shape" else 50, np.full(9, 0.5), name="other", **changes)
        with pytest.raises(StudyError, match=message):
            drop_difference(a, b)
        with pytest.raises(StudyError, match=message):
            crossing(a, b)


def test_what_was_not_measured_says_why():
    profile = drawn(50, np.full(9, 0.5))
    with pytest.raises(StudyError, match="no intervention is called 'rain'; there are: noise, corruption, fgsm, pgd"):
        drops(dataclasses.replace(profile, data=profile.data.rename(noise_correct="rain_correct")), "rain")
    with pytest.raises(StudyError, match="has no measurement 'noise_paper_correct'"):
        accuracy_drop(profile, "noise_paper")

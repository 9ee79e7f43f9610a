"""Scores of predictions: against scikit-learn, scipy and slow loops; the same however images are split and ordered."""

import json
import math
import os
import re
import runpy
import subprocess
import sys
import types

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cards import fine_tuned

import hf_vitstudy
from hf_vitstudy.cards import evaluate_results, model_card
from hf_vitstudy.errors import StudyError
from hf_vitstudy.metrics import (
    agreement,
    brier,
    calibration_error,
    image_scores,
    mcnemar,
    mean,
    summarise,
    top_k,
)
from hf_vitstudy.stats import coverage


def predictions(n: int = 500, classes: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, classes) as float32 networks give them, right more often than by chance, and labels (n,)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    logits = 2 * rng.normal(size=(n, classes)) + 2 * np.eye(classes)[labels]
    return logits.astype(np.float32), labels


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits.astype(np.float64))
    return weights / weights.sum(1, keepdims=True)


# -------------------------------------------------------------------------------------------------------- per image


@pytest.mark.parametrize("classes", [2, 5, 6, 100])
def test_scores_are_scikit_learn_s(classes):
    logits, labels = predictions(classes=classes)
    found, every = summarise(**image_scores(logits, labels)), np.arange(classes)
    assert found["n"] == len(labels)
    assert found["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels, logits.argmax(1)), abs=1e-15)
    nll = sklearn.metrics.log_loss(labels, softmax(logits), labels=every)
    assert found["nll"] == pytest.approx(nll, rel=1e-12)
    score = sklearn.metrics.brier_score_loss(labels, softmax(logits), labels=every, scale_by_half=False)
    assert mean(brier(logits, labels)) == pytest.approx(score, rel=1e-12)
    if classes > 5:
        expected = sklearn.metrics.top_k_accuracy_score(labels, logits, k=5, labels=every)
        assert 0 < found["accuracy"] < found["top5_accuracy"] < 1
        assert found["top5_accuracy"] == pytest.approx(expected, abs=1e-15)
    else:
        assert found["top5_accuracy"] == 1


@pytest.mark.parametrize("k", [1, 2, 3, 9, 10, 11])
def test_top_k_is_scikit_learn_s(k):
    logits, labels = predictions()
    expected = sklearn.metrics.top_k_accuracy_score(labels, logits, k=k) if k < 10 else 1
    assert mean(top_k(logits, labels, k)) == pytest.approx(expected, abs=1e-15)


def test_of_equal_logits_the_first_class_counts_as_larger():
    logits = np.zeros((7, 7))
    scores = image_scores(logits, np.arange(7))
    assert scores["correct"].tolist() == (logits.argmax(1) == np.arange(7)).tolist() == [True] + [False] * 6
    assert scores["top5"].tolist() == [True] * 5 + [False] * 2
    assert top_k([[1, 2, 2, 2]] * 4, [0, 1, 2, 3], 2).tolist() == [False, True, True, False]


@pytest.mark.parametrize("gap", [0.0, 30.0, 45.0, 800.0, 1e6])
def test_large_and_small_losses_are_exact(gap):
    """Two classes: the loss is log(1 + exp(-gap)) or gap more, without overflow and without rounding to zero."""
    right, wrong = image_scores([[gap, 0], [gap, 0]], [0, 1])["nll"]
    assert right == pytest.approx(math.log1p(math.exp(-gap)), rel=1e-14)
    assert wrong == pytest.approx(gap + math.log1p(math.exp(-gap)), rel=1e-14)
    assert (right > 0) == (gap < 700)


def test_confidence_and_brier_of_a_known_case():
    logits, labels = np.log([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25]]), [1, 1]
    np.testing.assert_allclose(image_scores(logits, labels)["confidence"], [0.7, 0.5], rtol=1e-15)
    np.testing.assert_allclose(brier(logits, labels), [0.49 + 0.64 + 0.01, 0.0625 * 2 + 0.25], rtol=1e-14)


def test_a_constant_added_to_all_logits_changes_nothing():
    logits, labels = predictions(50)
    first, second = image_scores(logits, labels), image_scores(logits.astype(np.float64) + 1024, labels)
    for name in first:
        np.testing.assert_allclose(first[name], second[name], rtol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_tensors_arrays_and_lists_are_the_same(dtype):
    logits = torch.from_numpy(predictions(20)[0]).to(dtype).requires_grad_()
    labels = torch.from_numpy(predictions(20)[1])
    expected = image_scores(logits.detach().double().numpy(), labels.numpy())
    for given_logits, given_labels in ((logits, labels), (logits.tolist(), labels.tolist())):
        found = image_scores(given_logits, given_labels)
        assert all(np.array_equal(found[name], expected[name]) for name in expected)


# ------------------------------------------------------------------------------------------------------- invariance


@pytest.mark.parametrize("size", [1, 2, 7, 64, 499])
@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_the_split_over_batches_changes_no_bit(size, classes):
    logits, labels = predictions(500, classes)
    whole = image_scores(logits, labels) | {"brier": brier(logits, labels)}
    parts = [slice(start, start + size) for start in range(0, 500, size)]
    batches = [
        image_scores(logits[part], labels[part]) | {"brier": brier(logits[part], labels[part])} for part in parts
    ]
    for name, values in whole.items():
        assert np.array_equal(values, np.concatenate([batch[name] for batch in batches])), name


def test_neither_does_the_layout_in_memory():
    logits, labels = predictions(200, 1000)
    first, second = image_scores(logits, labels), image_scores(np.asfortranarray(logits), labels)
    assert all(np.array_equal(first[name], second[name]) for name in first)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_nor_the_order_of_the_images(seed):
    scores = image_scores(*predictions(300))
    order = np.random.default_rng(seed).permutation(300)
    assert summarise(**{name: values[order] for name, values in scores.items()}) == summarise(**scores)


def test_the_mean_is_exact_where_a_running_sum_is_not():
    values = np.array([1e16, 1.0, -1e16, 1.0] * 25)
    assert mean(values) == 0.5
    assert float(np.cumsum(values)[-1] / 100) != 0.5


def test_a_float32_sum_would_depend_on_the_split():
    """So the tests of splits have something to find."""
    nll = image_scores(*predictions())["nll"].astype(np.float32)
    sums = {float(sum((part.sum() for part in np.array_split(nll, k)), np.float32(0))) for k in (1, 2, 3, 7)}
    assert len(sums) > 1


def test_a_summary_is_plain_json():
    found = summarise(**image_scores(*predictions()))
    assert {name: type(value) for name, value in found.items()} == {
        "accuracy": float,
        "top5_accuracy": float,
        "nll": float,
        "ece": float,
        "n": int,
    }


# ------------------------------------------------------------------------------------------------------ calibration


def slow_calibration_error(correct, confidence, bins: int) -> float:
    """Guo et al. 2017, eq. 3, read aloud."""
    total = 0.0
    for m in range(1, bins + 1):
        inside = [i for i, c in enumerate(confidence) if (m - 1) / bins < c <= m / bins or (m == 1 and c == 0)]
        if inside:
            accuracy = sum(bool(correct[i]) for i in inside) / len(inside)
            average = sum(float(confidence[i]) for i in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - average)
    return total


@pytest.mark.parametrize("bins", [1, 2, 10, 15, 100])
def test_the_calibration_error_is_that_of_a_slow_loop(bins):
    scores = image_scores(*predictions())
    confidence = np.round(scores["confidence"], 2)  # many on the edges
    for values in (scores["confidence"], confidence):
        found = calibration_error(scores["correct"], values, bins=bins)
        assert found == pytest.approx(slow_calibration_error(scores["correct"], values, bins), abs=1e-14)
        assert 0 < found < 1


def test_fifteen_bins_are_the_default():
    scores = image_scores(*predictions())
    correct, confidence = scores["correct"], scores["confidence"]
    assert calibration_error(correct, confidence) == calibration_error(correct, confidence, bins=15)
    assert calibration_error(correct, confidence) != calibration_error(correct, confidence, bins=10)
    assert summarise(**scores)["ece"] == calibration_error(correct, confidence)


@pytest.mark.parametrize("bins", [3, 10, 15, 49])
def test_an_edge_belongs_to_the_bin_below(bins):
    """One image on the edge m/M, one just above: apart, their opposite errors do not cancel."""
    for m in range(1, bins):
        edge = m / bins
        above = np.nextafter(edge, 1)
        apart = calibration_error([1, 0], [edge, above], bins=bins)
        assert apart == pytest.approx(((1 - edge) + above) / 2)
        below = np.nextafter(edge, 0)
        assert calibration_error([1, 0], [edge, below], bins=bins) == pytest.approx(abs(1 - edge - below) / 2)


def test_the_ends_are_inside():
    assert calibration_error([1, 0], [1.0, 0.0]) == 0
    assert calibration_error([0, 1], [1.0, 0.0]) == 1


def test_a_calibrated_classifier_has_a_small_error_and_an_overconfident_one_a_large():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.2, 1, 50_000)
    assert calibration_error(rng.random(50_000) < confidence, confidence) < 0.01
    assert calibration_error(rng.random(50_000) < confidence - 0.2, confidence) == pytest.approx(0.2, abs=0.01)


# -------------------------------------------------------------------------------------------------- two classifiers


def discordant(wins: int, losses: int, both: int = 7, neither: int = 3) -> tuple[np.ndarray, np.ndarray]:
    first = [1] * (wins + both) + [0] * (losses + neither)
    second = [0] * wins + [1] * (both + losses) + [0] * neither
    return np.array(first), np.array(second)


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (0, 6), (5, 5), (9, 3), (25, 40), (300, 200)])
def test_mcnemar_is_a_sum_of_binomial_coefficients(wins, losses):
    n = wins + losses
    tail = sum(math.comb(n, k) for k in range(min(wins, losses) + 1)) / 2**n
    found = mcnemar(*discordant(wins, losses))
    assert found["p_value"] == pytest.approx(min(1, 2 * tail), rel=1e-10)
    assert (found["statistic"], found["n_discordant"], found["n"]) == (min(wins, losses), n, n + 10)
    assert found["accuracy1"] == pytest.approx((wins + 7) / (n + 10))
    assert found["accuracy2"] == pytest.approx((losses + 7) / (n + 10))


def test_mcnemar_of_a_published_table():
    """Approval of a prime minister in two surveys of the same 1,600 people (Agresti, Categorical Data Analysis, chapter on
    matched pairs): z = 4.17; the exact test is close to the normal one."""
    found = mcnemar(*discordant(150, 86, both=794, neither=570))
    z = (150 - 86) / math.sqrt(150 + 86)
    assert round(z, 2) == 4.17
    assert found["p_value"] == pytest.approx(2 * scipy.stats.norm.sf(z), rel=0.3)
    assert (found["n"], found["accuracy1"], found["accuracy2"]) == (1600, 0.59, 0.55)


def test_mcnemar_does_not_care_who_is_first():
    first, second = discordant(9, 3)
    one, other = mcnemar(first, second), mcnemar(second, first)
    assert one["p_value"] == other["p_value"]
    assert (one["accuracy1"], one["accuracy2"]) == (other["accuracy2"], other["accuracy1"])


@pytest.mark.parametrize("classes", [2, 3, 50])
def test_agreement_and_kappa_are_scikit_learn_s(classes):
    rng = np.random.default_rng(0)
    first = rng.integers(0, classes, 200)
    second = np.where(rng.random(200) < 0.6, first, rng.integers(0, classes, 200))
    found = agreement(first, second)
    assert found["agreement"].value == np.mean(first == second)
    assert found["kappa"].value == pytest.approx(sklearn.metrics.cohen_kappa_score(first, second), abs=1e-14)
    assert found["kappa"].low < found["kappa"].value < found["kappa"].high
    interval = scipy.stats.binomtest(int((first == second).sum()), 200).proportion_ci(method="wilson")
    assert found["agreement"].low == pytest.approx(interval.low, rel=1e-12)
    assert found["agreement"].high == pytest.approx(interval.high, rel=1e-12)


def test_kappa_s_interval_leaves_out_each_image():
    rng = np.random.default_rng(1)
    first, second = rng.integers(0, 3, 30), rng.integers(0, 3, 30)
    second[:15] = first[:15]
    without = [sklearn.metrics.cohen_kappa_score(np.delete(first, i), np.delete(second, i)) for i in range(30)]
    error = math.sqrt(29 / 30 * ((without - np.mean(without)) ** 2).sum())
    found = agreement(first, second, level=0.9)["kappa"]
    half = scipy.stats.t.ppf(0.95, 29) * error
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), rel=1e-10)
    assert (found.n, found.level) == (30, 0.9)


def test_kappa_s_interval_holds_the_truth_as_often_as_it_says():
    """Two classes, 60 % and 70 % of them zero, equal in 80 %: kappa = (0.8 - 0.54) / (1 - 0.54)."""
    cells, joint = [(0, 0), (0, 1), (1, 0), (1, 1)], [0.55, 0.05, 0.15, 0.25]

    def study(rng):
        pairs = np.array(cells)[rng.choice(4, size=150, p=joint)]
        found = agreement(pairs[:, 0], pairs[:, 1])["kappa"]
        return found.low, found.high

    truth = (0.8 - (0.6 * 0.7 + 0.4 * 0.3)) / (1 - (0.6 * 0.7 + 0.4 * 0.3))
    assert 0.92 < coverage(study, truth, 1000) < 0.98


def test_kappa_of_equal_and_of_constant_predictions():
    assert agreement([0, 1, 2, 1], [0, 1, 2, 1])["kappa"].value == 1
    constant = agreement([4, 4, 4], [4, 4, 4])
    assert constant["agreement"].value == 1
    assert math.isnan(constant["kappa"].value)
    assert math.isnan(agreement([0, 1], [0, 0])["kappa"].low)


# --------------------------------------------------------------------------------------------------------- bad input

LOGITS, LABELS = np.eye(3), np.arange(3)
BAD = {
    "one row": (lambda: image_scores(LOGITS[0], LABELS), r"logits must be \(image, class\).* got shape \(3,\)"),
    "no image": (lambda: image_scores(np.empty((0, 3)), []), r"at least one image and class, got shape \(0, 3\)"),
    "no class": (lambda: brier(np.empty((3, 0)), LABELS), r"at least one image and class, got shape \(3, 0\)"),
    "ragged": (lambda: image_scores([[1.0, 2.0], [1.0]], [0, 1]), "logits must have rows of one length"),
    "words": (lambda: image_scores([["a", "b"]], [0]), "logits must be numbers, got <U1"),
    "NaN": (lambda: image_scores(LOGITS * [1, np.nan, 1], LABELS), "logits of image 0 are not finite; look at"),
    "inf": (lambda: top_k(np.where(LOGITS == 0, LOGITS, [[1], [1], [np.inf]]), LABELS, 1), "image 2 are not finite"),
    "label too large": (
        lambda: image_scores(LOGITS, [0, 3, 1]),
        "label of image 1 is 3, but logits are of classes 0 to 2",
    ),
    "unknown label": (lambda: image_scores(LOGITS, [0, 1, -1]), "label of image 2 is -1.*leave out unlabelled images"),
    "labels of others": (lambda: image_scores(LOGITS, [0, 1]), "one label per image, got 2 labels for 3 images"),
    "labels one-hot": (lambda: image_scores(LOGITS, LOGITS), r"labels must be \(image,\).*got shape \(3, 3\)"),
    "labels no integers": (
        lambda: image_scores(LOGITS, [0.0, 1.0, 2.0]),
        "labels must be class indices .* got float64",
    ),
    "k": (lambda: top_k(LOGITS, LABELS, 0), "k must be a whole number, at least 1, got 0"),
    "bins": (lambda: calibration_error([1], [0.5], bins=0), "bins must be a whole number, at least 1, got 0"),
    "logits as confidence": (lambda: calibration_error([1, 0], [3.0, 0.5]), r"confidence must be in \[0, 1\]"),
    "classes as correct": (lambda: calibration_error([2, 0], [0.5, 0.5]), "correct must be true or false"),
    "lengths": (
        lambda: summarise([1], [1], [0.1], [0.5, 0.6]),
        "same images, got 1 correct, 1 top5, 1 nll, 2 confidence",
    ),
    "empty": (
        lambda: summarise([], [], [], []),
        r"correct must be \(image,\) with at least one image, got shape \(0,\)",
    ),
    "loss": (lambda: summarise([1], [1], [np.inf], [0.5]), "nll of image 0 is not finite; leave the image out"),
    "mcnemar": (lambda: mcnemar([1, 0], [1]), "same images, got 2 correct1, 1 correct2"),
    "agreement": (lambda: agreement([1, 0], [1]), "same images, got 2 predictions1, 1 predictions2"),
    "no classes": (lambda: agreement([0.5], [1]), "predictions1 must be class indices"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_said(case):
    call, message = BAD[case]
    with pytest.raises(StudyError, match=message):
        call()


def test_neither_torch_nor_evaluate_is_loaded():
    script = (
        "import sys, hf_vitstudy.metrics as m; m.summarise(**m.image_scores([[1., 2.]], [1])); m.agreement([1, 2], [1, 1]);"
        "print(sorted({'torch', 'evaluate', 'datasets', 'transformers', 'scipy.stats'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


# -------------------------------------------------------------------------------------------------- evaluate modules


@pytest.fixture(scope="module")
def modules():
    from hf_vitstudy import evaluation_modules

    return evaluation_modules


@pytest.fixture
def metric(modules, tmp_path):
    """Makes a module by its name, with a cache of its own."""
    return lambda name, **options: getattr(modules, name)(cache_dir=str(tmp_path), **options)


METRICS = ["Accuracy", "TopKAccuracy", "NegativeLogLikelihood", "ExpectedCalibrationError"]
MODULES = [*METRICS, "McNemar", "Agreement", "CKA"]


@pytest.mark.parametrize("form", ["array", "tensor", "list"])
def test_combined_metrics_are_the_summary(metric, form):
    import evaluate

    logits, labels = predictions(97)
    logits = logits / np.float64(3)  # not to be rounded to float32 on the way
    expected = summarise(**image_scores(logits, labels))
    del expected["n"]
    combined = evaluate.combine([metric(name) for name in METRICS])
    make = {"array": np.asarray, "tensor": torch.from_numpy, "list": np.ndarray.tolist}[form]
    for start in range(0, 97, 20):
        combined.add_batch(predictions=make(logits[start : start + 20]), references=make(labels[start : start + 20]))
    assert combined.compute() == expected
    assert combined.compute(predictions=make(logits), references=make(labels)) == expected, "and once more"


def test_images_may_come_one_by_one(metric):
    import evaluate

    logits, labels = predictions(5)
    combined = evaluate.combine([metric(name) for name in METRICS])
    for row, label in zip(logits, labels, strict=True):
        combined.add(prediction=row, reference=label)
    found = combined.compute()
    assert found == {name: value for name, value in summarise(**image_scores(logits, labels)).items() if name != "n"}


def test_accuracy_takes_classes_too(metric):
    assert metric("Accuracy").compute(predictions=[0, 1, 1, 2], references=[0, 1, 2, 2]) == {"accuracy": 0.75}


def test_options_are_given_once_or_per_call(metric):
    logits, labels = predictions()
    top3 = mean(top_k(logits, labels, 3))
    scores = image_scores(logits, labels)
    ten = calibration_error(scores["correct"], scores["confidence"], bins=10)
    given = {"predictions": logits, "references": labels}
    assert (
        metric("TopKAccuracy", k=3).compute(**given)
        == metric("TopKAccuracy").compute(**given, k=3)
        == {"top3_accuracy": top3}
    )
    once, each = metric("ExpectedCalibrationError", bins=10), metric("ExpectedCalibrationError")
    assert once.compute(**given) == each.compute(**given, bins=10) == {"ece": ten}


def test_a_comparison_needs_labels_too(metric):
    with pytest.raises(StudyError, match="label of image 1 is -1, expected 0 or more"):
        metric("McNemar").compute(predictions1=[0, 1], predictions2=[0, 1], references=[0, -1])


@pytest.mark.parametrize("k", [2.5, 0, -1, True, "2", np.float64(2)])
def test_a_k_that_is_no_number_of_logits_is_refused(metric, k):
    given = {"predictions": LOGITS, "references": LABELS}
    for call in (lambda: metric("TopKAccuracy", k=k).compute(**given), lambda: top_k(LOGITS, LABELS, k)):
        with pytest.raises(StudyError, match=f"k must be a whole number, at least 1, got {re.escape(repr(k))}"):
            call()


def test_a_k_of_numpy_will_do(metric):
    found = metric("TopKAccuracy", k=np.int64(2)).compute(predictions=LOGITS, references=LABELS)
    assert list(found) == ["top2_accuracy"]


def test_comparisons_are_the_plain_functions(metric):
    logits, labels = predictions(200, 4)
    others = predictions(200, 4, seed=1)[0]
    first, second = logits.argmax(1), others.argmax(1)
    pairs = {"predictions1": first, "predictions2": second}
    assert metric("McNemar").compute(**pairs, references=labels) == mcnemar(first == labels, second == labels)
    found = metric("Agreement").compute(predictions1=torch.from_numpy(logits), predictions2=second)
    expected = agreement(first, second)
    assert list(found) == ["agreement", "agreement_low", "agreement_high", "kappa", "kappa_low", "kappa_high", "n"]
    assert (found["kappa"], found["kappa_low"], found["n"]) == (expected["kappa"].value, expected["kappa"].low, 200)
    assert (found["agreement"], found["agreement_high"]) == (expected["agreement"].value, expected["agreement"].high)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_says_what_it_is(metric, modules, name):
    info = metric(name).info
    assert name in modules.__dict__
    assert info.module_type == ("metric" if name in METRICS else "measurement" if name == "CKA" else "comparison")
    assert info.description.endswith((".", "?"))
    assert info.citation.startswith("@")
    assert "Args:" in info.inputs_description
    assert "Returns:" in info.inputs_description
    assert all(feature in info.inputs_description for feature in info.features)
    assert info.license == "Apache-2.0"
    assert all(url.startswith("https://") for url in info.reference_urls)
    assert info.reference_urls


BAD_CALLS = {
    "probabilities for classes": ("Accuracy", ([0.2, 0.7], [0, 1]), "predictions must be class indices"),
    "classes for logits": ("TopKAccuracy", ([0, 1], [0, 1]), r"logits must be \(image, class\)"),
    "lengths": ("Accuracy", ([0, 1], [0]), "same images, got 2 predictions, 1 references"),
    "lengths of logits": ("NegativeLogLikelihood", (LOGITS, [0]), "same images, got 3 predictions, 1 references"),
    "label": ("ExpectedCalibrationError", (LOGITS, [0, 1, 3]), "label of image 2 is 3"),
    "no label": ("Accuracy", ([0, 1], [0, -1]), "label of image 1 is -1, expected 0 or more; leave out unlabelled"),
    "no label of logits": ("TopKAccuracy", (LOGITS, [0, 1, -1]), "label of image 2 is -1"),
    "NaN": ("NegativeLogLikelihood", (LOGITS * np.nan, LABELS), "image 0 are not finite"),
    "empty": ("Accuracy", ([], []), "at least one image"),
    "nothing": ("Accuracy", (None, [0]), "expected predictions, references, got references"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_a_bad_batch_is_refused_and_not_added(metric, case):
    name, (values, labels), message = BAD_CALLS[case]
    module = metric(name)
    with pytest.raises(StudyError, match=message):
        module.add_batch(predictions=values, references=labels)
    assert len(module) == 0
    assert module.compute(predictions=LOGITS, references=LABELS)


def test_batches_of_different_classes_are_refused(metric):
    module = metric("TopKAccuracy")
    for classes in (10, 12):
        module.add_batch(predictions=np.eye(classes), references=np.arange(classes))
    with pytest.raises(StudyError, match=r"every batch must have logits of the same classes, got \[10, 12\]"):
        module.compute()


TWO_PROCESSES = """
import json, os, sys
sys.modules["transformers"] = None  # evaluate then leaves out its pipelines, which take most of its 10 s
from hf_vitstudy.evaluation_modules import ExpectedCalibrationError, NegativeLogLikelihood
del sys.modules["transformers"]
import numpy as np
data = dict(np.load(sys.argv[1] + "/data.npz"))  # read now: both processes would share the place in the open file
rank = 0 if os.fork() else 1
for name, kind in (("nll", NegativeLogLikelihood), ("ece", ExpectedCalibrationError)):
    module = kind(cache_dir=sys.argv[1], num_process=2, process_id=rank, experiment_id="two", timeout=60)
    rows = np.arange(rank, 97, 2)
    for part in np.array_split(rows, 3 + rank):
        module.add_batch(predictions=data["logits"][part], references=data["labels"][part])
    found = module.compute()
    assert (found is None) == (rank == 1)
    if rank == 0:
        print(json.dumps(found))
if rank == 0:
    assert os.wait()[1] == 0
"""


def test_two_processes_give_the_value_of_one(tmp_path):
    logits, labels = predictions(97)
    np.savez(tmp_path / "data.npz", logits=logits, labels=labels)
    command = [sys.executable, "-c", TWO_PROCESSES, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[0]) | json.loads(done.stdout.splitlines()[1])
    expected = summarise(**image_scores(logits, labels))
    assert found == {name: expected[name] for name in ("nll", "ece")}


# ------------------------------------------------------------------------------------------------------------- CKA


def features(n: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two related sets of features of n images, of different size."""
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(n, 7))
    return first, first @ rng.normal(size=(7, 5)) + rng.normal(size=(n, 5))


def slow_cka(first: np.ndarray, second: np.ndarray) -> float:
    """By the three terms of the unbiased HSIC (Song et al. 2012, eq. 5)."""

    def hsic(K: np.ndarray, L: np.ndarray) -> float:
        n = len(K)
        K, L = K - np.diag(np.diag(K)), L - np.diag(np.diag(L))
        ones = np.ones(n)
        terms = (
            np.trace(K @ L),
            ones @ K @ ones * (ones @ L @ ones) / ((n - 1) * (n - 2)),
            ones @ K @ L @ ones * 2 / (n - 2),
        )
        return (terms[0] + terms[1] - terms[2]) / (n * (n - 3))

    K, L = first @ first.T, second @ second.T
    return hsic(K, L) / math.sqrt(hsic(K, K) * hsic(L, L))


@pytest.mark.parametrize("n", [5, 40])
def test_cka_is_the_unbiased_one_with_the_jackknife_over_images(metric, n):
    first, second = features(n)
    found = metric("CKA").compute(features1=first, features2=second)
    value = slow_cka(first, second)
    assert found["cka"] == pytest.approx(value, abs=1e-9)
    assert found["n"] == n
    if n > 5:  # 4 are left
        without = [slow_cka(np.delete(first, i, 0), np.delete(second, i, 0)) for i in range(n)]
        error = math.sqrt((n - 1) / n * ((without - np.mean(without)) ** 2).sum())
        half = scipy.stats.t.ppf(0.975, n - 1) * error
        assert (found["cka_low"], found["cka_high"]) == pytest.approx((value - half, value + half), abs=1e-9)


def test_cka_ignores_scale_shift_rotation_form_and_batches(metric):
    first, second = features()
    expected = metric("CKA").compute(features1=first, features2=second)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]
    module = metric("CKA")
    for part in np.array_split(np.arange(40), 3):
        module.add_batch(
            features1=torch.from_numpy(first[part].reshape(len(part), 7, 1)),
            features2=(3 * second[part] @ rotation + 2).tolist(),
        )
    assert module.compute() == pytest.approx(expected, abs=1e-9)
    assert metric("CKA").compute(features1=first, features2=-5 * first)["cka"] == pytest.approx(1)


@pytest.mark.parametrize("scale", [1e200, 1e-200, 1e307, 1e-300])
def test_cka_of_huge_and_of_tiny_features_is_that_of_others(metric, scale):
    """Their products are beyond what a float holds."""
    first, second = features()
    expected = metric("CKA").compute(features1=first, features2=second)
    found = metric("CKA").compute(features1=first * scale, features2=second / scale if scale > 1 else second)
    assert found == pytest.approx(expected, abs=1e-9)


def test_cka_sees_what_differs_beside_a_huge_constant(metric):
    first, second = features()
    expected = metric("CKA").compute(features1=first, features2=second)
    beside = np.concatenate([first * 1e-3, np.full((len(first), 1), 1e250)], axis=1)
    assert metric("CKA").compute(features1=beside, features2=second) == pytest.approx(expected, abs=1e-9)


def test_cka_of_what_is_always_the_same_is_undefined(metric):
    found = metric("CKA").compute(features1=np.full((40, 3), 0.1), features2=features()[1])
    assert math.isnan(found["cka"])
    assert math.isnan(found["cka_low"])


BAD_FEATURES = {
    "one row": (np.ones(5), np.ones((5, 2)), r"features1 must be numbers \(image, ...\).* got float64 \(5,\)"),
    "words": (np.ones((5, 2)), [["a"]] * 5, "features2 must be numbers"),
    "no feature": (np.ones((5, 0)), np.ones((5, 2)), r"features1 must be numbers .* got float64 \(5, 0\)"),
    "NaN": (np.eye(5) * [1, 1, np.nan, 1, 1], np.eye(5), "features1 of image 0 are not finite"),
    "lengths": (np.eye(5), np.eye(4), "same images, got 5 features1, 4 features2"),
    "too few": (np.eye(4), np.eye(4), "CKA with an interval needs at least 5 images, got 4"),
    "one only": (np.eye(5), None, "expected features1, features2, got features1"),
}


@pytest.mark.parametrize("case", BAD_FEATURES)
def test_bad_features_are_refused(metric, case):
    first, second, message = BAD_FEATURES[case]
    with pytest.raises(StudyError, match=message):
        metric("CKA").compute(features1=first, features2=second)


def test_features_of_another_length_are_refused(metric):
    module = metric("CKA")
    for width in (3, 4):
        module.add_batch(features1=np.eye(5, width), features2=np.eye(5))
    with pytest.raises(StudyError, match=r"every batch must have features of the same length, got \[3, 4\]"):
        module.compute()


# ---------------------------------------------------------------------------------------------------------- a Space


class Gradio(types.ModuleType):
    """As much of gradio as the Space's app needs: it remembers what it was given."""

    class Error(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("gradio")
        self.Textbox = self.Code = lambda *args, **options: (args, options)
        self.Interface = lambda compute, **options: {"compute": compute, **options}


@pytest.mark.parametrize("name", ["accuracy", "top_k_accuracy", "nll", "ece", "mcnemar", "agreement", "cka"])
def test_a_module_s_space_has_an_app_that_computes(modules, name, tmp_path, monkeypatch):
    from huggingface_hub import SpaceCard

    folder = modules.write_module(name, tmp_path / f"my-{name}")
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["README.md", "app.py", f"my-{name}.py", "requirements.txt"]
    )
    card = SpaceCard.load(folder / "README.md")
    kind = modules.MODULES[name]().info.module_type
    assert (card.data.sdk, card.data.app_file, card.data.tags) == ("gradio", "app.py", ["evaluate", kind])
    assert f'evaluate.load("ORG/my-{name}").compute(' in card.text
    compile(re.search(r"```python\n(.*?)```", card.text, re.S)[1], "card", "exec")
    assert (folder / "requirements.txt").read_text().splitlines()[0] == f"hf_vitstudy=={hf_vitstudy.__version__}"
    gradio = Gradio()
    monkeypatch.setitem(sys.modules, "gradio", gradio)
    app = runpy.run_path(str(folder / "app.py"))
    given = [box[0][0] for box in app["demo"]["inputs"]]
    found = json.loads(app["compute"](*given))
    assert found == modules.MODULES[name]().compute(**app["EXAMPLES"])
    with pytest.raises(gradio.Error, match="Expecting value"):
        app["compute"](*["nothing"] * len(given))


LOADED = """
import sys
sys.modules["transformers"] = None  # evaluate then leaves out its pipelines, which take most of its 10 s
import evaluate
del sys.modules["transformers"]
module = evaluate.load(sys.argv[1], cache_dir=sys.argv[2])
print(module.module_type, module.compute(predictions1=[0, 1, 1], predictions2=[0, 1, 0])["agreement"])
"""


def test_evaluate_loads_what_was_written(modules, tmp_path):
    """From the folder, as it does from a Space: by the file that is called like the folder."""
    folder = modules.write_module("agreement", tmp_path / "my-agreement", sdk="static")
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", LOADED, str(folder), str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)
    assert done.stdout == f"comparison {2 / 3}\n", done.stderr


def test_a_static_space_is_a_page_that_escapes_what_it_is_given(modules, tmp_path):
    from huggingface_hub import SpaceCard

    folder = modules.write_module("cka", tmp_path / "cka", sdk="static", requirement="hf_vitstudy<9")
    assert not (folder / "app.py").exists()
    data = SpaceCard.load(folder / "README.md").data
    assert (data.sdk, data.app_file) == ("static", "index.html")
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert "pip install &#x27;hf_vitstudy&lt;9&#x27; evaluate" in page or "'hf_vitstudy&lt;9'" in page
    assert modules.MODULES["cka"]().info.description in page


BAD_SPACES = {
    "module": (("acuracy", "x"), {}, "no module 'acuracy'; did you mean accuracy"),
    "sdk": (("cka", "x"), {"sdk": "docker"}, "sdk must be 'gradio' or 'static', got 'docker'"),
    "name": (("cka", "my cka"), {}, "the folder is named as the Space: .* got 'my cka'"),
    "hidden": (("cka", ".cka"), {}, "the folder is named as the Space: .* got '.cka'"),
    "dots": (("cka", "cka.v2"), {}, "the folder is named as the Space: .* no dot, .* got 'cka.v2'"),
}


@pytest.mark.parametrize("case", BAD_SPACES)
def test_a_space_that_cannot_be_is_refused(modules, case, tmp_path):
    (name, folder), options, message = BAD_SPACES[case]
    with pytest.raises(StudyError, match=message):
        modules.write_module(name, tmp_path / folder, **options)
    assert not (tmp_path / folder).exists()


# ------------------------------------------------------------------------------------------------ results of a model


def test_evaluate_would_push_the_results_that_the_card_shows(monkeypatch):
    """Through `evaluate.push_to_hub` itself, without a network: what it would write is what the card holds already."""
    from evaluate import hub
    from huggingface_hub import CardData, ModelCard
    from huggingface_hub.repocard_data import model_index_to_eval_results

    record, sent = fine_tuned(), []
    for name in ("dataset_info", "model_info"):
        monkeypatch.setattr(hub, name, lambda repo: None)
    monkeypatch.setattr(hub, "metadata_update", lambda repo_id, metadata, overwrite: sent.append(metadata))
    for result in evaluate_results(record):
        hub.push_to_hub(model_id="me/vit", **result)
    shown = ModelCard(model_card(record, name="me/vit")).data.to_dict()["model-index"]
    assert len(sent) == 4
    for metadata, expected in zip(sent, model_index_to_eval_results(shown)[1], strict=True):
        (index,) = metadata["model-index"]
        (found,) = model_index_to_eval_results([index | {"name": "vit"}])[1]
        assert found == expected
        assert "!!" not in CardData(**metadata).to_yaml()


def test_other_tasks_are_refused_by_evaluate():
    """So that the test above is known to pass through the check of `evaluate`."""
    from evaluate import hub

    result = evaluate_results(fine_tuned())[0] | {"task_type": "sorting"}
    with pytest.raises(ValueError, match="Task type not supported"):
        hub.push_to_hub(model_id="me/vit", **result)

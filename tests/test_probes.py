"""Probes against scikit-learn and brute force, on data with a known answer."""

import numpy as np
import pytest
import torch

from hf_vitstudy import StudyError, load_checkpoint, load_images, load_profile, measure
from hf_vitstudy.analyses import Batch, NotApplicableError, make_analysis, probes
from hf_vitstudy.blocks import Block
from hf_vitstudy.checkpoints import Checkpoint
from hf_vitstudy.states import State


QUICK = {"workers": 0, "progress": False, "batch_size": 8}


def clusters(n: int, classes: int, width: int, *, spread: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features around one centre per class, and labels in turn."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    return rng.normal(size=(classes, width))[labels] * 3 + spread * rng.normal(size=(n, width)), labels


# ------------------------------------------------------------------------------------------------------------- ridge


@pytest.mark.parametrize("width", [5, 200], ids=["primal", "dual"])
@pytest.mark.parametrize("strength", [0.01, 1.0, 300.0])
def test_scores_are_scikit_learn_s_ridge(width, strength):
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(40, width)), rng.normal(size=(30, width))
    train = train - train.mean(0)
    y = rng.choice([-1.0, 1.0], (40, 3))
    found, chosen = probes.ridge_scores(train, test, y, np.array([strength]))
    expected = Ridge(alpha=strength, solver="svd").fit(train, y).predict(test)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert chosen == strength


@pytest.mark.parametrize("width", [5, 200], ids=["primal", "dual"])
def test_the_strength_is_the_one_with_the_least_error_when_images_are_left_out_one_by_one(width):
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(1)
    latent = rng.normal(size=(24, 3))
    train = latent @ rng.normal(size=(3, width)) + rng.normal(size=(24, width))
    train = train - train.mean(0)
    y = np.sign(latent + rng.normal(size=(24, 3)))
    strengths = 4.0 ** np.arange(-2, 9)
    errors = []
    for strength in strengths:
        left = []
        for image in range(24):
            rest = np.arange(24) != image
            model = Ridge(alpha=strength, solver="svd").fit(train[rest], y[rest])
            left.append(((model.predict(train[[image]]) - y[image]) ** 2).mean())
        errors.append(np.mean(left))
    assert probes.ridge_scores(train, train, y, strengths)[1] == strengths[int(np.argmin(errors))]
    assert 0 < int(np.argmin(errors)) < len(strengths) - 1, "the case has an inner minimum"


@pytest.mark.parametrize("probe", [probes.ridge_probe, probes.logistic_probe])
@pytest.mark.parametrize("width", [8, 100])
def test_separable_classes_are_told_apart(probe, width):
    features, labels = clusters(160, 4, width)
    predicted, _ = probe(features[:40], labels[:40] + 7, features[40:])
    assert (predicted == labels[40:] + 7).mean() > 0.99


@pytest.mark.parametrize("probe", [probes.ridge_probe, probes.logistic_probe])
def test_shuffled_labels_leave_chance(probe):
    features, labels = clusters(1040, 4, 20)
    shuffled = np.random.default_rng(1).permutation(labels[:40])
    accuracy = (probe(features[:40], shuffled, features[40:])[0] == labels[40:]).mean()
    rates = []
    for seed in range(20):
        shuffled = np.random.default_rng(seed).permutation(labels[:40])
        rates.append((probe(features[:40], shuffled, features[40:])[0] == labels[40:]).mean())
    assert np.mean(rates) == pytest.approx(0.25, abs=0.08)
    assert accuracy < 0.7


def test_a_huge_channel_and_a_constant_one_change_nothing():
    features, labels = clusters(160, 4, 12, spread=6)
    plain = probes.ridge_probe(features[:80], labels[:80], features[80:])
    scaled = features * np.r_[1e4, np.ones(11)] + np.r_[1e4, np.zeros(11)]
    with_constant = np.c_[scaled, np.full(160, 0.1, dtype=np.float32)]
    for changed in (scaled, with_constant):
        predicted, strength = probes.ridge_probe(changed[:80], labels[:80], changed[80:])
        assert strength == plain[1]
        assert (predicted == plain[0]).all()


def test_the_last_digits_of_a_constant_are_no_signal():
    labels = np.arange(40) % 2
    predicted, _ = probes.ridge_probe(1e5 + 1e-3 * labels[:, None], labels, 1e5 + 1e-3 * labels[:, None])
    assert len(set(predicted)) == 1


def test_features_that_say_nothing_give_no_number_out_of_range():
    predicted, _ = probes.ridge_probe(np.ones((10, 3)), np.arange(10) % 2, np.ones((4, 3)))
    assert set(predicted) <= {0, 1}


# ------------------------------------------------------------------------------------------------------------- split


def test_a_split_has_the_shots_of_every_class_and_the_rest():
    targets = np.random.default_rng(0).integers(0, 5, 100)
    targets[::10] = -1
    train, test = probes.few_shot_split(targets, 6, seed=3)
    assert [int((targets[train] == label).sum()) for label in range(5)] == [6] * 5
    assert not set(train) & set(test)
    assert sorted([*train, *test]) == np.flatnonzero(targets >= 0).tolist()
    again, other = probes.few_shot_split(targets, 6, seed=3)[0], probes.few_shot_split(targets, 6, seed=4)[0]
    assert np.array_equal(train, again)
    assert not np.array_equal(train, other)


BAD_SPLITS = {
    "no labels": (np.full(20, -1), 3, "labelled images of at least 2 classes, got 0"),
    "one class": (np.zeros(20, dtype=int), 3, "at least 2 classes, got 1"),
    "a small class": (
        np.r_[np.arange(30) % 3, 5, 5, 5],
        3,
        r"with 3 training images per class need 4 or more of each class, 1 of 4 classes have fewer \(class 5 has 3\)",
    ),
}


@pytest.mark.parametrize("case", BAD_SPLITS)
def test_too_few_images_say_what_to_do(case):
    targets, shots, message = BAD_SPLITS[case]
    with pytest.raises(NotApplicableError, match=message):
        probes.few_shot_split(targets, shots)


# ---------------------------------------------------------------------------------------------------------- analysis


def run(maps: list[torch.Tensor], prefix: torch.Tensor | None, targets: np.ndarray, **options) -> dict:
    """The analysis over token states, (image, token, channel) per block, with one class token or none."""
    n, grid = len(targets), (2, 2)
    blocks = [Block("embedding", "embedding", "e", "input", channels=maps[0].shape[2], grid=grid)]
    blocks += [
        Block(f"b{i}", "mlp", f"b{i}", "output", channels=m.shape[2], grid=grid) for i, m in enumerate(maps[1:])
    ]
    count = 0 if prefix is None else 1
    blocks = [Block(**(block.__dict__ | {"prefix_count": count})) for block in blocks]
    analysis = probes.Probes(**options)
    analysis.start(Checkpoint(torch.nn.Identity(), None, blocks, [], "fake"), n, 16)
    parts = []
    for start in range(0, n, 16):
        here = slice(start, start + 16)
        for block, tokens in zip(blocks, maps, strict=True):
            raw = tokens[here].clone() if prefix is None else torch.cat([prefix[here, None], tokens[here]], 1)
            analysis.visit(block, State(raw, grid, count))
            raw.zero_()  # as a network may overwrite it
        labels = torch.from_numpy(targets[here])
        parts.append(analysis.update(Batch(torch.zeros(len(labels), 3, 1, 1), None, labels * 0 - 1, labels, start)))
    return analysis.result(parts)


def tokens_of(n: int, informative: list[int], classes: int = 4, width: int = 6) -> tuple[torch.Tensor, np.ndarray]:
    """Four tokens, of which only some tell the class."""
    features, labels = clusters(n, classes, width)
    noise = np.random.default_rng(5).normal(size=(n, 4, width)) * 3
    noise[:, informative] = features[:, None]
    return torch.from_numpy(noise).float(), labels


@pytest.mark.parametrize("with_class", [False, True])
def test_every_block_and_feature_has_its_probe(with_class):
    maps, labels = tokens_of(200, [0, 1, 2])
    noise = torch.randn(200, 4, 6, generator=torch.Generator().manual_seed(0))
    prefix = torch.randn(200, 6, generator=torch.Generator().manual_seed(9)) if with_class else None
    found = run([noise, maps.clone(), noise.clone()], prefix, labels, shots=20, tokens=True, logistic=True)
    assert found["probe_feature"].values.tolist() == (["class token", "mean"] if with_class else ["mean"])
    for kind in ("probe_correct", "logistic_correct"):
        accuracy = found[kind].values.mean(0)
        assert found[kind].shape == (120, 3, 1 + with_class)
        assert found[kind].values.dtype == np.uint8
        assert accuracy[1, -1] > 0.8
        assert np.abs(accuracy[[0, 2]] - 0.25).max() < 0.15
    assert found["probe_correct"].attrs["chance"] == 0.25
    assert len(found["probe_image"]) == 120
    expected = [*(["prefix 0"] if with_class else []), "0, 0", "0, 1", "1, 0", "1, 1"]
    assert found["probe_token"].values.tolist() == expected
    assert np.abs(found["token_correct"].values.mean(0) - 0.25).max() < 0.15, "the last block is noise"


def test_each_token_is_probed_by_itself():
    maps, labels = tokens_of(200, [2])
    found = run([maps, maps.clone()], None, labels, shots=20, tokens=True)
    accuracy = found["token_correct"].values.mean(0)
    assert accuracy[2] > 0.95
    assert accuracy[[0, 1, 3]].max() < 0.5


def test_correctness_is_that_of_the_ridge_on_the_split():
    maps, labels = tokens_of(120, [0, 3])
    labels = labels.copy()
    labels[5::40] = -1
    found = run([maps, maps * 2], None, labels, shots=8, seed=2)
    train, test = probes.few_shot_split(labels, 8, 2)
    assert found["probe_image"].values.tolist() == test.tolist()
    features = maps.mean(1).numpy()
    predicted, strength = probes.ridge_probe(features[train], labels[train], features[test])
    assert np.array_equal(found["probe_correct"].values[:, 0, 0], predicted == labels[test])
    assert found["probe_strength"].values[0, 0] == strength


@pytest.mark.parametrize("folder", ["vit_folder", "resnet_folder"])
def test_networks_are_probed_on_the_data_set_s_own_labels(folder, request, image_folder, tmp_path):
    folder = request.getfixturevalue(folder)
    profile = measure(folder, image_folder, n=44, analyses=["probes:shots=2:tokens=true"], out=tmp_path / "p", **QUICK)
    profile = load_profile(tmp_path / "p")
    checkpoint, images = load_checkpoint(folder), load_images(image_folder, n=44)
    pixels = torch.stack([torch.from_numpy(checkpoint.prepare(images[i][0])) for i in range(44)]).float() / 255
    states = checkpoint.read(pixels)[1]
    assert profile.data["probe_block"].values.tolist() == [n for n in states if not n.endswith(".attention")]
    targets = np.array([images[i][1] for i in range(44)])
    train, test = probes.few_shot_split(targets, 2)
    last = list(states.values())[-1]
    features = last.tokens.mean(1).numpy()
    predicted, _ = probes.ridge_probe(features[train], targets[train], features[test])
    found = profile["probe_correct"].sel(probe_feature="mean").values[:, -1]
    assert (found == (predicted == targets[test])).mean() > 0.9  # other batches, other rounding
    assert profile["token_correct"].shape == (24, last.raw[0].numel() // last.raw.shape[1 if last.is_map else 2])


def test_too_few_images_leave_the_other_measurements_alone(vit_folder, image_folder):
    profile = measure(vit_folder, image_folder, n=30, analyses=["variance", "probes"], **QUICK)
    assert "need 11 or more of each class" in profile.provenance["absent"]["probes"]
    assert profile["variance"].shape == (30, 7)
    with pytest.raises(StudyError, match="probes with 10 training images per class"):
        profile["probes"]


def test_more_features_than_memory_are_refused():
    block = Block("b", "mlp", "b", "output", channels=768, grid=(14, 14))
    checkpoint = Checkpoint(torch.nn.Identity(), None, [block], [], "fake")
    with pytest.raises(
        StudyError, match=r"probes of 50000 images keep .* GiB of features, at most 8 GiB.*leave out tokens"
    ):
        probes.Probes(tokens=True).start(checkpoint, 50_000, 32)
    probes.Probes().start(checkpoint, 50_000, 32)
    with pytest.raises(StudyError, match=r"at most 8 GiB are allowed; use fewer images$"):
        probes.Probes().start(checkpoint, 50_000_000, 32)


def test_one_shot_leaves_nothing_to_choose_by():
    with pytest.raises(StudyError, match="probes:shots must be at least 2, got 1"):
        make_analysis("probes:shots=1")

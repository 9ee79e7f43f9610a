"""The training loop: its settings, what decays, what is random, and that a killed run loses nothing."""

import importlib.util
import json
import math
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import yaml
from conftest import save_checkpoint, small_resnet, small_vit, smooth_images
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from hf_vitstudy import StudyError, load_checkpoint
from hf_vitstudy.images import ImageSet


RECIPES = Path(__file__).parents[1] / "recipes"
CONFIGS = sorted((RECIPES / "configs").glob("*.yaml"))
CLASSES = ["circle", "cross", "square"]


def _load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their annotations up there
    spec.loader.exec_module(module)
    return module


finetune = _load(RECIPES / "finetune.py")


@pytest.fixture(autouse=True)
def one_process():
    """A fresh state of accelerate, one thread, and the libraries' own verbosity afterwards."""
    from accelerate.state import AcceleratorState, GradientState
    from transformers.utils import logging

    threads, verbosity = torch.get_num_threads(), logging.get_verbosity()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    logging.set_verbosity(verbosity)
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    """43 training and 17 test images of 3 classes, as parquet files."""
    folder = tmp_path_factory.mktemp("data") / "shapes"
    folder.mkdir()
    for split, n, seed in (("train", 43, 0), ("test", 17, 1)):
        table(coloured(n, seed), [index % 3 for index in range(n)]).to_parquet(folder / f"{split}.parquet")
    return folder


def coloured(n: int, seed: int) -> list[np.ndarray]:
    """Images whose class shows as their colour, so that it can be learned."""
    images = smooth_images(n, 20, seed)
    return [image // 2 + 127 * (np.arange(3) == index % 3).astype(np.uint8) for index, image in enumerate(images)]


def table(images, labels, names=CLASSES) -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)


MODELS = {
    "vit": {
        "type": "vit",
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 12,
        "patch_size": 8,
        "hidden_dropout_prob": 0.2,
    },
    "resnet": {"type": "resnet", "layer_type": "basic", "embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1]},
}


def settings(shapes: Path, output: Path, model: str = "vit") -> dict:
    """20 steps: 4 epochs of 5, a checkpoint after every third."""
    return {
        "model": MODELS[model],
        "data": {"train": str(shapes), "image_size": 16},
        "augment": {"crop": "padded", "padding": 2, "flip": True},
        "optimizer": {"name": "adamw", "lr": 0.01, "weight_decay": 0.05, "warmup_epochs": 1, "clip": 1.0},
        "epochs": 4,
        "batch_size": 8,
        "accumulation": 2,
        "label_smoothing": 0.1,
        "log_every": 4,
        "checkpoint_every": 3,
        "output": str(output),
    }


def write_recipe(folder: Path, recipe: dict) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture
def recipe(shapes, tmp_path) -> Path:
    return write_recipe(tmp_path, settings(shapes, tmp_path / "run"))


def run(recipe: Path, *overrides: str) -> dict:
    """Train in this process; returns the record."""
    finetune.main([str(recipe), *overrides])
    return json.loads((Path(finetune.read_config(recipe, overrides).output) / "training.json").read_text())


def log_lines(folder: Path) -> list[dict]:
    """The log without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


# ----------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.learning_rate=1", "unknown setting optimizer.learning_rate; there are: betas, clip, lr"),
        ("epoch=1", "unknown setting epoch; did you mean epochs"),
        ("epochs=many", "epochs must be int, got 'many'"),
        ("epochs=2.5", r"epochs must be int, got 2.5 \(float\)"),
        ("epochs=true", r"epochs must be int, got True \(bool\)"),
        ("epochs=0", "epochs must be at least 1, got 0"),
        ("optimizer.lr=fast", "optimizer.lr must be float, got 'fast'"),
        ("optimizer.lr=-1", "optimizer.lr must be positive, got -1"),
        ("optimizer.betas=[0.9, x]", r"optimizer.betas\[1\] must be float, got 'x'"),
        ("optimizer.betas=0.9", "optimizer.betas must be list, got 0.9"),
        ("optimizer.name=lion", "optimizer.name must be one of adamw, sgd, got 'lion'"),
        ("label_smoothing=1", r"label_smoothing must be in \[0, 1\), got 1"),
        ("augment=strong", "augment must be a group of settings, got 'strong'"),
        ("epochs.more=1", "epochs in 'epochs.more' is not a group of settings"),
        ("epochs", "expected key=value, got 'epochs'"),
        ("output=[", r"the value of 'output=\[' is not YAML"),
        ("output=7", r"output must be str, got 7 \(int\)"),
    ],
)
def test_wrong_settings_are_named(recipe, override, message):
    with pytest.raises(StudyError, match=message):
        finetune.read_config(recipe, [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {type: vit}", "setting data is missing"),
        ("- a list", "must hold keys and values, got list"),
        ("a: [", "is not plain YAML"),
        ("a: !!python/object/apply:os.getcwd []", "is not plain YAML"),
    ],
)
def test_files_that_are_no_recipe(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(StudyError, match=message):
        finetune.read_config(path)


def test_missing_recipe(tmp_path):
    with pytest.raises(StudyError, match=r"no recipe at .*nothing.yaml"):
        finetune.read_config(tmp_path / "nothing.yaml")


def test_overrides_reach_nested_settings(recipe):
    config = finetune.read_config(
        recipe, ["optimizer.lr=1e-3", "optimizer.clip=null", "model.hidden_size=24", "seed=5"]
    )
    assert config.optimizer.lr == 1e-3  # which YAML itself would read as text
    assert config.optimizer.clip is None
    assert config.model["hidden_size"] == 24
    assert config.seed == 5


def test_identity_is_what_decides_the_weights(recipe, tmp_path):
    def digest(*overrides):
        return finetune.config_sha256(finetune.read_config(recipe, overrides))

    assert digest("output=elsewhere", "data.workers=3", "checkpoint_every=7", "replace=true") == digest()
    assert len({digest(), digest("seed=1"), digest("optimizer.lr=0.02"), digest("model.patch_size=4")}) == 4
    assert str(tmp_path.parent) not in json.dumps(finetune.identity(finetune.read_config(recipe)))


def test_shipped_recipes():
    assert {path.stem for path in CONFIGS} >= {"vit_digits", "resnet_digits"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_recipe_builds_its_network(path):
    config = finetune.read_config(path)
    with torch.device("meta"):
        model = finetune.build_model(config, [str(digit) for digit in range(10)])
    assert model.config.num_labels == 10
    assert len(list(finetune.parameter_groups(model, 0.1)[0]["params"])) > 10
    head = path.read_text().split("\nmodel:")[0]
    assert f"recipes/finetune.py recipes/configs/{path.name}" in head, "the head comment has the command"
    assert "Expected" in head, "the head comment says what to expect"
    assert "Cost" in head, "and what it costs"


# ------------------------------------------------------------------------------------------------------- optimisation

NOT_DECAYED = {"vit": ("bias", "norm", "token", "position"), "resnet": ("bias", "normalization")}


@pytest.mark.parametrize(("kind", "make"), [("vit", small_vit), ("resnet", small_resnet)])
def test_parameter_groups_by_name(kind, make):
    model = make()
    decayed, others = finetune.parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert sorted(decayed["names"] + others["names"]) == sorted(name for name, _ in model.named_parameters())
    for name in decayed["names"]:
        assert not any(part in name for part in NOT_DECAYED[kind]), name
    for name in others["names"]:
        assert any(part in name for part in NOT_DECAYED[kind]), name
    assert decayed["names"]
    assert others["names"]


def test_frozen_parameters_are_not_trained():
    model = small_vit()
    model.vit.requires_grad_(False)
    decayed, others = finetune.parameter_groups(model, 0.1)
    assert decayed["names"] + others["names"] == ["classifier.weight", "classifier.bias"]


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_optimizer(name, kind):
    optimizer = finetune.make_optimizer(small_resnet(), finetune.OptimizerConfig(name, lr=0.1, weight_decay=0.2))
    assert isinstance(optimizer, kind)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2, 0.0]


def test_learning_rate():
    schedule = finetune.Schedule(n=100, batch_size=10, epochs=6, seed=0)
    config = finetune.OptimizerConfig("sgd", lr=2.0, warmup_epochs=1)
    rates = [finetune.learning_rate(config, step, schedule) for step in range(60)]
    np.testing.assert_allclose(rates[:10], 2 * np.arange(1, 11) / 10)
    np.testing.assert_allclose(rates[10:], 1 + np.cos(np.pi * np.arange(50) / 50))


# ------------------------------------------------------------------------------------------------------------- chance


def test_order_is_a_function_of_seed_and_epoch():
    orders = {(seed, epoch): finetune.epoch_order(seed, epoch, 50).tolist() for seed in (0, 1) for epoch in (0, 1)}
    assert all(sorted(order) == list(range(50)) for order in orders.values())
    assert len({tuple(order) for order in orders.values()}) == 4
    torch.manual_seed(99)
    assert finetune.epoch_order(1, 1, 50).tolist() == orders[1, 1]


def test_batches_from_the_middle_are_the_rest():
    schedule = finetune.Schedule(n=43, batch_size=8, epochs=3, seed=0)
    batches = list(finetune.MicroBatches(schedule, 0, 2))
    assert len(batches) == len(finetune.MicroBatches(schedule, 0, 2)) == 30
    assert list(finetune.MicroBatches(schedule, 7, 2)) == batches[14:]
    for epoch in range(3):
        seen = [index for batch in batches[10 * epoch : 10 * (epoch + 1)] for _, index in batch]
        assert len(set(seen)) == len(seen) == 40


@pytest.mark.parametrize(("accumulation", "world"), [(1, 2), (2, 1), (2, 2)])
def test_processes_and_micro_batches_share_the_same_batch(accumulation, world):
    schedule = finetune.Schedule(n=43, batch_size=8, epochs=2, seed=3)
    parts = [list(finetune.MicroBatches(schedule, 0, accumulation, rank, world)) for rank in range(world)]
    for step, batch in enumerate(schedule.keys(0)):
        micro = slice(step * accumulation, (step + 1) * accumulation)
        assert sorted(batch) == sorted(key for part in parts for share in part[micro] for key in share)


def test_batches_that_cannot_be_shared():
    with pytest.raises(StudyError, match=r"batch_size 10 must be a multiple of accumulation x processes \(2 x 2\)"):
        finetune.MicroBatches(finetune.Schedule(43, 10, 1, 0), 0, 2, 0, 2)


def pictures(shapes: Path, limit: float = 1e9, split: str = "train"):
    images = finetune.open_split(str(shapes), split, None)
    return finetune.Pictures(
        images, finetune.labels_of(images, CLASSES), lambda image: image.transpose(2, 0, 1), limit
    )


AUGMENTS = [
    finetune.AugmentConfig("padded", padding=3, flip=True),
    finetune.AugmentConfig("resized", scale=[0.3, 1.0], flip=True),
]


@pytest.mark.parametrize("config", AUGMENTS, ids=lambda config: config.crop)
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_augmentation_is_a_function_of_seed_epoch_and_image(shapes, config):
    augmented = finetune.Augmented(pictures(shapes), finetune.make_augment(config, (20, 20)), seed=1)
    first, label = augmented[2, 5]
    assert first.shape == (3, 20, 20)
    assert first.dtype == torch.uint8
    assert int(label) == 5 % 3
    torch.manual_seed(123)
    augmented[0, 3]
    assert torch.equal(augmented[2, 5][0], first)
    assert not torch.equal(augmented[3, 5][0], first)
    batches = list(finetune.MicroBatches(finetune.Schedule(43, 8, 1, 0), 0, 1))
    for workers in (1, 2):
        loader = DataLoader(augmented, batch_sampler=batches, num_workers=workers, collate_fn=finetune.collate)
        for batch, (pixels, _) in zip(batches, loader, strict=True):
            assert torch.equal(pixels, torch.stack([augmented[key][0] for key in batch]))


def test_no_augmentation_changes_nothing(shapes):
    kept = pictures(shapes)
    augmented = finetune.Augmented(kept, finetune.make_augment(finetune.AugmentConfig(), (20, 20)), seed=1)
    assert torch.equal(augmented[0, 7][0], kept[7][0])


def test_images_that_do_not_fit_are_decoded_when_asked_for(shapes):
    kept, lazy = pictures(shapes), pictures(shapes, limit=1000)
    assert kept.pixels is not None
    assert lazy.pixels is None
    assert all(torch.equal(kept[index][0], lazy[index][0]) for index in range(len(kept)))


def test_unreadable_image_is_named_before_training(tmp_path):
    rows = table(smooth_images(9), [0, 1, 2] * 3).cast_column("image", datasets.Image(decode=False)).to_list()
    rows[5]["image"]["bytes"] = b"no image"
    images = ImageSet(rows, "image", "label", CLASSES, {"name": "broken"})
    with pytest.raises(StudyError, match="image 5 of broken: is not a readable image"):
        finetune.Pictures(images, torch.zeros(9), lambda image: image.transpose(2, 0, 1), 1e9)
    lazy = finetune.Pictures(images, torch.zeros(9), lambda image: image.transpose(2, 0, 1), 0)
    found = finetune.collate([finetune.Augmented(lazy, lambda pixels: pixels, 0)[0, index] for index in (1, 5)])
    assert isinstance(found, StudyError)


# --------------------------------------------------------------------------------------------------------------- data


def test_rows_keep_the_order_of_the_file(shapes):
    images = finetune.open_split(str(shapes), "train", None)
    assert list(images.rows["label"]) == [index % 3 for index in range(43)]
    np.testing.assert_array_equal(images[4][0], coloured(43, 0)[4])


def int_set(labels, classes=CLASSES) -> ImageSet:
    rows = datasets.Dataset.from_dict({"label": labels})
    return ImageSet(rows, "image", "label", classes, {"name": "toys"})


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, None, 2], "row 2 of toys has no label"),
        ([0, 1, 2, -1], "row 3 of toys has no label"),
        ([0, 3, 2], "row 1 of toys has the label 3, there are 3 classes"),
        ([-2, 0], "row 0 of toys has the label -2"),
    ],
)
def test_bad_labels_name_the_row(labels, message):
    with pytest.raises(StudyError, match=message):
        finetune.labels_of(int_set(labels), CLASSES)


def test_labels_are_matched_by_name():
    assert finetune.labels_of(int_set([0, 1, 2, 0], CLASSES[::-1]), CLASSES).tolist() == [2, 1, 0, 2]
    with pytest.raises(StudyError, match="toys has the class 'star', which the training images lack"):
        finetune.labels_of(int_set([0], ["circle", "star"]), CLASSES)


def test_data_without_class_labels(tmp_path):
    rows = datasets.Dataset.from_dict({"image": smooth_images(5)}, datasets.Features({"image": datasets.Image()}))
    rows.to_parquet(tmp_path / "bare.parquet")
    with pytest.raises(StudyError, match=r"bare has no class labels \(columns: image\)"):
        finetune.open_split(str(tmp_path / "bare.parquet"), None, None)


def test_data_without_a_test_split(shapes, tmp_path):
    folder = tmp_path / "half"
    folder.mkdir()
    shutil.copy(shapes / "train.parquet", folder)
    with pytest.raises(StudyError, match=r"has no split to test on; name one with data.test"):
        finetune.open_data(finetune.DataConfig(train=str(folder)))
    both = finetune.DataConfig(train=str(shapes / "train.parquet"), test=str(shapes / "test.parquet"))
    assert [len(images) for images in finetune.open_data(both)] == [43, 17]


def test_splits_taken_for_classes(tmp_path):
    path = tmp_path / "mixed.parquet"
    table(smooth_images(6), [0, 1] * 3, names=["test", "train"]).to_parquet(path)
    with pytest.raises(StudyError, match=r"the classes of .* are \['test', 'train'\]: these are splits"):
        finetune.open_data(finetune.DataConfig(train=str(path), test=str(path)))


def test_too_few_images_for_a_batch(recipe):
    with pytest.raises(StudyError, match="43 training images do not fill one batch of 64"):
        run(recipe, "batch_size=64")


# -------------------------------------------------------------------------------------------------------------- model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"type": "vitt"}, "model.type 'vitt' is no image classifier of transformers; did you mean vit"),
        ({}, "model.type None is no image classifier"),
        ({"type": "vit", "hiden_size": 8}, "unknown setting model.hiden_size; did you mean hidden_size"),
        ({"type": "vit", "image_size": 8}, "model.image_size follows from the data; set data.image_size"),
        ({"type": "vit", "hidden_size": "wide"}, "cannot build .*hidden_size"),
        ({"type": "vit", "hidden_size": 7}, "cannot build .*7"),
        ({"checkpoint": "./nothing/here"}, "cannot build ./nothing/here"),
    ],
)
def test_networks_that_cannot_be_built(recipe, model, message):
    config = finetune.dataclasses.replace(finetune.read_config(recipe), model=model)
    with pytest.raises(StudyError, match=message):
        finetune.build_model(config, CLASSES)


def test_network_from_scratch_needs_a_size(recipe):
    config = finetune.read_config(recipe, ["data.image_size=null"])
    with pytest.raises(StudyError, match=r"data.image_size is missing"):
        finetune.build_model(config, CLASSES)


def finetuned(recipe: Path, checkpoint: Path, *overrides: str):
    override = f"model={json.dumps({'checkpoint': str(checkpoint)})}"
    return finetune.read_config(recipe, [override, "data.image_size=null", *overrides])


@pytest.mark.parametrize("fixture", ["vit_folder", "resnet_folder"])
@pytest.mark.parametrize("classes", [CLASSES, list("abcdefghij")], ids=["other number", "same number"])
def test_fine_tuning_starts_from_the_checkpoint_with_a_new_head(recipe, fixture, classes, request):
    folder = request.getfixturevalue(fixture)
    old = load_checkpoint(folder).network.state_dict()
    config = finetuned(recipe, folder)
    model, again = finetune.build_model(config, classes), finetune.build_model(config, classes)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, old[key])}
    assert changed
    assert all(key.startswith("classifier") for key in changed)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    assert list(model.config.id2label.values()) == classes
    assert finetune.make_processor(config).size["height"] == 32
    assert finetune.make_processor(finetuned(recipe, folder, "data.image_size=48")).size["height"] == 48


def test_weights_that_do_not_fit(recipe, tmp_path):
    folder = save_checkpoint(small_vit(), tmp_path / "cut")
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("vit.layernorm.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StudyError, match=r"the weights of .* do not fit \(vit.layernorm.weight\)"):
        finetune.build_model(finetuned(recipe, folder), CLASSES)


def test_checkpoint_without_processor(recipe, tmp_path):
    small_vit().save_pretrained(tmp_path / "bare")
    with pytest.raises(StudyError, match="cannot load the image processor of"):
        finetune.make_processor(finetuned(recipe, tmp_path / "bare"))


# ------------------------------------------------------------------------------------------------- a run and its output


@pytest.fixture(scope="module")
def whole(shapes, tmp_path_factory) -> dict[str, dict]:
    """Uninterrupted runs by model: record, log and folder."""
    from accelerate.state import AcceleratorState

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = {}
    for model in MODELS:
        folder = tmp_path_factory.mktemp("whole")
        recipe = write_recipe(folder, settings(shapes, folder / "run", model))
        found[model] = {"record": run(recipe), "log": log_lines(folder / "run"), "folder": folder / "run"}
        AcceleratorState._reset_state(True)
    torch.set_num_threads(threads)
    return found


@pytest.mark.parametrize("model", list(MODELS))
def test_output_is_a_checkpoint_with_the_reported_accuracy(whole, shapes, model):
    record, folder = whole[model]["record"], whole[model]["folder"]
    assert not (folder / "resume").exists()
    checkpoint = load_checkpoint(folder)
    images = finetune.open_split(str(shapes), "test", None)
    pixels = np.stack([checkpoint.prepare(images[index][0]) for index in range(len(images))])
    logits, _ = checkpoint.read(torch.from_numpy(pixels).float() / 255, lambda block, state: None)
    labels = torch.tensor([images[index][1] for index in range(len(images))])
    assert record["metrics"]["n"] == 17
    assert record["metrics"]["accuracy"] == pytest.approx((logits.argmax(1) == labels).double().mean().item())
    loss = torch.nn.functional.cross_entropy(logits, labels).item()
    assert record["metrics"]["loss"] == pytest.approx(loss, rel=1e-4)
    assert checkpoint.provenance["classes"] == CLASSES


def test_record_names_no_place(whole, shapes):
    folder = whole["vit"]["folder"]
    for name in ("training.json", "log.jsonl", "config.json", "preprocessor_config.json"):
        text = (folder / name).read_text()
        assert str(shapes.parent) not in text
        assert os.uname().nodename not in text
    record = whole["vit"]["record"]
    assert record["data"]["train"]["n"] == 43
    assert record["data"]["train"]["name"] == "shapes"
    assert set(record["versions"]) >= {"torch", "transformers", "accelerate", "hf_vitstudy"}


def test_log_has_every_step_and_evaluation(whole):
    log = whole["vit"]["log"]
    assert [line["step"] for line in log if "loss" in line] == [4, 8, 12, 16, 20]
    assert [line["step"] for line in log if "test" in line] == [5, 10, 15, 20]
    assert log[-1]["test"] == whole["vit"]["record"]["metrics"]
    assert log[0]["loss"] == pytest.approx(math.log(3), rel=0.3)


def test_accumulation_changes_nothing_but_rounding(recipe, tmp_path):
    """Without dropout and batch statistics, two micro-batches are one batch."""
    plain = ["model.hidden_dropout_prob=0", "epochs=1"]
    for parts in (1, 2):
        run(recipe, *plain, f"accumulation={parts}", f"output={tmp_path / str(parts)}")
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in "12")
    assert all(torch.allclose(one[key], two[key], atol=1e-4) for key in one)


def test_learns(recipe):
    record = run(recipe, "epochs=20", "eval_every=20", "model.initializer_range=0.2")
    assert record["metrics"]["accuracy"] > 0.9


# ------------------------------------------------------------------------------------------------------------- resume

KILLS = {  # name: (model, where the process ends)
    "vit at step 8": ("vit", "learning_rate", 8),
    "resnet at step 13": ("resnet", "learning_rate", 13),
    "inside the second write": ("vit", "replace", 2),
    "inside a rotation": ("vit", "rmtree", 2),
}
KILLER = """
import importlib.util, json, os, signal, sys
import datasets, transformers.models.vit.modeling_vit, transformers.models.resnet.modeling_resnet
spec = importlib.util.spec_from_file_location("finetune", sys.argv[1])
finetune = sys.modules["finetune"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(finetune)

def die_at(module, name, when):
    original, calls = getattr(module, name), []
    def patched(*args, **options):
        calls.append(args)
        count = args[1] if name == "learning_rate" else sum("resume" in str(call[0]) for call in calls)
        if count == when:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **options)
    setattr(module, name, patched)

for recipe, name, when in json.loads(sys.argv[2]):
    child = os.fork()
    if not child:
        die_at({"learning_rate": finetune, "replace": os, "rmtree": finetune.shutil}[name], name, when)
        finetune.main([recipe])
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (recipe, status)
"""


@pytest.fixture(scope="module")
def killed(shapes, tmp_path_factory) -> dict[str, Path]:
    """Recipes by name of the kill, each with what a killed run left."""
    recipes, jobs = {}, []
    for name, (model, function, when) in KILLS.items():
        folder = tmp_path_factory.mktemp("killed")
        recipes[name] = write_recipe(folder, settings(shapes, folder / "run", model))
        jobs.append((str(recipes[name]), function, when))
    command = [sys.executable, "-c", KILLER, str(RECIPES / "finetune.py"), json.dumps(jobs)]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return recipes


@pytest.mark.parametrize("name", list(KILLS))
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_killed_run_ends_with_the_same_bits(killed, whole, name):
    recipe, expected = killed[name], whole[KILLS[name][0]]
    folder = recipe.parent / "run"
    assert not (folder / "training.json").exists()
    assert list((folder / "resume").glob("step_*")), "the kill came after a checkpoint"
    record = run(recipe, "data.workers=1" if name == "vit at step 8" else "data.workers=0")
    assert record["files"] == expected["record"]["files"]
    assert record["metrics"] == expected["record"]["metrics"]
    assert log_lines(folder) == expected["log"]


class Stop(BaseException):
    pass


@pytest.fixture(scope="module")
def stopped(shapes, tmp_path_factory) -> Path:
    """The recipe of a run that ended in step 11: checkpoints after steps 6 and 9."""
    from accelerate.state import AcceleratorState

    folder = tmp_path_factory.mktemp("stopped")
    recipe = write_recipe(folder, settings(shapes, folder / "run"))

    def stop(config, step, schedule, original=finetune.learning_rate):
        if step == 11:
            raise Stop
        return original(config, step, schedule)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune, "learning_rate", stop)
        with pytest.raises(Stop):
            run(recipe)
    torch.set_num_threads(threads)
    AcceleratorState._reset_state(True)
    assert sorted(path.name for path in (folder / "run" / "resume").iterdir()) == ["step_000000006", "step_000000009"]
    return recipe


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "bit flip": lambda resume: flip(resume / "step_000000009" / "state.pt"),
    "truncated": lambda resume: os.truncate(resume / "step_000000009" / "state.pt", 1000),
    "no manifest": lambda resume: (resume / "step_000000009" / "manifest.json").unlink(),
    "manifest is no object": lambda resume: (resume / "step_000000009" / "manifest.json").write_text("[]"),
    "empty folder": lambda resume: (resume / "step_000000012").mkdir(),
    "all": lambda resume: [flip(path) for path in resume.glob("*/state.pt")],
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_damaged_checkpoints_are_passed_over(stopped, whole, tmp_path, capsys, damage):
    folder = tmp_path / "run"
    shutil.copytree(stopped.parent / "run", folder)
    DAMAGES[damage](folder / "resume")
    record = run(stopped, f"output={folder}")
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == (2 if damage == "all" else 1)
    assert "going back to the checkpoint before it" in warnings[0]
    assert record["files"] == whole["vit"]["record"]["files"]
    assert log_lines(folder) == whole["vit"]["log"]


def test_another_run_is_refused_or_replaced(stopped, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(stopped.parent / "run", folder)
    with pytest.raises(StudyError, match=r"holds another run \(config.seed was 0, is 1\); choose another output"):
        run(stopped, f"output={folder}", "seed=1")
    assert run(stopped, f"output={folder}", "seed=1", "epochs=1", "replace=true")["config"]["seed"] == 1
    with pytest.raises(StudyError, match=r"holds another run \(config.epochs was 1, is 4"):
        run(stopped, f"output={folder}")


def test_finished_run_is_not_repeated(whole, tmp_path, stopped, capsys):
    folder = tmp_path / "run"
    shutil.copytree(whole["vit"]["folder"], folder)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    run(stopped, f"output={folder}")
    assert "nothing to do" in capsys.readouterr().err
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    flip(folder / "model.safetensors")
    assert finetune.read_record(folder) is None


def test_log_drops_what_a_kill_cut_off(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    finetune.Log(path, 2)(step=3, loss=1.0)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3, "loss": 1.0}\n'


def test_loss_that_is_not_finite_stops_the_run(recipe):
    with pytest.raises(StudyError, match=r"the loss is nan at step \d+ \(epoch 0, images \d+(, \d+){7}\)"):
        run(recipe, "optimizer.lr=1e30", "optimizer.clip=null", "checkpoint_every=1")
    state = finetune.newest_checkpoint(recipe.parent / "run" / "resume")
    assert state["step"] >= 1


def test_gradient_that_is_not_finite_stops_the_run():
    schedule = finetune.Schedule(200, 100, 1, 0)
    finetune.refuse_non_finite({"loss": torch.tensor(1.0)}, 0, schedule)
    with pytest.raises(StudyError, match=r"norm of the gradient is inf at step 1 \(epoch 0, .*, \.\.\.\)"):
        finetune.refuse_non_finite({"norm of the gradient": torch.tensor(math.inf)}, 1, schedule)


# ------------------------------------------------------------------------------------------------------ command line


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (StudyError("images are missing"), 2, "error: images are missing"),
        (KeyboardInterrupt(), 130, "stopped; the same command goes on from the last checkpoint"),
    ],
    ids=["user error", "ctrl-c"],
)
def test_script_ends_with_one_line(monkeypatch, capsys, error, code, line):
    def refuse(self, arguments=None):
        raise error

    monkeypatch.setattr("argparse.ArgumentParser.parse_args", refuse)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(RECIPES / "finetune.py"), run_name="__main__")
    assert stop.value.code == code
    assert capsys.readouterr().err.splitlines() == [line]

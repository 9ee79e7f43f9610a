"""What the training loop is made of: settings, chance, images, the network, what decays and when to stop."""

import copy
import dataclasses
import hashlib
import itertools
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
import transformers
from conftest import save_checkpoint, small_resnet, small_vit, smooth_images
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from toy_recipes import CLASSES, MODELS, coloured, settings, table, write_recipe, write_shapes

from hf_vitstudy import StudyError, load_checkpoint
from hf_vitstudy.errors import DivergedError
from hf_vitstudy.images import ImageSet
from hf_vitstudy.models import register
from hf_vitstudy.training.augmentation import Augment, Mix, RandAugment, shift_by_index, shift_by_slices
from hf_vitstudy.training.data import (
    Augmented,
    AugmentedStream,
    Pictures,
    Resident,
    Stream,
    choose_share,
    collate,
    divide,
    labels_of,
    lies_ready,
    load_batches,
    open_data,
    open_split,
    open_stream,
    store_stream,
)
from hf_vitstudy.training.model import (
    build_model,
    freeze_unused,
    hash_checkpoint,
    make_processor,
    pin,
    resample_positions,
)
from hf_vitstudy.training.optimisation import (
    Guard,
    layer_depths,
    learning_rate,
    make_average,
    make_optimizer,
    parameter_groups,
    set_learning_rate,
)
from hf_vitstudy.training.order import MicroBatches, Schedule, epoch_order, make_schedule, seed_of, uniform
from hf_vitstudy.training.resume import changes, write_checkpoint
from hf_vitstudy.training.settings import (
    AugmentConfig,
    Config,
    DataConfig,
    OptimizerConfig,
    RandAugmentConfig,
    config_sha256,
    identity,
    read_config,
)


CPU = torch.device("cpu")
RATE = {0: 0.02, 1: 0.01}.__getitem__  # of learning, by step
ADAMW = OptimizerConfig("adamw", lr=0.1, weight_decay=0.1)


@pytest.fixture
def recipe(shapes, tmp_path):
    return write_recipe(tmp_path, settings(shapes, tmp_path / "run"))


# ----------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.learning_rate=1", "unknown setting optimizer.learning_rate; there are: betas, clip, decay_all"),
        ("epoch=1", "unknown setting epoch; did you mean epochs"),
        ("epochs=many", "epochs must be int, got 'many'"),
        ("epochs=2.5", r"epochs must be int, got 2.5 \(float\)"),
        ("epochs=true", r"epochs must be int, got True \(bool\)"),
        ("epochs=0", "epochs must be at least 1, got 0"),
        ("optimizer.lr=fast", "optimizer.lr must be float, got 'fast'"),
        ("optimizer.lr=-1", "optimizer.lr must be positive, got -1"),
        ("optimizer.clip=-1", "optimizer.clip must be positive, or null for none, got -1"),
        ("optimizer.clip=0", "optimizer.clip must be positive, or null for none, got 0"),
        ("optimizer.betas=[0.9, x]", r"optimizer.betas\[1\] must be float, got 'x'"),
        ("optimizer.betas=0.9", "optimizer.betas must be list, got 0.9"),
        ("optimizer.name=lion", "optimizer.name must be one of adamw, sgd, got 'lion'"),
        ("label_smoothing=1", r"label_smoothing must be in \[0, 1\), got 1"),
        ("augment=strong", "augment must be a group of settings, got 'strong'"),
        ("epochs.more=1", "epochs in 'epochs.more' is not a group of settings"),
        ("epochs", "expected key=value, got 'epochs'"),
        ("output=[", r"the value of 'output=\[' is not YAML"),
        ("output=7", r"output must be str, got 7 \(int\)"),
        ("steps=5", "give either epochs or steps"),
        ("epochs=null", "give either epochs or steps"),
        ("optimizer.warmup_steps=5", "either optimizer.warmup_epochs or optimizer.warmup_steps"),
        ("optimizer.warmup_steps=-5", "optimizer.warmup_steps must not be negative, got -5"),
        ("optimizer.layer_decay=0", r"optimizer.layer_decay must be in \(0, 1\], got 0"),
        ("data.fraction=1.5", r"data.fraction must be in \(0, 1\], got 1.5"),
        ("data.holdout=1", r"data.holdout must be in \[0, 1\), got 1"),
        ("ema=1", r"ema must be in \[0, 1\), got 1"),
        ("ema=.nan", "ema must be a finite number, got nan"),
        ("optimizer.lr=.inf", "optimizer.lr must be a finite number, got inf"),
        ("select=best", "select: best needs images to choose by that are not the test images; set data.holdout"),
        ("patience=3", "patience needs images to choose by"),
        ("data.mean=[0.5]", "data.mean must have 3 numbers, got 1"),
        ("augment.scale=[0.5]", "augment.scale must have 2 numbers, got 1"),
        ("augment.randaugment.magnitude=11", r"augment.randaugment.magnitude must be in \[0, 10\], got 11"),
        ("augment.randaugment.level=3", "unknown setting augment.randaugment.level; "),
        ("augment.mixup=-1", "augment.mixup must not be negative"),
        ("optimizer.betas=[2, 2]", r"optimizer.betas must be in \[0, 1\), got 2"),
        ("optimizer.betas=[-1, 0]", r"optimizer.betas must be in \[0, 1\), got -1"),
        ("optimizer.betas=[0.9, 1]", r"optimizer.betas must be in \[0, 1\), got 1"),
        (
            "augment.scale=[-1, -1]",
            r"augment.scale must be two shares of the area, lowest first, up to 1, got \[-1, -1\]",
        ),
        ("augment.scale=[1, 0.1]", r"augment.scale must be two shares .* got \[1, 0.1\]"),
        ("augment.scale=[2, 3]", r"augment.scale must be two shares .* got \[2, 3\]"),
        ("augment.scale=[0, 0]", r"augment.scale must be two shares .* got \[0, 0\]"),
        ("data.std=[0, 0, 0]", r"data.std must be positive, got \[0.0, 0.0, 0.0\]"),
        ("model={checkpoint: 5}", r"model.checkpoint must be str, got 5 \(int\)"),
        ("log_with=tensorboard", "log_with must be list, got 'tensorboard'"),
    ],
)
def test_wrong_settings_are_named(recipe, override, message):
    with pytest.raises(StudyError, match=message):
        read_config(recipe, [override])


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
        read_config(path)


def test_missing_recipe(tmp_path):
    with pytest.raises(StudyError, match=r"no recipe at .*nothing.yaml"):
        read_config(tmp_path / "nothing.yaml")


def test_streams_cannot_be_divided(recipe):
    with pytest.raises(StudyError, match=r"need to know all labels beforehand; not with data.streaming"):
        read_config(recipe, ["data.streaming=true", "data.holdout=0.1"])


def test_shipped_recipes_go_by_their_names(recipe, tmp_path):
    assert read_config("recipe", folder=tmp_path) == read_config("recipe.yaml", folder=tmp_path) == read_config(recipe)
    with pytest.raises(StudyError, match=r"no recipe at recip, and none of this name .*; did you mean recipe"):
        read_config("recip", folder=tmp_path)


def test_overrides_reach_nested_settings(recipe):
    config = read_config(recipe, ["optimizer.lr=1e-3", "optimizer.clip=null", "model.hidden_size=24", "seed=5"])
    assert config.optimizer.lr == 1e-3  # which YAML itself would read as text
    assert config.optimizer.clip is None
    assert config.model["hidden_size"] == 24
    assert read_config(recipe, ["augment.randaugment.std=1"]).augment.randaugment == RandAugmentConfig(std=1.0)
    assert config.seed == 5


def test_identity_is_what_decides_the_weights(recipe, tmp_path):
    def digest(*overrides):
        return config_sha256(read_config(recipe, overrides))

    assert digest("output=elsewhere", "data.workers=3", "checkpoint_every=7", "replace=true") == digest()
    assert len({digest(), digest("seed=1"), digest("optimizer.lr=0.02"), digest("model.patch_size=4")}) == 4
    assert digest("eval_every=2") == digest()
    chosen = ("data.holdout=0.1", "select=best")
    assert digest("eval_every=2", *chosen) != digest(*chosen), "they decide which weights are the best"
    assert str(tmp_path.parent) not in json.dumps(identity(read_config(recipe)))


# ------------------------------------------------------------------------------------------------------- optimisation

NOT_DECAYED = {"vit": ("bias", "norm", "token", "position"), "resnet": ("bias", "normalization")}


@pytest.mark.parametrize(("kind", "make"), [("vit", small_vit), ("resnet", small_resnet)])
def test_parameter_groups_by_name(kind, make):
    model = make()
    decayed, others = parameter_groups(model, ADAMW)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert (decayed["scale"], others["scale"]) == (1.0, 1.0)
    assert sorted(decayed["names"] + others["names"]) == sorted(name for name, _ in model.named_parameters())
    for name in decayed["names"]:
        assert not any(part in name for part in NOT_DECAYED[kind]), name
    for name in others["names"]:
        assert any(part in name for part in NOT_DECAYED[kind]), name
    assert decayed["names"]
    assert others["names"]


def test_everything_decays_where_asked_for():
    (group,) = parameter_groups(small_vit(), OptimizerConfig("adamw", lr=0.1, weight_decay=0.1, decay_all=True))
    assert group["weight_decay"] == 0.1
    assert "vit.embeddings.cls_token" in group["names"]


def test_frozen_parameters_are_not_trained():
    model = small_vit()
    model.vit.requires_grad_(False)
    decayed, others = parameter_groups(model, ADAMW)
    assert decayed["names"] + others["names"] == ["classifier.weight", "classifier.bias"]


def small_swin():
    from transformers import SwinConfig, SwinForImageClassification

    torch.manual_seed(0)
    sizes = {"embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2], "window_size": 4}
    return SwinForImageClassification(SwinConfig(image_size=32, patch_size=4, num_labels=3, **sizes))


def small_alternet():
    register()
    return build_model(Config(MODELS["alternet"], DataConfig("", image_size=32), ADAMW, "", 8, epochs=1), CLASSES)


def small_segformer():
    from transformers import SegformerConfig, SegformerForImageClassification

    torch.manual_seed(0)
    sizes = {"depths": [1, 2], "hidden_sizes": [8, 16], "num_attention_heads": [1, 2], "sr_ratios": [2, 1]}
    sizes |= {"patch_sizes": [3, 3], "strides": [2, 2], "mlp_ratios": [2, 2], "num_encoder_blocks": 2}
    return SegformerForImageClassification(SegformerConfig(num_labels=3, **sizes))


def small_pvt():
    from transformers import PvtConfig, PvtForImageClassification

    torch.manual_seed(0)
    sizes = {"depths": [1, 2], "hidden_sizes": [8, 16], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2]}
    sizes |= {"patch_sizes": [4, 2], "strides": [4, 2], "sequence_reduction_ratios": [2, 1], "num_encoder_blocks": 2}
    return PvtForImageClassification(PvtConfig(image_size=32, num_labels=3, **sizes))


DEPTHS = {  # of some parameters, and the depth of the classifier
    "vit": (small_vit, {"cls_token": 0, "patch_embeddings": 0, "layers.0.": 1, "layers.2.": 3, "vit.layernorm": 4}, 4),
    "resnet": (
        small_resnet,
        {"embedder": 0, "stages.0.layers.0": 1, "stages.1.layers.1": 4, "stages.2.layers.1": 6},
        7,
    ),
    "swin": (small_swin, {"embeddings": 0, "layers.0.blocks.0": 1, "downsample": 1, "layers.1.blocks.1": 3}, 4),
    # PVT registers the embeddings of all stages before its first block
    "pvt": (
        small_pvt,
        {"patch_embeddings.0": 0, "patch_embeddings.1": 1, "block.1.1.": 3, "encoder.layer_norm": 4},
        4,
    ),
    "segformer": (small_segformer, {"stages.0.patch_embeddings": 0, "stages.1.patch_embeddings": 1}, 4),
    "alternet": (small_alternet, {"stem": 0, "stages.0.": 1, "stages.1.": {2, 3}, "classifier": 4}, 4),
}


@pytest.mark.parametrize("kind", DEPTHS)
def test_depth_of_every_layer(kind):
    make, expected, top = DEPTHS[kind]
    model = make().train()
    depths = layer_depths(model, torch.randn(2, 3, 32, 32))
    assert model.training
    assert list(depths) == [name for name, _ in model.named_parameters()]
    for part, depth in expected.items():
        found = {depths[name] for name in depths if part in name}
        assert found == (depth if isinstance(depth, set) else {depth}), part
    assert {depths[name] for name in depths if name.startswith("classifier")} == {top}


def test_lower_layers_learn_more_slowly():
    model = small_vit()
    config = OptimizerConfig("adamw", lr=0.1, weight_decay=0.1, layer_decay=0.5)
    depths = layer_depths(model, torch.randn(2, 3, 32, 32))
    groups = parameter_groups(model, config, depths)
    scales = {name: group["scale"] for group in groups for name in group["names"]}
    assert scales["vit.embeddings.cls_token"] == 0.5**4
    assert scales["vit.layers.0.layernorm_before.weight"] == 0.5**3
    assert scales["classifier.weight"] == 1
    optimizer = make_optimizer(model, config, depths)
    set_learning_rate(optimizer, 0.2)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == [0.2 * 0.5**power for power in (4, 3, 2, 1, 0)]


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_optimizer(name, kind):
    optimizer = make_optimizer(small_resnet(), OptimizerConfig(name, lr=0.1, weight_decay=0.2))
    assert isinstance(optimizer, kind)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2, 0.0]


AFTER = np.arange(50) / 50  # of the way from the end of the warm-up to the end
SCHEDULES = {"cosine": 1 + np.cos(np.pi * AFTER), "linear": 2 * (1 - AFTER), "constant": np.full(50, 2.0)}


@pytest.mark.parametrize("warmup", [{"warmup_epochs": 1.0}, {"warmup_steps": 10}], ids=["epochs", "steps"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_learning_rate(name, warmup):
    schedule = Schedule(n=100, batch_size=10, steps=60, seed=0)
    config = OptimizerConfig("sgd", lr=2.0, schedule=name, **warmup)
    rates = [learning_rate(config, step, schedule) for step in range(60)]
    np.testing.assert_allclose(rates[:10], 2 * np.arange(1, 11) / 10)
    np.testing.assert_allclose(rates[10:], SCHEDULES[name])


def test_averaged_weights_follow_the_formula():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    average = make_average(model, 0.5)
    expected = None
    for step in range(6):
        with torch.no_grad():
            model[0].weight.normal_()
            model[1].running_mean.normal_()
        average.update_parameters(model)
        decay = min(0.5, (1 + step) / (10 + step))
        now = {name: value.double() for name, value in model.state_dict().items() if value.is_floating_point()}
        expected = now if step == 0 else {name: decay * expected[name] + (1 - decay) * now[name] for name in now}
    found = average.module.state_dict()
    assert {"0.weight", "1.running_mean"} <= set(expected)
    assert all(torch.allclose(found[name].double(), value, atol=1e-6) for name, value in expected.items())


def test_whole_numbers_are_not_averaged():
    """Such as the places in the windows of Swin and AlterNet: 29 of them would lose one at the 13th step."""
    model = small_swin()
    average = make_average(model, 0.9)
    for _ in range(20):
        average.update_parameters(model)
    numbers = {
        name: value for name, value in model.state_dict(keep_vars=True).items() if not value.is_floating_point()
    }
    numbers |= {name: value for name, value in model.named_buffers() if not value.is_floating_point()}
    assert any("position_index" in name for name in numbers)
    found = dict(average.module.named_buffers())
    assert all(torch.equal(found[name], value) for name, value in numbers.items())


class Alone:
    """An Accelerator of one process, as far as `Guard` needs it."""

    def gather(self, values):
        return values


def test_guard_names_the_step_and_the_rows():
    schedule, guard = Schedule(200, 100, 2, 0), Guard(CPU, RATE)
    for step, loss in enumerate([1.0, math.inf, math.nan, 2.0]):
        guard.check(Alone(), schedule, torch.arange(200)) if step == 1 else None
        guard.see("loss", torch.tensor(loss), step)
    rows = torch.arange(200) + 1000
    batch = [1000 + index for _, index in next(schedule.keys(1))]
    text = (
        rf"the loss is not finite at step 1 \(epoch 0, rows {batch[0]}, {batch[1]}, .*, \.\.\.\), with a learning rate "
        r"of 0\.01\. Lower optimizer.lr"
    )
    with pytest.raises(StudyError, match=text):
        guard.check(Alone(), schedule, rows)
    guard = Guard(CPU, RATE)
    for step, norm in enumerate([2.5, math.inf, 3.0]):
        guard.see_norm(torch.tensor(norm), step, scaled=False)
    text = (
        r"the norm of the gradient is not finite at step 1 \(epoch 0, images 100 to 199 of the stream\), with a learning rate "
        r"of 0\.01; the last finite norm of the gradient was 2\.5\. Lower"
    )
    with pytest.raises(DivergedError, match=text) as diverged:
        guard.check(Alone(), schedule, None)
    assert diverged.value.code == 3


def test_guard_counts_skipped_steps():
    schedule, guard = Schedule(200, 100, 2, 0), Guard(CPU, RATE)
    for norm in [math.inf] * 49 + [1.0] + [math.nan] * 49:
        guard.see_norm(torch.tensor(norm), 0, scaled=True)
        guard.check(Alone(), schedule, None)
    guard.see_norm(torch.tensor(math.inf), 0, scaled=True)
    with pytest.raises(StudyError, match="50 steps in a row had gradients too large for fp16"):
        guard.check(Alone(), schedule, None)
    guard = Guard(CPU, RATE)
    guard.see_norm(torch.tensor(math.inf), 1, scaled=False)
    with pytest.raises(StudyError, match="the norm of the gradient is not finite at step 1"):
        guard.check(Alone(), schedule, None)


def test_skips_of_a_fused_optimizer_are_seen_by_the_norm():
    """Accelerate looks whether the optimizer was called; a fused one is, and skips inside."""
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer
    from accelerate.state import AcceleratorState, GradientState

    Accelerator(cpu=True)
    model = torch.nn.Linear(2, 1)
    scaler = torch.amp.GradScaler("cpu")
    fused = torch.optim.AdamW(model.parameters(), fused=True)
    optimizer, guard, before = AcceleratedOptimizer(fused, scaler=scaler), Guard(CPU, RATE), model.weight.clone()
    scaler.scale(model(torch.full((1, 2), math.inf)).sum()).backward()
    scaler.unscale_(fused)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), math.inf)
    optimizer.step()
    guard.see_norm(norm, 0, scaled=True)
    assert torch.equal(model.weight, before), "the step was skipped"
    assert not optimizer.step_was_skipped, "and nobody was told; if this fails, Accelerate can be asked again"
    assert guard.skipped == 1
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


# ------------------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize(("step", "left"), [(7, [4, 7]), (2, [2]), (12, [9, 12])])
def test_rotation_keeps_what_was_just_written(tmp_path, step, left):
    """Newer checkpoints are damaged ones, which were passed over."""
    for older in (4, 9, 11):
        write_checkpoint(tmp_path, {"step": older}, keep=3)
    shutil.rmtree(tmp_path / "step_000000011")
    write_checkpoint(tmp_path, {"step": step}, keep=2)
    assert sorted(int(path.name[5:]) for path in tmp_path.iterdir()) == left


# ------------------------------------------------------------------------------------------------------------- chance


def test_order_is_a_function_of_seed_and_epoch():
    orders = {(seed, epoch): epoch_order(seed, epoch, 50).tolist() for seed in (0, 1) for epoch in (0, 1)}
    assert all(sorted(order) == list(range(50)) for order in orders.values())
    assert len({tuple(order) for order in orders.values()}) == 4
    torch.manual_seed(99)
    assert epoch_order(1, 1, 50).tolist() == orders[1, 1]


def test_uniform_numbers():
    """Equal for equal keys, however they are asked for; evenly spread, and without correlation between neighbours."""
    drawn = uniform(seed_of(0, "x"), np.arange(200_000), 3)
    assert drawn.shape == (200_000, 3)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    np.testing.assert_array_equal(uniform(seed_of(0, "x"), np.array([7, 123_456]), 3), drawn[[7, 123_456]])
    counts = np.histogram(drawn, 100, (0, 1))[0]
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 160, (
        "chi-square with 99 degrees of freedom, p < 1e-4"
    )
    others = [drawn[:, 1], drawn[:, 2], np.roll(drawn[:, 0], 1), uniform(seed_of(1, "x"), np.arange(200_000), 1)[:, 0]]
    for other in others:
        assert abs(np.corrcoef(drawn[:, 0], other)[0, 1]) < 0.01


def micro_batches(schedule, first, accumulation, rank=0, world=1):
    steps = schedule.steps - first
    return MicroBatches(schedule.keys(first), steps, schedule.batch_size, accumulation, rank, world)


def test_batches_from_the_middle_are_the_rest():
    schedule = Schedule(n=43, batch_size=8, steps=15, seed=0)
    assert (schedule.steps_per_epoch, schedule.epochs) == (5, 3)
    batches = list(micro_batches(schedule, 0, 2))
    assert len(batches) == len(micro_batches(schedule, 0, 2)) == 30
    assert list(micro_batches(schedule, 7, 2)) == batches[14:]
    for epoch in range(3):
        seen = [index for batch in batches[10 * epoch : 10 * (epoch + 1)] for _, index in batch]
        assert len(set(seen)) == len(seen) == 40


@pytest.mark.parametrize(("accumulation", "world"), [(1, 2), (2, 1), (2, 2)])
def test_processes_and_micro_batches_share_the_same_batch(accumulation, world):
    schedule = Schedule(n=43, batch_size=8, steps=10, seed=3)
    parts = [list(micro_batches(schedule, 0, accumulation, rank, world)) for rank in range(world)]
    for step, batch in enumerate(schedule.keys(0)):
        micro = slice(step * accumulation, (step + 1) * accumulation)
        assert sorted(batch) == sorted(key for part in parts for share in part[micro] for key in share)


def test_batches_that_cannot_be_shared():
    with pytest.raises(StudyError, match=r"batch_size 10 must be a multiple of accumulation x processes \(2 x 2\)"):
        MicroBatches([], 0, 10, 2, 0, 2)


def test_length_in_epochs_or_steps(recipe):
    assert make_schedule(read_config(recipe), 43).steps == 20
    assert make_schedule(read_config(recipe, ["epochs=null", "steps=7"]), 43).steps == 7
    with pytest.raises(StudyError, match="7 training images do not fill one batch of 8; lower batch_size"):
        make_schedule(read_config(recipe), 7)


# ------------------------------------------------------------------------------------------------------- augmentation


def no_resize(image):
    return image.transpose(2, 0, 1)


def pictures(shapes, limit=1e9, split="train", rows=None):
    images = open_split(str(shapes), split, DataConfig(str(shapes)))
    return Pictures(images, labels_of(images, CLASSES), no_resize, limit, rows)


def augmentation(seed=1, **settings):
    return Augment(AugmentConfig(**settings), (20, 20), [0.5, 0.25, 1.0], seed)


AUGMENTS = {
    "padded": {"crop": "padded", "padding": 3, "flip": True},
    "resized": {"crop": "resized", "scale": [0.3, 1.0], "flip": True},
    "all": {"crop": "padded", "flip": True, "randaugment": RandAugmentConfig(2, 9, 1), "erase": 0.5},
}


@pytest.mark.parametrize("name", AUGMENTS)
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_augmentation_is_a_function_of_seed_epoch_and_image(shapes, name):
    augmented = Augmented(pictures(shapes), augmentation(**AUGMENTS[name]))
    first, label = augmented[2, 5]
    assert first.shape == (3, 20, 20)
    assert first.dtype == torch.uint8
    assert int(label) == 5 % 3
    torch.manual_seed(123)
    augmented[0, 3]
    assert torch.equal(augmented[2, 5][0], first)
    assert not all(torch.equal(augmented[epoch, 5][0], first) for epoch in (3, 4))
    batches = list(micro_batches(Schedule(43, 8, 5, 0), 0, 1))
    for workers in (1, 2):
        loader = DataLoader(augmented, batch_sampler=batches, num_workers=workers, collate_fn=collate)
        for batch, (pixels, _) in zip(batches, loader, strict=True):
            assert torch.equal(pixels, torch.stack([augmented[key][0] for key in batch]))


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("crop", ["none", "padded"])
def test_whole_batches_are_the_same_images(shapes, flip, crop):
    """Kept on the device and moved in one go, or one by one in a worker."""
    kept, augment = pictures(shapes), augmentation(crop=crop, flip=flip)
    schedule = Schedule(43, 8, 10, 0)
    resident = Resident(kept, augment, micro_batches(schedule, 3, 2), CPU)
    single = Augmented(kept, augment)
    number = 0
    for keys, (pixels, labels) in zip(micro_batches(schedule, 3, 2), resident, strict=True):
        alone, their = collate([single[key] for key in keys])
        assert torch.equal(pixels, alone)
        assert torch.equal(labels, their)
        number += 1
    assert number == 14


def test_images_that_lie_ready(shapes):
    kept, lazy, moved = pictures(shapes), pictures(shapes, limit=1000), augmentation(crop="padded")
    config = DataConfig("", device_gib=0)
    assert lies_ready(kept, moved, config, CPU)
    assert not lies_ready(kept, moved, config, torch.device("cuda"))
    assert lies_ready(kept, moved, DataConfig(""), torch.device("cuda"))
    assert not lies_ready(lazy, moved, config, CPU)
    assert not lies_ready(kept, augmentation(erase=0.1), config, CPU)
    assert not lies_ready(kept, augmentation(crop="resized"), config, CPU)


def test_shifts_against_a_slow_oracle():
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 256, (6, 3, 5, 7), dtype=np.uint8)
    top, left, mirrored = rng.integers(0, 5, 6), rng.integers(0, 5, 6), rng.random(6) < 0.5
    expected = np.zeros_like(pixels)
    for image, channel, row, column in np.ndindex(pixels.shape):
        from_row = row + top[image] - 2
        from_column = (6 - column if mirrored[image] else column) + left[image] - 2
        if 0 <= from_row < 5 and 0 <= from_column < 7:
            expected[image, channel, row, column] = pixels[image, channel, from_row, from_column]
    for shift in (shift_by_slices, shift_by_index):
        np.testing.assert_array_equal(shift(torch.from_numpy(pixels), top, left, mirrored, 2).numpy(), expected)


def test_crops_and_mirrors_are_evenly_spread():
    marked = torch.zeros(4000, 3, 9, 9, dtype=torch.uint8)
    marked[:, :, 4, 3] = 1
    moved = augmentation(crop="padded", padding=2, flip=True).place(marked, 0, np.arange(4000))
    places = moved[:, 0].flatten(1).argmax(1)
    rows, columns = (torch.bincount(part, minlength=9) for part in (places // 9, places % 9))
    expected = dict.fromkeys(range(2, 7), 800)
    assert all(abs(int(rows[row]) - count) < 130 for row, count in expected.items())
    assert int(rows.sum()) == sum(int(rows[row]) for row in expected)
    # a mark left of the centre lands on columns 1 to 5, its mirror image on 3 to 7
    assert [abs(int(columns[column]) - count) < 130 for column, count in ((1, 400), (4, 800), (7, 400))] == [True] * 3


def test_no_augmentation_changes_nothing(shapes):
    kept = pictures(shapes)
    assert torch.equal(Augmented(kept, augmentation())[0, 7][0], kept[7][0])


def test_randaugment_draws_every_operation_and_its_strength(monkeypatch):
    seen = []
    changing = RandAugment(RandAugmentConfig(ops=2, magnitude=9, std=1, probability=0.5), [1, 2, 3])
    for strength, module in enumerate(changing.by_strength):
        monkeypatch.setattr(module, "forward", lambda pixels, strength=strength: seen.append(strength) or pixels)
        assert (module.magnitude, module.num_magnitude_bins, module.num_ops) == (strength, 31, 1)
    torch.manual_seed(0)
    for _ in range(1000):
        changing(torch.zeros(3, 4, 4, dtype=torch.uint8))
    assert abs(len(seen) - 1000) < 90
    assert abs(np.mean(seen) - 26.6) < 0.5, "27, less what is cut off at 30"
    assert 2 < np.std(seen) < 3.2
    fixed = RandAugment(RandAugmentConfig(ops=3, magnitude=5), [0, 0, 0])
    monkeypatch.setattr(fixed.by_strength[15], "forward", lambda pixels: pixels + 1)
    assert fixed(torch.zeros(1)).item() == 3


def test_erased_places_are_zero_to_the_network():
    augment = augmentation(erase=1.0)
    erased = augment(torch.full((3, 20, 20), 77, dtype=torch.uint8), 0, 0)
    gone = (erased != 77).all(0)
    assert 0.02 * 400 <= gone.sum() <= 0.4 * 400
    assert erased[:, gone].unique(dim=1).flatten().tolist() == [128, 64, 255]


def mixed(**settings):
    torch.manual_seed(0)
    pixels, labels = torch.rand(8, 3, 6, 6), torch.arange(8) % 3
    return pixels, labels, *Mix(AugmentConfig(**settings), 3)(pixels, labels)


def test_mixup_is_a_weighted_mean_of_neighbours():
    pixels, labels, new, targets = mixed(mixup=1.0)
    share = targets[1, 1].item()  # a 1 mixed with a 0
    assert 0 < share < 1
    torch.testing.assert_close(new, share * pixels + (1 - share) * pixels.roll(1, 0))
    hard = torch.nn.functional.one_hot(labels, 3).float()
    torch.testing.assert_close(targets, share * hard + (1 - share) * hard.roll(1, 0))


def test_cutmix_pastes_a_rectangle_and_counts_its_area():
    pixels, _, new, targets = mixed(cutmix=1.0)
    pasted = (new != pixels).any(1)
    assert torch.equal(new.movedim(1, -1)[pasted], pixels.roll(1, 0).movedim(1, -1)[pasted])
    share = pasted[1].float().mean().item()
    assert 0 < share < 1
    assert targets[1].tolist() == pytest.approx([share, 1 - share, 0])


def test_batches_that_are_not_mixed():
    _, labels, new, targets = mixed()
    assert torch.equal(targets, labels), "nothing to mix by: classes stay numbers"
    pixels, labels, new, targets = mixed(mixup=1.0, mix_probability=0.0)
    assert torch.equal(new, pixels)
    assert torch.equal(targets, torch.nn.functional.one_hot(labels, 3).float())


def test_both_ways_of_mixing_are_taken():
    mix = Mix(AugmentConfig(mixup=1.0, cutmix=1.0, mix_probability=0.5), 3)
    taken = {"none": 0, "mixup": 0, "cutmix": 0}
    pixels, labels = (
        torch.arange(192.0).view(1, 3, 8, 8) + torch.tensor([0.0, 1000.0]).view(2, 1, 1, 1),
        torch.tensor([0, 1]),
    )
    for seed in range(200):
        torch.manual_seed(seed)
        changed = (mix(pixels, labels)[0] != pixels)[0, 0]
        taken["none" if not changed.any() else "mixup" if changed.all() else "cutmix"] += 1
    assert all(abs(taken[name] - count) < 30 for name, count in (("none", 100), ("mixup", 50), ("cutmix", 50)))


# --------------------------------------------------------------------------------------------------------------- data


def test_images_that_do_not_fit_are_decoded_when_asked_for(shapes):
    kept, lazy = pictures(shapes), pictures(shapes, limit=1000)
    assert kept.pixels is not None
    assert lazy.pixels is None
    assert all(torch.equal(kept[index][0], lazy[index][0]) for index in range(len(kept)))
    known, unknown = kept.describe(), lazy.describe()
    assert known.pop("pixels_sha256") is not None
    assert unknown.pop("pixels_sha256") is None
    assert known == unknown


def test_runs_are_told_apart_by_what_both_know(shapes):
    kept, lazy, other = pictures(shapes).describe(), pictures(shapes, 0).describe(), pictures(shapes, split="test")
    for before, now in ((kept, lazy), (lazy, kept), (lazy, lazy), (None, kept)):
        assert changes({"data": {"train": before}} if before else None, {"data": {"train": now}}) == []
    mended = kept | {"pixels_sha256": "another image"}
    assert "data.train.pixels_sha256 was" in changes({"data": {"train": kept}}, {"data": {"train": mended}})[0]
    assert len(changes({"data": {"train": lazy}}, {"data": {"train": other.describe()}})) == 3, "labels, n and split"


def test_some_rows_of_a_split(shapes):
    every, some = pictures(shapes), pictures(shapes, rows=torch.tensor([3, 40, 7]))
    assert len(some) == some.describe()["n"] == 3
    assert [int(some[index][1]) for index in range(3)] == [0, 40 % 3, 7 % 3]
    assert all(torch.equal(some[index][0], every[row][0]) for index, row in enumerate([3, 40, 7]))


def test_unreadable_image_is_named_before_training(tmp_path):
    rows = table(smooth_images(9), [0, 1, 2] * 3).cast_column("image", datasets.Image(decode=False)).to_list()
    rows[5]["image"]["bytes"] = b"no image"
    images = ImageSet(rows, "image", "label", CLASSES, {"name": "broken"})
    with pytest.raises(StudyError, match="image 5 of broken: is not a readable image"):
        Pictures(images, torch.zeros(9), no_resize, 1e9)
    lazy = Pictures(images, torch.zeros(9), no_resize, 0)
    found = collate([Augmented(lazy, augmentation())[0, index] for index in (1, 5)])
    assert isinstance(found, StudyError)


def test_share_of_every_class():
    labels = torch.tensor([0] * 50 + [1] * 20 + [2] * 3)
    rows = choose_share(labels, 0.1, seed=0)
    assert torch.equal(rows, rows.sort().values)
    assert torch.bincount(labels[rows]).tolist() == [5, 2, 1], "at least one of each"
    larger = choose_share(labels, 0.3, seed=0)
    assert set(rows.tolist()) < set(larger.tolist())
    assert torch.bincount(labels[larger]).tolist() == [15, 6, 1]
    assert not torch.equal(choose_share(labels, 0.1, seed=1), rows)


def test_held_out_images_are_never_trained_on():
    labels = torch.arange(100) % 4
    held = divide(labels, DataConfig("", holdout=0.2), seed=0)[1]
    assert torch.bincount(labels[held]).tolist() == [5, 5, 5, 5]
    for seed in (0, 1):
        rows, again = divide(labels, DataConfig("", holdout=0.2, fraction=0.5), seed)
        assert torch.equal(again, held), "the same for every seed, so that runs can be compared"
        assert torch.bincount(labels[rows]).tolist() == [10, 10, 10, 10]
        assert not set(rows.tolist()) & set(held.tolist())
    rows, held = divide(labels, DataConfig(""), seed=0)
    assert (len(rows), len(held)) == (100, 0)
    with pytest.raises(StudyError, match=r"data.holdout=0.9 leaves no image to train on"):
        divide(torch.arange(4), DataConfig("", holdout=0.9), seed=0)


def test_columns_by_name(tmp_path):
    features = {"photo": datasets.Image(), "image": datasets.Image(), "name": datasets.Value("string")}
    features |= {"coarse_label": datasets.ClassLabel(names=["a", "b"]), "label": datasets.ClassLabel(names=CLASSES)}
    row = {"photo": coloured(1, 0)[0], "image": coloured(2, 0)[1], "name": "x", "coarse_label": 1, "label": 2}
    path = str(tmp_path / "two.parquet")
    datasets.Dataset.from_list([row] * 4, features=datasets.Features(features)).to_parquet(path)
    plain = open_split(path, None, DataConfig(path))
    assert (plain.image_column, plain.label_column, plain.classes) == ("image", "label", CLASSES)
    named = open_split(path, None, DataConfig(path, image_column="photo", label_column="coarse_label"))
    assert (named.image_column, named.label_column, named.classes) == ("photo", "coarse_label", ["a", "b"])
    np.testing.assert_array_equal(named[0][0], coloured(1, 0)[0])
    with pytest.raises(
        StudyError, match=r"data.label_column: two has no ClassLabel column 'labels'; did you mean label"
    ):
        open_split(path, None, DataConfig(path, label_column="labels"))
    with pytest.raises(
        StudyError, match=r"data.image_column: two has no Image column 'name'; there are: image, photo"
    ):
        open_split(path, None, DataConfig(path, image_column="name"))


def test_rows_keep_the_order_of_the_file(shapes):
    images = open_split(str(shapes), "train", DataConfig(str(shapes)))
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
        labels_of(int_set(labels), CLASSES)


def test_labels_are_matched_by_name():
    assert labels_of(int_set([0, 1, 2, 0], CLASSES[::-1]), CLASSES).tolist() == [2, 1, 0, 2]
    with pytest.raises(StudyError, match="toys has the class 'star', which the training images lack"):
        labels_of(int_set([0], ["circle", "star"]), CLASSES)


def test_data_without_class_labels(tmp_path):
    rows = datasets.Dataset.from_dict({"image": smooth_images(5)}, datasets.Features({"image": datasets.Image()}))
    rows.to_parquet(tmp_path / "bare.parquet")
    with pytest.raises(StudyError, match=r"bare has no class labels \(columns: image\)"):
        open_split(str(tmp_path / "bare.parquet"), None, DataConfig(""))


def test_data_without_a_test_split(shapes, tmp_path):
    folder = tmp_path / "half"
    folder.mkdir()
    shutil.copy(shapes / "train.parquet", folder)
    with pytest.raises(StudyError, match=r"has no split to test on; name one with data.test"):
        open_data(DataConfig(train=str(folder)))
    both = DataConfig(train=str(shapes / "train.parquet"), test=str(shapes / "test.parquet"))
    assert [len(images) for images in open_data(both)] == [43, 17]


def test_splits_taken_for_classes(tmp_path):
    path = tmp_path / "mixed.parquet"
    table(smooth_images(6), [0, 1] * 3, names=["test", "train"]).to_parquet(path)
    with pytest.raises(StudyError, match=r"the classes of .* are \['test', 'train'\]: these are splits"):
        open_data(DataConfig(train=str(path), test=str(path)))


# ------------------------------------------------------------------------------------------------------------- stream


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """The same images, the training ones in three files, which are read in turns."""
    folder = write_shapes(tmp_path_factory.mktemp("sharded") / "shapes")
    rows = datasets.Dataset.from_parquet(str(folder / "train.parquet"))
    for shard in range(3):
        rows.shard(3, shard).to_parquet(folder / f"train-{shard:05}-of-00003.parquet")
    (folder / "train.parquet").unlink()
    return folder


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """datasets sleeps for five seconds whenever it is done with parquet files (apache/arrow issue 45214)."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.05)


def stream_config(shapes, **changes):
    return DataConfig(str(shapes), streaming=True, shuffle_buffer=16, **({"count": 43} | changes))


def test_stream_gives_every_image_once_an_epoch(sharded):
    stream, test = open_data(stream_config(sharded))
    assert isinstance(stream, Stream)
    assert (stream.n, len(test), stream.classes) == (43, 17, CLASSES)
    whole = open_split(str(sharded), "train", DataConfig(""))
    files = [row["bytes"] for row in whole.rows["image"]]
    schedule = Schedule(43, 8, 12, seed=3)
    batches = list(stream.keys(schedule, 0))
    assert [len(batch) for batch in batches] == [8] * 12
    for epoch, steps in ((0, batches[:5]), (1, batches[5:10])):
        keys = list(itertools.chain(*steps))
        assert [key[:2] for key in keys] == [(epoch, place) for place in range(40)]
        assert len({row["image"]["bytes"] for *_, row in keys}) == 40
    assert {row["image"]["bytes"] for batch in batches for *_, row in batch} <= set(files)
    order = [row["image"]["bytes"] for *_, row in itertools.chain(*batches[:5])]
    assert order != [row["image"]["bytes"] for *_, row in itertools.chain(*batches[5:10])]
    assert order != files[:40]


def test_test_images_of_a_stream_are_stored(sharded):
    plain, stored = (store(str(sharded), "test", stream_config(sharded)) for store in (open_split, store_stream))
    assert len(stored) == stored.provenance["n"] == 17
    assert stored.provenance == plain.provenance
    assert labels_of(stored, CLASSES).tolist() == labels_of(plain, CLASSES).tolist()
    assert all(np.array_equal(stored[index][0], plain[index][0]) for index in range(17))


@pytest.mark.parametrize("first", [3, 5, 7])
def test_stream_goes_on_from_any_step(sharded, first):
    schedule = Schedule(43, 8, 12, seed=3)
    stream = open_stream(str(sharded), "train", stream_config(sharded))
    assert list(stream.keys(schedule, first)) == list(stream.keys(schedule, 0))[first:]


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_stream_does_not_depend_on_workers(sharded):
    schedule = Schedule(43, 8, 6, seed=3)
    stream = open_stream(str(sharded), "train", stream_config(sharded))
    source = AugmentedStream(stream, no_resize, augmentation(crop="padded", randaugment=RandAugmentConfig()))
    found = []
    for workers in (0, 2):
        batches = MicroBatches(stream.keys(schedule, 0), 6, 8, 1)
        loader = load_batches(source, augmentation(), batches, stream_config(sharded, workers=workers), CPU)
        found.append(list(loader))
    assert len(found[0]) == 6
    for one, two in zip(*found, strict=True):
        assert torch.equal(one[0], two[0])
        assert torch.equal(one[1], two[1])


def test_stream_of_unknown_length(tmp_path):
    shapes = write_shapes(tmp_path / "shapes")  # datasets remembers the number of rows of files it has seen
    with pytest.raises(StudyError, match=r"shapes does not say how many images its split 'train' has; set data.count"):
        open_data(stream_config(shapes, count=None))
    stream = open_stream(str(shapes), "train", stream_config(shapes, count=60))
    with pytest.raises(StudyError, match=r"shapes has fewer than the 60 images it says; set data.count"):
        list(stream.keys(Schedule(60, 8, 14, 0), 0))


def test_bad_rows_of_a_stream_are_named(tmp_path):
    rows = table(coloured(6, 0), [0, 1, -1, 0, 1, 2]).cast_column("image", datasets.Image(decode=False)).to_list()
    rows[4]["image"]["bytes"] = b"no image"
    stream = Stream(rows, "image", "label", CLASSES, {"name": "toys"}, 6, 1)
    source = AugmentedStream(stream, no_resize, augmentation())
    found = [source[0, place, row] for place, row in enumerate(rows)]
    assert str(found[2]).startswith("image 2 of epoch 0 of toys has no label")
    assert str(found[4]).startswith("image 4 of epoch 0 of toys: is not a readable image")
    assert int(found[5][1]) == 2


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
    config = dataclasses.replace(read_config(recipe), model=model)
    with pytest.raises(StudyError, match=message):
        build_model(config, CLASSES)


def test_network_from_scratch_needs_a_size(recipe):
    config = read_config(recipe, ["data.image_size=null"])
    with pytest.raises(StudyError, match=r"data.image_size is missing"):
        build_model(config, CLASSES)


def finetuned(recipe: Path, checkpoint: Path, *overrides: str):
    override = f"model={json.dumps({'checkpoint': str(checkpoint)})}"
    return read_config(recipe, [override, "data.image_size=null", *overrides])


@pytest.mark.parametrize("fixture", ["vit_folder", "resnet_folder"])
@pytest.mark.parametrize("classes", [CLASSES, list("abcdefghij")], ids=["other number", "same number"])
def test_fine_tuning_starts_from_the_checkpoint_with_a_new_head(recipe, fixture, classes, request):
    folder = request.getfixturevalue(fixture)
    old = load_checkpoint(folder).network.state_dict()
    config = finetuned(recipe, folder)
    model, again = build_model(config, classes), build_model(config, classes)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, old[key])}
    assert changed
    assert all(key.startswith("classifier") for key in changed)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    assert list(model.config.id2label.values()) == classes
    assert make_processor(config).size["height"] == 32
    assert make_processor(finetuned(recipe, folder, "data.image_size=48")).size["height"] == 48


TOWER = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
WORDS = TOWER | {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
TOWERS = {"vision_config": TOWER | {"image_size": 32, "patch_size": 8}, "text_config": WORDS}
STAGES = {"stage_in_channels": [8, 8], "stage_mid_channels": [4, 4], "stage_out_channels": [8, 8]}
STAGES |= {"stage_num_blocks": [1, 1], "stage_numb_of_layers": [1, 1], "stage_downsample": [False, True]}
STAGES |= {"stage_light_block": [False, True], "stage_kernel_size": [3, 3], "depths": [1, 1], "hidden_sizes": [8, 8]}
POOLS = {"depths": [1, 1, 1, 1], "hidden_sizes": [4, 4, 4, 4]}
PRETRAINED = {  # without a base model, with a tower beside, with a norm outside the base model
    "hgnet_v2": ("HGNetV2Config", "HGNetV2ForImageClassification", {"stem_channels": [3, 4, 8], **STAGES}, "fc."),
    "clip": ("CLIPConfig", "CLIPModel", TOWERS, "classifier."),
    "clip classifier": ("CLIPConfig", "CLIPForImageClassification", TOWERS, "classifier."),
    "siglip": ("SiglipConfig", "SiglipModel", TOWERS, "classifier."),
    "poolformer": ("PoolFormerConfig", "PoolFormerForImageClassification", POOLS, "classifier."),
}


@pytest.mark.parametrize("name", PRETRAINED)
def test_only_the_classifier_starts_afresh(recipe, tmp_path, name):
    configuration, kind, sizes, head = PRETRAINED[name]
    network = getattr(transformers, kind)(getattr(transformers, configuration)(**sizes))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01)  # also the norms, which all start alike
    old = network.state_dict()
    new = build_model(finetuned(recipe, save_checkpoint(network, tmp_path / "old")), CLASSES).state_dict()
    changed = {key for key in new if key not in old or not torch.equal(new[key], old[key])}
    assert changed
    assert all(key.startswith(head) for key in changed)


def test_classifier_that_cannot_be_told(recipe, vit_folder, monkeypatch):
    def one_less(config):
        changed = copy.deepcopy(config)
        changed.num_labels -= 1  # which the caller makes up for
        return changed

    monkeypatch.setattr("hf_vitstudy.training.model.copy", SimpleNamespace(deepcopy=one_less))
    with pytest.raises(StudyError, match="cannot tell the classifier of ViTForImageClassification"):
        build_model(finetuned(recipe, vit_folder), CLASSES)


def test_what_no_image_reaches_is_frozen():
    """DDP waits for the gradient of everything else."""
    model = transformers.Dinov2ForImageClassification(transformers.Dinov2Config(image_size=28, **TOWER)).train()
    buffers = [buffer.clone() for buffer in model.buffers()]
    freeze_unused(model, torch.randn(2, 3, 28, 28))
    assert model.training
    assert all(torch.equal(*pair) for pair in zip(model.buffers(), buffers, strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == ["dinov2.embeddings.mask_token"]
    model(torch.randn(2, 3, 28, 28)).logits.sum().backward()
    assert all((parameter.grad is None) == (not parameter.requires_grad) for parameter in model.parameters())


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_position_embeddings_are_resampled_as_a_map(prefix):
    """A linear ramp stays one, away from the edges; the prefix stays as it is."""
    ramp = torch.arange(16.0).repeat_interleave(16)[None, :, None].repeat(1, 1, 2)
    old = torch.cat([torch.full((1, prefix, 2), 99.0), ramp], 1)
    new = resample_positions(old, prefix + 8 * 8)
    assert (new[:, :prefix] == 99).all()
    expected = torch.arange(8.0) * 2 + 0.5
    torch.testing.assert_close(new[0, prefix:, 0].view(8, 8)[1:-1, 3], expected[1:-1], atol=0.05, rtol=0)
    assert torch.equal(resample_positions(old, old.shape[1]), old)
    assert resample_positions(old, prefix + 8 * 8 + 3) is None or prefix + 3 <= 8


def test_larger_images_against_the_interpolation_of_transformers(recipe, vit_folder):
    """Which is bicubic as well, and smooths nothing, as nothing needs to be where the grid grows."""
    larger = build_model(finetuned(recipe, vit_folder, "data.image_size=48"), CLASSES).eval()
    original = load_checkpoint(vit_folder).network
    pixels = torch.randn(2, 3, 48, 48)
    expected = original.vit(pixels, interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(larger.vit(pixels).last_hidden_state, expected, atol=1e-5, rtol=1e-5)


def test_fine_tuning_at_another_size(recipe, vit_folder):
    old = load_checkpoint(vit_folder).network.state_dict()
    model = build_model(finetuned(recipe, vit_folder, "data.image_size=16"), CLASSES)
    assert model.config.image_size == 16
    new = model.state_dict()
    name = "vit.embeddings.position_embeddings"
    assert torch.equal(new[name], resample_positions(old[name], 1 + 4 * 4))
    same = [key for key in new if not key.startswith("classifier") and key != name]
    assert len(same) > 20
    assert all(torch.equal(new[key], old[key]) for key in same)
    assert model(torch.randn(1, 3, 16, 16)).logits.shape == (1, 3)


def test_parts_that_only_the_pretraining_needed_are_left_out(recipe, tmp_path):
    """Such as the pooler of google/vit-base-patch16-224-in21k."""
    from transformers import ViTModel

    body = ViTModel(small_vit().config)
    folder = save_checkpoint(body, tmp_path / "pretrained")
    assert "pooler.dense.weight" in load_file(folder / "model.safetensors")
    model = build_model(finetuned(recipe, folder), CLASSES)
    assert torch.equal(model.vit.layers[2].mlp.fc1.weight, body.layers[2].mlp.fc1.weight)
    with pytest.raises(StudyError, match=r"the weights of .* do not fit \(.*layers.2"):
        build_model(finetuned(recipe, folder, "model.num_hidden_layers=2"), CLASSES)


def test_sizes_that_cannot_be_changed(recipe, vit_folder):
    config = finetuned(recipe, vit_folder, "data.image_size=16", "model.hidden_size=12")
    with pytest.raises(
        StudyError, match=r"the weights of .* do not fit .*; is it the same architecture and image size"
    ):
        build_model(config, CLASSES)


def test_weights_that_do_not_fit(recipe, tmp_path):
    folder = save_checkpoint(small_vit(), tmp_path / "cut")
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("vit.layernorm.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StudyError, match=r"the weights of .* do not fit \(vit.layernorm.weight\)"):
        build_model(finetuned(recipe, folder), CLASSES)


def test_checkpoint_on_the_hub_is_pinned_to_its_commit(recipe, vit_folder, monkeypatch):
    """So that a run which is started again goes on from the same weights, or says that they are others."""
    asked = []

    class Info:
        sha = "0123456789abcdef0123456789abcdef01234567"

    def model_info(self, name, revision=None):
        asked.append((name, revision))
        return Info

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    for name, revision in (("org/vit", None), ("org/vit@v2", "v2")):
        pinned = pin(finetuned(recipe, name))
        assert pinned.model == {"checkpoint": f"org/vit@{Info.sha}"}
        assert asked.pop() == ("org/vit", revision)
    for untouched in (finetuned(recipe, vit_folder), read_config(recipe)):
        assert pin(untouched) == untouched
    assert asked == []

    old = "org/vit@" + "f" * 40
    for offline in (False, True):  # a run that was started goes on, whatever the Hub has by now
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        for before in (old, "org/vit"):
            assert pin(finetuned(recipe, "org/vit"), before).model == {"checkpoint": before}
    assert asked == []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for name, before in (("org/vit@v2", old), ("org/other", old), ("org/vit", None)):
        assert pin(finetuned(recipe, name), before).model["checkpoint"].endswith(Info.sha)

    def fail(self, name, revision=None):
        raise OSError("no such repository")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", fail)
    with pytest.raises(StudyError, match="cannot find the checkpoint org/vit: no such repository"):
        pin(finetuned(recipe, "org/vit"))


def test_checkpoints_in_folders_are_known_by_their_weights(recipe, vit_folder, tmp_path):
    config = finetuned(recipe, vit_folder)
    (digest,) = hash_checkpoint(config).items()
    assert digest == ("model.safetensors", hashlib.sha256((vit_folder / "model.safetensors").read_bytes()).hexdigest())
    assert hash_checkpoint(read_config(recipe)) is None
    assert hash_checkpoint(finetuned(recipe, "org/vit")) is None


def test_checkpoint_without_processor(recipe, tmp_path):
    small_vit().save_pretrained(tmp_path / "bare")
    with pytest.raises(StudyError, match="cannot load the image processor of"):
        make_processor(finetuned(recipe, tmp_path / "bare"))

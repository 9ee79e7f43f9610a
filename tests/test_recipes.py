"""The shipped recipes: each can be read, built, optimised and found, without the Hub and without a GPU."""

import dataclasses
import json
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import small_processor
from toy_recipes import RECIPES
from transformers import AutoConfig, ConvNextImageProcessorPil, ResNetConfig, ViTConfig, ViTModel

from hf_vitstudy import StudyError
from hf_vitstudy.checkpoints import prepare
from hf_vitstudy.training.augmentation import Augment, Mix
from hf_vitstudy.training.model import build_model, make_processor
from hf_vitstudy.training.optimisation import layer_depths, learning_rate, make_optimizer
from hf_vitstudy.training.order import MicroBatches, make_schedule
from hf_vitstudy.training.settings import Config, config_sha256, identity, read_config


FOLDER = RECIPES / "configs"
CONFIGS = sorted(FOLDER.glob("*.yaml"))


class Known(NamedTuple):
    """What a recipe must come to, from other sources than its file."""

    images: int  # of the training split
    classes: int
    size: int  # pixels a side that the network sees
    parameters: int  # counted by hand, see below


# A linear layer or a convolution from a to b channels, kernel k: a·b·k² + b (no b: followed by a norm); a norm: 2·a.
# ViT: patches 3·p²·d + d, class token d, positions (n + 1)·d, a block 4·(d² + d) + 2·d·m + m + d + 2·2·d, final norm 2·d.
VIT_B16 = 590_592 + 768 + 151_296 + 12 * 7_087_872 + 1_536
VIT_TI_2 = 2_496 + 192 + 49_344 + 12 * (444_864 - 3 * 192) + 384  # no bias of queries, keys and values
VIT_TI_96PX = 147_648 + 192 + 7_104 + 12 * 444_864 + 384
VIT_S16_MEAN = 295_296 + 75_264 + 12 * 1_774_464 + 768  # no class token
VIT_DIGITS = 9_264 + 48 + 3_120 + 6 * 18_960 + 96
# ResNet: 23,454,912 weights of convolutions and 53,120 of norms; its stem has 7·7·3·64 = 9,408 of the former.
RESNET_50 = 23_454_912 + 53_120
RESNET_18_STAGES_1_TO_3 = 9_536 + 147_968 + (230_144 + 295_424) + (919_040 + 1_180_672)
RESNET_DIGITS = 3_576 + 20_928 + (32_544 + 41_664) + (129_600 + 166_272)
# Pre-activation: a stem of 3·3·3·64, norms before each convolution of a block (20,672 channels) and after the last (2,048).
PREACT_50 = 23_454_912 - 9_408 + 1_728 + 2 * (20_672 + 2_048)
# A fourth block in the last stage; then blocks of width w become attention with h heads of 64: from 13·w² + 2·w to
# 3·64·h·w + 64·h·4·w + 4·w + 49·h.
ALTERNET_50 = PREACT_50 + 4_462_592 + (344_870 - 213_248) + (1_377_868 - 852_480) + 2 * (5_508_248 - 3_408_896)
# The same of 3 x 3 convolutions only, 64 to 512 channels: 9·a·b + 9·b² + 2·(a + b), a·b more where a block changes the shape.
PREACT_18 = 1_728 + 147_968 + (229_760 + 295_424) + (918_272 + 1_180_672) + (3_671_552 + 4_720_640) + 1_024
# The second blocks of the last two stages become attention with 64 channels a head: c² + 3·c·c + c² + c + 49·c/64 + 4·c.
ALTERNET_18 = PREACT_18 - (1_180_672 - 329_156) - (4_720_640 - 1_313_672)
VIT_TI_4 = 9_408 + 192 + 12_480 + 12 * 444_864 + 384

SHIPPED = {
    "alternet50_cifar100": Known(50_000, 100, 32, ALTERNET_50 + 2_049 * 100),
    "alternet_cifar10_scratch": Known(10_000, 10, 32, ALTERNET_18 + 513 * 10),
    "resnet18_cifar10": Known(10_000, 10, 96, RESNET_18_STAGES_1_TO_3 + 257 * 10),
    "resnet50_cifar10": Known(50_000, 10, 224, RESNET_50 + 2_049 * 10),
    "resnet50_cifar100": Known(50_000, 100, 224, RESNET_50 + 2_049 * 100),
    "resnet50_cifar100_scratch": Known(50_000, 100, 32, PREACT_50 + 2_049 * 100),
    "resnet50_imagenet1k": Known(1_281_167, 1_000, 224, RESNET_50 + 2_049 * 1_000),
    "resnet_cifar10_scratch": Known(10_000, 10, 32, PREACT_18 + 513 * 10),
    "resnet_digits": Known(1_437, 10, 64, RESNET_DIGITS + 97 * 10),
    "vit_b16_cifar10_10k": Known(50_000, 10, 224, VIT_B16 + 769 * 10),
    "vit_b16_cifar10_1k": Known(50_000, 10, 224, VIT_B16 + 769 * 10),
    "vit_b16_cifar100_10k": Known(50_000, 100, 224, VIT_B16 + 769 * 100),
    "vit_b16_cifar100_1k": Known(50_000, 100, 224, VIT_B16 + 769 * 100),
    "vit_cifar10_scratch": Known(10_000, 10, 32, VIT_TI_4 + 193 * 10),
    "vit_digits": Known(1_437, 10, 64, VIT_DIGITS + 49 * 10),
    "vit_s16_imagenet1k": Known(1_281_167, 1_000, 224, VIT_S16_MEAN + 385 * 1_000),
    "vit_ti_cifar100": Known(50_000, 100, 32, VIT_TI_2 + 193 * 100),
    "vit_tiny_cifar10": Known(10_000, 10, 96, VIT_TI_96PX + 193 * 10),
}

# What stands for a checkpoint here, where the Hub is out of reach: its architecture with fresh weights. By name, without
# organisation or folder.
ARCHITECTURES = {
    "vit-base-patch16-224-in21k": {"type": "vit"},
    "resnet-50": {"type": "resnet"},
    "vit-tiny-tinyimagenet": {
        "type": "vit",
        "hidden_size": 192,
        "num_hidden_layers": 12,
        "num_attention_heads": 3,
        "intermediate_size": 768,
    },
    "resnet18-imagenet-stages1to3": {
        "type": "resnet",
        "layer_type": "basic",
        "embedding_size": 64,
        "hidden_sizes": [64, 128, 256],
        "depths": [2, 2, 2],
    },
}


def read(name: str) -> Config:
    return read_config(FOLDER / f"{name}.yaml")


def offline(config: Config) -> Config:
    """The recipe with the architecture of its checkpoint in place of the checkpoint."""
    model = dict(config.model)
    checkpoint = model.pop("checkpoint", None)
    if checkpoint is None:
        return config
    data = dataclasses.replace(config.data, image_size=config.data.image_size or 224)
    return dataclasses.replace(config, model=ARCHITECTURES[Path(checkpoint).name] | model, data=data)


def build(name: str, device: str = "meta") -> torch.nn.Module:
    with torch.device(device):
        return build_model(offline(read(name)), [f"class{index}" for index in range(SHIPPED[name].classes)])


def head(name: str) -> str:
    """The comment before the first setting."""
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return "\n".join(lines[: next(index for index, line in enumerate(lines) if not line.startswith("#"))])


every_recipe = pytest.mark.parametrize("name", SHIPPED)


# ---------------------------------------------------------------------------------------------------------- the folder


def test_the_folder_holds_these_recipes_and_no_others():
    assert [path.stem for path in CONFIGS] == sorted(SHIPPED)
    assert len(CONFIGS) == 18
    assert {path.name for path in FOLDER.iterdir()} == {path.name for path in CONFIGS}


def test_every_recipe_writes_to_a_folder_of_its_own():
    outputs = {read(name).output for name in SHIPPED}
    assert len(outputs) == len(SHIPPED)
    assert all(output.startswith("runs/") for output in outputs)
    assert len({config_sha256(read(name)) for name in SHIPPED}) == len(SHIPPED)


def test_the_readme_has_a_row_for_every_recipe():
    text = (RECIPES / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[`(\w+)`\]\(configs/(\w+)\.yaml\) \|", text, re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(SHIPPED)
    assert all(name == file for name, file in rows)


@every_recipe
def test_head_comment(name):
    text = head(name)
    assert f"recipes/finetune.py recipes/configs/{name}.yaml\n" in text
    for part in ("Source", "Expected", "Cost"):
        assert len(re.findall(rf"^# {part}\b.*:", text, re.MULTILINE)) == 1, part
    for known in re.findall(r"accelerate launch [^\n]*recipes/finetune\.py (?:recipes/configs/)?(\w+)", text):
        assert known == name
    assert max(map(len, text.splitlines())) <= 128


@every_recipe
def test_expectation_and_cost_say_where_they_come_from(name):
    text = " ".join(head(name).replace("\n#", "\n").split())
    expected, cost = re.search(r"Expected(.*?)Cost", text)[1], re.search(r"Cost.*", text)[0]
    marks = ("(measured)", "(published, not measured here)", "no published number known")
    assert any(mark in expected for mark in marks)
    assert re.search("CPU cores, about|H200, about", cost) if "(measured)" in expected else "Cost (estimate)" in cost


# ------------------------------------------------------------------------------------------------------------- reading


@every_recipe
def test_recipes_are_found_by_their_bare_names(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_config(name, folder=FOLDER) == read(name)


@every_recipe
def test_recipes_are_read_strictly(name):
    with pytest.raises(StudyError, match="unknown setting batchsize; did you mean batch_size"):
        read_config(FOLDER / f"{name}.yaml", ["batchsize=1"])
    with pytest.raises(StudyError, match=r"optimizer\.lr must be float"):
        read_config(FOLDER / f"{name}.yaml", ["optimizer.lr=fast"])


@every_recipe
def test_identity_is_plain_json(name):
    settings = identity(read(name))
    assert json.loads(json.dumps(settings)) == settings


@every_recipe
def test_nothing_is_chosen_by_the_test_images(name):
    config = read(name)
    assert config.select == "last" or config.data.holdout > 0
    assert config.patience is None
    assert config.data.holdout > 0 or "checkpoint" not in config.model or "held out" in head(name)


def test_published_settings_of_park_and_kim():
    """xxxnell/how-do-vits-work, configs/cifar100_vit.yaml: one recipe for all networks."""
    names = ("vit_ti_cifar100", "resnet50_cifar100_scratch", "alternet50_cifar100")
    vit, resnet, alternet = (dataclasses.replace(read(name), model={}, output="") for name in names)
    assert resnet == alternet == dataclasses.replace(vit, channels_last=True)
    assert (vit.epochs, vit.optimizer.warmup_epochs, vit.batch_size, vit.label_smoothing) == (305, 5, 96, 0.1)
    optimizer, augment = vit.optimizer, vit.augment
    assert (optimizer.name, optimizer.lr, optimizer.weight_decay) == ("adamw", 1.25e-4, 0.05)
    assert (optimizer.decay_all, optimizer.clip, optimizer.betas) == (True, 5.0, [0.9, 0.999])
    assert dataclasses.astuple(augment.randaugment) == (2, 9.0, 1.0, 0.5)
    assert (augment.crop, augment.padding, augment.flip, augment.erase) == ("padded", 4, True, 0)
    assert (augment.mixup, augment.cutmix, augment.mix_probability) == (1.0, 0.8, 1.0)


def test_the_build_up_can_be_swept_by_an_override():
    from hf_vitstudy.configuration_alternet import BUILD_UP

    counts = []
    for blocks, _ in BUILD_UP:
        config = read_config(FOLDER / "alternet50_cifar100.yaml", [f"model.num_attention_blocks={list(blocks)}"])
        with torch.device("meta"):
            model = build_model(config, [str(index) for index in range(100)])
        counts.append(sum("Attention" in type(module).__name__ for module in model.modules()) // 2)
    assert counts == [0, 1, 2, 3, 4, 5]


def test_sweeps_in_the_readme_can_be_started():
    text = (RECIPES / "README.md").read_text(encoding="utf-8").split("## Sweeps")[1].split("\n## ")[0]
    commands = [shlex.split(command) for command in re.findall(r"\| `(\w+ [^|]*)` \|\n", text)]
    assert len(commands) == 6
    for name, *overrides in commands:
        config = read_config(name, overrides, FOLDER)
        with torch.device("meta"):
            build_model(config, [str(index) for index in range(100)])
        assert config_sha256(config) != config_sha256(read(name)) or config.profile is not None
        assert config.output != read(name).output


# ------------------------------------------------------------------------------------------------------------ networks


def test_hand_counts_agree_with_published_ones():
    assert VIT_B16 + 769 * 1_000 == 86_567_656  # timm's vit_base_patch16_224
    assert RESNET_50 + 2_049 * 1_000 == 25_557_032  # torchvision's ResNet50_Weights


@every_recipe
def test_the_network_has_the_known_size(name):
    model, known = build(name), SHIPPED[name]
    assert model.config.num_labels == known.classes
    assert sum(parameter.numel() for parameter in model.parameters()) == known.parameters
    assert offline(read(name)).data.image_size == known.size
    assert all(parameter.is_meta for parameter in model.parameters())


def test_architectures_of_the_local_checkpoints(real_data):
    local = [name for name in ARCHITECTURES if (real_data / "checkpoints" / name).is_dir()]
    assert len(local) == 2
    for name in local:
        known, settings = AutoConfig.from_pretrained(real_data / "checkpoints" / name).to_dict(), ARCHITECTURES[name]
        assert {key: known["model_type" if key == "type" else key] for key in settings} == settings


def test_a_checkpoint_with_a_pooler_can_be_fine_tuned(tmp_path):
    """google/vit-base-patch16-224-in21k is a `ViTModel` saved with its pooler, which a classifier does not use."""
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    ViTModel(ViTConfig(image_size=224, **sizes), add_pooling_layer=True).save_pretrained(tmp_path)
    config = read_config(FOLDER / "vit_b16_cifar10_1k.yaml", [f"model.checkpoint={tmp_path}"])
    assert build_model(config, [str(digit) for digit in range(10)]).config.num_labels == 10


def test_resnet_50_sees_the_middle_of_the_image_as_its_processor_says(tmp_path):
    """microsoft/resnet-50 has a ConvNeXt processor: 256 px, of which the middle 224."""
    ConvNextImageProcessorPil(size={"shortest_edge": 224}, crop_pct=0.875).save_pretrained(tmp_path)
    ResNetConfig().save_pretrained(tmp_path)
    processor = make_processor(read_config(FOLDER / "resnet50_cifar10.yaml", [f"model.checkpoint={tmp_path}"]))
    image = np.zeros((32, 32, 3), np.uint8)
    image[:2], image[-2:], image[:, :2], image[:, -2:] = [255] * 4  # 2 of 32 px are 16 of 256, all that is cut off
    seen = prepare(processor, image)
    assert seen.shape == (3, 224, 224)
    assert (seen[:, 8:-8, 8:-8] < 64).all()


# -------------------------------------------------------------------------------------------------------- optimisation


@every_recipe
def test_optimizer(name):
    config = read(name)
    depths = None
    if config.optimizer.layer_decay is None:
        model = build(name)
    else:
        model, size = build(name, "cpu"), SHIPPED[name].size
        depths = layer_depths(model, torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)))
    optimizer = make_optimizer(model, config.optimizer, depths)
    assert type(optimizer).__name__.lower() == config.optimizer.name
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters())
    decays = {group["weight_decay"] for group in optimizer.param_groups}
    assert decays == (
        {config.optimizer.weight_decay} if config.optimizer.decay_all else {0, config.optimizer.weight_decay}
    )
    scales = sorted(group["scale"] for group in optimizer.param_groups)
    assert scales[-1] == 1
    assert (scales[0] < 1) == (config.optimizer.layer_decay is not None)


@every_recipe
def test_learning_rate(name):
    config = read(name)
    n = round(SHIPPED[name].images * (1 - config.data.holdout))
    schedule, optimizer = make_schedule(config, n), config.optimizer
    warmup = optimizer.warmup_steps or round(optimizer.warmup_epochs * schedule.steps_per_epoch)
    assert 0 <= warmup < schedule.steps / 5
    first, highest, last = (learning_rate(optimizer, step, schedule) for step in (0, warmup, schedule.steps - 1))
    assert [first, highest] == pytest.approx([optimizer.lr / max(1, warmup), optimizer.lr])
    assert 0 <= last < 0.01 * optimizer.lr
    middle = learning_rate(optimizer, (warmup + schedule.steps) // 2, schedule)
    assert middle == pytest.approx(optimizer.lr / 2, rel=0.05)
    assert config.checkpoint_every < schedule.steps
    assert config.eval_every <= schedule.epochs


@every_recipe
@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_batches_can_be_shared_by_processes(name, world):
    config = read(name)
    keys = [(0, index) for index in range(config.batch_size)]
    shares = [
        key
        for rank in range(world)
        for batch in MicroBatches([keys], 1, config.batch_size, config.accumulation, rank, world)
        for key in batch
    ]
    assert sorted(shares) == keys


# -------------------------------------------------------------------------------------------------------- augmentation


@every_recipe
def test_augmentation_and_mixing(name):
    config, known = read(name), SHIPPED[name]
    augment = Augment(config.augment, (known.size, known.size), small_processor().image_mean, config.seed)
    side = 2 * known.size if config.augment.crop == "resized" else known.size
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, side, side), dtype=np.uint8))
    seen = [augment(image, epoch, 0) for epoch in (0, 1, 1)]
    assert all(pixels.shape == (3, known.size, known.size) and pixels.dtype == torch.uint8 for pixels in seen)
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[1], seen[2])
    pixels, targets = Mix(config.augment, known.classes)(torch.rand(4, 3, 8, 8), torch.arange(4))
    assert pixels.shape == (4, 3, 8, 8)
    assert targets.shape == ((4, known.classes) if config.augment.mixup else (4,))

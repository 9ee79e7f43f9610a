"""Real checkpoints and real images: the numbers their sources give come out of our own path."""

import pytest

from hf_vitstudy import compare, judge, make_report, measure


QUICK = {"workers": 1, "progress": False}


@pytest.fixture(scope="module")
def profiles(real_data):
    images = real_data / "imagenet-sample-256" / "one-per-class-1000.parquet"
    names = ("vit-tiny-tinyimagenet", "resnet18-imagenet-stages1to3")
    return [measure(real_data / "checkpoints" / name, images, n=96, **QUICK) for name in names]


def test_published_accuracy_is_reproduced(real_data):
    """69.05 % top-1 and 88.8 % top-5 are the checkpoint's on these images: decoding, resizing, normalisation are right."""
    profile = measure(
        real_data / "checkpoints" / "vit-tiny-tinyimagenet",
        real_data / "tiny-imagenet-200" / "val-2k.parquet",
        n=None,
        analyses=["predictions"],
        **QUICK,
    )
    labels, top = profile["label"].values, profile["top5"].values
    assert len(labels) == 2000
    assert (labels >= 0).all(), "classes are matched by their wnids"
    assert 100 * (top[:, 0] == labels).mean() == pytest.approx(69.05, abs=0.3)
    assert 100 * (top == labels[:, None]).any(1).mean() == pytest.approx(88.8, abs=0.3)


def test_the_real_pair_is_read_where_its_papers_look(profiles):
    vit, resnet = profiles
    assert vit.data["block"].values[[0, 1, 2, -1]].tolist() == [
        "embedding",
        "block00.attention",
        "block00.mlp",
        "block11.mlp",
    ]
    assert vit.data.sizes["block"] == 25
    assert set(vit.data["height"].values.tolist()) == {14}
    assert resnet.data["height"].values.tolist() == [56, 56, 56, 28, 28, 14, 14]
    assert resnet.data["stage"].values.tolist() == [1, 1, 1, 2, 2, 3, 3]
    assert resnet.provenance["checkpoint"]["memory_format"] == "channels_last"
    assert resnet.provenance["absent"]["predictions"] == "this checkpoint has no classifier"


def test_what_is_known_of_the_real_pair_is_found(profiles):
    """Signs that hold with a wide margin on all 1,000 images; the full figures are in the README."""
    vit, resnet = profiles
    cross = compare(vit, resnet, draws=200).cka("ab")["cka"].values
    assert cross[:4].max() > 0.75, "low blocks of both are alike"
    assert cross[20:].max() < 0.3, "high blocks of the ViT are unlike every block of the ResNet"
    verdicts = {j.claim.id: str(j.verdict) for j in judge(vit, resnet, draws=200)}
    assert verdicts["P-F1"] == verdicts["P-F2-conv"] == verdicts["R-4-local"] == verdicts["R-2"] == "supported"
    share = vit["top_channel_share"].mean("image").values
    assert share[:16].max() < 0.3
    assert share[16:].min() > 0.7, "one channel outweighs all others from block 7 on"
    assert any("block07.mlp" in warning for j in judge(vit, resnet, draws=200) for warning in j.warnings)


def test_the_real_pair_makes_a_report(profiles, tmp_path):
    path = make_report(*profiles, draws=200).save(tmp_path / "report.html")
    page = path.read_text(encoding="utf-8")
    assert "How do vit-tiny-tinyimagenet and resnet18-imagenet-stages1to3 differ inside?" in page
    assert str(tmp_path) not in page
    assert "/data/" not in page


def test_resampled_positions_keep_what_the_network_knows(real_data):
    """Shown at 192 px, for which its position embeddings were never trained, the ViT still tells the 200 classes apart."""
    import torch
    from toy_recipes import RECIPES

    from hf_vitstudy.checkpoints import normalisation, prepare
    from hf_vitstudy.images import load_images
    from hf_vitstudy.training.model import build_model, make_processor
    from hf_vitstudy.training.settings import read_config

    checkpoint = real_data / "checkpoints" / "vit-tiny-tinyimagenet"
    config = read_config(
        RECIPES / "configs" / "vit_tiny_cifar10.yaml", [f"model.checkpoint={checkpoint}", "data.image_size=192"]
    )
    images = load_images(real_data / "tiny-imagenet-200" / "val-2k.parquet", n=32)
    from transformers import ViTForImageClassification

    original = ViTForImageClassification.from_pretrained(checkpoint)
    network = build_model(config, images.classes).eval()
    network.classifier.load_state_dict(original.classifier.state_dict())
    processor = make_processor(config)
    scale, mean, std = normalisation(processor)
    shown = torch.stack([torch.from_numpy(prepare(processor, images[index][0])) for index in range(32)])
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    with torch.inference_mode():
        found = network(pixel_values=(shown / 255 * scale - mean) / std).logits.argmax(1)
    names = [original.config.id2label[int(index)] for index in found]
    right = [name == images.classes[images[index][1]] for index, name in enumerate(names)]
    assert sum(right) / 32 > 0.5

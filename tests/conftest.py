"""Shared fixtures: small checkpoints and images made here, real ones where they are at hand."""

import os


# read when the libraries are imported: no test may reach for the network
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

from pathlib import Path

import numpy as np
import pytest


REAL_DATA = Path(os.environ.get("VITSTUDY_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real checkpoints and images, which licences keep out of the repository."""
    if not REAL_DATA.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"CI must run the tests on real data, and {REAL_DATA} is not there; set VITSTUDY_DATA")
        pytest.skip("no real checkpoints and images at hand; set VITSTUDY_DATA to their folder")
    return REAL_DATA


_forks = None


def pytest_collection_finish(session) -> None:
    """Fork the process that forks others while nothing has run yet; see `forks`."""
    global _forks
    wanted = not session.config.option.collectonly and any("forks" in item.fixturenames for item in session.items)
    if wanted and _forks is None:
        from forks import Forks

        _forks = Forks()


def pytest_sessionfinish() -> None:
    if _forks is not None:
        _forks.stop()


@pytest.fixture(scope="session")
def forks():
    """Runs functions in processes of their own, which may be killed."""
    return _forks


def small_vit(**changes):
    """An HF ViT of 3 blocks on 32 px images, 8 x 8 patches and a class token; random weights, evaluation mode."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
    config = ViTConfig(image_size=32, patch_size=4, num_labels=10, **(sizes | changes))
    return ViTForImageClassification(config).eval()


def small_resnet(**changes):
    """An HF ResNet of 3 stages with 2 blocks each on 32 px images; random weights, evaluation mode."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16, 24], "depths": [2, 2, 2], "layer_type": "basic"}
    return ResNetForImageClassification(ResNetConfig(num_labels=10, **(sizes | changes))).eval()


def small_processor(size: int = 32, mean: float = 0.5, std: float = 0.25):
    from transformers import AutoImageProcessor, ViTImageProcessor  # noqa: F401

    return ViTImageProcessor(size={"height": size, "width": size}, image_mean=[mean] * 3, image_std=[std] * 3)


def save_checkpoint(network, folder: Path, **processor) -> Path:
    network.save_pretrained(folder)
    small_processor(**processor).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def vit_folder(tmp_path_factory) -> Path:
    return save_checkpoint(small_vit(), tmp_path_factory.mktemp("checkpoints") / "small-vit")


@pytest.fixture(scope="session")
def resnet_folder(tmp_path_factory) -> Path:
    return save_checkpoint(small_resnet(), tmp_path_factory.mktemp("checkpoints") / "small-resnet")


def smooth_images(n: int, size: int = 40, seed: int = 0) -> list[np.ndarray]:
    """Random low-frequency colour images, (size, size, 3) uint8: natural enough for a spectrum to fall."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 6, 6, 3), dtype=np.uint8)
    return [np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)) for pixels in coarse]


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> Path:
    """An image folder of 44 images in 10 classes named LABEL-free, as users have them."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("images") / "shapes"
    for index, pixels in enumerate(smooth_images(44)):
        path = folder / f"class{index % 10}" / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """43 training and 17 test images of 3 classes, as parquet files."""
    from toy_recipes import write_shapes

    return write_shapes(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="session")
def small_study(tmp_path_factory) -> Path:
    """A study of five checkpoints, with its profiles."""
    from viewer_site import write_study

    return write_study(tmp_path_factory.mktemp("study") / "study")


@pytest.fixture(scope="session")
def space_address(small_study, vit_folder, resnet_folder):
    """Where the app serves that study, with two small networks that look at images."""
    from space_server import SERVER, serving

    with serving("-c", SERVER, str(small_study), str(vit_folder), str(resnet_folder)) as address:
        yield address

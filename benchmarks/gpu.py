"""How much of a GPU's bare throughput is left while it measures: ViT-B/16 and ResNet-50, bf16.

    python benchmarks/gpu.py [n] [rounds]

Random weights, n smooth random images of 224 px that lie on the GPU as bytes, batches of 256, Gram blocks of 32. A case and
the bare pass take turns; a figure is the median over rounds of (seconds of the bare pass in this round / seconds of the
case), both with the GPU drained at the end. The bare pass scales and normalises the same bytes. Decoding is left out: it is the
same for both, and a matter of processor cores.
"""

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from hf_vitstudy import compare
from hf_vitstudy.analyses import make_analysis
from hf_vitstudy.blocks import find_blocks
from hf_vitstudy.checkpoints import DTYPES, Checkpoint
from hf_vitstudy.images import ImageSet
from hf_vitstudy.measuring import Run


BATCH, PIXELS, GRAM = 256, 224, 32
CASES = {
    "the bare pass, again": None,
    "CKA": ("cka:block=32",),
    "Fourier": ("fourier",),
    "variance": ("variance",),
    "CKA + Fourier + variance": ("cka:block=32", "fourier", "variance"),
}


def networks() -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    vit = ViTConfig(num_labels=1000)
    vit._attn_implementation = "sdpa"
    return {
        "ViT-B/16": ViTForImageClassification(vit),
        "ResNet-50": ResNetForImageClassification(ResNetConfig(num_labels=1000)),
    }


def checkpoint(network: torch.nn.Module, dtype: str, channels_last: bool) -> Checkpoint:
    """As `load_checkpoint` makes it, from random weights, on the GPU."""
    processor = ViTImageProcessor(size={"height": PIXELS, "width": PIXELS})
    form = "channels_last" if channels_last else "contiguous"
    about = {"image_size": [PIXELS, PIXELS], "classes": [str(i) for i in range(1000)], "memory_format": form}
    found = Checkpoint(network.float().cpu().eval(), processor, [], [], "random", about)
    images = torch.rand(3, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(0))
    found.blocks, found.layers = find_blocks(network, found.normalise(images))
    network.to("cuda", DTYPES[dtype])
    if channels_last:
        network.to(memory_format=torch.channels_last)
    return found


def pictures(n: int) -> torch.Tensor:
    coarse = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(1)).cuda()
    parts = [torch.nn.functional.interpolate(part, PIXELS, mode="bicubic").clamp(0, 1) for part in coarse.split(BATCH)]
    return torch.cat([part.mul(255).round().to(torch.uint8) for part in parts])


def bare(made: Checkpoint, images: torch.Tensor) -> Callable[[], None]:
    def run() -> None:
        with torch.inference_mode():
            for part in images.split(BATCH):
                made.network(made.normalise(part.float().div_(255)))

    return run


def measuring(made: Checkpoint, images: torch.Tensor, names: tuple[str, ...]) -> Callable[[], object]:
    labels = torch.zeros(BATCH, dtype=torch.long)

    def run() -> object:
        measured = Run(made, ImageSet([{}] * len(images)), [make_analysis(name) for name in names], BATCH)
        for first, part in zip(range(0, len(images), BATCH), images.split(BATCH), strict=True):
            measured.step(part, labels[: len(part)], torch.arange(first, first + len(part)))
        return measured

    return run


def seconds(run: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def table(name: str, made: Checkpoint, images: torch.Tensor, rounds: int) -> None:
    """One line per case as soon as it is measured: a lease may end."""
    plain, few = bare(made, images), images[: 2 * BATCH]
    seconds(bare(made, few))
    print(f"\n| {name} | share of the bare throughput | range | goal |\n|---|---|---|---|", flush=True)
    best = np.inf
    for case, names in CASES.items():
        run = plain if names is None else measuring(made, images, names)
        seconds(run if names is None else measuring(made, few, names))  # kernels are chosen and compiled on first use
        ratios = []
        for _ in range(rounds):
            base = seconds(plain)
            best = min(best, base)
            ratios.append(base / seconds(run))
        goal = "0.9" if case.startswith("CKA +") else "1" if names is None else ""
        shown = f"{min(ratios):.3f} to {max(ratios):.3f}"
        print(f"| {case} | **{statistics.median(ratios):.3f}** | {shown} | {goal} |", flush=True)
    print(f"\nThe bare pass: {len(images) / best:.0f} images a second.", flush=True)


def half_precision(images: torch.Tensor) -> None:
    """How far bf16 and tf32 move a CKA on the GPU."""
    few = images[: 4 * BATCH]
    maps: dict[str, np.ndarray] = {}
    for setting, dtype in (("float32", "float32"), ("tf32", "float32"), ("bfloat16", "bfloat16")):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = setting == "tf32"
        made = [checkpoint(network, dtype, name == "ResNet-50") for name, network in networks().items()]
        profiles = [measuring(each, few, ("cka:block=32", "predictions"))().profile() for each in made]
        maps[setting] = compare(*profiles, draws=2).cka("ab")["cka"].values
    for setting in ("tf32", "bfloat16"):
        off = np.abs(maps[setting] - maps["float32"])
        print(f"\nLargest change of a CKA by {setting}: {np.nanmax(off):.1e}, mean {np.nanmean(off):.1e}.")


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 10_240
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, n = {n}, {rounds} rounds")
    images = pictures(n)
    for name, network in networks().items():
        table(f"{name}, bf16", checkpoint(network, "bfloat16", name == "ResNet-50"), images, rounds)
    half_precision(images)


if __name__ == "__main__":
    main()

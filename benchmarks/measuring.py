"""What measuring costs, as a multiple of the bare forward pass.

    OMP_NUM_THREADS=1 python benchmarks/measuring.py [rounds]

Random weights in the shapes of ViT-Ti/16 and ResNet-50, 224 px, batches of 32. All cases take turns in one process; a
figure is the median over rounds of (CPU seconds of the case / CPU seconds of its baseline in the same round), so that a slow
moment of the machine hits both. The first row of each table is the baseline against itself, measured twice: its distance
from 1 is the noise.
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

from hf_vitstudy.analyses import make_analysis
from hf_vitstudy.blocks import find_blocks
from hf_vitstudy.checkpoints import DTYPES, Checkpoint
from hf_vitstudy.images import ImageSet
from hf_vitstudy.measuring import Run


BATCH, PIXELS = 32, 224
ALL = ("cka", "fourier", "variance", "attention_distance")


def vit(attention: str) -> torch.nn.Module:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768, num_labels=1000
    )
    config._attn_implementation = attention
    return ViTForImageClassification(config).eval()


def resnet(_: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return ResNetForImageClassification(ResNetConfig(num_labels=1000)).eval()


def checkpoint(network: torch.nn.Module, dtype: str, channels_last: bool) -> Checkpoint:
    """As `load_checkpoint` makes it, from random weights."""
    processor = ViTImageProcessor(size={"height": PIXELS, "width": PIXELS})
    form = "channels_last" if channels_last else "contiguous"
    about = {
        "image_size": [PIXELS, PIXELS],
        "classes": [str(i) for i in range(1000)],
        "memory_format": form,
        "attention": network.config._attn_implementation,
    }
    found = Checkpoint(network, processor, [], [], "random", about)
    images = torch.rand(3, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(0))
    found.blocks, found.layers = find_blocks(network, found.normalise(images))
    network.to(DTYPES[dtype])
    if channels_last:
        network.to(memory_format=torch.channels_last)
    return found


def forward(make: Callable, dtype: str = "float32", channels_last: bool = False, attention: str = "sdpa") -> Callable:
    """The network alone on images that lie ready in its own layout."""
    made = checkpoint(make(attention), dtype, channels_last)
    pixel_values = made.normalise(PICTURES.float() / 255)

    def run() -> None:
        with torch.inference_mode():
            made.network(pixel_values)

    return run


def measured(
    make: Callable, *names: str, dtype: str = "float32", channels_last: bool = False, attention: str = "sdpa"
) -> Callable:
    """One step of `measure`: bytes in, all measurements kept."""
    made = checkpoint(make(attention), dtype, channels_last)
    run = Run(made, ImageSet([{}] * (BATCH * 1000)), [make_analysis(name) for name in names], BATCH)
    labels, digests = torch.zeros(BATCH, dtype=torch.long), torch.zeros(BATCH, dtype=torch.long)
    return lambda: run.step(PICTURES, labels, digests)


PICTURES = torch.randint(
    0, 256, (BATCH, 3, PIXELS, PIXELS), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
)


Case = tuple[str, Callable, str, str]  # what, how to run it, what it is divided by, goal


def vit_cases() -> list[Case]:
    return [
        ("forward, again", forward(vit), "forward", "1"),
        ("CKA", measured(vit, "cka"), "forward", "1.05"),
        ("CKA, bf16", measured(vit, "cka", dtype="bfloat16"), "forward", "0.6"),
        ("all four (eager attention)", measured(vit, *ALL, attention="eager"), "forward", "1.4"),
        ("forward, eager attention", forward(vit, attention="eager"), "forward", ""),
    ]


def resnet_cases() -> list[Case]:
    last = "forward, channels_last"
    return [
        ("forward, again", forward(resnet), "forward", "1"),
        ("CKA", measured(resnet, "cka"), "forward", "1.05"),
        (last, forward(resnet, channels_last=True), "forward", ""),
        ("CKA, channels_last (the default)", measured(resnet, "cka", channels_last=True), "forward", "0.85"),
        ("CKA, channels_last", measured(resnet, "cka", channels_last=True), last, "1.05"),
        ("CKA, channels_last, bf16", measured(resnet, "cka", channels_last=True, dtype="bfloat16"), "forward", "0.6"),
        ("all that apply, channels_last", measured(resnet, *ALL, channels_last=True), last, "1.4"),
        ("all that apply, channels_last (the default)", measured(resnet, *ALL, channels_last=True), "forward", "1.4"),
    ]


SHAPES = {"ViT-Ti/16": (vit, vit_cases), "ResNet-50": (resnet, resnet_cases)}


def seconds(run: Callable) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def table(name: str, rounds: int) -> list[str]:
    make, list_cases = SHAPES[name]
    cases = list_cases()
    runs = {"forward": forward(make)} | {what + divisor: case for what, case, divisor, _ in cases}
    for case in runs.values():
        case()  # warm-up: caches, lazy set-up
    times: dict[str, list[float]] = {key: [] for key in runs}
    for _ in range(rounds):
        for key, case in runs.items():
            times[key].append(seconds(case))
    lines = [f"| {name} | divided by | median ratio | quartiles | goal |", "|---|---|---|---|---|"]
    for what, _, divisor, goal in cases:
        below = times.get(divisor) or times[divisor + "forward"]
        ratios = [above / under for above, under in zip(times[what + divisor], below, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        lines.append(
            f"| {what} | {divisor} | **{statistics.median(ratios):.2f}** | {low:.2f} to {high:.2f} | {goal} |"
        )
    base = statistics.median(times["forward"])
    return [*lines, "", f"Baseline: {base:.2f} CPU seconds for {BATCH} images, {rounds} rounds."]


def bf16_error() -> str:
    """Largest change of a CKA by bf16, self-similarity of 64 smooth random images."""
    from hf_vitstudy import compare

    coarse = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    pictures = (torch.nn.functional.interpolate(coarse, PIXELS, mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)
    worst = {}
    for name, make in (("ViT-Ti/16", vit), ("ResNet-50", resnet)):
        maps = []
        for dtype in ("float32", "bfloat16"):
            made = checkpoint(make("sdpa"), dtype, channels_last=make is resnet)
            run = Run(made, ImageSet([{}] * 64), [make_analysis("cka")], BATCH)
            for part in pictures.split(BATCH):
                run.step(part, torch.zeros(BATCH, dtype=torch.long), torch.arange(BATCH))
            profile = run.profile()
            maps.append(compare(profile, profile, draws=100).cka("aa")["cka"].values)
        worst[name] = float(np.nanmax(np.abs(maps[0] - maps[1])))
    return (
        "Largest change of a CKA by bf16: " + ", ".join(f"{name} {error:.1e}" for name, error in worst.items()) + "."
    )


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    for name in SHAPES:
        print("\n".join(table(name, rounds)), end="\n\n", flush=True)
    print(bf16_error())


if __name__ == "__main__":
    main()

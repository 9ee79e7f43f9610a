"""What measuring costs, as a multiple of the bare forward pass.

    OMP_NUM_THREADS=1 python benchmarks/measuring.py [rounds] [keep]

With ``keep`` glibc keeps freed memory, as `vitstudy measure` asks it to. Without, it hands large blocks back to the system and
fetches them again: half of the CPU seconds of ResNet-50's forward pass, a tenth of ViT-Ti's, more or less by the whim of the
heap's layout.

Random weights in the shapes of ViT-Ti/16 and ResNet-50, 224 px, batches of 32. All cases take turns in one process; a
figure is the median over rounds of (CPU seconds of the case / CPU seconds of its baseline in the same round), so that a slow
moment of the machine hits both; case and baseline of one format share one network, since where its weights lie in memory
alone changes its speed by some per cent. The first row of each table is the baseline against itself: its distance from 1 is
the noise.
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
from hf_vitstudy.measuring import Run, keep_memory


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


def forward(made: Checkpoint) -> Callable:
    """The network alone on images that lie ready in its own layout."""
    pixel_values = made.normalise(PICTURES.float() / 255)

    def run() -> None:
        with torch.inference_mode():
            made.network(pixel_values)

    return run


def measured(made: Checkpoint, *names: str) -> Callable:
    """One step of `measure`: bytes in, all measurements kept."""
    run = Run(made, ImageSet([{}] * (BATCH * 1000)), [make_analysis(name) for name in names], BATCH)
    labels, digests = torch.zeros(BATCH, dtype=torch.long), torch.zeros(BATCH, dtype=torch.long)
    return lambda: run.step(PICTURES, labels, digests)


PICTURES = torch.randint(
    0, 256, (BATCH, 3, PIXELS, PIXELS), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
)

Case = tuple[str, Callable, str, str]  # what, how to run it, what it is divided by, goal


def vit_cases() -> list[Case]:
    plain, half = (checkpoint(vit("sdpa"), dtype, False) for dtype in ("float32", "bfloat16"))
    eager = checkpoint(vit("eager"), "float32", False)
    return [
        ("forward", forward(plain), "forward", ""),
        ("forward, again", forward(plain), "forward", "1"),
        ("CKA", measured(plain, "cka"), "forward", "1.05"),
        ("CKA, bf16", measured(half, "cka"), "forward", "0.6"),
        ("forward, eager attention", forward(eager), "forward", ""),
        ("all four (eager attention)", measured(eager, *ALL), "forward", "1.4"),
        ("all four (eager attention)", measured(eager, *ALL), "forward, eager attention", ""),
    ]


def resnet_cases() -> list[Case]:
    plain, last = (checkpoint(resnet(""), "float32", channels_last) for channels_last in (False, True))
    half = checkpoint(resnet(""), "bfloat16", True)
    return [
        ("forward", forward(plain), "forward", ""),
        ("forward, again", forward(plain), "forward", "1"),
        ("CKA", measured(plain, "cka"), "forward", "1.05"),
        ("forward, channels_last", forward(last), "forward", ""),
        ("CKA, channels_last", measured(last, "cka"), "forward, channels_last", "1.05"),
        ("CKA, channels_last (the default)", measured(last, "cka"), "forward", "0.85"),
        ("CKA, channels_last, bf16", measured(half, "cka"), "forward", "0.6"),
        ("all that apply, channels_last", measured(last, *ALL), "forward, channels_last", "1.4"),
    ]


SHAPES = {"ViT-Ti/16": vit_cases, "ResNet-50": resnet_cases}


def seconds(run: Callable) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def table(name: str, rounds: int) -> list[str]:
    cases = SHAPES[name]()
    for _, run, _, _ in cases:
        run()  # warm-up: caches, lazy set-up
    times: list[list[float]] = [[] for _ in cases]
    for _ in range(rounds):
        for place, (_, run, _, _) in enumerate(cases):
            times[place].append(seconds(run))
    named = {what: found for (what, *_), found in zip(reversed(cases), reversed(times), strict=True)}
    lines = [f"| {name} | divided by | median ratio | quartiles | goal |", "|---|---|---|---|---|"]
    for (what, _, divisor, goal), found in list(zip(cases, times, strict=True))[1:]:
        ratios = [above / below for above, below in zip(found, named[divisor], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        lines.append(f"| {what} | {divisor} | **{middle:.2f}** | {low:.2f} to {high:.2f} | {goal} |")
    base = statistics.median(times[0])
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
    if "keep" in sys.argv:
        keep_memory()
    for name in SHAPES:
        print("\n".join(table(name, rounds)), end="\n\n", flush=True)
    print(bf16_error())


if __name__ == "__main__":
    main()

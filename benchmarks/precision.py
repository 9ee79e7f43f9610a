"""What narrow numbers and a compiled network do to the result: the error of CKA, the seconds, and which states are still seen.

    OMP_NUM_THREADS=1 python benchmarks/precision.py CHECKPOINT IMAGES [count]

Every case measures the same images; its CKA of all blocks with all blocks is compared with that of float32. Beside it stands
the error of a state, relative to its norm, and the CPU seconds of one batch, the least of three (the first, in which a network
is compiled, apart). The cases:

* float64, bfloat16: the dtype of the network.
* compiled: ``torch.compile`` of the network's forward, with the hooks that read the states set before (``hooked``, as every
  measurement does) or left out (``bare``).
"""

import sys
import time

import numpy as np
import torch

from hf_vitstudy import load_checkpoint, load_images
from hf_vitstudy.analyses import make_analysis
from hf_vitstudy.checkpoints import Checkpoint
from hf_vitstudy.comparison import compare
from hf_vitstudy.measuring import Run, keep_memory


BATCH = 32
CASES = {
    "float32": ("float32", False),
    "float32 again": ("float32", False),
    "float64": ("float64", False),
    "bfloat16": ("bfloat16", False),
    "float32, compiled": ("float32", True),
    "bfloat16, compiled": ("bfloat16", True),
}


def pictures(name: str, checkpoint: Checkpoint, count: int):
    """The image set, and its pixels as the network wants them, uint8 (image, 3, height, width)."""
    images = load_images(name, n=count)
    return images, torch.stack([torch.from_numpy(checkpoint.prepare(images[index][0])) for index in range(count)])


def seconds(work) -> tuple[float, float]:
    """Of the first call, and the least of three more."""
    times = []
    for _ in range(4):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return times[0], min(times[1:])


def profile_of(checkpoint: Checkpoint, images, pixels: torch.Tensor):
    run = Run(checkpoint, images, [make_analysis("cka:storage=float32")], BATCH)
    none = torch.full((BATCH,), -1)
    for start in range(0, len(pixels), BATCH):
        run.step(pixels[start : start + BATCH], none, torch.arange(start, start + BATCH))
    return run.profile()


def states(checkpoint: Checkpoint, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    return {name: state.flat.double() for name, state in checkpoint.read(pixels[:8].float() / 255)[1].items()}


def state_error(found: dict[str, torch.Tensor], truth: dict[str, torch.Tensor]) -> float:
    """Largest over blocks of |difference| / |state|."""
    return max(float((found[name] - truth[name]).norm() / truth[name].norm()) for name in truth)


def measured(name: str, images_name: str, case: str, count: int) -> dict:
    dtype, compiled = CASES[case]
    checkpoint = load_checkpoint(name, device="cpu", dtype=dtype)
    images, pixels = pictures(images_name, checkpoint, count)
    if compiled:
        torch._dynamo.reset()
        checkpoint.network.forward = torch.compile(checkpoint.network.forward)
    batch = checkpoint.normalise(pixels[:BATCH].float() / 255)

    def bare() -> None:
        with torch.inference_mode():
            checkpoint.network(batch)

    found = {"profile": profile_of(checkpoint, images, pixels), "states": states(checkpoint, pixels)}
    found["bare"] = seconds(bare)
    found["hooked"] = seconds(lambda: checkpoint.read(pixels[:BATCH].float() / 255, lambda block, state: None))
    return found


def main(name: str, images: str, count: int = 64) -> None:
    keep_memory()
    results: dict[str, dict] = {}
    print("| case | largest CKA error | mean | state error | bare s (first) | hooked s (first) | states seen |")
    print("|---|---|---|---|---|---|---|")
    for case in CASES:
        results[case] = found = measured(name, images, case, count)
        truth = results["float32"]
        cka, true = (compare(r["profile"], r["profile"]).cka("aa")["cka"].values for r in (found, truth))
        error = np.abs(cka - true)
        cells = [f"{found[key][1]:.2f} ({found[key][0]:.1f})" for key in ("bare", "hooked")]
        of_states = state_error(found["states"], truth["states"])
        numbers = [f"{value:.1e}" for value in (np.nanmax(error), np.nanmean(error), of_states)]
        print("|", " | ".join([case, *numbers, *cells, f"{len(found['states'])}"]), "|", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))

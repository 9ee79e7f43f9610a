"""Peak memory of measuring: it must not grow with the number of images, nor hold two copies of a layer.

    OMP_NUM_THREADS=1 python benchmarks/memory.py

Every line is a process of its own. The figure is its highest resident memory minus that before the first forward pass, which
the bare forward pass needs as well. Every tensor gets memory of its own from the system and gives it back at once, so that
holes in the heap are not counted. Images are made one by one; random weights, batches of 32. ResNet-50's largest layer at
224 px is 98 MiB for 32 images.
"""

import ctypes
import resource
import subprocess
import sys

import torch


CASES = [
    ("ViT-Ti/16", "forward", 256),
    ("ViT-Ti/16", "cka", 256),
    ("ViT-Ti/16", "cka", 2048),
    ("ViT-Ti/16", "all four", 256),
    ("ResNet-50", "forward", 64),
    ("ResNet-50", "cka", 64),
    ("ResNet-50", "cka", 256),
    ("ResNet-50", "all that apply", 64),
]


class Noise:
    """Rows of a data set that exist only while they are read."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> dict:
        import numpy as np

        return {"image": np.random.default_rng(index).integers(0, 256, (224, 224, 3), dtype=np.uint8)}


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one(name: str, what: str, n: int) -> None:
    import measuring as cost

    from hf_vitstudy import measure
    from hf_vitstudy.images import ImageSet

    ctypes.CDLL(None).mallopt(-3, 65536)  # M_MMAP_THRESHOLD of glibc
    torch.set_num_threads(1)
    make = cost.vit if name.startswith("ViT") else cost.resnet
    names = cost.ALL if what.startswith("all") else ("cka",)
    attention = "eager" if what.startswith("all") else "sdpa"
    made = cost.checkpoint(make(attention), "float32", channels_last=make is cost.resnet)
    before = peak()
    if what == "forward":
        with torch.inference_mode():
            for _ in range(n // 32):
                made.network(made.normalise(torch.rand(32, 3, 224, 224)))
    else:
        measure(made, ImageSet(Noise(n)), analyses=names, workers=0, progress=False)
    print(f"{peak() - before:.0f}")


def main() -> None:
    if len(sys.argv) == 4:
        one(sys.argv[1], sys.argv[2], int(sys.argv[3]))
        return
    print("| checkpoint | what | images | peak above start, MiB |\n|---|---|---|---|")
    for name, what, n in CASES:
        found = subprocess.run(
            [sys.executable, __file__, name, what, str(n)], capture_output=True, text=True, check=True
        )
        print(f"| {name} | {what} | {n} | {found.stdout.strip()} |", flush=True)


if __name__ == "__main__":
    main()

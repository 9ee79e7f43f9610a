"""What comparing two stored profiles costs, and how large a profile is.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/comparing.py

Profiles of 2,048 images with 25 and 17 places, as ViT-Ti/16 and ResNet-50 give them, made of random numbers. CPU seconds at
one thread, best of 7: the time does not depend on the numbers. Loading is from disk and includes the check of the manifest.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr

from hf_vitstudy import Profile, compare, load_profile


IMAGES, BATCH = 2048, 32


def profile(name: str, places: int, seed: int) -> Profile:
    rng = np.random.default_rng(seed)
    batches, pairs = IMAGES // BATCH, BATCH * (BATCH - 1) // 2
    blocks = np.zeros((places, batches, BATCH, BATCH))
    features = rng.normal(size=(IMAGES, 24))
    for place in range(places):
        mixed = (features + rng.normal(size=features.shape) * place / places).reshape(batches, BATCH, -1)
        K = mixed @ mixed.swapaxes(1, 2) * (1 - np.eye(BATCH))
        row = K.sum(-1, keepdims=True)
        total = row.sum(-2, keepdims=True)
        blocks[place] = K - (row + row.swapaxes(1, 2)) / (BATCH - 2) + total / ((BATCH - 1) * (BATCH - 2))
    rows, columns = np.triu_indices(BATCH, k=1)
    packed = blocks[..., rows, columns]
    scale = np.abs(packed).max(-1)
    names = [f"block{place:02d}" for place in range(places)]
    about = {"unit": "1", "source": "random numbers"}
    data = {
        "gram_flatten": (("block", "flatten_batch", "flatten_pair"), (packed / scale[..., None]).astype(np.float16)),
        "scale_flatten": (("block", "flatten_batch"), scale.astype(np.float32)),
        "size_flatten": (("flatten_batch",), np.full(batches, BATCH, np.int32)),
        "fourier": (("image", "block", "frequency"), rng.normal(size=(IMAGES, places, 5)).astype(np.float32), about),
    }
    for measurement in ("variance", "relative_variance", "top_channel_share"):
        data[measurement] = (("image", "block"), rng.random((IMAGES, places)).astype(np.float32), about)
    for measurement in ("attention_distance", "prefix_attention"):
        data[measurement] = (("image", "layer", "head"), rng.random((IMAGES, 12, 3)).astype(np.float32), about)
    coordinates = {
        "block": names,
        "kind": ("block", ["conv"] * places),
        "stage": ("block", np.ones(places, np.int32)),
        "depth": ("block", np.arange(1, places + 1) / places),
        "image_digest": ("image", np.arange(IMAGES, dtype=np.uint64)),
    }
    assert pairs == packed.shape[-1]
    provenance = {"checkpoint": {"name": name}, "images": {"sha256": "the same"}}
    return Profile(xr.Dataset(data, coordinates), provenance)


def milliseconds(run: Callable) -> float:
    run()
    best = float("inf")
    for _ in range(7):
        start = time.process_time()
        run()
        best = min(best, time.process_time() - start)
    return 1000 * best


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = [profile(name, n, n).save(Path(folder) / name) for name, n in (("A", 25), ("B", 17))]
        size = sum(file.stat().st_size for file in paths[0].iterdir()) / 1e6
        a, b = (load_profile(path) for path in paths)

        def maps(*keys: str, **options: int) -> Callable:
            return lambda: [compare(a, b).cka(key, **options) for key in keys]

        rows = [
            ("load one profile", milliseconds(lambda: load_profile(paths[0])), ""),
            ("CKA of A with B, with intervals", milliseconds(maps("ab")), "50"),
            ("all three maps, with intervals", milliseconds(maps("aa", "ab", "bb")), ""),
            ("CKA of A with B, intervals and 200 permutations", milliseconds(maps("ab", permutations=200)), ""),
        ]
    print("| 2,048 images, 25 and 17 places | CPU ms | goal |\n|---|---|---|")
    for what, ms, goal in rows:
        print(f"| {what} | {ms:.0f} | {goal} |")
    print(f"\nProfile A with all default measurements: {size:.1f} MB (goal: under 8).")
    assert "torch" not in sys.modules


if __name__ == "__main__":
    main()

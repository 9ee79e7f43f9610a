"""What a study of K checkpoints costs: time, and the most memory at once.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/study.py [K ...]

Profiles of 2,048 images with 12 places, half ViTs and half ResNets in five recipes each, made of random numbers and written
to a temporary folder (1.4 MB each). Every K runs in a process of its own. A study reads and sketches all, judges three claims
on every checkpoint of the lowest seed of its recipe and on all 25 pairs of these (--one-seed, 20 permutations), and groups all.
`again` finds the sketches; `nearest` searches one block among all blocks of all checkpoints. Wall-clock seconds; memory is the
process's peak resident set, `before` that of the process when it has written the profiles.

Two cores shared with other work (load 4 to 7), one thread; the rows' times are comparable within a factor of two:

| checkpoints | profiles, MB | study, s | again, s | nearest, s | memory before, MiB | peak, MiB |
|---:|---:|---:|---:|---:|---:|---:|
| 10 | 14 | 19.7 | 16.2 | 1.0 | 136 | 202 |
| 100 | 137 | 13.7 | 10.0 | 1.7 | 136 | 276 |
| 1,000 | 1,375 | 62.5 | 42.6 | 11.8 | 138 | 363 |

Judging takes half a second to a second per pair for one claim of CKA: all 250,000 pairs of the last row would take days, so
a study of more than --pairs of them stops and says so. Grouping reads every sketch K / 128 times.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import xarray as xr

from hf_vitstudy import Profile
from hf_vitstudy.claims import choose_claims
from hf_vitstudy.study import Settings, make_study, nearest


IMAGES, BATCH, PLACES, RECIPES = 2048, 32, 12, 5
ABOUT = {"unit": "1", "source": "random numbers"}


def grams(rng: np.random.Generator, common: np.ndarray, drift: float) -> dict:
    """U-centred Gram blocks of features that leave a common representation with depth."""
    batches = IMAGES // BATCH
    blocks = np.zeros((PLACES, batches, BATCH, BATCH), np.float32)
    own = rng.normal(size=common.shape).astype(np.float32)
    for place in range(PLACES):
        mixed = (common + drift * place / PLACES * own).reshape(batches, BATCH, -1)
        K = mixed @ mixed.swapaxes(1, 2) * (1 - np.eye(BATCH, dtype=np.float32))
        row = K.sum(-1, keepdims=True)
        total = row.sum(-2, keepdims=True)
        blocks[place] = K - (row + row.swapaxes(1, 2)) / (BATCH - 2) + total / ((BATCH - 1) * (BATCH - 2))
    packed = blocks[(..., *np.triu_indices(BATCH, k=1))]
    scale = np.abs(packed).max(-1)
    return {
        "gram_flatten": (
            ("block", "flatten_batch", "flatten_pair"),
            (packed / scale[..., None]).astype(np.float16),
            ABOUT,
        ),
        "scale_flatten": (("block", "flatten_batch"), scale),
        "size_flatten": (("flatten_batch",), np.full(batches, BATCH, np.int32)),
    }


def profile(number: int, common: np.ndarray) -> Profile:
    rng = np.random.default_rng(number)
    vit, recipe, seed = number % 2 == 0, number // 2 % RECIPES, number // (2 * RECIPES)
    kinds = ["attention", "mlp"] * (PLACES // 2) if vit else ["conv"] * PLACES
    data = grams(rng, common, 1.0 if vit else 3.0) | {
        "fourier": (("image", "block", "frequency"), rng.normal(size=(IMAGES, PLACES, 5)).astype(np.float32), ABOUT),
        "variance": (("image", "block"), rng.uniform(1, 2, (IMAGES, PLACES)).astype(np.float32), ABOUT),
    }
    coordinates = {
        "block": [f"block{place // 2:02d}.{kind}" if vit else f"block{place:02d}" for place, kind in enumerate(kinds)],
        "kind": ("block", kinds),
        "stage": ("block", np.ones(PLACES, np.int32)),
        "depth": ("block", np.arange(1, PLACES + 1) / PLACES),
        "frequency": np.linspace(0.1, 0.9, 5),
        "image_digest": ("image", np.arange(IMAGES, dtype=np.uint64)),
    }
    training = {"config": {"seed": seed, "epochs": recipe}}
    checkpoint = {"name": f"net-{number}", "weights_sha256": str(number), "revision": None, "training": training}
    checkpoint["config"] = {"model_type": "vit" if vit else "resnet"}
    return Profile(
        xr.Dataset(data, coordinates),
        {"checkpoint": checkpoint, "images": {"name": "random", "n": IMAGES, "sha256": "1"}},
    )


def timed(run) -> tuple[float, object]:
    start = time.perf_counter()
    found = run()
    return time.perf_counter() - start, found


def measure(count: int, place: Path) -> str:
    """One row of the table, from profiles written to `place`."""
    common = np.random.default_rng(99).normal(size=(IMAGES, 24)).astype(np.float32)
    for number in range(count):
        profile(number, common).save(place / "profiles" / f"{number:04d}")
    disk = sum(path.stat().st_size for path in (place / "profiles").rglob("*") if path.is_file())
    settings = Settings(tuple(choose_claims(["R-1", "P-F1", "P-V1-conv"])), one_seed=True, permutations=20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    first, _ = timed(lambda: make_study(place / "profiles", place / "out", settings))
    again, _ = timed(lambda: make_study(place / "profiles", place / "out", settings))
    near, _ = timed(lambda: nearest(place / "profiles", place / "out", "net-0", "block02.mlp"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = " | ".join(f"{each:.1f}" for each in (first, again, near))
    return f"| {count:,} | {disk / 1e6:,.0f} | {seconds} | {before / 1024:.0f} | {peak / 1024:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("counts", nargs="*", type=int, default=[10, 100, 1000])
    parser.add_argument("--one", action="store_true", help="measure in this process")
    given = parser.parse_args()
    if given.one:
        with tempfile.TemporaryDirectory() as place:
            print(measure(given.counts[0], Path(place)))
        return
    print("| checkpoints | profiles, MB | study, s | again, s | nearest, s | memory before, MiB | peak, MiB |")
    print("|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    for count in given.counts:
        done = subprocess.run(
            [sys.executable, __file__, "--one", str(count)], check=True, stdout=subprocess.PIPE, text=True
        )
        print(done.stdout.strip(), flush=True)


if __name__ == "__main__":
    main()

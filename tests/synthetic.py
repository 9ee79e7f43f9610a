"""Profiles made of numbers whose truth is known, with the schema that `measure` writes. No torch."""

import numpy as np
import xarray as xr
from oracles import u_centre

from hf_vitstudy.profile import Profile


FREQUENCIES = [0.1, 0.3, 0.5, 0.7, 0.9]


def gram_variables(features: list[np.ndarray], block: int, view: str = "flatten", dtype=np.float16) -> dict:
    """Packed U-centred Gram blocks of features [(n, d) per block of the network], as a profile stores them."""
    n = len(features[0])
    sizes = [min(block, n - start) for start in range(0, n, block)]
    sizes = [size for size in sizes if size >= 4]
    packed = np.zeros((len(features), len(sizes), block * (block - 1) // 2), dtype=np.float64)
    square = np.zeros((len(features), len(sizes), block), dtype=np.float32)
    rows, columns = np.triu_indices(block, k=1)
    for place, values in enumerate(features):
        for batch, size in enumerate(sizes):
            x = values[batch * block : batch * block + size].astype(np.float64)
            centred = np.zeros((block, block))
            centred[:size, :size] = u_centre(x @ x.T)
            packed[place, batch] = centred[rows, columns]
            x = x - x.mean(0)
            square[place, batch, :size] = (x * x).sum(1)
    scale = np.abs(packed).max(-1)
    packed = np.divide(packed, scale[..., None], out=np.zeros_like(packed), where=scale[..., None] > 0)
    batch, pair = f"{view}_batch", f"{view}_pair"
    return {
        f"gram_{view}": (
            ("block", batch, pair),
            packed.astype(dtype),
            {"unit": "1", "source": "Nguyen et al. 2021, eq. 3"},
        ),
        f"scale_{view}": (("block", batch), scale.astype(np.float32)),
        f"square_{view}": (("block", batch, f"{view}_place"), square),
        f"size_{view}": ((batch,), np.array(sizes, dtype=np.int32)),
    }


def places(kind: str) -> dict[str, list]:
    """Names, kinds, stages and depths of a small ViT (8 blocks) or ResNet (8 blocks in 4 stages)."""
    if kind == "vit":
        names = ["embedding", *(f"block{i:02d}.{part}" for i in range(8) for part in ("attention", "mlp"))]
        kinds = ["embedding", *(["attention", "mlp"] * 8)]
        stages = [1] * 17
    else:
        names = ["stem", *(f"block{i:02d}" for i in range(8))]
        kinds = ["stem", *(["conv"] * 8)]
        stages = [1, 1, 1, 2, 2, 3, 3, 4, 4]
    depths = [(i + 1) / len(names) for i in range(len(names))]
    return {"block": names, "kind": kinds, "stage": stages, "depth": depths}


def synthetic_profile(
    kind: str = "vit", n: int = 256, block: int = 32, seed: int = 0, name: str | None = None
) -> Profile:
    """A profile whose blocks drift away from one common representation of the images.

    ViT blocks stay alike through depth, ResNet blocks change from stage to stage; attention lowers and MLP/conv raise
    high frequencies and variance; low layers mix local and global heads.
    """
    rng = np.random.default_rng(seed)
    shared = np.random.default_rng(99).normal(size=(n, 24))
    where = places(kind)
    count = len(where["block"])
    drift = np.linspace(0, 0.5, count) if kind == "vit" else np.linspace(0, 2.0, count)
    own = rng.normal(size=(n, 24))
    features = [shared + amount * own + 0.3 * rng.normal(size=(n, 24)) for amount in drift]
    variables: dict = gram_variables(features, block)

    step = np.array([{"attention": -0.1, "mlp": 0.08, "conv": 0.12}.get(kind_, 0.0) for kind_ in where["kind"]])
    level = (-2.0 if kind == "vit" else -4.0) + step.cumsum()
    slope = np.linspace(0.3, 1.0, len(FREQUENCIES))
    fourier = level[None, :, None] * slope + rng.normal(0, 0.2, (n, count, len(FREQUENCIES)))
    variance = np.exp(0.5 * step.cumsum() + rng.normal(0, 0.1, (n, count)))
    variables |= {
        "fourier": (
            ("image", "block", "frequency"),
            fourier.astype(np.float32),
            _about("log amplitude", "Park & Kim 2022, Fig 8"),
        ),
        "variance": (("image", "block"), variance.astype(np.float32), _about("activation²", "Park & Kim 2022, Fig 9")),
        "relative_variance": (("image", "block"), (variance / (1 + variance)).astype(np.float32), _about("1", "")),
        "top5": (
            ("image", "rank"),
            np.argsort(rng.normal(size=(n, 10)) - 3 * np.eye(10)[np.arange(n) % 10], 1)[:, :5].astype(np.int32),
        ),
        "top5_probability": (("image", "rank"), np.full((n, 5), 0.2, np.float32)),
        "label": (("image",), (np.arange(n) % 10).astype(np.int32)),
        "nll": (("image",), rng.exponential(size=n).astype(np.float32)),
    }
    coordinates: dict = {
        "block": where["block"],
        "kind": ("block", where["kind"]),
        "stage": ("block", np.array(where["stage"], np.int32)),
        "depth": ("block", np.array(where["depth"])),
        "channels": ("block", np.full(count, 64, np.int32)),
        "height": ("block", np.array([8 if kind == "vit" else 16 // 2**s for s in where["stage"]], np.int32)),
        "width": ("block", np.array([8 if kind == "vit" else 16 // 2**s for s in where["stage"]], np.int32)),
        "image_digest": ("image", np.random.default_rng(7).integers(0, 2**63, n).astype(np.uint64)),
        "frequency": FREQUENCIES,
        "rank": np.arange(1, 6),
    }
    absent = {}
    if kind == "vit":
        low, high = np.array([4.0, 9.0, 14.0, 17.0]), np.array([15.0, 16.0, 16.5, 17.0])
        share = np.linspace(0, 1, 8)[:, None]
        distance = (1 - share) * low + share * high + rng.normal(0, 0.3, (n, 8, 4))
        about = _about("px", "Dosovitskiy et al. 2020, Fig 7") | {"uniform": 17.0}
        variables["attention_distance"] = (("image", "layer", "head"), distance.astype(np.float32), about)
        variables["prefix_attention"] = (
            ("image", "layer", "head"),
            np.full((n, 8, 4), 0.1, np.float32),
            _about("1", ""),
        )
        coordinates |= {"layer": [f"block{i:02d}" for i in range(8)], "head": np.arange(4)}
    else:
        absent = {"attention_distance": "no attention in this network"}
    name = name or f"synthetic-{kind}"
    provenance = {
        "checkpoint": {
            "name": name,
            "revision": None,
            "weights_sha256": f"{kind}-{seed}",
            "architecture": f"{kind}ForImageClassification",
            "model_type": kind,
            "parameters": 1_000_000,
            "dtype": "float32",
            "attention": "eager",
            "image_size": [32, 32],
            "classes": [str(i) for i in range(10)],
        },
        "images": {
            "name": "synthetic",
            "split": "test",
            "revision": None,
            "n": n,
            "seed": 0,
            "sha256": f"synthetic-{n}",
        },
        "measurement": {
            "batch_size": block,
            "seconds": 7.5,
            "device": "cpu",
            "analyses": [a for a in ("cka", "fourier", "variance", "attention_distance") if a not in absent],
        },
        "versions": {"hf_vitstudy": "0.1.0", "torch": "2.15.0", "transformers": "5.23.0"},
        "created": "2026-01-01T00:00:00+00:00",
        "absent": absent,
    }
    return Profile(xr.Dataset(variables, coordinates), provenance)


def _about(unit: str, source: str) -> dict[str, str]:
    return {"unit": unit, "source": source, "long_name": ""}

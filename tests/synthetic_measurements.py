"""The further measurements on synthetic profiles, with the names and axes that the analyses write. No torch."""

from typing import Any

import numpy as np
import xarray as xr
from synthetic import synthetic_profile

from hf_vitstudy.profile import Profile


KINDS = ("gaussian_noise", "fog", "contrast", "low_pass", "high_pass", "patch_shuffle", "occlusion")
GRID = (4, 4)


def _about(unit: str = "1", **more: Any) -> dict[str, Any]:
    return {"unit": unit, "source": "a paper, Fig 1", "long_name": ""} | more


def _right(rng: np.random.Generator, shares: np.ndarray, n: int, kind: type = np.int8) -> np.ndarray:
    """Right or wrong for n images, each with these chances, (n, *shares)."""
    return (rng.uniform(size=(n, *shares.shape)) < shares).astype(kind)


def interventions(rng: np.random.Generator, n: int, vit: bool) -> dict[str, tuple]:
    frequencies = np.round(np.linspace(0.1, 0.9, 9), 1)
    lost = 0.5 * (1 - frequencies) if vit else 0.5 * frequencies
    shares = 0.9 - 0.1 * np.arange(len(KINDS))[:, None] - 0.1 * np.arange(3)
    found: dict[str, tuple] = {
        "noise_clean_correct": (("image",), _right(rng, np.array(0.95), n), _about()),
        "noise_correct": (("image", "noise_frequency"), _right(rng, 0.95 - lost, n), _about(strength="0.05")),
        "noise_paper_correct": (("image", "noise_frequency"), _right(rng, 0.95 - lost / 2, n), _about(strength="0.7")),
        "corruption_clean_correct": (("corruption_image",), _right(rng, np.array(0.95), n // 2), _about()),
        "corruption_correct": (
            ("corruption_image", "corruption", "severity"),
            _right(rng, np.clip(shares, 0, 1), n // 2),
            _about(strengths="published for 64 px"),
        ),
        "attack_clean_correct": (("attack_image",), _right(rng, np.array(0.9), n // 2), _about()),
        "noise_frequency": (("noise_frequency",), frequencies),
        "corruption": (("corruption",), np.array(KINDS)),
        "severity": (("severity",), np.array([1, 3, 5], np.int32)),
        "epsilon": (("epsilon",), np.array([1, 2, 4]) / 255),
    }
    for name, steps in (("fgsm", 1.0), ("pgd", 2.0)):
        right = _right(rng, 0.9 - 0.15 * steps * np.arange(1, 4), n // 2)
        found[f"{name}_correct"] = (("attack_image", "epsilon"), right, _about())
    found["fgsm_paper_correct"] = (("attack_image",), _right(rng, np.array(0.3), n // 2), _about())
    return found


def places(rng: np.random.Generator, n: int, blocks: list[str], vit: bool) -> dict[str, tuple]:
    count, cells = len(blocks), GRID[0] * GRID[1]
    reach = np.linspace(4, 30, count) * (1.5 if vit else 1.0)
    radius = np.stack([reach, 2 * reach], axis=1) * rng.uniform(0.9, 1.1, (8, count, 1))
    peak = np.exp(-np.hypot(*np.indices((32, 32)) - 16) / np.linspace(2, 12, count)[:, None, None])
    last = blocks[-2:]
    cka = np.clip(0.6 * np.eye(cells) + rng.normal(0.1, 0.05, (2, cells, cells)), -1, 1)
    chance = [1 / cells, 1 / cells, 1 / cells]
    features = ["class token", "mean"] if vit else ["mean"]
    ends = blocks[::2]
    rising = np.repeat(np.linspace(0.1, 0.8, len(ends))[:, None], len(features), 1)
    found: dict[str, tuple] = {
        "receptive_radius": (("receptive_image", "block", "fraction"), radius.astype(np.float32), _about("px")),
        "receptive_own_share": (
            ("receptive_image", "block"),
            rng.uniform(0.1, 0.9, (8, count)).astype(np.float32),
            _about(),
        ),
        "receptive_map": (
            ("block", "receptive_row", "receptive_column"),
            (peak / peak.sum((1, 2), keepdims=True)).astype(np.float32),
            _about(),
        ),
        "uniform_radius": (("block", "fraction"), np.tile([38.0, 62.0], (count, 1)), _about("px")),
        "fraction": (("fraction",), np.array([0.5, 0.95])),
        "localisation_cka": (
            ("localisation_block", "localisation_token", "localisation_patch"),
            cka.astype(np.float16),
            _about(grid=list(GRID)),
        ),
        "localisation_block": (("localisation_block",), np.array(last)),
        "localisation_region": (("localisation_region",), np.array(["all", "interior", "edge"])),
        "probe_correct": (
            ("probe_image", "probe_block", "probe_feature"),
            _right(rng, rising, n // 2, np.uint8),
            _about(shots=4, chance=0.1),
        ),
        "probe_image": (("probe_image",), np.arange(n // 2)),
        "probe_block": (("probe_block",), np.array(ends)),
        "probe_feature": (("probe_feature",), np.array(features)),
        "token_correct": (
            ("probe_image", "probe_token"),
            _right(rng, np.full(cells, 0.5), n // 2, np.uint8),
            _about(chance=0.1),
        ),
        "probe_token": (("probe_token",), np.array([f"{i // GRID[1]}, {i % GRID[1]}" for i in range(cells)])),
    }
    for key, unit, level in (("share", "1", 0.6), ("distance", "px", 20.0), ("margin", "CKA", 0.4)):
        axes = ("localisation_block", "localisation_region")
        found[f"localisation_{key}"] = (axes, level * rng.uniform(0.8, 1, (2, 3)), _about(unit, chance=chance))
        found[f"localisation_{key}_error"] = (axes, np.full((2, 3), 0.05 * level), _about(unit, chance=chance))
    return found


def branches(rng: np.random.Generator, n: int, vit: bool) -> dict[str, tuple]:
    kinds = ["attention", "mlp"] * 8 if vit else ["conv"] * 8
    names = [f"block{i // 2:02d}.{kind}" if vit else f"block{i:02d}" for i, kind in enumerate(kinds)]
    depth = np.sqrt(np.linspace(1 / len(names), 1, len(names))).astype(np.float32)
    ratio = np.exp(rng.normal(1 if vit else 0, 0.2, (n, len(names)))).astype(np.float32)
    found: dict[str, tuple] = {
        "skip_ratio": (("image", "branch"), ratio, _about()),
        "skip_cosine": (("image", "branch"), rng.uniform(-1, 1, (n, len(names))).astype(np.float32), _about()),
        "branch_depth": (("branch",), depth, _about()),
        "branch_projected": (("branch",), np.array([0, 0, 1, 0] * (len(names) // 4), np.float32), _about()),
        "branch_kind": (("branch",), np.array(kinds)),
        "branch": (("branch",), np.array(names)),
        "lesion_intact_correct": (("lesion_image",), _right(rng, np.array(0.9), n // 2), _about()),
        "lesion_correct": (
            ("lesion_image", "lesion"),
            _right(rng, np.linspace(0.3, 0.9, len(names)), n // 2),
            _about(),
        ),
        "lesion_depth": (("lesion",), depth, _about()),
        "lesion_stage": (("lesion",), np.repeat([1.0, 2.0], len(names) // 2).astype(np.float32), _about()),
        "lesion_kind": (("lesion",), np.array(kinds)),
        "lesion": (("lesion",), np.array(names)),
    }
    if vit:
        found["class_skip_ratio"] = (("image", "branch"), 2 * ratio, _about())
    return found


def attention(rng: np.random.Generator, n: int) -> dict[str, tuple]:
    cells = GRID[0] * GRID[1]
    spread = np.linspace(0.3, 0.8, 8)[:, None] + np.linspace(-0.2, 0.2, 4) + rng.normal(0, 0.02, (n, 8, 4))
    maps = rng.uniform(0.5, 1.5, (6, *GRID))
    places = np.stack(np.indices(GRID), -1).reshape(-1, 2)
    alike = np.exp(-np.linalg.norm(places[:, None] - places, axis=2))
    grams = rng.normal(size=(4, n // 32, 32 * 31 // 2))
    filters = rng.normal(size=(9, 3, 4, 4))
    by_head, axes = spread.astype(np.float32), ("image", "layer", "head")
    return {
        "relative_attention_entropy": (axes, by_head, _about()),
        "attention_entropy": (axes, np.log(cells + 1) * by_head, _about("nat")),
        "class_attention_entropy": (axes, np.log(cells + 1) * by_head, _about("nat")),
        "rollout": (
            ("rollout_image", "rollout_row", "rollout_column"),
            (maps / maps.sum((1, 2), keepdims=True)).astype(np.float32),
            _about(head_fusion="mean"),
        ),
        "position_similarity": (
            ("position_place", "position_other"),
            alike.astype(np.float16),
            _about(grid=list(GRID)),
        ),
        "position_distance_correlation": (("position_place",), np.full(cells, -0.9), _about()),
        "position_share": (("position_part",), np.array([0.4, 0.4, 0.2]), _about()),
        "position_part": (("position_part",), np.array(["row", "column", "rest"])),
        "filter_component": (
            ("filter_rank", "filter_colour", "filter_row", "filter_column"),
            filters.astype(np.float32),
            _about(layer="patch embedding"),
        ),
        "filter_variance": (("filter_rank",), 0.5 ** np.arange(1, 10), _about()),
        "filter_smoothness": (("filter_rank",), np.linspace(0.9, 0, 9), _about()),
        "head_gram": (("layer_head", "head_batch", "head_pair"), grams.astype(np.float16), _about(layer="block00")),
        "head_scale": (("layer_head", "head_batch"), np.ones(grams.shape[:2], np.float32), _about()),
        "head_size": (("head_batch",), np.full(n // 32, 32, np.int32), _about()),
    }


def loss_geometry(rng: np.random.Generator, n: int, vit: bool) -> dict[str, tuple]:
    top = np.sort(rng.uniform(5, 40 if vit else 400, (6, 3)))[:, ::-1]
    bottom = -np.sort(rng.uniform(0.5, 20 if vit else 2, (6, 3)))[:, ::-1]
    nodes = np.sort(np.concatenate([bottom, rng.normal(0, 0.3, (6, 6)), top], axis=1))
    steps = np.linspace(-1, 1, 5)
    bowl = (1 if vit else 3) * (steps[:, None] ** 2 + steps**2) + 0.3
    images = rng.uniform(0.8, 1.2, (n // 4, 1, 1))
    axes = ("hessian_batch", "hessian_rank")
    grid = ("landscape_y", "landscape_x")
    return {
        "hessian_top": (axes, top, _about("nat / parameter²", batch_norm="eval")),
        "hessian_top_residual": (axes, np.full((6, 3), 0.1), _about()),
        "hessian_bottom": (axes, bottom, _about("nat / parameter²")),
        "hessian_bottom_residual": (axes, np.full((6, 3), 0.1), _about()),
        "hessian_node": (("hessian_batch", "hessian_iteration"), nodes, _about()),
        "hessian_weight": (("hessian_batch", "hessian_iteration"), rng.dirichlet(np.ones(12), 6), _about()),
        "hessian_loss": (("hessian_batch",), rng.uniform(0.2, 0.4, 6), _about("nat")),
        "hessian_rank": (("hessian_rank",), np.arange(1, 4)),
        "landscape_nll": (("landscape_image", *grid), (images * bowl).astype(np.float32), _about("nat")),
        "landscape_paper_nll": (("landscape_image", *grid), (2 * images * bowl).astype(np.float32), _about("nat")),
        "landscape_l2": (grid, 1000 + 50 * bowl, _about("parameter²")),
        "landscape_x": (("landscape_x",), steps),
        "landscape_y": (("landscape_y",), steps),
    }


def measured_profile(kind: str = "vit", n: int = 64, seed: int = 0, name: str | None = None) -> Profile:
    """A synthetic profile with everything that can be measured."""
    plain = synthetic_profile(kind, n=n, seed=seed, name=name)
    rng, vit = np.random.default_rng([seed, vit_number(kind)]), kind == "vit"
    blocks = [str(block) for block in plain.data["block"].values]
    variables = interventions(rng, n, vit) | places(rng, n, blocks, vit) | branches(rng, n, vit)
    variables |= loss_geometry(rng, n, vit) | (attention(rng, n) if vit else {})
    projection = rng.normal(size=(n, len(blocks), 8)).astype(np.float16)
    settings = {"pool": "mean", "dim": 8, "seed": 0}
    variables["projection"] = (("image", "block", "projection_axis"), projection, _about(**settings))
    variables["projection_scale"] = (("block",), np.ones(len(blocks), np.float32), _about())
    coordinates = {key: value for key, value in variables.items() if value[0] == (key,)}
    measured = {key: value for key, value in variables.items() if key not in coordinates}
    return Profile(plain.data.assign(measured).assign_coords(coordinates), plain.provenance)


def vit_number(kind: str) -> int:
    return int(kind == "vit")


def with_variable(profile: Profile, name: str, axes: tuple[str, ...], values: np.ndarray, **about: Any) -> Profile:
    """A profile with one measurement more, as somebody else's analysis would add it."""
    data = profile.data.assign({name: xr.Variable(axes, values, about)})
    return Profile(data, profile.provenance)

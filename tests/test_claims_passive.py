"""What one pass over the images says: slopes with depth, distances, skips, receptive fields, places, probes, embeddings."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy import stats as scipy_stats
from synthetic import places, synthetic_profile

from hf_vitstudy.claims import UNTESTED, Judgement, Verdict, choose_claims, judge
from hf_vitstudy.claims.embeddings import row_column_lead
from hf_vitstudy.claims.steps import mean_of_known, slope
from hf_vitstudy.comparison import Comparison, compare
from hf_vitstudy.errors import StudyError
from hf_vitstudy.profile import Profile
from hf_vitstudy.stats import Estimate


N, GRID, TEST = 128, (6, 6), 200
CELLS = GRID[0] * GRID[1]
VIT, RESNET = (places(kind) for kind in ("vit", "resnet"))
DEPTH = {kind: np.array(where["depth"]) for kind, where in (("vit", VIT), ("resnet", RESNET))}
STAGE = np.array(RESNET["stage"])


def with_variables(
    kind: str, name: str | None = None, *, checkpoint: dict | None = None, facts: dict | None = None, **variables: Any
) -> Profile:
    """A synthetic profile with these variables, (axes, values, attributes) each, in place of its own."""
    base = synthetic_profile(kind, n=N, name=name or kind)
    made = {key: xr.Variable(*value) for key, value in variables.items()}
    coordinates = {key: value for key, value in made.items() if value.dims == (key,)}
    kept = base.data.drop_vars([key for key in made if key in base.data])
    data = kept.assign({key: value for key, value in made.items() if key not in coordinates}).assign_coords(
        coordinates
    )
    provenance = {**base.provenance, "facts": facts or {}}
    provenance["checkpoint"] = {**base.provenance["checkpoint"], "weights_sha256": name or kind, **(checkpoint or {})}
    return Profile(data, provenance)


def noise(shape: tuple[int, ...], size: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, size, shape)


# -------------------------------------------------------------------------------------------------- slopes and peaks


def spectra(kind: str, within: float, jump: float = 0.0) -> Profile:
    """The highest band rises by `within` per depth in every stage and by `jump` from each stage to the next."""
    level = within * DEPTH[kind] + (jump * (STAGE - 1) if kind == "resnet" else 0)
    values = noise((N, len(level), 5), 0.1) - 3 * np.arange(5)
    values[..., -1] += level
    values[3, 2, -1] = np.nan  # a band without a frequency
    return with_variables(kind, fourier=(("image", "block", "frequency"), values))


def variances(last: float, stem: float = 9.0) -> Profile:
    """Stages of three, three and two blocks, whose last has `last` more log variance than the others' highest."""
    stage = np.array([1, 1, 1, 1, 2, 2, 2, 3, 3])
    level = np.array([stem, 0, 0.5, 0.5 + last, 2, 1.5, 2 + last, 5, 5 + last])
    profile = with_variables("resnet", variance=(("image", "block"), np.exp(level + noise((N, 9), 0.1))))
    return Profile(profile.data.assign_coords(stage=("block", stage)), profile.provenance)


# ---------------------------------------------------------------------------------------------------------- attention


def attentive(lowest: tuple[float, float], name: str = "vit", growth: float = 0.0, **known: Any) -> Profile:
    """Four heads in eight layers: the most local of the first and the second layer, others farther, all `growth` per depth."""
    level = np.full((8, 4), 8.0) + growth * np.arange(1, 9)[:, None] / 8
    level[0, 2], level[1, 1] = lowest
    values = level + noise((N, 8, 4), 0.3)
    values[:, 5, 3] = np.nan  # a layer with fewer heads
    attributes = {"unit": "px", "uniform": 17.0}
    return with_variables("vit", name, attention_distance=(("image", "layer", "head"), values, attributes), **known)


def less_and_more(axis: str, less: Callable[..., Profile], more: Callable[..., Profile]) -> tuple[Profile, Profile]:
    """Two networks that differ in their pre-training images, or in the share of the training set."""
    if axis == "pretraining_images":
        return tuple(  # type: ignore[return-value]
            make(name=f"{images:.0e}", facts={"family": "one recipe", axis: images})
            for make, images in ((less, 1e6), (more, 1e8))
        )
    made = []
    for make, fraction in ((less, 0.1), (more, 1.0)):
        training = {"config": {"data": {"fraction": fraction}, "seed": 0, "epochs": 9}}
        made.append(make(name=f"fraction {fraction}", checkpoint={"training": training}))
    return made[0], made[1]


# -------------------------------------------------------------------------------------------------------------- skips


def skips(kind: str, first: float, second: float, class_first: float = 0.0, class_second: float = 0.0) -> Profile:
    """Log skip ratios of the two halves, of spatial tokens and of a class token; projected skips carry a hundredfold."""
    count = 16 if kind == "vit" else 8
    depth = np.arange(1, count + 1) / count
    projected = np.where(np.arange(count) == 2, kind == "resnet", 0).astype(np.float32)
    early, far = depth <= 0.5, np.log(100.0) * projected

    def ratio(low: float, high: float, seed: int) -> np.ndarray:
        return np.exp(np.where(early, low, high) + far + noise((N, count), 0.2, seed)).astype(np.float32)

    spatial, of_class = ratio(first, second, 1), ratio(class_first, class_second, 2)
    spatial[5, 1] = np.nan  # a branch of zeros
    axes = ("image", "branch")
    found: dict[str, tuple] = {"skip_ratio": (axes, spatial), "branch_depth": ("branch", depth.astype(np.float32))}
    if kind == "vit":
        found["class_skip_ratio"] = (axes, of_class)
    return with_variables(kind, branch_projected=("branch", projected), **found)


# --------------------------------------------------------------------------------------------------- fields and places


def fields(kind: str, start: float, end: float, images: int = 8, uniform: float = 40.0) -> Profile:
    """Relative radius of 95 % that goes from `start` to `end`; that of a half does the reverse."""
    level = start + (end - start) * DEPTH[kind]
    shown = uniform * np.stack([level[::-1], level], axis=1) * np.exp(noise((images, len(level), 2), 0.03))
    return with_variables(
        kind,
        receptive_radius=(("receptive_image", "block", "fraction"), shown),
        uniform_radius=(("block", "fraction"), np.full((len(level), 2), uniform)),
        fraction=("fraction", [0.5, 0.95]),
    )


def localised(kind: str, shares: tuple[float, float], name: str | None = None, seed: int = 0, **known: Any) -> Profile:
    """Shares of interior tokens at their own patch in the last two blocks; elsewhere the opposite."""
    share = np.stack([[1 - value, value, 1 - value] for value in shares])
    common, own = noise((60, 1, 1), 0.03, 7), noise((60, 2, 3), 0.01, seed)
    axes = ("localisation_block", "localisation_region")
    return with_variables(
        kind,
        name,
        localisation_share=(axes, share),
        localisation_share_without=(("localisation_draw", *axes), share + common + own, {"error_factor": 1.5}),
        localisation_cka=(
            ("localisation_block", "localisation_token", "localisation_patch"),
            np.zeros((2, CELLS, CELLS), np.float16),
            {"grid": list(GRID)},
        ),
        localisation_block=("localisation_block", ["block06", "block07"]),
        localisation_region=("localisation_region", ["all", "interior", "edge"]),
        **known,
    )


def pooled(pooling: str) -> dict[str, Any]:
    """A network of our own that classifies by its class token, or by the mean of all tokens."""
    training = {"config": {"seed": 0, "epochs": 9}}
    return {"name": pooling, "checkpoint": {"config": {"hidden_size": 8, "pooling": pooling}, "training": training}}


# ------------------------------------------------------------------------------------------------------------- probes


def token_probes(
    kind: str, spatial: float, of_class: float | None = None, name: str | None = None, **known: Any
) -> Profile:
    """Accuracies of probes of 36 spatial tokens of the last block and, before them, of a class token."""
    names = [f"{i // GRID[1]}, {i % GRID[1]}" for i in range(CELLS)]
    chances = np.full(CELLS, spatial)
    if of_class is not None:
        names, chances = ["prefix 0", "prefix 1", *names], np.array([of_class, 0.5, *chances])
    right = np.random.default_rng(len(names)).uniform(size=(TEST, len(names))) < chances
    return with_variables(
        kind,
        name,
        token_correct=(("probe_image", "probe_token"), right.astype(np.int8)),
        probe_token=("probe_token", names),
        probe_image=("probe_image", np.arange(TEST)),
        **known,
    )


def block_probes(middle: float, name: str = "vit", **known: Any) -> Profile:
    """Accuracy of probes on the mean tokens of the middle third; elsewhere, and of the class token, 0.5."""
    blocks = [VIT["block"][0], *VIT["block"][2::2]]
    depth = np.array([DEPTH["vit"][VIT["block"].index(block)] for block in blocks])
    chances = np.full((len(blocks), 2), 0.5)
    chances[(depth > 1 / 3) & (depth <= 2 / 3), 1] = middle
    right = np.random.default_rng(3).uniform(size=(TEST, *chances.shape)) < chances
    return with_variables(
        "vit",
        name,
        probe_correct=(("probe_image", "probe_block", "probe_feature"), right.astype(np.int8)),
        probe_block=("probe_block", blocks),
        probe_feature=("probe_feature", ["class token", "mean"]),
        probe_image=("probe_image", np.arange(TEST)),
        **known,
    )


# --------------------------------------------------------------------------------------------------------- embeddings


def positions(falls: float, aligned: float) -> Profile:
    """Similarity that falls with distance, and is higher by `aligned` along the row and the column."""
    rows, columns = (axis.ravel() for axis in np.indices(GRID))
    down, across = np.abs(rows[:, None] - rows), np.abs(columns[:, None] - columns)
    distance = np.hypot(down, across)
    alike = -0.1 * falls * distance + aligned * ((down == 0) ^ (across == 0)) + noise((CELLS, CELLS), 0.02)
    rho = np.array([rank_correlation(alike[p], distance[p], p) for p in range(CELLS)])
    axes = ("position_place", "position_other")
    return with_variables(
        "vit",
        position_similarity=(axes, alike.astype(np.float16), {"grid": list(GRID)}),
        position_distance_correlation=(axes[:1], rho),
    )


def rank_correlation(similarity: np.ndarray, distance: np.ndarray, place: int) -> float:
    return float(scipy_stats.spearmanr(np.delete(similarity, place), np.delete(distance, place)).statistic)


def filters(smooth: float, share: float, layer: str = "patch embedding", side: int = 8) -> Profile:
    """Twenty components of equal smoothness, give or take, that together hold a share of the variance."""
    shares = share * 0.7 ** np.arange(20) / (0.7 ** np.arange(20)).sum()
    rank = ("filter_rank",)
    return with_variables(
        "vit",
        filter_component=(
            (*rank, "filter_colour", "filter_row", "filter_column"),
            noise((20, 3, side, side), 1.0).astype(np.float32),
            {"layer": layer},
        ),
        filter_variance=(rank, shares),
        filter_smoothness=(rank, smooth + noise((20,), 0.05)),
    )


# -------------------------------------------------------------------------------------------------------------- cases

FAR, NEAR = (9.0, 9.0), (2.0, 7.0)
DATA = ("pretraining_images", "fraction")


def heads_of(lowest: tuple[float, float]) -> Callable[..., Profile]:
    return lambda **known: attentive(lowest, **known)


def middle_of(accuracy: float) -> Callable[..., Profile]:
    return lambda **known: block_probes(accuracy, **known)


def hybrid(lowest: tuple[float, float]) -> Profile:
    return attentive(lowest, "hybrid", facts={"hybrid_stem": True})


SUPPORTED: dict[str, tuple[Profile, ...]] = {
    "P-F3-resnet": (spectra("resnet", 2.0, jump=-3.0),),
    "P-F3-resnet-across": (spectra("resnet", -2.0, jump=3.0),),
    "P-F3-vit": (spectra("vit", -1.0),),
    "P-V2": (variances(0.3),),
    "R-5-pretraining": less_and_more("pretraining_images", heads_of(FAR), heads_of(NEAR)),
    "R-5-fraction": less_and_more("data_fraction", heads_of(FAR), heads_of(NEAR)),
    "V-1-depth": (attentive(NEAR, growth=6.0),),
    "V-1-hybrid": (hybrid(FAR), attentive(NEAR)),
    "R-8-class": (skips("vit", 0.0, 0.0, 2.0, 1.0),),
    "R-8-spatial": (skips("vit", 1.0, 2.0),),
    "R-8-level": (skips("vit", 1.0, 2.0), skips("resnet", 0.5, 0.5)),
    "R-7-early": (fields("vit", 0.6, 0.9), fields("resnet", 0.1, 0.9)),
    "R-7-growth": (fields("resnet", 0.1, 0.9),),
    "R-10-vit": (localised("vit", (0.95, 0.9)),),
    "R-10-resnet": (localised("vit", (0.95, 0.9)), localised("resnet", (0.3, 0.2), seed=1)),
    "R-10-pooling": (localised("vit", (0.9, 0.9), **pooled("class")), localised("vit", (0.4, 0.3), **pooled("mean"))),
    "R-11-class": (token_probes("vit", 0.3, 0.8),),
    "R-11-pooling": (token_probes("vit", 0.8, **pooled("mean")), token_probes("vit", 0.3, 0.8, **pooled("class"))),
    "R-11-resnet": (token_probes("resnet", 0.8), token_probes("vit", 0.3, 0.8)),
    "R-12-pretraining": less_and_more("pretraining_images", middle_of(0.3), middle_of(0.7)),
    "R-12-fraction": less_and_more("data_fraction", middle_of(0.3), middle_of(0.7)),
    "V-2-distance": (positions(1.0, 0.0),),
    "V-2-rows": (positions(-1.0, 0.3),),
    "V-3-smooth": (filters(0.7, 0.3),),
    "V-3-variance": (filters(-0.7, 0.9),),
}
CONTRADICTED: dict[str, tuple[Profile, ...]] = {
    "P-F3-resnet": (spectra("resnet", -2.0, jump=3.0),),
    "P-F3-resnet-across": (spectra("resnet", 2.0, jump=-3.0),),
    "P-F3-vit": (spectra("vit", 1.0),),
    "P-V2": (variances(-0.3),),
    "R-5-pretraining": less_and_more("pretraining_images", heads_of(NEAR), heads_of(FAR)),
    "R-5-fraction": less_and_more("data_fraction", heads_of(NEAR), heads_of(FAR)),
    "V-1-depth": (attentive(FAR, growth=-6.0),),
    "V-1-hybrid": (hybrid(NEAR), attentive(FAR)),
    "R-8-class": (skips("vit", 0.0, 0.0, 1.0, 2.0),),
    "R-8-spatial": (skips("vit", 2.0, 1.0),),
    "R-8-level": (skips("vit", 0.5, 0.5), skips("resnet", 1.0, 2.0)),
    "R-7-early": (fields("vit", 0.1, 0.9), fields("resnet", 0.6, 0.9)),
    "R-7-growth": (fields("resnet", 0.9, 0.1),),
    "R-10-vit": (localised("vit", (0.1, 0.2)),),
    "R-10-resnet": (localised("vit", (0.3, 0.2)), localised("resnet", (0.95, 0.9), seed=1)),
    "R-10-pooling": (localised("vit", (0.4, 0.3), **pooled("class")), localised("vit", (0.9, 0.9), **pooled("mean"))),
    "R-11-class": (token_probes("vit", 0.8, 0.3),),
    "R-11-pooling": (token_probes("vit", 0.3, **pooled("mean")), token_probes("vit", 0.8, 0.8, **pooled("class"))),
    "R-11-resnet": (token_probes("resnet", 0.3), token_probes("vit", 0.8, 0.8)),
    "R-12-pretraining": less_and_more("pretraining_images", middle_of(0.7), middle_of(0.3)),
    "R-12-fraction": less_and_more("data_fraction", middle_of(0.7), middle_of(0.3)),
    "V-2-distance": (positions(-1.0, 0.0),),
    "V-2-rows": (positions(1.0, -0.3),),
    "V-3-smooth": (filters(-0.7, 0.9),),
    "V-3-variance": (filters(0.7, 0.3),),
}
CASES: dict[tuple[str, Verdict], tuple[Profile, ...]] = {
    **{(name, Verdict.SUPPORTED): profiles for name, profiles in SUPPORTED.items()},
    **{(name, Verdict.CONTRADICTED): profiles for name, profiles in CONTRADICTED.items()},
}


def judged(name: str, *profiles: Profile) -> Judgement:
    (judgement,) = judge(*profiles, claims=choose_claims([name]), draws=120)
    return judgement


def contrast(name: str, first: Profile, last: Profile | None = None) -> float | Estimate:
    (claim,) = choose_claims([name])
    found = claim.contrast(compare(first, last or first, draws=120))
    return found if isinstance(found, Estimate) else float(found[0])


# ------------------------------------------------------------------------------- the numbers themselves, another way


def fitted_slope(values: np.ndarray, depth: np.ndarray, stage: np.ndarray) -> float:
    """Least squares with a column of depth and one of ones and zeros per stage, image by image."""
    found = []
    for row in values:
        known = np.isfinite(row)
        columns = [depth[known]] + [(stage[known] == name).astype(float) for name in np.unique(stage)]
        found.append(np.linalg.lstsq(np.stack(columns, 1), row[known], rcond=None)[0][0])
    return float(np.mean(found))


def top_band(profile: Profile) -> np.ndarray:
    return profile["fourier"].sel(frequency=0.9).values


def peak(profile: Profile) -> float:
    level = np.log(profile["variance"].values).mean(0)
    return float(np.mean([level[3] - max(level[1:3]), level[6] - max(level[4:6]), level[8] - level[7]]))


def layer_slope(profile: Profile) -> float:
    layers = [np.nanmean(profile["attention_distance"].values.mean(0)[layer]) / 17 for layer in range(8)]
    return float(np.polyfit(np.arange(1, 9) / 8, layers, 1)[0])


def most_local(profile: Profile) -> float:
    return (
        min(profile["attention_distance"].values[:, layer, head].mean() for layer in (0, 1) for head in range(4)) / 17
    )


def mean_log_ratio(profile: Profile, name: str, chosen: Callable[[float], bool]) -> np.ndarray:
    """Of every image, over the branches at chosen depths whose skip is no projection."""
    found = []
    for row in profile[name].values:
        terms = []
        for ratio, depth, projected in zip(
            row, profile["branch_depth"].values, profile["branch_projected"].values, strict=True
        ):
            if chosen(float(depth)) and not projected and not math.isnan(ratio):
                terms.append(math.log(ratio))
        found.append(sum(terms) / len(terms))
    return np.array(found)


def halves(profile: Profile, name: str) -> float:
    first, second = (mean_log_ratio(profile, name, side) for side in (lambda d: d <= 0.5, lambda d: d > 0.5))
    return float((first - second).mean())


def early_radius(profile: Profile) -> np.ndarray:
    radius = profile["receptive_radius"].sel(fraction=0.95) / profile["uniform_radius"].sel(fraction=0.95)
    along = radius.assign_coords(block=profile.data["depth"].values)
    return along.interp(block=[0.1, 0.2, 0.3], kwargs={"fill_value": "extrapolate"}).mean("block").values


def radius_slope(profile: Profile) -> float:
    values = profile["receptive_radius"].values[:, :, 1] / 40
    return float(np.mean([np.polyfit(profile.data["depth"].values, row, 1)[0] for row in values]))


def interior(profile: Profile) -> float:
    return float(np.mean([block[1] for block in profile["localisation_share"].values]))


def tokens(profile: Profile) -> float:
    names = profile.data["probe_token"].values
    return float(np.mean([profile["token_correct"].sel(probe_token=name) for name in names if "," in name]))


def class_token(profile: Profile) -> float:
    return float(profile["token_correct"].sel(probe_token="prefix 0").mean())


def midway(profile: Profile) -> float:
    depth = dict(zip(profile.data["block"].values, profile.data["depth"].values, strict=True))
    chosen = [name for name in profile.data["probe_block"].values if 1 / 3 < depth[name] <= 2 / 3]
    assert len(chosen) == 3
    return float(profile["probe_correct"].sel(probe_feature="mean", probe_block=chosen).mean())


def stripes(alike: np.ndarray) -> float:
    """Place by place and cell by cell."""
    found = []
    for place in range(CELLS):
        cells = [divmod(other, GRID[1]) for other in range(CELLS)]
        down, across = ([abs(cell[axis] - cells[place][axis]) for cell in cells] for axis in (0, 1))
        off: dict[float, list[float]] = {}
        for other in range(CELLS):
            if down[other] and across[other] and not math.isnan(alike[place, other]):
                off.setdefault(math.sqrt(down[other] ** 2 + across[other] ** 2), []).append(alike[place, other])
        if not (reach := sorted(off)):
            continue
        leads = []
        for other in range(CELLS):
            away = down[other] + across[other]
            if (down[other] == 0) == (across[other] == 0) or not reach[0] <= away <= reach[-1]:
                continue
            after = next(i for i, distance in enumerate(reach) if distance >= away)
            before = max(after - 1, 0)
            part = (away - reach[before]) / (reach[after] - reach[before]) if after > before else 0.0
            level = (1 - part) * np.mean(off[reach[before]]) + part * np.mean(off[reach[after]])
            leads.append(alike[place, other] - level)
        found.append(np.nanmean(leads))
    return float(np.mean(found))


def half_way(profile: Profile) -> float:
    even = 20 / (3 * 8 * 8)
    return float(profile["filter_variance"].sum()) - (even + 1) / 2


ORACLES: dict[str, Callable[..., float]] = {
    "P-F3-resnet": lambda p: fitted_slope(top_band(p), DEPTH["resnet"], STAGE),
    "P-F3-resnet-across": lambda p: fitted_slope(top_band(p), DEPTH["resnet"], np.ones(9)),
    "P-F3-vit": lambda p: -fitted_slope(top_band(p), DEPTH["vit"], np.ones(17)),
    "P-V2": peak,
    "R-5-pretraining": lambda less, more: most_local(less) - most_local(more),
    "R-5-fraction": lambda less, more: most_local(less) - most_local(more),
    "V-1-depth": layer_slope,
    "V-1-hybrid": lambda mixed, plain: most_local(mixed) - most_local(plain),
    "R-8-class": lambda p: halves(p, "class_skip_ratio"),
    "R-8-spatial": lambda p: -halves(p, "skip_ratio"),
    "R-8-level": lambda v, r: float(
        (mean_log_ratio(v, "skip_ratio", lambda d: True) - mean_log_ratio(r, "skip_ratio", lambda d: True)).mean()
    ),
    "R-7-early": lambda v, r: float((early_radius(v) - early_radius(r)).mean()),
    "R-7-growth": radius_slope,
    "R-10-vit": lambda p: interior(p) - 0.5,
    "R-10-resnet": lambda v, r: interior(v) - interior(r),
    "R-10-pooling": lambda one, other: interior(one) - interior(other),
    "R-11-class": lambda p: class_token(p) - tokens(p),
    "R-11-pooling": lambda mean, of_class: tokens(mean) - tokens(of_class),
    "R-11-resnet": lambda r, v: tokens(r) - tokens(v),
    "R-12-pretraining": lambda less, more: midway(more) - midway(less),
    "R-12-fraction": lambda less, more: midway(more) - midway(less),
    "V-2-distance": lambda p: -float(np.mean(p["position_distance_correlation"].values)),
    "V-2-rows": lambda p: stripes(p["position_similarity"].values.astype(float)),
    "V-3-smooth": lambda p: float(np.average(p["filter_smoothness"].values, weights=p["filter_variance"].values)),
    "V-3-variance": half_way,
}


@pytest.mark.parametrize(("name", "expected"), CASES)
def test_the_contrast_is_what_the_sentence_says(name, expected):
    profiles = CASES[name, expected]
    found = contrast(name, profiles[0], profiles[-1])
    value = found.value if isinstance(found, Estimate) else found
    # depth 0.1 lies before the ResNet's first block, whose value counts from there up
    assert value == pytest.approx(ORACLES[name](*profiles), abs=0.01 if name == "R-7-early" else 1e-5)


@pytest.mark.parametrize(("name", "expected"), CASES)
def test_the_claim_is_judged_by_the_planted_effect(name, expected):
    judgement = judged(name, *CASES[name, expected])
    assert judgement.verdict == expected, f"{judgement.estimate} {judgement.note}"


RESAMPLED = {
    "R-7-early": ("image of the receptive fields", 8),
    "R-7-growth": ("image of the receptive fields", 8),
    "R-10-vit": ("batch of images", 4),
    "R-10-resnet": ("batch of images", 4),
    "R-10-pooling": ("batch of images", 4),
    "R-11-class": ("test image of the probes", TEST),
    "R-11-pooling": ("test image of the probes", TEST),
    "R-11-resnet": ("test image of the probes", TEST),
    "R-12-pretraining": ("test image of the probes", TEST),
    "R-12-fraction": ("test image of the probes", TEST),
    "V-2-distance": ("place of the grid", CELLS),
    "V-2-rows": ("place of the grid", CELLS),
    "V-3-smooth": ("component", 20),
    "V-3-variance": ("nothing", 20),
}


@pytest.mark.parametrize("name", SUPPORTED)
def test_the_interval_says_what_was_resampled(name):
    estimate = judged(name, *SUPPORTED[name]).estimate
    assert (estimate.unit_resampled, estimate.n) == RESAMPLED.get(name, ("image", N))


# ------------------------------------------------------------------------------------------------------------- slopes


def test_slopes_leave_out_what_is_unknown_and_jumps_between_groups():
    depth, group = np.array([0.2, 0.4, 0.6, 0.8]), np.array([1, 1, 2, 2])
    values = np.array([[0, 1, 9, 10], [0, np.nan, 9, 11], [np.nan, 1, 2, np.nan], [0, 2, 4, 6]])
    np.testing.assert_allclose(slope(values, depth, group), [5, 10, np.nan, 10])
    np.testing.assert_allclose(slope(values, depth)[[2, 3]], [5, 10])
    assert np.isnan(slope(values[:, :1], depth[:1])).all()


def test_means_of_what_is_known():
    values = np.array([[1.0, np.nan, 3.0], [np.nan] * 3])
    np.testing.assert_array_equal(mean_of_known(values), [2, np.nan])
    np.testing.assert_array_equal(mean_of_known(values, axis=0), [1, np.nan, 3])


def test_a_network_without_stages_of_several_blocks_cannot_peak():
    profile = variances(0.3)
    single = Profile(profile.data.assign_coords(stage=("block", np.arange(9))), profile.provenance)
    found = judged("P-V2", single)
    assert found.verdict == Verdict.NOT_APPLICABLE
    assert found.note == "resnet has no stage of two or more convolutional blocks, so no stage can peak"


def test_a_block_that_is_as_high_as_the_last_is_no_peak_at_the_end():
    """The last of each stage is above the mean of the others, but not above the highest."""
    profile = variances(0.0)
    assert abs(contrast("P-V2", profile)) < 0.03


# --------------------------------------------------------------------------------------------- errors and their freedom


@pytest.mark.parametrize("name", ["R-7-early", "R-7-growth"])
def test_receptive_fields_have_students_interval_over_their_images(name):
    profiles = SUPPORTED[name]
    if name == "R-7-early":
        values = early_radius(profiles[0]) - early_radius(profiles[1])
    else:
        radius = profiles[0]["receptive_radius"].values[:, :, 1] / 40
        values = np.array([np.polyfit(DEPTH["resnet"], row, 1)[0] for row in radius])
    estimate = judged(name, *profiles).estimate
    low, high = scipy_stats.t.interval(0.95, 7, estimate.value, values.std(ddof=1) / math.sqrt(8))
    assert (estimate.low, estimate.high) == (pytest.approx(low, abs=3e-3), pytest.approx(high, abs=3e-3))
    assert estimate.freedom == 7


def test_networks_with_fields_of_unlike_many_images_share_the_first():
    few, many = fields("vit", 0.6, 0.9, images=5), fields("resnet", 0.1, 0.9, images=8)
    many["receptive_radius"].values[5:] *= 3
    estimate = contrast("R-7-early", few, many)
    assert estimate.n == 5
    assert estimate.value == pytest.approx((early_radius(few) - early_radius(many)[:5]).mean(), abs=0.01)


def test_one_image_has_no_interval():
    found = judged("R-7-growth", fields("resnet", 0.1, 0.9, images=1))
    assert found.verdict == Verdict.UNDECIDED
    assert math.isnan(found.estimate.low)


def test_localisation_is_paired_by_batch():
    """Both networks' draws move together; what is common to both does not widen the difference's interval."""
    vit, resnet = SUPPORTED["R-10-resnet"]
    draws = [profile["localisation_share_without"].values[:, :, 1].mean(1) for profile in (vit, resnet)]
    one = 1 / (2 * 4 * 4)
    paired = math.sqrt((1.5 * np.std(draws[0] - draws[1])) ** 2 + 2 * one**2)
    estimate = contrast("R-10-resnet", vit, resnet)
    assert estimate.error == pytest.approx(paired)
    assert estimate.error < 0.07 < 1.5 * math.hypot(*(np.std(values) for values in draws)) + 2 * one
    half = scipy_stats.t.ppf(0.975, 3) * estimate.error
    assert (estimate.low, estimate.high) == (pytest.approx(0.675 - half), pytest.approx(0.675 + half))


def test_one_token_is_the_least_that_localisation_can_tell():
    """No draw moves a token: the error is that of one of 32."""
    vit = localised("vit", (1.0, 1.0))
    draws = vit["localisation_share_without"]
    still = Profile(vit.data.assign(localisation_share_without=draws.copy(data=np.ones_like(draws))), vit.provenance)
    assert contrast("R-10-vit", still).error == pytest.approx(1 / 32)


def test_a_map_without_an_interior_is_undecided():
    vit = localised("vit", (1.0, 1.0))
    cka = vit["localisation_cka"].assign_attrs(grid=[2, 18])
    share = vit["localisation_share"].copy()
    share[:, 1] = np.nan
    empty = Profile(vit.data.assign(localisation_cka=cka, localisation_share=share), vit.provenance)
    assert judged("R-10-vit", empty).verdict == Verdict.UNDECIDED


@pytest.mark.parametrize("name", ["R-10-vit", "R-10-resnet"])
def test_networks_that_average_their_tokens_are_not_said_to_keep_places(name):
    with pytest.raises(
        StudyError, match="mean averages its tokens; the statement is on ViTs that classify by a class token"
    ):
        contrast(name, localised("vit", (0.9, 0.9), **pooled("mean")), localised("resnet", (0.3, 0.2)))


def test_batches_of_other_sizes_cannot_be_paired():
    vit, resnet = SUPPORTED["R-10-resnet"]
    other = Profile(vit.data, {**vit.provenance, "measurement": {**vit.provenance["measurement"], "batch_size": 16}})
    with pytest.raises(
        StudyError, match="vit and resnet were measured in batches of 16 and 32 images, so their local"
    ):
        contrast("R-10-resnet", other, resnet)


# ------------------------------------------------------------------------------------------------------------- probes

NO_CLASS_TOKEN = {
    "none": token_probes("vit", 0.3),
    "averaged": token_probes("vit", 0.3, 0.8, **pooled("mean")),
}


@pytest.mark.parametrize("case", NO_CLASS_TOKEN)
def test_networks_that_do_not_classify_by_a_class_token_are_left_out(case):
    profile = NO_CLASS_TOKEN[case]
    with pytest.raises(StudyError, match=f"{profile.name} does not classify by a class token"):
        contrast("R-11-class", profile)
    with pytest.raises(StudyError, match=f"{profile.name} does not classify by a class token"):
        contrast("R-11-resnet", token_probes("resnet", 0.8), profile)


@pytest.mark.parametrize("name", ["R-11-resnet", "R-12-fraction"])
def test_probes_of_different_test_images_are_not_compared(name):
    first, second = SUPPORTED[name]
    other = Profile(first.data.assign_coords(probe_image=np.arange(TEST) + 1), first.provenance)
    with pytest.raises(
        StudyError, match=r"were tested on different images \(200 and 200\); measure both with the same"
    ):
        contrast(name, other, second)


@pytest.mark.parametrize(
    ("name", "measurement"), [("R-11-class", "token_correct"), ("R-12-fraction", "probe_correct")]
)
def test_unknown_answers_are_left_out(name, measurement):
    """Of every second image it is not known whether the probes are right."""
    found = []
    for of in (slice(None), slice(1, None, 2)):
        changed = []
        for profile in SUPPORTED[name]:
            values = profile[measurement].copy(deep=True)
            values[::2] = -1
            data = profile.data.assign({measurement: values}).isel(probe_image=of)
            changed.append(Profile(data, profile.provenance))
        found.append(contrast(name, changed[0], changed[-1]).value)
    assert found[0] == pytest.approx(found[1])


def test_a_network_without_a_middle_has_no_middle_layers():
    first, second = SUPPORTED["R-12-fraction"]
    ends = [Profile(profile.data.isel(probe_block=[0, 8]), profile.provenance) for profile in (first, second)]
    with pytest.raises(StudyError, match=r"fraction 0\.1 has no probed block in the middle third of its depth"):
        contrast("R-12-fraction", *ends)


# --------------------------------------------------------------------------------------------------------- embeddings


def test_places_on_one_line_have_no_others_to_compare_with():
    assert np.isnan(row_column_lead(np.eye(6), (1, 6))).all()
    found = row_column_lead(np.ones((4, 4)), (2, 2))  # neighbours are nearer than the diagonal one
    assert np.isnan(found).all()


def test_a_zero_embedding_is_left_out():
    profile = positions(1.0, 0.3)
    alike = profile["position_similarity"].values.copy()
    alike[0] = alike[:, 0] = np.nan
    found = row_column_lead(alike.astype(float), GRID)
    assert np.isnan(found[0])
    assert found[1:].mean() == pytest.approx(stripes(alike.astype(float)))


def test_a_round_spot_has_no_stripes():
    estimate = contrast("V-2-rows", positions(1.0, 0.0))
    assert abs(estimate.value) < 0.01
    assert judged("V-2-rows", positions(1.0, 0.0)).verdict == Verdict.NEGLIGIBLE


def test_the_interval_of_smoothness_is_a_jackknife_over_components():
    profile = filters(0.7, 0.3)
    weight, smooth = profile["filter_variance"].values, profile["filter_smoothness"].values
    without = [np.average(np.delete(smooth, k), weights=np.delete(weight, k)) for k in range(20)]
    error = math.sqrt(19 / 20 * np.sum((without - np.mean(without)) ** 2))
    assert contrast("V-3-smooth", profile).error == pytest.approx(error)


@pytest.mark.parametrize("name", ["V-3-smooth", "V-3-variance"])
def test_a_convolutional_stem_embeds_no_patches(name):
    with pytest.raises(StudyError, match="the first convolution of vit is a stem, no patch embedding"):
        contrast(name, filters(0.7, 0.3, layer="stem"))


def test_all_components_there_are_hold_everything():
    with pytest.raises(StudyError, match="the 20 components of vit are all there are, so they hold everything"):
        contrast("V-3-variance", filters(0.7, 1.0))


def test_the_number_of_filters_is_exact():
    estimate = contrast("V-3-variance", filters(0.7, 0.9))
    assert (estimate.low, estimate.high, estimate.error) == (estimate.value, estimate.value, 0.0)


FEW: dict[str, Callable[[], Profile]] = {
    "V-2-distance": lambda: positions(1.0, 0.0),
    "V-2-rows": lambda: positions(1.0, 0.0),
    "V-3-smooth": lambda: filters(0.7, 0.3),
}


@pytest.mark.parametrize("name", FEW)
def test_a_single_known_place_or_component_is_undecided(name):
    profile, (claim,) = FEW[name](), choose_claims([name])
    array = profile[claim.needs[0]]
    values = np.full(array.shape, np.nan)
    values[0] = array.values[0]
    found = judged(name, Profile(profile.data.assign({array.name: array.copy(data=values)}), profile.provenance))
    assert found.verdict == Verdict.UNDECIDED
    assert found.estimate.n <= 1


def test_the_semantic_region_is_named_as_untested():
    assert "masks" in UNTESTED["V-4"]


def test_contrasts_read_any_order_of_axes():
    """As a profile that somebody merged or transposed by hand holds them."""
    ran = 0
    for name, profiles in SUPPORTED.items():
        turned = [
            Profile(profile.data.transpose(*reversed(list(profile.data.sizes))), profile.provenance)
            for profile in profiles
        ]
        if name.startswith(("V-2", "V-3", "R-10")):  # square or single axes
            continue
        found, expected = (contrast(name, of[0], of[-1]) for of in (turned, profiles))
        value, reference = (x.value if isinstance(x, Estimate) else x for x in (found, expected))
        assert value == pytest.approx(reference, abs=1e-6), name
        ran += 1
    assert ran == 18


def test_comparisons_share_their_draws():
    """R-8-class and its mirror image on the same draws."""
    (claim,) = choose_claims(["R-8-class"])
    profile = skips("vit", 0.0, 0.0, 2.0, 1.0)
    pair: Comparison = compare(profile, profile, draws=50)
    ratio = mean_log_ratio(profile, "class_skip_ratio", lambda d: d <= 0.5)
    ratio = ratio - mean_log_ratio(profile, "class_skip_ratio", lambda d: d > 0.5)
    weights = pair.resampling.weights()
    np.testing.assert_allclose(claim.contrast(pair), weights @ ratio / N, atol=1e-6)

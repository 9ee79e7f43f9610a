"""Curvature, landscape, interventions and training: each contrast against its definition, computed another way."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student
from synthetic import synthetic_profile

from hf_vitstudy.claims import Judgement, Verdict, choose_claims, judge
from hf_vitstudy.claims.accuracy import ALL, FEW, right, stored_metric
from hf_vitstudy.claims.facts import facts
from hf_vitstudy.claims.intervals import difference_of_means, difference_of_shares, negated, steady
from hf_vitstudy.claims.loss import windowed
from hf_vitstudy.comparison import compare
from hf_vitstudy.errors import StudyError
from hf_vitstudy.profile import Profile
from hf_vitstudy.robustness import require_alike
from hf_vitstudy.stats import Estimate, Resampling, coverage


N = 64
Variables = dict[str, tuple]


@lru_cache
def base(kind: str) -> Profile:
    return synthetic_profile(kind, n=N, block=32)


def network(
    kind: str,
    variables: Variables | None = None,
    *,
    name: str = "",
    config: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    stages: int = 1,
    split: str = "test",
) -> Profile:
    """A ViT, a ResNet or a hybrid with these measurements, configuration and record of training."""
    plain = base("resnet" if kind == "resnet" else "vit")
    variables = variables or {}
    data = plain.data.assign({key: value for key, value in variables.items() if value[0] != (key,)})
    data = data.assign_coords({key: value for key, value in variables.items() if value[0] == (key,)})
    if kind == "hybrid":
        data = data.assign_coords(kind=("block", ["conv" if k == "mlp" else k for k in data["kind"].values]))
    if stages > 1:
        data = data.assign_coords(stage=("block", np.arange(data.sizes["block"]) * stages // data.sizes["block"] + 1))
    name = name or kind
    about = {"name": name, "weights_sha256": name} | {"config": config or {}, "training": training or {}}
    changes = {"checkpoint": plain.provenance["checkpoint"] | about}
    return Profile(data, plain.provenance | changes | {"images": plain.provenance["images"] | {"split": split}})


def judged(name: str, *profiles: Profile, draws: int = 120) -> Judgement:
    (judgement,) = judge(*profiles, claims=choose_claims([name]), draws=draws)
    return judgement


def value_of(name: str, *profiles: Profile) -> Estimate:
    """The estimate of a claim's contrast, by hand."""
    (claim,) = choose_claims([name])
    comparison = compare(profiles[0], profiles[-1], draws=50)
    found = claim.contrast(comparison)
    return found if isinstance(found, Estimate) else comparison.resampling.estimate(found)


# ------------------------------------------------------------------------------------------------------------ training


def record(
    fraction: float = 1.0,
    *,
    seed: int = 0,
    done: float = 1.0,
    accuracy: float = 0.8,
    nll: float = 1.0,
    error: float | None = 0.002,
    **more: Any,
) -> dict[str, Any]:
    """What a recipe stores of a run on some share of the data."""
    train = {"accuracy": 0.9, "nll": nll, "n": int(50_000 * fraction)} | (
        {} if error is None else {"nll_error": error}
    )
    return {
        "config": {"data": {"train": "cifar", "fraction": fraction}, "seed": seed, "epochs": 300},
        "data": {"train": {"n": int(50_000 * fraction)}},
        "steps": round(1000 * done),
        "total_steps": 1000,
        "metrics": {"test": {"accuracy": accuracy, "nll": 1.0, "n": 10_000}, "train": train},
    } | more


VIT = {"hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 3, "patch_size": 4, "pooling": "class"}


# ----------------------------------------------------------------------------------------------------------- curvature

ABOUT = {"mini_batch": 16, "mixup": 0.0, "weight_decay": 0.0, "batch_norm": "eval"}
BATCHES = 8


def spectrum(top: float, bottom: float, *, seed: int = 0, batches: int = BATCHES, **about: Any) -> Variables:
    """Five eigenvalues at either end for every mini-batch, about these sizes; both ends scatter by a tenth."""
    rng = np.random.default_rng([seed, round(top), round(-bottom)])
    ends = [size * rng.uniform(0.9, 1.1, (batches, 1)) * np.linspace(1, 0.6, 5) for size in (top, bottom)]
    axes = ("hessian_batch", "hessian_rank")
    return {
        f"hessian_{name}": (axes, values, ABOUT | about) for name, values in zip(("top", "bottom"), ends, strict=True)
    }


CONVEX, MIXED, CONCAVE = (300.0, -20.0), (50.0, -50.0), (30.0, -100.0)
FLAT, SHARP = (40.0, -10.0), (300.0, -10.0)


def curved(kind: str, ends: tuple[float, float], name: str = "", batches: int = BATCHES, **more: Any) -> Profile:
    return network(kind, spectrum(*ends, batches=batches), name=name, **more)


def early(kind: str, ends: tuple[float, float]) -> Profile:
    return curved(kind, ends, f"early {kind}", training=record(done=0.05))


def swept(
    first: tuple[float, float], second: tuple[float, float], kind: str = "vit", batches: int = BATCHES, **axis: tuple
) -> tuple[Profile, ...]:
    """Two networks alike but for one entry of their configuration, or the share of their data."""
    made = []
    for ends, place in ((first, 0), (second, 1)):
        told = {key: values[place] for key, values in axis.items()}
        fraction = told.pop("fraction", 1.0)
        config = (VIT if kind == "vit" else {}) | told
        made.append(curved(kind, ends, f"{kind} {place}", batches, config=config, training=record(fraction)))
    return tuple(made)


def staged(first: tuple[float, float], second: tuple[float, float], **config: Any) -> tuple[Profile, ...]:
    return curved("vit", first, "plain"), curved("vit", second, "stages", stages=3, config=config)


PAIRS: dict[str, tuple[Callable[..., tuple[Profile, ...]], tuple[tuple, tuple]]] = {
    # claim: how to make the two profiles, and the ends of their spectra where it holds; exchanged, it is contradicted
    "P-H1": (lambda a, b: (curved("vit", a), curved("resnet", b)), (FLAT, SHARP)),
    "P-H1-ape": (lambda a, b: (curved("vit", a), curved("resnet", b)), (FLAT, SHARP)),
    "P-H2": (lambda a, b: (curved("vit", a), curved("resnet", b)), (MIXED, CONVEX)),
    "P-H2-asymmetry": (lambda a, b: (curved("vit", a), curved("resnet", b)), (MIXED, CONVEX)),
    "P-H2-early": (lambda a, b: (early("vit", a), early("resnet", b)), (MIXED, CONVEX)),
    "P-H2-asymmetry-early": (lambda a, b: (early("vit", a), early("resnet", b)), (MIXED, CONVEX)),
    "P-H3-vit": (lambda a, b: swept(a, b, fraction=(0.06, 1.0)), (MIXED, CONVEX)),
    "P-H4": (lambda a, b: swept(a, b, pooling=("mean", "class")), (CONVEX, MIXED)),
    "P-H5-heads": (lambda a, b: swept(a, b, num_attention_heads=(3, 12)), (MIXED, CONVEX)),
    "P-H5-heads-ape": (lambda a, b: swept(a, b, num_attention_heads=(3, 12)), (SHARP, FLAT)),
    "P-H5-width": (lambda a, b: swept(a, b, hidden_size=(96, 192)), (MIXED, CONVEX)),
    "P-H5-width-ape": (lambda a, b: swept(a, b, hidden_size=(96, 192)), (SHARP, FLAT)),
    "P-H5-patch": (lambda a, b: swept(a, b, patch_size=(2, 8)), (MIXED, CONVEX)),
    "P-H5-patch-ape": (lambda a, b: swept(a, b, patch_size=(2, 8)), (FLAT, SHARP)),
    "P-H5-kernel-3": (lambda a, b: swept(a, b, kernel_size=(5, 3)), (CONVEX, MIXED)),
    "P-H5-kernel-8": (lambda a, b: swept(a, b, kernel_size=(5, 8)), (CONVEX, MIXED)),
    "P-H6": (staged, (MIXED, CONVEX)),
    "P-H6-swin": (lambda a, b: staged(a, b, window_size=4), (SHARP, FLAT)),
}
CASES: dict[tuple[str, Verdict], Callable[[], tuple[Profile, ...]]] = {
    (name, verdict): lambda make=make, ends=ends, turn=turn: make(*ends[::turn])
    for name, (make, ends) in PAIRS.items()
    for verdict, turn in ((Verdict.SUPPORTED, 1), (Verdict.CONTRADICTED, -1))
}
CASES |= {
    ("P-H3-resnet", Verdict.SUPPORTED): lambda: swept(CONVEX, CONVEX, "resnet", batches=24, fraction=(0.06, 1.0)),
    ("P-H3-resnet", Verdict.CONTRADICTED): lambda: swept(CONVEX, CONCAVE, "resnet", fraction=(0.06, 1.0)),
}


def pooled(profile: Profile) -> list[float]:
    """The five largest by magnitude of every mini-batch, one after another."""
    found = []
    for top, bottom in zip(profile["hessian_top"].values, profile["hessian_bottom"].values, strict=True):
        found += sorted([*top, *bottom], key=abs)[-5:]
    return found


def nep(profile: Profile) -> float:
    return sum(value < 0 for value in pooled(profile)) / len(pooled(profile))


def ape(profile: Profile) -> float:
    return float(np.mean([value for value in pooled(profile) if value > 0]))


def asymmetry(profile: Profile) -> float:
    return -profile["hessian_bottom"].values[:, 0].sum() / profile["hessian_top"].values[:, 0].sum()


def sharper(a: Profile, b: Profile) -> float:
    tops = [profile["hessian_top"].values[:, 0] for profile in (a, b)]
    return float(np.mean([np.log(resnet / vit) for vit, resnet in zip(*tops, strict=True)]))


ORACLES: dict[str, Callable[..., float]] = {
    "P-H1": sharper,
    "P-H1-ape": lambda a, b: np.log(ape(b) / ape(a)),
    "P-H2": lambda a, b: nep(a) - nep(b),
    "P-H2-asymmetry": lambda a, b: asymmetry(a) - asymmetry(b),
    "P-H2-early": lambda a, b: nep(a) - nep(b),
    "P-H2-asymmetry-early": lambda a, b: asymmetry(a) - asymmetry(b),
    "P-H3-vit": lambda a, b: nep(a) - nep(b),
    "P-H3-resnet": lambda a, b: 0.1 - abs(nep(a) - nep(b)),
    "P-H4": lambda gap, token: nep(token) - nep(gap),
    "P-H5-heads": lambda few, many: nep(few) - nep(many),
    "P-H5-heads-ape": lambda few, many: np.log(ape(few) / ape(many)),
    "P-H5-width": lambda narrow, wide: nep(narrow) - nep(wide),
    "P-H5-width-ape": lambda narrow, wide: np.log(ape(narrow) / ape(wide)),
    "P-H5-patch": lambda small, large: nep(small) - nep(large),
    "P-H5-patch-ape": lambda small, large: np.log(ape(large) / ape(small)),
    "P-H5-kernel-3": lambda five, other: nep(other) - nep(five),
    "P-H5-kernel-8": lambda five, other: nep(other) - nep(five),
    "P-H6": lambda plain, staged: nep(plain) - nep(staged),
    "P-H6-swin": lambda plain, staged: np.log(ape(plain) / ape(staged)),
}


def without_batch(profile: Profile, batch: int) -> Profile:
    return Profile(profile.data.drop_isel(hessian_batch=batch), profile.provenance)


@pytest.mark.parametrize("name", ["P-H1", "P-H1-ape", "P-H2-asymmetry"])
def test_curvature_is_paired_by_mini_batch(name):
    """Both scatter alike, so the interval of the difference is far narrower than either scatters."""
    vit, resnet = (curved(kind, ends) for kind, ends in (("vit", FLAT), ("resnet", (400.0, -100.0))))
    shared = np.random.default_rng(3).uniform(0.5, 2, (BATCHES, 1))
    vit, resnet = (
        Profile(p.data.assign({k: p.data[k] * shared for k in ("hessian_top", "hessian_bottom")}).copy(), p.provenance)
        for p in (vit, resnet)
    )
    for profile in (vit, resnet):
        for key in ("hessian_top", "hessian_bottom"):
            profile.data[key].attrs.update(ABOUT)
    found = value_of(name, vit, resnet)
    each = [ORACLES[name](*(without_batch(p, batch) for p in (vit, resnet))) for batch in range(BATCHES)]
    error = np.sqrt((BATCHES - 1) / BATCHES * np.sum((np.array(each) - np.mean(each)) ** 2))
    assert found.error == pytest.approx(error)
    assert found.high - found.value == pytest.approx(student.ppf(0.975, BATCHES - 1) * error)
    assert (found.n, found.unit_resampled) == (BATCHES, "mini-batch")
    if name == "P-H1":
        assert found.error < 0.05 < np.log(resnet["hessian_top"].values[:, 0]).std() / np.sqrt(BATCHES)


def test_few_mini_batches_cannot_show_that_nothing_changes():
    few = swept(CONVEX, CONVEX, "resnet", fraction=(0.06, 1.0))
    assert judged("P-H3-resnet", *few).verdict == Verdict.UNDECIDED


def test_a_share_without_spread_has_the_error_of_one_eigenvalue_of_each():
    found = value_of("P-H2", curved("vit", (10.0, -1.0)), curved("resnet", (300.0, -1.0)))
    assert found.value == 0
    assert found.error == pytest.approx(np.sqrt(2) / (5 * BATCHES))
    assert judged("P-H2", curved("vit", (10.0, -1.0)), curved("resnet", (300.0, -1.0))).verdict != "supported"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"mixup": 0.8}, "mixup is 0.0 and 0.8"),
        ({"batch_norm": "train"}, "batch_norm"),
        ({"mini_batch": 8}, "mini_batch"),
    ],
)
def test_curvature_measured_otherwise_is_not_compared(change, word):
    vit, resnet = curved("vit", FLAT), network("resnet", spectrum(*SHARP, **change))
    for name in ("P-H1", "P-H2"):
        assert f"measured differently: {word}" in judged(name, vit, resnet).note
    fewer = network("resnet", spectrum(*SHARP, batches=7))
    assert "eigenvalues of mini-batches is (5, 8) and (5, 7)" in judged("P-H1", vit, fewer).note


def test_no_positive_end_leaves_sharpness_undefined():
    found = judged("P-H1", curved("vit", (0.0, -9.0)), curved("resnet", SHARP))
    assert found.verdict == Verdict.UNDECIDED
    assert np.isnan(found.estimate.value)


def test_a_spectrum_of_zeros_has_no_asymmetry():
    found = judged("P-H2-asymmetry", curved("vit", (0.0, -9.0)), curved("resnet", SHARP))
    assert found.verdict == Verdict.UNDECIDED
    assert np.isnan(found.estimate.value)


def test_wider_heads_are_not_more_heads():
    pair = swept(MIXED, CONVEX, hidden_size=(96, 192), num_attention_heads=(3, 6))
    for name in ("P-H5-width", "P-H5-width-ape"):
        assert "the claim is about wider heads, but vit 0 has 3 and vit 1 6" in judged(name, *pair).note


@pytest.mark.parametrize(
    ("name", "config", "word"),
    [
        ("P-H6", {"window_size": 7}, "the whole map, such as PiT"),
        ("P-H6-swin", {}, "windowed attention, such as Swin"),
    ],
)
def test_windows_and_whole_maps_are_different_claims(name, config, word):
    assert word in judged(name, *staged(MIXED, FLAT, **config)).note


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, False),
        ({"window_size": 7}, True),
        ({"architecture": "swin_tiny_patch4"}, True),
        ({"model_type": "pit"}, False),
    ],
)
def test_windowed_networks_are_known_by_their_configuration(config, expected):
    assert windowed(network("vit", config=config)) is expected


def test_early_networks_are_compared_at_the_same_share_of_training():
    vit, resnet = early("vit", MIXED), curved("resnet", CONVEX, training=record(done=0.1))
    assert judged("P-H2-early", vit, resnet).verdict == Verdict.NOT_APPLICABLE
    assert judged("P-H2", vit, resnet).note == "needs a checkpoint with attention and no convolutional blocks"


# ----------------------------------------------------------------------------------------------------------- landscape

STEPS = np.linspace(-1, 1, 11)


def landscape(
    bowl: float, *, seed: int = 0, norm: float = 1.0, steps: np.ndarray = STEPS, flat: bool = False, **about
):
    """Losses that rise as `bowl` r², steeper one way than the other, on images that differ; ½Σw² rises as `norm` r²."""
    rng = np.random.default_rng(seed)
    y = np.zeros(1) if flat else steps
    square = steps**2 + y[:, None] ** 2
    own = rng.uniform(0.5, 3, (24, 1, 1))
    surface = own + bowl * rng.uniform(0.8, 1.2, (24, 1, 1)) * (square + 0.3 * steps)
    return {
        "landscape_nll": (("landscape_image", "landscape_y", "landscape_x"), surface, {"mixup": 0.0} | about),
        "landscape_l2": (("landscape_y", "landscape_x"), 1000 + norm * (square + 0.3 * steps), {}),
        "landscape_x": (("landscape_x",), steps),
        "landscape_y": (("landscape_y",), y),
    }


def hilly(kind: str, bowl: float, **more: Any) -> Profile:
    return network(kind, landscape(bowl, **more))


CASES |= {
    ("P-LL", Verdict.SUPPORTED): lambda: (hilly("vit", 2.0), hilly("resnet", 8.0)),
    ("P-LL", Verdict.CONTRADICTED): lambda: (hilly("vit", 8.0), hilly("resnet", 2.0)),
    ("P-LL-norm", Verdict.SUPPORTED): lambda: (hilly("vit", 1.0, norm=10.0), hilly("resnet", 1.0, norm=200.0)),
    ("P-LL-norm", Verdict.CONTRADICTED): lambda: (hilly("vit", 1.0, norm=200.0), hilly("resnet", 1.0, norm=10.0)),
}


def rise_at_half(profile: Profile, name: str) -> float:
    """Mean over images and the four points half a step away of the surface less its middle, by xarray's interpolation."""
    surface = profile[f"landscape_{name}"].astype(float)
    if "landscape_image" in surface.dims:
        surface = surface.mean("landscape_image")
    places = [(0.5, 0), (-0.5, 0)] + ([(0, 0.5), (0, -0.5)] if surface.sizes["landscape_y"] > 1 else [])
    points = [
        np.interp(y, surface["landscape_y"], [np.interp(x, surface["landscape_x"], row) for row in surface.values])
        if surface.sizes["landscape_y"] > 1
        else np.interp(x, surface["landscape_x"], surface.values[0])
        for x, y in places
    ]
    middle = surface.sel(landscape_x=0, landscape_y=0, method="nearest")
    return float(np.mean(points) - middle)


ORACLES |= {
    "P-LL": lambda vit, resnet: rise_at_half(resnet, "nll") - rise_at_half(vit, "nll"),
    "P-LL-norm": lambda vit, resnet: 0.05 * (rise_at_half(resnet, "l2") - rise_at_half(vit, "l2")),
}


def test_the_rise_is_that_of_the_bowl_and_paired_by_image():
    """A bowl of b r² rises by b / 4 at ½ (a line between 0.4 and 0.6 says 0.26 b); what is odd in the step cancels."""
    found = value_of("P-LL", hilly("vit", 2.0), hilly("resnet", 8.0))
    factor = np.random.default_rng(0)
    factor.uniform(0.5, 3, (24, 1, 1))
    assert found.value == pytest.approx(0.26 * 6 * factor.uniform(0.8, 1.2, 24).mean())
    assert found.n == 24
    assert found.high - found.low < 0.2
    even = value_of(
        "P-LL", *(hilly(kind, bowl, steps=np.linspace(-1, 1, 5)) for kind, bowl in (("vit", 2.0), ("resnet", 8.0)))
    )
    assert even.value == pytest.approx(found.value * 0.25 / 0.26)


def test_an_image_without_a_label_is_left_out():
    vit, resnet = hilly("vit", 2.0), hilly("resnet", 8.0)
    values = vit["landscape_nll"].values.copy()
    values[3] = np.nan
    holed = Profile(vit.data.assign(landscape_nll=vit["landscape_nll"].copy(data=values)), vit.provenance)
    kept = [Profile(p.data.drop_isel(landscape_image=3), p.provenance) for p in (vit, resnet)]
    assert value_of("P-LL", holed, resnet).value == pytest.approx(value_of("P-LL", *kept).value)


def test_directions_are_all_that_the_norm_varies_with():
    found = value_of("P-LL-norm", hilly("vit", 1.0, norm=10.0), hilly("resnet", 1.0, norm=200.0))
    assert (found.n, found.unit_resampled) == (2, "direction")
    assert found.error == pytest.approx(0, abs=1e-9)
    slices = [hilly(kind, 1.0, norm=size, flat=True) for kind, size in (("vit", 10.0), ("resnet", 200.0))]
    alone = judged("P-LL-norm", *slices)
    assert alone.verdict == Verdict.UNDECIDED
    assert alone.estimate.value == pytest.approx(found.value)
    assert value_of("P-LL", *slices).value == pytest.approx(ORACLES["P-LL"](*slices))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"mixup": 0.8}, "mixup is 0.0 and 0.8"),
        ({"flat": True}, "landscape_y is"),
        ({"steps": np.linspace(-2, 2, 11)}, "landscape_x is"),
    ],
)
def test_landscapes_measured_otherwise_are_not_compared(change, word):
    vit, resnet = hilly("vit", 2.0), hilly("resnet", 8.0, **change)
    for name in ("P-LL", "P-LL-norm"):
        assert f"measured differently: {word}" in judged(name, vit, resnet).note


def test_a_landscape_must_reach_far_enough():
    near = [hilly(kind, 2.0, steps=np.linspace(-0.4, 0.4, 5)) for kind in ("vit", "resnet")]
    assert "landscape reaches to 0.4, needs 0.5; measure with a larger radius" in judged("P-LL", *near).note


# ------------------------------------------------------------------------------------------------------- interventions

FREQUENCIES = np.round(np.linspace(0.1, 0.9, 9), 1)
IMAGES = 400  # of the measurements that look at other images than all


def answered(shares: np.ndarray, seed: int, n: int = IMAGES) -> np.ndarray:
    """Right or wrong, each with its chance, (n, ...); an image is as hard under every intervention."""
    hardness = np.random.default_rng(seed).uniform(size=(n, *[1] * np.ndim(shares)))
    return (hardness < shares).astype(np.int8)


def noisy(kind: str, lost: np.ndarray, seed: int = 0, strength: str = "0.05") -> Profile:
    """Of accuracy 0.9, less what noise of each frequency costs."""
    return network(
        kind,
        {
            "noise_clean_correct": (("noise_image",), answered(np.array(0.9), seed)),
            "noise_correct": (("noise_image", "noise_frequency"), answered(0.9 - lost, seed), {"strength": strength}),
            "noise_frequency": (("noise_frequency",), FREQUENCIES),
        },
    )


LOW, HIGH = np.where(FREQUENCIES < 0.55, 0.4, 0.1), np.where(FREQUENCIES < 0.55, 0.1, 0.4)
KINDS = ("fog", "contrast", "pixelate")


def corrupted(kind: str, clean: float, under: float, seed: int = 0, kinds: tuple[str, ...] = KINDS) -> Profile:
    shares = under + 0.02 * np.add.outer(np.arange(-1, 2), np.arange(-1, 2))
    axes = ("corruption_image", "corruption", "severity")
    return network(
        kind,
        {
            "corruption_clean_correct": (axes[:1], answered(np.array(clean), seed)),
            "corruption_correct": (axes, answered(shares, seed), {"strengths": "published for 32 px"}),
            "corruption": (("corruption",), np.array(kinds)),
            "severity": (("severity",), np.array([1, 3, 5])),
        },
    )


STAGES = (3, 4, 6, 3)


def lesioned(kind: str, part: str, slope: float, seed: int = 0, stages: tuple[int, ...] = STAGES) -> Profile:
    """Lesions of a part of each block and of another kind, which cost the reverse; the cost rises by `slope` over a stage."""
    stage = np.repeat(np.arange(len(stages)) + 1.0, stages)
    position = np.concatenate([(np.arange(count) + 1) / count for count in stages])
    lost = 0.2 + slope * (position - 0.5) + 0.02 * stage
    right = answered(0.9 - np.concatenate([lost, 0.4 - lost]), seed)
    return network(
        kind,
        {
            "lesion_intact_correct": (("lesion_image",), answered(np.array(0.9), seed)),
            "lesion_correct": (("lesion_image", "lesion"), right),
            "lesion_position": (("lesion",), np.tile(position, 2).astype(np.float32)),
            "lesion_stage": (("lesion",), np.tile(stage, 2).astype(np.float32)),
            "lesion_kind": (("lesion",), np.repeat([part, "other"], len(stage))),
        },
    )


CASES |= {
    ("P-N1-high", Verdict.SUPPORTED): lambda: (noisy("vit", LOW), noisy("resnet", HIGH)),
    ("P-N1-high", Verdict.CONTRADICTED): lambda: (noisy("vit", HIGH), noisy("resnet", LOW)),
    ("P-N1-low", Verdict.SUPPORTED): lambda: (noisy("vit", LOW), noisy("resnet", HIGH)),
    ("P-N1-low", Verdict.CONTRADICTED): lambda: (noisy("vit", HIGH), noisy("resnet", LOW)),
    ("P-N1-crossing", Verdict.SUPPORTED): lambda: (noisy("vit", LOW), noisy("resnet", HIGH)),
    ("P-N1-crossing", Verdict.CONTRADICTED): lambda: (noisy("vit", HIGH), noisy("resnet", LOW)),
    ("P-L1-msa", Verdict.SUPPORTED): lambda: (lesioned("vit", "attention", 0.3),),
    ("P-L1-msa", Verdict.CONTRADICTED): lambda: (lesioned("vit", "attention", -0.3),),
    ("P-L1-mlp", Verdict.SUPPORTED): lambda: (lesioned("vit", "mlp", -0.3),),
    ("P-L1-mlp", Verdict.CONTRADICTED): lambda: (lesioned("vit", "mlp", 0.3),),
    ("P-L1-conv", Verdict.SUPPORTED): lambda: (lesioned("resnet", "convolution", -0.3),),
    ("P-L1-conv", Verdict.CONTRADICTED): lambda: (lesioned("resnet", "convolution", 0.3),),
}
for suffix, kind in (("vit", "vit"), ("hybrid", "hybrid")):
    for ending in ("", "-relative"):
        CASES |= {
            (f"P-R1-{suffix}{ending}", verdict): lambda kind=kind, under=under: (
                corrupted(kind, 0.9, under),
                corrupted("resnet", 0.9, 0.6, seed=1),
            )
            for verdict, under in ((Verdict.SUPPORTED, 0.8), (Verdict.CONTRADICTED, 0.4))
        }


def lost(profile: Profile, frequencies: np.ndarray) -> float:
    clean = profile["noise_clean_correct"].values.astype(float).mean()
    return float(np.mean([clean - profile["noise_correct"].sel(noise_frequency=f).values.mean() for f in frequencies]))


def crossing(vit: Profile, resnet: Profile) -> float:
    """The division of a dense grid that has most of the ViT's excess below it and of the ResNet's above."""
    grid = np.linspace(0.1, 0.9, 8001)
    curve = np.interp(grid, FREQUENCIES, [lost(vit, [f]) - lost(resnet, [f]) for f in FREQUENCIES])
    below = np.concatenate([[0], np.cumsum((curve[1:] + curve[:-1]) / 2)])
    return float(grid[np.argmax(2 * below - below[-1])])


def kept(profile: Profile, relative: bool) -> float:
    under = profile["corruption_correct"].values.mean()
    return float(under / profile["corruption_clean_correct"].values.mean() if relative else under)


def slope(profile: Profile, part: str) -> float:
    """By least squares with a constant for every stage."""
    chosen = profile["lesion_kind"].values == part
    stage = profile["lesion_stage"].values[chosen]
    design = np.column_stack([profile["lesion_position"].values[chosen], *(stage == s for s in np.unique(stage))])
    cost = profile["lesion_intact_correct"].values.mean() - profile["lesion_correct"].values[:, chosen].mean(0)
    return float(np.linalg.lstsq(design.astype(float), cost, rcond=None)[0][0])


ABOVE, BELOW = FREQUENCIES[5:], FREQUENCIES[:5]
ORACLES |= {
    "P-N1-high": lambda vit, resnet: lost(resnet, ABOVE) - lost(vit, ABOVE),
    "P-N1-low": lambda vit, resnet: lost(vit, BELOW) - lost(resnet, BELOW),
    "P-N1-crossing": lambda vit, resnet: 0.15 - abs(crossing(vit, resnet) - 0.6),
    "P-R1-vit": lambda a, b: kept(a, False) - kept(b, False),
    "P-R1-hybrid": lambda a, b: kept(a, False) - kept(b, False),
    "P-R1-vit-relative": lambda a, b: kept(a, True) - kept(b, True),
    "P-R1-hybrid-relative": lambda a, b: kept(a, True) - kept(b, True),
    "P-L1-msa": lambda vit: slope(vit, "attention"),
    "P-L1-mlp": lambda vit: -slope(vit, "mlp"),
    "P-L1-conv": lambda resnet: -slope(resnet, "convolution"),
}


def test_interventions_are_paired_by_image():
    """Both networks find the same images hard: the interval of the difference is narrower than that of either accuracy."""
    same = value_of("P-R1-vit", corrupted("vit", 0.9, 0.62), corrupted("resnet", 0.9, 0.6))
    other = value_of("P-R1-vit", corrupted("vit", 0.9, 0.62), corrupted("resnet", 0.9, 0.6, seed=5))
    assert same.high - same.low < 0.5 * (other.high - other.low)
    assert same.n == other.n == IMAGES


def test_a_better_network_on_clean_images_is_not_thereby_more_robust():
    pair = corrupted("vit", 0.95, 0.76), corrupted("resnet", 0.75, 0.6)
    assert judged("P-R1-vit", *pair).verdict == Verdict.SUPPORTED
    relative = judged("P-R1-vit-relative", *pair)
    assert relative.verdict != Verdict.SUPPORTED
    assert abs(relative.estimate.value) < 0.03


def test_of_no_clean_accuracy_there_is_no_share():
    found = judged("P-R1-vit-relative", corrupted("vit", 0.005, 0.0), corrupted("resnet", 0.9, 0.6))
    assert found.verdict == Verdict.UNDECIDED
    assert np.isnan(found.estimate.low)


def test_an_image_whose_label_one_does_not_know_is_left_out_of_both():
    vit, resnet = corrupted("vit", 0.9, 0.8), corrupted("resnet", 0.9, 0.6)
    holed = {}
    for key in ("corruption_clean_correct", "corruption_correct"):
        values = vit[key].values.copy()
        values[:100] = -1
        holed[key] = vit[key].copy(data=values)
    fewer = [Profile(p.data.isel(corruption_image=slice(100, None)), p.provenance) for p in (vit, resnet)]
    for name in ("P-R1-vit", "P-R1-vit-relative"):
        found = value_of(name, Profile(vit.data.assign(holed), vit.provenance), resnet)
        assert found.value == pytest.approx(ORACLES[name](*fewer))


def test_interventions_that_differ_are_not_compared():
    found = judged(
        "P-R1-vit", corrupted("vit", 0.9, 0.8), corrupted("resnet", 0.9, 0.6, kinds=("fog", "contrast", "snow"))
    )
    assert (
        "measured with different corruption (['fog', 'contrast', 'pixelate']; ['fog', 'contrast', 'snow'])"
        in found.note
    )
    found = judged("P-N1-high", noisy("vit", LOW), noisy("resnet", HIGH, strength="0.1"))
    assert "measured with different noise" in found.note
    with pytest.raises(StudyError, match="different corruption"):
        require_alike(
            corrupted("vit", 0.9, 0.8), corrupted("resnet", 0.9, 0.6, kinds=("fog", "contrast", "snow")), "corruption"
        )


@pytest.mark.parametrize(("place", "expected"), [(0.4, "undecided"), (0.6, "supported"), (0.9, "contradicted")])
def test_the_crossing_is_near_where_the_curves_cross(place, expected):
    """The ViT loses 0.4 up to this frequency and 0.1 above, the ResNet 0.25 everywhere; at 0.9 they never cross."""
    steps = np.where(place > FREQUENCIES - 0.05, 0.4, 0.1)
    found = judged("P-N1-crossing", noisy("vit", steps), noisy("resnet", np.full(9, 0.25)))
    assert found.verdict == expected or (place == 0.4 and found.verdict != "supported")


def test_blocks_of_one_stage_each_say_nothing():
    found = judged("P-L1-msa", lesioned("vit", "attention", 0.3, stages=(1, 1, 1)))
    assert "has no stage with lesions of kind 'attention' at two places" in found.note
    assert "no stage with lesions of kind 'mlp'" in judged("P-L1-mlp", lesioned("vit", "attention", 0.3)).note


def test_levels_of_stages_are_no_slope():
    """Later stages cost more here, and within a stage nothing changes."""
    flat = lesioned("vit", "attention", 0.0)
    assert abs(value_of("P-L1-msa", flat).value) < 0.02
    cost = flat["lesion_intact_correct"].values.mean() - flat["lesion_correct"].values[:, : sum(STAGES)].mean(0)
    assert cost[-1] - cost[0] > 0.04


# ------------------------------------------------------------------------------------------------ training and accuracy


def predicting(kind: str, share: float, name: str, seed: int = 0, **more: Any) -> Profile:
    """Right on this share of the images; the same images are hard for all."""
    label = np.arange(N) % 10
    hard = np.random.default_rng(0).permutation(N) >= round(share * N)
    top = np.stack([(label + k + hard) % 10 for k in range(5)], axis=1)
    return network(kind, {"top5": (("image", "rank"), top), "label": (("image",), label)}, name=name, **more)


def recorded(first: dict, second: dict, stages: tuple[int, int] = (1, 1), fractions=(1.0, 1.0)) -> tuple[Profile, ...]:
    return tuple(
        network("vit", name=f"vit {place}", config=VIT, stages=of, training=record(fraction, **about))
        for place, (about, of, fraction) in enumerate(zip((first, second), stages, fractions, strict=True))
    )


def patches(first: float, second: float) -> tuple[Profile, ...]:
    return tuple(
        predicting("vit", share, f"patch {size}", config=VIT | {"patch_size": size}, training=record())
        for share, size in ((first, 4), (second, 2))
    )


def built_up(first: float, second: float, blocks: tuple = ([0, 0, 0, 0], [0, 0, 0, 1])) -> tuple[Profile, ...]:
    return tuple(
        predicting("resnet", share, f"alternet {sum(of)}", config={"num_attention_blocks": of}, training=record())
        for share, of in zip((first, second), blocks, strict=True)
    )


def crossing_data(first: float, second: float, fraction: float) -> tuple[Profile, ...]:
    return (
        predicting("vit", first, "vit", config=VIT, training=record(fraction, seed=1)),
        predicting("resnet", second, "resnet", training=record(fraction)),
    )


GOOD, BAD = {"accuracy": 0.8, "nll": 0.5}, {"accuracy": 0.7, "nll": 0.9}
LESS_DATA = {"fractions": (0.1, 1.0)}
for prefix, more in (("P-G1", {"stages": (1, 3)}), ("P-G2", LESS_DATA)):
    for ending in ("error", "nll"):
        CASES |= {
            (f"{prefix}-{ending}", Verdict.SUPPORTED): lambda more=more: recorded(BAD, GOOD, **more),
            (f"{prefix}-{ending}", Verdict.CONTRADICTED): lambda more=more: recorded(GOOD, BAD, **more),
        }
for name, make, sign in (
    ("P-H5-patch-error", patches, 1),
    ("P-A1", built_up, -1),
    ("V-5-few", lambda a, b: crossing_data(a, b, 0.1), -1),
    ("V-5-all", lambda a, b: crossing_data(a, b, 1.0), 1),
):
    CASES |= {
        (name, verdict): lambda make=make, shares=shares: make(*shares)
        for verdict, shares in ((Verdict.SUPPORTED, (0.9, 0.5)[::sign]), (Verdict.CONTRADICTED, (0.5, 0.9)[::sign]))
    }


def metric(profile: Profile, part: str, name: str) -> float:
    return profile.provenance["checkpoint"]["training"]["metrics"][part][name]


def accuracy(profile: Profile) -> float:
    return sum(a == b for a, b in zip(profile["top5"].values[:, 0], profile["label"].values, strict=True)) / N


ORACLES |= {
    "P-G1-error": lambda a, b: metric(b, "test", "accuracy") - metric(a, "test", "accuracy"),
    "P-G1-nll": lambda a, b: metric(a, "train", "nll") - metric(b, "train", "nll"),
    "P-G2-error": lambda a, b: metric(b, "test", "accuracy") - metric(a, "test", "accuracy"),
    "P-G2-nll": lambda a, b: metric(a, "train", "nll") - metric(b, "train", "nll"),
    "P-H5-patch-error": lambda four, two: accuracy(four) - accuracy(two),
    "P-A1": lambda fewer, more: accuracy(more) - accuracy(fewer),
    "V-5-few": lambda vit, resnet: accuracy(resnet) - accuracy(vit),
    "V-5-all": lambda vit, resnet: accuracy(vit) - accuracy(resnet),
}


def without_metric(profile: Profile, part: str, name: str) -> Profile:
    training = profile.provenance["checkpoint"]["training"]
    fewer = {key: value for key, value in training["metrics"][part].items() if key != name}
    about = profile.provenance["checkpoint"] | {
        "training": training | {"metrics": training["metrics"] | {part: fewer}}
    }
    return Profile(profile.data, profile.provenance | {"checkpoint": about})


def test_a_record_without_a_metric_is_a_reason():
    first, second = recorded(BAD, GOOD, **LESS_DATA)
    for part, name, claim in (("test", "accuracy", "error"), ("test", "n", "error"), ("train", "nll", "nll")):
        found = judged(f"P-G2-{claim}", first, without_metric(second, part, name))
        assert found.verdict == Verdict.NOT_APPLICABLE
        assert f"vit 1's record has no metrics.{part}.{name}, only test." in found.note
    with pytest.raises(StudyError, match="has no record of its training; train it with"):
        stored_metric(network("vit"), "test", "accuracy")
    with pytest.raises(StudyError, match=r"no metrics\.test\.accuracy, only nothing"):
        stored_metric(network("vit", training={"steps": 1}), "test", "accuracy")


def test_a_loss_without_an_error_has_no_interval_and_decides_nothing():
    first, second = (
        recorded(BAD, GOOD, **LESS_DATA)[0],
        without_metric(recorded(BAD, GOOD, **LESS_DATA)[1], "train", "nll_error"),
    )
    found = judged("P-G2-nll", first, second)
    assert found.verdict == Verdict.UNDECIDED
    assert found.estimate.value == pytest.approx(0.4)
    assert np.isnan([found.estimate.low, found.estimate.high]).all()


def test_accuracy_on_training_images_is_refused():
    pair = crossing_data(0.5, 0.9, 0.1)
    seen = [
        Profile(p.data, p.provenance | {"images": p.provenance["images"] | {"split": "train[:500]"}}) for p in pair
    ]
    assert "measured on the split 'train[:500]', which says nothing of new images" in judged("V-5-few", *seen).note


def test_accuracy_is_paired_by_image_and_leaves_out_unknown_labels():
    pair = crossing_data(0.5, 0.9, 0.1)
    found = value_of("V-5-few", *pair)
    gaps = right(pair[1]) - right(pair[0])
    resampling = Resampling(N, 50)
    assert found == resampling.estimate(resampling.mean(gaps))
    assert set(gaps) == {0.0, 1.0}
    label = pair[0]["label"].values.copy()
    label[:10] = -1
    assert np.isnan(right(Profile(pair[0].data.assign(label=("image", label)), pair[0].provenance))[:10]).all()


def test_the_build_up_ends_with_the_fourth_block():
    pair = built_up(0.5, 0.9, blocks=([0, 1, 1, 2], [1, 1, 1, 2]))
    found = judged("P-A1", *(Profile(p.data, p.provenance) for p in pair))
    assert "the published build-up gains up to 4 attention blocks, alternet 5 has 5" in found.note


@pytest.mark.parametrize(
    ("fractions", "few", "whole"),
    [
        ((0.1, 0.1), True, False),
        ((0.02, 0.02), True, False),
        ((1.0, 1.0), False, True),
        ((0.5, 0.5), False, False),
        ((0.1, 0.05), False, False),
    ],
)
def test_both_learn_from_the_same_images(fractions, few, whole):
    pair = [facts(network(kind, training=record(f))) for kind, f in zip(("vit", "resnet"), fractions, strict=True)]
    assert (FEW.holds(*pair), ALL.holds(*pair)) == (few, whole)
    assert not FEW.holds(pair[0], replace(pair[1], parent="another"))
    assert not ALL.holds(pair[0], facts(network("resnet")))


# ------------------------------------------------------------------------------------------- the numbers and intervals


def test_every_claim_here_has_its_cases_and_its_number():
    assert {name for name, _ in CASES} == set(ORACLES)
    assert len(CASES) == 2 * len(ORACLES)


@pytest.mark.parametrize(("name", "expected"), CASES)
def test_the_contrast_is_what_the_sentence_says(name, expected):
    profiles = CASES[name, expected]()
    found = judged(name, *profiles)
    assert found.verdict == expected, found.estimate or found.note
    assert found.estimate.value == pytest.approx(ORACLES[name](*profiles), abs=2e-4 if "crossing" in name else 1e-6)


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ((-0.02, 0.04), (0.06, 0.1)),
        ((0.02, 0.04), (0.06, 0.08)),
        ((-0.3, -0.2), (-0.2, -0.1)),
        ((-0.3, 0.2), (-0.2, 0.1)),
    ],
)
def test_a_steady_effect_is_one_within_bounds(ends, expected):
    effect = Estimate(sum(ends) / 2, *ends, n=9, unit_resampled="mini-batch", error=0.01, freedom=8)
    found = steady(effect, 0.1)
    assert (found.low, found.high) == pytest.approx(expected)
    assert found.value == pytest.approx(0.1 - abs(sum(ends) / 2))
    assert (found.n, found.unit_resampled, found.error, found.freedom) == (9, "mini-batch", 0.01, 8)
    assert negated(negated(effect)) == effect
    assert (negated(effect).low, negated(effect).high) == (-ends[1], -ends[0])


def test_a_difference_of_shares_covers_the_true_one():
    def sample(rng: np.random.Generator) -> tuple[float, float]:
        found = difference_of_shares((rng.binomial(60, 0.95), rng.binomial(80, 0.9)), (60, 80))
        return found.low, found.high

    assert 0.93 <= coverage(sample, 0.05, 2000) <= 0.98
    found = difference_of_shares((60, 70), (60, 80))
    shares = [61 / 62, 71 / 82]
    error = np.sqrt(shares[0] * (1 - shares[0]) / 62 + shares[1] * (1 - shares[1]) / 82)
    assert found.value == pytest.approx(1 - 70 / 80)
    assert found.error == pytest.approx(error)
    assert found.low == pytest.approx(shares[0] - shares[1] - norm.ppf(0.975) * error)
    assert difference_of_shares((5, 0), (5, 5)).high == 1
    with pytest.raises(StudyError, match="0 to n right of at least one image, got 6 of 5"):
        difference_of_shares((6, 1), (5, 5))


def test_a_difference_of_means_adds_variances():
    found = difference_of_means((1.0, 0.4), (0.03, 0.04), (100, 200))
    assert found.value == pytest.approx(0.6)
    assert (found.low, found.high) == pytest.approx((0.6 - 1.959964 * 0.05, 0.6 + 1.959964 * 0.05))
    assert found.n == 100

"""Profiles in which what the claims speak about was put in: blocks that turn away, steps across sublayers, heads."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from synthetic import gram_variables, places, synthetic_profile

from hf_vitstudy.profile import Profile


N, BATCH, DRAWS = 96, 16, 120


class Made(NamedTuple):
    """A profile and the features behind its Gram blocks."""

    profile: Profile
    features: tuple[np.ndarray, ...]


def turned(angles: tuple[float, ...], seed: int, noise: float = 0.1) -> tuple[np.ndarray, ...]:
    """Features whose similarity falls with the difference of their angles (in quarter turns)."""
    rng = np.random.default_rng(0)
    U, V = rng.normal(size=(2, N, 12))
    own = np.random.default_rng(seed + 1)
    radians = np.pi / 2 * np.array(angles)
    return tuple(np.cos(t) * U + np.sin(t) * V + noise * own.normal(size=(N, 12)) for t in radians)


def curve_of_steps(kind: str, step: dict[str, float], jump: float) -> np.ndarray:
    """A curve along depth that changes by `step` at each kind of sublayer, and by `jump` where a stage begins."""
    where = places(kind)
    stage = np.array(where["stage"])
    begins = np.append(False, np.diff(stage) > 0)
    each = np.array([step.get(name, 0.0) for name in where["kind"]])
    return np.where(begins, jump, each).cumsum()


@lru_cache
def made(
    kind: str,
    angles: tuple[float, ...] = (0.0, 1.0),
    curve: float = 1.0,
    step: tuple[tuple[str, float], ...] = (),
    heads: tuple[str, str] | None = None,
    seed: int = 0,
) -> Made:
    """A ViT (17 places) or ResNet (9) whose blocks turn from the first to the last angle along depth ** `curve`.

    More than two angles lie equally far apart and are joined by lines. Its highest band and its log variance change by
    `step` at the sublayers of a kind; across stages, where nothing is to be compared, and in the lower bands they do the
    opposite, tenfold. `heads` are the heads of the first and last layers.
    """
    rng = np.random.default_rng(seed)
    where, changes = places(kind), dict(step)
    count = len(where["block"])
    turn = np.interp(np.array(where["depth"]) ** curve, np.linspace(0, 1, len(angles)), angles)
    features = turned(tuple(turn), seed + count)
    against = -10 * sum(changes.values())
    level = curve_of_steps(kind, changes, against)
    fourier = rng.normal(0, 0.05, (N, count, 5)) + level[:, None] * np.array([-10, -10, -10, -10, 1])
    variance = np.exp(rng.normal(0, 0.05, (N, count)) + level)
    base = synthetic_profile(kind, n=N, block=BATCH, name=f"{kind}-{seed}")
    base.provenance["checkpoint"]["weights_sha256"] = f"{kind}-{seed}"
    data = base.data.assign(gram_variables(list(features), BATCH, dtype=np.float32))
    data["fourier"] = base.data["fourier"].copy(data=fourier)
    data["variance"] = base.data["variance"].copy(data=variance)
    if kind == "vit":
        first, last = (HEADS[name] for name in heads or ("mixed", "global"))
        share = np.repeat([0.0, 0.5, 1.0], [2, 4, 2])[:, None]
        distance = first * (1 - share) + last * share + rng.normal(0, 0.1, (N, 8, 4))
        data["attention_distance"] = base.data["attention_distance"].copy(data=distance)
    return Made(Profile(data, base.provenance), features)


HEADS = {"mixed": np.array([4.0, 9.0, 14.0, 17.0]), "global": np.array([15.0, 16.0, 16.5, 17.0])}
LOWERS, RAISES = -0.1, 0.1


def vit(**options) -> Made:
    return made("vit", **options)


def resnet(**options) -> Made:
    return made("resnet", **options)


def profiles(*cases: Made) -> tuple[Profile, ...]:
    return tuple(case.profile for case in cases)


def told(case: Made, name: str, weights: str | None = None, **facts) -> Made:
    """The same under another name, of other weights, and with facts that the checkpoint does not say itself."""
    about = case.profile.provenance["checkpoint"] | {"name": name, "weights_sha256": weights or name}
    return Made(
        Profile(case.profile.data, case.profile.provenance | {"checkpoint": about, "facts": facts}), case.features
    )


def renamed_kinds(case: Made, rename: Callable[[str], str]) -> Made:
    """The same with other kinds of blocks."""
    kinds = [rename(str(kind)) for kind in case.profile.data["kind"].values]
    data = case.profile.data.assign_coords(kind=("block", kinds))
    return Made(Profile(data, case.profile.provenance), case.features)


def in_stages(case: Made, stages: list[int]) -> Made:
    """The same with the blocks in other stages."""
    data = case.profile.data.assign_coords(stage=("block", np.array(stages, np.int32)))
    return Made(Profile(data, case.profile.provenance), case.features)

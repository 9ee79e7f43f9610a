"""How far heads look: local and global ones, and where."""

from __future__ import annotations

import numpy as np

from ..comparison import Comparison
from ..profile import Profile
from .contract import Claim
from .facts import less
from .sources import DOSOVITSKIY, RAGHU
from .steps import mean_of_known, slope


def _distances(comparison: Comparison, profile: Profile) -> np.ndarray:
    """Mean distance of every head, (1 + draws, layer, head), in units of uniform attention's: 1 "looks everywhere alike"."""
    array = profile["attention_distance"].transpose("image", "layer", "head")
    return comparison.resampling.mean(array.values) / float(array.attrs["uniform"])


def _head_distances(comparison: Comparison) -> tuple[np.ndarray, np.ndarray]:
    """`_distances` of the heads of the two lowest and the two highest layers, (1 + draws, heads) each."""
    rows = _distances(comparison, comparison.a)
    return rows[:, :2].reshape(len(rows), -1), rows[:, -2:].reshape(len(rows), -1)


def local_heads_low(comparison: Comparison) -> np.ndarray:
    """Distance of the most local head of the two highest layers minus that of the two lowest."""
    low, high = _head_distances(comparison)
    return np.fmin.reduce(high, axis=1) - np.fmin.reduce(low, axis=1)


def mixed_heads_low(comparison: Comparison) -> np.ndarray:
    """Spread (largest minus smallest) of head distances in the two lowest layers minus that in the two highest."""
    low, high = _head_distances(comparison)
    spread = [np.fmax.reduce(heads, axis=1) - np.fmin.reduce(heads, axis=1) for heads in (low, high)]
    return spread[0] - spread[1]


def distance_grows(comparison: Comparison) -> np.ndarray:
    """Slope of the mean distance of a layer's heads with the layer's relative depth."""
    layers = mean_of_known(_distances(comparison, comparison.a))
    return slope(layers, np.arange(1, layers.shape[1] + 1) / layers.shape[1])


def first_looks_farther(comparison: Comparison) -> np.ndarray:
    """Distance of the most local head of the two lowest layers, first network minus second."""
    nearest = [
        np.fmin.reduce(_distances(comparison, profile)[:, :2].reshape(1 + comparison.resampling.draws, -1), axis=1)
        for profile in (comparison.a, comparison.b)
    ]
    return nearest[0] - nearest[1]


_HEAD_CONDITIONS = (
    "Distances renormalised without the class token. Local heads in low layers need much pre-training data in large "
    "models (Raghu Fig 4); small ViTs have few heads, so a narrow spread is no surprise."
)

_MOST_LOCAL = "smallest head distance in the two lowest layers, in units of uniform attention's"
_MORE_DATA = (
    "Said of L/16 and H/14, which lose their local heads when trained on ImageNet alone; of B/32 the paper says there is no "
    "such effect."
)
_NO_EFFECT_AT_B = f"ViT-B/32 learns local heads from ImageNet alone as well ({RAGHU}, Fig 4 and App. C.5)."
LOCAL_MARGIN = 0.05  # of uniform attention's distance, about half a patch of 16 pixels in an image of 224

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="R-4-local",
        text="The most local heads are in the low layers; high layers have none as local",
        source=f"{RAGHU}, Fig 3",
        statistic="smallest head distance in the two highest layers minus that in the two lowest, over uniform attention's",
        formula="min over heads of d(top two layers) - min over heads of d(bottom two), d in units of uniform attention's",
        falsified_by="a head of the highest layers is as local as the most local of the lowest",
        contrast=local_heads_low,
        margin=0.05,
        unit="of uniform attention's distance",
        roles=("vit",),
        conditions=_HEAD_CONDITIONS,
        needs=("attention_distance",),
    ),
    Claim(
        id="R-4-mixed",
        text="Low layers mix local and global heads; in high layers all heads are alike",
        source=f"{RAGHU}, Fig 3",
        statistic="spread of head distances in the two lowest layers minus that in the two highest, over uniform attention's",
        formula="(max - min) over heads of d(bottom two layers) - the same of the top two",
        falsified_by="heads spread as widely in the highest layers as in the lowest",
        contrast=mixed_heads_low,
        margin=0.05,
        unit="of uniform attention's distance",
        roles=("vit",),
        conditions=_HEAD_CONDITIONS,
        needs=("attention_distance",),
    ),
    Claim(
        id="R-5-pretraining",
        text="With less pre-training data the low layers have no local heads",
        source=f"{RAGHU}, Fig 4",
        statistic=f"{_MOST_LOCAL}: less pre-training data minus more",
        formula="min over heads of d(bottom two layers), fewer pre-training images - more",
        falsified_by="the most local heads of the two lowest layers lie at the same distance in both networks",
        contrast=first_looks_farther,
        margin=LOCAL_MARGIN,
        unit="of uniform attention's distance",
        roles=("vit", "vit"),
        relation=less("pretraining_images"),
        conditions="The paper compares ImageNet with JFT-300M, whose weights were never released; public checkpoints of one "
        f"recipe on fewer and on more images stand in. {_MORE_DATA} Those on more images are often fine-tuned on the fewer.",
        needs=("attention_distance",),
        against=_NO_EFFECT_AT_B,
        test="proxy",
    ),
    Claim(
        id="R-5-fraction",
        text="Trained on a part of the data, a ViT's low layers have no local heads",
        source=f"{RAGHU}, Fig 4",
        statistic=f"{_MOST_LOCAL}: trained on less data minus on more",
        formula="min over heads of d(bottom two layers), smaller share of the training images - larger",
        falsified_by="the most local heads of the two lowest layers lie at the same distance in both networks",
        contrast=first_looks_farther,
        margin=LOCAL_MARGIN,
        unit="of uniform attention's distance",
        roles=("vit", "vit"),
        relation=less("data_fraction"),
        conditions="Shares of one training set stand in for ImageNet and JFT-300M, orders of magnitude smaller than both. "
        + _MORE_DATA,
        needs=("attention_distance",),
        against=_NO_EFFECT_AT_B,
        test="trained",
    ),
    Claim(
        id="V-1-depth",
        text="Heads look farther the deeper their layer",
        source=f"{DOSOVITSKIY}, Fig 7",
        statistic="least-squares slope of a layer's mean head distance, over uniform attention's, with relative depth",
        formula="slope of mean over heads of d(l) on l/L, d in units of uniform attention's",
        falsified_by="the mean of a layer's heads is as far in low layers as in high ones",
        contrast=distance_grows,
        margin=0.1,  # a tenth of what uniform attention has, from input to output; twice that of two layers above
        unit="of uniform attention's distance per depth",
        roles=("vit",),
        conditions="Distances renormalised without the class token, which the published snippets do not do: theirs shrink "
        "where a head attends to the class token. The paper had ViT-L/16 and 128 images.",
        needs=("attention_distance",),
    ),
    Claim(
        id="V-1-hybrid",
        text="Early attention is less local in ViTs that read a convolutional network's maps",
        source=f"{DOSOVITSKIY}, Fig 11",
        statistic=f"{_MOST_LOCAL}: hybrid minus plain ViT",
        formula="min over heads of d(bottom two layers), hybrid - plain",
        falsified_by="the most local heads of the two lowest layers are as local in the hybrid as in the plain ViT",
        contrast=first_looks_farther,
        margin=LOCAL_MARGIN,
        unit="of uniform attention's distance",
        roles=("hybrid-stem vit", "plain vit"),
        conditions="The two should have the same size and training; a network with more heads has a more local one by chance. "
        "Layers of the convolutional stem are not counted: they have no attention.",
        needs=("attention_distance",),
    ),
)

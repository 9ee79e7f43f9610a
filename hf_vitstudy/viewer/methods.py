"""Which views the page has, which stored measurements they show, and in words how each was made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..profile import Profile


@dataclass(frozen=True)
class Curve:
    """A measurement along depth.

    Attributes:
        key: name of the view.
        variable: in the profile.
        title, unit: of the panel.
        axis: the profile's axis of places.
        select: position along a further axis.
        factor: numbers are shown times this.
        log: logarithmic scale.
        line: drawn across, such as a ratio of one; None for none.
        feature: of the probes.
    """

    key: str
    variable: str
    title: str
    unit: str
    axis: str = "block"
    select: tuple[str, int] | None = None
    factor: float = 1.0
    log: bool = False
    line: float | None = None
    feature: str | None = None

    def measured(self, profile: Profile) -> bool:
        """Whether the profile has it."""
        if self.variable not in profile.data:
            return False
        return self.feature is None or self.feature in profile.data["probe_feature"].values

    def values(self, profile: Profile) -> np.ndarray:
        """(image, place) in the unit shown."""
        array = profile[self.variable]
        if self.select:
            array = array.isel(dict([self.select]))
        if self.feature is not None:
            array = array.isel(probe_feature=profile.data["probe_feature"].values.tolist().index(self.feature))
        images = next(str(name) for name in array.dims if name != self.axis)
        return self.factor * array.transpose(images, self.axis).values.astype(float)

    def about(self) -> dict[str, Any]:
        """What the page needs to draw it."""
        return {"key": self.key, "title": self.title, "unit": self.unit, "log": self.log, "line": self.line}


CURVES = (
    Curve("fourier", "fourier", "High frequencies", "Δ log amplitude", select=("frequency", -1)),
    Curve("variance", "variance", "Variance", "activation², over the image", log=True),
    Curve("skip", "skip_ratio", "Skip over branch", "ratio of norms", axis="branch", log=True, line=1.0),
    Curve("probes", "probe_correct", "Linear probes", "accuracy, %", axis="probe_block", factor=100, feature="mean"),
)
HEADS = ("attention_distance", "window_attention_distance")
VIEWS = ("cka", *(curve.key for curve in CURVES), "heads")

EVIDENCE = {  # view -> measurements that it shows
    "cka": ("gram_flatten",),
    "fourier": ("fourier",),
    "variance": ("variance",),
    "skip": ("skip_ratio",),
    "probes": ("probe_correct",),
    "heads": HEADS,
}
WHERE = {  # claim -> map, relative depth of the row and of the column; elsewhere the middle of A with the middle of B
    "R-1": ("aa", 0.17, 0.83),
    "R-2": ("ab", 0.25, 0.5),
    "R-3": ("ab", 0.9, 0.5),
    "P-S1-resnet": ("aa", 0.35, 0.55),
    "P-S1-swin": ("aa", 0.35, 0.55),
    "P-S1-vit": ("aa", 0.35, 0.55),
    "R-6": ("ab", 0.1, 0.2),
    "R-13": ("ab", 0.2, 0.2),
    "R-13-proxy": ("ab", 0.2, 0.2),
    "R-14": ("ab", 0.9, 0.9),
    "R-14-early": ("ab", 0.2, 0.2),
    "R-4-local": ("ab", 0.1, 0.1),
    "R-4-mixed": ("ab", 0.1, 0.1),
    "P-F3-resnet": ("ab", 1.0, 1.0),
    "P-F3-resnet-across": ("ab", 1.0, 1.0),
    "P-F3-vit": ("ab", 1.0, 1.0),
}

METHODS = (
    {
        "view": "cka",
        "title": "Similarity of places: CKA",
        "text": "Centred kernel alignment of the activations after every block of one network with those after every block of "
        "the other. 1 is the same representation up to rotation and scale, 0 none in common. The estimator is unbiased, so a "
        "value may be below zero. Intervals are closed-form jackknifes over images. The path joins every place of B to "
        "the place of A most like it.",
        "formula": "CKA(A, B) = H(A, B) / √(H(A, A) · H(B, B)),  H(A, B) = Σ over batches Σ i≠j Ãij · B̃ij,  "
        "Ã and B̃ U-centred Gram matrices",
        "source": "Kornblith et al. 2019; Song et al. 2012; Nguyen, Raghu & Kornblith 2021, eq. 3",
        "care": "One number per cell: few directions of high variance, or images that look alike, can make any two blocks "
        "alike (Davari et al. 2022, Cui et al. 2022).",
    },
    {
        "view": "fourier",
        "title": "High frequencies",
        "text": "How much weaker the highest spatial frequencies (0.8π to π) of a feature map are than its mean, as a "
        "difference of log amplitudes. What smooths a map lowers it.",
        "formula": "Δ log amplitude = mean log |F(f)| for f in [0.8π, π]  −  log |F(0)|",
        "source": "Park & Kim 2022, Fig 2a and 8",
        "care": "Compare within a stage: across stages the change of the grid dominates.",
    },
    {
        "view": "variance",
        "title": "Variance over the image",
        "text": "How much an activation varies over the places of a feature map, averaged over channels.",
        "formula": "mean over channels of Var over places of the activation",
        "source": "Park & Kim 2022, Fig 9",
        "care": "It grows with the scale of the weights, so levels of two networks do not compare; steps along depth do.",
    },
    {
        "view": "skip",
        "title": "Skip connections",
        "text": "The norm of what the skip connection carries over the norm of what the branch adds, for spatial tokens. Above "
        "1 a token is mostly carried on, below it is mostly replaced.",
        "formula": "‖x‖ / ‖f(x)‖ in x + f(x)",
        "source": "Raghu et al. 2021, Fig 7 and App. E",
        "care": "A skip with a projection carries nothing on unchanged.",
    },
    {
        "view": "probes",
        "title": "Linear probes",
        "text": "Accuracy of a linear classifier that saw a few images of every class, on the mean of all patches after each "
        "block.",
        "formula": "ridge regression to the classes, accuracy on the other images",
        "source": "Raghu et al. 2021, Fig 11–13; Dosovitskiy et al. 2020, section 4.1",
        "care": "It says what can be read out, not what the network uses.",
    },
    {
        "view": "heads",
        "title": "Attention heads",
        "text": "Distance in pixels from query to key, weighted by attention, for every head. Weights are renormalised without "
        "the class token; within windows distances end at the window. Dotted is uniform attention.",
        "formula": "mean over queries of Σ over keys attention(query, key) · distance(query, key)",
        "source": "Dosovitskiy et al. 2020, Fig 7; Raghu et al. 2021, Fig 3",
        "care": "Dots of one layer may change order from one seed to the next: heads have no names.",
    },
)

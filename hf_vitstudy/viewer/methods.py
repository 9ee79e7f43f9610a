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
        uniform: variable with what would be measured were all places alike; drawn dotted.
        below: drawn below the map, not beside it.
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
    uniform: str = ""
    below: bool = False

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

    def even(self, profile: Profile) -> np.ndarray:
        """(place,) of `uniform`."""
        array = profile[self.uniform]
        return self.factor * (array.isel(dict([self.select])) if self.select else array).values.astype(float)

    def about(self) -> dict[str, Any]:
        """What the page needs to draw it."""
        names = ("key", "title", "unit", "log", "line", "below")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Measure:
    """A similarity of two places.

    Attributes:
        key: in files and addresses.
        title: in the list over the map.
        unit: of the map, with what it counts.
        kind: ``view`` and ``pixels``: CKA; ``gram``: of `similarities.GRAM_MEASURES`; ``projection``.
        name: which view, or which measure.
        source: of the definition.
    """

    key: str
    title: str
    unit: str
    kind: str
    name: str
    source: str

    def stored(self, profile: Profile) -> bool:
        """Whether the profile has what it needs."""
        if self.kind == "projection":
            return "projection" in profile.data
        if self.kind == "pixels":
            return {"gram_flatten", "gram_input"} <= set(profile.data)
        if self.kind == "gram" and "square_flatten" not in profile.data:
            return False  # measured before diagonals were stored
        return (self.name if self.kind == "view" else "flatten") in profile.views

    def about(self) -> dict[str, str]:
        return {"key": self.key, "title": self.title, "unit": self.unit, "source": self.source}


CKA = Measure("cka", "CKA", "linear CKA, unbiased", "view", "flatten", "Kornblith et al. 2019")
MEASURES = (
    Measure("pixels", "CKA without pixels", "CKA of what the pixels do not explain", "pixels", "", "Cui et al. 2022"),
    Measure("mean", "CKA of mean tokens", "linear CKA of means over places", "view", "mean", "Kornblith et al. 2019"),
    Measure("cls", "CKA of class tokens", "linear CKA of class tokens", "view", "cls", "Raghu et al. 2021"),
    Measure("tokens", "CKA of tokens", "linear CKA of single tokens", "view", "tokens", "Nguyen et al. 2021"),
    Measure("rsa", "RSA", "rank correlation of distances", "gram", "rsa", "Kriegeskorte, Mur & Bandettini 2008"),
    Measure("knn", "Shared neighbours", "shared share of the 5 nearest images", "gram", "knn", "Huh et al. 2024"),
    Measure("procrustes", "Procrustes", "after the best rotation", "projection", "", "Williams et al. 2021"),
)

CURVES = (
    Curve("fourier", "fourier", "High frequencies", "Δ log amplitude", select=("frequency", -1)),
    Curve("variance", "variance", "Variance", "activation², over the image", log=True),
    Curve("skip", "skip_ratio", "Skip over branch", "ratio of norms", axis="branch", log=True, line=1.0),
    Curve("probes", "probe_correct", "Linear probes", "accuracy, %", axis="probe_block", factor=100, feature="mean"),
    Curve(
        "receptive",
        "receptive_radius",
        "Receptive radius",
        "px that hold half of the gradient",
        select=("fraction", 0),
        uniform="uniform_radius",
        below=True,
    ),
    Curve(
        "class_skip",
        "class_skip_ratio",
        "Class token's skip",
        "ratio of norms",
        axis="branch",
        log=True,
        line=1.0,
        below=True,
    ),
)
HEADS = ("attention_distance", "window_attention_distance")
FURTHER = (
    *("fields", "localisation", "tokens", "lesions", "skip_removal", "noise", "corruptions", "attacks"),
    *("positions", "filters"),
    *("hessian", "landscape", "slice", "norm"),
)
VIEWS = ("cka", *(curve.key for curve in CURVES), "heads", *FURTHER)
ANALYSES = {  # view -> analysis that measures it, with the options that it takes
    "cka": "cka",
    "fourier": "fourier",
    "variance": "variance",
    "skip": "skip_ratio",
    "class_skip": "skip_ratio",
    "probes": "probes",
    "heads": "attention_distance",
    "receptive": "receptive_field",
    "fields": "receptive_field",
    "localisation": "localisation",
    "lesions": "lesions",
    "skip_removal": "skip_removal",
    "noise": "noise",
    "corruptions": "corruptions",
    "attacks": "attacks",
    "tokens": "probes:tokens=true",
    "positions": "position_embedding",
    "filters": "patch_filters",
    "hessian": "hessian",
    "landscape": "landscape",
    "slice": "landscape",
    "norm": "landscape",
}

EVIDENCE = {  # view -> measurements that it shows
    "cka": ("gram_flatten",),
    "fourier": ("fourier",),
    "variance": ("variance",),
    "skip": ("skip_ratio",),
    "probes": ("probe_correct",),
    "heads": HEADS,
    "receptive": ("receptive_radius",),
    "class_skip": ("class_skip_ratio",),
    "localisation": ("localisation_share",),
    "lesions": ("lesion_correct",),
    "skip_removal": ("skip_removal_correct",),
    "noise": ("noise_correct",),
    "corruptions": ("corruption_correct",),
    "attacks": ("pgd_correct", "fgsm_correct"),
    "tokens": ("token_correct",),
    "positions": ("position_similarity", "position_distance_correlation"),
    "filters": ("filter_component", "filter_variance", "filter_smoothness"),
    "hessian": ("hessian_top",),
    "landscape": ("landscape_nll",),
    "norm": ("landscape_l2",),
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
    "R-7-early": ("ab", 0.1, 0.1),
    "R-7-growth": ("ab", 0.9, 0.9),
    "R-10-vit": ("ab", 1.0, 1.0),
    "R-10-resnet": ("ab", 1.0, 1.0),
    "R-10-pooling": ("ab", 1.0, 1.0),
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
    {
        "view": "receptive",
        "title": "Receptive radius",
        "text": "Radius in pixels around the central place that holds half of the gradient of its activation with "
        "respect to the image, mean over images; channels are weighted at random. Dotted is a gradient that is the "
        "same everywhere.",
        "formula": "smallest r with Σ over pixels within r of |∂(v · z) / ∂x|  ≥  ½ Σ over all pixels,  v ~ N(0, 1)",
        "source": "Raghu et al. 2021, Fig 6; Luo et al. 2016",
        "care": "In networks with skip connections the identity alone keeps half of the gradient at its place.",
    },
    {
        "view": "fields",
        "title": "Receptive fields",
        "text": "How strongly the central place depends on every pixel: the mean over images of the maps whose "
        "radius is beside it, each divided by its own peak, on a logarithmic scale of three decades.",
        "formula": "mean over images of |∂(v · z) / ∂x| / Σ |∂(v · z) / ∂x|, over its largest value",
        "source": "Raghu et al. 2021, Fig 6 and App. C",
        "care": "Peaks differ, so compare shapes and not brightness; what is darker than a thousandth of the peak is "
        "black.",
    },
    {
        "view": "class_skip",
        "title": "Skip connections of the class token",
        "text": "The same ratio of norms as above, for the class token alone. Networks without a class token have "
        "none.",
        "formula": "‖x‖ / ‖f(x)‖ in x + f(x)",
        "source": "Raghu et al. 2021, Fig 7",
        "care": "The first block's class token is the same for every image, so its ratio has no interval worth the "
        "name.",
    },
    {
        "view": "localisation",
        "title": "Localisation",
        "text": "CKA over images of one token of the last blocks with the pixels of every patch; the square marks "
        "the token's own patch. Beside it the share of tokens that are most like their own patch, ± 1.96 standard "
        "errors from random two thirds of the batches.",
        "formula": "share of tokens t with argmax over patches p of CKA(t, p) = t",
        "source": "Raghu et al. 2021, Fig 9",
        "care": "Noise in CKA lowers the share, so it grows with the number of images.",
    },
    {
        "view": "lesions",
        "title": "Lesions",
        "text": "Accuracy that the trained network loses when one branch is left out and the skip carries on alone, "
        "or one convolution is replaced by the identity.",
        "formula": "accuracy(whole) − accuracy(without the part), paired by image",
        "source": "Park & Kim 2022, Fig 10b and App. D.4",
        "care": "What was trained with a part meets states without it that it has never seen; a convolution that "
        "changes the number of channels cannot be left out.",
    },
    {
        "view": "skip_removal",
        "title": "Skip removal",
        "text": "Accuracy that the trained network loses when one skip is cut and the branch carries on alone.",
        "formula": "accuracy(whole) − accuracy(without the skip), paired by image",
        "source": "after Raghu et al. 2021, Fig 8",
        "care": "They retrain without the skip; here nothing is retrained, which is a weaker test.",
    },
    {
        "view": "noise",
        "title": "Noise of one frequency",
        "text": "Accuracy lost to noise of one band of spatial frequencies, of equal energy in every band. Where one "
        "network has attention and the other none, the bar at the top is where their curves cross.",
        "formula": "accuracy(clean) − accuracy(with noise of the band), paired by image",
        "source": "Park & Kim 2022, Fig 2b",
        "care": "The published noise grows in energy with its frequency; this one does not.",
    },
    {
        "view": "corruptions",
        "title": "Common corruptions",
        "text": "Accuracy on images corrupted in many ways, mean over severities. The dotted lines are the "
        "accuracies on the same images as they are.",
        "formula": "mean over severities of accuracy(corrupted)",
        "source": "Hendrycks & Dietterich 2019; Park & Kim 2022, Fig 12",
        "care": "Not divided by another network's errors, so not the published mean corruption error.",
    },
    {
        "view": "attacks",
        "title": "Adversarial attacks",
        "text": "Accuracy left when every pixel may be changed by up to ε so that the loss of this very network rises: in many "
        "steps (PGD, filled) and in one (FGSM, open). What was wrong before stays wrong.",
        "formula": "x ← clip(x + α · sign ∂L/∂x) within ε of the image",
        "source": "Goodfellow et al. 2015; Madry et al. 2018",
        "care": "A stronger attack may lower it further: it bounds the robust accuracy from above.",
    },
    {
        "view": "tokens",
        "title": "Probes of single tokens",
        "text": "Accuracy of a linear classifier that sees one token at the top of the network and saw that token of a few "
        "images of every class. Brightness from chance to the best; beside it the class token and the mean of all places.",
        "formula": "ridge regression from one token to the classes, accuracy on the other images",
        "source": "Raghu et al. 2021, Fig 11 and 12",
        "care": "A token that hears of the whole image by attention can be right though it kept nothing of its place.",
    },
    {
        "view": "positions",
        "title": "Position embeddings",
        "text": "For every place a small map: how alike its learnt position embedding is to those of all places. A spot that "
        "wanders with the place, and stripes, say that the network has learnt the image's plane. Weights alone.",
        "formula": "cosine of e(place) and e(other place), the mean embedding kept",
        "source": "Dosovitskiy et al. 2020, Fig 7 and 10",
        "care": "Networks without learnt absolute positions have none; checkpoints that were fine-tuned on larger images have "
        "interpolated ones.",
    },
    {
        "view": "filters",
        "title": "Filters of the first layer",
        "text": "Principal components of the filters that read the image, strongest first, row by row; grey is zero, every "
        "tile over its own largest value. Smooth ones form a basis for low frequencies. Weights alone.",
        "formula": "principal components of the first convolution's filters, channels by pixels",
        "source": "Dosovitskiy et al. 2020, Fig 7",
        "care": "A component has no sign: a tile and its negative say the same.",
    },
    {
        "view": "hessian",
        "title": "Curvature of the loss",
        "text": "Eigenvalues at both ends of the Hessian's spectrum for every mini-batch, the mean outermost ones "
        "with intervals over mini-batches, and the share of all directions by their curvature. The scale is asinh: "
        "even near zero, logarithmic far from it.",
        "formula": "∂²L / ∂w² v = λ v  by Lanczos with full reorthogonalisation; density by stochastic Lanczos "
        "quadrature",
        "source": "Park & Kim 2022, Fig 1c and 4; Ghorbani et al. 2019",
        "care": "Batch normalisation as in use (eval), no weight decay, no mixing of images; it changes with all of "
        "these.",
    },
    {
        "view": "landscape",
        "title": "The loss around the weights",
        "text": "Mean loss along two random directions, scaled filter by filter, with contours in nat; the cross is "
        "where training ended. One logarithmic scale for both networks.",
        "formula": "L(w + x·d₁ + y·d₂),  ‖d‖ = ‖w‖ filter by filter",
        "source": "Li et al. 2018; Park & Kim 2022, Fig 1a",
        "care": "Other random directions would give other surfaces; 64 images, no weight decay.",
    },
    {
        "view": "slice",
        "title": "Rise along one direction",
        "text": "The middle row of the surface: loss above that of the trained weights, with its interval over "
        "images.",
        "formula": "L(w + x·d₁) − L(w)",
        "source": "Li et al. 2018",
        "care": "The interval is over images; the direction is one and the same random draw.",
    },
    {
        "view": "norm",
        "title": "The weights' norm along it",
        "text": "What weight decay alone would add to the loss along the same direction, up to its factor.",
        "formula": "½ ‖w + x·d₁‖² − ½ ‖w‖²",
        "source": "Park & Kim 2022, Fig 1a, whose surface contains it",
        "care": "It has nothing to do with data, and no interval.",
    },
)

"""What stands beside every view: how its intervals were made, and the line of Python that gives its numbers again.

In a line ``{of}``, ``{row}`` and ``{column}`` stand for the selected map and places, ``{sides}`` for pairs of a profile and its
selected place, ``{profiles}`` for the profiles and ``{heads}`` for the kind of attention that was measured; the page fills them
in with what is selected. A line may begin with the module and the name that it needs.
"""

from __future__ import annotations

from typing import Any

from .methods import ANALYSES, MEASURES, VIEWS


DRAWS = "percentile bootstrap over images"
NO_DATA = "none: it does not depend on data"
INTERVALS = {
    "cka": "closed-form jackknife that leaves one image out",
    "heads": "none here: the mean over images of every head",
    "fields": "none: the mean over images",
    "localisation": "± 1.96 standard errors, from random two thirds of the batches",
    "hessian": "Student's, over mini-batches",
    "landscape": "none: the mean over images",
    "norm": NO_DATA,
    "positions": NO_DATA,
    "filters": NO_DATA,
}


def _along(variable: str, axis: str, rest: str) -> str:
    return f'[profile["{variable}"].sel({axis}=place){rest} for profile, place in {{sides}}]'


def _whole(expression: str) -> str:
    return f"[{expression} for profile in {{profiles}}]"


# view -> (module, name, line); the module is empty where the line needs none
LINES = {
    "cka": ("", "", "compare(a, b).cka({of}).sel(row={row}, column={column})  # cka, low, high"),
    "fourier": ("", "", _along("fourier", "block", '.isel(frequency=-1).mean("image")')),
    "variance": ("", "", _along("variance", "block", '.mean("image")')),
    "skip": ("", "", _along("skip_ratio", "branch", '.mean("image")')),
    "class_skip": ("", "", _along("class_skip_ratio", "branch", '.mean("image")')),
    "probes": ("", "", _along("probe_correct", "probe_block", '.sel(probe_feature="mean").mean("probe_image")')),
    "heads": ("", "", '[profile[{heads}].sel(layer=place).mean("image") for profile, place in {sides}]'),
    "receptive": ("", "", _along("receptive_radius", "block", '.isel(fraction=0).mean("receptive_image")')),
    "fields": ("", "", _along("receptive_map", "block", "")),
    "localisation": ("", "", _whole('profile["localisation_share"]')),
    "lesions": (
        "",
        "",
        _whole('profile["lesion_intact_correct"].mean() - profile["lesion_correct"].mean("lesion_image")'),
    ),
    "skip_removal": (
        "",
        "",
        _whole(
            'profile["skip_removal_intact_correct"].mean() - profile["skip_removal_correct"].mean("skip_removal_image")'
        ),
    ),
    "noise": ("hf_vitstudy.robustness", "accuracy_drop", _whole('accuracy_drop(profile, "noise")')),
    "corruptions": (
        "hf_vitstudy.robustness",
        "mean_corruption_accuracy",
        _whole("mean_corruption_accuracy(profile)"),
    ),
    "attacks": ("", "", _whole('profile["pgd_correct"].mean("attack_image")')),
    "tokens": ("", "", _whole('profile["token_correct"].mean("probe_image")')),
    "positions": ("", "", _whole('profile["position_similarity"]')),
    "filters": ("", "", _whole('profile["filter_variance"]')),
    "hessian": ("hf_vitstudy.loss_geometry", "hessian_statistics", _whole("hessian_statistics(profile)")),
    "landscape": ("", "", _whole('profile["landscape_nll"].mean("landscape_image")')),
    "slice": ("hf_vitstudy.loss_geometry", "rise", _whole("rise(profile)")),
    "norm": ("", "", _whole('profile["landscape_l2"]')),
}


JACKKNIFE = INTERVALS["cka"]
COMPARED = {  # kind of measure -> option of `vitstudy compare`, and how its intervals are made
    "view": ("--view {name}", JACKKNIFE),
    "pixels": ("--deconfounded", JACKKNIFE),
    "gram": ("--measure {name}", "jackknife that leaves one batch of images out"),
    "projection": ("--measure {key}", "infinitesimal jackknife over images"),
}


def beside() -> dict[str, dict[str, Any]]:
    """View -> ``interval``, ``module``, ``name``, ``line`` and the ``analysis`` that measures it."""
    found = {}
    for view in VIEWS:
        module, name, line = LINES[view]
        interval = INTERVALS.get(view, DRAWS)
        found[view] = {"interval": interval, "module": module, "name": name, "line": line, "analysis": ANALYSES[view]}
    return found


def compared() -> dict[str, dict[str, str]]:
    """Measure of similarity -> ``option`` of ``vitstudy compare`` that gives its maps, and ``interval``."""
    found = {"cka": {"option": "", "interval": JACKKNIFE}}
    for each in MEASURES:
        option, interval = COMPARED[each.kind]
        found[each.key] = {"option": option.format(name=each.name, key=each.key), "interval": interval}
    return found

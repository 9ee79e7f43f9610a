"""What the page shows, as compact JSON made from stored results alone.

Kinds of files, each with ``format``:

``study``: the claims and what was judged, who the checkpoints are, and how to read every view.
``checkpoint``: places, curves along depth, attention heads, and CKA of the places with one another.
``pair``: CKA of the places of two checkpoints, the one with the lower number as rows.
``network``, ``fields`` (see `networks`), ``weights`` (see `weights`) and ``measures`` (see `likeness`): fetched when a view
that shows them is looked at.

Numbers are rounded once, to what is shown: three digits, and CKA to thousandths. A map is ``{"n", "cka", "below", "above"}``,
row by row: thousandths as integers, and how far the ends of the interval lie below and above; null where undefined. The 351
maps of 26 checkpoints take less than a megabyte, of which a reader fetches three.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from ..comparison import compare
from ..errors import StudyError
from ..findings import SECTIONS, said
from ..profile import DESCRIPTION, Profile, load_profile, merge
from ..robustness import crossing
from ..similarities import vectors
from ..stats import Resampling, percentile
from ..study import RESULTS, find_profiles, load_study, local_folder
from .citing import papers, result_entry
from .methods import ANALYSES, CKA, CURVES, EVIDENCE, HEADS, MEASURES, METHODS, VIEWS, WHERE, Curve
from .snippets import beside, compared
from .tour import tour


FORMAT = 1
IN_MEMORY = 32  # profiles
MUCH = 3  # judgements fewer than on the pair with most
VERDICTS = {"supported": "s", "contradicted": "c", "negligible": "n", "undecided": "u", "not applicable": "x"}
CLAIM_TEXTS = (
    "id",
    "text",
    "source",
    "statistic",
    "formula",
    "falsified_by",
    "margin",
    "unit",
    "conditions",
    "against",
)
CHECKPOINT_FACTS = (
    "key",
    "name",
    "network",
    "state",
    "parameters",
    "image_size",
    "weights_sha256",
    "revision",
    "places",
)


class Source:
    """A stored study with the profiles that it was made of.

    Attributes:
        result: as `load_study` reads it.
    """

    def __init__(self, study: Path, profiles: str | Path | None = None) -> None:
        """Find the profiles of every checkpoint.

        Args:
            study: ``results.json`` or the folder that it lies in.
            profiles: folder below which the profiles lie, or ``org/name[@revision]`` on the Hub; by default the study's.

        Raises:
            StudyError: no result there, or a checkpoint of it has no profile below the folder.
        """
        self.result = load_study(study)
        folder = local_folder(profiles) if profiles else study if study.is_dir() else study.parent
        found = _by_weights(folder)
        self._folders: list[list[Path]] = []
        for each in self.result["checkpoints"]:
            key = each["weights_sha256"], each["images"]["sha256"]
            if key not in found:
                raise StudyError(
                    f"no profile of {each['name']} below {folder}, with the weights and images of {RESULTS}; "
                    "name the folder that the study was made of with --profiles"
                )
            self._folders.append(found[key])
        self.profile = lru_cache(maxsize=IN_MEMORY)(self._load)
        self.vectors = lru_cache(maxsize=2 * IN_MEMORY)(self._vectors)

    @classmethod
    def in_memory(cls, result: dict[str, Any], profiles: Sequence[Profile]) -> Source:
        """Of profiles that need not be on a disk, and their result as `study.study_of` returns it."""
        source = cls.__new__(cls)
        source.result = result
        source.profile = list(profiles).__getitem__  # type: ignore[assignment]
        source.vectors = lru_cache(maxsize=2 * IN_MEMORY)(source._vectors)
        return source

    def _load(self, number: int) -> Profile:
        """The profile of the checkpoint with this number."""
        return merge([load_profile(folder) for folder in self._folders[number]])

    def _vectors(self, number: int, measure: str, k: int) -> np.ndarray:
        """What a measure of similarity compares of a checkpoint, see `similarities.vectors`."""
        return vectors(self.profile(number), measure, "flatten", k)

    def resampling(self, n: int) -> Resampling:
        """The draws that the study's own intervals rest on."""
        return Resampling(n, self.result["settings"]["draws"], self.result["settings"]["seed"])


def _by_weights(folder: Path) -> dict[tuple[str, str], list[Path]]:
    """(hash of weights, hash of images) -> folders of profiles, without reading their numbers."""
    found: dict[tuple[str, str], list[Path]] = {}
    for place in find_profiles(folder):
        try:
            about = json.loads((place / DESCRIPTION).read_text(encoding="utf-8"))["provenance"]
            key = about["checkpoint"]["weights_sha256"], about["images"]["sha256"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StudyError(f"{place} is not a readable profile ({error}); measure it again") from error
        found.setdefault(key, []).append(place)
    return found


# ------------------------------------------------------------------------------------------------------------- study


def study_data(source: Source) -> dict[str, Any]:
    """The study as the page shows it first: claims, judgements, checkpoints, methods.

    Returns:
        ``claims``: their texts, ``said`` as FINDINGS.md groups them, ``agreement`` or ``reason``, and ``see``: which view is
        evidence, at which relative depths; ``judgements``: claim -> [choice, verdict's first letter, value, low, high, n,
        p (Holm), number of the note]; ``comparable``: numbers of checkpoints that have maps with one another; ``start``: the
        pair on which most was judged.
    """
    result = source.result
    over = result.get("over", "checkpoints")
    notes: dict[str, int] = {}
    groups = _comparable(source)
    made = [source.profile(number).provenance for number in range(len(result["checkpoints"]))]
    study = {
        "format": FORMAT,
        "title": result["title"],
        "version": result["version"],
        "settings": result["settings"],
        "magma": colours("magma"),
        "viridis": colours("viridis"),
        "diverging": colours("RdBu_r"),
        "over": over,
        "sections": [
            [said, heading.removesuffix(" over checkpoints") if over != "checkpoints" else heading]
            for said, heading in SECTIONS
        ],
        "checkpoints": [each | measured(about) for each, about in zip(_checkpoints(result), made, strict=True)],
        "comparable": groups,
        "layouts": layouts(source),
        "measures": measures(source),
        "start": _start(result, groups),
        "claims": [_claim(claim) for claim in result["claims"]],
        "judgements": _judgements(result, notes),
        "notes": list(notes),
        "untested": result["untested"],
        "views": VIEWS,
        "curves": [curve.about() for curve in CURVES],
        "methods": METHODS,
        "analyses": ANALYSES,
        "beside": beside(),
        "compared": compared(),
        "papers": papers(each["source"] for each in (*result["claims"], *METHODS, *(m.about() for m in MEASURES))),
        "cite": result_entry(result, max(filter(None, map(_year, made)), default=None)),
    }
    return study | {"tour": tour(source, study)}


def measured(provenance: dict[str, Any]) -> dict[str, Any]:
    """When, on what and in how many ``seconds`` a checkpoint was measured; null where its profile does not say."""
    about = provenance.get("measurement", {})
    return {"created": provenance.get("created")} | {
        name: about.get(name) for name in ("device", "batch_size", "seconds")
    }


def _year(provenance: dict[str, Any]) -> int | None:
    """In which a profile was measured."""
    found = re.match(r"[12]\d{3}", str(provenance.get("created")))
    return int(found[0]) if found else None


def colours(name: str) -> str:
    """The 256 colours of one of matplotlib's colour maps, six hexadecimal digits each."""
    return bytes(mpl.colormaps[name](np.arange(256), bytes=True)[:, :3]).hex()


def layouts(source: Source) -> list[int]:
    """A number per checkpoint, the same for those whose places are the same: whose maps can be subtracted cell by cell."""
    seen: dict[tuple[Any, ...], int] = {}
    found = []
    for number in range(len(source.result["checkpoints"])):
        data = source.profile(number).data
        places = *data["block"].values.tolist(), *data["kind"].values.tolist()
        found.append(seen.setdefault(places, len(seen)))
    return found


def measures(source: Source) -> list[dict[str, str]]:
    """What stands over the map: CKA, and every further measure that some checkpoint has what it needs for."""
    profiles = [source.profile(number) for number in range(len(source.result["checkpoints"]))]
    return [CKA.about(), *(each.about() for each in MEASURES if any(each.stored(profile) for profile in profiles))]


def _checkpoints(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Facts of each; ``id`` names it in links: its name, or its path where several have that name."""
    count = Counter(each["name"] for each in result["checkpoints"])
    found = []
    for each in result["checkpoints"]:
        accuracy = each["accuracy"]
        about = {name: each[name] for name in CHECKPOINT_FACTS}
        about |= {
            "id": each["name"] if count[each["name"]] == 1 else each["key"],
            "accuracy": [three(accuracy[name]) for name in ("value", "low", "high")] if accuracy else None,
            "images": each["images"],
            "versions": each["versions"],
        }
        found.append(about)
    return found


def _comparable(source: Source) -> list[list[int]]:
    """Checkpoints with Gram blocks of the same images in batches of the same sizes."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number in range(len(source.result["checkpoints"])):
        profile = source.profile(number)
        if "flatten" in profile.views:
            key = profile.images_sha256, *profile.batch_sizes().tolist()
            groups.setdefault(key, []).append(number)
    return list(groups.values())


def _start(result: dict[str, Any], groups: Sequence[Sequence[int]]) -> list[int]:
    """Two checkpoints to begin with: of the pairs of two kinds of networks on which much was judged the most accurate."""
    kinds = [each["network"] for each in result["checkpoints"]]
    choices = [tuple(each["checkpoints"]) for each in result["judgements"] if each["estimate"]]
    pairs = [choice for choice in choices if len(choice) == 2 and any({*choice} <= {*group} for group in groups)]
    counts = Counter([choice for choice in pairs if kinds[choice[0]] != kinds[choice[1]]] or pairs)
    if counts:
        much = [choice for choice in sorted(counts) if counts[choice] >= max(counts.values()) - MUCH]
        right = [(each["accuracy"] or {"value": 0})["value"] for each in result["checkpoints"]]
        return list(max(much, key=lambda choice: min(right[number] for number in choice)))
    first = groups[0] if groups else range(len(kinds))
    return [first[0], first[min(1, len(first) - 1)]]


def _claim(claim: dict[str, Any]) -> dict[str, Any]:
    found = {name: claim[name] for name in CLAIM_TEXTS} | {"see": _evidence(claim)}
    if "agreement" not in claim:
        return found | {"reason": claim["reason"]}
    agreement = claim["agreement"]
    return found | {
        "said": said(agreement),
        "agreement": {
            "over": agreement["over"],
            "verdict": agreement["verdict"],
            "counts": agreement["counts"],
            "estimate": _numbers(agreement["estimate"]),
            "range": [three(agreement["lowest"]), three(agreement["highest"])],
            "n": agreement["estimate"]["n"],
            "unit_resampled": agreement["estimate"]["unit_resampled"],
            "p": shown_p(agreement["p_holm"]),
            "controls": [[control["name"], *_numbers(control), control["text"]] for control in agreement["controls"]],
        },
    }


def _evidence(claim: dict[str, Any]) -> list[Any] | None:
    """[view, map, depth of its row, depth of its column] where the page shows what the claim is about."""
    views = {need: view for view, needs in EVIDENCE.items() for need in needs}
    view = next((views[need] for need in claim["needs"] if need in views), None)
    return None if view is None else [view, *WHERE.get(claim["id"], ("ab", 0.5, 0.5))]


def _judgements(result: dict[str, Any], notes: dict[str, int]) -> dict[str, list[list[Any]]]:
    found: dict[str, list[list[Any]]] = {}
    for each in result["judgements"]:
        estimate = each["estimate"] or {}
        numbers = _numbers(estimate) if estimate else [None] * 3
        note = notes.setdefault(each["note"], len(notes)) if each["note"] and not estimate else None
        row = [
            each["checkpoints"],
            VERDICTS[each["verdict"]],
            *numbers,
            estimate.get("n"),
            shown_p(each["p_holm"]),
            note,
        ]
        found.setdefault(each["claim"], []).append(row)
    return found


def _numbers(estimate: dict[str, Any]) -> list[float | None]:
    return [three(estimate[name]) for name in ("value", "low", "high")]


# ------------------------------------------------------------------------------------------------------- checkpoints


def checkpoint_data(source: Source, number: int) -> dict[str, Any]:
    """One checkpoint: ``places``, ``curves`` (key -> names, depths, value, low, high, n), ``heads``, ``map``.

    ``absent`` says of analyses why they mean nothing for this network; what is neither there nor absent was not measured.
    """
    profile = source.profile(number)
    curves = {curve.key: _curve(source, profile, curve) for curve in CURVES if curve.measured(profile)}
    absent = profile.provenance.get("absent", {})
    return {
        "format": FORMAT,
        "checkpoint": number,
        "absent": {name: absent[name] for name in dict.fromkeys(map(_name, ANALYSES.values())) if name in absent},
        "places": _places(profile),
        "curves": curves,
        "heads": _heads(profile),
        "map": _map(source, profile, profile, "aa") if "flatten" in profile.views else None,
    }


def _name(analysis: str) -> str:
    """Of an analysis, without its options."""
    return analysis.partition(":")[0]


def _places(profile: Profile) -> dict[str, list[Any]]:
    data = profile.data
    return {
        "name": data["block"].values.astype(str).tolist(),
        "kind": data["kind"].values.astype(str).tolist(),
        "depth": np.round(data["depth"].values.astype(float), 4).tolist(),
        "stage": data["stage"].values.tolist(),
    }


def _curve(source: Source, profile: Profile, curve: Curve) -> dict[str, Any]:
    """Means over images with percentile intervals, and which place of the network each number belongs to."""
    values = curve.values(profile)
    rows = source.resampling(len(values)).mean(values)
    low, high = percentile(rows)
    names = profile.data[curve.axis].values.astype(str).tolist()
    return {
        "place": place_numbers(profile, names),
        "name": names,
        "value": threes(rows[0]),
        "low": threes(low),
        "high": threes(high),
        "n": len(values),
    } | ({"uniform": threes(curve.even(profile))} if curve.uniform in profile.data else {})


def place_numbers(profile: Profile, names: Sequence[str]) -> list[int]:
    """Where each stands among the blocks; attention layers are called as their block, without ``.attention``."""
    known = profile.data["block"].values.astype(str).tolist()
    return [next((known.index(word) for word in (name, f"{name}.attention") if word in known), -1) for name in names]


def _heads(profile: Profile) -> dict[str, Any] | None:
    """Mean distance of every head, by layer; the widest of the kinds of attention that were measured."""
    name = next((name for name in HEADS if name in profile.data), None)
    if name is None:
        return None
    array = profile[name]
    means = array.mean("image").transpose("layer", "head").values
    uniform = np.broadcast_to(np.asarray(array.attrs["uniform"], float), len(means))
    layers = profile.data["layer"].values.astype(str).tolist()
    return {
        "variable": name,
        "place": place_numbers(profile, layers),
        "name": layers,
        "px": [threes(row) for row in means],
        "uniform": threes(uniform),
        "n": len(array["image"]),
    }


# ------------------------------------------------------------------------------------------------------------- pairs


def pair_data(source: Source, a: int, b: int) -> dict[str, Any]:
    """CKA of the places of checkpoint `a` (rows) with those of `b`, and where their losses to noise cross."""
    first, second = source.profile(a), source.profile(b)
    cells = _map(source, first, second, "ab")
    return {"format": FORMAT, "a": a, "b": b, "map": cells, "crossing": _crossing(source, first, second)}


def _map(source: Source, a: Profile, b: Profile, of: str) -> dict[str, Any]:
    found = compare(a, b).cka(of)
    return thousandth_map(found["cka"], found["low"], found["high"], n=int(found.attrs["n"]))


def thousandth_map(value: Any, low: Any, high: Any, n: int) -> dict[str, Any]:
    """A map with its interval, (row, column) arrays, as it is stored."""
    middle, bottom, top = (thousandths(np.asarray(cells)) for cells in (value, low, high))
    return {
        "n": n,
        "cka": middle,
        "below": [_less(x, y) for x, y in zip(middle, bottom, strict=True)],
        "above": [_less(y, x) for x, y in zip(middle, top, strict=True)],
    }


def _crossing(source: Source, a: Profile, b: Profile) -> list[float | None] | None:
    """[value, low, high] of the frequency, in π, above which noise costs the network without attention more; else None.

    None for two networks of which both or neither have attention, where either was not measured or both differently, and
    where the curves do not cross.
    """
    attends = [profile.has("attention") for profile in (a, b)]
    if attends[0] == attends[1] or not all("noise_correct" in profile.data for profile in (a, b)):
        return None
    first, second = (a, b) if attends[0] else (b, a)
    settings = source.result["settings"]
    try:
        found = crossing(first, second, draws=settings["draws"], seed=settings["seed"]).frequency
    except StudyError:
        return None  # measured with different settings
    return [three(number) for number in (found.value, found.low, found.high)] if 0.1 < found.value < 0.9 else None


def _less(x: int | None, y: int | None) -> int | None:
    return None if x is None or y is None else x - y


# ----------------------------------------------------------------------------------------------------------- numbers


def three(value: float | None) -> float | None:
    """Three digits; null where undefined."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.3g}")


def threes(values: np.ndarray) -> list[float | None]:
    return [three(float(value)) for value in values]


def packed(numbers: np.ndarray) -> str:
    """Whole numbers from 0 to 255 as bytes in base64."""
    return base64.b64encode(numbers.astype(np.uint8).tobytes()).decode()


def thousandths(values: np.ndarray) -> list[int | None]:
    """Whole thousandths row by row; null where undefined."""
    return [None if not math.isfinite(value) else int(f"{value:.3f}".replace(".", "")) for value in values.ravel()]


def shown_p(value: float | None) -> float | None:
    """Three decimals, 0 for all below 0.001."""
    return None if value is None else 0 if value < 0.001 else round(value, 3)

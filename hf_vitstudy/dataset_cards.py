"""Dataset cards: what a reader on the Hub must know of a published profile or study, from what is stored of it.

As for model cards (`cards`): numbers as they were stored and no others, every text from strangers escaped, no path, no token.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import __version__
from .agreement import counted, effect_text, verdict_counts
from .cards import LIBRARIES, clean, count_text, images_link, on_the_hub
from .markdown import Markdown, environment, one_line, tidy
from .profile import Profile
from .stats import wilson


Result = Mapping[str, Any]

TABLES = {"measurements": "tables/measurements.parquet", "verdicts": "tables/verdicts.parquet"}  # config -> file
CAPTIONS = {  # file of a figure -> what it shows
    "verdicts": "Verdict of every claim on every choice of checkpoints, and over all of them",
    "effects": "Effects of all claims in units of their margins",
    "cka": "CKA of every block with every block",
    "depth": "High frequencies and variance of the feature maps along depth",
    "likeness": "Average linkage of checkpoints by their CKA",
}
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))  # the Hub's words


@dataclass(frozen=True)
class Contents:
    """What a card has to know of the folder it lies in.

    Attributes:
        rows: of the table of measurements.
        left_out: measurement -> why it is not in that table.
        figures: names of the figures that are there, without ``figures/`` and ``.png``.
    """

    rows: int = 0
    left_out: Mapping[str, str] = field(default_factory=dict)
    figures: Sequence[str] = ()


def study_card(
    results: Result, contents: Contents | None = None, *, name: str | None = None, license: str | None = None
) -> str:
    """The card (README.md) of a study: metadata that the dataset viewer reads, and text.

    Args:
        results: as `study.make_study` returns it and `study.load_study` reads it.
        contents: of the folder.
        name: id on the Hub; by default the study is in the card's own folder.
        license: identifier as the Hub has them, such as ``cc-by-4.0``.
    """
    return _card(results, contents or Contents(), name, license, is_study=True)


def profile_card(
    profile: Profile, contents: Contents | None = None, *, name: str | None = None, license: str | None = None
) -> str:
    """The card (README.md) of one profile; arguments as in `study_card`."""
    return _card(as_result(profile), contents or Contents(), name, license, is_study=False)


def as_result(profile: Profile) -> dict[str, Any]:
    """A profile as a study of one checkpoint on which nothing was judged."""
    provenance = profile.provenance
    about, images = provenance["checkpoint"], provenance["images"]
    checkpoint = {
        "key": ".",
        "name": profile.name,
        "network": about.get("model_type") or about.get("architecture") or "–",
        "state": "untrained" if about.get("untrained_seed") is not None else "trained",
        "weights_sha256": about.get("weights_sha256"),
        "revision": about.get("revision"),
        "parameters": about.get("parameters"),
        "images": {key: images.get(key) for key in ("name", "split", "revision", "n", "seed", "sha256")},
        "accuracy": accuracy(profile),
        "versions": provenance.get("versions", {}),
    }
    return {"title": f"Profile of {profile.name}", "checkpoints": [checkpoint], "claims": [], "judgements": []}


def accuracy(profile: Profile) -> dict[str, Any] | None:
    """Share of the labelled images that the checkpoint gets right, as a study stores it; None where nothing is labelled."""
    if "label" not in profile.data or "top5" not in profile.data:
        return None
    labels = profile.data["label"].values
    right = (profile.data["top5"].values[:, 0] == labels)[labels >= 0]
    if not len(right):
        return None
    share = wilson(int(right.sum()), len(right))
    return {"value": share.value, "low": share.low, "high": share.high, "n": share.n}


def _card(results: Result, contents: Contents, name: str | None, license: str | None, *, is_study: bool) -> str:
    known, name, license = clean(results), clean(name), clean(license)
    context = {
        "study": is_study,
        "title": one_line(known["title"]),
        "version": known.get("version", __version__),
        "figures": [
            (CAPTIONS[each.partition("-")[0]], Markdown(f"(figures/{each}.png)")) for each in contents.figures
        ],
        "images": list(_images(known)),
        "local_data": not all(on_the_hub(each["images"]) for each in known["checkpoints"]),
        "checkpoints": [_checkpoint(each) for each in known["checkpoints"]],
        **(_claims(known) if is_study else {}),
        "load": _loading(name, is_study),
        "shell": _shell(name, known, is_study),
        "contents": list(_contents(contents, is_study)),
        "left_out": sorted(clean(list(contents.left_out.items()))),
        "software": _software(known),
        "limits": list(_limits(known, license, is_study)),
    }
    text = environment().get_template("dataset_card.md").render(context)
    return f"---\n{_metadata(known, contents, license, is_study)}\n---\n\n{tidy(text)}"


def _metadata(results: Result, contents: Contents, license: str | None, is_study: bool) -> str:
    from huggingface_hub import DatasetCardData

    tables = TABLES if is_study else {"measurements": TABLES["measurements"]}
    data = DatasetCardData(
        license=one_line(license) if license else None,
        pretty_name=one_line(results["title"]),
        task_categories=["image-classification"],
        size_categories=[next((words for most, words in SIZES if contents.rows < most), "n>1M")],
        tags=["hf_vitstudy", "interpretability", "cka", "study" if is_study else "profile"],
        configs=[
            {
                "config_name": config,
                "data_files": [{"split": "train", "path": path}],
                **({"default": True} if config == "measurements" else {}),
            }
            for config, path in tables.items()
        ],
    )
    return data.to_yaml()


# ----------------------------------------------------------------------------------------------------------- tables


def _images(results: Result) -> Iterator[dict[str, Any]]:
    """The image sets, and how many checkpoints were measured on each."""
    found: dict[str, list[dict[str, Any]]] = {}
    for each in results["checkpoints"]:
        found.setdefault(each["images"]["sha256"], []).append(each["images"])
    for same in found.values():
        yield same[0] | {"link": images_link(same[0]), "n": count_text(same[0]["n"]), "checkpoints": len(same)}


def _checkpoint(each: Mapping[str, Any]) -> dict[str, Any]:
    share = each["accuracy"]
    return {
        "key": each["key"],
        "name": each["name"],
        "network": each["network"],
        "state": each["state"],
        "parameters": count_text(each["parameters"]) or "–",
        "revision": each["revision"] or "–",
        "accuracy": effect_text(share) if share else "–",
        "n": count_text(share["n"]) if share else "–",
    }


def _claims(results: Result) -> dict[str, Any]:
    judged = [claim for claim in results["claims"] if "agreement" in claim]
    return {
        "claims": [_claim(claim) for claim in judged],
        "units": sorted({f"{claim['agreement']['estimate']['unit_resampled']}s" for claim in judged}) or ["–"],
        "not_judged": [claim["id"] for claim in results["claims"] if "agreement" not in claim],
    }


def _claim(claim: Mapping[str, Any]) -> dict[str, Any]:
    agreement = claim["agreement"]
    estimate = agreement["estimate"]
    return {
        "id": claim["id"],
        "text": claim["text"],
        "verdict": agreement["verdict"] if estimate["low"] is not None else "no interval: too few",
        "effect": effect_text(estimate),
        "unit": claim["unit"],
        "n": count_text(estimate["n"]),
        "margin": f"{claim['margin']:g}",
        "counts": verdict_counts(agreement["counts"]),
    }


def _contents(contents: Contents, is_study: bool) -> Iterator[tuple[str, str]]:
    yield (
        TABLES["measurements"],
        (
            f"{contents.rows:,} rows, one per model, measurement and axis label, with estimate, low, high, n, unit, what was "
            "resampled, the kind of interval and the source of the measurement"
        ),
    )
    if is_study:
        yield TABLES["verdicts"], "one row per claim over checkpoints, and per claim and choice of checkpoints"
        yield "results.json", "the whole result, from which tables, figures and text are made"
        yield "FINDINGS.md", "claim by claim in words"
        yield "profiles/", "one folder of arrays.safetensors, profile.json and manifest.json per profile"
        yield "study.json", "what is known of the checkpoints beside what they say themselves"
    else:
        yield (
            "arrays.safetensors, profile.json, manifest.json",
            "the profile: all numbers, image by image, and their hashes",
        )
    if contents.figures:
        yield "figures/", "the figures above"


def _software(results: Result) -> str:
    """Every version that occurs, by library."""
    found: dict[str, dict[str, None]] = {}
    for each in results["checkpoints"]:
        for library in (library for library in LIBRARIES if library in each.get("versions", {})):
            found.setdefault(library, {})[each["versions"][library]] = None
    return ", ".join(f"{library} {' and '.join(versions)}" for library, versions in found.items())


def _limits(results: Result, license: str | None, is_study: bool) -> Iterator[str]:
    images = {each["images"]["sha256"]: each["images"] for each in results["checkpoints"]}
    sets = ", ".join(f"{each['n']:,} of {one_line(each['name'])}" for each in images.values())
    yield f"The images are {sets}: on others the numbers differ, by more than the intervals say."
    yield "Intervals in the table of measurements are over images, for weights as they are, not over seeds and recipes."
    if is_study:
        yield (
            f"{counted(len(results['checkpoints']), 'checkpoint')} were studied: a verdict speaks of networks like these, and "
            "says nothing of why."
        )
    yield "CKA is one number per pair of blocks; few directions of high variance or similar inputs can make any two alike."
    if not license:
        yield "No licence is given. Those of the networks and of the images hold in any case."


# ------------------------------------------------------------------------------------------------------------ code


def _loading(name: str | None, is_study: bool) -> str:
    lines = ["from datasets import load_dataset", ""]
    for config in TABLES if is_study else ["measurements"]:
        if name:
            where = f'{json.dumps(one_line(name), ensure_ascii=False)}, "{config}"'
        else:  # `datasets` finds no name for the folder "."
            where = f'"parquet", data_files="{TABLES[config]}"'
        lines.append(
            f'{config} = load_dataset({where}, split="train")' + ("" if name else "  # in the folder of this card")
        )
    lines.append('print(measurements.filter(lambda row: row["measurement"] == "accuracy").to_pandas())')
    return "\n".join(lines)


def _shell(name: str | None, results: Result, is_study: bool) -> str:
    """Commands that read the repository, or the folder of the card, as it is."""
    where = one_line(name) if name else "."
    if not is_study:
        return shlex.join(["vitstudy", "report", where])
    pair = [f"{where}/profiles/{one_line(each['key'])}" for each in results["checkpoints"][:2]]
    again = shlex.join(["vitstudy", "study", where, "--out", "again"])
    return f"{shlex.join(['vitstudy', 'report', *pair])}\n{again}  # judges everything again"

"""Model cards: what a reader on the Hub must know of a network, from the record of its training.

A card shows numbers as they were recorded and nothing else. Names of classes, data sets and models come from strangers: every
expression in the template is escaped unless it was made here, metadata is written by a YAML dumper, and what looks like an
absolute path or a token is not repeated.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import hub
from .agreement import digits, effect_text, verdict_counts
from .errors import StudyError
from .markdown import Markdown, environment, escape, one_line, tidy
from .metrics import BINS
from .profile import Profile
from .stats import wilson


LISTED_CLASSES = 20
LIBRARIES = ("python", "hf_vitstudy", "torch", "torchvision", "transformers", "accelerate", "datasets")
FAMILIES = {"vit": "vision-transformer", "deit": "vision-transformer"}  # other tags are the model type itself
OWN = ("alternet", "local_vit")  # of `models.FAMILIES`, which transformers must be told of
IDENTIFYING = ("model_type", "parameters", "config_sha256", "selected_step")  # of a network whose files are not known
METRICS = {  # of the record: (name, a share of images?, metric on the Hub)
    "accuracy": ("accuracy", True, "accuracy"),
    "top5_accuracy": ("top-5 accuracy", True, "top_5_accuracy"),
    "nll": ("negative log likelihood, nat", False, "nll"),
    "loss": ("cross-entropy, nat", False, "loss"),
    "ece": (f"expected calibration error, {BINS} bins", False, "ece"),
}

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
ABSOLUTE_PATH = re.compile(r"\s*(file:|[/~]|[A-Za-z]:[\\/]|\\\\)")
MARK = re.compile(r"\n<!-- vitstudy card sha256:[0-9a-f]{64} -->\n\Z")
TOKEN = re.compile(hub.TOKEN.pattern.decode())


@dataclass(frozen=True)
class Measured:
    """What was measured of a network.

    Attributes:
        profile: of this network.
        study: result of a study in which the profile is, see `study.load_study`; None where nothing was judged.
        figures: caption -> address of a picture, relative to the card.
    """

    profile: Profile
    study: Mapping[str, Any] | None = None
    figures: Mapping[str, str] = field(default_factory=dict)


def model_card(
    record: Mapping[str, Any],
    *,
    name: str | None = None,
    classes: Sequence[str] | None = None,
    license: str | None = None,
    measured: Measured | None = None,
) -> str:
    """The card (README.md) of a trained network: metadata, text and a mark by which `is_generated` knows it.

    Args:
        record: ``training.json`` as ``recipes/finetune.py`` writes it; what it lacks, the card leaves out.
        name: id on the Hub, by which the network is then loaded; by default the network is in the card's own folder.
        classes: names in the order of the logits; by default ``classes`` of the record.
        license: identifier as the Hub has them, such as ``apache-2.0``.
        measured: figures and claims to show; by default none.

    Raises:
        StudyError: a recorded metric is no finite number, or has no number of images beside it; or what was measured is of
            other weights, or not in the study.
    """
    known: dict[str, Any] = clean({**record, "classes": list(classes or record.get("classes") or ())})
    name, license = clean(name), clean(license)
    title = one_line((name or "").split("/")[-1]) or _title(known)
    context = _context(known, name, license) | {"title": title, "measured": _measured(known, measured)}
    text = environment().get_template("model_card.md").render(context)
    return _marked(f"---\n{_metadata(known, title, license)}\n---\n\n{tidy(text)}")


def is_generated(card: str) -> bool:
    """Whether a card is to the letter as `model_card` wrote it, for whatever network and name."""
    return card == _marked(without_mark(card))


def without_mark(card: str) -> str:
    return MARK.sub("", card)


def shows_profile(card: str) -> bool:
    """Whether a generated card has the figures and claims of a profile."""
    return "\n## What is inside it\n" in card


def _marked(text: str) -> str:
    """The text, and at its end a comment with its sha256."""
    return f"{text}\n<!-- vitstudy card sha256:{hashlib.sha256(text.encode()).hexdigest()} -->\n"


# --------------------------------------------------------------------------------------------------------- metadata


def _metadata(record: dict[str, Any], title: str, license: str | None) -> str:
    from huggingface_hub import ModelCardData

    base, results = _base(record), list(_eval_results(record))
    datasets = [part["name"] for part in _parts(record).values() if on_the_hub(part)]
    kind = _model_type(record)
    data = ModelCardData(
        license=one_line(license) if license else None,
        library_name="transformers",
        pipeline_tag="image-classification",
        base_model=base[0] if base else None,
        datasets=sorted({one_line(dataset) for dataset in datasets}) or None,
        tags=["image-classification", "hf_vitstudy", *([FAMILIES.get(kind, one_line(kind))] if kind else [])],
        model_name=title,
        eval_results=results or None,
    )
    if not results:
        data.pop("model_name")  # goes into the results, and is no field of its own
    return data.to_yaml()


def _eval_results(record: dict[str, Any]) -> Iterator[Any]:
    """Results on the test images alone: weights may have been chosen by held out ones, which do not go on a leaderboard."""
    from huggingface_hub import EvalResult

    part = _parts(record).get("test", {})
    for key, value in _metrics(record).get("test", {}).items():
        if key in METRICS:
            yield EvalResult(
                task_type="image-classification",
                dataset_type=one_line(part.get("name") or "unknown"),
                dataset_name=one_line(part.get("name") or "unknown"),
                dataset_split=one_line(part["split"]) if part.get("split") else None,
                dataset_revision=one_line(part["revision"]) if part.get("revision") else None,
                metric_type=METRICS[key][2],
                metric_name=METRICS[key][0],
                metric_value=value,
            )


def evaluate_results(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The results on the test images as arguments of `evaluate.push_to_hub`, which also takes a ``model_id``.

    `evaluate` 0.4.6 fails where the data set has no repository on the Hub; the card of `model_card` holds the same results.
    """
    known = clean({**record, "classes": list(record.get("classes") or ())})
    names = ("task_type", "dataset_type", "dataset_name", "metric_type", "metric_name", "metric_value")
    more = ("dataset_split", "dataset_revision")
    return [
        {key: getattr(result, key) for key in names}
        | {key: getattr(result, key) for key in more if getattr(result, key) is not None}
        for result in _eval_results(known)
    ]


def eval_results_file(record: Mapping[str, Any], *, task: str = "default") -> tuple[str, str] | None:
    """Path and YAML of the file from which the Hub fills the leaderboard of the test images' data set.

    It holds one value, the accuracy. The Hub shows it where that data set is registered as a benchmark and has a task of this
    name; elsewhere it is ignored, and the card shows the metrics.

    Args:
        record: as for `model_card`.
        task: id of the task in the ``eval.yaml`` of the data set.

    Returns:
        None where the accuracy was not measured, or on images that are not on the Hub.
    """
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    known = clean({**record, "classes": list(record.get("classes") or ())})
    part, metrics = _parts(known).get("test", {}), _metrics(known).get("test", {})
    if "accuracy" not in metrics or not on_the_hub(part) or not HUB_ID.fullmatch(part["name"]):
        return None
    share = wilson(round(metrics["accuracy"] * metrics["n"]), int(metrics["n"]))
    notes = (
        f"split {one_line(part.get('split') or 'all')}, n {share.n}, 95 % interval {share.low:.4f} to {share.high:.4f}"
    )
    entry = EvalResultEntry(part["name"], task, metrics["accuracy"], one_line(part["revision"]), notes=notes)
    text = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True)
    return f".eval_results/{part['name'].split('/')[-1]}.yaml", text


# ------------------------------------------------------------------------------------------------------------- text


def _context(record: dict[str, Any], name: str | None, license: str | None) -> dict[str, Any]:
    """What the template shows."""
    config, parts, results, classes = record.get("config"), _parts(record), list(_results(record)), record["classes"]
    train, test = parts.get("train"), parts.get("test") or parts.get("train") or {}
    accuracy = [row for row in results if row["part"] == "test" and row["metric"] == METRICS["accuracy"][0]]
    return {
        "kind": _model_type(record),
        "parameters": count_text(record.get("parameters")),
        "number_of_classes": count_text(len(classes) or None),
        "base": _base_link(record),
        "train": {"name": images_link(train), "n": count_text(train.get("n"))} if train else None,
        "headline": accuracy[0] if accuracy else None,
        "results": results,
        "seed": (config or {}).get("seed"),
        "held_out": _held_out(record),
        "load": _loading(name, _model_type(record)),
        "measure": _measuring(name, test),
        "classes": Markdown(" · ".join(escape(label) for label in classes[:LISTED_CLASSES])),
        "more_classes": count_text(len(classes) - LISTED_CLASSES) if len(classes) > LISTED_CLASSES else None,
        "data": [
            about | {"part": part, "link": images_link(about), "n": count_text(about.get("n"))}
            for part, about in parts.items()
        ],
        "local_data": any(not on_the_hub(about) for about in parts.values()),
        "facts": list(_facts(record)),
        "recipe": _yaml(config) if config else None,
        "command": _command(record),
        "limits": list(_limits(record, license)),
    }


def _results(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for part, values in _metrics(record).items():
        for key in (key for key in METRICS if key in values):
            name, is_share, _ = METRICS[key]
            value, n = values[key], int(values["n"])
            interval = "–"
            if is_share:
                share = wilson(round(value * n), n)
                interval = f"{100 * share.low:.2f} to {100 * share.high:.2f} %"
            shown = f"{100 * value:.2f} %" if is_share else f"{value:.4f}"
            yield {"part": part, "metric": name, "value": shown, "interval": interval, "n": count_text(n)}


def _metrics(record: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Numbers by part, ``test`` first; records of old hold those of the test images only."""
    metrics = record.get("metrics") or {}
    metrics = {"test": metrics} if "n" in metrics else metrics
    parts = sorted(metrics, key=lambda part: part != "test")
    return {part: _numbers(metrics[part], part, len(record["classes"])) for part in parts}


def _numbers(values: dict[str, Any], part: str, classes: int) -> dict[str, float]:
    if not values.get("n"):
        raise StudyError(f"metrics of the {part} images lack n; a number without its n is not published")
    found: dict[str, float] = {"n": int(values["n"])}
    for key in (key for key in METRICS if key in values):
        value = values[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise StudyError(f"metric {key} of the {part} images must be a finite number, got {value!r}")
        if key != "top5_accuracy" or not 0 < classes <= 5:  # where it cannot be less than 100 %
            found[key] = float(value)  # numpy's numbers become Python objects in YAML
    return found


def _held_out(record: dict[str, Any]) -> str | None:
    if "holdout" not in _metrics(record):
        return None
    if (record.get("config") or {}).get("select") == "best":
        return (
            "The holdout images are training images set aside. The weights were chosen by them, so the accuracy there is "
            "too high; the test images had no part in it."
        )
    return "The holdout images are training images set aside; the network was not trained on them."


def _measured(record: dict[str, Any], measured: Measured | None) -> dict[str, Any] | None:
    """What the template shows of a profile and of the claims judged on it."""
    if measured is None:
        return None
    profile = measured.profile
    about, images = clean(profile.provenance["checkpoint"]), clean(profile.provenance["images"])
    _require_same_weights(record, about)
    entry = _in_study(measured.study, profile) if measured.study else None
    share = (entry or {}).get("accuracy")
    shown = {end: f"{100 * share[end]:.2f}" for end in ("value", "low", "high")} if share else {}
    return {
        "n": count_text(profile.n_images),
        "images": images_link(images),
        "split": images.get("split"),
        "revision": images.get("revision"),
        "sha256": images["sha256"],
        "labelled": count_text(share["n"]) if share else None,
        "accuracy": f"{shown['value']} %" if share else None,
        "interval": f"{shown['low']} to {shown['high']} %" if share else None,
        "figures": [(caption, Markdown(f"({address})")) for caption, address in measured.figures.items()],
        "study": (clean(measured.study) or {}).get("title", ""),
        "claims": list(_claims_on(clean(measured.study), entry)) if entry else [],
    }


def _require_same_weights(record: dict[str, Any], about: dict[str, Any]) -> None:
    for what in _differences(record, about):
        raise StudyError(
            f"the profile of {about['name']} is of other weights: {what}; measure the network that is published"
        )


def _differences(record: dict[str, Any], about: dict[str, Any]) -> Iterator[str]:
    """Between the weights of a record and of a profile: by files, else by what a profile without them knows."""
    mine, theirs = record.get("files") or {}, about.get("files") or {}
    if theirs:
        for name in (name for name in sorted(mine) if mine[name] != theirs.get(name)):
            yield f"{name} has another sha256 than in the record of the training, or none"
        return
    if "untrained_seed" in about:
        yield "its weights are initial ones"
    known = about | (about.get("training") or {})
    for name in IDENTIFYING:
        told, recorded = known.get(name), record.get(name)
        if None not in (told, recorded) and told != recorded:
            yield f"{name} is {told!r}, and {recorded!r} in the record of the training"


def _in_study(study: Mapping[str, Any], profile: Profile) -> dict[str, Any]:
    """The checkpoint of a study that the profile is of, with its ``number``."""
    wanted = profile.provenance["checkpoint"]["weights_sha256"], profile.images_sha256
    for number, each in enumerate(study["checkpoints"]):
        if (each["weights_sha256"], each["images"]["sha256"]) == wanted:
            return each | {"number": number}
    names = ", ".join(each["name"] for each in study["checkpoints"])
    raise StudyError(f"the study has no checkpoint with the weights and images of {profile.name}; it has {names}")


def _claims_on(study: Mapping[str, Any], entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Claims that gave a number with this checkpoint among the chosen, and their verdicts."""
    for claim in study["claims"]:
        judged = [
            each
            for each in study["judgements"]
            if each["claim"] == claim["id"] and entry["number"] in each["checkpoints"] and _known(each["estimate"])
        ]
        if judged:
            yield claim | _summed_up([each["verdict"] for each in judged], [each["estimate"] for each in judged])


def _summed_up(verdicts: list[str], estimates: list[dict[str, Any]]) -> dict[str, Any]:
    """One estimate with its interval, or the range of several."""
    values, counts = sorted(each["value"] for each in estimates), sorted({each["n"] for each in estimates})
    several = f"{digits(values[0])} to {digits(values[-1])}"
    return {
        "counts": verdict_counts({verdict: verdicts.count(verdict) for verdict in verdicts}),
        "effect": effect_text(estimates[0]) if len(estimates) == 1 else several,
        "n": " or ".join(f"{n:,}" for n in counts),
    }


def _known(estimate: Mapping[str, Any] | None) -> bool:
    return estimate is not None and estimate["value"] is not None


def _facts(record: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    config, steps, chosen = record.get("config") or {}, record.get("steps"), record.get("selected_step")
    processes, versions = record.get("processes"), record.get("versions") or {}
    if steps is not None:
        batch = config.get("batch_size")
        yield "steps", f"{steps:,}" + (f", of {batch:,} images each" if batch else "")
    if chosen is not None:
        yield "weights", f"of step {chosen:,}" + (", the last" if chosen == steps else "")
    if "device" in record:
        yield "hardware", record["device"] + (f", {processes:,} processes" if (processes or 1) > 1 else "")
    if versions:
        yield "software", ", ".join(f"{library} {versions[library]}" for library in LIBRARIES if library in versions)
    if "config_sha256" in record:
        yield "sha256 of the settings", Markdown(f"`{escape(record['config_sha256'])}`")


def _limits(record: dict[str, Any], license: str | None) -> Iterator[str]:
    metrics = _metrics(record).get("test", {})
    if "n" in metrics:
        yield (
            "Tested on the test images above only: not on those of other sources, on corrupted or adversarial images or in "
            "other sizes, and not for groups of people or things within a class."
        )
        yield f"One test image is {100 / metrics['n']:.2g} percentage points; smaller differences of accuracy mean nothing."
    else:
        yield "Not tested."
    if "ece" not in metrics:
        yield "Whether its probabilities can be trusted (calibration) was not measured."
    yield "An image of none of the classes is sorted into one of them all the same."
    yield "One training run; another seed gives other weights and other numbers."
    if not license:
        yield "No licence is given. Those of the training data and of a base model hold in any case."


def _loading(name: str | None, kind: str | None) -> str:
    where = json.dumps(one_line(name) if name else ".", ensure_ascii=False)
    remark = "" if name else "  # the folder of this card"
    lines = [
        "from PIL import Image",
        "from transformers import AutoImageProcessor, AutoModelForImageClassification",
        "",
        f"processor = AutoImageProcessor.from_pretrained({where}){remark}",
        f"model = AutoModelForImageClassification.from_pretrained({where})",
        'image = Image.open("image.png").convert("RGB")',
        'logits = model(**processor(image, return_tensors="pt")).logits',
        "print(model.config.id2label[logits.argmax().item()])",
    ]
    if kind in OWN:
        lines[2:3] = [
            "from hf_vitstudy.models import register",
            "",
            f"register()  # transformers does not have {kind}",
        ]
    return "\n".join(lines)


def _measuring(name: str | None, test: dict[str, Any]) -> str:
    words = [
        "vitstudy",
        "measure",
        one_line(name) if name else ".",
        "--images",
        one_line(test.get("name") or "IMAGES"),
    ]
    for option in ("split", "revision"):
        words += [f"--{option}", one_line(test[option])] if test.get(option) else []
    return shlex.join(words)


def _command(record: dict[str, Any]) -> str:
    processes, on_cpu = record.get("processes") or 1, record.get("device") == "cpu"
    if on_cpu and processes > 1:  # with --cpu accelerate starts one process, whatever is asked for
        launch = f"ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes {processes:d}"
    else:
        launch = "accelerate launch --cpu" if on_cpu else f"accelerate launch --num_processes {processes:d}"
    return f"{launch} recipes/finetune.py recipe.yaml output=runs/again"


# -------------------------------------------------------------------------------------------- reading the record


def _parts(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    data = record.get("data") or {}
    return {part: data[part] for part in ("train", "holdout", "test") if data.get(part)}


def on_the_hub(part: Mapping[str, Any]) -> bool:
    """Whether images are from a data set on the Hub. Only data sets from the Hub have a commit."""
    return bool(part.get("revision")) and bool(part.get("name"))


def _base(record: dict[str, Any]) -> tuple[str, str] | None:
    """(id on the Hub, revision or "") of the checkpoint that training started from; None from scratch or a local one."""
    checkpoint, _, revision = str(((record.get("config") or {}).get("model") or {}).get("checkpoint") or "").partition(
        "@"
    )
    return (checkpoint, revision) if HUB_ID.fullmatch(checkpoint) else None


def _model_type(record: dict[str, Any]) -> str | None:
    return record.get("model_type") or ((record.get("config") or {}).get("model") or {}).get("type")


def _title(record: dict[str, Any]) -> str:
    checkpoint = ((record.get("config") or {}).get("model") or {}).get("checkpoint") or ""
    network = _model_type(record) or checkpoint.partition("@")[0].split("/")[-1] or "image classifier"
    train = _parts(record).get("train", {}).get("name")
    return one_line(f"{network}-{train.split('/')[-1]}" if train else network)


def _base_link(record: dict[str, Any]) -> Markdown | str | None:
    base = _base(record)
    if base is None:
        checkpoint = ((record.get("config") or {}).get("model") or {}).get("checkpoint")
        return f"the local checkpoint {checkpoint}" if checkpoint else None
    repository, revision = base
    at = f" at `{escape(revision)}`" if revision else ""
    return Markdown(f"[{escape(repository)}](https://huggingface.co/{repository}){at}")


def images_link(part: Mapping[str, Any]) -> Markdown | str:
    """The name of a data set, as a link where it has an address."""
    name = part.get("name") or "unnamed images"
    if on_the_hub(part) and HUB_ID.fullmatch(name):
        return Markdown(f"[{escape(name)}](https://huggingface.co/datasets/{name})")
    return name


def count_text(number: Any) -> str | None:
    """``1,024``; None for what is not known."""
    return None if number is None else f"{number:,}"


# --------------------------------------------------------------------------------------------------------- escaping


def clean(value: Any) -> Any:
    """The same, but of an absolute path only its last part, and no token."""
    if isinstance(value, Mapping):
        return {key: clean(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [clean(inner) for inner in value]
    if not isinstance(value, str):
        return value
    if ABSOLUTE_PATH.match(value):
        value = re.split(r"[\\/]", value.strip().rstrip("\\/"))[-1] or value
    return TOKEN.sub("hf_…", value)


def _yaml(config: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=10_000)

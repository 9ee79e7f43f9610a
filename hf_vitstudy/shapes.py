"""What stored JSON must hold so that its readers can take it for granted; the first place where it does not, in words.

A shape is one of the kinds below; a set of texts, of which it is one; ``[shape]`` for a list; a dictionary for an object, in
which ``name?`` may be missing, ``*`` stands for every name, and other names are free; or ``(shape, None)``, where null will do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from .markdown import one_line


ANY, TEXT, NUMBER, WHOLE, YES_NO = "anything", "a text", "a number", "a whole number", "true or false"


def misfit(value: Any, shape: Any) -> str:
    """What is wrong, such as ``checkpoints[0].images must be an object, got null``; empty where all is right."""
    return next(_misfits(value, shape, ""), "")


def _misfits(value: Any, shape: Any, place: str) -> Iterator[str]:
    wanted, shape = shape, shape[0] if isinstance(shape, tuple) else shape
    if isinstance(wanted, tuple) and value is None:
        return
    if not _is(value, shape):
        yield f"{place or 'it'} must be {_words(wanted)}, got {one_line(json.dumps(value))}"
    elif isinstance(shape, list):
        for number, each in enumerate(value):
            yield from _misfits(each, shape[0], f"{place}[{number}]")
    elif isinstance(shape, dict):
        yield from _misfits_inside(value, shape, f"{place}." if place else "")


def _misfits_inside(value: dict[str, Any], shape: dict[str, Any], before: str) -> Iterator[str]:
    for name, inner in shape.items():
        plain = name.removesuffix("?")
        if name == "*":
            for key, each in value.items():
                yield from _misfits(each, inner, before + one_line(key))
        elif plain in value:
            yield from _misfits(value[plain], inner, before + plain)
        elif plain == name:
            yield f"{before}{name} is missing, expected {_words(inner)}"


def _is(value: Any, shape: Any) -> bool:
    """Whether a value is of the kind, whatever is inside it."""
    if isinstance(shape, list | dict):
        return isinstance(value, list if isinstance(shape, list) else dict)
    if isinstance(shape, set):
        return isinstance(value, str) and value in shape
    if shape == TEXT:
        return isinstance(value, str) and _can_be_written(value)
    if shape in (NUMBER, WHOLE):
        kinds = int if shape == WHOLE else int | float
        return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
    return shape == ANY or isinstance(value, bool)


def _can_be_written(text: str) -> bool:
    r"""False of half a surrogate pair, such as ``\ud800``, which JSON can hold and UTF-8 cannot."""
    return not any("\ud800" <= sign <= "\udfff" for sign in text)


def _words(shape: Any) -> str:
    if isinstance(shape, tuple):
        return f"{_words(shape[0])} or null"
    if isinstance(shape, set):
        return f"one of {', '.join(sorted(shape))}"
    return "an object" if isinstance(shape, dict) else "a list" if isinstance(shape, list) else str(shape)


# ------------------------------------------------------------------------------------------------------- profile.json

MAYBE_TEXT, MAYBE_NUMBER, MAYBE_WHOLE = (TEXT, None), (NUMBER, None), (WHOLE, None)
IMAGES: dict[str, Any] = {
    "name": TEXT,
    "n": WHOLE,
    "sha256": TEXT,
    "split?": MAYBE_TEXT,
    "revision?": MAYBE_TEXT,
    "seed?": MAYBE_WHOLE,
}
PROVENANCE: dict[str, Any] = {  # of a profile
    "checkpoint": {
        "name": TEXT,
        "revision?": MAYBE_TEXT,
        "architecture?": MAYBE_TEXT,
        "model_type?": MAYBE_TEXT,
        "parameters?": MAYBE_WHOLE,
        "files?": ({"*": ANY}, None),
    },
    "images": IMAGES,
    "measurement?": {"device?": MAYBE_TEXT, "batch_size?": MAYBE_WHOLE, "seconds?": MAYBE_NUMBER},
    "absent?": {"*": TEXT},
    "versions?": {"*": TEXT},
    "created?": MAYBE_TEXT,
}

# ------------------------------------------------------------------------------------------------------- results.json

VERDICTS = {"supported", "contradicted", "negligible", "undecided", "not applicable"}
ENDS: dict[str, Any] = {"value": MAYBE_NUMBER, "low": MAYBE_NUMBER, "high": MAYBE_NUMBER}
CONTROL: dict[str, Any] = {"name": TEXT, **ENDS, "text": TEXT}
TESTED: dict[str, Any] = {"p?": MAYBE_NUMBER, "p_holm?": MAYBE_NUMBER, "note?": TEXT, "controls?": [CONTROL]}
ESTIMATE: dict[str, Any] = {**ENDS, "n": WHOLE, "unit_resampled?": TEXT}
CHECKPOINT: dict[str, Any] = {
    **dict.fromkeys(("key", "name", "network", "state", "weights_sha256"), TEXT),
    "images": IMAGES,
    "accuracy": ({"value": NUMBER, "low": NUMBER, "high": NUMBER, "n": WHOLE}, None),
    "parameters": MAYBE_WHOLE,
    "revision": MAYBE_TEXT,
    "image_size?": ([WHOLE], None),
    "recipe?": TEXT,
    "axes?": {"*": ANY},
    "versions?": {"*": TEXT},
    "told?": {"*": ANY},
}
CLAIM: dict[str, Any] = {
    **dict.fromkeys(("id", "text", "source", "unit"), TEXT),
    "margin": NUMBER,
    "roles": [TEXT],
    **{
        f"{name}?": TEXT
        for name in ("statistic", "formula", "falsified_by", "conditions", "against", "test", "reason")
    },
    "relation?": MAYBE_TEXT,
    "needs?": [TEXT],
    "needs_first?": [TEXT],
    "agreement?": {
        "over": TEXT,
        "verdict": VERDICTS,
        "alone": VERDICTS,
        "estimate": ESTIMATE | {"value": NUMBER},
        "counts": {"*": WHOLE},
        "counts_alone?": {"*": WHOLE},
        "lowest?": MAYBE_NUMBER,
        "highest?": MAYBE_NUMBER,
        **TESTED,
    },
}
JUDGEMENT: dict[str, Any] = {
    "claim": TEXT,
    "checkpoints": [WHOLE],
    "verdict": VERDICTS,
    "alone?": VERDICTS,
    "estimate": (ESTIMATE, None),
    "warnings?": [TEXT],
    **TESTED,
}
STUDY: dict[str, Any] = {
    "title": TEXT,
    "version": TEXT,
    "settings": {"draws?": WHOLE, "seed?": WHOLE},
    "checkpoints": [CHECKPOINT],
    "left_out": [{"key": TEXT, "reason": TEXT}],
    "judgements": [JUDGEMENT],
    "claims": [CLAIM],
    "untested": {"*": TEXT},
    "groups": [
        {"images": TEXT, "n": WHOLE, "checkpoints": [WHOLE], "linkage": [[NUMBER]], "nearest": [[NUMBER]]},
    ],
}

# ------------------------------------------------------------------------------------------------------ training.json

SCORES: dict[str, Any] = {
    "n?": MAYBE_NUMBER
}  # a metric that is no number is refused, with its name, where it is shown
PART: dict[str, Any] = {"name?": MAYBE_TEXT, "split?": MAYBE_TEXT, "revision?": MAYBE_TEXT, "n?": MAYBE_WHOLE}
RECORD: dict[str, Any] = {
    "config?": (
        {"model?": ({"type?": MAYBE_TEXT, "checkpoint?": MAYBE_TEXT}, None), "batch_size?": MAYBE_WHOLE},
        None,
    ),
    "data?": ({f"{part}?": (PART, None) for part in ("train", "holdout", "test")}, None),
    "metrics?": ({"*": SCORES}, None),
    "classes?": ([ANY], None),
    "files?": ({"*": ANY}, None),
    "versions?": ({"*": ANY}, None),
    "model_type?": MAYBE_TEXT,
    "device?": TEXT,
    **{f"{name}?": MAYBE_WHOLE for name in ("parameters", "steps", "selected_step", "processes")},
}
OLD_RECORD: dict[str, Any] = RECORD | {"metrics?": SCORES}  # with those of the test images only

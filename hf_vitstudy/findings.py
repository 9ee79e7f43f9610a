"""FINDINGS.md: what a study found, claim by claim, written from its stored result alone.

Every number is formatted from the result; a commentary by hand may stand beside it, in words without numbers.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .agreement import VERDICTS, counted, digits, effect_text, verdict_counts
from .claims import CLAIMS, UNTESTED
from .errors import StudyError, nearest_name
from .markdown import Markdown, environment, escape, tidy


Result = dict[str, Any]
SECTIONS = (  # what is said over checkpoints, else of all choices of them: key -> heading
    ("supported", "Held over checkpoints"),
    ("contradicted", "Did not hold over checkpoints"),
    ("negligible", "Too small to matter over checkpoints"),
    ("all supported", "Held on every choice of checkpoints"),
    ("all contradicted", "Did not hold on any choice of checkpoints"),
    ("divided", "Held on some checkpoints and did not on others"),
    ("undecided", "Undecided"),
)
FIGURES = ("verdicts", "effects", "likeness")
NUMBER = re.compile(r"\d+[.,]\d+|\d+\s*%|[=≈<>]\s*[−-]?\d")  # of a result; ResNet-50, Fig 8 and 3 x 3 are names
HEADING = re.compile(r"^##\s+(\S+)\s*$", re.MULTILINE)


def write_findings(result: Result, out: Path, *, figures: Sequence[Path] = (), commentary: Path | None = None) -> Path:
    """Write the findings of a study as Markdown; returns the path.

    Args:
        result: as `study.make_study` returns it and `study.load_study` reads it.
        out: the file.
        figures: pictures to show; PNG files among them are linked relative to `out`.
        commentary: a file with a heading ``## ID`` and text per claim.

    Raises:
        StudyError: the commentary holds numbers, or speaks of an unknown claim.
    """
    if out.is_dir():
        raise StudyError(f"{out} is a folder, expected a file such as {out}/FINDINGS.md")
    words = read_commentary(commentary, [claim["id"] for claim in result["claims"]]) if commentary else {}
    shown = {path.stem: _link(path, out) for path in figures if path.suffix == ".png"}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(findings(result, figures=shown, commentary=words), encoding="utf-8")
    return out


def findings(
    result: Result, *, figures: Mapping[str, str] | None = None, commentary: Mapping[str, str] | None = None
) -> str:
    """The findings as Markdown.

    Args:
        result: of a study.
        figures: name of a figure -> address.
        commentary: id of a claim -> Markdown that stands below its numbers.
    """
    claims = [_claim(result, claim, commentary or {}) for claim in result["claims"] if "agreement" in claim]
    context = {
        "title": result["title"],
        "version": result["version"],
        "settings": result["settings"],
        "summary": _summary(result, claims),
        "sections": [(head, [claim for claim in claims if claim["said"] == said]) for said, head in SECTIONS],
        "missing": [claim for claim in result["claims"] if "agreement" not in claim],
        "untested": result["untested"],
        "checkpoints": [_checkpoint(each) for each in result["checkpoints"]],
        "axes": list(dict.fromkeys(axis for each in result["checkpoints"] for axis in each["axes"])),
        "images": _images(result),
        "left_out": result["left_out"],
        "figures": dict.fromkeys(FIGURES)
        | {name: Markdown(f"({address})") for name, address in (figures or {}).items()},
        "nearest": [_nearest(result, group) for group in result["groups"]],
    }
    made = environment()
    made.filters["words"] = _words
    made.filters["formula"] = lambda text: Markdown(f"`{text}`" if text in OURS and "`" not in text else _words(text))
    return tidy(made.get_template("findings.md").render(context))


OURS = {str(value) for claim in CLAIMS for value in claim.to_dict().values()} | {*UNTESTED.values()}


def _words(text: str) -> Markdown:
    """Sentences of our own claims as they stand; of a stored result that may come from anywhere, escaped."""
    return Markdown(text.replace("<", "&lt;") if text in OURS else escape(text, shorten=False))


def read_commentary(path: Path, known: Sequence[str]) -> dict[str, str]:
    """Claim id -> text, from a Markdown file with a heading ``## ID`` before each text.

    Raises:
        StudyError: no such file, an unknown id, or a number, which has to come from the result.
    """
    try:
        parts = HEADING.split(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StudyError(
            f"no commentary at {path} ({error}); expected Markdown with a heading `## ID` per claim"
        ) from error
    found = {name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}
    for name, text in found.items():
        if name not in known:
            raise StudyError(f"{path}: no claim is called {name!r}; {nearest_name(name, known, most=5)}")
        if number := NUMBER.search(text):
            raise StudyError(
                f"{path}: the text on {name} holds the number {number[0]!r}; say it in words, numbers come from the result"
            )
    return found


def _link(path: Path, out: Path) -> str:
    return Path(os.path.relpath(path.resolve(), out.resolve().parent)).as_posix().replace(" ", "%20")


# ----------------------------------------------------------------------------------------------------------- numbers


def _p(value: float | None) -> Markdown:
    return Markdown("undefined" if value is None else "< 0.001" if value < 0.001 else f"= {value:.3f}")


# ------------------------------------------------------------------------------------------------------------ claims


def _claim(result: Result, claim: dict[str, Any], commentary: Mapping[str, str]) -> dict[str, Any]:
    agreement = claim["agreement"]
    known = agreement["estimate"]["low"] is not None
    judged = [each for each in result["judgements"] if each["claim"] == claim["id"]]
    return claim | {
        "said": said(agreement),
        "known": known,
        "effect": effect_text(agreement["estimate"]),
        "margin_text": f"{claim['margin']:g}",
        "over": agreement["over"],
        "unit_resampled": agreement["estimate"]["unit_resampled"],
        "n": agreement["estimate"]["n"],
        "p": _p(agreement["p_holm"]),
        "alone": agreement["alone"] if known and agreement["alone"] != agreement["verdict"] else "",
        "note": agreement["note"],
        "range": f"{digits(agreement['lowest'])} to {digits(agreement['highest'])}",
        "choices": sum(agreement["counts"].values()),
        "counts": verdict_counts(agreement["counts"]),
        "counts_alone": ""
        if agreement["counts"] == agreement["counts_alone"]
        else verdict_counts(agreement["counts_alone"]),
        "single": _single(result, judged) if sum(agreement["counts"].values()) == 1 else None,
        "by_recipe": list(_by_recipe(result, judged)),
        "controls": [control | {"shown": effect_text(control)} for control in agreement["controls"]],
        "warnings": list(dict.fromkeys(text for each in judged for text in each["warnings"])),
        "granularity": _granularity(judged) if claim["of_cka"] else "",
        "undefined": sum(each["estimate"] is None or each["estimate"]["value"] is None for each in judged),
        "commentary": Markdown(commentary.get(claim["id"], "")),
    }


def said(agreement: dict[str, Any]) -> str:
    """The verdict over checkpoints if there is one, else what their choices have in common."""
    verdict, counts = agreement["verdict"], agreement["counts"]
    if agreement["estimate"]["low"] is not None and verdict != "undecided":
        return verdict
    decided = [name for name in ("supported", "contradicted") if counts[name]]
    if len(decided) == 2:
        return "divided"
    every = len(decided) == 1 and counts[decided[0]] == sum(counts.values())
    return f"all {decided[0]}" if every else "undecided"


def _single(result: Result, judged: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The one judgement there is, with its interval over images."""
    (each,) = [each for each in judged if each["estimate"] and each["estimate"]["value"] is not None]
    names = " and ".join(result["checkpoints"][number]["name"] for number in each["checkpoints"])
    estimate = each["estimate"]
    return {"names": names, "effect": effect_text(estimate), "n": counted(estimate["n"], estimate["unit_resampled"])}


def _by_recipe(result: Result, judged: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """Names, verdicts and effects of the choices that differ in nothing but their seeds; none where all choices do."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for each in judged:
        if each["estimate"] and each["estimate"]["value"] is not None:
            groups.setdefault(tuple(result["checkpoints"][i]["recipe"] for i in each["checkpoints"]), []).append(each)
    for same in groups.values() if len(groups) > 1 else ():
        sides = zip(*(each["checkpoints"] for each in same), strict=True)
        names = " and ".join(_common_name([result["checkpoints"][i]["name"] for i in side]) for side in sides)
        counts = {verdict: sum(each["verdict"] == verdict for each in same) for verdict in VERDICTS}
        values = [each["estimate"]["value"] for each in same]
        shown = digits(values[0]) if len(values) == 1 else f"{digits(min(values))} to {digits(max(values))}"
        yield names, verdict_counts(counts), shown


def _common_name(names: Sequence[str]) -> str:
    """What the names of several seeds begin with, ``vit-…`` of vit-0 and vit-1; a single name as it is."""
    if len(set(names)) == 1:
        return names[0]
    shared = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in shared) + "…"


def _granularity(judged: Sequence[dict[str, Any]]) -> str:
    """How finely the checkpoints were read, each way once: ``25 places in 12 blocks``."""
    parts = [part for each in judged if each["estimate"] for part in each["note"].split("; ")]
    return "; ".join(dict.fromkeys(part.rpartition(": ")[2] for part in parts))


def _summary(result: Result, claims: Sequence[dict[str, Any]]) -> list[tuple[str, int]]:
    """Heading -> how many claims."""
    found = [(head, sum(claim["said"] == said for claim in claims)) for said, head in SECTIONS]
    found = [(head, count) for head, count in found if count]
    return [*found, ("Not judged", len(result["claims"]) - len(claims))]


# ------------------------------------------------------------------------------------------------------- checkpoints


def _checkpoint(each: dict[str, Any]) -> dict[str, Any]:
    accuracy = each["accuracy"]
    return each | {
        "accuracy": effect_text(accuracy) if accuracy else "–",
        "parameters": f"{each['parameters']:,}" if each["parameters"] is not None else "–",
        "size": " × ".join(map(str, each["image_size"] or [])) or "–",
        "axis": {
            axis: f"{value:g}" if isinstance(value, float) else str(value) for axis, value in each["axes"].items()
        },
    }


def _images(result: Result) -> list[dict[str, Any]]:
    """The image sets, and how many checkpoints were measured on each."""
    found: dict[str, dict[str, Any]] = {}
    for each in result["checkpoints"]:
        entry = found.setdefault(each["images"]["sha256"], each["images"] | {"checkpoints": 0})
        entry["checkpoints"] += 1
    return list(found.values())


def _nearest(result: Result, group: dict[str, Any]) -> dict[str, Any]:
    rows = list(_neighbours(result, group))
    return {"images": group["images"], "n": group["n"], "rows": rows}


def _neighbours(result: Result, group: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for number, (other, distance) in zip(group["checkpoints"], group["nearest"], strict=True):
        yield result["checkpoints"][number]["name"], result["checkpoints"][other]["name"], digits(1 - distance)

"""The page as a folder of files: a static Space, GitHub Pages, or any folder on a disk. No server, no outside request."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..errors import StudyError
from ..markdown import one_line
from ..profile import written_whole
from .data import Source, checkpoint_data, pair_data, study_data
from .likeness import measures_data
from .networks import fields_data, network_data
from .weights import weights_data


OF_ONE: dict[str, Callable[[Source, int], dict[str, Any]]] = {  # kind of file -> what it holds of a checkpoint
    "checkpoint": checkpoint_data,
    "network": network_data,
    "fields": fields_data,
    "weights": weights_data,
}
PAGE, README, DATA = "index.html", "README.md", "data"
HERE = Path(__file__).parent
SCRIPTS = (
    "basics",
    "addresses",
    "page",
    "findings",
    "explore",
    "beside",
    "cards",
    "maps",
    "lens",
    "curves",
    "views",
    "places",
    "rasters",
    "disturbed",
    "losses",
    "pictures",
    "methods",
    "tour",
    "start",
)
OPENING = """// Draws the comparison of checkpoints from JSON (data.py says what it holds).
// No dependency, no request but for that JSON.
// Text from the data becomes text nodes only; names in addresses are looked up in the study, never used as they are.
"use strict";
(() => {
"""


def export_site(
    study: str | Path, out: str | Path, profiles: str | Path | None = None, *, origin: str | None = None
) -> Path:
    """Write the page of a study and the data of all its checkpoints and pairs; returns the page.

    Args:
        study: ``results.json`` of `make_study`, or the folder that it lies in.
        out: new folder, or that of an earlier page, which is replaced when the new one is complete.
        profiles: see `Source`.
        origin: where on the Hub the study came from, as ``org/name@commit``, for the page and its card.

    Returns:
        ``out/index.html``, which holds the study and the pair it opens with; ``out/data`` holds JSON files of every checkpoint
        and every pair, fetched when something that shows them is looked at; ``out/README.md`` is the card of a static Space.

    Raises:
        StudyError: no study, profiles that are not those of it, or a folder with anything else in it.
    """
    out = Path(out)
    _refuse_foreign(out)
    source = Source(Path(study), profiles)
    with written_whole(out) as fresh:
        _write(source, fresh, origin)
    return out / PAGE


def page(study: dict[str, Any], files: dict[str, dict[str, Any]], *, still: str = "", css: str = "") -> str:
    """The page.

    Args:
        study: see `study_data`.
        files: name below ``data`` -> content of those that it need not fetch.
        still: HTML that stands there until the script has drawn the page, and where no script runs; the page then fetches
            nothing. Of it the elements with ``data-part``, ``figures`` and ``methods``, become parts of the page.
        css: style of `still`.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hf_vitstudy", "viewer"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    code = script()
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    inside = _in_script({"study": study, "files": files})
    return environment.get_template("page.html").render(
        title=study["title"], digest=digest, data=inside, script=code, css=style() + css, still=still
    )


def script() -> str:
    """The renderer: one script that defines ``VitStudy.mount`` and draws the page around it, if there is one."""
    return OPENING + "".join(_bare(HERE / "js" / f"{name}.js") for name in SCRIPTS) + "})();\n"


def style() -> str:
    """What it looks like; every rule lies below ``.vs``."""
    return _bare(HERE / "viz.css")


def _bare(path: Path) -> str:
    """A file without indentation, empty lines and lines that are comments: a tenth less to send, and all of its code."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return "".join(line + "\n" for line in lines if line and not line.startswith("//"))


def _in_script(value: Any) -> str:
    """JSON that cannot end the element it stands in."""
    return compact(value).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def compact(value: Any) -> str:
    """JSON without spaces; NaN is an error."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _refuse_foreign(out: Path) -> None:
    if out.is_file():
        raise StudyError(f"{out} is a file, expected a folder for the page; choose another name")
    names = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    strangers = [name for name in names if name not in (PAGE, README, DATA)]
    if strangers or (names and not (out / DATA / "study.json").is_file()):
        raise StudyError(f"{out} holds {(strangers or names)[0]!r}, which is no part of a page; choose another folder")


def _write(source: Source, folder: Path, origin: str | None) -> None:
    study = study_data(source) | ({"origin": origin} if origin else {})
    (folder / DATA).mkdir()
    (folder / DATA / "study.json").write_text(compact(study) + "\n", encoding="utf-8")
    total = 3 * len(study["checkpoints"]) + sum(len(group) ** 2 for group in study["comparable"])
    first, inside = _names(study["start"]), {}
    for name, content in tqdm(parts_of(source, study), desc="page", total=total, unit="file", disable=None):
        (folder / DATA / name).write_text(compact(content) + "\n", encoding="utf-8")
        if name in first:
            inside[name] = content
    (folder / PAGE).write_text(page(study, inside), encoding="utf-8")
    (folder / README).write_text(_card(study, origin), encoding="utf-8")


def _names(start: list[int]) -> set[str]:
    """Files of the pair that the page opens with."""
    return (
        {f"{kind}-{number}.json" for number in start for kind in ("checkpoint", "network")}
        | {"pair-{}-{}.json".format(*sorted(start))}
        if start
        else set()
    )


def parts_of(source: Source, study: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, content) of the files of all checkpoints and pairs."""
    for number in range(len(study["checkpoints"])):
        for kind, read in OF_ONE.items():
            yield f"{kind}-{number}.json", read(source, number)
    for group in study["comparable"]:
        for a, b in combinations_with_replacement(group, 2):
            yield f"measures-{a}-{b}.json", measures_data(source, a, b)
            if a != b:
                yield f"pair-{a}-{b}.json", pair_data(source, a, b)


def _card(study: dict[str, Any], origin: str | None = None) -> str:
    """The card of a static Space; JSON text is YAML text, where it is of signs that can be printed."""
    title = json.dumps(one_line(study["title"]), ensure_ascii=False)
    about = f"{len(study['checkpoints'])} checkpoints compared inside, with intervals."
    of = f"datasets: [{json.dumps(origin.split('@')[0])}]\n" if origin else ""
    about += f" The study is `{origin}`." if origin else ""
    return f"---\ntitle: {title}\nsdk: static\napp_file: {PAGE}\nfullWidth: true\nheader: mini\n{of}---\n\n{about}\n"

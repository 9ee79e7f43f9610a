"""The folder of a Space: all that a push uploads, so that it runs there while the Hub is down.

A Gradio Space holds ``app.py``, its card, ``requirements.txt``, the source of this package (which is on no index), and in
``data`` what the page shows. A static one is `viewer.export_site`: no server, and no images of a visitor's own.
"""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from . import hub
from .errors import StudyError
from .markdown import one_line
from .profile import written_whole
from .viewer import export_site
from .viewer.bundle import STUDY, Bundle, Measured, Pages, fetched, open_pages, write_bundle


SDKS = ("gradio", "static")
GRADIO, PYTHON = "6.31.0", "3.12"  # what the app is tested with
STUDY_FILE, EXAMPLES_FILE, ABOUT, APP = "study.json.xz", "examples.json.xz", "space.json", "app.py"
CARD, REQUIREMENTS, DATA = "README.md", "requirements.txt", "data"
PACKAGE = Path(__file__).parent
INSTALLED = "compare_space"  # spaces/compare inside an installed package
LIVE = ("torch", "torchvision", "transformers", "huggingface-hub", "pillow")  # of the extra `study`, to look at images
MOST_LIVE = 2
SHORT = "Two vision checkpoints, compared inside"  # the Hub shows 60 letters


def space_folder(
    out: str | Path,
    study: str | Path | None = None,
    *,
    sdk: str = "gradio",
    profiles: str | Path | None = None,
    repo: str | None = None,
    live: Sequence[str] = (),
) -> Path:
    """Write the complete folder that a push to a Space uploads; returns it.

    Args:
        out: a new folder, or that of an earlier call, which is replaced when the new one is complete.
        study: ``results.json``, the folder it lies in, or ``org/name[@revision]`` on the Hub; by default the study that comes
            with this package.
        sdk: ``gradio``, with a server; or ``static``, without one: Findings, Explore and Methods.
        profiles: see `viewer.Source`.
        repo: ``org/name`` of the Space, for its links.
        live: two checkpoints on the Hub that look at a visitor's images; the Space then needs torch.

    Raises:
        StudyError: another sdk, no study there, or a folder with anything else in it.
    """
    if sdk not in SDKS:
        raise StudyError(f"sdk must be one of {', '.join(SDKS)}, got {sdk!r}")
    if sdk == "static":
        return _static(out, study, profiles)
    if live and (len(live) != MOST_LIVE or not all(hub.is_address(each) for each in live)):
        raise StudyError(f"expected two checkpoints on the Hub as org/name, got {', '.join(live)}")
    if repo is not None:
        hub.check_repo(repo)
    out = Path(out)
    _refuse_foreign(out)
    default = study is None
    pages, origin = open_pages(default_data() / STUDY_FILE if study is None else study, profiles)
    about = {"study": origin, "repo": repo, "live": list(live)}
    with written_whole(out) as fresh:
        _write(fresh, pages, about, examples=default)
    return out


def _static(out: str | Path, study: str | Path | None, profiles: str | Path | None) -> Path:
    if study is None:
        raise StudyError(
            "name the study of a static page: it is made of profiles, which do not come with this package"
        )
    origin = None
    if not Path(study).exists() and hub.is_address(study):
        study, origin = fetched(study)
    return export_site(study, out, profiles, origin=origin).parent


def default_data() -> Path:
    """The folder with the study and the examples that come with this package: a real result, `spaces/compare/data`.

    Raises:
        StudyError: this copy of the package is without.
    """
    return _home() / DATA


def _home() -> Path:
    """``spaces/compare``: inside an installed package, beside it in a clone."""
    places = (PACKAGE / INSTALLED, PACKAGE.parent / "spaces" / "compare", PACKAGE.parent)
    for place in places:
        if (place / DATA / STUDY_FILE).is_file():
            return place
    raise StudyError("the default study did not come with this copy; name a study, or run from a clone")


def _refuse_foreign(out: Path) -> None:
    if out.is_file():
        raise StudyError(f"{out} is a file, expected a folder for the Space; choose another name")
    names = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if names and not (out / DATA / ABOUT).is_file():
        raise StudyError(f"{out} holds {names[0]!r}, which is no part of a Space; choose another folder")


def _write(folder: Path, pages: Pages, about: dict[str, Any], *, examples: bool) -> None:
    data = folder / DATA
    data.mkdir()
    if isinstance(pages, Bundle):
        shutil.copyfile(pages.path, data / STUDY_FILE)
    elif isinstance(pages, Measured):
        write_bundle(pages.source, data / STUDY_FILE)
    if examples and (default_data() / EXAMPLES_FILE).is_file():
        shutil.copyfile(default_data() / EXAMPLES_FILE, data / EXAMPLES_FILE)
    (data / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    shutil.copyfile(_home() / APP, folder / APP)
    (folder / CARD).write_text(card(json.loads(pages.read(STUDY)), about), encoding="utf-8")
    (folder / REQUIREMENTS).write_text(requirements(bool(about["live"])), encoding="utf-8")
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "recipes", INSTALLED)
    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=ignored)


# ------------------------------------------------------------------------------------------------------ card, needs


def card(study: dict[str, Any], about: dict[str, Any]) -> str:
    """README.md of the Space; JSON text is YAML text, where it is of signs that can be printed."""
    origin = about["study"]
    live = [hub.parse_address(each).repo for each in about["live"]]
    facts: dict[str, Any] = {
        "title": one_line(study["title"]),
        "emoji": "🔬",
        "sdk": "gradio",
        "sdk_version": GRADIO,
        "python_version": PYTHON,
        "app_file": APP,
        "fullWidth": True,
        "header": "mini",
        "license": "apache-2.0",
        "short_description": SHORT,
        "tags": ["vision-transformer", "resnet", "interpretability", "cka", "mcp-server"],
    }
    if origin:
        facts["datasets"] = [hub.parse_address(origin).repo]
    if live:
        facts |= {"models": live, "preload_from_hub": live}
    head = "\n".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in facts.items())
    count = len(study["checkpoints"])
    came = f"The study is `{origin}`" if origin else "The study was made on a local machine"
    return (
        f"---\n{head}\n---\n\n{count} vision checkpoints compared inside, any two side by side: published claims with verdicts "
        f"and intervals, CKA, curves along depth, attention, receptive fields, and an image of your own in both.\n\n{came}; "
        f"its numbers lie in `data/{STUDY_FILE}`, so that this Space starts while the Hub is down. Each of them is also an API "
        "endpoint and an MCP tool.\n\nA link keeps what is seen: `?a=CHECKPOINT&b=CHECKPOINT&view=cka&sel=ab.5.9`.\n"
    )


def requirements(live: bool) -> str:
    """requirements.txt: what the app needs, and with `live` checkpoints torch; from the package's own metadata."""
    base, extras = _dependencies()
    needed = [*base, *extras["space"]]
    if live:
        needed += [each for each in extras["study"] if _name(each) in LIVE]
    return "".join(f"{each}\n" for each in sorted(set(needed), key=str.lower))


def _dependencies() -> tuple[list[str], dict[str, list[str]]]:
    """Requirements of the package and of its extras, from ``pyproject.toml`` in a clone, else as installed."""
    file = PACKAGE.parent / "pyproject.toml"
    if file.is_file():
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        return project["dependencies"], project["optional-dependencies"]
    base: list[str] = []
    extras: dict[str, list[str]] = {}
    for text in metadata.requires(PACKAGE.name) or []:
        needed, _, condition = (part.strip() for part in text.partition(";"))
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)", condition)
        (extras.setdefault(extra[1], []) if extra else base).append(needed)
    return base, extras


def _name(requirement: str) -> str:
    return re.split(r"[\[<>=~! ]", requirement, maxsplit=1)[0]

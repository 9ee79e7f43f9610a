"""A study, or one profile, as the folder that is published as a dataset repository.

    profiles/       the profiles, byte for byte, each under the key of its checkpoint in the result
    study.json      title and told facts, so that the profiles can be judged again
    tables/         measurements.parquet and verdicts.parquet, which `datasets.load_dataset` and the dataset viewer read
    figures/        PNG
    results.json, FINDINGS.md, README.md

The folder of one profile holds the profile's own three files, tables, figures and a card. Everything but the profiles is made
of the stored result and the profiles: the same input gives the same folder. Reading profiles, judging and drawing need no
pyarrow; only writing this folder does (`study_tables.write_table`).
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import figures
from .cards import Measured, eval_results_file, model_card
from .comparison import compare
from .dataset_cards import CAPTIONS, TABLES, Contents, profile_card, study_card
from .errors import StudyError
from .findings import write_findings
from .hub import BESIDE_MODEL, CARD, check_name, is_shown
from .markdown import one_line
from .profile import ARRAYS, MANIFEST, Profile, load_profile, merge, written_whole
from .profile import DESCRIPTION as ABOUT
from .shapes import OLD_RECORD, RECORD, misfit
from .study import DESCRIPTION, RESULTS
from .study_tables import MEASUREMENTS, VERDICTS, Row, measurement_rows, verdict_rows, write_table


PROFILES, FIGURES, FINDINGS = "profiles", "figures", "FINDINGS.md"

Identity = tuple[str, str]  # of a member of a study: hashes of weights and of images


def release_folder(
    results: Mapping[str, Any],
    profiles: Sequence[Path],
    out: Path,
    *,
    name: str | None = None,
    license: str | None = None,
) -> Path:
    """Write the dataset repository of a study to `out`, and return it; `out` appears only when it is complete.

    Args:
        results: as `study.make_study` returns it and `study.load_study` reads it.
        profiles: the folders of all its profiles.
        out: a folder that is not there yet, or is empty.
        name: id on the Hub, which the card tells to load.
        license: identifier as the Hub has them, such as ``cc-by-4.0``.

    Raises:
        StudyError: a profile is damaged, not of this study, or missing; the key of one could leave its folder; `out` holds
            files; pyarrow is not installed.
    """
    members = _members(results, profiles)
    names = _names(members, results)

    def write(folder: Path) -> None:
        for each, name in names.items():
            _copy_profile(each, folder / PROFILES / name)
        _write_json(folder / DESCRIPTION, _told(results, members, names))
        _write_json(folder / RESULTS, results)
        rows, left_out = _all_rows(members, results)
        write_table(rows, MEASUREMENTS, folder / TABLES["measurements"])
        write_table(verdict_rows(results), VERDICTS, folder / TABLES["verdicts"])
        pictures = figures.save_study_figures(folder / FIGURES, dict(results), formats=("png",))
        pictures += _draw(_example(members, results), folder / FIGURES)
        write_findings(dict(results), folder / FINDINGS, figures=pictures)
        contents = Contents(len(rows), left_out, [path.stem for path in pictures])
        card = study_card(results, contents, name=name, license=license)
        (folder / CARD).write_text(card, encoding="utf-8")

    return _complete(out, write)


def release_profile(profile: Path, out: Path, *, name: str | None = None, license: str | None = None) -> Path:
    """Write the dataset repository of one profile to `out`, and return it; arguments as in `release_folder`.

    Raises:
        StudyError: as `release_folder`.
    """
    loaded = load_profile(profile)

    def write(folder: Path) -> None:
        _copy_profile(profile, folder)
        rows, left_out = measurement_rows(loaded)
        write_table(rows, MEASUREMENTS, folder / TABLES["measurements"])
        contents = Contents(len(rows), left_out, [path.stem for path in _draw([loaded], folder / FIGURES)])
        card = profile_card(loaded, contents, name=name, license=license)
        (folder / CARD).write_text(card, encoding="utf-8")

    return _complete(out, write)


def add_to_model(
    folder: Path,
    profile: Path | None = None,
    results: Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
    license: str | None = None,
    called: str | None = None,
) -> list[Path]:
    """Write into a trained network's folder what its repository on the Hub shows beside the weights.

    The card (README.md) from ``training.json``; ``.eval_results/`` where the test images are on the Hub; and of a profile
    ``vitstudy/NAME/``, a copy `called` so, by default as its folder, and ``vitstudy/figures/``, with the claims that a study
    judged on it. An older ``vitstudy/`` is replaced.

    Returns:
        The files and folders written.

    Raises:
        StudyError: no record of a training there; the profile is of other weights, or not in the study.
    """
    record = read_record(folder)
    measured = None
    written = []
    if profile is not None:
        loaded = load_profile(profile)
        shutil.rmtree(folder / BESIDE_MODEL, ignore_errors=True)
        _copy_profile(profile, folder / BESIDE_MODEL / (called or profile.resolve().name))
        pictures = _draw([loaded], folder / BESIDE_MODEL / FIGURES)
        shown = {CAPTIONS[path.stem]: path.relative_to(folder).as_posix() for path in pictures}
        measured = Measured(loaded, results, shown)
        written.append(folder / BESIDE_MODEL)
    texts = {CARD: model_card(record, name=name, license=license, measured=measured)}
    found = eval_results_file(record)
    texts |= {found[0]: found[1]} if found else {}
    for path, text in texts.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
        written.append(folder / path)
    return written


# ------------------------------------------------------------------------------------------------ which is which


def _members(results: Mapping[str, Any], profiles: Sequence[Path]) -> dict[Identity, list[Path]]:
    """Folders by the checkpoint and images of the study that they are of, in the order of the study."""
    found: dict[Identity, list[Path]] = {_identity(each): [] for each in results["checkpoints"]}
    for place in sorted(profiles):  # as a study reads them: of two with the same measurement the last counts
        about = load_profile(place)
        key = about.provenance["checkpoint"]["weights_sha256"], about.images_sha256
        if key not in found:
            names = ", ".join(each["name"] for each in results["checkpoints"])
            raise StudyError(f"{place} is of {about.name}, which is not in the study; the study is of {names}")
        if place.resolve() in map(Path.resolve, found[key]):
            raise StudyError(f"{place} was given twice; give every profile once")
        found[key].append(place)
    missing = [each["key"] for each in results["checkpoints"] if not found[_identity(each)]]
    if missing:
        raise StudyError(
            f"no profile of {', '.join(missing)} was given, but the study is of it; give all its profiles"
        )
    return found


def _identity(checkpoint: Mapping[str, Any]) -> Identity:
    return checkpoint["weights_sha256"], checkpoint["images"]["sha256"]


def _names(members: Mapping[Identity, Sequence[Path]], results: Mapping[str, Any]) -> dict[Path, str]:
    """Folder -> path below ``profiles/``: the key of its checkpoint, by which facts are told; further profiles are numbered."""
    places = [members[_identity(each)] for each in results["checkpoints"]]
    keys = [_checked_key(each["key"], of[0]) for each, of in zip(results["checkpoints"], places, strict=True)]
    found: dict[Path, str] = {}
    for key, (first, *others) in zip(keys, places, strict=True):
        if keys.count(key) > 1:
            raise StudyError(
                f"the study has two checkpoints called {key!r}; judge it again with `vitstudy study FOLDER`"
            )
        width = len(str(len(others) + len(keys) + 1))  # so that they are read in this order
        free = (name for number in itertools.count(2) if (name := f"{key}-{number:0{width}}") not in keys)
        found |= {first: key} | dict(zip(others, free, strict=False))
    return found


def _checked_key(key: Any, place: Path) -> str:
    """The key of a checkpoint, if it is a path below a folder; the name of its profile where that is the study's own folder."""
    name = place.resolve().name if key == "." else key
    if not isinstance(name, str) or not is_shown(name) or {ARRAYS, ABOUT, MANIFEST} & set(name.split("/")):
        raise StudyError(
            f"refused a profile called {one_line(key)!r}; judge the study again with `vitstudy study FOLDER`"
        )
    check_name(f"{PROFILES}/{name}")
    return name


def _told(
    results: Mapping[str, Any], members: Mapping[Identity, Sequence[Path]], names: Mapping[Path, str]
) -> dict[str, Any]:
    """study.json of the folder that is published."""
    of = ((members[_identity(each)][0], each.get("told")) for each in results["checkpoints"])
    return {
        "title": results["title"],
        "profiles": {f"{PROFILES}/{names[place]}": told for place, told in of if told},
    }


# ------------------------------------------------------------------------------------------------------- contents


def _all_rows(
    members: Mapping[Identity, Sequence[Path]], results: Mapping[str, Any]
) -> tuple[list[Row], dict[str, str]]:
    """Rows of all checkpoints, and the measurements that are missing for all; one profile is in memory at a time."""
    settings = results.get("settings", {})
    rows: list[Row] = []
    left_out: dict[str, str] = {}
    for checkpoint in results["checkpoints"]:
        profile = _load(members[_identity(checkpoint)])
        draws = {key: settings[key] for key in ("draws", "seed") if key in settings}
        found, without = measurement_rows(profile, checkpoint["key"], **draws)
        rows, left_out = rows + found, without | left_out
    known = {row["measurement"] for row in rows}
    return rows, {name: why for name, why in left_out.items() if name not in known}


def _load(places: Sequence[Path]) -> Profile:
    return merge([load_profile(place) for place in places])


def _example(members: Mapping[Identity, Sequence[Path]], results: Mapping[str, Any]) -> list[Profile]:
    """A ViT and a ResNet whose Gram blocks compare, trained if there are such, for the figures; else the first checkpoint."""
    checkpoints = results["checkpoints"]
    groups = [set(group["checkpoints"]) for group in results["groups"]]
    pairs = [
        (vit, resnet)
        for vit, a in enumerate(checkpoints)
        for resnet, b in enumerate(checkpoints)
        if (a["network"], b["network"]) == ("vit", "resnet") and any({vit, resnet} <= group for group in groups)
    ]
    trained = [sum(checkpoints[number]["state"] == "trained" for number in pair) for pair in pairs]
    chosen = pairs[trained.index(max(trained))] if pairs else (0,)
    return [_load(members[_identity(checkpoints[number])]) for number in chosen]


def _draw(profiles: Sequence[Profile], folder: Path) -> list[Path]:
    """``cka.png`` and ``depth.png`` of one or two profiles, as far as they were measured."""
    drawings: dict[str, Callable[[], Any]] = {
        "cka": lambda: figures.cka_figure(compare(profiles[0], profiles[-1])),
        "depth": lambda: figures.depth_figure(profiles),
    }
    needed = {"cka": ["gram_flatten"], "depth": [panel.name for panel in figures.DEPTH_PANELS]}
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name, draw in drawings.items():
        if all(any(variable in profile.data for variable in needed[name]) for profile in profiles):
            with figures.style():
                draw().savefig(folder / f"{name}.png")
            made.append(folder / f"{name}.png")
    return made


def read_record(folder: Path) -> dict[str, Any]:
    """``training.json`` of a network's folder.

    Raises:
        StudyError: it is not there, or does not hold what a card is written from.
    """
    path = folder / "training.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StudyError(
            f"no record of a training at {folder} ({error}); expected training.json, as recipes/finetune.py writes it"
        ) from error
    except (ValueError, RecursionError) as error:
        raise StudyError(f"{path} is not JSON ({error}); put it right or remove it") from error
    metrics = found.get("metrics") if isinstance(found, dict) else None
    shape = OLD_RECORD if isinstance(metrics, dict) and "n" in metrics else RECORD
    if wrong := misfit(found, shape):
        raise StudyError(f"{path}: {wrong}; put it right or remove it")
    return found


# ---------------------------------------------------------------------------------------------------------- writing


def _copy_profile(source: Path, target: Path) -> None:
    """The three files as they are: the manifest holds their hashes, so nothing may be changed in them."""
    target.mkdir(parents=True, exist_ok=True)
    for name in (ARRAYS, ABOUT, MANIFEST):
        shutil.copyfile(source / name, target / name)


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _complete(out: Path, write: Callable[[Path], None]) -> Path:
    """Write beside and rename, so that a folder that is there is whole."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StudyError(f"{out} is there already; give a folder that is not, or an empty one")
    with written_whole(out) as fresh:
        write(fresh)
    return out

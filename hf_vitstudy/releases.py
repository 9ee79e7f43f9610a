"""What a push sends: the files of a checkpoint, a profile, a study or a Space, with card, tables and manifest.

Weights go out as safetensors only. Of a checkpoint's folder only kinds of files go that are listed here, of all else nothing
that runs when it is loaded, but of a Space, which is a program of this package. What `leaks` finds stops the push. What is sent
is what was looked at: texts are read once, and of larger files the hash of then is held against that of what is sent.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from .cards import is_generated, model_card, shows_profile, without_mark
from .dataset_cards import TABLES
from .errors import StudyError
from .hub import (
    BESIDE_MODEL,
    SHOWN_DOT,
    Release,
    check_manifests,
    check_name,
    is_shown,
    manifest_of,
    parse_address,
)
from .hub import CARD as README
from .leaks import Search, pieces
from .markdown import one_line
from .profile import ARRAYS, DESCRIPTION, MANIFEST, load_profile
from .study import RESULTS, find_profiles, load_study, local_folder, make_study
from .study_release import add_to_model, read_record, release_folder, release_profile


RECORD = "training.json"
UNLISTED = ("figures/cka.png", "figures/depth.png", TABLES["measurements"])  # what `release_profile` adds to a profile
RUNS_CODE = (
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".pkl",
    ".pickle",
    ".joblib",
    ".msgpack",
    ".h5",
    ".npy",
    ".npz",
    ".py",
    ".so",
)
SENT = (  # of a checkpoint's folder
    ".safetensors",
    *(".json", ".jsonl", ".yaml", ".yml", ".toml", ".cff", ".csv", ".parquet"),
    *(".md", ".txt", ".rst", ".log", ".html", ".pdf"),
    *(".png", ".jpg", ".jpeg", ".webp", ".gif", ".svg"),
)
SENT_NAMES = ("license", "licence", "notice", "copying", "citation", "authors")
MOST_HELD = 10_000_000  # bytes of a file that is read once; the Hub keeps larger ones by their hash

P = ParamSpec("P")


def _in_one_line(
    open_release: Callable[Concatenate[Path, P], AbstractContextManager[Release]],
) -> Callable[Concatenate[Path, P], AbstractContextManager[Release]]:
    """The same, but what no check foresaw in the files of a folder becomes a line that names it, until the release is open."""

    @contextlib.contextmanager
    @functools.wraps(open_release)
    def opened(folder: Path, /, *rest: P.args, **options: P.kwargs) -> Iterator[Release]:
        with contextlib.ExitStack() as open_until_sent:
            try:
                release = open_until_sent.enter_context(open_release(folder, *rest, **options))
            except StudyError:
                raise
            except (TypeError, ValueError, LookupError, AttributeError) as error:
                raise StudyError(
                    f"cannot make a release of {folder} ({type(error).__name__}: {one_line(error)}); one of its files is not "
                    "as this version writes it, make it again"
                ) from error
            yield release

    return opened


@_in_one_line
@contextlib.contextmanager
def opened(
    folder: Path,
    repo: str,
    *,
    profiles: Path | None = None,
    study: Path | None = None,
    into_model: bool = False,
    license: str | None = None,
) -> Iterator[Release]:
    """What a push of a folder sends to a repository; what is made for it lasts as long as this.

    Args:
        folder: a checkpoint as `save_pretrained` writes it, a profile, or the result of a study.
        repo: ``org/name``, which cards name.
        profiles: of a study, the folder they lie in, by default its own; of a checkpoint, a profile of it, or a folder in which
            one is, here or on the Hub: it goes beside the weights, and the card shows its figures and claims.
        study: of a checkpoint, the result whose verdicts the card shows; by default the one among `profiles`, or else they are
            judged now.
        into_model: a profile goes beside a model's weights, under ``vitstudy/``, and not into a data set of its own.
        license: identifier as the Hub has them, for the card.

    Raises:
        StudyError: it is none of these, is damaged, or holds what is not published.
    """
    kind = _kind(folder)
    if into_model and kind != "profile":
        raise StudyError(f"{folder} is a {kind}; only a profile goes into a model's own repository")
    if into_model and license:
        raise StudyError("--license is for a card, and with --into-model none is written; leave it out")
    if profiles is not None and kind == "profile":
        raise StudyError("--profiles is of a study or a checkpoint; the folder given is a profile already")
    if study is not None and (kind != "checkpoint" or profiles is None):
        raise StudyError("--study is for the card of a checkpoint that is pushed with --profiles; leave it out")
    with tempfile.TemporaryDirectory() as made:
        fresh = Path(made) / "release"
        if kind == "checkpoint":
            shown = _shown(folder, profiles, study, Path(made)) if profiles is not None else {}
            files, left_out = _checkpoint(folder, fresh, {"name": repo, "license": license, **shown})
        elif into_model:
            load_profile(folder)
            files, left_out = _held({name: folder / name for name in (ARRAYS, DESCRIPTION, MANIFEST)}), {}
        elif kind == "profile":
            files, left_out = _files(release_profile(folder, fresh, name=repo, license=license))
        else:
            files, left_out = _files(_study(folder, fresh, repo, profiles, license))
        into = f"{BESIDE_MODEL}/{folder.resolve().name}" if into_model else ""
        placed = {f"{into}/{name}" if into else name: content for name, content in files.items()}
        _refuse_unnamed(placed)
        yield Release(
            kind,
            "model" if into or kind == "checkpoint" else "dataset",
            **_checked(placed, manifest=kind != "profile"),
            left_out=left_out,
            into=into,
            unlisted=UNLISTED if kind == "profile" and not into else (),
        )


@contextlib.contextmanager
def opened_space(repo: str, write: Callable[[Path], Any], *, sdk: str, instead: str = "") -> Iterator[Release]:
    """What a push sends to a Space, which alone may hold programs: those that `write` puts there.

    Args:
        repo: ``org/name`` of the Space.
        write: writes its files into a folder, which is named as the Space is.
        sdk: ``static`` or ``gradio``.
        instead: what to do where the Hub asks for a paid account.

    Raises:
        StudyError: as `write` does, or a file holds what is not published.
    """
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / repo.split("/")[-1]
        write(folder)
        files, left_out = _files(folder, programs=True)
        yield Release("Space", "space", **_checked(files, manifest=True), left_out=left_out, sdk=sdk, instead=instead)


def _checked(files: Mapping[str, Path | bytes], *, manifest: bool) -> dict[str, Any]:
    """``files`` of a release, none of which holds what is not published, and their ``sha256``; with a `manifest` of them."""
    search = Search()
    digests = {}
    for name, content in files.items():
        if manifest and name == MANIFEST:
            continue  # another takes its place
        digests[check_name(name)] = digest(content)
        search.refuse(name, content)
    if manifest:
        listed = manifest_of(digests)
        files, digests = {**files, MANIFEST: listed}, {**digests, MANIFEST: digest(listed)}
    return {"files": files, "sha256": {name: sha256 for name, (sha256, _) in digests.items()}}


def _held(files: Mapping[str, Path | bytes]) -> dict[str, Path | bytes]:
    """The same, small ones read: what a training still writes to is sent as it was looked at."""
    return {
        name: content.read_bytes() if isinstance(content, Path) and content.stat().st_size <= MOST_HELD else content
        for name, content in files.items()
    }


def _refuse_unnamed(names: Iterable[str]) -> None:
    """Raises where a profile would lie in a folder that no ``org/name/folder@revision`` could name."""
    for folder in (name.rpartition("/")[0] for name in names if name.endswith(f"/{DESCRIPTION}")):
        if "@" in folder:
            raise StudyError(
                f"no address could name the profile in {folder}, since what follows an @ is a revision; give its folder "
                "another name"
            )


def _kind(folder: Path) -> str:
    if not folder.is_dir():
        raise StudyError(f"no folder at {folder}; push sends a checkpoint, a profile or a study")
    if all((folder / name).is_file() for name in (MANIFEST, DESCRIPTION, ARRAYS)):
        return "profile"
    if (folder / "config.json").is_file():
        return "checkpoint"
    if (folder / RESULTS).is_file():
        return "study"
    hint = "; judge its profiles first: vitstudy study" if find_profiles(folder) else ""
    raise StudyError(
        f"{folder} is no checkpoint (config.json), no profile ({DESCRIPTION}) and no result of a study ({RESULTS}){hint}"
    )


# ------------------------------------------------------------------------------------------------------ checkpoints


def _checkpoint(folder: Path, fresh: Path, card: dict[str, Any]) -> tuple[dict[str, Path | bytes], dict[str, str]]:
    """(path -> file to send, what is left out -> why): weights, configuration, card, and the profile beside them.

    `card` are arguments of `add_to_model`.
    """
    check_manifests(folder, otherwise=f"if you changed it, delete {MANIFEST} and push again")
    found, left_out = _files(folder, deep=(BESIDE_MODEL, SHOWN_DOT))
    files = _held(found)
    if not any(name.endswith(".safetensors") for name in files):
        other = f", only {next(iter(left_out))}" if left_out else ""
        raise StudyError(f"{folder} has no weights as safetensors{other}; write them with save_pretrained")
    if RECORD in files:
        record = read_record(folder)
        _require_recorded(folder, record, files)
        fresh.mkdir()
        shutil.copyfile(folder / RECORD, fresh / RECORD)
        missing = _kept_card(folder, card, record)
        if missing is None:
            card = card | {"license": card["license"] or _license(folder)}
        add_to_model(fresh, **card)
        made, _ = _files(fresh, deep=(BESIDE_MODEL, SHOWN_DOT))
        made = _held(made)
        files |= {name: path for name, path in made.items() if missing is None or name != README}
        left_out |= missing or {}
    elif "profile" in card:
        raise StudyError(f"{folder} has no {RECORD} to write a card from; push the profile alone, with --into-model")
    elif card["license"]:
        raise _no_card(folder, card["license"])
    return files, left_out


def _require_recorded(folder: Path, record: Mapping[str, Any], files: Mapping[str, Path | bytes]) -> None:
    """Raises where the record of the training, whose accuracy the card shows, is of other weights."""
    told = record.get("files") or {}
    other = sorted(name for name in told if name in files and digest(files[name])[0] != told[name])
    if other:
        raise StudyError(
            f"{folder / RECORD} is of other weights: {other[0]} has another sha256 than there, so the card would give another "
            f"network's accuracy; remove {RECORD}, or push the folder that the training wrote"
        )


def _shown(folder: Path, profiles: Path, study: Path | None, out: Path) -> dict[str, Any]:
    """``profile`` of a checkpoint among those given, and the ``results`` of judging it, as `add_to_model` takes them.

    What lies on the Hub is called as there: its folder in the cache is called by a commit.
    """
    if not (folder / RECORD).is_file():
        return {"profile": profiles}
    place = local_folder(profiles)
    chosen = _of_weights(folder, find_profiles(place), profiles)
    stored = study or (place if (place / RESULTS).is_file() else None)
    results = make_study(place, out / "judged") if stored is None else load_study(stored)
    if profiles.is_dir():
        return {"profile": chosen, "results": results}
    address = parse_address(profiles)
    if stored is None and results["title"] == place.resolve().name:  # no study.json tells one
        results = results | {"title": str(address)}
    called = address.repo.split("/")[-1] if chosen == place and not address.folder else None
    return {"profile": chosen, "results": results, "called": called}


def _of_weights(folder: Path, found: list[Path], where: Path) -> Path:
    """The profile that was measured of the weights in a folder: each file of them is one of its files, by name and sha256."""
    weights = {path.name: digest(path)[0] for path in folder.glob("*.safetensors")}
    names = {place: load_profile(place).provenance["checkpoint"].get("files") or {} for place in found}
    if len(found) == 1 and not names[found[0]]:
        return found[0]  # of a checkpoint on the Hub; what else it tells, `add_to_model` compares
    of_it = [place for place, files in names.items() if weights and weights.items() <= files.items()]
    if not of_it:
        raise StudyError(f"no profile below {where} is of the weights in {folder}; measure that folder first")
    if len(of_it) > 1:
        told = ", ".join(map(str, of_it))
        raise StudyError(f"{len(of_it)} profiles below {where} are of these weights: {told}; name one with --profiles")
    return of_it[0]


def _kept_card(folder: Path, card: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, str] | None:
    """What the card in a folder, which stays, lacks of this push -> why; None where a new one takes its place."""
    if not (folder / README).is_file():
        return None
    text = _card_text(folder)
    if not _is_made(text, record):
        if card["license"]:
            raise _no_card(folder, card["license"])
        why = "the card is your own and stays as it is; without it the push writes one"
        return {f"figures and claims on {README}": why} if "profile" in card else {}
    if "profile" in card or not shows_profile(text):
        return None
    if card["license"]:
        raise StudyError(
            f"{folder / README} shows a profile, and is written anew only with --profiles; give it too, or leave out --license"
        )
    why = "it shows a profile; name that with --profiles to have it written anew"
    return {} if f'("{card["name"]}")' in text else {f"the name {card['name']} on {README}": why}


def _no_card(folder: Path, license: str) -> StudyError:
    own, unknown = (
        f"{folder / README} is your own card and stays as it is",
        f"{folder} has no {RECORD} to write a card from",
    )
    why = own if (folder / README).is_file() else unknown
    return StudyError(f"{why}; write 'license: {license}' into the metadata of {README}, and leave out --license")


def _is_made(text: str, record: Mapping[str, Any]) -> bool:
    """Whether a card is as training or a push wrote it; what it names is then the place it was written for."""
    return is_generated(text) or without_mark(text) == without_mark(model_card(record))


def _card_text(folder: Path) -> str:
    try:
        return (folder / README).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise StudyError(f"{folder / README} is not UTF-8 ({error}); save it as UTF-8, or remove it") from error


def _license(folder: Path) -> str | None:
    """That of the generated card that is there, if any, which a new one keeps."""
    from huggingface_hub import ModelCard

    if not (folder / README).is_file():
        return None
    return ModelCard(_card_text(folder), ignore_metadata_errors=True).data.get("license")


# ---------------------------------------------------------------------------------------------------------- studies


def _study(folder: Path, fresh: Path, repo: str, profiles: Path | None, license: str | None) -> Path:
    found = find_profiles(profiles or folder)
    if not found:
        raise StudyError(
            f"no profile below {profiles or folder}; name the folder of the study's profiles with --profiles"
        )
    return release_folder(load_study(folder), found, fresh, name=repo, license=license)


# ------------------------------------------------------------------------------------------------------------ files


def _files(
    folder: Path, deep: tuple[str, ...] | None = None, *, programs: bool = False
) -> tuple[dict[str, Path | bytes], dict[str, str]]:
    """(path -> file to send, path -> why another is not sent); of subfolders all, or the named ones alone.

    `programs`: Python files too.
    """
    files: dict[str, Path | bytes] = {}
    left_out: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        first = name.split("/")[0]
        if not is_shown(name) or (deep is not None and "/" in name and first not in deep):
            continue
        if path.is_symlink():
            raise StudyError(f"{path} is a link, which could lead out of the folder; put a copy in its place")
        if path.is_dir():
            if deep is not None and "/" not in name and first not in deep:
                left_out[f"{name}/"] = "a folder"
        elif path.suffix.lower() in RUNS_CODE and not (programs and path.suffix == ".py"):
            left_out[name] = "could run code when it is loaded"
        elif deep is not None and not _is_sent(path):
            left_out[name] = "of a kind that could be anything; weights, texts, tables and pictures are sent"
        else:
            files[name] = path
    return files, left_out


def _is_sent(path: Path) -> bool:
    return path.suffix.lower() in SENT or (not path.suffix and path.name.lower() in SENT_NAMES)


def digest(content: Path | bytes) -> tuple[str, int]:
    """(sha256, bytes) of a file."""
    found, size = hashlib.sha256(), 0
    for piece in pieces(content):
        found.update(piece)
        size += len(piece)
    return found.hexdigest(), size

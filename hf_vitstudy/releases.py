"""What a push sends: the files of a checkpoint, a profile or a study, with card, tables and manifest.

Weights go out as safetensors only, and nothing that runs when it is loaded goes out at all. A file that holds a token or the
path of somebody's home stops the push.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from .cards import model_card
from .errors import StudyError
from .hub import BESIDE_MODEL, SHOWN_DOT, TOKEN, Release, check_manifests, check_name, is_shown, manifest_of
from .profile import ARRAYS, DESCRIPTION, MANIFEST, load_profile
from .study import RESULTS, find_profiles, load_study
from .study_release import add_to_model, release_folder, release_profile


README, RECORD = "README.md", "training.json"
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
TEXT = (".json", ".jsonl", ".md", ".yaml", ".yml", ".txt", ".csv", ".html", ".svg", ".js", ".css", ".toml")
PIECE = 1 << 20  # bytes read at once
OVERLAP = 256  # bytes in which a token across two pieces is found


@contextlib.contextmanager
def opened(
    folder: Path,
    repo: str,
    *,
    profiles: Path | None = None,
    into_model: bool = False,
    license: str | None = None,
) -> Iterator[Release]:
    """What a push of a folder sends to a repository; what is made for it lasts as long as this.

    Args:
        folder: a checkpoint as `save_pretrained` writes it, a profile, or the result of a study.
        repo: ``org/name``, which cards name.
        profiles: of a study, the folder they lie in, by default its own; of a checkpoint, the one profile shown on its card.
        into_model: a profile goes beside a model's weights, under ``vitstudy/``, and not into a data set of its own.
        license: identifier as the Hub has them, for the card.

    Raises:
        StudyError: it is none of these, is damaged, or holds what is not published.
    """
    kind = _kind(folder)
    if into_model and kind != "profile":
        raise StudyError(f"{folder} is a {kind}; only a profile goes into a model's own repository")
    if profiles is not None and kind == "profile":
        raise StudyError("--profiles is of a study or a checkpoint; the folder given is a profile already")
    with tempfile.TemporaryDirectory() as made:
        fresh = Path(made) / "release"
        if kind == "checkpoint":
            files, left_out = _checkpoint(folder, fresh, repo, profiles, license)
        elif into_model:
            load_profile(folder)
            files, left_out = {name: folder / name for name in (ARRAYS, DESCRIPTION, MANIFEST)}, {}
        elif kind == "profile":
            files, left_out = _files(release_profile(folder, fresh, name=repo, license=license))
        else:
            files, left_out = _files(_study(folder, fresh, repo, profiles, license))
        if kind != "profile":
            files = _with_manifest(files)
        into = f"{BESIDE_MODEL}/{folder.resolve().name}" if into_model else ""
        yield _release(kind, files, left_out, into)


def _release(kind: str, files: Mapping[str, Path | bytes], left_out: Mapping[str, str], into: str) -> Release:
    for name, content in files.items():
        _refuse_secrets(name, content)
    placed = {check_name(f"{into}/{name}" if into else name): content for name, content in files.items()}
    return Release(kind, "model" if into or kind == "checkpoint" else "dataset", placed, left_out, into)


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


def _checkpoint(
    folder: Path, fresh: Path, repo: str, profile: Path | None, license: str | None
) -> tuple[dict[str, Path | bytes], dict[str, str]]:
    """(path -> file to send, path -> why another is not sent): weights, configuration, card, and the profile beside them."""
    check_manifests(folder)
    files, left_out = _files(folder, deep=(BESIDE_MODEL, SHOWN_DOT))
    if not any(name.endswith(".safetensors") for name in files):
        other = f", only {next(iter(left_out))}" if left_out else ""
        raise StudyError(f"{folder} has no weights as safetensors{other}; write them with save_pretrained")
    if RECORD in files:
        fresh.mkdir()
        shutil.copyfile(folder / RECORD, fresh / RECORD)
        own_card = README in files and not _is_made(folder)
        add_to_model(fresh, profile, name=repo, license=license)
        made, _ = _files(fresh, deep=(BESIDE_MODEL, SHOWN_DOT))
        files |= {name: path for name, path in made.items() if not (own_card and name == README)}
    elif profile is not None:
        raise StudyError(f"{folder} has no {RECORD} to write a card from; push the profile alone, with --into-model")
    return files, left_out


def _is_made(folder: Path) -> bool:
    """Whether the card is as training wrote it; it then names its folder, and in a repository shall name that."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except ValueError as error:
        raise StudyError(f"{folder / RECORD} is not JSON ({error}); put it right or remove it") from error
    return (folder / README).read_text(encoding="utf-8") == model_card(record)


# ---------------------------------------------------------------------------------------------------------- studies


def _study(folder: Path, fresh: Path, repo: str, profiles: Path | None, license: str | None) -> Path:
    found = find_profiles(profiles or folder)
    if not found:
        raise StudyError(
            f"no profile below {profiles or folder}; name the folder of the study's profiles with --profiles"
        )
    return release_folder(load_study(folder), found, fresh, name=repo, license=license)


# ------------------------------------------------------------------------------------------------------------ files


def _files(folder: Path, deep: tuple[str, ...] | None = None) -> tuple[dict[str, Path | bytes], dict[str, str]]:
    """(path -> file to send, path -> why another is not sent); of subfolders all, or the named ones alone."""
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
        elif path.suffix.lower() in RUNS_CODE:
            left_out[name] = "could run code when it is loaded"
        else:
            files[name] = path
    return files, left_out


def _with_manifest(files: Mapping[str, Path | bytes]) -> dict[str, Path | bytes]:
    digests = {name: digest(content) for name, content in files.items() if name != MANIFEST}
    return {**files, MANIFEST: manifest_of(digests)}


def digest(content: Path | bytes) -> tuple[str, int]:
    """(sha256, bytes) of a file."""
    found, size = hashlib.sha256(), 0
    for piece in _pieces(content):
        found.update(piece)
        size += len(piece)
    return found.hexdigest(), size


def _pieces(content: Path | bytes) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with open(content, "rb") as file:
        while piece := file.read(PIECE):
            yield piece


def _refuse_secrets(name: str, content: Path | bytes) -> None:
    """Raises where a file holds what looks like a token or, in a text, the path of the user's home."""
    home = Path.home()
    inside = re.compile(rb"(?<![\w./-])" + re.escape(str(home).encode()) + rb"[/\\]") if home.name else None
    before = b""
    for piece in _pieces(content):
        text = before + piece
        if TOKEN.search(text):
            raise StudyError(f"{name} holds what looks like a token of the Hub, so nothing was sent; remove it there")
        if inside and name.endswith(TEXT) and inside.search(text):
            raise StudyError(f"{name} holds the path of your home folder, so nothing was sent; remove it there")
        before = text[-OVERLAP:]

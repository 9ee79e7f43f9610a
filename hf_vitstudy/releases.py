"""What a push sends: the files of a checkpoint, a profile or a study, with a card and a manifest.

Weights go out as safetensors only, and nothing that runs when it is loaded goes out at all. A file that holds a token or the
path of somebody's home stops the push.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from .cards import model_card
from .errors import StudyError
from .hub import BESIDE_MODEL, TOKEN, Release, check_manifests, check_name, is_shown, manifest_of
from .markdown import Markdown, environment, escape, one_line, tidy
from .profile import ARRAYS, DESCRIPTION, MANIFEST, Profile, load_profile
from .study import RESULTS, find_profiles


README, RECORD = "README.md", "training.json"
RUNS_CODE = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".msgpack", ".h5", ".npy", ".npz", ".py", ".so")
TEXT = (".json", ".jsonl", ".md", ".yaml", ".yml", ".txt", ".csv", ".html", ".svg", ".js", ".css", ".toml")
PIECE = 1 << 20  # bytes read at once
OVERLAP = 256  # bytes in which a token across two pieces is found


def release_of(folder: Path, repo: str, *, into_model: bool = False) -> Release:
    """What a push of a folder sends to a repository.

    Args:
        folder: a checkpoint as `save_pretrained` writes it, a profile, or a study with its profiles.
        repo: ``org/name``, which cards name.
        into_model: a profile goes beside a model's weights, under ``vitstudy/``, and not into a data set of its own.

    Raises:
        StudyError: it is none of these, is damaged, or holds what is not published.
    """
    kind = _kind(folder)
    if into_model and kind != "profile":
        raise StudyError(f"{folder} is a {kind}; only a profile goes into a model's own repository")
    kept, left_out = _files(folder, kind)
    if kind == "profile":
        files = _profile(folder, kept, repo, into_model)
    else:
        files = _with_card(kept, repo) if kind == "checkpoint" else kept
        files = _with_manifest(folder, files)
    for name, content in files.items():
        _refuse_secrets(name, content)
    into = f"{BESIDE_MODEL}/{folder.resolve().name}" if into_model else ""
    placed = {check_name(f"{into}/{name}" if into else name): content for name, content in files.items()}
    return Release(kind, "model" if into_model or kind == "checkpoint" else "dataset", placed, left_out, into)


def _kind(folder: Path) -> str:
    if not folder.is_dir():
        raise StudyError(f"no folder at {folder}; push sends a checkpoint, a profile or a study")
    if all((folder / name).is_file() for name in (MANIFEST, DESCRIPTION, ARRAYS)):
        return "profile"
    if (folder / "config.json").is_file():
        return "checkpoint"
    if (folder / RESULTS).is_file() or find_profiles(folder):
        return "study"
    raise StudyError(
        f"{folder} is no checkpoint (config.json), no profile ({MANIFEST}, {DESCRIPTION}) and no study ({RESULTS} or profiles)"
    )


# ------------------------------------------------------------------------------------------------------------ files


def _files(folder: Path, kind: str) -> tuple[dict[str, Path], dict[str, str]]:
    """(path -> file to send, path -> why another is not sent)."""
    kept, left_out = {}, {}
    for path in sorted(folder.rglob("*") if kind == "study" else folder.iterdir()):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise StudyError(f"{path} is a link, which could lead out of the folder; put a copy in its place")
        if path.is_dir() or not is_shown(name):
            continue
        if path.suffix.lower() in RUNS_CODE:
            left_out[name] = "could run code when it is loaded"
        else:
            kept[name] = path
    if kind == "checkpoint":
        _require_weights(folder, kept, left_out)
        left_out |= {f"{path.name}/": "a folder" for path in sorted(folder.iterdir()) if path.is_dir() and is_shown(path.name)}
    return kept, left_out


def _require_weights(folder: Path, kept: Mapping[str, Path], left_out: Mapping[str, str]) -> None:
    if not any(name.endswith(".safetensors") for name in kept):
        other = f", only {next(iter(left_out))}" if left_out else ""
        raise StudyError(f"{folder} has no weights as safetensors{other}; write them with save_pretrained")


def _with_card(files: Mapping[str, Path], repo: str) -> dict[str, Path | bytes]:
    """A card that training wrote names the folder it lies in; in a repository it names that. One changed by hand stays."""
    if RECORD not in files:
        return dict(files)
    try:
        record = json.loads(files[RECORD].read_text(encoding="utf-8"))
    except ValueError as error:
        raise StudyError(f"{files[RECORD]} is not JSON ({error}); put it right or remove it") from error
    if README in files and files[README].read_text(encoding="utf-8") != model_card(record):
        return dict(files)
    return {**files, README: model_card(record, name=repo).encode()}


def _with_manifest(folder: Path, files: Mapping[str, Path | bytes]) -> dict[str, Path | bytes]:
    """With a manifest of all files; one that is there already must agree with them."""
    check_manifests(folder)
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
    home = str(Path.home()).encode()
    private = re.compile(rb"(?<![\w./-])" + re.escape(home) + rb"[/\\]") if len(Path(home.decode()).parts) > 1 else None
    before = b""
    for piece in _pieces(content):
        text = before + piece
        if TOKEN.search(text):
            raise StudyError(f"{name} holds what looks like a token of the Hub, so nothing was sent; remove it there")
        if private and name.endswith(TEXT) and private.search(text):
            raise StudyError(f"{name} holds the path of your home folder, so nothing was sent; remove it there")
        before = text[-OVERLAP:]


# --------------------------------------------------------------------------------------------------------- profiles


def _profile(folder: Path, kept: Mapping[str, Path], repo: str, into_model: bool) -> dict[str, Path | bytes]:
    """The profile's three files, and the card of a repository of its own."""
    profile = load_profile(folder)
    files: dict[str, Path | bytes] = {name: kept[name] for name in (ARRAYS, DESCRIPTION, MANIFEST)}
    if into_model:
        return files
    return {**files, README: kept[README] if README in kept else profile_card(profile, repo).encode()}


def profile_card(profile: Profile, repo: str) -> str:
    """The card of a data set that is one profile: what was measured of what on what, and how to read it."""
    from huggingface_hub import DatasetCardData

    about, images = profile.provenance["checkpoint"], profile.provenance["images"]
    title = one_line(repo.split("/")[-1])
    data = DatasetCardData(
        pretty_name=title, tags=["hf_vitstudy", "vision", "interpretability"], viewer=False
    )  # no table for the Hub's viewer
    measured = [
        (f"{name}", str(array.attrs.get("long_name", "")), str(array.attrs.get("unit", "")), str(array.attrs.get("source", "")))
        for name, array in profile.data.data_vars.items()
        if "long_name" in array.attrs or "source" in array.attrs
    ]
    context = {
        "title": title,
        "repo": Markdown(repo),
        "name": profile.name,
        "checkpoint": _facts(about, ("revision", "weights_sha256", "parameters", "image_size")),
        "images": _facts(images, ("name", "split", "revision", "n", "seed", "sha256")),
        "n": profile.n_images,
        "places": int(profile.data.sizes["block"]),
        "measured": measured,
        "absent": sorted(profile.provenance.get("absent", {}).items()),
        "versions": Markdown(", ".join(f"{escape(k)} {escape(str(v))}" for k, v in profile.provenance.get("versions", {}).items())),
    }
    text = environment().get_template("profile_card.md").render(context)
    return f"---\n{data.to_yaml()}\n---\n\n{tidy(text)}"


def _facts(table: Mapping[str, object], names: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(name, str(table[name])) for name in names if table.get(name) is not None]

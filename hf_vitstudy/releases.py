"""What a push sends: the files of a checkpoint, a profile, a study or a Space, with card, tables and manifest.

Weights go out as safetensors only, and nothing that runs when it is loaded goes out at all, but of a Space, which is a program
of this package. A file that holds a token, the path of somebody's home or the name of this machine stops the push.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import platform
import re
import shutil
import socket
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from .cards import model_card
from .errors import StudyError
from .hub import BESIDE_MODEL, SHOWN_DOT, TOKEN, Release, check_manifests, check_name, is_shown, manifest_of
from .markdown import one_line
from .profile import ARRAYS, DESCRIPTION, MANIFEST, load_profile
from .study import RESULTS, find_profiles, load_study, local_folder, make_study
from .study_release import add_to_model, read_record, release_folder, release_profile


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
TEXT = (".json", ".jsonl", ".md", ".yaml", ".yml", ".txt", ".csv", ".html", ".svg", ".js", ".css", ".toml", ".py")
PIECE = 1 << 20  # bytes read at once
OVERLAP = 256  # bytes in which a token across two pieces is found
SHORTEST_HOST = 6  # letters of the name of a machine that is looked for
EVERYWHERE = {"localhost", "localdomain"}  # names that tell nothing

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
            files, left_out = {name: folder / name for name in (ARRAYS, DESCRIPTION, MANIFEST)}, {}
        elif kind == "profile":
            files, left_out = _files(release_profile(folder, fresh, name=repo, license=license))
        else:
            files, left_out = _files(_study(folder, fresh, repo, profiles, license))
        if kind != "profile":
            files = _with_manifest(files)
        into = f"{BESIDE_MODEL}/{folder.resolve().name}" if into_model else ""
        kept = _checked(files)
        placed = {check_name(f"{into}/{name}" if into else name): content for name, content in kept.items()}
        _refuse_unnamed(placed)
        yield Release(kind, "model" if into or kind == "checkpoint" else "dataset", placed, left_out, into)


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
        yield Release("Space", "space", _checked(_with_manifest(files)), left_out, sdk=sdk, instead=instead)


def _checked(files: Mapping[str, Path | bytes]) -> Mapping[str, Path | bytes]:
    """The same, none of which holds what is not published."""
    for name, content in files.items():
        _refuse_secrets(check_name(name), content)
    return files


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
    """(path -> file to send, path -> why another is not sent): weights, configuration, card, and the profile beside them.

    `card` are arguments of `add_to_model`.
    """
    check_manifests(folder)
    files, left_out = _files(folder, deep=(BESIDE_MODEL, SHOWN_DOT))
    if not any(name.endswith(".safetensors") for name in files):
        other = f", only {next(iter(left_out))}" if left_out else ""
        raise StudyError(f"{folder} has no weights as safetensors{other}; write them with save_pretrained")
    if RECORD in files:
        record = read_record(folder)
        fresh.mkdir()
        shutil.copyfile(folder / RECORD, fresh / RECORD)
        own_card = README in files and not _is_made(folder, record)
        add_to_model(fresh, **card)
        made, _ = _files(fresh, deep=(BESIDE_MODEL, SHOWN_DOT))
        files |= {name: path for name, path in made.items() if not (own_card and name == README)}
    elif "profile" in card:
        raise StudyError(f"{folder} has no {RECORD} to write a card from; push the profile alone, with --into-model")
    return files, left_out


def _shown(folder: Path, profiles: Path, study: Path | None, out: Path) -> dict[str, Any]:
    """``profile`` of a checkpoint among those given, and the ``results`` of judging it, as `add_to_model` takes them."""
    if not (folder / RECORD).is_file():
        return {"profile": profiles}
    place = local_folder(profiles)
    chosen = _of_weights(folder, find_profiles(place), profiles)
    stored = study or (place if (place / RESULTS).is_file() else None)
    return {"profile": chosen, "results": make_study(place, out / "judged") if stored is None else load_study(stored)}


def _of_weights(folder: Path, found: list[Path], where: Path) -> Path:
    """The profile that was measured of the weights in a folder."""
    if len(found) == 1:
        return found[0]  # whether it is of other weights, `add_to_model` looks
    weights = {path.name: digest(path)[0] for path in folder.glob("*.safetensors")}
    names = {place: load_profile(place).provenance["checkpoint"].get("files") or {} for place in found}
    of_it = [place for place, files in names.items() if weights and weights.items() <= files.items()]
    if not of_it:
        raise StudyError(f"no profile below {where} is of the weights in {folder}; measure that folder first")
    if len(of_it) > 1:
        told = ", ".join(map(str, of_it))
        raise StudyError(f"{len(of_it)} profiles below {where} are of these weights: {told}; name one with --profiles")
    return of_it[0]


def _is_made(folder: Path, record: Mapping[str, Any]) -> bool:
    """Whether the card is as training wrote it; it then names its folder, and in a repository shall name that."""
    try:
        return (folder / README).read_text(encoding="utf-8") == model_card(record)
    except UnicodeDecodeError as error:
        raise StudyError(f"{folder / README} is not UTF-8 ({error}); save it as UTF-8, or remove it") from error


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
    """Raises where a file holds what looks like a token or, in a text, the path of the user's home or this machine's name."""
    if name.endswith(".zip"):
        _refuse_packed_secrets(name, content)
    looked_for = {"what looks like a token of the Hub": TOKEN}
    if name.endswith(TEXT):
        found = {"the path of your home folder": _home_pattern(), "the name of this machine": _host_pattern()}
        looked_for |= {what: pattern for what, pattern in found.items() if pattern}
    before = b""
    for piece in _pieces(content):
        text = before + piece
        for what, pattern in looked_for.items():
            if pattern.search(text):
                raise StudyError(f"{name} holds {what}, so nothing was sent; remove it there")
        before = text[-OVERLAP:]


def _refuse_packed_secrets(name: str, content: Path | bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(content) if isinstance(content, bytes) else content) as packed:
        for member in packed.infolist():
            _refuse_secrets(f"{name}/{member.filename}", packed.read(member))


def _home_pattern() -> re.Pattern[bytes] | None:
    home = Path.home()
    return re.compile(rb"(?<![\w./-])" + re.escape(str(home).encode()) + rb"[/\\]") if home.name else None


def _host_pattern() -> re.Pattern[bytes] | None:
    """Of the names of this machine, as whole words.

    A name of letters alone could be any word (titan, resnet): it is looked for where a host stands, as in ``user@titan`` and
    ``hostname: titan``.
    """
    whole = {socket.gethostname(), platform.node()}
    names = {name for each in whole for name in (each, each.split(".")[0])} - EVERYWHERE
    patterns = []
    for name in sorted(name for name in names if len(name) >= SHORTEST_HOST and name.isascii()):
        before = rb"(?:@|host(?:_?name)?[\"']?\s*[:=]\s*[\"']?)" if name.isalpha() else rb"(?<![\w-])"
        patterns.append(before + re.escape(name.encode()) + rb"(?![\w-])")
    return re.compile(b"|".join(patterns), re.IGNORECASE) if patterns else None

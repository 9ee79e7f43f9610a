"""Push and pull: the only file that writes to repositories on the Hub; `jobs` only starts Jobs.

A release is one commit on top of the one that was looked at, so that readers see all of it or nothing, and two writers never
mix. What comes back is checked twice: against the hashes that the Hub lists, and against ``manifest.json``.

A token is never an argument: `huggingface_hub` finds the one of ``hf auth login`` or of ``HF_TOKEN``. File names from the Hub
are checked before anything is written, and nothing that comes back is run.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from . import __version__
from .errors import StudyError
from .markdown import one_line
from .profile import DESCRIPTION, MANIFEST, written_whole


FORMAT = 1  # of the manifest of a release
BESIDE_MODEL = "vitstudy"  # folder of a model's own repository that holds its profiles
MAIN = "main"
SHOWN_DOT = ".eval_results"  # the one hidden folder that is part of a release: the Hub reads evaluation results there
CARD = "README.md"
LONGEST_NAME = 255  # bytes of one part of a path, on all common file systems

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9_]|[-.](?![-.]|/|@|$))*"  # as the Hub has them: no .., no --, no - or . at the end
_ADDRESS = re.compile(
    rf"(?:(?P<type>models|datasets|spaces)/)?(?P<repo>{_NAME}/{_NAME})(?P<folder>(?:/[^/@]+)*)(?:@(?P<revision>[^@]+))?",
    re.ASCII,
)
_REVISION = re.compile(r"(?!-)[\w.+-]+(?:/[\w.+-]+)*", re.ASCII)
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\.|$)")  # devices of Windows
TOKEN = re.compile(rb"\bhf_(?:oauth_|jwt_)?[A-Za-z0-9]{16,}")


@dataclass(frozen=True)
class Address:
    """Attributes:

    repo: ``org/name``.
    type: ``model``, ``dataset`` or ``space``; None where the address does not say it.
    folder: inside the repository, empty for all of it.
    revision: branch, tag or commit.
    """

    repo: str
    type: str | None = None
    folder: str = ""
    revision: str = MAIN

    def __str__(self) -> str:
        prefix = f"{self.type}s/" if self.type else ""
        at = "" if self.revision == MAIN else f"@{self.revision}"
        return f"{prefix}{self.repo}{'/' if self.folder else ''}{self.folder}{at}"


@dataclass(frozen=True)
class Release:
    """What one push sends.

    Attributes:
        kind: ``checkpoint``, ``profile``, ``study`` or ``Space``.
        type: of the repository, ``model``, ``dataset`` or ``space``.
        files: path in the repository -> file on disk, or its content.
        left_out: path -> why a file of the folder is not sent; or what of this push is not on a card that stays, and why.
        into: folder of an existing repository; empty where the release is the repository.
        sdk: of a Space, ``static`` or ``gradio``.
        instead: what to do where the Hub asks for a paid account.
        sha256: path in the repository -> hash of the file as it was looked at; where given, nothing else is sent.
        unlisted: files that an earlier release may have brought though its manifest, a profile's own, does not list them.
    """

    kind: str
    type: str
    files: Mapping[str, Path | bytes]
    left_out: Mapping[str, str]
    into: str = ""
    sdk: str | None = None
    instead: str = ""
    sha256: Mapping[str, str] = field(default_factory=dict)
    unlisted: tuple[str, ...] = ()

    def sizes(self) -> dict[str, int]:
        """Path in the repository -> bytes."""
        return {
            name: len(content) if isinstance(content, bytes) else content.stat().st_size
            for name, content in self.files.items()
        }


@dataclass(frozen=True)
class Pushed:
    """Where a release lies: address, commit, whether the push made a new commit, and what an earlier release brought that
    is not of this one, but stays, since somebody changed it."""

    url: str
    commit: str
    new: bool
    kept: tuple[str, ...] = ()


# -------------------------------------------------------------------------------------------------------- addresses


def is_address(text: str | os.PathLike) -> bool:
    """Whether this reads as ``org/name[/folder][@revision]``, with ``datasets/`` before it or not."""
    try:
        parse_address(text)
    except StudyError:
        return False
    return True


def parse_address(text: str | os.PathLike) -> Address:
    """The parts of ``[datasets/]org/name[/folder][@revision]``.

    Raises:
        StudyError: it is none, or one of its parts could lead elsewhere.
    """
    text = text.as_posix() if isinstance(text, Path) else str(text)
    found = _ADDRESS.fullmatch(text)
    if not found:
        raise StudyError(f"expected org/name or org/name@revision, got {one_line(text)!r}")
    repo, folder, revision = check_repo(found["repo"]), found["folder"].strip("/"), found["revision"] or MAIN
    if folder:
        check_name(folder)
    kind = found["type"].removesuffix("s") if found["type"] else None
    return Address(repo, kind, folder, check_revision(revision))


def check_repo(repo: str) -> str:
    """The id of a repository, if it is one.

    Raises:
        StudyError: it is not ``org/name`` as the Hub allows it.
    """
    if not re.fullmatch(f"{_NAME}/{_NAME}", repo, re.ASCII) or len(repo) > 96 or repo.endswith(".git"):
        raise StudyError(
            f"a repository is called org/name, of letters, digits, '-', '_' and '.', at most 96; got {one_line(repo)!r}"
        )
    return repo


def check_revision(revision: str) -> str:
    """The name of a branch or tag, or a commit, if it is one.

    Raises:
        StudyError: it could be read as a path or an option.
    """
    if not _REVISION.fullmatch(revision) or ".." in revision or len(revision) > LONGEST_NAME:
        raise StudyError(f"a revision is a branch, a tag or a commit; got {one_line(revision)!r}")
    return revision


def check_name(name: str) -> str:
    """The path of a file in a repository, if it stays inside any folder on any system.

    Raises:
        StudyError: it is absolute, goes up, holds signs that no file name should, or is a device of Windows.
    """
    parts = name.split("/")
    plain = name.isprintable() and not re.search(r'[\\:*?"<>|]', name) and len(name) < 4 * LONGEST_NAME
    if not plain or any(not _is_part(part) for part in parts):
        raise StudyError(f"refused a file called {one_line(name)!r}: such a name could leave its folder")
    return name


def _is_part(part: str) -> bool:
    """One step of a path: neither empty, nor up or here, nor a device, nor what some systems trim."""
    return (
        part.strip(" ") == part
        and part not in ("", ".", "..", ".git")
        and not part.endswith(".")
        and not _RESERVED.match(part)
        and len(part.encode()) <= LONGEST_NAME
    )


def is_shown(name: str) -> bool:
    """Whether a file is part of a release: nothing hidden is, but the Hub's folder of evaluation results."""
    return not any(part.startswith(".") and part != SHOWN_DOT for part in PurePosixPath(name).parts)


# ------------------------------------------------------------------------------------------------------------- push


def push(
    release: Release,
    repo: str,
    *,
    revision: str = MAIN,
    message: str | None = None,
    private: bool = False,
    parent: str | None = None,
) -> Pushed:
    """Send a release as one commit; files that are there already are not sent again.

    What an earlier release listed in its manifest and this one lacks is deleted in the same commit, unless somebody changed it;
    other files stay.

    Args:
        repo: ``org/name``; made where it is not there, unless the release goes into a folder of it.
        revision: branch, made where it is not there.
        message: of the commit.
        private: make the repository private; refused where it is public already.
        parent: commit that the branch must be at; by default the one it is at when the push begins.

    Raises:
        StudyError: the Hub refuses, cannot be reached, or the branch moved meanwhile. The branch is then as it was.
    """
    check_repo(repo)
    check_revision(revision)
    for name in release.files:
        check_name(name)
    with explained(f"push to {repo}", paid=release.instead):
        api = _api()
        head, empty = _prepare(api, release, repo, revision, private)
    after = f"; {repo} is there now with nothing of yours in it, and the same command fills it" if empty else ""
    with explained(f"push to {repo}", after="" if parent else after, paid=release.instead):
        there = _tree(api, repo, release.type, head)
        _require_same_weights(api, release, repo, head, there)
        listed = _listed_there(api, release, repo, head, there)
        additions = _additions(release, _manifest_above(api, release, repo, head, there))
        deleted, kept = _left_behind(api, release, repo, head, there, listed)
        about = {"repo_type": release.type, "revision": revision}
        api.preupload_lfs_files(repo, additions, **about)
        _refuse_ignored(repo, additions)
        found = api.create_commit(
            repo,
            [*additions, *deleted],
            commit_message=message or f"{release.kind.capitalize()} ({len(release.files)} files) by hf_vitstudy",
            parent_commit=parent or head,
            **about,
        )
    with explained(f"look at what was pushed: {repo} is at commit {found.oid[:8]}, but"):
        _check_arrived(api, release.type, repo, found.oid, additions)
    prefix = "" if release.type == "model" else f"{release.type}s/"
    return Pushed(f"{api.endpoint}/{prefix}{repo}/tree/{found.oid}", found.oid, found.oid != head, tuple(kept))


def make_repo(repo: str, kind: str) -> None:
    """Make a repository of a type where it is not there: so that it is known that this account may write to it.

    Raises:
        StudyError: the Hub refuses, or cannot be reached.
    """
    with explained(f"make {check_repo(repo)}"):
        _api().create_repo(repo, repo_type=kind, exist_ok=True)


def _prepare(api: Any, release: Release, repo: str, revision: str, private: bool) -> tuple[str, bool]:
    """Repository and branch are there; the commit that the branch is at, and whether the repository holds no files yet."""
    if not release.into:
        api.create_repo(repo, repo_type=release.type, private=private or None, exist_ok=True, space_sdk=release.sdk)
    about = api.repo_info(repo, repo_type=release.type)
    if private and not about.private:
        raise StudyError(f"{repo} is public already, so nothing was sent; make it private in its settings, then push")
    if revision == MAIN:
        return about.sha, _is_empty(about, release.type)
    api.create_branch(repo, branch=revision, repo_type=release.type, exist_ok=True)
    return api.repo_info(repo, repo_type=release.type, revision=revision).sha, _is_empty(about, release.type)


def _is_empty(about: Any, kind: str) -> bool:
    """Whether a repository is as the Hub makes it: with nothing but settings of git, and of a Space a card."""
    made = (".gitattributes", CARD) if kind == "space" else (".gitattributes",)
    return all(file.rfilename in made for file in about.siblings or ())


def _additions(release: Release, further: Mapping[str, bytes]) -> list[Any]:
    """What is sent, of every file the hash that it had when it was looked at."""
    from huggingface_hub import CommitOperationAdd

    found = [CommitOperationAdd(name, content) for name, content in sorted({**release.files, **further}.items())]
    for each in found:
        name, sent = each.path_in_repo, each.upload_info.sha256.hex()
        if release.sha256.get(name, sent) != sent:
            raise StudyError(
                f"{name} changed while it was looked at, so nothing was sent; push when nothing writes to it"
            )
    return found


def _listed_there(api: Any, release: Release, repo: str, head: str, there: Mapping[str, Any]) -> dict[str, str]:
    """path -> sha256 of what an earlier release brought to the same place; empty where it is not known."""
    prefix = f"{release.into}/" if release.into else ""
    if prefix + MANIFEST not in there:
        return {}
    path = api.hf_hub_download(repo, prefix + MANIFEST, repo_type=release.type, revision=head)
    return dict.fromkeys(release.unlisted, "") | {
        prefix + name: digest for name, digest in _listed(Path(path)).items()
    }


def _left_behind(
    api: Any, release: Release, repo: str, head: str, there: Mapping[str, Any], listed: Mapping[str, str]
) -> tuple[list[Any], list[str]]:
    """Deletions of what an earlier release brought and this one does not; and which of it stays, since somebody changed it."""
    from huggingface_hub import CommitOperationDelete

    gone = sorted((set(listed) & set(there)) - set(release.files))

    def changed(name: str) -> bool:
        return bool(listed[name]) and _sha256_there(api, repo, release.type, head, there[name]) != listed[name]

    deleted = [name for name in gone if not changed(name)]
    return [CommitOperationDelete(name, is_folder=False) for name in deleted], sorted(set(gone) - set(deleted))


def _require_same_weights(api: Any, release: Release, repo: str, head: str, there: Mapping[str, Any]) -> None:
    """Raises where a profile goes beside weights of a model that it tells are others; it may tell nothing of them."""
    from huggingface_hub.errors import RevisionNotFoundError

    description = release.files.get(f"{release.into}/{DESCRIPTION}") if release.into else None
    if description is None:
        return
    text = description if isinstance(description, bytes) else description.read_bytes()
    about = json.loads(text)["provenance"].get("checkpoint") or {}
    told = about.get("files") or {}
    if not told and about.get("name") == repo and about.get("revision"):  # measured of this repository
        with contextlib.suppress(RevisionNotFoundError):
            told = _weights(api, repo, about["revision"], _tree(api, repo, "model", about["revision"]))
    theirs = _weights(api, repo, head, there) if told else {}
    differing = sorted(name for name, digest in theirs.items() if digest != told.get(name))
    if differing:
        raise StudyError(
            f"cannot put a profile beside {repo}: it is of other weights than {differing[0]} there; measure {repo}, and "
            "push that profile"
        )


def _weights(api: Any, repo: str, commit: str, tree: Mapping[str, Any]) -> dict[str, str]:
    """sha256 of each file of a model's weights, by name."""
    return {
        name: _sha256_there(api, repo, "model", commit, file)
        for name, file in tree.items()
        if "/" not in name and name.endswith(".safetensors")
    }


def _sha256_there(api: Any, repo: str, kind: str, commit: str, file: Any) -> str:
    """Of a file in a repository; the Hub lists it of those in LFS."""
    if file.lfs is not None:
        return file.lfs.sha256
    return file_sha256(Path(api.hf_hub_download(repo, file.path, repo_type=kind, revision=commit)))


def _manifest_above(api: Any, release: Release, repo: str, head: str, there: Mapping[str, Any]) -> dict[str, bytes]:
    """The manifest of the model beside which a profile goes, where it lists what the profile takes the place of."""
    if not release.into or MANIFEST not in there:
        return {}
    path = Path(api.hf_hub_download(repo, MANIFEST, repo_type=release.type, revision=head))
    if not any(_within(name, release.into) for name in _listed(path)):
        return {}
    others = {
        name: (str(entry["sha256"]), entry.get("size", 0))
        for name, entry in json.loads(path.read_bytes())["files"].items()
        if not _within(name, release.into)
    }
    sizes = release.sizes()
    return {MANIFEST: manifest_of(others | {name: (release.sha256[name], sizes[name]) for name in release.files})}


def _refuse_ignored(repo: str, additions: Iterable[Any]) -> None:
    """A ``.gitignore`` in a repository makes it drop files without a word."""
    ignored = [each.path_in_repo for each in additions if getattr(each, "_should_ignore", False)]
    if ignored:
        raise StudyError(
            f"{repo} would leave out {ignored[0]!r}, which a .gitignore there excludes, so nothing was committed; remove that"
        )


def _check_arrived(api: Any, kind: str, repo: str, commit: str, additions: Iterable[Any]) -> None:
    """What the Hub lists is what was sent."""
    there = _tree(api, repo, kind, commit)
    for each in additions:
        with each.as_file() as file:
            sent, listed = each.upload_info, there.get(each.path_in_repo)
            if listed is None or not _is_listed(listed, sent.size, sent.sha256.hex, file.read):
                raise StudyError(f"{repo} at {commit[:8]} lacks {each.path_in_repo!r} as it was sent; push again")


# ------------------------------------------------------------------------------------------------------------- pull


def pull(address: str, out: Path) -> Path:
    """Copy what an address names into a new folder, every byte checked; the folder appears when it is complete.

    Raises:
        StudyError: as `fetch`, or `out` is there already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StudyError(f"{out} is there already; name another folder with --out, or delete it")
    found = fetch(address)
    with written_whole(out) as fresh:
        for name in _files_below(found):
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found / name, fresh / name)  # of links, what they point to
        check_manifests(fresh)
    return out


def fetch(address: str | os.PathLike, *, profiles: bool = False) -> Path:
    """The folder of the Hub's cache with what an address names, every byte checked. Offline, what is there already.

    Args:
        profiles: of a model's repository fetch its profiles alone, not its weights.

    Raises:
        StudyError: no such repository, revision or folder; no release there; a name that could leave its folder; a file that
            is not what the Hub and the manifest say.
    """
    from huggingface_hub import constants

    where = parse_address(address)
    with explained(f"pull {where}"):
        folder = _cached(where, profiles) if constants.HF_HUB_OFFLINE else _download(where, profiles)
    if not check_manifests(folder):
        raise StudyError(
            f"{where} holds no {MANIFEST}, so it is no release of vitstudy; `hf download` gets any repository"
        )
    return folder


def _download(where: Address, profiles: bool) -> Path:
    """What is wanted of a repository, by the commit that the revision means now."""
    from huggingface_hub import snapshot_download

    api = _api()
    kind, commit = _look_up(api, where)
    scope = _scope(where, kind, profiles)
    there = {name: file for name, file in _tree(api, where.repo, kind, commit).items() if _within(name, scope)}
    for name in there:
        check_name(name)
    wanted = {name: file for name, file in there.items() if is_shown(name)}
    if not wanted:
        empty = f"{where} holds no release yet; if a push there was interrupted, the same push again finishes it"
        raise StudyError(f"{where.repo} has no folder {scope!r} at {where.revision}" if scope else empty)
    root = snapshot_download(
        where.repo,
        repo_type=kind,
        revision=where.revision,  # not the commit: so the cache learns what the branch means, for work offline
        allow_patterns=f"{glob.escape(scope)}/*" if scope else None,
        ignore_patterns=_hidden_patterns(there),
        library_name="hf_vitstudy",
        library_version=__version__,
    )
    if Path(root).name != commit:  # it answers from its cache where the Hub fails, or the branch moved
        raise StudyError(f"{where} changed while it was pulled; pull again")
    for name, file in wanted.items():
        _check_file(Path(root) / name, file)
    return Path(root) / scope


def _hidden_patterns(names: Iterable[str]) -> list[str]:
    """Patterns of all that is hidden among names, and of nothing else. They are few: each is held against every name."""
    patterns = set()
    for name in names:
        parts = name.split("/")
        for part, is_last in zip(parts, [*[False] * (len(parts) - 1), True], strict=True):
            if not is_shown(part):
                end = glob.escape(part) + ("" if is_last else "/*")
                patterns |= {end, f"*/{end}"}
                break
    return sorted(patterns)


def _look_up(api: Any, where: Address) -> tuple[str, str]:
    """(type, commit) of the repository: where the address does not say, a data set before a model."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    *others, last = [where.type] if where.type else ["dataset", "model"]
    for kind in others:
        try:
            return kind, api.repo_info(where.repo, repo_type=kind, revision=where.revision).sha
        except GatedRepoError:
            raise  # it is there
        except RepositoryNotFoundError:
            continue
    return last, api.repo_info(where.repo, repo_type=last, revision=where.revision).sha


def _cached(where: Address, profiles: bool) -> Path:
    """The same from the cache alone."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    for kind in [where.type] if where.type else ["dataset", "model"]:
        scope = _scope(where, kind, profiles)
        patterns = f"{scope}/*" if scope else None
        with contextlib.suppress(LocalEntryNotFoundError):
            root = snapshot_download(
                where.repo, repo_type=kind, revision=where.revision, allow_patterns=patterns,
                ignore_patterns=[".*", "*/.*"], local_files_only=True,
            )  # fmt: skip
            return Path(root) / scope
    raise StudyError(
        f"{where} is not in the cache of this machine, and HF_HUB_OFFLINE is set; pull it once with a network"
    )


def _scope(where: Address, kind: str, profiles: bool) -> str:
    return where.folder or (BESIDE_MODEL if profiles and kind == "model" else "")


def _within(name: str, folder: str) -> bool:
    return not folder or name.startswith(f"{folder}/")


def _tree(api: Any, repo: str, kind: str, commit: str) -> dict[str, Any]:
    """path -> what the Hub lists of every file: ``size``, ``blob_id`` (git's sha1), ``lfs.sha256``."""
    return {
        file.path: file
        for file in api.list_repo_tree(repo, repo_type=kind, revision=commit, recursive=True)
        if hasattr(file, "size")
    }


# --------------------------------------------------------------------------------------------------------- checking


def manifest_of(digests: Mapping[str, tuple[str, int]]) -> bytes:
    """``manifest.json`` of a release, from path -> (sha256, bytes)."""
    files = {name: {"sha256": digest, "size": size} for name, (digest, size) in sorted(digests.items())}
    return json.dumps({"format": FORMAT, "files": files}, indent=1).encode()


def check_manifests(folder: Path, otherwise: str = "push or pull it again") -> int:
    """The number of manifests in a folder, after every file that one lists was compared with it.

    Cards are edited on the Hub's pages, so that of them any text is right.

    Args:
        otherwise: what to do where a file is another.

    Raises:
        StudyError: a file is missing or another.
    """
    found = 0
    for name in _files_below(folder):
        if PurePosixPath(name).name != MANIFEST:
            continue
        manifest = folder / name
        for listed, digest in _listed(manifest).items():
            path = manifest.parent / check_name(listed)
            if not path.is_file():
                raise StudyError(f"{path} is missing, and {name} lists it; {otherwise}")
            if not is_editable(listed) and file_sha256(path) != digest:
                raise StudyError(f"{path} is damaged: its sha256 is not that of {name}; {otherwise}")
        found += bool(_listed(manifest))
    return found


def is_editable(name: str) -> bool:
    """Whether a file is one that people edit where it lies: the card, and results of evaluations."""
    return name == CARD or name.startswith(f"{SHOWN_DOT}/")


def _listed(manifest: Path) -> dict[str, str]:
    """path -> sha256; empty where the file is no manifest of a release or profile."""
    try:
        files = json.loads(manifest.read_bytes())["files"]
        return {str(name): str(entry["sha256"]) for name, entry in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _check_file(path: Path, listed: Any) -> None:
    """Raises where a file of the cache is not what the Hub lists."""
    size = path.stat().st_size if path.is_file() else -1
    if not _is_listed(listed, size, lambda: file_sha256(path), path.read_bytes):
        raise StudyError(
            f"{path} is damaged: not the {listed.size} bytes that the Hub lists; delete it and pull again"
        )


def _is_listed(listed: Any, size: int, sha256: Callable[[], str], content: Callable[[], bytes]) -> bool:
    """Whether a file is what the Hub lists, by its sha256 in LFS, by git's sha1 of small ones."""
    if size != listed.size:
        return False
    if listed.lfs is not None:
        return sha256() == listed.lfs.sha256
    return hashlib.sha1(b"blob %d\0" % size + content()).hexdigest() == listed.blob_id


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files_below(folder: Path) -> list[str]:
    """Paths of files below a folder, relative and sorted, without hidden ones."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if is_shown(name))


# ------------------------------------------------------------------------------------------------------ collections


def collect(collection: str, addresses: Iterable[str], *, note: str | None = None, private: bool = False) -> str:
    """Add repositories to a Collection, which is made where it is not there; returns its slug.

    Args:
        collection: ``org/title``, or the slug of one that exists, ``org/title-0123456789abcdef01234567``.
        addresses: ``org/name``, with ``datasets/`` or ``spaces/`` before it or not.
        note: shown beside each.
        private: of a new Collection.

    Raises:
        StudyError: no such repository, or the Hub refuses.
    """
    namespace, title = check_collection(collection)
    with explained(f"add to the Collection {one_line(collection)}"):
        api = _api()
        items = [(where.repo, _look_up(api, where)[0]) for where in map(parse_address, addresses)]
        slug = collection
        if not re.fullmatch(rf"{_NAME}/[\w-]+-[0-9a-f]{{24}}", collection, re.ASCII):
            slug = api.create_collection(title, namespace=namespace, private=private, exists_ok=True).slug
        for repo, kind in items:
            api.add_collection_item(slug, item_id=repo, item_type=kind, note=note, exists_ok=True)
    return slug


def check_collection(collection: str) -> tuple[str, str]:
    """(organisation, title) of what a Collection is called.

    Raises:
        StudyError: one of the two is missing, or no name.
    """
    namespace, _, title = collection.partition("/")
    if not re.fullmatch(_NAME, namespace, re.ASCII) or not title.strip() or not title.isprintable():
        raise StudyError(f"a Collection is called org/title, got {one_line(collection)!r}")
    return namespace, title.strip()


# ----------------------------------------------------------------------------------------------------------- errors

ADVICE = {
    400: "the Hub does not accept what was sent",
    401: "log in with `hf auth login`, or set HF_TOKEN",
    402: "the Hub asks for a paid account",
    403: "this account or its token may not do this; use a token with write permission, or another organisation",
    404: "nothing is there; check the name, the revision, and whether you may see it",
    409: "something is there already, or another change is under way; look at it and try again",
    412: "somebody committed there meanwhile, and nothing was changed; look at the new commit, then push again",
    413: "a file is larger than the Hub takes",
    429: "too many requests; wait some minutes and run the same command again",
}
TROUBLE = "the Hub has trouble; run the same command again later, what was uploaded is not sent again"


@contextlib.contextmanager
def explained(what: str, *, after: str = "", paid: str = "") -> Iterator[None]:
    """Errors of the Hub and of the network become one line that says what to do and holds no token.

    Args:
        what: was to be done.
        after: the end of that line.
        paid: what to do where the Hub asks for a paid account.

    Raises:
        StudyError: instead of any of them.
    """
    expected: tuple[Any, ...] = (*_network(), OSError, ValueError, RuntimeError, EOFError)
    try:
        yield
    except StudyError:
        raise
    except expected as error:
        raise StudyError(f"cannot {what}: {_reason(error, paid)}{after}") from None


def _network() -> tuple[type[Exception], ...]:
    """Errors of a connection: of the HTTP library, which differs from version to version, and of Python."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__mro__[1], ConnectionError, TimeoutError


def _reason(error: BaseException, paid: str = "") -> str:
    """What went wrong and what to do; an upload wraps the error that tells it into another."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    for each in chain:
        if isinstance(each, OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set; unset it to reach the Hub"
        if "/xet-write-token/" in str(each) and "404" in str(each):  # hf_xet asks by itself, and tells it in words
            return "404, this Hub takes no uploads by Xet; set HF_HUB_DISABLE_XET=1, then run the same command again"
        if isinstance(each, HfHubHTTPError):
            return f"{_advice(each, paid)}{_said(each.server_message)}"
        if isinstance(each, _network()):
            said = without_token(each) or type(each).__name__
            return f"no answer ({said}); check the network, then run the same command again"
    return without_token(error)


def _advice(error: Any, paid: str = "") -> str:
    """What to do about an answer of the Hub, which says 401 also of a repository that is not there."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    status = error.response.status_code
    if status == 402 and paid:
        return f"402, {paid}"
    if isinstance(error, RevisionNotFoundError):
        return f"{status}, no such branch, tag or commit"
    if isinstance(error, GatedRepoError):  # which is a RepositoryNotFoundError to old readers
        return f"{status}, it is gated: ask for access on its page, and log in with `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return f"{status}, no such repository, or not for you; check the name, and log in with `hf auth login` if it is private"
    return f"{status}, {ADVICE.get(status, TROUBLE if status >= 500 else 'the Hub refuses')}"


def _said(message: str | None) -> str:
    return f" (it says: {without_token(message)})" if message else ""


def without_token(text: Any) -> str:
    """One line, in which no token is left, also none that a server repeats."""
    from huggingface_hub import get_token

    line, own = str(text), get_token()
    if own:
        line = line.replace(own, "hf_…")
    return one_line(TOKEN.sub(b"hf_...", line.encode()).decode())


def _api() -> Any:
    from huggingface_hub import HfApi

    return HfApi(library_name="hf_vitstudy", library_version=__version__)

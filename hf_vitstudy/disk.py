"""How files are written here: whole or not at all, one process at a time, and in plain words where the disk refuses.

What a kill at any instant, a full disk or a second process must not do is leave half a file where a whole one was.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import StudyError


try:
    import fcntl
except ImportError:  # Windows, where nothing below is locked
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"


@contextlib.contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """An empty folder to write to, which takes the place of `folder` when all went well; until then that stays as it is.

    At no instant is `folder` missing, so that a kill leaves the old one or the new one. What a killed process had begun is
    deleted by the next.

    Raises:
        StudyError: the disk is full, or may not be written to.
    """
    with explained(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh, handle = _begin(folder)
    try:
        yield fresh
        with explained(folder), _alone_beside(folder):
            put_in_place(fresh, folder)
        fsync_folder(folder.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)  # now the old folder, or what was not finished
        os.close(handle)


@contextlib.contextmanager
def explained(folder: Path, stays: str = "What was there before is as it was") -> Iterator[None]:
    """What the disk refuses, in one line.

    Args:
        folder: or file that is written.
        stays: what is not lost by it.

    Raises:
        StudyError: instead of an OSError, or of what safetensors makes of one.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise StudyError(
            f"cannot write {folder}: {why} ({_free(folder)} free there); make room or choose another folder. {stays}"
        ) from error


def _free(folder: Path) -> str:
    there = next((parent for parent in (folder, *folder.absolute().parents) if os.path.isdir(parent)), Path.cwd())
    return f"{shutil.disk_usage(there).free / 1e6:,.1f} MB"


def require_place(path: Path) -> None:
    """A folder is at `path`, or can be made there; asked before the work whose result goes there.

    Raises:
        StudyError: something else is in the way.
    """
    there = next((place for place in (path, *path.absolute().parents) if os.path.lexists(place)), path)
    if not there.is_dir():
        raise StudyError(f"{there} is no folder, so nothing can be written into {path}; choose another place")


def require_name(path: Path, what: str, *, replaced: bool = False) -> None:
    """A file can be written to `path`; asked before the work whose result goes there.

    Args:
        path: of the file.
        what: it is, such as ``an HTML file``.
        replaced: whether another file is moved there, so that a device or a link would be gone; folders are then made, too.

    Raises:
        StudyError: a folder has that name, or none is there to hold the file; or what would be replaced is no regular file.
    """
    if os.path.isdir(path):  # also of a name that is too long, of which pathlib makes an error
        raise StudyError(f"{path} is a folder, expected the name of {what}; choose one in it, or beside it")
    if replaced:
        require_place(path.parent)
        if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
            kind = "a link" if path.is_symlink() else "no regular file"
            raise StudyError(f"{path} is {kind} and would be replaced by {what}; choose another name")
    elif not os.path.isdir(path.parent):
        raise StudyError(f"there is no folder {path.parent} for {path.name}; make it first, or choose another place")


def fsync_folder(folder: Path) -> None:
    """Make a rename survive a power cut; folders cannot be opened on every system."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# -------------------------------------------------------------------------------------------------------- replacement


def _begin(folder: Path) -> tuple[Path, int]:
    """(an empty folder beside `folder`, the handle that says that somebody writes to it)."""
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    with _alone_beside(folder):  # or another process would take this folder for a leftover before it is locked
        for leftover in (*folder.parent.glob(f".{folder.name}.*.new"), *folder.parent.glob(f".{folder.name}.*.old")):
            _clear_up(leftover, folder)
        fresh.mkdir()
        handle = os.open(fresh, os.O_RDONLY)
        _flock(handle)
    return fresh, handle


@contextlib.contextmanager
def _alone_beside(folder: Path) -> Iterator[None]:
    """Only one process at a time begins or ends beside a folder."""
    handle = os.open(folder.parent, os.O_RDONLY)
    try:
        _flock(handle, wait=True)
        yield
    finally:
        os.close(handle)


def _clear_up(leftover: Path, folder: Path) -> None:
    """Delete what a killed process left; where it had moved the old folder away, that comes back."""
    try:
        handle = os.open(leftover, os.O_RDONLY)
    except FileNotFoundError:
        return  # another process that was done meanwhile
    try:
        if _flock(handle):
            if leftover.suffix == ".old" and not folder.exists():
                leftover.rename(folder)
            shutil.rmtree(leftover, ignore_errors=True)
    finally:
        os.close(handle)


def _flock(handle: int, wait: bool = False) -> bool:
    """Lock an open folder until it is closed or the process ends; False where another has it, or where there are no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:  # held by another, or a network's disk that knows no locks of folders
        return False
    return True


def put_in_place(fresh: Path, folder: Path) -> None:
    """`fresh` becomes `folder`; an older one is then at `fresh`, or gone."""
    try:
        os.rename(fresh, folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EACCES):  # the last is what Windows says
            raise
        if not exchange(fresh, folder):
            _move_aside(fresh, folder)


def exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step, as Linux can on most disks; False where it cannot be done."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, TypeError, OSError):  # macOS, Windows
        return False
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(renameat2(here, os.fsencode(first), here, os.fsencode(second), swap) == 0)


def _move_aside(fresh: Path, folder: Path) -> None:
    """The same in two steps; a kill between them leaves the older folder to `_clear_up`."""
    old = fresh.with_suffix(".old")
    os.rename(folder, old)
    try:
        os.rename(fresh, folder)
    except BaseException:
        os.rename(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


# -------------------------------------------------------------------------------------------------- one process only


@contextlib.contextmanager
def only_process(folder: Path, doing: str) -> Iterator[None]:
    """Keep other processes out of `folder` until the block is left or this process ends, however it ends.

    Args:
        folder: made if it is not there.
        doing: what is said of the process that has it, such as ``training into``.

    Raises:
        StudyError: another process has it, or it cannot be written to.
    """
    path = folder / LOCK
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file, ours = _open_lock(path)
    try:
        if not ours:
            raise StudyError(
                f"{file.read().strip() or 'another process'} is {doing} {folder}; wait for it, or choose another folder"
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        file.close()


def _open_lock(path: Path) -> tuple[Any, bool]:
    """(the lock's file, to be closed by the caller; whether it is now locked for this process).

    An owner that leaves deletes the file, also between the opening and the locking by another; what is locked then is no
    longer what the next process finds at `path`.
    """
    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
        file.seek(0)
        ours = _lock(file)
        if not ours or _lies_at(file, path):
            return file, ours
        file.close()


def _lies_at(file: Any, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _lock(file: Any) -> bool:
    """By POSIX record locks: the system ends them with the process, and they are not handed on to its workers."""
    if fcntl is None:
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
    return True  # also on a disk that knows no locks

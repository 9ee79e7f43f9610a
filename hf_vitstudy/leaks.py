"""What no published file may hold: a token, the path of somebody's home, the name of a machine.

Tokens are looked for in every byte; paths and names in texts, in the header of safetensors, and in the names of files. What is
packed is looked into.
"""

from __future__ import annotations

import io
import lzma
import platform
import re
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .errors import StudyError
from .hub import TOKEN
from .markdown import one_line


PIECE = 1 << 20  # bytes read at once
OVERLAP = 256  # bytes in which a token across two pieces is found
HEAD = 8192  # bytes that tell whether a file is a text
LONGEST_HEADER = 100_000_000  # bytes, of safetensors
SHORTEST_HOST = 6  # letters of the name of a machine that is looked for
SHORTEST_TOKEN = 8  # letters of a token of one's own
EVERYWHERE = {"localhost", "localdomain"}  # names that tell nothing

Patterns = dict[str, re.Pattern[bytes]]  # what is looked for -> how


class Search:
    """What is looked for on this machine, found out once for all files of a push."""

    def __init__(self) -> None:
        self._tokens, self._places = _tokens(), _places()

    def refuse(self, name: str, content: Path | bytes) -> None:
        """Look for all of it in a file and its name.

        Raises:
            StudyError: it was found, said without repeating it; or a packed file is damaged.
        """
        _look(f"the name {one_line(name)!r}", [name.encode()], self._tokens | self._places, "rename it")
        try:
            if name.lower().endswith(".zip"):
                with zipfile.ZipFile(io.BytesIO(content) if isinstance(content, bytes) else content) as packed:
                    for member in packed.infolist():
                        self.refuse(f"{name}/{member.filename}", packed.read(member))
            elif name.lower().endswith(".xz"):
                with _opened(content) as file, lzma.open(file) as inner:
                    self._look_into(name[: -len(".xz")], inner)
        except (zipfile.BadZipFile, lzma.LZMAError, EOFError, RuntimeError) as error:
            raise StudyError(f"{name} cannot be looked into ({error}), so nothing was sent; remove it") from error
        with _opened(content) as file:
            self._look_into(name, file)

    def _look_into(self, name: str, file: IO[bytes]) -> None:
        head = file.read(HEAD)
        if name.lower().endswith(".safetensors"):
            head += file.read(min(int.from_bytes(head[:8], "little"), LONGEST_HEADER))
            _look(name, [head[8:]], self._places)
        text = b"\0" not in head
        _look(name, _all(head, file), self._tokens | (self._places if text else {}))


def pieces(content: Path | bytes) -> Iterator[bytes]:
    """The bytes of a file, some at a time."""
    with _opened(content) as file:
        while piece := file.read(PIECE):
            yield piece


def _opened(content: Path | bytes) -> IO[bytes]:
    return io.BytesIO(content) if isinstance(content, bytes) else open(content, "rb")


def _all(head: bytes, file: IO[bytes]) -> Iterator[bytes]:
    yield head
    while piece := file.read(PIECE):
        yield piece


def _look(
    name: str, content: Iterator[bytes] | list[bytes], looked_for: Patterns, what: str = "remove it there"
) -> None:
    before = b""
    for piece in content:
        text = before + piece
        for found, pattern in looked_for.items():
            if pattern.search(text):
                raise StudyError(f"{name} holds {found}, so nothing was sent; {what}")
        before = text[-OVERLAP:]


def _tokens() -> Patterns:
    from huggingface_hub import get_token

    own = (get_token() or "").encode()
    mine = {"your token of the Hub": re.compile(re.escape(own))} if len(own) >= SHORTEST_TOKEN else {}
    return {"what looks like a token of the Hub": TOKEN} | mine


def _places() -> Patterns:
    found = {"the path of your home folder": _home_pattern(), "the name of this machine": _host_pattern()}
    return {what: pattern for what, pattern in found.items() if pattern}


def _home_pattern() -> re.Pattern[bytes] | None:
    r"""Of the home folder where a path begins, as in ``file:///home/me``, ``-I/home/me`` and, in JSON, ``C:\\Users\\me``.

    A home right below the root, as ``/root``, could be a word of anything: of it something below must be named.
    """
    first, *parts = (part.encode() for part in Path.home().parts)
    if not parts:
        return None
    start = re.escape(first.rstrip(rb"\/")) + rb"[/\\]{1,2}"
    end = rb"(?![\w-])" if len(parts) > 1 else rb"[/\\]"
    return re.compile(
        rb"(?:(?<![\w.-])|(?<=[\s\"']-[A-Z]))" + start + rb"[/\\]{1,2}".join(map(re.escape, parts)) + end
    )


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

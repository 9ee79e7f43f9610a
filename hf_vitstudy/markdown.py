"""Text from strangers in Markdown: names of classes, data sets and checkpoints show as they are, whatever signs they hold."""

from __future__ import annotations

import re
from typing import Any


LONGEST = 200  # characters shown of one text
MARKUP = re.compile(r"[&<>\"`*\[\]{}\\|~#$^]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")  # inside a word _ means nothing


class Markdown(str):
    """Text that is Markdown already and goes into a document as it is."""


def environment() -> Any:
    """The package's templates, every expression in them escaped unless it is `Markdown`."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("hf_vitstudy", "templates"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # escapes HTML only; this escapes Markdown too
        finalize=lambda value: value if isinstance(value, Markdown) else escape(str(value)),
    )
    made.filters["code"] = code
    return made


def one_line(text: Any) -> str:
    """One line of bounded length; what cannot be printed, such as a reversal of the direction of writing, becomes �."""
    return _shortened(_printable(text))


def escape(text: str, shorten: bool = True) -> str:
    """Text that Markdown and HTML show as it is. Character references, unlike backslashes, hold in tables too."""
    return MARKUP.sub(lambda match: f"&#{ord(match[0])};", one_line(text) if shorten else _printable(text))


def code(text: str, language: str) -> Markdown:
    """A block of code; its fence is longer than any row of backticks inside."""
    longest = max((len(row) for row in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markdown(f"{fence}{language}\n{text.rstrip()}\n{fence}")


def tidy(text: str) -> str:
    """At most one empty line in a row, and one end of line at the end."""
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _printable(text: Any) -> str:
    return " ".join("".join(sign if sign.isprintable() or sign.isspace() else "\ufffd" for sign in str(text)).split())


def _shortened(line: str) -> str:
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"

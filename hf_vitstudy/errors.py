"""The exceptions of the package: what the user can put right."""

import difflib
from collections.abc import Iterable


class StudyError(ValueError):
    """Bad input, said in one line: what was got, what was expected, what to do.

    The command line prints the message without a traceback and exits with `code`.
    """

    code = 2


class DivergedError(StudyError):
    """Training whose loss or gradient is no longer finite. Its own code tells a scheduler that nothing was misspelt."""

    code = 3


def in_words(error: BaseException) -> str:
    """What an error of other code says, in one line that is not long: its type and its text."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def nearest_name(name: str, known: Iterable[str], most: int = 1) -> str:
    """A hint for a name that is not there: the known ones like it, at most `most`, else all."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=most, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(known)}"

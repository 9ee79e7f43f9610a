"""What a machine runs out of, in plain words: the GPU's memory, and processes that decode images."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from .errors import StudyError


PATIENCE = 600.0  # seconds that a worker may take for a batch; by default torch waits for ever


@contextlib.contextmanager
def machine_explained(smaller: str) -> Iterator[None]:
    """Says in one line what torch says in a traceback.

    A worker that is killed raises in whatever the main process does at that moment, so this goes around the whole loop.

    Args:
        smaller: how to need less of the GPU's memory, such as ``lower --batch-size``.

    Raises:
        StudyError: the GPU's memory is full; a worker was killed or hangs.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise StudyError(f"the GPU's memory is full ({_short(error)}); {smaller}") from error
    except RuntimeError as error:
        if "DataLoader" not in str(error):
            raise
        why = "hangs" if "timed out" in str(error) else "was killed, as the system does when memory is full"
        raise StudyError(
            f"a process that decodes images {why} ({_short(error)}); use fewer workers, or 0. What is finished is kept"
        ) from error


def patience(workers: int) -> float:
    """The ``timeout`` of a `DataLoader`."""
    return PATIENCE if workers else 0


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200].rstrip(". ")

"""Two checkpoints that look at visitors' images: loaded in the background, one image at a time, nothing kept.

An image is bytes of a request and never a path or an address; it lies in memory until its answer is written, and no
answer is stored, so that nobody can be given another's. torch is imported by the thread that loads, if at all.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import hub
from ..errors import StudyError


if TYPE_CHECKING:
    import numpy as np

    from .looking import Eye

log = logging.getLogger(__name__)

MOST_WAITING = 16
URGENT = {
    "field": 0,
    "attention": 0,
    "all": 1,
    "sweep": 2,
}  # a pointer that rests on a place does not wait for filters
THREADS = 2
ALLOWED = frozenset(
    {
        "google/vit-base-patch16-224", "google/vit-large-patch16-224", "facebook/deit-tiny-patch16-224",
        "facebook/deit-small-patch16-224", "facebook/deit-base-patch16-224", "facebook/dinov2-small-imagenet1k-1-layer",
        "facebook/dinov2-base-imagenet1k-1-layer", "microsoft/resnet-18", "microsoft/resnet-26", "microsoft/resnet-34",
        "microsoft/resnet-50", "microsoft/resnet-101", "microsoft/resnet-152", "facebook/convnext-tiny-224",
        "facebook/convnext-base-224",
    }
)  # fmt: skip
NOT_NAMED = (
    "This copy was started without live checkpoints: examples are stored results. Start it with --live A --live B."
)
NO_TORCH = "torch and transformers are not installed here, so no network can look at an image; the examples are stored results."
FAILED = "The live checkpoints could not be loaded here; the examples are stored results."


class BusyError(StudyError):
    """More people wait than can be told a time."""


def check_live(sources: Sequence[str]) -> list[str]:
    """The two checkpoints, if they may be loaded: local folders, or checkpoints on the Hub that are known to be safe here.

    Raises:
        StudyError: another number than two or none; one on the Hub that is not among `ALLOWED`.
    """
    if sources and len(sources) != 2:
        raise StudyError(f"expected two live checkpoints or none, got {len(sources)}: {', '.join(sources)}")
    for each in sources:
        known = hub.is_address(each) and hub.parse_address(each).repo in ALLOWED
        if not known and not Path(each).is_dir():
            raise StudyError(
                f"{each!r} is neither a folder here nor one of the checkpoints on the Hub that may be loaded: "
                f"{', '.join(sorted(ALLOWED))}"
            )
    return list(sources)


class Line:
    """One thread that works on what waits, the most urgent first, else in the order of coming."""

    def __init__(self) -> None:
        self._waiting: queue.PriorityQueue = queue.PriorityQueue()
        self._turn = itertools.count()
        self._lock = threading.Lock()
        self._count = 0
        threading.Thread(target=self._work, name="looking", daemon=True).start()

    def run(self, urgent: int, work: Callable[[], Any]) -> Any:
        """What `work` returns, when its turn has come.

        Raises:
            BusyError: too many wait.
        """
        with self._lock:
            if self._count >= MOST_WAITING:
                raise BusyError("many images are being looked at just now; try again in a few seconds")
            self._count += 1
            place = next(self._turn)
        future: Future = Future()
        try:
            self._waiting.put((urgent, place, work, future))
            return future.result()
        finally:
            with self._lock:
                self._count -= 1

    def _work(self) -> None:
        while True:
            _, _, work, future = self._waiting.get()
            try:
                future.set_result(work())
            except BaseException as error:  # belongs to whoever asked
                future.set_exception(error)
            del work, future  # with the image


class Live:
    """Two checkpoints, or the reason why there are none."""

    def __init__(self, sources: Sequence[str] = ()) -> None:
        self.sources = check_live(sources)
        self.state, self.reason = ("loading", "") if self.sources else ("absent", NOT_NAMED)
        self.eyes: list[Eye] = []
        self._line = Line()

    def start(self) -> Live:
        """Load in the background."""
        if self.sources:
            threading.Thread(target=self._load, name="loading", daemon=True).start()
        return self

    def _load(self) -> None:
        try:
            import torch

            from .looking import Eye

            torch.set_num_threads(THREADS)
            self.eyes = [Eye(source) for source in self.sources]
            self.state = "ready"
        except ImportError:
            self.state, self.reason = "absent", NO_TORCH
        except Exception:  # the page is of use without; what went wrong is for whoever runs it, not for visitors
            log.exception("live checkpoints")
            self.state, self.reason = "absent", FAILED

    def about(self) -> dict[str, Any]:
        """``state`` (absent, loading or ready), the ``reason`` if absent, and both networks when ready."""
        return {"state": self.state, "reason": self.reason, "sides": [eye.about() for eye in self.eyes]}

    def answer(self, content: bytes, ask: dict[str, Any]) -> dict[str, Any]:
        """What the networks say of one image; waits for those who came before.

        Args:
            content: the bytes of an image file.
            ask: ``want`` (all, attention, field or sweep), and ``side``, ``layer``, ``block``, ``piece``, ``y``, ``x``.

        Raises:
            BusyError: too many wait.
            StudyError: not an image.
        """
        return self._line.run(URGENT[ask["want"]], lambda: self._look(content, ask))

    def _look(self, content: bytes, ask: dict[str, Any]) -> dict[str, Any]:
        from .looking import read_image

        image = read_image(content)
        if ask["want"] == "all":
            return {"sides": [eye.look(eye.prepare(image), ask["layer"]) for eye in self.eyes]}
        eye = self.eyes[ask["side"]]
        return one_answer(eye, eye.exact(image), ask)


def one_answer(eye: Eye, pixels: np.ndarray, ask: dict[str, Any]) -> dict[str, Any]:
    """What one network says of pixels as it was shown them: attention of a layer, a receptive field, or filters."""
    if ask["want"] == "attention":
        return {"attention": eye.look(pixels, ask["layer"])["attention"]}
    if ask["want"] == "field":
        return {"field": eye.field(pixels, ask["block"], ask["y"], ask["x"])}
    return {"sweep": eye.sweep(pixels, ask["piece"])}

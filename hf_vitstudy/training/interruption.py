"""Asked to end: by SIGTERM, as clusters and rented machines do before they kill, or by Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

import torch


NOTED = b"\nstopping after this step and a checkpoint; Ctrl-C again stops at once\n"


class Stopping:
    """Whether this process was asked to end; a context, within which signals are noted.

    Attributes:
        finishing: whether the step under way is to be finished. Else, and at a second Ctrl-C, the process ends at once.
        signal: the number of the signal, None as long as nobody asked.
    """

    def __init__(self) -> None:
        self.finishing = False
        self.signal: int | None = None
        self._before: dict[int, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():  # others may not set handlers
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a worker that decodes images, which Ctrl-C reaches as well: the step under way needs it
        again = self.signal is not None and number == signal.SIGINT
        if again or not self.finishing:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        self.signal = number
        os.write(2, NOTED)  # print may be in the middle of a line of its own

    def agreed(self, accelerator: Any) -> bool:
        """Whether any process was asked to end; with several, all must call this in the same step."""
        if accelerator.num_processes > 1:
            mine = torch.tensor([self.signal or 0], device=accelerator.device)
            self.signal = int(accelerator.gather(mine).amax()) or None
        return self.signal is not None

    @property
    def code(self) -> int:
        """What a shell expects of a process that ended by a signal."""
        return 128 + (self.signal or 0)

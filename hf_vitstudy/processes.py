"""One measurement by several processes, as ``accelerate launch`` and ``torchrun`` start them.

Networks do not talk to each other while they measure, so all that is needed is to share out the batches and to collect what was
kept of them. That goes over gloo whatever the device: it is a few megabytes at the end.
"""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from .errors import StudyError


class Processes:
    """The processes that share a measurement; alone where nothing was launched.

    Attributes:
        rank: of this one; 0 is the main process.
        world: how many there are.
    """

    def __init__(self, rank: int = 0, world: int = 1, group: Any = None) -> None:
        self.rank, self.world, self._group = rank, world, group

    @property
    def main(self) -> bool:
        return self.rank == 0

    def all(self, value: Any) -> list[Any]:
        """The value of every process, in the order of their ranks, on all of them."""
        if self.world == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.world
        with _others_there():
            dist.all_gather_object(values, value, group=self._group)
        return values

    def on_main(self, value: Any) -> list[Any]:
        """The value of every process on the main one; empty on the others."""
        if self.world == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] | None = [None] * self.world if self.main else None
        with _others_there():
            dist.gather_object(value, values, group=self._group, group_dst=0)
        return values or []

    def from_main(self, value: Any) -> Any:
        """The main process' value, on all of them."""
        return self.all(value if self.main else None)[0]

    @contextlib.contextmanager
    def failing_together(self) -> Iterator[None]:
        """What one process cannot do, none does: an error in the block of any is raised by all, once all have left it."""
        problem: Exception | None = None
        try:
            yield
        except Exception as error:
            problem = error
        said = self.all(None if problem is None else str(problem))
        if problem is not None:
            raise problem
        first = next((rank for rank, text in enumerate(said) if text is not None), None)
        if first is not None:
            raise StudyError(f"process {first} of {self.world}: {said[first]}")


@contextlib.contextmanager
def _others_there() -> Iterator[None]:
    """One line where another process has died, which closes its connections; gloo's own text is of sockets."""
    try:
        yield
    except RuntimeError as error:
        raise StudyError(
            "another process has ended, so this one does; see what it said or who killed it. Finished batches are kept: go on "
            "with --resume"
        ) from error


@contextlib.contextmanager
def launched(alone: bool = False, hours: float = 12) -> Iterator[Processes]:
    """The processes of a group that has been set up, else those that a launcher has started, told by its environment.

    The group that is set up for those stays for the next measurement: a second one at the same port may reach what is left of
    the first.

    Args:
        alone: leave the others be.
        hours: how long one may wait for another.
    """
    import torch.distributed as dist

    there = dist.is_available() and dist.is_initialized()
    world = dist.get_world_size() if there else int(os.environ.get("WORLD_SIZE", "1"))
    if alone or world == 1:
        yield Processes()
        return
    timeout = timedelta(hours=hours)
    if not there:
        dist.init_process_group("gloo", timeout=timeout)
        atexit.register(_leave)
    group = dist.new_group(backend="gloo", timeout=timeout) if there else None
    try:
        yield Processes(dist.get_rank(), world, group)
    finally:
        if group is not None:
            dist.destroy_process_group(group)


def _leave() -> None:
    """Ends the group before the interpreter does: a thread of gloo that is left then aborts the process, though all is done."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def own_device(device: str, processes: Processes) -> str:
    """``auto`` made definite: with several processes each takes the GPU of its place on this machine."""
    if device != "auto" or processes.world == 1:
        return device
    import torch

    count = torch.cuda.device_count()
    if not count:
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', processes.rank)) % count}"

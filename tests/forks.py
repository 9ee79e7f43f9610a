"""Real processes for tests, to be killed or to share work, that cost no imports.

One process is forked when all tests have been collected: everything is imported, nothing has run yet, so that there are no
threads and no GPU is in use. It forks a child for every job, or the several that a launcher would have started.
"""

from __future__ import annotations

import importlib
import itertools
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


ENVIRONMENT = {
    "GLOO_SOCKET_IFNAME": "lo",
    "ACCELERATE_USE_CPU": "true",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",  # of programs that a job starts
}
IMPORTED = (
    *("torch", "datasets", "accelerate", "toy_recipes", "hf_vitstudy.cli", "hf_vitstudy.measuring"),
    *("transformers.models.vit.modeling_vit", "transformers.models.resnet.modeling_resnet"),
)
LIMIT = 180  # seconds that a job may take, so that a test fails where it would wait for ever


@dataclass(frozen=True)
class Job:
    """A function of a test module in a process of its own.

    Attributes:
        function, arguments: called in every process of the job.
        world: processes, with the environment that a launcher sets.
        log: file that all they say is added to.
    """

    function: Callable[..., None]
    arguments: Sequence[Any] = ()
    world: int = 1
    log: Path | str = os.devnull
    environment: dict[str, str] = field(default_factory=dict)


class Forks:
    """The process that forks; `start` it before anything has run."""

    def __init__(self) -> None:
        for name in IMPORTED:
            importlib.import_module(name)
        self._pipe, theirs = multiprocessing.Pipe()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
            self.pid = os.fork()
        if not self.pid:
            self._pipe.close()
            _serve(theirs)
        theirs.close()

    def run(self, *jobs: Job) -> list[list[int]]:
        """The exit codes of the processes of each job, one after the other; of killed ones, minus the signal."""
        self._pipe.send(jobs)
        return self._pipe.recv()

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def _serve(pipe: Connection) -> None:
    try:
        while True:
            pipe.send([_codes(job) for job in pipe.recv()])
    except EOFError:
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _codes(job: Job) -> list[int]:
    port, children = _free_port(), []
    for rank in range(job.world):
        child = os.fork()
        if not child:
            _work(job, rank, port)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def _free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def _work(job: Job, rank: int, port: str) -> None:
    code = 1
    try:
        signal.alarm(LIMIT)
        _prepare(job, rank, port)
        job.function(*job.arguments)
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _prepare(job: Job, rank: int, port: str) -> None:
    """What a new process finds: its output, its environment, no filters of warnings, one thread."""
    import torch

    output = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(output, number)
        setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115
    warnings.resetwarnings()
    os.environ |= ENVIRONMENT | job.environment
    if job.world > 1:  # what torchrun says to each of its processes
        found = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job.world, "LOCAL_WORLD_SIZE": job.world}
        os.environ |= {key: str(value) for key, value in found.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    torch.set_num_threads(1)


# -------------------------------------------------------------------------------------------------------- kills

EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}


def die_everywhere(function: Callable[[Path], None], before: Path) -> None:
    """Call a function on copies of a folder, killed at its first touch of the disk, its second, and so on to its end."""
    for count in itertools.count(1):
        folder = before.with_name(f"killed{count}") / before.name
        shutil.copytree(before, folder)
        child = os.fork()
        if not child:
            seen = itertools.count(1)

            def see(event, arguments, here=str(folder.parent), seen=seen, count=count):
                touches = event in EVENTS and isinstance(arguments[0], str | os.PathLike)
                if touches and os.fspath(arguments[0]).startswith(here) and next(seen) == count:
                    os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(see)
            function(folder)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            return

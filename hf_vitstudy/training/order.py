"""Which images make up which step, and all chance of a run.

Nothing random has a state that could be lost: the order of the images is a function of (seed, epoch), an augmentation of
(seed, epoch, image), dropout of (seed, step, process). So a killed run goes on with the same bits wherever it stood, however
many processes load its images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import StudyError
from .settings import Config


def seed_of(*parts: Any) -> int:
    """63 bits that depend on all parts."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def uniform(key: int, index: np.ndarray, count: int) -> np.ndarray:
    """`count` numbers in [0, 1) for every index, (index, count); each a function of key and index alone.

    A counter through the output function of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014, Fig 13): thousands of generators
    seeded one by one would cost more than the crops they are for.
    """
    counter = np.asarray(index, np.uint64)[:, None] * np.uint64(count) + np.arange(1, count + 1, dtype=np.uint64)
    mixed: Any = np.uint64(key) + counter * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)) * 2.0**-53


def epoch_order(seed: int, epoch: int, n: int) -> Tensor:
    """The order of `n` images in an epoch, (n,)."""
    generator = torch.Generator().manual_seed(seed_of(seed, "order", epoch))
    return torch.randperm(n, generator=generator)


@dataclass(frozen=True)
class Schedule:
    """Which images make up which step. The images that do not fill a last batch are left out, others in every epoch."""

    n: int
    batch_size: int
    steps: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return self.n // self.batch_size

    @property
    def epochs(self) -> float:
        return self.steps / self.steps_per_epoch

    def keys(self, first: int) -> Iterator[list[tuple[int, int]]]:
        """(epoch, image) of each batch, from step `first` to the end."""
        known = -1
        for step in range(first, self.steps):
            epoch, place = divmod(step, self.steps_per_epoch)
            if epoch != known:
                known, order = epoch, epoch_order(self.seed, epoch, self.n).tolist()
            start = place * self.batch_size
            yield [(epoch, index) for index in order[start : start + self.batch_size]]


def make_schedule(config: Config, n: int) -> Schedule:
    """The schedule of `n` training images.

    Raises:
        StudyError: they do not fill one batch.
    """
    if n < config.batch_size:
        raise StudyError(f"{n} training images do not fill one batch of {config.batch_size}; lower batch_size")
    steps = config.steps or (config.epochs or 0) * (n // config.batch_size)
    return Schedule(n, config.batch_size, steps, config.seed)


class MicroBatches:
    """What one process reads: its share of every batch, cut into micro-batches; a batch sampler for `DataLoader`.

    Args:
        batches: the keys of each batch of `batch_size`, from the first step that is still to be done.
        steps: how many.
    """

    def __init__(
        self,
        batches: Iterable[list[Any]],
        steps: int,
        batch_size: int,
        accumulation: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.batches, self.steps, self.accumulation, self.rank, self.world = batches, steps, accumulation, rank, world
        self.size, rest = divmod(batch_size, accumulation * world)
        if rest:
            raise StudyError(
                f"batch_size {batch_size} must be a multiple of accumulation x processes "
                f"({accumulation} x {world}); change one of them"
            )

    def __iter__(self) -> Iterator[list[Any]]:
        for batch in self.batches:
            for micro in range(self.accumulation):
                start = (micro * self.world + self.rank) * self.size
                yield batch[start : start + self.size]

    def __len__(self) -> int:
        return self.steps * self.accumulation

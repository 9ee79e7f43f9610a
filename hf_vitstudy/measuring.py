"""One pass over the images, all measurements at once, a profile at the end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import warnings
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .analyses import DEFAULT, Analysis, Batch, NotApplicableError, Part, make_analysis
from .blocks import AttentionLayer, Block
from .branches import Branch
from .checkpoints import Checkpoint, load_checkpoint
from .errors import StudyError
from .images import ImageSet, digest, load_images, set_digest
from .profile import Profile
from .states import State


def measure(
    checkpoint: str | os.PathLike | Checkpoint,
    images: str | os.PathLike | ImageSet,
    *,
    split: str | None = None,
    revision: str | None = None,
    n: int | None = 2048,
    seed: int = 0,
    batch_size: int = 32,
    analyses: Sequence[str | Analysis] = DEFAULT,
    paper_mode: bool = False,
    device: str = "auto",
    dtype: str = "float32",
    attn: str = "auto",
    blocks: str | None = None,
    untrained: int | None = None,
    workers: int | None = None,
    progress: bool = True,
    out: str | os.PathLike | None = None,
) -> Profile:
    """Everything the analyses say about one checkpoint on one set of images.

    Args:
        checkpoint: Hub id (``org/name@revision``), local folder, or a loaded `Checkpoint`.
        images: Hub id of a data set, parquet file, image folder, or a loaded `ImageSet`.
        split, revision, n, seed: of the data set; see `load_images`.
        batch_size: images per forward pass. CKA's Gram blocks hold as many, at most 32.
        analyses: names with options, such as ``cka:pool=mean``, or `Analysis` objects.
        paper_mode: also measure by the published codes' definitions where they differ.
        device, dtype, attn, blocks: of the network; see `load_checkpoint`.
        untrained: seed of initial weights to measure instead of the trained ones.
        workers: processes that decode images; None takes the cores left, at most four.
        progress: show a bar.
        out: folder to save the profile to.

    Returns:
        The profile. An analysis that means nothing for this checkpoint is absent, and the provenance says why.

    Raises:
        StudyError: bad input; see the message.
    """
    if batch_size < 4:
        raise StudyError(f"a batch needs at least 4 images for unbiased CKA, got batch_size={batch_size}; 32 is usual")
    wanted = [make_analysis(a, paper_mode=paper_mode) if isinstance(a, str) else a for a in analyses]
    if not isinstance(checkpoint, Checkpoint):
        need_attention = any(analysis.needs_attention for analysis in wanted)
        checkpoint = load_checkpoint(
            checkpoint,
            device=device,
            dtype=dtype,
            attn=attn,
            blocks=blocks,
            need_attention=need_attention,
            untrained=untrained,
        )
    elif untrained is not None:
        raise StudyError("untrained is of a checkpoint still to be loaded; give its name, or load_checkpoint(..., untrained=0)")
    if not isinstance(images, ImageSet):
        images = load_images(images, split=split, revision=revision, n=n, seed=seed)
    run = Run(checkpoint, images, wanted, batch_size)
    for batch in _batches(checkpoint, images, batch_size, workers, progress):
        run.step(*batch)
    profile = run.profile()
    if out is not None:
        profile.save(out)
    return profile


class Run:
    """The state of one measurement: the analyses that apply, and what has been seen."""

    def __init__(
        self, checkpoint: Checkpoint, images: ImageSet, analyses: Sequence[Analysis], batch_size: int
    ) -> None:
        self.checkpoint, self.images, self.batch_size = checkpoint, images, batch_size
        self.absent: dict[str, str] = {}
        self.analyses: list[Analysis] = []
        self.parts: dict[str, list[Part]] = {}
        self.digests: list[int] = []
        self.labels = _LabelMap(images.classes, checkpoint.provenance.get("classes"))
        for analysis in analyses:
            with self._dropping(analysis):
                analysis.start(checkpoint, len(images), batch_size)
                self.analyses.append(analysis)
                self.parts[analysis.name] = []

    @contextlib.contextmanager
    def _dropping(self, analysis: Analysis) -> Iterator[None]:
        """An analysis that turns out not to apply leaves the run, with its reason."""
        try:
            yield
        except NotApplicableError as reason:
            self.absent[analysis.name] = str(reason)
            self.analyses = [other for other in self.analyses if other is not analysis]

    def step(self, pixels: Tensor, labels: Tensor, digests: Tensor) -> None:
        """Measure one batch: pixels uint8 (batch, 3, height, width)."""

        def visit(block: Block, state: State) -> None:
            for analysis in self.analyses:
                analysis.visit(block, state)

        def visit_attention(layer: AttentionLayer, weights: Tensor) -> None:
            for analysis in [a for a in self.analyses if a.needs_attention]:
                with self._dropping(analysis):
                    analysis.visit_attention(layer, weights)

        def visit_branch(branch: Branch, skip: State, long: State) -> None:
            for analysis in [a for a in self.analyses if a.needs_branches]:
                with self._dropping(analysis):
                    analysis.visit_branch(branch, skip, long)

        branches = visit_branch if any(a.needs_branches for a in self.analyses) else None
        attention = visit_attention if any(a.needs_attention for a in self.analyses) else None
        images = pixels.to(self.checkpoint.device, non_blocking=True).float().div_(255)
        logits, _ = self.checkpoint.read(images, visit, attention, branches)
        batch = Batch(images, logits, self.labels(labels), labels, first=len(self.digests))
        for analysis in list(self.analyses):
            with self._dropping(analysis), torch.no_grad():
                self.parts[analysis.name].append(analysis.update(batch))
        self.digests += [int(value) & (2**64 - 1) for value in digests]

    def profile(self) -> Profile:
        variables: dict[str, xr.Variable] = {}
        for analysis in list(self.analyses):
            with self._dropping(analysis):
                variables |= analysis.result(self.parts[analysis.name])
        coordinates = {name: value for name, value in variables.items() if value.dims == (name,)}
        data = xr.Dataset(
            {name: value for name, value in variables.items() if name not in coordinates},
            {**coordinates, **_block_coordinates(self.checkpoint.blocks), **self._image_coordinates()},
        )
        return Profile(data, self._provenance())

    def _image_coordinates(self) -> dict[str, xr.Variable]:
        return {"image_digest": xr.Variable(("image",), np.array(self.digests, dtype=np.uint64))}

    def _provenance(self) -> dict[str, Any]:
        images = {**self.images.provenance, "sha256": set_digest(self.digests), "labels": self.labels.note}
        return {
            "checkpoint": {"name": self.checkpoint.name, **self.checkpoint.provenance},
            "images": images,
            "measurement": {
                "analyses": [analysis.name for analysis in self.analyses],
                "batch_size": self.batch_size,
                "device": self.checkpoint.device.type,
            },
            "absent": self.absent,
            "versions": {
                name: metadata.version(name) for name in ("hf_vitstudy", "torch", "transformers", "datasets", "numpy")
            }
            | {"python": platform.python_version()},
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def _block_coordinates(blocks: list[Block]) -> dict[str, xr.Variable]:
    columns = {
        "block": [block.name for block in blocks],
        "kind": [block.kind for block in blocks],
        "depth": np.array([block.depth for block in blocks]),
        "stage": np.array([block.stage for block in blocks], dtype=np.int32),
        "channels": np.array([block.channels for block in blocks], dtype=np.int32),
        "height": np.array([block.grid[0] for block in blocks], dtype=np.int32),
        "width": np.array([block.grid[1] for block in blocks], dtype=np.int32),
        "prefix": np.array([block.prefix_count for block in blocks], dtype=np.int32),
        "module": [f"{block.path} ({block.side})" for block in blocks],
    }
    return {name: xr.Variable(("block",), values) for name, values in columns.items()}


class _LabelMap:
    """The data set's labels as the checkpoint counts its classes; -1 where they cannot be matched.

    Classes are matched by name. Checkpoints with generic names (``LABEL_0`` ...) and the right number of classes are taken to
    have the data set's order, and the profile says so.
    """

    def __init__(self, of_images: list[str] | None, of_checkpoint: list[str] | None) -> None:
        self.table, self.note = _match(of_images, of_checkpoint)

    def __call__(self, labels: Tensor) -> Tensor:
        if self.table is None:
            return torch.full_like(labels, -1)
        known = (labels >= 0) & (labels < len(self.table))
        return torch.where(known, self.table[labels.clamp(0, len(self.table) - 1)], -1)


def _match(of_images: list[str] | None, of_checkpoint: list[str] | None) -> tuple[Tensor | None, str]:
    if not of_images:
        return None, "the images have no labels"
    if not of_checkpoint:
        return None, "the checkpoint has no classes"
    if set(of_images) <= set(of_checkpoint):
        places = {name: index for index, name in enumerate(of_checkpoint)}
        return torch.tensor([places[name] for name in of_images]), "classes matched by name"
    generic = all(name == f"LABEL_{index}" for index, name in enumerate(of_checkpoint))
    if generic and len(of_images) == len(of_checkpoint):
        return torch.arange(
            len(of_images)
        ), "the checkpoint's classes have no names; taken to be in the data set's order"
    return None, "the data set's classes are not the checkpoint's"


def keep_memory() -> bool:
    """Ask glibc to keep freed memory for the next layer; returns whether it was there to be asked.

    By default it hands large blocks back to the system and fetches them again page by page, which is half of a ResNet-50's
    forward pass on a CPU (benchmarks/README.md). This changes the whole process, so it is left to programs: the command line
    calls it, the library does not.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    trim_threshold, mmap_max = -1, -4  # names of parameters in malloc.h
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(mmap_max, 0) and mallopt(trim_threshold, 2**31 - 1))


# ---------------------------------------------------------------------------------------------------------- batches


class _Prepared(Dataset):
    """Images as the network wants them. Errors travel as values, since a worker process would bury them in a traceback."""

    def __init__(self, images: ImageSet, checkpoint: Checkpoint) -> None:
        self.images, self.processor = images, checkpoint.processor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int] | StudyError:
        from .checkpoints import prepare

        try:
            image, label = self.images[index]
        except StudyError as error:
            return error
        signed = int(np.uint64(digest(image)).astype(np.int64))
        return torch.from_numpy(prepare(self.processor, image)), label, signed


def _collate(items: list) -> tuple[Tensor, Tensor, Tensor] | StudyError:
    for item in items:
        if isinstance(item, StudyError):
            return item
    pixels, labels, digests = zip(*items, strict=True)
    return torch.stack(pixels), torch.tensor(labels), torch.tensor(digests)


def _batches(
    checkpoint: Checkpoint, images: ImageSet, batch_size: int, workers: int | None, progress: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    from tqdm.auto import tqdm

    workers = min(4, max(0, (os.cpu_count() or 1) - 1)) if workers is None else workers
    loader = DataLoader(
        _Prepared(images, checkpoint),
        batch_size,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=checkpoint.device.type == "cuda",
    )
    name = f"measuring {checkpoint.name}"
    with tqdm(total=len(images), desc=name, unit="image", disable=not progress) as bar, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*use of fork.*", category=DeprecationWarning)
        for batch in loader:
            if isinstance(batch, StudyError):
                raise batch
            yield batch
            bar.update(len(batch[0]))

"""One pass over the images, all measurements at once, a profile at the end."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import inspect
import os
import platform
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .analyses import DEFAULT, NO_LABELS, Analysis, Batch, NotApplicableError, Part, make_analysis
from .blocks import AttentionLayer, Block
from .branches import Branch
from .checkpoints import Checkpoint, load_checkpoint
from .errors import StudyError, in_words
from .images import ImageSet, digest, load_images, set_digest
from .journal import Journal, Kept
from .processes import Processes, launched, own_device
from .profile import Profile, refuse_foreign
from .resources import machine_explained, patience
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
    resume: bool = False,
    alone: bool = False,
) -> Profile:
    """Everything the analyses say about one checkpoint on one set of images.

    Started by ``accelerate launch`` or ``torchrun`` in several processes, each measures its share of the batches and all
    return the same profile, which the main one saves. It is the profile of a single process to the bit, if each has as many
    threads.

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
        out: folder to save the profile to. What is kept of finished batches lies beside it until then.
        resume: go on with the batches of an interrupted measurement that are still there.
        alone: measure all in this process, whatever was launched: where the others do something else in the meantime.

    Returns:
        The profile. An analysis that means nothing for this checkpoint is absent, and the provenance says why.

    Raises:
        StudyError: bad input; see the message.
    """
    if batch_size < 4:
        raise StudyError(f"a batch needs at least 4 images for unbiased CKA, got batch_size={batch_size}; 32 is usual")
    if resume and out is None:
        raise StudyError("only a measurement with a folder for its profile can be resumed; give out as well")
    wanted = [make_analysis(a, paper_mode=paper_mode) if isinstance(a, str) else a for a in analyses]
    if not wanted:
        raise StudyError("no analysis was named, so there is nothing to measure; see vitstudy analyses")
    _refuse_namesakes(wanted)
    with launched(alone) as processes:
        with processes.failing_together():
            _refuse_split(wanted, processes, resume)
            if out is not None:
                out = _place(Path(out), images)
            if not isinstance(checkpoint, Checkpoint):
                checkpoint = load_checkpoint(
                    checkpoint,
                    device=own_device(device, processes),
                    dtype=dtype,
                    attn=attn,
                    blocks=blocks,
                    need_attention=any(analysis.needs_attention for analysis in wanted),
                    untrained=untrained,
                )
            elif untrained is not None:
                raise StudyError(
                    "untrained is of a checkpoint still to be loaded; give its name, or load_checkpoint(..., untrained=0)"
                )
            if not isinstance(images, ImageSet):
                images = load_images(images, split=split, revision=revision, n=n, seed=seed)
            described = [_description(analysis) for analysis in wanted]
            run = Run(checkpoint, images, wanted, batch_size)
        journal = None
        if out is not None and not any(analysis.in_one_process for analysis in wanted):
            journal = Journal(Path(out), _identity(run, described, n))
        return _measured(run, processes, journal, out, _Reading(workers, progress, resume))


# of a checkpoint's provenance: what besides the weights decides the numbers
NETWORK = ("architecture", "dtype", "attention", "memory_format", "untrained_seed", "image_size", "processor")


@dataclass(frozen=True)
class _Reading:
    """How the batches are gone through; none of it changes a number."""

    workers: int | None
    progress: bool
    resume: bool


def _measured(
    run: Run, processes: Processes, journal: Journal | None, out: str | os.PathLike | None, reading: _Reading
) -> Profile:
    """Share out the batches, collect what was kept of them, and let the main process make the profile."""
    finished: dict[int, Kept] = {}
    with contextlib.ExitStack() as alone:
        with processes.failing_together():
            if journal and processes.main:
                alone.enter_context(journal.held())
                journal.begin(reading.resume)
                finished = journal.batches() if reading.resume else {}
        known = set(processes.from_main(list(finished)))
        missing = [index for index in range(run.count) if index not in known]
        with processes.failing_together(), machine_explained("lower --batch-size, or use --dtype bfloat16"):
            began = time.perf_counter()
            for index, batch in _batches(run, missing, reading, processes):
                run.step(*batch, index=index)
                began, before = time.perf_counter(), began
                run.kept[index] = replace(run.kept[index], seconds=began - before)
                if journal:
                    journal.write(index, run.kept[index])
        shares = processes.on_main(run.kept)
        profile = None
        with processes.failing_together():
            if processes.main:
                run.take([finished, *shares])
                profile = run.profile()
                if out is not None:
                    profile.save(out)
                if journal:
                    journal.remove()
    return processes.from_main(profile)


def _place(out: Path, images: str | os.PathLike | ImageSet) -> Path:
    """Where a profile shall lie, if it may lie there: known before anything is measured."""
    if not out.name:
        raise StudyError(f"expected the name of a folder for the profile, got {str(out)!r}")
    out = out.resolve() if out.is_symlink() else out
    refuse_foreign(out)
    if (
        not isinstance(images, ImageSet)
        and Path(images).is_dir()
        and out.resolve().is_relative_to(Path(images).resolve())
    ):
        raise StudyError(
            f"{out} would lie among the images of {images}, which are told by their files; choose another folder"
        )
    return out


def _refuse_namesakes(wanted: Sequence[Analysis]) -> None:
    names = [analysis.name for analysis in wanted]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise StudyError(f"two of the analyses are called {twice!r} and would overwrite each other; leave one out")


def _refuse_split(wanted: Sequence[Analysis], processes: Processes, resume: bool) -> None:
    whole = [analysis.name for analysis in wanted if analysis.in_one_process]
    if whole and (processes.world > 1 or resume):
        what = f"spread over {processes.world} processes" if processes.world > 1 else "resumed"
        raise StudyError(f"{whole[0]} needs all images in one go, so it cannot be {what}; measure it by itself")


def _description(analysis: Analysis) -> dict[str, Any]:
    """Name and options of an analysis that has not started."""
    options = {name: value for name, value in vars(analysis).items() if _is_plain(value)}
    functions = {name: _code(value) for name, value in vars(analysis).items() if inspect.isroutine(value)}
    return {"name": analysis.name, "class": type(analysis).__qualname__, **options, **functions}


def _code(function: Any) -> str:
    """What a function is known by: one that was changed must not go on with batches of the one before."""
    code = getattr(function, "__code__", None)
    if code is None:
        return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"
    cells = [repr(cell.cell_contents) for cell in function.__closure__ or ()]
    parts = [code.co_code.hex(), repr(code.co_names), _constants(code), repr(function.__defaults__), *cells]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _constants(code: Any) -> str:
    """Constants of a code object, those of functions inside it too, without addresses in memory."""
    return repr(
        [_constants(each) + each.co_code.hex() if hasattr(each, "co_code") else each for each in code.co_consts]
    )


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    return isinstance(value, (bool, int, float, str, type(None)))


def _identity(run: Run, described: list[dict[str, Any]], n: int | None) -> dict[str, Any]:
    """All that decides the numbers of a measurement. Images are told by their files, as far as `datasets` knows these."""
    about, labels = run.checkpoint.provenance, run.labels.table
    content = getattr(run.images.rows, "_fingerprint", None)  # path, size and time of local files; commit of a Hub's
    return {
        "weights": about.get("weights_sha256"),
        "blocks": [f"{block.path} ({block.side})" for block in run.checkpoint.blocks],
        "images": run.images.provenance | {"count": len(run.images), "asked": n, "fingerprint": content},
        "labels": None if labels is None else labels.tolist(),
        "analyses": described,
        "batch_size": run.batch_size,
        "network": {name: about.get(name) for name in NETWORK},
        "device": run.checkpoint.device.type,
        "versions": {
            name: metadata.version(name) for name in ("hf_vitstudy", "torch", "transformers", "numpy", "pillow")
        },
    }


class Run:
    """The state of one measurement: the analyses that apply, and what has been seen."""

    def __init__(
        self, checkpoint: Checkpoint, images: ImageSet, analyses: Sequence[Analysis], batch_size: int
    ) -> None:
        self.checkpoint, self.images, self.batch_size = checkpoint, images, batch_size
        self.absent: dict[str, str] = {}
        self.analyses: list[Analysis] = []
        self.kept: dict[int, Kept] = {}  # by number of the batch
        self.labels = _LabelMap(images.classes, checkpoint.provenance.get("classes"))
        for analysis in analyses:
            with self._dropping(analysis):
                analysis.start(checkpoint, len(images), batch_size)
                if analysis.needs_labels and self.labels.table is None:
                    raise NotApplicableError(NO_LABELS)
                self.analyses.append(analysis)

    @property
    def count(self) -> int:
        """Number of batches."""
        return -(-len(self.images) // self.batch_size)

    @property
    def digests(self) -> list[int]:
        """Of all images in order."""
        return [digest for index in sorted(self.kept) for digest in self.kept[index].digests]

    @contextlib.contextmanager
    def _dropping(self, analysis: Analysis) -> Iterator[None]:
        """An analysis that turns out not to apply leaves the run, with its reason."""
        try:
            yield
        except NotApplicableError as reason:
            self.absent[analysis.name] = str(reason)
            self.analyses = [other for other in self.analyses if other is not analysis]

    def step(self, pixels: Tensor, labels: Tensor, digests: Tensor, index: int | None = None) -> None:
        """Measure one batch: pixels uint8 (batch, 3, height, width).

        Args:
            pixels, labels, digests: of the batch.
            index: which one it is; by default the next.
        """
        index = len(self.kept) if index is None else index
        parts: dict[str, Part] = {}

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
        first = index * self.batch_size
        _refuse_undefined(logits, f"{self.checkpoint.name} on images {first} to {first + len(images) - 1}")
        batch = Batch(images, logits, self.labels(labels), labels, first=first)
        for analysis in list(self.analyses):
            with self._dropping(analysis), torch.no_grad():
                parts[analysis.name] = analysis.update(batch)
        found = [int(value) & (2**64 - 1) for value in digests]
        self.kept[index] = Kept(parts, found, dict(self.absent))

    def take(self, shares: Sequence[dict[int, Kept]]) -> None:
        """Put the batches of all processes together. An analysis that one of them dropped is dropped."""
        self.kept = {index: share[index] for share in shares for index in share}
        for index in sorted(self.kept):
            self.absent = self.kept[index].absent | self.absent
        self.analyses = [analysis for analysis in self.analyses if analysis.name not in self.absent]

    def profile(self) -> Profile:
        began = time.perf_counter()
        variables: dict[str, xr.Variable] = {}
        for analysis in list(self.analyses):
            with self._dropping(analysis):
                found = analysis.result([self.kept[index].parts[analysis.name] for index in sorted(self.kept)])
                _refuse_overwriting(found, variables)
                variables |= found
        coordinates = {name: value for name, value in variables.items() if value.dims == (name,)}
        data = xr.Dataset(
            {name: value for name, value in variables.items() if name not in coordinates},
            {**coordinates, **_block_coordinates(self.checkpoint.blocks), **self._image_coordinates()},
        )
        seconds = sum(kept.seconds for kept in self.kept.values()) + time.perf_counter() - began
        return Profile(data, self._provenance(seconds))

    def _image_coordinates(self) -> dict[str, xr.Variable]:
        return {"image_digest": xr.Variable(("image",), np.array(self.digests, dtype=np.uint64))}

    def _provenance(self, seconds: float) -> dict[str, Any]:
        """Plain JSON; `seconds` of all processes together, loading the network not counted."""
        images = {**self.images.provenance, "sha256": set_digest(self.digests), "labels": self.labels.note}
        return {
            "checkpoint": {"name": self.checkpoint.name, **self.checkpoint.provenance},
            "images": images,
            "measurement": {
                "analyses": [analysis.name for analysis in self.analyses],
                "batch_size": self.batch_size,
                "device": self.checkpoint.device.type,
                "seconds": round(seconds, 1),
            },
            "absent": self.absent,
            "versions": {
                name: metadata.version(name) for name in ("hf_vitstudy", "torch", "transformers", "datasets", "numpy")
            }
            | {"python": platform.python_version()},
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def _refuse_undefined(logits: Tensor | None, what: str) -> None:
    """A network without a classifier is not asked: its undefined states show in the profile."""
    if logits is not None and not bool(torch.isfinite(logits).all()):
        raise StudyError(
            f"the logits of {what} are not finite, so nothing else would mean anything; are its weights whole? In float16 "
            "they may overflow: use --dtype bfloat16 or float32"
        )


def _refuse_overwriting(found: dict[str, xr.Variable], before: dict[str, xr.Variable]) -> None:
    """Raises `NotApplicableError` where two analyses give one name to different values; axes and such may be shared."""
    for name in found.keys() & before.keys():
        if not found[name].equals(before[name]):
            raise NotApplicableError(
                f"its variable {name!r} has the name of another measurement's; call it something else"
            )


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
    if list(of_images) == list(of_checkpoint):
        return torch.arange(len(of_images)), "classes matched by name"
    if set(of_images) <= set(of_checkpoint):
        doubled = [name for name, count in Counter(of_checkpoint).items() if count > 1 and name in of_images]
        if doubled:
            return (
                None,
                f"several of the checkpoint's classes are called {doubled[0]!r}, so labels cannot be matched by name",
            )
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
        self.images, self.processor, self.size = images, checkpoint.processor, tuple(checkpoint.image_size)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int] | StudyError:
        from .checkpoints import prepare

        try:
            image, label = self.images[index]
        except StudyError as error:
            return error
        signed = int(np.uint64(digest(image)).astype(np.int64))
        try:
            pixels = prepare(self.processor, image)
        except Exception as error:  # of any kind, as processors raise them
            return StudyError(
                f"{self.images.called(index)}: the checkpoint's processor cannot take it ({in_words(error)})"
            )
        if pixels.shape[-2:] != self.size:
            got, expected = (" x ".join(map(str, size)) for size in (pixels.shape[-2:], self.size))
            return StudyError(
                f"{self.images.called(index)}: the checkpoint's processor makes it {got} px, but the network is measured at "
                f"{expected}; put size or crop_size of preprocessor_config.json right, or crop the images"
            )
        return torch.from_numpy(pixels), label, signed


def _collate(items: list) -> tuple[Tensor, Tensor, Tensor] | StudyError:
    for item in items:
        if isinstance(item, StudyError):
            return item
    pixels, labels, digests = zip(*items, strict=True)
    return torch.stack(pixels), torch.tensor(labels), torch.tensor(digests)


def _batches(
    run: Run, missing: Sequence[int], reading: _Reading, processes: Processes
) -> Iterator[tuple[int, tuple[Tensor, Tensor, Tensor]]]:
    """This process' share of the missing batches, each with its number."""
    from tqdm.auto import tqdm

    workers = reading.workers
    if workers is None:
        workers = min(4, max(0, (os.cpu_count() or 1) // processes.world - 1))
    n, size = len(run.images), run.batch_size
    indices = missing[processes.rank :: processes.world]
    loader = DataLoader(
        _Prepared(run.images, run.checkpoint),
        batch_sampler=[list(range(index * size, min(n, (index + 1) * size))) for index in indices],
        num_workers=workers,
        collate_fn=_collate,
        timeout=patience(workers),
        pin_memory=run.checkpoint.device.type == "cuda",
    )
    name = f"measuring {run.checkpoint.name}"
    shown = reading.progress and processes.main
    with tqdm(total=n, desc=name, unit="image", disable=not shown) as bar, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*use of fork.*", category=DeprecationWarning)
        bar.update(max(0, n - size * len(missing)))
        for index, batch in zip(indices, loader, strict=True):
            if isinstance(batch, StudyError):
                raise batch
            yield index, batch
            bar.update(min(len(batch[0]) * processes.world, n - bar.n))

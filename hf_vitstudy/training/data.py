"""Which images there are, checked before anything is trained, and how they reach the device."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..errors import StudyError
from ..images import ImageSet, choose_split, decode, encoded, find_columns, open_dataset
from ..resources import patience
from .augmentation import Augment
from .order import MicroBatches, Schedule, seed_of
from .settings import DataConfig, nearest_name


SPLIT_NAMES = {"train", "training", "test", "testing", "val", "valid", "validation"}


# ------------------------------------------------------------------------------------------------------------ opening


def open_split(source: str, split: str | None, config: DataConfig) -> ImageSet:
    """All images of a split in the order of the file, so that messages name its rows.

    Raises:
        StudyError: no such data set, split or column, no class labels, or splits that were taken for classes.
    """
    dataset, name, commit = open_dataset(source, config.revision)
    return _image_set(*choose_split(dataset, split, name), name, commit, config)


def _image_set(dataset: Any, split: str | None, name: str, commit: str | None, config: DataConfig) -> ImageSet:
    image, label, classes = _columns(dataset, name, config)
    if {text.lower() for text in classes} <= SPLIT_NAMES:
        raise StudyError(f"the classes of {name} are {classes}: these are splits; give one folder per split")
    rows = dataset.cast_column(image, encoded())
    n = len(rows) if hasattr(rows, "__len__") else None
    return ImageSet(rows, image, label, classes, {"name": name, "split": split, "revision": commit, "n": n})


def _columns(dataset: Any, name: str, config: DataConfig) -> tuple[str, str, list[str]]:
    """Image column, label column and classes: by type, or as the recipe names them."""
    import datasets

    features = dataset.features
    if features is None:
        raise StudyError(f"{name} does not say the types of its columns; load it without data.streaming")
    for setting, column, kind in (
        ("image_column", config.image_column, datasets.Image),
        ("label_column", config.label_column, datasets.ClassLabel),
    ):
        fitting = [key for key, feature in features.items() if isinstance(feature, kind)]
        if column is not None and column not in fitting:
            hint = nearest_name(column, fitting) if fitting else "there is none"
            raise StudyError(f"data.{setting}: {name} has no {kind.__name__} column {column!r}; {hint}")
    image, label, _ = find_columns(dataset, name)
    image, label = config.image_column or image, config.label_column or label
    if label is None or not features[label].names:
        found = ", ".join(features)
        raise StudyError(f"{name} has no class labels (columns: {found}); cast a column to datasets.ClassLabel")
    return image, label, list(features[label].names)


def open_data(config: DataConfig) -> tuple[ImageSet | Stream, ImageSet]:
    """Training and test images; two splits, or two sources.

    Raises:
        StudyError: as `open_split`, or nothing to test on.
    """
    test_source = config.test or config.train
    if config.streaming:
        train: ImageSet | Stream = open_stream(config.train, config.train_split, config)
        here = Path(test_source).exists()
        test = (open_split if here else store_stream)(test_source, config.test_split, config)
    else:
        train = open_split(config.train, config.train_split, config)
        test = open_split(test_source, config.test_split, config)
    if config.test is None and train.provenance["split"] == test.provenance["split"]:
        raise StudyError(f"{config.train} has no split to test on; name one with data.test or data.test_split")
    return train, test


# ------------------------------------------------------------------------------------------------------------- labels


def labels_of(images: ImageSet, classes: list[str]) -> Tensor:
    """Labels in the order of `classes`, (n,); classes are matched by name.

    Raises:
        StudyError: a label is missing or out of range, or a class is not in `classes`.
    """
    places, name = _places(images, classes), images.provenance["name"]
    labels = [
        _label(value, places, f"row {row} of {name}") for row, value in enumerate(images.rows[images.label_column])
    ]
    return torch.tensor(labels)


def _places(images: ImageSet | Stream, classes: list[str]) -> list[int]:
    """Where each class of `images` stands in `classes`."""
    own = images.classes or []
    strange = sorted(set(own) - set(classes))
    if strange:
        name = images.provenance["name"]
        raise StudyError(f"{name} has the class {strange[0]!r}, which the training images lack")
    return [classes.index(label) for label in own]


def _label(value: int | None, places: list[int], what: str) -> int:
    if value is None or value == -1:
        raise StudyError(f"{what} has no label; remove it or label it")
    if not 0 <= value < len(places):
        raise StudyError(f"{what} has the label {value}, there are {len(places)} classes")
    return places[value]


def choose_share(labels: Tensor, share: float, seed: int) -> Tensor:
    """Rows that are `share` of every class, at least one of each, in ascending order. A smaller share is part of a larger one.

    As the official code of Park & Kim does it (``int(size · share)`` of each class), but by a seed.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label in labels.unique():
        rows = (labels == label).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        chosen.append(rows[: max(1, int(len(rows) * share + 1e-9))])
    return torch.cat(chosen).sort().values


def divide(labels: Tensor, config: DataConfig, seed: int) -> tuple[Tensor, Tensor]:
    """(rows to train on, rows held out). The held out rows are the same for every seed; the fraction is of the others."""
    everything = torch.arange(len(labels))
    held = choose_share(labels, config.holdout, 0) if config.holdout else everything[:0]
    rest = everything[~torch.isin(everything, held)]
    if not len(rest):
        raise StudyError(f"data.holdout={config.holdout:g} leaves no image to train on; lower it")
    if config.fraction < 1:
        rest = rest[choose_share(labels[rest], config.fraction, seed_of(seed, "fraction"))]
    return rest, held


# ----------------------------------------------------------------------------------------------------------- pictures


class Pictures(Dataset):
    """uint8 images (3, height, width) with labels; kept decoded where they fit into memory.

    Args:
        images: the data set.
        labels: of all its rows, (n,).
        geometry: from a decoded image (height, width, 3) to (3, height, width), without chance.
        limit: bytes to keep at most.
        rows: which rows, (images,); all by default.
    """

    def __init__(
        self,
        images: ImageSet,
        labels: Tensor,
        geometry: Callable[[np.ndarray], np.ndarray],
        limit: float,
        rows: Tensor | None = None,
    ) -> None:
        self.images, self.geometry = images, geometry
        self.rows = torch.arange(len(labels)) if rows is None else rows
        self.labels = labels[self.rows]
        self.pixels = self._decode_all(limit)

    def _decode_all(self, limit: float) -> Tensor | None:
        first = self._decode(0)
        if first.nbytes * len(self) > limit:
            return None
        kept = torch.empty((len(self), *first.shape), dtype=torch.uint8)
        for index in tqdm(range(len(self)), desc="decoding", unit="image", leave=False, disable=not is_main()):
            pixels = self._decode(index)
            if pixels.shape != first.shape:  # only possible before a random resized crop
                return None
            kept[index] = pixels
        return kept

    def _decode(self, index: int) -> Tensor:
        image, _ = self.images[int(self.rows[index])]
        return torch.from_numpy(np.ascontiguousarray(self.geometry(image)))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pixels = self._decode(index) if self.pixels is None else self.pixels[index]
        return pixels, self.labels[index]

    def batch(self, index: list[int]) -> tuple[Tensor, Tensor]:
        return collate_strictly([self[place] for place in index])

    def describe(self) -> dict[str, Any]:
        """Name, split, commit, number, sha256 of the labels, and that of the pixels where they are kept."""
        kept = {"sha256": self.labels, "pixels_sha256": self.pixels}
        hashes = {key: None if tensor is None else _sha256(tensor) for key, tensor in kept.items()}
        origin = {key: self.images.provenance[key] for key in ("name", "split", "revision")}
        return origin | {"n": len(self)} | hashes


def _sha256(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


def is_main() -> bool:
    """Whether this is the first of the processes of a run, known before they meet."""
    return int(os.environ.get("RANK", "0")) == 0


# ------------------------------------------------------------------------------------------------------------- stream


@dataclass(frozen=True)
class Stream:
    """Training images that are read as they come: shuffled within a buffer by (seed, epoch), each epoch read anew.

    The main process reads the encoded files and hands them to the workers, so that the order does not depend on their number.
    """

    rows: Any  # datasets.IterableDataset with encoded images
    image_column: str
    label_column: str
    classes: list[str]
    provenance: dict[str, Any]
    n: int
    buffer: int

    def keys(self, schedule: Schedule, first: int) -> Iterator[list[tuple[int, int, dict[str, Any]]]]:
        """(epoch, place in the epoch, row) of each batch, from step `first` to the end.

        Raises:
            StudyError: there are fewer images than the data set says.
        """
        size, known = schedule.batch_size, -1
        for step in range(first, schedule.steps):
            epoch, place = divmod(step, schedule.steps_per_epoch)
            if epoch != known:
                known, rows = epoch, self._epoch(schedule.seed, epoch, place * size)
            batch = [(epoch, index, row) for index, row in itertools.islice(rows, size)]
            if len(batch) < size:
                raise StudyError(
                    f"{self.provenance['name']} has fewer than the {self.n} images it says; set data.count"
                )
            yield batch

    def _epoch(self, seed: int, epoch: int, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """(place, row) of an epoch from a place on; what lies before it is read and thrown away."""
        order = self.rows.shuffle(seed=seed_of(seed, "order", epoch) % 2**32, buffer_size=self.buffer)
        return itertools.islice(enumerate(order), start, None)

    def describe(self) -> dict[str, Any]:
        return {**self.provenance, "n": self.n, "sha256": None, "pixels_sha256": None}


def open_stream(source: str, split: str | None, config: DataConfig) -> Stream:
    """A split as a stream.

    Raises:
        StudyError: as `open_split`, or nobody knows how many images there are.
    """
    dataset, name, commit = open_dataset(source, config.revision, streaming=True)
    rows, split = choose_split(dataset, split, name)
    images = _image_set(rows, split, name, commit, config)
    splits = rows.info.splits or {}
    n = config.count or (splits[split].num_examples if split in splits else None)
    if n is None and split == config.train_split:
        raise StudyError(f"{name} does not say how many images its split {split!r} has; set data.count")
    assert images.label_column is not None, "checked when its columns were found"
    origin = {key: images.provenance[key] for key in ("name", "split", "revision")}
    return Stream(
        images.rows,
        images.image_column,
        images.label_column,
        images.classes or [],
        origin,
        n or 0,
        config.shuffle_buffer,
    )


def store_stream(source: str, split: str | None, config: DataConfig) -> ImageSet:
    """A split copied into the cache of `datasets`, once for each commit, and nothing but this split: test images are read
    again and again."""
    import datasets

    stream = open_stream(source, split, config)
    rows = datasets.Dataset.from_generator(
        _rows,
        features=stream.rows.features,
        gen_kwargs={"stream": stream.rows},
        fingerprint=f"{seed_of('stored', sorted(stream.provenance.items(), key=str), str(stream.rows.features)):016x}",
    )
    provenance = {**stream.provenance, "n": len(rows)}
    return ImageSet(rows, stream.image_column, stream.label_column, stream.classes, provenance)


def _rows(stream: Any) -> Iterator[dict[str, Any]]:
    yield from stream


# ------------------------------------------------------------------------------------------------------------ loading


class Augmented(Dataset):
    """Training images by (epoch, image): the same key always gives the same pixels, in any process."""

    def __init__(self, pictures: Pictures, augment: Augment) -> None:
        self.pictures, self.augment = pictures, augment

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor] | StudyError:
        epoch, index = key
        try:
            pixels, label = self.pictures[index]
        except StudyError as error:  # travels as a value: a worker would bury it in a traceback
            return error
        return self.augment(pixels, epoch, index), label


class AugmentedStream(Dataset):
    """The same for the rows of a stream, which arrive with their keys."""

    def __init__(self, stream: Stream, geometry: Callable[[np.ndarray], np.ndarray], augment: Augment) -> None:
        self.image, self.label, self.name = stream.image_column, stream.label_column, stream.provenance["name"]
        self.places = list(range(len(stream.classes)))
        self.geometry, self.augment = geometry, augment

    def __getitem__(self, key: tuple[int, int, dict[str, Any]]) -> tuple[Tensor, Tensor] | StudyError:
        epoch, index, row = key
        what = f"image {index} of epoch {epoch} of {self.name}"
        try:
            label = _label(row[self.label], self.places, what)
            pixels = torch.from_numpy(np.ascontiguousarray(self.geometry(decode(row[self.image]))))
        except StudyError as error:
            return error if what in str(error) else StudyError(f"{what}: {error}")
        return self.augment(pixels, epoch, index), torch.tensor(label)


class Resident:
    """Batches of images that lie ready on the device, cropped and mirrored there: no process, no copy."""

    def __init__(self, pictures: Pictures, augment: Augment, batches: MicroBatches, device: torch.device) -> None:
        assert pictures.pixels is not None, "chosen because they are kept"
        self.pixels, self.labels = pictures.pixels.to(device), pictures.labels.to(device)
        self.augment, self.batches = augment, batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for keys in self.batches:
            epochs, places = zip(*keys, strict=True)
            index = torch.tensor(places, device=self.pixels.device)
            yield self.augment.place(self.pixels[index], epochs[0], np.array(places)), self.labels[index]


def load_batches(
    source: Pictures | Dataset, augment: Augment, batches: MicroBatches, config: DataConfig, device: torch.device
) -> Iterator[Any]:
    """(pixels (batch, 3, height, width) uint8, labels (batch,)) of every micro-batch, or an error as a value."""
    if isinstance(source, Pictures):
        if lies_ready(source, augment, config, device):
            return iter(Resident(source, augment, batches, device))
        source = Augmented(source, augment)
    return iter(
        DataLoader(
            source,
            batch_sampler=batches,
            num_workers=config.workers,
            collate_fn=collate,
            timeout=patience(config.workers),
            pin_memory=device.type == "cuda",
        )
    )


def lies_ready(pictures: Pictures, augment: Augment, config: DataConfig, device: torch.device) -> bool:
    """Whether whole batches can be taken from one tensor on the device."""
    if pictures.pixels is None or not augment.only_places:
        return False
    return device.type == "cpu" or pictures.pixels.nbytes <= config.device_gib * 2**30


def collate(items: list[Any]) -> tuple[Tensor, Tensor] | StudyError:
    """(pixels (batch, 3, height, width), labels (batch,)), or the first error."""
    for item in items:
        if isinstance(item, StudyError):
            return item
    return collate_strictly(items)


def collate_strictly(items: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    pixels, labels = zip(*items, strict=True)
    return torch.stack(pixels), torch.stack(labels)

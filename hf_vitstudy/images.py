"""Reference images: which, in what order, decoded how, and a hash that says whether two studies saw the same ones.

Every image passes through one decoder (`decode`), whatever its mode: transformers' processors fail on grayscale, palette,
alpha, CMYK and 16-bit files, and a plain ``PIL.Image.open`` ignores the camera's orientation while `datasets` applies it.
"""

from __future__ import annotations

import glob
import hashlib
import io
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .errors import StudyError, in_words


MAX_PIXELS = 50_000_000  # a 10 kB file can claim 81 million pixels; real photographs stay below this
MAX_RATIO = 200  # of the sides: processors scale the short one up, and a line of 1 x 4000 to a thousand million pixels
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")  # not EPS, for which PIL starts a program
SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".png",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".pbm",
    ".jp2",
    ".parquet",
)
WIDE_GRAY = ("PNG", "PPM")  # formats whose gray of more than 8 bits has 16
PARQUET, FOLDER_HINT = ".parquet", "an image folder (one sub-folder per class), a .parquet file or a dataset id"


@dataclass(frozen=True)
class ImageSet:
    """Reference images in a fixed order, decoded when asked for.

    Attributes:
        rows: a `datasets.Dataset` or any sequence of ``{image_column: bytes, path, array or PIL image, ...}``.
        image_column, label_column: names in a row; `label_column` is None where there are no labels.
        classes: class names in label order, or None.
        provenance: name, split, revision, n, seed.
        numbers: of the rows in the data set that they were drawn from.
    """

    rows: Any
    image_column: str = "image"
    label_column: str | None = None
    classes: list[str] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    numbers: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """The decoded image, (height, width, 3) uint8, and its label (-1 where there is none)."""
        row = self.rows[index]
        try:
            image = decode(row[self.image_column])
        except StudyError as error:
            raise StudyError(f"{self.called(index)}: {error}") from error
        label = row[self.label_column] if self.label_column else None
        return image, -1 if label is None else int(label)

    def called(self, index: int) -> str:
        """What an error calls an image: its row in the data set and, where there is one, its file, without a machine's path."""
        content = self.rows[index][self.image_column]
        path = content.get("path") if isinstance(content, dict) else None
        file = f" ({'/'.join(Path(path).parts[-2:])})" if path else ""
        number = index if self.numbers is None else self.numbers[index]
        return f"image {number} of {self.provenance.get('name', 'the data set')}{file}"


# --------------------------------------------------------------------------------------------------------- decoding


def decode(source: Any) -> np.ndarray:
    """RGB pixels of an image of any mode, (height, width, 3) uint8.

    The orientation tag is applied, transparency is laid on white, 16-bit gray is scaled to 8 bits, CMYK and palettes are
    converted, and of an animation the first frame is taken.

    Args:
        source: bytes, a path, a PIL image, a ``{"bytes": ..., "path": ...}`` row of `datasets`, or a uint8 array
            (height, width), (height, width, 1) or (height, width, 3).

    Raises:
        StudyError: not an image in one of `FORMATS`, cut off, larger than `MAX_PIXELS`, or longer than `MAX_RATIO`.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    image = _open(source)
    _check_size(image.width, image.height)
    if image.mode == "I" and image.format not in (*WIDE_GRAY, None):
        raise StudyError("has 32-bit pixels of unknown range; save it with 8 or 16 bits")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as damaged EXIF blocks: the pixels are what counts
            return np.array(_to_rgb(_upright(image)))
    except StudyError:
        raise
    except Exception as error:  # PIL raises OSError, SyntaxError, struct.error ... on damaged files
        raise StudyError(f"cannot be decoded ({in_words(error)}); replace or remove the file") from error


def _open(source: Any):
    from PIL import Image

    if isinstance(source, Image.Image):
        return source
    if isinstance(source, dict):
        source = source["bytes"] if source.get("bytes") is not None else source.get("path")
    if source is None:
        raise StudyError("is missing (None); remove the row")
    if isinstance(source, bytes):
        source = io.BytesIO(source)
    if not isinstance(source, str | os.PathLike | io.BytesIO):
        raise StudyError(f"expected bytes, a path, a PIL image or a uint8 array, got {type(source).__name__}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `_check_size` is stricter
            if not isinstance(source, io.BytesIO):
                source = io.BytesIO(Path(source).read_bytes())  # PIL would keep the file of a damaged image open
            return Image.open(source, formats=FORMATS)
    except Exception as error:
        raise StudyError(f"is not a readable image ({in_words(error)}); replace or remove the file") from error


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise StudyError(f"has {width} x {height} pixels, at most {MAX_PIXELS:,} are read; shrink it first")
    if not width * height:
        raise StudyError(f"has {width} x {height} pixels, so there is nothing to see; remove it")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise StudyError(
            f"has {width} x {height} pixels, of which processors make far too many; crop it to at most 1 : {MAX_RATIO}"
        )


def _upright(image):
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def _to_rgb(image):
    from PIL import Image

    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I"):  # 16 bits a pixel; PIL's own conversion clips at 255
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise StudyError("has floating-point pixels of unknown range; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _from_array(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.uint8:
        raise StudyError(f"expected a uint8 array, got {array.dtype}; scale the pixels to 0..255 and convert")
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] not in (1, 3):
        raise StudyError(
            f"expected an array (height, width), (height, width, 1) or (height, width, 3), got {array.shape}"
        )
    _check_size(array.shape[1], array.shape[0])
    return np.broadcast_to(array, (*array.shape[:2], 3)).copy()


# ---------------------------------------------------------------------------------------------------------- hashing


def digest(image: np.ndarray) -> int:
    """64 bits that tell decoded images apart: the head of sha256 over the shape and the pixels."""
    header = f"{image.shape[0]}x{image.shape[1]}:".encode()
    return int.from_bytes(hashlib.sha256(header + image.tobytes()).digest()[:8], "big")


def set_digest(digests: Sequence[int]) -> str:
    """sha256 of an ordered set of images."""
    return hashlib.sha256(np.asarray(digests, dtype=">u8").tobytes()).hexdigest()


# ---------------------------------------------------------------------------------------------------------- loading


def load_images(
    source: str | os.PathLike,
    *,
    split: str | None = None,
    revision: str | None = None,
    n: int | None = 2048,
    seed: int = 0,
) -> ImageSet:
    """`n` images of a data set, in an order that depends on `seed` only.

    Data sets are often sorted by class, so the first `n` rows would be few classes; rows are drawn without replacement.

    Args:
        source: id of a data set on the Hub, a ``.parquet`` file, or a folder (images in class folders, or parquet files).
        split: which split; by default the validation or test split, else the only one.
        revision: branch, tag or commit of a Hub data set; resolved to the commit and recorded.
        n: how many; None takes all. Fewer are taken, with a note in the provenance, where the data set is smaller.
        seed: of the order.

    Raises:
        StudyError: no such data set, split or image column.
    """
    if seed < 0:
        raise StudyError(f"seed must be 0 or more, got {seed}")
    dataset, name, commit = open_dataset(source, revision)
    dataset, split_name = choose_split(dataset, split, name)
    image_column, label_column, classes = find_columns(dataset, name)
    dataset = dataset.cast_column(image_column, encoded())
    if len(dataset) < 4:
        raise StudyError(f"{name} has {len(dataset)} images, at least 4 are needed to compare representations")
    order = np.random.default_rng(seed).permutation(len(dataset))[:n]
    chosen = dataset.select(order)
    provenance = {"name": name, "split": split_name, "revision": commit, "n": len(chosen), "seed": seed}
    if n is not None and len(chosen) < n:
        provenance["asked"] = n
    return ImageSet(chosen, image_column, label_column, classes, provenance, order.tolist())


def open_dataset(
    source: str | os.PathLike, revision: str | None = None, *, streaming: bool = False
) -> tuple[Any, str, str | None]:
    """(data set or dict of splits, name without a machine's path, commit); with `streaming` as `IterableDataset`.

    Raises:
        StudyError: no such file, folder or data set.
    """
    import datasets

    path = Path(source)
    try:
        if path.suffix == PARQUET and path.is_file():
            files = glob.escape(str(path))  # `datasets` takes it for a pattern
            return (
                datasets.load_dataset("parquet", data_files=files, split="train", streaming=streaming),
                path.stem,
                None,
            )
        if path.is_dir():
            return _open_folder(path, streaming), path.resolve().name, None
        if path.suffix == PARQUET or str(source).startswith((".", "/", "~")):
            raise StudyError(f"no images at {source}: no such file or folder; expected {FOLDER_HINT}")
        commit = _commit(str(source), revision)
        return datasets.load_dataset(str(source), revision=commit, streaming=streaming), str(source), commit
    except StudyError:
        raise
    except Exception as error:
        raise StudyError(
            f"cannot load images from {str(source)!r} ({in_words(error)}); expected {FOLDER_HINT}"
        ) from error


def _open_folder(folder: Path, streaming: bool) -> Any:
    import datasets

    if (folder / "dataset_info.json").is_file():
        found = datasets.load_from_disk(str(folder))
        return found.to_iterable_dataset() if streaming else found
    if (folder / "dataset_dict.json").is_file():
        splits = datasets.load_from_disk(str(folder))
        return {name: split.to_iterable_dataset() for name, split in splits.items()} if streaming else splits
    kind = "parquet" if any(folder.rglob(f"*{PARQUET}")) else "imagefolder"
    escaped = glob.escape(str(folder))  # `datasets` takes it for a pattern
    plain = escaped == str(folder)
    builder = datasets.load_dataset_builder(str(folder) if plain else kind, data_dir=None if plain else escaped)
    _refuse_dropped(folder, builder.config.data_files or {})
    if streaming:
        return builder.as_streaming_dataset()
    builder.download_and_prepare()
    return builder.as_dataset()


def _refuse_dropped(folder: Path, splits: Mapping[str, Sequence[str]]) -> None:
    """Raises where `datasets` would leave out images: it takes train, test and the like in a name for a split."""
    read = {"/".join(Path(file).parts[-2:]) for files in splits.values() for file in files}
    count = sum(Path(file).suffix.lower() in SUFFIXES for files in splits.values() for file in files)
    there = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)
    ]
    if count < len(there):
        lost = next((path for path in there if "/".join(path.parts[-2:]) not in read), there[-1])
        name, named = lost.relative_to(folder).as_posix(), ", ".join(map(str, splits))
        raise StudyError(
            f"of {len(there)} images {count} would be read, and {name} would not: datasets takes names for splits ({named}); "
            "rename what contains train, test or val, or name one folder"
        )


def _commit(name: str, revision: str | None) -> str | None:
    """The commit a revision means now; offline, the revision as it was given."""
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return revision
    return HfApi().dataset_info(name, revision=revision).sha


def choose_split(dataset: Any, split: str | None, name: str) -> tuple[Any, str | None]:
    """(the split, its name); by default validation or test, else the only one.

    Raises:
        StudyError: no such split, or none to choose by default.
    """
    if not isinstance(dataset, dict):
        return dataset, split
    names = list(dataset)
    if split is None:
        preferred = [candidate for candidate in ("validation", "test", "val") if candidate in names]
        split = preferred[0] if preferred else names[0] if len(names) == 1 else None
    if split not in names:
        raise StudyError(f"{name} has the splits {', '.join(names)}, got {split!r}; name one with --split")
    return dataset[split], split


def find_columns(dataset: Any, name: str) -> tuple[str, str | None, list[str] | None]:
    """Image and label column by feature type, by name where several fit, and the class names."""
    import datasets

    images = [key for key, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
    if not images:
        found = ", ".join(f"{key}: {type(feature).__name__}" for key, feature in dataset.features.items())
        raise StudyError(f"{name} has no image column (columns: {found}); cast one to datasets.Image")
    labels = [key for key, feature in dataset.features.items() if isinstance(feature, datasets.ClassLabel)]
    image = "image" if "image" in images else images[0]
    label = next((key for key in ("label", "fine_label") if key in labels), labels[0] if labels else None)
    return image, label, list(dataset.features[label].names) if label else None


def encoded() -> Any:
    """The image feature that leaves files as they are, for our own decoder."""
    import datasets

    return datasets.Image(decode=False)

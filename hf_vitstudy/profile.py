"""A profile: everything measured about one checkpoint on one set of images.

This is the waist of the package. Above it networks run; below it nothing but numpy and xarray is needed. A profile holds
named arrays whose first axis is the image (or, for Gram matrices, the batch), and says where each number comes from.

On disk a profile is a folder of three files: ``arrays.safetensors`` (numbers), ``profile.json`` (names, units, sources and
provenance) and ``manifest.json`` (sha256 of the other two). A flipped bit in a safetensors file loads without a word, so
the manifest is checked on every load.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from .disk import explained, written_whole
from .errors import StudyError
from .shapes import PROVENANCE, misfit


FORMAT = 1
ARRAYS, DESCRIPTION, MANIFEST = "arrays.safetensors", "profile.json", "manifest.json"


@dataclass(frozen=True)
class Profile:
    """Measurements of one checkpoint.

    Attributes:
        data: one `xarray.Dataset`. Axes: ``image``; ``block`` (places read, in forward order, with coordinates ``kind``,
            ``depth``, ``stage``); ``layer`` and ``head`` (attention); ``frequency``; ``<view>_batch`` and
            ``<view>_pair`` (Gram blocks). Every variable has the attributes ``unit``, ``source`` and ``long_name``.
        provenance: plain JSON: checkpoint, images, settings, versions, and under ``absent`` why a measurement is missing.
    """

    data: xr.Dataset
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The checkpoint's name, as it was given when measuring."""
        return self.provenance["checkpoint"]["name"]

    @property
    def images_sha256(self) -> str:
        """Hash of the decoded images in order; equal hashes mean equal images."""
        return self.provenance["images"]["sha256"]

    @property
    def n_images(self) -> int:
        return int(self.data.sizes["image"])

    @property
    def views(self) -> list[str]:
        """The stored kinds of Gram blocks, such as ``flatten`` or ``mean``."""
        grams = [str(name) for name, array in self.data.data_vars.items() if "block" in array.dims]
        return [name.removeprefix("gram_") for name in grams if name.startswith("gram_")]

    def has(self, kind: str) -> bool:
        """Whether any block is of this kind (``attention``, ``mlp``, ``conv``, ``block``)."""
        return bool((self.data["kind"] == kind).any())

    def __getitem__(self, name: str) -> xr.DataArray:
        """One measurement by name; a missing one is an error that says why it is missing."""
        if name in self.data:
            return self.data[name]
        absent = self.provenance.get("absent", {})
        if name in absent:
            raise StudyError(f"{self.name} has no {name!r}: {absent[name]}")
        near = difflib.get_close_matches(name, [str(key) for key in self.data.data_vars], n=3)
        hint = f"; it has {', '.join(near)}" if near else ""
        raise StudyError(f"{self.name} has no measurement {name!r}{hint}. Measure again with it included.")

    def gram(self, view: str = "flatten") -> np.ndarray:
        """U-centred Gram blocks, (block, batch, image, image) float32, each batch scaled as it was measured.

        The diagonal is zero and every row sums to zero (up to the rounding of the stored halves). Images of a short last
        batch are followed by zero rows.
        """
        packed = self[f"gram_{view}"].values
        scale = self.data[f"scale_{view}"].values
        n = square_side(packed.shape[-1])
        rows, columns = np.triu_indices(n, k=1)
        blocks = np.zeros((*packed.shape[:2], n, n), dtype=np.float32)
        blocks[..., rows, columns] = packed * scale[..., None].astype(np.float32)
        blocks += blocks.swapaxes(-1, -2)
        return blocks

    def centred_gram(self, view: str = "flatten") -> np.ndarray:
        """Mean-centred Gram blocks, (block, batch, image, image) float64: inner products of features less their batch mean.

        U-centring loses only the diagonal d, which is stored: the rows of a mean-centred matrix sum to zero, so that without
        the diagonal they sum to -d, and U-centring can be undone: K_ij = Ũ_ij - (d_i + d_j) / (n-2) + Σd / ((n-1)(n-2)).
        Exact up to the rounding of the stored halves, 2^-11 of an entry. Images of a short last batch are followed by zeros.

        Raises:
            StudyError: the profile was measured before diagonals were stored.
        """
        square = self[f"square_{view}"].values.astype(np.float64)
        n = self.batch_sizes(view).astype(np.float64)[:, None, None]
        real = np.arange(square.shape[-1]) < n[:, 0]
        total = square.sum(-1)[..., None, None] / ((n - 1) * (n - 2))
        blocks = self.gram(view) - (square[..., :, None] + square[..., None, :]) / (n - 2) + total
        blocks *= real[:, :, None] & real[:, None, :]
        places = np.arange(square.shape[-1])
        blocks[..., places, places] = square
        return blocks

    def batch_sizes(self, view: str = "flatten") -> np.ndarray:
        """Images in each Gram block, (batch,)."""
        return self[f"size_{view}"].values

    def save(self, folder: str | os.PathLike) -> Path:
        """Write the profile to `folder`, replacing an older profile there only when the new one is complete."""
        return _save(self, Path(folder))


def square_side(pairs: int) -> int:
    """The n with n(n-1)/2 = `pairs`."""
    n = round((1 + (1 + 8 * pairs) ** 0.5) / 2)
    if n * (n - 1) // 2 != pairs:
        raise StudyError(f"a Gram block must hold n(n-1)/2 pairs, got {pairs}; the profile is damaged, measure again")
    return n


# ---------------------------------------------------------------------------------------------------------- writing


def _save(profile: Profile, folder: Path) -> Path:
    refuse_foreign(folder)
    with written_whole(folder) as fresh, explained(folder):
        _write_files(profile, fresh)
    return folder


def refuse_foreign(folder: Path) -> None:
    """Never replace a folder that holds anything but a profile."""
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:  # nothing there, or another process is just replacing it
        return
    except NotADirectoryError as error:
        raise StudyError(f"{folder} is a file, expected a folder for a profile; choose another name") from error
    strangers = [name for name in names if name not in (ARRAYS, DESCRIPTION, MANIFEST)]
    if strangers:
        raise StudyError(f"{folder} holds {strangers[0]!r}, which is no part of a profile; choose another folder")


def _write_files(profile: Profile, folder: Path) -> None:
    from safetensors.numpy import save

    tensors, variables = {}, {}
    for name, array in {**profile.data.coords, **profile.data.data_vars}.items():
        entry: dict[str, Any] = {
            "dims": list(array.dims),
            "attrs": dict(array.attrs),
            "coordinate": name in profile.data.coords,
        }
        if array.dtype.kind in "UOT":
            entry["values"] = array.values.astype(str).tolist()
        else:
            tensors[str(name)] = np.asarray(array.values, order="C")
        variables[str(name)] = entry
    description = {"format": FORMAT, "variables": variables, "provenance": profile.provenance}
    contents = {
        ARRAYS: save(tensors),
        DESCRIPTION: json.dumps(description, indent=1, ensure_ascii=False, allow_nan=False).encode(),
    }
    digests = {name: {"sha256": _sha256(content), "size": len(content)} for name, content in contents.items()}
    contents[MANIFEST] = json.dumps({"format": FORMAT, "files": digests}, indent=1).encode()
    for name, content in contents.items():
        with open(folder / name, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# ---------------------------------------------------------------------------------------------------------- reading


def load_profile(folder: str | os.PathLike) -> Profile:
    """The profile stored in `folder`.

    Raises:
        StudyError: no profile there, a newer format, or files that do not match their manifest.
    """
    folder = Path(folder)
    contents = _read_checked(folder)
    description = _parse(contents[DESCRIPTION], folder / DESCRIPTION)
    try:
        return _checked(Profile(_dataset(contents[ARRAYS], description["variables"]), description["provenance"]))
    except StudyError:
        raise
    except Exception as error:  # the manifest matched, so the file was written wrong: say where
        raise StudyError(f"{folder} is not a readable profile ({error}); measure it again") from error


# what readers rely on; a measurement of one's own may have any axes
AXES = {
    **dict.fromkeys(("block", "kind", "stage", "depth", "channels", "height", "width"), ("block",)),
    **dict.fromkeys(("image_digest", "label", "nll"), ("image",)),
    **dict.fromkeys(("variance", "relative_variance", "top_channel_share"), ("image", "block")),
    **dict.fromkeys(("attention_distance", "prefix_attention"), ("image", "layer", "head")),
    **dict.fromkeys(("top5", "top5_probability"), ("image", "rank")),
    "fourier": ("image", "block", "frequency"),
    **{name: (name,) for name in ("frequency", "rank", "layer", "head")},
}
TEXTS = ("block", "kind", "layer")  # of these; the others are numbers


def _checked(profile: Profile) -> Profile:
    """What every reader relies on is there; a lookup that fails says which."""
    for key in ("block", "kind", "stage", "depth", "image_digest"):
        profile.data.coords[key]
    for name, axes in AXES.items():
        if name in profile.data.variables:
            found = profile.data.variables[name]
            if found.dims != axes or (found.dtype.kind == "U") != (name in TEXTS):
                raise ValueError(f"{name} is {found.dtype} {found.dims}, expected {axes}")
    if "attention_distance" in profile.data:
        float(profile.data["attention_distance"].attrs["uniform"])  # of uniform attention, in pixels
    if wrong := misfit(profile.provenance, PROVENANCE):
        raise ValueError(wrong)
    return profile


def _read_checked(folder: Path) -> dict[str, bytes]:
    if not (folder / MANIFEST).is_file():
        raise StudyError(
            f"no profile at {folder}: expected a folder with {MANIFEST}; make one with `vitstudy measure`"
        )
    manifest = _parse((folder / MANIFEST).read_bytes(), folder / MANIFEST)
    if manifest.get("format") != FORMAT:
        raise StudyError(
            f"{folder} has profile format {manifest.get('format')!r}, this version reads {FORMAT}; "
            "update hf_vitstudy or measure again"
        )
    contents = {}
    for name in (ARRAYS, DESCRIPTION):
        expected = _entry(_entry(manifest, "files"), name)
        path = folder / name
        if not path.is_file():
            raise StudyError(f"{folder} lacks {name}; the profile is incomplete, measure or download it again")
        contents[name] = path.read_bytes()
        if _sha256(contents[name]) != expected.get("sha256"):
            raise StudyError(
                f"{path} is damaged: {len(contents[name])} bytes whose sha256 is not the manifest's "
                f"({expected.get('size')} bytes expected); measure or download it again"
            )
    return contents


def _entry(table: dict[str, Any], key: str) -> dict[str, Any]:
    """The object at `key`; whatever else stands there matches no digest."""
    found = table.get(key)
    return found if isinstance(found, dict) else {}


def _parse(content: bytes, path: Path) -> dict[str, Any]:
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise StudyError(f"{path} is not JSON ({error}); measure or download the profile again") from error
    if not isinstance(parsed, dict):
        raise StudyError(f"{path} holds a {type(parsed).__name__}, expected an object; measure the profile again")
    return parsed


def _dataset(arrays: bytes, variables: dict[str, Any]) -> xr.Dataset:
    from safetensors.numpy import load

    tensors = load(arrays)
    coordinates: dict[str, xr.Variable] = {}
    measured: dict[str, xr.Variable] = {}
    for name, entry in variables.items():
        values = np.array(entry["values"], dtype=object).astype(str) if "values" in entry else tensors[name]
        target = coordinates if entry["coordinate"] else measured
        target[name] = xr.Variable(entry["dims"], values, entry["attrs"])
    return xr.Dataset(measured, coordinates)


# ---------------------------------------------------------------------------------------------------------- merging


def merge(profiles: Iterable[Profile]) -> Profile:
    """One profile with the measurements of all, for profiles of the same checkpoint on the same images.

    Use it to add a measurement later without repeating the first ones. A measurement in several profiles is taken from
    the last.
    """
    profiles = list(profiles)
    if not profiles:
        raise StudyError("merge needs at least one profile, got none")
    first = profiles[0]
    for other in profiles[1:]:
        for what, mine, theirs in (
            ("checkpoint", _weights(first), _weights(other)),
            ("images", first.images_sha256, other.images_sha256),
            *(
                (what, *told)
                for what in SEEN
                if None not in (told := [_about(each).get(what) for each in (first, other)])
            ),
        ):
            if mine != theirs:
                raise StudyError(f"cannot merge {first.name} and {other.name}: different {what}; use compare instead")
    data = first.data
    for other in profiles[1:]:
        replaced = {
            str(name) for name in other.data.data_vars
        }  # a diagonal never outlives the matrix it was taken from
        replaced |= {name.replace("gram_", "square_", 1) for name in replaced if name.startswith("gram_")}
        kept = data.drop_vars([name for name in data.data_vars if name in replaced])
        used = {dimension for variable in kept.data_vars.values() for dimension in variable.dims}
        kept = kept.drop_vars(
            [name for name in kept.coords if name in other.data.coords and not set(kept[name].dims) <= used]
        )
        try:
            data = kept.merge(other.data, join="exact", compat="no_conflicts")
        except ValueError as error:
            raise StudyError(
                f"cannot merge {first.name} and {other.name}: different blocks or axes ({error}); measure both in the same way"
            ) from error
    absent: dict[str, str] = {}
    for profile in profiles:
        absent |= profile.provenance.get("absent", {})
    measurements = [profile.provenance.get("measurement", {}) for profile in profiles]
    analyses = [name for measurement in measurements for name in measurement.get("analyses", [])]
    seconds = [measurement.get("seconds") for measurement in measurements]
    measurement = {**measurements[0], "analyses": list(dict.fromkeys(analyses))}
    measurement.pop("seconds", None)
    if None not in seconds:  # of all, or of none
        measurement["seconds"] = round(sum(seconds), 1)
    provenance = {
        **first.provenance,
        "measurement": measurement,
        "absent": {key: why for key, why in absent.items() if key not in data and key not in analyses},
    }
    return Profile(data, provenance)


SEEN = ("dtype", "image_size", "processor")  # of a checkpoint's provenance: how the network saw the images


def _about(profile: Profile) -> dict[str, Any]:
    return profile.provenance["checkpoint"]


def _weights(profile: Profile) -> str:
    return _about(profile)["weights_sha256"]

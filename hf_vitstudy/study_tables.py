"""Profiles and verdicts as flat tables: one number with its interval in each row, as the Hub's dataset viewer shows them.

Rows are plain dictionaries; only `write_table` needs pyarrow, and only when it is called.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import StudyError
from .profile import Profile
from .stats import Resampling, mean_of, wilson


Row = dict[str, Any]

MEASUREMENTS = {  # column -> type
    "model": "string",
    "measurement": "string",
    "axis": "string",
    "label": "string",
    "kind": "string",
    "depth": "float64",
    "estimate": "float64",
    "low": "float64",
    "high": "float64",
    "n": "int64",
    "unit": "string",
    "resampled": "string",
    "interval": "string",
    "source": "string",
}
VERDICTS = {
    "claim": "string",
    "text": "string",
    "scope": "string",
    "checkpoints": "string",
    "verdict": "string",
    "alone": "string",
    "estimate": "float64",
    "low": "float64",
    "high": "float64",
    "n": "int64",
    "resampled": "string",
    "unit": "string",
    "margin": "float64",
    "p": "float64",
    "p_holm": "float64",
    "note": "string",
    "source": "string",
}
MOST_CELLS = 1024  # of one measurement of one model; larger ones are maps, to be read from the profile
JOIN = " × "
# what other numbers are made of: Gram matrices, projections, errors of a number that has a row, points of a density
MATERIAL = re.compile(
    r"(gram|scale|square|size)_.*|head_(gram|scale|size)|projection.*|.*_(error|without|residual)|hessian_(node|weight)"
    r"|top5|label"
)


# ----------------------------------------------------------------------------------------------------- measurements


@dataclass(frozen=True)
class Summary:
    """Estimates of all cells of a measurement, flat, (cell,) each; NaN where undefined.

    Attributes:
        estimate, low, high: ends are NaN where nothing was resampled.
        n: units behind each estimate; 0 where nothing was resampled.
        resampled: what a unit is, such as ``image``.
        interval: how low and high were found; 95 % in every case.
    """

    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: np.ndarray
    resampled: str = ""
    interval: str = ""


def measurement_rows(
    profile: Profile, model: str | None = None, *, draws: int = 1000, seed: int = 0
) -> tuple[list[Row], dict[str, str]]:
    """Every measurement of a profile, one row per axis label, with the columns of `MEASUREMENTS`.

    Means over images have the percentile interval of the bootstrap that all figures use; shares of images that of Wilson;
    means over mini-batches that of Student. What no resampling is known for has no interval and no n.

    Args:
        model: what the model is called in the table; by default the checkpoint's name.
        draws, seed: of the bootstrap.

    Returns:
        The rows, and measurement -> why it has none.
    """
    model = profile.name if model is None else model
    rows, left_out = list(_accuracy_rows(profile, model)), dict(profile.provenance.get("absent", {}))
    for name in map(str, profile.data.data_vars):
        if _is_material(profile, name):
            continue
        axes = _axes(profile, name)
        cells = math.prod(profile.data.sizes[axis] for axis in axes)
        if cells > MOST_CELLS:
            left_out[name] = f"{cells:,} cells, which are in the profile"
            continue
        rows += _rows(profile, name, axes, summarise(profile, name, Resampled(draws, seed)), model)
    return rows, left_out


@dataclass(frozen=True)
class Resampled:
    """Draws and seed of a bootstrap."""

    draws: int = 1000
    seed: int = 0


def summarise(profile: Profile, name: str, by: Resampled) -> Summary:
    """Estimates of one measurement over its images or mini-batches, with intervals."""
    array = profile.data[name]
    values = array.values.astype(np.float64)
    unit = _unit(array.dims)
    if unit:
        return _OVER[unit if not name.endswith("correct") else "share"](values.reshape(len(values), -1), by)
    if f"{name}_error" in profile.data:
        half = 1.96 * profile.data[f"{name}_error"].values.ravel()
        n = np.full(values.size, profile.n_images)
        return Summary(
            values.ravel(), values.ravel() - half, values.ravel() + half, n, "image", "1.96 standard errors"
        )
    unknown = np.full(values.size, np.nan)
    return Summary(values.ravel(), unknown, unknown, np.zeros(values.size, int))


def _means(values: np.ndarray, by: Resampled) -> Summary:
    """Means over images, (image, cell); NaN marks an image that has no number."""
    n = np.isfinite(values).sum(0)
    if len(values) < 2:
        return Summary(values[0], np.full(n.shape, np.nan), np.full(n.shape, np.nan), n, "image")
    means = Resampling(len(values), by.draws, by.seed).mean(values)
    low, high = np.nanquantile(np.where(n, means[1:], 0), [0.025, 0.975], axis=0)
    return Summary(means[0], np.where(n, low, np.nan), np.where(n, high, np.nan), n, "image", "bootstrap percentiles")


def _shares(values: np.ndarray, by: Resampled) -> Summary:
    """Shares of images that were right, (image, cell): 1, 0, or negative without a label."""
    n, right = (values >= 0).sum(0), (values > 0).sum(0)
    found = [wilson(int(k), int(m)) if m else None for k, m in zip(right, n, strict=True)]
    ends = [[getattr(each, end) if each else math.nan for each in found] for end in ("value", "low", "high")]
    value, low, high = map(np.array, ends)
    return Summary(value, low, high, n, "image", "Wilson")


def _over_batches(values: np.ndarray, by: Resampled) -> Summary:
    """Means over mini-batches, (batch, cell)."""
    found = [mean_of(column[np.isfinite(column)], unit="batch") for column in values.T]
    value, low, high = (np.array([getattr(each, end) for each in found]) for end in ("value", "low", "high"))
    return Summary(value, low, high, np.array([each.n for each in found]), "batch", "Student")


_OVER: dict[str, Callable[[np.ndarray, Resampled], Summary]] = {
    "image": _means,
    "share": _shares,
    "batch": _over_batches,
}


def _unit(axes: Sequence[Any]) -> str:
    """What the first axis counts, if a mean over it is wanted."""
    first = str(axes[0]) if axes else ""
    return next((unit for unit in ("image", "batch") if first == unit or first.endswith("_" + unit)), "")


def _axes(profile: Profile, name: str) -> list[str]:
    """Axes that are left when images or batches are averaged over."""
    axes = [str(axis) for axis in profile.data[name].dims]
    return axes[1:] if _unit(axes) else axes


def _is_material(profile: Profile, name: str) -> bool:
    """Whether a variable is what others are made of, or says something about an axis, such as ``branch_depth``."""
    array = profile.data[name]
    of_axis = len(array.dims) == 1 and name.startswith(f"{array.dims[0]}_")
    return of_axis or array.dtype.kind not in "fiub" or MATERIAL.fullmatch(name) is not None


def _rows(profile: Profile, name: str, axes: list[str], found: Summary, model: str) -> Iterator[Row]:
    about = profile.data[name].attrs
    labels = [_labels(profile, axis) for axis in axes]
    places = np.ndindex(*(len(each) for each in labels))
    facts = {key: _of_axis(profile, axes, key) for key in ("kind", "depth")}
    for cell, place in enumerate(places):
        known = {key: each[1][place[each[0]]].item() if each else None for key, each in facts.items()}
        yield {
            "model": model,
            "measurement": name,
            "axis": JOIN.join(axes),
            "label": JOIN.join(each[at] for each, at in zip(labels, place, strict=True)),
            **known,
            "estimate": _finite(found.estimate[cell]),
            "low": _finite(found.low[cell]),
            "high": _finite(found.high[cell]),
            "n": int(found.n[cell]) or None,
            "unit": str(about.get("unit", "")),
            "resampled": found.resampled,
            "interval": found.interval,
            "source": str(about.get("source", "")),
        }


def _labels(profile: Profile, axis: str) -> list[str]:
    """Names of the places along an axis; places without a name are counted from 0."""
    if axis not in profile.data.coords:
        return [str(place) for place in range(profile.data.sizes[axis])]
    values = profile.data.coords[axis].values
    return [f"{value:.6g}" if values.dtype.kind == "f" else str(value) for value in values]


def _of_axis(profile: Profile, axes: list[str], key: str) -> tuple[int, np.ndarray] | None:
    """Which axis has a kind or a depth, and the values along it."""
    for place, axis in enumerate(axes):
        name = key if axis == "block" else f"{axis}_{key}"
        if name in profile.data and profile.data[name].dims == (axis,):
            return place, profile.data[name].values
    return None


def _accuracy_rows(profile: Profile, model: str) -> Iterator[Row]:
    """Shares of the labelled images whose label is the first, or among the first five, of the predicted classes."""
    if "label" not in profile.data or "top5" not in profile.data:
        return
    labels, top5 = profile.data["label"].values, profile.data["top5"].values
    hits = top5[labels >= 0] == labels[labels >= 0, None]
    if not len(hits):
        return
    several = len(profile.provenance["checkpoint"].get("classes") or range(6)) > 5
    for name, right in {"accuracy": hits[:, 0], **({"top5_accuracy": hits.any(1)} if several else {})}.items():
        share = wilson(int(right.sum()), len(right))
        yield dict.fromkeys(MEASUREMENTS) | {
            "model": model,
            "measurement": name,
            "axis": "",
            "label": "",
            "estimate": share.value,
            "low": share.low,
            "high": share.high,
            "n": share.n,
            "unit": "1",
            "resampled": "image",
            "interval": "Wilson",
            "source": "",
        }


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


# --------------------------------------------------------------------------------------------------------- verdicts


def verdict_rows(results: Mapping[str, Any]) -> list[Row]:
    """Every judgement of a study, with the columns of `VERDICTS`: first those over checkpoints, then those of single choices.

    ``scope`` is ``study`` where the interval is over checkpoints, and ``choice`` where it is over the images of one choice of
    checkpoints.
    """
    claims = {claim["id"]: claim for claim in results["claims"]}
    rows = [
        _verdict(claim, claim["agreement"], "study", claim["agreement"]["over"])
        for claim in claims.values()
        if "agreement" in claim
    ]
    for each in results["judgements"]:
        names = JOIN.join(results["checkpoints"][number]["key"] for number in each["checkpoints"])
        rows.append(_verdict(claims[each["claim"]], each, "choice", names))
    return rows


def _verdict(claim: Mapping[str, Any], found: Mapping[str, Any], scope: str, checkpoints: str) -> Row:
    estimate = found["estimate"] or {}
    return {
        "claim": claim["id"],
        "text": claim["text"],
        "scope": scope,
        "checkpoints": checkpoints,
        "verdict": found["verdict"],
        "alone": found["alone"],
        "estimate": estimate.get("value"),
        "low": estimate.get("low"),
        "high": estimate.get("high"),
        "n": estimate.get("n"),
        "resampled": estimate.get("unit_resampled"),
        "unit": claim["unit"],
        "margin": claim["margin"],
        "p": found["p"],
        "p_holm": found["p_holm"],
        "note": found["note"],
        "source": claim["source"],
    }


# ---------------------------------------------------------------------------------------------------------- writing


def write_table(rows: Sequence[Row], columns: Mapping[str, str], path: Path) -> Path:
    """Write rows as a parquet file with these columns, and only these; equal rows give equal bytes.

    Raises:
        StudyError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise StudyError(
            "tables are written by pyarrow, which is not installed; install it with: pip install 'hf_vitstudy[hub]'"
        ) from error
    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in columns.items()])
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)
    return path

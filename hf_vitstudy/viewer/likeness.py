"""Maps of places with places by other measures than CKA, for those who choose one over the map.

They lie in files of their own, ``measures-A-B.json`` (A = B: of one network with itself), so that what the page opens with
stays small: ``{"measures": {key: map}}`` with maps as in `data`, and ``chance`` where unrelated networks are not at zero.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from ..comparison import compare
from ..errors import StudyError
from ..similarities import from_vectors, procrustes
from .data import FORMAT, Source, thousandth_map
from .methods import MEASURES, Measure


NEIGHBOURS = 5


def measures_data(source: Source, a: int, b: int) -> dict[str, Any]:
    """Every further map of the places of checkpoint `a` (rows) with those of `b` that both have what it needs for.

    Left out are those that were stored with different settings, such as projections of other sizes.
    """
    profiles = source.profile(a), source.profile(b)
    found = {}
    for each in MEASURES:
        if all(map(each.stored, profiles)):
            with contextlib.suppress(StudyError):
                found[each.key] = _map(source, each, a, b)
    return {"format": FORMAT, "a": a, "b": b, "measures": found}


def _map(source: Source, measure: Measure, a: int, b: int) -> dict[str, Any]:
    first, second = source.profile(a), source.profile(b)
    if measure.kind in ("view", "pixels"):
        view, pixels = measure.name or "flatten", measure.kind == "pixels"
        cells = compare(first, second).cka("aa" if a == b else "ab", view, deconfounded=pixels)
        return thousandth_map(cells["cka"], cells["low"], cells["high"], n=int(cells.attrs["n"]))
    if measure.kind == "projection":
        found = procrustes(first, second)
        n = first.n_images
    else:
        sizes = first.batch_sizes("flatten")
        rows, columns = (source.vectors(number, measure.name, NEIGHBOURS) for number in (a, b))
        found = from_vectors(rows, columns, measure.name, sizes, k=NEIGHBOURS)
        n = int(sizes.sum())
    chance = found.get("chance")
    about = {} if chance is None else {"chance": round(float(np.nanmean(chance)), 3)}
    return thousandth_map(found[measure.name or measure.key], found["low"], found["high"], n=n) | about

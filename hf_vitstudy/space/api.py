"""The stored numbers as functions: endpoints of Gradio's API, and tools of its MCP server.

Each returns JSON as text, since an MCP client would be given a Python dict as Python writes it. What is not there is said in
the answer, as ``{"error": ...}``, with the names that are.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

from ..errors import StudyError, nearest_name
from ..viewer.bundle import STUDY, Pages


VERDICTS = {"s": "supported", "c": "contradicted", "n": "negligible", "u": "undecided", "x": "not applicable"}
MOST_JUDGEMENTS = 500


def endpoints(pages: Pages) -> list[Callable[..., str]]:
    """Functions over the data of one page, with their names, types and descriptions for the API."""
    stored = Stored(pages)

    def list_checkpoints() -> str:
        """List the checkpoints of the study that can be compared.

        Returns:
            JSON: a list of {name, network, parameters, accuracy: [value, low, high] or null, places, curves, revision}.
        """
        return _text(stored.checkpoints)

    def list_claims(verdict: str = "") -> str:
        """List the published claims with their verdict over the checkpoints of the study.

        Args:
            verdict: only claims of this verdict: supported, contradicted, negligible or undecided; empty for all.

        Returns:
            JSON: a list of {claim, text, source, unit, margin, verdict, estimate: [value, low, high], n, over}.
        """
        return _text(stored.claims, verdict)

    def judgements(claim: str, checkpoint: str = "") -> str:
        """Give a claim's verdict on every checkpoint or pair it was judged on.

        Args:
            claim: its name, such as R-1; list_claims has them all.
            checkpoint: only judgements in which this one takes part; empty for all.

        Returns:
            JSON: a list of {checkpoints, verdict, estimate: [value, low, high] or null, n, p}.
        """
        return _text(stored.judgements, claim, checkpoint)

    def cka(a: str, b: str, place_a: str, place_b: str) -> str:
        """Give the CKA of two places of two networks, with its 95 % interval over images.

        Args:
            a: name of a checkpoint; list_checkpoints has them all.
            b: name of a checkpoint, possibly the same.
            place_a: name of a place of a, such as block03.attention, or its number from 0.
            place_b: name of a place of b, or its number.

        Returns:
            JSON: {a, b, place_a, place_b, cka, low, high, n}; cka is null where it is undefined.
        """
        return _text(stored.cka, a, b, place_a, place_b)

    def best_match(a: str, b: str, place_a: str) -> str:
        """Find the place of b that is most like a place of a by CKA.

        Args:
            a: name of a checkpoint.
            b: name of a checkpoint.
            place_a: name of a place of a, or its number from 0.

        Returns:
            JSON: {a, b, place_a, place_b, cka, low, high, n}.
        """
        return _text(stored.best_match, a, b, place_a)

    def curve(checkpoint: str, key: str) -> str:
        """Give a measurement along the depth of one network, with 95 % intervals over images.

        Args:
            checkpoint: its name.
            key: which measurement; list_checkpoints names those that a checkpoint has, such as fourier or variance.

        Returns:
            JSON: {checkpoint, key, n, points: [{place, depth, value, low, high}]}.
        """
        return _text(stored.curve, checkpoint, key)

    return [list_checkpoints, list_claims, judgements, cka, best_match, curve]


def _text(find: Callable[..., Any], *words: str) -> str:
    try:
        return json.dumps(find(*words), ensure_ascii=False)
    except StudyError as error:
        return json.dumps({"error": str(error)}, ensure_ascii=False)


class Stored:
    """Numbers of a page by the names of checkpoints and places."""

    def __init__(self, pages: Pages) -> None:
        self._read = functools.lru_cache(maxsize=256)(lambda name: json.loads(pages.read(name)))

    @property
    def study(self) -> dict[str, Any]:
        return self._read(STUDY)

    def checkpoints(self) -> list[dict[str, Any]]:
        facts = ("network", "parameters", "accuracy", "places", "revision")
        found = []
        for number, each in enumerate(self.study["checkpoints"]):
            curves = list(self._checkpoint(number)["curves"])
            found.append({"name": each["id"], **{fact: each[fact] for fact in facts}, "curves": curves})
        return found

    def claims(self, verdict: str) -> list[dict[str, Any]]:
        if verdict and verdict not in VERDICTS.values():
            raise _unknown("verdict", verdict, list(VERDICTS.values()))
        found = []
        for each in self.study["claims"]:
            agreement = each.get("agreement")
            if agreement and verdict in ("", agreement["verdict"]):
                about = {"claim": each["id"]} | {name: each[name] for name in ("text", "source", "unit", "margin")}
                found.append(about | {name: agreement[name] for name in ("verdict", "estimate", "n", "over")})
        return found

    def judgements(self, claim: str, checkpoint: str) -> list[dict[str, Any]]:
        known = self.study["judgements"]
        if claim not in known:
            raise _unknown("claim", claim, list(known))
        only = self._number(checkpoint) if checkpoint else None
        rows = [row for row in known[claim] if only is None or only in row[0]][:MOST_JUDGEMENTS]
        return [
            {
                "checkpoints": [self.study["checkpoints"][k]["id"] for k in members],
                "verdict": VERDICTS[letter],
                "estimate": None if value is None else [value, low, high],
                "n": n,
                "p": p,
            }
            for members, letter, value, low, high, n, p, *_ in rows
        ]

    def cka(self, a: str, b: str, place_a: str, place_b: str) -> dict[str, Any]:
        first, second = self._number(a), self._number(b)
        i, j = self._place(first, place_a), self._place(second, place_b)
        return self._cell(self._map(first, second), (first, second), i, j)

    def best_match(self, a: str, b: str, place_a: str) -> dict[str, Any]:
        first, second = self._number(a), self._number(b)
        i, found = self._place(first, place_a), self._map(first, second)
        columns = range(len(self._names(second)))
        cells = [self._cell(found, (first, second), i, j) for j in columns if first != second or j != i]
        defined = [cell for cell in cells if cell["cka"] is not None]
        if not defined:
            raise StudyError(f"CKA of {place_a} of {a} is undefined: its state is the same for every image")
        return max(defined, key=lambda cell: cell["cka"])

    def curve(self, checkpoint: str, key: str) -> dict[str, Any]:
        number = self._number(checkpoint)
        about = self._checkpoint(number)
        if key not in about["curves"]:
            raise _unknown("curve", key, list(about["curves"]))
        found, depths = about["curves"][key], about["places"]["depth"]
        rows = zip(found["name"], found["place"], found["value"], found["low"], found["high"], strict=True)
        points = [
            {"place": name, "depth": depths[k] if k >= 0 else None, "value": value, "low": low, "high": high}
            for name, k, value, low, high in rows
        ]
        return {"checkpoint": checkpoint, "key": key, "n": found["n"], "points": points}

    def _number(self, name: str) -> int:
        names = [each["id"] for each in self.study["checkpoints"]]
        if name not in names:
            raise _unknown("checkpoint", name, names)
        return names.index(name)

    def _checkpoint(self, number: int) -> dict[str, Any]:
        return self._read(f"checkpoint-{number}.json")

    def _names(self, number: int) -> list[str]:
        return self._checkpoint(number)["places"]["name"]

    def _place(self, number: int, place: str) -> int:
        names = self._names(number)
        if place in names:
            return names.index(place)
        if str(place).isdecimal() and int(place) < len(names):
            return int(place)
        raise _unknown("place", place, names)

    def _map(self, a: int, b: int) -> tuple[dict[str, Any], bool]:
        """(map, whether its rows are those of b)."""
        if a == b:
            found, turned = self._checkpoint(a)["map"], False
        elif any({a, b} <= {*group} for group in self.study["comparable"]):
            found, turned = self._read("pair-{}-{}.json".format(*sorted((a, b))))["map"], a > b
        else:
            found = None
        if found is None:
            raise StudyError("these two were not measured on the same images, so they have no CKA")
        return found, turned

    def _cell(self, found: tuple[dict[str, Any], bool], pair: tuple[int, int], i: int, j: int) -> dict[str, Any]:
        stored, turned = found
        rows, columns = (self._names(number) for number in pair)
        k = j * len(rows) + i if turned else i * len(columns) + j
        value = stored["cka"][k]
        ends = [None] * 3 if value is None else [value, value - stored["below"][k], value + stored["above"][k]]
        cka, low, high = (None if end is None else end / 1000 for end in ends)
        a, b = (self.study["checkpoints"][number]["id"] for number in pair)
        return {
            **{"a": a, "b": b, "place_a": rows[i], "place_b": columns[j]},
            **{"cka": cka, "low": low, "high": high, "n": stored["n"]},
        }


def _unknown(what: str, name: str, known: list[str]) -> StudyError:
    return StudyError(f"no {what} {str(name)[:80]!r}; {nearest_name(str(name)[:80], known)}")

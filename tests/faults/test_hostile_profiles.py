"""Profiles from strangers at the command line: never a wrong number, a traceback, or a file outside their folder."""

import contextlib
import io
import json
import math
import sys
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import synthetic_profile
from test_profile import edited, flipped, put, signed

from hf_vitstudy import cli, load_profile
from hf_vitstudy.profile import AXES, TEXTS


FILES = ("arrays.safetensors", "profile.json", "manifest.json")
bounded = settings(deadline=None, database=None, derandomize=True, max_examples=50)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Two profiles of the same images, a and b, and one of other images, c; strangers' profiles are put beside them."""
    folder = tmp_path_factory.mktemp("strangers")
    for name, kind, seed in (("a", "vit", 0), ("b", "resnet", 0), ("c", "vit", 5)):
        synthetic_profile(kind, n=12, block=8, seed=seed).save(folder / name)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def ask(place: Path, *words: object) -> tuple[int, str]:
    """Exit code and all that was said by a command that must change nothing on the disk."""
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        patch.setattr(sys, "argv", ["vitstudy", *map(str, words)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of means of what a stranger made NaN
            with pytest.raises(SystemExit) as end:
                cli.main()
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before
    return end.value.code or 0, out.getvalue()


def compared(place: Path, folder: Path) -> tuple[int, str]:
    return ask(place, "compare", folder, place / "b", "--permutations", 0)


positions = st.integers(0, 2**40)
DAMAGES = {
    "truncated": lambda content, other, at: content[: at % len(content)],
    "a bit": lambda content, other, at: flipped(content, at % (8 * len(content))),
    "of another profile": lambda content, other, at: other,
    "of another profile, from somewhere on": lambda content, other, at: (
        content[: at % len(content)] + other[at % len(content) :]
    ),
}


@bounded
@given(name=st.sampled_from(FILES), damage=st.sampled_from(sorted(DAMAGES)), at=positions)
def test_damaged_and_swapped_files_end_with_one_line(name, damage, at, place):
    mine, other = contents(place / "a"), contents(place / "c")
    changed = DAMAGES[damage](mine[name], other[name], at)
    folder = put(place / "damaged", mine | {name: changed})
    code, said = compared(place, folder)
    if code == 0:  # white space of a manifest, or a size that only helps to explain
        assert name == "manifest.json" or changed == mine[name]
        assert said == compared(place, place / "a")[1]
    else:
        assert code == 2
        (line,) = said.splitlines()
        assert line.startswith("error: ")


def places(value: object, before: str = "") -> list[str]:
    """Every place in a piece of JSON, as `edited` takes them."""
    if not isinstance(value, dict):
        return []
    found = []
    for key, inner in value.items():
        if "/" not in key:
            found += [before + key, *places(inner, f"{before}{key}/")]
    return found


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, width=32) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
nasty = st.sampled_from(
    ["../../outside", "/etc/passwd", "\x00", "<script>", "__class__", ["image"] * 2, 10**40, "nan", ...]
)


@bounded
@given(data=st.data(), value=nasty | json_values)
def test_hostile_descriptions_with_a_right_manifest(data, value, place):
    """Whoever writes the manifest as well can say anything; the reader must not stumble."""
    mine = contents(place / "a")
    description = json.loads(mine["profile.json"])
    where = data.draw(st.sampled_from(sorted(places(description))))
    folder = put(place / "hostile", signed(mine, edited(description, where, value)))
    for words in (("compare", folder, place / "b", "--permutations", 0), ("judge", folder, "--draws", 100)):
        only = ("--claims", "P-F1,P-V1-msa,R-4-local,R-1") if words[0] == "judge" else ()
        code, said = ask(place, *words, *only)
        assert code in (0, 2), said
        assert code == 0 or said.startswith("error: ")
        assert "Traceback" not in said


def test_the_axes_that_are_checked_are_those_that_are_measured(place):
    seen = set()
    for name in ("a", "b"):
        variables = load_profile(place / name).data.variables
        for known in AXES.keys() & variables.keys():
            assert variables[known].dims == AXES[known]
            assert (variables[known].dtype.kind == "U") == (known in TEXTS)
            seen.add(known)
    assert set(AXES) - seen <= {"top_channel_share"}


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("variables/fourier/dims", ["image", "block", "x"], r"fourier is float32 \('image', 'block', 'x'\), expected"),
        ("variables/attention_distance/attrs/uniform", ..., "uniform"),
        ("variables/attention_distance/attrs/uniform", {}, "not 'dict'"),
        ("variables/depth/values", ["deep"] * 17, r"depth is <U4 \('block',\), expected"),
    ],
)
def test_what_readers_rely_on_is_checked(where, value, message, place):
    mine = contents(place / "a")
    folder = put(place / "wrong", signed(mine, edited(json.loads(mine["profile.json"]), where, value)))
    with pytest.raises(ValueError, match=rf"wrong is not a readable profile \(.*{message}"):
        load_profile(folder)
    assert math.isfinite(load_profile(place / "a")["attention_distance"].attrs["uniform"])

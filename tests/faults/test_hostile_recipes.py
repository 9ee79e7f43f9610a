"""Recipes with anything in them: a configuration or one line, and nothing is run."""

import copy
import dataclasses
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_recipes import settings as toy

from hf_vitstudy import StudyError
from hf_vitstudy.training.settings import Config, read_config


bounded = settings(deadline=None, database=None, derandomize=True, max_examples=80)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("recipes")


def plain() -> dict:
    """A recipe that is fine, of its own: others are not changed with it."""
    more = {"profile": {"images": "shapes", "at": [0, 1]}, "log_with": ["tensorboard"]}
    return copy.deepcopy(toy(Path("shapes"), Path("run")) | more)


PLAIN = yaml.safe_dump(plain())


def read(place: Path, text: str, *overrides: str) -> Config | None:
    """The configuration, or None where it is refused in one line."""
    path = place / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    try:
        return read_config(path, overrides)
    except StudyError as error:
        return refused(error)


def refused(error: StudyError) -> None:
    assert "\n" not in str(error)
    assert len(str(error)) < 2000


def leaves(value: object, before: tuple = ()) -> list[tuple]:
    """Every place in a recipe, also of whole groups."""
    found = [before] if before else []
    if isinstance(value, dict):
        found += [place for key, inner in value.items() for place in leaves(inner, (*before, key))]
    return found


def replaced(recipe: dict, place: tuple, value: object) -> dict:
    *parents, last = place
    target = recipe
    for key in parents:
        target = target[key]
    target[last] = value
    return recipe


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec="ascii"), max_size=12)
    | st.dates()
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(scalars.filter(lambda key: key == key), inner, max_size=3)
    ),
    max_leaves=5,
)


def test_the_plain_recipe_is_read(place):
    assert read(place, yaml.safe_dump(plain())).batch_size == 8


@bounded
@given(where=st.sampled_from(leaves(plain())), value=values)
def test_wrong_types_are_refused_or_right(where, value, place):
    found = read(place, yaml.safe_dump(replaced(plain(), where, value)))
    if found is None or where[0] == "model":
        return  # whose settings depend on the architecture
    for name in where:
        found = getattr(found, name)
    assert dataclasses.is_dataclass(found) or found == value or str(float(found)) == str(float(value))


groups = st.sampled_from([(), ("data",), ("optimizer",), ("augment",), ("profile",)])


@bounded
@given(
    group=groups,
    key=st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=16),
    value=scalars,
)
def test_unknown_keys_are_refused(group, key, value, place):
    name = f"{key}_x"  # no setting ends so
    assert read(place, yaml.safe_dump(replaced(plain(), (*group, name), value))) is None
    with pytest.raises(StudyError, match="unknown setting"):
        read_config(place / "recipe.yaml")


@bounded
@given(
    text=st.text(max_size=60), before=st.sampled_from(["", "model: ", "batch_size: ", "a: &a ", "- ", "? ", "!!", "%"])
)
def test_any_text_is_refused(text, before, place):
    path = place / "recipe.yaml"
    path.write_bytes((before + text).encode("utf-8", "surrogatepass"))
    with pytest.raises(StudyError):
        read_config(path)


@bounded
@given(text=st.text(max_size=30), where=st.sampled_from([".".join(map(str, place)) for place in leaves(plain())]))
def test_any_override_is_refused_or_read(text, where, place):
    read(place, PLAIN, f"{where}={text}")
    read(place, PLAIN, text)


TAGS = {
    "a call": "!!python/object/apply:builtins.open [{marker}, w]",
    "a new object": "!!python/object/new:builtins.open [{marker}, w]",
    "an object": "!!python/object:pathlib.Path {{}}",
    "a name": "!!python/name:builtins.open",
    "a module": "!!python/module:tarfile",
    "a tuple": "!!python/tuple [1, 2]",
    "one of its own": "!evil x",
    "a date that is none": "2024-99-99",
}


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("where", ["file", "override"])
def test_tags_run_nothing(tag, where, place, tmp_path):
    value = TAGS[tag].format(marker=tmp_path / "ran")
    text, overrides = yaml.safe_dump(plain()), [f"seed={value}"]
    if where == "file":
        text, overrides = f"{text}\nseed: {value}\n", []
    assert read(place, text, *overrides) is None
    with pytest.raises(StudyError, match="is not plain YAML" if where == "file" else "is not YAML; put it in quotes"):
        read_config(place / "recipe.yaml", overrides)
    assert not (tmp_path / "ran").exists()


def test_a_short_file_that_stands_for_a_long_one(place):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    path = place / "recipe.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(StudyError, match="aliases are not read; write it out"):
        read_config(path)
    assert read(place, "[" * 2000) is None

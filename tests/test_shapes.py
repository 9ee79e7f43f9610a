"""What a stored file must hold, and the words for the first place where it does not."""

import pytest

from hf_vitstudy.claims import Verdict
from hf_vitstudy.shapes import ANY, NUMBER, TEXT, VERDICTS, WHOLE, YES_NO, misfit


SHAPE = {
    "title": TEXT,
    "n": WHOLE,
    "parts": [{"name": TEXT, "share?": (NUMBER, None)}],
    "kind?": {"vit", "resnet"},
    "known?": YES_NO,
    "versions?": {"*": TEXT},
    "more?": ANY,
}
RIGHT = {"title": "é 🔬", "n": 3, "parts": [{"name": "a", "share": 0.5}, {"name": "b", "share": None, "own": 1}]}


@pytest.mark.parametrize("more", [{}, {"kind": "vit"}, {"known": False}, {"versions": {"x": "1"}}, {"more": [None]}])
def test_what_fits(more):
    assert misfit(RIGHT | more, SHAPE) == ""


WRONG = {
    "title must be a text, got null": {"title": None},
    'title must be a text, got "\\ud800"': {"title": "\ud800"},
    "n must be a whole number, got true": {"n": True},
    "n must be a whole number, got 1.5": {"n": 1.5},
    "n must be a whole number, got NaN": {"n": float("nan")},
    'parts must be a list, got "ab"': {"parts": "ab"},
    "parts[1] must be an object, got 5": {"parts": [{"name": "a"}, 5]},
    "parts[0].name is missing, expected a text": {"parts": [{}]},
    'parts[0].share must be a number or null, got "x"': {"parts": [{"name": "a", "share": "x"}]},
    'kind must be one of resnet, vit, got "cnn"': {"kind": "cnn"},
    "kind must be one of resnet, vit, got []": {"kind": []},
    "known must be true or false, got 1": {"known": 1},
    "versions must be an object, got 5": {"versions": 5},
    "versions.a\ufffdb must be a text, got 5": {"versions": {"a\x1bb": 5}},
}


@pytest.mark.parametrize("told", WRONG)
def test_the_first_place_that_does_not_fit_is_named(told):
    assert misfit(RIGHT | WRONG[told], SHAPE) == told


@pytest.mark.parametrize("value", [[], None, 5, "x"])
def test_the_whole_is_named_too(value):
    assert misfit(value, SHAPE).startswith("it must be an object, got ")


def test_what_is_missing_is_named_with_what_was_expected():
    assert misfit({"a": 1}, {"b": (NUMBER, None)}) == "b is missing, expected a number or null"
    assert misfit({}, {"b": [TEXT]}) == "b is missing, expected a list"


def test_the_verdicts_are_those_of_the_claims():
    assert {str(verdict) for verdict in Verdict} == VERDICTS

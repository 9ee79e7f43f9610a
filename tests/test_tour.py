"""The tour: every step is true of the study that is loaded, and a study with less has fewer of them."""

import copy
import re
from pathlib import Path

import numpy as np
import pytest
from synthetic import synthetic_profile
from viewer_site import write_study

from hf_vitstudy.claims import CLAIMS
from hf_vitstudy.claims.judging import judge_choices
from hf_vitstudy.comparison import compare
from hf_vitstudy.profile import Profile, load_profile
from hf_vitstudy.study import Settings, load_study, study_of
from hf_vitstudy.viewer import Source, study_data
from hf_vitstudy.viewer.citing import PAPERS, entry, escaped, papers, result_entry, result_sha256
from hf_vitstudy.viewer.methods import MEASURES, METHODS, VIEWS
from hf_vitstudy.viewer.snippets import beside, compared
from hf_vitstudy.viewer.tour import tour


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    return write_study(tmp_path_factory.mktemp("tour") / "study")


@pytest.fixture(scope="module")
def source(study) -> Source:
    return Source(study)


@pytest.fixture(scope="module")
def data(source) -> dict:
    return study_data(source)


def written(number: float) -> str:
    return f"{number:#.3g}".removesuffix(".").replace("-", "−")


# ---------------------------------------------------------------------------------------------------------- the steps


def test_every_step_is_a_state_that_the_page_has(data):
    assert 4 <= len(data["tour"]) <= 5
    for step in data["tour"]:
        assert set(step) == {"title", "text", "state"}
        state = step["state"]
        assert {state["a"], state["b"]} <= set(range(len(data["checkpoints"])))
        assert state["view"] in ("findings", *VIEWS)
        assert ("sel" in state) != (state["view"] == "findings")
        if "claim" in state:
            assert state["claim"] in {claim["id"] for claim in data["claims"]}
    assert len({step["title"] for step in data["tour"]}) == len(data["tour"])


def test_the_first_step_counts_the_verdicts(study, data):
    text = data["tour"][0]["text"]
    result = load_study(study)
    judged = [claim for claim in result["claims"] if "agreement" in claim]
    assert text.startswith(f"{len(judged)} of {len(result['claims'])} published claims could be judged")
    told = [int(number) for number in re.findall(r": (\d+)", text)]
    assert sum(told) == len(judged)
    held = sum(claim.get("said") == "all supported" for claim in data["claims"])
    assert f"eld on every choice of checkpoints: {held}" in text


def test_the_second_step_is_the_highest_cell_of_the_map(study, data):
    step = data["tour"][1]
    a, b = data["start"]
    folders = ["a", "b", "c", "d", "e"]
    maps = compare(*(load_profile(study / "profiles" / folders[number]) for number in (a, b))).cka("ab")
    i, j = np.unravel_index(np.nanargmax(maps["cka"].values), maps["cka"].shape)
    assert step["state"] == {"a": a, "b": b, "view": "cka", "sel": {"of": "ab", "i": i, "j": j}}
    value, low, high = (f"{float(maps[name][i, j]):.3f}" for name in ("cka", "low", "high"))
    names = [str(maps[name].values[k]) for name, k in (("row", i), ("column", j))]
    assert f"{names[0]} and {names[1]} are most alike: CKA {value} [{low}, {high}]." in step["text"]


def test_steps_on_claims_tell_a_stored_judgement_with_that_verdict(study, data):
    result = load_study(study)
    texts = {claim["text"]: claim for claim in result["claims"]}
    words = {
        "What holds most clearly": "supported",
        "And another that holds": "supported",
        "What does not hold": "contradicted",
    }
    checked = 0
    for step in data["tour"][2:]:
        (claim,) = [claim for text, claim in texts.items() if step["text"].startswith(f"{text} ({claim['source']}).")]
        numbers = re.search(
            r": (\S+) \[(\S+), (\S+)\] " + re.escape(claim["unit"]) + ", against a margin of (.*)\\.$", step["text"]
        )
        told = [each for each in result["judgements"] if each["claim"] == claim["id"] and each["estimate"]]
        (found,) = [
            each
            for each in told
            if [written(each["estimate"][name]) for name in ("value", "low", "high")] == list(numbers.groups()[:3])
        ]
        assert float(numbers[4]) == claim["margin"]
        assert found["verdict"] == words.get(step["title"], found["verdict"])
        names = " and ".join(data["checkpoints"][number]["id"] for number in found["checkpoints"])
        assert f"{names}: " in step["text"]
        assert set(found["checkpoints"]) <= {step["state"]["a"], step["state"]["b"]}
        counts = claim["agreement"]["counts"]
        if sum(counts.values()) > 1:
            assert f"{counts['supported']} " in step["text"] or f"{counts['contradicted']} " in step["text"]
            assert f"of {sum(counts.values())} choices of checkpoints." in step["text"]
        checked += 1
    assert checked >= 2


def margins(claim: dict) -> float:
    """How many margins the near end of the interval is from zero."""
    value, low, high = claim["agreement"]["estimate"]
    low, high = (value if low is None else low), (value if high is None else high)
    return 0.0 if low < 0 < high else min(abs(low), abs(high)) / claim["margin"]


def test_what_holds_most_clearly_is_furthest_beyond_its_margin(data):
    step = data["tour"][2]
    assert step["title"] == "What holds most clearly"
    held = [claim for claim in data["claims"] if claim.get("said") in ("supported", "all supported")]
    fresh = [claim for claim in held if claim["see"] and claim["see"][0] != "cka"]
    over = [claim for claim in fresh if claim["said"] == "supported"] or fresh
    best = max(over, key=margins)
    assert step["text"].startswith(best["text"])
    assert step["state"]["view"] == best["see"][0]


# ------------------------------------------------------------------------------------------------ less to tell, or other


def remade(source: Source, data: dict, change) -> list[dict]:
    changed = copy.deepcopy(data)
    change(changed)
    return tour(source, changed)


def only(*kept):
    def change(study: dict) -> None:
        study["claims"] = [claim for claim in study["claims"] if claim.get("said", "") in kept]

    return change


def test_a_study_with_less_has_fewer_steps(source, data):
    def nothing_compares(study: dict) -> None:
        study["comparable"] = []

    def nothing_judged(study: dict) -> None:
        nothing_compares(study)
        study["claims"] = [claim for claim in study["claims"] if "reason" in claim]

    titles = lambda steps: [step["title"] for step in steps]  # noqa: E731
    assert "Where two networks are alike" not in titles(remade(source, data, nothing_compares))
    assert remade(source, data, nothing_judged) == []
    assert "What does not hold" not in titles(remade(source, data, only("all supported")))
    assert titles(remade(source, data, only("undecided"))) == [
        "Published claims, as tests",
        "Where two networks are alike",
    ]


def test_what_divides_checkpoints_is_told_with_both_counts(source, data):
    def change(study: dict) -> None:
        claim = next(claim for claim in study["claims"] if claim["id"] == "R-1")
        claim["said"] = "divided"
        claim["agreement"]["counts"] = {"supported": 1, "contradicted": 3, "negligible": 0, "undecided": 0}
        for number, row in enumerate(study["judgements"]["R-1"]):
            row[1] = "cccs"[number]

    step = remade(source, data, change)[-1]
    assert step["title"] == "Where checkpoints disagree"
    assert "Supported on 1 and contradicted on 3 of 4 choices of checkpoints." in step["text"]
    told = data["judgements"]["R-1"][:3]
    assert any(f": {written(row[2])} [" in step["text"] for row in told), "a choice that says what most say"


def test_claims_without_a_view_are_shown_among_the_findings(source, data):
    def change(study: dict) -> None:
        only("all supported", "supported")(study)
        for claim in study["claims"]:
            claim["see"] = None

    step = remade(source, data, change)[2]
    assert step["state"]["view"] == "findings"
    assert step["state"]["claim"] in {claim["id"] for claim in data["claims"]}


def in_memory(*profiles: Profile) -> tuple[dict, Source]:
    judged = judge_choices(*profiles, claims=CLAIMS[:14], draws=50, permutations=0)
    result = study_of(profiles, judged, "A pair", Settings(claims=CLAIMS[:14], draws=50, permutations=0))
    return result, Source.in_memory(result, profiles)


def test_the_tour_of_two_profiles_in_memory_is_about_them():
    pair = synthetic_profile("vit", n=64), synthetic_profile("resnet", n=64)
    result, source = in_memory(*pair)
    found = study_data(source)
    assert result["over"] == found["over"] == "images"
    assert "eld: " in found["tour"][0]["text"]
    assert "over checkpoints" not in found["tour"][0]["text"]
    assert all("choices of checkpoints" not in step["text"] for step in found["tour"])
    assert len(found["tour"]) >= 3


def test_one_profile_has_a_tour_without_a_pair():
    _, source = in_memory(synthetic_profile("vit", n=64))
    found = study_data(source)
    assert found["start"] == [0, 0]
    assert "Where two networks are alike" not in [step["title"] for step in found["tour"]]
    assert all(step["state"]["a"] == step["state"]["b"] == 0 for step in found["tour"])


def test_profiles_in_memory_and_on_disk_are_judged_alike(study):
    pair = [load_profile(study / "profiles" / folder) for folder in ("d", "a")]
    judged = judge_choices(*pair, draws=200, permutations=5)
    result = study_of(pair, judged, "A pair", Settings(draws=200, permutations=5))
    stored = load_study(study)
    checked = 0
    for each in result["judgements"]:
        numbers = [{0: 3, 1: 0}[number] for number in each["checkpoints"]]
        same = [
            other
            for other in stored["judgements"]
            if other["claim"] == each["claim"] and other["checkpoints"] == numbers
        ]
        for other in same:
            assert other["estimate"] == each["estimate"]
            checked += other["estimate"] is not None
    assert checked >= 6
    names = ("network", "state", "parameters", "accuracy", "images", "weights_sha256", "places")
    for mine, theirs in ((0, 3), (1, 0)):
        assert {name: result["checkpoints"][mine][name] for name in names} == {
            name: stored["checkpoints"][theirs][name] for name in names
        }
    for claim in result["claims"]:
        if "agreement" in claim:
            (own,) = [each for each in result["judgements"] if each["claim"] == claim["id"] and each["estimate"]]
            assert claim["agreement"]["estimate"] == own["estimate"]
            assert claim["agreement"]["verdict"] == own["verdict"]
            assert claim["agreement"]["over"].startswith(f"{own['estimate']['n']:,} ")


# ------------------------------------------------------------------------------------------------------------ citations


def test_every_paper_that_views_measures_and_claims_follow_can_be_cited():
    """What a source names, such as `Park & Kim 2022`, is either an entry, or said to be followed from afar."""
    for text in [
        *(each["source"] for each in METHODS),
        *(claim.source for claim in CLAIMS),
        *(m.source for m in MEASURES),
    ]:
        for part in text.split(";"):
            name = re.match(r"\s*(?:after |compare )?(.*?\d{4})", part)[1]
            assert name in PAPERS, name


def test_entries_are_whole_and_their_keys_are_their_own():
    assert len({about[1] for about in PAPERS.values()}) == len(PAPERS) - 1  # one paper has two names
    for name, text in papers(PAPERS).items():
        assert text.count("{") == text.count("}")
        assert re.match(r"@(inproceedings|article)\{[a-z]+\d{4}[a-z]+,\n", text)
        first = name.split()[0].rstrip(",")
        assert re.search(rf"  author = \{{{first}, ", text), name
        assert re.search(r"  eprint = \{\d{4}\.\d{4,5}\}", text) or "@article" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50 % of $x_1$ & #2", r"50 \% of \$x\_1\$ \& \#2"),
        ("a{b}\nc\\d", r"a\{b\} c\textbackslash{}d"),
        ("~^", r"\textasciitilde{}\textasciicircum{}"),
    ],
)
def test_text_from_outside_is_latex_that_does_nothing(text, expected):
    assert escaped(text) == expected


def test_an_entry_is_bibtex():
    assert (
        entry("misc", "key", {"title": "{T}", "year": "2026"}) == "@misc{key,\n  title = {{T}},\n  year = {2026},\n}\n"
    )


def test_the_result_is_cited_by_what_it_holds(study, data):
    result = load_study(study)
    text = result_entry(result, 2026)
    assert data["cite"] == text
    assert result_sha256(result) in text
    assert f"@misc{{vitstudy-{result_sha256(result)[:8]}," in text
    assert "title = {{A <b>study</b> \\& more}}" in text
    assert "hf\\_vitstudy" in text
    changed = copy.deepcopy(result)
    changed["judgements"][0]["verdict"] = "other"
    assert result_sha256(changed) != result_sha256(result)
    assert "year" not in result_entry(result, None)


def test_the_year_is_that_of_the_latest_measurement_where_profiles_say_it():
    pair = [synthetic_profile(kind, n=32) for kind in ("vit", "resnet")]
    pair[0].provenance["created"] = "2031-05-06T00:00:00+00:00"
    pair[1].provenance["created"] = "yesterday"
    assert "year = {2031}" in study_data(in_memory(*pair)[1])["cite"]
    del pair[0].provenance["created"]
    found = study_data(in_memory(*pair)[1])
    assert "year" not in found["cite"]
    assert found["checkpoints"][0]["created"] is None


# -------------------------------------------------------------------------------------------------------------- methods


def test_every_view_and_measure_says_how_it_is_had_again():
    assert set(beside()) == set(VIEWS)
    assert set(compared()) == {"cka", *(measure.key for measure in MEASURES)}
    for about in beside().values():
        assert about["interval"]
        assert about["analysis"]
        assert about["line"]


def test_checkpoints_say_when_and_on_what_they_were_measured(data):
    for each in data["checkpoints"]:
        assert (each["created"], each["device"], each["batch_size"]) == ("2026-01-01T00:00:00+00:00", "cpu", 32)
        assert each["seconds"] == 7.5

"""What a claim says of itself, and by which analysis its variables are written."""

import pytest

from hf_vitstudy.claims import CLAIMS, explain, measured_by
from hf_vitstudy.claims.explaining import MEASURED_BY, TESTS, measure_command


# Options that make a measurement small and change no name.
SMALL = {
    "attacks": "images=4",
    "corruptions": "kinds=fog:severities=1:images=4",
    "hessian": "images=4:batch=2:k=1:iterations=2",
    "landscape": "images=4:grid=3",
    "noise": "images=4",
    "probes": "shots=2",
    "receptive_field": "images=2",
}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_every_claim_says_all_of_itself(claim):
    found = explain(claim)
    for words in (claim.text, claim.source, claim.statistic, claim.formula, claim.falsified_by, claim.conditions):
        assert words
        assert words in found.values()
    assert claim.test in TESTS
    assert f"{claim.margin:g} {claim.unit}" in found["margin"]
    assert found["against"] == (claim.against or "no published result against it is known to us")
    assert ("controls" in found) == claim.of_cka


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_every_claim_says_how_to_measure_what_it_needs(claim):
    command = measure_command(claim)
    for name in (*claim.needs, *claim.needs_first):
        assert measured_by(name), f"no analysis is named that writes {name}"
        assert measured_by(name) in command.rpartition("--analyses ")[2].split(",")
    if not claim.needs and not claim.needs_first:
        assert command.startswith("any profile of a checkpoint trained by recipes/finetune.py")


def test_a_variable_nobody_writes():
    assert measured_by("beauty") is None


@pytest.mark.parametrize("analysis", sorted(set(MEASURED_BY.values())))
def test_the_named_analysis_writes_these_variables(analysis, vit_folder, image_folder, tmp_path):
    from hf_vitstudy import measure

    name = analysis.partition(":")[0]
    text = ":".join(filter(None, (analysis, SMALL.get(name))))
    n = {"probes": 44, "localisation": 16}.get(name, 8)
    profile = measure(
        str(vit_folder), str(image_folder), n=n, batch_size=8, analyses=[text], workers=0, out=tmp_path / "p"
    )
    assert profile.data.data_vars, profile.provenance["absent"]
    for variable in map(str, profile.data.data_vars):
        pixels = name == "cka" and variable.endswith("_input")  # an option adds to what the analysis writes
        plain = name if pixels or (analysis == "probes:tokens=true" and variable.startswith("probe_")) else analysis
        assert measured_by(variable) == plain, variable

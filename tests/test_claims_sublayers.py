"""What attention, MLPs and convolutions do to high frequencies and to variance, and how far heads look."""

import numpy as np
import pytest
from planted import LOWERS, RAISES, Made, N, resnet, vit

from hf_vitstudy.claims import Verdict, choose_claims, judge
from hf_vitstudy.comparison import compare
from hf_vitstudy.profile import Profile


LOWERED = {kind: ((kind, LOWERS),) for kind in ("attention", "mlp", "conv")}
RAISED = {kind: ((kind, RAISES),) for kind in ("attention", "mlp", "conv")}
MADE: dict[tuple[str, Verdict], Made] = {
    ("P-F1", Verdict.SUPPORTED): vit(step=LOWERED["attention"]),
    ("P-F1", Verdict.CONTRADICTED): vit(step=RAISED["attention"]),
    ("P-F2-mlp", Verdict.SUPPORTED): vit(step=RAISED["mlp"]),
    ("P-F2-mlp", Verdict.CONTRADICTED): vit(step=LOWERED["mlp"]),
    ("P-F2-conv", Verdict.SUPPORTED): resnet(step=RAISED["conv"]),
    ("P-F2-conv", Verdict.CONTRADICTED): resnet(step=LOWERED["conv"]),
    ("P-V1-msa", Verdict.SUPPORTED): vit(step=LOWERED["attention"]),
    ("P-V1-msa", Verdict.CONTRADICTED): vit(step=RAISED["attention"]),
    ("P-V1-mlp", Verdict.SUPPORTED): vit(step=RAISED["mlp"]),
    ("P-V1-mlp", Verdict.CONTRADICTED): vit(step=LOWERED["mlp"]),
    ("P-V1-conv", Verdict.SUPPORTED): resnet(step=RAISED["conv"]),
    ("P-V1-conv", Verdict.CONTRADICTED): resnet(step=LOWERED["conv"]),
    ("R-4-local", Verdict.SUPPORTED): vit(heads=("mixed", "global")),
    ("R-4-local", Verdict.CONTRADICTED): vit(heads=("global", "mixed")),
    ("R-4-mixed", Verdict.SUPPORTED): vit(heads=("mixed", "global")),
    ("R-4-mixed", Verdict.CONTRADICTED): vit(heads=("global", "mixed")),
}
CASES = {key: (case.profile,) for key, case in MADE.items()}


def mean_step(values: np.ndarray, profile: Profile, kind: str) -> float:
    """Mean over images and sublayers of `kind` of the change across the sublayer, within a stage; values (n, block)."""
    kinds, stage = profile.data["kind"].values, profile.data["stage"].values
    changes = []
    for image in values:
        for i in range(1, len(kinds)):
            if kinds[i] == kind and stage[i] == stage[i - 1]:
                changes.append(image[i] - image[i - 1])
    return float(np.mean(changes))


def highest_band(profile: Profile) -> np.ndarray:
    frequency = profile.data["frequency"].values
    assert 0.8 < frequency[-1] < 1
    return profile["fourier"].values[:, :, -1].astype(np.float64)


def log_variance(profile: Profile) -> np.ndarray:
    return np.log(profile["variance"].values.astype(np.float64))


def heads(profile: Profile, layers: slice) -> np.ndarray:
    """Mean distance of the heads of some layers, relative to uniform attention."""
    array = profile["attention_distance"]
    return array.values.astype(np.float64).mean(0)[layers] / array.attrs["uniform"]


LOW, HIGH = slice(0, 2), slice(-2, None)
ORACLES = {
    "P-F1": lambda vit: -mean_step(highest_band(vit), vit, "attention"),
    "P-F2-mlp": lambda vit: mean_step(highest_band(vit), vit, "mlp"),
    "P-F2-conv": lambda resnet: mean_step(highest_band(resnet), resnet, "conv"),
    "P-V1-msa": lambda vit: -mean_step(log_variance(vit), vit, "attention"),
    "P-V1-mlp": lambda vit: mean_step(log_variance(vit), vit, "mlp"),
    "P-V1-conv": lambda resnet: mean_step(log_variance(resnet), resnet, "conv"),
    "R-4-local": lambda vit: heads(vit, HIGH).min() - heads(vit, LOW).min(),
    "R-4-mixed": lambda vit: np.ptp(heads(vit, LOW)) - np.ptp(heads(vit, HIGH)),
}


@pytest.mark.parametrize(("name", "expected"), CASES)
def test_the_contrast_is_what_the_sentence_says(name, expected):
    (profile,), (claim,) = CASES[name, expected], choose_claims([name])
    found = claim.contrast(compare(profile, profile, draws=5))
    assert found.shape == (6,)
    assert found[0] == pytest.approx(ORACLES[name](profile), abs=1e-5)


@pytest.mark.parametrize("name", ORACLES)
def test_each_draw_is_the_contrast_of_the_images_drawn(name):
    (profile,), (claim,) = CASES[name, Verdict.SUPPORTED], choose_claims([name])
    comparison = compare(profile, profile, draws=4)
    found = claim.contrast(comparison)
    for row, counts in zip(found, comparison.resampling.weights().astype(int), strict=True):
        drawn = profile.data.isel(image=np.repeat(np.arange(N), counts))
        assert row == pytest.approx(ORACLES[name](Profile(drawn)), abs=1e-5)


def test_a_change_of_stage_is_no_step():
    """The synthetic ResNet jumps tenfold the other way at every stage; only blocks within a stage count."""
    profile = resnet(step=RAISED["conv"]).profile
    (claim,) = choose_claims(["P-V1-conv"])
    assert claim.contrast(compare(profile, profile, draws=2))[0] == pytest.approx(RAISES, abs=0.02)


def test_an_effect_without_a_size_is_negligible_and_a_noisy_one_undecided():
    none = vit(step=(("attention", 0.0),)).profile
    noisy = none.data["variance"] * np.exp(np.random.default_rng(0).normal(0, 2, (N, 17)))
    few = Profile(none.data.assign(variance=noisy), none.provenance)
    assert judge(none, claims=choose_claims(["P-F1"]), draws=120)[0].verdict == Verdict.NEGLIGIBLE
    assert judge(few, claims=choose_claims(["P-V1-msa"]), draws=120)[0].verdict == Verdict.UNDECIDED

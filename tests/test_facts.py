"""What is known of a checkpoint: roles, axes, recipes, and how two hang together."""

import copy
import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted import renamed_kinds, resnet, vit

from hf_vitstudy.claims import CLAIMS, ROLES, Facts, facts
from hf_vitstudy.claims.facts import AXES, FINE_TUNED, PRETRAINED, SAME_TRAINING, Relation, alike, from_to, less
from hf_vitstudy.profile import Profile


CONFIG = {"model_type": "vit", "hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 4, "patch_size": 4}
TRAINING = {
    "config": {
        "model": {"type": "vit", "hidden_size": 24},
        "data": {"train": "cifar10", "fraction": 1.0, "image_size": 32},
        "optimizer": {"name": "adamw", "lr": 1e-3},
        "epochs": 10,
        "seed": 0,
        "precision": "no",
        "compile": False,
    },
    "data": {"train": {"n": 10_000}},
    "steps": 100,
    "total_steps": 100,
}


def trained(kind: str = "vit", name: str = "net", told: dict | None = None, **changes: Any) -> Profile:
    """A profile of a checkpoint of our recipes; changes are dotted settings below ``config`` and ``training``."""
    base = (vit() if kind == "vit" else resnet()).profile
    about = base.provenance["checkpoint"] | {"name": name, "weights_sha256": f"weights of {name}", "revision": None}
    about |= {"config": copy.deepcopy(CONFIG), "training": copy.deepcopy(TRAINING)}
    for key, value in changes.items():
        *path, last = key.split("__")
        place = about
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return Profile(base.data, base.provenance | {"checkpoint": about} | ({"facts": told} if told else {}))


def of(kind: str = "vit", **changes: Any) -> Facts:
    return facts(trained(kind, **changes))


# ------------------------------------------------------------------------------------------------ kind, state and axes


def test_the_kind_of_network_is_what_its_blocks_are():
    assert of().network == "vit"
    assert of("resnet").network == "resnet"
    assert facts(renamed_kinds(vit(), lambda kind: "conv" if kind == "mlp" else kind).profile).network == "hybrid"
    assert facts(renamed_kinds(vit(), lambda kind: "mlp").profile).network == "other"
    assert of(told={"network": "other"}).network == "other", "a study may know better"


@pytest.mark.parametrize(("blocks", "expected"), [([0, 0, 0, 0], "resnet"), ([0, 0, 1, 2], "hybrid")])
def test_an_alternet_is_a_hybrid_by_its_attention(blocks, expected):
    found = of("resnet", config__num_attention_blocks=blocks)
    assert found.network == expected
    assert found.axes["attention_blocks"] == sum(blocks)


def test_stages_are_counted():
    assert (of().stages, of("resnet").stages) == (1, 4)


STATES = {
    "trained": {},
    "training": {"training__steps": 50},
    "early": {"training__steps": 10},
    "untrained": {"training__steps": 0},
}


@pytest.mark.parametrize("state", STATES)
def test_the_state_is_how_far_training_has_come(state):
    assert of(**STATES[state]).state == state


def test_initial_weights_are_untrained_and_unknown_training_is_trained():
    assert of(untrained_seed=0, training=None).state == "untrained"
    assert of(training=None).state == "trained"
    assert of(told={"progress": 0.05}).state == "early"
    assert of(told={"state": "training"}).state == "training"


def test_axes_are_read_from_config_and_training():
    assert of(config__kernel_size=5, config__pooling="mean").axes == {
        **{"data_fraction": 1.0, "heads": 4, "width": 24, "patch_size": 4, "kernel_size": 5, "pooling": "mean"},
        **{"progress": 1.0, "seed": 0},
    }
    assert of(config={}, training=None).axes == {}
    assert of(told={"pretraining_images": 5e6, "heads": 7, "beauty": 3}).axes == of().axes | {
        "pretraining_images": 5e6,
        "heads": 7,
    }
    assert set(of().axes) <= set(AXES)


def test_a_hybrid_stem_is_seen_in_timm_s_name():
    assert of(config__architecture="vit_base_r50_s16_224").hybrid_stem
    assert not of(config__architecture="vit_base_patch16_224").hybrid_stem
    assert not of(config__architecture="vit_base_r50_s16_224", told={"hybrid_stem": False}).hybrid_stem


# --------------------------------------------------------------------------------------------------------------- recipes

EQUAL = {
    "another seed": {"training__config__seed": 1},
    "another precision": {"training__config__precision": "bf16"},
    "compiled": {"training__config__compile": True},
    "another name": {"name": "other"},
}
UNEQUAL = {
    "another rate": {"training__config__optimizer__lr": 1e-4},
    "less data": {"training__config__data__fraction": 0.1},
    "fewer images": {"training__data__train__n": 9_000},
    "more heads": {"config__num_attention_heads": 8},
    "not at its end": {"training__steps": 50},
    "another origin": {"training__config__model__checkpoint": "timm/x@1234"},
    "unknown training": {"training": None},
    "told another family": {"told": {"family": "x"}},
}


@pytest.mark.parametrize("case", EQUAL)
def test_recipes_are_equal_but_for_the_seed(case):
    assert of(**EQUAL[case]).recipe == of().recipe


@pytest.mark.parametrize("case", UNEQUAL)
def test_recipes_differ(case):
    assert of(**UNEQUAL[case]).recipe != of().recipe


def test_checkpoints_of_unknown_training_are_each_their_own_recipe():
    """Two ViT-B/16 of the Hub may have equal configurations and nothing else in common."""
    first, second = (of(training=None, name=name) for name in ("a", "b"))
    assert first.recipe != second.recipe
    assert not alike(first, second)
    assert first.recipe == of(training=None, name="a").recipe


def test_public_pairs_of_one_family_are_no_seeds_of_one_recipe():
    small, large = (
        facts(trained(name=f"timm/vit_base_patch16_224.{tag}", training=None))
        for tag in ("augreg_in1k", "augreg_in21k_ft_in1k")
    )
    assert small.settings == large.settings == {"family": "augreg vit_base_patch16_224"}
    assert small.recipe != large.recipe


# ------------------------------------------------------------------------------------------------------------- relations

LESS = {
    "data_fraction": ({"training__config__data__fraction": 0.1, "training__data__train__n": 1000}, {}),
    "heads": ({"config__num_attention_heads": 2}, {}),
    "width": ({"config__hidden_size": 12, "config__intermediate_size": 24, "config__num_attention_heads": 2}, {}),
    "patch_size": ({"config__patch_size": 2}, {}),
    "kernel_size": ({"config__kernel_size": 3}, {"config__kernel_size": 5}),
    "attention_blocks": (
        {"config__num_attention_blocks": [0, 0, 1], "config__num_attention_heads": [1, 1, 2]},
        {"config__num_attention_blocks": [0, 1, 1], "config__num_attention_heads": [1, 2, 2]},
    ),
    "pretraining_images": (
        {"told": {"family": "x", "pretraining_images": 1e6}},
        {"told": {"family": "x", "pretraining_images": 1e7}},
    ),
    "progress": ({"training__steps": 10}, {"training__steps": 100}),
    "seed": ({}, {"training__config__seed": 1}),
}


def test_every_axis_has_a_case():
    assert set(LESS) == set(AXES) - {"pooling"}, "which has no order"


@pytest.mark.parametrize("axis", LESS)
def test_less_is_alike_but_for_the_axis(axis):
    first, second = (of(**changes) for changes in LESS[axis])
    relation = less(axis)
    assert relation.holds(first, second)
    assert not relation.holds(second, first)
    assert not relation.holds(first, first)
    assert relation.words == f"alike but for their {axis.replace('_', ' ')}"
    for other in set(LESS) - {axis}:
        assert not less(other).holds(first, second) or (axis, other) == ("width", "heads"), other


@pytest.mark.parametrize("axis", sorted(set(LESS) - {"pretraining_images"}))
@pytest.mark.parametrize("also", ["training__config__optimizer__lr", "config__num_channels"])
def test_nothing_else_may_differ(axis, also):
    first, second = LESS[axis]
    assert not less(axis).holds(of(**first), of(**second | {also: 17}))
    assert less(axis).holds(of(**first | {also: 17}), of(**second | {also: 17}))


@pytest.mark.parametrize("axis", sorted(set(LESS) - {"pretraining_images", "seed"}))
def test_the_seed_may_not_differ(axis):
    first, second = LESS[axis]
    assert not less(axis).holds(of(**first), of(**second | {"training__config__seed": 1}))


@pytest.mark.parametrize("axis", sorted(set(LESS) - {"pretraining_images", "progress"}))
def test_both_are_equally_far_in_training(axis):
    first, second = LESS[axis]
    halfway = {"training__steps": 50}
    assert not less(axis).holds(of(**first), of(**second | halfway))
    assert less(axis).holds(of(**first | halfway), of(**second | halfway))


def test_less_of_an_unknown_value_or_training_is_never_so():
    assert not less("kernel_size").holds(of(), of())
    assert not less("kernel_size").holds(of(), of(config__kernel_size=5))
    first, second = (of(training=None, config__num_attention_heads=heads, name=str(heads)) for heads in (2, 4))
    assert not less("heads").holds(first, second), "equal configurations say nothing of the training"


def test_heads_of_one_number_and_of_several_have_no_order():
    """Also where everything else is equal, as of a network that takes either."""
    assert not less("heads").holds(of(config__num_attention_heads=[2, 4]), of())
    assert not less("heads").holds(of(), of(config__num_attention_heads=[2, 4]))
    assert less("heads").holds(of(config__num_attention_heads=[2, 4]), of(config__num_attention_heads=[4, 8]))


def test_less_may_fix_the_second():
    first, middle = (
        of(training__config__data__fraction=share, training__data__train__n=int(share * 1e4)) for share in (0.1, 0.3)
    )
    relation = less("data_fraction", 1.0)
    assert relation.holds(first, of())
    assert relation.holds(middle, of())
    assert not relation.holds(first, middle)
    assert less("data_fraction").holds(first, middle)
    assert relation.words == "alike but for their data fraction, 1.0 in the second"


def test_from_to_takes_these_two_values():
    cls, mean = of(config__pooling="cls"), of(config__pooling="mean")
    relation = from_to("pooling", "cls", "mean")
    assert relation.holds(cls, mean)
    assert not relation.holds(mean, cls)
    assert not relation.holds(cls, cls)
    assert not relation.holds(cls, of())
    assert not relation.holds(cls, of(config__pooling="mean", training__config__seed=1))
    assert not relation.holds(cls, of(config__pooling="mean", training__steps=50))
    assert not relation.holds(cls, of(config__pooling="mean", config__hidden_size=12))
    assert relation.words == "alike but that the first has pooling cls and the second mean"


ORIGINS = {
    "a folder's file": (
        {"files": {"model.safetensors": "0123"}},
        {"training__checkpoint_sha256": {"model.safetensors": "0123"}},
    ),
    "a commit of the Hub": (
        {"name": "org/net", "revision": "abcd"},
        {"training__config__model__checkpoint": "org/net@abcd"},
    ),
    "its weights, told": ({"weights_sha256": "4567"}, {"told": {"parent": "4567"}}),
}


@pytest.mark.parametrize("case", ORIGINS)
def test_what_was_fine_tuned_from_what(case):
    parent, child = (of(**changes) for changes in ORIGINS[case])
    assert FINE_TUNED.holds(parent, child)
    assert not FINE_TUNED.holds(child, parent)
    assert not FINE_TUNED.holds(of(name="org/net", revision="other"), child)
    assert not FINE_TUNED.holds(parent, of()), "from scratch"
    assert FINE_TUNED.words == "of which the second was fine-tuned from the first"


def test_the_same_training_of_two_networks():
    other = {"config__hidden_size": 12, "config__num_attention_heads": 3}
    assert SAME_TRAINING.holds(of(), of(**other))
    assert SAME_TRAINING.holds(of(), of("resnet", training__config__model={"type": "resnet"}))
    for change in (
        {"training__config__optimizer__lr": 1.0},
        {"training__config__seed": 1},
        {"training__steps": 50},
        {"training__data__train__n": 5},
    ):
        assert not SAME_TRAINING.holds(of(), of(**other | change)), change
    assert not SAME_TRAINING.holds(of(training=None), of(training=None)), "unknown is not the same"
    assert SAME_TRAINING.words == "trained alike, equally far and with the same seed"


# ----------------------------------------------------------------------------------------------------------------- roles

PLAYS = {
    "a ViT": (of(), {"vit", "attention", "plain vit", "any"}),
    "a ResNet": (of("resnet"), {"resnet", "multi-stage", "any"}),
    "an AlterNet": (
        of("resnet", config__num_attention_blocks=[0, 0, 1, 2]),
        {"hybrid", "attention", "multi-stage", "any"},
    ),
    "a Swin": (of("resnet", told={"network": "vit"}), {"vit", "attention", "multi-stage vit", "multi-stage", "any"}),
    "a ViT with a stem": (of(told={"hybrid_stem": True}), {"vit", "attention", "hybrid-stem vit", "any"}),
    "a Mixer": (of(told={"network": "other"}, config__architecture="mixer_b16_224"), {"mixer", "any"}),
    "an MLP of another kind": (of(told={"network": "other"}), {"any"}),
    "an early ViT": (of(training__steps=10), {"early vit"}),
    "an early ResNet": (of("resnet", training__steps=10), {"early resnet"}),
    "a ViT in training": (of(training__steps=50), set()),
    "initial weights": (of(untrained_seed=0), set()),
}


@pytest.mark.parametrize("case", PLAYS)
def test_roles(case):
    found, expected = PLAYS[case]
    assert {name for name, role in ROLES.items() if role.plays(found)} & KNOWN == expected


KNOWN = set().union(*(roles for _, roles in PLAYS.values()))


def test_every_role_is_played_here_and_said_in_words():
    assert {role for claim in CLAIMS for role in claim.roles} <= set(ROLES)
    assert set(ROLES) <= KNOWN, set(ROLES) - KNOWN
    for role in ROLES.values():
        assert re.match(r"(?![aeiouAEIOU])\w+", role.words), f"needs a {role.words}"
        assert not role.words.endswith(".")


@pytest.mark.parametrize("claim", [claim for claim in CLAIMS if claim.relation], ids=lambda claim: claim.id)
def test_relations_say_what_they_ask_for(claim):
    assert isinstance(claim.relation, Relation)
    assert len(claim.relation.words) > 10


# -------------------------------------------------------------------------------------------------------- public weights


def names_of_timm() -> set[str]:
    """Names with a tag in timm's source; importing it takes seconds."""
    spec = importlib.util.find_spec("timm")
    if spec is None:
        pytest.skip("timm is not installed")
    folder = Path(spec.origin).parent / "models"
    text = "".join((folder / f"{name}.py").read_text(encoding="utf-8") for name in ("vision_transformer", "deit"))
    return set(re.findall(r"""['"](\w+\.\w+)['"]: _cfg""", text))


def test_pretrained_names_are_timm_s():
    """Every pattern fits names that timm has, every family has one network on fewer and one on more images."""
    names = names_of_timm()
    assert len(names) > 100
    families: dict[str, set[float]] = {}
    for pattern, _, images in PRETRAINED:
        fitting = [name for name in names if re.search(pattern, name)]
        assert fitting, pattern
        for name in fitting:
            found = facts(trained(name=f"timm/{name}", training=None))
            assert found.axes["pretraining_images"] == images, name
            families.setdefault(found.settings["family"], set()).add(images)
    pairs = {family for family, images in families.items() if len(images) == 2}
    assert {"augreg vit_base_patch16_224", "augreg vit_small_patch16_224", "deit3 deit3_large_patch16_224"} <= pairs
    assert {"laion vit_base_patch16_clip_224", "metaclip vit_base_patch16_clip_224"} & pairs
    for family in {"laion", "metaclip", "augreg", "deit3"}:
        assert any(name.startswith(family) for name in pairs), family


def test_public_pairs_hang_together_by_their_images():
    tags = ("augreg_in1k", "augreg_in21k_ft_in1k")
    less_data, more = (facts(trained(name=f"timm/vit_small_patch16_224.{tag}", training=None)) for tag in tags)
    base = facts(trained(name="timm/vit_base_patch16_224.augreg_in21k_ft_in1k", training=None))
    relation = less("pretraining_images")
    assert relation.holds(less_data, more)
    assert not relation.holds(more, less_data)
    assert not relation.holds(less_data, base)
    assert not relation.holds(facts(trained(name="timm/vit_small_patch16_224.dino", training=None)), more)
    assert np.isclose(more.axes["pretraining_images"] / less_data.axes["pretraining_images"], 11, atol=1)

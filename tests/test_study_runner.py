"""``recipes/study.py``: what a study file comes to, and a whole study of networks small enough for a test."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from toy_recipes import RECIPES, _load, finetune, settings, write_recipe, write_shapes

from hf_vitstudy import StudyError, load_profile
from hf_vitstudy.claims import facts
from hf_vitstudy.cli import app
from hf_vitstudy.training.settings import read_config


study = _load(RECIPES / "study.py")
SHIPPED = sorted((RECIPES / "studies").glob("*.yaml"))
PLAIN = {"output": "runs/x", "images": "images", "analyses": "variance"}


def written(folder: Path, **content) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(PLAIN | content))
    return path


def test_there_is_a_study_to_run():
    assert SHIPPED


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_run_of_a_shipped_study_is_a_recipe_that_can_be_read(path):
    plan = study.read_plan(path)
    runs = [job for job in plan.jobs if job.train]
    assert len({job.name for job in plan.jobs}) == len(plan.jobs) > 1
    for job in runs:
        recipe, *changes = job.train
        config = read_config(recipe, changes, RECIPES / "configs")
        assert config.output == job.checkpoint
        assert job.name.endswith(f"-{config.seed}")


def test_changes_reach_the_recipe(tmp_path):
    run = {"name": "a", "recipe": "vit_cifar10_scratch", "seeds": [3], "profile_at": [0, 1.5]}
    run |= {
        "set": {"model.pooling": "mean", "optimizer.betas": [0.9, 0.99]},
        "profile_analyses": ["cka", "hessian:k=2"],
    }
    (job,) = study.read_plan(written(tmp_path, runs=[run], n=64)).jobs
    config = read_config(job.train[0], job.train[1:], RECIPES / "configs")
    assert config.model["pooling"] == "mean"
    assert config.optimizer.betas == [0.9, 0.99]
    assert (config.profile.at, config.profile.n, config.profile.analyses) == ([0, 1.5], 64, ["cka", "hessian:k=2"])
    assert config.seed == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"imagse": "x"}, "unknown key 'imagse'; there are: analyses"),
        ({"runs": [{"name": "a"}]}, "runs: 'recipe' is missing"),
        ({"runs": [{"name": "a", "recipe": "b", "seed": 1}]}, "runs: unknown key 'seed'"),
        ({"runs": ["a"]}, "runs must hold keys and values, got str"),
        ({"checkpoints": {"a": {"untrained": 0}}}, "checkpoints.a: 'path' is missing"),
        ({"runs": [{"name": "a", "recipe": "b", "seeds": [0, 0]}]}, "two networks are called 'a-0'"),
    ],
)
def test_a_wrong_study_is_refused(content, message, tmp_path):
    with pytest.raises(StudyError, match=message):
        study.read_plan(written(tmp_path, **content))


def test_no_study_and_no_yaml_are_errors(tmp_path, capsys):
    with pytest.raises(StudyError, match="no study at"):
        study.read_plan(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(StudyError, match="is not plain YAML"):
        study.read_plan(tmp_path / "bad.yaml")
    assert study.main([str(tmp_path / "none.yaml")]) == 2
    assert capsys.readouterr().err.startswith("error: no study at")


def in_this_process(command: list[str], **options):
    """Does what the command would, without the seconds that a new process takes to import torch."""
    if str(command[1]).endswith("finetune.py"):
        finetune.main(command[2:])
    else:
        assert command[1:3] == ["-m", "hf_vitstudy"]
        app(command[3:], standalone_mode=False)
    return SimpleNamespace(returncode=0)


def test_a_study_is_trained_and_measured_once(tmp_path, monkeypatch):
    """A network with a profile on the way, and an untrained twin; the second call finds them measured."""
    shapes = write_shapes(tmp_path / "shapes")
    recipe = write_recipe(tmp_path, settings(shapes, tmp_path / "run") | {"epochs": 1})
    runs = [
        {"name": "vit", "recipe": str(recipe), "seeds": [0, 1], "profile_at": [0], "profile_analyses": ["variance"]}
    ]
    twin = {"twin": {"path": str(tmp_path / "out" / "checkpoints" / "vit-1"), "untrained": 0}}
    measured = {"images": str(shapes / "test.parquet"), "n": 8, "batch_size": 8, "output": str(tmp_path / "out")}
    path = written(tmp_path, runs=runs, checkpoints=twin, **measured)
    monkeypatch.setattr(study.subprocess, "run", in_this_process)
    assert study.main([str(path)]) == 0
    profiles = {folder.name: load_profile(folder) for folder in (tmp_path / "out" / "profiles").iterdir()}
    assert sorted(profiles) == ["twin", "vit-0", "vit-0-step_000000000", "vit-1", "vit-1-step_000000000"]
    states = {name: facts(profile).state for name, profile in profiles.items()}
    assert states == {name: "untrained" if "step" in name or name == "twin" else "trained" for name in profiles}
    assert facts(profiles["vit-0"]).recipe == facts(profiles["vit-1"]).recipe
    assert len({profile.images_sha256 for profile in profiles.values()}) == 1

    commands = []
    monkeypatch.setattr(
        study.subprocess, "run", lambda command, **options: commands.append(command) or SimpleNamespace(returncode=0)
    )
    assert study.main([str(path)]) == 0
    assert ["finetune.py" in str(command) for command in commands] == [True, True], "which say that they are done"


def test_nothing_begins_after_the_time_is_up_and_a_failure_is_told(tmp_path, monkeypatch, capsys):
    path = written(tmp_path, output=str(tmp_path / "out"), checkpoints={"a": {"path": "none"}, "b": {"path": "none"}})
    assert study.main([str(path), "--minutes", "0"]) == 1
    assert capsys.readouterr().out.count("not started, the time is up") == 2
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert study.main([str(path), "--only", "a"]) == 1
    out = capsys.readouterr().out
    assert "a: measure FAILED, see" in out
    assert "1 networks, 1 not finished" in out

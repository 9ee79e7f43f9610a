"""Whole trainings: their output, and that a killed run loses nothing."""

import json
import math
import os
import random
import runpy
import shutil
import signal
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from forks import Job
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from toy_recipes import (
    CLASSES,
    MODELS,
    RECIPES,
    finetune,
    forget,
    log_lines,
    one_process_metrics,
    run,
    settings,
    train_and_die,
    write_recipe,
)
from toy_recipes import one_process as one_process

from hf_vitstudy import StudyError, load_checkpoint, load_profile
from hf_vitstudy.claims import facts
from hf_vitstudy.errors import DivergedError
from hf_vitstudy.training import resume
from hf_vitstudy.training.data import open_split
from hf_vitstudy.training.settings import DataConfig


datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0.05  # seconds after parquet files were streamed, by default 5


# every setting that draws numbers or has a state of its own
EVERYTHING = {
    "augment": {
        "crop": "resized",
        "scale": [0.5, 1.0],
        "flip": True,
        "randaugment": {"ops": 2, "magnitude": 5, "std": 1},
        "erase": 0.3,
        "mixup": 0.8,
        "cutmix": 1.0,
        "mix_probability": 0.7,
    },
    "ema": 0.9,
    "select": "best",
    "precision": "bf16",
    "channels_last": True,
}


def recipe_of(name: str, shapes: Path, folder: Path) -> dict:
    if name in MODELS:
        return settings(shapes, folder / "run", name)
    made = settings(shapes, folder / "run", "vit") | (EVERYTHING if name == "everything" else {})
    made["data"] |= (
        {"holdout": 0.2} if name == "everything" else {"streaming": True, "count": 43, "shuffle_buffer": 16}
    )
    if name == "everything":
        made["optimizer"] |= {"layer_decay": 0.8, "schedule": "linear"}
    return made


@pytest.fixture
def recipe(shapes, tmp_path) -> Path:
    return write_recipe(tmp_path, settings(shapes, tmp_path / "run"))


# ------------------------------------------------------------------------------------------------- a run and its output

RUNS = [*MODELS, "everything", "stream"]


@pytest.fixture(scope="module")
def whole(shapes, tmp_path_factory) -> dict[str, dict]:
    """Uninterrupted runs by name: record, log and folder."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = {}
    for name in RUNS:
        folder = tmp_path_factory.mktemp("whole")
        recipe = write_recipe(folder, recipe_of(name, shapes, folder))
        found[name] = {"record": run(recipe), "log": log_lines(folder / "run"), "folder": folder / "run"}
        forget()
    torch.set_num_threads(threads)
    return found


@pytest.mark.parametrize("name", RUNS)
def test_output_is_a_checkpoint_with_the_reported_metrics(whole, shapes, name):
    record, folder = whole[name]["record"], whole[name]["folder"]
    assert not (folder / "resume").exists()
    checkpoint = load_checkpoint(folder)
    images = open_split(str(shapes), "test", DataConfig(""))
    pixels = np.stack([checkpoint.prepare(images[index][0]) for index in range(len(images))])
    logits, _ = checkpoint.read(torch.from_numpy(pixels).float() / 255, lambda block, state: None)
    labels = torch.tensor([images[index][1] for index in range(len(images))])
    metrics = record["metrics"]["test"]
    assert metrics["n"] == 17
    assert metrics["accuracy"] == pytest.approx((logits.argmax(1) == labels).double().mean().item())
    assert metrics["top5_accuracy"] == 1, "there are three classes"
    loss = torch.nn.functional.cross_entropy(logits, labels).item()
    assert metrics["nll"] == pytest.approx(
        loss, rel=0.05 if name == "everything" else 1e-4
    )  # that one is tested in bf16
    assert checkpoint.provenance["classes"] == CLASSES
    assert checkpoint.network.config.problem_type is None


def test_output_names_no_place(whole, shapes):
    folder = whole["vit"]["folder"]
    names = ("training.json", "log.jsonl", "config.json", "preprocessor_config.json", "README.md")
    for name in names:
        text = (folder / name).read_text()
        assert str(shapes.parent) not in text
        assert os.uname().nodename not in text
    record = whole["vit"]["record"]
    assert record["data"]["train"]["n"] == 43
    assert record["data"]["train"]["name"] == "shapes"
    assert record["selected_step"] == record["steps"] == 20
    assert set(record["versions"]) >= {"torch", "transformers", "accelerate", "hf_vitstudy"}


def test_card_has_the_metrics(whole):
    card = ModelCard.load(whole["everything"]["folder"] / "README.md")
    metrics = whole["everything"]["record"]["metrics"]
    reported = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert reported["accuracy"] == pytest.approx(metrics["test"]["accuracy"])
    assert whole["everything"]["record"]["config_sha256"][:12] in card.text


def test_log_has_every_step_and_evaluation(whole):
    log = whole["vit"]["log"]
    assert [line["step"] for line in log if "loss" in line] == [4, 8, 12, 16, 20]
    assert [line["step"] for line in log if "test" in line] == [5, 10, 15, 20]
    assert log[-1]["test"] == whole["vit"]["record"]["metrics"]["test"]
    assert log[0]["loss"] == pytest.approx(math.log(3), rel=0.3)


def test_held_out_images_choose_and_test_images_are_seen_once(whole):
    log, record = whole["everything"]["log"], whole["everything"]["record"]
    assert record["data"]["holdout"]["n"] == 7
    assert record["data"]["train"]["n"] == 36
    seen = [line for line in log if "holdout" in line]
    assert [line["step"] for line in seen] == [4, 8, 12, 16, 16]
    assert [line for line in log if "test" in line] == [seen[-1]]
    best = max(seen[:-1], key=lambda line: (line["holdout"]["accuracy"], -line["holdout"]["nll"]))
    assert record["selected_step"] == seen[-1]["selected"] == best["step"]
    assert record["metrics"]["holdout"] == best["holdout"]


def test_accumulation_changes_nothing_but_rounding(recipe, tmp_path):
    """Without dropout and batch statistics, two micro-batches are one batch."""
    plain = ["model.hidden_dropout_prob=0", "epochs=1"]
    for parts in (1, 2):
        run(recipe, *plain, f"accumulation={parts}", f"output={tmp_path / str(parts)}")
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in "12")
    assert all(torch.allclose(one[key], two[key], atol=1e-4) for key in one)


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_where_the_images_lie_changes_nothing(whole, recipe, tmp_path):
    """Decoded for every use, by two processes, instead of kept."""
    record = run(recipe, "data.memory_gib=0", "data.workers=2", f"output={tmp_path / 'lazy'}")
    assert record["files"] == whole["vit"]["record"]["files"]
    assert record["metrics"] == whole["vit"]["record"]["metrics"]


def test_learns(recipe):
    record = run(recipe, "epochs=20", "eval_every=20", "model.initializer_range=0.2")
    assert record["metrics"]["test"]["accuracy"] > 0.9


def test_averaged_weights_are_what_is_saved(recipe, tmp_path, whole):
    record = run(recipe, "ema=0.5", f"output={tmp_path / 'ema'}")
    averaged, last = (load_file(folder / "model.safetensors") for folder in (tmp_path / "ema", whole["vit"]["folder"]))
    distances = {name: (averaged[name] - last[name]).abs().max() for name in last}
    assert max(distances.values()) > 1e-4
    assert record["metrics"]["test"]["nll"] != whole["vit"]["record"]["metrics"]["test"]["nll"]
    run(recipe, "ema=0", f"output={tmp_path / 'none'}")
    none = load_file(tmp_path / "none" / "model.safetensors")
    assert all(torch.equal(none[name], last[name]) for name in last), "the training itself is the same"


def test_run_ends_early_where_it_no_longer_improves(recipe):
    record = run(recipe, "data.holdout=0.2", "patience=2", "optimizer.lr=1e-12", "epochs=50", "select=best")
    assert record["steps"] == 3 * 4, "the first evaluation is the best, two more were waited for"
    assert record["selected_step"] == 4


def test_deterministic_run(recipe, whole, tmp_path, monkeypatch):
    """A CPU gives these bits anyway; what a GPU is told can only be read."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    record = run(recipe, "deterministic=true", f"output={tmp_path / 'same'}")
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert os.environ.pop("CUBLAS_WORKSPACE_CONFIG") == ":4096:8"
    assert record["files"] == whole["vit"]["record"]["files"]


@pytest.mark.parametrize("batch", [None, 3])
def test_evaluation_has_batches_of_its_own(recipe, whole, monkeypatch, batch):
    if batch is not None:
        monkeypatch.setattr(finetune, "BATCH", batch)
    sizes, original = [], finetune.image_scores
    monkeypatch.setattr(finetune, "image_scores", lambda *args: sizes.append(len(args[0])) or original(*args))
    metrics = one_process_metrics(whole["vit"]["folder"], recipe)
    assert sizes == ([4] * 4 + [1] if batch is None else [3] * 5 + [2]), "the share of a step, 8 // 2, or less"
    assert metrics["nll"] == pytest.approx(whole["vit"]["record"]["metrics"]["test"]["nll"])


def test_processes_wait_longer_than_a_profile_takes(recipe, monkeypatch):
    def see(**options):
        (waiting,) = options["kwargs_handlers"]
        raise Stop(waiting.timeout.total_seconds())

    monkeypatch.setattr(finetune, "Accelerator", see)
    with pytest.raises(Stop, match="7200"):
        run(recipe)


def test_averaged_alternet_is_what_was_tested(shapes, tmp_path):
    """Its places in the windows are whole numbers, which have no average."""
    recipe = write_recipe(tmp_path, settings(shapes, tmp_path / "run", "alternet"))
    record = run(recipe, "ema=0.9")
    forget()
    assert one_process_metrics(tmp_path / "run", recipe) == record["metrics"]["test"]


def test_precision_that_the_machine_lacks(recipe):
    if torch.cuda.is_available():
        pytest.skip("a GPU has it")
    with pytest.raises(StudyError, match="precision: fp16 needs a GPU; use bf16 or no"):
        run(recipe, "precision=fp16")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.patch_size=17", r"of 3 channels, 16 x 16 pixels: .*Kernel size"),
        ("data.image_size=1", r"of 3 channels, 1 x 1 pixels: .*Kernel size"),
        ("model.num_channels=1", r"of 3 channels, 16 x 16 pixels: .*Expected 1 but got 3"),
    ],
)
def test_networks_that_cannot_look_at_the_images(recipe, override, message):
    with pytest.raises(StudyError, match=f"the network cannot look at images {message}.*set data.image_size or the"):
        run(recipe, override)


def test_output_whose_name_is_too_long(recipe):
    with pytest.raises(StudyError, match=r"cannot write .*xxx: File name too long \(.* MB free there\)"):
        run(recipe, f"output={recipe.parent / ('x' * 300)}")


FOREIGN = {
    "files in a list": '{"files": []}',
    "files alone": '{"files": {}}',
    "no settings": '{"files": {}, "config": {"model": []}, "metrics": {"test": {"accuracy": 1.0}}}',
    "no metrics": '{"files": {}, "config": {"model": {}}, "metrics": 3}',
    "brackets": "[" * 100_000,
}


@pytest.mark.parametrize("text", FOREIGN.values(), ids=FOREIGN)
def test_a_record_of_another_program_is_none_of_ours(tmp_path, text):
    (tmp_path / "training.json").write_text(text)
    assert resume.read_record(tmp_path) is None


@pytest.mark.parametrize("step", [3, 999_999_999])
def test_a_file_with_the_name_of_a_checkpoint_stops_no_run(tmp_path, step):
    (tmp_path / "resume").mkdir()
    (tmp_path / "resume" / f"step_{step:09d}").write_text("x")
    assert "There is no checkpoint yet" in resume.what_stays(tmp_path)
    resume.write_checkpoint(tmp_path / "resume", {"step": 3}, keep=1)
    assert [path.name for path in (tmp_path / "resume").iterdir()] == ["step_000000003"]
    assert resume.newest_checkpoint(tmp_path / "resume", print)["step"] == 3
    assert "The checkpoint of step 3 stays" in resume.what_stays(tmp_path)


def test_length_in_steps(recipe):
    record = run(recipe, "epochs=null", "steps=7", "optimizer.warmup_epochs=0", "optimizer.warmup_steps=2")
    log = log_lines(recipe.parent / "run")
    assert record["steps"] == 7
    assert [line["step"] for line in log if "test" in line] == [5, 7]


def test_compiled_network_is_the_same(recipe, tmp_path, whole, monkeypatch):
    """With a backend that needs no compiler."""
    original, called = torch.nn.Module.compile, []

    def compile_eagerly(self):
        called.append(type(self).__name__)
        original(self, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", compile_eagerly)
    record = run(recipe, "compile=true", "ema=0", f"output={tmp_path / 'compiled'}")
    assert called == ["ViTForImageClassification"]
    compiled, plain = (
        load_file(path / "model.safetensors") for path in (tmp_path / "compiled", whole["vit"]["folder"])
    )
    assert set(compiled) == set(plain)
    assert all(torch.allclose(compiled[name], plain[name], atol=1e-4) for name in plain)
    assert record["config"]["compile"] is True


def test_profiles_of_a_network_that_learns(recipe, shapes):
    """Before the first step, every second epoch and after the last: from the network as it then was."""
    profile = json.dumps({"images": str(shapes), "split": "test", "n": 16, "every": 2, "analyses": ["variance"]})
    run(recipe, f"profile={profile}", "epochs=3")
    folder = recipe.parent / "run"
    assert sorted(path.name for path in (folder / "profiles").iterdir()) == [
        *("step_000000000", "step_000000010", "step_000000015")
    ]
    profiles = [load_profile(path) for path in sorted((folder / "profiles").iterdir())]
    weights = [profile.provenance["checkpoint"]["weights_sha256"] for profile in profiles]
    assert len(set(weights)) == 3
    assert weights[-1] == load_checkpoint(folder).provenance["weights_sha256"]
    assert profiles[1].provenance["checkpoint"]["name"] == "run-step10"
    assert str(shapes.parent) not in json.dumps(profiles[1].provenance)


def test_profiles_at_chosen_epochs_say_how_far_the_training_was(recipe, shapes):
    profile = json.dumps({"images": str(shapes), "split": "test", "n": 16, "at": [0, 0.4], "analyses": ["variance"]})
    record = run(recipe, f"profile={profile}", "epochs=2", "eval_train=true")
    profiles = [load_profile(path) for path in sorted((recipe.parent / "run" / "profiles").iterdir())]
    known = [facts(profile) for profile in profiles]
    assert [of.axes["progress"] for of in known] == [0, 0.2]
    assert [of.state for of in known] == ["untrained", "training"]
    assert [of.axes["seed"] for of in known] == [record["config"]["seed"]] * 2
    assert record["metrics"]["train"]["n"] == 43
    assert record["metrics"]["train"]["nll_error"] > 0


def test_a_finished_network_says_how_it_was_trained(recipe, shapes):
    run(recipe)
    about = load_checkpoint(recipe.parent / "run").provenance
    assert about["config"]["hidden_size"] == 12
    assert about["training"]["steps"] == about["training"]["total_steps"] > 0
    assert str(shapes.parent) not in json.dumps(about)
    tuned = ("model=" + json.dumps({"checkpoint": str(recipe.parent / "run")}), f"output={recipe.parent / 'tuned'}")
    run(recipe, *tuned)
    parent = load_checkpoint(recipe.parent / "tuned").provenance["training"]["checkpoint_sha256"]
    assert parent == about["files"], "a fine-tuned network names the file it began with"


WATCHED = {"split": "test", "n": 16, "every": 2, "analyses": ["variance"]}


def watch(shapes: Path, **changes) -> str:
    return "profile=" + json.dumps({"images": str(shapes)} | WATCHED | changes)


def profiles_in(folder: Path) -> dict[int, int]:
    """Step of each profile, and how many images it is of."""
    found = sorted((folder / "profiles").glob("step_*"))
    return {int(path.name[5:]): load_profile(path).provenance["images"]["n"] for path in found}


def test_last_profile_of_a_run_that_ends_early(recipe, shapes):
    early = ("data.holdout=0.2", "patience=2", "optimizer.lr=1e-12", "epochs=50")
    assert run(recipe, watch(shapes, every=20), *early)["steps"] == 12
    assert list(profiles_in(recipe.parent / "run")) == [0, 12]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"analyses": ["zzz"]}, "no analysis is called 'zzz'"),
        ({"analyses": ["cka:pol=mean"]}, "cka has no option 'pol'"),
        ({"images": "./nowhere"}, "no images at ./nowhere"),
        ({"split": "zz"}, "got 'zz'"),
        ({"at": [0, 4.5]}, r"profile.at must be in \[0, 4\], the epochs of this run, got 4.5"),
        ({"at": [-1]}, r"profile.at must be in \[0, 4\], the epochs of this run, got -1"),
    ],
    ids=["analysis", "option", "images", "split", "too late", "too early"],
)
def test_what_a_profile_needs_is_looked_for_before_training(recipe, shapes, monkeypatch, changes, message):
    monkeypatch.setattr(finetune, "build_model", lambda *arguments: pytest.fail("the network is built later"))
    with pytest.raises(StudyError, match=message):
        run(recipe, watch(shapes, **({"at": [2]} | changes)))


def test_no_profile_of_a_network_that_is_broken(recipe, shapes, monkeypatch):
    def see_nothing_finite(guard, what, value, step, original=finetune.Guard.see):
        original(guard, what, torch.tensor(math.nan) if step == 4 else value, step)

    monkeypatch.setattr(finetune.Guard, "see", see_nothing_finite)
    rarely = ("log_every=100", "checkpoint_every=100", "eval_every=100")
    with pytest.raises(StudyError, match="the loss is not finite at step 4"):
        run(recipe, watch(shapes, every=1), *rarely)
    assert list(profiles_in(recipe.parent / "run")) == [0]


def test_profiles_of_another_run_are_not_kept(recipe, shapes, stopped, tmp_path):
    run(recipe, watch(shapes), "epochs=1")
    folder = recipe.parent / "run"
    shutil.copytree(folder / "profiles", folder / "profiles" / "step_000000099")
    (folder / "training.json").unlink()
    assert run(recipe, watch(shapes, n=8), "epochs=1", "seed=1")["config"]["seed"] == 1
    assert profiles_in(folder) == {0: 8, 5: 8}


@pytest.mark.parametrize(("n", "left"), [(16, {0: 16, 10: 16, 20: 16}), (8, {0: 8, 20: 8})], ids=["same", "other"])
def test_profiles_of_a_resumed_run_are_of_the_same_images(recipe, shapes, n, left):
    """What was measured of others is dropped, but for the untrained network, which is measured again."""

    def stop(config, step, schedule, original=finetune.learning_rate):
        return stop_here() if step == 13 else original(config, step, schedule)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune, "learning_rate", stop)
        with pytest.raises(Stop):
            run(recipe, watch(shapes))
    forget()
    first = load_profile(recipe.parent / "run" / "profiles" / "step_000000000").provenance["checkpoint"]
    run(recipe, watch(shapes, n=n))
    assert profiles_in(recipe.parent / "run") == left
    again = load_profile(recipe.parent / "run" / "profiles" / "step_000000000").provenance["checkpoint"]
    assert again["weights_sha256"] == first["weights_sha256"]


def stop_here():
    raise Stop


def test_profiles_change_no_weight(recipe, shapes, whole, tmp_path):
    profile = json.dumps({"images": str(shapes), "split": "test", "n": 16, "every": 2, "analyses": ["variance"]})
    record = run(recipe, f"profile={profile}", f"output={tmp_path / 'watched'}")
    assert record["files"] == whole["vit"]["record"]["files"]


# ----------------------------------------------------------------------------------------------------------- trackers


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_shows_the_run(recipe):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run(recipe, "log_with=[tensorboard]", "epochs=1")
    folder = recipe.parent / "run" / "trackers" / "hf_vitstudy"
    events = event_accumulator.EventAccumulator(str(folder)).Reload()
    assert {"loss", "accuracy", "lr", "images_per_second", "test/accuracy"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss")] == [4, 5]
    logged = [line["loss"] for line in log_lines(recipe.parent / "run") if "loss" in line]
    np.testing.assert_allclose([event.value for event in events.Scalars("loss")], logged, rtol=1e-5)


def test_trackers_that_are_not_there(recipe, monkeypatch):
    with pytest.raises(
        StudyError, match=r"log_with: 'tensorbord' is no tracker of accelerate; there are: .*tensorboard"
    ):
        run(recipe, "log_with=[tensorbord]")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(StudyError, match=r"log_with: wandb is not installed; pip install wandb"):
        run(recipe, "log_with=[wandb]")


# ------------------------------------------------------------------------------------------------------------- resume


def some_step(last: int = 19) -> int:
    """Any step after the first checkpoint; another in every run of the tests."""
    return random.randint(4, last)


KILLS = {  # name: (run, where the process ends, when); a ViT that is killed again and again is in tests/faults
    "everything": ("everything", "learning_rate", some_step(15)),
    "stream": ("stream", "learning_rate", some_step()),
    "vit inside the second write": ("vit", "save", 2),
    "resnet inside the third write": ("resnet", "save", 3),
    "alternet before the second rename": ("alternet", "replace", 2),
    "vit inside a rotation": ("vit", "rmtree", 2),
}
TWO_DIE_AT = some_step()


@pytest.fixture(scope="module")
def killed(forks, shapes, tmp_path_factory) -> dict[str, Path]:
    """Recipes by name of the kill, each with what a killed run left; and of runs by two processes."""
    recipes, jobs = {}, []
    for name, (kind, function, when) in KILLS.items():
        folder = tmp_path_factory.mktemp("killed")
        recipes[name] = write_recipe(folder, recipe_of(kind, shapes, folder))
        jobs.append(Job(train_and_die, (str(recipes[name]), function, when), log=folder / "log"))
    for name in ("one process", "two processes", "two processes, killed"):
        folder = tmp_path_factory.mktemp("two")
        made = settings(shapes, folder / "run")
        made["model"] = made["model"] | {"hidden_dropout_prob": 0.0}  # which is drawn by process
        recipes[name] = write_recipe(folder, made)
    whole, cut = (str(recipes[name]) for name in ("two processes", "two processes, killed"))
    jobs += [Job(finetune.main, ([whole],), 2), Job(train_and_die, (cut, "learning_rate", TWO_DIE_AT), 2)]
    codes = forks.run(*jobs, Job(finetune.main, ([cut],), 2))
    die = -signal.SIGKILL
    assert codes == [[die]] * len(KILLS) + [[0, 0], [die, die], [0, 0]], [job.log for job in jobs]
    return recipes


@pytest.mark.parametrize("name", list(KILLS))
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_killed_run_ends_with_the_same_bits(killed, whole, name):
    recipe, expected, when = killed[name], whole[KILLS[name][0]], f"killed at {KILLS[name][2]}"
    folder = recipe.parent / "run"
    assert not (folder / "training.json").exists()
    assert list((folder / "resume").glob("step_*")), "the kill came after a checkpoint"
    workers = 1 if name in ("everything", "stream", "vit inside a rotation") else 0
    record = run(recipe, f"data.workers={workers}")
    assert record["files"] == expected["record"]["files"], when
    assert record["metrics"] == expected["record"]["metrics"], when
    assert log_lines(folder) == expected["log"], when


def test_two_processes(killed):
    """The same images in the same order, the same metrics as one process, and the same bits after a kill."""
    names = ("one process", "two processes", "two processes, killed")
    run(killed["one process"])
    folders = [killed[name].parent / "run" for name in names]
    one, two, cut = (json.loads((folder / "training.json").read_text()) for folder in folders)
    assert [record["processes"] for record in (one, two, cut)] == [1, 2, 2]
    assert cut["files"] == two["files"], f"killed at {TWO_DIE_AT}"
    assert cut["metrics"] == two["metrics"], f"killed at {TWO_DIE_AT}"
    logs = [log_lines(folder) for folder in folders]
    assert logs[2] == logs[1]
    alone, together = ([line["loss"] for line in log if "loss" in line] for log in logs[:2])
    np.testing.assert_allclose(together, alone, rtol=1e-3)
    forget()
    assert one_process_metrics(folders[1], killed["two processes"]) == two["metrics"]["test"]


class Stop(BaseException):
    pass


@pytest.fixture(scope="module")
def stopped(shapes, tmp_path_factory) -> Path:
    """The recipe of a run that ended in step 11: checkpoints after steps 6 and 9."""
    folder = tmp_path_factory.mktemp("stopped")
    recipe = write_recipe(folder, settings(shapes, folder / "run"))

    def stop(config, step, schedule, original=finetune.learning_rate):
        if step == 11:
            raise Stop
        return original(config, step, schedule)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune, "learning_rate", stop)
        with pytest.raises(Stop):
            run(recipe)
    torch.set_num_threads(threads)
    forget()
    assert sorted(path.name for path in (folder / "run" / "resume").iterdir()) == ["step_000000006", "step_000000009"]
    return recipe


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damaged", ["newest", "all"])
def test_damaged_checkpoints_are_passed_over(stopped, whole, tmp_path, capsys, damaged):
    """By a whole run; every kind of damage is in tests/faults."""
    folder = tmp_path / "run"
    shutil.copytree(stopped.parent / "run", folder)
    paths = sorted((folder / "resume").glob("*/state.pt"))
    for path in paths if damaged == "all" else paths[-1:]:
        flip(path)
    record = run(stopped, f"output={folder}")
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == (2 if damaged == "all" else 1)
    assert "going back to the checkpoint before it" in warnings[0]
    assert record["files"] == whole["vit"]["record"]["files"]
    assert log_lines(folder) == whole["vit"]["log"]


def test_another_run_is_refused_or_replaced(stopped, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(stopped.parent / "run", folder)
    with pytest.raises(StudyError, match=r"holds another run \(config.seed was 0, is 1\); choose another output"):
        run(stopped, f"output={folder}", "seed=1")
    assert run(stopped, f"output={folder}", "seed=1", "epochs=1", "replace=true")["config"]["seed"] == 1
    with pytest.raises(StudyError, match=r"holds another run \(config.epochs was 1, is 4"):
        run(stopped, f"output={folder}")


@pytest.mark.parametrize("kept", ["model.safetensors", "config.json"])
def test_weights_of_somebody_else_are_not_overwritten(recipe, vit_folder, tmp_path, monkeypatch, kept):
    folder = tmp_path / "theirs"
    folder.mkdir()
    shutil.copy(vit_folder / kept, folder)
    before = (folder / kept).read_bytes()
    monkeypatch.setattr(finetune, "load_data", lambda *arguments: pytest.fail("images are read later"))
    with pytest.raises(StudyError, match=rf"output .*theirs holds {kept}, which no training of this recipe wrote"):
        run(recipe, f"output={folder}")
    assert (folder / kept).read_bytes() == before
    monkeypatch.undo()
    assert run(recipe, f"output={folder}", "replace=true", "epochs=1")["files"]


def test_the_checkpoint_to_start_from_is_never_the_output(recipe, vit_folder, tmp_path):
    start = tmp_path / "start"
    shutil.copytree(vit_folder, start)
    (tmp_path / "link").symlink_to(start)
    before = (start / "model.safetensors").read_bytes()
    options = (f"model={json.dumps({'checkpoint': str(tmp_path / 'link')})}", "data.image_size=null", "replace=true")
    with pytest.raises(StudyError, match=r"output .*start is the folder of model.checkpoint"):
        run(recipe, f"output={start}", *options)
    assert (start / "model.safetensors").read_bytes() == before


def test_a_run_that_was_killed_while_it_saved_goes_on(recipe, tmp_path, monkeypatch):
    """Before any checkpoint: what tells its weights from somebody else's is the log."""

    def stop(*arguments):
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(finetune, "write_record", stop)
        with pytest.raises(Stop):
            run(recipe, "epochs=1", "checkpoint_every=500")
    found = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"model.safetensors", "log.jsonl"} <= found
    assert not {"training.json", "resume"} & found
    forget()
    assert run(recipe, "epochs=1", "checkpoint_every=500")["steps"] == 5


def test_images_need_not_be_kept_in_memory_again(stopped, whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(stopped.parent / "run", folder)
    assert run(stopped, f"output={folder}", "data.memory_gib=0")["files"] == whole["vit"]["record"]["files"]


def test_folder_with_other_weights_is_another_start(recipe, vit_folder, tmp_path):
    start = tmp_path / "start"
    shutil.copytree(vit_folder, start)
    options = (f"model={json.dumps({'checkpoint': str(start)})}", "data.image_size=null", "epochs=1")
    record = run(recipe, *options)
    assert list(record["checkpoint_sha256"]) == ["model.safetensors"]
    flip(start / "model.safetensors")
    forget()
    with pytest.raises(StudyError, match=r"holds another run \(checkpoint_sha256.model.safetensors was '"):
        run(recipe, *options)


def test_restart_keeps_the_commit_it_began_with(stopped, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(finetune, "pin", lambda config, before: asked.append(before) or config)
    state = {"step": 3, "config": {"model": {"checkpoint": "org/vit@abc"}}}
    resume.write_checkpoint(tmp_path / "run" / "resume", state, keep=1)
    with pytest.raises(StudyError, match="holds another run"):
        run(stopped, f"output={tmp_path / 'run'}")
    assert asked == ["org/vit@abc"]


def test_processes_must_see_the_same_disk(stopped, tmp_path, monkeypatch):
    shutil.copytree(stopped.parent / "run", tmp_path / "run")
    monkeypatch.setattr(finetune, "gather_object", lambda mine: [*mine, (False, None, [])])
    with pytest.raises(StudyError, match=r"the processes find different things in .*run; it must lie on a disk"):
        run(stopped, f"output={tmp_path / 'run'}")
    assert len(list((tmp_path / "run" / "resume").iterdir())) == 2, "nothing was deleted"


def test_finished_run_is_not_repeated(whole, tmp_path, stopped, capsys):
    folder = tmp_path / "run"
    shutil.copytree(whole["vit"]["folder"], folder)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    run(stopped, f"output={folder}")
    assert "nothing to do" in capsys.readouterr().err
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    flip(folder / "model.safetensors")
    assert resume.read_record(folder) is None


def test_a_finished_run_says_what_it_was_not_asked_for(whole, shapes, stopped, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(whole["vit"]["folder"], folder)
    (folder / "profiles" / "step_000000020").mkdir(parents=True)
    run(stopped, f"output={folder}", "eval_train=true", watch(shapes, every=3))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "finished before" in line]
    assert "nothing to do" not in line
    assert (
        "without metrics of the training images (eval_train), profiles/step_000000000 (profile), "
        "profiles/step_000000015 (profile): made in training alone, so choose another output to train again with them"
    ) in line
    (folder / "profiles" / "step_000000015").mkdir()
    run(stopped, f"output={folder}", watch(shapes, at=[3, 4]))
    assert "nothing to do" in capsys.readouterr().err


def test_log_drops_what_a_kill_cut_off(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    finetune.Log(path, 2)(step=3, loss=1.0)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3, "loss": 1.0}\n'


DAMAGES = {
    "no text": b'{"step": 2, "x": "\xff"}',
    "a number": b"1",
    "no step": b'{"a": 1}',
    "a step that is no number": b'{"step": "2"}',
    "brackets": b"[" * 100_000,
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_log_ends_before_what_is_damaged(tmp_path, damage):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n' + DAMAGES[damage] + b'\n{"step": 3}\n')
    finetune.Log(path, 3)
    assert path.read_text() == '{"step": 1}\n'


def test_a_kill_while_the_log_is_written_again_leaves_the_old_one(tmp_path, monkeypatch):
    path, before = tmp_path / "log.jsonl", '{"step": 1}\n{"step": 2}\n'
    path.write_text(before)

    def die(self, text, **options):
        self.open("w").close()
        raise Stop

    monkeypatch.setattr(Path, "write_text", die)
    with pytest.raises(Stop):
        finetune.Log(path, 1)
    assert path.read_text() == before


def test_loss_that_is_not_finite_stops_the_run(recipe, tmp_path):
    """Noticed before the next checkpoint, which is therefore of good weights."""
    with pytest.raises(DivergedError, match=r"the loss is not finite at step \d+ \(epoch 0, rows \d+(, \d+){7}\)"):
        run(recipe, "optimizer.lr=1e30", "optimizer.clip=null", "checkpoint_every=1")
    state = resume.newest_checkpoint(tmp_path / "run" / "resume", print)
    assert state["step"] >= 1
    assert all(tensor.isfinite().all() for tensor in state["model"].values())


# ------------------------------------------------------------------------------------------------------ command line


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (StudyError("images are missing"), 2, "error: images are missing"),
        (DivergedError("the loss is not finite"), 3, "error: the loss is not finite"),
        (KeyboardInterrupt(), 130, "stopped; the same command goes on from the last checkpoint"),
    ],
    ids=["user error", "diverged", "ctrl-c"],
)
def test_script_ends_with_one_line(monkeypatch, capsys, error, code, line):
    def refuse(self, arguments=None):
        raise error

    monkeypatch.setattr("argparse.ArgumentParser.parse_intermixed_args", refuse)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(RECIPES / "finetune.py"), run_name="__main__")
    assert stop.value.code == code
    assert capsys.readouterr().err.splitlines() == [line]

"""What befalls a training, row by row of docs/faults.md."""

import json
import math
import os
import random
import re
import resource
import runpy
import shutil
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from forks import Forks, Job, die_everywhere
from toy_recipes import (
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

from hf_vitstudy import StudyError, disk, resources
from hf_vitstudy.disk import LOCK, only_process
from hf_vitstudy.metrics import image_scores, summarise
from hf_vitstudy.training import data, optimisation
from hf_vitstudy.training.order import Schedule
from hf_vitstudy.training.resume import newest_checkpoint, write_checkpoint


LAZY = ("data.memory_gib=0", "data.workers=1")
CANARY = "hf_" + "CANARY" * 6


def train(recipe: str, *overrides: str) -> None:
    """The script itself, in a process of its own."""
    sys.argv = ["finetune.py", recipe, *overrides]
    runpy.run_path(str(RECIPES / "finetune.py"), run_name="__main__")


def at_step(when: int, happens) -> None:
    """Something happens as step `when` begins, in the script that is run next."""
    original = optimisation.learning_rate

    def patched(config, step, schedule):
        if step == when:
            happens()
        return original(config, step, schedule)

    optimisation.learning_rate = patched


def asked_to_end(recipe: str, numbers: list[int], rank: int = 0) -> None:
    """Train, and one of the processes gets signals in step 7."""
    if int(os.environ.get("RANK", "0")) == rank:
        at_step(7, lambda: [os.kill(os.getpid(), number) for number in numbers])
    train(recipe)


def asked_by_a_terminal(recipe: str) -> None:
    """Ctrl-C reaches the process and the workers that decode its images."""
    os.setpgid(0, 0)
    at_step(7, lambda: os.killpg(0, signal.SIGINT))
    train(recipe, *LAZY)


def full_disk(recipe: str, when: int = 4, *overrides: str) -> None:
    """No file may be longer than 4 kB from a step on, by default from the one after the first checkpoint."""
    at_step(when, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)))
    train(recipe, *overrides)


def one_dies(recipe: str) -> None:
    if os.environ["RANK"] == "1":
        at_step(7, lambda: os.kill(os.getpid(), signal.SIGKILL))
    train(recipe)


@pytest.fixture(scope="module")
def whole(forks: Forks, shapes, tmp_path_factory) -> Path:
    """The output of an uninterrupted run, of a user who is logged in."""
    folder = tmp_path_factory.mktemp("whole")
    recipe = write_recipe(folder, settings(shapes, folder / "run"))
    job = Job(train, (str(recipe),), log=folder / "run" / "said", environment={"HF_TOKEN": CANARY})
    (folder / "run").mkdir()
    assert forks.run(job) == [[0]], (folder / "run" / "said").read_text()
    return folder / "run"


@pytest.fixture
def recipe(shapes, tmp_path) -> Path:
    return write_recipe(tmp_path, settings(shapes, tmp_path / "run"))


def assert_same(folder: Path, whole: Path) -> None:
    """Weights and metrics to the bit, and every line of the log."""
    found, expected = (json.loads((path / "training.json").read_text()) for path in (folder, whole))
    assert found["files"] == expected["files"]
    assert found["metrics"] == expected["metrics"]
    assert log_lines(folder) == log_lines(whole)


def steps_in(folder: Path) -> list[int]:
    return [int(path.name[5:]) for path in sorted((folder / "resume").glob("step_*"))]


# -------------------------------------------------------------------------------------------------------------- kills


def test_killed_again_and_again(forks, whole, recipe, tmp_path):
    """Also before the first checkpoint; every start finds the lock of the killed one. 20 kills are benchmarks/kills.py."""
    steps = sorted(random.sample(range(1, 20), 4))
    jobs = [Job(train_and_die, (str(recipe), "learning_rate", step)) for step in steps]
    codes = forks.run(*jobs, Job(train, (str(recipe),), log=tmp_path / "said"))
    assert codes == [[-signal.SIGKILL]] * 4 + [[0]], (tmp_path / "said").read_text()
    assert_same(tmp_path / "run", whole)


def write_third(folder: Path) -> None:
    write_checkpoint(folder, small_state(9), keep=2)


def small_state(step: int) -> dict:
    return {"step": step, "model": {"weight": torch.full((3,), float(step))}}


def test_a_kill_at_any_touch_of_the_disk_leaves_a_whole_checkpoint(forks, tmp_path):
    before, said = tmp_path / "before" / "resume", []
    for step in (3, 6):
        write_checkpoint(before, small_state(step), keep=2)
    assert forks.run(Job(die_everywhere, (write_third, before.rename(tmp_path / "resume")))) == [[0]]
    folders = sorted(tmp_path.glob("killed*/resume"), key=lambda path: int(path.parent.name[6:]))
    found = [newest_checkpoint(folder, said.append)["step"] for folder in folders]
    assert len(found) > 8
    assert found == sorted(found), "the older one up to the rename, then the new one"
    assert set(found) == {6, 9}
    for folder, step in zip(folders, found, strict=True):
        assert torch.equal(newest_checkpoint(folder, said.append)["model"]["weight"], torch.full((3,), float(step)))
        write_checkpoint(folder, small_state(12), keep=2)
        assert len(list(folder.iterdir())) <= 2, "what the kill left is gone"
    assert [text for text in said if "warning" not in text] == []


# ------------------------------------------------------------------------------------------------------ asked to end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_end_finishes_its_step(number, forks, whole, recipe, tmp_path):
    codes = forks.run(Job(asked_to_end, (str(recipe), [number]), log=tmp_path / "said"))
    said = (tmp_path / "said").read_text()
    assert codes == [[128 + number]], said
    assert "stopped after step 8; the same command goes on from there" in said
    assert "Traceback" not in said
    assert steps_in(tmp_path / "run") == [6, 8]
    run(recipe)
    assert_same(tmp_path / "run", whole)


def test_ctrl_c_leaves_the_workers_that_the_step_needs(forks, recipe, tmp_path):
    codes = forks.run(Job(asked_by_a_terminal, (str(recipe),), log=tmp_path / "said"))
    said = (tmp_path / "said").read_text()
    assert codes == [[130]], said
    assert "stopped after step 8" in said
    assert "Traceback" not in said
    assert steps_in(tmp_path / "run") == [6, 8]


def test_ctrl_c_twice_ends_at_once(forks, recipe, tmp_path):
    codes = forks.run(Job(asked_to_end, (str(recipe), [signal.SIGINT] * 2), log=tmp_path / "said"))
    said = (tmp_path / "said").read_text()
    assert codes == [[130]], said
    assert "stopped; the same command goes on from the last checkpoint" in said.splitlines()
    assert "Traceback" not in said
    assert steps_in(tmp_path / "run") == [3, 6]
    assert newest_checkpoint(tmp_path / "run" / "resume", print)["step"] == 6


def test_all_processes_end_where_one_is_asked(forks, recipe, tmp_path):
    codes = forks.run(Job(asked_to_end, (str(recipe), [signal.SIGTERM], 1), 2, tmp_path / "said"))
    said = (tmp_path / "said").read_text()
    assert codes == [[143, 143]], said
    assert said.count("stopped after step 8") == 1, (
        "step 8 has a line in the log, where they wait for each other anyway"
    )
    assert steps_in(tmp_path / "run")[-1] == 8


# ------------------------------------------------------------------------------------------------ several processes


def test_one_of_two_processes_dies(forks, recipe, tmp_path):
    codes = forks.run(Job(one_dies, (str(recipe),), 2, tmp_path / "said"))
    assert codes[0][1] == -signal.SIGKILL
    assert codes[0][0] not in (0, -signal.SIGALRM), "it waits for nobody"
    assert steps_in(tmp_path / "run") == [3, 6]
    assert newest_checkpoint(tmp_path / "run" / "resume", print)["step"] == 6
    assert not (tmp_path / "run" / "training.json").exists()


def test_one_of_two_processes_cannot_read_an_image(forks, shapes, tmp_path):
    import datasets

    folder = tmp_path / "broken"
    shutil.copytree(shapes, folder)
    rows = datasets.Dataset.from_parquet(str(folder / "train.parquet"))
    rows = rows.cast_column("image", datasets.Image(decode=False))
    table = rows.to_list()
    table[17]["image"]["bytes"] = b"no image"
    datasets.Dataset.from_list(table, features=rows.features).to_parquet(folder / "train.parquet")
    recipe = write_recipe(tmp_path, settings(folder, tmp_path / "run"))
    codes = forks.run(Job(train, (str(recipe), "data.memory_gib=0"), 2, tmp_path / "said"))
    assert 2 in codes[0]
    assert 0 not in codes[0]
    assert -signal.SIGALRM not in codes[0]
    assert "error: image 17 of broken: is not a readable image" in (tmp_path / "said").read_text()


class Two:
    """An accelerator whose other process saw a loss that is not finite in step 3."""

    def gather(self, values):
        return torch.cat([values, torch.tensor([[3.0, math.inf]])])


def test_what_one_process_sees_stops_all():
    guard, schedule = optimisation.Guard(torch.device("cpu"), lambda step: 0.1), Schedule(40, 8, 10, 0)
    for step in range(5):
        guard.see("loss", torch.tensor(1.0), step)
    with pytest.raises(StudyError, match="the loss is not finite at step 3 "):
        guard.check(Two(), schedule, None)


def test_statistics_of_batches_are_those_of_the_main_process(forks, shapes, tmp_path):
    """Each process has its own; the main one's are what is tested and what is saved."""
    recipe = write_recipe(tmp_path, settings(shapes, tmp_path / "run", "resnet") | {"epochs": 1})
    assert forks.run(Job(finetune.main, ([str(recipe)],), 2, tmp_path / "said")) == [[0, 0]]
    record = json.loads((tmp_path / "run" / "training.json").read_text())
    assert record["processes"] == 2
    assert one_process_metrics(tmp_path / "run", recipe) == record["metrics"]["test"]


def test_two_runs_in_one_folder(forks, recipe, tmp_path):
    with only_process(tmp_path / "run", "training into"):
        codes = forks.run(Job(train, (str(recipe),), log=tmp_path / "said"))
        assert codes == [[2]]
        (line,) = (tmp_path / "said").read_text().splitlines()
        assert line.startswith(f"error: process {os.getpid()} on ")
        assert line.endswith(f"is training into {tmp_path / 'run'}; wait for it, or choose another folder")
    assert not (tmp_path / "run" / LOCK).exists()
    with only_process(tmp_path / "run", "training into"):
        assert (tmp_path / "run" / LOCK).exists()


@pytest.mark.parametrize("next_one", [False, True], ids=["nobody came since", "another came since"])
def test_a_lock_that_its_owner_deletes_while_another_takes_it(tmp_path, monkeypatch, next_one):
    """Between opening and locking: who then held a file that is gone would not keep the next process out."""
    original, seen = disk._lock, []

    def late(file):
        seen.append(os.fstat(file.fileno()).st_ino)
        if len(seen) == 1:
            (tmp_path / LOCK).unlink()
            if next_one:
                (tmp_path / LOCK).write_text("process 1 on elsewhere")
        return original(file)

    monkeypatch.setattr(disk, "_lock", late)
    with only_process(tmp_path, "training into"):
        assert (tmp_path / LOCK).stat().st_ino == seen[-1]
        assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} on ")
    assert len(seen) == 2
    assert not (tmp_path / LOCK).exists()


# ---------------------------------------------------------------------------------------------------------- the disk


def test_a_full_disk_keeps_the_checkpoint_before(forks, recipe, tmp_path):
    codes = forks.run(Job(full_disk, (str(recipe),), log=tmp_path / "said"))
    said = (tmp_path / "said").read_text()
    assert codes == [[2]], said
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert f"cannot write {tmp_path / 'run' / 'resume' / 'step_000000006'}: File too large" in line
    assert "MB free there" in line
    assert [path.name for path in (tmp_path / "run" / "resume").iterdir()] == ["step_000000003"]
    assert newest_checkpoint(tmp_path / "run" / "resume", print)["step"] == 3


@pytest.mark.parametrize(
    ("every", "step", "stays"),
    [
        (3, 18, "The checkpoint of step 18 stays, and the same command goes on from there"),
        (500, None, "There is no checkpoint yet, so the same command starts afresh"),
    ],
    ids=["with a checkpoint", "without"],
)
def test_a_full_disk_at_the_end_keeps_the_checkpoints(every, step, stays, forks, whole, recipe, tmp_path):
    options = f"checkpoint_every={every}"
    codes = forks.run(Job(full_disk, (str(recipe), 19, options), log=tmp_path / "said"))
    said = (tmp_path / "said").read_text()
    assert codes == [[2]], said
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert f"cannot write {tmp_path / 'run'}: " in line
    assert stays in line
    assert not list((tmp_path / "run").glob("*.safetensors")), "no half weights"
    if step is not None:
        assert steps_in(tmp_path / "run")[-1] == step
        assert forks.run(Job(train, (str(recipe), options), log=tmp_path / "said")) == [[0]]
        assert_same(tmp_path / "run", whole)


def test_a_full_disk_under_the_log(tmp_path):
    """Said in one line, with what stays; no line of it is lost but the one that was written."""
    write_checkpoint(tmp_path / "resume", {"step": 3}, keep=1)
    path, message = tmp_path / "log.jsonl", r"cannot write .*log.jsonl: File too large .* checkpoint of step 3 stays"
    path.write_text('{"step": 2}\n{"step": 3}\n')
    log = finetune.Log(path, 3)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        with pytest.raises(StudyError, match=message):
            log(step=4, loss=1.0)
        with pytest.raises(StudyError, match=message):
            finetune.Log(path, 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == '{"step": 2}\n{"step": 3}\n'


def test_a_folder_that_cannot_be_written_to_is_noticed_first(recipe, monkeypatch):
    def never(*arguments):
        raise AssertionError("images are read later")

    monkeypatch.setattr(finetune, "load_data", never)
    with pytest.raises(StudyError, match=r"cannot write .*recipe.yaml.run: Not a directory"):
        run(recipe, f"output={recipe / 'run'}")


DAMAGES = {
    "bit flip": (lambda path: change(path / "state.pt", lambda content: flipped(content)), "is damaged"),
    "truncated": (lambda path: change(path / "state.pt", lambda content: content[:-100]), "is damaged"),
    "zeros after a power cut": (
        lambda path: change(path / "state.pt", lambda content: bytes(len(content))),
        "damaged",
    ),
    "no bytes after a power cut": (lambda path: change(path / "state.pt", lambda content: b""), "is damaged"),
    "no weights": (lambda path: (path / "state.pt").unlink(), "is incomplete"),
    "no manifest": (lambda path: (path / "manifest.json").unlink(), "is incomplete"),
    "half a manifest": (lambda path: change(path / "manifest.json", lambda content: content[:20]), "is incomplete"),
    "a manifest that is no object": (lambda path: (path / "manifest.json").write_text("[]"), "is incomplete"),
    "an empty folder": (lambda path: [file.unlink() for file in path.iterdir()], "is incomplete"),
    "another version": (
        lambda path: change(path / "manifest.json", lambda content: content.replace(b'"format": 1', b'"format": 2')),
        r"of another version of this package \(format 2, this one reads 1\)",
    ),
}


def change(path: Path, how) -> None:
    path.write_bytes(how(path.read_bytes()))


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over(damage, tmp_path):
    for step in (3, 6):
        write_checkpoint(tmp_path, small_state(step), keep=2)
    happens, message = DAMAGES[damage]
    happens(tmp_path / "step_000000006")
    said = []
    assert newest_checkpoint(tmp_path, said.append)["step"] == 3
    assert len(said) == 1
    assert re.search(message, said[0])
    assert "going back to the checkpoint before it" in said[0]
    write_checkpoint(tmp_path, small_state(9), keep=2)
    assert newest_checkpoint(tmp_path, said.append)["step"] == 9


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


def test_a_checkpoint_with_code_in_it_is_not_run(tmp_path):
    write_checkpoint(tmp_path, small_state(3), keep=2)
    write_checkpoint(tmp_path, {"step": 6, "model": Evil(tmp_path / "ran")}, keep=2)
    said = []
    assert newest_checkpoint(tmp_path, said.append)["step"] == 3
    assert "holds more than tensors and numbers" in said[0]
    assert not (tmp_path / "ran").exists()


def test_times_of_files_decide_nothing(tmp_path):
    for step in (3, 6):
        write_checkpoint(tmp_path, small_state(step), keep=2)
    for path in (tmp_path / "step_000000006", *(tmp_path / "step_000000006").iterdir()):
        os.utime(path, (0, 0))
    assert newest_checkpoint(tmp_path, print)["step"] == 6
    write_checkpoint(tmp_path, small_state(9), keep=2)
    assert sorted(path.name[-1] for path in tmp_path.iterdir()) == ["6", "9"], (
        "the older step goes, not the older file"
    )


def test_a_run_goes_on_with_another_number_of_processes_and_says_so(recipe, tmp_path, monkeypatch, capsys):
    def stop(config, step, schedule, original=finetune.learning_rate):
        if step == 4:
            raise SystemExit
        return original(config, step, schedule)

    with monkeypatch.context() as patch:
        patch.setattr(finetune, "learning_rate", stop)
        with pytest.raises(SystemExit):
            run(recipe)
    forget()
    state = newest_checkpoint(tmp_path / "run" / "resume", print)
    write_checkpoint(tmp_path / "run" / "resume", state | {"processes": 4}, keep=2)
    run(recipe, "epochs=4")
    assert "warning: begun by 4 processes, goes on with 1: the last bits will differ" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------- the machine


def test_a_full_gpu_says_what_to_change(recipe, monkeypatch):
    def full(*arguments, **options):
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of 8 GiB"
        )

    monkeypatch.setattr(finetune, "cross_entropy", full)
    with pytest.raises(
        StudyError, match=r"memory is full \(CUDA .* 2.00 GiB. GPU 0 .*\); double accumulation: the same"
    ):
        run(recipe)


def test_a_worker_that_is_killed(recipe, monkeypatch):
    monkeypatch.setattr(data.Augmented, "__getitem__", lambda self, key: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(StudyError, match=r"a process that decodes images was killed, .*; use fewer workers, or 0"):
        run(recipe, *LAZY)


def test_a_worker_that_hangs(recipe, monkeypatch):
    monkeypatch.setattr(resources, "PATIENCE", 0.5)
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)  # how long it may take to end
    monkeypatch.setattr(data.Augmented, "__getitem__", lambda self, key: threading.Event().wait())
    with pytest.raises(StudyError, match=r"a process that decodes images hangs \(.*0.5 seconds\); use fewer workers"):
        run(recipe, *LAZY)


# --------------------------------------------------------------------------------------------------- data and secrets


def test_test_images_may_lack_a_class():
    logits = np.eye(3)[[0, 1, 0, 1]] * 4
    found = summarise(**image_scores(logits, np.array([0, 1, 1, 0])))
    assert found["accuracy"] == 0.5
    assert all(math.isfinite(value) for value in found.values() if isinstance(value, float))


def test_no_token_and_no_place_is_written(whole, shapes):
    files = [path for path in whole.rglob("*") if path.is_file()]
    assert {"training.json", "log.jsonl", "README.md", "said", "model.safetensors"} <= {path.name for path in files}
    for path in files:
        content = path.read_bytes()
        assert CANARY.encode() not in content, path
        if path.name != "said":  # which is the screen
            assert str(Path.home()).encode() not in content or str(Path.home()) == "/", path
            assert str(shapes.parent).encode() not in content, path
            assert os.uname().nodename.encode() not in content, path

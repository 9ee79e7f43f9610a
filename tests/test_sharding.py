"""Several processes that share a measurement, in a library, beside other work, and where one fails."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import xarray as xr
from forks import Job

from hf_vitstudy import cli, load_profile, measure, measuring
from hf_vitstudy.analyses import Analysis, NotApplicableError
from hf_vitstudy.analyses.contract import joined


QUICK = {"n": 40, "workers": 0, "progress": False, "batch_size": 8, "analyses": ["variance", "predictions"]}


class Here(Analysis):
    """Where each image is among all; means nothing for the batch of `never`."""

    name = "here"

    def __init__(self, never: int | None = None) -> None:
        self.never = never

    def update(self, batch):
        if batch.first == self.never:
            raise NotApplicableError(f"no such thing at image {batch.first}")
        return {"here": np.arange(batch.first, batch.first + len(batch))}

    def result(self, parts):
        about = {"unit": "1", "source": "", "long_name": "place"}
        return {"here": xr.Variable(("image",), joined(parts, "here"), about)}


# Every case is called in two processes, of which each knows its rank by the environment of a launcher.


def rank_of_this() -> int:
    return int(os.environ["RANK"])


def group(launched: bool = True) -> int:
    """Begin a group, as a program with processes of its own does; returns the rank."""
    rank = rank_of_this()
    if not launched:  # by any launcher that sets an environment
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            os.environ.pop(name)
    address = f"tcp://127.0.0.1:{os.environ['MASTER_PORT']}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    return rank


def vitstudy(vit: Path, images: Path, out: Path, *more: str) -> None:
    options = ["--images", str(images), "-n", "40", "--batch-size", "8", "--workers", "0", "--analyses", "variance"]
    sys.argv = ["vitstudy", "measure", str(vit), *options, "--out", str(out / "profile"), *more]
    cli.main()


def library(vit: Path, images: Path, out: Path) -> None:
    rank = group(launched=False)
    steps, step = [], measuring.Run.step
    measuring.Run.step = lambda self, *a, **o: (steps.append(1), step(self, *a, **o))[1]
    for name in ("first", "second"):
        found = measure(vit, images, out=out / name, **QUICK)
    assert len(steps) == 2 * (3, 2)[rank], f"5 batches are shared, {len(steps)} measured twice by process {rank}"
    assert found.n_images == 40, "every process has the whole profile"
    assert dist.is_initialized(), "the group is not ours to end"
    dist.barrier()


def beside_other_work(vit: Path, images: Path, out: Path) -> None:
    if group() == 0:
        measure(vit, images, out=out / "profile", alone=True, **QUICK)
    total = torch.ones(1)
    dist.all_reduce(total)
    assert total == 2


def dropped(vit: Path, images: Path, out: Path) -> None:
    for name, never in (("nowhere", None), ("third", 16), ("fourth", 24)):
        measure(vit, images, out=out / name, **QUICK | {"analyses": ["variance", Here(never)]})


def exact(vit: Path, images: Path, out: Path) -> None:
    sys.argv = ["vitstudy", "measure", "./nowhere", "--images", "./nowhere", "--analyses", "cka:exact=true"]
    cli.main()


def odd(vit: Path, images: Path, out: Path) -> None:
    """An error that is none of ours, in the second process only."""

    def step(self, *arguments, **options):
        raise MemoryError("no memory left")

    if rank_of_this() == 1:
        measuring.Run.step = step
    vitstudy(vit, images, out)


def gone(vit: Path, images: Path, out: Path) -> None:
    """The second process is killed in its first batch."""
    if rank_of_this() == 1:
        measuring.Run.step = lambda *a, **o: os.kill(os.getpid(), signal.SIGKILL)
    vitstudy(vit, images, out)


CASES = [library, beside_other_work, dropped, exact, odd, gone]


@pytest.fixture(scope="module")
def ended(forks, vit_folder, image_folder, tmp_path_factory) -> dict[str, tuple[Path, list[int], str]]:
    """By case: what it wrote, the exit codes of its processes, and what they said."""
    folders = {case.__name__: tmp_path_factory.mktemp(case.__name__) for case in CASES}
    jobs = [
        Job(case, (vit_folder, image_folder, folders[case.__name__]), 2, folders[case.__name__] / "log")
        for case in CASES
    ]
    codes = dict(zip(folders, forks.run(*jobs), strict=True))
    return {case: (folder, codes[case], (folder / "log").read_text()) for case, folder in folders.items()}


def test_a_library_s_own_processes_share_a_measurement(ended):
    folder, codes, log = ended["library"]
    assert codes == [0, 0], log
    first, second = (load_profile(folder / name) for name in ("first", "second"))
    assert first.data.identical(second.data), "a group serves more than one measurement"


def test_one_process_measures_alone_while_the_others_do_something_else(ended):
    """As the training loop does, whose main process profiles a network while the others wait in their next step."""
    folder, codes, log = ended["beside_other_work"]
    assert codes == [0, 0], log
    assert load_profile(folder / "profile").data.identical(load_profile(ended["library"][0] / "first").data)


def test_what_one_process_drops_is_dropped_by_all(ended):
    folder, codes, log = ended["dropped"]
    assert codes == [0, 0], log
    assert load_profile(folder / "nowhere")["here"].values.tolist() == list(range(40)), "every batch knows its place"
    for name, never in (("third", 16), ("fourth", 24)):
        found = load_profile(folder / name)
        assert found.provenance["absent"] == {"here": f"no such thing at image {never}"}
        assert found.provenance["measurement"]["analyses"] == ["variance"]
        assert "here" not in found.data


def test_what_needs_all_images_is_refused_before_anything_is_loaded(ended):
    _, codes, log = ended["exact"]
    assert codes == [2, 2]
    assert log.strip() == (
        "error: cka_flatten_exact needs all images in one go, so it cannot be spread over 2 processes; measure it by itself"
    )


def test_an_error_of_any_kind_ends_all(ended):
    folder, codes, log = ended["odd"]
    assert codes == [2, 1]
    assert "error: process 1 of 2: no memory left" in log
    assert log.count("MemoryError: no memory left") == 1, "the traceback is where it happened"
    assert not (folder / "profile").exists()


def test_a_killed_process_leaves_no_other_waiting(ended):
    folder, codes, log = ended["gone"]
    assert codes == [2, -signal.SIGKILL]
    said = [line for line in log.splitlines() if line.startswith("error:")]
    assert len(said) == 1
    assert said[0].startswith("error: another process has ended")
    assert "Traceback" not in log
    assert not (folder / "profile").exists()
    assert list(folder.glob(".profile.partial/*.safetensors")), "its batches are there for --resume"

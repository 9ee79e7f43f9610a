"""Several processes that share a measurement, in a library, beside other work, and where one fails."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hf_vitstudy import load_profile


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}

# Forks two processes for every case. Each calls the case's function with its rank; all they say goes to one file.
RUNNER = '''
import json, os, signal, socket, sys, time
import datasets, torch, transformers.models.vit.modeling_vit
import torch.distributed as dist
from hf_vitstudy import cli, measure, measuring
from hf_vitstudy.analyses import Analysis, NotApplicableError
from hf_vitstudy.analyses.contract import joined
import numpy as np, xarray as xr

vit, images, folder = sys.argv[1:4]
QUICK = {"n": 40, "workers": 0, "progress": False, "batch_size": 8, "analyses": ["variance", "predictions"]}


class Here(Analysis):
    """Where each image is among all; means nothing for the batch of `never`."""

    name = "here"

    def __init__(self, never=None):
        self.never = never

    def update(self, batch):
        if batch.first == self.never:
            raise NotApplicableError(f"no such thing at image {batch.first}")
        return {"here": np.arange(batch.first, batch.first + len(batch))}

    def result(self, parts):
        return {"here": xr.Variable(("image",), joined(parts, "here"), {"unit": "1", "source": "", "long_name": "place"})}


def variables(rank, port, launcher=True):
    found = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    if launcher:
        found |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= found


def group(rank, port):
    """As a program with processes of its own begins one: no launcher has set the environment."""
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)


def library(rank, port, out):
    group(rank, port)
    steps, step = [], measuring.Run.step
    measuring.Run.step = lambda self, *a, **o: (steps.append(1), step(self, *a, **o))[1]
    for name in ("first", "second"):
        found = measure(vit, images, out=f"{out}/{name}", **QUICK)
    assert len(steps) == 2 * (3, 2)[rank], f"5 batches are shared, {len(steps)} measured twice by process {rank}"
    assert found.n_images == 40, "every process has the whole profile"
    assert dist.is_initialized(), "the group is not ours to end"
    dist.barrier()


def beside_other_work(rank, port, out):
    variables(rank, port)
    group(rank, port)
    if rank == 0:
        measure(vit, images, out=f"{out}/profile", alone=True, **QUICK)
    total = torch.ones(1)
    dist.all_reduce(total)
    assert total == 2


def dropped(rank, port, out):
    variables(rank, port)
    for name, never in (("nowhere", None), ("third", 16), ("fourth", 24)):
        measure(vit, images, out=f"{out}/{name}", **QUICK | {"analyses": ["variance", Here(never)]})


def exact(rank, port, out):
    variables(rank, port)
    sys.argv = ["vitstudy", "measure", "./nowhere", "--images", "./nowhere", "--analyses", "cka:exact=true"]
    cli.main()


def odd(rank, port, out):
    """An error that is none of ours, in the second process only."""
    variables(rank, port)
    def step(self, *arguments, **options):
        raise MemoryError("no memory left")
    if rank == 1:
        measuring.Run.step = step
    sys.argv = ["vitstudy", "measure", vit, "--images", images, "-n", "40", "--batch-size", "8", "--workers", "0"]
    sys.argv += ["--out", f"{out}/profile", "--analyses", "variance"]
    cli.main()


def gone(rank, port, out):
    """The second process is killed in its first batch."""
    variables(rank, port)
    if rank == 1:
        measuring.Run.step = lambda *a, **o: os.kill(os.getpid(), signal.SIGKILL)
    sys.argv = ["vitstudy", "measure", vit, "--images", images, "-n", "40", "--batch-size", "8", "--workers", "0"]
    sys.argv += ["--out", f"{out}/profile", "--analyses", "variance"]
    cli.main()


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


torch.set_num_threads(1)
codes = {}
for case in json.loads(sys.argv[4]):
    children, port, out = [], free_port(), f"{folder}/{case}"
    os.makedirs(out)
    for rank in range(2):
        children.append(os.fork())
        if not children[-1]:
            signal.alarm(90)
            os.dup2(os.open(f"{out}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
            status = 1
            try:
                globals()[case](rank, port, out)
                status = 0
            except SystemExit as left:
                status = left.code or 0
            except BaseException:
                import traceback
                traceback.print_exc()
            finally:
                os._exit(status)
    codes[case] = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
print(json.dumps(codes))
'''

CASES = ["library", "beside_other_work", "dropped", "exact", "odd", "gone"]


@pytest.fixture(scope="module")
def ended(vit_folder, image_folder, tmp_path_factory) -> dict[str, tuple[Path, list[int], str]]:
    """By case: what it wrote, the exit codes of its processes, and what they said."""
    folder = tmp_path_factory.mktemp("sharding")
    words = [sys.executable, "-c", RUNNER, str(vit_folder), str(image_folder), str(folder), json.dumps(CASES)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=400, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    codes = json.loads(done.stdout.splitlines()[-1])
    return {case: (folder / case, codes[case], (folder / case / "log").read_text()) for case in CASES}


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
    assert log.count("MemoryError") == 1, "the traceback is where it happened"
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

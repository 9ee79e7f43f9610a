"""A Hub on this machine, an account that writes to it, and small things to push; for the tests that need them."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hub_client import Client
from hub_server import TOKEN, Hub
from safetensors.numpy import save_file
from synthetic import synthetic_profile

from hf_vitstudy.claims import choose_claims
from hf_vitstudy.study import Settings, make_study


numbers = itertools.count()


@pytest.fixture(scope="module")
def server():
    with Hub() as running:
        yield running


@pytest.fixture(autouse=True)
def _calm(server):
    server.faults.clear()
    server.requests.clear()
    server.lfs.clear()
    server.jobs.clear()


@pytest.fixture(scope="module")
def vitstudy(server, tmp_path_factory):
    client = Client(server.url, tmp_path_factory.mktemp("client"), TOKEN)
    yield client
    client.close()


@pytest.fixture
def name() -> str:
    return f"org/repo{next(numbers)}"


@pytest.fixture(scope="module")
def profiles(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("profiles")
    for kind in ("vit", "resnet"):
        synthetic_profile(kind, n=32, block=16).save(folder / kind)
    return folder


@pytest.fixture(scope="module")
def study(profiles, tmp_path_factory) -> Path:
    """The result of a study of both profiles, which lie elsewhere."""
    folder = tmp_path_factory.mktemp("study")
    make_study(profiles, folder, Settings(tuple(choose_claims(["P-F1", "R-1"])), draws=100, permutations=2))
    return folder


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """What a push takes for one, 16 kB of weights."""
    return write_checkpoint(tmp_path / "checkpoint")


def write_checkpoint(folder: Path, seed: int = 0) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "vit"}')
    save_file({"weight": np.random.default_rng(seed).normal(size=2000)}, folder / "model.safetensors")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def well(done) -> str:
    assert done.code == 0, done.err
    return done.out


def ends(done, *words: str) -> None:
    """Bad input: one line, exit code 2."""
    assert done.code == 2, done
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in done.err
    for word in words:
        assert word in line

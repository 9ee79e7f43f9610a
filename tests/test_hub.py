# ruff: noqa: F811
"""Push and pull through unmodified clients, against a Hub on this machine: round trips, conflicts, faults, hostile answers.

`hub_server` is ours; ``shared/hub/mini_hub.py``, where it is at hand, was written by others, and a mistake that our client and
our server share would show there.
"""

import contextlib
import dataclasses
import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import REAL_DATA
from hub_client import Client
from hub_fixtures import (  # noqa: F401
    _calm,
    checkpoint,
    contents,
    ends,
    name,
    numbers,
    profiles,
    server,
    study,
    vitstudy,
    well,
    write_checkpoint,
)
from hub_server import TOKEN, Blob, Fault, Hub
from safetensors.numpy import save_file
from synthetic import synthetic_profile

from hf_vitstudy import hub
from hf_vitstudy.errors import StudyError
from hf_vitstudy.profile import load_profile
from hf_vitstudy.releases import opened
from hf_vitstudy.study import Settings, local_folder, make_study, one_profile, profile_folders


OTHERS_HUB = REAL_DATA.parent / "hub" / "mini_hub.py"
PROFILE = ("arrays.safetensors", "manifest.json", "profile.json")
DOC = Path(__file__).parents[1] / "docs" / "hub.md"


@pytest.fixture(scope="module")
def offline(vitstudy, server):
    """The same account and cache in a process that was offline from the start."""
    client = Client(server.url, vitstudy.home, TOKEN, HF_HUB_OFFLINE="1")
    yield client
    client.close()


@pytest.fixture(scope="module")
def mini_hub():
    """The stand-in that others wrote."""
    if not OTHERS_HUB.is_file():
        pytest.skip("no shared/hub/mini_hub.py at hand")
    spec = importlib.util.spec_from_file_location("mini_hub", OTHERS_HUB)
    found = importlib.util.module_from_spec(spec)
    sys.modules["mini_hub"] = found  # where its annotations are looked up
    spec.loader.exec_module(found)
    return found


@contextlib.contextmanager
def client_of(server, home: Path, **environment: str):
    with server as running:
        client = Client(running.url, home, TOKEN, **environment)
        yield client
        client.close()
    if hasattr(running, "sock"):  # the other Hub leaves it open
        running.sock.close()


@pytest.fixture(scope="module")
def others(mini_hub, tmp_path_factory):
    with client_of(mini_hub.Server(), tmp_path_factory.mktemp("others")) as client:
        yield client


@pytest.fixture(scope="module", params=["ours", "others"])
def either(request):
    """A client of one Hub and of the other."""
    return request.getfixturevalue("vitstudy" if request.param == "ours" else "others")


@pytest.fixture(scope="module")
def pushed(either, profiles, study) -> dict[str, str]:
    """A profile and a study of it and another, on either Hub; what each is called there."""
    names = {kind: f"org/{kind}{next(numbers)}" for kind in ("vit", "study")}
    assert "profile -> http" in well(either("push", profiles / "vit", names["vit"]))
    assert "study -> http" in well(either("push", study, names["study"], "--profiles", profiles))
    return names


# ------------------------------------------------------------------------------------------------------ round trips


def test_a_profile_comes_back_as_it_was(either, pushed, profiles, tmp_path):
    well(either("pull", pushed["vit"], "--out", tmp_path / "back"))
    sent, back = contents(profiles / "vit"), contents(tmp_path / "back")
    assert set(sent) == set(PROFILE)
    assert {key: back[key] for key in PROFILE} == sent
    assert "README.md" in back
    assert ".gitattributes" not in back
    assert "nothing new" in well(either("push", tmp_path / "back", pushed["vit"]))  # the same folder, the same release


def test_a_checkpoint_comes_back_as_it_was(either, checkpoint, name, tmp_path):
    (checkpoint / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    well(either("push", checkpoint, name))
    well(either("pull", name, "--out", tmp_path / "back"))
    back = contents(tmp_path / "back")
    manifest = json.loads(back.pop("manifest.json"))
    assert back == contents(checkpoint)
    digests = {key: hashlib.sha256(content).hexdigest() for key, content in back.items()}
    assert {key: entry["sha256"] for key, entry in manifest["files"].items()} == digests


def test_a_revision_brings_back_what_was_there(either, profiles, name, tmp_path):
    """A second release replaces the first: what the first alone had goes, what somebody else put there stays."""
    first = write_checkpoint(tmp_path / "first")
    (first / "extra.json").write_text("{}")
    url = well(either("push", first, name)).split()[-1]
    second = write_checkpoint(tmp_path / "second", seed=1)
    well(either("push", second, name))
    well(either("pull", f"{name}@{url.rsplit('/', 1)[1]}", "--out", tmp_path / "old"))
    well(either("pull", name, "--out", tmp_path / "new"))
    for back, sent in (("old", first), ("new", second)):
        found = contents(tmp_path / back)
        del found["manifest.json"]
        assert found == contents(sent)


def test_profiles_of_the_hub_compare_as_those_at_hand(either, pushed, profiles, tmp_path):
    there = [pushed["vit"], f"datasets/{pushed['study']}/profiles/resnet@main"]
    for place, addresses in (("here.csv", [profiles / "vit", profiles / "resnet"]), ("there.csv", there)):
        well(either("compare", *addresses, "--permutations", 2, "--out", tmp_path / place))
    assert (tmp_path / "here.csv").read_bytes() == (tmp_path / "there.csv").read_bytes()


def test_a_study_is_judged_again_from_the_hub(either, pushed, study, profiles, tmp_path):
    judging = ("--claims", "P-F1,R-1", "--draws", 100, "--permutations", 2)
    well(either("study", f"{pushed['study']}@main", "--out", tmp_path, *judging))
    first, again = (json.loads((of / "results.json").read_text()) for of in (study, tmp_path))
    for each in again["checkpoints"]:
        each["key"] = each["key"].removeprefix("profiles/")
    assert first["judgements"] == again["judgements"]
    assert first["checkpoints"] == again["checkpoints"]
    assert len(first["judgements"]) > 1


def test_a_study_comes_back_as_it_was(either, pushed, study, profiles, tmp_path):
    well(either("pull", pushed["study"], "--out", tmp_path / "back"))
    for kind in ("vit", "resnet"):
        assert contents(tmp_path / "back" / "profiles" / kind) == contents(profiles / kind)
    assert (tmp_path / "back" / "results.json").read_text() == (study / "results.json").read_text()


def test_profiles_of_a_study_are_judged_and_reported(vitstudy, server, study, profiles, name, tmp_path):
    """All of them, where any number is wanted; where one is, it is named."""
    repo = server.create("dataset", name)
    for kind in ("vit", "resnet"):
        repo.put(**{f"profiles__{kind}__{key}": content for key, content in contents(profiles / kind).items()})
    for place, addresses in (("here", [profiles / "resnet", profiles / "vit"]), ("there", [name])):
        well(vitstudy("judge", *addresses, "--claims", "P-F1", "--draws", 100, "--json", tmp_path / place))
    assert (tmp_path / "here").read_bytes() == (tmp_path / "there").read_bytes()
    assert len(json.loads((tmp_path / "here").read_text())) == 1
    well(vitstudy("report", name, "--draws", 100, "--out", tmp_path / "report.html"))
    assert "synthetic-resnet" in (tmp_path / "report.html").read_text(encoding="utf-8")
    ends(vitstudy("compare", name, name), f"{name} holds 2 profiles", f"{name}/profiles/resnet, {name}/profiles/vit")


def test_a_profile_beside_its_model(vitstudy, server, checkpoint, profiles, name):
    ends(vitstudy("push", profiles / "vit", name, "--into-model"), "no such repository")
    well(vitstudy("push", checkpoint, name))
    before = server.repo("model", name).files()
    well(vitstudy("push", profiles / "vit", name, "--into-model"))
    after = server.repo("model", name).files()
    assert {key: after[key] for key in before} == before
    assert {key: after[f"vitstudy/vit/{key}"] for key in PROFILE} == contents(profiles / "vit")
    assert len(after) == len(before) + len(PROFILE)
    server.requests.clear()
    well(vitstudy("compare", name, f"{name}/vitstudy/vit", "--permutations", 2))
    assert not [line for line in server.requests if "model.safetensors" in line], "weights are not fetched to compare"
    well(vitstudy("push", write_checkpoint(checkpoint.with_name("next"), seed=5), name))
    assert "vitstudy/vit/profile.json" in server.repo("model", name).files()


def profile_with(folder: Path, **about) -> Path:
    made = synthetic_profile("vit", n=32, block=16)
    made.provenance["checkpoint"] |= about
    return made.save(folder)


def test_beside_a_model_goes_no_profile_of_other_weights(vitstudy, server, checkpoint, name, tmp_path):
    """Whether the Hub keeps the weights as LFS or as a plain file; of a network in two files it is both."""
    weights = {"model.safetensors": hub.file_sha256(checkpoint / "model.safetensors")}
    mine = profile_with(tmp_path / "mine", files=weights)
    other = profile_with(tmp_path / "other", files={"model.safetensors": "0" * 64})
    well(vitstudy("push", checkpoint, name))
    repo = server.repo("model", name)
    before = repo.head.oid
    told = f"cannot put a profile beside {name}: it is of other weights than model.safetensors there"
    ends(vitstudy("push", other, name, "--into-model"), told, "measure")
    assert repo.head.oid == before
    well(vitstudy("push", mine, name, "--into-model"))
    repo.put(**{"model.safetensors": (checkpoint / "model.safetensors").read_bytes()})
    assert not repo.head.files["model.safetensors"].lfs
    well(vitstudy("push", mine, name, "--into-model", "--message", "again"))
    ends(vitstudy("push", other, name, "--into-model"), told)
    repo.put(**{"part.safetensors": b"more"})
    ends(vitstudy("push", mine, name, "--into-model"), "other weights than part.safetensors there")


def test_a_profile_that_was_measured_on_the_hub_is_of_the_weights_at_its_commit(
    vitstudy, server, checkpoint, name, tmp_path
):
    """It tells no files; of another repository, or a commit that is gone, nothing is known, and it goes."""
    well(vitstudy("push", checkpoint, name))
    old = server.repo("model", name).head.oid
    profile = profile_with(tmp_path / "profile", name=name, revision=old, files={})
    well(vitstudy("push", profile, name, "--into-model"))
    well(vitstudy("push", write_checkpoint(tmp_path / "next", seed=5), name))
    ends(vitstudy("push", profile, name, "--into-model"), "other weights than model.safetensors there")
    for about in ({"name": "org/else"}, {"revision": "b" * 40}, {"revision": None}):
        told = {"name": name, "revision": old, "files": {}} | about
        well(vitstudy("push", profile_with(tmp_path / "profile", **told), name, "--into-model"))


def test_many_files_over_many_pages_and_another_host(vitstudy, server, checkpoint, name, tmp_path, monkeypatch):
    """The Hub lists a thousand files a page, and sends for large ones to another host."""
    monkeypatch.setattr(server, "page", 3)
    monkeypatch.setattr(server, "redirect", True)
    for number in range(7):
        (checkpoint / f"part{number}.json").write_text(f"[{number}]")
    well(vitstudy("push", checkpoint, name))
    well(vitstudy("pull", name, "--out", tmp_path / "back"))
    back = contents(tmp_path / "back")
    assert {key: back[key] for key in contents(checkpoint)} == contents(checkpoint)
    assert len(back) == 10
    assert any(line.startswith("GET /lfs/") for line in server.requests)
    assert sum("/tree/" in line for line in server.requests) >= 3 * 4


HIDDEN = (".gitattributes", ".cache/x", "a/.hidden", "a/.git1/b/c", ".eval_result", "vit [1]/.x")
SHOWN = (".eval_results/x.yaml", "a/b", "a.b/c", "vit [1]/profile.json", "vit 1/no", "vit [1]x", "[1]/.eval_results/y")


@pytest.mark.parametrize("scope", ["", "a", "vit [1]", "[1]"])
def test_exactly_what_is_shown_below_a_folder_is_fetched(scope, vitstudy, server, name, tmp_path):
    """Signs of a pattern in a name are signs of the name; what is hidden stays there."""
    files = {path: path.encode() for path in (*HIDDEN, *SHOWN)}
    at = f"{scope}/" if scope else ""
    listed = {"sha256": hashlib.sha256(b"{}").hexdigest(), "size": 2}
    files |= {f"{at}m.json": b"{}", f"{at}manifest.json": json.dumps({"files": {"m.json": listed}}).encode()}
    server.create("dataset", name).put(**{path.replace("/", "__"): content for path, content in files.items()})
    well(vitstudy("pull", f"{name}/{scope}" if scope else name, "--out", tmp_path / "back", cache=tmp_path / "cache"))
    wanted = {path for path in files if path.startswith(at) and path not in HIDDEN}
    asked = [
        line.split("?")[0].split("/resolve/")[1].split("/", 1)[1] for line in server.requests if "/resolve/" in line
    ]
    assert {unquote(path) for path in asked} == wanted
    assert contents(tmp_path / "back") == {path.removeprefix(at): files[path] for path in wanted}


def test_the_work_of_a_pull_grows_with_its_files_and_not_with_their_square(monkeypatch, tmp_path):
    """Six thousand files, of which none is sent: against how many patterns a name is held."""
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    seen = []
    files = {f"profiles/{number}/profile.json": None for number in range(6000)} | {".gitattributes": None}

    def snapshot_download(*_, allow_patterns, ignore_patterns=None, **__):
        seen.extend([*(allow_patterns or ()), *(ignore_patterns or ())])
        assert len(seen) <= 2
        kept = filter_repo_objects(files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns)
        assert set(kept) == {name for name in files if name != ".gitattributes"}
        return str(tmp_path / "commit")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(hub, "_look_up", lambda api, where: ("dataset", "commit"))
    monkeypatch.setattr(hub, "_tree", lambda *_: files)
    monkeypatch.setattr(hub, "_check_file", lambda *_: None)
    assert hub._download(hub.parse_address("org/many"), False) == tmp_path / "commit"
    assert seen


@pytest.mark.parametrize("whose", ["ours", "others"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the other Hub leaves files open
def test_the_way_of_xet(whose, request, checkpoint, tmp_path):
    """Uploading in deduplicated pieces, as `huggingface_hub` does by itself where `hf_xet` is installed."""
    pytest.importorskip("hf_xet")
    store = tmp_path / "store"
    made = Hub(xet=store) if whose == "ours" else request.getfixturevalue("mini_hub").Server(xet_dir=str(store))
    with client_of(made, tmp_path / "client", HF_HUB_DISABLE_XET="0") as client:
        assert "checkpoint -> http" in well(client("push", checkpoint, "org/xet"))
        assert "nothing new" in well(client("push", checkpoint, "org/xet"))
        well(client("pull", "org/xet", "--out", tmp_path / "back"))
    assert any(path.is_file() for path in (store / "xet" / "xorbs").rglob("*"))
    back = contents(tmp_path / "back")
    assert {key: back[key] for key in contents(checkpoint)} == contents(checkpoint)


def test_a_hub_without_xet_is_said_with_the_way_out(server, checkpoint, name, tmp_path):
    """The client asks for Xet where `hf_xet` is installed, and takes no other way by itself."""
    pytest.importorskip("hf_xet")
    client = Client(server.url, tmp_path / "client", TOKEN, HF_HUB_DISABLE_XET="0")
    try:
        ends(client("push", checkpoint, name), "this Hub takes no uploads by Xet; set HF_HUB_DISABLE_XET=1")
    finally:
        client.close()
    assert not [line for line in server.requests if line.startswith("PUT")]


READERS = """
import io, json, sys
from contextlib import redirect_stdout
import datasets, numpy as np, torch
from huggingface_hub import constants
sys.modules["transformers"] = None  # evaluate then leaves out its pipelines, which take most of its time
import evaluate
del sys.modules["transformers"]
from transformers import AutoImageProcessor, AutoModelForImageClassification
from hf_vitstudy.cli import app
told = json.loads(sys.argv[1])
model, table = ({"revision": told[key]} for key in ("model_commit", "table_commit"))

def logits(where, **options):
    AutoImageProcessor.from_pretrained(where, **options)
    torch.manual_seed(0)
    return AutoModelForImageClassification.from_pretrained(where, **options)(torch.rand(2, 3, 32, 32)).logits

def rows(name):
    return datasets.load_dataset(told["table"], name, split="train", **table).to_list()

def vitstudy(*words):
    with redirect_stdout(io.StringIO()):
        app(words, standalone_mode=False)

expected = logits(told["folder"])
assert torch.equal(logits(told["model"], **model), expected)
found = {name: rows(name) for name in ("measurements", "verdicts")}

vitstudy("push", "--metric", "cka", "--space", told["metric"], "--requirement", "git+https://host.org/owner/name")
vitstudy("pull", "spaces/" + told["metric"], "--out", told["pulled"])
features = np.random.default_rng(0).normal(size=(8, 3))
for where in (told["pulled"], told["metric"]):
    result = evaluate.load(where, revision="main").compute(features1=features, features2=features[:, ::-1])
    assert abs(result["cka"] - 1) < 1e-9 and result["n"] == 8, result

constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = datasets.config.HF_DATASETS_OFFLINE = True
print("offline from here", flush=True)
sys.stdin.readline()
assert torch.equal(logits(told["model"], **model), expected)
assert {name: rows(name) for name in found} == found
print(json.dumps(found))
"""


def test_other_libraries_read_what_was_pushed_at_its_commit(vitstudy, server, vit_folder, study, profiles, tmp_path):
    """transformers the weights, datasets the tables, evaluate a metric; and the first two again, offline, without a request.

    `test_offline_with_a_warm_cache_asks_nothing` is offline from the start.
    """
    told = {kind: f"org/{kind}{next(numbers)}" for kind in ("model", "table", "metric")}
    url = well(vitstudy("push", vit_folder, told["model"])).split()[-1]
    well(vitstudy("push", study, told["table"], "--profiles", profiles))
    for kind, key in (("model", "model"), ("dataset", "table")):
        repo = server.repo(kind, told[key])
        told[f"{key}_commit"] = repo.head.oid
        repo.put(**{"config.json": b"{}", "README.md": b""})  # later commits change nothing
    assert url == f"{server.url}/{told['model']}/tree/{told['model_commit']}"
    told |= {"folder": str(vit_folder), "pulled": str(tmp_path / told["metric"].split("/")[1])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = vitstudy.environment | {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    with subprocess.Popen([sys.executable, "-c", READERS, json.dumps(told)], env=environment, **pipes) as process:
        assert process.stdout.readline() == "offline from here\n"
        asked = "\n".join(server.requests)
        assert f"/{told['model']}/resolve/{told['model_commit']}/model.safetensors" in asked
        assert f"/{told['table']}/resolve/{told['table_commit']}/tables/measurements.parquet" in asked
        server.requests.clear()
        found = json.loads(process.communicate("\n", timeout=120)[0])
    assert server.requests == []
    stored = server.repo("dataset", told["table"]).at(told["table_commit"]).files
    for table, rows in found.items():
        assert rows == pq.read_table(io.BytesIO(stored[f"tables/{table}.parquet"].content)).to_pylist()
        assert len(rows) > 2
    space = server.repo("space", told["metric"])
    assert contents(Path(told["pulled"])) == {key: blob for key, blob in space.files().items() if key[0] != "."}
    assert (space.sdk, len(space.branches["main"])) == ("static", 2)


def test_offline_with_a_warm_cache_asks_nothing(vitstudy, offline, server, checkpoint, profiles, name, tmp_path):
    well(vitstudy("push", checkpoint, name))
    well(vitstudy("push", profiles / "vit", name, "--into-model"))
    cold = offline("compare", name, name)
    ends(cold, f"{name} is not in the cache of this machine, and HF_HUB_OFFLINE is set")
    well(vitstudy("compare", name, name, "--permutations", 2))
    server.requests.clear()
    well(offline("compare", name, f"{name}@main", "--permutations", 2))
    well(offline("pull", f"{name}/vitstudy/vit", "--out", tmp_path / "back"))
    assert contents(tmp_path / "back") == contents(profiles / "vit")
    ends(offline("pull", name, "--out", tmp_path / "all"), "not in the cache")  # of the weights nothing was fetched
    ends(offline("push", profiles / "vit", name), "HF_HUB_OFFLINE is set; unset it to reach the Hub")
    ends(offline("compare", f"{name}@other", name), "not in the cache")
    assert server.requests == []


# ---------------------------------------------------------------------------------------------------- what is sent


def test_a_dry_run_shows_all_and_asks_the_hub_nothing(offline, server, checkpoint, name):
    (checkpoint / "optimizer.bin").write_bytes(b"\x80\x04")
    (checkpoint / "step_100").mkdir()
    out = well(offline("push", checkpoint, name, "--dry-run"))
    assert f"checkpoint to model {name}: 3 files" in out
    assert re.search(r"model\.safetensors +16,0\d\d\n", out)
    assert "left out optimizer.bin: could run code when it is loaded" in out
    assert "left out step_100/: a folder" in out
    assert "dry run: nothing was sent" in out
    well(offline("collect", "org/Ours", name, "--dry-run"))
    assert server.requests == []


def test_a_name_of_a_file_cannot_write_to_the_terminal(offline, checkpoint, name):
    (checkpoint / "a\x1b]0;title\x07\x1b[31m.bin").write_bytes(b"1")
    (checkpoint / os.fsdecode(b"b\xff.bin")).write_bytes(b"1")
    out = well(offline("push", checkpoint, name, "--dry-run"))
    assert "left out a\ufffd]0;title\ufffd\ufffd[31m.bin: could run code when it is loaded\n" in out
    assert "left out b\ufffd.bin: could run code when it is loaded\n" in out
    assert out.replace("\n", "").isprintable()


def test_message_branch_and_privacy(vitstudy, server, checkpoint, name):
    well(vitstudy("push", checkpoint, name, "--private", "--message", "First", "--revision", "next"))
    repo = server.repo("model", name)
    assert repo.private
    assert repo.branches["next"][-1].title == "First"
    assert [commit.title for commit in repo.branches["main"]] == ["initial commit"]
    assert "model.safetensors" not in repo.files("main")
    well(vitstudy("push", checkpoint, name, "--private"))
    assert repo.head.title == "Checkpoint (3 files) by hf_vitstudy"
    stranger = vitstudy("pull", name, "--out", checkpoint / "back", HF_TOKEN="hf_SomebodyElseSomebodyElse")
    ends(stranger, "401, no such repository, or not for you")


def test_what_is_public_is_not_pushed_to_as_private(vitstudy, server, checkpoint, name):
    server.create("model", name)
    ends(vitstudy("push", checkpoint, name, "--private"), f"{name} is public already, so nothing was sent")
    assert len(server.repo("model", name).branches["main"]) == 1
    assert server.lfs == {}


def test_a_file_that_the_repository_ignores_stops_the_push(vitstudy, server, checkpoint, name):
    repo = server.create("model", name)
    repo.put(**{".gitignore": b"config.json"})
    ends(vitstudy("push", checkpoint, name), "would leave out 'config.json'", ".gitignore", "nothing was committed")
    assert set(repo.files()) == {".gitattributes", ".gitignore"}


def test_a_file_that_changes_while_it_is_sent_goes_as_it_was_looked_at(vitstudy, server, checkpoint, name, tmp_path):
    """A training may still write there: what it adds was never looked at, and must not be published."""
    config = checkpoint / "config.json"
    before = config.read_bytes()
    server.faults.append(Fault("PUT /lfs/", before=lambda: config.write_text(json.dumps({"secret": TOKEN}))))
    well(vitstudy("push", checkpoint, name))
    assert server.repo("model", name).files()["config.json"] == before
    well(vitstudy("pull", name, "--out", tmp_path / "back"))


def test_weights_that_change_while_they_are_looked_at_are_not_sent(checkpoint, monkeypatch):
    monkeypatch.setattr("hf_vitstudy.releases.MOST_HELD", 0)
    with opened(checkpoint, "org/name") as release:
        save_file({"weight": np.arange(11.0)}, checkpoint / "model.safetensors")
        with pytest.raises(
            StudyError, match=r"model\.safetensors changed while it was looked at, so nothing was sent"
        ):
            hub._additions(release, {})


def test_a_card_edited_on_the_hub_leaves_the_release_readable(vitstudy, server, study, profiles, name, tmp_path):
    """People add a licence there, or a picture."""
    well(vitstudy("push", study, name, "--profiles", profiles))
    repo = server.repo("dataset", name)
    repo.put(**{"README.md": repo.files()["README.md"] + b"\nMine.\n"})
    well(vitstudy("pull", name, "--out", tmp_path / "back"))
    assert (tmp_path / "back" / "README.md").read_text().endswith("\nMine.\n")
    repo.put(**{"results.json": b"{}"})
    ends(vitstudy("pull", name, "--out", tmp_path / "again"), "results.json is damaged")


def test_a_profile_put_beside_a_released_one_leaves_the_model_whole(
    vitstudy, server, checkpoint, profiles, name, tmp_path
):
    (checkpoint / "vitstudy" / "vit").mkdir(parents=True)
    for file in PROFILE:
        shutil.copyfile(profiles / "resnet" / file, checkpoint / "vitstudy" / "vit" / file)
    well(vitstudy("push", checkpoint, name))
    listed = json.loads(server.repo("model", name).files()["manifest.json"])["files"]
    assert "vitstudy/vit/profile.json" in listed
    well(vitstudy("push", profiles / "vit", name, "--into-model"))
    well(vitstudy("pull", name, "--out", tmp_path / "back"))
    assert contents(tmp_path / "back" / "vitstudy" / "vit") == contents(profiles / "vit")
    now = json.loads(server.repo("model", name).files()["manifest.json"])["files"]
    assert set(now) == set(listed)
    assert {key: value for key, value in now.items() if "vitstudy" not in key}.items() <= listed.items()


def test_what_somebody_changed_is_not_deleted(vitstudy, server, checkpoint, name):
    for file in ("notes.md", "more.md"):
        (checkpoint / file).write_text("Ours.\n")
    well(vitstudy("push", checkpoint, name))
    repo = server.repo("model", name)
    repo.put(**{"notes.md": b"Theirs.\n"})
    for file in ("notes.md", "more.md"):
        (checkpoint / file).unlink()
    out = well(vitstudy("push", checkpoint, name))
    assert "kept notes.md there: not of this release, but changed since it came with an earlier one" in out
    assert repo.files()["notes.md"] == b"Theirs.\n"
    assert "more.md" not in repo.files()


def test_figures_of_an_earlier_profile_go_with_it(vitstudy, server, profiles, name):
    well(vitstudy("push", profiles / "vit", name))
    repo = server.repo("dataset", name)
    repo.put(**{"figures/theirs.png": b"1"})
    assert "figures/cka.png" in repo.files()
    less = load_profile(profiles / "vit")
    without = less.data.drop_vars([each for each in less.data.data_vars if str(each).startswith("gram")])
    less = dataclasses.replace(less, data=without)
    well(vitstudy("push", less.save(profiles / "less"), name))
    shutil.rmtree(profiles / "less")
    assert "figures/cka.png" not in repo.files()
    assert "figures/theirs.png" in repo.files()


def test_a_commit_that_was_made_is_said_to_be_made(vitstudy, server, checkpoint, name):
    """The Hub fails after it: the release is there, and that nothing is there would be untrue."""
    commits = []

    def break_down() -> None:
        server.faults.append(Fault("GET .*/tree/", status=500, times=20))
        commits.append(1)

    server.create("model", name)
    server.faults.append(Fault("POST .*/commit/", before=break_down))
    done = vitstudy("push", checkpoint, name)
    server.faults.clear()
    assert commits
    head = server.repo("model", name).branches["main"][-1]
    ends(done, f"cannot look at what was pushed: {name} is at commit {head.oid[:8]}, but: 500")


def test_no_license_to_write(vitstudy, server, checkpoint):
    ends(vitstudy("push", checkpoint, "google/theirs"), "cannot push to google/theirs: ")
    done = vitstudy("push", checkpoint, "org/mine", HF_TOKEN="")
    ends(done, "hf auth login")


# -------------------------------------------------------------------------------------------- conflict, interruption


def test_a_commit_in_between_is_a_conflict(vitstudy, server, checkpoint, name):
    """Between the look at the branch and the commit somebody else commits: theirs stays, ours is not there."""
    repo = server.create("model", name)
    server.faults.append(Fault("POST .*/commit/", before=lambda: repo.put(theirs=b"1")))
    ends(vitstudy("push", checkpoint, name), "412, somebody committed there meanwhile, and nothing was changed")
    assert set(repo.files()) == {".gitattributes", "theirs"}
    well(vitstudy("push", checkpoint, name))
    assert set(repo.files()) == {".gitattributes", "theirs", "config.json", "manifest.json", "model.safetensors"}


def test_a_parent_that_is_no_longer_the_head_is_a_conflict(either, tmp_path, name):
    first, second, third = (write_checkpoint(tmp_path / str(seed), seed) for seed in range(3))
    parent = well(either("push", first, name)).split("/")[-1].strip()
    well(either("push", second, name, "--parent", parent))
    ends(either("push", third, name, "--parent", parent), "412, somebody committed there meanwhile")
    well(either("pull", name, "--out", tmp_path / "back"))
    assert contents(tmp_path / "back")["model.safetensors"] == contents(second)["model.safetensors"]


def test_a_killed_push_leaves_the_branch_and_a_second_one_sends_the_rest(vitstudy, server, checkpoint, name, tmp_path):
    repo = server.create("model", name)
    save_file({"more": np.arange(3000.0)}, checkpoint / "more.safetensors")
    slow = hashlib.sha256((checkpoint / "more.safetensors").read_bytes()).hexdigest()
    server.faults.append(Fault(f"PUT /lfs/{slow}", delay=30))
    with vitstudy.started("push", checkpoint, name) as (process, end):
        wait_until(lambda: len(server.lfs) == 1 and server.faults[0].seen == 1)
        os.kill(process, signal.SIGKILL)
        assert end().code == -signal.SIGKILL
    assert [commit.title for commit in repo.branches["main"]] == ["initial commit"]
    server.faults.clear()
    server.requests.clear()
    well(vitstudy("push", checkpoint, name))
    assert [line for line in server.requests if line.startswith("PUT")] == [f"PUT /lfs/{slow}"]
    assert len(repo.branches["main"]) == 2
    assert repo.files()["more.safetensors"] == (checkpoint / "more.safetensors").read_bytes()


def wait_until(true, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_killed_pull_leaves_no_folder(vitstudy, server, checkpoint, name, tmp_path):
    well(vitstudy("push", checkpoint, name))
    server.faults.append(Fault("GET .*/resolve/.*safetensors", delay=30))
    with vitstudy.started("pull", name, "--out", tmp_path / "pulled" / "back") as (process, end):
        wait_until(lambda: server.faults[0].seen == 1)
        os.kill(process, signal.SIGKILL)
        assert end().code == -signal.SIGKILL
    assert not (tmp_path / "pulled").exists()
    well(vitstudy("pull", name, "--out", tmp_path / "pulled" / "back"))
    assert [path.name for path in (tmp_path / "pulled").iterdir()] == ["back"]


def test_an_answer_lost_after_the_commit(vitstudy, server, checkpoint, name):
    repo = server.create("model", name)
    server.faults.append(Fault("POST .*/commit/", drop_answer=True))
    ends(vitstudy("push", checkpoint, name), "no answer", "run the same command again")
    assert len(repo.branches["main"]) == 2
    assert "nothing new" in well(vitstudy("push", checkpoint, name))
    assert len(repo.branches["main"]) == 2


# ----------------------------------------------------------------------------------------------------------- faults


def table() -> dict[str, list[str]]:
    """what happens -> what it does to each of the four steps, as the documentation says it."""
    lines = DOC.read_text(encoding="utf-8").splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("| what happens |"))
    found = {}
    for line in lines[head + 2 :]:
        if not line.startswith("|"):
            break
        what, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        found[what] = cells
    assert [cell.strip() for cell in lines[head].strip("|").split("|")] == ["what happens", *STEPS]
    return found


STEPS = {
    "push, the repository": "POST /api/repos/create",
    "push, a file": "PUT /lfs/",
    "push, the commit": "POST .*/commit/",
    "pull, the look-up": "GET .*/revision/",
    "pull, a file": "GET .*/resolve/.*safetensors",
    "a Job, its start": "POST /api/jobs/",
}


FAULTS = {
    **{
        what: {"status": int(what[:3]), "times": 1 if what.endswith("once") else -1}
        for what in table()
        if what[:3].isdigit()
    },
    "403, gated, and no access": {"status": 403, "times": -1, "headers": {"X-Error-Code": "GatedRepo"}},
    "connection cut after some bytes, once": {"cut": 1000},
    "connection cut after some bytes, always": {"cut": 1000, "times": -1},
    "answers come slowly": {"delay": 0.1, "times": -1},
}


@pytest.mark.parametrize("what", FAULTS)
def test_what_goes_wrong_does_what_the_documentation_says(what, vitstudy, server, checkpoint, name, tmp_path):
    repo, out = server.create("model", name), tmp_path / "back"
    for step, cell in zip(STEPS, table()[what], strict=True):
        if cell == "–":  # cannot happen there
            continue
        if step.startswith("pull") and "model.safetensors" not in repo.files():
            server.faults.clear()
            well(run(vitstudy, "push, the commit", checkpoint, name, out))
        server.faults[:] = [fault_at(step, **FAULTS[what])]
        before = repo.head.oid
        done = run(vitstudy, step, checkpoint, name, out)
        assert server.faults[0].seen >= 1, "the fault happened"
        if cell == "goes on":
            well(done)
        else:
            ends(done, re.fullmatch('ends: "(.+)"', cell)[1])
            assert repo.head.oid == before
            assert ("model", f"{name}-new") not in server.repos
            assert step.startswith("a Job") or not list(tmp_path.glob("*back*"))
            assert not [job for job in server.jobs if f"{name}-job" in job["command"]]
        if step == "push, the repository":
            server.lfs.clear()
        if step == "push, a file" and repo.head.oid != before:
            repo.branches["main"].pop()  # so that there is something to commit in the next step
        if step == "pull, the look-up":
            shutil.rmtree(out, ignore_errors=True)
            shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    if not out.exists():
        server.faults.clear()
        well(run(vitstudy, "pull, a file", checkpoint, name, out))
    assert contents(out)["model.safetensors"] == (checkpoint / "model.safetensors").read_bytes()
    assert repo.files()["model.safetensors"] == (checkpoint / "model.safetensors").read_bytes()


def fault_at(step: str, cut: int | None = None, **about) -> Fault:
    """A connection is cut on the side of the bytes: on what is sent, or on what arrives."""
    arriving = step == "pull, a file"
    cut = cut and (cut if step.endswith("file") else 10)  # few bytes make a request
    return Fault(STEPS[step], cut_answer=cut if arriving else None, cut_upload=None if arriving else cut, **about)


def run(vitstudy, step: str, checkpoint: Path, name: str, out: Path):
    if step.startswith("push"):
        return vitstudy("push", checkpoint, f"{name}-new" if step == "push, the repository" else name)
    if step.startswith("a Job"):
        job = ("--hf-job", "t4-small", "--push-to", f"{name}-job", "--requirement", "git+https://host.org/owner/name")
        return vitstudy("measure", "org/vit", "--images", "org/images", *job)
    return vitstudy("pull", name, "--out", out, cache=out.with_name("cache"))


def test_every_row_of_the_documentation_is_tested():
    assert set(table()) == set(FAULTS)
    assert len(FAULTS) >= 12


# ------------------------------------------------------------------------------------------------- hostile, damaged

HOSTILE_NAMES = [
    "../evil.txt",
    "profiles/../../evil.txt",
    "/tmp/evil.txt",
    "..\\evil.txt",
    "C:\\evil.txt",
    "C:evil.txt",
    "aux",
    "folder/con.txt",
    "trailing./evil.txt",
    "space /evil.txt",
    "line\nbreak.txt",
    "reversed\u202etxt.exe",
    "star*.txt",
    "double//slash.txt",
    ".git/config",
    "x" * 300,
]


@pytest.mark.parametrize("file", HOSTILE_NAMES)
def test_a_file_name_that_leaves_its_folder_is_refused(file):
    with pytest.raises(StudyError, match=r"refused a file called .*: such a name could leave its folder"):
        hub.check_name(file)


@pytest.mark.parametrize(
    "file", ["README.md", "profiles/vit b/arrays.safetensors", "ünïcode.json", "a-b_c.1+2.json", "console.txt"]
)
def test_a_plain_file_name_passes(file):
    assert hub.check_name(file) == file


@pytest.mark.parametrize("file", ["../evil.txt", "/tmp/evil.txt", "a/../../evil.txt", "a\\..\\evil.txt"])
def test_nothing_is_written_of_a_repository_with_a_hostile_name(file, vitstudy, server, checkpoint, name, tmp_path):
    well(vitstudy("push", checkpoint, name))
    repo = server.repo("model", name)
    repo.commit("main", repo.head.files | {file: Blob(b"evil", False)}, "evil")
    before = set(vitstudy.home.parent.rglob("*"))
    ends(vitstudy("pull", name, "--out", tmp_path / "a" / "b" / "back"), "refused a file called")
    assert not (tmp_path / "a").exists()
    new = {path for path in set(vitstudy.home.parent.rglob("*")) - before if path.is_file()}
    assert not [path for path in new if path.read_bytes() == b"evil"]


def test_a_hostile_manifest_reads_no_file_outside(vitstudy, server, checkpoint, name, tmp_path):
    well(vitstudy("push", checkpoint, name))
    listed = {"../../secret": {"sha256": "0" * 64, "size": 1}}
    server.repo("model", name).put(**{"manifest.json": json.dumps({"format": 1, "files": listed}).encode()})
    ends(vitstudy("pull", name, "--out", tmp_path / "back"), "refused a file called")
    server.repo("model", name).put(**{"manifest.json": b"[" * 10_000})
    ends(vitstudy("pull", name, "--out", tmp_path / "back"), "holds no manifest.json")


HOSTILE_REPOS = [
    *(
        "name",
        "org/name/more",
        "../name",
        "org/..",
        "org/.git",
        "-o/name",
        "org/a..b",
        "org/a--b",
        "org/-",
        "org/",
        "",
    ),
    *("org/name.git", "org/na me", "org/na\nme", "org/näme", "https://huggingface.co/org/name", "org/n" + "a" * 96),
]


@pytest.mark.parametrize("repo", HOSTILE_REPOS)
def test_a_repository_that_is_none_is_refused(repo):
    with pytest.raises(StudyError, match=r"a repository is called org/name, .*; got "):
        hub.check_repo(repo)


@pytest.mark.parametrize(
    "revision", ["../main", "-d", "a b", "a//b", "a\nb", "/main", "main/", "", "a" * 300, "a..b", "ä"]
)
def test_a_revision_that_is_none_is_refused(revision):
    with pytest.raises(StudyError, match="a revision is a branch, a tag or a commit; got "):
        hub.check_revision(revision)


ADDRESSES = {
    "org/name": hub.Address("org/name"),
    "datasets/org/name": hub.Address("org/name", "dataset"),
    "models/org/name@v1.0": hub.Address("org/name", "model", revision="v1.0"),
    "org/name/profiles/vit@refs/pr/1": hub.Address("org/name", None, "profiles/vit", "refs/pr/1"),
    "spaces/org-1/n.a_me": hub.Address("org-1/n.a_me", "space"),
}


@pytest.mark.parametrize("text", ADDRESSES)
def test_the_parts_of_an_address(text):
    assert hub.parse_address(text) == ADDRESSES[text]
    assert hub.parse_address(Path(text)) == ADDRESSES[text]
    assert str(ADDRESSES[text]) == text


@pytest.mark.parametrize(
    "text",
    [
        "name",
        "/org/name",
        "./org/name",
        "org/name@",
        "org/name@a@b",
        "org\\name",
        "~/name",
        "org/name//x",
        "org/name/../x",
    ],
)
def test_what_is_no_address(text):
    assert not hub.is_address(text)
    with pytest.raises(StudyError):
        hub.parse_address(text)


def test_what_was_damaged_on_the_way_is_noticed(vitstudy, server, checkpoint, name, tmp_path):
    """Of the right length, so that the client itself sees nothing wrong."""
    well(vitstudy("push", checkpoint, name))

    def flipped(content: bytes) -> bytes:
        return content[:-1] + bytes([content[-1] ^ 1])

    for file in ("model.safetensors", "config.json"):
        server.faults[:] = [Fault(f"GET .*/resolve/.*{file}", change=flipped)]
        done = vitstudy("pull", name, "--out", tmp_path / "back", cache=tmp_path / file)
        ends(done, f"{file} is damaged: not the ", "delete it and pull again")
        assert not (tmp_path / "back").exists()


def test_what_the_manifest_does_not_know_is_noticed(vitstudy, server, checkpoint, name, tmp_path):
    """Replaced on the Hub by somebody who left the manifest as it was."""
    well(vitstudy("push", checkpoint, name))
    repo = server.repo("model", name)
    repo.put(**{"config.json": b'{"model_type": "evil"}'})
    ends(vitstudy("pull", name, "--out", tmp_path / "back"), "config.json is damaged: its sha256 is not that of")
    repo.commit("main", {key: blob for key, blob in repo.head.files.items() if key != "config.json"}, "gone")
    ends(vitstudy("pull", name, "--out", tmp_path / "back"), "config.json is missing, and manifest.json lists it")


def test_what_vitstudy_did_not_push_is_not_pulled(vitstudy, server, name, tmp_path):
    server.create("dataset", name).put(**{"data.csv": b"1,2"})
    ends(vitstudy("pull", name), "holds no manifest.json, so it is no release of vitstudy")
    ends(vitstudy("pull", f"{name}/profiles"), "has no folder 'profiles' at main")
    ends(vitstudy("judge", name), "holds no manifest.json")
    ends(vitstudy("pull", f"{name}@v9"), "404, no such branch, tag or commit")
    ends(vitstudy("pull", f"{name}x"), "no such repository, or not for you")


def test_a_gated_repository_is_told_from_one_that_is_not_there(vitstudy, server, name, tmp_path):
    """Also where a model of the same name is open: the address meant the data set."""
    server.create("dataset", name, gated=True).put(**{"manifest.json": b"{}"})
    server.create("model", name)
    done = vitstudy("pull", name, "--out", tmp_path / "back")
    ends(done, f"cannot pull {name}: 403, it is gated: ask for access on its page", "hf auth login")
    assert "no such repository" not in done.err


def test_a_first_push_that_is_interrupted_is_finished_by_the_same_command(
    vitstudy, server, checkpoint, name, tmp_path
):
    """The repository is there and empty; the error says so, and nothing is deleted."""
    empty = f"{name} is there now with nothing of yours in it, and the same command fills it"
    for fault in (Fault("PUT /lfs/", status=403), Fault("POST .*/commit/", cut_upload=10)):
        server.faults[:] = [fault]
        done = vitstudy("push", checkpoint, name, "--private")
        ends(done, empty)
        assert fault.seen == 1
        assert set(server.repo("model", name).files()) == {".gitattributes"}
    assert not [line for line in server.requests if line.startswith("DELETE")]
    ends(
        vitstudy("pull", f"models/{name}"),
        "holds no release yet; if a push there was interrupted, the same push again",
    )
    well(vitstudy("push", checkpoint, name, "--private"))
    assert server.repo("model", name).private
    server.faults.append(Fault("POST .*/commit/", status=403))
    (checkpoint / "config.json").write_text("{}")
    assert empty not in vitstudy("push", checkpoint, name).err, "of one with files nothing is said"


def test_a_folder_that_is_there_is_not_replaced(vitstudy, server, tmp_path):
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / "mine").touch()
    ends(vitstudy("pull", "org/name", "--out", tmp_path / "back"), "is there already; name another folder with --out")
    assert server.requests == []


# ----------------------------------------------------------------------------------------------------------- secrets


def test_neither_token_nor_host_is_left_anywhere(server, checkpoint, study, profiles, name, tmp_path):
    """Not in files, logs, caches or errors, also where the Hub repeats it and where the client logs all it does."""
    client = Client(server.url, tmp_path / "client", TOKEN, HF_DEBUG="1", HF_HUB_VERBOSITY="debug")
    job = ("--hf-job", "t4-small", "--push-to", name, "--requirement", "git+https://host.org/owner/name")
    measure = ("measure", "org/vit", "--images", "org/images", *job)
    try:
        well(client("push", checkpoint, name))
        well(client("push", profiles / "vit", name, "--into-model"))
        well(client("push", study, "--space", name, "--profiles", profiles))
        well(client(*measure))
        well(client(*measure, "--dry-run"))
        well(client("pull", f"models/{name}", "--out", tmp_path / "back"))
        changed = write_checkpoint(tmp_path / "changed", seed=7)
        commands = {
            "POST .*/commit/": ("push", changed, name),
            "GET .*/revision/": ("pull", name, "--out", tmp_path / "x"),
            "POST /api/jobs/": measure,
        }
        for step, command in commands.items():
            server.faults[:] = [Fault(step, status=403, echo=True, times=-1)]
            ends(client(*command), "403", "Bearer hf_")
        server.faults.clear()
        assert len(list(client.home.glob("command*.err"))) == 9
    finally:
        client.close()
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 20
    repos = [repo for (_, named), repo in server.repos.items() if named == name]
    assert {repo.kind for repo in repos} == {"model", "space", "dataset"}
    stored = [blob.content for repo in repos for blob in repo.head.files.values()]
    assert not [content for content in files + stored if TOKEN.encode() in content]
    machine = socket.gethostname().encode()
    words = [content for content in files + stored if re.search(rb"(?<![\w-])" + machine + rb"(?![\w-])", content)]
    assert len(machine) < 6 or not words  # a short name is in other words
    assert [(started["secrets"], TOKEN in str(started["command"])) for started in server.jobs] == [
        ({"HF_TOKEN": TOKEN}, False)
    ]


@pytest.mark.parametrize("secret", ["odd-token-of-a-mirror", TOKEN])
def test_neither_ones_own_token_nor_anothers_is_repeated(secret, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "odd-token-of-a-mirror")
    told = hub.without_token(f"Bearer {secret}\nwas refused")
    assert secret not in told
    assert told.startswith("Bearer hf_")
    assert told.endswith(" was refused")


def test_no_command_has_an_option_for_a_token(vitstudy):
    for command in ("push", "pull", "collect", "measure"):
        assert "token" not in re.sub("HF_TOKEN|The token is", "", well(vitstudy(command, "--help"))).lower()
    assert vitstudy("push", ".", "org/name", "--token", "x").code == 2


# ------------------------------------------------------------------------------------------------------- collections


def test_a_collection_is_made_once_and_added_to(either, pushed):
    title = f"org/ViTs and ResNets {next(numbers)}"
    out = well(either("collect", title, f"datasets/{pushed['vit']}", "--note", "measured"))
    slug = out.split(" in ")[1].strip()
    assert re.fullmatch(r"org/vits-and-resnets-\w+-[0-9a-f]{24}", slug)
    assert well(either("collect", slug, pushed["study"])) == f"1 in {slug}\n"


def test_what_a_collection_holds(vitstudy, server, checkpoint, name):
    well(vitstudy("push", checkpoint, name))
    server.create("dataset", name)
    title = f"Ours {name}"
    well(vitstudy("collect", f"org/{title}", f"models/{name}", name, "--note", "measured", "--private"))
    well(vitstudy("collect", f"org/{title}", name))
    (found,) = [each for each in server.collections.values() if each["title"] == title]
    assert [(item["type"], item["id"]) for item in found["items"]] == [("model", name), ("dataset", name)]
    assert [item["note"]["text"] for item in found["items"]] == ["measured"] * 2
    assert found["private"]
    ends(vitstudy("collect", f"org/{title}", "org/nothing-there"), "no such repository")


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_collection_without_a_title_is_refused_also_on_trial(more, vitstudy, server, name):
    for called in ("no title", "org/", "org--x/title"):
        ends(vitstudy("collect", called, name, *more), f"a Collection is called org/title, got '{called}'")
    assert server.requests == []


# --------------------------------------------------------------------------------------------- the seam in the study


def test_a_folder_at_hand_comes_before_the_hub(profiles, monkeypatch):
    monkeypatch.chdir(profiles.parent)
    near = Path(profiles.name) / "vit"
    assert hub.is_address(near)
    assert profile_folders(near) == [near]
    assert one_profile(near) == near
    assert local_folder(near) == near
    assert load_profile(one_profile(near)).name == "synthetic-vit"


def test_what_is_neither_here_nor_there():
    with pytest.raises(StudyError, match=r"no folder at \./org; expected one with profiles in it"):
        local_folder("./org")
    with pytest.raises(StudyError, match="no folder at org/none, and from the Hub: org/none is not in the cache"):
        local_folder("org/none")


def test_the_title_of_a_study_on_the_hub_is_its_name(profiles, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "fetch", lambda where, profiles: folder)
    folder = profiles
    assert make_study("org/digits", tmp_path, Settings((), draws=100))["title"] == "digits"

"""What befalls a measurement and a profile, row by row of docs/faults.md."""

import contextlib
import errno
import json
import os
import pickle
import resource
import shutil
import signal
import sys
import threading
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import save_checkpoint, small_vit
from forks import Job, die_everywhere
from synthetic import synthetic_profile

from hf_vitstudy import (
    StudyError,
    checkpoints,
    cli,
    disk,
    journal,
    load_checkpoint,
    load_images,
    load_profile,
    measure,
    resources,
)
from hf_vitstudy.analyses import per_block
from hf_vitstudy.disk import written_whole
from hf_vitstudy.journal import Journal
from hf_vitstudy.measuring import Run, _Prepared


QUICK = {"n": 40, "workers": 0, "progress": False, "batch_size": 8, "analyses": ["variance", "cka"]}


def vitstudy(*arguments: object) -> None:
    """The command line, in a process of its own."""
    sys.argv = ["vitstudy", *map(str, arguments)]
    cli.main()


def words(checkpoint: Path, images: Path, out: Path) -> list[str]:
    options = [
        "--images",
        images,
        "-n",
        40,
        "--batch-size",
        8,
        "--workers",
        0,
        "--analyses",
        "variance,cka",
        "--out",
        out,
    ]
    return [str(word) for word in ("measure", checkpoint, *options)]


def cut_short(words: list[str], limit: int) -> None:
    """No file may be longer than `limit` bytes, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    vitstudy(*words)


def one_line(log: Path) -> str:
    said = log.read_text()
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    return line


def interrupted(patch, *arguments, **options) -> None:
    """A measurement that ends after its last batch, before the profile is made."""

    def stop(self):
        raise KeyboardInterrupt

    with patch.context() as patched:
        patched.setattr(Run, "profile", stop)
        with pytest.raises(KeyboardInterrupt):
            measure(*arguments, **options)


# ------------------------------------------------------------------------------------------------- kills, two writers


def save_another(folder: Path) -> None:
    synthetic_profile("vit", n=12, block=8, seed=1).save(folder / "p")


def test_a_kill_at_any_touch_of_the_disk_leaves_a_whole_profile(forks, tmp_path):
    old, new = (synthetic_profile("vit", n=12, block=8, seed=seed) for seed in (0, 1))
    old.save(tmp_path / "profiles" / "p")
    assert forks.run(Job(die_everywhere, (save_another, tmp_path / "profiles"))) == [[0]]
    folders = sorted(tmp_path.glob("killed*/profiles"), key=lambda path: int(path.parent.name[6:]))
    assert len(folders) > 8
    found = [load_profile(folder / "p").data.identical(new.data) for folder in folders]
    assert found == sorted(found), "the old one up to the exchange, then the new one"
    assert set(found) == {False, True}
    for folder, replaced in zip(folders, found, strict=True):
        assert load_profile(folder / "p").data.identical((new if replaced else old).data)
        old.save(folder / "p")
        assert [path.name for path in folder.iterdir()] == ["p"], "what the kill left is gone"


def kill_between_renames(folder: Path) -> None:
    """On a disk that cannot exchange folders there is one instant without any."""
    disk.exchange = lambda first, second: False
    rename, seen = os.rename, []

    def renamed(source, target):
        seen.append(target)
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(source, target)

    os.rename = renamed
    save_another(folder)


def test_what_a_kill_moved_away_comes_back(forks, tmp_path):
    old = synthetic_profile("vit", n=12, block=8)
    old.save(tmp_path / "p")
    assert forks.run(Job(kill_between_renames, (tmp_path,))) == [[-signal.SIGKILL]]
    assert not (tmp_path / "p").exists()
    with pytest.raises(KeyboardInterrupt), written_whole(tmp_path / "p"):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
    assert load_profile(tmp_path / "p").data.identical(old.data)


def save_often(folder: Path, exchange: bool) -> None:
    """On a disk that can exchange two folders in one step, or cannot."""
    if not exchange:
        disk.exchange = lambda first, second: False
    own = synthetic_profile("vit", n=12, block=8, seed=int(os.environ["RANK"]))
    for _ in range(15):
        own.save(folder / "p")


@pytest.mark.parametrize("exchange", [True, False])
def test_processes_that_write_one_profile(exchange, forks, tmp_path):
    codes = forks.run(Job(save_often, (tmp_path, exchange), 3, tmp_path / "said"))
    assert codes == [[0, 0, 0]], (tmp_path / "said").read_text()
    written = [synthetic_profile("vit", n=12, block=8, seed=seed).data for seed in range(3)]
    assert sum(load_profile(tmp_path / "p").data.identical(data) for data in written) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p", "said"]


def test_a_profile_that_another_process_is_replacing_is_replaced(tmp_path, monkeypatch):
    """On a disk that needs two steps, the folder is gone for a moment, also just after it was there."""
    profile = synthetic_profile("vit", n=12, block=8)
    profile.save(tmp_path / "p")
    listed = os.listdir

    def moved(folder):
        if Path(folder) == tmp_path / "p":
            os.rename(folder, tmp_path / "moved")
        try:
            return listed(folder)
        finally:
            if (tmp_path / "moved").exists():
                os.rename(tmp_path / "moved", folder)

    monkeypatch.setattr(os, "listdir", moved)
    again = synthetic_profile("vit", n=12, block=8, seed=1)
    again.save(tmp_path / "p")
    monkeypatch.undo()
    assert load_profile(tmp_path / "p").data.identical(again.data)


def test_two_measurements_for_one_profile(forks, vit_folder, image_folder, tmp_path):
    out = tmp_path / "profile"
    with Journal(out, {}).held():
        codes = forks.run(Job(vitstudy, words(vit_folder, image_folder, out), log=tmp_path / "said"))
        assert codes == [[2]]
        assert f"process {os.getpid()} on " in one_line(tmp_path / "said")
        assert "is measuring into " in one_line(tmp_path / "said")
    assert list((tmp_path / ".profile.partial").iterdir()) == []


# ---------------------------------------------------------------------------------------------------- the journal


def test_an_interrupted_measurement_is_not_thrown_away(vit_folder, image_folder, tmp_path, monkeypatch):
    """Without --resume its batches are measured again, but stay until the profile is there."""
    options = QUICK | {"out": tmp_path / "p"}
    interrupted(monkeypatch, vit_folder, image_folder, **options)
    kept = sorted((tmp_path / ".p.partial").glob("*.safetensors"))
    assert len(kept) == 5
    told = "5 finished batches of this measurement, which was interrupted, are there and .* stop and add --resume"
    with pytest.warns(UserWarning, match=told):
        interrupted(monkeypatch, vit_folder, image_folder, **options)
    again = sorted((tmp_path / ".p.partial").glob("*.safetensors"))
    assert [path.name[:8] for path in again] == [path.name[:8] for path in kept], "one file for each batch"
    assert not {*again} & {*kept}, "which says how long it took this time"
    steps, step = [], Run.step
    monkeypatch.setattr(Run, "step", lambda self, *a, **o: (steps.append(1), step(self, *a, **o)))
    measure(vit_folder, image_folder, resume=True, **options)
    assert steps == []
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_batches_of_another_measurement_are_deleted_with_a_word(vit_folder, image_folder, tmp_path, monkeypatch):
    options = QUICK | {"out": tmp_path / "p"}
    interrupted(monkeypatch, vit_folder, image_folder, **options)
    with pytest.warns(UserWarning, match=r"5 finished batches of .* another \(batch_size was 8, is 10\) are deleted"):
        measure(vit_folder, image_folder, **options | {"batch_size": 10})
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


# ---------------------------------------------------------------------------------------------------------- the disk


def test_a_full_disk_keeps_the_batches_that_are_finished(forks, vit_folder, image_folder, tmp_path):
    """First it has no place for a batch, then for the profile; with more place the measurement goes on."""
    out, expected = tmp_path / "profile", measure(vit_folder, image_folder, **QUICK)
    run = words(vit_folder, image_folder, out)
    codes = forks.run(Job(cut_short, (run, 2400), log=tmp_path / "batch"))  # the identity is smaller, a batch is not
    assert codes == [[2]], (tmp_path / "batch").read_text()
    assert f"cannot write {tmp_path / '.profile.partial'}: File too large" in one_line(tmp_path / "batch")
    assert [path.name for path in (tmp_path / ".profile.partial").iterdir()] == ["identity.json"]

    codes = forks.run(
        Job(cut_short, (run, 2800), log=tmp_path / "profile.log")
    )  # a batch is smaller, all of them are not
    assert codes == [[2]], (tmp_path / "profile.log").read_text()
    assert f"cannot write {out}: File too large" in one_line(tmp_path / "profile.log")
    assert not out.exists()
    assert len(list((tmp_path / ".profile.partial").glob("*.safetensors"))) == 5
    found = measure(vit_folder, image_folder, out=out, resume=True, **QUICK)
    assert found.data.identical(expected.data)


def test_a_full_disk_under_the_cache_of_datasets(image_folder, monkeypatch):
    import datasets

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device", "/cache/datasets/x.arrow")

    monkeypatch.setattr(datasets.DatasetBuilder, "download_and_prepare", full)
    with pytest.raises(StudyError, match=r"cannot load images from .*\(OSError: .*No space left on device: '/cache/"):
        load_images(image_folder)


def test_a_profile_of_the_first_format_can_be_read():
    """One that was stored when format 1 was new; every later version must read it or say that it cannot."""
    found = load_profile(Path(__file__).parent / "profile_format_1")
    assert (found.name, found.n_images, found.views) == ("synthetic-vit", 8, ["flatten"])
    assert float(found["variance"][0, 0]) == pytest.approx(0.8936493, rel=1e-7)
    assert found.gram().shape == (17, 1, 8, 8)
    assert found["variance"].attrs["unit"] == "activation²"


# -------------------------------------------------------------------------------------------------------- the network


def test_a_network_whose_numbers_are_not_finite(image_folder, tmp_path):
    network = small_vit()
    with torch.no_grad():
        network.classifier.bias[3] = float("nan")
    folder = save_checkpoint(network, tmp_path / "broken")
    with pytest.raises(
        StudyError, match=r"the logits of broken on images 0 to 7 are not finite, so nothing else would"
    ):
        measure(folder, image_folder, out=tmp_path / "p", **QUICK)
    assert not (tmp_path / "p").exists()
    with torch.no_grad():
        network.vit.embeddings.cls_token.fill_(float("nan"))
    with pytest.raises(StudyError, match="broken"):
        measure(save_checkpoint(network, folder), image_folder, out=tmp_path / "p", **QUICK)


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "checkpoint.pth.tar", "model.safetensors"])
def test_weights_with_code_in_them_are_not_run(name, vit_folder, tmp_path):
    folder = tmp_path / "evil"
    shutil.copytree(vit_folder, folder)
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps({"weight": Evil(tmp_path / "ran")}))
    with pytest.raises(StudyError, match=r"pickled weights can run code|cannot load"):
        load_checkpoint(folder)
    assert not (tmp_path / "ran").exists()


HOSTILE = {
    "a thousand million layers": ({"num_hidden_layers": 10**9}, "asks for more than 500 modules; is its config.json"),
    "layers too wide": (
        {"hidden_size": 10**9, "num_attention_heads": 10},
        "asks for more than 10,000,000,000 parameters",
    ),
    "images too large": ({"image_size": 10**7}, "asks for more than 10,000,000,000 parameters"),
    "a path for a number": ({"num_hidden_layers": "../../etc/passwd"}, "cannot load .*num_hidden_layers"),
    "no patches": ({"patch_size": 0}, "cannot load"),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("fine_tuned", [False, True])
def test_a_hostile_configuration_fills_no_memory(case, fine_tuned, vit_folder, shapes, tmp_path, monkeypatch):
    from toy_recipes import settings

    from hf_vitstudy.training.model import build_model
    from hf_vitstudy.training.settings import Config, _typed

    monkeypatch.setattr(checkpoints, "MOST_MODULES", 500)
    folder, (changes, message) = tmp_path / "hostile", HOSTILE[case]
    shutil.copytree(vit_folder, folder)
    about = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(about))
    if fine_tuned:
        made = settings(shapes, tmp_path) | {"model": {"checkpoint": str(folder)}}
        made["data"].pop("image_size")
        config, message = _typed(made, Config, ""), message.replace("cannot load", "cannot build")
        with pytest.raises(StudyError, match=message):
            build_model(config, ["a", "b", "c"])
    else:
        with pytest.raises(StudyError, match=message):
            load_checkpoint(folder)


# --------------------------------------------------------------------------------------------------------- the images


def test_images_that_vanish_between_two_runs(vit_folder, image_folder, tmp_path, monkeypatch):
    images, options = tmp_path / "images", QUICK | {"out": tmp_path / "p"}
    shutil.copytree(image_folder, images)
    interrupted(monkeypatch, vit_folder, images, **options)
    sorted(images.rglob("*.png"))[5].unlink()
    with pytest.raises(StudyError, match=r"is of another measurement: images\.fingerprint was"):
        measure(vit_folder, images, resume=True, **options)
    assert len(list((tmp_path / ".p.partial").glob("*.safetensors"))) == 5


def test_images_that_vanish_during_a_run(vit_folder, image_folder, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(image_folder, images)
    found = load_images(images, n=None)
    gone = Path(found.rows[20]["image"]["path"])
    gone.unlink()
    told = rf"image {found.numbers[20]} of images \({gone.parent.name}/{gone.name}\): is not a readable image \(FileNotFound"
    with pytest.raises(StudyError, match=told):
        measure(load_checkpoint(vit_folder), found, out=tmp_path / "p", **QUICK)
    assert not (tmp_path / "p").exists()
    assert list((tmp_path / ".p.partial").glob("*.safetensors")), "the batches before it are kept"


def test_an_archive_writes_nothing_outside_its_folder(image_folder, tmp_path):
    """Unpacked by datasets into its cache; a name that leaves it is refused or stays inside."""
    folder = tmp_path / "outer" / "archive"
    folder.mkdir(parents=True)
    picture = next(image_folder.rglob("*.png")).read_bytes()
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for index in range(5):
            archive.writestr(f"cat/{index}.png", picture)
        archive.writestr("../../escaped.png", picture)
        archive.writestr(str(tmp_path / "absolute.png"), picture)
    before = sorted(path for path in tmp_path.rglob("*"))
    with contextlib.suppress(StudyError):  # the archive may be refused; what it must not is write
        load_images(folder, n=None)
    assert sorted(path for path in tmp_path.rglob("*")) == before


# -------------------------------------------------------------------------------------------------------- the machine


def test_a_full_gpu_says_what_to_change(vit_folder, image_folder, monkeypatch):
    def full(self, *arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Run, "step", full)
    with pytest.raises(StudyError, match=r"memory is full \(CUDA out .* 2.00 GiB\); lower --batch-size"):
        measure(vit_folder, image_folder, **QUICK)


@pytest.mark.parametrize(
    ("happens", "message"),
    [
        (lambda self, index: os.kill(os.getpid(), signal.SIGKILL), "decodes images was killed, .* use fewer workers"),
        (lambda self, index: threading.Event().wait(), "decodes images hangs .* use fewer workers, or 0"),
    ],
    ids=["killed", "hangs"],
)
def test_a_worker_that_is_lost(happens, message, vit_folder, image_folder, monkeypatch):
    monkeypatch.setattr(resources, "PATIENCE", 0.5)
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)  # how long it may take to end
    monkeypatch.setattr(_Prepared, "__getitem__", happens)
    with pytest.raises(StudyError, match=message):
        measure(vit_folder, image_folder, **QUICK | {"workers": 1})


def energy_of(factor: float):
    @per_block("energy", unit="activation²", source="eq. 1")
    def energy(state):
        return factor * state.tokens.square().mean((1, 2))

    return energy


def test_an_own_analysis_that_was_changed_does_not_go_on_with_its_old_batches(
    vit_folder, image_folder, tmp_path, monkeypatch
):
    options = QUICK | {"out": tmp_path / "p"}
    interrupted(monkeypatch, vit_folder, image_folder, **options | {"analyses": [energy_of(1.0)()]})
    with pytest.raises(StudyError, match="is of another measurement: analyses"):
        measure(vit_folder, image_folder, resume=True, **options | {"analyses": [energy_of(1000.0)()]})
    found = measure(vit_folder, image_folder, resume=True, **options | {"analyses": [energy_of(1.0)()]})
    assert "energy" in found.data


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"size": {"height": 0, "width": 0}}, "makes images of 0 px, expected 1 to 8192"),
        ({"size": {"height": 10**6, "width": 10**6}}, "makes images of 1000000 px, expected 1 to 8192"),
        ({"image_std": [0.0, 0.0, 0.0]}, r"divides by image_std \[0\.0, 0\.0, 0\.0\], expected positive numbers"),
        ({"image_mean": None}, "processor"),
        ({"size": None, "do_resize": True}, "processor"),
    ],
)
def test_a_processor_that_asks_for_the_impossible_is_told_of(settings, told, vit_folder, tmp_path):
    copy = shutil.copytree(vit_folder, tmp_path / "vit")
    path = copy / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    with pytest.raises(StudyError, match=told) as caught:
        load_checkpoint(copy)
    assert "\n" not in str(caught.value)


def test_what_only_looks_like_a_kept_batch_is_measured_again(vit_folder, image_folder, tmp_path, monkeypatch):
    options = QUICK | {"out": tmp_path / "p"}
    interrupted(monkeypatch, vit_folder, image_folder, **options)
    kept = tmp_path / ".p.partial"
    first = sorted(kept.glob("*.safetensors"))[0]
    first.unlink()
    junk = b"no safetensors"
    (kept / journal._name(0, junk)).write_bytes(junk)
    (kept / journal._name(1, b"x")).mkdir()
    with pytest.warns(UserWarning, match="is damaged; its batch is measured again"):
        found = measure(vit_folder, image_folder, resume=True, **options)
    assert found.n_images == 40


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[]", b"1"])
def test_an_identity_of_another_form_is_another_measurement(content, vit_folder, image_folder, tmp_path, monkeypatch):
    options = QUICK | {"out": tmp_path / "p"}
    interrupted(monkeypatch, vit_folder, image_folder, **options)
    (tmp_path / ".p.partial" / "identity.json").write_bytes(content)
    with pytest.raises(StudyError, match="is of another measurement: weights was null, is "):
        measure(vit_folder, image_folder, resume=True, **options)


@pytest.mark.parametrize(
    ("analyses", "told"),
    [
        ([], "no analysis was named, so there is nothing to measure"),
        (["landscape:images=0"], "landscape:images must be at least 1, got 0"),
        (["landscape:radius=1e300"], "landscape:radius must be above 0 and at most 1e"),
        (["projection:dim=100000000"], "projection:dim must be 1 to 16384, got 100000000"),
    ],
)
def test_analyses_that_ask_for_nothing_or_for_too_much_are_refused(analyses, told, vit_folder, image_folder):
    with pytest.raises(StudyError, match=told):
        measure(vit_folder, image_folder, **QUICK | {"analyses": analyses})


def test_a_seed_below_zero_is_refused(image_folder):
    with pytest.raises(StudyError, match="seed must be 0 or more, got -1"):
        load_images(image_folder, seed=-1)

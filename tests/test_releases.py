"""What a push sends and what it refuses to send; no Hub is asked."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file
from synthetic import synthetic_profile
from test_cards import SCRATCH

from hf_vitstudy.cards import model_card
from hf_vitstudy.errors import StudyError
from hf_vitstudy.hub import Release, check_manifests
from hf_vitstudy.releases import OVERLAP, PIECE, digest, opened


REPO = "org/name"
TOKEN = "hf_" + "a1B2" * 8


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "vit"}')
    save_file({"weight": np.arange(10.0)}, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def profile(tmp_path_factory) -> Path:
    return synthetic_profile("vit", n=32, block=16).save(tmp_path_factory.mktemp("profiles") / "vit")


def released(folder: Path, **options) -> tuple[Release, dict[str, bytes]]:
    """The release, and its files read while they are there."""
    with opened(folder, REPO, **options) as release:
        files = {
            name: content if isinstance(content, bytes) else content.read_bytes()
            for name, content in release.files.items()
        }
        assert release.sizes() == {name: len(content) for name, content in files.items()}
    return release, files


# ----------------------------------------------------------------------------------------------------------- what goes


def test_a_profile_goes_byte_for_byte_with_a_card_and_a_table(profile):
    release, files = released(profile)
    assert (release.kind, release.type, release.into) == ("profile", "dataset", "")
    assert {path.name: path.read_bytes() for path in profile.iterdir()}.items() <= files.items()
    assert {"README.md", "tables/measurements.parquet"} <= set(files)
    assert REPO in files["README.md"].decode()


def test_a_profile_beside_its_model_is_its_three_files(profile):
    release, files = released(profile, into_model=True)
    assert (release.type, release.into) == ("model", "vitstudy/vit")
    assert files == {f"vitstudy/vit/{path.name}": path.read_bytes() for path in profile.iterdir()}


def test_of_a_checkpoint_nothing_goes_that_could_run(checkpoint):
    for name in ("optimizer.bin", "state.PT", "scaler.pkl", "modeling.py", "masks.npz", ".env", "log.jsonl"):
        (checkpoint / name).write_bytes(b"1")
    (checkpoint / "resume").mkdir()
    (checkpoint / "resume" / "state.json").touch()
    release, files = released(checkpoint)
    assert (release.kind, release.type) == ("checkpoint", "model")
    assert set(files) == {"config.json", "model.safetensors", "log.jsonl", "manifest.json"}
    runs = "could run code when it is loaded"
    expected = dict.fromkeys(("optimizer.bin", "state.PT", "scaler.pkl", "modeling.py", "masks.npz"), runs)
    assert release.left_out == expected | {"resume/": "a folder"}


def test_the_manifest_is_that_of_the_files(checkpoint, tmp_path):
    _, files = released(checkpoint)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert check_manifests(tmp_path) == 1
    (tmp_path / "config.json").write_bytes(b"{}")
    with pytest.raises(StudyError, match=r"config\.json is damaged: its sha256 is not that of manifest\.json"):
        check_manifests(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(StudyError, match=r"config\.json is missing, and manifest\.json lists it"):
        check_manifests(tmp_path)


def test_the_card_that_training_wrote_names_the_repository(checkpoint):
    (checkpoint / "training.json").write_text(json.dumps(SCRATCH))
    (checkpoint / "README.md").write_text(model_card(SCRATCH), encoding="utf-8")
    _, files = released(checkpoint, license="apache-2.0")
    assert files["README.md"].decode() == model_card(SCRATCH, name=REPO, license="apache-2.0")
    assert f'from_pretrained("{REPO}")' in files["README.md"].decode()
    assert (checkpoint / "README.md").read_text(encoding="utf-8") == model_card(SCRATCH), "the folder stays as it was"


def test_a_card_changed_by_hand_stays(checkpoint):
    (checkpoint / "training.json").write_text(json.dumps(SCRATCH))
    (checkpoint / "README.md").write_text("# Mine", encoding="utf-8")
    _, files = released(checkpoint)
    assert files["README.md"] == b"# Mine"


def test_a_checkpoint_shows_a_profile(checkpoint, tmp_path):
    weights = digest(checkpoint / "model.safetensors")[0]
    (checkpoint / "training.json").write_text(json.dumps(SCRATCH | {"files": {"model.safetensors": weights}}))
    made = synthetic_profile("vit", n=32, block=16)
    made.provenance["checkpoint"]["files"] = {"model.safetensors": weights}
    folder = made.save(tmp_path / "profiles" / "digits")
    _, files = released(checkpoint, profiles=folder)
    for name in ("arrays.safetensors", "profile.json", "manifest.json"):
        assert files[f"vitstudy/digits/{name}"] == (folder / name).read_bytes()
    card = files["README.md"].decode()
    assert "What is inside it" in card
    listed = json.loads(files["manifest.json"])["files"]
    assert set(listed) == set(files) - {"manifest.json"}
    assert not (checkpoint / "vitstudy").exists()
    assert yaml.safe_load(card.split("---")[1])["pipeline_tag"] == "image-classification"


# ------------------------------------------------------------------------------------------------------- what does not


def nothing(folder: Path, match: str, **options) -> None:
    with pytest.raises(StudyError, match=match), opened(folder, REPO, **options):
        pytest.fail("it was opened")


def test_what_is_nothing_to_push(tmp_path, profile, checkpoint):
    nothing(tmp_path / "none", "no folder at .*none; push sends a checkpoint, a profile or a study")
    (tmp_path / "empty").mkdir()
    nothing(tmp_path / "empty", "is no checkpoint .*, no profile .* and no result of a study .*json.$")
    nothing(profile.parent, r"no result of a study \(results.json\); judge its profiles first: vitstudy study")
    nothing(checkpoint, "is a checkpoint; only a profile goes into a model's own repository", into_model=True)
    nothing(profile, "--profiles is of a study or a checkpoint; the folder given is a profile", profiles=profile)
    nothing(checkpoint, "has no training.json to write a card from; push the profile alone", profiles=profile)


def test_a_study_needs_its_profiles(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    nothing(tmp_path, "no profile below .*; name the folder of the study's profiles with --profiles")


@pytest.mark.parametrize(
    ("name", "told"), [("pytorch_model.bin", "only pytorch_model.bin"), (None, "as safetensors; write")]
)
def test_weights_go_as_safetensors_only(name, told, checkpoint):
    (checkpoint / "model.safetensors").unlink()
    if name:
        (checkpoint / name).write_bytes(b"\x80\x04")
    nothing(checkpoint, f"has no weights as safetensors.*{told}|{told}.* with save_pretrained")


def test_a_damaged_profile_stays_here(profile, tmp_path):
    copy = shutil.copytree(profile, tmp_path / "copy")
    content = bytearray((copy / "arrays.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "arrays.safetensors").write_bytes(content)
    nothing(copy, r"arrays\.safetensors is damaged", into_model=True)
    nothing(copy, r"arrays\.safetensors is damaged")


def test_a_damaged_record_or_manifest_stops_the_push(checkpoint):
    (checkpoint / "training.json").write_text("{")
    (checkpoint / "README.md").write_text("# Mine")
    nothing(checkpoint, r"training\.json is not JSON .*; put it right or remove it")
    (checkpoint / "training.json").unlink()
    listed = {"config.json": {"sha256": "0" * 64, "size": 1}}
    (checkpoint / "manifest.json").write_text(json.dumps({"format": 1, "files": listed}))
    nothing(checkpoint, r"config\.json is damaged: its sha256 is not that of manifest\.json")


def test_a_link_stops_the_push(checkpoint, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (checkpoint / "extra.json").symlink_to(tmp_path / "secret")
    nothing(checkpoint, r"extra\.json is a link, which could lead out of the folder; put a copy in its place")


def test_a_linked_folder_stops_the_push(checkpoint, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (checkpoint / "vitstudy").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    nothing(checkpoint, "vitstudy is a link, which could lead out of the folder")


@pytest.mark.parametrize("place", [0, 100, PIECE - 10, PIECE - 1, PIECE, 2 * PIECE - OVERLAP])
def test_a_token_stops_the_push_wherever_it_is(place, checkpoint):
    content = bytearray(b" " * (2 * PIECE + 10))
    content[place : place + len(TOKEN)] = TOKEN.encode()
    (checkpoint / "log.jsonl").write_bytes(content)
    with pytest.raises(StudyError, match=r"log\.jsonl holds what looks like a token of the Hub, so nothing") as caught:
        released(checkpoint)
    assert TOKEN not in str(caught.value)


def test_a_token_in_the_header_of_weights_stops_the_push(checkpoint):
    save_file({"weight": np.arange(10.0)}, checkpoint / "model.safetensors", metadata={"by": TOKEN})
    nothing(checkpoint, r"model\.safetensors holds what looks like a token")


HOME = Path("/home/somebody")


@pytest.mark.parametrize("text", ['{"path": "/home/somebody/data"}', "at /home/somebody/x", "/home/somebody/"])
def test_the_path_of_the_home_folder_stops_the_push(text, checkpoint, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: HOME)
    (checkpoint / "log.jsonl").write_text(text)
    nothing(checkpoint, r"log\.jsonl holds the path of your home folder, so nothing was sent; remove it there")


@pytest.mark.parametrize(
    "text", ["https://site.org/home/somebody/x", "/home/somebodyelse/x", "hf_short", "home/somebody"]
)
def test_what_only_looks_like_a_secret_passes(text, checkpoint, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: HOME)
    (checkpoint / "log.jsonl").write_text(text)
    _, files = released(checkpoint)
    assert "log.jsonl" in files


@pytest.mark.parametrize("name", ["aux.json", "what?.json", "back\\slash.json"])
def test_a_name_that_other_systems_cannot_hold_stops_the_push(name, checkpoint):
    (checkpoint / name).write_text("1")
    nothing(checkpoint, "refused a file called ")

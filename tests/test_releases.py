"""What a push sends and what it refuses to send; no Hub is asked."""

import io
import json
import lzma
import platform
import re
import shutil
import socket
import zipfile
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from safetensors.numpy import save_file
from synthetic import synthetic_profile
from test_cards import SCRATCH as RECORDED

from hf_vitstudy.cards import model_card
from hf_vitstudy.claims import choose_claims
from hf_vitstudy.errors import StudyError
from hf_vitstudy.hub import Release, check_manifests
from hf_vitstudy.leaks import OVERLAP, PIECE
from hf_vitstudy.releases import digest, opened, opened_space
from hf_vitstudy.study import Settings, make_study


REPO = "org/name"
SCRATCH = RECORDED | {"files": {}}  # every test makes its own weights
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


def released(folder: Path, repo: str = REPO, **options) -> tuple[Release, dict[str, bytes]]:
    """The release, and its files read while they are there."""
    with opened(folder, repo, **options) as release:
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


UNKNOWN = ("best.torch", "optim.p", "x.dill", "z.pk", "data.pt2", "w.keras", "y.pyc", "scheduler", "run.sh", "a.zip")


def test_of_a_checkpoint_nothing_goes_that_could_run(checkpoint):
    for name in (
        "optimizer.bin",
        "state.PT",
        "scaler.pkl",
        "modeling.py",
        "masks.npz",
        ".env",
        "log.jsonl",
        "LICENSE",
    ):
        (checkpoint / name).write_bytes(b"1")
    for name in UNKNOWN:
        (checkpoint / name).write_bytes(b"\x80\x04N.")
    (checkpoint / "resume").mkdir()
    (checkpoint / "resume" / "state.json").touch()
    release, files = released(checkpoint)
    assert (release.kind, release.type) == ("checkpoint", "model")
    assert set(files) == {"config.json", "model.safetensors", "log.jsonl", "LICENSE", "manifest.json"}
    runs = "could run code when it is loaded"
    expected = dict.fromkeys(("optimizer.bin", "state.PT", "scaler.pkl", "modeling.py", "masks.npz"), runs)
    unknown = "of a kind that could be anything; weights, texts, tables and pictures are sent"
    assert release.left_out == expected | dict.fromkeys(UNKNOWN, unknown) | {"resume/": "a folder"}


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


JUDGED = ("P-F1", "P-F2-mlp", "R-1")


@pytest.fixture
def own(checkpoint, tmp_path) -> Path:
    """The checkpoint's own profile, beside that of another network."""
    weights = digest(checkpoint / "model.safetensors")[0]
    (checkpoint / "training.json").write_text(json.dumps(SCRATCH | {"files": {"model.safetensors": weights}}))
    made = synthetic_profile("vit", n=32, block=16)
    made.provenance["checkpoint"]["files"] = {"model.safetensors": weights}
    synthetic_profile("resnet", n=32, block=16).save(tmp_path / "profiles" / "resnet")
    return made.save(tmp_path / "profiles" / "digits")


@pytest.fixture
def judged(own, tmp_path) -> dict:
    """The stored result of both."""
    settings = Settings(tuple(choose_claims(JUDGED)), draws=100, permutations=2)
    return make_study(own.parent, tmp_path / "study", settings)


def claims_of(card: str) -> dict[str, list[str]]:
    """id -> the cells of the table of claims, as a reader sees them."""
    rows = [re.split(r"(?<!\\\\)\|", line)[1:-1] for line in card.splitlines() if re.match(r"\| [A-Z]-\w+", line)]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


@pytest.mark.parametrize("stored", [True, False])
def test_the_card_shows_the_claims_as_they_were_judged(stored, checkpoint, own, judged, tmp_path, monkeypatch):
    """Verdict, effect and n of every claim that was judged on this network; of a stored result, or judged now."""
    if not stored:
        monkeypatch.setattr("hf_vitstudy.releases.make_study", lambda place, out: make_study(place, out, settings))
        settings = Settings(tuple(choose_claims(JUDGED)), draws=100, permutations=2)
    about = {"study": tmp_path / "study"} if stored else {}
    _, files = released(checkpoint, profiles=own.parent, **about)
    assert "vitstudy/digits/profile.json" in files
    assert "vitstudy/figures/cka.png" in files
    assert files["vitstudy/figures/cka.png"].startswith(b"\x89PNG")
    card = files["README.md"].decode()
    assert "](vitstudy/figures/cka.png)" in card
    number = next(n for n, each in enumerate(judged["checkpoints"]) if each["key"] == "digits")
    expected = {each["claim"]: each for each in judged["judgements"] if number in each["checkpoints"]}
    found = claims_of(card)
    assert set(found) == set(expected) == set(JUDGED)
    for claim, (_, verdict, effect, _, n, _) in found.items():
        estimate = expected[claim]["estimate"]
        value, low, high = map(float, re.fullmatch(r"(\S+) \((\S+) to (\S+)\)", effect.replace("−", "-")).groups())
        for shown, end in ((value, "value"), (low, "low"), (high, "high")):
            assert shown == pytest.approx(estimate[end], rel=0.01, abs=0.001)
        assert (verdict, n) == (f"1 {expected[claim]['verdict']}", str(estimate["n"]))


def test_the_text_of_a_study_is_escaped_on_the_card(checkpoint, own, judged, tmp_path):
    evil = "</table><script>alert(1)</script> | [x](javascript:1) `"
    result = judged | {"title": evil, "claims": [each | {"text": evil} for each in judged["claims"]]}
    (tmp_path / "study" / "results.json").write_text(json.dumps(result))
    _, files = released(checkpoint, profiles=own, study=tmp_path / "study" / "results.json")
    card = files["README.md"].decode()
    assert "<script>" not in card
    assert "[x](javascript" not in card
    assert {len(cells) for cells in claims_of(card).values()} == {6}, "no text made another cell"


def test_profiles_of_which_none_or_two_are_of_the_weights(checkpoint, own, tmp_path):
    shutil.copytree(own, own.parent / "again")
    nothing(checkpoint, "2 profiles below .* are of these weights: .*again, .*digits; name one", profiles=own.parent)
    for name in ("again", "digits"):
        shutil.rmtree(own.parent / name)
    synthetic_profile("vit", n=32, block=16).save(own.parent / "other")
    nothing(checkpoint, "no profile below .* is of the weights in .*; measure that folder first", profiles=own.parent)
    study = tmp_path / "study"
    nothing(checkpoint, "--study is for the card of a checkpoint that is pushed with --profiles", study=study)
    nothing(own.parent / "other", "--study is for the card of a checkpoint", study=study)


@pytest.mark.parametrize(
    ("address", "fetched", "inside", "called"),
    [
        ("org/digits-profile@v1", "", "", "digits-profile"),
        ("org/a-study/profiles/vit", "profiles/vit", "", "vit"),
        ("datasets/org/a-study", "", "profiles/vit", "vit"),
    ],
)
def test_a_profile_on_the_hub_is_called_as_there(
    address, fetched, inside, called, checkpoint, own, tmp_path, monkeypatch
):
    """Its folder in the cache is called by a commit; a title that study.json tells stays."""
    settings = Settings(tuple(choose_claims(JUDGED)), draws=100, permutations=2)
    monkeypatch.setattr("hf_vitstudy.releases.make_study", lambda place, out: make_study(place, out, settings))
    scope = tmp_path / "snapshots" / ("804e62" + "0" * 34) / fetched
    shutil.copytree(own, scope / inside)
    monkeypatch.setattr("hf_vitstudy.hub.fetch", lambda where, profiles: scope)
    _, files = released(checkpoint, profiles=Path(address))
    assert {name.split("/")[1] for name in files if name.startswith("vitstudy/")} == {called, "figures"}
    card = files["README.md"].decode()
    assert f"of a study ({address})" in card
    assert "804e62" not in card
    (scope / "study.json").write_text('{"title": "Told"}')
    assert "of a study (Told)" in released(checkpoint, profiles=Path(address))[1]["README.md"].decode()


def pulled(files: dict[str, bytes], folder: Path) -> Path:
    """The folder that a pull makes of a release."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_a_card_that_a_push_wrote_is_written_anew_by_the_next(checkpoint, own, tmp_path, monkeypatch):
    """Elsewhere it names that place, it gets the figures of --profiles, and it keeps the licence."""
    monkeypatch.setattr("hf_vitstudy.releases.make_study", lambda place, out: None)
    back = pulled(released(checkpoint, license="mit")[1], tmp_path / "back")
    assert released(back)[1]["README.md"] == (back / "README.md").read_bytes(), "the same place, the same card"
    windows = (back / "README.md").read_bytes().replace(b"\n", b"\r\n")
    for content in ((back / "README.md").read_bytes(), windows):
        (back / "README.md").write_bytes(content)
        (back / "manifest.json").unlink(missing_ok=True)
        release, files = released(back, "org/elsewhere", profiles=own)
        card = files["README.md"].decode()
        assert REPO not in card
        assert 'from_pretrained("org/elsewhere")' in card
        assert "What is inside it" in card
        assert ModelCard(card).data.license == "mit"
        assert release.left_out == {}
    assert ModelCard(released(back, license="cc0-1.0")[1]["README.md"].decode()).data.license == "cc0-1.0"


def test_a_card_with_figures_is_written_anew_only_with_their_profile(checkpoint, own, tmp_path, monkeypatch):
    """What was judged is known to the first push alone; so the card stays, and what is then old in it is said."""
    monkeypatch.setattr("hf_vitstudy.releases.make_study", lambda place, out: None)
    back = pulled(released(checkpoint, profiles=own)[1], tmp_path / "back")
    release, files = released(back)
    assert (release.left_out, files["README.md"]) == ({}, (back / "README.md").read_bytes())
    release, files = released(back, "org/elsewhere")
    assert files["README.md"] == (back / "README.md").read_bytes()
    why = "it shows a profile; name that with --profiles to have it written anew"
    assert release.left_out == {"the name org/elsewhere on README.md": why}
    assert b"org/elsewhere" in released(back, "org/elsewhere", profiles=own)[1]["README.md"]


@pytest.mark.parametrize("at", [0, 200, -100, -90, -1])
def test_one_sign_makes_a_card_one_s_own(at, checkpoint, own, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_vitstudy.releases.make_study", lambda place, out: None)
    back = pulled(released(checkpoint)[1], tmp_path / "back")
    (back / "manifest.json").unlink()
    text = (back / "README.md").read_text(encoding="utf-8")
    changed = f"{text[:at]}x{text[at:]}"
    (back / "README.md").write_text(changed, encoding="utf-8")
    release, files = released(back, "org/elsewhere", profiles=own)
    assert files["README.md"].decode() == changed
    assert "vitstudy/digits/profile.json" in files
    why = "the card is your own and stays as it is; without it the push writes one"
    assert release.left_out == {"figures and claims on README.md": why}


def test_a_card_of_training_from_before_cards_were_marked_is_written_anew(checkpoint):
    (checkpoint / "training.json").write_text(json.dumps(SCRATCH))
    card = model_card(SCRATCH).rpartition("\n<!-- vitstudy card sha256:")[0]
    (checkpoint / "README.md").write_text(card, encoding="utf-8")
    assert REPO in released(checkpoint)[1]["README.md"].decode()


def test_a_record_of_other_weights_stops_the_push(checkpoint):
    weights = {"model.safetensors": digest(checkpoint / "model.safetensors")[0]}
    (checkpoint / "training.json").write_text(json.dumps(SCRATCH | {"files": weights}))
    assert "README.md" in released(checkpoint)[1]
    save_file({"weight": np.arange(11.0)}, checkpoint / "model.safetensors")
    nothing(
        checkpoint,
        r"training\.json is of other weights: model\.safetensors has another sha256 .*; remove training\.json",
    )


@pytest.mark.parametrize("content", [b"---\n: :\n---\n# Mine", b""])
def test_a_card_that_cannot_be_read_is_one_s_own(content, checkpoint):
    (checkpoint / "training.json").write_text(json.dumps(SCRATCH))
    (checkpoint / "README.md").write_bytes(content)
    assert released(checkpoint)[1]["README.md"] == content


def profile_with(folder: Path, **about) -> Path:
    """A profile of a network about which this is told."""
    made = synthetic_profile("vit", n=32, block=16)
    made.provenance["checkpoint"] |= about
    return made.save(folder)


def test_one_profile_of_other_weights_is_refused_whatever_the_record_tells(checkpoint, tmp_path):
    """The weights that go decide, not the record: it may lack their hashes, or be older than they are."""
    weights, other = digest(checkpoint / "model.safetensors")[0], "0" * 64
    records = {"none": {}, "stale": {"files": {"model.safetensors": other}}}
    theirs = {
        "other": {"model.safetensors": other},
        "elsewhere": {"weights.safetensors": weights},
    }
    for number, (record, files) in enumerate((r, f) for r in records.values() for f in theirs.values()):
        told = {key: value for key, value in SCRATCH.items() if key != "files"} | record
        (checkpoint / "training.json").write_text(json.dumps(told))
        place = profile_with(tmp_path / "profiles" / str(number), files=files)
        nothing(checkpoint, "no profile below .* is of the weights in .*; measure that folder first", profiles=place)


def test_every_file_of_the_weights_is_that_of_the_profile(checkpoint, own):
    """A network in two files, of which the profile and the record know one."""
    save_file({"more": np.arange(10.0)}, checkpoint / "more.safetensors")
    nothing(checkpoint, "no profile below .* is of the weights in .*; measure that folder first", profiles=own)


@pytest.mark.parametrize("revision", [None, "a" * 40])
def test_a_profile_that_tells_no_files_is_shown(revision, checkpoint, own, tmp_path, monkeypatch):
    """Of a checkpoint on the Hub, which was measured at a revision."""
    monkeypatch.setattr("hf_vitstudy.releases.make_study", lambda place, out: None)
    place = profile_with(tmp_path / "from-the-hub", revision=revision, files={}, parameters=SCRATCH["parameters"])
    assert "What is inside it" in released(checkpoint, profiles=place)[1]["README.md"].decode()


def test_a_checkpoint_shows_a_profile(checkpoint, own, monkeypatch):
    monkeypatch.setattr("hf_vitstudy.releases.make_study", lambda place, out: None)
    folder = own
    _, files = released(checkpoint, profiles=folder)
    for name in ("arrays.safetensors", "profile.json", "manifest.json"):
        assert files[f"vitstudy/digits/{name}"] == (folder / name).read_bytes()
    card = files["README.md"].decode()
    assert "What is inside it" in card
    listed = json.loads(files["manifest.json"])["files"]
    assert set(listed) == set(files) - {"manifest.json"}
    assert not (checkpoint / "vitstudy").exists()
    assert yaml.safe_load(card.split("---")[1])["pipeline_tag"] == "image-classification"


def test_a_license_that_no_card_could_tell_is_refused(checkpoint, profile, own, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_vitstudy.releases.make_study", lambda place, out: None)
    back = pulled(released(checkpoint, profiles=own)[1], tmp_path / "back")
    nothing(back, "README.md shows a profile, and is written anew only with --profiles; give it too", license="mit")
    (checkpoint / "README.md").write_text("# Mine")
    write = "write 'license: mit' into the metadata of README.md, and leave out --license"
    theirs = f"README.md is your own card and stays as it is; {write}"
    nothing(checkpoint, theirs, license="mit")
    nothing(checkpoint, theirs, license="mit", profiles=own)
    (checkpoint / "training.json").unlink()
    nothing(checkpoint, theirs, license="mit")
    (checkpoint / "README.md").unlink()
    nothing(checkpoint, f"has no training.json to write a card from; {write}", license="mit")
    nothing(profile, "--license is for a card, and with --into-model none is written", license="mit", into_model=True)


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


RECORDS = {  # training.json of another tool -> what is said of it
    "[]": "it must be an object, got []",
    "null": "it must be an object, got null",
    '{"metrics": 3}': "metrics must be an object or null, got 3",
    '{"metrics": {"test": 3}}': "metrics.test must be an object, got 3",
    '{"metrics": {"test": {"n": "x", "accuracy": 0.5}}}': 'metrics.test.n must be a number or null, got "x"',
    '{"metrics": {"n": "x", "accuracy": 0.5}}': 'metrics.n must be a number or null, got "x"',
    '{"classes": 5}': "classes must be a list or null, got 5",
    '{"config": "x"}': 'config must be an object or null, got "x"',
    '{"config": {"model": "x"}}': 'config.model must be an object or null, got "x"',
    '{"data": {"test": "x"}}': 'data.test must be an object or null, got "x"',
    '{"data": {"test": {"n": "x"}}}': 'data.test.n must be a whole number or null, got "x"',
    '{"versions": 1}': "versions must be an object or null, got 1",
    '{"device": null}': "device must be a text, got null",
    '{"steps": "x"}': 'steps must be a whole number or null, got "x"',
    '{"data": {"train": {"name": "\\ud800"}}}': r'data.train.name must be a text or null, got "\ud800"',
}


@pytest.mark.parametrize("with_card", [True, False])
@pytest.mark.parametrize("record", RECORDS)
def test_the_record_of_another_tool_stops_the_push_in_one_line(record, with_card, checkpoint):
    (checkpoint / "training.json").write_text(record)
    if with_card:
        (checkpoint / "README.md").write_text("# Mine")
    path, told = re.escape(str(checkpoint / "training.json")), re.escape(RECORDS[record])
    nothing(checkpoint, f"^{path}: {told}; put it right or remove it$")


def test_a_card_that_is_not_utf_8_stops_the_push(checkpoint):
    (checkpoint / "training.json").write_text(json.dumps(SCRATCH))
    (checkpoint / "README.md").write_bytes("# Für".encode("latin-1"))
    nothing(checkpoint, r"README\.md is not UTF-8 \(.*\); save it as UTF-8, or remove it")


BROKEN = (TypeError("x"), ValueError("x"), KeyError("x"), AttributeError("x"), IndexError("x"))


@pytest.mark.parametrize("error", BROKEN, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("what", ["checkpoint", "profile", "study"])
def test_what_no_check_foresaw_ends_in_one_line_that_names_the_folder(
    what, error, checkpoint, own, judged, tmp_path, monkeypatch
):
    def breaks(*_, **__):
        raise error

    for name in ("add_to_model", "release_profile", "release_folder"):
        monkeypatch.setattr(f"hf_vitstudy.releases.{name}", breaks)
    folder, options = {
        "checkpoint": (checkpoint, {}),
        "profile": (own, {}),
        "study": (tmp_path / "study", {"profiles": own.parent}),
    }[what]
    told = f"cannot make a release of {folder} ({type(error).__name__}: 'x'); "
    nothing(folder, "^" + re.escape(told).replace("'x'", "'?x'?") + "one of its files is not", **options)


def test_what_goes_wrong_while_a_release_is_open_is_not_blamed_on_the_folder(profile):
    with pytest.raises(KeyError), opened(profile, REPO):
        raise KeyError("x")


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


PATHS = [
    '{"path": "/home/somebody/data"}',
    "at /home/somebody/x",
    "/home/somebody/",
    '"HOME": "/home/somebody"',
    "file:///home/somebody/x",
    '"-I/home/somebody/include"',
    "PATH=/bin:/home/somebody",
]


@pytest.mark.parametrize("name", ["log.jsonl", "train.log", "NOTES.TXT", "README.md"])
@pytest.mark.parametrize("text", PATHS)
def test_the_path_of_the_home_folder_stops_the_push(text, name, checkpoint, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: HOME)
    (checkpoint / name).write_text(text)
    nothing(checkpoint, rf"{re.escape(name)} holds the path of your home folder, so nothing was sent; remove it there")


def test_the_home_of_another_system_is_found_as_json_writes_it(checkpoint, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: PureWindowsPath(r"C:\Users\Some Body"))
    for text in (json.dumps({"path": r"C:\Users\Some Body\data"}), r"at C:\Users\Some Body", "C:/Users/Some Body/x"):
        (checkpoint / "log.jsonl").write_text(text)
        nothing(checkpoint, r"log\.jsonl holds the path of your home folder")


def test_a_path_in_the_header_of_weights_or_in_a_name_stops_the_push(checkpoint, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: HOME)
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu-node-17")
    (checkpoint / "events.gpu-node-17.json").write_text("{}")
    nothing(
        checkpoint, r"the name 'events\.gpu-node-17\.json' holds the name of this machine, so nothing was sent; rename"
    )
    (checkpoint / "events.gpu-node-17.json").unlink()
    save_file({"weight": np.arange(10.0)}, checkpoint / "model.safetensors", metadata={"from": "/home/somebody/x"})
    nothing(checkpoint, r"model\.safetensors holds the path of your home folder")


def test_a_token_of_one_s_own_is_found_whatever_it_looks_like(checkpoint, monkeypatch):
    (checkpoint / "log.jsonl").write_text("mirror-secret-1")
    assert "log.jsonl" in released(checkpoint)[1]
    monkeypatch.setenv("HF_TOKEN", "mirror-secret-1")
    nothing(checkpoint, r"log\.jsonl holds your token of the Hub, so nothing was sent")
    (checkpoint / "log.jsonl").write_text("hf_oauth_" + "a1B2" * 8)
    nothing(checkpoint, r"log\.jsonl holds what looks like a token of the Hub")


@pytest.mark.parametrize(
    "text",
    ["https://site.org/home/somebody/x", "/home/somebodyelse/x", "hf_short", "home/somebody", "/data/home/somebody"],
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


def test_a_profile_that_no_address_could_name_stops_the_push(checkpoint, own, judged, tmp_path):
    """What follows an @ is a revision: org/name/vitstudy/100% @home would be a branch called home."""
    shutil.copytree(own.parent, tmp_path / "named")
    (tmp_path / "named" / "digits").rename(tmp_path / "named" / "100% @home")
    told = (
        "no address could name the profile in {}, since what follows an @ is a revision; give its folder another name"
    )
    _, files = released(tmp_path / "study", profiles=tmp_path / "named")
    assert "profiles/digits/profile.json" in files, "of a study it is called as the study calls it"
    at = tmp_path / "named" / "100% @home"
    nothing(checkpoint, told.format("vitstudy/100% @home"), profiles=at)
    nothing(at, told.format("vitstudy/100% @home"), into_model=True)
    _, files = released(at)
    assert "profile.json" in files, "alone in its repository it needs no name"
    (checkpoint / "a@b.json").write_text("{}")
    assert "a@b.json" in released(checkpoint)[1], "nor does a file that is no profile"


HOSTS = {
    "gpu-node-17": ["trained on gpu-node-17", '{"host": "GPU-NODE-17"}', "gpu-node-17.cluster.example.org"],
    "titan.example.org": ["somebody@titan.example.org", "at TITAN.example.org:22"],
    "apollo": ["root@apollo:~", '"hostname": "apollo"', "HOST=apollo"],
    "3f9c0a1b2d4e": ["ran in 3f9c0a1b2d4e"],
}
NO_HOSTS = {
    "gpu-node-17": ["gpu-node-170", "a-gpu-node-17", "gpu"],
    "apollo": ["the apollo programme", "apollo13@site.org", "org/apollo"],
    "resnet": ["resnet", '{"model_type": "resnet"}', "resnet-50"],
    "3f9c0a1b2d4e": ["a03f9c0a1b2d4ef7"],
    "box1": ["box1", "@box1"],
    "localhost.localdomain": ["http://localhost:8000", "localhost"],
}


def written(checkpoint: Path, host: str, text: str, monkeypatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    monkeypatch.setattr(platform, "node", lambda: host)
    (checkpoint / "log.jsonl").write_text(text)


@pytest.mark.parametrize(("host", "text"), [(host, text) for host, texts in HOSTS.items() for text in texts])
def test_the_name_of_the_machine_stops_the_push(host, text, checkpoint, monkeypatch):
    written(checkpoint, host, text, monkeypatch)
    with pytest.raises(StudyError, match=r"log\.jsonl holds the name of this machine, so nothing was sent") as caught:
        released(checkpoint)
    assert host not in str(caught.value)


@pytest.mark.parametrize(("host", "text"), [(host, text) for host, texts in NO_HOSTS.items() for text in texts])
def test_what_only_looks_like_the_machine_passes(host, text, checkpoint, monkeypatch):
    written(checkpoint, host, text, monkeypatch)
    assert "log.jsonl" in released(checkpoint)[1]


# -------------------------------------------------------------------------------------------------------- of a Space


def space_of(**files: bytes) -> dict[str, bytes]:
    def write(folder: Path) -> None:
        assert folder.name == "name", "evaluate finds a module by the name of its folder"
        for name, content in files.items():
            path = folder / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    with opened_space(REPO, write, sdk="gradio", instead="pay") as release:
        assert (release.kind, release.type, release.sdk, release.instead) == ("Space", "space", "gradio", "pay")
        return {name: content.read_bytes() for name, content in release.files.items() if isinstance(content, Path)}


def test_a_space_holds_programs_but_nothing_that_is_unpickled():
    sent = space_of(
        **{"app.py": b"1", "package__code.py": b"2", "data__x.pkl": b"3", ".env": b"4", "index.html": b"5"}
    )
    assert sent == {"app.py": b"1", "package/code.py": b"2", "index.html": b"5"}


def packed(text: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner/log.json", text)
    return file.getvalue()


def test_a_secret_inside_an_archive_or_a_program_stops_the_push(monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: HOME)
    assert TOKEN.encode() not in packed(TOKEN * 5), "compressed, it is not seen from outside"
    with pytest.raises(StudyError, match=r"data\.zip/inner/log\.json holds what looks like a token of the Hub"):
        space_of(**{"data.zip": packed(TOKEN * 5)})
    with pytest.raises(StudyError, match=r"data\.zip/inner/log\.json holds the path of your home folder"):
        space_of(**{"data.zip": packed("/home/somebody/x")})
    with pytest.raises(StudyError, match=r"app\.py holds the path of your home folder"):
        space_of(**{"app.py": b"open('/home/somebody/x')"})
    assert space_of(**{"data.zip": packed("{}")})
    for text, told in ((TOKEN, "what looks like a token"), ("at /home/somebody/x", "the path of your home folder")):
        with pytest.raises(StudyError, match=rf"data/study\.json holds {told}"):
            space_of(**{"data__study.json.xz": lzma.compress(text.encode())})
    assert space_of(**{"data__study.json.xz": lzma.compress(b"{}")})
    for name in ("data.zip", "study.json.xz"):
        with pytest.raises(StudyError, match=rf"{name} cannot be looked into .*, so nothing was sent; remove it"):
            space_of(**{name: b"no archive"})

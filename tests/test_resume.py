"""Measurements that are killed, spread over processes, or fed by a file of one's own: always the same profile."""

import itertools
import json
import os
import re
import shutil
import signal
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import save_checkpoint, small_vit
from forks import Job

from hf_vitstudy import StudyError, cli, journal, load_profile, measure, measuring
from hf_vitstudy.analyses import ANALYSES, Analysis, choose_analyses, factory_of, make_analysis
from hf_vitstudy.journal import Journal, Kept
from hf_vitstudy.measuring import _description


QUICK = {"n": 40, "workers": 0, "progress": False, "batch_size": 8}
SOME = ["cka", "variance", "attention_distance", "predictions", "receptive_field:images=12", "probes:shots=2"]


def command(checkpoint: Path, images: Path, out: Path, *more: str) -> list[str]:
    options = ["--images", str(images), "-n", "40", "--batch-size", "8", "--workers", "0", "--out", str(out)]
    return ["measure", str(checkpoint), *options, "--analyses", ",".join(SOME), *more]


def vitstudy(arguments: list[str]) -> None:
    """The command line, in a process of its own."""
    sys.argv = ["vitstudy", *arguments]
    cli.main()


def contents(folder: Path) -> tuple[bytes, dict]:
    """The bytes of all numbers, and what is said of them but for the time."""
    description = json.loads((folder / "profile.json").read_text(encoding="utf-8"))
    description["provenance"].pop("created")
    assert description["provenance"]["measurement"].pop("seconds") > 0
    return (folder / "arrays.safetensors").read_bytes(), description


def killed_vitstudy(arguments: list[str], at: int, inside: bool) -> None:
    """Killed after the `at`-th batch is written, or inside of that."""
    original, count = journal._write, [0]

    def write(path: Path, content: bytes) -> None:
        count[0] += path.suffix == ".safetensors"
        dies = count[0] == at
        if dies and inside:
            path.with_name(path.name + ".1.new").write_bytes(content[: len(content) // 2])
        else:
            original(path, content)
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)

    journal._write = write
    vitstudy(arguments)


SOMETIMES = """
from hf_vitstudy.analyses import Analysis, NotApplicableError

class Sometimes(Analysis):
    name = "sometimes"

    def update(self, batch):
        if batch.first == 24:  # the fourth batch, of the second process
            raise NotApplicableError("not for the images from 24 on")
        return {}
"""

KILLS = {"after the first batch": (1, False), "inside the third": (3, True), "after the last": (5, False)}


@pytest.fixture(scope="module")
def runs(forks, vit_folder, image_folder, tmp_path_factory) -> dict[str, tuple[Path, list[list[int]], Path]]:
    """By name: the folder of the profile, exit codes of its jobs, and what was said."""
    folder = tmp_path_factory.mktemp("runs")
    broken = folder / "images"
    shutil.copytree(image_folder, broken)
    victim = sorted(broken.rglob("*.png"))[7]
    victim.write_bytes(victim.read_bytes()[:60])
    jobs, names = [], []

    def job(
        name: str, *more: str, at: int = 0, inside: bool = False, world: int = 1, images: Path = image_folder
    ) -> None:
        names.append(name)
        words = command(vit_folder, images, folder / name / "profile", *more)
        (folder / name).mkdir(exist_ok=True)
        function, arguments = (killed_vitstudy, (words, at, inside)) if at else (vitstudy, (words,))
        jobs.append(Job(function, arguments, world, folder / name / "log"))

    job("whole")
    for name, (at, inside) in KILLS.items():
        job(name, at=at, inside=inside)
        job(name, "--resume")
    job("two", world=2)
    job("two, then one", at=2, world=2)
    job("two, then one", "--resume")
    job("broken", world=2, images=broken)
    job("exact", "--analyses", "cka:exact=true", world=2)
    (folder / "own.py").write_text(SOMETIMES, encoding="utf-8")
    own = ("--analyses", "variance", "--analysis", f"{folder / 'own.py'}:Sometimes")
    job("one drops out", *own, world=2)
    job("one drops out, resumed", *own, at=4)
    job("one drops out, resumed", *own, "--resume")
    found: dict[str, tuple[Path, list[list[int]], Path]] = {}
    for name, code in zip(names, forks.run(*jobs), strict=True):
        before = found.get(name, (None, [], None))[1]
        found[name] = (folder / name / "profile", [*before, code], folder / name / "log")
    return found


def test_an_uninterrupted_measurement_leaves_no_journal(runs):
    profile, codes, _ = runs["whole"]
    assert codes == [[0]]
    assert not list(profile.parent.glob(".*"))
    assert "receptive_radius" in load_profile(profile).data


@pytest.mark.parametrize("name", KILLS)
def test_a_killed_measurement_ends_with_the_same_bytes(name, runs):
    profile, codes, _ = runs[name]
    assert codes == [[-signal.SIGKILL], [0]]
    assert contents(profile) == contents(runs["whole"][0])
    assert not list(profile.parent.glob(".*"))


def test_the_time_of_all_parts_is_that_of_the_measurement(vit_folder, image_folder, tmp_path, monkeypatch):
    """By a clock that goes on by a second whenever it is read: one for each of five batches, one for the profile."""
    ticks = itertools.count()
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: float(next(ticks)))

    class Stops(Analysis):
        name = "stops"

        def update(self, batch):
            if batch.first == 24 and not resumed:
                raise StudyError("the power went out")
            return {}

        def result(self, parts):
            return {}

    resumed = False
    arguments = {"analyses": [Stops()], "out": tmp_path / "profile", **QUICK}
    with pytest.raises(StudyError, match="power"):
        measure(vit_folder, image_folder, **arguments)
    resumed = True
    profile = measure(vit_folder, image_folder, resume=True, **arguments)
    assert profile.provenance["measurement"]["seconds"] == 6.0
    assert load_profile(tmp_path / "profile").provenance["measurement"] == profile.provenance["measurement"]


def test_two_processes_give_the_bytes_of_one(runs):
    profile, codes, _ = runs["two"]
    assert codes == [[0, 0]]
    assert contents(profile) == contents(runs["whole"][0])


def test_what_two_processes_began_one_ends(runs):
    profile, codes, _ = runs["two, then one"]
    assert codes == [[-signal.SIGKILL, -signal.SIGKILL], [0]]
    assert contents(profile) == contents(runs["whole"][0])


def test_one_broken_image_stops_all_processes_with_one_line(runs):
    profile, codes, log = runs["broken"]
    assert codes == [[2, 2]]
    said = [line for line in log.read_text().splitlines() if line.startswith("error:")]
    assert len(said) == 1
    assert "image" in said[0]
    assert not profile.exists()


def test_what_needs_all_images_in_one_go_is_refused_by_all(runs):
    profile, codes, log = runs["exact"]
    assert codes == [[2, 2]]
    (said,) = [line for line in log.read_text().splitlines() if line.startswith("error:")]
    assert "cka_flatten_exact needs all images in one go, so it cannot be spread over 2 processes" in said
    assert not profile.exists()


@pytest.mark.parametrize("name", ["one drops out", "one drops out, resumed"])
def test_an_analysis_that_one_process_drops_is_dropped_by_all(name, runs):
    profile, codes, _ = runs[name]
    assert codes == ([[0, 0]] if name == "one drops out" else [[-signal.SIGKILL], [0]])
    found = load_profile(profile)
    assert found.provenance["absent"] == {"sometimes": "not for the images from 24 on"}
    assert found.provenance["measurement"]["analyses"] == ["variance"]
    assert contents(profile) == contents(runs["one drops out"][0])


def launch(arguments: list[str]) -> None:
    """What ``accelerate launch`` does, which then starts programs of its own."""
    from accelerate.commands.launch import main

    sys.argv = ["accelerate-launch", "--multi_gpu", "--num_processes", "2", "-m", "hf_vitstudy", *arguments]
    main()


def test_the_launcher_of_accelerate_starts_them(forks, vit_folder, image_folder, tmp_path):
    options = ["--images", str(image_folder), "-n", "16", "--batch-size", "8", "--workers", "0"]
    words = ["measure", str(vit_folder), *options, "--analyses", "variance", "--out", str(tmp_path / "profile")]
    codes = forks.run(Job(launch, (words,), log=tmp_path / "log"))
    said = (tmp_path / "log").read_text()
    assert codes == [[0]], said
    assert len(re.findall(r"16 images, 7 places, [\d.]+ s ->", said)) == 1, "one process speaks for all"
    alone = measure(vit_folder, image_folder, analyses=["variance"], **(QUICK | {"n": 16}))
    np.testing.assert_allclose(load_profile(tmp_path / "profile")["variance"], alone["variance"], rtol=1e-5)


# ---------------------------------------------------------------------------------------------------------- journal


KEPT = Kept(
    {
        "a": {"x": np.arange(6, dtype=np.float16).reshape(2, 3), "n": np.int32(4)},
        "empty": {},
        "b": {"x": np.zeros((0, 2))},
    },
    [1, 2**64 - 1],
    {"c": "no attention here"},
    1.5,
)


def test_a_journal_gives_back_what_it_was_given(tmp_path):
    journal = Journal(tmp_path / "profile", {"weights": "w"})
    journal.begin(resume=False)
    journal.write(3, KEPT)
    ((index, found),) = journal.batches().items()
    assert index == 3
    assert (found.digests, found.absent, found.seconds) == (KEPT.digests, KEPT.absent, 1.5)
    assert list(found.parts) == ["a", "empty", "b"]
    for analysis, part in KEPT.parts.items():
        assert found.parts[analysis].keys() == part.keys()
        for name, value in part.items():
            assert found.parts[analysis][name].dtype == np.asarray(value).dtype
            np.testing.assert_array_equal(found.parts[analysis][name], value)
            assert found.parts[analysis][name].shape == np.shape(value)


def test_a_batch_that_is_kept_again_takes_the_place_of_the_earlier(tmp_path):
    """Also of two earlier ones, where a run was killed between writing the second and deleting the first."""
    first, second = (Journal(tmp_path / "profile", {"weights": "w"}) for _ in range(2))
    first.begin(resume=False)
    for index, seconds in ((3, 1.5), (4, 1.5), (3, 2.5)):
        first.write(index, replace(KEPT, seconds=seconds))
    assert len(list(first.folder.glob("00000003-*"))) == 2
    second.write(3, replace(KEPT, seconds=3.5))
    assert len(list(first.folder.glob("0000000[34]-*"))) == 2
    assert {index: kept.seconds for index, kept in second.batches().items()} == {3: 3.5, 4: 1.5}


def test_a_damaged_batch_is_measured_again_with_a_warning(tmp_path):
    journal = Journal(tmp_path / "profile", {"weights": "w"})
    journal.begin(resume=False)
    for index in range(2):
        journal.write(index, KEPT)
    victim = sorted(journal.folder.glob("*1-*.safetensors"))[0]
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    with pytest.warns(UserWarning, match="is damaged; its batch is measured again"):
        found = journal.batches()
    assert list(found) == [0]
    assert list(journal.batches()) == [0], "it is gone"


def test_another_measurement_is_not_resumed(vit_folder, image_folder, tmp_path):
    journal = Journal(tmp_path / "profile", {"weights": "w", "batch_size": 8})
    journal.begin(resume=False)
    with pytest.raises(StudyError, match="batch_size was 8, is 16; resume with the same options, or start afresh"):
        Journal(tmp_path / "profile", {"weights": "w", "batch_size": 16}).begin(resume=True)
    with pytest.raises(StudyError, match="is of another measurement"):
        measure(vit_folder, image_folder, analyses=["variance"], out=tmp_path / "profile", resume=True, **QUICK)
    measure(vit_folder, image_folder, analyses=["variance"], out=tmp_path / "profile", **QUICK)
    assert not journal.folder.exists()


@pytest.mark.parametrize(
    "text", ["attacks:epsilons=2", "corruptions:severities=1", "corruptions:kinds=fog", "noise:seed=1"]
)
def test_every_option_is_part_of_the_identity(text):
    """Also those that an analysis keeps as a list."""
    assert _description(make_analysis(text)) != _description(make_analysis(text.split(":")[0]))


def test_an_edited_file_is_another_measurement(tmp_path):
    path = tmp_path / "own.py"
    path.write_text("#" + readme_example(), encoding="utf-8")
    before, same = (_description(make_analysis(f"{path}:sparsity")) for _ in range(2))
    path.write_text("#" + readme_example().replace("0.01", "0.02"), encoding="utf-8")
    assert before == same != _description(make_analysis(f"{path}:sparsity"))


DIFFERENCES = {
    "weights": ({"weights": "v"}, 'weights was "w", is "v"'),
    "batch size": ({"batch_size": 16}, "batch_size was 8, is 16"),
    "option": ({"analyses": [{"name": "cka"}, {"name": "fourier", "b": 2}]}, "analyses.1.b was 1, is 2"),
    "one more": ({"analyses": [{"name": "cka"}]}, "analyses was .*fourier.*, is .*cka"),
    "new": ({"labels": [0]}, "labels was null, is .0."),
}


@pytest.mark.parametrize("case", DIFFERENCES)
def test_a_refusal_says_what_differs(case, tmp_path):
    changed, message = DIFFERENCES[case]
    first = {"weights": "w", "batch_size": 8, "analyses": [{"name": "cka"}, {"name": "fourier", "b": 1}]}
    Journal(tmp_path / "profile", first).begin(resume=False)
    with pytest.raises(StudyError, match=message):
        Journal(tmp_path / "profile", first | changed).begin(resume=True)


def test_batches_without_an_identity_are_thrown_away(tmp_path):
    """What a kill in the middle of deleting a journal leaves, or another machine that did not write the identity."""
    journal = Journal(tmp_path / "profile", {"weights": "w"})
    journal.begin(resume=False)
    journal.write(0, KEPT)
    (journal.folder / "identity.json").unlink()
    Journal(tmp_path / "profile", {"weights": "another"}).begin(resume=True)
    assert journal.batches() == {}


def another_image(checkpoint: Path, images: Path) -> None:
    victim, other = sorted(images.rglob("*.png"))[:2]
    shutil.copy(other, victim)


def another_size(checkpoint: Path, images: Path) -> None:
    path = checkpoint / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_mean": [0.4] * 3}))


def other_classes(checkpoint: Path, images: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    names = {str(index): f"class{9 - index}" for index in range(10)}
    config |= {"id2label": names, "label2id": {name: int(index) for index, name in names.items()}}
    (checkpoint / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (another_image, "images.fingerprint was"),
        (another_size, "network.processor.image_mean.0 was 0.5, is 0.4"),
        (other_classes, "labels.0 was 0, is 9"),
    ],
)
def test_what_was_changed_since_is_noticed(change, message, vit_folder, image_folder, tmp_path, monkeypatch):
    checkpoint, images = (
        shutil.copytree(vit_folder, tmp_path / "vit"),
        shutil.copytree(image_folder, tmp_path / "images"),
    )
    options = QUICK | {"analyses": ["variance"], "out": tmp_path / "profile"}

    def stop(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("hf_vitstudy.measuring.Run.profile", stop)
        with pytest.raises(KeyboardInterrupt):
            measure(checkpoint, images, **options)
    change(checkpoint, images)
    with pytest.raises(StudyError, match=message):
        measure(checkpoint, images, resume=True, **options)


def test_a_journal_whose_identity_is_broken_is_of_another_measurement(tmp_path):
    journal = Journal(tmp_path / "profile", {"weights": "w"})
    journal.begin(resume=False)
    (journal.folder / "identity.json").write_text("{", encoding="utf-8")
    with pytest.raises(StudyError, match="weights was null"):
        journal.begin(resume=True)


def test_every_analysis_can_be_resumed_after_its_last_batch(tmp_path, image_folder, monkeypatch):
    """Nothing but what was kept of the batches reaches the result: no process has seen any image here."""
    folder = save_checkpoint(small_vit(num_hidden_layers=2, attn_implementation="eager"), tmp_path / "vit")
    wanted = [
        {
            "probes": "probes:shots=2",
            "hessian": "hessian:batch=8:iterations=3:k=1",
            "landscape": "landscape:grid=3:dims=1",
        }.get(n, n)
        for n in ANALYSES
        if n not in ("corruptions", "attacks")
    ]
    wanted += ["corruptions:kinds=gaussian_noise:images=8", "attacks:steps=1:images=8"]
    expected = measure(folder, image_folder, analyses=wanted, **QUICK)
    out = tmp_path / "profile"

    def stop(self):
        raise KeyboardInterrupt

    monkeypatch.setattr("hf_vitstudy.measuring.Run.profile", stop)
    with pytest.raises(KeyboardInterrupt):
        measure(folder, image_folder, analyses=wanted, out=out, **QUICK)
    monkeypatch.undo()

    def never(self, *args, **options):
        raise AssertionError("no batch is left to measure")

    monkeypatch.setattr("hf_vitstudy.measuring.Run.step", never)
    found = measure(folder, image_folder, analyses=wanted, out=out, resume=True, **QUICK)
    assert found.provenance["absent"] == expected.provenance["absent"]
    assert set(found.data) == set(expected.data)
    for name in expected.data:
        np.testing.assert_array_equal(found.data[name], expected.data[name], err_msg=str(name))


def test_what_cannot_be_resumed_says_so(vit_folder, image_folder, tmp_path):
    with pytest.raises(StudyError, match="give out as well"):
        measure(vit_folder, image_folder, resume=True, **QUICK)
    with pytest.raises(StudyError, match="cka_flatten_exact needs all images in one go, so it cannot be resumed"):
        measure(vit_folder, image_folder, analyses=["cka:exact=true"], out=tmp_path / "p", resume=True, **QUICK)


# ------------------------------------------------------------------------------------------------- one of one's own


def readme_example() -> str:
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    return text.split("```python\n# my_analysis.py")[1].split("```")[0]


def test_the_analysis_of_the_readme_works_from_the_command_line(vit_folder, image_folder, tmp_path, monkeypatch):
    (tmp_path / "my_analysis.py").write_text("#" + readme_example(), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    options = ["--images", str(image_folder), "--n", "8", "--workers", "0", "--analyses", "variance"]
    words = ["measure", str(vit_folder), *options, "--analysis", "my_analysis.py:sparsity", "--out", "p"]
    with pytest.raises(SystemExit, match="0"):
        vitstudy(words)
    profile = load_profile(tmp_path / "p")
    assert profile["sparsity"].dims == ("image", "block")
    assert profile["sparsity"].attrs["unit"] == "1"
    assert ((profile["sparsity"] >= 0) & (profile["sparsity"] <= 1)).all()
    assert "variance" in profile.data


OWN = """
from hf_vitstudy.analyses import Analysis, per_block

number = 3

def nothing():
    return 3

class variance(Analysis):
    name = "variance"

class Scaled(Analysis):
    name = "scaled"
    def __init__(self, factor: float = 1.0, on: bool = False, limit: int | None = None, label=None):
        self.factor, self.on, self.limit, self.label = factor, on, limit, label
"""

WRONG = {
    "own.py": "names a file alone; write .*own.py:NAME",
    "own.py:absent": "defines no absent; it defines: .*nothing",
    "own.py:number": "own.py:number is a int, expected an analysis",
    "own.py:nothing": "nothing makes a int, expected an analysis",
    "own.py:variance": "has the name of an analysis of the package",
    "own.py:Scaled:factor=much": "Scaled:factor must be a number, got 'much'",
    "own.py:Scaled:factor=nan": "Scaled:factor must be a number, got 'nan'",
    "own.py:Scaled:on=1": "Scaled:on must be true or false, got '1'",
    "own.py:Scaled:limit=2.5": "Scaled:limit must be a whole number or none, got '2.5'",
    "own.py:Scaled:beauty=1": "Scaled has no option 'beauty'; it has: factor, on, limit, label",
    "other.py:x": "no file at .*other.py",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_analysis_is_refused(text, tmp_path):
    (tmp_path / "own.py").write_text(textwrap.dedent(OWN), encoding="utf-8")
    with pytest.raises(StudyError, match=WRONG[text]):
        make_analysis(str(tmp_path / text))


def test_options_reach_an_analysis_of_one_s_own(tmp_path):
    (tmp_path / "own.py").write_text(textwrap.dedent(OWN), encoding="utf-8")
    made = make_analysis(f"{tmp_path / 'own.py'}:Scaled:factor=2.5:on=true")
    assert isinstance(made, Analysis)
    assert (made.factor, made.on, made.limit) == (2.5, True, None)
    for text, limit, label in (("limit=7", 7, None), ("limit=none:label=x", None, "x"), ("label=None", None, None)):
        made = make_analysis(f"{tmp_path / 'own.py'}:Scaled:{text}")
        assert (made.limit, made.label) == (limit, label)


def test_sets_of_analyses_are_written_out():
    assert choose_analyses(["default", "cka", "lesions"])[-2:] == ["predictions", "lesions"]
    assert choose_analyses(["all"]) == list(ANALYSES)
    assert choose_analyses(["variance", "variance"]) == ["variance"]


def test_all_analyses_are_listed_with_their_options(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)
    with pytest.raises(SystemExit, match="0"):
        vitstudy(["analyses"])
    said = capsys.readouterr().out
    for name in ANALYSES:
        assert any(line.startswith(name) for line in said.splitlines()), name
    assert "strength=0.05" in said
    passes = {line.split()[0]: " own " in line[:60] for line in said.splitlines() if line.split()[:1]}
    assert {name for name in ANALYSES if passes[name]} == {n for n in ANALYSES if make_analysis(n).own_passes}
    for name in ANALYSES:
        assert factory_of(name).__doc__, f"{name} says in its docstring what it measures"

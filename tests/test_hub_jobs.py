# ruff: noqa: F811
"""Spaces and Jobs: what is pushed or started, by unmodified clients against a Hub on this machine."""

import hashlib
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hub_fixtures import (  # noqa: F401
    _calm,
    contents,
    ends,
    name,
    profiles,
    server,
    study,
    vitstudy,
    well,
)
from hub_server import TOKEN, Fault

from hf_vitstudy.errors import StudyError
from hf_vitstudy.jobs import Job, installed_from, make_job, require_on_hub
from hf_vitstudy.profile import load_profile


SOURCE = "git+https://host.org/owner/name@0123abc"
MEASURE = ("measure", "org/vit", "--images", "org/images", "--split", "test", "--n", 64, "--paper-mode")


# ------------------------------------------------------------------------------------------------------------ Spaces


@pytest.fixture(scope="module")
def space(vitstudy, server, study, profiles) -> str:
    """A static Space of a study."""
    out = well(vitstudy("push", study, "--space", "org/compare", "--profiles", profiles))
    commit = server.repo("space", "org/compare").head.oid
    assert f"Space -> {server.url}/spaces/org/compare/tree/{commit}" in out
    return "org/compare"


def test_a_static_space_holds_the_page_and_comes_back_as_it_was(vitstudy, server, space, study, profiles, tmp_path):
    repo = server.repo("space", space)
    assert (repo.sdk, len(repo.branches["main"])) == ("static", 2), "one push is one commit"
    well(vitstudy("space", study, "--profiles", profiles, "--static", tmp_path / "page"))
    well(vitstudy("pull", f"spaces/{space}", "--out", tmp_path / "back"))
    page, back = contents(tmp_path / "page"), contents(tmp_path / "back")
    manifest = json.loads(back.pop("manifest.json"))
    assert back == page
    assert {key: each["sha256"] for key, each in manifest["files"].items()} == {
        key: hashlib.sha256(content).hexdigest() for key, content in page.items()
    }
    card = yaml.safe_load(back["README.md"].decode().split("---")[1])
    assert (card["sdk"], card["app_file"]) == ("static", "index.html")


def test_an_equal_space_is_nothing_new_and_another_replaces_it(vitstudy, server, space, study, profiles, tmp_path):
    again = ("push", study, "--space", space, "--profiles", profiles)
    assert "nothing new" in well(vitstudy(*again))
    repo = server.repo("space", space)
    repo.put(**{"notes.md": b"ours"})
    renamed = Path(shutil.copytree(study, tmp_path / "renamed")) / "results.json"
    renamed.write_text(renamed.read_text().replace(json.loads(renamed.read_text())["title"], "Another title"))
    server.faults.append(Fault("POST .*/commit/", before=lambda: repo.put(theirs=b"1")))
    command = ("push", renamed.parent, "--space", space, "--profiles", profiles)
    ends(vitstudy(*command), "412, somebody committed there meanwhile")
    before = len(repo.branches["main"])
    well(vitstudy(*command))
    assert len(repo.branches["main"]) == before + 1
    assert {"notes.md", "theirs", "index.html"} <= set(repo.files())
    assert b"Another title" in repo.files()["README.md"]
    repo.branches["main"] = repo.branches["main"][:2]


def test_a_gradio_space_needs_an_account_that_pays(vitstudy, server, study, profiles, name, monkeypatch, tmp_path):
    """The Hub says 402; the way out is a command that works as it stands."""
    command = ("push", study, "--space", name, "--sdk", "gradio", "--profiles", profiles)
    done = vitstudy(*command, "--private", "--message", "Our study", "--revision", "next")
    ends(
        done, "402, Gradio Spaces on free hardware need a PRO account; a static one is free and never sleeps: vitstudy"
    )
    assert ("space", name) not in server.repos
    line = done.err.split("never sleeps: ")[1].split(" (it says: ")[0]
    words = shlex.split(line)
    assert words[0] == "vitstudy"
    well(vitstudy(*words[1:]))
    repo = server.repo("space", name)
    assert (repo.sdk, repo.private, repo.branches["next"][-1].title) == ("static", True, "Our study")
    monkeypatch.setattr(server, "pro", True)
    paid = f"{name}-paid"
    well(vitstudy(*("push", study, "--space", paid, "--sdk", "gradio", "--profiles", profiles)))
    repo = server.repo("space", paid)
    assert repo.sdk == "gradio"
    assert yaml.safe_load(repo.files()["README.md"].decode().split("---")[1])["app_file"] == "app.py"
    well(vitstudy("pull", f"spaces/{paid}@main", "--out", tmp_path / "back"))
    back = contents(tmp_path / "back")
    assert back == {key: content for key, content in repo.files().items() if key != ".gitattributes"}
    assert {"app.py", "hf_vitstudy/cli.py", "requirements.txt"} <= set(back)
    assert not [key for key in back if key.endswith((".pyc", ".bin", ".pkl"))]


@pytest.mark.parametrize("sdk", ["static", "gradio"])
def test_a_space_says_which_commit_of_a_study_it_shows(sdk, vitstudy, server, study, profiles, name, monkeypatch):
    monkeypatch.setattr(server, "pro", True)
    well(vitstudy("push", study, name, "--profiles", profiles))
    commit = server.repo("dataset", name).branches["main"][-1].oid
    well(vitstudy("push", name, "--space", name, "--sdk", sdk))
    files = server.repo("space", name).files()
    card = files["README.md"].decode()
    assert yaml.safe_load(card.split("---")[1])["datasets"] == [name]
    assert f"The study is `{name}@{commit}`" in card
    told = files["index.html" if sdk == "static" else "data/space.json"].decode()
    assert f"{name}@{commit}" in told


def test_a_dry_run_of_a_space_asks_nothing(vitstudy, server, study, profiles, name):
    out = well(vitstudy("push", study, "--space", name, "--profiles", profiles, "--dry-run"))
    assert f"Space to space {name}: " in out
    assert "index.html" in out
    assert "dry run: nothing was sent" in out
    assert server.requests == []


def test_an_interrupted_space_is_filled_by_the_same_command(vitstudy, server, study, profiles, name):
    """The card that the Hub makes is none of ours."""
    server.faults.append(Fault("POST .*/commit/", status=500))
    command = ("push", study, "--space", name, "--profiles", profiles)
    ends(vitstudy(*command), f"{name} is there now with nothing of yours in it, and the same command fills it")
    well(vitstudy(*command))
    assert "index.html" in server.repo("space", name).files()


WRONG_PUSHES = {
    "two places": (("x", "org/x", "--space", "org/y"), "one push goes to one place, got org/x and --space org/y"),
    "no place": (("x",), "push takes a folder and org/name, or --space org/name"),
    "nothing": ((), "push takes a folder and org/name, or --space org/name"),
    "two things": (("x", "--space", "org/x", "--metric", "cka"), "a study or a metric, got x and --metric cka"),
    "into a model": (("x", "--space", "org/x", "--into-model"), "--into-model is not of a Space; leave it out"),
    "license": (("x", "--space", "org/x", "--license", "mit"), "--license is not of a Space; leave it out"),
    "no Space": (("x", "org/x", "--live", "org/y"), "--live is of a Space; name it with --space org/name"),
    "no study": (("--space", "org/x"), "name the study of a static page"),
    "sdk": (("x", "--space", "org/x", "--sdk", "docker"), "sdk must be one of gradio, static, got 'docker'"),
    "metric": (
        ("--space", "org/x", "--metric", "cka"),
        "how shall the other machine install this package? give --requirem",
    ),
    "requirement": (("x", "--space", "org/x", "--requirement", "y"), "a Space of a study brings this package along"),
    "profiles": (("--space", "org/x", "--metric", "cka", "--profiles", "p"), "--profiles is of the Space of a study"),
    "name": (("x", "--space", "x"), "a repository is called org/name"),
}


@pytest.mark.parametrize("case", WRONG_PUSHES)
def test_a_push_that_makes_no_sense_is_refused(case, monkeypatch, capsys, tmp_path):
    """In this process; `vitstudy` of other tests is the same function."""
    words, message = WRONG_PUSHES[case]
    monkeypatch.chdir(tmp_path)
    assert message in refused(["push", *words], monkeypatch, capsys)


def refused(words, monkeypatch, capsys) -> str:
    """The one line that a command of bad input ends with."""
    from hf_vitstudy.cli import main

    monkeypatch.setattr(sys, "argv", ["vitstudy", *map(str, words)])
    with pytest.raises(SystemExit, match="2"):
        main()
    (line,) = capsys.readouterr().err.splitlines()
    return line


# -------------------------------------------------------------------------------------------------------------- Jobs


def test_a_measurement_is_started_as_a_job(vitstudy, server, name):
    """The body that the Hub gets is the command, an address to install from, and the token as a secret alone."""
    job = ("--hf-job", "t4-small", "--push-to", name, "--requirement", SOURCE, "--timeout", "90m")
    out = well(vitstudy(*MEASURE, *job))
    (asked,) = server.jobs
    words = ["vitstudy", *map(str, MEASURE), "--push-to", name]
    assert asked["command"] == ["uv", "run", "--with", f"hf_vitstudy[study,hub] @ {SOURCE}", *words]
    assert (asked["flavor"], asked["timeoutSeconds"]) == ("t4-small", 90 * 60)
    assert asked["secrets"] == {"HF_TOKEN": TOKEN}
    assert TOKEN not in json.dumps({key: value for key, value in asked.items() if key != "secrets"}) + out
    assert "started: http" in out
    assert set(server.repo("dataset", name).files()) == {".gitattributes"}, "the place of the result is there before"
    assert server.requests.index("POST /api/repos/create") < server.requests.index("POST /api/jobs/tester")


def test_the_line_that_is_shown_starts_the_same_job(vitstudy, server, name):
    """By the command line of huggingface_hub itself, which takes the secret from where it was stored."""
    job = ("--hf-job", "t4-small", "--push-to", name, "--requirement", SOURCE)
    shown = well(vitstudy(*MEASURE, *job, "--dry-run")).splitlines()
    assert shown[1:] == [f"dry run: no Job was started; its result would go to dataset {name}"]
    assert server.requests == []
    words = shlex.split(shown[0])
    assert words[0] == "hf"
    done = subprocess.run(
        [str(Path(sys.executable).with_name("hf")), *words[1:]],
        env=vitstudy.environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    well(vitstudy(*MEASURE, *job))
    theirs, ours = server.jobs
    assert set(theirs["labels"]) == set(ours["labels"]) == {"name"}, "which each makes up"
    assert theirs | {"labels": {}} == ours | {"labels": {}}


def test_what_a_job_cannot_start_without(vitstudy, server, name):
    job = ("--hf-job", "t4-small", "--push-to", name, "--requirement", SOURCE)
    ends(vitstudy(*MEASURE, *job, HF_TOKEN=""), "log in with `hf auth login`, or set HF_TOKEN")
    assert server.requests == []
    server.faults.append(Fault("POST /api/jobs/", status=402))
    ends(
        vitstudy(*MEASURE, *job),
        "cannot start the Job: 402, the Hub runs Jobs on credit; add some",
        "without --hf-job",
    )
    ends(vitstudy(*MEASURE, *job[:2], "--push-to", "google/theirs", *job[4:]), "cannot make google/theirs: 403")
    assert server.jobs == []


WRONG_JOBS = {
    "no place": (("org/vit", "org/images"), "the disk of a Job goes when it ends; name the repository for its result"),
    "no package": (
        ("org/vit", "org/images", "--push-to", "org/p"),
        "how shall the other machine install this package",
    ),
    "local checkpoint": (
        ("runs/../vit", "org/images"),
        "the checkpoint is 'runs/../vit'; push it first: vitstudy push",
    ),
    "local images": (("org/vit", "images.parquet"), "--images is 'images.parquet'; make a data set on the Hub of it"),
    "own code": (
        ("org/vit", "org/images", "--analysis", "f.py:f"),
        "a Job has no files of your own; leave out --analysis",
    ),
    "resume": (("org/vit", "org/images", "--resume"), "a Job has no disk that stays; leave out --resume"),
    "out": (("org/vit", "org/images", "--out", "x"), "a Job has no disk that stays; leave out --out"),
}


@pytest.mark.parametrize("case", WRONG_JOBS)
def test_what_a_job_could_not_do_is_refused_here(case, monkeypatch, capsys, tmp_path):
    (checkpoint, images, *more), message = WRONG_JOBS[case]
    monkeypatch.chdir(tmp_path)
    words = ["measure", checkpoint, "--images", images, "--hf-job", "t4-small", *more]
    assert message in refused(words, monkeypatch, capsys)


def test_a_folder_here_is_no_checkpoint_there_though_it_reads_like_one(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert require_on_hub("it", "org/vit@v1", "push it") == "org/vit@v1"
    (tmp_path / "org" / "vit").mkdir(parents=True)
    with pytest.raises(StudyError, match="a Job sees no file of this machine, and it is 'org/vit'; push it"):
        require_on_hub("it", "org/vit", "push it")


def test_a_dry_run_is_of_a_job(monkeypatch, capsys):
    words = ["measure", "org/vit", "--images", "org/images", "--dry-run"]
    assert "--dry-run shows the call of a Job; name its hardware" in refused(words, monkeypatch, capsys)


REQUIREMENTS = {
    SOURCE: f"hf_vitstudy[study,hub] @ {SOURCE}",
    "https://host.org/hf_vitstudy-0.1.0-py3-none-any.whl": (
        "hf_vitstudy[study,hub] @ https://host.org/hf_vitstudy-0.1.0-py3-none-any.whl"
    ),
    f"hf_vitstudy @ {SOURCE}": f"hf_vitstudy[study,hub] @ {SOURCE}",
    "https://host.org/x.whl?download=1&author=me&keyboard=1#sha256=ab": (
        "hf_vitstudy[study,hub] @ https://host.org/x.whl?download=1&author=me&keyboard=1#sha256=ab"
    ),
    "git+https://host.org/token/auth@v1#subdirectory=key": (
        "hf_vitstudy[study,hub] @ git+https://host.org/token/auth@v1#subdirectory=key"
    ),
    "hf-vitstudy[study]>=0.1,<2": "hf_vitstudy[study]>=0.1,<2",
    "hf_vitstudy==0.1.0": "hf_vitstudy[study,hub]==0.1.0",
}


@pytest.mark.parametrize("given", REQUIREMENTS)
def test_the_package_is_installed_with_all_that_it_needs(given):
    from packaging.requirements import Requirement

    assert installed_from(given) == REQUIREMENTS[given]
    found = Requirement(installed_from(given))
    assert found.name.replace("-", "_") == "hf_vitstudy"
    assert "study" in found.extras


BAD_REQUIREMENTS = {
    None: "how shall the other machine install this package",
    "": "how shall the other machine install this package",
    ".": r"--requirement must be git\+https.*got '\.'",
    "./dist/hf_vitstudy.whl": "--requirement must be",
    "file:///home/me/hf_vitstudy": "--requirement must be",
    "hf_vitstudy @ file:///home/me": "--requirement must be",
    "another": "--requirement must be",
    "hf_vitstudy2": "--requirement must be",
    "git+https://host.org/x --index-url=y": "--requirement must be",
    f"git+https://{TOKEN}@host.org/owner/name": "holds a user name or password, which everybody could read",
    "git+https://me:secret@host.org/owner/name": "holds a user name or password, which everybody could read",
    "git+ssh://git@host.org/owner/name": "holds a user name or password, which everybody could read",
    **dict.fromkeys(
        (
            "https://host.org/x.whl?access_token=secret",
            "https://host.org/x.whl?v=1&private_token=secret",
            "https://host.org/x.whl?api%5Fkey=secret",
            "https://host.org/x.whl?X-Amz-Signature=secret&x=1",
            "https://host.org/x.whl?sv=2022&sig=secret",
            "https://host.org/x.whl?PASSWORD=secret",
            "https://host.org/x.whl#auth=secret",
            "git+https://host.org/owner/name?token=secret",
            "hf_vitstudy @ https://host.org/x.whl?token=secret",
            "https://host.org/x.whl?token=secret now",
            f"https://host.org/{TOKEN}/x.whl",
            f"https://host.org/x.whl?x={TOKEN}",
        ),
        "holds what looks like a token or password, which everybody could read; use a public address",
    ),
}


@pytest.mark.parametrize("given", BAD_REQUIREMENTS)
def test_what_another_machine_cannot_install_is_refused(given):
    with pytest.raises(StudyError, match=BAD_REQUIREMENTS[given]) as caught:
        installed_from(given)
    assert TOKEN not in str(caught.value)
    assert "secret" not in str(caught.value)


def job_of(*words, repo="org/x", flavor="t4-small", timeout="2h") -> Job:
    return make_job(words or ("vitstudy",), SOURCE, repo=repo, type="model", flavor=flavor, timeout=timeout)


BAD_JOBS = {
    "flavor": ({"flavor": "A10G; rm"}, "--hf-job takes a flavor such as a10g-small, got 'A10G; rm'"),
    "timeout": ({"timeout": "soon"}, "--timeout is a number of s, m, h or d, such as 90m; got 'soon'"),
    "never": ({"timeout": "0h"}, "--timeout is a number of s, m, h or d"),
    "repo": ({"repo": "../x"}, "a repository is called org/name"),
}


@pytest.mark.parametrize("case", BAD_JOBS)
def test_a_job_that_is_none_is_refused(case):
    options, message = BAD_JOBS[case]
    with pytest.raises(StudyError, match=message):
        job_of(**options)


def test_no_token_and_no_file_goes_into_a_job(monkeypatch, tmp_path):
    with pytest.raises(StudyError, match="holds what looks like a token of the Hub; leave it out") as caught:
        job_of("vitstudy", f"--blocks={TOKEN}")
    assert TOKEN not in str(caught.value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "measure").touch()
    with pytest.raises(StudyError, match="a file here is called 'measure', as a word of the command"):
        job_of("vitstudy", "measure")


# ------------------------------------------------------------------------------------------------------ of a recipe


@pytest.fixture(scope="module")
def finetune():
    """``recipes/finetune.py``, without starting it."""
    from toy_recipes import finetune

    return finetune


RECIPE = """
model: {type: vit, hidden_size: 24, layer_norm_eps: 1.0e-12}
data: {train: org/images, test_split: validation, holdout: 0.1}
optimizer: {name: adamw, lr: 1e-5}
augment: {crop: padded, randaugment: {ops: 1}}
batch_size: 8
epochs: 2
profile: {images: org/images, at: [0, 1]}
output: /home/somebody/runs/x
"""
ABOUT = ["--hf-job", "a10g-small", "--push-to", "org/vit", "--requirement", SOURCE, "--dry-run"]


def test_a_recipe_of_ones_own_is_told_to_the_job_setting_by_setting(finetune, tmp_path, capsys):
    """There is no such file there; what the other machine reads is the same recipe."""
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(RECIPE)
    finetune.main([str(recipe), "seed=3", *ABOUT, "augment.flip=true"])
    words = shlex.split(capsys.readouterr().out)
    start = words.index("hf_vitstudy.recipes.finetune")
    assert words[start - 3 : start] == ["accelerate", "launch", "-m"]
    assert words[-2:] == ["--push-to", "org/vit"]
    name, *settings = words[start + 1 : -2]
    expected = finetune.read_config(recipe, ["seed=3", "augment.flip=true", "output=runs/vit"])
    assert finetune.read_config(name, settings, finetune.recipes_folder() / "configs") == expected
    assert "somebody" not in " ".join(words)


@pytest.mark.parametrize("named", ["vit_b16_cifar10_1k", "recipes/configs/vit_b16_cifar10_1k.yaml"])
def test_a_shipped_recipe_is_told_by_its_name(named, finetune, capsys, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])
    changes = ["data.train=org/images", "data.test=org/images", "model.checkpoint=google/vit@main"]
    finetune.main([named, *changes, "output=/home/somebody/x", "replace=true", *ABOUT])
    words = shlex.split(capsys.readouterr().out)
    start = words.index("hf_vitstudy.recipes.finetune")
    assert words[start + 1 :] == ["vit_b16_cifar10_1k", *changes, "output=runs/vit", "--push-to", "org/vit"]


LOCAL = {
    "data.train=x.parquet": "data.train is 'x.parquet'; make a data set on the Hub of it first",
    "data.test=../images": "data.test is '../images'; make a data set on the Hub of it first",
    "profile.images=/images": "profile.images is '/images'; make a data set on the Hub of it first",
    "model.checkpoint=./runs/vit": "model.checkpoint is './runs/vit'; push it first: vitstudy push FOLDER org/name",
}


@pytest.mark.parametrize("override", LOCAL)
def test_what_lies_on_this_machine_is_refused(override, finetune, tmp_path):
    (tmp_path / "mine.yaml").write_text(RECIPE)
    with pytest.raises(StudyError, match=LOCAL[override]):
        finetune.main([str(tmp_path / "mine.yaml"), override, *ABOUT])


def test_a_dry_run_of_a_training_is_of_a_job(finetune, tmp_path):
    (tmp_path / "mine.yaml").write_text(RECIPE)
    with pytest.raises(StudyError, match="--dry-run shows the call of a Job; name its hardware"):
        finetune.main([str(tmp_path / "mine.yaml"), "--dry-run"])


# ---------------------------------------------------------------------------------------- what runs, there and here


THEIR_WARNING = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's upload


@pytest.fixture
def connected(server, monkeypatch):
    """This process asks the Hub on this machine, which it does not otherwise."""
    from huggingface_hub import HfApi, constants

    for key, value in {"HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True, "ENDPOINT": server.url}.items():
        monkeypatch.setattr(constants, key, value)
    monkeypatch.setattr("hf_vitstudy.hub._api", lambda: HfApi(endpoint=server.url, token=TOKEN))


@THEIR_WARNING
def test_a_measurement_is_pushed_when_it_is_done(connected, server, profiles, name, monkeypatch, capsys, tmp_path):
    from hf_vitstudy import cli, measuring

    loaded, asked = load_profile(profiles / "vit"), []

    def measure(*_, out: Path, **__):
        asked.extend(server.requests)
        loaded.save(out)
        return loaded

    monkeypatch.setattr(measuring, "measure", measure)
    monkeypatch.chdir(tmp_path)
    cli.app(["measure", "org/vit", "--images", "org/images", "--push-to", name], standalone_mode=False)
    assert asked[-1:] == ["POST /api/repos/create"], "who may not write there learns it before the work"
    assert f"profile -> {server.url}/datasets/{name}/tree/" in capsys.readouterr().out
    stored = server.repo("dataset", name).files()
    assert {key: stored[key] for key in contents(profiles / "vit")} == contents(profiles / "vit")
    server.faults.append(Fault("POST /api/repos/create", status=403))
    monkeypatch.setattr(measuring, "measure", lambda *_, **__: pytest.fail("it was measured"))
    message = refused(["measure", "org/vit", "--images", "org/images", "--push-to", "google/x"], monkeypatch, capsys)
    assert "cannot make google/x: 403" in message


@THEIR_WARNING
def test_a_training_is_pushed_when_it_is_done_and_again_when_that_failed(
    connected, finetune, server, shapes, name, monkeypatch, capsys, tmp_path
):
    from toy_recipes import settings, write_recipe

    made = settings(shapes, tmp_path / "run") | {"epochs": 1}
    recipe = str(write_recipe(tmp_path, made))
    server.faults.append(Fault("POST /api/repos/create", status=403))
    with monkeypatch.context() as before:
        before.setattr(finetune, "load_data", lambda *_: pytest.fail("it was begun"))
        with pytest.raises(StudyError, match="cannot make google/x: 403"):
            finetune.main([recipe, "--push-to", "google/x"])
    server.faults[:] = [Fault("POST .*/commit/", status=500)]
    with pytest.raises(StudyError, match=f"cannot push to {name}: 500"):
        finetune.main([recipe, "--push-to", name])
    assert (tmp_path / "run" / "training.json").exists()
    finetune.main([recipe, "--push-to", name])
    told = capsys.readouterr().err
    assert "finished before" in told
    assert f"-> {server.url}/{name}/tree/{server.repo('model', name).head.oid}" in told
    assert {"model.safetensors", "config.json", "README.md", "training.json"} <= set(
        server.repo("model", name).files()
    )
    with monkeypatch.context() as second:
        second.setenv("RANK", "1")
        server.requests.clear()
        finetune.publish(tmp_path / "run", name)
    finetune.publish(tmp_path / "run", None)
    assert server.requests == []

"""Imports go only downward, and the reading half never needs torch.

    states, kernels < blocks < branches < checkpoints, images, corruptions, grading < analyses < measuring < training
                                                                          the measuring half: networks run
    configurations < modeling files < models < states                     networks of our own, at its bottom
    errors < disk < stats, markdown < shapes < profile, metrics < similarities, hub < comparison, robustness, leaks
    < local_heads, sketches < claims < agreement < study < figures
    < cards, findings < viewer < report                                   the reading half: numpy and xarray
    < space_release < releases, jobs
    demo, cli, evaluation_modules, space                                  on top of both

The halves meet in `errors`, in `disk`, by which both write, and in `profile`, which only `measuring` fills.
"""

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from synthetic import synthetic_profile

import hf_vitstudy


PACKAGE = Path(hf_vitstudy.__file__).parent
READING = [
    ["errors"],
    ["disk"],
    ["stats", "markdown"],
    ["shapes"],
    ["profile", "metrics"],
    ["similarities", "hub"],
    ["comparison", "robustness", "loss_geometry", "leaks"],
    ["local_heads", "sketches"],
    ["claims"],
    ["agreement"],
    ["study"],
]
READING += [["figures", "study_tables"], ["cards", "findings"], ["dataset_cards", "viewer"], ["report"]]
READING += [["study_release", "space_release"], ["releases", "jobs"]]
NETWORKS = [
    ["configuration_alternet", "configuration_local_vit"],
    ["modeling_alternet", "modeling_local_vit"],
    ["models"],
]
MEASURING = [*NETWORKS, ["states", "kernels", "curvature"], ["blocks"], ["branches"]]
MEASURING += [
    ["checkpoints", "images", "corruptions", "grading", "journal", "processes", "resources"],
    ["analyses"],
    ["measuring"],
    ["training"],
]
TOP = {"demo", "cli", "__main__", "evaluation_modules", "space"}
FOLDERS = {"analyses", "claims", "figures", "training", "viewer", "space"}  # whose files may know each other
OFFICE = {"__init__"}  # hands out names of every layer on first use
HEAVY = {"torch", "torchvision", "transformers", "datasets", "accelerate", "evaluate", "gradio"}


def names(layers: list[list[str]]) -> set[str]:
    return {name for layer in layers for name in layer}


def below(module: str) -> set[str]:
    """What a module may import of the package."""
    if module in TOP | OFFICE:
        return names(READING) | names(MEASURING) | TOP
    for layers in (READING, MEASURING):
        for rank, layer in enumerate(layers):
            if module in layer:
                shared = {"profile"} if module in ("measuring", "training") else set()
                return names(layers[:rank]) | {"errors", "disk"} | shared
    raise AssertionError(f"{module} has no place in the layers; give it one here and in the README's tree")


def imports(source: str, module: str) -> Iterator[tuple[str, bool, int]]:
    """(first name, whether of the package, line) of every import anywhere in a file, also inside functions.

    `module` is dotted below the package: ``stats``, or ``analyses.cka`` and ``analyses.__init__`` for files in a folder.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield *_of(alias.name.split("."), alias.name), node.lineno
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield *_of([*node.module.split("."), node.names[0].name], node.module), node.lineno
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level <= module.count(".") else []
            path = [*parents, *(node.module or "").split(".")] if node.module else parents
            for alias in [None] if path else node.names:
                yield path[0] if alias is None else alias.name, True, node.lineno
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant):
                    yield *_of(argument.value.lstrip(".").split("."), argument.value), node.lineno


def _of(path: list[str], whole: str) -> tuple[str, bool]:
    if path[0] == "hf_vitstudy":
        return path[1] if len(path) > 1 else "__init__", True
    return path[0], whole.startswith(".")


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def violations(source: str, module: str) -> list[str]:
    """Imports that go upward, sideways or into the other half."""
    room = module.split(".")[0]
    known = names(READING) | names(MEASURING) | TOP
    found = []
    for name, ours, line in imports(source, module):
        upward = ours and name in known and name not in below(room) and not (room == name and room in FOLDERS)
        heavy = not ours and name in HEAVY and room in names(READING)
        if upward or heavy:
            found.append(f"{module}:{line} imports {name}")
    return found


def modules() -> dict[str, Path]:
    """Every file of the package by its dotted name."""
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}


# ----------------------------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize("module", modules())
def test_imports_go_only_downward(module):
    assert violations(modules()[module].read_text(encoding="utf-8"), module) == []


def test_every_layer_is_there_and_every_file_has_a_layer():
    rooms = {name.split(".")[0] for name in modules()}
    assert names(READING) | names(MEASURING) <= rooms
    for room in rooms:
        below(room)
    seen = [name for module, path in modules().items() for name, ours, _ in imports(path.read_text(), module) if ours]
    assert len(seen) > 40, "the check reads the imports"


def test_measurements_know_only_their_contract():
    """One file per measurement: none reads another."""
    folder = PACKAGE / "analyses"
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "contract"}
    assert len(files) >= 5
    for name in files:
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                assert node.module == "contract", f"analyses/{name}.py:{node.lineno}"


BAD = {
    "upward": ("from .claims import judge", "comparison"),
    "upward from a folder": ("from .. import training", "claims.__init__"),
    "upward inside a function": ("def f():\n    from .report import write_report", "profile"),
    "upward by full name": ("import hf_vitstudy.claims", "stats"),
    "upward by full name, from": ("from hf_vitstudy.claims import judge", "stats"),
    "upward from the package": ("from hf_vitstudy import claims", "stats"),
    "upward as a module": ("from . import figures", "comparison"),
    "upward by text": ("import importlib\nimportlib.import_module('hf_vitstudy.claims')", "stats"),
    "sideways": ("from .images import load_images", "checkpoints"),
    "itself": ("from .stats import x", "stats"),
    "a network upward": ("from .blocks import Block", "modeling_alternet"),
    "to the top": ("from .cli import main", "report"),
    "into the other half": ("from .images import digest", "profile"),
    "into the other half, upward": ("from .comparison import compare", "measuring"),
    "waist from too low": ("from .profile import Profile", "checkpoints"),
    "torch": ("import torch", "errors"),
    "torch lazily": ("def f():\n    import torch.nn.functional as F", "claims"),
    "torch by text": ("__import__('torch')", "stats"),
    "only for types": (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from torch import Tensor",
        "comparison",
    ),
    "transformers": ("from transformers import AutoConfig", "report"),
    "datasets": ("from datasets import Dataset", "profile"),
    "a measurement upward": ("from ..measuring import measure", "analyses.cka"),
    "a measurement into the waist": ("from ..profile import Profile", "analyses.cka"),
}


@pytest.mark.parametrize("case", BAD)
def test_the_check_finds_a_wrong_import(case):
    assert len(violations(*BAD[case])) == 1


GOOD = {
    "downward": ("from .stats import Estimate\nfrom .errors import StudyError", "comparison"),
    "a name of the package": ("from . import __version__", "cli"),
    "numpy": ("import numpy as np\nimport xarray as xr\nfrom scipy.stats import t", "stats"),
    "torch above the waist": ("import torch\nfrom .blocks import Block", "checkpoints"),
    "the waist is filled by measuring": ("from .profile import Profile\nfrom .analyses import DEFAULT", "measuring"),
    "a file of the same folder": ("from . import training", "claims.__init__"),
    "a measurement": ("from ..blocks import Block\nfrom .contract import PerBlock\nimport torch", "analyses.cka"),
    "the top": ("from .measuring import measure\nfrom .report import write_report", "cli"),
}


@pytest.mark.parametrize("case", GOOD)
def test_the_check_lets_a_right_import_pass(case):
    assert violations(*GOOD[case]) == []


def test_a_file_without_a_layer_is_noticed():
    with pytest.raises(AssertionError, match="utils has no place in the layers"):
        below("utils")


# ---------------------------------------------------------------------------------------------------- without torch

READ = """
import importlib, sys
import hf_vitstudy
from hf_vitstudy import compare, judge, load_profile, merge
for module in {modules}:
    importlib.import_module("hf_vitstudy." + module)
a, b = (load_profile(folder) for folder in sys.argv[1:])
comparison = compare(a, b, draws=20)
assert comparison.cka(permutations=2)["cka"].shape == (17, 9)
comparison.agreement(), comparison.difference("variance"), merge([a, a])
assert len(judge(a, b, draws=20)) >= 5
print(hf_vitstudy.__file__)
print(sorted({heavy} & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("profiles")
    return [str(synthetic_profile(kind, n=32, block=16).save(folder / kind)) for kind in ("vit", "resnet")]


def read_in_a_fresh_process(stored: list[str], modules: set[str], place: Path | None = None) -> tuple[str, str]:
    """Where the package came from and which heavy modules were loaded; what lies in `place` is found first."""
    script = READ.format(modules=sorted(modules), heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", script, *stored], capture_output=True, text=True, cwd=place, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return tuple(done.stdout.split("\n")[:2])


def test_reading_profiles_loads_no_torch(stored):
    where, heavy = read_in_a_fresh_process(stored, names(READING))
    assert Path(where).parent == PACKAGE
    assert heavy == "[]"


def test_the_check_notices_torch(stored, tmp_path):
    """The same run on a copy of the package in which `compare` loads a module called torch."""
    copy = tmp_path / "hf_vitstudy"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "torch.py").write_text("class Tensor: ...", encoding="utf-8")
    source = (copy / "comparison.py").read_text(encoding="utf-8")
    anchor = "    if a.images_sha256 != b.images_sha256:\n"
    assert source.count(anchor) == 1
    (copy / "comparison.py").write_text(source.replace(anchor, "    import torch\n" + anchor), encoding="utf-8")
    where, heavy = read_in_a_fresh_process(stored, {"claims"}, tmp_path)
    assert Path(where).parent == copy
    assert heavy == "['torch']"


def test_importing_the_package_takes_half_a_second_at_most():
    """Processor seconds, the least of five: the only figure that other work on the machine leaves alone."""
    script = "import time; start = time.process_time(); import hf_vitstudy; print(time.process_time() - start)"
    seconds = [
        float(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
        for _ in range(5)
    ]
    assert 0 < min(seconds) < 0.5


# ------------------------------------------------------------------------------------------------------------ names


def top_level(module: str) -> set[str]:
    """Names that a file, or a folder's files, define, without running them."""
    room = [path for name, path in modules().items() if name.split(".")[0] == module]
    assert room, module
    return set().union(*(_defined(path) for path in room))


def _defined(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def for_type_checkers() -> dict[str, str]:
    """name -> module of the imports that only type checkers read."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    return {alias.name: node.module for node in block.body for alias in node.names if alias.name == alias.asname}


@pytest.mark.parametrize("name", hf_vitstudy.__all__)
def test_every_public_name_is_defined_where_it_is_looked_for(name):
    """Names of the measuring half are looked up in the source, so that this needs no torch."""
    home = for_type_checkers()[name]
    assert name in top_level(home)
    if home in names(READING):
        value = getattr(hf_vitstudy, name)
        assert getattr(value, "__module__", f"hf_vitstudy.{home}").startswith("hf_vitstudy.")
        assert name in dir(hf_vitstudy)


def test_type_checkers_and_programs_see_the_same_names():
    assert set(for_type_checkers()) == set(hf_vitstudy.__all__)
    assert {"measure", "load_profile", "compare", "judge", "write_report"} <= set(hf_vitstudy.__all__)
    assert set(hf_vitstudy.__all__) <= set(dir(hf_vitstudy))


@pytest.mark.parametrize("name", ["beauty", "_secret", "load_profiles", "torch"])
def test_an_unknown_name_is_an_attribute_error(name):
    with pytest.raises(AttributeError, match=f"module 'hf_vitstudy' has no attribute '{name}'"):
        getattr(hf_vitstudy, name)
    assert not hasattr(hf_vitstudy, name)

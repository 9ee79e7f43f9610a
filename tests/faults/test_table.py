"""`docs/faults.md` is the table of all faults: every row has its tests, and every test here has its row."""

import ast
import re
from pathlib import Path

import pytest

from hf_vitstudy.checkpoints import MOST_MODULES, MOST_PARAMETERS
from hf_vitstudy.images import FORMATS, MAX_PIXELS, MAX_RATIO


TESTS = Path(__file__).parents[1]
DOC = TESTS.parent / "docs" / "faults.md"
LAST = 92


def rows() -> dict[int, tuple[str, str, str]]:
    """(fault, behaviour, tests) by number."""
    found = {}
    for line in DOC.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[0].isdigit():
            assert int(cells[0]) not in found, f"row {cells[0]} is there twice"
            found[int(cells[0])] = tuple(cells[1:])
    return found


def named(tests: str) -> list[str]:
    """The tests that a cell names, as pytest does, below the root."""
    return [f"tests/{name}" for name in re.findall(r"`([\w/]+\.py::[^`]+)`", tests)]


ALL = [name for _, _, tests in rows().values() for name in named(tests)]


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_fault_has_a_row_with_tests_or_a_reason():
    found = rows()
    assert sorted(found) == list(range(1, LAST + 1))
    for number, (fault, behaviour, tests) in found.items():
        assert fault, number
        assert named(tests) or behaviour.startswith("does not apply: "), number
    assert sum(behaviour.startswith("does not apply") for _, behaviour, _ in found.values()) <= 3


@pytest.mark.parametrize("name", sorted(set(ALL)))
def test_every_test_of_the_table_is_there(name, request):
    """By its function; where its whole file is run, also by its case."""
    file, _, case = name.partition("::")
    function = case.partition("[")[0]
    assert function in functions(TESTS.parent / file), f"{file} has no {function}"
    collected = [item for item in request.session.items if item.nodeid.startswith(f"{file}::")]
    if functions(TESTS.parent / file) <= {item.originalname for item in collected}:
        assert any(item.nodeid == name or item.nodeid.startswith(f"{name}[") for item in collected)


def test_every_test_of_a_fault_has_a_row():
    listed = {name.partition("[")[0] for name in ALL}
    files = [path for path in Path(__file__).parent.glob("test_*.py") if path != Path(__file__)]
    assert len(files) == 5
    for path in files:
        for function in functions(path):
            assert f"tests/faults/{path.name}::{function}" in listed, function


@pytest.mark.parametrize("name", ["docs/faults.md", "SECURITY.md"])
def test_what_else_the_documents_name_is_there(name):
    path = TESTS.parent / name
    text = path.read_text(encoding="utf-8")
    found = {TESTS.parent / other for other in re.findall(r"`(benchmarks/\w+\.py)`", text)}
    found |= {path.parent / other for other in re.findall(r"\]\(([^)]+)\)", text)}
    assert len(found) >= 2
    assert [str(other) for other in found if not other.resolve().exists()] == []


def test_the_limits_of_the_document_are_those_of_the_code():
    text = (TESTS.parent / "SECURITY.md").read_text(encoding="utf-8")
    assert f"{MOST_PARAMETERS // 10**6:,} million parameters or {MOST_MODULES:,} modules" in text
    assert f"at most {MAX_PIXELS // 10**6} million pixels by the header, at most {MAX_RATIO} times" in text
    names = text.split("| images | ")[1].split(" through")[0].upper().replace("JPEG 2000", "JPEG2000")
    assert set(re.split(", | AND ", names)) == set(FORMATS)

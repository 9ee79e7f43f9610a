"""`make test` brings its browser along where it may, and says why where it may not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
APT = """#!/bin/sh
echo "$0 $*" >>"{log}"
[ "{works}" = no ] && exit 100
[ "$1" = install ] && printf '#!/bin/sh\\n' >"{bin}/chromium" && {chmod} +x "{bin}/chromium"
exit 0
"""
INSTALL = "apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core"


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def machine(folder: Path, *, has: tuple[str, ...], user: int, works: str = "yes") -> tuple[str, list[str], bool]:
    """What `make browser` says, the calls of apt-get, and whether there is a browser then."""
    bin_, log = folder / "bin", folder / "log"
    bin_.mkdir()
    program(bin_, "id", f"#!/bin/sh\necho {user}\n")
    texts = {
        "apt-get": APT.format(log=log, bin=bin_, works=works, chmod=shutil.which("chmod")),
        "sudo": f'#!/bin/sh\nshift\necho sudo >>"{log}"\nexec "$@"\n',
        "sudo-asks": "#!/bin/sh\nexit 1\n",
        "true": "#!/bin/sh\n",
        "chromium": "#!/bin/sh\n",
    }
    for name in has:
        program(bin_, name.removesuffix("-asks"), texts[name])
    done = subprocess.run(
        [str(shutil.which("make")), "browser"],
        cwd=ROOT,
        env={"PATH": str(bin_)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    calls = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return done.stdout, [call.split("/")[-1] for call in calls], (bin_ / "chromium").exists()


CASES = {
    "there already": ({"has": ("chromium", "apt-get"), "user": 0}, "", [], True),
    "root": ({"has": ("apt-get",), "user": 0}, "", ["apt-get update -qq", INSTALL], True),
    "sudo": (
        {"has": ("apt-get", "sudo", "true"), "user": 1000},
        "",
        ["sudo", "sudo", "apt-get update -qq", "sudo", INSTALL],
        True,
    ),
    "sudo asks for a password": (
        {"has": ("apt-get", "sudo-asks"), "user": 1000},
        "no right to install it: tests in a browser are skipped",
        [],
        False,
    ),
    "no sudo": ({"has": ("apt-get",), "user": 1000}, "no right to install it", [], False),
    "no apt-get": ({"has": (), "user": 0}, "no apt-get to install it", [], False),
    "no network": (
        {"has": ("apt-get",), "user": 0, "works": "no"},
        "could not be installed: tests in a browser are skipped",
        ["apt-get update -qq"],
        False,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_browser_is_installed_where_that_is_allowed(case, tmp_path):
    how, says, calls, there = CASES[case]
    said, called, found = machine(tmp_path, **how)
    assert says in said
    assert bool(said) == bool(says)
    assert (called, found) == (calls, there)


@pytest.mark.parametrize(
    ("ci", "code", "word"), [("", 5, "skipped"), ("true", 2, "CI must test the page in a browser")]
)
def test_without_a_browser_tests_are_skipped_and_in_ci_they_fail(ci, code, word, tmp_path):
    (tmp_path / "test_page.py").write_text(
        "from browsing import sync_api\nexpect = sync_api().expect\n", encoding="utf-8"
    )
    environment = {**os.environ, "PATH": str(tmp_path), "CI": ci, "PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", str(tmp_path)],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout
    assert word in done.stdout
    assert "there is no chromium" in done.stdout

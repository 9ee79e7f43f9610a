# /// script
# requires-python = ">=3.11"
# dependencies = ["hf_vitstudy[study]"]
# ///
"""Train and measure many networks that differ in what a study asks about.

    python recipes/study.py recipes/studies/NAME.yaml [--parallel N] [--minutes M] [--only REGEX]

A study is a YAML file: which recipe with which changes and seeds, what to measure on which images. Every run is `finetune.py`
as a process of its own, measured by `vitstudy measure` as soon as it is done; N go on at once, which is what a GPU wants of
networks of this size. Both can be killed and go on; what is finished is not done again. The profiles lie under
``profiles/`` of the output, ready for `vitstudy study`.

``checkpoints`` of the study are measured without training, those with ``untrained: SEED`` with initial weights. Profiles of a
network in training (``profile_at``, epochs) are taken along; that of epoch 0 is its untrained twin.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hf_vitstudy.errors import StudyError


HERE = Path(__file__).resolve().parent
KEYS = {"title", "output", "images", "split", "n", "batch_size", "analyses", "runs", "checkpoints"}
RUN_KEYS = {"name", "recipe", "set", "seeds", "profile_at", "profile_analyses"}
CHECKPOINT_KEYS = {"path", "untrained"}


@dataclass(frozen=True)
class Job:
    """One network: how it comes to be, and how it is measured.

    Attributes:
        name: of its folder and profile.
        train: arguments of `finetune.py`; empty for a checkpoint that is there.
        checkpoint: what to measure.
        untrained: seed of initial weights to measure instead.
    """

    name: str
    checkpoint: str
    train: tuple[str, ...] = ()
    untrained: int | None = None


@dataclass(frozen=True)
class Plan:
    """A study read from its file."""

    output: Path
    measure: tuple[str, ...]
    jobs: list[Job] = field(default_factory=list)


def read_plan(path: Path) -> Plan:
    """The study in a YAML file, in the order in which its networks are to be trained.

    Raises:
        StudyError: no such file, not YAML, unknown or missing keys.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StudyError(f"no study at {path} ({error.strerror}); see recipes/studies") from error
    except yaml.YAMLError as error:
        raise StudyError(f"{path} is not plain YAML: {' '.join(str(error).split())}") from error
    _check(raw, KEYS, ("output", "images", "analyses"), str(path))
    output = Path(raw["output"])
    measure = ["--images", raw["images"], "-n", str(raw.get("n", 1024)), "--analyses", raw["analyses"]]
    measure += ["--batch-size", str(raw.get("batch_size", 32))]
    measure += ["--split", raw["split"]] if "split" in raw else []
    jobs = [job for run in raw.get("runs", []) for job in _jobs(run, raw, output)]
    for name, entry in raw.get("checkpoints", {}).items():
        _check(entry, CHECKPOINT_KEYS, ("path",), f"checkpoints.{name}")
        jobs.append(Job(name, entry["path"], untrained=entry.get("untrained")))
    twice = [name for name, group in itertools.groupby(sorted(job.name for job in jobs)) if len(list(group)) > 1]
    if twice:
        raise StudyError(f"{path}: two networks are called {twice[0]!r}; give each a name of its own")
    return Plan(output, tuple(measure), jobs)


def _check(raw: Any, known: set[str], needed: tuple[str, ...], where: str) -> None:
    if not isinstance(raw, dict):
        raise StudyError(f"{where} must hold keys and values, got {type(raw).__name__}")
    for key in raw:
        if key not in known:
            raise StudyError(f"{where}: unknown key {key!r}; there are: {', '.join(sorted(known))}")
    for key in needed:
        if key not in raw:
            raise StudyError(f"{where}: {key!r} is missing")


def _jobs(run: dict[str, Any], study: dict[str, Any], output: Path) -> Iterator[Job]:
    """One job per seed."""
    _check(run, RUN_KEYS, ("name", "recipe"), "runs")
    changes = [f"{key}={_yaml(value)}" for key, value in run.get("set", {}).items()]
    if "profile_at" in run:
        watched = {"images": study["images"], "n": study.get("n", 1024), "at": run["profile_at"]}
        watched |= {"analyses": run["profile_analyses"]} if "profile_analyses" in run else {}
        changes.append(f"profile={_yaml(watched)}")
    for seed in run.get("seeds", [0]):
        name = f"{run['name']}-{seed}"
        folder = output / "checkpoints" / name
        yield Job(name, str(folder), (run["recipe"], *changes, f"seed={seed}", f"output={folder}"))


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n...\n").strip()


# ----------------------------------------------------------------------------------------------------------- running


class Workshop:
    """Does the jobs of a plan, several at once, until the time is up."""

    def __init__(self, plan: Plan, until: float, threads: int) -> None:
        self.plan, self.until, self.threads = plan, until, threads
        self.said = threading.Lock()
        self.failed: list[str] = []

    def do(self, job: Job) -> None:
        """Train, then measure."""
        if job.train and not self._run(job, "train", [sys.executable, str(HERE / "finetune.py"), *job.train]):
            return
        folder = self.plan.output / "profiles"
        for step in sorted(Path(job.checkpoint).glob("profiles/step_*")) if job.train else ():
            shutil.copytree(step, folder / f"{job.name}-{step.name}", dirs_exist_ok=True)
        if (folder / job.name / "manifest.json").exists():
            return
        twin = [] if job.untrained is None else ["--untrained", str(job.untrained)]
        command = [sys.executable, "-m", "hf_vitstudy", "measure", job.checkpoint, *self.plan.measure, *twin]
        self._run(job, "measure", [*command, "--workers", "0", "--out", str(folder / job.name)])

    def _run(self, job: Job, what: str, command: list[str]) -> bool:
        left = self.until - time.monotonic()
        if left <= 0:
            self._say(job, what, "not started, the time is up")
            return False
        log = self.plan.output / "logs" / f"{job.name}-{what}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads)}
        start = time.monotonic()
        with open(log, "w", encoding="utf-8") as file:
            try:
                code = subprocess.run(command, stdout=file, stderr=file, env=environment, timeout=left).returncode
            except subprocess.TimeoutExpired:
                code = -1
        outcome = "done" if code == 0 else "stopped, the time is up" if code == -1 else f"FAILED, see {log}"
        self._say(job, what, f"{outcome} after {time.monotonic() - start:.0f} s")
        return code == 0

    def _say(self, job: Job, what: str, text: str) -> None:
        with self.said:
            print(f"{job.name}: {what} {text}", flush=True)
            if not text.startswith("done"):
                self.failed.append(job.name)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="YAML file")
    parser.add_argument("--parallel", type=int, default=1, metavar="N", help="networks at once")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), metavar="M", help="begin nothing after that, and stop"
    )
    parser.add_argument("--only", default="", metavar="REGEX", help="only networks of these names")
    options = parser.parse_args(arguments)
    try:
        plan = read_plan(options.study)
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    jobs = [job for job in plan.jobs if re.search(options.only, job.name)]
    threads = max(1, (os.cpu_count() or 1) // options.parallel)
    workshop = Workshop(plan, time.monotonic() + 60 * options.minutes, threads)
    with ThreadPoolExecutor(options.parallel) as pool:
        list(pool.map(workshop.do, jobs))
    print(f"{len(jobs)} networks, {len(set(workshop.failed))} not finished -> {plan.output / 'profiles'}")
    return 1 if workshop.failed else 0


if __name__ == "__main__":
    sys.exit(main())

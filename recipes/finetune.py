# /// script
# requires-python = ">=3.11"
# dependencies = ["hf_vitstudy[study]"]
# ///
"""Train or fine-tune an image classifier; the one training loop of the project.

    accelerate launch recipes/finetune.py recipes/configs/NAME.yaml [key=value ...] [--push-to ORG/NAME]

A recipe is a YAML file with the fields of `hf_vitstudy.training.settings.Config`; nested fields are overridden with dots
(``optimizer.lr=1e-3``). The output is a folder as `save_pretrained` writes it, with a model card, ``training.json``
(settings, metrics, versions) and ``log.jsonl``; every other command of the project reads it as a checkpoint.

A killed run, started again by the same command, ends with the same weights to the bit on a CPU (same machine, same number of
processes), because nothing random has a state that could be lost: see `hf_vitstudy.training.order`. On a GPU the kernels
themselves may give other bits each time; ``deterministic=true`` chooses those that do not, where there are any.
Asked to end, by SIGTERM or Ctrl-C, it finishes its step and writes a checkpoint first. All faults: docs/faults.md.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import math
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast, gather_object
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from hf_vitstudy.analyses import make_analysis
from hf_vitstudy.cards import model_card
from hf_vitstudy.checkpoints import normalisation, prepare
from hf_vitstudy.demo import recipes_folder
from hf_vitstudy.disk import explained, only_process
from hf_vitstudy.errors import StudyError
from hf_vitstudy.hub import make_repo, push
from hf_vitstudy.images import load_images
from hf_vitstudy.jobs import TIMEOUT, make_job, require_on_hub, submit
from hf_vitstudy.measuring import keep_memory
from hf_vitstudy.metrics import image_scores, summarise
from hf_vitstudy.releases import opened
from hf_vitstudy.resources import machine_explained, patience
from hf_vitstudy.training.augmentation import Augment, Mix
from hf_vitstudy.training.data import (
    AugmentedStream,
    Pictures,
    Stream,
    collate,
    divide,
    is_main,
    labels_of,
    load_batches,
    open_data,
)
from hf_vitstudy.training.interruption import Stopping
from hf_vitstudy.training.model import build_model, freeze_unused, hash_checkpoint, make_processor, pin
from hf_vitstudy.training.optimisation import (
    Guard,
    layer_depths,
    learning_rate,
    make_average,
    make_optimizer,
    set_learning_rate,
)
from hf_vitstudy.training.order import MicroBatches, make_schedule, seed_of
from hf_vitstudy.training.resume import (
    LOG,
    PROFILES,
    RECORD,
    RESUME,
    changes,
    delete_run,
    newest_checkpoint,
    read_log,
    read_record,
    refuse_overwriting,
    what_stays,
    write_checkpoint,
    write_record,
)
from hf_vitstudy.training.settings import Config, ProfileConfig, config_sha256, identity, read_config


# --------------------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class Data:
    """What is trained on, chosen by and tested on."""

    train: Pictures | Stream
    held: Pictures | None
    test: Pictures
    classes: list[str]
    geometry: Callable[[np.ndarray], np.ndarray]  # of a training image, before its random part

    @property
    def n(self) -> int:
        return self.train.n if isinstance(self.train, Stream) else len(self.train)

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.test[0][0].shape[1:]
        return height, width

    @property
    def rows(self) -> Tensor | None:
        return None if isinstance(self.train, Stream) else self.train.rows

    def describe(self) -> dict[str, Any]:
        parts = {"train": self.train, "holdout": self.held, "test": self.test}
        return {name: part.describe() for name, part in parts.items() if part is not None}


def load_data(config: Config, processor: Any) -> Data:
    """Images decoded by the study's decoder and resized by the processor that the study will use."""
    train, test = open_data(config.data)
    classes, limit = list(train.classes or []), config.data.memory_gib * 2**30

    def resize(image: np.ndarray) -> np.ndarray:
        return prepare(processor, image)

    def keep_size(image: np.ndarray) -> np.ndarray:
        return image.transpose(2, 0, 1)

    tested = Pictures(test, labels_of(test, classes), resize, limit)
    geometry = keep_size if config.augment.crop == "resized" else resize
    if isinstance(train, Stream):
        return Data(train, None, tested, classes, geometry)
    labels = labels_of(train, classes)
    rows, held = divide(labels, config.data, config.seed)
    chosen_by = Pictures(train, labels, resize, limit, held) if len(held) else None
    return Data(Pictures(train, labels, geometry, limit, rows), chosen_by, tested, classes, geometry)


class Normaliser:
    """``pixel_values`` of uint8 images, on the device they are moved to."""

    def __init__(self, processor: Any, device: torch.device, channels_last: bool = False) -> None:
        scale, mean, std = normalisation(processor)
        self.scale, self.colour = scale / 255, [value / scale for value in mean]
        self.mean, self.std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (mean, std))
        self.form = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, pixels: Tensor) -> Tensor:
        moved = pixels.to(self.mean.device, non_blocking=True).float()
        return moved.mul_(self.scale).sub_(self.mean).div_(self.std).contiguous(memory_format=self.form)


# --------------------------------------------------------------------------------------------------------- evaluation

BATCH = 128  # images at most; not the processes' own share, or the metrics would depend on their number
SCORES = ("correct", "top5", "nll", "confidence")  # of an image, see `image_scores`


@torch.no_grad()
def evaluate(
    accelerator: Accelerator, model: nn.Module, pictures: Pictures, normalise: Normaliser, config: Config
) -> dict[str, float]:
    """Metrics of `hf_vitstudy.metrics.summarise`, exactly those of a single process whatever the number of processes.

    And ``nll_error``, the standard error of ``nll`` over images.

    Processes take whole batches in turn, so that every image is seen among the same others, and once. `model` is the unwrapped
    one: processes may have different numbers of batches, and DDP would wait for the missing one.
    """
    n, rank, world = len(pictures), accelerator.process_index, accelerator.num_processes
    size = min(config.batch_size // config.accumulation, BATCH)
    batches = [range(start, min(start + size, n)) for start in range(0, n, size)][rank::world]
    device = accelerator.device
    found = torch.zeros(5, n, dtype=exact(device), device=device)  # four scores and a count, by image
    broadcast(list(model.buffers()))  # each process has running statistics of its own
    model.eval()
    for rows, (pixels, labels) in zip(batches, in_order(pictures, batches, config.data.workers), strict=True):
        with accelerator.autocast():
            logits = model(pixel_values=normalise(pixels)).logits
        scores = image_scores(logits.float().cpu().numpy(), labels.numpy())
        found[:4, rows.start : rows.stop] = torch.from_numpy(np.stack([scores[name] for name in SCORES])).to(found)
        found[4, rows.start : rows.stop] = 1
    model.train()
    *totals, counted = accelerator.reduce(found, "sum").cpu().numpy()
    assert (counted == 1).all(), "every image is counted exactly once"
    scores = dict(zip(SCORES, totals, strict=True))
    return summarise(**scores) | {"nll_error": float(scores["nll"].std(ddof=1) / math.sqrt(n)) if n > 1 else 0.0}


def exact(device: torch.device) -> torch.dtype:
    """The type to sum in; Apple's GPUs have no 64 bits."""
    return torch.float32 if device.type == "mps" else torch.float64


def in_order(pictures: Pictures, batches: list[range], workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The images of each batch, without chance."""
    if pictures.pixels is not None:
        yield from ((pictures.pixels[batch.start : batch.stop], pictures.labels[batch]) for batch in batches)
        return
    waiting = {"num_workers": workers, "timeout": patience(workers)}
    for batch in DataLoader(pictures, batch_sampler=batches, collate_fn=collate, **waiting):
        if isinstance(batch, StudyError):
            raise batch
        yield batch


# ------------------------------------------------------------------------------------------------------------ logging


class Log:
    """``log.jsonl``: one JSON object a line. After a resume the lines behind the checkpoint are dropped and written again."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept = [line for line in read_log(path) if line["step"] <= step]
        fresh = path.with_name(f".{path.name}.new")  # a kill while it is written leaves the old one
        with explained(path, what_stays(path.parent)):
            fresh.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
            os.replace(fresh, path)

    def __call__(self, **values: Any) -> None:
        with explained(self.path, what_stays(self.path.parent)), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def check_trackers(names: list[str]) -> None:
    """Accelerate passes over a tracker that is not installed without a word."""
    from accelerate.utils import LoggerType

    known = [str(kind) for kind in LoggerType if str(kind) != "all"]
    for name in names:
        if name not in known:
            raise StudyError(f"log_with: {name!r} is no tracker of accelerate; there are: {', '.join(known)}")
        if importlib.util.find_spec(name) is None:
            raise StudyError(f"log_with: {name} is not installed; pip install {name}, or 'hf_vitstudy[track]'")


def flat(settings: dict[str, Any], where: str = "") -> dict[str, Any]:
    """Nested settings with dotted names, as trackers show them."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        nested = isinstance(value, dict) and value
        found |= flat(value, f"{where}{key}.") if nested else {where + key: value if _plain(value) else str(value)}
    return found


def _plain(value: Any) -> bool:
    return isinstance(value, int | float | str)


def make_deterministic() -> None:
    """Kernels that give the same bits again; where there is none, a warning. Before anything runs on the GPU."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)


def quieten_libraries() -> None:
    """What they report about loading is checked here, and their bars would hide ours."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def say(text: str) -> None:
    if is_main():
        tqdm.write(text, file=sys.stderr)


# ------------------------------------------------------------------------------------------------------------- output


def versions() -> dict[str, str]:
    names = ("hf_vitstudy", "torch", "torchvision", "transformers", "accelerate", "datasets")
    return {name: metadata.version(name) for name in names} | {"python": platform.python_version()}


def save_output(folder: Path, model: Any, processor: Any, record: dict[str, Any]) -> None:
    """The folder other tools read: weights, processor, card; ``training.json`` comes last and says that it is complete.

    Raises:
        StudyError: the disk is full; checkpoints stay, and no half weights.
    """
    try:
        with explained(folder, what_stays(folder)):
            (folder / RECORD).unlink(missing_ok=True)
            _delete_weights(folder)
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
            (folder / "README.md").write_text(model_card(record), encoding="utf-8")
            write_record(folder, record)
    except StudyError:
        _delete_weights(folder)
        raise


def _delete_weights(folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        path.unlink()


def save_profile(folder: Path, model: Any, processor: Any, config: Config, record: dict[str, Any]) -> None:
    """A profile of the network at a step; the network passes through `from_pretrained` like any other checkpoint.

    `record` is what is known of the run so far: its settings, data, ``steps`` done and ``total_steps``.
    """
    from hf_vitstudy import load_profile, measure

    wanted, target = config.profile, profile_folder(folder, record["steps"])
    assert wanted is not None, "called where profiles are asked for"
    try:
        load_profile(target)
        return
    except StudyError:
        shutil.rmtree(target, ignore_errors=True)
    device, options = next(model.parameters()).device, {"analyses": wanted.analyses} if wanted.analyses else {}
    passing = folder / PROFILES / ".network"
    shutil.rmtree(passing, ignore_errors=True)  # of a killed run
    checkpoint = passing / f"{folder.name}-step{record['steps']}"
    with explained(target, what_stays(folder)):
        model.save_pretrained(checkpoint)
        processor.save_pretrained(checkpoint)
        write_record(checkpoint, record)
    options |= {"split": wanted.split, "n": wanted.n, "device": str(device), "progress": False, "workers": 0}
    measure(checkpoint, wanted.images, alone=True, **options).save(
        target
    )  # the other processes wait in their next step
    shutil.rmtree(passing)


def profile_folder(folder: Path, step: int) -> Path:
    return folder / PROFILES / f"step_{step:09d}"


def check_profile(wanted: ProfileConfig, epochs: float) -> None:
    """What is to be measured, when and on which images, before the hours of training.

    Raises:
        StudyError: no such analysis, images or split, or an epoch that this run has not.
    """
    for at in wanted.at or ():
        if not 0 <= at <= epochs:
            raise StudyError(f"profile.at must be in [0, {epochs:g}], the epochs of this run, got {at:g}")
    for text in wanted.analyses or ():
        make_analysis(text)
    load_images(wanted.images, split=wanted.split, n=wanted.n)


def due(wanted: ProfileConfig, step: int, steps_per_epoch: int) -> bool:
    """Whether a profile is asked for after this many steps."""
    if wanted.at is None:
        return step % (wanted.every * steps_per_epoch) == 0
    return step in [round(epoch * steps_per_epoch) for epoch in wanted.at]


def lacking(config: Config, folder: Path, record: dict[str, Any], steps_per_epoch: int) -> Iterator[str]:
    """What is asked for beside the weights, which do not depend on it, and was not when a finished run was trained."""
    if config.eval_train and "train" not in record["metrics"]:
        yield "metrics of the training images (eval_train)"
    if config.profile:
        steps = [step for step in range(record["steps"] + 1) if due(config.profile, step, steps_per_epoch)]
        steps += [record["steps"]] if config.profile.at is None else []
        folders = [profile_folder(folder, step) for step in dict.fromkeys(steps)]
        names = [f"{PROFILES}/{each.name} (profile)" for each in folders if not each.is_dir()]
        yield from names[:3]
        if names[3:]:
            yield f"{len(names) - 3} more"


class Choice:
    """Which weights a run ends with: the last, or the best on the held out images; and when it has gone on long enough."""

    def __init__(self, config: Config) -> None:
        self.best, self.patience = config.select == "best", config.patience
        self.state: dict[str, Any] = {"step": 0, "value": [-math.inf, -math.inf], "stale": 0, "model": {}}

    def see(self, metrics: dict[str, float], step: int, model: nn.Module) -> None:
        """Note an evaluation: the higher accuracy is better, at equal accuracy the lower loss."""
        value = [metrics["accuracy"], -metrics["nll"]]
        if value <= self.state["value"]:
            self.state["stale"] += 1
            return
        tensors = model.state_dict().items() if self.best else ()
        weights = {name: tensor.detach().cpu().clone() for name, tensor in tensors}
        self.state = {"step": step, "value": value, "stale": 0, "model": weights}

    @property
    def enough(self) -> bool:
        return self.patience is not None and self.state["stale"] >= self.patience


# --------------------------------------------------------------------------------------------------------------- main


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="recipe: a YAML file, or the name of a shipped one")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    parser.add_argument("--push-to", metavar="ORG/NAME", help="model on the Hub that the finished run is pushed to")
    parser.add_argument("--hf-job", metavar="FLAVOR", help="train in a Job on the Hub's machines, such as a10g-small")
    parser.add_argument("--timeout", default=TIMEOUT, help="of the Job, after which it ends without a result; 2h")
    parser.add_argument(
        "--requirement", help="how the Job installs this package, such as git+https://HOST/OWNER/NAME@COMMIT"
    )
    parser.add_argument("--dry-run", action="store_true", help="show the call of the Job, and start none")
    options = parser.parse_intermixed_args(arguments)
    config = read_config(options.config, options.overrides, recipes_folder() / "configs")
    if options.hf_job:
        return start_job(config, options) if is_main() else None
    if options.dry_run:
        raise StudyError("--dry-run shows the call of a Job; name its hardware, as in --hf-job a10g-small")
    folder = Path(config.output)
    own = only_process(folder, "training into") if is_main() else contextlib.nullcontext()
    with own, Stopping() as stopping, machine_explained("double accumulation: the same batch in smaller parts"):
        train(config, folder, options.push_to, stopping)


def train(config: Config, folder: Path, repo: str | None, stopping: Stopping) -> None:
    """From what an earlier start left to the finished network in `folder`, and on the Hub in `repo` if that is named."""
    # What an earlier start left: a finished run, a checkpoint to go on from, or another run.
    record, state = read_record(folder), newest_checkpoint(folder / RESUME, say)
    refuse_overwriting(folder, record, config.model.get("checkpoint"), config.replace)
    before = record or state
    config = pin(config, before["config"]["model"].get("checkpoint") if before else None)
    check_trackers(config.log_with)
    if config.precision == "fp16" and not torch.cuda.is_available():
        raise StudyError("precision: fp16 needs a GPU; use bf16 or no")
    if config.deterministic:
        make_deterministic()
    quieten_libraries()
    accelerator = Accelerator(
        mixed_precision=config.precision,
        gradient_accumulation_steps=config.accumulation,
        log_with=config.log_with or None,
        project_dir=folder / "trackers" if config.log_with else None,
        # the others wait while the first measures a profile or writes a checkpoint; NCCL gives up after ten minutes
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=2))],
    )
    rank, world, device = accelerator.process_index, accelerator.num_processes, accelerator.device
    if repo and accelerator.is_main_process:
        make_repo(repo, "model")  # before hours of work, not after them

    processor = make_processor(config)
    data = load_data(config, processor)
    schedule = make_schedule(config, data.n)
    run = {"config": identity(config), "data": data.describe(), "checkpoint_sha256": hash_checkpoint(config)}

    changed = changes(record, run) or changes(state, run)
    found = gather_object([(record is not None, state["step"] if state is not None else None, changed)])
    if any(other != found[0] for other in found):
        raise StudyError(
            f"the processes find different things in {folder}; it must lie on a disk that all of them share"
        )
    if changed and not config.replace:
        raise StudyError(
            f"{folder} holds another run ({'; '.join(changed[:3])}); choose another output, or replace=true to delete it"
        )
    finished = record is not None and not changed
    if config.profile and not finished:
        check_profile(config.profile, schedule.epochs)
    if changed and accelerator.is_main_process:
        delete_run(folder)
    if record is not None and finished:
        left = ", ".join(lacking(config, folder, record, schedule.steps_per_epoch))
        then = f"without {left}: made in training alone, so choose another output to train again with them"
        say(
            f"{folder}: finished before, {accuracy(record['metrics']['test'])} right; {then if left else 'nothing to do'}"
        )
        return publish(folder, repo)
    if changed:
        state = None

    # Model and optimizer. The learning rate is set by hand: a prepared scheduler steps once per process.
    normalise = Normaliser(processor, device, config.channels_last)
    plain = build_model(config, data.classes)
    probe = torch.randn(2, 3, *data.size, generator=torch.Generator().manual_seed(0))
    freeze_unused(plain, probe)
    depths = layer_depths(plain, probe) if config.optimizer.layer_decay is not None else None
    if config.channels_last:
        plain.to(memory_format=torch.channels_last)
    plain.to(device)
    average = make_average(plain, config.ema) if config.ema is not None else None
    if config.compile:
        plain.compile()
    model, optimizer = accelerator.prepare(plain, make_optimizer(plain, config.optimizer, depths))
    network = plain if average is None else average.module  # what is tested and saved
    choice, guard = Choice(config), Guard(device, partial(learning_rate, config.optimizer, schedule=schedule))

    # Profiles of another run, or of other images, are none of this one; the network has not learned yet.
    folder.mkdir(parents=True, exist_ok=True)
    watched = asdict(config.profile) | {"every": None, "at": None} if config.profile else None
    if accelerator.is_main_process and (state is None or watched not in (None, state["watched"])):
        shutil.rmtree(folder / PROFILES, ignore_errors=True)
    if config.profile and due(config.profile, 0, schedule.steps_per_epoch) and accelerator.is_main_process:
        save_profile(folder, network, processor, config, run | {"steps": 0, "total_steps": schedule.steps})

    # Where an earlier start was killed, go on from its newest complete checkpoint.
    # sums of loss, correct, images since the last line of the log; in 64 bits, so that their order does not matter
    first, window = 0, torch.zeros(3, dtype=exact(device), device=device)
    if state is not None:
        first, choice.state, guard.skipped = state["step"], state["choice"], state["skipped"]
        plain.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            average.load_state_dict(state["average"])
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(state["scaler"])
        if accelerator.is_main_process:
            window += state["window"].to(device)
        if state["processes"] != world:
            say(f"warning: begun by {state['processes']} processes, goes on with {world}: the last bits will differ")
    log = Log(folder / LOG, first) if accelerator.is_main_process else lambda **values: None
    if config.log_with:
        names = {"trackio": {"name": folder.name, "resume": "allow"}, "wandb": {"name": folder.name}}
        accelerator.init_trackers("hf_vitstudy", config=flat(run["config"]), init_kwargs=names)

    augment, mix = (
        Augment(config.augment, data.size, normalise.colour, config.seed),
        Mix(config.augment, len(data.classes)),
    )
    keys = data.train.keys(schedule, first) if isinstance(data.train, Stream) else schedule.keys(first)
    batches = MicroBatches(keys, schedule.steps - first, config.batch_size, config.accumulation, rank, world)
    source = AugmentedStream(data.train, data.geometry, augment) if isinstance(data.train, Stream) else data.train
    loader = load_batches(source, augment, batches, config.data, device)
    bar = tqdm(
        total=schedule.steps * config.batch_size,
        initial=first * config.batch_size,
        desc=f"training {folder.name}",
        unit="image",
        disable=not accelerator.is_main_process,
    )
    shown: dict[str, float] = {}  # beside the bar
    metrics: dict[str, dict[str, float]] = {}
    seconds, since = 0.0, first  # of training alone, and the step of the last line of the log
    model.train()
    stopping.finishing = True
    for step in range(first, schedule.steps):
        start = time.perf_counter()
        rate = learning_rate(config.optimizer, step, schedule)
        set_learning_rate(optimizer, rate)

        for micro in range(config.accumulation):
            batch = next(loader)
            if isinstance(batch, StudyError):
                raise batch
            pixels, labels = normalise(batch[0]), batch[1].to(device, non_blocking=True)
            torch.manual_seed(seed_of(config.seed, "step", step, micro, rank))
            pixels, targets = mix(pixels, labels)
            with accelerator.accumulate(model):
                # the loss stays outside the model: HF ViT turns soft labels into a multi-label problem and saves that
                logits = model(pixel_values=pixels).logits.float()
                loss = cross_entropy(logits, targets, label_smoothing=config.label_smoothing)
                guard.see("loss", loss, step)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(model.parameters(), config.optimizer.clip or math.inf)
                    guard.see_norm(norm, step, scaled=accelerator.scaler is not None)
                optimizer.step()
                optimizer.zero_grad()
            right = targets if targets.ndim == 1 else targets.argmax(1)  # of a mixed image, the larger part
            correct = (logits.detach().argmax(1) == right).sum()
            window += torch.stack([loss.detach() * len(labels), correct, correct.new_tensor(len(labels))])
        if average is not None:
            average.update_parameters(plain)

        done = step + 1
        seconds += time.perf_counter() - start
        bar.update(config.batch_size)
        last = done == schedule.steps
        log_now, save_now = last or done % config.log_every == 0, not last and done % config.checkpoint_every == 0
        test_now = last or done % (config.eval_every * schedule.steps_per_epoch) == 0
        profile_now = config.profile and due(config.profile, done, schedule.steps_per_epoch)
        # several processes ask each other, which waits for the device, only where they wait for it anyway
        stop_now = not last and (world == 1 or log_now or save_now or test_now) and stopping.agreed(accelerator)
        save_now = save_now or stop_now
        if log_now or save_now or test_now or profile_now:
            guard.check(accelerator, schedule, data.rows)
        if log_now:
            loss_sum, correct_sum, count = accelerator.reduce(window, "sum").tolist()
            values = {"loss": loss_sum / count, "accuracy": correct_sum / count, "lr": rate}
            speed = round((done - since) * config.batch_size / seconds, 1)
            log(step=done, epoch=done / schedule.steps_per_epoch, **values, images_per_second=speed)
            accelerator.log(values | {"images_per_second": speed}, step=done)
            shown |= {name: f"{values[name]:.3f}" for name in ("loss", "accuracy")}
            bar.set_postfix(shown, refresh=False)
            window.zero_()
            seconds, since = 0.0, done
        if test_now:
            name, pictures = ("test", data.test) if data.held is None else ("holdout", data.held)
            metrics = {name: evaluate(accelerator, network, pictures, normalise, config)}
            log(step=done, epoch=done / schedule.steps_per_epoch, **metrics)
            accelerator.log({f"{name}/{key}": value for key, value in metrics[name].items()}, step=done)
            shown |= {name: f"{metrics[name]['accuracy']:.3f}"}
            choice.see(metrics[name], done, network)
        at_the_end = config.profile and config.profile.at is None and (last or choice.enough)
        if (profile_now or at_the_end) and accelerator.is_main_process:
            save_profile(folder, network, processor, config, run | {"steps": done, "total_steps": schedule.steps})
        if choice.enough:
            break
        if save_now:
            total = accelerator.reduce(window.clone(), "sum")
            if accelerator.is_main_process:
                state = run | {
                    "step": done,
                    "model": plain.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "average": average.state_dict() if average is not None else None,
                    "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
                    "choice": choice.state,
                    "skipped": guard.skipped,
                    "window": total.cpu(),
                    "watched": watched,
                    "processes": world,
                }
                write_checkpoint(folder / RESUME, state, config.keep)
            accelerator.wait_for_everyone()
        if stop_now:
            say(f"stopped after step {done}; the same command goes on from there")
            raise SystemExit(stopping.code)
    bar.close()
    stopping.finishing = False

    # The weights that were chosen; where images were held out, the test images are looked at for the first time.
    chosen = done
    if config.select == "best":
        network.load_state_dict(choice.state["model"])
        chosen = choice.state["step"]
    if data.held is not None:
        metrics = {
            part: evaluate(accelerator, network, pictures, normalise, config)
            for part, pictures in (("holdout", data.held), ("test", data.test))
        }
        log(step=done, epoch=done / schedule.steps_per_epoch, selected=chosen, **metrics)
    if config.eval_train:
        metrics["train"] = evaluate(accelerator, network, data.train, normalise, config)
    if accelerator.is_main_process:
        record = run | {
            "config_sha256": config_sha256(config),
            "model_type": plain.config.model_type,
            "classes": data.classes,
            "metrics": metrics,
            "selected_step": chosen,
            "parameters": sum(parameter.numel() for parameter in plain.parameters()),
            "steps": done,
            "total_steps": done,  # of a run that ended early too: there is no more to come
            "processes": world,
            "device": device.type,
            "versions": versions(),
        }
        save_output(folder, network, processor, record)
        shutil.rmtree(folder / RESUME, ignore_errors=True)
        say(f"{folder}: {accuracy(metrics['test'])} right after {done / schedule.steps_per_epoch:g} epochs")
    publish(folder, repo)
    accelerator.end_training()


def accuracy(metrics: dict[str, float]) -> str:
    return f"{100 * metrics['accuracy']:.1f} % of {metrics['n']} test images"


# ------------------------------------------------------------------------------------------------------------ the Hub


def publish(folder: Path, repo: str | None) -> None:
    """Push a finished run to a model on the Hub, where one was named."""
    if repo is None or not is_main():
        return
    with opened(folder, repo) as release:
        say(f"{folder} -> {push(release, repo).url}")


def start_job(config: Config, options: argparse.Namespace) -> None:
    """Show the Job that trains as this command would here and, without ``--dry-run``, start it."""
    require_data_on_hub(config)
    words = ["accelerate", "launch", "-m", "hf_vitstudy.recipes.finetune", *told_again(config, options)]
    about = {"flavor": options.hf_job, "timeout": options.timeout}
    job = make_job(words, options.requirement, repo=options.push_to, type="model", **about)
    print(job, flush=True)
    if options.dry_run:
        say(f"dry run: no Job was started; its result would go to model {job.repo}")
    else:
        say(f"started: {submit(job)}; its result will be at model {job.repo}")


def require_data_on_hub(config: Config) -> None:
    """Raises where the images or the checkpoint are on this machine."""
    data, profile = config.data, config.profile
    images = {"data.train": data.train, "data.test": data.test, "profile.images": profile.images if profile else None}
    for where, value in images.items():
        if value is not None:
            advice = "make a data set on the Hub of it first: hf upload org/name FOLDER --repo-type dataset"
            require_on_hub(where, value, advice)
    if checkpoint := config.model.get("checkpoint"):
        require_on_hub(
            "model.checkpoint", checkpoint, "push it first: vitstudy push FOLDER org/name, then name org/name"
        )


def told_again(config: Config, options: argparse.Namespace) -> list[str]:
    """Recipe and settings for a machine that has the shipped recipes alone; of another recipe all settings are told."""
    output = f"output=runs/{(options.push_to or 'run').split('/')[-1]}"
    shipped = recipes_folder() / "configs" / f"{Path(options.config).name.removesuffix('.yaml')}.yaml"
    named = Path(options.config)
    if shipped.exists() and (not named.exists() or named.samefile(shipped)):
        changed = [text for text in options.overrides if text.partition("=")[0] not in ("output", "replace")]
        return [shipped.stem, *changed, output]
    settings = {name: value for name, value in asdict(config).items() if name not in ("output", "replace")}
    return ["vit_digits", *(f"{name}={_as_yaml(value)}" for name, value in settings.items()), output]


def _as_yaml(value: Any) -> str:
    """On one line; JSON would do, but YAML 1.1 takes its 1e-05 for a text."""
    return yaml.safe_dump([value], default_flow_style=True, sort_keys=False, width=math.inf).strip()[1:-1]


if __name__ == "__main__":
    keep_memory()
    try:
        main()
    except StudyError as error:
        tqdm.write(f"error: {error}", file=sys.stderr)
        sys.exit(error.code)
    except KeyboardInterrupt:
        tqdm.write("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)

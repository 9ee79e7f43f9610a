"""What decays, how fast each layer learns, what is averaged, and when a run must stop."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..blocks import find_blocks
from ..errors import DivergedError
from .order import Schedule
from .settings import OptimizerConfig


# --------------------------------------------------------------------------------------------------- parameter groups


def parameter_groups(
    model: nn.Module, config: OptimizerConfig, depths: dict[str, int] | None = None
) -> list[dict[str, Any]]:
    """Groups of parameters with their names, weight decay and share of the learning rate (``scale``).

    Weights of linear and convolutional layers decay; norms, biases, tokens, position embeddings and scales do not. By type and
    shape, not by name: HF ViT calls its norms ``layernorm_before``, HF ResNet ``normalization``, and its class token has three
    axes. With `depths` (see `layer_depths`) the learning rate falls by ``layer_decay`` from each layer to the one below it
    (Clark et al., ICLR 2020, section A).
    """
    decayed = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
        for parameter in module.parameters(recurse=False)
        if parameter.ndim > 1
    }
    top = max(depths.values()) if depths else 0
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        depth = depths[name] if depths else top
        decays = config.decay_all or id(parameter) in decayed
        scale = (config.layer_decay or 1.0) ** (top - depth)
        group = groups.setdefault((depth, not decays), {"params": [], "names": [], "scale": scale})
        group["params"].append(parameter)
        group["names"].append(name)
        group["weight_decay"] = config.weight_decay if decays else 0.0
    return [groups[key] for key in sorted(groups)]


def layer_depths(model: nn.Module, pixel_values: Tensor) -> dict[str, int]:
    """Layer of every parameter: 0 before the first block, the blocks from 1, one more for what comes after the last.

    What is called between two blocks, such as Swin's patch merging, counts with the block before it. The order is that of the
    calls: PVT and SegFormer register the embeddings of all stages before their first block.

    Args:
        pixel_values: two images or more as the network wants them; the blocks are found by a forward pass.

    Raises:
        StudyError: no blocks are found.
    """
    training = model.training
    try:
        blocks, _ = find_blocks(model.eval(), pixel_values)
        called = _modules_called(model, pixel_values)
    finally:
        model.train(training)
    paths: dict[str, int] = {}
    for block in blocks:
        found = re.match(r"block(\d+)", block.name)
        if found and block.side == "output":
            paths[block.path + "."] = int(found[1]) + 1
    last, reached, modules = max(paths.values()), 0, {}
    for name in called:
        inside = next((depth for path, depth in paths.items() if f"{name}.".startswith(path)), None)
        reached = reached if inside is None else inside
        modules[name] = last + 1 if inside is None and reached == last else reached
    return {name: modules[_owner(name, modules)] for name, _ in model.named_parameters()}


def _modules_called(model: nn.Module, pixel_values: Tensor) -> list[str]:
    """Paths of all modules in the order of their first call."""
    called: dict[str, None] = {}
    hooks = [
        module.register_forward_pre_hook(lambda module, inputs, path=path: called.setdefault(path))
        for path, module in model.named_modules()
    ]
    try:
        with torch.no_grad():
            model(pixel_values)
    finally:
        for hook in hooks:
            hook.remove()
    return list(called)


def _owner(parameter: str, called: dict[str, int]) -> str:
    """The innermost module around a parameter that is called; a list of parameters, say, never is."""
    path = parameter.rpartition(".")[0]
    while path not in called:
        path = path.rpartition(".")[0]
    return path


def make_optimizer(
    model: nn.Module, config: OptimizerConfig, depths: dict[str, int] | None = None
) -> torch.optim.Optimizer:
    groups = parameter_groups(model, config, depths)
    for group in groups:
        del group["names"]
    if config.name == "sgd":
        nesterov = config.nesterov and config.momentum > 0
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=nesterov)
    fused = next(model.parameters()).is_cuda or None
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.betas[0], config.betas[1]), fused=fused)


def learning_rate(config: OptimizerConfig, step: int, schedule: Schedule) -> float:
    """Linear warm-up, then the schedule to zero at the end; a function of the step alone.

    The cosine is Loshchilov & Hutter's (ICLR 2017, eq. 5) without restarts.
    """
    warmup = config.warmup_steps
    if warmup is None:
        warmup = round(config.warmup_epochs * schedule.steps_per_epoch)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    passed = (step - warmup) / max(1, schedule.steps - warmup)
    left = {"cosine": 0.5 * (1 + math.cos(math.pi * passed)), "linear": 1 - passed, "constant": 1.0}
    return config.lr * left[config.schedule]


def set_learning_rate(optimizer: Any, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


# ------------------------------------------------------------------------------------------------- averaged weights


def make_average(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of weights and buffers; the first steps count less, or the random start would stay.

    The decay of step t is min(decay, (1 + t) / (10 + t)), as in TensorFlow's ``ExponentialMovingAverage``. Whole numbers are
    copied: PyTorch would cut off their fractions, and what they number, such as the places of a window, has no average.
    """

    def average(averaged: Any, current: Any, count: Any) -> None:
        if not averaged[0].is_floating_point():
            torch._foreach_copy_(averaged, current)
            return
        steps = int(count)
        get_ema_multi_avg_fn(min(decay, (1 + steps) / (10 + steps)))(averaged, current, count)

    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)


# ------------------------------------------------------------------------------------------------------------ guard


NORM = "norm of the gradient"


class Guard:
    """Notes the first step whose loss or gradient is not finite, without waiting for the device at every step.

    `check` is called before anything is written, so that the last checkpoint holds good weights.

    Args:
        rate: of learning by step, to be named in the error.
    """

    SKIPS = 50  # steps in a row that fp16's scaler may skip, their gradients having overflown

    def __init__(self, device: torch.device, rate: Callable[[int], float]) -> None:
        self.rate = rate
        self.first = {what: torch.full((), math.inf, device=device) for what in ("loss", NORM)}
        self.norm = torch.zeros((), device=device)  # the last that was finite
        self.skipped = 0

    def see(self, what: str, value: Tensor, step: int) -> None:
        fine = torch.isfinite(value.detach())
        self.first[what] = torch.where(fine, self.first[what], self.first[what].clamp(max=step))

    def see_norm(self, norm: Tensor, step: int, scaled: bool) -> None:
        """Note the norm of the gradient; a `scaled` one of fp16 may overflow at times, its step is then skipped.

        By the norm, since Accelerate does not see the skips of a fused optimizer, which happen inside its kernel.
        """
        if not scaled:
            self.see(NORM, norm, step)
            self.norm = torch.where(torch.isfinite(self.first[NORM]), self.norm, norm.detach())
        else:
            self.skipped = 0 if bool(torch.isfinite(norm)) else self.skipped + 1

    def check(self, accelerator: Accelerator, schedule: Schedule, rows: Tensor | None) -> None:
        """Stop all processes where one of them saw something that is not finite.

        Args:
            rows: of the data set by image of the schedule; None for a stream.

        Raises:
            DivergedError: with the step, the epoch and the rows of the batch, the rate of learning and the last norm.
        """
        seen = torch.stack([*self.first.values()])
        steps = accelerator.gather(seen[None]).amin(0).tolist()
        for what, step in sorted(zip(self.first, steps, strict=True), key=lambda pair: pair[1]):
            if math.isfinite(step):
                before = f"; the last finite norm of the gradient was {norm:.3g}" if (norm := float(self.norm)) else ""
                raise DivergedError(
                    f"the {what} is not finite at step {int(step)} ({_batch(schedule, int(step), rows)}), with a learning "
                    f"rate of {self.rate(int(step)):.3g}{before}. Lower optimizer.lr, set optimizer.clip, or look at these "
                    "images; the last checkpoint is kept"
                )
        if self.skipped >= self.SKIPS:
            raise DivergedError(
                f"{self.skipped} steps in a row had gradients too large for fp16; use precision: bf16, or lower optimizer.lr"
            )


def _batch(schedule: Schedule, step: int, rows: Tensor | None) -> str:
    epoch, place = divmod(step, schedule.steps_per_epoch)
    if rows is None:
        first = place * schedule.batch_size
        return f"epoch {epoch}, images {first} to {first + schedule.batch_size - 1} of the stream"
    batch = rows[[index for _, index in next(schedule.keys(step))]].tolist()
    return f"epoch {epoch}, rows {', '.join(map(str, batch[:64]))}" + (", ..." if len(batch) > 64 else "")

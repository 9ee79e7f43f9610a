"""The two arms of every skip connection: what is carried on and what is added to it, found by structure.

A residual network adds at each sublayer: what leaves the addition is **skip + branch**. One recorded forward pass shows every
tensor that enters or leaves a module within a residual block; wherever one of them is, number by number, the sum of two
earlier ones, there is an addition, and the module that returned the second addend holds the branch. No module name is read, so
LayerScale, stochastic depth and a normalisation after the branch are on the right side by themselves. The branch is what the
*last* module before the addition returns: in BEiT, whose layer scale is a bare product, that is the module of stochastic depth.

Where no single module holds the branch (attention and MLP side by side, both added at once), the whole block counts as one
branch and its contribution is the difference between its output and its input. A block without skip connection has none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import Block, Call, _copied, _is_residual, first_tensor
from .errors import StudyError
from .states import as_state


@dataclass(frozen=True)
class Place:
    """Where a tensor can be had: what enters or leaves a module in its n-th call of a forward pass.

    Calls are counted since one module often serves twice, as stochastic depth does in a block of BEiT.
    """

    path: str
    side: str
    call: int = 0


@dataclass(frozen=True)
class Branch:
    """One sublayer with a skip connection.

    Attributes:
        name: of the block, and the kind where a block has several, such as ``block03.attention``; unique within a network.
        kind: ``attention``; ``conv`` (holds a convolution wider than one cell); ``pool``; ``mlp`` for the rest; ``block`` where
            a whole block counts as one.
        unit: path of the residual block.
        skip, long: where the two addends are; `long` is always the output of a module.
        projected: whether the skip passes a module of its own, such as the 1 x 1 convolution of a ResNet.
        whole: whether what is at `long` still holds the skip, so that the branch is the difference.
        depth: position among the branches, in (0, 1].
        stage: as blocks count it.
        position: of the block within its stage, in (0, 1]: 1 for the last.
        grid, prefix_count: layout of both addends.
    """

    name: str
    kind: str
    unit: str
    skip: Place
    long: Place
    projected: bool = False
    whole: bool = False
    depth: float = 0.0
    stage: int = 0
    position: float = 0.0
    grid: tuple[int, int] = (0, 0)
    prefix_count: int = 0


def find_branches(network: nn.Module, pixel_values: Tensor, blocks: list[Block]) -> list[Branch]:
    """The skip connections of `network` in the order of the forward pass; empty where it has none.

    Args:
        network: in evaluation mode.
        pixel_values: a few different images as the network wants them, (batch, 3, height, width).
        blocks: from `find_blocks`; those read at a module's output say which modules are residual blocks.
    """
    units = {block.path: block for block in blocks if block.side == "output"}
    aspect = pixel_values.shape[3] / pixel_values.shape[2]
    found = []
    for branch, shape in _record_units(network, pixel_values, set(units)):
        state = as_state(torch.empty(shape, device="meta"), aspect)
        stage = units[branch.unit].stage
        found.append(replace(branch, stage=stage, grid=state.grid, prefix_count=state.prefix_count))
    return _named(found, units)


def _named(branches: list[Branch], units: dict[str, Block]) -> list[Branch]:
    """With names, depths and places within the stage."""
    order = list(dict.fromkeys(branch.unit for branch in branches))
    stage_of = {branch.unit: branch.stage for branch in branches}
    result: list[Branch] = []
    for index, branch in enumerate(branches):
        block = units[branch.unit]
        name = block.name if block.name == block.path else block.name.split(".")[0]
        if any(other.unit == branch.unit and other is not branch for other in branches):
            name = f"{name}.{branch.kind}"
        twice = sum(other.name.split("#")[0] == name for other in result)
        peers = [unit for unit in order if stage_of[unit] == branch.stage]
        position = (peers.index(branch.unit) + 1) / len(peers)
        name += f"#{twice + 1}" if twice else ""
        result.append(replace(branch, name=name, depth=(index + 1) / len(branches), position=position))
    return result


# ------------------------------------------------------------------------------------------- one recorded forward pass


@dataclass
class _Seen:
    """A copy of one tensor in the recorded pass: networks overwrite theirs in place."""

    place: Place
    module: nn.Module
    value: Tensor


Found = list[tuple[Branch, torch.Size]]
"""Branches with the shape of what leaves their addition."""


def _record_units(network: nn.Module, pixel_values: Tensor, units: set[str]) -> Found:
    """The branches of every block. What was seen inside a block is kept to its end and no longer."""
    names = {module: path for path, module in network.named_modules()}
    inside = {child for path in units for child in network.get_submodule(path).modules()}
    seen: list[_Seen] = []
    calls: dict[nn.Module, int] = {}
    ended: list[tuple[Found, Call, torch.Size]] = []
    entered: dict[str, Call] = {}

    def note(module: nn.Module, side: str, value: Tensor | None) -> None:
        if value is not None and value.is_floating_point():
            seen.append(_Seen(Place(names[module], side, calls[module]), module, value.detach().clone()))

    def before(module, args, kwargs):
        calls[module] = calls.get(module, -1) + 1
        if names[module] in units:
            seen.clear()
            entered[names[module]] = Call(names[module], module, _copied(args), _copied(kwargs))
        note(module, "input", first_tensor((*args, *kwargs.values())))

    def after(module, args, output):
        note(module, "output", first_tensor(output))
        if names[module] in units:
            ended.append((_additions(names[module], seen), entered.pop(names[module]), seen[-1].value.shape))

    handles = [module.register_forward_pre_hook(before, with_kwargs=True) for module in inside]
    handles += [module.register_forward_hook(after) for module in inside]
    try:
        with torch.no_grad():
            network(pixel_values)
    finally:
        for handle in handles:
            handle.remove()
    return [item for found, call, shape in ended for item in found or _as_a_whole(call, shape)]


# ------------------------------------------------------------------------------------------------ finding the additions


def _additions(path: str, seen: list[_Seen]) -> Found:
    """Every addition within one block, as branches with what leaves the addition."""
    streams, since = [seen[0]], 0
    found: Found = []
    for index, tensor in enumerate(seen):
        last = index == len(seen) - 1
        if index == 0 or not (tensor.place.side == "input" or last):
            continue
        if any(_equal(tensor.value, earlier.value) for earlier in seen[:index]):
            continue
        outputs = [other for other in seen[:index] if other.place.side == "output"]
        pair = _addends(tensor.value, streams, outputs, rectified=last and not found)
        if pair is None:
            continue
        skip, long = pair
        kind = _kind([other.module for other in seen[since:index] if other.module is not seen[0].module])
        projected = skip not in streams
        found.append((Branch("", kind, path, skip.place, long.place, projected=projected), tensor.value.shape))
        streams.append(tensor)
        since = index
    return found


def _addends(total: Tensor, streams: list[_Seen], outputs: list[_Seen], rectified: bool) -> tuple[_Seen, _Seen] | None:
    """(skip, branch) among earlier tensors whose sum is `total`, or its ReLU; None where there is no such pair."""
    outputs = [output for output in reversed(outputs) if output.value.shape == total.shape]
    candidates = [stream for stream in reversed(streams) if stream.value.shape == total.shape] + outputs
    for skip in candidates:
        for long in outputs:
            if _is_sum(total, skip.value, long.value) or (rectified and _is_sum(total, skip.value, long.value, True)):
                return (skip, long) if skip in streams or _is_longer(long, skip, outputs) else (long, skip)
    return None


def _is_sum(total: Tensor, first: Tensor, second: Tensor, rectified: bool = False) -> bool:
    """Whether `total` is first + second up to rounding, and neither of them alone. A few numbers are looked at first."""
    step = max(1, total.numel() // _PROBE)
    few = [tensor.flatten()[::step] for tensor in (total, first, second)]
    for a, b, c in (few, (total, first, second)):
        added = (b + c).relu() if rectified else b + c
        if not bool(((a - added).abs() <= 4 * torch.finfo(a.dtype).eps * (b.abs() + c.abs())).all()):
            return False
    return not (torch.equal(total, first) or torch.equal(total, second))


_PROBE = 64


def _equal(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.equal(first, second)


def _is_longer(long: _Seen, skip: _Seen, outputs: list[_Seen]) -> bool:
    """Whether `long` is the branch: of a projection and a branch, the branch has more parameters."""

    def parameters(of: _Seen) -> int:
        same = [other.module for other in outputs if _equal(other.value, of.value)]
        return max(sum(p.numel() for p in module.parameters()) for module in same)

    return parameters(long) >= parameters(skip)


def _kind(modules: list[nn.Module]) -> str:
    if any(re.search(r"attention|attn", type(module).__name__, re.IGNORECASE) for module in modules):
        return "attention"
    if any(isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1 for module in modules):
        return "conv"
    return "pool" if any(isinstance(module, nn.AvgPool2d | nn.MaxPool2d) for module in modules) else "mlp"


def _as_a_whole(call: Call, shape: torch.Size) -> Found:
    """The block as one branch, where it has a skip connection although no single module holds its branch."""
    if not _is_residual(call):
        return []
    skip, long = Place(call.path, "input"), Place(call.path, "output")
    return [(Branch("", "block", call.path, skip, long, whole=True), shape)]


# ------------------------------------------------------------------------------------------------ reading and removing


Action = Callable[[Tensor], Tensor | None]
"""Sees a tensor; what it returns takes its place (at a module's output only)."""


@contextmanager
def _watching(network: nn.Module, actions: dict[Place, list[Action]]) -> Iterator[None]:
    """Runs actions at places during forward passes within the context."""
    modules = dict(network.named_modules())
    calls: dict[str, int] = {}

    def restart(module, args, kwargs):
        calls.clear()

    def before(path: str):
        def hook(module, args, kwargs):
            calls[path] = calls.get(path, -1) + 1
            for action in actions.get(Place(path, "input", calls[path]), []):
                action(_tensor_of((*args, *kwargs.values())))

        return hook

    def after(path: str):
        def hook(module, args, output):
            changed = None
            for action in actions.get(Place(path, "output", calls[path]), []):
                new = action(_tensor_of(output if changed is None else changed))
                changed = changed if new is None else _with_first(output, new)
            return changed

        return hook

    handles = [network.register_forward_pre_hook(restart, with_kwargs=True)]
    for path in dict.fromkeys(place.path for place in actions):
        handles.append(modules[path].register_forward_pre_hook(before(path), with_kwargs=True))
        handles.append(modules[path].register_forward_hook(after(path)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tensor_of(values: Any) -> Tensor:
    tensor = first_tensor(values)
    assert tensor is not None, "the place was chosen because a tensor is there"
    return tensor


def _with_first(output: Any, new: Tensor) -> Any:
    """A module's output with its first tensor replaced."""
    if isinstance(output, Tensor):
        return new
    if isinstance(output, dict):
        key = next(key for key, value in output.items() if isinstance(value, Tensor))
        output[key] = new
        return output
    place = next(index for index, value in enumerate(output) if isinstance(value, Tensor))
    return type(output)([*output[:place], new, *output[place + 1 :]])


@contextmanager
def branches_hooked(
    network: nn.Module, branches: list[Branch], visit: Callable[[Branch, Tensor, Tensor], None]
) -> Iterator[None]:
    """Calls ``visit(branch, skip, long)`` with both addends of every branch during forward passes within the context.

    They are the network's own tensors, valid only during the call, since networks add in place.
    """
    actions: dict[Place, list[Action]] = {}
    for branch in branches:
        first, second = _pairing(branch, visit)
        actions.setdefault(branch.skip, []).append(first)
        actions.setdefault(branch.long, []).append(second)
    with _watching(network, actions):
        yield


def _pairing(branch: Branch, visit: Callable[[Branch, Tensor, Tensor], None]) -> tuple[Action, Action]:
    """Two actions that wait for each other: a projection may run before or after the branch."""
    held: dict[str, Tensor] = {}

    def meet(which: str, value: Tensor) -> None:
        held[which] = value
        if len(held) == 2:
            skip, long = held["skip"], held["long"]
            held.clear()
            visit(branch, skip, long - skip if branch.whole else long)

    return lambda value: meet("skip", value), lambda value: meet("long", value)


@contextmanager
def without_branch(network: nn.Module, branch: Branch) -> Iterator[None]:
    """The network with a branch replaced by zero: only the skip is left. No weight is touched."""
    held: list[Tensor] = []

    def hold(value: Tensor) -> None:
        held[:] = [value.clone()]

    if branch.whole:
        actions: dict[Place, list[Action]] = {branch.skip: [hold], branch.long: [lambda value: held[0]]}
    else:
        actions = {branch.long: [torch.zeros_like]}
    with _watching(network, actions):
        yield


@contextmanager
def without_skip(network: nn.Module, branch: Branch) -> Iterator[None]:
    """The network with a skip removed: only the branch is left. No weight is touched.

    An identity skip has no module to silence, so the branch is lowered by what the addition will put back: exact up to the
    rounding of one subtraction.
    """
    held: list[Tensor] = []

    def hold(value: Tensor) -> None:
        held[:] = [value.clone()]

    if branch.projected:
        actions: dict[Place, list[Action]] = {branch.skip: [torch.zeros_like]}
    else:
        actions = {branch.skip: [hold], branch.long: [lambda value: value - held[0]]}
    with _watching(network, actions):
        yield


# ----------------------------------------------------------------------------------------------- single convolutions


def spatial_convolutions(network: nn.Module, branch: Branch) -> list[str]:
    """Paths of the convolutions wider than one cell within a convolutional branch, in order."""
    if branch.kind != "conv":
        return []
    within = dict(network.get_submodule(branch.unit).named_modules(prefix=branch.unit))
    skip = branch.skip.path + "." if branch.projected else None
    return [
        path
        for path, module in within.items()
        if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1 and not (skip and path.startswith(skip))
    ]


@contextmanager
def without_convolution(network: nn.Module, path: str) -> Iterator[None]:
    """The network with one convolution replaced by the identity, at a stride by the mean over each new cell.

    Raises:
        StudyError: the convolution changes the number of channels, so that there is no identity.
    """
    module = network.get_submodule(path)
    assert isinstance(module, nn.Conv2d), "from spatial_convolutions"
    if module.in_channels != module.out_channels:
        raise StudyError(
            f"{path} turns {module.in_channels} channels into {module.out_channels}, so the identity cannot replace it; "
            "remove the branch it belongs to"
        )

    def hook(module, args, output):
        return nn.functional.adaptive_avg_pool2d(args[0], output.shape[-2:])

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()

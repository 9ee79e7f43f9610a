"""Where to look: the blocks of any vision network, found by structure.

Module paths differ between families and between versions of transformers, so no path is written here. What residual
networks share is the skip connection: **with its parameters at zero, a residual block returns its input**. That single test
finds the blocks of vision transformers and of ResNets alike, tells a block from the stage around it and from the
convolutions inside it (the innermost repeated class that passes), and shows where, within a transformer block, the residual
stream lies between attention and MLP: at the first module after attention whose input is still the block's input.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .errors import StudyError
from .states import State, as_state


@dataclass(frozen=True)
class Block:
    """One place to read.

    Attributes:
        name: role and number, such as ``block03.attention``; unique within a network.
        kind: what came last: ``stem``, ``embedding``, ``attention``, ``mlp``, ``conv`` or ``block``.
        path: of the module whose input or output is read.
        side: ``input`` or ``output``.
        depth: position among the places read, in (0, 1].
        stage: counts the sizes of the map, from 1.
        channels, grid, prefix_count: layout of the state there.
    """

    name: str
    kind: str
    path: str
    side: str
    depth: float = 0.0
    stage: int = 0
    channels: int = 0
    grid: tuple[int, int] = (0, 0)
    prefix_count: int = 0


@dataclass(frozen=True)
class AttentionLayer:
    """A module that returns attention weights (batch, head, query, key) as its second output.

    Attributes:
        window: (height, width) in cells where attention stays within windows and the module says so by its
            ``attention_window``. Weights are then (batch·windows, head, query, key), windows and cells row by row.
    """

    name: str
    path: str
    window: tuple[int, int] | None = None


def find_blocks(
    network: nn.Module, pixel_values: Tensor, pattern: str | None = None
) -> tuple[list[Block], list[AttentionLayer]]:
    """The places to read and the attention layers of `network`, in the order of the forward pass.

    Args:
        network: in evaluation mode.
        pixel_values: a few different images as the network wants them, (batch, 3, height, width), batch at least 2.
        pattern: regular expression on module paths; reads the outputs of the modules that match it in full, instead of
            finding blocks by structure.

    Raises:
        StudyError: no blocks, or states whose images or places were regrouped.
    """
    calls = _record(network, pixel_values[:1])  # one image tells the structure, at a third of the cost
    blocks = _by_structure(network, calls) if pattern is None else _by_pattern(calls, pattern)
    blocks = _with_layout(network, blocks, pixel_values)
    return blocks, _attention_layers(network, calls, blocks)


# ------------------------------------------------------------------------------------------- one recorded forward pass


@dataclass
class Call:
    """One module's call in the recorded pass. Tensors are copies, since networks overwrite theirs in place."""

    path: str
    module: nn.Module
    args: tuple
    kwargs: dict[str, Any]
    has_attention: bool = False


def first_tensor(values: Any) -> Tensor | None:
    """The first tensor in what a module was given or has returned."""
    if isinstance(values, Tensor):
        return values
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, tuple | list):
        return next((value for value in values if isinstance(value, Tensor)), None)
    return None


def _record(network: nn.Module, pixel_values: Tensor) -> list[Call]:
    """Calls of all modules that may be blocks or attention, in the order in which they began."""
    members = _repeated_members(network)
    names = {module: path for path, module in network.named_modules()}
    calls: list[Call] = []

    def before(module, args, kwargs):
        keep = module in members
        calls.append(Call(names[module], module, _copied(args) if keep else (), _copied(kwargs) if keep else {}))

    def after(module, args, output):
        call = next(call for call in reversed(calls) if call.module is module)
        call.has_attention = attention_weights(output) is not None

    handles = []
    for module in network.modules():
        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after))
    try:
        with torch.no_grad():
            network(pixel_values)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _copied(values: Any) -> Any:
    if isinstance(values, Tensor):
        return values.detach().clone()
    if isinstance(values, tuple | list):
        return type(values)(_copied(value) for value in values)
    if isinstance(values, dict):
        return {key: _copied(value) for key, value in values.items()}
    return values


def _repeated_members(network: nn.Module) -> set[nn.Module]:
    """Members of lists of modules whose class is not one of torch's own layers."""
    members = set()
    for module in network.modules():
        if isinstance(module, nn.ModuleList | nn.Sequential):
            members |= {child for child in module if not type(child).__module__.startswith("torch.nn")}
    return members


def attention_weights(output: Any) -> Tensor | None:
    """Attention weights among a module's outputs: (batch, head, query, key), rows that sum to one."""
    if not isinstance(output, tuple | list):
        return None
    for value in output:
        if (
            isinstance(value, Tensor)
            and value.ndim == 4
            and value.is_floating_point()
            and bool((value[0, 0, 0] >= 0).all())
        ):
            total = value[0, 0].float().sum(-1)
            if torch.allclose(total, torch.ones_like(total), atol=1e-2):
                return value
    return None


# ------------------------------------------------------------------------------------------------- finding the blocks


def _by_structure(network: nn.Module, calls: list[Call]) -> list[Block]:
    members = _repeated_members(network)
    called = [call for call in calls if call.module in members]
    if len({call.module for call in called}) < len(called):
        twice = next(call.path for i, call in enumerate(called) if call.module in {c.module for c in called[:i]})
        raise StudyError(f"module {twice!r} runs more than once in a forward pass, so its states have no single depth")
    classes = _innermost({type(call.module) for call in called if _is_residual(call)}, called) or _commonest(called)
    chosen = [call for call in called if type(call.module) in classes]
    if len(chosen) < 2:
        raise StudyError(
            "no repeated blocks found in this network; name the modules to read with blocks=REGEX (see `vitstudy blocks --all`)"
        )
    blocks = [_entrance(chosen[0])]
    for index, call in enumerate(chosen):
        blocks += _places(network, call, f"block{index:02d}", calls)
    return blocks


@contextmanager
def _zeroed(module: nn.Module) -> Iterator[None]:
    """`module` with all its parameters at zero, restored to the bit afterwards."""
    parameters = list(module.parameters())
    saved = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            for parameter in parameters:
                parameter.zero_()
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, saved, strict=True):
                parameter.copy_(value)


def _is_residual(call: Call, part: nn.Module | None = None) -> bool:
    """Whether the module is the identity once its parameters, or those of a part, are zero: the mark of a skip connection."""
    entered = first_tensor((*call.args, *call.kwargs.values()))
    if entered is None or entered.ndim not in (3, 4) or not any(True for _ in call.module.parameters()):
        return False
    with _zeroed(part or call.module), torch.no_grad():
        left = first_tensor(call.module(*_copied(call.args), **_copied(call.kwargs)))
    return left is not None and _same(left, entered)


def _same(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape:
        return False
    scale = second.abs().max().clamp_min(1e-12)
    return bool((first - second).abs().max() <= 1e-3 * scale)


def _innermost(classes: set[type], called: list[Call]) -> set[type]:
    """Those of `classes` that hold no other of them: a stage of residual blocks is residual as well."""
    outer = set()
    for call in called:
        if type(call.module) in classes:
            inside = {type(child) for child in call.module.modules() if child is not call.module}
            if inside & (classes - {type(call.module)}):
                outer.add(type(call.module))
    return classes - outer


def _commonest(called: list[Call]) -> set[type]:
    """Without skip connections: the class repeated most often in lists, the outermost on ties."""
    counts: dict[type, int] = {}
    for call in called:
        counts[type(call.module)] = counts.get(type(call.module), 0) + 1
    most = max(counts.values(), default=0)
    return {next(cls for cls, count in counts.items() if count == most)} if most >= 2 else set()


def _entrance(first: Call) -> Block:
    """What enters the first block: the stem's map or the embedded patches."""
    entered = first_tensor((*first.args, *first.kwargs.values()))
    name = "embedding" if entered is not None and entered.ndim == 3 else "stem"
    return Block(name, name, first.path, "input")


def _places(network: nn.Module, call: Call, name: str, calls: list[Call]) -> list[Block]:
    """Where one block is read: after attention and after the MLP where there is such a point, else at its end."""
    attention = _attention_module(call.module)
    if attention is not None:
        between = _between_attention_and_mlp(network, call, attention)
        if between is not None:
            middle = Block(f"{name}.attention", "attention", between, "input")
            return [middle, Block(f"{name}.mlp", "mlp", call.path, "output")]
        if _is_residual(call, attention):
            return [Block(f"{name}.attention", "attention", call.path, "output")]  # the block is attention alone
        return [Block(name, "block", call.path, "output")]
    has_convolution = any(isinstance(child, nn.Conv2d) for child in call.module.modules())
    return [Block(name, "conv" if has_convolution else "block", call.path, "output")]


def _attention_module(block: nn.Module) -> nn.Module | None:
    """The outermost part of a block whose class is called attention: the field's one naming habit without exception."""
    for child in block.modules():
        if child is not block and re.search(r"attention|attn", type(child).__name__, re.IGNORECASE):
            return child
    return None


def _between_attention_and_mlp(network: nn.Module, call: Call, attention: nn.Module) -> str | None:
    """Path of the first module after attention whose input is the residual stream, found with zero parameters."""
    entered = first_tensor((*call.args, *call.kwargs.values()))
    if entered is None:
        return None
    names = {module: path for path, module in network.named_modules()}
    finished = [False]
    found: list[str] = []

    def before(module, args, kwargs):
        given = first_tensor((*args, *kwargs.values()))
        if finished[0] and not found and given is not None and _same(given, entered):
            found.append(names[module])

    def after_attention(module, args, output):
        finished[0] = True

    inside = [child for child in call.module.modules() if child is not call.module]
    handles = [child.register_forward_pre_hook(before, with_kwargs=True) for child in inside]
    handles.append(attention.register_forward_hook(after_attention))
    try:
        with _zeroed(call.module), torch.no_grad():
            call.module(*_copied(call.args), **_copied(call.kwargs))
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _by_pattern(calls: list[Call], pattern: str) -> list[Block]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise StudyError(f"blocks={pattern!r} is no regular expression ({error})") from error
    matched = [call for call in calls if expression.fullmatch(call.path)]
    if not matched:
        some = ", ".join(call.path for call in calls[1:6])
        raise StudyError(f"blocks={pattern!r} matches no module; modules are called {some} ...")
    return [Block(call.path, _kind(call.module), call.path, "output") for call in matched]


def _kind(module: nn.Module) -> str:
    if _attention_module(module) is not None:
        return "block"
    return "conv" if any(isinstance(child, nn.Conv2d) for child in module.modules()) else "block"


def block_of(path: str, blocks: list[Block]) -> Block | None:
    """The block at whose end the tokens of a module inside it are read."""
    return next((b for b in blocks if b.side == "output" and path.startswith(b.path + ".")), None)


def _attention_layers(network: nn.Module, calls: list[Call], blocks: list[Block]) -> list[AttentionLayer]:
    """Modules that return attention weights, each under the name of the block it belongs to."""
    returning = [call for call in calls if call.has_attention]
    innermost = [call for call in returning if not any(other.path.startswith(call.path + ".") for other in returning)]
    layers = []
    for index, call in enumerate(innermost):
        owner = block_of(call.path, blocks)
        name = owner.name.split(".")[0] if owner and owner.name != owner.path else f"layer{index:02d}"
        layers.append(AttentionLayer(name, call.path, getattr(call.module, "attention_window", None)))
    return layers


# -------------------------------------------------------------------------------------------------- reading and checks


@contextmanager
def hooked(network: nn.Module, blocks: list[Block], visit: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Calls ``visit(index, raw)`` for every block during forward passes within the context.

    `raw` is the network's own tensor: valid only during the call, since networks overwrite activations in place.
    """
    modules = dict(network.named_modules())
    handles = []
    for index, block in enumerate(blocks):
        module = modules[block.path]
        if block.side == "input":
            handles.append(module.register_forward_pre_hook(_input_hook(index, visit), with_kwargs=True))
        else:
            handles.append(module.register_forward_hook(_output_hook(index, visit)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _input_hook(index: int, visit: Callable[[int, Tensor], None]):
    def hook(module, args, kwargs):
        raw = first_tensor((*args, *kwargs.values()))
        assert raw is not None, "the module was chosen because it takes a tensor"
        visit(index, raw)

    return hook


def _output_hook(index: int, visit: Callable[[int, Tensor], None]):
    def hook(module, args, output):
        raw = first_tensor(output)
        assert raw is not None, "the module was chosen because it returns a tensor"
        visit(index, raw)

    return hook


def _with_layout(network: nn.Module, blocks: list[Block], pixel_values: Tensor) -> list[Block]:
    """The blocks with depth, stage and layout, after checking that images and places kept their order."""
    batch, aspect = len(pixel_values), pixel_values.shape[3] / pixel_values.shape[2]
    states: dict[int, State] = {}

    def visit(index: int, raw: Tensor) -> None:
        if len(raw) != batch:
            raise StudyError(
                f"{blocks[index].path} regroups images ({len(raw)} rows for {batch} images), so its states cannot be told "
                "apart by image; read other modules with blocks=REGEX"
            )
        states[index] = as_state(raw, aspect)
        _check_aspect(blocks[index], states[index], pixel_values)

    with hooked(network, blocks, visit), torch.no_grad():
        network(pixel_values)
    laid_out, stage, grid = [], 0, None
    for index, block in enumerate(blocks):
        state = states[index]
        if state.grid != grid:
            stage, grid = stage + 1, state.grid
        channels = state.raw.shape[1] if state.is_map else state.raw.shape[2]
        depth = (index + 1) / len(blocks)
        laid_out.append(
            replace(
                block,
                depth=depth,
                stage=stage,
                channels=int(channels),
                grid=state.grid,
                prefix_count=state.prefix_count,
            )
        )
    _check_places(network, laid_out[:3], pixel_values)
    return laid_out


def _check_aspect(block: Block, state: State, pixel_values: Tensor) -> None:
    """A map must have the image's aspect: (image, row, column, channel) read as channels first has the channels' instead.

    Two cells are left for rounding, and more for oblong images, whose sides an unpadded convolution shortens alike.
    """
    (height, width), (rows, columns) = pixel_values.shape[2:], state.grid
    aspect = width / height
    if abs(columns - aspect * rows) > 2 + 8 * abs(aspect - 1):
        raise StudyError(
            f"{block.path} has a map of {rows} x {columns} for images of {height} x {width}, so it keeps channels last or "
            "something else than a map; only (image, channel, row, column) and (image, token, channel) are read. "
            "Read other modules with blocks=REGEX"
        )


_SPOTS = ((1, 5), (5, 2), (6, 6))  # of an 8 x 8 board: off the diagonal, so that a transposed map shows


def _check_places(network: nn.Module, blocks: list[Block], pixel_values: Tensor) -> None:
    """Light one patch at a time and require the first blocks to answer there."""
    height, width = pixel_values.shape[2:]
    images = torch.zeros(
        len(_SPOTS) + 1, *pixel_values.shape[1:], dtype=pixel_values.dtype, device=pixel_values.device
    )
    for index, (row, column) in enumerate(_SPOTS):
        images[
            index + 1, :, row * height // 8 : (row + 1) * height // 8, column * width // 8 : (column + 1) * width // 8
        ] = 2

    def visit(index: int, raw: Tensor) -> None:
        state = as_state(raw, width / height)
        if min(state.grid) < 4:
            return  # too coarse to tell
        response = (state.map[1:] - state.map[:1]).float().square().sum(1)
        for (row, column), answer in zip(_SPOTS, response, strict=True):
            _check_answer(blocks[index], answer, row, column)

    with hooked(network, blocks, visit), torch.no_grad():
        network(images)


def _check_answer(block: Block, answer: Tensor, row: int, column: int) -> None:
    """The strongest answer must lie on the lit patch or within one cell of it."""
    rows, columns = answer.shape
    place = int(answer.argmax())
    at_row, at_column = place // columns, place % columns
    lit = (row * rows / 8 - 2, (row + 1) * rows / 8 + 1, column * columns / 8 - 2, (column + 1) * columns / 8 + 1)
    if not (lit[0] <= at_row <= lit[1] and lit[2] <= at_column <= lit[3]):
        raise StudyError(
            f"{block.path} reorders places: light at ({row}, {column}) of 8 x 8 is answered at cell ({at_row}, {at_column}) of "
            f"{rows} x {columns}; maps, distances and spectra would be wrong. Read other modules with blocks=REGEX"
        )

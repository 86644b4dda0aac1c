"""The parts that vision towers share: patches, layers that may be checkpointed, and attention within chunks."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from calculator.architecture.model import Stack
from calculator.common.budget import check_budget
from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.autograd import AccumulateGrad
from calculator.engine.checkpoint import checkpoint
from calculator.engine.loops import INTERPRETED, Loop
from calculator.engine.module_calls import enter, leave, reads
from calculator.engine.reentrant import checkpoint_reentrant
from calculator.layers import attention, rotary
from calculator.layers.kernels import Samples
from calculator.layers.layer_modules import LayerModules
from calculator.layers.sharding_hooks import Unit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from calculator.architecture.dimension import Shape
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context


def convolve(
    context: Context,
    name: str,
    pixel_values: Tensor,
    shape: Shape,
    *,
    is_input: bool = False,
    transposed: bool = False,
) -> Tensor:
    """Embed patches by a convolution whose stride is its kernel size.

    `is_input`: whether the tower's class names it as its input embeddings (_input_embed_layer).
    enable_input_require_grads gives these a gradient if a frozen model is checkpointed. `transposed`: whether the code
    transposes the convolution's output, so that this gradient is copied into its layout.
    """
    out = _convolved(context, name, enter(name, pixel_values), shape)
    return leave(name, _embedded(context, out, transposed=transposed) if is_input else out)


def convolve_in(
    context: Context,
    path: str,
    name: str,
    pixel_values: Tensor,
    shape: Shape,
    *,
    is_input: bool = False,
    transposed: bool = False,
) -> Tensor:
    """Call a module that embeds patches by the convolution of this name in it, to whose dtype its code casts them.

    `is_input`: whether that module is the tower's input embeddings, as for `convolve`.
    """
    pixel_values, inner = enter(path, pixel_values), f"{path}.{name}"
    reads(context.tape, path, f"{inner}.weight")
    context.set_scope(f"{path}: ")
    pixel_values = ops.cast(pixel_values, context.outer(inner).own["weight"].dtype, "pixel values, cast")
    out = leave(inner, _convolved(context, inner, enter(inner, pixel_values), shape))
    return leave(path, _embedded(context, out, transposed=transposed) if is_input else out)


def _convolved(context: Context, name: str, pixel_values: Tensor, shape: Shape) -> Tensor:
    module = context.outer(name)
    context.set_scope(f"{name}: ")
    return products.convolution(pixel_values, module.own["weight"], module.own.get("bias"), shape, "output")


def _embedded(context: Context, out: Tensor, *, transposed: bool = False) -> Tensor:
    """Return a tower's input embeddings, which get a gradient if a frozen model is checkpointed."""
    if context.training.gradient_checkpointing and not out.edge:
        embedded = context.input_requiring_grad(out, "patches")
        if transposed and embedded.edge is not None and isinstance(embedded.edge[0], AccumulateGrad):
            embedded.edge[0].copies = out.shape[1] > 1 and out.shape[2] > 1
        return embedded
    return out


def run_layers(
    context: Context,
    name: str,
    inputs: list[Tensor],
    layer: Callable[[int, LayerModules, Sequence[Tensor], Tensor], Tensor],
    captured: Callable[[int], Sequence[Tensor]],
    after: Callable[[int, Tensor], None] = lambda _index, _x: None,
    *,
    dropout: float = 0.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Run the layers of a tower's stack. If layers are checkpointed, each has a checkpoint of its own.

    `inputs`: a list that only contains the first layer's input. The input is removed from it, so that no caller keeps
    it alive. `captured`: what a layer receives in addition to its input, which its checkpoint keeps. `after`: what
    follows each layer. `dropout`: the probability in attention. `mask`: that of attention, if there is one.
    """
    x = inputs.pop()
    with _tower_attention(context, dropout, mask):
        for index, (unit, modules) in enumerate(_layers(context, name)):
            check_budget()
            context.tape.tower_layer = index
            given = unit.cast(tuple(captured(index)))
            run = partial(_run_layer, context, dropout, mask, unit, index, partial(layer, index, modules, given))
            x = unit.before(x)
            if context.training.gradient_checkpointing and context.tape.grad_enabled:
                x = (checkpoint_reentrant if context.is_reentrant else checkpoint)(run, x, captured=given)
            else:
                x = run(x)
            x = unit.after(x)
            context.tape.tower_layer = None
            after(index, x)
    return x


def _layers(context: Context, name: str) -> Iterator[tuple[Unit, LayerModules]]:
    """Yield the layers of a tower's stack, and the modules outside the stack that follow them."""
    stack = next(part for part in context.model.parts if isinstance(part, Stack) and part.name == name)
    for number, layer in enumerate(stack.layers):
        unit = context.hooks.tower_layer(layer, name)
        context.parameters.tower_layer = number
        bound = context.layer(layer, f"{name}.*.")
        context.parameters.tower_layer = None
        yield unit, bound
    paths = [path for path in context.model.outer if path.startswith(f"{name}.")]
    for index in dict.fromkeys(path.removeprefix(f"{name}.").partition(".")[0] for path in paths):
        prefix = f"{name}.{index}."
        modules = {path.removeprefix(prefix): context.outer(path) for path in paths if path.startswith(prefix)}
        yield Unit(), LayerModules(modules, prefix, stack.layers[0].kind)


def _run_layer(
    context: Context,
    dropout: float,
    mask: Tensor | None,
    unit: Unit,
    index: int,
    layer: Callable[[Tensor], Tensor],
    x: Tensor,
) -> Tensor:
    """Run a layer of a tower, in the forward pass or when a backward pass recomputes it."""
    outer, context.tape.tower_layer, context.tower_unit = context.tape.tower_layer, index, unit
    try:
        with _tower_attention(context, dropout, mask):
            return layer(unit.receive(x))
    finally:
        context.tape.tower_layer = outer


@contextmanager
def _tower_attention(context: Context, dropout: float, mask: Tensor | None) -> Iterator[None]:
    """Attend in both directions, with the tower's mask and dropout."""
    outer = context.mask, context.is_causal, context.attention_dropout
    context.mask, context.is_causal, context.attention_dropout = mask, False, dropout
    try:
        yield
    finally:
        context.mask, context.is_causal, context.attention_dropout = outer


class Chunks(NamedTuple):
    """The patches of each chunk of an image that attention sees by itself, and the number of such images."""

    patches_of_chunks: tuple[int, ...]
    images: int

    @property
    def number(self) -> int:
        """The number of chunks."""
        return len(self.patches_of_chunks) * self.images

    def repeats(self) -> Iterator[tuple[tuple[int, ...], int]]:
        """Yield sequences of chunks, and how often each of them follows itself: those of an image, a row, or one."""
        lengths = self.patches_of_chunks * self.images
        start = 0
        while start < len(lengths):
            periods = (1, _row(lengths, start), len(self.patches_of_chunks))
            repeat_counts = {period: _repeat_count(lengths, start, period) for period in periods}
            period = max(repeat_counts, key=lambda length: length * max(0, repeat_counts[length] - INTERPRETED))
            yield lengths[start : start + period], repeat_counts[period]
            start += period * repeat_counts[period]


def _row(lengths: Sequence[int], start: int) -> int:
    """Return the number of chunks until the first chunk's length occurs again after another length.

    Return 1 if it does not occur again.
    """
    change = next((at for at in range(start, len(lengths)) if lengths[at] != lengths[start]), len(lengths))
    return next((at - start for at in range(change, len(lengths)) if lengths[at] == lengths[start]), 1)


def _repeat_count(lengths: Sequence[int], start: int, period: int) -> int:
    """Return how often the chunks of a period are repeated."""
    alike = range(start, len(lengths) - period)
    end = next((at for at in alike if lengths[at] != lengths[at + period]), alike.stop)
    return 1 + max(0, end - start) // period


def tower_attention(
    context: Context, modules: LayerModules, x: Tensor, tables: Sequence[Tensor], chunks: Chunks, bounds: Tensor
) -> Tensor:
    """Run the tower's module for attention within each chunk of patches: (patches, hidden_size) to the same shape.

    One projection computes queries, keys and values. `bounds`: the position of each chunk's first patch, and the end of
    the last chunk.

    Queries and keys are rotated in float32. The code keeps everything up to the output projection.
    """
    path = f"{modules.prefix}attn"
    return leave(path, _attended(context, modules, enter(path, x), tables, chunks, bounds))


def _attended(
    context: Context, modules: LayerModules, x: Tensor, tables: Sequence[Tensor], chunks: Chunks, bounds: Tensor
) -> Tensor:
    patches, width = x.shape
    heads = context.config["vision_config"]["num_attention_heads"]
    head_dim = int(width) // int(heads)
    by_heads = (patches, heads, head_dim)
    qkv = modules["attn.qkv"](x)
    context.set_scope(f"{modules.prefix}attn: ")
    query, key, value = ops.split(ops.permute(qkv, (3, *by_heads)), [by_heads] * 3, stacks=True)
    del qkv
    query, key = _rotated(query, key, tables)
    query, key, value = (ops.view(tensor, (1, heads, patches, head_dim)) for tensor in (query, key, value))
    if context.attention == "flash_attention_2":
        # One call for all chunks.
        out = attention.attend(context, query, key, value, samples=Samples(chunks.number, bounds))
        return modules["attn.proj"](ops.view(out, (patches, width)))
    _lengths = context.tape.new((chunks.number,), "int32", "patches of each chunk")
    loops = [(Loop(context.tape, times), lengths) for lengths, times in chunks.repeats()]
    shapes = [(1, heads, length, head_dim) for loop, lengths in loops for length in lengths * loop.interpreted]
    splits = [ops.split(tensor, shapes) for tensor in (query, key, value)]
    attended = zip(_begin_iterations(loops, splits[0]), splits[1], splits[2], strict=True)
    outputs = [attention.attend(context, *chunk) for chunk in attended]
    out = ops.cat(outputs, (1, patches, width), "attention output, all chunks")
    return modules["attn.proj"](ops.view(out, (patches, width)))


def _begin_iterations(loops: Sequence[tuple[Loop, Sequence[int]]], queries: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield the queries of each chunk, and begin an iteration of its loop with the first of them."""
    remaining = iter(queries)
    for loop, lengths in loops:
        for _ in range(loop.interpreted):
            yield loop.begin(next(remaining))
            yield from islice(remaining, len(lengths) - 1)


def _rotated(query: Tensor, key: Tensor, tables: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    dtypes = query.dtype, key.dtype
    query, key = ops.cast(query, "float32", "query in float32"), ops.cast(key, "float32", "key in float32")
    in_float32 = (ops.cast(table, "float32", "rotary table in float32") for table in tables)
    cos, sin = (ops.view(table, (table.shape[0], 1, table.shape[1])) for table in in_float32)
    query_embed = rotary.rotate(query, cos, sin, "query, rotated")
    key_embed = rotary.rotate(key, cos, sin, "key, rotated")
    query_embed = ops.cast(query_embed, dtypes[0], "query, cast back")
    key_embed = ops.cast(key_embed, dtypes[1], "key, cast back")
    return query_embed, key_embed

"""BAdam's blocks: the parameters that its optimizer trains in turn, in a float32 copy (Luo et al. 2024).

Sources: badam 1.4, block_optim.py (BlockOptimizer.infer_param_groups, switch_trainable_params); LLaMA-Factory,
train/trainer_utils.py, _create_badam_optimizer.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements
from calculator.architecture.model import Stack
from calculator.common.errors import Problem
from calculator.methods.full.unfrozen import trained, trained_names
from calculator.methods.layer_kinds import full_name
from calculator.resident.tensor import ResidentTensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.methods.full.method import Full

#: The name of the copy that the optimizer updates.
COPY = "float32 copy"

#: A block: parts of the names of its parameters.
Block = tuple[str, ...]

#: The names of layers and of embeddings, as BlockOptimizer finds them.
_LAYER, _EMBEDDING = re.compile(r".*layers.[^.]*\."), re.compile(r".*embed[^.]*\.")

RATIO = (
    "BAdam's ratio mode has sparse gradients and masks, and what torch's sparse kernels allocate on CUDA is not known:"
    " use layer"
)


def blocks(
    parameters: Iterable[tuple[str, int]], *, include_embedding: bool, include_lm_head: bool
) -> tuple[tuple[Block, int], ...]:
    """Return the blocks of a model and the size of each, as `BlockOptimizer.infer_param_groups` forms them.

    `parameters` has the name and the size of each parameter. Without `include_embedding`, the block of the output head
    has the embeddings too.
    """
    sizes: dict[str, int] = {}
    others: dict[str, int] = {}
    for name, size in parameters:
        layer = _LAYER.findall(name)
        part = layer or (_EMBEDDING.findall(name) if include_embedding else [])
        first = part[0] if part else ""
        if first not in sizes:
            first = next((prefix for prefix in sizes if prefix in name), first)
        if first:
            sizes[first] = sizes.get(first, 0) + size
        else:
            others[name] = size
    other_blocks = [(tuple(others), sum(others.values()))] if include_lm_head else []
    return (*(((first,), size) for first, size in sizes.items()), *other_blocks)


def model_blocks(method: Full, model: Model) -> tuple[tuple[Block, int], ...]:
    """Return the blocks of a model and the number of parameters of each."""
    parameters = ((weight.name, elements(weight.shape)) for weight in model.weights())
    return blocks(parameters, include_embedding=method.include_embedding, include_lm_head=method.include_lm_head)


def chosen(method: Full, model: Model) -> tuple[int, Block] | None:
    """Return the block that the figures are for, with its number; None if there is none.

    It is the one that stays, or the one that needs the most memory: the block with the most parameters, and the first
    of equal ones. The backward pass ends at the trained block, so a block in front of others keeps more activations. A
    block of the output head without embeddings keeps the fewest, and is never chosen.
    """
    block_list = model_blocks(method, model)
    if method.badam_switch_mode == "fixed":
        start = method.badam_start_block
        return (start, block_list[start][0]) if start is not None and start < len(block_list) else None
    candidates = block_list[:-1] if method.include_lm_head and method.include_embedding else block_list
    if not candidates:
        return None
    number = max(range(len(candidates)), key=lambda number: (candidates[number][1], -number))
    return number, candidates[number][0]


def patterns(method: Full, model: Model) -> tuple[str, ...]:
    """Return `unfrozen_parameters` with the parameters of that block."""
    block = chosen(method, model)
    return () if block is None else tuple(f"^{part}" if part.endswith(".") else f"^{part}$" for part in block[1])


def copies(method: Full, model: Model) -> Iterator[ResidentTensor]:
    """Yield the float32 copies of the block's parameters.

    Source: block_optim.py, BlockOptimizer._switch_trainable_params_single_gpu.
    """
    names = method.unfrozen_parameters or ()
    for path, module, count in _counted(model):
        chosen = trained(names, full_name(path, module), module) if not module.shares_weights else ()
        for parameter in module.parameters:
            name = f"{path}.{parameter.name}" if path else parameter.name
            if parameter.name in chosen and name not in model.tied:
                yield ResidentTensor(
                    name=f"{name}: {COPY}",
                    shape=parameter.shape,
                    dtype="float32",
                    component="optimizer_states",
                    count=count,
                    base=False,
                )


def _counted(model: Model) -> Iterator[tuple[str, Module, int]]:
    """Yield each module once, with its path and the number of layers that have it."""
    for part in model.parts:
        if isinstance(part, Stack):
            for layer, count in part.distinct:
                yield from ((module.under(f"{part.name}.*"), module, count) for module in layer.modules)
        else:
            yield part.name, part, 1


def in_float32(tensor: ResidentTensor) -> ResidentTensor:
    """Return a parameter's copy under the name of the parameter, as the optimizer has states of it."""
    return replace(tensor, dtype="float32", bytes=0)


def problems(method: Full, model: Model) -> Iterator[Problem]:
    """Yield settings that badam refuses, and those that are not modeled."""
    if method.badam_mode == "ratio":
        yield Problem(loc="method.badam_mode", msg=RATIO, input="ratio")
    count, start = len(model_blocks(method, model)), method.badam_start_block
    if not count:
        message = (
            f"BlockOptimizer finds no layers in {model.model_type}, whose parameters have no 'layers.' in their names:"
            " use unfrozen_parameters, or set it false"
        )
        yield Problem(loc="method.use_badam", msg=message, input=True)
    elif start is not None and start >= count:
        message = f"is the index of one of {count} blocks: use 0 to {count - 1}"
        yield Problem(loc="method.badam_start_block", msg=message, input=start)
    elif start is None and method.badam_switch_mode == "fixed":
        message = "with badam_switch_mode fixed, BlockOptimizer raises an error without a first block: give its index"
        yield Problem(loc="method.badam_start_block", msg=message, input=None)
    unused = next(_without_gradient(method, model), None)
    if unused is not None:
        message = (
            f"BAdam raises an error (AssertionError), because {unused} is in the block and gets no gradient: use"
            " another block, or set it false"
        )
        yield Problem(loc="method.use_badam", msg=message, input=True)


def _without_gradient(method: Full, model: Model) -> Iterator[str]:
    """Yield the names of the block's parameters that get no gradient."""
    names = trained_names(patterns(method, model), model)
    yield from (name for name in names if model.is_idle(name))
    frozen = {
        name.replace("*", str(number), 1)
        for stack in model.stacks
        for number, layer in enumerate(stack.layers)
        for module in layer.modules
        for name in (
            f"{module.under(f'{stack.name}.*')}.{parameter.name}" for parameter in module.parameters if parameter.frozen
        )
    }
    yield from (name for name in names if name in frozen)

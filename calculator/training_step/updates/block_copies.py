"""BAdam's step, which updates float32 copies of one block's parameters, and the change of the block.

Source: badam 1.4, block_optim.py, BlockOptimizer.step_single_gpu and _switch_trainable_params_single_gpu.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from calculator.common.total import total_bytes
from calculator.methods.full.badam import COPY, in_float32
from calculator.resident.per_parameter import own_states
from calculator.resident.tensor import ResidentTensor
from calculator.training_step import foreach_norm
from calculator.training_step.optimizer_step import clipping, step_candidates, total_norm

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.common.dtype import DType
    from calculator.common.names import ComponentName
    from calculator.devices.kernels import Kernels
    from calculator.resident.optimizer import Optimizer
    from calculator.resident.per_parameter import ResidentTensors

    Moment = tuple[ResidentTensors, ...]


def temporaries(
    trained: Sequence[ResidentTensor],
    optimizer: Optimizer,
    *,
    clips: bool,
    keeps_norm: bool,
    returns_norm: bool,
    drops_states: bool,
    kernels: Kernels,
) -> Moment:
    """Return the tensors at the peak of the step, gradients included. Weights, copies and kept states do not count.

    `trained` are the block's parameters in order. `drops_states` means that each step changes the block: it creates and
    drops the states. For the other arguments, see `optimizer_step.temporaries`.
    """
    in_order = [*_by_layer(trained)]
    gradients = [_copy_of(parameter, "gradient", parameter.dtype, "gradients") for parameter in in_order]
    moved = [_copy_of(parameter, "float32 gradient", "float32", "gradients") for parameter in in_order]
    copies = [in_float32(parameter) for parameter in trained]
    states = tuple(own_states(copies, optimizer)) if drops_states else ()
    returned = (total_norm(),) if clips and returns_norm else ()
    moments = [*_copied_gradients(gradients, moved)]
    moments += [(*moved, *moment) for moment in _updates(copies, optimizer, kernels, drops_states=drops_states)]
    moments += [(*moved, *states, *moment) for moment in _written_back(in_order)]
    moments += [(*states, *moment) for moment in _changes(in_order)]
    moments = [(*returned, *moment) for moment in moments]
    if clips:
        moments.append((*gradients, *clipping(tuple(trained), keeps_norm=keeps_norm, vectors=1)))
    if clips and kernels.norms_of_chunks:
        moments.append((*gradients, *foreach_norm.at_norms(trained)))
    return max(moments, key=total_bytes)


def _by_layer(trained: Sequence[ResidentTensor]) -> Iterator[ResidentTensor]:
    """Yield each parameter by itself, layer by layer where a block has several of one kind."""
    for count, layer in groupby(trained, attrgetter("count")):
        yield from [replace(parameter, count=1, bytes=parameter.bytes // count) for parameter in layer] * count


def _copy_of(tensor: ResidentTensor, name: str, dtype: DType, component: ComponentName) -> ResidentTensor:
    return ResidentTensor(
        name=f"{tensor.name}: {name}",
        shape=tensor.shape,
        dtype=dtype,
        component=component,
        count=tensor.count,
        base=False,
    )


def _copied_gradients(gradients: Sequence[ResidentTensor], moved: Sequence[ResidentTensor]) -> Iterator[Moment]:
    """Yield the gradients while each in turn is copied to float32 and freed. A float32 gradient is not copied."""
    for n, gradient in enumerate(gradients):
        own = () if gradient.dtype == "float32" else (gradient,)
        yield (*moved[: n + 1], *own, *gradients[n + 1 :])


def _updates(
    copies: Sequence[ResidentTensor], optimizer: Optimizer, kernels: Kernels, *, drops_states: bool
) -> Iterator[Moment]:
    """Yield the temporaries of the wrapped optimizer's step, with the states that it creates.

    Biases are a parameter group of their own, which is stepped last.
    """
    groups = [tuple(copy for copy in copies if ("bias" in copy.name) is biased) for biased in (False, True)]
    groups = [group for group in groups if group]
    if not drops_states:
        yield from step_candidates(groups, tuple(copies), optimizer, kernels)
        return
    created: Moment = ()
    for group in groups:
        created = (*created, *own_states(group, optimizer))
        yield from ((*created, *moment) for moment in step_candidates([group], group, optimizer, kernels))


def _written_back(trained: Sequence[ResidentTensor]) -> Iterator[Moment]:
    """Yield each updated copy in its parameter's dtype."""
    yield from (
        (_copy_of(parameter, "updated copy", parameter.dtype, "workspace"),)
        for parameter in trained
        if parameter.dtype != "float32"
    )


def _changes(trained: Sequence[ResidentTensor]) -> Iterator[Moment]:
    """Yield the new copies one by one as they are allocated, while the old copies and states are alive.

    The next block is one of the same size. `clone().float()` copies a half-precision parameter twice.
    """
    new = [_copy_of(parameter, f"new {COPY}", "float32", "workspace") for parameter in trained]
    for n, parameter in enumerate(trained):
        cloned = () if parameter.dtype == "float32" else (_copy_of(parameter, "clone", parameter.dtype, "workspace"),)
        yield (*new[: n + 1], *cloned)

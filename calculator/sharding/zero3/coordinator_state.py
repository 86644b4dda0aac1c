"""The state that determines what stage 3 gathers and releases next.

Equal states mean that the following calls of equal modules gather and release the same. Keys are relative to a layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.sharding.zero3.parameters import GATHERED, IN_FLIGHT

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from calculator.sharding.zero.parameters import Key
    from calculator.sharding.zero3.gather import Gather
    from calculator.sharding.zero3.parameters import Module, Partitioned


def parameter_state(parameters: Iterable[Partitioned], relative: Callable[[Key], Hashable]) -> Hashable:
    """Return the state of the gathered parameters, except those that stay gathered until the pass ends."""
    gathered = [
        parameter
        for parameter in parameters
        if parameter.active or parameter.state == IN_FLIGHT or (parameter.state == GATHERED and not parameter.persists)
    ]
    return frozenset(
        [
            (
                relative(parameter.key),
                parameter.state,
                frozenset([relative(module.key) for module in parameter.active]),
                None if parameter.storage is None else (parameter.storage.bytes, parameter.storage.references),
            )
            for parameter in gathered
            if not _stays_gathered(parameter)
        ]
    )


def gather_state(in_flight: Mapping[Partitioned, Gather], relative: Callable[[Key], Hashable]) -> Hashable:
    """Return the state of the gathers that nothing has waited for."""
    return frozenset(
        [
            (
                relative(parameter.key),
                relative(gather.parameters[0].key),
                gather.remaining,
                *[buffer.bytes for buffer in gather.buffers],
            )
            for parameter, gather in in_flight.items()
        ]
    )


def backward_state(modules: Sequence[Module], relative: Callable[[Key], Hashable]) -> Hashable:
    """Return the state of the modules in their backward pass, the innermost last.

    A recomputation adds what it gathers to the innermost module that is in its backward pass. Other modules in their
    backward pass have no effect unless they have parameters. A module whose input gets no gradient stays in its
    backward pass until the pass ends.
    """
    return tuple(
        (relative(module.key), frozenset(relative(parameter.key) for parameter in module.recomputed))
        for number, module in enumerate(reversed(modules))
        if (not number or module.parameters or module.recomputed) and not module.stays_in_backward
    )


def _stays_gathered(parameter: Partitioned) -> bool:
    """Return whether a parameter is sure to stay gathered until the backward pass has ended."""
    return bool(parameter.active) and all(module.stays_in_backward for module in parameter.active)

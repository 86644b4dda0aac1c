"""Adafactor's step (Shazeer & Stern 2018) as `transformers.optimization.Adafactor` writes it.

It updates one parameter after the other. Its local variables live until the next parameter assigns them new values, so
temporaries of consecutive parameters are alive together.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from calculator.engine.tape import Tape, Tensor
from calculator.resident.tensors import ResidentTensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.engine.tape import Allocation


def temporaries(trained: tuple[ResidentTensor, ...]) -> tuple[ResidentTensor, ...]:
    """The temporaries alive at the step's peak, without the optimizer's states."""
    tape = Tape()
    tape.component = "workspace"
    _run(tape, list(_sequence(trained)))
    return tuple(
        ResidentTensor(name=name, shape=shape, dtype=dtype, component=component, count=count)
        for (name, shape, dtype, component, _), count in _largest(tape).items()
    )


def _sequence(trained: tuple[ResidentTensor, ...]) -> Iterator[ResidentTensor]:
    """The parameters in the optimizer's order; a layer's come twice, so that every consecutive pair occurs."""
    layers: list[ResidentTensor] = []
    for tensor in trained:
        if tensor.count > 1:
            layers.append(tensor)
            continue
        yield from layers * 2
        layers = []
        yield tensor
    yield from layers * 2


def _run(tape: Tape, parameters: list[ResidentTensor]) -> None:
    """The loop of `Adafactor.step`, with `scale_parameter` and `relative_step` off, as the Trainer sets them."""
    for p in parameters:
        full = p.dtype == "float32"
        grad = None if full else tape.new(p.shape, "float32", f"{p.name}: gradient in float32")
        p_data_fp32 = None if full else tape.new(p.shape, "float32", f"{p.name}: parameter in float32")
        squared = tape.new(p.shape, "float32", f"{p.name}: gradient squared")
        update = tape.new(p.shape, "float32", f"{p.name}: gradient squared + eps")
        del squared
        update = _update(tape, p, update)
        negated = tape.new(p.shape, "float32", f"{p.name}: update, negated")
        del negated
    del grad, p_data_fp32, update


def _update(tape: Tape, p: ResidentTensor, squared: Tensor) -> Tensor:
    """The update, from the factored second moment if there is one. The caller keeps `squared` alive meanwhile."""
    if len(p.shape) < 2:
        return tape.new(p.shape, "float32", f"{p.name}: update")
    rows, columns = (*p.shape[:-1], 1), (*p.shape[:-2], 1, p.shape[-1])
    factors = [tape.new(rows, "float32", "row factor"), tape.new(columns, "float32", "column factor")]
    product = tape.new(p.shape, "float32", f"{p.name}: update")
    del factors, squared
    return product


def _largest(tape: Tape) -> Counter[Allocation]:
    alive: Counter[int] = Counter()
    total, most, best = 0, -1, Counter[int]()
    for event in tape.events:
        row = event if event >= 0 else ~event
        total += tape.rows[row][4] * (1 if event >= 0 else -1)
        alive[row] += 1 if event >= 0 else -1
        if total > most:
            most, best = total, +alive
    return Counter(tape.rows[row] for row in best)

"""The step of Adafactor (Shazeer & Stern 2018) in transformers, and in GaLore over projected gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine.cuda_reductions import PARTIAL_MEANS, sum_to
from calculator.training_step.updates import projected

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.engine.tape import Tape, Tensor
    from calculator.resident.optimizer import Optimizer
    from calculator.resident.tensor import ResidentTensor


def step(tape: Tape, parameters: list[ResidentTensor], optimizer: Optimizer) -> None:
    """Run the loop of `Adafactor.step`, with `scale_parameter` and `relative_step` off, as the Trainer sets them.

    GaLore projects gradients in float32 and projects the updates back in float32. Source: galore_torch/adafactor.py.
    """
    for p in parameters:
        full, projection = p.dtype == "float32", optimizer.projection_of(p.name)
        grad = None if full else tape.new(p.shape, "float32", f"{p.name}: gradient in float32")
        if projection is not None:
            grad = projected.gradient(tape, p, projection, "float32")
        shape = p.shape if projection is None else projection.projected(p.shape)
        p_data_fp32 = None if full else tape.new(p.shape, "float32", f"{p.name}: parameter in float32")
        squared = tape.new(shape, "float32", f"{p.name}: gradient squared")
        update = tape.new(shape, "float32", f"{p.name}: gradient squared + eps")
        del squared
        update = _update(tape, p.name, shape, update)
        if projection is not None:
            update = projected.back(tape, p, "float32")
        negated = tape.new(p.shape, "float32", f"{p.name}: update, negated")
        del negated
    del grad, p_data_fp32, update


def _update(tape: Tape, name: str, shape: Shape, squared: Tensor) -> Tensor:
    """Return the update, from the factored second moment if there is one.

    The caller keeps `squared` alive meanwhile.
    """
    if len(shape) < 2:
        return tape.new(shape, "float32", f"{name}: update")
    rows, columns = (*shape[:-1], 1), (*shape[:-2], 1, shape[-1])
    if tape.cuda:
        for kept in (rows, columns):
            mean = tape.new(kept, "float32", f"{name}: mean of gradient squared")
            sum_to(tape, shape, kept, "float32", PARTIAL_MEANS)
            del mean
    factors = [tape.new(rows, "float32", "row factor"), tape.new(columns, "float32", "column factor")]
    product = tape.new(shape, "float32", f"{name}: update")
    del factors, squared
    return product

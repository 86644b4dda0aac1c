"""The updates of LOMO (Lv et al. 2023) and AdaLOMO (Lv et al. 2023).

They copy a gradient and free it before they use the copy.

Sources: lomo_optim/lomo.py and adalomo.py, fuse_update.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine.cuda_reductions import PARTIAL_MEANS, sum_to

if TYPE_CHECKING:
    from calculator.engine.tape import Tape, Tensor
    from calculator.resident.optimizer import Optimizer
    from calculator.resident.tensor import ResidentTensor


def lomo(tape: Tape, parameters: list[ResidentTensor], optimizer: Optimizer) -> None:  # noqa: ARG001  loops share a signature
    """Run the update of `Lomo` in float32, after the gradient has been copied.

    A float32 gradient is not copied.
    """
    for p in parameters:
        p_fp32 = _in_float32(tape, p, "parameter in float32")
        del p_fp32


def adalomo(tape: Tape, parameters: list[ResidentTensor], optimizer: Optimizer) -> None:  # noqa: ARG001  loops share a signature
    """Run the update of `AdaLomo`, after the gradient has been copied."""
    for p in parameters:
        squared = tape.new(p.shape, "float32", f"{p.name}: gradient squared")
        update = tape.new(p.shape, "float32", f"{p.name}: gradient squared + eps")
        del squared
        update = _normalized(tape, p, update)
        _clipped(tape)
        p_fp32 = _in_float32(tape, p, "parameter in float32")
        norm = _number(tape, "norm of the parameter")
        p_rms = _number(tape, "root mean square of the parameter")
        del norm
        lr = _number(tape, "lr, scaled")
        negated = _number(tape, "lr, negated")
        del negated, lr, p_rms, p_fp32, update


def in_float32(tape: Tape, p: ResidentTensor) -> Tensor | None:
    """Return the gradient's float32 copy, or None if the gradient is in float32 already."""
    return _in_float32(tape, p, "gradient in float32")


def _in_float32(tape: Tape, p: ResidentTensor, name: str) -> Tensor | None:
    return None if p.dtype == "float32" else tape.new(p.shape, "float32", f"{p.name}: {name}")


def _normalized(tape: Tape, p: ResidentTensor, squared: Tensor) -> Tensor:
    """Return the gradient divided by the root of its second moment.

    The caller keeps `squared` alive meanwhile.
    """
    if len(p.shape) < 2:
        return tape.new(p.shape, "float32", f"{p.name}: update")
    rows, columns = p.shape[:-1], (*p.shape[:-2], p.shape[-1])
    kept = (*rows, 1), (*p.shape[:-2], 1, p.shape[-1])
    for shape, dims, name in zip((rows, columns), kept, ("row means", "column means"), strict=True):
        mean = tape.new(shape, "float32", name)
        if tape.cuda:
            sum_to(tape, p.shape, dims, "float32", PARTIAL_MEANS)
        del mean
    row_mean = tape.new((1,), "float32", "mean of the row factor")
    r_factor = tape.new(rows, "float32", "row factor")
    del row_mean
    c_factor = tape.new(columns, "float32", "column factor")
    update = tape.new(p.shape, "float32", f"{p.name}: update")
    del r_factor, c_factor, squared
    return update


def _clipped(tape: Tape) -> None:
    """Allocate the scalars that an update is divided by."""
    norm = _number(tape, "norm of the update")
    rms = _number(tape, "root mean square of the update")
    del norm
    over = _number(tape, "root mean square over clip_threshold")
    del rms, over


def _number(tape: Tape, name: str) -> Tensor:
    return tape.new((), "float32", name)

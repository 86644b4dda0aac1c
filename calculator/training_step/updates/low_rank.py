"""AdamW over projected gradients: the step of GaLore, and that of APOLLO, which scales gradients as AdamW would.

Sources: galore_torch/adamw.py and adamw8bit.py; apollo_torch/apollo.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements
from calculator.resident.optimizer import SMALLEST_8BIT
from calculator.training_step.updates import projected

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.engine.tape import Tape, Tensor
    from calculator.resident.optimizer import Optimizer
    from calculator.resident.projection import Projection
    from calculator.resident.tensor import ResidentTensor


class _Locals:
    """The local variables of both loops. Each lives until the next parameter assigns it."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.grad: Tensor | None = None
        self.denom: Tensor | None = None
        self.norm_grad: Tensor | None = None

    def normalize(self, p: ResidentTensor, projection: Projection | None) -> None:
        """Divide the first moment by the root of the second.

        Both are moments of the projected gradient if there is a projection.
        """
        self.grad = None  # the parameter's own gradient, not a temporary
        shape = p.shape
        if projection is not None:
            self.grad = projected.gradient(self.tape, p, projection, p.dtype)
            shape = projection.projected(p.shape)
        self.denom = self.tape.new(shape, p.dtype, f"{p.name}: denominator")
        self.norm_grad = self.tape.new(shape, p.dtype, f"{p.name}: update")


def galore(tape: Tape, parameters: list[ResidentTensor], optimizer: Optimizer) -> None:
    """Run the loop of GaLore's `AdamW.step`."""
    variables = _Locals(tape)
    for p in parameters:
        projection = optimizer.projection_of(p.name)
        variables.normalize(p, projection)
        if projection is not None:
            variables.norm_grad = projected.back(tape, p, p.dtype)


def galore_8bit(tape: Tape, p: ResidentTensor, optimizer: Optimizer, grad_list: list[Tensor]) -> None:
    """Run a step of GaLore's `AdamW8bit`, which temporarily replaces the parameter's data with the projected gradient.

    `grad_list` contains the parameter's gradient, which is freed after it is projected. bitsandbytes' kernel updates
    without temporaries. Source: galore_torch/adamw8bit.py.
    """
    projection = optimizer.projection_of(p.name)
    if projection is None:
        if elements(p.shape) < SMALLEST_8BIT:
            _norm(tape, p, p.shape)
        return
    shape = projection.projected(p.shape)
    grad = projected.gradient(tape, p, projection, p.dtype)
    saved = tape.new(p.shape, p.dtype, f"{p.name}: copy")
    update = tape.new(shape, p.dtype, f"{p.name}: update")
    del saved  # it replaces the parameter's data, which is resident
    grad_list.clear()
    if elements(shape) < SMALLEST_8BIT:
        _norm(tape, p, shape)
    whole = projected.back(tape, p, p.dtype)
    del grad, update, whole


def _norm(tape: Tape, p: ResidentTensor, shape: Shape) -> None:
    """Allocate the norm of a parameter with 32-bit states (bitsandbytes/functional.py, optimizer_update_32bit)."""
    whole = None if p.dtype == "float32" else tape.new(shape, "float32", f"{p.name}: parameter in float32")
    norm = tape.new((), "float32", "norm of the parameter")
    del whole, norm


def apollo(tape: Tape, parameters: list[ResidentTensor], optimizer: Optimizer) -> None:
    """Run the loop of APOLLO's `AdamW.step`, with its limiter of the norm's growth."""
    variables = _Locals(tape)
    factor = scaled = norm = limiter = None
    for p in parameters:
        projection = optimizer.projection_of(p.name)
        variables.normalize(p, projection)
        if projection is None:
            continue
        factor = _factor(tape, p, by_channel=projection.by_channel)
        scaled = tape.new(p.shape, p.dtype, f"{p.name}: gradient, scaled")
        norm = _number(tape, p, "norm of the scaled gradient")
        ratio = _number(tape, p, "norm of the step before, kept from 0"), _number(tape, p, "growth of the norm")
        limiter = _number(tape, p, "limiter")
        del ratio
        scaled = tape.new(p.shape, p.dtype, f"{p.name}: gradient, scaled and limited")
        variables.norm_grad = scaled
    del factor, scaled, norm, limiter


def _number(tape: Tape, p: ResidentTensor, name: str) -> Tensor:
    return tape.new((), p.dtype, name)


def _factor(tape: Tape, p: ResidentTensor, *, by_channel: bool) -> Tensor:
    """Return the factor by which AdamW scales each channel of the projected gradient, or the whole gradient."""
    shape = (max(p.shape),) if by_channel else ()
    norms = tape.new(shape, p.dtype, f"{p.name}: norms of the update")
    own = tape.new(shape, p.dtype, f"{p.name}: norms of the gradient")
    own = tape.new(shape, p.dtype, f"{p.name}: norms of the gradient, kept from 0")
    factor = tape.new(shape, p.dtype, f"{p.name}: scaling factors")
    del norms, own
    return factor

"""GrokAdamW's step, which copies the states of one parameter after the other to the GPU.

Source: grokadamw/grokadamw.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calculator.engine.tape import Tape, Tensor
    from calculator.resident.optimizer import Optimizer
    from calculator.resident.tensor import ResidentTensor


def step(tape: Tape, parameters: list[ResidentTensor], optimizer: Optimizer) -> None:  # noqa: ARG001  loops share a signature
    """Run the loop of `_update_group`, whose variables live until the next parameter assigns them."""
    exp_avg = exp_avg_sq = grok_ema = grok_grad = None
    for p in parameters:
        moments = [tape.new(p.shape, p.dtype, f"{p.name}: {name}") for name in ("exp_avg", "exp_avg_sq")]
        exp_avg_sq, exp_avg = moments.pop(), moments.pop()
        grok_ema = tape.new(p.shape, p.dtype, f"{p.name}: grok_ema")
        _clip(tape, p)
        scaled = tape.new(p.shape, p.dtype, f"{p.name}: grok_ema, times lamb")
        grok_grad = tape.new(p.shape, p.dtype, f"{p.name}: gradient + lamb * grok_ema")
        del scaled
        denom = tape.new(p.shape, p.dtype, f"{p.name}: denominator")
        del denom
    del exp_avg, exp_avg_sq, grok_ema, grok_grad


def _clip(tape: Tape, p: ResidentTensor) -> None:
    """Allocate the scalars of torch.nn.utils.clip_grad_norm_ over one parameter."""
    norm, stacked = _number(tape, p, "gradient norm"), tape.new((1,), p.dtype, "gradient norms, stacked")
    total = _number(tape, p, "total norm")
    del norm, stacked
    factor = [_number(tape, p, name) for name in ("total norm, kept from 0", "its reciprocal", "clipping's factor")]
    del total, factor


def _number(tape: Tape, p: ResidentTensor, name: str) -> Tensor:
    return tape.new((), p.dtype, name)

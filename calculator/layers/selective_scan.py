"""Mamba's selective scan as transformers runs it without the package mamba-ssm: one position after the other.

Source: transformers/models/jamba/modeling_jamba.py, mamba_selective_scan and mamba_selective_state_update. x and z:
(batch, channels, sequence); dt: the same; a: (channels, states); b and c: (batch, sequence, states).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.loops import Loop
from calculator.engine.parameter_views import viewed
from calculator.layers.activation import ACTIVATIONS

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor


def selective_scan(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, z: Tensor, dt_bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gated output, (batch, channels, sequence), and the last state."""
    dtype, (batch, channels, length), states = x.dtype, x.shape, a.shape[1]
    dt = _time_step(dt, ops.view(dt_bias, (channels, 1)))
    by_state = ops.view(dt, (*dt.shape, 1))
    rate = ops.view(a, (channels, 1, states))
    discrete_a = _exp(ops.mul(rate, by_state, "A · time step"))
    b_in_float32 = ops.cast(ops.view(b, (batch, 1, length, states)), "float32", "B in float32")
    discrete_b = ops.mul(by_state, b_in_float32, "time step · B")
    del b_in_float32
    inputs = ops.cast(ops.view(x, (*x.shape, 1)), "float32", "input in float32")
    updates = ops.mul(discrete_b, inputs, "time step · B · input")
    del inputs
    state = x.tape.new((batch, channels, states), dtype, "state")
    outputs: list[Tensor] = []
    loop = Loop(x.tape, int(length))
    for _ in range(loop.interpreted):
        state = loop.begin(state)
        decayed = ops.mul(ops.slice_from_end(discrete_a, state.shape), state, "state, decayed")
        state = ops.add(decayed, ops.slice_from_end(updates, state.shape), "state")
        del decayed
        cast = ops.cast(state, dtype, "state in the model's dtype")
        column = ops.view(ops.slice_from_end(c, (batch, states)), (batch, states, 1))
        read = products.bmm(cast, column, (batch, channels, 1), "output of the position")
        del cast, column
        outputs.append(ops.slice_from_end(read, (batch, channels)))
        del read
    out = ops.cat([ops.view(output, (batch, channels, 1)) for output in outputs], x.shape, "output")
    skipped = ops.mul(x, viewed(d, (channels, 1)), "D · input")
    out = ops.add(out, skipped, "output + D · input")
    del skipped
    return ops.mul(out, ACTIVATIONS["silu"](z), "output, gated"), state


def selective_state_update(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, z: Tensor, dt_bias: Tensor, state: Tensor
) -> Tensor:
    """Return the gated output of one position after a cached state, (batch, channels).

    The state is changed in place. x, dt and z: (batch, channels); b and c: (batch, states); state: (batch, channels,
    states).
    """
    dtype, (batch, channels, states) = x.dtype, state.shape
    dt = _time_step(dt, dt_bias)
    step = ops.cast(ops.view(dt, (*dt.shape, 1)), "float32", "time step in float32")
    decay = _exp(ops.mul(step, a, "A · time step"))
    del step
    step = ops.cast(ops.view(dt, (*dt.shape, 1)), "float32", "time step in float32")
    db = ops.mul(step, ops.cast(ops.view(b, (batch, 1, states)), "float32", "B in float32"), "time step · B")
    del step
    dbx = ops.mul(db, ops.cast(ops.view(x, (*x.shape, 1)), "float32", "input in float32"), "time step · B · input")
    decayed = ops.mul(ops.cast(state, "float32", "state in float32"), decay, "state, decayed")
    whole = ops.add(decayed, dbx, "state")
    del decayed
    cast = ops.cast(whole, c.dtype, "state in C's dtype")
    out = products.bmm(cast, ops.view(c, (batch, states, 1)), (batch, channels, 1), "C · state")
    del cast
    out = ops.view(out, x.shape)
    skipped = ops.mul(x, d, "D · input")
    out = ops.add(out, skipped, "output + D · input")
    del skipped
    out = ops.mul(out, ACTIVATIONS["silu"](z), "output, gated")
    return ops.cast(out, dtype, "output in the input's dtype")


def _time_step(dt: Tensor, bias: Tensor) -> Tensor:
    dt = ops.add(dt, ops.cast(bias, dt.dtype, "dt_bias, cast"), "time step + bias")
    return ops.unary(dt, "time step", saves="input", fp32_in_autocast=True)


def _exp(x: Tensor) -> Tensor:
    return ops.unary(x, "exp", saves="result", fp32_in_autocast=True)

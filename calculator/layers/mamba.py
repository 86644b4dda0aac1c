"""Mamba 2's mixer: a projection, a short convolution, the scan, a gated norm and the output's projection.

Source: transformers/models/granitemoehybrid/modeling_granitemoehybrid.py, GraniteMoeHybridMambaLayer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.engine import operations as ops
from calculator.layers.activation import activation
from calculator.layers.short_conv import causal_conv1d, without_padding
from calculator.layers.state_space import mamba2_chunk_scan

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule
    from calculator.layers.context import Context, LayerModules


class MambaSizes(NamedTuple):
    """The sizes of a mixer: heads, the size of each, groups of B and C, their state size, and positions of a chunk."""

    heads: int
    head: int
    groups: int
    state: int
    chunk: int


def mamba2(context: Context, modules: LayerModules, hidden_states: Tensor, sizes: MambaSizes, name: str) -> Tensor:
    """(batch, sequence, hidden_size) to the same."""
    scope = f"{modules.prefix}{name}: "
    context.set_scope(scope)
    hidden_states = without_padding(context, hidden_states)
    (batch, length, _), dtype = hidden_states.shape, hidden_states.dtype
    inner, shared = sizes.heads * sizes.head, sizes.groups * sizes.state
    projected = modules[f"{name}.in_proj"](hidden_states)
    context.set_scope(scope)
    own = modules[name].own
    rate = ops.unary(ops.cast(own["A_log"], "float32", "A_log in float32"), "A", saves="result")
    rate = ops.scale(rate, "-A")
    widths = (inner, inner + 2 * shared, sizes.heads)
    gate, mixed, dt = ops.split(projected, [(batch, length, width) for width in widths])
    mixed = ops.view(mixed, (batch, mixed.shape[2], length))
    mixed = causal_conv1d(context, modules[f"{name}.conv1d"], mixed, activation(context.config["hidden_act"]))
    mixed = without_padding(context, ops.view(mixed, (batch, length, mixed.shape[1])))
    x, b, c = ops.split(mixed, [(batch, length, width) for width in (inner, shared, shared)])
    x = ops.view(x, (batch, length, sizes.heads, sizes.head))
    b, c = (ops.view(each, (batch, length, sizes.groups, sizes.state)) for each in (b, c))
    out, state = mamba2_chunk_scan(x, dt, rate, b, c, own["D"], own["dt_bias"], sizes.chunk)
    if context.cache is not None:
        context.cache.update_recurrent_state(state)
    out = _gated_norm(modules[f"{name}.norm"], ops.view(out, (batch, length, inner)), gate, sizes.groups)
    return modules[f"{name}.out_proj"](ops.cast(out, dtype, "output in the input's dtype"))


def _gated_norm(norm: BoundModule, x: Tensor, gate: Tensor, groups: int) -> Tensor:
    """GraniteMoeHybridRMSNormGated: silu of the gate, then the norm of each group, in float32."""
    x.tape.scope = f"{norm.name}: "
    dtype, shape = x.dtype, x.shape
    x = ops.cast(x, "float32", "input in float32")
    x = ops.mul(x, activation("silu")(ops.cast(gate, "float32", "gate in float32")), "gated")
    group = ops.view(x, (*shape[:2], groups, shape[2] // groups))
    variance = ops.mean(ops.unary(group, "squared", saves="input", temporaries=2), "variance")
    root = ops.unary(ops.shift(variance, "variance + eps"), "rsqrt", saves="result", temporaries=2)
    group = ops.mul(group, root, "normalised in float32")
    del root
    x = ops.view(group, shape)
    return ops.mul(norm.own["weight"], ops.cast(x, dtype, "normalised"), "output")

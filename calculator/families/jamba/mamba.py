"""Jamba's mixer: Mamba's mixer with norms of the time step, B and C.

Source: transformers/models/jamba/modeling_jamba.py, JambaMambaMixer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.module_calls import external
from calculator.engine.module_calls import transposed as transposed_view
from calculator.engine.tape import transposed
from calculator.layers import norms
from calculator.layers.activation import ACTIVATIONS
from calculator.layers.selective_scan import selective_scan, selective_state_update
from calculator.layers.short_conv import causal_conv1d, without_padding

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules


def mamba(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """Run the module: (batch, sequence, hidden_size) to the same shape."""
    scope = f"{modules.prefix}mamba: "
    context.set_scope(scope)
    (batch, length, _), dtype = hidden_states.shape, hidden_states.dtype
    rank, states = context.config["mamba_dt_rank"], context.config["mamba_d_state"]
    hidden_states = without_padding(context, hidden_states)
    projected = modules["mamba.in_proj"](hidden_states)
    context.set_scope(scope)
    mamba_parameters, dt_proj = modules["mamba"].own, modules["mamba.dt_proj"]
    rate = ops.unary(ops.cast(mamba_parameters["A_log"], "float32", "A_log in float32"), "A", saves="result")
    rate = ops.scale(rate, "-A")
    channels = projected.shape[2] // 2
    part = (batch, channels, length)
    mixed, gate = ops.split(products.positions_last(projected, (batch, 2 * channels, length)), [part, part])
    mixed = causal_conv1d(context, modules["mamba.conv1d"], mixed, ACTIVATIONS[context.config["hidden_act"]])
    mixed = transposed(without_padding(context, ops.view(mixed, (batch, length, channels))))
    parameters = modules["mamba.x_proj"](mixed)
    sizes = [(batch, length, width) for width in (rank, states, states)]
    time_step, b, c = ops.split(parameters, sizes)
    del parameters
    time_step = norms.rms_norm(modules["mamba.dt_layernorm"], time_step)
    b = norms.rms_norm(modules["mamba.b_layernorm"], b)
    c = norms.rms_norm(modules["mamba.c_layernorm"], c)
    context.set_scope(scope)
    for parameter in dt_proj.own.values():
        external(f"{modules.prefix}mamba", parameter)
    time_step = _projected(modules["mamba.dt_proj"], time_step)
    dt_bias = ops.cast(dt_proj.own["bias"], "float32", "dt_bias in float32")
    x = ops.view(mixed, part)
    before = context.cache.state() if context.cache is not None else None
    if context.cache is not None and before is not None:
        x, dt, z = (ops.narrow(tensor, part[:2]) for tensor in (x, time_step, gate))
        b, c = (ops.view(tensor, (batch, states)) for tensor in (b, c))
        out = selective_state_update(x, dt, rate, b, c, mamba_parameters["D"], z, dt_bias, before)
        context.cache.update_state()
    else:
        d = ops.cast(mamba_parameters["D"], "float32", "D in float32")
        out, last = selective_scan(x, time_step, rate, b, c, d, gate, dt_bias)
        if context.cache is not None:
            context.cache.update_recurrent_state(last)
    out = ops.cast(transposed(ops.view(out, (batch, length, channels))), dtype, "output in the model's dtype")
    return modules["mamba.out_proj"](out)


def _projected(dt_proj: BoundModule, time_step: Tensor) -> Tensor:
    """Multiply the time step by the weight of its projection without the bias. A quantized layer is called instead."""
    batch, length, rank = time_step.shape
    if dt_proj.module_spec.quantization is None:
        weight = transposed_view(dt_proj.own["weight"])
        return products.matmul_from_left(weight, ops.view(time_step, (batch, rank, length)), "time step")
    projected = ops.subtract(dt_proj(time_step), dt_proj.own["bias"], "time step without the bias")
    return ops.view(projected, (batch, projected.shape[2], length))

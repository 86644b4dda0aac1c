"""Qwen 3.5: layers of gated DeltaNet, and of attention whose output has a gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.layers import attention, mlp, norms, rotary
from calculator.layers.activation import activation
from calculator.layers.decoder_forward import DecoderForward, final
from calculator.layers.decoder_layer import SequentialLayer, norm_by_name
from calculator.layers.delta_rule import chunk_gated_delta_rule
from calculator.layers.self_attention import split_heads
from calculator.layers.short_conv import causal_conv1d, without_padding

if TYPE_CHECKING:
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule
    from calculator.layers.context import Context, LayerModules

#: The axes of a position: time, height and width.
_AXES = 3


def _tables(context: Context, hidden_states: Tensor, dtype: DType | None = None) -> tuple[Tensor, ...]:
    """Return cos, sin, (batch, sequence, rotated dimensions) each, and the positions."""
    context.set_scope("model.")
    tape, (batch, length, _) = context.tape, hidden_states.shape
    position_ids = tape.new((length,), "int64", "position_ids")
    freqs = tape.new((_AXES, batch, length, context.config["rotary_dim"] // 2), "float32", "rotary: freqs")
    cos = ops.scale(ops.unary(freqs, "rotary: cos", saves="input"), "rotary: cos, scaled")
    sin = ops.scale(ops.unary(freqs, "rotary: sin", saves="input"), "rotary: sin, scaled")
    sin, cos = _recomposed(sin, "sin"), _recomposed(cos, "cos")
    dtype = dtype or hidden_states.dtype
    return ops.cast(cos, dtype, "rotary: cos"), ops.cast(sin, dtype, "rotary: sin"), position_ids


def _recomposed(freq: Tensor, name: str) -> Tensor:
    """Write the pairs of height and width over those of time, and repeat them for both halves."""
    _, batch, length, half = freq.shape
    pairs = ops.narrow(freq, (batch, length, half))
    return ops.cat((pairs, pairs), (batch, length, 2 * half), f"rotary: {name}, whole")


def _attend(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """Qwen3_5Attention: the projection of queries has a gate for the output, too."""
    config, length = context.config, hidden_states.shape[1]
    heads, groups, head = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    both = modules["self_attn.q_proj"](hidden_states)
    context.set_scope(f"{modules.prefix}self_attn: ")
    part = (context.batch, length, heads, head)
    query, gate = ops.split(ops.view(both, (context.batch, length, heads, 2 * head)), [part, part])
    del both
    gate = ops.view(ops.contiguous(gate, "gate"), (context.batch, length, heads * head))
    query = ops.view(query, (context.batch, heads, length, head))
    query = norms.offset_rms_norm(modules["self_attn.q_norm"], query)
    key = split_heads(context, modules["self_attn.k_proj"](hidden_states), groups)
    key = norms.offset_rms_norm(modules["self_attn.k_norm"], key)
    value = split_heads(context, modules["self_attn.v_proj"](hidden_states), groups)
    context.set_scope(f"{modules.prefix}self_attn: ")
    cos, sin = (ops.view(x, (x.shape[0], 1, *x.shape[1:])) for x in context.position_tables[:2])
    query, key = rotary.rotate_part(query, key, cos, sin)
    key, value = context.update_cache(key, value)
    out = attention.attend(context, query, key, value)
    context.set_scope(f"{modules.prefix}self_attn: ")
    out = ops.mul(out, ops.unary(gate, "sigmoid of the gate", saves="result"), "attention output, gated")
    return modules["self_attn.o_proj"](out)


def _delta_net(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """Qwen3_5GatedDeltaNet."""
    config, scope = context.config, f"{modules.prefix}linear_attn: "
    context.set_scope(scope)
    hidden_states = without_padding(context, hidden_states)
    batch, length = hidden_states.shape[:2]
    keys, values = config["linear_num_key_heads"], config["linear_num_value_heads"]
    key_width, value_width = config["linear_key_head_dim"], config["linear_value_head_dim"]
    mixed = modules["linear_attn.in_proj_qkv"](hidden_states)
    mixed = ops.view(mixed, (batch, mixed.shape[2], length))
    z = modules["linear_attn.in_proj_z"](hidden_states)
    b = modules["linear_attn.in_proj_b"](hidden_states)
    a = modules["linear_attn.in_proj_a"](hidden_states)
    context.set_scope(scope)
    mixed = causal_conv1d(context, modules["linear_attn.conv1d"], mixed, activation(config["hidden_act"]))
    mixed = ops.view(mixed, (batch, length, mixed.shape[1]))
    widths = (keys * key_width, keys * key_width, values * value_width)
    query, key, value = ops.split(mixed, [(batch, length, width) for width in widths])
    query, key = (ops.view(x, (batch, length, keys, key_width)) for x in (query, key))
    value = ops.view(value, (batch, length, values, value_width))
    beta = ops.unary(b, "beta", saves="result")
    g = _decay(modules["linear_attn"], a)
    out, state = chunk_gated_delta_rule(query, key, value, g, beta)
    if context.cache is not None:
        context.cache.update_recurrent_state(state)
    if out.dtype == "float32":
        out = ops.contiguous(out, "output by positions and heads")
    rows = (batch * length * values, value_width)
    out = _gated_norm(modules["linear_attn.norm"], ops.view(out, rows), ops.view(z, rows))
    return modules["linear_attn.out_proj"](ops.view(out, (batch, length, values * value_width)))


def _decay(owner: BoundModule, a: Tensor) -> Tensor:
    """Return -exp(A_log) · softplus(a + dt_bias) in float32."""
    rate = ops.unary(ops.cast(owner.own["A_log"], "float32", "A_log in float32"), "A", saves="result")
    rate = ops.scale(rate, "-A")
    step = ops.add(ops.cast(a, "float32", "a in float32"), owner.own["dt_bias"], "a + dt_bias")
    step = ops.unary(step, "time step", saves="input")
    return ops.mul(rate, step, "decay")


def _gated_norm(norm: BoundModule, x: Tensor, gate: Tensor) -> Tensor:
    """Qwen3_5RMSNormGated: the norm, then silu of the gate in float32."""
    x.tape.scope = f"{norm.name}: "
    dtype = x.dtype
    hidden_states = ops.cast(x, "float32", "input in float32")
    variance = ops.mean(ops.unary(hidden_states, "squared", saves="input", temporaries=2), "variance")
    root = ops.unary(ops.shift(variance, "variance + eps"), "rsqrt", saves="result", temporaries=2)
    hidden_states = ops.mul(hidden_states, root, "normalised in float32")
    del root
    hidden_states = ops.mul(norm.own["weight"], ops.cast(hidden_states, dtype, "normalised"), "scaled")
    act = activation("silu")(ops.cast(gate, "float32", "gate in float32"))
    hidden_states = ops.mul(hidden_states, act, "gated")
    del act
    return ops.cast(hidden_states, dtype, "output")


def _mixer(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    run = _delta_net if modules.kind.attention == "linear_attention" else _attend
    return run(context, modules, hidden_states)


QWEN3_5 = DecoderForward(
    layer=SequentialLayer(attention=_mixer, mlp=mlp.gated, norm=norm_by_name(norms.offset_rms_norm)),
    tables=_tables,
    final_norm=final(norms.offset_rms_norm),
    masks=("full_attention",),
    partial_rotary=True,
    trains_only="whose layers of linear attention cache another state",
)

"""Qwen 3.5 and Qwen3-Next: layers of gated DeltaNet, and of attention with a gated output."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine.module_calls import enter_with, leave, passed
from calculator.families.qwen.forward import WithSharedExpert
from calculator.layers import attention, fla, mlp, norms, rotary, routers
from calculator.layers.activation import ACTIVATIONS
from calculator.layers.decoder_forward import DecoderForward, final, rotary_tables
from calculator.layers.decoder_layer import SequentialLayer, norm_by_name
from calculator.layers.delta_rule import CHUNK, chunk_gated_delta_rule, recurrent_gated_delta_rule
from calculator.layers.mixture import in_sparse_layers
from calculator.layers.norms import norm_before_transposition
from calculator.layers.self_attention import split_heads
from calculator.layers.short_conv import causal_conv1d, without_padding

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules
    from calculator.layers.mlp import Sublayer

    Norm = Callable[[BoundModule, Tensor], Tensor]

#: The axes of a position: time, height and width.
_AXES = 3


def interleaved_tables(
    context: Context, hidden_states: Tensor, dtype: DType | None = None, *, per_sequence: bool = False
) -> tuple[Tensor, ...]:
    """Return cos and sin, each (batch, sequence, rotated dimensions), and the positions.

    `per_sequence` is whether each sequence has positions of its own.
    """
    context.set_scope("model.")
    passed(context.tape, "model.rotary_emb")
    tape, (batch, length, _) = context.tape, hidden_states.shape
    if context.gives_positions:
        position_ids = context.position_ids(length)
    else:
        position_ids = tape.new((_AXES, batch, length) if per_sequence else (length,), "int64", "position_ids")
    freqs = tape.new((_AXES, batch, length, context.config["rotary_dim"] // 2), "float32", "rotary: freqs")
    tape.multiply_angles()
    cos = ops.scale(ops.unary(freqs, "rotary: cos", saves="input"), "rotary: cos, scaled")
    sin = ops.scale(ops.unary(freqs, "rotary: sin", saves="input"), "rotary: sin, scaled")
    sin, cos = _recomposed(sin, "sin"), _recomposed(cos, "cos")
    dtype = dtype or hidden_states.dtype
    return ops.cast(cos, dtype, "rotary: cos"), ops.cast(sin, dtype, "rotary: sin"), position_ids


def _recomposed(freq: Tensor, name: str) -> Tensor:
    """Write the pairs of height and width over those of time, and repeat the result for both halves."""
    _, batch, length, half = freq.shape
    pairs = ops.narrow(freq, (batch, length, half))
    return ops.cat((pairs, pairs), (batch, length, 2 * half), f"rotary: {name}, whole")


def gated_attention(query_norm: Norm, key_norm: Norm) -> Sublayer:
    """Return Qwen3_5Attention with these norms of queries and keys."""
    return partial(_attend, query_norm, key_norm)


def _attend(query_norm: Norm, key_norm: Norm, context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """Run attention, in which the query projection also returns a gate for the output."""
    config, length = context.config, hidden_states.shape[1]
    heads, groups, head = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    query_and_gate = modules["self_attn.q_proj"](hidden_states)
    context.set_scope(f"{modules.prefix}self_attn: ")
    part = (context.batch, length, heads, head)
    query, gate = ops.split(ops.view(query_and_gate, (context.batch, length, heads, 2 * head)), [part, part])
    del query_and_gate
    gate = ops.contiguous(gate, "gate") if heads > 1 else gate
    gate = ops.view(gate, (context.batch, length, heads * head))
    query = ops.view(query, (context.batch, heads, length, head))
    query = norm_before_transposition(query_norm, modules["self_attn.q_norm"], query)
    key = split_heads(context, modules["self_attn.k_proj"](hidden_states), groups)
    key = norm_before_transposition(key_norm, modules["self_attn.k_norm"], key)
    value = split_heads(context, modules["self_attn.v_proj"](hidden_states), groups)
    context.set_scope(f"{modules.prefix}self_attn: ")
    cos, sin = (ops.view(x, (x.shape[0], 1, *x.shape[1:])) for x in context.position_tables[:2])
    query, key = rotary.rotate_part(query, key, cos, sin)
    key, value = context.update_cache(key, value)
    out = attention.attend(context, query, key, value)
    context.set_scope(f"{modules.prefix}self_attn: ")
    out = ops.mul(out, ops.unary(gate, "sigmoid of the gate", saves="result"), "attention output, gated")
    return modules["self_attn.o_proj"](out)


@dataclass(slots=True)
class _Projected:
    """The outputs of gated DeltaNet's projections, with the local variables of the code that computes them.

    Attributes:
        mixed: Queries, keys and values: (batch, channels, positions).
        z: The gate of the output: (batch, positions, value heads, value size).
        b: The input of beta: (batch, positions, value heads).
        a: The input of the decay, in the same shape.
        parts: Local variables that stay alive until the convolution's output is split.
        kept: Local variables that stay alive until the layer returns.
    """

    mixed: Tensor
    z: Tensor
    b: Tensor
    a: Tensor
    parts: list[Tensor]
    kept: list[Tensor]


def project_separately(context: Context, modules: LayerModules, hidden_states: Tensor) -> _Projected:
    """Project with a separate linear layer for each output (Qwen 3.5)."""
    config, (batch, length, _) = context.config, hidden_states.shape
    mixed = modules["linear_attn.in_proj_qkv"](hidden_states)
    mixed = ops.view(mixed, (batch, mixed.shape[2], length))
    z = modules["linear_attn.in_proj_z"](hidden_states)
    z = ops.view(z, (batch, length, config["linear_num_value_heads"], config["linear_value_head_dim"]))
    b = modules["linear_attn.in_proj_b"](hidden_states)
    a = modules["linear_attn.in_proj_a"](hidden_states)
    return _Projected(mixed, z, b, a, [], [])


def _project_by_key_heads(context: Context, modules: LayerModules, hidden_states: Tensor) -> _Projected:
    """Project with two linear layers, whose outputs are ordered by key head (Qwen3-Next).

    A part of the outputs is copied if a view can't merge its heads. With several key heads, this applies to queries,
    keys and parts that have several value heads per key head.
    """
    config, (batch, length, _) = context.config, hidden_states.shape
    keys, values = config["linear_num_key_heads"], config["linear_num_value_heads"]
    per_key, width, value_width = values // keys, config["linear_key_head_dim"], config["linear_value_head_dim"]
    projections = modules["linear_attn.in_proj_qkvz"](hidden_states), modules["linear_attn.in_proj_ba"](hidden_states)
    context.set_scope(f"{modules.prefix}linear_attn: ")
    several, by_position = keys > 1, (batch, length, keys)
    widths = (width, width, per_key * value_width, per_key * value_width)
    query, key, value, z = _split(projections[0], by_position, widths)
    b, a = _split(projections[1], by_position, (per_key, per_key))
    heads = (batch, length, values, value_width)
    value, z = (_merged(x, heads, name, copies=several and per_key > 1) for x, name in ((value, "value"), (z, "gate")))
    b, a = (_merged(x, heads[:3], name, copies=several and per_key > 1) for x, name in ((b, "b"), (a, "a")))
    query = _merged(query, (batch, length, keys * width), "query", copies=several)
    key = _merged(key, (batch, length, keys * width), "key", copies=several)
    value = _merged(value, (batch, length, values * value_width), "value", copies=several and per_key == 1)
    channels = 2 * keys * width + values * value_width
    mixed = ops.cat((query, key, value), (batch, length, channels), "queries, keys and values")
    return _Projected(ops.view(mixed, (batch, channels, length)), z, b, a, [query, key, value], [*projections])


def _split(x: Tensor, rows: Shape, widths: tuple[int, ...]) -> list[Tensor]:
    """View a projection by key heads, and split each head."""
    return ops.split(ops.view(x, (*rows, sum(widths))), [(*rows, width) for width in widths])


def _merged(x: Tensor, shape: Shape, name: str, *, copies: bool) -> Tensor:
    return ops.view(ops.contiguous(x, f"{name}, copied") if copies else x, shape)


def _delta_net(
    project: Callable[[Context, LayerModules, Tensor], _Projected],
) -> Callable[[Context, LayerModules, Tensor], Tensor]:
    """Return the forward pass of gated DeltaNet with these projections."""

    def run(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
        config, scope = context.config, f"{modules.prefix}linear_attn: "
        context.set_scope(scope)
        hidden_states = without_padding(context, hidden_states)
        batch, length = hidden_states.shape[:2]
        keys, values = config["linear_num_key_heads"], config["linear_num_value_heads"]
        key_width, value_width = config["linear_key_head_dim"], config["linear_value_head_dim"]
        projected = project(context, modules, hidden_states)
        context.set_scope(scope)
        convolution, act = modules["linear_attn.conv1d"], ACTIVATIONS[config["hidden_act"]]
        projected.mixed = causal_conv1d(context, convolution, projected.mixed, act)
        projected.mixed = ops.view(projected.mixed, (batch, length, projected.mixed.shape[1]))
        widths = (keys * key_width, keys * key_width, values * value_width)
        query, key, value = ops.split(projected.mixed, [(batch, length, width) for width in widths])
        projected.parts = []
        query, key = (ops.view(x, (batch, length, keys, key_width)) for x in (query, key))
        value = ops.view(value, (batch, length, values, value_width))
        beta = ops.unary(projected.b, "beta", saves="result")
        g = _decay(modules["linear_attn"], projected.a)
        out, _state = _rule(context, query, key, value, g, beta)
        rows = (batch * length * values, value_width)
        out = _gated_norm(modules["linear_attn.norm"], ops.view(out, rows), ops.view(projected.z, rows))
        return modules["linear_attn.out_proj"](ops.view(out, (batch, length, values * value_width)))

    return run


def _rule(
    context: Context, query: Tensor, key: Tensor, value: Tensor, g: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Run the gated delta rule: in chunks, or for one position after a cached state.

    Returns the output and the last state. A cache keeps a copy of the state.
    """
    cache, packaged = context.cache, "fla" in (context.training.kernels or ())
    before = cache.state() if cache is not None else None
    state: Tensor | None
    if before is not None:
        out, state = recurrent_gated_delta_rule(query, key, value, g, beta, before)
    elif packaged:
        block = context.kernels.delta_rule_block
        out, state = fla.chunk_gated_delta_rule(
            (query, key, value, g, beta), returns_state=cache is not None, block=block
        )
    else:
        out, state = chunk_gated_delta_rule(query, key, value, g, beta, returns_state=cache is not None)
    if cache is not None and state is not None:
        cache.update_recurrent_state(state)
    batch, length, values, _ = value.shape
    by_heads = out.dtype == "float32" and not (values == 1 and (batch == 1 or length % CHUNK == 0))
    if by_heads and before is None and not packaged:
        out = ops.contiguous(out, "output by positions and heads")
    return out, state


def _decay(owner: BoundModule, a: Tensor) -> Tensor:
    """Return -exp(A_log) · softplus(a + dt_bias) in float32."""
    rate = ops.unary(ops.cast(owner.own["A_log"], "float32", "A_log in float32"), "A", saves="result")
    rate = ops.scale(rate, "-A")
    step = ops.add(ops.cast(a, "float32", "a in float32"), owner.own["dt_bias"], "a + dt_bias")
    step = ops.unary(step, "time step", saves="input")
    return ops.mul(rate, step, "decay")


def _gated_norm(norm: BoundModule, x: Tensor, gate: Tensor) -> Tensor:
    """Run Qwen3_5RMSNormGated: the norm, then silu of the gate in float32."""
    x, gate = enter_with(norm.name, x, gate)
    x.tape.scope = f"{norm.name}: "
    dtype = x.dtype
    hidden_states = ops.cast(x, "float32", "input in float32")
    variance = ops.mean(ops.unary(hidden_states, "squared", saves="input", temporaries=2), "variance")
    root = ops.unary(ops.shift(variance, "variance + eps"), "rsqrt", saves="result", temporaries=2)
    hidden_states = ops.mul(hidden_states, root, "normalized in float32")
    del root
    hidden_states = ops.mul(norm.own["weight"], ops.cast(hidden_states, dtype, "normalized"), "scaled")
    act = ACTIVATIONS["silu"](ops.cast(gate, "float32", "gate in float32"))
    hidden_states = ops.mul(hidden_states, act, "gated")
    del act
    return leave(norm.name, ops.cast(hidden_states, dtype, "output"))


def mixer(project: Callable[[Context, LayerModules, Tensor], _Projected], attend: Sublayer) -> Sublayer:
    """Return the token mixer of a layer, for both layer types."""
    delta_net = _delta_net(project)

    def run(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
        mix = delta_net if modules.kind.attention == "linear_attention" else attend
        return mix(context, modules, hidden_states)

    return run


_NORM = norm_by_name(norms.offset_rms_norm)
_ATTENTION = gated_attention(norms.offset_rms_norm, norms.offset_rms_norm)
_EXPERTS = WithSharedExpert(router=routers.softmax_and_cast_back)

QWEN3_5 = DecoderForward(
    layer=SequentialLayer(attention=mixer(project_separately, _ATTENTION), mlp=mlp.gated, norm=_NORM),
    tables=interleaved_tables,
    final_norm=final(norms.offset_rms_norm),
    masks=("full_attention",),
    partial_rotary=True,
)

QWEN3_5_MOE = replace(
    QWEN3_5, layer=SequentialLayer(attention=mixer(project_separately, _ATTENTION), mlp=_EXPERTS, norm=_NORM)
)

QWEN3_NEXT = replace(
    QWEN3_5,
    layer=SequentialLayer(
        attention=mixer(_project_by_key_heads, _ATTENTION), mlp=in_sparse_layers(_EXPERTS), norm=_NORM
    ),
    tables=rotary_tables,
)

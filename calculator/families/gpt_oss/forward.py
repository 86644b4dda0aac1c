"""GPT-OSS: eager attention with sinks, and experts with biases and a clamped gate."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from calculator.engine import indexing
from calculator.engine import operations as ops
from calculator.engine.module_calls import passed
from calculator.layers import attention, norms, routers, self_attention
from calculator.layers.decoder_forward import DecoderForward, final, for_every_head
from calculator.layers.decoder_layer import SequentialLayer, norm_by_name
from calculator.layers.mixture import Mixture

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.architecture.dimension import Shape
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkAttention:
    """Grouped-query attention with sinks: each head has a learned score, in addition to the scores of its keys."""

    def __call__(self, context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
        """Run the module: (batch, sequence, hidden_size) to the same shape."""
        query_states, key_states, value_states = self_attention.project_qkv(context, modules, hidden_states)
        context.set_scope(f"{modules.prefix}self_attn: ")
        query_states, key_states = _rotated(context, query_states, key_states)
        key_states, value_states = context.update_cache(key_states, value_states)
        eager = partial(_with_sinks, modules["self_attn"].own["sinks"])
        attn_output = attention.attend(context, query_states, key_states, value_states, eager)
        return modules["self_attn.o_proj"](attn_output)


def _with_sinks(sinks: Tensor, context: Context, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Concatenate scores and sinks, subtract the maximum, apply softmax, and drop the sinks."""
    key_states = attention.repeat_kv(query, key, "key, repeated")
    value_states = attention.repeat_kv(query, value, "value, repeated")
    attn_weights = _scores(context, query, key_states)
    scores = attn_weights.shape
    combined = (*scores[:3], scores[3] + 1)
    sinks = ops.expand(sinks, (*scores[:3], 1))
    combined_logits = ops.cat((attn_weights, sinks), combined, "scores and sinks")
    combined_logits = _less_the_largest(combined_logits)
    probs = ops.softmax(combined_logits, combined_logits.dtype)
    kept = ops.narrow(probs, scores)
    # One expression, as in transformers: the scores live until the probabilities are cast.
    attn_weights = ops.cast(
        ops.dropout(kept, context.attention_dropout, "probabilities, dropped"), value_states.dtype, "probabilities"
    )
    return attention.weigh_values(context, attn_weights, value_states)


def _scores(context: Context, query: Tensor, key: Tensor) -> Tensor:
    return attention.add_mask(context, ops.scale(attention.scores(query, key), "scores, scaled"))


def _less_the_largest(x: Tensor) -> Tensor:
    return ops.subtract(x, indexing.top_k(x, 1, "largest score")[0], "scores, less the largest")


def _tables(context: Context, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Return cos and sin with half the head size, and position_ids."""
    passed(context.tape, "model.rotary_emb")
    context.set_scope("model.")
    tape, length, half = context.tape, hidden_states.shape[1], context.config["head_dim"] // 2
    position_ids = context.position_ids(length)
    freqs = tape.new((position_ids.shape[0], length, half), "float32", "rotary: freqs")
    tape.multiply_angles()
    cos = ops.scale(ops.unary(freqs, "rotary: cos", saves="input"), "rotary: cos, scaled")
    sin = ops.scale(ops.unary(freqs, "rotary: sin", saves="input"), "rotary: sin, scaled")
    dtype = hidden_states.dtype
    cos, sin = for_every_head(cos), for_every_head(sin)
    return ops.cast(cos, dtype, "rotary: cos"), ops.cast(sin, dtype, "rotary: sin"), position_ids


def _rotated(context: Context, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = context.position_tables[:2]
    return _rotated_halves(query, cos, sin, "query, rotated"), _rotated_halves(key, cos, sin, "key, rotated")


def _rotated_halves(x: Tensor, cos: Tensor, sin: Tensor, name: str) -> Tensor:
    """Rotate the halves of each head."""
    half = (*x.shape[:-1], cos.shape[-1])
    first_half, second_half = ops.split(x, [half, half])
    first = ops.subtract(ops.mul(first_half, cos, "first · cos"), ops.mul(second_half, sin, "second · sin"), "first")
    second = ops.add(ops.mul(second_half, cos, "second · cos"), ops.mul(first_half, sin, "first · sin"), "second")
    return ops.cat((first, second), x.shape, name)


def _router(context: Context, gate: BoundModule, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Return the k largest scores, and their softmax in the data type of the scores."""
    router_logits = routers.compute_logits(context, gate, hidden_states)
    value, router_indices = indexing.top_k(router_logits, context.config["num_experts_per_tok"], "chosen logits")
    return ops.softmax(value, value.dtype), router_indices, router_logits


def _gate(_: Context, gate_up: Tensor, half: Shape) -> Tensor:
    """Return (up + 1) · gate · sigmoid(alpha · gate), from clamped interleaved columns."""
    gate, up = ops.narrow(gate_up, half), ops.narrow(gate_up, half, part=1)
    gate = indexing.clamp(gate, "gate, clamped", two_bounds=False)
    up = indexing.clamp(up, "up, clamped")
    glu = ops.mul(gate, ops.unary(ops.scale(gate, "alpha · gate"), "sigmoid", saves="result"), "gate · sigmoid")
    return ops.mul(ops.shift(up, "up + 1"), glu, "gated")


def _refused(_: Config) -> str:
    return "transformers loads FlashAttention 3 from the Hub for GPT-OSS, whose memory is not modeled: use sdpa"


GPT_OSS = DecoderForward(
    tables=_tables,
    layer=SequentialLayer(
        attention=SinkAttention(),
        mlp=Mixture(router=_router, gate="mlp.router", activate=_gate, is_transposed=True),
        norm=norm_by_name(norms.late_cast_rms_norm),
    ),
    final_norm=final(norms.late_cast_rms_norm),
    masks=("full_attention", "sliding_attention"),
    sdpa="eager",
    refuses_flash=_refused,
)

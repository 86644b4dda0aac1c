"""MPT: ALiBi over the longest sequence, which promotes scores to float32, a boolean mask, and norms without bias."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from calculator.engine import indexing
from calculator.engine import operations as ops
from calculator.layers import attention, norms
from calculator.layers.activation import activation
from calculator.layers.decoder_forward import DecoderForward, embed, final
from calculator.layers.decoder_layer import run_sublayer
from calculator.layers.self_attention import split_heads

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules


def layer(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """Run one block: (batch, sequence, hidden_size) to the same shape. The MLP adds its own residual."""
    layernorm_output = norms.layer_norm(modules["norm_1"], hidden_states)
    residual = hidden_states
    attn_outputs = run_sublayer(context, modules, "attention", _attention, layernorm_output)
    dropped = ops.dropout(attn_outputs, context.attention_dropout, "attention, dropped")
    hidden_states = ops.add(dropped, residual, "residual after attention")
    del dropped
    layernorm_output = norms.layer_norm(modules["norm_2"], hidden_states)
    residual = hidden_states
    output = _with_residual(context, modules, layernorm_output, residual)
    return context.method.after_sublayer(context, modules, "mlp", output)


def _with_residual(context: Context, modules: LayerModules, x: Tensor, residual: Tensor) -> Tensor:
    x = modules["ffn.up_proj"](x)
    context.set_scope(f"{modules.prefix}ffn: ")
    x = activation("gelu")(x)
    intermediate_output = modules["ffn.down_proj"](x)
    context.set_scope(f"{modules.prefix}ffn: ")
    output = ops.dropout(intermediate_output, context.attention_dropout, "MLP, dropped")
    return ops.add(output, residual, "residual after MLP")


def _attention(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    mixed_qkv = modules["attn.Wqkv"](hidden_states)
    context.set_scope(f"{modules.prefix}attn: ")
    if context.config["attn_config"]["clip_qkv"]:
        mixed_qkv = indexing.clamp(mixed_qkv, "queries, keys and values, clamped")
    count = context.config["num_attention_heads"]
    query, key, value = (split_heads(context, x, count) for x in ops.split(mixed_qkv, [hidden_states.shape] * 3))
    key, value = context.update_cache(key, value)
    attention_scores = _scores(context, query, key)
    attn_weights = ops.softmax(ops.cast(attention_scores, "float32", "scores in float32"), "float32")
    attn_weights = ops.cast(attn_weights, value.dtype, "probabilities")
    attn_weights = ops.dropout(attn_weights, context.attention_dropout, "probabilities, dropped")
    context_states = attention.weigh_values(context, attn_weights, value)
    return modules["attn.out_proj"](ops.view(context_states, hidden_states.shape))


def _scores(context: Context, query: Tensor, key: Tensor) -> Tensor:
    """Add ALiBi in float32 to the scores, and fill masked scores."""
    scores = ops.scale(attention.scores(query, key), "scores, scaled")
    bias = ops.narrow(context.position_tables[0], (1, query.shape[1], 1, key.shape[2]))
    scores = ops.add(scores, bias, "scores + ALiBi")
    return scores if context.mask is None else indexing.masked_fill(scores, context.mask, "scores, masked")


def _alibi(context: Context, hidden_states: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG001  the signature of such hooks
    """Return the bias of each head and each position of the longest sequence."""
    context.set_scope("transformer.ALiBi: ")
    count, longest = context.config["num_attention_heads"], context.config["max_position_embeddings"]
    return (context.tape.new((1, count, 1, longest), "float32", "bias"),)


def _refused(_: Config) -> str:
    return "transformers has no FlashAttention 2 for MPT: use sdpa, which runs eager"


MPT = DecoderForward(
    casts_token_logits=False,
    embeddings=partial(embed, name="transformer.wte"),
    tables=_alibi,
    flattens=False,
    layer=layer,
    final_norm=final(norms.layer_norm, "transformer.norm_f"),
    sdpa="eager",
    boolean_masks=True,
    returns_weights=True,
    takes_positions=False,
    limited_to_max_positions=True,
    refuses_flash=_refused,
)

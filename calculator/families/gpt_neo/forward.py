"""GPT-Neo: learned positions, and scores in float32, which a buffer of each layer masks."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine import selection
from calculator.engine.module_calls import enter, leave
from calculator.engine.tape import Tensor
from calculator.families.gpt2.forward import Block
from calculator.layers import attention, learned_positions, mlp, norms
from calculator.layers.decoder_forward import DecoderForward, embed, final
from calculator.layers.decoder_layer import config_dropout
from calculator.layers.dropout import dropout
from calculator.layers.self_attention import split_heads

if TYPE_CHECKING:
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules


def _attention(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """Run GPTNeoAttention, which calls the attention module of the layer's type."""
    path = f"{modules.prefix}attn.attention"
    return leave(path, _self_attention(context, modules, enter(path, hidden_states)))


def _self_attention(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    projections = [modules[f"attn.attention.{name}_proj"](hidden_states) for name in "qkv"]
    context.set_scope(f"{modules.prefix}attn: ")
    query, key, value = (split_heads(context, x, context.config["num_attention_heads"]) for x in projections)
    del projections
    key, value = context.update_cache(key, value)
    attn_output = attention.attend(context, query, key, value, _float32_attention)
    if context.attention == "flash_attention_2":
        context.attn_weights = attn_output
    attn_output = modules["attn.attention.out_proj"](attn_output)
    return config_dropout(context, "resid_dropout", attn_output)


def _float32_attention(context: Context, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    query, key = ops.cast(query, "float32", "query in float32"), ops.cast(key, "float32", "key in float32")
    smallest = query.tape.new((), "float32", "smallest number")
    causal = Tensor(query.tape, None, (1, 1, query.shape[2], key.shape[2]), "bool", None)
    attn_weights = selection.where(causal, attention.scores(query, key), smallest, "scores, causal")
    attn_weights = attention.add_mask(context, attn_weights)
    attn_weights = ops.softmax(attn_weights, "float32")
    attn_weights = ops.cast(attn_weights, value.dtype, "probabilities")
    attn_weights = dropout(attn_weights, context.attention_dropout, "probabilities, dropped")
    return attention.weigh_values(context, attn_weights, value)


GPT_NEO = DecoderForward(
    casts_token_logits=False,
    embeddings=partial(embed, name="transformer.wte"),
    before_layers=partial(learned_positions.add_to, table="transformer.wpe", dropout="embed_dropout", given=False),
    tables=learned_positions.position_ids,
    layer=Block(attention=_attention, mlp=mlp.plain("mlp.c_fc", "mlp.c_proj", dropout="resid_dropout")),
    final_norm=final(norms.layer_norm, "transformer.ln_f"),
    dropout_modules=("attention_dropout", "resid_dropout", "embed_dropout"),
    sdpa="eager",
    returns_weights=True,
)

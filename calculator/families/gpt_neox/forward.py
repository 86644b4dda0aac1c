"""GPT-NeoX and Pythia: fused queries, keys and values, partial rotary embeddings, attention and MLP in parallel."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.layers import attention, mlp, norms, rotary
from calculator.layers.decoder_forward import DecoderForward, embed, final
from calculator.layers.decoder_layer import run_sublayer
from calculator.layers.dropout import dropout

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules

_MLP = mlp.plain("mlp.dense_h_to_4h", "mlp.dense_4h_to_h")


def layer(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """Run one block: (batch, sequence, hidden_size) to the same shape."""
    normed = norms.layer_norm(modules["input_layernorm"], hidden_states)
    attn_output = run_sublayer(context, modules, "attention", _attention, normed, positional=True)
    del normed
    attn_output = dropout(attn_output, context.config["hidden_dropout"], "attention, dropped")
    if context.config["use_parallel_residual"]:
        mlp_output = _mlp(context, modules, hidden_states)
        summed = ops.add(mlp_output, attn_output, "MLP + attention")
        return ops.add(summed, hidden_states, "residual")
    attn_output = ops.add(attn_output, hidden_states, "residual after attention")
    mlp_output = _mlp(context, modules, attn_output)
    return ops.add(mlp_output, attn_output, "residual after MLP")


def _mlp(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    normed = norms.layer_norm(modules["post_attention_layernorm"], hidden_states)
    mlp_output = run_sublayer(context, modules, "mlp", _MLP, normed)
    del normed
    return dropout(mlp_output, context.config["hidden_dropout"], "MLP, dropped")


def _attention(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    query_states, key_states, value_states, _qkv = _split(context, modules, hidden_states)
    cos, sin, _ = context.position_tables
    query_states, key_states = rotary.rotate_part(query_states, key_states, cos, sin)
    key_states, value_states = context.update_cache(key_states, value_states)
    attn_output = attention.attend(context, query_states, key_states, value_states)
    return modules["attention.dense"](attn_output)


def _split(context: Context, modules: LayerModules, hidden_states: Tensor) -> list[Tensor]:
    """Split the fused projection by heads into queries, keys and values. It stays alive as a local variable."""
    qkv = modules["attention.query_key_value"](hidden_states)
    context.set_scope(f"{modules.prefix}attention: ")
    batch, length, _ = hidden_states.shape
    head = (batch, context.config["num_attention_heads"], length, context.config["head_dim"])
    return [*ops.split(ops.view(qkv, (*head[:3], 3 * head[3])), [head] * 3), qkv]


def _before_layers(context: Context, inputs_embeds: Tensor) -> Tensor:
    context.set_scope("gpt_neox.")
    return dropout(inputs_embeds, context.config["hidden_dropout"], "words, dropped")


GPT_NEOX = DecoderForward(
    layer=layer,
    embeddings=partial(embed, name="gpt_neox.embed_in"),
    before_layers=_before_layers,
    final_norm=final(norms.layer_norm, "gpt_neox.final_layer_norm"),
    dropout_modules=("hidden_dropout",),
    partial_rotary=True,
)

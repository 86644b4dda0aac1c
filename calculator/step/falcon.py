"""Falcon, a first version: fused projections, attention and MLP side by side (7B, 40B) or in sequence (RW, ALiBi)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from calculator.step import attention, mlp, norms, rotary
from calculator.step import operations as ops
from calculator.step.program import Program, looked_up, rotary_tables

if TYPE_CHECKING:
    from calculator.step.context import Context, LayerModules
    from calculator.step.tape import Tensor

_MLP = mlp.plain("mlp.dense_h_to_4h", "mlp.dense_4h_to_h")


def layer(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """One block: (batch, sequence, hidden_size) to the same."""
    residual = hidden_states
    two = "ln_attn" in modules
    attention_norm = norms.layer_norm(modules["ln_attn" if two else "input_layernorm"], hidden_states)
    mlp_norm = norms.layer_norm(modules["ln_mlp"], hidden_states) if two else attention_norm
    attention_output = _attention(context, modules, attention_norm)
    attention_output = context.method.after(context, modules, "attention", attention_output)
    if "post_attention_layernorm" in modules:
        dropped = ops.dropout(attention_output, context.config["attention_dropout"], "attention, dropped")
        residual = ops.add(residual, dropped, "residual after attention")
        del dropped
        mlp_norm = norms.layer_norm(modules["post_attention_layernorm"], residual)
    mlp_output = context.method.after(context, modules, "mlp", _MLP(context, modules, mlp_norm))
    if "post_attention_layernorm" not in modules:
        mlp_output = ops.add_in_place(mlp_output, attention_output)
    context.scoped(f"{modules.prefix}mlp: ")
    mlp_output = ops.dropout(mlp_output, context.config["hidden_dropout"], "dropped")
    return ops.add(residual, mlp_output, "residual after MLP")


def _attention(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    fused_qkv = modules["self_attention.query_key_value"](hidden_states)
    context.scoped(f"{modules.prefix}self_attention: ")
    query_layer, key_layer, value_layer = _split(context, fused_qkv)
    if not context.config["alibi"]:
        cos, sin, _ = context.position
        query_layer, key_layer = (
            rotary.rotated(query_layer, cos, sin, "query, rotated"),
            rotary.rotated(key_layer, cos, sin, "key, rotated"),
        )
    key_layer, value_layer = context.cached(key_layer, value_layer)
    attn_output = attention.attend(context, query_layer, key_layer, value_layer)
    return modules["self_attention.dense"](attn_output)


def _split(context: Context, fused_qkv: Tensor) -> list[Tensor]:
    """Copies of queries, keys and values by heads; grouped keys and values are spread over their queries first."""
    config = context.config
    batch, length, _ = fused_qkv.shape
    queries = (batch, config["num_attention_heads"], length, config["head_dim"])
    keys = queries if config["new_decoder_architecture"] else (batch, config["num_key_value_heads"], *queries[2:])
    parts = [(ops.narrow(fused_qkv, shape), name) for shape, name in zip((queries, keys, keys), _NAMES, strict=True)]
    return [ops.contiguous(part, f"{name}, by heads") for part, name in parts]


_NAMES = ("query", "key", "value")

PROGRAMS = {
    "falcon": Program(
        layer=layer,
        embeddings=partial(looked_up, name="transformer.word_embeddings"),
        tables=rotary_tables,
        leave=partial(norms.left, name="transformer.ln_f"),
        always_masked=True,
        approximate="with ALiBi, traced steps of four layers needed up to 4 % more; with rotary positions, none did",
        source="transformers/models/falcon/modeling_falcon.py",
    ),
}

"""GPT-J: attention and MLP in parallel, interleaved rotary embeddings for a part of each head, scores in float32."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine.module_calls import passed
from calculator.layers import attention, mlp, norms, rotary
from calculator.layers.decoder_forward import DecoderForward, embed, final
from calculator.layers.decoder_layer import ParallelLayer, config_dropout

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules


def _attention(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    heads = (*hidden_states.shape[:2], context.config["num_attention_heads"], context.config["head_dim"])
    query, key, value = (ops.view(modules[f"attn.{name}_proj"](hidden_states), heads) for name in "qkv")
    context.set_scope(f"{modules.prefix}attn: ")
    q_rot, q_pass, k_rot, k_pass = rotary.split_part(query, key, context.config["rotary_dim"])
    k_rot = _rotated(context, k_rot, "key, rotated")
    q_rot = _rotated(context, q_rot, "query, rotated")
    key = ops.cat((k_rot, k_pass), heads, "key, whole again")
    query = ops.cat((q_rot, q_pass), heads, "query, whole again")
    query, key, value = _split_heads(query), _split_heads(key), _split_heads(value)
    key, value = context.update_cache(key, value)
    attn_output = attention.attend(context, query, key, value, _float32_attention)
    attn_output = modules["attn.out_proj"](attn_output)
    return config_dropout(context, "resid_pdrop", attn_output)


def _rotated(context: Context, x: Tensor, name: str) -> Tensor:
    """Rotate interleaved pairs. Each call repeats the tables."""
    rows = context.batch if context.gives_positions else 1
    shape, dtype = (rows, x.shape[1], 1, x.shape[3]), context.position_tables[0].dtype
    sin, cos = (x.tape.new(shape, dtype, f"rotary: {table}, repeated") for table in ("sin", "cos"))
    return rotary.rotate(x, cos, sin, name)


def _split_heads(x: Tensor) -> Tensor:
    """View (batch, sequence, heads, head_dim) as (batch, heads, sequence, head_dim)."""
    x.merged = False
    return ops.view(x, (x.shape[0], x.shape[2], x.shape[1], x.shape[3]))


def _float32_attention(context: Context, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scores = partial(_scores, context, query, key)
    return attention.drop_and_weigh(context, attention.softmax(scores(), value.dtype), value)


def _scores(context: Context, query: Tensor, key: Tensor) -> Tensor:
    return attention.add_mask(context, ops.scale(attention.float32_scores(query, key), "scores, scaled"))


def _tables(context: Context, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Look up sines and cosines, which are one tensor, and return them with position_ids."""
    context.set_scope("transformer.")
    passed(context.tape, "transformer.rotary")
    tape, length = context.tape, hidden_states.shape[1]
    position_ids = context.position_ids(length)
    rows = tape.new(
        (position_ids.shape[0], length, context.config["rotary_dim"]), "float32", "rotary: sines and cosines"
    )
    return ops.cast(rows, hidden_states.dtype, "rotary: sines and cosines"), position_ids


def _before_layers(context: Context, inputs_embeds: Tensor) -> Tensor:
    context.set_scope("transformer.drop: ")
    return config_dropout(context, "embd_pdrop", inputs_embeds)


def _normed(modules: LayerModules, _: str, x: Tensor) -> Tensor:
    return norms.layer_norm(modules["ln_1"], x)


GPTJ = DecoderForward(
    embeddings=partial(embed, name="transformer.wte"),
    before_layers=_before_layers,
    tables=_tables,
    layer=ParallelLayer(
        attention=_attention,
        norm=_normed,
        mlp=mlp.plain("mlp.fc_in", "mlp.fc_out", dropout="resid_pdrop"),
        residual_last=True,
    ),
    final_norm=final(norms.layer_norm, "transformer.ln_f"),
    dropout_modules=("resid_pdrop", "embd_pdrop"),
    partial_rotary=True,
)

"""GPT-2 and GPT-BigCode: learned positions, LayerNorm, fused queries, keys and values, dropout after each sublayer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from calculator.engine import autocast, products
from calculator.engine import operations as ops
from calculator.engine.layout import mergeable
from calculator.layers import attention, learned_positions, mlp, norms
from calculator.layers.decoder_forward import DecoderForward, embed, final
from calculator.layers.decoder_layer import run_sublayer
from calculator.layers.dropout import dropout

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules
    from calculator.layers.mlp import Sublayer

    #: A function that computes queries, keys and values from a layer's normalized input.
    Projection = Callable[[Context, LayerModules, Tensor], list[Tensor]]

_MLP = mlp.plain("mlp.c_fc", "mlp.c_proj", dropout="resid_pdrop")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """GPT-2's block. The output of attention stays alive until the block returns."""

    attention: Sublayer
    mlp: Sublayer

    def __call__(self, context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
        """Run the module: (batch, sequence, hidden_size) to the same shape."""
        residual = hidden_states
        hidden_states = norms.layer_norm(modules["ln_1"], hidden_states)
        attn_output = run_sublayer(context, modules, "attention", self.attention, hidden_states, positional=True)
        hidden_states = ops.add(attn_output, residual, "residual after attention")
        residual = hidden_states
        hidden_states = norms.layer_norm(modules["ln_2"], hidden_states)
        feed_forward_hidden_states = run_sublayer(context, modules, "mlp", self.mlp, hidden_states)
        return ops.add(residual, feed_forward_hidden_states, "residual after MLP")


def _attention(project: Projection, context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    query_states, key_states, value_states = project(context, modules, hidden_states)
    key_states, value_states = context.update_cache(key_states, value_states)
    attn_output = attention.attend(context, query_states, key_states, value_states, _eager(context))
    attn_output = modules["attn.c_proj"](attn_output)
    return dropout(attn_output, context.config["resid_pdrop"], "attention, dropped")


def _split(context: Context, modules: LayerModules, hidden_states: Tensor) -> list[Tensor]:
    """Split the fused projection into three equal parts, and view each of them by heads."""
    fused = modules["attn.c_attn"](hidden_states)
    context.set_scope(f"{modules.prefix}attn: ")
    parts = ops.split(fused, [hidden_states.shape] * 3)
    heads, head_dim = context.config["num_attention_heads"], context.config["head_dim"]
    return [ops.view(part, (part.shape[0], heads, part.shape[1], head_dim)) for part in parts]


def _split_one_key(context: Context, modules: LayerModules, hidden_states: Tensor) -> list[Tensor]:
    """Split the fused projection into queries and a single key and value, or by heads into all three (GPT-BigCode)."""
    fused = modules["attn.c_attn"](hidden_states)
    context.set_scope(f"{modules.prefix}attn: ")
    (batch, length, hidden), heads = hidden_states.shape, context.config["num_attention_heads"]
    head_dim = context.config["head_dim"]
    if not context.config["multi_query"]:
        return ops.split(ops.view(fused, (batch, heads, length, 3 * head_dim)), [(batch, heads, length, head_dim)] * 3)
    one = (batch, 1, length)
    query, key, value = ops.split(ops.view(fused, (*one, fused.shape[2])), [(*one, hidden), *[(*one, head_dim)] * 2])
    return [ops.view(query, (batch, heads, length, head_dim)), key, value]


def _eager(context: Context) -> attention.EagerAttention | None:
    """Return the eager attention.

    Its softmax is in the data type of the scores, unless queries and keys are upcast first.
    """
    if "reorder_and_upcast_attn" not in context.config:
        return None
    return _upcast_and_reordered if context.config["reorder_and_upcast_attn"] else _not_upcast


_not_upcast = partial(attention.eager, upcast=False)


def _upcast_and_reordered(context: Context, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    probabilities = ops.softmax(attention.add_mask(context, _upcast_scores(query, key)), "float32")
    probabilities = ops.cast(probabilities, value.dtype, "probabilities")
    return attention.drop_in_module_and_weigh(context, probabilities, value)


def _upcast_scores(query: Tensor, key: Tensor) -> Tensor:
    """Compute scores in float32 with baddbmm on an empty tensor. Queries and keys are copied, then cast."""
    scores = (*query.shape[:3], key.shape[2])
    empty = query.tape.new(scores, "float32", "scores, empty")
    q, k = mergeable(query, "query, contiguous"), mergeable(key, "key, contiguous")
    with autocast.region(query.tape, None):
        out = products.bmm(ops.cast(q, "float32", "query"), ops.cast(k, "float32", "key"), scores, "scores")
    del empty
    return out


GPT_BIGCODE = DecoderForward(
    casts_token_logits=False,
    layer=Block(attention=partial(_attention, _split_one_key), mlp=_MLP),
    embeddings=partial(embed, name="transformer.wte"),
    before_layers=partial(learned_positions.add_to, table="transformer.wpe", dropout="embd_pdrop", given=False),
    tables=learned_positions.position_ids,
    final_norm=final(norms.layer_norm, "transformer.ln_f"),
    dropout_modules=("resid_pdrop", "embd_pdrop"),
)

GPT2 = DecoderForward(
    casts_token_logits=False,
    saves_mask=True,
    layer=Block(attention=partial(_attention, _split), mlp=_MLP),
    embeddings=partial(embed, name="transformer.wte"),
    before_layers=partial(learned_positions.add_to, table="transformer.wpe", dropout="embd_pdrop"),
    tables=learned_positions.position_ids,
    final_norm=final(norms.layer_norm, "transformer.ln_f"),
    dropout_modules=("attn_pdrop", "resid_pdrop", "embd_pdrop"),
)

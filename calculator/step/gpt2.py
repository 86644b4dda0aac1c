"""GPT-2 and GPT-BigCode: learned positions, LayerNorm, fused queries, keys and values, dropout after each sublayer."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from calculator.step import attention, learned, mlp, norms
from calculator.step import operations as ops
from calculator.step.program import Program, looked_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.step.context import Context, LayerModules
    from calculator.step.tape import Tensor

    #: Queries, keys and values of a layer's normed input.
    Projection = Callable[[Context, LayerModules, Tensor], list[Tensor]]

_MLP = mlp.plain("mlp.c_fc", "mlp.c_proj", dropout="resid_pdrop")


def layer(project: Projection, context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """One block: (batch, sequence, hidden_size) to the same. The attention's output lives until the block is left."""
    residual = hidden_states
    hidden_states = norms.layer_norm(modules["ln_1"], hidden_states)
    attn_output = _attention(project, context, modules, hidden_states)
    attn_output = context.method.after(context, modules, "attention", attn_output)
    hidden_states = ops.add(attn_output, residual, "residual after attention")
    residual = hidden_states
    hidden_states = norms.layer_norm(modules["ln_2"], hidden_states)
    feed_forward_hidden_states = _MLP(context, modules, hidden_states)
    feed_forward_hidden_states = context.method.after(context, modules, "mlp", feed_forward_hidden_states)
    return ops.add(residual, feed_forward_hidden_states, "residual after MLP")


def _attention(project: Projection, context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    query_states, key_states, value_states = project(context, modules, hidden_states)
    key_states, value_states = context.cached(key_states, value_states)
    attn_output = attention.attend(context, query_states, key_states, value_states, written_out(context))
    attn_output = modules["attn.c_proj"](attn_output)
    return ops.dropout(attn_output, context.config["resid_pdrop"], "attention, dropped")


def _split(context: Context, modules: LayerModules, hidden_states: Tensor) -> list[Tensor]:
    """Three equal parts, each then seen by its heads."""
    fused = modules["attn.c_attn"](hidden_states)
    context.scoped(f"{modules.prefix}attn: ")
    parts = ops.split(fused, [hidden_states.shape] * 3)
    heads, head_dim = context.config["num_attention_heads"], context.config["head_dim"]
    return [ops.view(part, (part.shape[0], heads, part.shape[1], head_dim)) for part in parts]


def written_out(context: Context) -> attention.WrittenOut:
    """The softmax is in the scores' dtype, unless scores are upcast before they are made."""
    if context.config["reorder_and_upcast_attn"]:
        return _upcast_and_reordered
    return partial(attention.eager, upcast=False)


def _upcast_and_reordered(context: Context, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scores in float32 throughout, by baddbmm into an empty tensor."""
    tape, (batch, heads, length, _) = query.tape, query.shape
    scores = (batch, heads, length, key.shape[2])
    attn_weights = tape.new(scores, "float32", "scores, empty")
    q, k = attention.mergeable(query, "query, contiguous"), attention.mergeable(key, "key, contiguous")
    attn_weights = ops.batched(ops.cast(q, "float32", "query"), ops.cast(k, "float32", "key"), scores, "scores")
    if context.mask is not None:
        attn_weights = ops.add(attn_weights, context.mask, "scores + mask")
    attn_weights = ops.softmax(attn_weights, "float32")
    attn_weights = ops.cast(attn_weights, value.dtype, "probabilities")
    attn_weights = ops.dropout(attn_weights, context.attention_dropout, "probabilities, dropped")
    context.attn_weights = attn_weights
    out = ops.batched(attn_weights, attention.mergeable(value, "value, contiguous"), query.shape, "attention output")
    return ops.contiguous(out, "attention output, transposed")


PROGRAMS = {
    "gpt2": Program(
        layer=partial(layer, _split),
        embeddings=partial(looked_up, name="transformer.wte"),
        enter=partial(learned.enter, table="transformer.wpe", dropout="embd_pdrop"),
        tables=learned.positions,
        leave=partial(norms.left, name="transformer.ln_f"),
        source="transformers/models/gpt2/modeling_gpt2.py",
    ),
}

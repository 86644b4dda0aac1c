"""OLMo (norms without weights), OLMo 2 and 3 (norms after sublayers, over whole queries and keys), and OLMoE."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from calculator.engine import in_place
from calculator.engine import operations as ops
from calculator.engine.module_calls import enter, leave
from calculator.layers import norms, routers
from calculator.layers.decoder_forward import (
    DecoderForward,
    final,
    rotary_tables,
    rotary_tables_per_type,
    tables_of_type,
)
from calculator.layers.decoder_layer import SequentialLayer, norm_by_name
from calculator.layers.mixture import Mixture
from calculator.layers.self_attention import SelfAttention, norm_each_projection, rotate_and_cast_back, split_heads

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules


def _bare_norm(x: Tensor) -> Tensor:
    """Run OlmoLayerNorm, which is in float32 and has no parameters."""
    normed = norms.functional_layer_norm(ops.cast(x, "float32", "input in float32"), None, None)
    return ops.cast(normed, x.dtype, "output")


def _normed(modules: LayerModules, name: str, x: Tensor) -> Tensor:
    x.tape.scope = f"{modules.prefix}{name}: "
    path = f"{modules.prefix}{name}"
    return leave(path, _bare_norm(enter(path, x)))


def _final_norm(context: Context, hidden_states: Tensor) -> Tensor:
    context.set_scope("model.norm: ")
    return leave("model.norm", _bare_norm(enter("model.norm", hidden_states)))


def _clipped(context: Context, modules: LayerModules, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Project to queries, keys and values. If `clip_qkv` is set, clamp them in place."""
    states = [modules[f"self_attn.{name}_proj"](hidden_states) for name in "qkv"]
    if context.config["clip_qkv"] is not None:
        context.set_scope(f"{modules.prefix}self_attn: ")
        states = [in_place.clamp_(x, "before clamping") for x in states]
    queries, keys = context.config["num_attention_heads"], context.config["num_key_value_heads"]
    return tuple(split_heads(context, x, count) for x, count in zip(states, (queries, keys, keys), strict=True))


def _normed_and_clipped(context: Context, modules: LayerModules, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Project to queries, keys and values, and normalize queries and keys.

    If `clip_qkv` is set, clamp all in place (OLMoE).
    """
    query_states = norms.rms_norm(modules["self_attn.q_norm"], modules["self_attn.q_proj"](hidden_states))
    key_states = norms.rms_norm(modules["self_attn.k_norm"], modules["self_attn.k_proj"](hidden_states))
    states = [query_states, key_states, modules["self_attn.v_proj"](hidden_states)]
    del query_states, key_states
    if context.config["clip_qkv"] is not None:
        context.set_scope(f"{modules.prefix}self_attn: ")
        states = [in_place.clamp_(x, "before clamping") for x in states]
    queries, keys = context.config["num_attention_heads"], context.config["num_key_value_heads"]
    return tuple(split_heads(context, x, count) for x, count in zip(states, (queries, keys, keys), strict=True))


_IN_FLOAT32 = partial(rotary_tables, dtype="float32")

_OLMO2 = SequentialLayer(
    attention=SelfAttention(
        project=norm_each_projection(norms.late_cast_rms_norm, whole=True), rotate=rotate_and_cast_back
    ),
    norm=norm_by_name(norms.late_cast_rms_norm),
    input_norms=("", ""),
    output_norms=("post_attention_layernorm", "post_feedforward_layernorm"),
)

OLMO = DecoderForward(
    tables=_IN_FLOAT32,
    layer=SequentialLayer(attention=SelfAttention(project=_clipped, rotate=rotate_and_cast_back), norm=_normed),
    final_norm=_final_norm,
)

OLMO2 = DecoderForward(
    tables=_IN_FLOAT32,
    layer=_OLMO2,
    final_norm=final(norms.late_cast_rms_norm),
)

OLMO3 = DecoderForward(
    tables=partial(rotary_tables_per_type, dtype="float32"),
    tables_for=tables_of_type,
    layer=_OLMO2,
    final_norm=final(norms.late_cast_rms_norm),
    masks=("full_attention", "sliding_attention"),
)

OLMOE = DecoderForward(
    layer=SequentialLayer(
        attention=SelfAttention(project=_normed_and_clipped), mlp=Mixture(router=routers.softmax_and_cast_back)
    ),
)

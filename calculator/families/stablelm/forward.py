"""StableLM: LayerNorm, partial rotary embeddings, norms per head, attention and MLP in sequence or in parallel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine.module_calls import enter, leave
from calculator.layers import mlp, norms
from calculator.layers.decoder_forward import DecoderForward, final
from calculator.layers.decoder_layer import ParallelLayer, config_dropout, norm_by_name, run_sublayer
from calculator.layers.self_attention import SelfAttention, project_qkv, rotate_part_keeping_parts

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules


def _normed_per_head(context: Context, modules: LayerModules, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Project to queries, keys and values. If `qk_layernorm` is set, each head of queries and keys has its own norm."""
    query_states, key_states, value_states = project_qkv(context, modules, hidden_states)
    if context.config["qk_layernorm"]:
        query_states = _per_head(modules, "self_attn.q_layernorm", query_states)
        key_states = _per_head(modules, "self_attn.k_layernorm", key_states)
    return query_states, key_states, value_states


def _per_head(modules: LayerModules, name: str, x: Tensor) -> Tensor:
    path = f"{modules.prefix}{name}"
    x = enter(path, x)
    batch, count, length, head_dim = x.shape
    states = ops.split(x, [(batch, 1, length, head_dim)] * int(count))
    normed = [norms.layer_norm(modules[f"{name}.norms.{index}"], state) for index, state in enumerate(states)]
    return leave(path, ops.cat(normed, x.shape, "heads, normed"))


_ATTENTION = SelfAttention(project=_normed_per_head, rotate=rotate_part_keeping_parts)
_PARALLEL = ParallelLayer(attention=_ATTENTION, norm=norm_by_name(norms.layer_norm), dropouts=("", "hidden_dropout"))


def _layer(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """Run one block: (batch, sequence, hidden_size) to the same shape."""
    layer = _PARALLEL if context.config["use_parallel_residual"] else _sequential
    return layer(context, modules, hidden_states)


def _sequential(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """Run attention, then the MLP. Local variables keep the result of each step alive."""
    residual = hidden_states
    hidden_states = norms.layer_norm(modules["input_layernorm"], hidden_states)
    self_attn_output = run_sublayer(context, modules, "attention", _ATTENTION, hidden_states)
    residual = ops.add(residual, self_attn_output, "residual after attention")
    normed = norms.layer_norm(modules["post_attention_layernorm"], residual)
    mlp_output = run_sublayer(context, modules, "mlp", mlp.gated, normed)
    del normed
    mlp_output = config_dropout(context, "hidden_dropout", mlp_output)
    return ops.add(residual, mlp_output, "residual after MLP")


STABLELM = DecoderForward(
    layer=_layer,
    final_norm=final(norms.layer_norm),
    dropout_modules=("hidden_dropout",),
    partial_rotary=True,
    passes_bounds=False,
)

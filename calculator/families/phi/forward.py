"""Phi (attention and MLP in parallel), Phi-3 (fused projections) and Phi-3.5-MoE (LayerNorm, experts)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.families.phi.sparse_mixer import sparse_mixer
from calculator.layers import mlp, norms
from calculator.layers.decoder_forward import DecoderForward, final
from calculator.layers.decoder_layer import ParallelLayer, SequentialLayer, config_dropout, norm_by_name
from calculator.layers.mixture import Mixture
from calculator.layers.self_attention import (
    SelfAttention,
    norm_after_projections,
    rotate_part_keeping_parts,
    rotate_part_one_by_one,
    split_heads,
)

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules


def _sliced(context: Context, modules: LayerModules, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Slice a fused projection, which stays alive as a local variable."""
    qkv = modules["self_attn.qkv_proj"](hidden_states)
    context.set_scope(f"{modules.prefix}self_attn: ")
    queries, keys = context.config["num_attention_heads"], context.config["num_key_value_heads"]
    head_dim = context.config["head_dim"]
    parts = [
        ops.narrow(qkv, (*qkv.shape[:-1], count * head_dim), part=part)
        for part, count in enumerate((queries, keys, keys))
    ]
    return *(split_heads(context, x, count) for x, count in zip(parts, (queries, keys, keys), strict=True)), qkv


def _dropped(context: Context, hidden_states: Tensor) -> Tensor:
    return config_dropout(context, "resid_pdrop", hidden_states)


def _before_layers(context: Context, inputs_embeds: Tensor) -> Tensor:
    context.set_scope("model.embeddings: ")
    return config_dropout(context, "embd_pdrop", inputs_embeds)


PHI = DecoderForward(
    before_layers=_before_layers,
    retained="input",
    layer=ParallelLayer(
        attention=SelfAttention(
            project=norm_after_projections(norms.layer_norm, "layernorm"),
            rotate=rotate_part_keeping_parts,
            output="self_attn.dense",
        ),
        mlp=mlp.plain("mlp.fc1", "mlp.fc2"),
        norm=norm_by_name(norms.layer_norm),
        dropouts=("resid_pdrop", "resid_pdrop"),
        residual_last=True,
    ),
    final_norm=final(norms.layer_norm, "model.final_layernorm"),
    partial_rotary=True,
    dropout_modules=("resid_pdrop", "embd_pdrop"),
)

PHI3 = DecoderForward(
    layer=SequentialLayer(
        attention=SelfAttention(project=_sliced, rotate=rotate_part_one_by_one),
        mlp=mlp.fused_gated,
        transform_output=_dropped,
    ),
    partial_rotary=True,
    dropout_modules=("resid_pdrop",),
)

_MIXTURE = Mixture(router=sparse_mixer, gate="mlp.router", jitter="input_jitter_noise", jitters_twice=True)

PHIMOE = DecoderForward(
    layer=SequentialLayer(mlp=_MIXTURE, norm=norm_by_name(norms.layer_norm)), final_norm=final(norms.layer_norm)
)

"""Mamba 2: layers that consist of a norm and a mixer, with residuals in float32."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine.module_calls import enter, leave
from calculator.layers import norms
from calculator.layers.decoder_forward import DecoderForward, embed, final
from calculator.layers.encoder import no_tables
from calculator.layers.mamba import Mamba2

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules

_mamba = Mamba2(name="mixer")


def _layer(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """Run Mamba2Block: a norm and the mixer."""
    residual, norm = hidden_states, modules["norm"]
    context.set_scope(modules.prefix)
    hidden_states = ops.cast(hidden_states, norm.own["weight"].dtype, "input in the norm's dtype")
    hidden_states = norms.rms_norm(norm, hidden_states)
    if context.config["residual_in_fp32"]:
        context.set_scope(modules.prefix)
        residual = ops.cast(residual, "float32", "residual in float32")
    path = f"{modules.prefix}mixer"
    hidden_states = leave(path, _mamba(context, modules, enter(path, hidden_states)))
    context.set_scope(modules.prefix)
    return ops.add(residual, hidden_states, "residual")


def _head_input(context: Context, hidden_states: Tensor) -> Tensor:
    """Cast the output of the final norm to the data type of the output head."""
    context.set_scope("")
    return ops.cast(hidden_states, context.outer("lm_head").own["weight"].dtype, "in the dtype of the output head")


def _logits(context: Context, logits: Tensor) -> Tensor:
    context.set_scope("logits: ")
    return ops.cast(logits, "float32", "in float32")


def _no_flash(_: Config) -> str:
    return "transformers has no FlashAttention 2 for mamba2, whose layers do not attend: use sdpa"


MAMBA2 = DecoderForward(
    layer=_layer,
    embeddings=partial(embed, name="backbone.embeddings"),
    tables=no_tables,
    final_norm=final(norms.rms_norm, "backbone.norm_f"),
    head_input=_head_input,
    masks=("linear_attention",),
    logits=_logits,
    raises_dtype=lambda config: bool(config["residual_in_fp32"]),
    takes_positions=False,
    refuses_flash=_no_flash,
)

"""LFM2: layers of a gated short convolution, or of attention with normed queries and keys."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.layers import mlp, norms
from calculator.layers.decoder_forward import DecoderForward, final
from calculator.layers.decoder_layer import SequentialLayer
from calculator.layers.self_attention import SelfAttention, norm_each_projection
from calculator.layers.short_conv import causal_conv1d, without_padding

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context, LayerModules


def _short_conv(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """Lfm2ShortConv: out(c · conv(b · x)), where b, c and x are the parts of one projection."""
    context.set_scope(f"{modules.prefix}conv: ")
    bcx = modules["conv.in_proj"](without_padding(context, hidden_states))
    context.set_scope(f"{modules.prefix}conv: ")
    batch, length, width = bcx.shape[0], bcx.shape[1], modules["conv.out_proj"].module.in_features
    part = (batch, width, length)
    b, c, x = ops.split(ops.view(bcx, (batch, 3 * width, length)), [part] * 3)
    convolved = causal_conv1d(context, modules["conv.conv"], ops.mul(b, x, "b · x"))
    y = ops.view(ops.mul(c, convolved, "c · convolution"), (batch, length, width))
    return modules["conv.out_proj"](y)


_ATTENTION = SelfAttention(project=norm_each_projection(norms.rms_norm, "layernorm"), output="self_attn.out_proj")


def _mixer(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    run = _short_conv if modules.kind.attention == "conv" else _ATTENTION
    return run(context, modules, hidden_states)


LFM2 = DecoderForward(
    layer=SequentialLayer(
        attention=_mixer,
        mlp=partial(mlp.gated, name="feed_forward", projections=("w1", "w3", "w2")),
        input_norms=("operator_norm", "ffn_norm"),
    ),
    final_norm=final(norms.rms_norm, "model.embedding_norm"),
    masks=("full_attention",),
)

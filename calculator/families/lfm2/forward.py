"""LFM2: layers with a gated short convolution, or attention of normalized queries and keys, and an MLP or experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import indexing, reductions
from calculator.engine import operations as ops
from calculator.engine.tape import Tensor
from calculator.layers import mlp, norms, routers
from calculator.layers.decoder_forward import DecoderForward, final
from calculator.layers.decoder_layer import SequentialLayer
from calculator.layers.mixture import Mixture
from calculator.layers.self_attention import SelfAttention, norm_each_projection
from calculator.layers.short_conv import causal_conv1d, without_padding

if TYPE_CHECKING:
    from calculator.layers.bound_module import BoundModule
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules


def _short_conv(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """Run Lfm2ShortConv: out(c · conv(b · x)), where b, c and x are parts of one projection."""
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


def _router(context: Context, gate: BoundModule, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Run Lfm2MoeTopKRouter: sigmoid scores, a choice with a bias in float32, and weights divided by their sum."""
    config, k = context.config, context.config["num_experts_per_tok"]
    router_logits = routers.compute_logits(context, gate, hidden_states)
    scores = ops.unary(router_logits, "scores", saves="result")
    if config["use_expert_bias"]:
        expert_bias = Tensor(context.tape, None, scores.shape[1:], "float32", None)
        scores_for_routing = ops.add(scores, expert_bias, "scores + expert bias")
        _best, selected_experts = indexing.top_k(scores_for_routing, k, "best")
        routing_weights = indexing.gather(scores, selected_experts, "weights")
    else:
        routing_weights, selected_experts = indexing.top_k(scores, k, "weights")
    del scores
    if config["norm_topk_prob"]:
        total = ops.sum_over(routing_weights, (*routing_weights.shape[:1], 1), "sum of a row")
        total = ops.shift(total, "sum of a row + epsilon")
        routing_weights = reductions.divide(routing_weights, total, "weights, normalized")
        del total
    return ops.scale(routing_weights, "weights, scaled"), selected_experts, router_logits


_EXPERTS = Mixture(router=_router, gate="feed_forward.gate", experts="feed_forward.experts")


def _feed_forward(context: Context, modules: LayerModules, x: Tensor) -> Tensor:
    if _EXPERTS.gate in modules:
        return _EXPERTS(context, modules, x)
    return mlp.gated(context, modules, x, "feed_forward", ("w1", "w3", "w2"), calls_module=False)


LFM2 = DecoderForward(
    layer=SequentialLayer(attention=_mixer, mlp=_feed_forward, input_norms=("operator_norm", "ffn_norm")),
    final_norm=final(norms.rms_norm, "model.embedding_norm"),
    masks=("full_attention",),
)

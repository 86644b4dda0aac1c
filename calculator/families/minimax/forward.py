"""MiniMax M2: norms over whole queries and keys, partial rotary embeddings, and experts chosen by sigmoid scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import in_place, indexing
from calculator.engine import operations as ops
from calculator.engine.tape import Tensor
from calculator.layers import norms, routers
from calculator.layers.decoder_forward import DecoderForward
from calculator.layers.decoder_layer import SequentialLayer
from calculator.layers.mixture import Mixture
from calculator.layers.self_attention import SelfAttention, norm_each_projection, rotate_part

if TYPE_CHECKING:
    from calculator.layers.bound_module import BoundModule
    from calculator.layers.context import Context


def _router(context: Context, gate: BoundModule, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Run MiniMaxM2TopKRouter: sigmoid scores in float32, and a choice with a correction.

    The weights are divided by their sum in place.
    """
    hidden_states = ops.cast(hidden_states, gate.own["weight"].dtype, "input in the weight's dtype")
    router_logits = routers.compute_logits(context, gate, hidden_states)
    scores = ops.unary(ops.cast(router_logits, "float32", "logits in float32"), "scores", saves="result")
    correction = Tensor(context.tape, None, scores.shape[1:], context.buffer_dtype, None)
    scores_for_choice = ops.add(scores, correction, "scores, corrected")
    _best, top_k_index = indexing.top_k(scores_for_choice, context.config["num_experts_per_tok"], "best")
    top_k_weights = in_place.normalize_(indexing.gather(scores, top_k_index, "weights"), "weights")
    return top_k_weights, top_k_index, router_logits


MINIMAX_M2 = DecoderForward(
    layer=SequentialLayer(
        attention=SelfAttention(project=norm_each_projection(norms.rms_norm, whole=True), rotate=rotate_part),
        mlp=Mixture(router=_router, jitter="router_jitter_noise"),
    ),
    partial_rotary=True,
)

"""Jamba: layers of Mamba or of attention without positions, each with a gated MLP or experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import indexing
from calculator.engine import operations as ops
from calculator.families.jamba.mamba import mamba
from calculator.layers import mlp, norms, routers
from calculator.layers.decoder_forward import DecoderForward, final
from calculator.layers.decoder_layer import SequentialLayer
from calculator.layers.mixture import Mixture
from calculator.layers.self_attention import SelfAttention

if TYPE_CHECKING:
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules


def _router(context: Context, gate: BoundModule, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Run JambaTopKRouter: softmax over all experts in float32, then the k largest."""
    router_logits = routers.compute_logits(context, gate, hidden_states)
    routing_weights = ops.softmax(router_logits, "float32")
    weights, indices = indexing.top_k(routing_weights, context.config["num_experts_per_tok"], "weights")
    return ops.cast(weights, hidden_states.dtype, "weights"), indices, router_logits


_EXPERTS = Mixture(router=_router, gate="feed_forward.router", experts="feed_forward.experts")
_attend = SelfAttention()


def _mix(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    run = mamba if modules.kind.attention == "linear_attention" else _attend
    return run(context, modules, hidden_states)


def _feed_forward(context: Context, modules: LayerModules, x: Tensor) -> Tensor:
    if _EXPERTS.gate in modules:
        return _EXPERTS(context, modules, x)
    return mlp.gated(context, modules, x, "feed_forward")


def _positions(context: Context, hidden_states: Tensor, dtype: DType | None = None) -> tuple[Tensor, ...]:  # noqa: ARG001  the signature of such hooks
    """Return the positions. Every layer receives them, but none reads them."""
    context.set_scope("model.")
    return (context.position_ids(hidden_states.shape[1]),)


#: The largest number of positions that are modeled, since the time and memory of an answer grow with each of them.
_POSITIONS = 1024

JAMBA = DecoderForward(
    layer=SequentialLayer(attention=_mix, mlp=_feed_forward, input_norms=("input_layernorm", "pre_ff_layernorm")),
    tables=_positions,
    final_norm=final(norms.rms_norm, "model.final_layernorm"),
    masks=("full_attention", "linear_attention"),
    positions_followed=_POSITIONS,
)

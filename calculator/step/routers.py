"""Which experts see a token, and how much each counts: (tokens, hidden_size) to weights and indices (tokens, k).

A router's locals that its caller keeps come after the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.step import indexing
from calculator.step import operations as ops

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.step.bound import Bound
    from calculator.step.context import Context
    from calculator.step.tape import Tensor

    #: Weights, indices, and what stays alive beside them.
    Router = Callable[[Context, Bound, Tensor], tuple[Tensor, ...]]


def logits_of(context: Context, gate: Bound, hidden_states: Tensor) -> Tensor:
    """A score for each expert."""
    context.scoped(f"{gate.name}: ")
    return ops.matmul(hidden_states, gate.own["weight"], gate.own.get("bias"), gate.module.out_features, "logits")


def softmax_first(context: Context, gate: Bound, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Softmax over all experts, the k largest, and each one's share of their sum (Mixtral)."""
    router_logits = logits_of(context, gate, hidden_states)
    router_probs = ops.softmax(ops.cast(router_logits, "float32", "logits in float32"), "float32")
    router_top_value, router_indices = indexing.top_k(router_probs, context.config["num_experts_per_tok"], "weights")
    return indexing.share(router_top_value, "weights", in_place=True), router_indices, router_logits


def cast_back(context: Context, gate: Bound, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """The same, each one's share only where `norm_topk_prob`, in the logits' dtype (Qwen's experts, OLMoE)."""
    router_logits = logits_of(context, gate, hidden_states)
    router_probs = ops.softmax(router_logits, "float32")
    router_top_value, router_indices = indexing.top_k(router_probs, context.config["num_experts_per_tok"], "weights")
    if context.config["norm_topk_prob"]:
        router_top_value = indexing.share(router_top_value, "weights", in_place=True)
    return ops.cast(router_top_value, router_logits.dtype, "weights"), router_indices, router_logits


def softmax_last(context: Context, gate: Bound, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """The k largest scores, and softmax over those (Granite's experts)."""
    router_logits = logits_of(context, gate, hidden_states)
    router_logits = ops.cast(router_logits, "float32", "logits in float32")
    top_k_logits, top_k_index = indexing.top_k(router_logits, context.config["num_experts_per_tok"], "chosen logits")
    weights = ops.cast(ops.softmax(top_k_logits, "float32"), hidden_states.dtype, "weights")
    return weights, top_k_index, router_logits

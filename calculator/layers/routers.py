"""Routers, which choose the experts for each token and their weights.

A router maps (tokens, hidden_size) to weights and indices (tokens, k), and to its logits, which its caller keeps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import in_place, indexing, products
from calculator.engine import operations as ops

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule
    from calculator.layers.context import Context

    #: Weights, indices and logits.
    Router = Callable[[Context, BoundModule, Tensor], tuple[Tensor, ...]]


def compute_logits(context: Context, gate: BoundModule, hidden_states: Tensor) -> Tensor:
    """Return a score for each expert."""
    context.set_scope(f"{gate.name}: ")
    return products.matmul(hidden_states, gate.own["weight"], gate.own.get("bias"), gate.module.out_features, "logits")


def logits_in_float32(context: Context, gate: BoundModule, hidden_states: Tensor) -> Tensor:
    """Return a score for each expert, from input and weight in float32.

    A sharding may have cast the weight before.
    """
    x = ops.cast(hidden_states, "float32", "input in float32")
    context.set_scope(f"{gate.name}: ")
    weight = ops.cast(gate.own["weight"], "float32", "weight in float32")
    return products.matmul(x, weight, gate.own.get("bias"), gate.module.out_features, "logits")


def softmax_first(context: Context, gate: BoundModule, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Apply softmax over all experts, then take the k largest, divided by their sum (Mixtral)."""
    router_logits = compute_logits(context, gate, hidden_states)
    router_probs = ops.softmax(ops.cast(router_logits, "float32", "logits in float32"), "float32")
    router_top_value, router_indices = indexing.top_k(router_probs, context.config["num_experts_per_tok"], "weights")
    return in_place.normalize_(router_top_value, "weights"), router_indices, router_logits


def softmax_and_cast_back(context: Context, gate: BoundModule, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Apply softmax in the logits' dtype, then take the k largest (Qwen's experts, OLMoE).

    They are divided by their sum only if `norm_topk_prob` is set.
    """
    router_logits = compute_logits(context, gate, hidden_states)
    router_probs = ops.softmax(router_logits, "float32")
    router_top_value, router_indices = indexing.top_k(router_probs, context.config["num_experts_per_tok"], "weights")
    if context.config["norm_topk_prob"]:
        router_top_value = in_place.normalize_(router_top_value, "weights")
    return ops.cast(router_top_value, router_logits.dtype, "weights"), router_indices, router_logits


def softmax_last(context: Context, gate: BoundModule, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Take the k largest scores in float32, then apply softmax to them (Granite's experts)."""
    router_logits = compute_logits(context, gate, hidden_states)
    router_logits = ops.cast(router_logits, "float32", "logits in float32")
    top_k_logits, top_k_index = indexing.top_k(router_logits, context.config["num_experts_per_tok"], "chosen logits")
    weights = ops.cast(ops.softmax(top_k_logits, "float32"), hidden_states.dtype, "weights")
    return weights, top_k_index, router_logits


def greedy_by_group(context: Context, gate: BoundModule, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Apply softmax in float32, then take the k largest (DeepSeek V2).

    With `group_limited_greedy`, only the best groups are considered.
    """
    router_logits = logits_in_float32(context, gate, hidden_states)
    scores = ops.softmax(router_logits, "float32")
    _alive: list[Tensor] = []
    if context.config["topk_method"] == "group_limited_greedy":
        group_scores, _ = indexing.top_k(_by_groups(context, scores), 1, "best of each group")
        scores, *_alive = _in_best_groups(context, scores, group_scores)
    weights, indices = indexing.top_k(scores, context.config["num_experts_per_tok"], "weights")
    return ops.scale(weights, "weights, scaled"), indices, router_logits


def sigmoid_with_correction(context: Context, gate: BoundModule, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Apply sigmoid, and choose experts by corrected scores from the best groups (DeepSeek V3).

    The best groups have the largest sums of their two best scores.
    """
    router_logits = logits_in_float32(context, gate, hidden_states)
    scores = ops.unary(router_logits, "scores", saves="result")
    scores_for_choice = ops.shift(scores, "scores, corrected")
    grouped = _by_groups(context, scores_for_choice)
    group_scores = indexing.sum_groups(indexing.top_k(grouped, 2, "two best")[0], grouped.shape[:2], "two best, summed")
    scores_for_choice, *_alive = _in_best_groups(context, scores_for_choice, group_scores)
    topk_indices = indexing.top_k(scores_for_choice, context.config["num_experts_per_tok"], "best")[1]
    topk_weights = indexing.gather(scores, topk_indices, "weights")
    if context.config["norm_topk_prob"]:
        topk_weights = in_place.normalize_(topk_weights, "weights", adds_eps=True)
    return ops.scale(topk_weights, "weights, scaled"), topk_indices, router_logits


def _by_groups(context: Context, scores: Tensor) -> Tensor:
    tokens, among = scores.shape
    groups = context.config["n_group"]
    return ops.view(scores, (tokens, groups, among // groups))


def _in_best_groups(context: Context, scores: Tensor, group_scores: Tensor) -> tuple[Tensor, ...]:
    """Mask the scores outside the best groups. Return them, and tensors that stay alive until the choice is made."""
    tape, tokens = scores.tape, scores.shape[0]
    group_idx = indexing.top_k(group_scores, context.config["topk_group"], "best groups")[1]
    group_mask = tape.new((tokens, context.config["n_group"]), "float32", "mask of the groups")
    score_mask = tape.new(scores.shape, "float32", "mask of the experts")
    as_bool = tape.new(scores.shape, "bool", "mask of the experts as bool")
    others = tape.new(scores.shape, "bool", "experts of other groups")
    del as_bool
    return indexing.masked_fill(scores, others, "scores in the best groups"), group_idx, group_mask, score_mask

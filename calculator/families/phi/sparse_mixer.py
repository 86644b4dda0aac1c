"""The router of Phi-3.5-MoE: SparseMixer (Liu et al. 2024) samples two experts per token instead of taking the best."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine.autograd import Node
from calculator.layers import routers

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule
    from calculator.layers.context import Context


def sparse_mixer(context: Context, gate: BoundModule, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Sample two experts one after the other. The weight of each is a softmax over the scores near the best score."""
    scores = routers.compute_logits(context, gate, hidden_states)
    replaced: list[Tensor] = []
    first, selected, *_alive = _sample_expert(scores, replaced)
    masked_scores = scores.tape.new(scores.shape, scores.dtype, "scores without the first")
    second, selected_top2, *_alive = _sample_expert(scores, replaced)
    stacked_shape = (*first.shape[:-1], 2)
    multiplier = ops.cat((first, second), stacked_shape, "weights")
    indices = scores.tape.new(stacked_shape, "int64", "experts")
    del masked_scores, selected, selected_top2
    return multiplier, indices, scores


def _sample_expert(scores: Tensor, replaced: list[Tensor]) -> tuple[Tensor, ...]:
    """Sample one expert per token. Return its weight and index, then tensors that stay alive until the next sample.

    `replaced` has the local variables of the sample before that this one assigns again, and then its own.
    """
    tape, one = scores.tape, (scores.shape[0], 1)
    mask = _far_from_best(scores, replaced)
    near = tape.new(scores.shape, scores.dtype, "scores near the best")
    selected = _sampled(near)
    masked_gates = ops.softmax(near)
    del near
    dtype = masked_gates.dtype
    weight = tape.new(one, dtype, "probability of the drawn")
    best = tape.new(one, dtype, "best probability")
    # Max's node saves the index, which stays with the probability.
    best_number = replaced[0] = tape.new(one, "int64", "best expert")
    midpoint = tape.new(one, dtype, "midpoint")
    node = Node(tape, _drawn_back, (scores.edge,)) if scores.edge else None
    if node is not None:
        for saved in (weight, selected, masked_gates, mask):
            node.save(saved)
    return tape.new(one, dtype, "weight", node), selected, best, best_number, midpoint


def _far_from_best(scores: Tensor, replaced: list[Tensor]) -> Tensor:
    """Return which scores are far below the best.

    Two local variables stay alive in `replaced`: the best expert, and the maximum of each score's size and the best
    score.
    """
    tape, one = scores.tape, (scores.shape[0], 1)
    best = tape.new(one, scores.dtype, "best score")
    replaced[:1] = [tape.new(one, "int64", "best expert")]
    size = tape.new(scores.shape, scores.dtype, "size of scores")
    replaced[1:] = [tape.new(scores.shape, scores.dtype, "size of scores, at least the best")]
    del size
    difference = tape.new(scores.shape, scores.dtype, "best - scores")
    ratio = tape.new(scores.shape, scores.dtype, "best - scores, over their size")
    del difference
    mask = tape.new(scores.shape, "bool", "far from the best")
    del ratio, best
    return mask


def _sampled(scores: Tensor) -> Tensor:
    """Return the maximum of the scores with Gumbel noise."""
    tape, rows = scores.tape, scores.shape[:1]
    noise = tape.new(scores.shape, scores.dtype, "noise")
    log = ops.unary(noise, "noise, logarithm", saves="input", fp32_in_autocast=True)
    del noise
    noisy = ops.subtract(scores, log, "scores with noise")
    del log
    tape.new(rows, noisy.dtype, "largest")
    selected = tape.new(rows, "int64", "drawn expert")
    del noisy
    return selected


def _drawn_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    """Run PhimoeMultiplier.backward: multiply probabilities by the negated gradient, and add the gradient."""
    probabilities = node.saved[2]
    weight_grad = grad.tape.new(grad.shape, grad.dtype, "gradient · probability")
    negated = grad.tape.new(grad.shape, grad.dtype, "gradient · probability, negated")
    out = grad.tape.new(probabilities.shape, grad.dtype, "scores: gradient")
    del weight_grad, negated
    return (out,)

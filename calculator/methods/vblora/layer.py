"""A linear layer with factors from a bank of vectors (peft.tuners.vblora.layer.Linear)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import indexing, products
from calculator.engine import operations as ops
from calculator.methods.reshaping import copied
from calculator.methods.targeted.adapted_linear import dropped

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule
    from calculator.methods.vblora.method import VBLoRA

#: The names of the logits within a module, and of the bank.
A, B = "vblora_logits_A", "vblora_logits_B"
BANK = "vblora_vector_bank"


def forward(method: VBLoRA, bound: BoundModule, x: Tensor) -> Tensor:
    """Return the output of the frozen module plus the low-rank update."""
    dtype = x.dtype
    result = bound.base(x)
    first, second = _factor_a(method, bound), _factor_b(method, bound)
    x = ops.cast(x, bound.added[BANK].dtype, "input in the bank's dtype")
    result = ops.add(result, _update(method, x, first, second), "result + update")
    return ops.cast(result, dtype, "output")


def _update(method: VBLoRA, x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    inner = products.matmul(dropped(x, method.vblora_dropout), first, None, first.shape[0], "A·x")
    return products.matmul(inner, second, None, second.shape[0], "B·A·x")


def _factor_a(method: VBLoRA, bound: BoundModule) -> Tensor:
    """Return A, a view: (r, in_features)."""
    logits = bound.added[A]
    return ops.view(_mixed(method, bound, logits), (logits.shape[0], bound.module.in_features))


def _factor_b(method: VBLoRA, bound: BoundModule) -> Tensor:
    """Return B, a copy: (out_features, r)."""
    logits = bound.added[B]
    shape = (bound.module.out_features, logits.shape[1])
    return copied(_mixed(method, bound, logits), shape, "B", copies_gradient=True)


def _mixed(method: VBLoRA, bound: BoundModule, logits: Tensor) -> Tensor:
    """Sum the chosen vectors of the bank, weighted: (rows, columns, vector_length)."""
    weights, indices = _chosen(method, logits)
    weighted = _weighted(bound, weights, indices)
    return ops.sum_over(weighted, (*weighted.shape[:2], weighted.shape[3]), "weighted sum of vectors")


def _chosen(method: VBLoRA, logits: Tensor) -> tuple[Tensor, Tensor]:
    values, indices = indexing.top_k(logits, method.topk, "largest logits")
    return ops.softmax(values), indices


def _weighted(bound: BoundModule, weights: Tensor, indices: Tensor) -> Tensor:
    vectors = indexing.index(bound.added[BANK], indices, "chosen vectors")
    return ops.mul(ops.view(weights, (*weights.shape, 1)), vectors, "weighted vectors")

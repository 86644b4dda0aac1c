"""A linear layer with a low-rank update for each block (peft.tuners.gralora.layer.Linear)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import in_place, products
from calculator.engine import operations as ops
from calculator.engine.module_calls import enter, leave, transposed
from calculator.methods.reshaping import copied, permuted, tokens_of
from calculator.methods.targeted.adapted_linear import called_dropout

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule

#: The names of the stacked factors within a module, and of those of the plain low-rank update.
A, B = "gralora_A", "gralora_B"
PLAIN_A, PLAIN_B = "gralora_A_general.weight", "gralora_B_general.weight"


def forward(bound: BoundModule, x: Tensor, dropout: float) -> Tensor:
    """Run the frozen module, and add the updates to its output in place."""
    dtype = x.dtype
    result = bound.base_layer(x)
    output = _blocks(bound, x, dropout)
    result = in_place.add_(result, _scaled(output, result))
    if PLAIN_A in bound.added:
        plain = _plain(bound, x, dropout)
        result = in_place.add_(result, _scaled(plain, result))
    return ops.cast(result, dtype, "output")


def _scaled(output: Tensor, result: Tensor) -> Tensor:
    return ops.scale(ops.cast(output, result.dtype, "update in the output's dtype"), "update, scaled")


def _plain(bound: BoundModule, x: Tensor, dropout: float) -> Tensor:
    """Return the plain low-rank update. Its input is freed before the product with B."""
    name, b = f"{bound.name}.{PLAIN_B.removesuffix('.weight')}", bound.added[PLAIN_B]
    after_a = enter(name, _times_plain_a(bound, x, dropout))
    return leave(name, products.matmul(after_a, b, None, b.shape[0], "B·A·x"))


def _times_plain_a(bound: BoundModule, x: Tensor, dropout: float) -> Tensor:
    name, a = f"{bound.name}.{PLAIN_A.removesuffix('.weight')}", bound.added[PLAIN_A]
    x = called_dropout(bound, "gralora_dropout", _cast(bound, x), dropout)
    return leave(name, products.matmul(enter(name, x), a, None, a.shape[0], "A·x"))


def _cast(bound: BoundModule, x: Tensor) -> Tensor:
    return ops.cast(x, bound.added[A].dtype, "input in the factors' dtype")


def _blocks(bound: BoundModule, x: Tensor, dropout: float) -> Tensor:
    """Return the sum of the blocks' updates: (..., in_features) to (..., out_features).

    Each block of the input is multiplied with its A, shuffled, then multiplied with each B.
    """
    out = _times_b(bound, _times_a(bound, x, dropout))
    return copied(out, (*x.shape[:-1], bound.module.out_features), "update")


def _times_a(bound: BoundModule, x: Tensor, dropout: float) -> Tensor:
    a = bound.added[A]
    count, width, r = a.shape
    tokens = tokens_of(x)
    x = called_dropout(bound, "gralora_dropout", _cast(bound, x), dropout)
    product = products.bmm(permuted(x, (count, tokens, width)), transposed(a), (count, tokens, r), "A·x")
    return copied(product, (count, tokens, r), "A·x, shuffled", copies_gradient=True)


def _times_b(bound: BoundModule, x: Tensor) -> Tensor:
    b = bound.added[B]
    return products.bmm(x, transposed(b), (x.shape[0], x.shape[1], b.shape[2]), "B·A·x")

"""Trained rows of the word embeddings (peft.tuners.trainable_tokens.layer.TrainableTokensLayer).

Each pass copies the table and writes the rows into the copy. A head that is tied to the embeddings has the rows too,
and makes its own copy.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.common.errors import Problem
from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.autograd import Node
from calculator.resident.module_spec import Added

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule

#: The names within the module of the trained rows, and of the rows that they replace.
DELTA, ORIGINAL = "trainable_tokens_delta", "trainable_tokens_original"


def problems(loc: str, tokens: tuple[int, ...], model: Model) -> Iterator[Problem]:
    """Yield tokens that the model does not have."""
    rows = int(model.embedding.in_features)
    odd = next((token for token in tokens if not -rows <= token < rows), None)
    if odd is not None:
        yield Problem(loc=loc, msg=f"the model has tokens 0 to {rows - 1:,}, not {odd:,}: leave it out", input=odd)


def tied(model: Model, inside: str = "") -> Model:
    """Return the model whose tied head has the rows of the embeddings.

    `inside` is the prefix of their names in a module.
    """
    table, head = model.embedding.name, model.head
    name = f"{head}.{inside}{DELTA}"
    if head is None or model.tied.get(f"{head}.weight") != f"{table}.weight" or name in model.tied:
        return model
    return replace(model, tied={**model.tied, name: f"{table}.{inside}{DELTA}"})


def added(path: str, tokens: tuple[int, ...], model: Model, dtype: DType, inside: str = "") -> tuple[Added, ...]:
    """Return the rows that are added to a module. For embeddings, there is also a buffer with the original rows."""
    shape = (named(len(tokens), "tokens"), model.embedding.out_features)
    rows = Added(name=f"{inside}{DELTA}", shape=shape, dtype=dtype)
    if path == model.embedding.name:
        return rows, Added(name=f"{inside}{ORIGINAL}", shape=shape, dtype=dtype, trained=False, buffer=True)
    return (rows,) if f"{path}.{rows.name}" in model.tied else ()


def product(bound: BoundModule, x: Tensor, inside: str = "") -> Tensor:
    """Return the product of a tied head with the table."""
    return products.matmul(x, merged(bound, inside), None, bound.module.out_features, "output")


def merged(bound: BoundModule, inside: str = "") -> Tensor:
    """Run TrainableTokensLayer.get_merged_weights.

    It returns a copy of the table, whose gradient is that of the whole table.
    """
    weight, rows = bound.own["weight"], bound.added[f"{inside}{DELTA}"]
    tape = rows.tape
    index = tape.new((rows.shape[0],), "int64", "token indices")
    rows = ops.cast(rows, weight.dtype, "rows in the table's dtype")
    node = None
    if rows.edge:
        node = Node(tape, _merged_back, (rows.edge,), rows.shape)
        node.save(index)
        node.save(rows)
    return tape.new(weight.shape, weight.dtype, "table with trained rows", node)


def _merged_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(node.context, grad.dtype, "rows: gradient"),)

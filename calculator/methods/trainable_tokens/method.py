"""Trainable tokens: some rows of the word embeddings are trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.common.errors import refusal
from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.autograd import Node
from calculator.inputs.settings import setting
from calculator.methods.base import Method
from calculator.methods.trainable_tokens.facts import FACTS
from calculator.resident.module_spec import Added, ModuleSpec

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule
    from calculator.resident.tensors import ResidentTensor

#: The names of the rows within the module, and of the rows that they replace.
DELTA, ORIGINAL = "trainable_tokens_delta", "trainable_tokens_original"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainableTokens(Method):
    """The rows of some tokens. A head that is tied to the embeddings has them too."""

    name = "trainable_tokens"
    facts = FACTS

    token_indices: tuple[int, ...] = setting(
        (0,),
        label="Tokens",
        help="The numbers of the tokens whose embeddings are trained. Text may have ranges: 128000-128009.",
        example=(128_000, 128_001),
    )

    def check(self, model: Model, training: Training) -> None:  # noqa: ARG002
        """Refuse tokens that the model does not have."""
        rows = int(model.embedding.in_features)
        odd = next((token for token in self.token_indices if not -rows <= token < rows), None)
        if odd is not None:
            raise refusal("method.token_indices", f"the model has tokens 0 to {rows - 1:,}, not {odd:,}", odd)

    def with_layers(self, model: Model) -> Model:
        """The model whose tied head has the rows of the embeddings."""
        table, head = model.embedding.name, model.head
        own = f"{head}.{DELTA}"
        if head is None or model.tied.get(f"{head}.weight") != f"{table}.weight" or own in model.tied:
            return model
        return replace(model, tied={**model.tied, own: f"{table}.{DELTA}"})

    def module_spec(self, path: str, module: Module, model: Model, training: Training) -> ModuleSpec:
        """Frozen, with the rows added to the embeddings and to a tied head."""
        rows = Added(name=DELTA, shape=self._shape(module, model), dtype=training.added_dtype)
        if path == model.embedding.name:
            original = Added(name=ORIGINAL, shape=rows.shape, dtype=training.added_dtype, trained=False, buffer=True)
            return ModuleSpec(dtype=training.dtype, added=(rows, original))
        tied = f"{path}.{DELTA}" in model.tied
        return ModuleSpec(dtype=training.dtype, added=(rows,) if tied else ())

    def _shape(self, module: Module, model: Model) -> tuple[int, int]:  # noqa: ARG002
        return named(len(self.token_indices), "tokens"), model.embedding.out_features

    def embedding_weight(self, bound: BoundModule) -> Tensor:
        """The table with the trained rows: a copy, whose gradient is that of the whole table."""
        return _merged(bound) if bound.added else bound.own["weight"]

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """The product with the table, of a tied head."""
        return products.matmul(x, _merged(bound), None, bound.module.out_features, "output")

    def is_matmul(self, tensor: ResidentTensor) -> bool:  # noqa: ARG002
        """Rows are looked up."""
        return False


def _merged(bound: BoundModule) -> Tensor:
    """Run TrainableTokensLayer.get_merged_weights."""
    weight, rows = bound.own["weight"], bound.added[DELTA]
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

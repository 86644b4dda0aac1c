"""Trainable tokens: some rows of the word embeddings are trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.common.errors import PlanError
from calculator.inputs.settings import setting
from calculator.methods import token_rows
from calculator.methods.base import Method
from calculator.methods.trainable_tokens.facts import FACTS
from calculator.resident.module_spec import ModuleSpec

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule
    from calculator.resident.tensor import ResidentTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainableTokens(Method):
    """Trainable tokens: the rows of some tokens. A head that is tied to the embeddings has them too."""

    name = "trainable_tokens"
    facts = FACTS

    token_indices: tuple[int, ...] = setting(
        (0,),
        label="Tokens",
        help="Indices of the tokens whose embeddings are trained. Text can contain ranges: 128000-128009.",
        example=(128_000, 128_001),
    )

    def check(self, model: Model, training: Training) -> None:  # noqa: ARG002
        """Refuse tokens that the model does not have."""
        problems = [*token_rows.problems("method.token_indices", self.token_indices, model)]
        if problems:
            raise PlanError(*problems)

    def with_layers(self, model: Model) -> Model:
        """Return the model whose tied head has the rows of the embeddings."""
        return token_rows.tied(model)

    def module_spec(self, path: str, module: Module, model: Model, training: Training) -> ModuleSpec:  # noqa: ARG002
        """Return the module as frozen, with the rows added to the embeddings and to a tied head."""
        added = token_rows.added(path, self.token_indices, model, training.added_dtype)
        return ModuleSpec(dtype=training.dtype, added=added)

    def embedding_weight(self, bound: BoundModule) -> Tensor:
        """Return the table with the trained rows."""
        return token_rows.merged(bound) if bound.added else bound.own["weight"]

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Return the product of a tied head with the table."""
        return token_rows.product(bound, x)

    def is_matmul(self, tensor: ResidentTensor) -> bool:  # noqa: ARG002
        """Return False: rows are looked up."""
        return False

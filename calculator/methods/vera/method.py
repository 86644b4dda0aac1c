"""VeRA, vector-based random matrix adaptation (Kopiczko et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calculator.architecture.dimension import named
from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.tape import Tensor
from calculator.inputs.settings import setting
from calculator.methods.costs import OtherOperations
from calculator.methods.targeted import settings
from calculator.methods.targeted.adapted_linear import called_dropout
from calculator.methods.targeted.method import TargetModules  # noqa: TC001  `declared` evaluates annotations
from calculator.methods.targeted.shared_matrices import SharedMatrices
from calculator.methods.vera.facts import FACTS
from calculator.resident.module_spec import Added

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.architecture.dimension import Shape
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule
    from calculator.resident.tensor import ResidentTensor

#: The names of the trained vectors within a module.
_B, _D = "vera_lambda_b", "vera_lambda_d"


@dataclass(frozen=True, slots=True, kw_only=True)
class VeRA(SharedMatrices):
    """VeRA: two vectors for each adapted matrix, and one pair of frozen random matrices."""

    name = "vera"
    facts = FACTS

    r: int = setting(256, label="Rank", help="The rank of the shared matrices.", minimum=1, maximum=65_536, example=256)
    target_modules: TargetModules = settings.target_modules()
    save_projection: bool = settings.save_projection()
    vera_dropout: float = settings.dropout()
    bias: Literal["none", "all", "vera_only"] = settings.bias()
    modules_to_save: tuple[str, ...] | None = settings.modules_to_save()

    def parameters(self, path: str, module: Module, model: Model, training: Training) -> tuple[Added, ...]:  # noqa: ARG002
        """Return the vectors λ_b and λ_d."""
        dtype = training.added_dtype
        return (
            Added(name=_B, shape=(module.out_features,), dtype=dtype),
            Added(name=_D, shape=(named(self.r, "r"),), dtype=dtype),
        )

    def shared_shapes(self, rows: int, columns: int) -> dict[str, Shape]:
        """Return the pair of frozen matrices."""
        r = named(self.r, "r")
        return {"vera_A": (r, columns), "vera_B": (rows, r)}

    def other_operations(self, added: Sequence[ResidentTensor], batch: int) -> OtherOperations:  # noqa: ARG002
        """Return the products with the shared matrices, of which A is multiplied in full, and the scalings."""
        columns = sum(int(tensor.shape[1]) for tensor in added if tensor.name == "vera_A")
        sides = sum((columns + int(tensor.shape[0])) * tensor.count for tensor in added if tensor.name.endswith(_B))
        scalings = sum(tensor.parameters * tensor.count for tensor in added)
        return OtherOperations(formula="2 × r × (in + out) + vectors", count=2 * self.r * sides + scalings)

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Run peft.tuners.vera.layer.Linear.forward."""
        dtype = x.dtype
        result = bound.base_layer(x)
        result_dtype = result.dtype
        x = ops.cast(x, bound.added[_D].dtype, "input in the vectors' dtype")
        result = ops.add(result, self._update(bound, x), "result + update")
        return ops.cast(ops.cast(result, result_dtype, "output"), dtype, "output")

    def _update(self, bound: BoundModule, x: Tensor) -> Tensor:
        return ops.mul(bound.added[_B], self._product(bound, x), "λ_b · B·(λ_d · A·x)")

    def _product(self, bound: BoundModule, x: Tensor) -> Tensor:
        inner, width = bound.added[_D], bound.module.out_features
        shared = Tensor(x.tape, None, (width, inner.shape[0]), inner.dtype, None)
        return products.matmul(self._inner(bound, x), shared, None, width, "B·(λ_d · A·x)")

    def _inner(self, bound: BoundModule, x: Tensor) -> Tensor:
        inner = bound.added[_D]
        shared = Tensor(x.tape, None, (inner.shape[0], bound.module.in_features), inner.dtype, None)
        after = products.matmul(
            called_dropout(bound, "vera_dropout", x, self.vera_dropout), shared, None, inner.shape[0], "A·x"
        )
        return ops.mul(inner, after, "λ_d · A·x")

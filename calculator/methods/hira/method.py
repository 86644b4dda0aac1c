"""HiRA, a Hadamard product of the weight and a low-rank matrix (Huang et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.autocast import cast_to
from calculator.engine.autograd import Node, saves_factors
from calculator.inputs.settings import setting
from calculator.methods.dense_update.layer import dense_operations
from calculator.methods.hira.facts import FACTS
from calculator.methods.targeted import settings
from calculator.methods.targeted.adapted_linear import AdaptedLinear, dropped, transposed_weight
from calculator.methods.targeted.method import TargetModules  # noqa: TC001  `declared` evaluates annotations
from calculator.resident.module_spec import Added

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule
    from calculator.methods.costs import OtherOperations
    from calculator.resident.tensor import ResidentTensor

#: The names of the factors within a module.
_A, _B = "hira_A", "hira_B"


@dataclass(frozen=True, slots=True, kw_only=True)
class HiRA(AdaptedLinear):
    """HiRA: two thin matrices for each adapted matrix, whose product multiplies it elementwise."""

    name = "hira"
    facts = FACTS
    adapts_embeddings = True

    r: int = setting(32, label="Rank", help="The rank r of the factor.", minimum=1, maximum=65_536, example=32)
    target_modules: TargetModules = settings.target_modules()
    exclude_modules: tuple[str, ...] | None = settings.exclude_modules()
    hira_dropout: float = settings.dropout()
    modules_to_save: tuple[str, ...] | None = settings.modules_to_save()

    def parameters(self, path: str, module: Module, model: Model, training: Training) -> tuple[Added, ...]:  # noqa: ARG002
        """Return A and B."""
        r, dtype = named(self.r, "r"), training.added_dtype
        return (
            Added(name=_A, shape=(r, module.in_features), dtype=dtype),
            Added(name=_B, shape=(module.out_features, r), dtype=dtype),
        )

    def is_matmul(self, tensor: ResidentTensor) -> bool:  # noqa: ARG002
        """Return False: a token is multiplied with the weight times the product of the factors."""
        return False

    def other_operations(self, added: Sequence[ResidentTensor], batch: int) -> OtherOperations:
        """Return the product of the factors, its product with the weight, and a token's product with the result."""
        columns = {tensor.name.rpartition(".")[0]: int(tensor.shape[1]) for tensor in added if tensor.name.endswith(_A)}
        rows = [(tensor, columns[tensor.name.rpartition(".")[0]]) for tensor in added if tensor.name.endswith(_B)]
        sizes = [(row.count, int(row.shape[0]) * width) for row, width in rows]
        return dense_operations([(number, size, (2 * self.r + 1) * size) for number, size in sizes], batch)

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Run peft.tuners.hira.layer.Linear.forward."""
        result = bound.base(x)
        dtype = result.dtype
        product = _product(bound)
        x = ops.cast(x, bound.added[_A].dtype, "input in the factors' dtype")
        dropout_sub = dropped(x, self.hira_dropout)
        result = ops.add(result, _update(bound, dropout_sub, product), "result + update")
        return ops.cast(result, dtype, "output")


def _update(bound: BoundModule, x: Tensor, product: Tensor) -> Tensor:
    rows, columns = bound.module.out_features, bound.module.in_features
    weight = ops.view(transposed_weight(bound, bound.own["weight"].detach()), (rows, columns))
    update = ops.mul(weight, product, "weight · product of the factors")
    return products.matmul(x, update, None, rows, "update")


def _product(bound: BoundModule) -> Tensor:
    """Return A.T @ B.T: (out_features, in_features).

    Autocast casts views of parameters without caching the copies.
    """
    a, b = bound.added[_A], bound.added[_B]
    autocast = a.tape.autocast
    if autocast is not None:
        a, b = cast_to(a, autocast.dtype, "A"), cast_to(b, autocast.dtype, "B")
    node = None
    if a.edge:
        node = Node(a.tape, _product_back, (a.edge, b.edge))
        node.save(b)
        node.save(a)
    return a.tape.new((b.shape[0], a.shape[1]), a.dtype, "product of the factors", node)


@saves_factors(0, 1)
def _product_back(node: Node, grad: Tensor) -> tuple[Tensor, Tensor]:
    b, a = node.saved
    a_grad = grad.tape.new(a.shape, grad.dtype, "A: gradient")
    return a_grad, grad.tape.new(b.shape, grad.dtype, "B: gradient")

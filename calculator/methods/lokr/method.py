"""LoKr, updates that are Kronecker products (Yeh et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.parameter_views import viewed
from calculator.inputs.settings import setting
from calculator.methods.dense_update import layer
from calculator.methods.dense_update.method import DenseUpdate
from calculator.methods.lokr.factorization import factorization
from calculator.methods.lokr.facts import FACTS
from calculator.methods.targeted import settings
from calculator.methods.targeted.method import TargetModules  # noqa: TC001  `declared` evaluates annotations
from calculator.resident.module_spec import Added

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.architecture.dimension import Shape
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule
    from calculator.methods.costs import OtherOperations
    from calculator.resident.tensor import ResidentTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LoKr(DenseUpdate):
    """LoKr: two matrices for each adapted matrix. The larger one has a low rank, or both have."""

    name = "lokr"
    facts = FACTS

    r: int = setting(8, label="Rank", help="The rank r of the update.", minimum=1, maximum=65_536, example=16)
    alpha: float = setting(8, label="Alpha", help="The update is scaled by alpha / r.", minimum=0, maximum=1e6)
    rank_dropout: float = settings.rank_dropout()
    decompose_both: bool = setting(
        False, label="Decompose both", help="Give the smaller of the two matrices a low rank too, if r is small enough."
    )
    decompose_factor: int = setting(
        -1,
        label="Decomposition factor",
        help="The size of the smaller matrix: the divisor of each side of the weight that is close to this number; -1 "
        "means close to the side's square root.",
        minimum=-1,
        maximum=65_536,
    )
    target_modules: TargetModules = settings.target_modules()
    exclude_modules: tuple[str, ...] | None = settings.exclude_modules()
    modules_to_save: tuple[str, ...] | None = settings.modules_to_save()

    def parameters(self, path: str, module: Module, model: Model, training: Training) -> tuple[Added, ...]:  # noqa: ARG002
        """Return W1 and W2, each whole or as two factors."""
        r, dtype = named(self.r, "r"), training.added_dtype
        (a, b), (c, d) = (
            factorization(int(side), self.decompose_factor) for side in (module.out_features, module.in_features)
        )
        shapes: dict[str, Shape] = {}
        if self.decompose_both and self.r < max(a, c) / 2:
            shapes |= {"lokr_w1_a": (a, r), "lokr_w1_b": (r, c)}
        else:
            shapes["lokr_w1"] = (a, c)
        if self.r < max(b, d) / 2:
            shapes |= {"lokr_w2_a": (b, r), "lokr_w2_b": (r, d)}
        else:
            shapes["lokr_w2"] = (b, d)
        return tuple(Added(name=name, shape=shape, dtype=dtype) for name, shape in shapes.items())

    def other_operations(self, added: Sequence[ResidentTensor], batch: int) -> OtherOperations:
        """Return the Kronecker product, its scaling, and a token's product with it."""
        sides: dict[str, dict[str, ResidentTensor]] = {}
        for tensor in added:
            owner, _, name = tensor.name.rpartition(".lokr_")
            sides.setdefault(owner, {})[name] = tensor
        sizes = ((next(iter(side.values())).count, _update_size(side)) for side in sides.values())
        return layer.dense_operations(((number, size, 2 * size) for number, size in sizes), batch)

    def update(self, bound: BoundModule) -> Tensor:
        """Return the Kronecker product of W1 and W2."""
        weight = _kronecker(_factor(bound, "lokr_w1"), _factor(bound, "lokr_w2"))
        weight = ops.view(weight, (bound.module.out_features, bound.module.in_features))
        return layer.drop_rows(weight, self.rank_dropout, "float32")


def _update_size(factors: dict[str, ResidentTensor]) -> int:
    """Return the elements of the Kronecker product of W1 and W2, each whole or as two factors."""
    size = 1
    for name in ("w1", "w2"):
        first, second = (factors[name],) * 2 if name in factors else (factors[f"{name}_a"], factors[f"{name}_b"])
        size *= int(first.shape[0]) * int(second.shape[1])
    return size


def _factor(bound: BoundModule, name: str) -> Tensor:
    if name in bound.added:
        return bound.added[name]
    first, second = bound.added[f"{name}_a"], bound.added[f"{name}_b"]
    return products.matmul(first, second, None, second.shape[1], f"{name}_a · {name}_b")


def _kronecker(first: Tensor, second: Tensor) -> Tensor:
    """Return torch.kron(w1, w2) * scale, as the product of two views that broadcast."""
    (a, c), (b, d) = first.shape, second.shape
    first, second = viewed(first, (a, 1, c, 1)), viewed(second, (1, b, 1, d))
    return ops.scale(ops.mul(first, second, "Kronecker product"), "update")

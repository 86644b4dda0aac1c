"""LoHa, low-rank updates multiplied elementwise (Hyeon-Woo et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.inputs.settings import setting
from calculator.methods.dense_update import layer
from calculator.methods.dense_update.method import DenseUpdate
from calculator.methods.loha.facts import FACTS
from calculator.methods.loha.hada_weight import FACTORS, hada_weight
from calculator.methods.targeted import settings
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


@dataclass(frozen=True, slots=True, kw_only=True)
class LoHa(DenseUpdate):
    """LoHa: four thin matrices for each adapted matrix."""

    name = "loha"
    facts = FACTS

    r: int = setting(8, label="Rank", help="The rank r of the update.", minimum=1, maximum=65_536, example=16)
    alpha: float = setting(8, label="Alpha", help="The update is scaled by alpha / r.", minimum=0, maximum=1e6)
    rank_dropout: float = settings.rank_dropout()
    target_modules: TargetModules = settings.target_modules()
    exclude_modules: tuple[str, ...] | None = settings.exclude_modules()
    modules_to_save: tuple[str, ...] | None = settings.modules_to_save()

    def parameters(self, path: str, module: Module, model: Model, training: Training) -> tuple[Added, ...]:  # noqa: ARG002
        """Return the factors of two low-rank matrices."""
        r, rows, columns = named(self.r, "r"), module.out_features, module.in_features
        shapes = ((rows, r), (r, columns), (rows, r), (r, columns))
        dtype = training.added_dtype
        return tuple(Added(name=name, shape=shape, dtype=dtype) for name, shape in zip(FACTORS, shapes, strict=True))

    def other_operations(self, added: Sequence[ResidentTensor], batch: int) -> OtherOperations:
        """Return two products of factors, their elementwise product, and a token's product with it."""
        rows = {tensor.name.rpartition(".")[0]: tensor for tensor in added if tensor.name.endswith(FACTORS[0])}
        columns = {tensor.name.rpartition(".")[0]: tensor for tensor in added if tensor.name.endswith(FACTORS[1])}
        sizes = ((row.count, int(row.shape[0]) * int(columns[name].shape[1])) for name, row in rows.items())
        return layer.dense_operations(((n, size, (4 * self.r + 2) * size) for n, size in sizes), batch)

    def update(self, bound: BoundModule) -> Tensor:
        """Return the elementwise product of two low-rank matrices."""
        factors = [bound.added[name] for name in FACTORS]
        weight = hada_weight(factors, (factors[0].shape[0], factors[1].shape[1]))
        return layer.drop_rows(weight, self.rank_dropout, weight.dtype)

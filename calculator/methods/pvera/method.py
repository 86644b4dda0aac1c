"""PVeRA, probabilistic vector-based random matrix adaptation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calculator.architecture.dimension import named
from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.autocast import cast_to, reduction_dtype
from calculator.engine.tape import Tensor
from calculator.inputs.settings import setting
from calculator.methods.pvera.facts import FACTS
from calculator.methods.targeted import settings
from calculator.methods.targeted.adapted_linear import called_dropout
from calculator.methods.targeted.method import TargetModules  # noqa: TC001  `declared` evaluates annotations
from calculator.methods.targeted.shared_matrices import SharedMatrices
from calculator.resident.module_spec import Added

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule

#: The names of the trained vectors within a module.
_B, _D = "pvera_lambda_b", "pvera_lambda_d"


@dataclass(frozen=True, slots=True, kw_only=True)
class PVeRA(SharedMatrices):
    """PVeRA: two vectors for each adapted matrix, and one pair of frozen random matrices."""

    name = "pvera"
    facts = FACTS

    r: int = setting(256, label="Rank", help="The rank of the shared matrices.", minimum=1, maximum=65_536, example=256)
    target_modules: TargetModules = settings.target_modules()
    save_projection: bool = settings.save_projection()
    pvera_dropout: float = settings.dropout()
    bias: Literal["none", "all", "pvera_only"] = settings.bias()
    modules_to_save: tuple[str, ...] | None = settings.modules_to_save()

    def parameters(self, path: str, module: Module, model: Model, training: Training) -> tuple[Added, ...]:  # noqa: ARG002
        """Return the vectors λ_b and λ_d. The latter has means and variances."""
        dtype = training.added_dtype
        return (
            Added(name=_B, shape=(module.out_features,), dtype=dtype),
            Added(name=_D, shape=(2 * named(self.r, "r"),), dtype=dtype),
        )

    def shared_shapes(self, rows: int, columns: int) -> dict[str, Shape]:
        """Return the pair of frozen matrices."""
        r = named(self.r, "r")
        return {"pvera_A": (2 * r, columns), "pvera_B": (rows, r)}

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Run peft.tuners.pvera.layer.Linear.forward."""
        dtype = x.dtype
        result = bound.base_layer(x)
        x = ops.cast(x, bound.added[_D].dtype, "input in the vectors' dtype")
        inner = self._inner(bound, x)
        mean, variance = ops.split(inner, [(*inner.shape[:-1], inner.shape[-1] // 2)] * 2)
        del inner
        result = ops.add(result, self._update(bound, mean, variance), "result + update")
        return ops.cast(result, dtype, "output")

    def _inner(self, bound: BoundModule, x: Tensor) -> Tensor:
        vector = bound.added[_D]
        shared = Tensor(x.tape, None, (vector.shape[0], bound.module.in_features), vector.dtype, None)
        x = called_dropout(bound, "pvera_dropout", x, self.pvera_dropout)
        after = products.matmul(x, shared, None, vector.shape[0], "A·x")
        return ops.mul(vector, after, "λ_d · A·x")

    def _update(self, bound: BoundModule, mean: Tensor, variance: Tensor) -> Tensor:
        return ops.mul(bound.added[_B], self._product(bound, mean, variance), "λ_b · B·drawn")

    def _product(self, bound: BoundModule, mean: Tensor, variance: Tensor) -> Tensor:
        width = bound.module.out_features
        shared = Tensor(mean.tape, None, (width, mean.shape[-1]), mean.dtype, None)
        return products.matmul(_sample(mean, variance), shared, None, width, "B·drawn")


def _sample(mean: Tensor, variance: Tensor) -> Tensor:
    """Return mean + noise · exp(variance / 2), or the mean alone in eval mode."""
    if not mean.tape.trains:
        return mean
    half = ops.scale(variance, "variance / 2")
    deviation = ops.unary(cast_to(half, reduction_dtype(half), "variance / 2"), "deviation", saves="result")
    del half
    noise = deviation.tape.new(deviation.shape, deviation.dtype, "noise")
    return ops.add(mean, ops.mul(noise, deviation, "noise · deviation"), "drawn")

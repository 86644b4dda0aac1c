"""PSOFT, orthogonal fine-tuning in the principal subspace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calculator.architecture.dimension import named
from calculator.common.errors import Problem
from calculator.inputs.settings import setting
from calculator.methods.psoft import layer, rotation
from calculator.methods.psoft.facts import FACTS
from calculator.methods.targeted import settings
from calculator.methods.targeted.adapted_linear import AdaptedLinear
from calculator.methods.targeted.method import TargetModules  # noqa: TC001  `declared` evaluates annotations
from calculator.resident.module_spec import Added

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule


@dataclass(frozen=True, slots=True, kw_only=True)
class PSOFT(AdaptedLinear):
    """PSOFT: a rotation of r dimensions for each adapted matrix."""

    name = "psoft"
    facts = FACTS
    adaptable = ("linear",)

    r: int = setting(32, label="Rank", help="How many dimensions are rotated.", minimum=2, maximum=65_536, example=32)
    target_modules: TargetModules = settings.target_modules()
    exclude_modules: tuple[str, ...] | None = settings.exclude_modules()
    psoft_alpha: int = setting(
        32, label="Alpha", help="Scales the update by psoft_alpha / r.", minimum=1, maximum=1_000_000
    )
    psoft_dropout: float = settings.dropout()
    psoft_svd: Literal["full", "lowrank"] = setting(
        "full",
        label="Decomposition",
        help="How singular vectors are found. After full, all right singular vectors of each weight stay in memory.",
    )
    psoft_orth: bool = setting(True, label="Orthogonal", help="Train a rotation instead of an unconstrained matrix.")
    psoft_mag_b: bool = setting(True, label="Scale rows", help="Train a number for each row of the rotation.")
    psoft_mag_a: bool = setting(True, label="Scale columns", help="Train a number for each column of the rotation.")
    use_cayley_neumann: bool = setting(
        False, label="Series", help="Compute the rotation by a Neumann series instead of solving linear equations."
    )
    num_cayley_neumann_terms: int = setting(
        5, label="Terms", help="The number of terms of the series.", minimum=1, maximum=100
    )
    modules_to_save: tuple[str, ...] | None = settings.modules_to_save()

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Sentences on what happens before the first step, and on what is not counted."""
        before = "PSOFT decomposes each adapted weight before the first step. The figures are for steps after that."
        if not self.psoft_orth or self.use_cayley_neumann:
            return (before,)
        return (before, "The workspace of cuSOLVER, which solves PSOFT's linear equations, is not counted.")

    def own_problems(self, model: Model, targets: dict[str, Module]) -> Iterator[Problem]:  # noqa: ARG002
        """Yield more dimensions than a weight has."""
        for path, module in targets.items():
            most = min(module.in_features, module.out_features)
            if module.kind in self.adaptable and self.r > most:
                yield Problem(
                    loc="method.r", msg=f"{path} has {most:,} singular values: use at most that", input=self.r
                )

    def parameters(self, path: str, module: Module, model: Model, training: Training) -> tuple[Added, ...]:  # noqa: ARG002
        """Return the entries of the rotation, its scalings, and the frozen singular vectors in float32."""
        r, dtype, columns = named(self.r, "r"), training.added_dtype, module.in_features
        entries = named(self.r * (self.r - 1) // 2, "r(r-1)/2")
        rows = min(columns, module.out_features) if self.psoft_svd == "full" else r
        vectors = [
            name
            for name, trained in ((rotation.VECTOR_B, self.psoft_mag_b), (rotation.VECTOR_A, self.psoft_mag_a))
            if trained
        ]
        indices = (rotation.ROWS, rotation.COLUMNS) if self.psoft_orth else ()
        # With all singular vectors, A is a view of the first ones.
        first = Added(
            name=layer.A, shape=(rows, columns), dtype="float32", trained=False, buffer=True, view=(r, columns)
        )
        second = Added(name=layer.B, shape=(module.out_features, r), dtype="float32", trained=False, buffer=True)
        return (
            Added(name=rotation.WEIGHT, shape=(entries,) if self.psoft_orth else (r, r), dtype=dtype),
            *(Added(name=name, shape=(r,), dtype=dtype) for name in vectors),
            *(Added(name=name, shape=(entries,), dtype="int64", trained=False, buffer=True) for name in indices),
            first,
            second,
        )

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Return the output of the frozen module plus the update."""
        return layer.forward(self, bound, x)

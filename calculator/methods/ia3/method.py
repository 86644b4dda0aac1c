"""IA³, Infused Adapter by Inhibiting and Amplifying Inner Activations (Liu et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.inputs.settings import setting
from calculator.methods.costs import OtherOperations
from calculator.methods.ia3 import layer
from calculator.methods.ia3.facts import FACTS
from calculator.methods.ia3.targets import DEFAULT_FEEDFORWARD
from calculator.methods.targeted import settings
from calculator.methods.targeted.adapted_linear import AdaptedLinear
from calculator.methods.targeted.method import TargetModules  # noqa: TC001  `declared` evaluates annotations
from calculator.methods.targeted.refusals import names_one_layer
from calculator.resident.module_spec import Added

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule
    from calculator.methods.costs import MergeStep
    from calculator.resident.module_spec import ModuleSpec
    from calculator.resident.tensor import ResidentTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class IA3(AdaptedLinear):
    """IA³: out_features parameters for each adapted matrix, in_features for a feed-forward one."""

    name = "ia3"
    facts = FACTS

    target_modules: TargetModules = settings.target_modules()
    feedforward_modules: tuple[str, ...] | None = setting(
        None,
        label="Feed-forward modules",
        help="Names of the adapted modules whose input is scaled, or null for PEFT's default for the family.",
        example=("down_proj",),
    )
    modules_to_save: tuple[str, ...] | None = settings.modules_to_save()
    exclude_modules: tuple[str, ...] | None = settings.exclude_modules()
    init_ia3_weights: bool = setting(
        True, label="Initialize to ones", help="Start from vectors of ones; memory is the same."
    )

    def own_problems(self, model: Model, targets: dict[str, Module]) -> Iterator[Problem]:  # noqa: ARG002
        """Yield feed-forward modules that PEFT refuses, and names of single layers."""
        names, loc = self.feedforward_modules, "method.feedforward_modules"
        if names is None:
            if model.model_type not in DEFAULT_FEEDFORWARD:
                message = f"PEFT has no default for {model.model_type}: name adapted modules whose input is scaled"
                yield Problem(loc=loc, msg=message, input=None)
            return
        yield from names_one_layer(loc, names)
        named = self.target_modules
        missing = [name for name in names if isinstance(named, tuple) and name not in named]
        if missing:
            message = f"{' and '.join(missing)} must be among target_modules too"
            yield Problem(loc=loc, msg=message, input=list(names))

    def parameters(self, path: str, module: Module, model: Model, training: Training) -> tuple[Added, ...]:
        """Return a vector."""
        feedforward = self._is_feedforward(path, model)
        shape = (1, module.in_features) if feedforward else (module.out_features, 1)
        return (Added(name=layer.VECTOR, shape=shape, dtype=training.added_dtype),)

    def _is_feedforward(self, path: str, model: Model) -> bool:
        """Return whether PEFT treats a module as feed-forward, by the end of its path (IA3Model)."""
        names = self.feedforward_modules
        return path.endswith(DEFAULT_FEEDFORWARD.get(model.model_type, ()) if names is None else names)

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Run the frozen module, and scale its output or its input."""
        return layer.forward(bound, x)

    def is_matmul(self, tensor: ResidentTensor) -> bool:  # noqa: ARG002
        """Return False: vectors are factors of elementwise products."""
        return False

    def other_operations(self, added: Sequence[ResidentTensor], batch: int) -> OtherOperations:  # noqa: ARG002
        """Return one product for each element of a vector."""
        count = sum(tensor.parameters * tensor.count for tensor in added)
        return OtherOperations(formula="added weights", count=count)

    def merge_step(self, module: Module, module_spec: ModuleSpec) -> MergeStep:
        """Return the allocations of multiplying the weight by its vector."""
        return layer.merge_step(module, module_spec)

"""UniLoRA, low-rank adaptation from one vector (Li et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from calculator.architecture.dimension import named
from calculator.inputs.settings import setting
from calculator.methods.targeted import settings
from calculator.methods.targeted.adapted_linear import AdaptedLinear
from calculator.methods.targeted.method import TargetModules  # noqa: TC001  `declared` evaluates annotations
from calculator.methods.unilora import layer
from calculator.methods.unilora.facts import FACTS
from calculator.resident.module_spec import Added
from calculator.resident.tensor import ResidentTensor

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule


@dataclass(frozen=True, slots=True, kw_only=True)
class UniLoRA(AdaptedLinear):
    """UniLoRA: one trained vector. The elements of each factor are scaled copies of its elements."""

    name = "unilora"
    facts = FACTS

    r: int = setting(4, label="Rank", help="The rank of the updates.", minimum=1, maximum=65_536, example=4)
    theta_d_length: int = setting(
        256, label="Length of the vector", help="How many parameters are trained.", minimum=1, maximum=10**9
    )
    target_modules: TargetModules = settings.target_modules()
    unilora_dropout: float = settings.dropout()
    bias: Literal["none", "all", "unilora_only"] = settings.bias()
    modules_to_save: tuple[str, ...] | None = settings.modules_to_save()
    save_indices: bool = setting(
        False,
        label="Save the indices",
        help="Save the random indices and scales of the factors, instead of drawing them again; a step's memory is the "
        "same.",
    )

    @property
    def couples_layers(self) -> bool:
        """True: every layer adds to the vector's gradient."""
        return True

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Sentences on what is not counted."""
        return ("The scratch memory with which CUDA sorts UniLoRA's indices is not counted.",)

    def with_layers(self, model: Model) -> Model:
        """Return the model whose targets share the vector."""
        targets = [path for path, module in model.paths if self.is_target(path, module, model)]
        return replace(model, tied={**model.tied, **{f"{path}.{layer.THETA}": layer.THETA for path in targets}})

    def parameters(self, path: str, module: Module, model: Model, training: Training) -> tuple[Added, ...]:  # noqa: ARG002
        """Return the vector that all targets share, and the indices and scales of both factors, which are buffers."""
        r, length = named(self.r, "r"), named(self.theta_d_length, "theta_d_length")
        first, second = (r, module.in_features), (module.out_features, r)
        return (
            Added(name=layer.THETA, shape=(length,), dtype=training.added_dtype),
            Added(name=layer.INDICES_A, shape=first, dtype="int64", trained=False, buffer=True),
            Added(name=layer.INDICES_B, shape=second, dtype="int64", trained=False, buffer=True),
            Added(name=layer.SCALES_A, shape=first, dtype=training.added_dtype, trained=False, buffer=True),
            Added(name=layer.SCALES_B, shape=second, dtype=training.added_dtype, trained=False, buffer=True),
        )

    def added(self, model: Model, training: Training) -> tuple[ResidentTensor, ...]:  # noqa: ARG002
        """Return the vector."""
        return (
            ResidentTensor(
                name=layer.THETA,
                shape=(named(self.theta_d_length, "theta_d_length"),),
                dtype=training.added_dtype,
                component="adapter_weights",
                parameters=self.theta_d_length,
                trained=True,
                base=False,
            ),
        )

    def saves_frozen(self, tensor: ResidentTensor) -> bool:
        """Return whether the indices and scales are saved."""
        return self.save_indices and not tensor.base

    def saved_name(self, name: str) -> str:
        """Return the name under which PEFT writes a parameter. The vector belongs to no module."""
        return f"base_model.{name}" if name == layer.THETA else AdaptedLinear.saved_name(self, name)

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Return the output of the frozen module plus the update."""
        return layer.forward(bound, x, self.unilora_dropout)
